#include "queue/heap.h"

#include "base/mem.h"

static uint32_t *handle_of(const ag__heap *h, void *thing) { return (uint32_t *)((char *)thing + h->handle_at); }

static bool less(const ag__heap_slot *a, const ag__heap_slot *b)
{
    return a->high != b->high ? a->high < b->high : a->low < b->low;
}

static void put(ag__heap *h, uint32_t i, const ag__heap_slot *s)
{
    h->at[i] = *s;
    h->where[s->handle] = i;
}

static void sift_up(ag__heap *h, uint32_t i, ag__heap_slot s)
{
    while (i > 0 && less(&s, &h->at[(i - 1) / 4])) {
        put(h, i, &h->at[(i - 1) / 4]);
        i = (i - 1) / 4;
    }
    put(h, i, &s);
}

static void sift_down(ag__heap *h, uint32_t i, ag__heap_slot s)
{
    for (;;) {
        uint64_t first = 4 * (uint64_t)i + 1, least = first;
        if (first >= h->n) break;
        /* Whose children are looked at next is not known yet, but all of theirs lie together. */
        for (uint64_t c = 4 * first + 1; c < AG_MIN(4 * first + 17, h->n); c += 2) __builtin_prefetch(&h->at[c]);
        for (uint64_t c = first + 1; c < AG_MIN(first + 4, h->n); c++)
            if (less(&h->at[c], &h->at[least])) least = c;
        if (!less(&h->at[least], &s)) break;
        put(h, i, &h->at[least]);
        i = (uint32_t)least;
    }
    put(h, i, &s);
}

static void settle(ag__heap *h, uint32_t i, ag__heap_slot s)
{
    if (i > 0 && less(&s, &h->at[(i - 1) / 4])) sift_up(h, i, s);
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
    uint32_t *where = ag_mem_resize(h->where, cap, sizeof *where);
    if (where == NULL) return false;
    h->where = where;
    h->cap = cap;
    return true;
}

void ag__heap_free(ag__heap *h)
{
    ag_mem_free(h->at);
    ag_mem_free(h->where);
    h->at = NULL;
    h->where = NULL;
    h->n = h->cap = h->handles = h->free = 0;
}

void ag__heap_set(ag__heap *h, void *thing, ag__u128 key)
{
    uint32_t *handle = handle_of(h, thing);
    ag__heap_slot s = {(uint64_t)(key >> 64), (uint64_t)key, thing, *handle - 1};
    if (*handle != 0) {
        uint32_t i = h->where[s.handle];
        if (ag__heap_key(&h->at[i]) != key) settle(h, i, s);
        return;
    }
    AG_ASSERT(h->n < h->cap);
    s.handle = h->free != 0 ? h->free - 1 : h->handles++;
    if (h->free != 0) h->free = h->where[s.handle];
    *handle = s.handle + 1;
    sift_up(h, h->n++, s);
}

void ag__heap_remove(ag__heap *h, void *thing)
{
    uint32_t *handle = handle_of(h, thing);
    if (*handle == 0) return;
    uint32_t i = h->where[*handle - 1];
    h->where[*handle - 1] = h->free;
    h->free = *handle;
    *handle = 0;
    h->n--;
    if (i < h->n) settle(h, i, h->at[h->n]);
}

void ag__heap_verify(const ag__heap *h)
{
    uint32_t unused = 0;
    for (uint32_t i = 0; i < h->n; i++) {
        const ag__heap_slot *s = &h->at[i];
        AG_ASSERT(*handle_of(h, s->thing) == s->handle + 1 && h->where[s->handle] == i);
        AG_ASSERT(i == 0 || !less(s, &h->at[(i - 1) / 4]));
    }
    for (uint32_t f = h->free; f != 0; f = h->where[f - 1]) unused++;
    AG_ASSERT(h->handles == h->n + unused && h->handles <= h->cap);
}
