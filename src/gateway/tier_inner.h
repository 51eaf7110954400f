/* tier_inner.h - what tier.c (lookups, purges, opening) and tier_put.c (stores) share; see tier.h. */
#ifndef AG_TIER_INNER_H
#define AG_TIER_INNER_H

#include <stdatomic.h>

#include "gateway/tier.h"
#include "gateway/tier_purges.h"
#include "gateway/tier_value.h"

#define AG__TIER_PREFIX_MAX 63
#define AG__TIER_NAME_MAX (AG__TIER_PREFIX_MAX + 2 * AG_CACHE_KEY_BYTES + 8)
#define AG__TIER_BATCH_MAX 64 /* stores that go out together */

typedef struct ag__tier_loop ag__tier_loop;

typedef struct ag__tier_side { /* all loops' connections of one kind, as the log tells of them */
    const char *lost, *again;
    _Atomic uint32_t n_there;
    atomic_bool said;
    _Atomic uint64_t said_us;
} ag__tier_side;

typedef struct ag__tier_line {
    ag__tier_loop *on;
    ag__tier_side *side;
    ag_redis *redis; /* NULL: the loop has ended */
    bool there;
} ag__tier_line;

struct ag__tier_find {
    ag__tier_find *prev, *next; /* among those that wait; NULL: an answer is owed */
    ag__tier_loop *on;
    ag_tier_call *call;         /* NULL: it was left */
    ag_cache_key key;
    uint64_t began_us, wall_ms, due_us;
    uint32_t pause_ms;
};

typedef struct ag__tier_put {
    struct ag__tier_put *next;
    ag_cache_key key;
    ag_cache_value *value;
    ag_cache_meta meta;
    size_t at, n; /* packed, in the lot; n 0: it could not be */
} ag__tier_put;

typedef struct ag__tier_queue {
    ag__tier_put *first, *last;
    uint32_t n;
    uint64_t bytes;
} ag__tier_queue;

struct ag__tier_loop {
    ag_tier *tier;
    ag_http_loop *http;
    ag__tier_line reader, writer;
    ag_tier_unpacker *unpacker;
    ag__tier_find waits; /* a ring; of it only prev and next */
    uint32_t n_waits;
    ag__tier_queue queue, lot; /* the lot is a worker's while `packing` */
    bool packing;
    uint32_t owed;             /* answers to the last lot */
    ag_tier_packer *packer;
    ag_buf packed;
};

struct ag_tier {
    ag_metrics *metrics;
    ag_log *log;
    ag_redis_conf redis[2]; /* of a reader, of a writer */
    ag__tier_side readers, writers;
    ag_redis_script script;
    char prefix[AG__TIER_PREFIX_MAX + 1], id[33];
    char probe_value[AG__TIER_PREFIX_MAX + 8], probe_lock[AG__TIER_PREFIX_MAX + 8];
    ag_str find_probe[7], put_probe[7];
    uint8_t secret[AG_TIER_SECRET_BYTES];
    uint32_t lock_ms;
    uint64_t ttl_max_ms, queue_bytes; /* of a loop */
    ag_tier_purges *purges;
    void (*purged)(void *arg, uint32_t loop, const ag_cache_key *k, uint64_t label);
    void *purged_arg;
    _Atomic uint64_t purges_us;       /* when they were last asked for */
    _Atomic uint64_t queued;          /* bytes of all loops' stores */
    uint32_t n_loops;
    ag__tier_loop **loops;            /* NULL: not joined */
};

typedef struct ag__tier_names {
    char value[AG__TIER_NAME_MAX], lock[AG__TIER_NAME_MAX];
} ag__tier_names;
void ag__tier_names_of(const ag_tier *t, const ag_cache_key *k, ag__tier_names *out);

/* tier_put.c */
void ag__tier_unlock(ag__tier_loop *on, const ag_cache_key *k);
void ag__tier_drop_all(ag__tier_loop *on); /* what waits; its worker is done */

#endif
