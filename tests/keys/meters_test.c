#include "check.h"

#include <pthread.h>
#include <string.h>

#include "base/fault.h"
#include "keys/meters.h"

#define SECOND 1000000ull

static ag_meters *m;
static ag_refusal why;
static ag_meter_views views;

static int setup(void **state)
{
    (void)state;
    return ag_meters_open(&m);
}

static int teardown(void **state)
{
    (void)state;
    ag_meters_close(m);
    return 0;
}

#define METERED(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

static ag_meter_time at(uint64_t s) { return (ag_meter_time){s * SECOND, 1}; }

static int enter_as(ag_ticket *t, ag_meter_kind kind, const char *name, ag_limits l, ag_meter_time when)
{
    const char *names[AG_METER_KIND_COUNT] = {0};
    ag_limits limits[AG_METER_KIND_COUNT] = {0};
    names[kind] = name;
    limits[kind] = l;
    return ag_meters_enter(m, t, names, limits, when, &why, &views);
}

static int enter(ag_ticket *t, ag_limits l, ag_meter_time when) { return enter_as(t, AG_METER_KEY, "k", l, when); }

/* Enters and leaves n times; how many were let in. */
static uint32_t many(ag_limits l, uint32_t n, ag_meter_time when)
{
    uint32_t in = 0;
    for (uint32_t i = 0; i < n; i++) {
        ag_ticket t = {0};
        if (enter(&t, l, when) == AG_OK) in++;
        ag_meters_leave(m, &t);
    }
    return in;
}

static void requests_a_second_and_their_burst(void **state)
{
    (void)state;
    ag_limits l = {.requests_per_second = 10, .burst = 3};
    assert_int_equal(many(l, 10, at(1)), 3);
    assert_int_equal(why.limit, AG_LIMIT_requests_per_second);
    assert_int_equal(why.kind, AG_METER_KEY);
    assert_int_equal(why.wait_us, 100000);
    assert_int_equal(views.requests.limit, 3);
    assert_int_equal(views.requests.left, 0);
    assert_int_equal(views.requests.reset_us, 300000);
    assert_int_equal(views.tokens.limit, 0);
    assert_int_equal(many(l, 10, at(2)), 3);
    assert_int_equal(many((ag_limits){.requests_per_second = 1}, 1, at(100)), 1); /* a burst of at least one */
}

static void requests_a_minute_come_beside_those_a_second(void **state)
{
    (void)state;
    ag_limits l = {.requests_per_second = 1000, .burst = 1000, .requests_per_minute = 6};
    assert_int_equal(many(l, 20, at(1)), 6);
    assert_int_equal(why.limit, AG_LIMIT_requests_per_minute);
    assert_int_equal(why.wait_us, 10 * SECOND);
    assert_int_equal(views.requests.limit, 6); /* the tighter one is told */
    assert_int_equal(many(l, 20, at(21)), 2);
}

static void what_is_refused_counts_nowhere(void **state)
{
    (void)state;
    const char *names[AG_METER_KIND_COUNT] = {"k", "t", NULL, "1.2.3.4"};
    ag_limits limits[AG_METER_KIND_COUNT] = {{.requests_per_minute = 9}, {.requests_per_minute = 2}, {0}, {.burst = 1}};
    ag_ticket t = {0};
    for (int i = 0; i < 6; i++) {
        int rc = ag_meters_enter(m, &t, names, limits, at(1), &why, &views);
        assert_int_equal(rc, i < 2 ? AG_OK : AG_E_RATE_LIMIT);
        ag_meters_leave(m, &t);
    }
    assert_int_equal(why.kind, AG_METER_TENANT);
    names[1] = NULL;
    assert_int_equal(ag_meters_enter(m, &t, names, limits, at(1), &why, &views), AG_OK);
    assert_int_equal(views.requests.left, 6); /* 9, and three that were let in */
    ag_meters_leave(m, &t);
}

static void requests_in_flight(void **state)
{
    (void)state;
    ag_limits l = {.concurrent = 2};
    ag_ticket a = {0}, b = {0}, c = {0};
    assert_int_equal(enter(&a, l, at(1)) | enter(&b, l, at(1)), AG_OK);
    assert_int_equal(enter(&c, l, at(1)), AG_E_RATE_LIMIT);
    assert_true(why.limit == AG_LIMIT_concurrent && why.wait_us == 0);
    ag_meters_leave(m, &c);
    ag_meters_leave(m, &a);
    assert_int_equal(enter(&c, l, at(1)), AG_OK);
    ag_meters_leave(m, &b);
    ag_meters_leave(m, &c);
}

static void tokens_count_at_once_and_as_they_are_made(void **state)
{
    (void)state;
    ag_limits l = {.tokens_per_minute = 600};
    ag_ticket t = {0};
    assert_int_equal(enter(&t, l, at(1)), AG_OK);
    assert_int_equal(ag_meters_prompt(m, &t, 601, at(1), &why, &views), AG_E_RATE_LIMIT);
    assert_true(why.never);
    assert_int_equal(ag_meters_prompt(m, &t, 500, at(1), &why, &views), AG_OK);
    assert_int_equal(views.tokens.left, 100);
    assert_int_equal(ag_meters_prompt(m, &t, 101, at(1), &why, &views), AG_E_RATE_LIMIT);
    assert_true(!why.never && why.wait_us == SECOND / 10);
    ag_meters_prompt_undo(m, &t, 500);
    assert_int_equal(ag_meters_prompt(m, &t, 600, at(1), &why, &views), AG_OK);
    ag_meters_output(m, &t, 60, at(1)); /* goes below empty */
    ag_meters_leave(m, &t);
    assert_int_equal(enter(&t, l, at(1)), AG_E_RATE_LIMIT);
    assert_int_equal(why.limit, AG_LIMIT_tokens_per_minute);
    assert_int_equal(why.wait_us, 61 * SECOND / 10);
    assert_int_equal(enter(&t, l, at(8)), AG_OK);
    ag_meters_leave(m, &t);
}

static void a_budget_lasts_a_month(void **state)
{
    (void)state;
    ag_limits l = {.tokens_per_month = 100, .requests_per_second = 1000};
    ag_ticket t = {0};
    assert_true(ag_meters_seed(m, AG_METER_KEY, "k", 1, 50)); /* of an earlier process */
    assert_int_equal(enter(&t, l, at(1)), AG_OK);
    assert_int_equal(ag_meters_prompt(m, &t, 51, at(1), &why, &views), AG_E_BUDGET);
    assert_int_equal(ag_meters_prompt(m, &t, 20, at(1), &why, &views), AG_OK);
    ag_meters_output(m, &t, 30, at(1));
    ag_meters_leave(m, &t);
    assert_int_equal(enter(&t, l, at(1)), AG_E_BUDGET);
    assert_int_equal(why.limit, AG_LIMIT_tokens_per_month);
    assert_int_equal(enter(&t, l, (ag_meter_time){SECOND, 2}), AG_OK);
    ag_meters_leave(m, &t);
}

static void the_longest_wait_is_told(void **state)
{
    (void)state;
    ag_limits l = {.requests_per_second = 1, .burst = 1, .requests_per_minute = 1};
    assert_int_equal(many(l, 2, at(1)), 1);
    assert_int_equal(why.limit, AG_LIMIT_requests_per_minute);
    assert_int_equal(why.wait_us, 60 * SECOND);
}

static void addresses_are_bounded_and_forgotten_in_turn(void **state)
{
    (void)state;
    char name[32];
    ag_limits l = {.requests_per_minute = 1};
    ag_ticket t = {0};
    for (uint32_t i = 0; i <= AG_METERS_MAX; i++) {
        snprintf(name, sizeof name, "a%u", i);
        assert_int_equal(enter_as(&t, AG_METER_ADDRESS, name, l, at(1)), AG_OK);
        ag_meters_leave(m, &t);
    }
    assert_int_equal(enter_as(&t, AG_METER_ADDRESS, "a2", l, at(1)), AG_E_RATE_LIMIT);
    assert_int_equal(enter_as(&t, AG_METER_ADDRESS, "a0", l, at(1)), AG_OK); /* was quiet longest, and is new again */
    ag_meters_leave(m, &t);
}

static void keys_are_not_forgotten_while_that_would_help_them(void **state)
{
    (void)state;
    char name[32];
    ag_limits l = {.requests_per_minute = 1};
    ag_ticket t = {0};
    for (uint32_t i = 0; i < AG_METERS_MAX; i++) {
        snprintf(name, sizeof name, "k%u", i);
        assert_int_equal(enter_as(&t, AG_METER_KEY, name, l, at(1)), AG_OK);
        ag_meters_leave(m, &t);
    }
    assert_int_equal(enter_as(&t, AG_METER_KEY, "more", l, at(60)), AG_E_NOMEM);
    assert_int_equal(enter_as(&t, AG_METER_KEY, "more", l, at(61)), AG_OK);
    ag_meters_leave(m, &t);
}

enum { THREADS = 4, ROUNDS = 20000 };

static void *crowd(void *arg)
{
    uint32_t *in = arg;
    ag_refusal w;
    ag_meter_views v;
    const char *names[AG_METER_KIND_COUNT] = {"k", "t"};
    ag_limits limits[AG_METER_KIND_COUNT] = {{.requests_per_minute = 10000, .concurrent = 3},
                                             {.tokens_per_minute = 1000000}};
    for (int i = 0; i < ROUNDS; i++) {
        ag_ticket t = {0};
        if (ag_meters_enter(m, &t, names, limits, at(1), &w, &v) != AG_OK) continue;
        (*in)++;
        if (ag_meters_prompt(m, &t, 1, at(1), &w, &v) == AG_OK) ag_meters_output(m, &t, 1, at(1));
        ag_meters_leave(m, &t);
    }
    return NULL;
}

static void many_threads_take_no_more_than_there_is(void **state)
{
    (void)state;
    pthread_t threads[THREADS];
    uint32_t in[THREADS] = {0}, all = 0;
    for (int i = 0; i < THREADS; i++) assert_int_equal(pthread_create(&threads[i], NULL, crowd, &in[i]), 0);
    for (int i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
        all += in[i];
    }
    assert_int_equal(all, 10000);
}

#ifdef AG_FAULTS
static void without_memory_nothing_is_counted(void **state)
{
    (void)state;
    ag_meters *other = NULL;
    ag_ticket t = {0};
    ag_fault_arm(AG_FAULT_ALLOC, 1);
    assert_int_equal(ag_meters_open(&other), AG_E_NOMEM);
    ag_fault_arm(AG_FAULT_ALLOC, 1);
    assert_int_equal(enter(&t, (ag_limits){.concurrent = 1}, at(1)), AG_E_NOMEM);
    ag_fault_disarm(AG_FAULT_ALLOC);
    assert_int_equal(enter(&t, (ag_limits){.concurrent = 1}, at(1)), AG_OK);
    ag_meters_leave(m, &t);
}
#endif

static void who_is_judged_elsewhere_is_followed(void **state)
{
    (void)state;
    const char *names[AG_METER_KIND_COUNT] = {"k"};
    ag_limits share[AG_METER_KIND_COUNT] = {{.requests_per_minute = 2, .tokens_per_minute = 60, .concurrent = 1}};
    uint64_t months[AG_METER_KIND_COUNT] = {500};
    ag_meter_known known;
    ag_ticket t = {0}, more[4];
    for (uint32_t i = 0; i < 4; i++) assert_int_equal(ag_meters_hold(m, &more[i], names, share, at(1)), AG_OK);
    ag_meters_known(m, AG_METER_KEY, "k", 1, &known);
    assert_int_equal(known.in_flight, 4);
    assert_int_equal(known.month_tokens, 0);
    assert_string_equal(ag_meter_name(more[0].meter[0]), "k");
    for (uint32_t i = 0; i < 4; i++) ag_meters_took(m, &more[i], months, at(1));
    ag_meters_output(m, &more[0], 1000000, at(1));
    ag_meters_known(m, AG_METER_KEY, "k", 1, &known);
    assert_int_equal(known.month_tokens, 1000500);
    assert_int_equal(known.month_told, 500);
    ag_meters_known(m, AG_METER_KEY, "k", 2, &known);
    assert_int_equal(known.month_tokens + known.month_told, 0);
    months[0] = 0; /* nothing is said of it */
    ag_meters_took(m, &more[0], months, at(1));
    ag_meters_known(m, AG_METER_KEY, "k", 1, &known);
    assert_int_equal(known.month_told, 500);
    assert_true(ag_meters_seed(m, AG_METER_KEY, "k", 1, 7));
    ag_meters_known(m, AG_METER_KEY, "k", 1, &known);
    assert_int_equal(known.month_told, 1000507);
    for (uint32_t i = 0; i < 4; i++) ag_meters_leave(m, &more[i]);
    /* More was let in than the share, but nothing is owed for that: a minute later all of it is there again. */
    assert_int_equal(enter(&t, share[0], at(1)), AG_E_RATE_LIMIT);
    assert_int_equal(enter(&t, share[0], at(61)), AG_OK);
    assert_int_equal(views.requests.left, 1);
    assert_int_equal(views.tokens.left, 60);
    ag_meters_leave(m, &t);
    ag_meters_known(m, AG_METER_KEY, "nobody", 1, &known);
    assert_int_equal(known.in_flight + known.month_tokens, 0);
#ifdef AG_FAULTS
    names[0] = "another";
    ag_fault_arm(AG_FAULT_ALLOC, 1);
    assert_int_equal(ag_meters_hold(m, &t, names, share, at(1)), AG_E_NOMEM);
    ag_fault_disarm(AG_FAULT_ALLOC);
#endif
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        METERED(requests_a_second_and_their_burst),
        METERED(requests_a_minute_come_beside_those_a_second),
        METERED(what_is_refused_counts_nowhere),
        METERED(requests_in_flight),
        METERED(tokens_count_at_once_and_as_they_are_made),
        METERED(a_budget_lasts_a_month),
        METERED(the_longest_wait_is_told),
        METERED(addresses_are_bounded_and_forgotten_in_turn),
        METERED(keys_are_not_forgotten_while_that_would_help_them),
        METERED(many_threads_take_no_more_than_there_is),
        METERED(who_is_judged_elsewhere_is_followed),
#ifdef AG_FAULTS
        METERED(without_memory_nothing_is_counted),
#endif
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
