/* The scheduler alone, with a pretended model: every step is one that a backend takes, everybody gets on, nobody waits
 * for ever. */
#include "engine/sched.h"

#include "base/mem.h"
#include "check.h"

enum { MANY = 40, PAGE = AG_KV_PAGE };

static uint64_t seed;
static uint32_t random_below(uint32_t n)
{
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(seed >> 33) % n;
}

static ag_gen *gen_make(uint32_t n_prompt, uint32_t max_tokens, bool scored)
{
    ag_gen *g = ag_mem_zalloc(sizeof *g);
    g->n_prompt = g->n_tokens = n_prompt;
    g->max_tokens = max_tokens;
    g->prompt_logprobs = scored;
    g->n_scored = 1;
    g->tokens = ag_mem_array(n_prompt + max_tokens, sizeof *g->tokens);
    return g;
}

static void gen_free(ag_gen *g)
{
    assert_int_equal(g->n_pages, 0);
    ag_mem_free(g->tokens);
    ag_mem_free(g->pages);
    ag_mem_free(g);
}

static void admitted(void *arg, ag_gen *g)
{
    (void)g;
    ++*(uint32_t *)arg;
}

static void check_step(const ag_sched *s)
{
    const ag_batch *b = &s->batch;
    assert_true(b->n_rows >= 1 && b->n_rows <= s->rows_max && b->n_out <= s->out_max && b->n_spans <= s->running_max);
    uint32_t row = 0;
    for (uint32_t i = 0; i < b->n_spans; i++) {
        const ag_gen *g = s->span_gen[i];
        assert_int_equal(b->spans[i].row, row);
        assert_int_equal(b->spans[i].pos, g->computed);
        assert_true(b->spans[i].n >= 1 && b->spans[i].pos + b->spans[i].n <= AG_MIN(g->n_tokens, g->n_pages * PAGE));
        assert_ptr_equal(b->spans[i].pages, g->pages);
        for (uint32_t j = 0; j < i; j++) assert_ptr_not_equal(s->span_gen[j], g);
        row += b->spans[i].n;
    }
    assert_int_equal(row, b->n_rows);
    for (uint32_t i = 1; i < b->n_out; i++) assert_true(b->out_rows[i - 1] < b->out_rows[i]);
}

/* What the engine does with a step: scores are kept, one token follows the last one. Returns how many have ended. */
static uint32_t take_step(ag_sched *s)
{
    uint32_t ended = 0;
    ag_sched_done(s);
    for (uint32_t i = 0; i < s->batch.n_out; i++) {
        ag_gen *g = s->out_gen[i];
        if (s->out_index[i] + 1 < g->n_tokens) {
            assert_int_equal(s->out_index[i] + 1, g->n_scored); /* each once, in order */
            g->n_scored++;
            continue;
        }
        g->tokens[g->n_tokens++] = 1;
        if (g->n_tokens < g->n_prompt + g->max_tokens) continue;
        if (g->prompt_logprobs) assert_int_equal(g->n_scored, g->n_prompt);
        ag_sched_drop(s, g);
        gen_free(g);
        ended++;
    }
    return ended;
}

/* Random work on random machines comes to an end, in no more steps than one row of one sequence at a time would take
 * if everybody were set back once for each token of another. */
static void test_everybody_ends(void **state)
{
    (void)state;
    uint64_t preemptions = 0;
    for (seed = 1; seed <= 300;) {
        uint64_t round = seed;
        ag_sched s;
        uint32_t pages = 1 + random_below(12), running = 1 + random_below(8), out = running + random_below(4);
        uint32_t rows = out + random_below(300), n_admitted = 0, ended = 0, pushed = 0;
        assert_int_equal(ag_sched_init(&s, pages, running, rows, out, 1 + random_below(100), NULL), AG_OK);
        for (uint32_t steps = 0; ended < MANY; steps++) {
            assert_true(steps < 100000);
            while (pushed < MANY && random_below(3) == 0) {
                uint32_t ctx = pages * PAGE, n_prompt = 1 + random_below(ctx - 1);
                if (random_below(2)) n_prompt = 1 + random_below(20);
                ag_sched_push(&s, gen_make(n_prompt, 1 + random_below(AG_MIN(ctx - n_prompt, 100u)), random_below(3) == 0));
                pushed++;
            }
            if (!ag_sched_step(&s, admitted, &n_admitted)) {
                assert_true(s.n_running == 0 && s.first == NULL); /* nothing to do means that nothing is left */
                continue;
            }
            check_step(&s);
            ended += take_step(&s);
        }
        assert_true(n_admitted >= MANY);
        preemptions += s.preemptions;
        assert_int_equal(ag_kv_used(s.kv), 0);
        ag_sched_fini(&s);
        seed = round + 1;
    }
    assert_true(preemptions > 1000);
}

/* A prompt's next chunk wants more pages than are free; short prompts that come without end fit into what is free. They
 * must not keep it waiting for ever. */
static void test_newcomers_wait_for_prompts(void **state)
{
    (void)state;
    ag_sched s;
    uint32_t n = 0;
    assert_int_equal(ag_sched_init(&s, 9, 8, 4 * PAGE, 8, 4 * PAGE, NULL), AG_OK);
    ag_sched_push(&s, gen_make(PAGE - 1, 30, false)); /* takes its second page in the third step */
    assert_true(ag_sched_step(&s, admitted, &n));
    take_step(&s);
    ag_gen *slow = gen_make(8 * PAGE, 2, false);
    ag_sched_push(&s, slow);
    for (uint32_t steps = 0; slow->n_tokens == slow->n_prompt; steps++) {
        assert_true(steps < 100);
        assert_true(ag_sched_step(&s, admitted, &n));
        check_step(&s);
        take_step(&s);
        if (s.n_waiting == 0) ag_sched_push(&s, gen_make(1, 40, false));
    }
    while (s.n_running > 0 || s.first) {
        ag_gen *g = s.first ? s.first : s.running[0];
        ag_sched_drop(&s, g);
        gen_free(g);
    }
    ag_sched_fini(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_everybody_ends), cmocka_unit_test(test_newcomers_wait_for_prompts)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
