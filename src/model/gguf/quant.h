/* quant.h - the tensor types of GGUF: block shapes, and the scalar dequantization that is their specification.
 * Owns    : nothing.  Threads : any.
 * Limits  : rows are whole blocks; the loader checks it.
 * Errors  : none; a type not in the table is refused by the loader.
 * Source  : ggml's block formats (ggml-common.h, ggml-quants.c describe them; the arithmetic here is ours). */
#ifndef AG_QUANT_H
#define AG_QUANT_H

#include "base/base.h"

typedef enum ag_quant_type {
#define AG_QUANT(name, id, block, bytes, what) AG_Q_##name = id,
#include "model/gguf/quant.def"
#undef AG_QUANT
} ag_quant_type;
#define AG_QUANT_IDS 31 /* above all of them */

typedef struct ag_quant_row {
    ag_quant_type type;
    const char *name;      /* "Q4_K" */
    uint32_t block;        /* weights in a block */
    uint32_t bytes;        /* bytes of a block */
} ag_quant_row;

const ag_quant_row *ag_quant_find(uint32_t id);          /* by the file format's number; NULL: not supported */
const ag_quant_row *ag_quant_find_name(ag_str name);     /* either case; NULL: not known */
const ag_quant_row *ag_quant_next(const ag_quant_row *r); /* walks the table from NULL to NULL */

/* y[0..n) = the weights of n/block blocks at x (unaligned). n % block == 0. f32 arithmetic in the order of the format's
 * definition, so a vector version can be compared bit for bit. */
void ag_quant_dequantize(ag_quant_type t, const void *x, float *y, uint64_t n);

float ag_f16_to_f32(uint16_t h);
uint16_t ag_f32_to_f16(float f); /* round to nearest even; overflow to infinity */
static inline float ag_bf16_to_f32(uint16_t b)
{
    uint32_t u = (uint32_t)b << 16;
    float f;
    memcpy(&f, &u, 4);
    return f;
}

/* The 16 values of the IQ4 types. */
extern const int8_t ag_quant_iq4_values[16];

#endif
