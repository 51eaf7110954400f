#include "engine/engine.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>

#include "base/fault.h"
#include "base/hash.h"
#include "base/mem.h"
#include "engine/engine_inner.h"

/* Rows of a step while nobody decodes: large enough that the weights, unpacked once a block of columns, cost little,
 * small enough that a newcomer waits for a fraction of a second. */
#define STEP_ROWS 512u

ag_door *ag__door_of(ag_engine *e)
{
    AG_CHECK(e, AG_ENGINE_MAGIC);
    return &e->door;
}

/* ---- sampling ---- */

static bool is_end(const ag_engine *e, const ag_gen *g, int32_t id)
{
    for (uint32_t i = 0; i < g->n_stop_tokens; i++)
        if (g->stop_tokens[i] == id) return true;
    return !g->ignore_eos && ag_tokenizer_ends(e->model->tokenizer, id);
}

static void sample_rows(void *arg, uint32_t worker, uint32_t from, uint32_t to)
{
    ag_engine *e = arg;
    for (uint32_t i = from; i < to; i++) {
        const ag_gen *g = ag__gen_of(e->step->outs[i].seq);
        const float *x = e->logits + i * e->logits_stride;
        uint32_t at = e->step->outs[i].index;
        if (at + 1 < g->seq.n_tokens) { /* a prompt token's score */
            e->sample_rc[i] = ag_sampler_score(e->samplers[worker], x, g->tokens[at + 1], AG_MAX(g->top_logprobs, 0),
                                               &e->samples[i]);
            continue;
        }
        uint32_t n_out = atomic_load_explicit(&g->n_out, memory_order_relaxed);
        bool no_end = g->ignore_eos || n_out < g->min_tokens || g->json; /* some are spelled like text */
        ag_sample_in in = {.logits = x,
                           .sampling = &g->sampling,
                           .position = n_out,
                           .bias = g->bias,
                           .n_bias = g->n_bias,
                           .counts = g->counts,
                           .in_prompt = g->in_prompt,
                           .banned = e->banned,
                           .n_banned = no_end ? e->n_banned : 0,
                           .json = g->json,
                           .json_at = &g->json_at,
                           .left = g->seq.max_tokens - n_out,
                           .top_logprobs = g->top_logprobs};
        e->sample_rc[i] = ag_sampler_sample(e->samplers[worker], &in, &e->samples[i]);
    }
}

static void take_score(ag_gen *g, uint32_t at, const ag_sample *s)
{
    ag_gen_token *t = &g->prompt_tokens[at + 1];
    ag_gen_top *tops = g->prompt_tops + (size_t)(at + 1) * (size_t)AG_MAX(g->top_logprobs, 0);
    t->logprob = s->logprob;
    t->n_top = s->n_top;
    if (s->n_top) memcpy(tops, s->top, s->n_top * sizeof *tops);
    t->top = tops;
    g->seq.n_scored = at + 2;
}

static bool keep_token(ag_gen *g, int32_t id)
{
    if (g->seq.n_tokens == g->cap_tokens) {
        uint32_t cap = AG_MIN(2 * g->cap_tokens, g->seq.n_prompt + g->seq.max_tokens);
        int32_t *p = ag_mem_resize(g->tokens, cap, sizeof *p);
        if (p == NULL) return false;
        g->tokens = p;
        g->seq.tokens = p;
        g->cap_tokens = cap;
    }
    g->tokens[g->seq.n_tokens++] = id;
    if (g->counts && g->counts[id] < UINT16_MAX) g->counts[id]++;
    return true;
}

/* true: the object is whole. */
static bool take_json(ag_gen *g, ag_str piece, uint32_t left)
{
    if (g->json == NULL) return false;
    g->json_closing = g->json_closing || left <= ag_json_cost(&g->json_at) + 1;
    for (size_t i = 0; i < piece.n; i++) {
        bool fits = ag_json_take(&g->json_at, (unsigned char)piece.p[i]);
        AG_ASSERT(fits); /* no other was allowed */
    }
    return ag_json_done(&g->json_at);
}

/* One new token of the answer: kept, shown, and a reason to end looked for. */
static void take_token(ag_engine *e, ag_gen *g, const ag_sample *s, uint64_t now)
{
    uint32_t n_out = atomic_load_explicit(&g->n_out, memory_order_relaxed);
    bool may_end = n_out >= g->min_tokens;
    uint64_t last = atomic_load(&g->last_us);
    if (last == 0) {
        atomic_store(&g->first_us, now);
        atomic_store(&g->reused, g->seq.reused);
    } else {
        ag_metric_observe_us(e->conf.metrics, AG_M_GAP, 0, now - last);
    }
    atomic_store(&g->last_us, now);
    atomic_fetch_add(&e->output_tokens, 1);
    if (may_end && is_end(e, g, s->id)) {
        atomic_store(&g->text_bytes, g->stops.total);
        ag__door_end(&e->door, g, AG_GEN_STOPPED);
        return;
    }
    uint64_t safe;
    bool found;
    ag_str piece = ag_gen_piece(g, s->id);
    bool whole = take_json(g, piece, g->seq.max_tokens - n_out);
    bool ok = ag_stops_add(&g->stops, piece, may_end, &safe, &found);
    if (whole && !found) safe = g->stops.total; /* nothing comes any more that could make it a stop */
    g->last_safe = AG_MAX(g->last_safe, safe);
    ag_gen_token t = {.id = s->id, .logprob = s->logprob, .top = s->top, .n_top = s->n_top, .text_safe = g->last_safe};
    atomic_store(&g->text_bytes, g->last_safe);
    if (!ok || !keep_token(g, s->id) || ag__gen_append(g, &t) != AG_OK)
        ag__door_fail(&e->door, g, AG_E_NOMEM, "out of memory in the middle of the answer");
    else if (found) ag__door_end(&e->door, g, AG_GEN_STOPPED);
    else if (whole && !g->json_closing) ag__door_end(&e->door, g, AG_GEN_STOPPED);
    else if (whole || n_out + 1 == g->seq.max_tokens) ag__door_end(&e->door, g, AG_GEN_LENGTH);
    else ag__door_tell(&e->door, g);
}

static const char *why_unsampled(int code)
{
    return code == AG_E_UNSUPPORTED
               ? "every token that this model knows ends an answer or is no JSON, and ignore_eos, min_tokens or json forbids "
                 "those here: there is nothing to answer with"
               : "the model computed values that are not finite: its file is damaged, or its weights are too large";
}

static void take_samples(ag_engine *e)
{
    uint64_t now = ag_now_us();
    for (uint32_t i = 0; i < e->step->n_out; i++) {
        ag_gen *g = ag__gen_of(e->step->outs[i].seq);
        uint32_t at = e->step->outs[i].index;
        /* an earlier row of it failed; still held below */
        if (ag_gen_ended((ag_gen_state)atomic_load(&g->state))) continue;
        if (e->sample_rc[i] != AG_OK) ag__door_fail(&e->door, g, e->sample_rc[i], why_unsampled(e->sample_rc[i]));
        else if (at + 1 < g->seq.n_tokens) take_score(g, at, &e->samples[i]);
        else take_token(e, g, &e->samples[i], now);
    }
    /* Prompts that were only to be scored end when the last position has been computed. */
    for (uint32_t i = ag_sched_running(e->door.sched); i-- > 0;) {
        ag_gen *g = ag__gen_of(ag_sched_running_at(e->door.sched, i));
        bool scored = g->seq.all_logits && g->seq.max_tokens == 0 && g->seq.computed == g->seq.n_tokens;
        if (scored) ag__door_end(&e->door, g, AG_GEN_LENGTH);
    }
}

/* ---- embeddings ---- */

/* Of length 1, unless all is 0. false: it is not finite. */
static bool normalize(const double *sum, float *out, uint32_t n)
{
    double squares = 0;
    for (uint32_t i = 0; i < n; i++) squares += sum[i] * sum[i];
    double scale = squares > 0 ? 1 / sqrt(squares) : 0;
    for (uint32_t i = 0; i < n; i++) out[i] = (float)(sum[i] * scale);
    return isfinite(squares);
}

static void pool_states(void *arg, uint32_t worker AG_UNUSED, uint32_t from, uint32_t to)
{
    ag_engine *e = arg;
    uint32_t width = e->model->hp.width;
    for (uint32_t i = from; i < to; i++) {
        const ag_sched_span *s = &e->step->states[i];
        ag_gen *g = ag__gen_of(s->seq);
        for (uint32_t r = 0; r < s->n; r++) {
            const float *x = e->states + (e->states_at[i] + r) * e->states_stride;
            for (uint32_t k = 0; k < width; k++) g->sum[k] += (double)x[k];
        }
        e->states_bad[i] = s->pos + s->n == g->seq.n_prompt && !normalize(g->sum, g->embedding, width);
    }
}

static void take_states(ag_engine *e)
{
    uint64_t now = ag_now_us();
    for (uint32_t i = 0; i < e->step->n_states; i++) {
        const ag_sched_span *s = &e->step->states[i];
        ag_gen *g = ag__gen_of(s->seq);
        if (ag_gen_ended((ag_gen_state)atomic_load(&g->state))) continue;
        g->seq.n_scored = s->pos + s->n;
        if (g->seq.n_scored < g->seq.n_prompt) continue;
        ag_mem_free(g->sum);
        g->sum = NULL;
        atomic_store(&g->first_us, now);
        atomic_store(&g->last_us, now);
        if (e->states_bad[i]) ag__door_fail(&e->door, g, AG_E_INTERNAL, why_unsampled(AG_E_INTERNAL));
        else ag__door_end(&e->door, g, AG_GEN_STOPPED);
    }
}

/* ---- damage ---- */

/* Waits until stored weights that were found damaged are mended. */
static uint32_t damage_settled(ag_engine *e)
{
    ag_weights_info info;
    for (;;) {
        e->lm->ops->weights(e->lm->backend, &info);
        if (info.damage % 2 == 0 || atomic_load(&e->closing)) return info.damage;
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    }
}

/* Answers that weights with a wrong checksum had a part in are not continued: their readers are told to ask again. What
 * is kept of prompts goes with them. */
void ag__engine_heed(ag_engine *e, uint32_t damage)
{
    if (damage == e->damage_seen) return;
    e->damage_seen = damage;
    while (e->door.begun)
        ag__door_fail(&e->door, e->door.begun, AG_E_INTERNAL,
                      "stored weights were found damaged while this answer was computed; they are mended now: ask again");
    ag_sched_forget(e->door.sched);
}

/* ---- a step ---- */

static void compute(ag_engine *e, const ag_sched_step *step)
{
    for (uint32_t i = 0; i < step->n_spans; i++) {
        const ag_sched_span *s = &step->spans[i];
        e->spans[i] = (ag_span){s->row, s->n, s->pos, s->seq->kv.pages};
    }
    for (uint32_t i = 0; i < step->n_out; i++) e->out_rows[i] = step->outs[i].row;
    uint32_t n_states = 0;
    for (uint32_t i = 0; i < step->n_states; i++) {
        e->states_at[i] = n_states;
        for (uint32_t r = 0; r < step->states[i].n; r++)
            e->out_rows[step->n_out + n_states++] = step->states[i].row + r;
    }
    const ag_batch batch = {.n_rows = step->n_rows,
                            .n_spans = step->n_spans,
                            .n_out = step->n_out,
                            .n_states = n_states,
                            .tokens = step->tokens,
                            .spans = e->spans,
                            .out_rows = e->out_rows};
    ag_lm_run(e->lm, &batch, &e->logits, &e->logits_stride);
    e->step = step;
    if (step->n_out) e->lm->ops->parallel(e->lm->backend, sample_rows, e, step->n_out);
    if (n_states == 0) return;
    e->states = e->lm->ops->states(e->lm->backend, &e->states_stride);
    e->lm->ops->parallel(e->lm->backend, pool_states, e, step->n_states);
}

static void observe_step(ag_engine *e, const ag_sched_step *step, uint64_t us)
{
    ag_metrics *m = e->conf.metrics;
    ag_metric_observe_us(m, AG_M_STEP, 0, us);
    ag_metric_observe_n(m, AG_M_STEP_ROWS, 0, step->n_rows, 1);
    ag_metric_observe_n(m, AG_M_STEP_SEQUENCES, 0, step->n_spans, 1);
    if (step->budget != UINT32_MAX) ag_metric_observe_n(m, AG_M_STEP_BUDGET, 0, step->budget, 1);
}

/* Computes the step that was chosen, outside of the door, and books it, inside. */
static void run_step(ag_engine *e, const ag_sched_step *step)
{
    uint64_t from = ag_now_us();
    ag__door_leave(&e->door);
    compute(e, step);
    uint32_t damage = damage_settled(e);
    ag__door_enter(&e->door);
    uint64_t us = ag_now_us() - from;
    /* Rows of one generation may end it while later rows of it are still to be looked at, and damage may end any. */
    for (uint32_t i = 0; i < step->n_out; i++) ag_gen_get(ag__gen_of(step->outs[i].seq));
    for (uint32_t i = 0; i < step->n_states; i++) ag_gen_get(ag__gen_of(step->states[i].seq));
    observe_step(e, step, us);
    ag_sched_step_done(e->door.sched, us);
    atomic_fetch_add(&e->steps, 1);
    ag__engine_heed(e, damage);
    take_samples(e);
    take_states(e);
    for (uint32_t i = 0; i < step->n_states; i++) ag_gen_put(ag__gen_of(step->states[i].seq));
    for (uint32_t i = 0; i < step->n_out; i++) ag_gen_put(ag__gen_of(step->outs[i].seq));
}

/* ---- JSON ---- */

int ag__engine_json(ag_engine *e, const ag_json_vocab **out, ag_err *err)
{
    AG_CHECK(e, AG_ENGINE_MAGIC);
    pthread_mutex_lock(&e->json_lock);
    int rc = e->json ? AG_OK : ag_json_vocab_open(&e->json, e->model->tokenizer, err);
    *out = e->json;
    pthread_mutex_unlock(&e->json_lock);
    return rc;
}

/* ---- the thread ---- */

static ag_sched_conf sched_conf(const ag_engine *e, uint32_t rows_max, uint32_t out_max)
{
    const ag_engine_conf *c = &e->conf;
    return (ag_sched_conf){.queue = {.entries_max = c->queue_max,
                                     .tokens_max = c->queue_tokens,
                                     .bytes_max = c->queue_bytes,
                                     .tenants_max = AG_QUEUE_CONF_DEFAULT.tenants_max,
                                     .prompt_weight = c->prompt_weight,
                                     .output_weight = c->output_weight,
                                     .age_us = c->band_age_us},
                           .pages = e->lm->pages,
                           .page_tokens = AG_KV_PAGE,
                           .running_max = c->running_max,
                           .rows_max = rows_max,
                           .out_max = out_max,
                           .step_ratio = c->step_ratio,
                           .gap_us = c->step_gap_us,
                           .short_us = c->step_short_us,
                           .rows_min = c->step_rows_min,
                           .reuse = !c->no_reuse,
                           .refuse_late = c->refuse_late};
}

static int samplers_open(ag_engine *e, ag_err *err)
{
    const ag_cpu_isa *isa = ag_cpu_isa_find(e->lm->ops->isa(e->lm->backend));
    int rc = AG_OK;
    for (uint32_t i = 0; i < e->n_samplers && rc == AG_OK; i++)
        rc = ag_sampler_open(&e->samplers[i], isa->ops, e->model->hp.vocab, err);
    for (uint32_t id = 0; id < ag_tokenizer_size(e->model->tokenizer) && e->n_banned < AG_ENGINE_BANNED; id++)
        if (ag_tokenizer_ends(e->model->tokenizer, (int32_t)id)) e->banned[e->n_banned++] = (int32_t)id;
    return rc;
}

static int thread_open(ag_engine *e, ag_err *err)
{
    uint32_t rows_max = AG_MAX(STEP_ROWS, e->conf.running_max), out_max = AG_MAX(e->conf.running_max, 32u);
    ag_lm_conf lc = {.threads = e->conf.threads,
                     .isa = e->conf.isa,
                     .no_pass = e->conf.no_pass,
                     .kv = e->conf.kv,
                     .rows_max = rows_max,
                     .out_max = out_max,
                     .ctx_tokens = e->conf.ctx_tokens,
                     .ctx_sequences = e->conf.running_max,
                     .progress = e->conf.progress,
                     .progress_arg = e->conf.progress_arg,
                     .image = e->conf.image,
                     .image_dir = e->conf.image_dir,
                     .note = e->conf.note,
                     .note_arg = e->conf.note_arg};
    int rc = ag_lm_open(&e->lm, e->model, &lc, err);
    if (rc != AG_OK) return rc;
    e->n_samplers = e->lm->ops->threads(e->lm->backend);
    e->samplers = ag_mem_array(e->n_samplers, sizeof(ag_sampler *));
    e->samples = ag_mem_array(out_max, sizeof *e->samples);
    e->sample_rc = ag_mem_array(out_max, sizeof *e->sample_rc);
    e->out_rows = ag_mem_array(rows_max, sizeof *e->out_rows);
    e->spans = ag_mem_array(e->conf.running_max, sizeof *e->spans);
    e->states_at = ag_mem_array(e->conf.running_max, sizeof *e->states_at);
    e->states_bad = ag_mem_array(e->conf.running_max, sizeof *e->states_bad);
    if (!e->samplers || !e->samples || !e->sample_rc || !e->out_rows || !e->spans || !e->states_at || !e->states_bad)
        return ag_err_set(err, AG_E_NOMEM, "no memory for the engine");
    rc = samplers_open(e, err);
    if (rc != AG_OK) return rc;
    ag_sched_conf sc = sched_conf(e, rows_max, out_max);
    rc = ag__door_open(&e->door, &sc, e->conf.metrics, e->conf.by_turns ? NULL : &e->bell, err);
    if (rc == AG_OK) ag__engine_prefixes_load(e);
    return rc;
}

static void thread_close(ag_engine *e)
{
    ag__door_close(&e->door);
    for (uint32_t i = 0; e->samplers && i < e->n_samplers; i++) ag_sampler_close(e->samplers[i]);
    ag_mem_free((void *)e->samplers);
    ag_mem_free(e->samples);
    ag_mem_free(e->sample_rc);
    ag_mem_free(e->out_rows);
    ag_mem_free(e->spans);
    ag_mem_free(e->states_at);
    ag_mem_free(e->states_bad);
    ag_lm_close(e->lm);
}

static void end_everything(ag_engine *e)
{
    ag_door *d = &e->door;
    d->draining = true;
    ag__door_drop_cancelled(d);
    for (uint32_t n; (n = ag_sched_running(d->sched)) > 0;)
        ag__door_end(d, ag__gen_of(ag_sched_running_at(d->sched, n - 1)), AG_GEN_CANCELLED);
    for (ag_qent *q; (q = ag_queue_head(ag_sched_queue(d->sched), ag_now_us()));)
        ag__door_end(d, ag__gen_of((ag_seq *)q), AG_GEN_CANCELLED);
    ag__door_tell_late(d);
}

/* Until somebody rings. */
static void rest(ag_engine *e, bool briefly)
{
    if (!briefly) {
        while (sem_wait(&e->bell) != 0 && errno == EINTR) {}
        return;
    }
    struct timespec t; /* a full mailbox is to be tried again: look in a millisecond */
    clock_gettime(CLOCK_MONOTONIC, &t);
    t.tv_nsec += 1000000;
    if (t.tv_nsec >= 1000000000) {
        t.tv_sec++;
        t.tv_nsec -= 1000000000;
    }
    sem_clockwait(&e->bell, CLOCK_MONOTONIC, &t);
}

/* Inside of the door; false: there is no step to take. */
static bool take_step(ag_engine *e)
{
    ag_door *d = &e->door;
    const ag_sched_step *step;
    uint64_t now = ag_now_us();
    ag__door_tell_late(d);
    ag__followers_expire(d, now, true);
    ag__door_drop_cancelled(d);
    if (!ag_sched_step_next(d->sched, now, &step)) return false;
    run_step(e, step);
    return true;
}

/* Also inside: something is left to do, though nobody will ring for it. */
static bool has_more(const ag_engine *e) { return e->door.late != NULL || ag_sched_busy(e->door.sched); }

static void serve(ag_engine *e)
{
    ag_door *d = &e->door;
    ag__door_enter(d);
    for (;;) {
        ag__door_heard(d);
        if (atomic_load(&e->closing)) break; /* looked at after the bell, which may have rung for it */
        if (take_step(e)) continue;
        bool briefly = has_more(e);
        ag__door_leave(d);
        rest(e, briefly);
        uint32_t damage = damage_settled(e);
        ag__door_enter(d);
        ag__engine_heed(e, damage);
    }
    end_everything(e);
    ag__door_leave(d);
    ag__engine_prefixes_save(e);
}

static void end_turns(ag_engine *e)
{
    if (e->open_rc == AG_OK) {
        ag__door_enter(&e->door);
        end_everything(e);
        ag__door_leave(&e->door);
        ag__engine_prefixes_save(e);
    }
    thread_close(e);
}

static void *thread_main(void *arg)
{
    ag_engine *e = arg;
    pthread_setname_np(pthread_self(), "ag-engine");
    e->open_rc = thread_open(e, &e->open_err);
    bool open = e->open_rc == AG_OK;
    sem_post(&e->opened);
    if (open) serve(e);
    thread_close(e);
    return NULL;
}

bool ag_engine_turn(ag_engine *e)
{
    AG_CHECK(e, AG_ENGINE_MAGIC);
    if (!e->conf.by_turns || !atomic_load(&e->door.rung)) return false;
    pthread_mutex_lock(&e->turn);
    ag__door_enter(&e->door);
    ag__door_heard(&e->door);
    take_step(e);
    if (has_more(e)) ag__door_ring(&e->door);
    ag__door_leave(&e->door);
    pthread_mutex_unlock(&e->turn);
    return true;
}

static int check_conf(const ag_engine_conf *c, ag_err *err)
{
    if (c->running_max < 1 || c->running_max > 4096 || c->queue_max < 1)
        return ag_err_set(err, AG_E_USAGE, "max-running should be 1 to 4096 and queue-max at least 1");
    if (!(c->step_ratio >= 1) || c->step_gap_us == 0 || c->step_rows_min == 0)
        return ag_err_set(err, AG_E_USAGE, "step-ratio should be at least 1, step-gap and step-rows-min above 0");
    if (c->prompt_weight == 0 && c->output_weight == 0)
        return ag_err_set(err, AG_E_USAGE, "prompt-weight and output-weight are both 0; one of them should count");
    return AG_OK;
}

int ag_engine_open(ag_engine **out, const ag_model *m, const ag_engine_conf *conf, ag_err *err)
{
    int rc = check_conf(conf, err);
    if (rc != AG_OK) return rc;
    ag_engine *e = ag_mem_zalloc(sizeof *e);
    if (e == NULL) return ag_err_set(err, AG_E_NOMEM, "no memory for the engine");
    e->magic = AG_ENGINE_MAGIC;
    e->model = m;
    e->conf = *conf;
    if (conf->prefix_path) { /* for the end, when its owner may have read its settings anew */
        e->conf.prefix_path = ag_mem_strndup(conf->prefix_path, strlen(conf->prefix_path));
        if (e->conf.prefix_path == NULL) {
            ag_mem_free(e);
            return ag_err_set(err, AG_E_NOMEM, "no memory for the engine");
        }
    }
    sem_init(&e->bell, 0, 0);
    sem_init(&e->opened, 0, 0);
    pthread_mutex_init(&e->json_lock, NULL);
    pthread_mutex_init(&e->turn, NULL);
    if (conf->by_turns) {
        rc = e->open_rc = thread_open(e, err);
    } else if (ag_fault_hit(AG_FAULT_THREAD) || pthread_create(&e->thread, NULL, thread_main, e) != 0) {
        rc = ag_err_set(err, AG_E_INTERNAL, "the engine's thread could not be started");
    } else {
        e->started = true;
        while (sem_wait(&e->opened) != 0 && errno == EINTR) {}
        rc = e->open_rc;
        if (rc != AG_OK) ag_err_set(err, rc, "%s", e->open_err.text);
    }
    if (rc != AG_OK) {
        ag_engine_close(e);
        return rc;
    }
    *out = e;
    return AG_OK;
}

void ag_engine_drain(ag_engine *e)
{
    AG_CHECK(e, AG_ENGINE_MAGIC);
    ag__door_enter(&e->door);
    e->door.draining = true;
    ag__door_leave(&e->door);
}

void ag_engine_close(ag_engine *e)
{
    if (e == NULL) return;
    AG_CHECK(e, AG_ENGINE_MAGIC);
    atomic_store(&e->closing, true);
    sem_post(&e->bell);
    if (e->started) pthread_join(e->thread, NULL);
    if (e->conf.by_turns) end_turns(e);
    sem_destroy(&e->bell);
    sem_destroy(&e->opened);
    pthread_mutex_destroy(&e->turn);
    pthread_mutex_destroy(&e->json_lock);
    ag_json_vocab_close(e->json);
    e->magic = 0;
    ag_mem_free((void *)e->conf.prefix_path);
    ag_mem_free(e);
}

const ag_model *ag_engine_model(const ag_engine *e) { return e->model; }
uint32_t ag_engine_ctx_max(const ag_engine *e) { return e->lm->ctx_max; }
uint64_t ag_engine_identity(const ag_engine *e)
{
    const ag_model *m = e->model;
    uint64_t parts[] = {m->null ? XXH3_64bits(m->name, strlen(m->name)) : ag_gguf_digest(m->gguf), m->null_rate,
                        e->conf.kv};
    return XXH3_64bits(parts, sizeof parts);
}

uint32_t ag_engine_damage(const ag_engine *e)
{
    ag_weights_info info;
    e->lm->ops->weights(e->lm->backend, &info);
    return info.damage;
}

const char *ag_engine_isa(const ag_engine *e) { return e->lm->ops->isa(e->lm->backend); }

void ag_engine_stats_get(ag_engine *e, ag_engine_stats *out)
{
    AG_CHECK(e, AG_ENGINE_MAGIC);
    ag__door_enter(&e->door);
    ag_sched_stats s;
    ag_sched_stats_get(e->door.sched, &s);
    uint64_t cancelled = e->door.cancelled, asked = e->door.asked_tokens, reused = e->door.reused_tokens;
    ag__door_leave(&e->door);
    *out = (ag_engine_stats){.waiting = s.queue.entries,
                             .running = s.running,
                             .queue_tokens = s.queue.tokens,
                             .queue_bytes = s.queue.bytes,
                             .kv_pages = s.kv.pages,
                             .kv_pages_used = s.kv.used,
                             .kv_pages_kept = s.kv.kept,
                             .kv_pages_free = s.kv.free,
                             .kv_pages_reclaimed = s.kv.reclaimed,
                             .kv_pages_restored = e->restored,
                             .steps = atomic_load(&e->steps),
                             .prompt_tokens = s.prompt_rows,
                             .again_tokens = s.again_rows,
                             .output_tokens = atomic_load(&e->output_tokens),
                             .reused_tokens = reused,
                             .asked_tokens = asked,
                             .preemptions = s.set_back_pages + s.set_back_urgent + s.set_back_share,
                             .set_back_pages = s.set_back_pages,
                             .set_back_urgent = s.set_back_urgent,
                             .set_back_share = s.set_back_share,
                             .displaced = s.displaced,
                             .expired = s.expired,
                             .timed_out = s.timed_out,
                             .refused_full = s.refused_full,
                             .refused_late = s.refused_late,
                             .cancelled = cancelled,
                             .step_error = s.cost_error,
                             .service_rate = s.service_rate,
                             .threads = e->lm->ops->threads(e->lm->backend),
                             .busy_us = e->lm->ops->busy_us(e->lm->backend)};
    memcpy(out->waiting_by_band, s.queue.by_band, sizeof out->waiting_by_band);
}
