/* autoglm sim: a scenario of requests and machines, played by the real queue and scheduler on a virtual clock. */
#include <errno.h>
#include <stdio.h>

#include "cli/cli.h"
#include "cli/sim_report.h"

typedef bool report_fn(const ag_scenario *s, const ag_fleet_result *r, ag_buf *out);

static int report(report_fn *print, const ag_scenario *s, const ag_fleet_result *r, FILE *f, const char *path,
                  ag_err *err)
{
    ag_buf b;
    ag_buf_init(&b, AG_SIM_TEXT_MAX);
    int rc = print(s, r, &b) ? AG_OK : ag_err_set(err, AG_E_NOMEM, "There is no memory for the report.");
    if (rc == AG_OK && fwrite(b.p, 1, b.n, f) != b.n)
        rc = ag_err_set(err, AG_E_IO, "%s: cannot be written: %s", path, strerror(errno));
    ag_buf_fini(&b);
    return rc;
}

static void show(void *arg, uint64_t now_us) { ag_progress_show(arg, now_us); }

static int play(const ag_scenario *s, bool json, FILE *svg, const char *svg_path, ag_err *err)
{
    ag_fleet_result *r;
    ag_progress progress;
    ag_fleet_watch watch = {.arg = &progress, .progress = show};
    ag_progress_begin(&progress, "simulating", s->seconds_us, false);
    int rc = ag_fleet_run(&r, s, &watch, err);
    ag_progress_end(&progress);
    if (rc == AG_OK) rc = report(json ? ag_sim_json : ag_sim_table, s, r, stdout, "stdout", err);
    if (rc == AG_OK && svg != NULL) rc = report(ag_sim_svg, s, r, svg, svg_path, err);
    ag_fleet_free(r);
    return rc;
}

static int run(const char *path, uint32_t machines, uint64_t seed, bool json, const char *svg_path, ag_err *err)
{
    ag_scenario s;
    FILE *svg = NULL;
    int rc = ag_scenario_read(&s, path, err);
    if (rc == AG_OK && machines > 0) rc = ag_scenario_machines(&s, machines, err);
    if (rc != AG_OK) return rc;
    if (seed != UINT64_MAX) s.seed = seed;
    if (svg_path != NULL && (svg = fopen(svg_path, "we")) == NULL) /* before minutes are spent for nothing */
        return ag_err_set(err, AG_E_IO, "%s: cannot be written: %s", svg_path, strerror(errno));
    rc = play(&s, json, svg, svg_path, err);
    if (svg != NULL && fclose(svg) != 0 && rc == AG_OK)
        rc = ag_err_set(err, AG_E_IO, "%s: cannot be written: %s", svg_path, strerror(errno));
    return rc;
}

int ag_cmd_sim(int argc, char **argv)
{
    uint32_t machines = 0;
    uint64_t seed = UINT64_MAX;
    const char *svg = NULL;
    bool json = false;
    const ag_opt opts[] = {
        {"machines", 0, AG_OPT_U32, &machines, 1, AG_SCENARIO_MACHINES_MAX, "so many in place of the scenario's"},
        {"seed", 0, AG_OPT_U64, &seed, 0, 9e15, "another seed than the scenario's"},
        {"json", 0, AG_OPT_FLAG, &json, 0, 0, "one JSON object"},
        {"svg", 0, AG_OPT_TEXT, &svg, 0, 0, "file for plots over the time"},
    };
    ag_cli cli = {.usage = "sim SCENARIO.yaml [--machines N] [--seed N] [--json] [--svg FILE]",
                  .about = "Plays a scenario of requests and machines with the queue and the scheduler that serve, on "
                           "a virtual clock. docs/sim.md tells what a scenario may say.",
                  .opts = opts, .n_opts = AG_ARRAY_LEN(opts), .args_min = 1, .args_max = 1};
    int status = 0;
    if (ag_cli_parse(&cli, argc, argv, &status)) {
        ag_err err = {0};
        run(cli.args[0], machines, seed, json, svg, &err);
        if (err.code) status = ag_cli_fail(argv[0], &err);
    }
    ag_cli_fini(&cli);
    return status;
}
