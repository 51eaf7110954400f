/* Templates against what jinja2 makes of them, and against limits, faults and hostile input. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "base/fault.h"
#include "model/template/template.h"

static int64_t iso_time(const char *text)
{
    struct tm tm = {0};
    assert_non_null(strptime(text, "%Y-%m-%dT%H:%M:%S", &tm));
    return (int64_t)timegm(&tm);
}

static int render_vars(const char *text, size_t n, json_t *vars, int64_t now, const ag_template_limits *limits,
                       ag_buf *out,
                       ag_template_error *e)
{
    ag_template *t = NULL;
    int rc = ag_template_parse(&t, text, n, e);
    if (rc == AG_OK) rc = ag_template_render(t, vars, now, limits, out, e);
    ag_template_free(t);
    return rc;
}

/* Renders without variables and compares; a wanted text that begins with '!' is the kind of an error. */
static void check_limits(const char *text, const char *want, ag_template_limits limits)
{
    json_t *vars = json_object();
    ag_template_error e = {0};
    ag_buf out;
    ag_buf_init(&out, 1u << 20);
    int rc = render_vars(text, strlen(text), vars, 0, &limits, &out, &e);
    if (*want == '!') {
        assert_int_not_equal(rc, AG_OK);
        assert_string_equal(ag_template_kind_name(e.kind), want + 1);
        assert_int_equal(out.n, 0);
    } else {
        if (rc != AG_OK) fail_msg("%s: %s", text, e.message);
        assert_int_equal(out.n, strlen(want));
        assert_memory_equal(out.p ? out.p : "", want, out.n);
    }
    ag_buf_fini(&out);
    json_decref(vars);
}

static void check(const char *text, const char *want) { check_limits(text, want, AG_TEMPLATE_LIMITS_DEFAULT); }

static const char *data_dir(char *path, size_t cap)
{
    const char *data = getenv("AUTOGLM_TEST_DATA");
    snprintf(path, cap, "%s/templates", data ? data : "../shared/data");
    return path;
}

static char *file_text(const char *path, size_t *n)
{
    FILE *f = fopen(path, "rb");
    if (f == NULL) return NULL;
    char *text = malloc(1u << 20);
    assert_non_null(text);
    *n = fread(text, 1, 1u << 20, f);
    fclose(f);
    return text;
}

static json_t *case_vars(json_t *c)
{
    static const char *const names[] = {"messages", "tools", "documents", "add_generation_prompt", "bos_token",
        "eos_token"};
    json_t *vars = json_object_get(c, "variables");
    if (vars) return json_incref(vars);
    vars = json_object();
    for (size_t i = 0; i < AG_ARRAY_LEN(names); i++) {
        json_t *v = json_object_get(c, names[i]);
        if (v) json_object_set(vars, names[i], v);
    }
    json_object_update(vars, json_object_get(c, "extra"));
    return vars;
}

static bool case_passes(json_t *c, int rc, const ag_buf *out, const ag_template_error *e)
{
    json_t *error = json_object_get(c, "error"), *expected = json_object_get(c, "expected");
    if (error) {
        const char *kind = json_string_value(json_object_get(error, "kind"));
        if (rc == AG_OK || strcmp(kind, ag_template_kind_name(e->kind)) != 0 || e->line == 0 || e->column == 0) {
            return false;
        }
        const char *message = json_string_value(json_object_get(error, "message"));
        return e->kind != AG_TEMPLATE_RAISED || strcmp(message, e->message) == 0;
    }
    return rc == AG_OK && json_string_length(expected) == out->n &&
           (out->n == 0 || memcmp(json_string_value(expected), out->p, out->n) == 0);
}

/* Every line of a file in the form of cases.jsonl (dir: where its templates lie) or of features.jsonl (dir NULL). */
static void run_cases(const char *path, const char *dir)
{
    FILE *f = fopen(path, "rb");
    if (f == NULL) {
        print_message("SKIPPED: all cases of %s, which is not there\n", path);
        return;
    }
    char *line = NULL, file[4096];
    size_t cap = 0, passed = 0, failed = 0;
    ssize_t n;
    while ((n = getline(&line, &cap, f)) > 0) {
        json_t *c = json_loadb(line, (size_t)n, JSON_ALLOW_NUL, NULL), *template = json_object_get(c, "template");
        assert_non_null(c);
        size_t len = json_string_length(template);
        char *own = NULL;
        const char *text = json_string_value(template);
        if (dir) {
            snprintf(file, sizeof file, "%s/%s", dir, text);
            text = own = file_text(file, &len);
            assert_non_null(own);
        }
        json_t *vars = case_vars(c);
        ag_template_error e = {0};
        ag_buf out;
        ag_buf_init(&out, 1u << 24);
        int rc = render_vars(text, len, vars, iso_time(json_string_value(json_object_get(c, "now"))),
                             &AG_TEMPLATE_LIMITS_DEFAULT, &out, &e);
        bool ok = case_passes(c, rc, &out, &e);
        if (ok) passed++;
        else if (failed++ < 10) print_message("%s: got %.*s%s\n", json_string_value(json_object_get(c, "id")),
                                              (int)out.n,
                                              out.p ? out.p : "", e.message);
        ag_buf_fini(&out);
        free(own);
        json_decref(vars);
        json_decref(c);
    }
    free(line);
    fclose(f);
    print_message("%s: %zu cases as jinja2\n", path, passed);
    assert_int_equal(failed, 0);
    assert_true(passed > 0);
}

static void test_published(void **state)
{
    char dir[4096], path[4200];
    (void)state;
    snprintf(path, sizeof path, "%s/cases.jsonl", data_dir(dir, sizeof dir));
    run_cases(path, dir);
}

static void test_features(void **state)
{
    char dir[4096], path[4200];
    (void)state;
    snprintf(path, sizeof path, "%s/features.jsonl", data_dir(dir, sizeof dir));
    run_cases(path, NULL);
}

static void test_extra(void **state)
{
    char path[4096] = __FILE__;
    (void)state;
    strcpy(strrchr(path, '/') + 1, "cases_extra.jsonl");
    run_cases(path, NULL);
}

static void test_positions(void **state)
{
    static const struct { const char *text; uint32_t line, column; } at[] = {
        {"{{ 1 + }}", 1, 8}, {"a\n\n  {% nosuch %}", 3, 6}, {"é{{ nope.x }}", 1, 9}, {"a\r\nb\r\n{{ 1 / 0 }}", 3, 6},
        {"x\n{% if a %}\ny", 3, 2}, {"{% set a = [1,\n 2 %}", 2, 5}, {"{# never", 1, 1}, {"\n{{ 'a'|nosuch }}", 2, 8},
    };
    (void)state;
    json_t *vars = json_object();
    for (size_t i = 0; i < AG_ARRAY_LEN(at); i++) {
        ag_template_error e = {0};
        ag_buf out;
        ag_buf_init(&out, 4096);
        int rc = render_vars(at[i].text, strlen(at[i].text), vars, 0, &AG_TEMPLATE_LIMITS_DEFAULT, &out, &e);
        assert_int_not_equal(rc, AG_OK);
        if (e.line != at[i].line || e.column != at[i].column) {
            fail_msg("%s: %u:%u %s", at[i].text, e.line, e.column, e.message);
        }
        ag_buf_fini(&out);
    }
    json_decref(vars);
}

static void test_limits(void **state)
{
    ag_template_limits few = AG_TEMPLATE_LIMITS_DEFAULT, small = few, brief = few;
    few.steps = 1000;
    small.memory_bytes = 100000;
    brief.output_bytes = 10;
    (void)state;
    check_limits("{% for i in range(99999) %}{% endfor %}", "!limit", few);
    check_limits("{% for i in range(9) %}{{ i }}{% endfor %}", "012345678", few);
    check_limits("{{ 'x' * 1000000000 }}", "!limit", AG_TEMPLATE_LIMITS_DEFAULT);
    check_limits("{{ [1] * 1000000000 }}", "!limit", AG_TEMPLATE_LIMITS_DEFAULT);
    check_limits("{{ ('x' * 100001)|length }}", "!limit", small);
    check_limits("{{ 'x'.center(1000000000000) }}", "!limit", small);
    check_limits("{{ '%1000000000d' % 5 }}", "!limit", small);
    check_limits("{{ '{:1000000000}'.format(5) }}", "!limit", small);
    check_limits("{{ 'a'|indent(1000000000, true) }}", "!limit", small);
    check_limits("{{ [1]|batch(1000000000, 0)|list }}", "!limit", small);
    check_limits("{{ 'hello hello' }}", "!limit", brief);
    check_limits("{{ 'hello hell' }}", "hello hell", brief);
    check("{{ range(1000000000) }}", "!runtime");
    check("{{ 9223372036854775807 + 1 }}", "!limit");
    check("{{ 2 ** 64 }}", "!limit");
    check("{{ 9223372036854775808 }}", "!limit");
    check("{% set ns = namespace(s='ab') %}{% for i in range(60) %}{% set ns.s = ns.s + ns.s %}{% endfor %}", "!limit");
}

/* A text or list built piece by piece costs memory in proportion to its length; copies would need far more. */
static void test_building_is_linear(void **state)
{
    ag_template_limits l = AG_TEMPLATE_LIMITS_DEFAULT;
    (void)state;
    l.memory_bytes = 4u << 20;
    check_limits("{% set ns = namespace(s='') %}{% for i in range(5000) %}{% set ns.s = ns.s ~ 'abcdefghij' %}"
                 "{% endfor %}"
                 "{{ ns.s|length }}", "50000", l);
    check_limits("{% set ns = namespace(l=[]) %}{% for i in range(5000) %}{% set ns.l = ns.l + [i] %}{% endfor %}"
                 "{{ ns.l|length }}", "5000", l);
}

static char *nested(const char *open, const char *middle, const char *close, size_t n)
{
    char *text = malloc(n * (strlen(open) + strlen(close)) + strlen(middle) + 1), *p = text;
    assert_non_null(text);
    for (size_t i = 0; i < n; i++) p = stpcpy(p, open);
    p = stpcpy(p, middle);
    for (size_t i = 0; i < n; i++) p = stpcpy(p, close);
    return text;
}

static void *deep_thread(void *arg)
{
    static const char *const shapes[][3] = {
        {"{% if 1 %}", "x", "{% endif %}"}, {"{% for a in [1] %}", "x", "{% endfor %}"}, {"{{ not ", "1", " }}"},
        {"{{ -", "1", " }}"}, {"{{ 1 if 1 else ", "1", " }}"}, {"{% macro m() %}", "x", "{% endmacro %}"},
        {"{% set a %}", "x", "{% endset %}"}, {"{% with a = 1 %}", "x", "{% endwith %}"},
        {"{% filter upper %}", "x", "{% endfilter %}"}, {"{% call m() %}", "x", "{% endcall %}"},
        {"{{ a", "", ".a }}"}, {"{{ a", "", "|upper }}"}, {"{{ a", "", "[0] }}"}, {"{{ a", "", "() }}"},
        {"{{ [1", "", "] + [1] }}"}, {"{% block a %}", "x", "{% endblock %}"},
    };
    const char *wrong = NULL;
    (void)arg;
    json_t *vars = json_object();
    for (size_t i = 0; i < AG_ARRAY_LEN(shapes); i++) {
        for (size_t n = 10; n <= 20000; n *= n < 2000 ? 2 : 10) {
            char *text = nested(shapes[i][0], shapes[i][1], shapes[i][2], n);
            if (shapes[i][0][1] == '{' && strlen(shapes[i][0]) > 3) { /* one expression, not n of them */
                for (char *p = text + 2; (p = strstr(p, "{{")); ) memcpy(p, "  ", 2);
                char *last = strrchr(text, '}');
                for (char *p = text; (p = strstr(p, "}}")) && p + 1 < last;) memcpy(p, "  ", 2);
            }
            ag_template_error e = {0};
            ag_buf out;
            ag_buf_init(&out, 1u << 20);
            render_vars(text, strlen(text), vars, 0, &AG_TEMPLATE_LIMITS_DEFAULT, &out, &e);
            ag_buf_fini(&out);
            free(text);
        }
    }
    static const char *const runtime[] = {
        "{% macro m(n) %}{{ m(n + 1) }}{% endmacro %}{{ m(0) }}",
        "{% for a in [1] recursive %}{{ loop([1]) }}{% endfor %}",
        "{% macro m() %}{{ caller() }}{% call m() %}{{ m }}{% endcall %}{% endmacro %}{% call m() %}x{% endcall %}",
        "{% set ns = namespace(l=[]) %}{% for i in range(9999) %}{% set ns.l = [ns.l] %}{% endfor %}{{ ns.l }}",
        "{% set ns = namespace(l=[]) %}{% for i in range(9999) %}{% set ns.l = [ns.l] %}{% endfor %}{{ ns.l|tojson }}",
        "{% set ns = namespace(l=[]) %}{% for i in range(9999) %}{% set ns.l = [ns.l] %}{% endfor %}"
        "{{ ns.l == [[ns.l]] }}",
        "{% set ns = namespace(l=(1,)) %}{% for i in range(9999) %}{% set ns.l = (ns.l,) %}{% endfor %}{{ {ns.l: 1} }}",
        "{% set ns = namespace(l='ab') %}{% for i in range(9999) %}{% set ns.l = ns.l|map('upper') %}{% endfor %}"
        "{{ ns.l|list }}",
        "{% set ns = namespace() %}{% set ns.me = ns %}{{ ns }}",
    };
    for (size_t i = 0; i < AG_ARRAY_LEN(runtime); i++) {
        ag_template_error e = {0};
        ag_buf out;
        ag_buf_init(&out, 1u << 20);
        int rc = render_vars(runtime[i], strlen(runtime[i]), vars, 0, &AG_TEMPLATE_LIMITS_DEFAULT, &out, &e);
        if (rc != AG_E_LIMIT) wrong = runtime[i];
        ag_buf_fini(&out);
    }
    json_decref(vars);
    return (void *)(uintptr_t)wrong; /* cmocka fails only where it runs */
}

static void test_deep(void **state)
{
    pthread_t thread;
    pthread_attr_t attr;
    (void)state;
    pthread_attr_init(&attr);
    assert_int_equal(pthread_attr_setstacksize(&attr, 512 * 1024), 0);
    assert_int_equal(pthread_create(&thread, &attr, deep_thread, NULL), 0);
    void *wrong;
    pthread_join(thread, &wrong);
    pthread_attr_destroy(&attr);
    if (wrong) fail_msg("no limit met: %s", (const char *)wrong);
    check("{% macro m(n) %}{% if n %}.{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(20) }}", "....................");
}

static void test_not_utf8(void **state)
{
    (void)state;
    check("\xff{{ 1 }}", "!syntax");
    check("{{ '\xc3' }}", "!syntax");
}

static void test_output_kept_on_error(void **state)
{
    ag_template_error e = {0};
    ag_template *t;
    ag_buf out;
    (void)state;
    ag_buf_init(&out, 4096);
    ag_buf_addz(&out, "before");
    json_t *vars = json_object();
    assert_int_equal(ag_template_parse(&t, "abc{{ 1 / 0 }}", 14, &e), AG_OK);
    assert_int_equal(ag_template_render(t, vars, 0, &AG_TEMPLATE_LIMITS_DEFAULT, &out, &e), AG_E_TEMPLATE);
    assert_int_equal(out.n, 6);
    ag_template_free(t);
    json_decref(vars);
    ag_buf_fini(&out);
}

#ifdef AG_FAULTS
/* Each allocation in turn fails: the answer is right, or says that memory was short. */
static void test_alloc_faults(void **state)
{
    static const char text[] =
        "{% macro m(a, b=2, *) %}{% endmacro %}", good[] =
        "{% set ns = namespace(x=[]) %}{% macro m(a, b='q') %}{{ a }}{{ b }}{{ kwargs }}{% endmacro %}"
        "{% for k, v in {'a': 1, 'b': [1, 2.5, none]}.items() if v recursive %}{{ loop.index }}{{ k ~ v }}"
        "{% set ns.x = ns.x + [k] %}{% endfor %}{{ m(1, c=2) }}{{ ns.x|map('upper')|sort|join(',') }}"
        "{{ {'z': 'é'}|tojson(indent=2) }}{{ '%s' % 'a' }}{{ '{}'.format(3) }}{{ 'a b'.split()|reverse|list }}";
    (void)state;
    check(text, "!syntax");
    json_t *vars = json_object();
    size_t want = 0;
    for (uint32_t n = 0;; n++) {
        ag_template_error e = {0};
        ag_buf out;
        ag_buf_init(&out, 1u << 20);
        if (n) ag_fault_arm(AG_FAULT_ALLOC, n);
        int rc = render_vars(good, sizeof good - 1, vars, 0, &AG_TEMPLATE_LIMITS_DEFAULT, &out, &e);
        bool fired = n && ag_fault_disarm(AG_FAULT_ALLOC);
        if (n == 0) {
            if (rc != AG_OK) fail_msg("%s", e.message);
            want = out.n;
        }
        if (fired) assert_int_equal(rc, AG_E_NOMEM);
        else assert_true(rc == AG_OK && out.n == want);
        ag_buf_fini(&out);
        if (n && !fired) break;
    }
    json_decref(vars);
}
#endif

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_published),
        cmocka_unit_test(test_features),
        cmocka_unit_test(test_extra),
        cmocka_unit_test(test_positions),
        cmocka_unit_test(test_limits),
        cmocka_unit_test(test_building_is_linear),
        cmocka_unit_test(test_deep),
        cmocka_unit_test(test_not_utf8),
        cmocka_unit_test(test_output_kept_on_error),
#ifdef AG_FAULTS
        cmocka_unit_test(test_alloc_faults),
#endif
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
