/* Products of every weight type on every instruction set against double precision and each other bit for bit. AMX is
 * emulated where it is not. */
#include "engine/cpu/fixture.h"
#include "lib/amx_emulator.h"

static uint32_t *product_run(const fix_product *p, const ag_cpu_ops *ops)
{
    uint32_t *y = fix_product_result(p);
    ops->matmul(&p->pack, &p->act, p->cols, 0, p->pack.tiles, (float *)y, p->stride);
    for (uint32_t c = 0; c < p->cols; c++) {
        for (uint32_t i = p->rows; i < p->stride; i++) assert_int_equal(y[c * p->stride + i], FIX_GUARD);
    }
    return y;
}

/* Rounded: x counts as BF16, and denormals as zero, sums among them. */
static void compare_with_double(const fix_product *p, const float *y, bool rounded)
{
    float *w = fix_mem(p->k * sizeof *w);
    const ag_quant_row *q = ag_quant_find(p->type);
    size_t row_bytes = (size_t)p->k / q->block * q->bytes;
    bool quantized = ag_pack_wants_quantized(p->type);
    for (uint32_t r = 0; r < p->rows; r++) {
        ag_quant_dequantize(p->type, p->w + r * row_bytes, w, p->k);
        double top = 0;
        for (uint32_t i = 0; i < p->k; i++) top = fmax(top, fabs(w[i]));
        for (uint32_t c = 0; c < p->cols; c++) {
            const ag_act_block *b = p->act.b + c * p->act.b_stride;
            const float *x = p->act.x + c * p->act.x_stride;
            double exact = 0, loose = 0, size = 0, error = 0, lost = 0;
            for (uint32_t i = 0; i < p->k; i++) {
                double xq = quantized ? (double)b[i / 32].d * b[i / 32].q[i % 32] : x[i];
                exact += w[i] * xq;
                loose += (double)w[i] * x[i];
                size += top * fabs(xq);
                error += fabs(w[i]) * (quantized ? b[i / 32].d * 0.501 : 0);
                lost += fabs(w[i] * xq) * 0x1p-8 + (fabs(xq) + fabs(w[i]) + 2) * 0x1p-126;
            }
            double got = y[c * p->stride + r], tight = size * ((p->k / 32 + 8) * 0x1p-23) + 1e-40;
            if (rounded) tight += lost;
            if (!(fabs(got - exact) <= tight) || !(fabs(got - loose) <= error + tight)) {
                fail_msg("%s rows %u k %u cols %u at %u %u: %.9g, exact %.9g (+- %.3g), unquantized %.9g (+- %.3g)",
                         q->name, p->rows, p->k, p->cols, r, c, got, exact, tight, loose, error);
            }
        }
    }
    ag_mem_free(w);
}

static void check_shape(ag_quant_type t, uint32_t rows, uint32_t k, uint32_t cols, fix_kind kind)
{
    fix_product p;
    fix_product_init(&p, t, rows, k, cols, kind);
    uint32_t *spec = product_run(&p, ag_cpu_isa_find("scalar")->ops);
    compare_with_double(&p, (float *)spec, false);
    for (const ag_cpu_isa *isa = NULL; (isa = fix_isa_next(isa)) != NULL;) {
        uint32_t *y = product_run(&p, isa->ops);
        bool rounded = t == AG_Q_BF16 && (strcmp(isa->name, "amx") == 0 || strcmp(isa->name, "avx512bf16") == 0);
        if (rounded) compare_with_double(&p, (float *)y, true);
        for (size_t i = 0; i < (size_t)cols * p.stride && !rounded; i++) {
            if (y[i] != spec[i]) {
                fail_msg("%s differs from scalar: %s rows %u k %u cols %u at %zu: %08x %08x (%g %g)", isa->name,
                         ag_quant_find(t)->name, rows, k, cols, i, y[i], spec[i], ((float *)y)[i], ((float *)spec)[i]);
            }
        }
        ag_mem_free(y);
    }
    ag_mem_free(spec);
    fix_product_fini(&p);
}

static void every_type_and_shape(void **unused)
{
    (void)unused;
    static const uint32_t rows[] = {1, 15, 16, 17, 35}, blocks[] = {1, 2, 3, 9};
    for (const ag_quant_row *q = NULL; (q = ag_quant_next(q)) != NULL;) {
        for (size_t r = 0; r < AG_ARRAY_LEN(rows); r++) {
            for (size_t b = 0; b < AG_ARRAY_LEN(blocks); b++) {
                uint32_t k = q->block * blocks[b];
                if (q->block == 256 && blocks[b] > 2) continue;
                check_shape(q->type, rows[r], k, 1 + (uint32_t)(r + b) % 3, FIX_RANDOM);
            }
        }
        uint32_t k = q->block == 1 ? 37 : q->block == 32 ? 96 : 512;
        for (uint32_t cols = 1; cols <= 18; cols++) check_shape(q->type, 19, k, cols, FIX_RANDOM);
        check_shape(q->type, 17, k, 67, FIX_RANDOM);
        /* k beyond what the kernels take in one cut, whole and odd counts of groups, several tiles. */
        uint32_t odd = q->block == 256 ? 256 : 32;
        check_shape(q->type, 40, 1024 + odd, 23, FIX_RANDOM);
        check_shape(q->type, 33, 2048 + odd, 7, FIX_RANDOM);
        check_shape(q->type, 300, 1024, 16, FIX_RANDOM);
    }
}

static void extreme_values(void **unused)
{
    (void)unused;
    for (const ag_quant_row *q = NULL; (q = ag_quant_next(q)) != NULL;) {
        for (int kind = FIX_ONES; kind < FIX_KINDS; kind++) {
            check_shape(q->type, 17, q->block == 1 ? 70 : q->block * 3, 5, (fix_kind)kind);
        }
    }
}

/* Activations of one value make every q 127: the largest sums that can be, in both signs, for every value of a byte. */
static void no_saturation(void **unused)
{
    (void)unused;
    for (const ag_quant_row *q = NULL; (q = ag_quant_next(q)) != NULL;) {
        if (!ag_pack_wants_quantized(q->type)) continue;
        for (int byte = 0; byte < 256; byte += 5) {
            fix_product p;
            fix_product_init(&p, q->type, 16, q->block, 2, FIX_RANDOM);
            int at[2];
            fix_scale_offsets(q->type, at);
            for (uint32_t i = 0; i < 16 * q->bytes; i++) {
                int o = (int)(i % q->bytes);
                if ((o >= at[0] && o < at[0] + 2) || (at[1] >= 0 && o >= at[1] && o < at[1] + 2)) continue;
                p.w[i] = (unsigned char)byte;
            }
            ag_pack_fill(&p.pack, p.w, 0, 1);
            float *x = fix_mem(q->block * sizeof *x);
            for (int c = 0; c < 2; c++) {
                for (uint32_t i = 0; i < q->block; i++) ((float *)p.act.x)[c * q->block + i] = x[i] = c ? -2.0f : 2.0f;
                ag_cpu_isa_find("scalar")->ops->quantize(&p.act, (uint32_t)c, 1, x, 0);
                assert_int_equal(p.act.b[c * p.act.b_stride].q[7], c ? -127 : 127);
            }
            uint32_t *spec = product_run(&p, ag_cpu_isa_find("scalar")->ops);
            compare_with_double(&p, (float *)spec, false);
            for (const ag_cpu_isa *isa = NULL; (isa = fix_isa_next(isa)) != NULL;) {
                uint32_t *y = product_run(&p, isa->ops);
                assert_memory_equal(y, spec, 2 * p.stride * 4);
                ag_mem_free(y);
            }
            ag_mem_free(spec);
            ag_mem_free(x);
            fix_product_fini(&p);
        }
    }
}

/* A column's bits do not depend on its neighbours, and a row's not on where the tiles are cut. */
static void alone_and_in_a_batch(void **unused)
{
    (void)unused;
    for (const ag_quant_row *q = NULL; (q = ag_quant_next(q)) != NULL;) {
        fix_product p;
        fix_product_init(&p, q->type, 50, q->block == 1 ? 50 : q->block * 2, 21, FIX_RANDOM);
        for (const ag_cpu_isa *isa = NULL; (isa = fix_isa_next(isa)) != NULL;) {
            uint32_t *all = product_run(&p, isa->ops);
            for (uint32_t c = 0; c < p.cols; c++) {
                float one[64];
                ag_act a = p.act;
                a.x += c * a.x_stride;
                a.b += c * a.b_stride;
                for (uint32_t t = 0; t < p.pack.tiles; t++) isa->ops->matmul(&p.pack, &a, 1, t, t + 1, one + 16 * t, 0);
                assert_memory_equal(one, all + c * p.stride, p.rows * 4);
            }
            ag_mem_free(all);
        }
        fix_product_fini(&p);
    }
}

/* Packed weights are as large as the file's, give or take what layout.h says. */
static void memory_stays(void **unused)
{
    (void)unused;
    for (const ag_quant_row *q = NULL; (q = ag_quant_next(q)) != NULL;) {
        ag_pack p;
        ag_pack_shape(&p, q->type, 4096, 4096);
        double ratio = (double)p.tile_bytes * p.tiles / (4096.0 * 4096 / q->block * q->bytes);
        assert_true(ratio >= 1 && ratio <= (q->type == AG_Q_Q3_K ? 1.056 : 1.03));
    }
    assert_false(ag_pack_supported(AG_Q_Q4_0, 0));
    assert_false(ag_pack_supported(AG_Q_Q4_0, 33));
    assert_false(ag_pack_supported(AG_Q_Q4_K, 128));
    assert_false(ag_pack_supported((ag_quant_type)99, 256));
    assert_true(ag_pack_supported(AG_Q_F16, 7));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_type_and_shape), cmocka_unit_test(extreme_values), cmocka_unit_test(no_saturation),
        cmocka_unit_test(alone_and_in_a_batch), cmocka_unit_test(memory_stays),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
