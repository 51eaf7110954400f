/* How much memory there is for a model. */
#include "engine/lm.c"

#include "check.h"

#define GIB ((uint64_t)1 << 30)

static void test_memory_left(void **state)
{
    (void)state;
    assert_int_equal(memory_left(8 * GIB, 0, 0, 0), 8 * GIB); /* no limit */
    assert_int_equal(memory_left(8 * GIB, 4 * GIB, GIB, 0), 3 * GIB);
    assert_int_equal(memory_left(2 * GIB, 4 * GIB, GIB, 0), 2 * GIB); /* the machine has less */
    assert_int_equal(memory_left(0, 4 * GIB, GIB, 0), 3 * GIB);       /* and says nothing */
    assert_int_equal(memory_left(8 * GIB, 4 * GIB, 4 * GIB, 3 * GIB), 3 * GIB); /* files make room */
    assert_int_equal(memory_left(8 * GIB, 4 * GIB, GIB, 3 * GIB), 4 * GIB);
    assert_int_equal(memory_left(8 * GIB, 4 * GIB, 4 * GIB, 0), 1); /* nothing is not the same as not known */
    assert_int_equal(memory_left(8 * GIB, 4 * GIB, 5 * GIB, 0), 1);
    assert_int_equal(memory_left(0, 0, 0, 0), 0);
}

static void test_memory_for_kv(void **state)
{
    (void)state;
    assert_int_equal(memory_for_kv(16 * GIB, GIB), 15 * GIB / 2);
    assert_int_equal(memory_for_kv(16 * GIB, 12 * GIB), 2 * GIB);
    assert_int_equal(memory_for_kv(16 * GIB, 15 * GIB), 2 * GIB);
    assert_int_equal(memory_for_kv(16 * GIB, 40 * GIB), 2 * GIB);
    assert_int_equal(memory_for_kv(1, 40 * GIB), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_memory_left), cmocka_unit_test(test_memory_for_kv)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
