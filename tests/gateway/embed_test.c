/* Embeddings over HTTP with the fake engine behind: what is asked, how many are under way at once, how it ends. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <math.h>

#include "gateway/dialects/request.h"
#include "gateway/served.h"

#define PATH "/v1/embeddings"

static json_t *vector_at(json_t *j, size_t i)
{
    json_t *e = json_array_get(json_object_get(j, "data"), i);
    assert_string_equal(str_at(e, "object"), "embedding");
    assert_int_equal(json_integer_value(json_object_get(e, "index")), (json_int_t)i);
    return json_object_get(e, "embedding");
}

static double number_at(json_t *vector, size_t i) { return json_number_value(json_array_get(vector, i)); }

static void an_answer_is_openais(void **state)
{
    (void)state;
    /* The start counts too, as '@' at place 0; 'A' at 1. */
    json_t *j = post_json(PATH, "{\"model\":\"fake\",\"input\":\"@AA\",\"user\":\"u\",\"priority\":1}", 200),
           *v = vector_at(j, 0);
    assert_string_equal(str_at(j, "object"), "list");
    assert_string_equal(str_at(j, "model"), "fake");
    assert_int_equal(json_array_size(json_object_get(j, "data")), 1);
    assert_int_equal(json_array_size(v), 4);
    assert_true(fabs(number_at(v, 0) - sqrt(0.5)) < 1e-6 && fabs(number_at(v, 1) - sqrt(0.5)) < 1e-6);
    assert_true(number_at(v, 2) == 0 && number_at(v, 3) == 0);
    json_t *usage = json_object_get(j, "usage");
    assert_int_equal(json_integer_value(json_object_get(usage, "prompt_tokens")), 4);
    assert_int_equal(json_integer_value(json_object_get(usage, "total_tokens")), 4);
    json_decref(j);
    assert_int_equal(fake_engine_seen().band, 1);
}

static void every_form_of_input(void **state)
{
    (void)state;
    static const char *const bodies[] = {
        "{\"input\":[\"A\",\"BB\",\"C\"]}",
        "{\"input\":[[256,65],[256,66,66],[256,67]]}",
        "{\"input\":[\"A\",[256,66,66],\"C\"],\"encoding_format\":\"float\"}",
    };
    for (size_t i = 0; i < AG_ARRAY_LEN(bodies); i++) {
        json_t *j = post_json(PATH, bodies[i], 200);
        assert_int_equal(json_array_size(json_object_get(j, "data")), 3);
        assert_true(fabs(number_at(vector_at(j, 0), 1) - sqrt(0.5)) < 1e-6);
        assert_true(fabs(number_at(vector_at(j, 1), 2) - sqrt(0.8)) < 1e-6);
        assert_true(fabs(number_at(vector_at(j, 2), 3) - sqrt(0.5)) < 1e-6);
        assert_int_equal(json_integer_value(json_object_get(json_object_get(j, "usage"), "prompt_tokens")), 7);
        json_decref(j);
    }
    json_t *j = post_json(PATH, "{\"input\":[65,66,67]}", 200); /* one text */
    assert_int_equal(json_array_size(json_object_get(j, "data")), 1);
    assert_true(number_at(vector_at(j, 0), 0) == 0);
    json_decref(j);
}

static void fewer_dimensions_are_of_length_1_again(void **state)
{
    (void)state;
    json_t *j = post_json(PATH, "{\"input\":[[65,65,65,66],[66,67]],\"dimensions\":2}", 200), *v = vector_at(j, 0);
    assert_int_equal(json_array_size(v), 2);
    assert_true(number_at(v, 0) == 0 && fabs(number_at(v, 1) - 1) < 1e-6);
    v = vector_at(j, 1);
    assert_true(number_at(v, 0) == 0 && number_at(v, 1) == 0); /* nothing of it is there */
    json_decref(j);
    j = post_json(PATH, "{\"input\":\"A\",\"dimensions\":4,\"encoding_format\":\"base64\"}", 200);
    assert_string_equal(json_string_value(vector_at(j, 0)), "8wQ1P/MENT8AAAAAAAAAAA==");
    json_decref(j);
    expect(400, "POST", PATH, "", "{\"input\":\"A\",\"dimensions\":5}",
           "'dimensions' is 5; this model's embeddings have 4.");
}

static void wrong_requests_are_told_what_is_wrong(void **state)
{
    (void)state;
    expect(400, "POST", PATH, "", "{}", "missing_required_parameter");
    expect(400, "POST", PATH, "", "{\"input\":[\"a\",\"\"]}", "'input[1]' is empty");
    expect(400, "POST", PATH, "", "{\"input\":[65,300]}",
           "'input' names token 300; this model's vocabulary has 0 to 299.");
    expect(400, "POST", PATH, "", "{\"input\":\"a\",\"encoding_format\":\"hex\"}", "\"param\":\"encoding_format\"");
    expect(404, "POST", PATH, "", "{\"input\":\"a\",\"model\":\"other\"}", "model_not_found");
    expect(405, "GET", PATH, "", NULL, "allow: POST, OPTIONS");
    expect(415, "POST", PATH, "Content-Type: text/plain\r\n", "{\"input\":\"a\"}", "unsupported_media_type");
    expect(200, "POST", PATH, "", "{\"input\":\"a\",\"stream\":true}", "x-autoglm-ignored-fields: stream");
    ag_buf b;
    ag_buf_init(&b, 4u << 20);
    ag_buf_addz(&b, "{\"input\":[\"a\",[1");
    for (int i = 0; i < CTX; i++) ag_buf_addz(&b, ",1");
    ag_buf_addz(&b, "]]}");
    ag_buf_zterm(&b);
    expect(400, "POST", PATH, "", b.p, "'input[1]' comes to 200001 tokens; the context holds 200000.");
    ag_buf_reset(&b);
    ag_buf_addz(&b, "{\"input\":[\"a\"");
    for (int i = 0; i < AG_REQUEST_INPUTS_MAX; i++) ag_buf_addz(&b, ",\"a\"");
    ag_buf_addz(&b, "]}");
    ag_buf_zterm(&b);
    expect(400, "POST", PATH, "", b.p, "'input' has 2049 inputs; one request may have 2048.");
    ag_buf_fini(&b);
}

static void many(ag_buf *b, uint32_t n, const char *form)
{
    ag_buf_init(b, 1u << 20);
    for (uint32_t i = 0; i < n; i++) ag_buf_addf(b, i ? ",\"%s%u\"" : "{\"input\":[\"%s%u\"", form, i);
    ag_buf_addz(b, "]}");
    ag_buf_zterm(b);
}

/* Written by a worker: 8192 numbers. */
static void two_thousand_inputs(void **state)
{
    (void)state;
    ag_buf b;
    many(&b, AG_REQUEST_INPUTS_MAX, "t");
    json_t *j = post_json(PATH, b.p, 200);
    for (size_t i = 0; i < AG_REQUEST_INPUTS_MAX; i++) {
        char text[16];
        double counts[4] = {1}, squares = 0;
        snprintf(text, sizeof text, "t%zu", i);
        for (const char *z = text; *z; z++) counts[*z % 4]++;
        for (int k = 0; k < 4; k++) squares += counts[k] * counts[k];
        for (size_t k = 0; k < 4; k++)
            assert_true(fabs(number_at(vector_at(j, i), k) - counts[k] / sqrt(squares)) < 1e-6);
    }
    json_decref(j);
    ag_buf_fini(&b);
    wait_until_idle();
    double done = ag_metric_get(metrics, AG_M_FINISHED, AG_FINISH_STOP);
    assert_true(done == AG_REQUEST_INPUTS_MAX);
}

static int setup_few(void **state)
{
    (void)state;
    ag_gateway_conf conf = AG_GATEWAY_CONF_DEFAULT;
    conf.generations_max = 2;
    serve(conf, true);
    return 0;
}

#define FEW(f) cmocka_unit_test_setup_teardown(f, setup_few, teardown)

static void await_live(uint32_t n)
{
    while (fake_engine_live() != n) usleep(1000);
}

/* It can be asked for by its id only when all that may run was submitted. */
static void await_five(void)
{
    await_live(2);
    for (int status = 0; status != 200;) {
        char *reply = ask("GET", "/v1/queue/five", "", NULL);
        status = status_of(reply);
        free(reply);
    }
}

/* Whenever they come. */
static void release_all(void)
{
    do {
        fake_engine_release();
        usleep(1000);
    } while (ag_gateway_requests(gw) != 0);
}

static void no_more_at_once_than_may_be(void **state)
{
    (void)state;
    ag_buf b;
    many(&b, 5, "wait");
    int fd = dial();
    send_request(fd, "POST", PATH, "x-request-id: five\r\n", b.p);
    await_five();
    expect(200, "GET", "/v1/queue/five", "", NULL, "\"state\":\"waiting\",\"priority\":2,\"position\":1");
    expect(200, "PATCH", "/v1/queue/five", "Content-Type: application/json\r\n", "{\"priority\":0}", "\"priority\":0");
    fake_engine_release();
    await_live(4); /* the first two are kept until the answer is written */
    assert_int_equal(fake_engine_seen().band, 0);
    release_all();
    char *reply = read_all(fd);
    assert_int_equal(status_of(reply), 200);
    assert_non_null(strstr(reply, "\"index\":4"));
    free(reply);
    ag_buf_fini(&b);
}

static void cancelled_by_id(void **state)
{
    (void)state;
    ag_buf b;
    many(&b, 5, "wait");
    int fd = dial();
    send_request(fd, "POST", PATH, "x-request-id: five\r\n", b.p);
    await_five();
    expect(200, "DELETE", "/v1/queue/five", "", NULL, "\"cancelled\":true");
    char *reply = read_all(fd);
    assert_int_equal(status_of(reply), 499);
    assert_non_null(strstr(reply, "cancelled by DELETE /v1/queue/five"));
    free(reply);
    ag_buf_fini(&b);
    wait_until_idle();
}

static void a_client_that_leaves_is_forgotten(void **state)
{
    (void)state;
    ag_buf b;
    many(&b, 5, "wait");
    int fd = dial();
    send_request(fd, "POST", PATH, "", b.p);
    await_live(2);
    close(fd);
    wait_until_idle();
    assert_int_equal(fake_engine_cancelled(), 2);
    ag_buf_fini(&b);
}

static void a_full_queue_is_waited_for_once_something_is_in_it(void **state)
{
    (void)state;
    expect(503, "POST", PATH, "", "{\"input\":[\"full\",\"a\"]}", "retry-after: 3\r\n");
    int fd = dial();
    send_request(fd, "POST", PATH, "", "{\"input\":[\"wait\",\"full\"]}");
    while (fake_engine_live() == 0) usleep(1000);
    release_all(); /* then there is nothing more to wait for */
    char *reply = read_all(fd);
    assert_int_equal(status_of(reply), 503);
    assert_non_null(strstr(reply, "queue_full"));
    free(reply);
    expect(503, "POST", PATH, "", "{\"input\":[\"a\",\"displace\"]}", "queue_full");
    wait_until_idle();
}

static void late_is_a_whole_answers_end(void **state)
{
    (void)state;
    static const char sentence[] = "The request's timeout of 300 ms was not enough: 0 of its 3 inputs were done.";
    expect(504, "POST", PATH, "", "{\"input\":[\"wait\",\"wait\",\"wait\"],\"timeout_ms\":300}", sentence);
    expect(504, "POST", PATH, "", "{\"input\":[\"give up\",\"wait\",\"wait\"],\"timeout_ms\":300}", sentence);
    expect(503, "POST", PATH, "", "{\"input\":[\"late\"],\"timeout_ms\":5000}", "deadline_unreachable");
    expect(500, "POST", PATH, "", "{\"input\":[\"a\",\"fail:0\"]}", "The device caught fire.");
    wait_until_idle();
}

static void no_memory_is_an_answer(void **state)
{
    (void)state;
#ifdef AG_FAULTS
    static const char *const bodies[] = {"{\"input\":[\"abc\",\"d\",\"e\"],\"dimensions\":3}",
                                         "{\"input\":\"abc\",\"encoding_format\":\"base64\"}"};
    for (size_t i = 0; i < AG_ARRAY_LEN(bodies); i++) {
        for (uint32_t n = 1;; n++) {
            char text[512];
            int fd = dial();
            snprintf(text, sizeof text,
                     "POST " PATH " HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: "
                     "application/json\r\nContent-Length: %zu\r\n\r\n%s",
                     strlen(bodies[i]), bodies[i]);
            ag_fault_arm(AG_FAULT_ALLOC, n);
            send_text(fd, text);
            char *reply = read_all(fd);
            wait_until_idle();
            bool fired = ag_fault_disarm(AG_FAULT_ALLOC);
            int status = status_of(reply);
            if (!(status == 200 || (fired && (status == 503 || status == 0)))) fail_msg("n=%u: %s", n, reply);
            free(reply);
            if (!fired) break;
        }
    }
#endif
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        SERVED(an_answer_is_openais),
        SERVED(every_form_of_input),
        SERVED(fewer_dimensions_are_of_length_1_again),
        SERVED(wrong_requests_are_told_what_is_wrong),
        SERVED(two_thousand_inputs),
        FEW(no_more_at_once_than_may_be),
        FEW(cancelled_by_id),
        FEW(a_client_that_leaves_is_forgotten),
        FEW(a_full_queue_is_waited_for_once_something_is_in_it),
        FEW(late_is_a_whole_answers_end),
        SERVED(no_memory_is_an_answer),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
