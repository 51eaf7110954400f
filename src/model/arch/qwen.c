/* Qwen 2 (biases on q, k, v) and Qwen 3 (norms on the heads of q and k). Neither has layers with a window: their files
 * say so by a key of their own, and a sliding_window that is there all the same is not in use. */
#include "model/arch/arch.h"

static int keys(ag_hparams *hp, const ag_gguf *g, ag_err *err)
{
    (void)g;
    (void)err;
    hp->window = 0;
    return AG_OK;
}

static void build_qwen2(ag_graph *g, const ag_hparams *hp) { ag_arch_decoder(g, hp, (ag_decoder){0}); }
static void build_qwen3(ag_graph *g, const ag_hparams *hp) { ag_arch_decoder(g, hp, (ag_decoder){.head_norms = true}); }

const ag_family ag_family_qwen2 = {"qwen2", keys, build_qwen2};
const ag_family ag_family_qwen3 = {"qwen3", keys, build_qwen3};
