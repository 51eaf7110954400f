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

static uint64_t clock_us(clockid_t id)
{
    struct timespec t;
    clock_gettime(id, &t);
    return (uint64_t)t.tv_sec * 1000000u + (uint64_t)t.tv_nsec / 1000u;
}

uint64_t ag_now_us(void) { return clock_us(CLOCK_MONOTONIC); }
uint64_t ag_wall_us(void) { return clock_us(CLOCK_REALTIME); }
