/* serving.h - an engine with the tiny model, and generations on it, for tests.
 * One thread but for the engine's; no limits; failures end the test. */
#ifndef AG_TESTS_SERVING_H
#define AG_TESTS_SERVING_H

#include <pthread.h>

#include "check.h"
#include "engine/engine.h"
#include "engine/tiny_model.h"

enum { OUT_MAX = 400 };

static tiny_model shared; /* opened by main */

static inline ag_engine_conf conf_of(uint32_t ctx, uint32_t running, uint32_t rows_min)
{
    ag_engine_conf c = AG_ENGINE_CONF_DEFAULT;
    c.threads = 2;
    c.ctx_tokens = ctx;
    c.running_max = running;
    c.step_rows_min = rows_min;
    return c;
}

static inline ag_engine *open_engine(ag_engine_conf conf)
{
    ag_engine *e = NULL;
    ag_err err = {0};
    if (ag_engine_open(&e, &shared.m, &conf, &err) != AG_OK) fail_msg("%s", err.text);
    return e;
}

static int32_t prompt_ids[TINY_CTX];

static inline ag_gen_spec spec_of(uint32_t n_prompt, uint32_t max_tokens, uint64_t seed)
{
    for (int i = 0; i < TINY_CTX; i++) prompt_ids[i] = 'a' + i * 7 % 23;
    ag_gen_spec s = {.prompt = prompt_ids + seed % 50,
                     .n_prompt = n_prompt,
                     .max_tokens = max_tokens,
                     .ignore_eos = true,
                     .top_logprobs = -1,
                     .sampling = AG_SAMPLING_DEFAULT};
    s.sampling.seed = seed;
    return s;
}

static inline ag_gen *start(ag_engine *e, const ag_gen_spec *s)
{
    ag_gen *g = NULL;
    ag_err err = {0};
    if (ag_gen_create(&g, e, s, &err) != AG_OK || ag_gen_submit(g, NULL, &err) != AG_OK) fail_msg("%s", err.text);
    return g;
}

static inline ag_gen_state finish(ag_gen *g, int32_t *ids, uint32_t *n)
{
    static ag_gen_token t[OUT_MAX];
    ag_gen_state state;
    do {
        *n = ag_gen_read(g, 0, t, OUT_MAX, &state);
        if (!ag_gen_ended(state)) sched_yield();
    } while (!ag_gen_ended(state));
    *n = ag_gen_read(g, 0, t, OUT_MAX, &state);
    for (uint32_t i = 0; i < *n; i++) ids[i] = t[i].id;
    return state;
}

#endif
