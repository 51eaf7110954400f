/* What a client sees of requests and answers: framing, keep-alive, pipelining, bodies. */
#include "rig.h"

static void test_plain(void **state)
{
    (void)state;
    rig r;
    ag_http_conf conf = rig_conf();
    rig_start(&r, &conf);
    int fd = dial(&r);
    send_z(fd, RIG_GET("/hello"));
    reply a = get_reply(fd);
    assert_int_equal(a.status, 200);
    assert_true(a.whole && a.keep);
    assert_string_equal(a.body, "hello");
    const char *date = reply_header(&a, "date");
    assert_non_null(date);
    struct tm t;
    assert_ptr_equal(strptime(date, "%a, %d %b %Y %H:%M:%S GMT", &t), date + strlen(date));
    free(a.body);
    send_z(fd, RIG_GET("/query?a=b"));
    expect_reply(fd, 200, "a=b");
    send_z(fd, RIG_GET("/peer"));
    expect_reply(fd, 200, "127.0.0.1");
    send_z(fd, RIG_GET("/nothere"));
    expect_reply(fd, 404, "");
    send_z(fd, RIG_GET("/none"));
    a = get_reply(fd);
    assert_true(a.status == 204 && a.keep && reply_header(&a, "content-length") == NULL);
    free(a.body);
    send_z(fd, RIG_GET("/timer"));
    expect_reply(fd, 200, "timer");
    send_z(fd, RIG_GET("/work"));
    expect_reply(fd, 200, "worked");
    close(fd);
    rig_wait(&r, RIG_DONE, 7);
    assert_int_equal(rig_count(&r, RIG_GONE), 0);
    rig_stop(&r);
}

static void test_every_cut(void **state)
{
    (void)state;
    static const char in[] = "POST /echo HTTP/1.1\r\n" RIG_HOST "Transfer-Encoding: chunked\r\n\r\n"
                             "2\r\nab\r\n3;x\r\ncde\r\n0\r\nA: b\r\n\r\n"
                             "POST /echo HTTP/1.1\r\n" RIG_HOST "Content-Length: 3\r\n\r\nxyz" RIG_GET("/hello");
    rig r;
    ag_http_conf conf = rig_conf();
    rig_start(&r, &conf);
    for (size_t at = 1; at < sizeof in - 1; at++) {
        int fd = dial(&r);
        send_n(fd, in, at);
        usleep(at % 16 == 0 ? 1000 : 0); /* not needed for the result: makes it likely that the pieces arrive apart */
        send_n(fd, in + at, sizeof in - 1 - at);
        expect_reply(fd, 200, "abcde");
        expect_reply(fd, 200, "xyz");
        expect_reply(fd, 200, "hello");
        close(fd);
    }
    int fd = dial(&r);
    for (size_t at = 0; at < sizeof in - 1; at++) send_n(fd, in + at, 1);
    expect_reply(fd, 200, "abcde");
    expect_reply(fd, 200, "xyz");
    expect_reply(fd, 200, "hello");
    close(fd);
    rig_stop(&r);
}

static void test_pipeline(void **state)
{
    (void)state;
    rig r;
    ag_http_conf conf = rig_conf();
    rig_start(&r, &conf);
    int fd = dial(&r);
    ag_buf in;
    ag_buf_init(&in, 1 << 20);
    for (int i = 0; i < 100; i++)
        ag_buf_addf(&in, "POST /echo HTTP/1.1\r\n" RIG_HOST "Content-Length: 3\r\n\r\n%03d", i);
    assert_true(send_n(fd, in.p, in.n));
    for (int i = 0; i < 100; i++) {
        char want[16];
        snprintf(want, sizeof want, "%03d", i);
        expect_reply(fd, 200, want);
    }
    rig_wait(&r, RIG_DONE, 100);
    /* One that takes its time holds those behind it back. */
    ag_buf_reset(&in);
    ag_buf_addz(&in, RIG_GET("/timer") RIG_GET("/work") RIG_GET("/stream") RIG_GET("/hello"));
    assert_true(send_n(fd, in.p, in.n));
    expect_reply(fd, 200, "timer");
    expect_reply(fd, 200, "worked");
    expect_reply(fd, 200, "onetwothree");
    expect_reply(fd, 200, "hello");
    ag_buf_fini(&in);
    close(fd);
    rig_stop(&r);
}

/* A client that pipelines and does not read is not answered without end, and loses nothing once it reads. */
static void test_pipeline_unread(void **state)
{
    (void)state;
    rig r;
    ag_http_conf conf = rig_conf();
    rig_start(&r, &conf);
    int fd = dial_with(ag_http_server_port(r.server), 4096);
    enum { N = 60, SIZE = 200000 };
    for (int i = 0; i < N; i++) send_z(fd, RIG_GET("/big?200000"));
    rig_wait(&r, RIG_HEAD, 1);
    for (uint64_t i = 1; i <= 20; i++) { /* the loop has been round often enough to have read all of them */
        rig_post(&r, 0, "n", false);
        rig_wait(&r, RIG_MESSAGE, i);
    }
    /* 12 MB do not fit into the sockets' buffers and the gate. */
    assert_true(rig_count(&r, RIG_HEAD) < N / 2);
    for (int i = 0; i < N; i++) {
        reply a = get_reply(fd);
        assert_true(a.status == 200 && a.n == SIZE);
        free(a.body);
    }
    close(fd);
    rig_wait(&r, RIG_DONE, N);
    assert_int_equal(rig_count(&r, RIG_GONE), 0);
    rig_stop(&r);
}

static void test_versions(void **state)
{
    (void)state;
    rig r;
    ag_http_conf conf = rig_conf();
    rig_start(&r, &conf);
    int fd = dial(&r);
    send_z(fd, "GET /hello HTTP/1.0\r\n\r\n");
    reply a = get_reply(fd);
    assert_true(a.status == 200 && a.whole && !a.keep);
    free(a.body);
    expect_closed(fd);

    fd = dial(&r);
    for (int i = 0; i < 2; i++) {
        send_z(fd, "GET /hello HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
        a = get_reply(fd);
        assert_true(a.status == 200 && a.whole);
        assert_string_equal(reply_header(&a, "connection"), "keep-alive");
        free(a.body);
    }
    send_z(fd, "GET /stream HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"); /* no chunks in 1.0: until close */
    a = get_reply(fd);
    assert_true(a.status == 200 && !a.chunked && !a.keep);
    assert_string_equal(a.body, "onetwothree");
    free(a.body);
    expect_closed(fd);

    fd = dial(&r);
    send_z(fd, "GET /hello HTTP/1.1\r\n" RIG_HOST "Connection: close\r\n\r\n" RIG_GET("/hello"));
    a = get_reply(fd);
    assert_true(a.status == 200 && !a.keep);
    free(a.body);
    expect_closed(fd); /* the second is not answered */

    fd = dial(&r);
    send_z(fd, RIG_GET("/close"));
    a = get_reply(fd);
    assert_true(a.status == 200 && !a.keep);
    free(a.body);
    expect_closed(fd);
    rig_stop(&r);
}

static void test_head_method(void **state)
{
    (void)state;
    static const char *const paths[] = {"/hello", "/stream", "/flood?5000", "/none"};
    rig r;
    ag_http_conf conf = rig_conf();
    rig_start(&r, &conf);
    int fd = dial(&r);
    for (size_t i = 0; i < AG_ARRAY_LEN(paths); i++) {
        char in[128];
        snprintf(in, sizeof in, "HEAD %s HTTP/1.1\r\n" RIG_HOST "\r\n", paths[i]);
        send_z(fd, in);
        reply a = get_reply_to(fd, true);
        assert_true(a.status / 100 == 2 && a.keep);
        if (i == 0) assert_string_equal(reply_header(&a, "content-length"), "5");
        free(a.body);
    }
    send_z(fd, RIG_GET("/hello")); /* no byte of a body lies between */
    expect_reply(fd, 200, "hello");
    close(fd);
    rig_stop(&r);
}

static void test_streamed(void **state)
{
    (void)state;
    rig r;
    ag_http_conf conf = rig_conf();
    rig_start(&r, &conf);
    int fd = dial(&r);
    send_z(fd, RIG_GET("/stream"));
    reply a = get_reply(fd);
    assert_true(a.chunked && a.whole && a.keep && a.chunks == 3);
    assert_string_equal(reply_header(&a, "content-type"), "text/event-stream");
    assert_string_equal(a.body, "onetwothree");
    free(a.body);
    close(fd);
    rig_stop(&r);
}

/* What is written together leaves together, what is written alone leaves at once. */
static void test_writes_share(void **state)
{
    (void)state;
    rig r;
    ag_http_conf conf = rig_conf();
    rig_start(&r, &conf);
    int fd = dial(&r);
    char got[1024];
    send_z(fd, RIG_GET("/holdstream"));
    rig_wait(&r, RIG_END, 1);
    size_t n = 0;
    for (ssize_t k; n < 10 || memcmp(got + n - 10, "5\r\nfirst\r\n", 10) != 0; n += (size_t)k) {
        k = TEMP_FAILURE_RETRY(recv(fd, got + n, sizeof got - n, 0));
        assert_true(k > 0);
    }
    rig_post(&r, 0, "w:alone", false);
    assert_int_equal(TEMP_FAILURE_RETRY(recv(fd, got, sizeof got, 0)), 10);
    assert_memory_equal(got, "5\r\nalone\r\n", 10);
    rig_post(&r, 0, "w:a", true);
    rig_post(&r, 0, "w:b", true);
    rig_post(&r, 0, "w:c", true);
    ag_mbox_wake(ag_http_loop_mbox(ag_http_server_loop(r.server, 0)));
    assert_int_equal(TEMP_FAILURE_RETRY(recv(fd, got, sizeof got, 0)), 18);
    assert_memory_equal(got, "1\r\na\r\n1\r\nb\r\n1\r\nc\r\n", 18);
    rig_post(&r, 0, "e", false);
    assert_int_equal(TEMP_FAILURE_RETRY(recv(fd, got, sizeof got, 0)), 5);
    assert_memory_equal(got, "0\r\n\r\n", 5);
    close(fd);
    rig_stop(&r);
}

/* What is posted before the loop sleeps is taken before it sleeps, though nobody wakes it. */
static bool post_in_turn(void *arg)
{
    rig *r = arg;
    if (atomic_load(&r->turns) == 0) return false;
    atomic_fetch_sub(&r->turns, 1);
    rig_post(r, 0, "w:turn", false);
    return true;
}

static void test_turns(void **state)
{
    (void)state;
    rig r;
    ag_http_conf conf = rig_conf();
    rig_init(&r, &conf);
    r.on_turn = post_in_turn;
    assert_int_equal(rig_try(&r), AG_OK);
    int fd = dial(&r);
    char got[1024];
    send_z(fd, RIG_GET("/holdstream"));
    rig_wait(&r, RIG_END, 1);
    atomic_store(&r.turns, 10); /* more than at once */
    ag_mbox_wake(ag_http_loop_mbox(ag_http_server_loop(r.server, 0)));
    size_t n = 0;
    for (ssize_t k; n < 90 || memcmp(got + n - 90, "4\r\nturn\r\n4\r\nturn\r\n", 18) != 0; n += (size_t)k) {
        k = TEMP_FAILURE_RETRY(recv(fd, got + n, sizeof got - n, 0));
        assert_true(k > 0);
    }
    assert_memory_equal(got + n - 9, "4\r\nturn\r\n", 9);
    rig_post(&r, 0, "e", false);
    assert_int_equal(TEMP_FAILURE_RETRY(recv(fd, got, sizeof got, 0)), 5);
    close(fd);
    rig_stop(&r);
}

static void test_expect(void **state)
{
    (void)state;
    rig r;
    ag_http_conf conf = rig_conf();
    rig_start(&r, &conf);
    int fd = dial(&r);
    send_z(fd, "POST /echo HTTP/1.1\r\n" RIG_HOST "Expect: 100-continue\r\nContent-Length: 2\r\n\r\n");
    reply a = get_reply(fd);
    assert_int_equal(a.status, 100);
    free(a.body);
    send_z(fd, "ok");
    expect_reply(fd, 200, "ok");
    /* The body is there already: it needs no invitation. */
    send_z(fd, "POST /echo HTTP/1.1\r\n" RIG_HOST "Expect: 100-continue\r\nContent-Length: 2\r\n\r\nok");
    expect_reply(fd, 200, "ok");
    /* Refused at the head: no invitation. */
    send_z(fd, "POST /early HTTP/1.1\r\n" RIG_HOST "Expect: 100-continue\r\nContent-Length: 2\r\n\r\n");
    expect_reply(fd, 403, "no");
    expect_closed(fd);
    fd = dial(&r);
    send_z(fd, "POST /echo HTTP/1.1\r\n" RIG_HOST "Expect: 200-ok\r\nContent-Length: 2\r\n\r\n");
    expect_bad(fd, 417, "parse|417|");
    close(fd);
    /* 1.0 knows no interim answers. */
    fd = dial(&r);
    send_z(fd, "POST /echo HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n");
    rig_wait(&r, RIG_HEAD, 4);
    send_z(fd, "ok");
    expect_reply(fd, 200, "ok");
    close(fd);
    rig_stop(&r);
}

/* An answer before the body was read reaches the client, though it goes on sending; the body is not handed over. */
static void test_early(void **state)
{
    (void)state;
    static const char *const paths[] = {"/early", "/earlystream", "/midbody"};
    static const char *const bodies[] = {"no", "early", "enough"};
    rig r;
    ag_http_conf conf = rig_conf();
    rig_start(&r, &conf);
    enum { N = 900000 };
    char *body = calloc(1, N);
    for (size_t i = 0; i < AG_ARRAY_LEN(paths); i++) {
        char head[128];
        int fd = dial(&r);
        snprintf(head, sizeof head, "POST %s HTTP/1.1\r\n" RIG_HOST "Content-Length: %d\r\n\r\n", paths[i], N);
        assert_true(send_z(fd, head));
        assert_true(send_n(fd, body, N));
        reply a = get_reply(fd);
        assert_true(a.whole && !a.keep);
        assert_string_equal(a.body, bodies[i]);
        free(a.body);
        expect_closed(fd);
    }
    free(body);
    rig_wait(&r, RIG_DONE, 3);
    assert_int_equal(rig_count(&r, RIG_GONE), 0);
    assert_int_equal(rig_count(&r, RIG_END), 0);
    assert_int_equal(rig_count(&r, RIG_BODY), 1);
    rig_stop(&r);
}

/* A refused body without end: reading it stops at some point. */
/* A refusal before the body leaves the connection to the next request, where little of the body is still to come and
 * its end is known. */
static void test_early_kept(void **state)
{
    (void)state;
    rig r;
    ag_http_conf conf = rig_conf();
    rig_start(&r, &conf);
    int fd = dial(&r);
    send_z(fd, "POST /early HTTP/1.1\r\n" RIG_HOST "Content-Length: 5\r\n\r\nhello" RIG_GET("/hello"));
    expect_reply(fd, 403, "no");
    expect_reply(fd, 200, "hello");
    send_z(fd, "POST /earlystream HTTP/1.1\r\n" RIG_HOST "Content-Length: 5\r\n\r\n"); /* answered at once, */
    expect_reply(fd, 200, "early");
    send_z(fd, "hel");
    send_z(fd, "lo" RIG_GET("/hello")); /* and then sent after all */
    expect_reply(fd, 200, "hello");
    send_z(fd, "POST /midbody HTTP/1.1\r\n" RIG_HOST "Content-Length: 10\r\n\r\nhello");
    expect_reply(fd, 403, "enough");
    send_z(fd, "again" RIG_GET("/hello"));
    expect_reply(fd, 200, "hello");
    rig_wait(&r, RIG_DONE, 6);
    assert_int_equal(rig_count(&r, RIG_END), 3);
    assert_int_equal(rig_count(&r, RIG_BODY), 1);
    char *body = calloc(1, AG_HTTP_DROP_BYTES + 1), head[128];
    for (uint32_t more = 0; more < 2; more++) {
        snprintf(head, sizeof head, "POST /early HTTP/1.1\r\n" RIG_HOST "Content-Length: %u\r\n\r\n",
                 AG_HTTP_DROP_BYTES + more);
        send_z(fd, head);
        send_n(fd, body, AG_HTTP_DROP_BYTES + more);
        reply a = get_reply(fd);
        assert_true(a.whole && a.keep == !more);
        free(a.body);
    }
    expect_closed(fd);
    free(body);
    static const char *const ends[] = {"Content-Length: 5\r\nExpect: 100-continue\r\n",
                                       "Content-Length: 5\r\nConnection: close\r\n", "Transfer-Encoding: chunked\r\n"};
    for (size_t i = 0; i < AG_ARRAY_LEN(ends); i++) {
        fd = dial(&r);
        snprintf(head, sizeof head, "POST /early HTTP/1.1\r\n" RIG_HOST "%s\r\n", ends[i]);
        send_z(fd, head);
        reply a = get_reply(fd);
        assert_true(a.whole && !a.keep);
        free(a.body);
        expect_closed(fd);
    }
    fd = dial(&r); /* one who leaves in the middle of it */
    send_z(fd, "POST /early HTTP/1.1\r\n" RIG_HOST "Content-Length: 5\r\n\r\nhe");
    shutdown(fd, SHUT_WR);
    expect_reply(fd, 403, "no");
    expect_closed(fd);
    rig_wait(&r, RIG_DONE, 12);
    assert_int_equal(rig_count(&r, RIG_GONE), 0);
    rig_stop(&r);
}

/* The body that is only dropped has no more time than another. */
static void test_early_never_comes(void **state)
{
    (void)state;
    rig r;
    ag_http_conf conf = rig_conf();
    conf.body_timeout_ms = 50;
    rig_start(&r, &conf);
    int fd = dial(&r);
    send_z(fd, "POST /early HTTP/1.1\r\n" RIG_HOST "Content-Length: 5\r\n\r\nhe");
    expect_reply(fd, 403, "no");
    expect_closed(fd);
    assert_int_equal(rig_bads(&r, AG_HTTP_BAD_BODY_TIMEOUT), 1);
    rig_stop(&r);
    conf.body_timeout_ms = 1000000; /* nor does a server that ends wait for it */
    rig_start(&r, &conf);
    fd = dial(&r);
    send_z(fd, "POST /early HTTP/1.1\r\n" RIG_HOST "Content-Length: 5\r\n\r\nhe");
    expect_reply(fd, 403, "no");
    ag_http_server_drain(r.server);
    expect_closed(fd);
    rig_stop(&r);
}

static void test_linger_is_bounded(void **state)
{
    (void)state;
    rig r;
    ag_http_conf conf = rig_conf();
    conf.body_timeout_ms = 300; /* also the longest time to linger */
    rig_start(&r, &conf);
    int fd = dial(&r);
    send_z(fd, "POST /early HTTP/1.1\r\n" RIG_HOST "Transfer-Encoding: chunked\r\n\r\n");
    expect_reply(fd, 403, "no");
    expect_closed(fd); /* our side is shut, then, as the client does nothing, closed */
    RIG_UNTIL(ag_http_server_connections(r.server) == 0);
    fd = dial(&r);
    send_z(fd, "POST /early HTTP/1.1\r\n" RIG_HOST "Transfer-Encoding: chunked\r\n\r\n");
    static char junk[65536];
    size_t sent = 0;
    while (sent < (64u << 20) && send_n(fd, junk, sizeof junk)) sent += sizeof junk;
    assert_true(sent < 64u << 20);
    close(fd);
    rig_stop(&r);
}

static void test_injection(void **state)
{
    (void)state;
    rig r;
    ag_http_conf conf = rig_conf();
    rig_start(&r, &conf);
    int fd = dial(&r);
    send_z(fd, RIG_GET("/inject"));
    reply a = get_reply(fd);
    assert_string_equal(a.body, "ok");
    assert_string_equal(reply_header(&a, "x-good"), "a b");
    assert_string_equal(reply_header(&a, "content-length"), "2");
    static const char *const no[] = {"x-injected", "x-bad", "x-nul", "x-lf", "x y", "x-name", "transfer-encoding"};
    for (size_t i = 0; i < AG_ARRAY_LEN(no); i++) assert_null(reply_header(&a, no[i]));
    free(a.body);
    close(fd);
    rig_stop(&r);
}

static void test_abort(void **state)
{
    (void)state;
    rig r;
    ag_http_conf conf = rig_conf();
    rig_start(&r, &conf);
    int fd = dial(&r);
    send_z(fd, RIG_GET("/break"));
    reply a = get_reply(fd);
    assert_true(a.status == 200 && a.chunked && !a.whole);
    assert_string_equal(a.body, "half"); /* what was written arrives, the end does not */
    free(a.body);
    close(fd);
    fd = dial(&r);
    send_z(fd, "GET /break HTTP/1.0\r\n\r\n");
    a = get_reply(fd);
    assert_int_equal(errno, ECONNRESET); /* without chunks a plain end would look like the whole */
    free(a.body);
    close(fd);
    fd = dial(&r);
    send_z(fd, RIG_GET("/abort"));
    a = get_reply(fd);
    assert_int_equal(a.status, 0);
    free(a.body);
    close(fd);
    rig_wait(&r, RIG_DONE, 3);
    assert_int_equal(rig_count(&r, RIG_GONE), 0);
    rig_stop(&r);
}

/* Callbacks come in order, each once. */
static void test_order(void **state)
{
    (void)state;
    rig r;
    ag_http_conf conf = rig_conf();
    rig_start(&r, &conf);
    int fd = dial(&r);
    send_z(fd, "POST /echo HTTP/1.1\r\n" RIG_HOST "Content-Length: 2\r\n\r\nok");
    expect_reply(fd, 200, "ok");
    rig_wait(&r, RIG_DONE, 1);
    send_z(fd, RIG_GET("/hold"));
    rig_wait(&r, RIG_END, 2);
    close(fd);
    rig_wait(&r, RIG_DONE, 2);
    assert_string_equal(r.order, "HBEDHEGD");
    rig_stop(&r);
}

static void test_upgrade_is_ignored(void **state)
{
    (void)state;
    rig r;
    ag_http_conf conf = rig_conf();
    rig_start(&r, &conf);
    int fd = dial(&r);
    send_z(fd, "GET /hello HTTP/1.1\r\n" RIG_HOST "Connection: Upgrade\r\nUpgrade: h2c\r\n\r\n" RIG_GET("/hello"));
    expect_reply(fd, 200, "hello");
    expect_reply(fd, 200, "hello");
    close(fd);
    rig_stop(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_plain),
        cmocka_unit_test(test_every_cut),
        cmocka_unit_test(test_pipeline),
        cmocka_unit_test(test_pipeline_unread),
        cmocka_unit_test(test_versions),
        cmocka_unit_test(test_head_method),
        cmocka_unit_test(test_streamed),
        cmocka_unit_test(test_writes_share),
        cmocka_unit_test(test_turns),
        cmocka_unit_test(test_expect),
        cmocka_unit_test(test_early),
        cmocka_unit_test(test_early_kept),
        cmocka_unit_test(test_early_never_comes),
        cmocka_unit_test(test_linger_is_bounded),
        cmocka_unit_test(test_injection),
        cmocka_unit_test(test_abort),
        cmocka_unit_test(test_order),
        cmocka_unit_test(test_upgrade_is_ignored),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
