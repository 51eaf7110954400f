/* tree.h - an ordered tree whose nodes lie in what they order, with counts and sums: the first, the n-th, how many
 * and how much come before. A treap: each node draws a number, and the numbers form a heap, which keeps it as deep
 * as chance would (about twice the logarithm) whatever order things come in.
 * Owns    : nothing; nodes belong to whoever embeds them, and stay put while they are in.
 * Threads : one at a time.
 * Limits  : 2^32 - 1 nodes. Every call is O(log n), expected over the drawn numbers.
 * Errors  : none; nothing is allocated. */
#ifndef AG_QUEUE_TREE_H
#define AG_QUEUE_TREE_H

#include "base/base.h"

typedef unsigned __int128 ag__u128;

/* What a walk looks at comes first and is no more than a cache line: among very many nodes each is a miss. */
typedef struct ag__tree_node {
    ag__u128 key, then; /* the order: of two with the same key, the lesser `then` is before */
    struct ag__tree_node *left, *right;
    uint32_t count, draw; /* nodes of this subtree; the heap's order */
    uint64_t sum;         /* of the subtree's costs */
    uint64_t cost;
    struct ag__tree_node *parent;
} ag__tree_node;

typedef struct ag__tree { ag__tree_node *root; } ag__tree;

typedef struct ag__tree_rank { uint32_t n; uint64_t cost; } ag__tree_rank;

void ag__tree_insert(ag__tree *t, ag__tree_node *n, ag__u128 key, ag__u128 then, uint64_t cost, uint32_t draw);
void ag__tree_remove(ag__tree *t, ag__tree_node *n);
ag__tree_node *ag__tree_first(const ag__tree *t); /* NULL: empty */
ag__tree_node *ag__tree_at(const ag__tree *t, uint32_t i); /* NULL: fewer */
static inline uint32_t ag__tree_count(const ag__tree *t) { return t->root == NULL ? 0 : t->root->count; }
/* What is `below`, which must be true of a beginning of the order and of nothing after it. */
typedef bool ag__tree_is(const ag__tree_node *n, const void *arg);
ag__tree_rank ag__tree_below(const ag__tree *t, ag__tree_is *below, const void *arg);
/* Asserts order, heap, counts, sums; O(n). */
void ag__tree_verify(const ag__tree *t);

#endif
