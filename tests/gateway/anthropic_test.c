#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/fault.h"
#include "base/mem.h"
#include "gateway/dialects/anthropic.h"
#include "gateway/dialects/openai.h"

#define M AG_REQUEST_MESSAGES
#define N AG_REQUEST_COUNT
#define MSG "\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]"
#define USER(content) "{\"max_tokens\":5,\"messages\":[{\"role\":\"user\",\"content\":" content "}]}"
#define BOT(content) \
    "{\"max_tokens\":5,\"messages\":[{\"role\":\"user\",\"content\":\"a\"},{\"role\":\"assistant\",\"content\":" content "}]}"

static int parse(ag_request *r, ag_request_kind kind, const char *body, ag_err *err)
{
    ag_err_clear(err);
    ag_request_init(r, kind);
    return ag_anthropic_parse(r, body, strlen(body), err);
}

static void parse_ok(ag_request *r, ag_request_kind kind, const char *body)
{
    ag_err err = {0};
    if (parse(r, kind, body, &err) != AG_OK) fail_msg("%s: %s", body, err.text);
}

/* What the template gets. */
static void becomes(const char *body, const char *messages, const char *prefill)
{
    ag_request r;
    parse_ok(&r, M, body);
    json_t *want = json_loads(messages, 0, NULL), *have = json_object_get(r.vars, "messages");
    assert_non_null(want);
    if (!json_equal(want, have)) fail_msg("%s\n  becomes %s", body, json_dumps(have, JSON_COMPACT));
    assert_true(ag_str_eqz(r.prefill, prefill));
    json_decref(want);
    ag_request_fini(&r);
}

static void conversations_become_what_templates_take(void **state)
{
    (void)state;
    becomes("{\"max_tokens\":5,\"system\":\"s\"," MSG "}",
            "[{\"role\":\"system\",\"content\":\"s\"},{\"role\":\"user\",\"content\":\"hi\"}]", "");
    becomes("{\"max_tokens\":5,\"system\":[{\"type\":\"text\",\"text\":\"a\",\"cache_control\":{\"type\":\"ephemeral\"}},"
            "{\"type\":\"text\",\"text\":\"b\"}]," MSG "}",
            "[{\"role\":\"system\",\"content\":\"a\\nb\"},{\"role\":\"user\",\"content\":\"hi\"}]", "");
    becomes("{\"max_tokens\":5,\"system\":\"\"," MSG "}", "[{\"role\":\"user\",\"content\":\"hi\"}]", "");
    becomes(USER("[{\"type\":\"text\",\"text\":\"x\"},{\"type\":\"text\",\"text\":\"y\"}]"),
            "[{\"role\":\"user\",\"content\":\"x\\ny\"}]", "");
    becomes(USER("[]"), "[{\"role\":\"user\",\"content\":\"\"}]", "");
    becomes("{\"max_tokens\":5,\"messages\":[{\"role\":\"user\",\"content\":\"a\"},{\"role\":\"user\",\"content\":\"b\"},"
            "{\"role\":\"assistant\",\"content\":\"c\"},{\"role\":\"user\",\"content\":\"d\"}]}",
            "[{\"role\":\"user\",\"content\":\"a\\n\\nb\"},{\"role\":\"assistant\",\"content\":\"c\"},"
            "{\"role\":\"user\",\"content\":\"d\"}]",
            "");
    becomes("{\"max_tokens\":5,\"messages\":[{\"role\":\"user\",\"content\":\"a\"},{\"role\":\"system\",\"content\":\"b\"},"
            "{\"role\":\"user\",\"content\":\"c\"}]}",
            "[{\"role\":\"user\",\"content\":\"a\"},{\"role\":\"system\",\"content\":\"b\"},"
            "{\"role\":\"user\",\"content\":\"c\"}]",
            "");
    becomes(BOT("\"It is\""), "[{\"role\":\"user\",\"content\":\"a\"}]", "It is");
    becomes("{\"max_tokens\":5,\"messages\":[{\"role\":\"user\",\"content\":\"a\"},{\"role\":\"assistant\",\"content\":["
            "{\"type\":\"thinking\",\"thinking\":\"hm\",\"signature\":\"s\"},{\"type\":\"redacted_thinking\",\"data\":\"x\"},"
            "{\"type\":\"text\",\"text\":\"so\"},{\"type\":\"tool_use\",\"id\":\"t1\",\"name\":\"f\",\"input\":{\"x\":1}}]},"
            "{\"role\":\"user\",\"content\":[{\"type\":\"tool_result\",\"tool_use_id\":\"t1\",\"content\":[{\"type\":\"text\","
            "\"text\":\"42\"}]},{\"type\":\"tool_result\",\"tool_use_id\":\"t2\"},{\"type\":\"text\",\"text\":\"and?\"}]}]}",
            "[{\"role\":\"user\",\"content\":\"a\"},{\"role\":\"assistant\",\"content\":\"so\",\"reasoning_content\":\"hm\","
            "\"tool_calls\":[{\"id\":\"t1\",\"type\":\"function\",\"function\":{\"name\":\"f\",\"arguments\":{\"x\":1}}}]},"
            "{\"role\":\"tool\",\"content\":\"42\",\"tool_call_id\":\"t1\"},{\"role\":\"tool\",\"content\":\"\","
            "\"tool_call_id\":\"t2\"},{\"role\":\"user\",\"content\":\"and?\"}]",
            "");
    becomes("{\"max_tokens\":5,\"messages\":[{\"role\":\"user\",\"content\":\"a\"},{\"role\":\"assistant\",\"content\":["
            "{\"type\":\"tool_use\",\"id\":\"t1\",\"name\":\"f\",\"input\":{}}]},"
            "{\"role\":\"user\",\"content\":[{\"type\":\"tool_result\",\"tool_use_id\":\"t1\",\"content\":\"r\"}]}]}",
            "[{\"role\":\"user\",\"content\":\"a\"},{\"role\":\"assistant\",\"content\":\"\","
            "\"tool_calls\":[{\"id\":\"t1\",\"type\":\"function\",\"function\":{\"name\":\"f\",\"arguments\":{}}}]},"
            "{\"role\":\"tool\",\"content\":\"r\",\"tool_call_id\":\"t1\"}]",
            "");
}

static void fields_arrive(void **state)
{
    (void)state;
    ag_request r;
    parse_ok(&r, M,
             "{\"model\":\"m\",\"max_tokens\":7,\"temperature\":0.5,\"top_p\":0.9,\"top_k\":3,\"stream\":true,"
             "\"stop_sequences\":[\"a\",\"b\"],\"metadata\":{\"user_id\":\"u\"},\"thinking\":{\"type\":\"disabled\"},"
             "\"service_tier\":\"auto\",\"priority\":1," MSG "}");
    assert_true(ag_str_eqz(r.model, "m") && r.max_tokens == 7 && r.stream && r.n_stops == 2 && r.priority == 1);
    assert_true(r.sampling.temperature == 0.5f && r.sampling.top_p == 0.9f && r.sampling.top_k == 3);
    assert_true(json_is_false(json_object_get(r.vars, "enable_thinking")));
    assert_true(json_is_true(json_object_get(r.vars, "add_generation_prompt")));
    assert_string_equal(r.ignored, "service_tier");
    ag_request_fini(&r);
    parse_ok(&r, M,
             "{\"max_tokens\":7,\"tools\":[{\"name\":\"f\",\"description\":\"d\",\"input_schema\":{\"type\":\"object\"}},"
             "{\"type\":\"custom\",\"name\":\"g\",\"input_schema\":{}}],\"tool_choice\":{\"type\":\"auto\","
             "\"disable_parallel_tool_use\":true}," MSG "}");
    json_t *want =
        json_loads("[{\"type\":\"function\",\"function\":{\"name\":\"f\",\"description\":\"d\",\"parameters\":{"
                   "\"type\":\"object\"}}},{\"type\":\"function\",\"function\":{\"name\":\"g\",\"parameters\":{}}}]",
                   0, NULL);
    assert_true(json_equal(want, r.tools) && json_equal(want, json_object_get(r.vars, "tools")) && !r.parallel_calls);
    json_decref(want);
    ag_request_fini(&r);
    parse_ok(&r, M, "{\"max_tokens\":7,\"tools\":[{\"name\":\"f\",\"input_schema\":{}}],\"tool_choice\":{\"type\":\"none\"}," MSG "}");
    assert_true(r.tools == NULL && json_is_null(json_object_get(r.vars, "tools")));
    ag_request_fini(&r);
    parse_ok(&r, N, "{\"model\":\"m\",\"thinking\":{\"type\":\"enabled\",\"budget_tokens\":9}," MSG "}");
    assert_true(json_is_true(json_object_get(r.vars, "enable_thinking")));
    ag_request_fini(&r);
}

static const struct bad_case {
    ag_request_kind kind;
    const char *body;
    int code;
    const char *param, *part;
} bad[] = {
    {M, "", AG_E_JSON, "", "empty"},
    {M, "{\"max_tokens\":5}", AG_E_PARAM_MISSING, "messages", "missing"},
    {N, "{\"model\":\"m\"}", AG_E_PARAM_MISSING, "messages", "missing"},
    {M, "{" MSG "}", AG_E_PARAM_MISSING, "max_tokens", "missing"},
    {M, "{\"max_tokens\":0," MSG "}", AG_E_PARAM, "max_tokens", "between 1"},
    {M, "{\"max_tokens\":5,\"messages\":{}}", AG_E_PARAM, "messages", "an array"},
    {M, "{\"max_tokens\":5,\"messages\":[]}", AG_E_PARAM, "messages", "empty"},
    {M, "{\"max_tokens\":5,\"messages\":[5]}", AG_E_PARAM, "messages[0]", "an object"},
    {M, "{\"max_tokens\":5,\"messages\":[{\"content\":\"x\"}]}", AG_E_PARAM_MISSING, "messages[0]", "\"user\" or"},
    {M, "{\"max_tokens\":5,\"messages\":[{\"role\":\"tool\",\"content\":\"x\"}]}", AG_E_PARAM, "messages[0]",
     "\"user\" or"},
    {M, "{\"max_tokens\":5,\"messages\":[{\"role\":\"user\"}]}", AG_E_PARAM_MISSING, "messages[0]", "content"},
    {M, "{\"max_tokens\":5,\"messages\":[{\"role\":\"assistant\",\"content\":\"x\"}]}", AG_E_PARAM, "messages",
     "user's"},
    {M, USER("5"), AG_E_PARAM, "messages[0]", "content"},
    {M, USER("[5]"), AG_E_PARAM, "messages[0].content[0]", "an object"},
    {M, USER("[{}]"), AG_E_PARAM, "messages[0].content[0]", "'type'"},
    {M, USER("[{\"type\":\"text\"}]"), AG_E_PARAM, "messages[0].content[0]", "'text'"},
    {M, USER("[{\"type\":\"image\"}]"), AG_E_UNSUPPORTED, "messages[0].content[0]", "\"image\""},
    {M, USER("[{\"type\":\"tool_use\"}]"), AG_E_UNSUPPORTED, "messages[0].content[0]", "tool_use"},
    {M, USER("[{\"type\":\"thinking\",\"thinking\":\"\"}]"), AG_E_UNSUPPORTED, "messages[0].content[0]", "thinking"},
    {M, USER("[{\"type\":\"tool_result\"}]"), AG_E_PARAM, "messages[0].content[0]", "'tool_use_id'"},
    {M, USER("[{\"type\":\"tool_result\",\"tool_use_id\":\"1\",\"content\":5}]"), AG_E_PARAM,
     "messages[0].content[0].content", "a number"},
    {M, USER("[{\"type\":\"tool_result\",\"tool_use_id\":\"1\",\"content\":[{\"type\":\"image\"}]}]"), AG_E_UNSUPPORTED,
     "messages[0].content[0].content[0]", "image"},
    {M, BOT("[{\"type\":\"tool_result\"}]"), AG_E_UNSUPPORTED, "messages[1].content[0]", "tool_result"},
    {M, BOT("[{\"type\":\"tool_use\",\"name\":\"f\"}]"), AG_E_PARAM, "messages[1].content[0]", "'id'"},
    {M, BOT("[{\"type\":\"tool_use\",\"id\":\"1\"}]"), AG_E_PARAM, "messages[1].content[0]", "'name'"},
    {M, BOT("[{\"type\":\"tool_use\",\"id\":\"1\",\"name\":\"f\",\"input\":[]}]"), AG_E_PARAM, "messages[1].content[0]",
     "'input'"},
    {M, BOT("[{\"type\":\"thinking\"}]"), AG_E_PARAM, "messages[1].content[0]", "'thinking'"},
    {M, "{\"max_tokens\":5,\"system\":5," MSG "}", AG_E_PARAM, "system", "a number"},
    {M, "{\"max_tokens\":5,\"system\":[{\"type\":\"x\"}]," MSG "}", AG_E_UNSUPPORTED, "system[0]", "\"x\""},
    {M, "{\"max_tokens\":5,\"stop_sequences\":\"x\"," MSG "}", AG_E_PARAM, "stop_sequences", "an array"},
    {M, "{\"max_tokens\":5,\"stop_sequences\":[\"\"]," MSG "}", AG_E_PARAM, "stop_sequences", "empty"},
    {M, "{\"max_tokens\":5,\"thinking\":5," MSG "}", AG_E_PARAM, "thinking", "an object"},
    {M, "{\"max_tokens\":5,\"thinking\":{\"type\":\"x\"}," MSG "}", AG_E_PARAM, "thinking", "\"disabled\""},
    {M, "{\"max_tokens\":5,\"tools\":5," MSG "}", AG_E_PARAM, "tools", "an array"},
    {M, "{\"max_tokens\":5,\"tools\":[5]," MSG "}", AG_E_PARAM, "tools[0]", "an object"},
    {M, "{\"max_tokens\":5,\"tools\":[{}]," MSG "}", AG_E_PARAM, "tools[0]", "'name'"},
    {M, "{\"max_tokens\":5,\"tools\":[{\"name\":\"f\"}]," MSG "}", AG_E_PARAM, "tools[0]", "'input_schema'"},
    {M, "{\"max_tokens\":5,\"tools\":[{\"type\":\"bash_20250124\",\"name\":\"f\"}]," MSG "}", AG_E_UNSUPPORTED,
     "tools[0]", "bash_"},
    {M, "{\"max_tokens\":5,\"tool_choice\":\"auto\"," MSG "}", AG_E_PARAM, "tool_choice", "an object"},
    {M, "{\"max_tokens\":5,\"tool_choice\":{\"type\":\"x\"}," MSG "}", AG_E_PARAM, "tool_choice", "must be"},
    {M, "{\"max_tokens\":5,\"tool_choice\":{\"type\":\"any\"}," MSG "}", AG_E_PARAM, "tool_choice", "no 'tools'"},
    {M, "{\"max_tokens\":5,\"tool_choice\":{\"type\":\"tool\"}," MSG "}", AG_E_PARAM, "tool_choice", "must name"},
    {M,
     "{\"max_tokens\":1,\"tools\":[{\"name\":\"f\",\"input_schema\":{}}],\"tool_choice\":{\"type\":\"tool\",\"name\":\"f\"}," MSG
     "}",
     AG_E_PARAM, "max_tokens", "at least 2"},
    {M, "{\"max_tokens\":5,\"tool_choice\":{\"type\":\"auto\",\"disable_parallel_tool_use\":1}," MSG "}", AG_E_PARAM,
     "tool_choice.disable_parallel_tool_use", "a boolean"},
    {M, "{\"max_tokens\":5,\"temperature\":11," MSG "}", AG_E_PARAM, "temperature", "between 0"},
};

static void every_mistake_gets_its_sentence(void **state)
{
    (void)state;
    for (size_t i = 0; i < AG_ARRAY_LEN(bad); i++) {
        ag_request r;
        ag_err err = {0};
        int rc = parse(&r, bad[i].kind, bad[i].body, &err);
        ag_request_fini(&r);
        if (rc != bad[i].code || strcmp(err.param, bad[i].param) != 0 || strstr(err.text, bad[i].part) == NULL)
            fail_msg("%s\n  gives %d, param '%s': %s", bad[i].body, rc, err.param, err.text);
    }
}

#define TEXT(z) (&(ag_part){.kind = AG_PART_TEXT, .text = {z, sizeof(z) - 1}})
static const ag_reply reply = {.kind = M, .id = {"msg_1", 5}, .created = 1700000000, .model = {"m", 1}};

static void expect(ag_buf *b, const char *want)
{
    ag_buf_zterm(b);
    assert_false(b->failed);
    assert_string_equal(b->p, want);
    ag_buf_reset(b);
}

static void answers_read_as_documented(void **state)
{
    (void)state;
    const ag_dialect *d = &ag_anthropic;
    ag_buf b;
    ag_buf_init(&b, 1 << 16);
    d->begin(&b, &reply);
    d->choice(&b, &reply, 0, TEXT("a\"b"), 1, NULL, &(ag_reply_end){.reason = AG_END_STOP});
    d->end(&b, &reply, &(ag_usage){10, 3, 4});
    expect(&b, "{\"id\":\"msg_1\",\"type\":\"message\",\"role\":\"assistant\",\"model\":\"m\",\"content\":[{\"type\":\"text\","
               "\"text\":\"a\\\"b\"}],\"stop_reason\":\"end_turn\",\"stop_sequence\":null,\"usage\":{\"input_tokens\":6,"
               "\"cache_creation_input_tokens\":0,\"cache_read_input_tokens\":4,\"output_tokens\":3}}");
    d->begin(&b, &reply);
    d->choice(&b, &reply, 0, NULL, 0, NULL, &(ag_reply_end){.reason = AG_END_STOP, .stop = {"X\n", 2}});
    d->end(&b, &reply, &(ag_usage){0});
    ag_buf_zterm(&b);
    assert_non_null(strstr(b.p, "\"content\":[],\"stop_reason\":\"stop_sequence\",\"stop_sequence\":\"X\\n\""));
    ag_buf_fini(&b);
}

static void events_read_as_documented(void **state)
{
    (void)state;
    const ag_dialect *d = &ag_anthropic;
    ag_place at = {0};
    ag_usage u = {10, 3, 4};
    ag_buf b;
    ag_buf_init(&b, 1 << 16);
    d->open(&b, &reply, &at, &u);
    expect(&b, "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"id\":\"msg_1\",\"type\":\"message\","
               "\"role\":\"assistant\",\"model\":\"m\",\"content\":[],\"stop_reason\":null,\"stop_sequence\":null,\"usage\":{"
               "\"input_tokens\":6,\"cache_creation_input_tokens\":0,\"cache_read_input_tokens\":4,\"output_tokens\":0}}}\n\n"
               "event: ping\ndata: {\"type\":\"ping\"}\n\n");
    d->chunk(&b, &reply, &at, NULL, NULL, NULL, &u);
    expect(&b, "");
    d->chunk(&b, &reply, &at, TEXT("hi"), NULL, NULL, &u);
    expect(&b, "event: content_block_start\ndata: {\"type\":\"content_block_start\",\"index\":0,\"content_block\":{\"type\":"
               "\"text\",\"text\":\"\"}}\n\n"
               "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":"
               "\"text_delta\",\"text\":\"hi\"}}\n\n");
    d->chunk(&b, &reply, &at, NULL, NULL, &(ag_reply_end){.reason = AG_END_LENGTH}, &u);
    expect(&b, "event: content_block_stop\ndata: {\"type\":\"content_block_stop\",\"index\":0}\n\n"
               "event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"max_tokens\","
               "\"stop_sequence\":null},\"usage\":{\"input_tokens\":6,\"cache_creation_input_tokens\":0,"
               "\"cache_read_input_tokens\":4,\"output_tokens\":3}}\n\n");
    d->close(&b, &reply, &u);
    expect(&b, "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n");
    ag_err err = {0};
    ag_err_set(&err, AG_E_DRAINING, "x");
    d->break_off(&b, &reply, &err, AG_STR("req-1"));
    expect(&b, "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\"x\"},"
               "\"request_id\":\"req-1\"}\n\n");
    ag_buf_fini(&b);
}

static void parts_become_blocks(void **state)
{
    (void)state;
    static const ag_part parts[] = {
        {.kind = AG_PART_THINKING, .text = {"hm", 2}},
        {.kind = AG_PART_TEXT, .text = {"so", 2}},
        {.kind = AG_PART_CALL, .id = "toolu_1", .name = {"f", 1}, .text = {"{\"x\": 1}", 8}},
        {.kind = AG_PART_CALL, .id = "toolu_2", .name = {"f", 1}, .text = {"{}", 2}}};
    const ag_dialect *d = &ag_anthropic;
    const ag_reply_end end = {.reason = AG_END_CALLS};
    ag_buf b;
    ag_buf_init(&b, 1 << 16);
    d->choice(&b, &reply, 0, parts, 4, NULL, &end);
    expect(&b, "{\"type\":\"thinking\",\"signature\":\"\",\"thinking\":\"hm\"},{\"type\":\"text\",\"text\":\"so\"},"
               "{\"type\":\"tool_use\",\"id\":\"toolu_1\",\"name\":\"f\",\"input\":{\"x\": 1}},"
               "{\"type\":\"tool_use\",\"id\":\"toolu_2\",\"name\":\"f\",\"input\":{}}],"
               "\"stop_reason\":\"tool_use\",\"stop_sequence\":null,");
    ag_place at = {0};
    for (int i = 0; i < 4; i++) d->chunk(&b, &reply, &at, &parts[i], NULL, NULL, NULL);
    d->chunk(&b, &reply, &at, NULL, NULL, &end, &(ag_usage){0});
    ag_buf_zterm(&b);
    static const char *const order[] = {
        "\"content_block_start\",\"index\":0,\"content_block\":{\"type\":\"thinking\",\"signature\":\"\",\"thinking\":\"\"}}",
        "\"index\":0,\"delta\":{\"type\":\"thinking_delta\",\"thinking\":\"hm\"}}",
        "\"content_block_stop\",\"index\":0}",
        "\"content_block_start\",\"index\":1,\"content_block\":{\"type\":\"text\",\"text\":\"\"}}",
        "\"index\":1,\"delta\":{\"type\":\"text_delta\",\"text\":\"so\"}}",
        "\"content_block_stop\",\"index\":1}",
        "\"content_block_start\",\"index\":2,\"content_block\":{\"type\":\"tool_use\",\"id\":\"toolu_1\",\"name\":\"f\","
        "\"input\":{}}}",
        "\"index\":2,\"delta\":{\"type\":\"input_json_delta\",\"partial_json\":\"{\\\"x\\\": 1}\"}}",
        "\"content_block_stop\",\"index\":2}",
        "\"content_block_start\",\"index\":3,",
        "\"partial_json\":\"{}\"}}",
        "\"content_block_stop\",\"index\":3}",
        "\"message_delta\",\"delta\":{\"stop_reason\":\"tool_use\"",
    };
    const char *rest = b.p;
    for (size_t i = 0; i < AG_ARRAY_LEN(order); i++) {
        const char *hit = strstr(rest, order[i]);
        if (hit == NULL) fail_msg("no %s in its place: %s", order[i], rest);
        rest = hit + strlen(order[i]);
    }
    ag_buf_fini(&b);
}

/* Every error of ours has one of the types that Anthropic's clients know. */
static void errors_have_its_types(void **state)
{
    (void)state;
    static const char *const known[] = {"invalid_request_error", "authentication_error", "permission_error",
                                        "not_found_error", "request_too_large", "rate_limit_error", "api_error",
                                        "overloaded_error", "timeout_error"};
    for (int code = 1; code < AG_E_COUNT; code++) {
        ag_err err = {0};
        ag_buf b;
        ag_buf_init(&b, 1 << 16);
        ag_err_set(&err, code, "a \"b\"");
        ag_anthropic.error(&b, &err, (ag_str){0});
        json_t *j = json_loadb(b.p, b.n, 0, NULL), *e = json_object_get(j, "error");
        assert_string_equal(json_string_value(json_object_get(j, "type")), "error");
        assert_string_equal(json_string_value(json_object_get(e, "message")), "a \"b\"");
        bool is_known = false;
        for (size_t i = 0; i < AG_ARRAY_LEN(known); i++)
            is_known = is_known || strcmp(json_string_value(json_object_get(e, "type")), known[i]) == 0;
        assert_true(is_known);
        json_decref(j);
        ag_buf_fini(&b);
    }
}

static void no_memory_is_an_answer(void **state)
{
    (void)state;
#ifdef AG_FAULTS
    const char *body =
        "{\"max_tokens\":5,\"system\":[{\"type\":\"text\",\"text\":\"s\"}],\"thinking\":{\"type\":\"enabled\"},"
        "\"tools\":[{\"name\":\"f\",\"description\":\"d\",\"input_schema\":{}}],\"tool_choice\":{\"type\":\"none\"},"
        "\"stop_sequences\":[\"x\"],\"messages\":[{\"role\":\"user\",\"content\":\"a\"},{\"role\":\"user\",\"content\":\"b\"},"
        "{\"role\":\"assistant\",\"content\":[{\"type\":\"thinking\",\"thinking\":\"hm\"},{\"type\":\"tool_use\",\"id\":\"1\","
        "\"name\":\"f\",\"input\":{\"x\":1}}]},{\"role\":\"user\",\"content\":[{\"type\":\"tool_result\",\"tool_use_id\":"
        "\"1\",\"content\":\"r\"}]},{\"role\":\"assistant\",\"content\":\"So\"}]}";
    ag_openai_init();
    for (uint32_t n = 1;; n++) {
        ag_request r;
        ag_err err = {0};
        ag_fault_arm(AG_FAULT_ALLOC, n);
        int rc = parse(&r, M, body, &err);
        bool fired = ag_fault_disarm(AG_FAULT_ALLOC);
        ag_request_fini(&r);
        if (rc != (fired ? AG_E_NOMEM : AG_OK)) fail_msg("n=%u: %d %s", n, rc, err.text);
        if (!fired) break;
    }
#endif
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(conversations_become_what_templates_take), cmocka_unit_test(fields_arrive),
        cmocka_unit_test(every_mistake_gets_its_sentence),          cmocka_unit_test(answers_read_as_documented),
        cmocka_unit_test(events_read_as_documented),                cmocka_unit_test(parts_become_blocks),
                    cmocka_unit_test(errors_have_its_types),
        cmocka_unit_test(no_memory_is_an_answer),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
