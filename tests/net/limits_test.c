/* Each limit broken: the right answer, the right counter. */
#include "rig.h"

typedef struct limit_case {
    const char *in;
    ag_http_bad why;
    int status;
} limit_case;

static void test_refused_heads(void **state)
{
    (void)state;
    static const limit_case cases[] = {
        {"GET / HTTP/1.1\r\n\r\n", AG_HTTP_BAD_PARSE, 400},
        {"GET / HTTP/1.1\n" RIG_HOST "\r\n", AG_HTTP_BAD_PARSE, 400},
        {"GET / HTTP/3.0\r\n" RIG_HOST "\r\n", AG_HTTP_BAD_PARSE, 400},
        {"\x16\x03\x01", AG_HTTP_BAD_PARSE, 400},
        {"POST / HTTP/1.1\r\n" RIG_HOST "Content-Length: 1048577\r\n\r\n", AG_HTTP_BAD_BODY_SIZE, 413},
    };
    rig r;
    ag_http_conf conf = rig_conf();
    rig_start(&r, &conf);
    uint64_t want[AG_HTTP_BAD_COUNT] = {0};
    for (size_t i = 0; i < AG_ARRAY_LEN(cases); i++) {
        int fd = dial(&r);
        send_z(fd, cases[i].in);
        expect_bad(fd, cases[i].status, ag_http_bad_name(cases[i].why));
        close(fd);
        want[cases[i].why]++;
    }
    for (int why = 0; why < AG_HTTP_BAD_COUNT; why++) assert_int_equal(rig_bads(&r, (ag_http_bad)why), want[why]);
    assert_int_equal(rig_count(&r, RIG_HEAD), 0);
    rig_stop(&r);
}

static void test_header_size(void **state)
{
    (void)state;
    rig r;
    ag_http_conf conf = rig_conf();
    rig_start(&r, &conf);
    int fd = dial(&r);
    char x[8192];
    memset(x, 'x', sizeof x);
    send_z(fd, "GET / HTTP/1.1\r\n" RIG_HOST "X: ");
    send_n(fd, x, sizeof x);
    expect_bad(fd, 431, "headers_size|431|");
    close(fd);
    fd = dial(&r);
    send_z(fd, "GET / HTTP/1.1\r\n" RIG_HOST);
    for (int i = 0; i < 32; i++) send_z(fd, "X: y\r\n");
    send_z(fd, "\r\n");
    expect_bad(fd, 431, "headers_size|431|");
    close(fd);
    assert_int_equal(rig_bads(&r, AG_HTTP_BAD_HEADERS_SIZE), 2);
    rig_stop(&r);
}

static void test_target_size(void **state)
{
    (void)state;
    rig r;
    ag_http_conf conf = rig_conf();
    conf.target_bytes_max = 10;
    rig_start(&r, &conf);
    int fd = dial(&r);
    send_z(fd, RIG_GET("/query?abc") RIG_GET("/query?abcd"));
    expect_reply(fd, 200, "abc");
    expect_bad(fd, 414, "target_size|414|");
    close(fd);
    assert_int_equal(rig_bads(&r, AG_HTTP_BAD_TARGET_SIZE), 1);
    assert_int_equal(rig_count(&r, RIG_HEAD), 1);
    rig_stop(&r);
}

/* The stream had begun: it goes, and the room answers. */
static void test_chunked_size(void **state)
{
    (void)state;
    rig r;
    ag_http_conf conf = rig_conf();
    conf.body_bytes_max = 10;
    rig_start(&r, &conf);
    int fd = dial(&r);
    send_z(fd, "POST /echo HTTP/1.1\r\n" RIG_HOST "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n");
    rig_wait(&r, RIG_BODY, 1);
    send_z(fd, "6\r\n");
    expect_bad(fd, 413, "body_size|413|");
    close(fd);
    rig_wait(&r, RIG_DONE, 1);
    assert_string_equal(r.order, "HBGD");
    assert_int_equal(rig_bads(&r, AG_HTTP_BAD_BODY_SIZE), 1);
    fd = dial(&r);
    send_z(fd, "POST /echo HTTP/1.1\r\n" RIG_HOST "Transfer-Encoding: chunked\r\n\r\nnonsense");
    expect_bad(fd, 400, "parse|400|");
    close(fd);
    rig_stop(&r);
}

static void test_header_timeout(void **state)
{
    (void)state;
    rig r;
    ag_http_conf conf = rig_conf();
    conf.header_timeout_ms = 50;
    rig_start(&r, &conf);
    int fd = dial(&r);
    send_z(fd, "G");
    expect_bad(fd, 408, "header_timeout|408|");
    close(fd);
    fd = dial(&r); /* the same for a second request */
    send_z(fd, RIG_GET("/hello") "GET");
    expect_reply(fd, 200, "hello");
    expect_bad(fd, 408, "header_timeout|408|");
    close(fd);
    assert_int_equal(rig_bads(&r, AG_HTTP_BAD_HEADER_TIMEOUT), 2);
    rig_stop(&r);
}

/* A byte now and then does not extend the time for a head, nor for a small body. */
static void trickle(rig *r, const char *start, const char *why)
{
    int fd = dial(r);
    send_z(fd, start);
    char c;
    int i = 0;
    for (; i < 2000 && recv(fd, &c, 1, MSG_PEEK | MSG_DONTWAIT) < 0 && errno == EAGAIN; i++) {
        send_n(fd, "a", 1);
        usleep(2000);
    }
    assert_true(i < 2000); /* it was cut while it was sending */
    expect_bad(fd, 408, why);
    close(fd);
}

static void test_trickle(void **state)
{
    (void)state;
    rig r;
    ag_http_conf conf = rig_conf();
    conf.header_timeout_ms = conf.body_timeout_ms = 100;
    rig_start(&r, &conf);
    trickle(&r, "GET /", "header_timeout|408|");
    trickle(&r, "POST /echo HTTP/1.1\r\n" RIG_HOST "Content-Length: 1000000\r\n\r\n", "body_timeout|408|");
    rig_stop(&r);
}

static void test_body_timeout(void **state)
{
    (void)state;
    rig r;
    ag_http_conf conf = rig_conf();
    conf.body_timeout_ms = 50;
    rig_start(&r, &conf);
    int fd = dial(&r);
    send_z(fd, "POST /echo HTTP/1.1\r\n" RIG_HOST "Content-Length: 3\r\n\r\nab");
    expect_bad(fd, 408, "body_timeout|408|");
    close(fd);
    rig_wait(&r, RIG_DONE, 1);
    assert_string_equal(r.order, "HBGD");
    assert_int_equal(rig_bads(&r, AG_HTTP_BAD_BODY_TIMEOUT), 1);
    rig_stop(&r);
}

static void test_idle_timeout(void **state)
{
    (void)state;
    rig r;
    ag_http_conf conf = rig_conf();
    conf.idle_timeout_ms = 500;
    rig_start(&r, &conf);
    expect_closed(dial(&r)); /* nothing at all */
    int fd = dial(&r);
    send_z(fd, RIG_GET("/hello"));
    expect_reply(fd, 200, "hello");
    expect_closed(fd);
    assert_int_equal(rig_bads(&r, AG_HTTP_BAD_IDLE_TIMEOUT), 2);
    assert_int_equal(rig_count(&r, RIG_BAD), 0); /* closed without a word */
    /* A request that is being answered is not idle. */
    fd = dial(&r);
    send_z(fd, RIG_GET("/hold"));
    rig_wait(&r, RIG_END, 2);
    expect_closed(dial(&r));
    expect_closed(dial(&r));
    rig_post(&r, 0, "r:late", false);
    expect_reply(fd, 200, "late");
    close(fd);
    rig_stop(&r);
}

static void test_write_timeout(void **state)
{
    (void)state;
    rig r;
    ag_http_conf conf = rig_conf();
    conf.write_timeout_ms = 100;
    rig_start(&r, &conf);
    int fd = dial_with(ag_http_server_port(r.server), 4096);
    send_z(fd, RIG_GET("/flood?100000000"));
    rig_wait(&r, RIG_GONE, 1);
    rig_wait(&r, RIG_DONE, 1);
    assert_int_equal(rig_bads(&r, AG_HTTP_BAD_WRITE_TIMEOUT), 1);
    close(fd);
    fd = dial_with(ag_http_server_port(r.server), 4096); /* handed over whole: also cut, its timer silent */
    send_z(fd, RIG_GET("/timerbig"));
    rig_wait(&r, RIG_GONE, 2);
    rig_wait(&r, RIG_DONE, 2);
    close(fd);
    rig_stop(&r);
}

/* Whatever a request spends its time on: sending, waiting, an answer that does not end or is not read. */
static void test_total_timeout(void **state)
{
    (void)state;
    rig r;
    ag_http_conf conf = rig_conf();
    conf.total_timeout_ms = 100;
    rig_start(&r, &conf);
    int fd = dial(&r);
    send_z(fd, "POST /echo HTTP/1.1\r\n" RIG_HOST "Content-Length: 3\r\n\r\nab");
    expect_bad(fd, 408, "total_timeout|408|");
    close(fd);
    fd = dial(&r);
    send_z(fd, RIG_GET("/hello") RIG_GET("/hold"));
    expect_reply(fd, 200, "hello");
    expect_bad(fd, 504, "total_timeout|504|");
    close(fd);
    fd = dial(&r);
    send_z(fd, RIG_GET("/holdstream"));
    reply a = get_reply(fd);
    assert_true(a.status == 200 && !a.whole);
    assert_string_equal(a.body, "first");
    free(a.body);
    close(fd);
    fd = dial_with(ag_http_server_port(r.server), 4096);
    send_z(fd, RIG_GET("/big?20000000"));
    rig_wait(&r, RIG_GONE, 4);
    close(fd);
    assert_int_equal(rig_bads(&r, AG_HTTP_BAD_TOTAL_TIMEOUT), 4);
    fd = dial(&r); /* it is the request's time, not the connection's */
    for (int i = 0; i < 5; i++) {
        usleep(30000);
        send_z(fd, RIG_GET("/hello"));
        expect_reply(fd, 200, "hello");
    }
    close(fd);
    assert_int_equal(rig_bads(&r, AG_HTTP_BAD_TOTAL_TIMEOUT), 4);
    rig_stop(&r);
}

static void test_requests(void **state)
{
    (void)state;
    rig r;
    ag_http_conf conf = rig_conf();
    conf.requests_max = 3;
    rig_start(&r, &conf);
    int fd = dial(&r);
    for (int i = 1; i <= 3; i++) {
        send_z(fd, RIG_GET("/hello"));
        reply a = get_reply(fd);
        assert_true(a.whole && a.status == 200 && a.keep == (i < 3));
        free(a.body);
    }
    expect_closed(fd);
    assert_int_equal(rig_bads(&r, AG_HTTP_BAD_REQUESTS_PER_CONNECTION), 1);
    fd = dial(&r); /* what was sent behind the last is not read */
    send_z(fd, RIG_GET("/hello") RIG_GET("/hello") RIG_GET("/hello") RIG_GET("/hello"));
    for (int i = 0; i < 3; i++) expect_reply(fd, 200, "hello");
    expect_closed(fd);
    rig_wait(&r, RIG_DONE, 6);
    assert_int_equal(rig_count(&r, RIG_HEAD), 6);
    rig_stop(&r);
}

/* One who reads a little all the time is not cut, though the kernel, with megabytes in hand, asks for no more. */
static bool read_steadily(void) /* false: we stood still ourselves, for about as long as one may */
{
    enum { N = 8000000 };
    uint64_t longest = 0, last = ag_now_us();
    rig r;
    ag_http_conf conf = rig_conf();
    conf.write_timeout_ms = 1000;
    rig_start(&r, &conf);
    int fd = dial_with(ag_http_server_port(r.server), 65536);
    char in[128], *z = malloc(N + 100000);
    size_t n = 0;
    snprintf(in, sizeof in, "GET /flood?%d HTTP/1.0\r\n" RIG_HOST "\r\n", N);
    send_z(fd, in);
    ssize_t k = 1;
    for (int i = 0; k > 0; i++) {
        bool slowly = i < 150; /* for three seconds; a slow machine makes them longer, which tests the same */
        k = recv(fd, z, slowly ? 4096 : N, 0);
        if (k > 0) n += (size_t)k;
        uint64_t now = ag_now_us();
        longest = AG_MAX(longest, now - last);
        last = now;
        if (slowly) usleep(20000);
    }
    bool steady = longest <= 900000;
    if (steady) {
        assert_true(n > N);
        assert_int_equal(rig_bads(&r, AG_HTTP_BAD_WRITE_TIMEOUT), 0);
    }
    free(z);
    close(fd);
    rig_stop(&r);
    return steady;
}

static void test_steady_reader(void **state)
{
    (void)state;
    while (!read_steadily()) continue;
}

/* A slow reader holds no more than out_bytes_max here, and gets everything. */
static void test_slow_reader(void **state)
{
    (void)state;
    enum { N = 20000000 };
    rig r;
    ag_http_conf conf = rig_conf();
    rig_start(&r, &conf);
    int fd = dial_with(ag_http_server_port(r.server), 4096);
    char in[128];
    snprintf(in, sizeof in, "GET /flood?%d HTTP/1.1\r\n" RIG_HOST "\r\n", N);
    send_z(fd, in);
    rig_wait(&r, RIG_FULL, 1);
    reply a = get_reply(fd);
    assert_true(a.whole && a.n == N);
    free(a.body);
    send_z(fd, RIG_GET("/hello"));
    expect_reply(fd, 200, "hello");
    close(fd);
    rig_wait(&r, RIG_DONE, 2);
    assert_int_equal(rig_count(&r, RIG_GONE), 0);
    rig_stop(&r);
}

static void test_connections(void **state)
{
    (void)state;
    for (int per_address = 0; per_address < 2; per_address++) {
        rig r;
        ag_http_conf conf = rig_conf();
        if (per_address) conf.connections_per_address_max = 2;
        else conf.connections_max = 2;
        ag_http_bad why = per_address ? AG_HTTP_BAD_CONNECTIONS_PER_ADDRESS : AG_HTTP_BAD_CONNECTIONS;
        rig_start(&r, &conf);
        int a = dial(&r), b = dial(&r);
        send_z(a, RIG_GET("/hello"));
        expect_reply(a, 200, "hello");
        send_z(b, RIG_GET("/hello"));
        expect_reply(b, 200, "hello");
        int c = dial(&r);
        send_z(c, RIG_GET("/hello"));
        expect_bad(c, per_address ? 429 : 503, ag_http_bad_name(why));
        close(c);
        assert_int_equal(rig_bads(&r, why), 1);
        assert_int_equal(ag_http_server_connections(r.server), 2);
        close(a); /* a place becomes free */
        RIG_UNTIL(ag_http_server_connections(r.server) == 1);
        c = dial(&r);
        send_z(c, RIG_GET("/hello"));
        expect_reply(c, 200, "hello");
        close(b);
        close(c);
        rig_stop(&r);
    }
}

/* Bytes that arrive early are bounded, and a client that leaves behind them is noticed all the same. */
static void test_early_bytes(void **state)
{
    (void)state;
    rig r;
    ag_http_conf conf = rig_conf();
    rig_start(&r, &conf);
    int fd = dial(&r);
    send_z(fd, RIG_GET("/hold"));
    rig_wait(&r, RIG_END, 1);
    ag_buf in;
    ag_buf_init(&in, 1 << 20);
    while (in.n < 100000) ag_buf_addz(&in, RIG_GET("/hello"));
    assert_true(send_n(fd, in.p, in.n)); /* more than is taken; the rest waits in the socket */
    shutdown(fd, SHUT_WR);
    rig_wait(&r, RIG_GONE, 1);
    rig_wait(&r, RIG_DONE, 1);
    assert_int_equal(rig_count(&r, RIG_HEAD), 1);
    ag_buf_fini(&in);
    close(fd);
    rig_stop(&r);
}

static void test_conf(void **state)
{
    (void)state;
    ag_http_handler h = {.on_head = rig_on_head, .on_body = rig_on_body, .on_end = rig_on_end, .on_gone = rig_on_gone,
                         .done = rig_done, .on_message = rig_on_message};
    ag_http_server *s = NULL;
    ag_err err = {0};
    ag_http_conf conf = rig_conf();
    conf.idle_timeout_ms = 0;
    assert_int_equal(ag_http_server_open(&s, &conf, &h, &err), AG_E_USAGE);
    assert_non_null(strstr(err.text, "idle_timeout_ms is 0"));
    ag_err_clear(&err);
    conf = rig_conf();
    conf.host = "no host name";
    assert_int_equal(ag_http_server_open(&s, &conf, &h, &err), AG_E_USAGE);
    assert_non_null(strstr(err.text, "no host name"));
    ag_err_clear(&err);
    conf = rig_conf();
    assert_int_equal(ag_http_server_open(&s, &conf, &h, &err), AG_OK);
    ag_http_server *second = NULL;
    conf.port = ag_http_server_port(s);
    assert_int_equal(ag_http_server_open(&second, &conf, &h, &err), AG_E_IO); /* two servers on a port are a mistake */
    assert_non_null(strstr(err.text, "Address already in use"));
    assert_null(second);
    ag_http_server_close(s);
    ag_http_server_close(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_refused_heads),
        cmocka_unit_test(test_header_size),
        cmocka_unit_test(test_target_size),
        cmocka_unit_test(test_chunked_size),
        cmocka_unit_test(test_header_timeout),
        cmocka_unit_test(test_trickle),
        cmocka_unit_test(test_body_timeout),
        cmocka_unit_test(test_idle_timeout),
        cmocka_unit_test(test_write_timeout),
        cmocka_unit_test(test_total_timeout),
        cmocka_unit_test(test_requests),
        cmocka_unit_test(test_steady_reader),
        cmocka_unit_test(test_slow_reader),
        cmocka_unit_test(test_connections),
        cmocka_unit_test(test_early_bytes),
        cmocka_unit_test(test_conf),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
