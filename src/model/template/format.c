/* Python's two ways to format: '%s' % x and '{}'.format(x). */
#include <math.h>
#include <stdio.h>

#include "base/utf8.h"
#include "model/template/uni.h"
#include "model/template/value.h"

#define FORMAT_PRECISION_MAX 400 /* digits behind the point; keeps every number in a buffer on the stack */

typedef struct spec {
    uint32_t fill;
    char align, sign, type; /* 0: not given */
    bool alt, zero, comma, underscore, has_precision;
    int64_t width, precision;
} spec;

static bool value_error(ag_tr *r, const char *what)
{
    return ag__tr_fail(r, AG_TEMPLATE_RUNTIME, "ValueError: %s", what);
}

/* `body` of a number with its sign, padded; `prefix` bytes at its start (sign, 0x) stay in front of zeros. */
static bool put_number(ag_tsink *k, const spec *s, const char *body, size_t prefix)
{
    size_t n = strlen(body);
    int64_t more = s->width > (int64_t)n ? s->width - (int64_t)n : 0, left = 0;
    char fill[4] = " ", align = s->align ? s->align : '>';
    size_t fill_n = 1;
    if (s->fill || s->zero) fill_n = ag_utf8_put(fill, s->fill ? s->fill : '0');
    if (s->zero && !s->align) align = '=';
    left = align == '>' ? more : align == '^' ? more / 2 : 0;
    ag__sink_fill(k, (ag_str){fill, fill_n}, (uint64_t)left);
    if (align == '=') {
        ag__sink_add(k, body, prefix);
        ag__sink_fill(k, (ag_str){fill, fill_n}, (uint64_t)more);
        return ag__sink_add(k, body + prefix, n - prefix);
    }
    ag__sink_add(k, body, n);
    return ag__sink_fill(k, (ag_str){fill, fill_n}, (uint64_t)(more - left));
}

static bool put_text(ag_tsink *k, const spec *s, ag_tv v)
{
    ag_str t = ag__tv_text(v);
    int64_t n = ag__tv_chars(k->r, v);
    if (s->has_precision && s->precision < n) {
        n = s->precision;
        t.n = ag__uni_offset(t.p, t.n, (size_t)n);
    }
    int64_t more = s->width > n ? s->width - n : 0, left = 0;
    char align = s->align ? s->align : '<';
    ag_tsink f;
    ag_tv fill;
    ag__sink_begin(k->r, &f);
    ag__sink_cp(&f, s->fill ? s->fill : s->zero ? '0' : ' ');
    if (!ag__sink_end(&f, &fill)) return false;
    left = align == '>' ? more : align == '^' ? more / 2 : 0;
    ag__sink_fill(k, ag__tv_text(fill), (uint64_t)left);
    ag__sink_add(k, t.p, t.n);
    return ag__sink_fill(k, ag__tv_text(fill), (uint64_t)(more - left));
}

/* Thousands marked in the whole part of `digits` (which may go on with a point or exponent). */
static void group_digits(char *out, size_t cap, const char *digits, char mark, size_t every)
{
    size_t whole = strspn(digits, "0123456789abcdefABCDEF"), o = 0;
    if (every == 3) whole = strspn(digits, "0123456789");
    for (size_t i = 0; digits[i] && o + 2 < cap; i++) {
        if (i && i < whole && (whole - i) % every == 0) out[o++] = mark;
        out[o++] = digits[i];
    }
    out[o] = 0;
}

static bool put_int(ag_tsink *k, const spec *s, int64_t i)
{
    char digits[80], marked[160], body[180];
    uint64_t u = i < 0 ? 0 - (uint64_t)i : (uint64_t)i;
    const char *base = "";
    size_t n = 0;
    switch (s->type) {
    case 'x': snprintf(digits, sizeof digits, "%llx", (unsigned long long)u); base = "0x"; break;
    case 'X': snprintf(digits, sizeof digits, "%llX", (unsigned long long)u); base = "0X"; break;
    case 'o': snprintf(digits, sizeof digits, "%llo", (unsigned long long)u); base = "0o"; break;
    case 'b':
        for (int bit = 63; bit >= 0; bit--) {
            if (n || (u >> bit & 1) || bit == 0) digits[n++] = (char)('0' + (u >> bit & 1));
        }
        digits[n] = 0;
        base = "0b";
        break;
    default: snprintf(digits, sizeof digits, "%llu", (unsigned long long)u); break;
    }
    if (s->has_precision) { /* of %d: at least so many digits */
        snprintf(marked, sizeof marked, "%0*d%s",
                 (int)AG_MAX(AG_MIN(s->precision, (int64_t)70) - (int64_t)strlen(digits), (int64_t)0),
                 0, digits);
        if (s->precision > (int64_t)strlen(digits)) snprintf(digits, sizeof digits, "%.79s", marked);
    }
    if (s->comma || s->underscore) {
        group_digits(marked, sizeof marked, digits, s->comma ? ',' : '_', *base ? 4 : 3);
    } else {
        snprintf(marked, sizeof marked, "%s", digits);
    }
    const char *sign = i < 0 ? "-" : s->sign == '+' ? "+" : s->sign == ' ' ? " " : "";
    snprintf(body, sizeof body, "%s%s%s", sign, s->alt ? base : "", marked);
    return put_number(k, s, body, strlen(sign) + (s->alt ? strlen(base) : 0));
}

static bool put_float(ag_tsink *k, const spec *s, double f, bool repr)
{
    char digits[900], marked[1300], body[1310];
    char type = s->type;
    int precision = (int)(s->has_precision ? s->precision : 6);
    if (precision > FORMAT_PRECISION_MAX) return value_error(k->r, "precision too big");
    double mag = fabs(f) * (type == '%' ? 100 : 1);
    if (!isfinite(f)) snprintf(digits, sizeof digits, "%s", isnan(f) ? "nan" : "inf");
    else if (type == 'f' || type == 'F' || type == '%')
        snprintf(digits, sizeof digits, s->alt ? "%#.*f" : "%.*f", precision, mag);
    else if (type == 'e') snprintf(digits, sizeof digits, s->alt ? "%#.*e" : "%.*e", precision, mag);
    else if (type == 'E') snprintf(digits, sizeof digits, s->alt ? "%#.*E" : "%.*E", precision, mag);
    else if (type == 'G') snprintf(digits, sizeof digits, s->alt ? "%#.*G" : "%.*G", precision, mag);
    else if (type == 0 && repr && !s->has_precision) digits[ag__float_repr(mag, digits)] = 0;
    else {
        snprintf(digits, sizeof digits, s->alt ? "%#.*g" : "%.*g", precision, mag);
        bool whole = type == 0 && repr && !strpbrk(digits, ".e");
        if (whole && (int)strlen(digits) >= AG_MAX(precision, 1)) {
            snprintf(digits, sizeof digits, "%.*e", AG_MAX(precision - 1, 0), mag);
        }
        else if (whole) strcat(digits, ".0");
    }
    if (type == 'F' || type == 'E' || type == 'G') {
        for (char *p = digits; *p; p++) *p = (char)(*p >= 'a' && *p <= 'z' ? *p - 32 : *p);
    }
    if (type == '%') strcat(digits, "%");
    if (s->comma || s->underscore) group_digits(marked, sizeof marked, digits, s->comma ? ',' : '_', 3);
    else snprintf(marked, sizeof marked, "%s", digits);
    const char *sign = signbit(f) && !isnan(f) ? "-" : s->sign == '+' ? "+" : s->sign == ' ' ? " " : "";
    snprintf(body, sizeof body, "%s%s", sign, marked);
    return put_number(k, s, body, strlen(sign));
}

static bool digits_of(const char **p, const char *end, int64_t *out, bool *given)
{
    *given = false;
    for (*out = 0; *p < end && **p >= '0' && **p <= '9'; (*p)++) {
        *given = true;
        *out = *out * 10 + (**p - '0');
        if (*out > INT32_MAX) return false;
    }
    return true;
}

static bool is_align(char c) { return c == '<' || c == '>' || c == '^' || c == '='; }

static bool spec_parse(ag_tr *r, ag_str text, spec *s)
{
    const char *p = text.p, *end = p + text.n;
    bool given;
    *s = (spec){0};
    if (p < end) {
        const char *q = p;
        uint32_t cp = ag__uni_next(&q, end);
        if (q < end && is_align(*q)) {
            s->fill = cp;
            s->align = *q;
            p = q + 1;
        } else if (is_align(*p)) {
            s->align = *p++;
        }
    }
    if (p < end && (*p == '+' || *p == '-' || *p == ' ')) s->sign = *p++;
    if (p < end && *p == '#') s->alt = *p++;
    if (p < end && *p == '0') s->zero = *p++;
    if (!digits_of(&p, end, &s->width, &given)) return value_error(r, "Too many decimal digits in format string");
    if (p < end && *p == ',') s->comma = *p++;
    else if (p < end && *p == '_') s->underscore = *p++;
    if (p < end && *p == '.') {
        p++;
        if (!digits_of(&p, end, &s->precision, &s->has_precision)) {
            return value_error(r, "Too many decimal digits in format string");
        }
        if (!s->has_precision) return value_error(r, "Format specifier missing precision");
    }
    if (p < end) s->type = *p++;
    return p == end || value_error(r, "Invalid format specifier");
}

static bool put_spec(ag_tsink *k, ag_tv v, ag_str text)
{
    spec s;
    ag_tv str;
    if (text.n == 0) return ag__sink_str(k, v);
    if (!spec_parse(k->r, text, &s)) return false;
    if (v.type == AG_TV_STR) {
        if ((s.type && s.type != 's') || s.align == '=' || s.sign || s.comma || s.underscore || s.alt) {
            return value_error(k->r, "Unknown format code for object of type 'str'");
        }
        return put_text(k, &s, v);
    }
    if (ag__tv_is_num(v) && !(v.type == AG_TV_BOOL && s.type == 's')) {
        bool as_int = s.type == 0 || strchr("dnxXob", s.type), as_float = s.type == 0 || strchr("eEfFgGn%", s.type);
        if (v.type == AG_TV_BOOL && s.type == 0) {
            if (!ag__tv_str(k->r, v, &str)) return false;
            if (!s.align) s.align = '<';
            return put_text(k, &s, str);
        }
        if (ag__tv_is_int(v) && as_int) {
            if (s.has_precision) return value_error(k->r, "Precision not allowed in integer format specifier");
            return put_int(k, &s, ag__tv_as_int(v));
        }
        if (ag__tv_is_int(v) && s.type == 'c') {
            int64_t i = ag__tv_as_int(v);
            if (i < 0 || i > 0x10FFFF || (i >= 0xD800 && i < 0xE000)) {
                return value_error(k->r, "%c arg not in range(0x110000)");
            }
            ag_tsink c;
            ag__sink_begin(k->r, &c);
            ag__sink_cp(&c, (uint32_t)i);
            return ag__sink_end(&c, &str) && put_text(k, &s, str);
        }
        if (as_float) return put_float(k, &s, ag__tv_as_float(v), v.type == AG_TV_FLOAT);
        return value_error(k->r, "Unknown format code for a number");
    }
    return ag__tr_type_error(k->r, "unsupported format string passed to %s.__format__", ag__tv_type_name(v));
}

typedef struct braces {
    ag_tsink k;
    const ag_targs *args;
    int64_t next; /* number of the next {} ; -1: fields are numbered by hand */
    bool markup;
} braces;

static bool field_first(braces *b, ag_str name, ag_tv *out)
{
    ag_tr *r = b->k.r;
    int64_t i = 0;
    bool given;
    const char *p = name.p;
    if (!digits_of(&p, name.p + name.n, &i, &given)) return value_error(r, "Too many decimal digits in format string");
    if (name.n == 0 || (given && p == name.p + name.n)) {
        if (name.n == 0 ? b->next < 0 : b->next > 0) {
            return value_error(r, "cannot switch between manual field specification and automatic field numbering");
        }
        if (name.n == 0) i = b->next++;
        else b->next = -1;
        if (i >= b->args->n) {
            return ag__tr_fail(r, AG_TEMPLATE_RUNTIME, "IndexError: Replacement index %lld out of range", (long long)i);
        }
        *out = b->args->pos[i];
        return true;
    }
    for (uint32_t k = 0; k < b->args->n_kw; k++) {
        if (!ag_str_eq(ag__tv_text(b->args->kw[k].k), name)) continue;
        *out = b->args->kw[k].v;
        return true;
    }
    return ag__tr_fail(r, AG_TEMPLATE_RUNTIME, "KeyError: '%.*s'", (int)AG_MIN(name.n, (size_t)100), name.p);
}

/* first.attr[item]... */
static bool field_get(braces *b, ag_str name, ag_tv *out)
{
    ag_tr *r = b->k.r;
    size_t n = 0;
    while (n < name.n && name.p[n] != '.' && name.p[n] != '[') n++;
    if (!field_first(b, (ag_str){name.p, n}, out)) return false;
    while (n < name.n) {
        size_t from = ++n;
        if (name.p[from - 1] == '.') {
            while (n < name.n && name.p[n] != '.' && name.p[n] != '[') n++;
            if (n == from) return value_error(r, "Empty attribute in format string");
            if (!ag__op_attr(r, *out, (ag_str){name.p + from, n - from}, out)) return false;
            continue;
        }
        if (name.p[from - 1] != '[') return value_error(r, "Only '.' or '[' may follow ']' in format field specifier");
        while (n < name.n && name.p[n] != ']') n++;
        if (n == name.n || n == from) return value_error(r, "Missing ']' in format string");
        const char *p = name.p + from;
        int64_t i;
        bool given;
        ag_tv key;
        if (!digits_of(&p, name.p + n, &i, &given)) return value_error(r, "Too many decimal digits in format string");
        if (given && p == name.p + n) key = ag__tv_int(i);
        else if (!ag__tv_borrow(r, name.p + from, n - from, &key)) return false;
        n++;
        if (!ag__op_item(r, *out, key, out)) return false;
    }
    return true;
}

static bool braces_text(braces *b, ag_tsink *k, ag_str fmt, int depth);

/* fmt is what stands between the outer braces: name!conversion:spec */
static bool braces_field(braces *b, ag_tsink *k, ag_str fmt, int depth)
{
    ag_tr *r = k->r;
    size_t n = 0;
    char conversion = 0;
    ag_tv v, text;
    for (int square = 0; n < fmt.n && (square || (fmt.p[n] != ':' && fmt.p[n] != '!')); n++) {
        square = fmt.p[n] == '[' ? 1 : fmt.p[n] == ']' ? 0 : square;
    }
    if (!field_get(b, (ag_str){fmt.p, n}, &v)) return false;
    if (n < fmt.n && fmt.p[n] == '!') {
        if (n + 1 >= fmt.n || (n + 2 < fmt.n && fmt.p[n + 2] != ':')) {
            return value_error(r, "expected ':' after conversion specifier");
        }
        conversion = fmt.p[n + 1];
        n += 2;
    }
    if (conversion == 'r' || conversion == 'a') {
        if (!ag__tv_repr(r, v, &v)) return false;
    } else if (conversion == 's') {
        if (!ag__tv_str(r, v, &v)) return false;
    } else if (conversion) {
        return value_error(r, "Unknown conversion specifier");
    }
    ag_str spec_text = n < fmt.n ? (ag_str){fmt.p + n + 1, fmt.n - n - 1} : (ag_str){"", 0};
    if (memchr(spec_text.p, '{', spec_text.n)) {
        ag_tsink inner;
        if (depth == 0) return value_error(r, "Max string recursion exceeded");
        ag__sink_begin(r, &inner);
        if (!braces_text(b, &inner, spec_text, depth - 1) || !ag__sink_end(&inner, &text)) return false;
        spec_text = ag__tv_text(text);
    }
    if (!b->markup) return put_spec(k, v, spec_text);
    ag_tsink one;
    ag__sink_begin(r, &one);
    if (!put_spec(&one, v, spec_text) || !ag__sink_end(&one, &text)) return false;
    text.flags = v.type == AG_TV_STR ? v.flags : 0;
    return ag__tv_escape(r, text, &text) && ag__sink_str(k, text);
}

static bool braces_text(braces *b, ag_tsink *k, ag_str fmt, int depth)
{
    for (size_t i = 0; i < fmt.n && !k->failed;) {
        char c = fmt.p[i];
        if (c != '{' && c != '}') {
            size_t from = i;
            while (i < fmt.n && fmt.p[i] != '{' && fmt.p[i] != '}') i++;
            ag__sink_add(k, fmt.p + from, i - from);
            continue;
        }
        if (i + 1 < fmt.n && fmt.p[i + 1] == c) {
            ag__sink_addc(k, c);
            i += 2;
            continue;
        }
        if (c == '}') return value_error(k->r, "Single '}' encountered in format string");
        size_t from = ++i;
        for (int open = 1; i < fmt.n; i++) {
            open += fmt.p[i] == '{' ? 1 : fmt.p[i] == '}' ? -1 : 0;
            if (open == 0) break;
        }
        if (i >= fmt.n) return value_error(k->r, "expected '}' before end of string");
        if (!braces_field(b, k, (ag_str){fmt.p + from, i - from}, depth)) return false;
        i++;
    }
    return !k->failed;
}

bool ag__format_braces(ag_tr *r, ag_tv fmt, const ag_targs *args, ag_tv *out)
{
    braces b = {.args = args, .markup = fmt.flags & AG_TV_MARKUP};
    ag__sink_begin(r, &b.k);
    if (!braces_text(&b, &b.k, ag__tv_text(fmt), 1) || !ag__sink_end(&b.k, out)) return false;
    out->flags = fmt.flags;
    return true;
}

typedef struct percent {
    ag_tsink k;
    ag_tv args;
    size_t next;
    bool mapping, used, markup;
} percent;

static bool percent_next(percent *p, ag_tv *out)
{
    if (p->args.type == AG_TV_TUPLE) {
        if (p->next >= p->args.l->n) return ag__tr_type_error(p->k.r, "not enough arguments for format string");
        *out = p->args.l->p[p->next++];
        return true;
    }
    if (p->next++) return ag__tr_type_error(p->k.r, "not enough arguments for format string");
    *out = p->args;
    return true;
}

/* A number or '*' of a width or precision. */
static bool percent_number(percent *p, const char **at, const char *end, int64_t *out, bool *given)
{
    ag_tv v;
    if (*at < end && **at == '*') {
        *given = true;
        *at += 1;
        if (!percent_next(p, &v)) return false;
        if (!ag__tv_is_int(v)) return ag__tr_type_error(p->k.r, "* wants int");
        *out = AG_MIN(ag__tv_as_int(v), (int64_t)INT32_MAX);
        return true;
    }
    return digits_of(at, end, out, given) || value_error(p->k.r, "width too big");
}

static bool percent_put(percent *p, const spec *s, ag_tv v)
{
    ag_tr *r = p->k.r;
    ag_tv text;
    spec own = *s;
    int64_t i;
    switch (s->type) {
    case 's': case 'r': case 'a':
        own.zero = false;
        if (!own.align) own.align = '>';
        if (s->type == 's' ? !ag__tv_soft_str(r, v, &text) : !ag__tv_repr(r, v, &text)) return false;
        if (p->markup && !ag__tv_escape(r, text, &text)) return false;
        return put_text(&p->k, &own, text);
    case 'd': case 'i': case 'u': case 'x': case 'X': case 'o':
        if (v.type == AG_TV_UNDEF) return ag__tv_undef_fail(r, v);
        if (v.type == AG_TV_FLOAT && strchr("diu", s->type) && fabs(v.f) < 9.2e18) i = (int64_t)v.f;
        else if (ag__tv_is_int(v)) i = ag__tv_as_int(v);
        else return ag__tr_type_error(r, "%%%c format: a real number is required, not %s", s->type,
                                      ag__tv_type_name(v));
        return put_int(&p->k, &own, i);
    case 'e': case 'E': case 'f': case 'F': case 'g': case 'G':
        if (v.type == AG_TV_UNDEF) return ag__tv_undef_fail(r, v);
        if (!ag__tv_is_num(v)) return ag__tr_type_error(r, "must be real number, not %s", ag__tv_type_name(v));
        return put_float(&p->k, &own, ag__tv_as_float(v), false);
    case 'c':
        own.zero = own.has_precision = false;
        if (!own.align) own.align = '>';
        if (v.type == AG_TV_STR && ag__tv_chars(r, v) == 1) return put_text(&p->k, &own, v);
        if (!ag__tv_is_int(v)) return ag__tr_type_error(r, "%%c requires int or char");
        i = ag__tv_as_int(v);
        if (i < 0 || i > 0x10FFFF || (i >= 0xD800 && i < 0xE000)) {
            return ag__tr_fail(r, AG_TEMPLATE_RUNTIME, "OverflowError: %%c arg not in range(0x110000)");
        }
        ag_tsink c;
        ag__sink_begin(r, &c);
        ag__sink_cp(&c, (uint32_t)i);
        return ag__sink_end(&c, &text) && put_text(&p->k, &own, text);
    default:
        return value_error(r, "unsupported format character");
    }
}

/* One directive; *at is behind its '%'. */
static bool percent_one(percent *p, const char **at, const char *end)
{
    ag_tr *r = p->k.r;
    spec s = {0};
    bool given, named = false, minus = false;
    ag_tv v = AG_TV(AG_TV_MISSING), key;
    if (*at < end && **at == '(') {
        const char *close = *at + 1;
        for (int open = 1; close < end; close++) {
            open += *close == '(' ? 1 : *close == ')' ? -1 : 0;
            if (open == 0) break;
        }
        if (close >= end) return value_error(r, "incomplete format key");
        if (!p->mapping) return ag__tr_type_error(r, "format requires a mapping");
        if (!ag__tv_borrow(r, *at + 1, (size_t)(close - *at - 1), &key) || !ag__tv_dict_get(r, p->args.d, key, &v)) {
            return false;
        }
        if (v.type == AG_TV_MISSING) {
            return ag__tr_fail(r, AG_TEMPLATE_RUNTIME, "KeyError: '%.*s'", (int)AG_MIN(key.s->n, (size_t)100),
                               key.s->p);
        }
        named = true;
        *at = close + 1;
    }
    for (; *at < end && **at && strchr("-+ #0", **at); (*at)++) {
        char c = **at;
        minus = minus || c == '-';
        if (c == '+' || (c == ' ' && s.sign == 0)) s.sign = c;
        s.alt = s.alt || c == '#';
        s.zero = s.zero || c == '0';
    }
    if (!percent_number(p, at, end, &s.width, &given)) return false;
    if (s.width < 0) {
        minus = true;
        s.width = -s.width;
    }
    if (*at < end && **at == '.') {
        *at += 1;
        if (!percent_number(p, at, end, &s.precision, &given)) return false;
        s.has_precision = true;
        s.precision = AG_MAX(s.precision, (int64_t)0);
    }
    while (*at < end && (**at == 'h' || **at == 'l' || **at == 'L')) *at += 1;
    if (*at >= end) return value_error(r, "incomplete format");
    s.type = *(*at)++;
    if (s.type == '%') return ag__sink_addc(&p->k, '%');
    if (minus) {
        s.align = '<';
        s.zero = false;
    }
    if (!named && !percent_next(p, &v)) return false;
    p->used = p->used || named;
    return percent_put(p, &s, v);
}

bool ag__format_percent(ag_tr *r, ag_tv fmt, ag_tv args, ag_tv *out)
{
    percent p = {.args = args, .mapping = args.type == AG_TV_DICT, .markup = fmt.flags & AG_TV_MARKUP};
    ag__sink_begin(r, &p.k);
    for (const char *at = fmt.s->p, *end = at + fmt.s->n; at < end && !p.k.failed;) {
        const char *mark = memchr(at, '%', (size_t)(end - at));
        ag__sink_add(&p.k, at, (size_t)((mark ? mark : end) - at));
        at = mark ? mark + 1 : end;
        if (mark && !percent_one(&p, &at, end)) return false;
    }
    bool all = args.type == AG_TV_TUPLE ? p.next >= args.l->n
                                        : p.next > 0 || p.mapping || args.type == AG_TV_LIST ||
                                              args.type == AG_TV_UNDEF;
    if (!all) return ag__tr_type_error(r, "not all arguments converted during string formatting");
    if (!ag__sink_end(&p.k, out)) return false;
    out->flags = fmt.flags;
    return true;
}
