/* AVX512_BF16's products against their formula in plain C, bit for bit: every count of columns and tiles, and numbers
 * of every kind. matmul_test.c compares all types with the specification. */
#include "engine/cpu/fixture.h"

#include "check.h"
#include "engine/cpu/layout.h"

#if defined(__x86_64__)

static const ag_cpu_isa *here(void)
{
    const ag_cpu_isa *isa = ag_cpu_isa_find("avx512bf16");
    if (isa == NULL) check_skipped(1, "AVX512_BF16 is not on this machine");
    return isa;
}

static uint32_t bits_of(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, 4);
    return bits;
}

static float float_of(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, 4);
    return x;
}

/* Denormals count as zero. */
static float flushed(float x) { return fabsf(x) < 0x1p-126f ? copysignf(0, x) : x; }

static float rounded(float x)
{
    uint32_t bits = bits_of(flushed(x));
    if (isnan(x)) return x;
    return float_of((bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000u);
}

/* The formula at the head of matmul_avx512bf16.c; what fills k up to a multiple of 32 makes -0 to 0. */
static float formula(const uint16_t *w, const float *x, uint32_t k)
{
    float sum = 0;
    for (uint32_t i = 0; i < AG_ALIGN_UP(k, 32); i += 2) {
        for (uint32_t j = i + 2; j-- > i;) {
            float a = j < k ? flushed(ag_bf16_to_f32(w[j])) : 0, b = j < k ? rounded(x[j]) : 0;
            sum = flushed(fmaf(a, b, sum));
        }
    }
    return sum;
}

/* Weights of every kind: half of them any bits, half of them of such a size that the sums are small or large. */
static void draw(fix_product *p, uint32_t kind)
{
    uint16_t *w = (uint16_t *)(void *)p->w;
    float *x = (float *)(uintptr_t)p->act.x;
    for (size_t i = 0; i < (size_t)p->rows * p->k; i++) {
        uint32_t exponent = kind == 1 ? 30 + fix_rand() % 40 : 127 + fix_rand() % 60;
        w[i] = (uint16_t)(kind == 0 ? fix_rand() : (fix_rand() & 0x807F) | exponent << 7);
    }
    for (size_t i = 0; i < (size_t)p->cols * p->k; i++) {
        uint32_t exponent = kind == 1 ? 40 + fix_rand() % 40 : 127 + fix_rand() % 80;
        x[i] = float_of(kind == 0 ? fix_rand() : (fix_rand() & 0x807FFFFF) | exponent << 23);
    }
    ag_pack_fill(&p->pack, p->w, 0, p->pack.tiles);
}

enum { USUAL = 3 };

static void check(const ag_cpu_isa *isa, uint32_t rows, uint32_t k, uint32_t cols, uint32_t kind, uint32_t from)
{
    fix_product p;
    fix_product_init(&p, AG_Q_BF16, rows, k, cols, FIX_RANDOM);
    if (kind != USUAL) draw(&p, kind);
    uint32_t *y = fix_product_result(&p);
    isa->ops->matmul(&p.pack, &p.act, cols, from, p.pack.tiles, (float *)y + (size_t)16 * from, p.stride);
    for (uint32_t c = 0; c < cols; c++) {
        for (uint32_t r = 0; r < p.stride; r++) {
            float want = float_of(FIX_GUARD), got = float_of(y[c * p.stride + r]);
            if (r >= 16 * from && r < rows) {
                want = formula((const uint16_t *)(const void *)p.w + (size_t)r * k, p.act.x + (size_t)c * k, k);
            }
            if (isnan(want) ? !isnan(got) : bits_of(want) != bits_of(got)) {
                fail_msg("kind %u rows %u k %u cols %u at column %u row %u: %08x, not %08x", kind, rows, k, cols, c, r,
                         bits_of(got), bits_of(want));
            }
        }
    }
    ag_mem_free(y);
    fix_product_fini(&p);
}

static void every_shape(void **unused)
{
    (void)unused;
    const ag_cpu_isa *isa = here();
    if (isa == NULL) return;
    for (uint32_t i = 1; i <= 70; i++) check(isa, 1 + i * 29 % 70, 1 + i * 37 % 131, i, USUAL, 0);
    for (uint32_t tiles = 1; tiles <= 9; tiles++) check(isa, 16 * tiles, 160, 31 + tiles, USUAL, tiles / 3);
    check(isa, 100, 1024 + 513, 33, USUAL, 1);
    check(isa, 33, 128, 12, USUAL, 0);
    check(isa, 17, 129, 25, USUAL, 0);
}

static void every_number(void **unused)
{
    (void)unused;
    const ag_cpu_isa *isa = here();
    if (isa == NULL) return;
    for (uint32_t kind = 0; kind < USUAL; kind++) {
        for (uint32_t i = 1; i <= 40; i++) check(isa, 20 + i, 1 + i % 7, 1 + i % 14, kind, 0);
        check(isa, 70, 300, 9, kind, 0);
    }
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
    bool told = strstr(text, " avx512_bf16") != NULL && ag_cpu_isa_find("avx512") != NULL;
    assert_int_equal(ag_cpu_isa_find("avx512bf16") != NULL, told);
}

/* Whether it pays is found once, and another thread's or a later question has the same answer. */
static void one_answer(void **unused)
{
    (void)unused;
    const ag_cpu_isa *isa = here(), *best = ag_cpu_isa_find("auto");
    if (isa == NULL) return;
    bool pays = isa->pays();
    for (int i = 0; i < 100; i++) {
        assert_int_equal(isa->pays(), pays);
        assert_ptr_equal(ag_cpu_isa_find("auto"), best);
    }
    if (strcmp(best->name, "amx") != 0) assert_int_equal(best == isa, pays);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_shape), cmocka_unit_test(every_number), cmocka_unit_test(detection),
        cmocka_unit_test(one_answer),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
#else
int main(void)
{
    check_skipped(4, "AVX512_BF16 is x86-64's");
    return 0;
}
#endif
