/* fixture.h - random weights, activations and guarded outputs for the tests of kernels. Header only, for tests. */
#ifndef AG_CPU_FIXTURE_H
#define AG_CPU_FIXTURE_H

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "base/mem.h"
#include "engine/cpu/cpu.h"

static uint64_t fix_state = 0x9E3779B97F4A7C15u;

static AG_UNUSED uint32_t fix_rand(void)
{
    fix_state ^= fix_state << 13;
    fix_state ^= fix_state >> 7;
    fix_state ^= fix_state << 17;
    return (uint32_t)(fix_state >> 32);
}

/* About normal, sigma 1. */
static AG_UNUSED float fix_normal(void)
{
    float s = 0;
    for (int i = 0; i < 12; i++) s += (float)(fix_rand() >> 8) * 0x1p-24f;
    return s - 6;
}

static AG_UNUSED void *fix_mem(size_t bytes)
{
    void *p = ag_mem_aligned(64, AG_ALIGN_UP(bytes + 64, 64));
    assert_non_null(p);
    memset(p, 0xAA, AG_ALIGN_UP(bytes + 64, 64));
    return p;
}

/* Offsets of the f16 scale and minimum in a block; -1: none. */
static AG_UNUSED void fix_scale_offsets(ag_quant_type t, int at[2])
{
    at[0] = 0;
    at[1] = -1;
    if (t == AG_Q_Q4_1 || t == AG_Q_Q5_1 || t == AG_Q_Q4_K || t == AG_Q_Q5_K) at[1] = 2;
    if (t == AG_Q_Q2_K) at[0] = 80, at[1] = 82;
    if (t == AG_Q_Q3_K) at[0] = 108;
    if (t == AG_Q_Q6_K) at[0] = 208;
    if (t == AG_Q_F32 || t == AG_Q_F16 || t == AG_Q_BF16) at[0] = -1;
}

typedef enum fix_kind {
    FIX_RANDOM,
    FIX_ONES, /* every bit of the quants set */
    FIX_ZEROS,
    FIX_DENORMAL,
    FIX_LARGE,
    FIX_KINDS
} fix_kind;

static AG_UNUSED float fix_float(fix_kind kind)
{
    static const float size[FIX_KINDS] = {1, 1, 0, 1e-39f, 1e4f};
    return fix_normal() * size[kind];
}

/* rows of k weights in the file's layout: random bits, finite scales. Freed by ag_mem_free. */
static AG_UNUSED unsigned char *fix_weights(ag_quant_type t, uint32_t rows, uint32_t k, fix_kind kind)
{
    const ag_quant_row *q = ag_quant_find(t);
    size_t blocks = (size_t)rows * k / q->block;
    unsigned char *w = fix_mem(blocks * q->bytes);
    int at[2];
    fix_scale_offsets(t, at);
    for (size_t b = 0; b < blocks; b++) {
        unsigned char *p = w + b * q->bytes;
        for (uint32_t i = 0; i < q->bytes; i++) {
            p[i] = kind == FIX_ONES ? 255 : kind == FIX_ZEROS ? 0 : (unsigned char)fix_rand();
        }
        for (int i = 0; i < 2; i++) {
            uint16_t h = ag_f32_to_f16(fix_normal() * 0.01f);
            if (kind == FIX_DENORMAL) h = (uint16_t)(fix_rand() & 0x83FF);
            if (kind == FIX_LARGE) h = (uint16_t)(0x7BFF | (fix_rand() & 0x8000));
            if (at[i] >= 0) memcpy(p + at[i], &h, 2);
        }
        float f = fix_float(kind);
        uint32_t bits;
        memcpy(&bits, &f, 4);
        uint16_t half = ag_f32_to_f16(f), bf = (uint16_t)(bits >> 16);
        if (t == AG_Q_F32) memcpy(p, &f, 4);
        if (t == AG_Q_F16) memcpy(p, &half, 2);
        if (t == AG_Q_BF16) memcpy(p, &bf, 2);
    }
    return w;
}

static AG_UNUSED ag_pack fix_pack(ag_quant_type t, const void *w, uint32_t rows, uint32_t k)
{
    ag_pack p;
    ag_pack_shape(&p, t, rows, k);
    p.data = fix_mem(p.tile_bytes * p.tiles);
    ag_pack_fill(&p, w, 0, p.tiles);
    return p;
}

/* Columns of activations, quantized by the scalar table. x and b are freed by fix_act_free. */
static AG_UNUSED ag_act fix_act(uint32_t k, uint32_t cols, float size)
{
    ag_act a = {0};
    float *x = fix_mem((size_t)cols * k * sizeof *x);
    for (size_t i = 0; i < (size_t)cols * k; i++) x[i] = fix_normal() * size;
    ag_act_place(&a, k, cols, fix_mem(ag_act_bytes(k, cols)));
    a.x = x;
    a.x_stride = k;
    const ag_cpu_ops *ops = ag_cpu_isa_find("scalar")->ops;
    if (k % 32 == 0) ops->quantize(&a, 0, cols, x, k);
    return a;
}

static AG_UNUSED void fix_act_free(ag_act *a)
{
    ag_mem_free((void *)a->x);
    ag_mem_free(a->b);
}

/* Walks the instruction sets of this machine; those it lacks are named once. */
static AG_UNUSED const ag_cpu_isa *fix_isa_next(const ag_cpu_isa *isa)
{
    static bool told;
    while ((isa = ag_cpu_isa_next(isa)) != NULL && !isa->runs()) {
        if (!told) printf("skipped: instruction set %s is not on this machine\n", isa->name);
    }
    if (isa == NULL) told = true;
    return isa;
}

#define FIX_GUARD 0x7F123456u /* in results, where nothing may be written */

/* A product, ready to be run: weights, their packed form, activations. */
typedef struct fix_product {
    ag_quant_type type;
    uint32_t rows, k, cols;
    unsigned char *w;
    ag_pack pack;
    ag_act act;
    uint32_t stride; /* of the result, with a few guards after each column's rows */
} fix_product;

static AG_UNUSED void fix_product_init(fix_product *p, ag_quant_type t, uint32_t rows, uint32_t k, uint32_t cols,
                                       fix_kind kind)
{
    *p = (fix_product){.type = t, .rows = rows, .k = k, .cols = cols, .stride = rows + 5};
    p->w = fix_weights(t, rows, k, kind);
    p->pack = fix_pack(t, p->w, rows, k);
    p->act = fix_act(k, cols, 1);
}

static AG_UNUSED void fix_product_fini(fix_product *p)
{
    ag_mem_free(p->w);
    ag_mem_free(p->pack.data);
    fix_act_free(&p->act);
}

/* The result's memory, all guards. */
static AG_UNUSED uint32_t *fix_product_result(const fix_product *p)
{
    size_t n = (size_t)p->cols * p->stride;
    uint32_t *y = fix_mem(n * sizeof *y);
    for (size_t i = 0; i < n; i++) y[i] = FIX_GUARD;
    return y;
}

#endif
