/* tier_purges.h - what was purged, and when: an answer that was made until then is none, wherever it lies. Servers tell
 * each other through Redis (tier.lua, purges); what is lost there is told again.
 * Owns    : the table.
 * Threads : any, all calls; a lock is held for a search in at most AG_TIER_PURGES_MAX names.
 * Limits  : AG_TIER_PURGES_MAX names; when there are more the older half becomes one purge of all that was made until
 *           then, so that nothing purged comes back, and some of what was not is computed again.
 * Errors  : AG_E_NOMEM from open only. */
#ifndef AG_TIER_PURGES_H
#define AG_TIER_PURGES_H

#include "cache/cache.h"

#define AG_TIER_PURGES_MAX 1024
#define AG_TIER_PURGE_NAME_MAX (1 + 2 * AG_CACHE_KEY_BYTES)
#define AG_TIER_PURGE_AHEAD_MS 3600000u /* that another clock may be ahead; what lies further is no time of ours */

typedef struct ag_tier_purges ag_tier_purges;
typedef void ag_tier_purged_fn(void *arg, const ag_cache_key *k, uint64_t label); /* NULL and 0: all */

typedef struct ag_tier_purge_words { /* as Redis knows it */
    char name[AG_TIER_PURGE_NAME_MAX + 1], ms[21];
} ag_tier_purge_words;

int ag_tier_purges_open(ag_tier_purges **out);
void ag_tier_purges_close(ag_tier_purges *p); /* NULL is fine */
void ag_tier_purges_add(ag_tier_purges *p, const ag_cache_key *k, uint64_t label, uint64_t ms); /* as a purged_fn */
bool ag_tier_purges_hold(ag_tier_purges *p, const ag_cache_key *k, const ag_cache_meta *m); /* whether it is purged */
/* What all have told: names and times with a blank between; each that is news goes to `fn`. false: not all of it was
 * that. */
bool ag_tier_purges_read(ag_tier_purges *p, ag_str text, uint64_t now_ms, uint64_t keep_ms, ag_tier_purged_fn *fn,
                         void *arg);
/* Of those that were not in it when it was last read: up to max. */
uint32_t ag_tier_purges_untold(ag_tier_purges *p, ag_tier_purge_words *out, uint32_t max);

#endif
