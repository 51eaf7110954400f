#include "engine/sampler.h"

#include <math.h>

#include "base/fault.h"
#include "check.h"

enum { VOCAB = 2100 }; /* more than two blocks of the draw, and no multiple of one */

static ag_sampler *open_sampler(uint32_t vocab)
{
    ag_sampler *s = NULL;
    assert_int_equal(ag_sampler_open(&s, ag_cpu_isa_find("auto")->ops, vocab, NULL), AG_OK);
    return s;
}

/* Draws `n` tokens at positions 0..n-1 and counts them. */
static void draw_many(ag_sampler *s, ag_sample_in in, uint32_t n, uint32_t *counts, uint32_t vocab)
{
    memset(counts, 0, vocab * sizeof *counts);
    for (uint32_t i = 0; i < n; i++) {
        ag_sample out;
        in.position = i;
        assert_int_equal(ag_sampler_sample(s, &in, &out), AG_OK);
        assert_in_range(out.id, 0, vocab - 1);
        counts[out.id]++;
    }
}

static void test_greedy(void **state)
{
    (void)state;
    static float x[VOCAB];
    ag_sampler *s = open_sampler(VOCAB);
    ag_sampling p = AG_SAMPLING_DEFAULT;
    ag_sample out;
    for (uint32_t i = 0; i < VOCAB; i++) x[i] = -(float)(i % 7);
    x[1500] = 3;
    x[1501] = 3;
    p.temperature = 0;
    ag_sample_in in = {.logits = x, .sampling = &p, .top_logprobs = 2};
    assert_int_equal(ag_sampler_sample(s, &in, &out), AG_OK);
    assert_int_equal(out.id, 1500); /* the first of equals */
    assert_int_equal(out.n_top, 2);
    assert_int_equal(out.top[0].id, 1500);
    assert_int_equal(out.top[1].id, 1501);
    double all = 0;
    for (uint32_t i = 0; i < VOCAB; i++) all += exp((double)x[i]);
    assert_float_equal(out.logprob, 3 - log(all), 1e-5);
    p.temperature = 1;
    p.top_k = 1;
    assert_int_equal(ag_sampler_sample(s, &in, &out), AG_OK);
    assert_int_equal(out.id, 1500);
    ag_sampler_close(s);
}

/* Frequencies follow the softmax, over blocks of the draw as well. */
static void test_draw_follows_softmax(void **state)
{
    (void)state;
    static float x[VOCAB];
    static uint32_t counts[VOCAB];
    ag_sampler *s = open_sampler(VOCAB);
    ag_sampling p = AG_SAMPLING_DEFAULT;
    for (uint32_t i = 0; i < VOCAB; i++) x[i] = -30;
    const uint32_t at[] = {0, 1023, 1024, 2047, 2099};
    const double share[] = {0.1, 0.2, 0.3, 0.25, 0.15};
    for (int i = 0; i < 5; i++) x[at[i]] = (float)log(share[i]);
    p.seed = 7;
    draw_many(s, (ag_sample_in){.logits = x, .sampling = &p, .top_logprobs = -1}, 20000, counts, VOCAB);
    for (int i = 0; i < 5; i++) assert_float_equal(counts[at[i]] / 20000.0, share[i], 0.015);
    p.temperature = 0.5f; /* squares the shares */
    draw_many(s, (ag_sample_in){.logits = x, .sampling = &p, .top_logprobs = -1}, 20000, counts, VOCAB);
    double squares = 0;
    for (int i = 0; i < 5; i++) squares += share[i] * share[i];
    for (int i = 0; i < 5; i++) assert_float_equal(counts[at[i]] / 20000.0, share[i] * share[i] / squares, 0.015);
    ag_sampler_close(s);
}

static void kept(const ag_sampling *p, const char *want)
{
    /* Shares 0.4 0.3 0.15 0.1 0.05 of tokens 0..4. */
    static const double share[] = {0.4, 0.3, 0.15, 0.1, 0.05};
    float x[5];
    uint32_t counts[5];
    char got[6] = "";
    ag_sampler *s = open_sampler(5);
    for (int i = 0; i < 5; i++) x[i] = (float)log(share[i]);
    draw_many(s, (ag_sample_in){.logits = x, .sampling = p, .top_logprobs = -1}, 3000, counts, 5);
    for (int i = 0; i < 5; i++)
        if (counts[i]) got[strlen(got)] = (char)('0' + i);
    assert_string_equal(got, want);
    ag_sampler_close(s);
}

static void test_filters(void **state)
{
    (void)state;
    ag_sampling p = AG_SAMPLING_DEFAULT;
    kept(&p, "01234");
    p.top_k = 3;
    kept(&p, "012");
    p.top_p = 0.8f; /* of what top_k left: 0.4 + 0.3 of 0.85 */
    kept(&p, "01");
    p = AG_SAMPLING_DEFAULT;
    p.top_p = 0.71f;
    kept(&p, "012");
    p.top_p = 0.0001f;
    kept(&p, "0");
    p = AG_SAMPLING_DEFAULT;
    p.min_p = 0.3f; /* of the best: 0.12 and more */
    kept(&p, "012");
    p.top_k = 2;
    kept(&p, "01");
    p = AG_SAMPLING_DEFAULT;
    p.typical_p = 0.29f; /* the entropy is 1.39: token 1 (surprise 1.20) is nearest, then 0 (0.92) or 2 (1.90) */
    kept(&p, "1");
    p.typical_p = 0.5f;
    kept(&p, "01");
}

static void test_penalties_bias_bans(void **state)
{
    (void)state;
    const float x[4] = {2, 1.9f, -1, 1.8f};
    uint16_t counts[4] = {0, 0, 0, 0};
    unsigned char in_prompt[1] = {0};
    ag_sampler *s = open_sampler(4);
    ag_sampling p = AG_SAMPLING_DEFAULT;
    p.temperature = 0;
    ag_sample out;
    ag_sample_in in = {.logits = x, .sampling = &p, .counts = counts, .in_prompt = in_prompt, .top_logprobs = -1};
#define PICK(want) (assert_int_equal(ag_sampler_sample(s, &in, &out), AG_OK), assert_int_equal(out.id, want))
    p.repetition_penalty = 1.5f;
    PICK(0);
    in_prompt[0] = 1; /* token 0 stands in the prompt */
    PICK(1);
    p.repetition_penalty = 1;
    p.presence_penalty = 0.15f;
    PICK(0); /* presence counts the answer alone */
    counts[0] = 1;
    PICK(1);
    p.presence_penalty = 0;
    p.frequency_penalty = 0.06f;
    PICK(0);
    counts[0] = 3;
    counts[1] = 2;
    PICK(0);
    counts[0] = 4;
    PICK(3);
    p.frequency_penalty = 0;
    p.repetition_penalty = 1e-40f; /* would make the logits of seen tokens infinite */
    PICK(0);
    p.temperature = 1;
    PICK(0);
    p.temperature = 0;
    p.repetition_penalty = 1;
    in.counts = NULL;
    const ag_logit_bias bias[] = {{2, 100}};
    in.bias = bias;
    in.n_bias = 1;
    PICK(2);
    const int32_t banned[] = {2, 0};
    in.banned = banned;
    in.n_banned = 2;
    PICK(1);
    assert_true(isnan(out.logprob));
#undef PICK
    ag_sampler_close(s);
}

static void test_chance_is_a_function(void **state)
{
    (void)state;
    assert_true(ag_sampler_uniform(1, 2, 3) == ag_sampler_uniform(1, 2, 3));
    assert_true(ag_sampler_uniform(1, 2, 3) != ag_sampler_uniform(2, 2, 3));
    assert_true(ag_sampler_uniform(1, 2, 3) != ag_sampler_uniform(1, 3, 3));
    assert_true(ag_sampler_uniform(1, 2, 3) != ag_sampler_uniform(1, 2, 4));
    uint32_t bins[16] = {0};
    for (uint32_t i = 0; i < 16000; i++) {
        double u = ag_sampler_uniform(42, 0, i);
        assert_true(u >= 0 && u < 1);
        bins[(int)(u * 16)]++;
    }
    for (int i = 0; i < 16; i++) assert_in_range(bins[i], 850, 1150);
}

static void test_odd_logits(void **state)
{
    (void)state;
    float x[3] = {NAN, NAN, NAN};
    ag_sampler *s = open_sampler(3);
    ag_sampling p = AG_SAMPLING_DEFAULT;
    ag_sample out;
    ag_sample_in in = {.logits = x, .sampling = &p, .top_logprobs = 1};
    assert_int_equal(ag_sampler_sample(s, &in, &out), AG_E_INTERNAL);
    x[0] = x[1] = x[2] = -INFINITY;
    assert_int_equal(ag_sampler_sample(s, &in, &out), AG_E_INTERNAL);
    x[1] = INFINITY;
    assert_int_equal(ag_sampler_sample(s, &in, &out), AG_E_INTERNAL);
    /* Wherever it stands, and whatever else is there. */
    for (int at = 0; at < 3; at++) {
        const float odd[] = {NAN, -NAN, INFINITY};
        for (size_t k = 0; k < AG_ARRAY_LEN(odd); k++) {
            x[0] = x[1] = x[2] = 1;
            x[at] = odd[k];
            for (int greedy = 0; greedy < 2; greedy++) {
                p.temperature = greedy ? 0 : 1;
                in.top_logprobs = greedy ? -1 : 1;
                assert_int_equal(ag_sampler_sample(s, &in, &out), AG_E_INTERNAL);
            }
            assert_int_equal(ag_sampler_score(s, x, 1, 1, &out), AG_E_INTERNAL);
        }
        x[0] = x[1] = x[2] = 1;
        x[at] = -INFINITY;
        assert_int_equal(ag_sampler_sample(s, &in, &out), AG_OK);
        assert_int_not_equal(out.id, at);
    }
    x[0] = x[1] = x[2] = 1;
    const int32_t all[] = {0, 1, 2};
    in.banned = all;
    in.n_banned = 3;
    assert_int_equal(ag_sampler_sample(s, &in, &out), AG_E_UNSUPPORTED);
    in.n_banned = 0;
    const float fine[3] = {3e38f, -3e38f, 0};
    in.logits = fine;
    const float temps[] = {0, 1e-30f, 1e-3f, 1, 10};
    for (size_t i = 0; i < AG_ARRAY_LEN(temps); i++) {
        p.temperature = temps[i];
        assert_int_equal(ag_sampler_sample(s, &in, &out), AG_OK);
        assert_int_equal(out.id, 0);
    }
    ag_sampler_close(s);
}

static void test_no_memory(void **state)
{
    (void)state;
#ifdef AG_FAULTS
    for (uint32_t n = 1;; n++) {
        ag_sampler *s = NULL;
        ag_err err = {0};
        ag_fault_arm(AG_FAULT_ALLOC, n);
        int rc = ag_sampler_open(&s, ag_cpu_isa_find("scalar")->ops, 100, &err);
        bool fired = ag_fault_disarm(AG_FAULT_ALLOC);
        assert_int_equal(rc, fired ? AG_E_NOMEM : AG_OK);
        ag_sampler_close(s);
        if (!fired) break;
    }
#endif
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_greedy), cmocka_unit_test(test_draw_follows_softmax), cmocka_unit_test(test_filters),
        cmocka_unit_test(test_penalties_bias_bans), cmocka_unit_test(test_chance_is_a_function),
        cmocka_unit_test(test_odd_logits),
        cmocka_unit_test(test_no_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
