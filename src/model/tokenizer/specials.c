/* Special tokens in text: the longest one that begins at a place, places from left to right. */
#include <stdlib.h>

#include "base/mem.h"
#include "model/tokenizer/vocab.h"

static const ag_tokenizer *of(void *arg) { return arg; }

static int by_bytes(const void *a, const void *b, void *arg)
{
    const ag_tokenizer *t = of(arg);
    ag_str x = t->texts[*(const int32_t *)a], y = t->texts[*(const int32_t *)b];
    int c = memcmp(x.p, y.p, AG_MIN(x.n, y.n));
    return c ? c : (x.n > y.n) - (x.n < y.n);
}

static int make(ag_tokenizer *t, ag__specials *s, unsigned kinds)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < t->n; i++) n += (kinds >> t->kinds[i] & 1) && t->texts[i].n > 0;
    s->ids = ag_mem_array(n, sizeof *s->ids);
    if (s->ids == NULL) return AG_E_NOMEM;
    for (uint32_t i = 0; i < t->n; i++)
        if ((kinds >> t->kinds[i] & 1) && t->texts[i].n > 0) s->ids[s->n++] = (int32_t)i;
    qsort_r(s->ids, s->n, sizeof *s->ids, by_bytes, t);
    uint32_t k = 0;
    for (unsigned b = 0; b < 256; b++) {
        s->begin[b] = k;
        while (k < s->n && (uint8_t)t->texts[s->ids[k]].p[0] == b) k++;
    }
    s->begin[256] = k;
    return AG_OK;
}

/* Unused tokens are in neither list: text never becomes one. */
int ag__specials_make(ag_tokenizer *t, ag_err *err)
{
    unsigned user = 1u << AG_TOKEN_USER, all = user | 1u << AG_TOKEN_CONTROL | 1u << AG_TOKEN_UNKNOWN;
    int rc = make(t, &t->all, all);
    if (rc == AG_OK) rc = make(t, &t->user, user);
    return rc ? ag_err_set(err, rc, "no memory for the special tokens") : AG_OK;
}

void ag__specials_fini(ag__specials *s)
{
    ag_mem_free(s->ids);
    s->ids = NULL;
}

/* The first of ids[lo..hi), which agree in `depth` bytes and are longer, whose next byte is at least (or, with `above`,
 * greater than) b. */
static uint32_t bound(const ag_tokenizer *t, const ag__specials *s, uint32_t lo, uint32_t hi, size_t depth, uint8_t b,
                      bool above, uint64_t *steps)
{
    while (lo < hi) {
        uint32_t mid = lo + (hi - lo) / 2;
        uint8_t c = (uint8_t)t->texts[s->ids[mid]].p[depth];
        ++*steps;
        if (c < b || (above && c == b)) lo = mid + 1;
        else hi = mid;
    }
    return lo;
}

int32_t ag__specials_match(const ag_tokenizer *t, const ag__specials *s, const char *text, size_t at, size_t n,
                           uint64_t *steps)
{
    uint8_t b = (uint8_t)text[at];
    uint32_t lo = s->begin[b], hi = s->begin[b + 1];
    int32_t best = -1;
    for (size_t depth = 1; lo < hi; depth++) {
        if (t->texts[s->ids[lo]].n == depth) best = s->ids[lo++]; /* the shortest of those that agree is the first */
        if (at + depth >= n) break;
        b = (uint8_t)text[at + depth];
        lo = bound(t, s, lo, hi, depth, b, false, steps);
        hi = bound(t, s, lo, hi, depth, b, true, steps);
    }
    return best;
}
