#include <stdio.h>

#include "base/mem.h"
#include "gateway/tier_inner.h"

#define BATCH_BYTES (1u << 20) /* of answers in a lot, but for one that is larger */
#define KEEP_BYTES (256u << 10) /* of memory for packed ones, between two lots */

/* The queue. */

static size_t weight(const ag__tier_put *p) { return sizeof *p + ag_cache_value_size(p->value); }

static void append(ag__tier_queue *q, ag__tier_put *p)
{
    p->next = NULL;
    if (q->last) q->last->next = p;
    else q->first = p;
    q->last = p;
    q->n++;
    q->bytes += weight(p);
}

static ag__tier_put *take(ag__tier_queue *q)
{
    ag__tier_put *p = q->first;
    if (p == NULL) return NULL;
    q->first = p->next;
    if (q->first == NULL) q->last = NULL;
    q->n--;
    q->bytes -= weight(p);
    return p;
}

static void put_free(ag_tier *t, ag__tier_put *p)
{
    atomic_fetch_sub(&t->queued, weight(p));
    ag_cache_value_drop(p->value);
    ag_mem_free(p);
}

/* It comes to nothing, and others are to compute it. */
static void drop(ag__tier_loop *on, ag__tier_put *p)
{
    ag_metric_add(on->tier->metrics, AG_M_TIER_DROPPED, 0, 1);
    ag__tier_unlock(on, &p->key);
    put_free(on->tier, p);
}

static void drop_queue(ag__tier_loop *on, ag__tier_queue *q)
{
    for (ag__tier_put *p; (p = take(q)) != NULL;) drop(on, p);
}

void ag__tier_drop_all(ag__tier_loop *on)
{
    AG_ASSERT(!on->packing);
    drop_queue(on, &on->lot);
    drop_queue(on, &on->queue);
}

/* Locks. */

static void on_unlocked(void *arg AG_UNUSED, const redisReply *reply AG_UNUSED) {} /* else its time is over some day */

void ag__tier_unlock(ag__tier_loop *on, const ag_cache_key *k)
{
    const ag_tier *t = on->tier;
    ag__tier_names names;
    if (t->lock_ms == 0 || !ag_redis_there(on->writer.redis)) return;
    ag__tier_names_of(t, k, &names);
    const ag_str args[] = {AG_STR("2"), ag_str_of(names.value), ag_str_of(names.lock), AG_STR("leave"),
                           ag_str_of(t->id)};
    (void)ag_redis_eval(on->writer.redis, &t->script, args, AG_ARRAY_LEN(args), on_unlocked, NULL);
}

void ag_tier_give_up(ag_tier *t, uint32_t loop, const ag_cache_key *k)
{
    if (t) ag__tier_unlock(t->loops[loop], k);
}

/* Lots. */

static void begin_lot(ag__tier_loop *on);

static void on_stored(void *arg, const redisReply *reply)
{
    ag__tier_loop *on = arg;
    bool stored = reply && reply->type == REDIS_REPLY_STATUS;
    ag_metric_add(on->tier->metrics, stored ? AG_M_TIER_STORED : AG_M_TIER_STORE_FAILED, 0, 1);
    AG_ASSERT(on->owed > 0);
    if (--on->owed == 0) begin_lot(on);
}

static bool send(ag__tier_loop *on, const ag__tier_put *p, uint64_t now_ms)
{
    const ag_tier *t = on->tier;
    ag__tier_names names;
    char ms[21];
    uint64_t until = p->meta.stale_until_ms;
    if (p->n == 0 || until <= now_ms || !ag_redis_there(on->writer.redis)) return false;
    ag__tier_names_of(t, &p->key, &names);
    snprintf(ms, sizeof ms, "%llu", (unsigned long long)AG_MIN(until - now_ms, t->ttl_max_ms));
    const ag_str args[] = {AG_STR("2"),      ag_str_of(names.value), ag_str_of(names.lock),         AG_STR("put"),
                           ag_str_of(t->id), ag_str_of(ms),          {on->packed.p + p->at, p->n}};
    return ag_redis_eval(on->writer.redis, &t->script, args, AG_ARRAY_LEN(args), on_stored, on);
}

/* A worker's. */
static void pack_lot(void *arg)
{
    ag__tier_loop *on = arg;
    for (ag__tier_put *p = on->lot.first; p; p = p->next) {
        p->at = on->packed.n;
        p->n = ag_tier_pack(on->packer, &on->packed, &p->key, p->value, &p->meta) == AG_OK ? on->packed.n - p->at : 0;
    }
}

static void send_lot(void *arg)
{
    ag__tier_loop *on = arg;
    uint64_t now_ms = ag_wall_us() / 1000;
    on->packing = false;
    on->owed = 1; /* this function's, so that nothing begins within it */
    for (ag__tier_put *p; (p = take(&on->lot)) != NULL;) {
        bool sent = send(on, p, now_ms);
        on->owed += sent;
        if (sent) put_free(on->tier, p);
        else drop(on, p);
    }
    ag_buf_reset(&on->packed);
    if (on->packed.cap > KEEP_BYTES) ag_buf_fini(&on->packed);
    if (--on->owed == 0) begin_lot(on);
}

static void begin_lot(ag__tier_loop *on)
{
    if (on->packing || on->owed || on->queue.first == NULL) return;
    if (!ag_redis_there(on->writer.redis)) {
        drop_queue(on, &on->queue);
        return;
    }
    do append(&on->lot, take(&on->queue));
    while (on->queue.first && on->lot.n < AG__TIER_BATCH_MAX && on->lot.bytes + weight(on->queue.first) <= BATCH_BYTES);
    on->packing = true;
    if (ag_http_loop_work(on->http, pack_lot, send_lot, on)) return;
    on->packing = false;
    drop_queue(on, &on->lot);
}

void ag_tier_put(ag_tier *t, uint32_t loop, const ag_cache_key *k, ag_cache_value *v, const ag_cache_meta *meta)
{
    if (t == NULL) return;
    ag__tier_loop *on = t->loops[loop];
    size_t n = ag_cache_value_size(v);
    uint64_t waiting = on->queue.bytes + on->lot.bytes;
    bool room = n <= AG_TIER_VALUE_MAX && on->queue.n < AG_TIER_QUEUE_MAX && waiting + n <= t->queue_bytes;
    ag__tier_put *p = room && ag_redis_there(on->writer.redis) ? ag_mem_zalloc(sizeof *p) : NULL;
    if (p == NULL) {
        ag_metric_add(t->metrics, AG_M_TIER_DROPPED, 0, 1);
        ag__tier_unlock(on, k);
        return;
    }
    *p = (ag__tier_put){.key = *k, .value = ag_cache_value_hold(v), .meta = *meta};
    append(&on->queue, p);
    atomic_fetch_add(&t->queued, weight(p));
    begin_lot(on);
}
