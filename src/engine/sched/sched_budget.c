/* How much of a step prompts may have, and which decodes it must not keep waiting. */
#include <math.h>

#include "engine/sched/sched_inner.h"

bool ag__sched_over_share(const ag_sched *s, const ag_tenant *t)
{
    uint32_t of = t->waiting > 0 ? s->n_running : s->conf.running_max;
    return t->running * s->weights > of * t->weight * (1 + 1e-9);
}

static bool is_short(const ag_sched *s, const ag_seq *p)
{
    return ag__sched_is_short(s, p->reused, p->n_tokens - AG_MIN(p->reused, p->n_tokens));
}

/* Who sits out for a tenant under its share does so for as long as a short prompt may take, for so many gaps for
 * another, or for so many of the steps that those who decode make anyway, where these are longer: enough for a few
 * hundred tokens of a prompt on a fast machine as on a slow one, too short for a reader to take it for the end. If what
 * is left then takes no longer than one more of those steps, for that too: a few rows at the side of everybody's would
 * cost it several. */
#define YIELD_GAPS 2
#define YIELD_STEPS 4
/* And only for one that has so much less for its weight: tenants of about the same load would take turns at it. */
#define YIELD_SHARES 2

/* A step of everybody who decodes. */
static double decodes_us(const ag_sched *s)
{
    ag_step_shape all = {0};
    for (uint32_t i = 0; i < s->n_running; i++) {
        const ag_seq *q = s->running[i];
        if (!ag__seq_decodes(q)) continue;
        all.outs++;
        ag_step_shape_add(&all, q->computed, 1);
    }
    return ag_cost_us(&s->cost, &all);
}

static double yield_us(const ag_sched *s, const ag_seq *p, double step_us)
{
    double prompt = p && is_short(s, p) ? s->conf.short_us : YIELD_GAPS * (double)s->conf.gap_us;
    return AG_MAX(prompt, YIELD_STEPS * step_us);
}

/* What is left of a prompt, in a step of its own; HUGE_VAL: it does not fit one. */
static double rest_us(const ag_sched *s, const ag_seq *p)
{
    uint32_t rows = p->n_tokens - p->computed;
    if (rows > s->conf.rows_max || p->all_logits) return HUGE_VAL;
    ag_step_shape rest = {0};
    ag_step_shape_add(&rest, p->computed, rows);
    return ag_cost_us(&s->cost, &rest);
}

/* Who rose by age got its place for it; beside those who decode it is what it was asked to be. */
static int64_t reach(const ag_seq *p) { return p ? p->urgency + (p->q.band - p->q.level) : INT64_MAX; }

/* Who has sat out goes on for as long, and longer by its tenant's weight: then the two share by their weights. */
static bool rested(const ag_seq *q, const ag_seq *p, uint64_t now_us)
{
    if (q->yielded_us) return true;
    uint64_t since = now_us > q->resumed_us ? now_us - q->resumed_us : 0;
    return (double)since * p->q.tenant->weight >= (double)q->sat_us * q->q.tenant->weight;
}

/* Decodes of tenants over their share, as urgent as prompt p, sit out where p's tenant has much less than they. Returns
 * the time that they have for it; 0: nobody does. */
static uint64_t mark_yields(ag_sched *s, const ag_seq *p, uint64_t now_us)
{
    s->weights = 0;
    for (uint32_t i = 0; i < s->n_running; i++)
        s->weights += s->running[i]->q.tenant->weight / s->running[i]->q.tenant->running;
    double step_us = decodes_us(s);
    s->yield_us = yield_us(s, p, step_us);
    uint64_t most = (uint64_t)s->yield_us, left = most;
    bool under = p && !ag__sched_over_share(s, p->q.tenant);
    s->fair = false;
    for (uint32_t i = 0; i < s->n_running; i++) {
        ag_seq *q = s->running[i];
        uint64_t paused = q->paused_us && now_us > q->paused_us ? now_us - q->paused_us : 0;
        q->yields = under && ag__seq_decodes(q) && q->urgency == reach(p) && paused < most && rested(q, p, now_us) &&
                    ag__seq_share(q, 0) > YIELD_SHARES * ag__seq_share(p, 0) && ag__sched_over_share(s, q->q.tenant);
        if (!q->yields) continue;
        s->fair = true;
        left = AG_MIN(left, most - paused);
    }
    if (!s->fair) return 0;
    double rest = rest_us(s, p);
    return rest > (double)left && rest <= (double)left + step_us ? (uint64_t)rest + 1 : left;
}

bool ag__sched_is_short(const ag_sched *s, uint32_t reused, uint32_t rows)
{
    if (s->conf.short_us == 0) return false;
    ag_step_shape whole = {.outs = 1};
    ag_step_shape_add(&whole, reused, rows);
    return ag_cost_us(&s->cost, &whole) <= s->conf.short_us;
}

/* Prompt rows of a step while nothing is known of what they take. */
#define UNKNOWN_ROWS 64

/* Where many wait, a step of theirs may take so many times what one of a single row takes: then reading the weights is
 * a quarter of it, and longer steps compute hardly more a second. */
#define BUSY_STEPS 4

double ag__sched_long_us(const ag_sched *s, const ag_step_shape *decodes, const ag_seq *p)
{
    ag_queue_stats q;
    ag_queue_stats_get(s->queue, &q);
    int64_t as = p->running ? reach(p) : p->q.band;
    uint32_t rows = p->running || (p->q.queued && !s->blocked) ? 0 : 1;
    bool above = false;
    for (uint32_t i = 0; i < s->n_running; i++) {
        rows += s->running[i]->urgency <= as;
        above |= ag__seq_decodes(s->running[i]) && s->running[i]->urgency < as;
    }
    for (int64_t i = 0; i < AG_BANDS && i <= as; i++)
        rows += s->blocked ? 0 : q.by_band[i]; /* there may be places and no pages */
    const ag_step_shape all = ag_step_shape_scaled(decodes, AG_MIN(rows, s->conf.running_max)), one = {1, 1, 1, 1};
    double gap = s->conf.gap_us, most = above ? gap : AG_MAX(gap, BUSY_STEPS * ag_cost_us(&s->cost, &one));
    return AG_MAX(s->conf.step_ratio * ag_cost_us(&s->cost, decodes), AG_MIN(ag_cost_us(&s->cost, &all), most));
}

/* How often a step may be of those who decode alone though a long prompt waits, and how well founded it is known what
 * such a step takes: while each step has rows of prompts nobody sees what they lengthen. */
#define ALONE_EVERY 32
#define ALONE_FOUNDED 16

static bool look_alone(ag_sched *s, const ag_seq *p)
{
    if (is_short(s, p) || ++s->since_alone < ALONE_EVERY) return false;
    for (uint32_t i = 0; i < s->n_running; i++)
        if (ag__seq_decodes(s->running[i]) && s->running[i]->step_n == 0) return false; /* it sits out for the prompt */
    s->since_alone = 0;
    return ag_cost_founded(&s->cost, s->step.n_rows) < ALONE_FOUNDED;
}

void ag__sched_protect(ag_sched *s, const ag_seq *p, uint64_t now_us)
{
    ag_sched_step *b = &s->step;
    uint64_t yielded = mark_yields(s, p, now_us);
    for (uint32_t i = 0; i < s->n_running; i++) {
        ag_seq *q = s->running[i];
        if (ag__seq_decodes(q) && !q->yields && q->urgency <= reach(p)) ag__sched_add_decode(s, q);
    }
    if (b->decodes == 0 && yielded == 0) return;
    uint32_t most = s->conf.rows_max - b->n_rows;
    if (b->decodes == 0) {
        s->limit_us = (double)yielded;
    } else if (ag_cost_us(&s->cost, &b->shape) > 0) {
        s->long_us = p ? ag__sched_long_us(s, &b->shape, p) : s->conf.step_ratio * ag_cost_us(&s->cost, &b->shape);
        s->limit_us = p && is_short(s, p) ? AG_MAX(s->long_us, (double)s->conf.gap_us) : s->long_us;
    } else {
        b->budget = AG_MIN(UNKNOWN_ROWS, most);
        return;
    }
    if (p && b->decodes > 0 && look_alone(s, p)) {
        b->budget = 0;
        return;
    }
    b->budget = AG_MAX(s->conf.rows_min, ag_cost_rows(&s->cost, &b->shape, p ? p->computed : 0, s->limit_us, most));
    b->budget = AG_MIN(b->budget, most);
}

uint32_t ag__sched_rows_for(const ag_sched *s, const ag_seq *q)
{
    const ag_sched_step *b = &s->step;
    uint32_t rest = q->n_tokens - q->computed, outs = s->conf.out_max - b->n_out;
    uint32_t n = AG_MIN(rest, s->conf.rows_max - b->n_rows);
    if (q->all_logits) n = AG_MIN(n, outs);
    else if (outs == 0 && n == rest && q->states == AG_STATES_NONE) n--; /* only the last row wants logits */
    if (b->budget == UINT32_MAX) return n;
    n = AG_MIN(n, b->budget - b->prompt_rows);
    if (s->limit_us <= 0) return n;
    uint32_t least = s->conf.rows_min > b->prompt_rows ? s->conf.rows_min - b->prompt_rows : 0;
    if (n <= least) return n;
    double limit = s->long_us > 0 && !is_short(s, q) ? s->long_us : s->limit_us;
    return AG_MAX(least, ag_cost_rows(&s->cost, &b->shape, q->computed, limit, n));
}

bool ag__sched_fits(const ag_sched *s, const ag_seq *q)
{
    if (s->step.n_rows == s->conf.rows_max || (s->step.n_out == s->conf.out_max && q->states == AG_STATES_NONE))
        return false;
    ag_step_shape with = s->step.shape;
    with.outs++;
    ag_step_shape_add(&with, q->computed, 1);
    return s->limit_us <= 0 || ag_cost_us(&s->cost, &with) <= s->limit_us;
}
