/* Where each variable lives. jinja2 settles that before it runs: a name assigned anywhere in a scope is that scope's
 * own everywhere in it, and begins as the enclosing scope's variable, as the context's, or as undefined. Published
 * templates lean on the consequences, so the same rules are worked out here: first the names of a scope are collected
 * (collect_*), then its parts are bound to them (bind_*), which meets the scopes inside. */
#include "model/template/ast.h"

typedef struct func {
    uint32_t level, n_slots, loops; /* loops: nesting around here, for break and continue */
} func;

typedef struct scope {
    struct scope *parent;
    func *fn;
    ag_tload *loads;
    bool *stored;
    uint32_t n, cap;
    uint32_t *index, index_cap; /* open addressing by name, holds position + 1 */
    uint32_t *log, n_log, log_cap; /* names in the order of their first assignment */
    bool soft;     /* inside an if: unknown filters and tests are an error only when run */
    bool toplevel;
} scope;

static ag_tload *scope_find(const scope *s, uint32_t name)
{
    if (s->index_cap == 0) return NULL;
    for (uint32_t i = name * 2654435761U & (s->index_cap - 1);; i = (i + 1) & (s->index_cap - 1)) {
        if (s->index[i] == 0) return NULL;
        if (s->loads[s->index[i] - 1].name == name) return &s->loads[s->index[i] - 1];
    }
}

static bool scope_grow(ag_tparser *p, scope *s)
{
    uint32_t cap = s->cap ? s->cap * 2 : 8;
    ag_tload *loads = ag_arena_array(p->mem, cap, sizeof *loads);
    bool *stored = ag_arena_array(p->mem, cap, sizeof *stored);
    uint32_t *index = ag_arena_array(p->mem, cap * 2, sizeof *index);
    if (loads == NULL || stored == NULL || index == NULL) return ag__tp_nomem(p);
    for (uint32_t k = 0; k < s->n; k++) {
        loads[k] = s->loads[k];
        stored[k] = s->stored[k];
        uint32_t i = loads[k].name * 2654435761U & (cap * 2 - 1);
        while (index[i]) i = (i + 1) & (cap * 2 - 1);
        index[i] = k + 1;
    }
    s->loads = loads;
    s->stored = stored;
    s->index = index;
    s->cap = cap;
    s->index_cap = cap * 2;
    return true;
}

static ag_tload *scope_define(ag_tparser *p, scope *s, uint32_t name, ag_tload_kind kind)
{
    ag_tload *l = scope_find(s, name);
    if (l == NULL) {
        if (s->n == s->cap && !scope_grow(p, s)) return NULL;
        uint32_t i = name * 2654435761U & (s->index_cap - 1);
        while (s->index[i]) i = (i + 1) & (s->index_cap - 1);
        s->index[i] = ++s->n;
        l = &s->loads[s->n - 1];
        l->name = name;
        l->slot = s->fn->n_slots++;
    }
    l->kind = kind;
    return l;
}

static bool find_ref(const scope *s, uint32_t name, ag_tref *out)
{
    uint32_t level = s->fn->level;
    for (; s; s = s->parent) {
        const ag_tload *l = scope_find(s, name);
        if (l == NULL) continue;
        *out = (ag_tref){level - s->fn->level, l->slot};
        return true;
    }
    return false;
}

static bool outer_ref(const scope *s, uint32_t name, ag_tref *out)
{
    if (s->parent == NULL || !find_ref(s->parent, name, out)) return false;
    out->hops += s->fn->level - s->parent->fn->level;
    return true;
}

static bool mark_stored(ag_tparser *p, scope *s, const ag_tload *l)
{
    uint32_t k = (uint32_t)(l - s->loads);
    if (s->stored[k]) return true;
    s->stored[k] = true;
    if (s->n_log == s->log_cap) {
        uint32_t cap = s->log_cap ? s->log_cap * 2 : 8, *log = ag_arena_array(p->mem, cap, sizeof *log);
        if (log == NULL) return ag__tp_nomem(p);
        if (s->n_log) memcpy(log, s->log, s->n_log * sizeof *log);
        s->log = log;
        s->log_cap = cap;
    }
    s->log[s->n_log++] = l->name;
    return true;
}

static bool name_param(ag_tparser *p, scope *s, uint32_t name, uint32_t *slot)
{
    ag_tload *l = scope_define(p, s, name, AG_TLOAD_PARAM);
    if (l && slot) *slot = l->slot;
    return l && mark_stored(p, s, l);
}

static bool name_param_z(ag_tparser *p, scope *s, const char *name, uint32_t *slot)
{
    uint32_t id;
    return ag__tp_intern(p, ag_str_of(name), &id) && name_param(p, s, id, slot);
}

static bool name_store(ag_tparser *p, scope *s, uint32_t name)
{
    ag_tload *l = scope_find(s, name);
    if (l == NULL) {
        ag_tref from;
        bool outer = outer_ref(s, name, &from);
        l = scope_define(p, s, name, outer ? AG_TLOAD_ALIAS : AG_TLOAD_UNDEF);
        if (l && outer) l->from = from;
    }
    return l && mark_stored(p, s, l);
}

static bool name_load(ag_tparser *p, scope *s, uint32_t name)
{
    ag_tref ref;
    return find_ref(s, name, &ref) || scope_define(p, s, name, AG_TLOAD_RESOLVE);
}

static bool collect(ag_tparser *p, scope *s, const ag_tn *n);

static bool collect_list(ag_tparser *p, scope *s, const ag_tnlist *l)
{
    for (uint32_t i = 0; i < l->n; i++) {
        if (!collect(p, s, l->p[i])) return false;
    }
    return true;
}

static bool collect_args(ag_tparser *p, scope *s, const ag_tnargs *a)
{
    return collect_list(p, s, &a->pos) && collect_list(p, s, &a->kwvalue) && collect(p, s, a->star) &&
           collect(p, s, a->dstar);
}

/* Names of an assignment's target; `param`: they belong to this scope, whatever is outside. */
static bool collect_target(ag_tparser *p, scope *s, const ag_tn *n, bool param)
{
    if (n->kind == AG_TN_NAME) return param ? name_param(p, s, n->name, NULL) : name_store(p, s, n->name);
    if (n->kind == AG_TN_NSREF) return name_load(p, s, n->name);
    for (uint32_t i = 0; i < n->items.n; i++) {
        if (!collect_target(p, s, n->items.p[i], param)) return false;
    }
    return true;
}

/* What only one branch assigns must begin as it would be without the assignment. */
static bool collect_if(ag_tparser *p, scope *s, const ag_tn *n)
{
    uint32_t first = s->n_log;
    for (uint32_t i = 0; i < n->n_branches; i++) {
        if (!collect(p, s, n->branches[i].test) || !collect_list(p, s, &n->branches[i].body)) return false;
    }
    for (uint32_t i = first; i < s->n_log; i++) {
        ag_tload *l = scope_find(s, s->log[i]);
        l->kind = outer_ref(s, s->log[i], &l->from) ? AG_TLOAD_ALIAS : AG_TLOAD_RESOLVE;
    }
    return true;
}

static bool collect(ag_tparser *p, scope *s, const ag_tn *n)
{
    if (n == NULL) return true;
    if (!ag__tp_stack_ok(p, n->pos)) return false;
    switch (n->kind) {
    case AG_TN_NAME: return name_load(p, s, n->name);
    case AG_TN_FILTER: case AG_TN_TEST: case AG_TN_CALL: return collect(p, s, n->a) && collect_args(p, s, n->args);
    case AG_TN_IF: return collect_if(p, s, n);
    case AG_TN_SET: return collect(p, s, n->b) && collect_target(p, s, n->a, false);
    case AG_TN_SETBLOCK: return collect_target(p, s, n->a, false);
    case AG_TN_MACRO: return name_store(p, s, n->name);
    case AG_TN_FOR: return collect(p, s, n->b);
    case AG_TN_CALLBLOCK: case AG_TN_FILTERBLOCK: case AG_TN_LOADER: return collect(p, s, n->a);
    case AG_TN_WITH: return collect_list(p, s, &n->with->values);
    case AG_TN_AUTOESCAPE: case AG_TN_BLOCK: return true;
    default:
        return collect(p, s, n->a) && collect(p, s, n->b) && collect(p, s, n->c) && collect_list(p, s, &n->items);
    }
}

static bool bind(ag_tparser *p, scope *s, ag_tn *n);

static bool bind_list(ag_tparser *p, scope *s, const ag_tnlist *l)
{
    for (uint32_t i = 0; i < l->n; i++) {
        if (!bind(p, s, l->p[i])) return false;
    }
    return true;
}

/* The variable that `name` means in `s`. A name that was not collected (in the filter of a set block) is looked up in
 * the context. */
static bool bind_name(ag_tparser *p, scope *s, uint32_t name, ag_tref *out)
{
    return find_ref(s, name, out) || (name_load(p, s, name) && find_ref(s, name, out));
}

static void scope_done(scope *s, ag_tscope *out)
{
    out->loads = s->loads;
    out->n_loads = s->n;
}

static scope scope_inner(scope *s) { return (scope){.parent = s, .fn = s->fn}; }

static bool bind_args(ag_tparser *p, scope *s, const ag_tnargs *a)
{
    return bind_list(p, s, &a->pos) && bind_list(p, s, &a->kwvalue) && bind(p, s, a->star) && bind(p, s, a->dstar);
}

static bool bind_named(ag_tparser *p, scope *s, ag_tn *n)
{
    if (n->def == NULL && !s->soft) {
        return ag__tp_fail(p, AG_TEMPLATE_SYNTAX, n->pos, "No %s named '%.*s'.",
                           n->kind == AG_TN_FILTER ? "filter" : "test",
                           (int)AG_MIN(n->s.n, (size_t)100), n->s.p);
    }
    return bind(p, s, n->a) && bind_args(p, s, n->args);
}

static bool bind_soft(ag_tparser *p, scope *s, ag_tn *n)
{
    bool soft = s->soft, ok = true;
    s->soft = true;
    if (n->kind == AG_TN_COND) ok = bind(p, s, n->a) && bind(p, s, n->b) && bind(p, s, n->c);
    for (uint32_t i = 0; ok && n->kind == AG_TN_IF && i < n->n_branches; i++) {
        ok = bind(p, s, n->branches[i].test) && bind_list(p, s, &n->branches[i].body);
    }
    s->soft = soft;
    return ok;
}

static bool bind_macro(ag_tparser *p, scope *s, ag_tn *n)
{
    ag_tmacro *m = n->macro;
    func fn = {.level = s->fn->level + 1};
    scope in = {.parent = s, .fn = &fn};
    for (uint32_t i = 0; i < m->args.n; i++) {
        if (!name_param(p, &in, m->args.p[i]->name, &m->arg_slot[i])) return false;
    }
    if (!collect_list(p, &in, &m->defaults) || !collect_list(p, &in, &n->items)) return false;
    if (m->uses_caller && !m->explicit_caller && !name_param_z(p, &in, "caller", &m->caller_slot)) return false;
    if (m->uses_kwargs && !name_param_z(p, &in, "kwargs", &m->kwargs_slot)) return false;
    if (m->uses_varargs && !name_param_z(p, &in, "varargs", &m->varargs_slot)) return false;
    if (!bind_list(p, &in, &m->defaults) || !bind_list(p, &in, &n->items)) return false;
    scope_done(&in, &m->scope);
    m->n_slots = fn.n_slots;
    return true;
}

static bool bind_for(ag_tparser *p, scope *s, ag_tn *n)
{
    ag_tfor *f = n->loop;
    func own = {.level = s->fn->level + 1}, *fn = f->recursive ? &own : s->fn;
    scope in = {.parent = s, .fn = fn}, test = in, other = in;
    if (!bind(p, s, n->b)) return false;
    if (f->test) {
        if (!collect_target(p, &test, f->test_target, true) || !collect(p, &test, f->test)) return false;
        if (!bind(p, &test, f->test_target) || !bind(p, &test, f->test)) return false;
    }
    if (f->uses_loop && !name_param_z(p, &in, "loop", &f->loop_slot)) return false;
    if (!collect_target(p, &in, n->a, true) || !collect_list(p, &in, &n->items)) return false;
    fn->loops++;
    if (!bind(p, &in, n->a) || !bind_list(p, &in, &n->items)) return false;
    fn->loops--;
    if (!collect_list(p, &other, &f->other) || !bind_list(p, &other, &f->other)) return false;
    scope_done(&in, &f->scope);
    scope_done(&test, &f->test_scope);
    scope_done(&other, &f->else_scope);
    f->n_slots = own.n_slots;
    return true;
}

static bool bind_inner(ag_tparser *p, scope *s, ag_tn *n, ag_tscope *out)
{
    scope in = scope_inner(s);
    bool filter = n->kind == AG_TN_FILTERBLOCK;
    if (!collect_list(p, &in, &n->items) || (filter && !collect(p, &in, n->a))) return false;
    if (!bind_list(p, &in, &n->items) || (filter && !bind(p, &in, n->a))) return false;
    if (n->kind == AG_TN_SETBLOCK && !bind(p, &in, n->b)) return false;
    scope_done(&in, out);
    return true;
}

static bool bind_with(ag_tparser *p, scope *s, ag_tn *n)
{
    scope in = scope_inner(s);
    for (uint32_t i = 0; i < n->with->targets.n; i++) {
        if (!bind(p, s, n->with->values.p[i]) || !collect_target(p, &in, n->with->targets.p[i], true)) return false;
    }
    if (!collect_list(p, &in, &n->items) || !bind_list(p, &in, &n->with->targets)) return false;
    if (!bind_list(p, &in, &n->items)) return false;
    scope_done(&in, &n->with->scope);
    return true;
}

static bool bind_block(ag_tparser *p, ag_tn *n)
{
    func fn = {0};
    scope in = {.fn = &fn};
    if (!collect_list(p, &in, &n->items) || !bind_list(p, &in, &n->items)) return false;
    scope_done(&in, &n->block->scope);
    n->block->n_slots = fn.n_slots;
    return true;
}

static bool bind(ag_tparser *p, scope *s, ag_tn *n)
{
    if (n == NULL) return true;
    if (!ag__tp_stack_ok(p, n->pos)) return false;
    switch (n->kind) {
    case AG_TN_NAME: case AG_TN_NSREF: return bind_name(p, s, n->name, &n->ref);
    case AG_TN_FILTER: case AG_TN_TEST: return bind_named(p, s, n);
    case AG_TN_CALL: return bind(p, s, n->a) && bind_args(p, s, n->args);
    case AG_TN_IF: case AG_TN_COND: return bind_soft(p, s, n);
    case AG_TN_SET:
        n->toplevel = s->toplevel;
        return bind(p, s, n->b) && bind(p, s, n->a);
    case AG_TN_MACRO:
        n->toplevel = s->toplevel;
        return bind_name(p, s, n->name, &n->ref) && bind_macro(p, s, n);
    case AG_TN_CALLBLOCK: return bind_macro(p, s, n) && bind(p, s, n->a);
    case AG_TN_FOR: return bind_for(p, s, n);
    case AG_TN_SETBLOCK:
        n->toplevel = s->toplevel;
        return bind(p, s, n->a) && bind_inner(p, s, n, n->scope);
    case AG_TN_FILTERBLOCK: return bind_inner(p, s, n, n->scope);
    case AG_TN_AUTOESCAPE: return bind(p, s, n->a) && bind_inner(p, s, n, n->scope);
    case AG_TN_WITH: return bind_with(p, s, n);
    case AG_TN_BLOCK: return bind_block(p, n);
    case AG_TN_BREAK: case AG_TN_CONTINUE:
        return s->fn->loops || ag__tp_fail(p, AG_TEMPLATE_SYNTAX, n->pos, "'%s' outside loop",
                                           n->kind == AG_TN_BREAK ? "break" : "continue");
    default:
        return bind(p, s, n->a) && bind(p, s, n->b) && bind(p, s, n->c) && bind_list(p, s, &n->items);
    }
}

bool ag__t_scopes(ag_tparser *p)
{
    func fn = {0};
    scope root = {.fn = &fn, .toplevel = true};
    if (!collect_list(p, &root, &p->t->body) || !bind_list(p, &root, &p->t->body)) return false;
    scope_done(&root, &p->t->scope);
    p->t->n_slots = fn.n_slots;
    return true;
}
