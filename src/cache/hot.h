/* hot.h - which keys are asked for most, in memory that does not grow: so many keys are counted, and one more takes the
 * place of the one with the lowest count, and its count with it. What a key's count is too high by is at most that; so
 * whoever was asked for more often than the lowest count is among those that are there.
 * Counts are halved every so often: what was popular once makes room for what is.
 * Source: A. Metwally, D. Agrawal, A. El Abbadi, "Efficient Computation of Frequent and Top-k Elements in Data
 * Streams", ICDT 2005 (Space-Saving, with the Stream-Summary).
 * Owns    : its table, made by open.
 * Threads : one at a time.
 * Limits  : AG_HOT_KEYS_MAX keys. A count is O(1), but for a halving, which is O(keys) and comes after as many counts.
 * Errors  : AG_E_NOMEM from open. */
#ifndef AG_CACHE_HOT_H
#define AG_CACHE_HOT_H

#include "cache/cache.h"

#define AG_HOT_KEYS_MAX (1u << 24)

typedef struct ag_hot ag_hot;

typedef struct ag_hot_key {
    ag_cache_key key;
    uint64_t count; /* of how often it was asked for, halved as the rest: at most this, */
    uint64_t sure;  /* and at least this */
    uint64_t at;    /* what was said with it last */
} ag_hot_key;

/* halve_after: counts from one halving to the next, at least as many as keys; 0: never. */
int ag_hot_open(ag_hot **out, uint32_t keys, uint64_t halve_after, ag_err *err);
void ag_hot_close(ag_hot *h); /* NULL is fine */
void ag_hot_count(ag_hot *h, const ag_cache_key *k, uint64_t at);
/* The n with the highest counts, those first. How many there are. */
uint32_t ag_hot_top(const ag_hot *h, ag_hot_key *out, uint32_t n);
bool ag_hot_find(const ag_hot *h, const ag_cache_key *k, ag_hot_key *out);
/* A key that is not there was not asked for more often than this. */
uint64_t ag_hot_least(const ag_hot *h);
void ag_hot_verify(const ag_hot *h); /* O(keys), for tests */

#endif
