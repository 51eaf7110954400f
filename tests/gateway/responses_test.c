/* What is read of a response's request, what it becomes for the template, and how answers, events and lists read. */
#include "check.h"

#include <jansson.h>
#include <string.h>

#include "base/fault.h"
#include "base/mem.h"
#include "gateway/dialects/openai.h"
#include "gateway/dialects/responses.h"

#define FN "{\"type\":\"function\",\"name\":\"f\",\"description\":\"d\",\"parameters\":{\"type\":\"object\"}}"
#define IN(item) "{\"input\":[" item "]}"
#define WITH(field) "{\"input\":\"x\"," field "}"

static int parse(ag_request *r, const char *body, ag_str previous_body, ag_str previous_items, ag_err *err)
{
    ag_err_clear(err);
    ag_request_init(r, AG_REQUEST_RESPONSE);
    int rc = ag_openai_responses.parse(r, body, strlen(body), err);
    return rc == AG_OK ? ag_responses_converse(r, AG_STR("resp_ab"), previous_body, previous_items, err) : rc;
}

static void parse_ok(ag_request *r, const char *body)
{
    ag_err err = {0};
    if (parse(r, body, (ag_str){0}, (ag_str){0}, &err) != AG_OK) fail_msg("%s: %s", body, err.text);
}

static void same_json(json_t *have, const char *want)
{
    json_t *w = json_loads(want, JSON_DECODE_ANY, NULL);
    assert_non_null(w);
    if (!json_equal(w, have)) fail_msg("want %s\nhave %s", want, json_dumps(have, JSON_COMPACT | JSON_ENCODE_ANY));
    json_decref(w);
}

/* What the template gets, and what is kept. */
static void becomes(const char *body, const char *messages, const char *items)
{
    ag_request r;
    parse_ok(&r, body);
    same_json(json_object_get(r.vars, "messages"), messages);
    if (items) same_json(r.items, items);
    ag_request_fini(&r);
}

static void items_become_messages(void **state)
{
    (void)state;
    becomes("{\"input\":\"hi\"}", "[{\"role\":\"user\",\"content\":\"hi\"}]",
            "[{\"id\":\"msg_ab_in0\",\"type\":\"message\",\"status\":\"completed\",\"role\":\"user\",\"content\":[{\"type\":"
            "\"input_text\",\"text\":\"hi\"}]}]");
    becomes("{\"instructions\":\"be brief\",\"input\":[{\"role\":\"developer\",\"content\":\"d\"},{\"type\":\"message\",\"role\":"
            "\"user\",\"id\":\"m1\",\"content\":[{\"type\":\"input_text\",\"text\":\"a\"},{\"type\":\"input_text\",\"text\":\"b\"}]}]}",
            "[{\"role\":\"system\",\"content\":\"be brief\"},{\"role\":\"system\",\"content\":\"d\"},{\"role\":\"user\",\"content\":"
            "\"a\\nb\"}]",
            "[{\"id\":\"msg_ab_in0\",\"type\":\"message\",\"status\":\"completed\",\"role\":\"developer\",\"content\":[{\"type\":"
            "\"input_text\",\"text\":\"d\"}]},{\"id\":\"m1\",\"type\":\"message\",\"status\":\"completed\",\"role\":\"user\","
            "\"content\":[{\"type\":\"input_text\",\"text\":\"a\"},{\"type\":\"input_text\",\"text\":\"b\"}]}]");
    /* A turn of the assistant's: reasoning, what it said, what it called. What is not kept of an item is dropped. */
    becomes(IN("{\"role\":\"user\",\"content\":\"q\"},{\"type\":\"reasoning\",\"id\":\"rs_1\",\"summary\":[],\"content\":[{\"type\":"
               "\"reasoning_text\",\"text\":\"hm\"}],\"encrypted_content\":\"zzz\"},{\"type\":\"message\",\"role\":\"assistant\","
               "\"content\":[{\"type\":\"output_text\",\"text\":\"so\",\"annotations\":[],\"logprobs\":[]}]},{\"type\":"
               "\"function_call\",\"call_id\":\"c1\",\"name\":\"f\",\"arguments\":\"{\\\"x\\\":1}\"},{\"type\":\"function_call\","
               "\"call_id\":\"c2\",\"name\":\"g\",\"arguments\":\"no json\"},{\"type\":\"function_call_output\",\"call_id\":\"c1\","
               "\"output\":\"42\"},{\"type\":\"function_call_output\",\"call_id\":\"c2\",\"output\":[{\"type\":\"input_text\","
               "\"text\":\"4\"},{\"type\":\"input_text\",\"text\":\"3\"}]}"),
            "[{\"role\":\"user\",\"content\":\"q\"},{\"role\":\"assistant\",\"content\":\"so\",\"reasoning_content\":\"hm\","
            "\"tool_calls\":[{\"id\":\"c1\",\"type\":\"function\",\"function\":{\"name\":\"f\",\"arguments\":{\"x\":1}}},{\"id\":"
            "\"c2\",\"type\":\"function\",\"function\":{\"name\":\"g\",\"arguments\":\"no json\"}}]},{\"role\":\"tool\",\"content\":"
            "\"42\",\"tool_call_id\":\"c1\"},{\"role\":\"tool\",\"content\":\"4\\n3\",\"tool_call_id\":\"c2\"}]",
            NULL);
    /* Each call that was answered is a turn of its own; reasoning that nothing follows is left out. */
    becomes(IN("{\"type\":\"reasoning\",\"summary\":[{\"type\":\"summary_text\",\"text\":\"s\"}]},{\"type\":\"function_call\","
               "\"call_id\":\"a\",\"name\":\"f\",\"arguments\":\"{}\"},{\"type\":\"function_call_output\",\"call_id\":\"a\","
               "\"output\":\"1\"},{\"type\":\"function_call\",\"call_id\":\"b\",\"name\":\"f\",\"arguments\":\"{}\"},{\"type\":"
               "\"reasoning\",\"summary\":[{\"type\":\"summary_text\",\"text\":\"t\"}]},{\"role\":\"user\",\"content\":\"x\"}"),
            "[{\"role\":\"assistant\",\"content\":\"\",\"reasoning_content\":\"s\",\"tool_calls\":[{\"id\":\"a\",\"type\":\"function\","
            "\"function\":{\"name\":\"f\",\"arguments\":{}}}]},{\"role\":\"tool\",\"content\":\"1\",\"tool_call_id\":\"a\"},{\"role\":"
            "\"assistant\",\"content\":\"\",\"tool_calls\":[{\"id\":\"b\",\"type\":\"function\",\"function\":{\"name\":\"f\","
            "\"arguments\":{}}}]},{\"role\":\"user\",\"content\":\"x\"}]",
            NULL);
}

static void fields_arrive(void **state)
{
    (void)state;
    ag_request r;
    parse_ok(&r, WITH("\"model\":\"m\",\"max_output_tokens\":7,\"temperature\":0.5,\"top_p\":0.9,\"stream\":true,\"store\":false,"
                      "\"reasoning\":{\"effort\":\"low\",\"summary\":\"auto\"},\"text\":{\"format\":{\"type\":\"json_object\"},"
                      "\"verbosity\":\"low\"},\"truncation\":\"disabled\",\"include\":[\"reasoning.encrypted_content\"],"
                      "\"metadata\":{\"a\":\"b\"},\"user\":\"u\",\"priority\":1,\"seed\":5,\"service_tier\":\"auto\""));
    assert_true(ag_str_eqz(r.model, "m") && r.max_tokens == 7 && r.stream && !r.store && !r.background && r.json);
    assert_true(r.priority == 1 && r.sampling.seed == 5 && r.sampling.temperature == 0.5f);
    assert_true(json_is_true(json_object_get(r.vars, "enable_thinking")));
    assert_string_equal(json_string_value(json_object_get(r.vars, "reasoning_effort")), "low");
    assert_string_equal(r.ignored, "service_tier");
    ag_request_fini(&r);
    parse_ok(&r, WITH("\"tools\":[" FN "],\"tool_choice\":{\"type\":\"function\",\"name\":\"f\"},\"background\":true,"
                      "\"reasoning\":{\"effort\":\"none\"}"));
    assert_true(ag_str_eqz(r.forced_tool, "f") && r.store && r.background);
    assert_true(json_is_false(json_object_get(r.vars, "enable_thinking")));
    same_json((json_t *)r.tools, "[{\"type\":\"function\",\"function\":{\"name\":\"f\",\"description\":\"d\",\"parameters\":{\"type\":"
                                 "\"object\"}}}]");
    ag_request_fini(&r);
    parse_ok(&r, WITH("\"tools\":[" FN "],\"tool_choice\":\"none\",\"parallel_tool_calls\":false"));
    assert_true(r.tools == NULL && !r.parallel_calls);
    ag_request_fini(&r);
}

static const struct bad_case {
    const char *body;
    int code;
    const char *param, *part;
} bad[] = {
    {"", AG_E_JSON, "", "empty"},
    {"{}", AG_E_PARAM_MISSING, "input", "missing"},
    {"{\"input\":5}", AG_E_PARAM, "input", "a string or an array of items"},
    {"{\"input\":[]}", AG_E_PARAM, "input", "at least one"},
    {IN("5"), AG_E_PARAM, "input[0]", "an object"},
    {IN("{\"type\":5}"), AG_E_PARAM, "input[0]", "'input[0].type' must be a string"},
    {IN("{\"type\":\"item_reference\",\"id\":\"x\"}"), AG_E_UNSUPPORTED, "input[0]", "item_reference"},
    {IN("{\"id\":5,\"role\":\"user\",\"content\":\"x\"}"), AG_E_PARAM, "input[0]", "1 to 64"},
    {IN("{\"id\":\"\",\"role\":\"user\",\"content\":\"x\"}"), AG_E_PARAM, "input[0]", "1 to 64"},
    {IN("{\"content\":\"x\"}"), AG_E_PARAM_MISSING, "input[0]", "'role'"},
    {IN("{\"role\":\"tool\",\"content\":\"x\"}"), AG_E_PARAM, "input[0]", "\"developer\""},
    {IN("{\"role\":\"user\"}"), AG_E_PARAM_MISSING, "input[0]", "content"},
    {IN("{\"role\":\"user\",\"content\":5}"), AG_E_PARAM, "input[0].content", "a string or an array"},
    {IN("{\"role\":\"user\",\"content\":[5]}"), AG_E_PARAM, "input[0].content[0]", "an object"},
    {IN("{\"role\":\"user\",\"content\":[{}]}"), AG_E_PARAM, "input[0].content[0]", "'type'"},
    {IN("{\"role\":\"user\",\"content\":[{\"type\":\"input_image\"}]}"), AG_E_UNSUPPORTED, "input[0].content[0]",
     "input_image"},
    {IN("{\"role\":\"user\",\"content\":[{\"type\":\"input_text\"}]}"), AG_E_PARAM_MISSING, "input[0].content[0]",
     "'text'"},
    {IN("{\"type\":\"function_call\",\"name\":\"f\",\"arguments\":\"{}\"}"), AG_E_PARAM_MISSING, "input[0]",
     "'call_id'"},
    {IN("{\"type\":\"function_call\",\"call_id\":\"c\",\"arguments\":\"{}\"}"), AG_E_PARAM_MISSING, "input[0]",
     "'name'"},
    {IN("{\"type\":\"function_call\",\"call_id\":\"c\",\"name\":\"f\",\"arguments\":{}}"), AG_E_PARAM, "input[0]",
     "'arguments'"},
    {IN("{\"type\":\"function_call_output\",\"output\":\"x\"}"), AG_E_PARAM_MISSING, "input[0]", "'call_id'"},
    {IN("{\"type\":\"function_call_output\",\"call_id\":\"c\"}"), AG_E_PARAM_MISSING, "input[0]", "output"},
    {IN("{\"type\":\"function_call_output\",\"call_id\":\"c\",\"output\":5}"), AG_E_PARAM, "input[0].output",
     "a string"},
    {IN("{\"type\":\"reasoning\",\"summary\":5}"), AG_E_PARAM, "input[0].summary", "an array"},
    {IN("{\"type\":\"reasoning\",\"summary\":[]}"), AG_E_PARAM, "input", "reasoning alone"},
    {WITH("\"instructions\":5"), AG_E_PARAM, "instructions", "a string"},
    {WITH("\"previous_response_id\":5"), AG_E_PARAM, "previous_response_id", "a string"},
    {WITH("\"previous_response_id\":\"\""), AG_E_PARAM, "previous_response_id", "1 to 64"},
    {WITH("\"conversation\":\"c\""), AG_E_UNSUPPORTED, "conversation", "previous_response_id"},
    {WITH("\"prompt\":{\"id\":\"p\"}"), AG_E_UNSUPPORTED, "prompt", "elsewhere"},
    {WITH("\"tools\":5"), AG_E_PARAM, "tools", "an array"},
    {WITH("\"tools\":[5]"), AG_E_PARAM, "tools[0]", "an object"},
    {WITH("\"tools\":[{\"name\":\"f\"}]"), AG_E_PARAM, "tools[0]", "'type'"},
    {WITH("\"tools\":[{\"type\":\"web_search\"}]"), AG_E_UNSUPPORTED, "tools[0]", "web_search"},
    {WITH("\"tools\":[{\"type\":\"function\"}]"), AG_E_PARAM, "tools[0]", "name"},
    {WITH("\"tools\":[{\"type\":\"function\",\"name\":\"f\",\"parameters\":5}]"), AG_E_PARAM, "tools[0]", "parameters"},
    {WITH("\"tool_choice\":5"), AG_E_PARAM, "tool_choice", "a string or an object"},
    {WITH("\"tool_choice\":{\"type\":\"allowed_tools\"}"), AG_E_UNSUPPORTED, "tool_choice", "\"required\""},
    {WITH("\"tool_choice\":{}"), AG_E_PARAM, "tool_choice", "\"required\""},
    {WITH("\"tool_choice\":{\"type\":\"function\",\"name\":\"g\"}"), AG_E_PARAM, "tool_choice", "not among"},
    {WITH("\"tool_choice\":\"required\""), AG_E_PARAM, "tool_choice", "no 'tools'"},
    {WITH("\"reasoning\":5"), AG_E_PARAM, "reasoning", "an object"},
    {WITH("\"reasoning\":{\"effort\":\"huge\"}"), AG_E_PARAM, "reasoning", "effort"},
    {WITH("\"reasoning\":{\"summary\":\"huge\"}"), AG_E_PARAM, "reasoning", "summary"},
    {WITH("\"text\":5"), AG_E_PARAM, "text", "an object"},
    {WITH("\"text\":{\"format\":{}}"), AG_E_PARAM, "text.format", "'type'"},
    {WITH("\"text\":{\"format\":{\"type\":\"json_schema\",\"name\":\"x\",\"schema\":{}}}"), AG_E_UNSUPPORTED,
     "text.format", "json_schema"},
    {WITH("\"text\":{\"verbosity\":\"x\"}"), AG_E_PARAM, "text", "verbosity"},
    {WITH("\"text\":{\"format\":{\"type\":\"json_object\"}},\"tools\":[" FN "]"), AG_E_UNSUPPORTED, "text.format",
     "'tools'"},
    {WITH("\"text\":{\"format\":{\"type\":\"json_object\"}},\"max_output_tokens\":1"), AG_E_PARAM, "max_output_tokens",
     "at least 2"},
    {WITH("\"max_output_tokens\":0"), AG_E_PARAM, "max_output_tokens", "between 1"},
    {WITH("\"truncation\":\"auto\""), AG_E_UNSUPPORTED, "truncation", "context"},
    {WITH("\"truncation\":5"), AG_E_PARAM, "truncation", "\"disabled\""},
    {WITH("\"include\":\"x\""), AG_E_PARAM, "include", "an array"},
    {WITH("\"include\":[\"x\"]"), AG_E_PARAM, "include", "include[0]"},
    {WITH("\"include\":[\"message.output_text.logprobs\"]"), AG_E_UNSUPPORTED, "include", "chat/completions"},
    {WITH("\"metadata\":5"), AG_E_PARAM, "metadata", "an object"},
    {WITH("\"metadata\":{\"a\":5}"), AG_E_PARAM, "metadata", "metadata.a"},
    {WITH("\"metadata\":{\"0123456789012345678901234567890123456789012345678901234567890123456789\":\"\"}"), AG_E_PARAM,
     "metadata", "70 bytes"},
    {WITH(
         "\"metadata\":{\"a\":\"\",\"b\":\"\",\"c\":\"\",\"d\":\"\",\"e\":\"\",\"f\":\"\",\"g\":\"\",\"h\":\"\",\"i\":\"\",\"j\":\"\","
         "\"k\":\"\",\"l\":\"\",\"m\":\"\",\"n\":\"\",\"o\":\"\",\"p\":\"\",\"q\":\"\"}"),
     AG_E_PARAM, "metadata", "17 entries"},
    {WITH("\"background\":true,\"store\":false"), AG_E_PARAM, "background", "'store'"},
    {WITH("\"temperature\":11"), AG_E_PARAM, "temperature", "between 0"},
};

static void every_mistake_gets_its_sentence(void **state)
{
    (void)state;
    for (size_t i = 0; i < AG_ARRAY_LEN(bad); i++) {
        ag_request r;
        ag_err err = {0};
        int rc = parse(&r, bad[i].body, (ag_str){0}, (ag_str){0}, &err);
        ag_request_fini(&r);
        if (rc != bad[i].code || strcmp(err.param, bad[i].param) != 0 || strstr(err.text, bad[i].part) == NULL)
            fail_msg("%s\n  gives %d, param '%s': %s", bad[i].body, rc, err.param, err.text);
    }
}

/* As many as may be can be read again when they were kept; one more is refused. */
static void conversations_are_bounded(void **state)
{
    (void)state;
    static const char *const one[] = {"{\"type\":\"output_text\",\"text\":\"\"}",
                                      "{\"role\":\"user\",\"content\":\"\"}"};
    static const struct {
        size_t n, what;
        const char *part; /* of the sentence; NULL: it is taken */
    } cases[] = {{AG_RESPONSE_PARTS_MAX, 0, NULL},
                 {AG_RESPONSE_PARTS_MAX + 1, 0, "65537 parts"},
                 {AG_RESPONSE_ITEMS_MAX, 1, NULL},
                 {AG_RESPONSE_ITEMS_MAX + 1, 1, "16385 items"}};
    for (size_t i = 0; i < AG_ARRAY_LEN(cases); i++) {
        ag_request r;
        ag_err err = {0};
        ag_buf body, kept, list;
        ag_buf_init(&body, 16u << 20);
        ag_buf_init(&kept, 64u << 20);
        ag_buf_init(&list, 64u << 20);
        ag_buf_addz(&body, cases[i].what ? "{\"input\":[" : "{\"input\":[{\"role\":\"assistant\",\"content\":[");
        for (size_t k = 0; k < cases[i].n; k++) ag_buf_addf(&body, "%s%s", k ? "," : "", one[cases[i].what]);
        ag_buf_addz(&body, cases[i].what ? "]}" : "]}]}");
        ag_buf_zterm(&body);
        int rc = parse(&r, body.p, (ag_str){0}, (ag_str){0}, &err);
        if (cases[i].part) {
            assert_int_equal(rc, AG_E_PARAM);
            assert_non_null(strstr(err.text, cases[i].part));
        } else {
            assert_int_equal(rc, AG_OK);
            assert_int_equal(ag_responses_items_write(&kept, &r, &err), AG_OK);
            assert_int_equal(ag_responses_list(&list, ag_buf_str(&kept), &(ag_items_ask){.limit = 1}, &err), AG_OK);
        }
        ag_request_fini(&r);
        ag_buf_fini(&body);
        ag_buf_fini(&kept);
        ag_buf_fini(&list);
    }
}

#define KEPT "[{\"id\":\"m0\",\"type\":\"message\",\"status\":\"completed\",\"role\":\"user\",\"content\":[{\"type\":\"input_text\",\"text\":\"q\"}]}]"
#define ANSWER "{\"id\":\"resp_0\",\"status\":\"completed\",\"background\":false,\"output\":[{\"id\":\"msg_0_0\",\"type\":\"message\","   \
               "\"role\":\"assistant\",\"status\":\"completed\",\"content\":[{\"type\":\"output_text\",\"text\":\"a\"}]}]}"

static void a_conversation_goes_on(void **state)
{
    (void)state;
    ag_request r;
    ag_err err = {0};
    assert_int_equal(parse(&r, WITH("\"previous_response_id\":\"resp_0\""), AG_STR(ANSWER), AG_STR(KEPT), &err), AG_OK);
    same_json(json_object_get(r.vars, "messages"),
              "[{\"role\":\"user\",\"content\":\"q\"},{\"role\":\"assistant\",\"content\":\"a\"},"
              "{\"role\":\"user\",\"content\":\"x\"}]");
    assert_string_equal(json_string_value(json_object_get(json_array_get(r.items, 1), "id")), "msg_0_0");
    assert_string_equal(json_string_value(json_object_get(json_array_get(r.items, 2), "id")), "msg_ab_in2");
    ag_request_fini(&r);
    static const struct {
        const char *body, *items;
        int code;
        const char *part;
    } cases[] = {{"{\"status\":\"queued\",\"output\":[]}", KEPT, AG_E_PREVIOUS_NOT_FOUND, "is queued"},
                 {"{\"status\":\"failed\",\"output\":[]}", KEPT, AG_E_PREVIOUS_NOT_FOUND, "is failed"},
                 {"nothing", KEPT, AG_E_RESPONSES, "cannot be read"},
                 {"{\"status\":\"completed\"}", KEPT, AG_E_RESPONSES, "cannot be read"},
                 {ANSWER, "{}", AG_E_RESPONSES, "cannot be read"},
                 {ANSWER, "[{\"type\":\"x\"}]", AG_E_RESPONSES, "cannot be read"}};
    for (size_t i = 0; i < AG_ARRAY_LEN(cases); i++) {
        int rc = parse(&r, WITH("\"previous_response_id\":\"resp_0\""), ag_str_of(cases[i].body),
                       ag_str_of(cases[i].items), &err);
        ag_request_fini(&r);
        if (rc != cases[i].code || strstr(err.text, cases[i].part) == NULL)
            fail_msg("%s gives %d: %s", cases[i].body, rc, err.text);
    }
}

/* Answers. */

#define TEXT(z) ((ag_part){.kind = AG_PART_TEXT, .text = {z, sizeof(z) - 1}})
#define THOUGHT(z) ((ag_part){.kind = AG_PART_THINKING, .text = {z, sizeof(z) - 1}})
#define CALL ((ag_part){.kind = AG_PART_CALL, .text = AG_STR("{\"x\":1}"), .name = AG_STR("f"), .id = "call_1"})

typedef struct answer {
    ag_request q;
    ag_response a;
    ag_reply r;
    ag_buf out;
} answer;

static void answer_init(answer *w, const char *body)
{
    parse_ok(&w->q, body);
    ag_response_init(&w->a, &w->q);
    w->r = (ag_reply){.kind = AG_REQUEST_RESPONSE,
                      .id = AG_STR("resp_ab"),
                      .created = 1700000000,
                      .model = AG_STR("m"),
                      .response = &w->a};
    ag_buf_init(&w->out, 1 << 20);
}

static void answer_fini(answer *w)
{
    ag_buf_fini(&w->out);
    ag_response_fini(&w->a);
    ag_request_fini(&w->q);
}

static json_t *object_of(ag_buf *out)
{
    json_error_t e;
    json_t *j = json_loadb(out->p, out->n, JSON_REJECT_DUPLICATES, &e);
    if (j == NULL || out->failed) fail_msg("%s: %.*s", e.text, (int)out->n, out->p);
    return j;
}

static const char ITEMS[] =
    "[{\"id\":\"rs_ab_0\",\"type\":\"reasoning\",\"summary\":[],\"status\":\"completed\",\"content\":[{\"type\":\"reasoning_text\",\"text\":"
    "\"hmm\"}]},{\"id\":\"msg_ab_1\",\"type\":\"message\",\"role\":\"assistant\",\"status\":\"completed\",\"content\":[{\"type\":"
    "\"output_text\",\"text\":\"a\\\"b\",\"annotations\":[],\"logprobs\":[]}]},{\"id\":\"fc_ab_2\",\"type\":\"function_call\",\"call_id\":"
    "\"call_1\",\"name\":\"f\",\"arguments\":\"{\\\"x\\\":1}\",\"status\":\"completed\"}]";

static void answers_read_as_documented(void **state)
{
    (void)state;
    answer w;
    const ag_dialect *d = &ag_openai_responses;
    answer_init(&w, WITH("\"instructions\":\"i\",\"metadata\":{\"k\":\"v\"},\"tools\":[" FN
                         "],\"user\":\"u\",\"reasoning\":{\"effort\":"
                         "\"high\"},\"temperature\":0.5"));
    ag_part parts[] = {THOUGHT("hm"), THOUGHT("m"), TEXT("a\""), TEXT("b"), CALL};
    d->begin(&w.out, &w.r);
    d->choice(&w.out, &w.r, 0, parts, AG_ARRAY_LEN(parts), NULL, &(ag_reply_end){.reason = AG_END_CALLS});
    w.a.reasoning_tokens = 2;
    d->end(&w.out, &w.r, &(ag_usage){10, 5, 4});
    json_t *j = object_of(&w.out);
    same_json(json_object_get(j, "output"), ITEMS);
    json_object_del(j, "output");
    same_json(j, "{\"id\":\"resp_ab\",\"object\":\"response\",\"created_at\":1700000000,\"status\":\"completed\",\"background\":false,"
                 "\"error\":null,\"incomplete_details\":null,\"model\":\"m\",\"instructions\":\"i\",\"max_output_tokens\":null,"
                 "\"metadata\":{\"k\":\"v\"},\"parallel_tool_calls\":true,\"previous_response_id\":null,\"reasoning\":{\"effort\":\"high\","
                 "\"summary\":null},\"temperature\":0.5,\"text\":{\"format\":{\"type\":\"text\"}},\"tool_choice\":\"auto\",\"tools\":[" FN
                 "],\"top_p\":1,\"truncation\":\"disabled\",\"user\":\"u\",\"usage\":{\"input_tokens\":10,\"input_tokens_details\":{"
                 "\"cached_tokens\":4,\"cache_write_tokens\":0},\"output_tokens\":5,\"output_tokens_details\":{\"reasoning_tokens\":2},"
                 "\"total_tokens\":15}}");
    json_decref(j);
    answer_fini(&w);
    answer_init(&w,
                WITH("\"text\":{\"format\":{\"type\":\"json_object\"},\"verbosity\":\"low\"},\"max_output_tokens\":9"));
    parts[0] = TEXT("{");
    d->choice(&w.out, &w.r, 0, parts, 1, NULL, &(ag_reply_end){.reason = AG_END_LENGTH, .timed_out = true});
    d->end(&w.out, &w.r, &(ag_usage){0});
    j = object_of(&w.out);
    assert_string_equal(json_string_value(json_object_get(j, "status")), "incomplete");
    same_json(json_object_get(j, "incomplete_details"), "{\"reason\":\"max_output_tokens\"}");
    same_json(json_object_get(j, "autoglm"), "{\"stopped_by\":\"timeout\"}");
    same_json(json_object_get(j, "text"), "{\"format\":{\"type\":\"json_object\"},\"verbosity\":\"low\"}");
    assert_string_equal(json_string_value(json_object_get(json_array_get(json_object_get(j, "output"), 0), "status")),
                        "incomplete");
    json_decref(j);
    answer_fini(&w);
}

/* The events' types in a row, each checked to be numbered; the last one's response. */
static json_t *events_of(ag_buf *out, char *types, size_t size)
{
    json_int_t number = 0;
    json_t *response = NULL;
    size_t n = 0;
    ag_buf_zterm(out);
    for (char *at = out->p, *end; *at; at = end + 2, number++) {
        char name[64] = "";
        end = strstr(at, "\n\n");
        assert_non_null(end);
        assert_int_equal(sscanf(at, "event: %63s", name), 1);
        char *data = strstr(at, "\ndata: ") + 7;
        json_t *j = json_loadb(data, (size_t)(end - data), JSON_REJECT_DUPLICATES, NULL);
        if (j == NULL) fail_msg("%s", data);
        assert_string_equal(json_string_value(json_object_get(j, "type")), name);
        assert_int_equal(json_integer_value(json_object_get(j, "sequence_number")), number);
        n += (size_t)snprintf(types + n, size - n, "%s ", name + strlen("response."));
        json_decref(response);
        response = json_incref(json_object_get(j, "response"));
        json_decref(j);
    }
    return response;
}

#define TOLD "output_item.added content_part.added "
#define ENDED "content_part.done output_item.done "

static void events_read_as_documented(void **state)
{
    (void)state;
    answer w;
    char types[2048];
    ag_place at = {0};
    ag_usage u = {10, 5, 4};
    const ag_dialect *d = &ag_openai_responses;
    answer_init(&w, WITH("\"tools\":[" FN "]"));
    ag_part parts[] = {THOUGHT("hm"), THOUGHT("m"), TEXT("a\""), TEXT("b"), CALL};
    d->open(&w.out, &w.r, &at, &u);
    for (size_t i = 0; i < AG_ARRAY_LEN(parts); i++) d->chunk(&w.out, &w.r, &at, &parts[i], NULL, NULL, &u);
    d->chunk(&w.out, &w.r, &at, NULL, NULL, &(ag_reply_end){.reason = AG_END_CALLS}, &u);
    ag_response_seal(&w.r, &u);
    d->close(&w.out, &w.r, &u);
    json_t *response = events_of(&w.out, types, sizeof types);
    assert_string_equal(
        types,
        "created in_progress " TOLD "reasoning_text.delta reasoning_text.delta reasoning_text.done " ENDED TOLD
        "output_text.delta output_text.delta output_text.done " ENDED
        "output_item.added function_call_arguments.delta function_call_arguments.done output_item.done completed ");
    same_json(json_object_get(response, "output"), ITEMS);
    json_decref(response);
    response = object_of(&w.a.whole);
    same_json(json_object_get(response, "output"), ITEMS);
    json_decref(response);
    answer_fini(&w);
    /* Cut, in the background. */
    answer_init(&w, WITH("\"background\":true"));
    w.a.status = AG_RESPONSE_QUEUED;
    d->open(&w.out, &w.r, &at, &u);
    d->chunk(&w.out, &w.r, &at, &parts[3], NULL, &(ag_reply_end){.reason = AG_END_LENGTH}, &u);
    d->close(&w.out, &w.r, &u);
    json_decref(events_of(&w.out, types, sizeof types));
    assert_string_equal(types,
                        "created queued in_progress " TOLD "output_text.delta output_text.done " ENDED "incomplete ");
    answer_fini(&w);
    /* Broken off: what there is stays in the response. */
    for (int cancelled = 0; cancelled < 2; cancelled++) {
        ag_err err = {.code = cancelled ? AG_E_CANCEL_ASKED : AG_E_DRAINING, .text = "why"};
        answer_init(&w, WITH("\"user\":5"));
        d->open(&w.out, &w.r, &at, &u);
        d->chunk(&w.out, &w.r, &at, &parts[3], NULL, NULL, &u);
        d->break_off(&w.out, &w.r, &err, AG_STR("req"));
        response = events_of(&w.out, types, sizeof types);
        assert_string_equal(types, "created in_progress " TOLD "output_text.delta failed ");
        assert_string_equal(json_string_value(json_object_get(response, "status")), cancelled ? "cancelled" : "failed");
        same_json(json_object_get(response, "error"),
                  cancelled ? "null" : "{\"code\":\"server_error\",\"message\":\"why\"}");
        assert_int_equal(json_array_size(json_object_get(response, "output")), 1);
        json_decref(response);
        answer_fini(&w);
    }
}

static void what_was_kept_is_told_again(void **state)
{
    (void)state;
    ag_buf out;
    ag_err err = {0};
    bool background = true;
    ag_buf_init(&out, 1 << 16);
    assert_int_equal(
        ag_responses_retell(&out, AG_STR("{\"id\":\"r\",\"status\":\"queued\",\"background\":true,\"error\":null}"),
                            "failed", &background, &err),
        AG_OK);
    json_t *j = object_of(&out);
    assert_true(background && json_object_get(json_object_get(j, "error"), "message"));
    assert_string_equal(json_string_value(json_object_get(j, "status")), "failed");
    json_decref(j);
    ag_buf_reset(&out);
    assert_int_equal(ag_responses_retell(&out, AG_STR("{\"status\":\"completed\"}"), NULL, &background, &err), AG_OK);
    assert_true(!background && ag_str_eqz(ag_buf_str(&out), "{\"status\":\"completed\"}"));
    assert_int_equal(ag_responses_retell(&out, AG_STR("[]"), NULL, &background, &err), AG_E_RESPONSES);
    ag_buf_fini(&out);
}

static void lists_go_both_ways(void **state)
{
    (void)state;
    static const struct {
        ag_items_ask ask;
        const char *want; /* ids, then whether there are more */
    } cases[] = {{{.limit = 20}, "cba-"},
                 {{.limit = 20, .ascending = true}, "abc-"},
                 {{.limit = 2}, "cb+"},
                 {{.after = "b", .limit = 20}, "a-"},
                 {{.after = "a", .limit = 1, .ascending = true}, "b+"},
                 {{.after = "c", .limit = 20, .ascending = true}, "-"}};
    for (size_t i = 0; i < AG_ARRAY_LEN(cases); i++) {
        ag_buf out;
        ag_err err = {0};
        char have[8] = "";
        ag_buf_init(&out, 1 << 16);
        assert_int_equal(
            ag_responses_list(&out, AG_STR("[{\"id\":\"a\"},{\"id\":\"b\"},{\"id\":\"c\"}]"), &cases[i].ask, &err),
            AG_OK);
        json_t *j = object_of(&out), *data = json_object_get(j, "data");
        for (size_t k = 0; k < json_array_size(data); k++)
            strcat(have, json_string_value(json_object_get(json_array_get(data, k), "id")));
        size_t n = strlen(have);
        assert_true(n == 0 || (json_string_value(json_object_get(j, "first_id"))[0] == have[0] &&
                               json_string_value(json_object_get(j, "last_id"))[0] == have[n - 1]));
        strcat(have, json_is_true(json_object_get(j, "has_more")) ? "+" : "-");
        assert_string_equal(have, cases[i].want);
        json_decref(j);
        ag_buf_fini(&out);
    }
    ag_buf out;
    ag_err err = {0};
    ag_buf_init(&out, 1 << 16);
    assert_int_equal(
        ag_responses_list(&out, AG_STR("[{\"id\":\"a\"}]"), &(ag_items_ask){.after = "z", .limit = 1}, &err),
        AG_E_PARAM);
    assert_string_equal(err.param, "after");
    ag_buf_fini(&out);
}

static void no_memory_is_an_error(void **state)
{
    (void)state;
#ifdef AG_FAULTS
    static const char body[] =
        "{\"instructions\":\"i\",\"previous_response_id\":\"resp_0\",\"tools\":[" FN
        "],\"input\":[{\"type\":\"reasoning\","
        "\"content\":[{\"type\":\"reasoning_text\",\"text\":\"t\"}]},{\"type\":\"function_call\",\"call_id\":\"c\",\"name\":"
        "\"f\",\"arguments\":\"{}\"},{\"type\":\"function_call_output\",\"call_id\":\"c\",\"output\":\"1\"},{\"role\":\"user\","
        "\"content\":[{\"type\":\"input_text\",\"text\":\"x\"}]}]}";
    for (uint32_t n = 1;; n++) {
        ag_request r;
        ag_err err = {0};
        ag_fault_arm(AG_FAULT_ALLOC, n);
        int rc = parse(&r, body, AG_STR(ANSWER), AG_STR(KEPT), &err);
        bool fired = ag_fault_disarm(AG_FAULT_ALLOC);
        ag_request_fini(&r);
        if (fired ? rc != AG_E_NOMEM : rc != AG_OK) fail_msg("n=%u: %d %s", n, rc, err.text);
        if (!fired) break;
    }
    for (uint32_t n = 1;; n++) {
        answer w;
        ag_part parts[] = {THOUGHT("hm"), TEXT("b"), CALL};
        ag_place at = {0};
        ag_usage u = {0};
        answer_init(&w, WITH("\"tools\":[" FN "]"));
        ag_fault_arm(AG_FAULT_ALLOC, n);
        ag_openai_responses.open(&w.out, &w.r, &at, &u);
        for (size_t i = 0; i < AG_ARRAY_LEN(parts); i++)
            ag_openai_responses.chunk(&w.out, &w.r, &at, &parts[i], NULL, NULL, &u);
        ag_openai_responses.chunk(&w.out, &w.r, &at, NULL, NULL, &(ag_reply_end){.reason = AG_END_CALLS}, &u);
        ag_openai_responses.close(&w.out, &w.r, &u);
        bool fired = ag_fault_disarm(AG_FAULT_ALLOC), failed = w.out.failed;
        answer_fini(&w);
        if (fired != failed) fail_msg("n=%u: %s", n, fired ? "not noticed" : "failed");
        if (!fired) break;
    }
#endif
}

int main(void)
{
    ag_openai_init();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(items_become_messages),      cmocka_unit_test(fields_arrive),
        cmocka_unit_test(every_mistake_gets_its_sentence), cmocka_unit_test(a_conversation_goes_on),
        cmocka_unit_test(conversations_are_bounded),
        cmocka_unit_test(answers_read_as_documented), cmocka_unit_test(events_read_as_documented),
        cmocka_unit_test(what_was_kept_is_told_again), cmocka_unit_test(lists_go_both_ways),
        cmocka_unit_test(no_memory_is_an_error),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
