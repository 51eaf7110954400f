/* The step-time model beside machines that are known exactly. */
#include "engine/sched/cost.h"

#include <math.h>

#include "check.h"

static uint64_t rnd_state;
static double rnd(void)
{
    rnd_state = rnd_state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (double)(rnd_state >> 11) / 9007199254740992.0;
}

/* Weights are read in `flat` microseconds; from some rows on arithmetic takes longer; each key read, each row's
 * use of it and each row of logits costs. */
typedef struct machine { double flat, per_row, per_key, per_read, per_out, noise; } machine;

static double truth(const machine *m, const ag_step_shape *s)
{
    return AG_MAX(m->flat, m->per_row * s->rows) + m->per_key * (double)s->attended + m->per_read * (double)s->read +
           m->per_out * s->outs;
}

static void run(ag_cost *c, const machine *m, const ag_step_shape *s)
{
    double us = truth(m, s) * (1 + m->noise * (2 * rnd() - 1));
    ag_cost_add(c, s, (uint64_t)us);
}

/* A step as a server would choose it: some decode behind contexts of all lengths, often a part of a prompt. */
static ag_step_shape some_step(void)
{
    uint32_t decodes = (uint32_t)(rnd() * 32), prompt = rnd() < 0.6 ? (uint32_t)exp(rnd() * 6.2) : 0;
    ag_step_shape s = {.outs = decodes + (rnd() < 0.3)};
    for (uint32_t i = 0; i < decodes; i++) ag_step_shape_add(&s, (uint32_t)(rnd() * 3000), 1);
    ag_step_shape_add(&s, (uint32_t)(rnd() * 3000), prompt);
    if (s.rows == 0) s = (ag_step_shape){1, 1, 100, 100};
    if (s.outs > s.rows) s.outs = s.rows;
    return s;
}

static double error_over(const ag_cost *c, const machine *m, unsigned steps)
{
    double sum = 0;
    for (unsigned i = 0; i < steps; i++) {
        ag_step_shape s = some_step();
        double want = truth(m, &s);
        sum += fabs(ag_cost_us(c, &s) - want) / want;
    }
    return sum / steps;
}

static const machine machines[] = {
    {.flat = 20000, .per_row = 700, .per_key = 0.05, .per_out = 100}, /* memory-bound to 28 rows */
    {.flat = 500, .per_row = 500, .per_key = 0.5, .per_out = 0},      /* arithmetic only, keys dear */
    {.flat = 80000, .per_row = 100, .per_key = 0.01, .per_out = 50},  /* flat almost throughout */
    {.flat = 2500, .per_row = 300, .per_key = 0.1, .per_read = 0.5},  /* a small model: the cache is what it reads */
};

static void test_fits(void **state)
{
    (void)state;
    for (size_t k = 0; k < AG_ARRAY_LEN(machines); k++)
        for (int noisy = 0; noisy < 2; noisy++) {
            machine m = machines[k];
            m.noise = noisy ? 0.2 : 0;
            rnd_state = k + 1;
            ag_cost c;
            ag_cost_init(&c);
            for (int i = 0; i < 4000; i++) {
                ag_step_shape s = some_step();
                run(&c, &m, &s);
            }
            double e = error_over(&c, &m, 1000), most = noisy ? 0.14 : 0.12;
            if (e > most) fail_msg("machine %zu%s: off by %.3f", k, noisy ? ", noisy" : "", e);
            assert_true(c.error < most + (noisy ? 0.12 : 0.04));
        }
}

static void test_follows_change(void **state)
{
    (void)state;
    static const double speed[] = {3, 1.0 / 3, 1.4};
    for (size_t k = 0; k < AG_ARRAY_LEN(speed); k++) {
        machine m = machines[0];
        m.noise = 0.1;
        rnd_state = 99 + k;
        ag_cost c;
        ag_cost_init(&c);
        for (int phase = 0; phase < 2; phase++) {
            for (int i = 0; i < 3000; i++) {
                ag_step_shape s = some_step();
                run(&c, &m, &s);
            }
            double e = error_over(&c, &m, 1000);
            if (e > 0.1) fail_msg("speed %g, phase %d: off by %.3f", speed[k], phase, e);
            m.flat *= speed[k];
            m.per_row *= speed[k];
            m.per_key *= speed[k];
            m.per_read *= speed[k];
            m.per_out *= speed[k];
        }
    }
}

/* A burst that the kernel's scheduler took away is no new speed. */
static void test_outliers(void **state)
{
    (void)state;
    machine m = machines[0];
    ag_cost c;
    ag_cost_init(&c);
    rnd_state = 5;
    for (int i = 0; i < 4000; i++) {
        ag_step_shape s = some_step();
        ag_cost_add(&c, &s, (uint64_t)(truth(&m, &s) * (i % 100 == 99 ? 50 : 1)));
    }
    assert_true(error_over(&c, &m, 1000) < 0.1);
}

/* Only decodes were seen: what a prompt would take is guessed high, tried a little, and known after that. */
static void test_finds_its_budget(void **state)
{
    (void)state;
    machine m = machines[0];
    ag_cost c;
    ag_cost_init(&c);
    const ag_step_shape decode = {4, 4, 4000, 4000};
    for (int i = 0; i < 50; i++) run(&c, &m, &decode);
    uint32_t n = 0;
    for (int i = 0; i < 200; i++) {
        n = AG_MAX(ag_cost_rows(&c, &decode, 500, 1.3 * ag_cost_us(&c, &decode), 512), 16u);
        ag_step_shape s = decode;
        ag_step_shape_add(&s, 500, n);
        run(&c, &m, &s);
    }
    uint32_t right = 0;
    for (uint32_t i = 1; i <= 512; i++) {
        ag_step_shape s = decode;
        ag_step_shape_add(&s, 500, i);
        if (truth(&m, &s) <= 1.3 * truth(&m, &decode)) right = i;
    }
    if (n < right * 0.75 || n > right * 1.25) fail_msg("a budget of %u rows, right is %u", n, right);
}

/* The largest number of rows that was tried took ten times as long, once: it is tried again. */
static void test_a_bad_moment_is_forgotten(void **state)
{
    (void)state;
    machine m = {.flat = 2500, .per_row = 300, .per_key = 0.1, .per_read = 0.5, .noise = 0.05};
    const ag_step_shape decode = {4, 4, 4000, 4000};
    ag_cost c;
    ag_cost_init(&c);
    rnd_state = 8;
    for (int i = 0; i < 50; i++) run(&c, &m, &decode);
    uint32_t n = 0, right = 0, lost = 0;
    for (uint32_t i = 1; i <= 512; i++) {
        ag_step_shape s = decode;
        ag_step_shape_add(&s, 300, i);
        if (truth(&m, &s) <= 1.3 * truth(&m, &decode)) right = i;
    }
    for (int i = 0; i < 3000; i++) {
        n = AG_MAX(ag_cost_rows(&c, &decode, 300, 1.3 * ag_cost_us(&c, &decode), 512), 1u);
        ag_step_shape s = decode;
        ag_step_shape_add(&s, 300, n);
        bool bad = s.rows > 5 && lost < 3;
        lost += bad;
        if (bad) ag_cost_add(&c, &s, (uint64_t)(10 * truth(&m, &s)));
        else run(&c, &m, &s);
    }
    if (n < right * 0.7 || n > right * 1.3) fail_msg("a budget of %u rows, right is %u", n, right);
}

/* A long prompt, then four streams whose contexts grow for thousands of steps: what keys cost can be told from these
 * alone, and another long prompt beside them gets as many rows of each step as fit. */
static void test_streams_that_grow(void **state)
{
    (void)state;
    const machine m = {
        .flat = 36000, .per_row = 3500, .per_key = 0.35, .per_read = 1.35, .per_out = 1000, .noise = 0.1};
    ag_cost c;
    ag_cost_init(&c);
    rnd_state = 11;
    for (uint32_t pos = 0; pos < 6000; pos += 500) {
        ag_step_shape s = {.outs = pos == 5500};
        ag_step_shape_add(&s, pos, 500);
        run(&c, &m, &s);
    }
    uint32_t steps[2] = {0};
    for (int exact = 0; exact < 2; exact++)
        for (uint32_t at = 100, pos = 0; pos < 6000; at++, steps[exact]++) {
            ag_step_shape s = {.outs = 4}, all;
            for (uint32_t i = 0; i < 4; i++) ag_step_shape_add(&s, at, 1);
            double limit = 1.3 * (exact ? truth(&m, &s) : ag_cost_us(&c, &s));
            uint32_t n = 1;
            if (!exact) n = AG_MAX(ag_cost_rows(&c, &s, pos, limit, 512), 1u);
            for (bool more = exact; more; n += more) {
                all = s;
                ag_step_shape_add(&all, pos, n + 1);
                more = truth(&m, &all) <= limit;
            }
            if (at >= 300 && (exact || at % 32 > 0)) { /* the streams run for a while before it comes, and some alone */
                ag_step_shape_add(&s, pos, n);
                pos += n;
            }
            steps[exact] -= at < 300;
            if (!exact) run(&c, &m, &s);
        }
    print_message("%u steps, %u by what is true\n", steps[0], steps[1]);
    assert_true(steps[0] < 1.4 * steps[1]);
    assert_true(steps[0] > 0.8 * steps[1]);
}

/* The first step of all took a hundred times too long, and few streams run: a row more is a large step in proportion.
 * Rows are tried all the same, until a long prompt gets those that fit. */
static void test_a_cold_start_beside_few_streams(void **state)
{
    (void)state;
    const machine m = {.flat = 20000, .per_row = 1500, .per_key = 0.05, .per_read = 0.2, .per_out = 100, .noise = 0.1};
    for (uint32_t streams = 1; streams <= 3; streams++) {
        ag_cost c;
        ag_cost_init(&c);
        rnd_state = streams;
        ag_step_shape first = {.outs = 1};
        ag_step_shape_add(&first, 0, 100);
        ag_cost_add(&c, &first, 100 * (uint64_t)truth(&m, &first));
        uint32_t most = 0, n = 0;
        for (uint32_t at = 100; at < 1100; at++) {
            ag_step_shape s = {.outs = streams};
            for (uint32_t i = 0; i < streams; i++) ag_step_shape_add(&s, at, 1);
            if (at >= 150 && at % 32 > 0) {
                n = AG_MAX(ag_cost_rows(&c, &s, 500, 1.3 * ag_cost_us(&c, &s), 512), 1u);
                ag_step_shape_add(&s, 500, n);
            }
            run(&c, &m, &s);
            if (at > 800) most = AG_MAX(most, n);
        }
        print_message("%u streams: up to %u rows\n", streams, most);
        assert_in_range(most, 10, 24); /* 13 rows cost nothing, 17 fit */
    }
}

static void test_rows_agree_with_us(void **state)
{
    (void)state;
    rnd_state = 3;
    ag_cost c;
    ag_cost_init(&c);
    const ag_step_shape none = {0};
    assert_int_equal(ag_cost_rows(&c, &none, 0, 1, 77), 77); /* nothing is known */
    for (int i = 0; i < 300; i++) {
        machine m = machines[i % AG_ARRAY_LEN(machines)];
        m.noise = 0.5;
        ag_step_shape s = some_step();
        run(&c, &m, &s);
        double before = 0;
        for (uint32_t rows = 1; rows < 700; rows++) { /* more rows never take less */
            ag_step_shape r = {rows, 1, 1000, 1000};
            double us = ag_cost_us(&c, &r);
            assert_true(isfinite(us) && us >= before * (1 - 1e-12));
            before = us;
        }
        ag_step_shape with = some_step();
        uint32_t pos = (uint32_t)(rnd() * 5000), max = (uint32_t)(rnd() * 600);
        double limit = ag_cost_us(&c, &with) * (0.9 + rnd());
        uint32_t n = ag_cost_rows(&c, &with, pos, limit, max);
        assert_true(n <= max);
        ag_step_shape at = with, next = with;
        ag_step_shape_add(&at, pos, n);
        if (n > 0) assert_true(ag_cost_us(&c, &at) <= limit);
        ag_step_shape_add(&next, pos, n + 1);
        if (n < max) assert_true(ag_cost_us(&c, &next) > limit);
    }
    assert_int_equal(ag_cost_rows(&c, &none, 0, 0, 512), 0);
    assert_int_equal(ag_cost_rows(&c, &none, 0, 1e300, 512), 512);
    assert_int_equal(ag_cost_rows(&c, &none, 0, 1e300, 0), 0);
    assert_true(ag_cost_rows(&c, &none, UINT32_MAX, 1e300, UINT32_MAX) > 0);
}

static void test_absurd(void **state)
{
    (void)state;
    ag_cost c;
    ag_cost_init(&c);
    const ag_step_shape good = {1, 1, 800, 800};
    assert_true(ag_cost_us(&c, &good) == 0);
    const struct { ag_step_shape s; uint64_t us; } left_out[] = {
        {{0, 0, 0, 0}, 100},     {{8, 9, 800, 800}, 100}, {{8, 8, 3, 3}, 100},
        {{8, 8, 800, 801}, 100}, {{8, 8, 800, 800}, 0},   {{8, 8, 800, 800}, UINT64_MAX},
    };
    for (size_t i = 0; i < AG_ARRAY_LEN(left_out); i++) ag_cost_add(&c, &left_out[i].s, left_out[i].us);
    assert_int_equal(c.steps, 0);
    const struct { ag_step_shape s; uint64_t us; } extreme[] = {
        {{1, 0, 1, 1}, 1}, {{UINT32_MAX, UINT32_MAX, UINT64_MAX, UINT64_MAX}, 600000000}, {{1, 1, UINT64_MAX, 1}, 1},
        {{UINT32_MAX, 0, UINT32_MAX, 0}, 1}, {{1, 1, 1, 1}, 600000000},
    };
    for (int turn = 0; turn < 50; turn++)
        for (size_t i = 0; i < AG_ARRAY_LEN(extreme); i++) {
            ag_cost_add(&c, &extreme[i].s, extreme[i].us);
            for (size_t k = 0; k < AG_ARRAY_LEN(extreme); k++) {
                double us = ag_cost_us(&c, &extreme[k].s);
                assert_true(isfinite(us) && us >= 0);
            }
        }
    for (int i = 0; i < 2000; i++) ag_cost_add(&c, &good, 5000); /* and it comes to its senses */
    double us = ag_cost_us(&c, &good);
    if (fabs(us - 5000) > 1250) fail_msg("%g in place of 5000", us);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fits), cmocka_unit_test(test_follows_change), cmocka_unit_test(test_outliers),
        cmocka_unit_test(test_finds_its_budget), cmocka_unit_test(test_streams_that_grow),
        cmocka_unit_test(test_a_cold_start_beside_few_streams), cmocka_unit_test(test_rows_agree_with_us),
        cmocka_unit_test(test_absurd),
        cmocka_unit_test(test_a_bad_moment_is_forgotten),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
