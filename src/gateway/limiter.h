/* limiter.h - where limits are judged: in this server's meters, or, with Redis, in one place for all that use it. A
 * request asks once for itself and once for its prompt, and is told at once or later, on its loop.
 * Shared  : one script call (limits.lua) takes a request of all its subjects that have limits, a second one its
 *           prompt's tokens where tokens are limited. Tokens of answers, and who has left, follow every
 *           AG_LIMITER_TICK_MS.
 * Alone   : while Redis is away, slow or broken, each limit, and of a budget what was left when Redis spoke last, is
 *           divided by the servers that were alive by the last count, and this server's meters, which follow all the
 *           while, judge by that share. A request waits for Redis no longer than its timeout, once, and is never
 *           refused because of it.
 * Owns    : the meters; a Redis client on each loop, which ends with the loop; what is owed to Redis.
 * Threads : open, join and close by the owner's thread; a call by its request's loop.
 * Limits  : AG_LIMITER_OWED_MAX subjects whose tokens wait on a loop; past it, and where Redis loses them, what is owed
 *           is forgotten there and not here. Keys of Redis expire when their buckets are full; budgets after 40 days.
 * Errors  : a call's rc, as of ag_meters_enter and ag_meters_prompt. */
#ifndef AG_LIMITER_H
#define AG_LIMITER_H

#include "keys/meters.h"
#include "net/redis.h"
#include "observe/log.h"
#include "observe/metrics.h"

#define AG_LIMITER_TICK_MS 20
#define AG_LIMITER_OWED_MAX 1024
#define AG_LIMITER_PREFIX_MAX 63

typedef struct ag_limiter ag_limiter;
typedef struct ag_limiter_loop ag_limiter_loop; /* NULL: nothing is shared */

typedef struct ag_limiter_conf {
    const char *redis;                    /* a URL (redis.h); NULL or "": nothing is shared */
    const char *password, *password_file; /* in place of the URL's; a file with it on the first line. NULL, "": none */
    ag_redis_files files;                 /* of rediss:// */
    const char *prefix;                   /* of its keys there */
    uint32_t timeout_ms;
} ag_limiter_conf;

typedef struct ag_limiter_call { /* a request's; zeroed before it enters */
    ag_ticket ticket;
    ag_limits full[AG_METER_KIND_COUNT]; /* as they were set; the ticket may have shares of them */
    ag_limiter *limiter;
    ag_limiter_loop *loop;
    ag_meter_time when;
    uint64_t tokens, asked_us;
    bool shared; /* with Redis, and it has limits */
    bool alone;  /* Redis has failed it, and is not waited for again */
    int rc;
    ag_refusal why;
    ag_meter_views views;
    void (*done)(void *arg);
    void *arg;
} ag_limiter_call;

int ag_limiter_open(ag_limiter **out, const ag_limiter_conf *conf, ag_metrics *metrics, ag_log *log, ag_err *err);
int ag_limiter_join(ag_limiter *l, ag_http_server *s, ag_err *err); /* before the loops start */
void ag_limiter_close(ag_limiter *l); /* after they have ended; NULL is fine */
ag_meters *ag_limiter_meters(ag_limiter *l);
void ag_limiter_metrics(ag_limiter *l); /* sets the gauge; before each scrape, by any thread */
ag_limiter_loop *ag_limiter_on(ag_limiter *l, uint32_t loop);

/* true: rc, why and views say what came of it. false: they will, when `done` is called; until then the call stays. */
bool ag_limiter_enter(ag_limiter *l, ag_limiter_call *c, const char *const names[AG_METER_KIND_COUNT]);
bool ag_limiter_prompt(ag_limiter_call *c, uint64_t tokens, ag_meter_time when);
void ag_limiter_prompt_undo(ag_limiter_call *c, uint64_t tokens);
void ag_limiter_output(ag_limiter_call *c, uint64_t tokens, ag_meter_time when);
void ag_limiter_leave(ag_limiter_call *c); /* fine when it did not enter */

#endif
