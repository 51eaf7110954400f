#include "base/base.h"

#include "check.h"

static void strings_compare_by_length(void **state)
{
    (void)state;
    ag_str none = {NULL, 0};
    assert_true(ag_str_eq(none, AG_STR("")));
    assert_true(ag_str_eq(ag_str_of(NULL), none));
    assert_true(ag_str_eqz(AG_STR("abc"), "abc"));
    assert_false(ag_str_eqz(AG_STR("abc"), "abcd"));
    assert_false(ag_str_eq(AG_STR("a\0b"), AG_STR("a\0c")));
    assert_true(ag_str_starts(AG_STR("abc"), none));
    assert_true(ag_str_starts(AG_STR("abc"), AG_STR("abc")));
    assert_false(ag_str_starts(AG_STR("ab"), AG_STR("abc")));
    assert_true(ag_str_ieq(AG_STR("Content-TYPE"), AG_STR("content-type")));
    assert_false(ag_str_ieq(AG_STR("a"), AG_STR("b")));
    assert_true(ag_str_ieq(none, none));
}

static void lists_come_apart_at_commas(void **state)
{
    (void)state;
    ag_str none = {NULL, 0}, list = AG_STR("a,,bc,"), piece;
    assert_false(ag_str_next(&none, &piece));
    static const char *const want[] = {"a", "", "bc", ""};
    for (size_t i = 0; i < AG_ARRAY_LEN(want); i++) {
        assert_true(ag_str_next(&list, &piece));
        assert_true(ag_str_eqz(piece, want[i]));
    }
    assert_false(ag_str_next(&list, &piece));
    list = AG_STR("");
    assert_true(ag_str_next(&list, &piece) && piece.n == 0);
    assert_false(ag_str_next(&list, &piece));
}

static void numbers_are_digits_up_to_a_bound(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        uint64_t max, want;
        bool ok;
    } cases[] = {
        {"0", 0, 0, true},     {"1", 0, 0, false},    {"007", 999, 7, true},  {"10", 9, 0, false}, {"", 9, 0, false},
        {"007", 99, 0, false}, {"10", 10, 10, true},  {"11", 10, 0, false}, {"09", 10, 9, true},
        {"-1", 9, 0, false},   {"+1", 9, 0, false},   {" 1", 9, 0, false},  {"1 ", 9, 0, false}, {"0x1", 9, 0, false},
        {"18446744073709551615", UINT64_MAX, UINT64_MAX, true},
        {"18446744073709551616", UINT64_MAX, 0, false},
        {"99999999999999999999999", UINT64_MAX, 0, false},
        {"4294967295", UINT32_MAX, UINT32_MAX, true}, {"4294967296", UINT32_MAX, 0, false},
    };
    for (size_t i = 0; i < AG_ARRAY_LEN(cases); i++) {
        uint64_t n = 12345;
        assert_int_equal(ag_str_u64(ag_str_of(cases[i].text), cases[i].max, &n), cases[i].ok);
        assert_int_equal(n, cases[i].ok ? cases[i].want : 12345);
    }
    uint64_t n = 0;
    assert_false(ag_str_u64((ag_str){0}, 9, &n));
}

static void percent_bytes_are_two_digits(void **state)
{
    (void)state;
    static const struct { const char *text; int byte; } cases[] = {
        {"%41", 0x41}, {"%fF", 0xff}, {"%00", 0},     {"%4", -1},   {"%", -1},   {"", -1},
        {"A41", -1},   {"%4g", -1},   {"%g4", -1},    {"%\xe1" "1", -1}, {"%@1", -1}, {"%4/", -1},
    };
    for (size_t i = 0; i < AG_ARRAY_LEN(cases); i++)
        assert_int_equal(ag_percent_byte(cases[i].text, cases[i].text + strlen(cases[i].text)), cases[i].byte);
    const char *cut = "%41";
    assert_int_equal(ag_percent_byte(cut, cut + 2), -1);
}

static void overflow_is_told(void **state)
{
    (void)state;
    uint64_t r = 7;
    assert_false(ag_mul_ok(UINT64_MAX, 2, &r));
    assert_false(ag_add_ok(UINT64_MAX, 1, &r));
    assert_int_equal(r, 7);
    assert_true(ag_mul_ok(1ull << 32, 1ull << 31, &r));
    assert_int_equal(r, 1ull << 63);
    assert_true(ag_add_ok(UINT64_MAX - 1, 1, &r));
    assert_true(r == UINT64_MAX);
    assert_int_equal(AG_ALIGN_UP(0, 16), 0);
    assert_int_equal(AG_ALIGN_UP(17, 16), 32);
}

static void clocks_go_forward(void **state)
{
    (void)state;
    uint64_t a = ag_now_us(), b = ag_now_us();
    assert_true(b >= a);
    assert_true(ag_wall_us() > 1600000000ull * 1000000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(strings_compare_by_length),
        cmocka_unit_test(lists_come_apart_at_commas),
        cmocka_unit_test(numbers_are_digits_up_to_a_bound),
        cmocka_unit_test(percent_bytes_are_two_digits),
        cmocka_unit_test(overflow_is_told),
        cmocka_unit_test(clocks_go_forward),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
