/* Gemma 3 (text): embeddings scaled by sqrt(width), norms before and after each half, norms on the heads of q and k,
 * GeGLU, five layers with a window and a RoPE base of their own between each that sees everything. */
#include <math.h>

#include "model/arch/arch.h"

/* The period of layers that see everything: a number, or an array with a bool for each layer (true: it has a
 * window). */
static int read_pattern(ag_hparams *hp, const ag_gguf *g, ag_err *err)
{
    const char *key = "gemma3.attention.sliding_window_pattern";
    const ag_gguf_value *v = ag_gguf_value_find(g, key);
    if (v == NULL || v->type != AG_GGUF_ARRAY) return ag_gguf_u32(g, key, false, &hp->window_every, err);
    if (v->item != AG_GGUF_BOOL || v->n < hp->layers)
        return ag_err_set(err, AG_E_FILE, "%s: key \"%s\" should be a number or %u bools", ag_gguf_path(g), key,
                          hp->layers);
    uint32_t every = 0;
    for (uint32_t l = 0; l < hp->layers && every == 0; l++)
        if (!ag_gguf_int_at(v, l)) every = l + 1;
    for (uint32_t l = 0; l < hp->layers; l++)
        if ((ag_gguf_int_at(v, l) != 0) != (every == 0 || (l + 1) % every != 0))
            return ag_err_set(err, AG_E_UNSUPPORTED, "%s: key \"%s\" has no period, which is not supported",
                              ag_gguf_path(g), key);
    hp->window_every = every;
    return AG_OK;
}

static int keys(ag_hparams *hp, const ag_gguf *g, ag_err *err)
{
    hp->window_every = 6;
    hp->embed_scale = sqrtf((float)hp->width);
    int rc = read_pattern(hp, g, err);
    if (rc || (rc = ag_arch_f32(g, hp, "final_logit_softcapping", false, &hp->logit_softcap, err)) ||
        (rc = ag_arch_f32(g, hp, "rope.freq_base_swa", false, &hp->rope_base_local, err)))
        return rc;
    if (!(hp->rope_base_local > 0))
        return ag_err_set(err, AG_E_FILE, "%s: the local RoPE base must be above 0", ag_gguf_path(g));
    /* The 27B model divides by its width per head instead of the head's length. */
    if (hp->layers == 62) hp->attn_scale = 1.0f / sqrtf((float)hp->width / (float)hp->heads);
    return AG_OK;
}

static void build(ag_graph *g, const ag_hparams *hp)
{
    int32_t rope_all = ag_arch_rope(g, hp, false);
    int32_t rope_local = ag_arch_rope_plain(g, hp->n_rot, false, hp->rope_base_local, 1);
    ag_vid x = ag_graph_scale(g, ag_graph_embed(g, "token_embd", hp->width, hp->vocab), hp->embed_scale);
    for (uint32_t l = 0; l < hp->layers; l++) {
        ag_graph_layer(g, (int32_t)l);
        bool local = ag_arch_layer_has_window(hp, l);
        int32_t rope = local ? rope_local : rope_all;
        ag_qkv h = ag_arch_qkv(g, hp, ag_graph_norm(g, x, "attn_norm", hp->eps));
        h.q = ag_graph_head_norm(g, h.q, "attn_q_norm", hp->heads, hp->head_dim, hp->eps);
        h.k = ag_graph_head_norm(g, h.k, "attn_k_norm", hp->kv_heads, hp->head_dim, hp->eps);
        h.q = ag_graph_rope(g, h.q, hp->heads, hp->head_dim, rope);
        h.k = ag_graph_rope(g, h.k, hp->kv_heads, hp->head_dim, rope);
        ag_vid y = ag_graph_norm(g, ag_arch_attend(g, hp, h, local ? hp->window : 0), "post_attention_norm", hp->eps);
        x = ag_graph_add(g, x, y);
        y = ag_arch_ffn(g, hp, ag_graph_norm(g, x, "ffn_norm", hp->eps), AG_GLU_GELU_TANH);
        x = ag_graph_add(g, x, ag_graph_norm(g, y, "post_ffw_norm", hp->eps));
    }
    ag_graph_output(g, x, "output_norm", "output", hp->vocab, hp->eps, 1, hp->logit_softcap);
}

const ag_family ag_family_gemma3 = {"gemma3", keys, build};
