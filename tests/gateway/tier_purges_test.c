/* What was purged, and when; as one server knows it, and as all tell each other. */
#include "check.h"

#include <stdio.h>

#include "gateway/tier_purges.h"

enum { NOW = 1000000, KEEP = 500000 };

static ag_tier_purges *table;
static char heard[4096];

static void on_purged(void *arg, const ag_cache_key *k, uint64_t label)
{
    assert_ptr_equal(arg, &table);
    size_t n = strlen(heard);
    if (k) snprintf(heard + n, sizeof heard - n, "k%02x ", k->b[0]);
    else snprintf(heard + n, sizeof heard - n, "%s%llx ", label ? "l" : "all", (unsigned long long)label);
}

static bool hear(const char *text)
{
    heard[0] = 0;
    return ag_tier_purges_read(table, ag_str_of(text), NOW, KEEP, on_purged, &table);
}

static bool holds(const ag_cache_key *k, uint64_t label, uint64_t made_ms)
{
    ag_cache_meta m = {.made_ms = made_ms, .labels = {3, label}};
    return ag_tier_purges_hold(table, k, &m);
}

static uint32_t untold(ag_tier_purge_words *out) { return ag_tier_purges_untold(table, out, AG_TIER_PURGES_MAX); }

static int setup(void **state)
{
    (void)state;
    return ag_tier_purges_open(&table);
}

static int teardown(void **state)
{
    (void)state;
    ag_tier_purges_close(table);
    return 0;
}

static void what_was_made_until_then_is_purged(void **state)
{
    (void)state;
    ag_cache_key a = {{1}}, b = {{2}};
    assert_false(holds(&a, 5, 1));
    ag_tier_purges_add(table, NULL, 5, 900000);
    ag_tier_purges_add(table, &b, 0, 800000);
    assert_true(holds(&a, 5, 900000));
    assert_false(holds(&a, 5, 900001));
    assert_false(holds(&a, 6, 1));
    assert_true(holds(&b, 0, 800000));
    assert_false(holds(&b, 0, 800001));
    ag_tier_purges_add(table, NULL, 5, 850000); /* earlier: no news */
    assert_true(holds(&a, 5, 900000));
    ag_tier_purges_add(table, NULL, 0, 950000);
    assert_true(holds(&a, 6, 950000));
    assert_false(holds(&a, 5, 950001));
}

static void servers_tell_each_other(void **state)
{
    (void)state;
    ag_tier_purge_words w[AG_TIER_PURGES_MAX];
    ag_cache_key k = {{0xab}};
    char text[200];
    ag_tier_purges_add(table, NULL, 0x1234, 900000);
    ag_tier_purges_add(table, &k, 0, 900001);
    ag_tier_purges_add(table, NULL, 0, 600000);
    assert_int_equal(untold(w), 3);
    assert_string_equal(w[0].name, "all");
    assert_int_equal(w[1].name[0], 'k');
    assert_int_equal(strlen(w[1].name), 65);
    assert_string_equal(w[2].name, "l0000000000001234");
    assert_string_equal(w[2].ms, "900000");
    assert_int_equal(ag_tier_purges_untold(table, w, 2), 2);
    /* What is said by all is told, and only what is news is heard. */
    snprintf(text, sizeof text, "l0000000000001234 900000 %s 900001 l00000000000000ff 700000 all 650000", w[1].name);
    assert_true(hear(text));
    assert_string_equal(heard, "lff all0 ");
    assert_int_equal(untold(w), 0);
    assert_true(hear(text));
    assert_string_equal(heard, "");
    assert_true(holds(&k, 0xff, 700000));
    assert_true(holds(&k, 1, 650000));
    /* It was lost there: it is told again. Later ones there are news, earlier ones are told of ours. */
    assert_true(hear("l0000000000001234 899999 l00000000000000ff 700001"));
    assert_string_equal(heard, "lff ");
    assert_int_equal(untold(w), 3);
    /* What no value can be as old as is forgotten. */
    assert_true(ag_tier_purges_read(table, AG_STR(""), 900000 + KEEP, KEEP, NULL, NULL));
    assert_int_equal(untold(w), 2);
}

static void nonsense_is_not_heard(void **state)
{
    (void)state;
    static const char *const cases[] = {
        "x", "l 1", "l0000000000001234", "l0000000000001234 x", "l0000000000001234 -1", "l000000000000123 1",
        "l00000000000012345 1", "l000000000000123g 1", "k0000000000001234 1", "all x", "All 1", "all", "  ",
        "l0000000000001234  ",
        "l0000000000001234 99999999999999999999999", "all 4600001", "z 1 l0000000000001234 18446744073709551615"};
    ag_tier_purge_words w[4];
    for (size_t i = 0; i < AG_ARRAY_LEN(cases); i++) {
        if (hear(cases[i])) fail_msg("'%s' was taken", cases[i]);
        assert_string_equal(heard, "");
    }
    assert_int_equal(untold(w), 0);
    assert_false(hear("what 1 l0000000000001234 700000")); /* the rest is */
    assert_string_equal(heard, "l1234 ");
}

static void too_many_become_one(void **state)
{
    (void)state;
    ag_tier_purge_words w[AG_TIER_PURGES_MAX];
    for (uint32_t i = 1; i <= 3 * AG_TIER_PURGES_MAX; i++) {
        ag_tier_purges_add(table, NULL, i, 600000 + i);
        for (uint32_t j = 1; j <= i; j += 97) assert_true(holds(&(ag_cache_key){{0}}, j, 600000 + j));
        assert_false(holds(&(ag_cache_key){{0}}, i, 600000 + i + 1));
    }
    assert_true(untold(w) > AG_TIER_PURGES_MAX / 2);
    assert_string_equal(w[0].name, "all");
    /* And where all were of one moment. */
    for (uint32_t i = 1; i <= AG_TIER_PURGES_MAX + 1; i++) ag_tier_purges_add(table, NULL, i, 700000);
    assert_true(holds(&(ag_cache_key){{0}}, 1, 700000));
    assert_true(holds(&(ag_cache_key){{0}}, AG_TIER_PURGES_MAX + 1, 700000));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(what_was_made_until_then_is_purged, setup, teardown),
        cmocka_unit_test_setup_teardown(servers_tell_each_other, setup, teardown),
        cmocka_unit_test_setup_teardown(nonsense_is_not_heard, setup, teardown),
        cmocka_unit_test_setup_teardown(too_many_become_one, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
