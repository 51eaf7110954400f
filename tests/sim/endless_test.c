/* Random servers under loads that never end: whoever leaves is followed by the next of its kind at once. Nobody
 * starves: within a bound that hangs on the queue's age and on how many there are, everybody has come to an end. They
 * are of every band and of tenants of every kind: one that floods, some that come again and again, and strangers, each
 * new, who by themselves would always be before those who have had something already.
 * A failure prints its seed: SEED=n repeats that run alone. SEEDS=n sets how many runs there are. */
#include "engine/sched/sched_inner.h"
#include "sim/sim.h"

#include "check.h"

enum { SEEDS = 40, CALLERS_MAX = 24, ANSWER_MAX = 12, PROMPT_MAX = 60 };

/* Whoever has risen keeps its place until it got a token: at worst it gets one each time, and then rises again, at each
 * level once four ages are over and those before it had their turn. */
#define BOUND_AGES(callers) (AG_BANDS * (4ull + (callers)) * (1 + ANSWER_MAX))

typedef enum kind { FLOOD, REGULAR, STRANGER, KINDS } kind;
typedef struct caller { kind kind; uint8_t band; } caller; /* and those who follow it */

typedef struct run {
    uint64_t seed, random, asked_before, ended_before, bound_us, until_us, strangers, worst_us;
    uint32_t callers, ends[AG_SIM_CANCELLED + 1];
    caller caller[CALLERS_MAX];
    bool deadlines;
    ag_sim_conf conf;
} run;

#include "sim/draw.h"

static void comes(run *r, ag_sim *sim, uint64_t who)
{
    const caller *c = &r->caller[who];
    char name[32] = "flood";
    if (c->kind == REGULAR) snprintf(name, sizeof name, "regular %llu", (unsigned long long)who % 3);
    if (c->kind == STRANGER) snprintf(name, sizeof name, "stranger %llu", (unsigned long long)++r->strangers);
    ag_sim_ask a = {.tenant = name,
                    .mark = who,
                    .weight = c->kind == REGULAR ? 0.25 : 1,
                    .band = c->band,
                    .n_prompt = between(r, 1, PROMPT_MAX),
                    .salt = 1,
                    .timeout_us = r->deadlines && one_in(r, 3) ? between(r, 1000, 400000) : 0};
    a.max_tokens = between(r, 1, ANSWER_MAX);
    a.n_answer = between(r, 1, a.max_tokens);
    assert_int_equal(ag_sim_ask_at(sim, ag_sim_now(sim), &a, NULL), AG_OK);
    r->asked_before += ag_sim_now(sim) + r->bound_us <= r->until_us;
}

static void on_ended(void *arg, ag_sim *sim, const ag_sim_req *q)
{
    run *r = arg;
    r->ends[q->end]++;
    r->ended_before += q->ask_us + r->bound_us <= r->until_us;
    r->worst_us = AG_MAX(r->worst_us, q->end_us - q->ask_us);
    comes(r, sim, q->ask.mark);
}

/* Mostly of one kind and band: what the others have to get past. */
static void draw_callers(run *r)
{
    kind most = (kind)below(r, KINDS);
    uint8_t band = (uint8_t)below(r, AG_BANDS);
    r->callers = between(r, 6, CALLERS_MAX);
    for (uint32_t i = 0; i < r->callers; i++)
        r->caller[i] = (caller){one_in(r, 4) ? (kind)below(r, KINDS) : most,
                                one_in(r, 4) ? (uint8_t)below(r, AG_BANDS) : band};
}

static ag_sim_conf draw_server(run *r)
{
    ag_sched_conf s = {.queue = {.entries_max = 2 * CALLERS_MAX,
                                 .tenants_max = between(r, 8, 64),
                                 .prompt_weight = 1,
                                 .output_weight = between(r, 0, 5),
                                 .age_us = between(r, 10000, 100000)},
                       .pages = between(r, 20, 100),
                       .page_tokens = 4,
                       .running_max = between(r, 1, 4),
                       .step_ratio = 1.3,
                       .gap_us = 50000,
                       .rows_min = between(r, 1, 16),
                       .reuse = one_in(r, 2)};
    s.rows_max = s.running_max + between(r, 10, 100);
    s.out_max = s.running_max + 4;
    return (ag_sim_conf){.sched = s,
                         .machine = {.knot = {{1, between(r, 500, 2000)}, {64, between(r, 3000, 8000)}}, .n_knots = 2},
                         .seed = r->seed,
                         .arg = r,
                         .ended = on_ended};
}

static double run_seed(uint64_t seed)
{
    seed_watch(seed);
    run r = {.seed = seed, .random = seed * 0x2545f4914f6cdd1du};
    r.deadlines = one_in(&r, 2);
    draw_callers(&r);
    r.conf = draw_server(&r);
    r.bound_us = BOUND_AGES(r.callers) * r.conf.sched.queue.age_us;
    r.until_us = 2 * r.bound_us;
    ag_sim *sim;
    assert_int_equal(ag_sim_open(&sim, &r.conf, NULL), AG_OK);
    for (uint32_t i = 0; i < r.callers; i++) comes(&r, sim, i);
    ag_sim_run(sim, r.until_us);
    ag_sched_verify(ag_sim_sched(sim));
    if (r.ended_before < r.asked_before || r.worst_us > r.bound_us || getenv("VERBOSE"))
        print_message("SEED=%llu: %u callers, age %.0f ms: %llu of %llu had ended after %.1f s, the last after %.1f\n",
                      (unsigned long long)seed, r.callers, r.conf.sched.queue.age_us / 1e3,
                      (unsigned long long)r.ended_before, (unsigned long long)r.asked_before, r.bound_us / 1e6,
                      r.worst_us / 1e6);
    assert_true(r.ends[AG_SIM_DONE] > 100);
    assert_int_equal(r.ended_before, r.asked_before);
    assert_true(r.worst_us <= r.bound_us);
    ag_sim_close(sim);
    return (double)r.worst_us / (double)r.bound_us;
}

static void test_nobody_starves(void **state)
{
    (void)state;
    const char *seed = getenv("SEED"), *seeds = getenv("SEEDS");
    uint64_t n = seeds ? strtoull(seeds, NULL, 10) : SEEDS;
    double worst = 0;
    if (seed) worst = run_seed(strtoull(seed, NULL, 10));
    for (uint64_t i = 1; !seed && i <= n; i++) worst = AG_MAX(worst, run_seed(i));
    print_message("the longest way was %.0f %% of what is allowed\n", 100 * worst);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_nobody_starves)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
