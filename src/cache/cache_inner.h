/* cache_inner.h - what the files of this folder share: entries, the rings they stand in, shards.
 * An entry is in its bucket's chain, in the wheel by the time at which it is too old, and in a ring of its policy.
 * Owns, threads, limits, errors: as cache.h; everything here happens under a shard's lock. */
#ifndef AG_CACHE_INNER_H
#define AG_CACHE_INNER_H

#include "cache/cache.h"

/* A ring is a pointer to its first link, NULL when it is empty; the first one's `prev` is the last. */
typedef struct ag__link {
    struct ag__link *next, *prev;
} ag__link;

static inline void ag__ring_append(ag__link **first, ag__link *l)
{
    if (*first == NULL) {
        *first = l->next = l->prev = l;
        return;
    }
    l->next = *first;
    l->prev = (*first)->prev;
    l->prev->next = l->next->prev = l;
}

static inline void ag__ring_remove(ag__link **first, ag__link *l)
{
    l->next->prev = l->prev;
    l->prev->next = l->next;
    if (*first == l) *first = l->next == l ? NULL : l->next;
}

/* What a get looks at comes first: two cache lines of memory that is hardly ever in a cache. */
typedef struct ag__entry {
    ag_cache_key key;
    struct ag__entry *chain; /* the next of its bucket; of those that are gone, the next one */
    ag_cache_value *value;
    ag__link order;          /* the policy's */
    uint64_t fresh_until_ms, stale_until_ms, made_ms;
    uint32_t hits;
    uint32_t bytes;          /* with its value */
    uint32_t rank;           /* the policy's, like `uses` and `queue` */
    uint8_t uses, queue;
    bool renewing;
    uint8_t n_labels;
    ag__link due;            /* the wheel's, and where in it */
    uint16_t slot;
    uint64_t labels[];
} ag__entry;

static inline ag__entry *ag__entry_of_order(ag__link *l)
{
    return (ag__entry *)((char *)l - offsetof(ag__entry, order));
}
static inline ag__entry *ag__entry_of_due(ag__link *l) { return (ag__entry *)((char *)l - offsetof(ag__entry, due)); }
static inline uint64_t ag__key_word(const ag_cache_key *k, unsigned i)
{
    uint64_t w;
    memcpy(&w, k->b + 8 * i, 8);
    return w;
}

/* value.c */
uint32_t ag__value_cost(const ag_cache_value *v); /* bytes of the heap */

#endif
