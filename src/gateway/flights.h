/* flights.h - generations that are under way, by the key of what they answer: whoever asks the same meanwhile follows
 * them in place of having it computed again.
 * Owns    : flights, and in them a reference to each generation. A flight is found while it is listed, and lives until
 *           nobody holds it.
 * Threads : any; a flight's fields belong to whoever has entered at its key, but for the atomic ones.
 * Limits  : as many as there are requests and renewals.
 * Errors  : open, add: AG_E_NOMEM. */
#ifndef AG_FLIGHTS_H
#define AG_FLIGHTS_H

#include <stdatomic.h>

#include "cache/cache.h"
#include "engine/gen.h"

typedef struct ag_flights ag_flights;

typedef struct ag_flight {
    ag_cache_key key;
    struct ag_flight *next;
    bool listed;
    uint32_t holders;
    _Atomic bool kept;           /* somebody keeps what came of it, or did */
    _Atomic(void *) payer;       /* the request in whose limits its tokens count; NULL: the next one that looks */
    _Atomic uint64_t paid;       /* tokens that were counted so far, */
    _Atomic bool prompt_paid;    /* and whether its prompts were */
    uint32_t n;
    ag_gen *gens[];              /* leaders (gen.h) */
} ag_flight;

int ag_flights_open(ag_flights **out);
void ag_flights_close(ag_flights *t); /* asserts that none is left; NULL is fine */

/* From enter to leave nobody else enters at this key. The flight that is listed under it; NULL: none. */
ag_flight *ag_flights_enter(ag_flights *t, const ag_cache_key *k);
void ag_flights_leave(ag_flights *t, const ag_cache_key *k);
/* [entered] Lists a new one, held once by the caller, in the place of one that is. It takes over the references to
 * gens. */
int ag_flights_add(ag_flights *t, const ag_cache_key *k, ag_gen *const *gens, uint32_t n, ag_flight **out);
void ag_flights_hold(ag_flight *f);                  /* [entered] */
void ag_flights_unlist(ag_flights *t, ag_flight *f); /* [entered] fine when it is not listed */

/* [not entered] true: nobody holds it any more, and nothing that came of it was kept. */
bool ag_flights_drop(ag_flights *t, ag_flight *f);
void ag_flights_landed(ag_flights *t, ag_flight *f); /* [not entered] it is no longer to be found */

#endif
