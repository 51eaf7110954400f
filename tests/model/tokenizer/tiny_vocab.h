/* tiny_vocab.h - small vocabularies in GGUF form for the tokenizer's tests and fuzz target.
 * Owns nothing; a tiny is filled by tiny_bpe or tiny_spm and then changed by the test; one thread; TINY_MAX tokens. */
#ifndef AG_TESTS_TINY_VOCAB_H
#define AG_TESTS_TINY_VOCAB_H

#include "../../lib/gguf_build.h"
#include "model/tokenizer/tokenizer.h"

#define TINY_MAX 400
#define TINY_MARK "\xe2\x96\x81"

typedef struct tiny {
    const char *model, *pre, *name;
    char texts[TINY_MAX][48];
    int32_t kinds[TINY_MAX];
    float scores[TINY_MAX];
    uint32_t n;
    const char *merges[32];
    uint32_t n_merges;
    bool no_tokens, no_kinds, no_scores, no_merges;
    int64_t bos, eos, unk, eot; /* -1: the key is left out */
    int add_bos, add_eos, space_prefix; /* -1: left out */
} tiny;

static inline uint32_t tiny_token(tiny *v, const char *text, int32_t kind, float score)
{
    snprintf(v->texts[v->n], sizeof v->texts[0], "%s", text);
    v->kinds[v->n] = kind;
    v->scores[v->n] = score;
    return v->n++;
}

static inline void tiny_init(tiny *v)
{
    memset(v, 0, sizeof *v);
    v->name = "tiny";
    v->bos = v->eos = v->unk = v->eot = -1;
    v->add_bos = v->add_eos = v->space_prefix = -1;
}

/* GPT-2's alphabet, spelled out once more: the test of pieces.c must not ask pieces.c. */
static inline void tiny_byte_text(unsigned b, char out[3])
{
    unsigned n = 0, c = b;
    bool prints = (b > 0x20 && b < 0x7f) || (b > 0xa0 && b != 0xad);
    for (unsigned i = 0; i < b; i++) n += !((i > 0x20 && i < 0x7f) || (i > 0xa0 && i != 0xad));
    if (!prints) c = 256 + n;
    memset(out, 0, 3);
    if (c < 0x80) {
        out[0] = (char)c;
    } else {
        out[0] = (char)(0xc0 | c >> 6);
        out[1] = (char)(0x80 | (c & 0x3f));
    }
}

#define TINY_SPACE "\xc4\xa0" /* how byte-level BPE writes a space */

/* 256 bytes (their ids), then what the merges make, then special tokens. */
static inline void tiny_bpe(tiny *v, const char *pre)
{
    static const char *const merges[] = {"h e", "l l", "he ll", "hell o", TINY_SPACE " w", "o r", "a a", "aa aa", "1 2",
                                         TINY_SPACE " " TINY_SPACE, "l d", "' s"};
    static const char *const made[] = {"he", "ll", "hell", "hello", TINY_SPACE "w", "or", "aa", "aaaa", "12",
                                       TINY_SPACE TINY_SPACE, "ld", "'s"};
    tiny_init(v);
    v->model = "gpt2";
    v->pre = pre;
    for (unsigned b = 0; b < 256; b++) {
        char s[3];
        tiny_byte_text(b, s);
        tiny_token(v, s, AG_TOKEN_NORMAL, 0);
    }
    for (size_t i = 0; i < AG_ARRAY_LEN(made); i++) {
        tiny_token(v, made[i], AG_TOKEN_NORMAL, 0);
        v->merges[v->n_merges++] = merges[i];
    }
    v->bos = tiny_token(v, "<|bos|>", AG_TOKEN_CONTROL, 0);
    v->eos = tiny_token(v, "<|im_end|>", AG_TOKEN_CONTROL, 0);
    tiny_token(v, "<think>", AG_TOKEN_USER, 0);
    tiny_token(v, "<think>er", AG_TOKEN_USER, 0);
    tiny_token(v, "[PAD]", AG_TOKEN_UNUSED, 0);
}

/* <unk> 0, <s> 1, </s> 2, the bytes 3..258, then pieces. */
static inline void tiny_spm(tiny *v)
{
    static const char *const pieces[] = {TINY_MARK, "h", "e", "l", "o", "w", "r", "d", "a", "<", ">", "s", "/",
                                         "\xc3\xa9", "he", "ll", "hell", "hello", TINY_MARK "hello", TINY_MARK "w",
                                         "or",
                                         "ld", TINY_MARK TINY_MARK, "aa", "aaaa", "s>", "<s"};
    tiny_init(v);
    v->model = "llama";
    v->unk = tiny_token(v, "<unk>", AG_TOKEN_UNKNOWN, 0);
    v->bos = tiny_token(v, "<s>", AG_TOKEN_CONTROL, 0);
    v->eos = tiny_token(v, "</s>", AG_TOKEN_CONTROL, 0);
    for (unsigned b = 0; b < 256; b++) {
        char s[8];
        snprintf(s, sizeof s, "<0x%02X>", b);
        tiny_token(v, s, AG_TOKEN_BYTE, 0);
    }
    for (size_t i = 0; i < AG_ARRAY_LEN(pieces); i++)
        tiny_token(v, pieces[i], AG_TOKEN_NORMAL, -(float)(i < 13 ? 90 : i));
    tiny_token(v, "<think>", AG_TOKEN_USER, 0);
    tiny_token(v, "<pad>", AG_TOKEN_UNUSED, 0);
}

static inline void tiny_keys(const tiny *v, gb *b)
{
    const char *texts[TINY_MAX];
    for (uint32_t i = 0; i < v->n; i++) texts[i] = v->texts[i];
    gb_str(b, "general.architecture", "llama");
    gb_str(b, "general.name", v->name);
    if (v->model) gb_str(b, "tokenizer.ggml.model", v->model);
    if (v->pre) gb_str(b, "tokenizer.ggml.pre", v->pre);
    if (!v->no_tokens) gb_strings(b, "tokenizer.ggml.tokens", v->n, texts);
    if (!v->no_kinds) gb_array(b, "tokenizer.ggml.token_type", GB_I32, v->n, v->kinds, v->n * 4);
    if (!v->no_scores) gb_array(b, "tokenizer.ggml.scores", GB_F32, v->n, v->scores, v->n * 4);
    if (!v->no_merges) gb_strings(b, "tokenizer.ggml.merges", v->n_merges, v->merges);
    if (v->bos >= 0) gb_u32(b, "tokenizer.ggml.bos_token_id", (uint32_t)v->bos);
    if (v->eos >= 0) gb_u32(b, "tokenizer.ggml.eos_token_id", (uint32_t)v->eos);
    if (v->unk >= 0) gb_u32(b, "tokenizer.ggml.unknown_token_id", (uint32_t)v->unk);
    if (v->eot >= 0) gb_u32(b, "tokenizer.ggml.eot_token_id", (uint32_t)v->eot);
    if (v->add_bos >= 0) gb_bool(b, "tokenizer.ggml.add_bos_token", (uint8_t)v->add_bos);
    if (v->add_eos >= 0) gb_bool(b, "tokenizer.ggml.add_eos_token", (uint8_t)v->add_eos);
    if (v->space_prefix >= 0) gb_bool(b, "tokenizer.ggml.add_space_prefix", (uint8_t)v->space_prefix);
}

/* An opened tokenizer with the file under it. */
typedef struct tiny_open_t {
    uint8_t *bytes;
    ag_gguf *g;
    ag_tokenizer *t;
    ag_err err;
    int rc;
} tiny_opened;

static inline void tiny_open_gb(tiny_opened *o, const gb *b)
{
    size_t n;
    memset(o, 0, sizeof *o);
    o->bytes = gb_build(b, &n);
    o->rc = ag_gguf_open_mem(&o->g, "tiny.gguf", o->bytes, n, &o->err);
    if (o->rc == AG_OK) o->rc = ag_tokenizer_open(&o->t, o->g, &o->err);
}

static inline void tiny_open(tiny_opened *o, const tiny *v)
{
    gb b;
    gb_init(&b);
    tiny_keys(v, &b);
    tiny_open_gb(o, &b);
    gb_free(&b);
}

static inline void tiny_close(tiny_opened *o)
{
    ag_tokenizer_close(o->t);
    ag_gguf_close(o->g);
    free(o->bytes);
    memset(o, 0, sizeof *o);
}

#endif
