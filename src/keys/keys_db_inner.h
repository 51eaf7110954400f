/* keys_db_inner.h - inside this folder: what the files of the database share. See keys_db.h for the contract. */
#ifndef AG_KEYS_DB_INNER_H
#define AG_KEYS_DB_INNER_H

#include <sqlite3.h>

#include "keys/keys_db.h"

struct ag_keys_db {
    sqlite3 *sql;
    char *path, *secret_path;
    ag_key_secret secret;
    uint64_t data_version, changes;
    bool wrote; /* keys or limits, by this connection, since the version was asked for */
};

int ag__db_fail(ag_keys_db *db, ag_err *err); /* the sentence for what SQLite said last */
int ag__db_exec(ag_keys_db *db, const char *sql, ag_err *err);
sqlite3_stmt *ag__db_prepare(ag_keys_db *db, const char *sql, ag_err *err); /* NULL: err says why */
int ag__db_number(ag_keys_db *db, const char *sql, uint64_t *out,
                  ag_err *err); /* the first column of the first row, or 0 */
int ag__db_begin(ag_keys_db *db, ag_err *err);
/* Commits when rc is AG_OK, else undoes everything since begin; rc, or what went wrong with that. */
int ag__db_end(ag_keys_db *db, int rc, bool keys_changed, ag_err *err);

#endif
