/* TLS beneath the protocols, with OpenSSL's own client; h2spec_test.c has HTTP/2 over it. */
#include "rig.h"
#include "tls_files.h"

#include <openssl/err.h>
#include <openssl/ssl.h>

typedef struct fixture {
    tls_files f;
    rig r;
    ag_http_conf conf;
    tls_made a, b;
    char certs[256], keys[256];
} fixture;

static void open_fixture(fixture *x)
{
    tls_files_open(&x->f);
    x->a = tls_make(&x->f, "a", "a.example", -1, 30, NULL);
    x->b = tls_make(&x->f, "b", "*.b.example", -1, 30, NULL);
    snprintf(x->certs, sizeof x->certs, "%s,%s", tls_path(&x->f, "a.pem"), tls_path(&x->f, "b.pem"));
    snprintf(x->keys, sizeof x->keys, "%s,%s", tls_path(&x->f, "a.key"), tls_path(&x->f, "b.key"));
    x->conf = rig_conf();
    x->conf.tls = (ag_http_tls){.certs = x->certs, .keys = x->keys};
}

static void close_fixture(fixture *x)
{
    tls_made_free(&x->a);
    tls_made_free(&x->b);
    tls_files_close(&x->f);
}

/* What a client says; its defaults are those of most. */
typedef struct hello {
    const char *name, *alpn; /* alpn with its lengths */
    int max_version;
    const char *cert, *key;
    ag_str before; /* in cleartext, a proxy's */
} hello;

typedef struct secure { int fd; SSL *ssl; SSL_CTX *ctx; bool ok; } secure;

static secure greet(rig *r, hello h)
{
    secure c = {.fd = dial(r), .ctx = SSL_CTX_new(TLS_client_method())};
    if (h.max_version) SSL_CTX_set_max_proto_version(c.ctx, h.max_version);
    SSL_CTX_set_min_proto_version(c.ctx, TLS1_VERSION);
    SSL_CTX_set_cipher_list(c.ctx, "ALL:@SECLEVEL=0");
    if (h.cert) {
        assert_int_equal(SSL_CTX_use_certificate_file(c.ctx, h.cert, SSL_FILETYPE_PEM), 1);
        assert_int_equal(SSL_CTX_use_PrivateKey_file(c.ctx, h.key, SSL_FILETYPE_PEM), 1);
    }
    c.ssl = SSL_new(c.ctx);
    if (h.name) SSL_set_tlsext_host_name(c.ssl, h.name);
    if (h.alpn) SSL_set_alpn_protos(c.ssl, (const unsigned char *)h.alpn, (unsigned)strlen(h.alpn));
    SSL_set_fd(c.ssl, c.fd);
    if (h.before.n) assert_true(send_n(c.fd, h.before.p, h.before.n));
    c.ok = SSL_connect(c.ssl) == 1;
    return c;
}

static void part(secure *c)
{
    SSL_free(c->ssl);
    SSL_CTX_free(c->ctx);
    close(c->fd);
    ERR_clear_error();
}

/* A request, and all that comes until `end` was seen, or the end. */
static char *ask(secure *c, const char *request, const char *end, size_t *n)
{
    char *said = calloc(1, 65536 + 1);
    *n = 0;
    size_t cap = 65536;
    if (SSL_write(c->ssl, request, (int)strlen(request)) <= 0) return said;
    for (int k; (k = SSL_read(c->ssl, said + *n, (int)(cap - *n))) > 0;) {
        *n += (size_t)k;
        said[*n] = 0;
        if (end && strstr(said, end)) break;
        if (*n == cap) said = realloc(said, (cap *= 2) + 1);
    }
    return said;
}

static bool says_hello(secure *c)
{
    size_t n;
    char *said = ask(c, RIG_GET("/hello"), "\r\n\r\nhello", &n);
    bool ok = strstr(said, "200 OK") && strstr(said, "\r\n\r\nhello");
    free(said);
    return ok;
}

static const char *shown(const secure *c)
{
    static char name[64];
    X509 *cert = SSL_get1_peer_certificate(c->ssl);
    assert_non_null(cert);
    X509_NAME_get_text_by_NID(X509_get_subject_name(cert), NID_commonName, name, sizeof name);
    X509_free(cert);
    return name;
}

static void test_requests(void **state)
{
    (void)state;
    fixture x;
    open_fixture(&x);
    rig_start(&x.r, &x.conf);
    for (int version = TLS1_2_VERSION; version <= TLS1_3_VERSION; version++) {
        secure c = greet(&x.r, (hello){.max_version = version});
        assert_true(c.ok && SSL_version(c.ssl) == version);
        assert_true(says_hello(&c) && says_hello(&c));
        size_t n;
        char *said = ask(&c, "GET /big?20000000 HTTP/1.0\r\n" RIG_HOST "\r\n", NULL, &n);
        assert_true(n > 20000000 && said[n - 1] == 'b');
        assert_int_equal(SSL_get_shutdown(c.ssl), SSL_RECEIVED_SHUTDOWN); /* ended, not broken off */
        free(said);
        part(&c);
    }
    secure c = greet(&x.r, (hello){0});
    char in[30000];
    size_t n = (size_t)snprintf(in, sizeof in, "POST /echo HTTP/1.1\r\n" RIG_HOST "Content-Length: 20000\r\n\r\n");
    memset(in + n, 'e', 20000);
    in[n + 20000] = 0;
    char *said = ask(&c, in, "eeee", &n);
    assert_non_null(strstr(said, "Content-Length: 20000"));
    free(said);
    part(&c);
    rig_stop(&x.r);
    close_fixture(&x);
}

static void test_choices(void **state)
{
    (void)state;
    fixture x;
    open_fixture(&x);
    rig_start(&x.r, &x.conf);
    static const struct { const char *name, *shown; } names[] = {
        {NULL, "a.example"}, {"a.example", "a.example"}, {"x.b.example", "*.b.example"}, {"else.example", "a.example"},
    };
    for (size_t i = 0; i < AG_ARRAY_LEN(names); i++) {
        secure c = greet(&x.r, (hello){.name = names[i].name});
        assert_true(c.ok);
        assert_string_equal(shown(&c), names[i].shown);
        part(&c);
    }
    static const struct { const char *alpn, *got; } protocols[] = {
        {"\x2h2\x8http/1.1", "h2"}, {"\x8http/1.1\x2h2", "h2"}, {"\x8http/1.1", "http/1.1"}, {NULL, ""},
        {"\x3odd", NULL},
    };
    for (size_t i = 0; i < AG_ARRAY_LEN(protocols); i++) {
        secure c = greet(&x.r, (hello){.alpn = protocols[i].alpn});
        assert_int_equal(c.ok, protocols[i].got != NULL);
        const unsigned char *got;
        unsigned n;
        SSL_get0_alpn_selected(c.ssl, &got, &n);
        if (c.ok) assert_true(n == strlen(protocols[i].got) && (n == 0 || memcmp(got, protocols[i].got, n) == 0));
        if (c.ok && n != 2) assert_true(says_hello(&c));
        part(&c);
    }
    secure c = greet(&x.r, (hello){.max_version = TLS1_1_VERSION});
    assert_false(c.ok);
    part(&c);
    RIG_UNTIL(rig_bads(&x.r, AG_HTTP_BAD_TLS) == 2);
    rig_stop(&x.r);
    close_fixture(&x);
}

/* A trusted proxy's header stands before the handshake. */
static void test_behind_proxy(void **state)
{
    (void)state;
    fixture x;
    open_fixture(&x);
    x.conf.trusted_proxies = "127.0.0.1";
    rig_start(&x.r, &x.conf);
    static const char named[] = "\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xcb\0\x71\x09\x7f\0\0\1\x11\x11\0\x50";
    secure c = greet(&x.r, (hello){.before = {named, sizeof named - 1}});
    assert_true(c.ok);
    size_t n;
    char *said = ask(&c, RIG_GET("/peer"), "203.0.113.9", &n);
    assert_non_null(strstr(said, "\r\n\r\n203.0.113.9"));
    free(said);
    part(&c);
    rig_stop(&x.r);
    close_fixture(&x);
}

static void test_limits(void **state)
{
    (void)state;
    fixture x;
    open_fixture(&x);
    x.conf.header_timeout_ms = 500;
    rig_start(&x.r, &x.conf);
    expect_closed(dial(&x.r)); /* says nothing */
    int fd = dial(&x.r);
    send_n(fd, "\x16\x03\x01\x02", 4); /* begins */
    expect_closed(fd);
    assert_int_equal(rig_bads(&x.r, AG_HTTP_BAD_HEADER_TIMEOUT), 2);
    fd = dial(&x.r);
    send_z(fd, RIG_GET("/hello")); /* no TLS at all */
    while (get_byte(fd) >= 0) continue;
    close(fd);
    assert_int_equal(rig_bads(&x.r, AG_HTTP_BAD_TLS), 1);
    rig_stop(&x.r);

    x.conf.header_timeout_ms = 20000;
    x.conf.tls_handshakes_max = 1;
    rig_start(&x.r, &x.conf);
    for (int i = 0; i < 100 && rig_bads(&x.r, AG_HTTP_BAD_TLS_HANDSHAKES) == 0; i++) {
        secure c = greet(&x.r, (hello){0});
        part(&c);
    }
    assert_true(rig_bads(&x.r, AG_HTTP_BAD_TLS_HANDSHAKES) > 0);
    rig_stop(&x.r);

    x.conf.tls_handshakes_max = 1000;
    x.conf.connections_max = 1;
    rig_start(&x.r, &x.conf);
    secure c = greet(&x.r, (hello){0});
    assert_true(says_hello(&c));
    secure d = greet(&x.r, (hello){0});
    assert_false(d.ok);
    assert_int_equal(rig_bads(&x.r, AG_HTTP_BAD_CONNECTIONS), 1);
    part(&d);
    part(&c);
    rig_stop(&x.r);
    close_fixture(&x);
}

static void test_client_certificates(void **state)
{
    (void)state;
    fixture x;
    open_fixture(&x);
    tls_made ca = tls_make(&x.f, "ca", "authority", -1, 30, NULL);
    tls_made known = tls_make(&x.f, "known", "someone", -1, 30, &ca);
    x.conf.tls.client_ca = tls_path(&x.f, "ca.pem");
    rig_start(&x.r, &x.conf);
    secure c = greet(&x.r, (hello){.cert = tls_path(&x.f, "known.pem"), .key = tls_path(&x.f, "known.key")});
    assert_true(c.ok && says_hello(&c));
    part(&c);
    c = greet(&x.r, (hello){0}); /* in TLS 1.3 a client learns it only when it reads */
    assert_false(says_hello(&c));
    part(&c);
    c = greet(&x.r, (hello){.cert = tls_path(&x.f, "b.pem"), .key = tls_path(&x.f, "b.key")});
    assert_false(says_hello(&c));
    part(&c);
    RIG_UNTIL(rig_bads(&x.r, AG_HTTP_BAD_TLS) == 2);
    rig_stop(&x.r);
    tls_made_free(&ca);
    tls_made_free(&known);
    close_fixture(&x);
}

/* New connections get the new certificate, those there are go on; what cannot be read changes nothing. */
static void test_reload(void **state)
{
    (void)state;
    fixture x;
    ag_err err = {0};
    open_fixture(&x);
    rig_start(&x.r, &x.conf);
    secure old = greet(&x.r, (hello){0});
    assert_true(says_hello(&old));
    tls_made c = tls_make(&x.f, "a", "c.example", -1, 30, NULL);
    assert_int_equal(ag_http_server_tls(x.r.server, &x.conf.tls, &err), AG_OK);
    secure fresh = greet(&x.r, (hello){0});
    assert_string_equal(shown(&fresh), "c.example");
    assert_true(says_hello(&fresh) && says_hello(&old));
    part(&fresh);
    assert_int_equal(unlink(tls_path(&x.f, "b.key")), 0);
    assert_int_equal(ag_http_server_tls(x.r.server, &x.conf.tls, &err), AG_E_USAGE);
    assert_non_null(strstr(err.text, "b.key cannot be read"));
    ag_err_clear(&err);
    assert_int_equal(ag_http_server_tls(x.r.server, &(ag_http_tls){0}, &err), AG_E_USAGE);
    assert_non_null(strstr(err.text, "a restart is needed"));
    fresh = greet(&x.r, (hello){0});
    assert_string_equal(shown(&fresh), "c.example");
    assert_true(says_hello(&fresh) && says_hello(&old));
    part(&fresh);
    part(&old);
    tls_made_free(&c);
    rig_stop(&x.r);
    x.conf.tls = (ag_http_tls){0}; /* nor is cleartext turned into TLS */
    rig_start(&x.r, &x.conf);
    ag_http_tls tls = {.certs = tls_path(&x.f, "a.pem"), .keys = tls_path(&x.f, "a.key")};
    ag_err_clear(&err);
    assert_int_equal(ag_http_server_tls(x.r.server, &tls, &err), AG_E_USAGE);
    rig_stop(&x.r);
    close_fixture(&x);
}

static void test_wrong_files(void **state)
{
    (void)state;
    fixture x;
    open_fixture(&x);
    tls_made made[2] = {tls_make(&x.f, "late", "late", -30, -1, NULL), tls_make(&x.f, "early", "early", 1, 30, NULL)};
    FILE *f = fopen(tls_path(&x.f, "junk"), "w");
    fputs("junk\n", f);
    fclose(f);
    static const struct { const char *cert, *key, *ca, *sentence; } rows[] = {
        {"none", "a.key", NULL, "the certificate /tmp/autoglm-tls-"},
        {"a.pem", "none", NULL, "none cannot be read: No such file"},
        {"junk", "a.key", NULL, "junk holds no certificate"},
        {"a.pem", "junk", NULL, "junk holds no key"},
        {"a.pem", "b.key", NULL, "does not belong to the certificate"},
        {"late.pem", "late.key", NULL, "late.pem expired on"},
        {"early.pem", "early.key", NULL, "early.pem is not valid before"},
        {"a.pem", "", NULL, "only one of them is named"},
        {"a.pem", "a.key", "none", "the file of authorities"},
        {"a.pem", "a.key", "junk", "no certificates of authorities"},
    };
    for (size_t i = 0; i < AG_ARRAY_LEN(rows); i++) {
        ag_http_tls t = {.certs = tls_path(&x.f, rows[i].cert), .keys = *rows[i].key ? tls_path(&x.f, rows[i].key) : "",
                         .client_ca = rows[i].ca ? tls_path(&x.f, rows[i].ca) : NULL};
        x.conf.tls = t;
        ag_err err = {0};
        ag_http_server *s = NULL;
        ag_http_handler h = {.on_head = rig_on_head, .on_body = rig_on_body, .on_end = rig_on_end,
                             .on_gone = rig_on_gone, .done = rig_done, .on_message = rig_on_message};
        assert_int_equal(ag_http_server_open(&s, &x.conf, &h, &err), AG_E_USAGE);
        if (strstr(err.text, rows[i].sentence) == NULL) fail_msg("row %zu: %s", i, err.text);
    }
    ag_err err = {0};
    ag__tls_conf *conf = NULL;
    assert_int_equal(ag__tls_conf_open(&conf, &(ag_http_tls){.certs = "a,b", .keys = "a"}, &err), AG_E_USAGE);
    assert_non_null(strstr(err.text, "2 certificates and 1 keys"));
    ag_err_clear(&err);
    const char *many = "a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a";
    assert_int_equal(ag__tls_conf_open(&conf, &(ag_http_tls){.certs = many, .keys = many}, &err), AG_E_USAGE);
    assert_non_null(strstr(err.text, "1 to 16"));
    tls_made_free(&made[0]);
    tls_made_free(&made[1]);
    close_fixture(&x);
}

static void fault_loop(ag_fault_kind kind)
{
    fixture x;
    open_fixture(&x);
    rig_start(&x.r, &x.conf);
    bool fired = true;
    for (uint32_t n = 1; fired; n++) {
        ag_fault_arm(kind, n);
        secure c = greet(&x.r, (hello){0});
        bool ok = c.ok && says_hello(&c);
        fired = ag_fault_disarm(kind);
        if (!ok && !fired) fail_msg("fault %d:%u did not fire, but the request failed", kind, n);
        part(&c);
        RIG_UNTIL(ag_http_server_connections(x.r.server) == 0);
    }
    rig_stop(&x.r);
    close_fixture(&x);
}

static void test_fault_alloc(void **state) { (void)state; fault_loop(AG_FAULT_ALLOC); }
static void test_fault_read(void **state) { (void)state; fault_loop(AG_FAULT_READ); }
static void test_fault_write(void **state) { (void)state; fault_loop(AG_FAULT_WRITE); }

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_requests),
        cmocka_unit_test(test_choices),
        cmocka_unit_test(test_behind_proxy),
        cmocka_unit_test(test_limits),
        cmocka_unit_test(test_client_certificates),
        cmocka_unit_test(test_reload),
        cmocka_unit_test(test_wrong_files),
        cmocka_unit_test(test_fault_alloc),
        cmocka_unit_test(test_fault_read),
        cmocka_unit_test(test_fault_write),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
