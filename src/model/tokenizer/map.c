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
static struct ag__text_slot *text_slot(const ag__text_map *m, const char *s, size_t n, uint32_t *tag)
{
    uint64_t h = hash(m, s, n);
    *tag = (uint32_t)(h >> 32);
    for (uint32_t i = (uint32_t)h & m->mask;; i = (i + 1) & m->mask) {
        struct ag__text_slot *slot = &m->slots[i];
        if (slot->id < 0) return slot;
        if (slot->tag == *tag && m->texts[slot->id].n == n && memcmp(m->texts[slot->id].p, s, n) == 0) return slot;
    }
}

int32_t ag__text_map_add(ag__text_map *m, int32_t id)
{
    uint32_t tag;
    struct ag__text_slot *slot = text_slot(m, m->texts[id].p, m->texts[id].n, &tag);
    if (slot->id >= 0) return slot->id;
    *slot = (struct ag__text_slot){tag, id};
    return -1;
}

int32_t ag__text_map_find(const ag__text_map *m, const char *s, size_t n)
{
    uint32_t tag;
    return n ? text_slot(m, s, n, &tag)->id : -1;
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

static struct ag__pair_slot *pair_slot(const ag__pair_map *m, uint64_t pair)
{
    /* The upper bits of a product with a random odd number; the fold lets both ids reach them. */
    uint64_t h = (pair ^ pair >> 29) * m->key;
    for (uint32_t i = (uint32_t)(h >> m->shift);; i = (i + 1) & m->mask) {
        struct ag__pair_slot *slot = &m->slots[i];
        if (slot->rank == AG__NO_RANK || slot->pair == pair) return slot;
    }
}

static uint64_t pair_of(int32_t left, int32_t right) { return (uint64_t)(uint32_t)left << 32 | (uint32_t)right; }

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
