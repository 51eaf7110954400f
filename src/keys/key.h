/* key.h - what a key is: whose, what it may do, how much of it; how a key is written, and the hash that is kept of it.
 * A key's text is "ag-ID-SECRET": 12 hex digits by which it is found, listed and logged, and 43 letters of base64url
 * (32 random bytes), which are shown once and kept only as BLAKE2b under a secret that lies beside the database.
 * Owns    : nothing; an ag_key holds its texts itself. Those of a keyring are counted (keyring.h).
 * Threads : any; a key that others can see does not change.
 * Limits  : the constants below and limits.def.
 * Errors  : ag_key_secret_load: AG_E_USAGE (the file is not as it must be), AG_E_IO. The rest answers yes or no. */
#ifndef AG_KEY_H
#define AG_KEY_H

#include <stdatomic.h>

#include "base/err.h"

#define AG_KEY_ID_BYTES 12
#define AG_KEY_ID_MAX 72 /* "jwt:" and a subject */
#define AG_KEY_TEXT_BYTES (3 + AG_KEY_ID_BYTES + 1 + 43)
#define AG_KEY_NAME_MAX 64 /* of keys, tenants, groups, roles' lists */
#define AG_KEY_MODELS 16            /* names of models that a key may list */
#define AG_KEY_MODEL_MAX 127
#define AG_KEY_MODELS_MAX (AG_KEY_MODELS * (AG_KEY_MODEL_MAX + 1) - 1)
#define AG_KEY_BANDS 4
#define AG_KEY_WEIGHT_MIN 0.001
#define AG_KEY_WEIGHT_MAX 1000.0

#define AG_ROLE_INFERENCE 1u
#define AG_ROLE_ADMIN 2u

typedef struct ag_limits {
#define AG_LIMIT(field, words, flag, max, what) uint64_t field;
#include "keys/limits.def"
#undef AG_LIMIT
} ag_limits;

typedef struct ag_limit_row {
    const char *name, *words, *flag, *what;
    size_t offset; /* in ag_limits */
    uint64_t max;
} ag_limit_row;

typedef enum ag_limit_id {
#define AG_LIMIT(field, words, flag, max, what) AG_LIMIT_##field,
#include "keys/limits.def"
#undef AG_LIMIT
    AG_LIMIT_COUNT
} ag_limit_id;
extern const ag_limit_row ag_limit_rows[AG_LIMIT_COUNT];
static inline uint64_t *ag_limit_at(const ag_limits *l, uint32_t i)
{
    return (uint64_t *)((char *)(uintptr_t)l + ag_limit_rows[i].offset);
}
static inline bool ag_limits_any(const ag_limits *l)
{
    uint64_t any = 0;
    for (uint32_t i = 0; i < AG_LIMIT_COUNT; i++) any |= *ag_limit_at(l, i);
    return any != 0;
}

typedef struct ag_key {
    _Atomic uint32_t refs; /* of those in a keyring */
    char id[AG_KEY_ID_MAX + 1];
    char name[AG_KEY_NAME_MAX + 1]; /* for people; may be empty */
    char tenant[AG_KEY_NAME_MAX + 1];
    char share[AG_KEY_NAME_MAX + 1]; /* the group that its tenant shares caches with; empty: none */
    char cache[sizeof "use"]; /* "use", "off": of all its answers; empty: as each of them is */
    char models[AG_KEY_MODELS_MAX + 1]; /* comma-separated; empty: all */
    uint8_t hash[32];
    uint32_t roles; /* AG_ROLE_… */
    uint32_t band_min; /* the most urgent band that it may ask for, 0..3 */
    double weight; /* its tenant's share; 0: as --tenant-weights says */
    uint64_t created_s, rotated_s, expires_s, revoked_s; /* since 1970; 0: not */
    ag_limits limits;
    bool of_token; /* made of a token's claims, for one request: it has no meter of its own */
} ag_key;

/* The secret that keys are hashed under: 32 bytes in a file of their own, readable by its owner alone. */
typedef struct ag_key_secret {
    uint8_t bytes[32];
} ag_key_secret;
/* With `make` a file that is not there is made; of two processes that do so at once both get the same one. */
int ag_key_secret_load(ag_key_secret *s, const char *path, bool make, ag_err *err);

void ag_key_make(char id[AG_KEY_ID_BYTES + 1], char text[AG_KEY_TEXT_BYTES + 1],
                 const char *keep_id); /* NULL: a new id */
bool ag_key_text_id(ag_str text, char id[AG_KEY_ID_BYTES + 1]); /* false: this is no key of ours */
void ag_key_hash(const ag_key_secret *s, ag_str text, uint8_t out[32]);

bool ag_key_name_ok(ag_str name); /* 1 to AG_KEY_NAME_MAX printable ASCII letters without blanks and commas */
bool ag_key_cache_ok(ag_str mode);
bool ag_key_models_ok(ag_str models);
uint32_t ag_key_roles_of(ag_str list); /* "inference,admin"; 0: not a list of roles, each once */

#endif
