/* Products of BF16 weights on AMX: activations rounded to BF16 (nearest even), summed in float32 in tiles over all k.
 *
 * TDPBF16PS adds to a sum of the tile what 32 k make, pairs in order: even and odd k in a chain of fused multiply-adds
 * each, the two added, then to the sum; denormals count as zero. A column's sum depends on nothing else, so one column
 * takes the tiles too and has the same bits alone and beside others. Against exact products of the same weights the
 * error is at most that of rounding x, 2^-8 of each |w x|, and of adding, 2^-24 (k / 32 + 18) of their sum.
 *
 * F16 has 3 bits more than BF16, so its weights would have to be rounded, or split in two and multiplied twice: they
 * stay with AVX-512's exact widening and float32.
 *
 * 2 tiles of weights by 2 of columns: 4 products of 16 cycles for 4 loads of 8, so the unit is the limit as long as
 * both come from the second cache level at the most. Rounding 16 columns takes some 30 cycles a 32 k, on other ports
 * and once for up to TILES tiles of weights. Few columns are limited by reading the weights: 1 KiB for a product of 16
 * cycles. */
#include "engine/cpu/vec_avx512.h"

#include "engine/cpu/layout.h"
#include "engine/cpu/tile_amx.h"

#define CUT 512         /* k: 32 KiB of rounded activations for 32 columns */
#define TILES 4
#define STRIPS 2        /* of 16 columns */
#define PREFETCH 2048   /* bytes of each of the weights' streams; twice AVX-512's, since a step reads 1 KiB */

typedef uint16_t rounded[CUT / 32][16][32]; /* operands of 16 columns by 32 k */
typedef float sums[16][16];

/* 16 floats in the low halves of lanes. */
static inline __m512i round_bf16(__m512 x)
{
    __m512i u = _mm512_castps_si512(x), odd = _mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1));
    return _mm512_srli_epi32(_mm512_add_epi32(u, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7FFF))), 16);
}

/* k [k0,k1) of some columns; up to a multiple of 32 with zeros. */
static void round_columns(const ag_act *a, uint32_t col, uint32_t cols, uint32_t k0, uint32_t k1, rounded out[STRIPS])
{
    for (uint32_t c = 0; c < cols; c++) {
        const float *x = a->x + (col + c) * a->x_stride;
        for (uint32_t k = k0; k < k1; k += 16) {
            __m512i v = round_bf16(vf_load_n(x + k, AG_MIN(16u, k1 - k)));
            uint16_t *to = out[c / 16][(k - k0) / 32][c % 16] + (k - k0) % 32;
            _mm256_store_si256((__m256i *)(void *)to, _mm512_cvtepi32_epi16(v));
            if ((k - k0) % 32 == 0 && k + 16 >= k1) memset(to + 16, 0, 32);
        }
    }
}

/* Adds n products of 32 k to sums[tile][strip]: one or two tiles of weights, one or two strips of columns. */
FN void add_products(int tiles, int strips, const unsigned char *w, size_t tile_bytes, const rounded *x, uint32_t n,
                     bool prefetch, sums (*s)[STRIPS])
{
    TILE_LOAD(0, s[0][0], 64);
    if (strips == 2) TILE_LOAD(1, s[0][1], 64);
    if (tiles == 2) TILE_LOAD(2, s[1][0], 64);
    if (tiles == 2 && strips == 2) TILE_LOAD(3, s[1][1], 64);
    for (uint32_t i = 0; i < n; i++, w += 1024) {
        for (int p = 0; prefetch && p < 1024; p += 64) {
            __builtin_prefetch(w + p + PREFETCH);
            if (tiles == 2) __builtin_prefetch(w + tile_bytes + p + PREFETCH);
        }
        TILE_LOAD(4, x[0][i], 64);
        TILE_LOAD(6, w, 64);
        TILE_DOT_BF16(0, 4, 6);
        if (strips == 2) {
            TILE_LOAD(5, x[1][i], 64);
            TILE_DOT_BF16(1, 5, 6);
        }
        if (tiles == 2) {
            TILE_LOAD(7, w + tile_bytes, 64);
            TILE_DOT_BF16(2, 4, 7);
            if (strips == 2) TILE_DOT_BF16(3, 5, 7);
        }
    }
    TILE_STORE(0, s[0][0], 64);
    if (strips == 2) TILE_STORE(1, s[0][1], 64);
    if (tiles == 2) TILE_STORE(2, s[1][0], 64);
    if (tiles == 2 && strips == 2) TILE_STORE(3, s[1][1], 64);
}

static void products_of_tiles(const unsigned char *w, size_t tile_bytes, uint32_t tiles, uint32_t strips,
                              const rounded *x, uint32_t n, bool prefetch, sums (*s)[STRIPS])
{
    for (; tiles >= 2; tiles -= 2, w += 2 * tile_bytes, s += 2) {
        if (strips == 2) add_products(2, 2, w, tile_bytes, x, n, prefetch, s);
        else add_products(2, 1, w, tile_bytes, x, n, prefetch, s);
    }
    if (tiles == 1 && strips == 2) add_products(1, 2, w, tile_bytes, x, n, prefetch, s);
    if (tiles == 1 && strips == 1) add_products(1, 1, w, tile_bytes, x, n, prefetch, s);
}

/* At most TILES tiles of weights. */
static void tiles_bf16_amx(const ag_pack *w, const ag_act *a, uint32_t cols, uint32_t from, uint32_t to, float *y,
                           size_t y_stride)
{
    /* Rows of columns that are not there hold anything: a row of a product depends on that row only. */
    rounded x[STRIPS] __attribute__((aligned(64)));
    sums s[TILES][STRIPS] __attribute__((aligned(64)));
    for (uint32_t col = 0; col < cols; col += 16 * STRIPS) {
        uint32_t n = AG_MIN(16u * STRIPS, cols - col), strips = (n + 15) / 16;
        memset(s, 0, (to - from) * sizeof *s);
        for (uint32_t k0 = 0; k0 < w->k; k0 += CUT) {
            uint32_t k1 = AG_MIN(w->k, k0 + CUT);
            round_columns(a, col, n, k0, k1, x);
            products_of_tiles(w->data + from * w->tile_bytes + (size_t)k0 * 32, w->tile_bytes, to - from, strips, x,
                              (k1 - k0 + 31) / 32, col == 0, s);
        }
        for (uint32_t i = from; i < to; i++) {
            for (uint32_t c = 0; c < n; c++) {
                vf_store_n(y + (col + c) * y_stride + (size_t)(i - from) * 16, vf_load(s[i - from][c / 16][c % 16]),
                           AG_MIN(16u, w->rows - i * 16));
            }
        }
    }
}

void ag__matmul_bf16_amx(const ag_pack *w, const ag_act *a, uint32_t cols, uint32_t from, uint32_t to, float *y,
                         size_t y_stride)
{
    tile_config c = {.palette = 1};
    for (int t = 0; t < 8; t++) c.rows[t] = 16, c.row_bytes[t] = 64;
    tiles_configure(&c);
    for (uint32_t end; from < to; y += (size_t)(end - from) * 16, from = end) {
        end = AG_MIN(to, from + TILES);
        tiles_bf16_amx(w, a, cols, from, end, y, y_stride);
    }
    tiles_release();
}
