#include "model/template/value.h"

#define PARAMS_MAX 12

const ag_tfunc *ag__table_find(const ag_tfunc *table, ag_str name)
{
    for (; table->name; table++) {
        if (ag_str_eqz(name, table->name)) return table;
    }
    return NULL;
}

/* The i-th word of `params`, empty behind the last. */
static ag_str param_at(const char *params, uint32_t i)
{
    const char *p = params + (*params == '/');
    for (; i > 0 && *p; i--) {
        p += strcspn(p, " ");
        p += *p == ' ';
    }
    return (ag_str){p, strcspn(p, " ")};
}

bool ag__call_func(ag_tr *r, const ag_tfunc *fn, ag_tv self, const ag_targs *args, ag_tv *out)
{
    ag_tv a[PARAMS_MAX];
    uint32_t n = 0;
    for (uint32_t i = 0; i < PARAMS_MAX; i++) a[i] = AG_TV(AG_TV_MISSING);
    if (*fn->params == '*') {
        if (args->n < fn->need) return ag__tr_type_error(r, "%s() takes at least %u arguments", fn->name, fn->need);
        return fn->fn(r, self, a, args, out);
    }
    while (param_at(fn->params, n).n) n++;
    AG_ASSERT(n <= PARAMS_MAX);
    if (args->n > n) return ag__tr_type_error(r, "%s() takes at most %u arguments (%u given)", fn->name, n, args->n);
    for (uint32_t i = 0; i < args->n; i++) a[i] = args->pos[i];
    for (uint32_t k = 0; k < args->n_kw; k++) {
        ag_str key = ag__tv_text(args->kw[k].k);
        uint32_t i = 0;
        while (i < n && !ag_str_eq(param_at(fn->params, i), key)) i++;
        if (i == n || *fn->params == '/') {
            return ag__tr_type_error(r, "%s() got an unexpected keyword argument '%.*s'", fn->name,
                                     (int)AG_MIN(key.n, (size_t)100), key.p);
        }
        if (a[i].type != AG_TV_MISSING) {
            return ag__tr_type_error(r, "%s() got multiple values for an argument", fn->name);
        }
        a[i] = args->kw[k].v;
    }
    for (uint32_t i = 0; i < fn->need; i++) {
        if (a[i].type != AG_TV_MISSING) continue;
        ag_str p = param_at(fn->params, i);
        return ag__tr_type_error(r, "%s() missing a required argument: '%.*s'", fn->name, (int)p.n, p.p);
    }
    return fn->fn(r, self, a, args, out);
}

static bool name_in(ag_str name, const char *words)
{
    for (const char *p = words; *p; p += *p == ' ') {
        size_t n = strcspn(p, " ");
        if (name.n == n && memcmp(name.p, p, n) == 0) return true;
        p += n;
    }
    return false;
}

/* Attributes that Python's types have and the sandbox hides. */
static bool is_unsafe(ag_tv self, ag_str name)
{
    if (self.type == AG_TV_LIST) return name_in(name, "append clear pop reverse insert sort extend remove");
    if (self.type == AG_TV_DICT) return name_in(name, "clear pop popitem setdefault update");
    return false;
}

static bool is_dunder(ag_str name)
{
    return name_in(name, "__class__ __doc__ __init__ __new__ __dict__ __module__ __len__ __getitem__ __str__ __repr__ "
                         "__eq__ __ne__ __lt__ __le__ __gt__ __ge__ __hash__ __dir__ __format__ __reduce__ __sizeof__ "
                         "__getattribute__ __setattr__ __delattr__ __init_subclass__ __subclasshook__ __reduce_ex__ "
                         "__contains__ __iter__ __add__ __mul__ __call__");
}

bool ag__method_get(ag_tr *r, ag_tv self, ag_str name, ag_tv *out, bool *unsafe)
{
    const ag_tfunc *fn = NULL;
    *unsafe = is_unsafe(self, name) || is_dunder(name);
    if (*unsafe) return true;
    switch (self.type) {
    case AG_TV_STR:
        fn = ag__table_find(ag__str_methods, name);
        if (fn == NULL) fn = ag__table_find(ag__str_methods_more, name);
        break;
    case AG_TV_DICT: fn = ag__table_find(ag__dict_methods, name); break;
    case AG_TV_LIST: fn = ag__table_find(ag__list_methods, name); break;
    case AG_TV_TUPLE:
        if (self.flags & AG_TV_GROUP) {
            if (ag_str_eqz(name, "grouper")) *out = self.l->p[0];
            if (ag_str_eqz(name, "list")) *out = self.l->p[1];
        }
        if (!ag_str_eqz(name, "copy")) fn = ag__table_find(ag__list_methods, name);
        break;
    case AG_TV_INT: case AG_TV_FLOAT: case AG_TV_BOOL:
        if (name_in(name, "real numerator") && (self.type != AG_TV_FLOAT || ag_str_eqz(name, "real"))) {
            *out = self.type == AG_TV_BOOL ? ag__tv_int(self.b) : self;
        } else if (name_in(name, "imag")) {
            *out = self.type == AG_TV_FLOAT ? ag__tv_float(0) : ag__tv_int(0);
        } else if (name_in(name, "denominator") && self.type != AG_TV_FLOAT) {
            *out = ag__tv_int(1);
        } else if ((self.type == AG_TV_FLOAT) == ag_str_eqz(name, "is_integer")) {
            fn = ag__table_find(ag__num_methods, name);
        }
        break;
    case AG_TV_RANGE:
        if (ag_str_eqz(name, "start")) *out = ag__tv_int(self.r->start);
        if (ag_str_eqz(name, "stop")) *out = ag__tv_int(self.r->stop);
        if (ag_str_eqz(name, "step")) *out = ag__tv_int(self.r->step);
        break;
    case AG_TV_LOOP: fn = ag__table_find(ag__loop_methods, name); break;
    case AG_TV_CYCLER:
        if (ag_str_eqz(name, "current")) *out = self.cycler->items->p[self.cycler->pos];
        fn = ag__table_find(ag__cycler_methods, name);
        break;
    case AG_TV_MACRO:
        if (ag_str_eqz(name, "name")) return ag__tv_borrow(r, self.m->def->name.p, self.m->def->name.n, out);
        if (ag_str_eqz(name, "caller")) *out = ag__tv_bool(self.m->def->uses_caller);
        if (ag_str_eqz(name, "catch_kwargs")) *out = ag__tv_bool(self.m->def->uses_kwargs);
        if (ag_str_eqz(name, "catch_varargs")) *out = ag__tv_bool(self.m->def->uses_varargs);
        break;
    default: break;
    }
    if (fn == NULL || out->type != AG_TV_MISSING) return true;
    ag_tmethod *m = ag__tr_alloc(r, sizeof *m);
    if (m == NULL) return false;
    *m = (ag_tmethod){self, fn};
    *out = AG_TV(AG_TV_METHOD, .method = m);
    return true;
}

static bool call_joiner(ag_tr *r, ag_tcycler *j, ag_tv *out)
{
    bool first = j->pos == 0;
    j->pos = 1;
    if (first) return ag__tv_strz(r, "", out);
    *out = j->items->p[0];
    return true;
}

static bool call_value(ag_tr *r, ag_tv fn, const ag_targs *args, ag_tv *out)
{
    switch (fn.type) {
    case AG_TV_FUNC: return ag__call_func(r, fn.fn, AG_TV(AG_TV_MISSING), args, out);
    case AG_TV_METHOD: return ag__call_func(r, fn.method->fn, fn.method->self, args, out);
    case AG_TV_MACRO: return ag__macro_call(r, fn.m, args, out);
    case AG_TV_JOINER: return call_joiner(r, fn.cycler, out);
    case AG_TV_LOOP:
        if (args->n != 1 || args->n_kw) return ag__tr_type_error(r, "loop() takes one argument");
        return ag__loop_call(r, fn.loop, args->pos[0], out);
    case AG_TV_UNDEF: return ag__tv_undef_fail(r, fn);
    default: return ag__tr_type_error(r, "'%s' object is not callable", ag__tv_type_name(fn));
    }
}

bool ag__call(ag_tr *r, ag_tv fn, const ag_targs *args, ag_tv *out)
{
    if (!ag__tr_enter(r)) return false;
    bool ok = call_value(r, fn, args, out);
    ag__tr_leave(r);
    return ok;
}
