/* cache_check.h - what the tests of the cache share: keys, values and times of a number. It includes cache.c, so that a
 * test can see who is in without asking for it, which would make it popular. */
#ifndef AG_CACHE_CHECK_H
#define AG_CACHE_CHECK_H

#include "cache/cache.c"

#include "base/fault.h"
#include "check.h"

#define DAY_MS 86400000ull
#define NOW 1800000000000ull

static const char *const every_policy[] = {
#define AG_CACHE_POLICY(word, open, add, hit, victim, remove, what) word,
#include "cache/policies.def"
#undef AG_CACHE_POLICY
};

static inline uint64_t next_random(uint64_t *state) { return ag_mix64((*state)++); }

static inline ag_cache_key key_of(uint64_t n)
{
    ag_cache_key k;
    for (unsigned i = 0; i < 4; i++) {
        uint64_t w = ag_mix64(4 * n + i);
        memcpy(k.b + 8 * i, &w, 8);
    }
    return k;
}

static inline ag_cache *opened(const char *policy, uint64_t bytes, uint32_t shards)
{
    ag_cache *c;
    ag_err err = {0};
    if (ag_cache_open(&c, &(ag_cache_conf){policy, bytes, shards}, &err) != AG_OK) fail_msg("%s", err.text);
    return c;
}

/* A value of n bytes that says whose it is. */
static inline ag_cache_value *value_of(uint64_t number, size_t n)
{
    ag_cache_value *v;
    assert_int_equal(ag_cache_value_make(&v, n), AG_OK);
    memset(ag_cache_value_bytes(v), (int)(number & 0xff), n);
    return v;
}

static inline int put_at(ag_cache *c, uint64_t number, size_t n, uint64_t now, ag_cache_meta meta)
{
    ag_cache_key k = key_of(number);
    ag_cache_value *v = value_of(number, n);
    int rc = ag_cache_put(c, &k, v, &meta, now);
    ag_cache_value_drop(v);
    return rc;
}

static inline void put(ag_cache *c, uint64_t number, size_t n)
{
    ag_cache_meta meta = {.made_ms = NOW, .fresh_until_ms = NOW + DAY_MS, .stale_until_ms = NOW + DAY_MS};
    assert_int_equal(put_at(c, number, n, NOW, meta), AG_OK);
}

static inline ag_cache_found get_at(ag_cache *c, uint64_t number, uint64_t now)
{
    ag_cache_key k = key_of(number);
    ag_cache_value *v;
    ag_cache_found found = ag_cache_get(c, &k, now, &v, NULL);
    assert_true((found == AG_CACHE_MISS) == (v == NULL));
    if (v && ag_cache_value_size(v)) assert_int_equal(ag_cache_value_bytes(v)[0], number & 0xff);
    ag_cache_value_drop(v);
    return found;
}

static inline ag_cache_found get(ag_cache *c, uint64_t number) { return get_at(c, number, NOW); }

static inline bool is_in(ag_cache *c, uint64_t number)
{
    ag_cache_key k = key_of(number);
    return find(shard_of(c, &k), &k) != NULL;
}

static inline ag_cache_stats stats_of(ag_cache *c)
{
    ag_cache_stats s;
    ag_cache_stats_get(c, &s);
    return s;
}

/* Puts 0, 1, 2 and so on until the next one would not fit; how many are in. */
static inline uint64_t filled(ag_cache *c, size_t n)
{
    uint64_t i = 0, before = stats_of(c).bytes, each = 0;
    do {
        put(c, i++, n);
        each = stats_of(c).bytes - before;
        before = stats_of(c).bytes;
    } while (before + each <= stats_of(c).bytes_max);
    assert_int_equal(stats_of(c).evicted, 0);
    return i;
}

#endif
