/* tier_value.h - a cached answer as bytes in a Redis that others write to as well: what comes back is taken only when
 * its seal, under a key that the servers share, says that one of them wrote it, under this name.
 * Layout  : version (1 byte), flags (1: the answer is packed by zstd), labels that there is room for, 0; the answer's
 *           length (4 bytes); made, fresh until, stale until (ms, 8 bytes each); the labels (8 bytes each); the seal
 *           (16 bytes of keyed BLAKE2b over the name, all before, and all behind); the answer. Little-endian.
 * Owns    : a packer and an unpacker own zstd's state and nothing of a value.
 * Threads : each belongs to one at a time.
 * Limits  : AG_TIER_VALUE_MAX bytes of an answer, checked before memory is asked for.
 * Errors  : AG_E_PARAM (not ours, or damaged), AG_E_LIMIT, AG_E_NOMEM. */
#ifndef AG_TIER_VALUE_H
#define AG_TIER_VALUE_H

#include "base/buf.h"
#include "cache/cache.h"

#define AG_TIER_VALUE_MAX (4u << 20)
#define AG_TIER_SECRET_BYTES 32
#define AG_TIER_SEAL_BYTES 16
#define AG_TIER_HEAD_BYTES (32 + AG_CACHE_LABELS_MAX * 8 + AG_TIER_SEAL_BYTES)
/* Nothing that a packer makes is longer. */
#define AG_TIER_PACKED_MAX (AG_TIER_HEAD_BYTES + AG_TIER_VALUE_MAX)

typedef struct ag_tier_packer ag_tier_packer;
typedef struct ag_tier_unpacker ag_tier_unpacker;

int ag_tier_packer_open(ag_tier_packer **out, const uint8_t secret[AG_TIER_SECRET_BYTES]);
void ag_tier_packer_close(ag_tier_packer *p); /* NULL is fine */
/* Behind what `out` holds, whose ceiling is the caller's; what did not fit is taken back. */
int ag_tier_pack(ag_tier_packer *p, ag_buf *out, const ag_cache_key *k, ag_cache_value *v, const ag_cache_meta *m);

int ag_tier_unpacker_open(ag_tier_unpacker **out, const uint8_t secret[AG_TIER_SECRET_BYTES]);
void ag_tier_unpacker_close(ag_tier_unpacker *u); /* NULL is fine */
int ag_tier_unpack(ag_tier_unpacker *u, const ag_cache_key *k, const char *p, size_t n, ag_cache_value **out,
                   ag_cache_meta *m);

#endif
