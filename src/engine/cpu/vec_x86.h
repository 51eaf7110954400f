/* vec_x86.h - what the 256-bit and the 512-bit words share. For vec_*.h of x86 only.
 * Owns nothing; any thread; no errors. */
#ifndef AG_VEC_X86_H
#define AG_VEC_X86_H

#include <immintrin.h>

#include "base/base.h"

#define REGISTER "v"      /* where assembly finds a vector */
#define FN static inline __attribute__((always_inline))

/* Stores 32 bytes, 32-byte aligned; and the sums of the first and the last 16. */
FN void vb_store(__m256i bytes, int8_t q[32], int32_t sum[2])
{
    _mm256_store_si256((__m256i *)q, bytes);
    /* Sums of 8 bytes each, after adding 128 to make them unsigned. */
    __m256i u = _mm256_sad_epu8(_mm256_xor_si256(bytes, _mm256_set1_epi8((char)128)), _mm256_setzero_si256());
    __m128i lo = _mm256_castsi256_si128(u), hi = _mm256_extracti128_si256(u, 1);
    sum[0] = _mm_cvtsi128_si32(lo) + _mm_extract_epi32(lo, 2) - 16 * 128;
    sum[1] = _mm_cvtsi128_si32(hi) + _mm_extract_epi32(hi, 2) - 16 * 128;
}

#endif
