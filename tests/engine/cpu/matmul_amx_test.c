/* AMX's products: every shape against AVX-512's bits, BF16 against its formula in plain C, and that tiles were used at
 * all. matmul_test.c compares all types with the specification. */
#include "engine/cpu/fixture.h"
#include "lib/amx_emulator.h"

#include "check.h"
#include "engine/cpu/layout.h"

#if defined(__x86_64__)

/* Tiles [from,to) of all columns. */
static uint32_t *product_run(const fix_product *p, ag__matmul_fn *matmul, uint32_t from, uint32_t to)
{
    uint32_t *y = fix_product_result(p);
    matmul(&p->pack, &p->act, p->cols, from, to, (float *)y + 16 * from, p->stride);
    return y;
}

static void same_bits(ag_quant_type t, uint32_t rows, uint32_t k, uint32_t cols, fix_kind kind)
{
    fix_product p;
    fix_product_init(&p, t, rows, k, cols, kind);
    uint32_t from = p.pack.tiles > 1, to = p.pack.tiles;
    uint32_t *want = product_run(&p, ag__matmul_avx512, from, to), *got = product_run(&p, ag__matmul_amx, from, to);
    for (size_t i = 0; i < (size_t)cols * p.stride; i++) {
        if (want[i] != got[i]) {
            fail_msg("%s rows %u k %u cols %u column %zu row %zu: %08x, avx512 %08x", ag_quant_find(t)->name, rows, k,
                     cols, i / p.stride, i % p.stride, got[i], want[i]);
        }
    }
    ag_mem_free(want);
    ag_mem_free(got);
    fix_product_fini(&p);
}

static bool here(void)
{
    if (ag_cpu_isa_find("amx") != NULL) return true;
    check_skipped(1, "AMX is emulated only where AVX-512 is");
    return false;
}

static void every_count_of_columns(void **unused)
{
    (void)unused;
    if (!here()) return;
    for (const ag_quant_row *q = NULL; (q = ag_quant_next(q)) != NULL;) {
        if (q->type == AG_Q_BF16) continue;
        for (uint32_t cols = 1; cols <= 70; cols++) {
            uint32_t rows = 1 + cols * 29 % 70, k = q->block * (1 + cols % (q->block == 256 ? 2 : 19));
            same_bits(q->type, rows, k, cols, cols % 7 == 0 ? FIX_ONES : cols % 7 == 1 ? FIX_LARGE : FIX_RANDOM);
        }
    }
}

static void every_count_of_rows(void **unused)
{
    (void)unused;
    if (!here()) return;
    static const ag_quant_type types[] = {AG_Q_Q8_0, AG_Q_Q4_1, AG_Q_Q4_K, AG_Q_Q6_K, AG_Q_Q2_K, AG_Q_IQ4_XS};
    for (size_t t = 0; t < AG_ARRAY_LEN(types); t++) {
        for (uint32_t rows = 1; rows <= 70; rows++) {
            uint32_t block = ag_quant_find(types[t])->block;
            same_bits(types[t], rows, block * (1 + rows % (block == 256 ? 3 : 11)), 5 + rows % 23, FIX_RANDOM);
        }
        same_bits(types[t], 200, 1024, 40, FIX_RANDOM); /* more tiles than are unpacked together */
    }
}

/* The formula at the head of matmul_bf16_amx.c. */
static float bf16_sum(const uint16_t *w, const float *x, uint32_t k)
{
    float sum = 0;
    for (uint32_t k0 = 0; k0 < k; k0 += 32) {
        float chain[2] = {0, 0};
        for (uint32_t i = k0; i < k && i < k0 + 32; i++) {
            uint32_t bits;
            memcpy(&bits, x + i, 4);
            bits = (bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000u;
            float rounded;
            memcpy(&rounded, &bits, 4);
            chain[i % 2] = fmaf(rounded, ag_bf16_to_f32(w[i]), chain[i % 2]);
        }
        sum += chain[0] + chain[1];
    }
    return sum;
}

static void check_bf16(uint32_t rows, uint32_t k, uint32_t cols)
{
    fix_product p;
    fix_product_init(&p, AG_Q_BF16, rows, k, cols, FIX_RANDOM);
    uint32_t *y = product_run(&p, ag__matmul_amx, 0, p.pack.tiles);
    for (uint32_t c = 0; c < cols; c++) {
        for (uint32_t r = 0; r < p.stride; r++) {
            uint32_t want = FIX_GUARD;
            if (r < rows) {
                float sum = bf16_sum((const uint16_t *)(const void *)p.w + (size_t)r * k, p.act.x + (size_t)c * k, k);
                memcpy(&want, &sum, 4);
            }
            if (y[c * p.stride + r] != want) {
                fail_msg("BF16 rows %u k %u cols %u at column %u row %u: %08x, not %08x", rows, k, cols, c, r,
                         y[c * p.stride + r], want);
            }
        }
    }
    ag_mem_free(y);
    fix_product_fini(&p);
}

static void bf16_is_its_formula(void **unused)
{
    (void)unused;
    if (!here()) return;
    for (uint32_t i = 1; i <= 70; i++) check_bf16(1 + i * 29 % 70, 1 + i * 37 % 131, i);
    check_bf16(100, 512, 33);
    check_bf16(17, 1024 + 513, 5);
    check_bf16(16, 512 + 32, 32);
}

/* Few columns are AVX-512's, BF16 never; every call leaves the tiles released. */
static void tiles_where_they_pay(void **unused)
{
    (void)unused;
    if (!here()) return;
    if (!amx_emulated) {
        check_skipped(1, "only the emulator counts tile instructions");
        return;
    }
    static const struct { ag_quant_type t; uint32_t cols; bool tiles; } cases[] = {
        {AG_Q_Q8_0, 1, false}, {AG_Q_Q8_0, 4, false},  {AG_Q_Q8_0, 5, true}, {AG_Q_Q6_K, 4, false},
        {AG_Q_Q6_K, 16, true}, {AG_Q_BF16, 1, true},   {AG_Q_F32, 16, false}, {AG_Q_F16, 16, false},
    };
    for (size_t i = 0; i < AG_ARRAY_LEN(cases); i++) {
        fix_product p;
        fix_product_init(&p, cases[i].t, 16, 256, cases[i].cols, FIX_RANDOM);
        uint64_t before = amx_done;
        ag_mem_free(product_run(&p, ag_cpu_isa_find("amx")->ops->matmul, 0, 1));
        assert_int_equal(amx_done != before, cases[i].tiles);
        assert_false(amx.configured);
        fix_product_fini(&p);
    }
    /* A full strip of one tile of weights: a product is five instructions, a call has two more. */
    fix_product p;
    fix_product_init(&p, AG_Q_Q4_0, 16, 320, 16, FIX_RANDOM);
    uint64_t before = amx_done;
    ag_mem_free(product_run(&p, ag__matmul_amx, 0, 1));
    assert_int_equal(amx_done - before, 10 * 5 + 2);
    fix_product_fini(&p);
}

static void peak_loop(void **unused)
{
    (void)unused;
    if (!here()) return;
    assert_int_equal(ag_cpu_isa_find("amx")->burn(3), 3 * 4 * 32768);
    assert_false(amx.configured);
}

/* What is asked of the processor, against what the kernel says of it. */
static void detection(void **unused)
{
    (void)unused;
    static char text[1 << 16];
    FILE *f = fopen("/proc/cpuinfo", "r");
    assert_non_null(f);
    text[fread(text, 1, sizeof text - 1, f)] = 0;
    fclose(f);
    bool told = strstr(text, " amx_tile") && strstr(text, " amx_int8") && strstr(text, " amx_bf16");
    assert_int_equal(amx_hardware(), told);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_count_of_columns), cmocka_unit_test(every_count_of_rows),
        cmocka_unit_test(bf16_is_its_formula),    cmocka_unit_test(tiles_where_they_pay),
        cmocka_unit_test(peak_loop),              cmocka_unit_test(detection),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
#else
int main(void)
{
    check_skipped(6, "AMX is x86-64's");
    return 0;
}
#endif
