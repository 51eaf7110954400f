#include "cli/perplexity.h"

#include <math.h>

#include "base/mem.h"
#include "cli/cli.h"
#include "cli/direct.h"

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

static void run_windows(ag_direct *d, int32_t *ids, uint32_t n, uint32_t ctx, sums *s)
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
}

static ag_perplexity result(const sums *s)
{
    double mean = s->nll / (double)s->count, value = exp(mean);
    double var = s->nll2 / (double)s->count - mean * mean;
    double error = s->count > 1 && var > 0 ? sqrt(var / (double)(s->count - 1)) * value : 0;
    return (ag_perplexity){value, error, s->count};
}

int ag_perplexity_of(ag_perplexity *out, const char *model, const ag_conf *conf, ag_str text, uint32_t window,
                     ag_err *err)
{
    ag_direct d = {0};
    int32_t *ids = NULL;
    uint32_t n = 0;
    sums s = {0};
    int rc = ag_direct_open(&d, model, conf, 1, window, 64, NULL, err);
    if (rc == AG_OK && window > d.model->hp.ctx_train)
        rc = ag_err_set(err, AG_E_USAGE, "-c %u is more than the model's context of %u", window, d.model->hp.ctx_train);
    if (rc == AG_OK) rc = ag_tokenizer_encode(d.model->tokenizer, text.p, text.n, true, false, &ids, &n, err);
    if (rc == AG_OK && n < window)
        rc = ag_err_set(err, AG_E_USAGE, "the text has %u tokens; one window of %u is needed (-c)", n, window);
    if (rc == AG_OK) run_windows(&d, ids, n, window, &s);
    if (rc == AG_OK) *out = result(&s);
    if (rc == AG_OK && !(isfinite(out->value) && isfinite(out->error))) /* or so far off that no number is left */
        rc = ag_err_set(err, AG_E_FILE, "%s gives logits that are not numbers; its file may be damaged", d.model->name);
    if (d.model) ag_direct_close(&d);
    ag_mem_free(ids);
    return rc;
}
