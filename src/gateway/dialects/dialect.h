/* dialect.h - what the gateway asks of a dialect: bodies taken apart, answers, events and errors put together. A row of
 * routes.def or grpc.def says which one is spoken; whoever calls these functions does not know.
 * Owns    : nothing; requests are filled for the caller, answers are appended to the caller's buffer.
 * Threads : any; one at a time per request or buffer.
 * Limits  : those of request.h; a buffer's ceiling shows in its `failed`.
 * Errors  : parse: AG_E_JSON, AG_E_UTF8, AG_E_PARAM, AG_E_PARAM_MISSING, AG_E_UNSUPPORTED, AG_E_LIMIT, AG_E_NOMEM, each
 *           with a sentence and, where a field is at fault, its name in err->param. */
#ifndef AG_DIALECT_H
#define AG_DIALECT_H

#include "base/buf.h"
#include "gateway/dialects/parts.h"
#include "gateway/dialects/request.h"

typedef struct ag_response ag_response;

/* What all parts of one answer have in common. */
typedef struct ag_reply {
    ag_request_kind kind;
    ag_str id;
    int64_t created;
    ag_str model;
    bool with_usage; /* a stream that tells the usage at its end (OpenAI's include_usage) */
    bool base64;     /* how embeddings are written */
    ag_response *response; /* what grows of a response (responses.h); NULL: it is something else */
    uint32_t n_choices;
    ag_wire wire;
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

typedef enum ag_end_reason { AG_END_STOP, AG_END_LENGTH, AG_END_CALLS } ag_end_reason;
typedef struct ag_reply_end {
    ag_end_reason reason;
    bool timed_out;  /* by the request's own deadline, which no client's enum has a word for */
    ag_str stop;     /* the string of the request's that ended it; p NULL: none did */
} ag_reply_end;

/* Where a streamed choice is. */
typedef struct ag_place {
    uint32_t index;
    uint32_t calls;     /* told so far */
    uint32_t blocks;    /* Anthropic's: begun so far */
    bool in_block;      /* the last of them has not ended, */
    ag_part_kind block; /* and is of this kind */
} ag_place;

typedef struct ag_tokens_reply { /* what was prepared, where that is the answer */
    const int32_t *ids;
    uint32_t n, ctx;
    ag_str text; /* of ids that are to become text */
    ag_str (*piece)(const void *arg, int32_t id, bool special);
    const void *arg;
} ag_tokens_reply;

#define AG_TYPE_JSON "application/json"
#define AG_TYPE_EVENTS "text/event-stream; charset=utf-8"
#define AG_TYPE_GRPC "application/grpc"
/* What is left of limits, in OpenAI's headers. */
#define AG_RATES                                                                                                    \
    {"x-ratelimit-limit-requests", "x-ratelimit-remaining-requests", "x-ratelimit-reset-requests",                   \
     "x-ratelimit-limit-tokens", "x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens"}
/* What stands for a probability of zero, which in JSON has no word for minus infinity. */
#define AG_LOGPROB_FLOOR -9999.0f

typedef struct ag_dialect {
    const char *reply_id;  /* what an answer's id begins with, */
    const char *call_id;   /* and a call's */
    const char *id_header; /* the request's id under one more name; NULL: none */
    const char *rates[6];  /* headers that tell of requests, then of tokens: the limit, what is left, when it is whole
                            * again. NULL: not told */
    bool reset_is_moment;  /* the latter as a date, not as a duration */
    const char *type, *stream_type; /* of answers: content types */
    bool grpc;             /* how it went is told in trailers; error and break_off write nothing */

    /* Fills *r, which ag_request_init has prepared; fini is the caller's on success and failure alike. */
    int (*parse)(ag_request *r, const char *body, size_t n, ag_err *err);

    /* A whole answer: begin, the choices in order, end. logprobs NULL: none were asked for. */
    void (*begin)(ag_buf *out, const ag_reply *r);
    void (*choice)(ag_buf *out, const ag_reply *r, uint32_t index, const ag_part *parts, uint32_t n,
                   ag_reply_logprobs *lp, const ag_reply_end *end);
    void (*end)(ag_buf *out, const ag_reply *r, const ag_usage *usage);

    /* in place of choice */
    void (*embedding)(ag_buf *out, const ag_reply *r, uint32_t index, const float *v, uint32_t n);

    /* A streamed answer: open for each choice, chunks of each, the last with its end, close for all of them. part NULL:
     * it has nothing to say but its end, or its tokens' log probabilities. */
    void (*open)(ag_buf *out, const ag_reply *r, ag_place *at, const ag_usage *usage);
    void (*chunk)(ag_buf *out, const ag_reply *r, ag_place *at, const ag_part *part, ag_reply_logprobs *lp,
                  const ag_reply_end *end, const ag_usage *usage);
    void (*close)(ag_buf *out, const ag_reply *r, const ag_usage *usage);

    void (*tokens)(ag_buf *out, const ag_request *q, const ag_tokens_reply *t);

    void (*error)(ag_buf *out, const ag_err *err, ag_str request_id); /* request_id.n 0: left out */
    /* The last event of a stream that broke off. */
    void (*break_off)(ag_buf *out, const ag_reply *r, const ag_err *err, ag_str request_id);
} ag_dialect;

#endif
