#include "model/template/uni.h"
#include "model/template/value.h"

bool ag__tv_iterable(ag_tv v)
{
    switch (v.type) {
    case AG_TV_UNDEF: case AG_TV_STR: case AG_TV_LIST: case AG_TV_TUPLE: case AG_TV_DICT: case AG_TV_RANGE:
    case AG_TV_VIEW: case AG_TV_ITER: case AG_TV_LOOP:
        return true;
    default:
        return false;
    }
}

ag_titer *ag__iter_open(ag_tr *r, ag_tv v)
{
    if (v.type == AG_TV_ITER) return v.it;
    if (!ag__tv_iterable(v)) {
        ag__tr_type_error(r, "'%s' object is not iterable", ag__tv_type_name(v));
        return NULL;
    }
    ag_titer *it = ag__tr_alloc(r, sizeof *it);
    if (it) *it = (ag_titer){.src = v};
    return it;
}

bool ag__iter_lazy(ag_tr *r, const char *what, ag_tv src, ag_titer_map *map, ag_titer_make *make, const void *data,
                   ag_tv *out)
{
    ag_titer *it = ag__tr_alloc(r, sizeof *it);
    if (it == NULL) return false;
    *it = (ag_titer){.src = src, .what = what, .map = map, .make = make, .data = data};
    *out = AG_TV(AG_TV_ITER, .it = it);
    return true;
}

bool ag__iter_reversed(ag_tr *r, ag_tv v, ag_tv *out)
{
    ag_tv all = v;
    if (v.type == AG_TV_STR && !ag__iter_list(r, v, &all)) return false;
    if (!ag__iter_lazy(r, "reversed", all, NULL, NULL, NULL, out)) return false;
    out->it->reverse = true;
    return true;
}

static int view_item(ag_tr *r, const ag_tdict *d, ag_tview_kind kind, size_t i, ag_tv *out)
{
    if (kind == AG_TVIEW_KEYS) *out = d->p[i].k;
    else if (kind == AG_TVIEW_VALUES) *out = d->p[i].v;
    else if (!ag__tv_pair(r, d->p[i].k, d->p[i].v, out)) return -1;
    return 1;
}

static int char_item(ag_tr *r, ag_titer *it, ag_tv *out)
{
    const char *p = it->src.s->p + it->at, *q = p, *end = it->src.s->p + it->src.s->n;
    if (p >= end) return 0;
    ag__uni_next(&q, end);
    it->at += (size_t)(q - p);
    if (!ag__tv_borrow(r, p, (size_t)(q - p), out)) return -1;
    out->flags = it->src.flags;
    return 1;
}

static size_t sized(ag_tv v)
{
    return v.type == AG_TV_RANGE ? (size_t)v.r->n
           : v.type == AG_TV_DICT ? v.d->n
           : v.type == AG_TV_VIEW ? v.v->dict->n
           : ag__tv_is_seq(v) ? v.l->n : 0;
}

static int loop_item(ag_tr *r, ag_tloop *loop, ag_tv *out)
{
    ag_tv item;
    if (loop->after.type != AG_TV_MISSING) {
        item = loop->after;
        loop->after = AG_TV(AG_TV_MISSING);
    } else {
        int rc = ag__iter_next(r, loop->it, &item);
        if (rc <= 0) return rc;
    }
    loop->index0++;
    loop->before = loop->current;
    loop->current = item;
    return ag__tv_pair(r, item, AG_TV(AG_TV_LOOP, .loop = loop), out) ? 1 : -1;
}

static int plain_item(ag_tr *r, ag_titer *it, ag_tv *out)
{
    ag_tv v = it->src;
    if (v.type == AG_TV_STR) return char_item(r, it, out);
    if (v.type == AG_TV_ITER) return ag__iter_next(r, v.it, out);
    if (v.type == AG_TV_LOOP) return loop_item(r, v.loop, out);
    size_t n = sized(v);
    if (it->at >= n) return 0;
    size_t i = it->reverse ? n - 1 - it->at : it->at;
    it->at++;
    switch (v.type) {
    case AG_TV_RANGE: *out = ag__tv_int(v.r->start + (int64_t)i * v.r->step); return 1;
    case AG_TV_DICT: *out = v.d->p[i].k; return 1;
    case AG_TV_VIEW: return view_item(r, v.v->dict, v.v->kind, i, out);
    default: *out = v.l->p[i]; return 1;
    }
}

static int mapped_item(ag_tr *r, ag_titer *it, ag_tv *out)
{
    if (!it->opened) {
        it->opened = true;
        if (!ag__tv_true(it->src)) return 0;
        it->inner = ag__iter_open(r, it->src);
    }
    if (it->inner == NULL) return -1;
    ag_tv item, made;
    int rc;
    bool keep = false;
    while ((rc = ag__iter_next(r, it->inner, &item)) == 1) {
        if (!it->map(r, it, item, &made, &keep)) return -1;
        if (!keep) continue;
        *out = made; /* only then: who asks keeps what it had at the end */
        return 1;
    }
    return rc;
}

int ag__iter_next(ag_tr *r, ag_titer *it, ag_tv *out)
{
    if (it->done) return 0;
    if (!ag__tr_enter(r)) return -1;
    int rc = 0;
    if (it->make) { /* whole at the first step */
        ag_tv all;
        ag_titer_make *make = it->make;
        it->make = NULL;
        if (make(r, it, &all)) it->src = all;
        else rc = -1;
    }
    if (rc == 0) rc = it->map ? mapped_item(r, it, out) : plain_item(r, it, out);
    it->done = rc != 1;
    ag__tr_leave(r);
    return rc;
}

bool ag__iter_list(ag_tr *r, ag_tv v, ag_tv *out)
{
    ag_titer *it = ag__iter_open(r, v);
    ag_tv item;
    int rc;
    if (it == NULL || !ag__tv_list(r, AG_TV_LIST, 0, out)) return false;
    if (ag__tv_is_seq(v)) { /* immutable: the items can be shared */
        *out->l = *v.l;
        return true;
    }
    while ((rc = ag__iter_next(r, it, &item)) == 1) {
        if (!ag__tv_list_add(r, out->l, item)) return false;
    }
    return rc == 0;
}
