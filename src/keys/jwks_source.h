/* jwks_source.h - a set of public keys (JWKS) that lies at a URL: a thread of its own fetches it at the start, every
 * refresh_ms, when it is told to, and when a token named a key that the set has not.
 * Owns    : the thread and the last set that was good, which stays while the source is away.
 * Threads : open and close by the owner's thread, the rest by any; nothing here waits for the network.
 * Limits  : answers of AG_JWKS_BYTES in AG_JWKS_FETCH_MS; no redirects. What tokens name is fetched for once in
 *           AG_JWKS_MISS_MS at most, whatever they name; after a failure it is tried again after 1 s, 2 s ... 60 s.
 * Errors  : open: AG_E_USAGE (the URL: https, or http of this machine), AG_E_INTERNAL (the thread), AG_E_NOMEM. A
 *           source that fails is noted once, and once more when it is well again. */
#ifndef AG_JWKS_SOURCE_H
#define AG_JWKS_SOURCE_H

#include "keys/jwt.h"

#define AG_JWKS_FETCH_MS 10000
#define AG_JWKS_MISS_MS 5000

typedef struct ag_jwks_source ag_jwks_source;

typedef struct ag_jwks_source_conf {
    const char *url;
    uint32_t refresh_ms;
    void (*note)(void *arg, bool bad, const char *text); /* from the thread; NULL: nobody */
    void *arg;
} ag_jwks_source_conf;

bool ag_jwks_is_url(const char *text);
int ag_jwks_source_open(ag_jwks_source **out, const ag_jwks_source_conf *conf, ag_err *err);
void ag_jwks_source_close(ag_jwks_source *s); /* NULL is fine; breaks off what it fetches */
ag_jwks *ag_jwks_source_get(ag_jwks_source *s); /* to be freed; NULL: there was none yet */
void ag_jwks_source_missed(ag_jwks_source *s);  /* a token named a key that was not there */
void ag_jwks_source_refresh(ag_jwks_source *s); /* now */

#endif
