/* caching.h - the response cache as the gateway uses it: which requests are looked up, under which key, what is kept of
 * their answers and what callers are told. The cache itself is cache/cache.h; generations under way that others may
 * follow, flights.h; what is kept of an answer, record.h; what servers share, tier.h.
 * Owns    : the cache and the flights; of a request the answers that were found for it, until they are its choices'.
 * Threads : a gateway's is constant once it has an engine, but for what its parts say; a request's belongs to its loop.
 * Limits  : ag_caching_conf; AG_RENEWALS_MAX stale answers are computed anew at once, others stay stale.
 * Errors  : open: AG_E_USAGE, AG_E_NOMEM. A request never fails for the cache's sake: what cannot be found or kept is
 *           computed. */
#ifndef AG_CACHING_H
#define AG_CACHING_H

#include "cache/cache.h"
#include "gateway/dialects/request.h"
#include "gateway/flights.h"
#include "gateway/tier.h"
#include "observe/metrics.h"

#define AG_RENEWALS_MAX 64u

typedef struct ag_renewal ag_renewal;

typedef struct ag_caching_conf {
    uint64_t bytes_max;     /* 0: there is no cache */
    const char *policy;     /* a word of cache/policies.def; NULL: the default */
    const char *secret;     /* what keys are hashed under; NULL or "": a random one, of this process */
    uint32_t ttl_s, jitter; /* how long an answer is fresh, and by how many hundredths of it less */
    uint32_t stale_s;       /* and how long after that it is told while it is computed anew */
    uint32_t pace;          /* tokens a second of a streamed one; 0: at once */
    const char *redis;      /* where servers with the same secret share them (tier.h); NULL or "": nowhere */
    uint32_t redis_timeout_ms, redis_lock_ms;
    uint64_t redis_queue_bytes;
} ag_caching_conf;

typedef struct ag_caching {
    ag_cache *cache;        /* NULL: there is none, and the rest is unused */
    ag_flights *flights;
    uint8_t secret[32];
    uint64_t model;         /* what its answers depend on; written before engine is published */
    uint64_t model_label;
    _Atomic uint32_t damage; /* of its weights (engine.h), as far as those who share its answers were told */
    uint64_t ttl_ms, stale_ms;
    uint32_t jitter, pace;
    _Atomic uint32_t renewals;
    ag_tier *tier;          /* NULL: none is shared */
} ag_caching;

int ag_caching_open(ag_caching *c, const ag_caching_conf *conf, ag_err *err);
void ag_caching_close(ag_caching *c); /* fine when it was never opened */

typedef enum ag_caching_told {
    AG_TOLD_NOTHING,
    AG_TOLD_MISS,
    AG_TOLD_HIT,
    AG_TOLD_COALESCED,
    AG_TOLD_STALE
} ag_caching_told;

typedef struct ag_sharing { /* a request's lookup in what servers share */
    enum { AG_SHARING_IDLE, AG_SHARING_ASKS, AG_SHARING_JOINED, AG_SHARING_TOLD } state;
    ag_tier_call call;
    bool listed;            /* others of its loop who ask the same wait for what comes of it */
    bool owes;              /* its server may hold the lock, and nobody would give it back */
    struct ag_req *next, **at; /* among those listed, or those who joined one */
    struct ag_req *joined;
} ag_sharing;

typedef struct ag_req_caching {
    ag_caching_mode head;   /* what Cache-Control says */
    bool finds, keeps;      /* it is looked up; what comes of it is kept */
    ag_caching_told told;
    uint32_t damage;        /* of the weights when its key was made, which it is in */
    bool renews;            /* what was found is stale, and nobody computes it anew yet */
    ag_cache_key key;
    char key_text[2 * AG_CACHE_KEY_BYTES + 1], age[24];
    ag_gen **found;         /* the answers, until they are the choices' */
    uint32_t n_found;
    ag_flight *flight;
    ag_sharing sharing;
    uint64_t told_us;       /* since when they are told, at a pace */
} ag_req_caching;

#endif
