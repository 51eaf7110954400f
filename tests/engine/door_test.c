/* Callers beside an engine that computes: what they ask for happens at once, and whoever is set back, reused or held up
 * answers as if alone. Steps are held by a backend that waits, so that the order of events is known without a clock. */
#include <math.h>

#include "base/fault.h"
#include "engine/held.h"

static ag_gen_state state_of(ag_gen *g)
{
    ag_gen_state s;
    ag_gen_read(g, 0, NULL, 0, &s);
    return s;
}

static void await_end(ag_gen *g)
{
    while (!ag_gen_ended(state_of(g))) sched_yield();
}

static ag_gen *start_as(ag_engine *e, const char *tenant, uint8_t band, ag_gen_spec s)
{
    s.tenant = ag_str_of(tenant);
    s.band = band;
    return start(e, &s);
}

static ag_engine_stats stats_of(ag_engine *e)
{
    ag_engine_stats st;
    ag_engine_stats_get(e, &st);
    assert_int_equal(st.kv_pages_used + st.kv_pages_kept + st.kv_pages_free, st.kv_pages);
    return st;
}

/* Everyone is through: no page is lost. */
static void close_idle(ag_engine *e)
{
    ag_engine_stats st = stats_of(e);
    assert_int_equal(st.kv_pages_used, 0);
    assert_int_equal(st.waiting + st.running, 0);
    ag_engine_close(e);
}

static void answer_of(ag_gen_spec s, int32_t *ids, uint32_t *n)
{
    ag_engine_conf c = conf_of(1024, 1, 16);
    c.no_reuse = true;
    ag_engine *e = open_engine(c);
    ag_gen *g = start(e, &s);
    finish(g, ids, n);
    ag_gen_put(g);
    close_idle(e);
}

static void answers(ag_gen *g, ag_gen_state want, const int32_t *ids, uint32_t n)
{
    int32_t got[OUT_MAX];
    uint32_t k;
    assert_int_equal(finish(g, got, &k), want);
    assert_int_equal(k, n);
    assert_memory_equal(got, ids, n * sizeof *ids);
}

/* ---- urgency ---- */

static void test_urgent_ones_set_others_back(void **state)
{
    (void)state;
    int32_t want[2][OUT_MAX];
    uint32_t n[2];
    const ag_gen_spec slow = spec_of(150, 90, 1), quick = spec_of(70, 10, 2);
    answer_of(slow, want[0], &n[0]);
    answer_of(quick, want[1], &n[1]);
    ag_engine *e = open_held(conf_of(1024, 1, 16), 8);
    ag_gen *a = start_as(e, "a", 3, slow);
    await_held();
    ag_gen *b = start_as(e, "b", 0, quick);
    let_go();
    answers(b, AG_GEN_LENGTH, want[1], n[1]);
    answers(a, AG_GEN_LENGTH, want[0], n[0]); /* as if it had never been interrupted */
    ag_gen_times ta, tb;
    ag_gen_times_get(a, &ta);
    ag_gen_times_get(b, &tb);
    assert_true(tb.first_us > ta.first_us && tb.end_us <= ta.end_us);
    ag_engine_stats st = stats_of(e);
    assert_int_equal(st.set_back_urgent, 1);
    assert_int_equal(st.preemptions, 1);
    assert_int_equal(st.prompt_tokens, 220);
    assert_true(st.again_tokens < 64); /* its full pages were there still */
    ag_gen_put(a);
    ag_gen_put(b);
    close_idle(e);
}

static void test_moving(void **state)
{
    (void)state;
    ag_engine *e = open_held(conf_of(1024, 1, 16), 2);
    ag_gen *run = start_as(e, "a", 2, spec_of(10, 20, 1));
    await_held();
    ag_gen *g[3];
    for (int i = 0; i < 3; i++) g[i] = start_as(e, "a", 2, spec_of(10, 5, (uint64_t)i));
    ag_gen_wait w;
    for (uint32_t i = 0; i < 3; i++) {
        ag_gen_wait_get(g[i], &w);
        assert_int_equal(w.state, AG_GEN_WAITING);
        assert_int_equal(w.position, i + 1);
        assert_int_equal(w.band, 2);
    }
    ag_gen_move(g[2], 1);
    for (uint32_t i = 0; i < 3; i++) {
        ag_gen_wait_get(g[i], &w);
        assert_int_equal(w.position, (i + 1) % 3 + 1);
    }
    ag_gen_wait_get(run, &w);
    assert_int_equal(w.state, AG_GEN_RUNNING);
    assert_int_equal(w.position, 0);
    ag_gen_move(run, 0); /* it is not set back for those now */
    let_go();
    ag_gen_times t[3];
    for (int i = 0; i < 3; i++) {
        await_end(g[i]);
        ag_gen_times_get(g[i], &t[i]);
    }
    assert_true(t[2].admit_us <= t[0].admit_us && t[0].admit_us <= t[1].admit_us && t[2].end_us <= t[0].end_us);
    await_end(run);
    ag_gen_move(run, 3); /* harmless */
    assert_int_equal(stats_of(e).preemptions, 0);
    ag_gen_put(run);
    for (int i = 0; i < 3; i++) ag_gen_put(g[i]);
    close_idle(e);
}

/* ---- prefixes ---- */

static void test_reused_prefixes_change_nothing(void **state)
{
    (void)state;
    ag_gen_spec s = spec_of(200, 40, 1);
    s.top_logprobs = 3;
    ag_engine *e = open_engine(conf_of(1024, 4, 16));
    static ag_gen_token t[2][40];
    ag_gen *g[2];
    for (int i = 0; i < 2; i++) {
        g[i] = start_as(e, "a", 2, s);
        await_end(g[i]);
        assert_int_equal(ag_gen_read(g[i], 0, t[i], 40, NULL), 40);
        assert_int_equal(ag_gen_reused(g[i]), i * 192);
    }
    for (int k = 0; k < 40; k++) {
        assert_int_equal(t[0][k].id, t[1][k].id);
        assert_true(t[0][k].logprob == t[1][k].logprob);
        assert_memory_equal(t[0][k].top, t[1][k].top, 3 * sizeof *t[0][k].top);
    }
    ag_engine_stats st = stats_of(e);
    assert_int_equal(st.prompt_tokens, 200 + 8);
    assert_int_equal(st.reused_tokens, 192);
    assert_int_equal(st.asked_tokens, 400);
    /* Where each position's logits are wanted, each is computed. */
    s.prompt_logprobs = true;
    ag_gen *p = start_as(e, "a", 2, s);
    await_end(p);
    assert_int_equal(ag_gen_reused(p), 0);
    assert_int_equal(stats_of(e).prompt_tokens, 408);
    ag_gen_put(p);
    ag_gen_put(g[0]);
    ag_gen_put(g[1]);
    close_idle(e);
}

static void test_who_finds_whose_prefix(void **state)
{
    (void)state;
    ag_engine *e = open_engine(conf_of(2048, 4, 16));
    static const struct { const char *tenant, *group; bool all; uint32_t reused; } in[] = {
        {"a", "", false, 0}, {"b", "", false, 0}, {"a", "", false, 64}, {"c", "", true, 0}, {"b", "", false, 64},
        {"d", "", true, 64},
        {"a", "", true, 64}, {"e", "", false, 0},
        /* A group is neither its members, nor a tenant of its name, nor all, nor another. */
        {"a", "g", false, 0}, {"b", "g", false, 64}, {"g", "", false, 0}, {"a", "h", false, 0}, {"g", "a", false, 0},
        {"f", "g", true, 64},
        {"new", "g", false, 64}, {"new", "", false, 0},
    };
    for (size_t i = 0; i < AG_ARRAY_LEN(in); i++) {
        ag_gen_spec s = spec_of(100, 3, 1);
        s.share_group = ag_str_of(in[i].group);
        s.share_all = in[i].all;
        ag_gen *g = start_as(e, in[i].tenant, 2, s);
        await_end(g);
        assert_int_equal(ag_gen_reused(g), in[i].reused);
        ag_gen_put(g);
    }
    close_idle(e);
}

/* Ten callers come with one new prefix while the engine is busy: its pages are computed once, and each has the answer
 * that he would have had alone. */
static void test_a_new_prefix_is_computed_once(void **state)
{
    (void)state;
    enum { CALLERS = 10, PREFIX = 290, OWN = 12 };
    static int32_t prompt[CALLERS][PREFIX + OWN], want[CALLERS][OUT_MAX];
    uint32_t n[CALLERS];
    ag_gen_spec s[CALLERS];
    for (int i = 0; i < CALLERS; i++) {
        s[i] = spec_of(PREFIX + OWN, 12, 1);
        memcpy(prompt[i], s[i].prompt, sizeof prompt[i]);
        for (int k = 0; k < OWN; k++) prompt[i][PREFIX + k] = 'a' + (i * 5 + k) % 26;
        s[i].prompt = prompt[i];
        answer_of(s[i], want[i], &n[i]);
    }
    ag_engine *e = open_held(conf_of(8192, 16, 16), 1);
    /* then nobody decodes, and a step has room for two */
    ag_gen *first = start_as(e, "z", 2, spec_of(20, 1, 3)), *g[CALLERS];
    await_held();
    for (int i = 0; i < CALLERS; i++) g[i] = start_as(e, "a", 2, s[i]);
    let_go();
    for (int i = 0; i < CALLERS; i++) {
        answers(g[i], AG_GEN_LENGTH, want[i], n[i]);
        ag_gen_put(g[i]);
    }
    await_end(first);
    ag_gen_put(first);
    const uint32_t shared_pages = PREFIX / AG_KV_PAGE * AG_KV_PAGE;
    assert_int_equal(stats_of(e).prompt_tokens, 20 + shared_pages + CALLERS * (PREFIX + OWN - shared_pages));
    close_idle(e);
}

/* ---- deadlines, cancelling, displacing: while a step runs ---- */

static void test_expires_while_a_step_runs(void **state)
{
    (void)state;
    ag_engine *e = open_held(conf_of(1024, 1, 16), 1);
    ag_gen *run = start_as(e, "a", 2, spec_of(10, 30, 1));
    await_held();
    ag_gen_spec s = spec_of(50, 5, 2);
    s.deadline_us = ag_now_us() + 60000000;
    ag_gen *later = start_as(e, "a", 2, s);
    s.tenant = AG_STR("a");
    ag_gen *soon = NULL;
    for (uint64_t us = 2000;; us *= 2) { /* one that comes too late comes again, with more time */
        s.deadline_us = ag_now_us() + us;
        assert_int_equal(ag_gen_create(&soon, e, &s, NULL), AG_OK);
        if (ag_gen_submit(soon, NULL, NULL) == AG_OK) break;
        ag_gen_put(soon);
    }
    await_end(soon);
    assert_true(atomic_load(&held)); /* the step goes on still */
    ag_err err = {0};
    assert_int_equal(state_of(soon), AG_GEN_FAILED);
    assert_int_equal(ag_gen_error(soon, &err), AG_E_DEADLINE);
    assert_non_null(strstr(err.text, "nothing was computed"));
    assert_false(ag_gen_timed_out(soon));
    ag_gen_times t;
    ag_gen_times_get(soon, &t);
    assert_true(t.end_us >= s.deadline_us && t.admit_us == 0);
    assert_int_equal(state_of(later), AG_GEN_WAITING);
    assert_int_equal(stats_of(e).expired, 1);
    let_go();
    await_end(run);
    await_end(later);
    assert_int_equal(state_of(later), AG_GEN_LENGTH);
    assert_int_equal(stats_of(e).prompt_tokens, 60); /* none of them for the one that was put out */
    s.deadline_us = ag_now_us() - 1;
    ag_gen *g = NULL;
    assert_int_equal(ag_gen_create(&g, e, &s, NULL), AG_OK);
    assert_int_equal(ag_gen_submit(g, NULL, &err), AG_E_DEADLINE);
    ag_gen_put(g);
    ag_gen_put(run);
    ag_gen_put(later);
    ag_gen_put(soon);
    close_idle(e);
}

/* Who runs past its deadline keeps what it has. How long the first steps take is the machine's affair: the deadline is
 * set so far off that they come before it. */
static void test_running_past_the_deadline(void **state)
{
    (void)state;
    int32_t want[OUT_MAX], got[OUT_MAX];
    uint32_t n, k = 0;
    ag_gen_spec s = spec_of(10, 400, 1);
    answer_of(s, want, &n);
    for (uint64_t us = 100000; k == 0; us *= 2) {
        ag_engine *e = open_held(conf_of(1024, 1, 16), 4);
        s.deadline_us = ag_now_us() + us;
        ag_gen *g = NULL;
        assert_int_equal(ag_gen_create(&g, e, &s, NULL), AG_OK);
        if (ag_gen_submit(g, NULL, NULL) != AG_OK) { /* it has passed already */
            ag_gen_put(g);
            close_idle(e);
            continue;
        }
        while (sem_trywait(&in_step) != 0 && !ag_gen_ended(state_of(g))) sched_yield();
        if (!ag_gen_ended(state_of(g))) {
            while (ag_now_us() < s.deadline_us) sched_yield();
            let_go();
            assert_int_equal(finish(g, got, &k), AG_GEN_LENGTH);
            assert_true(k >= 3 && k < 400);
            assert_memory_equal(got, want, k * sizeof *got);
            assert_true(ag_gen_timed_out(g));
            assert_true(ag_gen_text_bytes(g) > 0);
            assert_int_equal(stats_of(e).timed_out, 1);
        }
        ag_gen_put(g);
        close_idle(e);
    }
}

static void test_cancelled_while_a_step_runs(void **state)
{
    (void)state;
    ag_engine *e = open_held(conf_of(1024, 1, 16), 3);
    ag_gen *run = start_as(e, "a", 2, spec_of(10, 300, 1));
    await_held();
    ag_gen *waits = start_as(e, "a", 2, spec_of(10, 30, 2));
    ag_gen_cancel(waits);
    assert_int_equal(state_of(waits), AG_GEN_CANCELLED); /* at once */
    ag_gen_cancel(run);
    assert_int_equal(state_of(run), AG_GEN_RUNNING); /* the step has its rows */
    uint32_t before = atomic_load(&runs);
    let_go();
    await_end(run);
    assert_int_equal(state_of(run), AG_GEN_CANCELLED);
    assert_int_equal(atomic_load(&runs), before); /* not one step more */
    assert_int_equal(stats_of(e).cancelled, 2);
    ag_gen_put(run);
    ag_gen_put(waits);
    close_idle(e);
}

static void test_a_full_queue_displaces(void **state)
{
    (void)state;
    ag_engine_conf c = conf_of(1024, 1, 16);
    c.queue_max = 2;
    ag_engine *e = open_held(c, 1);
    ag_gen *run = start_as(e, "a", 2, spec_of(10, 3, 1));
    await_held();
    ag_gen *first = start_as(e, "a", 3, spec_of(10, 3, 2)), *second = start_as(e, "a", 3, spec_of(10, 3, 3));
    ag_gen_spec s = spec_of(10, 3, 4);
    s.band = 3;
    s.tenant = AG_STR("a");
    ag_gen *refused = NULL;
    ag_err err = {0};
    assert_int_equal(ag_gen_create(&refused, e, &s, NULL), AG_OK);
    assert_int_equal(ag_gen_submit(refused, NULL, &err), AG_E_QUEUE_FULL);
    ag_gen *urgent = start_as(e, "a", 1, spec_of(10, 3, 5));
    assert_int_equal(state_of(second), AG_GEN_FAILED); /* the newest of the lowest band, at once */
    assert_int_equal(ag_gen_error(second, &err), AG_E_QUEUE_FULL);
    assert_int_equal(state_of(first), AG_GEN_WAITING);
    let_go();
    await_end(run);
    await_end(urgent);
    await_end(first);
    assert_int_equal(ag_gen_submit(refused, NULL, &err), AG_OK); /* it may ask again */
    await_end(refused);
    assert_int_equal(state_of(refused), AG_GEN_LENGTH);
    ag_engine_stats st = stats_of(e);
    assert_int_equal(st.displaced, 1);
    assert_int_equal(st.refused_full, 1);
    ag_gen *all[] = {run, first, second, urgent, refused};
    for (size_t i = 0; i < AG_ARRAY_LEN(all); i++) ag_gen_put(all[i]);
    close_idle(e);
}

/* The answers of one request: nobody goes for some of them when there is no room for all. */
static void test_answers_come_in_together(void **state)
{
    (void)state;
    ag_engine_conf c = conf_of(1024, 1, 16);
    c.queue_max = 2;
    ag_engine *e = open_held(c, 1);
    ag_gen *run = start_as(e, "a", 2, spec_of(10, 3, 1));
    await_held();
    ag_gen *low = start_as(e, "a", 3, spec_of(10, 3, 2)), *high = start_as(e, "a", 1, spec_of(10, 3, 3)), *n[3];
    for (uint32_t i = 0; i < 3; i++) {
        ag_gen_spec s = spec_of(10, 3, 4 + i);
        s.band = 2;
        s.tenant = AG_STR("a");
        assert_int_equal(ag_gen_create(&n[i], e, &s, NULL), AG_OK);
    }
    ag_err err = {0};
    assert_int_equal(ag_gen_submit_all(n, 2, NULL, &err), AG_E_QUEUE_FULL); /* one of them could have come */
    assert_int_equal(ag_gen_submit_all(n, 3, NULL, &err), AG_E_LIMIT);
    assert_int_equal(state_of(low), AG_GEN_WAITING);
    ag_gen_cancel(high);
    ag_gen_cancel(n[1]);
    assert_int_equal(ag_gen_submit_all(n, 2, NULL, &err), AG_OK);
    assert_int_equal(state_of(low), AG_GEN_FAILED);
    assert_int_equal(state_of(n[1]), AG_GEN_CANCELLED);
    let_go();
    await_end(run);
    await_end(n[0]);
    assert_int_equal(state_of(n[0]), AG_GEN_LENGTH);
    ag_engine_stats st = stats_of(e);
    assert_true(st.displaced == 1 && st.refused_full == 1);
    ag_gen *all[] = {run, low, high, n[0], n[1], n[2]};
    for (size_t i = 0; i < AG_ARRAY_LEN(all); i++) ag_gen_put(all[i]);
    close_idle(e);
}

/* ---- everything at once ---- */

enum { THREADS = 4, TURNS = 120 };
typedef struct caller { ag_engine *e; pthread_t thread; uint64_t dice; ag_gen_spec spec; uint32_t ended; } caller;

static uint32_t roll(caller *c, uint32_t n)
{
    c->dice = c->dice * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (uint32_t)(c->dice >> 33) % n;
}

static void one_turn(caller *c, ag_gen **mine, uint32_t at)
{
    static const char *const tenants[] = {"a", "b", "c"};
    if (mine[at] == NULL) {
        ag_gen_spec s = c->spec;
        s.n_prompt = 1 + roll(c, 150);
        s.max_tokens = 1 + roll(c, 12);
        s.band = (uint8_t)roll(c, AG_BANDS);
        s.tenant = ag_str_of(tenants[roll(c, 3)]);
        s.share_all = roll(c, 4) == 0;
        s.share_group = ag_str_of(roll(c, 4) == 0 ? "g" : "");
        s.deadline_us = roll(c, 3) == 0 ? ag_now_us() + 1 + roll(c, 20000) : 0;
        if (ag_gen_create(&mine[at], c->e, &s, NULL) != AG_OK) return;
        if (roll(c, 20) == 0) ag_gen_cancel(mine[at]);
        if (ag_gen_submit(mine[at], NULL, NULL) == AG_OK) return;
        ag_gen_put(mine[at]);
        mine[at] = NULL;
        return;
    }
    ag_gen_wait w;
    switch (roll(c, 4)) {
    case 0: ag_gen_cancel(mine[at]); break;
    case 1: ag_gen_move(mine[at], (uint8_t)roll(c, AG_BANDS)); break;
    case 2:
        ag_gen_wait_get(mine[at], &w);
        ag__door_enter(&c->e->door);
        ag_sched_verify(c->e->door.sched); /* whatever the engine is at */
        ag__door_leave(&c->e->door);
        break;
    default:
        await_end(mine[at]);
        c->ended++;
        ag_gen_put(mine[at]);
        mine[at] = NULL;
    }
}

static void *caller_main(void *arg)
{
    caller *c = arg;
    ag_gen *mine[8] = {NULL};
    for (uint32_t i = 0; i < TURNS; i++) one_turn(c, mine, roll(c, 8));
    for (int i = 0; i < 8; i++) {
        if (mine[i] == NULL) continue;
        await_end(mine[i]);
        c->ended++;
        ag_gen_put(mine[i]);
    }
    return NULL;
}

static void test_storm(void **state)
{
    (void)state;
    ag_engine_conf conf = conf_of(12 * 64, 3, 16);
    conf.queue_max = 10;
    conf.band_age_us = 3000;
    ag_engine *e = open_engine(conf);
    static caller c[THREADS];
    const ag_gen_spec spec = spec_of(1, 1, 1);
    for (uint32_t i = 0; i < THREADS; i++) {
        c[i] = (caller){.e = e, .dice = i + 1, .spec = spec};
        assert_int_equal(pthread_create(&c[i].thread, NULL, caller_main, &c[i]), 0);
    }
    uint32_t ended = 0;
    for (uint32_t i = 0; i < THREADS; i++) {
        pthread_join(c[i].thread, NULL);
        ended += c[i].ended;
    }
    assert_true(ended > THREADS * 10);
    /* And it serves as before. */
    int32_t want[OUT_MAX];
    uint32_t n;
    answer_of(spec_of(100, 20, 7), want, &n);
    ag_gen_spec s = spec_of(100, 20, 7);
    ag_gen *g = start(e, &s);
    answers(g, AG_GEN_LENGTH, want, n);
    ag_gen_put(g);
    close_idle(e);
}

/* Each allocation fails once while tenants come that nobody has heard of, wait, and are set back. */
static void test_faults(void **state)
{
    (void)state;
#ifdef AG_FAULTS
    int32_t want[2][OUT_MAX];
    uint32_t n[2];
    const ag_gen_spec slow = spec_of(150, 40, 1), quick = spec_of(70, 10, 2);
    answer_of(slow, want[0], &n[0]);
    answer_of(quick, want[1], &n[1]);
    for (uint32_t nth = 1;; nth++) {
        ag_engine *e = open_held(conf_of(1024, 1, 16), 3);
        ag_gen *g[2] = {NULL};
        ag_err err = {0};
        ag_gen_spec s[2] = {slow, quick};
        s[0].band = 3;
        s[0].tenant = AG_STR("slow");
        s[1].tenant = AG_STR("quick");
        ag_fault_arm(AG_FAULT_ALLOC, nth);
        bool went = ag_gen_create(&g[0], e, &s[0], &err) == AG_OK && ag_gen_submit(g[0], NULL, &err) == AG_OK,
             stopped = false;
        while (went && !stopped && !ag_gen_ended(state_of(g[0]))) stopped = sem_trywait(&in_step) == 0;
        if (!stopped) atomic_store(&hold_at, 0);
        bool other = ag_gen_create(&g[1], e, &s[1], &err) == AG_OK && ag_gen_submit(g[1], NULL, &err) == AG_OK;
        if (stopped) let_go();
        if (went) await_end(g[0]);
        if (other) await_end(g[1]);
        bool fired = ag_fault_disarm(AG_FAULT_ALLOC);
        uint32_t right = 0;
        for (int i = 0; i < 2; i++) {
            if (!(i ? other : went) || state_of(g[i]) != AG_GEN_LENGTH) continue;
            answers(g[i], AG_GEN_LENGTH, want[i], n[i]);
            right++;
        }
        assert_true(right == 2 || (fired && right == 1));
        ag_gen_put(g[0]);
        ag_gen_put(g[1]);
        close_idle(e);
        if (!fired) break;
    }
#else
    check_skipped(1, "built without fault points");
#endif
}

int main(void)
{
    tiny_model_open(&shared, true);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_urgent_ones_set_others_back),
        cmocka_unit_test(test_moving),
        cmocka_unit_test(test_reused_prefixes_change_nothing),
        cmocka_unit_test(test_who_finds_whose_prefix),
        cmocka_unit_test(test_a_new_prefix_is_computed_once),
        cmocka_unit_test(test_expires_while_a_step_runs),
        cmocka_unit_test(test_running_past_the_deadline),
        cmocka_unit_test(test_cancelled_while_a_step_runs),
        cmocka_unit_test(test_a_full_queue_displaces),
        cmocka_unit_test(test_answers_come_in_together),
        cmocka_unit_test(test_storm),
        cmocka_unit_test(test_faults),
    };
    int rc = cmocka_run_group_tests(tests, NULL, NULL);
    tiny_model_close(&shared);
    return rc;
}
