#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/fault.h"
#include "base/mem.h"
#include "base/utf8.h"
#include "gateway/dialects/openai.h"
#include "gateway/dialects/parts.h"
#include "check.h"

#define TOOLS                                                                                                             \
    "[{\"type\":\"function\",\"function\":{\"name\":\"get_weather\",\"parameters\":{\"type\":\"object\",\"properties\":{" \
    "\"city\":{\"type\":\"string\"},\"days\":{\"type\":\"integer\"}}}}},{\"type\":\"function\",\"function\":{\"name\":\"add\"}}, 5, {}]"

typedef struct case_ {
    ag_calls_form calls;
    bool thinks, thinking, one;
    const char *text, *want; /* parts as T(text), R(reasoning), name(arguments) */
} case_;

#define W "get_weather"
#define HERMES(body) "<tool_call>\n" body "\n</tool_call>"
#define SAME(form, text) {form, false, false, false, text, "T(" text ")"}

static const case_ cases[] = {
    /* Nothing to look for: not a byte changes. */
    SAME(AG_CALLS_NONE, "\n <tool_call>{\"name\":\"add\",\"arguments\":{}}</tool_call> <think>x</think> \n"),
    SAME(AG_CALLS_HERMES, "  plain text\nwith blanks  \n"),
    SAME(AG_CALLS_HERMES, "a < b <tool <tool_calls> </tool_call>"),
    SAME(AG_CALLS_HERMES, "<tool_call>"),
    SAME(AG_CALLS_HERMES, "x <tool_call>\n{\"name\": \"add\", \"arguments\": {\"a\": 1}"),
    SAME(AG_CALLS_HERMES, "<tool_call>\n{\"name\": \"other\", \"arguments\": {}}\n</tool_call> tail "),
    SAME(AG_CALLS_HERMES, "<tool_call>\n{\"name\": \"add\", \"arguments\": []}\n</tool_call>"),
    SAME(AG_CALLS_HERMES, "<tool_call>\n{\"name\": \"add\"}\n</tool_call>"),
    SAME(AG_CALLS_HERMES, "<tool_call>\n{\"name\": 5, \"arguments\": {}}\n</tool_call>"),
    SAME(AG_CALLS_HERMES, "<tool_call>\n{\"name\": \"add\", \"arguments\": {}, }\n</tool_call>"),
    SAME(AG_CALLS_HERMES, "<tool_call>\n{\"name\": \"add\", \"arguments\": {}} x</tool_call>"),
    SAME(AG_CALLS_HERMES, "<tool_call>add</tool_call>"),
    /* Hermes, Qwen. */
    {AG_CALLS_HERMES, false, false, false,
     HERMES("{\"name\": \"add\", \"arguments\": {\"a\": 1, \"b\": [2.50, \"}\"]}}"),
     "add({\"a\": 1, \"b\": [2.50, \"}\"]})"},
    {AG_CALLS_HERMES, false, false, false, "Let me see.\n\n" HERMES("{\"arguments\": {}, \"name\": \"add\"}") "\n",
     "T(Let me see.)add({})"},
    {AG_CALLS_HERMES, false, false, false,
     HERMES("{\"name\": \"add\", \"arguments\": {}}") "\n" HERMES(
         "{\"name\": \"" W "\", \"arguments\": {\"city\": \"\\u00e9\\\"\"}}") " done ",
     "add({})get_weather({\"city\": \"\\u00e9\\\"\"})T(done )"},
    {AG_CALLS_HERMES, false, false, false, "<tool_call>{\"name\":\"add\",\"arguments\":\"{\\\"a\\\": 1}\"}</tool_call>",
     "add({\"a\": 1})"},
    {AG_CALLS_HERMES, false, false, false, "<tool_call>{\"name\":\"add\",\"parameters\":{}}</tool_call>", "add({})"},
    {AG_CALLS_HERMES, false, false, false, "<tool_call>{\"name\":\"add\",\"arguments\":{\"x\":\"</tool_call>\"}}",
     "add({\"x\":\"</tool_call>\"})"},
    {AG_CALLS_HERMES, false, false, false, "<tool_call>{\"name\":\"add\",\"arguments\":{}}\n</tool", "add({})"},
    {AG_CALLS_HERMES, false, false, false, "<tool_call><tool_call>{\"name\":\"add\",\"arguments\":{}}</tool_call>",
     "T(<tool_call>)add({})"},
    {AG_CALLS_HERMES, false, false, true,
     "a" HERMES("{\"name\": \"add\", \"arguments\": {}}") HERMES("{\"name\": \"add\", \"arguments\": {}}") "b",
     "T(a)add({})"},
    /* GLM-4.5. */
    {AG_CALLS_GLM45, false, false, false,
     "\n<tool_call>get_weather\n<arg_key>city</arg_key>\n<arg_value>42</arg_value>\n<arg_key>days</arg_key>\n<arg_value>3</arg_value>\n"
     "<arg_key>x</arg_key><arg_value>{\"y\": [1]}</arg_value><arg_key>z</arg_key><arg_value>not \"json\"</arg_value>\n</tool_call>",
     "get_weather({\"city\":\"42\",\"days\":3,\"x\":{\"y\": [1]},\"z\":\"not \\\"json\\\"\"})"},
    {AG_CALLS_GLM45, false, false, false, "<tool_call>add</tool_call><tool_call>add\n</tool_call>", "add({})add({})"},
    {AG_CALLS_GLM45, false, false, false, "<tool_call>add\n<arg_key>a</arg_key><arg_value>1</arg_value>",
     "add({\"a\":1})"},
    SAME(AG_CALLS_GLM45, "<tool_call>other\n</tool_call>"),
    SAME(AG_CALLS_GLM45, "<tool_call>add\n<arg_key>a</arg_key><arg_value>1"),
    SAME(AG_CALLS_GLM45, "<tool_call>add\n<arg_key>a</arg_key>1</tool_call>"),
    SAME(AG_CALLS_GLM45,
         "<tool_call>add<arg_key>a</arg_key><arg_value>1</arg_value><arg_key>a</arg_key><arg_value>2</arg_value></tool_call>"),
    /* Mistral. */
    {AG_CALLS_MISTRAL, false, false, false,
     "[TOOL_CALLS] [{\"name\": \"add\", \"arguments\": {\"a\": 1}}, {\"name\": \"get_weather\", \"arguments\": {}}]",
     "add({\"a\": 1})get_weather({})"},
    {AG_CALLS_MISTRAL, false, false, false,
     "ok [TOOL_CALLS]add[ARGS]{\"a\": 1}[TOOL_CALLS]add[CALL_ID]abc123xyz[ARGS]{}[TOOL_CALLS]add{\"b\": 2}",
     "T(ok)add({\"a\": 1})add({})add({\"b\": 2})"},
    {AG_CALLS_MISTRAL, false, false, true,
     "[TOOL_CALLS][{\"name\":\"add\",\"arguments\":{}},{\"name\":\"add\",\"arguments\":{}}]", "add({})"},
    SAME(AG_CALLS_MISTRAL,
         "[TOOL_CALLS] [{\"name\": \"add\", \"arguments\": {}}, {\"name\": \"x\", \"arguments\": {}}]"),
    SAME(AG_CALLS_MISTRAL, "[TOOL_CALLS][]"),
    SAME(AG_CALLS_MISTRAL, "[TOOL_CALLS]none[ARGS]{}"),
    SAME(AG_CALLS_MISTRAL, "[TOOL_CALLS]add[ARGS]{\"a\": }"),
    /* Llama 3. */
    {AG_CALLS_LLAMA3, false, false, false, "{\"name\": \"add\", \"parameters\": {\"a\": 1}}", "add({\"a\": 1})"},
    {AG_CALLS_LLAMA3, false, false, false,
     "\n\n<|python_tag|>{\"type\": \"function\", \"name\": \"add\", \"parameters\": {}}; {\"name\":\"add\",\"parameters\":{\"b\":2}}",
     "add({})add({\"b\":2})"},
    SAME(AG_CALLS_LLAMA3, "{\"name\": \"nobody\", \"parameters\": {}}"),
    SAME(AG_CALLS_LLAMA3, "Call {\"name\": \"add\", \"parameters\": {}}"),
    SAME(AG_CALLS_LLAMA3, "<|python_tag|>print(1)"),
    SAME(AG_CALLS_LLAMA3, "{\"answer\": 42"),
    SAME(AG_CALLS_LLAMA3, "é"),
    /* GLM-4. */
    {AG_CALLS_GLM4, false, false, false, "get_weather\n{\"city\": \"Köln\"}", "get_weather({\"city\": \"Köln\"})"},
    {AG_CALLS_GLM4, false, false, false, "\nadd\n{\"a\": 1}\nadd \n {}", "add({\"a\": 1})add({})"},
    SAME(AG_CALLS_GLM4, "add"),
    SAME(AG_CALLS_GLM4, "add\nmore numbers"),
    SAME(AG_CALLS_GLM4, "addition\n{}"),
    SAME(AG_CALLS_GLM4, "Sure: add\n{}"),
    SAME(AG_CALLS_GLM4, "ü"),
    /* Reasoning. */
    {AG_CALLS_NONE, true, false, false, "<think>\nhm, <b>\n</think>\n\nSo it is.\n", "R(hm, <b>)T(So it is.\n)"},
    {AG_CALLS_NONE, true, false, false, "\n<think></think>\nyes", "T(yes)"},
    {AG_CALLS_NONE, true, false, false, "<think>never ends \n", "R(never ends \n)"},
    {AG_CALLS_NONE, true, false, false, "<think>half</thi", "R(half</thi)"},
    {AG_CALLS_NONE, true, true, false, "\nopen already</think>x", "R(open already)T(x)"},
    {AG_CALLS_NONE, true, true, false, "</think>\n\nx", "T(x)"},
    {AG_CALLS_NONE, true, false, false, " no <think>x</think>", "T( no <think>x</think>)"},
    {AG_CALLS_NONE, true, false, false, " <thin", "T( <thin)"},
    {AG_CALLS_HERMES, true, false, false,
     "<think>\nwhich?\n</think>\n\n" HERMES("{\"name\": \"add\", \"arguments\": {}}"), "R(which?)add({})"},
    {AG_CALLS_HERMES, true, true, false, "<tool_call>{\"name\":\"add\",\"arguments\":{}}</tool_call></think>a",
     "R(<tool_call>{\"name\":\"add\",\"arguments\":{}}</tool_call>)T(a)"},
    {AG_CALLS_LLAMA3, true, false, false, "<think>x</think>\n{\"name\":\"add\",\"parameters\":{}}", "R(x)add({})"},
};

static json_t *tools;

static void add_part(ag_buf *out, const ag_part *part, int *open)
{
    bool joins = *open == (int)part->kind && part->kind != AG_PART_CALL;
    if (!joins && *open >= 0) ag_buf_addc(out, ')');
    if (!joins && part->kind == AG_PART_CALL) ag_buf_add(out, part->name.p, part->name.n);
    if (!joins && part->kind != AG_PART_CALL) ag_buf_addc(out, part->kind == AG_PART_TEXT ? 'T' : 'R');
    if (!joins) ag_buf_addc(out, '(');
    ag_buf_add(out, part->text.p, part->text.n);
    *open = (int)part->kind;
}

/* The parts of a text that comes in pieces, cut at these places. */
static void take_apart(const case_ *c, const size_t *cut, uint32_t n_cuts, ag_buf *out)
{
    ag_parts p;
    ag_part part;
    int open = -1;
    size_t n = strlen(c->text), from = 0;
    ag_parts_init(&p, (ag_form){.calls = c->calls, .thinks = c->thinks}, tools, c->thinking, c->one);
    ag_buf_reset(out);
    for (uint32_t i = 0; i <= n_cuts; i++) {
        size_t to = i < n_cuts ? cut[i] : n;
        char *copy = malloc(to - from + 1); /* so that reading past its end is seen */
        memcpy(copy, c->text + from, to - from);
        assert_true(ag_parts_add(&p, (ag_str){copy, to - from}));
        free(copy);
        while (ag_parts_next(&p, i == n_cuts, &part)) {
            assert_true(part.text.n > 0);
            assert_true(n_cuts || ag_utf8_check(part.text.p, part.text.n) == SIZE_MAX);
            add_part(out, &part, &open);
        }
        from = to;
    }
    if (open >= 0) ag_buf_addc(out, ')');
    ag_buf_zterm(out);
    ag_parts_fini(&p);
}

static void every_form_is_taken_apart(void **state)
{
    (void)state;
    ag_buf got;
    ag_buf_init(&got, 1 << 20);
    for (size_t i = 0; i < AG_ARRAY_LEN(cases); i++) {
        take_apart(&cases[i], NULL, 0, &got);
        assert_string_equal(got.p, cases[i].want);
    }
    ag_buf_fini(&got);
}

/* Wherever a text is cut, even into its bytes, the same comes of it. */
static void it_does_not_matter_how_a_text_comes(void **state)
{
    (void)state;
    ag_buf got;
    size_t all[1024];
    ag_buf_init(&got, 1 << 20);
    for (size_t i = 0; i < AG_ARRAY_LEN(cases); i++) {
        size_t n = strlen(cases[i].text);
        for (size_t a = 0; a <= n; a++) {
            size_t two[2] = {a, a + (n - a) / 2};
            all[a] = a;
            take_apart(&cases[i], two, 2, &got);
            if (strcmp(got.p, cases[i].want) != 0)
                fail_msg("cut at %zu and %zu:\n%s\n%s", two[0], two[1], got.p, cases[i].want);
        }
        take_apart(&cases[i], all, (uint32_t)n, &got);
        assert_string_equal(got.p, cases[i].want);
    }
    ag_buf_fini(&got);
}

static void force(ag_calls_form form, ag_str tool, const char *text, ag_part *part)
{
    static ag_parts p;
    ag_parts_fini(&p);
    ag_parts_init(&p, (ag_form){.calls = form}, tools, false, false);
    ag_parts_force(&p, tool);
    for (const char *z = text; *z; z++) { /* told when it is whole */
        assert_true(ag_parts_add(&p, (ag_str){z, 1}));
        assert_false(ag_parts_next(&p, false, part));
    }
    assert_true(ag_parts_next(&p, true, part) && p.n_calls == (part->kind == AG_PART_CALL));
    ag_part more;
    assert_false(ag_parts_next(&p, true, &more));
}

static void a_forced_call_may_name_its_tool(void **state)
{
    (void)state;
    static const struct { ag_calls_form form; const char *text; } answers[] = {
        {AG_CALLS_HERMES, "add\", \"arguments\": {\"x\": \"\\\", \\\"arguments\\\": \"}"},
        {AG_CALLS_LLAMA3, "add\", \"parameters\": {\"x\": \"\\\", \\\"arguments\\\": \"}"},
        {AG_CALLS_GLM4, "add\n{\"x\": \"\\\", \\\"arguments\\\": \"}"},
    };
    ag_part part;
    for (size_t i = 0; i < AG_ARRAY_LEN(answers); i++) {
        force(answers[i].form, (ag_str){0}, answers[i].text, &part);
        assert_true(part.kind == AG_PART_CALL && ag_str_eqz(part.name, "add"));
        assert_true(ag_str_eqz(part.text, "{\"x\": \"\\\", \\\"arguments\\\": \"}"));
        force(answers[i].form, AG_STR("add"), "{\"x\":1}", &part);
        assert_true(part.kind == AG_PART_CALL && ag_str_eqz(part.name, "add") && ag_str_eqz(part.text, "{\"x\":1}"));
        force(answers[i].form, (ag_str){0}, "ad", &part); /* broken off */
        assert_true(part.kind == AG_PART_TEXT && ag_str_eqz(part.text, "ad"));
        force(answers[i].form, (ag_str){0}, "add\", \"argum", &part);
        assert_true(part.kind == AG_PART_TEXT);
    }
}

static void text_is_not_held_back_for_nothing(void **state)
{
    (void)state;
    ag_parts p;
    ag_part part;
    ag_parts_init(&p, (ag_form){.calls = AG_CALLS_HERMES, .thinks = true}, tools, false, false);
    assert_true(ag_parts_add(&p, AG_STR("Hello, w")) && ag_parts_next(&p, false, &part));
    assert_true(ag_str_eqz(part.text, "Hello, w") && !ag_parts_next(&p, false, &part));
    assert_true(ag_parts_add(&p, AG_STR("orld <to")) && ag_parts_next(&p, false, &part));
    assert_true(ag_str_eqz(part.text, "orld") && !ag_parts_next(&p, false, &part));
    assert_true(ag_parts_add(&p, AG_STR("p>")) && ag_parts_next(&p, false, &part));
    assert_true(ag_str_eqz(part.text, " <top>"));
    ag_parts_fini(&p);
}

static void what_is_too_long_or_too_much_is_text(void **state)
{
    (void)state;
    ag_buf text, got;
    ag_buf_init(&text, 1u << 24);
    ag_buf_init(&got, 1u << 24);
    ag_buf_addz(&text, "<tool_call>{\"name\":\"add\",\"arguments\":{\"x\":\"");
    for (uint32_t i = 0; i < AG_CALL_BYTES_MAX; i++) ag_buf_addc(&text, 'x');
    ag_buf_addz(&text, "\"}}</tool_call>");
    ag_buf_zterm(&text);
    case_ c = {AG_CALLS_HERMES, false, false, false, text.p, NULL};
    size_t cut[] = {AG_CALL_BYTES_MAX - 1, AG_CALL_BYTES_MAX + 1};
    for (uint32_t n = 0; n <= 2; n += 2) {
        take_apart(&c, cut, n, &got);
        assert_int_equal(got.n, text.n + 3);
    }
    ag_buf_reset(&text); /* scanning each of these to the end would take for ever */
    for (uint32_t i = 0; i < 300000; i++) ag_buf_addz(&text, "<tool_call>{");
    ag_buf_zterm(&text);
    c.text = text.p;
    take_apart(&c, NULL, 0, &got);
    assert_int_equal(got.n, text.n + 3);
    ag_buf_reset(&text);
    for (uint32_t i = 0; i <= AG_CALLS_MAX; i++)
        ag_buf_addz(&text, "<tool_call>{\"name\":\"add\",\"arguments\":{}}</tool_call>\n");
    ag_buf_zterm(&text);
    c.text = text.p;
    take_apart(&c, NULL, 0, &got);
    const char *end = strstr(got.p, "T(<tool_call>");
    assert_non_null(end);
    assert_int_equal(end - got.p, AG_CALLS_MAX * strlen("add({})"));
    ag_buf_fini(&text);
    ag_buf_fini(&got);
}

static void forms_are_known_by_their_templates(void **state)
{
    (void)state;
    static const struct { const char *name; ag_calls_form calls; bool thinks; } known[] = {
        {"Qwen-Qwen2.5-7B-Instruct", AG_CALLS_HERMES, false},
        {"Qwen-Qwen3-0.6B", AG_CALLS_HERMES, true},
        {"NousResearch-Hermes-2-Pro-Llama-3-8B-tool_use", AG_CALLS_HERMES, false},
        {"GLM-4.6", AG_CALLS_GLM45, true},
        {"GLM-4-9B-Chat", AG_CALLS_GLM4, false},
        {"meta-llama-Llama-3.1-8B-Instruct", AG_CALLS_LLAMA3, false},
        {"mistralai-Mistral-Nemo-Instruct-2407", AG_CALLS_MISTRAL, false},
        {"deepseek-ai-DeepSeek-R1-Distill-Qwen-32B", AG_CALLS_NONE, true},
        {"Qwen3-Coder", AG_CALLS_NONE, false},
        {"SmolLM2-135M-Instruct", AG_CALLS_NONE, false},
    };
    const char *data = getenv("AUTOGLM_TEST_DATA");
    for (size_t i = 0; i < AG_ARRAY_LEN(known); i++) {
        char path[1024];
        static char source[1 << 16];
        snprintf(path, sizeof path, "%s/templates/%s.jinja", data ? data : "", known[i].name);
        FILE *f = data ? fopen(path, "r") : NULL;
        if (f == NULL) {
            check_skipped((uint32_t)(AG_ARRAY_LEN(known) - i), "no published templates");
            return;
        }
        size_t n = fread(source, 1, sizeof source, f);
        fclose(f);
        ag_form form = ag_form_of((ag_str){source, n});
        assert_int_equal(form.tools_in_message, strcmp(known[i].name, "GLM-4-9B-Chat") == 0);
        if (form.calls != known[i].calls || form.thinks != known[i].thinks)
            fail_msg("%s: %d, %d", known[i].name, form.calls, form.thinks);
    }
}

static void no_memory_is_told(void **state)
{
    (void)state;
#ifdef AG_FAULTS
    const case_ *c = NULL;
    for (size_t i = 0; i < AG_ARRAY_LEN(cases); i++)
        if (cases[i].calls == AG_CALLS_GLM45 && c == NULL) c = &cases[i];
    for (uint32_t n = 1;; n++) {
        ag_parts p;
        ag_part part;
        uint32_t calls = 0;
        ag_fault_arm(AG_FAULT_ALLOC, n);
        ag_parts_init(&p, (ag_form){.calls = c->calls, .thinks = c->thinks}, tools, c->thinking, c->one);
        if (ag_parts_add(&p, ag_str_of(c->text)))
            while (ag_parts_next(&p, true, &part)) calls += part.kind == AG_PART_CALL;
        bool fired = ag_fault_disarm(AG_FAULT_ALLOC);
        ag_parts_fini(&p);
        if (!fired) {
            assert_int_equal(calls, 1);
            break;
        }
    }
#endif
}

static int setup(void **state)
{
    (void)state;
    ag_openai_init();
    tools = json_loads(TOOLS, 0, NULL);
    return tools == NULL;
}

static int teardown(void **state)
{
    (void)state;
    json_decref(tools);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_form_is_taken_apart),
        cmocka_unit_test(it_does_not_matter_how_a_text_comes),
        cmocka_unit_test(a_forced_call_may_name_its_tool),
        cmocka_unit_test(text_is_not_held_back_for_nothing),
        cmocka_unit_test(what_is_too_long_or_too_much_is_text),
        cmocka_unit_test(forms_are_known_by_their_templates),
        cmocka_unit_test(no_memory_is_told),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
