/* Phi 3, 3.5 and 4: q, k, v in one matrix, gate and up in one, LongRoPE factors. */
#include "model/arch/arch.h"

static void build(ag_graph *g, const ag_hparams *hp) { ag_arch_decoder(g, hp, (ag_decoder){0}); }

const ag_family ag_family_phi3 = {"phi3", NULL, build};
