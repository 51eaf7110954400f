#include "model/gguf/quant.h"

static const ag_quant_row rows[] = {
#define AG_QUANT(name, id, block, bytes, what) {AG_Q_##name, #name, block, bytes},
#include "model/gguf/quant.def"
#undef AG_QUANT
};
#define AG_QUANT(name, id, block, bytes, what) _Static_assert(id < AG_QUANT_IDS, "AG_QUANT_IDS is above all numbers");
#include "model/gguf/quant.def"
#undef AG_QUANT

const int8_t ag_quant_iq4_values[16] = {
    -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113,
};

const ag_quant_row *ag_quant_find(uint32_t id)
{
    for (size_t i = 0; i < AG_ARRAY_LEN(rows); i++)
        if ((uint32_t)rows[i].type == id) return &rows[i];
    return NULL;
}

const ag_quant_row *ag_quant_find_name(ag_str name)
{
    for (size_t i = 0; i < AG_ARRAY_LEN(rows); i++)
        if (ag_str_ieq(name, ag_str_of(rows[i].name))) return &rows[i];
    return NULL;
}

const ag_quant_row *ag_quant_next(const ag_quant_row *r)
{
    if (r == NULL) return rows;
    AG_ASSERT(r >= rows && r < rows + AG_ARRAY_LEN(rows));
    return r + 1 < rows + AG_ARRAY_LEN(rows) ? r + 1 : NULL;
}

static inline float float_of(uint32_t bits)
{
    float f;
    memcpy(&f, &bits, 4);
    return f;
}

static inline uint32_t bits_of(float f)
{
    uint32_t bits;
    memcpy(&bits, &f, 4);
    return bits;
}

/* Both directions answer bit for bit as x86's F16C instructions do, NaNs included (made quiet, payload kept), so that
 * scalar and vector code can be compared exactly. */
float ag_f16_to_f32(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000) << 16;
    uint32_t exp = (h >> 10) & 31, man = h & 0x3FF;
    if (exp == 31) return float_of(sign | 0x7F800000u | man << 13 | (man ? 0x400000u : 0));
    if (exp != 0) return float_of(sign | (exp + 112) << 23 | man << 13);
    float f = (float)man * 0x1p-24f; /* subnormal halves are exact in f32 */
    return float_of(sign | bits_of(f));
}

uint16_t ag_f32_to_f16(float f)
{
    uint32_t u = bits_of(f);
    uint16_t sign = (uint16_t)(u >> 16 & 0x8000);
    uint32_t mag = u & 0x7FFFFFFF;
    if (mag > 0x7F800000) return (uint16_t)(sign | 0x7E00 | (mag >> 13 & 0x3FF));
    if (mag >= 0x477FF000) return (uint16_t)(sign | 0x7C00); /* 65520, half way past the largest half, and above */
    if (mag < 0x38800000) { /* below 2^-14: the half is subnormal; adding 0.5 makes the FPU round at its last bit */
        float r = float_of(mag) + 0.5f;
        return (uint16_t)(sign | (bits_of(r) - 0x3F000000u));
    }
    uint32_t odd = mag >> 13 & 1;
    return (uint16_t)(sign | (mag - 0x38000000u + 0xFFF + odd) >> 13);
}

/* Multi-byte fields are little-endian in the file, and the program is for little-endian machines. */
static inline uint16_t get_u16(const uint8_t *p)
{
    uint16_t v;
    memcpy(&v, p, 2);
    return v;
}

static inline uint32_t get_u32(const uint8_t *p)
{
    uint32_t v;
    memcpy(&v, p, 4);
    return v;
}

static inline float get_f16(const uint8_t *p) { return ag_f16_to_f32(get_u16(p)); }

/* Block types of 32: byte j of the nibbles holds weight j in its low half and weight j + 16 in its high half. */
static void block_q4_0(const uint8_t *x, float *y)
{
    float d = get_f16(x);
    for (int j = 0; j < 16; j++) {
        y[j] = (float)((x[2 + j] & 15) - 8) * d;
        y[j + 16] = (float)((x[2 + j] >> 4) - 8) * d;
    }
}

static void block_q4_1(const uint8_t *x, float *y)
{
    float d = get_f16(x), m = get_f16(x + 2);
    for (int j = 0; j < 16; j++) {
        y[j] = (float)(x[4 + j] & 15) * d + m;
        y[j + 16] = (float)(x[4 + j] >> 4) * d + m;
    }
}

static void block_q5_0(const uint8_t *x, float *y)
{
    float d = get_f16(x);
    uint32_t high = get_u32(x + 2); /* bit j: the fifth bit of weight j */
    for (int j = 0; j < 16; j++) {
        int lo = (x[6 + j] & 15) | (int)(high >> j & 1) << 4;
        int hi = (x[6 + j] >> 4) | (int)(high >> (j + 16) & 1) << 4;
        y[j] = (float)(lo - 16) * d;
        y[j + 16] = (float)(hi - 16) * d;
    }
}

static void block_q5_1(const uint8_t *x, float *y)
{
    float d = get_f16(x), m = get_f16(x + 2);
    uint32_t high = get_u32(x + 4);
    for (int j = 0; j < 16; j++) {
        int lo = (x[8 + j] & 15) | (int)(high >> j & 1) << 4;
        int hi = (x[8 + j] >> 4) | (int)(high >> (j + 16) & 1) << 4;
        y[j] = (float)lo * d + m;
        y[j + 16] = (float)hi * d + m;
    }
}

static void block_q8_0(const uint8_t *x, float *y)
{
    float d = get_f16(x);
    for (int j = 0; j < 32; j++) y[j] = (float)(int8_t)x[2 + j] * d;
}

/* 16 scale bytes (low nibble scale, high nibble minimum), 64 bytes of four 2-bit planes for each 128, d, dmin. */
static void block_q2_k(const uint8_t *x, float *y)
{
    const uint8_t *scales = x, *q = x + 16;
    float d = get_f16(x + 80), dmin = get_f16(x + 82);
    for (int g = 0; g < 16; g++) { /* groups of 16 weights */
        const uint8_t *p = q + g / 8 * 32 + g % 2 * 16;
        int shift = g % 8 / 2 * 2;
        float scale = d * (float)(scales[g] & 15), min = dmin * (float)(scales[g] >> 4);
        for (int l = 0; l < 16; l++) y[g * 16 + l] = scale * (float)(p[l] >> shift & 3) - min;
    }
}

/* 32 bytes of high bits (one plane for each 32 weights, clear means minus 4), 64 bytes as in Q2_K, 12 of scales, d. */
static void block_q3_k(const uint8_t *x, float *y)
{
    const uint8_t *high = x, *q = x + 32, *s = x + 96;
    float d = get_f16(x + 108);
    for (int g = 0; g < 16; g++) {
        const uint8_t *p = q + g / 8 * 32 + g % 2 * 16, *h = high + g % 2 * 16;
        int shift = g % 8 / 2 * 2, plane = g / 2;
        int low4 = g < 8 ? s[g] & 15 : s[g - 8] >> 4;
        int top2 = s[8 + g % 4] >> (g / 4 * 2) & 3;
        float scale = d * (float)((low4 | top2 << 4) - 32);
        for (int l = 0; l < 16; l++)
            y[g * 16 + l] = scale * (float)((p[l] >> shift & 3) - (h[l] >> plane & 1 ? 0 : 4));
    }
}

/* The 8 scales and minima of Q4_K and Q5_K, 6 bits each in 12 bytes: the first four of both lie in the low six bits of
 * bytes 0..7; the others take a nibble of bytes 8..11 and the two bits left over above. */
static void scale_min_k4(const uint8_t *s, int j, int *scale, int *min)
{
    if (j < 4) {
        *scale = s[j] & 63;
        *min = s[j + 4] & 63;
    } else {
        *scale = (s[j + 4] & 15) | s[j - 4] >> 6 << 4;
        *min = s[j + 4] >> 4 | s[j] >> 6 << 4;
    }
}

static void block_q4_k(const uint8_t *x, float *y)
{
    const uint8_t *q = x + 16;
    float d = get_f16(x), dmin = get_f16(x + 2);
    for (int g = 0; g < 8; g++) { /* groups of 32: two share 32 bytes, low nibbles first */
        int sc, mn;
        scale_min_k4(x + 4, g, &sc, &mn);
        float scale = d * (float)sc, min = dmin * (float)mn;
        for (int l = 0; l < 32; l++)
            y[g * 32 + l] = scale * (float)(q[g / 2 * 32 + l] >> (g % 2 * 4) & 15) - min;
    }
}

static void block_q5_k(const uint8_t *x, float *y)
{
    const uint8_t *high = x + 16, *q = x + 48;
    float d = get_f16(x), dmin = get_f16(x + 2);
    for (int g = 0; g < 8; g++) {
        int sc, mn;
        scale_min_k4(x + 4, g, &sc, &mn);
        float scale = d * (float)sc, min = dmin * (float)mn;
        for (int l = 0; l < 32; l++) {
            int v = (q[g / 2 * 32 + l] >> (g % 2 * 4) & 15) | (high[l] >> g & 1) << 4;
            y[g * 32 + l] = scale * (float)v - min;
        }
    }
}

/* 128 bytes of low nibbles, 64 of high pairs, 16 signed scales, d. In each 128 weights, quarter k takes byte l or
 * l + 32 of the nibbles (even, odd k), low nibbles for the first two quarters, and pair k of high byte l. */
static void block_q6_k(const uint8_t *x, float *y)
{
    float d = get_f16(x + 208);
    for (int half = 0; half < 2; half++) {
        const uint8_t *low = x + half * 64, *high = x + 128 + half * 32, *scales = x + 192 + half * 8;
        for (int k = 0; k < 4; k++)
            for (int l = 0; l < 32; l++) {
                int v = (low[k % 2 * 32 + l] >> (k / 2 * 4) & 15) | (high[l] >> (k * 2) & 3) << 4;
                float scale = d * (float)(int8_t)scales[k * 2 + l / 16];
                y[half * 128 + k * 32 + l] = scale * (float)(v - 32);
            }
    }
}

static void block_iq4_nl(const uint8_t *x, float *y)
{
    float d = get_f16(x);
    for (int j = 0; j < 16; j++) {
        y[j] = d * (float)ag_quant_iq4_values[x[2 + j] & 15];
        y[j + 16] = d * (float)ag_quant_iq4_values[x[2 + j] >> 4];
    }
}

/* d, 8 pairs of high scale bits, 8 nibbles of low ones, 128 bytes as in IQ4_NL. */
static void block_iq4_xs(const uint8_t *x, float *y)
{
    float d = get_f16(x);
    uint32_t high = get_u16(x + 2);
    for (int g = 0; g < 8; g++) {
        const uint8_t *q = x + 8 + g * 16;
        int ls = (x[4 + g / 2] >> (g % 2 * 4) & 15) | (int)(high >> (g * 2) & 3) << 4;
        float scale = d * (float)(ls - 32);
        for (int j = 0; j < 16; j++) {
            y[g * 32 + j] = scale * (float)ag_quant_iq4_values[q[j] & 15];
            y[g * 32 + j + 16] = scale * (float)ag_quant_iq4_values[q[j] >> 4];
        }
    }
}

static void each_block(void (*block)(const uint8_t *, float *), const ag_quant_row *r, const uint8_t *x, float *y,
                       uint64_t n)
{
    for (uint64_t i = 0; i < n; i += r->block, x += r->bytes) block(x, y + i);
}

void ag_quant_dequantize(ag_quant_type t, const void *x, float *y, uint64_t n)
{
    const ag_quant_row *r = ag_quant_find((uint32_t)t);
    AG_ASSERT(r != NULL && n % r->block == 0);
    const uint8_t *p = x;
    switch (t) {
    case AG_Q_F32:
        if (n) memcpy(y, x, n * 4);
        break;
    case AG_Q_F16:
        for (uint64_t i = 0; i < n; i++) y[i] = get_f16(p + i * 2);
        break;
    case AG_Q_BF16:
        for (uint64_t i = 0; i < n; i++) y[i] = ag_bf16_to_f32(get_u16(p + i * 2));
        break;
    case AG_Q_Q4_0: each_block(block_q4_0, r, p, y, n); break;
    case AG_Q_Q4_1: each_block(block_q4_1, r, p, y, n); break;
    case AG_Q_Q5_0: each_block(block_q5_0, r, p, y, n); break;
    case AG_Q_Q5_1: each_block(block_q5_1, r, p, y, n); break;
    case AG_Q_Q8_0: each_block(block_q8_0, r, p, y, n); break;
    case AG_Q_Q2_K: each_block(block_q2_k, r, p, y, n); break;
    case AG_Q_Q3_K: each_block(block_q3_k, r, p, y, n); break;
    case AG_Q_Q4_K: each_block(block_q4_k, r, p, y, n); break;
    case AG_Q_Q5_K: each_block(block_q5_k, r, p, y, n); break;
    case AG_Q_Q6_K: each_block(block_q6_k, r, p, y, n); break;
    case AG_Q_IQ4_NL: each_block(block_iq4_nl, r, p, y, n); break;
    case AG_Q_IQ4_XS: each_block(block_iq4_xs, r, p, y, n); break;
    }
}

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "GGUF is read in place: little-endian machines only");
