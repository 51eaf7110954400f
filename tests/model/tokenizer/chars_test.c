/* What characters are: the sets of our own, and Unicode's where texts meet them. */
#include "check.h"

#include "base/utf8.h"
#include "model/tokenizer/chars.h"

static ag__char of(uint32_t cp)
{
    char s[4];
    size_t n = ag_utf8_put(s, cp);
    ag__char c = ag__char_at(s);
    assert_int_equal(c.cp, cp);
    assert_int_equal(c.n, n);
    return c;
}

/* ASCII stands in a table of its own; Unicode's categories and C's classes must say the same. */
static void ascii(void **state)
{
    (void)state;
    for (uint32_t c = 0; c < 128; c++) {
        uint64_t m = of(c).mask;
        bool upper = c >= 'A' && c <= 'Z', lower = c >= 'a' && c <= 'z', digit = c >= '0' && c <= '9';
        assert_int_equal(m & 0x3fffffff, 1ull << utf8proc_category((utf8proc_int32_t)c));
        assert_int_equal((m & AG__SPACE) != 0, c == ' ' || (c >= '\t' && c <= '\r'));
        assert_int_equal((m & AG__CRLF) != 0, c == '\n' || c == '\r');
        assert_int_equal((m & AG__BLANK) != 0, c == ' ');
        assert_int_equal((m & AG__SLASH) != 0, c == '/');
        assert_int_equal((m & AG__ASCII_LETTER) != 0, upper || lower);
        assert_int_equal((m & AG__ASCII_DIGIT) != 0, digit);
        assert_int_equal((m & AG__ASCII_PUNCT) != 0, c > ' ' && c < 127 && !upper && !lower && !digit);
        assert_int_equal((m & AG__ASCII_MATH) != 0, c && strchr("$+<=>^~|", (int)c) != NULL);
        assert_int_equal((m & AG__BACKTICK) != 0, c == '`');
    }
}

static void spaces(void **state)
{
    (void)state;
    static const uint32_t yes[] = {0x85, 0xa0, 0x1680, 0x2000, 0x200a, 0x2028, 0x2029, 0x202f, 0x205f, 0x3000};
    static const uint32_t no[] = {0x180e, 0x200b, 0x200d, 0x2060, 0xfeff, 0x1c};
    for (size_t i = 0; i < AG_ARRAY_LEN(yes); i++) assert_true(of(yes[i]).mask & AG__SPACE);
    for (size_t i = 0; i < AG_ARRAY_LEN(no); i++) assert_false(of(no[i]).mask & AG__SPACE);
}

static void categories(void **state)
{
    (void)state;
    assert_true(of(0x4e2d).mask & AG__CAT(LO));
    assert_true(of(0x1f600).mask & AG__CAT(SO));
    assert_true(of(0x301).mask & AG__MARK);
    assert_true(of(0x661).mask & AG__NUMBER);
    assert_true(of(0x2160).mask & AG__NUMBER);
    assert_true(of(0x10ffff).mask & AG__CAT(CN));
    assert_true(of(0x3002).mask & AG__PUNCT);
}

static void classes(void **state)
{
    (void)state;
    static const ag__range r[] = {{'b', 'd'}, {'x', 'x'}, {0x4e00, 0x9fff}};
    const ag__class c = {.mask = AG__SPACE, .ranges = r, .n_ranges = 3};
    ag__class inverse = c;
    inverse.invert = true;
    static const uint32_t yes[] = {'b', 'c', 'd', 'x', 0x4e00, 0x9fff, ' ', '\n'};
    static const uint32_t no[] = {'a', 'e', 'w', 'y', 0x4dff, 0xa000};
    for (size_t i = 0; i < AG_ARRAY_LEN(yes) + AG_ARRAY_LEN(no); i++) {
        bool in = i < AG_ARRAY_LEN(yes);
        ag__char ch = of(in ? yes[i] : no[i - AG_ARRAY_LEN(yes)]);
        assert_int_equal(ag__class_has(&c, &ch), in);
        assert_int_equal(ag__class_has(&inverse, &ch), !in);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ascii), cmocka_unit_test(spaces), cmocka_unit_test(categories), cmocka_unit_test(classes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
