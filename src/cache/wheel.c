#include "cache/wheel.h"

#define LAST_SLOT (AG__WHEEL_SLOTS - 1)

static unsigned shift_of(unsigned level) { return 2 * level; }

/* How many grains of a level the time lies ahead: at least one. */
static uint64_t distance(const ag__wheel *w, unsigned level, uint64_t ms)
{
    unsigned shift = shift_of(level);
    return ((ms - 1) >> shift) + 1 - (w->at_ms >> shift);
}

static uint64_t within_reach(const ag__wheel *w, uint64_t ms)
{
    if (ms <= w->at_ms) return w->at_ms + 1;
    return ms - w->at_ms > AG__WHEEL_REACH_MS ? w->at_ms + AG__WHEEL_REACH_MS : ms;
}

static unsigned level_of(const ag__wheel *w, uint64_t ms)
{
    unsigned level = 0;
    while (distance(w, level, ms) > LAST_SLOT) level++;
    AG_ASSERT(level < AG__WHEEL_LEVELS);
    return level;
}

uint64_t ag__wheel_round(const ag__wheel *w, uint64_t ms)
{
    ms = within_reach(w, ms);
    unsigned shift = shift_of(level_of(w, ms));
    return (((ms - 1) >> shift) + 1) << shift;
}

void ag__wheel_add(ag__wheel *w, ag__entry *e)
{
    uint64_t ms = within_reach(w, e->stale_until_ms);
    unsigned level = level_of(w, ms), in = (unsigned)(((ms - 1) >> shift_of(level)) + 1) % AG__WHEEL_SLOTS;
    e->slot = (uint16_t)(level * AG__WHEEL_SLOTS + in);
    ag__ring_append(&w->slot[e->slot], &e->due);
    w->used[level] |= (uint64_t)1 << in;
    w->levels |= 1u << level;
}

void ag__wheel_remove(ag__wheel *w, ag__entry *e)
{
    unsigned level = e->slot / AG__WHEEL_SLOTS;
    ag__ring_remove(&w->slot[e->slot], &e->due);
    if (w->slot[e->slot] != NULL) return;
    w->used[level] &= ~((uint64_t)1 << e->slot % AG__WHEEL_SLOTS);
    if (w->used[level] == 0) w->levels &= ~(1u << level);
}

/* The first slot that holds somebody and its time; UINT64_MAX: none does. */
static uint64_t first_slot(const ag__wheel *w, unsigned *slot)
{
    uint64_t first = UINT64_MAX;
    for (uint32_t left = w->levels; left != 0; left &= left - 1) {
        unsigned level = (unsigned)__builtin_ctz(left), shift = shift_of(level);
        uint64_t here = w->at_ms >> shift;
        unsigned turn = (unsigned)here % AG__WHEEL_SLOTS;
        uint64_t ahead = w->used[level] >> turn | (turn ? w->used[level] << (AG__WHEEL_SLOTS - turn) : 0);
        uint64_t at = here + (unsigned)__builtin_ctzll(ahead);
        if (at << shift >= first) continue;
        first = at << shift;
        *slot = level * AG__WHEEL_SLOTS + (unsigned)at % AG__WHEEL_SLOTS;
    }
    return first;
}

ag__entry *ag__wheel_first(const ag__wheel *w)
{
    unsigned slot;
    return first_slot(w, &slot) == UINT64_MAX ? NULL : ag__entry_of_due(w->slot[slot]);
}

ag__entry *ag__wheel_due(ag__wheel *w, uint64_t now_ms)
{
    unsigned slot;
    uint64_t first;
    while ((first = first_slot(w, &slot)) <= now_ms && first != UINT64_MAX) {
        ag__entry *e = ag__entry_of_due(w->slot[slot]);
        if (e->stale_until_ms <= now_ms) return e;
        w->at_ms = first - 1;
        ag__wheel_remove(w, e);
        ag__wheel_add(w, e);
    }
    if (now_ms > w->at_ms) w->at_ms = now_ms;
    return NULL;
}
