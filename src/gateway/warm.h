/* warm.h - warm-up: what the access log (history.h) says is asked for most is asked again, so that it is in the
 * response cache, and its beginning in the cache of prefixes, before somebody waits for it. All of it at the start,
 * while the server is not ready yet, or when it is asked for; and, while the engine has nothing else to do, what became
 * popular and is not (or no longer) there. Such a request has no client; it is its tenant's, of the least urgent band,
 * counts in nobody's limits, and whoever asks the same meanwhile follows it.
 * Owns    : its thread, the requests that it has under way.
 * Threads : open, start, stop, close by the gateway's owner; halt, begin, get, yield from any. Its requests live on the
 *           first loop, which its thread sends a message.
 * Limits  : ag_warm_conf.
 * Errors  : open: AG_E_USAGE, AG_E_NOMEM, AG_E_INTERNAL. A request that fails is counted, no more. */
#ifndef AG_WARM_H
#define AG_WARM_H

#include "gateway/history.h"

#define AG_WARM_TOP_MAX 65536u
#define AG_WARM_CONCURRENCY_MAX 256u

typedef struct ag_gateway ag_gateway;
typedef struct ag_req ag_req;
typedef struct ag_warm ag_warm;
typedef struct ag_warm_job ag_warm_job;

typedef struct ag_warm_conf {
    bool full, idle;       /* at the start, before it is ready; then in idle time */
    uint32_t top;          /* of the most frequent, so many */
    uint32_t concurrency;  /* at once, in a full one */
    uint32_t time_ms;      /* that a full one may take */
} ag_warm_conf;

typedef struct ag_warm_state {
    bool running;          /* a full one is under way */
    uint64_t wanted, done; /* of that one, or the last */
    uint64_t by[AG_WARMED_COUNT]; /* what became of all, since the start */
} ag_warm_state;

int ag_warm_open(ag_warm **out, ag_gateway *gw, const ag_warm_conf *conf, ag_err *err); /* the gateway has its loops */
int ag_warm_start(ag_warm *w, ag_err *err); /* there is an engine; NULL is fine, as it is below */
bool ag_warm_pending(const ag_warm *w);     /* the first full one is not over */
bool ag_warm_begin(ag_warm *w);             /* a full one, from now; false: one is under way */
void ag_warm_get(ag_warm *w, ag_warm_state *out);
void ag_warm_halt(ag_warm *w);              /* nothing more is begun; returns at once */
void ag_warm_stop(ag_warm *w);              /* what is under way is broken off, and gone; the loops still run */
void ag_warm_close(ag_warm *w);

/* Somebody's request is about to be computed: what runs in idle time gives way. */
void ag_warm_yield(ag_warm *w);
void ag_warm_message(ag_warm *w);           /* on the first loop: there is something to do */
void ag_warm_ended(ag_warm_job *j, const ag_req *r); /* on the first loop: its request is gone after this */

#endif
