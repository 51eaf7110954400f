/* policy.h - who goes when a shard has no room: one table of functions a policy, a row of policies.def each.
 * Owns    : its state, one allocation; entries stand in its rings by their `order` link.
 * Threads : one at a time: its shard's lock is held.
 * Limits  : each call is O(1); s3-fifo's victim passes over so many, at most (policies.c).
 * Errors  : open: NULL, no memory. */
#ifndef AG_CACHE_POLICY_H
#define AG_CACHE_POLICY_H

#include "cache/wheel.h"

typedef struct ag__policy ag__policy;

typedef struct ag__policy_ops {
    const char *word;
    ag__policy *(*open)(uint64_t bytes); /* that its shard may hold; freed by ag_mem_free */
    /* A new one; or one that takes another's place, whose `uses` and `queue` it was given. */
    void (*add)(ag__policy *p, ag__entry *e);
    void (*hit)(ag__policy *p, ag__entry *e);
    ag__entry *(*victim)(ag__policy *p, const ag__wheel *w); /* the one to go, still in; NULL: nobody is in */
    void (*remove)(ag__policy *p, ag__entry *e);
} ag__policy_ops;

const ag__policy_ops *ag__policy_find(const char *word); /* of NULL the first row; NULL: there is none of that name */

#endif
