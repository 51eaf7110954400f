/* What the scheduler puts into a step: limits for prompts, urgency, shares of the machine. */
#include "engine/sched/sched_bench.h"

/* ---- the budget ---- */

static void test_alone_without_limit(void **state)
{
    (void)state;
    bench *b = begin(&conf_plain);
    ask *a = ask_for(b, "t", 2, 600, 3);
    assert_true(step(b));
    assert_int_equal(a->rows, 256);
    assert_int_equal(b->step->budget, UINT32_MAX);
    steps(b, 2);
    assert_int_equal(a->rows, 600 - 512);
    assert_int_equal(answered(a), 1);
    until_end(b, a);
    assert_false(step(b));
    finish(b);
}

static void test_unknown_machine_is_tried_with_little(void **state)
{
    (void)state;
    bench *b = begin(&conf_plain);
    ask *a = ask_for(b, "t", 2, 1, 50), *p = ask_for(b, "t", 2, 600, 3);
    a->tokens[0] = 5;
    assert_true(choose(b)); /* nobody decodes yet */
    ag_sched_step_done(b->s, 0); /* and a clock that stood still teaches nothing */
    a->tokens[a->seq.n_tokens++] = 1;
    assert_true(choose(b));
    assert_int_equal(a->rows, 1);
    assert_int_equal(p->rows, 64);
    ag_sched_step_done(b->s, 0);
    finish(b);
}

/* With a decode under way a step may take 1.3 times what it takes without the prompt: (10,100 * 1.3 - 10,100) / 100. */
static void test_a_prompt_beside_decodes_keeps_the_ratio(void **state)
{
    (void)state;
    bench *b = begin(&conf_plain);
    teach(b);
    ask *a = ask_for(b, "t", 2, 5, 500);
    steps(b, 2);
    ask *p = ask_for(b, "t", 2, 400, 3);
    for (uint32_t i = 0; answered(p) == 0; i++) {
        assert_true(i < 100);
        uint32_t rest = p->seq.n_tokens - p->seq.computed;
        steps(b, 1);
        assert_int_equal(a->rows, 1);
        assert_in_range(p->rows, AG_MIN(rest, 25u), 36);
    }
    finish(b);
}

/* Those who are less urgent will slow a step down when they decode, but until then the gap holds for who is more
 * urgent. */
static void test_a_gap_holds_for_the_more_urgent(void **state)
{
    (void)state;
    for (uint8_t band = 1; band <= 2; band++) {
        ag_sched_conf conf = conf_plain;
        conf.running_max = conf.out_max = 32;
        conf.gap_us = 20000;
        bench *b = begin(&conf);
        b->row_us = 1000;
        teach(b);
        ask *d = ask_for(b, "t", band, 5, 500); /* 11 ms alone */
        steps(b, 2);
        for (uint32_t i = 0; i < 28; i++) ask_for(b, "t", 2, 100, 3); /* 39 ms together */
        steps(b, 1);
        assert_int_equal(d->rows, 1);
        assert_in_range(b->step->prompt_rows, band == 1 ? 6 : 23, band == 1 ? 9 : 28);
        finish(b);
    }
}

/* Around the gap nothing changes: it is the ratio that counts, whether the step alone is a little shorter or longer. */
static void test_steps_as_long_as_the_gap(void **state)
{
    (void)state;
    for (uint64_t fixed_us = 30000; fixed_us <= 70000; fixed_us += 10000) {
        bench *b = begin(&conf_plain);
        b->fixed_us = fixed_us;
        b->row_us = fixed_us / 20; /* 1.3 times leaves room for six rows */
        teach(b);
        ask *d = ask_for(b, "t", 2, 5, 500);
        steps(b, 2);
        ask *p = ask_for(b, "t", 2, 100, 3);
        steps(b, 1);
        assert_int_equal(d->rows, 1);
        assert_in_range(p->rows, 5, 7);
        finish(b);
    }
}

static void test_a_least_of_rows_in_any_case(void **state)
{
    (void)state;
    ag_sched_conf conf = conf_plain;
    conf.rows_min = 16;
    bench *b = begin(&conf);
    b->row_us = 1000; /* 1.3 times leaves room for three */
    teach(b);
    ask_for(b, "t", 2, 5, 500);
    steps(b, 2);
    ask *p = ask_for(b, "t", 2, 100, 3);
    steps(b, 1);
    assert_int_equal(p->rows, 16);
    finish(b);
}

/* A prompt of 200 rows would take 30 ms alone: it may have the gap, and one of 600 may not. */
static void test_a_short_prompt_has_the_gap(void **state)
{
    (void)state;
    ag_sched_conf conf = conf_plain;
    conf.short_us = 40000;
    bench *b = begin(&conf);
    teach(b);
    ask *a = ask_for(b, "t", 2, 5, 500);
    steps(b, 2);
    ask *p = ask_for(b, "t", 2, 200, 3);
    steps(b, 1);
    assert_int_equal(a->rows, 1);
    assert_int_equal(p->rows, 200);
    ask *q = ask_for(b, "t", 2, 600, 3);
    steps(b, 1);
    assert_in_range(q->rows, 16, 40);
    finish(b);
}

/* Those who wait will slow the step down when they decode: it may take that long for their prompts already. */
static void test_a_backlog_may_take_the_step_that_it_will_make(void **state)
{
    (void)state;
    ag_sched_conf conf = conf_plain;
    conf.running_max = conf.out_max = 32;
    bench *b = begin(&conf);
    b->row_us = 1000;
    teach(b);
    ask *d = ask_for(b, "t", 2, 5, 500); /* 11 ms alone: 3 rows more at 1.3 times */
    steps(b, 2);
    ask *p = ask_for(b, "t", 2, 100, 3);
    steps(b, 1);
    assert_in_range(p->rows, 2, 4);
    for (uint32_t i = 0; i < 18; i++) ask_for(b, "t", 2, 100, 3);
    steps(b, 1); /* 20 of them will take 30 ms */
    assert_int_equal(d->rows, 1);
    assert_in_range(p->rows, 15, 23);
    finish(b);
}

/* It may take no longer steps for the sake of those who are less urgent. */
static void test_a_backlog_of_the_less_urgent_lengthens_no_step(void **state)
{
    (void)state;
    ag_sched_conf conf = conf_plain;
    conf.running_max = conf.out_max = 32;
    bench *b = begin(&conf);
    b->row_us = 1000;
    teach(b);
    ask_for(b, "t", 1, 5, 500); /* 11 ms alone: 3 rows more at 1.3 times */
    steps(b, 2);
    ask *p = ask_for(b, "t", 1, 100, 3);
    for (uint32_t i = 0; i < 28; i++) ask_for(b, "t", 3, 100, 3);
    steps(b, 1);
    assert_in_range(p->rows, 2, 4);
    finish(b);
}

/* However many wait: a step is no longer than some steps of a single row, which is 11 ms here. */
static void test_a_backlog_has_its_limit(void **state)
{
    (void)state;
    ag_sched_conf conf = conf_plain;
    conf.running_max = conf.out_max = 256;
    conf.gap_us = 20000;
    conf.queue.entries_max = 1000;
    bench *b = begin(&conf);
    b->row_us = 2000;
    teach(b);
    ask *d = ask_for(b, "t", 2, 5, 500);
    steps(b, 2);
    for (uint32_t i = 0; i < 29; i++) ask_for(b, "t", 2, 400, 300); /* 70 ms together */
    uint64_t from = b->now;
    steps(b, 1);
    assert_int_equal(d->rows, 1);
    assert_in_range(b->now - from, 40000, 4 * 12000);
    finish(b);
}

static void test_a_short_prompt_passes_a_long_one(void **state)
{
    (void)state;
    bench *b = begin(&conf_plain);
    teach(b);
    ask_for(b, "t", 2, 5, 500);
    steps(b, 2);
    ask *slow = ask_for(b, "t", 2, 2000, 3);
    steps(b, 3);
    ask *quick = ask_for(b, "t", 2, 20, 3), *as_long = ask_for(b, "t", 2, 1900, 3);
    for (uint32_t i = 0; answered(quick) == 0; i++) {
        assert_true(i < 3);
        steps(b, 1);
    }
    uint32_t before = slow->seq.computed;
    steps(b, 10);
    assert_true(slow->seq.computed > before + 200);
    assert_int_equal(as_long->admitted, 0);
    ag_sched_drop(b->s, &as_long->seq, false);
    for (uint32_t i = 0; i < 20; i++) ask_for(b, "t", 2, 30, 1); /* each takes all that a step has for prompts */
    before = slow->seq.computed;
    steps(b, 10);
    assert_true(slow->seq.computed > before + 100); /* but not every step */
    finish(b);
}

static void test_two_prompts_share_the_budget(void **state)
{
    (void)state;
    bench *b = begin(&conf_plain);
    teach(b);
    ask_for(b, "t", 2, 5, 500);
    steps(b, 2);
    ask *p = ask_for(b, "t", 2, 10, 3), *r = ask_for(b, "t", 2, 100, 3), *w = ask_for(b, "t", 2, 100, 3);
    steps(b, 1);
    assert_int_equal(p->rows, 10);
    assert_in_range(r->rows, 1, 26);
    assert_int_equal(w->admitted, 0); /* nobody is let in before there is something to do for it */
    finish(b);
}

/* ---- urgency ---- */

static void test_an_urgent_prompt_has_the_step_alone(void **state)
{
    (void)state;
    bench *b = begin(&conf_plain);
    teach(b);
    ask *d = ask_for(b, "t", 3, 5, 500), *slow = ask_for(b, "t", 3, 600, 3);
    steps(b, 2);
    assert_true(slow->seq.running && answered(slow) == 0);
    ask *u = ask_for(b, "u", 0, 200, 10);
    steps(b, 1);
    assert_int_equal(u->rows, 200);
    assert_int_equal(d->rows + slow->rows, 0);
    assert_int_equal(b->step->sat_out, 1);
    steps(b, 1); /* now it decodes, and less urgent prompts keep the limit for it; decodes do not */
    assert_int_equal(u->rows, 1);
    assert_true(slow->rows >= 1 && slow->rows < 64);
    assert_int_equal(d->rows, 1);
    finish(b);
}

static void test_an_urgent_prompt_keeps_the_limit_for_its_equals(void **state)
{
    (void)state;
    bench *b = begin(&conf_plain);
    teach(b);
    ask *e = ask_for(b, "e", 1, 5, 500), *d = ask_for(b, "t", 3, 5, 500);
    steps(b, 3);
    ask *u = ask_for(b, "u", 1, 200, 10);
    steps(b, 1);
    assert_int_equal(e->rows, 1);
    assert_in_range(u->rows, 16, 40);
    (void)d;
    ask *v = ask_for(b, "v", 0, 8, 10); /* a more urgent one: the other prompt waits */
    steps(b, 1);
    assert_int_equal(v->rows, 8);
    assert_int_equal(u->rows + e->rows, 0);
    finish(b);
}

/* Room that the limit leaves is not for the less urgent: they would put off the first token. */
static void test_the_less_urgent_do_not_lengthen_an_urgent_step(void **state)
{
    (void)state;
    bench *b = begin(&conf_plain);
    teach(b);
    ask *e = ask_for(b, "e", 1, 5, 500), *d = ask_for(b, "t", 3, 5, 500);
    steps(b, 3);
    ask *u = ask_for(b, "u", 1, 70, 10), *p = ask_for(b, "t", 3, 100, 3);
    uint32_t last = 0;
    for (uint32_t i = 0; answered(u) == 0; i++) {
        assert_true(i < 5);
        steps(b, 1);
        assert_int_equal(e->rows, 1);
        assert_int_equal(d->rows + p->rows, 0);
        last = u->rows;
    }
    assert_in_range(last, 1, 16); /* there was room */
    steps(b, 1);
    assert_int_equal(u->rows + e->rows + d->rows, 3);
    assert_in_range(p->rows, 1, 40);
    finish(b);
}

static void test_nobody_sits_out_for_ever(void **state)
{
    (void)state;
    bench *b = begin(&conf_plain);
    teach(b);
    ask *d = ask_for(b, "t", 3, 5, 400);
    steps(b, 2);
    uint32_t before = answered(d);
    for (uint64_t from = b->now; b->now < from + 5 * conf_plain.queue.age_us;) {
        ask *u = ask_for(b, "u", 0, 256, 1); /* urgent ones without end, and each takes whole steps */
        until_end(b, u);
        b->n--;
        memset(u, 0, sizeof *u);
    }
    assert_true(answered(d) > before);
    finish(b);
}

static void test_move(void **state)
{
    (void)state;
    bench *b = begin(&conf_plain);
    teach(b);
    ask *d = ask_for(b, "t", 1, 5, 500), *p = ask_for(b, "p", 2, 600, 3);
    steps(b, 3);
    ag_sched_move(b->s, &p->seq, 0, b->now);
    steps(b, 1);
    assert_int_equal(d->rows, 0);
    ag_sched_move(b->s, &p->seq, 3, b->now);
    steps(b, 1);
    assert_int_equal(d->rows, 1);
    finish(b);
}

/* ---- shares of the machine ---- */

static void test_a_flood_sits_out_for_who_has_less(void **state)
{
    (void)state;
    ag_sched_conf conf = conf_plain;
    conf.short_us = 100000;
    bench *b = begin(&conf);
    teach(b);
    ask *f[10];
    for (uint32_t i = 0; i < 10; i++) f[i] = ask_for(b, "flood", 2, 5, 400);
    steps(b, 3);
    ask *x = ask_for(b, "x", 2, 200, 5);
    steps(b, 1);
    assert_int_equal(x->rows, 200);
    assert_int_equal(b->step->decodes, 0);
    steps(b, 1);
    assert_int_equal(f[0]->rows, 1);
    until_end(b, x);
    ask *y = ask_for(b, "y", 2, 2000, 5); /* not for long: short_us, and the step that goes beyond it */
    uint64_t had = b->now, worst = 0;
    for (uint32_t i = 0; answered(y) == 0; i++) {
        assert_true(i < 200);
        steps(b, 1);
        if (f[0]->rows) had = b->now;
        worst = AG_MAX(worst, b->now - had);
    }
    assert_in_range(worst, conf.short_us / 2, 2 * conf.short_us);
    finish(b);
}

/* Where the flood's own steps are long it sits out four of them, and then goes on for as long, by the weights. */
static void test_who_sat_out_goes_on_for_as_long(void **state)
{
    (void)state;
    for (uint32_t weight = 1; weight <= 3; weight += 2) {
        bench *b = begin(&conf_plain);
        b->row_us = 10000;
        teach(b);
        ask *f[20];
        for (uint32_t i = 0; i < 20; i++) {
            f[i] = make(b, "flood", weight, 2, 5, 2000);
            assert_int_equal(submit(b, f[i]), AG_OK);
        }
        steps(b, 30); /* eight of them decode: 90 ms a step */
        ask *x = ask_for(b, "x", 2, 1000, 5); /* 10 s alone, in the place of one of them */
        uint64_t sat = 0, ran = 0, row = 0, worst = 0;
        while (answered(x) == 0) {
            uint64_t from = b->now;
            steps(b, 1);
            if (x->seq.running) *(f[0]->rows ? &ran : &sat) += b->now - from;
            row = f[0]->rows ? 0 : row + b->now - from;
            worst = AG_MAX(worst, row);
        }
        assert_in_range(worst, 200000, 450000); /* four steps, and the one under way */
        assert_true(weight * sat > ran / 2 && weight * sat < ran + 4 * worst);
        finish(b);
    }
}

/* And for one step more where that ends the prompt. */
static void test_a_prompts_end_is_waited_for(void **state)
{
    (void)state;
    bench *b = begin(&conf_plain);
    b->row_us = 10000;
    teach(b);
    for (uint32_t i = 0; i < 20; i++) ask_for(b, "flood", 2, 5, 2000);
    steps(b, 30); /* eight of them decode */
    uint64_t from = b->now;
    steps(b, 1);
    uint64_t step = b->now - from - b->row_us; /* one of them gives its place */
    ask *x = ask_for(b, "x", 2, (uint32_t)(9 * step / 2 / b->row_us), 5), *y;
    from = b->now;
    steps(b, 1);
    assert_int_equal(b->step->decodes, 0);
    assert_int_equal(x->rows, x->seq.n_prompt);
    assert_in_range(b->now - from, 4 * step, 5 * step);
    until_end(b, x);
    steps(b, 10);
    y = ask_for(b, "y", 2, (uint32_t)(6 * step / b->row_us), 5); /* longer: in two parts */
    from = b->now;
    steps(b, 1);
    assert_int_equal(b->step->decodes, 0);
    assert_in_range(b->now - from, 3 * step, 4 * step);
    assert_true(y->rows < y->seq.n_prompt);
    steps(b, 1);
    assert_true(b->step->decodes > 1);
    finish(b);
}

/* Few streams with nobody waiting are no flood. */
static void test_streams_within_their_share_do_not_sit_out(void **state)
{
    (void)state;
    bench *b = begin(&conf_plain);
    teach(b);
    ask *f[4];
    for (uint32_t i = 0; i < 4; i++) f[i] = ask_for(b, "streams", 2, 5, 400);
    steps(b, 3);
    ask *x = ask_for(b, "x", 2, 200, 5);
    steps(b, 1);
    assert_true(x->rows > 0 && x->rows < 64);
    for (uint32_t i = 0; i < 4; i++) assert_int_equal(f[i]->rows, 1);
    finish(b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_alone_without_limit),
        cmocka_unit_test(test_unknown_machine_is_tried_with_little),
        cmocka_unit_test(test_a_prompt_beside_decodes_keeps_the_ratio),
        cmocka_unit_test(test_a_gap_holds_for_the_more_urgent),
        cmocka_unit_test(test_a_short_prompt_has_the_gap),
        cmocka_unit_test(test_steps_as_long_as_the_gap),
        cmocka_unit_test(test_a_least_of_rows_in_any_case),
        cmocka_unit_test(test_a_backlog_may_take_the_step_that_it_will_make),
        cmocka_unit_test(test_a_backlog_of_the_less_urgent_lengthens_no_step),
        cmocka_unit_test(test_a_backlog_has_its_limit),
        cmocka_unit_test(test_a_short_prompt_passes_a_long_one),
        cmocka_unit_test(test_two_prompts_share_the_budget),
        cmocka_unit_test(test_an_urgent_prompt_has_the_step_alone),
        cmocka_unit_test(test_an_urgent_prompt_keeps_the_limit_for_its_equals),
        cmocka_unit_test(test_the_less_urgent_do_not_lengthen_an_urgent_step),
        cmocka_unit_test(test_nobody_sits_out_for_ever),
        cmocka_unit_test(test_move),
        cmocka_unit_test(test_a_flood_sits_out_for_who_has_less),
        cmocka_unit_test(test_who_sat_out_goes_on_for_as_long),
        cmocka_unit_test(test_a_prompts_end_is_waited_for),
        cmocka_unit_test(test_streams_within_their_share_do_not_sit_out),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
