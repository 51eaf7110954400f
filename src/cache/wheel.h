/* wheel.h - who is too old, and who will be first: a timing wheel that never moves anybody inwards. A time lies in one
 * of the 63 slots ahead on the finest level that reaches it, rounded up to the level's grain, each four times the last
 * one's: it comes late by a fifteenth of what was left, at most, and never early. Finding the first slot is a look at
 * one word of bits a level.
 * Source: the timer wheel of Linux since 4.8 (kernel/time/timer.c, T. Gleixner, 2016).
 * Owns    : nothing; entries stand in it by their `due` link.
 * Threads : one at a time.
 * Limits  : times further ahead than AG__WHEEL_REACH_MS come to the front early and are put back by ag__wheel_due.
 *           O(1) every call.
 * Errors  : none; nothing is allocated. */
#ifndef AG_CACHE_WHEEL_H
#define AG_CACHE_WHEEL_H

#include "cache/cache_inner.h"

#define AG__WHEEL_LEVELS 16
#define AG__WHEEL_SLOTS 64
#define AG__WHEEL_REACH_MS ((uint64_t)62 << 2 * (AG__WHEEL_LEVELS - 1)) /* two thousand days */

typedef struct ag__wheel {
    uint64_t at_ms; /* before every slot that holds somebody */
    uint32_t levels; /* bits: which hold somebody */
    uint64_t used[AG__WHEEL_LEVELS];
    ag__link *slot[AG__WHEEL_LEVELS * AG__WHEEL_SLOTS];
} ag__wheel;

void ag__wheel_add(ag__wheel *w, ag__entry *e); /* by its stale_until_ms */
void ag__wheel_remove(ag__wheel *w, ag__entry *e);
/* One whose time is over, still in; NULL: none. The wheel's time becomes now. */
ag__entry *ag__wheel_due(ag__wheel *w, uint64_t now_ms);
ag__entry *ag__wheel_first(const ag__wheel *w); /* of the first slot; NULL: nobody is in */
/* The time that `ms` is rounded to when it is added now. */
uint64_t ag__wheel_round(const ag__wheel *w, uint64_t ms);

#endif
