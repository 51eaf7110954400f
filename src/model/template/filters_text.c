/* Filters that make text. */
#include <math.h>

#include "model/template/uni.h"
#include "model/template/value.h"

#define FILTER(name) \
    static bool name(ag_tr *r, ag_tv self, const ag_tv *a, const ag_targs *all AG_UNUSED, ag_tv *out)
#define FILTER0(name) \
    static bool name(ag_tr *r, ag_tv self, const ag_tv *a AG_UNUSED, const ag_targs *all AG_UNUSED, ag_tv *out)

static bool via(ag_tr *r, ag_tv self, const char *method, const ag_tv *a, uint32_t n, ag_tv *out)
{
    ag_tv s;
    return ag__tv_soft_str(r, self, &s) && ag__str_method(r, s, method, a, n, out);
}

FILTER0(f_upper) { return via(r, self, "upper", NULL, 0, out); }
FILTER0(f_lower) { return via(r, self, "lower", NULL, 0, out); }
FILTER0(f_capitalize) { return via(r, self, "capitalize", NULL, 0, out); }
FILTER(f_trim) { return via(r, self, "strip", a, 1, out); }
FILTER0(f_string) { return ag__tv_soft_str(r, self, out); }
FILTER0(f_escape) { return ag__tv_escape(r, self, out); }
FILTER0(f_pprint) { return ag__tv_repr(r, self, out); }

FILTER(f_center)
{
    ag_tv width = a[0].type == AG_TV_MISSING ? ag__tv_int(80) : a[0];
    return via(r, self, "center", &width, 1, out);
}

FILTER0(f_forceescape) { return ag__tv_str(r, self, out) && ag__tv_escape(r, *out, out); }

FILTER0(f_safe)
{
    if (!ag__tv_soft_str(r, self, out)) return false;
    out->flags |= AG_TV_MARKUP;
    return true;
}

/* The first letter of each word as a title has it; words also begin behind - ( { [ < and white space. */
FILTER0(f_title)
{
    ag_tv s;
    ag_tsink k;
    bool first = true;
    if (!ag__tv_str(r, self, &s)) return false;
    ag__sink_begin(r, &k);
    for (const char *p = s.s->p, *end = p + s.s->n; p < end && !k.failed;) {
        const char *at = p;
        uint32_t cp = ag__uni_next(&p, end), o[3];
        if (cp == '-' || cp == '(' || cp == '{' || cp == '[' || cp == '<' || ag__uni_space(cp)) {
            ag__sink_cp(&k, cp);
            first = true;
            continue;
        }
        if (!first && cp == 0x3A3) {
            ag__sink_cp(&k, ag__uni_final_sigma(s.s->p, at, end) ? 0x3C2 : 0x3C3);
            continue;
        }
        int n = ag__uni_map(cp, first ? AG_UNI_UPPER : AG_UNI_LOWER, o);
        for (int i = 0; i < n; i++) ag__sink_cp(&k, o[i]);
        first = false;
    }
    return ag__sink_end(&k, out);
}

FILTER(f_replace)
{
    ag_tv s, arg[3] = {a[0], a[1], a[2]};
    if (!ag__tv_str(r, self, &s) || !ag__tv_str(r, a[0], &arg[0]) || !ag__tv_str(r, a[1], &arg[1])) return false;
    if (a[2].type == AG_TV_NONE) arg[2] = AG_TV(AG_TV_MISSING);
    return ag__str_method(r, s, "replace", arg, 3, out);
}

static bool f_format(ag_tr *r, ag_tv self, const ag_tv *a AG_UNUSED, const ag_targs *all, ag_tv *out)
{
    ag_tv s, args;
    if (all->n && all->n_kw) {
        return ag__tr_fail(r, AG_TEMPLATE_RUNTIME, "can't handle positional and keyword arguments at the same time");
    }
    if (!ag__tv_soft_str(r, self, &s)) return false;
    if (all->n_kw) {
        if (!ag__tv_dict(r, all->n_kw, &args)) return false;
        for (uint32_t i = 0; i < all->n_kw; i++) {
            if (!ag__tv_dict_set(r, args.d, all->kw[i].k, all->kw[i].v)) return false;
        }
    } else {
        if (!ag__tv_list(r, AG_TV_TUPLE, all->n, &args)) return false;
        for (uint32_t i = 0; i < all->n; i++) args.l->p[i] = all->pos[i];
    }
    return ag__format_percent(r, s, args, out);
}

FILTER(f_indent)
{
    int64_t width = 4;
    ag_str by = AG_STR(" ");
    bool first = ag__tv_true(a[1]), blank = ag__tv_true(a[2]);
    uint64_t times = 1;
    if (self.type == AG_TV_UNDEF) return ag__tv_undef_fail(r, self);
    if (self.type != AG_TV_STR) return ag__tr_type_error(r, "indent needs a string, not %s", ag__tv_type_name(self));
    if (a[0].type == AG_TV_STR) by = ag__tv_text(a[0]);
    else if (!ag__arg_int(r, a[0], 4, &width)) return false;
    else times = width > 0 ? (uint64_t)width : 0;
    ag_tv lines, nl;
    if (!ag__tv_strz(r, "\n", &nl) || !ag__tv_concat(r, self, nl, &nl)) return false;
    if (!ag__str_method(r, nl, "splitlines", NULL, 0, &lines)) return false;
    ag_tsink k;
    ag__sink_begin(r, &k);
    for (size_t i = 0; i < lines.l->n && !k.failed; i++) {
        ag_str line = ag__tv_text(lines.l->p[i]);
        if (i) ag__sink_addc(&k, '\n');
        if (i ? line.n || blank : first) ag__sink_fill(&k, by, times);
        ag__sink_add(&k, line.p, line.n);
    }
    if (!ag__sink_end(&k, out)) return false;
    out->flags = self.flags;
    return true;
}

FILTER(f_truncate)
{
    int64_t length, leeway, n, end_n;
    ag_tv end = a[2], cut;
    bool kill = ag__tv_true(a[1]);
    if (self.type != AG_TV_STR) return ag__tr_type_error(r, "object of type '%s' has no len()", ag__tv_type_name(self));
    if (end.type == AG_TV_MISSING && !ag__tv_strz(r, "...", &end)) return false;
    if (end.type != AG_TV_STR) return ag__tr_type_error(r, "end must be str, not %s", ag__tv_type_name(end));
    if (!ag__arg_int(r, a[0], 255, &length)) return false;
    if (a[3].type == AG_TV_NONE) leeway = 5;
    else if (!ag__arg_int(r, a[3], 5, &leeway)) return false;
    n = ag__tv_chars(r, self);
    end_n = ag__tv_chars(r, end);
    if (length < end_n || leeway < 0) {
        return ag__tr_fail(r, AG_TEMPLATE_RUNTIME, "AssertionError: expected length >= %lld", (long long)end_n);
    }
    *out = self;
    if (leeway > INT64_MAX - length || n <= length + leeway) return true;
    if (!ag__op_slice(r, self, ag__tv_none(), ag__tv_int(length - end_n), ag__tv_none(), &cut)) return false;
    const char *space = kill ? NULL : memrchr(cut.s->p, ' ', cut.s->n);
    if (space && !ag__tv_borrow(r, cut.s->p, (size_t)(space - cut.s->p), &cut)) return false;
    cut.flags = self.flags;
    return ag__op_binary(r, AG_TOK_ADD, cut, end, out);
}

FILTER0(f_wordcount)
{
    ag_tv s;
    int64_t n = 0;
    bool in = false;
    if (!ag__tv_soft_str(r, self, &s)) return false;
    for (const char *p = s.s->p, *end = p + s.s->n; p < end;) {
        bool word = ag__uni_word(ag__uni_next(&p, end));
        n += word && !in;
        in = word;
    }
    *out = ag__tv_int(n);
    return ag__tr_work(r, s.s->n);
}

typedef struct wrap {
    ag_tsink k;
    ag_str sep;
    int64_t width, col; /* col: characters on the line so far */
    const char *space;  /* white space that waits for the word behind it */
    size_t space_n;
    bool any;           /* some line was begun in this paragraph */
} wrap;

static void wrap_word(wrap *w, const char *p, const char *end, bool break_long)
{
    int64_t n = (int64_t)ag__uni_count(p, (size_t)(end - p)), space = (int64_t)ag__uni_count(w->space, w->space_n);
    if (w->col + space + n > w->width && w->col > 0) {
        if (break_long && n > w->width && w->col + space < w->width) { /* a word too long for any line begins here */
            int64_t room = w->width - w->col - space;
            size_t cut = ag__uni_offset(p, (size_t)(end - p), (size_t)room);
            ag__sink_add(&w->k, w->space, w->space_n);
            ag__sink_add(&w->k, p, cut);
            p += cut;
            n -= room;
        }
        ag__sink_add(&w->k, w->sep.p, w->sep.n);
        w->col = 0;
        w->space_n = 0;
    }
    if (w->col > 0 || !w->any) {
        ag__sink_add(&w->k, w->space, w->space_n);
        w->col += (int64_t)ag__uni_count(w->space, w->space_n);
    }
    while (break_long && n > w->width && !w->k.failed) {
        size_t cut = ag__uni_offset(p, (size_t)(end - p), (size_t)w->width);
        ag__sink_add(&w->k, p, cut);
        ag__sink_add(&w->k, w->sep.p, w->sep.n);
        p += cut;
        n -= w->width;
        w->col = 0;
    }
    ag__sink_add(&w->k, p, (size_t)(end - p));
    w->col += n;
    w->space_n = 0;
    w->any = true;
}

/* The end of the word at p; with hyphens, also behind a hyphen between letters. */
static const char *wrap_word_end(const char *p, const char *end, bool hyphens)
{
    const char *q = p;
    while (q < end) {
        const char *at = q;
        if (ag__uni_space(ag__uni_next(&q, end))) return at;
        if (!hyphens || *at != '-' || at - p < 2 || end - q < 2) continue;
        const char *b = at, *f = q;
        if (ag__uni_alpha(ag__uni_prev(p, &b)) && ag__uni_alpha(ag__uni_next(&f, end)) &&
            f < end && ag__uni_alpha(ag__uni_next(&f, end))) {
            return q;
        }
    }
    return q;
}

FILTER(f_wordwrap)
{
    int64_t width;
    bool break_long = a[1].type == AG_TV_MISSING || ag__tv_true(a[1]);
    bool hyphens = a[3].type == AG_TV_MISSING || ag__tv_true(a[3]);
    ag_tv s, lines;
    wrap w = {.sep = AG_STR("\n")};
    if (!ag__arg_int(r, a[0], 79, &width) || !ag__tv_soft_str(r, self, &s)) return false;
    if (width <= 0) {
        return ag__tr_fail(r, AG_TEMPLATE_RUNTIME, "ValueError: invalid width %lld (must be > 0)", (long long)width);
    }
    if (a[2].type != AG_TV_MISSING && a[2].type != AG_TV_NONE && !ag__arg_str(r, a[2], "wrapstring", &w.sep)) {
        return false;
    }
    if (!ag__str_method(r, s, "splitlines", NULL, 0, &lines)) return false;
    ag__sink_begin(r, &w.k);
    w.width = width;
    for (size_t i = 0; i < lines.l->n && !w.k.failed; i++) {
        const char *p = lines.l->p[i].s->p, *end = p + lines.l->p[i].s->n;
        if (i) ag__sink_add(&w.k, w.sep.p, w.sep.n);
        w.col = 0;
        w.any = false;
        while (p < end && !w.k.failed) {
            const char *q = ag__uni_strip_left(p, end);
            w.space = p;
            w.space_n = (size_t)(q - p);
            if (q == end) break;
            p = wrap_word_end(q, end, hyphens);
            wrap_word(&w, q, p, break_long);
        }
    }
    return ag__sink_end(&w.k, out);
}

static bool url_quote(ag_tsink *k, ag_tv v, bool query)
{
    ag_tv s;
    char hex[4];
    if (!ag__tv_soft_str(k->r, v, &s)) return false;
    for (size_t i = 0; i < s.s->n && !k->failed; i++) {
        char c = s.s->p[i];
        bool plain = ((c | 32) >= 'a' && (c | 32) <= 'z') || (c >= '0' && c <= '9') || (c && strchr("_.-~", c)) ||
                     (!query && c == '/');
        if (plain) {
            ag__sink_addc(k, c);
        } else if (query && c == ' ') {
            ag__sink_addc(k, '+');
        } else {
            snprintf(hex, sizeof hex, "%%%02X", (unsigned char)c);
            ag__sink_addz(k, hex);
        }
    }
    return !k->failed;
}

FILTER0(f_urlencode)
{
    ag_tsink k;
    ag_tv pairs = self, pair;
    int rc;
    ag__sink_begin(r, &k);
    if (self.type == AG_TV_STR || !ag__tv_iterable(self)) return url_quote(&k, self, false) && ag__sink_end(&k, out);
    if (self.type == AG_TV_DICT && !ag__op_attr(r, self, AG_STR("items"), &pairs)) return false;
    ag_targs none = {0};
    if (self.type == AG_TV_DICT && !ag__call(r, pairs, &none, &pairs)) return false;
    ag_titer *it = ag__iter_open(r, pairs);
    for (bool first = true; it && (rc = ag__iter_next(r, it, &pair)) == 1; first = false) {
        if (!ag__tv_is_seq(pair) || pair.l->n != 2) return ag__tr_type_error(r, "urlencode needs pairs");
        if ((!first && !ag__sink_addc(&k, '&')) || !url_quote(&k, pair.l->p[0], true) || !ag__sink_addc(&k, '=') ||
            !url_quote(&k, pair.l->p[1], true)) {
            return false;
        }
    }
    return it && rc == 0 && ag__sink_end(&k, out);
}

FILTER(f_xmlattr)
{
    ag_tsink k;
    bool space = a[0].type == AG_TV_MISSING || ag__tv_true(a[0]), first = true;
    if (self.type == AG_TV_UNDEF) return ag__tv_undef_fail(r, self);
    if (self.type != AG_TV_DICT) return ag__tr_type_error(r, "xmlattr needs a mapping, not %s", ag__tv_type_name(self));
    ag__sink_begin(r, &k);
    for (uint32_t i = 0; i < self.d->n; i++) {
        ag_tv key = self.d->p[i].k, v = self.d->p[i].v;
        if (v.type == AG_TV_NONE || v.type == AG_TV_UNDEF) continue;
        if (key.type != AG_TV_STR) return ag__tr_type_error(r, "expected string, got '%s'", ag__tv_type_name(key));
        for (size_t j = 0; j < key.s->n; j++) {
            if (!key.s->p[j] || !strchr(" \t\n\r\f\v/>=", key.s->p[j])) continue;
            return ag__tr_fail(r, AG_TEMPLATE_RUNTIME, "ValueError: Invalid character in attribute name");
        }
        if (!ag__tv_escape(r, key, &key) || !ag__tv_escape(r, v, &v)) return false;
        if (!first || space) ag__sink_addc(&k, ' ');
        first = false;
        ag__sink_str(&k, key);
        ag__sink_addz(&k, "=\"");
        ag__sink_str(&k, v);
        ag__sink_addc(&k, '"');
    }
    return ag__sink_end(&k, out);
}

static uint32_t entity(const char *p, size_t n)
{
    static const struct { const char *name; uint32_t cp; } names[] = {
        {"amp", '&'}, {"lt", '<'}, {"gt", '>'}, {"quot", '"'}, {"apos", '\''}, {"nbsp", 0xA0}, {"copy", 0xA9},
        {"raquo", 0xBB}, {"laquo", 0xAB}, {"hellip", 0x2026}, {"mdash", 0x2014}, {"ndash", 0x2013}};
    char digits[12];
    for (size_t i = 0; i < AG_ARRAY_LEN(names); i++) {
        if (ag_str_eqz((ag_str){p, n}, names[i].name)) return names[i].cp;
    }
    if (n < 2 || n > 9 || p[0] != '#') return 0;
    memcpy(digits, p + 1, n - 1);
    digits[n - 1] = 0;
    bool hex = (digits[0] | 32) == 'x';
    char *end;
    unsigned long cp = strtoul(digits + hex, &end, hex ? 16 : 10);
    return *end || cp > 0x10FFFF || (cp >= 0xD800 && cp < 0xE000) ? 0 : (uint32_t)cp;
}

/* Tags and comments go, white space becomes single spaces, entities become characters. */
FILTER0(f_striptags)
{
    ag_tv s, words, space;
    ag_tsink k;
    if (!ag__tv_str(r, self, &s)) return false;
    ag__sink_begin(r, &k);
    const char *p = s.s->p, *end = p + s.s->n, *open;
    while ((open = memchr(p, '<', (size_t)(end - p)))) {
        bool comment = end - open >= 4 && memcmp(open, "<!--", 4) == 0;
        const char *close = comment ? memmem(open + 4, (size_t)(end - open - 4), "-->", 3)
                                    : memchr(open, '>', (size_t)(end - open));
        if (close == NULL) break;
        ag__sink_add(&k, p, (size_t)(open - p));
        p = close + (comment ? 3 : 1);
    }
    ag__sink_add(&k, p, (size_t)(end - p));
    if (!ag__sink_end(&k, &s) || !ag__str_method(r, s, "split", NULL, 0, &words)) return false;
    if (!ag__tv_strz(r, " ", &space) || !ag__str_method(r, space, "join", &words, 1, &s)) return false;
    ag__sink_begin(r, &k);
    for (p = s.s->p, end = p + s.s->n; p < end && !k.failed;) {
        const char *semi = *p == '&' ? memchr(p, ';', AG_MIN((size_t)(end - p), (size_t)12)) : NULL;
        uint32_t cp = semi ? entity(p + 1, (size_t)(semi - p - 1)) : 0;
        if (cp) ag__sink_cp(&k, cp);
        else ag__sink_addc(&k, *p);
        p = cp ? semi + 1 : p + 1;
    }
    return ag__sink_end(&k, out);
}

FILTER(f_filesizeformat)
{
    static const char *const dec[] = {"kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB"};
    static const char *const bin[] = {"KiB", "MiB", "GiB", "TiB", "PiB", "EiB", "ZiB", "YiB"};
    bool binary = ag__tv_true(a[0]);
    double base = binary ? 1024 : 1000;
    ag_tv f;
    char text[64];
    ag_targs none = {0};
    if (!ag__call_func(r, ag__table_find(ag__filters_misc, AG_STR("float")), self, &none, &f)) return false;
    if (f.f == 1) return ag__tv_strz(r, "1 Byte", out);
    if (f.f < base) {
        snprintf(text, sizeof text, "%.0f Bytes", trunc(f.f));
        return ag__tv_copy(r, text, strlen(text), out);
    }
    int i = 0;
    double unit = base * base;
    while (i < 7 && f.f >= unit) {
        unit *= base;
        i++;
    }
    snprintf(text, sizeof text, "%.1f %s", base * f.f / unit, binary ? bin[i] : dec[i]);
    return ag__tv_copy(r, text, strlen(text), out);
}

const ag_tfunc ag__filters_text[] = {
    {"upper", "", 0, f_upper},
    {"lower", "", 0, f_lower},
    {"capitalize", "", 0, f_capitalize},
    {"title", "", 0, f_title},
    {"trim", "chars", 0, f_trim},
    {"string", "", 0, f_string},
    {"safe", "", 0, f_safe},
    {"escape", "", 0, f_escape},
    {"e", "", 0, f_escape},
    {"forceescape", "", 0, f_forceescape},
    {"center", "width", 0, f_center},
    {"replace", "old new count", 2, f_replace},
    {"format", "*", 0, f_format},
    {"indent", "width first blank", 0, f_indent},
    {"truncate", "length killwords end leeway", 0, f_truncate},
    {"wordcount", "", 0, f_wordcount},
    {"wordwrap", "width break_long_words wrapstring break_on_hyphens", 0, f_wordwrap},
    {"urlencode", "", 0, f_urlencode},
    {"xmlattr", "autospace", 0, f_xmlattr},
    {"striptags", "", 0, f_striptags},
    {"filesizeformat", "binary", 0, f_filesizeformat},
    {"pprint", "", 0, f_pprint},
    {"tojson", "ensure_ascii indent separators sort_keys", 0, ag__json_dump},
    {NULL, NULL, 0, NULL},
};
