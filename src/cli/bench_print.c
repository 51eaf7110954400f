#include <stdio.h>
#include <stdlib.h>

#include "cli/bench.h"

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double ag_bench_median(double *v, uint32_t n)
{
    qsort(v, n, sizeof *v, by_value);
    return n % 2 ? v[n / 2] : (v[n / 2 - 1] + v[n / 2]) / 2;
}

double ag_bench_rate(const ag_bench_line *l) { return (double)l->cost.rows / l->seconds; }

static double bytes_s(const ag_bench_line *l) { return (double)(l->cost.weight_bytes + l->cost.kv_bytes) / l->seconds; }
static double int8_s(const ag_bench_line *l) { return (double)l->cost.int8_ops / l->seconds; }

void ag_bench_line_name(const ag_bench_line *l, char *out, size_t size)
{
    const char *s = l->batch == 1 ? "" : "s";
    switch (l->kind) {
    case AG_BENCH_PREFILL: snprintf(out, size, "prefill %u tokens", l->tokens); break;
    case AG_BENCH_DECODE: snprintf(out, size, "decode %u sequence%s at %u", l->batch, s, l->context); break;
    case AG_BENCH_MIXED:
        snprintf(out, size, "mixed %u tokens + %u sequence%s at %u", l->tokens, l->batch, s, l->context);
        break;
    }
}

void ag_bench_print_head(const ag_cpu_peak *peak)
{
    if (peak) printf("peaks: reads %.1f GB/s, int8 %.0f Gop/s\n", peak->read_bytes_s * 1e-9, peak->int8_ops_s * 1e-9);
    const char *share = peak ? " of peak" : "";
    printf("%-40s %10s %10s %9s %9s %8s%s %10s%s\n", "", "tokens/s", "ms/step", "MB/token", "Mop/token", "GB/s", share,
           "int8 Gop/s", share);
}

void ag_bench_print_line(const ag_bench_line *l, const ag_cpu_peak *peak)
{
    char name[96];
    const ag_bench_cost *c = &l->cost;
    ag_bench_line_name(l, name, sizeof name);
    printf("%-40s %10.1f %10.3f %9.3f %9.1f %8.2f", name, ag_bench_rate(l), l->seconds * 1e3 / (double)c->steps,
           (double)(c->weight_bytes + c->kv_bytes) * 1e-6 / (double)c->rows,
           (double)(c->int8_ops + c->float_ops) * 1e-6 / (double)c->rows, bytes_s(l) * 1e-9);
    if (peak)
        printf(" %6.1f%% %10.1f %6.1f%%\n", 100 * bytes_s(l) / peak->read_bytes_s, int8_s(l) * 1e-9,
               100 * int8_s(l) / peak->int8_ops_s);
    else printf(" %10.1f\n", int8_s(l) * 1e-9);
    fflush(stdout);
}

static void json_line(const ag_bench_line *l, const ag_cpu_peak *peak)
{
    const ag_bench_cost *c = &l->cost;
    double rows = (double)c->rows;
    putchar('{');
    if (l->kind != AG_BENCH_DECODE) printf("\"tokens\":%u,", l->tokens);
    if (l->kind != AG_BENCH_PREFILL) printf("\"batch\":%u,\"context\":%u,", l->batch, l->context);
    printf("\"tok_s\":%.2f,\"step_ms\":%.4f,", ag_bench_rate(l), l->seconds * 1e3 / (double)c->steps);
    printf("\"per_token\":{\"weight_bytes\":%.0f,\"kv_bytes\":%.0f,\"int8_ops\":%.0f,\"float_ops\":%.0f},",
           (double)c->weight_bytes / rows, (double)c->kv_bytes / rows, (double)c->int8_ops / rows,
           (double)c->float_ops / rows);
    printf("\"read_gb_s\":%.3f,\"int8_gop_s\":%.2f", bytes_s(l) * 1e-9, int8_s(l) * 1e-9);
    if (peak)
        printf(",\"share_of_read_peak\":%.4f,\"share_of_int8_peak\":%.4f", bytes_s(l) / peak->read_bytes_s,
               int8_s(l) / peak->int8_ops_s);
    putchar('}');
}

void ag_bench_json_lines(const ag_bench_line *lines, uint32_t n, const ag_cpu_peak *peak)
{
    static const char *const names[] = {
        [AG_BENCH_PREFILL] = "prefill", [AG_BENCH_DECODE] = "decode", [AG_BENCH_MIXED] = "mixed"};
    for (uint32_t kind = 0; kind < AG_ARRAY_LEN(names); kind++) {
        bool first = true;
        printf("%s\"%s\":[", kind ? "," : "", names[kind]);
        for (uint32_t i = 0; i < n; i++) {
            if (lines[i].kind != (ag_bench_kind)kind) continue;
            if (!first) putchar(',');
            first = false;
            json_line(&lines[i], peak);
        }
        putchar(']');
    }
}
