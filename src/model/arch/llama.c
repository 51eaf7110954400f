/* Llama 2, 3 and 3.x, Mistral, SmolLM: pre-norm, rotary pairs (2i, 2i+1), SwiGLU. */
#include "model/arch/arch.h"

static void build(ag_graph *g, const ag_hparams *hp)
{
    int32_t rope = ag_arch_rope(g, hp, true);
    ag_vid x = ag_graph_embed(g, "token_embd", hp->width, hp->vocab);
    for (uint32_t l = 0; l < hp->layers; l++) {
        ag_graph_layer(g, (int32_t)l);
        ag_qkv h = ag_arch_qkv(g, hp, ag_graph_norm(g, x, "attn_norm", hp->eps));
        h.q = ag_graph_rope(g, h.q, hp->heads, hp->head_dim, rope);
        h.k = ag_graph_rope(g, h.k, hp->kv_heads, hp->head_dim, rope);
        x = ag_graph_add(g, x, ag_arch_attend(g, hp, h, hp->window));
        x = ag_graph_add(g, x, ag_arch_ffn(g, hp, ag_graph_norm(g, x, "ffn_norm", hp->eps), AG_GLU_SILU));
    }
    ag_graph_output(g, x, "output_norm", "output", hp->vocab, hp->eps, 1, 0);
}

const ag_family ag_family_llama = {"llama", NULL, build};
