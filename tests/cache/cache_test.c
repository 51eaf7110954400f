/* Entries by key: states of age, labels, bounds, failures, and the memory that all of it takes. */
#include "cache_check.h"

#include <malloc.h>
#ifdef __SANITIZE_ADDRESS__
size_t __sanitizer_get_current_allocated_bytes(void); /* its header is clang's */
#endif

static void finds_what_was_put(void **state)
{
    (void)state;
    ag_cache *c = opened(NULL, 8 << 20, 4);
    for (uint64_t i = 0; i < 500; i++) {
        ag_cache_key k = key_of(i);
        ag_cache_value *v = value_of(i, i), *found;
        ag_cache_meta meta = {.made_ms = NOW - i, .fresh_until_ms = NOW + 1000 + i, .stale_until_ms = NOW + 2000 + i,
                              .labels = {0, i + 1, 0, 7}}, told;
        assert_int_equal(ag_cache_put(c, &k, v, &meta, NOW), AG_OK);
        assert_int_equal(ag_cache_get(c, &k, NOW, &found, &told), AG_CACHE_FRESH);
        assert_ptr_equal(found, v);
        assert_int_equal(ag_cache_value_size(found), i);
        assert_int_equal(told.made_ms, NOW - i);
        assert_int_equal(told.fresh_until_ms, NOW + 1000 + i);
        assert_int_equal(told.stale_until_ms, NOW + 2000 + i);
        assert_int_equal(told.hits, 1);
        assert_true(told.labels[0] == i + 1 && told.labels[1] == 7 && told.labels[2] == 0);
        ag_cache_value_drop(found);
        ag_cache_value_drop(v);
    }
    assert_int_equal(get(c, 500), AG_CACHE_MISS);
    ag_cache_stats s = stats_of(c);
    assert_true(s.entries == 500 && s.puts == 500 && s.hits == 500 && s.misses == 1 && s.bytes_max == 8 << 20);
    put(c, 3, 10); /* in the place of the first */
    assert_int_equal(stats_of(c).entries, 500);
    assert_int_equal(get(c, 3), AG_CACHE_FRESH);
    ag_cache_close(c);
}

static void a_value_outlives_its_entry(void **state)
{
    (void)state;
    ag_cache *c = opened("lru", AG_CACHE_BYTES_MIN, 1);
    put(c, 1, 1000);
    ag_cache_key k = key_of(1);
    ag_cache_value *v;
    assert_int_equal(ag_cache_get(c, &k, NOW, &v, NULL), AG_CACHE_FRESH);
    assert_true(ag_cache_purge_key(c, &k));
    assert_false(ag_cache_purge_key(c, &k));
    ag_cache_close(c);
    assert_int_equal(ag_cache_value_bytes(v)[999], 1);
    ag_cache_value_drop(ag_cache_value_hold(v));
    ag_cache_value_drop(v);
    ag_cache_value_drop(NULL);
    ag_cache_close(NULL);
}

static void one_caller_renews_what_is_stale(void **state)
{
    (void)state;
    ag_cache *c = opened(NULL, AG_CACHE_BYTES_MIN, 1);
    ag_cache_key k = key_of(1);
    ag_cache_meta meta = {.made_ms = NOW, .fresh_until_ms = NOW + 10, .stale_until_ms = NOW + 20};
    assert_int_equal(put_at(c, 1, 100, NOW, meta), AG_OK);
    ag_cache_renew_failed(c, &k); /* nobody renews: nothing changes */
    assert_int_equal(get_at(c, 1, NOW + 9), AG_CACHE_FRESH);
    assert_int_equal(get_at(c, 1, NOW + 10), AG_CACHE_STALE);
    assert_int_equal(get_at(c, 1, NOW + 10), AG_CACHE_STALE_RENEWING);
    ag_cache_renew_failed(c, &k);
    assert_int_equal(get_at(c, 1, NOW + 11), AG_CACHE_STALE);
    assert_int_equal(get_at(c, 1, NOW + 19), AG_CACHE_STALE_RENEWING);
    meta.fresh_until_ms += 15, meta.stale_until_ms += 15;
    assert_int_equal(put_at(c, 1, 100, NOW + 19, meta), AG_OK);
    assert_int_equal(get_at(c, 1, NOW + 24), AG_CACHE_FRESH);
    assert_int_equal(get_at(c, 1, NOW + 25), AG_CACHE_STALE);
    assert_int_equal(get_at(c, 1, NOW + 35), AG_CACHE_MISS);
    assert_false(is_in(c, 1));
    ag_cache_renew_failed(c, &k); /* it is not there any more */
    ag_cache_stats s = stats_of(c);
    assert_true(s.stale == 5 && s.hits == 2 && s.misses == 1 && s.expired == 1 && s.entries == 0);
    ag_cache_close(c);
}

static void the_too_old_go_before_anybody_else(void **state)
{
    (void)state;
    for (size_t p = 0; p < AG_ARRAY_LEN(every_policy); p++) {
        ag_cache *c = opened(every_policy[p], AG_CACHE_BYTES_MIN, 1);
        uint64_t n = 0;
        for (; stats_of(c).evicted == 0; n++) {
            uint64_t until = n % 3 == 0 ? NOW + 1000 : NOW + DAY_MS;
            put_at(c, n, 8000, NOW, (ag_cache_meta){.fresh_until_ms = NOW, .stale_until_ms = until});
        }
        uint64_t old = stats_of(c).entries;
        for (uint64_t i = 0; i < n / 3 - 1; i++)
            put_at(c, n + i, 8000, NOW + 2000, (ag_cache_meta){.fresh_until_ms = NOW, .stale_until_ms = NOW + DAY_MS});
        assert_int_equal(stats_of(c).evicted, 1);
        assert_true(stats_of(c).entries <= old);
        for (uint64_t i = 1; i < n; i++) assert_true(i % 3 == 0 ? !is_in(c, i) : is_in(c, i));
        ag_cache_close(c);
    }
}

static void purges_by_label(void **state)
{
    (void)state;
    ag_cache *c = opened(NULL, 16 << 20, 8);
    uint64_t far = NOW + DAY_MS;
    for (uint64_t i = 0; i < 3000; i++)
        put_at(c, i, 200, NOW, (ag_cache_meta){.fresh_until_ms = far, .stale_until_ms = far,
                                               .labels = {100 + i % 3, 200 + i % 7, [7] = 300 + i % 2}});
    assert_int_equal(ag_cache_purge_label(c, 999), 0);
    assert_int_equal(ag_cache_purge_label(c, 101), 1000);
    assert_int_equal(ag_cache_purge_label(c, 101), 0);
    assert_int_equal(ag_cache_purge_label(c, 300), 1000);
    for (uint64_t i = 0; i < 3000; i++) assert_true(is_in(c, i) == (i % 3 != 1 && i % 2 == 1));
    assert_int_equal(ag_cache_purge_all(c), 1000);
    ag_cache_stats s = stats_of(c);
    assert_true(s.entries == 0 && s.purged == 3000 && s.evicted == 0);
    ag_cache *empty = opened(NULL, 16 << 20, 8);
    assert_int_equal(s.bytes, stats_of(empty).bytes);
    ag_cache_close(empty);
    ag_cache_close(c);
}

static void refuses_what_it_cannot_keep(void **state)
{
    (void)state;
    ag_cache *c = opened("lru", AG_CACHE_BYTES_MIN, 1);
    ag_cache_meta good = {.fresh_until_ms = NOW + 5, .stale_until_ms = NOW + 10}, bad;
    put(c, 1, 5000);
    assert_int_equal(put_at(c, 2, AG_CACHE_BYTES_MIN / 8, NOW, good), AG_E_LIMIT);
    assert_int_equal(put_at(c, 2, AG_CACHE_BYTES_MIN / 8 - 300, NOW, good), AG_OK);
    bad = good, bad.stale_until_ms = NOW;
    assert_int_equal(put_at(c, 3, 10, NOW, bad), AG_E_PARAM);
    bad = good, bad.fresh_until_ms = NOW + 11;
    assert_int_equal(put_at(c, 3, 10, NOW, bad), AG_E_PARAM);
    assert_true(is_in(c, 1) && is_in(c, 2) && !is_in(c, 3));
    assert_int_equal(stats_of(c).refused, 3);
    ag_cache_value *v = (ag_cache_value *)1;
    assert_int_equal(ag_cache_value_make(&v, SIZE_MAX - 8), AG_E_LIMIT);
    assert_null(v);
    ag_cache_close(c);
}

static void a_conf_that_makes_no_sense_is_told(void **state)
{
    (void)state;
    static const struct { ag_cache_conf conf; const char *says; } wrong[] = {
        {{"mru", 1 << 20, 1}, "\"mru\" is not known: it should be s3-fifo, lru, lfu or ttl"},
        {{"", 1 << 20, 1}, "it should be s3-fifo"},
        {{"lru", 1 << 20, 3}, "a power of two"},
        {{"lru", 1ull << 40, 512}, "at most 256"},
        {{"lru", 0, 0}, "too small"},
        {{"lru", 1 << 20, 8}, "262144 bytes a shard are the least"},
        {{"lru", UINT64_MAX, 1}, "too large"},
    };
    for (size_t i = 0; i < AG_ARRAY_LEN(wrong); i++) {
        ag_cache *c = (ag_cache *)1;
        ag_err err = {0};
        assert_int_equal(ag_cache_open(&c, &wrong[i].conf, &err), AG_E_PARAM);
        assert_null(c);
        if (strstr(err.text, wrong[i].says) == NULL) fail_msg("\"%s\" lacks \"%s\"", err.text, wrong[i].says);
    }
    ag_cache *c = opened("lru", 40 << 20, 0);
    assert_int_equal(c->n, 8);
    ag_cache_close(c);
}

/* A large value displaces hundreds of small ones, a piece at a time. */
static void makes_room_in_pieces(void **state)
{
    (void)state;
    for (size_t p = 0; p < AG_ARRAY_LEN(every_policy); p++) {
        ag_cache *c = opened(every_policy[p], 1 << 20, 1);
        filled(c, 50);
        put(c, 1u << 30, 120000);
        assert_true(is_in(c, 1u << 30));
        assert_true(stats_of(c).evicted > 300);
        assert_true(stats_of(c).bytes <= stats_of(c).bytes_max);
        assert_true(stats_of(c).bytes > stats_of(c).bytes_max - 1000);
        ag_cache_close(c);
    }
}

#ifdef AG_FAULTS
static void lives_through_every_failing_allocation(void **state)
{
    (void)state;
    for (size_t p = 0; p < AG_ARRAY_LEN(every_policy); p++) {
        bool fired = true;
        for (uint32_t nth = 1; fired; nth++) {
            ag_cache *c = NULL;
            ag_cache_value *v = NULL, *found = NULL;
            ag_cache_key k = key_of(9);
            ag_cache_meta meta = {.fresh_until_ms = NOW + 1, .stale_until_ms = NOW + 1, .labels = {5}};
            ag_fault_arm(AG_FAULT_ALLOC, nth);
            int rc = ag_cache_open(&c, &(ag_cache_conf){every_policy[p], 1 << 20, 2}, NULL);
            if (rc == AG_OK) rc = ag_cache_value_make(&v, 100);
            if (rc == AG_OK) memset(ag_cache_value_bytes(v), 9, 100);
            if (rc == AG_OK) rc = ag_cache_put(c, &k, v, &meta, NOW);
            if (rc == AG_OK) assert_int_equal(ag_cache_get(c, &k, NOW, &found, NULL), AG_CACHE_FRESH);
            fired = ag_fault_disarm(AG_FAULT_ALLOC);
            assert_int_equal(rc, fired ? AG_E_NOMEM : AG_OK);
            if (c && v && fired) { /* it goes on */
                assert_int_equal(stats_of(c).refused, 1);
                assert_int_equal(ag_cache_put(c, &k, v, &meta, NOW), AG_OK);
                assert_int_equal(get(c, 9), AG_CACHE_FRESH);
            }
            ag_cache_value_drop(found);
            ag_cache_value_drop(v);
            ag_cache_close(c);
        }
    }
}
#endif

static uint64_t heap_bytes(void)
{
#ifdef __SANITIZE_ADDRESS__
    return __sanitizer_get_current_allocated_bytes();
#else
    struct mallinfo2 m = mallinfo2();
    return m.uordblks + m.hblkhd;
#endif
}

/* What the allocator says, not what the cache says of itself. */
static void memory_is_its_bound_after_random_operations(void **state)
{
    (void)state;
    const char *is_long = getenv("AUTOGLM_TEST_LONG");
    uint32_t operations = is_long && *is_long ? 10000000 : 1000000;
    for (size_t p = 0; p < AG_ARRAY_LEN(every_policy); p++) {
        uint64_t before = heap_bytes(), dice = 7, now = NOW, served = 0;
        const uint64_t bytes_max = 24 << 20;
        ag_cache *c = opened(every_policy[p], bytes_max, 4);
        for (uint32_t i = 0; i < operations; i++) {
            uint64_t draw = next_random(&dice), number = draw >> 40;
            number = number * number >> 34; /* some far more often than others */
            unsigned what = draw % 100;
            now += draw >> 8 & 1;
            ag_cache_key k = key_of(number);
            if (what < 60) {
                uint64_t fresh = now + (draw >> 16) % 4000000, stale = fresh + (draw >> 20) % 4000000 + 1;
                put_at(c, number, ag_mix64(number + i) % 8000, now,
                       (ag_cache_meta){.fresh_until_ms = fresh, .stale_until_ms = stale, .labels = {number % 5 + 1}});
            } else if (what < 98) {
                served += get_at(c, number, now) != AG_CACHE_MISS;
            } else {
                ag_cache_purge_key(c, &k);
            }
        }
        ag_cache_stats s = stats_of(c);
        uint64_t taken = heap_bytes() - before;
        assert_true(served > operations / 100);
        assert_true(s.evicted > 1000 && s.purged > 100);
        assert_in_range(s.bytes, bytes_max / 100 * 98, bytes_max);
        assert_in_range(taken, bytes_max / 100 * 98, bytes_max / 100 * 102);
        ag_cache_close(c);
        assert_true(heap_bytes() < before + (1 << 20)); /* what the allocator keeps at hand */
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(finds_what_was_put),
        cmocka_unit_test(a_value_outlives_its_entry),
        cmocka_unit_test(one_caller_renews_what_is_stale),
        cmocka_unit_test(the_too_old_go_before_anybody_else),
        cmocka_unit_test(purges_by_label),
        cmocka_unit_test(refuses_what_it_cannot_keep),
        cmocka_unit_test(a_conf_that_makes_no_sense_is_told),
        cmocka_unit_test(makes_room_in_pieces),
#ifdef AG_FAULTS
        cmocka_unit_test(lives_through_every_failing_allocation),
#endif
        cmocka_unit_test(memory_is_its_bound_after_random_operations),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
