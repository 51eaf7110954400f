#include "traces.h"

#include <math.h>

#include "base/mem.h"

const bench_trace bench_traces[] = {
    {"Zipf 0.7", "objects drawn by Zipf's law", 0.7, ZIPF},
    {"Zipf 1.0", "objects drawn by Zipf's law", 1.0, ZIPF},
    {"Zipf 1.3", "objects drawn by Zipf's law", 1.3, ZIPF},
    {"scan", "Zipf 1.0, and of every ten thousand requests four thousand in a row for objects never seen again", 1.0,
     SCAN},
    {"loop", "every other request by Zipf 1.0, the rest round and round through another fifth as many", 1.0, LOOP},
    {"shifting", "Zipf 1.0, and every fifty thousand requests the popular change places with others", 1.0, SHIFT},
};
const unsigned bench_traces_n = AG_ARRAY_LEN(bench_traces);

/* Where the n-th rank's share ends, of all. */
static double *zipf_ends(uint32_t n, double skew)
{
    double *end = ag_mem_array(n, sizeof *end), sum = 0;
    if (end == NULL) return NULL;
    for (uint32_t i = 0; i < n; i++) end[i] = sum += pow(i + 1, -skew);
    for (uint32_t i = 0; i < n; i++) end[i] /= sum;
    return end;
}

static uint32_t zipf_draw(const double *end, uint32_t n, uint64_t *dice)
{
    double u = bench_unit(dice);
    uint32_t low = 0, high = n - 1;
    while (low < high) {
        uint32_t mid = low + (high - low) / 2;
        if (end[mid] <= u) low = mid + 1;
        else high = mid;
    }
    return low;
}

uint32_t *bench_trace_make(const bench_trace *t, uint32_t objects, uint32_t requests, uint64_t seed)
{
    double *end = zipf_ends(objects, t->skew);
    uint32_t *trace = ag_mem_array(requests, sizeof *trace), *object = ag_mem_array(objects, sizeof *object);
    if (end == NULL || trace == NULL || object == NULL) {
        ag_mem_free(trace);
        trace = NULL;
        goto out;
    }
    for (uint32_t i = 0; i < objects; i++) object[i] = i;
    uint64_t dice = bench_mix(seed);
    uint32_t walk = 0, once = objects;
    for (uint32_t i = 0; i < requests; i++) {
        if (t->kind == SHIFT && i % 50000 == 49999)
            for (uint32_t k = 0; k < objects / 200; k++) { /* evenly over the magnitudes of ranks */
                uint32_t a = (uint32_t)(pow(objects, bench_unit(&dice))) - 1;
                uint32_t b = (uint32_t)(bench_unit(&dice) * objects), swap = object[a];
                object[a] = object[b];
                object[b] = swap;
            }
        if (t->kind == SCAN && i % 10000 >= 6000) trace[i] = once++;
        else if (t->kind == LOOP && i % 2) trace[i] = objects + walk++ % (objects / 5);
        else trace[i] = object[zipf_draw(end, objects, &dice)];
    }
out:
    ag_mem_free(object);
    ag_mem_free(end);
    return trace;
}

/* A heap of (when it is asked for next, object), the latest first; of one asked for since, an older one stays in. */
typedef struct next_use {
    uint32_t when, object;
} next_use;

static void heap_push(next_use *h, uint32_t n, next_use x)
{
    uint32_t i = n;
    for (; i > 0 && h[(i - 1) / 2].when < x.when; i = (i - 1) / 2) h[i] = h[(i - 1) / 2];
    h[i] = x;
}

static next_use heap_pop(next_use *h, uint32_t n)
{
    next_use top = h[0], last = h[n - 1];
    uint32_t i = 0;
    for (uint32_t child; (child = 2 * i + 1) < n - 1; i = child) {
        if (child + 1 < n - 1 && h[child + 1].when > h[child].when) child++;
        if (h[child].when <= last.when) break;
        h[i] = h[child];
    }
    h[i] = last;
    return top;
}

uint32_t bench_trace_optimum(const uint32_t *trace, uint32_t requests, uint32_t room)
{
    uint32_t objects = 0, hits = 0, in = 0, heaped = 0;
    for (uint32_t i = 0; i < requests; i++) objects = AG_MAX(objects, trace[i] + 1);
    uint32_t *next = ag_mem_array(requests, sizeof *next), *due = ag_mem_array(objects, sizeof *due);
    next_use *heap = ag_mem_array(requests, sizeof *heap);
    if (next == NULL || due == NULL || heap == NULL) {
        hits = UINT32_MAX;
        goto out;
    }
    for (uint32_t i = 0; i < objects; i++) due[i] = UINT32_MAX;
    for (uint32_t i = requests; i-- > 0;) {
        next[i] = due[trace[i]];
        due[trace[i]] = i;
    }
    memset(due, 0, objects * sizeof *due); /* from here: when one that is in is asked for next, 0: it is not in */
    for (uint32_t i = 0; i < requests; i++) {
        uint32_t o = trace[i];
        if (due[o] != 0) hits++;
        else in++;
        due[o] = next[i];
        heap_push(heap, heaped++, (next_use){next[i], o});
        while (in > room) {
            next_use x = heap_pop(heap, heaped--);
            if (due[x.object] != x.when) continue;
            due[x.object] = 0;
            in--;
        }
    }
out:
    ag_mem_free(heap);
    ag_mem_free(due);
    ag_mem_free(next);
    return hits;
}
