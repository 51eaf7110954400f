/* guard.h - who may come in: names that mean this machine, origins, keys; and the ids that a request carries.
 * Owns    : ag_origins owns its list; the rest nothing.
 * Threads : any; an ag_origins and an ag_auth are read-only after they were filled.
 * Limits  : AG_ORIGINS_MAX origins, ids of AG_ID_MAX bytes.
 * Errors  : ag_origins_parse: AG_E_USAGE, AG_E_NOMEM. Everything else answers yes or no. */
#ifndef AG_GUARD_H
#define AG_GUARD_H

#include "base/err.h"

#define AG_ORIGINS_MAX 64
#define AG_ID_MAX 128

/* The value of a Host header: localhost, 127.0.0.0/8 or [::1], with any port or none. */
bool ag_host_is_loopback(ag_str host);
/* An address or name to listen on. */
bool ag_address_is_loopback(const char *host);

typedef struct ag_origins {
    char *text;
    ag_str list[AG_ORIGINS_MAX];
    uint32_t n;
    bool any; /* "*" */
} ag_origins;

int ag_origins_parse(ag_origins *o, const char *text, ag_err *err); /* comma-separated; NULL: none */
void ag_origins_fini(ag_origins *o);
bool ag_origins_has(const ag_origins *o, ag_str origin);
/* A page that this server itself sent: the origin's host and port are those of the Host header. */
bool ag_origin_is_own(ag_str origin, ag_str host);

/* One static key, kept only as a keyed hash; compared in constant time. */
typedef struct ag_auth {
    bool on;
    uint8_t salt[32], hash[32];
} ag_auth;

void ag_auth_set(ag_auth *a, const char *key); /* NULL or "": off */
bool ag_auth_check_key(const ag_auth *a, ag_str key);
ag_str ag_bearer(ag_str authorization); /* KEY of "Bearer KEY"; p NULL: it is none */

bool ag_media_is_json(ag_str content_type); /* application/json, with any parameters; charset, if said, utf-8 */


/* A client's x-request-id is kept when it is printable ASCII of at most AG_ID_MAX bytes, else one is made. */
void ag_request_id(char out[AG_ID_MAX + 1], ag_str given);
/* W3C traceparent; false: not valid, and `trace` is then a new id. */
bool ag_trace_id(char trace[33], ag_str traceparent);
/* For ids and seeds, not for keys; n: at most 1024. */
void ag_random_bytes(void *out, size_t n);
void ag_random_hex(char *out, uint32_t bytes); /* 2 * bytes digits and a NUL */

#endif
