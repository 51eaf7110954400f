/* Who goes, policy by policy, on cases small enough to follow by hand. */
#include "cache_check.h"

enum { SMALL_ROOM = AG_CACHE_BYTES_MIN, VALUE = 11 << 10 }; /* some twenty entries */

static void each_policy_evicts_to_its_bound(void **state)
{
    (void)state;
    for (size_t p = 0; p < AG_ARRAY_LEN(every_policy); p++) {
        ag_cache *c = opened(every_policy[p], SMALL_ROOM, 1);
        uint64_t n = filled(c, VALUE);
        for (uint64_t i = n; i < 10 * n; i++) {
            put(c, i, VALUE);
            assert_true(is_in(c, i));
            assert_int_equal(stats_of(c).entries, n);
            assert_true(stats_of(c).bytes <= stats_of(c).bytes_max);
        }
        assert_int_equal(stats_of(c).evicted, 9 * n);
        ag_cache_close(c);
    }
}

static void lru_evicts_who_was_not_used_longest(void **state)
{
    (void)state;
    ag_cache *c = opened("lru", SMALL_ROOM, 1);
    uint64_t n = filled(c, VALUE);
    get(c, 0);
    get(c, 2);
    put(c, n, VALUE); /* 1 goes */
    put(c, n + 1, VALUE); /* 3 */
    assert_true(is_in(c, 0) && !is_in(c, 1) && is_in(c, 2) && !is_in(c, 3) && is_in(c, 4));
    put(c, 4, VALUE); /* as good as a use */
    put(c, n + 2, VALUE);
    assert_true(is_in(c, 4) && !is_in(c, 5));
    for (uint64_t i = n + 3; i < 2 * n + 2; i++) put(c, i, VALUE); /* a scan takes everything */
    assert_false(is_in(c, 0) || is_in(c, 2));
    ag_cache_close(c);
}

static void lfu_evicts_who_was_used_least(void **state)
{
    (void)state;
    ag_cache *c = opened("lfu", SMALL_ROOM, 1);
    uint64_t n = filled(c, VALUE);
    for (uint64_t i = 0; i < n; i++)
        for (uint64_t k = 0; k < (i == 3 ? 1 : i == 5 ? 0 : 4); k++) get(c, i);
    put(c, n, VALUE); /* 5, never used, goes; of the same rank now: n; above: 3 with one use more */
    assert_true(!is_in(c, 5) && is_in(c, 3));
    put(c, n + 1, VALUE); /* n + 1 begins a rank higher, since 5's has gone: n and 3 are next, in the order of ranks */
    assert_true(is_in(c, 4) && is_in(c, n + 1));
    assert_false(is_in(c, 3) && is_in(c, n));
    ag_cache_close(c);
}

static void lfu_keeps_the_famous_through_a_scan_but_not_for_ever(void **state)
{
    (void)state;
    ag_cache *c = opened("lfu", SMALL_ROOM, 1);
    uint64_t n = filled(c, VALUE), turnovers = 0, next = n;
    for (int i = 0; i < 9; i++) get(c, 7);
    for (; turnovers < 5; turnovers++)
        for (uint64_t i = 0; i < n; i++) put(c, next++, VALUE);
    assert_true(is_in(c, 7));
    for (; is_in(c, 7) && turnovers < 100; turnovers++)
        for (uint64_t i = 0; i < n; i++) put(c, next++, VALUE);
    assert_in_range(turnovers, 8, 11); /* one for each use */
    ag_cache_close(c);
}

static void lfu_counts_no_more_than_it_can(void **state)
{
    (void)state;
    ag_cache *c = opened("lfu", SMALL_ROOM, 1);
    uint64_t n = filled(c, VALUE), next = n;
    for (int i = 0; i < 100000; i++) get(c, 7);
    for (uint64_t i = 0; is_in(c, 7); i++) {
        assert_true(i < 300 * n);
        put(c, next++, VALUE);
    }
    for (int turn = 0; turn < 3000; turn++) { /* ranks go round and round */
        put(c, next, VALUE);
        get(c, next++);
    }
    assert_int_equal(stats_of(c).entries, n);
    ag_cache_close(c);
}

static void ttl_evicts_who_is_too_old_first(void **state)
{
    (void)state;
    ag_cache *c = opened("ttl", SMALL_ROOM, 1);
    static const unsigned hours[] = {20, 5, 300, 1, 40, 2, 90};
    for (uint64_t i = 0; i < AG_ARRAY_LEN(hours); i++) {
        uint64_t until = NOW + hours[i] * 3600000ull;
        put_at(c, 100 + i, VALUE, NOW, (ag_cache_meta){.fresh_until_ms = until, .stale_until_ms = until});
    }
    static const unsigned order[] = {3, 5, 1, 0, 4, 6, 2};
    uint64_t far = NOW + 1000 * DAY_MS;
    for (uint64_t gone = 0, i = 0; gone < AG_ARRAY_LEN(order); i++) {
        put_at(c, i, VALUE, NOW, (ag_cache_meta){.fresh_until_ms = far, .stale_until_ms = far});
        for (uint64_t k = 0; k < AG_ARRAY_LEN(order); k++)
            assert_true(is_in(c, 100 + order[k]) == (k >= stats_of(c).evicted));
        gone = stats_of(c).evicted;
    }
    ag_cache_close(c);
}

static void s3_fifo_lets_scans_through(void **state)
{
    (void)state;
    ag_cache *c = opened("s3-fifo", SMALL_ROOM, 1);
    uint64_t n = filled(c, VALUE), next = n;
    get(c, 0);
    get(c, 1);
    put(c, next++, VALUE); /* 0 and 1 move on to the main queue, 2 goes */
    assert_true(is_in(c, 0) && is_in(c, 1) && !is_in(c, 2) && is_in(c, 3));
    for (uint64_t i = 0; i < 20 * n; i++) put(c, next++, VALUE);
    assert_true(is_in(c, 0) && is_in(c, 1) && !is_in(c, 3));
    ag_cache_close(c);
}

static void s3_fifo_remembers_who_went(void **state)
{
    (void)state;
    ag_cache *c = opened("s3-fifo", SMALL_ROOM, 1);
    uint64_t n = filled(c, VALUE), next = n;
    put(c, next++, VALUE); /* 0 goes */
    assert_false(is_in(c, 0));
    put(c, 0, VALUE); /* and comes back, to the main queue */
    for (uint64_t i = 0; i < 5 * n; i++) put(c, next++, VALUE);
    assert_true(is_in(c, 0));
    uint64_t long_ago = next - 4 * n;
    put(c, long_ago, VALUE); /* that is forgotten by now */
    for (uint64_t i = 0; i < 2 * n; i++) put(c, next++, VALUE);
    assert_true(is_in(c, 0) && !is_in(c, long_ago));
    ag_cache_close(c);
}

static void s3_fifo_main_queue_turns_by_use(void **state)
{
    (void)state;
    ag_cache *c = opened("s3-fifo", SMALL_ROOM, 1);
    uint64_t n = filled(c, VALUE), next = n;
    for (uint64_t i = 0; i < n; i++) get(c, i);
    for (uint64_t i = 0; i < n; i++) get(c, i);
    put(c, next++, VALUE); /* all move on, so the first of the main queue goes, whatever its uses were */
    assert_false(is_in(c, 0));
    get(c, 1);
    put(c, next++, VALUE);
    put(c, next++, VALUE);
    put(c, next++, VALUE); /* the small queue is below its share: 2 goes before 1, which was used since */
    assert_true(is_in(c, 1) && !is_in(c, 2));
    ag_cache_close(c);
}

/* A thousand that were all used must not be walked through while the lock is held. */
static void s3_fifo_passes_over_a_bounded_number(void **state)
{
    (void)state;
    ag_cache *c = opened("s3-fifo", 4 << 20, 1);
    uint64_t n = filled(c, 1000);
    for (uint64_t i = 0; i < n; i++) get(c, i);
    put(c, n, 1000);
    assert_true(is_in(c, 0) && !is_in(c, 32) && is_in(c, 33));
    assert_int_equal(stats_of(c).entries, n);
    ag_cache_close(c);
}

static void fame_outlives_a_renewal(void **state)
{
    (void)state;
    static const char *const those[] = {"lfu", "s3-fifo"};
    for (size_t p = 0; p < AG_ARRAY_LEN(those); p++) {
        ag_cache *c = opened(those[p], SMALL_ROOM, 1);
        uint64_t n = filled(c, VALUE), next = n;
        for (int i = 0; i < 8; i++) get(c, 4);
        put(c, 4, VALUE);
        for (uint64_t i = 0; i < 2 * n; i++) put(c, next++, VALUE);
        put(c, 4, VALUE);
        for (uint64_t i = 0; i < 2 * n; i++) put(c, next++, VALUE);
        assert_true(is_in(c, 4));
        ag_cache_close(c);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_policy_evicts_to_its_bound),
        cmocka_unit_test(lru_evicts_who_was_not_used_longest),
        cmocka_unit_test(lfu_evicts_who_was_used_least),
        cmocka_unit_test(lfu_keeps_the_famous_through_a_scan_but_not_for_ever),
        cmocka_unit_test(lfu_counts_no_more_than_it_can),
        cmocka_unit_test(ttl_evicts_who_is_too_old_first),
        cmocka_unit_test(s3_fifo_lets_scans_through),
        cmocka_unit_test(s3_fifo_remembers_who_went),
        cmocka_unit_test(s3_fifo_main_queue_turns_by_use),
        cmocka_unit_test(s3_fifo_passes_over_a_bounded_number),
        cmocka_unit_test(fame_outlives_a_renewal),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
