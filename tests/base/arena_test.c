#include "base/arena.h"

#include "base/fault.h"
#include "check.h"

static void objects_are_aligned_and_apart(void **state)
{
    (void)state;
    ag_arena a;
    ag_arena_init(&a, 1 << 20);
    unsigned char *p[100];
    for (size_t i = 0; i < 100; i++) {
        p[i] = ag_arena_alloc(&a, i);
        assert_non_null(p[i]);
        assert_int_equal((uintptr_t)p[i] % 16, 0);
        memset(p[i], (int)i, i);
    }
    for (size_t i = 0; i < 100; i++)
        for (size_t k = 0; k < i; k++) assert_int_equal(p[i][k], i);
    ag_arena_fini(&a);
    assert_null(a.blocks);
    assert_int_equal(a.used, 0);
}

static void zeroed_memory_is_zero(void **state)
{
    (void)state;
    ag_arena a;
    ag_arena_init(&a, 1 << 16);
    unsigned char *p = ag_arena_zalloc(&a, 1000), *q = ag_arena_array(&a, 10, 8);
    for (size_t i = 0; i < 1000; i++) assert_int_equal(p[i], 0);
    for (size_t i = 0; i < 80; i++) assert_int_equal(q[i], 0);
    char *s = ag_arena_strndup(&a, "a\0bc", 3);
    assert_memory_equal(s, "a\0b", 4);
    assert_string_equal(ag_arena_strndup(&a, NULL, 0), "");
    ag_arena_fini(&a);
}

static void the_ceiling_holds(void **state)
{
    (void)state;
    ag_arena a;
    ag_arena_init(&a, 1024);
    assert_null(ag_arena_alloc(&a, 1025));
    assert_true(ag_arena_full(&a));
    ag_arena_fini(&a);
    assert_false(ag_arena_full(&a));
    size_t n = 0;
    while (ag_arena_alloc(&a, 10)) n++;
    assert_int_equal(n, 64); /* 16 bytes each: padding counts */
    assert_true(ag_arena_full(&a));
    ag_arena_fini(&a);
    assert_non_null(ag_arena_alloc(&a, 1024)); /* begins anew, exactly at the ceiling */
    assert_null(ag_arena_alloc(&a, 1));
    assert_null(ag_arena_alloc(&a, 0)); /* takes as much as one byte: else nothing would hold behind it */
    assert_int_equal(a.used, 1024);
    ag_arena_fini(&a);
}

static void sizes_that_overflow_are_refused(void **state)
{
    (void)state;
    ag_arena a;
    ag_arena_init(&a, SIZE_MAX);
    assert_null(ag_arena_array(&a, SIZE_MAX / 2, 3));
    assert_null(ag_arena_strndup(&a, "x", SIZE_MAX));
    ag_arena_fini(&a);
}

static void large_objects_leave_the_open_block_in_use(void **state)
{
    (void)state;
    ag_arena a;
    ag_arena_init(&a, 1 << 20);
    char *small = ag_arena_alloc(&a, 16);
    char *large = ag_arena_alloc(&a, 200000);
    char *after = ag_arena_alloc(&a, 16);
    memset(small, 1, 16);
    memset(large, 2, 200000);
    memset(after, 3, 16);
    assert_int_equal(small[15], 1);
    assert_int_equal(large[199999], 2);
    ag_arena_fini(&a);
}

#ifdef AG_FAULTS
static void each_failing_allocation_is_answered(void **state)
{
    (void)state;
    for (uint32_t n = 1;; n++) {
        ag_arena a;
        ag_arena_init(&a, 1 << 20);
        ag_fault_arm(AG_FAULT_ALLOC, n);
        bool whole = true;
        for (size_t i = 0; i < 8; i++) whole = ag_arena_alloc(&a, 20000) && whole;
        bool fired = ag_fault_disarm(AG_FAULT_ALLOC);
        assert_int_equal(whole, !fired);
        assert_false(ag_arena_full(&a)); /* out of memory is not the ceiling */
        ag_arena_fini(&a);
        if (!fired) break;
    }
}
#endif

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(objects_are_aligned_and_apart),
        cmocka_unit_test(zeroed_memory_is_zero),
        cmocka_unit_test(the_ceiling_holds),
        cmocka_unit_test(sizes_that_overflow_are_refused),
        cmocka_unit_test(large_objects_leave_the_open_block_in_use),
#ifdef AG_FAULTS
        cmocka_unit_test(each_failing_allocation_is_answered),
#endif
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
