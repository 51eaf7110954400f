#include "queue/tree.h"

static uint32_t count_of(const ag__tree_node *n) { return n == NULL ? 0 : n->count; }
static uint64_t sum_of(const ag__tree_node *n) { return n == NULL ? 0 : n->sum; }

static bool before(const ag__tree_node *a, const ag__tree_node *b)
{
    return a->key != b->key ? a->key < b->key : a->then < b->then;
}

/* Puts `by` (or nothing) where n hangs. */
static void replace(ag__tree *t, ag__tree_node *n, ag__tree_node *by)
{
    ag__tree_node *p = n->parent;
    if (p == NULL) t->root = by;
    else if (p->left == n) p->left = by;
    else p->right = by;
    if (by != NULL) by->parent = p;
}

/* n changes places with its parent. Of the subtrees only the one that changes hands is touched: among very many
 * nodes the others are not in a cache. */
static void rotate_up(ag__tree *t, ag__tree_node *n)
{
    ag__tree_node *p = n->parent, *moved = p->left == n ? n->right : n->left;
    bool left = p->left == n;
    replace(t, p, n);
    *(left ? &p->left : &p->right) = moved;
    *(left ? &n->right : &n->left) = p;
    p->parent = n;
    if (moved != NULL) moved->parent = p;
    uint32_t count = p->count;
    uint64_t sum = p->sum;
    p->count = count - n->count + count_of(moved);
    p->sum = sum - n->sum + sum_of(moved);
    n->count = count;
    n->sum = sum;
}

void ag__tree_insert(ag__tree *t, ag__tree_node *n, ag__u128 key, ag__u128 then, uint64_t cost, uint32_t draw)
{
    ag__tree_node *p = NULL, **link = &t->root;
    *n = (ag__tree_node){.key = key, .then = then, .count = 1, .draw = draw, .cost = cost, .sum = cost};
    while (*link != NULL) {
        p = *link;
        p->count++;
        p->sum += cost;
        link = before(n, p) ? &p->left : &p->right;
    }
    n->parent = p;
    *link = n;
    while (n->parent != NULL && n->draw > n->parent->draw) rotate_up(t, n);
}

void ag__tree_remove(ag__tree *t, ag__tree_node *n)
{
    while (n->left != NULL && n->right != NULL) rotate_up(t, n->left->draw > n->right->draw ? n->left : n->right);
    replace(t, n, n->left != NULL ? n->left : n->right);
    for (ag__tree_node *p = n->parent; p != NULL; p = p->parent) {
        p->count--;
        p->sum -= n->cost;
    }
}

ag__tree_node *ag__tree_first(const ag__tree *t)
{
    ag__tree_node *n = t->root;
    while (n != NULL && n->left != NULL) n = n->left;
    return n;
}

ag__tree_node *ag__tree_at(const ag__tree *t, uint32_t i)
{
    ag__tree_node *n = t->root;
    while (n != NULL && i != count_of(n->left)) {
        bool left = i < count_of(n->left);
        if (!left) i -= count_of(n->left) + 1;
        n = left ? n->left : n->right;
    }
    return n;
}

ag__tree_rank ag__tree_below(const ag__tree *t, ag__tree_is *below, const void *arg)
{
    ag__tree_rank r = {0, 0};
    const ag__tree_node *n = t->root;
    while (n != NULL) {
        bool is = below(n, arg);
        if (is) {
            r.n += 1 + count_of(n->left);
            r.cost += n->cost + sum_of(n->left);
        }
        n = is ? n->right : n->left;
    }
    return r;
}

void ag__tree_verify(const ag__tree *t)
{
    uint32_t n = ag__tree_count(t);
    AG_ASSERT(t->root == NULL || t->root->parent == NULL);
    const ag__tree_node *last = NULL;
    for (uint32_t i = 0; i < n; i++) {
        const ag__tree_node *x = ag__tree_at(t, i);
        AG_ASSERT(x != NULL && (last == NULL || before(last, x)));
        AG_ASSERT(x->left == NULL || (x->left->parent == x && x->left->draw <= x->draw));
        AG_ASSERT(x->right == NULL || (x->right->parent == x && x->right->draw <= x->draw));
        AG_ASSERT(x->count == 1 + count_of(x->left) + count_of(x->right));
        AG_ASSERT(x->sum == x->cost + sum_of(x->left) + sum_of(x->right));
        last = x;
    }
}
