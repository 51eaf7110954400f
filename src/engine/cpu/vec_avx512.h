/* vec_avx512.h - the words that the kernels in *.inc are written in, for AVX-512 with VNNI: 16 lanes.
 * For *_avx512.c only. Owns nothing; any thread; no errors. vec_avx2.h has the same words. */
#ifndef AG_VEC_AVX512_H
#define AG_VEC_AVX512_H

#include "engine/cpu/vec_x86.h"

#define AG_VEC(name) name##_avx512
#define LANES 16
#define COLS_MAX 16       /* columns of quantized products that share an unpacking: 8 vectors of weights, 16 sums */
#define COLS_FLOAT_MAX 4  /* of float products: 4 times 4 chains */
#define FLOAT_MANY 8      /* columns of float products, one chain at a time, times vectors of rows: 16 sums */
#define FLOAT_VECTORS 2
#define SIGNED_BYTES 0    /* dot takes bytes of 0..255; the offset is in the start value */
#define QUERY_VECS 4      /* vectors of scores or of output for each of 6 queries */

typedef __m512 vf;
typedef __m512i vi;
typedef __mmask16 vm;

FN vf vf_zero(void) { return _mm512_setzero_ps(); }
FN vf vf_set(float x) { return _mm512_set1_ps(x); }
FN vf vf_load(const float *p) { return _mm512_loadu_ps(p); }
FN void vf_store(float *p, vf a) { _mm512_storeu_ps(p, a); }
FN vm vf_first(uint32_t n) { return (__mmask16)((1u << n) - 1); } /* n <= 16 */
FN vf vf_load_n(const float *p, uint32_t n) { return _mm512_maskz_loadu_ps(vf_first(n), p); }
FN void vf_store_n(float *p, vf a, uint32_t n) { _mm512_mask_storeu_ps(p, vf_first(n), a); }
FN vf vf_add(vf a, vf b) { return _mm512_add_ps(a, b); }
FN vf vf_sub(vf a, vf b) { return _mm512_sub_ps(a, b); }
FN vf vf_mul(vf a, vf b) { return _mm512_mul_ps(a, b); }
FN vf vf_div(vf a, vf b) { return _mm512_div_ps(a, b); }
FN vf vf_fma(vf a, vf b, vf c) { return _mm512_fmadd_ps(a, b, c); }
FN vf vf_max(vf a, vf b) { return _mm512_max_ps(a, b); }
FN vf vf_min(vf a, vf b) { return _mm512_min_ps(a, b); }
FN vf vf_abs(vf a) { return _mm512_abs_ps(a); }
FN vf vf_sign_of(vf a, vf sign) /* a >= 0 with the sign of `sign` */
{
    return _mm512_or_ps(a, _mm512_and_ps(sign, _mm512_set1_ps(-0.0f)));
}
FN vm vf_less(vf a, vf b) { return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ); }
FN vf vf_pick(vm m, vf yes, vf no) { return _mm512_mask_blend_ps(m, no, yes); }
/* Lanes i with from <= i < to. */
FN vm vm_range(int32_t from, int32_t to)
{
    __m512i lane = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    vm not_before = _mm512_cmpge_epi32_mask(lane, _mm512_set1_epi32(from));
    return _mm512_mask_cmplt_epi32_mask(not_before, lane, _mm512_set1_epi32(to));
}
FN float vf_join(vf a) /* i + 8, i + 4, i + 2, i + 1 */
{
    __m256 b = _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
    __m128 c = _mm_add_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
    c = _mm_add_ps(c, _mm_movehl_ps(c, c));
    return _mm_cvtss_f32(_mm_add_ss(c, _mm_movehdup_ps(c)));
}
FN float vf_top(vf a) { return _mm512_reduce_max_ps(a); }
/* a * 2^n, where the integer n stands in the low bits of t. */
FN vf vf_shift_exp(vf a, vf t)
{
    __m512i n = _mm512_slli_epi32(_mm512_castps_si512(t), 23);
    return _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(a), n));
}

FN vf vf_f16(const void *p) { return _mm512_cvtph_ps(_mm256_loadu_si256(p)); }
/* The first or the second of pairs. */
FN vf vf_bf16(const void *p, bool second)
{
    __m512i v = _mm512_loadu_si512(p);
    return _mm512_castsi512_ps(second ? _mm512_and_si512(v, _mm512_set1_epi32(-0x10000)) : _mm512_slli_epi32(v, 16));
}
FN vf vf_f16_n(const uint16_t *p, uint32_t n) { return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(vf_first(n), p)); }
FN void vf_to_f16(uint16_t *p, vf a)
{
    _mm256_storeu_si256((__m256i *)p, _mm512_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
FN void vf_to_f16_n(uint16_t *p, vf a, uint32_t n)
{
    _mm256_mask_storeu_epi16(p, vf_first(n), _mm512_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
FN vf vf_u8(const void *p) { return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(p))); }
FN vf vf_i8(const void *p) { return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(p))); }
/* Low and high nibbles of 16 bytes. */
FN vf vf_nibble(const void *p, bool high)
{
    __m512i b = _mm512_cvtepu8_epi32(_mm_loadu_si128(p));
    return _mm512_cvtepi32_ps(high ? _mm512_srli_epi32(b, 4) : _mm512_and_si512(b, _mm512_set1_epi32(15)));
}
/* 32 floats, rounded to nearest even, as bytes. */
FN vb vf_to_bytes(const vf v[2])
{
    __m128i low = _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(v[0]));
    return _mm256_set_m128i(_mm512_cvtepi32_epi8(_mm512_cvtps_epi32(v[1])), low);
}
/* Lane i: the largest of t[i]. */
FN __m128 vf_tops(const vf t[4])
{
    __m256 half[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) half[i] = _mm256_max_ps(_mm512_castps512_ps256(t[i]), _mm512_extractf32x8_ps(t[i], 1));
    return vb_tops(half);
}

FN vi vi_zero(void) { return _mm512_setzero_si512(); }
FN vi vi_set(int32_t x) { return _mm512_set1_epi32(x); }
FN vi vi_load(const void *p) { return _mm512_load_si512(p); }
FN void vi_store(void *p, vi a) { _mm512_store_si512(p, a); }
FN vi vi_sub_bytes(vi a, vi b) { return _mm512_sub_epi8(a, b); }
FN vi vi_and(vi a, vi b) { return _mm512_and_si512(a, b); }
FN vi vi_or(vi a, vi b) { return _mm512_or_si512(a, b); }
FN vi vi_flip(vi a) { return a; } /* SIGNED_BYTES only */
FN vi vi_bytes(uint8_t x) { return _mm512_set1_epi8((char)x); }
/* 16-bit lanes; the count is a constant after inlining. */
FN vi vi_right(vi a, int n) { return n ? _mm512_srli_epi16(a, (unsigned)n) : a; }
FN vi vi_left(vi a, int n) { return n ? _mm512_slli_epi16(a, (unsigned)n) : a; }
FN vi vi_left32(vi a, int n) { return n ? _mm512_slli_epi32(a, (unsigned)n) : a; }
FN vi vi_sar32(vi a, int n) { return _mm512_srai_epi32(a, (unsigned)n); }
FN vi vi_lut(const unsigned char table[16], vi index)
{
    return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)table)), index);
}
FN vf vf_of_int(vi a) { return _mm512_cvtepi32_ps(a); }
/* start + sums of n quads: bytes of w (below 2^bits) times the q of the quad. In assembly for the broadcast in the
 * operand: as intrinsics it is a load of its own, and the front end of some machines is then the limit. */
FN vi vi_dot(vi start, const vi *w, const int8_t *q, int n, int bits)
{
    typedef int32_t __attribute__((may_alias)) quad;
    (void)bits;
#pragma GCC unroll 8
    for (int j = 0; j < n; j++) {
        __asm__("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(start) : "v"(w[j]), "m"(*(const quad *)(q + 4 * j)));
    }
    return start;
}

#endif
