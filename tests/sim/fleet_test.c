#include "sim/fleet.h"

#include <math.h>

#include "base/fault.h"
#include "check.h"

#define MACHINE "step: {rows: {1: 11, 32: 13, 128: 20, 512: 58, 2048: 215}}, pages: 512, running: 16"

static ag_scenario s;

static void parse(const char *text)
{
    ag_err err = {0};
    if (ag_scenario_parse(&s, NULL, ag_str_of(text), &err) != AG_OK) fail_msg("%s", err.text);
}

static void verify(void *arg, ag_sim *sim, const ag_sched_step *step, uint64_t us)
{
    (void)step, (void)us;
    uint64_t *steps = arg;
    if (++*steps % 64 == 0) ag_sched_verify(ag_sim_sched(sim));
}

static ag_fleet_result *play(const char *text)
{
    ag_fleet_result *r;
    ag_err err = {0};
    uint64_t steps = 0;
    ag_fleet_watch watch = {.arg = &steps, .stepped = verify};
    if (text != NULL) parse(text);
    if (ag_fleet_run(&r, &s, &watch, &err) != AG_OK) fail_msg("%s", err.text);
    assert_int_equal(r->steps, steps);
    return r;
}

static uint64_t ended(const ag_fleet_line *l)
{
    return l->done + l->refused_full + l->refused_late + l->refused_other + l->displaced + l->expired + l->timed_out +
           l->cancelled + l->unfinished;
}

/* --- who comes ---------------------------------------------------------------------------------------------------- */

static void test_arrivals(void **state)
{
    (void)state;
    ag_fleet_result *r = play("seconds: 100\nmachines: {count: 4, " MACHINE "}\n"
                              "tenants: {x: {count: 3}, y: {}}\n"
                              "classes:\n"
                              "  rate: {tenants: x, arrive: {rate: 20}, prompt: 10, answer: 2}\n"
                              "  late: {tenants: x, arrive: {rate: 20}, from: 50, until: 60, prompt: 10, answer: 2}\n"
                              "  burst: {tenants: y, arrive: {burst: 7, every: 30}, prompt: 10, answer: 2}\n"
                              "  callers: {tenants: y, arrive: {callers: 3, pause: 10}, prompt: 10, answer: 2}\n");
    assert_in_range(r->classes[0].asked, 1850, 2150); /* 2,000, and thrice its deviation */
    assert_in_range(r->classes[1].asked, 155, 245);
    assert_int_equal(r->classes[2].asked, 4 * 7);
    assert_int_equal(r->classes[3].asked, 3 * 10); /* an answer takes a moment, so the tenth comes at ninety and some */
    assert_int_equal(r->groups[0].asked, r->classes[0].asked + r->classes[1].asked);
    for (uint32_t i = 0; i < s.n_classes; i++) {
        assert_int_equal(r->classes[i].done, r->classes[i].asked);
        assert_int_equal(r->classes[i].output_tokens, 2 * r->classes[i].asked);
        assert_int_equal(r->classes[i].ttft.n, r->classes[i].asked);
        assert_int_equal(r->classes[i].gap.n, r->classes[i].asked);
    }
    assert_int_equal(r->all.asked, r->groups[0].asked + r->groups[1].asked);
    ag_fleet_free(r);
}

/* Many a microsecond apart are as many as were asked for. */
static void test_a_high_rate(void **state)
{
    (void)state;
    ag_fleet_result *r = play("seconds: 0.1\nmachines: {count: 4, choose: turns, " MACHINE ", queue: {requests: 10}}\n"
                              "classes: {c: {arrive: {rate: 400000}, prompt: 1, answer: 1}}\n");
    assert_in_range(r->all.asked, 40000 - 600, 40000 + 600);
    assert_int_equal(r->all.asked, ended(&r->all));
    ag_fleet_free(r);
}

static void test_lengths(void **state)
{
    (void)state;
    ag_fleet_result *r = play("seconds: 400\nmachines: {count: 4, " MACHINE "}\n"
                              "classes:\n"
                              "  log: {arrive: {rate: 20}, prompt: {mean: 50, spread: 0.8, max: 2000}, answer: 1}\n"
                              "  flat: {arrive: {rate: 20}, prompt: {from: 10, to: 90}, answer: {from: 1, to: 3}}\n");
    double log_mean = (double)r->classes[0].prompt_tokens / (double)r->classes[0].done;
    double flat_mean = (double)r->classes[1].prompt_tokens / (double)r->classes[1].done;
    assert_true(fabs(log_mean - 50) < 2.5 && fabs(flat_mean - 50) < 1.5);
    assert_true(fabs((double)r->classes[1].output_tokens / (double)r->classes[1].done - 2) < 0.1);
    ag_fleet_free(r);
}

/* --- what is counted ---------------------------------------------------------------------------------------------- */

/* Too much of everything: each way to end is met, and nobody is lost. */
static const char busy[] =
    "seconds: 60\nwarmup: 5\ndrain: 1\nmachines: {count: 2, " MACHINE ", noise: 0.2, queue: {requests: 20}}\n"
    "tenants: {a: {count: 3}, b: {weight: 3}}\n"
    "classes:\n"
    "  urgent: {tenants: a, band: 0, arrive: {rate: 3}, prompt: 100, answer: {from: 5, to: 50}}\n"
    "  timed: {tenants: b, timeout_ms: 4000, arrive: {rate: 20}, prompt: {mean: 300}, answer: {mean: 60}}\n"
    "  leavers: {tenants: a, arrive: {burst: 40, every: 10}, prompt: {mean: 500}, answer: 90,\n"
    "            cancel: {share: 0.5, after_ms: {from: 0, to: 5000}}}\n"
    "  patient: {tenants: a, band: 3, arrive: {callers: 30, pause: 0.1}, prompt: {from: 1000, to: 9000}, answer: 100,\n"
    "            prefix: {tokens: 500, of: 2}}\n"
    "  huge: {tenants: b, arrive: {burst: 1, every: 20}, prompt: 100000, answer: 1}\n";

static void test_nobody_is_lost(void **state)
{
    (void)state;
    ag_fleet_result *r = play(busy);
    for (uint32_t i = 0; i < s.n_classes; i++) assert_int_equal(r->classes[i].asked, ended(&r->classes[i]));
    for (uint32_t i = 0; i < s.n_groups; i++) assert_int_equal(r->groups[i].asked, ended(&r->groups[i]));
    assert_int_equal(r->all.asked, ended(&r->all));
    assert_true(r->all.done > 0 && r->all.cancelled > 0 && r->all.displaced > 0 && r->all.refused_full > 0);
    assert_true(r->classes[1].refused_late + r->classes[1].expired > 0 && r->all.unfinished > 0);
    assert_int_equal(r->classes[4].refused_other, r->classes[4].asked); /* can never fit */
    assert_int_equal(r->classes[0].done + r->classes[0].unfinished, r->classes[0].asked); /* urgent: all get in */
    assert_true(r->reused_tokens > 0);
    double share = (double)r->busy_us / ((double)r->end_us * 2);
    assert_true(share > 0.95 && share <= 1.0001);
    uint64_t tokens = 0;
    for (uint32_t g = 0; g < s.n_groups; g++)
        for (uint32_t b = 0; b < AG_FLEET_BINS; b++) tokens += r->tokens[g][b];
    assert_true(tokens >= r->all.output_tokens);
    for (uint32_t b = 10; b < AG_FLEET_BINS; b++) assert_true(r->busy[b] > 0.5 && r->running[b] > 0);
    ag_fleet_free(r);
}

static void test_same_again(void **state)
{
    (void)state;
    ag_fleet_result *a = play(busy), *b = play(busy), *c;
    assert_memory_equal(a, b, sizeof *a);
    s.seed++;
    c = play(NULL);
    assert_memory_not_equal(a, c, sizeof *a);
    ag_fleet_free(a);
    ag_fleet_free(b);
    ag_fleet_free(c);
}

static void test_choosing(void **state)
{
    (void)state;
    static const char text[] = "seconds: 60\nmachines: {count: 8, choose: %s, " MACHINE "}\nclasses:\n"
                               "  c: {arrive: {rate: 220}, prompt: {mean: 100, spread: 1}, answer: {mean: 30}}\n";
    static const char *const ways[] = {"least", "two", "turns"};
    double wait[3];
    for (int i = 0; i < 3; i++) {
        char t[512];
        snprintf(t, sizeof t, text, ways[i]);
        ag_fleet_result *r = play(t);
        assert_int_equal(r->all.done, r->all.asked);
        wait[i] = ag_hist_mean(&r->all.wait);
        print_message("%s: waits of %.1f ms\n", ways[i], wait[i] / 1e3);
        ag_fleet_free(r);
    }
    assert_true(wait[0] < wait[2] && wait[1] < wait[2]); /* to know something is better */
}

/* --- what the queue and the scheduler promise --------------------------------------------------------------------- */

static void test_a_flood_beside_one(void **state)
{
    (void)state;
    static const char head[] = "seconds: 120\nwarmup: 20\nmachines: {" MACHINE "}\ntenants: {a: {}, b: {}}\nclasses:\n"
                               "  one: {tenants: b, arrive: {callers: 1, pause: 0.5}, prompt: {from: 200, to: 600},\n"
                               "        answer: {from: 60, to: 200}}\n";
    static const char flood[] = "  flood: {tenants: a, arrive: {callers: 100}, prompt: {from: 200, to: 600},\n"
                                "          answer: {from: 60, to: 200}}\n";
    char text[1024];
    ag_fleet_result *alone = play(head);
    snprintf(text, sizeof text, "%s%s", head, flood);
    ag_fleet_result *beside = play(text);
    double p99 = ag_hist_quantile(&beside->classes[0].ttft, 0.99);
    double best = ag_hist_quantile(&alone->classes[0].ttft, 0.99);
    print_message("TTFT p99 alone %.1f ms, beside a flood %.1f ms\n", best / 1e3, p99 / 1e3);
    /* Alone, a prompt has steps for itself; beside others it has what a step may be longer than theirs. */
    assert_true(p99 <= 10 * best && ag_hist_quantile(&beside->classes[1].ttft, 0.5) > 10 * p99);
    ag_fleet_free(alone);
    ag_fleet_free(beside);
}

static void test_weights_are_shares(void **state)
{
    (void)state;
    ag_fleet_result *r = play("seconds: 200\nwarmup: 20\nmachines: {" MACHINE "}\n"
                              "tenants: {gold: {weight: 3}, iron: {weight: 1}}\n"
                              "classes:\n"
                              "  g: {tenants: gold, arrive: {callers: 60}, prompt: {from: 50, to: 150}, answer: 50}\n"
                              "  i: {tenants: iron, arrive: {callers: 60}, prompt: {from: 50, to: 150}, answer: 50}\n");
    double gold = 0, iron = 0;
    for (uint32_t b = 10; b < AG_FLEET_BINS; b++) gold += (double)r->tokens[0][b], iron += (double)r->tokens[1][b];
    assert_true(fabs(gold / iron - 3) < 0.3);
    ag_fleet_free(r);
}

/* Three times what can be served. */
static void test_overload(void **state)
{
    (void)state;
    ag_fleet_result *r = play("seconds: 120\nwarmup: 20\nmachines: {" MACHINE ", queue: {requests: 256}}\n"
                              "tenants: {t: {count: 20}}\n"
                              "classes:\n"
                              "  c: {timeout_ms: 8000, arrive: {rate: 30}, prompt: {mean: 400, spread: 0.6},\n"
                              "      answer: {mean: 120, spread: 0.5}}\n");
    print_message("%llu asked, %llu done, %llu in part; %llu of %llu rows in vain\n", (unsigned long long)r->all.asked,
                  (unsigned long long)r->all.done, (unsigned long long)r->all.timed_out,
                  (unsigned long long)r->all.rows_in_vain, (unsigned long long)r->all.rows);
    assert_true(r->all.done > 0 && r->all.done < r->all.asked / 2);
    assert_true((double)r->all.rows_in_vain <= 0.05 * (double)r->all.rows);
    assert_true(r->all.total.max <= 8100000); /* nobody is answered in full long after the deadline */
    ag_fleet_free(r);
}

/* --- no memory ---------------------------------------------------------------------------------------------------- */

static void test_no_memory(void **state)
{
    (void)state;
#ifdef AG_FAULTS
    parse("seconds: 2\nmachines: {count: 2, step: {rows: {1: 50}}, pages: 16, page_tokens: 4, running: 2, rows: 8}\n"
          "classes:\n  c: {arrive: {callers: 3}, prompt: 9, answer: 3}\n"
          "  d: {arrive: {burst: 2, every: 1}, prompt: 5, answer: 1}\n");
    for (uint32_t n = 1;; n++) {
        ag_fleet_result *r;
        ag_err err = {0};
        ag_fault_arm(AG_FAULT_ALLOC, n);
        int rc = ag_fleet_run(&r, &s, NULL, &err);
        bool fired = ag_fault_disarm(AG_FAULT_ALLOC);
        /* A machine that has none refuses the request, as a server would, and goes on. */
        assert_true(rc == AG_OK || (fired && rc == AG_E_NOMEM && err.text[0] != 0));
        if (rc == AG_OK) assert_int_equal(r->all.asked, ended(&r->all));
        ag_fleet_free(r);
        if (!fired) break;
    }
#endif
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_arrivals), cmocka_unit_test(test_a_high_rate), cmocka_unit_test(test_lengths),
        cmocka_unit_test(test_nobody_is_lost), cmocka_unit_test(test_same_again), cmocka_unit_test(test_choosing),
        cmocka_unit_test(test_a_flood_beside_one), cmocka_unit_test(test_weights_are_shares),
        cmocka_unit_test(test_overload), cmocka_unit_test(test_no_memory)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
