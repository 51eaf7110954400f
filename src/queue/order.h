/* order.h - a tenant's entries in order: the first, and how many and how much come before. A counted B-tree: sixteen
 * entries lie together, so that among a million of them a call waits for memory two or three times, where a binary tree
 * does at every step.
 * Owns    : nothing; its nodes are the pool's, which several share.
 * Threads : one at a time.
 * Limits  : 2^32 - 1 entries. Every call is O(log n).
 * Errors  : ag__order_reserve: false, no memory. Nothing else allocates: whoever inserts has reserved. */
#ifndef AG_QUEUE_ORDER_H
#define AG_QUEUE_ORDER_H

#include "queue/tree.h"

#define AG__ORDER_SLOTS 16
#define AG__ORDER_MIN 4 /* that each node but the root has at least */

typedef struct ag__order_node {
    uint32_t n;
    bool leaf;
    ag__u128 key[AG__ORDER_SLOTS]; /* of the entry; at most any key below the child */
    void *at[AG__ORDER_SLOTS];     /* the entry; the child */
    uint64_t cost[AG__ORDER_SLOTS];
    uint32_t count[AG__ORDER_SLOTS]; /* of entries: 1; below the child */
} ag__order_node;

typedef struct ag__order_pool {
    struct ag__order_chunk *chunks, *fresh; /* all; those with nodes never used, hence never touched */
    ag__order_node *free;          /* linked by at[0] */
    uint32_t made, used;
} ag__order_pool;

typedef struct ag__order { ag__order_node *root; } ag__order;

/* Room for so many entries in so many orders. */
bool ag__order_reserve(ag__order_pool *p, uint32_t entries, uint32_t orders);
void ag__order_pool_free(ag__order_pool *p); /* asserts that no node is in use */

void ag__order_insert(ag__order_pool *p, ag__order *o, ag__u128 key, void *entry, uint64_t cost);
void ag__order_remove(ag__order_pool *p, ag__order *o, ag__u128 key, uint64_t cost); /* as it was inserted */
void *ag__order_first(const ag__order *o); /* NULL: empty */
ag__tree_rank ag__order_below(const ag__order *o, ag__u128 key); /* what comes before it, whether it is there or not */
/* Asserts order, fill, counts and costs; O(n). Calls each for every entry. */
void ag__order_verify(const ag__order *o, void (*each)(void *arg, void *entry, ag__u128 key, uint64_t cost), void *arg);

#endif
