#include "gateway/tier_value.h"

#include <sodium.h>
#include <zstd.h>

#include "base/fault.h"
#include "base/mem.h"

#define VERSION 1
#define PACKED 1
#define LEVEL 1
#define PACK_BYTES_MIN 256 /* less is not worth the try */
#define AT_LABELS 32
#define AT_SEAL (AT_LABELS + AG_CACHE_LABELS_MAX * 8)

struct ag_tier_packer {
    uint8_t key[AG_TIER_SECRET_BYTES];
    ZSTD_CCtx *zstd;
};

struct ag_tier_unpacker {
    uint8_t key[AG_TIER_SECRET_BYTES];
    ZSTD_DCtx *zstd;
};

static void put_number(uint8_t *at, uint64_t x, int bytes)
{
    for (int i = 0; i < bytes; i++) at[i] = (uint8_t)(x >> (8 * i));
}

static uint64_t number_at(const uint8_t *at, int bytes)
{
    uint64_t x = 0;
    for (int i = 0; i < bytes; i++) x |= (uint64_t)at[i] << (8 * i);
    return x;
}

/* The secret has other uses; this one has a key of its own. */
static void key_of(uint8_t key[AG_TIER_SECRET_BYTES], const uint8_t secret[AG_TIER_SECRET_BYTES])
{
    static const uint8_t use[] = "autoglm cache tier";
    crypto_generichash(key, AG_TIER_SECRET_BYTES, use, sizeof use, secret, AG_TIER_SECRET_BYTES);
}

static void seal_of(uint8_t seal[AG_TIER_SEAL_BYTES], const uint8_t key[AG_TIER_SECRET_BYTES], const ag_cache_key *k,
                    const uint8_t *p, size_t n)
{
    crypto_generichash_state s;
    crypto_generichash_init(&s, key, AG_TIER_SECRET_BYTES, AG_TIER_SEAL_BYTES);
    crypto_generichash_update(&s, k->b, sizeof k->b);
    crypto_generichash_update(&s, p, AT_SEAL);
    crypto_generichash_update(&s, p + AG_TIER_HEAD_BYTES, n - AG_TIER_HEAD_BYTES);
    crypto_generichash_final(&s, seal, AG_TIER_SEAL_BYTES);
}

/* Writing. */

int ag_tier_packer_open(ag_tier_packer **out, const uint8_t secret[AG_TIER_SECRET_BYTES])
{
    ag_tier_packer *p = ag_mem_zalloc(sizeof *p);
    if (p == NULL) return AG_E_NOMEM;
    key_of(p->key, secret);
    p->zstd = ag_fault_hit(AG_FAULT_ALLOC) ? NULL : ZSTD_createCCtx();
    if (p->zstd == NULL) {
        ag_tier_packer_close(p);
        return AG_E_NOMEM;
    }
    *out = p;
    return AG_OK;
}

void ag_tier_packer_close(ag_tier_packer *p)
{
    if (p == NULL) return;
    ZSTD_freeCCtx(p->zstd);
    sodium_memzero(p->key, sizeof p->key);
    ag_mem_free(p);
}

int ag_tier_pack(ag_tier_packer *p, ag_buf *out, const ag_cache_key *k, ag_cache_value *v, const ag_cache_meta *m)
{
    const uint8_t *bytes = ag_cache_value_bytes(v);
    size_t n = ag_cache_value_size(v), body = n;
    if (n > AG_TIER_VALUE_MAX) return AG_E_LIMIT;
    if (!ag_buf_room(out, AG_TIER_HEAD_BYTES + n)) {
        bool full = out->n + AG_TIER_HEAD_BYTES + n > out->max;
        out->failed = false;
        return full ? AG_E_LIMIT : AG_E_NOMEM;
    }
    uint8_t *head = (uint8_t *)out->p + out->n, *to = head + AG_TIER_HEAD_BYTES;
    /* Where it does not shrink there is no room for it, which is an error of zstd's. */
    size_t packed = n < PACK_BYTES_MIN ? n : ZSTD_compressCCtx(p->zstd, to, n - 1, bytes, n, LEVEL);
    bool shrinks = n >= PACK_BYTES_MIN && !ZSTD_isError(packed);
    if (shrinks) body = packed;
    else memcpy(to, bytes, n);
    head[0] = VERSION;
    head[1] = shrinks ? PACKED : 0;
    head[2] = AG_CACHE_LABELS_MAX;
    head[3] = 0;
    put_number(head + 4, n, 4);
    put_number(head + 8, m->made_ms, 8);
    put_number(head + 16, m->fresh_until_ms, 8);
    put_number(head + 24, m->stale_until_ms, 8);
    for (uint32_t i = 0; i < AG_CACHE_LABELS_MAX; i++) put_number(head + AT_LABELS + 8 * i, m->labels[i], 8);
    seal_of(head + AT_SEAL, p->key, k, head, AG_TIER_HEAD_BYTES + body);
    out->n += AG_TIER_HEAD_BYTES + body;
    return AG_OK;
}

/* Reading. */

int ag_tier_unpacker_open(ag_tier_unpacker **out, const uint8_t secret[AG_TIER_SECRET_BYTES])
{
    ag_tier_unpacker *u = ag_mem_zalloc(sizeof *u);
    if (u == NULL) return AG_E_NOMEM;
    key_of(u->key, secret);
    u->zstd = ag_fault_hit(AG_FAULT_ALLOC) ? NULL : ZSTD_createDCtx();
    if (u->zstd == NULL) {
        ag_tier_unpacker_close(u);
        return AG_E_NOMEM;
    }
    *out = u;
    return AG_OK;
}

void ag_tier_unpacker_close(ag_tier_unpacker *u)
{
    if (u == NULL) return;
    ZSTD_freeDCtx(u->zstd);
    sodium_memzero(u->key, sizeof u->key);
    ag_mem_free(u);
}

static bool sealed(const ag_tier_unpacker *u, const ag_cache_key *k, const uint8_t *p, size_t n)
{
    uint8_t seal[AG_TIER_SEAL_BYTES];
    seal_of(seal, u->key, k, p, n);
    return sodium_memcmp(seal, p + AT_SEAL, sizeof seal) == 0;
}

int ag_tier_unpack(ag_tier_unpacker *u, const ag_cache_key *k, const char *text, size_t n, ag_cache_value **out,
                   ag_cache_meta *m)
{
    const uint8_t *p = (const uint8_t *)text;
    *out = NULL;
    if (n < AG_TIER_HEAD_BYTES || p[0] != VERSION || p[1] > PACKED || p[2] != AG_CACHE_LABELS_MAX || p[3] != 0)
        return AG_E_PARAM;
    size_t size = number_at(p + 4, 4), body = n - AG_TIER_HEAD_BYTES;
    if (size > AG_TIER_VALUE_MAX || (p[1] == 0 && size != body) || !sealed(u, k, p, n)) return AG_E_PARAM;
    *m = (ag_cache_meta){.made_ms = number_at(p + 8, 8),
                         .fresh_until_ms = number_at(p + 16, 8),
                         .stale_until_ms = number_at(p + 24, 8)};
    for (uint32_t i = 0; i < AG_CACHE_LABELS_MAX; i++) m->labels[i] = number_at(p + AT_LABELS + 8 * i, 8);
    if (m->fresh_until_ms < m->made_ms || m->stale_until_ms < m->fresh_until_ms) return AG_E_PARAM;
    ag_cache_value *v;
    int rc = ag_cache_value_make(&v, size);
    if (rc != AG_OK) return rc;
    const uint8_t *from = p + AG_TIER_HEAD_BYTES;
    if (p[1] == 0) {
        if (size) memcpy(ag_cache_value_bytes(v), from, size);
    } else if (ZSTD_decompressDCtx(u->zstd, ag_cache_value_bytes(v), size, from, body) != size) {
        ag_cache_value_drop(v);
        return AG_E_PARAM;
    }
    *out = v;
    return AG_OK;
}
