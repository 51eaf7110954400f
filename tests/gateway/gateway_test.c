#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "gateway/served.h"

/* Answers. */

static void completion_is_openais(void **state)
{
    (void)state;
    json_t *j = post_json("/v1/completions", "{\"prompt\":\"say:Hi\\u00e9\",\"max_tokens\":50}", 200);
    assert_memory_equal(str_at(j, "id"), "cmpl-", 5);
    assert_string_equal(str_at(j, "object"), "text_completion");
    assert_string_equal(str_at(j, "model"), "fake");
    assert_string_equal(str_at(choice_at(j, 0), "text"), "Hi\xC3\xA9");
    assert_string_equal(str_at(choice_at(j, 0), "finish_reason"), "stop");
    assert_true(json_is_null(json_object_get(choice_at(j, 0), "logprobs")));
    json_t *u = json_object_get(j, "usage");
    assert_int_equal(json_integer_value(json_object_get(u, "prompt_tokens")), 9);
    assert_int_equal(json_integer_value(json_object_get(u, "completion_tokens")), 4);
    assert_int_equal(json_integer_value(json_object_get(u, "total_tokens")), 13);
    json_decref(j);
    j = post_json("/v1/completions",
                  "{\"prompt\":[\"say:a\",[115,97,121,58,98]],\"n\":2,\"max_tokens\":9,\"model\":\"fake\"}", 200);
    for (size_t i = 0; i < 4; i++) {
        assert_int_equal(json_integer_value(json_object_get(choice_at(j, i), "index")), i);
        assert_string_equal(str_at(choice_at(j, i), "text"), i < 2 ? "a" : "b");
    }
    json_decref(j);
    j = post_json("/v1/completions", "{\"prompt\":\"long:40\"}", 200);
    assert_string_equal(str_at(choice_at(j, 0), "text"), "xxxxxxxxxxxxxxxx");
    assert_string_equal(str_at(choice_at(j, 0), "finish_reason"), "length");
    json_decref(j);
}

static void chat_is_openais(void **state)
{
    (void)state;
    json_t *j = post_json(
        "/v1/chat/completions",
        "{\"messages\":[{\"role\":\"user\",\"content\":\"say:yes\"}],\"logprobs\":true,\"top_logprobs\":2}", 200);
    assert_memory_equal(str_at(j, "id"), "chatcmpl-", 9);
    assert_string_equal(str_at(j, "object"), "chat.completion");
    json_t *m = json_object_get(choice_at(j, 0), "message");
    assert_string_equal(str_at(m, "role"), "assistant");
    assert_string_equal(str_at(m, "content"), "yes");
    json_t *lp = json_object_get(json_object_get(choice_at(j, 0), "logprobs"), "content");
    assert_int_equal(json_array_size(lp), 3);
    assert_string_equal(str_at(json_array_get(lp, 0), "token"), "y");
    assert_int_equal(json_integer_value(json_array_get(json_object_get(json_array_get(lp, 0), "bytes"), 0)), 'y');
    assert_int_equal(json_array_size(json_object_get(json_array_get(lp, 0), "top_logprobs")), 2);
    json_decref(j);
    j = post_json("/v1/chat/completions", "{\"messages\":[{\"role\":\"user\",\"content\":\"raise\"}]}", 400);
    assert_string_equal(str_at(json_object_get(j, "error"), "message"), "The template says no.");
    json_decref(j);
}

static void echo_and_logprobs_line_up(void **state)
{
    (void)state;
    json_t *j = post_json("/v1/completions",
                          "{\"prompt\":\"say:h\\u00e9\",\"max_tokens\":5,\"echo\":true,\"logprobs\":2}", 200);
    assert_string_equal(str_at(choice_at(j, 0), "text"), "say:h\xC3\xA9h\xC3\xA9");
    json_t *lp = json_object_get(choice_at(j, 0), "logprobs"), *tokens = json_object_get(lp, "tokens");
    assert_int_equal(json_array_size(tokens), 8 + 3);
    assert_string_equal(json_string_value(json_array_get(tokens, 0)), "<s>");
    assert_string_equal(json_string_value(json_array_get(tokens, 6)), "bytes:\\xc3");
    assert_true(json_is_null(json_array_get(json_object_get(lp, "token_logprobs"), 0)));
    assert_true(json_is_null(json_array_get(json_object_get(lp, "top_logprobs"), 0)));
    json_t *offsets = json_object_get(lp, "text_offset");
    assert_int_equal(json_integer_value(json_array_get(offsets, 0)), 0);
    assert_int_equal(json_integer_value(json_array_get(offsets, 1)), 0);
    assert_int_equal(json_integer_value(json_array_get(offsets, 8)), 6);
    assert_int_equal(json_object_size(json_array_get(json_object_get(lp, "top_logprobs"), 8)), 3);
    json_decref(j);
    j = post_json("/v1/completions", "{\"prompt\":[115,97],\"max_tokens\":0,\"echo\":true,\"logprobs\":0}", 200);
    assert_string_equal(str_at(choice_at(j, 0), "text"), "sa");
    assert_string_equal(str_at(choice_at(j, 0), "finish_reason"), "length");
    json_decref(j);
}

typedef struct heard {
    ag_buf text[8];
    int roles, finishes, usages, nulls, chunks, errors;
    bool done;
    json_t *usage;
} heard;

static void hear(heard *h, const char *body)
{
    *h = (heard){0};
    for (int i = 0; i < 8; i++) ag_buf_init(&h->text[i], 1 << 20);
    for (const char *at = body; (at = strstr(at, "data: ")); at++) {
        const char *end = strstr(at, "\n\n");
        assert_non_null(end);
        assert_false(h->done);
        if (memcmp(at, "data: [DONE]", 12) == 0) {
            h->done = true;
            continue;
        }
        json_t *j = json_loadb(at + 6, (size_t)(end - at - 6), 0, NULL);
        assert_non_null(j);
        h->errors += json_object_get(j, "error") != NULL;
        h->chunks++;
        json_t *c = choice_at(j, 0), *delta = json_object_get(c, "delta"), *usage = json_object_get(j, "usage");
        h->nulls += usage && json_is_null(usage);
        if (json_is_object(usage)) {
            assert_null(c);
            h->usages++;
            json_decref(h->usage);
            h->usage = json_incref(usage);
        }
        const char *text = delta ? str_at(delta, "content") : str_at(c, "text");
        if (c && text) ag_buf_addz(&h->text[json_integer_value(json_object_get(c, "index"))], text);
        h->roles += delta && str_at(delta, "role") != NULL;
        h->finishes += json_is_string(json_object_get(c, "finish_reason"));
        json_decref(j);
    }
    for (int i = 0; i < 8; i++) ag_buf_zterm(&h->text[i]);
}

static void unhear(heard *h)
{
    for (int i = 0; i < 8; i++) ag_buf_fini(&h->text[i]);
    json_decref(h->usage);
}

static void stream(heard *h, const char *path, const char *body)
{
    char *reply = ask("POST", path, "", body), *text = body_of(reply);
    if (status_of(reply) != 200) fail_msg("%s", reply);
    assert_non_null(strcasestr(reply, "content-type: text/event-stream"));
    hear(h, text);
    free(text);
    free(reply);
}

static void streams_are_openais(void **state)
{
    (void)state;
    heard h;
    stream(&h, "/v1/completions", "{\"prompt\":\"say:a\\u00e9\\ud83d\\ude00b\",\"stream\":true,\"max_tokens\":50}");
    assert_string_equal(h.text[0].p, "a\xC3\xA9\xF0\x9F\x98\x80" "b");
    assert_true(h.done && h.finishes == 1 && h.usages == 0 && h.nulls == 0);
    unhear(&h);
    stream(&h, "/v1/chat/completions",
           "{\"messages\":[{\"role\":\"user\",\"content\":\"say:hello\"}],\"stream\":true,\"n\":3,\"stream_options\":{"
           "\"include_usage\":true}}");
    for (int i = 0; i < 3; i++) assert_string_equal(h.text[i].p, "hello");
    assert_true(h.done && h.finishes == 3 && h.roles == 3 && h.usages == 1 && h.nulls == h.chunks - 1);
    assert_int_equal(json_integer_value(json_object_get(h.usage, "completion_tokens")), 15);
    unhear(&h);
    stream(&h, "/v1/completions", "{\"prompt\":\"say:xy\",\"stream\":true,\"echo\":true,\"logprobs\":1}");
    assert_string_equal(h.text[0].p, "say:xyxy");
    unhear(&h);
    stream(&h, "/v1/completions", "{\"prompt\":\"nothing\",\"stream\":true}");
    assert_true(h.done && h.finishes == 1 && h.text[0].n == 0);
    unhear(&h);
}

static void broken_characters_are_replaced(void **state)
{
    (void)state;
    heard h;
    /* Three bytes of four, then the end: token ids name single bytes here. */
    stream(&h, "/v1/completions", "{\"prompt\":[115,97,121,58,97,240,159,152],\"stream\":true}");
    assert_string_equal(h.text[0].p, "a\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD");
    unhear(&h);
    json_t *j = post_json("/v1/completions", "{\"prompt\":[115,97,121,58,97,240,159,152]}", 200);
    assert_string_equal(str_at(choice_at(j, 0), "text"), "a\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD");
    json_decref(j);
}

static void tokens_both_ways(void **state)
{
    (void)state;
    json_t *j = post_json("/tokenize", "{\"content\":\"a\\u00e9\",\"add_special\":true,\"with_pieces\":true}", 200);
    json_t *tokens = json_object_get(j, "tokens");
    assert_int_equal(json_array_size(tokens), 4);
    assert_string_equal(str_at(json_array_get(tokens, 0), "piece"), "<s>");
    assert_int_equal(json_integer_value(json_object_get(json_array_get(tokens, 1), "id")), 'a');
    json_t *half = json_object_get(json_array_get(tokens, 2), "piece");
    assert_int_equal(json_integer_value(json_array_get(half, 0)), 0xC3);
    json_decref(j);
    j = post_json("/tokenize", "{\"prompt\":\"ab\",\"return_token_strs\":true,\"model\":\"fake\"}", 200);
    assert_int_equal(json_integer_value(json_object_get(j, "count")), 3);
    assert_int_equal(json_integer_value(json_object_get(j, "max_model_len")), 200000);
    assert_int_equal(json_integer_value(json_array_get(json_object_get(j, "tokens"), 2)), 'b');
    assert_string_equal(json_string_value(json_array_get(json_object_get(j, "token_strs"), 1)), "a");
    json_decref(j);
    j = post_json("/tokenize", "{\"messages\":[{\"role\":\"user\",\"content\":\"abc\"}]}", 200);
    assert_int_equal(json_integer_value(json_object_get(j, "count")), 3);
    assert_true(json_is_null(json_object_get(j, "token_strs")));
    json_decref(j);
    j = post_json("/tokenize", "{\"content\":\"\",\"return_token_strs\":true}", 200);
    assert_int_equal(json_array_size(json_object_get(j, "tokens")) + json_array_size(json_object_get(j, "token_strs")),
                     0);
    json_decref(j);
    j = post_json("/detokenize", "{\"tokens\":[256,97,195,169]}", 200);
    assert_string_equal(str_at(j, "content"), "<s>a\xC3\xA9");
    assert_string_equal(str_at(j, "prompt"), "<s>a\xC3\xA9");
    json_decref(j);
    expect(200, "POST", "/detokenize", "", "{\"tokens\":[]}", "{\"content\":\"\",\"prompt\":\"\"}");
    expect(400, "POST", "/detokenize", "", "{\"tokens\":[300]}", "names token 300");
    expect(400, "POST", "/tokenize", "", "{\"messages\":[{\"role\":\"user\",\"content\":\"raise\"}]}",
           "template_error");
    expect(404, "POST", "/tokenize", "", "{\"content\":\"x\",\"model\":\"other\"}", "model_not_found");
    expect(405, "GET", "/tokenize", "", NULL, "allow: POST");
}

#define USER(text) "\"max_tokens\":50,\"messages\":[{\"role\":\"user\",\"content\":\"" text "\"}]"

static void messages_are_anthropics(void **state)
{
    (void)state;
    json_t *j = post_json("/v1/messages", "{" USER("say:yes, no") ",\"stop_sequences\":[\"zz\",\", n\"]}", 200);
    assert_memory_equal(str_at(j, "id"), "msg_", 4);
    assert_string_equal(str_at(json_array_get(json_object_get(j, "content"), 0), "text"), "yes, no");
    assert_string_equal(str_at(j, "stop_reason"), "end_turn");
    assert_true(json_is_null(json_object_get(j, "stop_sequence")));
    json_t *u = json_object_get(j, "usage");
    assert_int_equal(json_integer_value(json_object_get(u, "input_tokens")), 11);
    assert_int_equal(json_integer_value(json_object_get(u, "output_tokens")), 7);
    json_decref(j);
    j = post_json("/v1/messages", "{" USER("reuse:3long:99") "}", 200);
    assert_string_equal(str_at(j, "stop_reason"), "max_tokens");
    u = json_object_get(j, "usage");
    assert_int_equal(json_integer_value(json_object_get(u, "input_tokens")), 14 - 3);
    assert_int_equal(json_integer_value(json_object_get(u, "cache_read_input_tokens")), 3);
    json_decref(j);
    j = post_json("/v1/messages",
                  "{\"max_tokens\":9,\"messages\":[{\"role\":\"user\",\"content\":\"say:\"},{\"role\":\"assistant\","
                  "\"content\":\"and so\"}]}",
                  200);
    /* as the fake does */
    assert_string_equal(str_at(json_array_get(json_object_get(j, "content"), 0), "text"), "and so");
    json_decref(j);
    j = post_json("/v1/messages/count_tokens", "{\"messages\":[{\"role\":\"user\",\"content\":\"abc\"}]}", 200);
    assert_int_equal(json_integer_value(json_object_get(j, "input_tokens")), 3);
    json_decref(j);
}

static void a_stop_string_is_named(void **state)
{
    (void)state;
    json_t *j = post_json("/v1/messages", "{" USER("cut:2say:yes, no") ",\"stop_sequences\":[\"zz\",\", n\",\", no\"]}",
                          200);
    assert_string_equal(str_at(json_array_get(json_object_get(j, "content"), 0), "text"), "yes");
    assert_string_equal(str_at(j, "stop_reason"), "stop_sequence");
    assert_string_equal(str_at(j, "stop_sequence"), ", n");
    json_decref(j);
    expect(200, "POST", "/v1/messages", "",
           "{" USER("cut:2say:yes, no") ",\"stop_sequences\":[\", n\"],\"stream\":true}",
           "\"stop_reason\":\"stop_sequence\",\"stop_sequence\":\", n\"");
}

static void message_streams_are_anthropics(void **state)
{
    (void)state;
    char *reply = ask("POST", "/v1/messages", "", "{" USER("say:h\\u00e9") ",\"stream\":true}"), *text = body_of(reply);
    assert_non_null(strcasestr(reply, "content-type: text/event-stream"));
    static const char *const order[] = {"event: message_start\n", "event: ping\n", "event: content_block_start\n",
                                        "event: content_block_delta\n", "event: content_block_stop\n",
                                        "event: message_delta\n", "event: message_stop\n"};
    const char *at = text;
    for (size_t i = 0; i < AG_ARRAY_LEN(order); i++) {
        at = strstr(at, order[i]);
        if (at == NULL) fail_msg("no %s in its place: %s", order[i], text);
    }
    assert_null(strstr(text, "[DONE]"));
    free(text);
    free(reply);
    expect(200, "POST", "/v1/messages", "", "{" USER("burn:3") ",\"stream\":true}",
           "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"api_error\"");
}

#define TOOL "\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\"}}]"

static void calls_and_reasoning_are_told_apart(void **state)
{
    (void)state;
    ag_gateway_conf conf = AG_GATEWAY_CONF_DEFAULT;
    serve(conf, false);
    fake_engine_template("<tool_call> <think> </think>");
    ag_gateway_set_engine(gw, engine, NULL);
    static const char say[] = "say:<think>hm</think>\\n\\nso <tool_call>{\\\"name\\\":\\\"f\\\",\\\"arguments\\\":{}}</tool_call>";
    char body[1024];
    snprintf(body, sizeof body, "{\"n\":2," TOOL ",\"messages\":[{\"role\":\"user\",\"content\":\"%s\"}]}", say);
    json_t *j = post_json("/v1/chat/completions", body, 200);
    for (size_t i = 0; i < 2; i++) {
        json_t *m = json_object_get(choice_at(j, i), "message");
        assert_string_equal(str_at(m, "content"), "so");
        assert_string_equal(str_at(m, "reasoning_content"), "hm");
        json_t *call = json_array_get(json_object_get(m, "tool_calls"), 0);
        assert_string_equal(str_at(json_object_get(call, "function"), "name"), "f");
        assert_string_equal(str_at(json_object_get(call, "function"), "arguments"), "{}");
        assert_string_equal(str_at(choice_at(j, i), "finish_reason"), "tool_calls");
    }
    json_decref(j);
    snprintf(body, sizeof body,
             "{\"stream\":true,\"logprobs\":true," TOOL ",\"messages\":[{\"role\":\"user\",\"content\":\"%s\"}]}", say);
    char *reply = ask("POST", "/v1/chat/completions", "", body);
    assert_non_null(strstr(reply, "\"finish_reason\":\"tool_calls\""));
    size_t told = 0; /* every token's log probability once, also of those that no text came of */
    for (const char *at = reply; (at = strstr(at, "\"top_logprobs\"")); at++) told++;
    assert_int_equal(told, strlen("<think>hm</think>\n\nso <tool_call>{\"name\":\"f\",\"arguments\":{}}</tool_call>"));
    free(reply);
    /* a completion is text and nothing else */
    snprintf(body, sizeof body, "{\"prompt\":\"%s\",\"max_tokens\":100}", say);
    j = post_json("/v1/completions", body, 200);
    assert_string_equal(str_at(choice_at(j, 0), "text"),
                        "<think>hm</think>\n\nso <tool_call>{\"name\":\"f\",\"arguments\":{}}</tool_call>");
    json_decref(j);
    teardown(NULL);
}

static void refusals_speak_the_callers_dialect(void **state)
{
    (void)state;
    static const char form[] = "{\"type\":\"error\",\"error\":{\"type\":";
    const char *ok = "{" USER("say:x") "}";
    expect(200, "POST", "/v1/messages", "anthropic-version: 2023-06-01\r\nx-request-id: my-7\r\n", ok,
           "\nrequest-id: my-7");
    expect(400, "POST", "/v1/messages", "anthropic-version: 2023-01-01\r\n", ok, form);
    expect(400, "POST", "/v1/messages", "", "{", "\"invalid_request_error\"");
    expect(404, "POST", "/v1/messages", "", "{\"model\":\"other\"," USER("x") "}", "\"not_found_error\"");
    expect(405, "GET", "/v1/messages", "", NULL, form);
    expect(415, "POST", "/v1/messages", "Content-Type: text/plain\r\n", ok, form);
    expect(503, "POST", "/v1/messages", "", "{" USER("full") "}", "\"overloaded_error\"");
    expect(500, "POST", "/v1/messages", "", "{" USER("fail:0") "}", "\"api_error\"");
    expect(400, "POST", "/v1/messages/count_tokens", "", "{}", form);
    expect(404, "POST", "/v1/messages/other", "", ok, form);
}

static void aliases_and_strictness_are_settings(void **state)
{
    (void)state;
    ag_gateway_conf conf = AG_GATEWAY_CONF_DEFAULT;
    ag_err err = {0};
    const char *odd = "{\"prompt\":\"say:x\",\"store\":false,\"model\":\"gpt-4o\"}";
    expect(404, "POST", "/v1/completions", "", odd, "x-autoglm-ignored-fields: store\r\n");
    conf.aliases = "gpt-4o,other/name";
    assert_int_equal(ag_gateway_reload(gw, &conf, &err), AG_OK);
    expect(200, "POST", "/v1/completions", "", odd, "x-autoglm-ignored-fields: store\r\n");
    expect(200, "POST", "/v1/completions", "", "{\"prompt\":\"say:x\",\"stream\":true,\"store\":1}",
           "x-autoglm-ignored-fields: store\r\n");
    expect(404, "POST", "/v1/completions", "", "{\"prompt\":\"say:x\",\"model\":\"gpt-4\"}", "model_not_found");
    expect(200, "GET", "/v1/models", "", NULL, "\"id\":\"other/name\"");
    expect(200, "GET", "/v1/models/gpt-4o", "", NULL, "\"id\":\"gpt-4o\"");
    expect(200, "GET", "/v1/models/other/name", "", NULL, "\"id\":\"other/name\"");
    expect(200, "GET", "/v1/models/other%2Fname", "", NULL, "\"id\":\"other/name\"");
    expect(404, "GET", "/v1/models/other/name/", "", NULL, "model_not_found");
    conf.strict = true;
    assert_int_equal(ag_gateway_reload(gw, &conf, &err), AG_OK);
    expect(400, "POST", "/v1/completions", "", odd, "\"param\":\"store\"");
    expect(200, "POST", "/v1/completions", "", "{\"prompt\":\"say:x\"}", NULL);
    conf.aliases = "a,,b";
    assert_int_equal(ag_gateway_reload(gw, &conf, &err), AG_E_USAGE);
    ag_err_clear(&err);
    char many[200];
    memset(many, ',', sizeof many);
    for (size_t i = 0; i < sizeof many; i += 2) many[i] = 'a';
    many[sizeof many - 1] = 0;
    conf.aliases = many;
    assert_int_equal(ag_gateway_reload(gw, &conf, &err), AG_E_USAGE);
    assert_non_null(strstr(err.text, "64 aliases"));
}

/* Refusals. */

static void every_refusal_has_its_status(void **state)
{
    (void)state;
    const char *ok = "{\"prompt\":\"say:x\"}";
    expect(200, "POST", "/v1/completions", "", ok, NULL);
    expect(404, "POST", "/v2/completions", "", ok, "{\"error\":\"There is no ");
    expect(404, "GET", "/v1/models/", "", NULL, "not_found");
    expect(404, "GET", "/v1/models/other", "", NULL, "model_not_found");
    expect(200, "GET", "/v1/models/fake", "", NULL, "\"id\":\"fake\"");
    expect(200, "GET", "/v1/models", "", NULL, "\"object\":\"list\",\"data\":[{\"id\":\"fake\"");
    expect(405, "GET", "/v1/completions", "", NULL, "allow: POST");
    expect(405, "POST", "/v1/models", "", ok, "allow: GET");
    expect(405, "DELETE", "/livez", "", NULL, NULL);
    expect(415, "POST", "/v1/completions", "Content-Type: text/plain\r\n", ok, "text/plain");
    expect(415, "POST", "/v1/completions", "Content-Type: application/json; charset=latin1\r\n", ok, NULL);
    expect(200, "POST", "/v1/completions", "Content-Type: application/json; charset=UTF-8\r\n", ok, NULL);
    expect(404, "POST", "/v1/completions", "", "{\"prompt\":\"x\",\"model\":\"gpt\"}", "\"param\":\"model\"");
    expect(400, "POST", "/v1/completions", "", "{\"prompt\":", "invalid_json");
    expect(400, "POST", "/v1/completions", "", "{\"prompt\":\"\xff\"}", "invalid_utf8");
    expect(400, "POST", "/v1/completions", "", "", "empty");
    expect(400, "POST", "/v1/completions", "", "{\"prompt\":[300]}", "300");
    expect(400, "POST", "/v1/completions", "", "{\"prompt\":\"x\",\"max_tokens\":200000}", "context_length_exceeded");
    expect(503, "POST", "/v1/completions", "", "{\"prompt\":\"full\"}", "retry-after: 3");
    expect(500, "POST", "/v1/completions", "", "{\"prompt\":\"fail:0\"}", "caught fire");
    expect(500, "POST", "/v1/completions", "", "{\"prompt\":\"fail:3\"}", "caught fire");
    expect(500, "POST", "/v1/completions", "", "{\"prompt\":\"fail:0\",\"stream\":true}", "caught fire");
    expect(204, "OPTIONS", "/v1/models", "", NULL, "allow: GET");
    expect(200, "GET", "/livez", "x-request-id: my-id-7\r\n", NULL, "x-request-id: my-id-7");
    expect(200, "GET", "/livez", "x-request-id: two words\r\n", NULL, "x-request-id: req-");
    expect(200, "HEAD", "/readyz", "", NULL, NULL);
}

static void strangers_are_kept_out(void **state)
{
    (void)state;
    const char *ok = "{\"prompt\":\"say:x\"}";
    expect(403, "POST", "/v1/completions", "Host: evil.example\r\n", ok, "evil.example");
    expect(403, "GET", "/livez", "Host: evil.example:8080\r\n", NULL, "forbidden");
    expect(403, "GET", "/livez", "Host: localhost.evil.example\r\n", NULL, NULL);
    expect(403, "GET", "/livez", "Host: 127.0.0.1.evil.example\r\n", NULL, NULL);
    expect(403, "GET", "/livez", "Host: 10.0.0.1\r\n", NULL, NULL);
    expect(200, "GET", "/livez", "Host: 127.1.2.3:99\r\n", NULL, NULL);
    expect(200, "GET", "/livez", "Host: [::1]:99\r\n", NULL, NULL);
    expect(200, "GET", "/livez", "Host: LOCALHOST\r\n", NULL, NULL);
    expect(403, "POST", "/v1/completions", "Origin: https://evil.example\r\n", ok, "cors-origin");
    expect(403, "POST", "/v1/completions", "Origin: null\r\n", ok, NULL);
    expect(403, "POST", "/v1/completions", "Origin: http://localhost:3000\r\n", ok, NULL);
    expect(200, "POST", "/v1/completions", "Origin: http://localhost\r\n", ok, NULL);
    expect(403, "OPTIONS", "/v1/completions", "Origin: https://evil.example\r\nAccess-Control-Request-Method: POST\r\n",
           NULL, NULL);
    ag_gateway_conf conf = AG_GATEWAY_CONF_DEFAULT;
    ag_err err = {0};
    conf.cors_origins = "https://app.example, http://localhost:3000/";
    assert_int_equal(ag_gateway_reload(gw, &conf, &err), AG_OK);
    expect(200, "POST", "/v1/completions", "Origin: http://localhost:3000\r\n", ok,
           "access-control-allow-origin: http://localhost:3000");
    expect(204, "OPTIONS", "/v1/completions", "Origin: https://app.example\r\nAccess-Control-Request-Method: POST\r\n",
           NULL, "access-control-allow-headers: authorization, content-type");
    expect(403, "POST", "/v1/completions", "Origin: https://evil.example\r\n", ok, NULL);
    conf.cors_origins = "app.example";
    assert_int_equal(ag_gateway_reload(gw, &conf, &err), AG_E_USAGE);
    expect(200, "GET", "/livez", "Origin: https://app.example\r\n", NULL, NULL);
}

static void keys_open_the_door(void **state)
{
    (void)state;
    ag_gateway_conf conf = AG_GATEWAY_CONF_DEFAULT;
    conf.api_key = "s3cret";
    conf.host = "0.0.0.0";
    serve(conf, true);
    const char *ok = "{\"prompt\":\"say:x\"}";
    expect(401, "POST", "/v1/completions", "", ok, "www-authenticate: Bearer");
    expect(401, "POST", "/v1/completions", "Authorization: Bearer s3cre\r\n", ok, "invalid_api_key");
    expect(401, "POST", "/v1/completions", "Authorization: Basic s3cret\r\n", ok, NULL);
    expect(401, "GET", "/v1/models", "", NULL, NULL);
    expect(401, "POST", "/v1/messages", "x-api-key: s3cre\r\n", ok, "\"authentication_error\"");
    expect(200, "POST", "/v1/completions", "x-api-key: s3cret\r\n", ok, NULL);
    expect(200, "POST", "/v1/completions", "x-api-key: s3cret\r\nAuthorization: Bearer other\r\n", ok, NULL);
    expect(200, "POST", "/v1/completions", "Authorization: bearer s3cret\r\n", ok, NULL);
    expect(200, "POST", "/v1/completions",
           "Host: any.example\r\nAuthorization: Bearer s3cret\r\nOrigin: https://x.example\r\n", ok, NULL);
    expect(200, "GET", "/livez", "", NULL, NULL);
    teardown(NULL);
}

static void unsafe_settings_are_refused(void **state)
{
    (void)state;
    ag_gateway *none = NULL;
    ag_err err = {0};
    ag_gateway_conf conf = AG_GATEWAY_CONF_DEFAULT;
    conf.host = "0.0.0.0";
    assert_int_equal(ag_gateway_open(&none, &conf, NULL, NULL, &err), AG_E_USAGE);
    assert_non_null(strstr(err.text, "--no-auth"));
    ag_err_clear(&err);
    conf.host = "127.0.0.1";
    conf.cors_origins = "ftp://x";
    assert_int_equal(ag_gateway_open(&none, &conf, NULL, NULL, &err), AG_E_USAGE);
    conf.cors_origins = NULL;
    conf.generations_max = 0;
    assert_int_equal(ag_gateway_open(&none, &conf, NULL, NULL, &err), AG_E_USAGE);
    conf = AG_GATEWAY_CONF_DEFAULT;
    conf.host = "0.0.0.0";
    conf.no_auth = true;
    serve(conf, true);
    expect(200, "POST", "/v1/completions", "Host: any.example\r\n", "{\"prompt\":\"say:x\"}", NULL);
    expect(403, "POST", "/v1/completions", "Host: any.example\r\nOrigin: https://evil.example\r\n",
           "{\"prompt\":\"say:x\"}", NULL);
    teardown(NULL);
}

static void not_ready_until_the_model_is_there(void **state)
{
    (void)state;
    serve(AG_GATEWAY_CONF_DEFAULT, false);
    expect(200, "GET", "/livez", "", NULL, NULL);
    expect(503, "GET", "/readyz", "", NULL, "not_ready");
    expect(503, "GET", "/health", "", NULL, "retry-after");
    expect(503, "POST", "/v1/completions", "", "{\"prompt\":\"say:x\"}", "not_ready");
    expect(200, "GET", "/v1/models", "", NULL, "\"data\":[]");
    expect(200, "GET", "/metrics", "", NULL, "autoglm_ready 0\n");
    ag_gateway_set_engine(gw, engine, "alias");
    expect(200, "GET", "/readyz", "", NULL, NULL);
    expect(200, "POST", "/v1/completions", "", "{\"prompt\":\"say:x\",\"model\":\"alias\"}", "\"model\":\"alias\"");
    teardown(NULL);
}

static void metrics_tell_what_happened(void **state)
{
    (void)state;
    expect(200, "POST", "/v1/completions", "", "{\"prompt\":\"say:xyz\"}", NULL);
    expect(400, "POST", "/v1/completions", "", "{}", NULL);
    char *reply = ask("GET", "/metrics", "", NULL);
    assert_non_null(strstr(reply, "text/plain; version=0.0.4"));
    static const char *const lines[] = {
        "\nautoglm_http_requests_total{route=\"completions\",status=\"200\"} 1\n",
        "\nautoglm_http_requests_total{route=\"completions\",status=\"400\"} 1\n",
        "\nautoglm_errors_total{code=\"missing_required_parameter\"} 1\n",
        "\nvllm:time_to_first_token_seconds_count{model_name=\"fake\"} 1\n",
        "\nautoglm_request_output_tokens_sum{model=\"fake\"} 3\n",
        "\nvllm:kv_cache_usage_perc{model_name=\"fake\"} 0.5\n",
        "\nvllm:request_success_total{model_name=\"fake\",finished_reason=\"stop\"} 1\n",
        "\nautoglm_connections_refused_total{reason=\"parse\"} 0\n",
    };
    for (size_t i = 0; i < AG_ARRAY_LEN(lines); i++)
        if (strstr(reply, lines[i]) == NULL) fail_msg("no %s in %s", lines[i], reply);
    free(reply);
}

/* Clients that behave badly, and machines that do. */

static void a_client_that_leaves_is_forgotten(void **state)
{
    (void)state;
    int fd = dial();
    send_request(fd, "POST", "/v1/completions", "",
                 "{\"prompt\":\"hold\",\"stream\":true,\"n\":2,\"max_tokens\":1000}");
    read_until(fd, "\"text\":\"h\"");
    close(fd);
    wait_until_idle();
    assert_int_equal(fake_engine_cancelled(), 2);
    fd = dial(); /* nothing written yet: the whole answer is awaited */
    send_request(fd, "POST", "/v1/completions", "", "{\"prompt\":\"hold\",\"max_tokens\":1000}");
    while (fake_engine_live() == 0) usleep(1000);
    close(fd);
    wait_until_idle();
    assert_int_equal(fake_engine_cancelled(), 3);
    fd = dial(); /* in the middle of its body */
    send_text(fd, "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: "
                  "application/json\r\nContent-Length: 100\r\n\r\n{");
    while (ag_gateway_requests(gw) == 0) usleep(1000);
    close(fd);
    wait_until_idle();
    expect(200, "GET", "/metrics", "", NULL, "\nautoglm_errors_total{code=\"client_closed_request\"} 3\n");
}

static void a_failure_in_a_stream_is_an_event(void **state)
{
    (void)state;
    heard h;
    stream(&h, "/v1/completions", "{\"prompt\":\"burn:3\",\"stream\":true}");
    assert_string_equal(h.text[0].p, "xxx");
    assert_int_equal(h.errors, 1);
    assert_true(h.done && h.finishes == 0);
    unhear(&h);
}

static void a_slow_reader_gets_everything(void **state)
{
    (void)state;
    int fd = dial(), small = 4096;
    setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
    send_request(fd, "POST", "/v1/completions", "", "{\"prompt\":\"long:50000\",\"stream\":true,\"max_tokens\":60000}");
    expect(200, "POST", "/v1/completions", "", "{\"prompt\":\"say:others go on\"}", NULL);
    char *reply = read_all(fd), *text = body_of(reply);
    heard h;
    hear(&h, text);
    assert_int_equal(h.text[0].n, 50000);
    assert_true(h.done && h.finishes == 1);
    unhear(&h);
    free(text);
    free(reply);
}

/* Together more than a request may hold, each of them little. */
static void a_slow_reader_of_many_choices_gets_everything(void **state)
{
    (void)state;
    enum { CHOICES = 128, ECHO = 40000 };
    ag_buf b;
    ag_buf_init(&b, 1 << 20);
    ag_buf_addf(&b, "{\"stream\":true,\"echo\":true,\"n\":%d,\"prompt\":\"", CHOICES);
    for (int i = 0; i < ECHO; i++) ag_buf_addz(&b, "\\u0001");
    ag_buf_addz(&b, "say:x\"}");
    ag_buf_zterm(&b);
    int fd = dial(), small = 65536;
    setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
    send_request(fd, "POST", "/v1/completions", "", b.p);
    while (fake_engine_live() < CHOICES) usleep(1000);
    for (int i = 0; i < 20; i++) expect(200, "POST", "/v1/completions", "", "{\"prompt\":\"say:others go on\"}", NULL);
    char *reply = read_all(fd);
    size_t n = strlen(reply);
    assert_true(n > (size_t)CHOICES * ECHO * 6);
    assert_non_null(strstr(reply + n - 100, "data: [DONE]"));
    free(reply);
    ag_buf_fini(&b);
}

static void large_bodies_are_prepared_elsewhere(void **state)
{
    (void)state;
    ag_buf b;
    ag_buf_init(&b, 1 << 20);
    ag_buf_addz(&b, "{\"max_tokens\":5,\"prompt\":\"");
    for (int i = 0; i < 40000; i++) ag_buf_addc(&b, 'p');
    ag_buf_addz(&b, "say:big\"}");
    ag_buf_zterm(&b);
    json_t *j = post_json("/v1/completions", b.p, 200);
    assert_string_equal(str_at(choice_at(j, 0), "text"), "big");
    json_decref(j);
    for (int i = 0; i < 5; i++) { /* the client leaves while the worker has it */
        int fd = dial();
        send_request(fd, "POST", "/v1/completions", "", b.p);
        close(fd);
    }
    wait_until_idle();
    ag_buf_reset(&b);
    ag_buf_addz(&b, "{\"prompt\":\"");
    for (int i = 0; i < 40000; i++) ag_buf_addc(&b, 'p');
    ag_buf_addz(&b, "\",\"n\":0}");
    ag_buf_zterm(&b);
    json_decref(post_json("/v1/completions", b.p, 400));
    ag_buf_fini(&b);
}

static void drain_lets_answers_finish(void **state)
{
    (void)state;
    serve(AG_GATEWAY_CONF_DEFAULT, true);
    int fd = dial();
    send_request(fd, "POST", "/v1/completions", "", "{\"prompt\":\"long:3000\",\"stream\":true,\"max_tokens\":3000}");
    read_until(fd, "\"text\":\"x");
    ag_gateway_drain(gw);
    char *rest = read_all(fd);
    assert_non_null(strstr(rest, "data: [DONE]"));
    free(rest);
    teardown(NULL);
    serve(AG_GATEWAY_CONF_DEFAULT, true);
    fd = dial();
    send_request(fd, "POST", "/v1/completions", "", "{\"prompt\":\"hold\",\"stream\":true}");
    read_until(fd, "\"text\":\"h");
    ag_gateway_stop(gw, 0); /* broken off */
    close(fd);
    teardown(NULL);
}

static void no_memory_is_an_answer(void **state)
{
    (void)state;
#ifdef AG_FAULTS
    static const char *const bodies[] = {
        "{\"prompt\":\"say:abc\",\"max_tokens\":5}",
        "{\"prompt\":\"say:abc\",\"max_tokens\":5,\"stream\":true,\"logprobs\":1,\"echo\":true}",
    };
    for (size_t i = 0; i < AG_ARRAY_LEN(bodies); i++) {
        for (uint32_t n = 1;; n++) {
            int fd = dial();
            ag_fault_arm(AG_FAULT_ALLOC, n);
            send_text(fd, "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: "
                          "application/json\r\n");
            char rest[256];
            snprintf(rest, sizeof rest, "Content-Length: %zu\r\n\r\n%s", strlen(bodies[i]), bodies[i]);
            send_text(fd, rest);
            char *reply = read_all(fd);
            wait_until_idle();
            bool fired = ag_fault_disarm(AG_FAULT_ALLOC);
            int status = status_of(reply);
            if (!(status == 200 || (fired && (status == 503 || status == 0)))) /* 0: the connection itself had none */
                fail_msg("n=%u: %s", n, reply);
            free(reply);
            if (!fired) break;
        }
    }
#endif
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        SERVED(completion_is_openais),
        SERVED(chat_is_openais),
        SERVED(echo_and_logprobs_line_up),
        SERVED(streams_are_openais),
        SERVED(broken_characters_are_replaced),
        SERVED(tokens_both_ways),
        SERVED(messages_are_anthropics),
        SERVED(a_stop_string_is_named),
        SERVED(message_streams_are_anthropics),
        cmocka_unit_test(calls_and_reasoning_are_told_apart),
        SERVED(refusals_speak_the_callers_dialect),
        SERVED(aliases_and_strictness_are_settings),
        SERVED(every_refusal_has_its_status),
        SERVED(strangers_are_kept_out),
        cmocka_unit_test(keys_open_the_door),
        cmocka_unit_test(unsafe_settings_are_refused),
        cmocka_unit_test(not_ready_until_the_model_is_there),
        SERVED(metrics_tell_what_happened),
        SERVED(a_client_that_leaves_is_forgotten),
        SERVED(a_failure_in_a_stream_is_an_event),
        SERVED(a_slow_reader_gets_everything),
        SERVED(a_slow_reader_of_many_choices_gets_everything),
        SERVED(large_bodies_are_prepared_elsewhere),
        cmocka_unit_test(drain_lets_answers_finish),
        SERVED(no_memory_is_an_answer),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
