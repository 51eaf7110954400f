/* ChatGLM 3 and GLM-4-9B ("chatglm": pre-norm), GLM-4-0414 ("glm4": a norm after each half of the layer as well).
 * Rotary pairs (2i, 2i+1) over part of the head, biases on q, k, v, gate and up in one matrix. */
#include "model/arch/arch.h"

static void build_layers(ag_graph *g, const ag_hparams *hp, bool post_norms)
{
    int32_t rope = ag_arch_rope(g, hp, true);
    ag_vid x = ag_graph_embed(g, "token_embd", hp->width, hp->vocab);
    for (uint32_t l = 0; l < hp->layers; l++) {
        ag_graph_layer(g, (int32_t)l);
        ag_qkv h = ag_arch_qkv(g, hp, ag_graph_norm(g, x, "attn_norm", hp->eps));
        h.q = ag_graph_rope(g, h.q, hp->heads, hp->head_dim, rope);
        h.k = ag_graph_rope(g, h.k, hp->kv_heads, hp->head_dim, rope);
        ag_vid y = ag_arch_attend(g, hp, h, 0);
        if (post_norms) y = ag_graph_norm(g, y, "post_attention_norm", hp->eps);
        x = ag_graph_add(g, x, y);
        y = ag_arch_ffn(g, hp, ag_graph_norm(g, x, "ffn_norm", hp->eps), AG_GLU_SILU);
        if (post_norms) y = ag_graph_norm(g, y, "post_ffw_norm", hp->eps);
        x = ag_graph_add(g, x, y);
    }
    ag_graph_output(g, x, "output_norm", "output", hp->vocab, hp->eps, 1, 0);
}

static void build_chatglm(ag_graph *g, const ag_hparams *hp) { build_layers(g, hp, false); }
static void build_glm4(ag_graph *g, const ag_hparams *hp) { build_layers(g, hp, true); }

const ag_family ag_family_chatglm = {"chatglm", NULL, build_chatglm};
const ag_family ag_family_glm4 = {"glm4", NULL, build_glm4};
