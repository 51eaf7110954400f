/* Ids and texts that other tokenizers agree on, for real vocabularies. */
#include "check.h"

#include <jansson.h>

#include "base/mem.h"
#include "model/tokenizer/tokenizer.h"

typedef struct vocab {
    ag_gguf *g;
    ag_tokenizer *t;
} vocab;

static bool open_vocab(vocab *v, const char *name)
{
    char path[512];
    snprintf(path, sizeof path, "%s/vocab/ggml-vocab-%s.gguf", check_data_dir(), name);
    FILE *f = fopen(path, "rb");
    if (f == NULL) return false;
    fclose(f);
    ag_err err = {0};
    if (ag_gguf_open(&v->g, path, &err)) fail_msg("%s", err.text);
    if (ag_tokenizer_open(&v->t, v->g, &err)) fail_msg("%s", err.text);
    return true;
}

static void close_vocab(vocab *v)
{
    ag_tokenizer_close(v->t);
    ag_gguf_close(v->g);
}

static FILE *open_text(const char *folder, const char *name, const char *suffix)
{
    char path[512];
    snprintf(path, sizeof path, "%s/%s/%s%s", check_data_dir(), folder, name, suffix);
    return fopen(path, "rb");
}

static void check_line(const char *name, unsigned line, const vocab *v, json_t *o)
{
    json_t *text = json_object_get(o, "text"), *want = json_object_get(o, "ids");
    json_t *decoded = json_object_get(o, "decoded");
    bool add = json_is_true(json_object_get(o, "add_special"));
    bool parse = json_is_true(json_object_get(o, "parse_special"));
    int32_t *ids;
    uint32_t n;
    ag_err err = {0};
    if (ag_tokenizer_encode(v->t, json_string_value(text), json_string_length(text), add, parse, &ids, &n, &err))
        fail_msg("%s line %u: %s", name, line, err.text);
    bool same = n == json_array_size(want);
    for (uint32_t i = 0; same && i < n; i++) same = ids[i] == json_integer_value(json_array_get(want, i));
    if (!same) {
        for (uint32_t i = 0; i < n; i++) fprintf(stderr, " %d", ids[i]);
        fail_msg("%s line %u: other ids for '%s'", name, line, json_string_value(text));
    }
    /* `decoded` is without the BOS that was put in front. */
    uint32_t skip = add && ag_tokenizer_adds_bos(v->t) ? 1 : 0;
    ag_buf out;
    ag_buf_init(&out, 1 << 20);
    assert_true(ag_tokenizer_decode(v->t, n ? ids + skip : NULL, n - skip, true, &out));
    if (out.n != json_string_length(decoded) || (out.n && memcmp(out.p, json_string_value(decoded), out.n) != 0))
        fail_msg("%s line %u: decoded '%.*s'", name, line, (int)out.n, out.p);
    ag_buf_fini(&out);
    ag_mem_free(ids);
}

static void check_vectors(const char *name)
{
    vocab v;
    FILE *f = open_text("tokenizers", name, ".jsonl");
    if (f == NULL || !open_vocab(&v, name)) {
        check_skipped(450, name);
        if (f) fclose(f);
        skip();
    }
    char *line = NULL;
    size_t cap = 0;
    unsigned n = 0;
    while (getline(&line, &cap, f) > 0) {
        json_t *o = json_loads(line, JSON_ALLOW_NUL, NULL);
        assert_non_null(o);
        check_line(name, ++n, &v, o);
        json_decref(o);
    }
    free(line);
    fclose(f);
    close_vocab(&v);
    assert_true(n > 400);
}

static void vectors_gpt2(void **s) { (void)s; check_vectors("gpt-2"); }
static void vectors_smollm2(void **s) { (void)s; check_vectors("smollm2"); }
static void vectors_qwen2(void **s) { (void)s; check_vectors("qwen2"); }
static void vectors_glm4(void **s) { (void)s; check_vectors("glm4"); }
static void vectors_spm(void **s) { (void)s; check_vectors("llama-spm"); }

static char *read_all(FILE *f, size_t *n)
{
    char *p = malloc(1 << 20);
    assert_non_null(p);
    *n = fread(p, 1, (1 << 20) - 1, f);
    p[*n] = 0;
    fclose(f);
    return p;
}

/* Texts between lines "__ggml_vocab_test__", and their ids, one line each, without BOS. */
static void check_pairs(const char *name)
{
    vocab v;
    char file[64];
    snprintf(file, sizeof file, "ggml-vocab-%s.gguf", name);
    FILE *inp = open_text("vocab", file, ".inp"), *out = open_text("vocab", file, ".out");
    if (inp == NULL || out == NULL || !open_vocab(&v, name)) {
        check_skipped(45, name);
        skip();
    }
    size_t n_text, n_ids;
    char *texts = read_all(inp, &n_text), *lines = read_all(out, &n_ids);
    static const char mark[] = "\n__ggml_vocab_test__\n";
    unsigned cases = 0;
    for (char *t = texts, *l = lines; *l;) {
        char *stop = strstr(t, mark), *end = stop ? stop : texts + n_text;
        int32_t *ids;
        uint32_t n;
        ag_err err = {0};
        assert_int_equal(ag_tokenizer_encode(v.t, t, (size_t)(end - t), false, false, &ids, &n, &err), AG_OK);
        for (uint32_t i = 0; i < n; i++) {
            long want = strtol(l, &l, 10);
            if (ids[i] != want) fail_msg("%s pair %u: id %u is %d, %ld wanted", name, cases, i, ids[i], want);
        }
        ag_mem_free(ids);
        while (*l == ' ') l++;
        assert_int_equal(*l, '\n');
        l++;
        cases++;
        if (stop == NULL) break;
        t = stop + sizeof mark - 1;
    }
    assert_true(cases > 30);
    free(texts);
    free(lines);
    close_vocab(&v);
}

static void pairs_gpt2(void **s) { (void)s; check_pairs("gpt-2"); }
static void pairs_qwen2(void **s) { (void)s; check_pairs("qwen2"); }
static void pairs_spm(void **s) { (void)s; check_pairs("llama-spm"); }

/* What ends an answer, as the families' own configurations say. */
static void ends(void **s)
{
    (void)s;
    static const struct {
        const char *vocab, *yes[3], *no[3];
    } row[] = {
        {"gpt-2", {"<|endoftext|>"}, {"!"}},
        {"smollm2", {"<|im_end|>", "<|endoftext|>"}, {"<|im_start|>", "<file_sep>"}},
        {"qwen2", {"<|im_end|>", "<|endoftext|>"}, {"</s>", "<|im_start|>", "</think>"}},
        {"glm4", {"<|endoftext|>", "<|user|>", "<|observation|>"}, {"<|assistant|>", "[gMASK]", "<sop>"}},
        {"llama-spm", {"</s>"}, {"<s>", "<unk>"}},
    };
    for (size_t i = 0; i < AG_ARRAY_LEN(row); i++) {
        vocab v;
        if (!open_vocab(&v, row[i].vocab)) {
            check_skipped(1, row[i].vocab);
            continue;
        }
        for (int k = 0; k < 3; k++) {
            if (row[i].yes[k]) assert_true(ag_tokenizer_ends(v.t, ag_tokenizer_find(v.t, ag_str_of(row[i].yes[k]))));
            if (row[i].no[k]) assert_false(ag_tokenizer_ends(v.t, ag_tokenizer_find(v.t, ag_str_of(row[i].no[k]))));
        }
        close_vocab(&v);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(vectors_gpt2), cmocka_unit_test(vectors_smollm2), cmocka_unit_test(vectors_qwen2),
        cmocka_unit_test(vectors_glm4), cmocka_unit_test(vectors_spm), cmocka_unit_test(pairs_gpt2),
        cmocka_unit_test(pairs_qwen2), cmocka_unit_test(pairs_spm), cmocka_unit_test(ends),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
