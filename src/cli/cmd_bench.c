/* autoglm bench: rates of prefill and decode on this machine, and their share of what the machine can do. */
#include <stdio.h>
#include <stdlib.h>

#include "base/mem.h"
#include "cli/cli.h"
#include "cli/direct.h"

#define LIST_MAX 16
#define REPEATS_MAX 99

typedef struct bench {
    const ag_conf *conf;
    uint32_t prompts[LIST_MAX], n_prompts;
    uint32_t batches[LIST_MAX], n_batches;
    uint32_t contexts[LIST_MAX], n_contexts;
    uint32_t steps, repeats;
    bool json, peak;
    ag_cpu_peak machine;
    bool first; /* nothing printed yet in the present JSON list */
} bench;

static int parse_list(const char *flag, const char *text, uint32_t min, uint32_t max, uint32_t out[LIST_MAX], uint32_t *n, ag_err *err)
{
    *n = 0;
    for (const char *p = text; *p;) {
        char *end;
        unsigned long v = strtoul(p, &end, 10);
        if (end == p || (*end && *end != ',') || v < min || v > max || *n == LIST_MAX)
            return ag_err_set(err, AG_E_USAGE, "%s should be at most %d numbers from %u to %u with commas between; it is not at \"%.20s\"", flag, LIST_MAX, min, max, p);
        out[(*n)++] = (uint32_t)v;
        p = *end ? end + 1 : end;
    }
    return *n ? AG_OK : ag_err_set(err, AG_E_USAGE, "%s is empty", flag);
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *v, uint32_t n)
{
    qsort(v, n, sizeof *v, by_value);
    return n % 2 ? v[n / 2] : (v[n / 2 - 1] + v[n / 2]) / 2;
}

/* Tokens without meaning: what is computed does not depend on them. */
static int32_t token_at(const ag_direct *d, uint32_t i) { return (int32_t)((i * 7919u + 13u) % d->model->hp.vocab); }

/* At least the clock's grain: a rate is a number. */
static double seconds_since(uint64_t from_us)
{
    uint64_t us = ag_now_us() - from_us;
    return (double)AG_MAX(us, (uint64_t)1) * 1e-6;
}

static double time_prefill(ag_direct *d, uint32_t n)
{
    int32_t tokens[AG_DIRECT_ROWS];
    uint64_t from = ag_now_us();
    for (uint32_t at = 0; at < n; at += AG_DIRECT_ROWS) {
        uint32_t rows = AG_MIN((uint32_t)AG_DIRECT_ROWS, n - at), out = rows - 1;
        for (uint32_t i = 0; i < rows; i++) tokens[i] = token_at(d, at + i);
        ag_span span = {0, rows, at, d->pages};
        ag_batch batch = {.n_rows = rows, .n_spans = 1, .n_out = at + rows == n, .tokens = tokens, .spans = &span, .out_rows = &out};
        const float *logits;
        size_t stride;
        ag_lm_run(d->lm, &batch, &logits, &stride);
    }
    return (double)n / seconds_since(from);
}

/* `steps` steps of `batch` sequences that stand at `context`. Their earlier keys are zeros: as dear as any others. */
static double time_decode(ag_direct *d, uint32_t batch, uint32_t context, uint32_t steps)
{
    int32_t tokens[AG_DIRECT_ROWS];
    ag_span spans[AG_DIRECT_ROWS];
    uint32_t out[AG_DIRECT_ROWS];
    uint64_t from = 0;
    for (uint32_t s = 0; s <= steps; s++) { /* the first warms the caches */
        if (s == 1) from = ag_now_us();
        for (uint32_t i = 0; i < batch; i++) {
            tokens[i] = token_at(d, s * batch + i);
            spans[i] = (ag_span){i, 1, context + s, d->pages + (size_t)i * d->per};
            out[i] = i;
        }
        ag_batch b = {.n_rows = batch, .n_spans = batch, .n_out = batch, .tokens = tokens, .spans = spans, .out_rows = out};
        const float *logits;
        size_t stride;
        ag_lm_run(d->lm, &b, &logits, &stride);
    }
    return (double)batch * steps / seconds_since(from);
}

static void bench_prefill(bench *b, ag_direct *d, uint32_t n)
{
    double rates[REPEATS_MAX];
    for (uint32_t r = 0; r < b->repeats; r++) rates[r] = time_prefill(d, n);
    double rate = median(rates, b->repeats);
    if (b->json) printf("%s{\"tokens\":%u,\"tok_s\":%.2f}", b->first ? "" : ",", n, rate);
    else printf("prefill  %6u tokens                    %10.1f tokens/s\n", n, rate);
    b->first = false;
    fflush(stdout);
}

static void bench_decode(bench *b, ag_direct *d, uint32_t batch, uint32_t context)
{
    double rates[REPEATS_MAX];
    for (uint32_t r = 0; r < b->repeats; r++) rates[r] = time_decode(d, batch, context, b->steps);
    double rate = median(rates, b->repeats);
    double read = (double)d->lm->ops->weight_bytes(d->lm->backend) * rate / batch;
    if (b->json) {
        printf("%s{\"batch\":%u,\"context\":%u,\"tok_s\":%.2f,\"weights_gb_s\":%.3f", b->first ? "" : ",", batch, context, rate, read * 1e-9);
        if (b->peak) printf(",\"share_of_read_peak\":%.4f", read / b->machine.read_bytes_s);
        printf("}");
    } else {
        printf("decode   %6u sequences at %6u tokens  %10.1f tokens/s, weights at %.1f GB/s", batch, context, rate, read * 1e-9);
        if (b->peak) printf(" (%.0f %% of the read peak)", 100 * read / b->machine.read_bytes_s);
        putchar('\n');
    }
    b->first = false;
    fflush(stdout);
}

static int run_one(bench *b, const ag_conf *conf, ag_err *err)
{
    uint32_t deepest = 0, widest = 1, batch_ctx = 0;
    for (uint32_t i = 0; i < b->n_prompts; i++) deepest = AG_MAX(deepest, b->prompts[i]);
    for (uint32_t i = 0; i < b->n_batches; i++) widest = AG_MAX(widest, b->batches[i]);
    for (uint32_t i = 0; i < b->n_contexts; i++) batch_ctx = AG_MAX(batch_ctx, b->contexts[i] + b->steps + 1);
    /* Sequence 0 may run over the others' pages: prefill and decode do not run at once. */
    uint32_t per = AG_MAX(batch_ctx, (deepest + widest - 1) / widest);
    ag_direct d = {0};
    int rc = ag_direct_open(&d, conf->model, conf, widest, per, AG_MAX(widest, 1u), NULL, err);
    if (rc != AG_OK) return rc;
    if (b->peak) rc = ag_cpu_peak_measure(ag_cpu_isa_find(conf->isa), d.lm->ops->threads(d.lm->backend), &b->machine);
    if (rc != AG_OK) ag_err_set(err, rc, "no memory to measure the machine");
    const char *isa = d.lm->ops->isa(d.lm->backend);
    ag_buf name;
    ag_buf_init(&name, 1024); /* the model's 127 bytes, escaped */
    if (rc == AG_OK && !(ag_buf_add_json(&name, d.model->name, strlen(d.model->name)) && ag_buf_zterm(&name)))
        rc = ag_err_set(err, AG_E_NOMEM, "no memory for the model's name");
    if (rc == AG_OK && b->json) printf("{\"model\":%s,\"isa\":\"%s\",\"threads\":%u,\"repeats\":%u,\"weight_bytes\":%llu,", name.p, isa,
                                       d.lm->ops->threads(d.lm->backend), b->repeats, (unsigned long long)d.lm->ops->weight_bytes(d.lm->backend));
    else if (rc == AG_OK) printf("%s, %s, %u threads, medians of %u\n", d.model->name, isa, d.lm->ops->threads(d.lm->backend), b->repeats);
    if (rc == AG_OK && b->peak && b->json) printf("\"peak\":{\"read_gb_s\":%.3f,\"int8_gop_s\":%.1f},", b->machine.read_bytes_s * 1e-9, b->machine.int8_ops_s * 1e-9);
    else if (rc == AG_OK && b->peak) printf("peak     reads %.1f GB/s, int8 %.0f Gop/s\n", b->machine.read_bytes_s * 1e-9, b->machine.int8_ops_s * 1e-9);
    if (rc == AG_OK && b->json) printf("\"prefill\":[");
    b->first = true;
    for (uint32_t i = 0; rc == AG_OK && i < b->n_prompts; i++)
        if (b->prompts[i]) bench_prefill(b, &d, b->prompts[i]);
    if (rc == AG_OK && b->json) printf("],\"decode\":[");
    b->first = true;
    for (uint32_t c = 0; rc == AG_OK && b->steps && c < b->n_contexts; c++)
        for (uint32_t i = 0; i < b->n_batches; i++) bench_decode(b, &d, b->batches[i], b->contexts[c]);
    if (rc == AG_OK && b->json) printf("]}");
    ag_buf_fini(&name);
    ag_direct_close(&d);
    return rc;
}

static int run(bench *b, ag_conf *conf, ag_err *err)
{
    int rc = conf->model[0] ? AG_OK : ag_err_set(err, AG_E_USAGE, "a model is needed: -m MODEL");
    if (strcmp(conf->isa, "all") != 0) {
        if (rc == AG_OK) rc = run_one(b, conf, err);
        if (rc == AG_OK && b->json) putchar('\n');
        return rc;
    }
    if (b->json) putchar('[');
    bool first = true;
    for (const ag_cpu_isa *isa = NULL; rc == AG_OK && (isa = ag_cpu_isa_next(isa));) {
        if (!isa->runs()) continue;
        if (!first && b->json) putchar(',');
        first = false;
        ag_conf one = *conf;
        one.isa = (char *)(uintptr_t)isa->name;
        rc = run_one(b, &one, err);
    }
    if (b->json) puts("]");
    return rc;
}

int ag_cmd_bench(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "http") == 0) return ag_cmd_bench_http(argc - 1, argv + 1);
    const char *prompts = "512", *batches = "1,4,8,16,32", *contexts = "128";
    bench b = {.steps = 128, .repeats = 3};
    const ag_opt opts[] = {
        {"prompts", 'p', AG_OPT_TEXT, &prompts, 0, 0, "lengths of prefill, with commas between; 0: none [512]"},
        {"steps", 'n', AG_OPT_U32, &b.steps, 0, 65536, "decode steps to time; 0: none [128]"},
        {"batches", 'b', AG_OPT_TEXT, &batches, 0, 0, "sequences that decode at once [1,4,8,16,32]"},
        {"context", 0, AG_OPT_TEXT, &contexts, 0, 0, "tokens that they have behind them [128]"},
        {"repeats", 'r', AG_OPT_U32, &b.repeats, 1, REPEATS_MAX, "runs of each, of which the median counts [3]"},
        {"peak", 0, AG_OPT_FLAG, &b.peak, 0, 0, "measure the machine's reading and int8 peaks, and give shares of them"},
        {"json", 0, AG_OPT_FLAG, &b.json, 0, 0, "one JSON object"},
    };
    ag_cli cli = {.usage = "bench -m MODEL [-p 512] [-n 128] [-b 1,4,8,16,32]\n       autoglm bench http URL [OPTIONS]",
                  .about = "Times prefill and decode. --isa all compares instruction sets, --no-pass NAME leaves passes out. "
                           "`bench http` loads a server instead.",
                  .opts = opts, .n_opts = AG_ARRAY_LEN(opts), .groups = "model,engine"};
    int status = 0;
    if (ag_cli_parse(&cli, argc, argv, &status)) {
        ag_err err = {0};
        int rc = parse_list("-p", prompts, 0, 1u << 20, b.prompts, &b.n_prompts, &err);
        if (rc == AG_OK) rc = parse_list("-b", batches, 1, AG_DIRECT_ROWS, b.batches, &b.n_batches, &err);
        if (rc == AG_OK) rc = parse_list("--context", contexts, 0, 1u << 20, b.contexts, &b.n_contexts, &err);
        if (rc == AG_OK) rc = run(&b, &cli.conf, &err);
        if (rc != AG_OK) status = ag_cli_fail(argv[0], &err);
    }
    ag_cli_fini(&cli);
    return status;
}
