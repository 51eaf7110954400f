/* tokens.h - keys and signed tokens for tests: what an identity provider does.
 * Owns    : an issuer owns its private key. Threads: one at a time. Limits, errors: none; what cannot be made fails. */
#ifndef TOKENS_H
#define TOKENS_H

#include <openssl/core_names.h>
#include <openssl/ecdsa.h>
#include <openssl/evp.h>
#include <openssl/rsa.h>
#include <sodium.h>

#include "base/buf.h"

typedef struct issuer {
    const char *alg, *kid;
    EVP_PKEY *key;
} issuer;

AG_UNUSED static void token_add(ag_buf *b, const void *p, size_t n)
{
    char text[8192];
    AG_ASSERT(sodium_base64_ENCODED_LEN(n, sodium_base64_VARIANT_URLSAFE_NO_PADDING) <= sizeof text);
    sodium_bin2base64(text, sizeof text, p, n, sodium_base64_VARIANT_URLSAFE_NO_PADDING);
    ag_buf_addz(b, text);
}

AG_UNUSED static issuer issuer_make(const char *alg, const char *kid)
{
    issuer i = {alg, kid, NULL};
    if (strcmp(alg, "RS256") == 0) i.key = EVP_RSA_gen(2048);
    else if (strcmp(alg, "ES256") == 0) i.key = EVP_EC_gen("P-256");
    else i.key = EVP_PKEY_Q_keygen(NULL, NULL, "ED25519");
    AG_ASSERT(i.key != NULL);
    return i;
}

AG_UNUSED static void token_add_number(ag_buf *b, EVP_PKEY *key, const char *param, size_t width)
{
    uint8_t raw[1024];
    BIGNUM *n = NULL;
    int got = EVP_PKEY_get_bn_param(key, param, &n);
    AG_ASSERT(got == 1);
    int len = width ? BN_bn2binpad(n, raw, (int)width) : BN_bn2bin(n, raw);
    AG_ASSERT(len > 0);
    token_add(b, raw, (size_t)len);
    BN_free(n);
}

/* The public key as one of a JWKS; `more` goes between its fields. */
AG_UNUSED static void issuer_add_jwk(const issuer *i, const char *more, ag_buf *b)
{
    ag_buf_addf(b, "{\"kid\":\"%s\",%s", i->kid, more);
    if (strcmp(i->alg, "RS256") == 0) {
        ag_buf_addz(b, "\"kty\":\"RSA\",\"n\":\"");
        token_add_number(b, i->key, OSSL_PKEY_PARAM_RSA_N, 0);
        ag_buf_addz(b, "\",\"e\":\"");
        token_add_number(b, i->key, OSSL_PKEY_PARAM_RSA_E, 0);
    } else if (strcmp(i->alg, "ES256") == 0) {
        ag_buf_addz(b, "\"kty\":\"EC\",\"crv\":\"P-256\",\"x\":\"");
        token_add_number(b, i->key, OSSL_PKEY_PARAM_EC_PUB_X, 32);
        ag_buf_addz(b, "\",\"y\":\"");
        token_add_number(b, i->key, OSSL_PKEY_PARAM_EC_PUB_Y, 32);
    } else {
        uint8_t raw[32];
        size_t n = sizeof raw;
        EVP_PKEY_get_raw_public_key(i->key, raw, &n);
        ag_buf_addz(b, "\"kty\":\"OKP\",\"crv\":\"Ed25519\",\"x\":\"");
        token_add(b, raw, n);
    }
    ag_buf_addz(b, "\"}");
}

/* A token of this header and payload, whatever they say, signed as the issuer's key does. */
AG_UNUSED static void issuer_sign(const issuer *i, ag_str header, ag_str payload, ag_buf *b)
{
    uint8_t sig[1024], raw[64];
    size_t n = sizeof sig;
    bool ec = strcmp(i->alg, "ES256") == 0, ed = strcmp(i->alg, "EdDSA") == 0;
    ag_buf_reset(b);
    token_add(b, header.p, header.n);
    ag_buf_addc(b, '.');
    token_add(b, payload.p, payload.n);
    EVP_MD_CTX *ctx = EVP_MD_CTX_new();
    int ok = EVP_DigestSignInit(ctx, NULL, ed ? NULL : EVP_sha256(), NULL, i->key);
    if (ok == 1) ok = EVP_DigestSign(ctx, sig, &n, (const unsigned char *)b->p, b->n);
    AG_ASSERT(ok == 1);
    EVP_MD_CTX_free(ctx);
    ag_buf_addc(b, '.');
    if (ec) {
        const uint8_t *at = sig;
        ECDSA_SIG *s = d2i_ECDSA_SIG(NULL, &at, (long)n);
        BN_bn2binpad(ECDSA_SIG_get0_r(s), raw, 32);
        BN_bn2binpad(ECDSA_SIG_get0_s(s), raw + 32, 32);
        ECDSA_SIG_free(s);
    }
    token_add(b, ec ? raw : sig, ec ? sizeof raw : n);
    ag_buf_zterm(b);
}

#endif
