/* openai.h - OpenAI's form of requests, answers and errors.
 * Owns    : nothing; requests are filled for the caller, answers are appended to the caller's buffer.
 * Threads : any; one at a time per request or buffer.
 * Limits  : those of request.h; a buffer's ceiling shows in its `failed`.
 * Errors  : parsing: AG_E_JSON, AG_E_UTF8, AG_E_PARAM, AG_E_PARAM_MISSING, AG_E_UNSUPPORTED, AG_E_LIMIT, AG_E_NOMEM,
 *           each with a sentence and, where a field is at fault, its name in err->param. */
#ifndef AG_OPENAI_H
#define AG_OPENAI_H

#include "base/buf.h"
#include "gateway/dialects/request.h"

/* Before the first request, and before other threads make JSON: jansson takes its memory from base/mem.h from then on. */
void ag_openai_init(void);
/* Fills *r, which ag_request_init has prepared; fini is the caller's on success and failure alike. */
int ag_openai_parse(ag_request *r, const char *body, size_t n, ag_err *err);

/* What all parts of one answer have in common. */
typedef struct ag_reply {
    ag_request_kind kind;
    ag_str id; /* "cmpl-…", "chatcmpl-…" */
    int64_t created;
    ag_str model;
    bool usage_null; /* stream with include_usage: every other chunk says "usage": null */
} ag_reply;

typedef struct ag_usage {
    uint64_t prompt_tokens, completion_tokens, cached_tokens;
} ag_usage;

/* Tokens whose log probabilities are told: those of the prompt (echo), then those of the answer. */
typedef struct ag_reply_logprobs {
    const ag_gen_token *part[2];
    uint32_t n[2];
    ag_str (*piece)(const void *arg, int32_t id, bool special);
    const void *arg;
    uint64_t offset; /* in characters, of the first token within the text that the caller sees; moved on */
} ag_reply_logprobs;

typedef struct ag_reply_end {
    const char *finish;     /* finish_reason: "stop", "length" */
    const char *stopped_by; /* what no finish_reason of OpenAI's tells: "timeout"; NULL: nothing */
} ag_reply_end;

/* A whole answer: begin, the choices in order, end. logprobs NULL: none were asked for. */
void ag_openai_begin(ag_buf *out, const ag_reply *r);
void ag_openai_choice(ag_buf *out, const ag_reply *r, uint32_t index, ag_str text, ag_reply_logprobs *lp,
                      const ag_reply_end *end);
void ag_openai_end(ag_buf *out, const ag_usage *usage);

/* A streamed answer, each call one event. The first chunk of a chat choice is its role. end NULL: it goes on. */
void ag_openai_role_chunk(ag_buf *out, const ag_reply *r, uint32_t index);
void ag_openai_chunk(ag_buf *out, const ag_reply *r, uint32_t index, ag_str text, ag_reply_logprobs *lp,
                     const ag_reply_end *end);
void ag_openai_usage_chunk(ag_buf *out, const ag_reply *r, const ag_usage *usage);
void ag_openai_done(ag_buf *out);

/* {"error": {…}}; request_id.n 0: left out. */
void ag_openai_error(ag_buf *out, const ag_err *err, ag_str request_id);
void ag_openai_error_event(ag_buf *out, const ag_err *err, ag_str request_id);

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
