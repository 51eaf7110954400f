/* ref_matmul.c - the products' specification: y = W x over packed weights, in plain C.
 *
 * A group of 32 k of one row and column, all sums of bytes exact in int32:
 *   scale per 32:  acc = fma(s * x.d, isum, acc);             then with minima  acc = fma(m, x.ds, acc)
 *   scale per 16:  acc = fma(fma(s1, isum1, s0 * isum0), x.d, acc);  then acc = fma(m0, x.ds16[0], acc), and with 1
 * where isum counts (u - off) * q. Groups follow each other in k order. Every instruction set does just this. */
#include <math.h>

#include "engine/cpu/layout.h"

#define COLS 16 /* columns that share one unpacking */

typedef struct group {
    int16_t w[16][32]; /* u - off */
    float s[2][16], m[2][16];
} group;

static uint16_t half_at(const unsigned char *p, unsigned i)
{
    uint16_t h;
    memcpy(&h, p + 2 * i, 2);
    return h;
}

/* Adds the bits of a plane to u, from bit `shift` up. */
static void add_plane(const unsigned char *plane, unsigned bits, unsigned shift, int16_t u[16][32])
{
    unsigned per = 8 / bits, mask = (1u << bits) - 1; /* quads that share a vector */
    for (unsigned v = 0; v < bits; v++, plane += 64) {
        for (unsigned i = 0; i < per; i++) {
            unsigned quad = bits == 4 ? v + 4 * i : per * v + i;
            for (unsigned r = 0; r < 16; r++) {
                for (unsigned b = 0; b < 4; b++) {
                    int16_t *to = &u[r][4 * quad + b];
                    *to = (int16_t)(*to | (plane[4 * r + b] >> bits * i & mask) << shift);
                }
            }
        }
    }
}

static void unpack_quants(const ag__layout *l, const unsigned char *q, group *g)
{
    memset(g->w, 0, sizeof g->w);
    add_plane(q, l->base, 0, g->w);
    if (l->ext) add_plane(q + 64 * l->base, l->ext, l->base, g->w);
    for (unsigned r = 0; r < 16; r++) {
        for (unsigned k = 0; k < 32; k++) {
            int u = l->lut ? ag__iq4_bytes[g->w[r][k]] : g->w[r][k];
            g->w[r][k] = (int16_t)(u - l->off);
        }
    }
}

static void unpack_scales(const ag__layout *l, const unsigned char *sc, const unsigned char *head, group *g)
{
    for (unsigned r = 0; r < 16; r++) {
        float d = ag_f16_to_f32(half_at(ag__head_bytes(l->scale) ? head : sc, r));
        float m = 0;
        if (l->scale == AG__SC_DM) m = ag_f16_to_f32(half_at(sc + 32, r));
        if (l->scale == AG__SC_K32M || l->scale == AG__SC_K16M) m = ag_f16_to_f32(half_at(head + 32, r));
        g->s[0][r] = d;
        g->m[0][r] = m;
        switch (l->scale) {
        case AG__SC_D: case AG__SC_DM: break;
        case AG__SC_K32M:
            g->s[0][r] = d * (float)sc[r];
            g->m[0][r] = m * (float)sc[16 + r];
            break;
        case AG__SC_K32: g->s[0][r] = d * (float)(int8_t)sc[r]; break;
        case AG__SC_K16:
            for (int h = 0; h < 2; h++) g->s[h][r] = d * (float)(int8_t)sc[16 * h + r];
            break;
        case AG__SC_K16M:
            for (int h = 0; h < 2; h++) {
                g->s[h][r] = d * (float)(sc[16 * h + r] & 15);
                g->m[h][r] = m * (float)(sc[16 * h + r] >> 4);
            }
            break;
        }
    }
}

static int32_t dot(const int16_t *w, const int8_t *q, int n)
{
    int32_t sum = 0;
    for (int i = 0; i < n; i++) sum += w[i] * q[i];
    return sum;
}

static void group_column(const ag__layout *l, const group *g, const ag_act_block *x, float acc[16])
{
    for (unsigned r = 0; r < 16; r++) {
        float a = acc[r];
        if (l->scale == AG__SC_K16 || l->scale == AG__SC_K16M) {
            float t = g->s[0][r] * (float)dot(g->w[r], x->q, 16);
            t = fmaf(g->s[1][r], (float)dot(g->w[r] + 16, x->q + 16, 16), t);
            a = fmaf(t, x->d, a);
            if (l->scale == AG__SC_K16M) a = fmaf(g->m[1][r], x->ds16[1], fmaf(g->m[0][r], x->ds16[0], a));
        } else {
            a = fmaf(g->s[0][r] * x->d, (float)dot(g->w[r], x->q, 32), a);
            if (l->scale == AG__SC_DM || l->scale == AG__SC_K32M) a = fmaf(g->m[0][r], x->ds, a);
        }
        acc[r] = a;
    }
}

static void tile_quantized(const ag_pack *w, const ag__layout *l, const unsigned char *tile, const ag_act *a,
                           uint32_t c0, uint32_t cols, float acc[COLS][16])
{
    uint32_t groups = w->k / 32, unit = ag__unit_groups(l->scale);
    uint32_t plane = ag__plane_bytes(l->base, l->ext), scale = ag__scale_bytes(l->scale);
    for (uint32_t g0 = 0; g0 < groups; g0 += unit) {
        uint32_t n = AG_MIN(unit, groups - g0);
        const unsigned char *scales = tile + (size_t)n * plane, *head = scales + (size_t)n * scale;
        for (uint32_t i = 0; i < n; i++) {
            group g;
            unpack_quants(l, tile + (size_t)i * plane, &g);
            unpack_scales(l, scales + (size_t)i * scale, head, &g);
            for (uint32_t c = 0; c < cols; c++) group_column(l, &g, a->b + (c0 + c) * a->b_stride + g0 + i, acc[c]);
        }
        tile = head + ag__head_bytes(l->scale);
    }
}

/* Float weights: four chains by k mod 4, joined as (0 + 1) + (2 + 3). */
static void tile_float(const ag_pack *w, const unsigned char *tile, const ag_act *a, uint32_t c0, uint32_t cols,
                       float acc[COLS][16])
{
    for (uint32_t c = 0; c < cols; c++) {
        const float *x = a->x + (c0 + c) * a->x_stride;
        float chain[4][16] = {{0}};
        for (uint32_t k = 0; k < w->k; k++) {
            for (uint32_t r = 0; r < 16; r++) {
                float v;
                if (w->type == AG_Q_F32) memcpy(&v, tile + ((size_t)k * 16 + r) * 4, 4);
                else {
                    bool pairs = w->type == AG_Q_BF16;
                    uint16_t h = half_at(tile, pairs ? (k / 2 * 16 + r) * 2 + k % 2 : k * 16 + r);
                    v = pairs ? ag_bf16_to_f32(h) : ag_f16_to_f32(h);
                }
                chain[k % 4][r] = fmaf(v, x[k], chain[k % 4][r]);
            }
        }
        for (int r = 0; r < 16; r++) acc[c][r] = (chain[0][r] + chain[1][r]) + (chain[2][r] + chain[3][r]);
    }
}

void ag__matmul_scalar(const ag_pack *w, const ag_act *a, uint32_t cols, uint32_t from, uint32_t to, float *y,
                       size_t y_stride)
{
    const ag__layout *l = ag__layout_find(w->type);
    AG_ASSERT(to <= w->tiles);
    for (uint32_t t = from; t < to; t++) {
        const unsigned char *tile = w->data + t * w->tile_bytes;
        uint32_t rows = AG_MIN(16u, w->rows - t * 16);
        for (uint32_t c0 = 0; c0 < cols; c0 += COLS) {
            uint32_t n = AG_MIN((uint32_t)COLS, cols - c0);
            float acc[COLS][16] = {{0}};
            if (l != NULL) tile_quantized(w, l, tile, a, c0, n, acc);
            else tile_float(w, tile, a, c0, n, acc);
            for (uint32_t c = 0; c < n; c++) {
                memcpy(y + (c0 + c) * y_stride + (size_t)(t - from) * 16, acc[c], rows * sizeof(float));
            }
        }
    }
}

uint64_t ag__burn_scalar(uint64_t rounds)
{
    volatile int8_t source[64];
    int16_t w[32];
    int8_t q[32];
    for (int i = 0; i < 32; i++) {
        source[i] = (int8_t)i;
        w[i] = source[i];
        q[i] = (int8_t)source[i];
    }
    volatile int32_t sink = 0;
    for (uint64_t i = 0; i < rounds; i++) {
        q[i % 32] = (int8_t)(q[i % 32] ^ 1);
        sink = sink ^ dot(w, q, 32);
    }
    return rounds * 64;
}

uint64_t ag__burn_float_scalar(uint64_t rounds)
{
    float w = 1, sum[8] = {0};
    for (uint64_t i = 0; i < rounds; i++) {
        __asm__ volatile("" : "+m"(w), "+m"(sum));
        for (int j = 0; j < 8; j++) sum[j] = fmaf(w, w, sum[j]);
    }
    return rounds * 8 * 2;
}

void ag__read_scalar(const unsigned char *p, size_t bytes, size_t ahead)
{
    (void)ahead;
    uint64_t sum[8] = {0};
    for (size_t i = 0; i < bytes; i += 64) {
        const uint64_t *w = (const uint64_t *)(p + i);
        for (int j = 0; j < 8; j++) sum[j] += w[j];
    }
    for (int j = 0; j < 8; j++) __asm__ volatile("" : : "r"(sum[j]));
}
