#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <errno.h>
#include <jansson.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/fault.h"
#include "observe/log.h"

static char path[64];

static int setup(void **state)
{
    (void)state;
    strcpy(path, "/tmp/ag_log_test_XXXXXX");
    int fd = mkstemp(path);
    if (fd >= 0) close(fd);
    return fd < 0;
}

static int teardown(void **state)
{
    (void)state;
    return unlink(path);
}

static ag_log *log_of(ag_log_format format, ag_log_level level)
{
    ag_log *l = NULL;
    ag_err err = {0};
    int rc = ag_log_open(&l, &(ag_log_conf){.format = format, .level = level, .file = path}, &err);
    if (rc != AG_OK) fail_msg("%s", err.text);
    return l;
}

static uint32_t read_lines(char ***lines)
{
    FILE *f = fopen(path, "r");
    assert_non_null(f);
    *lines = NULL;
    uint32_t n = 0;
    char *line = NULL;
    size_t cap = 0;
    while (getline(&line, &cap, f) > 0) {
        *lines = realloc(*lines, (n + 1) * sizeof **lines);
        (*lines)[n++] = strdup(line);
    }
    free(line);
    fclose(f);
    return n;
}

static void free_lines(char **lines, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) free(lines[i]);
    free(lines);
}

static void json_lines_hold_typed_fields(void **state)
{
    (void)state;
    ag_log *l = log_of(AG_LOG_JSON, AG_LOG_INFO);
    ag_log_ctx ctx = {AG_STR("req-1"), AG_STR("0af7")};
    AG_LOG(l, AG_LOG_INFO, &ctx, "say \"hi\"\n", AG_LOG_S("s", AG_STR("a\0b\xff")), AG_LOG_U("u", UINT64_MAX),
           AG_LOG_I("i", -5), AG_LOG_D("d", 1.5), AG_LOG_B("b", true), AG_LOG_D("nan", 0.0 / 0.0));
    AG_LOG(l, AG_LOG_DEBUG, NULL, "not this one", AG_LOG_B("b", false));
    ag_log_close(l);
    char **lines;
    uint32_t n = read_lines(&lines);
    assert_int_equal(n, 1);
    json_t *j = json_loads(lines[0], JSON_ALLOW_NUL | JSON_DECODE_ANY, NULL);
    assert_null(j); /* 2^64-1 is more than jansson's integers hold; the rest is checked below as text */
    assert_non_null(strstr(lines[0], "\"level\":\"info\",\"service\":\"autoglm\",\"msg\":\"say \\\"hi\\\"\\n\""));
    assert_non_null(strstr(lines[0], "\"request_id\":\"req-1\",\"trace_id\":\"0af7\",\"s\":\"a\\u0000b\xEF\xBF\xBD\","
                                     "\"u\":18446744073709551615,\"i\":-5,\"d\":1.5,\"b\":true,\"nan\":null}\n"));
    int y, mo, d, h, mi, s, ms;
    assert_int_equal(sscanf(lines[0], "{\"time\":\"%4d-%2d-%2dT%2d:%2d:%2d.%3dZ\"", &y, &mo, &d, &h, &mi, &s, &ms), 7);
    free_lines(lines, n);
}

static void text_lines_quote_what_is_not_plain(void **state)
{
    (void)state;
    ag_log *l = log_of(AG_LOG_TEXT, AG_LOG_DEBUG);
    AG_LOG(l, AG_LOG_WARN, NULL, "two\nlines", AG_LOG_Z("a", "plain"), AG_LOG_Z("b", "with space"), AG_LOG_Z("c", ""),
           AG_LOG_Z("d", "x=\"y\"\n"));
    ag_log_printf(l, AG_LOG_DEBUG, "port %d", 8080);
    ag_log_close(l);
    char **lines;
    uint32_t n = read_lines(&lines);
    assert_int_equal(n, 2);
    assert_string_equal(strchr(lines[0], ' '),
                        " warn  two?lines a=plain b=\"with space\" c=\"\" d=\"x=\\\"y\\\"\\n\"\n");
    assert_string_equal(strchr(lines[1], ' '), " debug port 8080\n");
    free_lines(lines, n);
}

/* A terminal may take them for the beginning of a command. */
static void text_lines_hold_no_controls_above_7f(void **state)
{
    (void)state;
    ag_log *l = log_of(AG_LOG_TEXT, AG_LOG_DEBUG);
    AG_LOG(l, AG_LOG_WARN, NULL, "a\xC2\x9B" "31mb\xC2\xA0", AG_LOG_Z("c", "\xC2\x80" "d\xC2\x9F\xC3\x9B"));
    ag_log_close(l);
    char **lines;
    uint32_t n = read_lines(&lines);
    assert_int_equal(n, 1);
    assert_string_equal(strchr(lines[0], ' '), " warn  a?31mb\xC2\xA0 c=\"?d?\xC3\x9B\"\n");
    free_lines(lines, n);
}

static void long_values_are_cut_at_a_character(void **state)
{
    (void)state;
    ag_log *l = log_of(AG_LOG_JSON, AG_LOG_INFO);
    ag_buf b;
    ag_buf_init(&b, 1 << 20);
    ag_buf_addc(&b, 'x');
    for (int i = 0; i < 40000; i++) ag_buf_addz(&b, "é");
    AG_LOG(l, AG_LOG_INFO, NULL, "m", AG_LOG_S("v", ag_buf_str(&b)), AG_LOG_I("after", 1));
    ag_buf_fini(&b);
    ag_log_close(l);
    char **lines;
    uint32_t n = read_lines(&lines);
    assert_int_equal(n, 1);
    json_t *j = json_loads(lines[0], 0, NULL);
    assert_non_null(j);
    const char *v = json_string_value(json_object_get(j, "v"));
    assert_true(strlen(v) < 2100 && strcmp(v + strlen(v) - 3, "…") == 0);
    assert_null(strstr(v, "\xEF\xBF\xBD"));
    assert_int_equal(json_integer_value(json_object_get(j, "after")), 1);
    json_decref(j);
    free_lines(lines, n);
}

static void *many(void *arg)
{
    for (int i = 0; i < 5000; i++) AG_LOG(arg, AG_LOG_INFO, NULL, "m", AG_LOG_I("i", i));
    return NULL;
}

static void threads_lose_only_what_is_counted(void **state)
{
    (void)state;
    ag_log *l = log_of(AG_LOG_JSON, AG_LOG_INFO);
    pthread_t t[4];
    for (int i = 0; i < 4; i++) assert_int_equal(pthread_create(&t[i], NULL, many, l), 0);
    for (int i = 0; i < 4; i++) pthread_join(t[i], NULL);
    uint64_t dropped = ag_log_dropped(l);
    ag_log_close(l);
    char **lines;
    uint32_t n = read_lines(&lines), whole = 0;
    for (uint32_t i = 0; i < n; i++) {
        json_t *j = json_loads(lines[i], 0, NULL);
        assert_non_null(j);
        whole += json_object_get(j, "i") != NULL;
        json_decref(j);
    }
    assert_int_equal(whole + dropped, 20000);
    free_lines(lines, n);
}

static void level_and_file_change_while_running(void **state)
{
    (void)state;
    ag_log *l = log_of(AG_LOG_TEXT, AG_LOG_WARN);
    ag_log_level level;
    assert_true(ag_log_level_find("debug", &level));
    assert_false(ag_log_level_find("loud", &level));
    assert_false(ag_log_on(l, AG_LOG_INFO));
    ag_log_level_set(l, level);
    assert_true(ag_log_on(l, AG_LOG_DEBUG));
    assert_int_equal(unlink(path), 0);
    ag_log_reopen(l);
    ag_log_printf(l, AG_LOG_INFO, "in the new file");
    ag_log_close(l);
    char **lines;
    uint32_t n = read_lines(&lines);
    assert_int_equal(n, 1);
    free_lines(lines, n);
    assert_false(ag_log_on(NULL, AG_LOG_ERROR));
    ag_log_printf(NULL, AG_LOG_ERROR, "nowhere");
    ag_log_close(NULL);
}

static void a_file_that_cannot_be_opened_anew_is_said_in_the_old_one(void **state)
{
    (void)state;
    char moved[sizeof path + 8];
    snprintf(moved, sizeof moved, "%s.old", path);
    ag_log *l = log_of(AG_LOG_TEXT, AG_LOG_INFO);
    assert_int_equal(rename(path, moved), 0);
    assert_int_equal(mkdir(path, 0700), 0); /* in the way */
    ag_log_reopen(l);
    ag_log_printf(l, AG_LOG_INFO, "goes on");
    ag_log_close(l);
    assert_int_equal(rmdir(path), 0);
    assert_int_equal(rename(moved, path), 0);
    char **lines;
    uint32_t n = read_lines(&lines);
    assert_int_equal(n, 2);
    assert_non_null(strstr(lines[0], " warn  the log file cannot be opened anew file="));
    assert_non_null(strstr(lines[0], path));
    assert_non_null(strstr(lines[0], strerror(EISDIR)));
    assert_non_null(strstr(lines[1], " info  goes on\n"));
    free_lines(lines, n);
}

#ifdef AG_FAULTS
static void lose(ag_log *l, const char *text, uint64_t dropped)
{
    ag_fault_arm(AG_FAULT_WRITE, 1);
    ag_log_printf(l, AG_LOG_ERROR, "%s", text);
    while (ag_log_dropped(l) < dropped) sched_yield();
    assert_true(ag_fault_disarm(AG_FAULT_WRITE));
}
#endif

static void what_was_lost_is_told_when_the_disk_has_room_again(void **state)
{
    (void)state;
#ifdef AG_FAULTS
    ag_log *l = log_of(AG_LOG_TEXT, AG_LOG_INFO);
    lose(l, "one", 1);
    lose(l, "two", 2); /* and with it the sentence about the first */
    ag_log_printf(l, AG_LOG_ERROR, "three");
    ag_log_close(l);
    char **lines;
    uint32_t n = read_lines(&lines);
    assert_int_equal(n, 2);
    assert_non_null(strstr(lines[0], " error three\n"));
    assert_non_null(strstr(lines[1], " warn  log lines were dropped lines=2\n"));
    free_lines(lines, n);
#endif
}

static void what_fails_is_said(void **state)
{
    (void)state;
    ag_log *l = NULL;
    ag_err err = {0};
    assert_int_equal(ag_log_open(&l, &(ag_log_conf){.file = "/nowhere/at/all"}, &err), AG_E_IO);
    assert_non_null(strstr(err.text, "/nowhere/at/all"));
#ifdef AG_FAULTS
    static const ag_fault_kind kinds[] = {AG_FAULT_ALLOC, AG_FAULT_THREAD, AG_FAULT_OPEN, AG_FAULT_WRITE};
    for (uint32_t k = 0; k < AG_ARRAY_LEN(kinds); k++) {
        for (uint32_t n = 1;; n++) {
            uint64_t dropped = 0;
            ag_fault_arm(kinds[k], n);
            int rc = ag_log_open(&l, &(ag_log_conf){.file = path}, &err);
            if (rc == AG_OK) {
                ag_log_printf(l, AG_LOG_ERROR, "x");
                dropped = ag_log_dropped(l);
                ag_log_close(l);
            }
            bool fired = ag_fault_disarm(kinds[k]);
            assert_true(fired || (rc == AG_OK && dropped == 0));
            if (!fired) break;
        }
    }
#endif
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(json_lines_hold_typed_fields, setup, teardown),
        cmocka_unit_test_setup_teardown(text_lines_quote_what_is_not_plain, setup, teardown),
        cmocka_unit_test_setup_teardown(text_lines_hold_no_controls_above_7f, setup, teardown),
        cmocka_unit_test_setup_teardown(long_values_are_cut_at_a_character, setup, teardown),
        cmocka_unit_test_setup_teardown(threads_lose_only_what_is_counted, setup, teardown),
        cmocka_unit_test_setup_teardown(level_and_file_change_while_running, setup, teardown),
        cmocka_unit_test_setup_teardown(a_file_that_cannot_be_opened_anew_is_said_in_the_old_one, setup, teardown),
        cmocka_unit_test_setup_teardown(what_was_lost_is_told_when_the_disk_has_room_again, setup, teardown),
        cmocka_unit_test_setup_teardown(what_fails_is_said, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
