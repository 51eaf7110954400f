/* tier.h - the cache's second tier: a Redis that several servers share. What one of them computed the others find, and
 * while one computes the others wait for it.
 * Lookups : one script call (tier.lua) each, which brings the answer, or takes the lock of its key, or finds it taken;
 *           then it is asked again after 5 ms, 10 ms ... 100 ms, until the answer is there, or the lock comes to us, or
 *           this server computes it itself, or lock_ms are over. What is no answer of ours (tier_value.h), or was
 *           purged, or is too old, is a miss.
 * Stores  : write-behind: packed by a worker, some at a time, and sent together. The next lot waits for their answers.
 * Purges  : hold at once here, and within a second or so at whoever shares the Redis, or when they reach it again. They
 *           go by the servers' clocks.
 * Away    : while Redis is slow or loading a lookup costs timeout_ms, and after AG_REDIS_FAILS of them, or without a
 *           connection, nothing: a miss. Lookups and stores have a connection each, so that a Redis that takes nothing
 *           (full, a replica) is still read, and a large value delays nobody.
 * Owns    : two Redis clients on each loop, which end with it; what waits to be stored; the table of purges.
 * Threads : open, join and close by the owner's thread; all else by the loop that is named.
 * Limits  : queue_bytes and AG_TIER_QUEUE_MAX stores a loop that wait, beyond which they are dropped and counted;
 *           AG_TIER_WAITS_MAX lookups a loop that wait for another server; AG_TIER_VALUE_MAX bytes of an answer.
 * Errors  : open and join: AG_E_USAGE, AG_E_IO (the password file), AG_E_NOMEM. No call but those fails. */
#ifndef AG_TIER_H
#define AG_TIER_H

#include "cache/cache.h"
#include "net/redis.h"
#include "observe/log.h"
#include "observe/metrics.h"

#define AG_TIER_QUEUE_MAX 4096
#define AG_TIER_WAITS_MAX 4096

typedef struct ag_tier ag_tier; /* NULL: none; every call takes that */
typedef struct ag__tier_find ag__tier_find;

typedef struct ag_tier_conf {
    const char *redis;                    /* a URL (net/redis.h) */
    const char *password, *password_file; /* in place of the URL's; a file with it on the first line. NULL, "": none */
    ag_redis_files files;                 /* of rediss:// */
    const char *prefix;                   /* of its keys there */
    const uint8_t *secret;                /* 32 bytes that the servers share: with another one all is foreign */
    uint32_t timeout_ms;                  /* of a lookup */
    uint32_t lock_ms;                     /* how long others wait for who computes; 0: not at all */
    uint64_t queue_bytes;
    uint64_t ttl_max_ms;                  /* no answer lives longer; 0: 7 days */
    /* Another server has purged: a key; or a label; or all (NULL and 0). On that loop's thread; NULL: nobody. */
    void (*purged)(void *arg, uint32_t loop, const ag_cache_key *k, uint64_t label);
    void *purged_arg;
} ag_tier_conf;

typedef enum ag_tier_result {
    AG_TIER_MISS, /* not there, away, late, damaged: compute it */
    AG_TIER_HIT,
    AG_TIER_OURS  /* a miss, and this server holds the lock: others wait for its put or give_up */
} ag_tier_result;

typedef struct ag_tier_call { /* a request's, zeroed; stays until done was called or ag_tier_leave */
    ag_tier_result result;
    ag_cache_value *value; /* of a hit: held for the caller */
    ag_cache_meta meta;
    uint64_t until_us; /* of ag_now_us: it waits for no other server any longer; 0: for lock_ms */
    bool (*computed_here)(void *arg); /* true: by now it is, and who waits for it has a miss. NULL: it is not */
    void (*done)(void *arg);
    void *arg;
    ag__tier_find *find;
} ag_tier_call;

int ag_tier_open(ag_tier **out, const ag_tier_conf *conf, ag_metrics *metrics, ag_log *log, ag_err *err);
int ag_tier_join(ag_tier *t, ag_http_server *s, ag_err *err); /* before the loops start */
void ag_tier_close(ag_tier *t);                               /* after they have ended, or never started */

/* true: c->result says. false: it will when `done` is called, once, on this loop: within timeout_ms, or, where another
 * server computes the same, when its answer is there or lock_ms are over. */
bool ag_tier_find(ag_tier *t, uint32_t loop, const ag_cache_key *k, uint64_t now_ms, ag_tier_call *c);
void ag_tier_leave(ag_tier_call *c); /* nobody waits for it any more; fine when nobody did */
/* Holds v itself; gives the lock back. */
void ag_tier_put(ag_tier *t, uint32_t loop, const ag_cache_key *k, ag_cache_value *v, const ag_cache_meta *meta);
/* After OURS, or a miss that may have come too late to say so: nothing came of it, others compute. */
void ag_tier_give_up(ag_tier *t, uint32_t loop, const ag_cache_key *k);
void ag_tier_metrics(ag_tier *t); /* sets the gauges; before each scrape, by any thread */
/* A key; or a label; or all (NULL and 0). */
void ag_tier_purge(ag_tier *t, uint32_t loop, const ag_cache_key *k, uint64_t label);

#endif
