#include "keys/jwt.h"

#include <jansson.h>
#include <openssl/ecdsa.h>
#include <openssl/err.h>
#include <stdio.h>

#include "keys/jwks.h"

#define HEADER_BYTES 1024
#define SIGNATURE_BYTES 1024 /* RSA of 8192 bits */

typedef struct parts {
    ag_str header, payload, signature, signed_text;
} parts;

static bool split(ag_str token, parts *p)
{
    const char *first = token.n ? memchr(token.p, '.', token.n) : NULL;
    const char *last = token.n ? memrchr(token.p, '.', token.n) : NULL;
    if (first == NULL || first == last) return false;
    p->header = (ag_str){token.p, (size_t)(first - token.p)};
    p->payload = (ag_str){first + 1, (size_t)(last - first) - 1};
    p->signature = (ag_str){last + 1, token.n - (size_t)(last + 1 - token.p)};
    p->signed_text = (ag_str){token.p, (size_t)(last - token.p)};
    return memchr(p->payload.p, '.', p->payload.n) == NULL;
}

bool ag_jwt_is(ag_str token)
{
    parts p;
    return split(token, &p);
}

static int refuse(ag_err *err, const char *why) { return ag_err_set(err, AG_E_AUTH, "%s", why); }

static json_t *object_of(ag_str part, uint8_t *to, size_t max)
{
    size_t n = ag__base64url(part, to, max);
    json_t *o = n == SIZE_MAX ? NULL : json_loadb((const char *)to, n, JSON_REJECT_DUPLICATES, NULL);
    if (json_is_object(o)) return o;
    json_decref(o);
    return NULL;
}

static ag_str text_at(const json_t *o, const char *name)
{
    const json_t *v = json_object_get(o, name);
    return json_is_string(v) ? (ag_str){json_string_value(v), json_string_length(v)} : (ag_str){0};
}

/* The key that the header names; where it names none, the one of its algorithm, if there is only one. */
static const ag__jwk *find_key(const ag_jwks *s, const json_t *header)
{
    const ag__jwk *found = NULL;
    ag_str alg = text_at(header, "alg"), kid = text_at(header, "kid");
    for (uint32_t i = 0; i < s->n; i++) {
        const ag__jwk *k = &s->list[i];
        if (!ag_str_eqz(alg, k->alg) || (kid.p && !ag_str_eqz(kid, k->kid))) continue;
        if (found) return NULL;
        found = k;
    }
    return found;
}

/* Tokens have r and s side by side, OpenSSL wants them in DER. */
static size_t der_of(const uint8_t raw[64], uint8_t der[80])
{
    size_t n = 0;
    ECDSA_SIG *sig = ECDSA_SIG_new();
    BIGNUM *r = BN_bin2bn(raw, 32, NULL), *s = BN_bin2bn(raw + 32, 32, NULL);
    if (sig && r && s && ECDSA_SIG_set0(sig, r, s) == 1) {
        r = s = NULL; /* the signature's */
        uint8_t *at = der;
        int len = i2d_ECDSA_SIG(sig, NULL);
        if (len > 0 && len <= 80) n = (size_t)i2d_ECDSA_SIG(sig, &at);
    }
    BN_free(r);
    BN_free(s);
    ECDSA_SIG_free(sig);
    return n;
}

static bool verify(const ag__jwk *k, const parts *p)
{
    uint8_t signature[SIGNATURE_BYTES], der[80];
    const uint8_t *at = signature;
    size_t n = ag__base64url(p->signature, signature, sizeof signature);
    bool ec = strcmp(k->alg, "ES256") == 0, ed = strcmp(k->alg, "EdDSA") == 0;
    if (n == SIZE_MAX || n == 0 || (ec && n != 64)) return false;
    if (ec) {
        n = der_of(signature, der);
        at = der;
        if (n == 0) return false;
    }
    EVP_MD_CTX *ctx = EVP_MD_CTX_new();
    bool ok = ctx && EVP_DigestVerifyInit(ctx, NULL, ed ? NULL : EVP_sha256(), NULL, k->key) == 1 &&
              EVP_DigestVerify(ctx, at, n, (const unsigned char *)p->signed_text.p, p->signed_text.n) == 1;
    EVP_MD_CTX_free(ctx);
    ERR_clear_error();
    return ok;
}

static bool has_text(const json_t *v, const char *want)
{
    return json_is_string(v) && ag_str_eqz((ag_str){json_string_value(v), json_string_length(v)}, want);
}

static bool is_for(const json_t *aud, const char *audience)
{
    size_t i;
    json_t *one;
    if (has_text(aud, audience)) return true;
    json_array_foreach((json_t *)(uintptr_t)aud, i, one) if (has_text(one, audience)) return true;
    return false;
}

/* A date is a number of seconds, with a fraction or not. */
static bool date_at(const json_t *o, const char *name, double *out)
{
    const json_t *v = json_object_get(o, name);
    *out = json_number_value(v);
    return json_is_number(v) && *out >= 0 && *out < 1e15;
}

static int check_times(const json_t *o, uint64_t now_s, ag_jwt_claims *c, ag_err *err)
{
    double exp = 0, nbf = 0;
    if (!date_at(o, "exp", &exp)) return refuse(err, "the token has no date of expiry (exp)");
    if (exp + AG_JWT_LEEWAY_S <= (double)now_s) return refuse(err, "the token has expired");
    if (json_object_get(o, "nbf") && !date_at(o, "nbf", &nbf)) return refuse(err, "the token's nbf is no date");
    if (json_object_get(o, "nbf") && nbf > (double)now_s + AG_JWT_LEEWAY_S)
        return refuse(err, "the token is not valid yet");
    c->expires_s = (uint64_t)exp;
    return AG_OK;
}

static uint32_t role_of(ag_str word)
{
    return ag_str_eqz(word, "inference") ? AG_ROLE_INFERENCE : ag_str_eqz(word, "admin") ? AG_ROLE_ADMIN : 0;
}

static uint32_t roles_of(const json_t *v)
{
    uint32_t roles = 0;
    size_t i;
    json_t *one;
    if (v == NULL) return AG_ROLE_INFERENCE;
    for (const char *at = json_string_value(v); at && *at;) {
        size_t n = strcspn(at, " ");
        roles |= role_of((ag_str){at, n});
        at += n + (at[n] == ' ');
    }
    json_array_foreach((json_t *)(uintptr_t)v, i, one) if (json_is_string(one)) roles |=
        role_of((ag_str){json_string_value(one), json_string_length(one)});
    return roles;
}

/* For logs and usage: what could not stand there becomes an underscore. */
static void take_id(const json_t *o, ag_jwt_claims *c)
{
    ag_str sub = text_at(o, "sub");
    size_t n = AG_MIN(sub.n, (size_t)AG_KEY_ID_MAX - 4);
    memcpy(c->id, "jwt:", 5);
    for (size_t i = 0; i < n; i++) c->id[4 + i] = ag_key_name_ok((ag_str){sub.p + i, 1}) ? sub.p[i] : '_';
    c->id[4 + n] = 0;
}

static int check_claims(const ag_jwt_rules *rules, const json_t *o, uint64_t now_s, ag_jwt_claims *c, ag_err *err)
{
    int rc = check_times(o, now_s, c, err);
    if (rc != AG_OK) return rc;
    if (!has_text(json_object_get(o, "iss"), rules->issuer)) return refuse(err, "the token is of another issuer (iss)");
    if (!is_for(json_object_get(o, "aud"), rules->audience))
        return refuse(err, "the token is for another audience (aud)");
    ag_str tenant = text_at(o, rules->tenant_claim);
    if (!ag_key_name_ok(tenant)) return refuse(err, "the token names no tenant, or one that cannot be");
    memcpy(c->tenant, tenant.p, tenant.n);
    c->tenant[tenant.n] = 0;
    c->roles = roles_of(json_object_get(o, rules->roles_claim));
    take_id(o, c);
    return AG_OK;
}

int ag_jwt_check(const ag_jwks *keys, const ag_jwt_rules *rules, ag_str token, uint64_t now_s, ag_jwt_claims *out,
                 ag_err *err)
{
    uint8_t header_text[HEADER_BYTES], payload_text[AG_JWT_BYTES];
    json_t *header = NULL, *payload = NULL;
    const ag__jwk *key = NULL;
    parts p;
    int rc = AG_OK;
    if (token.n > AG_JWT_BYTES) return refuse(err, "the token is too large");
    if (!split(token, &p)) return refuse(err, "this is no token of three parts");
    if ((header = object_of(p.header, header_text, sizeof header_text)) == NULL)
        rc = refuse(err, "the token's header cannot be read");
    else if (json_object_get(header, "crit")) rc = refuse(err, "the token wants an extension (crit) that is not known");
    else if ((key = find_key(keys, header)) == NULL)
        rc = ag_err_set(err, AG_E_KEY_NOT_FOUND, "no key is there for the token's algorithm and key id (alg, kid)");
    else if (!verify(key, &p)) rc = refuse(err, "the token's signature is wrong");
    else if ((payload = object_of(p.payload, payload_text, sizeof payload_text)) == NULL)
        rc = refuse(err, "the token's claims cannot be read");
    else rc = check_claims(rules, payload, now_s, out, err);
    json_decref(payload);
    json_decref(header);
    return rc;
}
