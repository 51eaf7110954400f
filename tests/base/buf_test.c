#include "base/buf.h"

#include "base/fault.h"
#include "base/utf8.h"
#include "check.h"

static void what_is_added_is_there(void **state)
{
    (void)state;
    ag_buf b;
    ag_buf_init(&b, 1 << 20);
    assert_true(ag_buf_addz(&b, "ab"));
    assert_true(ag_buf_addc(&b, 0));
    assert_true(ag_buf_add(&b, NULL, 0));
    assert_true(ag_buf_addf(&b, "%d|%s", 42, "x"));
    assert_true(ag_buf_zterm(&b));
    assert_int_equal(b.n, 7);
    assert_memory_equal(b.p, "ab\0"
                             "42|x\0", 8);
    ag_buf_consume(&b, 3);
    assert_true(ag_str_eqz(ag_buf_str(&b), "42|x"));
    ag_buf_consume(&b, 4);
    assert_int_equal(b.n, 0);
    ag_buf_fini(&b);
}

static void numbers_are_digits(void **state)
{
    (void)state;
    static const uint64_t numbers[] = {0, 9, 10, 100, 4294967296, UINT64_MAX};
    for (size_t i = 0; i < AG_ARRAY_LEN(numbers); i++) {
        char want[32];
        ag_buf b;
        ag_buf_init(&b, 20);
        snprintf(want, sizeof want, "%llu", (unsigned long long)numbers[i]);
        assert_true(ag_buf_addu(&b, numbers[i]));
        assert_true(ag_str_eqz(ag_buf_str(&b), want));
        ag_buf_fini(&b);
    }
}

static void long_formats_are_whole(void **state)
{
    (void)state;
    static const int lengths[] = {0, 254, 255, 256, 257, 5000};
    for (size_t i = 0; i < AG_ARRAY_LEN(lengths); i++) {
        ag_buf b;
        ag_buf_init(&b, 1 << 20);
        assert_true(ag_buf_addf(&b, "<%*d>", lengths[i], 7));
        assert_int_equal(b.n, (size_t)AG_MAX(lengths[i], 1) + 2);
        assert_int_equal(b.p[0], '<');
        assert_int_equal(b.p[b.n - 1], '>');
        ag_buf_fini(&b);
    }
}

static void the_ceiling_holds_and_stays_told(void **state)
{
    (void)state;
    ag_buf b;
    ag_buf_init(&b, 10);
    assert_true(ag_buf_addz(&b, "0123456789"));
    assert_false(b.failed);
    assert_false(ag_buf_addc(&b, 'x'));
    assert_true(b.failed);
    assert_int_equal(b.n, 10);
    ag_buf_consume(&b, 5);
    assert_false(ag_buf_addc(&b, 'x')); /* a writer may ask once at the end */
    ag_buf_reset(&b);
    assert_true(ag_buf_addc(&b, 'x'));
    assert_false(ag_buf_room(&b, SIZE_MAX));
    ag_buf_fini(&b);
}

static void json_of(const char *s, size_t n, const char *want)
{
    ag_buf b;
    ag_buf_init(&b, 4096);
    assert_true(ag_buf_add_json(&b, s, n));
    assert_true(ag_buf_zterm(&b));
    assert_string_equal(b.p, want);
    ag_buf_fini(&b);
}

static void json_strings_are_escaped(void **state)
{
    (void)state;
    json_of("", 0, "\"\"");
    json_of("plain text", 10, "\"plain text\"");
    json_of("a\"b\\c/d", 7, "\"a\\\"b\\\\c/d\"");
    json_of("\n\r\t\b\f", 5, "\"\\n\\r\\t\\u0008\\u000c\"");
    json_of("\0x\x7f", 3, "\"\\u0000x\\u007f\"");
    json_of("gr\xC3\xBC\xC3\x9F \xE4\xBD\xA0 \xF0\x9F\x98\x80", 15,
            "\"gr\xC3\xBC\xC3\x9F \xE4\xBD\xA0 \xF0\x9F\x98\x80\"");
}

static void json_strings_are_always_utf8(void **state)
{
    (void)state;
    json_of("a\xFF" "b", 3, "\"a\xEF\xBF\xBD" "b\"");
    json_of("\xE4\xBD", 2, "\"\xEF\xBF\xBD\xEF\xBF\xBD\"");
    json_of("\xED\xA0\x80", 3, "\"\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD\"");
    uint32_t seed = 1;
    for (int round = 0; round < 2000; round++) {
        char raw[24];
        for (size_t i = 0; i < sizeof raw; i++) raw[i] = (char)((seed = seed * 1664525u + 1013904223u) >> 24);
        ag_buf b;
        ag_buf_init(&b, 4096);
        assert_true(ag_buf_add_json(&b, raw, sizeof raw));
        assert_int_equal(ag_utf8_check(b.p, b.n), SIZE_MAX);
        ag_buf_fini(&b);
    }
}

#ifdef AG_FAULTS
static void each_failing_allocation_is_answered(void **state)
{
    (void)state;
    for (uint32_t n = 1;; n++) {
        ag_buf b;
        ag_buf_init(&b, 1 << 20);
        ag_fault_arm(AG_FAULT_ALLOC, n);
        for (int i = 0; i < 400; i++) ag_buf_addf(&b, "%08d", i);
        bool fired = ag_fault_disarm(AG_FAULT_ALLOC);
        assert_int_equal(b.failed, fired);
        assert_int_equal(b.n % 8, 0); /* no half pieces */
        if (!fired) assert_int_equal(b.n, 3200);
        ag_buf_fini(&b);
        if (!fired) break;
    }
}
#endif

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_added_is_there),
        cmocka_unit_test(numbers_are_digits),
        cmocka_unit_test(long_formats_are_whole),
        cmocka_unit_test(the_ceiling_holds_and_stays_told),
        cmocka_unit_test(json_strings_are_escaped),
        cmocka_unit_test(json_strings_are_always_utf8),
#ifdef AG_FAULTS
        cmocka_unit_test(each_failing_allocation_is_answered),
#endif
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
