/* bucket.h - a token bucket: so many things in a period, so many of them at once after a pause.
 * Time comes in, so that tests and callers choose it. Levels are whole numbers of things times microseconds of the
 * period: nothing is rounded, whatever the rate.
 * Owns    : nothing. Threads: one at a time.
 * Limits  : rates of up to 2^60 things, periods of up to an hour; time that goes back counts as none.
 * Errors  : none. A bucket may be drawn below empty (what could not be known before): then the next one waits
 *           longer. */
#ifndef AG_BUCKET_H
#define AG_BUCKET_H

#include "base/base.h"

typedef struct ag_rate {
    uint64_t n; /* things in each period, at least 1 */
    uint64_t period_us;
    uint64_t burst; /* at once, at least 1 */
} ag_rate;

typedef struct ag_bucket { /* zeroed: full */
    __int128 missing; /* of a full bucket */
    uint64_t at_us;
} ag_bucket;

void ag_bucket_pass(ag_bucket *b, const ag_rate *r, uint64_t now_us); /* first: what came in until now */
void ag_bucket_draw(ag_bucket *b, const ag_rate *r, uint64_t n);
void ag_bucket_give_back(ag_bucket *b, const ag_rate *r, uint64_t n);
void ag_bucket_at_least_empty(ag_bucket *b, const ag_rate *r); /* forgets what lies below */
uint64_t ag_bucket_left(const ag_bucket *b, const ag_rate *r); /* whole things; 0 also below empty */
/* Until n are there, or where n never fit, until it is full. 0: now. */
uint64_t ag_bucket_wait_us(const ag_bucket *b, const ag_rate *r, uint64_t n);

#endif
