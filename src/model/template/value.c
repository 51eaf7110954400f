#include "model/template/uni.h"
#include "model/template/value.h"

#define GROW_MIN 64

bool ag__tv_borrow(ag_tr *r, const char *p, size_t n, ag_tv *out)
{
    ag_tstr *s = ag__tr_alloc(r, sizeof *s);
    if (s == NULL) return false;
    *s = (ag_tstr){.p = p, .n = n, .chars = -1};
    *out = AG_TV(AG_TV_STR, .s = s);
    return true;
}

bool ag__tv_copy(ag_tr *r, const char *p, size_t n, ag_tv *out)
{
    char *own = ag__tr_alloc(r, n);
    if (own == NULL) return false;
    if (n) memcpy(own, p, n);
    return ag__tv_borrow(r, own, n, out);
}

bool ag__tv_strz(ag_tr *r, const char *z, ag_tv *out) { return ag__tv_borrow(r, z, strlen(z), out); }

static ag_tgrow *grow_new(ag_tr *r, size_t cap, size_t size)
{
    ag_tgrow *g = ag__tr_alloc(r, sizeof *g);
    if (g == NULL) return NULL;
    *g = (ag_tgrow){.p = ag__tr_array(r, cap, size), .cap = cap};
    return g->p ? g : NULL;
}

/* Text built by adding to it in a loop stays linear: the left side's bytes are added to in place when it ends where its
 * buffer is filled, else they are copied once into a buffer with room. */
bool ag__tv_concat(ag_tr *r, ag_tv a, ag_tv b, ag_tv *out)
{
    size_t an = a.s->n, bn = b.s->n;
    ag_tgrow *g = a.s->grow;
    if (!ag__tr_work(r, bn)) return false;
    if (g == NULL || a.s->p + an != g->p + g->n || g->cap - g->n < bn) {
        if (!ag__tr_work(r, an)) return false;
        g = grow_new(r, AG_MAX((an + bn) * 2, (size_t)GROW_MIN), 1);
        if (g == NULL) return false;
        if (an) memcpy(g->p, a.s->p, an);
        g->n = an;
    }
    if (bn) memcpy(g->p + g->n, b.s->p, bn);
    g->n += bn;
    if (!ag__tv_borrow(r, g->p + g->n - an - bn, an + bn, out)) return false;
    out->s->grow = g;
    return true;
}

bool ag__tv_list(ag_tr *r, ag_tv_type type, size_t n, ag_tv *out)
{
    ag_tlist *l = ag__tr_alloc(r, sizeof *l);
    if (l == NULL) return false;
    *l = (ag_tlist){.n = n};
    if (n && (l->p = ag__tr_array(r, n, sizeof *l->p)) == NULL) return false;
    *out = AG_TV(type, .l = l);
    return true;
}

bool ag__tv_list_add(ag_tr *r, ag_tlist *l, ag_tv item)
{
    ag_tgrow *g = l->grow;
    if (g == NULL || (char *)(l->p + l->n) != g->p + g->n * sizeof item || g->n == g->cap) {
        if (!ag__tr_work(r, l->n * sizeof item)) return false;
        g = grow_new(r, AG_MAX(l->n * 2, (size_t)4), sizeof item);
        if (g == NULL) return false;
        if (l->n) memcpy(g->p, l->p, l->n * sizeof item);
        g->n = l->n;
        l->grow = g;
        l->p = (ag_tv *)(void *)g->p;
    }
    l->p[l->n++] = item;
    g->n++;
    return true;
}

bool ag__tv_pair(ag_tr *r, ag_tv a, ag_tv b, ag_tv *out)
{
    if (!ag__tv_list(r, AG_TV_TUPLE, 2, out)) return false;
    out->l->p[0] = a;
    out->l->p[1] = b;
    return true;
}

bool ag__tv_dict(ag_tr *r, uint32_t cap, ag_tv *out)
{
    ag_tdict *d = ag__tr_alloc(r, sizeof *d);
    if (d == NULL) return false;
    *d = (ag_tdict){.cap = cap};
    if (cap && (d->p = ag__tr_array(r, cap, sizeof *d->p)) == NULL) return false;
    *out = AG_TV(AG_TV_DICT, .d = d);
    return true;
}

static bool dict_index(ag_tr *r, ag_tdict *d)
{
    uint32_t cap = 32;
    while (cap < d->cap * 2) cap *= 2;
    d->index = ag__tr_array(r, cap, sizeof *d->index);
    if (d->index == NULL) return false;
    d->index_cap = cap;
    for (uint32_t k = 0; k < d->n; k++) {
        uint64_t h;
        if (!ag__tv_hash(r, d->p[k].k, &h)) return false;
        uint32_t i = (uint32_t)h & (cap - 1);
        while (d->index[i]) i = (i + 1) & (cap - 1);
        d->index[i] = k + 1;
    }
    return true;
}

/* The pair of key k, or NULL; *slot: where the index would have it. False: not hashable. */
static bool dict_find(ag_tr *r, const ag_tdict *d, ag_tv k, ag_tpair **pair, uint32_t *slot)
{
    uint64_t h;
    bool same;
    *pair = NULL;
    if (!ag__tv_hash(r, k, &h)) return false;
    if (d->index == NULL) {
        for (uint32_t i = 0; i < d->n; i++) {
            if (!ag__tv_eq(r, d->p[i].k, k, &same)) return false;
            if (!same) continue;
            *pair = &d->p[i];
            return true;
        }
        return true;
    }
    uint32_t i = (uint32_t)h & (d->index_cap - 1);
    for (; d->index[i]; i = (i + 1) & (d->index_cap - 1)) {
        if (!ag__tv_eq(r, d->p[d->index[i] - 1].k, k, &same)) return false;
        if (!same) continue;
        *pair = &d->p[d->index[i] - 1];
        return true;
    }
    *slot = i;
    return true;
}

bool ag__tv_dict_set(ag_tr *r, ag_tdict *d, ag_tv k, ag_tv v)
{
    ag_tpair *pair;
    uint32_t slot = 0;
    if (!dict_find(r, d, k, &pair, &slot)) return false;
    if (pair) {
        pair->v = v;
        return true;
    }
    if (d->n == d->cap) {
        uint32_t cap = d->cap ? d->cap * 2 : 8;
        ag_tpair *more = ag__tr_array(r, cap, sizeof *more);
        if (more == NULL) return false;
        if (d->n) memcpy(more, d->p, d->n * sizeof *more);
        d->p = more;
        d->cap = cap;
        d->index = NULL;
    }
    d->p[d->n++] = (ag_tpair){k, v};
    if (d->n <= 8) return true;
    if (d->index == NULL) return dict_index(r, d);
    d->index[slot] = d->n;
    return true;
}

bool ag__tv_dict_get(ag_tr *r, const ag_tdict *d, ag_tv k, ag_tv *out)
{
    ag_tpair *pair;
    uint32_t slot;
    if (!dict_find(r, d, k, &pair, &slot)) return false;
    *out = pair ? pair->v : AG_TV(AG_TV_MISSING);
    return true;
}

bool ag__tv_undef(ag_tr *r, ag_tundef_kind kind, const char *type, ag_str name, ag_tv *out)
{
    ag_tundef *u = ag__tr_alloc(r, sizeof *u);
    if (u == NULL) return false;
    *u = (ag_tundef){.kind = kind, .type = type, .name = name, .quoted = true};
    *out = AG_TV(AG_TV_UNDEF, .u = u);
    return true;
}

bool ag__tv_undef_fail(ag_tr *r, ag_tv v)
{
    const ag_tundef *u = v.u;
    int n = (int)AG_MIN(u->name.n, (size_t)200);
    const char *q = u->quoted ? "'" : "";
    switch (u->kind) {
    case AG_TUNDEF_NAME:
        return ag__tr_fail(r, AG_TEMPLATE_RUNTIME, "UndefinedError: '%.*s' is undefined", n, u->name.p);
    case AG_TUNDEF_ATTR:
        return ag__tr_fail(r, AG_TEMPLATE_RUNTIME, "UndefinedError: '%s' has no %s %s%.*s%s", u->type,
                           u->quoted ? "attribute" : "element", q, n, u->name.p, q);
    case AG_TUNDEF_UNSAFE:
        return ag__tr_fail(r, AG_TEMPLATE_SANDBOX,
                           "SecurityError: access to attribute '%.*s' of '%s' object is unsafe.",
                           n, u->name.p, u->type);
    default:
        return ag__tr_fail(r, AG_TEMPLATE_RUNTIME, "UndefinedError: %.*s", n, u->name.p);
    }
}

static bool json_container(ag_tr *r, const json_t *j, ag_tv *out)
{
    if (json_is_array(j)) {
        size_t n = json_array_size(j);
        if (!ag__tv_list(r, AG_TV_LIST, n, out)) return false;
        for (size_t i = 0; i < n; i++) {
            if (!ag__tv_json(r, json_array_get(j, i), &out->l->p[i])) return false;
        }
        return true;
    }
    if (!ag__tv_dict(r, (uint32_t)AG_MIN(json_object_size(j), (size_t)UINT32_MAX / 4), out)) return false;
    void *at = json_object_iter((json_t *)(uintptr_t)j); /* jansson's iterators take no const; nothing is changed */
    for (; at; at = json_object_iter_next((json_t *)(uintptr_t)j, at)) {
        const char *key = json_object_iter_key(at);
        ag_tv k, v;
        if (!ag__tv_borrow(r, key, strlen(key), &k) || !ag__tv_json(r, json_object_iter_value(at), &v)) return false;
        if (!ag__tv_dict_set(r, out->d, k, v)) return false;
    }
    return true;
}

bool ag__tv_json(ag_tr *r, const json_t *j, ag_tv *out)
{
    switch (json_typeof(j)) {
    case JSON_NULL: *out = ag__tv_none(); return true;
    case JSON_TRUE: *out = ag__tv_bool(true); return true;
    case JSON_FALSE: *out = ag__tv_bool(false); return true;
    case JSON_INTEGER: *out = ag__tv_int(json_integer_value(j)); return true;
    case JSON_REAL: *out = ag__tv_float(json_real_value(j)); return true;
    case JSON_STRING: return ag__tv_borrow(r, json_string_value(j), json_string_length(j), out);
    default: break;
    }
    if (!ag__tr_enter(r)) return false;
    bool ok = json_container(r, j, out);
    ag__tr_leave(r);
    return ok;
}

int64_t ag__tv_chars(ag_tr *r, ag_tv v)
{
    if (v.s->chars < 0) {
        v.s->chars = (int64_t)ag__uni_count(v.s->p, v.s->n);
        ag__tr_work(r, v.s->n); /* a limit passed here is found at the next step */
    }
    return v.s->chars;
}

const char *ag__tv_type_name(ag_tv v)
{
    static const char *const names[] = {
        "missing", "Undefined", "NoneType", "bool", "int", "float", "str", "list", "tuple", "dict", "range",
        "dict_view",
        "generator", "Namespace", "Macro", "builtin_function_or_method", "function", "LoopContext", "Cycler", "Joiner"};
    if (v.type == AG_TV_STR && (v.flags & AG_TV_MARKUP)) return "Markup";
    return names[v.type];
}
