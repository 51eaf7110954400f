#include "model/template/ast.h"

const ag_tok *ag__tp_cur(const ag_tparser *p) { return &p->tok[p->at]; }

const ag_tok *ag__tp_next(ag_tparser *p)
{
    const ag_tok *t = &p->tok[p->at];
    if (t->type != AG_TOK_EOF) p->at++;
    return t;
}

static const ag_tok *look(const ag_tparser *p) { return &p->tok[AG_MIN(p->at + 1, p->n_tok - 1)]; }

static bool tok_is_name(const ag_tok *t, const char *name) { return t->type == AG_TOK_NAME && ag_str_eqz(t->s, name); }

bool ag__tp_is_name(const ag_tparser *p, const char *name) { return tok_is_name(ag__tp_cur(p), name); }

bool ag__tp_skip_name(ag_tparser *p, const char *name)
{
    if (!ag__tp_is_name(p, name)) return false;
    p->at++;
    return true;
}

bool ag__tp_skip(ag_tparser *p, ag_tok_type type)
{
    if (ag__tp_cur(p)->type != type) return false;
    ag__tp_next(p);
    return true;
}

static const char *tok_describe(ag_tok_type type)
{
    static const char *const names[] = {
        "end of template", "template text", "begin of print statement", "end of print statement",
        "begin of statement block", "end of statement block", "a name", "a string", "an integer", "a float", "+", "-",
        "/", "//", "*", "%", "**", "~", "[", "]", "(", ")", "{", "}", "==", "!=", ">", ">=", "<", "<=", "=", ".", ":",
        "|", ",", ";", "in", "not in"};
    return names[type];
}

const ag_tok *ag__tp_expect(ag_tparser *p, ag_tok_type type)
{
    const ag_tok *t = ag__tp_cur(p);
    if (t->type == type) return ag__tp_next(p);
    if (t->type == AG_TOK_NAME) {
        ag__tp_fail(p, AG_TEMPLATE_SYNTAX, t->pos, "expected token '%s', got '%.*s'", tok_describe(type),
                    (int)AG_MIN(t->s.n, (size_t)100), t->s.p);
    } else {
        ag__tp_fail(p, AG_TEMPLATE_SYNTAX, t->pos, "expected token '%s', got '%s'", tok_describe(type),
                    tok_describe(t->type));
    }
    return NULL;
}

static ag_tn *unexpected(ag_tparser *p)
{
    const ag_tok *t = ag__tp_cur(p);
    ag__tp_fail(p, AG_TEMPLATE_SYNTAX, t->pos, "unexpected '%s'", tok_describe(t->type));
    return NULL;
}

static bool ops_push(ag_tparser *p, ag_tn *n, ag_tok_type op)
{
    if (n->items.n == n->ops_cap) {
        uint32_t cap = n->ops_cap ? n->ops_cap * 2 : 4;
        uint8_t *ops = ag_arena_alloc(p->mem, cap);
        if (ops == NULL) return ag__tp_nomem(p);
        if (n->ops_cap) memcpy(ops, n->ops, n->ops_cap);
        n->ops = ops;
        n->ops_cap = cap;
    }
    n->ops[n->items.n] = (uint8_t)op;
    return true;
}

/* Behind "(": [a, b], k = v, *rest, **more up to and with ")". */
static bool call_args(ag_tparser *p, ag_tnargs *out)
{
    uint32_t pos = ag__tp_cur(p)->pos;
    bool ok = true, comma = false;
    *out = (ag_tnargs){0};
    ag__tp_next(p);
    while (ok && ag__tp_cur(p)->type != AG_TOK_RPAREN) {
        if (comma) {
            if (ag__tp_expect(p, AG_TOK_COMMA) == NULL) return false;
            if (ag__tp_cur(p)->type == AG_TOK_RPAREN) break;
        }
        comma = true;
        const ag_tok *t = ag__tp_cur(p);
        if (t->type == AG_TOK_MUL) {
            ok = out->star == NULL && out->dstar == NULL;
            ag__tp_next(p);
            if (ok && (out->star = ag__tp_expr(p)) == NULL) return false;
        } else if (t->type == AG_TOK_POW) {
            ok = out->dstar == NULL;
            ag__tp_next(p);
            if (ok && (out->dstar = ag__tp_expr(p)) == NULL) return false;
        } else if (t->type == AG_TOK_NAME && look(p)->type == AG_TOK_ASSIGN) {
            ok = out->dstar == NULL;
            for (uint32_t i = 0; i < out->kwvalue.n; i++) ok = ok && !ag_str_eq(out->kwname[i], t->s);
            if (out->kwvalue.n > 255) return ag__tp_fail(p, AG_TEMPLATE_LIMIT, pos, "more than 255 named arguments");
            p->at += 2;
            if (out->kwvalue.n == out->kwcap) {
                uint32_t cap = out->kwcap ? out->kwcap * 2 : 4;
                ag_str *names = ag_arena_array(p->mem, cap, sizeof *names);
                if (names == NULL) return ag__tp_nomem(p);
                if (out->kwcap) memcpy(names, out->kwname, out->kwcap * sizeof *names);
                out->kwname = names;
                out->kwcap = cap;
            }
            out->kwname[out->kwvalue.n] = t->s;
            if (ok && !ag__tp_push(p, &out->kwvalue, ag__tp_expr(p))) return false;
        } else {
            ok = out->star == NULL && out->dstar == NULL && out->kwvalue.n == 0;
            if (ok && !ag__tp_push(p, &out->pos, ag__tp_expr(p))) return false;
        }
    }
    if (!ok) return ag__tp_fail(p, AG_TEMPLATE_SYNTAX, pos, "invalid syntax for function call expression");
    return ag__tp_expect(p, AG_TOK_RPAREN) != NULL;
}

static ag_tnargs *args_new(ag_tparser *p, bool present)
{
    ag_tnargs *a = ag_arena_zalloc(p->mem, sizeof *a);
    if (a == NULL) {
        ag__tp_nomem(p);
        return NULL;
    }
    return !present || call_args(p, a) ? a : NULL;
}

static ag_tn *list_items(ag_tparser *p)
{
    ag_tn *n = ag__tn_new(p, AG_TN_LIST, ag__tp_next(p)->pos);
    while (n && ag__tp_cur(p)->type != AG_TOK_RBRACKET) {
        if (n->items.n && ag__tp_expect(p, AG_TOK_COMMA) == NULL) return NULL;
        if (ag__tp_cur(p)->type == AG_TOK_RBRACKET) break;
        if (!ag__tp_push(p, &n->items, ag__tp_expr(p))) return NULL;
    }
    return n && ag__tp_expect(p, AG_TOK_RBRACKET) ? n : NULL;
}

static ag_tn *dict_items(ag_tparser *p)
{
    ag_tn *n = ag__tn_new(p, AG_TN_DICT, ag__tp_next(p)->pos);
    while (n && ag__tp_cur(p)->type != AG_TOK_RBRACE) {
        if (n->items.n && ag__tp_expect(p, AG_TOK_COMMA) == NULL) return NULL;
        if (ag__tp_cur(p)->type == AG_TOK_RBRACE) break;
        if (!ag__tp_push(p, &n->items, ag__tp_expr(p)) || ag__tp_expect(p, AG_TOK_COLON) == NULL ||
            !ag__tp_push(p, &n->items, ag__tp_expr(p))) {
            return NULL;
        }
    }
    return n && ag__tp_expect(p, AG_TOK_RBRACE) ? n : NULL;
}

static ag_tn *name_node(ag_tparser *p, unsigned mode)
{
    const ag_tok *t = ag__tp_next(p);
    bool yes = ag_str_eqz(t->s, "true") || ag_str_eqz(t->s, "True");
    if (yes || ag_str_eqz(t->s, "false") || ag_str_eqz(t->s, "False")) {
        ag_tn *n = ag__tn_new(p, AG_TN_BOOL, t->pos);
        if (n) n->flag = yes;
        return n;
    }
    if (ag_str_eqz(t->s, "none") || ag_str_eqz(t->s, "None")) return ag__tn_new(p, AG_TN_NONE, t->pos);
    bool ns = (mode & AG_TP_NAMESPACE) && ag__tp_cur(p)->type == AG_TOK_DOT;
    ag_tn *n = ag__tn_new(p, ns ? AG_TN_NSREF : AG_TN_NAME, t->pos);
    if (n == NULL || !ag__tp_intern(p, t->s, &n->name)) return NULL;
    if (!(mode & AG_TP_SIMPLE)) {
        p->n_loop += ag_str_eqz(t->s, "loop");
        p->n_caller += ag_str_eqz(t->s, "caller");
        p->n_kwargs += ag_str_eqz(t->s, "kwargs");
        p->n_varargs += ag_str_eqz(t->s, "varargs");
    }
    if (ns) {
        ag__tp_next(p);
        const ag_tok *attr = ag__tp_expect(p, AG_TOK_NAME);
        if (attr == NULL) return NULL;
        n->s = attr->s;
    }
    return n;
}

static ag_tn *string_node(ag_tparser *p)
{
    uint32_t first = p->at;
    size_t total = 0;
    ag_tn *n = ag__tn_new(p, AG_TN_STR, ag__tp_cur(p)->pos);
    if (n == NULL) return NULL;
    while (ag__tp_cur(p)->type == AG_TOK_STRING) total += ag__tp_next(p)->s.n;
    n->s = p->tok[first].s;
    if (p->at == first + 1) return n;
    char *all = ag_arena_alloc(p->mem, total);
    if (all == NULL) {
        ag__tp_nomem(p);
        return NULL;
    }
    n->s = (ag_str){all, total};
    for (uint32_t i = first; i < p->at; i++) {
        if (p->tok[i].s.n) memcpy(all, p->tok[i].s.p, p->tok[i].s.n);
        all += p->tok[i].s.n;
    }
    return n;
}

static ag_tn *primary(ag_tparser *p, unsigned mode)
{
    const ag_tok *t = ag__tp_cur(p);
    ag_tn *n;
    switch (t->type) {
    case AG_TOK_NAME:
        return name_node(p, mode);
    case AG_TOK_STRING:
        return string_node(p);
    case AG_TOK_INTEGER:
    case AG_TOK_FLOAT:
        n = ag__tn_new(p, t->type == AG_TOK_INTEGER ? AG_TN_INT : AG_TN_FLOAT, t->pos);
        if (n == NULL) return NULL;
        if (t->type == AG_TOK_INTEGER) n->i = t->i;
        else n->f = t->f;
        ag__tp_next(p);
        return n;
    case AG_TOK_LPAREN:
        ag__tp_next(p);
        n = ag__tp_tuple(p, AG_TP_PARENS, NULL);
        return n && ag__tp_expect(p, AG_TOK_RPAREN) ? n : NULL;
    case AG_TOK_LBRACKET:
        return list_items(p);
    case AG_TOK_LBRACE:
        return dict_items(p);
    default:
        return unexpected(p);
    }
}

/* One item between [ and ]: an expression or a slice. */
static ag_tn *subscribed(ag_tparser *p)
{
    ag_tn *part[3] = {NULL, NULL, NULL};
    uint32_t pos = ag__tp_cur(p)->pos;
    if (ag__tp_cur(p)->type != AG_TOK_COLON) {
        part[0] = ag__tp_expr(p);
        if (part[0] == NULL || ag__tp_cur(p)->type != AG_TOK_COLON) return part[0];
    }
    for (int i = 1; i < 3 && ag__tp_skip(p, AG_TOK_COLON); i++) {
        ag_tok_type t = ag__tp_cur(p)->type;
        if (t == AG_TOK_COLON || t == AG_TOK_RBRACKET || t == AG_TOK_COMMA) continue;
        if ((part[i] = ag__tp_expr(p)) == NULL) return NULL;
    }
    ag_tn *n = ag__tn_new(p, AG_TN_SLICE, pos);
    if (n == NULL) return NULL;
    n->a = part[0];
    n->b = part[1];
    n->c = part[2];
    return n;
}

static ag_tn *subscript(ag_tparser *p, ag_tn *node)
{
    const ag_tok *t = ag__tp_next(p);
    if (t->type == AG_TOK_DOT) {
        const ag_tok *attr = ag__tp_next(p);
        ag_tn *n = ag__tn_new(p, attr->type == AG_TOK_NAME ? AG_TN_GETATTR : AG_TN_GETITEM, t->pos);
        if (n == NULL) return NULL;
        n->a = node;
        if (attr->type == AG_TOK_NAME) {
            n->s = attr->s;
            return n;
        }
        if (attr->type != AG_TOK_INTEGER) {
            ag__tp_fail(p, AG_TEMPLATE_SYNTAX, attr->pos, "expected name or number");
            return NULL;
        }
        n->b = ag__tn_new(p, AG_TN_INT, attr->pos);
        if (n->b) n->b->i = attr->i;
        return n->b ? n : NULL;
    }
    ag_tn *n = ag__tn_new(p, AG_TN_GETITEM, t->pos), *tuple = ag__tn_new(p, AG_TN_TUPLE, t->pos);
    if (n == NULL || tuple == NULL) return NULL;
    while (ag__tp_cur(p)->type != AG_TOK_RBRACKET) {
        if (tuple->items.n && ag__tp_expect(p, AG_TOK_COMMA) == NULL) return NULL;
        if (!ag__tp_push(p, &tuple->items, subscribed(p))) return NULL;
    }
    ag__tp_next(p);
    for (uint32_t i = 0; tuple->items.n > 1 && i < tuple->items.n; i++) {
        if (tuple->items.p[i]->kind != AG_TN_SLICE) continue;
        ag__tp_fail(p, AG_TEMPLATE_SYNTAX, t->pos, "a slice stands alone between its brackets");
        return NULL;
    }
    n->a = node;
    n->b = tuple->items.n == 1 ? tuple->items.p[0] : tuple;
    return n;
}

static ag_tn *call(ag_tparser *p, ag_tn *node)
{
    ag_tn *n = ag__tn_new(p, AG_TN_CALL, ag__tp_cur(p)->pos);
    if (n == NULL) return NULL;
    n->a = node;
    n->args = args_new(p, true);
    return n->args ? n : NULL;
}

static ag_tn *postfix(ag_tparser *p, ag_tn *node)
{
    while (node) {
        ag_tok_type t = ag__tp_cur(p)->type;
        if (t == AG_TOK_DOT || t == AG_TOK_LBRACKET) node = subscript(p, node);
        else if (t == AG_TOK_LPAREN) node = call(p, node);
        else break;
    }
    return node;
}

/* A filter's or test's name, which may have dots. */
static bool dotted(ag_tparser *p, ag_str *out, uint32_t *pos)
{
    const ag_tok *t = ag__tp_expect(p, AG_TOK_NAME);
    if (t == NULL) return false;
    *out = t->s;
    *pos = t->pos;
    while (ag__tp_skip(p, AG_TOK_DOT)) {
        t = ag__tp_expect(p, AG_TOK_NAME);
        if (t == NULL) return false;
        *out = (ag_str){out->p, (size_t)(t->s.p + t->s.n - out->p)};
    }
    return true;
}

ag_tn *ag__tp_filters(ag_tparser *p, ag_tn *node, bool inline_first)
{
    while (inline_first || ag__tp_cur(p)->type == AG_TOK_PIPE) {
        if (!inline_first) ag__tp_next(p);
        inline_first = false;
        ag_str name;
        uint32_t pos;
        if (!dotted(p, &name, &pos)) return NULL;
        ag_tn *n = ag__tn_new(p, AG_TN_FILTER, pos);
        if (n == NULL) return NULL;
        n->a = node;
        n->s = name;
        n->def = ag__t_filter_find(name);
        n->args = args_new(p, ag__tp_cur(p)->type == AG_TOK_LPAREN);
        if (n->args == NULL) return NULL;
        node = n;
    }
    return node;
}

static ag_tn *test(ag_tparser *p, ag_tn *node)
{
    ag__tp_next(p);
    bool negated = ag__tp_skip_name(p, "not");
    ag_tn *n = ag__tn_new(p, AG_TN_TEST, ag__tp_cur(p)->pos);
    if (n == NULL || !dotted(p, &n->s, &n->pos)) return NULL;
    n->a = node;
    n->negated = negated;
    n->def = ag__t_test_find(n->s);
    const ag_tok *t = ag__tp_cur(p);
    n->args = args_new(p, t->type == AG_TOK_LPAREN);
    if (n->args == NULL || t->type == AG_TOK_LPAREN) return n->args ? n : NULL;
    bool arg = t->type == AG_TOK_NAME || t->type == AG_TOK_STRING || t->type == AG_TOK_INTEGER ||
               t->type == AG_TOK_FLOAT || t->type == AG_TOK_LBRACKET || t->type == AG_TOK_LBRACE;
    if (!arg || tok_is_name(t, "else") || tok_is_name(t, "or") || tok_is_name(t, "and")) return n;
    if (tok_is_name(t, "is")) {
        ag__tp_fail(p, AG_TEMPLATE_SYNTAX, t->pos, "You cannot chain multiple tests with is");
        return NULL;
    }
    return ag__tp_push(p, &n->args->pos, postfix(p, primary(p, 0))) ? n : NULL;
}

static ag_tn *unary(ag_tparser *p, bool with_filter)
{
    const ag_tok *t = ag__tp_cur(p);
    ag_tn *n;
    if (!ag__tp_stack_ok(p, t->pos)) return NULL;
    if (t->type == AG_TOK_SUB || t->type == AG_TOK_ADD) {
        ag__tp_next(p);
        n = ag__tn_new(p, t->type == AG_TOK_SUB ? AG_TN_NEG : AG_TN_POS, t->pos);
        if (n == NULL || (n->a = unary(p, false)) == NULL) return NULL;
    } else {
        n = primary(p, 0);
    }
    n = postfix(p, n);
    while (n && with_filter) {
        ag_tok_type type = ag__tp_cur(p)->type;
        if (type == AG_TOK_PIPE) n = ag__tp_filters(p, n, false);
        else if (ag__tp_is_name(p, "is")) n = test(p, n);
        else if (type == AG_TOK_LPAREN) n = call(p, n);
        else break;
    }
    return n;
}

/* How tight an operator binds: 1 + -, 2 ~, 3 * / // %, 4 **; all from left to right. 0: none of these. */
static int level_of(ag_tok_type t)
{
    switch (t) {
    case AG_TOK_ADD: case AG_TOK_SUB: return 1;
    case AG_TOK_TILDE: return 2;
    case AG_TOK_MUL: case AG_TOK_DIV: case AG_TOK_FLOORDIV: case AG_TOK_MOD: return 3;
    case AG_TOK_POW: return 4;
    default: return 0;
    }
}

static ag_tn *binary(ag_tparser *p, int least)
{
    ag_tn *left = unary(p, true), *chain = NULL;
    int chain_level = 0;
    while (left) {
        const ag_tok *t = ag__tp_cur(p);
        int level = level_of(t->type);
        if (level < least || level == 0) break;
        ag__tp_next(p);
        if (level != chain_level) {
            chain = ag__tn_new(p, level == 2 ? AG_TN_CONCAT : AG_TN_BINARY, t->pos);
            if (chain == NULL) return NULL;
            chain->level = (uint8_t)level;
            chain->a = left;
            left = chain;
            chain_level = level;
        }
        ag_tn *right = level == 4 ? unary(p, true) : binary(p, level + 1);
        if (right == NULL || (level != 2 && !ops_push(p, chain, t->type))) return NULL;
        if (!ag__tp_push(p, &chain->items, right)) return NULL;
    }
    return left;
}

/* The comparison operator here as its token type (the two words too), moved behind it; AG_TOK_EOF: none. */
static ag_tok_type comparison(ag_tparser *p)
{
    const ag_tok *t = ag__tp_cur(p);
    if (t->type >= AG_TOK_EQ && t->type <= AG_TOK_LE) return ag__tp_next(p)->type;
    if (ag__tp_skip_name(p, "in")) return AG_TOK_IN;
    if (tok_is_name(t, "not") && tok_is_name(look(p), "in")) {
        p->at += 2;
        return AG_TOK_NOTIN;
    }
    return AG_TOK_EOF;
}

static ag_tn *compare(ag_tparser *p)
{
    ag_tn *left = binary(p, 1), *n = NULL;
    for (;;) {
        uint32_t pos = ag__tp_cur(p)->pos;
        ag_tok_type op = left ? comparison(p) : AG_TOK_EOF;
        if (op == AG_TOK_EOF) return left;
        if (n == NULL) {
            n = ag__tn_new(p, AG_TN_COMPARE, pos);
            if (n == NULL) return NULL;
            n->a = left;
            left = n;
        }
        if (!ops_push(p, n, op) || !ag__tp_push(p, &n->items, binary(p, 1))) return NULL;
    }
}

static ag_tn *not_expr(ag_tparser *p)
{
    if (!ag__tp_is_name(p, "not")) return compare(p);
    ag_tn *n = ag__tn_new(p, AG_TN_NOT, ag__tp_next(p)->pos);
    if (n == NULL || !ag__tp_stack_ok(p, n->pos)) return NULL;
    return (n->a = not_expr(p)) ? n : NULL;
}

static ag_tn *logic(ag_tparser *p, bool is_or)
{
    ag_tn *left = is_or ? logic(p, false) : not_expr(p), *n = NULL;
    while (left && ag__tp_is_name(p, is_or ? "or" : "and")) {
        if (n == NULL) {
            n = ag__tn_new(p, is_or ? AG_TN_OR : AG_TN_AND, ag__tp_cur(p)->pos);
            if (n == NULL || !ag__tp_push(p, &n->items, left)) return NULL;
            left = n;
        }
        ag__tp_next(p);
        if (!ag__tp_push(p, &n->items, is_or ? logic(p, false) : not_expr(p))) return NULL;
    }
    return left;
}

static ag_tn *expr(ag_tparser *p, bool with_cond)
{
    if (!ag__tp_stack_ok(p, ag__tp_cur(p)->pos)) return NULL;
    ag_tn *then = logic(p, true);
    while (with_cond && then && ag__tp_is_name(p, "if")) {
        ag_tn *n = ag__tn_new(p, AG_TN_COND, ag__tp_next(p)->pos);
        if (n == NULL || (n->a = logic(p, true)) == NULL) return NULL;
        n->b = then;
        if (ag__tp_skip_name(p, "else") && (n->c = expr(p, true)) == NULL) return NULL;
        then = n;
    }
    return then;
}

ag_tn *ag__tp_expr(ag_tparser *p) { return expr(p, true); }

ag_tn *ag__tp_tuple(ag_tparser *p, unsigned mode, const char *end_name)
{
    uint32_t pos = ag__tp_cur(p)->pos;
    ag_tnlist items = {0};
    bool comma = false;
    for (;;) {
        ag_tok_type t = ag__tp_cur(p)->type;
        if (t == AG_TOK_VAR_END || t == AG_TOK_BLOCK_END || t == AG_TOK_RPAREN) break;
        if (end_name && ag__tp_is_name(p, end_name)) break;
        ag_tn *n = mode & AG_TP_SIMPLE ? primary(p, mode) : expr(p, !(mode & AG_TP_NO_COND));
        if (!ag__tp_push(p, &items, n)) return NULL;
        if (!ag__tp_skip(p, AG_TOK_COMMA)) break;
        comma = true;
    }
    if (!comma && items.n) return items.p[0];
    if (!comma && !(mode & AG_TP_PARENS)) {
        ag__tp_fail(p, AG_TEMPLATE_SYNTAX, pos, "Expected an expression, got '%s'", tok_describe(ag__tp_cur(p)->type));
        return NULL;
    }
    ag_tn *n = ag__tn_new(p, AG_TN_TUPLE, pos);
    if (n) n->items = items;
    return n;
}

static bool assignable(ag_tparser *p, const ag_tn *n)
{
    if (n->kind == AG_TN_NSREF) return true;
    if (n->kind == AG_TN_NAME) {
        p->n_loop_set += ag_str_eqz(p->t->names[n->name], "loop");
        return true;
    }
    bool ok = n->kind == AG_TN_TUPLE && ag__tp_stack_ok(p, n->pos);
    for (uint32_t i = 0; ok && i < n->items.n; i++) ok = assignable(p, n->items.p[i]);
    return ok || ag__tp_fail(p, AG_TEMPLATE_SYNTAX, n->pos, "can't assign to this expression");
}

ag_tn *ag__tp_target(ag_tparser *p, unsigned mode, const char *end_name)
{
    ag_tn *n = ag__tp_tuple(p, AG_TP_SIMPLE | mode, end_name);
    return n && assignable(p, n) ? n : NULL;
}

ag_tn *ag__tp_target_name(ag_tparser *p)
{
    if (ag__tp_cur(p)->type != AG_TOK_NAME) {
        ag__tp_expect(p, AG_TOK_NAME);
        return NULL;
    }
    ag_tn *n = name_node(p, AG_TP_SIMPLE);
    return n && assignable(p, n) ? n : NULL;
}
