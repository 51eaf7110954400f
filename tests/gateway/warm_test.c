/* Warm-up with the fake engine: whose work it is, who follows it, what breaks it off, and what want of memory comes
 * to. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include "gateway/req.h"
#include "gateway/served.h"
#include "keys/store.h"

#define PATH "/v1/completions"
#define WARM "/admin/v1/cache/warm"

static char dir[64], path[128];

static void clear(void)
{
    char key[160];
    snprintf(key, sizeof key, "%s.key", path);
    unlink(path);
    unlink(key);
}

static int serve_keyed(ag_warm_conf warm, const char *keys_db)
{
    ag_gateway_conf conf = AG_GATEWAY_CONF_DEFAULT;
    conf.cache = (ag_caching_conf){.bytes_max = 8u << 20, .ttl_s = 3600};
    conf.history = (ag_history_conf){.mode = AG_HISTORY_FULL, .path = path, .bytes_max = AG_HISTORY_BYTES_MIN,
                                     .files_max = 2};
    conf.warm = warm;
    conf.keys_db = keys_db;
    serve(conf, true);
    return 0;
}

static int serve_warm(ag_warm_conf warm) { return serve_keyed(warm, NULL); }

static const ag_warm_conf asked_for = {.top = 100, .concurrency = 4, .time_ms = 60000};

static int setup_warm(void **state)
{
    (void)state;
    clear();
    return serve_warm(asked_for);
}

#define WARMED(f) cmocka_unit_test_setup_teardown(f, setup_warm, teardown)

static void certain(char out[256], const char *prompt, const char *more)
{
    snprintf(out, 256, "{\"prompt\":\"%s\",\"temperature\":0,\"max_tokens\":50%s}", prompt, more);
}

/* What x-cache says. */
static void check_told(const char *prompt, const char *how)
{
    char body[256], line[40];
    certain(body, prompt, "");
    char *reply = ask("POST", PATH, "x-tenant: acme\r\n", body);
    snprintf(line, sizeof line, "x-cache: %s\r\n", how);
    if (status_of(reply) != 200 || strstr(reply, line) == NULL) fail_msg("wanted %s: %s", how, reply);
    free(reply);
}

static json_t *admin(const char *method, const char *target)
{
    char *reply = ask(method, target, "", NULL), *text = body_of(reply);
    if (status_of(reply) != 200) fail_msg("%s %s: %s", method, target, reply);
    json_t *j = json_loads(text, 0, NULL);
    assert_non_null(j);
    free(text);
    free(reply);
    return j;
}

static int64_t number(const char *name)
{
    json_t *j = admin("GET", WARM);
    json_t *v = json_object_get(j, name);
    int64_t n = json_is_boolean(v) ? json_is_true(v) : json_integer_value(v);
    json_decref(j);
    return n;
}

static void wait_for(const char *name, int64_t n)
{
    while (number(name) < n) sched_yield();
}

static void warm_up(void)
{
    json_decref(admin("POST", WARM));
    while (number("running")) sched_yield();
}

static void forget_all(void) { json_decref(admin("DELETE", "/admin/v1/cache?all=1")); }

static void it_is_its_tenants_and_nobodys(void **state)
{
    (void)state;
    char body[256];
    certain(body, "say:hello", ",\"stream\":true,\"priority\":0,\"timeout_ms\":60000");
    free(ask("POST", PATH, "x-tenant: acme\r\n", body));
    wait_for("records", 1);
    forget_all();
    uint32_t before = fake_engine_made();
    warm_up();
    assert_int_equal(number("computed"), 1);
    assert_int_equal(fake_engine_made() - before, 1);
    fake_spec seen = fake_engine_seen();
    assert_string_equal(seen.tenant, "acme");
    assert_int_equal(seen.band, AG_BANDS - 1);
    assert_int_equal(seen.deadline_us, 0);
    check_told("say:hello", "hit");
    warm_up(); /* it is there: nothing is computed */
    assert_int_equal(fake_engine_made() - before, 1);
    wait_for("records", 2);
    assert_int_equal(number("records"), 2); /* those who ask are logged, and not who asks again */
}

static void what_a_key_had_kept_is_too(void **state)
{
    char text[AG_KEY_TEXT_BYTES + 1], header[120];
    ag_key k = {.cache = "use"};
    store_setup(state);
    ag_keys_db *db = store_open();
    store_key(db, "acme", &k, text);
    ag_keys_db_close(db);
    clear();
    serve_keyed(asked_for, store_path);
    snprintf(header, sizeof header, "Authorization: Bearer %s\r\n", text);
    expect(200, "POST", PATH, header, "{\"prompt\":\"say:hello\"}", "x-cache: miss");
    teardown(state);
    serve_warm(asked_for);
    warm_up();
    assert_int_equal(number("computed"), 1);
    expect(200, "POST", PATH, "x-tenant: acme\r\n", "{\"prompt\":\"say:hello\",\"cache\":{\"mode\":\"use\"}}",
           "x-cache: hit");
    teardown(state);
    store_teardown(state);
}

static void what_fails_is_counted(void **state)
{
    (void)state;
    char body[256];
    certain(body, "fail:0", "");
    free(ask("POST", PATH, "", body));
    certain(body, "full", "");
    free(ask("POST", PATH, "", body));
    wait_for("records", 2);
    warm_up();
    assert_int_equal(number("failed"), 2);
    assert_int_equal(number("done"), 2);
}

/* Its reader is gone, what it asked is not. */
static void log_one_and_leave(const char *prompt)
{
    char body[256];
    uint64_t cancelled_before = fake_engine_cancelled();
    int64_t before = number("records");
    certain(body, prompt, ",\"stream\":true");
    int fd = dial();
    send_request(fd, "POST", PATH, "x-tenant: acme\r\n", body);
    wait_for("records", before + 1);
    close(fd);
    while (fake_engine_cancelled() < cancelled_before + 2) sched_yield(); /* the follower, and what it followed */
}

static void log_one_that_holds(const char *prompt)
{
    log_one_and_leave(prompt);
    while (fake_engine_live()) sched_yield();
}

static void somebody_follows_it(void **state)
{
    (void)state;
    char body[256];
    log_one_that_holds("wait say:hello");
    json_decref(admin("POST", WARM));
    while (fake_engine_live() == 0) sched_yield();
    uint32_t before = fake_engine_made();
    certain(body, "wait say:hello", "");
    int fd = dial();
    send_request(fd, "POST", PATH, "x-tenant: acme\r\n", body);
    while (ag_metric_get(metrics, AG_M_CACHE_REQUESTS, AG_CACHED_COALESCED) == 0) sched_yield();
    fake_engine_release();
    char *reply = read_all(fd);
    assert_int_equal(status_of(reply), 200);
    assert_non_null(strstr(reply, "hello"));
    free(reply);
    assert_int_equal(fake_engine_made(), before);
    while (number("running")) sched_yield();
    assert_int_equal(number("computed"), 1);
}

static int setup_short(void **state)
{
    (void)state;
    clear();
    return serve_warm((ag_warm_conf){.top = 100, .concurrency = 4, .time_ms = 100});
}

static void its_time_is_over(void **state)
{
    (void)state;
    log_one_that_holds("hold");
    do warm_up();
    while (number("yielded") == 0); /* its time was over before it began */
    assert_int_equal(number("yielded"), 1);
    while (fake_engine_live()) sched_yield();
}

static void stopping_breaks_it_off(void **state)
{
    (void)state;
    log_one_that_holds("hold");
    json_decref(admin("POST", WARM));
    while (fake_engine_live() == 0) sched_yield(); /* teardown finds nothing left */
}

static int setup_idle(void **state)
{
    (void)state;
    clear();
    return serve_warm((ag_warm_conf){.idle = true, .top = 100, .concurrency = 1, .time_ms = 1000});
}

static void idle_work_gives_way(void **state)
{
    (void)state;
    log_one_and_leave("hold");
    log_one_and_leave("hold"); /* popular, and not there */
    while (fake_engine_seen().band != AG_BANDS - 1) usleep(1000); /* what lives at first may be the one that left */
    check_told("say:hello", "miss");
    wait_for("yielded", 1);
    assert_int_equal(number("computed") + number("failed"), 0);
}

static int setup_full(void **state)
{
    char body[256];
    setup_warm(state);
    certain(body, "say:hello", "");
    free(ask("POST", PATH, "x-tenant: acme\r\n", body));
    wait_for("records", 1);
    log_one_that_holds("wait say:soon");
    teardown(state);
    return serve_warm((ag_warm_conf){.full = true, .idle = true, .top = 100, .concurrency = 4, .time_ms = 60000});
}

static int ready(void)
{
    char *reply = ask("GET", "/readyz", "", NULL);
    int status = status_of(reply);
    free(reply);
    return status;
}

static void ready_when_it_is_over(void **state)
{
    (void)state;
    while (fake_engine_live() == 0) sched_yield(); /* the one that waits */
    assert_int_equal(ready(), 503);
    assert_true(ag_gateway_warms(gw, NULL, NULL));
    do fake_engine_release(); /* also what is asked for only now */
    while (ready() != 200);
    assert_false(ag_gateway_warms(gw, NULL, NULL));
    assert_int_equal(number("computed"), 2);
    check_told("say:hello", "hit");
}

/* Memory. */

static void want_of_memory(void **state)
{
    (void)state;
#ifdef AG_FAULTS
    char body[256];
    certain(body, "say:hello", ",\"n\":2,\"logprobs\":1");
    free(ask("POST", PATH, "x-tenant: acme\r\n", body));
    wait_for("records", 1);
    bool fired = true;
    for (uint32_t n = 1; fired; n++) {
        forget_all();
        int fd = dial();
        ag_fault_arm(AG_FAULT_ALLOC, n);
        send_text(fd, "POST " WARM " HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        free(read_all(fd));
        ag_warm_state s;
        do ag_warm_get(gw->warm, &s);
        while (s.running && sched_yield() == 0);
        wait_until_idle();
        fired = ag_fault_disarm(AG_FAULT_ALLOC);
        char *reply = ask("POST", PATH, "x-tenant: acme\r\n", body);
        assert_int_equal(status_of(reply), 200);
        assert_non_null(strstr(reply, "hello"));
        free(reply);
    }
#endif
}

int main(void)
{
    strcpy(dir, "/tmp/ag-warm-XXXXXX");
    if (mkdtemp(dir) == NULL) return 1;
    snprintf(path, sizeof path, "%s/asked", dir);
    const struct CMUnitTest tests[] = {
        WARMED(it_is_its_tenants_and_nobodys),
        cmocka_unit_test(what_a_key_had_kept_is_too),
        WARMED(what_fails_is_counted),
        WARMED(somebody_follows_it),
        cmocka_unit_test_setup_teardown(its_time_is_over, setup_short, teardown),
        WARMED(stopping_breaks_it_off),
        cmocka_unit_test_setup_teardown(idle_work_gives_way, setup_idle, teardown),
        cmocka_unit_test_setup_teardown(ready_when_it_is_over, setup_full, teardown),
        WARMED(want_of_memory),
    };
    int rc = cmocka_run_group_tests(tests, NULL, NULL);
    clear();
    rmdir(dir);
    return rc;
}
