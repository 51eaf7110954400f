/* Requests and answers of gRPC's dialect and KServe's two, as messages. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <math.h>
#include <stdlib.h>

#include "base/fault.h"
#include "gateway/dialects/grpc.h"
#include "gateway/dialects/grpc_wire.h"
#include "gateway/dialects/kserve.h"
#include "gateway/dialects/openai.h"
#include "gateway/dialects/pb.h"

enum { MAX = 1 << 20 };

static ag_err err;
static ag_request q;
static ag_buf body;

static void begin(void)
{
    ag_buf_init(&body, MAX);
    ag_grpc_begin(&body);
}

/* Parses what was put into `body`, or a body of HTTP. */
static int parse(const ag_dialect *d, ag_request_kind kind, const char *text)
{
    ag_err_clear(&err);
    ag_request_init(&q, kind);
    q.wire.message_max = MAX;
    if (text == NULL) ag_grpc_end(&body, 0, false);
    int rc = d->parse(&q, text ? text : body.p, text ? strlen(text) : body.n, &err);
    if (text == NULL) ag_buf_fini(&body);
    return rc;
}

static void refuse(const ag_dialect *d, ag_request_kind kind, const char *text, int code, const char *param,
                   const char *sentence)
{
    int rc = parse(d, kind, text);
    if (rc != code || strstr(err.text, sentence) == NULL)
        fail_msg("%d, '%s' in place of %d, '%s'", rc, err.text, code, sentence);
    assert_string_equal(err.param, param);
    ag_request_fini(&q);
}

static void put_message(const char *role, const char *content)
{
    size_t at = body.n;
    ag_pb_put_text(&body, 1, ag_str_of(role));
    if (content) ag_pb_put_string(&body, 2, ag_str_of(content));
    ag_pb_wrap(&body, at, 2);
}

static void requests_are_those_of_http(void **state)
{
    (void)state;
    begin();
    ag_pb_put_text(&body, 2, AG_STR("Once"));
    ag_pb_put_text(&body, 2, AG_STR("Twice"));
    ag_pb_put(&body, 4, 9);
    ag_pb_put_float(&body, 7, 0);
    ag_pb_put(&body, 15, 42);
    ag_pb_put(&body, 17, 2);
    ag_pb_put_text(&body, 18, AG_STR("END"));
    assert_int_equal(parse(&ag_grpc_completions, AG_REQUEST_COMPLETION, NULL), AG_OK);
    assert_int_equal(q.n_prompts, 2);
    assert_true(ag_str_eqz(q.prompts[1].text, "Twice"));
    assert_int_equal(q.max_tokens, 9);
    assert_true(q.sampling.temperature == 0 && q.sampling.seed == 42 && q.seed_set && q.n == 2);
    assert_true(ag_str_eqz(q.stops[0], "END") && !q.stream);
    ag_request_fini(&q);

    begin();
    size_t at = body.n;
    for (int i = 1; i < 4; i++) ag_pb_put_varint(&body, (uint64_t)i);
    ag_pb_wrap(&body, at, 3);
    assert_int_equal(parse(&ag_grpc_completions, AG_REQUEST_COMPLETION, NULL), AG_OK);
    assert_true(q.n_prompts == 1 && q.prompts[0].n_ids == 3 && q.prompts[0].ids[2] == 3 && q.max_tokens == 16);
    ag_request_fini(&q);

    begin();
    ag_pb_put_text(&body, 2, AG_STR("Once"));
    ag_pb_put_text(&body, 2, AG_STR("Twice"));
    ag_pb_put(&body, 4, 12);
    assert_int_equal(parse(&ag_grpc_embeddings, AG_REQUEST_EMBEDDINGS, NULL), AG_OK);
    assert_true(q.n_prompts == 2 && ag_str_eqz(q.prompts[1].text, "Twice") && q.dimensions == 12);
    ag_request_fini(&q);

    begin();
    ag_pb_put(&body, 3, 5);
    assert_int_equal(parse(&ag_grpc_embeddings, AG_REQUEST_EMBEDDINGS, NULL), AG_OK);
    assert_true(q.n_prompts == 1 && q.prompts[0].n_ids == 1 && q.prompts[0].ids[0] == 5);
    assert_int_equal(q.dimensions, AG_REQUEST_UNSET);
    ag_request_fini(&q);

    begin();
    put_message("system", "Be brief.");
    put_message("user", "");
    ag_pb_put_text(&body, 7, AG_STR("{\"enable_thinking\": false}"));
    assert_int_equal(parse(&ag_grpc, AG_REQUEST_CHAT, NULL), AG_OK);
    assert_int_equal(json_array_size(json_object_get(q.vars, "messages")), 2);
    assert_true(json_is_false(json_object_get(q.vars, "enable_thinking")));
    ag_request_fini(&q);
}

static void what_is_wrong_is_said_as_over_http(void **state)
{
    (void)state;
    begin();
    refuse(&ag_grpc_completions, AG_REQUEST_COMPLETION, NULL, AG_E_PARAM_MISSING, "prompt", "'prompt' is missing");
    begin();
    refuse(&ag_grpc, AG_REQUEST_CHAT, NULL, AG_E_PARAM_MISSING, "messages", "'messages' is missing");
    begin();
    put_message("user", NULL);
    refuse(&ag_grpc, AG_REQUEST_CHAT, NULL, AG_E_PARAM_MISSING, "messages[0]", "'messages[0].content' is missing");
    begin();
    ag_pb_put_float(&body, 7, 11);
    refuse(&ag_grpc_completions, AG_REQUEST_COMPLETION, NULL, AG_E_PARAM, "temperature",
           "between 0 and 10; 11 was given");
    begin();
    ag_pb_put_text(&body, 2, AG_STR("x"));
    ag_pb_put(&body, 3, 1);
    refuse(&ag_grpc_completions, AG_REQUEST_COMPLETION, NULL, AG_E_PARAM, "prompt_tokens", "not both");
    begin();
    refuse(&ag_grpc_embeddings, AG_REQUEST_EMBEDDINGS, NULL, AG_E_PARAM_MISSING, "input", "'input' is missing");
    begin();
    ag_pb_put_text(&body, 2, AG_STR("x"));
    ag_pb_put(&body, 3, 1);
    refuse(&ag_grpc_embeddings, AG_REQUEST_EMBEDDINGS, NULL, AG_E_PARAM, "input_tokens", "Either 'input' or");
    begin();
    ag_buf_addz(&body, "\x0a\x05x");
    refuse(&ag_grpc_completions, AG_REQUEST_COMPLETION, NULL, AG_E_PROTOBUF, "", "no valid autoglm.v1.GenerateRequest");
}

/* The n-th field of this number in a message. */
static ag_str nth(ag_str message, uint32_t field, uint32_t n)
{
    ag_pb_item item;
    while (ag_pb_next(&message, &item) > 0)
        if (item.field == field && item.wire == AG_PB_BYTES && n-- == 0) return item.bytes;
    return (ag_str){0};
}

static uint64_t number(ag_str message, uint32_t field)
{
    ag_pb_item item;
    while (ag_pb_next(&message, &item) > 0)
        if (item.field == field && item.wire == AG_PB_VARINT) return item.number;
    return 0;
}

/* The next message of an answer, which is moved on. */
static ag_str next_message(ag_str *out)
{
    ag_buf plain;
    ag_str m = {0};
    bool found;
    ag_buf_init(&plain, MAX);
    assert_int_equal(ag_grpc_next(out, false, MAX - 1, &plain, &m, &found, &err), AG_OK);
    assert_true(found);
    return m;
}

#define TEXT(z) {.kind = AG_PART_TEXT, .text = {z, sizeof(z) - 1}}
static const ag_reply completion = {
    .kind = AG_REQUEST_COMPLETION, .id = {"cmpl-1", 6}, .created = 17, .model = {"m", 1}, .n_choices = 2};
static const ag_reply chat = {.kind = AG_REQUEST_CHAT, .id = {"c", 1}, .created = 17, .model = {"m", 1},
                              .n_choices = 1};
static const ag_usage usage = {3, 2, 1};

static ag_str piece(const void *arg, int32_t id, bool special)
{
    (void)arg;
    (void)special;
    return id == 1 ? AG_STR("\xF0\x9F") : AG_STR("b");
}

static void write_whole(ag_buf *out)
{
    ag_part parts[] = {{.kind = AG_PART_THINKING, .text = {"hm", 2}}, TEXT("a\xff"), TEXT("b"),
                       {.kind = AG_PART_CALL, .text = {"{}", 2}, .name = {"f", 1}, .id = "call_1"}};
    static const ag_gen_top top = {1, -0.5f};
    ag_gen_token tokens[] = {{.id = 1, .logprob = NAN}, {.id = 2, .logprob = -INFINITY, .n_top = 1, .top = &top}};
    ag_reply_logprobs lp = {.part = {NULL, tokens}, .n = {0, 2}, .piece = piece};
    ag_reply_end end = {.reason = AG_END_CALLS, .timed_out = true};
    ag_grpc.begin(out, &chat);
    ag_grpc.choice(out, &chat, 0, parts, AG_ARRAY_LEN(parts), &lp, &end);
    ag_grpc.end(out, &chat, &usage);
}

static void whole_answers(void **state)
{
    (void)state;
    ag_buf out;
    ag_buf_init(&out, MAX);
    write_whole(&out);
    ag_str rest = ag_buf_str(&out), m = next_message(&rest), c = nth(m, 4, 0), message = nth(c, 2, 0);
    assert_int_equal(rest.n, 0);
    assert_true(ag_str_eqz(nth(m, 1, 0), "c") && number(m, 2) == 17 && ag_str_eqz(nth(m, 3, 0), "m"));
    assert_true(ag_str_eqz(nth(message, 1, 0), "assistant") && ag_str_eqz(nth(message, 3, 0), "hm"));
    assert_true(ag_str_eqz(nth(message, 2, 0), "a\xEF\xBF\xBD" "b"));
    ag_str call = nth(message, 4, 0);
    assert_true(ag_str_eqz(nth(call, 1, 0), "call_1") && ag_str_eqz(nth(nth(call, 3, 0), 2, 0), "{}"));
    assert_true(ag_str_eqz(nth(c, 3, 0), "tool_calls") && number(c, 4) == 1);
    assert_true(ag_str_eqz(nth(nth(c, 5, 0), 2, 0), "\xF0\x9F"));
    assert_int_equal(number(nth(nth(c, 5, 1), 4, 0), 1), 1);
    assert_true(number(nth(m, 5, 0), 1) == 3 && number(nth(m, 5, 0), 2) == 2 && number(nth(m, 5, 0), 3) == 1);
    ag_buf_fini(&out);
}

static void vectors(void **state)
{
    (void)state;
    static const float v[2][2] = {{0.6f, -0.8f}, {1, 0}};
    ag_buf out;
    ag_buf_init(&out, MAX);
    ag_reply reply = completion;
    reply.kind = AG_REQUEST_EMBEDDINGS;
    ag_grpc_embeddings.begin(&out, &reply);
    for (uint32_t i = 0; i < 2; i++) ag_grpc_embeddings.embedding(&out, &reply, i, v[i], 2);
    ag_grpc_embeddings.end(&out, &reply, &usage);
    ag_str rest = ag_buf_str(&out), m = next_message(&rest);
    assert_int_equal(rest.n, 0);
    assert_true(ag_str_eqz(nth(m, 3, 0), "m") && number(nth(m, 5, 0), 1) == 3);
    for (uint32_t i = 0; i < 2; i++) {
        ag_str one = nth(m, 4, i), values = nth(one, 2, 0);
        assert_int_equal(number(one, 1), i);
        assert_int_equal(values.n, sizeof v[i]);
        assert_memory_equal(values.p, v[i], values.n);
    }
    ag_buf_fini(&out);
}

static void streams(void **state)
{
    (void)state;
    ag_buf out;
    ag_place at = {.index = 1};
    ag_part part = TEXT("some");
    ag_reply_end end = {.reason = AG_END_LENGTH};
    ag_buf_init(&out, MAX);
    ag_grpc_completions.open(&out, &completion, &at, &usage);
    ag_grpc_completions.chunk(&out, &completion, &at, &part, NULL, NULL, &usage);
    ag_grpc_completions.chunk(&out, &completion, &at, NULL, NULL, &end, &usage);
    ag_grpc_completions.close(&out, &completion, &usage);
    ag_str rest = ag_buf_str(&out), first = next_message(&rest), second = next_message(&rest),
           last = next_message(&rest);
    assert_int_equal(rest.n, 0);
    assert_true(number(nth(first, 4, 0), 1) == 1 && ag_str_eqz(nth(nth(first, 4, 0), 2, 0), "some"));
    assert_true(ag_str_eqz(nth(nth(second, 4, 0), 3, 0), "length") && number(nth(last, 5, 0), 2) == 2);
    ag_buf_fini(&out);
}

static void put_input(const char *name, const char *type, uint64_t n, const char *text)
{
    size_t at = body.n, inner;
    ag_pb_put_text(&body, 1, ag_str_of(name));
    ag_pb_put_text(&body, 2, ag_str_of(type));
    inner = body.n;
    ag_pb_put_varint(&body, n);
    ag_pb_wrap(&body, inner, 3);
    inner = body.n;
    for (uint64_t i = 0; text && i < n; i++) ag_pb_put_bytes(&body, 8, ag_str_of(text));
    if (text) ag_pb_wrap(&body, inner, 5);
    ag_pb_wrap(&body, at, 5);
}

static void put_parameter(const char *name, uint32_t field, uint64_t x)
{
    size_t at = body.n, inner;
    ag_pb_put_text(&body, 1, ag_str_of(name));
    inner = body.n;
    ag_pb_put(&body, field, x);
    ag_pb_wrap(&body, inner, 2);
    ag_pb_wrap(&body, at, 4);
}

static void kserve_requests(void **state)
{
    (void)state;
    static const char http[] = "{\"id\":\"7\",\"parameters\":{\"max_tokens\":5,\"seed\":3},"
                               "\"inputs\":[{\"name\":\"text_input\",\"datatype\":\"BYTES\",\"shape\":[2,1],"
                               "\"data\":[[\"One\"],[\"Two\"]]}],\"outputs\":[{\"name\":\"text_output\"}]}";
    assert_int_equal(parse(&ag_kserve, AG_REQUEST_INFER, http), AG_OK);
    assert_true(q.kind == AG_REQUEST_COMPLETION && q.n_prompts == 2 && q.max_tokens == 5 && q.sampling.seed == 3);
    assert_true(ag_str_eqz(q.prompts[1].text, "Two") && ag_str_eqz(q.wire.id, "7") && !q.wire.raw);
    ag_request_fini(&q);

    begin();
    ag_pb_put_text(&body, 1, AG_STR("m"));
    ag_pb_put_text(&body, 2, AG_STR("1"));
    put_parameter("max_tokens", 2, 5);
    put_input("text_input", "BYTES", 2, "One");
    assert_int_equal(parse(&ag_kserve_grpc, AG_REQUEST_INFER, NULL), AG_OK);
    assert_true(q.n_prompts == 2 && q.max_tokens == 5 && ag_str_eqz(q.model, "m") && !q.wire.raw &&
                q.wire.id.p == NULL);
    ag_request_fini(&q);

    begin();
    put_input("text_input", "BYTES", 2, NULL);
    ag_pb_put_bytes(&body, 7, AG_STR("\3\0\0\0One\1\0\0\0x"));
    assert_int_equal(parse(&ag_kserve_grpc, AG_REQUEST_INFER, NULL), AG_OK);
    assert_true(ag_str_eqz(q.prompts[0].text, "One") && ag_str_eqz(q.prompts[1].text, "x"));
    assert_true(q.n_prompts == 2 && q.wire.raw);
    ag_request_fini(&q);
}

static void kserve_refuses(void **state)
{
    (void)state;
#define BAD(text, code, param, sentence) refuse(&ag_kserve, AG_REQUEST_INFER, text, code, param, sentence)
#define INPUT(name, type, shape, data)                                                                                 \
    "{\"inputs\":[{\"name\":\"" name "\",\"datatype\":\"" type "\",\"shape\":" shape ",\"data\":" data "}]}"
    BAD("[]", AG_E_JSON, "", "must be a JSON object");
    BAD("{}", AG_E_PARAM, "inputs", "an array with one tensor");
    BAD("{\"inputs\":[1]}", AG_E_PARAM, "inputs", "an array with one tensor");
    BAD("{\"inputs\":[{},{}]}", AG_E_PARAM, "inputs", "an array with one tensor");
    BAD(INPUT("x", "BYTES", "[1]", "[\"a\"]"), AG_E_PARAM, "inputs", "must be \"text_input\"");
    BAD(INPUT("text_input", "FP32", "[1]", "[\"a\"]"), AG_E_PARAM, "inputs", "must be \"BYTES\"");
    BAD(INPUT("text_input", "BYTES", "[2]", "[\"a\"]"), AG_E_PARAM, "shape", "fits the 1 texts");
    BAD(INPUT("text_input", "BYTES", "[9223372036854775807,9223372036854775807]", "[\"a\"]"), AG_E_PARAM, "shape",
        "fits");
    BAD(INPUT("text_input", "BYTES", "[-1]", "[\"a\"]"), AG_E_PARAM, "shape", "fits");
    BAD(INPUT("text_input", "BYTES", "[0]", "[]"), AG_E_PARAM, "shape", "one at least");
    BAD(INPUT("text_input", "BYTES", "[]", "[\"a\"]"), AG_E_PARAM, "shape", "fits");
    BAD(INPUT("text_input", "BYTES", "[1]", "\"a\""), AG_E_PARAM, "text_input", "array of strings");
    BAD(INPUT("text_input", "BYTES", "[1]", "[1]"), AG_E_PARAM, "text_input", "array of strings");
    BAD("{\"inputs\":[],\"outputs\":[{\"name\":\"x\"}]}", AG_E_PARAM, "outputs", "The only output");
    BAD("{\"inputs\":[],\"outputs\":{}}", AG_E_PARAM, "outputs", "an array");
    BAD("{\"inputs\":[],\"parameters\":[]}", AG_E_PARAM, "parameters", "an object");
    BAD("{\"inputs\":[],\"parameters\":{\"stream\":true}}", AG_E_PARAM, "parameters", "cannot set 'stream'");
    BAD("{\"inputs\":[],\"id\":1}", AG_E_PARAM, "id", "a string");
    begin();
    put_input("text_input", "BYTES", 1, "\xff");
    refuse(&ag_kserve_grpc, AG_REQUEST_INFER, NULL, AG_E_UTF8, "text_input", "Text 0");
    begin();
    put_input("text_input", "BYTES", AG_REQUEST_PROMPTS_MAX + 1, "x");
    refuse(&ag_kserve_grpc, AG_REQUEST_INFER, NULL, AG_E_PARAM, "text_input", "more than 128 texts");
    begin();
    ag_pb_put_text(&body, 2, AG_STR("2"));
    refuse(&ag_kserve_grpc, AG_REQUEST_INFER, NULL, AG_E_MODEL_NOT_FOUND, "model_version", "no version '2'");
    begin();
    put_parameter("n", 9, 1); /* a value of no known type */
    refuse(&ag_kserve_grpc, AG_REQUEST_INFER, NULL, AG_E_PARAM, "parameters", "cannot set 'n'");
    static const ag_str raw[] = {{"\3\0\0\0On", 6}, {"\3\0\0", 3}, {"\xff\xff\xff\xff", 4}, {"\0\0\0\0\1", 5}};
    for (size_t i = 0; i < AG_ARRAY_LEN(raw); i++) {
        begin();
        put_input("text_input", "BYTES", 1, NULL);
        ag_pb_put_bytes(&body, 7, raw[i]);
        refuse(&ag_kserve_grpc, AG_REQUEST_INFER, NULL, AG_E_PARAM, "raw_input_contents", "cut off");
    }
}

static void kserve_answers(void **state)
{
    (void)state;
    ag_part one = TEXT("On\"e"), two[] = {TEXT("Tw"), TEXT("o")};
    ag_reply reply = completion;
    reply.wire.id = AG_STR("7");
    ag_buf out;
    ag_buf_init(&out, MAX);
    ag_kserve.begin(&out, &reply);
    ag_kserve.choice(&out, &reply, 0, &one, 1, NULL, NULL);
    ag_kserve.choice(&out, &reply, 1, two, 2, NULL, NULL);
    ag_kserve.end(&out, &reply, &usage);
    ag_buf_zterm(&out);
    assert_string_equal(out.p, "{\"model_name\":\"m\",\"model_version\":\"1\",\"id\":\"7\",\"outputs\":[{"
                               "\"name\":\"text_output\",\"datatype\":\"BYTES\",\"shape\":[2],"
                               "\"data\":[\"On\\\"e\",\"Two\"]}]}");
    for (int raw = 0; raw < 2; raw++) {
        ag_buf_reset(&out);
        reply.wire.raw = raw;
        ag_kserve_grpc.begin(&out, &reply);
        ag_kserve_grpc.choice(&out, &reply, 0, &one, 1, NULL, NULL);
        ag_kserve_grpc.choice(&out, &reply, 1, two, 2, NULL, NULL);
        ag_kserve_grpc.end(&out, &reply, &usage);
        ag_str rest = ag_buf_str(&out), m = next_message(&rest), tensor = nth(m, 5, 0);
        assert_true(ag_str_eqz(nth(m, 1, 0), "m") && ag_str_eqz(nth(m, 2, 0), "1") && ag_str_eqz(nth(m, 3, 0), "7"));
        assert_true(ag_str_eqz(nth(tensor, 1, 0), "text_output") && ag_str_eqz(nth(tensor, 2, 0), "BYTES"));
        assert_true(ag_str_eqz(nth(tensor, 3, 0), "\2"));
        if (raw) assert_true(ag_str_eq(nth(m, 6, 0), AG_STR("\4\0\0\0On\"e\3\0\0\0Two")));
        else assert_true(ag_str_eqz(nth(nth(tensor, 5, 0), 8, 1), "Two"));
    }
    ag_buf_reset(&out);
    ag_err_clear(&err);
    ag_err_set(&err, AG_E_PARAM, "No \"x\".");
    ag_kserve.error(&out, &err, AG_STR("id"));
    ag_buf_zterm(&out);
    assert_string_equal(out.p, "{\"error\":\"No \\\"x\\\".\"}");
    ag_buf_fini(&out);
}

static void no_memory(void **state)
{
    (void)state;
    static const char http[] = "{\"id\":\"7\",\"parameters\":{\"max_tokens\":5},\"inputs\":[{\"name\":\"text_input\","
                               "\"datatype\":\"BYTES\",\"shape\":[1],\"data\":[\"One\"]}]}";
    for (int what = 0; what < 3; what++) {
        bool fired = true;
        for (uint32_t n = 1; fired; n++) {
            begin();
            if (what == 0) put_message("user", "hi");
            if (what == 1) put_input("text_input", "BYTES", 1, NULL), ag_pb_put_bytes(&body, 7, AG_STR("\3\0\0\0One"));
            ag_fault_arm(AG_FAULT_ALLOC, n);
            int rc = what == 2
                         ? parse(&ag_kserve, AG_REQUEST_INFER, http)
                         : parse(what ? &ag_kserve_grpc : &ag_grpc, what ? AG_REQUEST_INFER : AG_REQUEST_CHAT, NULL);
            fired = ag_fault_disarm(AG_FAULT_ALLOC);
            if (rc != (fired ? AG_E_NOMEM : AG_OK)) fail_msg("%d: allocation %u: %d, %s", what, n, rc, err.text);
            ag_request_fini(&q);
            if (what == 2) ag_buf_fini(&body);
        }
    }
    bool fired = true;
    for (uint32_t n = 1; fired; n++) {
        ag_buf out;
        ag_fault_arm(AG_FAULT_ALLOC, n);
        ag_buf_init(&out, MAX);
        write_whole(&out);
        fired = ag_fault_disarm(AG_FAULT_ALLOC);
        assert_int_equal(out.failed, fired);
        ag_buf_fini(&out);
    }
}

static int setup(void **state)
{
    (void)state;
    ag_openai_init();
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(requests_are_those_of_http), cmocka_unit_test(what_is_wrong_is_said_as_over_http),
        cmocka_unit_test(whole_answers), cmocka_unit_test(vectors), cmocka_unit_test(streams),
        cmocka_unit_test(kserve_requests),
        cmocka_unit_test(kserve_refuses), cmocka_unit_test(kserve_answers), cmocka_unit_test(no_memory)};
    return cmocka_run_group_tests(tests, setup, NULL);
}
