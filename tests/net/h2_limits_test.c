/* Each limit of HTTP/2 broken: the right answer, the right counter, and a connection that goes on where it can. */
#include "h2_client.h"

static void start(rig *r, h2_client *c, const ag_http_conf *conf)
{
    rig_start(r, conf);
    h2_dial(c, r);
}

static void stop(rig *r, h2_client *c)
{
    h2_hang_up(c);
    rig_stop(r);
}

/* The checks of HTTP/1 hold: what another server might read differently is no request here either. */
static void test_refused_heads(void **state)
{
    (void)state;
    typedef struct row { const char *method, *path, *name, *value, *sentence; int status; } row;
    static const row rows[] = {
        {"GET", "/#x", NULL, NULL, "percent-encode", 400},
        {"GET", "/hello", "host", "b", "more than one Host", 400},
        {"GET", "/hello", "expect", "wonders", "100-continue", 417},
    };
    rig r;
    h2_client c;
    ag_http_conf conf = rig_conf();
    start(&r, &c, &conf);
    for (size_t i = 0; i < AG_ARRAY_LEN(rows); i++) {
        nghttp2_nv extra = h2_nv(rows[i].name ? rows[i].name : "x", rows[i].name ? rows[i].value : "y");
        int32_t id = h2_ask_with(&c, rows[i].method, rows[i].path, "x", 1, false, &extra, 1);
        h2_expect_bad(&c, id, rows[i].status, "parse|");
        if (strstr(h2_find(&c, id)->body, rows[i].sentence) == NULL) fail_msg("%s", h2_find(&c, id)->body);
        assert_non_null(strstr(h2_find(&c, id)->head, "x-request-id: rig-id\n"));
    }
    nghttp2_nv connect[] = {h2_nv(":method", "CONNECT"), h2_nv(":authority", "a")};
    h2_expect_bad(&c, h2_submit(&c, connect, 2, NULL, 0, false), 400, "parse|400|CONNECT");
    nghttp2_nv same = h2_nv("host", "A"); /* said twice, but the same */
    h2_expect(&c, h2_ask_with(&c, "GET", "/hello", NULL, 0, false, &same, 1), 200, "hello");
    assert_int_equal(rig_bads(&r, AG_HTTP_BAD_PARSE), AG_ARRAY_LEN(rows) + 1);
    assert_int_equal(rig_count(&r, RIG_HEAD), 1);
    stop(&r, &c);
}

/* Malformed by HTTP/2's own rules: each is reset, counted, and no request; the next stream is not disturbed. Literal
 * fields: 00, length and name, length and value. */
static void test_malformed(void **state)
{
    (void)state;
#define FIELD(n, name, v, value) "\0" n name v value
    static const struct { const char *block; size_t n; bool answered; } rows[] = {
#define BLOCK(z) {z, sizeof z - 1, false}
#define ANSWERED(z) {z, sizeof z - 1, true}
        BLOCK(H2_RAW_GET FIELD("\1", "X", "\1", "y")),                              /* upper case */
        BLOCK(H2_RAW_GET FIELD("\12", "connection", "\5", "close")),
        BLOCK(H2_RAW_GET FIELD("\21", "transfer-encoding", "\7", "chunked")),
        BLOCK(H2_RAW_GET FIELD("\7", "upgrade", "\3", "h2c")),
        BLOCK(H2_RAW_GET FIELD("\2", "te", "\4", "gzip")),
        BLOCK(H2_RAW_GET FIELD("\4", ":foo", "\1", "y")),
        BLOCK(H2_RAW_GET FIELD("\1", "x", "\1", "y") "\x84"),                       /* pseudo after ordinary */
        BLOCK(H2_RAW_GET "\x84"),                                                   /* two paths */
        BLOCK("\x82\x86\x41\x01\x61"),                                              /* none */
        BLOCK("\x82\x86\x41\x01\x61" FIELD("\5", ":path", "\0", "")),
        BLOCK(H2_RAW_GET FIELD("\16", "content-length", "\1", "5")),                /* and no body */
        BLOCK(H2_RAW_GET FIELD("\16", "content-length", "\2", "+5")),
        BLOCK(H2_RAW_GET FIELD("\16", "content-length", "\1", "0") FIELD("\16", "content-length", "\1", "0")),
        ANSWERED(H2_RAW_GET FIELD("\1", "x", "\3", "a\nb")),
        ANSWERED(H2_RAW_GET FIELD("\1", "x", "\3", "a\rb")),
        ANSWERED(H2_RAW_GET FIELD("\1", "x", "\3", "a\0b")),
        ANSWERED(H2_RAW_GET FIELD("\3", "x y", "\1", "z")),
        ANSWERED(H2_RAW_GET FIELD("\3", "x:y", "\1", "z")),
    };
    rig r;
    ag_http_conf conf = rig_conf();
    rig_start(&r, &conf);
    int fd;
    h2_raw_dial(&r, &fd);
    for (uint32_t i = 0; i < AG_ARRAY_LEN(rows); i++) {
        assert_true(h2_raw(fd, NGHTTP2_HEADERS, 5, 2 * i + 1, rows[i].block, rows[i].n));
        uint8_t type = rows[i].answered ? NGHTTP2_DATA : NGHTTP2_RST_STREAM;
        if (h2_raw_wait(fd, type, 2 * i + 1, NULL, 0) < 0) fail_msg("row %u", i);
        assert_int_equal(rig_bads(&r, AG_HTTP_BAD_PARSE), i + 1);
    }
    assert_int_equal(rig_count(&r, RIG_HEAD), 0);
    assert_true(h2_raw(fd, NGHTTP2_HEADERS, 5, 101, H2_RAW_GET, 6));
    assert_true(h2_raw_wait(fd, NGHTTP2_HEADERS, 101, NULL, 0) > 0);
    assert_int_equal(rig_count(&r, RIG_HEAD), 1);
    close(fd);
    rig_stop(&r);
}

static void test_header_size(void **state)
{
    (void)state;
    rig r;
    h2_client c;
    ag_http_conf conf = rig_conf();
    start(&r, &c, &conf);
    char x[8192];
    memset(x, 'x', sizeof x - 1);
    x[sizeof x - 1] = 0;
    nghttp2_nv extra[40];
    extra[0] = h2_nv("x", x);
    h2_expect_bad(&c, h2_ask_with(&c, "GET", "/hello", NULL, 0, false, extra, 1), 431, "headers_size|431|");
    for (int i = 0; i < 40; i++) extra[i] = h2_nv("x", "y");
    h2_expect_bad(&c, h2_ask_with(&c, "GET", "/hello", NULL, 0, false, extra, 40), 431, "headers_size|431|");
    char path[8192] = "/";
    memset(path + 1, 'x', sizeof path - 2);
    h2_expect_bad(&c, h2_get(&c, path), 431, "headers_size|431|");
    for (int i = 0; i < 60; i++) x[i] = 'y';
    x[60] = 0; /* a small frame whose fields are many bytes: each is one byte that points into the table */
    for (int i = 0; i < 40; i++) extra[i] = h2_nv("a-name-of-some-length", x);
    h2_expect_bad(&c, h2_ask_with(&c, "GET", "/hello", NULL, 0, false, extra, 40), 431, "headers_size|431|");
    h2_expect(&c, h2_get(&c, "/hello"), 200, "hello");
    assert_int_equal(rig_bads(&r, AG_HTTP_BAD_HEADERS_SIZE), 4);
    stop(&r, &c);
}

static void test_target_size(void **state)
{
    (void)state;
    rig r;
    h2_client c;
    ag_http_conf conf = rig_conf();
    conf.target_bytes_max = 10;
    start(&r, &c, &conf);
    h2_expect_bad(&c, h2_get(&c, "/query?abcd"), 414, "target_size|414|");
    h2_expect(&c, h2_get(&c, "/query?abc"), 200, "abc");
    assert_int_equal(rig_bads(&r, AG_HTTP_BAD_TARGET_SIZE), 1);
    stop(&r, &c);
}

static void test_body_size(void **state)
{
    (void)state;
    rig r;
    h2_client c;
    ag_http_conf conf = rig_conf();
    conf.body_bytes_max = 10;
    start(&r, &c, &conf);
    nghttp2_nv length = h2_nv("content-length", "11");
    h2_expect_bad(&c, h2_ask_with(&c, "POST", "/echo", "hello", 5, true, &length, 1), 413, "body_size|413|");
    assert_int_equal(rig_count(&r, RIG_HEAD), 0);
    h2_expect_bad(&c, h2_post(&c, "/echo", "hello world"), 413, "body_size|413|");
    rig_wait(&r, RIG_DONE, 1);
    assert_string_equal(r.order, "HGD");
    h2_expect(&c, h2_post(&c, "/echo", "ten bytes."), 200, "ten bytes.");
    assert_int_equal(rig_bads(&r, AG_HTTP_BAD_BODY_SIZE), 2);
    length = h2_nv("content-length", "3"); /* and a length that is not kept is no request */
    int32_t id = h2_ask_with(&c, "POST", "/echo", "four", 4, false, &length, 1);
    assert_int_equal(h2_wait(&c, id)->error, NGHTTP2_PROTOCOL_ERROR);
    stop(&r, &c);
}

static void test_body_timeout(void **state)
{
    (void)state;
    rig r;
    h2_client c;
    ag_http_conf conf = rig_conf();
    conf.body_timeout_ms = 50;
    start(&r, &c, &conf);
    int32_t hold = h2_get(&c, "/hold"); /* one that is answered late is not meant */
    int32_t id = h2_ask_with(&c, "POST", "/echo", "part", 4, true, NULL, 0);
    h2_expect_bad(&c, id, 408, "body_timeout|408|");
    assert_int_equal(rig_bads(&r, AG_HTTP_BAD_BODY_TIMEOUT), 1);
    rig_post(&r, 0, "r:late", false);
    h2_expect(&c, hold, 200, "late");
    stop(&r, &c);
}

static void expect_call(h2_client *c, int32_t id, const char *why)
{
    char want[80];
    h2_reply *a = h2_wait(c, id);
    snprintf(want, sizeof want, "x-call: %s|", why);
    if (a->status != 200 || a->n || strstr(a->head, want) == NULL || strstr(a->head, "x-request-id: rig-id\n") == NULL)
        fail_msg("%s: %d, %zu bytes\n%s", why, a->status, a->n, a->head);
}

/* Whoever refuses a call of gRPC's is told that it is one, as far as its head was read. */
static void test_calls_of_grpc(void **state)
{
    (void)state;
    rig r;
    h2_client c;
    char x[8192];
    ag_http_conf conf = rig_conf();
    conf.body_bytes_max = 10;
    conf.body_timeout_ms = 500;
    conf.target_bytes_max = 20;
    start(&r, &c, &conf);
    memset(x, 'x', sizeof x - 1);
    x[sizeof x - 1] = 0;
    nghttp2_nv call = h2_nv("content-type", "application/grpc"), wide[] = {h2_nv("x", x), call};
    expect_call(&c, h2_ask_with(&c, "POST", "/echo", "", 0, false, wide, 2), "headers_size|431");
    expect_call(&c, h2_ask_with(&c, "POST", "/echo-whose-path-is-too-long", "", 0, false, &call, 1), "target_size|414");
    nghttp2_nv bad[] = {call, h2_nv("host", "b")},
               sized[] = {h2_nv("content-type", "Application/gRPC; a=b"), h2_nv("content-length", "11")};
    expect_call(&c, h2_ask_with(&c, "POST", "/echo", "", 0, false, bad, 2), "parse|400");
    expect_call(&c, h2_ask_with(&c, "POST", "/echo", "x", 1, true, sized, 2), "body_size|413");
    call = h2_nv("content-type", "application/grpc+proto");
    expect_call(&c, h2_ask_with(&c, "POST", "/echo", "hello world", 11, false, &call, 1), "body_size|413");
    expect_call(&c, h2_ask_with(&c, "POST", "/echo", "part", 4, true, &call, 1), "body_timeout|408");
    h2_expect_bad(&c, h2_ask_with(&c, "PUT", "/echo", "hello world", 11, false, &call, 1), 413, "body_size|413|");
    call = h2_nv("content-type", "application/grpcx");
    h2_expect_bad(&c, h2_ask_with(&c, "POST", "/echo", "hello world", 11, false, &call, 1), 413, "body_size|413|");
    h2_expect_bad(&c, h2_post(&c, "/echo", "hello world"), 413, "body_size|413|"); /* nothing is left of those before */
    stop(&r, &c);
}

/* No SETTINGS after the preface, a frame of headers that does not end, a block that is never closed. */
static void test_header_timeout(void **state)
{
    (void)state;
    rig r;
    ag_http_conf conf = rig_conf();
    conf.header_timeout_ms = 500;
    rig_start(&r, &conf);
    for (int i = 0; i < 3; i++) {
        int fd;
        if (i == 0) {
            fd = dial(&r);
            send_z(fd, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        } else {
            h2_raw_dial(&r, &fd);
            assert_true(h2_raw(fd, NGHTTP2_HEADERS, 1, 1, H2_RAW_GET, i == 1 ? 3 : 6));
            if (i == 1) assert_true(h2_raw(fd, NGHTTP2_CONTINUATION, 0, 1, H2_RAW_GET + 3, 3));
        }
        h2_raw_expect_end(fd, NGHTTP2_ENHANCE_YOUR_CALM);
    }
    assert_int_equal(rig_bads(&r, AG_HTTP_BAD_HEADER_TIMEOUT), 3);
    int fd = dial(&r); /* still the same if it is not even a preface */
    send_z(fd, "PR");
    expect_bad(fd, 408, "header_timeout|408|");
    close(fd);
    rig_stop(&r);
}

static void test_idle_timeout(void **state)
{
    (void)state;
    rig r;
    h2_client c;
    ag_http_conf conf = rig_conf();
    conf.idle_timeout_ms = 500;
    start(&r, &c, &conf);
    int32_t id = h2_get(&c, "/timer");
    h2_expect(&c, id, 200, "timer");
    h2_expect_end(&c, NGHTTP2_NO_ERROR);
    assert_int_equal(rig_bads(&r, AG_HTTP_BAD_IDLE_TIMEOUT), 1);
    stop(&r, &c);
}

/* Pings do not make an idle connection a busy one. */
static void test_idle_ping(void **state)
{
    (void)state;
    rig r;
    ag_http_conf conf = rig_conf();
    conf.idle_timeout_ms = 500;
    rig_start(&r, &conf);
    int fd;
    h2_raw_dial(&r, &fd);
    int i = 0;
    for (; i < 2000 && rig_bads(&r, AG_HTTP_BAD_IDLE_TIMEOUT) == 0; i++) {
        h2_raw(fd, NGHTTP2_PING, 0, 0, "12345678", 8);
        usleep(2000);
    }
    assert_true(i < 2000);
    h2_raw_expect_end(fd, NGHTTP2_NO_ERROR);
    rig_stop(&r);
}

/* A stream whose window stays shut is cut, its neighbour is not; nor is one that is only slow to be made. */
static void test_write_timeout(void **state)
{
    (void)state;
    rig r;
    ag_http_conf conf = rig_conf();
    conf.write_timeout_ms = 100;
    rig_start(&r, &conf);
    h2_client c;
    h2_open(&c, dial(&r), true);
    nghttp2_session_set_local_window_size(c.session, 0, 0, 1 << 30);
    int32_t held = h2_get(&c, "/hold"), stuck = h2_get(&c, "/flood?2000000"), whole = h2_get(&c, "/timerbig");
    assert_int_equal(h2_wait(&c, stuck)->error, NGHTTP2_CANCEL);
    assert_int_equal(h2_wait(&c, whole)->error, NGHTTP2_CANCEL);
    rig_wait(&r, RIG_GONE, 2);
    assert_int_equal(rig_bads(&r, AG_HTTP_BAD_WRITE_TIMEOUT), 2);
    rig_post(&r, 0, "r:late", false);
    h2_expect(&c, held, 200, "late");
    h2_hang_up(&c);
    h2_open(&c, dial(&r), true); /* the same for the window that all share */
    stuck = h2_get(&c, "/flood?2000000");
    nghttp2_session_set_local_window_size(c.session, 0, stuck, 1 << 30);
    assert_int_equal(h2_wait(&c, stuck)->error, NGHTTP2_CANCEL);
    rig_wait(&r, RIG_GONE, 3);
    h2_hang_up(&c);
    rig_stop(&r);
}

static void test_total_timeout(void **state)
{
    (void)state;
    rig r;
    h2_client c;
    ag_http_conf conf = rig_conf();
    conf.total_timeout_ms = 100;
    start(&r, &c, &conf);
    h2_expect_bad(&c, h2_ask_with(&c, "POST", "/echo", "part", 4, true, NULL, 0), 408, "total_timeout|408|");
    h2_expect_bad(&c, h2_get(&c, "/hold"), 504, "total_timeout|504|");
    int32_t id = h2_get(&c, "/holdstream");
    assert_int_equal(h2_wait(&c, id)->error, NGHTTP2_CANCEL);
    assert_string_equal(h2_find(&c, id)->body, "first");
    rig_wait(&r, RIG_GONE, 3);
    h2_expect(&c, h2_get(&c, "/hello"), 200, "hello"); /* the connection goes on */
    assert_int_equal(rig_bads(&r, AG_HTTP_BAD_TOTAL_TIMEOUT), 3);
    stop(&r, &c);
    rig_start(&r, &conf);
    h2_open(&c, dial(&r), true); /* its window stays shut */
    assert_int_equal(h2_wait(&c, h2_get(&c, "/big?2000000"))->error, NGHTTP2_CANCEL);
    h2_hang_up(&c);
    int fd = dial_with(ag_http_server_port(r.server), 4096); /* its socket does */
    assert_true(send_n(fd, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\6\4\0\0\0\0\0\0\4\x7f\xff\xff\xff", 24 + 15));
    h2_raw(fd, NGHTTP2_WINDOW_UPDATE, 0, 0, "\x7f\0\0\0", 4);
    h2_raw(fd, NGHTTP2_HEADERS, 5, 1, "\x82\x86\x41\x01\x61\x04\x0d/big?20000000", 20);
    rig_wait(&r, RIG_GONE, 2);
    close(fd);
    assert_int_equal(rig_bads(&r, AG_HTTP_BAD_TOTAL_TIMEOUT), 2);
    rig_stop(&r);
}

static void test_requests(void **state)
{
    (void)state;
    rig r;
    h2_client c;
    ag_http_conf conf = rig_conf();
    conf.requests_max = 3;
    start(&r, &c, &conf);
    int32_t held = h2_get(&c, "/hold");
    h2_expect(&c, h2_get(&c, "/hello"), 200, "hello");
    assert_false(c.goaway);
    h2_expect(&c, h2_get(&c, "/hello"), 200, "hello");
    while (!c.goaway && h2_turn(&c)) {}
    assert_true(c.goaway && !c.over);
    rig_post(&r, 0, "r:late", false); /* those that are here are answered */
    h2_expect(&c, held, 200, "late");
    h2_expect_end(&c, NGHTTP2_NO_ERROR);
    assert_int_equal(rig_bads(&r, AG_HTTP_BAD_REQUESTS_PER_CONNECTION), 1);
    assert_int_equal(rig_count(&r, RIG_HEAD), 3);
    stop(&r, &c);
}

/* Bodies of one connection count together until they are answered, and what is refused leaves room for others. */
static void test_bodies(void **state)
{
    (void)state;
    rig r;
    h2_client c;
    ag_http_conf conf = rig_conf();
    conf.body_bytes_max = 8;
    conf.h2_bodies_max = 10;
    start(&r, &c, &conf);
    int32_t held = h2_post(&c, "/hold", "sixsix");
    h2_flush(&c);
    rig_wait(&r, RIG_END, 1);
    int32_t refused = h2_ask_with(&c, "POST", "/echo", "fives", 5, true, NULL, 0);
    h2_expect_bad(&c, refused, 429, "h2_bodies|429|");
    assert_non_null(strstr(h2_find(&c, refused)->head, "retry-after: 1\n"));
    h2_expect(&c, h2_post(&c, "/echo", "four"), 200, "four");
    h2_expect(&c, h2_post(&c, "/echo", "four"), 200, "four");
    int32_t left = h2_ask_with(&c, "POST", "/echo", "4444", 4, true, NULL, 0);
    h2_flush(&c);
    rig_wait(&r, RIG_BODY, 4);
    nghttp2_submit_rst_stream(c.session, 0, left, NGHTTP2_CANCEL); /* its bytes go with it */
    h2_expect(&c, h2_post(&c, "/echo", "four"), 200, "four");
    rig_post(&r, 0, "r:late", false);
    h2_expect(&c, held, 200, "late");
    h2_expect(&c, h2_post(&c, "/echo", "eight...") , 200, "eight...");
    assert_int_equal(rig_bads(&r, AG_HTTP_BAD_H2_BODIES), 1);
    stop(&r, &c);
    conf.h2_bodies_max = 1; /* but one body is always taken */
    start(&r, &c, &conf);
    h2_expect(&c, h2_post(&c, "/echo", "eight..."), 200, "eight...");
    stop(&r, &c);
}

/* One byte of window now and then does not hold a place. */
static void test_write_trickle(void **state)
{
    (void)state;
    rig r;
    ag_http_conf conf = rig_conf();
    conf.write_timeout_ms = 100;
    rig_start(&r, &conf);
    int fd, i = 0;
    h2_raw_dial(&r, &fd);
    assert_true(h2_raw(fd, NGHTTP2_HEADERS, 5, 1, "\x82\x86\x41\x01\x61\x04\x0e/flood?2000000", 21));
    for (; i < 2000 && rig_count(&r, RIG_GONE) == 0; i++) {
        h2_raw(fd, NGHTTP2_WINDOW_UPDATE, 0, 0, "\0\0\0\1", 4);
        h2_raw(fd, NGHTTP2_WINDOW_UPDATE, 0, 1, "\0\0\0\1", 4);
        usleep(2000);
    }
    assert_true(i < 2000);
    assert_int_equal(rig_bads(&r, AG_HTTP_BAD_WRITE_TIMEOUT), 1);
    close(fd);
    rig_stop(&r);
}

/* A client that takes nothing from its socket is cut whole, as on HTTP/1. */
static void test_deaf_client(void **state)
{
    (void)state;
    rig r;
    ag_http_conf conf = rig_conf();
    conf.write_timeout_ms = 100;
    rig_start(&r, &conf);
    int fd = dial_with(ag_http_server_port(r.server), 4096);
    assert_true(send_n(fd, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\6\4\0\0\0\0\0\0\4\x7f\xff\xff\xff", 24 + 15));
    h2_raw(fd, NGHTTP2_WINDOW_UPDATE, 0, 0, "\x7f\0\0\0", 4);
    h2_raw(fd, NGHTTP2_HEADERS, 5, 1, "\x82\x86\x41\x01\x61\x04\x10/flood?100000000", 23);
    h2_raw(fd, NGHTTP2_HEADERS, 5, 3, H2_RAW_GET, 6);
    rig_wait(&r, RIG_GONE, 1);
    RIG_UNTIL(ag_http_server_connections(r.server) == 0);
    assert_int_equal(rig_bads(&r, AG_HTTP_BAD_WRITE_TIMEOUT), 1);
    close(fd);
    rig_stop(&r);
}

static void test_streams(void **state)
{
    (void)state;
    rig r;
    ag_http_conf conf = rig_conf();
    conf.h2_streams_max = 2;
    rig_start(&r, &conf);
    int fd;
    h2_raw_dial(&r, &fd); /* has not heard of the limit yet: the third stream is refused, the others go on */
    for (uint32_t id = 1; id <= 5; id += 2) h2_raw(fd, NGHTTP2_HEADERS, 4, id, H2_RAW_GET, 6);
    unsigned char code[4];
    assert_int_equal(h2_raw_wait(fd, NGHTTP2_RST_STREAM, 5, (char *)code, 4), 4);
    assert_int_equal(code[3], NGHTTP2_REFUSED_STREAM);
    h2_raw(fd, NGHTTP2_DATA, 1, 1, "", 0);
    assert_true(h2_raw_wait(fd, NGHTTP2_HEADERS, 1, NULL, 0) > 0);
    h2_raw(fd, NGHTTP2_SETTINGS, 1, 0, "", 0); /* now it has */
    h2_raw(fd, NGHTTP2_HEADERS, 4, 7, H2_RAW_GET, 6);
    h2_raw(fd, NGHTTP2_HEADERS, 4, 9, H2_RAW_GET, 6);
    h2_raw_expect_end(fd, NGHTTP2_PROTOCOL_ERROR);
    assert_int_equal(rig_bads(&r, AG_HTTP_BAD_H2_STREAMS), 2);
    rig_stop(&r);
}

/* Frames that ask for nothing, one more than is taken. */
static void flood(ag_http_bad why, uint8_t type, uint8_t flags, uint32_t id, const char *p, size_t n)
{
    rig r;
    ag_http_conf conf = rig_conf();
    conf.h2_frames_max = 50;
    rig_start(&r, &conf);
    int fd;
    h2_raw_dial(&r, &fd);
    if (id) h2_raw(fd, NGHTTP2_HEADERS, 4, id, H2_RAW_GET, 6);
    uint32_t sent = type == NGHTTP2_SETTINGS; /* the first one is part of the preface */
    for (; sent < 50; sent++) assert_true(h2_raw(fd, type, flags, id, p, n));
    h2_raw(fd, NGHTTP2_HEADERS, 5, 9, H2_RAW_GET, 6); /* so many are fine */
    assert_true(h2_raw_wait(fd, NGHTTP2_HEADERS, 9, NULL, 0) > 0);
    assert_int_equal(rig_bads(&r, why), 0);
    h2_raw(fd, type, flags, id, p, n);
    h2_raw_expect_end(fd, NGHTTP2_ENHANCE_YOUR_CALM);
    assert_int_equal(rig_bads(&r, why), 1);
    rig_stop(&r);
}

static void test_floods(void **state)
{
    (void)state;
    flood(AG_HTTP_BAD_H2_SETTINGS, NGHTTP2_SETTINGS, 0, 0, "", 0);
    flood(AG_HTTP_BAD_H2_PINGS, NGHTTP2_PING, 0, 0, "12345678", 8);
    flood(AG_HTTP_BAD_H2_EMPTY, NGHTTP2_DATA, 0, 1, "", 0);
    flood(AG_HTTP_BAD_H2_EMPTY, NGHTTP2_PRIORITY, 0, 1, "\0\0\0\0\1", 5);
}

/* Streams opened and reset at once cost work and no place among those open. */
static void test_rapid_reset(void **state)
{
    (void)state;
    rig r;
    ag_http_conf conf = rig_conf();
    conf.h2_resets_max = 20;
    rig_start(&r, &conf);
    int fd;
    h2_raw_dial(&r, &fd);
    for (uint32_t i = 0; i <= 20; i++) {
        assert_true(h2_raw(fd, NGHTTP2_HEADERS, 5, 2 * i + 1, H2_RAW_GET, 6));
        assert_true(h2_raw(fd, NGHTTP2_RST_STREAM, 0, 2 * i + 1, "\0\0\0\x08", 4));
    }
    h2_raw_expect_end(fd, NGHTTP2_ENHANCE_YOUR_CALM);
    assert_int_equal(rig_bads(&r, AG_HTTP_BAD_H2_RESETS), 1);
    h2_raw_dial(&r, &fd); /* having us reset them counts the same: a window of more than 2^31 */
    for (uint32_t i = 0; i <= 20; i++) {
        h2_raw(fd, NGHTTP2_HEADERS, 4, 2 * i + 1, H2_RAW_GET, 6);
        h2_raw(fd, NGHTTP2_WINDOW_UPDATE, 0, 2 * i + 1, "\x7f\xff\xff\xff", 4);
    }
    h2_raw_expect_end(fd, NGHTTP2_ENHANCE_YOUR_CALM);
    assert_int_equal(rig_bads(&r, AG_HTTP_BAD_H2_RESETS), 2);
    rig_stop(&r);
}

static void test_continuations(void **state)
{
    (void)state;
    rig r;
    ag_http_conf conf = rig_conf();
    rig_start(&r, &conf);
    int fd;
    h2_raw_dial(&r, &fd);
    h2_raw(fd, NGHTTP2_HEADERS, 1, 1, H2_RAW_GET, 1);
    for (int i = 1; i < 6; i++) h2_raw(fd, NGHTTP2_CONTINUATION, i == 5 ? 4 : 0, 1, &H2_RAW_GET[i], 1);
    assert_true(h2_raw_wait(fd, NGHTTP2_HEADERS, 1, NULL, 0) > 0); /* some are fine */
    h2_raw(fd, NGHTTP2_HEADERS, 1, 3, H2_RAW_GET, 6);
    for (int i = 0; i < 100 && h2_raw(fd, NGHTTP2_CONTINUATION, 0, 3, "", 0); i++) continue;
    h2_raw_expect_end(fd, NGHTTP2_ENHANCE_YOUR_CALM);
    assert_int_equal(rig_bads(&r, AG_HTTP_BAD_H2_CONTINUATIONS), 1);
    rig_stop(&r);
}

static void test_windows(void **state)
{
    (void)state;
    rig r;
    h2_client c;
    ag_http_conf conf = rig_conf();
    conf.h2_window_bytes = 20000;
    conf.h2_connection_window_bytes = 70000;
    start(&r, &c, &conf);
    while (!c.settled && h2_turn(&c)) {}
    while (nghttp2_session_get_remote_window_size(c.session) < 70000 && h2_turn(&c)) {}
    assert_int_equal(nghttp2_session_get_remote_settings(c.session, NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE), 20000);
    assert_int_equal(nghttp2_session_get_remote_settings(c.session, NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS), 100);
    assert_int_equal(nghttp2_session_get_remote_settings(c.session, NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE), 4096);
    stop(&r, &c);
    rig_start(&r, &conf); /* who sends past it breaks the rules */
    int fd;
    static const char zeros[16384];
    h2_raw_dial(&r, &fd);
    h2_raw(fd, NGHTTP2_SETTINGS, 1, 0, "", 0);
    h2_raw(fd, NGHTTP2_HEADERS, 4, 1, H2_RAW_GET, 6);
    for (int i = 0; i < 40 && h2_raw(fd, NGHTTP2_DATA, 0, 1, zeros, 16384); i++) continue;
    close(fd);
    rig_stop(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_refused_heads),
        cmocka_unit_test(test_malformed),
        cmocka_unit_test(test_header_size),
        cmocka_unit_test(test_target_size),
        cmocka_unit_test(test_body_size),
        cmocka_unit_test(test_body_timeout),
        cmocka_unit_test(test_calls_of_grpc),
        cmocka_unit_test(test_header_timeout),
        cmocka_unit_test(test_idle_timeout),
        cmocka_unit_test(test_idle_ping),
        cmocka_unit_test(test_write_timeout),
        cmocka_unit_test(test_total_timeout),
        cmocka_unit_test(test_requests),
        cmocka_unit_test(test_bodies),
        cmocka_unit_test(test_write_trickle),
        cmocka_unit_test(test_deaf_client),
        cmocka_unit_test(test_streams),
        cmocka_unit_test(test_floods),
        cmocka_unit_test(test_rapid_reset),
        cmocka_unit_test(test_continuations),
        cmocka_unit_test(test_windows),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
