#include "model/arch/arch.h"

void ag_arch_decoder(ag_graph *g, const ag_hparams *hp, ag_decoder d)
{
    int32_t rope = ag_arch_rope(g, hp, d.interleaved);
    ag_vid x = ag_graph_embed(g, "token_embd", hp->width, hp->vocab);
    for (uint32_t l = 0; l < hp->layers; l++) {
        ag_graph_layer(g, (int32_t)l);
        ag_qkv h = ag_arch_qkv(g, hp, ag_graph_norm(g, x, "attn_norm", hp->eps));
        if (d.head_norms) {
            h.q = ag_graph_head_norm(g, h.q, "attn_q_norm", hp->heads, hp->head_dim, hp->eps);
            h.k = ag_graph_head_norm(g, h.k, "attn_k_norm", hp->kv_heads, hp->head_dim, hp->eps);
        }
        h.q = ag_graph_rope(g, h.q, hp->heads, hp->head_dim, rope);
        h.k = ag_graph_rope(g, h.k, hp->kv_heads, hp->head_dim, rope);
        ag_vid y = ag_arch_attend(g, hp, h, hp->window);
        if (d.post_norms) y = ag_graph_norm(g, y, "post_attention_norm", hp->eps);
        x = ag_graph_add(g, x, y);
        y = ag_arch_ffn(g, hp, ag_graph_norm(g, x, "ffn_norm", hp->eps), AG_GLU_SILU);
        if (d.post_norms) y = ag_graph_norm(g, y, "post_ffw_norm", hp->eps);
        x = ag_graph_add(g, x, y);
    }
    ag_graph_output(g, x, "output_norm", "output", hp->vocab, hp->eps, 1, 0);
}
