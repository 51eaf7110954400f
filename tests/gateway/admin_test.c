#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include "gateway/keyed.h"

static char admin[200], plain[200];

static int setup_both(void **state)
{
    char text[AG_KEY_TEXT_BYTES + 1];
    ag_key a = {.roles = AG_ROLE_ADMIN}, b = {0};
    open_keys(state);
    store_key(db, "ops", &a, text);
    snprintf(admin, sizeof admin, "Authorization: Bearer %s\r\n", text);
    store_key(db, "gold", &b, text);
    snprintf(plain, sizeof plain, "Authorization: Bearer %s\r\n", text);
    return serve_keys(AG_GATEWAY_CONF_DEFAULT);
}

#define BOTH(f) cmocka_unit_test_setup_teardown(f, setup_both, teardown_keys)

static json_t *get(const char *method, const char *path, const char *body)
{
    char *reply = ask(method, path, admin, body), *text = body_of(reply);
    if (status_of(reply) != 200) fail_msg("%s", reply);
    assert_non_null(strcasestr(reply, "cache-control: no-store"));
    json_t *j = json_loads(text, 0, NULL);
    assert_non_null(j);
    free(text);
    free(reply);
    return j;
}

static void keys_are_made_and_ended_and_at_once(void **state)
{
    (void)state;
    char path[100], headers[200];
    for (int i = 0; i < 5; i++) {
        json_t *made = get("POST", "/admin/v1/keys", "{\"tenant\":\"gold\",\"limits\":{\"concurrent\":5}}");
        snprintf(headers, sizeof headers, "Authorization: Bearer %s\r\n", str_at(made, "key"));
        snprintf(path, sizeof path, "/admin/v1/keys/%s", str_at(made, "id"));
        expect(200, "POST", PATH, headers, SAY, "\"hi\""); /* the next request already */
        json_t *turned = get("POST", path, NULL);
        expect(401, "POST", PATH, headers, SAY, "invalid_api_key");
        snprintf(headers, sizeof headers, "Authorization: Bearer %s\r\n", str_at(turned, "key"));
        expect(200, "POST", PATH, headers, SAY, "\"hi\"");
        json_decref(get("DELETE", path, NULL));
        expect(401, "POST", PATH, headers, SAY, "invalid_api_key");
        json_decref(made);
        json_decref(turned);
    }
    json_t *list = get("GET", "/admin/v1/keys", NULL), *one = get("GET", path, NULL);
    assert_int_equal(json_array_size(json_object_get(list, "data")), 7);
    assert_null(json_object_get(one, "key"));
    json_decref(list);
    json_decref(one);
}

static void limits_are_set_by_subject(void **state)
{
    (void)state;
    json_decref(get("PATCH", "/admin/v1/limits/tenant:gold", "{\"requests_per_minute\":1}"));
    json_decref(get("PATCH", "/admin/v1/limits/address%3A%2A", "{\"requests_per_minute\":1000}"));
    expect(200, "POST", PATH, plain, SAY, "\"hi\"");
    expect(429, "POST", PATH, plain, SAY, "the tenant 'gold'");
    json_t *l = get("GET", "/admin/v1/limits", NULL);
    assert_int_equal(json_array_size(json_object_get(l, "data")), 2);
    json_decref(l);
    json_decref(get("PATCH", "/admin/v1/limits/tenant:gold", "{\"requests_per_minute\":null}"));
    expect(200, "POST", PATH, plain, SAY, "\"hi\"");
}

static void usage_counts_what_was_answered(void **state)
{
    (void)state;
    for (int i = 0; i < 3; i++) expect(200, "POST", PATH, plain, SAY, "\"hi\"");
    expect(400, "POST", PATH, plain, "{\"prompt\":7}", "prompt");
    int fd = dial(); /* and what is being made */
    send_request(fd, "POST", PATH, plain, "{\"prompt\":\"hold\",\"max_tokens\":50,\"stream\":true}");
    read_until(fd, "\"h\"");
    json_t *u = get("GET", "/admin/v1/usage?tenant=gold&model=fake", NULL), *row;
    assert_int_equal(json_array_size(json_object_get(u, "data")), 1);
    row = json_array_get(json_object_get(u, "data"), 0);
    assert_string_equal(str_at(row, "tenant"), "gold");
    assert_string_equal(str_at(row, "model"), "fake");
    assert_int_equal(json_integer_value(json_object_get(row, "requests")), 4);
    assert_int_equal(json_integer_value(json_object_get(row, "prompt_tokens")), 3 * 7 + 5);
    assert_int_equal(json_integer_value(json_object_get(row, "output_tokens")), 3 * 2 + 1);
    json_decref(u);
    close(fd);
    wait_until_idle();
    expect(200, "GET", "/admin/v1/usage?format=csv&from=2020-01-01", admin, NULL,
           "day,key,tenant,model,requests,prompt_tokens,output_tokens\r\n20");
    char csv[260];
    snprintf(csv, sizeof csv, "%sAccept: text/csv\r\n", admin);
    expect(200, "GET", "/admin/v1/usage", csv, NULL, "content-type: text/csv");
    u = get("GET", "/admin/v1/usage?to=2020-01-01", NULL);
    assert_int_equal(json_array_size(json_object_get(u, "data")), 0);
    json_decref(u);
}

static void wrong_questions_are_answered(void **state)
{
    (void)state;
    static const char *const paths[] = {"/admin/v1/keys", "/admin/v1/keys/x", "/admin/v1/limits", "/admin/v1/usage"};
    for (size_t i = 0; i < AG_ARRAY_LEN(paths); i++) {
        expect(401, "GET", paths[i], "", NULL, "invalid_api_key");
        expect(403, "GET", paths[i], plain, NULL, "role 'admin'");
        expect(405, "PATCH", paths[i], admin, "{}", "allow: ");
    }
    expect(403, "POST", PATH, admin, SAY, "not the role 'inference'");
    expect(404, "GET", "/admin/v1/keys/0123456789ab", admin, NULL, "key_not_found");
    expect(404, "DELETE", "/admin/v1/keys/%27--", admin, NULL, "key_not_found");
    expect(400, "POST", "/admin/v1/keys", admin, "{\"tenant\":\"\"}", "\"tenant\"");
    expect(400, "POST", "/admin/v1/keys", admin, "{\"tenant\"", "invalid_json");
    expect(400, "POST", "/admin/v1/keys", admin, NULL, "tenant");
    expect(400, "PATCH", "/admin/v1/limits/planet:x", admin, "{}", "tenant:NAME");
    expect(400, "GET", "/admin/v1/usage?from=yesterday", admin, NULL, "\"from\"");
    expect(400, "GET", "/admin/v1/usage?since=1", admin, NULL, "since");
    expect(400, "GET", "/admin/v1/usage?format=xml", admin, NULL, "json or csv");
    expect(400, "GET", "/admin/v1/usage?key=%00", admin, NULL, "\"key\"");
    char type[300], big[6000];
    snprintf(type, sizeof type, "%sContent-Type: text/plain\r\n", admin);
    expect(415, "POST", "/admin/v1/keys", type, "{}", "unsupported_media_type");
    memset(big, ' ', sizeof big - 1);
    big[sizeof big - 1] = 0;
    expect(413, "POST", "/admin/v1/keys", admin, big, "4096 bytes");
}

static void a_file_that_cannot_be_written_is_told(void **state)
{
    (void)state;
    char away[200];
    snprintf(away, sizeof away, "%s.away", store_path);
    assert_int_equal(rename(store_path, away) | mkdir(store_path, 0700), 0);
    char *reply = NULL;
    do { /* 503 either way: the key can no longer be checked, or the file not be opened */
        free(reply);
        reply = ask("POST", "/admin/v1/keys", admin, "{\"tenant\":\"gold\"}");
    } while (status_of(reply) == 200);
    assert_int_equal(status_of(reply), 503);
    free(reply);
    assert_int_equal(rmdir(store_path) | rename(away, store_path), 0);
}

static json_t *connection_with(json_t *list, const char *request_id)
{
    json_t *c, *id;
    size_t i, k;
    json_array_foreach(json_object_get(list, "data"), i, c)
        json_array_foreach(json_object_get(c, "request_ids"), k, id)
            if (strcmp(json_string_value(id), request_id) == 0) return c;
    fail_msg("nothing of '%s'", request_id);
    return NULL;
}

static long long int_at(json_t *j, const char *name) { return json_integer_value(json_object_get(j, name)); }

static void connections_are_listed(void **state)
{
    (void)state;
    char more[400];
    int idle = dial(), streams = dial();
    send_text(idle, "GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n");
    read_until(idle, "ok");
    snprintf(more, sizeof more, "%sx-request-id: a\"b\r\n", plain);
    send_request(streams, "POST", PATH, more, "{\"prompt\":\"hold\",\"stream\":true}");
    read_until(streams, "\"h\"");
    snprintf(more, sizeof more, "%sx-request-id: asks\r\n", admin);
    char *reply = ask("GET", "/admin/v1/connections", more, NULL), *text = body_of(reply);
    json_t *list = json_loads(text, 0, NULL), *s = connection_with(list, "a\"b"), *a = connection_with(list, "asks");
    json_t *i = json_array_get(json_object_get(list, "data"), 0);
    assert_int_equal(json_array_size(json_object_get(list, "data")), 3);
    assert_true(json_is_false(json_object_get(list, "has_more")));
    assert_string_equal(str_at(i, "state"), "idle");
    assert_true(int_at(i, "id") == 1 && int_at(i, "requests") == 1 && int_at(i, "open") == 0);
    assert_int_equal(int_at(i, "bytes_in"), 40);
    assert_string_equal(str_at(s, "state"), "streaming");
    assert_true(int_at(s, "id") == 2 && int_at(s, "open") == 1 && int_at(s, "bytes_out") > 100);
    assert_string_equal(str_at(a, "state"), "active");
    assert_true(int_at(a, "id") == 3);
    assert_string_equal(str_at(a, "address"), "127.0.0.1");
    assert_string_equal(str_at(a, "protocol"), "http/1.1");
    assert_true(json_is_false(json_object_get(a, "tls")) && json_is_real(json_object_get(a, "age_s")));
    json_decref(list);
    free(text);
    free(reply);
    for (int id = 1; id <= 2; id++) { /* a page at a time, over both loops; each question comes as one more */
        snprintf(more, sizeof more, "/admin/v1/connections?limit=1&after=%d", id - 1);
        list = get("GET", more, NULL);
        assert_int_equal(json_array_size(json_object_get(list, "data")), 1);
        assert_int_equal(int_at(json_array_get(json_object_get(list, "data"), 0), "id"), id);
        assert_true(json_is_true(json_object_get(list, "has_more")));
        json_decref(list);
    }
    list = get("GET", "/admin/v1/connections?after=999999999999999999", NULL);
    assert_int_equal(json_array_size(json_object_get(list, "data")), 0);
    json_decref(list);
    static const char *const wrong[] = {"limit=0",  "limit=1001", "limit=",                    "limit",
                                        "after=-1", "after=x",    "after=1234567890123456789", "colour=1"};
    for (size_t k = 0; k < AG_ARRAY_LEN(wrong); k++) {
        snprintf(more, sizeof more, "/admin/v1/connections?%s", wrong[k]);
        expect(400, "GET", more, admin, NULL, k < 7 ? "in the query must be a whole number from" : "The query may say");
    }
    expect(403, "GET", "/admin/v1/connections", plain, NULL, "role 'admin'");
    expect(401, "GET", "/admin/v1/connections", "", NULL, NULL);
    expect(405, "POST", "/admin/v1/connections", admin, "{}", "allow: GET, HEAD, OPTIONS");
    close(idle);
    close(streams);
    wait_until_idle();
}

/* One who leaves while the loops are asked, and a server that stops then. */
static void a_list_that_nobody_waits_for(void **state)
{
    (void)state;
    int fds[20];
    for (size_t i = 0; i < AG_ARRAY_LEN(fds); i++) {
        fds[i] = dial();
        send_request(fds[i], "GET", "/admin/v1/connections", admin, NULL);
        if (i % 2) close(fds[i]);
    }
    for (size_t i = 0; i < AG_ARRAY_LEN(fds); i += 4) free(read_all(fds[i]));
    ag_gateway_stop(gw, 0);
    for (size_t i = 2; i < AG_ARRAY_LEN(fds); i += 4) close(fds[i]);
    assert_int_equal(ag_gateway_requests(gw), 0);
}

static void without_keys_it_is_for_this_machine(void **state)
{
    ag_gateway_conf conf = AG_GATEWAY_CONF_DEFAULT;
    conf.no_auth = true;
    serve(conf, true);
    expect(404, "GET", "/admin/v1/keys", "", NULL, "--keys-db"); /* let in, but there is nothing */
    expect(403, "GET", "/admin/v1/keys", "Host: evil.example\r\n", NULL, "programs on this machine");
    expect(200, "GET", "/admin/v1/connections", "", NULL, "\"has_more\":false");
    expect(403, "GET", "/admin/v1/connections", "Host: evil.example\r\n", NULL, "programs on this machine");
    teardown(state);
    conf.no_auth = false;
    conf.api_key = "sesame";
    serve(conf, true);
    expect(403, "GET", "/admin/v1/keys", "Authorization: Bearer sesame\r\n", NULL, "role 'admin'");
    teardown(state);
}

static void budgets_outlive_the_server(void **state)
{
    setup_both(state);
    json_decref(get("PATCH", "/admin/v1/limits/tenant:gold", "{\"tokens_per_month\":20}"));
    expect(200, "POST", PATH, plain, SAY, "\"hi\"");
    wait_until_idle();
    teardown(state);
    serve_keys(AG_GATEWAY_CONF_DEFAULT);
    expect(200, "POST", PATH, plain, SAY, "\"hi\"");
    wait_until_idle();
    expect(429, "POST", PATH, plain, SAY, "insufficient_quota"); /* 18 are used, 7 more would be 25 */
    teardown_keys(state);
}

#ifdef AG_FAULTS
static void ask_without_memory(const char *path)
{
    for (uint32_t n = 1;; n++) {
        int fd = dial();
        ag_fault_arm(AG_FAULT_ALLOC, n);
        send_text(fd, "GET ");
        send_text(fd, path);
        send_text(fd, " HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n");
        send_text(fd, admin);
        send_text(fd, "\r\n");
        char *reply = read_all(fd);
        wait_until_idle();
        bool fired = ag_fault_disarm(AG_FAULT_ALLOC);
        int status = status_of(reply);
        if (!(status == 200 || (fired && (status == 503 || status == 0)))) fail_msg("n=%u: %s", n, reply);
        free(reply);
        if (!fired) break;
    }
}

static void without_memory_it_says_so(void **state)
{
    (void)state;
    ask_without_memory("/admin/v1/keys");
    ask_without_memory("/admin/v1/connections");
}
#endif

int main(void)
{
    const struct CMUnitTest tests[] = {
        BOTH(keys_are_made_and_ended_and_at_once),
        BOTH(limits_are_set_by_subject),
        BOTH(usage_counts_what_was_answered),
        BOTH(wrong_questions_are_answered),
        BOTH(connections_are_listed),
        BOTH(a_list_that_nobody_waits_for),
        BOTH(a_file_that_cannot_be_written_is_told),
        cmocka_unit_test(without_keys_it_is_for_this_machine),
        cmocka_unit_test(budgets_outlive_the_server),
#ifdef AG_FAULTS
        BOTH(without_memory_it_says_so),
#endif
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
