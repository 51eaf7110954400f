#include "queue/order.h"

#include "base/mem.h"

typedef ag__order_node node;

typedef struct ag__order_chunk {
    struct ag__order_chunk *next, *next_fresh;
    uint32_t n_fresh;
    node nodes[];
} ag__order_chunk;

#define CHUNK_MIN 16

/* --- nodes -------------------------------------------------------------------------------------------------------- */

bool ag__order_reserve(ag__order_pool *p, uint32_t entries, uint32_t orders)
{
    /* All nodes but the root have AG__ORDER_MIN slots or more: of k entries at most k/4 leaves, k/16 above them, ... */
    uint64_t want = (uint64_t)entries / (AG__ORDER_MIN - 1) + AG_MIN(entries, orders) + 1;
    if (want <= p->made) return true;
    uint64_t more = AG_MAX(AG_MAX(want - p->made, (uint64_t)p->made), (uint64_t)CHUNK_MIN);
    if (p->made + more > UINT32_MAX) return false;
    ag__order_chunk *c = ag_mem_alloc(sizeof *c + more * sizeof(node)); /* not cleared: the unused costs nothing */
    if (c == NULL) return false;
    *c = (ag__order_chunk){.next = p->chunks, .next_fresh = p->fresh, .n_fresh = (uint32_t)more};
    p->chunks = p->fresh = c;
    p->made += (uint32_t)more;
    return true;
}

void ag__order_pool_free(ag__order_pool *p)
{
    AG_ASSERT(p->used == 0);
    while (p->chunks != NULL) {
        ag__order_chunk *c = p->chunks;
        p->chunks = c->next;
        ag_mem_free(c);
    }
}

static node *take(ag__order_pool *p, bool leaf)
{
    node *x = p->free;
    if (x != NULL) {
        p->free = x->at[0];
    } else {
        ag__order_chunk *c = p->fresh;
        AG_ASSERT(c != NULL);
        x = &c->nodes[--c->n_fresh];
        if (c->n_fresh == 0) p->fresh = c->next_fresh;
    }
    p->used++;
    x->n = 0;
    x->leaf = leaf;
    return x;
}

static void give(ag__order_pool *p, node *x)
{
    x->at[0] = p->free;
    p->free = x;
    p->used--;
}

/* Slots of one node, or of two. */
static void move(node *to, uint32_t i, const node *from, uint32_t k, uint32_t n)
{
    memmove(&to->key[i], &from->key[k], n * sizeof to->key[0]);
    memmove((void *)&to->at[i], (const void *)&from->at[k], n * sizeof to->at[0]);
    memmove(&to->cost[i], &from->cost[k], n * sizeof to->cost[0]);
    memmove(&to->count[i], &from->count[k], n * sizeof to->count[0]);
}

static void put(node *x, uint32_t i, ag__u128 key, void *at, uint64_t cost, uint32_t count)
{
    move(x, i + 1, x, i, x->n - i);
    x->n++;
    x->key[i] = key;
    x->at[i] = at;
    x->cost[i] = cost;
    x->count[i] = count;
}

static void cut(node *x, uint32_t i)
{
    x->n--;
    move(x, i, x, i + 1, x->n - i);
}

static ag__tree_rank total(const node *x)
{
    ag__tree_rank r = {0, 0};
    for (uint32_t i = 0; i < x->n; i++) {
        r.n += x->count[i];
        r.cost += x->cost[i];
    }
    return r;
}

/* How many of its keys are below. */
static uint32_t below(const node *x, ag__u128 key)
{
    uint32_t i = 0;
    while (i < x->n && x->key[i] < key) i++;
    return i;
}

/* The child in whose range the key lies. */
static uint32_t child_of(const node *x, ag__u128 key)
{
    uint32_t i = 1;
    while (i < x->n && x->key[i] <= key) i++;
    return i - 1;
}

/* --- in ----------------------------------------------------------------------------------------------------------- */

/* Child i of x, which is full, becomes two; x is not full. */
static void split(ag__order_pool *p, node *x, uint32_t i)
{
    node *c = x->at[i], *right = take(p, c->leaf);
    uint32_t half = c->n / 2;
    move(right, 0, c, half, c->n - half);
    right->n = c->n - half;
    c->n = half;
    ag__tree_rank r = total(right);
    x->cost[i] -= r.cost;
    x->count[i] -= r.n;
    put(x, i + 1, right->key[0], right, r.cost, r.n);
}

void ag__order_insert(ag__order_pool *p, ag__order *o, ag__u128 key, void *entry, uint64_t cost)
{
    if (o->root == NULL) o->root = take(p, true);
    if (o->root->n == AG__ORDER_SLOTS) {
        node *old = o->root;
        ag__tree_rank r = total(old);
        o->root = take(p, false);
        put(o->root, 0, old->key[0], old, r.cost, r.n);
        split(p, o->root, 0);
    }
    node *x = o->root;
    while (!x->leaf) {
        uint32_t i = child_of(x, key);
        if (((node *)x->at[i])->n == AG__ORDER_SLOTS) {
            split(p, x, i);
            i = child_of(x, key);
        }
        if (key < x->key[i]) x->key[i] = key; /* before all there are */
        x->cost[i] += cost;
        x->count[i]++;
        x = x->at[i];
    }
    put(x, below(x, key), key, entry, cost, 1);
}

/* --- out ---------------------------------------------------------------------------------------------------------- */

/* Children i and i + 1 of x become one where they fit into one, else alike. */
static void even_out(ag__order_pool *p, node *x, uint32_t i)
{
    node *a = x->at[i], *b = x->at[i + 1];
    uint32_t all = a->n + b->n, half = all / 2;
    if (all <= AG__ORDER_SLOTS) {
        move(a, a->n, b, 0, b->n);
        a->n = all;
        x->cost[i] += x->cost[i + 1];
        x->count[i] += x->count[i + 1];
        cut(x, i + 1);
        give(p, b);
        return;
    }
    if (a->n < half) {
        uint32_t n = half - a->n;
        move(a, a->n, b, 0, n);
        move(b, 0, b, n, b->n - n);
    } else {
        uint32_t n = a->n - half;
        move(b, n, b, 0, b->n);
        move(b, 0, a, half, n);
    }
    a->n = half;
    b->n = all - half;
    ag__tree_rank r = total(b);
    x->cost[i] += x->cost[i + 1] - r.cost;
    x->count[i] += x->count[i + 1] - r.n;
    x->cost[i + 1] = r.cost;
    x->count[i + 1] = r.n;
    x->key[i + 1] = b->key[0];
}

void ag__order_remove(ag__order_pool *p, ag__order *o, ag__u128 key, uint64_t cost)
{
    AG_ASSERT(o->root != NULL);
    node *x = o->root;
    while (!x->leaf) {
        uint32_t i = child_of(x, key);
        if (((node *)x->at[i])->n <= AG__ORDER_MIN) {
            even_out(p, x, i + 1 < x->n ? i : i - 1);
            if (x == o->root && x->n == 1) { /* one level less */
                o->root = x->at[0];
                give(p, x);
                x = o->root;
                continue;
            }
            i = child_of(x, key);
        }
        x->cost[i] -= cost;
        x->count[i]--;
        x = x->at[i];
    }
    uint32_t i = below(x, key);
    AG_ASSERT(i < x->n && x->key[i] == key && x->cost[i] == cost);
    cut(x, i);
    if (o->root->n > 0) return;
    give(p, o->root);
    o->root = NULL;
}

/* --- questions ---------------------------------------------------------------------------------------------------- */

void *ag__order_first(const ag__order *o)
{
    const node *x = o->root;
    if (x == NULL) return NULL;
    while (!x->leaf) x = x->at[0];
    return x->at[0];
}

ag__tree_rank ag__order_below(const ag__order *o, ag__u128 key)
{
    ag__tree_rank r = {0, 0};
    for (const node *x = o->root; x != NULL;) {
        uint32_t i = x->leaf ? below(x, key) : child_of(x, key);
        for (uint32_t k = 0; k < i; k++) {
            r.n += x->count[k];
            r.cost += x->cost[k];
        }
        x = x->leaf ? NULL : x->at[i];
    }
    return r;
}

typedef struct walk {
    void (*each)(void *arg, void *entry, ag__u128 key, uint64_t cost);
    void *arg;
    ag__u128 last;
    bool any;
} walk;

static void verify(const node *x, const node *root, ag__u128 least, walk *w)
{
    AG_ASSERT(x->n >= (x != root ? AG__ORDER_MIN : x->leaf ? 1 : 2) && x->n <= AG__ORDER_SLOTS);
    for (uint32_t i = 0; i < x->n; i++) {
        AG_ASSERT(x->key[i] >= least && (i == 0 || x->key[i - 1] < x->key[i]));
        if (!x->leaf) {
            ag__tree_rank r = total(x->at[i]);
            AG_ASSERT(r.n == x->count[i] && r.cost == x->cost[i]);
            verify(x->at[i], root, x->key[i], w);
            continue;
        }
        AG_ASSERT(x->count[i] == 1 && (!w->any || w->last < x->key[i]));
        w->last = x->key[i];
        w->any = true;
        w->each(w->arg, x->at[i], x->key[i], x->cost[i]);
    }
}

void ag__order_verify(const ag__order *o, void (*each)(void *arg, void *entry, ag__u128 key, uint64_t cost), void *arg)
{
    walk w = {.each = each, .arg = arg};
    if (o->root != NULL) verify(o->root, o->root, 0, &w);
}
