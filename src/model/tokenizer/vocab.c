/* Reads the vocabulary: token texts, kinds, scores. Every array is checked against the list of tokens. */
#include "model/tokenizer/vocab.h"

#include <math.h>

#include "base/mem.h"

#define KEY "tokenizer.ggml."
#define TEXTS_AHEAD 32u

static int find_array(const ag_gguf *g, const char *key, bool need, const ag_gguf_value **out, ag_err *err)
{
    *out = ag_gguf_value_find(g, key);
    if (*out == NULL && need) return ag_err_set(err, AG_E_FILE, "%s: key %s is missing", ag_gguf_path(g), key);
    if (*out && (*out)->type != AG_GGUF_ARRAY)
        return ag_err_set(err, AG_E_FILE, "%s: key %s is not an array", ag_gguf_path(g), key);
    return AG_OK;
}

/* An array with one item per token, each a number. */
static int find_numbers(const ag_gguf *g, const char *key, bool need, uint32_t n, bool floats,
                        const ag_gguf_value **out, ag_err *err)
{
    int rc = find_array(g, key, need, out, err);
    if (rc || *out == NULL) return rc;
    ag_gguf_type t = (*out)->item;
    bool is_float = t == AG_GGUF_F32 || t == AG_GGUF_F64;
    bool is_int = t != AG_GGUF_STRING && t != AG_GGUF_ARRAY && t != AG_GGUF_BOOL && !is_float;
    if (!is_int && !(floats && is_float))
        return ag_err_set(err, AG_E_FILE, "%s: key %s must be an array of %s", ag_gguf_path(g), key,
                          floats ? "floats" : "integers");
    if ((*out)->n != n)
        return ag_err_set(err, AG_E_FILE, "%s: key %s has %llu items; the vocabulary has %u tokens", ag_gguf_path(g),
                          key, (unsigned long long)(*out)->n, n);
    return AG_OK;
}

static int load_texts(ag_tokenizer *t, const ag_gguf *g, ag_err *err)
{
    const char *key = KEY "tokens", *path = ag_gguf_path(g);
    const ag_gguf_value *v;
    int rc = find_array(g, key, true, &v, err);
    if (rc) return rc;
    if (v->item != AG_GGUF_STRING)
        return ag_err_set(err, AG_E_FILE, "%s: key %s must be an array of strings", path, key);
    if (v->n == 0 || v->n > AG__TOKENS_MAX)
        return ag_err_set(err, AG_E_FILE, "%s: key %s has %llu tokens; 1 to %u are right", path, key,
                          (unsigned long long)v->n, AG__TOKENS_MAX);
    t->n = (uint32_t)v->n;
    t->texts = ag_mem_array(t->n, sizeof *t->texts);
    t->kinds = ag_mem_alloc(t->n);
    t->flags = ag_mem_zalloc(t->n);
    if (t->texts == NULL || t->kinds == NULL || t->flags == NULL || ag__text_map_init(&t->by_text, t->texts, t->n))
        return ag_err_set(err, AG_E_NOMEM, "%s: no memory for %u tokens", path, t->n);
    const void *at = v->data;
    for (uint32_t i = 0, asked = 0; i < t->n; i++) {
        for (; asked < t->n && asked < i + TEXTS_AHEAD; asked++) {
            ag_str s = t->texts[asked] = ag_gguf_string_next(&at);
            if (s.n <= AG__TOKEN_BYTES_MAX) ag__text_map_ask(&t->by_text, s.p, s.n);
        }
        ag_str s = t->texts[i];
        if (s.n > AG__TOKEN_BYTES_MAX)
            return ag_err_set(err, AG_E_FILE, "%s: token %u of key %s has %zu bytes; at most %u are right", path, i,
                              key, s.n, AG__TOKEN_BYTES_MAX);
        t->text_max = AG_MAX(t->text_max, (uint32_t)s.n);
        if (s.n == 0) continue; /* some converters leave holes; text never becomes one */
        int32_t twin = ag__text_map_add(&t->by_text, (int32_t)i);
        if (twin >= 0)
            return ag_err_set(err, AG_E_FILE, "%s: tokens %d and %u of key %s are the same", path, twin, i, key);
    }
    return AG_OK;
}

static int load_kinds(ag_tokenizer *t, const ag_gguf *g, ag_err *err)
{
    const char *key = KEY "token_type";
    const ag_gguf_value *v;
    int rc = find_numbers(g, key, false, t->n, false, &v, err);
    if (rc) return rc;
    for (uint32_t i = 0; i < t->n; i++) {
        int64_t k = v ? ag_gguf_int_at(v, i) : AG_TOKEN_NORMAL;
        if (k < 0 || k > AG_TOKEN_BYTE)
            return ag_err_set(err, AG_E_FILE, "%s: item %u of key %s is %lld; 1 to 6 are right", ag_gguf_path(g), i,
                              key, (long long)k);
        t->kinds[i] = (uint8_t)(k ? k : AG_TOKEN_NORMAL); /* 0 is "undefined" in files of old converters */
    }
    return AG_OK;
}

static int load_scores(ag_tokenizer *t, const ag_gguf *g, ag_err *err)
{
    const char *key = KEY "scores";
    const ag_gguf_value *v;
    int rc = find_numbers(g, key, true, t->n, true, &v, err);
    if (rc) return rc;
    t->scores = ag_mem_array(t->n, sizeof *t->scores);
    if (t->scores == NULL) return ag_err_set(err, AG_E_NOMEM, "%s: no memory for the scores", ag_gguf_path(g));
    bool floats = v->item == AG_GGUF_F32 || v->item == AG_GGUF_F64;
    for (uint32_t i = 0; i < t->n; i++) {
        t->scores[i] = floats ? (float)ag_gguf_float_at(v, i) : (float)ag_gguf_int_at(v, i);
        if (isnan(t->scores[i]))
            return ag_err_set(err, AG_E_FILE, "%s: item %u of key %s is not a number", ag_gguf_path(g), i, key);
    }
    return AG_OK;
}

/* The tokens that single bytes have: BPE writes them in its alphabet, SPM as <0xXX>. */
static void find_bytes(ag_tokenizer *t)
{
    static const char digit[] = "0123456789ABCDEF";
    for (uint32_t b = 0; b < 256; b++) {
        char s[6] = {'<', '0', 'x', digit[b >> 4], digit[b & 15], '>'};
        size_t n = sizeof s;
        if (t->model == AG__BPE) {
            uint32_t c = ag__byte_to_char((uint8_t)b);
            n = c < 0x80 ? 1 : 2;
            s[0] = (char)(c < 0x80 ? c : 0xc0 | c >> 6);
            s[1] = (char)(0x80 | (c & 0x3f));
        }
        int32_t id = ag__text_map_find(&t->by_text, s, n);
        bool ok = id >= 0 && (ag__is_text(t, id) || (t->model == AG__SPM && ag__kind(t, id) == AG_TOKEN_BYTE));
        t->bytes[b] = ok ? id : -1;
    }
}

int ag__vocab_load(ag_tokenizer *t, const ag_gguf *g, ag_err *err)
{
    int rc = load_texts(t, g, err);
    if (rc == AG_OK) rc = load_kinds(t, g, err);
    if (rc == AG_OK && t->model == AG__SPM) rc = load_scores(t, g, err);
    if (rc == AG_OK) find_bytes(t);
    return rc;
}

/* One merge "left right"; a side may begin with a space of its own, so the first byte is never the border. */
static bool cut_merge(ag_str s, ag_str *left, ag_str *right)
{
    const char *space = s.n > 2 ? memchr(s.p + 1, ' ', s.n - 1) : NULL;
    if (space == NULL || space + 1 == s.p + s.n) return false;
    *left = (ag_str){s.p, (size_t)(space - s.p)};
    *right = (ag_str){space + 1, s.n - left->n - 1};
    return true;
}

#define MERGES_MANY (AG__TEXTS_MANY / 3)

/* Merges of ranks first..first+n, three texts each: left, right, joined. One of tokens that the vocabulary lacks
 * (cut-down vocabularies have them) could only lead to a dead end: it is left out. The place in the file stays the rank
 * of those that remain. */
static void add_merges(ag_tokenizer *t, uint32_t first, uint32_t n, const ag_str *texts)
{
    int32_t ids[AG__TEXTS_MANY];
    ag__text_map_find_many(&t->by_text, texts, 3 * n, ids);
    for (uint32_t i = 0; i < 3 * n; i++)
        if (ids[i] >= 0 && !ag__is_text(t, ids[i])) ids[i] = -1;
    for (uint32_t i = 0; i < n; i++) ag__pair_map_ask(&t->merges, ids[3 * i], ids[3 * i + 1]);
    for (uint32_t i = 0; i < n; i++) {
        const int32_t *id = &ids[3 * i];
        t->merged[first + i] = id[2];
        if (id[0] >= 0 && id[1] >= 0 && id[2] >= 0) ag__pair_map_add(&t->merges, id[0], id[1], first + i);
    }
}

/* The three texts of a merge, the joined one written to `room`; empty ones where it is longer than any token. */
static void merge_texts(const ag_tokenizer *t, ag_str left, ag_str right, char *room, ag_str *texts)
{
    memset(texts, 0, 3 * sizeof *texts);
    if (left.n + right.n > t->text_max) return;
    memcpy(room, left.p, left.n);
    memcpy(room + left.n, right.p, right.n);
    texts[0] = left;
    texts[1] = right;
    texts[2] = (ag_str){room, left.n + right.n};
}

int ag__merges_load(ag_tokenizer *t, const ag_gguf *g, ag_err *err)
{
    const char *key = KEY "merges", *path = ag_gguf_path(g);
    const ag_gguf_value *v;
    int rc = find_array(g, key, true, &v, err);
    if (rc) return rc;
    if (v->item != AG_GGUF_STRING)
        return ag_err_set(err, AG_E_FILE, "%s: key %s must be an array of strings", path, key);
    if (v->n > AG__MERGES_MAX)
        return ag_err_set(err, AG_E_FILE, "%s: key %s has %llu merges; at most %u are right", path, key,
                          (unsigned long long)v->n, AG__MERGES_MAX);
    char *joined = ag_mem_array(MERGES_MANY, t->text_max);
    t->merged = ag_mem_array(v->n, sizeof *t->merged);
    if (joined == NULL || t->merged == NULL || ag__pair_map_init(&t->merges, (uint32_t)v->n)) {
        rc = ag_err_set(err, AG_E_NOMEM, "%s: no memory for %llu merges", path, (unsigned long long)v->n);
        goto out;
    }
    const void *at = v->data;
    ag_str texts[AG__TEXTS_MANY];
    for (uint32_t i = 0, n = 0; i < v->n; i++) {
        ag_str left, right;
        if (!cut_merge(ag_gguf_string_next(&at), &left, &right)) {
            rc = ag_err_set(err, AG_E_FILE, "%s: item %u of key %s is not two tokens with a space between", path, i,
                            key);
            break;
        }
        merge_texts(t, left, right, joined + (size_t)n * t->text_max, &texts[3 * n]);
        if (++n < MERGES_MANY && i + 1 < v->n) continue;
        add_merges(t, i + 1 - n, n, texts);
        n = 0;
    }
out:
    ag_mem_free(joined);
    return rc;
}
