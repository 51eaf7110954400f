/* verify.c - everything that holds between two calls. */
#include "queue/queue_inner.h"

typedef struct sums {
    uint32_t n, bound_n, running, tenants, idle, active, over, with_deadline, by_band[AG_BANDS];
    uint64_t cost, tokens, bytes, weight;
    ag__bucket bucket[AG_BANDS][AG__BUCKETS];
} sums;

static void verify_entry(const ag_queue *q, const ag__tenant_inner *t, const ag_qent *e, sums *all)
{
    AG_ASSERT(e->queued && e->tenant == &t->pub && e->level <= e->band && e->since_us <= q->now_us);
    AG_ASSERT((e->place != 0) == (e->deadline_us != 0));
    AG_ASSERT(e->place == 0 || q->deadlines.at[e->place - 1].thing == e);
    AG_ASSERT(e->cost == e->node.cost);
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
    uint32_t n[AG_BANDS] = {0}, listed = 0, displaceable = 0;
    uint64_t cost[AG_BANDS] = {0}, waiting = 0;
    ag__tree_verify(&t->entries);
    for (uint32_t i = 0; i < ag__tree_count(&t->entries); i++) {
        const ag_qent *e = ag__ent_of(ag__tree_at(&t->entries, i));
        AG_ASSERT(i > 0 || t->head == e);
        verify_entry(q, t, e, all);
        n[e->level]++;
        cost[e->level] += e->cost;
        waiting += e->cost;
        displaceable += !e->resumed;
    }
    AG_ASSERT((t->head == NULL) == (t->entries.root == NULL));
    AG_ASSERT(t->pub.waiting == ag__tree_count(&t->entries) && t->pub.waiting_cost == waiting);
    for (uint8_t l = 0; l < AG_BANDS; l++) {
        AG_ASSERT(t->n[l] == n[l] && t->cost[l] == cost[l]);
        for (const ag_qent *e = t->newest[l]; e != NULL; e = e->older, listed++)
            AG_ASSERT(e->band == l && !e->resumed && (e->older == NULL || e->older->newer == e));
        if (n[l] == 0) continue;
        ag__bucket *b = &all->bucket[l][ag__bucket_of(t, l)];
        *b = (ag__bucket){b->tenants + 1, b->entries + n[l], b->cost + cost[l], b->weight + t->weight};
    }
    AG_ASSERT(listed == displaceable && (t->place_over != 0) == (displaceable > 0));
    AG_ASSERT((t->place_active != 0) == ag__is_active(t));
    AG_ASSERT(t->place_active == 0 || q->active.at[t->place_active - 1].key == ag__v_received(t));
    AG_ASSERT(t->idle == (!ag__is_active(t) && t->held == 0));
    all->tenants++;
    all->running += t->pub.running;
    all->idle += t->idle;
    all->active += ag__is_active(t);
    all->over += displaceable > 0;
    all->weight += t->pub.waiting > 0 ? t->weight : 0;
}

static void verify_levels(const ag_queue *q)
{
    for (uint8_t l = 0; l < AG_BANDS; l++) {
        uint32_t n = 0;
        uint64_t cost = 0;
        for (const ag_qent *e = q->oldest[l]; e != NULL; e = e->after, n++) {
            AG_ASSERT(e->level == l && (e->after == NULL ? q->latest[l] == e : e->after->before == e));
            AG_ASSERT(e->after == NULL || e->since_us <= e->after->since_us);
            cost += e->cost;
        }
        AG_ASSERT(n == q->by_level[l] && cost == q->level_cost[l]);
    }
}

void ag_queue_verify(const ag_queue *q)
{
    sums all = {0};
    uint32_t waiting_tenants = ag__tree_count(&q->order), idle = 0;
    for (uint32_t i = 0; i < q->table_n; i++)
        for (const ag__tenant_inner *t = q->table[i]; t != NULL; t = t->next) verify_tenant(q, t, &all);
    ag__tree_verify(&q->order);
    for (uint32_t i = 0; i < waiting_tenants; i++) AG_ASSERT(ag__tenant_at(ag__tree_at(&q->order, i))->head != NULL);
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
