/* admin.h - what can be asked of the keys, as JSON in and out: the admin API and `autoglm keys` are both this.
 * Owns    : nothing; the answer is appended to the caller's buffer.
 * Threads : the database's.
 * Limits  : AG_KEYS_ASK_BYTES of a question, the buffer's ceiling of an answer (its `failed` says so).
 * Errors  : those of keys_db.h; AG_E_JSON, AG_E_PARAM and AG_E_PARAM_MISSING with the field's name in err->param. */
#ifndef AG_KEYS_ADMIN_H
#define AG_KEYS_ADMIN_H

#include "base/buf.h"
#include "keys/keys_db.h"

#define AG_KEYS_ASK_BYTES (64u << 10)
#define AG_KEYS_ANSWER_BYTES (64u << 20)

typedef enum ag_keys_verb {
    AG_KEYS_CREATE, /* body: the key; the answer has its text, this once */
    AG_KEYS_LIST,
    AG_KEYS_GET, /* of an id */
    AG_KEYS_ROTATE, /* of an id: a new secret for it; the answer has its text, this once */
    AG_KEYS_REVOKE, /* of an id */
    AG_KEYS_LIMITS_LIST,
    AG_KEYS_LIMITS_GET, /* of a subject */
    AG_KEYS_LIMITS_SET, /* of a subject; body: those that change, 0 or null: none */
    AG_KEYS_USAGE /* from, to, key, tenant, model in the filter */
} ag_keys_verb;

typedef struct ag_keys_ask {
    ag_keys_verb verb;
    const char *id; /* or subject */
    ag_str body; /* JSON; n 0: {} */
    ag_usage_filter filter;
    bool csv; /* of usage */
} ag_keys_ask;

int ag_keys_admin(ag_keys_db *db, const ag_keys_ask *ask, ag_buf *out, ag_err *err);

#endif
