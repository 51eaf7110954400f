/* Rotary frequencies: plain, linear, YaRN (Peng et al. 2023, "YaRN: Efficient Context Window Extension"), Llama 3's
 * frequency factors and Phi 3's LongRoPE, which come as tensors of the file. */
#include <math.h>

#include "model/arch/arch.h"

int32_t ag_arch_rope_plain(ag_graph *g, uint32_t n_rot, bool interleaved, float base, float factor)
{
    double *f = ag_arena_array(&g->mem, n_rot / 2 + 1, sizeof *f);
    if (f)
        for (uint32_t i = 0; i < n_rot / 2; i++) f[i] = pow(base, -2.0 * i / n_rot) / factor;
    return ag_graph_rope_add(g, n_rot, interleaved, 1, f);
}

/* The dimension whose wave turns `turns` times over the original context. */
static double yarn_dim(uint32_t n_rot, double ctx, double turns, double base)
{
    return n_rot * log(ctx / (turns * 2 * M_PI)) / (2 * log(base));
}

static float yarn_apply(double *f, const ag_hparams *hp)
{
    double low = floor(yarn_dim(hp->n_rot, hp->ctx_orig, hp->yarn_beta_fast, hp->rope_base));
    double high = ceil(yarn_dim(hp->n_rot, hp->ctx_orig, hp->yarn_beta_slow, hp->rope_base));
    low = fmax(0, low);
    high = fmin(hp->n_rot - 1, high);
    for (uint32_t i = 0; i < hp->n_rot / 2; i++) {
        double ramp = (i - low) / fmax(0.001, high - low);
        double keep = (1 - fmin(1, fmax(0, ramp))) * hp->yarn_ext_factor; /* 1: as trained, 0: interpolated */
        f[i] = f[i] / hp->scaling_factor * (1 - keep) + f[i] * keep;
    }
    double m = hp->attn_factor;
    if (hp->yarn_ext_factor != 0 && hp->scaling_factor > 1) m *= 1 + 0.1 * log(hp->scaling_factor);
    return (float)m;
}

int32_t ag_arch_rope(ag_graph *g, const ag_hparams *hp, bool interleaved)
{
    uint32_t half = hp->n_rot / 2;
    ag_graph_layer(g, -1);
    double *f = ag_arena_array(&g->mem, half + 1, sizeof *f);
    if (f == NULL) return ag_graph_rope_add(g, hp->n_rot, interleaved, 1, NULL);
    for (uint32_t i = 0; i < half; i++) f[i] = pow(hp->rope_base, -2.0 * i / hp->n_rot);
    const float *factors = NULL;
    float mscale = hp->attn_factor;
    if (ag_graph_has(g, "rope_freqs.weight")) {
        factors = ag_graph_vector(g, "rope_freqs.weight", half);
    } else if (ag_graph_has(g, "rope_factors_long.weight") && ag_graph_has(g, "rope_factors_short.weight")) {
        /* By what the model is made for, not by what this cache holds: the same tokens give the same result
         * anywhere. */
        factors = ag_graph_vector(
            g, hp->ctx_train > hp->ctx_orig ? "rope_factors_long.weight" : "rope_factors_short.weight", half);
    }
    if (factors)
        for (uint32_t i = 0; i < half; i++) {
            if (!(factors[i] > 0))
                ag_graph_fail(g, AG_E_FILE, "%s: a RoPE frequency factor is not above 0", ag_gguf_path(g->gguf));
            f[i] /= factors[i];
        }
    if (hp->scaling == AG_ROPE_YARN) {
        mscale = yarn_apply(f, hp);
    } else if (hp->scaling == AG_ROPE_LINEAR) {
        for (uint32_t i = 0; i < half; i++) f[i] /= hp->scaling_factor;
    }
    return ag_graph_rope_add(g, hp->n_rot, interleaved, mscale, f);
}
