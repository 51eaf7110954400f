#include "base/buf.h"

#include <stdarg.h>
#include <stdio.h>

#include "base/mem.h"
#include "base/utf8.h"

void ag_buf_init(ag_buf *b, size_t max)
{
    AG_ASSERT(max > 0);
    *b = (ag_buf){.max = max};
}

void ag_buf_fini(ag_buf *b)
{
    ag_mem_free(b->p);
    *b = (ag_buf){.max = b->max};
}

void ag_buf_reset(ag_buf *b)
{
    b->n = 0;
    b->failed = false;
}

bool ag_buf_room(ag_buf *b, size_t more)
{
    if (b->failed) return false;
    if (more <= b->cap - b->n) return true;
    if (more > b->max - b->n) {
        b->failed = true;
        return false;
    }
    size_t cap = AG_MAX(b->cap * 2, (size_t)256);
    cap = AG_MIN(AG_MAX(cap, b->n + more), b->max);
    char *p = ag_mem_resize(b->p, cap, 1);
    if (p == NULL) {
        b->failed = true;
        return false;
    }
    b->p = p;
    b->cap = cap;
    return true;
}

bool ag_buf_add(ag_buf *b, const void *p, size_t n)
{
    if (!ag_buf_room(b, n)) return false;
    if (n) memcpy(b->p + b->n, p, n);
    b->n += n;
    return true;
}

bool ag_buf_addz(ag_buf *b, const char *z) { return ag_buf_add(b, z, strlen(z)); }
bool ag_buf_addc(ag_buf *b, char c) { return ag_buf_add(b, &c, 1); }

bool ag_buf_addu(ag_buf *b, uint64_t n)
{
    char digits[20], *p = digits + sizeof digits;
    do *--p = (char)('0' + n % 10);
    while (n /= 10);
    return ag_buf_add(b, p, (size_t)(digits + sizeof digits - p));
}

bool ag_buf_addf(ag_buf *b, const char *fmt, ...)
{
    char small[256];
    va_list ap, again;
    va_start(ap, fmt);
    va_copy(again, ap);
    int n = vsnprintf(small, sizeof small, fmt, ap);
    va_end(ap);
    bool ok = false;
    if (n >= 0 && (size_t)n < sizeof small) {
        ok = ag_buf_add(b, small, (size_t)n);
    } else if (n >= 0 && ag_buf_room(b, (size_t)n + 1)) {
        vsnprintf(b->p + b->n, (size_t)n + 1, fmt, again);
        b->n += (size_t)n;
        ok = true;
    }
    va_end(again);
    return ok;
}

void ag_buf_consume(ag_buf *b, size_t n)
{
    AG_ASSERT(n <= b->n);
    if (n == 0) return;
    memmove(b->p, b->p + n, b->n - n);
    b->n -= n;
}

bool ag_buf_zterm(ag_buf *b)
{
    if (!ag_buf_room(b, 1)) return false;
    b->p[b->n] = 0;
    return true;
}

bool ag_buf_add_json(ag_buf *b, const char *s, size_t n)
{
    static const char hex[] = "0123456789abcdef";
    ag_buf_addc(b, '"');
    for (size_t i = 0; i < n;) {
        unsigned char c = (unsigned char)s[i];
        if (c >= 0x80) {
            size_t len = ag_utf8_len(s + i, n - i);
            if (len == 0) {
                ag_buf_add(b, "\xEF\xBF\xBD", 3);
                i++;
            } else {
                ag_buf_add(b, s + i, len);
                i += len;
            }
            continue;
        }
        switch (c) {
        case '"': ag_buf_add(b, "\\\"", 2); break;
        case '\\': ag_buf_add(b, "\\\\", 2); break;
        case '\n': ag_buf_add(b, "\\n", 2); break;
        case '\r': ag_buf_add(b, "\\r", 2); break;
        case '\t': ag_buf_add(b, "\\t", 2); break;
        default:
            if (c < 0x20 || c == 0x7F) {
                char u[6] = {'\\', 'u', '0', '0', hex[c >> 4], hex[c & 15]};
                ag_buf_add(b, u, 6);
            } else {
                size_t from = i; /* a run of plain bytes goes in one copy */
                while (i + 1 < n && (unsigned char)s[i + 1] >= 0x20 && (unsigned char)s[i + 1] < 0x7F &&
                       s[i + 1] != '"' && s[i + 1] != '\\')
                    i++;
                ag_buf_add(b, s + from, i - from + 1);
            }
        }
        i++;
    }
    return ag_buf_addc(b, '"');
}
