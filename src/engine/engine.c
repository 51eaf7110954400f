#include "engine/engine.h"

#include <errno.h>
#include <math.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdio.h>

#include "base/fault.h"
#include "base/mem.h"
#include "engine/gen_inner.h"
#include "engine/lm.h"
#include "engine/sampler.h"
#include "engine/sched.h"

#define ENGINE_MAGIC 0x454e4749u
/* Rows of a step while nobody decodes: large enough that the weights, unpacked once a block of columns, cost little, small
 * enough that a newcomer waits for a fraction of a second. */
#define STEP_ROWS 512u
#define WAKES_MAX 64u
#define BANNED_MAX 64u

struct ag_engine {
    uint32_t magic;
    const ag_model *model;
    ag_engine_conf conf;
    pthread_t thread;
    bool started;
    ag_lm *lm;
    ag_sched sched;
    ag_sampler **samplers;    /* one per worker */
    uint32_t n_samplers;
    ag_sample *samples;       /* of the step, out_max */
    int *sample_rc;
    int32_t banned[BANNED_MAX]; /* tokens that end an answer */
    uint32_t n_banned;
    ag_mbox *inbox;
    sem_t bell;
    _Atomic bool draining, closing;
    _Atomic uint32_t places;  /* submitted and not yet admitted or ended */
    _Atomic uint32_t cancels; /* since the last look */
    _Atomic uint32_t callers; /* in submit or cancel */
    _Atomic uint32_t n_running;
    _Atomic uint64_t steps, prompt_tokens, output_tokens, preemptions, cancelled;
    ag_gen *late;             /* those whose mailbox was full */
    ag_mbox *wakes[WAKES_MAX];
    uint32_t n_wakes;
    const float *logits;      /* of the step */
    size_t logits_stride;
    uint32_t damage_seen;     /* of ag_weights_info */
    int open_rc;
    ag_err open_err;
    sem_t opened;
};

static void engine_ring(void *e) { sem_post(&((ag_engine *)e)->bell); }

/* ---- telling readers ---- */

static void wake_later(ag_engine *e, ag_mbox *m)
{
    for (uint32_t i = 0; i < e->n_wakes; i++)
        if (e->wakes[i] == m) return;
    if (e->n_wakes == WAKES_MAX) ag_mbox_wake(m);
    else e->wakes[e->n_wakes++] = m;
}

static void wake_all(ag_engine *e)
{
    for (uint32_t i = 0; i < e->n_wakes; i++) ag_mbox_wake(e->wakes[i]);
    e->n_wakes = 0;
}

static void tell(ag_engine *e, ag_gen *g)
{
    bool told = ag__gen_tell(g);
    if (g->notify) wake_later(e, g->notify); /* after the post: with many mailboxes this wakes at once */
    if (told || g->late) return;
    g->late = true;
    g->next_late = e->late;
    e->late = ag_gen_get(g);
}

static void tell_late(ag_engine *e)
{
    ag_gen *g = e->late;
    e->late = NULL;
    while (g) {
        ag_gen *next = g->next_late;
        g->late = false;
        tell(e, g);
        ag_gen_put(g);
        g = next;
    }
}

/* ---- the life of a generation ---- */

/* Takes it out of the scheduler (when it is there), publishes the end, gives the engine's reference back. */
static void gen_end(ag_engine *e, ag_gen *g, ag_gen_state state, bool scheduled)
{
    if (scheduled) {
        if (atomic_load(&g->state) == AG_GEN_WAITING) atomic_fetch_sub(&e->places, 1);
        ag_sched_drop(&e->sched, g);
    }
    if (state != AG_GEN_STOPPED) atomic_store(&g->text_bytes, AG_MAX(g->stops.total, atomic_load(&g->text_bytes)));
    atomic_store(&g->end_us, ag_now_us());
    if (state == AG_GEN_CANCELLED) atomic_fetch_add(&e->cancelled, 1);
    atomic_store(&g->state, state);
    tell(e, g);
    ag_gen_put(g);
}

static void gen_fail(ag_engine *e, ag_gen *g, int code, const char *why, bool scheduled)
{
    g->fail_code = code;
    snprintf(g->fail_text, sizeof g->fail_text, "%s", why);
    gen_end(e, g, AG_GEN_FAILED, scheduled);
}

static void on_admitted(void *arg, ag_gen *g)
{
    ag_engine *e = arg;
    if (atomic_load(&g->admit_us) == 0) atomic_store(&g->admit_us, ag_now_us());
    if (atomic_load(&g->state) == AG_GEN_WAITING) {
        atomic_store(&g->state, AG_GEN_RUNNING);
        atomic_fetch_sub(&e->places, 1);
    }
}

static void take_inbox(ag_engine *e)
{
    for (ag_gen *g; (g = ag_mbox_take(e->inbox));) {
        if (g->prompt_logprobs) g->n_scored = 1;
        ag_sched_push(&e->sched, g);
        if (atomic_load(&g->cancelled)) atomic_fetch_add(&e->cancels, 1); /* it was cancelled before it came */
    }
}

static void drop_cancelled(ag_engine *e)
{
    if (atomic_exchange(&e->cancels, 0) == 0) return;
    for (uint32_t i = e->sched.n_running; i-- > 0;)
        if (atomic_load(&e->sched.running[i]->cancelled)) gen_end(e, e->sched.running[i], AG_GEN_CANCELLED, true);
    for (ag_gen *g = e->sched.first, *next; g; g = next) {
        next = g->next;
        if (atomic_load(&g->cancelled)) gen_end(e, g, AG_GEN_CANCELLED, true);
    }
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
        const ag_gen *g = e->sched.out_gen[i];
        const float *x = e->logits + i * e->logits_stride;
        uint32_t at = e->sched.out_index[i];
        if (at + 1 < g->n_tokens) { /* a prompt token's score */
            e->sample_rc[i] = ag_sampler_score(e->samplers[worker], x, g->tokens[at + 1], AG_MAX(g->top_logprobs, 0), &e->samples[i]);
            continue;
        }
        uint32_t n_out = atomic_load_explicit(&g->n_out, memory_order_relaxed);
        bool no_end = g->ignore_eos || n_out < g->min_tokens;
        ag_sample_in in = {.logits = x, .sampling = &g->sampling, .position = n_out, .bias = g->bias, .n_bias = g->n_bias, .counts = g->counts,
                           .in_prompt = g->in_prompt, .banned = e->banned, .n_banned = no_end ? e->n_banned : 0, .top_logprobs = g->top_logprobs};
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
    g->n_scored = at + 2;
}

static bool keep_token(ag_gen *g, int32_t id)
{
    if (g->n_tokens == g->cap_tokens) {
        uint32_t cap = AG_MIN(2 * g->cap_tokens, g->n_prompt + g->max_tokens);
        int32_t *p = ag_mem_resize(g->tokens, cap, sizeof *p);
        if (p == NULL) return false;
        g->tokens = p;
        g->cap_tokens = cap;
    }
    g->tokens[g->n_tokens++] = id;
    if (g->counts && g->counts[id] < UINT16_MAX) g->counts[id]++;
    return true;
}

/* One new token of the answer: kept, shown, and a reason to end looked for. */
static void take_token(ag_engine *e, ag_gen *g, const ag_sample *s, uint64_t now)
{
    uint32_t n_out = atomic_load_explicit(&g->n_out, memory_order_relaxed);
    bool may_end = n_out >= g->min_tokens;
    uint64_t last = atomic_load(&g->last_us);
    if (last == 0) atomic_store(&g->first_us, now);
    else ag_metric_observe_us(e->conf.metrics, AG_M_GAP, 0, now - last);
    atomic_store(&g->last_us, now);
    atomic_fetch_add(&e->output_tokens, 1);
    if (may_end && is_end(e, g, s->id)) {
        atomic_store(&g->text_bytes, g->stops.total);
        gen_end(e, g, AG_GEN_STOPPED, true);
        return;
    }
    uint64_t safe;
    bool found;
    bool ok = ag_stops_add(&g->stops, ag_tokenizer_piece(e->model->tokenizer, s->id, false), may_end, &safe, &found);
    g->last_safe = AG_MAX(g->last_safe, safe);
    ag_gen_token t = {.id = s->id, .logprob = s->logprob, .top = s->top, .n_top = s->n_top, .text_safe = g->last_safe};
    atomic_store(&g->text_bytes, g->last_safe);
    if (!ok || !keep_token(g, s->id) || ag__gen_append(g, &t) != AG_OK) gen_fail(e, g, AG_E_NOMEM, "out of memory in the middle of the answer", true);
    else if (found) gen_end(e, g, AG_GEN_STOPPED, true);
    else if (n_out + 1 == g->max_tokens) gen_end(e, g, AG_GEN_LENGTH, true);
    else tell(e, g);
}

static const char *why_unsampled(int code)
{
    return code == AG_E_UNSUPPORTED
               ? "every token that this model knows ends an answer, and ignore_eos or min_tokens forbids those here: there is "
                 "nothing to answer with"
               : "the model computed values that are not finite: its file is damaged, or its weights are too large";
}

static void take_samples(ag_engine *e)
{
    uint64_t now = ag_now_us();
    for (uint32_t i = 0; i < e->sched.batch.n_out; i++) {
        ag_gen *g = e->sched.out_gen[i];
        if (ag_gen_ended((ag_gen_state)atomic_load(&g->state))) continue; /* an earlier row of it failed; still held below */
        if (e->sample_rc[i] != AG_OK) gen_fail(e, g, e->sample_rc[i], why_unsampled(e->sample_rc[i]), true);
        else if (e->sched.out_index[i] + 1 < g->n_tokens) take_score(g, e->sched.out_index[i], &e->samples[i]);
        else take_token(e, g, &e->samples[i], now);
    }
    /* Prompts that were only to be scored end when the last position has been computed. */
    for (uint32_t i = e->sched.n_running; i-- > 0;) {
        ag_gen *g = e->sched.running[i];
        if (g->max_tokens == 0 && g->computed == g->n_tokens) gen_end(e, g, AG_GEN_LENGTH, true);
    }
}

/* Answers that weights with a wrong checksum had a part in are not continued: their readers are told to ask again. */
static void heed_damage(ag_engine *e)
{
    ag_weights_info info;
    for (;;) {
        e->lm->ops->weights(e->lm->backend, &info);
        if (info.damage % 2 == 0 || atomic_load(&e->closing)) break;
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL); /* until they are mended */
    }
    if (info.damage == e->damage_seen) return;
    e->damage_seen = info.damage;
    static const char why[] = "stored weights were found damaged while this answer was computed; they are mended now: ask again";
    for (uint32_t i = e->sched.n_running; i-- > 0;) gen_fail(e, e->sched.running[i], AG_E_INTERNAL, why, true);
    for (ag_gen *g = e->sched.first, *next; g; g = next) {
        next = g->next;
        if (atomic_load(&g->state) == AG_GEN_RUNNING) gen_fail(e, g, AG_E_INTERNAL, why, true); /* set back */
    }
}

static void run_step(ag_engine *e)
{
    uint64_t from = ag_now_us();
    uint32_t n_out = e->sched.batch.n_out, prompt_rows = 0;
    ag_lm_run(e->lm, &e->sched.batch, &e->logits, &e->logits_stride);
    if (n_out) e->lm->ops->parallel(e->lm->backend, sample_rows, e, n_out);
    for (uint32_t i = 0; i < e->sched.batch.n_spans; i++) {
        const ag_gen *g = e->sched.span_gen[i];
        if (g->computed < g->n_prompt) prompt_rows += AG_MIN(g->step_n, g->n_prompt - g->computed);
    }
    /* Rows of one generation may end it while later rows of it are still to be looked at. */
    for (uint32_t i = 0; i < n_out; i++) ag_gen_get(e->sched.out_gen[i]);
    ag_sched_done(&e->sched);
    heed_damage(e);
    take_samples(e);
    for (uint32_t i = 0; i < n_out; i++) ag_gen_put(e->sched.out_gen[i]);
    atomic_fetch_add(&e->steps, 1);
    atomic_fetch_add(&e->prompt_tokens, prompt_rows);
    ag_metric_observe_us(e->conf.metrics, AG_M_STEP, 0, ag_now_us() - from);
    atomic_store(&e->preemptions, e->sched.preemptions);
}

/* ---- the thread ---- */

static int thread_open(ag_engine *e, ag_err *err)
{
    uint32_t rows_max = AG_MAX(STEP_ROWS, e->conf.running_max), out_max = AG_MAX(e->conf.running_max, 32u);
    ag_lm_conf lc = {.threads = e->conf.threads, .isa = e->conf.isa, .no_pass = e->conf.no_pass, .kv = e->conf.kv, .rows_max = rows_max, .out_max = out_max,
                     .ctx_tokens = e->conf.ctx_tokens, .ctx_sequences = e->conf.running_max, .progress = e->conf.progress,
                     .progress_arg = e->conf.progress_arg, .image = e->conf.image, .image_dir = e->conf.image_dir, .note = e->conf.note,
                     .note_arg = e->conf.note_arg};
    int rc = ag_lm_open(&e->lm, e->model, &lc, err);
    if (rc == AG_OK) rc = ag_sched_init(&e->sched, e->lm->pages, e->conf.running_max, rows_max, out_max, AG_MAX(e->conf.chunk_tokens, 1u), err);
    if (rc != AG_OK) return rc;
    e->n_samplers = e->lm->ops->threads(e->lm->backend);
    e->samplers = ag_mem_array(e->n_samplers, sizeof(ag_sampler *));
    e->samples = ag_mem_array(out_max, sizeof *e->samples);
    e->sample_rc = ag_mem_array(out_max, sizeof *e->sample_rc);
    if (!e->samplers || !e->samples || !e->sample_rc) return ag_err_set(err, AG_E_NOMEM, "no memory for the engine");
    const ag_cpu_isa *isa = ag_cpu_isa_find(e->lm->ops->isa(e->lm->backend));
    for (uint32_t i = 0; i < e->n_samplers && rc == AG_OK; i++) rc = ag_sampler_open(&e->samplers[i], isa->ops, e->model->hp.vocab, err);
    for (uint32_t id = 0; id < ag_tokenizer_size(e->model->tokenizer) && e->n_banned < BANNED_MAX; id++)
        if (ag_tokenizer_ends(e->model->tokenizer, (int32_t)id)) e->banned[e->n_banned++] = (int32_t)id;
    return rc;
}

static void thread_close(ag_engine *e)
{
    for (uint32_t i = 0; e->samplers && i < e->n_samplers; i++) ag_sampler_close(e->samplers[i]);
    ag_mem_free((void *)e->samplers);
    ag_mem_free(e->samples);
    ag_mem_free(e->sample_rc);
    if (e->sched.kv) ag_sched_fini(&e->sched);
    ag_lm_close(e->lm);
}

static void end_everything(ag_engine *e)
{
    take_inbox(e);
    while (e->sched.n_running > 0) gen_end(e, e->sched.running[e->sched.n_running - 1], AG_GEN_CANCELLED, true);
    while (e->sched.first) gen_end(e, e->sched.first, AG_GEN_CANCELLED, true);
    tell_late(e);
    wake_all(e);
    while (e->late) { /* mailboxes that stay full at the very end: their readers see the end when they look */
        ag_gen *g = e->late;
        e->late = g->next_late;
        ag_gen_put(g);
    }
}

static void *thread_main(void *arg)
{
    ag_engine *e = arg;
    pthread_setname_np(pthread_self(), "ag-engine");
    e->open_rc = thread_open(e, &e->open_err);
    int rc = e->open_rc;
    sem_post(&e->opened);
    while (rc == AG_OK && !atomic_load(&e->closing)) {
        take_inbox(e);
        drop_cancelled(e);
        if (e->late) tell_late(e);
        heed_damage(e);
        bool work = ag_sched_step(&e->sched, on_admitted, e);
        atomic_store(&e->n_running, e->sched.n_running);
        if (work) {
            run_step(e);
        } else if (e->sched.n_running == 0 && e->sched.first) { /* alone and still no room: the tables could not grow */
            gen_fail(e, e->sched.first, AG_E_NOMEM, "no memory for the sequence's page table", true);
        }
        wake_all(e);
        atomic_store(&e->n_running, e->sched.n_running);
        bool idle = e->sched.n_running == 0 && e->sched.first == NULL;
        if (idle && e->late) { /* only a full mailbox is left to serve: look again in a millisecond */
            struct timespec t;
            clock_gettime(CLOCK_REALTIME, &t);
            t.tv_nsec += 1000000;
            if (t.tv_nsec >= 1000000000) {
                t.tv_sec++;
                t.tv_nsec -= 1000000000;
            }
            sem_timedwait(&e->bell, &t);
        } else if (idle) {
            while (sem_wait(&e->bell) != 0 && errno == EINTR) {}
        } else {
            while (sem_trywait(&e->bell) == 0) {}
        }
    }
    if (rc == AG_OK) end_everything(e);
    thread_close(e);
    return NULL;
}

int ag_engine_open(ag_engine **out, const ag_model *m, const ag_engine_conf *conf, ag_err *err)
{
    if (conf->running_max < 1 || conf->running_max > 4096 || conf->queue_max < 1)
        return ag_err_set(err, AG_E_USAGE, "max-running should be 1 to 4096 and queue-max at least 1");
    ag_engine *e = ag_mem_zalloc(sizeof *e);
    if (e == NULL) return ag_err_set(err, AG_E_NOMEM, "no memory for the engine");
    e->magic = ENGINE_MAGIC;
    e->model = m;
    e->conf = *conf;
    sem_init(&e->bell, 0, 0);
    sem_init(&e->opened, 0, 0);
    int rc = ag_mbox_open(&e->inbox, conf->queue_max, engine_ring, e);
    if (rc != AG_OK) ag_err_set(err, rc, "no memory for the engine's inbox");
    if (rc == AG_OK && (ag_fault_hit(AG_FAULT_THREAD) || pthread_create(&e->thread, NULL, thread_main, e) != 0))
        rc = ag_err_set(err, AG_E_INTERNAL, "the engine's thread could not be started");
    if (rc == AG_OK) {
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
    AG_CHECK(e, ENGINE_MAGIC);
    atomic_store(&e->draining, true);
}

void ag_engine_close(ag_engine *e)
{
    if (e == NULL) return;
    AG_CHECK(e, ENGINE_MAGIC);
    atomic_store(&e->draining, true);
    atomic_store(&e->closing, true);
    engine_ring(e);
    if (e->started) pthread_join(e->thread, NULL);
    AG_ASSERT(atomic_load(&e->callers) == 0);
    ag_mbox_close(e->inbox);
    sem_destroy(&e->bell);
    sem_destroy(&e->opened);
    e->magic = 0;
    ag_mem_free(e);
}

static int submit(ag_engine *e, ag_gen *g, ag_err *err)
{
    if (atomic_load(&e->draining)) return ag_err_set(err, AG_E_DRAINING, "the server is shutting down; try another or come back");
    if (atomic_fetch_add(&e->places, 1) >= e->conf.queue_max) {
        atomic_fetch_sub(&e->places, 1);
        return ag_err_set(err, AG_E_QUEUE_FULL, "all %u places in the queue are taken", e->conf.queue_max);
    }
    atomic_store(&g->submit_us, ag_now_us());
    ag_gen_get(g);
    if (!ag_mbox_post(e->inbox, g)) {
        atomic_fetch_sub(&e->places, 1);
        ag_gen_put(g);
        return ag_err_set(err, AG_E_QUEUE_FULL, "all %u places in the queue are taken", e->conf.queue_max);
    }
    return AG_OK;
}

int ag_gen_submit(ag_gen *g, ag_err *err)
{
    AG_CHECK(g, AG_GEN_MAGIC);
    ag_engine *e = g->engine;
    AG_CHECK(e, ENGINE_MAGIC);
    atomic_fetch_add(&e->callers, 1);
    int rc = submit(e, g, err);
    atomic_fetch_sub(&e->callers, 1);
    return rc;
}

void ag_gen_cancel(ag_gen *g)
{
    AG_CHECK(g, AG_GEN_MAGIC);
    if (atomic_exchange(&g->cancelled, true)) return;
    if (ag_gen_ended((ag_gen_state)atomic_load(&g->state))) return; /* the engine may be gone by now */
    ag_engine *e = g->engine;
    atomic_fetch_add(&e->callers, 1);
    atomic_fetch_add(&e->cancels, 1);
    engine_ring(e);
    atomic_fetch_sub(&e->callers, 1);
}

const ag_model *ag_engine_model(const ag_engine *e) { return e->model; }
uint32_t ag_engine_ctx_max(const ag_engine *e) { return e->lm->ctx_max; }
const char *ag_engine_isa(const ag_engine *e) { return e->lm->ops->isa(e->lm->backend); }

void ag_engine_stats_get(ag_engine *e, ag_engine_stats *out)
{
    AG_CHECK(e, ENGINE_MAGIC);
    *out = (ag_engine_stats){.waiting = atomic_load(&e->places), .running = atomic_load(&e->n_running), .kv_pages = e->lm->pages,
                             .kv_pages_used = ag_kv_used(e->sched.kv), .steps = atomic_load(&e->steps),
                             .prompt_tokens = atomic_load(&e->prompt_tokens), .output_tokens = atomic_load(&e->output_tokens),
                             .preemptions = atomic_load(&e->preemptions), .cancelled = atomic_load(&e->cancelled)};
}
