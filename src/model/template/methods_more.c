/* Methods that pad and ask about strings, and those of dicts, lists, numbers, loops and cyclers. */
#include <math.h>

#include "model/template/uni.h"
#include "model/template/value.h"

#define METHOD(name) \
    static bool name(ag_tr *r, ag_tv self, const ag_tv *a, const ag_targs *all AG_UNUSED, ag_tv *out)
#define METHOD0(name) \
    static bool name(ag_tr *r AG_UNUSED, ag_tv self, const ag_tv *a AG_UNUSED, const ag_targs *all AG_UNUSED, \
                     ag_tv *out)

static bool pad(ag_tr *r, ag_tv self, const ag_tv *a, int where, ag_tv *out)
{
    int64_t width;
    ag_str fill = AG_STR(" ");
    if (!ag__op_int(r, a[0], &width)) return false;
    if (a[1].type != AG_TV_MISSING) {
        ag_tv f = a[1];
        if (!ag__arg_str(r, f, "the fill character", &fill)) return false;
        if (ag__tv_chars(r, f) != 1) {
            return ag__tr_type_error(r, "The fill character must be exactly one character long");
        }
        if ((self.flags & AG_TV_MARKUP) && !ag__tv_escape(r, f, &f)) return false;
        fill = ag__tv_text(f);
    }
    int64_t n = ag__tv_chars(r, self), more = width > n ? width - n : 0;
    int64_t left = where < 0 ? 0 : where > 0 ? more : more / 2 + (more & width & 1);
    ag_tsink s;
    ag__sink_begin(r, &s);
    ag__sink_fill(&s, fill, (uint64_t)left);
    ag__sink_add(&s, self.s->p, self.s->n);
    ag__sink_fill(&s, fill, (uint64_t)(more - left));
    if (!ag__sink_end(&s, out)) return false;
    out->flags = self.flags;
    return true;
}

METHOD(m_ljust) { return pad(r, self, a, -1, out); }
METHOD(m_rjust) { return pad(r, self, a, 1, out); }
METHOD(m_center) { return pad(r, self, a, 0, out); }

METHOD(m_zfill)
{
    int64_t width;
    if (!ag__op_int(r, a[0], &width)) return false;
    int64_t n = ag__tv_chars(r, self);
    bool sign = self.s->n && (self.s->p[0] == '-' || self.s->p[0] == '+');
    ag_tsink s;
    ag__sink_begin(r, &s);
    if (sign) ag__sink_add(&s, self.s->p, 1);
    if (width > n) ag__sink_fill(&s, AG_STR("0"), (uint64_t)(width - n));
    ag__sink_add(&s, self.s->p + sign, self.s->n - sign);
    if (!ag__sink_end(&s, out)) return false;
    out->flags = self.flags;
    return true;
}

METHOD(m_expandtabs)
{
    int64_t tab, col = 0;
    if (!ag__arg_int(r, a[0], 8, &tab)) return false;
    ag_tsink s;
    ag__sink_begin(r, &s);
    for (const char *p = self.s->p, *end = p + self.s->n; p < end && !s.failed;) {
        const char *q = p;
        uint32_t cp = ag__uni_next(&q, end);
        if (cp == '\t') {
            int64_t n = tab > 0 ? tab - col % tab : 0;
            ag__sink_fill(&s, AG_STR(" "), (uint64_t)n);
            col += n;
        } else {
            ag__sink_add(&s, p, (size_t)(q - p));
            col = cp == '\n' || cp == '\r' ? 0 : col + 1;
        }
        p = q;
    }
    return ag__sink_end(&s, out);
}

static bool every(ag_tr *r, ag_tv self, bool (*is)(uint32_t), ag_tv *out)
{
    const char *p = self.s->p, *end = p + self.s->n;
    bool yes = p < end;
    while (yes && p < end) yes = is(ag__uni_next(&p, end));
    *out = ag__tv_bool(yes);
    return ag__tr_work(r, self.s->n);
}

static bool is_alnum(uint32_t cp) { return cp != '_' && ag__uni_word(cp); }

METHOD0(m_isalpha) { return every(r, self, ag__uni_alpha, out); }
METHOD0(m_isdigit) { return every(r, self, ag__uni_digit, out); }
METHOD0(m_isdecimal) { return every(r, self, ag__uni_decimal, out); }
METHOD0(m_isnumeric) { return every(r, self, ag__uni_numeric, out); }
METHOD0(m_isalnum) { return every(r, self, is_alnum, out); }
METHOD0(m_isspace) { return every(r, self, ag__uni_space, out); }

METHOD0(m_isascii)
{
    *out = ag__tv_bool(ag__uni_ascii(self.s->p, self.s->n));
    return ag__tr_work(r, self.s->n);
}

METHOD0(m_isprintable)
{
    if (!every(r, self, ag__uni_printable, out)) return false;
    out->b = out->b || self.s->n == 0;
    return true;
}

METHOD0(m_isidentifier)
{
    const char *p = self.s->p, *end = p + self.s->n;
    uint32_t cp = p < end ? ag__uni_next(&p, end) : 0;
    bool yes = cp == '_' || ag__uni_alpha(cp);
    while (yes && p < end) yes = ag__uni_word(ag__uni_next(&p, end));
    *out = ag__tv_bool(yes);
    return ag__tr_work(r, self.s->n);
}

/* Some character has case, and none is of the wrong one. */
static bool all_case(ag_tr *r, ag_tv self, bool upper, ag_tv *out)
{
    bool any = false;
    const char *p = self.s->p, *end = p + self.s->n;
    *out = ag__tv_bool(false);
    if (!ag__tr_work(r, self.s->n)) return false;
    while (p < end) {
        uint32_t cp = ag__uni_next(&p, end);
        if (ag__uni_titled(cp) || (upper ? ag__uni_lower(cp) : ag__uni_upper(cp))) return true;
        any = any || (upper ? ag__uni_upper(cp) : ag__uni_lower(cp));
    }
    out->b = any;
    return true;
}

METHOD0(m_isupper) { return all_case(r, self, true, out); }
METHOD0(m_islower) { return all_case(r, self, false, out); }

METHOD0(m_istitle)
{
    bool any = false, inside = false, ok = true;
    const char *p = self.s->p, *end = p + self.s->n;
    while (ok && p < end) {
        uint32_t cp = ag__uni_next(&p, end);
        bool up = ag__uni_upper(cp) || ag__uni_titled(cp), low = ag__uni_lower(cp);
        ok = !(up && inside) && !(low && !inside);
        inside = up || low;
        any = any || inside;
    }
    *out = ag__tv_bool(ok && any);
    return ag__tr_work(r, self.s->n);
}

static bool m_format(ag_tr *r, ag_tv self, const ag_tv *a AG_UNUSED, const ag_targs *all, ag_tv *out)
{
    return ag__format_braces(r, self, all, out);
}

static bool m_format_map(ag_tr *r, ag_tv self, const ag_tv *a, const ag_targs *all AG_UNUSED, ag_tv *out)
{
    if (a[0].type != AG_TV_DICT) return ag__tr_type_error(r, "format_map() takes a mapping");
    ag_targs args = {.kw = a[0].d->p, .n_kw = a[0].d->n};
    for (uint32_t i = 0; i < args.n_kw; i++) {
        if (args.kw[i].k.type != AG_TV_STR) return ag__tr_type_error(r, "format_map() takes a mapping with text keys");
    }
    return ag__format_braces(r, self, &args, out);
}

const ag_tfunc ag__str_methods_more[] = {
    {"ljust", "/width fillchar", 1, m_ljust},   {"rjust", "/width fillchar", 1, m_rjust},
    {"center", "/width fillchar", 1, m_center}, {"zfill", "/width", 1, m_zfill},
    {"expandtabs", "tabsize", 0, m_expandtabs}, {"isalpha", "/", 0, m_isalpha},
    {"isdigit", "/", 0, m_isdigit},             {"isdecimal", "/", 0, m_isdecimal},
    {"isnumeric", "/", 0, m_isnumeric},         {"isalnum", "/", 0, m_isalnum},
    {"isspace", "/", 0, m_isspace},             {"isascii", "/", 0, m_isascii},
    {"isprintable", "/", 0, m_isprintable},     {"isidentifier", "/", 0, m_isidentifier},
    {"isupper", "/", 0, m_isupper},             {"islower", "/", 0, m_islower},
    {"istitle", "/", 0, m_istitle},             {"format", "*", 0, m_format},
    {"format_map", "/mapping", 1, m_format_map}, {NULL, NULL, 0, NULL},
};

static bool view(ag_tr *r, ag_tv self, ag_tview_kind kind, ag_tv *out)
{
    ag_tview *v = ag__tr_alloc(r, sizeof *v);
    if (v == NULL) return false;
    *v = (ag_tview){self.d, kind};
    *out = AG_TV(AG_TV_VIEW, .v = v);
    return true;
}

METHOD0(m_keys) { return view(r, self, AG_TVIEW_KEYS, out); }
METHOD0(m_values) { return view(r, self, AG_TVIEW_VALUES, out); }
METHOD0(m_items) { return view(r, self, AG_TVIEW_ITEMS, out); }

METHOD(m_get)
{
    if (!ag__tv_dict_get(r, self.d, a[0], out)) return false;
    if (out->type == AG_TV_MISSING) *out = a[1].type == AG_TV_MISSING ? ag__tv_none() : a[1];
    return true;
}

METHOD0(m_copy)
{
    *out = self;
    return true;
}

METHOD(m_fromkeys)
{
    ag_titer *it = ag__iter_open(r, a[0]);
    ag_tv k, v = a[1].type == AG_TV_MISSING ? ag__tv_none() : a[1];
    int rc = -1;
    (void)self;
    if (it == NULL || !ag__tv_dict(r, 0, out)) return false;
    while ((rc = ag__iter_next(r, it, &k)) == 1) {
        if (!ag__tv_dict_set(r, out->d, k, v)) return false;
    }
    return rc == 0;
}

const ag_tfunc ag__dict_methods[] = {
    {"keys", "/", 0, m_keys},
    {"values", "/", 0, m_values},
    {"items", "/", 0, m_items},
    {"get", "/key default", 1, m_get},
    {"copy", "/", 0, m_copy},
    {"fromkeys", "/iterable value", 1, m_fromkeys},
    {NULL, NULL, 0, NULL},
};

METHOD(l_index)
{
    int64_t n = (int64_t)self.l->n, from, to;
    if (!ag__arg_int(r, a[1], 0, &from) || !ag__arg_int(r, a[2], n, &to)) return false;
    if (from < 0) from = AG_MAX(from + n, (int64_t)0);
    if (to < 0) to += n;
    for (int64_t i = from; i < AG_MIN(to, n); i++) {
        bool same;
        if (!ag__tr_work(r, 64) || !ag__tv_eq(r, self.l->p[i], a[0], &same)) return false;
        *out = ag__tv_int(i);
        if (same) return true;
    }
    return ag__tr_fail(r, AG_TEMPLATE_RUNTIME, "ValueError: the value is not in the list");
}

METHOD(l_count)
{
    int64_t n = 0;
    for (size_t i = 0; i < self.l->n; i++) {
        bool same;
        if (!ag__tr_work(r, 64) || !ag__tv_eq(r, self.l->p[i], a[0], &same)) return false;
        n += same;
    }
    *out = ag__tv_int(n);
    return true;
}

const ag_tfunc ag__list_methods[] = {
    {"index", "/value start stop", 1, l_index},
    {"count", "/value", 1, l_count},
    {"copy", "/", 0, m_copy},
    {NULL, NULL, 0, NULL},
};

METHOD0(n_is_integer)
{
    *out = ag__tv_bool(isfinite(self.f) && self.f == floor(self.f));
    return true;
}

METHOD0(n_bit_length)
{
    int64_t i = ag__tv_as_int(self);
    uint64_t u = i < 0 ? 0 - (uint64_t)i : (uint64_t)i;
    *out = ag__tv_int(u ? 64 - __builtin_clzll(u) : 0);
    return true;
}

METHOD0(n_conjugate)
{
    *out = self;
    return true;
}

const ag_tfunc ag__num_methods[] = {
    {"is_integer", "/", 0, n_is_integer},
    {"bit_length", "/", 0, n_bit_length},
    {"conjugate", "/", 0, n_conjugate},
    {NULL, NULL, 0, NULL},
};

static bool lp_cycle(ag_tr *r, ag_tv self, const ag_tv *a AG_UNUSED, const ag_targs *all, ag_tv *out)
{
    if (all->n == 0) return ag__tr_type_error(r, "no items for cycling given");
    *out = all->pos[self.loop->index0 % all->n];
    return true;
}

static bool lp_changed(ag_tr *r, ag_tv self, const ag_tv *a AG_UNUSED, const ag_targs *all, ag_tv *out)
{
    ag_tv now;
    bool same = false;
    if (!ag__tv_list(r, AG_TV_TUPLE, all->n, &now)) return false;
    for (uint32_t i = 0; i < all->n; i++) now.l->p[i] = all->pos[i];
    if (!ag__tv_eq(r, self.loop->changed, now, &same)) return false;
    self.loop->changed = now;
    *out = ag__tv_bool(!same);
    return true;
}

const ag_tfunc ag__loop_methods[] = {
    {"cycle", "*", 0, lp_cycle},
    {"changed", "*", 0, lp_changed},
    {NULL, NULL, 0, NULL},
};

/* How many rounds there are: a generator is drawn out for it, as in jinja2. */
static bool loop_length(ag_tr *r, ag_tloop *loop)
{
    if (loop->length >= 0) return true;
    if (loop->src.type != AG_TV_ITER && loop->src.type != AG_TV_LOOP) return ag__op_len(r, loop->src, &loop->length);
    ag_tv rest;
    if (!ag__iter_list(r, AG_TV(AG_TV_ITER, .it = loop->it), &rest)) return false;
    loop->length = (int64_t)rest.l->n + loop->index0 + 1 + (loop->after.type != AG_TV_MISSING);
    loop->it = ag__iter_open(r, rest);
    return loop->it != NULL;
}

static bool loop_peek(ag_tr *r, ag_tloop *loop, bool *more)
{
    if (loop->after.type == AG_TV_MISSING && ag__iter_next(r, loop->it, &loop->after) < 0) return false;
    *more = loop->after.type != AG_TV_MISSING;
    return true;
}

bool ag__loop_attr(ag_tr *r, ag_tloop *loop, ag_str name, ag_tv *out)
{
    bool more;
    if (ag_str_eqz(name, "index")) *out = ag__tv_int(loop->index0 + 1);
    else if (ag_str_eqz(name, "index0")) *out = ag__tv_int(loop->index0);
    else if (ag_str_eqz(name, "depth")) *out = ag__tv_int(loop->depth0 + 1);
    else if (ag_str_eqz(name, "depth0")) *out = ag__tv_int(loop->depth0);
    else if (ag_str_eqz(name, "first")) *out = ag__tv_bool(loop->index0 == 0);
    else if (ag_str_eqz(name, "length") || ag_str_eqz(name, "revindex") || ag_str_eqz(name, "revindex0")) {
        if (!loop_length(r, loop)) return false;
        int64_t back = name.n == 6 ? 0 : name.n == 8 ? loop->index0 : loop->index0 + 1;
        *out = ag__tv_int(loop->length - back);
    } else if (ag_str_eqz(name, "last") || ag_str_eqz(name, "nextitem")) {
        if (!loop_peek(r, loop, &more)) return false;
        if (name.n == 4) *out = ag__tv_bool(!more);
        else if (more) *out = loop->after;
        else return ag__tv_undef(r, AG_TUNDEF_HINT, NULL, AG_STR("there is no next item"), out);
    } else if (ag_str_eqz(name, "previtem")) {
        if (loop->index0 == 0) return ag__tv_undef(r, AG_TUNDEF_HINT, NULL, AG_STR("there is no previous item"), out);
        *out = loop->before;
    }
    return true;
}

METHOD0(c_next)
{
    *out = self.cycler->items->p[self.cycler->pos];
    self.cycler->pos = (self.cycler->pos + 1) % self.cycler->items->n;
    return true;
}

METHOD0(c_reset)
{
    self.cycler->pos = 0;
    *out = ag__tv_none();
    return true;
}

const ag_tfunc ag__cycler_methods[] = {
    {"next", "/", 0, c_next},
    {"reset", "/", 0, c_reset},
    {NULL, NULL, 0, NULL},
};
