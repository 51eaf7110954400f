/* vec_avxvnni.h - the words that the products are written in, for AVX2 with AVX-VNNI: 8 lanes.
 * For matmul_avxvnni.c only; all else is AVX2's. Owns nothing; any thread; no errors. */
#ifndef AG_VEC_AVXVNNI_H
#define AG_VEC_AVXVNNI_H

#include "engine/cpu/vec_256.h"

#define AG_VEC(name) name##_avxvnni
#define COLS_MAX 4        /* columns of quantized products that share an unpacking: 8 vectors of weights, 4 sums */
#define COLS_FLOAT_MAX 2  /* of float products: 2 times 4 chains */
#define FLOAT_MANY 6      /* columns of float products, one chain at a time, times vectors of rows: 12 sums */
#define FLOAT_VECTORS 2
#define SIGNED_BYTES 0    /* dot takes bytes of 0..255; the offset is in the start value */

/* start + sums of n quads: bytes of w times the q of the quad. */
FN vi vi_dot(vi start, const vi *w, const int8_t *q, int n, int bits)
{
    (void)bits;
#pragma GCC unroll 8
    for (int j = 0; j < n; j++) {
        int32_t quad;
        memcpy(&quad, q + 4 * j, 4);
        start = _mm256_dpbusd_avx_epi32(start, w[j], _mm256_set1_epi32(quad));
    }
    return start;
}

#endif
