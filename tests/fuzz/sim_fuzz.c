/* Any bytes as a scenario, and as what a benchmark printed: a sentence, or values within their ranges. */
#include "sim/scenario.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static bool dist_ok(const ag_dist *d) { return d->a >= 0 && d->b >= 0 && d->max >= 0 && d->max <= 1e12; }

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static ag_scenario s;
    ag_sim_machine m;
    ag_err err = {0};
    ag_str text = {(const char *)data, size};
    int rc = ag_scenario_parse(&s, NULL, text, &err);
    AG_ASSERT(rc == err.code && (rc == AG_OK) == (err.text[0] == 0));
    if (rc == AG_OK) {
        AG_ASSERT(s.machines >= 1 && s.n_classes >= 1 && s.n_classes <= AG_SCENARIO_CLASSES_MAX);
        AG_ASSERT(s.n_groups >= 1 && s.n_groups <= AG_SCENARIO_GROUPS_MAX && s.machine.n_knots >= 1);
        AG_ASSERT((double)s.machines * s.sched.pages * s.sched.page_tokens <= 0x1p30);
        for (uint32_t i = 0; i < s.n_classes; i++) {
            const ag_scenario_class *c = &s.classes[i];
            AG_ASSERT(c->group < s.n_groups && c->band < AG_BANDS && c->until_us <= s.seconds_us);
            AG_ASSERT(dist_ok(&c->prompt) && dist_ok(&c->answer) && dist_ok(&c->cancel_after));
        }
    }
    ag_err_clear(&err);
    rc = ag_scenario_bench_of(&m, "bench.json", text, &err);
    AG_ASSERT(rc == err.code);
    for (uint32_t i = 0; rc == AG_OK && i < m.n_knots; i++) {
        AG_ASSERT(m.knot[i].us >= 1 && m.knot[i].rows >= 1);
        AG_ASSERT(i == 0 || (m.knot[i].rows > m.knot[i - 1].rows && m.knot[i].us >= m.knot[i - 1].us));
    }
    return 0;
}
