/* vec_256.h - what vec_avx2.h and vec_avxvnni.h share: all words but the dot product, for AVX2 with FMA and F16C.
 * Owns nothing; any thread; no errors. */
#ifndef AG_VEC_256_H
#define AG_VEC_256_H

#include "engine/cpu/vec_x86.h"

#define LANES 8
#define QUERY_VECS 2  /* vectors of scores or of output for each of 6 queries */

typedef __m256 vf;
typedef __m256i vi;
typedef __m256 vm;

FN vf vf_zero(void) { return _mm256_setzero_ps(); }
FN vf vf_set(float x) { return _mm256_set1_ps(x); }
FN vf vf_load(const float *p) { return _mm256_loadu_ps(p); }
FN void vf_store(float *p, vf a) { _mm256_storeu_ps(p, a); }
FN vm vm_range(int32_t from, int32_t to)
{
    __m256i lane = _mm256_set_epi32(7, 6, 5, 4, 3, 2, 1, 0);
    __m256i below = _mm256_cmpgt_epi32(_mm256_set1_epi32(from), lane);
    return _mm256_castsi256_ps(_mm256_andnot_si256(below, _mm256_cmpgt_epi32(_mm256_set1_epi32(to), lane)));
}
FN __m256i vf_first(uint32_t n) { return _mm256_castps_si256(vm_range(0, (int32_t)n)); }
FN vf vf_load_n(const float *p, uint32_t n) { return _mm256_maskload_ps(p, vf_first(n)); }
FN void vf_store_n(float *p, vf a, uint32_t n) { _mm256_maskstore_ps(p, vf_first(n), a); }
FN vf vf_add(vf a, vf b) { return _mm256_add_ps(a, b); }
FN vf vf_sub(vf a, vf b) { return _mm256_sub_ps(a, b); }
FN vf vf_mul(vf a, vf b) { return _mm256_mul_ps(a, b); }
FN vf vf_div(vf a, vf b) { return _mm256_div_ps(a, b); }
FN vf vf_fma(vf a, vf b, vf c) { return _mm256_fmadd_ps(a, b, c); }
FN vf vf_max(vf a, vf b) { return _mm256_max_ps(a, b); }
FN vf vf_min(vf a, vf b) { return _mm256_min_ps(a, b); }
FN vf vf_abs(vf a) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a); }
FN vf vf_sign_of(vf a, vf sign) /* a >= 0 with the sign of `sign` */
{
    return _mm256_or_ps(a, _mm256_and_ps(sign, _mm256_set1_ps(-0.0f)));
}
FN vm vf_less(vf a, vf b) { return _mm256_cmp_ps(a, b, _CMP_LT_OQ); }
FN vf vf_pick(vm m, vf yes, vf no) { return _mm256_blendv_ps(no, yes, m); }
FN float vf_join(vf a) /* i + 4, i + 2, i + 1 */
{
    __m128 c = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    c = _mm_add_ps(c, _mm_movehl_ps(c, c));
    return _mm_cvtss_f32(_mm_add_ss(c, _mm_movehdup_ps(c)));
}
FN float vf_top(vf a)
{
    __m128 c = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    c = _mm_max_ps(c, _mm_movehl_ps(c, c));
    return _mm_cvtss_f32(_mm_max_ss(c, _mm_movehdup_ps(c)));
}
/* a * 2^n, where the integer n stands in the low bits of t. */
FN vf vf_shift_exp(vf a, vf t)
{
    __m256i n = _mm256_slli_epi32(_mm256_castps_si256(t), 23);
    return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(a), n));
}

FN vf vf_f16(const void *p) { return _mm256_cvtph_ps(_mm_loadu_si128(p)); }
/* The first or the second of pairs. */
FN vf vf_bf16(const void *p, bool second)
{
    __m256i v = _mm256_loadu_si256(p);
    return _mm256_castsi256_ps(second ? _mm256_and_si256(v, _mm256_set1_epi32(-0x10000)) : _mm256_slli_epi32(v, 16));
}
/* Dimensions are multiples of 8, so that a part of a vector never comes up here. */
FN vf vf_f16_n(const uint16_t *p, uint32_t n)
{
    (void)n;
    return vf_f16(p);
}
FN void vf_to_f16(uint16_t *p, vf a)
{
    _mm_storeu_si128((__m128i *)p, _mm256_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
FN void vf_to_f16_n(uint16_t *p, vf a, uint32_t n)
{
    (void)n;
    vf_to_f16(p, a);
}
FN vf vf_u8(const void *p) { return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64(p))); }
FN vf vf_i8(const void *p) { return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(p))); }
/* Low and high nibbles of 8 bytes. */
FN vf vf_nibble(const void *p, bool high)
{
    __m256i b = _mm256_cvtepu8_epi32(_mm_loadl_epi64(p));
    return _mm256_cvtepi32_ps(high ? _mm256_srli_epi32(b, 4) : _mm256_and_si256(b, _mm256_set1_epi32(15)));
}
/* 32 floats, rounded to nearest even, as bytes. */
FN vb vf_to_bytes(const vf v[4])
{
    __m256i a = _mm256_packs_epi32(_mm256_cvtps_epi32(v[0]), _mm256_cvtps_epi32(v[1]));
    __m256i b = _mm256_packs_epi32(_mm256_cvtps_epi32(v[2]), _mm256_cvtps_epi32(v[3]));
    /* Packing works within halves of 128 bits: groups of four come out as 0 2 4 6 1 3 5 7. */
    const __m256i order = _mm256_set_epi32(7, 3, 6, 2, 5, 1, 4, 0);
    return _mm256_permutevar8x32_epi32(_mm256_packs_epi16(a, b), order);
}
FN __m128 vf_tops(const vf t[4]) { return vb_tops(t); }

FN vi vi_zero(void) { return _mm256_setzero_si256(); }
FN vi vi_set(int32_t x) { return _mm256_set1_epi32(x); }
FN vi vi_load(const void *p) { return _mm256_load_si256(p); }
FN vi vi_and(vi a, vi b) { return _mm256_and_si256(a, b); }
FN vi vi_or(vi a, vi b) { return _mm256_or_si256(a, b); }
FN vi vi_flip(vi a) { return _mm256_xor_si256(a, _mm256_set1_epi8((char)128)); } /* u to u - 128 */
FN vi vi_bytes(uint8_t x) { return _mm256_set1_epi8((char)x); }
/* 16-bit lanes; the count is a constant after inlining. */
FN vi vi_right(vi a, int n) { return n ? _mm256_srli_epi16(a, n) : a; }
FN vi vi_left(vi a, int n) { return n ? _mm256_slli_epi16(a, n) : a; }
FN vi vi_left32(vi a, int n) { return n ? _mm256_slli_epi32(a, n) : a; }
FN vi vi_sar32(vi a, int n) { return _mm256_srai_epi32(a, n); }
FN vi vi_lut(const unsigned char table[16], vi index)
{
    return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)table)), index);
}
FN vf vf_of_int(vi a) { return _mm256_cvtepi32_ps(a); }

#endif
