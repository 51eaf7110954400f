/* sampler.h - from logits to a token: biases, penalties, temperature, filters, one draw.
 * Owns    : scratch memory, one ag_sampler per worker thread.
 * Threads : a sampler by one thread at a time; different samplers at once.
 * Limits  : the vocabulary given at open.
 * Errors  : open: AG_E_NOMEM. sample and score: AG_E_INTERNAL when a logit is no number or infinite, or none is finite
 *           (a damaged model's weights); a logit of minus infinity is a token that never comes. sample:
 *           AG_E_UNSUPPORTED when every token that has a finite logit is banned, or no JSON.
 * Order   : bias and penalties on the logits, those away that are banned or no JSON; temperature; then top_k, top_p,
 *           min_p, typical_p, each over what the one before it left, renormalised (as Hugging Face and vLLM order
 *           them); one draw. Equal logits rank by id. Log probabilities are those of the logits as the model gave them.
 * Chance  : the random number is a function of (seed, choice, position) alone, so that batching, preemption and
 *           failover never change a seeded answer. Source: SplitMix64 (Steele, Lea, Flood 2014) over the three
 *           numbers. */
#ifndef AG_SAMPLER_H
#define AG_SAMPLER_H

#include "engine/cpu/cpu.h"
#include "engine/gen.h"
#include "engine/json.h"

typedef struct ag_sampler ag_sampler;

typedef struct ag_sample_in {
    const float *logits;          /* vocab of them, not changed */
    const ag_sampling *sampling;
    uint64_t position;            /* index of the token in the answer */
    const ag_logit_bias *bias;
    uint32_t n_bias;
    const uint16_t *counts;       /* per token: how often it is in the answer, or NULL where no penalty is set */
    const unsigned char *in_prompt; /* a bit per token, with counts */
    const int32_t *banned;        /* tokens that may not be chosen now (end tokens before min_tokens) */
    uint32_t n_banned;
    const ag_json_vocab *json;    /* the answer is one JSON object; NULL: it is what it is */
    const ag_json *json_at;       /* what it has of it */
    uint32_t left;                /* tokens to the answer's end, with json */
    int32_t top_logprobs;         /* -1: no log probabilities */
} ag_sample_in;

typedef struct ag_sample {
    int32_t id;
    float logprob;                /* NAN when not asked for */
    uint32_t n_top;
    ag_gen_top top[AG_GEN_TOP_MAX];
} ag_sample;

int ag_sampler_open(ag_sampler **out, const ag_cpu_ops *ops, uint32_t vocab, ag_err *err);
void ag_sampler_close(ag_sampler *s);
int ag_sampler_sample(ag_sampler *s, const ag_sample_in *in, ag_sample *out);
/* Log probability of one given token, and the best `top` of them (prompt tokens). */
int ag_sampler_score(ag_sampler *s, const float *logits, int32_t id, int32_t top, ag_sample *out);
/* In [0,1), from the three numbers alone. */
double ag_sampler_uniform(uint64_t seed, uint32_t choice, uint64_t position);
bool ag_sampling_has_penalties(const ag_sampling *s);

#endif
