/* ref_attention.c - attention's specification, in plain C: one query at a time, page by page.
 *
 * The query is scaled first, by log2(e) too, so that e^x becomes 2^x. A page of 64 tokens is the grain: scores (a chain
 * over the dimensions in order), their maximum, 2^(s - max), then the running maximum, sum and output are brought up to
 * date; the sum of a page is joined over 64 lanes, the output adds tokens in order. Pages of AG_ATTN_PART tokens make a
 * part; parts begin anew and are joined in order. Pages and parts that a query does not see at all are left out. Only
 * tokens that the query sees are touched.
 *
 * Keys of q8_0 are multiplied as bytes by the query rounded to bytes, exactly in int32 within 32 dimensions, then
 * joined in f32 in order; values of q8_0 are turned into f32 first. */
#include "engine/cpu/layout.h"
#include "engine/cpu/ref_math.h"

uint32_t ag_attn_tokens(uint32_t heads)
{
    uint32_t n = AG_ATTN_QUERIES / AG_MAX(heads, 1u);
    return AG_MAX(AG_MIN(n, (uint32_t)AG_ATTN_TOKENS_MAX), 1u);
}

uint32_t ag_attn_rec(uint32_t dim_v) { return AG_ALIGN_UP(dim_v, 16u) + 16; }

size_t ag_attn_scratch_bytes(uint32_t heads, uint32_t dim_k, uint32_t dim_v)
{
    size_t queries = (size_t)ag_attn_tokens(heads) * heads, row = AG_ALIGN_UP(dim_v, 16u), block = AG_CPU_QUERIES_MAX;
    /* States of all parts and of one; a page in f32 (for q8_0 the scales of values in place of keys); scores of a block
     * of queries; the queries, in whole blocks. */
    size_t floats = 2 * queries * ag_attn_rec(dim_v) + AG_CPU_KV_PAGE * (AG_MAX(dim_k, dim_v / 32) + row) +
                    block * AG_CPU_KV_PAGE + (queries + block) * dim_k;
    return AG_ALIGN_UP(floats * sizeof(float), 64);
}

typedef struct state {
    float *out, *max, *sum;
} state;

static state state_at(const ag_attn *a, float *mem, uint32_t query)
{
    float *p = mem + (size_t)query * ag_attn_rec(a->dim_v);
    return (state){p, p + AG_ALIGN_UP(a->dim_v, 16u), p + AG_ALIGN_UP(a->dim_v, 16u) + 1};
}

static float number_at(const ag_attn *a, const void *p, size_t i)
{
    return a->type == AG_KV_F32 ? ((const float *)p)[i] : ag_f16_to_f32(((const uint16_t *)p)[i]);
}

/* Rounds to the nearest integer, ties to even, which then stands in the low bits. */
static int8_t byte_of(float x)
{
    x = x > 127.0f ? 127.0f : x;
    x = (x < -127.0f ? -127.0f : x) + AG__EXP_MAGIC;
    int32_t bits;
    memcpy(&bits, &x, 4);
    return (int8_t)(bits & 0xFF);
}

static float largest(const float x[32])
{
    float max = 0;
    for (int i = 0; i < 32; i++) max = fabsf(x[i]) > max ? fabsf(x[i]) : max;
    return max;
}

void ag__query_quantize(ag__query_block *b, const float *x, float by)
{
    float y[32];
    for (int i = 0; i < 32; i++) y[i] = x[i] * by;
    float max = largest(y), inverse = max >= 1e-30f ? 127.0f / max : 0.0f;
    int32_t sum = 0;
    for (int i = 0; i < 32; i++) sum += b->q[i] = byte_of(y[i] * inverse);
    b->d = max >= 1e-30f ? max / 127.0f : 0.0f;
    b->n128 = sum * -128;
}

/* The scale is rounded first, so that the bytes belong to the scale that is kept. */
static uint16_t kv_quantize(int8_t q[32], const float *x)
{
    float d = largest(x) / 127.0f;
    uint16_t half = ag_f32_to_f16(d < 65504.0f ? d : 65504.0f);
    d = ag_f16_to_f32(half);
    float inverse = d > 0 ? 1.0f / d : 0.0f;
    for (int i = 0; i < 32; i++) q[i] = byte_of(x[i] * inverse);
    return half;
}

void ag_cpu_kv_store_q8(unsigned char *k, unsigned char *v, uint32_t slot, const float *key, const float *value,
                        uint32_t dim_k, uint32_t dim_v)
{
    AG_ASSERT(slot < AG_CPU_KV_PAGE && dim_k % 32 == 0 && dim_v % 32 == 0);
    uint16_t *k_scale = (uint16_t *)(void *)(k + (size_t)AG_CPU_KV_PAGE * dim_k),
             *v_scale = (uint16_t *)(void *)(v + (size_t)AG_CPU_KV_PAGE * dim_v);
    uint32_t set = slot / AG_CPU_KV_BLOCK, lane = slot % AG_CPU_KV_BLOCK;
    for (uint32_t b = 0; b < dim_k / 32; b++) {
        int8_t q[32];
        k_scale[(set * (dim_k / 32) + b) * AG_CPU_KV_BLOCK + lane] = kv_quantize(q, key + 32 * b);
        for (int i = 0; i < 32; i++) q[i] = (int8_t)(q[i] ^ -128);
        unsigned char *to = k + ((size_t)set * (dim_k / 4) + 8 * b) * 64 + lane * 4;
        for (int i = 0; i < 8; i++) memcpy(to + 64 * i, q + 4 * i, 4);
    }
    for (uint32_t b = 0; b < dim_v / 32; b++)
        v_scale[slot * (dim_v / 32) + b] = kv_quantize((int8_t *)v + (size_t)slot * dim_v + 32 * b, value + 32 * b);
}

static float score_q8(const ag_attn *a, const float *q, float by, const unsigned char *k, uint32_t slot)
{
    const uint16_t *scale = (const uint16_t *)(const void *)(k + (size_t)AG_CPU_KV_PAGE * a->dim_k);
    uint32_t set = slot / AG_CPU_KV_BLOCK, lane = slot % AG_CPU_KV_BLOCK;
    float s = 0;
    for (uint32_t b = 0; b < a->dim_k / 32; b++) {
        ag__query_block x;
        ag__query_quantize(&x, q + 32 * b, by);
        const unsigned char *u = k + ((size_t)set * (a->dim_k / 4) + 8 * b) * 64 + lane * 4;
        int32_t dot = 0;
        for (int i = 0; i < 32; i++) dot += x.q[i] * (u[i / 4 * 64 + i % 4] - 128);
        s = fmaf((float)dot, ag_f16_to_f32(scale[(set * (a->dim_k / 32) + b) * AG_CPU_KV_BLOCK + lane]) * x.d, s);
    }
    return s;
}

static float value_at(const ag_attn *a, const void *v, uint32_t slot, uint32_t d)
{
    size_t i = (size_t)slot * a->dim_v + d;
    if (a->type != AG_KV_Q8_0) return number_at(a, v, i);
    const uint16_t *scale = (const uint16_t *)v + (size_t)AG_CPU_KV_PAGE * a->dim_v / 2;
    return (float)((const int8_t *)v)[i] * ag_f16_to_f32(scale[i / 32]);
}

static float score(const ag_attn *a, const float *q, const void *k, uint32_t slot)
{
    size_t key = (size_t)(slot / AG_CPU_KV_BLOCK) * a->dim_k * AG_CPU_KV_BLOCK + slot % AG_CPU_KV_BLOCK;
    float by = a->softcap > 0 ? a->scale * (1.0f / a->softcap) : a->scale * AG__LOG2E, s = 0;
    if (a->type == AG_KV_Q8_0) s = score_q8(a, q, by, k, slot);
    else
        for (uint32_t i = 0; i < a->dim_k; i++)
            s = fmaf(q[i] * by, number_at(a, k, key + (size_t)i * AG_CPU_KV_BLOCK), s);
    return a->softcap > 0 ? a->softcap * AG__LOG2E * ag__tanh(s) : s;
}

/* Slots [from,to) of a page. */
static void page_add(const ag_attn *a, state st, const float *q, uint32_t page, uint32_t from, uint32_t to)
{
    const void *k = (const unsigned char *)a->k + page * a->k_page_stride,
               *v = (const unsigned char *)a->v + page * a->v_page_stride;
    float p[AG_CPU_KV_PAGE] = {0}, lane[AG_CPU_KV_PAGE], max = *st.max;
    for (uint32_t i = from; i < to; i++) {
        p[i] = score(a, q, k, i);
        max = p[i] > max ? p[i] : max;
    }
    for (uint32_t i = from; i < to; i++) p[i] = ag__exp2(p[i] - max);
    memcpy(lane, p, sizeof lane);
    for (uint32_t h = AG_CPU_KV_PAGE / 2; h > 0; h /= 2) {
        for (uint32_t i = 0; i < h; i++) lane[i] += lane[i + h];
    }
    float keep = ag__exp2(*st.max - max);
    *st.max = max;
    *st.sum = fmaf(*st.sum, keep, lane[0]);
    for (uint32_t d = 0; d < a->dim_v; d++) {
        float o = st.out[d] * keep;
        for (uint32_t i = from; i < to; i++) o = fmaf(p[i], value_at(a, v, i, d), o);
        st.out[d] = o;
    }
}

/* What query `i` of the call makes of a part; its sum stays 0 when it sees nothing there. */
static void run_part(const ag_attn *a, uint32_t i, uint32_t part, state st)
{
    const float *q = a->q + i / a->heads * a->q_stride + (size_t)(i % a->heads) * a->dim_k;
    uint32_t end = a->pos + i / a->heads + 1, begin = a->window && end > a->window ? end - a->window : 0;
    uint32_t from = AG_MAX(begin, part * AG_ATTN_PART), to = AG_MIN(end, (part + 1) * AG_ATTN_PART);
    for (uint32_t d = 0; d < a->dim_v; d++) st.out[d] = 0;
    *st.max = -INFINITY;
    *st.sum = 0;
    while (from < to) {
        uint32_t page = from / AG_CPU_KV_PAGE, start = page * AG_CPU_KV_PAGE, next = AG_MIN(start + AG_CPU_KV_PAGE, to);
        page_add(a, st, q, a->pages[page], from - start, next - start);
        from = next;
    }
}

static void join(const ag_attn *a, state total, state part)
{
    if (*part.sum == 0) return;
    bool first = *total.sum == 0;
    float max = first ? *part.max : AG_MAX(*total.max, *part.max);
    float x = ag__exp2(*total.max - max), y = ag__exp2(*part.max - max);
    for (uint32_t d = 0; d < a->dim_v; d++) total.out[d] = first ? part.out[d] : fmaf(total.out[d], x, part.out[d] * y);
    *total.sum = first ? *part.sum : fmaf(*total.sum, x, *part.sum * y);
    *total.max = max;
}

static void finish(const ag_attn *a, uint32_t i, state st)
{
    float *y = a->out + i / a->heads * a->out_stride + (size_t)(i % a->heads) * a->dim_v, inverse = 1.0f / *st.sum;
    for (uint32_t d = 0; d < a->dim_v; d++) y[d] = st.out[d] * inverse + 0.0f; /* no negative zeros */
}

void ag_cpu_kv_store_f32(float *k, float *v, uint32_t slot, const float *key, const float *value, uint32_t dim_k,
                         uint32_t dim_v)
{
    AG_ASSERT(slot < AG_CPU_KV_PAGE);
    k += (size_t)(slot / AG_CPU_KV_BLOCK) * dim_k * AG_CPU_KV_BLOCK + slot % AG_CPU_KV_BLOCK;
    for (uint32_t i = 0; i < dim_k; i++) k[(size_t)i * AG_CPU_KV_BLOCK] = key[i];
    memcpy(v + (size_t)slot * dim_v, value, dim_v * sizeof *v);
}

void ag__attention_scalar(const ag_attn *a)
{
    uint32_t queries = a->tokens * a->heads;
    AG_ASSERT(a->tokens >= 1 && a->tokens <= ag_attn_tokens(a->heads) && a->from < a->to);
    for (uint32_t i = 0; i < queries; i++) {
        state total = state_at(a, a->scratch, 0), part = state_at(a, a->scratch, 1);
        for (uint32_t at = a->from; at < a->to; at++) {
            if (a->partial) part = state_at(a, a->partial, (at - a->from) * queries + i);
            run_part(a, i, at, !a->partial && at == a->from ? total : part);
            if (!a->partial && at > a->from) join(a, total, part);
        }
        if (!a->partial) finish(a, i, total);
    }
}

void ag__attention_join_scalar(const ag_attn *a)
{
    uint32_t queries = a->tokens * a->heads;
    for (uint32_t i = 0; i < queries; i++) {
        state total = state_at(a, a->partial, i);
        for (uint32_t at = 1; at < a->to - a->from; at++) join(a, total, state_at(a, a->partial, at * queries + i));
        finish(a, i, total);
    }
}
