#include "engine/stops.h"

#include "base/fault.h"
#include "check.h"

static void begin(ag_stops *s, const char *a, const char *b)
{
    ag_str list[2] = {ag_str_of(a), ag_str_of(b)};
    assert_int_equal(ag_stops_init(s, list, b ? 2 : a ? 1 : 0, NULL), AG_OK);
}

/* Adds a piece; what is safe after it, or minus the place of a stop minus one. */
static int64_t add(ag_stops *s, const char *piece)
{
    uint64_t safe;
    bool found;
    assert_true(ag_stops_add(s, ag_str_of(piece), true, &safe, &found));
    return found ? -(int64_t)safe - 1 : (int64_t)safe;
}

static void test_across_pieces(void **state)
{
    (void)state;
    ag_stops s;
    begin(&s, "END", NULL);
    assert_int_equal(add(&s, "one E"), 4); /* E may begin a stop */
    assert_int_equal(add(&s, "N"), 4);
    assert_int_equal(add(&s, "E"), 6); /* it did not, but this E may */
    assert_int_equal(add(&s, "ND more"), -6 - 1);
    ag_stops_fini(&s);
}

static void test_earliest_wins(void **state)
{
    (void)state;
    ag_stops s;
    begin(&s, "cd", "bcde");
    assert_int_equal(add(&s, "ab"), 1);
    assert_int_equal(add(&s, "cde"), -1 - 1); /* bcde begins before cd */
    ag_stops_fini(&s);
    begin(&s, "\n\n", "Q:");
    assert_int_equal(add(&s, "a\n"), 1);
    assert_int_equal(add(&s, "\n"), -1 - 1);
    ag_stops_fini(&s);
}

static void test_none(void **state)
{
    (void)state;
    ag_stops s;
    begin(&s, NULL, NULL);
    assert_int_equal(add(&s, "text"), 4);
    assert_int_equal(add(&s, ""), 4);
    ag_stops_fini(&s);
}

static void test_not_before_min(void **state)
{
    (void)state;
    ag_stops s;
    uint64_t safe;
    bool found;
    begin(&s, "ab", NULL);
    assert_true(ag_stops_add(&s, AG_STR("xabx"), false, &safe, &found));
    assert_false(found);
    assert_int_equal(safe, 4);
    assert_int_equal(add(&s, "ab"), -4 - 1); /* the one that ends from now on */
    ag_stops_fini(&s);
}

static void test_cut_anywhere(void **state)
{
    (void)state;
    static const char text[] = "aaab aaaab abaaab";
    const size_t n = sizeof text - 1;
    for (size_t cut = 0; cut <= n; cut++)
        for (size_t cut2 = cut; cut2 <= n; cut2++) {
            ag_stops s;
            begin(&s, "aaaab", NULL);
            const ag_str part[3] = {{text, cut}, {text + cut, cut2 - cut}, {text + cut2, n - cut2}};
            uint64_t safe = 0, last = 0;
            bool found = false;
            for (int i = 0; i < 3 && !found; i++) {
                assert_true(ag_stops_add(&s, part[i], true, &safe, &found));
                assert_true(safe >= last); /* what was safe stays so */
                last = safe;
            }
            assert_true(found);
            assert_int_equal(safe, 5);
            ag_stops_fini(&s);
        }
}

static void test_bad(void **state)
{
    (void)state;
    ag_stops s;
    ag_err err = {0};
    static char long_stop[AG_GEN_STOP_BYTES_MAX + 1];
    memset(long_stop, 'x', sizeof long_stop);
    ag_str list[AG_GEN_STOPS_MAX + 1];
    for (size_t i = 0; i < AG_ARRAY_LEN(list); i++) list[i] = AG_STR("a");
    assert_int_equal(ag_stops_init(&s, list, AG_GEN_STOPS_MAX + 1, &err), AG_E_PARAM);
    assert_string_equal(err.text, "17 stop strings; at most 16 are taken");
    list[0] = (ag_str){"", 0};
    assert_int_equal(ag_stops_init(&s, list, 1, NULL), AG_E_PARAM);
    list[0] = (ag_str){long_stop, sizeof long_stop};
    assert_int_equal(ag_stops_init(&s, list, 1, NULL), AG_E_PARAM);
#ifdef AG_FAULTS
    list[0] = AG_STR("stop");
    for (uint32_t n = 1;; n++) {
        uint64_t safe;
        bool found;
        ag_fault_arm(AG_FAULT_ALLOC, n);
        int rc = ag_stops_init(&s, list, 2, NULL);
        bool ok = rc == AG_OK && ag_stops_add(&s, AG_STR("st"), true, &safe, &found);
        bool fired = ag_fault_disarm(AG_FAULT_ALLOC);
        assert_int_equal(ok, !fired);
        if (rc == AG_OK) ag_stops_fini(&s);
        if (!fired) break;
    }
#endif
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_across_pieces), cmocka_unit_test(test_earliest_wins), cmocka_unit_test(test_none),
        cmocka_unit_test(test_not_before_min), cmocka_unit_test(test_cut_anywhere),  cmocka_unit_test(test_bad),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
