/* displace.c - who goes when there is no room for a newcomer. */
#include "queue/queue_inner.h"

/* The lowest band that it has something in that may be displaced; -1: none. */
static int lowest_band(const ag__tenant_inner *t)
{
    int band = AG_BANDS - 1;
    while (band >= 0 && t->newest[band] == NULL) band--;
    return band;
}

/* The lowest band first, then the largest backlog over weight, then who was made first. Numbers above zero sort as
 * their bits do. */
void ag__over_settle(ag_queue *q, ag__tenant_inner *t)
{
    int band = lowest_band(t);
    if (band < 0) {
        ag__heap_remove(&q->over, t);
        return;
    }
    double backlog = (double)t->pub.waiting_cost / (double)t->weight;
    uint64_t bits;
    memcpy(&bits, &backlog, sizeof bits);
    uint64_t high = (uint64_t)(AG_BANDS - 1 - band) << 62 | (~bits & ~((uint64_t)1 << 63)) >> 1;
    ag__heap_set(&q->over, t, (ag__u128)high << 64 | t->number);
}

typedef struct room { /* still wanted */
    uint64_t entries, tokens, bytes;
} room;

static uint64_t beyond(uint64_t have, uint64_t more, uint64_t max)
{
    return max == 0 || (have <= max && more <= max - have) ? 0 : have + more - max;
}

/* Where so much waits already. */
static room missing(const ag_queue *q, const ag__newcomers *new, uint32_t n, uint64_t tokens, uint64_t bytes)
{
    return (room){beyond(n, new->n, q->conf.entries_max), beyond(tokens, new->tokens, q->conf.tokens_max),
                  beyond(bytes, new->bytes, q->conf.bytes_max)};
}

static room missing_now(const ag_queue *q, const ag__newcomers *new)
{
    return missing(q, new, q->bound_n, q->bound_tokens, q->bound_bytes);
}

static bool is_enough(room r) { return r.entries == 0 && r.tokens == 0 && r.bytes == 0; }

/* Within a band the newcomers' tenant must stay under its share of what would wait, and the other be over its own:
 * so no two displace each other in turn. */
static bool may_displace(const ag_queue *q, const ag__newcomers *new, const ag__tenant_inner *victim, int band)
{
    if (band != new->band) return band > new->band;
    const ag__tenant_inner *t = new->tenant;
    ag__u128 weight = q->weight + (t->pub.waiting == 0 ? t->weight : 0);
    ag__u128 cost = (ag__u128)q->cost + new->cost;
    bool under = ((ag__u128)t->pub.waiting_cost + new->cost) * weight <= cost * t->weight;
    return victim != t && under && (ag__u128)victim->pub.waiting_cost * weight > cost * victim->weight;
}

/* The one to go next; NULL: nobody may be displaced by them. */
static ag_qent *victim_of(const ag_queue *q, const ag__newcomers *new)
{
    const ag__heap_slot *first = ag__heap_first(&q->over);
    if (first == NULL) return NULL;
    ag__tenant_inner *t = first->thing;
    int band = lowest_band(t);
    return may_displace(q, new, t, band) ? t->newest[band] : NULL;
}

/* More than an empty queue could hold. */
static int refuse_for_ever(const ag_queue *q, const ag__newcomers *new, room alone, ag_err *err)
{
    if (alone.entries > 0)
        return ag_err_set(err, AG_E_LIMIT, "The request asks for %u answers; %u may wait.", new->n,
                          q->conf.entries_max);
    if (alone.tokens > 0)
        return ag_err_set(err, AG_E_LIMIT,
                          "The request has %llu tokens, prompt and answer; all that wait may have %llu.",
                          (unsigned long long)new->tokens, (unsigned long long)q->conf.tokens_max);
    return ag_err_set(err, AG_E_LIMIT, "The request takes %llu bytes; all that wait may take %llu.",
                      (unsigned long long)new->bytes, (unsigned long long)q->conf.bytes_max);
}

static int refuse(const ag_queue *q, const ag__newcomers *new, room r, ag_err *err)
{
    if (r.entries > 0 && new->n == 1)
        return ag_err_set(err, AG_E_QUEUE_FULL, "The queue is full: %u requests wait, as many as may.", q->bound_n);
    if (r.entries > 0)
        return ag_err_set(err, AG_E_QUEUE_FULL,
                          "The queue is full: %u requests wait, %u may; the request asks for %u answers.", q->bound_n,
                          q->conf.entries_max, new->n);
    if (r.tokens > 0)
        return ag_err_set(err, AG_E_QUEUE_FULL, "The queue is full: %llu tokens wait, %llu may; the request has %llu.",
                          (unsigned long long)q->bound_tokens, (unsigned long long)q->conf.tokens_max,
                          (unsigned long long)new->tokens);
    return ag_err_set(err, AG_E_QUEUE_FULL, "The queue is full: %llu bytes wait, %llu may; the request takes %llu.",
                      (unsigned long long)q->bound_bytes, (unsigned long long)q->conf.bytes_max,
                      (unsigned long long)new->bytes);
}

int ag__make_room(ag_queue *q, const ag__newcomers *new, ag_qent **displaced, ag_err *err)
{
    *displaced = NULL;
    const room at_first = missing_now(q, new), alone = missing(q, new, 0, 0, 0);
    if (!is_enough(alone)) return refuse_for_ever(q, new, alone, err);
    uint64_t most = (uint64_t)AG__DISPLACED_MAX * new->n;
    ag_qent *gone = NULL; /* linked by `newer`, the last one first */
    bool enough = is_enough(at_first);
    for (ag_qent *v; !enough && most > 0 && (v = victim_of(q, new)) != NULL; most--) {
        ag__ent_detach(q, v);
        v->newer = gone;
        gone = v;
        enough = is_enough(missing_now(q, new));
    }
    for (ag_qent *v; (v = gone) != NULL;) { /* each list is then as it was when the entry left it */
        gone = v->newer;
        if (enough) {
            v->newer = *displaced;
            *displaced = v;
        } else {
            ag__ent_attach(q, v, true);
        }
    }
    return enough ? AG_OK : refuse(q, new, at_first, err);
}
