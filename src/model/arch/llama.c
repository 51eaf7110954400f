/* Llama 2, 3 and 3.x, Mistral, SmolLM. */
#include "model/arch/arch.h"

static void build(ag_graph *g, const ag_hparams *hp) { ag_arch_decoder(g, hp, (ag_decoder){.interleaved = true}); }

const ag_family ag_family_llama = {"llama", NULL, build};
