/* Whom the scheduler lets in, sets back and puts out: places, pages, prefixes, charges, deadlines. */
#include "base/fault.h"
#include "engine/sched/sched_bench.h"

/* ---- places and pages ---- */

static void test_an_urgent_one_takes_the_newest_place(void **state)
{
    (void)state;
    ag_sched_conf conf = conf_plain;
    conf.running_max = 3;
    bench *b = begin(&conf);
    ask *d[3];
    for (uint32_t i = 0; i < 3; i++) d[i] = ask_for(b, "t", 2 + (i > 0), 5, 40);
    steps(b, 4);
    int32_t first[TOKENS];
    uint32_t had = d[2]->seq.n_tokens;
    memcpy(first, d[2]->tokens, sizeof first);
    ask *u = ask_for(b, "t", 1, 6, 5);
    steps(b, 1);
    assert_int_equal(d[2]->set_back, 1);
    assert_int_equal(d[0]->set_back + d[1]->set_back, 0);
    assert_true(d[2]->seq.q.queued && u->rows == 6);
    until_end(b, u);
    until_end(b, d[2]);
    assert_int_equal(d[2]->admitted, 1); /* an event of the first time only */
    assert_memory_equal(first, d[2]->tokens, had * sizeof *first);
    assert_int_equal(stats(b).set_back_urgent, 1);
    assert_true(stats(b).again_rows <= PAGE); /* its full pages were still there */
    finish(b);
}

static void test_a_tenant_under_its_share_gets_a_place(void **state)
{
    (void)state;
    ag_sched_conf conf = conf_plain;
    conf.running_max = 4;
    bench *b = begin(&conf);
    for (uint32_t i = 0; i < 6; i++) ask_for(b, "flood", 2, 5, 60);
    steps(b, 3);
    ask *x = ask_for(b, "x", 2, 5, 5);
    steps(b, 1);
    assert_int_equal(x->rows, 5);
    assert_int_equal(stats(b).set_back_share, 1);
    ask *y = ask_for(b, "x", 2, 5, 5); /* two and two: both have their share */
    steps(b, 1);
    assert_int_equal(y->seq.running, stats(b).set_back_share == 2);
    uint64_t before = stats(b).set_back_share;
    ask *z = ask_for(b, "x", 2, 5, 5);
    until_end(b, x);
    assert_true(stats(b).set_back_share <= before + 1); /* nobody takes turns */
    until_end(b, z);
    finish(b);
}

static void test_the_head_is_not_passed_by_smaller_ones(void **state)
{
    (void)state;
    ag_sched_conf conf = conf_plain;
    conf.pages = 20;
    bench *b = begin(&conf);
    ask *d = ask_for(b, "t", 2, 30, 20); /* 8 pages, 13 in the end */
    steps(b, 2);
    ask *large = ask_for(b, "t", 2, 60, 4), *small = ask_for(b, "t", 2, 4, 4);
    steps(b, 5);
    assert_int_equal(large->admitted + small->admitted, 0);
    ask *urgent = ask_for(b, "t", 1, 4, 4); /* but it blocks its own band and those below only */
    steps(b, 1);
    assert_int_equal(urgent->rows, 4);
    for (; !large->admitted; assert_true(step(b))) assert_int_equal(small->admitted, 0);
    until_end(b, large);
    until_end(b, small);
    until_end(b, d);
    finish(b);
}

/* However long it waits: age gives it the next place, and takes nobody's. */
static void test_age_sets_nobody_back(void **state)
{
    (void)state;
    ag_sched_conf conf = conf_plain;
    conf.pages = 20;
    bench *b = begin(&conf);
    ask *d = ask_for(b, "t", 2, 60, 20); /* 16 pages, 20 in the end */
    steps(b, 2);
    ask *w[] = {ask_for(b, "t", 2, 40, 4), ask_for(b, "t", 2, 4, 4)};
    b->now += conf.queue.age_us; /* both before they are tried, and after */
    steps(b, 1);
    b->now += conf.queue.age_us;
    steps(b, 1);
    assert_true(w[0]->seq.q.level < 2);
    assert_int_equal(w[0]->admitted + w[1]->admitted + d->set_back, 0);
    until_end(b, d);
    steps(b, 1);
    assert_int_equal(w[0]->admitted, 1);
    until_end(b, w[0]);
    until_end(b, w[1]);
    finish(b);
}

/* Whoever rose by age has its place for a while, and then goes as anybody does who asked for no more. */
static void test_who_rose_gives_way_to_the_urgent(void **state)
{
    (void)state;
    ag_sched_conf conf = conf_plain;
    conf.running_max = 2;
    bench *b = begin(&conf);
    ask *d[] = {ask_for(b, "t", 2, 5, 10), ask_for(b, "t", 2, 5, 10)};
    steps(b, 2);
    ask *w[] = {ask_for(b, "t", 2, 5, 1000), ask_for(b, "t", 2, 5, 1000)};
    for (int i = 0; i < 4; i++) {
        b->now += conf.queue.age_us;
        steps(b, 1);
    }
    assert_int_equal(w[0]->seq.q.level + w[1]->seq.q.level, 0);
    until_end(b, d[0]);
    until_end(b, d[1]);
    steps(b, 2);
    assert_true(w[0]->seq.running && w[1]->seq.running);
    ask *u = ask_for(b, "t", 0, 4, 4);
    steps(b, 1);
    assert_false(u->seq.running);
    b->now += conf.queue.age_us / 16;
    steps(b, 1);
    assert_int_equal(u->rows, 4);
    assert_int_equal(w[0]->set_back + w[1]->set_back, 1);
    until_end(b, u);
    until_end(b, w[0]);
    until_end(b, w[1]);
    finish(b);
}

/* One that rose and finds no place may set nobody back; but nor may the urgent wait behind it. */
static void test_who_rose_does_not_block_the_urgent(void **state)
{
    (void)state;
    ag_sched_conf conf = conf_plain;
    conf.running_max = 1;
    bench *b = begin(&conf);
    ask *d = ask_for(b, "t", 2, 5, 2000);
    steps(b, 2);
    ask *w = ask_for(b, "t", 2, 5, 1000);
    b->now += conf.queue.age_us;
    steps(b, 1);
    assert_int_equal(w->seq.q.level, 1);
    ask *u = ask_for(b, "t", 1, 4, 4);
    assert_ptr_equal(ag_queue_head(ag_sched_queue(b->s), b->now), &w->seq.q);
    for (uint64_t until = b->now + conf.queue.age_us / 8; b->now < until && u->rows == 0;) steps(b, 1);
    assert_int_equal(u->rows, 4);
    until_end(b, u);
    until_end(b, w);
    until_end(b, d);
    finish(b);
}

/* Everybody's answer outgrows the cache: the newest go back, the oldest is never held up, all end. */
static void test_out_of_pages(void **state)
{
    (void)state;
    ag_sched_conf conf = conf_plain;
    conf.pages = 24;
    bench *b = begin(&conf);
    ask *d[6];
    for (uint32_t i = 0; i < 6; i++) d[i] = ask_for(b, "t", 2, 8, 60);
    for (uint32_t i = 0; !ended(d[0]); i++) {
        assert_true(i < 70);
        steps(b, 1);
    }
    assert_int_equal(d[0]->set_back, 0);
    assert_true(stats(b).set_back_pages > 0);
    for (uint32_t i = 1; i < 6; i++) until_end(b, d[i]);
    finish(b);
}

static void test_it_can_never_fit(void **state)
{
    (void)state;
    ag_sched_conf conf = conf_plain;
    conf.pages = 10;
    bench *b = begin(&conf);
    ask *a = make(b, "t", 1, 2, 30, 11);
    ag_err err = {0};
    uint64_t retry;
    assert_int_equal(ag_sched_submit(b->s, &a->seq, b->now, &retry, &err), AG_E_PARAM);
    assert_non_null(strstr(err.text, "11 pages"));
    a->seq.max_tokens = 10;
    assert_int_equal(submit(b, a), AG_OK);
    until_end(b, a);
    finish(b);
}

/* ---- prefixes ---- */

static void same_prefix(ask *a, const ask *as, uint32_t n) { memcpy(a->tokens, as->tokens, n * sizeof *a->tokens); }

static void test_a_prefix_is_computed_once(void **state)
{
    (void)state;
    bench *b = begin(&conf_plain);
    ask *a[5];
    for (uint32_t i = 0; i < 5; i++) {
        a[i] = make(b, "t", 1, 2, 202, 4);
        if (i > 0) same_prefix(a[i], a[0], 200);
        if (i == 4) a[i]->seq.salt = 8; /* somebody else's */
        assert_int_equal(submit(b, a[i]), AG_OK);
    }
    steps(b, 1);
    assert_int_equal(a[0]->rows, 202);
    assert_int_equal(a[1]->rows + a[2]->rows + a[3]->rows, 0);
    assert_true(a[1]->seq.running);
    uint64_t charged = a[1]->seq.charged;
    steps(b, 1);
    assert_int_equal(a[1]->seq.charged, charged - 200); /* another one computed that for it */
    assert_int_equal(a[1]->rows, 2);
    assert_int_equal(a[1]->seq.reused, 200);
    for (uint32_t i = 0; i < 5; i++) until_end(b, a[i]);
    assert_int_equal(a[4]->seq.reused, 0);
    assert_int_equal(stats(b).prompt_rows, 2 * 202 + 3 * 2);
    assert_int_equal(stats(b).reused_tokens, 3 * 200);
    ask *later = make(b, "t", 1, 2, 202, 4);
    same_prefix(later, a[0], 202);
    assert_int_equal(submit(b, later), AG_OK);
    steps(b, 1);
    assert_int_equal(later->rows, 2); /* the last token of a prompt is computed in any case: 200 is a page's edge */
    finish(b);
}

static void test_who_waits_goes_on_when_the_other_leaves(void **state)
{
    (void)state;
    bench *b = begin(&conf_plain);
    ask *a = ask_for(b, "t", 2, 602, 4), *w = make(b, "t", 1, 2, 602, 4), *v = make(b, "t", 1, 2, 602, 4);
    same_prefix(w, a, 600);
    same_prefix(v, a, 600);
    assert_int_equal(submit(b, w), AG_OK);
    assert_int_equal(submit(b, v), AG_OK);
    steps(b, 2);
    ag_sched_drop(b->s, &a->seq, false); /* after 512 of 602 */
    steps(b, 1);
    assert_int_equal(w->seq.reused, 512);
    assert_int_equal(w->rows, 90);
    assert_int_equal(v->rows, 0);
    until_end(b, w);
    until_end(b, v);
    assert_int_equal(v->seq.reused, 600);
    finish(b);
}

/* A less urgent one computes what an urgent one waits for: it may not be kept from it. */
static void test_who_is_waited_for_is_as_urgent(void **state)
{
    (void)state;
    bench *b = begin(&conf_plain);
    teach(b);
    ask *a = ask_for(b, "t", 3, 602, 4), *m = ask_for(b, "m", 1, 900, 4);
    (void)m;
    steps(b, 1);
    ask *low = make(b, "t", 1, 3, 1202, 4);
    assert_int_equal(submit(b, low), AG_OK);
    for (uint32_t i = 0; i < 40 && !low->seq.running; i++) steps(b, 1);
    assert_true(low->seq.running && low->seq.computed < 1000);
    ask *u = make(b, "t", 1, 0, 1202, 4), *n = ask_for(b, "n", 1, 500, 4);
    same_prefix(u, low, 1200);
    assert_int_equal(submit(b, u), AG_OK);
    steps(b, 1);
    assert_true(u->seq.running && u->rows == 0);
    for (uint32_t i = 0; answered(u) == 0; i++) {
        assert_true(i < 100);
        steps(b, 1);
        assert_true(answered(u) > 0 || n->rows == 0);
    }
    assert_true(u->seq.reused >= 1000);
    until_end(b, a);
    finish(b);
}

static void test_scored_prompts_are_computed_whole(void **state)
{
    (void)state;
    bench *b = begin(&conf_plain);
    ask *a = ask_for(b, "t", 2, 60, 2);
    until_end(b, a);
    ask *p = make(b, "t", 1, 2, 60, 2);
    same_prefix(p, a, 60);
    p->seq.all_logits = true;
    p->seq.n_scored = 1;
    assert_int_equal(submit(b, p), AG_OK);
    steps(b, 1);
    assert_int_equal(p->rows, conf_plain.out_max); /* logits bound it */
    until_end(b, p);
    assert_int_equal(p->seq.n_scored, 60);
    assert_int_equal(p->seq.reused, 0);
    finish(b);
}

/* ---- charges ---- */

static void test_a_tenant_is_charged_what_it_got(void **state)
{
    (void)state;
    ag_sched_conf conf = conf_plain;
    conf.pages = 24;
    bench *b = begin(&conf);
    ask *d[6];
    for (uint32_t i = 0; i < 6; i++) d[i] = ask_for(b, i % 2 ? "odd" : "even", 2, 8, 20 + i);
    const ag_tenant *even = d[0]->seq.q.tenant, *odd = d[1]->seq.q.tenant;
    ag_queue_hold(ag_sched_queue(b->s), d[0]->seq.q.tenant);
    ag_queue_hold(ag_sched_queue(b->s), d[1]->seq.q.tenant);
    steps(b, 1);
    assert_true(even->service > 8 + 4); /* ahead of its tokens */
    for (uint32_t i = 0; i < 5; i++) until_end(b, d[i]);
    assert_int_equal(even->service, 3 * 8 + 4 * (20 + 22 + 24));
    if (!ended(d[5])) ag_sched_drop(b->s, &d[5]->seq, false); /* it went away: what it had is what it is charged */
    uint32_t got = answered(d[5]);
    assert_int_equal(odd->service, 2 * 8 + 4 * (21 + 23) + (got > 0 || d[5]->seq.prompt_done ? 8 : 0) + 4 * got);
    ag_queue_release(ag_sched_queue(b->s), d[0]->seq.q.tenant);
    ag_queue_release(ag_sched_queue(b->s), d[1]->seq.q.tenant);
    finish(b);
}

/* ---- deadlines ---- */

static void test_an_idle_server_does_not_refuse_by_estimate(void **state)
{
    (void)state;
    bench *b = begin(&conf_plain);
    teach(b);
    ask *a = make(b, "t", 1, 2, 200, 1000);
    a->seq.q.deadline_us = b->now + 100000; /* ten steps */
    assert_int_equal(submit(b, a), AG_OK);
    ask *c = make(b, "t", 1, 2, 200, 1000);
    c->seq.q.deadline_us = b->now + 50000;
    steps(b, 1);
    ag_err err = {0};
    uint64_t retry = 1;
    assert_int_equal(ag_sched_submit(b->s, &c->seq, b->now, &retry, &err), AG_E_DEADLINE);
    assert_int_equal(stats(b).refused_late, 1);
    c->seq.q.deadline_us = b->now + 1000000000;
    assert_int_equal(submit(b, c), AG_OK);
    ask *past = make(b, "t", 1, 2, 20, 10);
    past->seq.q.deadline_us = b->now;
    assert_int_equal(submit(b, past), AG_E_DEADLINE);
    while (a->out == 0) steps(b, 1);
    assert_int_equal(a->out, 1 + AG_OUT_TIMEOUT);
    assert_true(answered(a) > 3);
    assert_int_equal(stats(b).timed_out, 1);
    finish(b);
}

static void test_who_waits_too_long_is_out_before_it_cost_anything(void **state)
{
    (void)state;
    ag_sched_conf conf = conf_plain;
    conf.running_max = 1;
    conf.refuse_late = false;
    bench *b = begin(&conf);
    ask *d = ask_for(b, "t", 2, 5, 50), *w = make(b, "t", 1, 2, 5, 5);
    w->seq.q.deadline_us = b->now + 95000;
    steps(b, 1);
    assert_int_equal(submit(b, w), AG_OK);
    assert_int_equal(ag_sched_deadline(b->s), w->seq.q.deadline_us);
    ag_sched_expire(b->s, w->seq.q.deadline_us - 1);
    assert_int_equal(w->out, 0);
    assert_true(choose(b)); /* a step under way holds nobody who waits */
    ag_sched_expire(b->s, w->seq.q.deadline_us);
    assert_int_equal(w->out, 1 + AG_OUT_EXPIRED);
    assert_int_equal(w->seq.prompt_done, 0);
    assert_int_equal(ag_sched_deadline(b->s), UINT64_MAX);
    ag_sched_step_done(b->s, 100);
    (void)d;
    finish(b);
}

static void test_one_that_was_set_back_times_out_as_one_that_ran(void **state)
{
    (void)state;
    ag_sched_conf conf = conf_plain;
    conf.running_max = 1;
    conf.refuse_late = false;
    bench *b = begin(&conf);
    ask *d = make(b, "t", 1, 2, 5, 100);
    d->seq.q.deadline_us = b->now + 200000;
    assert_int_equal(submit(b, d), AG_OK);
    steps(b, 3);
    ask *u = ask_for(b, "t", 0, 5, 50);
    while (d->out == 0) steps(b, 1);
    assert_int_equal(d->set_back, 1);
    assert_int_equal(d->out, 1 + AG_OUT_TIMEOUT);
    assert_int_equal(answered(d), 3);
    until_end(b, u);
    finish(b);
}

static void test_the_queue_is_full(void **state)
{
    (void)state;
    ag_sched_conf conf = conf_plain;
    conf.running_max = 1;
    conf.queue.entries_max = 2;
    bench *b = begin(&conf);
    ask_for(b, "t", 2, 5, 50);
    steps(b, 2);
    ask *w = ask_for(b, "t", 3, 5, 50), *v = ask_for(b, "t", 3, 5, 50), *n = make(b, "t", 1, 3, 5, 50);
    uint64_t retry = 0;
    assert_int_equal(ag_sched_submit(b->s, &n->seq, b->now, &retry, NULL), AG_E_QUEUE_FULL);
    assert_true(retry > 0);
    ag_sched_wait wait;
    ag_sched_wait_get(b->s, &v->seq, b->now, &wait);
    assert_int_equal(wait.position, 2);
    assert_true(wait.wait_us > 0);
    n->seq.q.band = 1;
    assert_int_equal(submit(b, n), AG_OK);
    assert_int_equal(v->out, 1 + AG_OUT_DISPLACED);
    assert_int_equal(w->out, 0);
    assert_int_equal(stats(b).displaced, 1);
    finish(b);
}

/* Of a request's answers all are taken or none, and nobody has to go for those that are not. */
static void test_the_answers_of_a_request_find_room_together(void **state)
{
    (void)state;
    ag_sched_conf conf = conf_plain;
    conf.running_max = 1;
    conf.queue.entries_max = 3;
    bench *b = begin(&conf);
    ask_for(b, "t", 2, 5, 50);
    steps(b, 2);
    ask *low[2] = {ask_for(b, "t", 3, 5, 50), ask_for(b, "t", 3, 5, 50)}, *high = ask_for(b, "t", 1, 5, 50), *n[3];
    for (uint32_t i = 0; i < 3; i++) {
        n[i] = make(b, "u", 1, 2, 5, 50);
        if (i > 0) n[i - 1]->seq.q.newer = &n[i]->seq.q;
    }
    uint64_t retry = 0;
    assert_int_equal(ag_sched_submit_all(b->s, &n[0]->seq, b->now, &retry, NULL), AG_E_QUEUE_FULL);
    assert_true(retry > 0);
    for (uint32_t i = 0; i < 3; i++) assert_true(!n[i]->seq.q.queued && n[i]->seq.kv.pages == NULL);
    assert_true(low[0]->out == 0 && low[1]->out == 0 && high->out == 0);
    assert_int_equal(ag_sched_submit_all(b->s, &n[1]->seq, b->now, &retry, NULL), AG_OK);
    assert_int_equal(low[0]->out, 1 + AG_OUT_DISPLACED);
    assert_int_equal(low[1]->out, 1 + AG_OUT_DISPLACED);
    assert_true(high->out == 0 && n[1]->seq.q.queued && n[2]->seq.q.queued);
    until_end(b, n[2]);
    finish(b);
}

/* ---- memory ---- */

#ifdef AG_FAULTS
static void test_no_memory(void **state)
{
    (void)state;
    bool fired = true;
    for (uint32_t n = 1; fired; n++) {
        ag_sched *s = NULL;
        ask *a = calloc(2, sizeof *a);
        ag_fault_arm(AG_FAULT_ALLOC, n);
        int rc = ag_sched_open(&s, &conf_plain, NULL);
        ag_tenant *t = rc == AG_OK ? ag_queue_tenant(ag_sched_queue(s), AG_STR("t"), 1) : NULL;
        for (uint32_t i = 0; i < 2; i++)
            a[i].seq = (ag_seq){.q = {.tenant = t, .band = 2, .newer = i == 0 ? &a[1].seq.q : NULL},
                                .tokens = a[i].tokens,
                                .n_tokens = 5,
                                .n_prompt = 5,
                                .max_tokens = 5,
                                .salt = 7};
        if (rc == AG_OK) rc = t ? ag_sched_submit_all(s, &a[0].seq, 1, NULL, NULL) : AG_E_NOMEM;
        fired = ag_fault_disarm(AG_FAULT_ALLOC);
        assert_int_equal(rc, fired ? AG_E_NOMEM : AG_OK);
        for (uint32_t i = 0; rc == AG_OK && i < 2; i++) ag_sched_drop(s, &a[i].seq, false);
        ag_sched_close(s);
        free(a);
    }
}
#endif

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_an_urgent_one_takes_the_newest_place),
        cmocka_unit_test(test_a_tenant_under_its_share_gets_a_place),
        cmocka_unit_test(test_the_head_is_not_passed_by_smaller_ones),
        cmocka_unit_test(test_age_sets_nobody_back),
        cmocka_unit_test(test_who_rose_gives_way_to_the_urgent),
        cmocka_unit_test(test_who_rose_does_not_block_the_urgent),
        cmocka_unit_test(test_out_of_pages),
        cmocka_unit_test(test_it_can_never_fit),
        cmocka_unit_test(test_a_prefix_is_computed_once),
        cmocka_unit_test(test_who_waits_goes_on_when_the_other_leaves),
        cmocka_unit_test(test_who_is_waited_for_is_as_urgent),
        cmocka_unit_test(test_scored_prompts_are_computed_whole),
        cmocka_unit_test(test_a_tenant_is_charged_what_it_got),
        cmocka_unit_test(test_an_idle_server_does_not_refuse_by_estimate),
        cmocka_unit_test(test_who_waits_too_long_is_out_before_it_cost_anything),
        cmocka_unit_test(test_one_that_was_set_back_times_out_as_one_that_ran),
        cmocka_unit_test(test_the_queue_is_full),
        cmocka_unit_test(test_the_answers_of_a_request_find_room_together),
#ifdef AG_FAULTS
        cmocka_unit_test(test_no_memory),
#endif
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
