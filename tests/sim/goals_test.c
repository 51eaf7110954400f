/* What the scheduler is for, on virtual machines: a small model on two cores, and one eight times as large, whose step
 * times were measured.
 * Everything is decided by the code that serves; the clock is virtual, so these figures are the same everywhere and may
 * be asserted. */
#include "sim/sim.h"

#include "check.h"

enum { GAPS_MAX = 1 << 20, ENDS_MAX = 1 << 16 };

/* One sequence 2.4 ms a token, 32 at once 16 ms, 512 tokens of prompt 143 ms, 6,000 at 1,200 a second. */
static const ag_sim_machine small = {
    .knot = {{1, 2400}, {32, 15000}, {512, 119000}}, .n_knots = 3, .per_key_us = 0.185, .noise = 0.05};
/* One sequence 29 ms a token, 64 at once 253 ms, 256 tokens of prompt 784 ms. */
static const ag_sim_machine large = {.knot = {{1, 28600}, {4, 43000}, {6, 45000}, {8, 48000}, {12, 55000}, {16, 68000},
                                              {64, 230000}, {256, 765000}},
                                     .n_knots = 8,
                                     .per_key_us = 0.35,
                                     .per_read_us = 1.35,
                                     .noise = 0.05};
static const ag_sim_machine *machine = &small;
static uint64_t slower = 1; /* loads are so many times as slow, and watched so many times as long */
static const ag_sched_conf server = {
    .queue = {.entries_max = 1000, .tenants_max = 100, .prompt_weight = 1, .output_weight = 4, .age_us = 30000000},
    .pages = 4096,
    .page_tokens = 16,
    .running_max = 64,
    .rows_max = 512,
    .out_max = 64,
    .step_ratio = 1.3,
    .gap_us = 50000,
    .short_us = 200000,
    .rows_min = 1,
    .reuse = true,
    .refuse_late = true};

/* Looks at what happens between two times. */
typedef struct watch {
    uint64_t from_us, until_us;
    uint32_t mark;           /* of whose requests gaps and first tokens are kept */
    double *gaps, *first;
    uint32_t n_gaps, n_first;
    double longest_step, latest_first[8];
    uint64_t served[8];      /* tokens of answers, by mark */
    uint64_t done, answered, in_vain; /* answers that ended as they should; tokens of all, and of the others */
    uint64_t last_end_us;
    uint32_t ends[AG_SIM_CANCELLED + 1];
    ag_sim_ask again[8];     /* who comes back at once when it has ended, by mark */
    bool comes_back[8];
} watch;

static watch *watch_make(uint32_t mark, uint64_t from_us, uint64_t until_us)
{
    watch *w = calloc(1, sizeof *w);
    w->gaps = calloc(GAPS_MAX, sizeof *w->gaps);
    w->first = calloc(ENDS_MAX, sizeof *w->first);
    w->mark = mark;
    w->from_us = from_us;
    w->until_us = until_us;
    return w;
}

static void watch_free(watch *w)
{
    free(w->gaps);
    free(w->first);
    free(w);
}

static void on_stepped(void *arg, ag_sim *sim, const ag_sched_step *b, uint64_t us)
{
    watch *w = arg;
    uint64_t now = ag_sim_now(sim);
    if (now < w->from_us || now >= w->until_us) return;
    w->longest_step = AG_MAX(w->longest_step, (double)us);
    for (uint32_t i = 0; i < b->n_out; i++) {
        const ag_sim_req *r = (const ag_sim_req *)b->outs[i].seq;
        w->served[r->ask.mark]++;
        if (r->ask.mark == w->mark && r->last_us >= w->from_us && w->n_gaps < GAPS_MAX)
            w->gaps[w->n_gaps++] = (double)(now - r->last_us);
    }
}

static void on_ended(void *arg, ag_sim *sim, const ag_sim_req *r)
{
    watch *w = arg;
    uint64_t now = ag_sim_now(sim);
    if (w->comes_back[r->ask.mark] && now < w->until_us)
        assert_int_equal(ag_sim_ask_at(sim, now + 1, &w->again[r->ask.mark], NULL), AG_OK);
    if (r->first_us) w->latest_first[r->ask.mark] = (double)(r->first_us - r->ask_us);
    w->last_end_us = now;
    if (now < w->from_us || now >= w->until_us) return;
    w->ends[r->end]++;
    w->done += r->end == AG_SIM_DONE;
    w->answered += r->answered;
    if (r->end != AG_SIM_DONE) w->in_vain += r->answered;
    if (r->ask_us >= w->from_us && r->ask.mark == w->mark && r->first_us && w->n_first < ENDS_MAX)
        w->first[w->n_first++] = (double)(r->first_us - r->ask_us);
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}
static double quantile(double *x, uint32_t n, double p)
{
    assert_true(n > 0);
    qsort(x, n, sizeof *x, compare);
    return x[AG_MIN((uint32_t)(p * n), n - 1)];
}

static ag_sim *begin(watch *w, const ag_sched_conf *conf, uint64_t seed)
{
    ag_sim_conf c = {
        .sched = *conf, .machine = *machine, .seed = seed, .arg = w, .stepped = on_stepped, .ended = on_ended};
    ag_sim *sim;
    assert_int_equal(ag_sim_open(&sim, &c, NULL), AG_OK);
    return sim;
}

static void ask(ag_sim *sim, uint64_t at_us, ag_sim_ask a)
{
    assert_int_equal(ag_sim_ask_at(sim, at_us, &a, NULL), AG_OK);
}

/* Until the next of so many a second that come at random; draws from x. */
static double pause_us(uint64_t *x, double rate)
{
    *x = ag_mix64(*x);
    return -__builtin_log(((double)(*x >> 11) + 1) / 9007199254740993.0) / rate * 1e6;
}

/* Requests of all sizes before the clock counts, so that the cost model is that of a server that has been up for a
 * while. */
static void warm_up(ag_sim *sim, uint32_t mark)
{
    for (uint32_t i = 0; i < 60; i++)
        ask(sim, 1 + i * slower * 150000,
            (ag_sim_ask){.tenant = "warm",
                         .band = 2,
                         .n_prompt = 4 + i * 37 % 700,
                         .max_tokens = 60,
                         .n_answer = 60,
                         .salt = 9,
                         .mark = mark});
    for (uint32_t i = 0; i < 64; i++)
        ask(sim, slower * (9000000 + i * 20000),
            (ag_sim_ask){.tenant = "warm",
                         .band = 2,
                         .n_prompt = 20,
                         .max_tokens = 80,
                         .n_answer = 80,
                         .salt = 9,
                         .mark = mark});
}
#define WARM_US (slower * 20000000)

/* Four streams, and a prompt of 6,000 tokens arrives. */
static void test_a_long_prompt_beside_streams(void **state)
{
    (void)state;
    double p99[2], largest[2], first = 0;
    for (int with = 0; with < 2; with++) {
        watch *w = watch_make(1, WARM_US + slower * 3000000, WARM_US + slower * 13000000);
        ag_sim *sim = begin(w, &server, 1);
        warm_up(sim, 0);
        for (uint32_t i = 0; i < 4; i++)
            ask(sim, WARM_US + i * slower * 100000,
                (ag_sim_ask){.tenant = "streams",
                             .band = 2,
                             .n_prompt = 100,
                             .max_tokens = 4000,
                             .n_answer = 4000,
                             .salt = 1,
                             .mark = 1});
        if (with)
            ask(sim, w->from_us,
                (ag_sim_ask){.tenant = "long",
                             .band = 2,
                             .n_prompt = 6000,
                             .max_tokens = 10,
                             .n_answer = 10,
                             .salt = 1,
                             .mark = 2});
        ag_sim_run(sim, WARM_US + slower * 200000000);
        p99[with] = quantile(w->gaps, w->n_gaps, 0.99);
        largest[with] = w->gaps[w->n_gaps - 1];
        first = w->latest_first[2];
        ag_sim_close(sim);
        watch_free(w);
    }
    print_message(
        "streams' gap p99 %.1f ms, with the prompt %.1f; largest %.1f, %.1f; the prompt's first token after %.1f s\n",
        p99[0] / 1e3, p99[1] / 1e3, largest[0] / 1e3, largest[1] / 1e3, first / 1e6);
    assert_true(p99[1] <= 1.3 * p99[0]);
    assert_true(largest[1] <= 2 * largest[0]);
    assert_true(first > 0);
}

/* 64 streams of batch work fill the machine, and urgent requests come: one after the other, or at random, some while
 * the answer of the one before, a step of the batch for each of its tokens, is not over. */
static void full_house(bool at_random)
{
    double p99[3], step = 0;
    for (int round = 0; round < 3; round++) { /* alone; the batch alone; both */
        bool urgent = round != 1, batch = round != 0;
        watch *w = watch_make(urgent ? 1 : 2, WARM_US + slower * 5000000, WARM_US + slower * 305000000);
        ag_sim *sim = begin(w, &server, 2);
        warm_up(sim, 0);
        w->again[2] = (ag_sim_ask){
            .tenant = "batch", .band = 3, .n_prompt = 300, .max_tokens = 200, .n_answer = 200, .salt = 1, .mark = 2};
        w->comes_back[2] = true;
        for (uint32_t i = 0; batch && i < 64; i++) ask(sim, WARM_US + i, w->again[2]);
        uint64_t x = 77;
        double at = (double)w->from_us;
        for (uint32_t i = 1; urgent && at < (double)w->until_us; i++) {
            ask(sim, (uint64_t)at,
                (ag_sim_ask){.tenant = "urgent",
                             .band = 0,
                             .n_prompt = 200,
                             .max_tokens = 16,
                             .n_answer = 16,
                             .salt = 1,
                             .mark = 1});
            at += (double)slower * (at_random ? pause_us(&x, 1) : 1000000 + i * 7919 % 500000);
        }
        ag_sim_run(sim, w->until_us);
        p99[round] = quantile(w->first, w->n_first, 0.99);
        if (!urgent) step = quantile(w->gaps, w->n_gaps, 0.99);
        print_message("urgent %d, batch %d: first token p99 %.1f ms, longest step %.1f ms, %llu tokens of the batch\n",
                      urgent, batch, p99[round] / 1e3, w->longest_step / 1e3, (unsigned long long)w->served[2]);
        ag_sim_close(sim);
        watch_free(w);
    }
    print_message("urgent p99 above the idle server's by %.2f steps of the batch\n", (p99[2] - p99[0]) / step);
    assert_true(p99[2] <= p99[0] + step);
}

static void test_an_urgent_one_in_a_full_house(void **state)
{
    (void)state;
    full_house(false);
    full_house(true);
}

/* One tenant floods with 100 at once, another has one at a time; a backlog far older than the time of ageing changes
 * nothing. */
static void test_a_flood_and_one_at_a_time(void **state)
{
    (void)state;
    double p99[4], gap[4], flood[4];
    for (int round = 0; round < 4; round++) {
        static const uint32_t floods[] = {0, 100, 900, 100};
        bool one = round < 3;
        watch *w = watch_make(1, WARM_US + slower * 105000000, WARM_US + slower * 225000000);
        ag_sim *sim = begin(w, &server, 3);
        warm_up(sim, 0);
        w->again[2] = (ag_sim_ask){
            .tenant = "flood", .band = 2, .n_prompt = 300, .max_tokens = 200, .n_answer = 200, .salt = 1, .mark = 2};
        w->again[1] = (ag_sim_ask){
            .tenant = "one", .band = 2, .n_prompt = 200, .max_tokens = 50, .n_answer = 50, .salt = 2, .mark = 1};
        w->comes_back[1] = w->comes_back[2] = true;
        for (uint32_t i = 0; i < floods[round]; i++) ask(sim, WARM_US + i, w->again[2]);
        if (one) ask(sim, w->from_us, w->again[1]);
        ag_sim_run(sim, w->until_us);
        flood[round] = (double)w->served[2];
        if (one) p99[round] = quantile(w->first, w->n_first, 0.99), gap[round] = quantile(w->gaps, w->n_gaps, 0.99);
        ag_sched_stats st;
        ag_sched_stats_get(ag_sim_sched(sim), &st);
        if (one)
            print_message("beside a flood of %u: %u answers, first token p50 %.1f ms, p99 %.1f, gap p99 %.1f; flood's "
                          "tokens %.0f, set back %llu\n",
                          floods[round], w->n_first, quantile(w->first, w->n_first, 0.5) / 1e3, p99[round] / 1e3,
                          gap[round] / 1e3, flood[round], (unsigned long long)st.set_back_share);
        else print_message("a flood alone: %.0f tokens\n", flood[round]);
        assert_true(st.set_back_share <= w->done + 100);
        ag_sim_close(sim);
        watch_free(w);
    }
    assert_true(p99[1] <= 2 * p99[0]);
    assert_true(p99[2] <= 2 * p99[0]);
    /* Nor do its answers crawl: beside a few hundred prompts of the flood it has the gap, or steps in which a machine
     * reads its weights for a quarter of the time. And the flood has the rest. */
    assert_true(gap[0] > 0 && gap[1] <= AG_MAX(1.1 * server.gap_us, 4.5 * machine->knot[0].us));
    assert_true(flood[1] > 0.5 * flood[3]);
}

/* The flood's answers are so long that nobody new has been taken for longer than the time of ageing. */
static void test_a_flood_of_long_answers(void **state)
{
    (void)state;
    double p99[2];
    const uint32_t brief = slower > 1 ? 100 : 200; /* takes no longer than the flood's pause, but than a step */
    for (int round = 0; round < 2; round++) {
        ag_sched_conf conf = server;
        conf.queue.age_us = slower * 3000000;
        watch *w = watch_make(1, WARM_US + slower * 13000000, WARM_US + slower * 19000000);
        ag_sim *sim = begin(w, &conf, 3);
        warm_up(sim, 0);
        const ag_sim_ask flood = {
            .tenant = "flood", .band = 2, .n_prompt = 300, .max_tokens = 700, .n_answer = 700, .salt = 1, .mark = 2};
        w->again[1] = (ag_sim_ask){
            .tenant = "one", .band = 2, .n_prompt = brief, .max_tokens = 10, .n_answer = 10, .salt = 2, .mark = 1};
        w->comes_back[1] = true;
        for (uint32_t i = 0; round && i < 100; i++) ask(sim, WARM_US + i, flood);
        ask(sim, w->from_us, w->again[1]);
        ag_sim_run(sim, w->until_us);
        assert_true(w->n_first > 5);
        p99[round] = quantile(w->first, w->n_first, 0.99);
        ag_sim_close(sim);
        watch_free(w);
    }
    print_message("beside a flood of long answers: first token p99 %.1f ms, of %.1f\n", p99[1] / 1e3, p99[0] / 1e3);
    assert_true(p99[1] <= 2 * p99[0]);
}

/* Three floods of different requests share the machine by their weights. */
static void test_shares(void **state)
{
    (void)state;
    watch *w = watch_make(1, WARM_US + slower * 25000000, WARM_US + slower * 225000000);
    ag_sim *sim = begin(w, &server, 4);
    warm_up(sim, 0);
    for (uint32_t t = 1; t <= 3; t++) {
        w->again[t] = (ag_sim_ask){.tenant = t == 1   ? "a"
                                             : t == 2 ? "b"
                                                      : "c",
                                   .weight = t,
                                   .band = 2,
                                   .n_prompt = 100 * t,
                                   .max_tokens = 400 / t,
                                   .n_answer = 400 / t,
                                   .salt = t,
                                   .mark = t};
        w->comes_back[t] = true;
        for (uint32_t i = 0; i < 100; i++) ask(sim, WARM_US + i, w->again[t]);
    }
    ag_sim_run(sim, w->until_us);
    double units[4], all = 0;
    for (uint32_t t = 1; t <= 3; t++) {
        units[t] = (double)w->served[t] * (4 + 100.0 * t / (400 / t)); /* what was computed for its prompts as well */
        all += units[t];
    }
    ag_sched_stats st;
    ag_sched_stats_get(ag_sim_sched(sim), &st);
    print_message("shares at weights 1, 2, 3: %.3f %.3f %.3f; %llu answers, set back %llu\n", units[1] / all,
                  units[2] / all, units[3] / all, (unsigned long long)w->done, (unsigned long long)st.set_back_share);
    for (uint32_t t = 1; t <= 3; t++) assert_true(units[t] / all > 0.9 * t / 6 && units[t] / all < 1.1 * t / 6);
    assert_true(st.set_back_share <= w->done);
    ag_sim_close(sim);
    watch_free(w);
}

/* Requests of mixed lengths come at random, `rate` a second. */
static void arrivals(ag_sim *sim, double rate, bool deadlines, bool lengths_told)
{
    uint64_t x = 12345;
    for (double at = (double)WARM_US, end = at + (double)slower * 125e6; at < end;) {
        at += pause_us(&x, rate);
        x = ag_mix64(x);
        uint32_t answer = 40 + (uint32_t)(x % 161);
        ag_sim_ask a = {.tenant = "t",
                        .band = 2,
                        .n_prompt = 50 + (uint32_t)((x >> 20) % 400),
                        .max_tokens = lengths_told ? answer : 400,
                        .n_answer = answer,
                        .salt = 1,
                        .mark = 1};
        if (deadlines) a.timeout_us = slower * (8000000 + (x >> 40) % 8000000);
        ask(sim, (uint64_t)at, a);
    }
}

/* Three times as much is asked as can be done, with deadlines. What could be done is what the same server does when it
 * always has enough to do and nobody is in a hurry. */
static void test_overload(void **state)
{
    (void)state;
    static const char *const rounds[] = {"no deadlines", "lengths unknown, nobody refused", "lengths unknown",
                                         "lengths told"};
    double possible = 0;
    for (int round = 0; round < 4; round++) {
        watch *w = watch_make(1, WARM_US + slower * 25000000, WARM_US + slower * 125000000);
        ag_sched_conf conf = server;
        conf.queue.entries_max = 100000;
        conf.refuse_late = round > 1;
        ag_sim *sim = begin(w, &conf, 5);
        warm_up(sim, 0);
        double rate = round == 0 ? 30 : 3 * possible / 100; /* a second, of the small model's */
        arrivals(sim, rate / (double)slower, round > 0, round == 3);
        ag_sim_run(sim, w->until_us);
        if (round == 0) possible = (double)w->done;
        double part = (double)w->done / possible, vain = (double)w->in_vain / (double)w->answered;
        print_message("overload, %s: %llu answers in time, %.3f of what can be done; %.3f of tokens in vain; %u "
                      "refused, %u expired, %u timed out\n",
                      rounds[round], (unsigned long long)w->done, part, vain, w->ends[AG_SIM_REFUSED],
                      w->ends[AG_SIM_EXPIRED], w->ends[AG_SIM_TIMEOUT]);
        if (round > 1) {
            assert_true(part >= 0.9);
            assert_true(vain <= 0.05);
        }
        ag_sim_close(sim);
        watch_free(w);
    }
}

/* 50 callers with one beginning of 2,000 tokens: one after the other, and all at once. */
static void test_a_shared_prefix(void **state)
{
    (void)state;
    double first[2][2], took[2];
    for (int reuse = 0; reuse < 2; reuse++) {
        ag_sched_conf conf = server;
        conf.reuse = reuse;
        for (int at_once = 0; at_once < 2; at_once++) {
            watch *w = watch_make(1, WARM_US, UINT64_MAX);
            ag_sim *sim = begin(w, &conf, 6);
            warm_up(sim, 0);
            for (uint32_t i = 0; i < (at_once ? 50 : 2); i++)
                ask(sim, WARM_US + (at_once ? 0 : i * slower * 10000000),
                    (ag_sim_ask){.tenant = "t",
                                 .band = 2,
                                 .n_prompt = 2020,
                                 .n_prefix = 2000,
                                 .prefix = 7,
                                 .max_tokens = 32,
                                 .n_answer = 32,
                                 .salt = 1,
                                 .mark = 1});
            if (at_once) {
                ag_sim_run(sim, UINT64_MAX - 1);
                took[reuse] = (double)(w->last_end_us - WARM_US);
            } else {
                ag_sim_run(sim, WARM_US + slower * 9000000);
                first[reuse][0] = w->latest_first[1];
                ag_sim_run(sim, UINT64_MAX - 1);
                first[reuse][1] = w->latest_first[1];
            }
            ag_sim_close(sim);
            watch_free(w);
        }
    }
    print_message(
        "a shared beginning: first token %.0f ms, second caller's %.0f; 50 at once in %.1f s, without reuse %.1f\n",
        first[1][0] / 1e3, first[1][1] / 1e3, took[1] / 1e6, took[0] / 1e6);
    assert_true(first[1][1] <= 0.1 * first[1][0]);
    assert_true(took[0] >= 5 * took[1]);
    assert_true(first[0][1] >= 0.9 * first[0][0]); /* it is the reuse that does it */
}

/* A long text of the same caller is being read: a short question does not wait for it. */
static void test_a_short_question_beside_a_long_text(void **state)
{
    (void)state;
    watch *w = watch_make(1, WARM_US, WARM_US + slower * 60000000);
    ag_sim *sim = begin(w, &server, 7);
    warm_up(sim, 0);
    ask(sim, WARM_US,
        (ag_sim_ask){
            .tenant = "t", .band = 2, .n_prompt = 6000, .max_tokens = 10, .n_answer = 10, .salt = 1, .mark = 2});
    for (uint32_t i = 0; i < 10; i++)
        ask(sim, WARM_US + slower * (100000 + i * 300000),
            (ag_sim_ask){
                .tenant = "t", .band = 2, .n_prompt = 40, .max_tokens = 1, .n_answer = 1, .salt = 1, .mark = 1});
    ag_sim_run(sim, w->until_us);
    double worst = quantile(w->first, w->n_first, 1);
    print_message(
        "short questions beside a long text: first token at most %.1f ms, the text's %.1f s, longest step %.1f ms\n",
        worst / 1e3, w->latest_first[2] / 1e6, w->longest_step / 1e3);
    assert_int_equal(w->n_first, 10);
    /* The one under way, and every other one; on a slow machine the questions also meet each other. */
    assert_true(worst < (slower == 1 ? 2.5 : 3) * w->longest_step);
    assert_true(w->latest_first[2] < 7e6 * (double)slower);
    ag_sim_close(sim);
    watch_free(w);
}

static int eight_times_as_large(void **state)
{
    (void)state;
    machine = &large;
    slower = 8;
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_long_prompt_beside_streams),
        cmocka_unit_test(test_an_urgent_one_in_a_full_house),
        cmocka_unit_test(test_a_flood_and_one_at_a_time),
        cmocka_unit_test(test_a_flood_of_long_answers),
        cmocka_unit_test(test_shares),
        cmocka_unit_test(test_overload),
        cmocka_unit_test(test_a_shared_prefix),
        cmocka_unit_test(test_a_short_question_beside_a_long_text),
    };
    int failed = cmocka_run_group_tests_name("a small model", tests, NULL, NULL);
    return failed + cmocka_run_group_tests_name("a large model", tests, eight_times_as_large, NULL);
}
