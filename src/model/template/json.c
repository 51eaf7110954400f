/* tojson as transformers set it up: json.dumps(value, ensure_ascii=False, indent, separators, sort_keys). */
#include <math.h>
#include <stdio.h>

#include "model/template/uni.h"
#include "model/template/value.h"

typedef struct dump {
    ag_tsink s;
    bool ascii, sort, pretty;
    ag_str indent, item_sep, key_sep;
    uint32_t level;
} dump;

static bool dump_str(dump *d, ag_str t)
{
    char esc[16];
    ag__sink_addc(&d->s, '"');
    const char *p = t.p, *end = p + t.n;
    while (p < end && !d->s.failed) {
        const char *q = p;
        while (q < end && (unsigned char)*q >= 32 && *q != '"' && *q != '\\' && !(d->ascii && (*q & 0x80))) q++;
        ag__sink_add(&d->s, p, (size_t)(q - p));
        p = q;
        if (p == end) break;
        uint32_t cp = ag__uni_next(&p, end);
        static const char from[] = "\"\\\n\r\t\b\f", to[] = "\"\\nrtbf";
        const char *simple = cp && cp < 0x80 ? strchr(from, (int)cp) : NULL;
        if (simple) snprintf(esc, sizeof esc, "\\%c", to[simple - from]);
        else if (cp < 0x10000) snprintf(esc, sizeof esc, "\\u%04x", cp);
        else snprintf(esc, sizeof esc, "\\u%04x\\u%04x", 0xD7C0 + (cp >> 10), 0xDC00 + (cp & 0x3FF));
        ag__sink_addz(&d->s, esc);
    }
    return ag__sink_addc(&d->s, '"');
}

static bool dump_float(dump *d, double f)
{
    char text[32];
    if (isnan(f)) return ag__sink_addz(&d->s, "NaN");
    if (isinf(f)) return ag__sink_addz(&d->s, f < 0 ? "-Infinity" : "Infinity");
    return ag__sink_add(&d->s, text, ag__float_repr(f, text));
}

static bool dump_line(dump *d)
{
    if (!d->pretty) return !d->s.failed;
    ag__sink_addc(&d->s, '\n');
    return ag__sink_fill(&d->s, d->indent, d->level);
}

static bool dump_value(dump *d, ag_tv v);

static bool dump_key(dump *d, ag_tv k)
{
    ag_tv text;
    switch (k.type) {
    case AG_TV_STR: return dump_str(d, ag__tv_text(k));
    case AG_TV_NONE: return dump_str(d, AG_STR("null"));
    case AG_TV_BOOL: return dump_str(d, k.b ? AG_STR("true") : AG_STR("false"));
    case AG_TV_INT: return ag__tv_repr(d->s.r, k, &text) && dump_str(d, ag__tv_text(text));
    case AG_TV_FLOAT: return ag__sink_addc(&d->s, '"') && dump_float(d, k.f) && ag__sink_addc(&d->s, '"');
    default:
        return ag__tr_type_error(d->s.r, "keys must be str, int, float, bool or None, not %s", ag__tv_type_name(k));
    }
}

static bool dump_dict(dump *d, const ag_tdict *t)
{
    const ag_tpair *p = t->p;
    if (t->n == 0) return ag__sink_addz(&d->s, "{}");
    if (d->sort) {
        ag_tpair *sorted = ag__tr_array(d->s.r, t->n, sizeof *sorted);
        if (sorted == NULL) return false;
        memcpy(sorted, t->p, t->n * sizeof *sorted);
        if (!ag__tv_sort(d->s.r, sorted, t->n, false)) return false;
        p = sorted;
    }
    ag__sink_addc(&d->s, '{');
    d->level++;
    for (uint32_t i = 0; i < t->n; i++) {
        if (i) ag__sink_add(&d->s, d->item_sep.p, d->item_sep.n);
        if (!dump_line(d) || !dump_key(d, p[i].k) || !ag__sink_add(&d->s, d->key_sep.p, d->key_sep.n)) return false;
        if (!dump_value(d, p[i].v)) return false;
    }
    d->level--;
    return dump_line(d) && ag__sink_addc(&d->s, '}');
}

static bool dump_list(dump *d, const ag_tlist *l)
{
    if (l->n == 0) return ag__sink_addz(&d->s, "[]");
    ag__sink_addc(&d->s, '[');
    d->level++;
    for (size_t i = 0; i < l->n; i++) {
        if (i) ag__sink_add(&d->s, d->item_sep.p, d->item_sep.n);
        if (!dump_line(d) || !dump_value(d, l->p[i])) return false;
    }
    d->level--;
    return dump_line(d) && ag__sink_addc(&d->s, ']');
}

static bool dump_value(dump *d, ag_tv v)
{
    bool ok;
    switch (v.type) {
    case AG_TV_NONE: return ag__sink_addz(&d->s, "null");
    case AG_TV_BOOL: return ag__sink_addz(&d->s, v.b ? "true" : "false");
    case AG_TV_INT: return ag__sink_repr(&d->s, v);
    case AG_TV_FLOAT: return dump_float(d, v.f);
    case AG_TV_STR: return dump_str(d, ag__tv_text(v));
    case AG_TV_LIST: case AG_TV_TUPLE: case AG_TV_DICT:
        if (!ag__tr_enter(d->s.r)) return false;
        ok = v.type == AG_TV_DICT ? dump_dict(d, v.d) : dump_list(d, v.l);
        ag__tr_leave(d->s.r);
        return ok;
    default:
        return ag__tr_type_error(d->s.r, "Object of type %s is not JSON serializable", ag__tv_type_name(v));
    }
}

static bool dump_options(ag_tr *r, dump *d, const ag_tv *a)
{
    d->ascii = ag__tv_true(a[0]);
    d->sort = ag__tv_true(a[3]);
    d->item_sep = AG_STR(", ");
    d->key_sep = AG_STR(": ");
    if (a[1].type != AG_TV_MISSING && a[1].type != AG_TV_NONE) {
        int64_t n;
        d->pretty = true;
        d->item_sep = AG_STR(",");
        if (a[1].type == AG_TV_STR) {
            d->indent = ag__tv_text(a[1]);
        } else {
            ag_tv spaces, one;
            if (!ag__op_int(r, a[1], &n) || !ag__tv_strz(r, " ", &one)) return false;
            if (!ag__op_binary(r, AG_TOK_MUL, one, ag__tv_int(n), &spaces)) return false;
            d->indent = ag__tv_text(spaces);
        }
    }
    if (a[2].type == AG_TV_MISSING || a[2].type == AG_TV_NONE) return true;
    ag_tv two;
    if (!ag__iter_list(r, a[2], &two)) return false;
    if (two.l->n != 2) return ag__tr_fail(r, AG_TEMPLATE_RUNTIME, "ValueError: separators must be two");
    return ag__arg_str(r, two.l->p[0], "separator", &d->item_sep) &&
           ag__arg_str(r, two.l->p[1], "separator", &d->key_sep);
}

bool ag__json_dump(ag_tr *r, ag_tv self, const ag_tv *a, const ag_targs *all AG_UNUSED, ag_tv *out)
{
    dump d = {.level = 0};
    ag__sink_begin(r, &d.s);
    return dump_options(r, &d, a) && dump_value(&d, self) && ag__sink_end(&d.s, out);
}
