/* The Unix socket, and proxies that name their clients: accept.c and the beginning of a connection in conn.c. */
#include "rig.h"

#include <sys/stat.h>
#include <sys/un.h>

#define PROXY "\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xcb\0\x71\x09\x7f\0\0\1\x11\x11\0\x50" /* 203.0.113.9 */
#define PROXY_BYTES 28

static int dial_local(const char *path)
{
    struct sockaddr_un sa = {.sun_family = AF_UNIX};
    snprintf(sa.sun_path, sizeof sa.sun_path, "%s", path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (connect(fd, (struct sockaddr *)&sa, sizeof sa) == 0) return fd;
    close(fd);
    return -1;
}

static void make_path(char dir[64], char path[100])
{
    snprintf(dir, 64, "/tmp/autoglm-unix-XXXXXX");
    assert_non_null(mkdtemp(dir));
    snprintf(path, 100, "%s/socket", dir);
}

static void test_unix(void **state)
{
    (void)state;
    char dir[64], path[100];
    make_path(dir, path);
    rig r;
    ag_http_conf conf = rig_conf();
    conf.unix_path = path;
    rig_start(&r, &conf);
    int fd = dial_local(path), tcp = dial(&r);
    send_z(fd, RIG_GET("/peer"));
    expect_reply(fd, 200, "unix");
    send_z(tcp, RIG_GET("/peer"));
    expect_reply(tcp, 200, "127.0.0.1");
    send_z(fd, RIG_GET("/flood?3000000"));
    reply a = get_reply(fd);
    assert_true(a.whole && a.n == 3000000);
    free(a.body);
    send_z(fd, RIG_GET("/hold")); /* one who leaves behind more than is read is missed here too */
    rig_wait(&r, RIG_END, 4);
    ag_buf in;
    ag_buf_init(&in, 1 << 20);
    while (in.n < 100000) ag_buf_addz(&in, RIG_GET("/hello"));
    assert_true(send_n(fd, in.p, in.n));
    ag_buf_fini(&in);
    close(fd);
    rig_wait(&r, RIG_GONE, 1);

    ag_err err = {0};
    ag_http_server *second = NULL;
    ag_http_handler h = {.on_head = rig_on_head, .on_body = rig_on_body, .on_end = rig_on_end, .on_gone = rig_on_gone,
                         .done = rig_done, .on_message = rig_on_message};
    assert_int_equal(ag_http_server_open(&second, &conf, &h, &err), AG_E_IO); /* somebody answers there */
    assert_non_null(strstr(err.text, "cannot listen on the Unix socket"));
    ag_err_clear(&err);
    close(tcp);
    rig_stop(&r);
    assert_int_equal(access(path, F_OK), -1);

    int left = socket(AF_UNIX, SOCK_STREAM, 0); /* what a server left that was killed */
    struct sockaddr_un sa = {.sun_family = AF_UNIX};
    snprintf(sa.sun_path, sizeof sa.sun_path, "%s", path);
    assert_int_equal(bind(left, (struct sockaddr *)&sa, sizeof sa), 0);
    close(left);
    rig_start(&r, &conf);
    fd = dial_local(path);
    send_z(fd, RIG_GET("/hello"));
    expect_reply(fd, 200, "hello");
    close(fd);
    rig_stop(&r);

    FILE *f = fopen(path, "w"); /* a file of somebody is not touched */
    fclose(f);
    assert_int_equal(ag_http_server_open(&second, &conf, &h, &err), AG_E_IO);
    ag_err_clear(&err);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(rmdir(dir), 0);
    char longer[200];
    memset(longer, 'x', sizeof longer - 1);
    longer[sizeof longer - 1] = 0;
    conf.unix_path = longer;
    assert_int_equal(ag_http_server_open(&second, &conf, &h, &err), AG_E_USAGE);
    assert_non_null(strstr(err.text, "longer than 107 bytes"));
}

static void expect_peer(rig *r, const char *start, size_t n, const char *more, const char *peer)
{
    char in[512];
    int fd = dial(r);
    send_n(fd, start, n);
    snprintf(in, sizeof in, "GET /peer HTTP/1.1\r\n" RIG_HOST "%s\r\n", more);
    send_z(fd, in);
    expect_reply(fd, 200, peer);
    close(fd);
}

static void test_proxies(void **state)
{
    (void)state;
    rig r;
    ag_http_conf conf = rig_conf();
    conf.trusted_proxies = "127.0.0.0/8";
    rig_start(&r, &conf);
    expect_peer(&r, "", 0, "", "127.0.0.1");
    expect_peer(&r, "", 0, "X-Forwarded-For: 198.51.100.1, 203.0.113.9\r\n", "203.0.113.9");
    expect_peer(&r, PROXY, PROXY_BYTES, "", "203.0.113.9");
    expect_peer(&r, PROXY, PROXY_BYTES, "X-Forwarded-For: 198.51.100.1\r\n", "203.0.113.9"); /* the client's own word */
    int fd = dial(&r);
    for (int i = 0; i < PROXY_BYTES; i++) send_n(fd, &PROXY[i], 1);
    send_z(fd, RIG_GET("/peer"));
    expect_reply(fd, 200, "203.0.113.9");
    close(fd);
    fd = dial(&r);
    send_n(fd, "\r\n\r\n\0\r\nQUIT\n\x33\x11\0\0", 16);
    expect_closed(fd);
    assert_int_equal(rig_bads(&r, AG_HTTP_BAD_PARSE), 1);
    fd = dial(&r);
    send_z(fd, "\r\n" RIG_GET("/peer")); /* begins alike */
    expect_reply(fd, 200, "127.0.0.1");
    close(fd);
    rig_stop(&r);

    conf.trusted_proxies = "10.0.0.0/8";
    rig_start(&r, &conf);
    expect_peer(&r, "", 0, "X-Forwarded-For: 203.0.113.9\r\n", "127.0.0.1");
    fd = dial(&r);
    send_n(fd, PROXY, PROXY_BYTES);
    expect_bad(fd, 400, "parse");
    close(fd);
    rig_stop(&r);
}

/* The limit is each client's, not their proxy's. */
static void test_counted(void **state)
{
    (void)state;
    rig r;
    ag_http_conf conf = rig_conf();
    conf.trusted_proxies = "127.0.0.1";
    conf.connections_per_address_max = 1;
    conf.header_timeout_ms = 100;
    rig_start(&r, &conf);
    int a = dial(&r), b = dial(&r), c = dial(&r);
    send_n(a, PROXY, PROXY_BYTES);
    send_z(a, RIG_GET("/hello"));
    expect_reply(a, 200, "hello");
    send_z(b, RIG_GET("/hello")); /* the proxy for itself */
    expect_reply(b, 200, "hello");
    send_n(c, PROXY, PROXY_BYTES);
    send_z(c, RIG_GET("/hello"));
    expect_bad(c, 429, "connections_per_address");
    close(c);
    assert_int_equal(rig_bads(&r, AG_HTTP_BAD_CONNECTIONS_PER_ADDRESS), 1);
    close(a);
    RIG_UNTIL(ag_http_server_connections(r.server) == 1);
    c = dial(&r);
    send_n(c, PROXY, PROXY_BYTES);
    send_z(c, RIG_GET("/hello"));
    expect_reply(c, 200, "hello");
    close(c);
    close(b);
    c = dial(&r);
    send_n(c, PROXY, 20); /* never whole */
    expect_closed(c);
    rig_stop(&r);
    ag_err err = {0};
    conf.trusted_proxies = "nonsense";
    ag_http_server *s = NULL;
    ag_http_handler h = {.on_head = rig_on_head, .on_body = rig_on_body, .on_end = rig_on_end, .on_gone = rig_on_gone,
                         .done = rig_done, .on_message = rig_on_message};
    assert_int_equal(ag_http_server_open(&s, &conf, &h, &err), AG_E_USAGE);
}

/* One that is refused takes no place of the client that it names. */
static void test_refused_and_named(void **state)
{
    (void)state;
    rig r;
    ag_http_conf conf = rig_conf();
    conf.trusted_proxies = "127.0.0.1";
    conf.connections_max = conf.connections_per_address_max = 1;
    rig_start(&r, &conf);
    int a = dial(&r);
    send_z(a, RIG_GET("/hello"));
    expect_reply(a, 200, "hello");
    for (int i = 0; i < 3; i++) {
        int b = dial(&r);
        send_n(b, PROXY, PROXY_BYTES);
        send_z(b, RIG_GET("/hello"));
        expect_bad(b, 503, "connections|503|");
        close(b); /* which is seen behind the header */
    }
    close(a);
    RIG_UNTIL(ag_http_server_connections(r.server) == 0);
    RIG_UNTIL(ag_http_server_in_state(r.server, AG_HTTP_STATE_CLOSED) == 4);
    a = dial(&r);
    send_n(a, PROXY, PROXY_BYTES);
    send_z(a, RIG_GET("/peer"));
    expect_reply(a, 200, "203.0.113.9");
    assert_int_equal(rig_bads(&r, AG_HTTP_BAD_CONNECTIONS), 3);
    assert_int_equal(rig_bads(&r, AG_HTTP_BAD_CONNECTIONS_PER_ADDRESS), 0);
    close(a);
    rig_stop(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_unix),
        cmocka_unit_test(test_proxies),
        cmocka_unit_test(test_counted),
        cmocka_unit_test(test_refused_and_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
