#include "sim/scenario.h"

#include <math.h>
#include <unistd.h>

#include "check.h"

#define MACHINES "machines: {step: {rows: {1: 10}}}\n"
#define CLASS "classes: {c: {arrive: {rate: 1}, prompt: 10, answer: 5}}\n"
#define ALL "seconds: 10\n" MACHINES CLASS

static ag_scenario s;

static void parse(const char *text)
{
    ag_err err = {0};
    if (ag_scenario_parse(&s, "s.yaml", ag_str_of(text), &err) != AG_OK) fail_msg("%s", err.text);
}

static void refused(const char *text, const char *sentence)
{
    ag_err err = {0};
    int rc = ag_scenario_parse(&s, "s.yaml", ag_str_of(text), &err);
    assert_int_equal(rc, AG_E_USAGE);
    assert_int_equal(err.code, AG_E_USAGE);
    assert_string_equal(err.text, sentence);
}

static void test_the_least(void **state)
{
    (void)state;
    parse(ALL);
    assert_int_equal(s.seconds_us, 10000000);
    assert_int_equal(s.machines, 1);
    assert_int_equal(s.machine.n_knots, 1);
    assert_true(s.machine.knot[0].us == 10000);
    assert_int_equal(s.n_groups, 1);
    assert_string_equal(s.groups[0].name, "everyone");
    assert_int_equal(s.n_classes, 1);
    assert_int_equal(s.classes[0].band, AG_BAND_DEFAULT);
    assert_int_equal(s.classes[0].until_us, s.seconds_us);
    assert_int_equal(s.sched.out_max, s.sched.running_max);
}

static void test_everything(void **state)
{
    (void)state;
    parse("name: all of it\nseconds: 100.5\nwarmup: 1\ndrain: 2\nseed: 3\n"
          "machines:\n  count: 4\n  choose: two\n  noise: 0.5\n"
          "  step: {rows: {1: 1.5, 8: 2}, key_ns: 2, read_ns: 4, logits_us: 3}\n"
          "  pages: 7\n  page_tokens: 8\n  running: 9\n  rows: 10\n  reuse: no\n  refuse_late: off\n  step_ratio: 2\n"
          "  gap_ms: 11\n  short_ms: 3\n  rows_min: 12\n"
          "  queue: {requests: 13, tokens: 14, age_seconds: 15, prompt_weight: 16, output_weight: 17}\n"
          "tenants: {a: {count: 2, weight: 0.5}, b: {}}\n"
          "classes:\n"
          "  x: {tenants: b, band: 0, timeout_ms: 1.5, arrive: {burst: 5, every: 0.5}, from: 1, until: 50,\n"
          "      prompt: {from: 1, to: 9}, answer: {mean: 10, spread: 1}, max_tokens: 50, prefix: {tokens: 3, of: 4},\n"
          "      cancel: {share: 0.25, after_ms: 10}}\n"
          "  y: {tenants: a, arrive: {callers: 6, pause: 2}, prompt: {mean: 10, max: 20}, answer: 1}\n");
    assert_string_equal(s.name, "all of it");
    assert_int_equal(s.seconds_us, 100500000);
    assert_int_equal(s.warmup_us, 1000000);
    assert_int_equal(s.choose, AG_CHOOSE_TWO);
    assert_true(s.machine.per_key_us == 2e-3 && s.machine.per_read_us == 4e-3 && s.machine.per_out_us == 3 &&
                s.machine.noise == 0.5);
    assert_int_equal(s.sched.pages, 7);
    assert_int_equal(s.sched.page_tokens, 8);
    assert_int_equal(s.sched.running_max, 9);
    assert_int_equal(s.sched.gap_us, 11000);
    assert_int_equal(s.sched.short_us, 3000);
    assert_false(s.sched.reuse || s.sched.refuse_late);
    assert_int_equal(s.sched.queue.entries_max, 13);
    assert_int_equal(s.sched.queue.tokens_max, 14);
    assert_int_equal(s.sched.queue.age_us, 15000000);
    assert_int_equal(s.sched.queue.output_weight, 17);
    const ag_scenario_class *x = &s.classes[0], *y = &s.classes[1];
    assert_int_equal(x->group, 1);
    assert_int_equal(x->timeout_us, 1500);
    assert_true(x->arrive == AG_ARRIVE_BURST && x->count == 5 && x->every_us == 500000);
    assert_true(x->from_us == 1000000 && x->until_us == 50000000);
    assert_true(x->prompt.kind == AG_DIST_UNIFORM && x->prompt.a == 1 && x->prompt.b == 9);
    assert_true(x->answer.kind == AG_DIST_LOGNORMAL && x->answer.a == 10 && x->answer.b == 1 && x->answer.max == 100);
    assert_true(x->prefix_tokens == 3 && x->prefixes == 4 && x->cancel_share == 0.25 && x->cancel_after.a == 10000);
    assert_true(y->arrive == AG_ARRIVE_CALLERS && y->count == 6 && y->pause_us == 2000000);
    assert_true(y->prompt.max == 20 && y->prompt.b == 0.7);
}

static void test_what_is_wrong_is_said(void **state)
{
    (void)state;
    refused("", "s.yaml: is empty; docs/sim.md tells what to say");
    refused("x", "s.yaml:1: should hold `word: value` lines");
    refused("seconds: 10\n" MACHINES, "s.yaml:1: classes: is missing");
    refused("seconds: 0\n" MACHINES CLASS, "s.yaml:1: seconds: 0 should be a number from 0.001 to 1000000");
    refused("seconds: ten\n", "s.yaml:1: seconds: ten should be a number from 0.001 to 1000000");
    refused("seconds: nan\n", "s.yaml:1: seconds: nan should be a number from 0.001 to 1000000");
    refused("seconds: [1]\n", "s.yaml:1: seconds: this should be a number from 0.001 to 1000000");
    refused("seconds: 1\nseconds: 2\n", "s.yaml:2: seconds: was given before");
    refused("secnods: 1\n", "s.yaml:1: secnods: there is no such word here; did you mean seconds?");
    refused("\"\\e[31m\": 1\n", "s.yaml:1: ?[31m: there is no such word here; docs/sim.md lists what there is");
    refused("seconds: &a 1\nwarmup: *a\n", "s.yaml:2: aliases (*name) are not taken here");
    refused(ALL "---\n" ALL, "s.yaml:4: one document is enough");
    refused("seconds: {\n", "s.yaml:1: seconds: this should be a number from 0.001 to 1000000");
    refused("seconds: @x\n", "s.yaml:1: not YAML: found character that cannot start any token");
    refused("seconds: 10\nwarmup: 10\n" MACHINES CLASS, "s.yaml: warmup: should be shorter than `seconds`");
    refused("seconds: 10\nname: \"a\\tb\"\n" MACHINES CLASS, "s.yaml:2: name: should be a text of 1 to 119 bytes");
}

static void test_wrong_machines(void **state)
{
    (void)state;
    refused("seconds: 10\nmachines: {}\n" CLASS, "s.yaml:2: machines: step times are missing: `step` or `bench`");
    refused("seconds: 10\nmachines: {step: {}}\n", "s.yaml:2: machines.step.rows: is missing");
    refused("seconds: 10\nmachines: {step: {rows: {}}}\n", "s.yaml:2: machines.step.rows: is empty");
    refused("seconds: 10\nmachines: {step: {rows: 5}}\n",
            "s.yaml:2: machines.step.rows: should hold rows and milliseconds, such as {1: 4.1, 64: 14}");
    refused("seconds: 10\nmachines: {step: {rows: {8: 1, 8: 2}}}\n",
            "s.yaml:2: machines.step.rows: rows should ascend");
    refused("seconds: 10\nmachines: {step: {rows: {1: 2, 8: 1}}}\n",
            "s.yaml:2: machines.step.rows: more rows should not take less time");
    refused("seconds: 10\nmachines: {count: 1.5}\n",
            "s.yaml:2: machines.count: 1.5 should be a whole number from 1 to 10000");
    refused("seconds: 10\nmachines: {choose: best}\n",
            "s.yaml:2: machines.choose: should be least (requests there), two (the lesser of two at random) or turns");
    refused("seconds: 10\nmachines: {reuse: 2}\n", "s.yaml:2: machines.reuse: should be true or false");
    refused("seconds: 10\nmachines: {step: {rows: {1: 1}}, bench: x}\n",
            "s.yaml:2: machines.bench: step times are given once, by `step` or by `bench`");
    refused("seconds: 10\nmachines: {step: {rows: {1: 1}}, count: 10000, pages: 100000}\n" CLASS,
            "machines: 10000 with caches of 6.4e+10 tokens in all; 1.07e+09 are enough");
    ag_err err = {0};
    assert_int_equal(ag_scenario_parse(&s, NULL, AG_STR("machines: {bench: /etc/hostname}"), &err), AG_E_USAGE);
    assert_string_equal(err.text, "scenario:1: machines.bench: files cannot be named here");
}

#define REFUSED_CLASS(fields, sentence) \
    refused("seconds: 10\n" MACHINES "classes: {c: {" fields "}}\n", "s.yaml:3: classes.c" sentence)

static void test_wrong_classes(void **state)
{
    (void)state;
    REFUSED_CLASS("arrive: {rate: 1}", ".prompt: is missing");
    REFUSED_CLASS("band: 4", ".band: 4 should be a whole number from 0 to 3");
    REFUSED_CLASS("timeout_ms: -1", ".timeout_ms: -1 should be a number from 0 to 100000000");
#define ARRIVALS ".arrive: should be {rate: N}, {burst: N, every: SECONDS} or {callers: N, pause: SECONDS}"
    REFUSED_CLASS("arrive: {}", ARRIVALS);
    REFUSED_CLASS("arrive: {rate: 1, callers: 2}", ARRIVALS);
    REFUSED_CLASS("arrive: {burst: 2}", ARRIVALS);
    REFUSED_CLASS("prompt: {from: 2}",
                  ".prompt: should be a number, {from: A, to: B}, or {mean: M, spread: S, max: X}");
    REFUSED_CLASS("prompt: {from: 9, to: 2}", ".prompt: `from` should not be above `to`");
    REFUSED_CLASS("prompt: 0", ".prompt: 0 should be a number from 1 to 1000000");
    REFUSED_CLASS("from: 5, until: 5, arrive: {rate: 1}, prompt: 1, answer: 1", ": `from` should be before `until`");
    REFUSED_CLASS("cancel: {share: 2}", ".cancel.share: 2 should be a number from 0 to 1");
    REFUSED_CLASS("prefix: {of: 2}", ".prefix.tokens: is missing");
    refused("seconds: 10\n" MACHINES "classes: {}\n", "s.yaml: classes: nobody asks for anything");
    refused("seconds: 10\n" MACHINES "classes: {c: {arrive: {rate: 1}, prompt: 1, answer: 1}, c: {}}\n",
            "s.yaml:3: classes.c: was given before");
    refused(ALL "tenants: {a: {}, b: {}}\n",
            "s.yaml: classes.c.tenants: is missing: there are several kinds of tenants");
    refused("seconds: 10\n" MACHINES "tenants: {people: {}, others: {}}\n"
            "classes:\n  c: {tenants: peple, arrive: {rate: 1}, prompt: 1, answer: 1}\n",
            "s.yaml:5: classes.c.tenants: there are no tenants named peple; did you mean people?");
    refused("seconds: 1000000\n" MACHINES "classes: {c: {arrive: {rate: 1e6}, prompt: 1, answer: 1}}\n",
            "s.yaml: classes ask for 1e+12 requests in all; 2e+08 are enough");
}

static void test_too_many(void **state)
{
    (void)state;
    char text[4000];
    for (int k = 0; k < 2; k++) {
        int n = snprintf(text, sizeof text, "seconds: 10\n" MACHINES "%s:\n", k ? "classes" : "tenants");
        for (int i = 0; i < 17; i++)
            n += snprintf(text + n, sizeof text - (size_t)n, k ? "  k%d: {arrive: {rate: 1}, prompt: 1, answer: 1}\n" :
                          "  k%d: {}\n", i);
        refused(text, k ? "s.yaml:20: classes.k16: 16 classes are enough" :
                "s.yaml:20: tenants.k16: 16 kinds of tenants are enough");
    }
    int n = snprintf(text, sizeof text, "seconds: 10\nmachines: {step: {rows: {");
    for (int i = 1; i <= 17; i++) n += snprintf(text + n, sizeof text - (size_t)n, "%d: 1, ", i);
    snprintf(text + n, sizeof text - (size_t)n, "}}}\n");
    refused(text, "s.yaml:2: machines.step.rows: 16 are enough");
}

/* --- step times --------------------------------------------------------------------------------------------------- */

static void test_bench(void **state)
{
    (void)state;
    /* 10 ms and 1 a row, 0.5 us a key */
    char text[2000];
    int n = snprintf(text, sizeof text, "{\"decode\":[");
    for (int batch = 1; batch <= 16; batch *= 4)
        for (int context = 127; context <= 1023; context = 8 * context + 7) {
            double ms = 10 + batch + batch * (context + 1) * 5e-4;
            n += snprintf(text + n, sizeof text - (size_t)n, "%s{\"batch\":%d,\"context\":%d,\"step_ms\":%.6f}",
                          n > 12 ? "," : "", batch, context, ms);
        }
    double ms = 10 + 256 + 512.0 * 513 / 4 * 5e-4; /* of two steps of 256 rows */
    snprintf(text + n, sizeof text - (size_t)n, "],\"prefill\":[{\"tokens\":512,\"tok_s\":%.6f,\"step_ms\":%.6f},{}]}",
             512 / (2 * ms) * 1e3, ms);
    ag_sim_machine m;
    ag_err err = {0};
    assert_int_equal(ag_scenario_bench_of(&m, "b.json", ag_str_of(text), &err), AG_OK);
    assert_true(fabs(m.per_key_us - 0.5) < 1e-3);
    assert_int_equal(m.n_knots, 4);
    for (uint32_t rows = 1; rows <= 256; rows++) {
        ag_step_shape a = {.rows = rows, .attended = 1000};
        assert_true(fabs(ag_sim_machine_us(&m, &a) - (10000 + 1000.0 * rows + 500)) < 60);
    }
    assert_true(m.per_read_us == 0); /* what decodes alone cannot tell apart */
    /* Long prompts beside them do: 0.25 us a key that is read, 0.125 for each row that attends to it. */
    n = snprintf(text, sizeof text, "{\"prefill\":[");
    for (int tokens = 512; tokens <= 4096; tokens *= 2) { /* in steps of 512 */
        int steps = tokens / 512;
        double a = tokens * (tokens + 1.0) / 2 / steps, r = tokens * (steps + 1.0) / 2 / steps;
        ms = 50 + a * 1.25e-4 + r * 2.5e-4;
        n += snprintf(text + n, sizeof text - (size_t)n, "%s{\"tokens\":%d,\"tok_s\":%.6f,\"step_ms\":%.6f}",
                      tokens > 512 ? "," : "", tokens, tokens / (steps * ms) * 1e3, ms);
    }
    snprintf(text + n, sizeof text - (size_t)n,
             "],\"decode\":[{\"batch\":4,\"context\":99,\"step_ms\":5.15},{\"batch\":4,\"context\":1099,\"step_ms\":6.65}]}");
    assert_int_equal(ag_scenario_bench_of(&m, "b.json", ag_str_of(text), &err), AG_OK);
    assert_true(fabs(m.per_key_us - 0.125) < 1e-3 && fabs(m.per_read_us - 0.25) < 1e-3);
    assert_int_equal(ag_scenario_bench_of(&m, "b.json", AG_STR("{}"), &err), AG_E_USAGE);
    assert_string_equal(err.text, "b.json: no step times; it should be what `autoglm bench --json` prints");
    static const char *const beyond[] = {"\"context\":-5", "\"context\":1e9", "\"tokens\":-1", "\"tokens\":1e300"};
    for (size_t i = 0; i < AG_ARRAY_LEN(beyond); i++) {
        ag_err_clear(&err);
        snprintf(text, sizeof text, "{\"decode\":[{\"batch\":1,\"step_ms\":1,%s}]}", beyond[i]);
        assert_int_equal(ag_scenario_bench_of(&m, "b.json", ag_str_of(text), &err), AG_E_USAGE);
    }
    ag_err_clear(&err);
    assert_int_equal(ag_scenario_bench_of(&m, "b.json", AG_STR("{"), &err), AG_E_USAGE);
    assert_non_null(strstr(err.text, "b.json:1: not JSON"));
}

static void test_files(void **state)
{
    (void)state;
    char dir[] = "/tmp/autoglm-scenario-XXXXXX", path[64], bench[64];
    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof path, "%s/s.yaml", dir);
    snprintf(bench, sizeof bench, "%s/b.json", dir);
    ag_err err = {0};
    assert_int_equal(ag_scenario_read(&s, path, &err), AG_E_IO);
    FILE *f = fopen(path, "w");
    fputs("seconds: 10\nmachines: {noise: 0.5, bench: b.json}\n" CLASS, f);
    fclose(f);
    ag_err_clear(&err);
    assert_int_equal(ag_scenario_read(&s, path, &err), AG_E_IO);
    assert_non_null(strstr(err.text, "b.json"));
    f = fopen(bench, "w");
    fputs("{\"decode\":[{\"batch\":2,\"context\":1,\"step_ms\":7}]}", f);
    fclose(f);
    ag_err_clear(&err);
    assert_int_equal(ag_scenario_read(&s, path, &err), AG_OK);
    assert_true(s.machine.n_knots == 1 && s.machine.knot[0].rows == 2 && s.machine.knot[0].us == 7000);
    assert_true(s.machine.noise == 0.5);
    f = fopen(path, "w");
    for (uint32_t i = 0; i <= AG_SCENARIO_BYTES_MAX; i++) fputc('#', f);
    fclose(f);
    assert_int_equal(ag_scenario_read(&s, path, &err), AG_E_USAGE);
    unlink(path);
    unlink(bench);
    rmdir(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_least), cmocka_unit_test(test_everything),
        cmocka_unit_test(test_what_is_wrong_is_said), cmocka_unit_test(test_wrong_machines),
        cmocka_unit_test(test_wrong_classes), cmocka_unit_test(test_too_many), cmocka_unit_test(test_bench),
        cmocka_unit_test(test_files)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
