#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include "gateway/keyed.h"
#include "keys/tokens.h"

static char text[AG_KEY_TEXT_BYTES + 1];

static int setup_weights(void **state)
{
    ag_gateway_conf conf = AG_GATEWAY_CONF_DEFAULT;
    conf.tenant_weights = "gold=3";
    conf.aliases = "best";
    open_keys(state);
    return serve_keys(conf);
}

#define WEIGHED(f) cmocka_unit_test_setup_teardown(f, setup_weights, teardown_keys)

static const char *bearer(const char *key, const char *more)
{
    static char headers[1600];
    snprintf(headers, sizeof headers, "Authorization: Bearer %s\r\n%s", key, more);
    return headers;
}

/* The gateway knows of a key that another connection made a moment later. */
static void wait_status(const char *key, int want)
{
    for (int status = 0; status != want;) {
        char *reply = ask("GET", "/v1/models", bearer(key, ""), NULL);
        status = status_of(reply);
        free(reply);
    }
}

static void make(ag_key *k, const char *tenant)
{
    store_key(db, tenant, k, text);
    wait_status(text, k->roles & AG_ROLE_INFERENCE ? 200 : 403);
}

static void a_key_says_whose_request_it_is(void **state)
{
    (void)state;
    ag_key a = {0}, b = {.weight = 7, .share = "friends"};
    make(&a, "gold");
    expect(200, "POST", PATH, bearer(text, "x-tenant: somebody\r\n"), SAY, "\"hi\"");
    assert_string_equal(fake_engine_seen().tenant, "gold");
    assert_true(fake_engine_seen().weight == 3);
    assert_string_equal(fake_engine_seen().share_group, "");
    make(&b, "gold");
    expect(200, "POST", PATH, bearer(text, "x-tenant: not a name\r\n"), SAY, "\"hi\"");
    assert_true(fake_engine_seen().weight == 7);
    assert_string_equal(fake_engine_seen().share_group, "friends");
    char header[200];
    snprintf(header, sizeof header, "x-api-key: %s\r\n", text);
    expect(200, "POST", PATH, header, SAY, "\"hi\"");
    expect(200, "POST", PATH, bearer("unused", header), SAY, "\"hi\"");
    expect(200, "GET", "/livez", "", NULL, "ok");
    expect(200, "GET", "/metrics", "", NULL, "autoglm_keys 2\n");
}

/* Bodies without what differs from request to request. */
static char *refusal(const char *headers)
{
    char *reply = ask("POST", PATH, headers, SAY), *body = body_of(reply), *id = strstr(body, "\"request_id\"");
    assert_int_equal(status_of(reply), 401);
    assert_non_null(strcasestr(reply, "www-authenticate: Bearer"));
    assert_non_null(id);
    *id = 0;
    free(reply);
    return body;
}

static void nobody_is_told_whether_a_key_is_there(void **state)
{
    (void)state;
    char gone[AG_KEY_TEXT_BYTES + 1], late[AG_KEY_TEXT_BYTES + 1], wrong[AG_KEY_TEXT_BYTES + 1];
    ag_key a = {0}, b = {.expires_s = 1}, c = {0};
    store_key(db, "gold", &a, gone);
    assert_int_equal(ag_keys_db_revoke(db, a.id, NULL), AG_OK);
    store_key(db, "gold", &b, late);
    make(&c, "gold");
    memcpy(wrong, text, sizeof wrong);
    wrong[AG_KEY_TEXT_BYTES - 1] ^= 1;
    char *first = refusal(bearer("never-seen", ""));
    const char *const others[] = {gone, late, wrong, "ag-000000000000-0123456789012345678901234567890123456789012"};
    for (size_t i = 0; i < AG_ARRAY_LEN(others); i++) {
        char *other = refusal(bearer(others[i], ""));
        assert_string_equal(other, first);
        free(other);
    }
    free(first);
    free(refusal(""));
    free(refusal("Authorization: Basic abc\r\n"));
    assert_int_equal(ag_metric_get(metrics, AG_M_KEYS_CHECKED, AG_KEY_REVOKED), 1);
    assert_int_equal(ag_metric_get(metrics, AG_M_KEYS_CHECKED, AG_KEY_EXPIRED), 1);
    assert_int_equal(ag_metric_get(metrics, AG_M_KEYS_CHECKED, AG_KEY_WRONG), 1);
    assert_int_equal(ag_metric_get(metrics, AG_M_KEYS_CHECKED, AG_KEY_MISSING), 1);
}

static void a_key_may_what_it_may(void **state)
{
    (void)state;
    ag_key a = {.band_min = 2, .models = "fake"}, b = {.models = "other,more"}, c = {.roles = AG_ROLE_ADMIN};
    make(&a, "gold");
    expect(200, "POST", PATH, bearer(text, ""), SAY, "\"hi\"");
    expect(403, "POST", PATH, bearer(text, ""), "{\"prompt\":\"say:hi\",\"priority\":1}",
           "this key may ask for here: 2 to 3");
    expect(403, "POST", PATH, bearer(text, "x-request-priority: 0\r\n"), SAY, "\"priority\"");
    expect(200, "GET", "/v1/models", bearer(text, ""), NULL, "\"fake\"");
    make(&b, "gold");
    expect(403, "POST", PATH, bearer(text, ""), SAY, "may not use the model 'fake'");
    expect(403, "POST", PATH, bearer(text, ""), "{\"prompt\":\"say:hi\",\"model\":\"fake\"}", "\"model\"");
    expect(404, "GET", "/v1/models/fake", bearer(text, ""), NULL, "model_not_found");
    char *reply = ask("GET", "/v1/models", bearer(text, ""), NULL);
    assert_null(strstr(reply, "\"fake\""));
    free(reply);
    ag_key d = {.models = "x,best"};
    make(&d, "gold");
    expect(200, "POST", PATH, bearer(text, ""), SAY, "\"hi\""); /* an alias of it is as good as its name */
    expect(200, "GET", "/v1/models", bearer(text, ""), NULL, "\"fake\"");
    make(&c, "gold");
    expect(403, "POST", PATH, bearer(text, ""), SAY, "not the role 'inference'");
}

static void a_band_that_is_not_allowed_is_not_the_default(void **state)
{
    (void)state;
    ag_key a = {.band_min = 3};
    make(&a, "gold");
    expect(200, "POST", PATH, bearer(text, ""), SAY, "\"hi\"");
    assert_int_equal(fake_engine_seen().band, 3);
}

/* how: what x-cache says; "" where it is not there. */
static void check_told(const char *more, const char *fields, const char *how)
{
    char body[200], want[40];
    snprintf(body, sizeof body, "{\"prompt\":\"say:hi\",\"max_tokens\":9%s}", fields);
    snprintf(want, sizeof want, "x-cache: %s", how);
    char *reply = ask("POST", PATH, bearer(text, more), body);
    if (status_of(reply) != 200 || (strstr(reply, *how ? want : "x-cache") != NULL) != (*how != 0))
        fail_msg("wanted '%s' of %s: %s", how, fields, reply);
    free(reply);
}

static void a_key_says_what_is_cached_where_nobody_else_does(void **state)
{
    open_keys(state);
    ag_gateway_conf conf = AG_GATEWAY_CONF_DEFAULT;
    conf.cache = (ag_caching_conf){.bytes_max = 8u << 20, .ttl_s = 3600};
    serve_keys(conf);
    ag_key none = {0}, use = {.cache = "use"}, off = {.cache = "off"};
    make(&none, "gold");
    check_told("", "", "");
    check_told("", ",\"seed\":1", "miss");
    make(&use, "gold");
    check_told("", ",\"seed\":1", "hit"); /* what a key says is no part of what is kept under */
    check_told("", "", "miss");
    check_told("", ",\"cache\":{\"ttl_s\":60}", "hit");
    check_told("", ",\"cache\":{\"mode\":\"off\"}", "");
    check_told("Cache-Control: no-store\r\n", "", "");
    check_told("Cache-Control: no-cache\r\n", "", "miss");
    make(&off, "gold");
    check_told("", "", "");
    check_told("", ",\"seed\":1", "");
    check_told("", ",\"cache\":{\"ttl_s\":60},\"seed\":1", "");
    check_told("", ",\"cache\":{\"mode\":\"use\"},\"seed\":1", "hit");
    check_told("Cache-Control: no-cache\r\n", ",\"seed\":1", "miss");
    teardown_keys(state);
}

static void keys_that_cannot_be_checked_let_nobody_in(void **state)
{
    (void)state;
    ag_key a = {0};
    char away[200];
    make(&a, "gold");
    snprintf(away, sizeof away, "%s.away", store_path);
    assert_int_equal(rename(store_path, away), 0);
    wait_status(text, 503);
    expect(503, "POST", PATH, bearer(text, ""), SAY, "retry-after: 1");
    expect(503, "POST", PATH, bearer("never-seen", ""), SAY, "keys_unavailable");
    expect(401, "POST", PATH, "", SAY, "invalid_api_key");
    char *reply = ask("POST", PATH, bearer(text, ""), SAY);
    assert_null(strstr(reply, store_folder)); /* callers do not learn where it lies */
    free(reply);
    assert_int_equal(rename(away, store_path), 0);
    wait_status(text, 200);
}

static void the_static_key_stays_one(void **state)
{
    open_keys(state);
    ag_gateway_conf conf = AG_GATEWAY_CONF_DEFAULT;
    conf.api_key = "sesame";
    serve_keys(conf);
    ag_key a = {0};
    make(&a, "gold");
    expect(200, "POST", PATH, bearer(text, ""), SAY, "\"hi\"");
    assert_string_equal(fake_engine_seen().tenant, "gold");
    expect(200, "POST", PATH, bearer("sesame", "x-tenant: gold\r\n"), SAY, "\"hi\"");
    assert_string_equal(fake_engine_seen().tenant, "default");
    expect(401, "POST", PATH, bearer("sesam", ""), SAY, "invalid_api_key");
    teardown_keys(state);
}

/* Tokens. */

static void write_set(const char *path, const issuer *i)
{
    ag_buf b;
    ag_buf_init(&b, 4096);
    ag_buf_addz(&b, "{\"keys\":[");
    issuer_add_jwk(i, "", &b);
    ag_buf_addz(&b, "]}");
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    assert_int_equal(fwrite(b.p, 1, b.n, f), b.n);
    fclose(f);
    ag_buf_fini(&b);
}

static const char *token_of(const issuer *i, const char *more)
{
    static char out[1200];
    char claims[400];
    ag_buf b;
    ag_buf_init(&b, 4096);
    snprintf(claims, sizeof claims, "{\"iss\":\"me\",\"aud\":\"you\",\"exp\":%llu,\"sub\":\"me\"%s}",
             (unsigned long long)(ag_wall_us() / 1000000 + 60), more);
    issuer_sign(i, AG_STR("{\"alg\":\"EdDSA\"}"), ag_str_of(claims), &b);
    assert_true(b.n < sizeof out);
    memcpy(out, b.p, b.n + 1);
    ag_buf_fini(&b);
    return out;
}

static void tokens_are_keys_for_a_while(void **state)
{
    store_setup(state);
    char path[200];
    ag_err err = {0};
    issuer mine = issuer_make("EdDSA", "k"), next = issuer_make("EdDSA", "k");
    snprintf(path, sizeof path, "%s/keys.json", store_folder);
    write_set(path, &mine);
    ag_gateway_conf conf = AG_GATEWAY_CONF_DEFAULT;
    conf.jwt_jwks = path;
    conf.jwt_issuer = "me";
    conf.jwt_audience = "you";
    conf.jwt_tenant_claim = "org";
    conf.jwt_roles_claim = "roles";
    serve(conf, true);
    expect(200, "POST", PATH, bearer(token_of(&mine, ",\"org\":\"gold\""), "x-tenant: other\r\n"), SAY, "\"hi\"");
    assert_string_equal(fake_engine_seen().tenant, "gold");
    expect(401, "POST", PATH, bearer(token_of(&mine, ""), ""), SAY, "This API key is not known here.");
    expect(401, "POST", PATH, bearer(token_of(&next, ",\"org\":\"gold\""), ""), SAY, "This API key is not known here.");
    expect(401, "POST", PATH, bearer("a.b.c", ""), SAY, "invalid_api_key");
    expect(401, "POST", PATH, bearer("abc", ""), SAY, "invalid_api_key");
    expect(403, "POST", PATH, bearer(token_of(&mine, ",\"org\":\"gold\",\"roles\":[]"), ""), SAY, "role 'inference'");
    expect(404, "GET", "/admin/v1/keys", bearer(token_of(&mine, ",\"org\":\"gold\",\"roles\":\"admin\""), ""), NULL,
           "--keys-db");
    assert_int_equal(ag_metric_get(metrics, AG_M_KEYS_CHECKED, AG_KEY_TOKEN), 3);

    write_set(path, &next); /* read again when asked to */
    expect(200, "POST", PATH, bearer(token_of(&mine, ",\"org\":\"gold\""), ""), SAY, "\"hi\"");
    assert_int_equal(ag_gateway_reload(gw, &conf, &err), AG_OK);
    expect(401, "POST", PATH, bearer(token_of(&mine, ",\"org\":\"gold\""), ""), SAY, "invalid_api_key");
    expect(200, "POST", PATH, bearer(token_of(&next, ",\"org\":\"gold\""), ""), SAY, "\"hi\"");
    assert_int_equal(truncate(path, 10), 0); /* and kept when it will not do */
    assert_int_equal(ag_gateway_reload(gw, &conf, &err), AG_E_USAGE);
    expect(200, "POST", PATH, bearer(token_of(&next, ",\"org\":\"gold\""), ""), SAY, "\"hi\"");
    conf.jwt_audience = "";
    ag_err_clear(&err);
    assert_int_equal(ag_gateway_reload(gw, &conf, &err), AG_E_USAGE);
    assert_non_null(strstr(err.text, "--jwt-audience"));
    EVP_PKEY_free(mine.key);
    EVP_PKEY_free(next.key);
    teardown(state);
    store_teardown(state);
}

static void tokens_keys_and_limits_go_together(void **state)
{
    open_keys(state);
    char path[200];
    issuer mine = issuer_make("EdDSA", "k");
    snprintf(path, sizeof path, "%s/keys.json", store_folder);
    write_set(path, &mine);
    assert_int_equal(ag_keys_db_limits_set(db, "tenant:gold", &(ag_limits){.requests_per_minute = 1}, NULL), AG_OK);
    ag_gateway_conf conf = AG_GATEWAY_CONF_DEFAULT;
    conf.jwt_jwks = path;
    conf.jwt_issuer = "me";
    conf.jwt_audience = "you";
    conf.jwt_tenant_claim = "org";
    conf.jwt_roles_claim = "roles";
    serve_keys(conf);
    ag_key a = {0};
    make(&a, "free");
    expect(200, "POST", PATH, bearer(text, ""), SAY, "\"hi\"");
    const char *token = token_of(&mine, ",\"org\":\"gold\"");
    expect(200, "POST", PATH, bearer(token, ""), SAY, "\"hi\"");
    expect(429, "POST", PATH, bearer(token, ""), SAY, "the tenant 'gold'");
    EVP_PKEY_free(mine.key);
    teardown_keys(state);
}

static void a_server_does_not_begin_without_its_keys(void **state)
{
    (void)state;
    ag_gateway *g = NULL;
    ag_err err = {0};
    ag_gateway_conf conf = AG_GATEWAY_CONF_DEFAULT;
    conf.keys_db = "/nowhere/keys.db";
    conf.host = "0.0.0.0"; /* which needs keys, and they are configured */
    conf.port = 0;
    assert_int_equal(ag_gateway_open(&g, &conf, NULL, NULL, &err), AG_E_KEYS);
    assert_non_null(strstr(err.text, "/nowhere/keys.db"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        WEIGHED(a_key_says_whose_request_it_is),
        WEIGHED(nobody_is_told_whether_a_key_is_there),
        WEIGHED(a_key_may_what_it_may),
        WEIGHED(a_band_that_is_not_allowed_is_not_the_default),
        cmocka_unit_test(a_key_says_what_is_cached_where_nobody_else_does),
        WEIGHED(keys_that_cannot_be_checked_let_nobody_in),
        cmocka_unit_test(the_static_key_stays_one),
        cmocka_unit_test(tokens_are_keys_for_a_while),
        cmocka_unit_test(tokens_keys_and_limits_go_together),
        cmocka_unit_test(a_server_does_not_begin_without_its_keys),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
