/* cache.h - answers in memory: bytes found by a 256-bit key, within a bound in bytes, until they are too old. Who goes
 * when there is no room is a policy's choice (policies.def); whoever is too old goes before anybody else.
 * Owns    : its entries. A value is counted: whoever got one holds it until ag_cache_value_drop, whatever the cache
 *           does meanwhile.
 * Threads : any, all calls. A shard's lock is held for one entry's work, or a handful's: what takes longer (room for
 *           a large value, a purge) is done in pieces, and memory is given back outside of it.
 * Limits  : bytes_max in all, bookkeeping counted; an entry, its value included, of at most a shard's eighth. Every
 *           call but the purges is O(1), amortized over the bytes that a put displaces.
 * Errors  : AG_E_NOMEM, AG_E_PARAM, AG_E_LIMIT; a cache that cannot keep something serves on. */
#ifndef AG_CACHE_H
#define AG_CACHE_H

#include "base/err.h"

#define AG_CACHE_KEY_BYTES 32
#define AG_CACHE_LABELS_MAX 8           /* model, tenant or group, and the caller's tags */
#define AG_CACHE_BYTES_MIN (256u << 10) /* of a shard */
#define AG_CACHE_BYTES_MAX (1ull << 40)
#define AG_CACHE_SHARDS_MAX 256u

typedef struct ag_cache ag_cache;
typedef struct ag_cache_value ag_cache_value;
typedef struct ag_cache_key {
    uint8_t b[AG_CACHE_KEY_BYTES]; /* evenly distributed: a hash (key.h) */
} ag_cache_key;

/* Counted once, for the caller, who writes its bytes before anybody else has it. Of 2 GiB and more: AG_E_LIMIT. */
int ag_cache_value_make(ag_cache_value **out, size_t n);
uint8_t *ag_cache_value_bytes(ag_cache_value *v);
size_t ag_cache_value_size(const ag_cache_value *v);
ag_cache_value *ag_cache_value_hold(ag_cache_value *v);
void ag_cache_value_drop(ag_cache_value *v); /* NULL is fine */

typedef struct ag_cache_meta {
    uint64_t made_ms, fresh_until_ms, stale_until_ms; /* wall clock; stale_until >= fresh_until */
    uint64_t labels[AG_CACHE_LABELS_MAX];             /* 0: unused; purges name one */
    uint32_t hits;                                    /* told by get, that one included */
} ag_cache_meta;

typedef struct ag_cache_conf {
    const char *policy; /* a row of policies.def; NULL: s3-fifo */
    uint64_t bytes_max;
    uint32_t shards;    /* 0: chosen by bytes; a power of two */
} ag_cache_conf;

typedef enum ag_cache_found {
    AG_CACHE_MISS,
    AG_CACHE_FRESH,
    AG_CACHE_STALE,         /* and the caller is the one who renews it: by a put, or ag_cache_renew_failed */
    AG_CACHE_STALE_RENEWING /* somebody does already */
} ag_cache_found;

int ag_cache_open(ag_cache **out, const ag_cache_conf *conf, ag_err *err);
void ag_cache_close(ag_cache *c); /* NULL is fine; nobody is in a call */

/* Unless it is a miss, *out is held for the caller and *meta (may be NULL) says how old it is; else *out is NULL. */
ag_cache_found ag_cache_get(ag_cache *c, const ag_cache_key *k, uint64_t now_ms, ag_cache_value **out,
                            ag_cache_meta *meta);
bool ag_cache_has(ag_cache *c, const ag_cache_key *k, uint64_t now_ms); /* and not too old; counts for nothing */
void ag_cache_renew_failed(ag_cache *c, const ag_cache_key *k); /* the next stale get renews */
/* Holds v itself. What was there under this key goes, its popularity stays. AG_E_PARAM: it is too old already. */
int ag_cache_put(ag_cache *c, const ag_cache_key *k, ag_cache_value *v, const ag_cache_meta *meta, uint64_t now_ms);

bool ag_cache_purge_key(ag_cache *c, const ag_cache_key *k);
/* How many went. They walk shard by shard, in pieces: what is put while they do may stay. */
uint64_t ag_cache_purge_label(ag_cache *c, uint64_t label);
uint64_t ag_cache_purge_all(ag_cache *c);
/* By key; or, with k NULL, by label; or, with label 0 too, all. */
uint64_t ag_cache_purge(ag_cache *c, const ag_cache_key *k, uint64_t label);

typedef struct ag_cache_stats {
    uint64_t entries, bytes, bytes_max;
    uint64_t hits, stale, misses; /* gets; a stale answer is no hit */
    uint64_t puts, refused;       /* puts that were kept; that were not */
    uint64_t evicted, expired, purged;
} ag_cache_stats;
void ag_cache_stats_get(ag_cache *c, ag_cache_stats *out);

#endif
