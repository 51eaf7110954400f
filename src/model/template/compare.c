#include <math.h>

#include "model/template/uni.h"
#include "model/template/value.h"

bool ag__tv_true(ag_tv v)
{
    switch (v.type) {
    case AG_TV_MISSING: case AG_TV_UNDEF: case AG_TV_NONE: return false;
    case AG_TV_BOOL: return v.b;
    case AG_TV_INT: return v.i != 0;
    case AG_TV_FLOAT: return v.f != 0;
    case AG_TV_STR: return v.s->n > 0;
    case AG_TV_LIST: case AG_TV_TUPLE: return v.l->n > 0;
    case AG_TV_DICT: return v.d->n > 0;
    case AG_TV_RANGE: return v.r->n > 0;
    case AG_TV_VIEW: return v.v->dict->n > 0;
    default: return true;
    }
}

/* -1, 0, 1; 2: not comparable (NaN). Exact for large integers against floats. */
static int num_cmp(ag_tv a, ag_tv b)
{
    if (ag__tv_is_int(a) && ag__tv_is_int(b)) {
        int64_t x = ag__tv_as_int(a), y = ag__tv_as_int(b);
        return (x > y) - (x < y);
    }
    if (a.type == AG_TV_FLOAT && b.type == AG_TV_FLOAT) {
        return isnan(a.f) || isnan(b.f) ? 2 : (a.f > b.f) - (a.f < b.f);
    }
    if (ag__tv_is_int(b)) {
        int c = num_cmp(b, a);
        return c == 2 ? 2 : -c;
    }
    int64_t x = ag__tv_as_int(a);
    if (isnan(b.f)) return 2;
    if (b.f >= 9223372036854775808.0) return -1;
    if (b.f < -9223372036854775808.0) return 1;
    int64_t y = (int64_t)b.f;
    double rest = b.f - (double)y;
    return x != y ? (x > y) - (x < y) : rest > 0 ? -1 : rest < 0;
}

/* UTF-8 sorts as its code points do. */
static int str_cmp(ag_tr *r, ag_tv a, ag_tv b)
{
    size_t n = AG_MIN(a.s->n, b.s->n);
    ag__tr_work(r, n);
    int c = n ? memcmp(a.s->p, b.s->p, n) : 0;
    return c ? (c > 0) - (c < 0) : (a.s->n > b.s->n) - (a.s->n < b.s->n);
}

static bool seq_eq(ag_tr *r, const ag_tlist *a, const ag_tlist *b, bool *out)
{
    *out = a->n == b->n;
    for (size_t i = 0; *out && i < a->n; i++) {
        if (!ag__tr_work(r, 256) || !ag__tv_eq(r, a->p[i], b->p[i], out)) return false;
    }
    return true;
}

static bool dict_eq(ag_tr *r, const ag_tdict *a, const ag_tdict *b, bool *out)
{
    *out = a->n == b->n;
    for (uint32_t i = 0; *out && i < a->n; i++) {
        ag_tv v;
        if (!ag__tr_work(r, 256) || !ag__tv_dict_get(r, b, a->p[i].k, &v)) return false;
        *out = v.type != AG_TV_MISSING;
        if (*out && !ag__tv_eq(r, a->p[i].v, v, out)) return false;
    }
    return true;
}

static bool range_eq(const ag_trange *a, const ag_trange *b)
{
    return a->n == b->n && (a->n == 0 || (a->start == b->start && (a->n == 1 || a->step == b->step)));
}

bool ag__tv_eq(ag_tr *r, ag_tv a, ag_tv b, bool *out)
{
    if (ag__tv_is_num(a) && ag__tv_is_num(b)) {
        *out = num_cmp(a, b) == 0;
        return true;
    }
    *out = false;
    if (a.type != b.type) return true;
    bool ok = true;
    switch (a.type) {
    case AG_TV_UNDEF: case AG_TV_NONE: case AG_TV_MISSING:
        *out = true;
        return true;
    case AG_TV_STR:
        if (a.s->n != b.s->n) return true;
        *out = a.s->n == 0 || memcmp(a.s->p, b.s->p, a.s->n) == 0;
        return ag__tr_work(r, a.s->n);
    case AG_TV_LIST: case AG_TV_TUPLE: case AG_TV_DICT:
        if (!ag__tr_enter(r)) return false;
        ok = a.type == AG_TV_DICT ? dict_eq(r, a.d, b.d, out) : seq_eq(r, a.l, b.l, out);
        ag__tr_leave(r);
        return ok;
    case AG_TV_RANGE:
        *out = range_eq(a.r, b.r);
        return true;
    case AG_TV_METHOD:
        *out = a.method->fn == b.method->fn && a.method->self.s == b.method->self.s;
        return true;
    default:
        *out = a.s == b.s; /* the same object */
        return true;
    }
}

static const char *op_text(ag_tok_type op)
{
    return op == AG_TOK_LT ? "<" : op == AG_TOK_LE ? "<=" : op == AG_TOK_GT ? ">" : ">=";
}

static bool decide(int c, ag_tok_type op)
{
    if (c == 2) return false;
    return op == AG_TOK_LT ? c < 0 : op == AG_TOK_LE ? c <= 0 : op == AG_TOK_GT ? c > 0 : c >= 0;
}

static bool seq_order(ag_tr *r, const ag_tlist *a, const ag_tlist *b, ag_tok_type op, bool *out)
{
    for (size_t i = 0; i < AG_MIN(a->n, b->n); i++) {
        bool same;
        if (!ag__tr_work(r, 256) || !ag__tv_eq(r, a->p[i], b->p[i], &same)) return false;
        if (!same) return ag__tv_order(r, a->p[i], b->p[i], op, out);
    }
    *out = decide((a->n > b->n) - (a->n < b->n), op);
    return true;
}

bool ag__tv_order(ag_tr *r, ag_tv a, ag_tv b, ag_tok_type op, bool *out)
{
    if (ag__tv_is_num(a) && ag__tv_is_num(b)) {
        *out = decide(num_cmp(a, b), op);
        return true;
    }
    if (a.type == AG_TV_STR && b.type == AG_TV_STR) {
        *out = decide(str_cmp(r, a, b), op);
        return true;
    }
    if (ag__tv_is_seq(a) && a.type == b.type) {
        if (!ag__tr_enter(r)) return false;
        bool ok = seq_order(r, a.l, b.l, op, out);
        ag__tr_leave(r);
        return ok;
    }
    if (a.type == AG_TV_UNDEF) return ag__tv_undef_fail(r, a);
    if (b.type == AG_TV_UNDEF) return ag__tv_undef_fail(r, b);
    return ag__tr_type_error(r, "'%s' not supported between instances of '%s' and '%s'", op_text(op),
                             ag__tv_type_name(a), ag__tv_type_name(b));
}

static bool range_in(const ag_trange *g, int64_t i)
{
    if (g->n == 0) return false;
    int64_t last = g->start + (g->n - 1) * g->step, low = AG_MIN(g->start, last), high = AG_MAX(g->start, last);
    return i >= low && i <= high && (uint64_t)(i - low) % (uint64_t)(g->step < 0 ? -g->step : g->step) == 0;
}

bool ag__tv_in(ag_tr *r, ag_tv item, ag_tv in, bool *out)
{
    *out = false;
    if (in.type == AG_TV_STR) {
        if (item.type == AG_TV_UNDEF || item.type != AG_TV_STR) {
            return ag__tr_type_error(r, "'in <string>' requires string as left operand, not %s",
                                     ag__tv_type_name(item));
        }
        *out = item.s->n == 0 || memmem(in.s->p, in.s->n, item.s->p, item.s->n) != NULL;
        return ag__tr_work(r, in.s->n);
    }
    if (in.type == AG_TV_DICT || (in.type == AG_TV_VIEW && in.v->kind == AG_TVIEW_KEYS)) {
        ag_tv v;
        if (!ag__tv_dict_get(r, in.type == AG_TV_DICT ? in.d : in.v->dict, item, &v)) return false;
        *out = v.type != AG_TV_MISSING;
        return true;
    }
    if (in.type == AG_TV_RANGE && ag__tv_is_int(item)) {
        *out = range_in(in.r, ag__tv_as_int(item));
        return true;
    }
    if (!ag__tv_iterable(in)) {
        return ag__tr_type_error(r, "argument of type '%s' is not iterable", ag__tv_type_name(in));
    }
    ag_titer *it = ag__iter_open(r, in);
    ag_tv v;
    int rc = it ? 0 : -1;
    while (it && !*out && (rc = ag__iter_next(r, it, &v)) == 1) {
        if (!ag__tv_eq(r, v, item, out)) return false;
    }
    return rc >= 0;
}

static uint64_t mix(uint64_t h, uint64_t w)
{
    h = (h ^ w) * 0x9E3779B97F4A7C15ULL;
    return h ^ (h >> 32);
}

bool ag__tv_hash(ag_tr *r, ag_tv v, uint64_t *out)
{
    uint64_t h = r->seed, w;
    switch (v.type) {
    case AG_TV_NONE: h = mix(h, 1); break;
    case AG_TV_UNDEF: h = mix(h, 2); break;
    case AG_TV_BOOL: case AG_TV_INT: h = mix(h, (uint64_t)ag__tv_as_int(v)); break;
    case AG_TV_FLOAT: /* equal numbers hash alike */
        if (v.f >= -9223372036854775808.0 && v.f < 9223372036854775808.0 && v.f == floor(v.f)) {
            h = mix(h, (uint64_t)(int64_t)v.f);
        } else {
            memcpy(&w, &v.f, sizeof w);
            h = mix(h, w);
        }
        break;
    case AG_TV_STR:
        if (!ag__tr_work(r, v.s->n)) return false;
        h = mix(h, v.s->n);
        for (size_t i = 0; i < v.s->n; i += 8) {
            w = 0;
            memcpy(&w, v.s->p + i, AG_MIN(v.s->n - i, (size_t)8));
            h = mix(h, w);
        }
        break;
    case AG_TV_TUPLE:
        if (!ag__tr_enter(r)) return false;
        for (size_t i = 0; i < v.l->n; i++) {
            if (!ag__tr_work(r, 256) || !ag__tv_hash(r, v.l->p[i], &w)) return false;
            h = mix(h, w);
        }
        ag__tr_leave(r);
        break;
    case AG_TV_RANGE: h = mix(h, (uint64_t)v.r->n); break;
    case AG_TV_LIST: case AG_TV_DICT: case AG_TV_VIEW:
        return ag__tr_type_error(r, "unhashable type: '%s'", ag__tv_type_name(v));
    case AG_TV_METHOD: h = mix(h, (uint64_t)(uintptr_t)v.method->fn); break;
    default: h = mix(h, (uint64_t)(uintptr_t)v.s); break;
    }
    *out = mix(h, h >> 29);
    return true;
}

static bool merge(ag_tr *r, ag_tpair *p, ag_tpair *tmp, size_t n, bool reverse)
{
    if (n < 2) return true;
    size_t half = n / 2, i = 0, j = half, k = 0;
    if (!merge(r, p, tmp, half, reverse) || !merge(r, p + half, tmp, n - half, reverse)) return false;
    while (i < half && j < n) {
        bool later; /* the right one must go first */
        if (!ag__tr_work(r, 256)) return false;
        bool ok = reverse ? ag__tv_order(r, p[i].k, p[j].k, AG_TOK_LT, &later)
                          : ag__tv_order(r, p[j].k, p[i].k, AG_TOK_LT, &later);
        if (!ok) return false;
        tmp[k++] = later ? p[j++] : p[i++];
    }
    memcpy(tmp + k, p + i, (half - i) * sizeof *p);
    memcpy(p, tmp, (k + half - i) * sizeof *p);
    return true;
}

bool ag__tv_sort(ag_tr *r, ag_tpair *p, size_t n, bool reverse)
{
    ag_tpair *tmp = ag__tr_array(r, AG_MAX(n, (size_t)1), sizeof *tmp);
    return tmp && merge(r, p, tmp, n, reverse);
}
