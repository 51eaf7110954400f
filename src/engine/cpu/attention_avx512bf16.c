/* Attention over f16 keys and values for AVX-512 with BF16: both products take pairs of bf16.
 *
 * The scaled query, the page's keys and values, and the probabilities of a page are rounded to bf16 (to nearest even);
 * pairs are of dimensions for the scores and of tokens for the output, and where queries are many a page is turned into
 * them once for all. A sum takes a pair at a time, in order, in f32: VDPBF16PS adds to it the product of the odd, then
 * that of the even numbers, and counts denormals as zero. Probabilities are summed as they were rounded, so that they
 * still add up to one. Maximum, running sums, parts and their joining are those of ref_attention.c.
 *
 * What a query gets does not depend on its block here either: every page that it sees adds at least one pair, so that
 * no sum is denormal when pairs of zeros, of tokens that others see, come before or after.
 *
 * Off by: a score by at most 2^-8 of the sum of |q k| (half of that for each factor), as in any kernel that takes bf16
 * keys; a probability and a value by 2^-9 of themselves. */
#include "engine/cpu/vec_avx512.h"

#undef AG_VEC
#define AG_VEC(name) name##_avx512bf16
#include "engine/cpu/attention_walk.inc"

/* Pairs, one from each half: lanes' low 16 bits from a, the high ones from b. */
FN __m512i pairs_of(vf a, vf b)
{
    const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6,
                                           21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    return _mm512_permutexvar_epi16(order, (__m512i)_mm512_cvtne2ps_pbh(b, a));
}

FN vf dot_pairs(vf sum, __m512i a, __m512i b) { return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b); }
FN __m512i pair_set(const uint32_t *p) { return _mm512_set1_epi32((int)*p); }

/* Slots that nobody sees may hold anything, and zero times that may be a NaN. */
FN vf f16_or_zero(__mmask16 there, const void *p)
{
    return _mm512_maskz_cvtph_ps(there, _mm256_loadu_si256((const __m256i *)p));
}

/* Scores of nq queries and the page's tokens, into p. Those of tokens that nobody sees are anything. */
FN void scores_block(const team *t, int nq, bool wide, const uint32_t *q)
{
    vf acc[QUERIES][QUERY_VECS];
    uint32_t pairs = t->a->dim_k / 2;
    const unsigned char *k = t->k;
#pragma GCC unroll 6
    for (int i = 0; i < nq; i++) {
#pragma GCC unroll 4
        for (int j = 0; j < QUERY_VECS; j++) acc[i][j] = vf_zero();
    }
    for (uint32_t d = 0; d < pairs; d++, q += QUERIES, k += 64) {
        __m512i x[QUERY_VECS];
        if (!wide) ask(t->after_k + (size_t)d * QUERY_VECS * 64, QUERY_VECS * 64);
#pragma GCC unroll 4
        for (uint32_t j = 0; j < QUERY_VECS; j++) {
            const unsigned char *pair = k + (size_t)j * pairs * 64;
            x[j] = wide ? vi_load(pair) : pairs_of(vf_f16(pair), vf_f16(pair + 32));
        }
#pragma GCC unroll 6
        for (int i = 0; i < nq; i++) {
            __m512i y = pair_set(q + i);
#pragma GCC unroll 4
            for (int j = 0; j < QUERY_VECS; j++) acc[i][j] = dot_pairs(acc[i][j], y, x[j]);
        }
    }
#pragma GCC unroll 6
    for (int i = 0; i < nq; i++) {
#pragma GCC unroll 4
        for (int j = 0; j < QUERY_VECS; j++) vf_store(t->p + i * PAGE + LANES * j, acc[i][j]);
    }
}

/* Brings nv vectors of the outputs from dimension d on to the new maximum and adds p times the values of slots r, and
 * of those that complete a pair: their p is zero. */
FN void values_block(const team *t, int nq, int nv, bool wide, float *out, uint32_t d, range r)
{
    vf acc[QUERIES][QUERY_VECS];
    out += d;
#pragma GCC unroll 6
    for (int i = 0; i < nq; i++) {
        vf keep = vf_set(t->keep[i]);
#pragma GCC unroll 4
        for (int j = 0; j < nv; j++) acc[i][j] = vf_mul(vf_load(out + (size_t)i * t->rec + LANES * j), keep);
    }
    const uint32_t *p = (const uint32_t *)(const void *)t->p + r.from / 2;
    size_t step = (size_t)t->v_row * 4;
    const unsigned char *v = (const unsigned char *)t->v + r.from / 2 * step + (size_t)d * (wide ? 4 : 2);
    for (uint32_t s = r.from / 2 * 2; s < r.to; s += 2, p++, v += step) {
        __m512i x[QUERY_VECS];
        __mmask16 even = s < r.from ? 0 : 0xFFFF, odd = s + 1 < r.to ? 0xFFFF : 0;
        if (!wide) ask(t->after_v + (size_t)s * t->v_row * 2 + (size_t)d * 4, (size_t)nv * 64);
#pragma GCC unroll 4
        for (int j = 0; j < nv; j++) {
            const unsigned char *two = v + (wide ? 64 : 32) * j;
            x[j] = wide ? vi_load(two) : pairs_of(f16_or_zero(even, two), f16_or_zero(odd, two + step / 2));
        }
#pragma GCC unroll 6
        for (int i = 0; i < nq; i++) {
            __m512i w = pair_set(p + i * PAGE);
#pragma GCC unroll 4
            for (int j = 0; j < nv; j++) acc[i][j] = dot_pairs(acc[i][j], w, x[j]);
        }
    }
#pragma GCC unroll 6
    for (int i = 0; i < nq; i++) {
#pragma GCC unroll 4
        for (int j = 0; j < nv; j++) vf_store(out + (size_t)i * t->rec + LANES * j, acc[i][j]);
    }
}

/* Six vectors' lanes joined at once, each in the same order: lanes 4i and 4i + 1 are of vector i, lanes 2 and 3 of
 * vector 4, 6 and 7 of vector 5. */
#define JOIN_SIX(name, op)                                                                                             \
    FN vf name(const vf v[QUERIES])                                                                                    \
    {                                                                                                                  \
        vf half[3];                                                                                                    \
        _Pragma("GCC unroll 3") for (int i = 0; i < 3; i++)                                                            \
            half[i] = op(_mm512_shuffle_f32x4(v[2 * i], v[2 * i + 1], 0x44),                                           \
                         _mm512_shuffle_f32x4(v[2 * i], v[2 * i + 1], 0xEE));                                          \
        vf a = op(_mm512_shuffle_f32x4(half[0], half[1], 0x88), _mm512_shuffle_f32x4(half[0], half[1], 0xDD));         \
        vf b = op(_mm512_shuffle_f32x4(half[2], half[2], 0x88), _mm512_shuffle_f32x4(half[2], half[2], 0xDD));         \
        a = op(_mm512_shuffle_ps(a, b, 0x44), _mm512_shuffle_ps(a, b, 0xEE));                                          \
        return op(a, _mm512_permute_ps(a, 0xB1));                                                                      \
    }
JOIN_SIX(top_of_six, vf_max)
JOIN_SIX(sum_of_six, vf_add)
static const unsigned char lane_of[QUERIES] = {0, 4, 8, 12, 2, 6};

/* From scores to probabilities, rounded, in pairs, for nq queries; `masked`: some do not see all of the page. */
FN void soften_block(team *t, int nq, bool masked, uint32_t first, float *state)
{
    vf top[QUERIES], sum[QUERIES];
    float lanes[LANES] __attribute__((aligned(64)));
    float now[QUERIES];
    __mmask16 seen[QUERIES][LANE_SETS];
#pragma GCC unroll 6
    for (int i = 0; i < QUERIES; i++) {
        top[i] = sum[i] = vf_zero();
        if (i >= nq) continue;
        vf part[LANE_SETS];
        range r = masked ? t->see[(first + (uint32_t)i) / t->a->heads] : (range){0, PAGE};
#pragma GCC unroll 4
        for (int j = 0; j < LANE_SETS; j++) {
            part[j] = vf_load(t->p + i * PAGE + j * LANES);
            if (masked) {
                seen[i][j] = vm_range((int32_t)r.from - j * LANES, (int32_t)r.to - j * LANES);
                part[j] = vf_pick(seen[i][j], part[j], vf_set(-INFINITY));
            }
        }
        top[i] = vf_max(vf_max(part[0], part[1]), vf_max(part[2], part[3]));
    }
    vf_store(lanes, top_of_six(top));
#pragma GCC unroll 6
    for (int i = 0; i < nq; i++) {
        float *max = state + (size_t)i * t->rec + t->row;
        now[i] = AG_MAX(lanes[lane_of[i]], *max);
        t->keep[i] = ag__exp2(*max - now[i]); /* 1 where they are equal; no branch: a third of pages bring a new one */
        *max = now[i];
    }
#pragma GCC unroll 6
    for (int i = 0; i < nq; i++) {
        vf e[LANE_SETS];
#pragma GCC unroll 4
        for (int j = 0; j < LANE_SETS; j++) {
            e[j] = vf_exp2(vf_sub(vf_load(t->p + i * PAGE + j * LANES), vf_set(now[i])));
            if (masked) e[j] = vf_pick(seen[i][j], e[j], vf_zero());
        }
        const __m512i ones = _mm512_set1_epi16(0x3F80);
#pragma GCC unroll 2
        for (int j = 0; j < LANE_SETS; j += 2) {
            __m512i p = (__m512i)_mm512_cvtne2ps_pbh(e[j + 1], e[j]);
            vi_store(t->p + i * PAGE + j / 2 * LANES, p);
            sum[i] = dot_pairs(sum[i], p, ones);
        }
    }
    vf_store(lanes, sum_of_six(sum));
#pragma GCC unroll 6
    for (int i = 0; i < nq; i++) {
        float *s = state + (size_t)i * t->rec + t->row + 1;
        *s = __builtin_fmaf(*s, t->keep[i], lanes[lane_of[i]]);
    }
}

typedef void scores_fn(const team *t, const uint32_t *q);
typedef void values_fn(const team *t, float *out, uint32_t d, range r);
typedef void soften_fn(team *t, uint32_t first, float *state);
#define KERNEL static __attribute__((noinline)) void
#define SCORES(nq, name, wide)                                                                                         \
    KERNEL attention_scores_##nq##name(const team *t, const uint32_t *q) { scores_block(t, nq, wide, q); }
#define VALUES(nq, nv, name, wide)                                                                                     \
    KERNEL attention_values_##nq##x##nv##name(const team *t, float *out, uint32_t d, range r)                          \
    { values_block(t, nq, nv, wide, out, d, r); }
#define VALUE_BLOCKS(nq, name, wide)                                                                                   \
    VALUES(nq, 1, name, wide) VALUES(nq, 2, name, wide) VALUES(nq, 3, name, wide) VALUES(nq, 4, name, wide)
#define KERNELS(nq)                                                                                                    \
    SCORES(nq, _f16_pairs, false) SCORES(nq, _bf16, true)                                                              \
    KERNEL attention_soften_##nq##_whole(team *t, uint32_t first, float *state)                                        \
    { soften_block(t, nq, false, first, state); }                                                                      \
    KERNEL attention_soften_##nq##_edge(team *t, uint32_t first, float *state)                                         \
    { soften_block(t, nq, true, first, state); }                                                                       \
    VALUE_BLOCKS(nq, _f16_pairs, false) VALUE_BLOCKS(nq, _bf16, true)
KERNELS(1) KERNELS(2) KERNELS(3) KERNELS(4) KERNELS(5) KERNELS(6)
#define SIX(row, name) {row(1, name), row(2, name), row(3, name), row(4, name), row(5, name), row(6, name)}
#define SCORES_ROW(nq, name) attention_scores_##nq##name
#define SOFTEN_ROW(nq, name) attention_soften_##nq##name
#define VALUES_ROW(nq, name)                                                                                           \
    { attention_values_##nq##x1##name, attention_values_##nq##x2##name, attention_values_##nq##x3##name,               \
      attention_values_##nq##x4##name }
static scores_fn *const scores[2][QUERIES] = {SIX(SCORES_ROW, _f16_pairs), SIX(SCORES_ROW, _bf16)};
static soften_fn *const soften[2][QUERIES] = {SIX(SOFTEN_ROW, _whole), SIX(SOFTEN_ROW, _edge)};
static values_fn *const values[2][QUERIES][QUERY_VECS] = {SIX(VALUES_ROW, _f16_pairs), SIX(VALUES_ROW, _bf16)};

static void cap_scores(const team *t, uint32_t nq)
{
    vf by = vf_set(t->a->softcap * AG__LOG2E);
    for (uint32_t i = 0; i < nq * PAGE; i += LANES) vf_store(t->p + i, vf_mul(by, vf_tanh(vf_load(t->p + i))));
}

static void AG_VEC(page_block)(team *t, uint32_t first, uint32_t nq)
{
    float *state = t->state + (size_t)first * t->rec;
    range all = {PAGE, 0};
    bool masked = false;
    for (uint32_t i = first; i < first + nq; i++) {
        range r = t->see[i / t->a->heads];
        masked |= r.from != 0 || r.to != PAGE;
        if (r.from < r.to) all = (range){AG_MIN(all.from, r.from), AG_MAX(all.to, r.to)};
    }
    if (all.from >= all.to) return;
    scores[t->wide][nq - 1](t, (const uint32_t *)(const void *)t->q + (size_t)first * (t->a->dim_k / 2));
    if (t->a->softcap > 0) cap_scores(t, nq);
    soften[masked][nq - 1](t, first, state);
    for (uint32_t d = 0, left = t->row / LANES; left > 0;) {
        uint32_t nv = AG_MIN(left, (uint32_t)QUERY_VECS);
        values[t->wide][nq - 1][nv - 1](t, state, d, all);
        d += nv * LANES;
        left -= nv;
    }
}

/* Keys as [block of 16 tokens][dim_k / 2][16][2], values as [pair of tokens][row][2]. */
static void AG_VEC(widen)(team *t, const void *k, const void *v, range r)
{
    uint32_t dim_k = t->a->dim_k, dim_v = t->a->dim_v;
    const uint16_t *key = k;
    unsigned char *to = (unsigned char *)t->wide_k;
    uint32_t keys_end = (r.to + BLOCK - 1) / BLOCK * dim_k * BLOCK;
    for (uint32_t i = r.from / BLOCK * dim_k * BLOCK; i < keys_end; i += 32)
        vi_store(to + (size_t)i * 2, pairs_of(vf_f16(key + i), vf_f16(key + i + 16)));
    for (uint32_t s = r.from / 2 * 2; s < r.to; s += 2) {
        const uint16_t *even = (const uint16_t *)v + (size_t)s * dim_v, *odd = even + dim_v;
        unsigned char *row = (unsigned char *)t->wide_v + (size_t)s / 2 * t->row * 4;
        for (uint32_t d = 0; d < t->row; d += LANES, row += 64) {
            uint32_t n = d < dim_v ? AG_MIN((uint32_t)LANES, dim_v - d) : 0;
            __mmask16 some = vf_first(n), a = s < r.from ? 0 : some, b = s + 1 < r.to ? some : 0;
            __m256i x = _mm256_maskz_loadu_epi16(a, even + d), y = _mm256_maskz_loadu_epi16(b, odd + d);
            vi_store(row, pairs_of(_mm512_cvtph_ps(x), _mm512_cvtph_ps(y)));
        }
    }
    t->k = t->wide_k;
    t->v = t->wide_v;
}

/* As pairs: [block of queries][dim_k / 2][QUERIES][2]. */
static void AG_VEC(scale_queries)(const team *t)
{
    const ag_attn *a = t->a;
    vf by = vf_set(a->softcap > 0 ? a->scale * (1.0f / a->softcap) : a->scale * AG__LOG2E);
    uint32_t pairs = a->dim_k / 2;
    for (uint32_t i = 0; i < t->queries; i++) {
        const float *q = a->q + i / a->heads * a->q_stride + (size_t)(i % a->heads) * a->dim_k;
        uint32_t *to = (uint32_t *)(void *)t->q + (size_t)(i / QUERIES * QUERIES) * pairs + i % QUERIES;
        for (uint32_t d = 0; d < a->dim_k; d += LANES) {
            uint32_t pair[LANES / 2], n = AG_MIN((uint32_t)LANES, a->dim_k - d);
            _mm256_storeu_si256((__m256i *)(void *)pair, (__m256i)_mm512_cvtneps_pbh(vf_mul(vf_load_n(q + d, n), by)));
            for (uint32_t j = 0; j < n / 2; j++) to[(size_t)(d / 2 + j) * QUERIES] = pair[j];
        }
    }
}

void AG_VEC(ag__attention)(const ag_attn *a)
{
    if (a->type == AG_KV_F16) AG_VEC(attend)(a);
    else ag__attention_avx512(a);
}
