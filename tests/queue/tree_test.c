#include "queue/tree.h"

#include "check.h"

enum { N = 300 };

typedef struct thing { ag__tree_node node; uint64_t id; bool in; } thing;

static uint32_t roll(uint64_t *state, uint32_t n)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(*state >> 33) % n;
}

static thing *of(ag__tree_node *n) { return (thing *)((char *)n - offsetof(thing, node)); }
static bool precedes(const thing *a, const thing *b)
{
    return a->node.key != b->node.key ? a->node.key < b->node.key : a->id < b->id;
}
static bool below(const ag__tree_node *n, const void *arg) { return n->key < *(const ag__u128 *)arg; }

static void check(const ag__tree *t, thing *all)
{
    uint32_t n = 0;
    ag__u128 middle = 25;
    ag__tree_rank want_below = {0, 0};
    for (uint32_t i = 0; i < N; i++) {
        if (!all[i].in) continue;
        uint32_t before = 0;
        n++;
        for (uint32_t k = 0; k < N; k++) before += all[k].in && precedes(&all[k], &all[i]);
        assert_ptr_equal(of(ag__tree_at(t, before)), &all[i]);
        want_below.n += all[i].node.key < middle;
        want_below.cost += all[i].node.key < middle ? all[i].node.cost : 0;
    }
    ag__tree_rank got = ag__tree_below(t, below, &middle);
    assert_int_equal(got.n, want_below.n);
    assert_int_equal(got.cost, want_below.cost);
    assert_int_equal(ag__tree_count(t), n);
    assert_null(ag__tree_at(t, n));
    assert_ptr_equal(ag__tree_first(t), ag__tree_at(t, 0));
}

/* Few keys and few draws, so that both are alike often. */
static void test_against_scanning(void **state)
{
    (void)state;
    ag__tree t = {NULL};
    thing *all = calloc(N, sizeof *all);
    uint64_t random = 7;
    assert_null(ag__tree_first(&t));
    for (uint32_t i = 0; i < 20000; i++) {
        thing *x = &all[roll(&random, N)];
        x->id = (uint64_t)(x - all);
        if (x->in) ag__tree_remove(&t, &x->node);
        else ag__tree_insert(&t, &x->node, roll(&random, 50), x->id, roll(&random, 9),
                             roll(&random, i % 3 ? 1000000 : 3));
        x->in = !x->in;
        ag__tree_verify(&t);
        if (i % 100 == 0) check(&t, all);
    }
    free(all);
}

static uint32_t depth_of(const ag__tree_node *n)
{
    uint32_t left = n->left ? depth_of(n->left) : 0, right = n->right ? depth_of(n->right) : 0;
    return 1 + AG_MAX(left, right);
}

/* In whatever order they come, it is some logarithms deep. */
static void test_depth(void **state)
{
    (void)state;
    enum { MANY = 1 << 14 };
    thing *all = calloc(MANY, sizeof *all);
    for (int way = 0; way < 3; way++) {
        ag__tree t = {NULL};
        uint64_t random = 11;
        for (uint32_t i = 0; i < MANY; i++) {
            uint32_t key = way == 0 ? i : way == 1 ? MANY - i : i % 2 ? i : MANY * 2 - i;
            ag__tree_insert(&t, &all[i].node, key, 0, 1, roll(&random, UINT32_MAX));
        }
        assert_in_range(depth_of(t.root), 14, 14 * 4);
        for (uint32_t i = 0; i < MANY; i++) ag__tree_remove(&t, &all[i].node);
        assert_null(t.root);
    }
    free(all);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_against_scanning), cmocka_unit_test(test_depth)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
