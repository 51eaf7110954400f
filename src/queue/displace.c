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
    bool entry;
    uint64_t tokens, bytes;
} room;

static uint64_t beyond(uint64_t have, uint64_t more, uint64_t max)
{
    return max == 0 || (have <= max && more <= max - have) ? 0 : have + more - max;
}

static room missing(const ag_queue *q, const ag_qent *e)
{
    return (room){q->bound_n >= q->conf.entries_max, beyond(q->bound_tokens, e->tokens, q->conf.tokens_max),
                  beyond(q->bound_bytes, e->bytes, q->conf.bytes_max)};
}

static bool is_enough(room r) { return !r.entry && r.tokens == 0 && r.bytes == 0; }

/* Within a band the newcomer's tenant must stay under its share of what would wait, and the other be over its own:
 * so no two displace each other in turn. */
static bool may_displace(const ag_queue *q, const ag_qent *e, const ag__tenant_inner *victim, int band)
{
    if (band != e->band) return band > e->band;
    const ag__tenant_inner *t = ag__tenant_of(e);
    ag__u128 weight = q->weight + (t->pub.waiting == 0 ? t->weight : 0);
    ag__u128 cost = (ag__u128)q->cost + e->cost;
    bool under = ((ag__u128)t->pub.waiting_cost + e->cost) * weight <= cost * t->weight;
    return victim != t && under && (ag__u128)victim->pub.waiting_cost * weight > cost * victim->weight;
}

/* The one to go next; NULL: nobody may be displaced by e. */
static ag_qent *victim_of(const ag_queue *q, const ag_qent *e)
{
    const ag__heap_slot *first = ag__heap_first(&q->over);
    if (first == NULL) return NULL;
    ag__tenant_inner *t = first->thing;
    int band = lowest_band(t);
    return may_displace(q, e, t, band) ? t->newest[band] : NULL;
}

static int refuse(const ag_queue *q, const ag_qent *e, room r, ag_err *err)
{
    if (e->tokens > q->conf.tokens_max && q->conf.tokens_max != 0)
        return ag_err_set(err, AG_E_LIMIT, "The request has %u tokens, prompt and answer; all that wait may have %llu.",
                          e->tokens, (unsigned long long)q->conf.tokens_max);
    if (e->bytes > q->conf.bytes_max && q->conf.bytes_max != 0)
        return ag_err_set(err, AG_E_LIMIT, "The request takes %llu bytes; all that wait may take %llu.",
                          (unsigned long long)e->bytes, (unsigned long long)q->conf.bytes_max);
    if (r.entry)
        return ag_err_set(err, AG_E_QUEUE_FULL, "The queue is full: %u requests wait, as many as may.", q->bound_n);
    if (r.tokens > 0)
        return ag_err_set(err, AG_E_QUEUE_FULL, "The queue is full: %llu tokens wait, %llu may; the request has %u.",
                          (unsigned long long)q->bound_tokens, (unsigned long long)q->conf.tokens_max, e->tokens);
    return ag_err_set(err, AG_E_QUEUE_FULL, "The queue is full: %llu bytes wait, %llu may; the request takes %llu.",
                      (unsigned long long)q->bound_bytes, (unsigned long long)q->conf.bytes_max,
                      (unsigned long long)e->bytes);
}

int ag__make_room(ag_queue *q, const ag_qent *e, ag_qent **displaced, ag_err *err)
{
    const room at_first = missing(q, e);
    bool fits_alone = (q->conf.tokens_max == 0 || e->tokens <= q->conf.tokens_max) &&
                      (q->conf.bytes_max == 0 || e->bytes <= q->conf.bytes_max);
    ag_qent *gone[AG__DISPLACED_MAX];
    unsigned n = 0;
    bool enough = fits_alone && is_enough(at_first);
    for (ag_qent *v; fits_alone && !enough && n < AG__DISPLACED_MAX && (v = victim_of(q, e)) != NULL;) {
        gone[n++] = v;
        ag__ent_detach(q, v);
        enough = is_enough(missing(q, e));
    }
    *displaced = NULL;
    while (n > 0) { /* the last one taken first: each list is then as it was when the entry left it */
        ag_qent *v = gone[--n];
        if (enough) {
            v->newer = *displaced;
            *displaced = v;
        } else {
            ag__ent_attach(q, v, true);
        }
    }
    return enough ? AG_OK : refuse(q, e, at_first, err);
}
