#include "check.h"

#include "keys/bucket.h"

#define SECOND 1000000ull
#define MINUTE (60 * SECOND)

static bool take(ag_bucket *b, const ag_rate *r, uint64_t now_us)
{
    ag_bucket_pass(b, r, now_us);
    if (ag_bucket_wait_us(b, r, 1)) return false;
    ag_bucket_draw(b, r, 1);
    return true;
}

/* Twice as many come as are let in, evenly, in bursts, or with pauses that would be rounded away in milliseconds. */
static void a_minute_at_10000_a_second_is_exact_to_one_percent(void **state)
{
    (void)state;
    static const uint64_t gaps_us[] = {50, 7, 33, 1, 97};
    for (size_t g = 0; g < AG_ARRAY_LEN(gaps_us); g++) {
        ag_rate r = {10000, SECOND, 5000};
        ag_bucket b = {0};
        uint64_t let_in = 0, now = 12345;
        for (uint64_t end = now + MINUTE; now < end; now += gaps_us[g]) let_in += take(&b, &r, now);
        double off = (double)let_in / 600000 - 1;
        if (off < -0.0001 || off > 0.01)
            fail_msg("%llu in a minute, every %llu us", (unsigned long long)let_in, (unsigned long long)gaps_us[g]);
    }
}

static void nothing_is_rounded_away(void **state)
{
    (void)state;
    ag_rate r = {7, MINUTE, 1}; /* 8,571,428.57 us apart */
    ag_bucket b = {0};
    uint64_t let_in = 0;
    for (uint64_t now = 1; now <= 100 * MINUTE; now += 1000) let_in += take(&b, &r, now);
    assert_int_equal(let_in, 700);
}

static void waiting_as_long_as_said_is_enough_and_no_less(void **state)
{
    (void)state;
    ag_rate r = {3, SECOND, 2};
    ag_bucket b = {0};
    uint64_t now = 5;
    assert_true(take(&b, &r, now) && take(&b, &r, now) && !take(&b, &r, now));
    for (int i = 0; i < 100; i++) {
        uint64_t wait = ag_bucket_wait_us(&b, &r, 1);
        assert_true(wait > 0 && wait <= 333334);
        assert_false(take(&b, &r, now + wait - 1));
        now += wait;
        assert_true(take(&b, &r, now));
    }
}

static void a_debt_is_paid_back(void **state)
{
    (void)state;
    ag_rate r = {60, MINUTE, 60};
    ag_bucket b = {0};
    ag_bucket_pass(&b, &r, SECOND);
    ag_bucket_draw(&b, &r, 100); /* 40 more than there were */
    assert_int_equal(ag_bucket_left(&b, &r), 0);
    assert_int_equal(ag_bucket_wait_us(&b, &r, 1), 41 * SECOND);
    assert_int_equal(ag_bucket_wait_us(&b, &r, 1000), 100 * SECOND); /* never fits: until it is full */
    ag_bucket_pass(&b, &r, 42 * SECOND);
    assert_int_equal(ag_bucket_left(&b, &r), 1);
    ag_bucket_pass(&b, &r, 3 * SECOND); /* back in time: nothing */
    assert_int_equal(ag_bucket_left(&b, &r), 1);
    ag_bucket_give_back(&b, &r, 1000);
    assert_int_equal(ag_bucket_left(&b, &r), 60);
    ag_bucket_draw(&b, &r, 60);
    ag_bucket_pass(&b, &r, 1ull << 62); /* and no more than full after ages */
    assert_int_equal(ag_bucket_left(&b, &r), 60);
}

static void the_largest_numbers_fit(void **state)
{
    (void)state;
    ag_rate r = {1ull << 60, MINUTE, 1ull << 60};
    ag_bucket b = {0};
    ag_bucket_pass(&b, &r, 1);
    for (int i = 0; i < 16; i++) ag_bucket_draw(&b, &r, 1ull << 60);
    assert_int_equal(ag_bucket_wait_us(&b, &r, 1ull << 60), 16 * MINUTE);
    ag_bucket_pass(&b, &r, 16 * MINUTE + 1);
    assert_int_equal(ag_bucket_left(&b, &r), 1ull << 60);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_minute_at_10000_a_second_is_exact_to_one_percent),
        cmocka_unit_test(nothing_is_rounded_away),
        cmocka_unit_test(waiting_as_long_as_said_is_enough_and_no_less),
        cmocka_unit_test(a_debt_is_paid_back),
        cmocka_unit_test(the_largest_numbers_fit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
