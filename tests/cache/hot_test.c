/* The most popular of very many keys, beside exact counts of all of them. */
#include "cache/hot.h"

#include <math.h>

#include "base/fault.h"
#include "base/mem.h"
#include "check.h"

enum { KEYS = 20000 };

static double shares[KEYS]; /* Zipf's: cumulative */

static void zipf(double s)
{
    double sum = 0;
    for (int i = 0; i < KEYS; i++) shares[i] = sum += pow(i + 1, -s);
    for (int i = 0; i < KEYS; i++) shares[i] /= sum;
}

static double uniform(uint64_t *x)
{
    *x = *x * 6364136223846793005u + 1442695040888963407u;
    return (double)(*x >> 11) / (double)(1ull << 53);
}

static uint32_t draw(uint64_t *x)
{
    double u = uniform(x);
    uint32_t from = 0, to = KEYS - 1;
    while (from < to) {
        uint32_t mid = (from + to) / 2;
        if (shares[mid] < u) from = mid + 1;
        else to = mid;
    }
    return from;
}

static ag_cache_key key_of(uint32_t n)
{
    ag_cache_key k;
    uint64_t x = n;
    for (size_t i = 0; i < sizeof k.b; i++) {
        x = x * 6364136223846793005u + 1442695040888963407u;
        k.b[i] = (uint8_t)(x >> 40);
    }
    memcpy(k.b + 8, &n, sizeof n); /* and so that it is known again */
    return k;
}

static uint32_t number_of(const ag_cache_key *k)
{
    uint32_t n;
    memcpy(&n, k->b + 8, sizeof n);
    return n;
}

static ag_hot *open_hot(uint32_t keys, uint64_t halve_after)
{
    ag_hot *h = NULL;
    assert_int_equal(ag_hot_open(&h, keys, halve_after, NULL), AG_OK);
    return h;
}

static void count(ag_hot *h, uint32_t n, uint64_t at)
{
    ag_cache_key k = key_of(n);
    ag_hot_count(h, &k, at);
}

/* What is promised of every key, those that are not there too. */
static void check_bounds(const ag_hot *h, const double *exact)
{
    uint32_t n = 0;
    ag_hot_key got;
    for (uint32_t i = 0; i < KEYS; i++) {
        ag_cache_key k = key_of(i);
        if (!ag_hot_find(h, &k, &got)) {
            if (exact[i] > (double)ag_hot_least(h)) fail_msg("%u was asked for %g times and is not there", i, exact[i]);
            continue;
        }
        n++;
        assert_int_equal(number_of(&got.key), i);
        if ((double)got.sure > exact[i] || exact[i] > (double)got.count)
            fail_msg("%u: %g is not within %llu and %llu", i, exact[i], (unsigned long long)got.sure,
                     (unsigned long long)got.count);
    }
    assert_int_not_equal(n, 0);
}

static void test_zipf(void **state)
{
    (void)state;
    static double exact[KEYS];
    static ag_hot_key top[4096];
    const double skews[] = {0.6, 1.0, 1.4};
    const uint32_t sizes[] = {1, 2, 50, 1000, 4096};
    for (size_t z = 0; z < AG_ARRAY_LEN(skews); z++)
        for (size_t s = 0; s < AG_ARRAY_LEN(sizes); s++) {
            uint64_t x = 7 * (z + 1) + s, all = 200000;
            uint32_t size = sizes[s];
            zipf(skews[z]);
            memset(exact, 0, sizeof exact);
            ag_hot *h = open_hot(size, 0);
            for (uint64_t i = 1; i <= all; i++) {
                uint32_t n = draw(&x);
                exact[n]++;
                count(h, n, i);
                if (i % 50000 == 0) ag_hot_verify(h);
            }
            check_bounds(h, exact);
            assert_in_range(ag_hot_least(h), 0, all / size); /* the paper's bound on the error */
            uint32_t n = ag_hot_top(h, top, AG_ARRAY_LEN(top));
            assert_int_equal(n, size);
            uint64_t sum = 0;
            for (uint32_t i = 0; i < n; i++) {
                assert_true(i == 0 || top[i].count <= top[i - 1].count);
                assert_true(top[i].count - top[i].sure <= ag_hot_least(h));
                sum += top[i].count;
            }
            assert_int_equal(sum, all); /* nothing is lost, only mistaken */
            if (skews[z] == 1.0 && size >= 1000)
                for (uint32_t i = 0; i < 20; i++) assert_in_range(number_of(&top[i].key), 0, 30);
            ag_hot_close(h);
        }
}

static void test_halving(void **state)
{
    (void)state;
    static double exact[KEYS];
    enum { SIZE = 100, EVERY = 1000 };
    uint64_t x = 5;
    ag_hot *h = open_hot(SIZE, EVERY);
    memset(exact, 0, sizeof exact);
    zipf(1.0);
    for (uint64_t i = 1; i <= 50 * EVERY; i++) {
        /* Popularity moves on: after a while others are asked for. */
        uint32_t n = (draw(&x) + (uint32_t)(i / (25 * EVERY)) * 5000) % KEYS;
        exact[n]++;
        count(h, n, i);
        if (i % EVERY) continue;
        for (uint32_t k = 0; k < KEYS; k++) exact[k] /= 2;
        ag_hot_verify(h);
        if (i % (10 * EVERY) == 0) check_bounds(h, exact);
    }
    ag_hot_key top[5];
    assert_int_equal(ag_hot_top(h, top, 5), 5);
    /* of the second half */
    for (int i = 0; i < 5; i++) assert_in_range(number_of(&top[i].key), 10000 - 5000, 10000 + 20);
    ag_hot_close(h);
}

static void test_last_place_is_kept(void **state)
{
    (void)state;
    ag_hot *h = open_hot(3, 0);
    ag_hot_key got;
    for (uint64_t i = 0; i < 5; i++) count(h, 1, i);
    count(h, 2, 70);
    count(h, 3, 80);
    count(h, 2, 71);
    count(h, 4, 90); /* takes 3's place */
    ag_cache_key k = key_of(3);
    assert_false(ag_hot_find(h, &k, &got));
    k = key_of(4);
    assert_true(ag_hot_find(h, &k, &got));
    assert_int_equal(got.count, 2);
    assert_int_equal(got.sure, 1);
    assert_int_equal(got.at, 90);
    k = key_of(2);
    assert_true(ag_hot_find(h, &k, &got));
    assert_int_equal(got.at, 71);
    assert_int_equal(got.sure, 2);
    assert_int_equal(ag_hot_least(h), 2);
    ag_hot_verify(h);
    ag_hot_close(h);
}

/* Steps of a count do not depend on how many keys there are: what is asked for is always found in a short chain, and no
 * call walks the groups. Told by the bound of groups, which one that leaks any would pass. */
static void test_groups_are_given_back(void **state)
{
    (void)state;
    uint64_t x = 3;
    ag_hot *h = open_hot(64, 64);
    zipf(0.8);
    for (uint32_t i = 0; i < 100000; i++) count(h, draw(&x), i);
    ag_hot_verify(h);
    ag_hot_close(h);
}

static void test_no_memory(void **state)
{
    (void)state;
#ifdef AG_FAULTS
    for (uint32_t n = 1;; n++) {
        ag_hot *h = NULL;
        ag_err err = {0};
        ag_fault_arm(AG_FAULT_ALLOC, n);
        int rc = ag_hot_open(&h, 100, 1000, &err);
        bool fired = ag_fault_disarm(AG_FAULT_ALLOC);
        assert_int_equal(rc, fired ? AG_E_NOMEM : AG_OK);
        assert_int_equal(err.code, rc);
        ag_hot_close(h);
        if (!fired) break;
    }
#else
    check_skipped(1, "built without fault points");
#endif
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_zipf), cmocka_unit_test(test_halving), cmocka_unit_test(test_last_place_is_kept),
        cmocka_unit_test(test_groups_are_given_back), cmocka_unit_test(test_no_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
