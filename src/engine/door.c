#include "engine/door.h"

#include <sodium.h>
#include <stdio.h>
#include <time.h>

#include "base/fault.h"

static bool gen_ended(ag_gen *g) { return ag_gen_ended((ag_gen_state)atomic_load(&g->state)); }

/* ---- in and out ---- */

void ag__door_enter(ag_door *d) { pthread_mutex_lock(&d->lock); }

static uint64_t clock_due(const ag_door *d) { return AG_MIN(ag_sched_deadline(d->sched), d->led_waiting_due); }

void ag__door_leave(ag_door *d)
{
    ag_mbox *wakes[AG_DOOR_WAKES];
    uint32_t n = d->n_wakes;
    memcpy((void *)wakes, (void *)d->wakes, n * sizeof(ag_mbox *));
    d->n_wakes = 0;
    if (clock_due(d) < d->clock_until) pthread_cond_signal(&d->clock_bell);
    pthread_mutex_unlock(&d->lock);
    for (uint32_t i = 0; i < n; i++) ag_mbox_wake(wakes[i]);
}

/* ---- the bell ---- */

/* Many submit while the engine computes, or before it gets to run: it is woken once for all of them. */
void ag__door_ring(ag_door *d)
{
    if (!atomic_exchange(&d->rung, true) && d->bell) sem_post(d->bell);
}

/* In this order: who rings in between is not heard, but seen. */
void ag__door_heard(ag_door *d)
{
    while (d->bell && sem_trywait(d->bell) == 0) {}
    atomic_store(&d->rung, false);
}

/* ---- telling readers ---- */

static void wake_later(ag_door *d, ag_mbox *m)
{
    for (uint32_t i = 0; i < d->n_wakes; i++)
        if (d->wakes[i] == m) return;
    if (d->n_wakes == AG_DOOR_WAKES) ag_mbox_wake(m);
    else d->wakes[d->n_wakes++] = m;
}

void ag__door_tell(ag_door *d, ag_gen *g)
{
    bool told = ag__gen_tell(g);
    if (g->notify) wake_later(d, g->notify); /* after the post: with many mailboxes this wakes at once */
    ag__followers_tell(d, g);
    if (told || g->late) return;
    g->late = true;
    g->next_late = d->late;
    d->late = ag_gen_get(g);
}

void ag__door_tell_late(ag_door *d)
{
    ag_gen *g = d->late;
    d->late = NULL;
    while (g) {
        ag_gen *next = g->next_late;
        g->late = false;
        ag__door_tell(d, g);
        ag_gen_put(g);
        g = next;
    }
}

/* ---- the end of a generation ---- */

static void count_waiting(ag_door *d, const ag_gen *g, int32_t more)
{
    d->waiting[g->tenant_label] += (uint32_t)more;
    ag_metric_set(d->metrics, AG_M_TENANT_WAITING, g->tenant_label, d->waiting[g->tenant_label]);
}

static void begun_add(ag_door *d, ag_gen *g)
{
    g->begun = true;
    g->begun_before = NULL;
    g->begun_after = d->begun;
    if (d->begun) d->begun->begun_before = g;
    d->begun = g;
}

static void begun_remove(ag_door *d, ag_gen *g)
{
    g->begun = false;
    if (g->begun_before) g->begun_before->begun_after = g->begun_after;
    else d->begun = g->begun_after;
    if (g->begun_after) g->begun_after->begun_before = g->begun_before;
}

/* It is out of the scheduler. */
static void finish(ag_door *d, ag_gen *g, ag_gen_state state)
{
    if (g->begun) {
        begun_remove(d, g);
        if (!ag_seq_alone(&g->seq) && g->seq.salt != AG_KV_ALONE) d->asked_tokens += g->seq.n_prompt;
        d->reused_tokens += g->seq.reused;
    } else {
        count_waiting(d, g, -1);
    }
    if (state != AG_GEN_STOPPED) atomic_store(&g->text_bytes, AG_MAX(g->stops.total, atomic_load(&g->text_bytes)));
    if (state == AG_GEN_CANCELLED) d->cancelled++;
    atomic_store(&g->reused, g->seq.reused);
    atomic_store(&g->end_us, ag_now_us());
    atomic_store(&g->state, state);
    ag__followers_end(d, g);
    ag__door_tell(d, g);
    ag_gen_put(g);
}

static void set_failure(ag_gen *g, int code, const char *why)
{
    g->fail_code = code;
    snprintf(g->fail_text, sizeof g->fail_text, "%s", why);
}

void ag__door_end(ag_door *d, ag_gen *g, ag_gen_state state)
{
    ag_sched_drop(d->sched, &g->seq, state == AG_GEN_STOPPED || state == AG_GEN_LENGTH);
    finish(d, g, state);
}

void ag__door_fail(ag_door *d, ag_gen *g, int code, const char *why)
{
    set_failure(g, code, why);
    ag__door_end(d, g, AG_GEN_FAILED);
}

void ag__door_drop_cancelled(ag_door *d)
{
    while (d->cancels) {
        ag_gen *g = d->cancels;
        d->cancels = g->next_cancelled;
        if (!gen_ended(g)) ag__door_end(d, g, AG_GEN_CANCELLED);
        ag_gen_put(g);
    }
}

/* ---- what the scheduler says ---- */

static void observe_wait(ag_door *d, const ag_gen *g, uint64_t waited)
{
    ag_metric_observe_us(d->metrics, AG_M_QUEUE_WAIT, g->seq.q.band, waited);
    ag_metric_observe_us(d->metrics, AG_M_TENANT_WAIT, g->tenant_label, waited);
}

static void on_admitted(void *arg, ag_seq *s, uint64_t now_us)
{
    ag_door *d = arg;
    ag_gen *g = ag__gen_of(s);
    uint64_t submitted = atomic_load(&g->submit_us), waited = now_us > submitted ? now_us - submitted : 0;
    atomic_store(&g->admit_us, AG_MAX(now_us, submitted));
    atomic_store(&g->state, AG_GEN_RUNNING);
    begun_add(d, g);
    count_waiting(d, g, -1);
    observe_wait(d, g, waited);
    uint64_t guess = g->wait_guess_us;
    if (guess) ag_metric_observe_us(d->metrics, AG_M_WAIT_ERROR, 0, waited > guess ? waited - guess : guess - waited);
}

/* The deadlines of those who follow it are the clock's again. */
static void on_set_back(void *arg, ag_seq *s)
{
    ag_door *d = arg;
    if (ag__gen_of(s)->followers) d->led_waiting_due = AG_MIN(d->led_waiting_due, d->led_due);
}

static void on_out(void *arg, ag_seq *s, ag_sched_why why, uint64_t now_us)
{
    ag_door *d = arg;
    ag_gen *g = ag__gen_of(s);
    uint64_t submitted = atomic_load(&g->submit_us), waited = now_us > submitted ? now_us - submitted : 0;
    if (!g->begun) observe_wait(d, g, waited);
    bool early;
    char text[120];
    switch (why) {
    case AG_OUT_TIMEOUT:
        atomic_store(&g->timed_out, true);
        finish(d, g, AG_GEN_LENGTH);
        return;
    case AG_OUT_EXPIRED:
        early = s->q.deadline_us > now_us;
        if (!early) ag_metric_observe_us(d->metrics, AG_M_EVICTED_AFTER, 0, ag_now_us() - s->q.deadline_us);
        snprintf(text, sizeof text, "%s came after %llu ms in the queue%s; nothing was computed",
                 early ? "its turn" : "the deadline", (unsigned long long)waited / 1000,
                 early ? ", too late for the deadline" : "");
        set_failure(g, AG_E_DEADLINE, text);
        break;
    case AG_OUT_DISPLACED:
        atomic_store(&g->retry_us, ag_sched_room_us(d->sched));
        snprintf(text, sizeof text, "the queue is full, and after %llu ms in it this request gave way to another",
                 (unsigned long long)waited / 1000);
        set_failure(g, AG_E_QUEUE_FULL, text);
        break;
    }
    finish(d, g, AG_GEN_FAILED);
}

/* ---- the clock ---- */

static void sleep_until(ag_door *d, uint64_t us)
{
    d->clock_until = us;
    if (us == UINT64_MAX) {
        pthread_cond_wait(&d->clock_bell, &d->lock);
    } else {
        ag_cond_wait_until(&d->clock_bell, &d->lock, us);
    }
    d->clock_until = 0;
}

static void *clock_main(void *arg)
{
    ag_door *d = arg;
    ag__door_enter(d);
    while (!d->closing) {
        uint64_t now = ag_now_us(), next = clock_due(d);
        if (next > now) {
            sleep_until(d, next);
            continue;
        }
        ag__followers_expire(d, now, false);
        ag_sched_expire(d->sched, now);
        ag__door_leave(d);
        ag__door_enter(d);
    }
    ag__door_leave(d);
    return NULL;
}

/* ---- open, close ---- */

int ag__door_open(ag_door *d, const ag_sched_conf *conf, ag_metrics *metrics, sem_t *bell, ag_err *err)
{
    d->metrics = metrics;
    d->bell = bell;
    d->led_due = d->led_waiting_due = UINT64_MAX;
    randombytes_buf(d->salt_key, sizeof d->salt_key);
    pthread_mutex_init(&d->lock, NULL);
    ag_cond_init(&d->clock_bell);
    d->locks = true;
    ag_sched_conf c = *conf;
    c.events = (ag_sched_events){.arg = d, .admitted = on_admitted, .set_back = on_set_back, .out = on_out};
    int rc = ag_sched_open(&d->sched, &c, err);
    if (rc != AG_OK) return rc;
    if (ag_fault_hit(AG_FAULT_THREAD) || pthread_create(&d->clock, NULL, clock_main, d) != 0)
        return ag_err_set(err, AG_E_INTERNAL, "the engine's clock could not be started");
    d->clock_runs = true;
    return AG_OK;
}

void ag__door_shut(ag_door *d)
{
    if (!d->locks) return;
    pthread_mutex_lock(&d->lock);
    d->draining = d->closing = true;
    pthread_cond_signal(&d->clock_bell);
    pthread_mutex_unlock(&d->lock);
    if (d->clock_runs) pthread_join(d->clock, NULL);
    d->clock_runs = false;
}

void ag__door_close(ag_door *d)
{
    if (!d->locks) return;
    ag__door_shut(d);
    while (d->late) { /* mailboxes that stay full at the very end: their readers see the end when they look */
        ag_gen *g = d->late;
        d->late = g->next_late;
        ag_gen_put(g);
    }
    AG_ASSERT(d->cancels == NULL && d->begun == NULL && d->led == NULL);
    ag_sched_close(d->sched);
    pthread_mutex_destroy(&d->lock);
    pthread_cond_destroy(&d->clock_bell);
    *d = (ag_door){0};
}

uint64_t ag__door_salt(const ag_door *d, ag_salt_kind kind, ag_str name)
{
    unsigned char text[AG_TENANT_NAME_MAX + 1] = {(unsigned char)kind}, sum[crypto_shorthash_BYTES];
    _Static_assert(sizeof d->salt_key == crypto_shorthash_KEYBYTES, "the key of a short hash");
    AG_ASSERT(name.n < sizeof text);
    if (name.n) memcpy(text + 1, name.p, name.n);
    crypto_shorthash(sum, text, name.n + 1, d->salt_key);
    uint64_t salt;
    memcpy(&salt, sum, sizeof salt);
    return salt == AG_KV_ALONE ? 1 : salt;
}

/* ---- what callers ask ---- */

/* They are the engine's from here on; whoever cancels one of them waits for the lock. */
static void hand_over(ag_gen *const *gens, uint32_t n, ag_tenant *t, uint64_t now)
{
    for (uint32_t i = 0; i < n; i++) {
        ag_gen *g = gens[i];
        AG_ASSERT(!atomic_load(&g->submitted));
        g->seq.q.tenant = t;
        g->seq.q.newer = i + 1 < n ? &gens[i + 1]->seq.q : NULL;
        atomic_store(&g->submit_us, now);
        atomic_store(&g->submitted, true);
        ag_gen_get(g);
    }
}

static void take_back(ag_gen *const *gens, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        atomic_store(&gens[i]->submitted, false);
        atomic_store(&gens[i]->submit_us, 0);
        ag_gen_put(gens[i]);
    }
}

static void begin_waiting(ag_door *d, ag_gen *g, uint64_t now)
{
    count_waiting(d, g, 1);
    if (atomic_load(&g->cancelled)) { /* before it came */
        ag__door_end(d, g, AG_GEN_CANCELLED);
        return;
    }
    ag_sched_wait w;
    ag_sched_wait_get(d->sched, &g->seq, now, &w);
    g->wait_guess_us = w.wait_us;
}

static int submit(ag_door *d, ag_gen *const *gens, uint32_t n, uint64_t *retry, ag_err *err)
{
    if (d->draining) return ag_err_set(err, AG_E_DRAINING, "the server is shutting down; try another or come back");
    ag_tenant *t = ag_queue_tenant(ag_sched_queue(d->sched), ag_str_of(gens[0]->tenant), gens[0]->weight);
    if (t == NULL) return ag_err_set(err, AG_E_NOMEM, "no memory for another tenant");
    uint64_t now = ag_now_us();
    hand_over(gens, n, t, now);
    int rc = ag_sched_submit_all(d->sched, &gens[0]->seq, now, retry, err);
    if (rc != AG_OK) take_back(gens, n);
    for (uint32_t i = 0; rc == AG_OK && i < n; i++) begin_waiting(d, gens[i], now);
    return rc;
}

int ag_gen_submit_all(ag_gen *const *gens, uint32_t n, uint64_t *retry, ag_err *err)
{
    AG_ASSERT(n > 0);
    for (uint32_t i = 0; i < n; i++) AG_CHECK(gens[i], AG_GEN_MAGIC);
    ag_door *d = ag__door_of(gens[0]->engine);
    uint64_t unwanted;
    if (retry == NULL) retry = &unwanted;
    *retry = 0;
    ag__door_enter(d);
    int rc = submit(d, gens, n, retry, err);
    ag__door_leave(d);
    if (rc == AG_OK) ag__door_ring(d); /* not before: it would only come to wait at the door */
    return rc;
}

int ag_gen_submit(ag_gen *g, uint64_t *retry, ag_err *err) { return ag_gen_submit_all(&g, 1, retry, err); }

void ag__door_cancel(ag_door *d, ag_gen *g)
{
    if (!g->seq.running) {
        ag__door_end(d, g, AG_GEN_CANCELLED);
        return;
    }
    g->next_cancelled = d->cancels;
    d->cancels = ag_gen_get(g);
    ag__door_ring(d);
}

void ag_gen_cancel(ag_gen *g)
{
    AG_CHECK(g, AG_GEN_MAGIC);
    if (atomic_exchange(&g->cancelled, true)) return;
    if (!atomic_load(&g->submitted) || gen_ended(g)) return; /* after the end the engine may be gone */
    ag_door *d = ag__door_of(g->engine);
    ag__door_enter(d);
    if (atomic_load(&g->submitted) && !gen_ended(g)) {
        if (g->leader) ag__follower_leave(d, g);
        else ag__door_cancel(d, g);
    }
    ag__door_leave(d);
}

void ag_gen_move(ag_gen *g, uint8_t band)
{
    AG_CHECK(g, AG_GEN_MAGIC);
    AG_ASSERT(band < AG_BANDS);
    if (!atomic_load(&g->submitted)) g->seq.q.band = band;
    if (!atomic_load(&g->submitted) || gen_ended(g)) return;
    ag_door *d = ag__door_of(g->engine);
    ag__door_enter(d);
    if (!gen_ended(g)) {
        if (g->leader) ag__follower_move(d, g, band);
        else ag_sched_move(d->sched, &g->seq, band, ag_now_us());
        ag__door_ring(d);
    }
    ag__door_leave(d);
}

void ag_gen_wait_get(ag_gen *g, ag_gen_wait *out)
{
    AG_CHECK(g, AG_GEN_MAGIC);
    ag_sched_wait w = {0};
    *out = (ag_gen_wait){0};
    if (atomic_load(&g->submitted) && !gen_ended(g)) {
        ag_door *d = ag__door_of(g->engine);
        ag__door_enter(d);
        ag_gen *computed = g->leader ? g->leader : g;
        if (!gen_ended(g)) ag_sched_wait_get(d->sched, &computed->seq, ag_now_us(), &w);
        if (!gen_ended(g)) out->state = (ag_gen_state)atomic_load(&computed->state);
        if (out->state == AG_GEN_RUNNING && w.position > 0) out->state = AG_GEN_WAITING; /* it was set back */
        out->band = g->seq.q.band;
        ag__door_leave(d);
    } else {
        out->band = g->seq.q.band;
    }
    if (g->leader == NULL || gen_ended(g)) out->state = (ag_gen_state)atomic_load(&g->state);
    if (!ag_gen_ended(out->state)) {
        out->position = w.position;
        out->wait_us = w.wait_us;
    }
    ag_gen_times t;
    ag_gen_times_get(g, &t);
    uint64_t from = t.submit_us, to = t.admit_us ? t.admit_us : t.end_us ? t.end_us : ag_now_us();
    out->waited_us = from && to > from ? to - from : 0;
}
