/* queue_inner.h - what the files of this folder share of the queue.
 * An entry is in its tenant's order (level, deadline, arrival), in the list of its level (by since_us, for ageing), in
 * the heap of deadlines if it has one, and, when it may be displaced, in its tenant's list of its band. A tenant with
 * entries is in the tree `order` by its first entry's level, then its virtual time, then that entry: the first of the
 * first is next, since all tenants that have entries of the best level there is are in `order` by those.
 * Owns, threads, limits, errors: as queue.h. */
#ifndef AG_QUEUE_INNER_H
#define AG_QUEUE_INNER_H

#include <sodium.h>

#include "queue/heap.h"
#include "queue/order.h"
#include "queue/queue.h"

/* Weights are whole millionths and virtual time is whole 2^-44ths of a unit of service at weight 1, in 128 bits:
 * sums neither drift nor lose small tenants beside large ones, whatever was charged before (2^60 units at the
 * smallest weight). */
#define AG__WEIGHT_UNIT 1000000u
#define AG__V_BITS 44
typedef ag__u128 ag__vtime;

/* Tenants of a level by their backlog there over their weight, in powers of two from 2^-24. */
#define AG__BUCKETS 112
typedef struct ag__bucket { uint32_t tenants, entries; uint64_t cost, weight; } ag__bucket;

#define AG__DISPLACED_MAX 64 /* for one entry: bounds what a refused push, which puts all back, can cost */

typedef struct ag__tenant_inner {
    ag_tenant pub; /* first */
    ag__vtime v;
    uint64_t weight;        /* in millionths */
    uint64_t v_per_service;
    double per_weight;
    uint64_t number;        /* of its making; breaks ties */
    uint64_t hash;
    struct ag__tenant_inner *next; /* of the same hash */
    struct ag__tenant_inner *idle_before, *idle_after;
    uint32_t held, name_n;
    uint64_t taken_us[AG_BANDS]; /* when an entry was taken last from a level, or from above, risen from there */
    uint64_t served_us[AG_BANDS]; /* when one of a band was served last */
    bool idle;              /* in the list of those with nothing here */
    ag__order entries;
    ag_qent *head;
    ag__tree_node node;     /* of q->order, while head is not NULL */
    uint32_t active, over;  /* its handles in those heaps; 0: it is not in */
    ag_qent *newest[AG_BANDS]; /* that may be displaced */
    uint32_t n[AG_BANDS];   /* by level */
    uint64_t cost[AG_BANDS];
} ag__tenant_inner;

struct ag_queue {
    ag_queue_conf conf;
    uint64_t now_us;        /* the latest told */
    uint64_t numbers, tenant_numbers, draws;

    ag__tree order;         /* tenants with entries */
    ag__order_pool pool;    /* of their entries' orders */
    ag__heap deadlines;     /* entries */
    ag__heap active;        /* tenants with entries waiting or running, by virtual time */
    ag__heap over;          /* tenants with entries that may be displaced: by lowest band, then share */
    ag_qent *oldest[AG_BANDS], *latest[AG_BANDS]; /* of a level */
    uint64_t taken_us[AG_BANDS]; /* when somebody of it was taken, or rose, last */
    uint64_t risen_us[AG_BANDS]; /* when somebody rose; of the most urgent: when a tenant began anew */

    ag__vtime floor;        /* where who comes back from idleness begins */
    ag__vtime ahead;        /* the furthest of those who went idle */
    uint32_t n, running;
    uint32_t by_band[AG_BANDS], by_level[AG_BANDS];
    uint64_t level_cost[AG_BANDS], level_prompt[AG_BANDS];
    ag__bucket bucket[AG_BANDS][AG__BUCKETS];
    uint64_t cost;
    uint64_t weight;        /* of tenants with entries waiting; whole, so that it does not drift */
    uint32_t bound_n;       /* what counts towards the bounds: all but who was set back */
    uint64_t bound_tokens, bound_bytes;

    ag__tenant_inner **table;
    uint32_t table_n, tenants;
    ag__tenant_inner *idle_oldest, *idle_latest;
    double output_mean, output_share; /* over all tenants */
    unsigned char key[crypto_shorthash_KEYBYTES];
};

static inline ag__tenant_inner *ag__tenant_of(const ag_qent *e) { return e->tenant->inner; }

/* By level, deadline (none, and those beyond 2^62, last), whether it was set back, arrival. */
static inline ag__u128 ag__order_key(uint8_t level, uint64_t deadline_us, bool resumed, uint64_t number)
{
    const uint64_t none = ((uint64_t)1 << 62) - 1;
    uint64_t deadline = deadline_us == 0 || deadline_us > none ? none : deadline_us;
    return (ag__u128)((uint64_t)level << 62 | deadline) << 64 | (resumed ? 0 : (uint64_t)1 << 63) | number;
}
static inline ag__u128 ag__ent_key(const ag_qent *e)
{
    return ag__order_key(e->level, e->want_us, e->resumed, e->number);
}

static inline ag__tenant_inner *ag__tenant_at(const ag__tree_node *n)
{
    return (ag__tenant_inner *)((char *)n - offsetof(ag__tenant_inner, node));
}
/* By the first entry's level, then virtual time (beyond 2^126 all are alike: 2^82 units of service). */
static inline ag__u128 ag__turn_key(uint8_t level, ag__vtime v)
{
    const ag__vtime last = ((ag__vtime)1 << 126) - 1;
    return (ag__u128)level << 126 | (v < last ? v : last);
}
static inline bool ag__is_active(const ag__tenant_inner *t) { return t->pub.waiting > 0 || t->pub.running > 0; }
/* What it really received. */
static inline ag__vtime ag__v_received(const ag__tenant_inner *t)
{
    ag__vtime ahead = (ag__vtime)t->pub.ahead * t->v_per_service;
    return ahead < t->v ? t->v - ahead : 0;
}
static inline ag__vtime ag__v_later(ag__vtime a, ag__vtime b) { return a > b ? a : b; }
static inline ag__vtime ag__v_earlier(ag__vtime a, ag__vtime b) { return a < b ? a : b; }

/* tenants.c */
void ag__order_leave(ag_queue *q, ag__tenant_inner *t);
void ag__order_join(ag_queue *q, ag__tenant_inner *t);
void ag__tenant_settle(ag_queue *q, ag__tenant_inner *t); /* after `waiting`, `running` or `held` changed */
/* Whoever comes back from idleness begins where the busy are, if that is later than where it was. */
void ag__tenant_begin(ag_queue *q, ag__tenant_inner *t);
ag__vtime ag__tenant_start(const ag_queue *q, const ag__tenant_inner *t); /* where that would be now */
/* What it received is forgotten: it is where those begin who come now. */
void ag__tenant_renew(ag_queue *q, ag__tenant_inner *t);
/* One entry more, or less, of so much cost at this level. */
void ag__level_add(ag_queue *q, ag__tenant_inner *t, uint8_t level, bool in, uint64_t cost);
unsigned ag__bucket_of(const ag__tenant_inner *t, uint8_t level);

/* queue.c */
/* By when it wants its turn; 0: never. One without a deadline is as one whose deadline is a few times age_us after it
 * came: those of its tenant that have one do not pass it for ever. */
uint64_t ag__due_of(const ag_queue *q, uint64_t deadline_us, uint64_t arrive_us);
void ag__ent_attach(ag_queue *q, ag_qent *e, bool back); /* back: to where it was a moment ago */
void ag__ent_detach(ag_queue *q, ag_qent *e);
void ag__rise(ag_queue *q, uint64_t now_us);

/* displace.c */
void ag__over_settle(ag_queue *q, ag__tenant_inner *t);
typedef struct ag__newcomers { /* that come together; sums */
    const ag__tenant_inner *tenant;
    uint8_t band;
    uint32_t n;
    uint64_t tokens, bytes, cost;
} ag__newcomers;
/* Makes room for them, or changes nothing. */
int ag__make_room(ag_queue *q, const ag__newcomers *new, ag_qent **displaced, ag_err *err);

#endif
