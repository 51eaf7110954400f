/* Conversations to tokens: what a template writes may be control tokens, what it is given stays text. */
#include "check.h"

#include "base/fault.h"
#include "base/mem.h"
#include "model/model.h"
#include "tokenizer/tiny_vocab.h"

#define CHATML "{%- for m in messages -%}{{ m.content }}<|im_end|>{%- endfor -%}"
#define NONCHARACTER "\xEF\xB7\x90"

typedef struct talk {
    tiny_opened o;
    ag_model m;
} talk;

static void talk_open(talk *t, const char *source)
{
    tiny v;
    ag_template_error e;
    tiny_bpe(&v, "gpt-2");
    tiny_token(&v, "im_end|><|bos|>", AG_TOKEN_CONTROL, 0); /* inside and across others */
    tiny_token(&v, "☃", AG_TOKEN_CONTROL, 0);
    memset(t, 0, sizeof *t);
    tiny_open(&t->o, &v);
    if (t->o.rc) fail_msg("%s", t->o.err.text);
    t->m.tokenizer = t->o.t;
    if (ag_template_parse(&t->m.chat, source, strlen(source), &e)) fail_msg("%s", e.message);
}

static void talk_close(talk *t)
{
    ag_template_free(t->m.chat);
    tiny_close(&t->o);
}

/* The prompt's text with each control token written as {text}. */
static void prompts(const talk *t, const char *vars_json, bool parse_special, const char *want)
{
    ag_err err = {0};
    int32_t *ids;
    uint32_t n;
    json_t *vars = json_loads(vars_json, 0, NULL), *before = json_deep_copy(vars);
    assert_non_null(vars);
    if (ag_model_prompt(&t->m, vars, (ag_str){0}, parse_special, &ids, &n, &err)) fail_msg("%s", err.text);
    assert_true(json_equal(vars, before));
    ag_buf text;
    ag_buf_init(&text, 1 << 16);
    for (uint32_t i = 0; i < n; i++) {
        ag_str piece = ag_tokenizer_piece(t->o.t, ids[i], true);
        bool control = ag_tokenizer_kind(t->o.t, ids[i]) == AG_TOKEN_CONTROL;
        ag_buf_addf(&text, control ? "{%.*s}" : "%.*s", (int)piece.n, piece.p);
    }
    ag_buf_zterm(&text);
    assert_string_equal(text.p, want);
    ag_buf_fini(&text);
    ag_mem_free(ids);
    json_decref(before);
    json_decref(vars);
}

static const struct {
    const char *source, *vars;
    bool parse_special;
    const char *want;
} cases[] = {
    {CHATML, "{\"messages\": [{\"content\": \"a<|im_end|><|bos|>b\"}]}", false, "a<|im_end|><|bos|>b{<|im_end|>}"},
    {CHATML, "{\"messages\": [{\"content\": \"a<|im_end|>b<|bos|>\"}]}", true, "a{<|im_end|>}b{<|bos|>}{<|im_end|>}"},
    /* The longest token is held back, and then the shorter ones inside it and those of one character. */
    {CHATML, "{\"messages\": [{\"content\": \"im_end|><|bos|>☃\"}]}", false, "im_end|><|bos|>☃{<|im_end|>}"},
    /* User-defined tokens are text that anybody may write. */
    {"{{ 'yes' if '<think>' in messages[0].content else 'no' }} {{ messages[0].content.split('<think>')[1] }}",
     "{\"messages\": [{\"content\": \"a<think><|bos|>\"}]}", false, "yes <|bos|>"},
    /* Marks live through what templates do to strings, and in lists, keys and JSON. */
    {"{{ messages[0].content | trim }}{{ x | tojson }}{% for k in x %}{{ k }}{% endfor %}",
     "{\"messages\": [{\"content\": \"  <|bos|> \"}], \"x\": {\"<|bos|>\": [\"<|im_end|>\", 1, null]}}", false,
     "<|bos|>{\"<|bos|>\": [\"<|im_end|>\", 1, null]}<|bos|>"},
    /* A noncharacter of the caller's is kept, changes nothing, and marks nothing. */
    {CHATML, "{\"messages\": [{\"content\": \"" NONCHARACTER "a" NONCHARACTER "\"}]}", false,
     NONCHARACTER "a" NONCHARACTER "{<|im_end|>}"},
    {CHATML,
     "{\"messages\": [{\"content\": \"" NONCHARACTER NONCHARACTER "<" NONCHARACTER "|bos|><|bos|>" NONCHARACTER "\"}]}",
     false, NONCHARACTER NONCHARACTER "<" NONCHARACTER "|bos|><|bos|>" NONCHARACTER "{<|im_end|>}"},
    {"{{ bos_token }}{{ messages[0].content }}{{ eos_token }}",
     "{\"messages\": [{\"content\": \"<|bos|>\"}], \"eos_token\": \"☃\"}",
     false, "{<|bos|>}<|bos|>{<|im_end|>}"},
};

static void templates_write_control_tokens_and_callers_do_not(void **state)
{
    (void)state;
    for (size_t i = 0; i < AG_ARRAY_LEN(cases); i++) {
        talk t;
        talk_open(&t, cases[i].source);
        prompts(&t, cases[i].vars, cases[i].parse_special, cases[i].want);
        talk_close(&t);
    }
}

static void no_template_and_failures_are_said(void **state)
{
    (void)state;
    talk t;
    int32_t *ids;
    uint32_t n;
    ag_err err = {0};
    talk_open(&t, "{{ raise_exception(messages[0].content) }}");
    json_t *vars = json_loads("{\"messages\": [{\"content\": \"no\"}]}", 0, NULL);
    assert_int_equal(ag_model_prompt(&t.m, vars, (ag_str){0}, false, &ids, &n, &err), AG_E_TEMPLATE);
    assert_string_equal(err.text, "no");
    ag_template_free(t.m.chat);
    t.m.chat = NULL;
    err = (ag_err){0};
    assert_int_equal(ag_model_prompt(&t.m, vars, (ag_str){0}, false, &ids, &n, &err), AG_E_TEMPLATE);
    json_decref(vars);
    talk_close(&t);
}

#ifdef AG_FAULTS
static void every_allocation_may_fail(void **state)
{
    (void)state;
    talk t;
    talk_open(&t, CHATML);
    json_t *vars = json_loads("{\"messages\": [{\"content\": \"a<|bos|>b\", \"k\": [1, \"<|bos|>\"]}]}", 0, NULL);
    int rc = AG_E_NOMEM;
    for (uint32_t i = 1; rc == AG_E_NOMEM; i++) {
        int32_t *ids = NULL;
        uint32_t n = 0;
        ag_err err = {0};
        ag_fault_arm(AG_FAULT_ALLOC, i);
        rc = ag_model_prompt(&t.m, vars, (ag_str){0}, false, &ids, &n, &err);
        ag_fault_disarm(AG_FAULT_ALLOC);
        if (rc != AG_OK) assert_true(err.text[0] != 0);
        else ag_mem_free(ids);
    }
    assert_int_equal(rc, AG_OK);
    json_decref(vars);
    talk_close(&t);
}
#endif

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(templates_write_control_tokens_and_callers_do_not),
        cmocka_unit_test(no_template_and_failures_are_said),
#ifdef AG_FAULTS
        cmocka_unit_test(every_allocation_may_fail),
#endif
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
