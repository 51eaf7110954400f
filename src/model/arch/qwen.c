/* Qwen 2 (biases on q, k, v) and Qwen 3 (norms on the heads of q and k): rotary pairs (i, i + n/2), SwiGLU. */
#include "model/arch/arch.h"

static void build_layers(ag_graph *g, const ag_hparams *hp, bool head_norms)
{
    int32_t rope = ag_arch_rope(g, hp, false);
    ag_vid x = ag_graph_embed(g, "token_embd", hp->width, hp->vocab);
    for (uint32_t l = 0; l < hp->layers; l++) {
        ag_graph_layer(g, (int32_t)l);
        ag_qkv h = ag_arch_qkv(g, hp, ag_graph_norm(g, x, "attn_norm", hp->eps));
        if (head_norms) {
            h.q = ag_graph_head_norm(g, h.q, "attn_q_norm", hp->heads, hp->head_dim, hp->eps);
            h.k = ag_graph_head_norm(g, h.k, "attn_k_norm", hp->kv_heads, hp->head_dim, hp->eps);
        }
        h.q = ag_graph_rope(g, h.q, hp->heads, hp->head_dim, rope);
        h.k = ag_graph_rope(g, h.k, hp->kv_heads, hp->head_dim, rope);
        x = ag_graph_add(g, x, ag_arch_attend(g, hp, h, 0));
        x = ag_graph_add(g, x, ag_arch_ffn(g, hp, ag_graph_norm(g, x, "ffn_norm", hp->eps), AG_GLU_SILU));
    }
    ag_graph_output(g, x, "output_norm", "output", hp->vocab, hp->eps, 1, 0);
}

static void build_qwen2(ag_graph *g, const ag_hparams *hp) { build_layers(g, hp, false); }
static void build_qwen3(ag_graph *g, const ag_hparams *hp) { build_layers(g, hp, true); }

const ag_family ag_family_qwen2 = {"qwen2", NULL, build_qwen2};
const ag_family ag_family_qwen3 = {"qwen3", NULL, build_qwen3};
