#include <math.h>

#include "base/fault.h"
#include "queue_check.h"

/* --- order -------------------------------------------------------------------------------------------------------- */

static void test_order(void **state)
{
    (void)state;
    ag_queue *q = open_queue(plain());
    ag_tenant *t = tenant(q, "a", 1);
    ag_qent e[6];
    for (int i = 0; i < 6; i++) e[i] = entry(t, 2, 10);
    e[1].band = 0;
    e[2].deadline_us = 900;
    e[3].deadline_us = 800;
    e[4].band = 3;
    e[4].deadline_us = 1;
    for (int i = 0; i < 6; i++) push(q, &e[i], 0);
    const int want[] = {1, 3, 2, 0, 5, 4}; /* band, deadline, arrival */
    for (int i = 0; i < 6; i++) assert_ptr_equal(pop(q, 0), &e[want[i]]);
    assert_null(pop(q, 0));
    empty(q);
}

/* One without a deadline is not passed for ever by its tenant's others. */
static void test_who_has_no_deadline_has_its_turn(void **state)
{
    (void)state;
    enum { N = 100 };
    ag_queue_conf conf = plain();
    conf.age_us = 100;
    ag_queue *q = open_queue(conf);
    ag_tenant *t = tenant(q, "a", 1);
    ag_qent e[N], one = entry(t, 2, 10);
    push(q, &one, 0);
    uint32_t served = N;
    for (uint32_t i = 0; i < N; i++) {
        e[i] = entry(t, 2, 10);
        e[i].deadline_us = i * 10 + 50;
        push(q, &e[i], i * 10);
        ag_qent *x = ag_queue_head(q, i * 10);
        ag_queue_take(q, x, i * 10);
        if (x == &one) served = i;
    }
    assert_int_equal(served, 35); /* whose deadline is 400 as well */
    empty(q);
}

static void test_set_back_goes_first(void **state)
{
    (void)state;
    ag_queue *q = open_queue(plain());
    ag_tenant *t = tenant(q, "a", 1);
    ag_qent e[3] = {entry(t, 2, 10), entry(t, 2, 10), entry(t, 2, 10)};
    for (int i = 0; i < 3; i++) push(q, &e[i], 0);
    ag_queue_move(q, &e[2], 0, 0);
    assert_ptr_equal(pop(q, 0), &e[2]);
    uint64_t number = e[2].number;
    ag_queue_running(q, t, 1);
    e[2].resumed = true;
    ag_queue_move(q, &e[2], 2, 0); /* in the band of the others, who came before it */
    push(q, &e[2], 5);
    assert_int_equal(e[2].number, number);
    ag_queue_running(q, t, -1);
    assert_ptr_equal(pop(q, 5), &e[2]);
    e[1].deadline_us = 0;
    push(q, &e[2], 6);
    ag_queue_deadline_set(q, &e[1], 50); /* but a deadline is a deadline */
    assert_ptr_equal(pop(q, 6), &e[1]);
    assert_ptr_equal(pop(q, 6), &e[2]);
    empty(q);
}

static void test_move(void **state)
{
    (void)state;
    ag_queue *q = open_queue(plain());
    ag_tenant *t = tenant(q, "a", 1);
    ag_qent e[3] = {entry(t, 1, 10), entry(t, 2, 10), entry(t, 3, 10)};
    for (int i = 0; i < 3; i++) push(q, &e[i], 0);
    ag_queue_move(q, &e[2], 0, 1);
    ag_queue_move(q, &e[0], 3, 2);
    ag_queue_stats s;
    ag_queue_stats_get(q, &s);
    assert_int_equal(s.by_band[0], 1);
    assert_int_equal(s.by_band[1], 0);
    assert_int_equal(s.by_band[3], 1);
    assert_ptr_equal(pop(q, 3), &e[2]);
    assert_ptr_equal(pop(q, 3), &e[1]);
    assert_ptr_equal(pop(q, 3), &e[0]);
    empty(q);
}

/* Who has waited and is moved is not worse off for it; nor is it better off than its new band and its age make it. */
static void test_move_keeps_age(void **state)
{
    (void)state;
    ag_queue_conf conf = plain();
    conf.age_us = 100;
    ag_queue *q = open_queue(conf);
    ag_tenant *t = tenant(q, "a", 1);
    ag_qent old = entry(t, 3, 10), later = entry(t, 2, 10);
    push(q, &old, 0);
    assert_ptr_equal(ag_queue_head(q, 100), &old);
    assert_int_equal(old.level, 2);
    push(q, &later, 110);
    ag_queue_move(q, &old, 3, 120); /* as it is */
    assert_int_equal(old.since_us, 100);
    ag_queue_move(q, &old, 2, 130); /* to where it has come already, and since when it has been there */
    assert_int_equal(old.level, 2);
    assert_int_equal(old.since_us, 100);
    ag_queue_verify(q);
    assert_ptr_equal(ag_queue_head(q, 200), &old);
    assert_int_equal(old.level, 1);
    assert_int_equal(later.level, 2);
    ag_queue_move(q, &old, 3, 210); /* one band more urgent than it asks for */
    assert_int_equal(old.level, 2);
    assert_int_equal(old.since_us, 210);
    ag_queue_move(q, &old, 0, 220);
    assert_int_equal(old.level, 0);
    ag_queue_move(q, &old, 3, 230); /* nothing of that was its age's */
    assert_int_equal(old.level, 3);
    assert_ptr_equal(pop(q, 240), &later);
    ag_queue_move(q, &later, 1, 250); /* as it runs */
    assert_true(later.level == 1 && later.band == 1);
    empty(q);
}

/* --- shares ------------------------------------------------------------------------------------------------------- */

enum { MANY = 4000 };

/* Serves one after the other whoever is next, charging what each cost; how much the first so many got. */
static void serve(ag_queue *q, uint32_t n, uint64_t *got, ag_tenant **t, uint32_t tenants, uint64_t spread_max)
{
    for (uint32_t i = 0; i < n; i++) {
        ag_qent *e = ag_queue_head(q, i);
        assert_non_null(e);
        ag_queue_running(q, e->tenant, 1);
        ag_queue_remove(q, e);
        ag_queue_charge(q, e->tenant, (int64_t)e->cost);
        ag_queue_running(q, e->tenant, -1);
        double least = INFINITY, most = 0;
        for (uint32_t k = 0; k < tenants; k++) {
            if (t[k] == e->tenant) got[k] += e->cost;
            least = fmin(least, (double)got[k] / t[k]->weight);
            most = fmax(most, (double)got[k] / t[k]->weight);
        }
        assert_true(most - least <= (double)spread_max);
    }
}

static void test_equal_shares(void **state)
{
    (void)state;
    ag_queue *q = open_queue(plain());
    ag_tenant *t[3] = {tenant(q, "a", 1), tenant(q, "b", 1), tenant(q, "c", 1)};
    ag_qent *e = calloc(MANY, sizeof *e);
    uint64_t got[3] = {0}, most = 0;
    for (uint32_t i = 0; i < MANY; i++) { /* one asks for little often, one for much, one for both */
        uint64_t cost = i % 3 == 0 ? 50 + i % 7 : i % 3 == 1 ? 900 + i % 101 : (i * 37) % 1000 + 1;
        e[i] = entry(t[i % 3], 2, cost);
        most = AG_MAX(most, cost);
        push(q, &e[i], 0);
    }
    serve(q, MANY / 3, got, t, 3, most); /* never apart by more than the largest request */
    while (pop(q, 0) != NULL) {}
    empty(q);
    free(e);
}

static void test_weights(void **state)
{
    (void)state;
    ag_queue *q = open_queue(plain());
    ag_tenant *t[2] = {tenant(q, "gold", 3), tenant(q, "iron", 1)};
    ag_qent *e = calloc(MANY, sizeof *e);
    uint64_t got[2] = {0};
    for (uint32_t i = 0; i < MANY; i++) {
        e[i] = entry(t[i % 2], 2, 100 + (i * 31) % 300);
        push(q, &e[i], 0);
    }
    serve(q, MANY / 2, got, t, 2, 400);
    assert_true(fabs((double)got[0] / (double)got[1] - 3) < 0.3);
    empty(q);
    free(e);
}

/* Charging what was expected ahead and setting it right later comes to the same as charging what was. */
static void test_charged_ahead(void **state)
{
    (void)state;
    ag_queue *q = open_queue(plain());
    ag_tenant *a = tenant(q, "a", 3), *b = tenant(q, "b", 3);
    ag_queue_charge(q, a, 1000);
    ag_queue_charge(q, a, -300);
    ag_queue_charge(q, b, 700);
    assert_int_equal(a->service, 700);
    assert_true(a->vtime == b->vtime);
    ag_queue_charge(q, a, INT64_MIN); /* no further back than nothing */
    assert_int_equal(a->service, 0);
    assert_true(a->vtime == 0);
    ag_queue_close(q);
}

/* What is charged ahead by one weight and given back by another is no credit, and no debt. */
static void test_another_weight(void **state)
{
    (void)state;
    ag_queue *q = open_queue(plain());
    ag_tenant *a = tenant(q, "a", 4), *b = tenant(q, "b", 1);
    ag_qent e[3] = {entry(a, 2, 10), entry(b, 2, 10), entry(b, 2, 10)};
    ag_queue_charge(q, a, 400); /* received */
    ag_queue_charge(q, a, 1000);
    ag_queue_ahead(q, a, 1000);
    assert_true(a->vtime == 350);
    for (int i = 0; i < 3; i++) push(q, &e[i], 0);
    ag_queue_charge(q, b, 200);
    assert_ptr_equal(ag_queue_head(q, 0), &e[1]);
    assert_ptr_equal(tenant(q, "a", 8), a);
    assert_true(a->vtime == 225);
    ag_queue_charge(q, b, 50);
    assert_ptr_equal(ag_queue_head(q, 0), &e[0]);
    assert_ptr_equal(tenant(q, "a", 1), a);
    assert_true(a->vtime == 1100);
    assert_ptr_equal(ag_queue_head(q, 0), &e[1]);
    ag_queue_verify(q);
    ag_queue_charge(q, a, -1000); /* none of it came */
    ag_queue_ahead(q, a, -1000);
    assert_true(a->vtime == 100);
    empty(q);
}

static void test_idleness(void **state)
{
    (void)state;
    ag_queue *q = open_queue(plain());
    ag_tenant *busy = tenant(q, "busy", 1), *late = tenant(q, "late", 1);
    ag_qent e[40], *got[4];
    for (int i = 0; i < 40; i++) e[i] = entry(i < 20 ? busy : late, 2, 100);
    for (int i = 0; i < 20; i++) push(q, &e[i], 0);
    for (int i = 0; i < 10; i++) ag_queue_charge(q, pop(q, 0)->tenant, 100);
    for (int i = 20; i < 30; i++) push(q, &e[i], 1); /* it saved nothing up: from here on they take turns */
    for (int i = 0; i < 4; i++) {
        got[i] = pop(q, 1);
        ag_queue_charge(q, got[i]->tenant, 100);
    }
    assert_true(got[0]->tenant != got[1]->tenant && got[2]->tenant != got[3]->tenant);
    /* Whoever ran ahead and paused is still behind those who were busy meanwhile. */
    for (int i = 20; i < 30; i++)
        if (e[i].queued) ag_queue_remove(q, &e[i]);
    ag_queue_charge(q, late, 1000);
    push(q, &e[30], 2);
    for (int i = 0; i < 5; i++) {
        got[0] = pop(q, 2);
        assert_ptr_equal(got[0]->tenant, busy);
        ag_queue_charge(q, busy, 100);
    }
    while (pop(q, 2) != NULL) {}
    /* Once nobody was busy all begin alike: by arrival. */
    push(q, &e[31], 3);
    push(q, &e[0], 3);
    assert_true(late->vtime == busy->vtime);
    assert_ptr_equal(pop(q, 3), &e[31]);
    empty(q);
}

/* Who filled every place has been charged for what is still to come: a newcomer does not begin there. */
static void test_newcomer_beside_a_flood(void **state)
{
    (void)state;
    ag_queue *q = open_queue(plain());
    ag_tenant *flood = tenant(q, "flood", 1), *new = tenant(q, "new", 1);
    ag_qent e[12];
    for (int i = 0; i < 12; i++) e[i] = entry(i < 11 ? flood : new, 2, 100);
    for (int i = 0; i < 11; i++) push(q, &e[i], 0);
    for (int i = 0; i < 10; i++) {
        ag_qent *x = pop(q, 0);
        ag_queue_running(q, x->tenant, 1);
        ag_queue_charge(q, x->tenant, 100);
        ag_queue_ahead(q, x->tenant, 100);
    }
    ag_queue_ahead(q, flood, -200); /* so much has come */
    push(q, &e[11], 1);
    assert_true(new->vtime == 200 && flood->vtime == 1000);
    assert_ptr_equal(pop(q, 1), &e[11]);
    ag_queue_ahead(q, flood, -800);
    ag_queue_running(q, flood, -10);
    empty(q);
}

/* Whoever is set back ran until now, and was not idle: it keeps its place in the order. */
static void test_set_back_is_not_idle(void **state)
{
    (void)state;
    ag_queue *q = open_queue(plain());
    ag_tenant *low = tenant(q, "low", 1), *high = tenant(q, "high", 1);
    ag_qent mine = entry(low, 2, 100), others[2] = {entry(high, 2, 100), entry(high, 2, 100)};
    push(q, &mine, 0);
    push(q, &others[0], 0);
    assert_ptr_equal(pop(q, 0), &mine);
    ag_queue_running(q, low, 1);
    ag_queue_charge(q, low, 100);
    ag_queue_charge(q, high, 5000);
    mine.resumed = true;
    ag_queue_running(q, low, -1);
    push(q, &mine, 1);
    assert_true(low->vtime == 100);
    assert_ptr_equal(pop(q, 1), &mine);
    empty(q);
}

static void test_extreme_weights(void **state)
{
    (void)state;
    ag_queue *q = open_queue(plain());
    ag_tenant *t[2] = {tenant(q, "ant", 1e-6), tenant(q, "elephant", 1e6)};
    ag_queue_charge(q, t[0], (int64_t)AG_QUEUE_COST_MAX); /* virtual time is far along */
    ag_qent ant[4], e[400];
    for (int i = 0; i < 4; i++) ant[i] = entry(t[0], 2, 1);
    push(q, &ant[0], 0);
    for (int i = 0; i < 400; i++) {
        e[i] = entry(t[1], 2, 1);
        push(q, &e[i], 0);
    }
    uint64_t elephants = 0;
    double before = t[1]->vtime;
    for (int i = 0; i < 301; i++) { /* begins where the ant is, then a million millions for one */
        ag_qent *x = pop(q, 0);
        elephants += x->tenant == t[1];
        ag_queue_charge(q, x->tenant, 1);
    }
    assert_true(elephants >= 300);
    assert_true(t[1]->vtime >= before);
    empty(q);

    q = open_queue(plain());
    assert_true(tenant(q, "none", 0)->weight == AG_TENANT_WEIGHT_MIN);
    assert_true(tenant(q, "none", -5)->weight == AG_TENANT_WEIGHT_MIN);
    assert_true(tenant(q, "none", NAN)->weight == AG_TENANT_WEIGHT_MIN);
    assert_true(tenant(q, "none", INFINITY)->weight == AG_TENANT_WEIGHT_MAX);
    ag_tenant *big = tenant(q, "big", AG_TENANT_WEIGHT_MIN), *small = tenant(q, "small", AG_TENANT_WEIGHT_MIN);
    for (int i = 0; i < 1000; i++) { /* 2^50 units at the smallest weight are no trouble */
        ag_queue_charge(q, big, INT64_MAX);
        ag_queue_charge(q, small, (int64_t)AG_QUEUE_COST_MAX);
    }
    ag_queue_charge(q, small, 1);
    ag_qent one = entry(small, 2, UINT64_MAX), two = entry(big, 2, UINT64_MAX);
    ag_queue_running(q, big, 1); /* so that both are measured by the same */
    push(q, &one, 0);
    push(q, &two, 0);
    assert_int_equal(one.cost, AG_QUEUE_COST_MAX);
    assert_ptr_equal(pop(q, 0), &two);
    ag_queue_running(q, big, -1);
    empty(q);
}

/* Tables are hashed with a random key; nobody can tell. */
static void test_order_is_the_calls(void **state)
{
    (void)state;
    enum { N = 600 };
    uint32_t orders[2][N];
    for (int run = 0; run < 2; run++) {
        ag_queue *q = open_queue(plain());
        ag_qent *e = calloc(N, sizeof *e);
        for (uint32_t i = 0; i < N; i++) {
            char name[16];
            snprintf(name, sizeof name, "tenant %u", (i * 7919) % 97);
            e[i] = entry(tenant(q, name, 1 + i % 3), (uint8_t)(i % 4), i % 50);
            push(q, &e[i], i);
            if (i % 5 == 0) ag_queue_charge(q, e[i].tenant, i % 11);
        }
        for (uint32_t i = 0; i < N; i++) {
            ag_qent *x = pop(q, N);
            orders[run][i] = (uint32_t)(x - e);
            ag_queue_charge(q, x->tenant, (int64_t)x->cost);
        }
        ag_queue_close(q);
        free(e);
    }
    assert_memory_equal(orders[0], orders[1], sizeof orders[0]);
}

/* --- ageing ------------------------------------------------------------------------------------------------------- */

static void test_ageing(void **state)
{
    (void)state;
    ag_queue_conf conf = plain();
    conf.age_us = 100;
    ag_queue *q = open_queue(conf);
    ag_tenant *t = tenant(q, "a", 1);
    ag_qent old = entry(t, 3, 10), new = entry(t, 2, 10), last = entry(t, 1, 10);
    push(q, &old, 1000);
    push(q, &new, 1050);
    assert_ptr_equal(ag_queue_head(q, 1099), &new);
    assert_ptr_equal(ag_queue_head(q, 1100), &old);
    assert_int_equal(old.level, 2);
    push(q, &last, 1260); /* who was due twice meanwhile has risen twice */
    assert_int_equal(old.level, 1);
    assert_int_equal(new.level, 0);
    assert_ptr_equal(pop(q, 1299), &new);
    assert_ptr_equal(ag_queue_head(q, 1299), &old);
    assert_int_equal(old.level, 1);
    assert_int_equal(old.band, 3); /* as asked for */
    assert_ptr_equal(ag_queue_head(q, 1349), &old); /* new rose from this level at 1250 */
    assert_int_equal(old.level, 1);
    assert_ptr_equal(ag_queue_head(q, 1350), &old);
    assert_int_equal(old.level, 0);
    assert_ptr_equal(ag_queue_head(q, UINT64_MAX), &old);
    empty(q);
}

/* However many urgent ones come, each lower band is served now and then, and in time everybody. */
static void test_nobody_starves(void **state)
{
    (void)state;
    enum { N = 3000, PATIENT = 5 };
    ag_queue_conf conf = plain();
    conf.age_us = 100;
    ag_queue *q = open_queue(conf);
    ag_tenant *urgent = tenant(q, "urgent", 1), *patient = tenant(q, "patient", 1);
    ag_qent *e = calloc(N, sizeof *e), p[PATIENT];
    for (uint32_t i = 0; i < PATIENT; i++) {
        p[i] = entry(patient, 3, 10);
        push(q, &p[i], 0);
    }
    uint64_t served[PATIENT] = {0};
    for (uint32_t i = 0; i < N; i++) { /* as many come as can be served */
        e[i] = entry(urgent, 0, 10);
        push(q, &e[i], i);
        ag_qent *x = pop(q, i);
        ag_queue_charge(q, x->tenant, (int64_t)x->cost);
        if (x->tenant == patient) served[x - p] = i;
    }
    for (uint32_t i = 0; i < PATIENT; i++) assert_in_range(served[i], 300 + 100 * i, 310 + 100 * i);
    empty(q);
    free(e);
}

/* A flood has all the places, and its answers are so long that nobody is taken: that makes it no more urgent than who
 * comes to it. Nor is it in the way of another who starves. */
static void test_a_flood_that_is_served_does_not_rise(void **state)
{
    (void)state;
    ag_queue_conf conf = plain();
    conf.age_us = 100;
    ag_queue *q = open_queue(conf);
    ag_tenant *flood = tenant(q, "flood", 1), *other = tenant(q, "other", 1);
    ag_qent f[3], o = entry(other, 2, 10);
    for (uint32_t i = 0; i < 3; i++) {
        f[i] = entry(flood, 2, 10);
        push(q, &f[i], 0);
    }
    for (uint64_t t = 0; t < 1000; t += 10) {
        assert_non_null(ag_queue_head(q, t));
        ag_queue_served(q, flood, 2, t);
        if (t == 500) push(q, &o, t);
        for (uint32_t i = 0; i < 3; i++) assert_int_equal(f[i].level, 2);
        assert_int_equal(o.level, t < 600 ? t < 500 ? 0 : 2 : t < 700 ? 1 : 0);
    }
    assert_ptr_equal(pop(q, 1000), &o);
    ag_queue_served(q, flood, 0, 1000); /* what it gets at another band is no reason */
    assert_ptr_equal(ag_queue_head(q, 1089), &f[0]);
    assert_int_equal(f[0].level, 2);
    assert_ptr_equal(ag_queue_head(q, 1090), &f[0]);
    assert_int_equal(f[0].level, 1);
    empty(q);
}

/* Each tenant that is new begins before those who had something already: these have their turn all the same. */
static void new_tenants_without_end(uint8_t band)
{
    enum { N = 500 };
    ag_queue_conf conf = plain();
    conf.age_us = 100;
    ag_queue *q = open_queue(conf);
    ag_tenant *old = tenant(q, "old", 1);
    ag_qent one = entry(old, band, 10), *e = calloc(N, sizeof *e);
    e[0] = entry(tenant(q, "0", 1), band, 10);
    push(q, &e[0], 0);
    ag_queue_charge(q, old, 10);
    push(q, &one, 0);
    uint32_t i = 1;
    for (const ag_qent *x = NULL; x != &one; i++) {
        assert_true(i < N);
        char name[16];
        snprintf(name, sizeof name, "%u", i);
        e[i] = entry(tenant(q, name, 1), band, 10);
        push(q, &e[i], i * 10);
        x = ag_queue_head(q, i * 10);
        ag_queue_take(q, ag_queue_head(q, i * 10), i * 10);
        ag_queue_charge(q, x->tenant, 10);
    }
    assert_in_range(i, 40, 42);
    empty(q);
    free(e);
}

static void test_new_tenants_without_end(void **state)
{
    (void)state;
    for (uint8_t band = 0; band < AG_BANDS; band++) new_tenants_without_end(band);
}

/* Answers that take long are no reason to begin anew: nobody passed the one who waits. */
static void test_who_was_not_passed_begins_not_anew(void **state)
{
    (void)state;
    ag_queue_conf conf = plain();
    conf.age_us = 100;
    ag_queue *q = open_queue(conf);
    ag_tenant *flood = tenant(q, "flood", 1), *late = tenant(q, "late", 1);
    ag_qent first = entry(flood, 0, 10), second = entry(flood, 0, 10), one = entry(late, 0, 10);
    push(q, &first, 0);
    push(q, &second, 0);
    ag_queue_running(q, flood, 1);
    ag_queue_take(q, &first, 1);
    push(q, &one, 10);
    ag_queue_charge(q, flood, 10);
    assert_ptr_equal(ag_queue_head(q, 2000), &one);
    ag_queue_running(q, flood, -1); /* a long answer is over */
    assert_ptr_equal(ag_queue_head(q, 4000), &one);
    assert_true(flood->vtime > late->vtime);
    ag_queue_take(q, &one, 4000);
    ag_queue_charge(q, late, 10);
    assert_ptr_equal(ag_queue_head(q, 4000), &second);
    empty(q);
}

/* A band that is served does not rise, however long its backlog waits: else a flood would pass by its age those of
 * other tenants who come later, and those who are urgent. */
static void test_a_flood_does_not_rise(void **state)
{
    (void)state;
    enum { N = 500 };
    ag_queue_conf conf = plain();
    conf.age_us = 100;
    ag_queue *q = open_queue(conf);
    ag_tenant *flood = tenant(q, "flood", 1), *late = tenant(q, "late", 1);
    ag_qent *e = calloc(N, sizeof *e), one = entry(late, 2, 10);
    for (uint32_t i = 0; i < N; i++) {
        e[i] = entry(flood, 2, 10);
        push(q, &e[i], 0);
    }
    for (uint32_t i = 0; i < N / 2; i++) {
        ag_qent *x = ag_queue_head(q, i);
        assert_int_equal(x->level, 2);
        ag_queue_take(q, x, i);
        ag_queue_charge(q, flood, 10);
    }
    push(q, &one, N / 2);
    ag_queue_charge(q, flood, 10);
    assert_ptr_equal(ag_queue_head(q, N / 2), &one);
    empty(q);
    free(e);
}

static void test_time_runs_backwards(void **state)
{
    (void)state;
    ag_queue_conf conf = plain();
    conf.age_us = 100;
    ag_queue *q = open_queue(conf);
    ag_tenant *t = tenant(q, "a", 1);
    ag_qent e[3] = {entry(t, 3, 1), entry(t, 3, 1), entry(t, 3, 1)};
    e[1].deadline_us = UINT64_MAX;
    push(q, &e[0], UINT64_MAX - 50);
    push(q, &e[1], 0);
    assert_int_equal(e[1].arrive_us, UINT64_MAX - 50);
    push(q, &e[2], UINT64_MAX); /* when the first might rise is no time any more */
    ag_queue_verify(q);
    assert_int_equal(e[0].level, 3);
    assert_ptr_equal(ag_queue_expired(q, UINT64_MAX), &e[1]);
    assert_null(ag_queue_expired(q, UINT64_MAX));
    empty(q);
}

/* --- deadlines ---------------------------------------------------------------------------------------------------- */

static void test_expiry(void **state)
{
    (void)state;
    ag_queue *q = open_queue(plain());
    ag_tenant *t = tenant(q, "a", 1);
    ag_qent e[4];
    for (int i = 0; i < 4; i++) e[i] = entry(t, 2, 1);
    e[0].deadline_us = 300;
    e[1].deadline_us = 100;
    e[2].deadline_us = 200;
    assert_int_equal(ag_queue_deadline(q), UINT64_MAX);
    for (int i = 0; i < 4; i++) push(q, &e[i], 0);
    assert_int_equal(ag_queue_deadline(q), 100);
    assert_null(ag_queue_expired(q, 99));
    assert_ptr_equal(ag_queue_expired(q, 250), &e[1]);
    assert_false(e[1].queued);
    assert_ptr_equal(ag_queue_expired(q, 250), &e[2]);
    assert_null(ag_queue_expired(q, 250));
    ag_queue_deadline_set(q, &e[3], 260);
    ag_queue_deadline_set(q, &e[0], 0);
    assert_int_equal(ag_queue_deadline(q), 260);
    assert_ptr_equal(ag_queue_expired(q, 260), &e[3]);
    assert_null(ag_queue_expired(q, UINT64_MAX));
    empty(q);
}

/* --- tenants ------------------------------------------------------------------------------------------------------ */

static void test_tenants_are_forgotten(void **state)
{
    (void)state;
    ag_queue_conf conf = plain();
    conf.tenants_max = 3;
    ag_queue *q = open_queue(conf);
    ag_tenant *waits = tenant(q, "waits", 1), *held = tenant(q, "held", 1), *idle = tenant(q, "idle", 1);
    ag_qent e = entry(waits, 2, 1);
    push(q, &e, 0);
    ag_queue_hold(q, held);
    ag_queue_learn(q, idle, 10, 100);
    ag_queue_learn(q, held, 10, 100);
    assert_ptr_equal(tenant(q, "idle", 1), idle);
    tenant(q, "other", 1); /* the idle one is forgotten for it */
    assert_true(tenant(q, "idle", 1)->output_mean == 0);
    assert_ptr_equal(tenant(q, "waits", 1), waits);
    assert_ptr_equal(tenant(q, "held", 1), held);
    ag_queue_stats s;
    ag_queue_stats_get(q, &s);
    assert_int_equal(s.tenants, 3);
    ag_queue_release(q, held);
    tenant(q, "x", 1);
    tenant(q, "y", 1);
    assert_true(tenant(q, "held", 1)->output_mean == 0);
    ag_queue_running(q, tenant(q, "runs", 1), 1);
    for (char name[2] = "A"; name[0] <= 'Z'; name[0]++) ag_queue_hold(q, tenant(q, name, 1)); /* who is here stays */
    ag_queue_verify(q);
    ag_queue_stats_get(q, &s);
    assert_int_equal(s.tenants, 28);
    ag_queue_running(q, tenant(q, "runs", 1), -1);
    char longest[AG_TENANT_NAME_MAX + 1];
    memset(longest, 'n', AG_TENANT_NAME_MAX);
    longest[AG_TENANT_NAME_MAX] = 0;
    assert_string_equal(tenant(q, longest, 1)->name, longest);
    assert_string_equal(tenant(q, "", 1)->name, "");
    empty(q);
}

static void test_expectations(void **state)
{
    (void)state;
    ag_queue *q = open_queue(plain());
    ag_tenant *a = tenant(q, "a", 1), *b = tenant(q, "b", 1);
    assert_int_equal(ag_queue_expect(q, a, 50), 50);
    assert_in_range(ag_queue_expect(q, a, 1000000), 1, 1000);
    for (int i = 0; i < 100; i++) ag_queue_learn(q, a, 300, 1000);
    assert_int_equal(ag_queue_expect(q, a, 1000), 300);
    assert_int_equal(ag_queue_expect(q, b, 1000), 300); /* of others, before it has answers of its own */
    for (int i = 0; i < 100; i++) ag_queue_learn(q, b, 20, 1000);
    assert_in_range(ag_queue_expect(q, b, 1000), 20, 21);
    assert_int_equal(ag_queue_expect(q, a, 1000), 300);
    assert_int_equal(ag_queue_expect(q, a, 0), 0);
    for (int i = 0; i < 100; i++) ag_queue_learn(q, b, i, i); /* they end where they are told to */
    assert_int_equal(ag_queue_expect(q, b, 1000), 1000);
    assert_int_equal(ag_queue_expect(q, b, 7), 7);
    assert_int_equal(ag_queue_service(q, 100, 10), 140);
    assert_int_equal(ag_queue_service(q, UINT64_MAX, UINT64_MAX), AG_QUEUE_COST_MAX);
    ag_queue_close(q);
}

/* --- no memory ---------------------------------------------------------------------------------------------------- */

static void test_no_memory(void **state)
{
    (void)state;
#ifdef AG_FAULTS
    enum { N = 200 };
    for (uint32_t n = 1;; n++) {
        ag_queue *q = NULL;
        ag_qent e[N] = {{0}}, *out;
        uint32_t failed = 0, pushed = 0;
        ag_queue_conf conf = plain();
        ag_fault_arm(AG_FAULT_ALLOC, n);
        failed += ag_queue_open(&q, &conf, NULL) == AG_E_NOMEM;
        for (uint32_t i = 0; q != NULL && i < N; i++) {
            char name[16];
            snprintf(name, sizeof name, "t%u", i);
            ag_tenant *t = ag_queue_tenant(q, ag_str_of(name), 1);
            failed += t == NULL;
            if (t == NULL) continue;
            e[i] = entry(t, (uint8_t)(i % 4), i);
            e[i].deadline_us = i + 1;
            int rc = ag_queue_push(q, &e[i], 0, &out, NULL);
            assert_true(rc == AG_OK || rc == AG_E_NOMEM);
            failed += rc == AG_E_NOMEM;
            pushed += rc == AG_OK;
        }
        bool fired = ag_fault_disarm(AG_FAULT_ALLOC);
        assert_int_equal(failed, fired ? 1 : 0);
        if (q != NULL) {
            ag_queue_stats s;
            ag_queue_stats_get(q, &s);
            assert_int_equal(s.entries, pushed);
            empty(q);
        }
        if (!fired) break;
    }
    /* Everybody who ran can be set back without any. */
    ag_queue *q = open_queue(plain());
    ag_qent e[2 * N], *out;
    ag_tenant *t = tenant(q, "t", 1);
    for (uint32_t i = 0; i < 2 * N; i++) {
        e[i] = entry(t, 2, 1);
        e[i].deadline_us = 5;
        if (i == N)
            for (uint32_t k = 0; k < N; k++) {
                pop(q, 0);
                ag_queue_running(q, t, 1);
            }
        push(q, &e[i], 0);
    }
    ag_fault_arm(AG_FAULT_ALLOC, 1);
    for (uint32_t i = 0; i < N; i++) {
        e[i].resumed = true;
        ag_queue_running(q, t, -1);
        assert_int_equal(ag_queue_push(q, &e[i], 0, &out, NULL), AG_OK);
    }
    assert_false(ag_fault_disarm(AG_FAULT_ALLOC));
    empty(q);
#endif
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_order), cmocka_unit_test(test_who_has_no_deadline_has_its_turn),
        cmocka_unit_test(test_set_back_goes_first), cmocka_unit_test(test_move), cmocka_unit_test(test_move_keeps_age),
        cmocka_unit_test(test_equal_shares), cmocka_unit_test(test_weights), cmocka_unit_test(test_charged_ahead),
        cmocka_unit_test(test_another_weight),
        cmocka_unit_test(test_idleness), cmocka_unit_test(test_newcomer_beside_a_flood),
        cmocka_unit_test(test_set_back_is_not_idle), cmocka_unit_test(test_extreme_weights),
        cmocka_unit_test(test_order_is_the_calls), cmocka_unit_test(test_ageing),
        cmocka_unit_test(test_a_flood_does_not_rise), cmocka_unit_test(test_new_tenants_without_end),
        cmocka_unit_test(test_who_was_not_passed_begins_not_anew),
        cmocka_unit_test(test_nobody_starves),
        cmocka_unit_test(test_a_flood_that_is_served_does_not_rise),
        cmocka_unit_test(test_time_runs_backwards),
        cmocka_unit_test(test_expiry), cmocka_unit_test(test_tenants_are_forgotten),
        cmocka_unit_test(test_expectations), cmocka_unit_test(test_no_memory)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
