/* history_line.c - a record as a line: fields between blanks, names with %XX for what is not printable, and ahead of
 * them XXH3 of all that follows. The body comes last, as it is: JSON on one line. */
#include <sodium.h>
#include <stdio.h>

#include "base/hash.h"
#include "gateway/history.h"

#define SUM_DIGITS 16

static void add_name(ag_buf *b, ag_str s)
{
    ag_buf_addc(b, ' ');
    if (s.n == 0) ag_buf_addc(b, '-');
    for (size_t i = 0; i < s.n; i++) {
        unsigned char c = (unsigned char)s.p[i];
        bool alone = s.n == 1 && c == '-'; /* which means none */
        if (c > ' ' && c < 0x7F && c != '%' && !alone) ag_buf_addc(b, (char)c);
        else ag_buf_addf(b, "%%%02X", c);
    }
}

bool ag__history_line_write(ag_buf *out, const ag_history_record *r)
{
    char hex[2 * AG_CACHE_KEY_BYTES + 1], sum[SUM_DIGITS + 1];
    size_t from = out->n;
    ag_buf_addf(out, "%0*d %llu ", SUM_DIGITS, 0, (unsigned long long)r->time_ms);
    sodium_bin2hex(hex, sizeof hex, r->key.b, sizeof r->key.b);
    ag_buf_addz(out, hex);
    add_name(out, r->route);
    add_name(out, r->tenant);
    add_name(out, r->model);
    add_name(out, r->share);
    ag_buf_addc(out, ' ');
    ag_buf_add(out, r->body.p, r->body.n);
    if (out->failed || out->n - from > AG_HISTORY_LINE_MAX) return false;
    size_t at = from + SUM_DIGITS;
    snprintf(sum, sizeof sum, "%016llx", (unsigned long long)XXH3_64bits(out->p + at, out->n - at));
    memcpy(out->p + from, sum, SUM_DIGITS);
    return true;
}

static bool take_field(ag_str *line, ag_str *out)
{
    const char *end = line->n ? memchr(line->p, ' ', line->n) : NULL;
    if (end == NULL) return false;
    *out = (ag_str){line->p, (size_t)(end - line->p)};
    *line = (ag_str){end + 1, line->n - out->n - 1};
    return true;
}

/* Its bytes go into *text, which has room: no name is longer there than on the line. */
static bool take_name(ag_str *line, ag_str *out, ag_buf *text)
{
    ag_str s;
    size_t from = text->n;
    if (!take_field(line, &s) || s.n == 0 || s.n > 3 * AG_HISTORY_NAME_MAX) return false;
    bool none = s.n == 1 && s.p[0] == '-';
    for (const char *p = s.p, *end = s.p + s.n; p < end && !none;) {
        int c = *p == '%' ? ag_percent_byte(p, end) : (unsigned char)*p;
        if (c < 0) return false;
        ag_buf_addc(text, (char)c);
        p += *p == '%' ? 3 : 1;
    }
    *out = (ag_str){text->p + from, text->n - from};
    return out->n <= AG_HISTORY_NAME_MAX;
}

bool ag__history_line_read(ag_str line, ag_history_record *out, ag_buf *text)
{
    char sum[SUM_DIGITS + 1];
    ag_str time, key, all = line;
    size_t n = 0;
    *out = (ag_history_record){0};
    ag_buf_reset(text);
    if (line.n <= SUM_DIGITS || line.n > AG_HISTORY_LINE_MAX || line.p[SUM_DIGITS] != ' ' ||
        !ag_buf_room(text, line.n))
        return false;
    snprintf(sum, sizeof sum, "%016llx", (unsigned long long)XXH3_64bits(all.p + SUM_DIGITS, all.n - SUM_DIGITS));
    if (memcmp(sum, all.p, SUM_DIGITS) != 0) return false;
    line = (ag_str){all.p + SUM_DIGITS + 1, all.n - SUM_DIGITS - 1};
    if (!take_field(&line, &time) || !ag_str_u64(time, UINT64_MAX / 2, &out->time_ms)) return false;
    if (!take_field(&line, &key) || key.n != 2 * sizeof out->key.b) return false;
    if (sodium_hex2bin(out->key.b, sizeof out->key.b, key.p, key.n, NULL, &n, NULL) != 0 ||
        n != sizeof out->key.b)
        return false;
    ag_str *const names[] = {&out->route, &out->tenant, &out->model, &out->share};
    for (size_t i = 0; i < AG_ARRAY_LEN(names); i++)
        if (!take_name(&line, names[i], text)) return false;
    size_t from = text->n;
    ag_buf_add(text, line.p, line.n);
    out->body = (ag_str){text->p + from, line.n};
    return !text->failed;
}
