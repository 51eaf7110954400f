#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <pthread.h>
#include <stdio.h>

#include "gateway/ids.h"

static void use(ag_req *r, void *arg) { *(ag_req **)arg = r; }

static ag_req *find(ag_ids *t, const char *tenant, const char *id)
{
    ag_req *r = NULL;
    bool found = ag_ids_use(t, tenant, id, use, &r);
    assert_true(found == (r != NULL));
    return r;
}

/* Requests are only passed on here. */
static ag_req *req(uintptr_t n) { return (ag_req *)n; }

static void each_finds_its_own(void **state)
{
    (void)state;
    ag_ids *t = NULL;
    assert_int_equal(ag_ids_open(&t), AG_OK);
    ag_ids_link a = {req(1), "gold", "x", NULL, NULL}, b = {req(2), "free", "x", NULL, NULL},
                c = {req(3), "gold", "y", NULL, NULL}, again = {req(4), "gold", "x", NULL, NULL};
    ag_ids_add(t, &a);
    ag_ids_add(t, &b);
    ag_ids_add(t, &c);
    assert_ptr_equal(find(t, "gold", "x"), req(1));
    assert_ptr_equal(find(t, "free", "x"), req(2));
    assert_ptr_equal(find(t, "free", "y"), NULL);
    assert_ptr_equal(find(t, "gold", "z"), NULL);
    ag_ids_add(t, &again);
    assert_ptr_equal(find(t, "gold", "x"), req(4));
    ag_ids_remove(t, &b);
    ag_ids_remove(t, &again);
    ag_ids_remove(t, &again);
    assert_ptr_equal(find(t, "gold", "x"), req(1));
    assert_ptr_equal(find(t, "free", "x"), NULL);
    ag_ids_remove(t, &a);
    ag_ids_remove(t, &c);
    assert_ptr_equal(find(t, "gold", "x"), NULL);
    ag_ids_close(t);
    ag_ids_close(NULL);
}

enum { THREADS = 4, ROUNDS = 200, EACH = 100 };
static ag_ids *table;

static void *churn(void *arg)
{
    static const char *const tenants[THREADS] = {"a", "b", "c", "d"};
    uintptr_t me = (uintptr_t)arg;
    static _Thread_local ag_ids_link links[EACH];
    static _Thread_local char ids[EACH][16];
    for (int round = 0; round < ROUNDS; round++) {
        for (int i = 0; i < EACH; i++) {
            snprintf(ids[i], sizeof ids[i], "%d", i);
            links[i] = (ag_ids_link){req(me * EACH + (uintptr_t)i + 1), tenants[me], ids[i], NULL, NULL};
            ag_ids_add(table, &links[i]);
        }
        for (int i = 0; i < EACH; i++) {
            ag_req *r = NULL;
            if (!ag_ids_use(table, tenants[me], ids[i], use, &r) || r != links[i].r) return arg;
            ag_ids_remove(table, &links[i]);
        }
    }
    return NULL;
}

static void loops_do_not_meet(void **state)
{
    (void)state;
    assert_int_equal(ag_ids_open(&table), AG_OK);
    pthread_t t[THREADS];
    bool ok = true;
    for (uintptr_t i = 0; i < THREADS; i++) assert_int_equal(pthread_create(&t[i], NULL, churn, (void *)i), 0);
    for (int i = 0; i < THREADS; i++) {
        void *bad = &ok;
        pthread_join(t[i], &bad);
        ok = ok && bad == NULL;
    }
    assert_true(ok);
    ag_ids_close(table); /* asserts that it is empty */
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(each_finds_its_own), cmocka_unit_test(loops_do_not_meet)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
