#include "queue/heap.h"

#include "base/mem.h"

static uint32_t *place_of(const ag__heap *h, void *thing) { return (uint32_t *)((char *)thing + h->place_at); }

static void put(ag__heap *h, uint32_t i, ag__heap_slot s)
{
    h->at[i] = s;
    *place_of(h, s.thing) = i + 1;
}

static void sift_up(ag__heap *h, uint32_t i, ag__heap_slot s)
{
    while (i > 0 && s.key < h->at[(i - 1) / 4].key) {
        put(h, i, h->at[(i - 1) / 4]);
        i = (i - 1) / 4;
    }
    put(h, i, s);
}

static void sift_down(ag__heap *h, uint32_t i, ag__heap_slot s)
{
    for (;;) {
        uint64_t first = 4 * (uint64_t)i + 1, least = first;
        if (first >= h->n) break;
        for (uint64_t c = first + 1; c < AG_MIN(first + 4, h->n); c++)
            if (h->at[c].key < h->at[least].key) least = c;
        if (h->at[least].key >= s.key) break;
        put(h, i, h->at[least]);
        i = (uint32_t)least;
    }
    put(h, i, s);
}

static void settle(ag__heap *h, uint32_t i, ag__heap_slot s)
{
    if (i > 0 && s.key < h->at[(i - 1) / 4].key) sift_up(h, i, s);
    else sift_down(h, i, s);
}

bool ag__heap_reserve(ag__heap *h, uint32_t n)
{
    if (n <= h->cap) return true;
    uint32_t cap = AG_MAX(h->cap, 16u);
    while (cap < n) cap = cap > UINT32_MAX / 2 ? UINT32_MAX : 2 * cap;
    ag__heap_slot *at = ag_mem_resize(h->at, cap, sizeof *at);
    if (at == NULL) return false;
    h->at = at;
    h->cap = cap;
    return true;
}

void ag__heap_free(ag__heap *h)
{
    ag_mem_free(h->at);
    h->at = NULL;
    h->n = h->cap = 0;
}

void ag__heap_set(ag__heap *h, void *thing, ag__u128 key)
{
    uint32_t place = *place_of(h, thing);
    ag__heap_slot s = {key, thing};
    if (place != 0) {
        if (h->at[place - 1].key == key) return;
        settle(h, place - 1, s);
        return;
    }
    AG_ASSERT(h->n < h->cap);
    sift_up(h, h->n++, s);
}

void ag__heap_remove(ag__heap *h, void *thing)
{
    uint32_t place = *place_of(h, thing);
    if (place == 0) return;
    *place_of(h, thing) = 0;
    h->n--;
    if (place - 1 < h->n) settle(h, place - 1, h->at[h->n]);
}

void ag__heap_verify(const ag__heap *h)
{
    for (uint32_t i = 0; i < h->n; i++) {
        AG_ASSERT(*place_of(h, h->at[i].thing) == i + 1);
        AG_ASSERT(i == 0 || h->at[(i - 1) / 4].key <= h->at[i].key);
    }
}
