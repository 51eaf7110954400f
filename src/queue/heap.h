/* heap.h - the smallest of many numbers, each of which belongs to a thing that knows its place: four children a
 * node, so that a node's children are two cache lines; keys lie in the heap itself, so that comparing touches
 * nothing else.
 * Owns    : its array.
 * Threads : one at a time.
 * Limits  : 2^32 - 2 things. Every call is O(log n).
 * Errors  : reserve: false, no memory. Nothing else allocates. */
#ifndef AG_QUEUE_HEAP_H
#define AG_QUEUE_HEAP_H

#include "queue/tree.h"

typedef struct ag__heap_slot {
    uint64_t high, low; /* the key */
    void *thing;
    uint32_t handle;
} ag__heap_slot;

/* A thing keeps a handle for as long as it is in, and `where` says where that is now: what is moved about lies close
 * together, and the things themselves are not touched. */
typedef struct ag__heap {
    ag__heap_slot *at;
    uint32_t *where;     /* by handle; of free handles, the next free one */
    uint32_t n, cap;
    uint32_t handles, free; /* given out ever; 1 + the first free one, 0: none */
    size_t handle_at;    /* where a thing keeps 1 + its handle, a uint32_t: 0 when it is not in */
} ag__heap;

bool ag__heap_reserve(ag__heap *h, uint32_t n);
void ag__heap_free(ag__heap *h);
/* Puts it in, or gives it another key. */
void ag__heap_set(ag__heap *h, void *thing, ag__u128 key);
void ag__heap_remove(ag__heap *h, void *thing); /* nothing when it is not in */
static inline const ag__heap_slot *ag__heap_first(const ag__heap *h) { return h->n == 0 ? NULL : &h->at[0]; }
static inline ag__u128 ag__heap_key(const ag__heap_slot *s) { return (ag__u128)s->high << 64 | s->low; }
/* The slot of a thing that is in and keeps that number. */
static inline const ag__heap_slot *ag__heap_find(const ag__heap *h, uint32_t handle)
{
    return &h->at[h->where[handle - 1]];
}
void ag__heap_verify(const ag__heap *h); /* O(n) */

#endif
