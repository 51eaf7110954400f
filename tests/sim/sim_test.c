/* The simulator itself: the same calls give the same run, and it can be left at any moment. */
#include "sim/sim.h"

#include "base/fault.h"
#include "check.h"

static const ag_sim_machine machine = {
    .knot = {{1, 2000}, {11, 3000}, {111, 23000}}, .n_knots = 3, .per_key_us = 0.5, .per_out_us = 10};
static const ag_sched_conf server = {
    .queue = {.entries_max = 100, .tenants_max = 10, .prompt_weight = 1, .output_weight = 4},
    .pages = 100,
    .page_tokens = 16,
    .running_max = 4,
    .rows_max = 64,
    .out_max = 8,
    .step_ratio = 1.3,
    .gap_us = 50000,
    .rows_min = 4,
    .reuse = true};

typedef struct ends { uint32_t n[AG_SIM_CANCELLED + 1]; uint64_t sum, last_us; ag_sim_req last; } ends;

static void on_ended(void *arg, ag_sim *sim, const ag_sim_req *r)
{
    ends *e = arg;
    e->n[r->end]++;
    e->sum = e->sum * 31 + r->end_us + r->number;
    e->last_us = ag_sim_now(sim);
    e->last = *r;
}

static ag_sim *begin(ends *e, uint64_t seed, double noise)
{
    *e = (ends){0};
    ag_sim_conf c = {.sched = server, .machine = machine, .seed = seed, .arg = e, .ended = on_ended};
    c.machine.noise = noise;
    ag_sim *sim;
    assert_int_equal(ag_sim_open(&sim, &c, NULL), AG_OK);
    return sim;
}

static void test_machine(void **state)
{
    (void)state;
    ag_sim_machine m = machine;
    m.per_key_us = m.per_out_us = 0;
    static const struct {
        uint32_t rows;
        double us;
    } want[] = {{1, 2000}, {6, 2500}, {11, 3000}, {61, 13000}, {111, 23000}, {211, 43000}};
    for (uint32_t i = 0; i < AG_ARRAY_LEN(want); i++)
        assert_true(ag_sim_machine_us(&m, &(ag_step_shape){.rows = want[i].rows}) == want[i].us);
    assert_true(ag_sim_machine_us(&machine, &(ag_step_shape){.rows = 1, .outs = 2, .attended = 100}) == 2070);
    m.n_knots = 1;
    assert_true(ag_sim_machine_us(&m, &(ag_step_shape){.rows = 50}) == 2000);
}

/* 20 tokens of prompt at once, then one a step: to the microsecond. */
static void test_one_request(void **state)
{
    (void)state;
    ends e;
    ag_sim *sim = begin(&e, 1, 0);
    ag_sim_ask a = {.band = 2, .n_prompt = 20, .max_tokens = 9, .n_answer = 3, .salt = 1};
    assert_int_equal(ag_sim_ask_at(sim, 1000, &a, NULL), AG_OK);
    while (ag_sim_turn(sim)) {}
    uint64_t first = 1000 + 4800 + 105 + 10, second = first + 2000 + 10 + 10, third = second + 2000 + 11 + 10;
    assert_int_equal(e.n[AG_SIM_DONE], 1);
    assert_int_equal(e.last.first_us, first);
    assert_int_equal(e.last.end_us, third);
    assert_int_equal(e.last.gap_max_us, third - second);
    assert_int_equal(e.last.answered, 3);
    assert_int_equal(e.last.rows, 22);
    assert_int_equal(ag_sim_steps(sim), 3);
    ag_sim_close(sim);
}

static void test_who_leaves(void **state)
{
    (void)state;
    ends e;
    ag_sim *sim = begin(&e, 1, 0);
    ag_sim_ask a = {.band = 2, .n_prompt = 20, .max_tokens = 9, .n_answer = 9, .salt = 1, .cancel_us = 100};
    assert_int_equal(ag_sim_ask_at(sim, 1000, &a, NULL), AG_OK);
    ag_sim_run(sim, 1100);
    assert_int_equal(e.n[AG_SIM_CANCELLED], 0); /* its rows are being computed */
    while (ag_sim_turn(sim)) {}
    assert_int_equal(e.n[AG_SIM_CANCELLED], 1);
    assert_int_equal(e.last_us, 1000 + 4915);
    a.cancel_us = 0;
    a.timeout_us = 8000;
    assert_int_equal(ag_sim_ask_at(sim, 10000, &a, NULL), AG_OK);
    while (ag_sim_turn(sim)) {}
    assert_int_equal(e.n[AG_SIM_TIMEOUT], 1);
    assert_true(e.last.answered > 0 && e.last.answered < 9);
    ag_sim_close(sim);
}

static void crowd(ag_sim *sim)
{
    for (uint32_t i = 0; i < 40; i++) {
        ag_sim_ask a = {.band = i % 4,
                        .n_prompt = 1 + i * 7 % 60,
                        .max_tokens = 20,
                        .n_answer = 1 + i % 20,
                        .salt = 1,
                        .cancel_us = i % 5 ? 0 : 9000};
        if (ag_sim_ask_at(sim, i * 700, &a, NULL) != AG_OK) return;
    }
}

static void test_the_same_again(void **state)
{
    (void)state;
    ends a, b, c;
    for (uint32_t i = 0; i < 3; i++) {
        ag_sim *sim = begin(i == 0 ? &a : i == 1 ? &b : &c, i == 2 ? 8 : 7, 0.3);
        crowd(sim);
        while (ag_sim_turn(sim)) {}
        ag_sim_close(sim);
    }
    assert_true(a.sum == b.sum && a.sum != c.sum);
    assert_int_equal(a.n[AG_SIM_DONE] + a.n[AG_SIM_CANCELLED], 40);
}

static void test_left_in_the_middle(void **state)
{
    (void)state;
    for (uint32_t turns = 0; turns < 150; turns++) {
        ends e;
        ag_sim *sim = begin(&e, 7, 0.3);
        crowd(sim);
        for (uint32_t i = 0; i < turns; i++) ag_sim_turn(sim);
        uint32_t ended = e.n[AG_SIM_DONE];
        ag_sim_close(sim);
        assert_int_equal(e.n[AG_SIM_DONE], ended);
    }
}

static void test_no_such_request(void **state)
{
    (void)state;
    ends e;
    ag_sim *sim = begin(&e, 1, 0);
    static const ag_sim_ask wrong[] = {{.n_prompt = 0, .max_tokens = 1, .n_answer = 1},
                                       {.n_prompt = 1, .max_tokens = 1, .n_answer = 2},
                                       {.n_prompt = 1, .max_tokens = 1},
                                       {.n_prompt = 1, .max_tokens = 1, .n_answer = 1, .band = 4}};
    for (uint32_t i = 0; i < AG_ARRAY_LEN(wrong); i++) {
        ag_err err = {0};
        assert_int_equal(ag_sim_ask_at(sim, 0, &wrong[i], &err), AG_E_PARAM);
        assert_true(err.text[0] != 0);
    }
    ag_sim_ask large = {.n_prompt = 1600, .max_tokens = 1, .n_answer = 1};
    assert_int_equal(ag_sim_ask_at(sim, 0, &large, NULL), AG_OK);
    while (ag_sim_turn(sim)) {}
    assert_int_equal(e.n[AG_SIM_REFUSED], 1);
    assert_int_equal(e.last.code, AG_E_PARAM);
    ag_sim_close(sim);
}

#ifdef AG_FAULTS
/* Whatever allocation fails, everybody who came in comes to an end, and nothing is left behind. */
static void test_no_memory(void **state)
{
    (void)state;
    bool fired = true;
    for (uint32_t n = 1; fired; n++) {
        ends e = {0};
        ag_sim_conf c = {.sched = server, .machine = machine, .seed = 1, .arg = &e, .ended = on_ended};
        ag_sim *sim = NULL;
        ag_fault_arm(AG_FAULT_ALLOC, n);
        int rc = ag_sim_open(&sim, &c, NULL);
        if (rc == AG_OK) {
            crowd(sim);
            while (ag_sim_turn(sim)) {}
            assert_false(ag_sched_busy(ag_sim_sched(sim)));
        }
        fired = ag_fault_disarm(AG_FAULT_ALLOC);
        assert_true(rc == AG_OK || (fired && rc == AG_E_NOMEM));
        ag_sim_close(sim);
    }
}
#endif

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_machine),
        cmocka_unit_test(test_one_request),
        cmocka_unit_test(test_who_leaves),
        cmocka_unit_test(test_the_same_again),
        cmocka_unit_test(test_left_in_the_middle),
        cmocka_unit_test(test_no_such_request),
#ifdef AG_FAULTS
        cmocka_unit_test(test_no_memory),
#endif
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
