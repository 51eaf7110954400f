/* One text to ids: special tokens are cut out first, what lies between them goes to BPE or SPM. */
#include "base/mem.h"
#include "base/utf8.h"
#include "model/tokenizer/vocab.h"

int ag__job_add(ag__job *j, int32_t id)
{
    if (j->n == j->cap) {
        uint32_t cap = j->cap ? j->cap * 2 : 64; /* at most 2^27: three ids a byte of the longest text */
        int32_t *p = ag_mem_resize(j->ids, cap, sizeof *p);
        if (p == NULL) return AG_E_NOMEM;
        j->ids = p;
        j->cap = cap;
    }
    j->ids[j->n++] = id;
    return AG_OK;
}

/* Scratch grows by half at least, so that a text of ever longer pieces does not ask anew for each. */
static size_t grown(size_t cap, size_t need) { return AG_MAX(need, AG_MAX(cap + cap / 2, (size_t)64)); }

/* n - 1 pairs at first; each merge takes one from the heap and may put two on it: never more than 2n. */
int ag__job_room(ag__job *j, size_t symbols)
{
    if (symbols <= j->symbols_cap) return AG_OK;
    size_t cap = grown(j->symbols_cap, symbols);
    ag__symbol *s = ag_mem_resize(j->symbols, cap, sizeof *s);
    if (s == NULL) return AG_E_NOMEM;
    j->symbols = s;
    uint64_t *h = ag_mem_resize(j->heap, 2 * cap, sizeof *h);
    if (h == NULL) return AG_E_NOMEM;
    j->heap = h;
    j->heap_cap = 2 * cap;
    j->symbols_cap = cap;
    return AG_OK;
}

int ag__job_bytes(ag__job *j, size_t n)
{
    if (n <= j->bytes_cap) return AG_OK;
    size_t cap = grown(j->bytes_cap, n);
    char *p = ag_mem_resize(j->bytes, cap, 1);
    if (p == NULL) return AG_E_NOMEM;
    j->bytes = p;
    j->bytes_cap = cap;
    return AG_OK;
}

/* Text between special tokens. Each stands at the beginning or behind a special token, so each gets the space that SPM
 * puts in front. */
static int add_text(ag__job *j, const char *text, size_t n)
{
    if (n == 0) return AG_OK;
    if (j->t->model == AG__BPE) return ag__bpe_text(j, text, n);
    return ag__spm_text(j, text, n);
}

static bool is_space(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

static int add_all(ag__job *j, const char *text, size_t n, bool parse_special)
{
    const ag__specials *s = parse_special ? &j->t->all : &j->t->user;
    size_t begin = 0, at = 0;
    uint32_t k = 0;
    int rc = AG_OK;
    while (s->n && at < n) {
        while (k < j->n_plain && j->plain[k] < at) k++;
        bool plain = k < j->n_plain && j->plain[k] == at;
        int32_t id = ag__specials_match(j->t, plain ? &j->t->user : s, text, at, n, &j->steps);
        if (id < 0) {
            at++;
            continue;
        }
        rc = add_text(j, text + begin, at - begin);
        if (rc == AG_OK) rc = ag__job_add(j, id);
        if (rc) return rc;
        at += j->t->texts[id].n;
        if (j->t->flags[id] & AG__FLAG_RSTRIP)
            while (at < n && is_space(text[at])) at++;
        begin = at;
    }
    return add_text(j, text + begin, n - begin);
}

static int encode(ag__job *j, const char *text, size_t n, bool add_special, bool parse_special, int32_t **ids,
                  uint32_t *n_ids, ag_err *err)
{
    const ag_tokenizer *t = j->t;
    AG_CHECK(t, AG__MAGIC);
    *ids = NULL;
    *n_ids = 0;
    if (n > AG_TOKENIZER_TEXT_MAX)
        return ag_err_set(err, AG_E_LIMIT, "the text has %zu bytes; at most %u can be tokenized at once", n,
                          AG_TOKENIZER_TEXT_MAX);
    size_t bad = ag_utf8_check(text, n);
    if (bad != SIZE_MAX) return ag_err_set(err, AG_E_UTF8, "the text is not UTF-8 at byte %zu", bad);
    int rc = AG_OK;
    if (add_special && t->adds_bos) rc = ag__job_add(j, t->bos);
    if (rc == AG_OK) rc = add_all(j, text, n, parse_special);
    if (rc == AG_OK && add_special && t->adds_eos) rc = ag__job_add(j, t->eos);
    ag_mem_free(j->symbols);
    ag_mem_free(j->heap);
    ag_mem_free(j->bytes);
    if (rc) {
        ag_mem_free(j->ids);
        return ag_err_set(err, rc, "no memory to tokenize %zu bytes", n);
    }
    *ids = j->ids;
    *n_ids = j->n;
    return AG_OK;
}

int ag__encode(const ag_tokenizer *t, const char *text, size_t n, bool add_special, bool parse_special, int32_t **ids,
               uint32_t *n_ids, uint64_t *steps, ag_err *err)
{
    ag__job j = {.t = t};
    int rc = encode(&j, text, n, add_special, parse_special, ids, n_ids, err);
    if (steps) *steps = j.steps;
    return rc;
}

int ag_tokenizer_encode(const ag_tokenizer *t, const char *text, size_t n_text, bool add_special, bool parse_special,
                        int32_t **ids, uint32_t *n, ag_err *err)
{
    return ag__encode(t, text, n_text, add_special, parse_special, ids, n, NULL, err);
}

int ag_tokenizer_encode_prompt(const ag_tokenizer *t, const char *text, size_t n_text, const uint32_t *plain,
                               uint32_t n_plain, int32_t **ids, uint32_t *n, ag_err *err)
{
    ag__job j = {.t = t, .plain = plain, .n_plain = n_plain};
    return encode(&j, text, n_text, false, true, ids, n, err);
}

bool ag_tokenizer_control_at(const ag_tokenizer *t, const char *text, size_t at, size_t n)
{
    uint64_t steps = 0;
    int32_t id = ag__specials_match(t, &t->all, text, at, n, &steps);
    return id >= 0 && ag__kind(t, id) != AG_TOKEN_USER;
}
