/* The first byte chooses: 0 a token as it comes, 1 a set of keys, 2 a header and, behind a line end, claims that are
 * signed here, so that what lies behind the signature is reached too; 3 the text of a key, 4 a question to the admin
 * API. */
#include <stdlib.h>

#include "keys/admin.h"
#include "keys/jwt.h"
#include "keys/tokens.h"

static issuer me;
static ag_jwks *set;
static ag_keys_db *db;
static const ag_jwt_rules rules = {"me", "you", "tenant", "roles"};

static void set_up(void)
{
    ag_buf b;
    ag_err err = {0};
    char folder[] = "/tmp/autoglm-fuzz-XXXXXX", path[64], command[80];
    AG_ASSERT(sodium_init() >= 0);
    me = issuer_make("EdDSA", "k");
    ag_buf_init(&b, 4096);
    ag_buf_addz(&b, "{\"keys\":[");
    issuer_add_jwk(&me, "", &b);
    ag_buf_addz(&b, "]}");
    int rc = ag_jwks_parse(&set, ag_buf_str(&b), "-", &err);
    AG_ASSERT(rc == AG_OK && mkdtemp(folder) != NULL);
    ag_buf_fini(&b);
    snprintf(path, sizeof path, "%s/keys.db", folder);
    rc = ag_keys_db_open(&db, path, NULL, &err);
    if (rc == AG_OK) rc = ag_keys_db_relax(db, &err);
    AG_ASSERT(rc == AG_OK);
    snprintf(command, sizeof command, "rm -r %s", folder); /* open files live on */
    rc = system(command);
    AG_ASSERT(rc == 0);
}

static void check(ag_str token)
{
    ag_err err = {0};
    ag_jwt_claims c;
    int rc = ag_jwt_check(set, &rules, token, 1000, &c, &err);
    AG_ASSERT(rc == AG_OK ? c.expires_s + AG_JWT_LEEWAY_S > 1000 && ag_key_name_ok(ag_str_of(c.tenant)) && c.roles <= 3
                          : (rc == AG_E_AUTH || rc == AG_E_KEY_NOT_FOUND) && err.text[0]);
}

static void check_signed(ag_str text)
{
    const char *cut = text.n ? memchr(text.p, '\n', text.n) : NULL;
    if (cut == NULL || text.n > 4000) return;
    ag_buf b;
    ag_buf_init(&b, 1 << 20);
    issuer_sign(&me, (ag_str){text.p, (size_t)(cut - text.p)}, (ag_str){cut + 1, text.n - (size_t)(cut + 1 - text.p)},
                &b);
    check(ag_buf_str(&b));
    ag_buf_fini(&b);
}

static void check_set(ag_str text)
{
    ag_err err = {0};
    ag_jwks *s = NULL;
    int rc = ag_jwks_parse(&s, text, "-", &err);
    AG_ASSERT(rc == AG_OK ? ag_jwks_count(s) > 0 && ag_jwks_count(s) <= AG_JWKS_KEYS : err.code == rc && err.text[0]);
    ag_jwks_free(s);
}

static void check_question(ag_str text)
{
    ag_err err = {0};
    ag_buf out;
    ag_buf_init(&out, 1 << 20);
    ag_keys_ask ask = {.verb = text.n % 2 ? AG_KEYS_CREATE : AG_KEYS_LIMITS_SET, .id = "tenant:x", .body = text};
    int rc = ag_keys_admin(db, &ask, &out, &err);
    AG_ASSERT(rc == AG_OK || (err.code == rc && err.text[0]));
    ag_buf_fini(&out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    char id[AG_KEY_ID_BYTES + 1];
    if (db == NULL) set_up();
    if (n == 0) return 0;
    ag_str text = {(const char *)data + 1, n - 1};
    switch (data[0] % 5) {
    case 0: check(text); break;
    case 1: check_set(text); break;
    case 2: check_signed(text); break;
    case 3: (void)ag_key_text_id(text, id); break;
    default: check_question(text);
    }
    return 0;
}
