/* hist.h - times in microseconds, counted by size: a value is kept within 1/256 of itself; number, sum and largest
 * are exact.
 * Owns    : nothing; an ag_hist is a plain value of some 30 KB, zero when empty.
 * Threads : one at a time.
 * Limits  : values beyond about 19 hours count as that.
 * Errors  : none. */
#ifndef AG_HIST_H
#define AG_HIST_H

#include "base/base.h"

#define AG_HIST_PART 128u /* parts of an octave */
#define AG_HIST_BUCKETS (AG_HIST_PART * 30u)

typedef struct ag_hist {
    uint64_t n, sum, max;
    uint64_t count[AG_HIST_BUCKETS];
} ag_hist;

void ag_hist_add(ag_hist *h, uint64_t us);
double ag_hist_quantile(const ag_hist *h, double q); /* 0 when empty */
double ag_hist_mean(const ag_hist *h);
uint64_t ag_hist_bucket_us(uint32_t bucket); /* the middle of its values */

#endif
