/* queue.h - requests that wait: by band, then by fair share between tenants, then by deadline, then by arrival.
 * Pure: no clock, no thread, no I/O; the time comes in as microseconds that never run backwards (one that does is
 * taken for the latest). The same calls give the same order, so a simulator drives exactly what serves.
 *
 * Fair share is start-time fair queueing over service really received: each tenant has a virtual time, its service
 * (prompt tokens computed times prompt_weight and output tokens times output_weight) divided by its weight; whoever
 * is furthest behind is next. Service expected of an admitted request is charged when it is admitted and set right
 * as it runs, so that a burst of admissions counts before its tokens are there. A tenant that comes back from
 * idleness begins at the virtual time of those who are busy (of what they received, without what they were charged
 * ahead: a flood that filled every place is not before a newcomer) if that is later than its own: idleness saves
 * nothing up. Once nobody is busy, all begin alike: it owes nothing. One without a deadline counts as if it had one
 * four times age_us after it came.
 * Source: P. Goyal, H. Vin, H. Cheng, "Start-time fair queuing" (1996); Y. Sheng and others, "Fairness in serving
 * large language models" (2024) for counting tokens really served.
 *
 * Owns    : its heaps and the table of tenants; entries are part of their owner's struct, who keeps them alive while
 *           they wait.
 * Threads : one at a time (the engine holds its lock).
 * Limits  : ag_queue_conf. Every call is O(log n) in entries and tenants, nothing scans; rising (at most three times
 *           an entry, one entry of a band at a time) is done by the next calls that are given the time. A push
 *           displaces at most 64 for each of its entries.
 * Errors  : push: AG_E_QUEUE_FULL; AG_E_LIMIT for what alone is larger than a bound; AG_E_NOMEM, never for
 *           a resumed one whose tenant was told of it by ag_queue_running. Room for an entry is made when it is
 *           pushed first: remove, charge and expire cannot fail. */
#ifndef AG_QUEUE_H
#define AG_QUEUE_H

#include "base/err.h"

#define AG_BANDS 4          /* 0 most urgent */
#define AG_BAND_DEFAULT 2
#define AG_TENANT_NAME_MAX 64
#define AG_TENANT_WEIGHT_MIN 1e-6
#define AG_TENANT_WEIGHT_MAX 1e6
#define AG_QUEUE_COST_MAX ((uint64_t)1 << 40)

typedef struct ag_queue ag_queue;

/* A caller whose share is kept. Made by ag_queue_tenant; fields are read-only outside of queue.c. */
typedef struct ag_tenant {
    char name[AG_TENANT_NAME_MAX + 1];
    double weight;          /* share of service among those who want it */
    double vtime;           /* service over weight, as it is read; the order goes by an exact one */
    uint64_t service;       /* ever received or charged ahead, in units of service */
    uint64_t ahead;         /* of that, what is still to come */
    uint32_t waiting, running;
    uint64_t waiting_cost;  /* units of service that its waiting entries expect */
    double output_mean;     /* tokens that its answers really took, a moving mean; 0: nothing known yet */
    double output_share;    /* of what they were allowed, a moving mean */
    struct ag__tenant_inner *inner;
} ag_tenant;

typedef struct ag_queue_conf {
    uint32_t entries_max;    /* waiting at once */
    uint64_t tokens_max;     /* prompt and wanted tokens of all that wait; 0: no limit */
    uint64_t bytes_max;      /* memory of all that wait; 0: no limit */
    uint32_t tenants_max;    /* remembered; of those with nothing here the one idle longest is forgotten */
    uint32_t prompt_weight, output_weight;
    /* When nobody of a level was taken for so long, the one that has been there longest (as long, at least) rises one
     * band, unless its tenant was served at the band that it asked for; 0: never. So no band starves, and a flood's
     * backlog does not become urgent by its age, however long its answers, and pass those who come to it. The oldest
     * also rises, once each age_us, when nobody of its tenant was taken from its level for four times as long; in band
     * 0, its tenant is then taken for one that comes new. So no tenant starves either, however many others come; those
     * who came before it may have their turns first. */
    uint64_t age_us;
} ag_queue_conf;
#define AG_QUEUE_CONF_DEFAULT ((ag_queue_conf){.entries_max = 1024, .tenants_max = 16384, .prompt_weight = 1, \
                                                .output_weight = 4, .age_us = 30000000})

typedef struct ag_qent {
    /* Set by its owner before push and left alone until it has been taken out. */
    ag_tenant *tenant;
    uint64_t deadline_us;    /* 0: none */
    uint32_t tokens;         /* what it counts towards tokens_max */
    uint32_t prompt;         /* tokens that are to be computed before its next one */
    uint64_t bytes;          /* what it counts towards bytes_max */
    uint64_t cost;           /* service that it expects still to need; at most AG_QUEUE_COST_MAX (push cuts it) */
    uint8_t band;            /* as asked for; ag_queue_move changes it */
    bool resumed;            /* it ran already and was set back: not counted towards the bounds, never displaced or
                              * refused, keeps its number and the level that it had risen to */
    /* The queue's. */
    uint8_t level;           /* the band that it has risen to */
    bool queued;
    uint64_t number;         /* of arrival */
    uint64_t arrive_us, since_us; /* when it came; when it came to this level, or its tenant was served there */
    uint64_t want_us;        /* its deadline, or what stands for one in the order */
    uint32_t due;            /* its handle in the heap of deadlines; 0: it has none */
    struct ag_qent *older, *newer; /* of the same tenant and band, as they came to it */
    struct ag_qent *before, *after; /* of the same level by since_us */
} ag_qent;

int ag_queue_open(ag_queue **out, const ag_queue_conf *conf, ag_err *err);
void ag_queue_close(ag_queue *q); /* asserts that nothing waits */

/* The tenant of that name (at most AG_TENANT_NAME_MAX bytes, asserted), made if need be; its weight becomes
 * `weight`, brought between AG_TENANT_WEIGHT_MIN and _MAX: what it received counts as it did, what is charged ahead
 * by the new one. NULL: no memory. It stays while it has entries waiting or running, or is held (hold, release), else
 * until a call for another name forgets it. */
ag_tenant *ag_queue_tenant(ag_queue *q, ag_str name, double weight);
void ag_queue_hold(ag_queue *q, ag_tenant *t);
void ag_queue_release(ag_queue *q, ag_tenant *t);

/* Lets e wait. When there is no room, *displaced is set to an entry that was taken out in its favour (more than one may
 * have to go for an entry of many tokens: they are linked by `newer`): the newest of the most over-share tenant in the
 * lowest band below e's, else in e's own band when e's tenant would be under its share and that one is over its own.
 * Shares are of waiting cost over weight; bands are those asked for: who rose by age is served earlier, not displaced
 * later. AG_E_QUEUE_FULL, in a sentence that names the bound: nothing was displaced. */
int ag_queue_push(ag_queue *q, ag_qent *e, uint64_t now_us, ag_qent **displaced, ag_err *err);
/* The same for several, of one tenant and band and linked by `newer`: all of them or, as nothing is displaced in vain,
 * none. */
int ag_queue_push_all(ag_queue *q, ag_qent *first, uint64_t now_us, ag_qent **displaced, ag_err *err);
/* One that does not wait: it is of the band that it asked for again. */
static inline void ag_queue_sink(ag_qent *e)
{
    AG_ASSERT(!e->queued);
    e->level = e->band;
}
/* The one that is next, which stays where it is; NULL: nobody waits. Lets those rise that are due. */
ag_qent *ag_queue_head(ag_queue *q, uint64_t now_us);
void ag_queue_remove(ag_queue *q, ag_qent *e);
void ag_queue_take(ag_queue *q, ag_qent *e, uint64_t now_us); /* to serve it: its level does not starve */
/* Takes out and gives one whose deadline is at or before now; NULL: none. Earliest first. */
ag_qent *ag_queue_expired(ag_queue *q, uint64_t now_us);
uint64_t ag_queue_deadline(const ag_queue *q); /* the earliest; UINT64_MAX: none */
/* To another band. What its age has brought it stays: towards the urgent, the level that it has risen to; away from
 * it, as many bands as it has risen. Its time at a level that is new to it begins now. */
void ag_queue_move(ag_queue *q, ag_qent *e, uint8_t band, uint64_t now_us);
void ag_queue_deadline_set(ag_queue *q, ag_qent *e, uint64_t deadline_us);

/* Service that the tenant received (or, negative, that was charged ahead and did not come). */
void ag_queue_charge(ag_queue *q, ag_tenant *t, int64_t service);
/* Of what it was charged so much more is still to come (or, negative, has come by now, or will not). */
void ag_queue_ahead(ag_queue *q, ag_tenant *t, int64_t service);
/* One more (or less) of its requests runs. */
void ag_queue_running(ag_queue *q, ag_tenant *t, int32_t more);
/* Something was computed of one that asked for this band, by its own right: those of its tenant's that asked for it and
 * wait do not starve. */
void ag_queue_served(ag_queue *q, ag_tenant *t, uint8_t band, uint64_t now_us);
/* An answer of so many tokens is over: what estimates of the next ones' cost are made of. */
void ag_queue_learn(ag_queue *q, ag_tenant *t, uint32_t output_tokens, uint32_t max_tokens);
/* Output tokens to expect of a request that allows max_tokens. */
uint32_t ag_queue_expect(const ag_queue *q, const ag_tenant *t, uint32_t max_tokens);
/* Units of service of so many prompt and output tokens. */
uint64_t ag_queue_service(const ag_queue *q, uint64_t prompt_tokens, uint64_t output_tokens);

typedef struct ag_queue_place {
    uint32_t ahead;          /* entries that are expected to be taken before it: exact for one tenant, else by shares */
    uint64_t cost_ahead;     /* and the service that they expect */
    double prompt_ahead;     /* and tokens of their prompts, by what is usual at its level */
} ag_queue_place;
void ag_queue_place_get(ag_queue *q, const ag_qent *e, uint64_t now_us, ag_queue_place *out);
/* The same for a request that has not come yet; deadline_us 0: none. */
void ag_queue_place_of_new(ag_queue *q, const ag_tenant *t, uint8_t band, uint64_t deadline_us, ag_queue_place *out);

typedef struct ag_queue_stats {
    uint32_t entries, tenants, by_band[AG_BANDS];
    uint64_t tokens, bytes; /* that count towards the bounds */
    uint64_t cost;
} ag_queue_stats;
void ag_queue_stats_get(const ag_queue *q, ag_queue_stats *out);
/* Asserts everything that holds between two calls; O(n), for tests and the simulator. */
void ag_queue_verify(const ag_queue *q);

#endif
