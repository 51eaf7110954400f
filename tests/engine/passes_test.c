/* Every pass keeps the meaning of the graph: left out one by one and all together, the logits have the same bits. */
#include "engine/passes/passes.h"

#include "base/fault.h"
#include "check.h"
#include "engine/lm.h"
#include "engine/tiny_model.h"
#include "lib/amx_emulator.h" /* AMX is walked too, wherever AVX-512 is */

enum { N = 70 }; /* over a page of KV cache */

static void run_all(const tiny_model *t, const char *isa, const char *no_pass, uint32_t threads, uint32_t chunk,
                    float *out)
{
    ag_err err = {0};
    ag_lm *lm = NULL;
    ag_lm_conf conf = {
        .threads = threads, .isa = isa, .no_pass = no_pass, .rows_max = N, .out_max = N, .ctx_tokens = 256};
    if (ag_lm_open(&lm, &t->m, &conf, &err) != AG_OK) fail_msg("%s: %s", no_pass ? no_pass : "-", err.text);
    const uint32_t pages[] = {3, 1, 0, 2};
    int32_t tokens[N];
    uint32_t rows[N];
    for (int i = 0; i < N; i++) tokens[i] = (i * 37 + 5) % 256;
    for (uint32_t i = 0; i < N; i++) rows[i] = i;
    for (uint32_t at = 0; at < N; at += chunk) {
        uint32_t n = AG_MIN(chunk, N - at);
        ag_span span = {0, n, at, pages};
        ag_batch b = {.n_rows = n, .n_spans = 1, .n_out = n, .tokens = tokens + at, .spans = &span, .out_rows = rows};
        const float *x;
        size_t stride;
        ag_lm_run(lm, &b, &x, &stride);
        for (uint32_t i = 0; i < n; i++)
            memcpy(out + (size_t)(at + i) * t->m.hp.vocab, x + i * stride, t->m.hp.vocab * sizeof *out);
    }
    ag_lm_close(lm);
}

static void compare(const tiny_model *t, const char *isa, const char *no_pass, uint32_t threads, uint32_t chunk,
                    const float *want)
{
    size_t bytes = (size_t)N * t->m.hp.vocab * sizeof(float);
    float *got = malloc(bytes);
    run_all(t, isa, no_pass, threads, chunk, got);
    if (memcmp(got, want, bytes) != 0)
        fail_msg("other bits with isa %s, without %s, %u threads, chunks of %u", isa, no_pass, threads, chunk);
    free(got);
}

/* How far logits are off, as a share of their size. */
static double distance(const float *x, const float *from, size_t n)
{
    double error = 0, size = 0;
    for (size_t i = 0; i < n; i++) {
        error += ((double)x[i] - from[i]) * ((double)x[i] - from[i]);
        size += (double)from[i] * from[i];
    }
    return sqrt(error / size);
}

/* Where attention rounds to BF16, a set has bits of its own, near the specification's. Rounding makes 0.045 at most
 * here, where attention has large random scores and products round once more; a wrong product makes 1. */
static const float *want_of(const tiny_model *t, const char *isa, const float *spec, float *own)
{
    if (strcmp(isa, "avx512bf16") != 0) return spec;
    run_all(t, isa, NULL, 1, N, own);
    double off = distance(own, spec, (size_t)N * t->m.hp.vocab);
    if (!(off > 0 && off < 0.1)) fail_msg("%s: off by %g of the size of the logits", isa, off);
    return own;
}

static void same_bits(bool q8)
{
    tiny_model t;
    tiny_model_open(&t, q8);
    float *want = malloc((size_t)N * t.m.hp.vocab * sizeof *want),
          *own = malloc((size_t)N * t.m.hp.vocab * sizeof *own);
    run_all(&t, "scalar", NULL, 1, N, want);
    float low = want[0], high = want[0];
    for (size_t i = 0; i < (size_t)N * t.m.hp.vocab; i++) {
        low = AG_MIN(low, want[i]);
        high = AG_MAX(high, want[i]);
    }
    assert_true(high - low > 1); /* the model says something */
    char all[512] = "";
    for (const ag_pass_row *r = NULL; (r = ag_pass_next(r));) {
        if (r->needed) continue;
        compare(&t, "scalar", r->name, 1, N, want);
        snprintf(all + strlen(all), sizeof all - strlen(all), "%s%s", *all ? "," : "", r->name);
    }
    compare(&t, "scalar", all, 2, 13, want);
    for (const ag_cpu_isa *isa = NULL; (isa = ag_cpu_isa_next(isa));) {
        if (!isa->runs()) {
            check_skipped(4, isa->name);
            continue;
        }
        uint64_t before = amx_done;
        const float *same = want_of(&t, isa->name, want, own);
        compare(&t, isa->name, NULL, 1, N, same);
        if (amx_emulated) assert_int_equal(amx_done > before, q8 && strcmp(isa->name, "amx") == 0);
        compare(&t, isa->name, NULL, 3, 1, same);
        compare(&t, isa->name, all, 2, 64, same);
        compare(&t, isa->name, NULL, 2, 7, same);
    }
    free(want);
    free(own);
    tiny_model_close(&t);
}

/* BF16 where pairs are multiplied has bits of its own, near the specification's, and the same ones whatever the chunks
 * and threads. */
static void same_bits_bf16(const char *isa, const float *spec, const tiny_model *t)
{
    size_t n = (size_t)N * t->m.hp.vocab;
    float *want = malloc(n * sizeof *want);
    uint64_t before = amx_done;
    run_all(t, isa, NULL, 1, N, want);
    if (amx_emulated) assert_int_equal(amx_done > before, strcmp(isa, "amx") == 0);
    double off = distance(want, spec, n);
    /* Rounding makes 0.016 here, and 0.045 with attention's; a wrong product makes 1. */
    if (!(off > 0 && off < 0.1)) fail_msg("%s: off by %g of the size of the logits", isa, off);
    compare(t, isa, NULL, 3, 1, want);
    compare(t, isa, NULL, 2, 7, want);
    compare(t, isa, NULL, 2, 64, want);
    free(want);
}

static void test_bf16_in_pairs(void **state)
{
    (void)state;
    static const char *const isas[] = {"amx", "avx512bf16"};
    tiny_model t;
    tiny_model_open_as(&t, AG_Q_BF16);
    float *spec = malloc((size_t)N * t.m.hp.vocab * sizeof *spec);
    run_all(&t, "scalar", NULL, 1, N, spec);
    for (size_t i = 0; i < AG_ARRAY_LEN(isas); i++) {
        if (ag_cpu_isa_find(isas[i]) != NULL) same_bits_bf16(isas[i], spec, &t);
        else check_skipped(1, isas[i]);
    }
    free(spec);
    tiny_model_close(&t);
}

static void test_same_bits_f32(void **state) { (void)state; same_bits(false); }
static void test_same_bits_q8(void **state) { (void)state; same_bits(true); }

enum { LONG = 1100, SEQUENCES = 2 }; /* over two parts of keys */

/* seed 0: one sequence after the other, in large pieces */
typedef struct drawn { uint32_t threads, seed; const char *isa, *no_pass; ag_kv_type kv; } drawn;

static uint32_t draw(uint32_t *seed, uint32_t below)
{
    *seed = *seed * 1664525 + 1013904223;
    return (*seed >> 8) % below;
}

/* The logits of all positions of the sequences, whose steps are drawn: some of single tokens alone, some mixed. */
static void run_drawn(const tiny_model *t, const drawn *d, float *out)
{
    enum { ROWS = 256, PAGES = (LONG + 63) / 64 };
    ag_err err = {0};
    ag_lm *lm = NULL;
    ag_lm_conf conf = {.threads = d->threads,
                       .isa = d->isa,
                       .no_pass = d->no_pass,
                       .kv = d->kv,
                       .rows_max = ROWS,
                       .out_max = ROWS,
                       .ctx_tokens = 64 * PAGES * SEQUENCES};
    if (ag_lm_open(&lm, &t->m, &conf, &err) != AG_OK) fail_msg("%s", err.text);
    uint32_t pages[SEQUENCES][PAGES], at[SEQUENCES] = {0}, seed = d->seed, rows[ROWS],
                                      n_bytes = t->m.hp.vocab * sizeof(float);
    for (uint32_t i = 0; i < ROWS; i++) rows[i] = i;
    for (uint32_t s = 0; s < SEQUENCES; s++)
        for (uint32_t i = 0; i < PAGES; i++) pages[s][i] = (PAGES - 1 - i) * SEQUENCES + s;
    for (uint32_t done = 0; done < LONG * SEQUENCES;) {
        int32_t tokens[ROWS];
        ag_span spans[SEQUENCES];
        uint32_t of[SEQUENCES], n_spans = 0, n_rows = 0, mode = d->seed ? draw(&seed, 3) : 3;
        for (uint32_t s = 0; s < SEQUENCES; s++) {
            uint32_t n = mode == 3   ? (n_rows ? 0 : ROWS)
                         : mode == 0 ? draw(&seed, 100)
                         : mode == 1 ? draw(&seed, 3)
                                     : 1;
            n = AG_MIN(n, LONG - at[s]);
            if (n == 0) continue;
            for (uint32_t i = 0; i < n; i++) tokens[n_rows + i] = (int32_t)(((at[s] + i) * 37 + 5 + s * 11) % 256);
            of[n_spans] = s;
            spans[n_spans++] = (ag_span){n_rows, n, at[s], pages[s]};
            n_rows += n;
        }
        if (n_rows == 0) continue;
        ag_batch b = {
            .n_rows = n_rows, .n_spans = n_spans, .n_out = n_rows, .tokens = tokens, .spans = spans, .out_rows = rows};
        const float *x;
        size_t stride;
        ag_lm_run(lm, &b, &x, &stride);
        for (uint32_t i = 0; i < n_spans; i++)
            for (uint32_t r = 0; r < spans[i].n; r++, at[of[i]]++, done++)
                memcpy(out + ((size_t)of[i] * LONG + at[of[i]]) * t->m.hp.vocab, x + (spans[i].row + r) * stride,
                       n_bytes);
    }
    ag_lm_close(lm);
}

static void long_contexts(const drawn *runs, size_t n, const char *isa)
{
    tiny_model t;
    tiny_model_open(&t, true);
    size_t bytes = (size_t)SEQUENCES * LONG * t.m.hp.vocab * sizeof(float);
    float *want = malloc(bytes), *got = malloc(bytes);
    run_drawn(&t, &(drawn){.threads = 1, .isa = isa, .kv = runs[0].kv}, want);
    for (size_t i = 0; i < n; i++) {
        if (ag_cpu_isa_find(runs[i].isa) == NULL) {
            check_skipped(1, runs[i].isa);
            continue;
        }
        run_drawn(&t, &runs[i], got);
        if (memcmp(got, want, bytes) != 0)
            fail_msg("other bits when steps are drawn from %u, with %u threads", runs[i].seed, runs[i].threads);
    }
    free(want);
    free(got);
    tiny_model_close(&t);
}

static void test_long_contexts(void **state)
{
    (void)state;
    static const drawn runs[] = {{1, 1, NULL, NULL, AG_KV_F16},
                                 {2, 2, NULL, NULL, AG_KV_F16},
                                 {4, 4, NULL, NULL, AG_KV_F16},
                                 {2, 5, NULL, "fuse_qkv", AG_KV_F16},
                                 {3, 6, NULL, "fuse_heads", AG_KV_F16}};
    static const drawn narrow = {2, 7, "avx2", NULL, AG_KV_F16};
    long_contexts(runs, AG_ARRAY_LEN(runs), NULL);
    if (ag_cpu_isa_find("avx512") != NULL) long_contexts(&narrow, 1, "avx512");
    else check_skipped(1, "avx512");
}

static void test_long_contexts_q8_cache(void **state)
{
    (void)state;
    static const drawn runs[] = {{2, 2, NULL, NULL, AG_KV_Q8_0}, {3, 7, "avx2", NULL, AG_KV_Q8_0}};
    tiny_heads = 2; /* heads of 32 */
    long_contexts(runs, AG_ARRAY_LEN(runs), NULL);
    tiny_heads = TINY_HEADS;
    tiny_model t;
    tiny_model_open(&t, true);
    ag_lm *lm = NULL;
    ag_err err = {0};
    ag_lm_conf conf = {.threads = 1, .rows_max = 4, .out_max = 4, .ctx_tokens = 64, .kv = AG_KV_Q8_0};
    assert_int_equal(ag_lm_open(&lm, &t.m, &conf, &err), AG_E_USAGE);
    assert_string_equal(err.text, "a KV cache of q8_0 needs heads of a multiple of 32 numbers; this model's keys have 16 and values 16: f16 takes them");
    tiny_model_close(&t);
}

static void test_passes_pay(void **state)
{
    (void)state;
    tiny_model t;
    tiny_model_open(&t, true);
    uint32_t stages[2];
    uint64_t bytes[2];
    for (int i = 0; i < 2; i++) {
        ag_lm *lm = NULL;
        ag_lm_conf conf = {
            .threads = 1,
            .rows_max = N,
            .out_max = 4,
            .ctx_tokens = 256,
            .no_pass = i ? "select_early,fuse_bias,fuse_glu,fuse_qkv,fuse_residual,fuse_heads,fuse_quantize" : NULL};
        assert_int_equal(ag_lm_open(&lm, &t.m, &conf, NULL), AG_OK);
        stages[i] = lm->plan.n_stages;
        bytes[i] = lm->plan.arena_bytes;
        ag_lm_close(lm);
    }
    assert_true(stages[0] < stages[1]);
    assert_true(bytes[0] < bytes[1]);
    tiny_model_close(&t);
}

static void test_names(void **state)
{
    (void)state;
    tiny_model t;
    tiny_model_open(&t, false);
    static const struct { const char *names, *says; } bad[] = {
        {"fuse_qkw", "there is no pass \"fuse_qkw\"; `autoglm compile --passes` lists them"},
        {"fuse_qkv,memory", "pass \"memory\" is needed and cannot be left out"},
    };
    for (size_t i = 0; i < AG_ARRAY_LEN(bad); i++) {
        ag_lm *lm = NULL;
        ag_err err = {0};
        ag_lm_conf conf = {.threads = 1, .rows_max = 4, .out_max = 4, .ctx_tokens = 64, .no_pass = bad[i].names};
        assert_int_equal(ag_lm_open(&lm, &t.m, &conf, &err), AG_E_USAGE);
        assert_string_equal(err.text, bad[i].says);
    }
    tiny_model_close(&t);
}

static void test_faults(void **state)
{
    (void)state;
#ifdef AG_FAULTS
    tiny_model t;
    tiny_model_open(&t, true);
    const ag_fault_kind kinds[] = {AG_FAULT_ALLOC, AG_FAULT_MMAP, AG_FAULT_THREAD};
    for (size_t k = 0; k < AG_ARRAY_LEN(kinds); k++)
        for (uint32_t n = 1;; n++) {
            ag_lm *lm = NULL;
            ag_err err = {0};
            ag_lm_conf conf = {.threads = 2, .rows_max = 8, .out_max = 8, .ctx_tokens = 64};
            ag_fault_arm(kinds[k], n);
            int rc = ag_lm_open(&lm, &t.m, &conf, &err);
            bool fired = ag_fault_disarm(kinds[k]);
            assert_int_equal(rc != AG_OK, fired);
            if (rc != AG_OK) assert_true(err.text[0] != 0);
            ag_lm_close(lm);
            if (!fired) break;
        }
    tiny_model_close(&t);
#endif
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_same_bits_f32), cmocka_unit_test(test_same_bits_q8), cmocka_unit_test(test_bf16_in_pairs),
        cmocka_unit_test(test_long_contexts), cmocka_unit_test(test_long_contexts_q8_cache),
        cmocka_unit_test(test_passes_pay),
        cmocka_unit_test(test_names), cmocka_unit_test(test_faults),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
