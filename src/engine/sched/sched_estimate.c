/* How long it will take: for deadlines at the door and in the queue, for those who ask, for what is charged ahead. */
#include <math.h>

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

/* So many rows of prompts of so many each, after `cached` tokens, as urgent as seq; beside everyone who runs, or
 * alone. */
static double prompts_us(const ag_sched *s, const ag_seq *seq, uint32_t cached, double rest, double each, bool alone)
{
    if (rest < 1) return 0;
    uint32_t pos = cached + (uint32_t)each / 2;
    if (alone) {
        double rows = AG_MIN(rest, (double)s->conf.rows_max);
        ag_step_shape one = {.outs = 1};
        ag_step_shape_add(&one, pos, (uint32_t)rows);
        return ag_cost_us(&s->cost, &one) * rest / rows;
    }
    const ag_step_shape with = everyone(s, seq->n_tokens);
    double limit = ag__sched_long_us(s, &with, seq);
    if (ag__sched_is_short(s, cached, (uint32_t)each)) limit = AG_MAX(limit, (double)s->conf.gap_us);
    uint32_t rows = ag_cost_rows(&s->cost, &with, pos, limit, s->conf.rows_max);
    rows = AG_MAX(s->conf.rows_min, rows);
    ag_step_shape last = with;
    uint32_t over = (uint32_t)fmod(rest, rows);
    ag_step_shape_add(&last, pos, over);
    return limit * floor(rest / rows) + (over > 0 ? ag_cost_us(&s->cost, &last) : 0);
}

double ag__sched_finish_us(const ag_sched *s, const ag_seq *seq, uint32_t cached, uint32_t more, bool contested)
{
    double expect = AG_MIN(ag__sched_expect(s, seq) * (contested ? CONTESTED_LENGTH : 1), (double)seq->max_tokens);
    uint32_t tokens = (uint32_t)expect - (uint32_t)seq->output_done;
    const ag_step_shape now = everyone(s, seq->n_tokens);
    const ag_step_shape with = ag_step_shape_scaled(&now, AG_MIN(s->n_running + 1 + more, s->conf.running_max));
    double decode = ag_cost_us(&s->cost, &with), rows = seq->n_tokens - cached;
    if (decode <= 0) return 0;
    double prompt = prompts_us(s, seq, cached, rows, rows, s->n_running + more == 0);
    if (s->n_running > 0) decode = AG_MAX(decode, s->decode_us); /* others' prompts come with it */
    return (prompt + decode * (tokens > 0 ? tokens - 1 : 0)) * (contested ? CONTESTED_TIME : 1);
}

ag_kv_found ag__sched_find(const ag_sched *s, const ag_seq *seq)
{
    if (ag_seq_alone(seq)) return (ag_kv_found){0};
    return ag_kv_peek(s->kv, seq->salt, seq->tokens, seq->n_tokens - 1);
}

/* How many of those who run have to end before it has a place and pages. A head that finds too few pages is in the way
 * of who comes behind it. */
static double ends_before(const ag_sched *s, const ag_queue_place *place, const ag_seq *seq, const ag_kv_found *found)
{
    if (s->n_running == 0) return 0;
    uint32_t held = ag__sched_pages_held(s), pages = 0;
    if (!found->promised) pages = ag__sched_pages_wanted(s, seq) - found->tokens / s->conf.page_tokens;
    uint32_t available = ag_kv_available(s->kv) - found->idle; /* it would not reclaim what it is going to use */
    bool behind = s->blocked && (place->ahead > 0 || s->blocked == seq->q.number + 1);
    double ends = s->n_running == s->conf.running_max || behind;
    if (pages > available) ends = AG_MAX(1, (double)(pages - available) * s->n_running / AG_MAX(held, 1u));
    return AG_MIN(ends, s->n_running);
}

/* Service that is left of the one that ends after `ends` - 1 others, of those who run. 0: it need not wait for any.
 * Answers as long as they may be end when they do, and are taken to be evenly spread; the others end at any time, so
 * that of n the first does after an nth of what is left of them on average. */
static double left_before(const ag_sched *s, const ag_seq *seq, double ends)
{
    double least = HUGE_VAL, most = 0, sum = 0;
    uint32_t told = 0, open = 0;
    for (uint32_t i = 0; i < s->n_running; i++) {
        const ag_seq *v = s->running[i];
        if (ag__sched_gives_way(v, seq, seq->q.band, 0)) return 0;
        double left = (double)ag__sched_cost(s, v, v->furthest);
        if (ag__sched_expect(s, v) == v->max_tokens) {
            told++;
            least = AG_MIN(least, left);
            most = AG_MAX(most, left);
        } else {
            open++;
            sum += left;
        }
    }
    double of_told = told ? least + (most - least) * (AG_MIN(ends, told) - 1) / AG_MAX(told - 1, 1u) : HUGE_VAL;
    return open ? AG_MIN(of_told, sum / open * ends / open) : of_told;
}

/* Units of service a microsecond: as measured, or, if that is more, what so many who decode would get of steps together.
 * What was measured of a few who ran alone is less than the machine can. */
static double rate(const ag_sched *s, uint32_t rows)
{
    const ag_step_shape now = everyone(s, 0), all = ag_step_shape_scaled(&now, rows);
    double us = ag_cost_us(&s->cost, &all), measured = s->rate_units / s->rate_us;
    return us > 0 ? AG_MAX(measured, (double)ag_queue_service(s->queue, 0, rows) / us) : measured;
}

/* How many will decode: everybody who is here, or, where pages are short, as many as have pages if each has as many as
 * those who run. */
static uint32_t rows_soon(const ag_sched *s)
{
    ag_queue_stats q;
    ag_queue_stats_get(s->queue, &q);
    uint32_t rows = AG_MIN(s->n_running + q.entries + 1, s->conf.running_max);
    uint32_t held = ag__sched_pages_held(s);
    if (!s->blocked || held == 0) return rows;
    return AG_MIN(rows, AG_MAX((uint32_t)((uint64_t)s->conf.pages * s->n_running / held), s->n_running));
}

/* Output tokens that are expected of those who are ahead of it. */
static double answers_ahead(const ag_sched *s, const ag_queue_place *place)
{
    double row = (double)ag_queue_service(s->queue, 1, 0), token = (double)ag_queue_service(s->queue, 0, 1);
    return token > 0 ? AG_MAX((double)place->cost_ahead - place->prompt_ahead * row, 0) / token : 0;
}

/* There are places for it and all who are ahead of it, and pages for as long as they are expected to get, while those
 * who run grow as it does. */
static bool all_find_room(const ag_sched *s, const ag_queue_place *place, const ag_seq *seq)
{
    if (place->ahead >= s->conf.running_max - s->n_running) return false;
    uint32_t expect = ag__sched_expect(s, seq);
    double tokens = place->prompt_ahead + answers_ahead(s, place);
    for (uint32_t i = 0; i < s->n_running; i++) {
        const ag_seq *q = s->running[i];
        tokens += AG_MIN(ag__sched_expect(s, q) - (uint32_t)q->output_done, expect);
    }
    uint32_t own = ag__sched_pages(s, (uint64_t)seq->n_prompt + expect);
    return tokens / s->conf.page_tokens + place->ahead + own <= ag_kv_available(s->kv);
}

ag__wait ag__sched_wait(const ag_sched *s, const ag_queue_place *place, const ag_seq *seq, const ag_kv_found *found)
{
    ag__wait wait = {0};
    if (s->rate_us <= 0 || s->rate_units <= 0) return wait;
    double ends = ends_before(s, place, seq, found);
    /* Those who run share the rate: each has an nth of it. */
    if (ends > 0) wait.us = left_before(s, seq, ends) * s->n_running / rate(s, s->n_running);
    wait.us += (double)place->cost_ahead / rate(s, rows_soon(s));
    if (ends > 0 || place->ahead == 0 || !all_find_room(s, place, seq)) return wait;
    double us = prompts_us(s, seq, 0, place->prompt_ahead, place->prompt_ahead / place->ahead, false);
    wait.us = AG_MAX(AG_MIN(us, wait.us), 1); /* no answer is waited for */
    wait.with = answers_ahead(s, place) > 0 ? place->ahead : 0;
    return wait;
}

void ag_sched_wait_get(ag_sched *s, ag_seq *seq, uint64_t now_us, ag_sched_wait *out)
{
    AG_CHECK(s, AG_SCHED_MAGIC);
    *out = (ag_sched_wait){0};
    if (!seq->q.queued) return;
    ag_queue_place place;
    ag_queue_place_get(s->queue, &seq->q, now_us, &place);
    out->position = place.ahead + 1;
    const ag_kv_found found = ag__sched_find(s, seq);
    out->wait_us = (uint64_t)ag__sched_wait(s, &place, seq, &found).us;
}
