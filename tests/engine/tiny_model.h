/* tiny_model.h - a random Llama of a few kilobytes, with a byte-level vocabulary, for tests of engine and arch.
 * Owns    : the opened tiny_model owns file and model until tiny_model_close.
 * One thread; no limits; failures end the program. */
#ifndef AG_TESTS_TINY_MODEL_H
#define AG_TESTS_TINY_MODEL_H

#include <math.h>

#include "base/mem.h"
#include "model/model.h"
#include "model/tokenizer/tiny_vocab.h"

enum { TINY_WIDTH = 64, TINY_HEADS = 4, TINY_FFN = 96, TINY_LAYERS = 3, TINY_CTX = 512 };
static uint32_t tiny_heads = TINY_HEADS; /* a test may open others, with half as many KV heads */

static uint32_t tiny_layers = TINY_LAYERS; /* of models opened from now on */

typedef struct tiny_model {
    uint8_t *bytes;
    ag_model m;
} tiny_model;

static uint64_t tiny_seed = 1;
static inline float tiny_random(void)
{
    tiny_seed = tiny_seed * 6364136223846793005u + 1442695040888963407u;
    return (float)(int32_t)(tiny_seed >> 32) / 2147483648.0f;
}

/* rows x k of random weights, F32, BF16 or Q8_0. */
static inline void tiny_matrix(gb *b, const char *name, ag_quant_type type, uint64_t k, uint64_t rows)
{
    static uint8_t data[1 << 20];
    size_t n = 0;
    for (uint64_t i = 0; i < k * rows; i += 32) {
        float x[32];
        for (int j = 0; j < 32; j++) x[j] = tiny_random() * 0.4f;
        if (type == AG_Q_F32) {
            memcpy(data + n, x, sizeof x);
            n += sizeof x;
            continue;
        }
        if (type == AG_Q_BF16) {
            for (int j = 0; j < 32; j++, n += 2) memcpy(data + n, (const char *)&x[j] + 2, 2);
            continue;
        }
        uint16_t d = ag_f32_to_f16(0.4f / 127);
        memcpy(data + n, &d, 2);
        for (int j = 0; j < 32; j++) data[n + 2 + (size_t)j] = (uint8_t)(int8_t)lrintf(x[j] * 127 / 0.4f);
        n += 34;
    }
    gb_tensor(b, name, type, 2, (uint64_t[]){k, rows}, data, n);
}

static inline void tiny_norm(gb *b, const char *name, uint64_t n)
{
    float x[256];
    for (uint64_t i = 0; i < n; i++) x[i] = 1 + tiny_random() * 0.1f;
    gb_tensor(b, name, AG_Q_F32, 1, (uint64_t[]){n}, x, n * 4);
}

static inline void tiny_model_keys(gb *b)
{
    tiny v;
    tiny_bpe(&v, "gpt-2");
    tiny_keys(&v, b); /* names the family llama */
    gb_u32(b, "llama.block_count", tiny_layers);
    gb_u32(b, "llama.embedding_length", TINY_WIDTH);
    gb_u32(b, "llama.feed_forward_length", TINY_FFN);
    gb_u32(b, "llama.attention.head_count", tiny_heads);
    gb_u32(b, "llama.attention.head_count_kv", tiny_heads / 2);
    gb_u32(b, "llama.context_length", TINY_CTX);
    gb_f32(b, "llama.attention.layer_norm_rms_epsilon", 1e-5f);
}

static inline void tiny_model_tensors(gb *b, ag_quant_type type)
{
    tiny v;
    tiny_bpe(&v, "gpt-2");
    uint64_t kv = TINY_WIDTH / 2;
    tiny_seed = 1;
    tiny_matrix(b, "token_embd.weight", type, TINY_WIDTH, v.n);
    tiny_norm(b, "output_norm.weight", TINY_WIDTH);
    for (uint32_t l = 0; l < tiny_layers; l++) {
        char name[64];
#define NAME(rest) (snprintf(name, sizeof name, "blk.%u." rest ".weight", l), name)
        tiny_norm(b, NAME("attn_norm"), TINY_WIDTH);
        tiny_norm(b, NAME("ffn_norm"), TINY_WIDTH);
        tiny_matrix(b, NAME("attn_q"), type, TINY_WIDTH, TINY_WIDTH);
        tiny_matrix(b, NAME("attn_k"), type, TINY_WIDTH, kv);
        tiny_matrix(b, NAME("attn_v"), type, TINY_WIDTH, kv);
        tiny_matrix(b, NAME("attn_output"), type, TINY_WIDTH, TINY_WIDTH);
        tiny_matrix(b, NAME("ffn_gate"), type, TINY_WIDTH, TINY_FFN);
        tiny_matrix(b, NAME("ffn_up"), type, TINY_WIDTH, TINY_FFN);
        tiny_matrix(b, NAME("ffn_down"), type, TINY_FFN, TINY_WIDTH);
#undef NAME
    }
}

static inline int tiny_model_read(tiny_model *t, const gb *b, ag_err *err)
{
    size_t n;
    *t = (tiny_model){.bytes = gb_build(b, &n)};
    snprintf(t->m.name, sizeof t->m.name, "tiny");
    int rc = ag_gguf_open_mem(&t->m.gguf, "tiny.gguf", t->bytes, n, err);
    if (rc == AG_OK) rc = ag_hparams_read(&t->m.hp, t->m.gguf, err);
    if (rc == AG_OK) rc = ag_tokenizer_open(&t->m.tokenizer, t->m.gguf, err);
    return rc;
}

static inline void tiny_model_close(tiny_model *t)
{
    ag_tokenizer_close(t->m.tokenizer);
    ag_gguf_close(t->m.gguf);
    free(t->bytes);
}

static inline void tiny_model_open_as(tiny_model *t, ag_quant_type type)
{
    gb b;
    ag_err err = {0};
    gb_init(&b);
    tiny_model_keys(&b);
    tiny_model_tensors(&b, type);
    if (tiny_model_read(t, &b, &err) != AG_OK) {
        fprintf(stderr, "the tiny model: %s\n", err.text);
        abort();
    }
    gb_free(&b);
}

static inline void tiny_model_open(tiny_model *t, bool q8) { tiny_model_open_as(t, q8 ? AG_Q_Q8_0 : AG_Q_F32); }

#endif
