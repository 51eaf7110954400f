/* Filters over sequences. */
#include "model/template/uni.h"
#include "model/template/value.h"

#define FILTER(name) \
    static bool name(ag_tr *r, ag_tv self, const ag_tv *a, const ag_targs *all AG_UNUSED, ag_tv *out)
#define FILTER0(name) \
    static bool name(ag_tr *r, ag_tv self, const ag_tv *a AG_UNUSED, const ag_targs *all AG_UNUSED, ag_tv *out)

/* The next part of a dotted path: a number when it is all digits. */
static bool path_part(ag_tr *r, const char **p, const char *end, ag_tv *out)
{
    const char *dot = memchr(*p, '.', (size_t)(end - *p)), *stop = dot ? dot : end;
    bool number = stop > *p && stop - *p < 18;
    int64_t n = 0;
    for (const char *q = *p; q < stop && number; q++) {
        number = *q >= '0' && *q <= '9';
        n = n * 10 + (*q - '0');
    }
    ag_str text = {*p, (size_t)(stop - *p)};
    *p = dot ? dot + 1 : NULL;
    if (!number) return ag__tv_borrow(r, text.p, text.n, out);
    *out = ag__tv_int(n);
    return true;
}

/* obj.a.b.0 by a path "a.b.0", an integer, or none at all. */
bool ag__attr_path(ag_tr *r, ag_tv obj, ag_tv path, const ag_tv *dflt, ag_tv *out)
{
    *out = obj;
    if (path.type == AG_TV_NONE || path.type == AG_TV_MISSING) return true;
    bool has = dflt && dflt->type != AG_TV_MISSING && dflt->type != AG_TV_NONE;
    if (path.type != AG_TV_STR) {
        if (!ag__op_item(r, obj, path, out)) return false;
        if (has && out->type == AG_TV_UNDEF) *out = *dflt;
        return true;
    }
    for (const char *p = path.s->p, *end = p + path.s->n; p;) {
        ag_tv key;
        if (!path_part(r, &p, end, &key) || !ag__op_item(r, *out, key, out)) return false;
        if (has && out->type == AG_TV_UNDEF) *out = *dflt;
    }
    return true;
}

static bool fold_case(ag_tr *r, ag_tv v, bool case_sensitive, ag_tv *out)
{
    *out = v;
    return case_sensitive || v.type != AG_TV_STR || ag__str_method(r, v, "lower", NULL, 0, out);
}

static bool key_of(ag_tr *r, ag_tv item, ag_tv path, const ag_tv *dflt, bool case_sensitive, ag_tv *out)
{
    return ag__attr_path(r, item, path, dflt, out) && fold_case(r, *out, case_sensitive, out);
}

FILTER0(f_length)
{
    int64_t n;
    bool ok = ag__op_len(r, self, &n);
    *out = ag__tv_int(n);
    return ok;
}

FILTER0(f_first)
{
    ag_titer *it = ag__iter_open(r, self);
    int rc = it ? ag__iter_next(r, it, out) : -1;
    if (rc == 0) return ag__tv_undef(r, AG_TUNDEF_HINT, NULL, AG_STR("No first item, sequence was empty."), out);
    return rc == 1;
}

static bool reversible(ag_tv v)
{
    return v.type == AG_TV_STR || ag__tv_is_seq(v) || v.type == AG_TV_DICT || v.type == AG_TV_RANGE ||
           v.type == AG_TV_VIEW || v.type == AG_TV_UNDEF;
}

FILTER0(f_last)
{
    if (!reversible(self)) return ag__tr_type_error(r, "'%s' object is not reversible", ag__tv_type_name(self));
    if (self.type == AG_TV_STR && self.s->n) return ag__op_item(r, self, ag__tv_int(-1), out);
    ag_tv back;
    if (!ag__iter_reversed(r, self, &back)) return false;
    int rc = ag__iter_next(r, back.it, out);
    if (rc == 0) return ag__tv_undef(r, AG_TUNDEF_HINT, NULL, AG_STR("No last item, sequence was empty."), out);
    return rc == 1;
}

FILTER0(f_list) { return ag__iter_list(r, self, out); }

FILTER0(f_reverse)
{
    if (self.type == AG_TV_STR) return ag__op_slice(r, self, ag__tv_none(), ag__tv_none(), ag__tv_int(-1), out);
    ag_tv items = self;
    if (!reversible(self) && !ag__iter_list(r, self, &items)) return false;
    return ag__iter_reversed(r, items, out);
}

FILTER(f_join)
{
    ag_tv sep, item, s;
    ag_tsink k;
    int rc = -1;
    if (a[0].type == AG_TV_MISSING ? !ag__tv_strz(r, "", &sep) : !ag__tv_str(r, a[0], &sep)) return false;
    ag_titer *it = ag__iter_open(r, self);
    ag__sink_begin(r, &k);
    for (bool first = true; it && (rc = ag__iter_next(r, it, &item)) == 1; first = false) {
        if (!ag__attr_path(r, item, a[1], NULL, &item) || !ag__tv_str(r, item, &s)) return false;
        if (!first) ag__sink_add(&k, sep.s->p, sep.s->n);
        if (!ag__sink_add(&k, s.s->p, s.s->n) && k.failed) return false;
    }
    return rc == 0 && ag__sink_end(&k, out);
}

typedef struct keyed {
    ag_tpair *p;
    size_t n;
} keyed;

/* All items with their keys. `multi`: a key is a list of the values of comma-separated paths, as `sort` has it. */
static bool keys_of(ag_tr *r, ag_tv items, ag_tv path, const ag_tv *dflt, bool case_sensitive, bool multi, keyed *out)
{
    ag_tv all, key, part;
    if (!ag__iter_list(r, items, &all)) return false;
    out->n = all.l->n;
    out->p = ag__tr_array(r, out->n, sizeof *out->p);
    if (out->p == NULL) return false;
    for (size_t i = 0; i < out->n; i++) {
        ag_tv item = all.l->p[i];
        if (!multi) {
            if (!key_of(r, item, path, dflt, case_sensitive, &key)) return false;
        } else if (!ag__tv_list(r, AG_TV_LIST, 0, &key)) {
            return false;
        }
        const char *p = path.type == AG_TV_STR ? path.s->p : NULL, *end = p ? p + path.s->n : NULL;
        for (bool more = multi; more;) {
            ag_tv sub = path;
            const char *comma = p ? memchr(p, ',', (size_t)(end - p)) : NULL;
            more = comma != NULL;
            if (p && !ag__tv_borrow(r, p, (size_t)((comma ? comma : end) - p), &sub)) return false;
            if (comma) p = comma + 1;
            if (!key_of(r, item, sub, dflt, case_sensitive, &part) || !ag__tv_list_add(r, key.l, part)) return false;
        }
        out->p[i] = (ag_tpair){key, item};
    }
    return true;
}

static bool values_of(ag_tr *r, const keyed *k, ag_tv *out)
{
    if (!ag__tv_list(r, AG_TV_LIST, k->n, out)) return false;
    for (size_t i = 0; i < k->n; i++) out->l->p[i] = k->p[i].v;
    return true;
}

FILTER(f_sort)
{
    keyed k;
    if (!keys_of(r, self, a[2], NULL, ag__tv_true(a[1]), true, &k)) return false;
    return ag__tv_sort(r, k.p, k.n, ag__tv_true(a[0])) && values_of(r, &k, out);
}

FILTER(f_dictsort)
{
    bool by_value = a[1].type == AG_TV_STR && ag_str_eqz(ag__tv_text(a[1]), "value");
    if (!by_value && a[1].type != AG_TV_MISSING && !(a[1].type == AG_TV_STR && ag_str_eqz(ag__tv_text(a[1]), "key"))) {
        return ag__tr_fail(r, AG_TEMPLATE_RUNTIME, "You can only sort by either \"key\" or \"value\"");
    }
    if (self.type == AG_TV_UNDEF) return ag__tv_undef_fail(r, self);
    if (self.type != AG_TV_DICT) {
        return ag__tr_type_error(r, "'%s' object has no attribute 'items'", ag__tv_type_name(self));
    }
    keyed k = {.n = self.d->n, .p = ag__tr_array(r, self.d->n, sizeof *k.p)};
    if (k.p == NULL) return false;
    for (size_t i = 0; i < k.n; i++) {
        const ag_tpair *p = &self.d->p[i];
        if (!fold_case(r, by_value ? p->v : p->k, ag__tv_true(a[0]), &k.p[i].k)) return false;
        if (!ag__tv_pair(r, p->k, p->v, &k.p[i].v)) return false;
    }
    return ag__tv_sort(r, k.p, k.n, ag__tv_true(a[2])) && values_of(r, &k, out);
}

FILTER(f_groupby)
{
    keyed k;
    bool case_sensitive = ag__tv_true(a[2]);
    if (!keys_of(r, self, a[0], &a[1], case_sensitive, false, &k) || !ag__tv_sort(r, k.p, k.n, false)) return false;
    if (!ag__tv_list(r, AG_TV_LIST, 0, out)) return false;
    for (size_t i = 0; i < k.n;) {
        ag_tv group, list, key = k.p[i].k;
        bool same = true;
        if (!ag__tv_list(r, AG_TV_LIST, 0, &list)) return false;
        if (!case_sensitive && !ag__attr_path(r, k.p[i].v, a[0], &a[1], &key)) return false;
        for (size_t first = i; i < k.n; i++) {
            if (!ag__tv_eq(r, k.p[first].k, k.p[i].k, &same)) return false;
            if (!same) break;
            if (!ag__tv_list_add(r, list.l, k.p[i].v)) return false;
        }
        if (!ag__tv_pair(r, key, list, &group)) return false;
        group.flags = AG_TV_GROUP;
        if (!ag__tv_list_add(r, out->l, group)) return false;
    }
    return true;
}

static bool extreme(ag_tr *r, ag_tv self, const ag_tv *a, ag_tok_type better, ag_tv *out)
{
    keyed k;
    if (!keys_of(r, self, a[1], NULL, ag__tv_true(a[0]), false, &k)) return false;
    if (k.n == 0) return ag__tv_undef(r, AG_TUNDEF_HINT, NULL, AG_STR("No aggregated item, sequence was empty."), out);
    size_t best = 0;
    for (size_t i = 1; i < k.n; i++) {
        bool yes;
        if (!ag__tv_order(r, k.p[i].k, k.p[best].k, better, &yes)) return false;
        if (yes) best = i;
    }
    *out = k.p[best].v;
    return true;
}

FILTER(f_min) { return extreme(r, self, a, AG_TOK_LT, out); }
FILTER(f_max) { return extreme(r, self, a, AG_TOK_GT, out); }

FILTER(f_sum)
{
    ag_titer *it = ag__iter_open(r, self);
    ag_tv item, sum = a[1].type == AG_TV_MISSING ? ag__tv_int(0) : a[1];
    int rc = -1;
    if (sum.type == AG_TV_STR) return ag__tr_type_error(r, "sum() can't sum strings [use ''.join(seq) instead]");
    while (it && (rc = ag__iter_next(r, it, &item)) == 1) {
        if (!ag__attr_path(r, item, a[0], NULL, &item) || !ag__op_binary(r, AG_TOK_ADD, sum, item, &sum)) return false;
    }
    *out = sum;
    return rc == 0;
}

/* What a lazy filter was asked with. */
typedef struct asked {
    ag_tv a[3];
    const ag_tfunc *fn; /* the filter or test applied to each; NULL: none */
    ag_targs args;
    ag_tv path;
    bool attr, reject;
} asked;

static bool lazy(ag_tr *r, const char *what, ag_tv self, const ag_tv *a, ag_titer_make *make, ag_tv *out)
{
    asked *q = ag__tr_alloc(r, sizeof *q);
    if (q == NULL) return false;
    *q = (asked){.fn = NULL};
    memcpy(q->a, a, sizeof q->a);
    return ag__iter_lazy(r, what, self, NULL, make, q, out);
}

static bool make_unique(ag_tr *r, ag_titer *it, ag_tv *out)
{
    const asked *q = it->data;
    ag_titer *src = ag__iter_open(r, it->src);
    ag_tv item, key, seen, had;
    int rc = -1;
    if (!ag__tv_dict(r, 0, &seen) || !ag__tv_list(r, AG_TV_LIST, 0, out)) return false;
    while (src && (rc = ag__iter_next(r, src, &item)) == 1) {
        if (!key_of(r, item, q->a[1], NULL, ag__tv_true(q->a[0]), &key) || !ag__tv_dict_get(r, seen.d, key, &had)) {
            return false;
        }
        if (had.type != AG_TV_MISSING) continue;
        if (!ag__tv_dict_set(r, seen.d, key, ag__tv_none()) || !ag__tv_list_add(r, out->l, item)) return false;
    }
    return rc == 0;
}

FILTER(f_unique) { return lazy(r, "generator", self, a, make_unique, out); }

static bool make_items(ag_tr *r, ag_titer *it, ag_tv *out)
{
    if (it->src.type == AG_TV_UNDEF) return ag__tv_list(r, AG_TV_LIST, 0, out);
    if (it->src.type != AG_TV_DICT) return ag__tr_type_error(r, "Can only get item pairs from a mapping.");
    ag_tv fn;
    ag_targs none = {0};
    return ag__op_attr(r, it->src, AG_STR("items"), &fn) && ag__call(r, fn, &none, out);
}

FILTER(f_items) { return lazy(r, "generator", self, a, make_items, out); }

static bool fill_up(ag_tr *r, ag_tlist *l, ag_tv with, int64_t n)
{
    while ((int64_t)l->n < n) {
        if (!ag__tr_work(r, 16) || !ag__tv_list_add(r, l, with)) return false;
    }
    return true;
}

static bool has_fill(ag_tv v) { return v.type != AG_TV_MISSING && v.type != AG_TV_NONE; }

static bool make_batch(ag_tr *r, ag_titer *it, ag_tv *out)
{
    const asked *q = it->data;
    int64_t n;
    ag_tv all, row;
    if (!ag__op_int(r, q->a[0], &n) || !ag__iter_list(r, it->src, &all) || !ag__tv_list(r, AG_TV_LIST, 0, out)) {
        return false;
    }
    for (size_t i = 0; i < all.l->n;) {
        if (!ag__tv_list(r, AG_TV_LIST, 0, &row)) return false;
        do {
            if (!ag__tv_list_add(r, row.l, all.l->p[i++])) return false;
        } while (i < all.l->n && (int64_t)row.l->n != n);
        if (has_fill(q->a[1]) && !fill_up(r, row.l, q->a[1], n)) return false;
        if (!ag__tv_list_add(r, out->l, row)) return false;
    }
    return true;
}

FILTER(f_batch) { return lazy(r, "generator", self, a, make_batch, out); }

static bool make_slice(ag_tr *r, ag_titer *it, ag_tv *out)
{
    const asked *q = it->data;
    int64_t n, offset = 0;
    ag_tv all, row;
    if (!ag__op_int(r, q->a[0], &n) || !ag__iter_list(r, it->src, &all) || !ag__tv_list(r, AG_TV_LIST, 0, out)) {
        return false;
    }
    if (n == 0) return ag__tr_fail(r, AG_TEMPLATE_RUNTIME, "ZeroDivisionError: integer division or modulo by zero");
    int64_t len = (int64_t)all.l->n, each = n > 0 ? len / n : 0, extra = n > 0 ? len % n : 0;
    for (int64_t i = 0; i < n; i++) {
        int64_t start = offset + i * each;
        if (i < extra) offset++;
        int64_t end = offset + (i + 1) * each;
        if (!ag__op_slice(r, all, ag__tv_int(start), ag__tv_int(end), ag__tv_none(), &row)) return false;
        if (has_fill(q->a[1]) && i >= extra && !ag__tv_list_add(r, row.l, q->a[1])) return false;
        if (!ag__tr_work(r, 64) || !ag__tv_list_add(r, out->l, row)) return false;
    }
    return true;
}

FILTER(f_slice) { return lazy(r, "generator", self, a, make_slice, out); }

static bool apply_map(ag_tr *r, ag_titer *it, ag_tv item, ag_tv *out, bool *keep)
{
    const asked *q = it->data;
    *keep = true;
    if (q->fn) return ag__call_func(r, q->fn, item, &q->args, out);
    return ag__attr_path(r, item, q->path, &q->a[0], out);
}

static bool unknown(ag_tr *r, const char *what, ag_tv name)
{
    ag_tv text;
    if (!ag__tv_repr(r, name, &text)) return false;
    return ag__tr_fail(r, AG_TEMPLATE_RUNTIME, "No %s named %.*s.", what, (int)AG_MIN(text.s->n, (size_t)100),
                       text.s->p);
}

/* jinja2 looks at these arguments at the first step only; nothing published depends on a generator never asked. */
static bool f_map(ag_tr *r, ag_tv self, const ag_tv *a AG_UNUSED, const ag_targs *all, ag_tv *out)
{
    asked *q = ag__tr_alloc(r, sizeof *q);
    if (q == NULL) return false;
    *q = (asked){.args = *all};
    if (!ag__tv_true(self)) return ag__iter_lazy(r, "generator", self, apply_map, NULL, q, out);
    for (uint32_t i = 0; all->n == 0 && i < all->n_kw; i++) {
        ag_str key = ag__tv_text(all->kw[i].k);
        if (ag_str_eqz(key, "attribute")) q->path = all->kw[i].v;
        else if (ag_str_eqz(key, "default")) q->a[0] = all->kw[i].v;
        else return ag__tr_fail(r, AG_TEMPLATE_RUNTIME, "Unexpected keyword argument '%.*s'",
                                (int)AG_MIN(key.n, (size_t)99), key.p);
    }
    if (all->n == 0 && q->path.type == AG_TV_MISSING) {
        return ag__tr_fail(r, AG_TEMPLATE_RUNTIME, "map requires a filter argument");
    }
    if (all->n) {
        ag_tv name = all->pos[0];
        q->fn = name.type == AG_TV_STR ? ag__t_filter_find(ag__tv_text(name)) : NULL;
        if (q->fn == NULL) return unknown(r, "filter", name);
        q->args.pos++;
        q->args.n--;
    }
    return ag__iter_lazy(r, "generator", self, apply_map, NULL, q, out);
}

static bool apply_select(ag_tr *r, ag_titer *it, ag_tv item, ag_tv *out, bool *keep)
{
    const asked *q = it->data;
    ag_tv v = item;
    if (q->attr && !ag__attr_path(r, item, q->path, NULL, &v)) return false;
    if (q->fn && !ag__call_func(r, q->fn, v, &q->args, &v)) return false;
    *keep = ag__tv_true(v) != q->reject;
    *out = item;
    return true;
}

static bool select_with(ag_tr *r, ag_tv self, const ag_targs *all, bool attr, bool reject, ag_tv *out)
{
    asked *q = ag__tr_alloc(r, sizeof *q);
    if (q == NULL) return false;
    *q = (asked){.args = *all, .attr = attr, .reject = reject};
    if (!ag__tv_true(self)) return ag__iter_lazy(r, "generator", self, apply_select, NULL, q, out);
    if (attr) {
        if (all->n == 0) return ag__tr_fail(r, AG_TEMPLATE_RUNTIME, "Missing parameter for attribute name");
        q->path = all->pos[0];
        q->args.pos++;
        q->args.n--;
    }
    if (q->args.n) {
        ag_tv name = q->args.pos[0];
        q->fn = name.type == AG_TV_STR ? ag__t_test_find(ag__tv_text(name)) : NULL;
        if (q->fn == NULL) return unknown(r, "test", name);
        q->args.pos++;
        q->args.n--;
    }
    return ag__iter_lazy(r, "generator", self, apply_select, NULL, q, out);
}

#define SELECT(name, attr, reject) \
    static bool name(ag_tr *r, ag_tv self, const ag_tv *a AG_UNUSED, const ag_targs *all, ag_tv *out) \
    { return select_with(r, self, all, attr, reject, out); }
SELECT(f_select, false, false)
SELECT(f_reject, false, true)
SELECT(f_selectattr, true, false)
SELECT(f_rejectattr, true, true)

FILTER0(f_random)
{
    int64_t n;
    if (!ag__op_len(r, self, &n)) return false;
    if (n == 0) return ag__tv_undef(r, AG_TUNDEF_HINT, NULL, AG_STR("No random item, sequence was empty."), out);
    r->seed = r->seed * 6364136223846793005ULL + 1442695040888963407ULL;
    return ag__op_item(r, self, ag__tv_int((int64_t)((r->seed >> 33) % (uint64_t)n)), out);
}

const ag_tfunc ag__filters_seq[] = {
    {"length", "", 0, f_length},
    {"count", "", 0, f_length},
    {"first", "", 0, f_first},
    {"last", "", 0, f_last},
    {"list", "", 0, f_list},
    {"reverse", "", 0, f_reverse},
    {"join", "d attribute", 0, f_join},
    {"sort", "reverse case_sensitive attribute", 0, f_sort},
    {"dictsort", "case_sensitive by reverse", 0, f_dictsort},
    {"groupby", "attribute default case_sensitive", 1, f_groupby},
    {"min", "case_sensitive attribute", 0, f_min},
    {"max", "case_sensitive attribute", 0, f_max},
    {"sum", "attribute start", 0, f_sum},
    {"unique", "case_sensitive attribute", 0, f_unique},
    {"items", "", 0, f_items},
    {"batch", "linecount fill_with", 1, f_batch},
    {"slice", "slices fill_with", 1, f_slice},
    {"map", "*", 0, f_map},
    {"select", "*", 0, f_select},
    {"reject", "*", 0, f_reject},
    {"selectattr", "*", 0, f_selectattr},
    {"rejectattr", "*", 0, f_rejectattr},
    {"random", "", 0, f_random},
    {NULL, NULL, 0, NULL},
};
