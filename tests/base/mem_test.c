#include "base/mem.h"

#include "base/fault.h"
#include "check.h"

static void memory_is_given_and_taken_back(void **state)
{
    (void)state;
    char *p = ag_mem_alloc(0);
    assert_non_null(p);
    ag_mem_free(p);
    p = ag_mem_zalloc(100);
    assert_in_range(ag_mem_cost(p), 100, 200);
    assert_int_equal(ag_mem_cost(NULL), 0);
    for (int i = 0; i < 100; i++) assert_int_equal(p[i], 0);
    p = ag_mem_resize(p, 50, 4);
    assert_non_null(p);
    p[199] = 1;
    ag_mem_free(p);
    p = ag_mem_strndup("a\0b", 3);
    assert_memory_equal(p, "a\0b", 4);
    ag_mem_free(p);
    p = ag_mem_aligned(64, 100);
    assert_int_equal((uintptr_t)p % 64, 0);
    ag_mem_free(p);
    ag_mem_free(NULL);
    p = ag_mem_map(3 << 20);
    assert_int_equal((uintptr_t)p % 4096, 0);
    for (int i = 0; i < 3 << 20; i += 4096) assert_int_equal(p[i], 0);
    ag_mem_unmap(p, 3 << 20);
    ag_mem_unmap(NULL, 0);
}

static void products_that_overflow_are_refused(void **state)
{
    (void)state;
    char *p = ag_mem_alloc(8);
    assert_null(ag_mem_array(SIZE_MAX / 4, 8));
    assert_null(ag_mem_resize(p, SIZE_MAX / 4, 8));
    p[7] = 1; /* still valid */
    ag_mem_free(p);
}

#ifdef AG_FAULTS
static void the_nth_allocation_fails_once(void **state)
{
    (void)state;
    ag_fault_arm(AG_FAULT_ALLOC, 3);
    void *p[5] = {ag_mem_alloc(1), ag_mem_zalloc(1), ag_mem_array(1, 1), ag_mem_strndup("x", 1), ag_mem_aligned(64, 1)};
    assert_true(ag_fault_disarm(AG_FAULT_ALLOC));
    for (int i = 0; i < 5; i++) {
        if (i == 2) assert_null(p[i]);
        else assert_non_null(p[i]);
        ag_mem_free(p[i]);
    }
    assert_false(ag_fault_disarm(AG_FAULT_ALLOC));
    ag_fault_arm(AG_FAULT_ALLOC, 2);
    ag_mem_free(ag_mem_alloc(1));
    assert_false(ag_fault_disarm(AG_FAULT_ALLOC)); /* armed, but its turn did not come */
    assert_false(ag_fault_hit(AG_FAULT_ALLOC));
}

static void faults_are_armed_by_words(void **state)
{
    (void)state;
    assert_true(ag_fault_arm_text("alloc:2,READ:1"));
    assert_true(ag_fault_hit(AG_FAULT_READ));
    assert_false(ag_fault_hit(AG_FAULT_READ));
    assert_false(ag_fault_hit(AG_FAULT_ALLOC));
    assert_true(ag_fault_hit(AG_FAULT_ALLOC));
    assert_true(ag_fault_disarm(AG_FAULT_READ));
    assert_true(ag_fault_disarm(AG_FAULT_ALLOC));
    assert_true(ag_fault_arm_text(""));
    static const char *const bad[] = {"alloc",    "alloc:",    "alloc:0", "alloc:x",
                                      "alloc:1;", "nothing:1", ":1",      "alloc:4294967296"};
    for (size_t i = 0; i < AG_ARRAY_LEN(bad); i++) assert_false(ag_fault_arm_text(bad[i]));
    for (int k = 0; k < AG_FAULT_COUNT; k++) ag_fault_disarm((ag_fault_kind)k);
}
#endif

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(memory_is_given_and_taken_back),
        cmocka_unit_test(products_that_overflow_are_refused),
#ifdef AG_FAULTS
        cmocka_unit_test(the_nth_allocation_fails_once),
        cmocka_unit_test(faults_are_armed_by_words),
#endif
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
