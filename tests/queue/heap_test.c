#include "queue/heap.h"

#include "base/fault.h"
#include "check.h"

enum { N = 200 };

typedef struct thing { uint32_t pad, handle; ag__u128 key; } thing;

static uint32_t roll(uint64_t *state, uint32_t n)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(*state >> 33) % n;
}

static void test_against_scanning(void **state)
{
    (void)state;
    ag__heap h = {.handle_at = offsetof(thing, handle)};
    thing *all = calloc(N, sizeof *all);
    uint64_t random = 3;
    uint32_t in = 0;
    for (uint32_t i = 0; i < 30000; i++) {
        thing *x = &all[roll(&random, N)];
        uint32_t what = roll(&random, i / 3000 % 2 ? 3 : 5); /* it grows, and then it shrinks */
        if (what == 0 || (what == 1 && x->handle)) {
            in -= x->handle != 0;
            ag__heap_remove(&h, x);
            assert_int_equal(x->handle, 0);
        } else {
            in += x->handle == 0;
            assert_true(ag__heap_reserve(&h, in));
            x->key = (ag__u128)roll(&random, 50) << 64 | roll(&random, 4);
            ag__heap_set(&h, x, x->key);
            assert_ptr_equal(ag__heap_find(&h, x->handle)->thing, x);
        }
        ag__heap_verify(&h);
        assert_int_equal(h.n, in);
        const ag__heap_slot *first = ag__heap_first(&h);
        assert_int_equal(first == NULL, in == 0);
        for (uint32_t k = 0; k < N; k++) assert_true(!all[k].handle || all[k].key >= ag__heap_key(first));
    }
    ag__heap_free(&h);
    free(all);
}

static void test_no_memory(void **state)
{
    (void)state;
#ifdef AG_FAULTS
    for (uint32_t n = 1;; n++) {
        ag__heap h = {.handle_at = offsetof(thing, handle)};
        thing x[40] = {{0}};
        uint32_t failed = 0;
        ag_fault_arm(AG_FAULT_ALLOC, n);
        for (uint32_t i = 0; i < 40; i++) {
            if (!ag__heap_reserve(&h, h.n + 1)) failed++; /* what is in stays in */
            else ag__heap_set(&h, &x[i], 40 - i);
            ag__heap_verify(&h);
        }
        bool fired = ag_fault_disarm(AG_FAULT_ALLOC);
        assert_int_equal(failed, fired);
        assert_int_equal(h.n, 40 - failed);
        ag__heap_free(&h);
        if (!fired) break;
    }
#endif
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_against_scanning), cmocka_unit_test(test_no_memory)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
