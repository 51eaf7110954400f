/* kv_type.h - the numbers that the KV cache is made of.
 * Owns nothing; any thread; head sizes are checked where a cache is opened; no errors.
 * In a page of 64 tokens a KV head has keys [block of 16 tokens][dim][16] and values [token][dim]. */
#ifndef AG_KV_TYPE_H
#define AG_KV_TYPE_H

#include "base/base.h"

typedef enum ag_kv_type { AG_KV_F16, AG_KV_F32 } ag_kv_type;

ag_kv_type ag_kv_type_of(const char *name);          /* of the setting; f16 where it is unknown */
size_t ag_kv_head_bytes(ag_kv_type t, uint32_t dim); /* of the keys, or of the values, of one KV head in a page */

#endif
