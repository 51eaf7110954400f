#include <stdlib.h>

#include "base/mem.h"
#include "engine/json.h"

#define VOCAB_MAGIC 0x4a564f43u

/* A trie's nodes stand in the order in which they are walked; a branch that cannot be is left by going on at `end`. */
typedef struct node {
    uint32_t end;    /* behind the last node below it */
    uint32_t token;  /* in ids: the first of `tokens` that end here */
    uint16_t tokens;
    uint8_t byte, depth;
} node;

typedef struct trie {
    node *nodes;
    uint32_t n;
} trie;

struct ag_json_vocab {
    uint32_t magic, size;
    uint32_t *ids;     /* of all tokens, by their bytes */
    uint64_t *plain;   /* a bit for each that changes nothing inside of a string: nearly all of them */
    trie inner, outer; /* of those, and of the others */
    bool halves;       /* a token may end inside of a character: there are tokens for the bytes that complete it */
};

typedef struct word {
    ag_str s;
    uint32_t id;
    bool plain;
} word;

static int by_kind_and_bytes(const void *pa, const void *pb)
{
    const word *a = pa, *b = pb;
    if (a->plain != b->plain) return a->plain ? -1 : 1;
    int c = memcmp(a->s.p, b->s.p, AG_MIN(a->s.n, b->s.n));
    if (c != 0) return c;
    if (a->s.n != b->s.n) return a->s.n < b->s.n ? -1 : 1;
    return a->id < b->id ? -1 : 1;
}

/* Whether a string stays one all through it and afterwards. */
static bool is_plain(ag_str s)
{
    ag_json j, inside;
    ag_json_init(&j);
    ag_json_take(&j, '{');
    ag_json_take(&j, '"');
    inside = j;
    for (size_t i = 0; i < s.n; i++)
        if (s.p[i] == '"' || s.p[i] == '\\' || !ag_json_take(&j, (unsigned char)s.p[i])) return false;
    return j.at == inside.at;
}

static uint32_t words_of(const ag_tokenizer *t, word *words)
{
    uint32_t n = 0;
    for (uint32_t id = 0; id < ag_tokenizer_size(t); id++) {
        ag_str s = ag_tokenizer_piece(t, (int32_t)id, false);
        if (s.n && s.n <= AG_JSON_TOKEN_MAX) words[n++] = (word){s, id, is_plain(s)};
    }
    qsort(words, n, sizeof *words, by_kind_and_bytes);
    return n;
}

static uint32_t common(ag_str a, ag_str b)
{
    uint32_t n = 0;
    while (n < a.n && n < b.n && a.p[n] == b.p[n]) n++;
    return n;
}

/* words[from..to) are sorted, so that each goes on where the one before it has a beginning in common with it. */
static bool trie_build(trie *t, const word *words, uint32_t from, uint32_t to)
{
    uint32_t path[AG_JSON_TOKEN_MAX + 1], depth = 0, count = 0;
    for (uint32_t i = from; i < to; i++)
        count += (uint32_t)words[i].s.n - (i > from ? common(words[i - 1].s, words[i].s) : 0);
    if ((t->nodes = ag_mem_array(count, sizeof *t->nodes)) == NULL) return false;
    for (uint32_t i = from; i < to; i++) {
        ag_str s = words[i].s;
        uint32_t same = i > from ? common(words[i - 1].s, s) : 0;
        while (depth > same) t->nodes[path[--depth]].end = t->n;
        while (depth < s.n) {
            t->nodes[t->n] = (node){.byte = (uint8_t)s.p[depth], .depth = (uint8_t)depth, .token = i};
            path[depth++] = t->n++;
        }
        t->nodes[path[depth - 1]].tokens++;
    }
    while (depth > 0) t->nodes[path[--depth]].end = t->n;
    return true;
}

/* Closing an object from wherever it is takes these. */
static bool closes(const word *words, uint32_t n, bool *halves)
{
    bool has[256] = {false};
    for (uint32_t i = 0; i < n; i++)
        if (words[i].s.n == 1) has[(unsigned char)words[i].s.p[0]] = true;
    *halves = true;
    for (int c = 0x80; c <= 0xBF; c++) *halves = *halves && has[c];
    for (const char *z = "{}]\":01nrualse"; *z; z++)
        if (!has[(unsigned char)*z]) return false;
    return true;
}

int ag_json_vocab_open(ag_json_vocab **out, const ag_tokenizer *t, ag_err *err)
{
    uint32_t size = ag_tokenizer_size(t), n = 0, n_plain = 0;
    ag_json_vocab *v = ag_mem_zalloc(sizeof *v);
    word *words = ag_mem_array(size, sizeof *words);
    bool ok = v && words;
    if (v) v->magic = VOCAB_MAGIC;
    if (ok) {
        v->size = size;
        n = words_of(t, words);
        while (n_plain < n && words[n_plain].plain) n_plain++;
        if (!closes(words, n, &v->halves)) {
            ag_mem_free(words);
            ag_json_vocab_close(v);
            return ag_err_set(err, AG_E_UNSUPPORTED,
                              "this model's vocabulary has no tokens for single letters, so that no JSON can be enforced");
        }
        v->ids = ag_mem_array(n, sizeof *v->ids);
        v->plain = ag_mem_array((size + 63) / 64, sizeof *v->plain);
        ok = v->ids && v->plain && trie_build(&v->inner, words, 0, n_plain) && trie_build(&v->outer, words, n_plain, n);
    }
    for (uint32_t i = 0; i < n && ok; i++) {
        v->ids[i] = words[i].id;
        if (words[i].plain) v->plain[words[i].id / 64] |= 1ull << words[i].id % 64;
    }
    ag_mem_free(words);
    if (ok) {
        *out = v;
        return AG_OK;
    }
    ag_json_vocab_close(v);
    return ag_err_set(err, AG_E_NOMEM, "no memory for a vocabulary of %u tokens as a trie", size);
}

void ag_json_vocab_close(ag_json_vocab *v)
{
    if (v == NULL) return;
    AG_CHECK(v, VOCAB_MAGIC);
    v->magic = 0;
    ag_mem_free(v->ids);
    ag_mem_free(v->plain);
    ag_mem_free(v->inner.nodes);
    ag_mem_free(v->outer.nodes);
    ag_mem_free(v);
}

static void walk(const ag_json_vocab *v, const trie *t, const ag_json *from, uint32_t left, uint64_t *allowed)
{
    ag_json path[AG_JSON_TOKEN_MAX + 1];
    path[0] = *from;
    for (uint32_t i = 0; i < t->n;) {
        const node *x = &t->nodes[i];
        ag_json *j = &path[x->depth + 1];
        *j = path[x->depth];
        if (!ag_json_take(j, x->byte)) {
            i = x->end;
            continue;
        }
        i++;
        if (x->tokens == 0 || ag_json_cost(j) >= left || (!v->halves && ag_json_in_character(j))) continue;
        for (uint32_t k = 0; k < x->tokens; k++)
            allowed[v->ids[x->token + k] / 64] |= 1ull << v->ids[x->token + k] % 64;
    }
}

void ag_json_allow(const ag_json_vocab *v, const ag_json *j, uint32_t left, uint64_t *allowed, uint32_t n)
{
    AG_CHECK(v, VOCAB_MAGIC);
    AG_ASSERT(n >= v->size);
    memset(allowed, 0, (n + 63) / 64 * sizeof *allowed);
    if (!ag_json_in_string(j)) walk(v, &v->inner, j, left, allowed);
    else if (ag_json_cost(j) < left) memcpy(allowed, v->plain, (v->size + 63) / 64 * sizeof *allowed);
    walk(v, &v->outer, j, left, allowed);
}
