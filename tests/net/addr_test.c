#include "../../src/net/addr.c"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

#include "base/fault.h"

static ag__addr numbered(uint32_t i)
{
    ag__addr a = {{0}};
    a.b[15] = 1;
    memcpy(a.b, &i, sizeof i);
    return a;
}

/* Against a plain array, through many insertions and removals in a table that is nearly full. */
static void test_counts(void **state)
{
    (void)state;
    enum { N = 64, MAX = 3 };
    uint32_t want[N] = {0}, used = 0;
    ag__addrs *t;
    assert_int_equal(ag__addrs_open(&t, N), AG_OK);
    srand(1);
    for (int step = 0; step < 20000; step++) {
        uint32_t i = (uint32_t)rand() % N;
        ag__addr a = numbered(i);
        if (rand() % 2) {
            bool ok = ag__addrs_get(t, &a, MAX);
            assert_int_equal(ok, want[i] < MAX);
            if (ok && want[i]++ == 0) used++;
        } else if (want[i]) {
            ag__addrs_put(t, &a);
            if (--want[i] == 0) used--;
        }
        assert_int_equal(ag__addrs_count(t), used);
    }
    for (uint32_t i = 0; i < N; i++) {
        ag__addr a = numbered(i);
        while (want[i]--) ag__addrs_put(t, &a);
    }
    assert_int_equal(ag__addrs_count(t), 0);
    ag__addrs_close(t);
}

static void test_full(void **state)
{
    (void)state;
    ag__addrs *t;
    assert_int_equal(ag__addrs_open(&t, 2), AG_OK);
    ag__addr a = numbered(1), b = numbered(2), c = numbered(3), none = {{0}};
    assert_true(ag__addrs_get(t, &a, 9) && ag__addrs_get(t, &b, 9));
    assert_false(ag__addrs_get(t, &c, 9));
    assert_true(ag__addrs_get(t, &a, 9));
    assert_true(ag__addrs_get(t, &none, 0)); /* no internet address: not counted */
    ag__addrs_put(t, &none);
    ag__addrs_put(t, &a);
    ag__addrs_put(t, &a);
    assert_true(ag__addrs_get(t, &c, 9));
    ag__addrs_put(t, &b);
    ag__addrs_put(t, &c);
    ag__addrs_close(t);
}

static ag__addr of(const char *text, char out[48])
{
    struct sockaddr_in v4 = {.sin_family = AF_INET};
    struct sockaddr_in6 v6 = {.sin6_family = AF_INET6};
    ag__addr a;
    ag__ip ip;
    if (inet_pton(AF_INET, text, &v4.sin_addr) == 1) assert_true(ag__ip_of((struct sockaddr *)&v4, &ip));
    else if (inet_pton(AF_INET6, text, &v6.sin6_addr) == 1) assert_true(ag__ip_of((struct sockaddr *)&v6, &ip));
    else fail();
    ag__addr_of(&ip, &a, out, 48);
    return a;
}

static bool same(const char *x, const char *y)
{
    char tx[48], ty[48];
    ag__addr a = of(x, tx), b = of(y, ty);
    return memcmp(&a, &b, sizeof a) == 0;
}

static void test_addresses(void **state)
{
    (void)state;
    char text[48];
    of("192.0.2.7", text);
    assert_string_equal(text, "192.0.2.7");
    of("::ffff:192.0.2.7", text);
    assert_string_equal(text, "192.0.2.7");
    of("2001:db8::1", text);
    assert_string_equal(text, "2001:db8::1");
    assert_true(same("192.0.2.7", "::ffff:192.0.2.7"));
    assert_false(same("192.0.2.7", "192.0.2.8"));
    assert_true(same("2001:db8:0:1::1", "2001:db8:0:1:ffff::2"));
    assert_false(same("2001:db8:0:1::1", "2001:db8:0:2::1"));
    ag__addr loopback = of("::1", text);
    assert_false(is_none(&loopback));
}

static void test_no_memory(void **state)
{
    (void)state;
#ifdef AG_FAULTS
    ag__addrs *t = NULL;
    ag_fault_arm(AG_FAULT_ALLOC, 1);
    assert_int_equal(ag__addrs_open(&t, 8), AG_E_NOMEM);
    assert_true(ag_fault_disarm(AG_FAULT_ALLOC));
    assert_null(t);
#endif
    ag__addrs_close(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_counts),
        cmocka_unit_test(test_full),
        cmocka_unit_test(test_addresses),
        cmocka_unit_test(test_no_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
