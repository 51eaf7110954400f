/* vec_neon.h - the words that the kernels in *.inc are written in, for Arm NEON: 4 lanes.
 * For *_dotprod.c and *_i8mm.c only. Owns nothing; any thread; no errors. vec_avx512.h has the same words. */
#ifndef AG_VEC_NEON_H
#define AG_VEC_NEON_H

#include <arm_neon.h>

#include "base/base.h"

#define LANES 4
#define REGISTER "w"      /* where assembly finds a vector */
#define QUERY_VECS 4      /* vectors of scores or of output for each of 6 queries */

typedef float32x4_t vf;
typedef uint8x16_t vi;
typedef uint32x4_t vm;
#define FN static inline __attribute__((always_inline))

FN vf vf_zero(void) { return vdupq_n_f32(0); }
FN vf vf_set(float x) { return vdupq_n_f32(x); }
FN vf vf_load(const float *p) { return vld1q_f32(p); }
FN void vf_store(float *p, vf a) { vst1q_f32(p, a); }
FN vf vf_load_n(const float *p, uint32_t n)
{
    float t[4] = {0};
    if (n >= LANES) return vf_load(p);
    for (uint32_t i = 0; i < n; i++) t[i] = p[i];
    return vf_load(t);
}
FN void vf_store_n(float *p, vf a, uint32_t n)
{
    float t[4];
    vf_store(n >= LANES ? p : t, a);
    for (uint32_t i = 0; i < n && n < LANES; i++) p[i] = t[i];
}
FN vf vf_add(vf a, vf b) { return vaddq_f32(a, b); }
FN vf vf_sub(vf a, vf b) { return vsubq_f32(a, b); }
FN vf vf_mul(vf a, vf b) { return vmulq_f32(a, b); }
FN vf vf_div(vf a, vf b) { return vdivq_f32(a, b); }
FN vf vf_fma(vf a, vf b, vf c) { return vfmaq_f32(c, a, b); }
/* Of a number and a NaN these take the number, as x86 does when the NaN is a. */
FN vf vf_max(vf a, vf b) { return vmaxnmq_f32(a, b); }
FN vf vf_min(vf a, vf b) { return vminnmq_f32(a, b); }
FN vf vf_abs(vf a) { return vabsq_f32(a); }
FN vf vf_sign_of(vf a, vf sign) /* a >= 0 with the sign of `sign` */
{
    return vbslq_f32(vdupq_n_u32(0x80000000u), sign, a);
}
FN vm vf_less(vf a, vf b) { return vcltq_f32(a, b); }
FN vf vf_pick(vm m, vf yes, vf no) { return vbslq_f32(m, yes, no); }
/* Lanes i with from <= i < to. */
FN vm vm_range(int32_t from, int32_t to)
{
    static const int32_t lanes[4] = {0, 1, 2, 3};
    int32x4_t lane = vld1q_s32(lanes);
    return vandq_u32(vcgeq_s32(lane, vdupq_n_s32(from)), vcltq_s32(lane, vdupq_n_s32(to)));
}
FN float vf_join(vf a) /* i + 2, i + 1 */
{
    float32x2_t c = vadd_f32(vget_low_f32(a), vget_high_f32(a));
    return vget_lane_f32(c, 0) + vget_lane_f32(c, 1);
}
FN float vf_top(vf a) { return vmaxnmvq_f32(a); }
/* a * 2^n, where the integer n stands in the low bits of t. */
FN vf vf_shift_exp(vf a, vf t)
{
    return vreinterpretq_f32_u32(vaddq_u32(vreinterpretq_u32_f32(a), vshlq_n_u32(vreinterpretq_u32_f32(t), 23)));
}

FN uint16x4_t vh_load(const void *p)
{
    uint16x4_t h;
    memcpy(&h, p, sizeof h);
    return h;
}
FN vf vf_f16(const void *p) { return vcvt_f32_f16(vreinterpret_f16_u16(vh_load(p))); }
/* The first or the second of pairs. */
FN vf vf_bf16(const void *p, bool second)
{
    uint32x4_t v = vreinterpretq_u32_u8(vld1q_u8(p));
    return vreinterpretq_f32_u32(second ? vandq_u32(v, vdupq_n_u32(0xFFFF0000u)) : vshlq_n_u32(v, 16));
}
/* Dimensions are multiples of 8, so that a part of a vector never comes up here. */
FN vf vf_f16_n(const uint16_t *p, uint32_t n)
{
    (void)n;
    return vf_f16(p);
}
FN void vf_to_f16(uint16_t *p, vf a)
{
    float16x4_t h = vcvt_f16_f32(a);
    memcpy(p, &h, sizeof h);
}
FN void vf_to_f16_n(uint16_t *p, vf a, uint32_t n)
{
    (void)n;
    vf_to_f16(p, a);
}
/* 4 bytes, each in a lane of 32 bits. */
FN uint32x4_t vw_bytes(const void *p)
{
    uint32_t b;
    memcpy(&b, p, sizeof b);
    return vmovl_u16(vget_low_u16(vmovl_u8(vcreate_u8(b))));
}
FN vf vf_u8(const void *p) { return vcvtq_f32_u32(vw_bytes(p)); }
FN vf vf_i8(const void *p)
{
    uint32_t b;
    memcpy(&b, p, sizeof b);
    return vcvtq_f32_s32(vmovl_s16(vget_low_s16(vmovl_s8(vcreate_s8(b)))));
}
/* Low and high nibbles of 4 bytes. */
FN vf vf_nibble(const void *p, bool high)
{
    uint32x4_t b = vw_bytes(p);
    return vcvtq_f32_u32(high ? vshrq_n_u32(b, 4) : vandq_u32(b, vdupq_n_u32(15)));
}
/* 32 floats, rounded to nearest even, as bytes. */
typedef int8x16x2_t vb;
FN vb vf_to_bytes(const vf v[8])
{
    vb bytes;
    for (int h = 0; h < 2; h++, v += 4) {
        int16x8_t a = vcombine_s16(vmovn_s32(vcvtnq_s32_f32(v[0])), vmovn_s32(vcvtnq_s32_f32(v[1])));
        int16x8_t b = vcombine_s16(vmovn_s32(vcvtnq_s32_f32(v[2])), vmovn_s32(vcvtnq_s32_f32(v[3])));
        bytes.val[h] = vcombine_s8(vmovn_s16(a), vmovn_s16(b));
    }
    return bytes;
}
FN void vb_store(int8_t q[32], vb b)
{
    vst1q_s8(q, b.val[0]);
    vst1q_s8(q + 16, b.val[1]);
}
/* Of each: sums of the first and of the last 16 bytes. */
FN void vb_sums(const vb b[4], int32_t __attribute__((vector_size(16))) sum[2])
{
    for (int h = 0; h < 2; h++) {
        int32x4_t s[4];
        for (int i = 0; i < 4; i++) s[i] = vpaddlq_s16(vpaddlq_s8(b[i].val[h]));
        sum[h] = vpaddq_s32(vpaddq_s32(s[0], s[1]), vpaddq_s32(s[2], s[3]));
    }
}
/* Lane i: the largest of t[i]. */
FN vf vf_tops(const vf t[4]) { return vpmaxnmq_f32(vpmaxnmq_f32(t[0], t[1]), vpmaxnmq_f32(t[2], t[3])); }

FN vi vi_zero(void) { return vdupq_n_u8(0); }
FN vi vi_set(int32_t x) { return vreinterpretq_u8_s32(vdupq_n_s32(x)); }
FN vi vi_load(const void *p) { return vld1q_u8(p); }
FN vi vi_sub_bytes(vi a, vi b) { return vsubq_u8(a, b); }
FN vi vi_and(vi a, vi b) { return vandq_u8(a, b); }
FN vi vi_or(vi a, vi b) { return vorrq_u8(a, b); }
FN vi vi_flip(vi a) { return veorq_u8(a, vdupq_n_u8(128)); } /* u to u - 128 */
FN vi vi_bytes(uint8_t x) { return vdupq_n_u8(x); }
/* Lanes of 8 bits, 16 elsewhere: what would cross over is masked away by the caller. */
FN vi vi_right(vi a, int n) { return a >> n; }
FN vi vi_left(vi a, int n) { return a << n; }
FN vi vi_left32(vi a, int n) { return (vi)((int32x4_t)a << n); }
FN vi vi_sar32(vi a, int n) { return (vi)((int32x4_t)a >> n); }
FN vi vi_lut(const unsigned char table[16], vi index) { return vqtbl1q_u8(vld1q_u8(table), index); }
FN vf vf_of_int(vi a) { return vcvtq_f32_s32(vreinterpretq_s32_u8(a)); }

#endif
