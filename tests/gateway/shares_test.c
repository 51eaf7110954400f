#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <stdio.h>

#include "base/buf.h"
#include "base/fault.h"
#include "gateway/shares.h"

static void weights_are_found_by_name(void **state)
{
    (void)state;
    ag_shares s;
    ag_err err = {0};
    assert_int_equal(ag_shares_parse(&s, "zeta=2,gold=3,free=0.5,a=b=7", &err), AG_OK);
    assert_float_equal(ag_shares_of(&s, "gold"), 3, 0);
    assert_float_equal(ag_shares_of(&s, "free"), 0.5, 0);
    assert_float_equal(ag_shares_of(&s, "zeta"), 2, 0);
    assert_float_equal(ag_shares_of(&s, "a=b"), 7, 0);
    assert_float_equal(ag_shares_of(&s, "gol"), 1, 0);
    assert_float_equal(ag_shares_of(&s, ""), 1, 0);
    char longest[AG_TENANT_NAME_MAX + 3];
    memset(longest, 'x', sizeof longest - 1);
    longest[sizeof longest - 1] = 0;
    assert_float_equal(ag_shares_of(&s, longest), 1, 0);
    ag_shares_fini(&s);
    assert_int_equal(ag_shares_parse(&s, NULL, &err), AG_OK);
    assert_float_equal(ag_shares_of(&s, "gold"), 1, 0);
    ag_shares_fini(&s);
}

static void nonsense_is_refused(void **state)
{
    (void)state;
    static const char *const bad[] = {"gold", "gold=", "=3", "gold=0", "gold=-1", "gold=nan", "gold=inf", "gold=1e3",
                                      "gold=1001", "gold=3x", "gold=3,", "gold=3,,a=1", "two words=1", "gold=3,gold=4",
                                      "gold=0x10", "g\xC3\xB6ld=1", "gold=1.2.3"};
    for (size_t i = 0; i < AG_ARRAY_LEN(bad); i++) {
        ag_shares s;
        ag_err err = {0};
        if (ag_shares_parse(&s, bad[i], &err) != AG_E_USAGE) fail_msg("'%s' was taken", bad[i]);
        assert_non_null(strstr(err.text, "tenant-weights"));
        ag_shares_fini(&s);
    }
}

static void there_is_a_ceiling(void **state)
{
    (void)state;
    ag_buf b;
    ag_shares s;
    ag_err err = {0};
    ag_buf_init(&b, 1 << 20);
    for (int i = 0; i < AG_SHARES_MAX; i++) ag_buf_addf(&b, "%st%d=%d", i ? "," : "", i, i % 999 + 1);
    ag_buf_zterm(&b);
    assert_int_equal(ag_shares_parse(&s, b.p, &err), AG_OK);
    for (int i = 0; i < AG_SHARES_MAX; i++) {
        char name[16];
        snprintf(name, sizeof name, "t%d", i);
        assert_float_equal(ag_shares_of(&s, name), (float)(i % 999 + 1), 0.0f);
    }
    ag_shares_fini(&s);
    ag_buf_addz(&b, ",one=1");
    ag_buf_zterm(&b);
    assert_int_equal(ag_shares_parse(&s, b.p, &err), AG_E_USAGE);
    ag_shares_fini(&s);
    ag_buf_fini(&b);
#ifdef AG_FAULTS
    ag_err_clear(&err);
    ag_fault_arm(AG_FAULT_ALLOC, 1);
    assert_int_equal(ag_shares_parse(&s, "gold=3", &err), AG_E_NOMEM);
    assert_true(ag_fault_disarm(AG_FAULT_ALLOC));
    ag_shares_fini(&s);
#endif
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(weights_are_found_by_name),
                                       cmocka_unit_test(nonsense_is_refused),
                                       cmocka_unit_test(there_is_a_ceiling)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
