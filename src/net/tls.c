#include "net/tls.h"

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdio.h>

#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>

#include "base/mem.h"

/* Of TLS 1.2 only what RFC 9113 lets HTTP/2 use: forward secrecy and authenticated encryption. */
#define CIPHERS "ECDHE+AESGCM:ECDHE+CHACHA20"

struct ag__tls_conf {
    _Atomic uint32_t holders;
    uint32_t n;
    SSL_CTX *pairs[AG__TLS_PAIRS_MAX]; /* a client's is the only one */
};

struct ag__tls {
    ag__tls_conf *conf;
    SSL *ssl;
    BIO *in, *out; /* the session's own */
    bool agreed;       /* before it was read last */
    unsigned long why; /* OpenSSL's first error when it broke */
};

static int choose_protocol(SSL *ssl AG_UNUSED, const unsigned char **out, unsigned char *n_out, const unsigned char *in,
                           unsigned int n_in, void *arg AG_UNUSED)
{
    static const unsigned char ours[] = "\x2h2\x8http/1.1";
    unsigned char *chosen;
    if (SSL_select_next_proto(&chosen, n_out, ours, sizeof ours - 1, in, n_in) != OPENSSL_NPN_NEGOTIATED)
        return SSL_TLSEXT_ERR_ALERT_FATAL;
    *out = chosen;
    return SSL_TLSEXT_ERR_OK;
}

static int choose_pair(SSL *ssl, int *alert AG_UNUSED, void *arg)
{
    const ag__tls_conf *c = arg;
    const char *name = SSL_get_servername(ssl, TLSEXT_NAMETYPE_host_name);
    if (name == NULL) return SSL_TLSEXT_ERR_NOACK;
    for (uint32_t i = 0; i < c->n; i++) {
        if (X509_check_host(SSL_CTX_get0_certificate(c->pairs[i]), name, 0, 0, NULL) != 1) continue;
        SSL_set_SSL_CTX(ssl, c->pairs[i]);
        return SSL_TLSEXT_ERR_OK;
    }
    return SSL_TLSEXT_ERR_NOACK; /* the first one; the client will say if that is not enough */
}

static int no_password(char *to AG_UNUSED, int room AG_UNUSED, int rw AG_UNUSED, void *arg AG_UNUSED) { return 0; }

/* Whether there is a file to be read at all; what is wrong inside it OpenSSL says less well than its user can. */
static int check_file(const char *what, const char *path, ag_err *err)
{
    FILE *f = fopen(path, "re");
    if (f == NULL) return ag_err_set(err, AG_E_USAGE, "the %s %s cannot be read: %s", what, path, strerror(errno));
    fclose(f);
    return AG_OK;
}

static int check_dates(const char *path, X509 *cert, ag_err *err)
{
    const ASN1_TIME *from = X509_get0_notBefore(cert), *to = X509_get0_notAfter(cert);
    bool late = X509_cmp_current_time(to) < 0;
    if (!late && X509_cmp_current_time(from) < 0) return AG_OK;
    char when[64] = "";
    BIO *b = BIO_new(BIO_s_mem());
    if (b && ASN1_TIME_print(b, late ? to : from)) BIO_read(b, when, sizeof when - 1);
    BIO_free(b);
    return ag_err_set(err, AG_E_USAGE, "the certificate in %s %s %s", path, late ? "expired on" : "is not valid before",
                      when);
}

static int load_pair(SSL_CTX *ctx, const char *cert, const char *key, ag_err *err)
{
    int rc = check_file("certificate", cert, err);
    if (rc == AG_OK) rc = check_file("key", key, err);
    if (rc != AG_OK) return rc;
    SSL_CTX_set_default_passwd_cb(ctx, no_password);
    if (SSL_CTX_use_certificate_chain_file(ctx, cert) != 1)
        return ag_err_set(err, AG_E_USAGE,
                          "%s holds no certificate: PEM is wanted, the server's first, then its issuers'", cert);
    rc = check_dates(cert, SSL_CTX_get0_certificate(ctx), err);
    if (rc != AG_OK) return rc;
    if (SSL_CTX_use_PrivateKey_file(ctx, key, SSL_FILETYPE_PEM) != 1) {
        int why = ERR_GET_REASON(ERR_peek_last_error());
        if (why != X509_R_KEY_VALUES_MISMATCH && why != X509_R_KEY_TYPE_MISMATCH)
            return ag_err_set(err, AG_E_USAGE, "%s holds no key that can be read: PEM without a password is wanted",
                              key);
    }
    if (SSL_CTX_check_private_key(ctx) != 1)
        return ag_err_set(err, AG_E_USAGE, "the key in %s does not belong to the certificate in %s", key, cert);
    return AG_OK;
}

static int load_authorities(SSL_CTX *ctx, const char *path, ag_err *err)
{
    int rc = check_file("file of authorities", path, err);
    if (rc != AG_OK || SSL_CTX_load_verify_file(ctx, path) == 1) return rc;
    return ag_err_set(err, AG_E_USAGE, "%s holds no certificates of authorities: PEM is wanted", path);
}

static int load_clients(SSL_CTX *ctx, const char *path, ag_err *err)
{
    int rc = load_authorities(ctx, path, err);
    if (rc != AG_OK) return rc;
    STACK_OF(X509_NAME) *names = SSL_load_client_CA_file(path);
    if (names == NULL) return ag_err_set(err, AG_E_NOMEM, "there is no memory for the authorities in %s", path);
    SSL_CTX_set_client_CA_list(ctx, names);
    SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, NULL);
    return AG_OK;
}

/* What both sides hold to. NULL: no memory. */
static SSL_CTX *ctx_open(ag__tls_conf *c, const SSL_METHOD *side)
{
    SSL_CTX *ctx = SSL_CTX_new(side);
    if (ctx == NULL) return NULL;
    c->pairs[c->n++] = ctx;
    SSL_CTX_set_min_proto_version(ctx, TLS1_2_VERSION);
    SSL_CTX_set_cipher_list(ctx, CIPHERS);
    SSL_CTX_set_options(ctx, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION);
    SSL_CTX_set_mode(ctx, SSL_MODE_RELEASE_BUFFERS);
    return ctx;
}

static int add_pair(ag__tls_conf *c, const ag_http_tls *t, const char *cert, const char *key, ag_err *err)
{
    SSL_CTX *ctx = ctx_open(c, TLS_server_method());
    if (ctx == NULL) return ag_err_set(err, AG_E_NOMEM, "there is no memory for the certificate %s", cert);
    SSL_CTX_set_options(ctx, SSL_OP_IGNORE_UNEXPECTED_EOF);
    SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF); /* clients hold their tickets */
    SSL_CTX_set_session_id_context(ctx, (const unsigned char *)"ag", 2);
    SSL_CTX_set_alpn_select_cb(ctx, choose_protocol, NULL);
    SSL_CTX_set_tlsext_servername_callback(ctx, choose_pair);
    SSL_CTX_set_tlsext_servername_arg(ctx, c);
    int rc = load_pair(ctx, cert, key, err);
    if (rc == AG_OK && t->client_ca && *t->client_ca) rc = load_clients(ctx, t->client_ca, err);
    return rc;
}

static uint32_t count(const char *list)
{
    ag_str rest = ag_str_of(list), one;
    uint32_t n = 0;
    while (ag_str_next(&rest, &one)) n++;
    return n;
}

static void take_path(ag_str *list, char *path, size_t cap)
{
    ag_str one = {0};
    ag_str_next(list, &one);
    snprintf(path, cap, "%.*s", (int)AG_MIN(one.n, cap - 1), one.p);
}

int ag__tls_conf_open(ag__tls_conf **out, const ag_http_tls *t, ag_err *err)
{
    uint32_t n = count(t->certs);
    if (n != count(t->keys))
        return ag_err_set(err, AG_E_USAGE,
                          "%u certificates and %u keys are named; each certificate needs its key, in the same order", n,
                          count(t->keys));
    if (n < 1 || n > AG__TLS_PAIRS_MAX)
        return ag_err_set(err, AG_E_USAGE, "%u certificates are named; 1 to %d can be served", n, AG__TLS_PAIRS_MAX);
    ag__tls_conf *c = ag_mem_zalloc(sizeof *c);
    if (c == NULL) return ag_err_set(err, AG_E_NOMEM, "there is no memory for the certificates");
    c->holders = 1;
    int rc = AG_OK;
    ag_str certs = ag_str_of(t->certs), keys = ag_str_of(t->keys);
    for (uint32_t i = 0; i < n && rc == AG_OK; i++) {
        char cert[PATH_MAX], key[PATH_MAX];
        take_path(&certs, cert, sizeof cert);
        take_path(&keys, key, sizeof key);
        rc = add_pair(c, t, cert, key, err);
    }
    ERR_clear_error();
    if (rc != AG_OK) ag__tls_conf_drop(c);
    else *out = c;
    return rc;
}

/* Of a client. */

/* As c_rehash names a certificate: 5ed36f99.0. */
static bool is_hashed(const char *name)
{
    const char *digits = name + 9;
    return strspn(name, "0123456789abcdef") == 8 && name[8] == '.' && *digits &&
           strspn(digits, "0123456789") == strlen(digits);
}

static void load_folder(X509_STORE *store, const char *folder)
{
    char path[PATH_MAX];
    DIR *d = opendir(folder);
    for (struct dirent *e; d && (e = readdir(d)) != NULL;) {
        int n = is_hashed(e->d_name) ? snprintf(path, sizeof path, "%s/%s", folder, e->d_name) : 0;
        if (n > 0 && (size_t)n < sizeof path) X509_STORE_load_file(store, path);
    }
    if (d) closedir(d);
}

/* Where OpenSSL looks for them. It would read the folder's one by one when they are asked for: in the loop's time, and
 * as they are by then. */
static int load_system(SSL_CTX *ctx, ag_err *err)
{
    X509_STORE *store = SSL_CTX_get_cert_store(ctx);
    const char *folders = getenv(X509_get_default_cert_dir_env());
    if (folders == NULL || *folders == 0) folders = X509_get_default_cert_dir();
    SSL_CTX_set_default_verify_file(ctx);
    for (const char *at = folders; *at;) {
        char one[PATH_MAX];
        size_t n = strcspn(at, ":");
        snprintf(one, sizeof one, "%.*s", (int)AG_MIN(n, sizeof one - 1), at);
        load_folder(store, one);
        at += n + (at[n] == ':');
    }
    if (sk_X509_OBJECT_num(X509_STORE_get0_objects(store)) > 0) return AG_OK;
    return ag_err_set(err, AG_E_USAGE,
                      "there are no certificates of authorities in %s or %s: install them, or name a file of them",
                      X509_get_default_cert_file(), folders);
}

int ag__tls_conf_open_client(ag__tls_conf **out, const char *ca, const char *cert, const char *key, ag_err *err)
{
    bool shows = cert && *cert, has_key = key && *key;
    if (shows != has_key)
        return ag_err_set(err, AG_E_USAGE, "%s is named without its %s; to show a certificate needs both",
                          shows ? cert : key, shows ? "key" : "certificate");
    ag__tls_conf *c = ag_mem_zalloc(sizeof *c);
    SSL_CTX *ctx = c ? ctx_open(c, TLS_client_method()) : NULL;
    if (ctx == NULL) {
        ag_mem_free(c);
        return ag_err_set(err, AG_E_NOMEM, "there is no memory for the certificates");
    }
    c->holders = 1;
    SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER, NULL);
    int rc = ca && *ca ? load_authorities(ctx, ca, err) : load_system(ctx, err);
    if (rc == AG_OK && shows) rc = load_pair(ctx, cert, key, err);
    ERR_clear_error();
    if (rc != AG_OK) ag__tls_conf_drop(c);
    else *out = c;
    return rc;
}

/* Whose certificate it must be. false: no memory. */
static bool expect(SSL *ssl, const char *host)
{
    X509_VERIFY_PARAM *p = SSL_get0_param(ssl);
    if (X509_VERIFY_PARAM_set1_ip_asc(p, host) == 1) return true;
    X509_VERIFY_PARAM_set_hostflags(p, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
    return X509_VERIFY_PARAM_set1_host(p, host, 0) == 1 && SSL_set_tlsext_host_name(ssl, host) == 1;
}

/* Of both sides. */

ag__tls_conf *ag__tls_conf_hold(ag__tls_conf *c)
{
    atomic_fetch_add(&c->holders, 1);
    return c;
}

void ag__tls_conf_drop(ag__tls_conf *c)
{
    if (c == NULL || atomic_fetch_sub(&c->holders, 1) != 1) return;
    for (uint32_t i = 0; i < c->n; i++) SSL_CTX_free(c->pairs[i]);
    ag_mem_free(c);
}

static ag__tls *create(ag__tls_conf *c)
{
    ag__tls *t = ag_mem_zalloc(sizeof *t);
    if (t == NULL) return NULL;
    t->ssl = SSL_new(c->pairs[0]);
    t->in = BIO_new(BIO_s_mem());
    t->out = BIO_new(BIO_s_mem());
    if (t->ssl == NULL || t->in == NULL || t->out == NULL) {
        BIO_free(t->in);
        BIO_free(t->out);
        SSL_free(t->ssl);
        ag_mem_free(t);
        return NULL;
    }
    BIO_set_mem_eof_return(t->in, -1); /* empty means: more will come */
    SSL_set_bio(t->ssl, t->in, t->out);
    t->conf = ag__tls_conf_hold(c);
    return t;
}

ag__tls *ag__tls_create(ag__tls_conf *c)
{
    ag__tls *t = create(c);
    if (t) SSL_set_accept_state(t->ssl);
    return t;
}

ag__tls *ag__tls_create_client(ag__tls_conf *c, const char *host)
{
    ag__tls *t = create(c);
    if (t == NULL) return NULL;
    SSL_set_connect_state(t->ssl);
    if (expect(t->ssl, host)) return t;
    ag__tls_free(t);
    return NULL;
}

void ag__tls_free(ag__tls *t)
{
    if (t == NULL) return;
    SSL_free(t->ssl);
    ag__tls_conf_drop(t->conf);
    ag_mem_free(t);
}

bool ag__tls_put(ag__tls *t, const char *p, size_t n) { return BIO_write(t->in, p, (int)n) == (int)n; }

ag__tls_ev ag__tls_read(ag__tls *t, char *to, size_t room, size_t *n)
{
    ERR_clear_error();
    t->agreed = ag__tls_ready(t);
    int k = SSL_read(t->ssl, to, (int)AG_MIN(room, (size_t)INT_MAX));
    if (k > 0) {
        *n = (size_t)k;
        return AG__TLS_DATA;
    }
    int why = SSL_get_error(t->ssl, k);
    t->why = ERR_peek_error();
    ERR_clear_error();
    if (why == SSL_ERROR_WANT_READ || why == SSL_ERROR_WANT_WRITE) return AG__TLS_MORE;
    return why == SSL_ERROR_ZERO_RETURN ? AG__TLS_EOF : AG__TLS_BAD;
}

bool ag__tls_write(ag__tls *t, const char *p, size_t n)
{
    ERR_clear_error();
    return SSL_write(t->ssl, p, (int)n) == (int)n;
}

size_t ag__tls_waits(const ag__tls *t) { return BIO_ctrl_pending(t->out); }

bool ag__tls_take(ag__tls *t, ag_buf *wire)
{
    size_t n = ag__tls_waits(t);
    if (n == 0) return true;
    if (!ag_buf_room(wire, n)) return false;
    int k = BIO_read(t->out, wire->p + wire->n, (int)n);
    AG_ASSERT(k == (int)n);
    wire->n += n;
    return true;
}

void ag__tls_end(ag__tls *t)
{
    ERR_clear_error();
    SSL_shutdown(t->ssl);
}

bool ag__tls_ready(const ag__tls *t) { return SSL_is_init_finished(t->ssl); }

bool ag__tls_is_h2(const ag__tls *t)
{
    const unsigned char *name;
    unsigned int n;
    SSL_get0_alpn_selected(t->ssl, &name, &n);
    return n == 2 && memcmp(name, "h2", 2) == 0;
}

void ag__tls_why(const ag__tls *t, char *to, size_t size)
{
    long cert = SSL_get_verify_result(t->ssl);
    const char *reason = ERR_reason_error_string(t->why);
    if (cert != X509_V_OK) snprintf(to, size, "its certificate is not taken: %s", X509_verify_cert_error_string(cert));
    else
        snprintf(to, size, "the TLS %s failed: %s", t->agreed ? "connection" : "handshake",
                 reason ? reason : "no reason is known");
}
