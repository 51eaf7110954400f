/* arch.h - model families: what their files say of the model, and the graph that it is.
 * Owns    : nothing; a graph owns itself.
 * Threads : any, each on its own graph.
 * Limits  : the AG_HP_*_MAX below; every number from the file is checked against them before it is used.
 * Errors  : AG_E_UNSUPPORTED for a family that is not in families.def, by name, with the list of those that are;
 *           AG_E_FILE for keys and tensors that do not fit. */
#ifndef AG_ARCH_H
#define AG_ARCH_H

#include "model/arch/graph.h"

#define AG_HP_LAYERS_MAX 512
#define AG_HP_WIDTH_MAX 131072
#define AG_HP_HEADS_MAX 1024
#define AG_HP_HEAD_DIM_MAX 512
#define AG_HP_VOCAB_MAX 1048576
#define AG_HP_CTX_MAX (1u << 24)

typedef enum ag_rope_scaling { AG_ROPE_NONE, AG_ROPE_LINEAR, AG_ROPE_YARN, AG_ROPE_LONGROPE } ag_rope_scaling;

/* How embeddings come of the states of a text's tokens: numbers of the file's, of which those without a name are not
 * known here or are for models that are no decoders. */
typedef enum ag_pooling { AG_POOLING_MEAN = 1, AG_POOLING_LAST = 3 } ag_pooling;

typedef struct ag_family ag_family;

typedef struct ag_hparams {
    const ag_family *family;
    uint32_t layers, width, heads, kv_heads, head_dim, head_dim_v, ffn, vocab;
    uint32_t ctx_train;
    float eps;
    /* RoPE */
    uint32_t n_rot;
    float rope_base, rope_base_local; /* local: of layers with a window (gemma3) */
    ag_rope_scaling scaling;
    float scaling_factor, attn_factor;
    float yarn_ext_factor, yarn_beta_fast, yarn_beta_slow;
    uint32_t ctx_orig;
    /* attention */
    uint32_t window;        /* 0: none */
    uint32_t window_every;  /* with a window: each window_every-th layer has none (gemma3: 6); 0: all layers have it */
    float logit_softcap;
    float attn_scale;       /* 0: 1/sqrt(head_dim) */
    float embed_scale;
    uint32_t pooling;       /* an ag_pooling, or another number of the file's; the mean where it says nothing */
} ag_hparams;

struct ag_family {
    const char *name;                                     /* general.architecture */
    /* what this family adds to the common keys; may be NULL */
    int (*keys)(ag_hparams *hp, const ag_gguf *g, ag_err *err);
    void (*build)(ag_graph *g, const ag_hparams *hp); /* failures stay in g */
};

const ag_family *ag_family_find(ag_str name);       /* NULL: not known */
const char *ag_family_list(void);                   /* "llama, qwen2, …" for sentences */
int ag_hparams_read(ag_hparams *hp, const ag_gguf *g, ag_err *err);
int ag_arch_build(ag_graph *g, const ag_hparams *hp, ag_err *err); /* g initialised by the caller */

/* "<family>.<rest>" read as the typed reads of gguf.h do. */
int ag_arch_u32(const ag_gguf *g, const ag_hparams *hp, const char *rest, bool need, uint32_t *out, ag_err *err);
int ag_arch_f32(const ag_gguf *g, const ag_hparams *hp, const char *rest, bool need, float *out, ag_err *err);

/* Shared by families: the RoPE of hp (frequencies by scaling, factor tensors of the file), and its pieces. */
int32_t ag_arch_rope(ag_graph *g, const ag_hparams *hp, bool interleaved);
int32_t ag_arch_rope_plain(ag_graph *g, uint32_t n_rot, bool interleaved, float base, float factor);
/* q, k, v of a normed row: separate attn_q/k/v or one attn_qkv, with biases where the file has them. */
typedef struct ag_qkv { ag_vid q, k, v; } ag_qkv;
ag_qkv ag_arch_qkv(ag_graph *g, const ag_hparams *hp, ag_vid x);
/* down(activation(gate) * up): separate ffn_gate/ffn_up, or one ffn_up with both halves. */
ag_vid ag_arch_ffn(ag_graph *g, const ag_hparams *hp, ag_vid x, ag_glu_fn f);
/* The whole graph of a family of the common kind: norm, q/k/v, RoPE, attention, residual, norm, SwiGLU, residual. */
typedef struct ag_decoder {
    bool interleaved; /* rotary pairs (2i, 2i+1); else (i, i + n/2) */
    bool head_norms;  /* norms on the heads of q and k, before RoPE */
    bool post_norms;  /* a norm on what each half of a layer adds */
} ag_decoder;
void ag_arch_decoder(ag_graph *g, const ag_hparams *hp, ag_decoder d);
ag_vid ag_arch_attend(ag_graph *g, const ag_hparams *hp, ag_qkv h, uint32_t window);
bool ag_arch_layer_has_window(const ag_hparams *hp, uint32_t layer);

#endif
