/* fleet_measure.c - what became of the requests, and how busy the machines were. */
#include <math.h>

#include "sim/fleet_inner.h"

static uint32_t bin_of(const ag__fleet *f, uint64_t us)
{
    uint64_t bin = us / f->r->bin_us;
    return (uint32_t)AG_MIN(bin, (uint64_t)AG_FLEET_BINS - 1);
}

static ag_fleet_line *class_line(ag__fleet *f, uint32_t class) { return &f->r->classes[class]; }
static ag_fleet_line *group_line(ag__fleet *f, uint32_t class) { return &f->r->groups[f->s->classes[class].group]; }

/* The clocks of machines begin at 1. */
static bool counts(const ag__fleet *f, uint64_t ask_us) { return ask_us > f->s->warmup_us; }

void ag__fleet_asked(ag__fleet *f, uint32_t class, uint64_t at_us)
{
    if (!counts(f, at_us)) return;
    class_line(f, class)->asked++;
    group_line(f, class)->asked++;
}

static void count_end(ag_fleet_line *l, const ag_sim_req *r)
{
    bool partly = r->end == AG_SIM_DONE || r->end == AG_SIM_TIMEOUT;
    switch (r->end) {
    case AG_SIM_DONE: l->done++; break;
    case AG_SIM_REFUSED:
        if (r->code == AG_E_QUEUE_FULL) l->refused_full++;
        else if (r->code == AG_E_DEADLINE) l->refused_late++;
        else l->refused_other++;
        break;
    case AG_SIM_DISPLACED: l->displaced++; break;
    case AG_SIM_EXPIRED: l->expired++; break;
    case AG_SIM_TIMEOUT: l->timed_out++; break;
    case AG_SIM_CANCELLED: l->cancelled++; break;
    case AG_SIM_HERE: AG_ASSERT(false);
    }
    l->rows += r->rows;
    if (!partly) l->rows_in_vain += r->rows;
    if (r->admit_us) {
        uint64_t wait = r->admit_us - r->ask_us;
        ag_hist_add(&l->wait, wait);
        ag_hist_add(&l->off, wait > r->told_us ? wait - r->told_us : r->told_us - wait);
    }
    if (r->first_us) ag_hist_add(&l->ttft, r->first_us - r->ask_us);
    if (r->end == AG_SIM_DONE) ag_hist_add(&l->total, r->end_us - r->ask_us);
    l->prompt_tokens += partly ? r->ask.n_prompt : 0;
    l->output_tokens += partly ? r->answered : 0;
}

void ag__fleet_ended(ag__fleet *f, const ag_sim_req *r)
{
    uint32_t class = ag__fleet_class_of(r);
    if (r->first_us) ag_hist_add(&f->ttft[class * AG_FLEET_BINS + bin_of(f, r->ask_us)], r->first_us - r->ask_us);
    if (!counts(f, r->ask_us)) return;
    count_end(class_line(f, class), r);
    count_end(group_line(f, class), r);
}

/* Called when the clock is at the step's end and before its tokens are appended. */
void ag__fleet_stepped(ag__fleet *f, uint64_t now_us, const ag_sched_step *step, uint64_t us)
{
    uint32_t bin = bin_of(f, now_us);
    bool shown = now_us <= f->s->seconds_us; /* what is left is finished off the plots */
    f->r->steps++;
    f->r->busy_us += us;
    if (shown) f->r->busy[bin] += (double)us;
    for (uint32_t i = 0; i < step->n_out; i++) {
        const ag_sim_req *r = (const ag_sim_req *)step->outs[i].seq;
        uint32_t class = ag__fleet_class_of(r);
        if (shown) f->r->tokens[f->s->classes[class].group][bin]++;
        if (r->first_us == 0 || !counts(f, r->ask_us)) continue;
        ag_hist_add(&class_line(f, class)->gap, now_us - r->last_us);
        ag_hist_add(&group_line(f, class)->gap, now_us - r->last_us);
    }
}

void ag__fleet_sample(ag__fleet *f)
{
    uint32_t bin = bin_of(f, f->now_us);
    uint64_t waiting = 0, running = 0;
    for (uint32_t i = 0; i < f->s->machines; i++) {
        ag_sched_stats st;
        ag_sched_stats_get(ag_sim_sched(f->machines[i].sim), &st);
        waiting += st.queue.entries;
        running += st.running;
    }
    f->r->waiting[bin] += (double)waiting;
    f->r->running[bin] += (double)running;
    f->samples[bin]++;
}

static void add_hist(ag_hist *to, const ag_hist *h)
{
    to->n += h->n;
    to->sum += h->sum;
    to->max = AG_MAX(to->max, h->max);
    for (uint32_t i = 0; i < AG_HIST_BUCKETS; i++) to->count[i] += h->count[i];
}

static void add_line(ag_fleet_line *to, const ag_fleet_line *l)
{
    to->asked += l->asked;
    to->done += l->done;
    to->refused_full += l->refused_full;
    to->refused_late += l->refused_late;
    to->refused_other += l->refused_other;
    to->displaced += l->displaced;
    to->expired += l->expired;
    to->timed_out += l->timed_out;
    to->cancelled += l->cancelled;
    to->unfinished += l->unfinished;
    to->prompt_tokens += l->prompt_tokens;
    to->output_tokens += l->output_tokens;
    to->rows_in_vain += l->rows_in_vain;
    to->rows += l->rows;
    add_hist(&to->wait, &l->wait);
    add_hist(&to->ttft, &l->ttft);
    add_hist(&to->gap, &l->gap);
    add_hist(&to->total, &l->total);
    add_hist(&to->off, &l->off);
}

static void leave_unfinished(ag_fleet_line *l)
{
    l->unfinished = l->asked - l->done - l->refused_full - l->refused_late - l->refused_other - l->displaced -
                    l->expired - l->timed_out - l->cancelled;
}

static void sum_machines(ag__fleet *f)
{
    ag_fleet_result *r = f->r;
    for (uint32_t i = 0; i < f->s->machines; i++) {
        ag_sched_stats st;
        ag_sched_stats_get(ag_sim_sched(f->machines[i].sim), &st);
        r->set_back_pages += st.set_back_pages;
        r->set_back_urgent += st.set_back_urgent;
        r->set_back_share += st.set_back_share;
        r->prompt_rows += st.prompt_rows;
        r->output_rows += st.output_rows;
        r->again_rows += st.again_rows;
        r->reused_tokens += st.reused_tokens;
        r->step_error += st.cost_error / f->s->machines;
    }
}

void ag__fleet_sum(ag__fleet *f)
{
    ag_fleet_result *r = f->r;
    r->end_us = f->now_us;
    for (uint32_t i = 0; i < f->s->n_groups; i++) leave_unfinished(&r->groups[i]);
    for (uint32_t i = 0; i < f->s->n_classes; i++) {
        leave_unfinished(&r->classes[i]);
        add_line(&r->all, &r->classes[i]);
        for (uint32_t b = 0; b < AG_FLEET_BINS; b++) {
            const ag_hist *h = &f->ttft[i * AG_FLEET_BINS + b];
            r->ttft_us[i][0][b] = (uint64_t)ag_hist_quantile(h, 0.5);
            r->ttft_us[i][1][b] = (uint64_t)ag_hist_quantile(h, 0.95);
        }
    }
    for (uint32_t b = 0; b < AG_FLEET_BINS; b++) {
        double samples = (double)AG_MAX(f->samples[b], (uint64_t)1);
        r->waiting[b] /= samples;
        r->running[b] /= samples;
        r->busy[b] = fmin(r->busy[b] / ((double)r->bin_us * f->s->machines), 1);
    }
    sum_machines(f);
}
