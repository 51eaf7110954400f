#include "base/conf.h"

#include <unistd.h>

#include "base/fault.h"
#include "base/near.h"
#include "check.h"

static char path[64];

static void write_file(const char *text, size_t n)
{
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(text, 1, n, f), n);
    fclose(f);
}

static int load(ag_conf *c, char **env, const char *const *words, ag_err *err)
{
    char *argv[16];
    int n = 0;
    while (words && words[n]) argv[n] = (char *)words[n], n++;
    ag_err_clear(err);
    return ag_conf_load(c, &(ag_conf_input){.argc = n, .argv = argv, .env = env}, err);
}

static void expect(const ag_conf *c, ag_conf_id id, const char *want)
{
    ag_buf b;
    ag_buf_init(&b, 20000);
    assert_true(ag_conf_get(c, id, &b) && ag_buf_zterm(&b));
    assert_string_equal(b.p, want);
    ag_buf_fini(&b);
}

static void every_default_is_within_its_own_range(void **state)
{
    (void)state;
    ag_conf c;
    ag_err err = {0};
    assert_int_equal(ag_conf_init(&c, &err), AG_OK);
    for (ag_conf_id i = 0; i < AG_CONF_COUNT; i++) {
        const ag_conf_row *r = ag_conf_row_at(i);
        assert_true(strlen(r->help) > 10 && r->help[strlen(r->help) - 1] == '.');
        if (strcmp(r->def, "0") != 0) expect(&c, i, r->def); /* defaults are written in their canonical form */
        for (ag_conf_id k = 0; k < i; k++) assert_string_not_equal(r->flag, ag_conf_row_at(k)->flag);
    }
    assert_int_equal(c.port, 8080);
    assert_int_equal(c.shutdown_timeout_ms, 30000);
    assert_int_equal(c.body_bytes, 16 << 20);
    assert_string_equal(c.host, "127.0.0.1");
    ag_conf_fini(&c);
    ag_conf_fini(&c);
}

/* A value that differs from the default, by the row's type and range. */
static void sample(const ag_conf_row *r, char out[64])
{
    switch (r->type) {
    case AG_CONF_TYPE_flag: snprintf(out, 64, "%s", strcmp(r->def, "yes") == 0 ? "no" : "yes"); break;
    case AG_CONF_TYPE_choice: snprintf(out, 64, "%s", strrchr(r->unit, '|') + 1); break;
    case AG_CONF_TYPE_text:
    case AG_CONF_TYPE_list: snprintf(out, 64, "x%.20s", r->flag); break;
    case AG_CONF_TYPE_size: snprintf(out, 64, "%lluB", (unsigned long long)r->max - 1); break;
    case AG_CONF_TYPE_duration: snprintf(out, 64, "%llums", (unsigned long long)r->max - 1); break;
    default: snprintf(out, 64, "%llu", (unsigned long long)r->max - 1); break;
    }
}

static void every_setting_is_set_and_read_back_from_each_source(void **state)
{
    (void)state;
    for (ag_conf_id i = 0; i < AG_CONF_COUNT; i++) {
        const ag_conf_row *r = ag_conf_row_at(i);
        char value[64], line[200], flag[100];
        ag_conf c = {0};
        ag_err err = {0};
        sample(r, value);
        const char *shown = r->from == AG_CONF_ENV ? "(set)" : value;

        snprintf(line, sizeof line, "AUTOGLM_%s=%s", r->flag, value);
        for (char *p = line; *p != '='; p++) *p = *p == '-' ? '_' : (char)(*p >= 'a' && *p <= 'z' ? *p - 32 : *p);
        char *env[] = {line, NULL};
        if (i != AG_CONF_config) { /* that one would be read */
            assert_int_equal(load(&c, env, NULL, &err), AG_OK);
            expect(&c, i, shown);
            ag_conf_fini(&c);

            snprintf(flag, sizeof flag, "--%s=%s", r->flag, value);
            int rc = load(&c, NULL, (const char *[]){flag, NULL}, &err);
            assert_int_equal(rc, r->from == AG_CONF_ENV ? AG_E_USAGE : AG_OK);
            if (rc == AG_OK) expect(&c, i, value);
            else assert_non_null(strstr(err.text, "AUTOGLM_"));
            ag_conf_fini(&c);
        }

        write_file(line, (size_t)snprintf(line, sizeof line, "%s:\n  %s: %s\n", r->group, r->flag, value));
        int rc = load(&c, NULL, (const char *[]){"--config", path, NULL}, &err);
        assert_int_equal(rc, r->from == AG_CONF_ANY ? AG_OK : AG_E_USAGE);
        if (rc == AG_OK) expect(&c, i, value);
        ag_conf_fini(&c);
    }
}

static void every_setting_refuses_what_is_out_of_range(void **state)
{
    (void)state;
    static char long_text[40000];
    memset(long_text, 'x', sizeof long_text - 1);
    ag_conf c;
    ag_err err = {0};
    assert_int_equal(ag_conf_init(&c, &err), AG_OK);
    for (ag_conf_id i = 0; i < AG_CONF_COUNT; i++) {
        const ag_conf_row *r = ag_conf_row_at(i);
        char low[64] = "-1", high[64] = "nonsense", huge[64] = "99999999999999999999";
        const char *unit = r->type == AG_CONF_TYPE_duration ? "ms" : r->type == AG_CONF_TYPE_size ? "B" : "";
        if (r->type < AG_CONF_TYPE_flag && r->min > 0)
            snprintf(low, sizeof low, "%llu%s", (unsigned long long)r->min - 1, unit);
        if (r->type < AG_CONF_TYPE_flag) snprintf(high, sizeof high, "%llu%s", (unsigned long long)r->max + 1, unit);
        const char *bad[] = {low, high, huge, long_text, "1\xFF"};
        bool is_text = r->type == AG_CONF_TYPE_text || r->type == AG_CONF_TYPE_list;
        for (size_t k = is_text ? 3 : 0; k < AG_ARRAY_LEN(bad); k++) {
            if (k == 4 && strcmp(r->unit, "path") == 0) continue;
            ag_err_clear(&err);
            if (ag_conf_set(&c, i, "--here", ag_str_of(bad[k]), &err) != AG_E_USAGE)
                fail_msg("%s took %.40s", r->flag, bad[k]);
            assert_ptr_equal(strstr(err.text, "--here: "), err.text);
            if (r->from == AG_CONF_ENV) assert_null(strstr(err.text, "xxx"));
        }
        if (strcmp(r->def, "0") != 0) expect(&c, i, r->def); /* as it was */
    }
    ag_conf_fini(&c);
}

static void units_are_understood(void **state)
{
    (void)state;
    static const struct { ag_conf_id id; const char *in; const char *out; } good[] = {
        {AG_CONF_shutdown_timeout_ms, "500ms", "500ms"}, {AG_CONF_shutdown_timeout_ms, "90s", "90s"},
        {AG_CONF_shutdown_timeout_ms, "120s", "2m"},     {AG_CONF_shutdown_timeout_ms, "0", "0"},
        {AG_CONF_shutdown_timeout_ms, "24h", "24h"},     {AG_CONF_body_bytes, "4096", "4KiB"},
        {AG_CONF_body_bytes, "1GiB", "1GiB"},            {AG_CONF_body_bytes, "1025B", "1025B"},
        {AG_CONF_no_auth, "on", "yes"},                  {AG_CONF_no_auth, "0", "no"},
        {AG_CONF_cors_origin, " a , b,,c ", "a,b,c"},    {AG_CONF_cors_origin, ",", ""},
    };
    static const struct { ag_conf_id id; const char *in;
    } bad[] = {
        {AG_CONF_shutdown_timeout_ms, "30"},
        {AG_CONF_shutdown_timeout_ms, "30 s"},
        {AG_CONF_shutdown_timeout_ms, "1d"},
        {AG_CONF_shutdown_timeout_ms, "5000000h"},
        {AG_CONF_shutdown_timeout_ms, "s"},
        {AG_CONF_body_bytes, "16kb"},
        {AG_CONF_body_bytes, "99999999999TiB"},
        {AG_CONF_body_bytes, "1.5MiB"},
        {AG_CONF_port, "80 "},
        {AG_CONF_port, ""},
        {AG_CONF_port, "0x50"},
        {AG_CONF_no_auth, "maybe"},
        {AG_CONF_log_level, "verbose"},
        {AG_CONF_log_level, "info|warn"},
        {AG_CONF_log_level, ""},
        {AG_CONF_host, ""},
    };
    ag_conf c;
    ag_err err = {0};
    assert_int_equal(ag_conf_init(&c, &err), AG_OK);
    for (size_t i = 0; i < AG_ARRAY_LEN(good); i++) {
        if (ag_conf_set(&c, good[i].id, "x", ag_str_of(good[i].in), &err) != AG_OK)
            fail_msg("%s: %s", good[i].in, err.text);
        expect(&c, good[i].id, good[i].out);
    }
    for (size_t i = 0; i < AG_ARRAY_LEN(bad); i++)
        if (ag_conf_set(&c, bad[i].id, "x", ag_str_of(bad[i].in), &err) == AG_OK) fail_msg("'%s' was taken", bad[i].in);
    assert_int_equal(ag_conf_set(&c, AG_CONF_host, "x", (ag_str){"a\0b", 3}, &err), AG_E_USAGE);
    ag_conf_fini(&c);
}

static void the_later_source_wins(void **state)
{
    (void)state;
    static const char yaml[] = "server: {port: 1111, host: 127.0.0.2}\nengine:\n  threads: 3\nlog:\n";
    write_file(yaml, sizeof yaml - 1);
    char *env[] = {"AUTOGLM_PORT=2222", "AUTOGLM_HOST=127.0.0.3", "AUTOGLM_THREADS=", "PORT=9", NULL};
    ag_conf c = {0};
    ag_err err = {0};
    assert_int_equal(
        load(&c, env, (const char *[]){"--config", path, "--port", "3333", "-m", "a.gguf", "--no-auth", NULL}, &err),
        AG_OK);
    assert_int_equal(c.port, 3333);
    assert_string_equal(c.host, "127.0.0.3");
    assert_int_equal(c.threads, 3);
    assert_string_equal(c.model, "a.gguf");
    assert_true(c.no_auth);
    ag_conf_fini(&c);
}

static void lists_add_up_on_the_command_line(void **state)
{
    (void)state;
    static const char yaml[] = "server:\n  cors-origin: [http://a, 'http://b']\n";
    write_file(yaml, sizeof yaml - 1);
    ag_conf c = {0};
    ag_err err = {0};
    assert_int_equal(load(&c, NULL, (const char *[]){"--config", path, NULL}, &err), AG_OK);
    assert_string_equal(c.cors_origin, "http://a,http://b");
    ag_conf_fini(&c);
    const char *words[] = {"--config", path, "--cors-origin", "http://c", "--cors-origin=http://d", NULL};
    assert_int_equal(load(&c, NULL, words, &err), AG_OK);
    assert_string_equal(c.cors_origin, "http://c,http://d");
    ag_conf_fini(&c);
}

static void files_that_are_wrong_are_told_by_line(void **state)
{
    (void)state;
    static const struct { const char *yaml, *say; } bad[] = {
        {"server:\n  port: 99999\n", ":2: server.port: '99999' is not a whole number from 0 to 65535"},
        {"server:\n  prot: 1\n", ":2: server.prot: no such setting; did you mean port?"},
        {"sever:\n  port: 1\n", ":1: sever: no such setting; did you mean server?"},
        {"server:\n  port: 1\n  port: 2\n", ":3: this setting was given before"},
        {"server:\n  port: [1, 2]\n", ":2: a single plain value"},
        {"server:\n  port: {a: 1}\n", ":2: a single plain value"},
        {"server:\n  api-key: x\n", ":2: a secret belongs into the environment"},
        {"server:\n  config: x\n", ":2: a settings file cannot name another"},
        {"server: 5\n", ":1: a group holds"},
        {"server: [1]\n", ":1: a group holds"},
        {"[1, 2]\n", ":1: a settings file holds groups"},
        {"hello\n", ":1: a settings file holds groups"},
        {"server:\n\tport: 1\n", ":2: not YAML"},
        {"server: &a\n  port: 1\nlimits: *a\n", ":3: aliases"},
        {"{a: 1}: 2\n", ":1: "},
        {"server: {{a: 1}: 2}\n", ":1: a setting's name"},
        {"---\nserver:\n---\nserver:\n", ":3: one document"},
        {"server:\n  cors-origin: [[a]]\n", ":2: the items of a list"},
        {"server:\n  cors-origin: ['a,b']\n", ":2: an item of a list may hold no comma"},
        {"server:\n  port: \"1\n", "not YAML"},
        {"server:\n  host: \xFF\xFE\n", "not YAML"},
    };
    for (size_t i = 0; i < AG_ARRAY_LEN(bad); i++) {
        ag_conf c = {0};
        ag_err err = {0};
        write_file(bad[i].yaml, strlen(bad[i].yaml));
        int rc = load(&c, NULL, (const char *[]){"--config", path, NULL}, &err);
        if (rc != AG_E_USAGE || !strstr(err.text, bad[i].say)) fail_msg("case %zu: %d '%s'", i, rc, err.text);
        ag_conf_fini(&c);
    }
    static const char *const fine[] = {"", "\n# nothing\n", "---\n", "server:\n", "server: {}\n", "~\n"};
    for (size_t i = 0; i < AG_ARRAY_LEN(fine) - 1; i++) {
        ag_conf c = {0};
        ag_err err = {0};
        write_file(fine[i], strlen(fine[i]));
        if (load(&c, NULL, (const char *[]){"--config", path, NULL}, &err) != AG_OK)
            fail_msg("case %zu: %s", i, err.text);
        ag_conf_fini(&c);
    }
}

static void files_have_a_size_and_a_depth(void **state)
{
    (void)state;
    static char big[AG_CONF_FILE_MAX + 100];
    ag_conf c = {0};
    ag_err err = {0};
    memset(big, '\n', sizeof big);
    write_file(big, AG_CONF_FILE_MAX);
    assert_int_equal(load(&c, NULL, (const char *[]){"--config", path, NULL}, &err), AG_OK);
    ag_conf_fini(&c);
    write_file(big, AG_CONF_FILE_MAX + 1);
    assert_int_equal(load(&c, NULL, (const char *[]){"--config", path, NULL}, &err), AG_E_USAGE);
    assert_non_null(strstr(err.text, "over 1048576 bytes"));
    ag_conf_fini(&c);
    memset(big, '[', sizeof big);
    write_file(big, AG_CONF_FILE_MAX);
    assert_int_equal(load(&c, NULL, (const char *[]){"--config", path, NULL}, &err), AG_E_USAGE);
    ag_conf_fini(&c);
    assert_int_equal(load(&c, NULL, (const char *[]){"--config", "/nowhere/at/all", NULL}, &err), AG_E_IO);
    ag_conf_fini(&c);
}

static int take_two(void *arg, int argc, char **argv, int at, ag_err *err)
{
    int *n = arg;
    if (strcmp(argv[at], "--bad") == 0) return ag_err_set(err, AG_E_PARAM, "bad"), -1;
    if (argv[at][0] == '-' && strcmp(argv[at], "--pair") != 0 && *n >= 0) return 0;
    ++*n;
    return strcmp(argv[at], "--pair") == 0 && at + 1 < argc ? 2 : 1;
}

static void other_words_go_to_the_command(void **state)
{
    (void)state;
    ag_conf c = {0};
    ag_err err = {0};
    int n = 0;
    char *argv[] = {"a", "--pair", "--port", "--port", "7", "b"};
    ag_conf_input in = {.argc = 6, .argv = argv, .other = take_two, .other_arg = &n};
    assert_int_equal(ag_conf_load(&c, &in, &err), AG_OK);
    assert_int_equal(n, 3);
    assert_int_equal(c.port, 7);
    ag_conf_fini(&c);

    in.groups = "engine,model";
    assert_int_equal(ag_conf_load(&c, &in, &err), AG_E_USAGE); /* --port is no flag of this command */
    ag_conf_fini(&c);

    static const struct { const char *word, *say; } bad[] = {
        {"--prot", "did you mean --port"}, {"--pord=1", "did you mean --port"}, {"--frobnicate", "no such flag"},
        {"what", "no such argument here"}, {"-x", "no such flag"}, {"--port", "--port: a value must follow"},
        {"--port=", "'' is not a whole number"}, {"--api-key", "AUTOGLM_API_KEY"}, {"--", NULL},
    };
    for (size_t i = 0; i < AG_ARRAY_LEN(bad); i++) {
        int rc = load(&c, NULL, (const char *[]){bad[i].word, NULL}, &err);
        assert_int_equal(rc, bad[i].say ? AG_E_USAGE : AG_OK);
        if (bad[i].say && !strstr(err.text, bad[i].say)) fail_msg("%s: %s", bad[i].word, err.text);
        ag_conf_fini(&c);
    }
    char *bad_argv[] = {"--bad"};
    ag_err_clear(&err);
    assert_int_equal(
        ag_conf_load(&c, &(ag_conf_input){.argc = 1, .argv = bad_argv, .other = take_two, .other_arg = &n}, &err),
        AG_E_PARAM);
    ag_conf_fini(&c);
    char *after[] = {"--", "--port"};
    n = -10;
    assert_int_equal(
        ag_conf_load(&c, &(ag_conf_input){.argc = 2, .argv = after, .other = take_two, .other_arg = &n}, &err), AG_OK);
    assert_int_equal(n, -9);
    ag_conf_fini(&c);
}

static void a_reload_names_what_needs_a_restart(void **state)
{
    (void)state;
    ag_conf now, next;
    ag_err err = {0};
    uint32_t changed = 0;
    for (ag_conf_id i = 0; i < AG_CONF_COUNT; i++) {
        const ag_conf_row *r = ag_conf_row_at(i);
        char value[64];
        sample(r, value);
        ag_err_clear(&err);
        assert_int_equal(ag_conf_init(&now, &err), AG_OK);
        assert_int_equal(ag_conf_init(&next, &err), AG_OK);
        assert_int_equal(ag_conf_diff(&now, &next, &changed, &err), AG_OK);
        assert_true(changed == 0);
        assert_int_equal(ag_conf_set(&next, i, "x", ag_str_of(value), &err), AG_OK);
        int rc = ag_conf_diff(&now, &next, &changed, &err);
        assert_int_equal(rc, r->reload == AG_CONF_LIVE ? AG_OK : AG_E_USAGE);
        if (rc == AG_OK) assert_int_equal(changed, 1);
        else assert_non_null(strstr(err.text, r->flag));
        ag_conf_fini(&now);
        ag_conf_fini(&next);
    }
}

static void help_and_page_name_every_setting(void **state)
{
    (void)state;
    ag_buf help, page, part;
    ag_buf_init(&help, 1 << 20);
    ag_buf_init(&page, 1 << 20);
    ag_buf_init(&part, 1 << 20);
    assert_true(ag_conf_help(NULL, &help) && ag_conf_markdown(&page) && ag_conf_help("model,log", &part));
    assert_true(ag_buf_zterm(&help) && ag_buf_zterm(&page) && ag_buf_zterm(&part));
    for (ag_conf_id i = 0; i < AG_CONF_COUNT; i++) {
        const ag_conf_row *r = ag_conf_row_at(i);
        assert_non_null(strstr(help.p, r->help));
        assert_non_null(strstr(page.p, r->help));
        bool wanted = strcmp(r->group, "model") == 0 || strcmp(r->group, "log") == 0;
        assert_int_equal(strstr(part.p, r->help) != NULL, wanted);
    }
    assert_null(strstr(help.p, "--api-key"));
    ag_buf_fini(&help);
    ag_buf_fini(&page);
    ag_buf_fini(&part);
}

static void near_names_are_found(void **state)
{
    (void)state;
    static const struct { const char *word, *want; } cases[] = {
        {"serv", "serve"}, {"sreve", "serve"}, {"inspcet", "inspect"}, {"xyz", NULL}, {"", NULL}, {"ru", "run"},
        {"this-word-is-much-longer-than-anything-that-could-ever-be-in-the-table-of-names", NULL},
    };
    for (size_t i = 0; i < AG_ARRAY_LEN(cases); i++) {
        ag_near n;
        ag_near_begin(&n, ag_str_of(cases[i].word));
        ag_near_try(&n, "serve");
        ag_near_try(&n, "run");
        ag_near_try(&n, "inspect");
        if (cases[i].want == NULL) assert_null(n.best);
        else assert_string_equal(n.best, cases[i].want);
    }
}

#ifdef AG_FAULTS
static void each_failing_operation_is_answered(void **state)
{
    (void)state;
    static const char yaml[] = "server:\n  cors-origin: [http://a, http://b]\n  host: localhost\n";
    static const ag_fault_kind kinds[] = {AG_FAULT_ALLOC, AG_FAULT_OPEN, AG_FAULT_READ};
    write_file(yaml, sizeof yaml - 1);
    for (size_t k = 0; k < AG_ARRAY_LEN(kinds); k++)
        for (uint32_t n = 1;; n++) {
            ag_conf c = {0};
            ag_err err = {0};
            char *env[] = {"AUTOGLM_API_KEY=secret", NULL};
            ag_fault_arm(kinds[k], n);
            int rc = load(&c, env, (const char *[]){"--config", path, "--cors-origin", "x", "--cors-origin", "y", NULL},
                          &err);
            bool fired = ag_fault_disarm(kinds[k]);
            if (rc == AG_OK) assert_string_equal(c.cors_origin, "x,y");
            else assert_true(fired && err.text[0]);
            ag_conf_fini(&c);
            if (!fired) break;
        }
}
#endif

int main(void)
{
    snprintf(path, sizeof path, "/tmp/autoglm-conf-XXXXXX");
    int fd = mkstemp(path);
    if (fd < 0) return 1;
    close(fd);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_default_is_within_its_own_range),
        cmocka_unit_test(every_setting_is_set_and_read_back_from_each_source),
        cmocka_unit_test(every_setting_refuses_what_is_out_of_range),
        cmocka_unit_test(units_are_understood),
        cmocka_unit_test(the_later_source_wins),
        cmocka_unit_test(lists_add_up_on_the_command_line),
        cmocka_unit_test(files_that_are_wrong_are_told_by_line),
        cmocka_unit_test(files_have_a_size_and_a_depth),
        cmocka_unit_test(other_words_go_to_the_command),
        cmocka_unit_test(a_reload_names_what_needs_a_restart),
        cmocka_unit_test(help_and_page_name_every_setting),
        cmocka_unit_test(near_names_are_found),
#ifdef AG_FAULTS
        cmocka_unit_test(each_failing_operation_is_answered),
#endif
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    unlink(path);
    return failed;
}
