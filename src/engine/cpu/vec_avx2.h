/* vec_avx2.h - the words that the kernels in *.inc are written in, for AVX2 with FMA and F16C: 8 lanes.
 * For *_avx2.c only. Owns nothing; any thread; no errors. vec_avx512.h has the same words. */
#ifndef AG_VEC_AVX2_H
#define AG_VEC_AVX2_H

#include "engine/cpu/vec_256.h"

#define AG_VEC(name) name##_avx2
#define COLS_MAX 4        /* columns of quantized products that share an unpacking: 8 vectors of weights, 4 sums */
#define COLS_FLOAT_MAX 2  /* of float products: 2 times 4 chains */
#define FLOAT_MANY 6      /* columns of float products, one chain at a time, times vectors of rows: 12 sums */
#define FLOAT_VECTORS 2
#define SIGNED_BYTES 1    /* dot takes 8-bit weights signed, since the product of 255 and 127 does not fit its pairs */

/* start + sums of n quads. Pairs of products are kept in 16 bits as long as they fit for sure: 127 * 2 * (2^bits - 1)
 * for each quad, so 8 quads of up to 4 bits, 4 of 5, 2 of 6. Bytes are taken signed, by the sign of the weight:
 * 128 * 127 * 2 fits. */
FN vi vi_dot(vi start, const vi *w, const int8_t *q, int n, int bits)
{
    const int run = bits <= 4 ? n : bits == 5 ? 4 : bits == 6 ? 2 : 1;
#pragma GCC unroll 8
    for (int j = 0; j < n; j += run) {
        vi pairs = vi_zero();
#pragma GCC unroll 8
        for (int i = j; i < j + run; i++) {
            int32_t quad;
            memcpy(&quad, q + 4 * i, 4);
            vi x = _mm256_set1_epi32(quad);
            vi p = bits == 8 ? _mm256_maddubs_epi16(_mm256_abs_epi8(w[i]), _mm256_sign_epi8(x, w[i]))
                             : _mm256_maddubs_epi16(w[i], x);
            pairs = i == j ? p : _mm256_add_epi16(pairs, p);
            /* Else the compiler makes a tree of the sums, for which there are not enough registers. */
            if (run > 1) __asm__("" : "+x"(pairs));
        }
        start = _mm256_add_epi32(start, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
        __asm__("" : "+x"(start));
    }
    return start;
}

#endif
