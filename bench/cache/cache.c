/* cache.c - what the response cache's policies are worth, and what its calls cost; in JSON, for bench/cache/run.
 *
 *   bench_cache hits [REQUESTS]      hit ratios on made-up traces, beside Belady's optimum
 *   bench_cache cost [ENTRIES]       nanoseconds a call with so many entries, of one thread and of two, beside a plain
 *                                    table with a list and one lock, and what a read of this memory takes
 *   bench_cache memory [OPERATIONS]  what the allocator and the kernel say of it after random operations */
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "base/mem.h"
#include "cache/cache.h"
#include "traces.h"

#define NOW 1800000000000ull
#define DAY_MS 86400000ull
#define OBJECTS 100000u
#define ROUNDS 9
#define CALLS 100000u  /* of a thread in a round */
#define THREADS_MAX 2
#define VALUE_BYTES 256

static const char *const policies[] = {
#define AG_CACHE_POLICY(word, open, add, hit, victim, remove, what) word,
#include "cache/policies.def"
#undef AG_CACHE_POLICY
};

static void *need(void *p)
{
    if (p != NULL) return p;
    fprintf(stderr, "bench_cache: no memory\n");
    exit(1);
}

static uint64_t ns_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static ag_cache_key key_of(uint64_t n)
{
    ag_cache_key k;
    for (unsigned i = 0; i < 4; i++) {
        uint64_t w = bench_mix(4 * n + i);
        memcpy(k.b + 8 * i, &w, 8);
    }
    return k;
}

static ag_cache *opened(const char *policy, uint64_t bytes, uint32_t shards)
{
    ag_cache *c;
    ag_err err = {0};
    if (ag_cache_open(&c, &(ag_cache_conf){policy, bytes, shards}, &err) == AG_OK) return c;
    fprintf(stderr, "bench_cache: %s\n", err.text);
    exit(1);
}

static ag_cache_value *value_made(size_t n)
{
    ag_cache_value *v;
    if (ag_cache_value_make(&v, n) != AG_OK) need(NULL);
    memset(ag_cache_value_bytes(v), 1, n);
    return v;
}

static const ag_cache_meta young = {.made_ms = NOW, .fresh_until_ms = NOW + DAY_MS, .stale_until_ms = NOW + DAY_MS};

/* Bytes of a cache that holds so many entries of this value. */
static uint64_t bytes_for(uint32_t entries, ag_cache_value *v)
{
    ag_cache_stats none, one;
    ag_cache *c = opened(NULL, 1 << 20, 1);
    ag_cache_key k = key_of(0);
    ag_cache_stats_get(c, &none);
    ag_cache_put(c, &k, v, &young, NOW);
    ag_cache_stats_get(c, &one);
    ag_cache_close(c);
    double tables = (double)none.bytes / (1 << 20);
    return (uint64_t)((double)entries * (double)(one.bytes - none.bytes) / (1 - AG_MIN(tables, 1.0 / 32)) + 16384);
}

/* hits */

static double hit_ratio(const char *policy, const uint32_t *trace, uint32_t requests, uint64_t bytes, ag_cache_value *v,
                        uint64_t *most)
{
    ag_cache *c = opened(policy, bytes, 1);
    uint64_t hits = 0;
    for (uint32_t i = 0; i < requests; i++) {
        ag_cache_key k = key_of(trace[i]);
        ag_cache_value *found;
        uint64_t until = NOW + i + DAY_MS;
        ag_cache_meta meta = {.made_ms = NOW + i, .fresh_until_ms = until, .stale_until_ms = until};
        if (ag_cache_get(c, &k, NOW + i, &found, NULL) != AG_CACHE_MISS) {
            hits++;
            ag_cache_value_drop(found);
        } else if (ag_cache_put(c, &k, v, &meta, NOW + i) != AG_OK) {
            need(NULL);
        }
    }
    ag_cache_stats s;
    ag_cache_stats_get(c, &s);
    *most = AG_MAX(*most, s.entries);
    ag_cache_close(c);
    return (double)hits / requests;
}

static void hits(uint32_t requests)
{
    static const double sizes[] = {0.005, 0.02, 0.05, 0.1, 0.3};
    ag_cache_value *v = value_made(1000);
    printf("{\"objects\":%u,\"requests\":%u,\"traces\":[", OBJECTS, requests);
    for (unsigned t = 0; t < bench_traces_n; t++) {
        uint32_t *trace = need(bench_trace_make(&bench_traces[t], OBJECTS, requests, 1));
        printf("%s{\"name\":\"%s\",\"what\":\"%s\",\"sizes\":[", t ? "," : "", bench_traces[t].name,
               bench_traces[t].what);
        for (unsigned i = 0; i < AG_ARRAY_LEN(sizes); i++) {
            uint64_t bytes = bytes_for((uint32_t)(sizes[i] * OBJECTS), v), most = 0;
            printf("%s{\"share\":%g,\"hits\":{", i ? "," : "", sizes[i]);
            for (unsigned p = 0; p < AG_ARRAY_LEN(policies); p++)
                printf("\"%s\":%.5f,", policies[p], hit_ratio(policies[p], trace, requests, bytes, v, &most));
            uint32_t best = bench_trace_optimum(trace, requests, (uint32_t)most);
            printf("\"optimum\":%.5f},\"entries\":%u}", (double)best / requests, (uint32_t)most);
        }
        printf("]}");
        ag_mem_free(trace);
    }
    printf("]}\n");
    ag_cache_value_drop(v);
}

/* cost: a plain cache to compare with, a chained table and a list by the last use behind one lock */

typedef struct plain_entry {
    ag_cache_key key;
    struct plain_entry *chain, *next, *prev;
    ag_cache_value *value;
} plain_entry;

typedef struct plain {
    pthread_mutex_t lock;
    plain_entry **bucket, list;
    uint64_t mask;
} plain;

static plain_entry **plain_bucket(plain *t, const ag_cache_key *k)
{
    uint64_t w;
    memcpy(&w, k->b, 8);
    return &t->bucket[w & t->mask];
}

static ag_cache_value *plain_get(plain *t, const ag_cache_key *k)
{
    ag_cache_value *v = NULL;
    pthread_mutex_lock(&t->lock);
    plain_entry *e = *plain_bucket(t, k);
    while (e && memcmp(e->key.b, k->b, sizeof k->b) != 0) e = e->chain;
    if (e) {
        e->next->prev = e->prev;
        e->prev->next = e->next;
        e->next = t->list.next;
        e->prev = &t->list;
        e->next->prev = t->list.next = e;
        v = ag_cache_value_hold(e->value);
    }
    pthread_mutex_unlock(&t->lock);
    return v;
}

static void plain_put(plain *t, const ag_cache_key *k, ag_cache_value *v)
{
    plain_entry *e = need(ag_mem_zalloc(sizeof *e)), **at = plain_bucket(t, k);
    *e = (plain_entry){.key = *k, .chain = *at, .next = t->list.next, .prev = &t->list,
                       .value = ag_cache_value_hold(v)};
    e->next->prev = t->list.next = *at = e;
}

static void plain_open(plain *t, uint32_t entries)
{
    pthread_mutex_init(&t->lock, NULL);
    t->list.next = t->list.prev = &t->list;
    for (t->mask = 1; t->mask < entries; t->mask *= 2) {}
    t->bucket = need(ag_mem_array(t->mask, sizeof *t->bucket));
    t->mask--;
}

static void plain_close(plain *t)
{
    for (plain_entry *e = t->list.next, *next; e != &t->list; e = next) {
        next = e->next;
        ag_cache_value_drop(e->value);
        ag_mem_free(e);
    }
    ag_mem_free(t->bucket);
}

typedef struct worker {
    ag_cache *c; /* NULL: the plain one */
    plain *plain;
    ag_cache_key *keys;
    ag_cache_value **fresh; /* to put; NULL: lookups */
    uint64_t found, ns;
    pthread_barrier_t *start;
    pthread_t thread;
} worker;

static void *work(void *arg)
{
    worker *w = arg;
    w->found = 0;
    pthread_barrier_wait(w->start);
    uint64_t began = ns_now();
    for (uint32_t i = 0; i < CALLS; i++) {
        ag_cache_value *v = NULL;
        if (w->fresh) ag_cache_put(w->c, &w->keys[i], w->fresh[i], &young, NOW);
        else if (w->c) ag_cache_get(w->c, &w->keys[i], NOW, &v, NULL);
        else v = plain_get(w->plain, &w->keys[i]);
        w->found += v != NULL;
        ag_cache_value_drop(v);
    }
    w->ns = ns_now() - began;
    return NULL;
}

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void print_rounds(const char *name, double *ns)
{
    qsort(ns, ROUNDS, sizeof *ns, by_size);
    printf("\"%s\":{\"best\":%.1f,\"median\":%.1f,\"worst\":%.1f}", name, ns[0], ns[ROUNDS / 2], ns[ROUNDS - 1]);
}

/* Calls of `threads` at once on keys from first to first + n, in no order. */
static void rounds(const char *name, ag_cache *c, plain *t, unsigned threads, uint64_t first, uint32_t n, bool put)
{
    static uint64_t dice = 5;
    double ns[ROUNDS];
    worker w[THREADS_MAX];
    pthread_barrier_t start;
    pthread_barrier_init(&start, NULL, threads);
    for (unsigned i = 0; i < threads; i++) {
        w[i] = (worker){.c = c, .plain = t, .start = &start, .keys = need(ag_mem_array(CALLS, sizeof(ag_cache_key)))};
        if (put) w[i].fresh = need(ag_mem_array(CALLS, sizeof(ag_cache_value *)));
    }
    for (unsigned round = 0; round < ROUNDS; round++) {
        ns[round] = 0;
        for (unsigned i = 0; i < threads; i++)
            for (uint32_t k = 0; k < CALLS; k++) {
                w[i].keys[k] = key_of(first + bench_mix(dice++) % n);
                if (put) w[i].fresh[k] = value_made(VALUE_BYTES);
            }
        for (unsigned i = 1; i < threads; i++) pthread_create(&w[i].thread, NULL, work, &w[i]);
        work(&w[0]);
        for (unsigned i = 0; i < threads; i++) {
            if (i) pthread_join(w[i].thread, NULL);
            ns[round] += (double)w[i].ns / CALLS / threads;
            for (uint32_t k = 0; put && k < CALLS; k++) ag_cache_value_drop(w[i].fresh[k]);
        }
    }
    for (unsigned i = 0; i < threads; i++) {
        ag_mem_free(w[i].keys);
        ag_mem_free((void *)w[i].fresh);
    }
    pthread_barrier_destroy(&start);
    print_rounds(name, ns);
}

/* Reads that depend on each other, all over as much memory as the entries take. */
static void read_latency(uint32_t entries)
{
    uint32_t n = entries * 8; /* cache lines: 512 bytes an entry */
    struct line { uint32_t next, unused[15]; } *line = need(ag_mem_alloc((size_t)n * sizeof *line));
    double ns[ROUNDS];
    uint64_t dice = 3;
    for (uint32_t i = 0; i < n; i++) line[i].next = i;
    for (uint32_t i = n - 1; i > 0; i--) { /* one round through all: Sattolo's shuffle */
        uint32_t k = (uint32_t)(bench_mix(dice++) % i), swap = line[i].next;
        line[i].next = line[k].next;
        line[k].next = swap;
    }
    uint32_t at = 0;
    for (unsigned round = 0; round < ROUNDS; round++) {
        uint64_t began = ns_now();
        for (uint32_t i = 0; i < CALLS; i++) at = line[at].next;
        ns[round] = (double)(ns_now() - began) / CALLS;
    }
    print_rounds(at == UINT32_MAX ? "" : "read", ns);
    ag_mem_free(line);
}

static void cost(uint32_t entries)
{
    printf("{\"entries\":%u,\"rounds\":%u,\"calls\":%u,\"value\":%u,\"memory\":{", entries, ROUNDS, CALLS, VALUE_BYTES);
    read_latency(entries);
    printf("},\"calls_ns\":{");
    for (unsigned p = 0; p <= AG_ARRAY_LEN(policies); p++) {
        bool is_plain = p == AG_ARRAY_LEN(policies);
        plain t = {0};
        ag_cache *c = NULL;
        ag_cache_value *v = value_made(VALUE_BYTES);
        if (is_plain) plain_open(&t, entries);
        else c = opened(policies[p], bytes_for(entries, v) / 100 * 104, 0); /* and what shards differ by */
        ag_cache_value_drop(v);
        for (uint32_t i = 0; i < entries; i++) {
            ag_cache_key k = key_of(i);
            v = value_made(VALUE_BYTES);
            if (c) ag_cache_put(c, &k, v, &young, NOW);
            else plain_put(&t, &k, v);
            ag_cache_value_drop(v);
        }
        ag_cache_stats s = {.entries = entries};
        if (c) ag_cache_stats_get(c, &s);
        printf("%s\"%s\":{\"entries\":%llu", p ? "," : "", is_plain ? "plain" : policies[p],
               (unsigned long long)s.entries);
        for (unsigned threads = 1; threads <= THREADS_MAX; threads++) {
            printf(",\"%u\":{", threads);
            rounds("hit", c, &t, threads, 0, entries, false);
            printf(",");
            rounds("miss", c, &t, threads, (uint64_t)1 << 40, 1 << 30, false);
            printf("}");
        }
        for (unsigned threads = 1; c && threads <= THREADS_MAX; threads++) { /* last: each puts another one out */
            printf(",\"put %u\":{", threads);
            rounds("put", c, &t, threads, (uint64_t)threads << 42, 1 << 30, true);
            printf("}");
        }
        printf("}");
        if (c) ag_cache_close(c);
        else plain_close(&t);
    }
    printf("}}\n");
}

/* memory */

static uint64_t resident(void)
{
    unsigned long pages = 0;
    FILE *f = fopen("/proc/self/statm", "r");
    if (f == NULL || fscanf(f, "%*u %lu", &pages) != 1) need(NULL);
    fclose(f);
    return (uint64_t)pages * (uint64_t)sysconf(_SC_PAGESIZE);
}

static uint64_t heap(void)
{
    struct mallinfo2 m = mallinfo2();
    return m.uordblks + m.hblkhd;
}

static void memory(uint32_t operations)
{
    const uint64_t bytes_max = (uint64_t)256 << 20;
    printf("{\"operations\":%u,\"bytes_max\":%llu,\"policies\":{", operations, (unsigned long long)bytes_max);
    for (unsigned p = 0; p < AG_ARRAY_LEN(policies); p++) {
        malloc_trim(0);
        uint64_t heap_before = heap(), resident_before = resident(), dice = 9;
        ag_cache *c = opened(policies[p], bytes_max, 0);
        for (uint32_t i = 0; i < operations; i++) {
            double size = bench_unit(&dice), popular = bench_unit(&dice);
            uint64_t now = NOW + i / 16, draw = bench_mix(dice++);
            ag_cache_key k = key_of((uint64_t)(popular * popular * 400000));
            if (draw % 100 == 0) {
                ag_cache_purge_key(c, &k);
                continue;
            }
            ag_cache_value *v;
            if (ag_cache_get(c, &k, now, &v, NULL) == AG_CACHE_MISS || draw % 10 == 0) {
                ag_cache_value_drop(v);
                v = value_made((size_t)(200 + size * size * size * 16000)); /* answers: many short ones, a few long */
                ag_cache_meta meta = {.made_ms = now, .fresh_until_ms = now + 500000, .stale_until_ms = now + 600000};
                ag_cache_put(c, &k, v, &meta, now);
            }
            ag_cache_value_drop(v);
        }
        ag_cache_stats s;
        ag_cache_stats_get(c, &s);
        printf("%s\"%s\":{\"entries\":%llu,\"bytes\":%llu,\"heap\":%llu,\"resident\":%llu}", p ? "," : "", policies[p],
               (unsigned long long)s.entries, (unsigned long long)s.bytes, (unsigned long long)(heap() - heap_before),
               (unsigned long long)(resident() - resident_before));
        ag_cache_close(c);
    }
    printf("}}\n");
}

int main(int argc, char **argv)
{
    static const struct { const char *name; void (*run)(uint32_t n); uint32_t n; } kinds[] = {
        {"hits", hits, 1000000}, {"cost", cost, 1000000}, {"memory", memory, 10000000},
    };
    for (size_t i = 0; argc >= 2 && i < AG_ARRAY_LEN(kinds); i++) {
        uint64_t n = kinds[i].n;
        if (strcmp(argv[1], kinds[i].name) != 0) continue;
        if (argc > 3 || (argc == 3 && (!ag_str_u64(ag_str_of(argv[2]), 100000000, &n) || n < 10000))) break;
        kinds[i].run((uint32_t)n);
        return 0;
    }
    fprintf(stderr, "usage: bench_cache hits|cost|memory [N], N from 10000 to 100000000\n");
    return 2;
}
