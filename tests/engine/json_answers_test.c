/* Answers that are kept to JSON, on the real engine with a tiny random model, which has no idea of it. */
#include <jansson.h>

#include "base/fault.h"
#include "engine/serving.h"

enum { MANY = 24 };
static int32_t alone[MANY][OUT_MAX];
static uint32_t alone_n[MANY];
static ag_gen_state alone_state[MANY];

static ag_gen_spec json_spec(int i)
{
    static const ag_logit_bias bias[] = {{'{', 6}, {'"', 9}, {',', 9}, {'[', 8}, {'}', 4}, {':', 9}};
    ag_gen_spec s = spec_of(1 + (uint32_t)(i * 17 % 90), 2 + (uint32_t)(i * i % 70), (uint64_t)i);
    s.ignore_eos = false;
    s.json = true;
    if (i % 3) { /* else it hardly ever leaves a string */
        s.bias = bias;
        s.n_bias = AG_ARRAY_LEN(bias);
    }
    if (i % 5 == 1) s.sampling.top_p = 0.9f;
    if (i % 5 == 2) s.sampling.temperature = 0;
    if (i % 5 == 3) s.sampling.frequency_penalty = 1;
    return s;
}

static bool is_object(const int32_t *ids, uint32_t n)
{
    ag_buf text;
    ag_buf_init(&text, 1 << 20);
    for (uint32_t i = 0; i < n; i++) {
        ag_str s = ag_tokenizer_piece(shared.m.tokenizer, ids[i], true);
        ag_buf_add(&text, s.p, s.n);
    }
    json_t *j = json_loadb(text.p, text.n, 0, NULL);
    bool object = json_is_object(j);
    if (!object) fprintf(stderr, "%.*s\n", (int)text.n, text.p);
    json_decref(j);
    ag_buf_fini(&text);
    return object;
}

static void ask_alone(void)
{
    ag_engine *e = open_engine(conf_of(1024, 1, 16));
    for (int i = 0; i < MANY; i++) {
        ag_gen_spec s = json_spec(i);
        ag_gen *g = start(e, &s);
        alone_state[i] = finish(g, alone[i], &alone_n[i]);
        ag_gen_put(g);
    }
    ag_engine_close(e);
}

static void every_answer_is_an_object(void **state)
{
    (void)state;
    uint32_t stopped = 0, cut = 0;
    ask_alone();
    for (int i = 0; i < MANY; i++) {
        assert_true(alone_state[i] == AG_GEN_STOPPED || alone_state[i] == AG_GEN_LENGTH);
        assert_true(is_object(alone[i], alone_n[i]));
        assert_true(alone_n[i] <= json_spec(i).max_tokens);
        stopped += alone_state[i] == AG_GEN_STOPPED;
        cut += alone_state[i] == AG_GEN_LENGTH;
    }
    assert_true(stopped > 2 && cut > 2);
}

/* In one batch, beside others that may say what they like, and set back: the same bytes. */
static void the_batch_changes_nothing(void **state)
{
    (void)state;
    static const uint32_t ctx[] = {4096, 5 * 64};
    ask_alone();
    for (size_t k = 0; k < AG_ARRAY_LEN(ctx); k++) {
        ag_engine *e = open_engine(conf_of(ctx[k], 64, 16));
        ag_gen *g[MANY], *free_one[MANY];
        for (int i = 0; i < MANY; i++) {
            ag_gen_spec s = json_spec(i), other = spec_of(20, 30, (uint64_t)i);
            g[i] = start(e, &s);
            free_one[i] = start(e, &other);
        }
        for (int i = 0; i < MANY; i++) {
            int32_t ids[OUT_MAX];
            uint32_t n;
            assert_int_equal(finish(g[i], ids, &n), alone_state[i]);
            assert_int_equal(n, alone_n[i]);
            assert_memory_equal(ids, alone[i], n * sizeof *ids);
            assert_int_equal(finish(free_one[i], ids, &n), AG_GEN_LENGTH);
            assert_int_equal(n, 30);
            ag_gen_put(g[i]);
            ag_gen_put(free_one[i]);
        }
        ag_engine_close(e);
    }
}

/* Each chooses by itself, and is whole within its length, as the shortest it may be. */
static void an_object_behind_one_of_some_texts(void **state)
{
    (void)state;
    static const char heads[] = "add: \0subtract: \0xyz: \0";
    static const char *const names[] = {"add: ", "subtract: ", "xyz: "};
    uint32_t chosen[3] = {0};
    ag_engine *e = open_engine(conf_of(4096, 64, 16));
    ag_gen *g[MANY], *none = NULL;
    for (int i = 0; i < MANY; i++) {
        ag_gen_spec s = json_spec(i);
        s.json_heads = heads;
        s.max_tokens = 7 + (uint32_t)i * 2;
        g[i] = start(e, &s);
    }
    for (int i = 0; i < MANY; i++) {
        int32_t ids[OUT_MAX];
        uint32_t n, k = 0;
        ag_gen_state end = finish(g[i], ids, &n);
        assert_true(end == AG_GEN_STOPPED || end == AG_GEN_LENGTH);
        while (k < 3 && (ids[0] != names[k][0])) k++; /* a token of the tiny vocabulary is mostly a byte */
        assert_true(k < 3);
        chosen[k]++;
        ag_buf text;
        ag_buf_init(&text, 1 << 16);
        for (uint32_t t = 0; t < n; t++) {
            ag_str piece = ag_gen_piece(g[i], ids[t]);
            ag_buf_add(&text, piece.p, piece.n);
        }
        assert_true(ag_str_starts(ag_buf_str(&text), ag_str_of(names[k])));
        json_t *j = json_loadb(text.p + strlen(names[k]), text.n - strlen(names[k]), 0, NULL);
        assert_true(json_is_object(j));
        json_decref(j);
        ag_buf_fini(&text);
        ag_gen_put(g[i]);
    }
    assert_true(chosen[0] > 0 && chosen[1] > 0 && chosen[2] > 0);
    ag_err err = {0};
    ag_gen_spec s = json_spec(0);
    s.json_heads = heads;
    s.max_tokens = 6;
    assert_int_equal(ag_gen_create(&none, e, &s, &err), AG_E_PARAM);
    assert_non_null(strstr(err.text, "takes at least 7"));
    ag_engine_close(e);
}

static void what_cannot_be_is_refused(void **state)
{
    (void)state;
    ag_engine *e = open_engine(conf_of(1024, 1, 16));
    ag_gen *g = NULL;
    ag_err err = {0};
    ag_gen_spec s = json_spec(0);
    s.max_tokens = 1;
    assert_int_equal(ag_gen_create(&g, e, &s, &err), AG_E_PARAM);
    assert_non_null(strstr(err.text, "at least 2"));
#ifdef AG_FAULTS
    int rc = AG_E_NOMEM;
    for (uint32_t n = 1; rc != AG_OK; n++) {
        s = json_spec(1);
        s.json_heads = "{a\0";
        s.max_tokens = 20;
        err = (ag_err){0};
        ag_fault_arm(AG_FAULT_ALLOC, n);
        rc = ag_gen_create(&g, e, &s, &err);
        ag_fault_disarm(AG_FAULT_ALLOC);
        if (rc != AG_OK) assert_int_equal(rc, AG_E_NOMEM);
    }
    ag_gen_put(g);
#endif
    ag_engine_close(e);
}

int main(void)
{
    tiny_model_open(&shared, true);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_answer_is_an_object),
        cmocka_unit_test(the_batch_changes_nothing),
        cmocka_unit_test(an_object_behind_one_of_some_texts),
        cmocka_unit_test(what_cannot_be_is_refused),
    };
    int rc = cmocka_run_group_tests(tests, NULL, NULL);
    tiny_model_close(&shared);
    return rc;
}
