/* hash.h - XXH3, for telling bytes apart and finding damage; never against an attacker (those hashes are libsodium's).
 * Owns, limits, errors: none; any thread. Its code is in the header: no library to load, and the state can live on the
 * stack. */
#ifndef AG_HASH_H
#define AG_HASH_H

#define XXH_INLINE_ALL
#include <xxhash.h>

#endif
