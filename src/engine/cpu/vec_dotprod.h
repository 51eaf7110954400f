/* vec_dotprod.h - products in the words of vec_neon.h, with the dot products of four bytes (Armv8.2 dotprod).
 * For *_dotprod.c and *_i8mm.c only. Owns nothing; any thread; no errors. */
#ifndef AG_VEC_DOTPROD_H
#define AG_VEC_DOTPROD_H

#include "engine/cpu/vec_neon.h"

#ifndef AG_VEC
#define AG_VEC(name) name##_dotprod
#endif
#define COLS_MAX 8        /* columns of quantized products that share an unpacking: 8 vectors of weights, 8 sums */
#define COLS_FLOAT_MAX 2  /* of float products: 2 times 2 vectors of rows times 4 chains */
#define FLOAT_MANY 6      /* columns of float products, one chain at a time, times vectors of rows: 24 sums */
#define FLOAT_VECTORS 4
#define SIGNED_BYTES 1    /* both sides of the dot product are signed */
/* Vectors of rows that a pass over k takes: as many as leave the sums in registers, so that one pass reads whole lines
 * of memory where there are few columns. */
#define STRIPS_MAX 4
#define STRIPS(cols) ((cols) <= 2 ? 4 : (cols) == 4 ? 2 : 1)
#define STRIPS_FLOAT(cols) (4 / (cols))

/* start + sums of n quads (4 or 8). */
FN vi vi_dot(vi start, const vi *w, const int8_t *q, int n, int bits)
{
    (void)bits;
    int32x4_t sum = vreinterpretq_s32_u8(start);
#pragma GCC unroll 2
    for (int j = 0; j < n; j += 4) {
        int8x16_t x = vld1q_s8(q + 4 * j);
        sum = vdotq_laneq_s32(sum, vreinterpretq_s8_u8(w[j]), x, 0);
        sum = vdotq_laneq_s32(sum, vreinterpretq_s8_u8(w[j + 1]), x, 1);
        sum = vdotq_laneq_s32(sum, vreinterpretq_s8_u8(w[j + 2]), x, 2);
        sum = vdotq_laneq_s32(sum, vreinterpretq_s8_u8(w[j + 3]), x, 3);
    }
    return vreinterpretq_u8_s32(sum);
}

#endif
