#include "base/mbox.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>

#include "base/err.h"
#include "base/fault.h"
#include "check.h"

static void messages_come_in_order(void **state)
{
    (void)state;
    ag_mbox *m;
    int x[5];
    assert_int_equal(ag_mbox_open(&m, 3, NULL, NULL), AG_OK); /* room for 4: the next power of two */
    for (int round = 0; round < 10; round++) {
        assert_null(ag_mbox_take(m));
        for (int i = 0; i < 4; i++) assert_true(ag_mbox_post(m, &x[i]));
        assert_false(ag_mbox_post(m, &x[4]));
        assert_ptr_equal(ag_mbox_take(m), &x[0]);
        assert_true(ag_mbox_post(m, &x[4]));
        for (int i = 1; i < 5; i++) assert_ptr_equal(ag_mbox_take(m), &x[i]);
    }
    ag_mbox_close(m);
    ag_mbox_close(NULL);
}

static void count_wake(void *arg) { ++*(int *)arg; }

static void a_post_wakes_and_a_quiet_one_does_not(void **state)
{
    (void)state;
    ag_mbox *m;
    int woken = 0, x;
    assert_int_equal(ag_mbox_open(&m, 2, count_wake, &woken), AG_OK);
    assert_true(ag_mbox_post_quiet(m, &x));
    assert_int_equal(woken, 0);
    ag_mbox_wake(m);
    assert_int_equal(woken, 1);
    assert_true(ag_mbox_post(m, &x));
    assert_int_equal(woken, 2);
    assert_false(ag_mbox_post(m, &x));
    assert_int_equal(woken, 2); /* nothing new to see */
    while (ag_mbox_take(m)) {}
    ag_mbox_close(m);
}

enum { POSTERS = 4, EACH = 20000 };

typedef struct parcel { int from, number; } parcel;
typedef struct poster {
    ag_mbox *m;
    parcel *parcels;
} poster;

static void *post_all(void *arg)
{
    poster *p = arg;
    for (int i = 0; i < EACH; i++)
        while (!ag_mbox_post(p->m, &p->parcels[i])) sched_yield();
    return NULL;
}

static void many_post_and_one_takes(void **state)
{
    (void)state;
    ag_mbox *m;
    assert_int_equal(ag_mbox_open(&m, 64, NULL, NULL), AG_OK);
    poster p[POSTERS];
    pthread_t t[POSTERS];
    for (int k = 0; k < POSTERS; k++) {
        p[k] = (poster){m, calloc(EACH, sizeof(parcel))};
        for (int i = 0; i < EACH; i++) p[k].parcels[i] = (parcel){k, i};
        assert_int_equal(pthread_create(&t[k], NULL, post_all, &p[k]), 0);
    }
    int next[POSTERS] = {0};
    for (int seen = 0; seen < POSTERS * EACH;) {
        parcel *got = ag_mbox_take(m);
        if (got == NULL) {
            sched_yield();
            continue;
        }
        if (got->number != next[got->from])
            fail_msg("poster %d: %d came for %d", got->from, got->number, next[got->from]);
        next[got->from]++;
        seen++;
    }
    for (int k = 0; k < POSTERS; k++) {
        pthread_join(t[k], NULL);
        free(p[k].parcels);
    }
    assert_null(ag_mbox_take(m));
    ag_mbox_close(m);
}

#ifdef AG_FAULTS
static void no_memory_is_an_answer(void **state)
{
    (void)state;
    ag_mbox *m = NULL;
    ag_fault_arm(AG_FAULT_ALLOC, 1);
    assert_int_equal(ag_mbox_open(&m, 8, NULL, NULL), AG_E_NOMEM);
    assert_true(ag_fault_disarm(AG_FAULT_ALLOC));
    assert_null(m);
}
#endif

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(messages_come_in_order),
        cmocka_unit_test(a_post_wakes_and_a_quiet_one_does_not),
        cmocka_unit_test(many_post_and_one_takes),
#ifdef AG_FAULTS
        cmocka_unit_test(no_memory_is_an_answer),
#endif
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
