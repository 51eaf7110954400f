/* ref_math.h - the functions' specification: every instruction set computes e^x and tanh by these steps.
 * Owns nothing; any thread; no errors. exp: within 2 ulp for -87.3 <= x <= 88.3, 1 at 0, zero below, e^88.37 above.
 * Source: the polynomials are those of S. Moshier's Cephes (expf, tanhf). */
#ifndef AG_REF_MATH_H
#define AG_REF_MATH_H

#include <math.h>

#include "base/base.h"

#define AG__EXP_LO (-87.33654f)
#define AG__EXP_HI 88.37f
#define AG__EXP_MAGIC 12582912.0f /* 1.5 * 2^23: adding it rounds to an integer, which then stands in the low bits */
#define AG__LOG2E 1.44269504f
#define AG__LN2_HI 0.693359375f
#define AG__LN2_LO (-2.12194440e-4f)
#define AG__EXP_C0 1.9875691500e-4f
#define AG__EXP_C1 1.3981999507e-3f
#define AG__EXP_C2 8.3334519073e-3f
#define AG__EXP_C3 4.1665795894e-2f
#define AG__EXP_C4 1.6666665459e-1f
#define AG__EXP_C5 5.0000001201e-1f
/* (2^r - 1) / r for -1/2 <= r <= 1/2, by weighted least squares; 2^0 is 1 to the bit. */
#define AG__EXP2_LO (-126.0f)
#define AG__EXP2_C0 1.326470054e-3f
#define AG__EXP2_C1 9.671514854e-3f
#define AG__EXP2_C2 5.550733954e-2f
#define AG__EXP2_C3 0.2402224243f
#define AG__EXP2_C4 0.6931470037f
#define AG__TANH_C0 (-5.70498872745e-3f)
#define AG__TANH_C1 2.06390887954e-2f
#define AG__TANH_C2 (-5.37397155531e-2f)
#define AG__TANH_C3 1.33314422036e-1f
#define AG__TANH_C4 (-3.33332819422e-1f)
#define AG__TANH_SPLIT 0.625f
/* 2 sqrt(2 / pi) and the same times 0.044715 */
#define AG__GELU_A 1.59576912f
#define AG__GELU_B 0.0713548163f

static inline float ag__exp(float x)
{
    float c = x > AG__EXP_HI ? AG__EXP_HI : x;
    c = c < AG__EXP_LO ? AG__EXP_LO : c;
    float t = fmaf(c, AG__LOG2E, AG__EXP_MAGIC), n = t - AG__EXP_MAGIC;
    float r = fmaf(n, -AG__LN2_LO, fmaf(n, -AG__LN2_HI, c));
    float p = fmaf(AG__EXP_C0, r, AG__EXP_C1);
    p = fmaf(p, r, AG__EXP_C2);
    p = fmaf(p, r, AG__EXP_C3);
    p = fmaf(p, r, AG__EXP_C4);
    p = fmaf(p, r, AG__EXP_C5);
    p = fmaf(p, r * r, r) + 1.0f;
    uint32_t bits, shift;
    memcpy(&bits, &p, 4);
    memcpy(&shift, &t, 4);
    bits += shift << 23;
    memcpy(&p, &bits, 4);
    return x < AG__EXP_LO ? 0.0f : p;
}

/* 2^x for x <= 0, within 2e-7 of it; below -126 as at -126. */
static inline float ag__exp2(float x)
{
    float c = x > AG__EXP2_LO ? x : AG__EXP2_LO, t = c + AG__EXP_MAGIC, r = c - (t - AG__EXP_MAGIC);
    float p = fmaf(AG__EXP2_C0, r, AG__EXP2_C1);
    p = fmaf(p, r, AG__EXP2_C2);
    p = fmaf(p, r, AG__EXP2_C3);
    p = fmaf(p, r, AG__EXP2_C4);
    p = fmaf(p, r, 1.0f);
    uint32_t bits, shift;
    memcpy(&bits, &p, 4);
    memcpy(&shift, &t, 4);
    bits += shift << 23;
    memcpy(&p, &bits, 4);
    return p;
}

static inline float ag__tanh(float x)
{
    float a = fabsf(x), z = x * x;
    float p = fmaf(AG__TANH_C0, z, AG__TANH_C1);
    p = fmaf(p, z, AG__TANH_C2);
    p = fmaf(p, z, AG__TANH_C3);
    p = fmaf(p, z, AG__TANH_C4);
    float small = fmaf(p * z, x, x);
    float large = copysignf(1.0f - 2.0f / (ag__exp(a + a) + 1.0f), x);
    return a < AG__TANH_SPLIT ? small : large;
}

static inline float ag__silu(float x) { return x / (1.0f + ag__exp(-x)); }
/* x / 2 (1 + tanh(v / 2)) = x / (1 + e^-v) */
static inline float ag__gelu(float x) { return x / (1.0f + ag__exp(-(x * fmaf(x * x, AG__GELU_B, AG__GELU_A)))); }

#endif
