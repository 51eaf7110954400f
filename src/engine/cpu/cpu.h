/* cpu.h - the CPU's kernels: packed weights, products, attention, and the small operations between them, as one table
 * of functions per instruction set, chosen at run time.
 * Owns    : nothing; callers hold all memory.
 * Threads : every kernel is a pure function over the part of the output that it is told to write; threads share work by
 *           calling with disjoint parts.
 * Limits  : shapes are checked by the loader (arch) and asserted here; activations must be finite.
 * Errors  : ag_cpu_isa_find: NULL for a name not in the table or not runnable here.
 * Numerics: one arithmetic for one column and many, whatever the tile or the thread: quantized products are exact in
 *           int32 within a group, then joined in f32 in group order by fused multiply-adds; float products sum in four
 *           interleaved chains in k order; reductions run in 64 lanes, joined pairwise. The scalar table is the
 *           specification; vector tables give the same bits wherever the header of a kernel says "exact", but for the
 *           products of BF16 weights on AMX and avx512bf16: they round the activations to BF16 and sum in another
 *           order, which is off by at most 2^-8 of the sum of |w x|, and denormals count as zero; and attention over a
 *           cache of f16 on avx512bf16, which rounds all that it multiplies to BF16 (attention_avx512bf16.c). */
#ifndef AG_CPU_H
#define AG_CPU_H

#include "engine/cpu/kv_type.h"
#include "model/gguf/quant.h"

#define AG_CPU_TILE 16      /* rows of a weight matrix that are interleaved */
#define AG_CPU_TILES_MAX 4  /* tiles of a call, of which kernels that can take as many together */
#define AG_CPU_COLS_MAX 256 /* columns of a call, in a product that is cut for the caches */
#define AG_CPU_KV_BLOCK 16  /* tokens whose keys are interleaved */
#define AG_CPU_KV_PAGE 64   /* tokens in a page of KV cache; also the grain of the online softmax */

/* Weights, repacked: tiles of 16 rows (the last one padded with zero rows), each tile holding all of k. Layout and
 * size per type are described in layout.h: at most 3 % above the file's (Q3_K 5.5 %), and the padding. */
typedef struct ag_pack {
    ag_quant_type type;
    uint32_t rows, k;
    uint32_t tiles;       /* (rows + 15) / 16 */
    size_t tile_bytes;
    unsigned char *data;  /* 64-byte aligned, tiles * tile_bytes */
} ag_pack;

bool ag_pack_supported(ag_quant_type t, uint32_t k);             /* k is whole blocks of the type */
void ag_pack_shape(ag_pack *p, ag_quant_type t, uint32_t rows, uint32_t k); /* fills all but data */
/* Repacks tiles [from,to) out of `rows` rows at src (the file's layout, row after row). */
void ag_pack_fill(const ag_pack *p, const void *src, uint32_t from, uint32_t to);
/* What repacking makes of given weights of every type, as one number: a change of any layout changes it. */
uint64_t ag_pack_layout_hash(void);

/* Activations of one product input, quantized once: 32 values as int8 with an f32 scale, beside the sums that the
 * kernels start from, in one cache line, so that a kernel broadcasts all it needs from there. For float weight types
 * the product reads x itself. */
typedef struct ag_act_block {
    int8_t q[32];       /* -127..127 */
    float d;            /* x = d * q */
    float ds;           /* d * sum of q */
    int32_t n8, n128;   /* sum of q times -8 and -128: what the offset of a 4-bit or 8-bit type takes away */
    int32_t n32[2];     /* sums of each 16 q times -32 (6-bit types) */
    float ds16[2];      /* d * sums of each 16 q */
} ag_act_block;

typedef struct ag_act {
    const float *x;       /* [cols][x_stride] */
    size_t x_stride;      /* in floats */
    ag_act_block *b;      /* [cols][b_stride]; 64-byte aligned */
    size_t b_stride;      /* in blocks: k/32 made odd, so that columns do not meet in the same cache sets */
    uint32_t k;
} ag_act;
size_t ag_act_bytes(uint32_t k, uint32_t cols);                  /* memory for b */
void ag_act_place(ag_act *a, uint32_t k, uint32_t cols, void *mem); /* sets b, b_stride, k (mem 64-byte aligned) */
bool ag_pack_wants_quantized(ag_quant_type t);                   /* products of this type read b; else x */
/* How many of `cols` columns, of so many bytes each, a product takes at a time to keep them in a core's cache beside
 * its tiles: even blocks of whole register tiles, at most AG_CPU_COLS_MAX. 16 or more where cols is 0. */
uint32_t ag_cpu_cols_block(uint32_t cols, size_t column_bytes);

typedef struct ag_attn {
    const float *q;           /* [tokens][q_stride]; heads of one KV head beside each other, head_dim each */
    size_t q_stride;
    uint32_t tokens;          /* consecutive positions of one sequence, the first at pos */
    uint32_t heads;           /* query heads that share this KV head */
    uint32_t pos;
    uint32_t dim_k, dim_v;    /* per head; multiples of 8 */
    float scale;
    float softcap;            /* 0: none; s = cap * tanh(s / cap) */
    uint32_t window;          /* 0: all; else keys p - window < key <= p */
    const uint32_t *pages;    /* page numbers of the sequence, in order */
    ag_kv_type type;
    const void *k;            /* this layer's and head's keys in page 0 */
    const void *v;
    size_t k_page_stride, v_page_stride; /* bytes from a page to the next */
    uint32_t from, to;        /* parts of the keys: all that the tokens see (ag_attn_parts); with `partial` some */
    float *partial;           /* NULL; or the states of these parts go here, [to - from][tokens * heads][ag_attn_rec] */
    float *out;               /* [tokens][out_stride]: heads * dim_v */
    size_t out_stride;
    void *scratch;            /* ag_attn_scratch_bytes, 64-byte aligned, one per thread */
} ag_attn;
#define AG_ATTN_PART 512        /* tokens in a part: its result depends on nothing else, so parts can be shared out */
#define AG_ATTN_TOKENS_MAX 64
#define AG_ATTN_QUERIES 128     /* tokens times heads that a call should have for the best rate */
uint32_t ag_attn_tokens(uint32_t heads); /* tokens a call may have (longer prefills are cut) */
uint32_t ag_attn_rec(uint32_t dim_v);    /* floats of a query's state */
size_t ag_attn_scratch_bytes(uint32_t heads, uint32_t dim_k, uint32_t dim_v);
/* The parts that `tokens` from pos on see. */
static inline void ag_attn_parts(uint32_t pos, uint32_t tokens, uint32_t window, uint32_t *from, uint32_t *to)
{
    *from = window && pos >= window ? (pos - window + 1) / AG_ATTN_PART : 0;
    *to = (pos + tokens - 1) / AG_ATTN_PART + 1;
}

typedef enum ag_act_fn { AG_ACT_SILU, AG_ACT_GELU_TANH } ag_act_fn;

typedef struct ag_cpu_ops {
    /* y[c][16*from - row0 ...): rows of tiles [from,to) times columns [0,cols). y points at row 16*from of column 0
     * with `y_stride` floats per column; rows past w->rows are not written. exact. */
    void (*matmul)(const ag_pack *w, const ag_act *a, uint32_t cols, uint32_t from, uint32_t to, float *y,
                   size_t y_stride);
    /* Blocks of columns [c, c + cols) from x[0..k) and so on. d = absmax/127 of each 32, round to nearest even; a block
     * whose values are all below 1e-30 becomes zeros. exact. */
    void (*quantize)(const ag_act *a, uint32_t c, uint32_t cols, const float *x, size_t x_stride);
    /* y = x / rms(x) * w; y may be x (gemma's 1 + w is already in its GGUF files). exact. */
    void (*rms_norm)(float *y, const float *x, const float *w, uint32_t n, float eps);
    void (*add)(float *y, const float *x, uint32_t n);                       /* y += x. exact */
    void (*scale)(float *y, float s, uint32_t n);                            /* y *= s. exact */
    void (*glu)(float *y, const float *gate, const float *up, uint32_t n, ag_act_fn f); /* y = f(gate) * up; exact */
    /* Rotates pairs of x[0..n_rot) in place by cos/sin tables of n_rot/2 entries; interleaved: pairs (2i,2i+1), else
     * (i, i + n_rot/2). exact. */
    void (*rope)(float *x, const float *cos, const float *sin, uint32_t n_rot, bool interleaved);
    void (*softcap)(float *y, float cap, uint32_t n);                        /* y = cap * tanh(y / cap); exact */
    /* Stores one token's key and value of one KV head as f16 (values beyond f16 are clamped to its largest). k points
     * at the head's part of the page: keys [block][dim_k][16], values [token][dim_v]; slot is the token's place in the
     * page. exact. */
    void (*kv_store)(uint16_t *k, uint16_t *v, uint32_t slot, const float *key, const float *value, uint32_t dim_k,
                     uint32_t dim_v);
    /* exact: a token's result depends on its own query and keys only, not on the tile it came in. */
    void (*attention)(const ag_attn *a);
    /* Makes `out` from all parts in `partial`, which it overwrites. exact: the same as without `partial`. */
    void (*attention_join)(const ag_attn *a);
    /* Argmax and log-sum-exp helpers for sampling: index of the largest (the first of equals). exact */
    uint32_t (*argmax)(const float *x, uint32_t n);
    float (*max_exp_sum)(const float *x, uint32_t n, float max);             /* sum of exp(x - max). exact */
} ag_cpu_ops;

/* kv_store for a cache of float32 or q8_0, the same in every table. */
void ag_cpu_kv_store_f32(float *k, float *v, uint32_t slot, const float *key, const float *value, uint32_t dim_k,
                         uint32_t dim_v);
void ag_cpu_kv_store_q8(unsigned char *k, unsigned char *v, uint32_t slot, const float *key, const float *value,
                        uint32_t dim_k, uint32_t dim_v);

typedef struct ag_cpu_isa {
    const char *name;     /* "amx", "avx512bf16", "avx512", "avxvnni", "avx2", "i8mm", "dotprod", "scalar" */
    const char *needs;    /* in words, for --version and errors */
    bool (*runs)(void);   /* this machine has it */
    bool (*pays)(void);   /* and gains by it: asked only where it runs; always the same answer in a process */
    const ag_cpu_ops *ops;
    /* For the peaks: its int8 dot product, and its multiply-add of floats, on registers alone, returning the operations
     * done; and reading memory. */
    uint64_t (*burn)(uint64_t rounds);
    uint64_t (*burn_float)(uint64_t rounds);
    void (*read)(const unsigned char *p, size_t bytes, size_t ahead); /* ahead: bytes of prefetch */
} ag_cpu_isa;

const ag_cpu_isa *ag_cpu_isa_find(const char *name);          /* NULL, "" or "auto": the best that runs and pays */
const ag_cpu_isa *ag_cpu_isa_next(const ag_cpu_isa *isa);     /* walks the table, best first, from NULL to NULL */

/* What this machine can do, for shares of peak: bytes/s read by `threads` threads from memory (buffers far beyond the
 * cache), and multiply-adds/s of int8 and of float32 counted as two operations, of this instruction set's own inner
 * loops. */
typedef struct ag_cpu_peak { double read_bytes_s, int8_ops_s, float_ops_s; } ag_cpu_peak;
/* AG_E_NOMEM, AG_E_INTERNAL (a thread could not be started). Takes about half a second. */
int ag_cpu_peak_measure(const ag_cpu_isa *isa, uint32_t threads, ag_cpu_peak *out);

#endif
