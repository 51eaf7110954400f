#include <math.h>

#include "queue_check.h"

static void test_place_of_one_tenant(void **state)
{
    (void)state;
    ag_queue *q = open_queue(plain());
    ag_tenant *t = tenant(q, "a", 1);
    ag_qent e[8];
    ag_queue_place p;
    for (int i = 0; i < 8; i++) {
        e[i] = entry(t, i % 2 ? 1 : 3, 10 + (uint64_t)i);
        e[i].deadline_us = i % 4 < 2 ? 1000 - (uint64_t)i : 0;
        push(q, &e[i], 0);
    }
    ag_queue_place_of_new(q, t, 1, 0, &p);
    assert_int_equal(p.ahead, 4);
    assert_int_equal(p.cost_ahead, 11 + 13 + 15 + 17);
    ag_queue_place_of_new(q, t, 1, 997, &p); /* by its deadline before those without, after 5's */
    assert_int_equal(p.ahead, 1);
    ag_queue_place_of_new(q, t, 0, 0, &p);
    assert_int_equal(p.ahead, 0);
    uint64_t cost = 0;
    ag_qent *order[8];
    uint32_t ahead[8];
    uint64_t cost_ahead[8];
    for (int i = 0; i < 8; i++) {
        ag_queue_place_get(q, &e[i], 0, &p);
        ahead[i] = p.ahead;
        cost_ahead[i] = p.cost_ahead;
    }
    for (uint32_t i = 0; i < 8; i++) {
        order[i] = pop(q, 0);
        assert_int_equal(ahead[order[i] - e], i);
        assert_int_equal(cost_ahead[order[i] - e], cost);
        cost += order[i]->cost;
    }
    empty(q);
}

/* Against how it really goes, over tenants of many kinds: a few hundredths of the queue off on the average. */
static void test_places_by_share(void **state)
{
    (void)state;
    enum { N = 3000 };
    ag_queue *q = open_queue(plain());
    ag_qent *e = calloc(N, sizeof *e);
    double *told = calloc(N, sizeof *told), *told_cost = calloc(N, sizeof *told_cost);
    uint64_t x = 88172645463325252u;
    for (uint32_t i = 0; i < N; i++) {
        x ^= x << 13, x ^= x >> 7, x ^= x << 17;
        char name[24]; /* one with a third of all, some with some, many with one or two */
        uint32_t kind = x % 3, who = kind == 0 ? 0 : kind == 1 ? x / 3 % 20 : x / 3 % 700;
        snprintf(name, sizeof name, "%u/%u", kind, who);
        e[i] = entry(tenant(q, name, 1 + who % 3), (uint8_t)(x >> 40) % 4, 10 + (x >> 20) % 500);
        push(q, &e[i], 0);
    }
    for (uint32_t i = 0; i < N; i++) {
        ag_queue_place p;
        ag_queue_place_get(q, &e[i], 0, &p);
        told[i] = p.ahead;
        told_cost[i] = (double)p.cost_ahead;
    }
    double off = 0, off_cost = 0, cost = 0, total = 0;
    for (uint32_t i = 0; i < N; i++) total += (double)e[i].cost;
    for (uint32_t i = 0; i < N; i++) {
        ag_qent *h = pop(q, 0);
        off += fabs(told[h - e] - i) / N;
        off_cost += fabs(told_cost[h - e] - cost) / total;
        cost += (double)h->cost;
        ag_queue_charge(q, h->tenant, (int64_t)h->cost);
    }
    print_message("places are off by %.2f %% of the queue, costs by %.2f %%\n", 100 * off / N, 100 * off_cost / N);
    assert_true(off / N < 0.03 && off_cost / N < 0.03);
    empty(q);
    free(e);
    free(told);
    free(told_cost);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_place_of_one_tenant), cmocka_unit_test(test_places_by_share)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
