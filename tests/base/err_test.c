#include "base/err.h"

#include "base/utf8.h"
#include "check.h"

static void every_row_is_whole(void **state)
{
    (void)state;
    for (int c = 1; c < AG_E_COUNT; c++) {
        const ag_err_row *r = ag_err_find(c);
        assert_non_null(r->name);
        assert_true(r->http >= 400 && r->http < 600);
        assert_true(strlen(r->type) > 0 && strlen(r->code) > 0 && strlen(r->what) > 0);
        assert_true(r->retry <= AG_RETRY_AFTER);
        for (int d = 1; d < c; d++) assert_string_not_equal(r->code, ag_err_find(d)->code);
    }
    assert_int_equal(ag_err_find(AG_E_QUEUE_FULL)->http, 503);
    assert_string_equal(ag_err_find(AG_E_CTX_LENGTH)->code, "context_length_exceeded");
}

static void the_first_sentence_wins(void **state)
{
    (void)state;
    ag_err e = {0};
    assert_int_equal(ag_err_set(&e, AG_E_PARAM, "n is %d", 3), AG_E_PARAM);
    assert_int_equal(ag_err_set(&e, AG_E_IO, "later"), AG_E_IO); /* each caller still gets its own code */
    assert_int_equal(e.code, AG_E_PARAM);
    assert_string_equal(e.text, "n is 3");
    ag_err_clear(&e);
    assert_int_equal(e.code, AG_OK);
    ag_err_set(&e, AG_E_IO, "later");
    assert_string_equal(e.text, "later");
    assert_int_equal(ag_err_set(NULL, AG_E_IO, "nobody listens"), AG_E_IO);
}

static void long_sentences_are_cut_between_characters(void **state)
{
    (void)state;
    for (int lead = 0; lead < 8; lead++) {
        char text[1200];
        size_t n = 0;
        while (n < (size_t)lead) text[n++] = 'x';
        for (int i = 0; i < 200; i++) {
            static const char *const chars[] = {"\xC3\xBC", "\xE4\xBD\xA0", "\xF0\x9F\x98\x80"};
            const char *c = chars[i % 3];
            memcpy(text + n, c, strlen(c));
            n += strlen(c);
        }
        text[n] = 0;
        ag_err e = {0};
        ag_err_set(&e, AG_E_PARAM, "%s", text);
        assert_true(strlen(e.text) < sizeof e.text && strlen(e.text) > sizeof e.text - 6);
        assert_int_equal(ag_utf8_check(e.text, strlen(e.text)), SIZE_MAX);
        assert_memory_equal(e.text, text, strlen(e.text));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_row_is_whole),
        cmocka_unit_test(the_first_sentence_wins),
        cmocka_unit_test(long_sentences_are_cut_between_characters),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
