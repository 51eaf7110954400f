#include <stdarg.h>

#include "model/template/value.h"

static bool fail_v(ag_tr *r, ag_template_kind kind, const char *prefix, const char *fmt, va_list ap)
{
    if (r->rc != AG_OK) return false;
    r->rc = kind == AG_TEMPLATE_NOMEM ? AG_E_NOMEM : kind == AG_TEMPLATE_LIMIT ? AG_E_LIMIT : AG_E_TEMPLATE;
    if (r->err == NULL) return false;
    *r->err = (ag_template_error){.kind = kind};
    size_t n = strlen(prefix);
    memcpy(r->err->message, prefix, n);
    vsnprintf(r->err->message + n, sizeof r->err->message - n, fmt, ap);
    ag__t_line_col(r->t, r->pos, &r->err->line, &r->err->column);
    return false;
}

bool ag__tr_fail(ag_tr *r, ag_template_kind kind, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    fail_v(r, kind, "", fmt, ap);
    va_end(ap);
    return false;
}

bool ag__tr_type_error(ag_tr *r, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    fail_v(r, AG_TEMPLATE_RUNTIME, "TypeError: ", fmt, ap);
    va_end(ap);
    return false;
}

bool ag__tr_work(ag_tr *r, size_t bytes)
{
    r->bytes += bytes;
    r->steps += r->bytes >> 8;
    r->bytes &= 255;
    if (AG_LIKELY(r->steps <= r->limits.steps)) return r->rc == AG_OK;
    return ag__tr_fail(r, AG_TEMPLATE_LIMIT, "more than %llu steps", (unsigned long long)r->limits.steps);
}

bool ag__tr_enter(ag_tr *r)
{
    const char *here = __builtin_frame_address(0);
    size_t used = (size_t)(here < r->stack ? r->stack - here : here - r->stack);
    if (r->depth >= r->limits.depth || used > AG_T_STACK_BYTES) {
        return ag__tr_fail(r, AG_TEMPLATE_LIMIT, "nested more than %u deep", r->depth);
    }
    if (!ag__tr_work(r, 256)) return false;
    r->depth++;
    return true;
}

void ag__tr_leave(ag_tr *r) { r->depth--; }

void *ag__tr_alloc(ag_tr *r, size_t bytes)
{
    void *p = ag_arena_alloc(&r->mem, bytes);
    if (p) return p;
    if (ag_arena_full(&r->mem)) {
        ag__tr_fail(r, AG_TEMPLATE_LIMIT, "more than %zu bytes of values", r->limits.memory_bytes);
    } else {
        ag__tr_fail(r, AG_TEMPLATE_NOMEM, "no memory for the template's values");
    }
    return NULL;
}

void *ag__tr_array(ag_tr *r, size_t count, size_t size)
{
    uint64_t bytes;
    if (!ag_mul_ok(count, size, &bytes)) {
        ag__tr_fail(r, AG_TEMPLATE_LIMIT, "more than %zu bytes of values", r->limits.memory_bytes);
        return NULL;
    }
    void *p = ag__tr_alloc(r, bytes);
    if (p) memset(p, 0, bytes);
    return p;
}

bool ag__tr_write(ag_tr *r, const char *p, size_t n)
{
    if (r->sink) return ag__sink_add(r->sink, p, n);
    if (r->out->n - r->out_start > r->limits.output_bytes - AG_MIN(n, r->limits.output_bytes) ||
        n > r->limits.output_bytes || n > r->out->max - r->out->n) {
        return ag__tr_fail(r, AG_TEMPLATE_LIMIT, "more than %zu bytes of output", r->limits.output_bytes);
    }
    if (!ag__tr_work(r, n)) return false;
    return ag_buf_add(r->out, p, n) || ag__tr_fail(r, AG_TEMPLATE_NOMEM, "no memory for the template's output");
}

bool ag__tr_print(ag_tr *r, ag_tv v)
{
    ag_tv s;
    return ag__tv_soft_str(r, v, &s) && ag__tr_write(r, s.s->p, s.s->n);
}

bool ag__tr_resolve(ag_tr *r, uint32_t name, ag_tv *out)
{
    *out = r->context[name];
    if (out->type == AG_TV_MISSING) *out = r->base[name];
    return true;
}

/* What each name of the template means before the template assigns anything. */
static bool base_fill(ag_tr *r)
{
    size_t n = r->t->n_names;
    r->context = ag__tr_array(r, n, sizeof(ag_tv));
    r->base = ag__tr_array(r, n, sizeof(ag_tv));
    if (r->context == NULL || r->base == NULL) return false;
    for (uint32_t i = 0; i < n; i++) {
        ag_str name = r->t->names[i];
        const json_t *j = json_object_get(r->vars, name.p);
        const ag_tfunc *fn = ag__table_find(ag__globals, name);
        if (j && !ag__tv_json(r, j, &r->base[i])) return false;
        if (j == NULL && fn) r->base[i] = AG_TV(AG_TV_FUNC, .fn = fn);
    }
    return true;
}

int ag_template_render(const ag_template *t, const json_t *vars, int64_t now, const ag_template_limits *limits,
                       ag_buf *out,
                       ag_template_error *e)
{
    AG_CHECK(t, AG_TEMPLATE_MAGIC);
    ag_tr r = {.t = t, .vars = vars, .limits = *limits, .now = now, .err = e, .out = out, .out_start = out->n,
               .stack = __builtin_frame_address(0)};
    r.seed = (uint64_t)(uintptr_t)&r * 0x9E3779B97F4A7C15ULL ^ ag_now_us(); /* whoever chooses keys cannot know it */
    ag_arena_init(&r.mem, limits->memory_bytes);
    ag_tenv *env = base_fill(&r) ? ag__env_new(&r, NULL, t->n_slots) : NULL;
    bool ok = env && ag__scope_enter(&r, env, &t->scope) && ag__exec(&r, env, &t->body) != AG_TEXEC_FAIL;
    ag_arena_fini(&r.mem);
    if (ok && r.rc == AG_OK) return AG_OK;
    AG_ASSERT(r.rc != AG_OK);
    out->n = r.out_start;
    out->failed = false;
    return r.rc;
}
