#include "cache/policy.h"

#include "base/mem.h"

/* lru: one ring, by the time of the last use. */

typedef struct ring_policy {
    ag__link *first; /* the next to go */
} ring_policy;

static ag__policy *ring_open(uint64_t bytes)
{
    (void)bytes;
    return ag_mem_zalloc(sizeof(ring_policy));
}
static void ring_add(ag__policy *p, ag__entry *e) { ag__ring_append(&((ring_policy *)p)->first, &e->order); }
static void ring_remove(ag__policy *p, ag__entry *e) { ag__ring_remove(&((ring_policy *)p)->first, &e->order); }
static void lru_hit(ag__policy *p, ag__entry *e)
{
    ring_remove(p, e);
    ring_add(p, e);
}
static ag__entry *ring_victim(ag__policy *p, const ag__wheel *w)
{
    (void)w;
    ag__link *first = ((ring_policy *)p)->first;
    return first ? ag__entry_of_order(first) : NULL;
}

/* lfu, with ageing: an entry's rank is the number of its uses (FAME at most) above the rank of the last one that went,
 * so what was famous once goes when as many turnovers have passed it by. Ranks lie within FAME of each other: a ring
 * each, found by a bit.
 * Source: M. Arlitt and others, "Evaluating content management techniques for web proxy caches" (2000): LFU with
 * dynamic aging. */

#define FAME 255u
#define RANKS (FAME + 1)

typedef struct lfu_policy {
    uint32_t floor; /* the rank of the last that went; every rank in use is from here to FAME above, modulo 2^32 */
    uint64_t used[RANKS / 64];
    ag__link *ring[RANKS];
} lfu_policy;

static ag__policy *lfu_open(uint64_t bytes)
{
    (void)bytes;
    return ag_mem_zalloc(sizeof(lfu_policy));
}
static void lfu_remove(ag__policy *p, ag__entry *e)
{
    lfu_policy *l = (lfu_policy *)p;
    unsigned i = e->rank % RANKS;
    ag__ring_remove(&l->ring[i], &e->order);
    if (l->ring[i] == NULL) l->used[i / 64] &= ~((uint64_t)1 << i % 64);
}
static void lfu_add(ag__policy *p, ag__entry *e)
{
    lfu_policy *l = (lfu_policy *)p;
    if (e->uses == 0) e->uses = 1;
    e->rank = l->floor + e->uses;
    unsigned i = e->rank % RANKS;
    ag__ring_append(&l->ring[i], &e->order);
    l->used[i / 64] |= (uint64_t)1 << i % 64;
}
static void lfu_hit(ag__policy *p, ag__entry *e)
{
    lfu_remove(p, e);
    if (e->uses < FAME) e->uses++;
    lfu_add(p, e);
}
static ag__entry *lfu_victim(ag__policy *p, const ag__wheel *w)
{
    (void)w;
    lfu_policy *l = (lfu_policy *)p;
    unsigned at = l->floor % RANKS, words = RANKS / 64;
    for (unsigned k = 0; k <= words; k++) { /* the first word twice: its upper bits, and at last its lower ones */
        unsigned word = (at / 64 + k) % words;
        uint64_t bits = l->used[word];
        if (k == 0) bits &= ~(uint64_t)0 << at % 64;
        if (bits == 0) continue;
        ag__entry *e = ag__entry_of_order(l->ring[word * 64 + (unsigned)__builtin_ctzll(bits)]);
        l->floor = e->rank;
        return e;
    }
    return NULL;
}

/* ttl: the wheel has them in order. */

static ag__policy *ttl_open(uint64_t bytes)
{
    (void)bytes;
    return ag_mem_alloc(1); /* nothing to keep */
}
static void ttl_ignore(ag__policy *p, ag__entry *e) { (void)p, (void)e; }
static ag__entry *ttl_victim(ag__policy *p, const ag__wheel *w)
{
    (void)p;
    return ag__wheel_first(w);
}

/* s3-fifo: newcomers go through a small queue of a tenth of the room. Who is asked for again meanwhile moves on to the
 * main queue, where each use (USES_MAX count) buys another round; who is not goes, and is remembered until as much has
 * gone as the main queue holds: one that comes back in that time begins there.
 * Source: J. Yang and others, "FIFO queues are all you need for cache eviction" (2023). */

#define USES_MAX 3
#define SMALL_SHARE 10      /* the small queue's part of the room is one in so many */
#define PASSED_MAX 32       /* by a victim's choice, in which the lock is held; then the next one goes, used or not */
#define GHOST_WAYS 4
#define GHOST_BYTES 512     /* of room for each one that is remembered */
#define GRAIN 256
enum { SMALL, MAIN };

typedef struct s3_policy {
    ag__link *ring[2];
    uint64_t bytes[2], small_max;
    uint32_t now, ghost_life; /* the ghosts' clock: how much has gone from the small queue, in GRAINs */
    uint32_t sets;
    struct ghost {
        uint32_t print, when; /* of the key; when it went, 0: unused */
    } ghost[][GHOST_WAYS];
} s3_policy;

static ag__policy *s3_open(uint64_t bytes)
{
    uint32_t sets = (uint32_t)AG_MIN(bytes / GHOST_BYTES / GHOST_WAYS, (uint64_t)UINT32_MAX / 2);
    s3_policy *s = ag_mem_zalloc(sizeof *s + sets * sizeof s->ghost[0]);
    if (s == NULL) return NULL;
    s->sets = sets;
    s->small_max = bytes / SMALL_SHARE;
    s->ghost_life = (uint32_t)AG_MIN((bytes - s->small_max) / GRAIN, (uint64_t)INT32_MAX);
    s->now = 1;
    return (ag__policy *)s;
}
static struct ghost *ghosts_of(s3_policy *s, const ag_cache_key *k, uint32_t *print)
{
    uint64_t w = ag__key_word(k, 1);
    *print = (uint32_t)(w >> 32);
    return s->ghost[(w & UINT32_MAX) * s->sets >> 32];
}
static bool ghost_take(s3_policy *s, const ag_cache_key *k)
{
    uint32_t print;
    struct ghost *g = ghosts_of(s, k, &print);
    for (unsigned i = 0; i < GHOST_WAYS; i++)
        if (g[i].when != 0 && g[i].print == print && s->now - g[i].when <= s->ghost_life) {
            g[i].when = 0;
            return true;
        }
    return false;
}
static void ghost_put(s3_policy *s, const ag__entry *e)
{
    s->now += e->bytes / GRAIN;
    if (s->now == 0) s->now = 1;
    uint32_t print, oldest = 0;
    struct ghost *g = ghosts_of(s, &e->key, &print), *at = g;
    for (unsigned i = 0; i < GHOST_WAYS; i++) {
        uint32_t age = g[i].when == 0 ? UINT32_MAX : s->now - g[i].when;
        if (age <= oldest) continue;
        oldest = age;
        at = &g[i];
    }
    *at = (struct ghost){.print = print, .when = s->now};
}
static void s3_join(s3_policy *s, ag__entry *e, uint8_t queue)
{
    e->queue = queue;
    s->bytes[queue] += e->bytes;
    ag__ring_append(&s->ring[queue], &e->order);
}
static void s3_remove(ag__policy *p, ag__entry *e)
{
    s3_policy *s = (s3_policy *)p;
    s->bytes[e->queue] -= e->bytes;
    ag__ring_remove(&s->ring[e->queue], &e->order);
}
static void s3_add(ag__policy *p, ag__entry *e)
{
    s3_policy *s = (s3_policy *)p;
    s3_join(s, e, e->queue == MAIN || ghost_take(s, &e->key) ? MAIN : SMALL);
}
static void s3_hit(ag__policy *p, ag__entry *e)
{
    (void)p;
    if (e->uses < USES_MAX) e->uses++;
}
static ag__entry *s3_victim(ag__policy *p, const ag__wheel *w)
{
    (void)w;
    s3_policy *s = (s3_policy *)p;
    for (unsigned passed = 0;; passed++) {
        uint8_t queue = s->ring[SMALL] && (s->bytes[SMALL] >= s->small_max || s->ring[MAIN] == NULL) ? SMALL : MAIN;
        if (s->ring[queue] == NULL) return NULL;
        ag__entry *e = ag__entry_of_order(s->ring[queue]);
        if (e->uses == 0 || passed == PASSED_MAX) {
            if (queue == SMALL) ghost_put(s, e);
            return e;
        }
        s3_remove(p, e);
        e->uses = queue == SMALL ? 0 : e->uses - 1;
        s3_join(s, e, MAIN);
    }
}

static const ag__policy_ops policies[] = {
#define AG_CACHE_POLICY(word, open, add, hit, victim, remove, what) {word, open, add, hit, victim, remove},
#include "cache/policies.def"
#undef AG_CACHE_POLICY
};

const ag__policy_ops *ag__policy_find(const char *word)
{
    if (word == NULL) return &policies[0];
    for (size_t i = 0; i < AG_ARRAY_LEN(policies); i++)
        if (strcmp(policies[i].word, word) == 0) return &policies[i];
    return NULL;
}
