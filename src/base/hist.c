#include "base/hist.h"

#include <math.h>

#define PART_BITS 7 /* AG_HIST_PART is 1 << PART_BITS: below it each value has a bucket of its own */
#define VALUE_MAX ((1ull << (30 + PART_BITS - 1)) - 1)

void ag_hist_add(ag_hist *h, uint64_t us)
{
    h->n++;
    h->sum += us;
    h->max = AG_MAX(h->max, us);
    uint64_t v = AG_MIN(us, VALUE_MAX);
    if (v < AG_HIST_PART) {
        h->count[v]++;
        return;
    }
    uint32_t top = 63u - (uint32_t)__builtin_clzll(v), part = (uint32_t)(v >> (top - PART_BITS)) & (AG_HIST_PART - 1);
    h->count[AG_HIST_PART * (top - PART_BITS + 1) + part]++;
}

uint64_t ag_hist_bucket_us(uint32_t bucket)
{
    AG_ASSERT(bucket < AG_HIST_BUCKETS);
    if (bucket < AG_HIST_PART) return bucket;
    uint32_t shift = bucket / AG_HIST_PART - 1;
    return ((uint64_t)(AG_HIST_PART + bucket % AG_HIST_PART) << shift) + ((1ull << shift) - 1) / 2;
}

double ag_hist_quantile(const ag_hist *h, double q)
{
    uint64_t rank = (uint64_t)ceil(q * (double)h->n), seen = 0;
    if (h->n == 0) return 0;
    for (uint32_t b = 0; b < AG_HIST_BUCKETS; b++) {
        seen += h->count[b];
        if (seen >= AG_MAX(rank, (uint64_t)1)) return (double)AG_MIN(ag_hist_bucket_us(b), h->max);
    }
    return (double)h->max;
}

double ag_hist_mean(const ag_hist *h) { return h->n ? (double)h->sum / (double)h->n : 0; }
