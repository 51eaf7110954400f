/* verify.c - everything that holds between two calls. */
#include "queue/queue_inner.h"

typedef struct sums {
    uint32_t n, bound_n, running, tenants, idle, active, over, with_deadline, by_band[AG_BANDS];
    uint64_t cost, tokens, bytes, weight;
    ag__bucket bucket[AG_BANDS][AG__BUCKETS];
} sums;

typedef struct part { /* of a tenant */
    const ag_queue *q;
    const ag__tenant_inner *t;
    sums *all;
    uint32_t entries, displaceable, n[AG_BANDS];
    uint64_t waiting, cost[AG_BANDS];
} part;

static void verify_entry(void *arg, void *entry, ag__u128 key, uint64_t cost)
{
    part *p = arg;
    const ag_qent *e = entry;
    sums *all = p->all;
    AG_ASSERT(e->queued && e->tenant == &p->t->pub && e->level <= e->band && e->since_us <= p->q->now_us);
    AG_ASSERT(key == ag__ent_key(e) && cost == e->cost && (p->entries > 0 || p->t->head == e));
    AG_ASSERT((e->due != 0) == (e->deadline_us != 0));
    AG_ASSERT(e->due == 0 || ag__heap_find(&p->q->deadlines, e->due)->thing == e);
    p->entries++;
    p->n[e->level]++;
    p->cost[e->level] += e->cost;
    p->waiting += e->cost;
    p->displaceable += !e->resumed;
    all->n++;
    all->by_band[e->band]++;
    all->cost += e->cost;
    all->with_deadline += e->deadline_us != 0;
    if (e->resumed) return;
    all->bound_n++;
    all->tokens += e->tokens;
    all->bytes += e->bytes;
}

static void verify_tenant(const ag_queue *q, const ag__tenant_inner *t, sums *all)
{
    part p = {.q = q, .t = t, .all = all};
    uint32_t listed = 0;
    ag__order_verify(&t->entries, verify_entry, &p);
    AG_ASSERT((t->head == NULL) == (p.entries == 0));
    AG_ASSERT(t->pub.waiting == p.entries && t->pub.waiting_cost == p.waiting);
    for (uint8_t l = 0; l < AG_BANDS; l++) {
        AG_ASSERT(t->n[l] == p.n[l] && t->cost[l] == p.cost[l]);
        for (const ag_qent *e = t->newest[l]; e != NULL; e = e->older, listed++)
            AG_ASSERT(e->band == l && !e->resumed && (e->older == NULL || e->older->newer == e));
        if (p.n[l] == 0) continue;
        ag__bucket *b = &all->bucket[l][ag__bucket_of(t, l)];
        *b = (ag__bucket){b->tenants + 1, b->entries + p.n[l], b->cost + p.cost[l], b->weight + t->weight};
    }
    AG_ASSERT(listed == p.displaceable && (t->over != 0) == (p.displaceable > 0));
    AG_ASSERT((t->active != 0) == ag__is_active(t));
    AG_ASSERT(t->active == 0 || ag__heap_key(ag__heap_find(&q->active, t->active)) == ag__v_received(t));
    AG_ASSERT(t->idle == (!ag__is_active(t) && t->held == 0));
    all->tenants++;
    all->running += t->pub.running;
    all->idle += t->idle;
    all->active += ag__is_active(t);
    all->over += p.displaceable > 0;
    all->weight += t->pub.waiting > 0 ? t->weight : 0;
}

static void verify_levels(const ag_queue *q)
{
    for (uint8_t l = 0; l < AG_BANDS; l++) {
        uint32_t n = 0;
        uint64_t cost = 0, prompt = 0;
        for (const ag_qent *e = q->oldest[l]; e != NULL; e = e->after, n++) {
            AG_ASSERT(e->level == l && (e->after == NULL ? q->latest[l] == e : e->after->before == e));
            AG_ASSERT(e->after == NULL || e->since_us <= e->after->since_us);
            cost += e->cost;
            prompt += e->prompt;
        }
        AG_ASSERT(n == q->by_level[l] && cost == q->level_cost[l] && prompt == q->level_prompt[l]);
    }
}

void ag_queue_verify(const ag_queue *q)
{
    sums all = {0};
    uint32_t waiting_tenants = ag__tree_count(&q->order), idle = 0;
    for (uint32_t i = 0; i < q->table_n; i++)
        for (const ag__tenant_inner *t = q->table[i]; t != NULL; t = t->next) verify_tenant(q, t, &all);
    ag__tree_verify(&q->order);
    for (uint32_t i = 0; i < waiting_tenants; i++) {
        const ag__tenant_inner *t = ag__tenant_at(ag__tree_at(&q->order, i));
        AG_ASSERT(t->head != NULL && t->node.then == ag__ent_key(t->head));
        AG_ASSERT(t->node.key == ag__turn_key(t->head->level, t->v) && t->node.cost == t->head->cost);
    }
    ag__heap_verify(&q->deadlines);
    ag__heap_verify(&q->active);
    ag__heap_verify(&q->over);
    verify_levels(q);
    for (const ag__tenant_inner *t = q->idle_oldest; t != NULL; t = t->idle_after, idle++) AG_ASSERT(t->idle);
    AG_ASSERT(all.n == q->n && all.bound_n == q->bound_n && all.running == q->running && all.tenants == q->tenants);
    AG_ASSERT(all.idle == idle && all.active == q->active.n && all.over == q->over.n);
    AG_ASSERT(all.with_deadline == q->deadlines.n && all.cost == q->cost && all.weight == q->weight);
    AG_ASSERT(all.tokens == q->bound_tokens && all.bytes == q->bound_bytes);
    AG_ASSERT(memcmp(all.by_band, q->by_band, sizeof all.by_band) == 0);
    AG_ASSERT(memcmp(all.bucket, q->bucket, sizeof all.bucket) == 0);
    AG_ASSERT(q->bound_n <= q->conf.entries_max);
}
