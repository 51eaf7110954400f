/* Each tile instruction against plain C: on the hardware where it has AMX, else on the emulator. */
#include "lib/amx_emulator.h"

#include "engine/cpu/fixture.h"

#if defined(__x86_64__)
#include "engine/cpu/tile_amx.h"

#define TILES_FN __attribute__((target("amx-tile,amx-int8,amx-bf16"), noinline)) static

/* Sums in tile 0, operands in 1 and 2. */
static tile_config shape(uint32_t m, uint32_t n, uint32_t k)
{
    tile_config c = {.palette = 1, .rows = {(uint8_t)m, (uint8_t)m, (uint8_t)k}};
    c.row_bytes[0] = c.row_bytes[2] = (uint16_t)(4 * n);
    c.row_bytes[1] = (uint16_t)(4 * k);
    return c;
}

typedef struct operands {
    unsigned char c[16][64], a[16][64], b[16][64];
} operands;

#define DOT(name, instruction)                                                                                         \
    TILES_FN void name(operands *o, const tile_config *shape)                                                          \
    {                                                                                                                  \
        tiles_configure(shape);                                                                                        \
        TILE_LOAD(0, o->c, 64);                                                                                        \
        TILE_LOAD(1, o->a, 64);                                                                                        \
        TILE_LOAD(2, o->b, 64);                                                                                        \
        __asm__ volatile(instruction " %%tmm2, %%tmm1, %%tmm0" : :);                                                   \
        TILE_STORE(0, o->c, 64);                                                                                       \
        tiles_release();                                                                                               \
    }
DOT(dot_ss, "tdpbssd")
DOT(dot_su, "tdpbsud")
DOT(dot_us, "tdpbusd")
DOT(dot_uu, "tdpbuud")
DOT(dot_bf16, "tdpbf16ps")

static int32_t byte_of(unsigned char v, bool is_signed) { return is_signed ? (int8_t)v : v; }

static void products_of_bytes(void **unused)
{
    (void)unused;
    ag__amx_ready();
    static const struct { void (*run)(operands *, const tile_config *); bool a, b; } kinds[] = {
        {dot_ss, true, true}, {dot_su, true, false}, {dot_us, false, true}, {dot_uu, false, false}};
    for (uint32_t i = 0; i < 400; i++) {
        uint32_t kind = i % 4, m = 1 + fix_rand() % 16, n = 1 + fix_rand() % 16, k = 1 + fix_rand() % 16;
        if (i < 8) m = n = k = 16;
        operands o;
        for (size_t j = 0; j < sizeof o; j++) ((unsigned char *)&o)[j] = (unsigned char)(i < 4 ? 255 : fix_rand());
        operands want = o;
        for (uint32_t r = 0; r < m; r++) {
            for (uint32_t c = 0; c < n; c++) {
                uint32_t sum;
                memcpy(&sum, o.c[r] + 4 * c, 4);
                for (uint32_t x = 0; x < 4 * k; x++) {
                    int32_t a = byte_of(o.a[r][x], kinds[kind].a);
                    sum += (uint32_t)(a * byte_of(o.b[x / 4][4 * c + x % 4], kinds[kind].b));
                }
                memcpy(want.c[r] + 4 * c, &sum, 4);
            }
        }
        tile_config s = shape(m, n, k);
        kinds[kind].run(&o, &s);
        assert_memory_equal(&o, &want, sizeof o);
    }
}

static float bf16_of(const unsigned char *p)
{
    uint32_t bits = (uint32_t)(p[0] | p[1] << 8) << 16;
    float f;
    memcpy(&f, &bits, 4);
    return f;
}

static void products_of_bf16(void **unused)
{
    (void)unused;
    ag__amx_ready();
    for (uint32_t i = 0; i < 200; i++) {
        uint32_t m = 1 + fix_rand() % 16, n = 1 + fix_rand() % 16, k = 1 + fix_rand() % 16;
        operands o;
        memset(&o, 0, sizeof o);
        for (uint32_t r = 0; r < 16; r++) {
            for (uint32_t j = 0; j < 32; j++) {
                float x[2] = {fix_normal(), fix_normal()}, c = fix_normal() * 10;
                memcpy(o.a[r] + 2 * j, (char *)&x[0] + 2, 2);
                memcpy(o.b[r] + 2 * j, (char *)&x[1] + 2, 2);
                if (j % 2 == 0) memcpy(o.c[r] + 2 * j, &c, 4);
            }
        }
        operands want = o;
        for (uint32_t r = 0; r < m; r++) {
            for (uint32_t c = 0; c < n; c++) {
                float chain[2] = {0, 0}, sum;
                for (uint32_t x = 0; x < 2 * k; x++) {
                    float b = bf16_of(o.b[x / 2] + 4 * c + 2 * (x % 2));
                    chain[x % 2] = fmaf(bf16_of(o.a[r] + 2 * x), b, chain[x % 2]);
                }
                memcpy(&sum, o.c[r] + 4 * c, 4);
                sum += chain[0] + chain[1];
                memcpy(want.c[r] + 4 * c, &sum, 4);
            }
        }
        tile_config s = shape(m, n, k);
        dot_bf16(&o, &s);
        assert_memory_equal(&o, &want, sizeof o);
    }
}

/* Small numbers: operands, results and sums that are denormal count as zero. */
static void denormals_are_zero(void **unused)
{
    (void)unused;
    ag__amx_ready();
    static const struct { uint16_t a, b; uint32_t c, want; } cases[] = {
        {0x0001, 0x7F00, 0, 0},                   /* denormal times large */
        {0x0080, 0x3F00, 0, 0},                   /* 2^-126 / 2 */
        {0x0080, 0x3F80, 0, 0x00800000},          /* 2^-126 stays */
        {0x0000, 0x0000, 0x00000001, 0},          /* a denormal sum */
        {0x3F80, 0xBF80, 0x3F800000, 0},          /* 1 - 1 */
        {0x3F80, 0x3F80, 0x33000000, 0x3F800000}, /* 1 + 2^-25, a tie: to even */
        {0x3F80, 0x3F80, 0x33800001, 0x3F800001}, /* just over the tie */
    };
    for (size_t i = 0; i < AG_ARRAY_LEN(cases); i++) {
        operands o;
        memset(&o, 0, sizeof o);
        memcpy(o.a, &cases[i].a, 2);
        memcpy(o.b, &cases[i].b, 2);
        memcpy(o.c, &cases[i].c, 4);
        tile_config s = shape(1, 1, 1);
        dot_bf16(&o, &s);
        uint32_t got;
        memcpy(&got, o.c, 4);
        if (got != cases[i].want) fail_msg("case %zu: %08x, not %08x", i, got, cases[i].want);
    }
}

/* Every form of address that a compiler may choose, and what a load leaves beyond its rows and bytes. */
TILES_FN void loads_and_stores(void **unused)
{
    (void)unused;
    ag__amx_ready();
    unsigned char from[64 * 40], to[64 * 40], kept[64];
    for (size_t i = 0; i < sizeof from; i++) from[i] = (unsigned char)fix_rand();
    tile_config s = shape(5, 3, 7), full = shape(16, 16, 16), got;
    tiles_configure(&s);
    __asm__ volatile("sttilecfg %0" : "=m"(got));
    assert_memory_equal(&got, &s, sizeof s);

#define MOVE(load, store, stride_in, stride_out, at_in, at_out)                                                        \
    do {                                                                                                               \
        memset(to, 0xEE, sizeof to);                                                                                   \
        __asm__ volatile("mov %0, %%r13\n\tmov %1, %%r9\n\tmov %2, %%r12\n\tmov %3, %%rcx\n\t" load "\n\t" store       \
                         : : "r"(from + 1280), "r"(to + 1280), "r"((int64_t)(stride_in)), "r"((int64_t)(stride_out))   \
                         : "r13", "r9", "r12", "rcx", "memory");                                                       \
        for (int r = 0; r < 5; r++) {                                                                                  \
            assert_memory_equal(to + 1280 + (at_out) + r * (stride_out), from + 1280 + (at_in) + r * (stride_in), 12); \
            assert_int_equal(to[1280 + (at_out) + r * (stride_out) + 12], 0xEE);                                       \
        }                                                                                                              \
    } while (0)
    MOVE("tileloadd (%%r13,%%r12,1), %%tmm0", "tilestored %%tmm0, (%%r9,%%rcx,1)", 64, 32, 0, 0);
    MOVE("tileloaddt1 (%%r13,%%r12,1), %%tmm0", "tilestored %%tmm0, (%%r9,%%rcx,1)", -80, 64, 0, 0);
    MOVE("shr $2, %%r12\n\ttileloadd 8(%%r13,%%r12,4), %%tmm0", "tilestored %%tmm0, -300(%%r9,%%rcx,1)", 64, 72, 8,
         -300);
    MOVE("sub $700, %%r13\n\ttileloadd 700(%%r13,%%r12,1), %%tmm0",
         "mov %%r9, %%rax\n\tmov %%rcx, %%r9\n\ttilestored %%tmm0, (%%rax,%%r9,1)", 100, 100, 0, 0);
#undef MOVE

    tiles_configure(&full);
    TILE_LOAD(0, from, 64);
    tiles_configure(&s); /* clears */
    memset(to, 0xEE, sizeof to);
    TILE_STORE(0, to, 64);
    memset(kept, 0, sizeof kept);
    for (int r = 0; r < 5; r++) assert_memory_equal(to + 64 * r, kept, 12);
    TILE_LOAD(0, from, 64);
    TILE_ZERO(0);
    TILE_STORE(0, to, 64);
    for (int r = 0; r < 5; r++) assert_memory_equal(to + 64 * r, kept, 12);
    assert_int_equal(to[5 * 64], 0xEE);
    tiles_release();
    __asm__ volatile("sttilecfg %0" : "=m"(got));
    memset(&s, 0, sizeof s);
    assert_memory_equal(&got, &s, sizeof s);
}

/* A configuration beside the code: the address is relative to the instruction. */
static tile_config beside = {.palette = 1, .rows = {3}, .row_bytes = {8}};
TILES_FN void relative_address(void **unused)
{
    (void)unused;
    ag__amx_ready();
    tile_config got;
    __asm__ volatile("ldtilecfg %0" : : "m"(beside));
    __asm__ volatile("sttilecfg %0" : "=m"(got));
    assert_memory_equal(&got, &beside, sizeof got);
    tiles_release();
}

/* --- what the hardware answers with an exception ------------------------------------------------------------------ */

static const char *refused(void (*what)(void))
{
    sigjmp_buf back;
    amx_refusal = NULL;
    amx_catch = &back;
    if (sigsetjmp(back, 1) == 0) what();
    amx_catch = NULL;
    amx = (amx_tiles){0};
    return amx_refusal ? amx_refusal : "nothing";
}

static tile_config wrong;
TILES_FN void configure_wrong(void) { tiles_configure(&wrong); }
TILES_FN void zero_0(void) { TILE_ZERO(0); }
TILES_FN void zero_7(void) { tiles_configure(&wrong); TILE_ZERO(7); }
/* tdpbssd tmm0, tmm1, tmm1, which no assembler writes. */
TILES_FN void twice(void) { tiles_configure(&wrong); __asm__ volatile(".byte 0xC4, 0xE2, 0x73, 0x5E, 0xC1"); }
TILES_FN void product(void) { tiles_configure(&wrong); TILE_DOT_I8(0, 1, 2); }

static void want_refused(void (*what)(void), const char *part)
{
    const char *told = refused(what);
    if (strstr(told, part) == NULL) fail_msg("\"%s\" does not tell of \"%s\"", told, part);
}

static void exceptions(void **unused)
{
    (void)unused;
    ag__amx_ready();
    if (!amx_emulated) {
        printf("skipped: 12 cases (the hardware's exceptions end the program)\n");
        return;
    }
    want_refused(zero_0, "without a configuration");
    wrong = shape(16, 16, 16);
    want_refused(zero_7, "tile that is not configured");
    want_refused(twice, "names a tile twice");
    assert_string_equal(refused(product), "nothing");
    wrong.palette = 2;
    want_refused(configure_wrong, "palette");
    wrong = shape(17, 16, 16);
    want_refused(configure_wrong, "16 rows");
    wrong = shape(16, 17, 16);
    want_refused(configure_wrong, "64 bytes");
    wrong = shape(16, 0, 16);
    want_refused(configure_wrong, "rows without bytes");
    wrong = shape(16, 16, 16);
    wrong.reserved[3] = 1;
    want_refused(configure_wrong, "reserved");
    wrong = shape(8, 8, 8);
    wrong.rows[1] = 7;
    want_refused(product, "different rows");
    wrong = shape(8, 8, 8);
    wrong.row_bytes[2] = 28;
    want_refused(product, "differ in width");
    wrong = shape(8, 8, 8);
    wrong.rows[2] = 7;
    want_refused(product, "do not fit");
    wrong = shape(8, 8, 8);
    wrong.row_bytes[1] = 31;
    want_refused(product, "whole quads");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(products_of_bytes), cmocka_unit_test(products_of_bf16), cmocka_unit_test(denormals_are_zero),
        cmocka_unit_test(loads_and_stores), cmocka_unit_test(relative_address), cmocka_unit_test(exceptions),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
#else
int main(void)
{
    printf("skipped: 6 cases (AMX is x86-64's)\n");
    return 0;
}
#endif
