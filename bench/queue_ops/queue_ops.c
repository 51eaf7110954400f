/* queue_ops.c - what a call to the queue costs while very many wait.
 *
 *   bench_queue [--entries N] [--tenants N] [--rounds N] [--json 1]
 *
 * N entries of many tenants wait, in all bands, nine of ten with a deadline, in random order of everything, which is
 * the dearest: hardly anything that a call touches is in a cache. Each kind of call is made to a tenth of the entries,
 * and what it took away is put back outside of the measurement; the best, the median and the worst round of it are
 * printed, in nanoseconds a call. */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "base/mem.h"
#include "queue/queue.h"

#define AGE_US 1000000000ull
#define ROUNDS_MAX 99

typedef struct bench {
    uint32_t n, tenants, rounds, part;
    bool json;
    ag_queue *q;
    ag_qent *e;
    ag_tenant **t;
    ag_qent **picked;
    uint32_t *order; /* a permutation of the entries */
    uint64_t now, random;
    double ns[16][ROUNDS_MAX];
} bench;

static void *need(void *p)
{
    if (p != NULL) return p;
    fprintf(stderr, "bench_queue: no memory\n");
    exit(1);
}

static uint64_t next_random(bench *b)
{
    b->random ^= b->random << 13;
    b->random ^= b->random >> 7;
    b->random ^= b->random << 17;
    return b->random >> 8;
}

static uint64_t ns_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void push(bench *b, ag_qent *e)
{
    ag_qent *out;
    ag_err err = {0};
    if (ag_queue_push(b->q, e, b->now, &out, &err) == AG_OK) return;
    fprintf(stderr, "bench_queue: %s\n", err.text);
    exit(1);
}

static void shuffle(bench *b)
{
    for (uint32_t i = 0; i < b->part; i++) {
        uint32_t k = i + (uint32_t)(next_random(b) % (b->n - i)), swap = b->order[i];
        b->order[i] = b->order[k];
        b->order[k] = swap;
        b->picked[i] = &b->e[b->order[i]];
    }
}

static void fill(bench *b)
{
    ag_queue_conf conf = {.entries_max = b->n, .tenants_max = b->tenants, .prompt_weight = 1, .output_weight = 4,
                          .age_us = AGE_US};
    if (ag_queue_open(&b->q, &conf, NULL) != AG_OK) need(NULL);
    for (uint32_t i = 0; i < b->tenants; i++) {
        char name[32];
        snprintf(name, sizeof name, "tenant %u", i);
        b->t[i] = need(ag_queue_tenant(b->q, ag_str_of(name), 1 + (double)(next_random(b) % 4)));
    }
    for (uint32_t i = 0; i < b->n; i++) {
        b->order[i] = i;
        b->e[i] = (ag_qent){.tenant = b->t[next_random(b) % b->tenants], .band = (uint8_t)(next_random(b) % AG_BANDS),
                            .cost = 1 + next_random(b) % 4000};
        if (next_random(b) % 10 != 0) b->e[i].deadline_us = 1 + next_random(b) % AGE_US;
    }
}

static const char *const names[] = {"insert", "cancel", "head and take", "expire", "charge", "place", "move"};
enum { INSERT, CANCEL, POP, EXPIRE, CHARGE, PLACE, MOVE, KINDS };

static void round_of(bench *b, uint32_t round)
{
    uint64_t began = 0, sum = 0;
#define TIMED(kind, calls, what) do { \
        began = ns_now(); \
        what; \
        b->ns[kind][round] = (double)(ns_now() - began) / (double)(calls); \
    } while (0)
#define ALL(what) do { for (uint32_t i = 0; i < b->part; i++) { what; } } while (0)

    shuffle(b);
    TIMED(CANCEL, b->part, ALL(ag_queue_remove(b->q, b->picked[i])));
    TIMED(INSERT, b->part, ALL(push(b, b->picked[i])));
    TIMED(POP, b->part, ALL(b->picked[i] = ag_queue_head(b->q, b->now); ag_queue_take(b->q, b->picked[i], b->now)));
    ALL(push(b, b->picked[i]));
    shuffle(b);
    TIMED(CHARGE, b->part, ALL(ag_queue_charge(b->q, b->picked[i]->tenant, i % 2 ? 500 : -480)));
    TIMED(PLACE, b->part, ALL(ag_queue_place p; ag_queue_place_get(b->q, b->picked[i], b->now, &p); sum += p.ahead));
    TIMED(MOVE, b->part, ALL(ag_queue_move(b->q, b->picked[i], (b->picked[i]->band + 1 + i % 3) % AG_BANDS, b->now)));
    /* As many as come to their deadline within a while; when they come back they have later ones. */
    uint32_t expired = 0;
    uint64_t until = b->now + AGE_US / 10;
    TIMED(EXPIRE, AG_MAX(expired, 1u), ag_qent *e;
          while (expired < b->part && (e = ag_queue_expired(b->q, until)) != NULL) b->picked[expired++] = e);
    b->now = until;
    for (uint32_t i = 0; i < expired; i++) {
        b->picked[i]->deadline_us = b->now + AGE_US * 9 / 10 + next_random(b) % (AGE_US / 10);
        push(b, b->picked[i]);
    }
    if (expired == 0) b->ns[EXPIRE][round] = 0;
    if (sum == UINT64_MAX) printf(" ");
}

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void print(bench *b)
{
    if (b->json)
        printf("{\"entries\":%u,\"tenants\":%u,\"rounds\":%u,\"ns\":{", b->n, b->tenants, b->rounds);
    else
        printf("%u entries of %u tenants wait; nanoseconds a call, of %u rounds\n%-14s %8s %8s %8s\n", b->n,
               b->tenants, b->rounds, "call", "best", "median", "worst");
    for (int k = 0; k < KINDS; k++) {
        double *ns = b->ns[k];
        qsort(ns, b->rounds, sizeof *ns, by_size);
        double median = ns[b->rounds / 2];
        if (b->json)
            printf("%s\"%s\":{\"best\":%.1f,\"median\":%.1f,\"worst\":%.1f}", k ? "," : "", names[k], ns[0], median,
                   ns[b->rounds - 1]);
        else
            printf("%-14s %8.0f %8.0f %8.0f\n", names[k], ns[0], median, ns[b->rounds - 1]);
    }
    if (b->json) printf("}}\n");
}

static uint32_t number(const char *text, uint32_t min, uint32_t max)
{
    char *end;
    unsigned long v = strtoul(text, &end, 10);
    if (*end == 0 && end != text && v >= min && v <= max) return (uint32_t)v;
    fprintf(stderr, "bench_queue: \"%s\" should be a number from %u to %u\n", text, min, max);
    exit(2);
}

int main(int argc, char **argv)
{
    bench b = {.n = 1000000, .tenants = 10000, .rounds = 5, .random = 88172645463325252u};
    for (int i = 1; i + 1 < argc; i += 2) {
        if (strcmp(argv[i], "--entries") == 0) b.n = number(argv[i + 1], 100, 50000000);
        else if (strcmp(argv[i], "--tenants") == 0) b.tenants = number(argv[i + 1], 1, 5000000);
        else if (strcmp(argv[i], "--rounds") == 0) b.rounds = number(argv[i + 1], 1, ROUNDS_MAX);
        else if (strcmp(argv[i], "--json") == 0) b.json = number(argv[i + 1], 0, 1);
        else number(argv[i], 1, 0);
    }
    b.part = b.n / 10;
    b.e = need(ag_mem_array(b.n, sizeof *b.e));
    b.t = need(ag_mem_array(b.tenants, sizeof(ag_tenant *)));
    b.order = need(ag_mem_array(b.n, sizeof *b.order));
    b.picked = need(ag_mem_array(b.part, sizeof(ag_qent *)));
    fill(&b);
    for (uint32_t i = 0; i < b.n; i++) push(&b, &b.e[i]);
    for (uint32_t i = 0; i < b.rounds; i++) round_of(&b, i);
    print(&b);
    for (uint32_t i = 0; i < b.n; i++)
        if (b.e[i].queued) ag_queue_remove(b.q, &b.e[i]);
    ag_queue_close(b.q);
    ag_mem_free(b.e);
    ag_mem_free((void *)b.t);
    ag_mem_free(b.order);
    ag_mem_free((void *)b.picked);
    return 0;
}
