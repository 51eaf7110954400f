/* Functions that every template can call, and the clock. */
#include <time.h>

#include "model/template/value.h"

#define RANGE_ITEMS_MAX 100000 /* as jinja2's sandbox */

#define GLOBAL(name) \
    static bool name(ag_tr *r, ag_tv self AG_UNUSED, const ag_tv *a AG_UNUSED, const ag_targs *all AG_UNUSED, \
                     ag_tv *out)

GLOBAL(g_range)
{
    ag_trange g = {.step = 1};
    int64_t first;
    if (!ag__op_int(r, a[0], &first)) return false;
    if (a[1].type == AG_TV_MISSING) {
        g.stop = first;
    } else {
        g.start = first;
        if (!ag__op_int(r, a[1], &g.stop) || !ag__arg_int(r, a[2], 1, &g.step)) return false;
    }
    if (g.step == 0) return ag__tr_fail(r, AG_TEMPLATE_RUNTIME, "ValueError: range() arg 3 must not be zero");
    uint64_t span = 0, step = g.step < 0 ? 0 - (uint64_t)g.step : (uint64_t)g.step;
    if (g.step > 0 ? g.stop > g.start : g.stop < g.start) {
        span = g.step > 0 ? (uint64_t)g.stop - (uint64_t)g.start : (uint64_t)g.start - (uint64_t)g.stop;
    }
    uint64_t n = span ? (span - 1) / step + 1 : 0;
    if (n > RANGE_ITEMS_MAX) {
        return ag__tr_fail(r, AG_TEMPLATE_RUNTIME,
                           "OverflowError: Range too big. The sandbox blocks ranges larger than %d.",
                           RANGE_ITEMS_MAX);
    }
    g.n = (int64_t)n;
    ag_trange *own = ag__tr_alloc(r, sizeof *own);
    if (own == NULL) return false;
    *own = g;
    *out = AG_TV(AG_TV_RANGE, .r = own);
    return true;
}

/* dict(mapping or pairs, k = v): a fresh one. */
static bool g_dict(ag_tr *r, ag_tv self AG_UNUSED, const ag_tv *a AG_UNUSED, const ag_targs *all, ag_tv *out)
{
    if (all->n > 1) return ag__tr_type_error(r, "dict expected at most 1 argument, got %u", all->n);
    if (!ag__tv_dict(r, 0, out)) return false;
    if (all->n && all->pos[0].type == AG_TV_DICT) {
        const ag_tdict *d = all->pos[0].d;
        for (uint32_t i = 0; i < d->n; i++) {
            if (!ag__tv_dict_set(r, out->d, d->p[i].k, d->p[i].v)) return false;
        }
    } else if (all->n) {
        ag_titer *it = ag__iter_open(r, all->pos[0]);
        ag_tv pair, two;
        int rc = -1;
        while (it && (rc = ag__iter_next(r, it, &pair)) == 1) {
            if (!ag__iter_list(r, pair, &two)) return false;
            if (two.l->n != 2) {
                return ag__tr_fail(r, AG_TEMPLATE_RUNTIME, "ValueError: dictionary update sequence needs pairs");
            }
            if (!ag__tv_dict_set(r, out->d, two.l->p[0], two.l->p[1])) return false;
        }
        if (rc != 0) return false;
    }
    for (uint32_t i = 0; i < all->n_kw; i++) {
        if (!ag__tv_dict_set(r, out->d, all->kw[i].k, all->kw[i].v)) return false;
    }
    return true;
}

GLOBAL(g_namespace)
{
    if (!g_dict(r, self, a, all, out)) return false;
    out->type = AG_TV_NAMESPACE;
    return true;
}

static bool cycler_new(ag_tr *r, ag_tv_type type, const ag_tv *items, uint32_t n, ag_tv *out)
{
    ag_tcycler *c = ag__tr_alloc(r, sizeof *c);
    ag_tv list;
    if (c == NULL || !ag__tv_list(r, AG_TV_LIST, n, &list)) return false;
    for (uint32_t i = 0; i < n; i++) list.l->p[i] = items[i];
    *c = (ag_tcycler){.items = list.l};
    *out = AG_TV(type, .cycler = c);
    return true;
}

GLOBAL(g_cycler)
{
    if (all->n == 0) return ag__tr_fail(r, AG_TEMPLATE_RUNTIME, "RuntimeError: at least one item has to be provided");
    return cycler_new(r, AG_TV_CYCLER, all->pos, all->n, out);
}

GLOBAL(g_joiner)
{
    ag_tv sep = a[0];
    if (sep.type == AG_TV_MISSING && !ag__tv_strz(r, ", ", &sep)) return false;
    return cycler_new(r, AG_TV_JOINER, &sep, 1, out);
}

GLOBAL(g_raise)
{
    ag_tv text;
    (void)out;
    if (!ag__tv_str(r, a[0], &text)) return false;
    return ag__tr_fail(r, AG_TEMPLATE_RAISED, "%.*s", (int)AG_MIN(text.s->n, (size_t)479), text.s->p);
}

GLOBAL(g_strftime)
{
    ag_str fmt;
    return ag__arg_str(r, a[0], "strftime() argument 1", &fmt) && ag__strftime(r, fmt, out);
}

const ag_tfunc ag__globals[] = {
    {"range", "/start stop step", 1, g_range},
    {"dict", "*", 0, g_dict},
    {"namespace", "*", 0, g_namespace},
    {"cycler", "*", 0, g_cycler},
    {"joiner", "sep", 0, g_joiner},
    {"raise_exception", "message", 1, g_raise},
    {"strftime_now", "format", 1, g_strftime},
    {NULL, NULL, 0, NULL},
};

/* One directive at a time, so that no width in the format can ask for more than a line. */
bool ag__strftime(ag_tr *r, ag_str fmt, ag_tv *out)
{
    struct tm tm;
    time_t t = (time_t)r->now;
    ag_tsink s;
    ag__sink_begin(r, &s);
    if (gmtime_r(&t, &tm) == NULL) return ag__tr_fail(r, AG_TEMPLATE_RUNTIME, "the clock is out of range");
    for (size_t i = 0; i < fmt.n && !s.failed;) {
        size_t from = i++;
        if (fmt.p[from] != '%') {
            ag__sink_addc(&s, fmt.p[from]);
            continue;
        }
        while (i < fmt.n && fmt.p[i] && strchr("_-0^#", fmt.p[i])) i++;
        size_t digits = i;
        while (i < fmt.n && fmt.p[i] >= '0' && fmt.p[i] <= '9') i++;
        bool wide = i - digits > 2;
        if (i < fmt.n && (fmt.p[i] == 'E' || fmt.p[i] == 'O')) i++;
        char directive[24], text[256];
        size_t n = i - from + 1;
        if (i >= fmt.n || fmt.p[i] == 0 || wide || n >= sizeof directive) {
            ag__sink_add(&s, fmt.p + from, i - from);
            continue;
        }
        char c = fmt.p[i++];
        memcpy(directive, fmt.p + from, n);
        directive[n] = 0;
        if (c == 'f') ag__sink_addz(&s, "000000");
        else if (c != 'z' && c != 'Z') ag__sink_add(&s, text, strftime(text, sizeof text, directive, &tm));
    }
    return ag__sink_end(&s, out);
}
