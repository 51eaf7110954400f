/* keys_db.h - the file of keys, limits and usage: SQLite, in WAL mode, so that a server reads while a command writes.
 * Owns    : a connection, the secret. What callbacks are shown lives until they return.
 * Threads : one at a time per ag_keys_db; each thread that needs one opens its own. Everything here reads or writes the
 *           disk and may wait BUSY_MS for another program: never on an I/O loop.
 * Limits  : AG_KEYS_MAX keys, AG_KEYS_LIMITS_MAX rows of limits, names of key.h.
 * Errors  : AG_E_KEYS: damaged, locked, full, not to be written; AG_E_USAGE: a file of another program, of a later
 *           version, or whose secret is not the one given; AG_E_KEY_NOT_FOUND, AG_E_PARAM, AG_E_LIMIT, AG_E_NOMEM,
 *           AG_E_IO. */
#ifndef AG_KEYS_DB_H
#define AG_KEYS_DB_H

#include "keys/key.h"

#define AG_KEYS_MAX 65536
#define AG_KEYS_LIMITS_MAX (2 * AG_KEYS_MAX)
#define AG_KEYS_MODEL_MAX AG_KEY_MODEL_MAX
#define AG_KEYS_DAY_BYTES 10 /* "2026-11-29", UTC */

typedef struct ag_keys_db ag_keys_db;

/* Makes the file and its tables where there are none, and (with it) the secret's; secret_path NULL: PATH.secret. */
int ag_keys_db_open(ag_keys_db **out, const char *path, const char *secret_path, ag_err *err);
void ag_keys_db_close(ag_keys_db *db); /* NULL is fine */
/* What is written from now on may be lost when the machine loses its power, not when the process ends: for usage. */
int ag_keys_db_relax(ag_keys_db *db, ag_err *err);
const ag_key_secret *ag_keys_db_secret(const ag_keys_db *db);

/* Fills in id, hash and created_s of a key whose other fields are checked; its limits are stored too. */
int ag_keys_db_create(ag_keys_db *db, ag_key *key, char text[AG_KEY_TEXT_BYTES + 1], ag_err *err);
int ag_keys_db_get(ag_keys_db *db, const char *id, ag_key *key, ag_err *err);
/* By the time they were made, revoked ones too. `each` answers false to end it. */
int ag_keys_db_list(ag_keys_db *db, bool (*each)(void *arg, const ag_key *k), void *arg, ag_err *err);
int ag_keys_db_rotate(ag_keys_db *db, const char *id, char text[AG_KEY_TEXT_BYTES + 1],
                      ag_err *err); /* the old one ends */
int ag_keys_db_revoke(ag_keys_db *db, const char *id, ag_err *err); /* fine when it is revoked already */

/* Limits are of a subject: "key:ID", "tenant:NAME", "model:NAME", or "tenant:*", "model:*", "address:*" for each that
 * has none of its own. */
bool ag_keys_subject_ok(ag_str subject);
int ag_keys_db_limits_get(ag_keys_db *db, const char *subject, ag_limits *l, ag_err *err); /* none: all zero */
int ag_keys_db_limits_set(ag_keys_db *db, const char *subject, const ag_limits *l,
                          ag_err *err); /* all zero: forgotten */
int ag_keys_db_limits_list(ag_keys_db *db, bool (*each)(void *arg, const char *subject, const ag_limits *l), void *arg,
                           ag_err *err);

/* What others may have changed: *version is another number when keys or limits are not what they were. Cheap. */
int ag_keys_db_version(ag_keys_db *db, uint64_t *version, ag_err *err);

typedef struct ag_usage_row {
    char key[AG_KEY_ID_MAX + 1], tenant[AG_KEY_NAME_MAX + 1], model[AG_KEYS_MODEL_MAX + 1], day[AG_KEYS_DAY_BYTES + 1];
    uint64_t requests, prompt_tokens, output_tokens;
} ag_usage_row;

int ag_keys_db_usage_add(ag_keys_db *db, const ag_usage_row *rows, uint32_t n, ag_err *err); /* all of them or none */
/* By day, key and model, from `from` to `to` (days, NULL: open), of one key, tenant or model (NULL: all). */
typedef struct ag_usage_filter {
    const char *from, *to, *key, *tenant, *model;
} ag_usage_filter;
int ag_keys_db_usage_list(ag_keys_db *db, const ag_usage_filter *f, bool (*each)(void *arg, const ag_usage_row *r),
                          void *arg, ag_err *err);

void ag_keys_day(uint64_t wall_s, char day[AG_KEYS_DAY_BYTES + 1]);
bool ag_keys_day_ok(const char *day);

#endif
