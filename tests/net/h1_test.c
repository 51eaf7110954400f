#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

#include "h1_drive.h"

typedef struct h1_case {
    const char *name, *in;
    size_t n;
    const char *want; /* the log, or of a refused request the part of the sentence that must be in it */
} h1_case;
#define IN(text) text, sizeof(text) - 1
#define HOST "Host: a\r\n"

static size_t cut_at(void *arg, size_t left) /* one piece up to *arg, then the rest */
{
    size_t *first = arg, n = *first ? AG_MIN(*first, left) : left;
    *first = 0;
    return n;
}

/* Whole, byte by byte, and cut in two at every place: always the same events. */
static void check_pieces(const h1_case *c, void (*check)(const h1_case *c, const drive *d))
{
    drive whole, d;
    drive_run(&whole, c->in, c->n, drive_whole, NULL);
    check(c, &whole);
    for (size_t at = 0; at < c->n; at++) {
        size_t first = at;
        if (at == 0) drive_run(&d, c->in, c->n, drive_bytes, NULL);
        else drive_run(&d, c->in, c->n, cut_at, &first);
        if (!ag_str_eq(ag_buf_str(&d.log), ag_buf_str(&whole.log)))
            fail_msg("%s: cut at %zu gives\n%.*s\nand not\n%.*s", c->name, at, (int)d.log.n, d.log.p, (int)whole.log.n,
                     whole.log.p);
        ag_buf_fini(&d.log);
    }
    ag_buf_fini(&whole.log);
}

static void check_log(const h1_case *c, const drive *d)
{
    if (!ag_str_eq(ag_buf_str(&d->log), ag_str_of(c->want)))
        fail_msg("%s:\n%.*s\nand not\n%s", c->name, (int)d->log.n, d->log.p, c->want);
}

static void check_bad(const h1_case *c, const drive *d)
{
    ag_str log = ag_buf_str(&d->log);
    if (d->bads != 1 || memmem(log.p, log.n, c->want, strlen(c->want)) == NULL)
        fail_msg("%s: no \"%s\" in\n%.*s", c->name, c->want, (int)log.n, log.p);
}

static void test_good(void **state)
{
    (void)state;
    static const h1_case cases[] = {
        {"plain", IN("GET /a?b=c HTTP/1.1\r\n" HOST "\r\n"),
         "H GET /a?b=c 1.1 body=0 length=-1 keep=1 expect=0\n Host=a\nE\n"},
        {"methods are the user's to know", IN("QUERY / HTTP/1.1\r\n" HOST "\r\nget / HTTP/1.1\r\n" HOST "\r\n"),
         "H QUERY / 1.1 body=0 length=-1 keep=1 expect=0\n Host=a\nE\n"
         "H get / 1.1 body=0 length=-1 keep=1 expect=0\n Host=a\nE\n"},
        {"values are trimmed", IN("GET / HTTP/1.1\r\nhost:\t a \r\nX-Empty:\r\nX-T: a \t b\t\r\n\r\n"),
         "H GET / 1.1 body=0 length=-1 keep=1 expect=0\n host=a\n X-Empty=\n X-T=a \t b\nE\n"},
        {"1.0 closes and needs no Host", IN("GET / HTTP/1.0\r\n\r\n"),
         "H GET / 1.0 body=0 length=-1 keep=0 expect=0\nE\n"},
        {"1.0 keeps when asked", IN("GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n"),
         "H GET / 1.0 body=0 length=-1 keep=1 expect=0\n Connection=Keep-Alive\nE\n"},
        {"close among others", IN("GET / HTTP/1.1\r\n" HOST "Connection: x, CLOSE ,keep-alive\r\n\r\n"),
         "H GET / 1.1 body=0 length=-1 keep=0 expect=0\n Host=a\n Connection=x, CLOSE ,keep-alive\nE\n"},
        {"length, then the next",
         IN("POST / HTTP/1.1\r\n" HOST "Content-Length: 5\r\n\r\nhelloGET / HTTP/1.1\r\n" HOST "\r\n"),
         "H POST / 1.1 body=1 length=5 keep=1 expect=0\n Host=a\n Content-Length=5\nBhello\nE\n"
         "H GET / 1.1 body=0 length=-1 keep=1 expect=0\n Host=a\nE\n"},
        {"length nought", IN("POST / HTTP/1.1\r\n" HOST "Content-Length: 0\r\n\r\nGET / HTTP/1.1\r\n" HOST "\r\n"),
         "H POST / 1.1 body=0 length=0 keep=1 expect=0\n Host=a\n Content-Length=0\nE\n"
         "H GET / 1.1 body=0 length=-1 keep=1 expect=0\n Host=a\nE\n"},
        {"chunks, extension, trailer, next",
         IN("POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: Chunked\r\nExpect: 100-Continue\r\n\r\n"
            "3;a=b\r\nabc\r\n00000000000A\r\n0123456789\r\n0\r\nX-Sum: 1 2\r\n\r\nGET / HTTP/1.1\r\n" HOST "\r\n"),
         "H POST / 1.1 body=1 length=-1 keep=1 expect=1\n Host=a\n Transfer-Encoding=Chunked\n Expect=100-Continue\n"
         "Babc0123456789\nE\nH GET / 1.1 body=0 length=-1 keep=1 expect=0\n Host=a\nE\n"},
        {"chunks of nothing", IN("POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
         "H POST / 1.1 body=1 length=-1 keep=1 expect=0\n Host=a\n Transfer-Encoding=chunked\nE\n"},
        {"one empty line before", IN("\r\nGET / HTTP/1.1\r\n" HOST "\r\n\r\nGET / HTTP/1.1\r\n" HOST "\r\n"),
         "H GET / 1.1 body=0 length=-1 keep=1 expect=0\n Host=a\nE\n"
         "H GET / 1.1 body=0 length=-1 keep=1 expect=0\n Host=a\nE\n"},
        {"absolute form", IN("GET HTTP://A:80?q HTTP/1.1\r\nHost: a:80\r\n\r\n"),
         "H GET HTTP://A:80?q 1.1 body=0 length=-1 keep=1 expect=0\n Host=a:80\nE\n"},
        {"asterisk", IN("OPTIONS * HTTP/1.1\r\nHost: [::1]:80\r\n\r\n"),
         "H OPTIONS * 1.1 body=0 length=-1 keep=1 expect=0\n Host=[::1]:80\nE\n"},
        {"upgrade is not taken up",
         IN("GET / HTTP/1.1\r\n" HOST "Connection: Upgrade\r\nUpgrade: h2c\r\n\r\nGET /2 HTTP/1.1\r\n" HOST "\r\n"),
         "H GET / 1.1 body=0 length=-1 keep=1 expect=0\n Host=a\n Connection=Upgrade\n Upgrade=h2c\nE\n"
         "H GET /2 1.1 body=0 length=-1 keep=1 expect=0\n Host=a\nE\n"},
        {"upgrade with a body",
         IN("POST / HTTP/1.1\r\n" HOST "Connection: Upgrade\r\nUpgrade: x\r\nContent-Length: 2\r\n\r\nok"),
         "H POST / 1.1 body=1 length=2 keep=1 expect=0\n Host=a\n Connection=Upgrade\n Upgrade=x\n Content-Length=2\n"
         "Bok\nE\n"},
    };
    for (size_t i = 0; i < AG_ARRAY_LEN(cases); i++) check_pieces(&cases[i], check_log);
}

#define GET(headers) "GET / HTTP/1.1\r\n" headers "\r\n"
#define POST(headers) "POST / HTTP/1.1\r\n" HOST headers "\r\n"
#define CHUNKED POST("Transfer-Encoding: chunked\r\n")

static void test_bad(void **state)
{
    (void)state;
    static const h1_case cases[] = {
        {"bare LF after the line", IN("GET / HTTP/1.1\n" HOST "\r\n"), "parse 400 a line ends in LF alone"},
        {"bare LF at the end", IN("GET / HTTP/1.1\r\n" HOST "\n"), "LF alone"},
        {"bare LF first", IN("\nGET / HTTP/1.1\r\n" HOST "\r\n"), "LF alone"},
        {"bare CR in a value", IN(GET(HOST "X: a\rb\r\n")), "a CR stands without its LF"},
        {"CR CR LF", IN("GET / HTTP/1.1\r\r\n" HOST "\r\n"), "CR stands"},
        {"NUL in a value", IN(GET(HOST "X: a\0b\r\n")), "control character"},
        {"NUL in a name", IN(GET(HOST "X\0: b\r\n")), "control character"},
        {"NUL in the target", IN("GET /\0 HTTP/1.1\r\n" HOST "\r\n"), "control character"},
        {"DEL in a value", IN(GET(HOST "X: \x7F\r\n")), "control character"},
        {"TLS", IN("\x16\x03\x01\x02"), "plain HTTP, not TLS"},
        {"two empty lines", IN("\r\n\r\nGET / HTTP/1.1\r\n" HOST "\r\n"), "request line is empty"},
        {"obs-fold", IN(GET(HOST "X: a\r\n b\r\n")), "folded"},
        {"obs-fold by tab", IN(GET(HOST "X: a\r\n\tb\r\n")), "folded"},
        {"space before the first header", IN(GET(" " HOST)), "folded"},
        {"space before the colon", IN(GET(HOST "X : a\r\n")), "no space before it"},
        {"tab before the colon", IN(GET(HOST "X\t: a\r\n")), "no space before it"},
        {"no colon", IN(GET(HOST "X\r\n")), "must read: name"},
        {"no name", IN(GET(HOST ": x\r\n")), "must read: name"},
        {"no Host", IN(GET("")), "Host header is missing"},
        {"two Hosts", IN(GET(HOST HOST)), "more than one Host"},
        {"two Hosts in 1.0", IN("GET / HTTP/1.0\r\n" HOST HOST "\r\n"), "more than one Host"},
        {"empty Host", IN(GET("Host:\r\n")), "not a host name"},
        {"Host with a path", IN(GET("Host: a/b\r\n")), "not a host name"},
        {"Host with a user", IN(GET("Host: u@a\r\n")), "not a host name"},
        {"Host with a space", IN(GET("Host: a b\r\n")), "not a host name"},
        {"length twice", IN(POST("Content-Length: 5\r\nContent-Length: 5\r\n")), "more than one Content-Length"},
        {"length list", IN(POST("Content-Length: 5, 5\r\n")), "plain decimal"},
        {"length signed", IN(POST("Content-Length: +5\r\n")), "plain decimal"},
        {"length negative", IN(POST("Content-Length: -1\r\n")), "plain decimal"},
        {"length hex", IN(POST("Content-Length: 0x5\r\n")), "plain decimal"},
        {"length empty", IN(POST("Content-Length:\r\n")), "plain decimal"},
        {"length in words", IN(POST("Content-Length: 5 5\r\n")), "plain decimal"},
        {"length too long", IN(POST("Content-Length: 1000000000000000000\r\n")), "plain decimal"},
        {"length with coding", IN(POST("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n")), "exclude each other"},
        {"coding with length", IN(POST("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n")), "exclude each other"},
        {"coding twice", IN(POST("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n")), "once"},
        {"coding list", IN(POST("Transfer-Encoding: gzip, chunked\r\n")), "must be \"chunked\""},
        {"coding identity", IN(POST("Transfer-Encoding: identity\r\n")), "must be \"chunked\""},
        {"coding with parameter", IN(POST("Transfer-Encoding: chunked;q=1\r\n")), "must be \"chunked\""},
        {"coding by vertical tab", IN(POST("Transfer-Encoding: \vchunked\r\n")), "control character"},
        {"coding in 1.0", IN("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n"), "HTTP/1.0 has no"},
        {"expectation", IN(POST("Expect: 200-ok\r\n")), "parse 417 only Expect"},
        {"version 2", IN("GET / HTTP/2.0\r\n" HOST "\r\n"), "only HTTP/1.1"},
        {"version 1.2", IN("GET / HTTP/1.2\r\n" HOST "\r\n"), "only HTTP/1.1"},
        {"version 0.9", IN("GET /\r\n\r\n"), "must end in HTTP/1.1"},
        {"version in small letters", IN("GET / http/1.1\r\n" HOST "\r\n"), "only HTTP/1.1"},
        {"preface of HTTP/2", IN("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), "only HTTP/1.1"},
        {"no method", IN(" / HTTP/1.1\r\n" HOST "\r\n"), "request line must read"},
        {"CONNECT", IN("CONNECT a:80 HTTP/1.1\r\n" HOST "\r\n"), "CONNECT is for proxies"},
        {"two spaces", IN("GET  / HTTP/1.1\r\n" HOST "\r\n"), "target holds a space"},
        {"space in the target", IN("GET /a b HTTP/1.1\r\n" HOST "\r\n"), "target holds a space"},
        {"tab for space", IN("GET\t/ HTTP/1.1\r\n" HOST "\r\n"), "request line must read"},
        {"fragment", IN("GET /#a HTTP/1.1\r\n" HOST "\r\n"), "'#'"},
        {"byte outside ASCII", IN("GET /\xC3\xA9 HTTP/1.1\r\n" HOST "\r\n"), "outside ASCII"},
        {"target without path", IN("GET a HTTP/1.1\r\n" HOST "\r\n"), "begins with '/'"},
        {"target empty", IN("GET  HTTP/1.1\r\n" HOST "\r\n"), "begins with '/'"},
        {"asterisk for GET", IN("GET * HTTP/1.1\r\n" HOST "\r\n"), "begins with '/'"},
        {"absolute with another host", IN("GET http://b/ HTTP/1.1\r\n" HOST "\r\n"), "not the one in the Host"},
        {"absolute without host", IN("GET http:///x HTTP/1.1\r\n" HOST "\r\n"), "not the one in the Host"},
        {"absolute of another scheme", IN("GET ftp://a/ HTTP/1.1\r\n" HOST "\r\n"), "begins with '/'"},
        {"body too large", IN(POST("Content-Length: 4097\r\n")), "body_size 413"},
        {"chunk too large", IN(CHUNKED "1001\r\n"), "body_size 413"},
        {"chunks too large together", IN(CHUNKED "1\r\na\r\n1000\r\n"), "body_size 413"},
        {"chunk size empty", IN(CHUNKED "\r\n"), "hexadecimal"},
        {"chunk size signed", IN(CHUNKED "+1\r\na\r\n"), "hexadecimal"},
        {"chunk size 0x", IN(CHUNKED "0x1\r\na\r\n"), "hexadecimal"},
        {"chunk size then space", IN(CHUNKED "1 \r\na\r\n"), "hexadecimal"},
        {"chunk size after space", IN(CHUNKED " 1\r\na\r\n"), "hexadecimal"},
        {"chunk size by LF", IN(CHUNKED "1\na\r\n"), "hexadecimal"},
        {"chunk size by CR", IN(CHUNKED "1\ra\r\n"), "CR stands"},
        {"chunk size of 16 digits", IN(CHUNKED "0000000000000001\r\na\r\n"), "15 digits"},
        {"chunk longer than said", IN(CHUNKED "1\r\nab\r\n"), "longer than its size"},
        {"chunk ends in LF", IN(CHUNKED "1\r\na\n"), "longer than its size"},
        {"chunk ends in CR", IN(CHUNKED "1\r\na\r0"), "CR stands"},
        {"extension with LF", IN(CHUNKED "1;a\n\r\na\r\n"), "control character"},
        {"extension with NUL", IN(CHUNKED "1;a\0\r\na\r\n"), "control character"},
        {"trailer folded", IN(CHUNKED "0\r\nA: b\r\n c\r\n\r\n"), "begin with a name"},
        {"trailer with space", IN(CHUNKED "0\r\nA : b\r\n\r\n"), "no space before it"},
        {"trailer with LF", IN(CHUNKED "0\r\nA: b\n\r\n"), "control character"},
        {"end by LF", IN(CHUNKED "0\r\n\n"), "begin with a name"},
        {"end by CR", IN(CHUNKED "0\r\n\rG"), "CR stands"},
    };
    for (size_t i = 0; i < AG_ARRAY_LEN(cases); i++) check_pieces(&cases[i], check_bad);
}

static char *fill(char *to, char c, size_t n)
{
    memset(to, c, n);
    return to + n;
}

/* A head of exactly the limit passes, one byte more does not; nor does one that only might have ended in time. */
static void test_header_bytes(void **state)
{
    (void)state;
    static const char start[] = "GET / HTTP/1.1\r\n" HOST "X: ";
    char in[DRIVE_HEADER_BYTES_MAX + 8];
    for (size_t total = DRIVE_HEADER_BYTES_MAX - 2; total <= DRIVE_HEADER_BYTES_MAX + 2; total++) {
        char *p = in + sizeof start - 1;
        memcpy(in, start, sizeof start - 1);
        p = fill(p, 'x', total - (sizeof start - 1) - 4);
        memcpy(p, "\r\n\r\n", 4);
        drive d;
        drive_run(&d, in, total, drive_whole, NULL);
        assert_int_equal(d.requests, total <= DRIVE_HEADER_BYTES_MAX);
        assert_int_equal(d.bads, total > DRIVE_HEADER_BYTES_MAX);
        ag_buf_fini(&d.log);
        h1_case c = {"too long", in, total, "headers_size 431"};
        if (total > DRIVE_HEADER_BYTES_MAX) check_pieces(&c, check_bad);
    }
}

static void test_header_count(void **state)
{
    (void)state;
    for (int n = DRIVE_HEADERS_MAX - 1; n <= DRIVE_HEADERS_MAX + 1; n++) {
        ag_buf in;
        ag_buf_init(&in, 4096);
        ag_buf_addz(&in, "GET / HTTP/1.1\r\n" HOST);
        for (int i = 1; i < n; i++) ag_buf_addz(&in, "X: y\r\n");
        ag_buf_addz(&in, "\r\n");
        drive d;
        drive_run(&d, in.p, in.n, drive_whole, NULL);
        assert_int_equal(d.requests, n <= DRIVE_HEADERS_MAX);
        h1_case c = {"too many", in.p, in.n, "headers_size 431"};
        if (n > DRIVE_HEADERS_MAX) check_bad(&c, &d);
        ag_buf_fini(&d.log);
        ag_buf_fini(&in);
    }
}

/* What frames a body is bounded as well as the body. */
static void check_flood(const char *unit, size_t times, const char *tail, const char *want)
{
    ag_buf in;
    ag_buf_init(&in, 1 << 20);
    ag_buf_addz(&in, CHUNKED);
    for (size_t i = 0; i < times; i++) ag_buf_addz(&in, unit);
    ag_buf_addz(&in, tail);
    drive d;
    drive_run(&d, in.p, in.n, drive_whole, NULL);
    h1_case c = {unit, in.p, in.n, want};
    if (want) check_bad(&c, &d);
    else assert_int_equal(d.requests, 1);
    ag_buf_fini(&d.log);
    ag_buf_fini(&in);
}

static void test_framing_bounds(void **state)
{
    (void)state;
    check_flood("1\r\na\r\n", 4096, "0\r\n\r\n", NULL);
    check_flood("1\r\na\r\n", 4097, "0\r\n\r\n", "body_size 413");
    static const char chunk[] = "1;abcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyz\r\na\r\n";
    check_flood(chunk, 300, "0\r\n\r\n", NULL);
    check_flood(chunk, 400, "0\r\n\r\n", "extensions are too long");
    ag_buf ext;
    ag_buf_init(&ext, 1024);
    ag_buf_addz(&ext, "1;");
    for (int i = 0; i < 257; i++) ag_buf_addc(&ext, 'a');
    ag_buf_zterm(&ext);
    check_flood(ext.p, 1, "\r\na\r\n0\r\n\r\n", "extensions are too long");
    ag_buf_fini(&ext);
    check_flood("0\r\n", 1, "A: b\r\n\r\n", NULL);
    ag_buf many;
    ag_buf_init(&many, 16384);
    ag_buf_addz(&many, "0\r\n");
    while (many.n < 9000) ag_buf_addz(&many, "A: b\r\n");
    ag_buf_zterm(&many);
    check_flood(many.p, 1, "\r\n", "trailers are too long");
    ag_buf_fini(&many);
}

/* Each byte of a head is looked at once, whatever the pieces: counted as scanner steps at n and 2n. */
static void test_scan_is_linear(void **state)
{
    (void)state;
    size_t steps[2];
    for (int k = 0; k < 2; k++) {
        size_t n = (size_t)400 << k, at = 0;
        char in[800];
        memset(in, 'a', sizeof in);
        steps[k] = 0;
        for (size_t got = 1; got <= n; got++) {
            const char *sentence;
            size_t before = at;
            assert_int_equal(ag__head_scan(in, got, &at, &sentence), AG__SCAN_MORE);
            steps[k] += at - before;
        }
        assert_int_equal(steps[k], n);
    }
}

static void test_head_get(void **state)
{
    (void)state;
    ag_http_header hs[3] = {
        {AG_STR("A"), AG_STR("1")}, {AG_STR("Content-Type"), AG_STR("x")}, {AG_STR("content-type"), AG_STR("y")}};
    ag_http_head h = {.headers = hs, .n_headers = 3};
    assert_true(ag_str_eqz(ag_http_head_get(&h, "content-TYPE"), "x"));
    assert_null(ag_http_head_get(&h, "Content").p);
}

static void check_target(const char *in, const char *path, const char *query)
{
    ag_http_header slots[4];
    ag__head h;
    const char *sentence;
    assert_int_equal(ag__head_parse(&h, in, strlen(in), slots, 4, &sentence), AG_OK);
    assert_true(ag_str_eqz(h.pub.path, path));
    if (query) assert_true(ag_str_eqz(h.pub.query, query) && h.pub.query.p);
    else assert_null(h.pub.query.p);
}

static void test_target(void **state)
{
    (void)state;
    check_target("GET /a/b HTTP/1.1\r\nHost: a\r\n\r\n", "/a/b", NULL);
    check_target("GET /a?x?y=%20 HTTP/1.1\r\nHost: a\r\n\r\n", "/a", "x?y=%20");
    check_target("GET /? HTTP/1.1\r\nHost: a\r\n\r\n", "/", "");
    check_target("GET http://a HTTP/1.1\r\nHost: A\r\n\r\n", "/", NULL);
    check_target("GET http://a?b HTTP/1.1\r\nHost: a\r\n\r\n", "/", "b");
    check_target("GET https://a/b?c HTTP/1.1\r\nHost: a\r\n\r\n", "/b", "c");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_good),
        cmocka_unit_test(test_bad),
        cmocka_unit_test(test_header_bytes),
        cmocka_unit_test(test_header_count),
        cmocka_unit_test(test_framing_bounds),
        cmocka_unit_test(test_scan_is_linear),
        cmocka_unit_test(test_head_get),
        cmocka_unit_test(test_target),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
