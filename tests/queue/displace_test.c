#include "queue_check.h"

static int try_push(ag_queue *q, ag_qent *e, ag_qent **out, ag_err *err)
{
    *err = (ag_err){0};
    return ag_queue_push(q, e, 0, out, err);
}

static void test_lower_bands_make_room(void **state)
{
    (void)state;
    ag_queue_conf conf = plain();
    conf.entries_max = 4;
    ag_queue *q = open_queue(conf);
    ag_tenant *a = tenant(q, "a", 1), *b = tenant(q, "b", 1);
    ag_qent e[4] = {entry(a, 3, 10), entry(b, 3, 50), entry(b, 3, 50), entry(a, 2, 10)}, *out;
    ag_qent more[4] = {entry(a, 1, 10), entry(a, 1, 10), entry(a, 1, 10), entry(a, 1, 10)}, last = entry(a, 1, 10);
    ag_err err;
    for (int i = 0; i < 4; i++) push(q, &e[i], 0);
    ag_qent *want[4] = {&e[2], &e[1], &e[0], &e[3]}; /* the newest of the most over-share, the lowest band first */
    for (int i = 0; i < 4; i++) {
        assert_int_equal(try_push(q, &more[i], &out, &err), AG_OK);
        assert_ptr_equal(out, want[i]);
        assert_null(out->newer);
        ag_queue_verify(q);
    }
    assert_int_equal(try_push(q, &last, &out, &err), AG_E_QUEUE_FULL); /* its own tenant has them all */
    assert_string_equal(err.text, "The queue is full: 4 requests wait, as many as may.");
    assert_false(last.queued);
    empty(q);
}

/* One tenant may fill the queue while nobody else wants it; then each comes to its share, and no further. */
static void fill_and_share(double weight, uint32_t want)
{
    enum { ROOM = 20 };
    ag_queue_conf conf = plain();
    conf.entries_max = ROOM;
    ag_queue *q = open_queue(conf);
    ag_tenant *a = tenant(q, "a", 1), *b = tenant(q, "b", weight);
    ag_qent ea[ROOM], eb[ROOM], *out;
    ag_err err;
    for (int i = 0; i < ROOM; i++) {
        ea[i] = entry(a, 2, 10);
        push(q, &ea[i], 0);
    }
    uint32_t taken = 0;
    for (int i = 0; i < ROOM; i++) {
        eb[i] = entry(b, 2, 10);
        if (try_push(q, &eb[i], &out, &err) != AG_OK) break;
        assert_ptr_equal(out, &ea[ROOM - 1 - i]); /* the newest goes */
        taken++;
    }
    assert_int_equal(taken, want);
    ag_qent again = entry(a, 2, 10); /* and they do not displace each other in turn */
    assert_int_equal(try_push(q, &again, &out, &err), AG_E_QUEUE_FULL);
    empty(q);
}

static void test_share_of_the_queue(void **state)
{
    (void)state;
    fill_and_share(1, 10);
    fill_and_share(3, 15);
    fill_and_share(1e-6, 0);
}

static void test_bounds_of_tokens_and_bytes(void **state)
{
    (void)state;
    ag_queue_conf conf = plain();
    conf.tokens_max = 100;
    conf.bytes_max = 1000;
    ag_queue *q = open_queue(conf);
    ag_tenant *a = tenant(q, "a", 1);
    ag_qent small[4], large = entry(a, 1, 10), *out, *next;
    ag_err err;
    for (int i = 0; i < 4; i++) {
        small[i] = entry(a, 2, 10);
        small[i].tokens = 20;
        small[i].bytes = 200;
        push(q, &small[i], 0);
    }
    large.tokens = 60;
    assert_int_equal(try_push(q, &large, &out, &err), AG_OK); /* two go for it, the newest first */
    assert_ptr_equal(out, &small[3]);
    next = out->newer;
    assert_ptr_equal(next, &small[2]);
    assert_null(next->newer);
    large.tokens = 60; /* of those left 100 wait; one more fits by bytes alone */
    ag_qent more = entry(a, 2, 10);
    more.tokens = 1;
    assert_int_equal(try_push(q, &more, &out, &err), AG_E_QUEUE_FULL);
    assert_string_equal(err.text, "The queue is full: 100 tokens wait, 100 may; the request has 1.");
    more.tokens = 0;
    more.bytes = 601;
    assert_int_equal(try_push(q, &more, &out, &err), AG_E_QUEUE_FULL);
    assert_string_equal(err.text, "The queue is full: 400 bytes wait, 1000 may; the request takes 601.");
    more.bytes = 1001;
    more.band = 0; /* not for anybody */
    assert_int_equal(try_push(q, &more, &out, &err), AG_E_LIMIT);
    more.bytes = UINT64_MAX;
    assert_int_equal(try_push(q, &more, &out, &err), AG_E_LIMIT);
    more.tokens = 101;
    assert_int_equal(try_push(q, &more, &out, &err), AG_E_LIMIT);
    assert_string_equal(err.text, "The request has 101 tokens, prompt and answer; all that wait may have 100.");
    empty(q);
}

/* A push that does not come in changes nothing, not even what it had begun to displace. */
static void test_refused_changes_nothing(void **state)
{
    (void)state;
    ag_queue_conf conf = plain();
    conf.tokens_max = 200;
    conf.age_us = 100;
    ag_queue *q = open_queue(conf);
    ag_tenant *a = tenant(q, "a", 1), *b = tenant(q, "b", 1);
    ag_qent e[20], large = entry(b, 1, 10), *out;
    ag_err err;
    for (int i = 0; i < 20; i++) {
        e[i] = entry(i % 2 ? a : b, i % 4 == 0 ? 0 : 3, 10);
        e[i].tokens = 10;
        push(q, &e[i], (uint64_t)i * 3);
    }
    large.tokens = 151; /* all of band 3 have 150 */
    assert_int_equal(try_push(q, &large, &out, &err), AG_E_QUEUE_FULL);
    assert_null(out);
    ag_queue_verify(q);
    ag_queue_head(q, 100 + 3 * 9); /* the first of them rises */
    for (int i = 0; i < 20; i++) assert_int_equal(e[i].level, i % 4 == 0 ? 0 : i == 1 ? 2 : 3);
    large.tokens = 150;
    assert_int_equal(ag_queue_push(q, &large, 127, &out, &err), AG_OK);
    uint32_t gone = 0;
    for (; out != NULL; out = out->newer) gone++;
    assert_int_equal(gone, 15);
    empty(q);
}

/* One push moves 64 at most: what a refusal undoes is bounded. */
static void test_few_go_for_one(void **state)
{
    (void)state;
    for (uint32_t n = 64; n <= 65; n++) {
        ag_queue_conf conf = plain();
        conf.tokens_max = 70;
        ag_queue *q = open_queue(conf);
        ag_tenant *a = tenant(q, "a", 1);
        ag_qent e[70], large = entry(a, 0, 1), *out;
        ag_err err;
        for (int i = 0; i < 70; i++) {
            e[i] = entry(a, 3, 1);
            e[i].tokens = 1;
            push(q, &e[i], 0);
        }
        large.tokens = n;
        assert_int_equal(try_push(q, &large, &out, &err), n == 64 ? AG_OK : AG_E_QUEUE_FULL);
        ag_queue_stats s;
        ag_queue_stats_get(q, &s);
        assert_int_equal(s.entries, n == 64 ? 7 : 70);
        empty(q);
    }
}

/* The answers of one request come in together or not at all: nobody goes for those that do. */
static void test_several_come_together(void **state)
{
    (void)state;
    ag_queue_conf conf = plain();
    conf.entries_max = 4;
    conf.tokens_max = 100;
    ag_queue *q = open_queue(conf);
    ag_tenant *a = tenant(q, "a", 1), *b = tenant(q, "b", 1);
    ag_qent low[2] = {entry(a, 3, 10), entry(a, 3, 10)}, high[2] = {entry(a, 1, 10), entry(a, 1, 10)}, new[5], *out;
    ag_err err = {0};
    for (int i = 0; i < 2; i++) push(q, &low[i], 0);
    for (int i = 0; i < 2; i++) push(q, &high[i], 0);
    for (int i = 0; i < 5; i++) {
        new[i] = entry(b, 2, 10);
        if (i > 0) new[i - 1].newer = &new[i];
    }
    assert_int_equal(ag_queue_push_all(q, &new[0], 0, &out, &err), AG_E_LIMIT);
    assert_string_equal(err.text, "The request asks for 5 answers; 4 may wait.");
    err = (ag_err){0};
    /* Two of the three could have come. */
    assert_int_equal(ag_queue_push_all(q, &new[2], 0, &out, &err), AG_E_QUEUE_FULL);
    assert_string_equal(err.text, "The queue is full: 4 requests wait, 4 may; the request asks for 3 answers.");
    assert_null(out);
    ag_queue_verify(q);
    for (int i = 0; i < 2; i++) assert_true(low[i].queued && high[i].queued);
    for (int i = 0; i < 5; i++) assert_false(new[i].queued);
    new[3].tokens = new[4].tokens = 51;
    err = (ag_err){0};
    assert_int_equal(ag_queue_push_all(q, &new[3], 0, &out, &err), AG_E_LIMIT);
    assert_string_equal(err.text, "The request has 102 tokens, prompt and answer; all that wait may have 100.");
    new[4].tokens = 49;
    assert_int_equal(ag_queue_push_all(q, &new[3], 0, &out, &err), AG_OK);
    assert_ptr_equal(out, &low[1]);
    assert_ptr_equal(out->newer, &low[0]);
    assert_null(low[0].newer);
    assert_true(new[3].queued && new[4].queued && new[3].number < new[4].number);
    empty(q);
}

static void test_set_back_are_kept(void **state)
{
    (void)state;
    ag_queue_conf conf = plain();
    conf.entries_max = 1;
    ag_queue *q = open_queue(conf);
    ag_tenant *a = tenant(q, "a", 1);
    ag_qent ran = entry(a, 3, 10), waits = entry(a, 3, 10), urgent[2] = {entry(a, 0, 10), entry(a, 0, 10)}, *out;
    ag_err err;
    push(q, &ran, 0);
    pop(q, 0);
    push(q, &waits, 0);
    ran.resumed = true;
    push(q, &ran, 1); /* over the bound */
    assert_int_equal(try_push(q, &urgent[0], &out, &err), AG_OK);
    assert_ptr_equal(out, &waits);
    assert_int_equal(try_push(q, &urgent[1], &out, &err), AG_E_QUEUE_FULL);
    ag_queue_stats s;
    ag_queue_stats_get(q, &s);
    assert_int_equal(s.entries, 2);
    empty(q);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_lower_bands_make_room), cmocka_unit_test(test_share_of_the_queue),
        cmocka_unit_test(test_bounds_of_tokens_and_bytes), cmocka_unit_test(test_refused_changes_nothing),
        cmocka_unit_test(test_few_go_for_one), cmocka_unit_test(test_several_come_together),
        cmocka_unit_test(test_set_back_are_kept)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
