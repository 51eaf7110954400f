/* Every quantizer: how far its weights are from what it was given, that the widths of vectors agree to the bit, and
 * that no input makes it do anything but write its blocks. */
#include "check.h"

#include <math.h>

#include "model/gguf/quantize_priv.h"

#define WEIGHTS 4096
#define SQUARE_WORSE 1.2 /* squared error by AG_COST_BY_SQUARE, of that by size, at most */

static const struct {
    ag_quant_type type;
    double gauss, laplace, uniform; /* relative RMS errors that must not be passed */
} types[] = { /* about 1 % above what was measured */
    {AG_Q_F32, 0, 0, 0},
    {AG_Q_F16, 2.2e-4, 2.2e-4, 2.2e-4},
    {AG_Q_BF16, 1.8e-3, 1.8e-3, 1.8e-3},
    {AG_Q_Q8_0, 0.0056, 0.0070, 0.0040},
    {AG_Q_Q4_0, 0.086, 0.108, 0.063},
    {AG_Q_Q4_1, 0.073, 0.087, 0.056},
    {AG_Q_Q5_0, 0.0425, 0.054, 0.030},
    {AG_Q_Q5_1, 0.0355, 0.042, 0.0275},
    {AG_Q_Q4_K, 0.0735, 0.087, 0.056},
    {AG_Q_Q5_K, 0.0365, 0.043, 0.028},
    {AG_Q_Q6_K, 0.0177, 0.0217, 0.0132},
};

static uint32_t seed;
static double unit(void) /* in (0, 1) */
{
    seed = seed * 1664525 + 1013904223;
    return ((double)(seed >> 8) + 0.5) / 0x1p24;
}

typedef enum shape { GAUSS, LAPLACE, UNIFORM } shape;

static void fill(float *x, size_t n, shape s, double scale)
{
    seed = 1;
    for (size_t i = 0; i < n; i++) {
        double u = unit(), v = unit();
        double z = 2 * u - 1;
        if (s == GAUSS) z = sqrt(-2 * log(u)) * cos(6.283185307179586 * v);
        if (s == LAPLACE) z = v < 0.5 ? -log(u) : log(u);
        x[i] = (float)(z * scale);
    }
}

static size_t bytes_of(ag_quant_type t, size_t n)
{
    const ag_quant_row *r = ag_quant_find((uint32_t)t);
    return n / r->block * r->bytes;
}

static const ag_quant_cost costs[] = {AG_COST_BY_SIZE, AG_COST_BY_SQUARE};

/* Through blocks that lie in memory of their exact size, and back. */
static void round_trip(ag_quant_type t, ag_quant_cost cost, const float *x, float *y, size_t n)
{
    void *blocks = malloc(bytes_of(t, n));
    assert_non_null(blocks);
    ag_quantize(t, cost, x, blocks, n);
    ag_quant_dequantize(t, blocks, y, n);
    free(blocks);
}

static double error_of(ag_quant_type t, const float *x, size_t n)
{
    static float y[WEIGHTS];
    double e = 0, s = 0;
    round_trip(t, AG_COST_BY_SIZE, x, y, n);
    for (size_t i = 0; i < n; i++) {
        e += ((double)y[i] - (double)x[i]) * ((double)y[i] - (double)x[i]);
        s += (double)x[i] * (double)x[i];
    }
    return s > 0 ? sqrt(e / s) : sqrt(e);
}

static void test_error(void **state)
{
    (void)state;
    static float x[WEIGHTS];
    for (size_t k = 0; k < AG_ARRAY_LEN(types); k++)
        for (int s = GAUSS; s <= UNIFORM; s++) {
            double max = s == GAUSS ? types[k].gauss : s == LAPLACE ? types[k].laplace : types[k].uniform;
            assert_true(ag_quantize_can(types[k].type));
            for (double scale = 0.01; scale < 2e3; scale *= 100) { /* what is small, usual and large is alike */
                fill(x, WEIGHTS, (shape)s, scale);
                double e = error_of(types[k].type, x, WEIGHTS);
                if (e > max || e < max * 0.8)
                    fail_msg("%s, shape %d, scale %g: %.6f; %.6f was expected",
                             ag_quant_find((uint32_t)types[k].type)->name, s, scale, e, max);
            }
        }
    assert_false(ag_quantize_can(AG_Q_Q2_K));
    assert_false(ag_quantize_can(AG_Q_IQ4_NL));
}

/* What is to be small by the square of the weight is smaller than without, and the error itself not much larger. */
static void test_cost_by_square(void **state)
{
    (void)state;
    static float x[WEIGHTS], y[2][WEIGHTS];
    for (size_t k = 4; k < AG_ARRAY_LEN(types); k++) /* those with a search */
        for (int s = GAUSS; s <= LAPLACE; s++) {
            double plain[2] = {0}, squared[2] = {0};
            fill(x, WEIGHTS, (shape)s, 0.02);
            for (size_t c = 0; c < 2; c++) {
                round_trip(types[k].type, costs[c], x, y[c], WEIGHTS);
                for (int i = 0; i < WEIGHTS; i++) {
                    double e = (double)y[c][i] - (double)x[i], e2 = e * e;
                    plain[c] += e2;
                    squared[c] += (double)x[i] * (double)x[i] * e2;
                }
            }
            if (!(squared[1] < squared[0]) || !(plain[1] < plain[0] * SQUARE_WORSE))
                fail_msg("%s, shape %d: %.4f of the squared error, %.4f of the plain",
                         ag_quant_find((uint32_t)types[k].type)->name, s, squared[1] / squared[0], plain[1] / plain[0]);
        }
}

/* What stands in a file already comes out as it went in: quantizing what was dequantized loses next to nothing. */
static void test_again(void **state)
{
    (void)state;
    static float x[WEIGHTS], y[WEIGHTS];
    static const struct { ag_quant_type type; double max; } again[] = {
        {AG_Q_Q8_0, 0}, {AG_Q_Q4_1, 0.03}, {AG_Q_Q5_1, 0.02}, {AG_Q_Q4_0, 0.03}, {AG_Q_Q5_0, 0.02}, {AG_Q_Q4_K, 0.03},
        {AG_Q_Q5_K, 0.02}, {AG_Q_Q6_K, 0.01},
    };
    for (size_t k = 0; k < AG_ARRAY_LEN(again); k++) {
        fill(x, WEIGHTS, GAUSS, 0.02);
        round_trip(again[k].type, AG_COST_BY_SIZE, x, y, WEIGHTS);
        double e = error_of(again[k].type, y, WEIGHTS);
        if (e > again[k].max) fail_msg("%s again: %.6f", ag_quant_find((uint32_t)again[k].type)->name, e);
    }
}

static void test_plain_blocks(void **state)
{
    (void)state;
    static float x[WEIGHTS], y[WEIGHTS];
    for (size_t k = 0; k < 2 * AG_ARRAY_LEN(types); k++) {
        const ag_quant_row *r = ag_quant_find((uint32_t)types[k / 2].type);
        memset(x, 0, sizeof x);
        round_trip(r->type, costs[k % 2], x, y, 512);
        for (int i = 0; i < 512; i++) assert_true(y[i] == 0);
        static const float values[] = {1, -1, 0.5f, -3, 1000};
        for (size_t v = 0; v < AG_ARRAY_LEN(values); v++) { /* one value everywhere, and once in a block of zeros */
            for (int i = 0; i < 512; i++) x[i] = values[v];
            round_trip(r->type, costs[k % 2], x, y, 512);
            for (int i = 0; i < 512; i++)
                if (fabsf(y[i] - values[v]) > 0.02f * fabsf(values[v]))
                    fail_msg("%s: %g became %g", r->name, (double)values[v], (double)y[i]);
            memset(x, 0, sizeof x);
            x[300] = values[v];
            round_trip(r->type, costs[k % 2], x, y, 512);
            for (int i = 0; i < 512; i++)
                if (fabsf(y[i] - x[i]) > 0.02f * fabsf(values[v]))
                    fail_msg("%s: %g among zeros became %g at %d", r->name, (double)x[i], (double)y[i], i);
        }
    }
}

/* Sizes from next to nothing to beyond all range: numbers where the type can hold them, else something that is not
 * finite, so that the caller sees it; never a wrong weight in silence. */
static void test_extremes(void **state)
{
    (void)state;
    static float x[WEIGHTS], y[WEIGHTS];
    for (size_t k = 0; k < 2 * AG_ARRAY_LEN(types); k++) {
        const ag_quant_row *r = ag_quant_find((uint32_t)types[k / 2].type);
        for (int p = -44; p <= 38; p++) {
            double scale = pow(10, p), peak = 0;
            fill(x, 512, p & 1 ? GAUSS : UNIFORM, scale * 0.3);
            for (int i = 0; i < 512; i++) peak = fmax(peak, fabs((double)x[i]));
            round_trip(r->type, costs[k % 2], x, y, 512);
            bool finite = true;
            double worst = 0;
            for (int i = 0; i < 512; i++) {
                finite = finite && isfinite(y[i]);
                worst = fmax(worst, fabs((double)y[i] - (double)x[i]));
            }
            if (p <= 4 && !finite) fail_msg("%s: 1e%d is not a number", r->name, p);
            if (finite && p >= -2 && worst > 0.2 * peak)
                fail_msg("%s: 1e%d comes out wrong by %g of %g", r->name, p, worst, peak);
            if (finite && worst > 1.01 * peak + 0x1p-16)
                fail_msg("%s: 1e%d comes out wrong by %g of %g", r->name, p, worst, peak);
        }
    }
}

static void test_widths_agree(void **state)
{
    (void)state;
    static float x[WEIGHTS];
    static uint8_t a[WEIGHTS * 2], b[WEIGHTS * 2];
    for (unsigned width = 8; width <= 16; width *= 2) {
        ag__quantize_fn *f = ag__quantize_of(width);
        if (f == NULL) {
            check_skipped(8, "this processor has no vectors of that width");
            continue;
        }
        for (size_t k = 2 * 3; k < 2 * AG_ARRAY_LEN(types); k++)
            for (int s = GAUSS; s <= UNIFORM; s++)
                for (int p = -38; p <= 38; p += 2) {
                    fill(x, WEIGHTS, (shape)s, pow(10, p));
                    for (int i = 0; i < 32; i++) x[700 + i] = 0;
                    ag__quantize_4(types[k / 2].type, costs[k % 2], x, a, WEIGHTS);
                    f(types[k / 2].type, costs[k % 2], x, b, WEIGHTS);
                    if (memcmp(a, b, bytes_of(types[k / 2].type, WEIGHTS)) != 0)
                        fail_msg("%s, %u wide, shape %d, 1e%d", ag_quant_find((uint32_t)types[k / 2].type)->name,
                                 width, s, p);
                }
    }
}

/* A block depends on its own weights only, however many are given at once and wherever they lie. */
static void test_blocks_are_alone(void **state)
{
    (void)state;
    static float x[WEIGHTS], one[256];
    static uint8_t all[WEIGHTS * 4], alone[256 * 4];
    fill(x, WEIGHTS, LAPLACE, 0.1);
    for (size_t k = 0; k < AG_ARRAY_LEN(types); k++) {
        const ag_quant_row *r = ag_quant_find((uint32_t)types[k].type);
        for (size_t blocks = 1; blocks <= 37 && blocks * r->block <= WEIGHTS; blocks += 3) {
            size_t n = blocks * r->block;
            memset(all, 0xEE, sizeof all);
            ag_quantize(r->type, AG_COST_BY_SQUARE, x, all + 1, n);
            assert_int_equal(all[0], 0xEE);
            assert_int_equal(all[1 + bytes_of(r->type, n)], 0xEE);
            for (size_t i = 0; i < blocks; i++) {
                memcpy(one, x + i * r->block, r->block * sizeof *one);
                ag_quantize(r->type, AG_COST_BY_SQUARE, one, alone, r->block);
                assert_memory_equal(alone, all + 1 + i * r->bytes, r->bytes);
            }
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_error),         cmocka_unit_test(test_again),       cmocka_unit_test(test_plain_blocks),
        cmocka_unit_test(test_extremes),      cmocka_unit_test(test_widths_agree),
        cmocka_unit_test(test_blocks_are_alone), cmocka_unit_test(test_cost_by_square),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
