/* slots.h - numbers that stand for generations in a loop's mailbox.
 * What the engine posts is such a number, never a pointer: a message may be taken long after its request has ended (the
 * client left, the mailbox was full), and then the number is merely no longer known.
 * Owns    : its table; their owners in it are borrowed.
 * Threads : the loop's own.
 * Limits  : AG_SLOTS_MAX at once. A number comes back after 2^32 uses of its place.
 * Errors  : add gives NULL: no memory or the limit. */
#ifndef AG_SLOTS_H
#define AG_SLOTS_H

#include "base/base.h"

#define AG_SLOTS_MAX (1u << 20)

/* In the place of a choice: */
#define AG_SLOT_BACKGROUND (UINT32_MAX - 2) /* the owner is a request that goes on without its client */
#define AG_SLOT_WARM (UINT32_MAX - 1) /* the gateway's warm-up (warm.h) */
#define AG_SLOT_RENEWAL UINT32_MAX    /* the owner is no request, but what renews an answer */

typedef struct ag_slot {
    void *owner; /* NULL: free */
    uint32_t choice, stamp, next_free;
} ag_slot;

typedef struct ag_slots {
    ag_slot *list;
    uint32_t n, cap, free; /* free: first of the chain, UINT32_MAX none */
} ag_slots;

void ag_slots_init(ag_slots *s);
void ag_slots_fini(ag_slots *s); /* asserts that all were removed */
void *ag_slots_add(ag_slots *s, void *owner, uint32_t choice);
ag_slot *ag_slots_find(ag_slots *s, void *number); /* NULL: no longer known */
void ag_slots_remove(ag_slots *s, void *number);

#endif
