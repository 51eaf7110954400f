#include "keys/store.h"

#include <sqlite3.h>

#include "keys/keys_db_inner.h"

typedef struct seen {
    ag_key keys[8];
    uint32_t n;
} seen;

static bool see(void *arg, const ag_key *k)
{
    seen *s = arg;
    s->keys[s->n++] = *k;
    return s->n < AG_ARRAY_LEN(s->keys);
}

static void keys_are_made_listed_and_ended(void **state)
{
    (void)state;
    ag_keys_db *db = store_open();
    ag_err err = {0};
    char text[AG_KEY_TEXT_BYTES + 1], again[AG_KEY_TEXT_BYTES + 1];
    ag_key a = {.name = "a key",
                .models = "m1,m2",
                .band_min = 1,
                .weight = 2.5,
                .expires_s = 99,
                .share = "friends",
                .cache = "use",
                .roles = AG_ROLE_ADMIN,
                .limits = {.burst = 7, .tokens_per_month = 1000000}},
           b = {0}, got;
    store_key(db, "gold", &a, text);
    store_key(db, "free", &b, again);
    seen s = {0};
    assert_int_equal(ag_keys_db_list(db, see, &s, &err), AG_OK);
    assert_int_equal(s.n, 2);
    assert_int_equal(ag_keys_db_get(db, a.id, &got, &err), AG_OK);
    assert_string_equal(got.name, "a key");
    assert_string_equal(got.tenant, "gold");
    assert_string_equal(got.share, "friends");
    assert_string_equal(got.cache, "use");
    assert_string_equal(got.models, "m1,m2");
    assert_true(got.band_min == 1 && got.weight == 2.5 && got.expires_s == 99 && got.roles == AG_ROLE_ADMIN);
    assert_true(got.limits.burst == 7 && got.limits.tokens_per_month == 1000000 && got.limits.concurrent == 0);
    uint8_t hash[32];
    ag_key_hash(ag_keys_db_secret(db), ag_str_of(text), hash);
    assert_memory_equal(hash, got.hash, sizeof hash);

    assert_int_equal(ag_keys_db_rotate(db, a.id, again, &err), AG_OK);
    assert_int_equal(ag_keys_db_get(db, a.id, &got, &err), AG_OK);
    assert_memory_not_equal(hash, got.hash, sizeof hash);
    assert_true(got.rotated_s >= got.created_s && got.limits.burst == 7);
    assert_int_equal(ag_keys_db_revoke(db, a.id, &err), AG_OK);
    assert_int_equal(ag_keys_db_revoke(db, a.id, &err), AG_OK);
    assert_int_equal(ag_keys_db_get(db, a.id, &got, &err), AG_OK);
    assert_true(got.revoked_s != 0);
    assert_int_equal(ag_keys_db_rotate(db, a.id, again, &err), AG_E_PARAM);
    ag_err_clear(&err);
    assert_int_equal(ag_keys_db_revoke(db, "0123456789ab", &err), AG_E_KEY_NOT_FOUND);
    ag_err_clear(&err);
    assert_int_equal(ag_keys_db_get(db, "'; DROP TABLE keys; --", &got, &err), AG_E_KEY_NOT_FOUND);
    ag_keys_db_close(db);
}

static void limits_are_of_subjects(void **state)
{
    (void)state;
    ag_keys_db *db = store_open();
    ag_err err = {0};
    char text[AG_KEY_TEXT_BYTES + 1], subject[AG_KEY_ID_MAX + 5];
    ag_key a = {0}, got;
    ag_limits l;
    store_key(db, "free", &a, text);
    assert_int_equal(ag_keys_db_limits_set(db, "tenant:gold", &(ag_limits){.concurrent = 9}, &err), AG_OK);
    assert_int_equal(ag_keys_db_limits_get(db, "tenant:gold", &l, &err), AG_OK);
    assert_int_equal(l.concurrent, 9);
    snprintf(subject, sizeof subject, "key:%s", a.id);
    assert_int_equal(ag_keys_db_limits_set(db, subject, &(ag_limits){.burst = 3}, &err), AG_OK);
    assert_int_equal(ag_keys_db_get(db, a.id, &got, &err), AG_OK);
    assert_int_equal(got.limits.burst, 3);
    assert_int_equal(ag_keys_db_limits_set(db, "tenant:gold", &(ag_limits){0}, &err), AG_OK);
    assert_int_equal(ag_keys_db_limits_get(db, "tenant:gold", &l, &err), AG_OK);
    assert_false(ag_limits_any(&l));
    assert_int_equal(ag_keys_db_limits_set(db, "key:0123456789ab", &(ag_limits){.burst = 1}, &err), AG_E_KEY_NOT_FOUND);
    assert_true(ag_keys_subject_ok(AG_STR("model:a/b")) && ag_keys_subject_ok(AG_STR("address:*")));
    assert_false(ag_keys_subject_ok(AG_STR("address:1.2.3.4")) || ag_keys_subject_ok(AG_STR("gold")) ||
                 ag_keys_subject_ok(AG_STR("tenant:")) || ag_keys_subject_ok(AG_STR("key:x")));
    ag_keys_db_close(db);
}

static bool count_limit(void *arg, const char *subject, const ag_limits *l)
{
    (void)subject, (void)l;
    ++*(uint32_t *)arg;
    return true;
}

/* Where there is no room for one more, those that are there can still be changed, and are all listed. */
static void limits_have_a_limit(void **state)
{
    (void)state;
    ag_keys_db *db = store_open();
    ag_err err = {0};
    char text[AG_KEY_TEXT_BYTES + 1], sql[200];
    ag_key one = {.roles = AG_ROLE_INFERENCE, .tenant = "gold", .limits = {.burst = 1}},
           none = {.roles = AG_ROLE_INFERENCE, .tenant = "gold"};
    uint32_t n = 0;
    snprintf(sql, sizeof sql,
             "WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c WHERE i < %d)"
             " INSERT INTO limits(subject, burst) SELECT 'tenant:t' || i, 5 FROM c",
             AG_KEYS_LIMITS_MAX);
    if (sqlite3_exec(db->sql, sql, NULL, NULL, NULL) != SQLITE_OK) fail_msg("%s", sqlite3_errmsg(db->sql));
    assert_int_equal(ag_keys_db_limits_set(db, "tenant:new", &(ag_limits){.burst = 1}, &err), AG_E_LIMIT);
    ag_err_clear(&err);
    assert_int_equal(ag_keys_db_create(db, &one, text, &err), AG_E_LIMIT);
    ag_err_clear(&err);
    assert_int_equal(ag_keys_db_get(db, one.id, &none, &err), AG_E_KEY_NOT_FOUND); /* nothing of it is there */
    ag_err_clear(&err);
    none = (ag_key){.roles = AG_ROLE_INFERENCE, .tenant = "gold"};
    assert_int_equal(ag_keys_db_create(db, &none, text, &err), AG_OK);
    assert_int_equal(ag_keys_db_limits_set(db, "tenant:new", &(ag_limits){0}, &err), AG_OK);
    assert_int_equal(ag_keys_db_limits_set(db, "tenant:t7", &(ag_limits){.burst = 2}, &err), AG_OK);
    assert_int_equal(ag_keys_db_limits_list(db, count_limit, &n, &err), AG_OK);
    assert_int_equal(n, AG_KEYS_LIMITS_MAX);
    assert_int_equal(ag_keys_db_limits_set(db, "tenant:t7", &(ag_limits){0}, &err), AG_OK);
    assert_int_equal(ag_keys_db_create(db, &one, text, &err), AG_OK);
    assert_int_equal(ag_keys_db_limits_set(db, "tenant:new", &(ag_limits){.burst = 1}, &err), AG_E_LIMIT);
    ag_keys_db_close(db);
}

static void the_version_moves_with_keys_and_not_with_usage(void **state)
{
    (void)state;
    ag_keys_db *mine = store_open(), *other = store_open();
    uint64_t before = 0, after = 0;
    char text[AG_KEY_TEXT_BYTES + 1];
    ag_key k = {0};
    ag_usage_row row = {.key = "k", .tenant = "t", .model = "m", .day = "2026-11-29", .requests = 1};
    assert_int_equal(ag_keys_db_version(mine, &before, NULL), AG_OK);
    assert_int_equal(ag_keys_db_usage_add(other, &row, 1, NULL), AG_OK);
    assert_int_equal(ag_keys_db_version(mine, &after, NULL), AG_OK);
    assert_int_equal(after, before);
    store_key(other, "gold", &k, text);
    assert_int_equal(ag_keys_db_version(mine, &after, NULL), AG_OK);
    assert_int_not_equal(after, before);
    store_key(mine, "gold", &k, text);
    assert_int_equal(ag_keys_db_version(mine, &before, NULL), AG_OK);
    assert_int_not_equal(after, before);
    ag_keys_db_close(mine);
    ag_keys_db_close(other);
}

typedef struct used {
    ag_usage_row rows[8];
    uint32_t n;
} used;

static bool use(void *arg, const ag_usage_row *r)
{
    used *u = arg;
    u->rows[u->n++] = *r;
    return true;
}

static void usage_adds_up(void **state)
{
    (void)state;
    ag_keys_db *db = store_open();
    ag_usage_row rows[] = {
        {.key = "a",
         .tenant = "t",
         .model = "m",
         .day = "2026-11-29",
         .requests = 1,
         .prompt_tokens = 10,
         .output_tokens = 5},
        {.key = "a", .tenant = "t", .model = "m", .day = "2026-11-30", .requests = 2, .prompt_tokens = 1},
        {.key = "b", .tenant = "u", .model = "n", .day = "2026-11-29", .output_tokens = 7}};
    assert_int_equal(ag_keys_db_usage_add(db, rows, 3, NULL), AG_OK);
    assert_int_equal(ag_keys_db_usage_add(db, rows, 2, NULL), AG_OK);
    used u = {0};
    assert_int_equal(ag_keys_db_usage_list(db, &(ag_usage_filter){0}, use, &u, NULL), AG_OK);
    assert_int_equal(u.n, 3);
    assert_true(u.rows[0].requests == 2 && u.rows[0].prompt_tokens == 20 && u.rows[0].output_tokens == 10);
    assert_true(u.rows[1].output_tokens == 7 && u.rows[2].requests == 4);
    u.n = 0;
    ag_usage_filter f = {.from = "2026-11-30", .to = "2026-11-30", .key = "a", .tenant = "t", .model = "m"};
    assert_int_equal(ag_keys_db_usage_list(db, &f, use, &u, NULL), AG_OK);
    assert_int_equal(u.n, 1);
    assert_string_equal(u.rows[0].day, "2026-11-30");
    char day[AG_KEYS_DAY_BYTES + 1];
    ag_keys_day(1764460800, day);
    assert_string_equal(day, "2025-11-30");
    assert_true(ag_keys_day_ok("2026-02-28"));
    assert_false(ag_keys_day_ok("2026-13-01") || ag_keys_day_ok("2026-1-1") || ag_keys_day_ok("20260101xx"));
    ag_keys_db_close(db);
}

/* What is wrong with the file is said in one sentence that names it. */
static void refused(int code, const char *part)
{
    ag_keys_db *db = NULL;
    ag_err err = {0};
    int rc = ag_keys_db_open(&db, store_path, NULL, &err);
    if (rc != code || strstr(err.text, part) == NULL || strstr(err.text, "keys.db") == NULL)
        fail_msg("%d, not %d with '%s': %s", rc, code, part, err.text);
}

static void files_that_are_no_databases_are_told(void **state)
{
    (void)state;
    sqlite3 *sql = NULL;
    int fd = open(store_path, O_WRONLY | O_CREAT, 0600);
    assert_int_equal(write(fd, "This is a text, not a database.\n", 32), 32);
    close(fd);
    refused(AG_E_KEYS, "no database");
    unlink(store_path);
    assert_int_equal(sqlite3_open(store_path, &sql), SQLITE_OK);
    assert_int_equal(sqlite3_exec(sql, "CREATE TABLE t(x)", NULL, NULL, NULL), SQLITE_OK);
    refused(AG_E_USAGE, "another program");
    sqlite3_close(sql);
    unlink(store_path);
    assert_int_equal(mkdir(store_path, 0700), 0);
    refused(AG_E_KEYS, "cannot be opened");
    rmdir(store_path);
    ag_keys_db_close(store_open());
    assert_int_equal(sqlite3_open(store_path, &sql), SQLITE_OK);
    assert_int_equal(sqlite3_exec(sql, "PRAGMA user_version = 9", NULL, NULL, NULL), SQLITE_OK);
    refused(AG_E_USAGE, "version 9");
    sqlite3_close(sql);
}

static void change_file(const char *statements)
{
    sqlite3 *sql = NULL;
    assert_int_equal(sqlite3_open(store_path, &sql), SQLITE_OK);
    assert_int_equal(sqlite3_exec(sql, statements, NULL, NULL, NULL), SQLITE_OK);
    sqlite3_close(sql);
}

static void files_of_older_versions_are_brought_up(void **state)
{
    (void)state;
    char text[AG_KEY_TEXT_BYTES + 1];
    static const char *const older[] = {
        "ALTER TABLE keys DROP COLUMN cache; PRAGMA user_version = 2",
        "ALTER TABLE keys DROP COLUMN cache; ALTER TABLE keys DROP COLUMN share; PRAGMA user_version = 1"};
    ag_key k = {.limits = {.burst = 3}}, got, friend = {.share = "friends", .cache = "off"};
    ag_keys_db *db = store_open();
    store_key(db, "gold", &k, text);
    ag_keys_db_close(db);
    for (size_t i = 0; i < 2 * AG_ARRAY_LEN(older); i++) { /* each is opened again when it has been */
        if (i % 2 == 0) change_file(older[i / 2]);
        db = store_open();
        assert_int_equal(ag_keys_db_get(db, k.id, &got, NULL), AG_OK);
        assert_true(got.share[0] == 0 && got.cache[0] == 0 && got.limits.burst == 3);
        ag_keys_db_close(db);
    }
    db = store_open();
    store_key(db, "free", &friend, text);
    assert_int_equal(ag_keys_db_get(db, friend.id, &got, NULL), AG_OK);
    assert_string_equal(got.share, "friends");
    assert_string_equal(got.cache, "off");
    ag_keys_db_close(db);
}

static void a_secret_that_is_not_the_databases_is_told(void **state)
{
    (void)state;
    char text[AG_KEY_TEXT_BYTES + 1];
    ag_key k = {0};
    ag_keys_db *db = store_open();
    store_key(db, "gold", &k, text);
    ag_keys_db_close(db);
    assert_int_equal(unlink(store_secret), 0);
    refused(AG_E_IO, "No such file"); /* and none is made, with which no key would be good */
    int fd = open(store_secret, O_WRONLY | O_CREAT, 0600);
    assert_int_equal(write(fd, "01234567890123456789012345678901", 32), 32);
    close(fd);
    refused(AG_E_USAGE, "--keys-secret");
}

static void rows_that_make_no_sense_are_told(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "band_min = 7", "hash = 'x'",    "tenant = ''",  "roles = 99",
        "weight = -1",  "models = NULL", "created = -1", "tenant = printf('%.*c', 500, 'x')",
        "cache = 'us'", "cache = 'refresh'", "share = 'two words'"};
    char text[AG_KEY_TEXT_BYTES + 1], sql[200];
    for (size_t i = 0; i < AG_ARRAY_LEN(bad); i++) {
        ag_keys_db *db = store_open();
        ag_err err = {0};
        ag_key k = {0};
        store_key(db, "gold", &k, text);
        snprintf(sql, sizeof sql, "UPDATE keys SET %s WHERE id = '%s'", bad[i], k.id);
        if (sqlite3_exec(db->sql, sql, NULL, NULL, NULL) == SQLITE_OK) { /* else SQLite does not let it in */
            assert_int_equal(ag_keys_db_get(db, k.id, &k, &err), AG_E_KEYS);
            assert_non_null(strstr(err.text, "damaged"));
        }
        assert_int_equal(sqlite3_exec(db->sql, "DELETE FROM keys", NULL, NULL, NULL), SQLITE_OK);
        ag_keys_db_close(db);
    }
}

static void a_damaged_page_is_told(void **state)
{
    (void)state;
    char text[AG_KEY_TEXT_BYTES + 1], junk[4096];
    ag_err err = {0};
    ag_keys_db *db = store_open();
    for (int i = 0; i < 200; i++) store_key(db, "gold", &(ag_key){0}, text);
    ag_keys_db_close(db);
    struct stat st;
    assert_int_equal(stat(store_path, &st), 0);
    memset(junk, 0xAA, sizeof junk);
    for (off_t at = 4096; at < st.st_size; at += 4096) store_write(junk, sizeof junk, at);
    seen s = {0};
    int rc = ag_keys_db_open(&db, store_path, NULL, &err);
    if (rc == AG_OK) rc = ag_keys_db_list(db, see, &s, &err);
    assert_int_equal(rc, AG_E_KEYS);
    assert_non_null(strstr(err.text, "damaged"));
}

static void a_full_disk_and_a_lock_are_told(void **state)
{
    (void)state;
    char text[AG_KEY_TEXT_BYTES + 1];
    ag_err err = {0};
    ag_key k = {0};
    ag_keys_db *db = store_open(), *other = store_open();
    assert_int_equal(sqlite3_exec(db->sql, "PRAGMA max_page_count = 1", NULL, NULL, NULL), SQLITE_OK);
    strcpy(k.tenant, "gold");
    int rc = AG_OK;
    for (int i = 0; i < 1000 && rc == AG_OK; i++) rc = ag_keys_db_create(db, &k, text, &err);
    assert_int_equal(rc, AG_E_KEYS);
    assert_non_null(strstr(err.text, "disk is full"));
    ag_err_clear(&err);
    uint64_t version;
    assert_int_equal(ag_keys_db_version(db, &version, &err), AG_OK); /* what was there can still be read */
    assert_int_equal(sqlite3_exec(other->sql, "BEGIN IMMEDIATE", NULL, NULL, NULL), SQLITE_OK);
    sqlite3_busy_timeout(db->sql, 1);
    assert_int_equal(ag_keys_db_revoke(db, k.id, &err), AG_E_KEYS);
    assert_non_null(strstr(err.text, "locked"));
    ag_err_clear(&err);
    assert_int_equal(sqlite3_exec(other->sql, "ROLLBACK; PRAGMA query_only = ON", NULL, NULL, NULL), SQLITE_OK);
    assert_int_equal(ag_keys_db_revoke(other, k.id, &err), AG_E_KEYS);
    assert_non_null(strstr(err.text, "read-only"));
    ag_keys_db_close(db);
    ag_keys_db_close(other);
}

#ifdef AG_FAULTS
static void without_memory_there_is_a_sentence(void **state)
{
    (void)state;
    for (uint32_t n = 1;; n++) {
        ag_keys_db *db = NULL;
        ag_err err = {0};
        ag_fault_arm(AG_FAULT_ALLOC, n);
        int rc = ag_keys_db_open(&db, store_path, NULL, &err);
        bool fired = ag_fault_disarm(AG_FAULT_ALLOC);
        assert_true(rc == (fired ? AG_E_NOMEM : AG_OK));
        assert_true(!fired || err.text[0]);
        ag_keys_db_close(db);
        if (!fired) break;
    }
}
#endif

int main(void)
{
    const struct CMUnitTest tests[] = {
        STORED(keys_are_made_listed_and_ended),
        STORED(limits_are_of_subjects),
        STORED(limits_have_a_limit),
        STORED(the_version_moves_with_keys_and_not_with_usage),
        STORED(usage_adds_up),
        STORED(files_that_are_no_databases_are_told),
        STORED(files_of_older_versions_are_brought_up),
        STORED(a_secret_that_is_not_the_databases_is_told),
        STORED(rows_that_make_no_sense_are_told),
        STORED(a_damaged_page_is_told),
        STORED(a_full_disk_and_a_lock_are_told),
#ifdef AG_FAULTS
        STORED(without_memory_there_is_a_sentence),
#endif
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
