/* The team of threads: every item exactly once, in any mix of stage sizes; asleep and awake; failures at start. */
#include <stdatomic.h>
#include <unistd.h>

#include "base/fault.h"
#include "engine/cpu/fixture.h"
#include "engine/cpu/pool.h"

#define ITEMS_MAX 1000

typedef struct stage {
    uint32_t threads, items;
    uint32_t plain;               /* grows only between stages: what a stage reads of the caller's memory */
    uint32_t seen[ITEMS_MAX];     /* not atomic: the thread sanitizer sees two workers on one item */
    _Atomic uint32_t calls, chunk_max, bad;
} stage;

static void count_items(void *arg, uint32_t worker, uint32_t from, uint32_t to)
{
    stage *s = arg;
    if (worker >= s->threads || from >= to || to > s->items) atomic_fetch_add(&s->bad, 1);
    for (uint32_t i = from; i < to; i++) s->seen[i] += s->plain;
    atomic_fetch_add(&s->calls, 1);
    uint32_t max = atomic_load(&s->chunk_max);
    while (to - from > max && !atomic_compare_exchange_weak(&s->chunk_max, &max, to - from)) continue;
}

static void run_stage(ag_pool *p, stage *s, uint32_t items, uint32_t chunk)
{
    memset(s->seen, 0, sizeof s->seen);
    s->items = items;
    s->plain++;
    atomic_store(&s->calls, 0);
    atomic_store(&s->chunk_max, 0);
    ag_pool_run(p, count_items, s, items, chunk);
    for (uint32_t i = 0; i < ITEMS_MAX; i++) assert_int_equal(s->seen[i], i < items ? s->plain : 0);
    assert_int_equal(atomic_load(&s->bad), 0);
    if (items > chunk && s->threads > 1) assert_true(atomic_load(&s->chunk_max) <= chunk);
    else assert_int_equal(atomic_load(&s->calls), items != 0);
}

static void every_item_once(void **unused)
{
    (void)unused;
    static const uint32_t threads[] = {1, 2, 3, 8};
    for (size_t t = 0; t < AG_ARRAY_LEN(threads); t++) {
        ag_pool *p = NULL;
        assert_int_equal(ag_pool_open(&p, threads[t], NULL), AG_OK);
        assert_int_equal(ag_pool_threads(p), threads[t]);
        stage s = {.threads = threads[t]};
        for (int i = 0; i < 3000; i++) {
            run_stage(p, &s, fix_rand() % (i % 100 ? 40 : ITEMS_MAX + 1), 1 + fix_rand() % 9);
        }
        ag_pool_close(p);
    }
}

/* Pauses longer than the spinning put the workers to sleep; the next stage must find them (or do without). */
static void after_sleep(void **unused)
{
    (void)unused;
    ag_pool *p = NULL;
    assert_int_equal(ag_pool_open(&p, 4, NULL), AG_OK);
    stage s = {.threads = 4};
    for (int i = 0; i < 50; i++) {
        uint64_t end = ag_now_us() + (uint64_t)(i % 5) * 100;
        while (ag_now_us() < end) usleep(20);
        run_stage(p, &s, 64, 1);
    }
    ag_pool_close(p);
}

/* Jobs one after another within one run: what is done in one is seen, whole, in the next by whoever takes part. */
enum { JOBS = 200, CHUNKS = 5 };
typedef struct walk {
    ag_pool *pool;
    uint32_t sums[JOBS][CHUNKS]; /* not atomic: the thread sanitizer sees a reader that came too early */
    struct { _Atomic uint32_t next, done; } turn[JOBS];
} walk;

static void walk_jobs(void *arg, uint32_t worker, uint32_t from, uint32_t to)
{
    (void)worker;
    (void)from;
    (void)to;
    walk *w = arg;
    for (int i = 0; i < JOBS; i++) {
        if (i) ag_pool_await(w->pool, &w->turn[i - 1].done, CHUNKS);
        uint32_t mine = 0;
        for (uint32_t k; (k = atomic_fetch_add(&w->turn[i].next, 1)) < CHUNKS; mine++) {
            w->sums[i][k] = 1;
            for (uint32_t j = 0; i && j < CHUNKS; j++) w->sums[i][k] += w->sums[i - 1][j];
            w->sums[i][k] %= 1009;
        }
        if (mine) ag_pool_arrive(w->pool, &w->turn[i].done, mine, CHUNKS);
    }
}

static void jobs_in_order(void **unused)
{
    (void)unused;
    static walk w;
    uint32_t want[JOBS];
    for (uint32_t i = 0, sum = 1; i < JOBS; i++, sum = (1 + CHUNKS * sum) % 1009) want[i] = sum;
    for (uint32_t threads = 1; threads <= 8; threads++) {
        assert_int_equal(ag_pool_open(&w.pool, threads, NULL), AG_OK);
        for (int round = 0; round < 30; round++) {
            memset(w.sums, 0, sizeof w.sums);
            for (int i = 0; i < JOBS; i++) {
                atomic_store(&w.turn[i].next, 0);
                atomic_store(&w.turn[i].done, 0);
            }
            ag_pool_run(w.pool, walk_jobs, &w, threads, 1);
            for (int i = 0; i < JOBS; i++)
                for (int k = 0; k < CHUNKS; k++) assert_int_equal(w.sums[i][k], want[i]);
        }
        ag_pool_close(w.pool);
    }
}

static void close_at_once(void **unused)
{
    (void)unused;
    for (int i = 0; i < 100; i++) {
        ag_pool *p = NULL;
        assert_int_equal(ag_pool_open(&p, 3, NULL), AG_OK);
        ag_pool_close(p);
    }
    ag_pool_close(NULL);
    assert_true(ag_pool_cores() >= 1);
}

#ifdef AG_FAULTS
static void failures_at_start(void **unused)
{
    (void)unused;
    static const ag_fault_kind kinds[] = {AG_FAULT_ALLOC, AG_FAULT_THREAD};
    for (size_t k = 0; k < AG_ARRAY_LEN(kinds); k++) {
        for (uint32_t n = 1;; n++) {
            ag_pool *p = NULL;
            ag_err err = {0};
            ag_fault_arm(kinds[k], n);
            int rc = ag_pool_open(&p, 4, &err);
            bool fired = ag_fault_disarm(kinds[k]);
            assert_int_equal(rc, !fired ? AG_OK : kinds[k] == AG_FAULT_ALLOC ? AG_E_NOMEM : AG_E_INTERNAL);
            assert_int_equal(err.code, rc);
            ag_pool_close(p);
            if (!fired) break;
            assert_null(p);
        }
    }
}
#endif

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_item_once),
        cmocka_unit_test(after_sleep),
        cmocka_unit_test(jobs_in_order),
        cmocka_unit_test(close_at_once),
#ifdef AG_FAULTS
        cmocka_unit_test(failures_at_start),
#endif
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
