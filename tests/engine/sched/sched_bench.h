/* sched_bench.h - a scheduler with a pretended machine: steps take fixed_us and row_us a row, answers go on until
 * max_tokens.
 * Owns its requests; one thread; MANY of them. */
#ifndef AG_TESTS_SCHED_BENCH_H
#define AG_TESTS_SCHED_BENCH_H

#include "engine/sched/sched.h"

#include "base/mem.h"
#include "check.h"

enum { PAGE = 4, MANY = 32, TOKENS = 4096 };

typedef struct ask {
    ag_seq seq;
    int32_t tokens[TOKENS];
    uint32_t admitted, set_back, rows; /* rows: in the last step */
    int out;                           /* 1 + why; 0: not */
} ask;

typedef struct bench {
    ag_sched *s;
    ag_sched_conf conf;
    uint64_t now;
    double fixed_us, row_us;
    ask asks[MANY];
    uint32_t n;
    const ag_sched_step *step;
} bench;

static inline void on_admitted(void *arg, ag_seq *q, uint64_t now_us)
{
    (void)arg;
    (void)now_us;
    ((ask *)q)->admitted++;
}

static inline void on_set_back(void *arg, ag_seq *q)
{
    (void)arg;
    ((ask *)q)->set_back++;
}

static inline void on_out(void *arg, ag_seq *q, ag_sched_why why, uint64_t now_us)
{
    (void)arg;
    (void)now_us;
    ((ask *)q)->out = 1 + (int)why;
}

static const ag_sched_conf conf_plain = {
    .queue = {.entries_max = 100, .tenants_max = 100, .prompt_weight = 1, .output_weight = 4, .age_us = 1000000},
    .pages = 1000,
    .page_tokens = PAGE,
    .running_max = 8,
    .rows_max = 256,
    .out_max = 16,
    .step_ratio = 1.3,
    .gap_us = 50000,
    .rows_min = 1,
    .reuse = true,
    .refuse_late = true,
    .events = {.admitted = on_admitted, .set_back = on_set_back, .out = on_out}};

static inline bench *begin(const ag_sched_conf *conf)
{
    bench *b = ag_mem_zalloc(sizeof *b);
    b->conf = *conf;
    b->now = 1000;
    b->fixed_us = 10000;
    b->row_us = 100;
    assert_int_equal(ag_sched_open(&b->s, conf, NULL), AG_OK);
    return b;
}

static inline void finish(bench *b)
{
    for (uint32_t i = 0; i < b->n; i++)
        if (b->asks[i].seq.running || b->asks[i].seq.q.queued) ag_sched_drop(b->s, &b->asks[i].seq, false);
    ag_sched_stats st;
    ag_sched_stats_get(b->s, &st);
    assert_int_equal(st.kv.used, 0);
    ag_sched_verify(b->s);
    ag_sched_close(b->s);
    ag_mem_free(b);
}

static inline ask *make(bench *b, const char *tenant, double weight, uint8_t band, uint32_t n_prompt,
                        uint32_t max_tokens)
{
    assert_true(b->n < MANY && n_prompt + max_tokens <= TOKENS);
    ask *a = &b->asks[b->n++];
    a->seq = (ag_seq){.q = {.tenant = ag_queue_tenant(ag_sched_queue(b->s), ag_str_of(tenant), weight), .band = band},
                      .tokens = a->tokens,
                      .n_tokens = n_prompt,
                      .n_prompt = n_prompt,
                      .max_tokens = max_tokens,
                      .salt = 7};
    for (uint32_t i = 0; i < n_prompt; i++) a->tokens[i] = (int32_t)(1000000 * b->n + i);
    return a;
}

static inline int submit(bench *b, ask *a)
{
    uint64_t retry;
    return ag_sched_submit(b->s, &a->seq, b->now, &retry, NULL);
}

static inline ask *ask_for(bench *b, const char *tenant, uint8_t band, uint32_t n_prompt, uint32_t max_tokens)
{
    ask *a = make(b, tenant, 1, band, n_prompt, max_tokens);
    assert_int_equal(submit(b, a), AG_OK);
    return a;
}

static inline bool choose(bench *b)
{
    for (uint32_t i = 0; i < b->n; i++) b->asks[i].rows = 0;
    bool any = ag_sched_step_next(b->s, b->now, &b->step);
    ag_sched_verify(b->s);
    for (uint32_t i = 0; i < b->step->n_spans; i++) ((ask *)b->step->spans[i].seq)->rows = b->step->spans[i].n;
    return any;
}

/* One step, with what the engine does after it: a token for each that is due, the end of those that have all. */
static inline bool step(bench *b)
{
    if (!choose(b)) return false;
    uint64_t us = (uint64_t)(b->fixed_us + b->row_us * b->step->n_rows);
    b->now += us;
    ag_sched_step_done(b->s, us);
    for (uint32_t i = 0; i < b->step->n_out; i++) {
        ask *a = (ask *)b->step->outs[i].seq;
        if (b->step->outs[i].index + 1 < a->seq.n_tokens) {
            a->seq.n_scored++;
            continue;
        }
        a->tokens[a->seq.n_tokens] = (int32_t)(a->tokens[0] + 500000 + (int32_t)a->seq.n_tokens);
        a->seq.n_tokens++;
        if (a->seq.n_tokens == a->seq.n_prompt + a->seq.max_tokens) ag_sched_drop(b->s, &a->seq, true);
    }
    ag_sched_verify(b->s);
    return true;
}

static inline uint32_t answered(const ask *a) { return a->seq.n_tokens - a->seq.n_prompt; }
static inline bool ended(const ask *a) { return answered(a) == a->seq.max_tokens; }
static inline void steps(bench *b, uint32_t n)
{
    while (n-- > 0) assert_true(step(b));
}
static inline void until_end(bench *b, const ask *a)
{
    for (uint32_t i = 0; !ended(a); i++) {
        assert_true(i < 10000);
        assert_true(step(b));
    }
}
static inline ag_sched_stats stats(bench *b)
{
    ag_sched_stats st;
    ag_sched_stats_get(b->s, &st);
    return st;
}

/* Steps of all sizes, so that the model knows what rows cost. */
static inline void teach(bench *b)
{
    static const uint32_t sizes[] = {1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256};
    for (uint32_t round = 0; round < 4; round++)
        for (uint32_t i = 0; i < AG_ARRAY_LEN(sizes); i++) {
            ask *a = make(b, "teacher", 1, 2, sizes[i], 2);
            a->seq.salt = AG_KV_ALONE;
            assert_int_equal(submit(b, a), AG_OK);
            until_end(b, a);
            b->n--;
            memset(&b->asks[b->n], 0, sizeof b->asks[b->n]);
        }
}

#endif
