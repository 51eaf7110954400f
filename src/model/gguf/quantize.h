/* quantize.h - float weights to the tensor types of GGUF.
 * Owns    : nothing.  Threads : any.
 * Limits  : whole blocks; the weights are finite.
 * Errors  : none. Weights beyond what the type can hold come out as infinities or NaNs when they are read again.
 * Numerics: the bytes are a function of the weights alone: the same on every machine, whatever its instruction sets. */
#ifndef AG_QUANTIZE_H
#define AG_QUANTIZE_H

#include "model/gguf/quant.h"

bool ag_quantize_can(ag_quant_type t); /* is there a quantizer for it? */

/* What an error in a weight costs. BY_SIZE: for matrices that a product goes through. BY_SQUARE: for embeddings and
 * the output matrix, whose few large weights decide. Types whose scale is not searched take either alike. */
typedef enum ag_quant_cost { AG_COST_BY_SIZE, AG_COST_BY_SQUARE } ag_quant_cost;

/* Writes the n / block blocks of n weights to y (unaligned). n % block == 0. */
void ag_quantize(ag_quant_type t, ag_quant_cost cost, const float *x, void *y, uint64_t n);

#endif
