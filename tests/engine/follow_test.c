/* Several readers of one generation, each with its own end; and answers told again. */
#include <math.h>

#include "base/fault.h"
#include "engine/held.h"

static ag_gen_follow_spec plain(void) { return (ag_gen_follow_spec){.band = AG_BAND_DEFAULT}; }

static ag_gen *follow(ag_gen *g, ag_gen_follow_spec spec)
{
    ag_gen *f = NULL;
    ag_err err = {0};
    if (ag_gen_follow(&f, g, &spec, &err) != AG_OK) fail_msg("%s", err.text);
    return f;
}

static ag_gen_state state_of(ag_gen *g)
{
    ag_gen_state s;
    ag_gen_read(g, 0, NULL, 0, &s);
    return s;
}

static ag_gen_state await_end(ag_gen *g)
{
    while (!ag_gen_ended(state_of(g))) sched_yield();
    return state_of(g);
}

static void await_tokens(ag_gen *g, uint32_t n)
{
    while (ag_gen_count(g) < n && !ag_gen_ended(state_of(g))) sched_yield();
}

static void close_idle(ag_engine *e)
{
    ag_engine_stats st;
    ag_engine_stats_get(e, &st);
    assert_int_equal(st.waiting + st.running, 0);
    assert_int_equal(st.kv_pages_used, 0);
    ag_engine_close(e);
}

static void all_read_the_same(void **state)
{
    (void)state;
    enum { N = 20 };
    ag_engine *e = open_engine(conf_of(2048, 4, 16));
    ag_gen_spec s = spec_of(20, 40, 1);
    s.top_logprobs = 2;
    ag_gen *g = start(e, &s), *f[N];
    int32_t ids[OUT_MAX], others[OUT_MAX];
    uint32_t n, k;
    for (int i = 0; i < N; i++) {
        f[i] = follow(g, plain());
        await_tokens(g, (uint32_t)i); /* they come one after the other, to an answer that has begun */
    }
    assert_int_equal(finish(g, ids, &n), AG_GEN_LENGTH);
    for (int i = 0; i < N; i++) {
        ag_gen_token t;
        ag_gen_times times;
        assert_int_equal(finish(f[i], others, &k), AG_GEN_LENGTH);
        assert_int_equal(k, n);
        assert_memory_equal(ids, others, n * sizeof *ids);
        assert_int_equal(ag_gen_text_bytes(f[i]), ag_gen_text_bytes(g));
        assert_int_equal(ag_gen_read(f[i], 3, &t, 1, NULL), 1);
        assert_int_equal(t.n_top, 2);
        assert_true(ag_gen_piece(f[i], ids[0]).n == ag_gen_piece(g, ids[0]).n);
        ag_gen_times_get(f[i], &times);
        assert_true(times.submit_us && times.first_us >= times.submit_us && times.end_us >= times.first_us);
    }
    ag_gen *late = follow(g, plain());
    assert_int_equal(finish(late, others, &k), AG_GEN_LENGTH);
    assert_int_equal(k, n);
    ag_gen_put(late);
    ag_gen_put(g);
    close_idle(e);
    for (int i = 0; i < N; i++) ag_gen_put(f[i]); /* readers may be the last */
}

static void whoever_leaves_ends_alone_but_the_last(void **state)
{
    (void)state;
    ag_engine *e = open_held(conf_of(2048, 4, 16), 6);
    ag_gen_spec s = spec_of(20, 450, 2);
    ag_gen *g = start(e, &s), *a = follow(g, plain()), *b = follow(g, plain());
    await_held(); /* five tokens are there */
    ag_gen_cancel(a);
    assert_int_equal(state_of(a), AG_GEN_CANCELLED);
    uint32_t n = ag_gen_count(a);
    hold_next(9);
    assert_int_equal(ag_gen_count(a), n);
    assert_int_equal(state_of(b), AG_GEN_RUNNING);
    ag_gen_cancel(b);
    let_go();
    assert_int_equal(await_end(g), AG_GEN_CANCELLED);
    ag_err err = {0};
    ag_gen *c = NULL;
    ag_gen_follow_spec spec = plain();
    assert_int_equal(ag_gen_follow(&c, g, &spec, &err), AG_E_CANCELLED);
    ag_gen_put(a);
    ag_gen_put(b);
    ag_gen_put(g);
    close_idle(e);
}

/* Under the lock: a reader's end is told before its leader has been set anew. */
static struct ag_goes_by {
    uint8_t band;
    uint64_t deadline_us;
} goes_by(const ag_gen *g)
{
    ag_door *d = ag__door_of(g->engine);
    ag__door_enter(d);
    struct ag_goes_by by = {.band = g->seq.q.band, .deadline_us = g->seq.q.deadline_us};
    ag__door_leave(d);
    return by;
}

/* The one place is taken, so what is followed waits. */
static void the_leader_goes_by_its_followers(void **state)
{
    (void)state;
    ag_engine_conf c = conf_of(2048, 1, 16);
    c.refuse_late = false;
    ag_engine *e = open_held(c, 1);
    ag_gen_spec first = spec_of(20, 450, 3), s = spec_of(20, 30, 4);
    uint64_t far = ag_now_us() + 3600000000u;
    first.band = 0;
    ag_gen *busy = start(e, &first);
    await_held();
    s.deadline_us = far;
    s.band = 2;
    ag_gen *g = start(e, &s);
    ag_gen *a = follow(g, (ag_gen_follow_spec){.band = 2, .deadline_us = far});
    assert_true(goes_by(g).deadline_us == far);
    ag_gen *b = follow(g, (ag_gen_follow_spec){.band = 1, .deadline_us = far + 5});
    assert_int_equal(goes_by(g).band, 1);
    assert_true(goes_by(g).deadline_us == far + 5);
    ag_gen *d = follow(g, (ag_gen_follow_spec){.band = 3});
    assert_true(goes_by(g).deadline_us == 0);
    ag_gen *hasty = follow(g, (ag_gen_follow_spec){.band = 0, .deadline_us = ag_now_us() + 4500});
    assert_int_equal(await_end(hasty), AG_GEN_FAILED); /* nothing of it was computed */
    ag_err err = {0};
    assert_int_equal(ag_gen_error(hasty, &err), AG_E_DEADLINE);
    assert_int_equal(goes_by(g).band, 1);
    assert_int_equal(state_of(a), AG_GEN_WAITING);
    ag_gen_wait w;
    ag_gen_wait_get(a, &w);
    assert_true(w.position >= 1);
    ag_gen_move(a, 0);
    assert_int_equal(goes_by(g).band, 0);
    ag_gen_cancel(a);
    assert_int_equal(goes_by(g).band, 1);
    ag_gen_cancel(d);
    assert_true(goes_by(g).deadline_us == far + 5);
    ag_gen_cancel(busy);
    let_go();
    assert_int_equal(await_end(b), AG_GEN_LENGTH);
    assert_int_equal(ag_gen_count(b), 30);
    ag_gen_times ta, tb, th; /* what came after somebody's end did not happen to it */
    ag_gen_times_get(a, &ta);
    ag_gen_times_get(b, &tb);
    ag_gen_times_get(hasty, &th);
    assert_true(tb.admit_us && tb.first_us && tb.last_us && tb.end_us);
    assert_true(ta.end_us && ta.admit_us + ta.first_us + ta.last_us == 0);
    assert_true(th.end_us && th.admit_us + th.first_us + th.last_us == 0);
    ag_gen *all[] = {busy, g, a, b, d, hasty};
    for (size_t i = 0; i < AG_ARRAY_LEN(all); i++) ag_gen_put(all[i]);
    close_idle(e);
}

static void deadlines_cut_off_one_reader(void **state)
{
    (void)state;
    ag_engine *e = open_held(conf_of(2048, 2, 16), 4);
    ag_gen_spec s = spec_of(20, 450, 5);
    ag_gen *g = start(e, &s), *patient = follow(g, plain());
    await_held();
    uint64_t due = ag_now_us() + 4500;
    ag_gen *hasty = follow(g, (ag_gen_follow_spec){.band = 2, .deadline_us = due});
    while (ag_now_us() < due) sched_yield();
    hold_next(5); /* between the two steps its time is up */
    assert_int_equal(await_end(hasty), AG_GEN_LENGTH);
    assert_true(ag_gen_timed_out(hasty));
    assert_false(ag_gen_timed_out(g));
    uint32_t n = ag_gen_count(hasty);
    uint64_t bytes = 0;
    ag_gen_token t;
    for (uint32_t i = 0; i < n; i++) {
        assert_int_equal(ag_gen_read(hasty, i, &t, 1, NULL), 1);
        bytes += ag_gen_piece(hasty, t.id).n;
    }
    assert_int_equal(ag_gen_text_bytes(hasty), bytes);
    ag_gen_times before, after;
    ag_gen_times_get(hasty, &before);
    assert_true(before.admit_us && before.first_us && before.last_us && before.last_us <= before.end_us);
    hold_next(9);
    ag_gen_times_get(hasty, &after);
    assert_memory_equal(&before, &after, sizeof before);
    ag_gen_times_get(g, &after);
    assert_true(after.last_us > before.last_us);
    assert_false(ag_gen_ended(state_of(patient)));
    ag_gen_cancel(patient);
    let_go();
    await_end(g);
    ag_gen_put(hasty);
    ag_gen_put(patient);
    ag_gen_put(g);
    close_idle(e);
}

static void one_with_a_reader_of_its_own_goes_on_alone(void **state)
{
    (void)state;
    ag_mbox *m;
    assert_int_equal(ag_mbox_open(&m, 8, NULL, NULL), AG_OK);
    ag_engine *e = open_engine(conf_of(2048, 2, 16));
    ag_gen_spec s = spec_of(20, 60, 6);
    s.notify = m;
    s.msg = &s;
    ag_gen *g = start(e, &s), *a = follow(g, plain());
    ag_gen_cancel(a);
    assert_int_equal(await_end(g), AG_GEN_LENGTH);
    ag_gen_put(a);
    ag_gen_put(g);
    close_idle(e);
    while (ag_mbox_take(m)) continue;
    ag_mbox_close(m);
}

static void a_failure_has_its_reason(void **state)
{
    (void)state;
#ifdef AG_FAULTS
    ag_engine *e = open_held(conf_of(2048, 2, 16), 4);
    ag_gen_spec s = spec_of(20, 450, 9);
    ag_gen *g = start(e, &s), *a = follow(g, plain());
    await_held();
    ag_fault_arm(AG_FAULT_ALLOC, 1);
    let_go();
    assert_int_equal(await_end(a), AG_GEN_FAILED);
    ag_fault_disarm(AG_FAULT_ALLOC);
    ag_gen *late = follow(g, plain());
    ag_err err = {0};
    assert_int_equal(state_of(late), AG_GEN_FAILED);
    assert_int_equal(ag_gen_error(a, &err), AG_E_NOMEM);
    ag_err_clear(&err);
    assert_int_equal(ag_gen_error(late, &err), AG_E_NOMEM);
    ag_gen *all[] = {g, a, late};
    for (size_t i = 0; i < AG_ARRAY_LEN(all); i++) ag_gen_put(all[i]);
    close_idle(e);
#endif
}

static void the_engines_end_is_everybodys(void **state)
{
    (void)state;
    ag_engine *e = open_held(conf_of(2048, 1, 16), 1);
    ag_gen_spec s = spec_of(20, 450, 7);
    ag_gen *g = start(e, &s), *a = follow(g, plain()), *waits = start(e, &s), *b = follow(waits, plain());
    await_held();
    atomic_store(&e->closing, true); /* what it finds when its step has ended */
    let_go();
    ag_engine_close(e);
    assert_int_equal(state_of(a), AG_GEN_CANCELLED);
    assert_int_equal(state_of(b), AG_GEN_CANCELLED);
    ag_gen *all[] = {g, a, waits, b};
    for (size_t i = 0; i < AG_ARRAY_LEN(all); i++) {
        ag_gen_cancel(all[i]);
        ag_gen_put(all[i]);
    }
}

/* Threads that come, read and leave, while it is computed. */
static void *crowd(void *arg)
{
    ag_gen *g = arg;
    for (uint32_t i = 0; i < 200; i++) {
        ag_err err = {0};
        ag_gen *f = NULL;
        ag_gen_follow_spec spec = {.band = (uint8_t)(i % AG_BANDS)};
        if (i % 3 == 0) spec.deadline_us = ag_now_us() + i % 7 * 500;
        if (ag_gen_follow(&f, g, &spec, &err) != AG_OK) break;
        ag_gen_token t[16];
        ag_gen_read(f, 0, t, 16, NULL);
        ag_gen_move(f, (uint8_t)(i / 3 % AG_BANDS));
        if (i % 2) ag_gen_cancel(f);
        ag_gen_put(f);
    }
    return NULL;
}

static void crowds_come_and_go(void **state)
{
    (void)state;
    ag_engine *e = open_engine(conf_of(2048, 2, 16));
    ag_gen_spec s = spec_of(20, 200, 8);
    ag_gen *g = start(e, &s), *stays = follow(g, plain());
    pthread_t threads[3];
    for (size_t i = 0; i < AG_ARRAY_LEN(threads); i++) assert_int_equal(pthread_create(&threads[i], NULL, crowd, g), 0);
    for (size_t i = 0; i < AG_ARRAY_LEN(threads); i++) pthread_join(threads[i], NULL);
    assert_int_equal(await_end(stays), AG_GEN_LENGTH);
    assert_int_equal(ag_gen_count(stays), 200);
    ag_gen_put(stays);
    ag_gen_put(g);
    close_idle(e);
}

static void a_replay_reads_like_the_first(void **state)
{
    (void)state;
    static const float probability = -0.25f;
    const ag_gen_top tops[] = {{'a', -0.5f}, {'b', -1}};
    ag_engine *e = open_engine(conf_of(1024, 1, 16));
    const ag_gen_replay_spec spec = {.n_tokens = 600, .n_prompt = 2, .top_logprobs = 2};
    ag_gen *g = NULL;
    ag_gen_token t = {.logprob = probability, .top = tops, .n_top = 2};
    ag_gen_state end;
    assert_int_equal(ag_gen_replay_begin(&g, e, &spec), AG_OK);
    for (uint32_t i = 0; i < 600; i++) {
        t.id = 'a' + (int32_t)(i % 20);
        t.text_safe = i + 1;
        assert_int_equal(ag_gen_replay_token(g, &t), AG_OK);
    }
    for (uint32_t i = 0; i < 2; i++) ag_gen_replay_prompt(g, i, &t);
    ag_gen_replay_end(g, AG_GEN_STOPPED, 599, 7);
    ag_gen_cancel(g); /* harmless: it has ended */
    assert_int_equal(ag_gen_read(g, 599, &t, 1, &end), 1);
    assert_int_equal(end, AG_GEN_STOPPED);
    assert_int_equal(t.top[1].id, 'b');
    assert_int_equal(ag_gen_prompt(g)[1].top[0].id, 'a');
    assert_int_equal(ag_gen_text_bytes(g), 599);
    assert_int_equal(ag_gen_reused(g), 7);
    ag_gen_put(g);
#ifdef AG_FAULTS
    for (uint32_t n = 1; n <= 4; n++) {
        ag_fault_arm(AG_FAULT_ALLOC, n);
        assert_int_equal(ag_gen_replay_begin(&g, e, &spec), AG_E_NOMEM);
        assert_true(ag_fault_disarm(AG_FAULT_ALLOC));
    }
#endif
    close_idle(e);
}

int main(void)
{
    tiny_model_open(&shared, true);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(all_read_the_same),
        cmocka_unit_test(whoever_leaves_ends_alone_but_the_last),
        cmocka_unit_test(the_leader_goes_by_its_followers),
        cmocka_unit_test(deadlines_cut_off_one_reader),
        cmocka_unit_test(one_with_a_reader_of_its_own_goes_on_alone),
        cmocka_unit_test(a_failure_has_its_reason),
        cmocka_unit_test(the_engines_end_is_everybodys),
        cmocka_unit_test(crowds_come_and_go),
        cmocka_unit_test(a_replay_reads_like_the_first),
    };
    int rc = cmocka_run_group_tests(tests, NULL, NULL);
    tiny_model_close(&shared);
    return rc;
}
