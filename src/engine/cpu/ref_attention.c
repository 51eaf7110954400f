/* ref_attention.c - attention's specification, in plain C: one query at a time, page by page.
 *
 * A page of 64 tokens is the grain: scores (a chain over the dimensions in order), their maximum, e^(s - max), then the
 * running maximum, sum and output are brought up to date; the sum of a page is joined over 64 lanes, the output adds
 * tokens in order. A page that a query does not see at all is left out. Only tokens that the query sees are touched. */
#include "engine/cpu/layout.h"
#include "engine/cpu/ref_math.h"

size_t ag_attn_scratch_bytes(uint32_t heads, uint32_t dim_k, uint32_t dim_v)
{
    (void)dim_k;
    size_t queries = (size_t)AG_ATTN_TOKENS_MAX * heads;
    /* Per query: output in rows of whole vectors, the probabilities of a page, maximum and sum. */
    return AG_ALIGN_UP(queries * (AG_ALIGN_UP(dim_v, 16u) + AG_CPU_KV_PAGE + 2) * sizeof(float), 64);
}

typedef struct state {
    float max, sum;
    float *out;
} state;

static float number_at(const ag_attn *a, const void *p, size_t i)
{
    return a->f32 ? ((const float *)p)[i] : ag_f16_to_f32(((const uint16_t *)p)[i]);
}

/* `k`: where the page's keys begin. */
static float score(const ag_attn *a, const float *q, size_t k, uint32_t slot)
{
    size_t key = k + (size_t)(slot / AG_CPU_KV_BLOCK) * a->dim_k * AG_CPU_KV_BLOCK + slot % AG_CPU_KV_BLOCK;
    float s = 0;
    for (uint32_t i = 0; i < a->dim_k; i++) s = fmaf(q[i], number_at(a, a->k, key + (size_t)i * AG_CPU_KV_BLOCK), s);
    s *= a->scale;
    return a->softcap > 0 ? a->softcap * ag__tanh(s * (1.0f / a->softcap)) : s;
}

/* Slots [from,to) of a page. */
static void page_add(const ag_attn *a, state *st, const float *q, uint32_t page, uint32_t from, uint32_t to)
{
    size_t k = page * a->k_page_stride, v = page * a->v_page_stride;
    float p[AG_CPU_KV_PAGE] = {0}, lane[AG_CPU_KV_PAGE], max = st->max;
    for (uint32_t i = from; i < to; i++) {
        p[i] = score(a, q, k, i);
        max = p[i] > max ? p[i] : max;
    }
    for (uint32_t i = from; i < to; i++) p[i] = ag__exp(p[i] - max);
    memcpy(lane, p, sizeof lane);
    for (uint32_t h = AG_CPU_KV_PAGE / 2; h > 0; h /= 2) {
        for (uint32_t i = 0; i < h; i++) lane[i] += lane[i + h];
    }
    float keep = ag__exp(st->max - max);
    st->max = max;
    st->sum = fmaf(st->sum, keep, lane[0]);
    for (uint32_t d = 0; d < a->dim_v; d++) {
        float o = st->out[d] * keep;
        for (uint32_t i = from; i < to; i++) o = fmaf(p[i], number_at(a, a->v, v + (size_t)i * a->dim_v + d), o);
        st->out[d] = o;
    }
}

void ag_cpu_kv_store_f32(float *k, float *v, uint32_t slot, const float *key, const float *value, uint32_t dim_k, uint32_t dim_v)
{
    AG_ASSERT(slot < AG_CPU_KV_PAGE);
    k += (size_t)(slot / AG_CPU_KV_BLOCK) * dim_k * AG_CPU_KV_BLOCK + slot % AG_CPU_KV_BLOCK;
    for (uint32_t i = 0; i < dim_k; i++) k[(size_t)i * AG_CPU_KV_BLOCK] = key[i];
    memcpy(v + (size_t)slot * dim_v, value, dim_v * sizeof *v);
}

void ag__attention_scalar(const ag_attn *a)
{
    AG_ASSERT(a->tokens <= AG_ATTN_TOKENS_MAX && a->dim_k % 8 == 0 && a->dim_v % 8 == 0);
    for (uint32_t t = 0; t < a->tokens; t++) {
        uint32_t last = a->pos + t; /* the key of the token itself */
        uint32_t first = a->window && last >= a->window ? last - a->window + 1 : 0;
        for (uint32_t h = 0; h < a->heads; h++) {
            state st = {-INFINITY, 0, a->out + t * a->out_stride + (size_t)h * a->dim_v};
            for (uint32_t d = 0; d < a->dim_v; d++) st.out[d] = 0;
            for (uint32_t pg = first / AG_CPU_KV_PAGE; pg <= last / AG_CPU_KV_PAGE; pg++) {
                uint32_t start = pg * AG_CPU_KV_PAGE;
                page_add(a, &st, a->q + t * a->q_stride + (size_t)h * a->dim_k, a->pages[pg],
                         AG_MAX(first, start) - start, AG_MIN(last + 1, start + AG_CPU_KV_PAGE) - start);
            }
            float inverse = 1.0f / st.sum;
            for (uint32_t d = 0; d < a->dim_v; d++) st.out[d] *= inverse;
        }
    }
}
