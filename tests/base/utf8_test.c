#include "base/utf8.h"

#include "check.h"

static void every_scalar_value_goes_there_and_back(void **state)
{
    (void)state;
    for (uint32_t cp = 0; cp <= 0x10FFFF; cp++) {
        if (cp == 0xD800) cp = 0xE000;
        char s[4];
        uint32_t back = 0;
        size_t n = ag_utf8_put(s, cp);
        if (ag_utf8_get(s, n, &back) != n || back != cp || ag_utf8_len(s, n) != n) fail_msg("U+%04X", cp);
        if (n > 1 && ag_utf8_len(s, n - 1) != 0) fail_msg("U+%04X cut off was taken", cp);
    }
}

static void what_is_not_utf8_is_refused(void **state)
{
    (void)state;
    static const struct { const char *s; size_t n;
    } bad[] = {
        {"\x80", 1},
        {"\xBF", 1},
        {"\xC0\x80", 2},
        {"\xC1\xBF", 2},
        {"\xE0\x80\x80", 3},
        {"\xE0\x9F\xBF", 3},
        {"\xF0\x80\x80\x80", 4},
        {"\xF0\x8F\xBF\xBF", 4},
        {"\xED\xA0\x80", 3},
        {"\xED\xBF\xBF", 3},
        {"\xF4\x90\x80\x80", 4},
        {"\xF5\x80\x80\x80", 4},
        {"\xFF", 1},
        {"\xFE", 1},
        {"\xC3", 1},
        {"\xC3(", 2},
        {"\xE4\xBD", 2},
        {"\xE4(\xA0", 3},
        {"\xF0\x9F\x98", 3},
        {"\xF0\x9F(\x80", 4},
    };
    for (size_t i = 0; i < AG_ARRAY_LEN(bad); i++) {
        if (ag_utf8_len(bad[i].s, bad[i].n) != 0) fail_msg("case %zu", i);
        assert_int_equal(ag_utf8_check(bad[i].s, bad[i].n), 0);
    }
    assert_int_equal(ag_utf8_len("", 0), 0);
    assert_int_equal(ag_utf8_check("", 0), SIZE_MAX);
}

static void check_names_the_first_bad_byte(void **state)
{
    (void)state;
    char text[64];
    for (size_t at = 0; at < sizeof text; at++) {
        memset(text, 'a', sizeof text);
        text[at] = (char)0xFF;
        assert_int_equal(ag_utf8_check(text, sizeof text), at);
        assert_int_equal(ag_utf8_check(text, at), SIZE_MAX);
    }
    assert_int_equal(ag_utf8_check("1234567\xC3\xBC", 9), SIZE_MAX); /* across the eight-byte stride */
    assert_int_equal(ag_utf8_check("1234567\xC3\xBC", 8), 7);
}

static void tail_counts_an_unfinished_character(void **state)
{
    (void)state;
    const char *s = "a\xF0\x9F\x98\x80\xE4\xBD\xA0\xC3\xBC";
    static const size_t want[] = {0, 0, 1, 2, 3, 0, 1, 2, 0, 1, 0};
    for (size_t n = 0; n <= 10; n++) assert_int_equal(ag_utf8_tail(s, n), want[n]);
    assert_int_equal(ag_utf8_tail("\x80\x80\x80\x80", 4), 0); /* never becomes a character */
    assert_int_equal(ag_utf8_tail("\xFF", 1), 0);
    assert_int_equal(ag_utf8_tail("\xC0", 1), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_scalar_value_goes_there_and_back),
        cmocka_unit_test(what_is_not_utf8_is_refused),
        cmocka_unit_test(check_names_the_first_bad_byte),
        cmocka_unit_test(tail_counts_an_unfinished_character),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
