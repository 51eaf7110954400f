/* autoglm perplexity: how well a model predicts a text. The text is cut into windows of the context's length; within each
 * the second half is predicted from what stands before it, as is customary for comparing quantizations. */
#include <math.h>
#include <stdio.h>

#include "base/mem.h"
#include "cli/cli.h"
#include "cli/direct.h"

#define TEXT_MAX (64u << 20)

typedef struct sums {
    const int32_t *tokens; /* of the window */
    uint32_t n;
    double nll, nll2;
    uint64_t count;
} sums;

static int add_row(void *arg, uint32_t pos, const float *x, uint32_t vocab)
{
    sums *s = arg;
    if (pos + 1 >= s->n) return AG_OK;
    double max = -INFINITY, all = 0;
    for (uint32_t i = 0; i < vocab; i++) max = fmax(max, (double)x[i]);
    for (uint32_t i = 0; i < vocab; i++) all += exp((double)x[i] - max);
    double nll = max + log(all) - (double)x[s->tokens[pos + 1]];
    s->nll += nll;
    s->nll2 += nll * nll;
    s->count++;
    return AG_OK;
}

static void print_result(const sums *s, bool json)
{
    double mean = s->nll / (double)s->count, ppl = exp(mean);
    double var = s->nll2 / (double)s->count - mean * mean;
    double error = s->count > 1 && var > 0 ? sqrt(var / (double)(s->count - 1)) * ppl : 0;
    if (json) printf("{\"perplexity\":%.6f,\"error\":%.6f,\"tokens\":%llu}\n", ppl, error, (unsigned long long)s->count);
    else printf("perplexity %.4f +/- %.4f over %llu tokens\n", ppl, error, (unsigned long long)s->count);
}

static int run_windows(ag_direct *d, int32_t *ids, uint32_t n, uint32_t ctx, sums *s)
{
    ag_progress progress = {0};
    const ag_tokenizer *t = d->model->tokenizer;
    ag_progress_begin(&progress, "perplexity", n / ctx, false);
    for (uint32_t w = 0; w < n / ctx; w++) {
        int32_t *window = ids + (size_t)w * ctx;
        int32_t kept = window[0];
        if (ag_tokenizer_adds_bos(t)) window[0] = ag_tokenizer_bos(t); /* every window is the beginning of a text */
        s->tokens = window;
        s->n = ctx;
        ag_direct_feed(d, window, ctx, 64, ctx / 2, add_row, s);
        window[0] = kept;
        ag_progress_show(&progress, w + 1);
    }
    ag_progress_end(&progress);
    return AG_OK;
}

static int run(const ag_conf *conf, const char *file, uint32_t ctx, bool json, ag_err *err)
{
    ag_buf text;
    ag_direct d = {0};
    int32_t *ids = NULL;
    uint32_t n = 0;
    sums s = {0};
    ag_buf_init(&text, TEXT_MAX);
    int rc = conf->model[0] ? AG_OK : ag_err_set(err, AG_E_USAGE, "a model is needed: -m MODEL");
    if (rc == AG_OK) rc = ag_cli_read(file, &text, err);
    if (rc == AG_OK) rc = ag_direct_open(&d, conf->model, conf, 1, ctx, 64, NULL, err);
    if (rc == AG_OK && ctx > d.model->hp.ctx_train) rc = ag_err_set(err, AG_E_USAGE, "-c %u is more than the model's context of %u", ctx, d.model->hp.ctx_train);
    if (rc == AG_OK) rc = ag_tokenizer_encode(d.model->tokenizer, text.p, text.n, true, false, &ids, &n, err);
    if (rc == AG_OK && n < ctx) rc = ag_err_set(err, AG_E_USAGE, "the text has %u tokens; one window of %u is needed (-c)", n, ctx);
    if (rc == AG_OK) rc = run_windows(&d, ids, n, ctx, &s);
    if (rc == AG_OK && !isfinite(s.nll))
        rc = ag_err_set(err, AG_E_FILE, "%s gives logits that are not numbers; its file may be damaged", d.model->name);
    if (rc == AG_OK) print_result(&s, json);
    if (d.model) ag_direct_close(&d);
    ag_mem_free(ids);
    ag_buf_fini(&text);
    return rc;
}

int ag_cmd_perplexity(int argc, char **argv)
{
    const char *file = NULL;
    uint32_t ctx = 512;
    bool json = false;
    const ag_opt opts[] = {
        {"file", 'f', AG_OPT_TEXT, &file, 0, 0, "the text; - for stdin"},
        {"window", 'c', AG_OPT_U32, &ctx, 8, 1048576, "tokens of a window [512]"},
        {"json", 0, AG_OPT_FLAG, &json, 0, 0, "one JSON object"},
    };
    ag_cli cli = {.usage = "perplexity -m MODEL -f TEXT [-c 512]",
                  .about = "Measures how well a model predicts a text: value and error estimate.",
                  .opts = opts, .n_opts = AG_ARRAY_LEN(opts), .groups = "model,engine"};
    int status = 0;
    if (ag_cli_parse(&cli, argc, argv, &status)) {
        ag_err err = {0};
        if (file == NULL) ag_err_set(&err, AG_E_USAGE, "a text is needed: -f FILE");
        else run(&cli.conf, file, ctx, json, &err);
        if (err.code) status = ag_cli_fail(argv[0], &err);
    }
    ag_cli_fini(&cli);
    return status;
}
