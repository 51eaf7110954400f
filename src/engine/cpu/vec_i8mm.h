/* vec_i8mm.h - vec_dotprod.h, and for several columns the products of 2 x 8 by 8 x 2 bytes (Armv8.6 i8mm).
 * For *_i8mm.c only. Owns nothing; any thread; no errors. */
#ifndef AG_VEC_I8MM_H
#define AG_VEC_I8MM_H

#define AG_VEC(name) name##_i8mm
#include "engine/cpu/vec_dotprod.h"

#define PAIRS 1 /* columns are taken by twos, with weights that vi_pair_rows has arranged */

/* From quads of 4 rows to 8 k of 2 rows in each vector: w[2i] and w[2i + 1] are rows 0, 1 and 2, 3 of k from 8i on. */
FN void vi_pair_rows(vi w[8])
{
#pragma GCC unroll 4
    for (int i = 0; i < 8; i += 2) {
        uint32x4_t a = vreinterpretq_u32_u8(w[i]), b = vreinterpretq_u32_u8(w[i + 1]);
        w[i] = vreinterpretq_u8_u32(vzip1q_u32(a, b));
        w[i + 1] = vreinterpretq_u8_u32(vzip2q_u32(a, b));
    }
}

/* Sums of n quads (4 or 8) of two columns. */
FN void vi_dot_pair(const vi *w, const int8_t *q0, const int8_t *q1, int n, vi sum[2])
{
    int32x4_t low = vdupq_n_s32(0), high = low; /* rows 0, 1 and 2, 3: row by row, both columns of each */
#pragma GCC unroll 4
    for (int j = 0; j < n; j += 2) {
        int8x16_t x = vcombine_s8(vld1_s8(q0 + 4 * j), vld1_s8(q1 + 4 * j));
        low = vmmlaq_s32(low, vreinterpretq_s8_u8(w[j]), x);
        high = vmmlaq_s32(high, vreinterpretq_s8_u8(w[j + 1]), x);
    }
    sum[0] = vreinterpretq_u8_s32(vuzp1q_s32(low, high));
    sum[1] = vreinterpretq_u8_s32(vuzp2q_s32(low, high));
}

#endif
