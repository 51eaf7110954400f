#include "model/template/value.h"

ag_tenv *ag__env_new(ag_tr *r, ag_tenv *outer, uint32_t n_slots)
{
    ag_tenv *e = ag__tr_alloc(r, sizeof *e + n_slots * sizeof(ag_tv));
    if (e == NULL) return NULL;
    e->outer = outer;
    for (uint32_t i = 0; i < n_slots; i++) e->slot[i] = AG_TV(AG_TV_MISSING);
    return e;
}

bool ag__scope_enter(ag_tr *r, ag_tenv *env, const ag_tscope *s)
{
    for (uint32_t i = 0; i < s->n_loads; i++) {
        const ag_tload *l = &s->loads[i];
        if (l->kind == AG_TLOAD_PARAM) continue;
        ag_tv *to = &env->slot[l->slot];
        *to = AG_TV(AG_TV_MISSING);
        if (l->kind == AG_TLOAD_RESOLVE && !ag__tr_resolve(r, l->name, to)) return false;
        if (l->kind != AG_TLOAD_ALIAS) continue;
        const ag_tenv *from = env;
        for (uint32_t h = 0; h < l->from.hops; h++) from = from->outer;
        *to = from->slot[l->from.slot];
    }
    return ag__tr_work(r, s->n_loads * (size_t)64);
}

void ag__scope_leave(ag_tenv *env, const ag_tscope *s)
{
    for (uint32_t i = 0; i < s->n_loads; i++) env->slot[s->loads[i].slot] = AG_TV(AG_TV_MISSING);
}

static bool assign_tuple(ag_tr *r, ag_tenv *env, const ag_tn *target, ag_tv v, bool toplevel)
{
    ag_titer *it = ag__iter_open(r, v);
    ag_tv item;
    int rc = it ? 1 : -1;
    ag_tv got;
    if (it == NULL || !ag__tv_list(r, AG_TV_LIST, 0, &got)) return false;
    while (got.l->n <= target->items.n && (rc = ag__iter_next(r, it, &item)) == 1) {
        if (!ag__tv_list_add(r, got.l, item)) return false;
    }
    if (rc < 0) return false;
    if (got.l->n != target->items.n) {
        return ag__tr_fail(r, AG_TEMPLATE_RUNTIME, "ValueError: %s values to unpack (expected %u)",
                           got.l->n > target->items.n ? "too many" : "not enough", target->items.n);
    }
    for (uint32_t i = 0; i < target->items.n; i++) {
        if (!ag__assign(r, env, target->items.p[i], got.l->p[i], toplevel)) return false;
    }
    return true;
}

bool ag__assign(ag_tr *r, ag_tenv *env, const ag_tn *target, ag_tv v, bool toplevel)
{
    ag_tv k;
    ag_tenv *at = env;
    if (target->kind == AG_TN_TUPLE) {
        if (!ag__tr_enter(r)) return false;
        bool ok = assign_tuple(r, env, target, v, toplevel);
        ag__tr_leave(r);
        return ok;
    }
    for (uint32_t i = 0; i < target->ref.hops; i++) at = at->outer;
    ag_tv *slot = &at->slot[target->ref.slot];
    if (target->kind == AG_TN_NAME) {
        *slot = v;
        if (toplevel) r->context[target->name] = v;
        return true;
    }
    if (slot->type != AG_TV_NAMESPACE) {
        return ag__tr_fail(r, AG_TEMPLATE_RUNTIME, "cannot assign attribute on non-namespace object");
    }
    return ag__tv_borrow(r, target->s.p, target->s.n, &k) && ag__tv_dict_set(r, slot->d, k, v);
}

static ag_texec exec_if(ag_tr *r, ag_tenv *env, const ag_tn *n)
{
    ag_tv v;
    for (uint32_t i = 0; i < n->n_branches; i++) {
        const ag_tbranch *b = &n->branches[i];
        if (b->test && !ag__eval(r, env, b->test, &v)) return AG_TEXEC_FAIL;
        if (b->test == NULL || ag__tv_true(v)) return ag__exec(r, env, &b->body);
    }
    return AG_TEXEC_NEXT;
}

typedef struct for_test {
    const ag_tn *node;
    ag_tenv *env;
    bool entered;
} for_test;

/* The `if` of a for: asked lazily, one item at a time, between the rounds of the body. */
static bool for_filter(ag_tr *r, ag_titer *it, ag_tv item, ag_tv *out, bool *keep)
{
    for_test *t = (for_test *)(uintptr_t)it->data;
    const ag_tfor *f = t->node->loop;
    ag_tv yes;
    if (!t->entered && !ag__scope_enter(r, t->env, &f->test_scope)) return false;
    t->entered = true;
    if (!ag__assign(r, t->env, f->test_target, item, false) || !ag__eval(r, t->env, f->test, &yes)) return false;
    *keep = ag__tv_true(yes);
    *out = item;
    return true;
}

static bool for_source(ag_tr *r, ag_tenv *env, const ag_tn *n, ag_tv items, ag_tv *out)
{
    *out = items;
    if (n->loop->test == NULL) return true;
    for_test *t = ag__tr_alloc(r, sizeof *t);
    if (t == NULL || ag__iter_open(r, items) == NULL) return false;
    *t = (for_test){.node = n, .env = env};
    return ag__iter_lazy(r, "generator", items, for_filter, NULL, t, out);
}

/* One round after the other; *empty stays true until a body ran to its end, as in Python's translation. */
static ag_texec for_rounds(ag_tr *r, ag_tenv *env, const ag_tn *n, ag_titer *it, bool *empty)
{
    const ag_tfor *f = n->loop;
    ag_tv item;
    int rc;
    while ((rc = ag__iter_next(r, it, &item)) == 1) {
        if (f->uses_loop) {
            env->slot[f->loop_slot] = item.l->p[1];
            item = item.l->p[0];
        }
        if (!ag__assign(r, env, n->a, item, false) || !ag__scope_enter(r, env, &f->scope)) return AG_TEXEC_FAIL;
        ag_texec e = ag__exec(r, env, &n->items);
        if (e == AG_TEXEC_FAIL) return e;
        if (e == AG_TEXEC_BREAK) break;
        if (e == AG_TEXEC_NEXT) *empty = false;
    }
    return rc < 0 ? AG_TEXEC_FAIL : AG_TEXEC_NEXT;
}

static ag_texec run_loop(ag_tr *r, ag_tenv *env, const ag_tn *n, ag_tv items, uint32_t depth0)
{
    const ag_tfor *f = n->loop;
    ag_tv src, loop_value;
    bool empty = true;
    if (!for_source(r, env, n, items, &src)) return AG_TEXEC_FAIL;
    ag_titer *it = ag__iter_open(r, src);
    if (it == NULL) return AG_TEXEC_FAIL;
    if (f->uses_loop) {
        ag_tloop *loop = ag__tr_alloc(r, sizeof *loop);
        if (loop == NULL) return AG_TEXEC_FAIL;
        *loop = (ag_tloop){.it = it, .src = src, .index0 = -1, .length = -1, .depth0 = depth0, .node = n, .env = env};
        loop_value = AG_TV(AG_TV_LOOP, .loop = loop);
        if ((it = ag__iter_open(r, loop_value)) == NULL) return AG_TEXEC_FAIL;
    }
    if (for_rounds(r, env, n, it, &empty) == AG_TEXEC_FAIL) return AG_TEXEC_FAIL;
    ag__scope_leave(env, &f->scope);
    if (!empty || f->other.n == 0) return AG_TEXEC_NEXT;
    if (!ag__scope_enter(r, env, &f->else_scope)) return AG_TEXEC_FAIL;
    ag_texec e = ag__exec(r, env, &f->other);
    ag__scope_leave(env, &f->else_scope);
    return e;
}

/* A recursive loop is a function that returns its text. */
static bool recursive_loop(ag_tr *r, ag_tenv *outer, const ag_tn *n, ag_tv items, uint32_t depth0, ag_tv *out)
{
    ag_tsink s, *old = r->sink;
    ag_tenv *env = ag__env_new(r, outer, n->loop->n_slots);
    if (env == NULL) return false;
    ag__sink_begin(r, &s);
    r->sink = &s;
    ag_texec e = run_loop(r, env, n, items, depth0);
    r->sink = old;
    return e != AG_TEXEC_FAIL && ag__sink_end(&s, out);
}

bool ag__loop_call(ag_tr *r, const ag_tloop *loop, ag_tv items, ag_tv *out)
{
    if (!loop->node->loop->recursive) {
        return ag__tr_type_error(r, "The loop must have the 'recursive' marker to be called recursively.");
    }
    return recursive_loop(r, loop->env->outer, loop->node, items, loop->depth0 + 1, out);
}

static ag_texec exec_for(ag_tr *r, ag_tenv *env, const ag_tn *n)
{
    ag_tv items, text;
    if (!ag__eval(r, env, n->b, &items)) return AG_TEXEC_FAIL;
    r->pos = n->pos;
    if (!n->loop->recursive) return run_loop(r, env, n, items, 0);
    bool ok = recursive_loop(r, env, n, items, 0, &text) && ag__tr_print(r, text);
    return ok ? AG_TEXEC_NEXT : AG_TEXEC_FAIL;
}

/* The body's text of a set block or filter block, filtered; BREAK and CONTINUE pass through and drop it. */
static ag_texec captured(ag_tr *r, ag_tenv *env, const ag_tn *n, const ag_tn *filter, ag_tv *out)
{
    ag_tsink s, *old = r->sink;
    if (!ag__scope_enter(r, env, n->scope)) return AG_TEXEC_FAIL;
    ag__sink_begin(r, &s);
    r->sink = &s;
    ag_texec e = ag__exec(r, env, &n->items);
    r->sink = old;
    if (e == AG_TEXEC_NEXT && !ag__sink_end(&s, out)) return AG_TEXEC_FAIL;
    const ag_tn *chain[32];
    uint32_t k = 0;
    for (; filter && e == AG_TEXEC_NEXT; filter = filter->a) {
        if (k == AG_ARRAY_LEN(chain)) {
            ag__tr_fail(r, AG_TEMPLATE_LIMIT, "more than 32 filters on one block");
            return AG_TEXEC_FAIL;
        }
        chain[k++] = filter;
    }
    while (k > 0) {
        const ag_tfunc *fn = chain[--k]->def;
        ag_targs args;
        r->pos = chain[k]->pos;
        if (fn == NULL) ag__tr_fail(r, AG_TEMPLATE_RUNTIME, "No filter named '%.*s' found.", (int)AG_MIN(chain[k]->s.n,
                                    (size_t)100), chain[k]->s.p);
        if (fn == NULL || !ag__eval_args(r, env, chain[k]->args, &args) || !ag__call_func(r, fn, *out, &args, out)) {
            return AG_TEXEC_FAIL;
        }
    }
    return e;
}

static ag_texec exec_captured(ag_tr *r, ag_tenv *env, const ag_tn *n)
{
    ag_tv text;
    bool set = n->kind == AG_TN_SETBLOCK;
    ag_texec e = captured(r, env, n, set ? n->b : n->a, &text);
    if (e != AG_TEXEC_NEXT) return e;
    bool ok = set ? ag__assign(r, env, n->a, text, n->toplevel) : ag__tr_print(r, text);
    ag__scope_leave(env, n->scope);
    return ok ? AG_TEXEC_NEXT : AG_TEXEC_FAIL;
}

static bool macro_value(ag_tr *r, ag_tenv *env, const ag_tn *n, ag_tv *out)
{
    ag_tmacro_value *m = ag__tr_alloc(r, sizeof *m);
    if (m == NULL) return false;
    *m = (ag_tmacro_value){.def = n->macro, .node = n, .env = env};
    *out = AG_TV(AG_TV_MACRO, .m = m);
    return true;
}

static bool exec_macro(ag_tr *r, ag_tenv *env, const ag_tn *n)
{
    ag_tv v;
    if (!macro_value(r, env, n, &v)) return false;
    env->slot[n->ref.slot] = v;
    if (n->toplevel) r->context[n->name] = v;
    return true;
}

static bool exec_call_block(ag_tr *r, ag_tenv *env, const ag_tn *n)
{
    ag_tv caller, fn, text;
    ag_targs args = {0};
    if (!macro_value(r, env, n, &caller)) return false;
    if (n->a == NULL) { /* generation */
        return ag__call(r, caller, &args, &text) && ag__tr_print(r, text);
    }
    if (!ag__eval(r, env, n->a->a, &fn) || !ag__eval_args(r, env, n->a->args, &args)) return false;
    ag_tpair *kw = ag__tr_array(r, args.n_kw + 1, sizeof *kw);
    if (kw == NULL || !ag__tv_strz(r, "caller", &kw[args.n_kw].k)) return false;
    if (args.n_kw) memcpy(kw, args.kw, args.n_kw * sizeof *kw);
    kw[args.n_kw++].v = caller;
    args.kw = kw;
    r->pos = n->a->pos;
    return ag__call(r, fn, &args, &text) && ag__tr_print(r, text);
}

static ag_texec exec_with(ag_tr *r, ag_tenv *env, const ag_tn *n)
{
    ag_tv v;
    if (!ag__scope_enter(r, env, &n->with->scope)) return AG_TEXEC_FAIL;
    for (uint32_t i = 0; i < n->with->targets.n; i++) {
        if (!ag__eval(r, env, n->with->values.p[i], &v)) return AG_TEXEC_FAIL;
        if (!ag__assign(r, env, n->with->targets.p[i], v, false)) return AG_TEXEC_FAIL;
    }
    ag_texec e = ag__exec(r, env, &n->items);
    ag__scope_leave(env, &n->with->scope);
    return e;
}

static ag_texec exec_autoescape(ag_tr *r, ag_tenv *env, const ag_tn *n)
{
    ag_tv v;
    if (!ag__eval(r, env, n->a, &v)) return AG_TEXEC_FAIL;
    if (ag__tv_true(v)) {
        ag__tr_fail(r, AG_TEMPLATE_RUNTIME, "autoescape is not supported: prompts are not HTML");
        return AG_TEXEC_FAIL;
    }
    if (!ag__scope_enter(r, env, n->scope)) return AG_TEXEC_FAIL;
    ag_texec e = ag__exec(r, env, &n->items);
    ag__scope_leave(env, n->scope);
    return e;
}

static bool exec_block(ag_tr *r, const ag_tn *n)
{
    ag_tenv *env = ag__env_new(r, NULL, n->block->n_slots);
    return env && ag__scope_enter(r, env, &n->block->scope) && ag__exec(r, env, &n->items) != AG_TEXEC_FAIL;
}

static bool exec_set(ag_tr *r, ag_tenv *env, const ag_tn *n)
{
    ag_tv v;
    if (!ag__eval(r, env, n->b, &v)) return false;
    r->pos = n->pos;
    return ag__assign(r, env, n->a, v, n->toplevel);
}

static ag_texec exec_one(ag_tr *r, ag_tenv *env, const ag_tn *n)
{
    ag_tv v;
    bool ok = false;
    r->pos = n->pos;
    switch (n->kind) {
    case AG_TN_DATA: ok = ag__tr_work(r, 256) && ag__tr_write(r, n->s.p, n->s.n); break;
    case AG_TN_PRINT: ok = ag__eval(r, env, n->a, &v) && ag__tr_print(r, v); break;
    case AG_TN_IF: return exec_if(r, env, n);
    case AG_TN_FOR: return exec_for(r, env, n);
    case AG_TN_SET: ok = exec_set(r, env, n); break;
    case AG_TN_SETBLOCK: case AG_TN_FILTERBLOCK: return exec_captured(r, env, n);
    case AG_TN_MACRO: ok = exec_macro(r, env, n); break;
    case AG_TN_CALLBLOCK: ok = exec_call_block(r, env, n); break;
    case AG_TN_WITH: return exec_with(r, env, n);
    case AG_TN_AUTOESCAPE: return exec_autoescape(r, env, n);
    case AG_TN_BREAK: return AG_TEXEC_BREAK;
    case AG_TN_CONTINUE: return AG_TEXEC_CONTINUE;
    case AG_TN_BLOCK: ok = exec_block(r, n); break;
    default:
        ag__tr_fail(r, AG_TEMPLATE_RUNTIME, "TypeError: no loader for this environment specified");
    }
    return ok ? AG_TEXEC_NEXT : AG_TEXEC_FAIL;
}

ag_texec ag__exec(ag_tr *r, ag_tenv *env, const ag_tnlist *body)
{
    ag_texec e = AG_TEXEC_NEXT;
    if (!ag__tr_enter(r)) return AG_TEXEC_FAIL;
    for (uint32_t i = 0; e == AG_TEXEC_NEXT && i < body->n; i++) e = exec_one(r, env, body->p[i]);
    ag__tr_leave(r);
    return e;
}

/* The value of parameter `i` of m among the arguments; missing when not given. */
static ag_tv macro_arg(const ag_tmacro_value *m, const ag_targs *args, uint32_t i, bool *used, const ag_str *names)
{
    if (i < args->n) return args->pos[i];
    for (uint32_t k = 0; k < args->n_kw; k++) {
        if (!ag_str_eq(ag__tv_text(args->kw[k].k), names[m->def->args.p[i]->name])) continue;
        used[k] = true;
        return args->kw[k].v;
    }
    return AG_TV(AG_TV_MISSING);
}

static bool macro_rest(ag_tr *r, const ag_tmacro_value *m, const ag_targs *args, bool *used, ag_tenv *env)
{
    const ag_tmacro *d = m->def;
    ag_tv rest;
    if (d->uses_caller && !d->explicit_caller) {
        ag_tv *caller = &env->slot[d->caller_slot];
        if (!ag__tv_undef(r, AG_TUNDEF_HINT, NULL, AG_STR("No caller defined"), caller)) return false;
        for (uint32_t k = 0; k < args->n_kw; k++) {
            if (used[k] || !ag_str_eqz(ag__tv_text(args->kw[k].k), "caller")) continue;
            used[k] = true;
            if (args->kw[k].v.type != AG_TV_NONE) *caller = args->kw[k].v;
        }
    }
    if (!ag__tv_dict(r, 0, &rest)) return false;
    for (uint32_t k = 0; k < args->n_kw; k++) {
        if (used[k]) continue;
        if (!d->uses_kwargs) {
            return ag__tr_type_error(r, "macro '%.*s' takes no keyword argument '%.*s'",
                                     (int)AG_MIN(d->name.n, (size_t)80),
                                     d->name.p, (int)AG_MIN(args->kw[k].k.s->n, (size_t)80), args->kw[k].k.s->p);
        }
        if (!ag__tv_dict_set(r, rest.d, args->kw[k].k, args->kw[k].v)) return false;
    }
    if (d->uses_kwargs) env->slot[d->kwargs_slot] = rest;
    uint32_t extra = args->n > d->args.n ? args->n - d->args.n : 0;
    if (extra && !d->uses_varargs) {
        return ag__tr_type_error(r, "macro '%.*s' takes not more than %u argument(s)",
                                 (int)AG_MIN(d->name.n, (size_t)80),
                                 d->name.p, d->args.n);
    }
    if (!d->uses_varargs) return true;
    if (!ag__tv_list(r, AG_TV_TUPLE, extra, &env->slot[d->varargs_slot])) return false;
    for (uint32_t i = 0; i < extra; i++) env->slot[d->varargs_slot].l->p[i] = args->pos[d->args.n + i];
    return true;
}

static bool macro_defaults(ag_tr *r, const ag_tmacro_value *m, ag_tenv *env)
{
    const ag_tmacro *d = m->def;
    for (uint32_t i = 0; i < d->args.n; i++) {
        ag_tv *slot = &env->slot[d->arg_slot[i]];
        if (slot->type != AG_TV_MISSING) continue;
        uint32_t first = d->args.n - d->defaults.n;
        if (i >= first) {
            if (!ag__eval(r, env, d->defaults.p[i - first], slot)) return false;
        } else {
            char text[160];
            ag_str name = r->t->names[d->args.p[i]->name];
            ag_tv hint;
            snprintf(text, sizeof text, "parameter '%.*s' was not provided", (int)AG_MIN(name.n, (size_t)100), name.p);
            if (!ag__tv_copy(r, text, strlen(text), &hint)) return false;
            if (!ag__tv_undef(r, AG_TUNDEF_HINT, NULL, ag__tv_text(hint), slot)) return false;
        }
    }
    return true;
}

bool ag__macro_call(ag_tr *r, const ag_tmacro_value *m, const ag_targs *args, ag_tv *out)
{
    const ag_tmacro *d = m->def;
    ag_tenv *env = ag__env_new(r, m->env, d->n_slots);
    bool *used = ag__tr_array(r, args->n_kw, sizeof *used);
    if (env == NULL || used == NULL) return false;
    for (uint32_t i = 0; i < d->args.n; i++) env->slot[d->arg_slot[i]] = macro_arg(m, args, i, used, r->t->names);
    if (!macro_rest(r, m, args, used, env) || !ag__scope_enter(r, env, &d->scope)) return false;
    ag_tsink s, *old = r->sink;
    ag__sink_begin(r, &s);
    r->sink = &s;
    bool ok = macro_defaults(r, m, env) && ag__exec(r, env, &m->node->items) != AG_TEXEC_FAIL;
    r->sink = old;
    return ok && ag__sink_end(&s, out);
}
