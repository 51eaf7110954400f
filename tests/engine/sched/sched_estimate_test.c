/* What the scheduler expects, and whom it refuses or sets back for it: by a machine that it has come to know. */
#include "engine/sched/sched_bench.h"
#include "engine/sched/sched_inner.h"

/* Several answers of one request: that the first was taken by an idle server holds for all of them. */
static void test_answers_of_one_request_are_taken_together(void **state)
{
    (void)state;
    bench *b = begin(&conf_plain);
    teach(b);
    ask *a[3];
    for (uint32_t i = 0; i < 3; i++) {
        a[i] = make(b, "t", 1, 2, 200, 1000);
        a[i]->seq.q.deadline_us = b->now + 100000; /* ten steps */
        if (i > 0) a[i - 1]->seq.q.newer = &a[i]->seq.q;
    }
    assert_int_equal(ag_sched_submit_all(b->s, &a[0]->seq, b->now, NULL, NULL), AG_OK);
    while (ag_sched_busy(b->s)) (void)step(b);
    assert_int_equal(a[0]->out, 1 + AG_OUT_TIMEOUT);
    assert_int_equal(a[1]->out, 1 + AG_OUT_TIMEOUT);
    assert_int_not_equal(a[2]->out, 0);
    assert_true(b->now >= a[0]->seq.q.deadline_us && stats(b).refused_late == 0); /* nobody before it was time */
    finish(b);
}

/* Nor is the first refused when its turn comes, because the others of its request wait. */
static void test_the_first_of_a_request_is_not_late_for_the_others(void **state)
{
    (void)state;
    bench *b = begin(&conf_plain);
    teach(b);
    until_end(b, ask_for(b, "t", 2, 5, 100));
    ask_for(b, "t", 2, 5, 3000);
    steps(b, 100);
    ask *a[2];
    for (uint32_t i = 0; i < 2; i++) {
        a[i] = make(b, "t", 1, 2, 20, 100);
        a[i]->seq.q.deadline_us = b->now + 1300000; /* they take a second, and half as much again may be asked */
    }
    a[0]->seq.q.newer = &a[1]->seq.q;
    assert_int_equal(ag_sched_submit_all(b->s, &a[0]->seq, b->now, NULL, NULL), AG_OK);
    for (uint32_t i = 0; i < 2; i++) until_end(b, a[i]);
    finish(b);
}

/* One stream runs: it is served slowly, since it is alone. That says nothing about those who come to free places. */
static void test_free_places_are_not_waited_for(void **state)
{
    (void)state;
    bench *b = begin(&conf_plain);
    teach(b);
    until_end(b, ask_for(b, "t", 2, 5, 200)); /* so long are its answers */
    ask_for(b, "t", 2, 5, 3000);
    steps(b, 1000);
    ask *a[6];
    for (uint32_t i = 0; i < 6; i++) {
        a[i] = make(b, "t", 1, 2, 50, 200);
        a[i]->seq.q.deadline_us = b->now + 8000000; /* they take 3 s */
        assert_int_equal(submit(b, a[i]), AG_OK);
    }
    ag_sched_wait wait;
    ag_sched_wait_get(b->s, &a[5]->seq, b->now, &wait);
    assert_int_equal(wait.position, 6);
    uint64_t from = b->now;
    while (!a[5]->seq.running) steps(b, 1);
    assert_in_range(wait.wait_us, (b->now - from) / 2, 2 * (b->now - from)); /* for the prompts ahead */
    for (uint32_t i = 0; i < 6; i++) until_end(b, a[i]);
    assert_true(b->now < from + 5000000);
    finish(b);
}

/* How many of a burst of n are taken; they are the first of them, and all who are taken are in time. */
static uint32_t burst(bench *b, uint32_t n, uint32_t n_prompt, uint64_t timeout_us)
{
    ask *a[MANY];
    uint32_t taken = 0;
    for (uint32_t i = 0; i < n; i++) {
        a[i] = make(b, "t", 1, 2, n_prompt, 100);
        a[i]->seq.q.deadline_us = b->now + timeout_us;
        int rc = submit(b, a[i]);
        assert_true(rc == AG_E_DEADLINE || (rc == AG_OK && taken == i));
        taken += rc == AG_OK;
    }
    for (uint32_t i = 0; i < taken; i++) until_end(b, a[i]);
    return taken;
}

/* As many at once as there are places: none waits for another's answer, and one more would. */
static void test_a_burst_finds_room(void **state)
{
    (void)state;
    bench *b = begin(&conf_plain);
    teach(b);
    until_end(b, ask_for(b, "t", 2, 5, 100)); /* answers are as long as they may be */
    assert_int_equal(burst(b, 9, 50, 1800000), 8); /* together they take 1.1 s */
    finish(b);
}

/* But each slows the others down, more so where rows are dear. */
static void test_a_burst_is_as_slow_as_it_is_large(void **state)
{
    (void)state;
    ag_sched_conf conf = conf_plain;
    conf.short_us = 200000;
    bench *b = begin(&conf);
    b->row_us = 3000;
    teach(b);
    until_end(b, ask_for(b, "t", 2, 5, 100));
    assert_in_range(burst(b, 8, 50, 3000000), 3, 7); /* 13 ms a step alone, 34 together */
    finish(b);
}

/* Their prompts alone may take too long. */
static void test_prompts_ahead_are_waited_for(void **state)
{
    (void)state;
    ag_sched_conf conf = conf_plain;
    conf.pages = 3000;
    bench *b = begin(&conf);
    b->row_us = 1000;
    teach(b);
    until_end(b, ask_for(b, "t", 2, 5, 100));
    ask *late = make(b, "t", 1, 3, 10, 10), *can = make(b, "t", 1, 3, 10, 10);
    uint64_t from = b->now;
    for (uint32_t i = 0; i < 3; i++) ask_for(b, "t", 2, 2000, 10);
    late->seq.q.deadline_us = from + 4000000;
    can->seq.q.deadline_us = from + 40000000;
    assert_int_equal(submit(b, late), AG_E_DEADLINE);
    assert_int_equal(submit(b, can), AG_OK);
    ag_sched_wait wait;
    ag_sched_wait_get(b->s, &can->seq, b->now, &wait);
    while (!can->seq.running) steps(b, 1);
    assert_in_range(wait.wait_us, (b->now - from) / 2, 2 * (b->now - from));
    finish(b);
}

/* There are places, but too few pages for it and all who are ahead. */
static void test_a_burst_waits_for_pages(void **state)
{
    (void)state;
    ag_sched_conf conf = conf_plain;
    conf.pages = 200; /* for three of them */
    bench *b = begin(&conf);
    teach(b);
    for (uint32_t i = 0; i < 4; i++) until_end(b, ask_for(b, "t", 2, 5, 400));
    assert_int_equal(burst(b, 4, 150, 1900000), 3); /* 1.2 s alone */
    finish(b);
}

/* A short prompt beside a stream takes the gap, and is let in by what that takes, not by the ratio's rows a step. */
static void test_short_prompts_are_expected_to_have_the_gap(void **state)
{
    (void)state;
    ag_sched_conf conf = conf_plain;
    conf.short_us = 40000;
    bench *b = begin(&conf);
    teach(b);
    until_end(b, ask_for(b, "t", 2, 5, 10));
    ask_for(b, "t", 2, 5, 3000);
    steps(b, 100);
    ask *a = make(b, "t", 1, 2, 200, 10); /* 30 ms of prompt, and ten steps of 10 ms */
    uint64_t from = b->now;
    a->seq.q.deadline_us = from + 180000; /* by the ratio it would take 280 ms */
    assert_int_equal(submit(b, a), AG_OK);
    until_end(b, a);
    assert_int_equal(a->out, 0);
    assert_true(b->now < from + 200000);
    finish(b);
}

/* A stream that outgrew what was expected of it holds the only place: it may be long until it ends. */
static void test_who_outgrew_the_expected_is_not_about_to_end(void **state)
{
    (void)state;
    ag_sched_conf conf = conf_plain;
    conf.running_max = 1;
    bench *b = begin(&conf);
    teach(b);
    ask *d = ask_for(b, "t", 2, 5, 3000);
    ag_queue_learn(ag_sched_queue(b->s), d->seq.q.tenant, 10, 3000); /* its answers are short */
    steps(b, 1000); /* of 10 ms: half of that again is expected */
    ask *late = make(b, "t", 1, 2, 5, 10), *can = make(b, "t", 1, 2, 5, 10);
    uint64_t retry = 0;
    late->seq.q.deadline_us = b->now + 4000000;
    assert_int_equal(ag_sched_submit(b->s, &late->seq, b->now, &retry, NULL), AG_E_DEADLINE);
    assert_in_range(retry, 1, 3000000);
    can->seq.q.deadline_us = b->now + 8000000;
    assert_int_equal(submit(b, can), AG_OK);
    finish(b);
}

/* There are places, but too few pages: who needs them waits for those who hold them. */
static void test_pages_are_waited_for_as_places_are(void **state)
{
    (void)state;
    ag_sched_conf conf = conf_plain;
    conf.pages = 260;
    bench *b = begin(&conf);
    teach(b);
    ask *d = ask_for(b, "t", 2, 5, 900);
    steps(b, 600);
    ask *late = make(b, "t", 1, 2, 500, 10), *small = make(b, "t", 1, 2, 20, 10), *w = make(b, "t", 1, 2, 500, 10);
    late->seq.q.deadline_us = small->seq.q.deadline_us = b->now + 2000000; /* d has 300 steps of 10 ms before it */
    assert_int_equal(submit(b, late), AG_E_DEADLINE);
    assert_int_equal(submit(b, small), AG_OK);
    until_end(b, small);
    assert_int_equal(submit(b, w), AG_OK);
    steps(b, 1);
    ag_sched_wait wait;
    ag_sched_wait_get(b->s, &w->seq, b->now, &wait);
    uint64_t from = b->now;
    assert_int_not_equal(b->s->blocked, 0);
    ask *sooner = make(b, "t", 1, 2, 20, 10), *after = make(b, "t", 1, 2, 20, 10);
    sooner->seq.q.deadline_us = after->seq.q.deadline_us = b->now + 1000000;
    after->seq.q.band = 3;
    assert_int_equal(submit(b, after), AG_E_DEADLINE); /* behind w */
    assert_int_equal(submit(b, sooner), AG_OK);        /* w has no deadline: before it */
    until_end(b, sooner);
    until_end(b, d);
    assert_in_range(wait.wait_us, (b->now - from) / 2, 2 * (b->now - from));
    until_end(b, w);
    finish(b);
}

/* Many run: each has its part of the rate, and the one that ends first is waited for. */
static void test_places_of_many_are_waited_for(void **state)
{
    (void)state;
    ag_sched_conf conf = conf_plain;
    conf.pages = 4000;
    bench *b = begin(&conf);
    teach(b);
    until_end(b, ask_for(b, "t", 2, 5, 100)); /* answers are as long as they may be */
    for (uint32_t i = 0; i < conf.running_max; i++) ask_for(b, "t", 2, 5, 600 + 100 * i);
    steps(b, 400);
    ask *late = make(b, "t", 1, 2, 5, 10), *w = make(b, "t", 1, 2, 5, 10);
    late->seq.q.deadline_us = b->now + 1000000;
    assert_int_equal(submit(b, late), AG_E_DEADLINE);
    assert_int_equal(submit(b, w), AG_OK);
    ag_sched_wait wait;
    ag_sched_wait_get(b->s, &w->seq, b->now, &wait);
    uint64_t from = b->now;
    while (!w->seq.running) steps(b, 1);
    assert_in_range(wait.wait_us, (b->now - from) * 2 / 3, (b->now - from) * 3 / 2);
    finish(b);
}

/* Nobody knows how long each answer gets: of many one ends soon. Nor does the batch work as slowly as one that ran alone
 * before it. */
static void test_of_many_that_end_at_any_time_one_ends_soon(void **state)
{
    (void)state;
    ag_sched_conf conf = conf_plain;
    conf.pages = 4000;
    bench *b = begin(&conf);
    teach(b);
    ask *d = ask_for(b, "t", 2, 5, 3000);
    ag_queue_learn(ag_sched_queue(b->s), d->seq.q.tenant, 400, 3000);
    steps(b, 1000);
    for (uint32_t i = 1; i < conf.running_max; i++) ask_for(b, "t", 2, 5, 3000);
    steps(b, 10); /* 390 tokens are left of each, of which 11 ms bring one */
    ask *w = make(b, "t", 1, 2, 5, 10);
    assert_int_equal(submit(b, w), AG_OK);
    ag_sched_wait wait;
    ag_sched_wait_get(b->s, &w->seq, b->now, &wait);
    assert_in_range(wait.wait_us, 400 * 11000 / 8 / 2, 400 * 11000 / 8 * 2);
    finish(b);
}

/* All places are taken, by those who will give one up: nobody has to end. */
static void test_who_will_be_set_back_is_not_waited_for(void **state)
{
    (void)state;
    for (uint32_t kind = 0; kind < 3; kind++) {
        ag_sched_conf conf = conf_plain;
        conf.running_max = 2;
        bench *b = begin(&conf);
        teach(b);
        for (uint32_t i = 0; i < 2; i++) ask_for(b, "a", 2, 5, 1500);
        steps(b, 500);
        ask *w = make(b, kind == 0 ? "b" : "a", 1, kind == 1 ? 1 : 2, 5, 10);
        w->seq.q.deadline_us = b->now + 1000000; /* under its share; more urgent; neither */
        assert_int_equal(submit(b, w), kind == 2 ? AG_E_DEADLINE : AG_OK);
        if (kind < 2) until_end(b, w);
        finish(b);
    }
}

/* Too few pages for all of its prompt, but somebody computes the beginning: it has a place at once, and waits for that. */
static void test_promised_pages_are_not_asked_for(void **state)
{
    (void)state;
    ag_sched_conf conf = conf_plain;
    conf.pages = 400;
    conf.rows_max = 64;
    bench *b = begin(&conf);
    teach(b);
    ask *first = ask_for(b, "t", 2, 1000, 500);
    steps(b, 1);
    assert_true(first->seq.running && first->seq.computed < 200);
    ask *same = make(b, "t", 1, 2, 1000, 5);
    memcpy(same->tokens, first->tokens, 996 * sizeof *same->tokens);
    same->seq.q.deadline_us = b->now + 1000000;
    assert_int_equal(submit(b, same), AG_OK);
    until_end(b, same);
    assert_int_equal(same->out, 0);
    assert_false(ended(first));
    finish(b);
}

/* Kept pages that it will use itself are none that it could take for the rest. */
static void test_pages_found_are_not_counted_twice(void **state)
{
    (void)state;
    ag_sched_conf conf = conf_plain;
    conf.pages = 260;
    bench *b = begin(&conf);
    teach(b);
    ask *before = ask_for(b, "t", 2, 500, 4);
    until_end(b, before);
    ask *d = ask_for(b, "t", 2, 100, 800);
    steps(b, 420); /* 130 pages: all but those kept, and four */
    ask *w = make(b, "t", 1, 2, 540, 10);
    memcpy(w->tokens, before->tokens, 500 * sizeof *w->tokens);
    w->seq.q.deadline_us = b->now + 1500000; /* it needs 136: 125 are there, the rest are not; d has 380 steps */
    assert_int_equal(submit(b, w), AG_E_DEADLINE);
    until_end(b, d);
    finish(b);
}

/* The head found too few pages, and is gone: those who come after it are counted as who will find a place. */
static void test_who_was_in_the_way_and_left_is_in_nobodys_way(void **state)
{
    (void)state;
    ag_sched_conf conf = conf_plain;
    conf.pages = 100;
    bench *b = begin(&conf);
    teach(b);
    ask *d = ask_for(b, "t", 2, 200, 150);
    steps(b, 60);
    ask *head = ask_for(b, "t", 2, 300, 10);
    steps(b, 1);
    assert_true(head->seq.q.queued);
    assert_int_not_equal(b->s->blocked, 0);
    ag_sched_drop(b->s, &head->seq, false);
    assert_int_equal(b->s->blocked, 0);
    until_end(b, d);
    finish(b);
}

/* Where a token of an answer counts nothing, steps without prompts are no service, and no want of it either. */
static void test_the_rate_is_of_steps_that_serve(void **state)
{
    (void)state;
    ag_sched_conf conf = conf_plain;
    conf.queue.output_weight = 0;
    bench *b = begin(&conf);
    teach(b);
    double rate = stats(b).service_rate;
    assert_true(rate > 0);
    ask *d = ask_for(b, "t", 2, 5, 3000);
    until_end(b, d);
    assert_true(stats(b).service_rate > rate / 2);
    finish(b);
}

/* What many share comes free when the last of them goes: it counts once. */
static void test_nobody_is_set_back_in_vain(void **state)
{
    (void)state;
    ag_sched_conf conf = conf_plain;
    conf.pages = 24;
    bench *b = begin(&conf);
    ask *e = ask_for(b, "e", 1, 30, 8), *d[4]; /* 8 pages, and 10 in the end */
    steps(b, 2);
    for (uint32_t i = 0; i < 4; i++) {
        d[i] = make(b, "t", 1, 3, 33, 3); /* 8 pages that all have, and one each */
        memcpy(d[i]->tokens, d[0]->tokens, 32 * sizeof *d[0]->tokens);
        assert_int_equal(submit(b, d[i]), AG_OK);
    }
    steps(b, 2);
    for (uint32_t i = 0; i < 4; i++) assert_true(d[i]->seq.running);
    ask *u = ask_for(b, "u", 1, 60, 4); /* 16 */
    steps(b, 1);
    assert_false(u->seq.running);
    for (uint32_t i = 0; i < 4; i++) assert_int_equal(d[i]->set_back, 0);
    until_end(b, e);
    until_end(b, u);
    for (uint32_t i = 0; i < 4; i++) until_end(b, d[i]);
    finish(b);
}

/* Nor where only some of those may go who would have to: each that goes lessens what their tenant has. */
static void test_shares_are_counted_as_they_will_be(void **state)
{
    (void)state;
    ag_sched_conf conf = conf_plain;
    conf.pages = 24;
    bench *b = begin(&conf);
    ask *d[3];
    for (uint32_t i = 0; i < 3; i++) d[i] = ask_for(b, "t", 2, 28, 4); /* 8 pages */
    steps(b, 2);
    for (uint32_t i = 0; i < 3; i++) assert_true(d[i]->seq.running);
    ask *u = ask_for(b, "u", 2, 72, 4); /* 19: two may go, and three would have to */
    steps(b, 1);
    assert_int_equal(d[0]->set_back + d[1]->set_back + d[2]->set_back, 0);
    until_end(b, u);
    for (uint32_t i = 0; i < 3; i++) until_end(b, d[i]);
    /* Two are enough. */
    for (uint32_t i = 0; i < 3; i++) d[i] = ask_for(b, "t", 2, 28, 4);
    steps(b, 2);
    u = ask_for(b, "u", 2, 56, 4); /* 15 */
    steps(b, 1);
    assert_true(u->seq.running);
    assert_int_equal(d[0]->set_back + d[1]->set_back + d[2]->set_back, 2);
    until_end(b, u);
    finish(b);
}

/* One after another, as embeddings of one request come: what has begun is not refused for want of time. */
static void test_what_has_begun_goes_on(void **state)
{
    (void)state;
    bench *b = begin(&conf_plain);
    teach(b);
    ask *a[3];
    for (uint32_t i = 0; i < 3; i++) {
        a[i] = make(b, "t", 1, 2, 200, 1000);
        a[i]->seq.q.deadline_us = b->now + 100000; /* ten steps */
        a[i]->seq.sure = i == 1;
        assert_int_equal(submit(b, a[i]), i == 2 ? AG_E_DEADLINE : AG_OK);
    }
    finish(b);
}

/* Whoever rose by age has the next place; when it has one, it is no more urgent than those that it rose to. */
static void test_age_does_not_stop_the_others(void **state)
{
    (void)state;
    ag_sched_conf conf = conf_plain;
    conf.running_max = 3;
    bench *b = begin(&conf);
    teach(b);
    ask *d[3];
    for (uint32_t i = 0; i < 3; i++) d[i] = ask_for(b, "t", 1, 5, i > 0 ? 3000 : 150);
    steps(b, 3);
    ask *w = ask_for(b, "t", 2, 600, 5);
    until_end(b, d[0]);
    assert_true(w->seq.q.queued && w->seq.q.level < 2);
    for (uint32_t i = 0; !ended(w); i++) {
        assert_true(i < 400);
        steps(b, 1);
        assert_int_equal(d[1]->rows + d[2]->rows, 2);
        assert_in_range(w->rows, 1, 60);
    }
    finish(b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_answers_of_one_request_are_taken_together),
        cmocka_unit_test(test_the_first_of_a_request_is_not_late_for_the_others),
        cmocka_unit_test(test_free_places_are_not_waited_for),
        cmocka_unit_test(test_a_burst_finds_room),
        cmocka_unit_test(test_a_burst_is_as_slow_as_it_is_large),
        cmocka_unit_test(test_prompts_ahead_are_waited_for),
        cmocka_unit_test(test_a_burst_waits_for_pages),
        cmocka_unit_test(test_short_prompts_are_expected_to_have_the_gap),
        cmocka_unit_test(test_who_outgrew_the_expected_is_not_about_to_end),
        cmocka_unit_test(test_pages_are_waited_for_as_places_are),
        cmocka_unit_test(test_places_of_many_are_waited_for),
        cmocka_unit_test(test_of_many_that_end_at_any_time_one_ends_soon),
        cmocka_unit_test(test_who_will_be_set_back_is_not_waited_for),
        cmocka_unit_test(test_promised_pages_are_not_asked_for),
        cmocka_unit_test(test_pages_found_are_not_counted_twice),
        cmocka_unit_test(test_who_was_in_the_way_and_left_is_in_nobodys_way),
        cmocka_unit_test(test_the_rate_is_of_steps_that_serve),
        cmocka_unit_test(test_nobody_is_set_back_in_vain),
        cmocka_unit_test(test_shares_are_counted_as_they_will_be),
        cmocka_unit_test(test_what_has_begun_goes_on),
        cmocka_unit_test(test_age_does_not_stop_the_others),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
