/* How requests wait, as callers see it: bands, deadlines, events, and requests by id. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include "gateway/served.h"

#define PATH "/v1/completions"
#define EVENTS "\"stream\":true,\"stream_options\":{\"position_events\":true}"

static void told(const char *headers, const char *fields, int status, const char *part)
{
    char body[256];
    snprintf(body, sizeof body, "{\"prompt\":\"say:x\"%s}", fields);
    expect(status, "POST", PATH, headers, body, part);
}

static void urgency_reaches_the_engine(void **state)
{
    (void)state;
    told("", "", 200, NULL);
    fake_spec s = fake_engine_seen();
    assert_string_equal(s.tenant, "default");
    assert_float_equal(s.weight, 1, 0);
    assert_int_equal(s.band, 2);
    assert_false(s.share_all);
    assert_true(s.deadline_us == 0);
    uint64_t before = ag_now_us();
    told("x-tenant: gold\r\nx-request-priority: 3\r\nx-request-timeout-ms: 60000\r\n", "", 200, NULL);
    s = fake_engine_seen();
    assert_string_equal(s.tenant, "gold");
    assert_int_equal(s.band, 3);
    assert_true(s.deadline_us >= before + 60000000 && s.deadline_us <= ag_now_us() + 60000000);
    told("x-request-priority: 3\r\nx-request-timeout-ms: 60000\r\n",
         ",\"priority\":0,\"timeout_ms\":86400000", 200, NULL);
    s = fake_engine_seen();
    assert_int_equal(s.band, 0);
    assert_true(s.deadline_us >= before + 86400000000);
    ag_gateway_conf conf = AG_GATEWAY_CONF_DEFAULT;
    ag_err err = {0};
    conf.tenant_weights = "gold=3,free=0.5";
    conf.share_prefixes = true;
    conf.band_min = 3;
    assert_int_equal(ag_gateway_reload(gw, &conf, &err), AG_OK);
    told("x-tenant: gold\r\n", "", 200, NULL);
    s = fake_engine_seen();
    assert_float_equal(s.weight, 3, 0);
    assert_true(s.share_all);
    assert_int_equal(s.band, 3);
    told("", ",\"priority\":2", 403, "\"param\":\"priority\"");
    told("x-request-priority: 2\r\n", "", 403, "Priority 2 is more urgent than callers may ask for here: 3 to 3.");
    told("x-request-priority: 2\r\n", ",\"priority\":3", 200, NULL);
    conf.tenant_weights = "gold=0";
    assert_int_equal(ag_gateway_reload(gw, &conf, &err), AG_E_USAGE);
    conf.tenant_weights = NULL;
    conf.band_min = 4;
    ag_err_clear(&err);
    assert_int_equal(ag_gateway_reload(gw, &conf, &err), AG_E_USAGE);
}

static void nonsense_has_its_sentence(void **state)
{
    (void)state;
    told("", ",\"priority\":4", 400, "'priority' must be between 0 and 3; 4 was given.");
    told("", ",\"priority\":-1", 400, "'priority'");
    told("", ",\"priority\":\"high\"", 400, "'priority' must be an integer, not a string.");
    told("", ",\"timeout_ms\":0", 400, "'timeout_ms' must be between 1 and 86400000; 0 was given.");
    told("", ",\"timeout_ms\":-5", 400, "-5 was given");
    told("", ",\"timeout_ms\":1e300", 400, "timeout_ms");
    told("", ",\"priority\":null,\"timeout_ms\":null", 200, NULL);
    static const char *const priorities[] = {"4", "-1", "high", "", "1.0", "00000000001", "+1", "1 2"};
    for (size_t i = 0; i < AG_ARRAY_LEN(priorities); i++) {
        char header[80];
        snprintf(header, sizeof header, "x-request-priority: %s\r\n", priorities[i]);
        told(header, ",\"priority\":1", 400,
             "The header 'x-request-priority' must be a whole number from 0 to 3, not '");
    }
    told("x-request-timeout-ms: 0\r\n", "", 400,
         "The header 'x-request-timeout-ms' must be a whole number from 1 to 86400000");
    told("x-request-timeout-ms: 99999999999999999999\r\n", "", 400, "'x-request-timeout-ms'");
    told("x-tenant: two words\r\n", "", 400, "'x-tenant'");
    told("x-tenant: 12345678901234567890123456789012345678901234567890123456789012345\r\n", "", 400,
         "\"param\":\"x-tenant\"");
    told("", ",\"stream\":true,\"stream_options\":{\"position_events\":1}", 400, "stream_options.position_events");
    told("", ",\"stream_options\":{\"position_events\":true}", 400, "stream");
}

static void the_door_says_when_to_come_again(void **state)
{
    (void)state;
    expect(503, "POST", PATH, "", "{\"prompt\":\"full\"}", "retry-after: 3\r\n");
    expect(503, "POST", PATH, "", "{\"prompt\":\"full\",\"stream\":true}", "\"code\":\"queue_full\"");
    expect(503, "POST", PATH, "", "{\"prompt\":\"displace\"}", "retry-after: 8\r\n");
    expect(503, "POST", PATH, "", "{\"prompt\":\"displace\",\"stream\":true}", "\"code\":\"queue_full\"");
    expect(503, "POST", PATH, "", "{\"prompt\":\"late\",\"timeout_ms\":60000}", "retry-after: 3\r\n");
    expect(503, "POST", PATH, "", "{\"prompt\":\"late\",\"timeout_ms\":60000}", "\"code\":\"deadline_unreachable\"");
    expect(503, "POST", PATH, "", "{\"prompt\":\"late\",\"timeout_ms\":60000}", "It would be ready in 9000 ms.");
    /* One that is refused ends all. */
    expect(503, "POST", PATH, "", "{\"prompt\":[\"hold\",\"wait say:x\",\"full\"]}", "queue_full");
    expect(503, "POST", PATH, "", "{\"prompt\":[\"hold\",\"wait say:x\",\"displace\"]}", "queue_full");
    wait_until_idle();
}

static void who_waits_too_long_gets_504(void **state)
{
    (void)state;
    const char *whole = "{\"prompt\":\"wait say:x\",\"timeout_ms\":300}";
    expect(504, "POST", PATH, "", whole, "The request's timeout of 300 ms passed after ");
    expect(504, "POST", PATH, "", whole, "\"code\":\"deadline_exceeded\"");
    expect(504, "POST", PATH, "x-request-timeout-ms: 300\r\n", "{\"prompt\":\"wait say:x\",\"stream\":true,\"n\":3}",
           "ms in the queue; nothing was computed for it.");
    expect(504, "POST", PATH, "", "{\"prompt\":\"wait say:x\",\"timeout_ms\":1}", "timeout of 1 ms");
    expect(504, "POST", PATH, "", "{\"prompt\":\"give up\",\"timeout_ms\":60000}",
           "ms in the queue, too late to be ready within the timeout of 60000 ms; nothing was computed for it.");
    wait_until_idle();
}

static void who_runs_too_long_gets_what_there_is(void **state)
{
    (void)state;
    json_t *j = post_json(PATH, "{\"prompt\":\"hold\",\"timeout_ms\":300}", 200);
    assert_string_equal(str_at(choice_at(j, 0), "text"), "h");
    assert_string_equal(str_at(choice_at(j, 0), "finish_reason"), "length");
    assert_string_equal(str_at(json_object_get(choice_at(j, 0), "autoglm"), "stopped_by"), "timeout");
    json_decref(j);
    j = post_json(PATH, "{\"prompt\":\"say:x\",\"timeout_ms\":60000}", 200);
    assert_null(json_object_get(choice_at(j, 0), "autoglm"));
    json_decref(j);
    expect(200, "POST", PATH, "", "{\"prompt\":\"hold\",\"timeout_ms\":300,\"stream\":true}",
           "\"text\":\"\",\"logprobs\":null,\"finish_reason\":\"length\",\"autoglm\":{\"stopped_by\":\"timeout\"}}");
    /* Of several, one has begun and one has not. */
    j = post_json(PATH, "{\"prompt\":[\"hold\",\"wait say:x\"],\"timeout_ms\":300,\"echo\":true,\"logprobs\":1}", 200);
    for (size_t i = 0; i < 2; i++) {
        assert_string_equal(str_at(choice_at(j, i), "text"), i ? "wait say:x" : "holdh");
        assert_string_equal(str_at(json_object_get(choice_at(j, i), "autoglm"), "stopped_by"), "timeout");
    }
    json_decref(j);
    expect(200, "POST", PATH, "", "{\"prompt\":[\"hold\",\"wait say:x\"],\"timeout_ms\":300,\"stream\":true}",
           "data: [DONE]");
    /* One that reads its prompt still has begun. */
    j = post_json(PATH, "{\"prompt\":[\"mute\",\"wait say:x\"],\"timeout_ms\":300}", 200);
    for (size_t i = 0; i < 2; i++)
        assert_string_equal(str_at(json_object_get(choice_at(j, i), "autoglm"), "stopped_by"), "timeout");
    json_decref(j);
    wait_until_idle();
}

static void cached_tokens_are_told(void **state)
{
    (void)state;
    json_t *j = post_json(PATH, "{\"prompt\":[\"reuse:7 say:x\",\"reuse:2 say:x\"],\"n\":2}", 200);
    json_t *d = json_object_get(json_object_get(j, "usage"), "prompt_tokens_details");
    assert_int_equal(json_integer_value(json_object_get(d, "cached_tokens")), 9);
    json_decref(j);
    j = post_json(PATH, "{\"prompt\":\"reuse:999 say:x\",\"add_special_tokens\":false}", 200);
    d = json_object_get(json_object_get(j, "usage"), "prompt_tokens_details");
    assert_int_equal(json_integer_value(json_object_get(d, "cached_tokens")), 15);
    json_decref(j);
}

/* A request has its id once all of it was submitted. */
static void await_id(const char *path, const char *headers, const char *part)
{
    for (bool there = false; !there;) {
        char *reply = ask("GET", path, headers, NULL);
        there = status_of(reply) == 200 && strstr(reply, part);
        free(reply);
    }
}

/* Events. */

static int begin(const char *headers, const char *body)
{
    int fd = dial();
    send_request(fd, "POST", PATH, headers, body);
    return fd;
}

static void a_queued_stream_tells_its_place(void **state)
{
    (void)state;
    int first = begin("x-request-id: first\r\n", "{\"prompt\":\"wait say:a\"}");
    await_id("/v1/queue/first", "", "");
    int fd = begin("x-request-id: mine\r\n", "{\"prompt\":\"wait say:bc\"," EVENTS "}");
    read_until(fd, "event: queue\ndata: {\"id\":\"cmpl-");
    expect(200, "PATCH", "/v1/queue/mine", "Content-Type: application/json\r\n", "{\"priority\":1}",
           "\"priority\":1,\"position\":1,");
    read_until(fd, "\"choices\":[],\"queue\":{\"state\":\"waiting\",\"priority\":1,\"position\":1,");
    fake_engine_release();
    read_until(fd, "data: [DONE]");
    close(fd);
    free(read_all(first));
    /* One that need not wait hears nothing of it. */
    char *reply = ask("POST", PATH, "", "{\"prompt\":\"say:b\"," EVENTS "}");
    assert_non_null(strstr(reply, "\"text\":\"b\""));
    assert_null(strstr(reply, "event: "));
    free(reply);
}

static void errors_of_a_stream_that_has_begun_are_events(void **state)
{
    (void)state;
    expect(200, "POST", PATH, "",
           "{\"prompt\":\"wait say:x\",\"timeout_ms\":300," EVENTS "}",
           "event: error\ndata: {\"error\":{\"message\":\"The request's timeout of 300 ms passed");
    char *reply = ask("POST", PATH, "", "{\"prompt\":\"displace\"," EVENTS "}");
    assert_int_equal(status_of(reply), 200);
    char *error = strstr(reply, "\"code\":\"queue_full\"");
    assert_non_null(error);
    assert_non_null(strstr(error, "data: [DONE]"));
    free(reply);
    /* Refused at the door nothing had begun. */
    expect(503, "POST", PATH, "", "{\"prompt\":\"full\"," EVENTS "}", NULL);
    wait_until_idle();
}

/* By id. */

static void a_request_is_asked_for_by_its_id(void **state)
{
    (void)state;
    int a = begin("x-request-id: a/b?1\r\nx-tenant: gold\r\n", "{\"prompt\":\"wait say:a\"}");
    await_id("/v1/queue/a%2Fb%3f1", "x-tenant: gold\r\n", "");
    int b = begin("x-request-id: b\r\nx-tenant: gold\r\n", "{\"prompt\":\"wait say:b\",\"n\":2}");
    await_id("/v1/queue/b", "x-tenant: gold\r\n", "");
    const char *gold = "x-tenant: gold\r\n", *type = "x-tenant: gold\r\nContent-Type: application/json\r\n";
    expect(200, "GET", "/v1/queue/a%2fb%3F1", gold, NULL,
           "{\"id\":\"a/b?1\",\"object\":\"queue.request\",\"state\":\"waiting\",\"priority\":2,\"position\":1,"
           "\"waited_ms\":1,\"estimated_wait_ms\":null}");
    expect(200, "GET", "/v1/queue/b", gold, NULL, "\"state\":\"waiting\",\"priority\":2,\"position\":2,\"waited_ms\":1,"
                                                  "\"estimated_wait_ms\":3000}");
    expect(200, "HEAD", "/v1/queue/b", gold, NULL, NULL);
    /* To a stranger it looks as if it were not there. */
    static const char *const methods[] = {"GET", "PATCH", "DELETE"};
    for (int i = 0; i < 3; i++) {
        const char *patch = i == 1 ? "{\"priority\":0}" : NULL;
        char *foreign = ask(methods[i], "/v1/queue/b", "x-tenant: free\r\nx-request-id: q\r\n", patch);
        char *unknown = ask(methods[i], "/v1/queue/c", "x-tenant: free\r\nx-request-id: q\r\n", patch);
        assert_int_equal(status_of(foreign), 404);
        *strstr(foreign, "id 'b'") = *strstr(unknown, "id 'c'") = '\n';
        strstr(foreign, "d 'b'")[3] = 'c';
        char *bodies[2] = {body_of(foreign), body_of(unknown)};
        assert_string_equal(bodies[0], bodies[1]);
        free(bodies[0]), free(bodies[1]), free(foreign), free(unknown);
    }
    expect(404, "GET", "/v1/queue/b%", gold, NULL, "request_not_found");
    expect(404, "GET", "/v1/queue/b%4g", gold, NULL, "request_not_found");
    expect(404, "GET", "/v1/queue/b%00", gold, NULL, "request_not_found");
    expect(404, "GET", "/v1/queue/", gold, NULL, "\"code\":\"not_found\"");
    expect(405, "POST", "/v1/queue/b", type, "{}", "allow: GET, HEAD, PATCH, DELETE, OPTIONS");
    expect(200, "PATCH", "/v1/queue/b", type, "{\"priority\":0}", "\"priority\":0,\"position\":1,");
    expect(400, "PATCH", "/v1/queue/b", type, "{\"priority\":4}", "'priority' must be between 0 and 3; 4 was given.");
    expect(400, "PATCH", "/v1/queue/b", type, "{}", "missing_required_parameter");
    expect(400, "PATCH", "/v1/queue/b", type, "[]", "invalid_json");
    expect(400, "PATCH", "/v1/queue/b", type, "", "invalid_json");
    expect(415, "PATCH", "/v1/queue/b", "Content-Type: text/plain\r\n", "{}", NULL);
    char long_body[4098];
    memset(long_body, ' ', sizeof long_body - 1);
    long_body[sizeof long_body - 1] = 0;
    expect(413, "PATCH", "/v1/queue/b", type, long_body, "4096");
    ag_gateway_conf conf = AG_GATEWAY_CONF_DEFAULT;
    conf.band_min = 1;
    assert_int_equal(ag_gateway_reload(gw, &conf, NULL), AG_OK);
    expect(403, "PATCH", "/v1/queue/b", type, "{\"priority\":0}",
           "Priority 0 is more urgent than callers may ask for here");
    fake_engine_release();
    free(read_all(a)), free(read_all(b));
    expect(404, "GET", "/v1/queue/b", gold, NULL, "No request of yours waits or runs under the id 'b'.");
    wait_until_idle();
}

static void a_request_is_cancelled_by_its_id(void **state)
{
    (void)state;
    static const char *const bodies[] = {"{\"prompt\":\"wait say:a\",\"n\":2}", "{\"prompt\":\"hold\"}",
                                         "{\"prompt\":\"wait say:a\",\"stream\":true}"};
    for (size_t i = 0; i < AG_ARRAY_LEN(bodies); i++) {
        int fd = begin("x-request-id: a\r\n", bodies[i]);
        await_id("/v1/queue/a", "", "");
        expect(200, "DELETE", "/v1/queue/a", "", NULL,
               "{\"id\":\"a\",\"object\":\"queue.request\",\"cancelled\":true}");
        char *reply = read_all(fd);
        assert_int_equal(status_of(reply), 499);
        assert_non_null(strstr(reply, "\"code\":\"cancelled_by_request\""));
        free(reply);
        wait_until_idle();
    }
    int fd = begin("x-request-id: a\r\n", "{\"prompt\":\"hold\",\"stream\":true}");
    read_until(fd, "\"text\":\"h\"");
    expect(200, "DELETE", "/v1/queue/a", "", NULL, "\"cancelled\":true");
    read_until(fd, "event: error\ndata: {\"error\":{\"message\":\"The request was cancelled by DELETE /v1/queue/a.\"");
    close(fd);
    wait_until_idle();
    assert_int_equal(fake_engine_cancelled(), 5);
}

static void the_newer_of_two_with_one_id_is_meant(void **state)
{
    (void)state;
    int a = begin("x-request-id: same\r\n", "{\"prompt\":\"wait say:a\",\"priority\":1}");
    await_id("/v1/queue/same", "", "\"priority\":1,");
    int b = begin("x-request-id: same\r\n", "{\"prompt\":\"wait say:b\",\"priority\":3}");
    await_id("/v1/queue/same", "", "\"priority\":3,");
    close(b);
    await_id("/v1/queue/same", "", "\"priority\":1,");
    fake_engine_release();
    free(read_all(a));
}

static void whoever_leaves_the_queue_is_forgotten(void **state)
{
    (void)state;
    int fd = begin("x-request-id: a\r\n",
                   "{\"prompt\":\"wait say:a\",\"stream\":true,\"n\":3,\"stream_options\":{\"position_events\":true}}");
    read_until(fd, "event: queue");
    close(fd);
    wait_until_idle();
    expect(404, "GET", "/v1/queue/a", "", NULL, NULL);
    assert_int_equal(fake_engine_cancelled(), 3);
}

static void no_memory_is_an_answer(void **state)
{
    (void)state;
#ifdef AG_FAULTS
    int waiting = begin("x-request-id: a\r\n", "{\"prompt\":\"wait say:a\"}");
    await_id("/v1/queue/a", "", "");
    static const char *const asks[][3] = {
        {"POST", PATH, "{\"prompt\":\"say:b\",\"priority\":1," EVENTS "}"},
        {"POST", PATH, "{\"prompt\":\"wait say:b\",\"timeout_ms\":20," EVENTS "}"},
        {"POST", PATH, "{\"prompt\":\"wait say:b\",\"timeout_ms\":20}"},
        {"GET", "/v1/queue/a", NULL},
        {"PATCH", "/v1/queue/a", "{\"priority\":1}"},
    };
    for (size_t i = 0; i < AG_ARRAY_LEN(asks); i++) {
        for (uint32_t n = 1;; n++) {
            int fd = dial();
            ag_fault_arm(AG_FAULT_ALLOC, n);
            char text[512];
            const char *body = asks[i][2] ? asks[i][2] : "";
            snprintf(text, sizeof text,
                     "%s %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n"
                     "Content-Length: %zu\r\n\r\n%s",
                     asks[i][0], asks[i][1], strlen(body), body);
            send_text(fd, text);
            char *reply = read_all(fd);
            while (ag_gateway_requests(gw) > 1 || fake_engine_live() > 1) usleep(1000);
            bool fired = ag_fault_disarm(AG_FAULT_ALLOC);
            int status = status_of(reply);
            bool right = status == 200 || status == 504;
            /* 0: the connection itself had none. */
            if (!(right || (fired && (status == 503 || status == 0)))) fail_msg("n=%u: %s", n, reply);
            free(reply);
            if (!fired) break;
        }
    }
    expect(200, "DELETE", "/v1/queue/a", "", NULL, "\"cancelled\":true");
    free(read_all(waiting));
#endif
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        SERVED(urgency_reaches_the_engine),
        SERVED(nonsense_has_its_sentence),
        SERVED(the_door_says_when_to_come_again),
        SERVED(who_waits_too_long_gets_504),
        SERVED(who_runs_too_long_gets_what_there_is),
        SERVED(cached_tokens_are_told),
        SERVED(a_queued_stream_tells_its_place),
        SERVED(errors_of_a_stream_that_has_begun_are_events),
        SERVED(a_request_is_asked_for_by_its_id),
        SERVED(a_request_is_cancelled_by_its_id),
        SERVED(the_newer_of_two_with_one_id_is_meant),
        SERVED(whoever_leaves_the_queue_is_forgotten),
        SERVED(no_memory_is_an_answer),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
