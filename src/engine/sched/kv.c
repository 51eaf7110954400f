#include "engine/sched/kv.h"

#include <sodium.h>
#include <stdlib.h>

#include "base/mem.h"

#define KV_MAGIC 0x4b565052u
#define NONE UINT32_MAX

typedef struct kv_node {
    uint32_t page;          /* NONE: promised */
    uint32_t parent;        /* NONE: the first page of its prefix */
    uint32_t refs;          /* sequences that use it */
    uint32_t children;      /* nodes below, promised ones too */
    uint32_t next;          /* of the same bucket, or of the free list */
    uint32_t bucket;
    uint32_t heap;          /* place among those that may go, while nobody uses it and nothing is below */
    bool alive, detached;   /* detached: no longer found, kept until its last user is gone */
    uint64_t salt;          /* of a prefix's first page */
    uint64_t used;          /* the tick of its last use */
    ag_kv_seq *owner;       /* who promised it */
    uint64_t round;         /* of questions who leaves, */
    uint32_t leaving;       /* and how many of its users would */
} kv_node;

struct ag_kv {
    uint32_t magic;
    uint32_t pages, page_tokens;
    uint32_t n_free, n_kept, n_promised;
    uint32_t *free;         /* a stack: the page used last is warm in the cache and is taken first */
    uint32_t *node_of;      /* of each page: its node; NONE: free or private */
    bool *taken;
    /* Nodes: as many as pages for what is there, as many again for promises. */
    kv_node *node;
    int32_t *tokens;        /* page_tokens of each node */
    uint32_t n_nodes, free_node;
    uint32_t *bucket, n_buckets;
    uint32_t *heap, n_heap; /* nodes that may be reclaimed, least recently used on top */
    unsigned char key[crypto_shorthash_KEYBYTES];
    uint64_t tick, round;
    uint64_t hit_tokens, asked_tokens, reclaimed;
};

/* ---- open, close ---- */

static void tables_free(ag_kv *kv)
{
    ag_mem_free(kv->free);
    ag_mem_free(kv->node_of);
    ag_mem_free(kv->taken);
    ag_mem_free(kv->node);
    ag_mem_free(kv->tokens);
    ag_mem_free(kv->bucket);
    ag_mem_free(kv->heap);
    ag_mem_free(kv);
}

int ag_kv_open(ag_kv **out, uint32_t pages, uint32_t page_tokens, ag_err *err)
{
    AG_ASSERT(pages >= 1 && pages <= 1u << 29 && page_tokens >= 1);
    ag_kv *kv = ag_mem_zalloc(sizeof *kv);
    if (kv == NULL) return ag_err_set(err, AG_E_NOMEM, "no memory for the table of %u KV pages", pages);
    kv->pages = pages;
    kv->page_tokens = page_tokens;
    kv->n_nodes = 2 * pages;
    for (kv->n_buckets = 16; kv->n_buckets < kv->n_nodes;) kv->n_buckets *= 2;
    kv->free = ag_mem_array(pages, sizeof *kv->free);
    kv->node_of = ag_mem_array(pages, sizeof *kv->node_of);
    kv->taken = ag_mem_array(pages, sizeof *kv->taken);
    kv->node = ag_mem_array(kv->n_nodes, sizeof *kv->node);
    kv->tokens = ag_mem_array((size_t)kv->n_nodes * page_tokens, sizeof *kv->tokens);
    kv->bucket = ag_mem_array(kv->n_buckets, sizeof *kv->bucket);
    kv->heap = ag_mem_array(pages, sizeof *kv->heap);
    if (!(kv->free && kv->node_of && kv->taken && kv->node && kv->tokens && kv->bucket && kv->heap)) {
        tables_free(kv);
        return ag_err_set(err, AG_E_NOMEM, "no memory for the table of %u KV pages", pages);
    }
    kv->magic = KV_MAGIC;
    kv->n_free = pages;
    for (uint32_t i = 0; i < pages; i++) {
        kv->free[i] = pages - 1 - i; /* page 0 first: memory is touched from the front */
        kv->node_of[i] = NONE;
    }
    for (uint32_t i = 0; i < kv->n_nodes; i++) kv->node[i].next = i + 1 < kv->n_nodes ? i + 1 : NONE;
    for (uint32_t i = 0; i < kv->n_buckets; i++) kv->bucket[i] = NONE;
    randombytes_buf(kv->key, sizeof kv->key);
    *out = kv;
    return AG_OK;
}

void ag_kv_close(ag_kv *kv)
{
    if (kv == NULL) return;
    AG_CHECK(kv, KV_MAGIC);
    AG_ASSERT(kv->n_free + kv->n_kept == kv->pages && kv->n_promised == 0);
    kv->magic = 0;
    tables_free(kv);
}

uint32_t ag_kv_available(const ag_kv *kv) { return kv->n_free + kv->n_kept; }

/* ---- pages ---- */

static void page_free(ag_kv *kv, uint32_t page)
{
    AG_ASSERT(page < kv->pages && kv->taken[page]);
    kv->taken[page] = false;
    kv->node_of[page] = NONE;
    kv->free[kv->n_free++] = page;
}

/* ---- those that may go: a heap by last use ---- */

static void heap_put(ag_kv *kv, uint32_t at, uint32_t node)
{
    kv->heap[at] = node;
    kv->node[node].heap = at;
}

static void heap_up(ag_kv *kv, uint32_t at, uint32_t node)
{
    for (; at > 0 && kv->node[kv->heap[(at - 1) / 2]].used > kv->node[node].used; at = (at - 1) / 2)
        heap_put(kv, at, kv->heap[(at - 1) / 2]);
    heap_put(kv, at, node);
}

static void heap_down(ag_kv *kv, uint32_t at, uint32_t node)
{
    for (uint32_t child; (child = 2 * at + 1) < kv->n_heap; at = child) {
        if (child + 1 < kv->n_heap && kv->node[kv->heap[child + 1]].used < kv->node[kv->heap[child]].used) child++;
        if (kv->node[kv->heap[child]].used >= kv->node[node].used) break;
        heap_put(kv, at, kv->heap[child]);
    }
    heap_put(kv, at, node);
}

static void heap_add(ag_kv *kv, uint32_t node)
{
    AG_ASSERT(kv->n_heap < kv->pages && kv->node[node].heap == NONE);
    kv->n_heap++;
    heap_up(kv, kv->n_heap - 1, node);
}

static void heap_remove(ag_kv *kv, uint32_t node)
{
    uint32_t at = kv->node[node].heap;
    AG_ASSERT(at < kv->n_heap && kv->heap[at] == node);
    uint32_t last = kv->heap[--kv->n_heap];
    kv->node[node].heap = NONE;
    if (last == node) return;
    heap_up(kv, at, last);
    heap_down(kv, kv->node[last].heap, last);
}

/* ---- the tree ---- */

static uint32_t bucket_of(const ag_kv *kv, uint32_t parent, uint64_t salt, const int32_t *tokens)
{
    uint64_t h = 0;
    unsigned char sum[crypto_shorthash_BYTES];
    crypto_shorthash(sum, (const unsigned char *)tokens, kv->page_tokens * sizeof *tokens, kv->key);
    memcpy(&h, sum, sizeof h);
    h += parent == NONE ? salt : parent + UINT64_C(1);
    h *= UINT64_C(0x9e3779b97f4a7c15);
    return (uint32_t)(h >> 32) & (kv->n_buckets - 1);
}

/* The node of these tokens below `parent`; NONE. */
static uint32_t node_find(const ag_kv *kv, uint32_t parent, uint64_t salt, const int32_t *tokens)
{
    size_t bytes = kv->page_tokens * sizeof *tokens;
    uint32_t i = kv->bucket[bucket_of(kv, parent, salt, tokens)];
    for (; i != NONE; i = kv->node[i].next) {
        const kv_node *n = &kv->node[i];
        if (n->parent == parent && (parent != NONE || n->salt == salt) &&
            memcmp(kv->tokens + (size_t)i * kv->page_tokens, tokens, bytes) == 0)
            return i;
    }
    return NONE;
}

static uint32_t node_add(ag_kv *kv, uint32_t parent, uint64_t salt, const int32_t *tokens)
{
    uint32_t i = kv->free_node;
    AG_ASSERT(i != NONE);
    kv->free_node = kv->node[i].next;
    uint32_t b = bucket_of(kv, parent, salt, tokens);
    kv->node[i] = (kv_node){.page = NONE, .parent = parent, .salt = salt, .heap = NONE, .alive = true, .bucket = b,
                            .next = kv->bucket[b]};
    kv->bucket[b] = i;
    memcpy(kv->tokens + (size_t)i * kv->page_tokens, tokens, kv->page_tokens * sizeof *tokens);
    if (parent != NONE) kv->node[parent].children++;
    return i;
}

static void bucket_unlink(ag_kv *kv, uint32_t i)
{
    uint32_t *at = &kv->bucket[kv->node[i].bucket];
    while (*at != i) at = &kv->node[*at].next;
    *at = kv->node[i].next;
}

static void node_free(ag_kv *kv, uint32_t i)
{
    kv->node[i] = (kv_node){.next = kv->free_node};
    kv->free_node = i;
}

/* A node with nothing below leaves the tree; its parent may be the next that can go. */
static void node_remove(ag_kv *kv, uint32_t i)
{
    kv_node *n = &kv->node[i];
    AG_ASSERT(n->alive && n->children == 0 && n->refs == 0);
    if (!n->detached) bucket_unlink(kv, i);
    uint32_t parent = n->parent;
    node_free(kv, i);
    if (parent == NONE) return;
    kv_node *p = &kv->node[parent];
    AG_ASSERT(p->children > 0);
    if (--p->children == 0 && p->refs == 0 && p->page != NONE) heap_add(kv, parent);
}

static void node_use(ag_kv *kv, uint32_t i)
{
    kv_node *n = &kv->node[i];
    if (n->refs++ > 0) return;
    kv->n_kept--;
    if (n->children == 0) heap_remove(kv, i);
}

static void node_leave(ag_kv *kv, uint32_t i)
{
    kv_node *n = &kv->node[i];
    AG_ASSERT(n->refs > 0 && n->page != NONE);
    n->used = kv->tick;
    if (--n->refs > 0) return;
    if (n->detached) {
        page_free(kv, n->page);
        node_remove(kv, i);
        return;
    }
    kv->n_kept++;
    if (n->children == 0) heap_add(kv, i);
}

/* The node below which the next page of s hangs (NONE: at the root). false: s has no place in the tree. */
static bool seq_end(const ag_kv *kv, const ag_kv_seq *s, uint32_t *node)
{
    if (s->salt == AG_KV_ALONE || s->n != s->shared) return false;
    *node = s->n ? kv->node_of[s->pages[s->n - 1]] : NONE;
    return s->n == 0 || !kv->node[*node].detached;
}

/* ---- promises ---- */

static void promises_void(ag_kv *kv, ag_kv_seq *s)
{
    uint32_t i = s->promised ? s->promised - 1 : NONE;
    s->promised = 0;
    while (i != NONE && kv->node[i].owner == s) {
        uint32_t parent = kv->node[i].parent;
        kv->n_promised--;
        node_remove(kv, i);
        i = parent;
    }
}

void ag_kv_promise(ag_kv *kv, ag_kv_seq *s, const int32_t *tokens, uint32_t n)
{
    AG_CHECK(kv, KV_MAGIC);
    uint32_t at;
    if (!seq_end(kv, s, &at)) return;
    for (uint32_t i = s->n; i < n / kv->page_tokens; i++) {
        const int32_t *t = tokens + (size_t)i * kv->page_tokens;
        uint32_t next = node_find(kv, at, s->salt, t);
        if (next != NONE && kv->node[next].owner != s) break;
        if (next == NONE) {
            if (kv->n_promised == kv->pages) break;
            next = node_add(kv, at, s->salt, t);
            kv->node[next].owner = s;
            kv->n_promised++;
            s->promised = next + 1;
        }
        at = next;
    }
}

ag_kv_seq *ag_kv_waits_for(const ag_kv *kv, const ag_kv_seq *s)
{
    AG_CHECK(kv, KV_MAGIC);
    return s->waits ? kv->node[s->waits - 1].owner : NULL; /* nodes that are free have none */
}

/* ---- sequences ---- */

uint32_t ag_kv_match(ag_kv *kv, ag_kv_seq *s, const int32_t *tokens, uint32_t n_reusable)
{
    AG_CHECK(kv, KV_MAGIC);
    uint32_t at, whole = n_reusable / kv->page_tokens;
    bool first = s->n == 0 && s->waits == 0;
    s->waits = 0;
    if (!seq_end(kv, s, &at)) return s->shared * kv->page_tokens;
    AG_ASSERT(whole <= s->cap);
    if (first) kv->asked_tokens += n_reusable;
    for (; s->n < whole; s->n++) {
        uint32_t next = node_find(kv, at, s->salt, tokens + (size_t)s->n * kv->page_tokens);
        if (next == NONE) break;
        if (kv->node[next].page == NONE) {
            if (kv->node[next].owner != s) s->waits = next + 1;
            break;
        }
        node_use(kv, next);
        s->pages[s->n] = kv->node[next].page;
        kv->hit_tokens += kv->page_tokens;
        at = next;
    }
    s->shared = s->n;
    return s->n * kv->page_tokens;
}

ag_kv_found ag_kv_peek(const ag_kv *kv, uint64_t salt, const int32_t *tokens, uint32_t n_reusable)
{
    AG_CHECK(kv, KV_MAGIC);
    ag_kv_found found = {0};
    uint32_t at = NONE;
    for (uint32_t i = 0; salt != AG_KV_ALONE && i < n_reusable / kv->page_tokens; i++) {
        at = node_find(kv, at, salt, tokens + (size_t)i * kv->page_tokens);
        if (at == NONE) break;
        found.promised = kv->node[at].page == NONE;
        if (found.promised) break;
        found.tokens += kv->page_tokens;
        found.idle += kv->node[at].refs == 0;
    }
    return found;
}

static void reclaim_one(ag_kv *kv)
{
    AG_ASSERT(kv->n_heap > 0);
    uint32_t i = kv->heap[0];
    heap_remove(kv, i);
    page_free(kv, kv->node[i].page);
    kv->n_kept--;
    kv->reclaimed++;
    node_remove(kv, i);
}

bool ag_kv_reserve(ag_kv *kv, ag_kv_seq *s, uint32_t to)
{
    AG_CHECK(kv, KV_MAGIC);
    uint32_t need = to / kv->page_tokens + (to % kv->page_tokens != 0);
    if (need <= s->n) return true;
    AG_ASSERT(need <= s->cap);
    if (need - s->n > ag_kv_available(kv)) return false;
    while (s->n < need) {
        if (kv->n_free == 0) reclaim_one(kv);
        uint32_t page = kv->free[--kv->n_free];
        AG_ASSERT(!kv->taken[page]);
        kv->taken[page] = true;
        s->pages[s->n++] = page;
    }
    return true;
}

/* A promise that was kept, by its owner or by somebody else, who then ends the rest of them: who waits for those goes
 * on for himself, and no promise hangs below a page that its owner does not hold. */
static void promise_keep(ag_kv *kv, uint32_t i, ag_kv_seq *by)
{
    ag_kv_seq *owner = kv->node[i].owner;
    kv->node[i].owner = NULL;
    kv->n_promised--;
    if (owner->promised == i + 1) owner->promised = 0;
    if (owner != by) promises_void(kv, owner);
}

void ag_kv_publish(ag_kv *kv, ag_kv_seq *s, const int32_t *tokens, uint32_t computed)
{
    AG_CHECK(kv, KV_MAGIC);
    if (s->salt == AG_KV_ALONE) return;
    uint32_t whole = AG_MIN(computed / kv->page_tokens, s->n);
    uint32_t at = s->shared ? kv->node_of[s->pages[s->shared - 1]] : NONE;
    for (; s->shared < whole; s->shared++) {
        if (at != NONE && kv->node[at].detached) return;
        const int32_t *t = tokens + (size_t)s->shared * kv->page_tokens;
        uint32_t *page = &s->pages[s->shared], i = node_find(kv, at, s->salt, t);
        if (i != NONE && kv->node[i].page != NONE) { /* somebody was first: the same numbers lie there */
            node_use(kv, i);
            page_free(kv, *page);
            *page = kv->node[i].page;
        } else {
            if (i == NONE) i = node_add(kv, at, s->salt, t);
            else promise_keep(kv, i, s);
            kv->node[i].page = *page;
            kv->node[i].refs = 1;
            kv->node_of[*page] = i;
        }
        at = i;
    }
}

void ag_kv_drop(ag_kv *kv, ag_kv_seq *s)
{
    AG_CHECK(kv, KV_MAGIC);
    promises_void(kv, s);
    kv->tick++;
    while (s->n > s->shared) page_free(kv, s->pages[--s->n]);
    while (s->n > 0) node_leave(kv, kv->node_of[s->pages[--s->n]]);
    s->shared = s->waits = 0;
}

void ag_kv_leaving_begin(ag_kv *kv) { kv->round++; }

uint32_t ag_kv_leaving(ag_kv *kv, const ag_kv_seq *s)
{
    uint32_t more = s->n - s->shared;
    for (uint32_t i = 0; i < s->shared; i++) {
        kv_node *n = &kv->node[kv->node_of[s->pages[i]]];
        if (n->round != kv->round) n->leaving = 0;
        n->round = kv->round;
        more += ++n->leaving == n->refs;
    }
    return more;
}

void ag_kv_forget(ag_kv *kv)
{
    AG_CHECK(kv, KV_MAGIC);
    for (uint32_t i = 0; i < kv->n_nodes; i++)
        if (kv->node[i].alive && kv->node[i].owner) {
            ag_kv_seq *owner = kv->node[i].owner;
            promises_void(kv, owner);
        }
    while (kv->n_heap > 0) reclaim_one(kv);
    for (uint32_t i = 0; i < kv->n_nodes; i++) {
        kv_node *n = &kv->node[i];
        if (!n->alive || n->detached) continue;
        AG_ASSERT(n->refs > 0);
        bucket_unlink(kv, i);
        n->parent = NONE;
        n->children = 0;
        n->detached = true;
    }
}

/* ---- to a file and back ---- */

/* Whoever uses a page has used those before it, so a parent was never used earlier than what hangs below it. */
static int by_use(const void *a, const void *b)
{
    const ag_kv_kept *x = a, *y = b;
    if (x->used != y->used) return x->used > y->used ? -1 : 1;
    return x->depth < y->depth ? -1 : x->depth > y->depth;
}

uint32_t ag_kv_kept_list(const ag_kv *kv, ag_kv_kept *out)
{
    AG_CHECK(kv, KV_MAGIC);
    AG_ASSERT(kv->n_free + kv->n_kept == kv->pages && kv->n_promised == 0);
    uint32_t n = 0;
    for (uint32_t i = 0; i < kv->n_nodes; i++) {
        const kv_node *k = &kv->node[i];
        if (!k->alive) continue;
        uint32_t depth = 0;
        for (uint32_t up = k->parent; up != NONE; up = kv->node[up].parent) depth++;
        out[n++] = (ag_kv_kept){.page = k->page, .before = k->parent == NONE ? NONE : kv->node[k->parent].page,
                                .salt = k->salt, .used = k->used, .depth = depth,
                                .tokens = kv->tokens + (size_t)i * kv->page_tokens};
    }
    AG_ASSERT(n == kv->n_kept);
    qsort(out, n, sizeof *out, by_use);
    return n;
}

uint32_t ag_kv_kept_add(ag_kv *kv, uint32_t before, uint64_t salt, const int32_t *tokens)
{
    AG_CHECK(kv, KV_MAGIC);
    AG_ASSERT(kv->n_free + kv->n_kept == kv->pages && salt != AG_KV_ALONE);
    uint32_t parent = before == NONE ? NONE : kv->node_of[before];
    AG_ASSERT(before == NONE || parent != NONE);
    if (kv->n_free == 0 || node_find(kv, parent, salt, tokens) != NONE) return NONE;
    if (parent != NONE && kv->node[parent].heap != NONE) heap_remove(kv, parent);
    uint32_t page = kv->free[--kv->n_free], i = node_add(kv, parent, salt, tokens);
    kv->taken[page] = true;
    kv->node_of[page] = i;
    kv->node[i].page = page;
    /* Each was used before the one that came before it, and all of them before whatever comes now. */
    kv->tick = kv->pages;
    kv->node[i].used = kv->pages - ++kv->n_kept;
    heap_add(kv, i);
    return page;
}

/* ---- figures, checks ---- */

void ag_kv_stats_get(const ag_kv *kv, ag_kv_stats *out)
{
    AG_CHECK(kv, KV_MAGIC);
    *out = (ag_kv_stats){.pages = kv->pages,
                         .free = kv->n_free,
                         .used = kv->pages - kv->n_free - kv->n_kept,
                         .kept = kv->n_kept,
                         .hit_tokens = kv->hit_tokens,
                         .asked_tokens = kv->asked_tokens,
                         .reclaimed = kv->reclaimed};
}

static void verify_node(const ag_kv *kv, uint32_t i)
{
    const kv_node *n = &kv->node[i];
    if (n->page == NONE) {
        AG_ASSERT(n->owner && n->refs == 0 && n->heap == NONE && n->owner->promised);
        /* Promises hang below pages that their owner holds, or below his own promises. */
        if (n->parent != NONE) AG_ASSERT(kv->node[n->parent].owner == n->owner || kv->node[n->parent].refs > 0);
    } else {
        AG_ASSERT(n->owner == NULL && kv->taken[n->page] && kv->node_of[n->page] == i);
        AG_ASSERT((n->heap != NONE) == (n->refs == 0 && n->children == 0));
        if (n->heap != NONE) AG_ASSERT(kv->heap[n->heap] == i);
    }
    if (n->detached) AG_ASSERT(n->refs > 0 && n->parent == NONE && n->children == 0);
    else AG_ASSERT(node_find(kv, n->parent, n->salt, kv->tokens + (size_t)i * kv->page_tokens) == i);
    if (n->parent != NONE) AG_ASSERT(kv->node[n->parent].alive && kv->node[n->parent].refs >= (n->refs > 0));
}

void ag_kv_verify(const ag_kv *kv)
{
    AG_CHECK(kv, KV_MAGIC);
    uint32_t nodes = 0, promised = 0, kept = 0, leaves = 0, children = 0, hanging = 0;
    for (uint32_t i = 0; i < kv->n_nodes; i++) {
        const kv_node *n = &kv->node[i];
        if (!n->alive) continue;
        verify_node(kv, i);
        nodes++;
        promised += n->page == NONE;
        kept += n->page != NONE && n->refs == 0;
        leaves += n->heap != NONE;
        children += n->children;
        hanging += n->parent != NONE;
    }
    AG_ASSERT(promised == kv->n_promised && kept == kv->n_kept && leaves == kv->n_heap && children == hanging);
    uint32_t taken = 0, known = 0;
    for (uint32_t i = 0; i < kv->pages; i++) {
        taken += kv->taken[i];
        known += kv->node_of[i] != NONE;
        AG_ASSERT(kv->taken[i] || kv->node_of[i] == NONE);
    }
    for (uint32_t i = 0; i < kv->n_free; i++) AG_ASSERT(!kv->taken[kv->free[i]]);
    AG_ASSERT(taken + kv->n_free == kv->pages && known == nodes - promised);
}
