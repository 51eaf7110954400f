/* Answers as bytes in Redis: they come back as they went, and nothing else comes back. */
#include "check.h"

#include <stdlib.h>

#include "base/fault.h"
#include "gateway/tier_value.h"

static const uint8_t secret[AG_TIER_SECRET_BYTES] = {1, 2, 3};
static const ag_cache_key key = {{7, 8, 9}};
static const ag_cache_meta meta = {1000, 2000, 3000, {5, 0, 1ull << 63}, 77};
static ag_tier_packer *packer;
static ag_tier_unpacker *unpacker;
static ag_buf buf;

static int setup(void **state)
{
    (void)state;
    assert_int_equal(ag_tier_packer_open(&packer, secret), AG_OK);
    assert_int_equal(ag_tier_unpacker_open(&unpacker, secret), AG_OK);
    ag_buf_init(&buf, 2 * AG_TIER_PACKED_MAX);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    ag_tier_packer_close(packer);
    ag_tier_unpacker_close(unpacker);
    ag_buf_fini(&buf);
    return 0;
}

/* noise: no two bytes tell of each other. */
static ag_cache_value *value_of(size_t n, bool noise)
{
    ag_cache_value *v;
    uint64_t x = 88172645463325252ull;
    assert_int_equal(ag_cache_value_make(&v, n), AG_OK);
    for (size_t i = 0; i < n; i++) {
        x ^= x << 13, x ^= x >> 7, x ^= x << 17;
        ag_cache_value_bytes(v)[i] = noise ? (uint8_t)x : (uint8_t)"tell me "[i % 8];
    }
    return v;
}

static int unpack(const char *p, size_t n, ag_cache_value **out, ag_cache_meta *m)
{
    char *exact = malloc(n ? n : 1); /* so that a byte too far is seen */
    memcpy(exact, p, n);
    int rc = ag_tier_unpack(unpacker, &key, exact, n, out, m);
    free(exact);
    return rc;
}

static void refused(const char *p, size_t n)
{
    ag_cache_value *v = NULL;
    ag_cache_meta m;
    assert_int_equal(unpack(p, n, &v, &m), AG_E_PARAM);
    assert_null(v);
}

static void what_went_comes_back(void **state)
{
    (void)state;
    static const size_t sizes[] = {0, 1, 255, 256, 257, 100000, AG_TIER_VALUE_MAX};
    for (size_t i = 0; i < 2 * AG_ARRAY_LEN(sizes); i++) {
        size_t n = sizes[i / 2], before = buf.n;
        bool noise = i % 2;
        ag_cache_value *v = value_of(n, noise), *again;
        ag_cache_meta m;
        assert_int_equal(ag_tier_pack(packer, &buf, &key, v, &meta), AG_OK);
        size_t packed = buf.n - before;
        assert_true(packed <= AG_TIER_HEAD_BYTES + n);
        if (!noise && n >= 256) assert_true(packed < AG_TIER_HEAD_BYTES + n / 2);
        assert_int_equal(unpack(buf.p + before, packed, &again, &m), AG_OK);
        assert_int_equal(ag_cache_value_size(again), n);
        assert_memory_equal(ag_cache_value_bytes(again), ag_cache_value_bytes(v), n);
        assert_int_equal(m.made_ms, 1000);
        assert_int_equal(m.fresh_until_ms, 2000);
        assert_int_equal(m.stale_until_ms, 3000);
        assert_memory_equal(m.labels, meta.labels, sizeof m.labels);
        assert_int_equal(m.hits, 0);
        ag_cache_value_drop(v);
        ag_cache_value_drop(again);
        if (n > 1000) ag_buf_reset(&buf);
    }
}

static void no_bit_may_be_another(void **state)
{
    (void)state;
    for (int noise = 0; noise < 2; noise++) {
        ag_cache_value *v = value_of(300, noise);
        ag_buf_reset(&buf);
        assert_int_equal(ag_tier_pack(packer, &buf, &key, v, &meta), AG_OK);
        ag_cache_value_drop(v);
        for (size_t bit = 0; bit < 8 * buf.n; bit++) {
            buf.p[bit / 8] ^= (char)(1 << bit % 8);
            refused(buf.p, buf.n);
            buf.p[bit / 8] ^= (char)(1 << bit % 8);
        }
        for (size_t n = 0; n < buf.n; n++) refused(buf.p, n);
        assert_true(ag_buf_addc(&buf, 0));
        refused(buf.p, buf.n);
    }
}

static void another_name_or_secret_is_foreign(void **state)
{
    (void)state;
    ag_cache_value *v = value_of(300, false), *again;
    ag_cache_meta m;
    ag_cache_key other = key;
    uint8_t others[AG_TIER_SECRET_BYTES] = {1, 2, 4};
    ag_tier_unpacker *u;
    assert_int_equal(ag_tier_pack(packer, &buf, &key, v, &meta), AG_OK);
    other.b[31] ^= 1;
    assert_int_equal(ag_tier_unpack(unpacker, &other, buf.p, buf.n, &again, &m), AG_E_PARAM);
    assert_int_equal(ag_tier_unpacker_open(&u, others), AG_OK);
    assert_int_equal(ag_tier_unpack(u, &key, buf.p, buf.n, &again, &m), AG_E_PARAM);
    ag_tier_unpacker_close(u);
    /* Times that cannot be are not taken even from one of us. */
    ag_cache_meta odd = meta;
    odd.stale_until_ms = 1500;
    ag_buf_reset(&buf);
    assert_int_equal(ag_tier_pack(packer, &buf, &key, v, &odd), AG_OK);
    refused(buf.p, buf.n);
    ag_cache_value_drop(v);
}

static void what_is_too_large_is_not_packed(void **state)
{
    (void)state;
    ag_cache_value *v = value_of(AG_TIER_VALUE_MAX + 1, true);
    assert_int_equal(ag_tier_pack(packer, &buf, &key, v, &meta), AG_E_LIMIT);
    assert_int_equal(buf.n, 0);
    ag_cache_value_drop(v);
    v = value_of(1000, true);
    ag_buf small;
    ag_buf_init(&small, AG_TIER_HEAD_BYTES + 1500);
    assert_int_equal(ag_tier_pack(packer, &small, &key, v, &meta), AG_OK);
    size_t n = small.n;
    assert_int_equal(ag_tier_pack(packer, &small, &key, v, &meta), AG_E_LIMIT);
    assert_true(small.n == n && !small.failed);
    ag_buf_fini(&small);
    ag_cache_value_drop(v);
}

static void no_memory(void **state)
{
    (void)state;
#ifdef AG_FAULTS
    bool fired = true;
    ag_cache_value *v = value_of(1000, false);
    for (uint32_t n = 1; fired; n++) {
        ag_tier_packer *p = NULL;
        ag_tier_unpacker *u = NULL;
        ag_cache_value *again = NULL;
        ag_cache_meta m;
        ag_buf b;
        ag_buf_init(&b, AG_TIER_PACKED_MAX);
        ag_fault_arm(AG_FAULT_ALLOC, n);
        int rc = ag_tier_packer_open(&p, secret);
        if (rc == AG_OK) rc = ag_tier_unpacker_open(&u, secret);
        if (rc == AG_OK) rc = ag_tier_pack(p, &b, &key, v, &meta);
        if (rc == AG_OK) rc = ag_tier_unpack(u, &key, b.p, b.n, &again, &m);
        fired = ag_fault_disarm(AG_FAULT_ALLOC);
        assert_int_equal(rc, fired ? AG_E_NOMEM : AG_OK);
        ag_cache_value_drop(again);
        ag_tier_packer_close(p);
        ag_tier_unpacker_close(u);
        ag_buf_fini(&b);
    }
    ag_cache_value_drop(v);
#endif
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(what_went_comes_back, setup, teardown),
        cmocka_unit_test_setup_teardown(no_bit_may_be_another, setup, teardown),
        cmocka_unit_test_setup_teardown(another_name_or_secret_is_foreign, setup, teardown),
        cmocka_unit_test_setup_teardown(what_is_too_large_is_not_packed, setup, teardown),
        cmocka_unit_test(no_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
