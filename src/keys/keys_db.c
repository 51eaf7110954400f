#include "keys/keys_db.h"

#include <fcntl.h>
#include <sodium.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

#include "base/mem.h"
#include "keys/keys_db_inner.h"

#define APPLICATION_ID 0x41474b31 /* "AGK1", in the file's header */
#define SCHEMA_VERSION 3
#define BUSY_MS 2000

#define AG_LIMIT(field, words, flag, max, what) ", " #field " INTEGER NOT NULL DEFAULT 0"
static const char schema[] =
    "CREATE TABLE meta(name TEXT PRIMARY KEY, value) WITHOUT ROWID;"
    "CREATE TABLE keys(id TEXT PRIMARY KEY, hash BLOB NOT NULL, name TEXT NOT NULL, tenant TEXT NOT NULL, roles "
    "INTEGER NOT NULL,"
    " models TEXT NOT NULL, band_min INTEGER NOT NULL, weight REAL NOT NULL, created INTEGER NOT NULL,"
    " rotated INTEGER NOT NULL, expires INTEGER NOT NULL, revoked INTEGER NOT NULL,"
    " share TEXT NOT NULL DEFAULT '', cache TEXT NOT NULL DEFAULT '') WITHOUT ROWID;"
    "CREATE TABLE limits(subject TEXT PRIMARY KEY"
#include "keys/limits.def"
    ") WITHOUT ROWID;"
    "CREATE TABLE usage(day TEXT NOT NULL, key TEXT NOT NULL, model TEXT NOT NULL, tenant TEXT NOT NULL,"
    " requests INTEGER NOT NULL, prompt_tokens INTEGER NOT NULL, output_tokens INTEGER NOT NULL,"
    " PRIMARY KEY(day, key, tenant, model)) WITHOUT ROWID;"
    "INSERT INTO meta VALUES('changes', 0);";
#undef AG_LIMIT

int ag__db_fail(ag_keys_db *db, ag_err *err)
{
    int code = sqlite3_errcode(db->sql) & 0xFF;
    const char *why = NULL;
    switch (code) {
    case SQLITE_NOMEM: return ag_err_set(err, AG_E_NOMEM, "There is no memory left for the keys database.");
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB: why = "is damaged or no database; bring it back from a copy"; break;
    case SQLITE_READONLY: why = "cannot be written: it or its folder is read-only"; break;
    case SQLITE_BUSY:
    case SQLITE_LOCKED: why = "is locked by another program; try again when that is done"; break;
    case SQLITE_FULL: why = "cannot grow: the disk is full"; break;
    case SQLITE_CANTOPEN:
    case SQLITE_PERM:
    case SQLITE_AUTH:
        why = "cannot be opened: it must be a file that this user may read and write, in a folder that is there";
        break;
    }
    if (why) return ag_err_set(err, AG_E_KEYS, "The keys database '%s' %s.", db->path, why);
    return ag_err_set(err, AG_E_KEYS, "The keys database '%s' cannot be used: %s.", db->path, sqlite3_errmsg(db->sql));
}

int ag__db_exec(ag_keys_db *db, const char *sql, ag_err *err)
{
    return sqlite3_exec(db->sql, sql, NULL, NULL, NULL) == SQLITE_OK ? AG_OK : ag__db_fail(db, err);
}

/* Prepared each time: these statements run a few times a second at most. */
sqlite3_stmt *ag__db_prepare(ag_keys_db *db, const char *sql, ag_err *err)
{
    sqlite3_stmt *st = NULL;
    if (sqlite3_prepare_v2(db->sql, sql, -1, &st, NULL) != SQLITE_OK) ag__db_fail(db, err);
    return st;
}

int ag__db_number(ag_keys_db *db, const char *sql, uint64_t *out, ag_err *err)
{
    sqlite3_stmt *st = ag__db_prepare(db, sql, err);
    if (st == NULL) return err ? err->code : AG_E_KEYS;
    int step = sqlite3_step(st), rc = AG_OK;
    if (step == SQLITE_ROW) *out = (uint64_t)sqlite3_column_int64(st, 0);
    else if (step == SQLITE_DONE) *out = 0;
    else rc = ag__db_fail(db, err);
    sqlite3_finalize(st);
    return rc;
}

int ag__db_begin(ag_keys_db *db, ag_err *err) { return ag__db_exec(db, "BEGIN IMMEDIATE", err); }

int ag__db_end(ag_keys_db *db, int rc, bool keys_changed, ag_err *err)
{
    if (rc == AG_OK && keys_changed)
        rc = ag__db_exec(db, "UPDATE meta SET value = value + 1 WHERE name = 'changes'", err);
    if (rc == AG_OK) rc = ag__db_exec(db, "COMMIT", err);
    if (rc != AG_OK) sqlite3_exec(db->sql, "ROLLBACK", NULL, NULL, NULL);
    return rc;
}

/* What leads from each version to the next, for files that older programs made. Newer tables are good for these too. */
static const char *const steps[SCHEMA_VERSION] = {
    [1] = "ALTER TABLE keys ADD COLUMN share TEXT NOT NULL DEFAULT ''",
    [2] = "ALTER TABLE keys ADD COLUMN cache TEXT NOT NULL DEFAULT ''",
};

static int set_version(ag_keys_db *db, ag_err *err)
{
    char sql[80];
    snprintf(sql, sizeof sql, "PRAGMA application_id = %d; PRAGMA user_version = %d", APPLICATION_ID, SCHEMA_VERSION);
    return ag__db_exec(db, sql, err);
}

/* The tables are made, or brought to the version that this program knows. */
static int check_schema(ag_keys_db *db, ag_err *err)
{
    uint64_t id = 0, version = 0, tables = 0;
    int rc = ag__db_begin(db, err);
    if (rc != AG_OK) return rc;
    rc = ag__db_number(db, "PRAGMA application_id", &id, err);
    if (rc == AG_OK) rc = ag__db_number(db, "PRAGMA user_version", &version, err);
    if (rc == AG_OK) rc = ag__db_number(db, "SELECT count(*) FROM sqlite_schema", &tables, err);
    if (rc == AG_OK && tables == 0) {
        rc = ag__db_exec(db, schema, err);
        if (rc == AG_OK) rc = set_version(db, err);
    } else if (rc == AG_OK && id != APPLICATION_ID) {
        rc = ag_err_set(err, AG_E_USAGE, "'%s' is a database of another program, not one of keys.", db->path);
    } else if (rc == AG_OK && (version == 0 || version > SCHEMA_VERSION)) {
        rc = ag_err_set(err, AG_E_USAGE, "The keys database '%s' is of version %llu; this program knows version %d.",
                        db->path, (unsigned long long)version, SCHEMA_VERSION);
    } else if (rc == AG_OK && version < SCHEMA_VERSION) {
        for (; rc == AG_OK && version < SCHEMA_VERSION; version++) rc = ag__db_exec(db, steps[version], err);
        if (rc == AG_OK) rc = set_version(db, err);
    }
    return ag__db_end(db, rc, false, err);
}

/* The database remembers a hash under its secret, so that another secret is told at once and not by 401s. */
static int check_secret(ag_keys_db *db, ag_err *err)
{
    uint8_t hash[32];
    ag_key_hash(&db->secret, AG_STR("autoglm keys"), hash);
    int rc = ag__db_begin(db, err);
    if (rc != AG_OK) return rc;
    sqlite3_stmt *st = ag__db_prepare(db, "SELECT value FROM meta WHERE name = 'secret'", err);
    int step = st ? sqlite3_step(st) : SQLITE_ERROR;
    bool none = step == SQLITE_DONE;
    if (step == SQLITE_ROW) {
        bool same = sqlite3_column_bytes(st, 0) == sizeof hash &&
                    sodium_memcmp(sqlite3_column_blob(st, 0), hash, sizeof hash) == 0;
        if (!same)
            rc = ag_err_set(err, AG_E_USAGE,
                            "'%s' is not the secret that the keys in '%s' were made with; name the right "
                            "one with --keys-secret.",
                            db->secret_path, db->path);
    } else if (!none) {
        rc = ag__db_fail(db, err);
    }
    sqlite3_finalize(st);
    if (rc == AG_OK && none) {
        if ((st = ag__db_prepare(db, "INSERT INTO meta VALUES('secret', ?)", err)) != NULL)
            sqlite3_bind_blob(st, 1, hash, sizeof hash, SQLITE_STATIC);
        if (st == NULL || sqlite3_step(st) != SQLITE_DONE) rc = ag__db_fail(db, err);
        sqlite3_finalize(st);
    }
    return ag__db_end(db, rc, false, err);
}

/* A secret is made only for a database that has no key yet: for others it was lost. */
static int load_secret(ag_keys_db *db, ag_err *err)
{
    uint64_t keys = 0;
    int rc = ag__db_number(db, "SELECT count(*) FROM keys", &keys, err);
    if (rc == AG_OK) rc = ag_key_secret_load(&db->secret, db->secret_path, keys == 0, err);
    return rc == AG_OK ? check_secret(db, err) : rc;
}

static char *secret_path_of(const char *path, const char *given)
{
    if (given && given[0]) return ag_mem_strndup(given, strlen(given));
    size_t n = strlen(path);
    char *p = ag_mem_alloc(n + sizeof ".secret");
    if (p) snprintf(p, n + sizeof ".secret", "%s.secret", path);
    return p;
}

int ag_keys_db_open(ag_keys_db **out, const char *path, const char *secret_path, ag_err *err)
{
    ag_keys_db *db = ag_mem_zalloc(sizeof *db);
    if (db == NULL) return ag_err_set(err, AG_E_NOMEM, "There is no memory for the keys database.");
    db->path = ag_mem_strndup(path, strlen(path));
    db->secret_path = secret_path_of(path, secret_path);
    int rc = AG_OK;
    if (db->path == NULL || db->secret_path == NULL) {
        rc = ag_err_set(err, AG_E_NOMEM, "There is no memory for the keys database.");
        goto out;
    }
    /* Who has keys is nobody else's business; SQLite gives -wal and -shm the same mode. Never opened where it is there:
     * closing it would drop the locks that this process has on it. */
    int made = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (made >= 0) close(made);
    int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_EXRESCODE;
    int opened = sqlite3_open_v2(path, &db->sql, flags, NULL);
    if (db->sql == NULL) rc = ag_err_set(err, AG_E_NOMEM, "There is no memory for the keys database.");
    else if (opened != SQLITE_OK) rc = ag__db_fail(db, err);
    if (rc == AG_OK) sqlite3_busy_timeout(db->sql, BUSY_MS);
    /* A file that lies about its own schema must not run anything. */
    if (rc == AG_OK) rc = ag__db_exec(db, "PRAGMA trusted_schema = OFF; PRAGMA cell_size_check = ON", err);
    if (rc == AG_OK) rc = ag__db_exec(db, "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL", err);
    if (rc == AG_OK) rc = check_schema(db, err);
    if (rc == AG_OK) rc = load_secret(db, err);
out:
    if (rc == AG_OK) *out = db;
    else ag_keys_db_close(db);
    return rc;
}

void ag_keys_db_close(ag_keys_db *db)
{
    if (db == NULL) return;
    sqlite3_close(db->sql);
    sodium_memzero(&db->secret, sizeof db->secret);
    ag_mem_free(db->secret_path);
    ag_mem_free(db->path);
    ag_mem_free(db);
}

int ag_keys_db_relax(ag_keys_db *db, ag_err *err) { return ag__db_exec(db, "PRAGMA synchronous = NORMAL", err); }

const ag_key_secret *ag_keys_db_secret(const ag_keys_db *db) { return &db->secret; }

/* data_version tells in microseconds that nobody else wrote; usage is written every second, so the count that only keys
 * and limits move is asked for behind it. Our own writes do not move data_version. */
int ag_keys_db_version(ag_keys_db *db, uint64_t *version, ag_err *err)
{
    uint64_t data = 0;
    int rc = ag__db_number(db, "PRAGMA data_version", &data, err);
    if (rc == AG_OK && (data != db->data_version || db->wrote)) {
        rc = ag__db_number(db, "SELECT value FROM meta WHERE name = 'changes'", &db->changes, err);
        if (rc == AG_OK) db->data_version = data;
        if (rc == AG_OK) db->wrote = false;
    }
    if (rc == AG_OK) *version = db->changes;
    return rc;
}

void ag_keys_day(uint64_t wall_s, char day[AG_KEYS_DAY_BYTES + 1])
{
    time_t t = (time_t)wall_s;
    struct tm tm;
    gmtime_r(&t, &tm);
    size_t n = strftime(day, AG_KEYS_DAY_BYTES + 1, "%Y-%m-%d", &tm);
    AG_ASSERT(n == AG_KEYS_DAY_BYTES);
}

bool ag_keys_day_ok(const char *day)
{
    struct tm tm = {0};
    const char *end = strlen(day) == AG_KEYS_DAY_BYTES ? strptime(day, "%Y-%m-%d", &tm) : NULL;
    return end && *end == 0;
}
