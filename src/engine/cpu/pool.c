#include "engine/cpu/pool.h"

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/fault.h"
#include "base/mem.h"

#define MAGIC 0x706f6f6cu
/* How long a worker looks for the next stage before it sleeps. The stages of a step follow each other within a few
 * microseconds, and waking a thread costs about ten; longer spinning would take the core from the I/O threads. */
#define SPIN_US 50
#define SPINS_PER_LOOK 64 /* pauses between two looks at the clock */

/* The stage in hand is one word: its number in the high half, items not yet taken in the low half. A worker takes items
 * by compare-and-swap. As long as the low half is not zero the stage cannot end, so what the worker read of fn, arg,
 * items and chunk between its load and its successful swap belonged to that stage; a worker that comes late finds zero,
 * or another stage's number, and never touches a field that is being rewritten. */
struct ag_pool {
    uint32_t magic;
    uint32_t threads;
    bool spin;
    pthread_t thread[AG_POOL_THREADS_MAX];
    uint32_t started;
    _Atomic bool closing;
    /* Written by run before `ticket`; atomic since a late worker may read them beside a new stage being written. */
    _Atomic(ag_pool_fn *) fn;
    _Atomic(void *) arg;
    _Atomic uint32_t items, chunk;
    uint32_t number;
    _Alignas(64) _Atomic uint64_t ticket;
    _Alignas(64) _Atomic uint32_t left;     /* items not finished; also the futex that run sleeps on */
    _Atomic uint32_t caller_sleeps;
    _Alignas(64) _Atomic uint32_t sleepers; /* workers on the futex `bell` */
    _Atomic uint32_t bell;
    _Alignas(64) _Atomic uint32_t waiters;  /* in ag_pool_await, asleep or about to be */
};

typedef struct worker {
    ag_pool *pool;
    uint32_t index;
} worker;

static void futex_wait(_Atomic uint32_t *word, uint32_t seen)
{
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, seen, NULL, NULL, 0);
}

static void futex_wake(_Atomic uint32_t *word, int n)
{
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, n, NULL, NULL, 0);
}

static inline void cpu_pause(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* Takes and does chunks of the stage whose word is t until none is left. */
static void work(ag_pool *p, uint32_t index, uint64_t t)
{
    uint32_t done = 0, number = (uint32_t)(t >> 32);
    while ((uint32_t)t != 0 && (uint32_t)(t >> 32) == number) {
        uint32_t rest = (uint32_t)t;
        uint32_t items = atomic_load_explicit(&p->items, memory_order_relaxed);
        uint32_t take = AG_MIN(atomic_load_explicit(&p->chunk, memory_order_relaxed), rest);
        ag_pool_fn *fn = atomic_load_explicit(&p->fn, memory_order_relaxed);
        void *arg = atomic_load_explicit(&p->arg, memory_order_relaxed);
        if (!atomic_compare_exchange_weak_explicit(&p->ticket, &t, t - take, memory_order_acq_rel,
                                                   memory_order_acquire)) {
            continue;
        }
        fn(arg, index, items - rest, items - rest + take);
        done += take;
        t = atomic_load_explicit(&p->ticket, memory_order_acquire);
    }
    if (done == 0) return;
    if (atomic_fetch_sub_explicit(&p->left, done, memory_order_seq_cst) == done && index != 0 &&
        atomic_load_explicit(&p->caller_sleeps, memory_order_seq_cst)) {
        futex_wake(&p->left, 1);
    }
}

/* Looks for a stage other than `number`; false: none came in time. */
static bool spin_for_stage(ag_pool *p, uint32_t number)
{
    if (!p->spin) return false;
    uint64_t end = 0;
    for (;;) {
        for (int i = 0; i < SPINS_PER_LOOK; i++) {
            if ((uint32_t)(atomic_load_explicit(&p->ticket, memory_order_acquire) >> 32) != number) return true;
            cpu_pause();
        }
        uint64_t now = ag_now_us();
        if (end == 0) end = now + SPIN_US;
        else if (now >= end) return false;
    }
}

static void sleep_for_stage(ag_pool *p, uint32_t number)
{
    uint32_t bell = atomic_load(&p->bell);
    atomic_fetch_add(&p->sleepers, 1);
    /* The publisher stores the ticket, then reads sleepers; we count ourselves, then read the ticket: one sees the
     * other. */
    while ((uint32_t)(atomic_load(&p->ticket) >> 32) == number && !atomic_load(&p->closing)) {
        futex_wait(&p->bell, bell);
        bell = atomic_load(&p->bell);
    }
    atomic_fetch_sub(&p->sleepers, 1);
}

static void *worker_main(void *arg)
{
    worker w = *(worker *)arg;
    ag_mem_free(arg);
    char name[16];
    snprintf(name, sizeof name, "ag-compute-%u", w.index % 10000u);
    pthread_setname_np(pthread_self(), name);
    uint32_t number = 0;
    while (!atomic_load_explicit(&w.pool->closing, memory_order_relaxed)) {
        if (!spin_for_stage(w.pool, number)) sleep_for_stage(w.pool, number);
        uint64_t t = atomic_load_explicit(&w.pool->ticket, memory_order_acquire);
        number = (uint32_t)(t >> 32);
        work(w.pool, w.index, t);
    }
    return NULL;
}

static int start_worker(ag_pool *p, uint32_t index, ag_err *err)
{
    worker *w = ag_mem_alloc(sizeof *w);
    if (w == NULL) return ag_err_set(err, AG_E_NOMEM, "no memory for compute thread %u", index);
    *w = (worker){p, index};
    int e = ag_fault_hit(AG_FAULT_THREAD) ? EAGAIN : pthread_create(&p->thread[index], NULL, worker_main, w);
    if (e == 0) {
        p->started = index + 1;
        return AG_OK;
    }
    ag_mem_free(w);
    return ag_err_set(err, AG_E_INTERNAL, "compute thread %u of %u could not be started: %s", index, p->threads,
                      strerror(e));
}

int ag_pool_open(ag_pool **out, uint32_t threads, ag_err *err)
{
    AG_ASSERT(threads >= 1 && threads <= AG_POOL_THREADS_MAX);
    ag_pool *p = ag_mem_aligned(64, sizeof *p);
    if (p == NULL) return ag_err_set(err, AG_E_NOMEM, "no memory for a team of %u threads", threads);
    memset(p, 0, sizeof *p);
    p->magic = MAGIC;
    p->threads = threads;
    p->started = 1;
    /* With fewer cores than threads a spinning worker holds up the one that it waits for. */
    p->spin = threads <= ag_pool_cores();
    for (uint32_t i = 1; i < threads; i++) {
        int rc = start_worker(p, i, err);
        if (rc == AG_OK) continue;
        ag_pool_close(p);
        return rc;
    }
    *out = p;
    return AG_OK;
}

void ag_pool_close(ag_pool *p)
{
    if (p == NULL) return;
    AG_CHECK(p, MAGIC);
    atomic_store(&p->closing, true);
    /* A stage of no items ends the spinning at once. */
    p->number++;
    atomic_store(&p->ticket, (uint64_t)p->number << 32);
    atomic_fetch_add(&p->bell, 1);
    futex_wake(&p->bell, INT_MAX);
    for (uint32_t i = 1; i < p->started; i++) pthread_join(p->thread[i], NULL);
    p->magic = 0;
    ag_mem_free(p);
}

static void wait_for_rest(ag_pool *p)
{
    uint64_t end = 0;
    uint32_t left;
    for (uint32_t i = 1; (left = atomic_load_explicit(&p->left, memory_order_acquire)) != 0; i++) {
        cpu_pause();
        if (i % SPINS_PER_LOOK != 0 && p->spin) continue;
        uint64_t now = ag_now_us();
        if (end == 0) end = p->spin ? now + SPIN_US : now;
        if (now < end) continue;
        /* A worker lost its core: give ours away until it is done. */
        atomic_store(&p->caller_sleeps, 1);
        while ((left = atomic_load(&p->left)) != 0) futex_wait(&p->left, left);
        atomic_store(&p->caller_sleeps, 0);
    }
}

void ag_pool_run(ag_pool *p, ag_pool_fn *fn, void *arg, uint32_t items, uint32_t chunk)
{
    AG_CHECK(p, MAGIC);
    AG_ASSERT(chunk >= 1);
    if (items == 0) return;
    if (items <= chunk || p->threads == 1) {
        fn(arg, 0, 0, items);
        return;
    }
    atomic_store_explicit(&p->fn, fn, memory_order_relaxed);
    atomic_store_explicit(&p->arg, arg, memory_order_relaxed);
    atomic_store_explicit(&p->items, items, memory_order_relaxed);
    atomic_store_explicit(&p->chunk, chunk, memory_order_relaxed);
    atomic_store_explicit(&p->left, items, memory_order_relaxed);
    /* Zero marks the beginning for workers that have seen no stage. */
    if (++p->number == 0) p->number = 1;
    uint64_t t = (uint64_t)p->number << 32 | items;
    atomic_store(&p->ticket, t);
    if (atomic_load(&p->sleepers) != 0) {
        uint32_t helpers = AG_MIN((items - 1) / chunk, p->threads - 1);
        atomic_fetch_add(&p->bell, 1);
        futex_wake(&p->bell, (int)helpers);
    }
    work(p, 0, t);
    wait_for_rest(p);
}

void ag_pool_await(ag_pool *p, _Atomic uint32_t *word, uint32_t value)
{
    uint64_t end = 0;
    for (uint32_t i = 1; atomic_load_explicit(word, memory_order_acquire) < value; i++) {
        cpu_pause();
        if (i % SPINS_PER_LOOK != 0 && p->spin) continue;
        uint64_t now = ag_now_us();
        if (end == 0) end = p->spin ? now + SPIN_US : now;
        if (now < end) continue;
        /* Who arrives adds, then reads waiters; we count ourselves, then read the word: one sees the other. */
        atomic_fetch_add(&p->waiters, 1);
        for (uint32_t seen; (seen = atomic_load(word)) < value;) futex_wait(word, seen);
        atomic_fetch_sub(&p->waiters, 1);
    }
}

void ag_pool_arrive(ag_pool *p, _Atomic uint32_t *word, uint32_t n, uint32_t value)
{
    uint32_t now = atomic_fetch_add(word, n) + n;
    if (now == value && atomic_load(&p->waiters) != 0) futex_wake(word, INT_MAX);
}

uint32_t ag_pool_threads(const ag_pool *p) { return p->threads; }

/* Cores by the control group's quota, rounded up; UINT32_MAX: no limit, or not readable. */
static uint32_t quota_cores(void)
{
    long long quota = -1, period = 0;
    FILE *f = fopen("/sys/fs/cgroup/cpu.max", "re");
    if (f != NULL) {
        if (fscanf(f, "%lld %lld", &quota, &period) != 2) quota = -1; /* "max" */
        fclose(f);
    }
    if (quota <= 0 || period <= 0) return UINT32_MAX;
    long long cores = (quota + period - 1) / period;
    return cores < UINT32_MAX ? (uint32_t)cores : UINT32_MAX;
}

uint32_t ag_pool_cores(void)
{
    cpu_set_t set;
    long n = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : sysconf(_SC_NPROCESSORS_ONLN);
    uint32_t cores = AG_MIN((uint32_t)AG_MAX(n, 1L), quota_cores());
    return AG_MIN(cores, (uint32_t)AG_POOL_THREADS_MAX);
}
