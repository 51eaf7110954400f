#include "base/mem.h"
#include "engine/sched/sched_inner.h"

int ag_sched_open(ag_sched **out, const ag_sched_conf *conf, ag_err *err)
{
    AG_ASSERT(conf->running_max >= 1 && conf->out_max >= conf->running_max && conf->rows_max >= conf->running_max);
    AG_ASSERT(conf->rows_min >= 1 && conf->page_tokens >= 1 && conf->pages >= 1 && conf->events.out != NULL);
    ag_sched *s = ag_mem_zalloc(sizeof *s);
    if (s == NULL) return ag_err_set(err, AG_E_NOMEM, "no memory for the scheduler");
    s->magic = AG_SCHED_MAGIC;
    s->conf = *conf;
    ag_cost_init(&s->cost);
    int rc = ag_queue_open(&s->queue, &conf->queue, err);
    if (rc == AG_OK) rc = ag_kv_open(&s->kv, conf->pages, conf->page_tokens, err);
    s->running = ag_mem_array(conf->running_max, sizeof(ag_seq *));
    s->prompts = ag_mem_array(conf->running_max, sizeof(ag_seq *));
    s->step.tokens = ag_mem_array(conf->rows_max, sizeof *s->step.tokens);
    s->step.spans = ag_mem_array(conf->running_max, sizeof *s->step.spans);
    s->step.outs = ag_mem_array(conf->out_max, sizeof *s->step.outs);
    s->step.states = ag_mem_array(conf->running_max, sizeof *s->step.states);
    if (rc == AG_OK && !(s->running && s->prompts && s->step.tokens && s->step.spans && s->step.outs && s->step.states))
        rc = ag_err_set(err, AG_E_NOMEM, "no memory for the scheduler");
    if (rc != AG_OK) {
        ag_sched_close(s);
        return rc;
    }
    *out = s;
    return AG_OK;
}

void ag_sched_close(ag_sched *s)
{
    if (s == NULL) return;
    AG_CHECK(s, AG_SCHED_MAGIC);
    AG_ASSERT(s->n_running == 0);
    if (s->queue) ag_queue_close(s->queue);
    if (s->kv) ag_kv_close(s->kv);
    ag_mem_free((void *)s->running);
    ag_mem_free((void *)s->prompts);
    ag_mem_free(s->step.tokens);
    ag_mem_free(s->step.spans);
    ag_mem_free(s->step.outs);
    ag_mem_free(s->step.states);
    s->magic = 0;
    ag_mem_free(s);
}

ag_queue *ag_sched_queue(ag_sched *s) { return s->queue; }
ag_kv *ag_sched_kv(ag_sched *s) { return s->kv; }

uint64_t ag_sched_room_us(const ag_sched *s)
{
    AG_CHECK(s, AG_SCHED_MAGIC);
    ag_queue_stats q;
    ag_queue_stats_get(s->queue, &q);
    if (q.entries == 0 || s->rate_us <= 0 || s->rate_units <= 0) return 0;
    return (uint64_t)((double)q.cost / q.entries / s->rate_units * s->rate_us) + 1;
}

/* An idle server takes everything: what an estimate says is tried out where that costs nobody anything. */
static int check_deadline(ag_sched *s, const ag_seq *seq, const ag_kv_found *found, uint64_t now_us,
                          uint64_t *retry_us, ag_err *err)
{
    uint64_t deadline = seq->q.deadline_us;
    if (deadline == 0) return AG_OK;
    if (deadline <= now_us) return ag_err_set(err, AG_E_DEADLINE, "the deadline had passed when the request came");
    if (!s->conf.refuse_late || seq->sure) return AG_OK;
    ag_queue_stats q;
    ag_queue_stats_get(s->queue, &q);
    ag_queue_place place;
    ag_queue_place_of_new(s->queue, seq->q.tenant, seq->q.band, deadline, &place);
    const ag__wait wait = ag__sched_wait(s, &place, seq, found);
    double own = ag__sched_finish_us(s, seq, found->tokens, wait.with, q.entries > 0);
    double left = (double)(deadline - now_us);
    if (own <= 0 || wait.us + own <= left) return AG_OK;
    s->stats.refused_late++;
    double later = ag__sched_finish_us(s, seq, found->tokens, 0, q.entries > 0); /* when those have ended */
    *retry_us = later < left ? (uint64_t)(wait.us + own - left) + 1 : 0;
    return ag_err_set(err, AG_E_DEADLINE,
                      "it would take %.0f ms (%.0f of waiting), and %.0f are left until the deadline",
                      (wait.us + own) / 1000, wait.us / 1000, left / 1000);
}

static int check_fits(const ag_sched *s, const ag_seq *seq, ag_err *err)
{
    uint64_t need = ((uint64_t)seq->n_prompt + seq->max_tokens + s->conf.page_tokens - 1) / s->conf.page_tokens;
    if (need <= s->conf.pages) return AG_OK;
    return ag_err_set(err, AG_E_PARAM, "%u prompt tokens and %u to answer need %llu pages of the cache, which has %u",
                      seq->n_prompt, seq->max_tokens, (unsigned long long)need, s->conf.pages);
}

/* All that can be said of it without the others, and its table of pages. */
static int get_ready(ag_sched *s, ag_seq *seq, uint64_t now_us, uint64_t *retry_us, ag_err *err)
{
    AG_ASSERT(seq->n_prompt >= 1 && seq->n_tokens == seq->n_prompt && seq->q.tenant && seq->q.band < AG_BANDS &&
              !seq->q.queued);
    AG_ASSERT(seq->states == AG_STATES_NONE || (seq->max_tokens == 0 && !seq->all_logits));
    int rc = check_fits(s, seq, err);
    if (rc != AG_OK) return rc;
    if (!s->conf.reuse) seq->salt = AG_KV_ALONE;
    const ag_kv_found found = ag__sched_find(s, seq);
    rc = check_deadline(s, seq, &found, now_us, retry_us, err);
    if (rc != AG_OK) return rc;
    seq->kv = (ag_kv_seq){.salt = seq->salt, .cap = ag__sched_pages(s, (uint64_t)seq->n_prompt + seq->max_tokens)};
    seq->kv.pages = ag_mem_array(seq->kv.cap, sizeof *seq->kv.pages);
    if (seq->kv.pages == NULL) return ag_err_set(err, AG_E_NOMEM, "no memory for a table of %u pages", seq->kv.cap);
    seq->q.tokens = seq->n_prompt + seq->max_tokens;
    seq->q.cost = ag__sched_cost(s, seq, found.tokens);
    seq->q.prompt = seq->n_prompt - found.tokens;
    seq->q.resumed = false;
    return AG_OK;
}

int ag_sched_submit_all(ag_sched *s, ag_seq *first, uint64_t now_us, uint64_t *retry_us, ag_err *err)
{
    AG_CHECK(s, AG_SCHED_MAGIC);
    uint64_t unwanted;
    if (retry_us == NULL) retry_us = &unwanted;
    *retry_us = 0;
    int rc = AG_OK;
    first->sure = first->sure || !ag_sched_busy(s);
    for (ag_qent *e = first->q.newer; e; e = e->newer) ((ag_seq *)e)->sure = true;
    for (ag_qent *e = &first->q; e && rc == AG_OK; e = e->newer) rc = get_ready(s, (ag_seq *)e, now_us, retry_us, err);
    first->sure |= first->q.newer != NULL; /* those who come together are taken together */
    ag_qent *displaced = NULL;
    if (rc == AG_OK) rc = ag_queue_push_all(s->queue, &first->q, now_us, &displaced, err);
    for (ag_qent *e = &first->q; e && rc != AG_OK; e = e->newer) {
        ag_mem_free(((ag_seq *)e)->kv.pages);
        ((ag_seq *)e)->kv.pages = NULL;
    }
    if (rc == AG_E_QUEUE_FULL) {
        s->stats.refused_full++;
        *retry_us = ag_sched_room_us(s);
    }
    for (ag_qent *next; displaced; displaced = next) {
        next = displaced->newer;
        s->stats.displaced++;
        ag__sched_out(s, (ag_seq *)displaced, AG_OUT_DISPLACED, now_us);
    }
    return rc;
}

int ag_sched_submit(ag_sched *s, ag_seq *seq, uint64_t now_us, uint64_t *retry_us, ag_err *err)
{
    seq->q.newer = NULL;
    return ag_sched_submit_all(s, seq, now_us, retry_us, err);
}

/* What was charged ahead and did not come goes back. */
static void settle(ag_sched *s, ag_seq *seq)
{
    uint64_t real = ag_queue_service(s->queue, seq->prompt_done, seq->output_done);
    if (seq->charged > real) ag_queue_charge(s->queue, seq->q.tenant, (int64_t)real - (int64_t)seq->charged);
    seq->charged = real;
    ag__sched_account(s, seq);
}

static void forget(ag_sched *s, ag_seq *seq)
{
    AG_ASSERT(!seq->running && !seq->q.queued && seq->kv.n == 0);
    settle(s, seq);
    ag_mem_free(seq->kv.pages);
    seq->kv = (ag_kv_seq){0};
    s->blocked = 0; /* it may have been the one */
}

void ag__sched_out(ag_sched *s, ag_seq *seq, ag_sched_why why, uint64_t now_us)
{
    forget(s, seq);
    s->conf.events.out(s->conf.events.arg, seq, why, now_us);
}

void ag_sched_drop(ag_sched *s, ag_seq *seq, bool done)
{
    AG_CHECK(s, AG_SCHED_MAGIC);
    AG_ASSERT(seq->running || seq->q.queued);
    AG_ASSERT(!s->in_step || seq->step_n == 0);
    if (seq->running) ag__sched_leave(s, seq);
    else ag_queue_remove(s->queue, &seq->q);
    if (done && seq->max_tokens > 0)
        ag_queue_learn(s->queue, seq->q.tenant, seq->n_tokens - seq->n_prompt, seq->max_tokens);
    forget(s, seq);
}

void ag_sched_move(ag_sched *s, ag_seq *seq, uint8_t band, uint64_t now_us)
{
    AG_CHECK(s, AG_SCHED_MAGIC);
    AG_ASSERT(band < AG_BANDS);
    ag_queue_move(s->queue, &seq->q, band, now_us);
    s->blocked = 0;
}

void ag_sched_deadline_set(ag_sched *s, ag_seq *seq, uint64_t deadline_us)
{
    AG_CHECK(s, AG_SCHED_MAGIC);
    AG_ASSERT(seq->running || seq->q.queued);
    if (seq->q.queued) ag_queue_deadline_set(s->queue, &seq->q, deadline_us);
    else seq->q.deadline_us = deadline_us;
}

void ag_sched_expire(ag_sched *s, uint64_t now_us)
{
    AG_CHECK(s, AG_SCHED_MAGIC);
    for (ag_qent *e; (e = ag_queue_expired(s->queue, now_us));) {
        ag_seq *seq = (ag_seq *)e;
        if (seq->started) s->stats.timed_out++;
        else s->stats.expired++;
        ag__sched_out(s, seq, seq->started ? AG_OUT_TIMEOUT : AG_OUT_EXPIRED, now_us);
    }
    for (uint32_t i = s->in_step ? 0 : s->n_running; i-- > 0;) {
        ag_seq *seq = s->running[i];
        if (seq->q.deadline_us == 0 || seq->q.deadline_us > now_us) continue;
        s->stats.timed_out++;
        if ((double)seq->output_done > seq->q.tenant->output_mean) /* it would have been as long, at least */
            ag_queue_learn(s->queue, seq->q.tenant, (uint32_t)seq->output_done, seq->max_tokens);
        ag__sched_leave(s, seq);
        ag__sched_out(s, seq, AG_OUT_TIMEOUT, now_us);
    }
}

void ag_sched_forget(ag_sched *s)
{
    AG_CHECK(s, AG_SCHED_MAGIC);
    AG_ASSERT(!s->in_step);
    ag_kv_forget(s->kv);
}

uint64_t ag_sched_deadline(const ag_sched *s) { return ag_queue_deadline(s->queue); }
uint32_t ag_sched_running(const ag_sched *s) { return s->n_running; }

bool ag_sched_busy(const ag_sched *s)
{
    ag_queue_stats q;
    ag_queue_stats_get(s->queue, &q);
    return s->n_running > 0 || q.entries > 0;
}

ag_seq *ag_sched_running_at(ag_sched *s, uint32_t i)
{
    AG_ASSERT(i < s->n_running);
    return s->running[i];
}

void ag_sched_stats_get(ag_sched *s, ag_sched_stats *out)
{
    AG_CHECK(s, AG_SCHED_MAGIC);
    *out = s->stats;
    ag_queue_stats_get(s->queue, &out->queue);
    ag_kv_stats_get(s->kv, &out->kv);
    out->running = s->n_running;
    out->service_rate = s->rate_us > 0 ? s->rate_units / s->rate_us * 1e6 : 0;
    out->cost_error = s->cost.error;
}
