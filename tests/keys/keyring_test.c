#include "keys/store.h"

#include <pthread.h>
#include <sqlite3.h>

#include "keys/keyring.h"
#include "keys/keys_db_inner.h"

#define NOW 1000000u

static pthread_mutex_t noted_lock = PTHREAD_MUTEX_INITIALIZER;
static char noted[600];

static void on_note(void *arg, bool bad, const char *text)
{
    (void)arg;
    pthread_mutex_lock(&noted_lock);
    snprintf(noted, sizeof noted, "%c %s", bad ? '!' : '.', text);
    pthread_mutex_unlock(&noted_lock);
}

static bool was_noted(const char *part)
{
    pthread_mutex_lock(&noted_lock);
    bool yes = strstr(noted, part) != NULL;
    pthread_mutex_unlock(&noted_lock);
    return yes;
}

static ag_keyring *ring_open(void)
{
    ag_keyring *r = NULL;
    ag_err err = {0};
    ag_keyring_conf conf = {.path = store_path, .note = on_note};
    if (ag_keyring_open(&r, &conf, &err) != AG_OK) fail_msg("%s", err.text);
    return r;
}

static ag_key_fate fate_of(ag_keyring *r, const char *text)
{
    ag_key *k = NULL;
    ag_key_fate fate = ag_keyring_check(r, ag_str_of(text), NOW, &k);
    assert_true((fate == AG_KEY_OK) == (k != NULL));
    ag_key_put(k);
    return fate;
}

static void wait_fate(ag_keyring *r, const char *text, ag_key_fate want)
{
    while (fate_of(r, text) != want) usleep(1000);
}

static void each_key_has_its_fate(void **state)
{
    (void)state;
    char good[AG_KEY_TEXT_BYTES + 1], old[AG_KEY_TEXT_BYTES + 1], gone[AG_KEY_TEXT_BYTES + 1],
        wrong[AG_KEY_TEXT_BYTES + 1];
    ag_key a = {.weight = 3}, b = {.expires_s = NOW}, c = {0}, *k = NULL;
    ag_keys_db *db = store_open();
    store_key(db, "gold", &a, good);
    store_key(db, "free", &b, old);
    store_key(db, "free", &c, gone);
    assert_int_equal(ag_keys_db_revoke(db, c.id, NULL), AG_OK);
    assert_int_equal(ag_keys_db_limits_set(db, "address:*", &(ag_limits){.burst = 3}, NULL), AG_OK);
    assert_int_equal(ag_keys_db_limits_set(db, "model:m", &(ag_limits){.burst = 4}, NULL), AG_OK);
    ag_keyring *r = ring_open();
    assert_int_equal(ag_keyring_check(r, ag_str_of(good), NOW, &k), AG_KEY_OK);
    assert_string_equal(k->id, a.id);
    assert_string_equal(k->tenant, "gold");
    ag_key_put(k);
    assert_int_equal(fate_of(r, old), AG_KEY_EXPIRED);
    assert_int_equal(fate_of(r, gone), AG_KEY_REVOKED);
    memcpy(wrong, good, sizeof wrong);
    wrong[AG_KEY_TEXT_BYTES - 1] ^= 1;
    assert_int_equal(fate_of(r, wrong), AG_KEY_WRONG);
    memcpy(wrong, good, sizeof wrong);
    memcpy(wrong + 3, "000000000000", 12);
    assert_int_equal(fate_of(r, wrong), AG_KEY_UNKNOWN);
    assert_int_equal(fate_of(r, ""), AG_KEY_UNKNOWN);
    assert_int_equal(fate_of(r, "your-api-key"), AG_KEY_UNKNOWN);
    assert_int_equal(ag_keyring_keys(r), 2);
    ag_limits l;
    ag_keyring_limits(r, "address", "127.0.0.1", &l);
    assert_int_equal(l.burst, 3);
    ag_keyring_limits(r, "model", "m", &l);
    assert_int_equal(l.burst, 4);
    ag_keyring_limits(r, "model", "other", &l);
    assert_int_equal(l.burst, 0);
    ag_keyring_close(r);
    ag_keys_db_close(db);
    ag_keyring_close(NULL);
}

/* The other connection stands for another process: SQLite makes no difference. */
static void what_others_change_is_seen(void **state)
{
    (void)state;
    char text[AG_KEY_TEXT_BYTES + 1], again[AG_KEY_TEXT_BYTES + 1];
    ag_key a = {0}, *held = NULL;
    ag_keyring *r = ring_open();
    ag_keys_db *db = store_open();
    store_key(db, "gold", &a, text);
    wait_fate(r, text, AG_KEY_OK);
    assert_int_equal(ag_keyring_check(r, ag_str_of(text), NOW, &held), AG_KEY_OK);
    assert_int_equal(ag_keys_db_rotate(db, a.id, again, NULL), AG_OK);
    wait_fate(r, again, AG_KEY_OK);
    assert_int_equal(fate_of(r, text), AG_KEY_WRONG);
    assert_int_equal(ag_keys_db_revoke(db, a.id, NULL), AG_OK);
    wait_fate(r, again, AG_KEY_REVOKED);
    assert_string_equal(held->tenant, "gold"); /* who holds a key keeps what it was */
    ag_key_put(held);
    ag_keys_db_close(db);
    ag_keyring_close(r);
}

static int make_key(void *arg, ag_keys_db *db, ag_err *err)
{
    ag_key k = {.roles = AG_ROLE_INFERENCE, .tenant = "gold"};
    return ag_keys_db_create(db, &k, arg, err);
}

static void a_job_is_seen_when_it_returns(void **state)
{
    (void)state;
    char text[AG_KEY_TEXT_BYTES + 1];
    ag_keyring *r = ring_open();
    for (int i = 0; i < 20; i++) {
        assert_int_equal(ag_keyring_job(r, make_key, text, NULL), AG_OK);
        assert_int_equal(fate_of(r, text), AG_KEY_OK);
    }
    ag_keyring_close(r);
}

/* Whoever might have been revoked is not let in; and it goes on by itself. */
static void a_file_that_cannot_be_read_lets_nobody_in(void **state)
{
    (void)state;
    char text[AG_KEY_TEXT_BYTES + 1], away[200], junk[8192];
    ag_key a = {0};
    ag_keys_db *db = store_open();
    store_key(db, "gold", &a, text);
    ag_keyring *r = ring_open();
    snprintf(away, sizeof away, "%s.away", store_path);
    assert_int_equal(rename(store_path, away), 0);
    wait_fate(r, text, AG_KEY_STALE);
    while (!was_noted("cannot be found")) usleep(1000); /* the keeper's; a fate becomes stale by time alone */
    assert_true(was_noted("! The keys database"));
    assert_int_equal(rename(away, store_path), 0);
    wait_fate(r, text, AG_KEY_OK);
    while (!was_noted("can be read again")) usleep(1000);
    ag_keys_db_close(db);
    ag_keyring_close(r);

    r = ring_open();
    memset(junk, 0x55, sizeof junk);
    int fd = open(away, O_WRONLY | O_CREAT | O_EXCL, 0600);
    assert_int_equal(write(fd, junk, sizeof junk), sizeof junk);
    close(fd);
    assert_int_equal(rename(away, store_path), 0); /* at once: only the first trouble is noted */
    wait_fate(r, text, AG_KEY_STALE);
    while (!was_noted("damaged")) usleep(1000);
    ag_keyring_close(r);
}

static bool count_one(void *arg, const ag_usage_row *row)
{
    *(uint64_t *)arg += row->requests;
    return true;
}

/* A file that is well again at the end, though nobody has noticed yet, gets what waits for it. */
static void usage_is_written_at_the_end(void **state)
{
    (void)state;
    char text[AG_KEY_TEXT_BYTES + 1], away[200];
    ag_key a = {0};
    uint64_t requests = 0;
    ag_keys_db *db = store_open();
    store_key(db, "gold", &a, text);
    ag_keyring *r = ring_open();
    snprintf(away, sizeof away, "%s.away", store_path);
    assert_int_equal(rename(store_path, away), 0);
    wait_fate(r, text, AG_KEY_STALE);
    ag_usage_add(ag_keyring_usage(r), NOW, &(ag_usage_what){a.id, "gold", "m", 3, 1, 1});
    assert_int_equal(rename(away, store_path), 0);
    ag_keyring_close(r);
    assert_false(was_noted("is lost"));
    assert_int_equal(ag_keys_db_usage_list(db, &(ag_usage_filter){0}, count_one, &requests, NULL), AG_OK);
    assert_int_equal(requests, 3);
    ag_keys_db_close(db);
}

#ifdef AG_FAULTS
static void what_fails_at_the_start_is_undone(void **state)
{
    (void)state;
    char text[AG_KEY_TEXT_BYTES + 1];
    ag_key a = {0};
    ag_keys_db *db = store_open();
    store_key(db, "gold", &a, text);
    assert_int_equal(ag_keys_db_limits_set(db, "model:m", &(ag_limits){.burst = 4}, NULL), AG_OK);
    ag_keys_db_close(db);
    for (uint32_t n = 1;; n++) {
        ag_keyring *r = NULL;
        ag_err err = {0};
        ag_keyring_conf conf = {.path = store_path};
        ag_fault_arm(AG_FAULT_ALLOC, n);
        int rc = ag_keyring_open(&r, &conf, &err);
        bool fired = ag_fault_disarm(AG_FAULT_ALLOC);
        assert_true(rc == (fired ? AG_E_NOMEM : AG_OK));
        ag_keyring_close(r);
        if (!fired) break;
    }
    ag_keyring *r = NULL;
    ag_keyring_conf conf = {.path = store_path};
    ag_fault_arm(AG_FAULT_THREAD, 1);
    assert_int_equal(ag_keyring_open(&r, &conf, NULL), AG_E_INTERNAL);
    ag_fault_disarm(AG_FAULT_THREAD);
}
#endif

int main(void)
{
    const struct CMUnitTest tests[] = {
        STORED(each_key_has_its_fate),
        STORED(what_others_change_is_seen),
        STORED(a_job_is_seen_when_it_returns),
        STORED(a_file_that_cannot_be_read_lets_nobody_in),
        STORED(usage_is_written_at_the_end),
#ifdef AG_FAULTS
        STORED(what_fails_at_the_start_is_undone),
#endif
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
