#include "cache/key.h"

/* A field is its type, its length in bytes, and its bytes; numbers are little-endian. */
static void field(ag_cache_hash *h, uint8_t type, const void *p, uint64_t n)
{
    uint8_t head[9] = {type};
    for (unsigned i = 0; i < 8; i++) head[1 + i] = (uint8_t)(n >> 8 * i);
    crypto_generichash_update(&h->state, head, sizeof head);
    if (n) crypto_generichash_update(&h->state, p, n);
}

void ag_cache_hash_begin(ag_cache_hash *h, const uint8_t secret[32])
{
    int rc = crypto_generichash_init(&h->state, secret, 32, AG_CACHE_KEY_BYTES);
    AG_ASSERT(rc == 0);
}

void ag_cache_hash_str(ag_cache_hash *h, ag_str s) { field(h, 's', s.p, s.n); }

void ag_cache_hash_u64(ag_cache_hash *h, uint64_t x)
{
    uint8_t b[8];
    for (unsigned i = 0; i < 8; i++) b[i] = (uint8_t)(x >> 8 * i);
    field(h, 'u', b, sizeof b);
}

void ag_cache_hash_f32(ag_cache_hash *h, float x)
{
    AG_ASSERT(x == x);
    if (x == 0) x = 0; /* of two zeros, the one */
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    uint8_t b[4];
    for (unsigned i = 0; i < 4; i++) b[i] = (uint8_t)(bits >> 8 * i);
    field(h, 'f', b, sizeof b);
}

void ag_cache_hash_i32s(ag_cache_hash *h, const int32_t *x, uint32_t n)
{
    _Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the array is hashed as it lies");
    field(h, 'i', x, (uint64_t)n * sizeof *x);
}

void ag_cache_hash_end(ag_cache_hash *h, ag_cache_key *out)
{
    int rc = crypto_generichash_final(&h->state, out->b, sizeof out->b);
    AG_ASSERT(rc == 0);
    sodium_memzero(h, sizeof *h);
}

uint64_t ag_cache_label(const char *kind, ag_str name)
{
    static const uint8_t open_secret[32] = "labels are the same everywhere";
    ag_cache_hash h;
    ag_cache_key k;
    ag_cache_hash_begin(&h, open_secret);
    ag_cache_hash_str(&h, ag_str_of(kind));
    ag_cache_hash_str(&h, name);
    ag_cache_hash_end(&h, &k);
    uint64_t label;
    memcpy(&label, k.b, sizeof label);
    return label ? label : 1;
}

uint64_t ag_cache_jitter(uint64_t ttl_ms, uint32_t percent, const ag_cache_key *k)
{
    uint32_t draw;
    memcpy(&draw, k->b + AG_CACHE_KEY_BYTES - sizeof draw, sizeof draw); /* bytes that place no entry */
    unsigned __int128 most = (unsigned __int128)ttl_ms * AG_MIN(percent, 100u) / 100;
    return ttl_ms - (uint64_t)(most * draw >> 32);
}
