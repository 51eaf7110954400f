/* Filters on numbers and single values; the search through all filters. */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "model/template/uni.h"
#include "model/template/value.h"

#define FILTER(name) \
    static bool name(ag_tr *r, ag_tv self, const ag_tv *a, const ag_targs *all AG_UNUSED, ag_tv *out)
#define FILTER0(name) \
    static bool name(ag_tr *r, ag_tv self, const ag_tv *a AG_UNUSED, const ag_targs *all AG_UNUSED, ag_tv *out)

FILTER(f_default)
{
    bool absent = self.type == AG_TV_UNDEF || (ag__tv_true(a[1]) && !ag__tv_true(self));
    *out = self;
    if (!absent) return true;
    *out = a[0];
    return a[0].type != AG_TV_MISSING || ag__tv_strz(r, "", out);
}

FILTER(f_attr)
{
    ag_str name;
    if (!ag__arg_str(r, a[0], "attribute name", &name)) return false;
    if (self.type == AG_TV_UNDEF) return ag__tv_undef_fail(r, self);
    if (self.type != AG_TV_DICT) return ag__op_attr(r, self, name, out);
    bool unsafe; /* of a dict, methods alone are attributes */
    *out = AG_TV(AG_TV_MISSING);
    if (!ag__method_get(r, self, name, out, &unsafe)) return false;
    if (unsafe) return ag__tv_undef(r, AG_TUNDEF_UNSAFE, "dict", name, out);
    return out->type != AG_TV_MISSING || ag__tv_undef(r, AG_TUNDEF_ATTR, "dict object", name, out);
}

FILTER0(f_abs)
{
    bool negative = self.type == AG_TV_FLOAT ? signbit(self.f) != 0 : ag__tv_is_int(self) && ag__tv_as_int(self) < 0;
    if (ag__tv_is_num(self)) return ag__op_neg(r, self, negative, out);
    if (self.type == AG_TV_UNDEF) return ag__tv_undef_fail(r, self);
    return ag__tr_type_error(r, "bad operand type for abs(): '%s'", ag__tv_type_name(self));
}

/* White space off, underscores between digits out; false: no number can be this long or this wrong. */
static bool number_text(ag_str s, char *out, size_t cap)
{
    const char *p = ag__uni_strip_left(s.p, s.p + s.n), *end = ag__uni_strip_right(p, s.p + s.n);
    size_t n = 0;
    for (const char *q = p; q < end; q++) {
        bool digits = q > p && q + 1 < end && q[-1] != '_' && q[1] != '_' && (unsigned char)q[-1] < 0x80;
        if (*q == '_' && digits) continue;
        if (*q == '_' || *q == 0 || n + 1 >= cap) return false;
        out[n++] = *q;
    }
    out[n] = 0;
    return n > 0;
}

static bool parse_float(ag_str s, double *out)
{
    char text[512], *end;
    if (!number_text(s, text, sizeof text) || strpbrk(text, "xXpP(") || (text[0] && strchr(" \t\n\v\f\r", text[0]))) {
        return false;
    }
    *out = strtod(text, &end);
    return *end == 0 && end != text;
}

/* 1: *out; 0: not an integer; -1: one beyond 64 bits. */
static int parse_int(ag_str s, int base, int64_t *out)
{
    char text[512], *end;
    if (!number_text(s, text, sizeof text)) return 0;
    const char *digits = text + (text[0] == '-' || text[0] == '+');
    char c = (char)(digits[0] == '0' ? digits[1] | 32 : 0);
    int prefix = c == 'x' ? 16 : c == 'o' ? 8 : c == 'b' ? 2 : 0;
    if (base == 0) base = prefix ? prefix : 10;
    bool skip = prefix && prefix == base;
    if (digits[0] == '-' || digits[0] == '+' || digits[0] == ' ') return 0;
    if (skip) {
        size_t sign = (size_t)(digits - text);
        memmove(text + sign, digits + 2, strlen(digits + 2) + 1);
    }
    const char *first = text + (text[0] == '-' || text[0] == '+');
    if (!((*first >= '0' && *first <= '9') || ((*first | 32) >= 'a' && (*first | 32) <= 'z'))) return 0;
    if (base == 16 && first[0] == '0' && (first[1] | 32) == 'x') return 0;
    errno = 0;
    *out = strtoll(text, &end, base);
    if (*end) return 0;
    return errno == ERANGE ? -1 : 1;
}

static bool float_to_int(ag_tr *r, double f, ag_tv *out)
{
    if (!(f > -9223372036854775809.0 && f < 9223372036854775808.0)) {
        return ag__tr_fail(r, AG_TEMPLATE_LIMIT, "an integer beyond 64 bits");
    }
    *out = ag__tv_int((int64_t)f);
    return true;
}

FILTER(f_int)
{
    int64_t base, i;
    double f;
    *out = a[0].type == AG_TV_MISSING ? ag__tv_int(0) : a[0];
    if (!ag__arg_int(r, a[1], 10, &base)) return false;
    if (ag__tv_is_int(self)) {
        *out = ag__tv_int(ag__tv_as_int(self));
        return true;
    }
    if (self.type == AG_TV_UNDEF) return ag__tv_undef_fail(r, self);
    if (self.type == AG_TV_FLOAT) {
        if (isnan(self.f)) return true;
        if (isinf(self.f)) {
            return ag__tr_fail(r, AG_TEMPLATE_RUNTIME, "OverflowError: cannot convert float infinity to integer");
        }
        return float_to_int(r, self.f, out);
    }
    if (self.type != AG_TV_STR) return true;
    int rc = base == 0 || (base >= 2 && base <= 36) ? parse_int(ag__tv_text(self), (int)base, &i) : 0;
    if (rc < 0) return ag__tr_fail(r, AG_TEMPLATE_LIMIT, "an integer beyond 64 bits");
    if (rc > 0) *out = ag__tv_int(i);
    else if (parse_float(ag__tv_text(self), &f) && isfinite(f)) return float_to_int(r, f, out);
    return true;
}

FILTER(f_float)
{
    double f;
    *out = a[0].type == AG_TV_MISSING ? ag__tv_float(0) : a[0];
    if (ag__tv_is_num(self)) *out = ag__tv_float(ag__tv_as_float(self));
    else if (self.type == AG_TV_UNDEF) return ag__tv_undef_fail(r, self);
    else if (self.type == AG_TV_STR && parse_float(ag__tv_text(self), &f)) *out = ag__tv_float(f);
    return true;
}

static double round_common(double f, int64_t digits)
{
    char text[400];
    if (!isfinite(f) || digits > 300) return f;
    if (digits < -300) return copysign(0, f);
    if (digits >= 0) {
        snprintf(text, sizeof text, "%.*f", (int)AG_MIN(digits, (int64_t)60), f);
        return digits > 60 ? f : strtod(text, NULL);
    }
    double unit = pow(10, (double)-digits);
    return rint(f / unit) * unit;
}

static bool round_int(ag_tr *r, int64_t i, int64_t digits, ag_tv *out)
{
    int64_t unit = 1;
    for (int64_t k = digits; k < 0 && unit; k++) {
        if (__builtin_mul_overflow(unit, (int64_t)10, &unit)) unit = 0;
    }
    if (unit == 0) {
        *out = ag__tv_int(0);
        return true;
    }
    int64_t rest = i % unit, down = i - rest, half = unit / 2;
    if (rest < 0) {
        rest += unit;
        if (__builtin_sub_overflow(down, unit, &down)) {
            return ag__tr_fail(r, AG_TEMPLATE_LIMIT, "an integer beyond 64 bits");
        }
    }
    bool up = unit > 1 && (rest > half || (rest == half && (down / unit) % 2 != 0));
    if (up && __builtin_add_overflow(down, unit, &down)) {
        return ag__tr_fail(r, AG_TEMPLATE_LIMIT, "an integer beyond 64 bits");
    }
    *out = ag__tv_int(down);
    return true;
}

FILTER(f_round)
{
    int64_t digits;
    if (!ag__arg_int(r, a[0], 0, &digits)) return false;
    ag_str how = AG_STR("common");
    if (a[1].type != AG_TV_MISSING && a[1].type == AG_TV_STR) how = ag__tv_text(a[1]);
    bool common = ag_str_eqz(how, "common"), ceiling = ag_str_eqz(how, "ceil");
    if ((!common && !ceiling && !ag_str_eqz(how, "floor")) || (a[1].type != AG_TV_MISSING && a[1].type != AG_TV_STR)) {
        return ag__tr_fail(r, AG_TEMPLATE_RUNTIME, "method must be common, ceil or floor");
    }
    if (self.type == AG_TV_UNDEF) return ag__tv_undef_fail(r, self);
    if (!ag__tv_is_num(self)) {
        return ag__tr_type_error(r, "type %s doesn't define __round__ method", ag__tv_type_name(self));
    }
    if (common && ag__tv_is_int(self)) return round_int(r, ag__tv_as_int(self), digits, out);
    double f = ag__tv_as_float(self), unit = pow(10, (double)digits);
    if (common) *out = ag__tv_float(round_common(f, digits));
    else *out = ag__tv_float((ceiling ? ceil(f * unit) : floor(f * unit)) / unit);
    return true;
}

const ag_tfunc ag__filters_misc[] = {
    {"default", "default_value boolean", 0, f_default},
    {"d", "default_value boolean", 0, f_default},
    {"attr", "name", 1, f_attr},
    {"abs", "", 0, f_abs},
    {"int", "default base", 0, f_int},
    {"float", "default", 0, f_float},
    {"round", "precision method", 0, f_round},
    {NULL, NULL, 0, NULL},
};

const void *ag__t_filter_find(ag_str name)
{
    const ag_tfunc *fn = ag__table_find(ag__filters_text, name);
    if (fn == NULL) fn = ag__table_find(ag__filters_seq, name);
    return fn ? fn : ag__table_find(ag__filters_misc, name);
}
