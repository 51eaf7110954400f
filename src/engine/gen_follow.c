/* gen_follow.c - several readers of one generation: followers, each with its own end. The leader's band and deadline
 * follow from theirs. */
#include <stdio.h>

#include "base/mem.h"
#include "engine/engine_inner.h"

/* ---- the lists ---- */

static void list_add(ag_gen **list, ag_gen *g)
{
    g->led_before = NULL;
    g->led_after = *list;
    if (*list) (*list)->led_before = g;
    *list = g;
}

static void list_remove(ag_gen **list, ag_gen *g)
{
    if (g->led_before) g->led_before->led_after = g->led_after;
    else *list = g->led_after;
    if (g->led_after) g->led_after->led_before = g->led_before;
    g->led_before = g->led_after = NULL;
}

/* ---- what the leader goes by ---- */

static uint64_t latest_of(const ag_gen *g)
{
    uint64_t latest = 0;
    if (g->followers_free || g->notify) return 0;
    for (const ag_gen *f = g->followers; f; f = f->led_after) latest = AG_MAX(latest, f->seq.q.deadline_us);
    return latest;
}

static void set_deadline(ag_door *d, ag_gen *g, uint64_t deadline)
{
    if (deadline != g->seq.q.deadline_us) ag_sched_deadline_set(d->sched, &g->seq, deadline);
}

static void set_band(ag_door *d, ag_gen *g)
{
    uint8_t band = 0;
    while (band + 1 < AG_BANDS && g->followers_in[band] == 0) band++;
    if (g->followers == NULL || band == g->seq.q.band || (g->notify && band > g->seq.q.band)) return;
    ag_sched_move(d->sched, &g->seq, band, ag_now_us());
    ag__door_ring(d);
}

/* A deadline that the leader does not keep is the affair of the followers that have it. */
static void see_deadline(ag_door *d, const ag_gen *g, uint64_t due)
{
    if (due == 0 || due == g->seq.q.deadline_us) return;
    d->led_due = AG_MIN(d->led_due, due);
    if (!g->seq.running) d->led_waiting_due = AG_MIN(d->led_waiting_due, due);
}

static void join(ag_door *d, ag_gen *g, ag_gen *f)
{
    uint64_t due = f->seq.q.deadline_us, before = g->seq.q.deadline_us;
    bool first = g->followers == NULL && g->notify == NULL;
    if (g->followers == NULL) list_add(&d->led, g);
    list_add(&g->followers, ag_gen_get(f));
    g->followers_in[f->seq.q.band]++;
    g->followers_free += due == 0;
    set_band(d, g);
    if (first || due == 0 || (before && due > before)) set_deadline(d, g, due);
    see_deadline(d, g, due);
    see_deadline(d, g, before); /* of those who came with it; the others' was theirs already */
}

static void part(ag_door *d, ag_gen *f)
{
    ag_gen *g = f->leader;
    list_remove(&g->followers, f);
    g->followers_in[f->seq.q.band]--;
    g->followers_free -= f->seq.q.deadline_us == 0;
    if (g->followers == NULL) list_remove(&d->led, g);
}

/* ---- their ends ---- */

/* What it saw of its leader until now is its own: that one may go on without it. */
static void keep_seen(ag_gen *f, uint64_t now_us)
{
    const ag_gen *g = f->leader;
    atomic_store(&f->n_out, atomic_load(&g->n_out));
    atomic_store(&f->reused, atomic_load(&g->reused));
    atomic_store(&f->admit_us, atomic_load(&g->admit_us));
    atomic_store(&f->first_us, atomic_load(&g->first_us));
    atomic_store(&f->last_us, atomic_load(&g->last_us));
    atomic_store(&f->end_us, now_us);
}

/* The last thing that is done with it here. */
static void end(ag_door *d, ag_gen *f, ag_gen_state state)
{
    keep_seen(f, ag_now_us());
    atomic_store(&f->state, state);
    ag__door_tell(d, f);
    ag_gen_put(f);
}

void ag__followers_tell(ag_door *d, ag_gen *g)
{
    for (ag_gen *f = g->followers; f; f = f->led_after) ag__door_tell(d, f);
}

static void copy_end(ag_gen *f, const ag_gen *g)
{
    f->fail_code = g->fail_code;
    memcpy(f->fail_text, g->fail_text, sizeof f->fail_text);
    atomic_store(&f->timed_out, atomic_load(&g->timed_out));
    atomic_store(&f->text_bytes, atomic_load(&g->text_bytes));
    atomic_store(&f->retry_us, atomic_load(&g->retry_us));
}

void ag__followers_end(ag_door *d, ag_gen *g)
{
    while (g->followers) {
        ag_gen *f = g->followers;
        part(d, f);
        copy_end(f, g);
        end(d, f, (ag_gen_state)atomic_load(&g->state));
    }
}

/* Nobody listens: it ends too. Else it goes by those who are left. */
static void leave_leader(ag_door *d, ag_gen *g, uint64_t deadline)
{
    if (g->followers == NULL && g->notify == NULL) {
        if (!atomic_exchange(&g->cancelled, true)) ag__door_cancel(d, g);
        return;
    }
    set_band(d, g);
    if (deadline == g->seq.q.deadline_us) set_deadline(d, g, latest_of(g));
}

void ag__follower_leave(ag_door *d, ag_gen *f)
{
    ag_gen *g = ag_gen_get(f->leader);
    uint64_t deadline = f->seq.q.deadline_us;
    part(d, f);
    end(d, f, AG_GEN_CANCELLED);
    leave_leader(d, g, deadline);
    ag_gen_put(g);
}

void ag__follower_move(ag_door *d, ag_gen *f, uint8_t band)
{
    f->leader->followers_in[f->seq.q.band]--;
    f->leader->followers_in[band]++;
    f->seq.q.band = band;
    set_band(d, f->leader);
}

static void expire(ag_door *d, ag_gen *f, uint64_t now)
{
    ag_gen *g = f->leader;
    uint64_t submitted = atomic_load(&f->submit_us);
    part(d, f);
    if (g->begun) {
        atomic_store(&f->timed_out, true);
        atomic_store(&f->text_bytes, AG_MAX(g->stops.total, atomic_load(&g->text_bytes)));
        end(d, f, AG_GEN_LENGTH);
        return;
    }
    f->fail_code = AG_E_DEADLINE;
    snprintf(f->fail_text, sizeof f->fail_text, "the deadline came after %llu ms in the queue; nothing was computed",
             (unsigned long long)(now - submitted) / 1000);
    end(d, f, AG_GEN_FAILED);
}

/* The leader's deadline is the last of theirs, so one is left, or the leader itself is about to be put out. */
static void expire_of(ag_door *d, ag_gen *g, uint64_t now)
{
    for (ag_gen *f = g->followers, *next; f; f = next) {
        uint64_t due = f->seq.q.deadline_us;
        next = f->led_after;
        if (due == 0 || due == g->seq.q.deadline_us) continue;
        if (due <= now) expire(d, f, now);
        else see_deadline(d, g, due);
    }
    if (g->followers) set_band(d, g);
}

void ag__followers_expire(ag_door *d, uint64_t now, bool all)
{
    if (now < (all ? d->led_due : d->led_waiting_due)) return;
    d->led_waiting_due = UINT64_MAX;
    if (all) d->led_due = UINT64_MAX;
    for (ag_gen *g = d->led, *next; g; g = next) {
        next = g->led_after;
        if (all || !g->seq.running) expire_of(d, g, now);
    }
}

/* ---- what callers ask ---- */

int ag_gen_follow(ag_gen **out, ag_gen *leader, const ag_gen_follow_spec *spec, ag_err *err)
{
    AG_CHECK(leader, AG_GEN_MAGIC);
    AG_ASSERT(leader->leader == NULL && atomic_load(&leader->submit_us) && spec->band < AG_BANDS);
    ag_gen *f = ag_mem_zalloc(sizeof *f);
    if (f == NULL) return ag_err_set(err, AG_E_NOMEM, "no memory for a generation");
    f->magic = AG_GEN_MAGIC;
    atomic_init(&f->refs, 1);
    f->engine = leader->engine;
    f->leader = ag_gen_get(leader);
    f->notify = spec->notify;
    f->msg = spec->msg;
    f->top_logprobs = leader->top_logprobs;
    f->seq.q.band = spec->band;
    f->seq.q.deadline_us = spec->deadline_us;
    atomic_store(&f->submit_us, ag_now_us());
    ag_door *d = ag__door_of(leader->engine);
    ag__door_enter(d);
    ag_gen_state state = (ag_gen_state)atomic_load(&leader->state);
    bool lost = atomic_load(&leader->cancelled);
    if (!lost && ag_gen_ended(state)) {
        copy_end(f, leader);
        keep_seen(f, atomic_load(&f->submit_us));
        atomic_store(&f->state, state);
    } else if (!lost) {
        atomic_store(&f->submitted, true);
        join(d, leader, f);
    }
    ag__door_leave(d);
    if (!lost) {
        *out = f;
        return AG_OK;
    }
    ag_gen_put(f);
    return ag_err_set(err, AG_E_CANCELLED, "the generation that was to be followed has been given up");
}
