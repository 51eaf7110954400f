/* Attention on every instruction set: against double precision, against the scalar table bit for bit (but for AVX-512
 * with BF16, which rounds what it multiplies), and a token in a tile against the token alone. Slots that nobody wrote
 * hold NaN, so that a touch of one shows. */
#include "engine/cpu/fixture.h"

typedef struct shape {
    uint32_t heads, dim_k, dim_v, pos, tokens, window;
    float softcap;
    ag_kv_type type;
} shape;
#define SHAPE "cache %d heads %u dims %u %u pos %u tokens %u window %u cap %g"
#define SHAPE_OF(s) (int)(s).type, (s).heads, (s).dim_k, (s).dim_v, (s).pos, (s).tokens, (s).window, (double)(s).softcap

typedef struct scene {
    shape s;
    uint32_t total, n_pages, pages[32];
    float *q, *k, *v; /* k, v: as they come back from the cache, by position */
    unsigned char *kc, *vc;
    void *scratch;
    ag_attn a;
} scene;

/* The 32 numbers of a key or value that q8_0 keeps together, as they come back. */
static void back_from_q8(const int8_t *q, int add, uint32_t stride, uint16_t scale, float *out)
{
    for (uint32_t i = 0; i < 32; i++)
        out[i] = (float)((int8_t)(q[i / 4 * stride + i % 4] ^ add)) * ag_f16_to_f32(scale);
}

static void scene_store(scene *c, uint32_t p, unsigned char *k_page, unsigned char *v_page)
{
    const shape *s = &c->s;
    float *k = c->k + (size_t)p * s->dim_k, *v = c->v + (size_t)p * s->dim_v;
    uint32_t slot = p % AG_CPU_KV_PAGE;
    if (s->type == AG_KV_F32)
        ag_cpu_kv_store_f32((float *)(void *)k_page, (float *)(void *)v_page, slot, k, v, s->dim_k, s->dim_v);
    if (s->type == AG_KV_F16)
        ag_cpu_isa_find("scalar")->ops->kv_store((uint16_t *)(void *)k_page, (uint16_t *)(void *)v_page, slot, k, v,
                                                 s->dim_k, s->dim_v);
    for (uint32_t i = 0; s->type == AG_KV_F16 && i < s->dim_k; i++) k[i] = ag_f16_to_f32(ag_f32_to_f16(k[i]));
    for (uint32_t i = 0; s->type == AG_KV_F16 && i < s->dim_v; i++) v[i] = ag_f16_to_f32(ag_f32_to_f16(v[i]));
    if (s->type != AG_KV_Q8_0) return;
    ag_cpu_kv_store_q8(k_page, v_page, slot, k, v, s->dim_k, s->dim_v);
    const uint16_t *k_scale = (const uint16_t *)(void *)(k_page + 64 * s->dim_k),
                   *v_scale = (const uint16_t *)(void *)(v_page + 64 * s->dim_v);
    for (uint32_t b = 0; b < s->dim_k / 32; b++) {
        float was[32];
        memcpy(was, k + 32 * b, sizeof was);
        back_from_q8((const int8_t *)k_page + (slot / 16 * (s->dim_k / 4) + 8 * b) * 64 + slot % 16 * 4, -128, 64,
                     k_scale[(slot / 16 * (s->dim_k / 32) + b) * 16 + slot % 16], k + 32 * b);
        for (int i = 0; i < 32; i++)
            assert_true(fabsf(was[i] - k[32 * b + (uint32_t)i]) < 0.025f); /* half of 6 / 127 */
    }
    for (uint32_t b = 0; b < s->dim_v / 32; b++)
        back_from_q8((const int8_t *)v_page + slot * s->dim_v + 32 * b, 0, 4, v_scale[slot * (s->dim_v / 32) + b],
                     v + 32 * b);
}

static void scene_init(scene *c, shape s)
{
    *c = (scene){.s = s, .total = s.pos + s.tokens};
    c->n_pages = (c->total + AG_CPU_KV_PAGE - 1) / AG_CPU_KV_PAGE;
    assert_true(c->n_pages <= AG_ARRAY_LEN(c->pages));
    size_t k_page = ag_kv_head_bytes(s.type, s.dim_k) + 64, v_page = ag_kv_head_bytes(s.type, s.dim_v) + 128;
    c->q = fix_mem((size_t)s.tokens * s.heads * s.dim_k * 4);
    c->k = fix_mem((size_t)c->total * s.dim_k * 4);
    c->v = fix_mem((size_t)c->total * s.dim_v * 4);
    c->kc = fix_mem(c->n_pages * k_page);
    c->vc = fix_mem(c->n_pages * v_page);
    memset(c->kc, 0x7F, c->n_pages * k_page); /* NaN in f16 and, as good as, in f32 */
    memset(c->vc, 0x7F, c->n_pages * v_page);
    for (uint32_t i = 0; i < c->n_pages; i++) c->pages[i] = c->n_pages - 1 - i; /* not in the order of memory */
    for (size_t i = 0; i < (size_t)s.tokens * s.heads * s.dim_k; i++) c->q[i] = fix_normal() * 2;
    for (uint32_t p = 0; p < c->total; p++) {
        float *k = c->k + (size_t)p * s.dim_k, *v = c->v + (size_t)p * s.dim_v;
        for (uint32_t i = 0; i < s.dim_k; i++) k[i] = fix_normal();
        for (uint32_t i = 0; i < s.dim_v; i++) v[i] = fix_normal();
        /* Keys that the window has left behind are gone for good: leave them NaN. */
        if (s.window && p + s.window <= s.pos) continue;
        uint32_t page = c->pages[p / AG_CPU_KV_PAGE];
        scene_store(c, p, c->kc + page * k_page, c->vc + page * v_page);
    }
    c->scratch = fix_mem(ag_attn_scratch_bytes(s.heads, s.dim_k, s.dim_v));
    c->a = (ag_attn){.q = c->q,
                     .q_stride = (size_t)s.heads * s.dim_k,
                     .tokens = s.tokens,
                     .heads = s.heads,
                     .pos = s.pos,
                     .dim_k = s.dim_k,
                     .dim_v = s.dim_v,
                     .scale = 1 / sqrtf((float)s.dim_k),
                     .softcap = s.softcap,
                     .window = s.window,
                     .pages = c->pages,
                     .type = s.type,
                     .k = c->kc,
                     .v = c->vc,
                     .k_page_stride = k_page,
                     .v_page_stride = v_page,
                     .out_stride = (size_t)s.heads * s.dim_v + 5,
                     .scratch = c->scratch};
}

static void scene_fini(scene *c)
{
    void *all[] = {c->q, c->k, c->v, c->kc, c->vc, c->scratch};
    for (size_t i = 0; i < AG_ARRAY_LEN(all); i++) ag_mem_free(all[i]);
}

/* Tokens [from, from + n) of the scene into out, which has a row for each token of the scene. */
static void scene_run(const scene *c, const ag_cpu_ops *ops, uint32_t from, uint32_t n, float *out)
{
    ag_attn a = c->a;
    a.q += from * a.q_stride;
    a.pos += from;
    a.tokens = n;
    a.out = out + from * a.out_stride;
    ag_attn_parts(a.pos, n, a.window, &a.from, &a.to);
    memset(c->scratch, 0xFF, ag_attn_scratch_bytes(a.heads, a.dim_k, a.dim_v));
    ops->attention(&a);
}

/* The same with every part by itself, the last ones first, then joined. */
static void scene_run_parts(const scene *c, const ag_cpu_ops *ops, uint32_t from, uint32_t n, float *out)
{
    ag_attn a = c->a;
    a.q += from * a.q_stride;
    a.pos += from;
    a.tokens = n;
    a.out = out + from * a.out_stride;
    uint32_t first, last;
    ag_attn_parts(a.pos, n, a.window, &first, &last);
    size_t floats = (size_t)n * a.heads * ag_attn_rec(a.dim_v);
    float *partial = fix_mem((last - first) * floats * 4);
    memset(partial, 0xFF, (last - first) * floats * 4);
    for (uint32_t at = last; at > first; at--) {
        memset(c->scratch, 0xFF, ag_attn_scratch_bytes(a.heads, a.dim_k, a.dim_v));
        a.from = at - 1;
        a.to = at;
        a.partial = partial + (at - 1 - first) * floats;
        ops->attention(&a);
    }
    a.from = first;
    a.to = last;
    a.partial = partial;
    ops->attention_join(&a);
    ag_mem_free(partial);
}

static float *scene_out(const scene *c)
{
    size_t n = c->s.tokens * c->a.out_stride;
    float *out = fix_mem(n * 4);
    for (size_t i = 0; i < n; i++) out[i] = 12345;
    return out;
}

/* To the nearest, ties to even. */
static float bf16_of(float x)
{
    uint32_t u;
    memcpy(&u, &x, 4);
    u = (u + 0x7FFF + (u >> 16 & 1)) & 0xFFFF0000u;
    memcpy(&x, &u, 4);
    return x;
}

/* With q8_0 the query is rounded to bytes as well: its numbers by up to 1/254 of the largest of 32, a score of some 2
 * by about a hundredth. Where numbers are rounded to bf16, so are they here: the scaled query, keys and values. What
 * stays is the rounding of probabilities, by 2^-9 of each at the most, in the sum over values and in what it is divided
 * by: 2^-8 of the sum of |p v|. */
static void compare_with_double(const scene *c, const float *out, bool rounded)
{
    const shape *s = &c->s;
    float by = s->softcap > 0 ? c->a.scale * (1.0f / s->softcap) : c->a.scale * 1.44269504f;
    double *p = fix_mem(c->total * sizeof *p), tolerance = s->type == AG_KV_Q8_0 ? 0.06 : 2e-5;
    for (uint32_t t = 0; t < s->tokens; t++) {
        uint32_t last = s->pos + t, first = s->window && last >= s->window ? last - s->window + 1 : 0;
        for (uint32_t h = 0; h < s->heads; h++) {
            const float *q = c->q + (t * s->heads + h) * s->dim_k;
            double max = -INFINITY, sum = 0;
            for (uint32_t i = first; i <= last; i++) {
                const float *k = c->k + (size_t)i * s->dim_k;
                p[i] = 0;
                for (uint32_t d = 0; d < s->dim_k; d++)
                    p[i] += rounded ? (double)bf16_of(q[d] * by) * bf16_of(k[d]) : (double)q[d] * by * k[d];
                p[i] = s->softcap > 0 ? s->softcap * tanh(p[i]) : p[i] * log(2);
                max = fmax(max, p[i]);
            }
            for (uint32_t i = first; i <= last; i++) sum += p[i] = exp(p[i] - max);
            for (uint32_t d = 0; d < s->dim_v; d++) {
                double want = 0, size = 0;
                for (uint32_t i = first; i <= last; i++) {
                    float v = c->v[(size_t)i * s->dim_v + d];
                    want += p[i] / sum * (rounded ? bf16_of(v) : v);
                    size += p[i] / sum * fabsf(v);
                }
                double got = out[t * c->a.out_stride + h * s->dim_v + d];
                if (!(fabs(got - want) < tolerance + (rounded ? 0x1p-8 * size : 0))) {
                    fail_msg("token %u head %u dim %u: %.9g, not %.9g (" SHAPE ")", t, h, d, got, want, SHAPE_OF(*s));
                }
            }
        }
        const float *row = out + t * c->a.out_stride;
        for (size_t i = s->heads * s->dim_v; i < c->a.out_stride; i++) assert_true(row[i] == 12345);
    }
    ag_mem_free(p);
}

/* Its bits are its own. */
static bool rounds(const ag_cpu_isa *isa, const shape *s)
{
    return strcmp(isa->name, "avx512bf16") == 0 && s->type == AG_KV_F16;
}

static void check(shape s)
{
    scene c;
    scene_init(&c, s);
    size_t bytes = s.tokens * c.a.out_stride * 4;
    float *spec = scene_out(&c);
    scene_run(&c, ag_cpu_isa_find("scalar")->ops, 0, s.tokens, spec);
    compare_with_double(&c, spec, false);
    for (const ag_cpu_isa *isa = NULL; (isa = fix_isa_next(isa)) != NULL;) {
        float *out[4];
        for (int i = 0; i < 4; i++) out[i] = scene_out(&c);
        scene_run(&c, isa->ops, 0, s.tokens, out[0]);
        for (uint32_t t = 0; t < s.tokens; t++) scene_run(&c, isa->ops, t, 1, out[1]);
        scene_run_parts(&c, isa->ops, 0, s.tokens, out[2]);
        if (s.tokens > 1) scene_run_parts(&c, isa->ops, 0, s.tokens / 2, out[3]);
        scene_run(&c, isa->ops, s.tokens / 2, s.tokens - s.tokens / 2, out[3]);
        if (rounds(isa, &s)) compare_with_double(&c, out[0], true);
        const float *want = rounds(isa, &s) ? out[0] : spec;
        static const char *const how[] = {"in a tile", "alone", "in parts", "half in parts"};
        for (int i = 0; i < 4; i++)
            if (memcmp(out[i], want, bytes)) fail_msg("%s %s: other bits (" SHAPE ")", isa->name, how[i], SHAPE_OF(s));
        for (int i = 0; i < 4; i++) ag_mem_free(out[i]);
    }
    ag_mem_free(spec);
    scene_fini(&c);
}

static void dims_and_heads(void **unused)
{
    (void)unused;
    static const uint32_t dims[][2] = {{8, 8}, {16, 16}, {24, 40}, {64, 64}, {96, 96}, {128, 128}, {256, 256}, {72, 8}};
    for (size_t i = 0; i < AG_ARRAY_LEN(dims); i++) {
        for (uint32_t heads = 1; heads <= 9; heads++) {
            check((shape){heads, dims[i][0], dims[i][1], 70 + heads, 1 + heads % 4, 0, 0, AG_KV_F16});
        }
    }
}

static void page_edges(void **unused)
{
    (void)unused;
    static const uint32_t pos[] = {0, 1, 14, 15, 16, 31, 47, 48, 62, 63, 64, 65, 127, 128, 200, 255, 256};
    for (size_t i = 0; i < AG_ARRAY_LEN(pos); i++) {
        for (uint32_t tokens = 1; tokens <= ag_attn_tokens(3); tokens += tokens < 4 ? 1 : 13) {
            check((shape){3, 16, 16, pos[i], tokens, 0, 0, AG_KV_F16});
        }
    }
}

static void windows(void **unused)
{
    (void)unused;
    static const uint32_t window[] = {1, 2, 7, 16, 17, 63, 64, 65, 100, 128, 1000};
    static const uint32_t pos[] = {0, 5, 63, 64, 126, 129, 300};
    for (size_t w = 0; w < AG_ARRAY_LEN(window); w++) {
        for (size_t p = 0; p < AG_ARRAY_LEN(pos); p++) {
            check((shape){2, 16, 24, pos[p], 16, window[w], 0, AG_KV_F16});
            check((shape){3, 8, 8, pos[p], 5, window[w], 20, AG_KV_F16});
            check((shape){1, 16, 16, pos[p], 16, window[w], 0, AG_KV_F16});
        }
    }
}

static void softcaps(void **unused)
{
    (void)unused;
    for (uint32_t pos = 0; pos < 150; pos += 37) check((shape){4, 64, 64, pos, 9, 0, pos % 2 ? 50 : 0.5f, AG_KV_F16});
}

/* Contexts across the borders of parts, with windows that end and begin in other parts than the tokens. */
static void part_edges(void **unused)
{
    (void)unused;
    static const uint32_t pos[] = {511, 512, 513, 1020, 1500};
    for (size_t i = 0; i < AG_ARRAY_LEN(pos); i++) {
        check((shape){3, 16, 16, pos[i], 1, 0, 0, AG_KV_F16});
        check((shape){3, 16, 16, pos[i], 7, 0, 0, AG_KV_F16});
        check((shape){4, 8, 24, pos[i], 9, 500, 0, AG_KV_F16});
        check((shape){2, 16, 16, pos[i], 30, 3, 0, AG_KV_F16});
        check((shape){1, 32, 32, pos[i], 64, 700, 30, AG_KV_F16});
    }
}

static void other_caches(void **unused)
{
    (void)unused;
    static const uint32_t dims[][2] = {{32, 32}, {64, 64}, {64, 32}, {96, 128}};
    for (size_t i = 0; i < AG_ARRAY_LEN(dims); i++) {
        for (uint32_t heads = 1; heads <= 8; heads++) {
            check((shape){heads, dims[i][0], dims[i][1], 60 + heads, 1 + heads % 4, 0, 0, AG_KV_Q8_0});
            check((shape){heads, dims[i][0], dims[i][1], 150, 11, 90, 0, AG_KV_Q8_0});
        }
        check((shape){3, dims[i][0], dims[i][1], 1020, 9, 0, 0, AG_KV_Q8_0});
        check((shape){3, dims[i][0], dims[i][1], 700, 5, 0, 30, AG_KV_F32});
    }
    check((shape){2, 24, 8, 100, 5, 40, 0, AG_KV_F32});
}

/* What q8_0 makes of numbers at the ends: none, one beyond f16's scale, subnormal ones. */
static void q8_extremes(void **unused)
{
    (void)unused;
    static const float peak[] = {0, 1e-9f, 1e-5f, 1, 65504, 1e8f};
    unsigned char k[68 * 32], v[68 * 32];
    for (size_t i = 0; i < AG_ARRAY_LEN(peak); i++) {
        float x[32] = {0};
        for (int j = 0; j < 8; j++) x[j] = j % 2 ? peak[i] : -peak[i];
        memset(v, 0, sizeof v);
        ag_cpu_kv_store_q8(k, v, 63, x, x, 32, 32);
        uint16_t scale;
        memcpy(&scale, v + 64 * 32 + 63 * 2, 2);
        for (int j = 0; j < 32; j++) {
            float back = (float)(int8_t)v[63 * 32 + j] * ag_f16_to_f32(scale);
            assert_true(fabsf(back - x[j]) <= 1e-5f + fabsf(x[j]) / 100 || peak[i] > 8e6f);
            assert_true(isfinite(back) &&
                        k[48 / 16 * 8 * 64 + j / 4 * 64 + 15 * 4 + j % 4] == (unsigned char)(v[63 * 32 + j] + 128));
        }
    }
}

/* A maximum that leaps from page to page: what was summed before must vanish without a trace of a NaN, and where it
 * becomes denormal on the way, it must do so in a tile as alone. (Scores of 1e4 have no digits left to compare with
 * double precision.) */
static void leap(uint32_t window, float query, float value)
{
    scene c;
    scene_init(&c, (shape){2, 8, 16, 300, 9, window, 0, AG_KV_F16});
    uint32_t tokens = c.s.tokens, n = tokens * c.s.heads;
    for (size_t i = 0; i < n * c.s.dim_k; i++) c.q[i] = i % 3 ? query : -query;
    for (uint32_t p = window ? AG_MAX(c.s.pos, window) - window + 1 : 0; p < c.total; p++) {
        for (uint32_t i = 0; i < c.s.dim_v; i++) c.v[p * c.s.dim_v + i] *= value;
        uint32_t page = c.pages[p / AG_CPU_KV_PAGE];
        scene_store(&c, p, c.kc + page * c.a.k_page_stride, c.vc + page * c.a.v_page_stride);
    }
    size_t bytes = tokens * c.a.out_stride * 4;
    float *spec = scene_out(&c);
    scene_run(&c, ag_cpu_isa_find("scalar")->ops, 0, tokens, spec);
    for (size_t i = 0; i < c.s.heads * c.s.dim_v; i++) assert_true(fabsf(spec[i]) < 6 * value);
    for (const ag_cpu_isa *isa = NULL; (isa = fix_isa_next(isa)) != NULL;) {
        float *y = scene_out(&c), *alone = scene_out(&c);
        scene_run(&c, isa->ops, 0, tokens, y);
        for (uint32_t t = 0; t < tokens; t++) scene_run(&c, isa->ops, t, 1, alone);
        for (size_t i = 0; i < c.s.heads * c.s.dim_v; i++) assert_true(fabsf(y[i]) < 6 * value);
        assert_memory_equal(y, rounds(isa, &c.s) ? alone : spec, bytes);
        ag_mem_free(y);
        ag_mem_free(alone);
    }
    ag_mem_free(spec);
    scene_fini(&c);
}

static void leaping_maximum(void **unused)
{
    (void)unused;
    static const float query[] = {3000, 60, 40, 30};
    for (uint32_t window = 0; window <= 150; window += 50) {
        for (size_t i = 0; i < AG_ARRAY_LEN(query); i++) {
            leap(window, query[i], 1);
            leap(window, query[i], 0x1p-22f);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(dims_and_heads), cmocka_unit_test(page_edges), cmocka_unit_test(windows),
        cmocka_unit_test(softcaps), cmocka_unit_test(part_edges), cmocka_unit_test(other_caches),
        cmocka_unit_test(q8_extremes), cmocka_unit_test(leaping_maximum),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
