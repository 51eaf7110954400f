/* How long it will take: for deadlines at the door and in the queue, for those who ask, for what is charged ahead. */
#include "engine/sched/sched_inner.h"

uint32_t ag__sched_expect(const ag_sched *s, const ag_seq *seq)
{
    if (seq->max_tokens == 0) return 0;
    uint32_t n = ag_queue_expect(s->queue, seq->q.tenant, seq->max_tokens);
    return AG_MIN(AG_MAX(n, (uint32_t)seq->output_done + 1), seq->max_tokens);
}

uint64_t ag__sched_cost(const ag_sched *s, const ag_seq *seq, uint32_t cached)
{
    uint32_t prompt = seq->n_prompt - AG_MIN(cached, seq->n_prompt);
    return ag_queue_service(s->queue, prompt, ag__sched_expect(s, seq) - seq->output_done);
}

/* The shape of a step in which everyone who runs decodes, and one more. */
static ag_step_shape everyone(const ag_sched *s, uint32_t pos)
{
    ag_step_shape shape = {.outs = s->n_running + 1};
    ag_step_shape_add(&shape, pos, 1);
    for (uint32_t i = 0; i < s->n_running; i++) ag_step_shape_add(&shape, s->running[i]->computed, 1);
    return shape;
}

/* Where others wait, whoever is let in and does not end in time takes from them what they could have had: then an
 * answer half as long again as expected must have time, and steps may slow down a little. */
#define CONTESTED_LENGTH 1.5
#define CONTESTED_TIME 1.15

double ag__sched_finish_us(const ag_sched *s, const ag_seq *seq, uint32_t cached, bool contested)
{
    double expect = AG_MIN(ag__sched_expect(s, seq) * (contested ? CONTESTED_LENGTH : 1), (double)seq->max_tokens);
    uint32_t rest = seq->n_tokens - cached, tokens = (uint32_t)expect - (uint32_t)seq->output_done;
    ag_step_shape with = everyone(s, seq->n_tokens);
    double decode = ag_cost_us(&s->cost, &with), prompt;
    if (decode <= 0) return 0;
    if (s->n_running == 0) {
        uint32_t rows = AG_MIN(rest, s->conf.rows_max);
        ag_step_shape one = {.outs = 1};
        ag_step_shape_add(&one, cached + rest / 2, rows);
        prompt = ag_cost_us(&s->cost, &one) * rest / rows;
    } else {
        double limit = ag__sched_long_us(s, &with, seq);
        if (ag__sched_is_short(s, seq, cached)) limit = AG_MAX(limit, (double)s->conf.gap_us);
        uint32_t rows =
            AG_MAX(s->conf.rows_min, ag_cost_rows(&s->cost, &with, cached + rest / 2, limit, s->conf.rows_max));
        ag_step_shape last = with;
        ag_step_shape_add(&last, cached + rest / 2, rest % rows);
        prompt = limit * (rest / rows) + (rest % rows > 0 ? ag_cost_us(&s->cost, &last) : 0);
        decode = AG_MAX(decode, s->decode_us); /* others' prompts come with it */
    }
    return (prompt + decode * (tokens > 0 ? tokens - 1 : 0)) * (contested ? CONTESTED_TIME : 1);
}

/* Units of service a microsecond: as measured, or, while there are places, what everybody who is here would get of
 * steps together. A few who run alone are served more slowly than the machine can. */
static double rate(const ag_sched *s)
{
    double measured = s->rate_units / s->rate_us;
    if (s->n_running == s->conf.running_max || ag_kv_available(s->kv) == 0) return measured;
    ag_queue_stats q;
    ag_queue_stats_get(s->queue, &q);
    uint32_t rows = AG_MIN(s->n_running + q.entries + 1, s->conf.running_max);
    ag_step_shape now = everyone(s, 0), all = ag_step_shape_scaled(&now, rows);
    double us = ag_cost_us(&s->cost, &all);
    return us > 0 ? AG_MAX(measured, (double)ag_queue_service(s->queue, 0, rows) / us) : measured;
}

double ag__sched_wait_us(const ag_sched *s, const ag_queue_place *place, uint8_t band)
{
    if (s->rate_us <= 0 || s->rate_units <= 0) return 0;
    bool full = s->n_running == s->conf.running_max || ag_kv_available(s->kv) == 0;
    double left = 0;
    for (uint32_t i = 0; full && i < s->n_running; i++) {
        if (s->running[i]->q.band > band) full = false; /* it will be set back */
        left += (double)ag__sched_cost(s, s->running[i], s->running[i]->furthest);
    }
    /* Until the next of those who run ends: they share the rate, and one of n is the first. */
    double ahead = (double)place->cost_ahead + (full ? left / s->n_running / s->n_running : 0);
    return ahead / rate(s);
}

void ag_sched_wait_get(ag_sched *s, ag_seq *seq, uint64_t now_us, ag_sched_wait *out)
{
    AG_CHECK(s, AG_SCHED_MAGIC);
    *out = (ag_sched_wait){0};
    if (!seq->q.queued) return;
    ag_queue_place place;
    ag_queue_place_get(s->queue, &seq->q, now_us, &place);
    out->position = place.ahead + 1;
    out->wait_us = (uint64_t)ag__sched_wait_us(s, &place, seq->q.band);
}
