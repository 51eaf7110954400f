/* responses_store.h - answers of /v1/responses that are kept, each by its tenant and id: in a file (SQLite, WAL mode)
 * or in memory. Of each there is the answer as it is told, and the conversation that led to it; both are JSON.
 * Owns    : the connection. One server has a file to itself. What get gives is the caller's to give back.
 * Threads : any, one at a time inside. All of it may read or write the disk: never on an I/O loop.
 * Limits  : ag_responses_conf. When too many would be kept the oldest of the tenant with the most goes, when too much,
 *           of the one with the most bytes; what is older than keep_s is not found any more, and goes with the next one
 *           that is kept.
 * Errors  : AG_E_RESPONSE_NOT_FOUND (another tenant's too); AG_E_LIMIT: larger than all may be together;
 *           AG_E_RESPONSES: damaged, full, not to be written; AG_E_NOMEM. open: also AG_E_USAGE, a file of another
 *           program or a later version. */
#ifndef AG_RESPONSES_STORE_H
#define AG_RESPONSES_STORE_H

#include "base/buf.h"
#include "base/err.h"

typedef struct ag_responses ag_responses;

typedef struct ag_responses_conf {
    const char *path; /* made where it is not there; NULL or "": kept in memory */
    uint64_t max, bytes_max, keep_s;
} ag_responses_conf;

typedef struct ag_stored {
    bool finished;
    ag_buf body, items;
} ag_stored;

int ag_responses_open(ag_responses **out, const ag_responses_conf *conf, ag_err *err);
void ag_responses_close(ag_responses *s); /* NULL is fine */

/* finished false: it is under way, and ag_responses_finish will say how it ended. */
int ag_responses_put(ag_responses *s, const char *tenant, const char *id, uint64_t now_s, bool finished, ag_str body,
                     ag_str items, ag_err *err);
/* One that is not there any more stays away. */
int ag_responses_finish(ag_responses *s, const char *tenant, const char *id, ag_str body, ag_err *err);
/* Fills *out, which ag_stored_fini gives back on success and failure alike. */
int ag_responses_get(ag_responses *s, const char *tenant, const char *id, uint64_t now_s, ag_stored *out, ag_err *err);
int ag_responses_delete(ag_responses *s, const char *tenant, const char *id, uint64_t now_s, ag_err *err);
void ag_stored_fini(ag_stored *a);

uint64_t ag_responses_count(ag_responses *s); /* any thread, without waiting: as of the last change */
uint64_t ag_responses_bytes(ag_responses *s);

#endif
