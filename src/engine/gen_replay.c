/* gen_replay.c - a generation that has ended, made of what was read of another. No engine works on it. */
#include <math.h>

#include "base/mem.h"
#include "engine/engine_inner.h"

int ag_gen_replay_begin(ag_gen **out, ag_engine *e, const ag_gen_replay_spec *s)
{
    AG_ASSERT(s->n_shown <= AG_GEN_SHOWN_MAX && s->top_logprobs <= AG_GEN_TOP_MAX);
    ag_gen *g = ag_mem_zalloc(sizeof *g);
    if (g == NULL) return AG_E_NOMEM;
    g->magic = AG_GEN_MAGIC;
    atomic_init(&g->refs, 1);
    g->engine = e;
    g->seq.n_prompt = s->n_prompt;
    g->seq.max_tokens = s->n_tokens;
    g->top_logprobs = s->top_logprobs;
    if (s->n_shown) memcpy(g->shown, s->shown, s->n_shown * sizeof *g->shown);
    g->n_shown = s->n_shown;
    if (!ag__gen_room(g, s->n_prompt, s->embed)) {
        ag_gen_put(g);
        return AG_E_NOMEM;
    }
    *out = g;
    return AG_OK;
}

int ag_gen_replay_token(ag_gen *g, const ag_gen_token *t)
{
    AG_ASSERT(t->n_top <= (uint32_t)AG_MAX(g->top_logprobs, 0));
    return ag__gen_append(g, t);
}

void ag_gen_replay_prompt(ag_gen *g, uint32_t i, const ag_gen_token *t)
{
    size_t width = (size_t)AG_MAX(g->top_logprobs, 0);
    AG_ASSERT(i < g->seq.n_prompt && t->n_top <= width);
    ag_gen_top *tops = g->prompt_tops + i * width;
    if (t->n_top) memcpy(tops, t->top, t->n_top * sizeof *tops);
    g->prompt_tokens[i] = *t;
    g->prompt_tokens[i].top = tops;
}

float *ag_gen_replay_embedding(ag_gen *g) { return g->embedding; }

void ag_gen_replay_end(ag_gen *g, ag_gen_state state, uint64_t text_bytes, uint32_t reused)
{
    AG_ASSERT(state == AG_GEN_STOPPED || state == AG_GEN_LENGTH);
    atomic_store(&g->text_bytes, text_bytes);
    atomic_store(&g->reused, reused);
    atomic_store(&g->state, state);
}
