/* ids.h - the requests that wait or run, by the id that their callers know them by (x-request-id), across all loops.
 * A caller finds only its own: the tenant is part of the key. Of two requests with one id the newer is found; the older
 * is again once that has gone.
 * Owns    : its buckets. Requests put themselves in and take themselves out, on their own loop; nothing is allocated.
 * Threads : any. `use` runs under the table's lock, so that the request cannot go meanwhile: it must be quick, may
 *           touch only what other threads may (its generations by ag_gen_wait_get, _move, _cancel; its atomics), and
 *           must not come back here.
 * Limits  : as many as there are requests.
 * Errors  : open: AG_E_NOMEM. */
#ifndef AG_IDS_H
#define AG_IDS_H

#include "base/err.h"

typedef struct ag_ids ag_ids;
typedef struct ag_req ag_req;

typedef struct ag_ids_link { /* part of a request */
    ag_req *r;
    const char *tenant, *id; /* the request's, which outlive its place here */
    struct ag_ids_link *next, **at; /* at NULL: not in the table */
} ag_ids_link;

int ag_ids_open(ag_ids **out);
void ag_ids_close(ag_ids *t); /* asserts that it is empty; NULL is fine */
void ag_ids_add(ag_ids *t, ag_ids_link *link);
void ag_ids_remove(ag_ids *t, ag_ids_link *link); /* fine when it is not in */
/* Every one, each under the lock. */
void ag_ids_each(ag_ids *t, void (*use)(ag_req *r, void *arg), void *arg);
/* false: there is none of that tenant. */
bool ag_ids_use(ag_ids *t, const char *tenant, const char *id, void (*use)(ag_req *r, void *arg), void *arg);

#endif
