#include "engine/kv.h"

#include "base/fault.h"
#include "check.h"

static void test_all_or_none(void **state)
{
    (void)state;
    ag_kv *kv = NULL;
    uint32_t a[8], b[8];
    assert_int_equal(ag_kv_open(&kv, 8, NULL), AG_OK);
    assert_true(ag_kv_take(kv, 5, a));
    assert_int_equal(ag_kv_used(kv), 5);
    assert_false(ag_kv_take(kv, 4, b));
    assert_int_equal(ag_kv_free(kv), 3);
    assert_true(ag_kv_take(kv, 3, b));
    bool seen[8] = {false};
    for (int i = 0; i < 5; i++) seen[a[i]] = true;
    for (int i = 0; i < 3; i++) seen[b[i]] = true;
    for (int i = 0; i < 8; i++) assert_true(seen[i]); /* no page twice */
    assert_true(ag_kv_take(kv, 0, b));
    ag_kv_put(kv, 5, a);
    ag_kv_put(kv, 3, b);
    assert_int_equal(ag_kv_free(kv), 8);
    ag_kv_close(kv);
}

static void test_no_memory(void **state)
{
    (void)state;
#ifdef AG_FAULTS
    for (uint32_t n = 1;; n++) {
        ag_kv *kv = NULL;
        ag_fault_arm(AG_FAULT_ALLOC, n);
        int rc = ag_kv_open(&kv, 8, NULL);
        bool fired = ag_fault_disarm(AG_FAULT_ALLOC);
        assert_int_equal(rc, fired ? AG_E_NOMEM : AG_OK);
        ag_kv_close(kv);
        if (!fired) break;
    }
#endif
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_all_or_none), cmocka_unit_test(test_no_memory)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
