/* What the next step computes, and what its end means. */
#include "engine/sched/sched_inner.h"

/* ---- filling ---- */

static void add_states(ag_sched *s, ag_seq *q, uint32_t end)
{
    ag_sched_step *b = &s->step;
    uint32_t from = AG_MAX(q->computed, q->states == AG_STATES_ALL ? q->n_scored : q->n_prompt - 1);
    if (from < end) b->states[b->n_states++] = (ag_sched_span){q, b->n_rows + (from - q->computed), end - from, from};
}

/* Adds n rows of q. */
static void add_span(ag_sched *s, ag_seq *q, uint32_t n)
{
    ag_sched_step *b = &s->step;
    b->spans[b->n_spans++] = (ag_sched_span){q, b->n_rows, n, q->computed};
    memcpy(b->tokens + b->n_rows, q->tokens + q->computed, n * sizeof *b->tokens);
    uint32_t end = q->computed + n;
    for (uint32_t i = q->all_logits ? q->computed : end - 1; i < end; i++) {
        bool scored = q->all_logits && i + 1 >= q->n_scored && i + 1 < q->n_prompt;
        bool sampled = i + 1 == q->n_tokens && q->max_tokens > 0;
        if (scored || sampled) b->outs[b->n_out++] = (ag_sched_out){q, b->n_rows + (i - q->computed), i};
    }
    if (q->states != AG_STATES_NONE) add_states(s, q, end);
    b->n_rows += n;
    b->shape.outs = b->n_out;
    ag_step_shape_add(&b->shape, q->computed, n);
    q->step_n = n;
}

void ag__sched_add_decode(ag_sched *s, ag_seq *q)
{
    add_span(s, q, 1);
    s->step.decodes++;
}

static ag_seq *next_prompt(const ag_sched *s)
{
    for (uint32_t i = 0; i < s->n_prompts; i++)
        if (s->prompts[i]->kv.waits == 0 && s->prompts[i]->step_n == 0) return s->prompts[i];
    return NULL;
}

/* The next prompt to get rows, of that urgency or above: one under way, or the queue's head where that comes first. */
static ag_seq *choose(ag_sched *s, int64_t urgency, bool *heads, uint64_t now_us)
{
    for (;;) {
        ag_seq *p = next_prompt(s);
        ag_qent *e = *heads ? ag_queue_head(s->queue, now_us) : NULL;
        if (s->fair) { /* nor do prompts of whom they sit out for lengthen the step */
            if (p && ag__sched_over_share(s, p->q.tenant)) p = NULL;
            if (e && ag__sched_over_share(s, e->tenant)) e = NULL;
        }
        bool first = e && (int64_t)e->level <= urgency && (p == NULL || ag__sched_may_precede(s, (ag_seq *)e, p));
        if (!first) return p && p->urgency <= urgency ? p : NULL;
        ag_seq *head = (ag_seq *)e;
        ag__admitted how = ag__sched_admit(s, head, now_us);
        *heads = how != AG__NOT_NOW;
        if (how == AG__IN && head->kv.waits == 0) return head;
    }
}

/* Until the next one in order finds no room: those behind it may not pass it, nor those who are less urgent than the
 * first. */
static void fill_prompts(ag_sched *s, uint64_t now_us)
{
    ag_sched_step *b = &s->step;
    int64_t urgency = INT64_MAX;
    bool heads = true;
    while (b->n_rows < s->conf.rows_max && (b->budget == UINT32_MAX || b->prompt_rows < b->budget)) {
        ag_seq *q = choose(s, urgency, &heads, now_us);
        if (q == NULL) return;
        bool first = b->n_rows == 0;
        if (ag__seq_decodes(q)) { /* all of it was found but the last token: it needs a row as those who decode */
            if (!first && !ag__sched_fits(s, q)) return;
            if (!first) ag__sched_add_decode(s, q);
            continue;
        }
        if (first) {
            ag__sched_protect(s, q, now_us);
            urgency = AG_MIN(urgency, q->urgency);
        }
        uint32_t n = ag__sched_rows_for(s, q);
        if (n == 0) return;
        add_span(s, q, n);
        b->prompt_rows += n;
    }
}

static uint32_t count_sat_out(ag_sched *s, uint64_t now_us)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < s->n_running; i++) {
        ag_seq *q = s->running[i];
        if (q->yielded_us && (q->step_n > 0 || !q->yields)) {
            q->sat_us = now_us > q->yielded_us ? now_us - q->yielded_us : 0;
            q->yielded_us = 0;
            q->resumed_us = now_us;
        }
        if (q->step_n > 0 && q->paused_us) q->resumed_us = now_us; /* it rests in steps, not while others keep it out */
        if (q->step_n > 0) q->paused_us = 0;
        else if (q->paused_us == 0) q->paused_us = AG_MAX(now_us, 1u);
        if (q->step_n == 0 && q->yields && q->yielded_us == 0) q->yielded_us = AG_MAX(now_us, 1u);
        if (q->step_n == 0 && ag__seq_decodes(q)) n++;
    }
    return n;
}

void ag__sched_fill(ag_sched *s, uint64_t now_us)
{
    ag_sched_step *b = &s->step;
    fill_prompts(s, now_us);
    if (b->n_rows == 0) ag__sched_protect(s, NULL, now_us);
    b->sat_out = count_sat_out(s, now_us);
}

bool ag_sched_step_next(ag_sched *s, uint64_t now_us, const ag_sched_step **out)
{
    AG_CHECK(s, AG_SCHED_MAGIC);
    AG_ASSERT(!s->in_step);
    ag_sched_step *b = &s->step;
    *b = (ag_sched_step){
        .tokens = b->tokens, .spans = b->spans, .outs = b->outs, .states = b->states, .budget = UINT32_MAX};
    s->limit_us = s->long_us = 0;
    s->fair = false;
    s->short_first = !s->short_first;
    s->admitted_before = s->admissions;
    s->began_us = now_us;
    ag_sched_expire(s, now_us);
    ag__sched_look(s, now_us);
    ag__sched_fill(s, now_us);
    s->n_prompts = 0;
    s->in_step = b->n_rows > 0;
    *out = b;
    return s->in_step;
}

/* ---- after it ran ---- */

/* Returns the rows of the prompt that were computed for the first time. */
static uint32_t advance(ag_sched *s, ag_seq *q)
{
    uint32_t end = q->computed + q->step_n, from = AG_MAX(q->furthest, q->computed);
    uint32_t fresh = end > from ? end - from : 0,
             prompt = AG_MIN(end, q->n_prompt) > from ? AG_MIN(end, q->n_prompt) - from : 0;
    s->stats.again_rows += q->step_n - fresh;
    s->stats.prompt_rows += prompt;
    q->prompt_done += prompt;
    q->furthest = AG_MAX(q->furthest, end);
    q->computed = end;
    q->step_n = 0;
    ag_kv_publish(s->kv, &q->kv, q->tokens, q->computed);
    return prompt;
}

void ag__sched_account(ag_sched *s, ag_seq *q)
{
    uint64_t real = ag_queue_service(s->queue, q->prompt_done, q->output_done);
    if (real > q->charged) {
        ag_queue_charge(s->queue, q->q.tenant, (int64_t)(real - q->charged));
        q->charged = real;
    }
    uint64_t ahead = q->charged - real;
    if (ahead != q->ahead) ag_queue_ahead(s->queue, q->q.tenant, (int64_t)ahead - (int64_t)q->ahead);
    q->ahead = ahead;
}

/* Seconds that count: long enough to even out single steps, short enough to follow what callers do. */
#define RATE_US 5e6

static void learn_rate(ag_sched *s, uint64_t service, uint64_t step_us)
{
    if (step_us == 0) return;
    if (service > 0) { /* nor do steps say anything that only do again what was lost, or what does not count */
        double keep = RATE_US / (RATE_US + (double)step_us);
        s->rate_units = s->rate_units * keep + (double)service;
        s->rate_us = s->rate_us * keep + (double)step_us;
    }
    if (s->step.decodes == 0) return;
    s->decode_us = s->decode_us > 0 ? s->decode_us + ((double)step_us - s->decode_us) / 16 : (double)step_us;
}

void ag_sched_step_done(ag_sched *s, uint64_t step_us)
{
    AG_CHECK(s, AG_SCHED_MAGIC);
    AG_ASSERT(s->in_step);
    s->in_step = false;
    uint64_t prompt = 0, output = 0;
    for (uint32_t i = 0; i < s->step.n_spans; i++) prompt += advance(s, s->step.spans[i].seq);
    for (uint32_t i = 0; i < s->step.n_out; i++) {
        const ag_sched_out *o = &s->step.outs[i];
        if (o->index + 1 != o->seq->n_tokens || o->seq->max_tokens == 0) continue;
        o->seq->output_done++;
        output++;
    }
    for (uint32_t i = 0; i < s->step.n_spans; i++) {
        ag_seq *q = s->step.spans[i].seq;
        ag__sched_account(s, q);
        /* Not what it got by its age alone. */
        if (q->urgency >= q->q.band) ag_queue_served(s->queue, q->q.tenant, q->q.band, s->began_us + step_us);
    }
    s->stats.output_rows += output;
    ag_cost_add(&s->cost, &s->step.shape, step_us);
    learn_rate(s, ag_queue_service(s->queue, prompt, output), step_us);
}
