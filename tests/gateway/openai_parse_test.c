#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/buf.h"
#include "base/fault.h"
#include "base/mem.h"
#include "gateway/dialects/openai.h"

#define C AG_REQUEST_COMPLETION
#define H AG_REQUEST_CHAT
#define T AG_REQUEST_TOKENIZE
#define E AG_REQUEST_EMBEDDINGS
#define D AG_REQUEST_DETOKENIZE
#define TOOL "{\"type\":\"function\",\"function\":{\"name\":\"f\"}}"
#define MSG "\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]"

static int parse(ag_request *r, ag_request_kind kind, const char *body, size_t n, ag_err *err)
{
    ag_err_clear(err);
    ag_request_init(r, kind);
    return ag_openai_parse(r, body, n, err);
}

static void parse_ok(ag_request *r, ag_request_kind kind, const char *body)
{
    ag_err err = {0};
    if (parse(r, kind, body, strlen(body), &err) != AG_OK) fail_msg("%s: %s", body, err.text);
}

typedef struct bad_case {
    ag_request_kind kind;
    const char *body;
    int code;
    const char *param, *part; /* of the sentence */
} bad_case;

static const bad_case bad[] = {
    {C, "", AG_E_JSON, "", "empty"},
    {C, " \n\t", AG_E_JSON, "", "empty"},
    {C, "{", AG_E_JSON, "", "not valid JSON"},
    {C, "{\"prompt\":\"x\"} {", AG_E_JSON, "", "not valid JSON"},
    {C, "[1]", AG_E_JSON, "", "an array"},
    {C, "\"x\"", AG_E_JSON, "", "a string"},
    {C, "null", AG_E_JSON, "", "null"},
    {C, "{\"prompt\":\"a\",\"prompt\":\"b\"}", AG_E_JSON, "", "duplicate"},
    {C, "{\"prompt\":\"\xff\"}", AG_E_UTF8, "", "byte 11 (0xFF)"},
    {C, "{\"prompt\":\"\xed\xa0\x80\"}", AG_E_UTF8, "", "byte 11"},
    {C, "{\"prompt\":\"\\ud800\"}", AG_E_JSON, "", "not valid JSON"},
    {C, "{\"prompt\":\"\\udc00x\"}", AG_E_JSON, "", "not valid JSON"},
    {C, "{\"prompt\":\"x\",\"seed\":99999999999999999999}", AG_E_PARAM, "", "too big integer"},
    {C, "{\"prompt\":\"x\",\"temperature\":1e999}", AG_E_PARAM, "", "overflow"},
    {E, "{}", AG_E_PARAM_MISSING, "input", "say what is to be embedded"},
    {E, "{\"prompt\":\"x\"}", AG_E_PARAM_MISSING, "input", "missing"},
    {E, "{\"input\":null}", AG_E_PARAM_MISSING, "input", "missing"},
    {E, "{\"input\":\"\"}", AG_E_PARAM, "input", "'input' is empty: there is nothing to embed"},
    {E, "{\"input\":[]}", AG_E_PARAM, "input", "'input' is empty"},
    {E, "{\"input\":[\"a\",\"\"]}", AG_E_PARAM, "input", "'input[1]' is empty"},
    {E, "{\"input\":[[1],[]]}", AG_E_PARAM, "input", "'input[1]' is empty"},
    {E, "{\"input\":7}", AG_E_PARAM, "input", "'input' must be a string"},
    {E, "{\"input\":{}}", AG_E_PARAM, "input", "not an object"},
    {E, "{\"input\":[\"a\",7]}", AG_E_PARAM, "input", "'input[1]' must be a string"},
    {E, "{\"input\":[7,\"a\"]}", AG_E_PARAM, "input", "input[1]"},
    {E, "{\"input\":[7,-1]}", AG_E_PARAM, "input", "input[1]"},
    {E, "{\"input\":[[7],[1.5]]}", AG_E_PARAM, "input", "input[1][0]"},
    {E, "{\"input\":\"x\",\"encoding_format\":\"hex\"}", AG_E_PARAM, "encoding_format",
     "\"hex\"; it should be \"float\" or \"base64\""},
    {E, "{\"input\":\"x\",\"encoding_format\":1}", AG_E_PARAM, "encoding_format", "a string"},
    {E, "{\"input\":\"x\",\"dimensions\":0}", AG_E_PARAM, "dimensions", "between 1 and 131072"},
    {E, "{\"input\":\"x\",\"dimensions\":131073}", AG_E_PARAM, "dimensions", "between 1 and 131072"},
    {E, "{\"input\":\"x\",\"priority\":4}", AG_E_PARAM, "priority", "between 0 and 3"},
    {C, "{}", AG_E_PARAM_MISSING, "prompt", "missing"},
    {C, "{\"prompt\":null}", AG_E_PARAM_MISSING, "prompt", "missing"},
    {C, "{\"prompt\":\"\"}", AG_E_PARAM, "prompt", "empty"},
    {C, "{\"prompt\":[]}", AG_E_PARAM, "prompt", "empty"},
    {C, "{\"prompt\":[\"a\",\"\"]}", AG_E_PARAM, "prompt", "empty"},
    {C, "{\"prompt\":[[]]}", AG_E_PARAM, "prompt", "empty"},
    {C, "{\"prompt\":5}", AG_E_PARAM, "prompt", "a number"},
    {C, "{\"prompt\":{}}", AG_E_PARAM, "prompt", "an object"},
    {C, "{\"prompt\":[1,\"a\"]}", AG_E_PARAM, "prompt", "a string"},
    {C, "{\"prompt\":[\"a\",1]}", AG_E_PARAM, "prompt", "a number"},
    {C, "{\"prompt\":[-1]}", AG_E_PARAM, "prompt", "-1"},
    {C, "{\"prompt\":[1.5]}", AG_E_PARAM, "prompt", "integer"},
    {C, "{\"prompt\":[4294967296]}", AG_E_PARAM, "prompt", "4294967296"},
    {C, "{\"prompt\":\"x\",\"model\":5}", AG_E_PARAM, "model", "a string"},
    {C, "{\"prompt\":\"x\",\"max_tokens\":\"5\"}", AG_E_PARAM, "max_tokens", "an integer, not a string"},
    {C, "{\"prompt\":\"x\",\"max_tokens\":5.5}", AG_E_PARAM, "max_tokens", "5.5"},
    {C, "{\"prompt\":\"x\",\"max_tokens\":-1}", AG_E_PARAM, "max_tokens", "-1 was given"},
    {C, "{\"prompt\":\"x\",\"max_tokens\":0,\"echo\":true}", AG_E_PARAM, "max_tokens", "only with 'echo'"},
    {C, "{\"prompt\":\"x\",\"max_tokens\":1e300}", AG_E_PARAM, "max_tokens", "integer"},
    {C, "{\"prompt\":\"x\",\"max_tokens\":4,\"min_tokens\":5}", AG_E_PARAM, "min_tokens", "more than"},
    {C, "{\"prompt\":\"x\",\"temperature\":\"hot\"}", AG_E_PARAM, "temperature", "a number, not a string"},
    {C, "{\"prompt\":\"x\",\"temperature\":-0.1}", AG_E_PARAM, "temperature", "between 0 and 10"},
    {C, "{\"prompt\":\"x\",\"temperature\":11}", AG_E_PARAM, "temperature", "11 was given"},
    {C, "{\"prompt\":\"x\",\"top_p\":0}", AG_E_PARAM, "top_p", "greater than 0"},
    {C, "{\"prompt\":\"x\",\"top_p\":1.01}", AG_E_PARAM, "top_p", "at most 1"},
    {C, "{\"prompt\":\"x\",\"top_k\":-2}", AG_E_PARAM, "top_k", "-2"},
    {C, "{\"prompt\":\"x\",\"min_p\":2}", AG_E_PARAM, "min_p", "between 0 and 1"},
    {C, "{\"prompt\":\"x\",\"typical_p\":0}", AG_E_PARAM, "typical_p", "greater"},
    {C, "{\"prompt\":\"x\",\"repetition_penalty\":0}", AG_E_PARAM, "repetition_penalty", "greater"},
    {C, "{\"prompt\":\"x\",\"presence_penalty\":-2.5}", AG_E_PARAM, "presence_penalty", "-2"},
    {C, "{\"prompt\":\"x\",\"frequency_penalty\":[]}", AG_E_PARAM, "frequency_penalty", "an array"},
    {C, "{\"prompt\":\"x\",\"seed\":\"1\"}", AG_E_PARAM, "seed", "an integer"},
    {C, "{\"prompt\":\"x\",\"seed\":0.5}", AG_E_PARAM, "seed", "0.5"},
    {C, "{\"prompt\":\"x\",\"logit_bias\":[]}", AG_E_PARAM, "logit_bias", "an object"},
    {C, "{\"prompt\":\"x\",\"logit_bias\":{\"a\":1}}", AG_E_PARAM, "logit_bias", "\"a\""},
    {C, "{\"prompt\":\"x\",\"logit_bias\":{\"-1\":1}}", AG_E_PARAM, "logit_bias", "\"-1\""},
    {C, "{\"prompt\":\"x\",\"logit_bias\":{\"1 \":1}}", AG_E_PARAM, "logit_bias", "not a token id"},
    {C, "{\"prompt\":\"x\",\"logit_bias\":{\"99999999999999999999\":1}}", AG_E_PARAM, "logit_bias", "not a token id"},
    {C, "{\"prompt\":\"x\",\"logit_bias\":{\"1\":101}}", AG_E_PARAM, "logit_bias", "'logit_bias.1' must be between"},
    {C, "{\"prompt\":[1,\"a\"]}", AG_E_PARAM, "prompt", "'prompt[1]' must be an integer, not a string."},
    {C, "{\"prompt\":[\"a\",1]}", AG_E_PARAM, "prompt", "'prompt[1]' must be a string, or"},
    {C, "{\"prompt\":[\"a\",[1,-1]]}", AG_E_PARAM, "prompt", "'prompt[1][1]' must be between"},
    {C, "{\"prompt\":[[1],[]]}", AG_E_PARAM, "prompt", "'prompt[1]' is empty"},
    {C, "{\"prompt\":\"x\",\"stop_token_ids\":[1,null]}", AG_E_PARAM, "stop_token_ids",
     "'stop_token_ids[1]' must be an"},
    {C, "{\"prompt\":\"x\",\"max_tokens\":99999999999999999999}", AG_E_PARAM, "", "does not fit into 64 bits"},
    {C, "{\"prompt\":\"x\",\"temperature\":1e999}", AG_E_PARAM, "", "does not fit into 64 bits"},
    {C, "{\"prompt\":\"x\",\"logit_bias\":{\"1\":\"1\"}}", AG_E_PARAM, "logit_bias", "a number"},
    {C, "{\"prompt\":\"x\",\"n\":0}", AG_E_PARAM, "n", "between 1 and 128"},
    {C, "{\"prompt\":\"x\",\"n\":129}", AG_E_PARAM, "n", "129"},
    {C, "{\"prompt\":[\"x\",\"y\"],\"n\":65}", AG_E_PARAM, "n", "130"},
    {C, "{\"prompt\":\"x\",\"best_of\":2}", AG_E_UNSUPPORTED, "best_of", "equals 'n'"},
    {C, "{\"prompt\":\"x\",\"best_of\":true}", AG_E_PARAM, "best_of", "a boolean"},
    {C, "{\"prompt\":\"x\",\"stop\":5}", AG_E_PARAM, "stop", "a string or an array"},
    {C, "{\"prompt\":\"x\",\"stop\":\"\"}", AG_E_PARAM, "stop", "empty"},
    {C, "{\"prompt\":\"x\",\"stop\":[\"a\",1]}", AG_E_PARAM, "stop", "a number"},
    {C,
     "{\"prompt\":\"x\",\"stop\":[\"1\",\"2\",\"3\",\"4\",\"5\",\"6\",\"7\",\"8\",\"9\",\"a\",\"b\",\"c\",\"d\",\"e\","
     "\"f\",\"g\",\"h\"]}",
     AG_E_PARAM, "stop", "17"},
    {C, "{\"prompt\":\"x\",\"stop_token_ids\":3}", AG_E_PARAM, "stop_token_ids", "array"},
    {C, "{\"prompt\":\"x\",\"stop_token_ids\":[\"3\"]}", AG_E_PARAM, "stop_token_ids", "a string"},
    {C, "{\"prompt\":\"x\",\"stop_token_ids\":[1,2,3,4,5,6,7,8,9,0,1,2,3,4,5,6,7]}", AG_E_PARAM, "stop_token_ids",
     "17"},
    {C, "{\"prompt\":\"x\",\"logprobs\":true}", AG_E_PARAM, "logprobs", "a boolean"},
    {C, "{\"prompt\":\"x\",\"logprobs\":21}", AG_E_PARAM, "logprobs", "20"},
    {C, "{\"prompt\":\"x\",\"echo\":1}", AG_E_PARAM, "echo", "a boolean, not a number"},
    {C, "{\"prompt\":\"x\",\"suffix\":\"y\"}", AG_E_UNSUPPORTED, "suffix", "not supported"},
    {C, "{\"prompt\":\"x\",\"suffix\":1}", AG_E_PARAM, "suffix", "a string"},
    {C, "{\"prompt\":\"x\",\"stream\":\"yes\"}", AG_E_PARAM, "stream", "a boolean, not a string"},
    {C, "{\"prompt\":\"x\",\"stream_options\":{}}", AG_E_PARAM, "stream_options", "'stream' true"},
    {C, "{\"prompt\":\"x\",\"stream\":true,\"stream_options\":[]}", AG_E_PARAM, "stream_options", "an object"},
    {C, "{\"prompt\":\"x\",\"stream\":true,\"stream_options\":{\"include_usage\":1}}", AG_E_PARAM,
     "stream_options.include_usage", "a boolean"},
    {C, "{\"prompt\":\"x\",\"ignore_eos\":\"1\"}", AG_E_PARAM, "ignore_eos", "a boolean"},
    {C, "{\"prompt\":\"x\",\"parse_special\":0}", AG_E_PARAM, "parse_special", "a boolean"},
    {H, "{}", AG_E_PARAM_MISSING, "messages", "missing"},
    {H, "{\"chat_template_kwargs\":{\"a\":1}}", AG_E_PARAM_MISSING, "messages", "missing"},
    {H, "{\"messages\":\"hi\"}", AG_E_PARAM, "messages", "an array"},
    {H, "{\"messages\":[]}", AG_E_PARAM, "messages", "empty"},
    {H, "{\"messages\":[5]}", AG_E_PARAM, "messages[0]", "an object"},
    {H, "{\"messages\":[{\"content\":\"x\"}]}", AG_E_PARAM_MISSING, "messages[0]", "role' is missing"},
    {H, "{\"messages\":[{\"role\":1,\"content\":\"x\"}]}", AG_E_PARAM, "messages[0]", "role' must be a string"},
    {H, "{\"messages\":[{\"role\":\"<|im_end|>\",\"content\":\"x\"}]}", AG_E_PARAM, "messages[0]", "must be a word"},
    {H, "{\"messages\":[{\"role\":\"\",\"content\":\"x\"}]}", AG_E_PARAM, "messages[0]", "must be a word"},
    {H, "{\"messages\":[{\"role\":\"user\"}]}", AG_E_PARAM_MISSING, "messages[0]", "content' is missing"},
    {H, "{\"messages\":[{\"role\":\"user\",\"content\":null}]}", AG_E_PARAM_MISSING, "messages[0]",
     "content' is missing"},
    {H, "{\"messages\":[{\"role\":\"assistant\",\"content\":null,\"tool_calls\":[]}]}", AG_E_PARAM_MISSING,
     "messages[0]", "content"},
    {H, "{\"messages\":[{\"role\":\"user\",\"content\":5}]}", AG_E_PARAM, "messages[0].content", "a number"},
    {H, "{\"messages\":[{\"role\":\"user\",\"content\":[5]}]}", AG_E_PARAM, "messages[0].content[0]", "an object"},
    {H, "{\"messages\":[{\"role\":\"user\",\"content\":[{\"text\":\"x\"}]}]}", AG_E_PARAM, "messages[0].content[0]",
     "type"},
    {H, "{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"text\"}]}]}", AG_E_PARAM, "messages[0].content[0]",
     "'text'"},
    {H, "{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"image_url\",\"image_url\":{}}]}]}",
     AG_E_UNSUPPORTED, "messages[0].content[0]", "image_url"},
    {H, "{\"messages\":[{\"role\":\"assistant\",\"content\":\"\",\"tool_calls\":5}]}", AG_E_PARAM, "messages[0]",
     "tool_calls"},
    {H, "{\"messages\":[{\"role\":\"assistant\",\"content\":\"\",\"tool_calls\":[5]}]}", AG_E_PARAM, "messages[0]",
     "tool_calls[0]"},
    {H, "{" MSG ",\"tools\":{}}", AG_E_PARAM, "tools", "an array"},
    {H, "{" MSG ",\"tools\":[1]}", AG_E_PARAM, "tools[0]", "an object"},
    {H, "{" MSG ",\"tool_choice\":5}", AG_E_PARAM, "tool_choice", "a number"},
    {H, "{" MSG ",\"tool_choice\":\"some\"}", AG_E_PARAM, "tool_choice", "some"},
    {H, "{" MSG ",\"parallel_tool_calls\":5}", AG_E_PARAM, "parallel_tool_calls", "a boolean"},
    {H, "{" MSG ",\"tool_choice\":\"required\"}", AG_E_PARAM, "tool_choice", "there are no 'tools'"},
    {H, "{" MSG ",\"tools\":[" TOOL "," TOOL "],\"tool_choice\":\"required\",\"stop\":\"x\"}", AG_E_UNSUPPORTED,
     "tool_choice", "whole"},
    {H, "{" MSG ",\"tool_choice\":{\"type\":\"function\"}}", AG_E_PARAM, "tool_choice", "must name"},
    {H, "{" MSG ",\"tools\":[" TOOL "],\"tool_choice\":{\"function\":{\"name\":\"g\"}}}", AG_E_PARAM, "tool_choice",
     "'g'"},
    {H, "{" MSG ",\"tools\":[" TOOL "],\"tool_choice\":\"required\",\"stop\":\"x\"}", AG_E_UNSUPPORTED, "tool_choice",
     "whole"},
    {H, "{" MSG ",\"chat_template_kwargs\":[]}", AG_E_PARAM, "chat_template_kwargs", "an object"},
    {H, "{" MSG ",\"chat_template_kwargs\":{\"messages\":[]}}", AG_E_PARAM, "chat_template_kwargs", "cannot set"},
    {H, "{" MSG ",\"max_tokens\":0}", AG_E_PARAM, "max_tokens", "between 1"},
    {H, "{" MSG ",\"max_completion_tokens\":0}", AG_E_PARAM, "max_completion_tokens", "between 1"},
    {H, "{" MSG ",\"logprobs\":5}", AG_E_PARAM, "logprobs", "a boolean"},
    {H, "{" MSG ",\"top_logprobs\":5}", AG_E_PARAM, "top_logprobs", "needs"},
    {H, "{" MSG ",\"logprobs\":true,\"top_logprobs\":21}", AG_E_PARAM, "top_logprobs", "21"},
    {H, "{" MSG ",\"response_format\":{\"type\":\"json_schema\"}}", AG_E_UNSUPPORTED, "response_format", "json_schema"},
    {H, "{" MSG ",\"response_format\":{\"type\":\"json_object\"},\"min_tokens\":5}", AG_E_UNSUPPORTED,
     "response_format", "whole"},
    {H, "{" MSG ",\"response_format\":{\"type\":\"json_object\"},\"stop\":\"x\"}", AG_E_UNSUPPORTED, "response_format",
     "stop strings"},
    {H, "{" MSG ",\"response_format\":{\"type\":\"json_object\"},\"tools\":[{}]}", AG_E_UNSUPPORTED, "response_format",
     "a call"},
    {H, "{" MSG ",\"response_format\":{\"type\":\"json_object\"},\"max_tokens\":1}", AG_E_PARAM, "max_tokens",
     "at least 2"},
    {H, "{" MSG ",\"response_format\":{}}", AG_E_PARAM, "response_format", "type"},
    {H, "{" MSG ",\"response_format\":\"text\"}", AG_E_PARAM, "response_format", "an object"},
    {T, "{}", AG_E_PARAM_MISSING, "content", "or 'prompt', or 'messages'"},
    {T, "{\"content\":5}", AG_E_PARAM, "content", "a string, not a number"},
    {T, "{\"prompt\":[\"a\"]}", AG_E_PARAM, "prompt", "a string, not an array"},
    {T, "{\"prompt\":\"a\",\"content\":\"a\"}", AG_E_PARAM, "content", "give one of them"},
    {T, "{\"prompt\":\"a\"," MSG "}", AG_E_PARAM, "messages", "not both"},
    {T, "{\"prompt\":\"a\",\"with_pieces\":1}", AG_E_PARAM, "with_pieces", "a boolean"},
    {D, "{}", AG_E_PARAM_MISSING, "tokens", "missing"},
    {D, "{\"tokens\":\"a\"}", AG_E_PARAM, "tokens", "an array of token ids"},
    {D, "{\"tokens\":[1,-1]}", AG_E_PARAM, "tokens", "'tokens[1]' must be between"},
};

static void every_mistake_gets_its_sentence(void **state)
{
    (void)state;
    for (size_t i = 0; i < AG_ARRAY_LEN(bad); i++) {
        ag_request r;
        ag_err err = {0};
        int rc = parse(&r, bad[i].kind, bad[i].body, strlen(bad[i].body), &err);
        ag_request_fini(&r);
        if (rc != bad[i].code || strcmp(err.param, bad[i].param) != 0 || strstr(err.text, bad[i].part) == NULL)
            fail_msg("%s\n  gives %d, param '%s': %s", bad[i].body, rc, err.param, err.text);
        int http = ag_err_find(rc)->http;
        assert_true(http >= 400 && http < 500);
    }
}

static void defaults_are_openais(void **state)
{
    (void)state;
    ag_request r;
    parse_ok(
        &r, C,
        "{\"prompt\":\"x\",\"unknown\":{\"a\":[1]},\"user\":5,\"stop\":null,\"temperature\":null,\"stream\":null}");
    assert_null(r.model.p);
    assert_int_equal(r.n_prompts, 1);
    assert_true(ag_str_eqz(r.prompts[0].text, "x"));
    assert_int_equal(r.max_tokens, 16);
    assert_int_equal(r.n, 1);
    assert_int_equal(r.top_logprobs, -1);
    assert_true(r.sampling.temperature == 1 && r.sampling.top_p == 1 && r.sampling.typical_p == 1 &&
                r.sampling.repetition_penalty == 1);
    assert_true(r.add_special && !r.parse_special && !r.stream && !r.echo && !r.seed_set);
    ag_request_fini(&r);
    parse_ok(&r, H, "{" MSG "}");
    assert_int_equal(r.max_tokens, AG_REQUEST_UNSET);
    assert_true(json_is_null(json_object_get(r.vars, "tools")) && json_is_null(json_object_get(r.vars, "documents")));
    assert_true(json_is_true(json_object_get(r.vars, "add_generation_prompt")));
    ag_request_fini(&r);
}

static void every_field_arrives(void **state)
{
    (void)state;
    ag_request r;
    parse_ok(&r, C,
             "{\"model\":\"m\",\"prompt\":[[1,2,3.0],[4]],\"max_tokens\":0,\"temperature\":0,\"top_p\":0.5,\"top_k\":"
             "40,\"min_p\":0.1,"
             "\"typical_p\":0.9,\"repetition_penalty\":1.1,\"presence_penalty\":-2,\"frequency_penalty\":2,\"seed\":-7,"
             "\"logit_bias\":{\"5\":-100,\"6\":1.5},\"n\":64,\"best_of\":64,\"stop\":[\"a\\u0000b\",\"c\"],\"stop_"
             "token_ids\":[9],"
             "\"logprobs\":3,\"echo\":true,\"suffix\":\"\",\"stream\":true,\"stream_options\":{\"include_usage\":true},"
             "\"ignore_eos\":true,\"add_special_tokens\":false,\"parse_special\":true}");
    assert_true(ag_str_eqz(r.model, "m"));
    assert_int_equal(r.n_prompts, 2);
    assert_int_equal(r.prompts[0].n_ids, 3);
    assert_int_equal(r.prompts[0].ids[2], 3);
    assert_int_equal(r.prompts[1].ids[0], 4);
    assert_int_equal(r.max_tokens, 0);
    assert_true(r.sampling.temperature == 0 && r.sampling.top_p == 0.5f && r.sampling.top_k == 40 &&
                r.sampling.min_p == 0.1f);
    assert_true(r.sampling.typical_p == 0.9f && r.sampling.repetition_penalty == 1.1f &&
                r.sampling.presence_penalty == -2);
    assert_true(r.seed_set && r.sampling.seed == (uint64_t)-7);
    assert_int_equal(r.n_bias, 2);
    assert_int_equal(r.n, 64);
    assert_int_equal(r.n_stops, 2);
    assert_true(ag_str_eq(r.stops[0], AG_STR("a\0b")));
    assert_int_equal(r.stop_tokens[0], 9);
    assert_int_equal(r.top_logprobs, 3);
    assert_true(r.echo && r.stream && r.include_usage && r.ignore_eos && !r.add_special && r.parse_special);
    ag_err err = {0};
    assert_int_equal(ag_request_check(&r, 10, &err), AG_OK);
    assert_int_equal(ag_request_check(&r, 9, &err), AG_E_PARAM);
    assert_string_equal(err.param, "stop_token_ids");
    ag_err_clear(&err);
    assert_int_equal(ag_request_check(&r, 4, &err), AG_E_PARAM);
    assert_string_equal(err.param, "prompt");
    ag_request_fini(&r);
}

static void tools_are_chosen(void **state)
{
    (void)state;
    ag_request r;
    parse_ok(&r, H, "{" MSG ",\"tools\":[" TOOL "],\"tool_choice\":\"required\",\"parallel_tool_calls\":false}");
    assert_true(ag_str_eqz(r.forced_tool, "f") && !r.parallel_calls && json_array_size(r.tools) == 1);
    ag_request_fini(&r);
    parse_ok(&r, H, "{" MSG ",\"tools\":[{}," TOOL "],\"tool_choice\":\"required\"}");
    assert_true(r.any_tool && r.forced_tool.p == NULL && ag_request_calls(&r) && json_array_size(r.tools) == 2);
    ag_request_fini(&r);
    parse_ok(&r, H,
             "{" MSG ",\"tools\":[{}," TOOL "],\"tool_choice\":{\"type\":\"function\",\"function\":{\"name\":\"f\"}}}");
    assert_true(ag_str_eqz(r.forced_tool, "f"));
    ag_request_fini(&r);
    parse_ok(&r, H,
             "{" MSG ",\"tools\":[" TOOL "],\"tool_choice\":\"none\",\"response_format\":{\"type\":\"json_object\"}}");
    assert_true(r.tools == NULL && r.json && r.forced_tool.p == NULL);
    ag_request_fini(&r);
}

static void tokens_are_asked_for_in_two_forms(void **state)
{
    (void)state;
    ag_request r;
    parse_ok(&r, T, "{\"content\":\"\"}");
    assert_true(r.n_prompts == 1 && r.prompts[0].text.n == 0 && !r.add_special && r.parse_special);
    ag_request_fini(&r);
    parse_ok(&r, T, "{\"parse_special\":false,\"add_special\":true,\"with_pieces\":true,\"content\":\"a\"}");
    assert_true(r.add_special && !r.parse_special && r.with_pieces);
    ag_request_fini(&r);
    parse_ok(&r, T, "{\"prompt\":\"a\",\"return_token_strs\":true}");
    assert_true(r.n_prompts == 1 && r.add_special && !r.parse_special && r.token_strs);
    ag_request_fini(&r);
    parse_ok(&r, T, "{" MSG ",\"add_generation_prompt\":false}");
    assert_true(r.n_prompts == 0 && json_is_false(json_object_get(r.vars, "add_generation_prompt")));
    ag_request_fini(&r);
    parse_ok(&r, D, "{\"tokens\":[]}");
    assert_true(r.n_prompts == 1 && r.prompts[0].n_ids == 0);
    ag_request_fini(&r);
}

static void unknown_fields_are_listed_or_refused(void **state)
{
    (void)state;
    ag_request r;
    ag_err err = {0};
    parse_ok(&r, C, "{\"prompt\":\"x\",\"store\":true,\"messages\":[],\"a, b\\r\\n\":1,\"stop\":null}");
    assert_string_equal(r.ignored, "store, messages, a??b??");
    ag_request_fini(&r);
    ag_buf b;
    ag_buf_init(&b, 1 << 20);
    ag_buf_addz(&b, "{\"prompt\":\"x\"");
    for (int i = 0; i < 1000; i++) ag_buf_addf(&b, ",\"field-%d-%0*d\":null", i, i % 300, i);
    ag_buf_addc(&b, '}');
    ag_buf_zterm(&b);
    parse_ok(&r, C, b.p);
    ag_buf_fini(&b);
    size_t n = strlen(r.ignored);
    assert_true(n > 150 && n < sizeof r.ignored && strcmp(r.ignored + n - 5, ", ...") == 0);
    ag_request_fini(&r);
    ag_request_init(&r, H);
    r.strict = true;
    const char *body = "{" MSG ",\"temperature\":\"hot\",\"max_tokns\":5}";
    assert_int_equal(ag_openai_parse(&r, body, strlen(body), &err), AG_E_PARAM);
    assert_string_equal(err.param, "max_tokns");
    assert_non_null(strstr(err.text, "'max_tokns' is not a field"));
    ag_request_fini(&r);
}

static const char *content_of(const ag_request *r, size_t i)
{
    return json_string_value(json_object_get(json_array_get(json_object_get(r->vars, "messages"), i), "content"));
}

static void chat_reaches_the_template(void **state)
{
    (void)state;
    ag_request r;
    parse_ok(
        &r, H,
        "{\"messages\":[{\"role\":\"developer\",\"content\":[{\"type\":\"text\",\"text\":\"a\"},{\"type\":\"text\","
        "\"text\":\"b\"}]},"
        "{\"role\":\"assistant\",\"content\":null,\"tool_calls\":[{\"function\":{\"name\":\"f\",\"arguments\":\"{"
        "\\\"x\\\":1}\"}},"
        "{\"function\":{\"name\":\"g\",\"arguments\":\"{not "
        "json\"}}]},{\"role\":\"tool\",\"content\":\"\",\"tool_call_id\":\"1\"}],"
        "\"tools\":[{\"type\":\"function\"}],\"max_tokens\":3,\"max_completion_tokens\":7,\"logprobs\":true,\"top_"
        "logprobs\":2,"
        "\"chat_template_kwargs\":{\"enable_thinking\":false,\"add_generation_prompt\":false},\"tool_choice\":\"auto\","
        "\"response_format\":{\"type\":\"text\"}}");
    assert_string_equal(content_of(&r, 0), "a\nb");
    json_t *calls = json_object_get(json_array_get(json_object_get(r.vars, "messages"), 1), "tool_calls");
    json_t *arguments = json_object_get(json_object_get(json_array_get(calls, 0), "function"), "arguments");
    assert_int_equal(json_integer_value(json_object_get(arguments, "x")), 1);
    assert_true(json_is_string(json_object_get(json_object_get(json_array_get(calls, 1), "function"), "arguments")));
    assert_int_equal(json_array_size(json_object_get(r.vars, "tools")), 1);
    assert_true(json_is_false(json_object_get(r.vars, "enable_thinking")));
    assert_true(json_is_false(json_object_get(r.vars, "add_generation_prompt")));
    assert_int_equal(r.max_tokens, 7);
    assert_int_equal(r.top_logprobs, 2);
    ag_request_fini(&r);
    parse_ok(&r, H, "{" MSG ",\"tools\":[{}],\"tool_choice\":\"none\",\"add_generation_prompt\":false}");
    assert_true(json_is_null(json_object_get(r.vars, "tools")));
    assert_true(json_is_false(json_object_get(r.vars, "add_generation_prompt")));
    ag_request_fini(&r);
}

static void limits_of_json_can_be_set(void **state)
{
    (void)state;
    static const struct { const char *body; int rc; const char *text; } rows[] = {
        {"{\"prompt\":\"x\",\"metadata\":{\"a\":[1]}}", AG_OK, NULL},
        {"{\"prompt\":\"x\",\"metadata\":{\"a\":[[]]}}", AG_E_LIMIT, "deeper than 3 levels"},
        {"{\"prompt\":\"\\u0041xxxxxxxxxxxxxx\"}", AG_OK, NULL}, /* 20 bytes as they are written */
        {"{\"prompt\":\"\\u0041xxxxxxxxxxxxxxx\"}", AG_E_LIMIT,
         "A string in the JSON is longer than 20 bytes, at byte 11"},
        {"{\"prompt\":\"\\\"xxxxxxxxxxxxxxxxxxx", AG_E_LIMIT, "longer than 20 bytes"}, /* though it has no end */
        {"{\"prompt\":[1,2,3,4]}", AG_OK, NULL},
        {"{\"prompt\":[1,2,3,4,5,6,7,8]}", AG_E_LIMIT, "more than 9 values"},
    };
    ag_json_limit(&(ag_json_limits){.depth = 3, .items = 9, .string_bytes = 20});
    for (size_t i = 0; i < AG_ARRAY_LEN(rows); i++) {
        ag_request r;
        ag_err err = {0};
        int rc = parse(&r, C, rows[i].body, strlen(rows[i].body), &err);
        bool said = rows[i].text == NULL || strstr(err.text, rows[i].text);
        if (rc != rows[i].rc || !said) fail_msg("row %zu: %d %s", i, rc, err.text);
        ag_request_fini(&r);
    }
    ag_json_limits usual = AG_JSON_LIMITS_DEFAULT;
    ag_json_limit(&usual);
}

static void size_and_depth_are_bounded(void **state)
{
    (void)state;
    ag_request r;
    ag_err err = {0};
    ag_buf b;
    ag_buf_init(&b, 16u << 20);
    ag_buf_addz(&b, "{\"a\":");
    for (int i = 0; i < 5000; i++) ag_buf_addc(&b, '[');
    assert_int_equal(parse(&r, C, b.p, b.n, &err), AG_E_LIMIT);
    ag_request_fini(&r);
    ag_buf_reset(&b);
    ag_buf_addz(&b, "{\"prompt\":[0");
    for (uint32_t i = 0; i < 1u << 20; i++) ag_buf_addz(&b, ",1");
    ag_buf_addz(&b, "]}");
    assert_int_equal(parse(&r, C, b.p, b.n, &err), AG_E_LIMIT);
    ag_request_fini(&r);
    ag_buf_reset(&b);
    ag_buf_addz(&b, "{\"prompt\":[\"[[[{{{,,,\"");
    for (int i = 0; i < 128; i++) ag_buf_addz(&b, ",\"x\"");
    ag_buf_addz(&b, "]}");
    assert_int_equal(parse(&r, C, b.p, b.n, &err), AG_E_PARAM);
    assert_non_null(strstr(err.text, "129 prompts"));
    ag_request_fini(&r);
    ag_buf_reset(&b);
    ag_buf_addz(&b, "{\"prompt\":\"x\",\"stop\":\"");
    for (int i = 0; i <= AG_GEN_STOP_BYTES_MAX; i++) ag_buf_addc(&b, 's');
    ag_buf_addz(&b, "\"}");
    assert_int_equal(parse(&r, C, b.p, b.n, &err), AG_E_PARAM);
    ag_request_fini(&r);
    ag_buf_reset(&b);
    ag_buf_addz(&b, "{\"prompt\":\"x\",\"logit_bias\":{\"0\":1");
    for (int i = 1; i <= AG_GEN_BIAS_MAX; i++) ag_buf_addf(&b, ",\"%d\":1", i);
    ag_buf_addz(&b, "}}");
    assert_int_equal(parse(&r, C, b.p, b.n, &err), AG_E_PARAM);
    assert_non_null(strstr(err.text, "1025"));
    ag_request_fini(&r);
    ag_buf_fini(&b);
}

static void no_memory_is_an_answer(void **state)
{
    (void)state;
#ifdef AG_FAULTS
    static const struct { ag_request_kind kind; const char *body; } cases[] = {
        {C, "{\"prompt\":[[1,2],\"x\"],\"logit_bias\":{\"5\":1},\"stop\":[\"a\"],\"seed\":3}"},
        {H, "{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"a\"}]},{\"role\":"
            "\"assistant\",\"tool_calls\":"
            "[{\"function\":{\"arguments\":\"{}\"}}]}],\"tools\":[{}],\"tool_choice\":\"none\",\"chat_template_"
            "kwargs\":{\"x\":[1]}}"},
        {T, "{\"content\":\"x\"}"},
        {T, "{" MSG "}"},
        {D, "{\"tokens\":[1,2]}"},
    };
    ag_openai_init();
    for (size_t i = 0; i < AG_ARRAY_LEN(cases); i++) {
        for (uint32_t n = 1;; n++) {
            ag_request r;
            ag_err err = {0};
            ag_fault_arm(AG_FAULT_ALLOC, n);
            int rc = parse(&r, cases[i].kind, cases[i].body, strlen(cases[i].body), &err);
            bool fired = ag_fault_disarm(AG_FAULT_ALLOC);
            ag_request_fini(&r);
            if (rc != (fired ? AG_E_NOMEM : AG_OK))
                fail_msg("n=%u: %d %s", n, rc, err.text);
            if (!fired) break;
        }
    }
#endif
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_mistake_gets_its_sentence), cmocka_unit_test(defaults_are_openais),
        cmocka_unit_test(every_field_arrives),             cmocka_unit_test(chat_reaches_the_template),
        cmocka_unit_test(tools_are_chosen),
        cmocka_unit_test(tokens_are_asked_for_in_two_forms), cmocka_unit_test(unknown_fields_are_listed_or_refused),
        cmocka_unit_test(limits_of_json_can_be_set),
        cmocka_unit_test(size_and_depth_are_bounded),      cmocka_unit_test(no_memory_is_an_answer),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
