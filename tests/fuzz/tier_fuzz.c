/* What a Redis may hold under our names: bytes that somebody else wrote, such as one who has the secret but errs (the
 * first byte 's': they are sealed before they are read), and what others say was purged ('p'). */
#include <stdlib.h>

#include "gateway/tier_purges.h"
#include "gateway/tier_value.c"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static const uint8_t secret[AG_TIER_SECRET_BYTES] = {1};
static const ag_cache_key key = {{2}};

static void values(uint8_t *p, size_t n, bool seal)
{
    ag_tier_packer *pack = NULL;
    ag_tier_unpacker *unpack = NULL;
    ag_cache_value *v, *again;
    ag_cache_meta m, same;
    AG_ASSERT(ag_tier_packer_open(&pack, secret) == AG_OK && ag_tier_unpacker_open(&unpack, secret) == AG_OK);
    if (seal && n >= AG_TIER_HEAD_BYTES) seal_of(p + AT_SEAL, unpack->key, &key, p, n);
    if (ag_tier_unpack(unpack, &key, (const char *)p, n, &v, &m) == AG_OK) {
        ag_buf b;
        ag_buf_init(&b, AG_TIER_PACKED_MAX);
        AG_ASSERT(seal && ag_cache_value_size(v) <= AG_TIER_VALUE_MAX);
        AG_ASSERT(ag_tier_pack(pack, &b, &key, v, &m) == AG_OK);
        AG_ASSERT(ag_tier_unpack(unpack, &key, b.p, b.n, &again, &same) == AG_OK);
        AG_ASSERT(m.made_ms == same.made_ms && m.fresh_until_ms == same.fresh_until_ms);
        AG_ASSERT(m.stale_until_ms == same.stale_until_ms && memcmp(m.labels, same.labels, sizeof m.labels) == 0);
        AG_ASSERT(ag_cache_value_size(v) == ag_cache_value_size(again));
        AG_ASSERT(memcmp(ag_cache_value_bytes(v), ag_cache_value_bytes(again), ag_cache_value_size(v)) == 0);
        ag_cache_value_drop(again);
        ag_cache_value_drop(v);
        ag_buf_fini(&b);
    } else {
        AG_ASSERT(v == NULL);
    }
    ag_tier_packer_close(pack);
    ag_tier_unpacker_close(unpack);
}

static void purges(const uint8_t *p, size_t n)
{
    enum { NOW = 2000000, KEEP = 1000000 };
    static ag_tier_purge_words words[AG_TIER_PURGES_MAX + 1];
    ag_tier_purges *t;
    AG_ASSERT(ag_tier_purges_open(&t) == AG_OK);
    (void)ag_tier_purges_read(t, (ag_str){(const char *)p, n}, NOW, KEEP, NULL, NULL);
    ag_cache_meta m = {.made_ms = NOW + AG_TIER_PURGE_AHEAD_MS + 1, .labels = {1}};
    AG_ASSERT(!ag_tier_purges_hold(t, &key, &m));
    (void)ag_tier_purges_read(t, AG_STR(""), NOW, KEEP, NULL, NULL);
    uint32_t known = ag_tier_purges_untold(t, words, AG_ARRAY_LEN(words));
    for (uint32_t i = 0; i < known; i++) AG_ASSERT(words[i].name[0] && words[i].ms[0]);
    ag_tier_purges_close(t);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    if (n == 0) return 0;
    uint8_t *exact = malloc(n - 1 ? n - 1 : 1); /* so that a byte too far is seen */
    AG_ASSERT(exact != NULL);
    memcpy(exact, data + 1, n - 1);
    if (data[0] == 'p') purges(exact, n - 1);
    else values(exact, n - 1, data[0] == 's');
    free(exact);
    return 0;
}
