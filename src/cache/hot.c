#include "cache/hot.h"

#include "base/mem.h"
#include "cache/cache_inner.h"

#define HOT_MAGIC 0x41474854u

typedef struct group group;

typedef struct item {
    ag_cache_key key;
    struct item *chain; /* the next of its bucket */
    group *group;
    ag__link order;     /* of those with its count, in the order in which they came to it */
    uint64_t sure, at;
} item;

/* Those of one count. Groups stand in a row by their counts. */
struct group {
    group *up, *down;   /* of one that is free: up, the next free one */
    ag__link *items;
    uint64_t count;
};

struct ag_hot {
    uint32_t magic;
    uint32_t n, cap, n_buckets;
    uint64_t halve_after, since;
    item *items;
    item **buckets;
    group *groups;      /* one a key, and one more while a key is on its way */
    group *low, *high, *free;
};

static item *item_of(ag__link *l) { return (item *)(void *)((char *)l - offsetof(item, order)); }

int ag_hot_open(ag_hot **out, uint32_t keys, uint64_t halve_after, ag_err *err)
{
    AG_ASSERT(keys >= 1 && keys <= AG_HOT_KEYS_MAX && (halve_after == 0 || halve_after >= keys));
    ag_hot *h = ag_mem_zalloc(sizeof *h);
    if (h == NULL) return ag_err_set(err, AG_E_NOMEM, "no memory to count %u keys", keys);
    h->magic = HOT_MAGIC;
    h->cap = keys;
    h->halve_after = halve_after;
    for (h->n_buckets = 16; h->n_buckets < keys;) h->n_buckets *= 2;
    h->items = ag_mem_array(keys, sizeof *h->items);
    h->buckets = ag_mem_array(h->n_buckets, sizeof(item *));
    h->groups = ag_mem_array((size_t)keys + 1, sizeof *h->groups);
    if (h->items == NULL || h->buckets == NULL || h->groups == NULL) {
        ag_hot_close(h);
        return ag_err_set(err, AG_E_NOMEM, "no memory to count %u keys", keys);
    }
    for (uint32_t i = 0; i <= keys; i++) {
        h->groups[i].up = h->free;
        h->free = &h->groups[i];
    }
    *out = h;
    return AG_OK;
}

void ag_hot_close(ag_hot *h)
{
    if (h == NULL) return;
    AG_CHECK(h, HOT_MAGIC);
    h->magic = 0;
    ag_mem_free(h->items);
    ag_mem_free((void *)h->buckets);
    ag_mem_free(h->groups);
    ag_mem_free(h);
}

/* ---- keys ---- */

/* Keys are hashes already. */
static item **bucket_of(const ag_hot *h, const ag_cache_key *k)
{
    return &h->buckets[ag__key_word(k, 0) & (h->n_buckets - 1)];
}

static item *item_find(const ag_hot *h, const ag_cache_key *k)
{
    item *i = *bucket_of(h, k);
    while (i && memcmp(&i->key, k, sizeof *k) != 0) i = i->chain;
    return i;
}

static void item_link(ag_hot *h, item *i)
{
    item **b = bucket_of(h, &i->key);
    i->chain = *b;
    *b = i;
}

static void item_unlink(ag_hot *h, item *i)
{
    item **at = bucket_of(h, &i->key);
    while (*at != i) at = &(*at)->chain;
    *at = i->chain;
}

/* ---- groups ---- */

/* The group of this count above `down` (NULL: the lowest). */
static group *group_above(ag_hot *h, group *down, uint64_t count)
{
    group *up = down ? down->up : h->low;
    if (up && up->count == count) return up;
    group *g = h->free;
    AG_ASSERT(g != NULL && (up == NULL || up->count > count));
    h->free = g->up;
    *g = (group){.up = up, .down = down, .count = count};
    *(down ? &down->up : &h->low) = g;
    *(up ? &up->down : &h->high) = g;
    return g;
}

static void group_free(ag_hot *h, group *g)
{
    *(g->down ? &g->down->up : &h->low) = g->up;
    *(g->up ? &g->up->down : &h->high) = g->down;
    *g = (group){.up = h->free};
    h->free = g;
}

static void group_add(group *g, item *i)
{
    i->group = g;
    ag__ring_append(&g->items, &i->order);
}

static void count_up(ag_hot *h, item *i)
{
    group *g = i->group;
    ag__ring_remove(&g->items, &i->order);
    group_add(group_above(h, g, g->count + 1), i);
    if (g->items == NULL) group_free(h, g);
    i->sure++;
}

/* ---- halving ---- */

/* Upper bounds are rounded up and lower ones down, so both stay true of the half. Groups stay in order; of two that
 * come to the same count the upper one's keys go to the lower. */
static void halve(ag_hot *h)
{
    h->since = 0;
    for (group *g = h->low, *up; g; g = up) {
        up = g->up;
        g->count = (g->count + 1) / 2;
        ag__link *first = g->items, *l = first;
        do item_of(l)->sure /= 2;
        while ((l = l->next) != first);
        if (g->down == NULL || g->down->count != g->count) continue;
        while (g->items) {
            item *i = item_of(g->items);
            ag__ring_remove(&g->items, &i->order);
            group_add(g->down, i);
        }
        group_free(h, g);
    }
}

void ag_hot_count(ag_hot *h, const ag_cache_key *k, uint64_t at)
{
    AG_CHECK(h, HOT_MAGIC);
    item *i = item_find(h, k);
    if (i == NULL && h->n < h->cap) {
        i = &h->items[h->n++];
        i->key = *k;
        item_link(h, i);
        group_add(group_above(h, NULL, 1), i);
        i->sure = 1;
    } else {
        if (i == NULL) { /* the lowest, and of these who has stood there longest, goes */
            i = item_of(h->low->items);
            item_unlink(h, i);
            i->key = *k;
            i->sure = 0;
            item_link(h, i);
        }
        count_up(h, i);
    }
    i->at = at;
    if (h->halve_after && ++h->since >= h->halve_after) halve(h);
}

/* ---- looking ---- */

static ag_hot_key key_of(const item *i)
{
    return (ag_hot_key){.key = i->key, .count = i->group->count, .sure = i->sure, .at = i->at};
}

uint32_t ag_hot_top(const ag_hot *h, ag_hot_key *out, uint32_t n)
{
    AG_CHECK(h, HOT_MAGIC);
    uint32_t got = 0;
    for (group *g = h->high; g && got < n; g = g->down) {
        ag__link *l = g->items;
        do out[got++] = key_of(item_of(l));
        while ((l = l->next) != g->items && got < n);
    }
    return got;
}

bool ag_hot_find(const ag_hot *h, const ag_cache_key *k, ag_hot_key *out)
{
    AG_CHECK(h, HOT_MAGIC);
    const item *i = item_find(h, k);
    if (i) *out = key_of(i);
    return i != NULL;
}

uint64_t ag_hot_least(const ag_hot *h) { return h->n < h->cap ? 0 : h->low->count; }

void ag_hot_verify(const ag_hot *h)
{
    AG_CHECK(h, HOT_MAGIC);
    uint32_t n = 0, groups = 0;
    const group *below = NULL;
    for (const group *g = h->low; g; below = g, g = g->up) {
        AG_ASSERT(g->down == below && g->items && (below == NULL || below->count < g->count));
        ag__link *l = g->items;
        do {
            const item *i = item_of(l);
            AG_ASSERT(i->group == g && i->sure <= g->count && item_find(h, &i->key) == i && l->next->prev == l);
            n++;
        } while ((l = l->next) != g->items);
        groups++;
    }
    for (const group *g = h->free; g; g = g->up) groups++;
    AG_ASSERT(below == h->high && n == h->n && groups == h->cap + 1);
}
