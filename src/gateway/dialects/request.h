/* request.h - what a caller wants, whatever dialect it was said in.
 * Owns    : the parsed JSON and an arena; every string and array in it points into these. init/fini by the holder.
 * Threads : one at a time.
 * Limits  : AG_JSON_DEPTH_MAX, AG_JSON_ITEMS_MAX, AG_REQUEST_PROMPTS_MAX, those of gen.h, and those of fields.def.
 * Errors  : ag_request_check: AG_E_PARAM (a token id that the vocabulary does not have). */
#ifndef AG_REQUEST_H
#define AG_REQUEST_H

#include <jansson.h>

#include "base/arena.h"
#include "base/err.h"
#include "engine/gen.h"
#include "queue/queue.h"

#define AG_JSON_DEPTH_MAX 100
/* Values and keys of one body: a prompt of a million token ids is one, and each costs jansson about 50 bytes. */
#define AG_JSON_ITEMS_MAX (1u << 20)
#define AG_REQUEST_PROMPTS_MAX 128
#define AG_REQUEST_UNSET UINT32_MAX
#define AG_REQUEST_TIMEOUT_MAX_MS 86400000

typedef enum ag_request_kind { AG_REQUEST_COMPLETION = 1, AG_REQUEST_CHAT = 2 } ag_request_kind;

typedef struct ag_prompt {
    ag_str text;        /* when ids is NULL */
    const int32_t *ids;
    uint32_t n_ids;
} ag_prompt;

typedef struct ag_request {
    ag_request_kind kind;
    json_t *root;       /* the body; strings below point into it */
    ag_arena mem;
    ag_str model;       /* p NULL: not named */
    ag_prompt *prompts; /* completions */
    uint32_t n_prompts;
    json_t *vars;       /* chat: the template's variables */
    bool stream, include_usage, position_events, echo, ignore_eos, add_special, parse_special, add_generation_prompt;
    bool no_tools;      /* tool_choice "none" */
    bool seed_set;
    uint32_t n, min_tokens;
    uint32_t max_tokens, max_completion_tokens; /* AG_REQUEST_UNSET: not given; after parsing only max_tokens counts */
    uint32_t priority, timeout_ms;              /* AG_REQUEST_UNSET: not given */
    int32_t top_logprobs;                       /* as ag_gen_spec */
    ag_sampling sampling;
    ag_str stops[AG_GEN_STOPS_MAX];
    uint32_t n_stops;
    int32_t stop_tokens[AG_GEN_STOPS_MAX];
    uint32_t n_stop_tokens;
    ag_logit_bias *bias;
    uint32_t n_bias;
} ag_request;

void ag_request_init(ag_request *r, ag_request_kind kind);
void ag_request_fini(ag_request *r);

/* Every token id that the caller named is one of `vocab`. */
int ag_request_check(const ag_request *r, uint32_t vocab, ag_err *err);

/* As ag_err_set, and the field at fault. */
int ag_request_fail(ag_err *err, int code, const char *param, const char *fmt, ...) AG_PRINTF(4, 5);

#endif
