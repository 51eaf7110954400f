#include "model/tokenizer/pre.h"

static ag__char char_at(const ag__view *v, size_t at)
{
    if (at >= v->end) return (ag__char){0, 0, 0};
    ++*v->steps;
    return ag__char_at(v->text + at);
}

static bool has(const ag__class *c, const ag__char *ch) { return ch->n && ag__class_has(c, ch); }

/* Where the characters of `c` that begin at `at` stop; at most `max` of them (0: any number). */
static size_t run_end(const ag__view *v, const ag__class *c, size_t at, uint32_t max, uint32_t *count)
{
    uint32_t k = 0;
    while (max == 0 || k < max) {
        ag__char ch = char_at(v, at);
        if (!has(c, &ch)) break;
        at += ch.n;
        k++;
    }
    *count = k;
    return at;
}

static size_t run_from(const ag__rule *r, const ag__view *v, size_t at)
{
    uint32_t k, min = r->min ? r->min : 1;
    size_t end = run_end(v, r->body, at, r->max, &k);
    if (k < min) return at;
    return r->tail ? run_end(v, r->tail, end, 0, &k) : end;
}

/* lead? body{min,max} tail* */
size_t ag__rule_run(const ag__rule *r, const ag__view *v, size_t at, const ag__char *first)
{
    if (r->lead && has(r->lead, first)) {
        size_t body = at + first->n, end = run_from(r, v, body);
        if (end > body) return end;
    }
    if (r->lead_needed || !has(r->body, first)) return at;
    return run_from(r, v, at);
}

/* 's 't 're 've 'm 'll 'd. In any case, U+017F is an s too: Unicode's simple folding says so. */
static size_t contraction(const ag__view *v, size_t at, const ag__char *first, bool any_case)
{
    if (first->cp != '\'' || first->n == 0) return at;
    uint32_t c[2];
    size_t end[2], p = at + 1;
    for (int i = 0; i < 2; i++) {
        ag__char ch = char_at(v, p);
        c[i] = ch.n ? ch.cp : 0;
        if (any_case && c[i] >= 'A' && c[i] <= 'Z') c[i] += 'a' - 'A';
        if (any_case && c[i] == 0x17f) c[i] = 's';
        end[i] = p += ch.n;
    }
    if (c[0] == 's' || c[0] == 't' || c[0] == 'm' || c[0] == 'd') return end[0];
    if ((c[0] == 'r' && c[1] == 'e') || (c[0] == 'v' && c[1] == 'e') || (c[0] == 'l' && c[1] == 'l')) return end[1];
    return at;
}

size_t ag__rule_contraction(const ag__rule *r, const ag__view *v, size_t at, const ag__char *first)
{
    (void)r;
    return contraction(v, at, first, false);
}

size_t ag__rule_contraction_any_case(const ag__rule *r, const ag__view *v, size_t at, const ag__char *first)
{
    (void)r;
    return contraction(v, at, first, true);
}

/* Letters that can stand before the small ones, and the small ones; caseless letters and marks are both. */
static const ag__class upper = {.mask = AG__CAT(LU) | AG__CAT(LT) | AG__CAT(LM) | AG__CAT(LO) | AG__MARK};
static const ag__class lower = {.mask = AG__CAT(LL) | AG__CAT(LM) | AG__CAT(LO) | AG__MARK};

/* upper* lower+ with the greedy star given back one character at a time, as an expression would: the last character of
 * the upper run that is also lower, then the lower run from there. */
static size_t cased_small(const ag__view *v, size_t at)
{
    size_t p = at, both = SIZE_MAX;
    ag__char ch;
    for (;;) {
        ch = char_at(v, p);
        if (!has(&upper, &ch)) break;
        if (has(&lower, &ch)) both = p;
        p += ch.n;
    }
    uint32_t k;
    if (has(&lower, &ch)) return run_end(v, &lower, p, 0, &k);
    return both == SIZE_MAX ? at : run_end(v, &lower, both, 0, &k);
}

/* upper+ lower* */
static size_t cased_large(const ag__view *v, size_t at)
{
    uint32_t k;
    size_t p = run_end(v, &upper, at, 0, &k);
    return k ? run_end(v, &lower, p, 0, &k) : at;
}

/* lead? upper* lower+ | lead? upper+ lower*, each with its contraction where the rule has one */
size_t ag__rule_cased(const ag__rule *r, const ag__view *v, size_t at, const ag__char *first)
{
    size_t (*const form[2])(const ag__view *, size_t) = {cased_small, cased_large};
    bool lead = has(r->lead, first);
    for (int i = 0; i < 2; i++) {
        for (int with = lead; with >= 0; with--) {
            size_t body = with ? at + first->n : at, end = form[i](v, body);
            if (end == body) continue;
            if (!r->suffix) return end;
            ag__char ch = char_at(v, end);
            return contraction(v, end, &ch, true);
        }
    }
    return at;
}

static const ag__class space = {.mask = AG__SPACE};

/* \s*[\r\n]+ : up to the last line end of the row of spaces */
size_t ag__rule_newlines(const ag__rule *r, const ag__view *v, size_t at, const ag__char *first)
{
    (void)r;
    size_t end = at;
    ag__char ch = *first;
    for (size_t p = at; has(&space, &ch); ch = char_at(v, p)) {
        p += ch.n;
        if (ch.mask & AG__CRLF) end = p;
    }
    return end;
}

/* \s+(?!\S) : all but the last space before something, all of them at the end */
size_t ag__rule_spaces_not_last(const ag__rule *r, const ag__view *v, size_t at, const ag__char *first)
{
    (void)r;
    size_t p = at, last = at;
    for (ag__char ch = *first; has(&space, &ch); ch = char_at(v, p)) {
        last = p;
        p += ch.n;
    }
    return p == v->end ? p : last;
}

/* \s+ */
size_t ag__rule_spaces(const ag__rule *r, const ag__view *v, size_t at, const ag__char *first)
{
    (void)r;
    uint32_t k;
    return has(&space, first) ? run_end(v, &space, at, 0, &k) : at;
}

/* \s+$ : only the first space of a row is worth a look, since a row that does not reach the end never will */
size_t ag__rule_spaces_at_end(const ag__rule *r, const ag__view *v, size_t at, const ag__char *first)
{
    (void)r;
    if (!has(&space, first)) return at;
    if (at > v->begin) {
        size_t p = at - 1;
        while (((unsigned char)v->text[p] & 0xc0) == 0x80) p--;
        ag__char before = char_at(v, p);
        if (has(&space, &before)) return at;
    }
    uint32_t k;
    size_t end = run_end(v, &space, at, 0, &k);
    return end == v->end ? end : at;
}

typedef struct cut {
    const ag__pre *pre;
    const char *text;
    ag__piece_fn *piece;
    void *arg;
    uint64_t *steps;
} cut;

static int cut_pass(const cut *c, uint32_t pass, size_t begin, size_t end)
{
    if (pass == c->pre->n_passes) return c->piece(c->arg, c->text + begin, end - begin);
    const ag__pass *ps = &c->pre->passes[pass];
    const ag__view v = {c->text, begin, end, c->steps};
    size_t gap = begin, at = begin;
    int rc = 0;
    while (at < end && rc == 0) {
        ag__char ch = char_at(&v, at);
        size_t stop = at;
        for (uint32_t i = 0; i < ps->n && stop == at; i++) stop = ps->rules[i].match(&ps->rules[i], &v, at, &ch);
        if (stop == at) {
            at += ch.n;
            continue;
        }
        if (gap < at) rc = cut_pass(c, pass + 1, gap, at);
        if (rc == 0) rc = cut_pass(c, pass + 1, at, stop);
        at = gap = stop;
    }
    if (rc == 0 && gap < end) rc = cut_pass(c, pass + 1, gap, end);
    return rc;
}

int ag__pre_split(const ag__pre *p, const char *text, size_t n, ag__piece_fn *piece, void *arg, uint64_t *steps)
{
    const cut c = {p, text, piece, arg, steps};
    return n ? cut_pass(&c, 0, 0, n) : 0;
}
