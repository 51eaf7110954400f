/* Products of BF16 weights with AVX512_BF16: activations rounded to BF16 (nearest even), pairs summed in float32.
 *
 * VDPBF16PS adds the product of a pair's second numbers to a sum by a fused multiply-add, then that of the first;
 * denormals count as zero, before and after, and it always rounds to nearest even. A row and column is one chain over
 * all k: its bits depend on nothing else. Against exact products of the same weights the error is at most that of
 * rounding x, 2^-8 of each |w x|, and of adding, 2^-24 k of their sum.
 *
 * All other types are AVX-512's. F16 has 3 bits more than BF16, which rounded weights would lose.
 *
 * Chains are tiles beside each other times columns, so that one load of weights serves columns and one broadcast of a
 * pair serves tiles: 24 sums hide six cycles on two ports even where each product waits for the last. In cuts of k, so
 * that the weights of a cut stay in the first cache level for all columns while the next cut's are on their way. */
#include "engine/cpu/vec_avx512.h"

#include "engine/cpu/layout.h"

#define INLINE static inline __attribute__((always_inline))
#define CUT 128 /* k of many columns: 16 KiB of 4 tiles, and as much that comes next, stay in the first level */
#define AHEAD (CUT / 32) /* groups */
#define SUMS 24
#define COLS_TOGETHER 12
#define FEW 4   /* columns that a kernel brings the next weights of all its tiles for; with more, of one tile a turn */

typedef struct job {
    const unsigned char *weights; /* of the first tile, at the first k */
    const unsigned char *next;    /* those of the next job */
    const uint32_t *x;            /* pairs: [groups of 32 k][columns][16] */
    float *y;
    size_t tile_bytes, y_stride;
    uint32_t groups, rows;        /* rows of all tiles of the job */
    bool goes_on;                 /* y holds the sums so far */
} job;

INLINE void pairs(int tiles, int cols, const job *t)
{
    __m512 sum[SUMS];
#pragma GCC unroll 24
    for (int i = 0; i < tiles * cols; i++) {
        const uint32_t row = (uint32_t)(i % tiles) * 16;
        const float *from = t->y + (size_t)(i / tiles) * t->y_stride + row;
        sum[i] = t->goes_on ? vf_load_n(from, AG_MIN(16u, t->rows - row)) : vf_zero();
    }
    const unsigned char *w = t->weights;
    const uint32_t *x = t->x;
    for (uint32_t g = 0; g < t->groups; g++, x += 16 * (cols - 1)) {
        const bool inside = g + AHEAD < t->groups;
        const unsigned char *ahead = inside ? w + AHEAD * 1024 : t->next + (g + AHEAD - t->groups) * 1024;
#pragma GCC unroll 2
        for (int j = 0; j < 16; j++, x++, w += 64, ahead += 64) {
            for (int i = 0; i < (cols > FEW ? 1 : tiles); i++) __builtin_prefetch(ahead + (size_t)i * t->tile_bytes);
            __m512i v[4];
#pragma GCC unroll 4
            for (int i = 0; i < tiles; i++) v[i] = vi_load(w + (size_t)i * t->tile_bytes);
#pragma GCC unroll 12
            for (int c = 0; c < cols; c++) {
                __m512bh b = (__m512bh)_mm512_set1_epi32((int)x[16 * c]);
#pragma GCC unroll 4
                for (int i = 0; i < tiles; i++) {
                    sum[c * tiles + i] = _mm512_dpbf16_ps(sum[c * tiles + i], (__m512bh)v[i], b);
                }
            }
        }
    }
#pragma GCC unroll 24
    for (int i = 0; i < tiles * cols; i++) {
        const uint32_t row = (uint32_t)(i % tiles) * 16;
        vf_store_n(t->y + (size_t)(i / tiles) * t->y_stride + row, sum[i], AG_MIN(16u, t->rows - row));
    }
}

typedef void job_fn(const job *t);

#define KERNEL(tiles, cols)                                                                                            \
    static __attribute__((noinline)) void matmul_BF16_##tiles##_##cols##_avx512bf16(const job *t)                      \
    {                                                                                                                  \
        pairs(tiles, cols, t);                                                                                         \
    }
#define KERNELS(tiles) KERNEL(tiles, 6) KERNEL(tiles, 4) KERNEL(tiles, 2) KERNEL(tiles, 1)
#define NAME(tiles, cols) matmul_BF16_##tiles##_##cols##_avx512bf16
#define NAMES(tiles) NAME(tiles, 6), NAME(tiles, 4), NAME(tiles, 2), NAME(tiles, 1)
KERNELS(1) KERNELS(2) KERNELS(4)
KERNEL(1, 12) KERNEL(2, 12)

static const uint32_t sizes[] = {COLS_TOGETHER, 6, 4, 2, 1};
static job_fn *const kernels[3][AG_ARRAY_LEN(sizes)] = { /* of 1, 2 and 4 tiles */
    {NAME(1, 12), NAMES(1)},
    {NAME(2, 12), NAMES(2)},
    {NULL, NAMES(4)},
};
static uint32_t first_size(uint32_t tiles) { return tiles == 4; }

/* k [k0,k1) of some columns; up to a multiple of 32 with zeros. */
static void round_columns(const ag_act *a, uint32_t col, uint32_t cols, uint32_t k0, uint32_t k1, uint32_t *out)
{
    for (uint32_t c = 0; c < cols; c++) {
        const float *x = a->x + (col + c) * a->x_stride;
        uint32_t *to = out + c * 16, k = k0;
        for (; k + 32 <= k1; k += 32, to += cols * 16) {
            vi_store(to, (vi)_mm512_cvtne2ps_pbh(vf_load(x + k + 16), vf_load(x + k)));
        }
        if (k == k1) continue;
        vf low = vf_load_n(x + k, AG_MIN(16u, k1 - k)), high = vf_zero();
        if (k1 - k > 16) high = vf_load_n(x + k + 16, k1 - k - 16);
        vi_store(to, (vi)_mm512_cvtne2ps_pbh(high, low));
    }
}

/* Where a product stands: cuts of k, in each of them blocks of columns, for each of them 1, 2 or 4 tiles at a time. */
typedef struct place { uint32_t from, to, tile, tiles, k0, k1, cut; } place;

/* Tiles beside each other. Few columns wait for memory, which is faster with fewer streams. */
static uint32_t tiles_at(uint32_t left, uint32_t cols) { return left >= 4 && cols > FEW ? 4 : left >= 2 ? 2 : 1; }

/* The weights that are wanted after those of this place. */
static const unsigned char *after(const ag_pack *w, const place *p)
{
    uint32_t tile = p->tile + p->tiles, k = p->k0;
    if (tile == p->to && p->k1 < w->k) tile = p->from, k = p->k1;
    else if (tile == p->to) k = 0;
    return w->data + tile * w->tile_bytes + (size_t)k * 32;
}

void ag__matmul_avx512bf16(const ag_pack *w, const ag_act *a, uint32_t cols, uint32_t from, uint32_t to, float *y,
                           size_t y_stride)
{
    AG_ASSERT(to <= w->tiles);
    if (w->type != AG_Q_BF16) {
        ag__matmul_avx512(w, a, cols, from, to, y, y_stride);
        return;
    }
    uint32_t x[CUT / 2 * COLS_TOGETHER] __attribute__((aligned(64)));
    place p = {.from = from, .to = to, .cut = cols > FEW || cols == 0 ? CUT : CUT * COLS_TOGETHER / cols / 32 * 32};
    job t = {.x = x, .tile_bytes = w->tile_bytes, .y_stride = y_stride};
    for (; p.k0 < w->k; p.k0 += p.cut) {
        p.k1 = AG_MIN(w->k, p.k0 + p.cut);
        t.groups = (p.k1 - p.k0 + 31) / 32;
        t.goes_on = p.k0 > 0;
        uint32_t size = first_size(tiles_at(to - from, cols)), turn = 0;
        for (uint32_t c = 0; c < cols; c += sizes[size], turn++) {
            while (sizes[size] > cols - c) size++;
            round_columns(a, c, sizes[size], p.k0, p.k1, x);
            for (p.tile = from; p.tile < to; p.tile += p.tiles) {
                p.tiles = tiles_at(to - p.tile, cols);
                t.rows = AG_MIN(p.tiles * 16, w->rows - p.tile * 16);
                t.weights = w->data + p.tile * w->tile_bytes + (size_t)p.k0 * 32;
                t.next = after(w, &p) + (sizes[size] > FEW ? turn % p.tiles * w->tile_bytes : 0);
                t.y = y + c * y_stride + (size_t)(p.tile - from) * 16;
                kernels[p.tiles / 2][size](&t);
            }
        }
    }
}
