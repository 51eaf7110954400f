#include "model/null.h"

#include "base/fault.h"
#include "base/mem.h"
#include "engine/serving.h"

static ag_model *open_null(const char *path)
{
    ag_model *m = NULL;
    ag_err err = {0};
    if (ag_model_open_null(&m, path, NULL, &err) != AG_OK) fail_msg("%s", err.text);
    return m;
}

static void names(void **state)
{
    (void)state;
    static const char *const yes[] = {"null", "null:", "null:rate=5", "null:x"}, *const no[] = {"", "./null", "nul",
                                                                                                "nullx", "x/null"};
    static const char *const bad[] = {"null:",        "null:rate=",  "null:rate=0", "null:rate=1000001",
                                      "null:rate=5x", "null:speed=5"};
    for (size_t i = 0; i < AG_ARRAY_LEN(yes); i++) assert_true(ag_model_is_null(yes[i]));
    for (size_t i = 0; i < AG_ARRAY_LEN(no); i++) assert_false(ag_model_is_null(no[i]));
    for (size_t i = 0; i < AG_ARRAY_LEN(bad); i++) {
        ag_model *m = NULL;
        ag_err err = {0};
        assert_int_equal(ag_model_open_null(&m, bad[i], NULL, &err), AG_E_USAGE);
        assert_non_null(strstr(err.text, "tokens a second"));
    }
    ag_model *m = open_null("null:rate=1000000");
    assert_int_equal(m->null_rate, 1000000);
    ag_model_close(m);
}

/* A token is a byte, whatever the byte. */
static void bytes_are_tokens(void **state)
{
    (void)state;
    ag_model *m = open_null("null");
    const char text[] = "a b\n\x7f\xc3\xa9\xf0\x9f\x99\x82</s>";
    int32_t *ids = NULL;
    uint32_t n = 0;
    ag_err err = {0};
    if (ag_tokenizer_encode(m->tokenizer, text, sizeof text - 1, true, false, &ids, &n, &err) != AG_OK)
        fail_msg("%s", err.text);
    assert_int_equal(n, sizeof text - 1);
    for (uint32_t i = 0; i < n; i++) assert_int_equal(ids[i], (unsigned char)text[i]);
    ag_mem_free(ids);
    assert_true(ag_tokenizer_ends(m->tokenizer, 256));
    assert_non_null(m->chat);
    ag_model_close(m);
}

static int serve_by(const char *path, uint32_t n_want, bool turns)
{
    static int32_t prompt[] = {'H', 'i', ' '}, ids[OUT_MAX];
    ag_model *m = NULL;
    ag_engine *e = NULL;
    ag_gen *g = NULL;
    ag_err err = {0};
    ag_engine_conf conf = conf_of(0, 4, 16);
    conf.by_turns = turns;
    ag_gen_spec s = {
        .prompt = prompt, .n_prompt = 3, .max_tokens = n_want, .top_logprobs = -1, .sampling = AG_SAMPLING_DEFAULT};
    s.sampling.temperature = 10;
    int rc = ag_model_open_null(&m, path, NULL, &err);
    if (rc == AG_OK) rc = ag_engine_open(&e, m, &conf, &err);
    if (rc == AG_OK) rc = ag_gen_create(&g, e, &s, &err);
    if (rc == AG_OK) rc = ag_gen_submit(g, NULL, &err);
    if (rc == AG_OK) {
        uint32_t n;
        while (turns && ag_engine_turn(e)) {}
        ag_gen_state state = finish(g, ids, &n);
        if (state == AG_GEN_FAILED) rc = AG_E_NOMEM;
        else {
            assert_int_equal(state, AG_GEN_LENGTH);
            assert_int_equal(n, n_want);
            for (uint32_t i = 0; i < n; i++)
                assert_int_equal(ids[i], AG_NULL_TEXT[(2 + i) % (sizeof AG_NULL_TEXT - 1)]);
        }
    }
    if (g) ag_gen_put(g);
    if (e) ag_engine_close(e);
    ag_model_close(m);
    return rc;
}

static int serve_once(const char *path, uint32_t n_want) { return serve_by(path, n_want, false); }

/* The text goes on by position, however improbable tokens are made likely. */
static void answers(void **state)
{
    (void)state;
    assert_int_equal(serve_once("null", OUT_MAX), AG_OK);
}

static void embeddings_count_bytes(void **state)
{
    (void)state;
    static const int32_t prompt[] = {'a', 'b', 'a', 'c', 'a', 'b'};
    ag_model *m = open_null("null:rate=1");
    ag_engine *e = NULL;
    ag_gen *g = NULL;
    ag_err err = {0};
    ag_engine_conf conf = conf_of(0, 4, 16);
    ag_gen_spec s = {.prompt = prompt, .n_prompt = 6, .embed = true};
    if (ag_engine_open(&e, m, &conf, &err) != AG_OK || ag_gen_create(&g, e, &s, &err) != AG_OK ||
        ag_gen_submit(g, NULL, &err) != AG_OK)
        fail_msg("%s", err.text);
    int32_t ids[OUT_MAX];
    uint32_t n;
    assert_int_equal(finish(g, ids, &n), AG_GEN_STOPPED);
    for (int i = 0; i < AG_NULL_WIDTH; i++) {
        double want = (i == 'a' ? 3 : i == 'b' ? 2 : i == 'c') / sqrt(14);
        assert_true(fabs((double)ag_gen_embedding(g)[i] - want) < 1e-6);
    }
    ag_gen_put(g);
    ag_engine_close(e);
    ag_model_close(m);
}

/* Without a thread of its own nothing happens but in turns, on the threads of those who ask: here some at once, each
 * with a generation after the other. */

typedef struct caller { ag_engine *e; uint32_t seed, turns; } caller;

static void *call_in_turns(void *arg)
{
    static int32_t prompt[] = {'H', 'i', ' '};
    caller *c = arg;
    for (uint32_t i = 0; i < 50; i++) {
        ag_gen_spec s = {.prompt = prompt, .n_prompt = 3, .max_tokens = 1 + (c->seed + i) % 20, .top_logprobs = -1,
                         .sampling = AG_SAMPLING_DEFAULT};
        ag_gen *g = start(c->e, &s);
        ag_gen_state state;
        while (ag_gen_read(g, 0, NULL, 0, &state), !ag_gen_ended(state)) c->turns += ag_engine_turn(c->e);
        assert_int_equal(state, AG_GEN_LENGTH);
        assert_int_equal(ag_gen_count(g), s.max_tokens);
        ag_gen_put(g);
    }
    return NULL;
}

static void by_turns(void **state)
{
    (void)state;
    enum { N = 3 };
    ag_engine *e = NULL;
    ag_model *m = open_null("null");
    ag_err err = {0};
    ag_engine_conf conf = conf_of(0, 4, 16);
    conf.by_turns = true;
    if (ag_engine_open(&e, m, &conf, &err) != AG_OK) fail_msg("%s", err.text);
    assert_false(ag_engine_turn(e)); /* nobody has asked for anything */
    caller c[N];
    pthread_t t[N];
    uint32_t turns = 0;
    for (uint32_t i = 0; i < N; i++) {
        c[i] = (caller){.e = e, .seed = i * 7};
        assert_int_equal(pthread_create(&t[i], NULL, call_in_turns, &c[i]), 0);
    }
    for (uint32_t i = 0; i < N; i++) {
        pthread_join(t[i], NULL);
        turns += c[i].turns;
    }
    ag_engine_stats s;
    ag_engine_stats_get(e, &s);
    assert_true(s.steps > 0 && s.steps <= turns);
    while (ag_engine_turn(e)) {}
    ag_gen_spec spec = {.prompt = (int32_t[]){'x'}, .n_prompt = 1, .max_tokens = 9, .top_logprobs = -1,
                        .sampling = AG_SAMPLING_DEFAULT};
    ag_gen *waits = start(e, &spec), *runs = start(e, &spec);
    assert_true(ag_engine_turn(e)); /* a step that both are in */
    assert_true(ag_gen_count(waits) == 1 && ag_gen_count(runs) == 1);
    ag_gen_cancel(waits);
    assert_true(ag_engine_turn(e));
    ag_gen_state now;
    ag_gen_read(waits, 0, NULL, 0, &now);
    assert_int_equal(now, AG_GEN_CANCELLED);
    ag_engine_close(e); /* what is left is ended, as it is with a thread */
    ag_gen_read(runs, 0, NULL, 0, &now);
    assert_int_equal(now, AG_GEN_CANCELLED);
    assert_int_equal(ag_gen_count(runs), 2);
    ag_gen_put(waits);
    ag_gen_put(runs);
    ag_model_close(m);
}

/* Never faster than it was asked to be. */
static void keeps_pace(void **state)
{
    (void)state;
    uint64_t from = ag_now_us();
    assert_int_equal(serve_once("null:rate=100", 10), AG_OK);
    assert_true(ag_now_us() - from >= 10 * 10000);
}

#ifdef AG_FAULTS
static void no_memory(void **state)
{
    (void)state;
    for (uint32_t turns = 0; turns < 2; turns++) {
        bool fired = true;
        for (uint32_t n = 1; fired; n++) {
            ag_fault_arm(AG_FAULT_ALLOC, n);
            int rc = serve_by("null", 3, turns);
            fired = ag_fault_disarm(AG_FAULT_ALLOC);
            assert_true(rc == AG_OK || (fired && rc == AG_E_NOMEM));
        }
    }
}
#endif

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names),     cmocka_unit_test(bytes_are_tokens),
        cmocka_unit_test(answers),   cmocka_unit_test(embeddings_count_bytes),
        cmocka_unit_test(by_turns),  cmocka_unit_test(keeps_pace),
#ifdef AG_FAULTS
        cmocka_unit_test(no_memory),
#endif
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
