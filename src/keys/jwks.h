/* jwks.h - inside this folder: one public key of a set, and what it checks. See jwt.h for the contract. */
#ifndef AG_JWKS_H
#define AG_JWKS_H

#include <openssl/evp.h>

#include "keys/jwt.h"

#define AG__KID_MAX 128

typedef struct ag__jwk {
    char kid[AG__KID_MAX + 1]; /* "": it has none */
    const char *alg; /* "RS256", "ES256" or "EdDSA": what its kind checks */
    EVP_PKEY *key;
} ag__jwk;

struct ag_jwks {
    _Atomic uint32_t refs;
    uint32_t n;
    ag__jwk list[AG_JWKS_KEYS];
};

/* Base64url without padding, of exactly its own form; at most `max` bytes. SIZE_MAX: it is not. */
size_t ag__base64url(ag_str text, uint8_t *to, size_t max);

#endif
