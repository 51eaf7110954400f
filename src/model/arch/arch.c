#include "model/arch/arch.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>

#define AG_FAMILY(name, what) extern const ag_family ag_family_##name;
#include "model/arch/families.def"
#undef AG_FAMILY

static const ag_family *const families[] = {
#define AG_FAMILY(name, what) &ag_family_##name,
#include "model/arch/families.def"
#undef AG_FAMILY
};

const ag_family *ag_family_find(ag_str name)
{
    for (size_t i = 0; i < AG_ARRAY_LEN(families); i++)
        if (ag_str_eqz(name, families[i]->name)) return families[i];
    return NULL;
}

const char *ag_family_list(void)
{
#define AG_FAMILY(name, what) ", " #name
    static const char list[] =
#include "model/arch/families.def"
        ;
#undef AG_FAMILY
    return list + 2;
}

static const char *key_of(const ag_hparams *hp, const char *rest, char buf[128])
{
    snprintf(buf, 128, "%s.%s", hp->family->name, rest);
    return buf;
}

int ag_arch_u32(const ag_gguf *g, const ag_hparams *hp, const char *rest, bool need, uint32_t *out, ag_err *err)
{
    char key[128];
    return ag_gguf_u32(g, key_of(hp, rest, key), need, out, err);
}

int ag_arch_f32(const ag_gguf *g, const ag_hparams *hp, const char *rest, bool need, float *out, ag_err *err)
{
    char key[128];
    int rc = ag_gguf_f32(g, key_of(hp, rest, key), need, out, err);
    if (rc == AG_OK && !isfinite(*out))
        return ag_err_set(err, AG_E_FILE, "%s: key \"%s\" is not a finite number", ag_gguf_path(g), key);
    return rc;
}

/* Some keys are one number or one per layer (an array); we take arrays whose items are all equal. */
static int u32_even(const ag_gguf *g, const ag_hparams *hp, const char *rest, uint32_t *out, ag_err *err)
{
    char key[128];
    const ag_gguf_value *v = ag_gguf_value_find(g, key_of(hp, rest, key));
    if (v == NULL || v->type != AG_GGUF_ARRAY) return ag_gguf_u32(g, key, false, out, err);
    if (v->n == 0 || v->item == AG_GGUF_STRING || v->item == AG_GGUF_F32 || v->item == AG_GGUF_F64)
        return ag_err_set(err, AG_E_FILE, "%s: key \"%s\" should be an integer or an array of them", ag_gguf_path(g),
                          key);
    int64_t first = ag_gguf_int_at(v, 0);
    for (uint64_t i = 1; i < v->n; i++)
        if (ag_gguf_int_at(v, i) != first)
            return ag_err_set(err, AG_E_UNSUPPORTED,
                              "%s: key \"%s\" differs from layer to layer, which is not supported", ag_gguf_path(g),
                              key);
    if (first < 0 || first > UINT32_MAX)
        return ag_err_set(err, AG_E_FILE, "%s: key \"%s\" is out of range", ag_gguf_path(g), key);
    *out = (uint32_t)first;
    return AG_OK;
}

static int check_range(const ag_gguf *g, const char *what, uint64_t v, uint64_t min, uint64_t max, ag_err *err)
{
    if (v >= min && v <= max) return AG_OK;
    return ag_err_set(err, AG_E_FILE, "%s: %s is %" PRIu64 ", should be %" PRIu64 " to %" PRIu64, ag_gguf_path(g), what,
                      v, min, max);
}

static int read_scaling(ag_hparams *hp, const ag_gguf *g, ag_err *err)
{
    ag_str type = AG_STR("none");
    char key[128];
    int rc = ag_gguf_string(g, key_of(hp, "rope.scaling.type", key), false, &type, err);
    if (rc) return rc;
    if (ag_str_eqz(type, "linear")) hp->scaling = AG_ROPE_LINEAR;
    else if (ag_str_eqz(type, "yarn")) hp->scaling = AG_ROPE_YARN;
    else if (ag_str_eqz(type, "longrope")) hp->scaling = AG_ROPE_LONGROPE;
    else if (!ag_str_eqz(type, "none"))
        return ag_err_set(err, AG_E_UNSUPPORTED, "%s: key \"%s\" is \"%s\"; known are none, linear, yarn, longrope",
                          ag_gguf_path(g), key, ag_gguf_show((char[64]){0}, 64, type));
    hp->scaling_factor = 0;
    if ((rc = ag_arch_f32(g, hp, "rope.scaling.factor", false, &hp->scaling_factor, err))) return rc;
    if (hp->scaling_factor == 0 && (rc = ag_arch_f32(g, hp, "rope.scale_linear", false, &hp->scaling_factor, err)))
        return rc;
    if (hp->scaling == AG_ROPE_NONE && hp->scaling_factor != 0 && type.n == 4 && !ag_gguf_value_find(g, key))
        hp->scaling = AG_ROPE_LINEAR;
    if (hp->scaling_factor == 0) hp->scaling_factor = 1;
    if (!(hp->scaling_factor > 0))
        return ag_err_set(err, AG_E_FILE, "%s: the RoPE scaling factor must be above 0", ag_gguf_path(g));
    hp->attn_factor = 1;
    hp->yarn_ext_factor = 1;
    hp->yarn_beta_fast = 32;
    hp->yarn_beta_slow = 1;
    hp->ctx_orig = hp->ctx_train;
    if ((rc = ag_arch_f32(g, hp, "rope.scaling.attn_factor", false, &hp->attn_factor, err)) ||
        (rc = ag_arch_f32(g, hp, "rope.scaling.yarn_ext_factor", false, &hp->yarn_ext_factor, err)) ||
        (rc = ag_arch_f32(g, hp, "rope.scaling.yarn_beta_fast", false, &hp->yarn_beta_fast, err)) ||
        (rc = ag_arch_f32(g, hp, "rope.scaling.yarn_beta_slow", false, &hp->yarn_beta_slow, err)) ||
        (rc = ag_arch_u32(g, hp, "rope.scaling.original_context_length", false, &hp->ctx_orig, err)))
        return rc;
    return check_range(g, "the original context length", hp->ctx_orig, 1, AG_HP_CTX_MAX, err);
}

static int read_shape(ag_hparams *hp, const ag_gguf *g, ag_err *err)
{
    int rc;
    if ((rc = ag_arch_u32(g, hp, "block_count", true, &hp->layers, err)) ||
        (rc = check_range(g, "the number of layers", hp->layers, 1, AG_HP_LAYERS_MAX, err)) ||
        (rc = ag_arch_u32(g, hp, "embedding_length", true, &hp->width, err)) ||
        (rc = check_range(g, "the embedding length", hp->width, 1, AG_HP_WIDTH_MAX, err)) ||
        (rc = ag_arch_u32(g, hp, "attention.head_count", true, &hp->heads, err)) ||
        (rc = check_range(g, "the number of heads", hp->heads, 1, AG_HP_HEADS_MAX, err)))
        return rc;
    hp->kv_heads = hp->heads;
    if ((rc = u32_even(g, hp, "attention.head_count_kv", &hp->kv_heads, err)) ||
        (rc = u32_even(g, hp, "feed_forward_length", &hp->ffn, err)) ||
        (rc = check_range(g, "the number of KV heads", hp->kv_heads, 1, hp->heads, err)) ||
        (rc = check_range(g, "the feed-forward length", hp->ffn, 1, AG_HP_WIDTH_MAX, err)))
        return rc;
    if (hp->heads % hp->kv_heads != 0)
        return ag_err_set(err, AG_E_FILE, "%s: %u heads cannot share %u KV heads evenly", ag_gguf_path(g), hp->heads,
                          hp->kv_heads);
    hp->head_dim = hp->width / hp->heads;
    if ((rc = ag_arch_u32(g, hp, "attention.key_length", false, &hp->head_dim, err))) return rc;
    hp->head_dim_v = hp->head_dim;
    if ((rc = ag_arch_u32(g, hp, "attention.value_length", false, &hp->head_dim_v, err)) ||
        (rc = check_range(g, "the head length", hp->head_dim, 1, AG_HP_HEAD_DIM_MAX, err)) ||
        (rc = check_range(g, "the value head length", hp->head_dim_v, 1, AG_HP_HEAD_DIM_MAX, err)))
        return rc;
    if (hp->head_dim % 8 || hp->head_dim_v % 8)
        return ag_err_set(err, AG_E_UNSUPPORTED, "%s: heads of %u and %u dimensions; only multiples of 8 are supported",
                          ag_gguf_path(g), hp->head_dim, hp->head_dim_v);
    if ((uint64_t)hp->heads * AG_MAX(hp->head_dim, hp->head_dim_v) > AG_HP_WIDTH_MAX)
        return ag_err_set(err, AG_E_FILE, "%s: %u heads of %u dimensions are wider than %u", ag_gguf_path(g), hp->heads,
                          hp->head_dim, AG_HP_WIDTH_MAX);
    const ag_gguf_tensor *e = ag_gguf_tensor_find(g, "token_embd.weight");
    if (e == NULL) return ag_err_set(err, AG_E_FILE, "%s: tensor \"token_embd.weight\" is missing", ag_gguf_path(g));
    if ((rc = check_range(g, "the vocabulary (rows of token_embd.weight)", e->dim[1], 1, AG_HP_VOCAB_MAX, err)))
        return rc;
    hp->vocab = (uint32_t)e->dim[1];
    return AG_OK;
}

/* Keys whose meaning we do not build: better no answer than a wrong one. */
static int refuse_unbuilt(const ag_hparams *hp, const ag_gguf *g, ag_err *err)
{
    static const char *const keys[] = {"expert_count", "nextn_predict_layers"};
    for (size_t i = 0; i < AG_ARRAY_LEN(keys); i++) {
        uint32_t n = 0;
        int rc = ag_arch_u32(g, hp, keys[i], false, &n, err);
        if (rc) return rc;
        if (n)
            return ag_err_set(err, AG_E_UNSUPPORTED, "%s: key \"%s.%s\" is %u; such models are not supported",
                              ag_gguf_path(g), hp->family->name, keys[i], n);
    }
    char key[128];
    const ag_gguf_value *v = ag_gguf_value_find(g, key_of(hp, "rope.dimension_sections", key));
    if (v && v->type == AG_GGUF_ARRAY && (v->item == AG_GGUF_I32 || v->item == AG_GGUF_U32))
        for (uint64_t i = 0; i < v->n; i++)
            if (ag_gguf_int_at(v, i) != 0)
                return ag_err_set(err, AG_E_UNSUPPORTED, "%s: RoPE in sections (key \"%s\") is not supported",
                                  ag_gguf_path(g), key);
    return AG_OK;
}

int ag_hparams_read(ag_hparams *hp, const ag_gguf *g, ag_err *err)
{
    *hp = (ag_hparams){
        .eps = 1e-5f, .rope_base = 10000, .rope_base_local = 10000, .embed_scale = 1, .pooling = AG_POOLING_MEAN};
    ag_str arch = {0};
    int rc = ag_gguf_string(g, "general.architecture", true, &arch, err);
    if (rc) return rc;
    hp->family = ag_family_find(arch);
    if (hp->family == NULL)
        return ag_err_set(err, AG_E_UNSUPPORTED, "%s: model family \"%s\" is not known; known are %s",
                          ag_gguf_path(g), ag_gguf_show((char[64]){0}, 64, arch), ag_family_list());
    if ((rc = refuse_unbuilt(hp, g, err)) || (rc = read_shape(hp, g, err)) ||
        (rc = ag_arch_u32(g, hp, "context_length", true, &hp->ctx_train, err)) ||
        (rc = check_range(g, "the context length", hp->ctx_train, 1, AG_HP_CTX_MAX, err)) ||
        (rc = ag_arch_f32(g, hp, "attention.layer_norm_rms_epsilon", true, &hp->eps, err)))
        return rc;
    if (!(hp->eps >= 0)) return ag_err_set(err, AG_E_FILE, "%s: the norm's epsilon is below 0", ag_gguf_path(g));
    hp->n_rot = hp->head_dim;
    if ((rc = ag_arch_u32(g, hp, "rope.dimension_count", false, &hp->n_rot, err)) ||
        (rc = check_range(g, "the rotary dimension count", hp->n_rot, 0, hp->head_dim, err)) ||
        (rc = ag_arch_f32(g, hp, "rope.freq_base", false, &hp->rope_base, err)) || (rc = read_scaling(hp, g, err)) ||
        (rc = ag_arch_u32(g, hp, "attention.sliding_window", false, &hp->window, err)) ||
        (rc = ag_arch_u32(g, hp, "pooling_type", false, &hp->pooling, err)))
        return rc;
    if (hp->n_rot % 2)
        return ag_err_set(err, AG_E_FILE, "%s: an odd rotary dimension count, %u", ag_gguf_path(g), hp->n_rot);
    if (!(hp->rope_base > 0)) return ag_err_set(err, AG_E_FILE, "%s: the RoPE base must be above 0", ag_gguf_path(g));
    return hp->family->keys ? hp->family->keys(hp, g, err) : AG_OK;
}

int ag_arch_build(ag_graph *g, const ag_hparams *hp, ag_err *err)
{
    hp->family->build(g, hp);
    return ag_graph_check(g, err);
}

bool ag_arch_layer_has_window(const ag_hparams *hp, uint32_t layer)
{
    return hp->window > 0 && (hp->window_every == 0 || (layer + 1) % hp->window_every != 0);
}

ag_qkv ag_arch_qkv(ag_graph *g, const ag_hparams *hp, ag_vid x)
{
    uint32_t nq = hp->heads * hp->head_dim, nk = hp->kv_heads * hp->head_dim, nv = hp->kv_heads * hp->head_dim_v;
    if (ag_graph_has(g, "attn_qkv.weight")) {
        ag_vid y = ag_graph_linear(g, x, "attn_qkv", nq + nk + nv);
        return (ag_qkv){ag_graph_view(g, y, 0, nq), ag_graph_view(g, y, nq, nk), ag_graph_view(g, y, nq + nk, nv)};
    }
    ag_qkv h;
    h.q = ag_graph_linear(g, x, "attn_q", nq);
    h.k = ag_graph_linear(g, x, "attn_k", nk);
    h.v = ag_graph_linear(g, x, "attn_v", nv);
    return h;
}

ag_vid ag_arch_ffn(ag_graph *g, const ag_hparams *hp, ag_vid x, ag_glu_fn f)
{
    ag_vid gate, up;
    if (ag_graph_has(g, "ffn_gate.weight")) {
        gate = ag_graph_linear(g, x, "ffn_gate", hp->ffn);
        up = ag_graph_linear(g, x, "ffn_up", hp->ffn);
    } else { /* the first half of ffn_up is the gate */
        ag_vid y = ag_graph_linear(g, x, "ffn_up", 2 * hp->ffn);
        gate = ag_graph_view(g, y, 0, hp->ffn);
        up = ag_graph_view(g, y, hp->ffn, hp->ffn);
    }
    return ag_graph_linear(g, ag_graph_glu(g, gate, up, f), "ffn_down", hp->width);
}

ag_vid ag_arch_attend(ag_graph *g, const ag_hparams *hp, ag_qkv h, uint32_t window)
{
    float scale = hp->attn_scale != 0 ? hp->attn_scale : 1.0f / sqrtf((float)hp->head_dim);
    ag_vid y = ag_graph_attention(g, h.q, h.k, h.v, hp->heads, hp->kv_heads, hp->head_dim, hp->head_dim_v, scale,
                                  window, 0);
    return ag_graph_linear(g, y, "attn_output", hp->width);
}
