/* Methods of strings that look into text: case, stripping, splitting, searching, replacing. */
#include "model/template/uni.h"
#include "model/template/value.h"

bool ag__arg_int(ag_tr *r, ag_tv v, int64_t dflt, int64_t *out)
{
    *out = dflt;
    return v.type == AG_TV_MISSING || ag__op_int(r, v, out);
}

bool ag__arg_str(ag_tr *r, ag_tv v, const char *what, ag_str *out)
{
    if (v.type != AG_TV_STR) {
        ag__tr_type_error(r, "%s must be str, not %s", what, ag__tv_type_name(v));
        return false; /* said outright: inlined, gcc -O2 then sees that *out is set wherever it is read */
    }
    *out = ag__tv_text(v);
    return true;
}

/* A part of self, as Markup when self is. */
static bool part(ag_tr *r, ag_tv self, const char *p, size_t n, ag_tv *out)
{
    if (!ag__tv_borrow(r, p, n, out)) return false;
    out->flags = self.flags;
    return true;
}

static bool done(ag_tsink *s, ag_tv self, ag_tv *out)
{
    if (!ag__sink_end(s, out)) return false;
    out->flags = self.flags;
    return true;
}

static bool map_one(ag_tsink *s, ag_str t, const char **p, ag_uni_case to)
{
    uint32_t out[3];
    const char *at = *p, *end = t.p + t.n;
    uint32_t cp = ag__uni_next(p, end);
    if (to == AG_UNI_LOWER && cp == 0x3A3) return ag__sink_cp(s, ag__uni_final_sigma(t.p, at, end) ? 0x3C2 : 0x3C3);
    int n = ag__uni_map(cp, to, out);
    for (int i = 0; i < n; i++) ag__sink_cp(s, out[i]);
    return !s->failed;
}

static bool map_all(ag_tr *r, ag_tv self, ag_uni_case to, ag_tv *out)
{
    ag_tsink s;
    ag_str t = ag__tv_text(self);
    ag__sink_begin(r, &s);
    for (const char *p = t.p; p < t.p + t.n && !s.failed;) map_one(&s, t, &p, to);
    return done(&s, self, out);
}

#define METHOD(name) \
    static bool name(ag_tr *r, ag_tv self, const ag_tv *a, const ag_targs *all AG_UNUSED, ag_tv *out)
#define METHOD0(name) \
    static bool name(ag_tr *r, ag_tv self, const ag_tv *a AG_UNUSED, const ag_targs *all AG_UNUSED, ag_tv *out)

METHOD0(m_upper) { return map_all(r, self, AG_UNI_UPPER, out); }
METHOD0(m_lower) { return map_all(r, self, AG_UNI_LOWER, out); }
METHOD0(m_casefold) { return map_all(r, self, AG_UNI_FOLD, out); }

METHOD0(m_swapcase)
{
    ag_tsink s;
    ag_str t = ag__tv_text(self);
    ag__sink_begin(r, &s);
    for (const char *p = t.p; p < t.p + t.n && !s.failed;) {
        const char *q = p;
        uint32_t cp = ag__uni_next(&q, t.p + t.n);
        if (ag__uni_upper(cp)) map_one(&s, t, &p, AG_UNI_LOWER);
        else if (ag__uni_lower(cp)) map_one(&s, t, &p, AG_UNI_UPPER);
        else ag__sink_add(&s, p, (size_t)(q - p)), p = q;
    }
    return done(&s, self, out);
}

METHOD0(m_capitalize)
{
    ag_tsink s;
    ag_str t = ag__tv_text(self);
    ag__sink_begin(r, &s);
    for (const char *p = t.p; p < t.p + t.n && !s.failed;) map_one(&s, t, &p, p == t.p ? AG_UNI_TITLE : AG_UNI_LOWER);
    return done(&s, self, out);
}

METHOD0(m_title)
{
    ag_tsink s;
    ag_str t = ag__tv_text(self);
    bool inside = false;
    ag__sink_begin(r, &s);
    for (const char *p = t.p; p < t.p + t.n && !s.failed;) {
        const char *q = p;
        bool cased = ag__uni_cased(ag__uni_next(&q, t.p + t.n));
        map_one(&s, t, &p, inside ? AG_UNI_LOWER : AG_UNI_TITLE);
        inside = cased;
    }
    return done(&s, self, out);
}

static bool in_chars(ag_str chars, const char *p, size_t n)
{
    for (const char *q = chars.p; q < chars.p + chars.n;) {
        const char *from = q;
        ag__uni_next(&q, chars.p + chars.n);
        if ((size_t)(q - from) == n && memcmp(from, p, n) == 0) return true;
    }
    return false;
}

static bool strip(ag_tr *r, ag_tv self, ag_tv arg, bool left, bool right, ag_tv *out)
{
    const char *p = self.s->p, *end = p + self.s->n;
    if (arg.type == AG_TV_MISSING || arg.type == AG_TV_NONE) {
        if (left) p = ag__uni_strip_left(p, end);
        if (right) end = ag__uni_strip_right(p, end);
        return ag__tr_work(r, self.s->n - (size_t)(end - p)) && part(r, self, p, (size_t)(end - p), out);
    }
    ag_str chars;
    if (!ag__arg_str(r, arg, "strip arg", &chars)) return false;
    while (left && p < end) {
        const char *q = p;
        ag__uni_next(&q, end);
        if (!ag__tr_work(r, chars.n)) return false;
        if (!in_chars(chars, p, (size_t)(q - p))) break;
        p = q;
    }
    while (right && end > p) {
        const char *q = end;
        ag__uni_prev(p, &q);
        if (!ag__tr_work(r, chars.n)) return false;
        if (!in_chars(chars, q, (size_t)(end - q))) break;
        end = q;
    }
    return part(r, self, p, (size_t)(end - p), out);
}

METHOD(m_strip) { return strip(r, self, a[0], true, true, out); }
METHOD(m_lstrip) { return strip(r, self, a[0], true, false, out); }
METHOD(m_rstrip) { return strip(r, self, a[0], false, true, out); }

static bool split_push(ag_tr *r, ag_tv self, ag_tlist *l, const char *p, size_t n)
{
    ag_tv v;
    return part(r, self, p, n, &v) && ag__tv_list_add(r, l, v);
}

static bool split_space(ag_tr *r, ag_tv self, int64_t max, ag_tlist *l)
{
    const char *p = self.s->p, *end = p + self.s->n;
    while ((p = ag__uni_strip_left(p, end)) < end) {
        const char *q = p;
        if (max-- == 0) return split_push(r, self, l, p, (size_t)(ag__uni_strip_right(p, end) - p));
        while (q < end) {
            const char *next = q;
            if (ag__uni_space(ag__uni_next(&next, end))) break;
            q = next;
        }
        if (!split_push(r, self, l, p, (size_t)(q - p))) return false;
        p = q;
    }
    return true;
}

static bool rsplit_space(ag_tr *r, ag_tv self, int64_t max, ag_tlist *l)
{
    const char *begin = self.s->p, *end = begin + self.s->n;
    while ((end = ag__uni_strip_right(begin, end)) > begin) {
        const char *q = end;
        if (max-- == 0) {
            q = ag__uni_strip_left(begin, end);
            return split_push(r, self, l, q, (size_t)(end - q));
        }
        while (q > begin) {
            const char *prev = q;
            if (ag__uni_space(ag__uni_prev(begin, &prev))) break;
            q = prev;
        }
        if (!split_push(r, self, l, q, (size_t)(end - q))) return false;
        end = q;
    }
    return true;
}

/* A limit passed on the way is found at the next step. */
static const char *find_last(ag_tr *r, const char *p, size_t n, ag_str sep)
{
    if (sep.n > n) return NULL;
    for (const char *q = p + n - sep.n;; q--) {
        if (sep.n == 0) return q;
        if (*q == *sep.p) {
            if (!ag__tr_work(r, sep.n)) return NULL;
            if (memcmp(q, sep.p, sep.n) == 0) return q;
        }
        if (q == p) return NULL;
    }
}

static bool split_at(ag_tr *r, ag_tv self, ag_str sep, int64_t max, bool from_right, ag_tlist *l)
{
    const char *p = self.s->p, *end = p + self.s->n, *hit;
    while (max-- != 0) {
        hit = from_right ? find_last(r, p, (size_t)(end - p), sep) : memmem(p, (size_t)(end - p), sep.p, sep.n);
        if (hit == NULL) break;
        const char *from = from_right ? hit + sep.n : p;
        if (!split_push(r, self, l, from, (size_t)((from_right ? end : hit) - from))) return false;
        if (from_right) end = hit;
        else p = hit + sep.n;
    }
    return split_push(r, self, l, p, (size_t)(end - p));
}

static bool split(ag_tr *r, ag_tv self, const ag_tv *a, bool from_right, ag_tv *out)
{
    int64_t max;
    ag_str sep = {NULL, 0};
    bool space = a[0].type == AG_TV_MISSING || a[0].type == AG_TV_NONE, ok;
    if (!ag__arg_int(r, a[1], -1, &max) || !ag__tr_work(r, self.s->n) || !ag__tv_list(r, AG_TV_LIST, 0, out)) {
        return false;
    }
    if (!space && !ag__arg_str(r, a[0], "sep", &sep)) return false;
    if (!space && sep.n == 0) return ag__tr_fail(r, AG_TEMPLATE_RUNTIME, "ValueError: empty separator");
    if (!space) ok = split_at(r, self, sep, max, from_right, out->l);
    else ok = from_right ? rsplit_space(r, self, max, out->l) : split_space(r, self, max, out->l);
    for (size_t i = 0; ok && from_right && i < out->l->n / 2; i++) {
        ag_tv swap = out->l->p[i];
        out->l->p[i] = out->l->p[out->l->n - 1 - i];
        out->l->p[out->l->n - 1 - i] = swap;
    }
    return ok;
}

METHOD(m_split) { return split(r, self, a, false, out); }
METHOD(m_rsplit) { return split(r, self, a, true, out); }

METHOD(m_splitlines)
{
    bool keep = a[0].type != AG_TV_MISSING && ag__tv_true(a[0]);
    const char *p = self.s->p, *end = p + self.s->n;
    if (!ag__tv_list(r, AG_TV_LIST, 0, out)) return false;
    while (p < end) {
        const char *q = p, *stop = p;
        while (q < end) {
            stop = q;
            uint32_t cp = ag__uni_next(&q, end);
            if (cp == '\r' && q < end && *q == '\n') q++;
            if (ag__uni_line_end(cp)) break;
            stop = q;
        }
        if (!split_push(r, self, out->l, p, (size_t)((keep ? q : stop) - p))) return false;
        p = q;
    }
    return ag__tr_work(r, self.s->n);
}

/* The bytes [*from, *to) of self that the optional start and end arguments name. False: an error. */
static bool bounds(ag_tr *r, ag_tv self, const ag_tv *a, size_t *from, size_t *to, bool *empty)
{
    bool whole = a[0].type == AG_TV_MISSING && a[1].type == AG_TV_MISSING;
    *from = 0;
    *to = self.s->n;
    *empty = false;
    if (whole) return true;
    if (!ag__tr_work(r, self.s->n)) return false;
    int64_t n = ag__tv_chars(r, self), b = 0, e = n;
    for (int i = 0; i < 2; i++) {
        if (a[i].type == AG_TV_MISSING || a[i].type == AG_TV_NONE) continue;
        if (!ag__op_int(r, a[i], i ? &e : &b)) return false;
    }
    if (b < 0) b = AG_MAX(b + n, (int64_t)0);
    if (e < 0) e = AG_MAX(e + n, (int64_t)0);
    *empty = b > n || AG_MIN(e, n) < b;
    *from = *empty ? 0 : ag__uni_offset(self.s->p, self.s->n, (size_t)b);
    *to = *empty ? 0 : ag__uni_offset(self.s->p, self.s->n, (size_t)AG_MIN(e, n));
    return true;
}

static bool search(ag_tr *r, ag_tv self, const ag_tv *a, bool last, int64_t *at)
{
    ag_str sub;
    size_t from, to;
    bool empty;
    *at = -1;
    if (!ag__arg_str(r, a[0], "argument", &sub) || !bounds(r, self, a + 1, &from, &to, &empty)) return false;
    if (empty || !ag__tr_work(r, self.s->n)) return !r->rc;
    const char *p = self.s->p + from;
    const char *hit = last ? find_last(r, p, to - from, sub) : sub.n == 0 ? p : memmem(p, to - from, sub.p, sub.n);
    if (hit) *at = (int64_t)ag__uni_count(self.s->p, (size_t)(hit - self.s->p));
    return true;
}

METHOD(m_find)
{
    int64_t at;
    bool ok = search(r, self, a, false, &at);
    *out = ag__tv_int(at);
    return ok;
}

METHOD(m_rfind)
{
    int64_t at;
    bool ok = search(r, self, a, true, &at);
    *out = ag__tv_int(at);
    return ok;
}

METHOD(m_index)
{
    if (!m_find(r, self, a, all, out)) return false;
    return out->i >= 0 || ag__tr_fail(r, AG_TEMPLATE_RUNTIME, "ValueError: substring not found");
}

METHOD(m_rindex)
{
    if (!m_rfind(r, self, a, all, out)) return false;
    return out->i >= 0 || ag__tr_fail(r, AG_TEMPLATE_RUNTIME, "ValueError: substring not found");
}

METHOD(m_count)
{
    ag_str sub;
    size_t from, to;
    bool empty;
    int64_t n = 0;
    if (!ag__arg_str(r, a[0], "argument", &sub) || !bounds(r, self, a + 1, &from, &to, &empty)) return false;
    const char *p = self.s->p + from, *end = self.s->p + to, *hit;
    if (!empty && sub.n == 0) n = (int64_t)ag__uni_count(p, to - from) + 1;
    while (!empty && sub.n && (hit = memmem(p, (size_t)(end - p), sub.p, sub.n))) {
        n++;
        p = hit + sub.n;
    }
    *out = ag__tv_int(n);
    return ag__tr_work(r, self.s->n);
}

static bool affix(ag_tr *r, ag_tv self, ag_tv what, const ag_tv *range, bool end, bool *out)
{
    ag_str s;
    size_t from, to;
    bool empty;
    if (!ag__arg_str(r, what, "startswith first arg", &s) || !bounds(r, self, range, &from, &to, &empty)) return false;
    *out = !empty && s.n <= to - from && (s.n == 0 || memcmp(self.s->p + (end ? to - s.n : from), s.p, s.n) == 0);
    return true;
}

static bool with_affix(ag_tr *r, ag_tv self, const ag_tv *a, bool end, ag_tv *out)
{
    bool yes = false;
    if (a[0].type == AG_TV_TUPLE) {
        for (size_t i = 0; !yes && i < a[0].l->n; i++) {
            if (!affix(r, self, a[0].l->p[i], a + 1, end, &yes)) return false;
        }
    } else if (!affix(r, self, a[0], a + 1, end, &yes)) {
        return false;
    }
    *out = ag__tv_bool(yes);
    return true;
}

METHOD(m_startswith) { return with_affix(r, self, a, false, out); }
METHOD(m_endswith) { return with_affix(r, self, a, true, out); }

static bool without_affix(ag_tr *r, ag_tv self, ag_tv what, bool end, ag_tv *out)
{
    const ag_tv none[2] = {AG_TV(AG_TV_MISSING), AG_TV(AG_TV_MISSING)};
    bool yes;
    if (!affix(r, self, what, none, end, &yes)) return false;
    size_t n = yes ? what.s->n : 0;
    return part(r, self, self.s->p + (end ? 0 : n), self.s->n - n, out);
}

METHOD(m_removeprefix) { return without_affix(r, self, a[0], false, out); }
METHOD(m_removesuffix) { return without_affix(r, self, a[0], true, out); }

METHOD(m_replace)
{
    int64_t max;
    ag_tv to = a[1];
    ag_str old, with;
    if (!ag__arg_int(r, a[2], -1, &max) || !ag__arg_str(r, a[0], "replace() argument 1", &old)) return false;
    if (!ag__arg_str(r, to, "replace() argument 2", &with)) return false;
    if (self.flags & AG_TV_MARKUP) {
        if (!ag__tv_escape(r, to, &to)) return false;
        with = ag__tv_text(to);
    }
    ag_tsink s;
    ag__sink_begin(r, &s);
    const char *p = self.s->p, *end = p + self.s->n;
    while (max != 0 && !s.failed) {
        const char *hit = old.n ? memmem(p, (size_t)(end - p), old.p, old.n) : p;
        if (hit == NULL) break;
        ag__sink_add(&s, p, (size_t)(hit - p));
        ag__sink_add(&s, with.p, with.n);
        p = hit + old.n;
        max--;
        if (old.n) continue;
        if (p == end) break;
        const char *q = p;
        ag__uni_next(&q, end);
        ag__sink_add(&s, p, (size_t)(q - p));
        p = q;
    }
    if (!ag__tr_work(r, self.s->n)) return false;
    if (s.grow == NULL && p == self.s->p) { /* nothing found: no copy */
        *out = self;
        return true;
    }
    ag__sink_add(&s, p, (size_t)(end - p));
    return done(&s, self, out);
}

static bool partition(ag_tr *r, ag_tv self, ag_tv arg, bool last, ag_tv *out)
{
    ag_str sep;
    if (!ag__arg_str(r, arg, "sep", &sep) || !ag__tv_list(r, AG_TV_TUPLE, 3, out)) return false;
    if (sep.n == 0) return ag__tr_fail(r, AG_TEMPLATE_RUNTIME, "ValueError: empty separator");
    const char *p = self.s->p, *end = p + self.s->n;
    const char *hit = last ? find_last(r, p, self.s->n, sep) : memmem(p, self.s->n, sep.p, sep.n);
    const char *cut = hit ? hit : last ? p : end, *after = hit ? hit + sep.n : cut;
    ag_tv *v = out->l->p;
    return ag__tr_work(r, self.s->n) && part(r, self, p, (size_t)(cut - p), &v[0]) &&
           part(r, self, cut, (size_t)(after - cut), &v[1]) && part(r, self, after, (size_t)(end - after), &v[2]);
}

METHOD(m_partition) { return partition(r, self, a[0], false, out); }
METHOD(m_rpartition) { return partition(r, self, a[0], true, out); }

METHOD(m_join)
{
    ag_titer *it = ag__iter_open(r, a[0]);
    ag_tsink s;
    ag_tv v;
    int rc = -1;
    ag__sink_begin(r, &s);
    for (size_t i = 0; it && (rc = ag__iter_next(r, it, &v)) == 1; i++) {
        if (self.flags & AG_TV_MARKUP) {
            if (!ag__tv_escape(r, v, &v)) return false;
        } else if (v.type != AG_TV_STR) {
            return ag__tr_type_error(r, "sequence item %zu: expected str instance, %s found", i, ag__tv_type_name(v));
        }
        if ((i && !ag__sink_add(&s, self.s->p, self.s->n)) || !ag__sink_add(&s, v.s->p, v.s->n)) return false;
    }
    return rc == 0 && done(&s, self, out);
}

const ag_tfunc ag__str_methods[] = {
    {"upper", "/", 0, m_upper},           {"lower", "/", 0, m_lower},
    {"casefold", "/", 0, m_casefold},     {"swapcase", "/", 0, m_swapcase},
    {"capitalize", "/", 0, m_capitalize}, {"title", "/", 0, m_title},
    {"strip", "/chars", 0, m_strip},      {"lstrip", "/chars", 0, m_lstrip},
    {"rstrip", "/chars", 0, m_rstrip},    {"split", "sep maxsplit", 0, m_split},
    {"rsplit", "sep maxsplit", 0, m_rsplit}, {"splitlines", "keepends", 0, m_splitlines},
    {"find", "/sub start end", 1, m_find},   {"rfind", "/sub start end", 1, m_rfind},
    {"index", "/sub start end", 1, m_index}, {"rindex", "/sub start end", 1, m_rindex},
    {"count", "/sub start end", 1, m_count}, {"startswith", "/prefix start end", 1, m_startswith},
    {"endswith", "/suffix start end", 1, m_endswith}, {"removeprefix", "/prefix", 1, m_removeprefix},
    {"removesuffix", "/suffix", 1, m_removesuffix},   {"replace", "/old new count", 2, m_replace},
    {"partition", "/sep", 1, m_partition}, {"rpartition", "/sep", 1, m_rpartition},
    {"join", "/iterable", 1, m_join},      {NULL, NULL, 0, NULL},
};

bool ag__str_method(ag_tr *r, ag_tv self, const char *name, const ag_tv *a, uint32_t n, ag_tv *out)
{
    const ag_tfunc *fn = ag__table_find(ag__str_methods, ag_str_of(name));
    if (fn == NULL) fn = ag__table_find(ag__str_methods_more, ag_str_of(name));
    AG_ASSERT(fn != NULL);
    ag_tv pos[4];
    ag_targs args = {.pos = pos};
    for (; args.n < n && a[args.n].type != AG_TV_MISSING; args.n++) pos[args.n] = a[args.n];
    return ag__call_func(r, fn, self, &args, out);
}
