/* keyring.h - the keys as a server has them: all of them in memory, so that a request's key is found without the disk,
 * known here or not; and a thread, the keeper, that sees within a second what others changed in the file.
 * Owns    : a connection to the database, the table of keys, the keeper; usage that is not written yet (usage.h).
 * Threads : open and close by the owner's thread; check, limits and usage from any, never waiting for the disk;
 *           ag_keyring_job from workers only: it reads and writes the disk. A key that check gave is its caller's to
 *           put.
 * Limits  : those of keys_db.h and usage.h; the file is looked at, and usage is written, every AG_KEYRING_POLL_MS.
 * Errors  : open: as ag_keys_db_open. check: AG_E_AUTH, and AG_E_KEYS when the file could not be read for
 *           AG_KEYRING_STALE_MS: whoever may have been revoked meanwhile is not let in. */
#ifndef AG_KEYRING_H
#define AG_KEYRING_H

#include "keys/usage.h"

#define AG_KEYRING_POLL_MS 250
#define AG_KEYRING_STALE_MS 2000

typedef struct ag_keyring ag_keyring;

typedef struct ag_keyring_conf {
    const char *path, *secret_path; /* secret_path NULL or "": PATH.secret */
    void (*note)(void *arg, bool bad, const char *text); /* what is worth a log line; from the keeper. NULL: nobody */
    /* Called by open for each row of this month's usage so far; NULL: not wanted. */
    void (*used)(void *arg, const ag_usage_row *row);
    void *arg; /* of both */
} ag_keyring_conf;

int ag_keyring_open(ag_keyring **out, const ag_keyring_conf *conf, ag_err *err);
void ag_keyring_close(ag_keyring *r); /* writes the usage that waits; NULL is fine */

/* What came of a key, for metrics; callers of ours are told less. */
#define AG_KEY_FATES(X)                                                                                              \
    X(OK, "ok")                                                                                                     \
    X(MISSING, "missing")                                                                                           \
    X(UNKNOWN, "unknown")                                                                                           \
    X(WRONG, "wrong")                                                                                               \
    X(EXPIRED, "expired")                                                                                           \
    X(REVOKED, "revoked")                                                                                           \
    X(TOKEN, "token")       /* a JWT that will not do (jwt.h) */                                                    \
    X(STALE, "unavailable")
typedef enum ag_key_fate {
#define X(name, text) AG_KEY_##name,
    AG_KEY_FATES(X)
#undef X
    AG_KEY_FATE_COUNT
} ag_key_fate;

/* AG_KEY_OK: *out is the key, held until ag_key_put. */
ag_key_fate ag_keyring_check(ag_keyring *r, ag_str text, uint64_t wall_s, ag_key **out);
void ag_key_put(ag_key *k); /* NULL is fine */

/* Limits of "tenant:NAME" and the like (true: it has its own), or of "tenant:*"; all zero where there are none. */
bool ag_keyring_limits(ag_keyring *r, const char *kind, const char *name, ag_limits *out);
uint64_t ag_keyring_keys(ag_keyring *r); /* that are neither revoked nor expired by their table's time */

ag_usage *ag_keyring_usage(ag_keyring *r); /* to add to; it is written by the keeper, and by close */

/* Runs `work` with a connection of its own, then takes over what it changed before it returns. */
int ag_keyring_job(ag_keyring *r, int (*work)(void *arg, ag_keys_db *db, ag_err *err), void *arg, ag_err *err);

#endif
