#include "cli/sim_report.h"

/* Rates are over the time that was counted: from the warm-up to when the last one was served. */
static double counted_s(const ag_scenario *s, const ag_fleet_result *r)
{
    return r->end_us > s->warmup_us ? (double)(r->end_us - s->warmup_us) * 1e-6 : 1e-6;
}

static double busy_share(const ag_scenario *s, const ag_fleet_result *r)
{
    return r->end_us ? (double)r->busy_us / ((double)r->end_us * s->machines) : 0;
}

static double ms(const ag_hist *h, double q) { return ag_hist_quantile(h, q) / 1e3; }
static double max_ms(const ag_hist *h) { return (double)h->max / 1e3; }
static uint64_t refused(const ag_fleet_line *l) { return l->refused_full + l->refused_late + l->refused_other; }

static const char *title_of(const ag_scenario *s) { return s->name[0] ? s->name : "a scenario without a name"; }

/* --- a table ------------------------------------------------------------------------------------------------------ */

static void table_line(ag_buf *out, const char *name, const ag_fleet_line *l, double seconds)
{
    const uint64_t counts[] = {l->asked, l->done, refused(l), l->displaced, l->expired, l->timed_out,
                               l->cancelled + l->unfinished};
    ag_buf_addf(out, "%-16.16s", name);
    for (size_t i = 0; i < AG_ARRAY_LEN(counts); i++) ag_buf_addf(out, " %9llu", (unsigned long long)counts[i]);
    ag_buf_addf(out, " %9.1f %9.1f %9.1f %9.1f %9.1f %9.1f %10.1f\n", ms(&l->wait, 0.99), ms(&l->ttft, 0.5),
                ms(&l->ttft, 0.95), ms(&l->ttft, 0.99), ms(&l->gap, 0.99), max_ms(&l->gap),
                (double)l->output_tokens / seconds);
}

static void table_head(ag_buf *out, const char *what)
{
    static const char *const columns[] = {"asked", "done", "refused", "displaced", "expired", "partly", "left",
                                          "wait p99", "TTFT p50", "p95", "p99", "gap p99", "max"};
    ag_buf_addf(out, "\n%-16s", what);
    for (size_t i = 0; i < AG_ARRAY_LEN(columns); i++) ag_buf_addf(out, " %9s", columns[i]);
    ag_buf_addf(out, " %10s\n", "tokens/s");
}

bool ag_sim_table(const ag_scenario *s, const ag_fleet_result *r, ag_buf *out)
{
    double seconds = counted_s(s, r), requests = (double)r->all.asked / ((double)(s->seconds_us - s->warmup_us) * 1e-6);
    ag_buf_addf(out, "%s\n%u machine%s, %.6g requests/s for %.6g s, seed %llu; %s %.6g s\n", title_of(s),
                s->machines, s->machines == 1 ? "" : "s", requests, (double)s->seconds_us * 1e-6,
                (unsigned long long)s->seed, r->all.unfinished ? "played for" : "all served after",
                (double)r->end_us * 1e-6);
    table_head(out, "class (ms)");
    for (uint32_t i = 0; i < s->n_classes; i++) table_line(out, s->classes[i].name, &r->classes[i], seconds);
    if (s->n_classes > 1) table_line(out, "all", &r->all, seconds);
    if (s->n_groups > 1) table_head(out, "tenants (ms)");
    for (uint32_t i = 0; s->n_groups > 1 && i < s->n_groups; i++)
        table_line(out, s->groups[i].name, &r->groups[i], seconds);
    double prompt = (double)(r->prompt_rows + r->reused_tokens);
    ag_buf_addf(out, "\nmachines were busy %.1f %% of the time, in %llu steps of %.2f rows\n", 100 * busy_share(s, r),
                (unsigned long long)r->steps,
                (double)(r->prompt_rows + r->output_rows + r->again_rows) / (double)AG_MAX(r->steps, (uint64_t)1));
    ag_buf_addf(out, "waits were %.1f ms in the median, %.1f at p95; what was told before was off by %.1f and %.1f\n",
                ms(&r->all.wait, 0.5), ms(&r->all.wait, 0.95), ms(&r->all.off, 0.5), ms(&r->all.off, 0.95));
    ag_buf_addf(out, "%.1f %% of prompt tokens were reused; %.2f %% of the rows were computed for nobody\n",
                prompt > 0 ? 100 * (double)r->reused_tokens / prompt : 0,
                r->all.rows ? 100 * (double)r->all.rows_in_vain / (double)r->all.rows : 0);
    return ag_buf_addf(out, "set back: %llu for want of pages, %llu for more urgent ones, %llu for tenants under their "
                       "share; %llu rows computed again\n", (unsigned long long)r->set_back_pages,
                       (unsigned long long)r->set_back_urgent, (unsigned long long)r->set_back_share,
                       (unsigned long long)r->again_rows);
}

/* --- JSON --------------------------------------------------------------------------------------------------------- */

static void json_hist(ag_buf *out, const char *key, const ag_hist *h)
{
    static const struct { const char *key; double q; } parts[] = {
        {"p50", 0.5}, {"p90", 0.9}, {"p95", 0.95}, {"p99", 0.99}};
    ag_buf_addf(out, ",\"%s\":{\"count\":%llu,\"mean\":%.3f", key, (unsigned long long)h->n, ag_hist_mean(h) / 1e3);
    for (size_t i = 0; i < AG_ARRAY_LEN(parts); i++) ag_buf_addf(out, ",\"%s\":%.3f", parts[i].key, ms(h, parts[i].q));
    ag_buf_addf(out, ",\"max\":%.3f}", max_ms(h));
}

typedef struct count { const char *key; uint64_t n; } count;

static void json_counts(ag_buf *out, const count *c, size_t n)
{
    for (size_t i = 0; i < n; i++) ag_buf_addf(out, ",\"%s\":%llu", c[i].key, (unsigned long long)c[i].n);
}

static void json_line(ag_buf *out, const ag_fleet_line *l, double seconds)
{
    const count counts[] = {
        {"asked", l->asked}, {"done", l->done}, {"refused_full", l->refused_full}, {"refused_late", l->refused_late},
        {"refused_other", l->refused_other}, {"displaced", l->displaced}, {"expired", l->expired},
        {"timed_out", l->timed_out}, {"cancelled", l->cancelled}, {"unfinished", l->unfinished},
        {"prompt_tokens", l->prompt_tokens}, {"output_tokens", l->output_tokens}, {"rows", l->rows},
        {"rows_in_vain", l->rows_in_vain}};
    ag_buf_addf(out, "{\"output_tokens_s\":%.3f", (double)l->output_tokens / seconds);
    json_counts(out, counts, AG_ARRAY_LEN(counts));
    json_hist(out, "wait_ms", &l->wait);
    json_hist(out, "ttft_ms", &l->ttft);
    json_hist(out, "gap_ms", &l->gap);
    json_hist(out, "latency_ms", &l->total);
    json_hist(out, "wait_estimate_off_ms", &l->off);
    ag_buf_addc(out, '}');
}

static void json_doubles(ag_buf *out, const char *key, const double *v, double unit)
{
    ag_buf_addf(out, ",\"%s\":[", key);
    for (uint32_t i = 0; i < AG_FLEET_BINS; i++) ag_buf_addf(out, "%s%.4g", i ? "," : "", v[i] * unit);
    ag_buf_addc(out, ']');
}

/* null where nobody came */
static void json_times(ag_buf *out, const char *key, const uint64_t *us)
{
    ag_buf_addf(out, "%s\":[", key);
    for (uint32_t i = 0; i < AG_FLEET_BINS; i++) {
        if (us[i]) ag_buf_addf(out, "%s%.3f", i ? "," : "", (double)us[i] / 1e3);
        else ag_buf_addf(out, "%snull", i ? "," : "");
    }
    ag_buf_addc(out, ']');
}

static void json_series(ag_buf *out, const ag_scenario *s, const ag_fleet_result *r)
{
    double bin = (double)r->bin_us * 1e-6;
    ag_buf_addf(out, "\"over_time\":{\"seconds\":%.6f", bin);
    json_doubles(out, "waiting", r->waiting, 1);
    json_doubles(out, "running", r->running, 1);
    json_doubles(out, "busy", r->busy, 1);
    ag_buf_addz(out, ",\"tokens_s\":{");
    for (uint32_t i = 0; i < s->n_groups; i++) {
        if (i) ag_buf_addc(out, ',');
        ag_buf_add_json(out, s->groups[i].name, strlen(s->groups[i].name));
        for (uint32_t b = 0; b < AG_FLEET_BINS; b++)
            ag_buf_addf(out, "%s%.2f", b ? "," : ":[", (double)r->tokens[i][b] / bin);
        ag_buf_addc(out, ']');
    }
    ag_buf_addz(out, "},\"ttft_ms\":{");
    for (uint32_t i = 0; i < s->n_classes; i++) {
        if (i) ag_buf_addc(out, ',');
        ag_buf_add_json(out, s->classes[i].name, strlen(s->classes[i].name));
        ag_buf_addz(out, ":{");
        json_times(out, "\"p50", r->ttft_us[i][0]);
        json_times(out, ",\"p95", r->ttft_us[i][1]);
        ag_buf_addc(out, '}');
    }
    ag_buf_addz(out, "}}");
}

static void json_lines(ag_buf *out, const char *key, const ag_fleet_line *lines, uint32_t n, const char *first_name,
                       size_t stride, double seconds)
{
    ag_buf_addf(out, "\"%s\":{", key);
    for (uint32_t i = 0; i < n; i++) {
        const char *name = first_name + i * stride;
        if (i) ag_buf_addc(out, ',');
        ag_buf_add_json(out, name, strlen(name));
        ag_buf_addc(out, ':');
        json_line(out, &lines[i], seconds);
    }
    ag_buf_addz(out, "},");
}

bool ag_sim_json(const ag_scenario *s, const ag_fleet_result *r, ag_buf *out)
{
    double seconds = counted_s(s, r);
    ag_buf_addz(out, "{\"name\":");
    ag_buf_add_json(out, s->name, strlen(s->name));
    ag_buf_addf(out, ",\"seed\":%llu,\"seconds\":%.6f,\"warmup\":%.6f,\"ended\":%.6f,", (unsigned long long)s->seed,
                (double)s->seconds_us * 1e-6, (double)s->warmup_us * 1e-6, (double)r->end_us * 1e-6);
    ag_buf_addf(out, "\"machines\":{\"count\":%u,\"busy\":%.6f,\"step_time_error\":%.4f", s->machines, busy_share(s, r),
                r->step_error);
    const count counts[] = {{"steps", r->steps}, {"prompt_rows", r->prompt_rows}, {"output_rows", r->output_rows},
                            {"rows_again", r->again_rows}, {"reused_tokens", r->reused_tokens},
                            {"set_back_pages", r->set_back_pages}, {"set_back_urgent", r->set_back_urgent},
                            {"set_back_share", r->set_back_share}};
    json_counts(out, counts, AG_ARRAY_LEN(counts));
    ag_buf_addz(out, "},\"all\":");
    json_line(out, &r->all, seconds);
    ag_buf_addc(out, ',');
    json_lines(out, "classes", r->classes, s->n_classes, s->classes[0].name, sizeof s->classes[0], seconds);
    json_lines(out, "tenants", r->groups, s->n_groups, s->groups[0].name, sizeof s->groups[0], seconds);
    json_series(out, s, r);
    return ag_buf_addz(out, "}\n");
}
