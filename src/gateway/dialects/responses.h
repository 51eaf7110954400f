/* responses.h - OpenAI's responses (POST /v1/responses): their items, the answer as an object, its events.
 * A conversation is a list of items: messages, reasoning, calls of functions and what these gave. What a caller sends
 * is brought into the form in which answers have them, so that what is kept, listed and gone on from is all of one
 * form; chat templates get it as OpenAI's messages.
 * Owns    : ag_response its buffers; init/fini by the holder. The rest as dialect.h.
 * Threads : one at a time per request or answer.
 * Limits  : those of request.h; AG_RESPONSE_ITEMS_MAX items of a conversation, AG_RESPONSE_PARTS_MAX parts of their
 *           texts: so many that what is kept stays within AG_JSON_ITEMS_MAX.
 * Errors  : those of dialect.h; AG_E_PREVIOUS_NOT_FOUND: what came before has no answer to go on from. */
#ifndef AG_RESPONSES_H
#define AG_RESPONSES_H

#include "gateway/dialects/dialect.h"

#define AG_RESPONSE_ITEMS_MAX 16384
#define AG_RESPONSE_PARTS_MAX 65536
#define AG_RESPONSE_BYTES_MAX (256u << 20)

extern const ag_dialect ag_openai_responses;

int ag_responses_parse(ag_request *r, const char *body, size_t n, ag_err *err);

#define AG_RESPONSE_STATUSES(X)                                                                                     \
    X(QUEUED, "queued") X(IN_PROGRESS, "in_progress") X(COMPLETED, "completed") X(INCOMPLETE, "incomplete")          \
    X(FAILED, "failed") X(CANCELLED, "cancelled")
typedef enum ag_response_status {
#define AG_RESPONSE_STATUS_ROW(name, text) AG_RESPONSE_##name,
    AG_RESPONSE_STATUSES(AG_RESPONSE_STATUS_ROW)
#undef AG_RESPONSE_STATUS_ROW
} ag_response_status;

/* An answer as it grows. */
struct ag_response {
    const ag_request *q;  /* what it answers */
    ag_response_status status;
    bool timed_out, begun, thought; /* begun: events have told so; thought: there is reasoning in it */
    ag_err err;           /* why it failed */
    uint64_t sequence;    /* of the next event */
    uint32_t n_items;     /* begun so far */
    bool in_item;         /* the last of them has not ended, */
    ag_part_kind kind;    /* and is of this kind, */
    ag_buf text;          /* with this text so far */
    ag_buf items;         /* those that have ended, JSON */
    ag_buf whole;         /* all of it, JSON, once it is sealed */
    uint64_t reasoning_tokens;
};

void ag_response_init(ag_response *a, const ag_request *q); /* q may be filled later */
void ag_response_fini(ag_response *a);
/* It ends in an error: cancelled when its caller wanted that, else failed. */
void ag_response_fail(const ag_reply *r, const ag_err *err);
/* Writes response->whole, once: what is kept of it, and told at its end. */
void ag_response_seal(const ag_reply *r, const ag_usage *usage);
/* As it stands now: {"object": "response", …}. */
void ag_response_write(ag_buf *out, const ag_reply *r, const ag_usage *usage);

/* The rest of parsing, behind ag_dialect.parse: the conversation, in r->items and as the template takes it. id is the
 * new response's, which its items' ids are made of; previous_body and previous_items (n 0: none) are what was kept of
 * the response that it goes on from. */
int ag_responses_converse(ag_request *r, ag_str id, ag_str previous_body, ag_str previous_items, ag_err *err);

/* The conversation, to be kept. */
int ag_responses_items_write(ag_buf *out, const ag_request *r, ag_err *err);

/* What was kept, as it is told: where `status` is not NULL that is its status, though it was kept unfinished; "failed"
 * is one that nobody works on any more. background: whether it was asked for so. */
int ag_responses_retell(ag_buf *out, ag_str body, const char *status, bool *background, ag_err *err);

typedef struct ag_items_ask {
    char after[80]; /* "": from the beginning */
    uint32_t limit;
    bool ascending;
} ag_items_ask;
/* {"object": "list", …} of a conversation that was kept. AG_E_PARAM: there is no item `after`. */
int ag_responses_list(ag_buf *out, ag_str items, const ag_items_ask *ask, ag_err *err);
void ag_responses_deleted(ag_buf *out, ag_str id);

#endif
