#include "model/template/ast.h"

static bool statements(ag_tparser *p, const char *const *end, ag_tnlist *out);

static bool at_any(const ag_tparser *p, const char *const *names)
{
    for (; *names; names++) {
        if (ag__tp_is_name(p, *names)) return true;
    }
    return false;
}

/* The body of a tag up to one of `end`, which stays the current token. */
static bool body(ag_tparser *p, const char *const *end, ag_tnlist *out)
{
    ag__tp_skip(p, AG_TOK_COLON);
    return ag__tp_expect(p, AG_TOK_BLOCK_END) && statements(p, end, out);
}

static bool body_until(ag_tparser *p, const char *end, ag_tnlist *out)
{
    const char *const ends[] = {end, NULL};
    if (!body(p, ends, out)) return false;
    ag__tp_next(p);
    return true;
}

static ag_tn *parse_set(ag_tparser *p, uint32_t pos)
{
    ag_tn *target = ag__tp_target(p, AG_TP_NAMESPACE, NULL);
    if (target == NULL) return NULL;
    if (ag__tp_skip(p, AG_TOK_ASSIGN)) {
        ag_tn *n = ag__tn_new(p, AG_TN_SET, pos);
        if (n == NULL) return NULL;
        n->a = target;
        n->b = ag__tp_tuple(p, 0, NULL);
        return n->b ? n : NULL;
    }
    ag_tn *n = ag__tn_new(p, AG_TN_SETBLOCK, pos);
    if (n == NULL) return NULL;
    n->a = target;
    if (ag__tp_cur(p)->type == AG_TOK_PIPE && (n->b = ag__tp_filters(p, NULL, false)) == NULL) return NULL;
    n->scope = ag_arena_zalloc(p->mem, sizeof *n->scope);
    if (n->scope == NULL) ag__tp_nomem(p);
    return n->scope && body_until(p, "endset", &n->items) ? n : NULL;
}

static ag_tn *parse_for(ag_tparser *p, uint32_t pos)
{
    static const char *const ends[] = {"endfor", "else", NULL};
    uint32_t loop_set = p->n_loop_set, target_at = p->at;
    ag_tn *n = ag__tn_new(p, AG_TN_FOR, pos);
    if (n == NULL || (n->loop = ag_arena_zalloc(p->mem, sizeof *n->loop)) == NULL) {
        ag__tp_nomem(p);
        return NULL;
    }
    ag_tfor *f = n->loop;
    if ((n->a = ag__tp_target(p, 0, "in")) == NULL) return NULL;
    if (!ag__tp_skip_name(p, "in")) {
        ag__tp_fail(p, AG_TEMPLATE_SYNTAX, ag__tp_cur(p)->pos, "expected token 'in'");
        return NULL;
    }
    if ((n->b = ag__tp_tuple(p, AG_TP_NO_COND, "recursive")) == NULL) return NULL;
    if (ag__tp_skip_name(p, "if")) {
        if ((f->test = ag__tp_expr(p)) == NULL) return NULL;
        uint32_t resume = p->at;
        p->at = target_at;
        f->test_target = ag__tp_target(p, 0, "in");
        p->at = resume;
        if (f->test_target == NULL) return NULL;
    }
    f->recursive = ag__tp_skip_name(p, "recursive");
    uint32_t loops = p->n_loop;
    if (!body(p, ends, &n->items)) return NULL;
    f->uses_loop = f->recursive || p->n_loop != loops;
    if (ag__tp_is_name(p, "else")) {
        ag__tp_next(p);
        if (!body_until(p, "endfor", &f->other)) return NULL;
    } else {
        ag__tp_next(p);
    }
    if (p->n_loop_set != loop_set) {
        ag__tp_fail(p, AG_TEMPLATE_SYNTAX, pos, "Can't assign to special loop variable in for-loop target");
        return NULL;
    }
    return n;
}

static ag_tbranch *branch_add(ag_tparser *p, ag_tn *n)
{
    if (n->n_branches == n->branches_cap) {
        uint32_t cap = n->branches_cap ? n->branches_cap * 2 : 2;
        ag_tbranch *more = ag_arena_array(p->mem, cap, sizeof *more);
        if (more == NULL) {
            ag__tp_nomem(p);
            return NULL;
        }
        if (n->branches_cap) memcpy(more, n->branches, n->branches_cap * sizeof *more);
        n->branches = more;
        n->branches_cap = cap;
    }
    return &n->branches[n->n_branches++];
}

static ag_tn *parse_if(ag_tparser *p, uint32_t pos)
{
    static const char *const ends[] = {"elif", "else", "endif", NULL};
    ag_tn *n = ag__tn_new(p, AG_TN_IF, pos);
    while (n) {
        ag_tbranch b = {0};
        b.test = ag__tp_tuple(p, AG_TP_NO_COND, NULL);
        if (b.test == NULL || !body(p, ends, &b.body)) return NULL;
        ag_tbranch *at = branch_add(p, n);
        if (at == NULL) return NULL;
        *at = b;
        if (ag__tp_skip_name(p, "elif")) continue;
        if (ag__tp_skip_name(p, "else")) {
            b = (ag_tbranch){0};
            if (!body_until(p, "endif", &b.body) || (at = branch_add(p, n)) == NULL) return NULL;
            *at = b;
        } else {
            ag__tp_next(p);
        }
        break;
    }
    return n;
}

static ag_tn *parse_with(ag_tparser *p, uint32_t pos)
{
    ag_tn *n = ag__tn_new(p, AG_TN_WITH, pos);
    if (n == NULL || (n->with = ag_arena_zalloc(p->mem, sizeof *n->with)) == NULL) {
        ag__tp_nomem(p);
        return NULL;
    }
    while (ag__tp_cur(p)->type != AG_TOK_BLOCK_END) {
        if (n->with->targets.n && ag__tp_expect(p, AG_TOK_COMMA) == NULL) return NULL;
        uint32_t loop_set = p->n_loop_set;
        if (!ag__tp_push(p, &n->with->targets, ag__tp_target(p, 0, NULL)) || !ag__tp_expect(p, AG_TOK_ASSIGN) ||
            !ag__tp_push(p, &n->with->values, ag__tp_expr(p))) {
            return NULL;
        }
        p->n_loop_set = loop_set; /* a parameter, which a loop allows */
    }
    return body_until(p, "endwith", &n->items) ? n : NULL;
}

static bool signature(ag_tparser *p, ag_tmacro *m)
{
    if (ag__tp_expect(p, AG_TOK_LPAREN) == NULL) return false;
    uint32_t loop_set = p->n_loop_set;
    while (ag__tp_cur(p)->type != AG_TOK_RPAREN) {
        if (m->args.n && ag__tp_expect(p, AG_TOK_COMMA) == NULL) return false;
        ag_tn *arg = ag__tp_target_name(p);
        if (!ag__tp_push(p, &m->args, arg)) return false;
        if (arg->kind != AG_TN_NAME) return ag__tp_fail(p, AG_TEMPLATE_SYNTAX, arg->pos, "can't assign to a constant");
        for (uint32_t i = 0; i + 1 < m->args.n; i++) {
            if (m->args.p[i]->name == arg->name) {
                return ag__tp_fail(p, AG_TEMPLATE_SYNTAX, arg->pos, "an argument is named twice");
            }
        }
        if (m->args.n > 255) return ag__tp_fail(p, AG_TEMPLATE_LIMIT, arg->pos, "more than 255 arguments");
        if (ag__tp_skip(p, AG_TOK_ASSIGN)) {
            if (!ag__tp_push(p, &m->defaults, ag__tp_expr(p))) return false;
        } else if (m->defaults.n) {
            return ag__tp_fail(p, AG_TEMPLATE_SYNTAX, arg->pos, "non-default argument follows default argument");
        }
    }
    ag__tp_next(p);
    p->n_loop_set = loop_set;
    return true;
}

/* The rest of a macro or call block behind its arguments. */
static ag_tn *macro_body(ag_tparser *p, ag_tn *n, const char *end)
{
    ag_tmacro *m = n->macro;
    uint32_t caller = p->n_caller, kwargs = p->n_kwargs, varargs = p->n_varargs;
    if (!body_until(p, end, &n->items)) return NULL;
    m->uses_caller = p->n_caller != caller;
    m->uses_kwargs = p->n_kwargs != kwargs;
    m->uses_varargs = p->n_varargs != varargs;
    m->arg_slot = ag_arena_array(p->mem, m->args.n, sizeof *m->arg_slot);
    if (m->arg_slot == NULL) {
        ag__tp_nomem(p);
        return NULL;
    }
    for (uint32_t i = 0; i < m->args.n; i++) {
        ag_str name = p->t->names[m->args.p[i]->name];
        if (ag_str_eqz(name, "kwargs")) m->uses_kwargs = false;
        if (ag_str_eqz(name, "varargs")) m->uses_varargs = false;
        if (!ag_str_eqz(name, "caller")) continue;
        m->explicit_caller = true;
        if (m->uses_caller && i + m->defaults.n < m->args.n) {
            ag__tp_fail(p, AG_TEMPLATE_SYNTAX, n->pos, "When defining macros or call blocks the special \"caller\" "
                                                       "argument must be omitted or be given a default.");
            return NULL;
        }
    }
    return n;
}

static ag_tn *macro_new(ag_tparser *p, ag_tn_kind kind, uint32_t pos)
{
    ag_tn *n = ag__tn_new(p, kind, pos);
    if (n && (n->macro = ag_arena_zalloc(p->mem, sizeof *n->macro)) == NULL) {
        ag__tp_nomem(p);
        return NULL;
    }
    return n;
}

static ag_tn *parse_macro(ag_tparser *p, uint32_t pos)
{
    ag_tn *n = macro_new(p, AG_TN_MACRO, pos), *name = n ? ag__tp_target_name(p) : NULL;
    if (name == NULL) return NULL;
    if (name->kind != AG_TN_NAME) {
        ag__tp_fail(p, AG_TEMPLATE_SYNTAX, name->pos, "can't assign to a constant");
        return NULL;
    }
    n->name = name->name;
    n->macro->name = p->t->names[n->name];
    return signature(p, n->macro) ? macro_body(p, n, "endmacro") : NULL;
}

static ag_tn *parse_call(ag_tparser *p, uint32_t pos)
{
    ag_tn *n = macro_new(p, AG_TN_CALLBLOCK, pos);
    if (n == NULL) return NULL;
    if (ag__tp_cur(p)->type == AG_TOK_LPAREN && !signature(p, n->macro)) return NULL;
    n->a = ag__tp_expr(p);
    if (n->a && n->a->kind != AG_TN_CALL) {
        ag__tp_fail(p, AG_TEMPLATE_SYNTAX, pos, "expected call");
        return NULL;
    }
    return n->a ? macro_body(p, n, "endcall") : NULL;
}

/* transformers' tag around what an assistant said: a call block whose callee is the identity. */
static ag_tn *parse_generation(ag_tparser *p, uint32_t pos)
{
    ag_tn *n = macro_new(p, AG_TN_CALLBLOCK, pos);
    return n ? macro_body(p, n, "endgeneration") : NULL;
}

static ag_tn *parse_filter(ag_tparser *p, uint32_t pos)
{
    ag_tn *n = ag__tn_new(p, AG_TN_FILTERBLOCK, pos);
    if (n == NULL || (n->scope = ag_arena_zalloc(p->mem, sizeof *n->scope)) == NULL) {
        ag__tp_nomem(p);
        return NULL;
    }
    n->a = ag__tp_filters(p, NULL, true);
    return n->a && body_until(p, "endfilter", &n->items) ? n : NULL;
}

static ag_tn *parse_autoescape(ag_tparser *p, uint32_t pos)
{
    ag_tn *n = ag__tn_new(p, AG_TN_AUTOESCAPE, pos);
    if (n == NULL || (n->scope = ag_arena_zalloc(p->mem, sizeof *n->scope)) == NULL) {
        ag__tp_nomem(p);
        return NULL;
    }
    n->a = ag__tp_expr(p);
    return n->a && body_until(p, "endautoescape", &n->items) ? n : NULL;
}

static ag_tn *parse_block(ag_tparser *p, uint32_t pos)
{
    const ag_tok *name = ag__tp_expect(p, AG_TOK_NAME);
    ag_tn *n = name ? ag__tn_new(p, AG_TN_BLOCK, pos) : NULL;
    if (n == NULL || (n->block = ag_arena_zalloc(p->mem, sizeof *n->block)) == NULL) {
        if (name) ag__tp_nomem(p);
        return NULL;
    }
    n->s = name->s;
    for (uint32_t i = 0; i < p->blocks.n; i++) {
        if (!ag_str_eq(p->blocks.p[i]->s, n->s)) continue;
        ag__tp_fail(p, AG_TEMPLATE_SYNTAX, pos, "block '%.*s' defined twice", (int)AG_MIN(n->s.n, (size_t)100), n->s.p);
        return NULL;
    }
    if (p->blocks.n == 1000) {
        ag__tp_fail(p, AG_TEMPLATE_LIMIT, pos, "more than 1000 blocks");
        return NULL;
    }
    if (!ag__tp_push(p, &p->blocks, n)) return NULL;
    if (ag__tp_is_name(p, "scoped") || ag__tp_is_name(p, "required")) {
        ag__tp_fail(p, AG_TEMPLATE_SYNTAX, pos, "scoped and required blocks are not supported");
        return NULL;
    }
    if (!body_until(p, "endblock", &n->items)) return NULL;
    if (ag__tp_cur(p)->type == AG_TOK_NAME && ag_str_eq(ag__tp_cur(p)->s, n->s)) ag__tp_next(p);
    return n;
}

/* include, import, from, extends: parsed so far that a branch never taken does not matter, refused when run. */
static ag_tn *parse_loader(ag_tparser *p, uint32_t pos)
{
    ag_tn *n = ag__tn_new(p, AG_TN_LOADER, pos);
    if (n == NULL || (n->a = ag__tp_expr(p)) == NULL) return NULL;
    while (ag__tp_cur(p)->type != AG_TOK_BLOCK_END && ag__tp_cur(p)->type != AG_TOK_EOF) ag__tp_next(p);
    return n;
}

static ag_tn *parse_control(ag_tparser *p, uint32_t pos)
{
    return ag__tn_new(p, p->tok[p->at - 1].s.n == 5 ? AG_TN_BREAK : AG_TN_CONTINUE, pos);
}

static const struct { const char *name; ag_tn *(*parse)(ag_tparser *, uint32_t); } tags[] = {
    {"if", parse_if}, {"for", parse_for}, {"set", parse_set}, {"macro", parse_macro}, {"call", parse_call},
    {"filter", parse_filter}, {"with", parse_with}, {"generation", parse_generation}, {"break", parse_control},
    {"continue", parse_control}, {"autoescape", parse_autoescape}, {"block", parse_block}, {"include", parse_loader},
    {"import", parse_loader}, {"from", parse_loader}, {"extends", parse_loader},
};

/* {% print a, b %}, into `out` as so many print statements. */
static bool parse_print(ag_tparser *p, ag_tnlist *out)
{
    for (bool first = true; ag__tp_cur(p)->type != AG_TOK_BLOCK_END; first = false) {
        if (!first && ag__tp_expect(p, AG_TOK_COMMA) == NULL) return false;
        ag_tn *n = ag__tn_new(p, AG_TN_PRINT, ag__tp_cur(p)->pos);
        if (n == NULL || (n->a = ag__tp_expr(p)) == NULL || !ag__tp_push(p, out, n)) return false;
    }
    return true;
}

static bool statement(ag_tparser *p, ag_tnlist *out)
{
    const ag_tok *t = ag__tp_cur(p);
    if (t->type != AG_TOK_NAME) return ag__tp_fail(p, AG_TEMPLATE_SYNTAX, t->pos, "tag name expected");
    if (ag__tp_skip_name(p, "print")) return parse_print(p, out);
    for (size_t i = 0; i < AG_ARRAY_LEN(tags); i++) {
        if (!ag__tp_skip_name(p, tags[i].name)) continue;
        return ag__tp_push(p, out, tags[i].parse(p, t->pos));
    }
    return ag__tp_fail(p, AG_TEMPLATE_SYNTAX, t->pos, "Encountered unknown tag '%.*s'.",
                       (int)AG_MIN(t->s.n, (size_t)100), t->s.p);
}

static bool unexpected_end(ag_tparser *p, const char *const *end)
{
    char text[160];
    size_t n = 0;
    for (; *end; end++) {
        int k = snprintf(text + n, sizeof text - n, "%s'%s'", n ? " or " : "", *end);
        if (k < 0 || n + (size_t)k >= sizeof text) break;
        n += (size_t)k;
    }
    return ag__tp_fail(p, AG_TEMPLATE_SYNTAX, ag__tp_cur(p)->pos,
                       "Unexpected end of template. Jinja was looking for the following tags: %s.", text);
}

static bool statements(ag_tparser *p, const char *const *end, ag_tnlist *out)
{
    if (!ag__tp_stack_ok(p, ag__tp_cur(p)->pos)) return false;
    for (;;) {
        const ag_tok *t = ag__tp_cur(p);
        if (t->type == AG_TOK_EOF) return end == NULL || unexpected_end(p, end);
        ag__tp_next(p);
        if (t->type == AG_TOK_DATA) {
            ag_tn *n = ag__tn_new(p, AG_TN_DATA, t->pos);
            if (n) n->s = t->s;
            if (!ag__tp_push(p, out, n)) return false;
        } else if (t->type == AG_TOK_VAR_BEGIN) {
            ag_tn *n = ag__tn_new(p, AG_TN_PRINT, t->pos);
            if (n == NULL || (n->a = ag__tp_tuple(p, 0, NULL)) == NULL || !ag__tp_push(p, out, n)) return false;
            if (ag__tp_expect(p, AG_TOK_VAR_END) == NULL) return false;
        } else {
            if (end && at_any(p, end)) return true;
            if (!statement(p, out) || ag__tp_expect(p, AG_TOK_BLOCK_END) == NULL) return false;
        }
    }
}

bool ag__t_parse(ag_tparser *p) { return statements(p, NULL, &p->t->body); }
