/* vec_x86.h - what the 256-bit and the 512-bit words share. For vec_*.h of x86 only.
 * Owns nothing; any thread; no errors. */
#ifndef AG_VEC_X86_H
#define AG_VEC_X86_H

#include <immintrin.h>

#include "base/base.h"

#define REGISTER "v"      /* where assembly finds a vector */
#define FN static inline __attribute__((always_inline))

typedef __m256i vb; /* 32 bytes */
FN void vb_store(int8_t q[32], vb b) { _mm256_store_si256((__m256i *)q, b); }
/* Of each: sums of the first and of the last 16 bytes. */
FN void vb_sums(const vb b[4], int32_t __attribute__((vector_size(16))) sum[2])
{
    __m256i s[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++)
        s[i] = _mm256_madd_epi16(_mm256_maddubs_epi16(_mm256_set1_epi8(1), b[i]), _mm256_set1_epi16(1));
    __m256i all = _mm256_hadd_epi32(_mm256_hadd_epi32(s[0], s[1]), _mm256_hadd_epi32(s[2], s[3]));
    sum[0] = (int32_t __attribute__((vector_size(16))))_mm256_castsi256_si128(all);
    sum[1] = (int32_t __attribute__((vector_size(16))))_mm256_extracti128_si256(all, 1);
}
/* Lane i: the largest of t[i]. */
FN __m128 vb_tops(const __m256 t[4])
{
    __m256 a = _mm256_max_ps(_mm256_unpacklo_ps(t[0], t[1]), _mm256_unpackhi_ps(t[0], t[1]));
    __m256 b = _mm256_max_ps(_mm256_unpacklo_ps(t[2], t[3]), _mm256_unpackhi_ps(t[2], t[3]));
    __m256 c = _mm256_max_ps(_mm256_shuffle_ps(a, b, 0x44), _mm256_shuffle_ps(a, b, 0xEE));
    return _mm_max_ps(_mm256_castps256_ps128(c), _mm256_extractf128_ps(c, 1));
}

#endif
