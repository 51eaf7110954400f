/* place.c - how much is ahead of an entry. Lower levels go first, all of them. At its own level, an entry is taken
 * when its tenant has been given what its own entries before it cost; by then each other tenant has come to the same
 * virtual time. Who has its first entry before that is counted exactly, by the tree of tenants. How many more each
 * of those gets is reckoned by share: tenants of about the same backlog are kept together in buckets, and a bucket
 * gets its weights' part or all that it has, whichever is less. */
#include <math.h>

#include "queue/queue_inner.h"

typedef struct spot { /* in the order */
    const ag__tenant_inner *tenant;
    uint8_t level;
    ag__vtime v;         /* of its tenant when its turn comes */
    ag__u128 turn, key;  /* of it then; of the entry */
    ag__tree_rank own;   /* of its tenant's, at this level, before it */
} spot;

static bool level_below(const ag__tree_node *n, const void *arg) { return n->key >> 126 < *(const uint8_t *)arg; }

static bool tenant_below(const ag__tree_node *n, const void *arg)
{
    const spot *s = arg;
    return n->key != s->turn ? n->key < s->turn : n->then < s->key;
}

/* Of a bucket without the tenant itself, after everyone's first entry, so many units of virtual time on. */
static void add_share(const ag__bucket *b, double v, double *n, double *cost)
{
    if (b->entries <= b->tenants) return;
    double rest_n = b->entries - b->tenants;
    double mean = (double)b->cost / b->entries, rest_cost = mean * rest_n;
    if (rest_cost <= 0) return;
    /* An entry is taken whole: on the average half a one more than the share has gone. */
    double given = (double)b->weight / AG__WEIGHT_UNIT * v - mean * b->tenants / 2;
    double share = fmin(fmax(given / rest_cost, 0), 1);
    *n += share * rest_n;
    *cost += share * rest_cost;
}

static void place_of(const ag_queue *q, spot *s, ag_queue_place *out)
{
    s->turn = ag__turn_key(s->level, s->v);
    const ag__tenant_inner *t = s->tenant;
    double before_n = 0, before_cost = 0, prompt = 0;
    for (uint8_t level = 0; level < s->level; level++) {
        before_n += q->by_level[level];
        before_cost += (double)q->level_cost[level];
        prompt += (double)q->level_prompt[level];
    }
    double n = before_n + s->own.n, cost = before_cost + (double)s->own.cost;
    ag__tree_rank better = ag__tree_below(&q->order, level_below, &s->level);
    ag__tree_rank heads = ag__tree_below(&q->order, tenant_below, s);
    n += heads.n - better.n;
    cost += (double)(heads.cost - better.cost);
    if (t->head != NULL && t->head->level == s->level && tenant_below(&t->node, s)) { /* is among its own already */
        n -= 1;
        cost -= (double)t->head->cost;
    }
    const ag__tree_node *first = ag__tree_at(&q->order, better.n);
    ag__vtime from = first == NULL ? 0 : ag__tenant_at(first)->v;
    double v = first == NULL || s->v <= from ? 0 : ldexp((double)(s->v - from), -AG__V_BITS);
    unsigned own = ag__bucket_of(t, s->level);
    for (unsigned i = 0; v > 0 && i < AG__BUCKETS; i++) {
        ag__bucket b = q->bucket[s->level][i];
        if (i == own && t->n[s->level] > 0) {
            b.tenants--;
            b.entries -= t->n[s->level];
            b.cost -= t->cost[s->level];
            b.weight -= t->weight;
        }
        add_share(&b, v, &n, &cost);
    }
    double whole = (double)q->level_cost[s->level], part = whole > 0 ? (cost - before_cost) / whole : 0;
    if (whole <= 0 && q->by_level[s->level] > 0) part = (n - before_n) / q->by_level[s->level];
    out->prompt_ahead = prompt + part * (double)q->level_prompt[s->level];
    out->ahead = (uint32_t)fmin(n + 0.5, q->n);
    out->cost_ahead = (uint64_t)fmin(cost + 0.5, (double)q->cost);
}

/* Its tenant's at better levels are counted with everyone's. */
static ag__tree_rank at_level(const ag__tenant_inner *t, ag__tree_rank own, uint8_t level)
{
    for (uint8_t l = 0; l < level; l++) {
        own.n -= t->n[l];
        own.cost -= t->cost[l];
    }
    return own;
}

void ag_queue_place_get(ag_queue *q, const ag_qent *e, uint64_t now_us, ag_queue_place *out)
{
    AG_ASSERT(e->queued);
    ag__rise(q, now_us);
    const ag__tenant_inner *t = ag__tenant_of(e);
    spot s = {.tenant = t, .level = e->level, .key = ag__ent_key(e)};
    s.own = at_level(t, ag__order_below(&t->entries, s.key), e->level);
    s.v = t->v + (ag__vtime)s.own.cost * t->v_per_service;
    place_of(q, &s, out);
}

void ag_queue_place_of_new(ag_queue *q, const ag_tenant *tenant, uint8_t band, uint64_t deadline_us,
                           ag_queue_place *out)
{
    AG_ASSERT(band < AG_BANDS);
    const ag__tenant_inner *t = tenant->inner;
    uint64_t want = ag__due_of(q, deadline_us, q->now_us);
    spot s = {.tenant = t, .level = band, .key = ag__order_key(band, want, false, q->numbers + 1)};
    s.own = at_level(t, ag__order_below(&t->entries, s.key), band);
    s.v = ag__tenant_start(q, t) + (ag__vtime)s.own.cost * t->v_per_service;
    place_of(q, &s, out);
}
