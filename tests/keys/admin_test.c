#include "keys/store.h"

#include <jansson.h>

#include "keys/admin.h"

static ag_keys_db *db;

static int setup(void **state)
{
    store_setup(state);
    db = store_open();
    return 0;
}

static int teardown(void **state)
{
    ag_keys_db_close(db);
    return store_teardown(state);
}

static json_t *ask(ag_keys_verb verb, const char *id, const char *body)
{
    ag_buf out;
    ag_err err = {0};
    ag_keys_ask q = {.verb = verb, .id = id, .body = ag_str_of(body)};
    ag_buf_init(&out, AG_KEYS_ANSWER_BYTES);
    if (ag_keys_admin(db, &q, &out, &err) != AG_OK) fail_msg("%s: %s", body, err.text);
    json_t *o = json_loadb(out.p, out.n, JSON_REJECT_DUPLICATES, NULL);
    if (o == NULL) fail_msg("%.*s", (int)out.n, out.p);
    ag_buf_fini(&out);
    return o;
}

static void refused(ag_keys_verb verb, const char *id, const char *body, int code, const char *param, const char *part)
{
    ag_buf out;
    ag_err err = {0};
    ag_keys_ask q = {.verb = verb, .id = id, .body = ag_str_of(body)};
    ag_buf_init(&out, AG_KEYS_ANSWER_BYTES);
    int rc = ag_keys_admin(db, &q, &out, &err);
    ag_buf_fini(&out);
    if (rc != code || err.code != code || strcmp(err.param, param) != 0 || strstr(err.text, part) == NULL)
        fail_msg("%s: %d '%s' %s", body, rc, err.param, err.text);
}

static const char *text_at(json_t *o, const char *name) { return json_string_value(json_object_get(o, name)); }

static void a_key_comes_with_its_text_once(void **state)
{
    (void)state;
    json_t *made = ask(
        AG_KEYS_CREATE, NULL,
        "{\"tenant\":\"gold\",\"share\":\"friends\",\"cache\":\"off\",\"name\":\"a \\\"b\\\"\","
        "\"roles\":[\"admin\",\"inference\"],\"models\":[\"m\",\"n\"],"
        "\"most_urgent_band\":2,\"weight\":1.5,\"expires_at\":4000000000,\"limits\":{\"burst\":3,\"concurrent\":0}}");
    assert_int_equal(strlen(text_at(made, "key")), AG_KEY_TEXT_BYTES);
    assert_string_equal(text_at(made, "name"), "a \"b\"");
    assert_string_equal(text_at(made, "share"), "friends");
    assert_string_equal(text_at(made, "cache"), "off");
    assert_int_equal(json_array_size(json_object_get(made, "roles")), 2);
    assert_int_equal(json_array_size(json_object_get(made, "models")), 2);
    assert_int_equal(json_integer_value(json_object_get(json_object_get(made, "limits"), "burst")), 3);
    assert_int_equal(json_object_size(json_object_get(made, "limits")), 1);
    json_t *got = ask(AG_KEYS_GET, text_at(made, "id"), ""), *list = ask(AG_KEYS_LIST, NULL, "");
    assert_null(json_object_get(got, "key"));
    assert_true(json_equal(json_array_get(json_object_get(list, "data"), 0), got));
    json_t *rotated = ask(AG_KEYS_ROTATE, text_at(made, "id"), "");
    assert_string_equal(text_at(rotated, "id"), text_at(made, "id"));
    assert_string_not_equal(text_at(rotated, "key"), text_at(made, "key"));
    json_t *revoked = ask(AG_KEYS_REVOKE, text_at(made, "id"), "");
    assert_true(json_is_integer(json_object_get(revoked, "revoked_at")));
    json_decref(made);
    json_decref(got);
    json_decref(list);
    json_decref(rotated);
    json_decref(revoked);
    made = ask(AG_KEYS_CREATE, NULL,
               "{\"tenant\":\"gold\",\"most_urgent_band\":1.0,\"models\":null,\"roles\":[\"inference\"]}");
    assert_true(json_is_null(json_object_get(made, "models")) && json_is_null(json_object_get(made, "weight")));
    assert_true(json_is_null(json_object_get(made, "share")) && json_is_null(json_object_get(made, "cache")));
    json_decref(made);
}

static void wrong_fields_are_named(void **state)
{
    (void)state;
    refused(AG_KEYS_CREATE, NULL, "{", AG_E_JSON, "", "not JSON");
    refused(AG_KEYS_CREATE, NULL, "[]", AG_E_JSON, "", "object");
    refused(AG_KEYS_CREATE, NULL, "{}", AG_E_PARAM_MISSING, "tenant", "whose");
    refused(AG_KEYS_CREATE, NULL, "{\"tenant\":\"a b\"}", AG_E_PARAM, "tenant", "without blanks");
    refused(AG_KEYS_CREATE, NULL, "{\"tenant\":\"a\",\"share\":\"b c\"}", AG_E_PARAM, "share", "without blanks");
    refused(AG_KEYS_CREATE, NULL, "{\"tenant\":\"a\",\"share\":[]}", AG_E_PARAM, "share", "printable");
    refused(AG_KEYS_CREATE, NULL, "{\"tenant\":\"a\",\"cache\":\"refresh\"}", AG_E_PARAM, "cache", "'use' or 'off'");
    refused(AG_KEYS_CREATE, NULL, "{\"tenant\":\"a\",\"cache\":\"us\"}", AG_E_PARAM, "cache", "'use' or 'off'");
    refused(AG_KEYS_CREATE, NULL, "{\"tenant\":\"a\",\"cache\":true}", AG_E_PARAM, "cache", "'use' or 'off'");
    refused(AG_KEYS_CREATE, NULL, "{\"tenant\":7}", AG_E_PARAM, "tenant", "printable");
    refused(AG_KEYS_CREATE, NULL, "{\"tenant\":\"a\",\"wieght\":1}", AG_E_PARAM, "", "did you mean 'weight'?");
    refused(AG_KEYS_CREATE, NULL, "{\"tenant\":\"a\",\"weight\":0}", AG_E_PARAM, "weight", "0.001 to 1000");
    refused(AG_KEYS_CREATE, NULL, "{\"tenant\":\"a\",\"roles\":[\"root\"]}", AG_E_PARAM, "roles", "admin");
    refused(AG_KEYS_CREATE, NULL, "{\"tenant\":\"a\",\"models\":[\"a,b\"]}", AG_E_PARAM, "models", "without commas");
    refused(AG_KEYS_CREATE, NULL, "{\"tenant\":\"a\",\"roles\":\"admin\"}", AG_E_PARAM, "roles", "array");
    refused(AG_KEYS_CREATE, NULL, "{\"tenant\":\"a\",\"models\":{}}", AG_E_PARAM, "models", "array");
    refused(AG_KEYS_CREATE, NULL, "{\"tenant\":\"a\",\"most_urgent_band\":4}", AG_E_PARAM, "most_urgent_band",
            "0 to 3");
    refused(AG_KEYS_CREATE, NULL, "{\"tenant\":\"a\",\"expires_at\":5}", AG_E_PARAM, "expires_at", "past");
    refused(AG_KEYS_CREATE, NULL, "{\"tenant\":\"a\",\"name\":\"x\\ny\"}", AG_E_PARAM, "name", "control");
    refused(AG_KEYS_CREATE, NULL, "{\"tenant\":\"a\",\"limits\":{\"bursts\":1}}", AG_E_PARAM, "limits",
            "did you mean 'burst'?");
    refused(AG_KEYS_CREATE, NULL, "{\"tenant\":\"a\",\"limits\":{\"burst\":-1}}", AG_E_PARAM, "burst", "whole number");
    refused(AG_KEYS_CREATE, NULL, "{\"tenant\":\"a\",\"name\":\"x\\u009by\"}", AG_E_PARAM, "name", "control");
    refused(AG_KEYS_GET, "nobody", "", AG_E_KEY_NOT_FOUND, "", "nobody");
    refused(AG_KEYS_ROTATE, "nobody", "{\"tenant\":\"a\"}", AG_E_PARAM, "", "leave it out");
    refused(AG_KEYS_ROTATE, "nobody", "", AG_E_KEY_NOT_FOUND, "", "nobody");
    refused(AG_KEYS_LIMITS_GET, "gold", "", AG_E_PARAM, "", "tenant:NAME");
    refused(AG_KEYS_LIMITS_SET, "tenant:gold", "{\"burst\":true}", AG_E_PARAM, "burst", "whole number");
}

static void limits_are_changed_one_by_one(void **state)
{
    (void)state;
    json_decref(ask(AG_KEYS_LIMITS_SET, "tenant:gold", "{\"burst\":5,\"concurrent\":2}"));
    json_t *l = ask(AG_KEYS_LIMITS_SET, "tenant:gold", "{\"burst\":null,\"requests_per_second\":9}");
    json_t *limits = json_object_get(l, "limits");
    assert_int_equal(json_object_size(limits), 2);
    assert_int_equal(json_integer_value(json_object_get(limits, "requests_per_second")), 9);
    json_t *list = ask(AG_KEYS_LIMITS_LIST, NULL, ""), *got = ask(AG_KEYS_LIMITS_GET, "tenant:gold", "");
    assert_true(json_equal(json_array_get(json_object_get(list, "data"), 0), l) && json_equal(got, l));
    json_decref(l);
    json_decref(list);
    json_decref(got);
}

static void usage_is_json_or_csv(void **state)
{
    (void)state;
    ag_usage_row rows[] = {
        {.key = "a", .tenant = "=t", .model = "m\"x", .day = "2026-11-29", .requests = 1, .output_tokens = 5}};
    assert_int_equal(ag_keys_db_usage_add(db, rows, 1, NULL), AG_OK);
    json_t *u = ask(AG_KEYS_USAGE, NULL, ""), *row = json_array_get(json_object_get(u, "data"), 0);
    assert_string_equal(text_at(row, "model"), "m\"x");
    assert_int_equal(json_integer_value(json_object_get(row, "output_tokens")), 5);
    json_decref(u);
    ag_buf out;
    ag_err err = {0};
    ag_buf_init(&out, AG_KEYS_ANSWER_BYTES);
    ag_keys_ask q = {.verb = AG_KEYS_USAGE, .csv = true, .filter = {.from = "2026-11-01"}};
    assert_int_equal(ag_keys_admin(db, &q, &out, &err), AG_OK);
    assert_true(ag_str_eqz(ag_buf_str(&out), "day,key,tenant,model,requests,prompt_tokens,output_tokens\r\n"
                                             "2026-11-29,\"a\",\"'=t\",\"m\"\"x\",1,0,5\r\n"));
    q.filter.from = "yesterday";
    assert_int_equal(ag_keys_admin(db, &q, &out, &err), AG_E_PARAM);
    assert_string_equal(err.param, "from");
    ag_buf_fini(&out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_key_comes_with_its_text_once, setup, teardown),
        cmocka_unit_test_setup_teardown(wrong_fields_are_named, setup, teardown),
        cmocka_unit_test_setup_teardown(limits_are_changed_one_by_one, setup, teardown),
        cmocka_unit_test_setup_teardown(usage_is_json_or_csv, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
