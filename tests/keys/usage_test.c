#include "keys/store.h"

#include <pthread.h>
#include <sqlite3.h>

#include "keys/keyring.h"
#include "keys/keys_db_inner.h"

#define DAY_S 86400u

typedef struct total {
    uint32_t rows;
    uint64_t requests, prompt, output;
} total;

static bool sum(void *arg, const ag_usage_row *r)
{
    total *t = arg;
    t->rows++;
    t->requests += r->requests;
    t->prompt += r->prompt_tokens;
    t->output += r->output_tokens;
    return true;
}

static total totals(ag_keys_db *db)
{
    total t = {0};
    assert_int_equal(ag_keys_db_usage_list(db, &(ag_usage_filter){0}, sum, &t, NULL), AG_OK);
    return t;
}

static void rows_are_by_day_key_tenant_and_model(void **state)
{
    (void)state;
    ag_usage *u = NULL;
    ag_keys_db *db = store_open();
    assert_int_equal(ag_usage_open(&u), AG_OK);
    for (int i = 0; i < 10; i++) {
        ag_usage_add(u, 10 * DAY_S, &(ag_usage_what){"a", "t", "m", 1, 5, 0});
        ag_usage_add(u, 10 * DAY_S + 1, &(ag_usage_what){"a", "t", "m", 0, 0, 2});
        ag_usage_add(u, 11 * DAY_S, &(ag_usage_what){"a", "t", "m", 1, 1, 1});
        ag_usage_add(u, 11 * DAY_S, &(ag_usage_what){"a", "t", "n", 1, 1, 1});
        ag_usage_add(u, 11 * DAY_S, &(ag_usage_what){"b", "t", "m", 1, 1, 1});
        ag_usage_add(u, 11 * DAY_S, &(ag_usage_what){"b", "of another", "m", 1, 1, 1}); /* a token that says so */
    }
    assert_int_equal(ag_usage_waiting(u), 5);
    assert_int_equal(ag_usage_write(u, db, NULL), AG_OK);
    assert_int_equal(ag_usage_waiting(u), 0);
    assert_int_equal(ag_usage_write(u, db, NULL), AG_OK);
    total t = totals(db);
    assert_true(t.rows == 5 && t.requests == 50 && t.prompt == 90 && t.output == 60);
    ag_usage_close(u);
    ag_usage_close(NULL);
    ag_keys_db_close(db);
}

static void what_cannot_be_written_waits(void **state)
{
    (void)state;
    ag_usage *u = NULL;
    ag_err err = {0};
    ag_keys_db *db = store_open(), *other = store_open();
    assert_int_equal(ag_usage_open(&u), AG_OK);
    ag_usage_add(u, DAY_S, &(ag_usage_what){"a", "t", "m", 1, 5, 0});
    sqlite3_busy_timeout(db->sql, 1);
    assert_int_equal(sqlite3_exec(other->sql, "BEGIN IMMEDIATE", NULL, NULL, NULL), SQLITE_OK);
    assert_int_equal(ag_usage_write(u, db, &err), AG_E_KEYS);
    assert_int_equal(ag_usage_waiting(u), 1);
    ag_usage_add(u, DAY_S, &(ag_usage_what){"a", "t", "m", 1, 5, 0});
    assert_int_equal(sqlite3_exec(other->sql, "ROLLBACK", NULL, NULL, NULL), SQLITE_OK);
#ifdef AG_FAULTS
    ag_fault_arm(AG_FAULT_ALLOC, 1);
    ag_err_clear(&err);
    assert_int_equal(ag_usage_write(u, db, &err), AG_E_NOMEM);
    ag_fault_disarm(AG_FAULT_ALLOC);
#endif
    assert_int_equal(ag_usage_write(u, db, NULL), AG_OK);
    total t = totals(db);
    assert_true(t.rows == 1 && t.requests == 2 && t.prompt == 10);
    ag_usage_close(u);
    ag_keys_db_close(db);
    ag_keys_db_close(other);
}

static void rows_are_bounded(void **state)
{
    (void)state;
    ag_usage *u = NULL;
    char key[16];
    assert_int_equal(ag_usage_open(&u), AG_OK);
    for (uint32_t i = 0; i < AG_USAGE_ROWS_MAX + 3; i++) {
        snprintf(key, sizeof key, "k%u", i);
        ag_usage_add(u, DAY_S, &(ag_usage_what){key, "t", "m", 1, 0, 0});
    }
    assert_int_equal(ag_usage_waiting(u), AG_USAGE_ROWS_MAX);
    assert_int_equal(ag_usage_lost(u), 3);
    ag_usage_add(u, DAY_S, &(ag_usage_what){"k0", "t", "m", 1, 0, 0});
    assert_int_equal(ag_usage_lost(u), 3);
    ag_usage_close(u);
}

enum { THREADS = 3, ROUNDS = 20000 };

static void *spend(void *arg)
{
    for (int i = 0; i < ROUNDS; i++) ag_usage_add(arg, DAY_S, &(ag_usage_what){i % 2 ? "a" : "b", "t", "m", 1, 2, 3});
    return NULL;
}

/* While two write, as the keeper and a worker do, and some of it fails. */
static void nothing_is_lost_or_counted_twice(void **state)
{
    (void)state;
    ag_usage *u = NULL;
    ag_keys_db *db = store_open(), *full = store_open();
    pthread_t threads[THREADS];
    assert_int_equal(ag_usage_open(&u), AG_OK);
    assert_int_equal(sqlite3_exec(full->sql, "PRAGMA query_only = ON", NULL, NULL, NULL), SQLITE_OK);
    for (int i = 0; i < THREADS; i++) assert_int_equal(pthread_create(&threads[i], NULL, spend, u), 0);
    for (int i = 0; i < 50; i++) {
        assert_int_equal(ag_usage_write(u, db, NULL), AG_OK);
        ag_err err = {0};
        (void)ag_usage_write(u, full, &err);
    }
    for (int i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
    assert_int_equal(ag_usage_write(u, db, NULL), AG_OK);
    total t = totals(db);
    assert_int_equal(t.requests, THREADS * ROUNDS);
    assert_int_equal(t.prompt, 2 * THREADS * ROUNDS);
    assert_int_equal(t.output, 3 * THREADS * ROUNDS);
    ag_usage_close(u);
    ag_keys_db_close(db);
    ag_keys_db_close(full);
}

static void heard(void *arg, const ag_usage_row *row) { sum(arg, row); }

static void a_keyring_writes_and_tells_of_the_month(void **state)
{
    (void)state;
    total t = {0};
    ag_keyring *r = NULL;
    ag_keyring_conf conf = {.path = store_path, .used = heard, .arg = &t};
    assert_int_equal(ag_keyring_open(&r, &conf, NULL), AG_OK);
    assert_int_equal(t.rows, 0);
    uint64_t now_s = ag_wall_us() / 1000000;
    ag_usage_add(ag_keyring_usage(r), now_s, &(ag_usage_what){"a", "t", "m", 1, 2, 3});
    while (ag_usage_waiting(ag_keyring_usage(r))) usleep(1000); /* by itself */
    ag_usage_add(ag_keyring_usage(r), now_s, &(ag_usage_what){"a", "t", "m", 1, 2, 3});
    ag_usage_add(ag_keyring_usage(r), 0, &(ag_usage_what){"a", "t", "m", 1, 2, 3}); /* long ago */
    ag_keyring_close(r);
    assert_int_equal(ag_keyring_open(&r, &conf, NULL), AG_OK);
    assert_true(t.rows == 1 && t.requests == 2 && t.output == 6);
    ag_keyring_close(r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        STORED(rows_are_by_day_key_tenant_and_model),
        STORED(what_cannot_be_written_waits),
        STORED(rows_are_bounded),
        STORED(nothing_is_lost_or_counted_twice),
        STORED(a_keyring_writes_and_tells_of_the_month),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
