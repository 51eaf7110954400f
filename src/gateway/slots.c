#include "gateway/slots.h"

#include "base/mem.h"

_Static_assert(sizeof(void *) == 8, "a number is a place and a stamp of 32 bits each");

void ag_slots_init(ag_slots *s) { *s = (ag_slots){.free = UINT32_MAX}; }

void ag_slots_fini(ag_slots *s)
{
    for (uint32_t i = 0; i < s->n; i++) AG_ASSERT(s->list[i].owner == NULL);
    ag_mem_free(s->list);
    ag_slots_init(s);
}

/* Places count from one, so that no number is NULL. */
static void *number_of(uint32_t place, uint32_t stamp) { return (void *)(((uintptr_t)place + 1) << 32 | stamp); }

static bool grow(ag_slots *s)
{
    uint32_t cap = s->cap ? s->cap * 2 : 64;
    if (cap > AG_SLOTS_MAX) return false;
    ag_slot *list = ag_mem_resize(s->list, cap, sizeof *list);
    if (list == NULL) return false;
    s->list = list;
    s->cap = cap;
    return true;
}

void *ag_slots_add(ag_slots *s, void *owner, uint32_t choice)
{
    uint32_t place = s->free;
    if (place != UINT32_MAX) {
        s->free = s->list[place].next_free;
    } else {
        if (s->n == s->cap && !grow(s)) return NULL;
        place = s->n++;
        s->list[place] = (ag_slot){0};
    }
    ag_slot *slot = &s->list[place];
    AG_ASSERT(slot->owner == NULL);
    slot->owner = owner;
    slot->choice = choice;
    return number_of(place, slot->stamp);
}

ag_slot *ag_slots_find(ag_slots *s, void *number)
{
    uint64_t place = ((uintptr_t)number >> 32) - 1;
    if (place >= s->n) return NULL;
    ag_slot *slot = &s->list[place];
    return slot->owner && slot->stamp == (uint32_t)(uintptr_t)number ? slot : NULL;
}

void ag_slots_remove(ag_slots *s, void *number)
{
    ag_slot *slot = ag_slots_find(s, number);
    AG_ASSERT(slot != NULL);
    slot->owner = NULL;
    slot->stamp++;
    slot->next_free = s->free;
    s->free = (uint32_t)(slot - s->list);
}
