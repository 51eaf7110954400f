/* recipe.h - which tensor of a model gets which type when it is quantized (quantize.def).
 * Owns    : nothing.  Threads : any.  Limits : none.
 * Errors  : none.
 * Source  : the mixes of k-quants as llama.cpp's documentation describes them. */
#ifndef AG_RECIPE_H
#define AG_RECIPE_H

#include "model/gguf/gguf.h"
#include "model/gguf/quantize.h"

typedef enum ag_recipe_layers { AG_LAYERS_NONE, AG_LAYERS_FIRST, AG_LAYERS_SPREAD } ag_recipe_layers;

typedef struct ag_recipe {
    const char *name;         /* "Q4_K_M" */
    uint32_t file_type;       /* general.file_type */
    ag_quant_type most, more, output;
    ag_recipe_layers layers;  /* where `more` is taken */
} ag_recipe;

const ag_recipe *ag_recipe_find(ag_str name);             /* either case; NULL: not known */
const ag_recipe *ag_recipe_next(const ag_recipe *r);      /* walks the table from NULL to NULL */

/* Is it a matrix of weights? Vectors, norms, routers and what is only looked up by position are left as floats. */
bool ag_recipe_takes(const ag_gguf_tensor *t);

/* How many layers g has by its tensors' names: a look at each of them, for all calls of ag_recipe_type. */
int64_t ag_recipe_count_layers(const ag_gguf *g);
/* The type for a tensor of g that it takes. `pure`: `most` for all. */
ag_quant_type ag_recipe_type(const ag_recipe *r, const ag_gguf *g, int64_t layers, const ag_gguf_tensor *t, bool pure);

/* What errors in it cost. */
ag_quant_cost ag_recipe_cost(const ag_gguf_tensor *t);

/* That type, or the nearest of more bits whose blocks divide a row of n weights. */
ag_quant_type ag_recipe_fit(ag_quant_type t, uint64_t n);

#endif
