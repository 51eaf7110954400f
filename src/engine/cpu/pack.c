#include "base/hash.h"
#include "engine/cpu/layout.h"

static const ag__layout layouts[] = {
#define AG_LAYOUT(type, base, ext, off, scale, lut) [AG_Q_##type] = {base, ext, off, lut, AG__SC_##scale},
#include "engine/cpu/layout.def"
#undef AG_LAYOUT
};

/* Offsets of a signed value of -127..113, so that the tables stay unsigned for the dot product. */
const unsigned char ag__iq4_bytes[16] = {1, 24, 45, 63, 79, 93, 106, 118, 129, 141, 153, 166, 181, 197, 217, 241};

const ag__layout *ag__layout_find(ag_quant_type t)
{
    return (size_t)t < AG_ARRAY_LEN(layouts) && layouts[t].base ? &layouts[t] : NULL;
}

static uint32_t float_bytes(ag_quant_type t) { return t == AG_Q_F32 ? 4 : 2; }

bool ag_pack_supported(ag_quant_type t, uint32_t k)
{
    const ag_quant_row *row = ag_quant_find(t);
    return row != NULL && k > 0 && k % row->block == 0;
}

/* Activations of one block of columns should stay in a core's second-level cache beside a tile of weights: half a
 * megabyte is half of the smallest such cache among server cores of the last ten years. */
#define COLS_BYTES (512u << 10)

uint32_t ag_cpu_cols_block(uint32_t cols, size_t column_bytes)
{
    uint32_t block = (uint32_t)AG_MIN(COLS_BYTES / column_bytes, (size_t)AG_CPU_COLS_MAX) / 16 * 16;
    block = AG_MAX(block, 16u);
    uint32_t blocks = (cols + block - 1) / block;
    return blocks ? (uint32_t)AG_ALIGN_UP((cols + blocks - 1) / blocks, 8) : block;
}

bool ag_pack_wants_quantized(ag_quant_type t) { return ag__layout_find(t) != NULL; }

void ag_pack_shape(ag_pack *p, ag_quant_type t, uint32_t rows, uint32_t k)
{
    AG_ASSERT(ag_pack_supported(t, k));
    const ag__layout *l = ag__layout_find(t);
    size_t bytes = (t == AG_Q_BF16 ? AG_ALIGN_UP((size_t)k, 32) : k) * 16 * float_bytes(t);
    if (l != NULL) {
        uint32_t groups = k / 32, units = groups / ag__unit_groups(l->scale);
        bytes = (size_t)groups * (ag__plane_bytes(l->base, l->ext) + ag__scale_bytes(l->scale)) +
                (size_t)units * ag__head_bytes(l->scale);
    }
    *p = (ag_pack){.type = t, .rows = rows, .k = k, .tiles = (rows + 15) / 16, .tile_bytes = AG_ALIGN_UP(bytes, 64)};
}

size_t ag_act_bytes(uint32_t k, uint32_t cols)
{
    return (size_t)cols * ((k + 31) / 32 | 1) * sizeof(ag_act_block);
}

void ag_act_place(ag_act *a, uint32_t k, uint32_t cols, void *mem)
{
    (void)cols;
    AG_ASSERT((uintptr_t)mem % 64 == 0);
    a->b = mem;
    a->b_stride = (k + 31) / 32 | 1;
    a->k = k;
}

/* --- from the file's blocks to bytes ------------------------------------------------------------------------------ */

static uint32_t get32(const unsigned char *p)
{
    uint32_t v;
    memcpy(&v, p, 4);
    return v;
}

static void put32(unsigned char *p, uint32_t v) { memcpy(p, &v, 4); }

static void nibbles(unsigned char u[32], const unsigned char *qs)
{
    for (int i = 0; i < 16; i++) {
        u[i] = qs[i] & 15;
        u[i + 16] = qs[i] >> 4;
    }
}

static void add_bits(unsigned char u[32], uint32_t bits)
{
    for (int i = 0; i < 32; i++) u[i] = (unsigned char)(u[i] | ((bits >> i & 1) << 4));
}

/* u of the 32 weights of group g (within the block) of a block in the file. */
static void group_bytes(ag_quant_type t, const unsigned char *b, uint32_t g, unsigned char u[32])
{
    switch (t) {
    case AG_Q_Q4_0: case AG_Q_IQ4_NL: nibbles(u, b + 2); break;
    case AG_Q_Q4_1: nibbles(u, b + 4); break;
    case AG_Q_Q5_0: nibbles(u, b + 6); add_bits(u, get32(b + 2)); break;
    case AG_Q_Q5_1: nibbles(u, b + 8); add_bits(u, get32(b + 4)); break;
    case AG_Q_Q8_0:
        for (int i = 0; i < 32; i++) u[i] = b[2 + i] ^ 128;
        break;
    case AG_Q_Q2_K: /* 16 scales, 64 quants: 128 weights of 32 bytes, 2 bits for each 32 */
        for (int i = 0; i < 32; i++) u[i] = b[16 + 32 * (g / 4) + i] >> 2 * (g % 4) & 3;
        break;
    case AG_Q_Q3_K: /* 32 high-bit masks, 64 quants */
        for (int i = 0; i < 32; i++) {
            u[i] = (unsigned char)((b[32 + 32 * (g / 4) + i] >> 2 * (g % 4) & 3) | (b[i] >> g & 1) << 2);
        }
        break;
    case AG_Q_Q4_K: /* d, dmin, 12 scales, 128 quants */
        for (int i = 0; i < 32; i++) u[i] = b[16 + 32 * (g / 2) + i] >> 4 * (g % 2) & 15;
        break;
    case AG_Q_Q5_K: /* d, dmin, 12 scales, 32 high bits, 128 quants */
        for (int i = 0; i < 32; i++) {
            u[i] = (unsigned char)((b[48 + 32 * (g / 2) + i] >> 4 * (g % 2) & 15) | (b[16 + i] >> g & 1) << 4);
        }
        break;
    case AG_Q_Q6_K: /* 128 low nibbles, 64 high pairs, 16 scales, d */
        for (int i = 0; i < 32; i++) {
            unsigned lo = b[64 * (g / 4) + 32 * (g % 2) + i] >> 4 * (g % 4 / 2) & 15;
            unsigned hi = b[128 + 32 * (g / 4) + i] >> 2 * (g % 4) & 3;
            u[i] = (unsigned char)(lo | hi << 4);
        }
        break;
    case AG_Q_IQ4_XS: nibbles(u, b + 8 + 16 * g); break;
    case AG_Q_F32: case AG_Q_F16: case AG_Q_BF16: AG_ASSERT(!"a quantized type");
    }
}

/* The 6-bit scale and minimum of group g of Q4_K and Q5_K. */
static void k4_scale(const unsigned char *s, uint32_t g, unsigned char *sc, unsigned char *mn)
{
    *sc = (unsigned char)(g < 4 ? s[g] & 63 : (s[g + 4] & 15) | (s[g - 4] >> 6) << 4);
    *mn = (unsigned char)(g < 4 ? s[g + 4] & 63 : s[g + 4] >> 4 | (s[g] >> 6) << 4);
}

static unsigned char k3_scale(const unsigned char *s, uint32_t i)
{
    unsigned lo = i < 8 ? s[i] & 15 : s[i - 8] >> 4;
    return (unsigned char)((lo | (s[8 + i % 4] >> 2 * (i / 4) & 3) << 4) - 32);
}

/* Scales of group g of row r: sc is the group's place in the tile, head the unit's. */
static void group_scales(ag_quant_type t, const unsigned char *b, uint32_t g, uint32_t r, unsigned char *sc,
                         unsigned char *head)
{
    switch (t) {
    case AG_Q_Q4_1: case AG_Q_Q5_1:
        memcpy(sc + 32 + 2 * r, b + 2, 2);
        memcpy(sc + 2 * r, b, 2);
        break;
    case AG_Q_Q4_0: case AG_Q_Q5_0: case AG_Q_Q8_0: case AG_Q_IQ4_NL: memcpy(sc + 2 * r, b, 2); break;
    case AG_Q_Q2_K:
        sc[r] = b[2 * g];
        sc[16 + r] = b[2 * g + 1];
        memcpy(head + 2 * r, b + 80, 2);
        memcpy(head + 32 + 2 * r, b + 82, 2);
        head[33 + 2 * r] ^= 0x80;
        break;
    case AG_Q_Q3_K:
        sc[r] = k3_scale(b + 96, 2 * g);
        sc[16 + r] = k3_scale(b + 96, 2 * g + 1);
        memcpy(head + 2 * r, b + 108, 2);
        break;
    case AG_Q_Q4_K: case AG_Q_Q5_K:
        k4_scale(b + 4, g, &sc[r], &sc[16 + r]);
        memcpy(head + 2 * r, b, 2);
        memcpy(head + 32 + 2 * r, b + 2, 2);
        head[33 + 2 * r] ^= 0x80; /* minima are stored negated: every type with minima then adds */
        break;
    case AG_Q_Q6_K:
        sc[r] = b[192 + 2 * g];
        sc[16 + r] = b[192 + 2 * g + 1];
        memcpy(head + 2 * r, b + 208, 2);
        break;
    case AG_Q_IQ4_XS:
        sc[r] = (unsigned char)(((b[4 + g / 2] >> 4 * (g % 2) & 15) | (b[2 + g / 4] >> 2 * (g % 4) & 3) << 4) - 32);
        memcpy(head + 2 * r, b, 2);
        break;
    case AG_Q_F32: case AG_Q_F16: case AG_Q_BF16: AG_ASSERT(!"a quantized type");
    }
}

/* --- from bytes to planes ----------------------------------------------------------------------------------------- */

/* u may have more bits than the plane: those from `shift` up are taken. */
static void put_plane(unsigned char *dst, unsigned bits, unsigned shift, unsigned char u[16][32])
{
    unsigned per = 8 / bits; /* quads that share a vector */
    uint32_t mask = (bits == 8 ? 255 : (1u << bits) - 1) * 0x01010101u;
    for (unsigned v = 0; v < bits; v++) {
        for (unsigned r = 0; r < 16; r++) {
            uint32_t w = 0;
            for (unsigned i = 0; i < per; i++) {
                unsigned quad = bits == 4 ? v + 4 * i : per * v + i;
                w |= (get32(u[r] + 4 * quad) >> shift & mask) << bits * i;
            }
            put32(dst + 64 * v + 4 * r, w);
        }
    }
}

static void fill_quantized(const ag_pack *p, const ag__layout *l, const unsigned char *src, uint32_t tile)
{
    const ag_quant_row *row = ag_quant_find(p->type);
    size_t row_bytes = (size_t)p->k / row->block * row->bytes;
    uint32_t per_block = row->block / 32, groups = p->k / 32, unit = ag__unit_groups(l->scale);
    uint32_t plane = ag__plane_bytes(l->base, l->ext), scale = ag__scale_bytes(l->scale);
    uint32_t rows = AG_MIN(16u, p->rows - tile * 16);
    unsigned char *dst = p->data + tile * p->tile_bytes;
    memset(dst, 0, p->tile_bytes);
    for (uint32_t g0 = 0; g0 < groups; g0 += unit) {
        uint32_t n = AG_MIN(unit, groups - g0);
        unsigned char *scales = dst + (size_t)n * plane, *head = scales + (size_t)n * scale;
        for (uint32_t i = 0; i < n; i++) {
            unsigned char u[16][32] = {{0}};
            for (uint32_t r = 0; r < rows; r++) {
                const unsigned char *b = src + (tile * 16 + r) * row_bytes + (size_t)(g0 + i) / per_block * row->bytes;
                group_bytes(p->type, b, (g0 + i) % per_block, u[r]);
                group_scales(p->type, b, (g0 + i) % per_block, r, scales + (size_t)i * scale, head);
            }
            put_plane(dst + (size_t)i * plane, l->base, 0, u);
            if (l->ext) put_plane(dst + (size_t)i * plane + 64 * l->base, l->ext, l->base, u);
        }
        dst = head + ag__head_bytes(l->scale);
    }
}

/* Floats lie as [k][16 rows] in the source's width, BF16 as [k / 2][16 rows][2]. */
static void fill_float(const ag_pack *p, const unsigned char *src, uint32_t tile)
{
    uint32_t w = float_bytes(p->type), rows = AG_MIN(16u, p->rows - tile * 16), pair = p->type == AG_Q_BF16 ? 2 : 1;
    unsigned char *dst = p->data + tile * p->tile_bytes;
    memset(dst, 0, p->tile_bytes);
    for (uint32_t k0 = 0; k0 < p->k; k0 += 16) {
        uint32_t k1 = AG_MIN(p->k, k0 + 16);
        for (uint32_t r = 0; r < rows; r++) {
            const unsigned char *s = src + (size_t)(tile * 16 + r) * p->k * w;
            for (uint32_t k = k0; k < k1; k++) {
                memcpy(dst + (((size_t)(k / pair) * 16 + r) * pair + k % pair) * w, s + (size_t)k * w, w);
            }
        }
    }
}

void ag_pack_fill(const ag_pack *p, const void *src, uint32_t from, uint32_t to)
{
    AG_ASSERT(from <= to && to <= p->tiles && (uintptr_t)p->data % 64 == 0);
    const ag__layout *l = ag__layout_find(p->type);
    for (uint32_t t = from; t < to; t++) {
        if (l != NULL) fill_quantized(p, l, src, t);
        else fill_float(p, src, t);
    }
}

uint64_t ag_pack_layout_hash(void)
{
    enum { K_MAX = 27 * 32 }; /* an odd count of groups, where the type allows it: the last unit is a short one */
    unsigned char src[16 * K_MAX * 4];
    _Alignas(64) unsigned char dst[16 * (K_MAX + 32) * 4];
    uint64_t seed = 1;
    for (size_t i = 0; i < sizeof src; i++)
        src[i] = (unsigned char)((seed = seed * 6364136223846793005u + 1442695040888963407u) >> 56);
    XXH3_state_t x;
    (void)XXH3_64bits_reset(&x);
    for (const ag_quant_row *q = NULL; (q = ag_quant_next(q));) {
        ag_pack p;
        ag_pack_shape(&p, q->type, 16, K_MAX / q->block * q->block);
        AG_ASSERT(p.tiles * p.tile_bytes <= sizeof dst);
        p.data = dst;
        ag_pack_fill(&p, src, 0, p.tiles);
        (void)XXH3_64bits_update(&x, dst, p.tiles * p.tile_bytes);
    }
    return XXH3_64bits_digest(&x);
}
