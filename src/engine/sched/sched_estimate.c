/* How long it will take: for deadlines at the door and in the queue, for those who ask, for what is charged ahead. */
#include "engine/sched/sched_inner.h"

/* Who comes near what was expected of it will outgrow that: an answer gets half as long again as it is, or longer. */
uint32_t ag__sched_expect(const ag_sched *s, const ag_seq *seq)
{
    if (seq->max_tokens == 0) return 0;
    uint64_t n = ag_queue_expect(s->queue, seq->q.tenant, seq->max_tokens);
    return (uint32_t)AG_MIN(AG_MAX(n, seq->output_done + seq->output_done / 2 + 1), (uint64_t)seq->max_tokens);
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

/* How many of those who run have to end before one that has found `cached` tokens has a place and pages; 0: none. */
static double ends_before(const ag_sched *s, const ag_seq *seq, uint32_t cached)
{
    if (s->n_running == 0) return 0;
    uint32_t available = ag_kv_available(s->kv), held = s->conf.pages - available;
    uint32_t pages = ag__sched_pages(s, (uint64_t)seq->n_tokens + 1) - cached / s->conf.page_tokens;
    double ends = s->n_running == s->conf.running_max || s->blocked || available == 0;
    if (pages > available) ends = AG_MAX(1, (double)(pages - available) * s->n_running / AG_MAX(held, 1u));
    return AG_MIN(ends, s->n_running);
}

/* Units of service a microsecond: as measured, or, while there is room, what everybody who is here would get of steps
 * together. A few who run alone are served more slowly than the machine can. */
static double rate(const ag_sched *s, bool room)
{
    double measured = s->rate_units / s->rate_us;
    if (!room) return measured;
    ag_queue_stats q;
    ag_queue_stats_get(s->queue, &q);
    uint32_t rows = AG_MIN(s->n_running + q.entries + 1, s->conf.running_max);
    ag_step_shape now = everyone(s, 0), all = ag_step_shape_scaled(&now, rows);
    double us = ag_cost_us(&s->cost, &all);
    return us > 0 ? AG_MAX(measured, (double)ag_queue_service(s->queue, 0, rows) / us) : measured;
}

double ag__sched_wait_us(const ag_sched *s, const ag_queue_place *place, const ag_seq *seq, uint32_t cached)
{
    if (s->rate_us <= 0 || s->rate_units <= 0) return 0;
    double ends = ends_before(s, seq, cached), left = 0;
    bool room = ends == 0;
    for (uint32_t i = 0; ends > 0 && i < s->n_running; i++) {
        if (s->running[i]->q.band > seq->q.band) ends = 0; /* it will be set back */
        left += (double)ag__sched_cost(s, s->running[i], s->running[i]->furthest);
    }
    /* They share the rate, and of n that end one after another the first is done when an nth of all is. */
    double ahead = (double)place->cost_ahead + (ends > 0 ? left * ends / s->n_running / s->n_running : 0);
    return ahead / rate(s, room);
}

void ag_sched_wait_get(ag_sched *s, ag_seq *seq, uint64_t now_us, ag_sched_wait *out)
{
    AG_CHECK(s, AG_SCHED_MAGIC);
    *out = (ag_sched_wait){0};
    if (!seq->q.queued) return;
    ag_queue_place place;
    ag_queue_place_get(s->queue, &seq->q, now_us, &place);
    out->position = place.ahead + 1;
    out->wait_us = (uint64_t)ag__sched_wait_us(s, &place, seq, 0);
}
