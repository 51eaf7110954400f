/* request.h - what a caller wants, whatever dialect it was said in.
 * Owns    : the parsed JSON and an arena; every string and array in it points into these. init/fini by the holder.
 * Threads : one at a time.
 * Limits  : ag_json_limits (the process's, set before the first request), AG_REQUEST_PROMPTS_MAX,
 *           AG_REQUEST_INPUTS_MAX, those of gen.h and of fields.def.
 * Errors  : ag_request_check: AG_E_PARAM (a token id that the vocabulary does not have). */
#ifndef AG_REQUEST_H
#define AG_REQUEST_H

#include <jansson.h>

#include "base/arena.h"
#include "base/err.h"
#include "engine/gen.h"
#include "queue/queue.h"

/* Of a body. Values and keys: a prompt of a million token ids is one, and each costs jansson about 50 bytes. */
typedef struct ag_json_limits {
    uint32_t depth, items;
    uint64_t string_bytes; /* as it is written */
} ag_json_limits;
#define AG_JSON_LIMITS_DEFAULT {.depth = 100, .items = 1u << 20, .string_bytes = 16u << 20}
#define AG_REQUEST_PROMPTS_MAX 128
#define AG_REQUEST_INPUTS_MAX 2048 /* of embeddings */
#define AG_REQUEST_DIMENSIONS_MAX 131072
#define AG_REQUEST_UNSET UINT32_MAX
#define AG_REQUEST_TIMEOUT_MAX_MS 86400000

typedef enum ag_request_kind { /* a bit each, as fields.def tells whose a field is */
    AG_REQUEST_COMPLETION = 1, AG_REQUEST_CHAT = 2, AG_REQUEST_TOKENIZE = 4, AG_REQUEST_DETOKENIZE = 8,
    AG_REQUEST_MESSAGES = 16, AG_REQUEST_COUNT = 32, /* Anthropic's messages, and their count_tokens */
    AG_REQUEST_EMBEDDINGS = 64,
    AG_REQUEST_INFER = 128, /* KServe's: a completion, once it is parsed */
    AG_REQUEST_RESPONSE = 256
} ag_request_kind;
/* Whether it is answered by generations; else by what its preparation gave. */
static inline bool ag_request_generates(int kind)
{
    return (kind & (AG_REQUEST_COMPLETION | AG_REQUEST_CHAT | AG_REQUEST_MESSAGES | AG_REQUEST_EMBEDDINGS |
                    AG_REQUEST_INFER | AG_REQUEST_RESPONSE)) != 0;
}

/* What a caller says of the response cache. */
#define AG_REQUEST_TAGS_MAX 4
#define AG_REQUEST_TAG_BYTES_MAX 64
#define AG_REQUEST_TTL_MAX_S 2592000 /* 30 days */
typedef enum ag_caching_mode { AG_CACHING_UNSAID, AG_CACHING_USE, AG_CACHING_REFRESH, AG_CACHING_OFF } ag_caching_mode;
typedef struct ag_caching_ask {
    ag_caching_mode mode;
    uint32_t ttl_s; /* 0: the server's */
    ag_str tags[AG_REQUEST_TAGS_MAX];
    uint32_t n_tags;
} ag_caching_ask;

typedef struct ag_prompt {
    ag_str text;        /* when ids is NULL */
    const int32_t *ids;
    uint32_t n_ids;
} ag_prompt;

/* What of a request's form its answer takes over, and how large a message may be: gRPC's and KServe's. */
typedef struct ag_wire {
    size_t message_max;
    bool gzip;  /* messages may be packed */
    bool raw;   /* tensors are in raw contents */
    ag_str id;  /* the caller's own, given back; p NULL: none */
} ag_wire;

typedef struct ag_request {
    ag_request_kind kind;
    ag_wire wire;
    json_t *root;       /* the body; strings below point into it */
    ag_arena mem;
    ag_str model;       /* p NULL: not named */
    bool strict;        /* set before parsing: a field without a row is an error */
    bool ignored_cut;
    char ignored[256];  /* fields that no row knows, for a header: "a, b, ..." */
    ag_prompt *prompts; /* completions, and what is to be embedded, tokenized or put together */
    uint32_t n_prompts;
    json_t *vars;       /* chat: the template's variables */
    ag_str prefill;     /* chat: what the answer begins with, said by the caller and not repeated */
    bool stream, include_usage, position_events, echo, ignore_eos, add_special, parse_special, add_generation_prompt;
    bool with_pieces, token_strs;
    bool no_tools;      /* tool_choice "none" */
    bool parallel_calls;
    bool any_tool;      /* tool_choice asks for a call, of whichever */
    ag_str forced_tool; /* the one that is to be called; p NULL: none is named */
    bool json;          /* response_format, text.format json_object */
    bool base64;        /* embeddings: encoding_format */
    uint32_t dimensions; /* of embeddings; AG_REQUEST_UNSET: not given */
    const json_t *tools; /* that may be called, in OpenAI's form; NULL: none */
    bool store, background; /* responses: it is kept; it goes on without its client */
    ag_str previous;    /* responses: the one that the conversation goes on from; p NULL: none */
    json_t *items;      /* responses: the conversation, in their form */
    bool seed_set;
    uint32_t n, min_tokens;
    uint32_t max_tokens, max_completion_tokens; /* AG_REQUEST_UNSET: not given; after parsing only max_tokens counts */
    uint32_t priority, timeout_ms;              /* AG_REQUEST_UNSET: not given */
    ag_caching_ask cache;
    int32_t top_logprobs;                       /* as ag_gen_spec */
    ag_sampling sampling;
    ag_str stops[AG_GEN_STOPS_MAX];
    uint32_t n_stops;
    int32_t stop_tokens[AG_GEN_STOPS_MAX];
    uint32_t n_stop_tokens;
    ag_logit_bias *bias;
    uint32_t n_bias;
} ag_request;

/* A conversation, in whichever dialect, has no prompts of its own, and becomes one. */
static inline bool ag_request_is_chat(const ag_request *r) { return r->n_prompts == 0; }
static inline uint32_t ag_request_prompts(const ag_request *r) { return AG_MAX(r->n_prompts, 1u); }
/* Whether the answer is a call, whatever the model thinks. */
static inline bool ag_request_calls(const ag_request *r) { return r->any_tool || r->forced_tool.p; }

void ag_request_init(ag_request *r, ag_request_kind kind);
void ag_request_fini(ag_request *r);

/* Every token id that the caller named is one of `vocab`. */
int ag_request_check(const ag_request *r, uint32_t vocab, ag_err *err);

/* The name of the field that max_tokens comes from. */
const char *ag_request_length_field(const ag_request *r);

/* As ag_err_set, and the field at fault. */
int ag_request_fail(ag_err *err, int code, const char *param, const char *fmt, ...) AG_PRINTF(4, 5);

#endif
