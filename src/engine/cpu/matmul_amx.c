/* Products on AMX, with AVX-512 for all that is not a product of tiles.
 *
 * A group of 32 k of a tile of weights, unpacked to signed bytes, is an operand of TDPBSSD as it lies: 8 rows (quads of
 * k) of 16 weight rows by 4 bytes. The other operand is the quantized activations in place: a row is 32 bytes of a
 * column's block. The sums, exact in int32, are stored and joined in float by AVX-512 in the order of matmul_vec.inc:
 * the bits are those of every other instruction set. So few columns may take AVX-512's products, which are cheaper
 * there.
 *
 * Where the time goes, reckoned for 16 rows x 16 columns x 32 k (16,384 operations): a TDPBSSD takes 16 cycles, though
 * with 32 k it fills half of the unit's depth; its result is 16 stores. Joining is 3 vector operations a column
 * (convert, scale times scale, multiply and add; 4 with minima), 48 on two ports: 24 cycles. Loads: 8 weights, 16
 * activations, 16 sums, 16 scales of columns: 28 cycles at two a cycle. So the scales and loads are the limit, near 600
 * operations a cycle against 180 of AVX-512 (11 vector operations a column and group): 4 Tops on two cores of 3.4 GHz
 * whose unit does 14 from registers and 9.9 from the first cache level. Therefore the sums of 16 columns stay in vector
 * registers for a cut of k, and the products of a step run while the step before is joined: two steps of sums hide the
 * unit's latency (52 cycles). Types with a scale per 16 k take two products of a quarter of the depth (32 cycles) and 5
 * operations a column (40).
 *
 * A cut is 8 groups. Up to 4 tiles of weights are unpacked for it (24 KiB), then all columns go by, 16 at a time (8 KiB
 * that all tiles use from the first level). The sums wait in y between the cuts. */
#include "engine/cpu/vec_avx512.h"

#include "engine/cpu/tile_amx.h"
#include "engine/cpu/unpack_vec.inc"

#define CUT 8       /* groups; whole units of every type */
#define TILES 4
/* AVX-512 takes 5.5 cycles a column and group, a tile product 16 whatever its columns if its time did not shrink with
 * them, and the stores and loads on its way: below 5 columns nothing is won. */
#define COLUMNS_MIN 5

typedef struct group {
    int8_t w[8][64];  /* quads of k */
    float s[2][16], m[2][16];
} group;

/* n groups of one tile, q at the first of its unit; what is asked for ahead lies `ahead` bytes behind it. */
INLINE void unpack_groups(int base, int ext, int off, int kind, int lut, const unsigned char *q, uint32_t n,
                          ptrdiff_t ahead, group *out)
{
    const uint32_t plane = ag__plane_bytes((unsigned)base, (unsigned)ext), scale = ag__scale_bytes((ag__scale)kind);
    const uint32_t unit = ag__unit_groups((ag__scale)kind);
    for (uint32_t g0 = 0; g0 < n; g0 += unit) {
        uint32_t in_unit = n - g0 < unit ? n - g0 : unit;
        const unsigned char *sc = q + (size_t)in_unit * plane, *head = sc + (size_t)in_unit * scale;
        for (uint32_t i = 0; i < in_unit; i++, q += plane, sc += scale, out++) {
            vi w[8];
            vf s[2], m[2];
            for (uint32_t p = 0; p < plane + scale; p += 64) __builtin_prefetch(q + ahead + p);
            unpack(base, ext, lut, q, w);
            scales(kind, sc, head, 0, s, m);
#pragma GCC unroll 8
            for (int j = 0; j < 8; j++) vi_store(out->w[j], off ? vi_sub_bytes(w[j], vi_bytes((uint8_t)off)) : w[j]);
            for (int h = 0; h < (kind == AG__SC_K16 || kind == AG__SC_K16M ? 2 : 1); h++) {
                vf_store(out->s[h], s[h]);
                if (kind == AG__SC_DM || kind == AG__SC_K32M || kind == AG__SC_K16M) vf_store(out->m[h], m[h]);
            }
        }
        q = head + ag__head_bytes((ag__scale)kind);
    }
}

/* Some columns times one tile of weights, over the groups of a cut. */
typedef struct strip {
    const group *g;
    uint32_t n;           /* groups */
    const char *x;        /* the first column's first block */
    strides by;           /* between columns */
    bool first;           /* cut: y holds nothing yet */
    uint32_t rows, done;  /* rows of y; columns that an earlier strip has stored */
    float *y;
    size_t y_stride;
} strip;

typedef int32_t sums[16][16];

/* The shapes: full strips of 16 columns in tiles 0 to 2, smaller ones in 4 to 6, weights in 3. */
#define PRODUCT(c, a, w, x, by, out)                                                                                   \
    do {                                                                                                               \
        TILE_ZERO(c);                                                                                                  \
        TILE_LOAD(a, x, by);                                                                                           \
        TILE_LOAD(3, w, 64);                                                                                           \
        TILE_DOT_I8(c, a, 3);                                                                                          \
        TILE_STORE(c, out, 64);                                                                                        \
    } while (0)

/* A step is two products: of two groups, or of the halves of one. */
INLINE void step_products(int cols, bool halves, const strip *t, uint32_t step, sums out[2])
{
    const group *g = t->g + (halves ? step : 2 * step);
    const char *x = t->x + (halves ? step : 2 * step) * sizeof(ag_act_block);
    const char *x1 = x + (halves ? 16 : sizeof(ag_act_block));
    const int8_t *w1 = halves ? g->w[4] : g[1].w[0];
    bool both = halves || 2 * step + 1 < t->n;
    if (cols == 16) PRODUCT(0, 2, g->w, x, t->by.s1, out[0]);
    else PRODUCT(4, 6, g->w, x, t->by.s1, out[0]);
    if (!both) return;
    if (cols == 16) PRODUCT(1, 2, w1, x1, t->by.s1, out[1]);
    else PRODUCT(5, 6, w1, x1, t->by.s1, out[1]);
}

INLINE void join_group(int cols, bool minima, const group *g, const char *x, const strides *by, const sums p, vf *acc)
{
    vf s = vf_load(g->s[0]), m = minima ? vf_load(g->m[0]) : vf_zero();
#pragma GCC unroll 16
    for (int c = 0; c < cols; c++) {
        const ag_act_block *b = (const ag_act_block *)column_at(x, by, c);
        acc[c] = vf_fma(vf_mul(s, vf_set(b->d)), vf_of_int(vi_load(p[c])), acc[c]);
        if (minima) acc[c] = vf_fma(m, vf_set(b->ds), acc[c]);
    }
}

INLINE void join_halves(int cols, bool minima, const group *g, const char *x, const strides *by, sums p[2], vf *acc)
{
    vf s0 = vf_load(g->s[0]), s1 = vf_load(g->s[1]), m0 = vf_zero(), m1 = vf_zero();
    if (minima) m0 = vf_load(g->m[0]), m1 = vf_load(g->m[1]);
#pragma GCC unroll 16
    for (int c = 0; c < cols; c++) {
        const ag_act_block *b = (const ag_act_block *)column_at(x, by, c);
        vf t = vf_fma(s1, vf_of_int(vi_load(p[1][c])), vf_mul(s0, vf_of_int(vi_load(p[0][c]))));
        acc[c] = vf_fma(t, vf_set(b->d), acc[c]);
        if (minima) acc[c] = vf_fma(m1, vf_set(b->ds16[1]), vf_fma(m0, vf_set(b->ds16[0]), acc[c]));
    }
}

INLINE void multiply(int cols, bool halves, bool minima, const strip *t)
{
    sums p[2][2] __attribute__((aligned(64)));
    const uint32_t steps = halves ? t->n : (t->n + 1) / 2;
    vf acc[16];
#pragma GCC unroll 16
    for (int c = 0; c < cols; c++) acc[c] = t->first ? vf_zero() : vf_load_n(t->y + (size_t)c * t->y_stride, t->rows);
    step_products(cols, halves, t, 0, p[0]);
    for (uint32_t i = 0; i < steps; i++) {
        const group *g = t->g + (halves ? i : 2 * i);
        const char *x = t->x + (halves ? i : 2 * i) * sizeof(ag_act_block);
        if (i + 1 < steps) step_products(cols, halves, t, i + 1, p[(i + 1) % 2]);
        if (halves) join_halves(cols, minima, g, x, &t->by, p[i % 2], acc);
        else join_group(cols, minima, g, x, &t->by, p[i % 2][0], acc);
        if (!halves && 2 * i + 1 < t->n) {
            join_group(cols, minima, g + 1, x + sizeof(ag_act_block), &t->by, p[i % 2][1], acc);
        }
    }
#pragma GCC unroll 16
    for (int c = 0; c < cols; c++) {
        if ((uint32_t)c >= t->done) vf_store_n(t->y + (size_t)c * t->y_stride, acc[c], t->rows);
    }
}

typedef void strip_fn(const strip *t);
typedef void unpack_fn(const unsigned char *q, uint32_t n, ptrdiff_t ahead, group *out);

/* Names that a profile shows: the scales' kind and the columns, and the type that is unpacked. */
#define STRIP(name, cols, halves, minima)                                                                              \
    static __attribute__((noinline)) void strip_##name##_##cols##_amx(const strip *t)                                  \
    {                                                                                                                  \
        multiply(cols, halves, minima, t);                                                                             \
    }
#define STRIPS(name, ...) STRIP(name, 4, __VA_ARGS__) STRIP(name, 8, __VA_ARGS__) STRIP(name, 16, __VA_ARGS__)
STRIPS(scale32, false, false)
STRIPS(scale32_min, false, true)
STRIPS(scale16, true, false)
STRIPS(scale16_min, true, true)
#define AG_LAYOUT(type, base, ext, off, scale, lut)                                                                    \
    static __attribute__((noinline)) void unpack_##type##_amx(const unsigned char *q, uint32_t n, ptrdiff_t ahead,     \
                                                              group *out)                                              \
    {                                                                                                                  \
        unpack_groups(base, ext, off, AG__SC_##scale, lut, q, n, ahead, out);                                          \
    }
#include "engine/cpu/layout.def"
#undef AG_LAYOUT

static unpack_fn *const unpackers[] = {
#define AG_LAYOUT(type, ...) [AG_Q_##type] = unpack_##type##_amx,
#include "engine/cpu/layout.def"
#undef AG_LAYOUT
};

#define THREE(name) {strip_##name##_4_amx, strip_##name##_8_amx, strip_##name##_16_amx}
static strip_fn *const strips[][3] = {
    [AG__SC_D] = THREE(scale32),        [AG__SC_K32] = THREE(scale32),  [AG__SC_DM] = THREE(scale32_min),
    [AG__SC_K32M] = THREE(scale32_min), [AG__SC_K16] = THREE(scale16),  [AG__SC_K16M] = THREE(scale16_min),
};

/* The columns of strips that are not full: one size for a call, so that one configuration holds. */
static uint32_t small_strip(uint32_t cols)
{
    uint32_t rest = cols % 16;
    return cols < 16 ? (cols < 8 ? 4 : 8) : rest <= 4 ? 4 : 8;
}

static void configure(uint32_t small, bool halves)
{
    const uint8_t quads = halves ? 4 : 8;
    tile_config c = {.palette = 1};
    for (int t = 0; t < 7; t++) {
        c.rows[t] = (uint8_t)(t == 3 ? quads : t < 3 ? 16 : small);
        c.row_bytes[t] = (uint16_t)(t == 2 || t == 6 ? 4 * quads : 64);
    }
    tiles_configure(&c);
}

/* All columns of at most TILES tiles of weights. The last columns share a strip with some before them, whose sums are
 * made again and not stored. */
static void tiles_int8_amx(const ag_pack *w, const ag__layout *l, const ag_act *a, uint32_t cols, uint32_t from,
                           uint32_t to, float *y, size_t y_stride)
{
    group unpacked[TILES][CUT] __attribute__((aligned(64)));
    const size_t group_bytes = ag__plane_bytes(l->base, l->ext) + ag__scale_bytes(l->scale);
    const size_t head = ag__head_bytes(l->scale);
    const uint32_t groups = w->k / 32, small = small_strip(cols);
    strip t = {.by = strides_of(a->b_stride * sizeof(ag_act_block)), .y_stride = y_stride};
    for (uint32_t g0 = 0; g0 < groups; g0 += CUT) {
        t.n = AG_MIN((uint32_t)CUT, groups - g0);
        t.first = g0 == 0;
        for (uint32_t i = from; i < to; i++) {
            unpackers[w->type](w->data + i * w->tile_bytes + g0 * group_bytes + g0 / 8 * head, t.n,
                               (ptrdiff_t)(t.n * group_bytes + head), unpacked[i - from]);
        }
        for (uint32_t done = 0, size; done < cols; done += size - t.done) {
            size = cols >= 16 && cols - done > small ? 16 : small;
            uint32_t c = AG_MIN(done, cols - size);
            t.done = done - c;
            t.x = (const char *)(a->b + c * a->b_stride + g0);
            for (uint32_t i = from; i < to; i++) {
                t.g = unpacked[i - from];
                t.rows = AG_MIN(16u, w->rows - i * 16);
                t.y = y + c * y_stride + (size_t)(i - from) * 16;
                strips[l->scale][size / 8](&t);
            }
        }
    }
}

void ag__matmul_amx(const ag_pack *w, const ag_act *a, uint32_t cols, uint32_t from, uint32_t to, float *y,
                    size_t y_stride)
{
    const ag__layout *l = ag__layout_find(w->type);
    AG_ASSERT(to <= w->tiles);
    if (w->type == AG_Q_BF16) {
        ag__matmul_bf16_amx(w, a, cols, from, to, y, y_stride);
        return;
    }
    if (l == NULL || cols < COLUMNS_MIN) {
        ag__matmul_avx512(w, a, cols, from, to, y, y_stride);
        return;
    }
    configure(small_strip(cols), l->scale == AG__SC_K16 || l->scale == AG__SC_K16M);
    for (uint32_t end; from < to; y += (size_t)(end - from) * 16, from = end) {
        end = AG_MIN(to, from + TILES);
        tiles_int8_amx(w, l, a, cols, from, end, y, y_stride);
    }
    tiles_release();
}

/* Four sums hide the latency; what is multiplied does not matter. */
uint64_t ag__burn_amx(uint64_t rounds)
{
    int8_t q[1024] __attribute__((aligned(64)));
    memset(q, (int)(rounds & 3), sizeof q);
    tile_config c = {.palette = 1};
    for (int t = 0; t < 8; t++) c.rows[t] = 16, c.row_bytes[t] = 64;
    tiles_configure(&c);
    TILE_LOAD(4, q, 64);
    TILE_LOAD(5, q, 64);
    TILE_LOAD(6, q, 64);
    TILE_LOAD(7, q, 64);
    for (uint64_t i = 0; i < rounds; i++) {
        TILE_DOT_I8(0, 4, 6);
        TILE_DOT_I8(1, 4, 7);
        TILE_DOT_I8(2, 5, 6);
        TILE_DOT_I8(3, 5, 7);
    }
    tiles_release();
    return rounds * 4 * 2 * 16 * 16 * 64;
}

uint64_t ag__burn_float_amx(uint64_t rounds) { return ag__burn_float_avx512(rounds); }

void ag__read_amx(const unsigned char *p, size_t bytes, size_t ahead) { ag__read_avx512(p, bytes, ahead); }
