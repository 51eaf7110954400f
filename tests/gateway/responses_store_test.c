#include "check.h"

#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fault.h"
#include "gateway/responses_store.c"

#define BODY(z) AG_STR(z)
static char folder[64], path[128];

static int setup(void **state)
{
    (void)state;
    strcpy(folder, "/tmp/autoglm-responses-XXXXXX");
    assert_non_null(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/responses.db", folder);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    char command[100];
    snprintf(command, sizeof command, "rm -rf %s", folder);
    return system(command);
}

static ag_responses *store_of(const char *file, uint64_t max, uint64_t bytes_max)
{
    ag_responses *s = NULL;
    ag_err err = {0};
    ag_responses_conf conf = {.path = file, .max = max, .bytes_max = bytes_max, .keep_s = 100};
    if (ag_responses_open(&s, &conf, &err) != AG_OK) fail_msg("%s", err.text);
    return s;
}

static void put(ag_responses *s, const char *tenant, const char *id, uint64_t now, ag_str body)
{
    ag_err err = {0};
    if (ag_responses_put(s, tenant, id, now, true, body, AG_STR("[]"), &err) != AG_OK) fail_msg("%s", err.text);
}

static int code_of(ag_responses *s, const char *tenant, const char *id, uint64_t now)
{
    ag_stored got;
    ag_err err = {0};
    int rc = ag_responses_get(s, tenant, id, now, &got, &err);
    if (rc != AG_OK) assert_true(err.code == rc && err.text[0]);
    ag_stored_fini(&got);
    return rc;
}

static bool has(ag_responses *s, const char *tenant, const char *id) { return code_of(s, tenant, id, 1000) == AG_OK; }

static void what_is_kept_is_found_by_its_tenant_alone(void **state)
{
    (void)state;
    const char *files[] = {NULL, path};
    for (size_t i = 0; i < 2; i++) {
        ag_responses *s = store_of(files[i], 10, 1 << 20);
        ag_err err = {0};
        ag_stored got;
        put(s, "gold", "resp_1", 1000, BODY("{\"a\":\"\0\"}"));
        put(s, "free", "resp_1", 1000, BODY("other"));
        assert_int_equal(ag_responses_put(s, "gold", "resp_2", 1000, false, AG_STR("begun"), AG_STR("[1]"), &err),
                         AG_OK);
        assert_int_equal(ag_responses_get(s, "gold", "resp_1", 1000, &got, &err), AG_OK);
        assert_true(got.finished && ag_str_eq(ag_buf_str(&got.body), BODY("{\"a\":\"\0\"}")) &&
                    ag_str_eqz(ag_buf_str(&got.items), "[]"));
        ag_stored_fini(&got);
        assert_int_equal(ag_responses_get(s, "gold", "resp_2", 1000, &got, &err), AG_OK);
        assert_true(!got.finished && ag_str_eqz(ag_buf_str(&got.body), "begun") &&
                    ag_str_eqz(ag_buf_str(&got.items), "[1]"));
        ag_stored_fini(&got);
        assert_int_equal(code_of(s, "free", "resp_2", 1000), AG_E_RESPONSE_NOT_FOUND);
        assert_int_equal(code_of(s, "gold", "' OR 1; --", 1000), AG_E_RESPONSE_NOT_FOUND);
        assert_int_equal(ag_responses_delete(s, "free", "resp_2", 1000, &err), AG_E_RESPONSE_NOT_FOUND);
        ag_err_clear(&err);
        assert_int_equal(ag_responses_delete(s, "free", "resp_1", 1000, &err), AG_OK);
        assert_true(has(s, "gold", "resp_1") && !has(s, "free", "resp_1"));
        assert_int_equal(ag_responses_count(s), 2);
        /* The same id twice is nobody's doing but ours. */
        assert_int_equal(ag_responses_put(s, "gold", "resp_1", 1000, true, AG_STR("x"), AG_STR("[]"), &err),
                         AG_E_RESPONSES);
        assert_int_equal(ag_responses_count(s), 2);
        ag_responses_close(s);
    }
}

static void an_end_is_kept_where_the_beginning_still_is(void **state)
{
    (void)state;
    ag_responses *s = store_of(path, 10, 10000);
    ag_err err = {0};
    ag_stored got;
    assert_int_equal(ag_responses_put(s, "t", "a", 1000, false, AG_STR("begun"), AG_STR("[1]"), &err), AG_OK);
    uint64_t before = ag_responses_bytes(s);
    assert_int_equal(ag_responses_finish(s, "t", "a", AG_STR("ended now"), &err), AG_OK);
    assert_int_equal(ag_responses_bytes(s), before + 4);
    assert_int_equal(ag_responses_get(s, "t", "a", 1000, &got, &err), AG_OK);
    assert_true(got.finished && ag_str_eqz(ag_buf_str(&got.body), "ended now") &&
                ag_str_eqz(ag_buf_str(&got.items), "[1]"));
    ag_stored_fini(&got);
    assert_int_equal(ag_responses_delete(s, "t", "a", 1000, &err), AG_OK);
    assert_int_equal(ag_responses_finish(s, "t", "a", AG_STR("again"), &err), AG_OK);
    assert_false(has(s, "t", "a"));
    assert_int_equal(ag_responses_bytes(s), 0);
    /* One that has grown over all bounds is left as it was. */
    static char large[20000];
    assert_int_equal(ag_responses_put(s, "t", "b", 1000, false, AG_STR("begun"), AG_STR("[]"), &err), AG_OK);
    assert_int_equal(ag_responses_finish(s, "t", "b", (ag_str){large, sizeof large}, &err), AG_E_LIMIT);
    assert_true(has(s, "t", "b"));
    ag_responses_close(s);
}

static void the_oldest_of_who_has_most_goes(void **state)
{
    (void)state;
    char id[16];
    ag_responses *s = store_of(path, 6, 1 << 20);
    put(s, "small", "s", 1000, AG_STR("x"));
    for (int i = 0; i < 20; i++) {
        snprintf(id, sizeof id, "b%d", i);
        put(s, "big", id, 1000, AG_STR("y"));
    }
    assert_int_equal(ag_responses_count(s), 6);
    assert_true(has(s, "small", "s") && has(s, "big", "b19") && has(s, "big", "b15") && !has(s, "big", "b14"));
    ag_responses_close(s);
    /* The same by bytes, and by a smaller bound the next time. */
    s = store_of(path, 3, 1 << 20);
    assert_int_equal(ag_responses_count(s), 3);
    assert_true(has(s, "small", "s") && has(s, "big", "b19") && !has(s, "big", "b17"));
    ag_responses_close(s);
    static char large[3000];
    s = store_of(path, 100, 10000);
    for (int i = 0; i < 10; i++) {
        snprintf(id, sizeof id, "l%d", i);
        put(s, "large", id, 1000, (ag_str){large, sizeof large});
        assert_true(ag_responses_bytes(s) <= 10000);
    }
    assert_true(has(s, "small", "s") && has(s, "large", "l9") && !has(s, "large", "l5"));
    ag_err err = {0};
    static char larger[10001];
    assert_int_equal(
        ag_responses_put(s, "large", "all", 1000, true, (ag_str){larger, sizeof larger}, AG_STR("[]"), &err),
        AG_E_LIMIT);
    assert_true(has(s, "large", "l9"));
    ag_responses_close(s);
}

/* What is full says by what: one tenant's many small ones do not push out another's few large ones, nor the other way
 * round. A file that counted bytes alone is taken over. */
static void many_small_ones_do_not_push_out_a_few_large_ones(void **state)
{
    (void)state;
    static char large[3000];
    char id[32];
    sqlite3 *sql;
    static const char before[] =
        "DROP INDEX by_n; DROP TRIGGER came; DROP TRIGGER went; ALTER TABLE tenants DROP COLUMN n;"
        "CREATE TRIGGER came AFTER INSERT ON responses BEGIN"
        " INSERT INTO tenants VALUES(new.tenant, new.bytes) ON CONFLICT(tenant) DO UPDATE SET bytes = bytes + "
        "excluded.bytes; UPDATE total SET n = n + 1, bytes = bytes + new.bytes; END;"
        "CREATE TRIGGER went AFTER DELETE ON responses BEGIN"
        " UPDATE tenants SET bytes = bytes - old.bytes WHERE tenant = old.tenant;"
        " DELETE FROM tenants WHERE tenant = old.tenant AND bytes <= 0;"
        " UPDATE total SET n = n - 1, bytes = bytes - old.bytes; END; PRAGMA user_version = 1";
    ag_responses *s = store_of(path, 6, 1 << 20);
    put(s, "few", "a", 1000, (ag_str){large, sizeof large});
    put(s, "few", "b", 1000, (ag_str){large, sizeof large});
    for (int old = 0; old < 2; old++) {
        for (int i = 0; i < 20; i++) {
            snprintf(id, sizeof id, "%d-%d", old, i);
            put(s, "many", id, 1000, AG_STR("y"));
        }
        snprintf(id, sizeof id, "%d-16", old);
        assert_int_equal(ag_responses_count(s), 6);
        assert_true(has(s, "few", "a") && has(s, "few", "b") && has(s, "many", id));
        ag_responses_close(s);
        assert_int_equal(sqlite3_open(path, &sql), SQLITE_OK);
        if (sqlite3_exec(sql, before, NULL, NULL, NULL) != SQLITE_OK) fail_msg("%s", sqlite3_errmsg(sql));
        sqlite3_close(sql);
        s = store_of(path, 6, 1 << 20);
    }
    ag_responses_close(s);
    s = store_of(path, 100, 5000); /* now it is bytes that are too many */
    assert_true(!has(s, "few", "a") && has(s, "few", "b") && has(s, "many", id));
    ag_responses_close(s);
}

static void what_is_old_is_gone(void **state)
{
    (void)state;
    char id[16];
    ag_err err = {0};
    ag_responses *s = store_of(path, 1000, 1 << 20);
    for (int i = 0; i < 200; i++) {
        snprintf(id, sizeof id, "a%d", i);
        put(s, "t", id, 1000, AG_STR("x"));
    }
    assert_int_equal(code_of(s, "t", "a0", 1100), AG_OK);
    assert_int_equal(code_of(s, "t", "a0", 1101), AG_E_RESPONSE_NOT_FOUND);
    assert_int_equal(ag_responses_delete(s, "t", "a0", 1101, &err), AG_E_RESPONSE_NOT_FOUND);
    put(s, "t", "b", 1101, AG_STR("x"));
    assert_int_equal(ag_responses_count(s), 1);
    assert_int_equal(code_of(s, "t", "b", 0), AG_OK); /* a clock that was set back */
    ag_responses_close(s);
}

static void a_file_outlives_its_server_and_is_nobody_elses(void **state)
{
    (void)state;
    ag_responses *s = store_of(path, 10, 1 << 20), *other = NULL;
    ag_responses_conf conf = {.path = path, .max = 10, .bytes_max = 1 << 20, .keep_s = 100};
    ag_err err = {0};
    struct stat st;
    put(s, "t", "a", 1000, AG_STR("x"));
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    assert_int_equal(ag_responses_open(&other, &conf, &err), AG_E_RESPONSES);
    assert_non_null(strstr(err.text, "another program has it open"));
    ag_responses_close(s);
    s = store_of(path, 10, 1 << 20);
    assert_true(has(s, "t", "a"));
    assert_int_equal(ag_responses_count(s), 1);
    ag_responses_close(s);
}

static void wrong_files_are_refused(void **state)
{
    (void)state;
    ag_responses *s = NULL;
    ag_responses_conf conf = {.path = path, .max = 10, .bytes_max = 1 << 20, .keep_s = 100};
    static const struct {
        const char *sql;
        int code;
        const char *part;
    } cases[] = {{"CREATE TABLE x(y)", AG_E_USAGE, "another program"},
                 {"PRAGMA user_version = 9", AG_E_USAGE, "version 9"}};
    for (size_t i = 0; i < AG_ARRAY_LEN(cases); i++) {
        ag_err err = {0};
        sqlite3 *sql;
        unlink(path);
        if (i == 1) ag_responses_close(store_of(path, 10, 1 << 20));
        assert_int_equal(sqlite3_open(path, &sql), SQLITE_OK);
        assert_int_equal(sqlite3_exec(sql, cases[i].sql, NULL, NULL, NULL), SQLITE_OK);
        sqlite3_close(sql);
        assert_int_equal(ag_responses_open(&s, &conf, &err), cases[i].code);
        assert_non_null(strstr(err.text, cases[i].part));
    }
    ag_err err = {0};
    FILE *f = fopen(path, "w");
    for (int i = 0; i < 500; i++) fputs("this is no database", f);
    fclose(f);
    assert_int_equal(ag_responses_open(&s, &conf, &err), AG_E_RESPONSES);
    assert_non_null(strstr(err.text, "damaged"));
    ag_err_clear(&err);
    conf.path = "/nowhere/responses.db";
    assert_int_equal(ag_responses_open(&s, &conf, &err), AG_E_RESPONSES);
    assert_non_null(strstr(err.text, "/nowhere/responses.db"));
}

/* A disk that is full refuses what comes, keeps what there is, and is not told of by its path. */
static void a_full_disk_is_said(void **state)
{
    (void)state;
    static char large[1 << 20];
    ag_responses *s = store_of(path, 100, 100 << 20);
    ag_err err = {0};
    put(s, "t", "a", 1000, AG_STR("x"));
    assert_int_equal(sqlite3_exec(s->sql, "PRAGMA max_page_count = 60", NULL, NULL, NULL), SQLITE_OK);
    assert_int_equal(ag_responses_put(s, "t", "b", 1000, true, (ag_str){large, sizeof large}, AG_STR("[]"), &err),
                     AG_E_RESPONSES);
    assert_non_null(strstr(err.text, "the disk is full"));
    assert_null(strstr(err.text, folder));
    ag_err_clear(&err);
    assert_int_equal(ag_responses_finish(s, "t", "a", (ag_str){large, sizeof large}, &err), AG_E_RESPONSES);
    assert_true(has(s, "t", "a"));
    assert_int_equal(ag_responses_count(s), 1);
    assert_int_equal(sqlite3_exec(s->sql, "PRAGMA max_page_count = 100000", NULL, NULL, NULL), SQLITE_OK);
    put(s, "t", "b", 1000, (ag_str){large, sizeof large});
    ag_responses_close(s);
}

static void no_memory_is_an_error(void **state)
{
    (void)state;
#ifdef AG_FAULTS
    for (uint32_t n = 1;; n++) {
        ag_responses_conf conf = {.path = path, .max = 10, .bytes_max = 1 << 20, .keep_s = 100};
        ag_responses *s = NULL;
        ag_stored got = {0};
        ag_err err = {0};
        unlink(path);
        ag_fault_arm(AG_FAULT_ALLOC, n);
        int rc = ag_responses_open(&s, &conf, &err);
        if (rc == AG_OK) rc = ag_responses_put(s, "t", "a", 1000, true, AG_STR("x"), AG_STR("[]"), &err);
        if (rc == AG_OK) rc = ag_responses_get(s, "t", "a", 1000, &got, &err);
        ag_stored_fini(&got);
        ag_responses_close(s);
        bool fired = ag_fault_disarm(AG_FAULT_ALLOC);
        assert_true(fired ? rc == AG_E_NOMEM && err.text[0] : rc == AG_OK);
        if (!fired) break;
    }
#endif
}

#define STORED(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        STORED(what_is_kept_is_found_by_its_tenant_alone),
        STORED(an_end_is_kept_where_the_beginning_still_is),
        STORED(the_oldest_of_who_has_most_goes),
        STORED(many_small_ones_do_not_push_out_a_few_large_ones),
        STORED(what_is_old_is_gone),
        STORED(a_file_outlives_its_server_and_is_nobody_elses),
        STORED(wrong_files_are_refused),
        STORED(a_full_disk_is_said),
        STORED(no_memory_is_an_error),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
