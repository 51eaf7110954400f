#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/utf8.h"
#include "model/template/uni.h"
#include "model/template/value.h"

void ag__sink_begin(ag_tr *r, ag_tsink *s) { *s = (ag_tsink){.r = r}; }

bool ag__sink_add(ag_tsink *s, const char *p, size_t n)
{
    if (s->failed) return false;
    if (n == 0) return true;
    ag_tgrow *g = s->grow;
    if (g == NULL || g->cap - g->n < n) {
        size_t have = g ? g->n : 0;
        ag_tgrow *more = ag__tr_alloc(s->r, sizeof *more);
        s->failed = more == NULL || n > SIZE_MAX / 4;
        if (s->failed) return s->failed && more ? ag__tr_fail(s->r, AG_TEMPLATE_LIMIT, "text too long") : false;
        *more = (ag_tgrow){.n = have, .cap = AG_MAX((have + n) + (have + n) / 2, (size_t)48)};
        more->p = ag__tr_alloc(s->r, more->cap);
        s->failed = more->p == NULL;
        if (s->failed) return false;
        if (have) memcpy(more->p, g->p, have);
        s->grow = g = more;
    }
    memcpy(g->p + g->n, p, n);
    g->n += n;
    s->failed = !ag__tr_work(s->r, n);
    return !s->failed;
}

bool ag__sink_addz(ag_tsink *s, const char *z) { return ag__sink_add(s, z, strlen(z)); }

bool ag__sink_addc(ag_tsink *s, char c) { return ag__sink_add(s, &c, 1); }

bool ag__sink_cp(ag_tsink *s, uint32_t cp)
{
    char b[4];
    return ag__sink_add(s, b, ag_utf8_put(b, cp));
}

bool ag__sink_fill(ag_tsink *s, ag_str what, uint64_t times)
{
    uint64_t total;
    if (!ag_mul_ok(what.n, times, &total) || total > s->r->limits.memory_bytes) {
        s->failed = true;
        return ag__tr_fail(s->r, AG_TEMPLATE_LIMIT, "a text longer than the limit of memory");
    }
    while (times-- > 0 && !s->failed) ag__sink_add(s, what.p, what.n);
    return !s->failed;
}

bool ag__sink_end(ag_tsink *s, ag_tv *out)
{
    if (s->failed) return false;
    if (!ag__tv_borrow(s->r, s->grow ? s->grow->p : "", s->grow ? s->grow->n : 0, out)) return false;
    out->s->grow = s->grow;
    return true;
}

size_t ag__float_repr(double f, char out[32])
{
    if (isnan(f)) return (size_t)snprintf(out, 32, "nan");
    if (isinf(f)) return (size_t)snprintf(out, 32, f < 0 ? "-inf" : "inf");
    char digits[40];
    int prec = 0;
    do {
        snprintf(digits, sizeof digits, "%.*e", prec, f);
    } while (strtod(digits, NULL) != f && prec++ < 17);
    int exp = atoi(strchr(digits, 'e') + 1);
    if (exp >= -4 && exp < 16) return (size_t)snprintf(out, 32, "%.*f", AG_MAX(prec - exp, 1), f);
    /* "%e" writes two digits of exponent at least, as Python does */
    return (size_t)snprintf(out, 32, "%s", digits);
}

static bool repr_str(ag_tsink *s, ag_str t)
{
    bool single = memchr(t.p ? t.p : "", '\'', t.n) != NULL, dbl = memchr(t.p ? t.p : "", '"', t.n) != NULL;
    char quote = single && !dbl ? '"' : '\'', esc[16];
    ag__sink_addc(s, quote);
    const char *p = t.p, *end = p + t.n;
    while (p < end && !s->failed) {
        const char *from = p;
        uint32_t cp = ag__uni_next(&p, end);
        if (cp == (uint32_t)quote || cp == '\\') {
            ag__sink_addc(s, '\\');
            ag__sink_addc(s, (char)cp);
        } else if (cp == '\n' || cp == '\r' || cp == '\t') {
            ag__sink_addz(s, cp == '\n' ? "\\n" : cp == '\r' ? "\\r" : "\\t");
        } else if (!ag__uni_printable(cp)) {
            snprintf(esc, sizeof esc, cp < 0x100 ? "\\x%02x" : cp < 0x10000 ? "\\u%04x" : "\\U%08x", cp);
            ag__sink_addz(s, esc);
        } else {
            ag__sink_add(s, from, (size_t)(p - from));
        }
    }
    return ag__sink_addc(s, quote);
}

static bool repr_items(ag_tsink *s, const ag_tv *p, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if ((i && !ag__sink_addz(s, ", ")) || !ag__sink_repr(s, p[i])) return false;
    }
    return true;
}

static bool repr_dict(ag_tsink *s, const ag_tdict *d)
{
    ag__sink_addc(s, '{');
    for (uint32_t i = 0; i < d->n; i++) {
        if (i) ag__sink_addz(s, ", ");
        if (!ag__sink_repr(s, d->p[i].k) || !ag__sink_addz(s, ": ") || !ag__sink_repr(s, d->p[i].v)) return false;
    }
    return ag__sink_addc(s, '}');
}

static bool repr_view(ag_tsink *s, const ag_tview *v)
{
    static const char *const names[] = {"dict_keys([", "dict_values([", "dict_items(["};
    ag__sink_addz(s, names[v->kind]);
    for (uint32_t i = 0; i < v->dict->n && !s->failed; i++) {
        if (i) ag__sink_addz(s, ", ");
        if (v->kind == AG_TVIEW_ITEMS) ag__sink_addc(s, '(');
        if (v->kind != AG_TVIEW_VALUES) ag__sink_repr(s, v->dict->p[i].k);
        if (v->kind == AG_TVIEW_ITEMS) ag__sink_addz(s, ", ");
        if (v->kind != AG_TVIEW_KEYS) ag__sink_repr(s, v->dict->p[i].v);
        if (v->kind == AG_TVIEW_ITEMS) ag__sink_addc(s, ')');
    }
    return ag__sink_addz(s, "])");
}

static bool repr_nested(ag_tsink *s, ag_tv v)
{
    switch (v.type) {
    case AG_TV_LIST:
        return ag__sink_addc(s, '[') && repr_items(s, v.l->p, v.l->n) && ag__sink_addc(s, ']');
    case AG_TV_TUPLE:
        return ag__sink_addc(s, '(') && repr_items(s, v.l->p, v.l->n) && ag__sink_addz(s, v.l->n == 1 ? ",)" : ")");
    case AG_TV_DICT:
        return repr_dict(s, v.d);
    case AG_TV_NAMESPACE:
        return ag__sink_addz(s, "<Namespace ") && repr_dict(s, v.d) && ag__sink_addc(s, '>');
    default:
        return repr_view(s, v.v);
    }
}

static bool repr_other(ag_tsink *s, ag_tv v)
{
    char text[80];
    ag_tv n;
    switch (v.type) {
    case AG_TV_RANGE:
        snprintf(text, sizeof text, "range(%lld, %lld", (long long)v.r->start, (long long)v.r->stop);
        ag__sink_addz(s, text);
        if (v.r->step != 1) {
            snprintf(text, sizeof text, ", %lld", (long long)v.r->step);
            ag__sink_addz(s, text);
        }
        return ag__sink_addc(s, ')');
    case AG_TV_MACRO:
        if (v.m->def->name.n == 0) return ag__sink_addz(s, "<Macro anonymous>");
        ag__sink_addz(s, "<Macro ");
        repr_str(s, v.m->def->name);
        return ag__sink_addc(s, '>');
    case AG_TV_LOOP:
        if (!ag__loop_attr(s->r, v.loop, AG_STR("length"), &n)) return false;
        snprintf(text, sizeof text, "<LoopContext %lld/%lld>", (long long)v.loop->index0 + 1, (long long)n.i);
        return ag__sink_addz(s, text);
    case AG_TV_ITER:
        snprintf(text, sizeof text, "<%s object>", v.it->what ? v.it->what : "iterator");
        return ag__sink_addz(s, text);
    case AG_TV_METHOD:
        snprintf(text, sizeof text, "<built-in method %.30s of %s object>", v.method->fn->name,
                 ag__tv_type_name(v.method->self));
        return ag__sink_addz(s, text);
    default:
        snprintf(text, sizeof text, "<%s object>", ag__tv_type_name(v));
        return ag__sink_addz(s, text);
    }
}

bool ag__sink_repr(ag_tsink *s, ag_tv v)
{
    char text[32];
    switch (v.type) {
    case AG_TV_MISSING: case AG_TV_UNDEF: return ag__sink_addz(s, "Undefined");
    case AG_TV_NONE: return ag__sink_addz(s, "None");
    case AG_TV_BOOL: return ag__sink_addz(s, v.b ? "True" : "False");
    case AG_TV_INT:
        snprintf(text, sizeof text, "%lld", (long long)v.i);
        return ag__sink_addz(s, text);
    case AG_TV_FLOAT:
        return ag__sink_add(s, text, ag__float_repr(v.f, text));
    case AG_TV_STR:
        if (!(v.flags & AG_TV_MARKUP)) return repr_str(s, ag__tv_text(v));
        return ag__sink_addz(s, "Markup(") && repr_str(s, ag__tv_text(v)) && ag__sink_addc(s, ')');
    case AG_TV_LIST: case AG_TV_TUPLE: case AG_TV_DICT: case AG_TV_VIEW: case AG_TV_NAMESPACE:
        if (!ag__tr_enter(s->r)) return s->failed = true, false;
        s->failed = !repr_nested(s, v) || s->failed;
        ag__tr_leave(s->r);
        return !s->failed;
    default:
        s->failed = !repr_other(s, v) || s->failed;
        return !s->failed;
    }
}

bool ag__sink_str(ag_tsink *s, ag_tv v)
{
    if (v.type == AG_TV_STR) return ag__sink_add(s, v.s->p, v.s->n);
    if (v.type == AG_TV_UNDEF || v.type == AG_TV_MISSING) return !s->failed;
    return ag__sink_repr(s, v);
}

bool ag__tv_soft_str(ag_tr *r, ag_tv v, ag_tv *out)
{
    if (v.type == AG_TV_STR) {
        *out = v;
        return true;
    }
    ag_tsink s;
    ag__sink_begin(r, &s);
    ag__sink_str(&s, v);
    return ag__sink_end(&s, out);
}

bool ag__tv_str(ag_tr *r, ag_tv v, ag_tv *out)
{
    if (!ag__tv_soft_str(r, v, out)) return false;
    out->flags = 0;
    return true;
}

bool ag__tv_repr(ag_tr *r, ag_tv v, ag_tv *out)
{
    ag_tsink s;
    ag__sink_begin(r, &s);
    ag__sink_repr(&s, v);
    return ag__sink_end(&s, out);
}

bool ag__tv_escape(ag_tr *r, ag_tv v, ag_tv *out)
{
    if (!ag__tv_soft_str(r, v, out)) return false;
    if (!(out->flags & AG_TV_MARKUP)) {
        ag_tsink s;
        ag__sink_begin(r, &s);
        const char *p = out->s->p, *end = p + out->s->n;
        while (p < end) {
            const char *q = p;
            while (q < end && !strchr("&<>'\"", *q)) q++;
            while (q < end && *q == 0) q++;
            ag__sink_add(&s, p, (size_t)(q - p));
            if (q < end && strchr("&<>'\"", *q)) {
                ag__sink_addz(&s, *q == '&'   ? "&amp;"
                                  : *q == '<' ? "&lt;"
                                  : *q == '>' ? "&gt;"
                                  : *q == '"' ? "&#34;"
                                              : "&#39;");
                q++;
            }
            p = q;
        }
        if (!ag__sink_end(&s, out)) return false;
    }
    out->flags = AG_TV_MARKUP;
    return true;
}
