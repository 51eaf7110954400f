/* ChatGLM 3 and GLM-4-9B ("chatglm"), GLM-4-0414 ("glm4": a norm after each half of the layer as well). Rotary pairs
 * over part of the head, biases on q, k, v, gate and up in one matrix. */
#include "model/arch/arch.h"

static void build_chatglm(ag_graph *g, const ag_hparams *hp)
{
    ag_arch_decoder(g, hp, (ag_decoder){.interleaved = true});
}

static void build_glm4(ag_graph *g, const ag_hparams *hp)
{
    ag_arch_decoder(g, hp, (ag_decoder){.interleaved = true, .post_norms = true});
}

const ag_family ag_family_chatglm = {"chatglm", NULL, build_chatglm};
const ag_family ag_family_glm4 = {"glm4", NULL, build_glm4};
