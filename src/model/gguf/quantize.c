/* The plain types, and which quantizer this machine runs. */
#define QUANTIZE_WIDTH 4
#define QUANTIZE_NAME ag__quantize_4
#include "model/gguf/quantize_blocks.inc"

bool ag_quantize_can(ag_quant_type t)
{
    switch (t) {
    case AG_Q_F32: case AG_Q_F16: case AG_Q_BF16: case AG_Q_Q8_0: case AG_Q_Q4_0: case AG_Q_Q4_1: case AG_Q_Q5_0:
    case AG_Q_Q5_1: case AG_Q_Q4_K: case AG_Q_Q5_K: case AG_Q_Q6_K:
        return true;
    default:
        return false;
    }
}

ag__quantize_fn *ag__quantize_of(unsigned width)
{
#if defined(__x86_64__)
    if (width == 8 && __builtin_cpu_supports("avx2")) return ag__quantize_8;
    if (width == 16 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq")) return ag__quantize_16;
#endif
    return width == 4 ? ag__quantize_4 : NULL;
}

static ag__quantize_fn *widest(void)
{
    for (unsigned width = 16;; width /= 2) {
        ag__quantize_fn *f = ag__quantize_of(width);
        if (f != NULL) return f;
    }
}

/* To the nearest, ties to even; a large float32 may become an infinity. */
static uint16_t f32_to_bf16(float f)
{
    uint32_t u;
    memcpy(&u, &f, 4);
    return (uint16_t)((u + 0x7FFF + (u >> 16 & 1)) >> 16);
}

void ag_quantize(ag_quant_type t, ag_quant_cost cost, const float *x, void *y, uint64_t n)
{
    const ag_quant_row *r = ag_quant_find((uint32_t)t);
    AG_ASSERT(r != NULL && n % r->block == 0 && ag_quantize_can(t));
    uint8_t *out = y;
    if (t == AG_Q_F32) {
        if (n) memcpy(y, x, n * 4);
    } else if (t == AG_Q_F16 || t == AG_Q_BF16) {
        for (uint64_t i = 0; i < n; i++) {
            uint16_t h = t == AG_Q_F16 ? ag_f32_to_f16(x[i]) : f32_to_bf16(x[i]);
            memcpy(out + i * 2, &h, 2);
        }
    } else {
        widest()(t, cost, x, out, n);
    }
}
