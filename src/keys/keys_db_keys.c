/* keys_db_keys.c - the tables of keys and of limits. */
#include <stdio.h>

#include "keys/keys_db_inner.h"

#define KEY_COLUMNS \
    "id, hash, name, tenant, roles, models, band_min, weight, created, rotated, expires, revoked, share, cache"

#define AG_LIMIT(field, words, flag, max, what) ", " #field
static const char limit_columns[] = "subject"
#include "keys/limits.def"
    ;
#undef AG_LIMIT
/* A key with its limits; where there are none, NULLs, which read as 0. */
static const char select_key[] = "SELECT " KEY_COLUMNS
#define AG_LIMIT(field, words, flag, max, what) ", " #field
#include "keys/limits.def"
#undef AG_LIMIT
                                 " FROM keys LEFT JOIN limits ON subject = 'key:' || id ";
#define COLUMN_LIMITS 14

#define AG_LIMIT(field, words, flag, max, what) ", ?"
static const char limit_places[] = "?1"
#include "keys/limits.def"
    ;
#undef AG_LIMIT

static bool bind_text(sqlite3_stmt *st, int at, const char *z)
{
    return sqlite3_bind_text(st, at, z, -1, SQLITE_STATIC) == SQLITE_OK;
}

static bool bind_u64(sqlite3_stmt *st, int at, uint64_t v)
{
    return sqlite3_bind_int64(st, at, (sqlite3_int64)v) == SQLITE_OK;
}

/* Runs a statement that gives no rows. */
static int run_once(ag_keys_db *db, sqlite3_stmt *st, bool bound, ag_err *err)
{
    int rc = bound && sqlite3_step(st) == SQLITE_DONE ? AG_OK : ag__db_fail(db, err);
    sqlite3_finalize(st);
    return rc;
}

/* What is in the file may have been written by anybody who could: nothing is longer than its place, no number out of
 * range. */
static bool take_text(sqlite3_stmt *st, int at, char *to, size_t size)
{
    const unsigned char *z = sqlite3_column_text(st, at);
    size_t n = (size_t)sqlite3_column_bytes(st, at);
    if (z == NULL || n >= size || memchr(z, 0, n)) return false;
    memcpy(to, z, n);
    to[n] = 0;
    return true;
}

static bool take_u64(sqlite3_stmt *st, int at, uint64_t max, uint64_t *out)
{
    sqlite3_int64 v = sqlite3_column_int64(st, at);
    *out = (uint64_t)v;
    return v >= 0 && (uint64_t)v <= max;
}

static bool take_limits(sqlite3_stmt *st, int at, ag_limits *l)
{
    bool ok = true;
    for (uint32_t i = 0; i < AG_LIMIT_COUNT; i++)
        ok = take_u64(st, at + (int)i, ag_limit_rows[i].max, ag_limit_at(l, i)) && ok;
    return ok;
}

static bool take_key(sqlite3_stmt *st, ag_key *k)
{
    uint64_t roles = 0, band = 0;
    *k = (ag_key){0};
    bool ok = take_text(st, 0, k->id, AG_KEY_ID_BYTES + 1) && strlen(k->id) == AG_KEY_ID_BYTES &&
              sqlite3_column_bytes(st, 1) == sizeof k->hash && take_text(st, 2, k->name, sizeof k->name) &&
              take_text(st, 3, k->tenant, sizeof k->tenant) && ag_key_name_ok(ag_str_of(k->tenant)) &&
              take_u64(st, 4, AG_ROLE_INFERENCE | AG_ROLE_ADMIN, &roles) &&
              take_text(st, 5, k->models, sizeof k->models) && take_u64(st, 6, AG_KEY_BANDS - 1, &band) &&
              take_u64(st, 8, INT64_MAX, &k->created_s) && take_u64(st, 9, INT64_MAX, &k->rotated_s) &&
              take_u64(st, 10, INT64_MAX, &k->expires_s) && take_u64(st, 11, INT64_MAX, &k->revoked_s) &&
              take_text(st, 12, k->share, sizeof k->share) && take_text(st, 13, k->cache, sizeof k->cache) &&
              (k->share[0] == 0 || ag_key_name_ok(ag_str_of(k->share))) &&
              (k->cache[0] == 0 || ag_key_cache_ok(ag_str_of(k->cache)));
    if (!ok) return false;
    memcpy(k->hash, sqlite3_column_blob(st, 1), sizeof k->hash);
    k->roles = (uint32_t)roles;
    k->band_min = (uint32_t)band;
    k->weight = sqlite3_column_double(st, 7);
    if (!take_limits(st, COLUMN_LIMITS, &k->limits)) return false;
    return k->weight == 0 || (k->weight >= AG_KEY_WEIGHT_MIN && k->weight <= AG_KEY_WEIGHT_MAX);
}

static int bad_row(ag_keys_db *db, const char *what, ag_err *err)
{
    return ag_err_set(err, AG_E_KEYS,
                      "The keys database '%s' is damaged: %s makes no sense; bring it back from a copy.", db->path,
                      what);
}

static int not_found(const char *id, ag_err *err)
{
    return ag_err_set(err, AG_E_KEY_NOT_FOUND, "There is no key '%.*s'; list shows the ids of those that are.",
                      AG_KEY_ID_MAX, id);
}

/* Limits. */

bool ag_keys_subject_ok(ag_str s)
{
    static const char *const kinds[] = {"key:", "tenant:", "model:", "address:"};
    for (uint32_t i = 0; i < AG_ARRAY_LEN(kinds); i++) {
        ag_str kind = ag_str_of(kinds[i]);
        if (!ag_str_starts(s, kind)) continue;
        ag_str name = {s.p + kind.n, s.n - kind.n};
        if (i == 0) return name.n == AG_KEY_ID_BYTES && ag_key_name_ok(name);
        if (i == 3) return ag_str_eqz(name, "*");
        bool ok = name.n >= 1 && name.n <= (i == 1 ? AG_KEY_NAME_MAX : AG_KEYS_MODEL_MAX);
        for (size_t c = 0; ok && c < name.n; c++) ok = (unsigned char)name.p[c] > ' ' && name.p[c] != 0x7F;
        return ok;
    }
    return false;
}

int ag_keys_db_limits_get(ag_keys_db *db, const char *subject, ag_limits *l, ag_err *err)
{
    char sql[300];
    *l = (ag_limits){0};
    snprintf(sql, sizeof sql, "SELECT %s FROM limits WHERE subject = ?", limit_columns);
    sqlite3_stmt *st = ag__db_prepare(db, sql, err);
    if (st == NULL || !bind_text(st, 1, subject)) return sqlite3_finalize(st), ag__db_fail(db, err);
    int step = sqlite3_step(st), rc = AG_OK;
    if (step == SQLITE_ROW && !take_limits(st, 1, l)) rc = bad_row(db, "a limit", err);
    else if (step != SQLITE_ROW && step != SQLITE_DONE) rc = ag__db_fail(db, err);
    sqlite3_finalize(st);
    return rc;
}

static int limits_put(ag_keys_db *db, const char *subject, const ag_limits *l, ag_err *err)
{
    char sql[400];
    bool any = ag_limits_any(l);
    if (any) snprintf(sql, sizeof sql, "INSERT OR REPLACE INTO limits(%s) VALUES(%s)", limit_columns, limit_places);
    else snprintf(sql, sizeof sql, "DELETE FROM limits WHERE subject = ?1");
    sqlite3_stmt *st = ag__db_prepare(db, sql, err);
    if (st == NULL) return ag__db_fail(db, err);
    bool bound = bind_text(st, 1, subject);
    for (uint32_t i = 0; any && i < AG_LIMIT_COUNT; i++) bound = bound && bind_u64(st, (int)i + 2, *ag_limit_at(l, i));
    return run_once(db, st, bound, err);
}

/* What is there already may be changed, however many there are. */
static int limits_fit(ag_keys_db *db, const char *subject, const ag_limits *l, ag_err *err)
{
    uint64_t n = 0;
    ag_limits before;
    int rc = ag_limits_any(l) ? ag_keys_db_limits_get(db, subject, &before, err) : AG_OK;
    if (rc != AG_OK || !ag_limits_any(l) || ag_limits_any(&before)) return rc;
    rc = ag__db_number(db, "SELECT count(*) FROM limits", &n, err);
    if (rc != AG_OK || n < AG_KEYS_LIMITS_MAX) return rc;
    return ag_err_set(err, AG_E_LIMIT, "There are limits of %d subjects already, which is the most.",
                      AG_KEYS_LIMITS_MAX);
}

int ag_keys_db_limits_set(ag_keys_db *db, const char *subject, const ag_limits *l, ag_err *err)
{
    ag_key key;
    int rc = ag__db_begin(db, err);
    if (rc != AG_OK) return rc;
    if (strncmp(subject, "key:", 4) == 0) rc = ag_keys_db_get(db, subject + 4, &key, err);
    if (rc == AG_OK) rc = limits_fit(db, subject, l, err);
    if (rc == AG_OK) rc = limits_put(db, subject, l, err);
    db->wrote = true;
    return ag__db_end(db, rc, true, err);
}

int ag_keys_db_limits_list(ag_keys_db *db, bool (*each)(void *arg, const char *subject, const ag_limits *l), void *arg,
                           ag_err *err)
{
    char sql[300], subject[AG_KEYS_MODEL_MAX + 16];
    ag_limits l;
    snprintf(sql, sizeof sql, "SELECT %s FROM limits ORDER BY subject LIMIT %d", limit_columns, AG_KEYS_LIMITS_MAX);
    sqlite3_stmt *st = ag__db_prepare(db, sql, err);
    if (st == NULL) return ag__db_fail(db, err);
    int step, rc = AG_OK;
    while (rc == AG_OK && (step = sqlite3_step(st)) != SQLITE_DONE) {
        if (step != SQLITE_ROW) rc = ag__db_fail(db, err);
        else if (!take_text(st, 0, subject, sizeof subject) || !take_limits(st, 1, &l))
            rc = bad_row(db, "a limit", err);
        else if (!each(arg, subject, &l)) break;
    }
    sqlite3_finalize(st);
    return rc;
}

/* Keys. */

int ag_keys_db_get(ag_keys_db *db, const char *id, ag_key *key, ag_err *err)
{
    char sql[sizeof select_key + 40];
    snprintf(sql, sizeof sql, "%s WHERE id = ?", select_key);
    sqlite3_stmt *st = ag__db_prepare(db, sql, err);
    if (st == NULL || !bind_text(st, 1, id)) return sqlite3_finalize(st), ag__db_fail(db, err);
    int step = sqlite3_step(st), rc = AG_OK;
    if (step == SQLITE_DONE) rc = not_found(id, err);
    else if (step != SQLITE_ROW) rc = ag__db_fail(db, err);
    else if (!take_key(st, key)) rc = bad_row(db, "a key", err);
    sqlite3_finalize(st);
    return rc;
}

int ag_keys_db_list(ag_keys_db *db, bool (*each)(void *arg, const ag_key *k), void *arg, ag_err *err)
{
    ag_key k;
    char sql[sizeof select_key + 40];
    snprintf(sql, sizeof sql, "%s ORDER BY created, id LIMIT %d", select_key, AG_KEYS_MAX);
    sqlite3_stmt *st = ag__db_prepare(db, sql, err);
    if (st == NULL) return ag__db_fail(db, err);
    int step, rc = AG_OK;
    while (rc == AG_OK && (step = sqlite3_step(st)) != SQLITE_DONE) {
        if (step != SQLITE_ROW) rc = ag__db_fail(db, err);
        else if (!take_key(st, &k)) rc = bad_row(db, "a key", err);
        else if (!each(arg, &k)) break;
    }
    sqlite3_finalize(st);
    return rc;
}

static int key_insert(ag_keys_db *db, const ag_key *k, ag_err *err)
{
    sqlite3_stmt *st = ag__db_prepare(db, "INSERT INTO keys(" KEY_COLUMNS ") VALUES(?,?,?,?,?,?,?,?,?,0,?,0,?,?)", err);
    if (st == NULL) return ag__db_fail(db, err);
    bool bound = bind_text(st, 1, k->id) &&
                 sqlite3_bind_blob(st, 2, k->hash, sizeof k->hash, SQLITE_STATIC) == SQLITE_OK &&
                 bind_text(st, 3, k->name) && bind_text(st, 4, k->tenant) && bind_u64(st, 5, k->roles) &&
                 bind_text(st, 6, k->models) && bind_u64(st, 7, k->band_min) &&
                 sqlite3_bind_double(st, 8, k->weight) == SQLITE_OK && bind_u64(st, 9, k->created_s) &&
                 bind_u64(st, 10, k->expires_s) && bind_text(st, 11, k->share) && bind_text(st, 12, k->cache);
    return run_once(db, st, bound, err);
}

int ag_keys_db_create(ag_keys_db *db, ag_key *k, char text[AG_KEY_TEXT_BYTES + 1], ag_err *err)
{
    uint64_t n = 0;
    char subject[4 + AG_KEY_ID_BYTES + 1];
    ag_key_make(k->id, text, NULL);
    ag_key_hash(&db->secret, ag_str_of(text), k->hash);
    k->created_s = ag_wall_us() / 1000000;
    int rc = ag__db_begin(db, err);
    if (rc != AG_OK) return rc;
    rc = ag__db_number(db, "SELECT count(*) FROM keys", &n, err);
    if (rc == AG_OK && n >= AG_KEYS_MAX)
        rc = ag_err_set(err, AG_E_LIMIT, "There are %d keys already, which is the most.", AG_KEYS_MAX);
    if (rc == AG_OK) rc = key_insert(db, k, err);
    snprintf(subject, sizeof subject, "key:%.*s", AG_KEY_ID_BYTES, k->id);
    if (rc == AG_OK) rc = limits_fit(db, subject, &k->limits, err);
    if (rc == AG_OK && ag_limits_any(&k->limits)) rc = limits_put(db, subject, &k->limits, err);
    db->wrote = true;
    return ag__db_end(db, rc, true, err);
}

/* One statement on the key `id`, whose first place is a value and whose second the id. */
static int key_update(ag_keys_db *db, const char *sql, const char *id, const uint8_t *hash, ag_err *err)
{
    int rc = ag__db_begin(db, err);
    if (rc != AG_OK) return rc;
    sqlite3_stmt *st = ag__db_prepare(db, sql, err);
    if (st == NULL) return ag__db_end(db, ag__db_fail(db, err), false, err);
    bool bound = bind_u64(st, 1, ag_wall_us() / 1000000) && bind_text(st, 2, id) &&
                 (hash == NULL || sqlite3_bind_blob(st, 3, hash, 32, SQLITE_STATIC) == SQLITE_OK);
    rc = run_once(db, st, bound, err);
    if (rc == AG_OK && sqlite3_changes(db->sql) == 0) rc = not_found(id, err);
    db->wrote = true;
    return ag__db_end(db, rc, true, err);
}

int ag_keys_db_rotate(ag_keys_db *db, const char *id, char text[AG_KEY_TEXT_BYTES + 1], ag_err *err)
{
    ag_key k;
    uint8_t hash[32];
    int rc = ag_keys_db_get(db, id, &k, err);
    if (rc != AG_OK) return rc;
    if (k.revoked_s)
        return ag_err_set(err, AG_E_PARAM, "The key '%s' is revoked, which cannot be undone; create another.", id);
    ag_key_make(k.id, text, k.id);
    ag_key_hash(&db->secret, ag_str_of(text), hash);
    return key_update(db, "UPDATE keys SET rotated = ?1, hash = ?3 WHERE id = ?2 AND revoked = 0", id, hash, err);
}

int ag_keys_db_revoke(ag_keys_db *db, const char *id, ag_err *err)
{
    return key_update(db, "UPDATE keys SET revoked = CASE revoked WHEN 0 THEN ?1 ELSE revoked END WHERE id = ?2", id,
                      NULL, err);
}
