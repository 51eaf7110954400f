#include "model/template/value.h"

static bool eval_items(ag_tr *r, ag_tenv *env, const ag_tn *n, ag_tv *out)
{
    ag_tv_type type = n->kind == AG_TN_LIST ? AG_TV_LIST : AG_TV_TUPLE;
    if (!ag__tv_list(r, type, n->items.n, out)) return false;
    for (uint32_t i = 0; i < n->items.n; i++) {
        if (!ag__eval(r, env, n->items.p[i], &out->l->p[i])) return false;
    }
    return true;
}

static bool eval_dict(ag_tr *r, ag_tenv *env, const ag_tn *n, ag_tv *out)
{
    ag_tv k, v;
    if (!ag__tv_dict(r, n->items.n / 2, out)) return false;
    for (uint32_t i = 0; i + 1 < n->items.n; i += 2) {
        if (!ag__eval(r, env, n->items.p[i], &k) || !ag__eval(r, env, n->items.p[i + 1], &v)) return false;
        if (!ag__tv_dict_set(r, out->d, k, v)) return false;
    }
    return true;
}

static bool eval_name(ag_tr *r, ag_tenv *env, const ag_tn *n, ag_tv *out)
{
    for (uint32_t i = 0; i < n->ref.hops; i++) env = env->outer;
    *out = env->slot[n->ref.slot];
    if (out->type != AG_TV_MISSING) return true;
    return ag__tv_undef(r, AG_TUNDEF_NAME, NULL, r->t->names[n->name], out);
}

static bool eval_binary(ag_tr *r, ag_tenv *env, const ag_tn *n, ag_tv *out)
{
    ag_tv left, right;
    if (!ag__eval(r, env, n->a, &left)) return false;
    for (uint32_t i = 0; i < n->items.n; i++) {
        if (!ag__eval(r, env, n->items.p[i], &right)) return false;
        r->pos = n->pos;
        if (!ag__op_binary(r, n->ops[i], left, right, &left)) return false;
    }
    *out = left;
    return true;
}

static bool eval_logic(ag_tr *r, ag_tenv *env, const ag_tn *n, ag_tv *out)
{
    for (uint32_t i = 0; i < n->items.n; i++) {
        if (!ag__eval(r, env, n->items.p[i], out)) return false;
        if (ag__tv_true(*out) == (n->kind == AG_TN_OR)) break;
    }
    return true;
}

static bool eval_concat(ag_tr *r, ag_tenv *env, const ag_tn *n, ag_tv *out)
{
    ag_tv v, s;
    if (!ag__eval(r, env, n->a, &v) || !ag__tv_str(r, v, out)) return false;
    for (uint32_t i = 0; i < n->items.n; i++) {
        if (!ag__eval(r, env, n->items.p[i], &v) || !ag__tv_str(r, v, &s)) return false;
        if (!ag__tv_concat(r, *out, s, out)) return false;
    }
    return true;
}

static bool compare_one(ag_tr *r, ag_tok_type op, ag_tv a, ag_tv b, bool *out)
{
    bool ok;
    switch (op) {
    case AG_TOK_EQ: return ag__tv_eq(r, a, b, out);
    case AG_TOK_NE: ok = ag__tv_eq(r, a, b, out); break;
    case AG_TOK_IN: return ag__tv_in(r, a, b, out);
    case AG_TOK_NOTIN: ok = ag__tv_in(r, a, b, out); break;
    default: return ag__tv_order(r, a, b, op, out);
    }
    *out = !*out;
    return ok;
}

static bool eval_compare(ag_tr *r, ag_tenv *env, const ag_tn *n, ag_tv *out)
{
    ag_tv left, right;
    bool yes = true;
    if (!ag__eval(r, env, n->a, &left)) return false;
    for (uint32_t i = 0; yes && i < n->items.n; i++) {
        if (!ag__eval(r, env, n->items.p[i], &right)) return false;
        r->pos = n->pos;
        if (!compare_one(r, n->ops[i], left, right, &yes)) return false;
        left = right;
    }
    *out = ag__tv_bool(yes);
    return true;
}

static bool eval_slice(ag_tr *r, ag_tenv *env, const ag_tn *n, ag_tv obj, ag_tv *out)
{
    ag_tv part[3];
    const ag_tn *node[3] = {n->a, n->b, n->c};
    for (int i = 0; i < 3; i++) {
        part[i] = ag__tv_none();
        if (node[i] && !ag__eval(r, env, node[i], &part[i])) return false;
    }
    r->pos = n->pos;
    return ag__op_slice(r, obj, part[0], part[1], part[2], out);
}

static bool kw_add(ag_tr *r, ag_targs *out, uint32_t cap, ag_tv k, ag_tv v)
{
    if (k.type != AG_TV_STR) return ag__tr_type_error(r, "keywords must be strings");
    for (uint32_t i = 0; i < out->n_kw; i++) {
        if (!ag_str_eq(ag__tv_text(out->kw[i].k), ag__tv_text(k))) continue;
        return ag__tr_type_error(r, "got multiple values for keyword argument '%.*s'",
                                 (int)AG_MIN(k.s->n, (size_t)100), k.s->p);
    }
    AG_ASSERT(out->n_kw < cap);
    out->kw[out->n_kw++] = (ag_tpair){k, v};
    return true;
}

bool ag__eval_args(ag_tr *r, ag_tenv *env, const ag_tnargs *a, ag_targs *out)
{
    ag_tv star, dstar, k, v;
    size_t n = a->pos.n, n_kw = a->kwvalue.n;
    *out = (ag_targs){0};
    if (n + n_kw == 0 && !a->star && !a->dstar) return true;
    out->pos = ag__tr_array(r, n, sizeof *out->pos);
    if (out->pos == NULL) return false;
    for (; out->n < n; out->n++) {
        if (!ag__eval(r, env, a->pos.p[out->n], &out->pos[out->n])) return false;
    }
    if (a->star) {
        if (!ag__eval(r, env, a->star, &v) || !ag__iter_list(r, v, &star)) return false;
        ag_tv *all = ag__tr_array(r, n + star.l->n, sizeof *all);
        if (all == NULL) return false;
        if (n) memcpy(all, out->pos, n * sizeof *all);
        if (star.l->n) memcpy(all + n, star.l->p, star.l->n * sizeof *all);
        out->pos = all;
        out->n = (uint32_t)(n + star.l->n);
    }
    if (a->dstar) {
        if (!ag__eval(r, env, a->dstar, &dstar)) return false;
        if (dstar.type != AG_TV_DICT) return ag__tr_type_error(r, "argument after ** must be a mapping");
        n_kw += dstar.d->n;
        if (n_kw > 1024) return ag__tr_fail(r, AG_TEMPLATE_LIMIT, "more than 1024 named arguments");
    }
    if (n_kw && (out->kw = ag__tr_array(r, n_kw, sizeof *out->kw)) == NULL) return false;
    for (uint32_t i = 0; i < a->kwvalue.n; i++) {
        if (!ag__tv_borrow(r, a->kwname[i].p, a->kwname[i].n, &k) || !ag__eval(r, env, a->kwvalue.p[i], &v)) {
            return false;
        }
        if (!kw_add(r, out, (uint32_t)n_kw, k, v)) return false;
    }
    for (uint32_t i = 0; a->dstar && i < dstar.d->n; i++) {
        if (!kw_add(r, out, (uint32_t)n_kw, dstar.d->p[i].k, dstar.d->p[i].v)) return false;
    }
    return true;
}

static bool eval_named(ag_tr *r, ag_tenv *env, const ag_tn *n, ag_tv *out)
{
    const ag_tfunc *fn = n->def;
    ag_tv v;
    ag_targs args;
    if (!ag__eval(r, env, n->a, &v) || !ag__eval_args(r, env, n->args, &args)) return false;
    r->pos = n->pos;
    if (fn == NULL) {
        return ag__tr_fail(r, AG_TEMPLATE_RUNTIME, "No %s named '%.*s' found.",
                           n->kind == AG_TN_FILTER ? "filter" : "test",
                           (int)AG_MIN(n->s.n, (size_t)100), n->s.p);
    }
    if (!ag__call_func(r, fn, v, &args, out)) return false;
    if (n->kind == AG_TN_TEST && n->negated) *out = ag__tv_bool(!ag__tv_true(*out));
    return true;
}

static bool eval_call(ag_tr *r, ag_tenv *env, const ag_tn *n, ag_tv *out)
{
    ag_tv fn;
    ag_targs args;
    if (!ag__eval(r, env, n->a, &fn) || !ag__eval_args(r, env, n->args, &args)) return false;
    r->pos = n->pos;
    return ag__call(r, fn, &args, out);
}

static bool eval_cond(ag_tr *r, ag_tenv *env, const ag_tn *n, ag_tv *out)
{
    ag_tv test;
    if (!ag__eval(r, env, n->a, &test)) return false;
    if (ag__tv_true(test)) return ag__eval(r, env, n->b, out);
    if (n->c) return ag__eval(r, env, n->c, out);
    return ag__tv_undef(r, AG_TUNDEF_HINT, NULL,
                        AG_STR("the inline if-expression evaluated to false and no else section was defined."), out);
}

static bool eval_access(ag_tr *r, ag_tenv *env, const ag_tn *n, ag_tv *out)
{
    ag_tv obj, key;
    if (!ag__eval(r, env, n->a, &obj)) return false;
    if (n->kind == AG_TN_GETATTR) {
        r->pos = n->pos;
        return ag__op_attr(r, obj, n->s, out);
    }
    if (n->b->kind == AG_TN_SLICE) return eval_slice(r, env, n->b, obj, out);
    if (!ag__eval(r, env, n->b, &key)) return false;
    r->pos = n->pos;
    return ag__op_item(r, obj, key, out);
}

static bool eval_unary(ag_tr *r, ag_tenv *env, const ag_tn *n, ag_tv *out)
{
    ag_tv v;
    if (!ag__eval(r, env, n->a, &v)) return false;
    r->pos = n->pos;
    if (n->kind != AG_TN_NOT) return ag__op_neg(r, v, n->kind == AG_TN_NEG, out);
    *out = ag__tv_bool(!ag__tv_true(v));
    return true;
}

static bool eval_node(ag_tr *r, ag_tenv *env, const ag_tn *n, ag_tv *out)
{
    switch (n->kind) {
    case AG_TN_TUPLE: case AG_TN_LIST: return eval_items(r, env, n, out);
    case AG_TN_DICT: return eval_dict(r, env, n, out);
    case AG_TN_NEG: case AG_TN_POS: case AG_TN_NOT: return eval_unary(r, env, n, out);
    case AG_TN_BINARY: return eval_binary(r, env, n, out);
    case AG_TN_AND: case AG_TN_OR: return eval_logic(r, env, n, out);
    case AG_TN_CONCAT: return eval_concat(r, env, n, out);
    case AG_TN_COMPARE: return eval_compare(r, env, n, out);
    case AG_TN_GETATTR: case AG_TN_GETITEM: return eval_access(r, env, n, out);
    case AG_TN_FILTER: case AG_TN_TEST: return eval_named(r, env, n, out);
    case AG_TN_CALL: return eval_call(r, env, n, out);
    case AG_TN_COND: return eval_cond(r, env, n, out);
    default: break;
    }
    AG_ASSERT(!"an expression");
    return false;
}

bool ag__eval(ag_tr *r, ag_tenv *env, const ag_tn *n, ag_tv *out)
{
    r->pos = n->pos;
    switch (n->kind) { /* leaves, without the cost of going deeper */
    case AG_TN_NONE: *out = ag__tv_none(); return ag__tr_work(r, 256);
    case AG_TN_BOOL: *out = ag__tv_bool(n->flag); return ag__tr_work(r, 256);
    case AG_TN_INT: *out = ag__tv_int(n->i); return ag__tr_work(r, 256);
    case AG_TN_FLOAT: *out = ag__tv_float(n->f); return ag__tr_work(r, 256);
    case AG_TN_STR: return ag__tr_work(r, 256) && ag__tv_borrow(r, n->s.p, n->s.n, out);
    case AG_TN_NAME: return ag__tr_work(r, 256) && eval_name(r, env, n, out);
    default: break;
    }
    if (!ag__tr_enter(r)) return false;
    bool ok = eval_node(r, env, n, out);
    ag__tr_leave(r);
    return ok;
}
