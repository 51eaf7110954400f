/* kv_type.h - the numbers that the KV cache is made of.
 * Owns nothing; any thread; head sizes are checked where a cache is opened; no errors.
 * In a page of 64 tokens a KV head has keys [block of 16 tokens][dim][16] and values [token][dim]. As q8_0 each 32
 * numbers of a token are bytes and an f16 scale: keys [block of 16 tokens][dim / 4][16][4], 128 added, then their
 * scales [block of 16 tokens][dim / 32][16]; values [token][dim], then their scales [token][dim / 32]. */
#ifndef AG_KV_TYPE_H
#define AG_KV_TYPE_H

#include "base/base.h"

typedef enum ag_kv_type { AG_KV_F16, AG_KV_Q8_0, AG_KV_F32 } ag_kv_type;

ag_kv_type ag_kv_type_of(const char *name);          /* of the setting; f16 where it is unknown */
size_t ag_kv_head_bytes(ag_kv_type t, uint32_t dim); /* of the keys, or of the values, of one KV head in a page */
bool ag_kv_fits(ag_kv_type t, uint32_t dim);         /* heads of this size can be kept so */

#endif
