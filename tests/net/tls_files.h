/* tls_files.h - certificates and keys for tests, made on the spot in a folder of their own. */
#ifndef AG_TESTS_NET_TLS_FILES_H
#define AG_TESTS_NET_TLS_FILES_H

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <openssl/pem.h>
#include <openssl/x509v3.h>

typedef struct tls_files { char dir[64]; } tls_files;
typedef struct tls_made { EVP_PKEY *key; X509 *cert; } tls_made;

static const char *tls_path(const tls_files *f, const char *name)
{
    static char paths[8][128];
    static int next;
    char *p = paths[next++ % 8];
    snprintf(p, sizeof paths[0], "%s/%s", f->dir, name);
    return p;
}

static void tls_files_open(tls_files *f)
{
    snprintf(f->dir, sizeof f->dir, "/tmp/autoglm-tls-XXXXXX");
    assert_non_null(mkdtemp(f->dir));
}

static void tls_files_close(tls_files *f)
{
    char command[128];
    snprintf(command, sizeof command, "rm -r %s", f->dir);
    assert_int_equal(system(command), 0);
}

/* A certificate for `host`, a name or an address, from `days_from` to `days_to`, of `by` or its own, into NAME.pem and
 * NAME.key. */
static tls_made tls_make(const tls_files *f, const char *name, const char *host, int days_from, int days_to,
                         const tls_made *by)
{
    static long serial;
    char file[64], alt[128];
    tls_made m = {EVP_EC_gen("P-256"), X509_new()};
    X509_set_version(m.cert, 2);
    ASN1_INTEGER_set(X509_get_serialNumber(m.cert), ++serial);
    X509_gmtime_adj(X509_getm_notBefore(m.cert), days_from * 86400L);
    X509_gmtime_adj(X509_getm_notAfter(m.cert), days_to * 86400L);
    X509_set_pubkey(m.cert, m.key);
    X509_NAME *subject = X509_get_subject_name(m.cert);
    X509_NAME_add_entry_by_txt(subject, "CN", MBSTRING_ASC, (const unsigned char *)host, -1, -1, 0);
    X509_set_issuer_name(m.cert, by ? X509_get_subject_name(by->cert) : subject);
    bool address = host[strspn(host, "0123456789.")] == 0;
    snprintf(alt, sizeof alt, "%s:%s", address ? "IP" : "DNS", host);
    X509_EXTENSION *x = X509V3_EXT_conf_nid(NULL, NULL, NID_subject_alt_name, alt);
    X509_add_ext(m.cert, x, -1);
    X509_EXTENSION_free(x);
    x = X509V3_EXT_conf_nid(NULL, NULL, NID_basic_constraints, by ? "CA:FALSE" : "CA:TRUE");
    X509_add_ext(m.cert, x, -1);
    X509_EXTENSION_free(x);
    X509_sign(m.cert, by ? by->key : m.key, EVP_sha256());
    snprintf(file, sizeof file, "%s.pem", name);
    FILE *to = fopen(tls_path(f, file), "w");
    PEM_write_X509(to, m.cert);
    fclose(to);
    snprintf(file, sizeof file, "%s.key", name);
    to = fopen(tls_path(f, file), "w");
    PEM_write_PrivateKey(to, m.key, NULL, NULL, 0, NULL, NULL);
    fclose(to);
    return m;
}

static void tls_made_free(tls_made *m)
{
    EVP_PKEY_free(m->key);
    X509_free(m->cert);
}

#endif
