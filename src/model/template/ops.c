#include <math.h>

#include "model/template/uni.h"
#include "model/template/value.h"

static bool too_large(ag_tr *r) { return ag__tr_fail(r, AG_TEMPLATE_LIMIT, "an integer beyond 64 bits"); }

static bool zero_division(ag_tr *r, const char *what)
{
    return ag__tr_fail(r, AG_TEMPLATE_RUNTIME, "ZeroDivisionError: %s", what);
}

static const char *op_text(ag_tok_type op)
{
    switch (op) {
    case AG_TOK_ADD: return "+";
    case AG_TOK_SUB: return "-";
    case AG_TOK_MUL: return "*";
    case AG_TOK_DIV: return "/";
    case AG_TOK_FLOORDIV: return "//";
    case AG_TOK_MOD: return "%";
    default: return "** or pow()";
    }
}

static bool int_pow(ag_tr *r, int64_t base, int64_t exp, ag_tv *out)
{
    int64_t result = 1;
    while (exp > 0) {
        if ((exp & 1) && __builtin_mul_overflow(result, base, &result)) return too_large(r);
        exp >>= 1;
        if (exp && __builtin_mul_overflow(base, base, &base)) return too_large(r);
    }
    *out = ag__tv_int(result);
    return true;
}

static bool int_binary(ag_tr *r, ag_tok_type op, int64_t a, int64_t b, ag_tv *out)
{
    int64_t v = 0;
    bool over = false;
    switch (op) {
    case AG_TOK_ADD: over = __builtin_add_overflow(a, b, &v); break;
    case AG_TOK_SUB: over = __builtin_sub_overflow(a, b, &v); break;
    case AG_TOK_MUL: over = __builtin_mul_overflow(a, b, &v); break;
    case AG_TOK_DIV:
        if (b == 0) return zero_division(r, "division by zero");
        *out = ag__tv_float((double)a / (double)b);
        return true;
    case AG_TOK_FLOORDIV: case AG_TOK_MOD:
        if (b == 0) return zero_division(r, "integer division or modulo by zero");
        if (b == -1) {
            over = op == AG_TOK_FLOORDIV && __builtin_sub_overflow(0, a, &v);
            break;
        }
        v = op == AG_TOK_MOD ? a % b : a / b;
        if (op == AG_TOK_MOD && v != 0 && (v < 0) != (b < 0)) v += b;
        if (op == AG_TOK_FLOORDIV && a % b != 0 && (a < 0) != (b < 0)) v--;
        break;
    default:
        if (b < 0) {
            if (a == 0) return zero_division(r, "0.0 cannot be raised to a negative power");
            *out = ag__tv_float(pow((double)a, (double)b));
            return true;
        }
        return int_pow(r, a, b, out);
    }
    *out = ag__tv_int(v);
    return !over || too_large(r);
}

static bool float_binary(ag_tr *r, ag_tok_type op, double a, double b, ag_tv *out)
{
    double v, m;
    switch (op) {
    case AG_TOK_ADD: v = a + b; break;
    case AG_TOK_SUB: v = a - b; break;
    case AG_TOK_MUL: v = a * b; break;
    case AG_TOK_DIV:
        if (b == 0) return zero_division(r, "float division by zero");
        v = a / b;
        break;
    case AG_TOK_FLOORDIV: case AG_TOK_MOD:
        if (b == 0) return zero_division(r, op == AG_TOK_MOD ? "float modulo" : "float floor division by zero");
        m = fmod(a, b);
        v = (a - m) / b;
        if (m != 0 && (b < 0) != (m < 0)) {
            m += b;
            v -= 1;
        }
        if (m == 0) m = copysign(0.0, b);
        if (op == AG_TOK_MOD) {
            v = m;
        } else if (v != 0) {
            double whole = floor(v);
            v = v - whole > 0.5 ? whole + 1 : whole;
        } else {
            v = copysign(0.0, a / b);
        }
        break;
    default:
        if (a == 0 && b < 0) return zero_division(r, "0.0 cannot be raised to a negative power");
        if (a < 0 && isfinite(b) && b != floor(b)) return ag__tr_type_error(r, "complex numbers are not supported");
        v = pow(a, b);
        if (isinf(v) && isfinite(a) && isfinite(b)) {
            return ag__tr_fail(r, AG_TEMPLATE_RUNTIME, "OverflowError: Numerical result out of range");
        }
    }
    *out = ag__tv_float(v);
    return true;
}

static bool str_repeat(ag_tr *r, ag_tv s, int64_t times, ag_tv *out)
{
    ag_tsink k;
    ag__sink_begin(r, &k);
    if (times > 0 && s.s->n > 0) ag__sink_fill(&k, ag__tv_text(s), (uint64_t)times);
    if (!ag__sink_end(&k, out)) return false;
    out->flags = s.flags;
    return true;
}

static bool seq_repeat(ag_tr *r, ag_tv s, int64_t times, ag_tv *out)
{
    uint64_t n = 0;
    if (times > 0 && (!ag_mul_ok(s.l->n, (uint64_t)times, &n) || n > r->limits.memory_bytes / sizeof(ag_tv))) {
        return ag__tr_fail(r, AG_TEMPLATE_LIMIT, "a list longer than the limit of memory");
    }
    if (!ag__tr_work(r, n * sizeof(ag_tv)) || !ag__tv_list(r, s.type, n, out)) return false;
    for (uint64_t i = 0; i < n; i++) out->l->p[i] = s.l->p[i % s.l->n];
    return true;
}

static bool seq_concat(ag_tr *r, ag_tv a, ag_tv b, ag_tv *out)
{
    if (!ag__tv_list(r, a.type, 0, out)) return false;
    *out->l = *a.l;
    for (size_t i = 0; i < b.l->n; i++) {
        if (!ag__tr_work(r, sizeof(ag_tv)) || !ag__tv_list_add(r, out->l, b.l->p[i])) return false;
    }
    return true;
}

static bool str_concat(ag_tr *r, ag_tv a, ag_tv b, ag_tv *out)
{
    unsigned markup = (a.flags | b.flags) & AG_TV_MARKUP;
    if (markup && (!ag__tv_escape(r, a, &a) || !ag__tv_escape(r, b, &b))) return false;
    if (!ag__tv_concat(r, a, b, out)) return false;
    out->flags = markup;
    return true;
}

static bool type_mismatch(ag_tr *r, ag_tok_type op, ag_tv a, ag_tv b)
{
    if (op == AG_TOK_ADD && (a.type == AG_TV_STR || ag__tv_is_seq(a))) {
        return ag__tr_type_error(r, "can only concatenate %s (not \"%s\") to %s", ag__tv_type_name(a),
                                 ag__tv_type_name(b), ag__tv_type_name(a));
    }
    return ag__tr_type_error(r, "unsupported operand type(s) for %s: '%s' and '%s'", op_text(op), ag__tv_type_name(a),
                             ag__tv_type_name(b));
}

bool ag__op_binary(ag_tr *r, ag_tok_type op, ag_tv a, ag_tv b, ag_tv *out)
{
    if (op == AG_TOK_MOD && a.type == AG_TV_STR) return ag__format_percent(r, a, b, out);
    if (ag__tv_is_int(a) && ag__tv_is_int(b)) return int_binary(r, op, ag__tv_as_int(a), ag__tv_as_int(b), out);
    if (ag__tv_is_num(a) && ag__tv_is_num(b)) return float_binary(r, op, ag__tv_as_float(a), ag__tv_as_float(b), out);
    if (a.type == AG_TV_UNDEF) return ag__tv_undef_fail(r, a);
    if (b.type == AG_TV_UNDEF) return ag__tv_undef_fail(r, b);
    if (op == AG_TOK_ADD && a.type == AG_TV_STR && b.type == AG_TV_STR) return str_concat(r, a, b, out);
    if (op == AG_TOK_ADD && ag__tv_is_seq(a) && a.type == b.type) return seq_concat(r, a, b, out);
    if (op == AG_TOK_MUL) {
        if (ag__tv_is_int(a)) {
            ag_tv swap = a;
            a = b;
            b = swap;
        }
        if (a.type == AG_TV_STR && ag__tv_is_int(b)) return str_repeat(r, a, ag__tv_as_int(b), out);
        if (ag__tv_is_seq(a) && ag__tv_is_int(b)) return seq_repeat(r, a, ag__tv_as_int(b), out);
    }
    return type_mismatch(r, op, a, b);
}

bool ag__op_neg(ag_tr *r, ag_tv a, bool negate, ag_tv *out)
{
    if (a.type == AG_TV_FLOAT) {
        *out = ag__tv_float(negate ? -a.f : a.f);
        return true;
    }
    if (ag__tv_is_int(a)) return int_binary(r, negate ? AG_TOK_SUB : AG_TOK_ADD, 0, ag__tv_as_int(a), out);
    if (a.type == AG_TV_UNDEF) return ag__tv_undef_fail(r, a);
    return ag__tr_type_error(r, "bad operand type for unary %c: '%s'", negate ? '-' : '+', ag__tv_type_name(a));
}

bool ag__op_int(ag_tr *r, ag_tv v, int64_t *out)
{
    if (ag__tv_is_int(v)) {
        *out = ag__tv_as_int(v);
        return true;
    }
    if (v.type == AG_TV_UNDEF) return ag__tv_undef_fail(r, v);
    return ag__tr_type_error(r, "'%s' object cannot be interpreted as an integer", ag__tv_type_name(v));
}

bool ag__op_len(ag_tr *r, ag_tv v, int64_t *out)
{
    ag_tv n;
    *out = 0;
    switch (v.type) {
    case AG_TV_UNDEF: return true;
    case AG_TV_STR: *out = ag__tv_chars(r, v); return true;
    case AG_TV_LIST: case AG_TV_TUPLE: *out = (int64_t)v.l->n; return true;
    case AG_TV_DICT: *out = v.d->n; return true;
    case AG_TV_RANGE: *out = v.r->n; return true;
    case AG_TV_VIEW: *out = v.v->dict->n; return true;
    case AG_TV_LOOP:
        if (!ag__loop_attr(r, v.loop, AG_STR("length"), &n)) return false;
        *out = n.i;
        return true;
    default:
        return ag__tr_type_error(r, "object of type '%s' has no len()", ag__tv_type_name(v));
    }
}

/* The characters [from, from + n) of a string. */
static bool str_part(ag_tr *r, ag_tv s, int64_t from, int64_t n, ag_tv *out)
{
    const char *p = s.s->p;
    size_t len = s.s->n, begin, size;
    if (ag__tv_chars(r, s) == (int64_t)len) {
        begin = (size_t)from;
        size = (size_t)n;
    } else {
        begin = ag__uni_offset(p, len, (size_t)from);
        size = ag__uni_offset(p + begin, len - begin, (size_t)n);
        if (!ag__tr_work(r, begin + size)) return false;
    }
    if (!ag__tv_borrow(r, p + begin, size, out)) return false;
    out->s->chars = n;
    out->flags = s.flags;
    return true;
}

/* obj[i] of a sequence; *out missing: out of range. */
static bool seq_item(ag_tr *r, ag_tv obj, int64_t i, ag_tv *out)
{
    int64_t n;
    *out = AG_TV(AG_TV_MISSING);
    if (!ag__op_len(r, obj, &n)) return false;
    if (i < 0) i += n;
    if (i < 0 || i >= n) return true;
    if (obj.type == AG_TV_STR) return str_part(r, obj, i, 1, out);
    *out = obj.type == AG_TV_RANGE ? ag__tv_int(obj.r->start + i * obj.r->step) : obj.l->p[i];
    return true;
}

/* obj[key] as Python has it; *out missing instead of TypeError and LookupError. */
static bool raw_item(ag_tr *r, ag_tv obj, ag_tv key, ag_tv *out)
{
    *out = AG_TV(AG_TV_MISSING);
    if (obj.type == AG_TV_DICT) {
        bool hashable = key.type != AG_TV_LIST && key.type != AG_TV_DICT;
        return !hashable || ag__tv_dict_get(r, obj.d, key, out);
    }
    bool seq = obj.type == AG_TV_STR || ag__tv_is_seq(obj) || obj.type == AG_TV_RANGE;
    return !seq || !ag__tv_is_int(key) || seq_item(r, obj, ag__tv_as_int(key), out);
}

/* getattr(obj, name); *out missing instead of AttributeError. */
static bool raw_attr(ag_tr *r, ag_tv obj, ag_str name, ag_tv *out)
{
    bool unsafe = false;
    *out = AG_TV(AG_TV_MISSING);
    if (obj.type == AG_TV_NAMESPACE) {
        ag_tv key;
        return ag__tv_borrow(r, name.p, name.n, &key) && ag__tv_dict_get(r, obj.d, key, out);
    }
    if (obj.type == AG_TV_LOOP && !ag__loop_attr(r, obj.loop, name, out)) return false;
    if (out->type == AG_TV_MISSING && !ag__method_get(r, obj, name, out, &unsafe)) return false;
    if (unsafe) return ag__tv_undef(r, AG_TUNDEF_UNSAFE, ag__tv_type_name(obj), name, out);
    return true;
}

static bool undefined_of(ag_tr *r, ag_tv obj, ag_tv key, ag_tv *out)
{
    char type[64];
    ag_tv name, kept;
    bool quoted = key.type == AG_TV_STR;
    if (obj.type == AG_TV_NONE) snprintf(type, sizeof type, "None");
    else snprintf(type, sizeof type, "%.40s object", ag__tv_type_name(obj));
    if (quoted) name = key;
    else if (!ag__tv_repr(r, key, &name)) return false;
    if (!ag__tv_copy(r, type, strlen(type) + 1, &kept)) return false;
    if (!ag__tv_undef(r, AG_TUNDEF_ATTR, kept.s->p, ag__tv_text(name), out)) return false;
    out->u->quoted = quoted;
    return true;
}

bool ag__op_item(ag_tr *r, ag_tv obj, ag_tv key, ag_tv *out)
{
    if (obj.type == AG_TV_UNDEF) return ag__tv_undef_fail(r, obj);
    if (!raw_item(r, obj, key, out)) return false;
    if (out->type == AG_TV_MISSING && key.type == AG_TV_STR && !raw_attr(r, obj, ag__tv_text(key), out)) return false;
    return out->type != AG_TV_MISSING || undefined_of(r, obj, key, out);
}

bool ag__op_attr(ag_tr *r, ag_tv obj, ag_str name, ag_tv *out)
{
    if (obj.type == AG_TV_UNDEF) return ag__tv_undef_fail(r, obj);
    if (!raw_attr(r, obj, name, out)) return false;
    if (out->type != AG_TV_MISSING) return true;
    ag_tv key;
    if (!ag__tv_borrow(r, name.p, name.n, &key) || !raw_item(r, obj, key, out)) return false;
    return out->type != AG_TV_MISSING || undefined_of(r, obj, key, out);
}

/* One bound of a slice, clamped as Python clamps it. */
static bool slice_bound(ag_tr *r, ag_tv v, int64_t n, bool backward, int64_t dflt, int64_t *out)
{
    *out = dflt;
    if (v.type == AG_TV_NONE || v.type == AG_TV_MISSING) return true;
    if (!ag__tv_is_int(v)) {
        return ag__tr_type_error(r, "slice indices must be integers or None or have an __index__ method");
    }
    int64_t i = ag__tv_as_int(v);
    if (i < 0) i = i < -n ? (backward ? -1 : 0) : i + n;
    else if (i >= n) i = backward ? n - 1 : n;
    *out = i;
    return true;
}

static bool str_slice(ag_tr *r, ag_tv s, int64_t from, int64_t step, int64_t n, ag_tv *out)
{
    if (step == 1 || n == 0) return str_part(r, s, n ? from : 0, n, out);
    ag_tsink k;
    ag__sink_begin(r, &k);
    const char *begin = s.s->p, *end = begin + s.s->n, *p = begin + ag__uni_offset(begin, s.s->n, (size_t)from);
    for (int64_t i = 0; i < n && !k.failed; i++) {
        const char *q = p;
        ag__uni_next(&q, end);
        ag__sink_add(&k, p, (size_t)(q - p));
        for (int64_t j = 0; i + 1 < n && j < (step < 0 ? -step : step); j++) {
            if (step > 0) ag__uni_next(&p, end);
            else ag__uni_prev(begin, &p);
        }
    }
    if (!ag__tr_work(r, s.s->n) || !ag__sink_end(&k, out)) return false;
    out->flags = s.flags;
    return true;
}

bool ag__op_slice(ag_tr *r, ag_tv obj, ag_tv start, ag_tv stop, ag_tv step, ag_tv *out)
{
    int64_t n, by = 1, from, to;
    if (obj.type == AG_TV_UNDEF) return ag__tv_undef_fail(r, obj);
    if (obj.type == AG_TV_DICT) return ag__tr_type_error(r, "unhashable type: 'slice'");
    if (obj.type != AG_TV_STR && obj.type != AG_TV_RANGE && !ag__tv_is_seq(obj)) {
        return ag__tr_type_error(r, "'%s' object is not subscriptable", ag__tv_type_name(obj));
    }
    if (!ag__op_len(r, obj, &n)) return false;
    if (step.type != AG_TV_NONE && step.type != AG_TV_MISSING) {
        if (!ag__tv_is_int(step)) {
            return ag__tr_type_error(r, "slice indices must be integers or None or have an __index__ method");
        }
        by = AG_MAX(ag__tv_as_int(step), -INT64_MAX);
    }
    if (by == 0) return ag__tr_fail(r, AG_TEMPLATE_RUNTIME, "ValueError: slice step cannot be zero");
    bool back = by < 0;
    if (!slice_bound(r, start, n, back, back ? n - 1 : 0, &from)) return false;
    if (!slice_bound(r, stop, n, back, back ? -1 : n, &to)) return false;
    int64_t span = back ? from - to : to - from, width = back ? -by : by;
    int64_t count = span > 0 ? (span - 1) / width + 1 : 0;
    if (obj.type == AG_TV_STR) return str_slice(r, obj, from, by, count, out);
    if (obj.type == AG_TV_RANGE) {
        ag_trange *g = ag__tr_alloc(r, sizeof *g);
        if (g == NULL) return false;
        int64_t unit = obj.r->step;
        uint64_t base = (uint64_t)obj.r->start, u = (uint64_t)unit; /* the end may lie a step outside of 64 bits */
        *g = (ag_trange){.start = (int64_t)(base + (uint64_t)from * u), .stop = (int64_t)(base + (uint64_t)to * u),
                         .n = count};
        if (__builtin_mul_overflow(unit, by, &g->step)) return too_large(r);
        *out = AG_TV(AG_TV_RANGE, .r = g);
        return true;
    }
    if (by == 1) {
        if (!ag__tv_list(r, obj.type, 0, out)) return false;
        *out->l = (ag_tlist){.p = count ? obj.l->p + from : NULL, .n = (size_t)count};
        return true;
    }
    if (!ag__tr_work(r, (size_t)count * 16) || !ag__tv_list(r, obj.type, (size_t)count, out)) return false;
    for (int64_t i = 0; i < count; i++) out->l->p[i] = obj.l->p[from + i * by];
    return true;
}
