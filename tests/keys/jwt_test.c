#include "check.h"

#include <openssl/hmac.h>
#include <string.h>
#include <unistd.h>

#include "base/fault.h"
#include "keys/jwt.h"
#include "keys/tokens.h"

#define NOW 2000000000u
#define CLAIMS                                                                                                         \
    "{\"iss\":\"https://id.example\",\"aud\":\"autoglm\",\"exp\":2000000100,\"nbf\":1999999900,\"sub\":\"a b,c\","     \
    "\"tenant\":\"gold\",\"roles\":[\"inference\",\"admin\",\"cook\"]}"

static const char *const algs[] = {"RS256", "ES256", "EdDSA"};
enum { ALGS = 3 };
static issuer issuers[ALGS];
static ag_jwks *set;
static ag_buf token, text;
static ag_err err;
static ag_jwt_claims claims;
static const ag_jwt_rules rules = {"https://id.example", "autoglm", "tenant", "roles"};

static int setup(void **state)
{
    (void)state;
    ag_buf_init(&token, 1 << 20);
    ag_buf_init(&text, AG_JWKS_BYTES);
    ag_buf_addz(&text, "{\"keys\":[{\"kty\":\"oct\"},");
    for (int i = 0; i < ALGS; i++) {
        issuers[i] = issuer_make(algs[i], algs[i]);
        if (i) ag_buf_addc(&text, ',');
        issuer_add_jwk(&issuers[i], "\"use\":\"sig\",", &text);
    }
    ag_buf_addz(&text, "]}");
    if (ag_jwks_parse(&set, ag_buf_str(&text), "keys.json", &err) != AG_OK) fail_msg("%s", err.text);
    assert_int_equal(ag_jwks_count(set), ALGS);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    for (int i = 0; i < ALGS; i++) EVP_PKEY_free(issuers[i].key);
    ag_jwks_free(set);
    ag_jwks_free(NULL);
    ag_buf_fini(&token);
    ag_buf_fini(&text);
    return 0;
}

static int check(ag_str t, uint64_t now_s)
{
    ag_err_clear(&err);
    return ag_jwt_check(set, &rules, t, now_s, &claims, &err);
}

static void sign(int i, const char *header, const char *payload)
{
    issuer_sign(&issuers[i], ag_str_of(header), ag_str_of(payload), &token);
}

static const char *header_of(int i)
{
    static char header[100];
    snprintf(header, sizeof header, "{\"alg\":\"%s\",\"typ\":\"JWT\",\"kid\":\"%s\"}", algs[i], issuers[i].kid);
    return header;
}

static void accepted(int i, const char *header, const char *payload)
{
    sign(i, header, payload);
    if (check(ag_buf_str(&token), NOW) != AG_OK) fail_msg("%s %s: %s", header, payload, err.text);
}

static bool is_refusal(int rc) { return rc == AG_E_AUTH || rc == AG_E_KEY_NOT_FOUND; }

static void refused(int i, const char *header, const char *payload, const char *part)
{
    sign(i, header, payload);
    int rc = check(ag_buf_str(&token), NOW);
    if (!is_refusal(rc) || strstr(err.text, part) == NULL) fail_msg("%s %s: %d %s", header, payload, rc, err.text);
}

static void each_algorithm_is_taken(void **state)
{
    (void)state;
    for (int i = 0; i < ALGS; i++) {
        accepted(i, header_of(i), CLAIMS);
        assert_string_equal(claims.id, "jwt:a_b_c");
        assert_string_equal(claims.tenant, "gold");
        assert_int_equal(claims.roles, AG_ROLE_INFERENCE | AG_ROLE_ADMIN);
        assert_int_equal(claims.expires_s, 2000000100);
        assert_true(ag_jwt_is(ag_buf_str(&token)));
        char header[64];
        snprintf(header, sizeof header, "{\"alg\":\"%s\"}", algs[i]); /* one key of that kind: no need to name it */
        accepted(i, header, CLAIMS);
    }
    assert_false(ag_jwt_is(AG_STR("ag-0123456789ab-xyz")) || ag_jwt_is(AG_STR("a.b")) || ag_jwt_is(AG_STR("a.b.c.d")) ||
                 ag_jwt_is(AG_STR("")));
}

static void signatures_are_of_this_text_and_key(void **state)
{
    (void)state;
    for (int i = 0; i < ALGS; i++) {
        sign(i, header_of(i), CLAIMS);
        for (size_t at = 0; at < token.n; at += 7) { /* any letter changed, in any part */
            char was = token.p[at];
            token.p[at] = was == 'A' ? 'B' : 'A';
            assert_true(is_refusal(check(ag_buf_str(&token), NOW)));
            token.p[at] = was;
        }
        assert_true(is_refusal(check((ag_str){token.p, token.n - 1}, NOW)));
        assert_true(is_refusal(check((ag_str){token.p, (size_t)(strrchr(token.p, '.') - token.p) + 1}, NOW)));
        assert_int_equal(check(ag_buf_str(&token), NOW), AG_OK);
        issuer other = issuer_make(algs[i], algs[i]);
        issuer_sign(&other, ag_str_of(header_of(i)), AG_STR(CLAIMS), &token);
        assert_true(is_refusal(check(ag_buf_str(&token), NOW)));
        assert_non_null(strstr(err.text, "signature"));
        EVP_PKEY_free(other.key);
    }
}

/* The classic ones. */
static void nobody_talks_it_into_another_algorithm(void **state)
{
    (void)state;
    static const char *const none[] = {"none", "None", "NONE", "nOnE", "", "HS256", "RS512", "PS256", "ES384"};
    char header[200];
    for (size_t i = 0; i < AG_ARRAY_LEN(none); i++) {
        snprintf(header, sizeof header, "{\"alg\":\"%s\",\"kid\":\"RS256\"}", none[i]);
        refused(0, header, CLAIMS, "algorithm");
        *strrchr(token.p, '.') = 0; /* and without any signature */
        token.n = strlen(token.p);
        ag_buf_addc(&token, '.');
        assert_true(is_refusal(check(ag_buf_str(&token), NOW)));
    }
    refused(0, "{\"alg\":\"ES256\",\"kid\":\"RS256\"}", CLAIMS, "algorithm"); /* the key's own kind decides */
    refused(1, "{\"alg\":\"EdDSA\",\"kid\":\"ES256\"}", CLAIMS, "algorithm");
    refused(0, "{\"kid\":\"RS256\"}", CLAIMS, "algorithm");
    refused(0, "{\"alg\":[\"RS256\"],\"kid\":\"RS256\"}", CLAIMS, "algorithm");

    /* HS256 with the public key, in the form of a PEM file or of the set, as the secret. */
    uint8_t mac[32];
    unsigned n = sizeof mac;
    ag_buf_reset(&token);
    token_add(&token, "{\"alg\":\"HS256\",\"kid\":\"RS256\"}", 29);
    ag_buf_addc(&token, '.');
    token_add(&token, CLAIMS, strlen(CLAIMS));
    HMAC(EVP_sha256(), text.p, (int)text.n, (const unsigned char *)token.p, token.n, mac, &n);
    ag_buf_addc(&token, '.');
    token_add(&token, mac, n);
    assert_true(is_refusal(check(ag_buf_str(&token), NOW)));
}

static void headers_that_will_not_do(void **state)
{
    (void)state;
    refused(0, "{\"alg\":\"RS256\",\"kid\":\"other\"}", CLAIMS, "key id");
    assert_int_equal(check(ag_buf_str(&token), NOW), AG_E_KEY_NOT_FOUND); /* another set of keys may have it */
    refused(0, "{\"alg\":\"RS256\",\"kid\":\"../../dev/null\"}", CLAIMS, "key id");
    refused(0, "{\"alg\":\"RS256\",\"kid\":\"\"}", CLAIMS, "key id");
    refused(0, "{\"alg\":\"RS256\",\"kid\":\"RS256\",\"crit\":[\"exp\"]}", CLAIMS, "crit");
    refused(0, "{\"alg\":\"RS256\",\"alg\":\"none\"}", CLAIMS, "header");
    refused(0, "[]", CLAIMS, "header");
    refused(0, "{\"alg\":\"RS256\"", CLAIMS, "header");
    refused(0, header_of(0), "not json", "claims");
    refused(0, header_of(0), "[]", "claims");
    /* A key that the token brings along is not looked at. */
    issuer own = issuer_make("RS256", "own");
    ag_buf header;
    ag_buf_init(&header, 4096);
    ag_buf_addz(&header, "{\"alg\":\"RS256\",\"jwk\":");
    issuer_add_jwk(&own, "", &header);
    ag_buf_addz(&header, "}");
    issuer_sign(&own, ag_buf_str(&header), AG_STR(CLAIMS), &token);
    assert_true(is_refusal(check(ag_buf_str(&token), NOW)));
    ag_buf_fini(&header);
    EVP_PKEY_free(own.key);
}

static void claims_are_looked_at(void **state)
{
    (void)state;
    static const struct {
        const char *payload, *part;
    } bad[] = {
        {"{\"iss\":\"https://id.example\",\"aud\":\"autoglm\",\"tenant\":\"gold\"}", "no date of expiry"},
        {"{\"iss\":\"https://id.example\",\"aud\":\"autoglm\",\"tenant\":\"gold\",\"exp\":\"2000000100\"}",
         "no date of expiry"},
        {"{\"iss\":\"https://id.example\",\"aud\":\"autoglm\",\"tenant\":\"gold\",\"exp\":-1}", "no date of expiry"},
        {"{\"iss\":\"https://id.example\",\"aud\":\"autoglm\",\"tenant\":\"gold\",\"exp\":1e300}", "no date of expiry"},
        {"{\"iss\":\"https://id.example\",\"aud\":\"autoglm\",\"tenant\":\"gold\",\"exp\":1999999970}", "has expired"},
        {"{\"iss\":\"https://"
         "id.example\",\"aud\":\"autoglm\",\"tenant\":\"gold\",\"exp\":2000000100,\"nbf\":2000000031}",
         "not valid yet"},
        {"{\"iss\":\"https://id.example\",\"aud\":\"autoglm\",\"tenant\":\"gold\",\"exp\":2000000100,\"nbf\":\"soon\"}",
         "nbf"},
        {"{\"iss\":\"https://id.example.evil\",\"aud\":\"autoglm\",\"tenant\":\"gold\",\"exp\":2000000100}", "issuer"},
        {"{\"aud\":\"autoglm\",\"tenant\":\"gold\",\"exp\":2000000100}", "issuer"},
        {"{\"iss\":\"https://id.example\",\"aud\":\"other\",\"tenant\":\"gold\",\"exp\":2000000100}", "audience"},
        {"{\"iss\":\"https://id.example\",\"aud\":[],\"tenant\":\"gold\",\"exp\":2000000100}", "audience"},
        {"{\"iss\":\"https://id.example\",\"tenant\":\"gold\",\"exp\":2000000100}", "audience"},
        {"{\"iss\":\"https://id.example\",\"aud\":\"autoglm\",\"exp\":2000000100}", "tenant"},
        {"{\"iss\":\"https://id.example\",\"aud\":\"autoglm\",\"tenant\":\"a b\",\"exp\":2000000100}", "tenant"},
        {"{\"iss\":\"https://id.example\",\"aud\":\"autoglm\",\"tenant\":[\"gold\"],\"exp\":2000000100}", "tenant"},
        {"{\"iss\":\"https://id.example\",\"iss\":\"x\",\"aud\":\"autoglm\",\"tenant\":\"gold\",\"exp\":2000000100}",
         "claims"},
    };
    for (size_t i = 0; i < AG_ARRAY_LEN(bad); i++) refused(2, header_of(2), bad[i].payload, bad[i].part);
    accepted(2, header_of(2),
             "{\"iss\":\"https://id.example\",\"aud\":[\"x\",\"autoglm\"],\"tenant\":\"t\",\"exp\":2000000000.5}");
    assert_int_equal(claims.roles, AG_ROLE_INFERENCE);
    assert_string_equal(claims.id, "jwt:");
    accepted(2, header_of(2),
             "{\"iss\":\"https://id.example\",\"aud\":\"autoglm\",\"tenant\":\"t\",\"exp\":1999999971,\"roles\":\"x "
             "admin\"}");
    assert_int_equal(claims.roles, AG_ROLE_ADMIN);
    accepted(2, header_of(2),
             "{\"iss\":\"https://"
             "id.example\",\"aud\":\"autoglm\",\"tenant\":\"t\",\"exp\":2000000100,\"roles\":[\"cook\",7]}");
    assert_int_equal(claims.roles, 0);
}

static void huge_ones_are_refused(void **state)
{
    (void)state;
    ag_buf big;
    ag_buf_init(&big, 1 << 20);
    ag_buf_addz(&big, "{\"x\":\"");
    for (int i = 0; i < 7000; i++) ag_buf_addc(&big, 'x');
    ag_buf_addz(&big, "\"}");
    issuer_sign(&issuers[2], ag_str_of(header_of(2)), (ag_str){big.p, 5000}, &token);
    assert_true(is_refusal(check(ag_buf_str(&token), NOW)));
    ag_buf_reset(&token);
    for (int i = 0; i < AG_JWT_BYTES + 1; i++) ag_buf_addc(&token, '.');
    assert_true(is_refusal(check(ag_buf_str(&token), NOW)));
    assert_non_null(strstr(err.text, "too large"));
    ag_buf_reset(&token);
    for (int i = 0; i < 4000; i++) ag_buf_addz(&token, "[["); /* deep, where JSON is wanted */
    issuer_sign(&issuers[2], ag_str_of(header_of(2)), (ag_str){big.p, 10}, &token);
    assert_true(is_refusal(check(ag_buf_str(&token), NOW)));
    ag_buf_fini(&big);
}

static void no_set(const char *json, const char *part)
{
    ag_jwks *s = NULL;
    ag_err_clear(&err);
    assert_int_equal(ag_jwks_parse(&s, ag_str_of(json), "keys.json", &err), AG_E_USAGE);
    if (strstr(err.text, part) == NULL || strstr(err.text, "keys.json") == NULL) fail_msg("%s: %s", json, err.text);
}

static void sets_are_checked(void **state)
{
    (void)state;
    no_set("", "not JSON");
    no_set("[]", "no set of keys");
    no_set("{\"keys\":{}}", "no set of keys");
    no_set("{\"keys\":[]}", "holds no key");
    no_set("{\"keys\":[{\"kty\":\"oct\",\"k\":\"AAAA\"}]}", "secret key");
    no_set("{\"keys\":[{\"kty\":\"OKP\",\"crv\":\"Ed25519\",\"x\":\"AAAA\",\"d\":\"AAAA\"}]}", "secret key");
    no_set("{\"keys\":[{\"kty\":\"RSA\",\"n\":\"AQAB\",\"e\":\"AQAB\"}]}", "holds no key"); /* too short */
    no_set("{\"keys\":[{\"kty\":\"EC\",\"crv\":\"P-256\",\"x\":\"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\","
           "\"y\":\"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAE\"}]}",
           "holds no key"); /* not on the curve */
    no_set("{\"keys\":[7,null,{\"kty\":7}]}", "holds no key");
    ag_jwks *s = NULL;
    ag_buf b;
    ag_buf_init(&b, AG_JWKS_BYTES);
    for (int i = 0; i < ALGS; i++) { /* right keys, for something else */
        ag_buf_reset(&b);
        ag_buf_addz(&b, "{\"keys\":[");
        issuer_add_jwk(&issuers[i], i % 2 ? "\"use\":\"enc\"," : "\"alg\":\"PS256\",", &b);
        ag_buf_addz(&b, "]}");
        ag_buf_zterm(&b);
        no_set(b.p, "holds no key");
    }
    ag_buf_reset(&b);
    ag_buf_addz(&b, "{\"keys\":[");
    for (int i = 0; i <= AG_JWKS_KEYS; i++) ag_buf_addz(&b, i ? ",{}" : "{}");
    ag_buf_addz(&b, "]}");
    ag_buf_zterm(&b);
    no_set(b.p, "more than 100");
    /* RSA with an exponent of one signs everything. */
    ag_buf_reset(&b);
    ag_buf_addz(&b, "{\"keys\":[{\"kty\":\"RSA\",\"n\":\"");
    token_add_number(&b, issuers[0].key, OSSL_PKEY_PARAM_RSA_N, 0);
    ag_buf_addz(&b, "\",\"e\":\"AQ\"}]}");
    ag_buf_zterm(&b);
    no_set(b.p, "holds no key");
    ag_buf_fini(&b);
    ag_err_clear(&err);
    assert_int_equal(ag_jwks_load(&s, "/nowhere/keys.json", &err), AG_E_IO);
    ag_err_clear(&err);
    assert_int_equal(ag_jwks_load(&s, "/dev/zero", &err), AG_E_USAGE);
    assert_non_null(strstr(err.text, "larger than"));
}

static void a_kid_that_two_keys_have_is_none(void **state)
{
    (void)state;
    ag_jwks *s = NULL;
    ag_buf b;
    issuer other = issuer_make("EdDSA", "EdDSA");
    ag_buf_init(&b, AG_JWKS_BYTES);
    ag_buf_addz(&b, "{\"keys\":[");
    issuer_add_jwk(&issuers[2], "", &b);
    ag_buf_addc(&b, ',');
    issuer_add_jwk(&other, "", &b);
    ag_buf_addz(&b, "]}");
    ag_err_clear(&err);
    assert_int_equal(ag_jwks_parse(&s, ag_buf_str(&b), "keys.json", &err), AG_OK);
    sign(2, header_of(2), CLAIMS);
    assert_int_equal(ag_jwt_check(s, &rules, ag_buf_str(&token), NOW, &claims, &err), AG_E_KEY_NOT_FOUND);
    ag_jwks_free(s);
    ag_buf_fini(&b);
    EVP_PKEY_free(other.key);
}

#ifdef AG_FAULTS
static void without_memory_there_is_a_sentence(void **state)
{
    (void)state;
    ag_jwks *s = NULL;
    ag_fault_arm(AG_FAULT_ALLOC, 1);
    ag_err_clear(&err);
    assert_int_equal(ag_jwks_parse(&s, ag_buf_str(&text), "keys.json", &err), AG_E_NOMEM);
    ag_fault_arm(AG_FAULT_OPEN, 1);
    ag_err_clear(&err);
    assert_int_equal(ag_jwks_load(&s, "keys.json", &err), AG_E_IO);
    ag_fault_disarm(AG_FAULT_OPEN);
}
#endif

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_algorithm_is_taken),
        cmocka_unit_test(signatures_are_of_this_text_and_key),
        cmocka_unit_test(nobody_talks_it_into_another_algorithm),
        cmocka_unit_test(headers_that_will_not_do),
        cmocka_unit_test(claims_are_looked_at),
        cmocka_unit_test(huge_ones_are_refused),
        cmocka_unit_test(sets_are_checked),
        cmocka_unit_test(a_kid_that_two_keys_have_is_none),
#ifdef AG_FAULTS
        cmocka_unit_test(without_memory_there_is_a_sentence),
#endif
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
