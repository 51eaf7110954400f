#include "base/conf_priv.h"

typedef struct unit {
    const char *name;
    uint64_t times;
} unit;

/* Largest first: a value is printed in the largest unit that divides it. */
static const unit sizes[] = {
    {"TiB", 1ull << 40}, {"GiB", 1ull << 30}, {"MiB", 1ull << 20}, {"KiB", 1ull << 10}, {"B", 1}};
static const unit times[] = {{"h", 3600000}, {"m", 60000}, {"s", 1000}, {"ms", 1}};

static size_t units_of(ag_conf_type type, const unit **out)
{
    *out = type == AG_CONF_TYPE_size ? sizes : times;
    if (type == AG_CONF_TYPE_size) return AG_ARRAY_LEN(sizes);
    return type == AG_CONF_TYPE_duration ? AG_ARRAY_LEN(times) : 0;
}

static bool digits(ag_str s, size_t *n, uint64_t *out)
{
    uint64_t v = 0;
    size_t i = 0;
    for (; i < s.n && s.p[i] >= '0' && s.p[i] <= '9'; i++)
        if (!ag_mul_ok(v, 10, &v) || !ag_add_ok(v, (uint64_t)(s.p[i] - '0'), &v)) return false;
    *n = i;
    *out = v;
    return i > 0;
}

static bool parse(ag_conf_type type, ag_str s, uint64_t *out)
{
    if (type == AG_CONF_TYPE_flag) {
        bool yes = ag_str_eqz(s, "yes") || ag_str_eqz(s, "true") || ag_str_eqz(s, "on") || ag_str_eqz(s, "1");
        bool no = ag_str_eqz(s, "no") || ag_str_eqz(s, "false") || ag_str_eqz(s, "off") || ag_str_eqz(s, "0");
        *out = yes;
        return yes || no;
    }
    size_t n;
    if (!digits(s, &n, out)) return false;
    const unit *u;
    size_t count = units_of(type, &u);
    ag_str rest = {s.p + n, s.n - n};
    if (rest.n == 0) return type != AG_CONF_TYPE_duration || *out == 0; /* 30 of what? */
    for (size_t i = 0; i < count; i++)
        if (ag_str_eqz(rest, u[i].name)) return ag_mul_ok(*out, u[i].times, out);
    return false;
}

int ag__conf_number(const ag_conf_row *r, const char *source, ag_str value, uint64_t *out, ag_err *err)
{
    uint64_t v;
    if (parse(r->type, value, &v) && v >= r->min && v <= r->max) {
        *out = v;
        return AG_OK;
    }
    char form[160];
    ag_buf b;
    ag_buf_init(&b, sizeof form);
    ag__conf_form(r, &b);
    snprintf(form, sizeof form, "%.*s", (int)b.n, b.n ? b.p : "");
    ag_buf_fini(&b);
    return ag_err_set(err, AG_E_USAGE, "%s: '%.*s' is not %s", source, (int)AG_MIN(value.n, (size_t)80), value.p, form);
}

bool ag__conf_number_text(ag_conf_type type, uint64_t v, ag_buf *out)
{
    if (type == AG_CONF_TYPE_flag) return ag_buf_addz(out, v ? "yes" : "no");
    const unit *u;
    size_t count = units_of(type, &u);
    if (v == 0 || count == 0) return ag_buf_addf(out, "%llu", (unsigned long long)v);
    size_t i = 0;
    while (v % u[i].times) i++;
    return ag_buf_addf(out, "%llu%s", (unsigned long long)(v / u[i].times), u[i].name);
}

bool ag__conf_form(const ag_conf_row *r, ag_buf *out)
{
    switch (r->type) {
    case AG_CONF_TYPE_flag: return ag_buf_addz(out, "yes or no");
    case AG_CONF_TYPE_choice: return ag_buf_addf(out, "one of %s", r->unit);
    case AG_CONF_TYPE_text:
    case AG_CONF_TYPE_list:
        return ag_buf_addf(out, "%llu to %llu bytes of text", (unsigned long long)r->min, (unsigned long long)r->max);
    case AG_CONF_TYPE_size: ag_buf_addz(out, "a size such as 16KiB, from "); break;
    case AG_CONF_TYPE_duration: ag_buf_addz(out, "a duration such as 30s or 500ms, from "); break;
    case AG_CONF_TYPE_u32:
    case AG_CONF_TYPE_u64: ag_buf_addz(out, "a whole number from "); break;
    }
    ag__conf_number_text(r->type, r->min, out);
    ag_buf_addz(out, " to ");
    return ag__conf_number_text(r->type, r->max, out);
}
