#include <stdio.h>

#include "cli/load.h"

static const struct kind {
    const char *name, *key;
    size_t at;
} kinds[] = {
    {"first token", "ttft_ms", offsetof(ag_load_stats, ttft)},
    {"gap", "gap_ms", offsetof(ag_load_stats, gap)},
    {"per token", "per_token_ms", offsetof(ag_load_stats, per_token)},
    {"whole answer", "latency_ms", offsetof(ag_load_stats, total)},
};

static const ag_hist *hist_of(const ag_load_stats *s, const struct kind *k)
{
    return (const ag_hist *)((const char *)s + k->at);
}

static const struct fail_name {
    const char *key, *words;
} fails[AG_LOAD_FAILS] = {
    [AG_LOAD_CONNECT] = {"connect", "no connection"},
    [AG_LOAD_BROKEN] = {"broken", "broken off"},
    [AG_LOAD_TIMEOUT] = {"timeout", "timed out"},
    [AG_LOAD_ERROR] = {"error_event", "an error inside the stream"},
    [AG_LOAD_STREAM] = {"bad_stream", "not a stream of events"},
    [AG_LOAD_LARGE] = {"too_large", "too large"},
};

static double per_s(uint64_t n, const ag_load_result *r) { return (double)n * 1e6 / (double)r->elapsed_us; }

static void print_stats(const ag_load_stats *s, const ag_load_result *r)
{
    printf("requests      %llu ok, %llu failed, %llu unfinished\n", (unsigned long long)s->ok,
           (unsigned long long)s->failed, (unsigned long long)s->unfinished);
    if (s->cut)
        printf("cut           %llu of those ok were stopped before their end, after %llu tokens in all\n",
               (unsigned long long)s->cut, (unsigned long long)s->cut_tokens);
    printf("rate          %.2f requests/s, %.1f output tokens/s, %.1f prompt tokens/s\n", per_s(s->ok, r),
           per_s(s->output_tokens, r), per_s(s->prompt_tokens, r));
    for (size_t i = 0; i < AG_ARRAY_LEN(kinds); i++) {
        const ag_hist *h = hist_of(s, &kinds[i]);
        if (h->n == 0) continue;
        printf("%-13s %10.2f %10.2f %10.2f %10.2f %10.2f %10llu\n", kinds[i].name, ag_hist_mean(h) / 1e3,
               ag_hist_quantile(h, 0.5) / 1e3, ag_hist_quantile(h, 0.9) / 1e3, ag_hist_quantile(h, 0.99) / 1e3,
               (double)h->max / 1e3, (unsigned long long)h->n);
    }
}

void ag_load_print(const ag_load_spec *spec, const ag_load_result *r)
{
    if (spec->rate > 0)
        printf("%s, %.6g requests/s arriving %s, %.1f s%s\n", spec->url, spec->rate,
               spec->even ? "evenly" : "at random", (double)r->elapsed_us / 1e6, r->interrupted ? ", interrupted" : "");
    else
        printf("%s, %u client%s, %.1f s%s\n", spec->url, spec->clients, spec->clients == 1 ? "" : "s",
               (double)r->elapsed_us / 1e6, r->interrupted ? ", interrupted" : "");
    printf("%-13s %10s %10s %10s %10s %10s %10s\n", "milliseconds", "mean", "p50", "p90", "p99", "max", "count");
    print_stats(&r->all, r);
    const char *before = "failed        ";
    for (uint32_t i = 0; i < AG_ARRAY_LEN(r->status); i++)
        if (r->status[i]) printf("%s%llu with status %u", before, (unsigned long long)r->status[i], i), before = ", ";
    for (uint32_t i = 0; i < AG_LOAD_FAILS; i++)
        if (r->fails[i]) printf("%s%llu %s", before, (unsigned long long)r->fails[i], fails[i].words), before = ", ";
    if (r->all.failed) printf("; the last: %s\n", r->last_error);
    if (r->waited)
        printf("late          %llu requests were due while all %u clients were busy, and count from then\n",
               (unsigned long long)r->waited, spec->clients);
    if (r->no_usage)
        printf("tokens        %llu answers told no usage: their events with text are counted as tokens\n",
               (unsigned long long)r->no_usage);
    for (uint32_t i = 0; i < spec->n_tenants; i++) {
        printf("\ntenant %s, weight %.6g\n", spec->tenants[i].name, spec->tenants[i].weight);
        print_stats(&r->tenants[i], r);
    }
}

static void json_buckets(const ag_hist *h, ag_buf *out)
{
    const char *before = ",\"buckets_us\":[";
    for (uint32_t b = 0; b < AG_HIST_BUCKETS; b++)
        if (h->count[b])
            ag_buf_addf(out, "%s[%llu,%llu]", before, (unsigned long long)AG_MIN(ag_hist_bucket_us(b), h->max),
                        (unsigned long long)h->count[b]), before = ",";
    ag_buf_addz(out, h->n ? "]" : ",\"buckets_us\":[]");
}

static void json_stats(const ag_load_stats *s, const ag_load_result *r, bool buckets, ag_buf *out)
{
    ag_buf_addf(out, "\"requests\":{\"started\":%llu,\"ok\":%llu,\"failed\":%llu,\"unfinished\":%llu},",
                (unsigned long long)s->started, (unsigned long long)s->ok, (unsigned long long)s->failed,
                (unsigned long long)s->unfinished);
    ag_buf_addf(out, "\"cut\":{\"requests\":%llu,\"tokens\":%llu},", (unsigned long long)s->cut,
                (unsigned long long)s->cut_tokens);
    ag_buf_addf(out,
                "\"prompt_tokens\":%llu,\"output_tokens\":%llu,\"requests_per_s\":%.4f,\"output_tokens_per_s\":%.3f",
                (unsigned long long)s->prompt_tokens, (unsigned long long)s->output_tokens, per_s(s->ok, r),
                per_s(s->output_tokens, r));
    for (size_t i = 0; i < AG_ARRAY_LEN(kinds); i++) {
        const ag_hist *h = hist_of(s, &kinds[i]);
        ag_buf_addf(out, ",\"%s\":{\"count\":%llu", kinds[i].key, (unsigned long long)h->n);
        if (h->n)
            ag_buf_addf(out, ",\"mean\":%.3f,\"p50\":%.3f,\"p90\":%.3f,\"p99\":%.3f,\"max\":%.3f",
                        ag_hist_mean(h) / 1e3, ag_hist_quantile(h, 0.5) / 1e3, ag_hist_quantile(h, 0.9) / 1e3,
                        ag_hist_quantile(h, 0.99) / 1e3, (double)h->max / 1e3);
        if (buckets) json_buckets(h, out);
        ag_buf_addc(out, '}');
    }
}

bool ag_load_json(const ag_load_spec *spec, const ag_load_result *r, bool buckets, ag_buf *out)
{
    ag_buf_addz(out, "{\"url\":");
    ag_buf_add_json(out, spec->url, strlen(spec->url));
    ag_buf_addf(out, ",\"clients\":%u,\"rate\":", spec->clients);
    if (spec->rate > 0) ag_buf_addf(out, "%.6g", spec->rate);
    else ag_buf_addz(out, "null");
    ag_buf_addf(out,
                ",\"seed\":%llu,\"prompt_words\":%u,\"shared_words\":%u,\"prefixes\":%u,\"pool\":%u,\"zipf\":%.6g,"
                "\"max_tokens\":[%u,%u],\"elapsed_s\":%.6f,\"interrupted\":%s,",
                (unsigned long long)spec->seed, spec->prompt_words, spec->shared_words, spec->prefixes, spec->pool,
                spec->zipf, spec->max_tokens_low, spec->max_tokens_high, (double)r->elapsed_us / 1e6,
                r->interrupted ? "true" : "false");
    json_stats(&r->all, r, buckets, out);
    ag_buf_addf(out, ",\"waited\":%llu,\"answers_without_usage\":%llu,\"failures\":{", (unsigned long long)r->waited,
                (unsigned long long)r->no_usage);
    const char *before = "";
    for (uint32_t i = 0; i < AG_ARRAY_LEN(r->status); i++)
        if (r->status[i]) ag_buf_addf(out, "%s\"%u\":%llu", before, i, (unsigned long long)r->status[i]), before = ",";
    for (uint32_t i = 0; i < AG_LOAD_FAILS; i++)
        if (r->fails[i])
            ag_buf_addf(out, "%s\"%s\":%llu", before, fails[i].key, (unsigned long long)r->fails[i]), before = ",";
    ag_buf_addz(out, "},\"last_error\":");
    if (*r->last_error) ag_buf_add_json(out, r->last_error, strlen(r->last_error));
    else ag_buf_addz(out, "null");
    ag_buf_addz(out, ",\"tenants\":[");
    for (uint32_t i = 0; i < spec->n_tenants; i++) {
        ag_buf_addf(out, "%s{\"name\":\"%s\",\"weight\":%.6g,", i ? "," : "", spec->tenants[i].name,
                    spec->tenants[i].weight);
        json_stats(&r->tenants[i], r, buckets, out);
        ag_buf_addc(out, '}');
    }
    return ag_buf_addz(out, "]}\n");
}
