/* What always holds, looked at from the outside in. */
#include "engine/sched/sched_inner.h"

static void verify_seq(const ag_sched *s, const ag_seq *q)
{
    AG_ASSERT(q->running && q->started && !q->q.queued && q->kv.pages != NULL);
    AG_ASSERT(q->kv.n <= q->kv.cap && q->kv.shared <= q->kv.n);
    AG_ASSERT(q->computed <= q->n_tokens && q->furthest >= q->computed && q->n_tokens <= q->n_prompt + q->max_tokens);
    AG_ASSERT((uint64_t)q->kv.n * s->conf.page_tokens >= (uint64_t)q->computed + q->step_n);
    if (q->kv.waits) AG_ASSERT(q->kv.n == q->kv.shared && q->step_n == 0);
    else if (q->computed < q->n_prompt) AG_ASSERT(q->kv.n >= ag__sched_pages(s, q->n_prompt));
    AG_ASSERT(q->q.tenant->running > 0 && q->reused <= q->n_prompt);
    AG_ASSERT(s->in_step || q->charged >= ag_queue_service(s->queue, q->prompt_done, q->output_done));
}

/* Everybody once; a tenant's count is of those who are here. */
static void verify_running(const ag_sched *s)
{
    AG_ASSERT(s->n_running <= s->conf.running_max);
    for (uint32_t i = 0; i < s->n_running; i++) {
        const ag_seq *q = s->running[i];
        verify_seq(s, q);
        uint32_t same = 0;
        for (uint32_t j = 0; j < s->n_running; j++) {
            AG_ASSERT(i == j || s->running[j] != q);
            same += s->running[j]->q.tenant == q->q.tenant;
        }
        AG_ASSERT(same == q->q.tenant->running);
        if (i > 0) AG_ASSERT(s->running[i - 1]->order < q->order);
    }
}

static void verify_rows(const ag_sched *s)
{
    const ag_sched_step *b = &s->step;
    ag_step_shape shape = {.outs = b->n_out};
    uint32_t decodes = 0, prompt = 0;
    for (uint32_t i = 0; i < b->n_spans; i++) {
        const ag_sched_span *a = &b->spans[i];
        AG_ASSERT(a->seq->running && a->n >= 1 && a->n == a->seq->step_n && a->pos == a->seq->computed &&
                  a->row == shape.rows);
        AG_ASSERT(memcmp(b->tokens + a->row, a->seq->tokens + a->pos, a->n * sizeof *b->tokens) == 0);
        ag_step_shape_add(&shape, a->pos, a->n);
        if (ag__seq_decodes(a->seq)) decodes++;
        else prompt += a->n;
    }
    AG_ASSERT(shape.rows == b->n_rows && shape.rows <= s->conf.rows_max && b->n_out <= s->conf.out_max);
    AG_ASSERT(memcmp(&shape, &b->shape, sizeof shape) == 0 && decodes == b->decodes && prompt == b->prompt_rows);
    for (uint32_t i = 1; i < b->n_out; i++) AG_ASSERT(b->outs[i - 1].row < b->outs[i].row);
    for (uint32_t i = 0, end = 0; i < b->n_states; end = b->states[i].row + b->states[i].n, i++)
        AG_ASSERT(b->states[i].seq->states != AG_STATES_NONE && b->states[i].row >= end && b->states[i].n >= 1 &&
                  b->states[i].row + b->states[i].n <= b->n_rows);
    uint32_t sat_out = 0;
    for (uint32_t i = 0; i < s->n_running; i++) sat_out += s->running[i]->step_n == 0 && ag__seq_decodes(s->running[i]);
    AG_ASSERT(sat_out == b->sat_out);
}

/* The step keeps its limit: logits apart, which the model cannot foresee of a prompt that ends in it. */
static void verify_budget(const ag_sched *s)
{
    const ag_sched_step *b = &s->step;
    if (b->decodes == 0 && !s->fair) AG_ASSERT(b->budget == UINT32_MAX);
    AG_ASSERT(b->prompt_rows <= b->budget);
    if (s->limit_us <= 0 || b->prompt_rows <= s->conf.rows_min) return;
    ag_step_shape shape = b->shape;
    shape.outs = 0;
    for (uint32_t i = 0; i < b->n_spans; i++)
        shape.outs += ag__seq_decodes(b->spans[i].seq) && b->spans[i].seq->max_tokens > 0;
    AG_ASSERT(ag_cost_us(&s->cost, &shape) <= s->limit_us * 1.0001);
}

/* Nobody gets on while somebody more urgent could have: of prompts, and of decodes beside prompts. */
static void verify_order(const ag_sched *s)
{
    const ag_sched_step *b = &s->step;
    int64_t least = INT64_MIN; /* the least urgent prompt with rows */
    for (uint32_t i = 0; i < b->n_spans; i++)
        if (!ag__seq_decodes(b->spans[i].seq)) least = AG_MAX(least, b->spans[i].seq->urgency);
    if (least == INT64_MIN) return;
    for (uint32_t i = 0; i < s->n_running; i++) {
        const ag_seq *q = s->running[i];
        if (q->step_n > 0 || q->kv.waits || q->computed == q->n_tokens) continue;
        AG_ASSERT(q->urgency >= least);
        if (ag__seq_decodes(q) && q->order <= s->admitted_before) AG_ASSERT(q->urgency > least || q->yields);
    }
}

void ag_sched_verify(ag_sched *s)
{
    AG_CHECK(s, AG_SCHED_MAGIC);
    verify_running(s);
    if (s->in_step) {
        verify_rows(s);
        verify_budget(s);
        verify_order(s);
    }
    ag_kv_verify(s->kv);
    ag_queue_verify(s->queue);
}
