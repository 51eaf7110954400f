/* Keys tell requests apart: whatever two different sequences of fields are made of, they never meet by
 * concatenation. */
#include "cache/key.h"

#include "cache_check.h"

static const uint8_t secret[32] = "a secret of this test";

enum { FIELDS = 6, BYTES = 24 };

typedef struct field {
    char type; /* s, u, f, i */
    uint8_t n; /* bytes of s, numbers of i */
    union {
        char s[BYTES];
        uint64_t u;
        float f;
        int32_t i[BYTES / 4];
    } v;
} field_t;

static void tell_field(ag_cache_hash *h, const field_t *f)
{
    switch (f->type) {
    case 's': ag_cache_hash_str(h, (ag_str){f->v.s, f->n}); break;
    case 'u': ag_cache_hash_u64(h, f->v.u); break;
    case 'f': ag_cache_hash_f32(h, f->v.f); break;
    default: ag_cache_hash_i32s(h, f->v.i, f->n);
    }
}

static ag_cache_key hashed(const field_t *f, unsigned n)
{
    ag_cache_hash h;
    ag_cache_key k;
    ag_cache_hash_begin(&h, secret);
    for (unsigned i = 0; i < n; i++) tell_field(&h, &f[i]);
    ag_cache_hash_end(&h, &k);
    return k;
}

static bool same(ag_cache_key a, ag_cache_key b) { return memcmp(a.b, b.b, sizeof a.b) == 0; }

static size_t bytes_of(const field_t *f)
{
    return f->type == 's' ? f->n : f->type == 'f' ? 4 : f->type == 'u' ? 8 : 4u * f->n;
}

/* Few values, so that sequences are alike, and share their bytes, as often as they can. */
static field_t drawn(uint64_t *dice)
{
    field_t f = {.type = "sufi"[next_random(dice) % 4]};
    f.n = (uint8_t)(next_random(dice) % (f.type == 's' ? BYTES : BYTES / 4));
    memset(&f.v, (int)(next_random(dice) % 2), bytes_of(&f));
    return f;
}

static bool fields_same(const field_t *a, unsigned n, const field_t *b, unsigned m)
{
    if (n != m) return false;
    for (unsigned i = 0; i < n; i++)
        if (a[i].type != b[i].type || bytes_of(&a[i]) != bytes_of(&b[i]) ||
            memcmp(&a[i].v, &b[i].v, bytes_of(&a[i])) != 0)
            return false;
    return true;
}

/* The same bytes, cut into fields elsewhere. */
static unsigned cut_anew(const field_t *f, unsigned n, field_t *out, uint64_t *dice)
{
    char all[FIELDS * BYTES];
    size_t bytes = 0, at = 0;
    for (unsigned i = 0; i < n; i++) {
        memcpy(all + bytes, &f[i].v, bytes_of(&f[i]));
        bytes += bytes_of(&f[i]);
    }
    unsigned made = 0;
    while (made < FIELDS && (at < bytes || made == 0)) {
        field_t one = drawn(dice);
        size_t left = bytes - at;
        if (bytes_of(&one) > left) one = (field_t){.type = 's', .n = (uint8_t)AG_MIN(left, (size_t)BYTES)};
        memcpy(&one.v, all + at, bytes_of(&one));
        at += bytes_of(&one);
        out[made++] = one;
    }
    return made;
}

static void sequences_meet_only_if_they_are_the_same(void **state)
{
    (void)state;
    uint64_t dice = 3;
    unsigned alike = 0, different = 0;
    for (int turn = 0; turn < 100000; turn++) {
        field_t a[FIELDS] = {0}, b[FIELDS] = {0};
        unsigned n = (unsigned)(next_random(&dice) % FIELDS), m;
        for (unsigned i = 0; i < n; i++) a[i] = drawn(&dice);
        switch (turn % 4) {
        case 0: m = cut_anew(a, n, b, &dice); break;
        case 1: /* one field more, or an order of its own */
            memcpy(b, a, sizeof a);
            m = n;
            if (n > 1) b[0] = a[n - 1], b[n - 1] = a[0];
            else b[m++] = drawn(&dice);
            break;
        case 2: /* one byte of one field */
            memcpy(b, a, sizeof a);
            if ((m = n) > 0) b[next_random(&dice) % n] = drawn(&dice);
            break;
        default:
            memcpy(b, a, sizeof a);
            m = n;
        }
        bool equal = fields_same(a, n, b, m);
        assert_int_equal(same(hashed(a, n), hashed(b, m)), equal);
        alike += equal;
        different += !equal;
    }
    assert_true(alike > 10000 && different > 10000);
}

static void by_hand(void **state)
{
    (void)state;
    const int32_t one = 1;
    const field_t ab[] = {{.type = 's', .n = 1, .v.s = "a"}, {.type = 's', .n = 1, .v.s = "b"}};
    const field_t whole[] = {{.type = 's', .n = 2, .v.s = "ab"}};
    const field_t empty[] = {{.type = 's', .n = 0}}, none[] = {{.type = 'i', .n = 0}};
    const field_t number[] = {{.type = 'u', .v.u = 1}}, tokens[] = {{.type = 'i', .n = 1, .v.i = {one}}};
    const field_t text[] = {{.type = 's', .n = 8, .v.s = "\1"}};
    assert_false(same(hashed(ab, 2), hashed(whole, 1)));
    assert_false(same(hashed(empty, 1), hashed(NULL, 0)));
    assert_false(same(hashed(empty, 1), hashed(none, 1)));
    assert_false(same(hashed(number, 1), hashed(text, 1)));
    assert_false(same(hashed(number, 1), hashed(tokens, 1)));
    const field_t zero[] = {{.type = 'f', .v.f = 0.0f}}, minus[] = {{.type = 'f', .v.f = -0.0f}};
    const field_t tiny[] = {{.type = 'f', .v.f = 1e-45f}};
    assert_true(same(hashed(zero, 1), hashed(minus, 1)));
    assert_false(same(hashed(zero, 1), hashed(tiny, 1)));
    ag_cache_hash h;
    ag_cache_key k;
    const uint8_t other[32] = "another secret of this test";
    ag_cache_hash_begin(&h, other);
    ag_cache_hash_u64(&h, 1);
    ag_cache_hash_end(&h, &k);
    assert_false(same(hashed(number, 1), k));
}

static void labels_are_the_same_everywhere_and_never_0(void **state)
{
    (void)state;
    uint64_t model = ag_cache_label("model", AG_STR("glm-4"));
    assert_int_equal(model, ag_cache_label("model", AG_STR("glm-4")));
    assert_int_equal(model, 0xb28b2947ca8fff84ull);
    assert_int_not_equal(model, ag_cache_label("tenant", AG_STR("glm-4")));
    assert_int_not_equal(model, ag_cache_label("model", AG_STR("glm-4.5")));
    assert_int_not_equal(ag_cache_label("tag", AG_STR("")), 0);
    assert_int_not_equal(ag_cache_label("mode", AG_STR("lglm-4")), model);
}

static void jitter_shortens_and_spreads(void **state)
{
    (void)state;
    uint64_t sum = 0, least = UINT64_MAX, most = 0;
    for (uint64_t i = 0; i < 10000; i++) {
        ag_cache_key k = key_of(i);
        uint64_t ttl = ag_cache_jitter(1000000, 10, &k);
        assert_int_equal(ttl, ag_cache_jitter(1000000, 10, &k));
        assert_in_range(ttl, 900000, 1000000);
        sum += ttl;
        least = AG_MIN(least, ttl);
        most = AG_MAX(most, ttl);
        assert_int_equal(ag_cache_jitter(1000000, 0, &k), 1000000);
        assert_int_equal(ag_cache_jitter(0, 100, &k), 0);
        assert_true(ag_cache_jitter(UINT64_MAX, 1000, &k) > 0);
    }
    assert_in_range(sum / 10000, 948000, 952000);
    assert_true(least < 901000 && most > 999000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sequences_meet_only_if_they_are_the_same),
        cmocka_unit_test(by_hand),
        cmocka_unit_test(labels_are_the_same_everywhere_and_never_0),
        cmocka_unit_test(jitter_shortens_and_spreads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
