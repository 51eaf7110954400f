/* The wheel against a scan of everything, under random adds, removals and jumps of the clock. AG_SEED=n repeats a
 * run. */
#include "cache_check.h"

enum { ENTRIES = 400 };

typedef struct scene {
    ag__wheel w;
    ag__entry e[ENTRIES];
    uint64_t rounded[ENTRIES]; /* 0: not in */
    uint64_t now, dice;
} scene;

static uint64_t far_as(scene *s)
{
    unsigned bits = (unsigned)(next_random(&s->dice) % 44);
    return next_random(&s->dice) & (((uint64_t)1 << bits) - 1);
}

static void add(scene *s, unsigned i, uint64_t until)
{
    s->e[i].stale_until_ms = until;
    s->rounded[i] = ag__wheel_round(&s->w, until);
    assert_true(s->rounded[i] >= AG_MIN(until, s->w.at_ms + AG__WHEEL_REACH_MS));
    if (until > s->w.at_ms && until - s->w.at_ms <= AG__WHEEL_REACH_MS)
        assert_true(s->rounded[i] - until <= (until - s->w.at_ms) / 15);
    ag__wheel_add(&s->w, &s->e[i]);
}

static void first_is_first(const scene *s)
{
    const ag__entry *first = ag__wheel_first(&s->w);
    uint64_t least = UINT64_MAX;
    for (unsigned i = 0; i < ENTRIES; i++)
        if (s->rounded[i] != 0) least = AG_MIN(least, s->rounded[i]);
    assert_int_equal(first == NULL, least == UINT64_MAX);
    if (first) assert_int_equal(s->rounded[first - s->e], least);
}

static void all_that_are_due_come(scene *s)
{
    ag__entry *e;
    while ((e = ag__wheel_due(&s->w, s->now)) != NULL) {
        assert_true(e->stale_until_ms <= s->now && s->rounded[e - s->e] != 0);
        ag__wheel_remove(&s->w, e);
        s->rounded[e - s->e] = 0;
    }
    assert_int_equal(s->w.at_ms, s->now);
    for (unsigned i = 0; i < ENTRIES; i++) {
        if (s->rounded[i] == 0) continue;
        if (s->rounded[i] <= s->now) { /* it lay beyond the wheel's reach, and was put back */
            assert_true(s->e[i].stale_until_ms > s->now);
            s->rounded[i] = 0;
            ag__wheel_remove(&s->w, &s->e[i]);
        }
        assert_true(s->rounded[i] == 0 || s->rounded[i] > s->now);
    }
}

static void agrees_with_a_scan(void **state)
{
    (void)state;
    const char *seed = getenv("AG_SEED");
    scene *s = ag_mem_zalloc(sizeof *s);
    assert_non_null(s);
    s->dice = seed ? strtoull(seed, NULL, 10) : 1;
    s->now = NOW;
    all_that_are_due_come(s);
    for (int turn = 0; turn < 60000; turn++) {
        unsigned i = (unsigned)(next_random(&s->dice) % ENTRIES);
        if (s->rounded[i] == 0) {
            add(s, i, s->now + far_as(s) - next_random(&s->dice) % 3);
        } else if (turn % 2) {
            ag__wheel_remove(&s->w, &s->e[i]);
            s->rounded[i] = 0;
        }
        if (turn % 16 == 0) {
            s->now += far_as(s) >> (turn % 1024 ? 20 : 4);
            all_that_are_due_come(s);
        }
        first_is_first(s);
    }
    s->now += UINT64_MAX / 2;
    all_that_are_due_come(s);
    assert_null(ag__wheel_first(&s->w));
    ag_mem_free(s);
}

static void a_clock_that_runs_back_loses_nobody(void **state)
{
    (void)state;
    scene *s = ag_mem_zalloc(sizeof *s);
    assert_non_null(s);
    s->now = NOW;
    all_that_are_due_come(s);
    assert_null(ag__wheel_due(&s->w, NOW - DAY_MS));
    assert_int_equal(s->w.at_ms, NOW);
    add(s, 0, NOW - DAY_MS / 2);
    add(s, 1, NOW + 5);
    assert_null(ag__wheel_due(&s->w, NOW - DAY_MS));
    assert_ptr_equal(ag__wheel_due(&s->w, NOW + 1), &s->e[0]);
    ag__wheel_remove(&s->w, &s->e[0]);
    assert_ptr_equal(ag__wheel_due(&s->w, NOW + 5), &s->e[1]);
    ag_mem_free(s);
}

static void what_never_ends_goes_round(void **state)
{
    (void)state;
    scene *s = ag_mem_zalloc(sizeof *s);
    assert_non_null(s);
    s->now = NOW;
    all_that_are_due_come(s);
    add(s, 0, UINT64_MAX);
    for (int i = 0; i < 5; i++) {
        s->now += AG__WHEEL_REACH_MS * 5 / 4;
        assert_null(ag__wheel_due(&s->w, s->now));
        assert_ptr_equal(ag__wheel_first(&s->w), &s->e[0]);
        assert_int_equal(s->w.at_ms, s->now);
    }
    ag_mem_free(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(agrees_with_a_scan),
        cmocka_unit_test(a_clock_that_runs_back_loses_nobody),
        cmocka_unit_test(what_never_ends_goes_round),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
