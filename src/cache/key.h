/* key.h - what a request is, told field by field and hashed with keyed BLAKE2b-256: the cache's key. Each field is
 * hashed with its type and its length, so that no two sequences of fields are the same bytes.
 * Owns    : nothing; the state is the caller's, usually on the stack, from begin to end.
 * Threads : a state belongs to one.
 * Limits  : none; a call hashes all that it is given, some 1 GB/s.
 * Errors  : none; a NaN is asserted away. */
#ifndef AG_CACHE_KEY_H
#define AG_CACHE_KEY_H

#include <sodium.h>

#include "cache/cache.h"

typedef struct ag_cache_hash {
    crypto_generichash_state state;
} ag_cache_hash;

void ag_cache_hash_begin(ag_cache_hash *h, const uint8_t secret[32]);
void ag_cache_hash_str(ag_cache_hash *h, ag_str s);
void ag_cache_hash_u64(ag_cache_hash *h, uint64_t x);
void ag_cache_hash_f32(ag_cache_hash *h, float x); /* -0 as 0 */
void ag_cache_hash_i32s(ag_cache_hash *h, const int32_t *x, uint32_t n);
void ag_cache_hash_end(ag_cache_hash *h, ag_cache_key *out); /* the state is cleared */

/* What purges name: the kind ("model", "tenant", "tag") and a name. The same in every process, never 0. */
uint64_t ag_cache_label(const char *kind, ag_str name);

/* A time to live, shortened by up to so many hundredths (100 at most), by how much the key says: what was made
 * together does not run out together, and servers that share a key agree. */
uint64_t ag_cache_jitter(uint64_t ttl_ms, uint32_t percent, const ag_cache_key *k);

#endif
