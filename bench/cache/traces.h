/* traces.h - sequences of requests for objects, and what the best of all policies could make of them.
 * Owns    : a trace's array is the caller's, freed by ag_mem_free.
 * Threads : one at a time.
 * Limits  : objects and requests below 2^31.
 * Errors  : NULL, no memory. */
#ifndef AG_BENCH_TRACES_H
#define AG_BENCH_TRACES_H

#include "base/base.h"

typedef struct bench_trace {
    const char *name, *what;
    double skew;
    enum { ZIPF, SCAN, LOOP, SHIFT } kind;
} bench_trace;

extern const bench_trace bench_traces[];
extern const unsigned bench_traces_n;

/* Object numbers, most of them below `objects`; those that a scan brings are above. */
uint32_t *bench_trace_make(const bench_trace *t, uint32_t objects, uint32_t requests, uint64_t seed);
/* Belady's optimum: hits of a cache of so many objects that knows the future and may pass an object by. UINT32_MAX: no
 * memory. */
uint32_t bench_trace_optimum(const uint32_t *trace, uint32_t requests, uint32_t room);

static inline uint64_t bench_mix(uint64_t x) /* Source: splitmix64 */
{
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return x ^ x >> 31;
}
static inline double bench_unit(uint64_t *dice) { return (double)(bench_mix((*dice)++) >> 11) * 0x1p-53; }

#endif
