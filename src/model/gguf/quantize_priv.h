/* quantize_priv.h - the quantizers for vectors of 4, 8 and 16 floats, which give the same bytes. All types but F32, F16
 * and BF16.
 * Owns    : nothing.  Threads : any.  Limits : as quantize.h.
 * Errors  : none; a processor without the vectors ends the program, so ag__quantize_of is asked for it. */
#ifndef AG_QUANTIZE_PRIV_H
#define AG_QUANTIZE_PRIV_H

#include "model/gguf/quantize.h"

typedef void ag__quantize_fn(ag_quant_type t, ag_quant_cost cost, const float *x, uint8_t *out, uint64_t n);

ag__quantize_fn ag__quantize_4;
#if defined(__x86_64__)
ag__quantize_fn ag__quantize_8;  /* AVX2 */
ag__quantize_fn ag__quantize_16; /* AVX-512 F, DQ */
#endif

ag__quantize_fn *ag__quantize_of(unsigned width); /* NULL: not on this machine */

#endif
