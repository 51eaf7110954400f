#include "keys/bucket.h"

void ag_bucket_pass(ag_bucket *b, const ag_rate *r, uint64_t now_us)
{
    if (now_us <= b->at_us) return;
    __int128 came = (__int128)(now_us - b->at_us) * r->n;
    b->missing = came < b->missing ? b->missing - came : 0;
    b->at_us = now_us;
}

void ag_bucket_draw(ag_bucket *b, const ag_rate *r, uint64_t n) { b->missing += (__int128)n * r->period_us; }

void ag_bucket_give_back(ag_bucket *b, const ag_rate *r, uint64_t n)
{
    b->missing -= (__int128)n * r->period_us;
    if (b->missing < 0) b->missing = 0;
}

void ag_bucket_at_least_empty(ag_bucket *b, const ag_rate *r)
{
    b->missing = AG_MIN(b->missing, (__int128)r->burst * r->period_us);
}

static __int128 level_of(const ag_bucket *b, const ag_rate *r)
{
    return (__int128)r->burst * r->period_us - b->missing;
}

uint64_t ag_bucket_left(const ag_bucket *b, const ag_rate *r)
{
    __int128 level = level_of(b, r);
    return level > 0 ? (uint64_t)(level / r->period_us) : 0;
}

uint64_t ag_bucket_wait_us(const ag_bucket *b, const ag_rate *r, uint64_t n)
{
    __int128 short_of = (__int128)AG_MIN(n, r->burst) * r->period_us - level_of(b, r);
    return short_of > 0 ? (uint64_t)((short_of + r->n - 1) / r->n) : 0;
}
