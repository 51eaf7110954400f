/* openai.h - OpenAI's form of requests, answers and errors; its own besides: models, and requests in the queue.
 * Owns, threads, limits, errors: those of dialect.h. */
#ifndef AG_OPENAI_H
#define AG_OPENAI_H

#include "gateway/dialects/dialect.h"

extern const ag_dialect ag_openai, ag_openai_completions; /* they differ in what an answer's id begins with */
extern const ag_dialect ag_openai_embeddings;              /* whose answers are never streamed */

/* Before the first request, and before other threads make JSON: jansson takes its memory from base/mem.h from then
 * on. */
void ag_openai_init(void);
void ag_json_limit(const ag_json_limits *l); /* likewise */
int ag_openai_parse(ag_request *r, const char *body, size_t n, ag_err *err);
void ag_openai_error(ag_buf *out, const ag_err *err, ag_str request_id); /* {"error": {…}} */

/* Where a request stands, as GET /v1/queue/{id} and the events of a waiting stream tell it. */
typedef struct ag_queue_view {
    const char *state;       /* "waiting", "running", "finished" */
    uint32_t band, position; /* position 0: it does not wait */
    uint64_t waited_us, wait_us; /* wait_us 0: unknown */
} ag_queue_view;
void ag_openai_queue(ag_buf *out, ag_str id, const ag_queue_view *v);
void ag_openai_queue_cancelled(ag_buf *out, ag_str id, bool cancelled);
/* An event "queue", whose data is a chunk without choices, since SDKs take each event for a chunk. */
void ag_openai_queue_event(ag_buf *out, const ag_reply *r, const ag_queue_view *v);
/* The body of PATCH /v1/queue/{id}. */
int ag_openai_parse_move(const char *body, size_t n, uint32_t *priority, ag_err *err);

typedef struct ag_model_card {
    ag_str id;
    int64_t created;
    uint32_t ctx;
} ag_model_card;
void ag_openai_model(ag_buf *out, const ag_model_card *card);
void ag_openai_models(ag_buf *out, const ag_model_card *cards, uint32_t n);

#endif
