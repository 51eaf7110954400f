/* keys_db_usage.c - the table of usage: a row for each day, key, tenant and model. */
#include <stdio.h>

#include "keys/keys_db_inner.h"

static bool bind_row(sqlite3_stmt *st, const ag_usage_row *r)
{
    return sqlite3_bind_text(st, 1, r->day, -1, SQLITE_STATIC) == SQLITE_OK &&
           sqlite3_bind_text(st, 2, r->key, -1, SQLITE_STATIC) == SQLITE_OK &&
           sqlite3_bind_text(st, 3, r->model, -1, SQLITE_STATIC) == SQLITE_OK &&
           sqlite3_bind_text(st, 4, r->tenant, -1, SQLITE_STATIC) == SQLITE_OK &&
           sqlite3_bind_int64(st, 5, (sqlite3_int64)r->requests) == SQLITE_OK &&
           sqlite3_bind_int64(st, 6, (sqlite3_int64)r->prompt_tokens) == SQLITE_OK &&
           sqlite3_bind_int64(st, 7, (sqlite3_int64)r->output_tokens) == SQLITE_OK;
}

int ag_keys_db_usage_add(ag_keys_db *db, const ag_usage_row *rows, uint32_t n, ag_err *err)
{
    int rc = ag__db_begin(db, err);
    if (rc != AG_OK) return rc;
    sqlite3_stmt *st = ag__db_prepare(
        db,
        "INSERT INTO usage(day, key, model, tenant, requests, prompt_tokens, output_tokens) VALUES(?,?,?,?,?,?,?) "
        "ON CONFLICT(day, key, tenant, model) DO UPDATE SET requests = requests + excluded.requests, "
        "prompt_tokens = prompt_tokens + excluded.prompt_tokens, output_tokens = output_tokens + "
        "excluded.output_tokens",
        err);
    if (st == NULL) rc = ag__db_fail(db, err);
    for (uint32_t i = 0; rc == AG_OK && i < n; i++) {
        if (!bind_row(st, &rows[i]) || sqlite3_step(st) != SQLITE_DONE) rc = ag__db_fail(db, err);
        sqlite3_reset(st);
    }
    sqlite3_finalize(st);
    return ag__db_end(db, rc, false, err);
}

static void take_text(sqlite3_stmt *st, int at, char *to, size_t size)
{
    const char *z = (const char *)sqlite3_column_text(st, at);
    snprintf(to, size, "%s", z ? z : "");
}

int ag_keys_db_usage_list(ag_keys_db *db, const ag_usage_filter *f, bool (*each)(void *arg, const ag_usage_row *r),
                          void *arg, ag_err *err)
{
    sqlite3_stmt *st = ag__db_prepare(
        db,
        "SELECT day, key, model, tenant, requests, prompt_tokens, output_tokens FROM usage WHERE day >= ifnull(?1, '') "
        "AND (?2 IS NULL OR day <= ?2) AND (?3 IS NULL OR key = ?3) AND (?4 IS NULL OR tenant = ?4) "
        "AND (?5 IS NULL OR model = ?5) ORDER BY day, key, tenant, model",
        err);
    if (st == NULL) return ag__db_fail(db, err);
    const char *const values[] = {f->from, f->to, f->key, f->tenant, f->model};
    int rc = AG_OK;
    for (int i = 0; i < (int)AG_ARRAY_LEN(values); i++) /* a NULL text binds NULL */
        if (sqlite3_bind_text(st, i + 1, values[i], -1, SQLITE_STATIC) != SQLITE_OK) rc = ag__db_fail(db, err);
    ag_usage_row r;
    while (rc == AG_OK) {
        int step = sqlite3_step(st);
        if (step == SQLITE_DONE) break;
        if (step != SQLITE_ROW) rc = ag__db_fail(db, err);
        if (rc != AG_OK) break;
        take_text(st, 0, r.day, sizeof r.day);
        take_text(st, 1, r.key, sizeof r.key);
        take_text(st, 2, r.model, sizeof r.model);
        take_text(st, 3, r.tenant, sizeof r.tenant);
        r.requests = (uint64_t)sqlite3_column_int64(st, 4);
        r.prompt_tokens = (uint64_t)sqlite3_column_int64(st, 5);
        r.output_tokens = (uint64_t)sqlite3_column_int64(st, 6);
        if (!each(arg, &r)) break;
    }
    sqlite3_finalize(st);
    return rc;
}
