/* HTTP/2 over sockets: what it shares with HTTP/1, what it does with many streams on one connection. */
#include "h2_client.h"

#define WITH_RIG                                                                                                       \
    (void)state;                                                                                                       \
    rig r;                                                                                                             \
    ag_http_conf conf = rig_conf();                                                                                    \
    rig_start(&r, &conf);                                                                                              \
    h2_client c;                                                                                                       \
    h2_dial(&c, &r)
#define END_RIG                                                                                                        \
    h2_hang_up(&c);                                                                                                    \
    rig_stop(&r)

static void test_answers(void **state)
{
    WITH_RIG;
    h2_expect(&c, h2_get(&c, "/hello"), 200, "hello");
    h2_expect(&c, h2_post(&c, "/echo", "some text"), 200, "some text");
    h2_expect(&c, h2_post(&c, "/echo", ""), 200, "");
    h2_expect(&c, h2_get(&c, "/peer"), 200, "127.0.0.1");
    h2_expect(&c, h2_get(&c, "/query?a=b"), 200, "a=b");
    h2_expect(&c, h2_get(&c, "/nowhere"), 404, "");
    h2_expect(&c, h2_get(&c, "/work"), 200, "worked");
    h2_expect(&c, h2_get(&c, "/timer"), 200, "timer");
    h2_reply *a = h2_wait(&c, h2_get(&c, "/none"));
    assert_int_equal(a->status, 204);
    assert_null(strstr(a->head, "content-length"));
    int32_t id = h2_get(&c, "/stream");
    h2_expect(&c, id, 200, "onetwothree");
    assert_null(strstr(h2_find(&c, id)->head, "content-length"));
    rig_wait(&r, RIG_DONE, 10);
    assert_int_equal(rig_count(&r, RIG_GONE), 0);
    END_RIG;
}

static void test_head_method(void **state)
{
    WITH_RIG;
    int32_t id = h2_ask_with(&c, "HEAD", "/hello", NULL, 0, false, NULL, 0);
    h2_expect(&c, id, 200, "");
    assert_non_null(strstr(h2_find(&c, id)->head, "content-length: 5\n"));
    id = h2_ask_with(&c, "HEAD", "/stream", NULL, 0, false, NULL, 0);
    h2_expect(&c, id, 200, "");
    assert_non_null(strstr(h2_find(&c, id)->head, "text/event-stream"));
    id = h2_ask_with(&c, "HEAD", "no path", NULL, 0, false, NULL, 0); /* nor an error's body */
    h2_wait(&c, id);
    assert_int_equal(h2_find(&c, id)->n, 0);
    id = h2_ask_with(&c, "HEAD", "/holdstream", NULL, 0, false, NULL, 0); /* ends when its user says so */
    h2_flush(&c);
    rig_wait(&r, RIG_END, 3);
    assert_int_equal(rig_count(&r, RIG_DONE), 2);
    rig_post(&r, 0, "e", false);
    h2_expect(&c, id, 200, "");
    rig_wait(&r, RIG_DONE, 3);
    END_RIG;
}

static void test_answer_headers(void **state)
{
    WITH_RIG;
    int32_t id = h2_get(&c, "/inject");
    h2_expect(&c, id, 200, "ok");
    const char *head = h2_find(&c, id)->head;
    assert_non_null(strstr(head, "x-good: a b\n"));
    assert_non_null(strstr(head, "content-length: 2\n"));
    assert_non_null(strstr(head, "date: "));
    assert_null(strstr(head, "njected"));
    assert_null(strstr(head, "x-bad"));
    assert_null(strstr(head, "transfer-encoding"));
    id = h2_get(&c, "/close"); /* HTTP/1's way to end a connection means nothing here */
    h2_expect(&c, id, 200, "bye");
    assert_null(strstr(h2_find(&c, id)->head, "connection"));
    h2_expect(&c, h2_get(&c, "/hello"), 200, "hello");
    END_RIG;
}

/* Status and body are the same bytes whichever protocol carries them, small, large, streamed and refused. */
static void test_same_as_h1(void **state)
{
    static const char *const paths[] = {"/hello", "/stream", "/query?x", "/nowhere", "/big?300000", "/flood?300000",
                                        "/early", "/earlystream"};
    WITH_RIG;
    for (size_t i = 0; i < AG_ARRAY_LEN(paths); i++) {
        char in[128];
        int fd = dial(&r);
        snprintf(in, sizeof in, "GET %s HTTP/1.1\r\n" RIG_HOST "\r\n", paths[i]);
        send_z(fd, in);
        reply one = get_reply(fd);
        h2_reply *two = h2_wait(&c, h2_get(&c, paths[i]));
        assert_true(two->closed);
        assert_int_equal(one.status, two->status);
        assert_int_equal(one.n, two->n);
        assert_memory_equal(one.body, two->body, one.n);
        free(one.body);
        close(fd);
    }
    END_RIG;
}

static void test_many_streams(void **state)
{
    enum { N = 60 };
    WITH_RIG;
    char texts[N][24];
    int32_t ids[N];
    for (int i = 0; i < N; i++) {
        snprintf(texts[i], sizeof texts[i], "text %d", i);
        ids[i] = i % 3 ? h2_post(&c, "/echo", texts[i]) : h2_get(&c, "/timer");
    }
    for (int i = N; i-- > 0;) h2_expect(&c, ids[i], 200, i % 3 ? texts[i] : "timer");
    rig_wait(&r, RIG_DONE, N);
    assert_int_equal(ag_http_server_connections(r.server), 1);
    END_RIG;
}

/* Answered before the body was read: the answer is whole, the client is told to stop, the connection goes on. */
static void test_early_answer(void **state)
{
    WITH_RIG;
    int32_t id = h2_ask_with(&c, "POST", "/early", "part", 4, true, NULL, 0);
    h2_expect(&c, id, 403, "no");
    assert_int_equal(h2_find(&c, id)->error, NGHTTP2_NO_ERROR);
    id = h2_ask_with(&c, "POST", "/midbody", "part", 4, true, NULL, 0);
    h2_expect(&c, id, 403, "enough");
    h2_expect(&c, h2_post(&c, "/echo", "on"), 200, "on");
    rig_wait(&r, RIG_DONE, 3);
    assert_int_equal(rig_count(&r, RIG_GONE), 0);
    END_RIG;
}

static void test_trailers(void **state)
{
    static const char *const queries[] = {"", "?whole", "?bare"}, *const bodies[] = {"stream", "whole", ""};
    WITH_RIG;
    for (size_t i = 0; i < AG_ARRAY_LEN(queries); i++) {
        char path[32];
        snprintf(path, sizeof path, "/trailers%s", queries[i]);
        int32_t id = h2_get(&c, path);
        h2_expect(&c, id, 200, bodies[i]);
        const char *head = h2_find(&c, id)->head, *end = strstr(head, "x-end: well\nx-empty: \n");
        assert_non_null(end);
        assert_true(end > strstr(head, ":status: 200") && strstr(head, "x-bad") == NULL);
        assert_int_equal(h2_find(&c, id)->error, NGHTTP2_NO_ERROR);
    }
    rig_wait(&r, RIG_DONE, 3);
    assert_int_equal(rig_count(&r, RIG_GONE), 0);
    int fd = dial(&r);
    send_z(fd, "GET /trailers HTTP/1.1\r\n" RIG_HOST "\r\n");
    reply one = get_reply(fd);
    assert_int_equal(one.status, 501); /* over HTTP/1 there are none */
    free(one.body);
    close(fd);
    END_RIG;
}

static void test_both_ways(void **state)
{
    WITH_RIG;
    int32_t id = h2_ask_with(&c, "POST", "/both", "abc", 3, true, NULL, 0);
    h2_reply *a = h2_find(&c, id);
    while (a->n < 3) assert_true(h2_turn(&c));
    assert_false(a->closed);
    a->sends = "defg";
    a->n_sends = 4;
    a->sends_more = false;
    assert_int_equal(nghttp2_session_resume_data(c.session, id), 0);
    h2_expect(&c, id, 200, "abcdefg");
    h2_expect(&c, h2_get(&c, "/both"), 200, ""); /* ended before it began */
    rig_wait(&r, RIG_DONE, 2);
    assert_int_equal(rig_count(&r, RIG_GONE), 0);
    static char big[(1 << 20) + 1];
    id = h2_ask_with(&c, "POST", "/both", big, sizeof big, true, NULL, 0); /* its head is out: it can only be cut */
    assert_int_equal(h2_wait(&c, id)->error, NGHTTP2_ENHANCE_YOUR_CALM);
    assert_int_equal(ag_http_server_bad_count(r.server, AG_HTTP_BAD_BODY_SIZE), 1);
    h2_expect(&c, h2_get(&c, "/hello"), 200, "hello");
    rig_wait(&r, RIG_GONE, 1);
    END_RIG;
}

static void test_continue(void **state)
{
    WITH_RIG;
    nghttp2_nv expect = h2_nv("expect", "100-continue");
    int32_t id = h2_ask_with(&c, "POST", "/echo", "body", 4, false, &expect, 1);
    h2_expect(&c, id, 200, "body");
    assert_true(h2_find(&c, id)->continued);
    expect = h2_nv("expect", "a miracle");
    h2_expect_bad(&c, h2_ask_with(&c, "POST", "/echo", "body", 4, false, &expect, 1), 417, "parse");
    END_RIG;
}

static void test_reset_by_client(void **state)
{
    WITH_RIG;
    int32_t held = h2_get(&c, "/hold");
    h2_flush(&c);
    rig_wait(&r, RIG_END, 1);
    nghttp2_submit_rst_stream(c.session, 0, held, NGHTTP2_CANCEL);
    h2_flush(&c);
    rig_wait(&r, RIG_GONE, 1);
    rig_wait(&r, RIG_DONE, 1);
    assert_string_equal(r.order, "HEGD");
    h2_expect(&c, h2_get(&c, "/hello"), 200, "hello");
    END_RIG;
}

static void test_lost_connection(void **state)
{
    WITH_RIG;
    for (int i = 0; i < 5; i++) h2_get(&c, i % 2 ? "/holdstream" : "/hold");
    h2_flush(&c);
    rig_wait(&r, RIG_END, 5);
    h2_hang_up(&c);
    rig_wait(&r, RIG_GONE, 5);
    rig_wait(&r, RIG_DONE, 5);
    rig_stop(&r);
}

/* As on HTTP/1: who shuts its side has left what is not answered, and gets what is. */
static void test_half_close(void **state)
{
    WITH_RIG;
    int32_t held = h2_get(&c, "/hold"), big = h2_get(&c, "/big?3000000");
    h2_flush(&c);
    rig_wait(&r, RIG_END, 2);
    shutdown(c.fd, SHUT_WR);
    c.shut = true;
    rig_wait(&r, RIG_GONE, 2);
    rig_wait(&r, RIG_DONE, 2);
    while (h2_turn(&c)) {}
    assert_int_equal(h2_find(&c, held)->error, NGHTTP2_CANCEL);
    assert_int_equal(h2_find(&c, big)->n, 65535); /* as far as its window reached, which nobody opens any more */
    assert_int_equal(h2_find(&c, big)->error, NGHTTP2_CANCEL);
    END_RIG;
}

static void test_abort(void **state)
{
    WITH_RIG;
    int32_t id = h2_get(&c, "/abort");
    assert_int_equal(h2_wait(&c, id)->error, NGHTTP2_INTERNAL_ERROR);
    id = h2_get(&c, "/break");
    assert_int_equal(h2_wait(&c, id)->error, NGHTTP2_INTERNAL_ERROR);
    assert_string_equal(h2_find(&c, id)->body, "half");
    id = h2_get(&c, "/holdstream");
    h2_flush(&c);
    rig_wait(&r, RIG_END, 3);
    rig_post(&r, 0, "w: and more", false);
    rig_post(&r, 0, "a", false);
    assert_int_equal(h2_wait(&c, id)->error, NGHTTP2_INTERNAL_ERROR);
    assert_string_equal(h2_find(&c, id)->body, "first and more");
    h2_expect(&c, h2_get(&c, "/hello"), 200, "hello");
    rig_wait(&r, RIG_DONE, 4);
    assert_int_equal(rig_count(&r, RIG_GONE), 0);
    END_RIG;
}

/* Streams whose windows are shut hold what they may and no more, and do not keep their neighbour from its answer. */
static void test_stalled_neighbours(void **state)
{
    enum { N = 2000000 };
    (void)state;
    rig r;
    ag_http_conf conf = rig_conf();
    rig_start(&r, &conf);
    h2_client c;
    h2_open(&c, dial(&r), true);
    nghttp2_session_set_local_window_size(c.session, 0, 0, 1 << 30);
    int32_t stuck[3], lively;
    for (int i = 0; i < 3; i++) stuck[i] = h2_get(&c, "/flood?2000000");
    h2_flush(&c);
    rig_wait(&r, RIG_FULL, 3);
    lively = h2_get(&c, "/flood?2000000");
    h2_flush(&c);
    while (h2_find(&c, lively)->n < N && h2_turn(&c)) {
        nghttp2_session_consume_stream(c.session, lively, h2_find(&c, lively)->n);
        nghttp2_session_set_local_window_size(c.session, 0, lively, 1 << 30);
    }
    assert_int_equal(h2_wait(&c, lively)->n, N);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(h2_find(&c, stuck[i])->n, 65535);
        nghttp2_session_set_local_window_size(c.session, 0, stuck[i], 1 << 30);
    }
    for (int i = 0; i < 3; i++) assert_int_equal(h2_wait(&c, stuck[i])->n, N);
    h2_hang_up(&c);
    rig_stop(&r);
}

static void test_flow_control(void **state)
{
    enum { N = 5000000 };
    WITH_RIG;
    int32_t a = h2_get(&c, "/flood?5000000"), b = h2_get(&c, "/big?5000000");
    char *body = malloc(1000000);
    memset(body, 'x', 1000000);
    int32_t echo = h2_ask_with(&c, "POST", "/echo", body, 1000000, false, NULL, 0);
    assert_int_equal(h2_wait(&c, a)->n, N);
    assert_int_equal(h2_wait(&c, b)->n, N);
    assert_int_equal(h2_wait(&c, echo)->n, 1000000);
    assert_memory_equal(h2_find(&c, echo)->body, body, 1000000);
    free(body);
    END_RIG;
}

static void test_drain(void **state)
{
    WITH_RIG;
    int32_t held = h2_get(&c, "/hold");
    h2_flush(&c);
    rig_wait(&r, RIG_END, 1);
    ag_http_server_drain(r.server);
    while (!c.goaway && h2_turn(&c)) {}
    assert_int_equal(c.goaway_code, NGHTTP2_NO_ERROR);
    rig_post(&r, 0, "r:late", false);
    h2_expect(&c, held, 200, "late");
    while (h2_turn(&c)) {}
    END_RIG;
}

static void test_drain_idle(void **state)
{
    WITH_RIG;
    h2_expect(&c, h2_get(&c, "/hello"), 200, "hello");
    ag_http_server_drain(r.server);
    h2_expect_end(&c, NGHTTP2_NO_ERROR);
    END_RIG;
}

static void test_stop_while_running(void **state)
{
    WITH_RIG;
    for (int i = 0; i < 10; i++) h2_get(&c, i % 2 ? "/holdstream" : "/hold");
    h2_flush(&c);
    rig_wait(&r, RIG_END, 10);
    rig_stop(&r); /* sees that each head had its done */
    h2_hang_up(&c);
}

/* The first bytes decide, however they are cut; HTTP/1 is not disturbed. */
static void test_preface(void **state)
{
    (void)state;
    rig r;
    ag_http_conf conf = rig_conf();
    rig_start(&r, &conf);
    int fd = dial(&r);
    static const char in[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0\0\0\6\1\5\0\0\0\1" H2_RAW_GET;
    for (size_t i = 0; i < sizeof in - 1; i++) assert_true(send_n(fd, in + i, 1));
    assert_true(h2_raw_wait(fd, NGHTTP2_HEADERS, 1, NULL, 0) > 0);
    close(fd);
    fd = dial(&r);
    send_z(fd, "PR");
    send_z(fd, "OPFIND /hello HTTP/1.1\r\n" RIG_HOST "\r\n");
    expect_reply(fd, 200, "hello");
    send_z(fd, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"); /* only at the beginning */
    expect_bad(fd, 400, "parse");
    close(fd);
    fd = dial(&r);
    send_z(fd, "PRI /hello HTTP/1.1\r\n" RIG_HOST "\r\n");
    h2_raw_wait(fd, 255, 0, NULL, 0);
    close(fd);
    assert_int_equal(rig_bads(&r, AG_HTTP_BAD_PARSE), 2);
    fd = dial(&r);
    send_z(fd, "GET /hello HTTP/1.1\r\n" RIG_HOST
               "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n");
    expect_reply(fd, 200, "hello");
    close(fd);
    rig_stop(&r);
}

static void fault_loop(ag_fault_kind kind)
{
    rig r;
    ag_http_conf conf = rig_conf();
    rig_start(&r, &conf);
    bool fired = true;
    for (uint32_t n = 1; fired; n++) {
        h2_client c;
        ag_fault_arm(kind, n);
        h2_dial(&c, &r);
        int32_t echo = h2_post(&c, "/echo", "text"), stream = h2_get(&c, "/stream"), big = h2_get(&c, "/big?200000"),
                trailers = h2_get(&c, "/trailers");
        bool ok = h2_wait(&c, echo)->status == 200 && strcmp(h2_find(&c, echo)->body, "text") == 0;
        ok &= h2_wait(&c, stream)->status == 200 && strcmp(h2_find(&c, stream)->body, "onetwothree") == 0;
        ok &= h2_wait(&c, big)->n == 200000;
        ok &= h2_wait(&c, trailers)->closed && strstr(h2_find(&c, trailers)->head, "x-end: well") != NULL;
        fired = ag_fault_disarm(kind);
        if (!ok && !fired) fail_msg("fault %d:%u did not fire, but a request failed", kind, n);
        h2_hang_up(&c);
        RIG_UNTIL(ag_http_server_connections(r.server) == 0);
    }
    rig_stop(&r);
}

static void test_fault_alloc(void **state) { (void)state; fault_loop(AG_FAULT_ALLOC); }
static void test_fault_read(void **state) { (void)state; fault_loop(AG_FAULT_READ); }
static void test_fault_write(void **state) { (void)state; fault_loop(AG_FAULT_WRITE); }

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_answers),
        cmocka_unit_test(test_head_method),
        cmocka_unit_test(test_answer_headers),
        cmocka_unit_test(test_same_as_h1),
        cmocka_unit_test(test_many_streams),
        cmocka_unit_test(test_early_answer),
        cmocka_unit_test(test_trailers),
        cmocka_unit_test(test_both_ways),
        cmocka_unit_test(test_continue),
        cmocka_unit_test(test_reset_by_client),
        cmocka_unit_test(test_lost_connection),
        cmocka_unit_test(test_half_close),
        cmocka_unit_test(test_abort),
        cmocka_unit_test(test_stalled_neighbours),
        cmocka_unit_test(test_flow_control),
        cmocka_unit_test(test_drain),
        cmocka_unit_test(test_drain_idle),
        cmocka_unit_test(test_stop_while_running),
        cmocka_unit_test(test_preface),
        cmocka_unit_test(test_fault_alloc),
        cmocka_unit_test(test_fault_read),
        cmocka_unit_test(test_fault_write),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
