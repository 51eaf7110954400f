/* Damaged, odd and half-empty vocabularies: a sentence that names the key, or a tokenizer that works. */
#include "check.h"

#include <math.h>

#include "base/fault.h"
#include "base/mem.h"
#include "tiny_vocab.h"

/* Opens, expects `rc`, and that the sentence holds `word`. */
static void refused(const tiny *v, int rc, const char *word)
{
    tiny_opened o;
    tiny_open(&o, v);
    if (o.rc != rc || strstr(o.err.text, word) == NULL) fail_msg("%d '%s'; %d '%s' wanted", o.rc, o.err.text, rc, word);
    assert_null(o.t);
    tiny_close(&o);
}

static void accepted(const tiny *v)
{
    tiny_opened o;
    tiny_open(&o, v);
    if (o.rc) fail_msg("%s", o.err.text);
    tiny_close(&o);
}

static void kinds_of_tokenizer(void **state)
{
    (void)state;
    tiny v;
    tiny_bpe(&v, "gpt-2");
    accepted(&v);
    v.model = NULL;
    refused(&v, AG_E_FILE, "tokenizer.ggml.model");
    v.model = "bert";
    refused(&v, AG_E_UNSUPPORTED, "'bert'");
    v.model = "gpt2";
    v.pre = "klingon\x1b";
    refused(&v, AG_E_UNSUPPORTED, "klingon");
    refused(&v, AG_E_UNSUPPORTED, "llama-bpe");
    v.pre = NULL; /* files from before pre-tokenizers had names */
    accepted(&v);
    tiny_spm(&v);
    v.pre = "whatever"; /* SentencePiece has none */
    accepted(&v);
}

static void missing_arrays(void **state)
{
    (void)state;
    tiny v;
    tiny_bpe(&v, "gpt-2");
    v.no_tokens = true;
    refused(&v, AG_E_FILE, "tokenizer.ggml.tokens is missing");
    tiny_bpe(&v, "gpt-2");
    v.no_merges = true;
    refused(&v, AG_E_FILE, "tokenizer.ggml.merges is missing");
    tiny_bpe(&v, "gpt-2");
    v.no_scores = true;
    accepted(&v);
    v.no_kinds = true;
    accepted(&v);
    v.n_merges = 0;
    accepted(&v);
    v.n = 0;
    refused(&v, AG_E_FILE, "tokenizer.ggml.tokens has 0 tokens");
    tiny_spm(&v);
    v.no_scores = true;
    refused(&v, AG_E_FILE, "tokenizer.ggml.scores is missing");
    tiny_spm(&v);
    v.no_merges = true;
    accepted(&v);
}

/* The keys of a good vocabulary, but for one written in another form. */
static void mistyped(void **state)
{
    (void)state;
    static const int32_t ints[TINY_MAX] = {0};
    static const float floats[TINY_MAX] = {0};
    for (int i = 0; i < 9; i++) {
        tiny v;
        tiny_spm(&v);
        const char *word = "tokenizer.ggml.tokens";
        if (i == 0) v.no_tokens = true;
        if (i == 1 || i == 2) v.no_kinds = true;
        if (i == 3 || i == 4) v.no_scores = true;
        if (i == 5) v.bos = -1;
        if (i == 7 || i == 8) tiny_bpe(&v, "gpt-2"), v.no_merges = true;
        gb b;
        gb_init(&b);
        tiny_keys(&v, &b);
        if (i == 0) gb_array(&b, word, GB_I32, v.n, ints, v.n * 4);
        if (i == 1) gb_array(&b, word = "tokenizer.ggml.token_type", GB_F32, v.n, floats, v.n * 4);
        if (i == 2) gb_array(&b, word = "tokenizer.ggml.token_type", GB_I32, v.n - 1, ints, (v.n - 1) * 4);
        if (i == 3) gb_array(&b, word = "tokenizer.ggml.scores", GB_F32, v.n + 1, floats, (v.n + 1) * 4);
        if (i == 4) gb_f32(&b, word = "tokenizer.ggml.scores", 1);
        if (i == 5) gb_str(&b, word = "tokenizer.ggml.bos_token_id", "<s>");
        if (i == 6) gb_u32(&b, word = "tokenizer.ggml.add_bos_token", 1);
        if (i == 7) gb_str(&b, word = "tokenizer.ggml.merges", "a b");
        if (i == 8) gb_array(&b, word = "tokenizer.ggml.merges", GB_I32, 3, ints, 12);
        tiny_opened o;
        tiny_open_gb(&o, &b);
        if (o.rc != AG_E_FILE || strstr(o.err.text, word) == NULL) fail_msg("%d: %d '%s'", i, o.rc, o.err.text);
        tiny_close(&o);
        gb_free(&b);
    }
}

static void numbers_out_of_range(void **state)
{
    (void)state;
    tiny v;
    tiny_spm(&v);
    v.bos = v.n;
    refused(&v, AG_E_FILE, "tokenizer.ggml.bos_token_id");
    tiny_spm(&v);
    v.eos = 1 << 30;
    refused(&v, AG_E_FILE, "tokenizer.ggml.eos_token_id");
    tiny_spm(&v);
    v.eot = v.n + 1;
    refused(&v, AG_E_FILE, "tokenizer.ggml.eot_token_id");
    tiny_spm(&v);
    v.kinds[5] = 7;
    refused(&v, AG_E_FILE, "item 5 of key tokenizer.ggml.token_type");
    v.kinds[5] = -1;
    refused(&v, AG_E_FILE, "tokenizer.ggml.token_type");
    v.kinds[5] = 0;
    accepted(&v);
    v.scores[7] = NAN;
    refused(&v, AG_E_FILE, "item 7 of key tokenizer.ggml.scores");
    v.scores[7] = -INFINITY;
    accepted(&v);
    tiny_bpe(&v, "gpt-2");
    v.bos = -1;
    v.add_bos = 1;
    refused(&v, AG_E_FILE, "tokenizer.ggml.add_bos_token");
    v.bos = UINT32_MAX; /* how some converters write "none" */
    refused(&v, AG_E_FILE, "tokenizer.ggml.add_bos_token");
    v.add_bos = 0;
    accepted(&v);
}

static void odd_tokens(void **state)
{
    (void)state;
    tiny v;
    tiny_bpe(&v, "gpt-2");
    tiny_token(&v, "hello", AG_TOKEN_NORMAL, 0);
    refused(&v, AG_E_FILE, "are the same");
    tiny_bpe(&v, "gpt-2");
    tiny_token(&v, "", AG_TOKEN_NORMAL, 0);
    tiny_token(&v, "", AG_TOKEN_CONTROL, 0); /* holes are not twins */
    accepted(&v);
    v.merges[3] = "nospace";
    refused(&v, AG_E_FILE, "item 3 of key tokenizer.ggml.merges");
    v.merges[3] = "";
    refused(&v, AG_E_FILE, "item 3");
    v.merges[3] = "a ";
    refused(&v, AG_E_FILE, "item 3");
    v.merges[3] = " a"; /* the first byte is no border */
    refused(&v, AG_E_FILE, "item 3");
    v.merges[3] = "zz yy"; /* of tokens that are not there: left out */
    accepted(&v);
    char *big = calloc(1, 65538);
    memset(big, 'x', 65537);
    gb b;
    gb_init(&b);
    tiny_bpe(&v, "gpt-2");
    v.no_tokens = v.no_kinds = true;
    tiny_keys(&v, &b);
    const char *one[] = {big};
    gb_strings(&b, "tokenizer.ggml.tokens", 1, one);
    tiny_opened o;
    tiny_open_gb(&o, &b);
    assert_int_equal(o.rc, AG_E_FILE);
    assert_non_null(strstr(o.err.text, "65537 bytes"));
    tiny_close(&o);
    gb_free(&b);
    free(big);
}

/* Every allocation fails once: an error without a leak, or a result. */
static void faults(void **state)
{
    (void)state;
#ifdef AG_FAULTS
    for (int spm = 0; spm < 2; spm++) {
        tiny v;
        if (spm) tiny_spm(&v);
        else tiny_bpe(&v, "llama-bpe");
        gb b;
        gb_init(&b);
        tiny_keys(&v, &b);
        size_t n;
        uint8_t *bytes = gb_build(&b, &n);
        ag_gguf *g;
        assert_int_equal(ag_gguf_open_mem(&g, "tiny.gguf", bytes, n, NULL), AG_OK);
        for (uint32_t nth = 1;; nth++) {
            ag_tokenizer *t = NULL;
            ag_err err = {0};
            int32_t *ids = NULL;
            uint32_t n_ids = 0;
            ag_fault_arm(AG_FAULT_ALLOC, nth);
            int rc = ag_tokenizer_open(&t, g, &err);
            if (rc == AG_OK) rc = ag_tokenizer_encode(t, "hello <think> world", 19, true, true, &ids, &n_ids, &err);
            bool fired = ag_fault_disarm(AG_FAULT_ALLOC);
            assert_int_equal(rc, fired ? AG_E_NOMEM : AG_OK);
            assert_true(rc == AG_OK || (err.text[0] && ids == NULL));
            ag_mem_free(ids);
            ag_tokenizer_close(t);
            if (!fired) break;
        }
        ag_gguf_close(g);
        free(bytes);
        gb_free(&b);
    }
#else
    skip();
#endif
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(kinds_of_tokenizer), cmocka_unit_test(missing_arrays), cmocka_unit_test(mistyped),
        cmocka_unit_test(numbers_out_of_range), cmocka_unit_test(odd_tokens), cmocka_unit_test(faults),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
