/* graph.h - a model family as a list of plain operations on rows; what passes rewrite and plans run.
 * Owns    : nodes, values, converted vectors and RoPE tables live in the graph's arena; weights point into the GGUF
 *           file.
 * Threads : built and rewritten by one thread; read-only afterwards.
 * Limits  : AG_GRAPH_BYTES_MAX of arena; nodes and values by it.
 * Errors  : builder calls never fail one by one: the first failure (a tensor missing, of the wrong shape or type, no
 *           memory) is kept in the graph and ag_graph_check returns it; later calls are harmless.
 * Words   : a value is [rows][width] float32, rows being the tokens of a step, or those of which something is wanted
 *           (ag_row_set). A state is what the last layer leaves, normed. A view is part of the columns of another
 *           value. Nothing here knows of threads or instruction sets. Nodes stand in execution order. */
#ifndef AG_GRAPH_H
#define AG_GRAPH_H

#include "base/arena.h"
#include "base/buf.h"
#include "base/err.h"
#include "model/gguf/gguf.h"

#define AG_GRAPH_BYTES_MAX (256u << 20)
#define AG_NODE_WEIGHTS_MAX 4
#define AG_NODE_INPUTS_MAX 3

typedef enum ag_gop {
#define AG_GOP(name, domain, rowwise, what) AG_GOP_##name,
#include "model/arch/ops.def"
#undef AG_GOP
    AG_GOP_COUNT
} ag_gop;

/* What an operation's work is divided by. */
typedef enum ag_domain { AG_DOMAIN_ROWS, AG_DOMAIN_TILES, AG_DOMAIN_HEADS, AG_DOMAIN_ATTN } ag_domain;

typedef struct ag_gop_row {
    const char *name, *what;
    ag_domain domain;
    bool rowwise; /* row r of the output needs row r of the inputs alone, so unwanted rows may be left out */
} ag_gop_row;
extern const ag_gop_row ag_gop_rows[AG_GOP_COUNT];

typedef int32_t ag_vid; /* a value; -1: none */

/* Frequencies of one rotary embedding: angle = pos * inv_freq[i], cos and sin times `mscale`. */
typedef struct ag_rope {
    uint32_t n_rot;         /* dimensions rotated, from the head's first */
    bool interleaved;       /* pairs (2i, 2i+1); else (i, i + n_rot/2) */
    float mscale;
    const double *inv_freq; /* n_rot / 2 */
} ag_rope;

typedef struct ag_weight { /* rows [row0, row0+rows) of a matrix in the file, and an optional bias */
    const ag_gguf_tensor *t;
    uint32_t row0, rows, k;
    const float *bias;      /* rows, or NULL */
    int32_t pack;           /* index of its packed form, set by the layout pass; -1 before */
} ag_weight;

/* Rows of a step that something is wanted of come together: first those whose logits are, then those whose states
 * are. */
typedef enum ag_row_set {
    AG_ROWS_ALL,
    AG_ROWS_OUT,            /* those that something is wanted of */
    AG_ROWS_LOGITS,         /* the first of them */
    AG_ROWS_STATES          /* as OUT where a state is wanted, else none */
} ag_row_set;

typedef struct ag_value {
    uint32_t width;
    ag_vid base;            /* of a view: the value it is part of; else -1 */
    uint32_t offset;        /* of a view: its first column */
    ag_row_set rows;
    bool quantized;         /* int8 form of another value (QUANTIZE) */
    uint64_t at;            /* offset in the activation arena per row capacity, set by the memory pass */
} ag_value;

typedef enum ag_glu_fn { AG_GLU_NONE, AG_GLU_SILU, AG_GLU_GELU_TANH } ag_glu_fn;

typedef struct ag_node {
    ag_gop op;
    ag_vid in[AG_NODE_INPUTS_MAX]; /* KV_STORE: q (fused; else -1), k, v.  ATTENTION: q.  GLU: gate, up */
    ag_vid out;
    ag_vid residual;        /* added to the result (fused), or -1 */
    ag_vid qout;            /* the result quantized as well (fused), or -1 */
    ag_weight w[AG_NODE_WEIGHTS_MAX];
    uint32_t n_w;
    const float *vec;       /* NORM weight, BIAS vector; KV_STORE fused: norm of q heads */
    const float *vec2;      /* KV_STORE fused: norm of k heads */
    uint32_t heads, kv_heads, dim_k, dim_v; /* of NORM per head: heads x dim_k; ROPE, KV_STORE, ATTENTION */
    int32_t rope, rope_k;   /* index into the graph's RoPE tables; -1: none. rope_k: of the keys (KV_STORE fused) */
    ag_glu_fn glu;
    float eps, scale, softcap;
    uint32_t window;        /* ATTENTION: 0 all, else so many of the last keys */
    int32_t layer;          /* -1: outside the layers */
} ag_node;

typedef struct ag_graph {
    const ag_gguf *gguf;
    ag_arena mem;
    ag_err err;
    ag_node *nodes;
    uint32_t n_nodes, cap_nodes;
    ag_value *values;
    uint32_t n_values, cap_values;
    ag_rope ropes[4];
    uint32_t n_ropes;
    const ag_gguf_tensor *embedding;
    ag_vid logits, states;  /* set by ag_graph_output */
    uint32_t layers, kv_heads, dim_k, dim_v; /* shape of the KV cache, equal in all layers */
    int32_t layer;          /* layer being built */
} ag_graph;

void ag_graph_init(ag_graph *g, const ag_gguf *f);
void ag_graph_fini(ag_graph *g);
int ag_graph_check(const ag_graph *g, ag_err *err); /* 0, or the first failure */
void ag_graph_fail(ag_graph *g, int code, const char *fmt, ...) AG_PRINTF(3, 4);

/* Tensors by name; in a layer "blk.<layer>." is put in front of `name`. A tensor that is missing or not of the given
 * shape fails the graph; ag_graph_has asks first. */
bool ag_graph_has(const ag_graph *g, const char *name);
const float *ag_graph_vector(ag_graph *g, const char *name, uint32_t n); /* converted to f32 */

/* Building. `weight` names the tensor without ".weight"; its bias (".bias") is used when the file has one. */
void ag_graph_layer(ag_graph *g, int32_t layer);                          /* -1: outside */
ag_vid ag_graph_embed(ag_graph *g, const char *weight, uint32_t width, uint32_t vocab);
ag_vid ag_graph_norm(ag_graph *g, ag_vid x, const char *weight, float eps);
ag_vid ag_graph_head_norm(ag_graph *g, ag_vid x, const char *weight, uint32_t heads, uint32_t dim, float eps);
ag_vid ag_graph_linear(ag_graph *g, ag_vid x, const char *weight, uint32_t rows);
ag_vid ag_graph_add(ag_graph *g, ag_vid a, ag_vid b);
ag_vid ag_graph_scale(ag_graph *g, ag_vid x, float s);
ag_vid ag_graph_softcap(ag_graph *g, ag_vid x, float cap);
ag_vid ag_graph_glu(ag_graph *g, ag_vid gate, ag_vid up, ag_glu_fn f);
ag_vid ag_graph_view(ag_graph *g, ag_vid x, uint32_t offset, uint32_t width);
ag_vid ag_graph_rope(ag_graph *g, ag_vid x, uint32_t heads, uint32_t dim, int32_t rope);
/* Stores k and v of this layer and attends with q. */
ag_vid ag_graph_attention(ag_graph *g, ag_vid q, ag_vid k, ag_vid v, uint32_t heads, uint32_t kv_heads, uint32_t dim_k,
                          uint32_t dim_v, float scale, uint32_t window, float softcap);
/* The wanted rows, norm, output weights (`weight`, or the embedding table where the file has no such tensor). */
void ag_graph_output(ag_graph *g, ag_vid x, const char *norm, const char *weight, uint32_t vocab, float eps,
                     float scale, float softcap);
/* arena memory */
int32_t ag_graph_rope_add(ag_graph *g, uint32_t n_rot, bool interleaved, float mscale, double *inv_freq);

/* For passes. */
ag_node *ag_graph_node_add(ag_graph *g, ag_gop op);
ag_vid ag_graph_value_add(ag_graph *g, uint32_t width);
ag_vid ag_graph_base(const ag_graph *g, ag_vid v, uint32_t *offset); /* the value that owns v's memory */
void ag_graph_print(const ag_graph *g, ag_buf *out);                 /* one line a node; layers alike are shown once */

#endif
