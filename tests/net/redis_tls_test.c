/* The client of Redis under TLS, against a server that this test plays with OpenSSL. */
#include "redis_play.h"
#include "tls_files.h"

#include <openssl/err.h>
#include <signal.h>

static tls_files files;

/* A server's side: which certificate it shows, and what it speaks. */
typedef struct side { const char *name; int max_version; bool asks; } side;

static SSL_CTX *side_open(side s)
{
    char cert[32], key[32];
    SSL_CTX *ctx = SSL_CTX_new(TLS_server_method());
    snprintf(cert, sizeof cert, "%s.pem", s.name);
    snprintf(key, sizeof key, "%s.key", s.name);
    SSL_CTX_set_min_proto_version(ctx, TLS1_VERSION);
    if (s.max_version) SSL_CTX_set_max_proto_version(ctx, s.max_version);
    SSL_CTX_set_cipher_list(ctx, "ALL:@SECLEVEL=0");
    assert_int_equal(SSL_CTX_use_certificate_file(ctx, tls_path(&files, cert), SSL_FILETYPE_PEM), 1);
    assert_int_equal(SSL_CTX_use_PrivateKey_file(ctx, tls_path(&files, key), SSL_FILETYPE_PEM), 1);
    if (s.asks) {
        assert_int_equal(SSL_CTX_load_verify_file(ctx, tls_path(&files, "ca.pem")), 1);
        SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, NULL);
    }
    return ctx;
}

/* The next connection, and whether the client agrees. */
static bool shake(side s)
{
    SSL_CTX *ctx = side_open(s);
    take();
    sealed = SSL_new(ctx);
    SSL_CTX_free(ctx);
    SSL_set_fd(sealed, line);
    ERR_clear_error();
    return SSL_accept(sealed) == 1;
}

static void greet(side s)
{
    uint32_t before = n_there;
    assert_true(shake(s));
    hear("PING\r\n");
    say("+PONG\r\n");
    until(&n_there, before + 1);
}

static void begin(const char *before_host, const char *behind)
{
    begin_play(&(play){.scheme = "rediss", .before_host = before_host, .behind = behind,
                       .files = {.ca = tls_path(&files, "ca.pem")}});
}

static void commands_are_answered_in_their_order(void **state)
{
    (void)state;
    for (int version = TLS1_2_VERSION; version <= TLS1_3_VERSION; version++) {
        begin("me:a%20b@", "/3");
        assert_true(shake((side){.name = "good", .max_version = version}));
        assert_int_equal(SSL_version(sealed), version);
        assert_string_equal(SSL_get_servername(sealed, TLSEXT_NAMETYPE_host_name), "localhost");
        hear("*3\r\n$4\r\nAUTH\r\n$2\r\nme\r\n$3\r\na b\r\n*2\r\n$6\r\nSELECT\r\n$1\r\n3\r\n*1\r\n$4\r\nPING\r\n");
        say("+OK\r\n+OK\r\n+PO");
        say("NG\r\n");
        until(&n_there, 1);
        until(&n_ticks, 3);
        post("a", 0);
        post("script", 1);
        hear("EVALSHA");
        static const char answer[] = "$1\r\nA\r\n-NOSCRIPT No matching script\r\n";
        for (const char *p = answer; *p; p++) say((char[]){*p, 0}); /* a record each */
        hear("*4\r\n$4\r\nEVAL\r\n$8\r\nreturn 5\r\n$1\r\n0\r\n$1\r\nx\r\n");
        say(":5\r\n");
        until(&n_answers, 2);
        assert_string_equal(answers[0], "A");
        assert_string_equal(answers[1], ":5");
        end();
        assert_int_equal(n_away, 0); /* localhost is ::1 as well, where nobody listens */
    }
}

static void an_address_must_be_in_the_certificate(void **state)
{
    (void)state;
    begin_play(&(play){.scheme = "rediss", .host = "127.0.0.1", .files = {.ca = tls_path(&files, "ca.pem")}});
    greet((side){.name = "address"});
    assert_null(SSL_get_servername(sealed, TLSEXT_NAMETYPE_host_name));
    hang_up();
    until(&n_away, 1);
    assert_false(shake((side){.name = "good"}));
    until(&n_away, 2);
    assert_string_equal(why, "its certificate is not taken: IP address mismatch");
    end();
}

static void who_it_is_not_is_away_and_says_why(void **state)
{
    (void)state;
    static const struct {
        side shown;
        const char *why;
        int alert;
    } cases[] = {
        {{.name = "other"}, "its certificate is not taken: hostname mismatch", SSL_R_SSLV3_ALERT_BAD_CERTIFICATE},
        {{.name = "old"}, "its certificate is not taken: certificate has expired",
         SSL_R_SSLV3_ALERT_CERTIFICATE_EXPIRED},
        {{.name = "early"}, "its certificate is not taken: certificate is not yet valid", 0},
        {{.name = "foreign"}, "its certificate is not taken: self-signed certificate", SSL_R_TLSV1_ALERT_UNKNOWN_CA},
        {{.name = "good", .max_version = TLS1_1_VERSION}, "the TLS handshake failed: ", 0},
    };
    begin("", "");
    for (uint32_t i = 0; i < AG_ARRAY_LEN(cases); i++) {
        uint32_t away = count(&n_away);
        assert_false(shake(cases[i].shown));
        int alert = ERR_GET_REASON(ERR_peek_error());
        until(&n_away, away + 1);
        if (strstr(why, cases[i].why) == NULL) fail_msg("case %u: '%s'", i, why);
        if (cases[i].alert && alert != cases[i].alert) fail_msg("case %u: the server heard %d", i, alert);
        assert_int_equal(n_there, i);
        greet((side){.name = "good"}); /* it is tried again */
        post("well", 0);
        hear("well\r\n");
        say("+OK\r\n"); /* so that the next try comes soon */
        until(&n_answers, i + 1);
        away = n_away;
        hang_up();
        until(&n_away, away + 1);
    }
    end();
}

static void the_systems_authorities_vouch_for_none_of_ours(void **state)
{
    (void)state;
    begin_play(&(play){.scheme = "rediss"});
    assert_false(shake((side){.name = "good"}));
    until(&n_away, 1);
    assert_string_equal(why, "its certificate is not taken: unable to get local issuer certificate");
    end();
}

/* They are read when it is opened, and not when the loop has better things to do. */
static void the_systems_authorities_are_read_at_once(void **state)
{
    (void)state;
    char link[256];
    snprintf(link, sizeof link, "%s", tls_path(&files, "0123abcd.0"));
    assert_int_equal(symlink(tls_path(&files, "ca.pem"), link), 0);
    setenv("SSL_CERT_FILE", "/nowhere", 1);
    setenv("SSL_CERT_DIR", "/nowhere", 1);
    ag_redis_at at;
    ag_redis_tls *tls;
    ag_err err = {0};
    ag_redis_files none = {0};
    assert_int_equal(ag_redis_at_parse(&at, "rediss://h", &err), AG_OK);
    assert_int_equal(ag_redis_tls_open(&tls, &at, &none, &err), AG_E_USAGE);
    assert_non_null(strstr(err.text, "there are no certificates of authorities in "));
    char folders[256];
    snprintf(folders, sizeof folders, "/nowhere:%s", files.dir);
    setenv("SSL_CERT_DIR", folders, 1);
    begin_play(&(play){.scheme = "rediss"});
    unlink(link);
    unsetenv("SSL_CERT_FILE");
    unsetenv("SSL_CERT_DIR");
    greet((side){.name = "good"});
    end();
}

static void who_speaks_no_tls_is_away(void **state)
{
    (void)state;
    begin("", "");
    take();
    say("-ERR unknown command\r\n");
    until(&n_away, 1);
    assert_non_null(strstr(why, "the TLS handshake failed: "));
    take();
    hang_up();
    until(&n_away, 2);
    /* Whether its hello had been read by then or not. */
    if (strcmp(why, "the connection was closed amid the TLS handshake") != 0)
        assert_string_equal(why, "connection reset by peer");
    take(); /* and says nothing */
    until(&n_away, 3);
    assert_string_equal(why, "the TLS handshake was not done in time");
    assert_int_equal(n_there, 0);
    greet((side){.name = "good"});
    end();
}

static void it_shows_its_certificate_where_it_is_asked(void **state)
{
    (void)state;
    side s = {.name = "good", .asks = true};
    char ca[256], name[64] = "";
    snprintf(ca, sizeof ca, "%s", tls_path(&files, "ca.pem"));
    for (int version = TLS1_2_VERSION; version <= TLS1_3_VERSION; version++) {
        s.max_version = version;
        begin_play(&(play){.scheme = "rediss", .files = {ca, tls_path(&files, "client.pem"),
                                                         tls_path(&files, "client.key")}});
        greet(s);
        X509 *cert = SSL_get1_peer_certificate(sealed);
        assert_non_null(cert);
        X509_NAME_get_text_by_NID(X509_get_subject_name(cert), NID_commonName, name, sizeof name);
        assert_string_equal(name, "someone.example");
        X509_free(cert);
        end();
        begin_play(&(play){.scheme = "rediss", .files = {.ca = ca}});
        assert_false(shake(s));
        until(&n_away, 1);
        assert_non_null(strstr(why, version == TLS1_3_VERSION ? "certificate required" : "handshake failure"));
        assert_int_equal(n_there, 0);
        end();
    }
}

static void what_is_cut_amid_a_record_is_no_answer(void **state)
{
    (void)state;
    begin("", "");
    greet((side){.name = "good"});
    post("a", 0);
    hear("$1\r\na\r\n");
    BIO *wire = BIO_new(BIO_s_mem());
    char *record;
    SSL_set0_wbio(sealed, wire);
    say("+whole\r\n");
    long n = BIO_get_mem_data(wire, &record);
    assert_int_equal(send(line, record, (size_t)n - 1, MSG_NOSIGNAL), n - 1);
    hang_up();
    until(&n_away, 1);
    assert_string_equal(why, "the connection was closed");
    until(&n_answers, 1);
    assert_string_equal(answers[0], "none");
    /* One that is whole and not what was sealed. */
    greet((side){.name = "good"});
    SSL_set0_wbio(sealed, wire = BIO_new(BIO_s_mem()));
    say("+whole\r\n");
    n = BIO_get_mem_data(wire, &record);
    record[n - 1] ^= 1;
    assert_int_equal(send(line, record, (size_t)n, MSG_NOSIGNAL), n);
    until(&n_away, 2);
    assert_non_null(strstr(why, "the TLS connection failed: "));
    /* One who says that it goes. */
    greet((side){.name = "good"});
    SSL_shutdown(sealed);
    until(&n_away, 3);
    assert_string_equal(why, "the connection was closed");
    end();
}

/* Sealed in pieces, as the socket takes them, and no more of it than without TLS. */
static void what_waits_is_bounded_and_goes_out_whole(void **state)
{
    (void)state;
    enum { BYTES = 1000000, BEHIND = 200 };
    static char word[BYTES + 1], got[1 << 16];
    memset(word, 'w', BYTES);
    begin("", "");
    greet((side){.name = "good"});
    uint32_t n = 0;
    for (; count(&n_refused) == 0; n++) post(word, 0);
    post("hold", 0);
    until(&n_held, 1);
    NOTE(released = true);
    n -= n_refused;
    assert_true(n >= AG_REDIS_OUT_BYTES / (BYTES + BEHIND));
    uint64_t all = 0, words = 0;
    while (words < (uint64_t)n * BYTES) {
        int k = SSL_read(sealed, got, sizeof got);
        assert_true(k > 0);
        all += (uint64_t)k;
        for (int i = 0; i < k; i++) words += got[i] == 'w';
    }
    assert_true(all <= (uint64_t)n * (BYTES + BEHIND));
    for (uint32_t i = 0; i < n; i++) say("+OK\r\n");
    until(&n_answers, n);
    assert_string_equal(answers[0], "OK");
    assert_int_equal(n_away, 0);
    end();
}

/* A server that asks for new keys again and again, and takes none of the answers. */
static void what_tls_has_to_say_is_bounded(void **state)
{
    (void)state;
    begin("", "");
    greet((side){.name = "good"});
    while (count(&n_away) == 0) {
        if (SSL_key_update(sealed, SSL_KEY_UPDATE_REQUESTED) != 1 || SSL_do_handshake(sealed) != 1) break;
    }
    until(&n_away, 1);
    assert_string_equal(why, "it has TLS say more than it takes");
    end();
}

static void the_end_comes_amid_the_handshake(void **state)
{
    (void)state;
    begin("", "");
    end();
    begin("", "");
    take();
    end();
    begin("", "");
    assert_true(shake((side){.name = "good"}));
    end();
    assert_int_equal(n_gone, 1);
}

static void no_memory_costs_a_connection(void **state)
{
    (void)state;
#ifdef AG_FAULTS
    begin("", "");
    greet((side){.name = "good"});
    bool fired = true;
    for (uint32_t n = 1; fired && n < 100; n++) {
        uint32_t there = count(&n_there);
        ag_fault_arm(AG_FAULT_ALLOC, n);
        while (count(&n_there) == there) {
            char got[1024];
            if (!shake((side){.name = "good"}) || SSL_read(sealed, got, sizeof got) <= 0) continue;
            say("+PONG\r\n");
            until(&n_there, there + 1);
        }
        fired = ag_fault_disarm(AG_FAULT_ALLOC);
    }
    assert_false(fired);
    end();
    ag_redis_at at;
    ag_redis_tls *tls;
    ag_err err = {0};
    ag_redis_files f = {.ca = tls_path(&files, "ca.pem")};
    assert_int_equal(ag_redis_at_parse(&at, "rediss://h", &err), AG_OK);
    ag_fault_arm(AG_FAULT_ALLOC, 1);
    assert_int_equal(ag_redis_tls_open(&tls, &at, &f, &err), AG_E_NOMEM);
    ag_fault_disarm(AG_FAULT_ALLOC);
#endif
}

static void files_that_will_not_do(void **state)
{
    (void)state;
    static const struct {
        const char *ca, *cert, *key, *why;
    } cases[] = {
        {"none.pem", "", "", "the file of authorities %s/none.pem cannot be read: No such file"},
        {"good.key", "", "", "%s/good.key holds no certificates of authorities: PEM is wanted"},
        {"ca.pem", "client.pem", "", "%s/client.pem is named without its key"},
        {"ca.pem", "", "client.key", "%s/client.key is named without its certificate"},
        {"ca.pem", "none.pem", "client.key", "the certificate %s/none.pem cannot be read"},
        {"ca.pem", "client.pem", "none.key", "the key %s/none.key cannot be read"},
        {"ca.pem", "client.key", "client.key", "client.key holds no certificate"},
        {"ca.pem", "client.pem", "good.key", "does not belong to the certificate in %s/client.pem"},
        {"ca.pem", "old.pem", "old.key", "the certificate in %s/old.pem expired on"},
    };
    ag_redis_at at;
    ag_redis_tls *tls;
    for (size_t i = 0; i < AG_ARRAY_LEN(cases); i++) {
        const char *name[3] = {cases[i].ca, cases[i].cert, cases[i].key}, *path[3];
        for (int k = 0; k < 3; k++) path[k] = name[k][0] ? tls_path(&files, name[k]) : k == 1 ? "" : NULL;
        ag_redis_files f = {path[0], path[1], path[2]};
        ag_err err = {0};
        assert_int_equal(ag_redis_at_parse(&at, "rediss://h", &err), AG_OK);
        assert_int_equal(ag_redis_tls_open(&tls, &at, &f, &err), AG_E_USAGE);
        char want[256];
        snprintf(want, sizeof want, cases[i].why, files.dir);
        if (strstr(err.text, want) == NULL) fail_msg("case %zu: '%s'", i, err.text);
        assert_int_equal(ag_redis_at_parse(&at, "redis://h", &err), AG_OK);
        assert_int_equal(ag_redis_tls_open(&tls, &at, &f, &err), AG_OK);
        assert_null(tls);
    }
}

int main(void)
{
    signal(SIGPIPE, SIG_IGN); /* OpenSSL writes to sockets that a client has left */
    tls_files_open(&files);
    tls_made ca = tls_make(&files, "ca", "authority.example", -1, 30, NULL);
    tls_made made[] = {tls_make(&files, "good", "localhost", -1, 30, &ca),
                       tls_make(&files, "other", "other.example", -1, 30, &ca),
                       tls_make(&files, "address", "127.0.0.1", -1, 30, &ca),
                       tls_make(&files, "old", "localhost", -30, -1, &ca),
                       tls_make(&files, "early", "localhost", 1, 30, &ca),
                       tls_make(&files, "foreign", "localhost", -1, 30, NULL),
                       tls_make(&files, "client", "someone.example", -1, 30, &ca)};
    for (size_t i = 0; i < AG_ARRAY_LEN(made); i++) tls_made_free(&made[i]);
    tls_made_free(&ca);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(commands_are_answered_in_their_order),
        cmocka_unit_test(an_address_must_be_in_the_certificate),
        cmocka_unit_test(who_it_is_not_is_away_and_says_why),
        cmocka_unit_test(the_systems_authorities_vouch_for_none_of_ours),
        cmocka_unit_test(the_systems_authorities_are_read_at_once),
        cmocka_unit_test(who_speaks_no_tls_is_away),
        cmocka_unit_test(it_shows_its_certificate_where_it_is_asked),
        cmocka_unit_test(what_is_cut_amid_a_record_is_no_answer),
        cmocka_unit_test(what_waits_is_bounded_and_goes_out_whole),
        cmocka_unit_test(what_tls_has_to_say_is_bounded),
        cmocka_unit_test(the_end_comes_amid_the_handshake),
        cmocka_unit_test(no_memory_costs_a_connection),
        cmocka_unit_test(files_that_will_not_do),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    tls_files_close(&files);
    return failed;
}
