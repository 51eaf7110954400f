/* autoglm bench: rates of prefill, of decode and of both at once on this machine, and their share of what it can do. */
#include <stdio.h>
#include <stdlib.h>

#include "base/mem.h"
#include "cli/bench.h"
#include "cli/cli.h"

#define ISAS_MAX 16

typedef struct bench {
    uint32_t prompts[AG_BENCH_LIST_MAX], n_prompts;
    uint32_t batches[AG_BENCH_LIST_MAX], n_batches;
    uint32_t contexts[AG_BENCH_LIST_MAX], n_contexts;
    uint32_t chunks[AG_BENCH_LIST_MAX], n_chunks;
    uint32_t steps, repeats;
    bool json, peak, passes;
    bool mixed_asked; /* else steps with a piece of a prompt are measured where they fit */
    ag_bench_line lines[AG_BENCH_LINES_MAX];
    uint32_t n_lines;
    const char *isas[ISAS_MAX]; /* --isa all: what has been measured, and the rates of its lines */
    double *rates[ISAS_MAX];
    uint32_t n_isas;
} bench;

static int parse_list(const char *flag, const char *text, uint32_t min, uint32_t max, uint32_t out[AG_BENCH_LIST_MAX],
                      uint32_t *n, ag_err *err)
{
    *n = 0;
    for (const char *p = text; *p;) {
        char *end;
        unsigned long v = strtoul(p, &end, 10);
        if (end == p || (*end && *end != ',') || v < min || v > max || *n == AG_BENCH_LIST_MAX)
            return ag_err_set(
                err, AG_E_USAGE,
                "%s should be at most %d numbers from %u to %u with commas between; it is not at \"%.20s\"", flag,
                AG_BENCH_LIST_MAX, min, max, p);
        out[(*n)++] = (uint32_t)v;
        p = *end ? end + 1 : end;
    }
    return *n ? AG_OK : ag_err_set(err, AG_E_USAGE, "%s is empty", flag);
}

/* The work of one line: `cost` counts it, otherwise it is done. */
typedef struct turn {
    ag_direct *d;
    ag_bench_cost *cost;
    ag_progress *progress;
    uint64_t done;
} turn;

static void step(turn *t, const ag_batch *batch)
{
    const float *logits;
    size_t stride;
    if (t->cost) {
        ag_bench_cost_add(t->cost, t->d->lm, batch);
        return;
    }
    ag_lm_run(t->d->lm, batch, &logits, &stride);
    if (t->progress) ag_progress_show(t->progress, ++t->done);
}

/* Tokens without meaning: what is computed does not depend on them. */
static int32_t token_at(const ag_direct *d, uint32_t i) { return (int32_t)((i * 7919u + 13u) % d->model->hp.vocab); }

static void prefill(turn *t, uint32_t n)
{
    int32_t tokens[AG_DIRECT_ROWS];
    for (uint32_t at = 0; at < n; at += AG_DIRECT_ROWS) {
        uint32_t rows = AG_MIN((uint32_t)AG_DIRECT_ROWS, n - at), out = rows - 1;
        for (uint32_t i = 0; i < rows; i++) tokens[i] = token_at(t->d, at + i);
        ag_span span = {0, rows, at, t->d->pages};
        ag_batch batch = {
            .n_rows = rows, .n_spans = 1, .n_out = at + rows == n, .tokens = tokens, .spans = &span, .out_rows = &out};
        step(t, &batch);
    }
}

/* A step of `batch` sequences that stand at `pos`, and of the first `chunk` tokens of one more. The earlier keys are
 * zeros, which are as dear as any others once their memory is there (clear_kv). */
static void generate(turn *t, uint32_t batch, uint32_t chunk, uint32_t pos)
{
    int32_t tokens[AG_DIRECT_ROWS];
    ag_span spans[AG_DIRECT_ROWS];
    uint32_t out[AG_DIRECT_ROWS], rows = batch + chunk, n = batch + (chunk > 0);
    for (uint32_t i = 0; i < rows; i++) tokens[i] = token_at(t->d, pos * batch + i);
    for (uint32_t i = 0; i < batch; i++) spans[i] = (ag_span){i, 1, pos, t->d->pages + (size_t)i * t->d->per};
    if (chunk) spans[batch] = (ag_span){batch, chunk, 0, t->d->pages + (size_t)batch * t->d->per};
    for (uint32_t i = 0; i < n; i++) out[i] = i < batch ? i : rows - 1;
    ag_batch b = {.n_rows = rows, .n_spans = n, .n_out = n, .tokens = tokens, .spans = spans, .out_rows = out};
    step(t, &b);
}

/* Steps with a piece of a prompt take many times as long as those without. */
static uint32_t steps_of(const bench *b, const ag_bench_line *l)
{
    return l->kind == AG_BENCH_MIXED ? AG_MAX(b->steps / 8, 1u) : b->steps;
}

/* The steps that come before the clock starts: they warm the caches and touch what memory there is to touch. */
static void warm_up(turn *t, const ag_bench_line *l)
{
    if (l->kind == AG_BENCH_PREFILL) prefill(t, AG_MIN(l->tokens, (uint32_t)AG_DIRECT_ROWS));
    else generate(t, l->batch, l->tokens, l->context);
}

static void work(const bench *b, turn *t, const ag_bench_line *l)
{
    if (l->kind == AG_BENCH_PREFILL) prefill(t, l->tokens);
    for (uint32_t s = 1; l->kind != AG_BENCH_PREFILL && s <= steps_of(b, l); s++)
        generate(t, l->batch, l->tokens, l->context + s);
}

static double time_turn(const bench *b, turn *t, const ag_bench_line *l)
{
    warm_up(t, l);
    uint64_t from = ag_now_us();
    work(b, t, l);
    return (double)AG_MAX(ag_now_us() - from, (uint64_t)1) * 1e-6; /* at least the clock's grain: a rate is a number */
}

static ag_bench_cost cost_of(const bench *b, ag_direct *d, const ag_bench_line *l)
{
    ag_bench_cost c = {0};
    turn t = {.d = d, .cost = &c};
    work(b, &t, l);
    return c;
}

static void measure(const bench *b, ag_direct *d, ag_bench_line *l)
{
    char name[96];
    double seconds[AG_BENCH_REPEATS_MAX];
    ag_bench_line_name(l, name, sizeof name);
    l->cost = cost_of(b, d, l);
    ag_progress p;
    ag_progress_begin(&p, name, b->repeats * (l->cost.steps + 1), false);
    turn t = {.d = d, .progress = &p};
    for (uint32_t r = 0; r < b->repeats; r++) seconds[r] = time_turn(b, &t, l);
    ag_progress_end(&p);
    l->seconds = ag_bench_median(seconds, b->repeats);
}

static void plan_lines(bench *b)
{
    b->n_lines = 0;
    for (uint32_t i = 0; i < b->n_prompts; i++)
        if (b->prompts[i]) b->lines[b->n_lines++] = (ag_bench_line){.kind = AG_BENCH_PREFILL, .tokens = b->prompts[i]};
    for (uint32_t c = 0; b->steps && c < b->n_contexts; c++)
        for (uint32_t i = 0; i < b->n_batches; i++)
            b->lines[b->n_lines++] =
                (ag_bench_line){.kind = AG_BENCH_DECODE, .batch = b->batches[i], .context = b->contexts[c]};
    for (uint32_t k = 0; b->steps && k < b->n_chunks; k++)
        for (uint32_t i = 0; b->chunks[k] && i < b->n_batches; i++) {
            if (!b->mixed_asked && b->chunks[k] + b->batches[i] > AG_DIRECT_ROWS) continue;
            b->lines[b->n_lines++] = (ag_bench_line){
                .kind = AG_BENCH_MIXED, .tokens = b->chunks[k], .batch = b->batches[i], .context = b->contexts[0]};
        }
}

static int check_lines(const bench *b, ag_err *err)
{
    for (uint32_t i = 0; i < b->n_lines; i++)
        if (b->lines[i].kind == AG_BENCH_MIXED && b->lines[i].tokens + b->lines[i].batch > AG_DIRECT_ROWS)
            return ag_err_set(err, AG_E_USAGE, "--mixed %u with %u sequences: a step has at most %d rows",
                              b->lines[i].tokens, b->lines[i].batch, AG_DIRECT_ROWS);
    return b->n_lines ? AG_OK : ag_err_set(err, AG_E_USAGE, "-p 0 and -n 0 leave nothing to measure");
}

static int check_context(const bench *b, const ag_direct *d, ag_err *err)
{
    uint32_t most = d->model->hp.ctx_train;
    for (uint32_t i = 0; i < b->n_lines; i++) {
        const ag_bench_line *l = &b->lines[i];
        uint64_t end = (uint64_t)l->context + b->steps + 1;
        if (l->tokens > most)
            return ag_err_set(err, AG_E_USAGE, "%s %u is more than the model's context of %u tokens",
                              l->kind == AG_BENCH_MIXED ? "--mixed" : "-p", l->tokens, most);
        if (l->kind != AG_BENCH_PREFILL && end > most)
            return ag_err_set(
                err, AG_E_USAGE,
                "--context %u with %u steps (-n) and one before them is more than the model's context of %u tokens",
                l->context, b->steps, most);
    }
    return AG_OK;
}

static int clear_kv(ag_direct *d, ag_err *err)
{
    uint64_t bytes = d->lm->pages * d->lm->page_bytes, have = ag_lm_memory_free();
    if (have && bytes >= have)
        return ag_err_set(err, AG_E_NOMEM, "keys and values take %llu MiB, and %llu are free; fewer sequences (-b) or "
                          "shorter ones (--context, -p) take less", (unsigned long long)(bytes >> 20),
                          (unsigned long long)(have >> 20));
    d->lm->ops->clear(d->lm->backend);
    return AG_OK;
}

static int open_model(const bench *b, ag_direct *d, const ag_conf *conf, ag_err *err)
{
    uint32_t sequences = 1, ctx = 1, prompt = 1;
    for (uint32_t i = 0; i < b->n_lines; i++) {
        const ag_bench_line *l = &b->lines[i];
        sequences = AG_MAX(sequences, l->batch + (l->kind == AG_BENCH_MIXED));
        if (l->kind == AG_BENCH_PREFILL) prompt = AG_MAX(prompt, l->tokens);
        else ctx = AG_MAX(ctx, AG_MAX(l->context + b->steps + 1, l->tokens));
    }
    /* A prompt may run over the other sequences' pages: it is not there while they are. */
    int rc = ag_direct_open(d, conf->model, conf, sequences, AG_MAX(ctx, (prompt + sequences - 1) / sequences),
                            sequences, NULL, err);
    if (rc == AG_OK) rc = check_context(b, d, err);
    if (rc == AG_OK) rc = clear_kv(d, err);
    return rc;
}

static int print_begin(const bench *b, const ag_direct *d, const ag_cpu_peak *peak, ag_err *err)
{
    const ag_backend *be = d->lm->backend;
    const char *isa = d->lm->ops->isa(be);
    uint32_t threads = d->lm->ops->threads(be);
    ag_buf name;
    ag_buf_init(&name, 1024); /* the model's 127 bytes, escaped */
    int rc = AG_OK;
    if (!b->json) {
        printf("%s, %s, %u threads, medians of %u\n", d->model->name, isa, threads, b->repeats);
    } else if (ag_buf_add_json(&name, d->model->name, strlen(d->model->name)) && ag_buf_zterm(&name)) {
        printf("{\"model\":%s,\"isa\":\"%s\",\"threads\":%u,\"repeats\":%u,\"weight_bytes\":%llu,", name.p, isa,
               threads, b->repeats, (unsigned long long)d->lm->ops->weight_bytes(be));
        if (peak)
            printf("\"peak\":{\"read_gb_s\":%.3f,\"int8_gop_s\":%.1f},", peak->read_bytes_s * 1e-9,
                   peak->int8_ops_s * 1e-9);
    } else {
        rc = ag_err_set(err, AG_E_NOMEM, "no memory for the model's name");
    }
    ag_buf_fini(&name);
    return rc;
}

static int run_one(bench *b, const ag_conf *conf, ag_err *err)
{
    ag_direct d = {0};
    ag_cpu_peak machine, *peak = b->peak ? &machine : NULL;
    int rc = open_model(b, &d, conf, err);
    if (rc == AG_OK && peak) {
        rc = ag_cpu_peak_measure(ag_cpu_isa_find(conf->isa), d.lm->ops->threads(d.lm->backend), peak);
        if (rc != AG_OK) ag_err_set(err, rc, "no memory to measure the machine");
    }
    if (rc == AG_OK) rc = print_begin(b, &d, peak, err);
    if (rc == AG_OK && !b->json) ag_bench_print_head(peak);
    for (uint32_t i = 0; rc == AG_OK && i < b->n_lines; i++) {
        measure(b, &d, &b->lines[i]);
        if (!b->json) ag_bench_print_line(&b->lines[i], peak);
    }
    if (rc == AG_OK && b->json) {
        ag_bench_json_lines(b->lines, b->n_lines, peak);
        putchar('}');
    }
    ag_direct_close(&d);
    return rc;
}

/* One row for each line, one column for each instruction set, the best first. */
static void print_isas(const bench *b)
{
    printf("\n%-40s", "tokens/s (of the first)");
    for (uint32_t k = 0; k < b->n_isas; k++) printf(" %18s", b->isas[k]);
    putchar('\n');
    for (uint32_t i = 0; i < b->n_lines; i++) {
        char name[96];
        ag_bench_line_name(&b->lines[i], name, sizeof name);
        printf("%-40s", name);
        for (uint32_t k = 0; k < b->n_isas; k++)
            printf(" %10.1f (%.3f)", b->rates[k][i], b->rates[k][i] / b->rates[0][i]);
        putchar('\n');
    }
}

static int run_isas(bench *b, const ag_conf *conf, ag_err *err)
{
    int rc = AG_OK;
    if (b->json) putchar('[');
    for (const ag_cpu_isa *isa = NULL; rc == AG_OK && b->n_isas < ISAS_MAX && (isa = ag_cpu_isa_next(isa));) {
        if (!isa->runs()) continue;
        if (b->n_isas) putchar(b->json ? ',' : '\n');
        ag_conf one = *conf;
        one.isa = (char *)(uintptr_t)isa->name;
        double *rates = b->rates[b->n_isas] = ag_mem_array(b->n_lines, sizeof *rates);
        if (rates == NULL) rc = ag_err_set(err, AG_E_NOMEM, "no memory for the rates");
        else rc = run_one(b, &one, err);
        for (uint32_t i = 0; rc == AG_OK && i < b->n_lines; i++) rates[i] = ag_bench_rate(&b->lines[i]);
        b->isas[b->n_isas++] = isa->name;
    }
    if (rc == AG_OK && !b->json) print_isas(b);
    if (b->json) putchar(']');
    for (uint32_t k = 0; k < b->n_isas; k++) ag_mem_free(b->rates[k]);
    return rc;
}

/* ---- what each pass brings ---- */

/* Measured against the whole plan turn by turn, so that what else the machine does meets both. */
static void compare(const bench *b, ag_direct *whole, ag_direct *part, const ag_bench_line *l, double *seconds,
                    double *ratio)
{
    double took[AG_BENCH_REPEATS_MAX], ratios[AG_BENCH_REPEATS_MAX];
    for (uint32_t r = 0; r < b->repeats; r++) {
        double of[2];
        for (uint32_t k = 0; k < 2; k++) {
            bool first = (k + r) % 2 == 0;
            turn t = {.d = first ? whole : part};
            of[first ? 0 : 1] = time_turn(b, &t, l);
        }
        took[r] = of[1];
        ratios[r] = of[1] / of[0];
    }
    *seconds = ag_bench_median(took, b->repeats);
    *ratio = ag_bench_median(ratios, b->repeats);
}

static void print_pass(const bench *b, const char *name, ag_direct *whole, ag_direct *part, bool first)
{
    const ag_plan *p = &part->lm->plan;
    if (b->json)
        printf("%s{\"left_out\":\"%s\",\"operations\":%u,\"stages\":%u,\"activation_bytes\":%llu,\"lines\":[",
               first ? "" : ",", name, p->graph->n_nodes, p->n_stages, (unsigned long long)p->arena_bytes);
    else printf("%-16s %10u %9u %17llu", name, p->graph->n_nodes, p->n_stages, (unsigned long long)p->arena_bytes);
    for (uint32_t i = 0; i < b->n_lines; i++) {
        double seconds, ratio, us;
        char line[96];
        ag_bench_line_name(&b->lines[i], line, sizeof line);
        compare(b, whole, part, &b->lines[i], &seconds, &ratio);
        us = seconds * 1e6 / (double)b->lines[i].cost.rows;
        if (b->json) printf("%s{\"work\":\"%s\",\"us_per_token\":%.3f,\"ratio\":%.4f}", i ? "," : "", line, us, ratio);
        else printf(" %19.2f (%.3f)", us, ratio);
    }
    if (b->json) printf("]}");
    else putchar('\n');
    fflush(stdout);
}

static void print_passes_head(const bench *b)
{
    printf(
        "microseconds a token, and how many times those of the whole plan, by the pass left out\n%-16s %10s %9s %17s",
        "", "operations", "barriers", "activation bytes");
    for (uint32_t i = 0; i < b->n_lines; i++) {
        char line[96];
        ag_bench_line_name(&b->lines[i], line, sizeof line);
        printf(" %27s", line);
    }
    putchar('\n');
}

static int run_passes(bench *b, const ag_conf *conf, ag_err *err)
{
    ag_buf all, list;
    ag_direct whole = {0};
    ag_buf_init(&all, 1024);
    ag_buf_init(&list, 8192);
    int rc = open_model(b, &whole, conf, err);
    for (uint32_t i = 0; rc == AG_OK && i < b->n_lines; i++) b->lines[i].cost = cost_of(b, &whole, &b->lines[i]);
    if (rc == AG_OK) rc = print_begin(b, &whole, NULL, err);
    if (rc == AG_OK && b->json) printf("\"passes\":[");
    else if (rc == AG_OK) print_passes_head(b);
    if (rc == AG_OK) print_pass(b, "none", &whole, &whole, true);
    for (const ag_pass_row *r = NULL; rc == AG_OK;) {
        r = ag_pass_next(r);
        if (r && r->needed) continue;
        if (r) ag_buf_addf(&all, "%s%s", all.n ? "," : "", r->name);
        ag_buf_reset(&list);
        ag_buf_addf(&list, "%s%s", conf->no_pass, conf->no_pass[0] ? "," : "");
        if (r) ag_buf_addz(&list, r->name);
        else ag_buf_add(&list, all.p, all.n);
        if (all.failed || !ag_buf_zterm(&list)) {
            rc = ag_err_set(err, AG_E_NOMEM, "no room for the list of passes that are left out");
            break;
        }
        ag_conf one = *conf;
        one.no_pass = list.p;
        ag_direct part = {0};
        rc = open_model(b, &part, &one, err);
        if (rc == AG_OK) print_pass(b, r ? r->name : "all of these", &whole, &part, false);
        ag_direct_close(&part);
        if (r == NULL) break;
    }
    if (rc == AG_OK && b->json) printf("]}");
    ag_direct_close(&whole);
    ag_buf_fini(&all);
    ag_buf_fini(&list);
    return rc;
}

static int run(bench *b, const ag_conf *conf, ag_err *err)
{
    if (!conf->model[0]) return ag_err_set(err, AG_E_USAGE, "a model is needed: -m MODEL");
    bool isas = strcmp(conf->isa, "all") == 0;
    if (isas && b->passes) return ag_err_set(err, AG_E_USAGE, "--passes and --isa all: one of them at a time");
    plan_lines(b);
    int rc = check_lines(b, err);
    if (rc == AG_OK) rc = isas ? run_isas(b, conf, err) : b->passes ? run_passes(b, conf, err) : run_one(b, conf, err);
    if (rc == AG_OK && b->json) putchar('\n');
    return rc;
}

int ag_cmd_bench(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "http") == 0) return ag_cmd_bench_http(argc - 1, argv + 1);
    const char *prompts = "512", *batches = NULL, *contexts = "128", *chunks = NULL;
    bench b = {.steps = 128, .repeats = 3};
    const ag_opt opts[] = {
        {"prompts", 'p', AG_OPT_TEXT, &prompts, 0, 0, "lengths of prefill, with commas between; 0: none [512]"},
        {"steps", 'n', AG_OPT_U32, &b.steps, 0, 65536, "decode steps to time; 0: none [128]"},
        {"batches", 'b', AG_OPT_TEXT, &batches, 0, 0, "sequences that decode at once [1,4,8,16,32; with --passes 1]"},
        {"context", 0, AG_OPT_TEXT, &contexts, 0, 0, "tokens that they have behind them [128]"},
        {"mixed", 0, AG_OPT_TEXT, &chunks, 0, 0,
         "tokens of a prompt in the same step, at the first context; 0: none [64; with -p 0 or --passes 0]"},
        {"repeats", 'r', AG_OPT_U32, &b.repeats, 1, AG_BENCH_REPEATS_MAX,
         "runs of each, of which the median counts [3]"},
        {"peak", 0, AG_OPT_FLAG, &b.peak, 0, 0,
         "measure the machine's reading and int8 peaks, and give shares of them"},
        {"passes", 0, AG_OPT_FLAG, &b.passes, 0, 0,
         "what each pass brings: all of it again with one left out after the other"},
        {"json", 0, AG_OPT_FLAG, &b.json, 0, 0, "one JSON object"},
    };
    ag_cli cli = {
        .usage = "bench -m MODEL [-p 512] [-n 128] [-b 1,4,8,16,32]\n       autoglm bench http URL [OPTIONS]",
        .about = "Times prefill, decode, and steps that do both, and counts bytes and operations. --isa all compares\n"
                 "instruction sets, --no-pass NAME leaves passes out. `bench http` loads a server instead.",
        .opts = opts,
        .n_opts = AG_ARRAY_LEN(opts),
        .groups = "model,engine"};
    int status = 0;
    if (ag_cli_parse(&cli, argc, argv, &status)) {
        ag_err err = {0};
        if (batches == NULL) batches = b.passes ? "1" : "1,4,8,16,32";
        int rc = parse_list("-p", prompts, 0, 1u << 20, b.prompts, &b.n_prompts, &err);
        bool any = false;
        for (uint32_t i = 0; i < b.n_prompts; i++) any = any || b.prompts[i];
        b.mixed_asked = chunks != NULL;
        if (chunks == NULL) chunks = b.passes || !any ? "0" : "64";
        if (rc == AG_OK) rc = parse_list("-b", batches, 1, AG_DIRECT_ROWS, b.batches, &b.n_batches, &err);
        if (rc == AG_OK) rc = parse_list("--context", contexts, 0, 1u << 20, b.contexts, &b.n_contexts, &err);
        if (rc == AG_OK) rc = parse_list("--mixed", chunks, 0, AG_DIRECT_ROWS, b.chunks, &b.n_chunks, &err);
        if (rc == AG_OK) rc = run(&b, &cli.conf, &err);
        if (rc != AG_OK) status = ag_cli_fail(argv[0], &err);
    }
    ag_cli_fini(&cli);
    return status;
}
