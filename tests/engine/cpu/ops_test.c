/* The small operations on every instruction set: against double precision and the scalar table bit for bit. */
#include "base/err.h"
#include "base/fault.h"
#include "engine/cpu/fixture.h"

#define N_MAX 700

static const uint32_t lengths[] = {1, 2, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 96, 100, 127, 128, 129, 576, 700};

static const ag_cpu_ops *scalar(void) { return ag_cpu_isa_find("scalar")->ops; }

static void fill(float *x, uint32_t n, float size)
{
    for (uint32_t i = 0; i < n; i++) x[i] = fix_normal() * size;
}

static double ulps(double got, double want) { return fabs(got - want) / (fabs(want) * 0x1p-23 + 1e-45); }

/* Runs `call` (which uses ops, a, b, c, y, n) with every table; y must have the bits of the scalar one, and nothing
 * past n may change. */
#define EACH(call)                                                                                                     \
    do {                                                                                                               \
        float spec[N_MAX + 1];                                                                                         \
        const ag_cpu_ops *ops = scalar();                                                                              \
        memcpy(y, y0, sizeof y);                                                                                       \
        call;                                                                                                          \
        memcpy(spec, y, sizeof spec);                                                                                  \
        assert_memory_equal(y + n, y0 + n, (N_MAX + 1 - n) * sizeof(float));                                           \
        for (const ag_cpu_isa *isa = NULL; (isa = fix_isa_next(isa)) != NULL;) {                                       \
            ops = isa->ops;                                                                                            \
            memcpy(y, y0, sizeof y);                                                                                   \
            call;                                                                                                      \
            if (memcmp(y, spec, sizeof y)) fail_msg("%s differs from scalar: " #call " n %u", isa->name, n);           \
        }                                                                                                              \
    } while (0)

static void elementwise(void **unused)
{
    (void)unused;
    static float a[N_MAX + 1], b[N_MAX + 1], y0[N_MAX + 1], y[N_MAX + 1];
    for (size_t l = 0; l < AG_ARRAY_LEN(lengths); l++) {
        uint32_t n = lengths[l];
        fill(a, N_MAX + 1, l % 3 ? 3 : 60);
        fill(b, N_MAX + 1, 1);
        fill(y0, N_MAX + 1, 20);
        EACH(ops->add(y, a, n));
        EACH(ops->scale(y, 0.3f, n));
        EACH(ops->softcap(y, 30, n));
        for (uint32_t i = 0; i < n; i++) assert_true(fabs(y[i] - 30 * tanh(y0[i] / 30.0)) < 8e-6);
        EACH(ops->glu(y, a, b, n, AG_ACT_SILU));
        for (uint32_t i = 0; i < n; i++) {
            double want = a[i] / (1 + exp(-(double)a[i])) * b[i];
            assert_true(ulps(y[i], want) < 8 || fabs(y[i] - want) < 1e-30);
        }
        EACH(ops->glu(y, a, b, n, AG_ACT_GELU_TANH));
        for (uint32_t i = 0; i < n; i++) {
            double x = a[i], want = 0.5 * x * (1 + tanh(sqrt(2 / M_PI) * (x + 0.044715 * x * x * x))) * b[i];
            assert_true(fabs(y[i] - want) < 4e-6 * fabs(x * b[i]) + 1e-30);
        }
        EACH(ops->rms_norm(y, a, b, n, 1e-5f));
        double ss = 0;
        for (uint32_t i = 0; i < n; i++) ss += (double)a[i] * a[i];
        for (uint32_t i = 0; i < n; i++) assert_true(ulps(y[i], a[i] / sqrt(ss / n + 1e-5f) * b[i]) < 16);
        memcpy(y0, a, sizeof y0);
        EACH(ops->rms_norm(y, y, b, n, 1e-5f));
    }
}

static void rotation(void **unused)
{
    (void)unused;
    static float a[N_MAX], b[N_MAX], y0[N_MAX + 1], y[N_MAX + 1];
    for (uint32_t n = 2; n <= 256; n += n < 20 ? 2 : 26) {
        for (uint32_t i = 0; i < n; i++) {
            a[i] = cosf((float)i * 0.37f);
            b[i] = sinf((float)i * 0.37f);
        }
        fill(y0, N_MAX + 1, 2);
        for (int interleaved = 0; interleaved < 2; interleaved++) {
            EACH(ops->rope(y, a, b, n, interleaved));
            for (uint32_t i = 0; i < n / 2; i++) {
                uint32_t i0 = interleaved ? 2 * i : i, i1 = interleaved ? 2 * i + 1 : i + n / 2;
                assert_true(fabs(y[i0] - ((double)y0[i0] * a[i] - (double)y0[i1] * b[i])) < 1e-5);
                assert_true(fabs(y[i1] - ((double)y0[i0] * b[i] + (double)y0[i1] * a[i])) < 1e-5);
            }
        }
    }
}

static void check_block(const ag_act_block *q, const float x[32])
{
    int sum[2] = {0, 0};
    float max = 0;
    for (int i = 0; i < 32; i++) max = fmaxf(max, fabsf(x[i]));
    for (int i = 0; i < 32; i++) {
        sum[i / 16] += q->q[i];
        double off = fabs(x[i] - (double)q->d * q->q[i]);
        assert_true(off <= max / 127.0 * 0.50001 || max < 1e-30f);
        assert_true(q->q[i] >= -127);
    }
    if (max < 1e-30f) assert_true(q->d == 0 && sum[0] == 0 && sum[1] == 0);
    assert_true(q->d == (max >= 1e-30f ? max / 127.0f : 0));
    assert_int_equal(q->n8, -8 * (sum[0] + sum[1]));
    assert_int_equal(q->n128, -128 * (sum[0] + sum[1]));
    assert_int_equal(q->n32[0], -32 * sum[0]);
    assert_int_equal(q->n32[1], -32 * sum[1]);
    assert_true(q->ds == q->d * (float)(sum[0] + sum[1]));
    assert_true(q->ds16[0] == q->d * (float)sum[0] && q->ds16[1] == q->d * (float)sum[1]);
}

/* Columns [1, 1 + cols) of a part of a wider row; blocks beside them stay as they are. */
static void quantizing(void **unused)
{
    (void)unused;
    enum { STRIDE = 7 * 32 + 3 };
    static const float size[] = {1, 1e-3f, 1e6f, 1e-29f, 1e-32f, 1e-42f, 0, 1e35f};
    for (uint32_t kind = 0; kind < 8 * 5 * 7; kind++) {
        uint32_t k = 32 * (1 + kind / 8 % 5), cols = 1 + kind / 40;
        float x[7 * STRIDE];
        for (uint32_t i = 0; i < cols; i++) fill(x + i * STRIDE, k, size[(kind + i) % 8]);
        if (kind % 3 == 0) x[5] = x[37 % k] = -x[4];
        size_t bytes = ag_act_bytes(7 * 32, cols + 2);
        ag_act a = {0}, b = {0};
        ag_act_place(&a, 7 * 32, cols + 2, fix_mem(bytes));
        memset(a.b, 0x5A, bytes);
        void *all = a.b;
        a.b++;
        a.k = k;
        scalar()->quantize(&a, 1, cols, x, STRIDE);
        for (uint32_t i = 0; i < cols; i++)
            for (uint32_t g = 0; g < k / 32; g++) check_block(a.b + (1 + i) * a.b_stride + g, x + i * STRIDE + 32 * g);
        for (const ag_cpu_isa *isa = NULL; (isa = fix_isa_next(isa)) != NULL;) {
            b = a;
            b.b = (ag_act_block *)fix_mem(bytes) + 1;
            memset(b.b - 1, 0x5A, bytes);
            isa->ops->quantize(&b, 1, cols, x, STRIDE);
            assert_memory_equal(all, b.b - 1, bytes);
            ag_mem_free(b.b - 1);
        }
        ag_mem_free(all);
    }
}

static void storing_keys(void **unused)
{
    (void)unused;
    float key[256], value[256];
    fill(key, 256, 3);
    fill(value, 256, 1e-6f);
    key[0] = value[1] = 1e9f;
    key[1] = value[2] = -1e9f;
    key[2] = 65519;
    key[3] = -0.0f;
    for (uint32_t dim = 8; dim <= 256; dim += 8) {
        uint32_t slot = fix_rand() % AG_CPU_KV_PAGE;
        size_t n = (size_t)AG_CPU_KV_PAGE * dim;
        uint16_t *k = fix_mem(n * 2), *v = fix_mem(n * 2), *k1 = fix_mem(n * 2), *v1 = fix_mem(n * 2);
        scalar()->kv_store(k, v, slot, key, value, dim, dim);
        assert_int_equal(k[slot / 16 * 16 * dim + slot % 16], 0x7BFF);
        assert_int_equal(k[slot / 16 * 16 * dim + 16 + slot % 16], 0xFBFF);
        assert_int_equal(v[slot * dim + 5], ag_f32_to_f16(value[5]));
        for (const ag_cpu_isa *isa = NULL; (isa = fix_isa_next(isa)) != NULL;) {
            memset(k1, 0xAA, n * 2);
            memset(v1, 0xAA, n * 2);
            isa->ops->kv_store(k1, v1, slot, key, value, dim, dim);
            assert_memory_equal(k, k1, n * 2);
            assert_memory_equal(v, v1, n * 2);
        }
        void *all[] = {k, v, k1, v1};
        for (int i = 0; i < 4; i++) ag_mem_free(all[i]);
    }
}

static void sampling_helpers(void **unused)
{
    (void)unused;
    static float x[N_MAX];
    for (size_t l = 0; l < AG_ARRAY_LEN(lengths); l++) {
        uint32_t n = lengths[l];
        fill(x, n, 10);
        uint32_t best = fix_rand() % n;
        x[best] = 100;
        for (uint32_t i = best + 1; i < n; i += 3) x[i] = 100; /* equals: the first counts */
        double want = 0;
        for (uint32_t i = 0; i < n; i++) want += exp((double)x[i] - 100);
        float spec = scalar()->max_exp_sum(x, n, 100);
        assert_true(ulps(spec, want) < 20);
        for (const ag_cpu_isa *isa = NULL; (isa = fix_isa_next(isa)) != NULL;) {
            assert_int_equal(isa->ops->argmax(x, n), best);
            float got = isa->ops->max_exp_sum(x, n, 100);
            assert_memory_equal(&got, &spec, 4);
        }
    }
}

/* e^x by way of the sum of one: 2 ulp over the whole range, exact at its ends. */
static void exponential(void **unused)
{
    (void)unused;
    double worst = 0;
    for (float x = -87.3f; x < 88; x += 0.0137f) {
        float one = scalar()->max_exp_sum(&x, 1, 0);
        worst = fmax(worst, ulps(one, exp((double)x)));
        for (const ag_cpu_isa *isa = NULL; (isa = fix_isa_next(isa)) != NULL;) {
            float got = isa->ops->max_exp_sum(&x, 1, 0);
            assert_memory_equal(&got, &one, 4);
        }
    }
    assert_true(worst < 2);
    static const float edge[] = {0, -0.0f, -88, -1e30f, -INFINITY};
    for (size_t i = 0; i < AG_ARRAY_LEN(edge); i++) {
        for (const ag_cpu_isa *isa = NULL; (isa = fix_isa_next(isa)) != NULL;) {
            assert_true(isa->ops->max_exp_sum(&edge[i], 1, 0) == (i < 2 ? 1 : 0));
        }
    }
}

static void table(void **unused)
{
    (void)unused;
    assert_string_equal(ag_cpu_isa_find("scalar")->name, "scalar");
    assert_null(ag_cpu_isa_find("mmx"));
    assert_ptr_equal(ag_cpu_isa_find(NULL), ag_cpu_isa_find("auto"));
    assert_ptr_equal(ag_cpu_isa_find(""), ag_cpu_isa_find("auto"));
    const ag_cpu_isa *best = fix_isa_next(NULL);
    while (!best->pays()) best = fix_isa_next(best);
    assert_ptr_equal(ag_cpu_isa_find(NULL), best);
    const char *want = getenv("AUTOGLM_TEST_ISA"); /* of a machine that is known to the caller */
    if (want != NULL) assert_string_equal(ag_cpu_isa_find(NULL)->name, want);
    for (const ag_cpu_isa *isa = NULL; (isa = fix_isa_next(isa)) != NULL;) {
        assert_ptr_equal(ag_cpu_isa_find(isa->name), isa);
        assert_true(isa->burn(100) > 0 && isa->burn_float(100) > 0);
    }
    ag_cpu_peak p;
    assert_int_equal(ag_cpu_peak_measure(ag_cpu_isa_find("auto"), 2, &p), AG_OK);
    assert_true(p.read_bytes_s > 0 && p.int8_ops_s > 0 && p.float_ops_s > 0);
}

#ifdef AG_FAULTS
static void peak_failures(void **unused)
{
    (void)unused;
    static const ag_fault_kind kinds[] = {AG_FAULT_ALLOC, AG_FAULT_THREAD};
    for (size_t k = 0; k < AG_ARRAY_LEN(kinds); k++) {
        for (uint32_t n = 1;; n++) {
            ag_cpu_peak p;
            ag_fault_arm(kinds[k], n);
            int rc = ag_cpu_peak_measure(ag_cpu_isa_find("auto"), 3, &p);
            bool fired = ag_fault_disarm(kinds[k]);
            assert_int_equal(rc, !fired ? AG_OK : kinds[k] == AG_FAULT_ALLOC ? AG_E_NOMEM : AG_E_INTERNAL);
            if (!fired) break;
        }
    }
}
#endif

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(elementwise), cmocka_unit_test(rotation), cmocka_unit_test(quantizing),
        cmocka_unit_test(storing_keys), cmocka_unit_test(sampling_helpers), cmocka_unit_test(exponential),
        cmocka_unit_test(table),
#ifdef AG_FAULTS
        cmocka_unit_test(peak_failures),
#endif
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
