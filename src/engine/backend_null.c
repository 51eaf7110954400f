/* The backend of the model without weights (model/null.h): logits that leave no doubt about the next byte, at the pace
 * that was asked for. A step takes its time however many rows it has; prompts take none. A state is 1 at the place of
 * its token, so that the mean of a text's counts its bytes. */
#include <errno.h>
#include <time.h>

#include "base/mem.h"
#include "engine/backend.h"
#include "model/null.h"

#define NULL_MAGIC 0x41474e4cu
/* Over the others: certain at any temperature that may be asked for (10), and within the reach of logit_bias. */
#define SURE 1000.0f

struct ag_backend {
    uint32_t magic, vocab, width;
    const char *isa;
    float *logits;      /* out_max rows, 0 but for one in each */
    uint32_t *said;     /* which */
    float *states;      /* rows_max rows of width */
    uint64_t period_us; /* 0: none */
    uint64_t next_us;   /* when the last step's time was over */
};

static void null_close(ag_backend *b)
{
    if (b == NULL) return;
    AG_CHECK(b, NULL_MAGIC);
    ag_mem_free(b->logits);
    ag_mem_free(b->said);
    ag_mem_free(b->states);
    b->magic = 0;
    ag_mem_free(b);
}

static int null_open(ag_backend **out, const ag_plan *plan, const ag_backend_conf *conf, ag_err *err)
{
    const ag_cpu_isa *isa = ag_cpu_isa_find(conf->isa); /* the sampler's */
    if (isa == NULL)
        return ag_err_set(err, AG_E_USAGE, "instruction set \"%.40s\" is not known or does not run here", conf->isa);
    ag_backend *b = ag_mem_zalloc(sizeof *b);
    if (b == NULL) return ag_err_set(err, AG_E_NOMEM, "no memory for the null backend");
    b->magic = NULL_MAGIC;
    b->isa = isa->name;
    b->vocab = conf->null_vocab;
    b->width = conf->null_width;
    b->period_us = conf->null_rate ? 1000000 / conf->null_rate : 0;
    b->logits = ag_mem_array((size_t)plan->out_max * b->vocab, sizeof *b->logits);
    b->said = ag_mem_array(plan->out_max, sizeof *b->said);
    b->states = ag_mem_array((size_t)plan->rows_max * b->width, sizeof *b->states);
    if (b->logits == NULL || b->said == NULL || b->states == NULL) {
        null_close(b);
        return ag_err_set(err, AG_E_NOMEM, "no memory for the null backend");
    }
    *out = b;
    return AG_OK;
}

static void keep_pace(ag_backend *b)
{
    uint64_t now = ag_now_us();
    b->next_us = AG_MAX(b->next_us, now) + b->period_us;
    struct timespec t = {.tv_sec = (time_t)(b->next_us / 1000000), .tv_nsec = (long)(b->next_us % 1000000) * 1000};
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL) == EINTR) {}
}

static void null_run(ag_backend *b, const ag_batch *batch, const float **logits, size_t *stride)
{
    AG_CHECK(b, NULL_MAGIC);
    const ag_span *s = batch->spans;
    for (uint32_t i = 0; i < batch->n_out; i++) {
        while (batch->out_rows[i] >= s->row + s->n) s++;
        uint32_t pos = s->pos + batch->out_rows[i] - s->row;
        float *row = b->logits + (size_t)i * b->vocab;
        row[b->said[i]] = 0;
        b->said[i] = (unsigned char)AG_NULL_TEXT[pos % (sizeof AG_NULL_TEXT - 1)];
        row[b->said[i]] = SURE;
    }
    for (uint32_t i = 0; i < batch->n_states; i++) {
        float *row = b->states + (size_t)i * b->width;
        memset(row, 0, b->width * sizeof *row);
        row[(uint32_t)batch->tokens[batch->out_rows[batch->n_out + i]] % b->width] = 1;
    }
    if (b->period_us && batch->n_out) keep_pace(b);
    *logits = b->logits;
    *stride = b->vocab;
}

static const float *null_states(const ag_backend *b, size_t *stride)
{
    *stride = b->width;
    return b->states;
}

static void null_parallel(ag_backend *b AG_UNUSED, ag_backend_fn *fn, void *arg, uint32_t n) { fn(arg, 0, 0, n); }
static uint32_t null_threads(const ag_backend *b AG_UNUSED) { return 1; }
static const char *null_isa(const ag_backend *b) { return b->isa; }
static uint64_t null_busy_us(const ag_backend *b AG_UNUSED) { return 0; }
static uint64_t null_weight_bytes(const ag_backend *b AG_UNUSED) { return 0; }
static void null_weights(const ag_backend *b AG_UNUSED, ag_weights_info *out) { *out = (ag_weights_info){0}; }
static void null_settle(ag_backend *b AG_UNUSED) {}
static void null_clear(ag_backend *b AG_UNUSED) {}
static unsigned char *null_page(ag_backend *b AG_UNUSED, uint32_t page AG_UNUSED) { return NULL; }

const ag_backend_ops ag_backend_null = {"null",        null_open,    null_close, null_run,     null_states,
                                        null_parallel, null_threads, null_isa,   null_busy_us, null_weight_bytes,
                                        null_weights,  null_settle,  null_clear, null_page};
