#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "gateway/dialects/openai.h"

#define TEXT(z) (&(ag_part){.kind = AG_PART_TEXT, .text = {z, sizeof(z) - 1}})
#define STOP (&(ag_reply_end){.reason = AG_END_STOP})

static const ag_reply completion = {
    .kind = AG_REQUEST_COMPLETION, .id = {"cmpl-1", 6}, .created = 1700000000, .model = {"m", 1}};
static const ag_reply chat = {
    .kind = AG_REQUEST_CHAT, .id = {"chatcmpl-1", 10}, .created = 1700000000, .model = {"m\"x", 3}, .with_usage = true};

static ag_str piece(const void *arg, int32_t id, bool special)
{
    (void)arg;
    static const ag_str pieces[] = {{"a", 1}, {"\xC3\xA9", 2}, {"\xF0\x9F", 2}, {"\x98\x80", 2}, {"a", 1}, {"\"\n", 2}};
    if (id == 9) return special ? AG_STR("<s>") : AG_STR("");
    return pieces[id];
}

static void expect(ag_buf *b, const char *want)
{
    ag_buf_zterm(b);
    assert_false(b->failed);
    assert_string_equal(b->p, want);
    ag_buf_fini(b);
    ag_buf_init(b, 1 << 16);
}

static void embeddings_read_as_documented(void **state)
{
    (void)state;
    ag_reply r = {.kind = AG_REQUEST_EMBEDDINGS, .id = {"embd-1", 6}, .model = {"m\"x", 3}};
    static const float v[] = {0.5f, -0.1f, 1e-9f}, w[] = {1};
    ag_buf b;
    ag_usage u = {7, 0, 0};
    ag_buf_init(&b, 1 << 16);
    ag_openai_embeddings.begin(&b, &r);
    ag_openai_embeddings.embedding(&b, &r, 0, v, 3);
    ag_openai_embeddings.embedding(&b, &r, 1, w, 1);
    ag_openai_embeddings.end(&b, &r, &u);
    expect(&b, "{\"object\":\"list\",\"data\":[{\"object\":\"embedding\",\"index\":0,\"embedding\":[0.5,-0.100000001,9.99999972e-10]},"
               "{\"object\":\"embedding\",\"index\":1,\"embedding\":[1]}],\"model\":\"m\\\"x\",\"usage\":{\"prompt_tokens\":7,"
               "\"total_tokens\":7}}");
    r.base64 = true;
    ag_openai_embeddings.embedding(&b, &r, 0, v, 3);
    expect(&b, "{\"object\":\"embedding\",\"index\":0,\"embedding\":\"AAAAP83MzL1fcIkw\"}");
    ag_openai_embeddings.embedding(&b, &r, 0, w, 1);
    expect(&b, "{\"object\":\"embedding\",\"index\":0,\"embedding\":\"AACAPw==\"}");
    for (size_t max = 1; max < 60; max++) { /* a ceiling shows, wherever it is */
        ag_buf_fini(&b);
        ag_buf_init(&b, max);
        ag_openai_embeddings.embedding(&b, &r, 0, v, 3);
        assert_true(b.failed && b.n <= max);
    }
    ag_buf_fini(&b);
}

static void whole_answers_read_as_documented(void **state)
{
    (void)state;
    ag_buf b;
    ag_usage u = {3, 2, 1};
    ag_buf_init(&b, 1 << 16);
    ag_openai.begin(&b, &completion);
    ag_openai.choice(&b, &completion, 0, TEXT("x\xffy"), 1, NULL, STOP);
    ag_openai.choice(&b, &completion, 1, TEXT(""), 1, NULL,
                     &(ag_reply_end){.reason = AG_END_LENGTH, .timed_out = true});
    ag_openai.end(&b, &chat, &u);
    expect(&b, "{\"id\":\"cmpl-1\",\"object\":\"text_completion\",\"created\":1700000000,\"model\":\"m\",\"choices\":["
               "{\"index\":0,\"text\":\"x\xEF\xBF\xBDy\",\"logprobs\":null,\"finish_reason\":\"stop\"},"
               "{\"index\":1,\"text\":\"\",\"logprobs\":null,\"finish_reason\":\"length\",\"autoglm\":{\"stopped_by\":"
               "\"timeout\"}}],"
               "\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":2,\"total_tokens\":5,\"prompt_tokens_details\":{"
               "\"cached_tokens\":1}}}");
    ag_openai.begin(&b, &chat);
    ag_openai.choice(&b, &chat, 0, TEXT("a\"b"), 1, NULL, STOP);
    ag_openai.end(&b, &chat, &u);
    expect(&b, "{\"id\":\"chatcmpl-1\",\"object\":\"chat.completion\",\"created\":1700000000,\"model\":\"m\\\"x\","
               "\"choices\":["
               "{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\"a\\\"b\",\"refusal\":null},\"logprobs\":"
               "null,\"finish_reason\":\"stop\"}],"
               "\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":2,\"total_tokens\":5,\"prompt_tokens_details\":{"
               "\"cached_tokens\":1}}}");
    ag_buf_fini(&b);
}

static void chunks_read_as_documented(void **state)
{
    (void)state;
    ag_buf b;
    ag_buf_init(&b, 1 << 16);
    ag_openai.chunk(&b, &completion, &(ag_place){.index = 2}, TEXT("hi"), NULL, NULL, NULL);
    expect(&b, "data: "
               "{\"id\":\"cmpl-1\",\"object\":\"text_completion\",\"created\":1700000000,\"model\":\"m\",\"choices\":["
               "{\"index\":2,\"text\":\"hi\",\"logprobs\":null,\"finish_reason\":null}]}\n\n");
    ag_openai.open(&b, &completion, &(ag_place){0}, NULL);
    ag_openai.open(&b, &chat, &(ag_place){0}, NULL);
    expect(&b, "data: "
               "{\"id\":\"chatcmpl-1\",\"object\":\"chat.completion.chunk\",\"created\":1700000000,\"model\":"
               "\"m\\\"x\",\"choices\":["
               "{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\"},\"logprobs\":null,\"finish_reason\":"
               "null}],\"usage\":null}\n\n");
    ag_openai.chunk(&b, &chat, &(ag_place){0}, NULL, NULL, STOP, NULL);
    expect(&b, "data: "
               "{\"id\":\"chatcmpl-1\",\"object\":\"chat.completion.chunk\",\"created\":1700000000,\"model\":"
               "\"m\\\"x\",\"choices\":["
               "{\"index\":0,\"delta\":{},\"logprobs\":null,\"finish_reason\":\"stop\"}],\"usage\":null}\n\n");
    ag_openai.close(&b, &chat, &(ag_usage){1, 2, 0});
    expect(&b, "data: "
               "{\"id\":\"chatcmpl-1\",\"object\":\"chat.completion.chunk\",\"created\":1700000000,\"model\":"
               "\"m\\\"x\",\"choices\":[],"
               "\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":2,\"total_tokens\":3,\"prompt_tokens_details\":{"
               "\"cached_tokens\":0}}}\n\ndata: [DONE]\n\n");
    ag_openai.close(&b, &completion, NULL);
    expect(&b, "data: [DONE]\n\n");
    ag_buf_fini(&b);
}

#define CALL(i, name_, arguments)                                                                              \
    {.kind = AG_PART_CALL, .id = i, .name = {name_, sizeof(name_) - 1}, .text = {arguments, sizeof(arguments) - 1}}

static void parts_have_their_places(void **state)
{
    (void)state;
    static const ag_part parts[] = {{.kind = AG_PART_THINKING, .text = {"hm", 2}},
                                    {.kind = AG_PART_TEXT, .text = {"so", 2}},
                                    CALL("call_1", "f", "{\"x\":1}"),
                                    {.kind = AG_PART_TEXT, .text = {"\n!", 2}},
                                    CALL("call_2", "g", "{}")};
    const ag_reply_end end = {.reason = AG_END_CALLS};
    ag_buf b;
    ag_buf_init(&b, 1 << 16);
    ag_openai.choice(&b, &chat, 0, parts, 5, NULL, &end);
    expect(&b, "{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\"so\\n!\",\"refusal\":null,"
               "\"reasoning_content\":\"hm\",\"tool_calls\":[{\"id\":\"call_1\",\"type\":\"function\",\"function\":{"
               "\"name\":\"f\",\"arguments\":\"{\\\"x\\\":1}\"}},{\"id\":\"call_2\",\"type\":\"function\",\"function\":{"
               "\"name\":\"g\",\"arguments\":\"{}\"}}]},\"logprobs\":null,\"finish_reason\":\"tool_calls\"}");
    ag_openai.choice(&b, &chat, 0, &parts[4], 1, NULL, &end);
    ag_buf_zterm(&b);
    assert_non_null(strstr(b.p, "\"content\":null,\"refusal\":null,\"tool_calls\":[{"));
    ag_buf_reset(&b);
    ag_openai.choice(&b, &chat, 0, NULL, 0, NULL, STOP);
    ag_buf_zterm(&b);
    assert_non_null(strstr(b.p, "\"content\":\"\",\"refusal\":null}"));
    ag_buf_reset(&b);
    ag_place at = {.index = 1};
    for (int i = 0; i < 5; i++) ag_openai.chunk(&b, &chat, &at, &parts[i], NULL, NULL, NULL);
    ag_buf_zterm(&b);
    static const char *const deltas[] = {
        "{\"reasoning_content\":\"hm\"}", "{\"content\":\"so\"}",
        "{\"tool_calls\":[{\"index\":0,\"id\":\"call_1\",\"type\":\"function\",\"function\":{\"name\":\"f\",\"arguments\":\"\"}}]}",
        "{\"tool_calls\":[{\"index\":0,\"function\":{\"arguments\":\"{\\\"x\\\":1}\"}}]}", "{\"content\":\"\\n!\"}",
        "{\"tool_calls\":[{\"index\":1,\"id\":\"call_2\",\"type\":\"function\",\"function\":{\"name\":\"g\",\"arguments\":\"\"}}]}",
        "{\"tool_calls\":[{\"index\":1,\"function\":{\"arguments\":\"{}\"}}]}",
    };
    const char *rest = b.p;
    for (size_t i = 0; i < AG_ARRAY_LEN(deltas); i++) {
        char want[256];
        snprintf(want, sizeof want, "{\"index\":1,\"delta\":%s,\"logprobs\":null,\"finish_reason\":null}", deltas[i]);
        rest = strstr(rest, want);
        if (rest == NULL) fail_msg("no %s in its place: %s", want, b.p);
    }
    ag_buf_fini(&b);
}

static json_t *logprobs_of(const ag_reply *r, ag_reply_logprobs *lp)
{
    ag_buf b;
    ag_buf_init(&b, 1 << 16);
    ag_openai.begin(&b, r);
    ag_openai.choice(&b, r, 0, TEXT(""), 1, lp, STOP);
    ag_openai.end(&b, r, &(ag_usage){0});
    json_t *j = json_loadb(b.p, b.n, JSON_REJECT_DUPLICATES, NULL);
    if (j == NULL) fail_msg("%.*s", (int)b.n, b.p);
    json_t *out = json_incref(json_object_get(json_array_get(json_object_get(j, "choices"), 0), "logprobs"));
    json_decref(j);
    ag_buf_fini(&b);
    return out;
}

static const ag_gen_top top[] = {{0, -0.1f}, {4, -1}, {2, -INFINITY}}; /* 0 and 4 are the same text */
static const ag_gen_token prompt[] = {{.id = 9, .logprob = NAN}, {.id = 1, .logprob = -2}};
static const ag_gen_token answer[] = {{.id = 2, .logprob = -3, .top = top, .n_top = 2}, {.id = 3, .logprob = -4},
                                      {.id = 5, .logprob = -INFINITY, .top = top, .n_top = 3}};

static void completions_columns(void **state)
{
    (void)state;
    ag_reply_logprobs lp = {.part = {prompt, answer}, .n = {2, 3}, .piece = piece, .offset = 10};
    json_t *j = logprobs_of(&completion, &lp);
    static const char *const tokens[] = {"<s>", "\xC3\xA9", "bytes:\\xf0\\x9f", "bytes:\\x98\\x80", "\"\n"};
    static const int offsets[] = {10, 10, 11, 12, 12};
    for (size_t i = 0; i < 5; i++) {
        assert_string_equal(json_string_value(json_array_get(json_object_get(j, "tokens"), i)), tokens[i]);
        assert_int_equal(json_integer_value(json_array_get(json_object_get(j, "text_offset"), i)), offsets[i]);
    }
    assert_int_equal(lp.offset, 14);
    json_t *lps = json_object_get(j, "token_logprobs"), *tops = json_object_get(j, "top_logprobs");
    assert_true(json_is_null(json_array_get(lps, 0)) && json_is_null(json_array_get(tops, 0)));
    assert_true(json_number_value(json_array_get(lps, 4)) == -9999);
    assert_int_equal(json_object_size(json_array_get(tops, 2)), 2);
    assert_true(json_number_value(json_object_get(json_array_get(tops, 2), "bytes:\\xf0\\x9f")) == -3);
    assert_int_equal(json_object_size(json_array_get(tops, 4)), 3);
    json_decref(j);
}

static void chat_rows(void **state)
{
    (void)state;
    ag_reply_logprobs lp = {.part = {NULL, answer}, .n = {0, 3}, .piece = piece};
    json_t *j = logprobs_of(&chat, &lp), *rows = json_object_get(j, "content");
    assert_int_equal(json_array_size(rows), 3);
    json_t *first = json_array_get(rows, 0);
    assert_string_equal(json_string_value(json_object_get(first, "token")), "bytes:\\xf0\\x9f");
    assert_int_equal(json_integer_value(json_array_get(json_object_get(first, "bytes"), 0)), 0xF0);
    assert_int_equal(json_array_size(json_object_get(first, "top_logprobs")), 2);
    assert_int_equal(json_array_size(json_object_get(json_array_get(rows, 1), "top_logprobs")), 0);
    json_decref(j);
}

static void errors_and_models(void **state)
{
    (void)state;
    ag_buf b;
    ag_err err = {0};
    ag_buf_init(&b, 1 << 16);
    ag_request_fail(&err, AG_E_PARAM, "n", "'n' is \"bad\".");
    ag_openai_error(&b, &err, AG_STR("req-1"));
    expect(&b, "{\"error\":{\"message\":\"'n' is "
               "\\\"bad\\\".\",\"type\":\"invalid_request_error\",\"param\":\"n\",\"code\":\"invalid_value\","
               "\"request_id\":\"req-1\"}}");
    ag_err_clear(&err);
    ag_err_set(&err, AG_E_INTERNAL, "x");
    ag_openai.break_off(&b, NULL, &err, (ag_str){0});
    expect(&b,
           "event: error\ndata: "
           "{\"error\":{\"message\":\"x\",\"type\":\"server_error\",\"param\":null,\"code\":\"internal_error\"}}\n\ndata: [DONE]\n\n");
    ag_openai_models(&b, (ag_model_card[]){{AG_STR("m"), 5, 2048}}, 1);
    expect(&b, "{\"object\":\"list\",\"data\":[{\"id\":\"m\",\"object\":\"model\",\"created\":5,\"owned_by\":"
               "\"autoglm\",\"max_model_len\":2048}]}");
    ag_openai_models(&b, NULL, 0);
    expect(&b, "{\"object\":\"list\",\"data\":[]}");
    ag_buf_fini(&b);
    ag_buf_init(&b, 20);
    ag_openai.close(&b, &completion, NULL);
    ag_openai.close(&b, &completion, NULL);
    assert_true(b.failed);
    ag_buf_fini(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(whole_answers_read_as_documented), cmocka_unit_test(embeddings_read_as_documented),
        cmocka_unit_test(chunks_read_as_documented),
        cmocka_unit_test(parts_have_their_places),
        cmocka_unit_test(completions_columns),              cmocka_unit_test(chat_rows),
        cmocka_unit_test(errors_and_models),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
