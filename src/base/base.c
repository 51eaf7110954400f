#include "base/base.h"

#include <stdio.h>
#include <stdlib.h>
#include <strings.h>
#include <time.h>

void ag_panic(const char *file, int line, const char *expr)
{
    fprintf(stderr, "autoglm: assertion failed at %s:%d: %s\n", file, line, expr);
    fflush(stderr);
    abort();
}

bool ag_str_starts(ag_str s, ag_str prefix)
{
    return s.n >= prefix.n && (prefix.n == 0 || memcmp(s.p, prefix.p, prefix.n) == 0);
}

bool ag_str_ieq(ag_str a, ag_str b)
{
    return a.n == b.n && (a.n == 0 || strncasecmp(a.p, b.p, a.n) == 0);
}

bool ag_str_next(ag_str *list, ag_str *piece)
{
    if (list->p == NULL) return false;
    const char *comma = list->n ? memchr(list->p, ',', list->n) : NULL;
    *piece = (ag_str){list->p, comma ? (size_t)(comma - list->p) : list->n};
    *list = comma ? (ag_str){comma + 1, list->n - piece->n - 1} : (ag_str){0};
    return true;
}

bool ag_str_u64(ag_str s, uint64_t max, uint64_t *out)
{
    uint64_t n = 0, left = max;
    for (size_t i = 0; i < s.n; i++, left /= 10) {
        uint64_t digit = (uint64_t)(unsigned char)s.p[i] - '0';
        if (digit > 9 || (i && left == 0) || digit > max || n > (max - digit) / 10) return false;
        n = n * 10 + digit;
    }
    if (s.n == 0) return false;
    *out = n;
    return true;
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9') return c - '0';
    c = (char)(c | 0x20);
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

int ag_percent_byte(const char *p, const char *end)
{
    if (end - p < 3 || *p != '%') return -1;
    int high = hex_digit(p[1]), low = hex_digit(p[2]);
    return high < 0 || low < 0 ? -1 : high << 4 | low;
}

static uint64_t clock_us(clockid_t id)
{
    struct timespec t;
    clock_gettime(id, &t);
    return (uint64_t)t.tv_sec * 1000000u + (uint64_t)t.tv_nsec / 1000u;
}

uint64_t ag_now_us(void) { return clock_us(CLOCK_MONOTONIC); }
uint64_t ag_wall_us(void) { return clock_us(CLOCK_REALTIME); }

void ag_cond_init(pthread_cond_t *c)
{
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(c, &attr);
    pthread_condattr_destroy(&attr);
}

void ag_cond_wait_until(pthread_cond_t *c, pthread_mutex_t *held, uint64_t us)
{
    struct timespec at = {.tv_sec = (time_t)(us / 1000000), .tv_nsec = (long)(us % 1000000 * 1000)};
    pthread_cond_timedwait(c, held, &at);
}
