/* The fixed vectors below were made by another implementation of the formats (ggml's own functions), run over the same
 * two pseudo-random blocks that fill() makes; the hash covers every bit of all weights. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "model/gguf/quant.h"

#define WEIGHTS_MAX 512

typedef struct vector {
    ag_quant_type type;
    float y[5]; /* weights 0, 1, n/3, n/2 and n-1 of the two blocks (16 weights of the plain types) */
    uint64_t fnv;
} vector;

static const vector vectors[] = {
    {AG_Q_F32, {-0x1.02bc78p-22f, -0x1.8cbc18p-98f, 0x1.24346ep-93f, -0x1.c7f6aap-103f, -0x1.4ad19ep-71f},
     0xf403babe7f47f93eu},
    {AG_Q_F16, {0x1.4fp-2f, -0x1.4cp+0f, 0x1.edp-9f, 0x1.c0cp-10f, 0x1.61p-10f},
     0xd9bc542adb81e76fu},
    {AG_Q_Q4_0, {0x1.665p-1f, -0x1.998p-4f, -0x1.998p-3f, 0x1.998p-4f, -0x1.998p-3f},
     0xa440a891db6c06a0u},
    {AG_Q_Q4_1, {0x1.065p+0f, 0x1.065p+0f, 0x1.065p+0f, 0x1.d97p-1f, 0x1.98p-6f},
     0x2cc2bd35a0b0723au},
    {AG_Q_Q5_0, {-0x1.998p-2f, -0x1.332p-2f, -0x1.998p-1f, 0x1.7fe8p+0f, 0x1.1988p+0f},
     0xb805e374d195f0e7u},
    {AG_Q_Q5_1, {0x1.b978p+0f, 0x1.365p+1f, 0x1.0cbp-1f, 0x1.ff8p-4f, 0x1.4cap-2f},
     0x823f7281b7b0d734u},
    {AG_Q_Q8_0, {-0x1.ffep-2f, 0x0p+0f, -0x1.665p+1f, 0x1.0323p+3f, -0x1.bfe4p+1f},
     0xe55342c58fcf91acu},
    {AG_Q_Q2_K, {0x1.0cep-1f, 0x1.8ffp+1f, 0x1.800cp+1f, 0x1.2cd8p+0f, 0x1.c32p+1f},
     0x5c5971c8cd0429fdu},
    {AG_Q_Q3_K, {-0x1.ffep+0f, -0x1.7fe8p+1f, -0x1.998p-2f, 0x1.3fecp+2f, 0x1.7fe8p+1f},
     0xee23f9f9b6af3b1eu},
    {AG_Q_Q4_K, {0x1.e9a8p+2f, 0x1.e9a8p+2f, 0x1.9188p+4f, 0x1.0ff2c0p+6f, 0x1.4253p+3f},
     0xc525a569e79e37ebu},
    {AG_Q_Q5_K, {0x1.315980p+5f, 0x1.b2ebp+5f, 0x1.b4cep+2f, 0x1.9452p+5f, 0x1.008a80p+6f},
     0x8e61cddf1ddb48fcu},
    {AG_Q_Q6_K, {-0x1.95e6a0p+7f, 0x1.95e6a0p+7f, 0x1.8fe7p+7f, -0x1.6cb6p+4f, 0x1.fcadp+5f},
     0x86e0ae74a9f94668u},
    {AG_Q_IQ4_NL, {-0x1.0989p+3f, -0x1.4cb8p+3f, 0x1.1cbbp+3f, 0x1.4cb8p+0f, -0x1.964dp+3f},
     0x84d2cdd2d46d1e81u},
    {AG_Q_IQ4_XS, {0x1.efe1p+4f, 0x1.b1e4e0p+6f, 0x1.1e2150p+7f, -0x1.6983p+6f, -0x1.7035c8p+8f},
     0x7c96b10e5861a409u},
    {AG_Q_BF16, {0x1.7ep-81f, -0x1.16p-95f, -0x1.b8p-16f, -0x1.e8p-111f, -0x1.1ep-86f},
     0x12aed6da86f71599u},
};

/* Where a block keeps its half-precision factors; they get plain values, so that no result is NaN. */
static void put_factors(const ag_quant_row *r, uint8_t *block)
{
    static const uint8_t d[2] = {0x66, 0x2E}, m[2] = {0x9A, 0xB1};
    switch (r->type) {
    case AG_Q_F32: case AG_Q_F16: case AG_Q_BF16:
        block[r->bytes - 1] &= 0xBF;
        return;
    case AG_Q_Q2_K: case AG_Q_Q3_K: case AG_Q_Q6_K:
        memcpy(block + (r->type == AG_Q_Q2_K ? 80 : r->type == AG_Q_Q3_K ? 108 : 208), d, 2);
        if (r->type == AG_Q_Q2_K) memcpy(block + 82, m, 2);
        return;
    default:
        memcpy(block, d, 2);
        if (r->type == AG_Q_Q4_1 || r->type == AG_Q_Q5_1 || r->type == AG_Q_Q4_K || r->type == AG_Q_Q5_K)
            memcpy(block + 2, m, 2);
    }
}

static uint64_t fill(const ag_quant_row *r, uint8_t *x)
{
    uint32_t s = (uint32_t)r->type + 1, blocks = r->block > 1 ? 2 : 16;
    for (uint32_t i = 0; i < blocks * r->bytes; i++) {
        s = s * 1664525 + 1013904223;
        x[i] = (uint8_t)(s >> 24);
    }
    for (uint32_t i = 0; i < blocks; i++) put_factors(r, x + i * r->bytes);
    return (uint64_t)blocks * r->block;
}

static void test_vectors(void **state)
{
    (void)state;
    const ag_quant_row *r = NULL;
    size_t seen = 0;
    while ((r = ag_quant_next(r)) != NULL) {
        const vector *v = NULL;
        for (size_t i = 0; i < AG_ARRAY_LEN(vectors); i++)
            if (vectors[i].type == r->type) v = &vectors[i];
        if (v == NULL) fail_msg("%s has no vector here", r->name);
        uint8_t raw[1024], *x = raw + 1; /* unaligned, as in a mapping */
        float y[WEIGHTS_MAX + 1];
        uint64_t n = fill(r, x);
        y[n] = 42.0f;
        ag_quant_dequantize(r->type, x, y, n);
        const uint64_t at[5] = {0, 1, n / 3, n / 2, n - 1};
        for (int i = 0; i < 5; i++)
            if (y[at[i]] != v->y[i]) fail_msg("%s: weight %d is %a, not %a", r->name, (int)at[i], y[at[i]], v->y[i]);
        uint64_t h = 14695981039346656037u;
        for (uint64_t i = 0; i < n * 4; i++) h = (h ^ ((const uint8_t *)y)[i]) * 1099511628211u;
        if (h != v->fnv) fail_msg("%s: some weight differs (hash %llx)", r->name, (unsigned long long)h);
        assert_true(y[n] == 42.0f);
        seen++;
    }
    assert_int_equal(seen, AG_ARRAY_LEN(vectors));
}

static void test_no_weights(void **state)
{
    (void)state;
    const ag_quant_row *r = NULL;
    while ((r = ag_quant_next(r)) != NULL) ag_quant_dequantize(r->type, NULL, NULL, 0);
}

static void test_table(void **state)
{
    (void)state;
    const ag_quant_row *r = NULL;
    while ((r = ag_quant_next(r)) != NULL) {
        assert_ptr_equal(ag_quant_find((uint32_t)r->type), r);
        assert_ptr_equal(ag_quant_find_name(ag_str_of(r->name)), r);
    }
    assert_string_equal(ag_quant_find_name(AG_STR("q4_k"))->name, "Q4_K");
    assert_null(ag_quant_find_name(AG_STR("Q4_")));
    assert_null(ag_quant_find_name((ag_str){NULL, 0}));
    const uint32_t unknown[] = {4, 5, 9, 15, 16, 24, 31, 39, 255, UINT32_MAX};
    for (size_t i = 0; i < AG_ARRAY_LEN(unknown); i++) assert_null(ag_quant_find(unknown[i]));
}

static uint32_t bits(float f)
{
    uint32_t u;
    memcpy(&u, &f, 4);
    return u;
}

/* The value of a half by its definition. */
static float half_value(uint32_t h)
{
    int e = (int)(h >> 10 & 31), m = (int)(h & 1023);
    float v = e == 0 ? ldexpf((float)m, -24) : ldexpf((float)(m + 1024), e - 25);
    return h & 0x8000 ? -v : v;
}

static void test_halves(void **state)
{
    (void)state;
    for (uint32_t h = 0; h < 65536; h++) {
        float f = ag_f16_to_f32((uint16_t)h);
        if ((h & 0x7C00) != 0x7C00) {
            if (bits(f) != bits(half_value(h))) fail_msg("half %04x gives %a", h, f);
            if (ag_f32_to_f16(f) != h) fail_msg("half %04x does not come back", h);
        } else if (h & 0x3FF) {
            assert_true(isnan(f) && !signbit(f) == !(h & 0x8000));
            assert_int_equal(ag_f32_to_f16(f), h | 0x200); /* quiet, payload kept */
        } else {
            assert_true(isinf(f) && !signbit(f) == !(h & 0x8000));
            assert_int_equal(ag_f32_to_f16(f), h);
        }
    }
}

/* Between each two neighbours: just below the middle goes down, the middle to the even one, just above goes up. */
static void test_rounding(void **state)
{
    (void)state;
    for (uint32_t h = 0; h < 0x7C00; h++) {
        float up = h == 0x7BFF ? 65536.0f : half_value(h + 1); /* the step past the largest half is infinity's */
        float mid = half_value(h) + (up - half_value(h)) / 2;
        for (uint32_t sign = 0; sign <= 0x8000; sign += 0x8000) {
            float s = sign ? -1.0f : 1.0f;
            assert_int_equal(ag_f32_to_f16(s * nextafterf(mid, 0)), sign | h);
            assert_int_equal(ag_f32_to_f16(s * mid), sign | (h + (h & 1)));
            assert_int_equal(ag_f32_to_f16(s * nextafterf(mid, INFINITY)), sign | (h + 1));
        }
    }
    assert_int_equal(ag_f32_to_f16(3.0e38f), 0x7C00);
    assert_int_equal(ag_f32_to_f16(-1e-45f), 0x8000);
    assert_true(ag_bf16_to_f32(0x3FC0) == 1.5f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_vectors), cmocka_unit_test(test_no_weights), cmocka_unit_test(test_table),
        cmocka_unit_test(test_halves), cmocka_unit_test(test_rounding),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
