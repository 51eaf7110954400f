#include "queue/order.h"

#include "base/fault.h"
#include "check.h"

enum { N = 1000, ORDERS = 3 };

typedef struct thing { ag__u128 key; uint64_t cost; uint32_t order; bool in; } thing;

static uint32_t roll(uint64_t *state, uint32_t n)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(*state >> 33) % n;
}

static void count(void *arg, void *entry, ag__u128 key, uint64_t cost)
{
    const thing *x = entry;
    assert_true(x->in && x->key == key && x->cost == cost);
    ++*(uint32_t *)arg;
}

static void check(const ag__order *o, const thing *all, uint32_t which, ag__u128 key)
{
    ag__tree_rank want = {0, 0}, got = ag__order_below(o, key);
    const thing *first = NULL;
    uint32_t n = 0, walked = 0;
    for (const thing *x = all; x < all + N; x++) {
        if (!x->in || x->order != which) continue;
        n++;
        want.n += x->key < key;
        want.cost += x->key < key ? x->cost : 0;
        if (first == NULL || x->key < first->key) first = x;
    }
    assert_int_equal(got.n, want.n);
    assert_int_equal(got.cost, want.cost);
    assert_ptr_equal(ag__order_first(o), first);
    ag__order_verify(o, count, &walked);
    assert_int_equal(walked, n);
}

/* They fill, empty, fill again; most keys near each other, or going up, or at random. */
static void test_against_scanning(void **state)
{
    (void)state;
    ag__order_pool p = {0};
    ag__order o[ORDERS] = {{0}};
    thing *all = calloc(N, sizeof *all);
    uint64_t random = 5;
    uint32_t in = 0, most = 0;
    for (uint32_t i = 0; i < 120000; i++) {
        thing *x = &all[roll(&random, N)];
        bool fill = i / 10000 % 2 == 0;
        if (x->in && (!fill || roll(&random, 8) == 0)) {
            ag__order_remove(&p, &o[x->order], x->key, x->cost);
            x->in = false;
            in--;
        } else if (!x->in && (fill || roll(&random, 8) == 0)) {
            x->key = (ag__u128)(i % 3 == 0 ? i : i % 3 == 1 ? roll(&random, 200) : roll(&random, UINT32_MAX)) << 64 | i;
            x->cost = roll(&random, 1000);
            x->order = roll(&random, 10) == 0 ? 1 + roll(&random, ORDERS - 1) : 0;
            x->in = true;
            assert_true(ag__order_reserve(&p, ++in, ORDERS));
            ag__order_insert(&p, &o[x->order], x->key, x, x->cost);
        }
        most = AG_MAX(most, in);
        uint32_t which = roll(&random, ORDERS);
        if (i % 16 == 0) check(&o[which], all, which, x->key + roll(&random, 2));
        assert_true(p.used <= in / 3 + AG_MIN(in, (uint32_t)ORDERS));
    }
    assert_in_range(most, N * 3 / 4, N);
    for (thing *x = all; x < all + N; x++)
        if (x->in) ag__order_remove(&p, &o[x->order], x->key, x->cost);
    for (uint32_t i = 0; i < ORDERS; i++) assert_null(o[i].root);
    ag__order_pool_free(&p);
    free(all);
}

/* In, in order, against it; out from either end and from the middle. */
static void test_ways_in_and_out(void **state)
{
    (void)state;
    thing *all = calloc(N, sizeof *all);
    for (int in = 0; in < 2; in++) {
        for (int out = 0; out < 3; out++) {
            ag__order_pool p = {0};
            ag__order o = {0};
            assert_true(ag__order_reserve(&p, N, 1));
            for (uint32_t i = 0; i < N; i++) {
                uint32_t at = in ? N - 1 - i : i;
                all[at] = (thing){.key = at, .cost = 1, .in = true};
                ag__order_insert(&p, &o, at, &all[at], 1);
            }
            check(&o, all, 0, N / 2);
            for (uint32_t i = 0; i < N; i++) {
                uint32_t at = out == 0 ? i : out == 1 ? N - 1 - i : i % 2 ? N / 2 + i / 2 : N / 2 - 1 - i / 2;
                ag__order_remove(&p, &o, at, 1);
                all[at].in = false;
                if (i % 10 == 0) check(&o, all, 0, N / 2);
            }
            assert_null(o.root);
            assert_null(ag__order_first(&o));
            ag__order_pool_free(&p);
        }
    }
    free(all);
}

static void test_no_memory(void **state)
{
    (void)state;
#ifdef AG_FAULTS
    ag__order_pool p = {0};
    ag_fault_arm(AG_FAULT_ALLOC, 1);
    assert_false(ag__order_reserve(&p, 100, 1));
    assert_true(ag_fault_disarm(AG_FAULT_ALLOC));
    assert_true(ag__order_reserve(&p, 100, 1));
    ag_fault_arm(AG_FAULT_ALLOC, 1);
    assert_true(ag__order_reserve(&p, 50, 10)); /* there is room already */
    assert_false(ag__order_reserve(&p, 5000, 10));
    ag_fault_disarm(AG_FAULT_ALLOC);
    ag__order_pool_free(&p);
#endif
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_against_scanning), cmocka_unit_test(test_ways_in_and_out),
                                       cmocka_unit_test(test_no_memory)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
