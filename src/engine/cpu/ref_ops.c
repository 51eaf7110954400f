/* ref_ops.c - the small operations' specification, in plain C. */
#include "engine/cpu/layout.h"
#include "engine/cpu/ref_math.h"

#define LANES 64 /* of a reduction: element i goes to lane i % 64, lanes are joined i + 32, then i + 16, ... */

static float join(float lane[LANES])
{
    for (int h = LANES / 2; h > 0; h /= 2) {
        for (int i = 0; i < h; i++) lane[i] += lane[i + h];
    }
    return lane[0];
}

static void quantize_column(const ag_act *a, uint32_t c, const float *x)
{
    ag_act_block *b = a->b + c * a->b_stride;
    for (uint32_t g = 0; g < a->k / 32; g++, b++, x += 32) {
        float max = 0;
        for (int i = 0; i < 32; i++) max = fabsf(x[i]) > max ? fabsf(x[i]) : max;
        bool some = max >= 1e-30f; /* below, 127 / max comes near overflow */
        float inverse = some ? 127.0f / max : 0.0f;
        int32_t sum[2] = {0, 0};
        for (int i = 0; i < 32; i++) {
            float q = (x[i] * inverse + AG__EXP_MAGIC) - AG__EXP_MAGIC;
            b->q[i] = (int8_t)q;
            sum[i / 16] += b->q[i];
        }
        b->d = some ? max / 127.0f : 0.0f;
        b->ds = b->d * (float)(sum[0] + sum[1]);
        b->n8 = (sum[0] + sum[1]) * -8;
        b->n128 = (sum[0] + sum[1]) * -128;
        for (int h = 0; h < 2; h++) {
            b->n32[h] = sum[h] * -32;
            b->ds16[h] = b->d * (float)sum[h];
        }
    }
}

static void quantize_scalar(const ag_act *a, uint32_t c, uint32_t cols, const float *x, size_t x_stride)
{
    AG_ASSERT(a->k % 32 == 0);
    for (uint32_t i = 0; i < cols; i++) quantize_column(a, c + i, x + i * x_stride);
}

static void rms_norm_scalar(float *y, const float *x, const float *w, uint32_t n, float eps)
{
    float lane[LANES] = {0};
    for (uint32_t i = 0; i < n; i++) lane[i % LANES] = fmaf(x[i], x[i], lane[i % LANES]);
    float r = 1.0f / sqrtf(join(lane) / (float)n + eps);
    for (uint32_t i = 0; i < n; i++) y[i] = x[i] * r * w[i];
}

static void add_scalar(float *y, const float *x, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) y[i] += x[i];
}

static void scale_scalar(float *y, float s, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) y[i] *= s;
}

static void glu_scalar(float *y, const float *gate, const float *up, uint32_t n, ag_act_fn f)
{
    for (uint32_t i = 0; i < n; i++) y[i] = (f == AG_ACT_SILU ? ag__silu(gate[i]) : ag__gelu(gate[i])) * up[i];
}

static void rope_scalar(float *x, const float *cos, const float *sin, uint32_t n_rot, bool interleaved)
{
    uint32_t half = n_rot / 2;
    for (uint32_t i = 0; i < half; i++) {
        float *a = interleaved ? x + 2 * i : x + i, *b = interleaved ? a + 1 : a + half;
        float x0 = *a, x1 = *b;
        *a = fmaf(-x1, sin[i], x0 * cos[i]);
        *b = fmaf(x0, sin[i], x1 * cos[i]);
    }
}

static void softcap_scalar(float *y, float cap, uint32_t n)
{
    float inverse = 1.0f / cap;
    for (uint32_t i = 0; i < n; i++) y[i] = cap * ag__tanh(y[i] * inverse);
}

static uint16_t half_of(float f)
{
    f = f > 65504.0f ? 65504.0f : f;
    return ag_f32_to_f16(f < -65504.0f ? -65504.0f : f);
}

static void kv_store_scalar(uint16_t *k, uint16_t *v, uint32_t slot, const float *key, const float *value,
                            uint32_t dim_k, uint32_t dim_v)
{
    AG_ASSERT(slot < AG_CPU_KV_PAGE);
    k += (size_t)(slot / AG_CPU_KV_BLOCK) * dim_k * AG_CPU_KV_BLOCK + slot % AG_CPU_KV_BLOCK;
    v += (size_t)slot * dim_v;
    for (uint32_t i = 0; i < dim_k; i++) k[i * AG_CPU_KV_BLOCK] = half_of(key[i]);
    for (uint32_t i = 0; i < dim_v; i++) v[i] = half_of(value[i]);
}

static uint32_t argmax_scalar(const float *x, uint32_t n)
{
    uint32_t best = 0;
    for (uint32_t i = 1; i < n; i++) {
        if (x[i] > x[best]) best = i;
    }
    return best;
}

static float max_exp_sum_scalar(const float *x, uint32_t n, float max)
{
    float lane[LANES] = {0};
    for (uint32_t i = 0; i < n; i++) lane[i % LANES] += ag__exp(x[i] - max);
    return join(lane);
}

const ag_cpu_ops ag__ops_scalar = {
    .matmul = ag__matmul_scalar, .attention = ag__attention_scalar,
    .attention_join = ag__attention_join_scalar, .quantize = quantize_scalar,
    .rms_norm = rms_norm_scalar, .add = add_scalar, .scale = scale_scalar, .glu = glu_scalar, .rope = rope_scalar,
    .softcap = softcap_scalar, .kv_store = kv_store_scalar, .argmax = argmax_scalar,
    .max_exp_sum = max_exp_sum_scalar,
};
