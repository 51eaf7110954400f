#include "gateway/responses_store.h"

#include <fcntl.h>
#include <pthread.h>
#include <sqlite3.h>
#include <stdatomic.h>
#include <stdio.h>
#include <unistd.h>

#include "base/mem.h"

#define STORE_MAGIC 0x41475253u
#define APPLICATION_ID 0x41475231 /* "AGR1", in the file's header */
#define SCHEMA_VERSION 2
#define BUSY_MS 2000
#define ROW_BYTES 256u /* what a row takes beside its texts, about */

/* What each tenant has, and all of them, is counted by the database itself, so that a change undone is undone there
 * too. */
static const char schema[] =
    "CREATE TABLE responses(seq INTEGER PRIMARY KEY AUTOINCREMENT, tenant TEXT NOT NULL, id TEXT NOT NULL,"
    " created INTEGER NOT NULL, bytes INTEGER NOT NULL, finished INTEGER NOT NULL, body BLOB NOT NULL, items BLOB NOT "
    "NULL);"
    "CREATE UNIQUE INDEX by_id ON responses(tenant, id);"
    "CREATE INDEX by_age ON responses(tenant, seq);"
    "CREATE TABLE tenants(tenant TEXT PRIMARY KEY, bytes INTEGER NOT NULL, n INTEGER NOT NULL DEFAULT 0) WITHOUT ROWID;"
    "CREATE INDEX by_bytes ON tenants(bytes);"
    "CREATE TABLE total(n INTEGER NOT NULL, bytes INTEGER NOT NULL);"
    "INSERT INTO total VALUES(0, 0);"
    "CREATE TRIGGER grew AFTER UPDATE OF bytes ON responses BEGIN"
    " UPDATE tenants SET bytes = bytes + new.bytes - old.bytes WHERE tenant = new.tenant;"
    " UPDATE total SET bytes = bytes + new.bytes - old.bytes; END;";

/* Version 1 did not count each tenant's. */
static const char without_counts[] =
    "ALTER TABLE tenants ADD COLUMN n INTEGER NOT NULL DEFAULT 0;"
    "UPDATE tenants SET n = (SELECT count(*) FROM responses WHERE responses.tenant = tenants.tenant);"
    "DROP TRIGGER came; DROP TRIGGER went;";

static const char counts[] =
    "CREATE INDEX by_n ON tenants(n);"
    "CREATE TRIGGER came AFTER INSERT ON responses BEGIN"
    " INSERT INTO tenants VALUES(new.tenant, new.bytes, 1) ON CONFLICT(tenant) DO UPDATE SET"
    " bytes = bytes + excluded.bytes, n = n + 1;"
    " UPDATE total SET n = n + 1, bytes = bytes + new.bytes; END;"
    "CREATE TRIGGER went AFTER DELETE ON responses BEGIN"
    " UPDATE tenants SET bytes = bytes - old.bytes, n = n - 1 WHERE tenant = old.tenant;"
    " DELETE FROM tenants WHERE tenant = old.tenant AND n <= 0;"
    " UPDATE total SET n = n - 1, bytes = bytes - old.bytes; END;";

/* The oldest of who has the most. */
#define EVICT_BY(what)                                                                                                 \
    "DELETE FROM responses WHERE seq = (SELECT seq FROM responses WHERE tenant ="                                      \
    " (SELECT tenant FROM tenants ORDER BY " what " DESC LIMIT 1) ORDER BY seq LIMIT 1)"

#define STATEMENTS(X)                                                                                                  \
    X(TOTAL, "SELECT n, bytes FROM total")                                                                             \
    X(EXPIRE, "DELETE FROM responses WHERE seq IN (SELECT seq FROM responses ORDER BY seq LIMIT 64) AND created < ?")  \
    X(EVICT_BYTES, EVICT_BY("bytes"))                                                                                  \
    X(EVICT_N, EVICT_BY("n"))                                                                                          \
    X(PUT, "INSERT INTO responses(tenant, id, created, bytes, finished, body, items) VALUES(?, ?, ?, ?, ?, ?, ?)")     \
    X(SIZE, "SELECT length(items) FROM responses WHERE tenant = ? AND id = ?")                                         \
    X(FINISH, "UPDATE responses SET finished = 1, bytes = ?3, body = ?4 WHERE tenant = ?1 AND id = ?2")                \
    X(GET, "SELECT finished, body, items FROM responses WHERE tenant = ? AND id = ? AND created >= ?")                 \
    X(DELETE, "DELETE FROM responses WHERE tenant = ? AND id = ? AND created >= ?")

typedef enum statement {
#define X(name, sql) S_##name,
    STATEMENTS(X)
#undef X
    S_COUNT
} statement;

static const char *const texts[S_COUNT] = {
#define X(name, sql) sql,
    STATEMENTS(X)
#undef X
};

struct ag_responses {
    uint32_t magic;
    ag_responses_conf conf;
    char *path;
    bool open; /* from then on sentences are for callers, who are not told of paths */
    pthread_mutex_t lock;
    sqlite3 *sql;
    sqlite3_stmt *st[S_COUNT];
    _Atomic uint64_t n, bytes;
};

static int trouble(ag_responses *s, ag_err *err)
{
    const char *why = NULL;
    switch (sqlite3_errcode(s->sql) & 0xFF) {
    case SQLITE_NOMEM: return ag_err_set(err, AG_E_NOMEM, "There is no memory left for the responses that are kept.");
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB: why = "it is damaged or no database"; break;
    case SQLITE_READONLY: why = "it or its folder is read-only"; break;
    case SQLITE_BUSY:
    case SQLITE_LOCKED: why = "another program has it open; each server needs a file of its own"; break;
    case SQLITE_FULL: why = "the disk is full"; break;
    case SQLITE_CANTOPEN:
    case SQLITE_PERM:
    case SQLITE_AUTH: why = "it must be a file that this user may read and write, in a folder that is there"; break;
    default: why = sqlite3_errmsg(s->sql);
    }
    if (s->open) return ag_err_set(err, AG_E_RESPONSES, "Responses cannot be kept or looked up at present: %s.", why);
    return ag_err_set(err, AG_E_RESPONSES, "The file of responses '%s' cannot be used: %s.", s->path, why);
}

static int exec(ag_responses *s, const char *sql, ag_err *err)
{
    return sqlite3_exec(s->sql, sql, NULL, NULL, NULL) == SQLITE_OK ? AG_OK : trouble(s, err);
}

static void bind_text(sqlite3_stmt *st, int at, const char *z) { sqlite3_bind_text(st, at, z, -1, SQLITE_STATIC); }

static void bind_blob(sqlite3_stmt *st, int at, ag_str s)
{
    sqlite3_bind_blob64(st, at, s.p ? s.p : "", s.n, SQLITE_STATIC);
}

/* Runs one that gives no row; what was bound must live until it returns. */
static int run(ag_responses *s, statement which, int *changed, ag_err *err)
{
    sqlite3_stmt *st = s->st[which];
    int rc = sqlite3_step(st) == SQLITE_DONE ? AG_OK : trouble(s, err);
    if (changed) *changed = sqlite3_changes(s->sql);
    sqlite3_reset(st);
    sqlite3_clear_bindings(st);
    return rc;
}

static int total(ag_responses *s, uint64_t *n, uint64_t *bytes, ag_err *err)
{
    sqlite3_stmt *st = s->st[S_TOTAL];
    int rc = sqlite3_step(st) == SQLITE_ROW ? AG_OK : trouble(s, err);
    if (rc == AG_OK) *n = (uint64_t)sqlite3_column_int64(st, 0);
    if (rc == AG_OK) *bytes = (uint64_t)sqlite3_column_int64(st, 1);
    sqlite3_reset(st);
    return rc;
}

/* Commits when rc is AG_OK, else undoes everything since begin. */
static int end(ag_responses *s, int rc, ag_err *err)
{
    uint64_t n = 0, bytes = 0;
    if (rc == AG_OK) rc = total(s, &n, &bytes, err);
    if (rc == AG_OK) rc = exec(s, "COMMIT", err);
    if (rc != AG_OK) {
        sqlite3_exec(s->sql, "ROLLBACK", NULL, NULL, NULL);
        return rc;
    }
    atomic_store_explicit(&s->n, n, memory_order_relaxed);
    atomic_store_explicit(&s->bytes, bytes, memory_order_relaxed);
    return AG_OK;
}

/* Until there is room for so many more. */
static int make_room(ag_responses *s, uint64_t more, uint64_t more_bytes, ag_err *err)
{
    for (;;) {
        uint64_t n = 0, bytes = 0;
        int gone = 0, rc = total(s, &n, &bytes, err);
        bool many = rc == AG_OK && n + more > s->conf.max;
        if (rc != AG_OK || (!many && bytes + more_bytes <= s->conf.bytes_max)) return rc;
        rc = run(s, many ? S_EVICT_N : S_EVICT_BYTES, &gone, err);
        if (rc == AG_OK && gone == 0)
            rc = ag_err_set(err, AG_E_RESPONSES, "Responses cannot be kept at present: their count is wrong.");
        if (rc != AG_OK) return rc;
    }
}

static int open_schema(ag_responses *s, ag_err *err)
{
    sqlite3_stmt *st = NULL;
    int rc = exec(s, "BEGIN IMMEDIATE", err);
    if (rc != AG_OK) return rc;
    const char *ask = "SELECT (SELECT count(*) FROM sqlite_schema), (SELECT application_id FROM pragma_application_id),"
                      " (SELECT user_version FROM pragma_user_version)";
    bool row = sqlite3_prepare_v2(s->sql, ask, -1, &st, NULL) == SQLITE_OK && sqlite3_step(st) == SQLITE_ROW;
    if (!row) rc = trouble(s, err);
    bool empty = row && sqlite3_column_int64(st, 0) == 0, ours = row && sqlite3_column_int64(st, 1) == APPLICATION_ID;
    long long version = row ? sqlite3_column_int64(st, 2) : 0;
    sqlite3_finalize(st);
    if (rc == AG_OK && (empty || (ours && version == 1))) {
        char sql[80];
        snprintf(sql, sizeof sql, "PRAGMA application_id = %d; PRAGMA user_version = %d", APPLICATION_ID,
                 SCHEMA_VERSION);
        rc = exec(s, empty ? schema : without_counts, err);
        if (rc == AG_OK) rc = exec(s, counts, err);
        if (rc == AG_OK) rc = exec(s, sql, err);
    } else if (rc == AG_OK && !ours) {
        rc = ag_err_set(err, AG_E_USAGE, "'%s' is a database of another program, not one of responses.", s->path);
    } else if (rc == AG_OK && version != SCHEMA_VERSION) {
        rc =
            ag_err_set(err, AG_E_USAGE, "The file of responses '%s' is of version %lld; this program knows version %d.",
                       s->path, version, SCHEMA_VERSION);
    }
    for (int i = 0; i < S_COUNT && rc == AG_OK; i++)
        if (sqlite3_prepare_v3(s->sql, texts[i], -1, SQLITE_PREPARE_PERSISTENT, &s->st[i], NULL) != SQLITE_OK)
            rc = trouble(s, err);
    if (rc == AG_OK) rc = make_room(s, 0, 0, err); /* the limits may be others than last time */
    return end(s, rc, err);
}

int ag_responses_open(ag_responses **out, const ag_responses_conf *conf, ag_err *err)
{
    bool in_memory = conf->path == NULL || conf->path[0] == 0;
    const char *path = in_memory ? ":memory:" : conf->path;
    AG_ASSERT(conf->max >= 1 && conf->bytes_max <= INT64_MAX && conf->keep_s <= INT64_MAX);
    ag_responses *s = ag_mem_zalloc(sizeof *s);
    if (s == NULL) return ag_err_set(err, AG_E_NOMEM, "There is no memory for the responses that are kept.");
    int rc = AG_OK, flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_EXRESCODE;
    s->magic = STORE_MAGIC;
    s->conf = *conf;
    pthread_mutex_init(&s->lock, NULL);
    if ((s->path = ag_mem_strndup(path, strlen(path))) == NULL) {
        rc = ag_err_set(err, AG_E_NOMEM, "There is no memory for the responses that are kept.");
        goto out;
    }
    /* What people asked is nobody else's business; SQLite gives -wal the same mode. */
    int made = in_memory ? -1 : open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (made >= 0) close(made);
    int opened = sqlite3_open_v2(path, &s->sql, flags, NULL);
    if (s->sql == NULL) rc = ag_err_set(err, AG_E_NOMEM, "There is no memory for the responses that are kept.");
    else if (opened != SQLITE_OK) rc = trouble(s, err);
    if (rc == AG_OK) sqlite3_busy_timeout(s->sql, BUSY_MS);
    /* A file that lies about its own schema must not run anything; what is deleted is written over. */
    if (rc == AG_OK)
        rc = exec(s, "PRAGMA trusted_schema = OFF; PRAGMA cell_size_check = ON; PRAGMA secure_delete = ON", err);
    if (rc == AG_OK) rc = exec(s, "PRAGMA locking_mode = EXCLUSIVE; PRAGMA journal_mode = WAL", err);
    if (rc == AG_OK) rc = exec(s, "PRAGMA synchronous = NORMAL; PRAGMA journal_size_limit = 16777216", err);
    if (rc == AG_OK) rc = open_schema(s, err);
out:
    s->open = true;
    if (rc == AG_OK) *out = s;
    else ag_responses_close(s);
    return rc;
}

void ag_responses_close(ag_responses *s)
{
    if (s == NULL) return;
    AG_CHECK(s, STORE_MAGIC);
    for (int i = 0; i < S_COUNT; i++) sqlite3_finalize(s->st[i]);
    sqlite3_close(s->sql);
    pthread_mutex_destroy(&s->lock);
    ag_mem_free(s->path);
    s->magic = 0;
    ag_mem_free(s);
}

static uint64_t size_of(const char *tenant, const char *id, size_t body, size_t items)
{
    return ROW_BYTES + strlen(tenant) + strlen(id) + (uint64_t)body + items;
}

static int64_t cutoff(const ag_responses *s, uint64_t now_s)
{
    return now_s > s->conf.keep_s ? (int64_t)(now_s - s->conf.keep_s) : 0;
}

static int expire(ag_responses *s, uint64_t now_s, ag_err *err)
{
    int gone = 1, rc = AG_OK;
    while (gone && rc == AG_OK) {
        sqlite3_bind_int64(s->st[S_EXPIRE], 1, cutoff(s, now_s));
        rc = run(s, S_EXPIRE, &gone, err);
    }
    return rc;
}

static int too_large(const ag_responses *s, uint64_t bytes, ag_err *err)
{
    return ag_err_set(err, AG_E_LIMIT,
                      "This response with its conversation has %llu bytes; %llu may be kept of all responses together.",
                      (unsigned long long)bytes, (unsigned long long)s->conf.bytes_max);
}

int ag_responses_put(ag_responses *s, const char *tenant, const char *id, uint64_t now_s, bool finished, ag_str body,
                     ag_str items, ag_err *err)
{
    AG_CHECK(s, STORE_MAGIC);
    uint64_t bytes = size_of(tenant, id, body.n, items.n);
    if (bytes > s->conf.bytes_max) return too_large(s, bytes, err);
    pthread_mutex_lock(&s->lock);
    sqlite3_stmt *st = s->st[S_PUT];
    int rc = exec(s, "BEGIN IMMEDIATE", err);
    if (rc == AG_OK) {
        rc = expire(s, now_s, err);
        if (rc == AG_OK) rc = make_room(s, 1, bytes, err);
        if (rc == AG_OK) {
            bind_text(st, 1, tenant);
            bind_text(st, 2, id);
            sqlite3_bind_int64(st, 3, (int64_t)now_s);
            sqlite3_bind_int64(st, 4, (int64_t)bytes);
            sqlite3_bind_int(st, 5, finished);
            bind_blob(st, 6, body);
            bind_blob(st, 7, items);
            rc = run(s, S_PUT, NULL, err);
        }
        rc = end(s, rc, err);
    }
    pthread_mutex_unlock(&s->lock);
    return rc;
}

/* How many bytes its conversation has. *found false: it is not there. */
static int items_of(ag_responses *s, const char *tenant, const char *id, bool *found, uint64_t *n, ag_err *err)
{
    sqlite3_stmt *st = s->st[S_SIZE];
    bind_text(st, 1, tenant);
    bind_text(st, 2, id);
    int step = sqlite3_step(st), rc = step == SQLITE_ROW || step == SQLITE_DONE ? AG_OK : trouble(s, err);
    *found = step == SQLITE_ROW;
    if (*found) *n = (uint64_t)sqlite3_column_int64(st, 0);
    sqlite3_reset(st);
    sqlite3_clear_bindings(st);
    return rc;
}

static int finish(ag_responses *s, const char *tenant, const char *id, ag_str body, ag_err *err)
{
    bool found = false;
    uint64_t items = 0;
    int rc = items_of(s, tenant, id, &found, &items, err);
    if (rc != AG_OK || !found) return rc;
    uint64_t bytes = size_of(tenant, id, body.n, items);
    if (bytes > s->conf.bytes_max) return too_large(s, bytes, err);
    sqlite3_stmt *st = s->st[S_FINISH];
    bind_text(st, 1, tenant);
    bind_text(st, 2, id);
    sqlite3_bind_int64(st, 3, (int64_t)bytes);
    bind_blob(st, 4, body);
    rc = run(s, S_FINISH, NULL, err);
    return rc == AG_OK ? make_room(s, 0, 0, err) : rc;
}

int ag_responses_finish(ag_responses *s, const char *tenant, const char *id, ag_str body, ag_err *err)
{
    AG_CHECK(s, STORE_MAGIC);
    pthread_mutex_lock(&s->lock);
    int rc = exec(s, "BEGIN IMMEDIATE", err);
    if (rc == AG_OK) rc = end(s, finish(s, tenant, id, body, err), err);
    pthread_mutex_unlock(&s->lock);
    return rc;
}

static int not_found(const char *id, ag_err *err)
{
    return ag_err_set(err, AG_E_RESPONSE_NOT_FOUND, "There is no response '%.100s' of yours here.", id);
}

static bool copy(ag_buf *to, sqlite3_stmt *st, int column)
{
    const void *p = sqlite3_column_blob(st, column);
    return ag_buf_add(to, p ? p : "", (size_t)sqlite3_column_bytes(st, column));
}

int ag_responses_get(ag_responses *s, const char *tenant, const char *id, uint64_t now_s, ag_stored *out, ag_err *err)
{
    AG_CHECK(s, STORE_MAGIC);
    *out = (ag_stored){0};
    ag_buf_init(&out->body, INT32_MAX); /* SQLite has no larger ones */
    ag_buf_init(&out->items, INT32_MAX);
    pthread_mutex_lock(&s->lock);
    sqlite3_stmt *st = s->st[S_GET];
    bind_text(st, 1, tenant);
    bind_text(st, 2, id);
    sqlite3_bind_int64(st, 3, cutoff(s, now_s));
    int step = sqlite3_step(st), rc = AG_OK;
    if (step == SQLITE_ROW) {
        out->finished = sqlite3_column_int(st, 0) != 0;
        if (!copy(&out->body, st, 1) || !copy(&out->items, st, 2))
            rc = ag_err_set(err, AG_E_NOMEM, "The server has no memory left for this answer.");
    } else {
        rc = step == SQLITE_DONE ? not_found(id, err) : trouble(s, err);
    }
    sqlite3_reset(st);
    sqlite3_clear_bindings(st);
    pthread_mutex_unlock(&s->lock);
    return rc;
}

int ag_responses_delete(ag_responses *s, const char *tenant, const char *id, uint64_t now_s, ag_err *err)
{
    AG_CHECK(s, STORE_MAGIC);
    pthread_mutex_lock(&s->lock);
    sqlite3_stmt *st = s->st[S_DELETE];
    int gone = 0, rc = exec(s, "BEGIN IMMEDIATE", err);
    if (rc == AG_OK) {
        bind_text(st, 1, tenant);
        bind_text(st, 2, id);
        sqlite3_bind_int64(st, 3, cutoff(s, now_s));
        rc = end(s, run(s, S_DELETE, &gone, err), err);
    }
    if (rc == AG_OK && gone == 0) rc = not_found(id, err);
    pthread_mutex_unlock(&s->lock);
    return rc;
}

void ag_stored_fini(ag_stored *a)
{
    ag_buf_fini(&a->body);
    ag_buf_fini(&a->items);
}

uint64_t ag_responses_count(ag_responses *s) { return atomic_load_explicit(&s->n, memory_order_relaxed); }
uint64_t ag_responses_bytes(ag_responses *s) { return atomic_load_explicit(&s->bytes, memory_order_relaxed); }
