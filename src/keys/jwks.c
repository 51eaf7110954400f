#include "keys/jwks.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <openssl/core_names.h>
#include <openssl/param_build.h>
#include <sodium.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/fault.h"
#include "base/mem.h"

#define RSA_BYTES_MAX 1024 /* 8192 bits */
#define RSA_BITS_MIN 2048

size_t ag__base64url(ag_str text, uint8_t *to, size_t max)
{
    size_t n = 0;
    const char *end = NULL;
    int rc = sodium_base642bin(to, max, text.p ? text.p : "", text.n, NULL, &n, &end,
                               sodium_base64_VARIANT_URLSAFE_NO_PADDING);
    return rc == 0 && end == (text.p ? text.p : "") + text.n ? n : SIZE_MAX;
}

static ag_str text_of(const json_t *o, const char *name)
{
    const json_t *v = json_object_get(o, name);
    return json_is_string(v) ? (ag_str){json_string_value(v), json_string_length(v)} : (ag_str){0};
}

static EVP_PKEY *from_params(const char *kind, OSSL_PARAM_BLD *b)
{
    EVP_PKEY *key = NULL;
    EVP_PKEY_CTX *ctx = EVP_PKEY_CTX_new_from_name(NULL, kind, NULL);
    OSSL_PARAM *params = OSSL_PARAM_BLD_to_param(b);
    if (ctx && params && EVP_PKEY_fromdata_init(ctx) == 1 &&
        EVP_PKEY_fromdata(ctx, &key, EVP_PKEY_PUBLIC_KEY, params) != 1)
        key = NULL;
    OSSL_PARAM_free(params);
    EVP_PKEY_CTX_free(ctx);
    return key;
}

static EVP_PKEY *rsa_of(const json_t *o)
{
    uint8_t n[RSA_BYTES_MAX], e[8];
    size_t n_n = ag__base64url(text_of(o, "n"), n, sizeof n), n_e = ag__base64url(text_of(o, "e"), e, sizeof e);
    if (n_n == SIZE_MAX || n_e == SIZE_MAX || n_n == 0 || n_e == 0) return NULL;
    EVP_PKEY *key = NULL;
    BIGNUM *modulus = BN_bin2bn(n, (int)n_n, NULL), *exponent = BN_bin2bn(e, (int)n_e, NULL);
    OSSL_PARAM_BLD *b = OSSL_PARAM_BLD_new();
    /* An exponent of 1 makes a signature of every text its own; an even one is none. */
    bool ok = modulus && exponent && b && BN_num_bits(modulus) >= RSA_BITS_MIN && BN_is_odd(modulus) &&
              BN_is_odd(exponent) && !BN_is_one(exponent);
    if (ok && OSSL_PARAM_BLD_push_BN(b, OSSL_PKEY_PARAM_RSA_N, modulus) &&
        OSSL_PARAM_BLD_push_BN(b, OSSL_PKEY_PARAM_RSA_E, exponent))
        key = from_params("RSA", b);
    OSSL_PARAM_BLD_free(b);
    BN_free(modulus);
    BN_free(exponent);
    return key;
}

/* OpenSSL looks whether the point is on the curve. */
static EVP_PKEY *ec_of(const json_t *o)
{
    uint8_t point[65] = {4};
    if (!ag_str_eqz(text_of(o, "crv"), "P-256") || ag__base64url(text_of(o, "x"), point + 1, 32) != 32 ||
        ag__base64url(text_of(o, "y"), point + 33, 32) != 32)
        return NULL;
    EVP_PKEY *key = NULL;
    OSSL_PARAM_BLD *b = OSSL_PARAM_BLD_new();
    if (b && OSSL_PARAM_BLD_push_utf8_string(b, OSSL_PKEY_PARAM_GROUP_NAME, "prime256v1", 0) &&
        OSSL_PARAM_BLD_push_octet_string(b, OSSL_PKEY_PARAM_PUB_KEY, point, sizeof point))
        key = from_params("EC", b);
    OSSL_PARAM_BLD_free(b);
    return key;
}

static EVP_PKEY *ed_of(const json_t *o)
{
    uint8_t raw[32];
    if (!ag_str_eqz(text_of(o, "crv"), "Ed25519") || ag__base64url(text_of(o, "x"), raw, sizeof raw) != sizeof raw)
        return NULL;
    return EVP_PKEY_new_raw_public_key(EVP_PKEY_ED25519, NULL, raw, sizeof raw);
}

static const struct {
    const char *kty, *alg;
    EVP_PKEY *(*make)(const json_t *o);
} kinds[] = {{"RSA", "RS256", rsa_of}, {"EC", "ES256", ec_of}, {"OKP", "EdDSA", ed_of}};

/* AG_OK without a key: it is of another kind or for another use. */
static int take_key(ag_jwks *s, const json_t *o, const char *from, ag_err *err)
{
    ag_str kty = text_of(o, "kty"), alg = text_of(o, "alg"), use = text_of(o, "use"), kid = text_of(o, "kid");
    if (json_object_get(o, "d") || json_object_get(o, "k"))
        return ag_err_set(err, AG_E_USAGE, "'%s' holds a secret key; only public ones belong into it.", from);
    for (size_t i = 0; i < AG_ARRAY_LEN(kinds); i++) {
        if (!ag_str_eqz(kty, kinds[i].kty) || (alg.p && !ag_str_eqz(alg, kinds[i].alg)) ||
            (use.p && !ag_str_eqz(use, "sig")) || kid.n > AG__KID_MAX || (kid.n && memchr(kid.p, 0, kid.n)))
            continue;
        EVP_PKEY *key = kinds[i].make(o);
        if (key == NULL) return AG_OK;
        ag__jwk *k = &s->list[s->n++];
        *k = (ag__jwk){.alg = kinds[i].alg, .key = key};
        memcpy(k->kid, kid.n ? kid.p : "", kid.n);
    }
    return AG_OK;
}

int ag_jwks_parse(ag_jwks **out, ag_str text, const char *from, ag_err *err)
{
    json_error_t e;
    size_t i;
    json_t *one, *root = json_loadb(text.p, text.n, JSON_REJECT_DUPLICATES, &e), *list = json_object_get(root, "keys");
    ag_jwks *s = ag_mem_zalloc(sizeof *s);
    int rc = AG_OK;
    if (s) atomic_init(&s->refs, 1);
    if (s == NULL) rc = ag_err_set(err, AG_E_NOMEM, "There is no memory for the keys of '%s'.", from);
    else if (root == NULL) rc = ag_err_set(err, AG_E_USAGE, "'%s' is not JSON: %s (line %d).", from, e.text, e.line);
    else if (!json_is_array(list))
        rc = ag_err_set(err, AG_E_USAGE, "'%s' is no set of keys: {\"keys\": [...]} (JWKS) is wanted.", from);
    else if (json_array_size(list) > AG_JWKS_KEYS)
        rc = ag_err_set(err, AG_E_USAGE, "'%s' holds more than %d keys.", from, AG_JWKS_KEYS);
    if (rc == AG_OK) {
        json_array_foreach(list, i, one) if (rc == AG_OK) rc = take_key(s, one, from, err);
    }
    if (rc == AG_OK && s->n == 0)
        rc = ag_err_set(err, AG_E_USAGE,
                        "'%s' holds no key that can be used: RSA of 2048 to 8192 bits, EC on P-256 or OKP Ed25519, for "
                        "signatures.",
                        from);
    json_decref(root);
    if (rc == AG_OK) *out = s;
    else ag_jwks_free(s);
    return rc;
}

static int read_all(int fd, ag_buf *out)
{
    for (;;) {
        if (!ag_buf_room(out, 4096)) return out->n + 4096 > out->max ? E2BIG : ENOMEM;
        ssize_t k = ag_fault_hit(AG_FAULT_READ) ? (errno = EIO, -1) : read(fd, out->p + out->n, 4096);
        if (k < 0 && errno == EINTR) continue;
        if (k <= 0) return k < 0 ? errno : 0;
        out->n += (size_t)k;
    }
}

int ag_jwks_load(ag_jwks **out, const char *path, ag_err *err)
{
    ag_buf text;
    ag_buf_init(&text, AG_JWKS_BYTES);
    int fd = ag_fault_hit(AG_FAULT_OPEN) ? (errno = EACCES, -1) : open(path, O_RDONLY | O_CLOEXEC);
    int why = fd < 0 ? errno : read_all(fd, &text);
    if (fd >= 0) close(fd);
    int rc = why == 0        ? ag_jwks_parse(out, ag_buf_str(&text), path, err)
             : why == ENOMEM ? ag_err_set(err, AG_E_NOMEM, "There is no memory to read '%s'.", path)
             : why == E2BIG  ? ag_err_set(err, AG_E_USAGE, "'%s' is larger than %u bytes.", path, AG_JWKS_BYTES)
                             : ag_err_set(err, AG_E_IO, "'%s' cannot be read: %s.", path, strerror(why));
    ag_buf_fini(&text);
    return rc;
}

ag_jwks *ag_jwks_hold(ag_jwks *s)
{
    if (s) atomic_fetch_add_explicit(&s->refs, 1, memory_order_relaxed);
    return s;
}

void ag_jwks_free(ag_jwks *s)
{
    if (s == NULL || atomic_fetch_sub_explicit(&s->refs, 1, memory_order_acq_rel) > 1) return;
    for (uint32_t i = 0; i < s->n; i++) EVP_PKEY_free(s->list[i].key);
    ag_mem_free(s);
}

uint32_t ag_jwks_count(const ag_jwks *s) { return s->n; }
