/* /v1/responses through a gateway: what is kept, who finds it, and what goes on without its client. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include "gateway/responses_store.h"
#include "gateway/served.h"

#define ASK(input, more) "{\"input\":\"" input "\"" more "}"
#define BG ",\"background\":true"

static char path[64], sub[128];

static json_t *body_json(char *reply, int want)
{
    char *text = body_of(reply);
    if (status_of(reply) != want) fail_msg("wanted %d: %s", want, reply);
    json_t *j = json_loads(text, 0, NULL);
    if (j == NULL) fail_msg("no JSON: %s", reply);
    free(text);
    free(reply);
    return j;
}

/* Asks for a response and remembers its path. */
static json_t *create(const char *body)
{
    json_t *j = post_json("/v1/responses", body, 200);
    snprintf(path, sizeof path, "/v1/responses/%.40s", str_at(j, "id"));
    return j;
}

static json_t *get(int want) { return body_json(ask("GET", path, "", NULL), want); }

static const char *below(const char *what)
{
    snprintf(sub, sizeof sub, "%s%s", path, what);
    return sub;
}

static void has_status(json_t *j, const char *want)
{
    if (strcmp(str_at(j, "status"), want) != 0) fail_msg("wanted %s: %s", want, json_dumps(j, JSON_COMPACT));
    json_decref(j);
}

static void wait_for(const char *status)
{
    for (;;) {
        json_t *j = get(200);
        bool there = strcmp(str_at(j, "status"), status) == 0;
        json_decref(j);
        if (there) return;
        usleep(1000);
    }
}

static const char *text_at(json_t *j, size_t i)
{
    return str_at(json_array_get(json_object_get(json_array_get(json_object_get(j, "output"), i), "content"), 0),
                  "text");
}

static void what_was_answered_is_found_again(void **state)
{
    (void)state;
    json_t *j = create(ASK("say:yes", ",\"metadata\":{\"k\":\"v\"}")), *again = get(200);
    assert_string_equal(text_at(j, 0), "yes");
    assert_true(json_equal(j, again));
    json_decref(again);
    char id[64];
    snprintf(id, sizeof id, "%s", str_at(j, "id"));
    has_status(j, "completed");
    expect(200, "HEAD", path, "", NULL, NULL);
    expect(200, "GET", below("/input_items"), "", NULL, "\"content\":[{\"type\":\"input_text\",\"text\":\"say:yes\"}]");
    expect(200, "GET", below("/input_items?limit=1&order=asc&include=x"), "", NULL, "\"has_more\":false");
    expect(200, "GET", below("?include%5B%5D=reasoning.encrypted_content&stream=false"), "", NULL, "\"completed\"");
    /* Another's is not there, however one asks. */
    expect(404, "GET", path, "x-tenant: other\r\n", NULL, "\"response_not_found\"");
    expect(404, "GET", below("/input_items"), "x-tenant: other\r\n", NULL, "\"response_not_found\"");
    expect(404, "POST", below("/cancel"), "x-tenant: other\r\n", "", "\"response_not_found\"");
    expect(404, "DELETE", path, "x-tenant: other\r\n", NULL, "\"response_not_found\"");
    char body[200];
    snprintf(body, sizeof body, "{\"input\":\"say:x\",\"previous_response_id\":\"%s\"}", id);
    expect(400, "POST", "/v1/responses", "x-tenant: other\r\n", body, "\"previous_response_not_found\"");
    /* It goes on, also when what it went on from is forgotten. */
    j = create(body);
    assert_string_equal(str_at(j, "previous_response_id"), id);
    has_status(j, "completed");
    snprintf(sub, sizeof sub, "/v1/responses/%s", id);
    expect(200, "DELETE", sub, "", NULL, "\"deleted\":true");
    expect(404, "DELETE", sub, "", NULL, "\"response_not_found\"");
    expect(404, "GET", sub, "", NULL, NULL);
    j = body_json(ask("GET", below("/input_items?order=asc"), "", NULL), 200);
    assert_int_equal(json_array_size(json_object_get(j, "data")), 3);
    assert_string_equal(str_at(json_array_get(json_object_get(j, "data"), 1), "role"), "assistant");
    json_decref(j);
    expect(400, "POST", "/v1/responses", "", body, "\"param\":\"previous_response_id\"");
    /* What is not to be kept is not. */
    j = create(ASK("say:x", ",\"store\":false"));
    has_status(j, "completed");
    expect(404, "GET", path, "", NULL, NULL);
}

static void every_question_has_its_answer(void **state)
{
    (void)state;
    json_decref(create(ASK("say:yes", "")));
    expect(400, "GET", below("?stream=true"), "", NULL, "\"param\":\"stream\"");
    expect(400, "GET", below("?stream=1"), "", NULL, "true or false");
    expect(400, "GET", below("?starting_after=3"), "", NULL, "\"param\":\"starting_after\"");
    expect(400, "GET", below("/input_items?limit=0"), "", NULL, "1 to 100");
    expect(400, "GET", below("/input_items?limit=x"), "", NULL, "1 to 100");
    expect(400, "GET", below("/input_items?order=up"), "", NULL, "asc or desc");
    expect(400, "GET", below("/input_items?after=%00"), "", NULL, "\"param\":\"after\"");
    expect(400, "GET", below("/input_items?after="), "", NULL, "\"param\":\"after\"");
    expect(400, "GET", below("/input_items?after=nobody"), "", NULL, "'nobody'");
    expect(400, "POST", below("/cancel"), "", "", "'background'");
    expect(400, "POST", below("/cancel"), "", "{}", "'background'");
    expect(404, "GET", "/v1/responses/resp_x", "", NULL, "\"response_not_found\"");
    expect(404, "GET", "/v1/responses/", "", NULL, "\"not_found\"");
    expect(404, "GET", below("/other"), "", NULL, "\"not_found\"");
    expect(404, "GET", "/v1/responses//input_items", "", NULL, "\"not_found\"");
    expect(405, "GET", "/v1/responses", "", NULL, "Allow: POST");
    expect(405, "POST", path, "", "{}", "Allow: GET, HEAD, DELETE");
    expect(405, "GET", below("/cancel"), "", NULL, "Allow: POST");
    expect(405, "DELETE", below("/input_items"), "", NULL, "Allow: GET");
    expect(415, "POST", "/v1/responses", "Content-Type: text/plain\r\n", ASK("x", ""), "application/json");
    expect(400, "POST", "/v1/responses", "", "{}", "\"param\":\"input\"");
    expect(400, "POST", "/v1/responses", "", ASK("say:x", ",\"max_output_tokens\":900000"),
           "'max_output_tokens' is 900000");
    expect(404, "POST", "/v1/responses", "", ASK("say:x", ",\"model\":\"other\""), "\"model_not_found\"");
    expect(503, "POST", "/v1/responses", "", ASK("full", BG), "\"queue_full\"");
    expect(503, "POST", "/v1/responses", "", ASK("displace", ""), "\"queue_full\"");
    wait_until_idle();
}

static void streams_are_kept_before_their_end(void **state)
{
    (void)state;
    char *reply = ask("POST", "/v1/responses", "", ASK("say:h\\u00e9", ",\"stream\":true")), *text = body_of(reply);
    static const char *const order[] = {"event: response.created\n",           "event: response.in_progress\n",
                                        "event: response.output_item.added\n", "event: response.content_part.added\n",
                                        "event: response.output_text.delta\n", "event: response.output_text.done\n",
                                        "event: response.content_part.done\n", "event: response.output_item.done\n",
                                        "event: response.completed\n"};
    const char *at = text;
    for (size_t i = 0; i < AG_ARRAY_LEN(order); i++) {
        at = strstr(at, order[i]);
        if (at == NULL) fail_msg("no %s in its place: %s", order[i], text);
    }
    assert_null(strstr(text, "[DONE]"));
    snprintf(path, sizeof path, "/v1/responses/%.29s", strstr(text, "\"id\":\"resp_") + 6);
    json_t *j = get(200), *told = json_loads(strstr(at, "data: ") + 6, JSON_DISABLE_EOF_CHECK, NULL);
    assert_true(json_equal(j, json_object_get(told, "response")));
    assert_string_equal(text_at(j, 0), "h\xc3\xa9");
    json_decref(told);
    json_decref(j);
    free(text);
    free(reply);
    reply = ask("POST", "/v1/responses", "", ASK("burn:3", ",\"stream\":true"));
    assert_non_null(strstr(reply, "event: response.failed\n"));
    assert_non_null(strstr(reply, "\"error\":{\"code\":\"server_error\""));
    snprintf(path, sizeof path, "/v1/responses/%.29s", strstr(reply, "\"id\":\"resp_") + 6);
    has_status(get(200), "failed");
    free(reply);
    /* One whose client leaves ends, and is not kept. */
    int fd = dial();
    send_request(fd, "POST", "/v1/responses", "", ASK("hold", ",\"stream\":true"));
    read_until(fd, "response.output_text.delta");
    close(fd);
    wait_until_idle();
    assert_int_equal(fake_engine_cancelled(), 1);
    expect(200, "GET", "/metrics", "", NULL, "\nautoglm_responses 2\n");
}

static void the_background_goes_on_alone(void **state)
{
    (void)state;
    json_t *j = create(ASK("wait say:abc", BG));
    assert_true(json_is_true(json_object_get(j, "background")) && json_is_null(json_object_get(j, "usage")));
    has_status(j, "queued");
    has_status(get(200), "queued");
    expect(200, "GET", "/metrics", "", NULL, "\nautoglm_responses_background 1\n");
    char body[200];
    snprintf(body, sizeof body, "{\"input\":\"say:x\",\"previous_response_id\":\"%s\"}",
             path + strlen("/v1/responses/"));
    expect(400, "POST", "/v1/responses", "", body, "it is queued");
    fake_engine_release();
    wait_for("completed");
    j = get(200);
    assert_string_equal(text_at(j, 0), "abc");
    assert_int_equal(json_integer_value(json_object_get(json_object_get(j, "usage"), "output_tokens")), 3);
    json_decref(j);
    has_status(body_json(ask("POST", below("/cancel"), "", ""), 200), "completed"); /* it is too late */
    json_decref(create(ASK("long:3", BG ",\"max_output_tokens\":2")));
    wait_for("incomplete");
    json_decref(create(ASK("fail:2", BG)));
    wait_for("failed");
    wait_until_idle();
    /* Its client is there for the first events, and no longer. */
    int fd = dial();
    char seen[4096];
    send_request(fd, "POST", "/v1/responses", "", ASK("wait say:abc", BG ",\"stream\":true"));
    size_t n = 0;
    do {
        ssize_t k = recv(fd, seen + n, sizeof seen - 1 - n, 0);
        assert_true(k > 0);
        seen[n += (size_t)k] = 0;
    } while (strstr(seen, "event: response.queued") == NULL);
    close(fd);
    snprintf(path, sizeof path, "/v1/responses/%.29s", strstr(seen, "\"id\":\"resp_") + 6);
    has_status(get(200), "queued");
    fake_engine_release();
    wait_for("completed");
    wait_until_idle();
    /* And one that reads to the end. */
    fake_engine_release();
    expect(200, "POST", "/v1/responses", "", ASK("say:abc", BG ",\"stream\":true"), "event: response.completed");
    expect(200, "POST", "/v1/responses", "", ASK("burn:2", BG ",\"stream\":true"), "event: response.failed");
    wait_until_idle();
    assert_int_equal(fake_engine_cancelled(), 0);
}

static void the_background_can_be_ended(void **state)
{
    (void)state;
    json_decref(create(ASK("hold", BG)));
    expect(404, "POST", below("/cancel"), "x-tenant: other\r\n", "", NULL);
    wait_for("in_progress");
    has_status(body_json(ask("POST", below("/cancel"), "", ""), 200), "cancelled");
    has_status(get(200), "cancelled");
    wait_until_idle();
    has_status(get(200), "cancelled");
    has_status(body_json(ask("POST", below("/cancel"), "", ""), 200), "cancelled");
    /* One that waits; then by its request's id; then by forgetting it. */
    json_decref(create(ASK("wait say:x", BG)));
    has_status(body_json(ask("POST", below("/cancel"), "", ""), 200), "cancelled");
    wait_until_idle();
    char *reply = ask("POST", "/v1/responses", "x-request-id: job-1\r\n", ASK("hold", BG));
    snprintf(path, sizeof path, "/v1/responses/%.29s", strstr(reply, "\"id\":\"resp_") + 6);
    free(reply);
    expect(200, "DELETE", "/v1/queue/job-1", "", NULL, "true");
    wait_until_idle();
    has_status(get(200), "cancelled");
    json_decref(create(ASK("hold", BG)));
    expect(200, "DELETE", path, "", NULL, "\"deleted\":true");
    wait_until_idle();
    expect(404, "GET", path, "", NULL, NULL);
    assert_int_equal(fake_engine_cancelled(), 4);
}

static void both_are_bounded(void **state)
{
    (void)state;
    ag_gateway_conf conf = AG_GATEWAY_CONF_DEFAULT;
    conf.background_max = 1;
    conf.responses_bytes_max = 4096;
    serve(conf, true);
    json_decref(create(ASK("hold", BG)));
    expect(503, "POST", "/v1/responses", "", ASK("hold", BG), "Retry-After: ");
    expect(200, "POST", "/v1/responses", "", ASK("say:x", ""), NULL);
    has_status(body_json(ask("POST", below("/cancel"), "", ""), 200), "cancelled");
    wait_until_idle();
    /* One that is too large to be kept is told; one that could not be looked up is not begun. */
    json_decref(create(ASK("long:5000", "")));
    expect(404, "GET", path, "", NULL, NULL);
    ag_buf b;
    ag_buf_init(&b, 1 << 20);
    ag_buf_addz(&b, "{\"background\":true,\"input\":\"say:");
    for (int i = 0; i < 5000; i++) ag_buf_addc(&b, 'x');
    ag_buf_addz(&b, "\"}");
    ag_buf_zterm(&b);
    expect(400, "POST", "/v1/responses", "", b.p, "\"limit_exceeded\"");
    ag_buf_fini(&b);
    json_decref(create(ASK("long:5000", BG))); /* and one that grew too large is told as broken off */
    wait_until_idle();
    has_status(get(200), "failed");
    teardown(NULL);
}

static void what_a_stop_leaves_is_told_as_failed(void **state)
{
    (void)state;
    char file[] = "/tmp/autoglm-background-XXXXXX", id[64];
    int fd = mkstemp(file);
    close(fd);
    unlink(file);
    ag_gateway_conf conf = AG_GATEWAY_CONF_DEFAULT;
    conf.responses_db = file;
    serve(conf, true);
    json_decref(create(ASK("hold", BG)));
    snprintf(id, sizeof id, "%s", path + strlen("/v1/responses/"));
    wait_for("in_progress");
    ag_gateway_drain(gw);
    ag_gateway_stop(gw, 50); /* it gets its time, and is ended then */
    fake_engine_close();
    ag_gateway_close(gw);
    ag_log_close(access_log);
    ag_metrics_close(metrics);
    ag_responses *s = NULL;
    ag_stored got;
    ag_err err = {0};
    ag_responses_conf c = {.path = file, .max = 10, .bytes_max = 1 << 20, .keep_s = 86400};
    assert_int_equal(ag_responses_open(&s, &c, &err), AG_OK);
    assert_int_equal(ag_responses_get(s, "default", id, ag_wall_us() / 1000000, &got, &err), AG_OK);
    ag_buf_zterm(&got.body);
    assert_true(got.finished && strstr(got.body.p, "\"status\":\"failed\"") && strstr(got.body.p, "shutting down"));
    ag_stored_fini(&got);
    /* What was killed is there unfinished, with nobody who works on it. */
    assert_int_equal(
        ag_responses_put(s, "default", "resp_killed", ag_wall_us() / 1000000, false,
                         AG_STR("{\"id\":\"resp_killed\",\"status\":\"queued\",\"background\":true,\"output\":[]}"),
                         AG_STR("[]"), &err),
        AG_OK);
    ag_responses_close(s);
    serve(conf, true);
    snprintf(path, sizeof path, "/v1/responses/resp_killed");
    has_status(get(200), "failed");
    has_status(body_json(ask("POST", below("/cancel"), "", ""), 200), "failed");
    expect(400, "POST", "/v1/responses", "", ASK("say:x", ",\"previous_response_id\":\"resp_killed\""), "it is queued");
    teardown(NULL);
    unlink(file);
}

static void add_frame(ag_buf *b, uint8_t type, uint8_t flags, uint8_t id, const char *p, size_t n)
{
    char hd[9] = {(char)(n >> 16), (char)(n >> 8), (char)n, (char)type, (char)flags, 0, 0, 0, (char)id};
    ag_buf_add(b, hd, sizeof hd);
    ag_buf_add(b, p, n);
}

/* Over HTTP/2, whose windows stay shut: 64 KiB of the events come, and no more. */
static int dial_and_read_nothing(const char *body)
{
    static const char head[] = "\x83\x86\x04\x0d/v1/responses\x01\x09localhost\x0f\x10\x10" "application/json";
    ag_buf b;
    int fd = dial();
    ag_buf_init(&b, 1 << 16);
    ag_buf_addz(&b, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    add_frame(&b, 4, 0, 0, "", 0);
    add_frame(&b, 1, 4, 1, head, sizeof head - 1);
    add_frame(&b, 0, 1, 1, body, strlen(body));
    send_all(fd, b.p, b.n);
    ag_buf_fini(&b);
    return fd;
}

static void a_client_that_reads_nothing_holds_no_stop(void **state)
{
    (void)state;
    char file[] = "/tmp/autoglm-background-XXXXXX", id[64] = "";
    int fd = mkstemp(file);
    close(fd);
    unlink(file);
    ag_gateway_conf conf = AG_GATEWAY_CONF_DEFAULT;
    conf.responses_db = file;
    conf.out_bytes_max = 64 << 10;
    conf.write_timeout_ms = conf.total_timeout_ms; /* an hour, which this test does not have */
    serve(conf, true);
    fd = dial_and_read_nothing(ASK("long:60000", BG ",\"stream\":true"));
    char *seen = malloc(60001);
    size_t n = 0;
    for (ssize_t k; n < 60000 && (k = recv(fd, seen + n, 60000 - n, 0)) > 0;) n += (size_t)k;
    assert_int_equal(n, 60000); /* so the windows are shut, or almost */
    const char *at = memmem(seen, n, "\"id\":\"resp_", 11);
    assert_non_null(at);
    snprintf(id, sizeof id, "%.29s", at + 6);
    free(seen);
    ag_gateway_drain(gw);
    ag_gateway_stop(gw, 50);
    close(fd);
    fake_engine_close();
    ag_gateway_close(gw);
    ag_log_close(access_log);
    ag_metrics_close(metrics);
    assert_int_equal(fake_engine_live(), 0);
    ag_responses *s = NULL;
    ag_stored got;
    ag_err err = {0};
    ag_responses_conf c = {.path = file, .max = 10, .bytes_max = 100 << 20, .keep_s = 86400};
    assert_int_equal(ag_responses_open(&s, &c, &err), AG_OK);
    assert_int_equal(ag_responses_get(s, "default", id, ag_wall_us() / 1000000, &got, &err), AG_OK);
    ag_buf_zterm(&got.body);
    assert_true(got.finished); /* whole, or as far as it was when it was cancelled */
    assert_true(strstr(got.body.p, "\"status\":\"completed\"") || strstr(got.body.p, "shutting down"));
    ag_stored_fini(&got);
    ag_responses_close(s);
    unlink(file);
}

static void no_memory_is_an_answer(void **state)
{
    (void)state;
#ifdef AG_FAULTS
    static const char *const bodies[] = {ASK("say:abc", ""), ASK("say:abc", ",\"stream\":true"), ASK("say:abc", BG),
                                         ASK("say:abc", BG ",\"stream\":true"), NULL};
    json_decref(create(ASK("say:abc", "")));
    for (size_t i = 0; i < AG_ARRAY_LEN(bodies); i++) {
        for (uint32_t n = 1;; n++) {
            int fd = dial();
            ag_buf b;
            ag_buf_init(&b, 4096);
            ag_buf_addf(&b, "%s %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n", bodies[i] ? "POST" : "GET",
                        bodies[i] ? "/v1/responses" : below("/input_items"));
            if (bodies[i])
                ag_buf_addf(&b, "Content-Type: application/json\r\nContent-Length: %zu\r\n", strlen(bodies[i]));
            ag_buf_addf(&b, "\r\n%s", bodies[i] ? bodies[i] : "");
            ag_fault_arm(AG_FAULT_ALLOC, n);
            send_all(fd, b.p, b.n);
            char *reply = read_all(fd);
            wait_until_idle();
            bool fired = ag_fault_disarm(AG_FAULT_ALLOC);
            int status = status_of(reply);
            ag_buf_fini(&b);
            if (!(status == 200 || (fired && (status == 503 || status == 0)))) fail_msg("i=%zu n=%u: %s", i, n, reply);
            free(reply);
            if (!fired) break;
        }
    }
#endif
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        SERVED(what_was_answered_is_found_again),
        SERVED(every_question_has_its_answer),
        SERVED(streams_are_kept_before_their_end),
        SERVED(the_background_goes_on_alone),
        SERVED(the_background_can_be_ended),
        cmocka_unit_test(both_are_bounded),
        cmocka_unit_test(what_a_stop_leaves_is_told_as_failed),
        cmocka_unit_test(a_client_that_reads_nothing_holds_no_stop),
        SERVED(no_memory_is_an_answer),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
