/* layout.h - where the bits of a packed quantized weight lie; for this folder only.
 * Owns nothing; any thread; shapes are checked by ag_pack_supported; no errors.
 *
 * A tile is 16 rows by all of k, cut into groups of 32 k. A group's quants are vectors of 64 bytes; in each, 16 rows
 * have 4 bytes beside each other, so that one load feeds one four-byte dot product per row and no sum crosses rows. A
 * quad is 4 consecutive k; a group has 8:
 *   8-bit plane  vector j is quad j                                          512 bytes a group
 *   4-bit plane  vector j holds quad j in the low nibbles, j + 4 in the high 256
 *   2-bit plane  vector i holds quads 4i .. 4i+3, from the low bits up       128
 *   1-bit plane  bit j of the one vector is quad j                            64
 * u = base plane + (ext plane << base bits); with a table (lut), u = value of the nibble + 128.
 * Groups stand in units: 2 groups for types with a scale per 32 (the last unit has 1 when the count is odd), 8 for the
 * K types (a super-block). In a unit: quants of all its groups, then scales of all its groups, then the head:
 *   D     16 f16 scales a group                                          w = d (u - off)
 *   DM    16 f16 scales, 16 f16 minima a group                           w = d u + m
 *   K32M  16 u8 scales, 16 u8 minima a group; head: 16 f16 d, 16 f16 -dmin   w = d sc u + (-dmin) mn
 *   K32   16 i8 scales a group; head: 16 f16 d, 32 bytes unused          w = d sc (u - off)
 *   K16   16 i8 scales of the first 16 k, 16 of the second; head as K32
 *   K16M  as K16, each byte scale + 16 * minimum; head as K32M
 * Float types: F32 and F16 as [k][16 rows]; BF16 as [k / 2][16 rows][2], k filled up with zeros to a multiple of 32:
 * the operand of the instructions that multiply pairs.
 * Bytes against the file's: Q2_K, Q5_1, Q4_1, Q8_0, Q4_0, Q5_0, IQ4_NL 1.000; Q6_K 1.010; Q5_K 1.023; Q4_K 1.028;
 * IQ4_XS 1.029; Q3_K 1.055; and up to 32 bytes a tile where the count of groups is odd. */
#ifndef AG_LAYOUT_H
#define AG_LAYOUT_H

#include "engine/cpu/cpu.h"

typedef enum ag__scale { AG__SC_D, AG__SC_DM, AG__SC_K32M, AG__SC_K32, AG__SC_K16, AG__SC_K16M } ag__scale;

typedef struct ag__layout {
    unsigned char base, ext, off, lut;
    ag__scale scale;
} ag__layout;

static inline uint32_t ag__plane_bytes(unsigned base, unsigned ext) { return 64 * (base + ext); }
static inline uint32_t ag__scale_bytes(ag__scale s) { return s == AG__SC_DM ? 64 : s == AG__SC_K32 ? 16 : 32; }
static inline uint32_t ag__unit_groups(ag__scale s) { return s <= AG__SC_DM ? 2 : 8; }
static inline uint32_t ag__head_bytes(ag__scale s) { return s <= AG__SC_DM ? 0 : 64; }

/* NULL: a float type. */
const ag__layout *ag__layout_find(ag_quant_type t);

/* The IQ4 values + 128, one for each nibble. */
extern const unsigned char ag__iq4_bytes[16];

/* Each instruction set's files meet here: products, attention and the small operations are files of their own. */
typedef void ag__matmul_fn(const ag_pack *w, const ag_act *a, uint32_t cols, uint32_t from, uint32_t to, float *y,
                           size_t y_stride);
typedef void ag__attention_fn(const ag_attn *a);
ag__matmul_fn ag__matmul_scalar, ag__matmul_avx2, ag__matmul_avxvnni, ag__matmul_avx512, ag__matmul_amx;
ag__matmul_fn ag__matmul_bf16_amx; /* for BF16 weights */
ag__matmul_fn ag__matmul_avx512bf16, ag__matmul_dotprod, ag__matmul_i8mm;
ag__attention_fn ag__attention_scalar, ag__attention_avx2, ag__attention_avx512, ag__attention_dotprod;
ag__attention_fn ag__attention_avx512bf16; /* joined by AVX-512's */
ag__attention_fn ag__attention_join_scalar, ag__attention_join_avx2, ag__attention_join_avx512,
    ag__attention_join_dotprod;
/* 32 numbers of a query for keys of q8_0. */
typedef struct ag__query_block {
    int8_t q[32];
    float d;       /* x = d * q */
    int32_t n128;  /* sum of q times -128 */
} ag__query_block;
void ag__query_quantize(ag__query_block *b, const float *x, float by); /* of x[0..32) * by */
#define AG_CPU_QUERIES_MAX 8 /* that any attention kernel takes together */
extern const ag_cpu_ops ag__ops_scalar, ag__ops_avx2, ag__ops_avxvnni, ag__ops_avx512, ag__ops_amx;
extern const ag_cpu_ops ag__ops_avx512bf16, ag__ops_dotprod, ag__ops_i8mm;

/* For the peaks: rounds of the dot product, and of the multiply-add of floats, out of registers, returning the
 * operations done; and reading memory, 64-byte aligned, a multiple of 256 bytes. */
typedef uint64_t ag__burn_fn(uint64_t rounds);
typedef void ag__read_fn(const unsigned char *p, size_t bytes, size_t ahead);
ag__burn_fn ag__burn_scalar, ag__burn_avx2, ag__burn_avxvnni, ag__burn_avx512, ag__burn_amx;
ag__burn_fn ag__burn_avx512bf16, ag__burn_dotprod, ag__burn_i8mm;
ag__burn_fn ag__burn_float_scalar, ag__burn_float_avx2, ag__burn_float_avxvnni, ag__burn_float_avx512;
ag__burn_fn ag__burn_float_amx, ag__burn_float_avx512bf16, ag__burn_float_dotprod, ag__burn_float_i8mm;
ag__read_fn ag__read_scalar, ag__read_avx2, ag__read_avxvnni, ag__read_avx512, ag__read_amx;
ag__read_fn ag__read_avx512bf16, ag__read_dotprod, ag__read_i8mm;

/* AMX is there and this process has leave to use it: asked for here, before the threads that will. */
bool ag__amx_ready(void);

/* Products of BF16 pairs are faster here than those of float32; measured once in a process, in a millisecond or
 * less. */
bool ag__bf16_pays(void);

#endif
