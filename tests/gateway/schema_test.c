#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/fault.h"
#include "gateway/dialects/openai.h"
#include "gateway/dialects/pb.h"
#include "gateway/dialects/schema.h"

static ag_err err;
static ag_buf b;

static int setup(void **state)
{
    (void)state;
    ag_buf_init(&b, 64u << 20);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    ag_buf_fini(&b);
    return 0;
}

static int to_json(const char *type, json_t **out)
{
    ag_err_clear(&err);
    *out = NULL;
    int rc = ag_schema_to_json(ag_schema_find(type), ag_buf_str(&b), out, &err);
    ag_buf_reset(&b);
    return rc;
}

static void expect(const char *type, const char *want)
{
    json_t *j;
    if (to_json(type, &j) != AG_OK) fail_msg("%s", err.text);
    char *have = json_dumps(j, JSON_COMPACT | JSON_ENCODE_ANY);
    assert_string_equal(have, want);
    free(have);
    json_decref(j);
}

static void refuse(const char *type, int code, const char *sentence)
{
    json_t *j;
    assert_int_equal(to_json(type, &j), code);
    assert_null(j);
    if (strstr(err.text, sentence) == NULL) fail_msg("'%s' is not in '%s'", sentence, err.text);
}

#define GENERATE "autoglm.v1.GenerateRequest"
#define CHAT "autoglm.v1.ChatRequest"

static void varints(void **state)
{
    (void)state;
    static const uint64_t numbers[] = {0, 1, 127, 128, 16383, 16384, UINT32_MAX, INT64_MAX, UINT64_MAX};
    for (size_t i = 0; i < AG_ARRAY_LEN(numbers); i++) {
        uint64_t x;
        ag_buf_reset(&b);
        ag_pb_put_varint(&b, numbers[i]);
        ag_str rest = ag_buf_str(&b);
        assert_true(ag_pb_varint(&rest, &x) && x == numbers[i] && rest.n == 0);
        for (size_t n = 0; n < b.n; n++) {
            rest = (ag_str){b.p, n};
            assert_false(ag_pb_varint(&rest, &x));
        }
    }
    ag_str over = AG_STR("\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02");
    ag_str longer = AG_STR("\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01");
    uint64_t x;
    assert_false(ag_pb_varint(&over, &x) || ag_pb_varint(&longer, &x));
    ag_pb_item item;
    static const ag_str bad[] = {{"\0", 1},
                                 {"\x0b", 1},
                                 {"\x0c", 1},
                                 {"\x0e\0", 2},
                                 {"\x0a\x02x", 3},
                                 {"\x0d\1\2\3", 4},
                                 {"\x09\1\2\3\4\5\6\7", 8},
                                 {"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", 11}};
    for (size_t i = 0; i < AG_ARRAY_LEN(bad); i++) {
        ag_str rest = bad[i];
        assert_int_equal(ag_pb_next(&rest, &item), -1);
    }
}

static void strings_are_utf8(void **state)
{
    (void)state;
    ag_buf_reset(&b);
    ag_pb_put_text(&b, 1, AG_STR("a\xC3\xA9\xff\xC3"));
    assert_true(ag_str_eqz(ag_pb_find(ag_buf_str(&b), 1), "a\xC3\xA9\xEF\xBF\xBD\xEF\xBF\xBD"));
    ag_buf_reset(&b);
    ag_pb_put_text(&b, 1, AG_STR(""));
    assert_int_equal(b.n, 0);
    ag_pb_put_string(&b, 1, AG_STR(""));
    assert_int_equal(b.n, 2);
    ag_buf_reset(&b);
}

static void fields_have_their_names(void **state)
{
    (void)state;
    expect(GENERATE, "{}");
    ag_pb_put_text(&b, 1, AG_STR("m"));
    ag_pb_put_text(&b, 2, AG_STR("one"));
    ag_pb_put_text(&b, 2, AG_STR("two"));
    ag_pb_put(&b, 4, 7);
    ag_pb_put(&b, 6, 5);
    ag_pb_put_float(&b, 7, 0.5f);
    ag_pb_put(&b, 9, (uint64_t)-1);
    ag_pb_put(&b, 15, (uint64_t)INT64_MIN);
    expect(GENERATE, "{\"model\":\"m\",\"prompt\":[\"one\",\"two\"],\"max_tokens\":7,\"ignore_eos\":true,\"temperature\":0.5,"
                     "\"top_k\":-1,\"seed\":-9223372036854775808}");
    ag_pb_put(&b, 4, 1); /* the last one counts */
    ag_pb_put(&b, 4, 2);
    expect(GENERATE, "{\"max_tokens\":2}");
    ag_pb_put(&b, 99, 3);
    ag_pb_put_text(&b, 536870911, AG_STR("x"));
    expect(GENERATE, "{\"field_99\":true,\"field_536870911\":true}");
}

static void arrays_and_maps(void **state)
{
    (void)state;
    size_t at = b.n;
    ag_pb_put_varint(&b, 1);
    ag_pb_put_varint(&b, 300);
    ag_pb_put_varint(&b, (uint64_t)-5);
    ag_pb_wrap(&b, at, 3); /* packed */
    ag_pb_put(&b, 3, 4);   /* and not */
    at = b.n;
    ag_pb_put(&b, 1, 12);
    ag_pb_put_float(&b, 2, -2);
    ag_pb_wrap(&b, at, 16);
    at = b.n;
    ag_pb_put(&b, 1, (uint64_t)-3);
    ag_pb_wrap(&b, at, 16);
    ag_pb_wrap(&b, b.n, 16);
    expect(GENERATE, "{\"prompt_tokens\":[1,300,-5,4],\"logit_bias\":{\"12\":-2.0,\"-3\":0,\"0\":0}}");
    at = b.n;
    ag_pb_put_varint(&b, 1);
    ag_buf_addc(&b, (char)0x80);
    ag_pb_wrap(&b, at, 3);
    refuse(GENERATE, AG_E_PROTOBUF, "'prompt_tokens'");
}

static void messages_and_json(void **state)
{
    (void)state;
    size_t at = b.n;
    ag_pb_put_text(&b, 1, AG_STR("user"));
    ag_pb_put_text(&b, 2, AG_STR("hi"));
    ag_pb_wrap(&b, at, 2);
    ag_pb_wrap(&b, b.n, 2);
    ag_pb_put_text(&b, 5, AG_STR("{\"type\": \"function\"}"));
    at = b.n;
    size_t function = b.n;
    ag_pb_put_text(&b, 1, AG_STR("f"));
    ag_pb_put_text(&b, 3, AG_STR("{\"a\": [1, 2.5]}"));
    ag_pb_wrap(&b, function, 2);
    ag_pb_wrap(&b, at, 3);
    expect(CHAT, "{\"messages\":[{\"role\":\"user\",\"content\":\"hi\"},{}],\"tool_choice\":{\"type\":\"function\"},"
                 "\"tools\":[{\"function\":{\"name\":\"f\",\"parameters\":{\"a\":[1,2.5]}}}]}");
    ag_pb_put_text(&b, 5, AG_STR("{no"));
    refuse(CHAT, AG_E_JSON, "'tool_choice_json' must be JSON.");
}

static void what_is_wrong_is_named(void **state)
{
    (void)state;
    ag_pb_put_bytes(&b, 1, AG_STR("\xff"));
    refuse(GENERATE, AG_E_UTF8, "'model' is not UTF-8");
    ag_pb_put(&b, 1, 5);
    refuse(GENERATE, AG_E_PROTOBUF, "'model' does not have the type");
    ag_pb_put_text(&b, 4, AG_STR("x"));
    refuse(GENERATE, AG_E_PROTOBUF, "'max_tokens' does not have the type");
    ag_pb_put_float(&b, 7, 1.0f / 0.0f);
    refuse(GENERATE, AG_E_PARAM, "'temperature' must be a number");
    ag_pb_put_text(&b, 2, AG_STR("whole"));
    b.n--;
    refuse(GENERATE, AG_E_PROTOBUF, "no valid autoglm.v1.GenerateRequest");
    size_t at = b.n;
    for (uint32_t i = 0; i <= 1u << 20; i++) ag_buf_addc(&b, 1);
    ag_pb_wrap(&b, at, 3);
    refuse(GENERATE, AG_E_LIMIT, "more than 1048576 values");
}

static void no_memory(void **state)
{
    (void)state;
    bool fired = true;
    ag_openai_init();
    for (uint32_t n = 1; fired; n++) {
        json_t *j;
        size_t at = b.n;
        ag_pb_put_text(&b, 1, AG_STR("user"));
        ag_pb_wrap(&b, at, 2);
        at = b.n;
        ag_pb_put(&b, 1, 12);
        ag_pb_put_float(&b, 2, -2);
        ag_pb_wrap(&b, at, 21);
        ag_pb_put(&b, 24, 4);
        ag_pb_put(&b, 99, 4);
        ag_pb_put_text(&b, 5, AG_STR("{}"));
        ag_fault_arm(AG_FAULT_ALLOC, n);
        int rc = to_json(CHAT, &j);
        fired = ag_fault_disarm(AG_FAULT_ALLOC);
        assert_int_equal(rc, fired ? AG_E_NOMEM : AG_OK);
        json_decref(j);
    }
}

static void reflection(void **state)
{
    (void)state;
    const ag_schema_file *files;
    static const char *const declared[] = {
        "autoglm.v1.Inference", "autoglm.v1.Inference.Chat", "autoglm.v1.GenerateRequest",
        "autoglm.v1.GenerateRequest.seed",
        "autoglm.v1.GenerateRequest.LogitBiasEntry", "inference.ModelInferRequest.InferInputTensor.name",
        "grpc.health.v1.HealthCheckResponse.ServingStatus", "grpc.health.v1.HealthCheckResponse.ServingStatus.SERVING",
        "grpc.reflection.v1alpha.ServerReflection"};
    static const char *const unknown[] = {
        "", "autoglm", "autoglm.v1", "autoglm.v1.", "autoglm.v1.Inference.", "autoglm.v1.Inference.Nope",
        "autoglm.v1.Inferenc", "autoglm.v1.InferenceX", "autoglm.v1.Inference.Chat.x", ".autoglm.v1.Inference"};
    assert_int_equal(ag_schema_files(&files), 6);
    for (uint32_t i = 0; i < 6; i++) assert_ptr_equal(ag_schema_file_named(files[i].name), &files[i]);
    assert_null(ag_schema_file_named(AG_STR("nope.proto")));
    for (size_t i = 0; i < AG_ARRAY_LEN(declared); i++)
        if (ag_schema_file_declaring(ag_str_of(declared[i])) == NULL) fail_msg("%s", declared[i]);
    for (size_t i = 0; i < AG_ARRAY_LEN(unknown); i++)
        if (ag_schema_file_declaring(ag_str_of(unknown[i])) != NULL) fail_msg("%s", unknown[i]);
    assert_true(ag_str_eqz(ag_schema_file_declaring(AG_STR("autoglm.v1.Model"))->name, "autoglm/v1/inference.proto"));
    char name[128];
    uint32_t n = 0;
    while (ag_schema_service(n, name)) n++;
    assert_int_equal(n, 5);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(varints), cmocka_unit_test(strings_are_utf8), cmocka_unit_test(fields_have_their_names),
        cmocka_unit_test(arrays_and_maps), cmocka_unit_test(messages_and_json),
        cmocka_unit_test(what_is_wrong_is_named),
        cmocka_unit_test(no_memory), cmocka_unit_test(reflection)};
    return cmocka_run_group_tests(tests, setup, teardown);
}
