#include <math.h>
#include <stdarg.h>
#include <stdio.h>

#include "base/mem.h"
#include "base/utf8.h"
#include "gateway/dialects/fields.h"
#include "gateway/dialects/openai.h"

/* Whether memory was refused on this thread while jansson read. It takes some refusals for wrong syntax, others for
 * nothing, and after one in the middle of a string it reads past the string's end. So while it reads it is never
 * refused: memory is asked for once more, ag__json_load having seen that what a body takes at once is there, and the
 * body is given up after. */
static _Thread_local bool reading, starved;

static void *json_alloc(size_t n)
{
    void *p = ag_mem_alloc(n);
    if (p || !reading) return p;
    starved = true;
    p = ag_mem_alloc(n);
    AG_ASSERT(p != NULL);
    return p;
}

/* A string under way takes twice its length at most, and is then copied; an array's table of pointers, 8 bytes for the
 * two that an element takes, is doubled beside the old one. */
static bool memory_is_there(size_t n)
{
    void *p = ag_mem_alloc(16 * n + 4096);
    ag_mem_free(p);
    return p != NULL;
}

static ag_json_limits limits = AG_JSON_LIMITS_DEFAULT;

void ag_openai_init(void) { json_set_alloc_funcs(json_alloc, ag_mem_free); }
void ag_json_limit(const ag_json_limits *l) { limits = *l; }
const ag_json_limits *ag__json_limits(void) { return &limits; }

const char *ag__json_type(const json_t *v)
{
    switch (json_typeof(v)) {
    case JSON_OBJECT: return "an object";
    case JSON_ARRAY: return "an array";
    case JSON_STRING: return "a string";
    case JSON_INTEGER:
    case JSON_REAL: return "a number";
    case JSON_TRUE:
    case JSON_FALSE: return "a boolean";
    default: return "null";
    }
}

int ag_request_fail(ag_err *err, int code, const char *param, const char *fmt, ...)
{
    char text[sizeof err->text];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    bool first = err && err->code == AG_OK;
    ag_err_set(err, code, "%s", text);
    if (first && param) snprintf(err->param, sizeof err->param, "%s", param);
    return code;
}

int ag__wrong_type(ag_err *err, const char *param, const char *wanted, const json_t *got)
{
    return ag_request_fail(err, AG_E_PARAM, param, "'%s' must be %s, not %s.", param, wanted, ag__json_type(got));
}

int ag__no_memory(const ag_request *r, ag_err *err)
{
    if (ag_arena_full(&r->mem))
        return ag_err_set(err, AG_E_LIMIT, "The request needs more memory than one request may use.");
    return ag_err_set(err, AG_E_NOMEM, "The server has no memory left for this request.");
}

int ag__json_integer(const json_t *v, const char *param, int64_t min, int64_t max, int64_t *out, ag_err *err)
{
    int64_t x;
    if (json_is_integer(v)) {
        x = json_integer_value(v);
    } else if (json_is_real(v) && fabs(json_real_value(v)) < 9e15 && json_real_value(v) == floor(json_real_value(v))) {
        x = (int64_t)json_real_value(v);
    } else if (json_is_real(v)) {
        return ag_request_fail(err, AG_E_PARAM, param, "'%s' must be an integer, not %.17g.", param,
                               json_real_value(v));
    } else {
        return ag__wrong_type(err, param, "an integer", v);
    }
    if (x < min || x > max)
        return ag_request_fail(err, AG_E_PARAM, param, "'%s' must be between %lld and %lld; %lld was given.", param,
                               (long long)min, (long long)max, (long long)x);
    *out = x;
    return AG_OK;
}

int ag__json_number(const json_t *v, const char *param, double min, double max, bool open, double *out, ag_err *err)
{
    if (!json_is_number(v)) return ag__wrong_type(err, param, "a number", v);
    double x = json_number_value(v);
    if (x >= min && x <= max && !(open && x == min)) {
        *out = x;
        return AG_OK;
    }
    if (open)
        return ag_request_fail(err, AG_E_PARAM, param, "'%s' must be greater than %g and at most %g; %.9g was given.",
                               param, min, max, x);
    return ag_request_fail(err, AG_E_PARAM, param, "'%s' must be between %g and %g; %.9g was given.", param, min, max,
                           x);
}

int ag__json_bool(const json_t *v, const char *param, bool *out, ag_err *err)
{
    if (!json_is_boolean(v)) return ag__wrong_type(err, param, "a boolean", v);
    *out = json_is_true(v);
    return AG_OK;
}

/* Depth, number of values and length of strings before anything is allocated by them. Says nothing of validity; jansson
 * does. */
static int scan(const char *p, size_t n, ag_err *err)
{
    uint32_t depth = 0, items = 0;
    for (size_t i = 0, from; i < n; i++) {
        switch (p[i]) {
        case '"':
            from = ++i;
            for (; i < n && p[i] != '"'; i++)
                if (p[i] == '\\') i++;
            if (i - from > limits.string_bytes)
                return ag_err_set(err, AG_E_LIMIT, "A string in the JSON is longer than %llu bytes, at byte %zu.",
                                  (unsigned long long)limits.string_bytes, from);
            break;
        case '{':
        case '[':
            items++;
            if (++depth > limits.depth)
                return ag_err_set(err, AG_E_LIMIT, "The JSON is nested deeper than %u levels, at byte %zu.",
                                  limits.depth, i);
            break;
        case '}':
        case ']': depth -= depth > 0; break;
        case ',':
        case ':':
            if (++items > limits.items)
                return ag_err_set(err, AG_E_LIMIT, "The JSON holds more than %u values.", limits.items);
            break;
        }
    }
    return AG_OK;
}

int ag__json_load(const char *p, size_t n, json_t **out, ag_err *err)
{
    size_t at = ag_utf8_check(p, n);
    if (at != SIZE_MAX)
        return ag_err_set(err, AG_E_UTF8, "The body is not UTF-8: byte %zu (0x%02X) does not belong to a character.",
                          at, (unsigned char)p[at]);
    int rc = scan(p, n, err);
    if (rc != AG_OK) return rc;
    if (!memory_is_there(n)) return ag_err_set(err, AG_E_NOMEM, "The server has no memory left for this request.");
    json_error_t e = {0};
    starved = false;
    reading = true;
    *out = json_loadb(p, n, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL | JSON_DECODE_ANY, &e);
    reading = false;
    if (starved) {
        json_decref(*out);
        *out = NULL;
        return ag_err_set(err, AG_E_NOMEM, "The server has no memory left for this request.");
    }
    if (*out) return AG_OK;
    if (json_error_code(&e) == json_error_numeric_overflow)
        return ag_err_set(err, AG_E_PARAM,
                          "A number in the body does not fit into 64 bits: %.300s (line %d, column %d).", e.text,
                          e.line, e.column);
    return ag_err_set(err, AG_E_JSON, "The body is not valid JSON: %.300s (line %d, column %d).", e.text, e.line,
                      e.column);
}
