#include "model/template/template.h"

#include <stdarg.h>

#include "base/mem.h"
#include "base/utf8.h"
#include "model/template/ast.h"

const char *ag_template_kind_name(ag_template_kind k)
{
    static const char *const names[] = {"", "syntax", "runtime", "raised", "limit", "nomem", "sandbox"};
    AG_ASSERT(k >= AG_TEMPLATE_SYNTAX && k <= AG_TEMPLATE_SANDBOX);
    return names[k];
}

void ag__t_line_col(const ag_template *t, uint32_t pos, uint32_t *line, uint32_t *col)
{
    *line = *col = 1;
    for (uint32_t i = 0; i < pos && i < t->src_len; i++) {
        if (t->src[i] == '\n') {
            *line += 1;
            *col = 1;
        } else {
            *col += ((unsigned char)t->src[i] & 0xC0) != 0x80;
        }
    }
}

bool ag__tp_fail(ag_tparser *p, ag_template_kind kind, uint32_t pos, const char *fmt, ...)
{
    if (p->rc != AG_OK) return false;
    p->rc = kind == AG_TEMPLATE_NOMEM ? AG_E_NOMEM : kind == AG_TEMPLATE_LIMIT ? AG_E_LIMIT : AG_E_TEMPLATE;
    if (p->err == NULL) return false;
    *p->err = (ag_template_error){.kind = kind};
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(p->err->message, sizeof p->err->message, fmt, ap);
    va_end(ap);
    if (p->t) ag__t_line_col(p->t, pos, &p->err->line, &p->err->column);
    return false;
}

bool ag__tp_nomem(ag_tparser *p)
{
    if (ag_arena_full(p->mem)) return ag__tp_fail(p, AG_TEMPLATE_LIMIT, 0, "the template's tree is too large");
    return ag__tp_fail(p, AG_TEMPLATE_NOMEM, 0, "no memory for the template");
}

bool ag__tp_stack_ok(ag_tparser *p, uint32_t pos)
{
    const char *here = __builtin_frame_address(0);
    size_t used = (size_t)(here < p->stack ? p->stack - here : here - p->stack);
    return used < AG_T_STACK_BYTES || ag__tp_fail(p, AG_TEMPLATE_LIMIT, pos, "nested too deeply");
}

bool ag__tp_push(ag_tparser *p, ag_tnlist *l, ag_tn *n)
{
    if (n == NULL) return false;
    if (l->n == l->cap) {
        uint32_t cap = l->cap ? l->cap * 2 : 4;
        ag_tn **more = ag_arena_alloc(p->mem, cap * sizeof *more);
        if (more == NULL) return ag__tp_nomem(p);
        if (l->n) memcpy(more, l->p, l->n * sizeof *more);
        l->p = more;
        l->cap = cap;
    }
    l->p[l->n++] = n;
    return true;
}

ag_tn *ag__tn_new(ag_tparser *p, ag_tn_kind kind, uint32_t pos)
{
    ag_tn *n = ag_arena_zalloc(p->mem, sizeof *n);
    if (n == NULL) {
        ag__tp_nomem(p);
        return NULL;
    }
    n->kind = kind;
    n->pos = pos;
    return n;
}

static uint32_t name_hash(ag_str s)
{
    uint32_t h = 2166136261U;
    for (size_t i = 0; i < s.n; i++) h = (h ^ (unsigned char)s.p[i]) * 16777619U;
    return h ^ (h >> 15);
}

static bool names_grow(ag_tparser *p)
{
    uint32_t cap = p->names_cap ? p->names_cap * 2 : 64;
    ag_str *names = ag_arena_array(p->mem, cap, sizeof *names);
    uint32_t *index = ag_arena_array(p->mem, cap * 2, sizeof *index);
    if (names == NULL || index == NULL) return ag__tp_nomem(p);
    for (uint32_t k = 0; k < p->t->n_names; k++) {
        names[k] = p->t->names[k];
        uint32_t i = name_hash(names[k]) & (cap * 2 - 1);
        while (index[i]) i = (i + 1) & (cap * 2 - 1);
        index[i] = k + 1;
    }
    p->t->names = names;
    p->name_index = index;
    p->names_cap = cap;
    p->name_cap = cap * 2;
    return true;
}

bool ag__tp_intern(ag_tparser *p, ag_str name, uint32_t *id)
{
    if (p->t->n_names == p->names_cap && !names_grow(p)) return false;
    uint32_t i = name_hash(name) & (p->name_cap - 1);
    for (; p->name_index[i]; i = (i + 1) & (p->name_cap - 1)) {
        *id = p->name_index[i] - 1;
        if (ag_str_eq(p->t->names[*id], name)) return true;
    }
    char *own = ag_arena_strndup(p->mem, name.p, name.n);
    if (own == NULL) return ag__tp_nomem(p);
    *id = p->t->n_names++;
    p->t->names[*id] = (ag_str){own, name.n};
    p->name_index[i] = *id + 1;
    return true;
}

/* Newlines of all three kinds become \n, and the template's last one goes, as jinja2 does before anything else. */
static bool source_take(ag_tparser *p, const char *source, size_t n)
{
    ag_template *t = p->t;
    char *own = ag_arena_alloc(p->mem, n + 1);
    if (own == NULL) return ag__tp_nomem(p);
    uint32_t k = 0;
    for (size_t i = 0; i < n; i++) {
        if (source[i] == '\r' && i + 1 < n && source[i + 1] == '\n') continue;
        own[k++] = source[i] == '\r' ? '\n' : source[i];
    }
    if (k > 0 && own[k - 1] == '\n') k--;
    own[k] = 0;
    t->src = own;
    t->src_len = k;
    size_t bad = ag_utf8_check(own, k);
    return bad == SIZE_MAX || ag__tp_fail(p, AG_TEMPLATE_SYNTAX, (uint32_t)bad, "the template is not UTF-8");
}

int ag_template_parse(ag_template **out, const char *source, size_t n, ag_template_error *e)
{
    ag_tparser p = {.err = e, .stack = __builtin_frame_address(0)};
    if (n > AG_T_SOURCE_MAX) {
        ag__tp_fail(&p, AG_TEMPLATE_LIMIT, 0, "a template of %zu bytes; at most %u are taken", n, AG_T_SOURCE_MAX);
        return p.rc;
    }
    ag_template *t = ag_mem_zalloc(sizeof *t);
    if (t == NULL) {
        ag__tp_fail(&p, AG_TEMPLATE_NOMEM, 0, "no memory for the template");
        return p.rc;
    }
    t->magic = AG_TEMPLATE_MAGIC;
    ag_arena_init(&t->mem, AG_T_TREE_BYTES_MAX);
    p.t = t;
    p.mem = &t->mem;
    if (source_take(&p, source, n) && ag__t_lex(&p) && ag__t_parse(&p) && ag__t_scopes(&p)) {
        *out = t;
        return AG_OK;
    }
    AG_ASSERT(p.rc != AG_OK);
    ag_template_free(t);
    return p.rc;
}

void ag_template_free(ag_template *t)
{
    if (t == NULL) return;
    AG_CHECK(t, AG_TEMPLATE_MAGIC);
    t->magic = 0;
    ag_arena_fini(&t->mem);
    ag_mem_free(t);
}
