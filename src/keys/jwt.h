/* jwt.h - tokens that somebody else signed (JWT, RFC 7519): RS256, ES256 and EdDSA with Ed25519, and nothing else.
 * A key checks one algorithm, which its own kind says, never the token: neither "none" nor HS256 can be talked into.
 * Owns    : an ag_jwks owns its public keys; claims are the caller's.
 * Threads : any; an ag_jwks is read-only after it was made.
 * Limits  : tokens of AG_JWT_BYTES, files of AG_JWKS_BYTES with AG_JWKS_KEYS keys, RSA of 2048 to 8192 bits. Checking
 *           one takes processor time (a public key's) and waits for nothing.
 * Errors  : files: AG_E_USAGE (what is in it), AG_E_IO, AG_E_NOMEM. Tokens: AG_E_AUTH, or AG_E_KEY_NOT_FOUND where the
 *           set has no key for it, with the reason, which is for logs: whoever sent the token is not told. */
#ifndef AG_JWT_H
#define AG_JWT_H

#include "keys/key.h"

#define AG_JWT_BYTES 8192
#define AG_JWT_LEEWAY_S 30 /* what two clocks may differ by */
#define AG_JWKS_BYTES (1u << 20)
#define AG_JWKS_KEYS 100

typedef struct ag_jwks ag_jwks;

/* `from` is the file's name, for sentences. Keys of other kinds and uses are passed over; one at least must be left. */
int ag_jwks_parse(ag_jwks **out, ag_str text, const char *from, ag_err *err);
int ag_jwks_load(ag_jwks **out, const char *path, ag_err *err);
ag_jwks *ag_jwks_hold(ag_jwks *s); /* for another to free */
void ag_jwks_free(ag_jwks *s); /* the last one does; NULL is fine */
uint32_t ag_jwks_count(const ag_jwks *s);

typedef struct ag_jwt_rules {
    const char *issuer, *audience; /* what "iss" and "aud" must say */
    const char *tenant_claim; /* whose requests; must be there */
    const char *roles_claim; /* an array or words of "inference" and "admin", others passed over; absent: inference */
} ag_jwt_rules;

typedef struct ag_jwt_claims {
    char id[AG_KEY_ID_MAX + 1]; /* "jwt:SUBJECT" */
    char tenant[AG_KEY_NAME_MAX + 1];
    uint32_t roles;
    uint64_t expires_s;
} ag_jwt_claims;

bool ag_jwt_is(ag_str token); /* three parts with dots between: one of these, or nothing that we know */
int ag_jwt_check(const ag_jwks *keys, const ag_jwt_rules *rules, ag_str token, uint64_t now_s, ag_jwt_claims *out,
                 ag_err *err);

#endif
