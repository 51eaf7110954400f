#include "queue/queue.h"

#include "base/mem.h"
#include "queue/queue_inner.h"

/* --- an entry's places -------------------------------------------------------------------------------------------- */

/* Of one without a deadline. */
#define DUE_AGES 4

uint64_t ag__due_of(const ag_queue *q, uint64_t deadline_us, uint64_t arrive_us)
{
    uint64_t due;
    if (deadline_us != 0 || q->conf.age_us == 0) return deadline_us;
    return ag_mul_ok(q->conf.age_us, DUE_AGES, &due) && ag_add_ok(due, arrive_us, &due) ? due : 0;
}

static void order_in(ag_queue *q, ag_qent *e)
{
    ag__tenant_inner *t = ag__tenant_of(e);
    e->want_us = ag__due_of(q, e->deadline_us, e->arrive_us);
    ag__u128 key = ag__ent_key(e);
    ag__order_insert(&q->pool, &t->entries, key, e, e->cost);
    if (t->head != NULL && ag__ent_key(t->head) < key) return;
    ag__order_leave(q, t);
    t->head = e;
    ag__order_join(q, t);
}

static void order_out(ag_queue *q, ag_qent *e)
{
    ag__tenant_inner *t = ag__tenant_of(e);
    bool head = t->head == e;
    if (head) ag__order_leave(q, t);
    ag__order_remove(&q->pool, &t->entries, ag__ent_key(e), e->cost);
    if (!head) return;
    t->head = ag__order_first(&t->entries);
    ag__order_join(q, t);
}

/* Its level's list goes by since_us: whoever comes is the latest, unless it is put back to where it was. */
static void link_in(ag_queue *q, ag_qent *e, bool back)
{
    if (!back) {
        e->before = q->latest[e->level];
        e->after = NULL;
    }
    *(e->before == NULL ? &q->oldest[e->level] : &e->before->after) = e;
    *(e->after == NULL ? &q->latest[e->level] : &e->after->before) = e;
}

static void link_out(ag_queue *q, ag_qent *e)
{
    *(e->before == NULL ? &q->oldest[e->level] : &e->before->after) = e->after;
    *(e->after == NULL ? &q->latest[e->level] : &e->after->before) = e->before;
}

static void level_in(ag_queue *q, ag_qent *e, bool back)
{
    link_in(q, e, back);
    q->by_level[e->level]++;
    q->level_cost[e->level] += e->cost;
    q->level_prompt[e->level] += e->prompt;
    ag__level_add(q, ag__tenant_of(e), e->level, true, e->cost);
}

static void level_out(ag_queue *q, ag_qent *e)
{
    link_out(q, e);
    q->by_level[e->level]--;
    q->level_cost[e->level] -= e->cost;
    q->level_prompt[e->level] -= e->prompt;
    ag__level_add(q, ag__tenant_of(e), e->level, false, e->cost);
}

static void band_in(ag_qent *e)
{
    if (e->resumed) return;
    ag_qent **newest = &ag__tenant_of(e)->newest[e->band];
    e->older = *newest;
    e->newer = NULL;
    if (*newest != NULL) (*newest)->newer = e;
    *newest = e;
}

static void band_out(ag_qent *e)
{
    if (e->resumed) return;
    if (e->older != NULL) e->older->newer = e->newer;
    *(e->newer == NULL ? &ag__tenant_of(e)->newest[e->band] : &e->newer->older) = e->older;
}

static void deadline_in(ag_queue *q, ag_qent *e)
{
    if (e->deadline_us == 0) ag__heap_remove(&q->deadlines, e);
    else ag__heap_set(&q->deadlines, e, (ag__u128)e->deadline_us << 64 | e->number);
}

/* Each place of an entry is somewhere else in memory: all are asked for before the first is waited for. */
void ag__ent_attach(ag_queue *q, ag_qent *e, bool back)
{
    ag__tenant_inner *t = ag__tenant_of(e);
    __builtin_prefetch(t->entries.root);
    __builtin_prefetch(t->newest[e->band]);
    e->queued = true;
    q->n++;
    q->by_band[e->band]++;
    q->cost += e->cost;
    q->weight += t->pub.waiting == 0 ? t->weight : 0;
    t->pub.waiting++;
    t->pub.waiting_cost += e->cost;
    if (!e->resumed) {
        q->bound_n++;
        q->bound_tokens += e->tokens;
        q->bound_bytes += e->bytes;
    }
    level_in(q, e, back);
    band_in(e);
    deadline_in(q, e);
    order_in(q, e);
    ag__over_settle(q, t);
    ag__tenant_settle(q, t);
}

/* Its neighbours in the lists. */
static void touch(const ag_qent *e)
{
    __builtin_prefetch(e->before);
    __builtin_prefetch(e->after);
    __builtin_prefetch(e->older);
    __builtin_prefetch(e->newer);
}

void ag__ent_detach(ag_queue *q, ag_qent *e)
{
    ag__tenant_inner *t = ag__tenant_of(e);
    touch(e);
    order_out(q, e);
    ag__heap_remove(&q->deadlines, e);
    band_out(e);
    level_out(q, e);
    if (!e->resumed) {
        q->bound_n--;
        q->bound_tokens -= e->tokens;
        q->bound_bytes -= e->bytes;
    }
    t->pub.waiting_cost -= e->cost;
    t->pub.waiting--;
    q->weight -= t->pub.waiting == 0 ? t->weight : 0;
    q->cost -= e->cost;
    q->by_band[e->band]--;
    q->n--;
    e->queued = false;
    ag__over_settle(q, t);
    ag__tenant_settle(q, t);
}

/* --- time --------------------------------------------------------------------------------------------------------- */

/* When something ran last that e's tenant asked for as it asked for e, or as e has risen to. */
static uint64_t served_us(const ag_qent *e)
{
    uint64_t last = 0;
    for (uint8_t level = e->level; level <= e->band; level++) last = AG_MAX(last, ag__tenant_of(e)->served_us[level]);
    return last;
}

/* Since when a level has had somebody and served nobody; or served others and, for long, nobody of its oldest's tenant:
 * where tenants come new without end, each begins before those who had something already, as do others before one that
 * spends its share at a more urgent level. Who waits for its own tenant does not starve: a flood has the places. */
static uint64_t starves_since(const ag_queue *q, uint8_t level)
{
    const ag_qent *e = q->oldest[level];
    uint64_t from = AG_MAX(e->since_us, served_us(e)), more;
    uint64_t served = AG_MAX(from, q->taken_us[level]), own = AG_MAX(from, ag__tenant_of(e)->taken_us[level]);
    if (!ag_mul_ok(q->conf.age_us, DUE_AGES - 1, &more) || !ag_add_ok(own, more, &own)) return served;
    return AG_MIN(served, AG_MAX(own, q->risen_us[level]));
}

/* Nor is who waits for its own tenant in the way of others, who starve. At most so many at a call. */
#define PASSED_MOST 64

static void pass_served(ag_queue *q, uint8_t level, uint32_t *passed)
{
    for (; *passed < PASSED_MOST; ++*passed) {
        ag_qent *e = q->oldest[level];
        if (e == NULL || q->now_us - e->since_us < q->conf.age_us) return;
        if (q->now_us - served_us(e) >= q->conf.age_us || q->by_level[level] == ag__tenant_of(e)->n[level]) return;
        link_out(q, e);
        e->since_us = q->now_us;
        link_in(q, e, false);
    }
}

/* The level that has starved long enough, and first; 0: none. */
static uint8_t due_level(ag_queue *q, uint32_t passed[AG_BANDS])
{
    uint8_t due = 0;
    for (uint8_t level = 1; level < AG_BANDS; level++) {
        pass_served(q, level, &passed[level]);
        if (q->oldest[level] == NULL || q->now_us - starves_since(q, level) < q->conf.age_us) continue;
        if (due == 0 || starves_since(q, level) < starves_since(q, due)) due = level;
    }
    return due;
}

/* The most urgent have nowhere to rise to: when a tenant has waited as long there while others were taken, it begins
 * anew, like those who come new, and before them since it is the oldest. */
static void renew(ag_queue *q)
{
    const ag_qent *e = q->oldest[0];
    uint64_t wait;
    if (e == NULL || !ag_mul_ok(q->conf.age_us, DUE_AGES, &wait)) return;
    ag__tenant_inner *t = ag__tenant_of(e);
    uint64_t since = AG_MAX(e->since_us, t->taken_us[0]);
    if (t->pub.running > 0 || q->taken_us[0] <= since || q->now_us - since < wait) return;
    if (q->now_us - q->risen_us[0] < q->conf.age_us) return;
    q->risen_us[0] = q->now_us;
    ag__tenant_renew(q, t);
}

/* Whoever is due rises, in the order in which they were: so each level's list stays in order, and who was due twice
 * rises twice. */
void ag__rise(ag_queue *q, uint64_t now_us)
{
    q->now_us = AG_MAX(q->now_us, now_us);
    if (q->conf.age_us == 0) return;
    uint32_t passed[AG_BANDS] = {0};
    for (uint8_t level; (level = due_level(q, passed)) != 0;) {
        ag_qent *e = q->oldest[level];
        uint64_t when = starves_since(q, level) + q->conf.age_us;
        order_out(q, e);
        level_out(q, e);
        e->level--;
        const ag_qent *latest = q->latest[level - 1];
        e->since_us = AG_MAX(when, latest == NULL ? 0 : latest->since_us);
        q->risen_us[level] = when;
        q->taken_us[level] = AG_MAX(q->taken_us[level], when);
        level_in(q, e, false);
        order_in(q, e);
    }
    renew(q);
}

/* --- calls -------------------------------------------------------------------------------------------------------- */

static ag__newcomers count(ag_qent *first)
{
    ag__newcomers new = {.tenant = ag__tenant_of(first), .band = first->band};
    for (ag_qent *e = first; e != NULL; e = e->newer) {
        AG_ASSERT(!e->queued && e->band < AG_BANDS && e->tenant == first->tenant && e->band == first->band);
        e->cost = AG_MIN(e->cost, AG_QUEUE_COST_MAX);
        new.n++;
        new.tokens += e->tokens;
        new.cost += e->cost;
        if (!ag_add_ok(new.bytes, e->bytes, &new.bytes)) new.bytes = UINT64_MAX;
    }
    return new;
}

static void push(ag_queue *q, ag_qent *e)
{
    if (!e->resumed) {
        e->number = ++q->numbers;
        e->arrive_us = q->now_us;
        e->level = e->band;
    }
    e->since_us = q->now_us;
    e->due = 0;
    if (!e->resumed) ag__tenant_begin(q, ag__tenant_of(e)); /* else it ran until now */
    ag__ent_attach(q, e, false);
}

int ag_queue_push_all(ag_queue *q, ag_qent *first, uint64_t now_us, ag_qent **displaced, ag_err *err)
{
    *displaced = NULL;
    ag__rise(q, now_us);
    const ag__newcomers new = count(first);
    /* Those who run may be set back: their room stays theirs. */
    uint32_t room = q->n + q->running + new.n;
    if (!ag__heap_reserve(&q->deadlines, room) || !ag__order_reserve(&q->pool, room, q->tenants))
        return ag_err_set(err, AG_E_NOMEM, "There is no memory for %u more waiting beside %u.", new.n, q->n);
    int rc = first->resumed ? AG_OK : ag__make_room(q, &new, displaced, err);
    for (ag_qent *e = first, *next; rc == AG_OK && e != NULL; e = next) {
        next = e->newer;
        push(q, e);
    }
    return rc;
}

int ag_queue_push(ag_queue *q, ag_qent *e, uint64_t now_us, ag_qent **displaced, ag_err *err)
{
    e->newer = NULL;
    return ag_queue_push_all(q, e, now_us, displaced, err);
}

ag_qent *ag_queue_head(ag_queue *q, uint64_t now_us)
{
    ag__rise(q, now_us);
    ag__tree_node *first = ag__tree_first(&q->order);
    return first == NULL ? NULL : ag__tenant_at(first)->head;
}

void ag_queue_remove(ag_queue *q, ag_qent *e)
{
    AG_ASSERT(e->queued);
    ag__ent_detach(q, e);
}

void ag_queue_take(ag_queue *q, ag_qent *e, uint64_t now_us)
{
    ag__rise(q, now_us);
    q->taken_us[e->level] = q->now_us;
    /* What has risen was its tenant's turn where it came from, too. */
    for (uint8_t level = e->level; level <= e->band; level++) ag__tenant_of(e)->taken_us[level] = q->now_us;
    ag_queue_remove(q, e);
}

void ag_queue_served(ag_queue *q, ag_tenant *t, uint8_t band, uint64_t now_us)
{
    q->now_us = AG_MAX(q->now_us, now_us);
    t->inner->served_us[band] = q->now_us;
}

static void fetch_ahead(const void *thing, size_t n)
{
    for (size_t at = 0; at < n; at += 64) __builtin_prefetch((const char *)thing + at);
}

ag_qent *ag_queue_expired(ag_queue *q, uint64_t now_us)
{
    q->now_us = AG_MAX(q->now_us, now_us);
    if (ag_queue_deadline(q) > q->now_us || q->deadlines.n == 0) return NULL;
    ag_qent *e = ag__heap_first(&q->deadlines)->thing;
    /* One of the heap's next four is asked for next; by then memory has brought it, and after it what it points to. */
    for (uint32_t i = 1; i < AG_MIN(5u, q->deadlines.n); i++) fetch_ahead(q->deadlines.at[i].thing, sizeof *e);
    ag__ent_detach(q, e);
    if (q->deadlines.n > 0) {
        const ag_qent *next = ag__heap_first(&q->deadlines)->thing;
        touch(next);
        fetch_ahead(ag__tenant_of(next), sizeof(ag__tenant_inner));
    }
    return e;
}

uint64_t ag_queue_deadline(const ag_queue *q)
{
    const ag__heap_slot *first = ag__heap_first(&q->deadlines);
    return first == NULL ? UINT64_MAX : first->high;
}

void ag_queue_move(ag_queue *q, ag_qent *e, uint8_t band, uint64_t now_us)
{
    AG_ASSERT(band < AG_BANDS);
    ag__rise(q, now_us);
    if (band == e->band) return;
    uint8_t level = (uint8_t)AG_MIN((int)band, e->level + AG_MAX(band - e->band, 0));
    bool comes = e->queued && level != e->level;
    if (e->queued) {
        touch(e);
        band_out(e);
        q->by_band[e->band]--;
        q->by_band[band]++;
    }
    if (comes) {
        order_out(q, e);
        level_out(q, e);
        e->since_us = q->now_us;
    }
    e->band = band;
    e->level = level;
    if (comes) {
        level_in(q, e, false);
        order_in(q, e);
    }
    if (!e->queued) return;
    band_in(e);
    ag__over_settle(q, ag__tenant_of(e));
}

void ag_queue_deadline_set(ag_queue *q, ag_qent *e, uint64_t deadline_us)
{
    if (e->queued) order_out(q, e);
    e->deadline_us = deadline_us;
    if (!e->queued) return;
    order_in(q, e);
    deadline_in(q, e);
}

void ag_queue_stats_get(const ag_queue *q, ag_queue_stats *out)
{
    *out = (ag_queue_stats){.entries = q->n, .tenants = q->tenants, .tokens = q->bound_tokens, .bytes = q->bound_bytes,
                            .cost = q->cost};
    memcpy(out->by_band, q->by_band, sizeof out->by_band);
}
