#include "model/tokenizer/map.h"

#include "base/err.h"
#include "base/mem.h"

/* A part of the hash stands beside the id, so that a walk over foreign entries seldom touches their texts. */
struct ag__text_slot {
    uint32_t tag;
    int32_t id; /* -1: free */
};

struct ag__pair_slot {
    uint64_t pair;
    uint32_t rank; /* AG__NO_RANK: free */
};

/* At most half full. */
static uint32_t slots_for(uint32_t n, uint32_t *log2)
{
    uint32_t bits = 4;
    while ((1ull << bits) < 2ull * n) bits++;
    if (log2) *log2 = bits;
    return 1u << bits;
}

static uint64_t hash(const ag__text_map *m, const char *s, size_t n)
{
    uint8_t out[crypto_shorthash_BYTES];
    uint64_t h;
    _Static_assert(sizeof out == sizeof h, "a short hash is 64 bits");
    crypto_shorthash(out, (const unsigned char *)s, n, m->key);
    memcpy(&h, out, sizeof h);
    return h;
}

int ag__text_map_init(ag__text_map *m, const ag_str *texts, uint32_t n)
{
    uint32_t slots = slots_for(n, NULL);
    *m = (ag__text_map){.texts = texts, .mask = slots - 1};
    m->slots = ag_mem_array(slots, sizeof *m->slots);
    if (m->slots == NULL) return AG_E_NOMEM;
    for (uint32_t i = 0; i < slots; i++) m->slots[i].id = -1;
    randombytes_buf(m->key, sizeof m->key);
    return AG_OK;
}

void ag__text_map_fini(ag__text_map *m)
{
    ag_mem_free(m->slots);
    m->slots = NULL;
}

/* The slot of this text, or the free one where it belongs. */
static struct ag__text_slot *text_slot(const ag__text_map *m, uint64_t h, const char *s, size_t n)
{
    uint32_t tag = (uint32_t)(h >> 32);
    for (uint32_t i = (uint32_t)h & m->mask;; i = (i + 1) & m->mask) {
        struct ag__text_slot *slot = &m->slots[i];
        if (slot->id < 0) return slot;
        if (slot->tag == tag && m->texts[slot->id].n == n && memcmp(m->texts[slot->id].p, s, n) == 0) return slot;
    }
}

int32_t ag__text_map_add(ag__text_map *m, int32_t id)
{
    uint64_t h = hash(m, m->texts[id].p, m->texts[id].n);
    struct ag__text_slot *slot = text_slot(m, h, m->texts[id].p, m->texts[id].n);
    if (slot->id >= 0) return slot->id;
    *slot = (struct ag__text_slot){(uint32_t)(h >> 32), id};
    return -1;
}

int32_t ag__text_map_find(const ag__text_map *m, const char *s, size_t n)
{
    return n ? text_slot(m, hash(m, s, n), s, n)->id : -1;
}

void ag__text_map_ask(const ag__text_map *m, const char *s, size_t n)
{
    __builtin_prefetch(&m->slots[(uint32_t)hash(m, s, n) & m->mask], 1);
}

/* Slot, place of the text, text: each is asked for for all before the next is looked at for the first. */
void ag__text_map_find_many(const ag__text_map *m, const ag_str *s, uint32_t n, int32_t *ids)
{
    uint64_t h[AG__TEXTS_MANY];
    AG_ASSERT(n <= AG__TEXTS_MANY);
    for (uint32_t i = 0; i < n; i++) {
        h[i] = hash(m, s[i].p, s[i].n);
        __builtin_prefetch(&m->slots[(uint32_t)h[i] & m->mask]);
    }
    for (uint32_t i = 0; i < n; i++) { /* most often the right one */
        ids[i] = m->slots[(uint32_t)h[i] & m->mask].id;
        if (ids[i] >= 0) __builtin_prefetch(&m->texts[ids[i]]);
    }
    for (uint32_t i = 0; i < n; i++)
        if (ids[i] >= 0) __builtin_prefetch(m->texts[ids[i]].p);
    for (uint32_t i = 0; i < n; i++) ids[i] = s[i].n ? text_slot(m, h[i], s[i].p, s[i].n)->id : -1;
}

int ag__pair_map_init(ag__pair_map *m, uint32_t n)
{
    uint32_t bits, slots = slots_for(n, &bits);
    *m = (ag__pair_map){.mask = slots - 1, .shift = 64 - bits};
    m->slots = ag_mem_array(slots, sizeof *m->slots);
    if (m->slots == NULL) return AG_E_NOMEM;
    for (uint32_t i = 0; i < slots; i++) m->slots[i].rank = AG__NO_RANK;
    randombytes_buf(&m->key, sizeof m->key);
    m->key |= 1;
    return AG_OK;
}

void ag__pair_map_fini(ag__pair_map *m)
{
    ag_mem_free(m->slots);
    m->slots = NULL;
}

/* The upper bits of a product with a random odd number; the fold lets both ids reach them. */
static uint32_t pair_at(const ag__pair_map *m, uint64_t pair)
{
    return (uint32_t)((pair ^ pair >> 29) * m->key >> m->shift);
}

static struct ag__pair_slot *pair_slot(const ag__pair_map *m, uint64_t pair)
{
    for (uint32_t i = pair_at(m, pair);; i = (i + 1) & m->mask) {
        struct ag__pair_slot *slot = &m->slots[i];
        if (slot->rank == AG__NO_RANK || slot->pair == pair) return slot;
    }
}

static uint64_t pair_of(int32_t left, int32_t right) { return (uint64_t)(uint32_t)left << 32 | (uint32_t)right; }

void ag__pair_map_ask(const ag__pair_map *m, int32_t left, int32_t right)
{
    __builtin_prefetch(&m->slots[pair_at(m, pair_of(left, right))], 1);
}

bool ag__pair_map_add(ag__pair_map *m, int32_t left, int32_t right, uint32_t rank)
{
    struct ag__pair_slot *slot = pair_slot(m, pair_of(left, right));
    if (slot->rank != AG__NO_RANK) return false;
    *slot = (struct ag__pair_slot){pair_of(left, right), rank};
    return true;
}

uint32_t ag__pair_map_find(const ag__pair_map *m, int32_t left, int32_t right)
{
    return pair_slot(m, pair_of(left, right))->rank;
}
