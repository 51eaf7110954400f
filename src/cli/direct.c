#include "cli/direct.h"

#include "base/mem.h"
#include "cli/cli.h"
#include "engine/image.h"

static void show_progress(void *arg, uint64_t done, uint64_t all)
{
    ag_progress *p = arg;
    if (p->total == 0) ag_progress_begin(p, "repacking weights", all, true);
    ag_progress_show(p, done);
}

static void show_note(void *arg, bool bad, const char *text)
{
    (void)arg, (void)bad;
    fprintf(stderr, "%s\n", text);
}

int ag_direct_open(ag_direct *d, const char *model, const ag_conf *conf, uint32_t sequences, uint32_t ctx,
                   uint32_t out_max, ag_buf *report, ag_err *err)
{
    *d = (ag_direct){.per = (ctx + AG_KV_PAGE - 1) / AG_KV_PAGE, .sequences = sequences};
    uint64_t pages = (uint64_t)d->per * sequences;
    if (pages == 0 || pages > UINT32_MAX / AG_KV_PAGE)
        return ag_err_set(err, AG_E_USAGE, "%u sequences of %u tokens are more than can be addressed", sequences, ctx);
    int rc = ag_model_open(&d->model, model, NULL, err);
    ag_progress progress = {0};
    if (rc == AG_OK) {
        ag_lm_conf lc = {.threads = conf->threads,
                         .isa = conf->isa,
                         .no_pass = conf->no_pass,
                         .kv = ag_kv_type_of(conf->kv),
                         .rows_max = AG_DIRECT_ROWS,
                         .out_max = out_max,
                         .ctx_tokens = pages * AG_KV_PAGE,
                         .report = report,
                         .progress = show_progress,
                         .progress_arg = &progress,
                         .note = show_note,
                         .image_dir = *conf->weights_image_dir ? conf->weights_image_dir : NULL};
        bool known = ag_image_mode_find(conf->weights_image, &lc.image);
        AG_ASSERT(known); /* the table's choices are the engine's */
        /* what is measured should not depend on what lies about */
        if (lc.image == AG_IMAGE_AUTO) lc.image = AG_IMAGE_OFF;
        rc = ag_lm_open(&d->lm, d->model, &lc, err);
    }
    if (progress.total) ag_progress_end(&progress);
    if (rc == AG_OK) d->lm->ops->settle(d->lm->backend);
    if (rc == AG_OK && (d->pages = ag_mem_array(pages, sizeof *d->pages)) == NULL)
        rc = ag_err_set(err, AG_E_NOMEM, "no memory for the page table");
    if (rc != AG_OK) {
        ag_direct_close(d);
        return rc;
    }
    for (uint32_t i = 0; i < pages; i++) d->pages[i] = i;
    return AG_OK;
}

void ag_direct_close(ag_direct *d)
{
    ag_mem_free(d->pages);
    ag_lm_close(d->lm);
    ag_model_close(d->model);
    *d = (ag_direct){0};
}

int ag_direct_feed(ag_direct *d, const int32_t *tokens, uint32_t n, uint32_t chunk, uint32_t first, ag_direct_fn *fn,
                   void *arg)
{
    uint32_t out[AG_DIRECT_ROWS];
    AG_ASSERT(chunk >= 1 && chunk <= AG_DIRECT_ROWS && n <= d->per * AG_KV_PAGE);
    for (uint32_t at = 0; at < n; at += chunk) {
        uint32_t rows = AG_MIN(chunk, n - at), n_out = 0;
        for (uint32_t r = 0; r < rows; r++)
            if (at + r >= first) out[n_out++] = r;
        ag_span span = {0, rows, at, d->pages};
        ag_batch batch = {
            .n_rows = rows, .n_spans = 1, .n_out = n_out, .tokens = tokens + at, .spans = &span, .out_rows = out};
        const float *logits;
        size_t stride;
        ag_lm_run(d->lm, &batch, &logits, &stride);
        for (uint32_t i = 0; i < n_out; i++) {
            int rc = fn(arg, at + out[i], logits + i * stride, d->model->hp.vocab);
            if (rc) return rc;
        }
    }
    return AG_OK;
}
