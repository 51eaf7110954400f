/* Embeddings on the real engine with a tiny random model: the same bits whoever else is served, however the prompt is
 * cut. */
#include "base/fault.h"
#include "engine/held.h"
#include "engine/lm.h"

enum { MANY = 10 };
static float alone[MANY][TINY_WIDTH];

static ag_gen_spec text_of(int i)
{
    ag_gen_spec s = spec_of(1 + (uint32_t)(i * 53 % 300), 0, (uint64_t)i);
    s.embed = true;
    return s;
}

static ag_gen_state wait_for(ag_gen *g)
{
    int32_t ids[OUT_MAX];
    uint32_t n;
    ag_gen_state state = finish(g, ids, &n);
    assert_int_equal(n, 0);
    return state;
}

static void embed(ag_engine *e, const ag_gen_spec *s, float *out, uint32_t *reused)
{
    ag_gen *g = start(e, s);
    assert_int_equal(wait_for(g), AG_GEN_STOPPED);
    memcpy(out, ag_gen_embedding(g), TINY_WIDTH * sizeof *out);
    if (reused) *reused = ag_gen_reused(g);
    ag_gen_put(g);
}

static double length(const float *x)
{
    double squares = 0;
    for (int i = 0; i < TINY_WIDTH; i++) squares += (double)x[i] * (double)x[i];
    return sqrt(squares);
}

static void embed_alone(ag_pooling pooling)
{
    shared.m.hp.pooling = pooling;
    ag_engine *e = open_engine(conf_of(1024, 1, 16));
    for (int i = 0; i < MANY; i++) {
        ag_gen_spec s = text_of(i);
        embed(e, &s, alone[i], NULL);
        assert_true(fabs(length(alone[i]) - 1) < 1e-6);
        for (int k = 0; k < i; k++) assert_memory_not_equal(alone[i], alone[k], sizeof alone[i]);
    }
    ag_engine_close(e);
}

/* Beside answers and one another. */
static void same_in(ag_engine_conf conf)
{
    ag_engine *e = open_engine(conf);
    ag_gen *answer[3], *g[MANY];
    for (int i = 0; i < 3; i++) {
        ag_gen_spec s = spec_of(30, 60, 70 + (uint64_t)i);
        answer[i] = start(e, &s);
    }
    for (int i = 0; i < MANY; i++) {
        ag_gen_spec s = text_of(i);
        g[i] = start(e, &s);
    }
    for (int i = 0; i < MANY; i++) {
        assert_int_equal(wait_for(g[i]), AG_GEN_STOPPED);
        assert_memory_equal(ag_gen_embedding(g[i]), alone[i], sizeof alone[i]);
        ag_gen_put(g[i]);
    }
    for (int i = 0; i < 3; i++) {
        int32_t ids[OUT_MAX];
        uint32_t n;
        assert_int_equal(finish(answer[i], ids, &n), AG_GEN_LENGTH);
        assert_int_equal(n, 60);
        assert_null(ag_gen_embedding(answer[i]));
        ag_gen_put(answer[i]);
    }
    ag_engine_stats st;
    ag_engine_stats_get(e, &st);
    assert_int_equal(st.kv_pages_used, 0);
    ag_engine_close(e);
}

static void same_however(ag_pooling pooling)
{
    embed_alone(pooling);
    same_in(conf_of(4096, 64, 64));
    same_in(conf_of(4096, 5, 1)); /* a row of a prompt at a time, beside answers */
    ag_engine_conf other = conf_of(4096, 64, 7);
    other.threads = 1;
    other.no_pass = "select_early,fuse_bias,fuse_glu,fuse_qkv,fuse_residual,fuse_heads,fuse_quantize,repeat";
    same_in(other);
}

static void test_mean(void **state) { (void)state; same_however(AG_POOLING_MEAN); }
static void test_last(void **state) { (void)state; same_however(AG_POOLING_LAST); }

/* An answer that grows takes the pages of a text that is half read, a row a step; what was read of it counts once.
 * false: the text came too late for that. */
static bool set_back(int i)
{
    ag_engine_conf conf = conf_of(7 * 64, 8, 1);
    conf.step_gap_us = 1;
    conf.step_ratio = 1;
    ag_engine *e = open_engine(conf);
    ag_gen_spec grows = spec_of(10, 300, 1), s = text_of(i);
    ag_gen *answer = start(e, &grows);
    while (ag_gen_count(answer) == 0) sched_yield();
    float x[TINY_WIDTH];
    embed(e, &s, x, NULL);
    assert_memory_equal(x, alone[i], sizeof x);
    int32_t ids[OUT_MAX];
    uint32_t n;
    assert_int_equal(finish(answer, ids, &n), AG_GEN_LENGTH);
    ag_gen_put(answer);
    ag_engine_stats st;
    ag_engine_stats_get(e, &st);
    ag_engine_close(e);
    return st.preemptions > 0;
}

static void test_set_back(void **state)
{
    (void)state;
    for (int p = 0; p < 2; p++) {
        embed_alone(p ? AG_POOLING_LAST : AG_POOLING_MEAN);
        assert_int_equal(text_of(5).n_prompt, 266); /* five of the seven pages */
        while (!set_back(5)) {}
    }
}

/* What it should come to, from the states of all rows. */
static void pooled(const ag_gen_spec *s, float *mean, float *last)
{
    ag_err err = {0};
    ag_lm *lm = NULL;
    ag_lm_conf conf = {.threads = 2, .rows_max = TINY_CTX, .out_max = 1, .ctx_tokens = TINY_CTX};
    if (ag_lm_open(&lm, &shared.m, &conf, &err) != AG_OK) fail_msg("%s", err.text);
    static const uint32_t pages[] = {0, 1, 2, 3, 4, 5, 6, 7};
    uint32_t rows[TINY_CTX];
    for (uint32_t i = 0; i < s->n_prompt; i++) rows[i] = i;
    ag_span span = {0, s->n_prompt, 0, pages};
    ag_batch b = {.n_rows = s->n_prompt,
                  .n_spans = 1,
                  .n_states = s->n_prompt,
                  .tokens = s->prompt,
                  .spans = &span,
                  .out_rows = rows};
    const float *logits, *x;
    size_t stride;
    ag_lm_run(lm, &b, &logits, &stride);
    x = lm->ops->states(lm->backend, &stride);
    double sum[TINY_WIDTH] = {0}, squares[2] = {0};
    const float *end = x + (s->n_prompt - 1) * stride;
    for (uint32_t r = 0; r < s->n_prompt; r++)
        for (int k = 0; k < TINY_WIDTH; k++) sum[k] += (double)x[r * stride + (uint32_t)k];
    for (int k = 0; k < TINY_WIDTH; k++) {
        squares[0] += sum[k] * sum[k];
        squares[1] += (double)end[k] * (double)end[k];
    }
    for (int k = 0; k < TINY_WIDTH; k++) {
        mean[k] = (float)(sum[k] / sqrt(squares[0]));
        last[k] = (float)((double)end[k] / sqrt(squares[1]));
    }
    ag_lm_close(lm);
}

static double distance(const float *a, const float *b)
{
    double worst = 0;
    for (int k = 0; k < TINY_WIDTH; k++) worst = AG_MAX(worst, fabs((double)a[k] - (double)b[k]));
    return worst;
}

static void test_what_it_is(void **state)
{
    (void)state;
    float want[2][TINY_WIDTH];
    for (int p = 0; p < 2; p++) {
        embed_alone(p ? AG_POOLING_LAST : AG_POOLING_MEAN);
        for (int i = 0; i < MANY; i++) {
            ag_gen_spec s = text_of(i);
            pooled(&s, want[0], want[1]);
            assert_true(distance(alone[i], want[p]) < 1e-6);
            if (s.n_prompt > 1) assert_true(distance(alone[i], want[1 - p]) > 1e-3);
        }
    }
}

/* The mean needs the states of all of the prompt; the last one does not, and others may use what either leaves. */
static void test_prefixes(void **state)
{
    (void)state;
    for (int p = 0; p < 2; p++) {
        shared.m.hp.pooling = p ? AG_POOLING_LAST : AG_POOLING_MEAN;
        ag_engine *e = open_engine(conf_of(1024, 4, 64));
        float first[TINY_WIDTH], again[TINY_WIDTH];
        uint32_t reused;
        ag_gen_spec s = spec_of(200, 0, 3);
        s.embed = true;
        embed(e, &s, first, &reused);
        assert_int_equal(reused, 0);
        embed(e, &s, again, &reused);
        assert_int_equal(reused, p ? 192 : 0);
        assert_memory_equal(first, again, sizeof first);
        ag_gen_spec answer = spec_of(200, 1, 3);
        int32_t ids[OUT_MAX];
        uint32_t n;
        ag_gen *g = start(e, &answer);
        assert_int_equal(finish(g, ids, &n), AG_GEN_LENGTH);
        assert_int_equal(ag_gen_reused(g), 192);
        ag_gen_put(g);
        ag_engine_stats st;
        ag_engine_stats_get(e, &st);
        assert_int_equal(st.asked_tokens, p ? 600 : 200);
        ag_engine_close(e);
    }
}

static void refused(ag_engine *e, const ag_gen_spec *s, int code, const char *word)
{
    ag_gen *g = NULL;
    ag_err err = {0};
    assert_int_equal(ag_gen_create(&g, e, s, &err), code);
    if (strstr(err.text, word) == NULL) fail_msg("%s", err.text);
}

static void test_refusals(void **state)
{
    (void)state;
    ag_engine *e = open_engine(conf_of(1024, 4, 64));
    ag_gen_spec s = text_of(1);
    s.max_tokens = 1;
    refused(e, &s, AG_E_PARAM, "should be 0");
    s = text_of(1);
    s.prompt_logprobs = true;
    refused(e, &s, AG_E_PARAM, "log probabilities");
    s = text_of(1);
    s.n_prompt = 0;
    refused(e, &s, AG_E_PARAM, "empty");
    s.n_prompt = TINY_CTX + 1;
    refused(e, &s, AG_E_CTX_LENGTH, "context");
    s = text_of(1);
    shared.m.hp.pooling = 2;
    refused(e, &s, AG_E_UNSUPPORTED, "pooling_type 2");
    shared.m.hp.pooling = AG_POOLING_MEAN;
    ag_engine_close(e);
}

/* Nothing of the sampler's counts. */
static void test_plain_spec(void **state)
{
    (void)state;
    embed_alone(AG_POOLING_MEAN);
    ag_engine *e = open_engine(conf_of(1024, 4, 64));
    ag_gen_spec s = text_of(4);
    s.sampling = (ag_sampling){0};
    float x[TINY_WIDTH];
    embed(e, &s, x, NULL);
    assert_memory_equal(x, alone[4], sizeof x);
    ag_engine_close(e);
}

static void test_ends(void **state)
{
    (void)state;
    ag_engine *e = open_held(conf_of(1024, 1, 64), 1);
    ag_gen_spec hog = spec_of(10, 300, 1), s = text_of(3);
    ag_gen *first = start(e, &hog), *g = start(e, &s), *cancelled;
    await_held();
    ag_gen_cancel(g);
    assert_int_equal(wait_for(g), AG_GEN_CANCELLED);
    ag_gen_put(g);
    ag_gen_cancel(first);
    let_go();
    ag_gen_put(first);
    s.deadline_us = 1;
    ag_err err = {0};
    assert_int_equal(ag_gen_create(&g, e, &s, &err), AG_OK);
    assert_int_equal(ag_gen_submit(g, NULL, &err), AG_E_DEADLINE);
    ag_gen_put(g);
    s = text_of(5);
    for (int i = 0; i < 50; i++) { /* at whatever point it is by then */
        cancelled = start(e, &s);
        for (int k = 0; k < i; k++) sched_yield();
        ag_gen_cancel(cancelled);
        ag_gen_state end = wait_for(cancelled);
        assert_true(end == AG_GEN_CANCELLED || end == AG_GEN_STOPPED);
        ag_gen_put(cancelled);
    }
    ag_engine_close(e);
}

static void test_faults(void **state)
{
    (void)state;
    embed_alone(AG_POOLING_MEAN);
    ag_engine *e = open_engine(conf_of(1024, 4, 64));
    ag_gen_spec s = text_of(2);
    for (uint32_t n = 1;; n++) {
        ag_gen *g = NULL;
        ag_err err = {0};
        ag_fault_arm(AG_FAULT_ALLOC, n);
        int rc = ag_gen_create(&g, e, &s, &err);
        if (rc == AG_OK) rc = ag_gen_submit(g, NULL, &err);
        bool ended = rc == AG_OK && wait_for(g) == AG_GEN_STOPPED;
        bool fired = ag_fault_disarm(AG_FAULT_ALLOC);
        if (rc != AG_OK) assert_int_equal(rc, AG_E_NOMEM);
        if (ended) assert_memory_equal(ag_gen_embedding(g), alone[2], sizeof alone[2]);
        else assert_true(fired);
        ag_gen_put(g);
        if (!fired) break;
    }
    ag_engine_close(e);
}

int main(void)
{
    tiny_model_open(&shared, true);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_mean),       cmocka_unit_test(test_last),     cmocka_unit_test(test_set_back),
        cmocka_unit_test(test_what_it_is), cmocka_unit_test(test_prefixes), cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_plain_spec), cmocka_unit_test(test_ends),     cmocka_unit_test(test_faults)};
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    tiny_model_close(&shared);
    return failed;
}
