/* Random calls against a cache that scans everything: the same entries are in after each of them. AG_SEED=n repeats a
 * run. */
#include "cache_check.h"

enum { KEYS = 400, TURNS = 40000 };

typedef struct thing {
    bool in, renewing;
    uint64_t used, bytes, label, fresh, stale, put; /* used: a stamp */
    uint64_t rank;
    uint32_t uses;
} thing;

typedef struct model {
    ag_cache *c;
    thing t[KEYS];
    uint64_t bytes, bytes_max, stamp, floor, dice, now, evicted;
} model;

static uint64_t seed_of(void)
{
    const char *s = getenv("AG_SEED");
    return s ? strtoull(s, NULL, 10) : 20260101;
}

static uint64_t roll(model *m, uint64_t n) { return next_random(&m->dice) % n; }

static uint64_t cost_of(size_t value, unsigned labels)
{
    void *entry = ag_mem_alloc(sizeof(ag__entry) + labels * sizeof(uint64_t));
    ag_cache_value *v = value_of(0, value);
    uint64_t cost = ag_mem_cost(entry) + ag__value_cost(v);
    ag_mem_free(entry);
    ag_cache_value_drop(v);
    return cost;
}

static void leave(model *m, thing *t)
{
    t->in = false;
    m->bytes -= t->bytes;
}

/* By the policy's definition. */
static thing *lru_first(model *m)
{
    thing *first = NULL;
    for (thing *t = m->t; t < m->t + KEYS; t++)
        if (t->in && (first == NULL || t->used < first->used)) first = t;
    return first;
}
static thing *lfu_first(model *m)
{
    thing *first = NULL;
    for (thing *t = m->t; t < m->t + KEYS; t++)
        if (t->in && (first == NULL || t->rank < first->rank || (t->rank == first->rank && t->used < first->used)))
            first = t;
    if (first) m->floor = first->rank;
    return first;
}
static void use(model *m, thing *t)
{
    t->used = ++m->stamp;
    t->uses = AG_MIN(t->uses + 1, 255u);
    t->rank = m->floor + t->uses;
}

static void same_entries(model *m)
{
    uint64_t n = 0;
    for (uint64_t i = 0; i < KEYS; i++) {
        assert_int_equal(is_in(m->c, i), m->t[i].in);
        n += m->t[i].in;
    }
    assert_int_equal(stats_of(m->c).entries, n);
    assert_int_equal(stats_of(m->c).bytes, m->bytes);
    assert_int_equal(stats_of(m->c).evicted, m->evicted);
}

static void model_put(model *m, uint64_t number, thing *(*first)(model *m))
{
    thing *t = &m->t[number];
    size_t size = roll(m, 10) ? roll(m, 4000) : roll(m, 20000);
    uint64_t far = NOW + DAY_MS;
    t->label = 1 + roll(m, 4);
    if (t->in) leave(m, t);
    else t->uses = 0;
    t->bytes = cost_of(size, 1);
    m->bytes += t->bytes;
    while (m->bytes > m->bytes_max) {
        leave(m, first(m));
        m->evicted++;
    }
    t->in = true;
    t->used = ++m->stamp;
    t->uses = AG_MAX(t->uses, 1u);
    t->rank = m->floor + t->uses;
    assert_int_equal(put_at(m->c, number, size, NOW, (ag_cache_meta){.fresh_until_ms = far, .stale_until_ms = far,
                                                                   .labels = {t->label}}), AG_OK);
}

static void play(const char *policy, thing *(*first)(model *m))
{
    model m = {.c = opened(policy, AG_CACHE_BYTES_MIN, 1), .dice = seed_of()};
    m.bytes = stats_of(m.c).bytes, m.bytes_max = stats_of(m.c).bytes_max;
    for (int turn = 0; turn < TURNS; turn++) {
        uint64_t number = roll(&m, roll(&m, 2) ? KEYS : KEYS / 8);
        ag_cache_key k = key_of(number);
        switch (roll(&m, 40)) {
        case 0:
            assert_int_equal(ag_cache_purge_key(m.c, &k), m.t[number].in);
            if (m.t[number].in) leave(&m, &m.t[number]);
            break;
        case 1: {
            uint64_t label = 1 + roll(&m, 4), n = 0;
            if (turn % 16) break;
            for (thing *t = m.t; t < m.t + KEYS; t++)
                if (t->in && t->label == label) leave(&m, t), n++;
            assert_int_equal(ag_cache_purge_label(m.c, label), n);
            break;
        }
        case 2: case 3: case 4: case 5: case 6: case 7: case 8: case 9: case 10: model_put(&m, number, first); break;
        default:
            assert_int_equal(get(m.c, number), m.t[number].in ? AG_CACHE_FRESH : AG_CACHE_MISS);
            if (m.t[number].in) use(&m, &m.t[number]);
        }
        same_entries(&m);
    }
    assert_true(m.evicted > TURNS / 20);
    ag_cache_close(m.c);
}

static void lru_as_by_scanning(void **state) { (void)state, play("lru", lru_first); }
static void lfu_as_by_scanning(void **state) { (void)state, play("lfu", lfu_first); }

/* Who was put out would have been too old before, or hardly after, all who stayed; and no more went than had to. */
static void ttl_as_by_scanning(void **state)
{
    (void)state;
    model m = {.c = opened("ttl", AG_CACHE_BYTES_MIN, 1), .dice = seed_of(), .now = NOW};
    m.bytes = stats_of(m.c).bytes, m.bytes_max = stats_of(m.c).bytes_max;
    for (int turn = 0; turn < TURNS; turn++) {
        uint64_t number = roll(&m, KEYS);
        thing *t = &m.t[number];
        m.now += roll(&m, 20);
        if (roll(&m, 3) == 0) {
            assert_int_equal(get_at(m.c, number, m.now), t->in && t->stale > m.now ? AG_CACHE_FRESH : AG_CACHE_MISS);
            if (t->in && t->stale <= m.now) leave(&m, t);
            continue;
        }
        size_t size = roll(&m, 4000);
        uint64_t evicted = stats_of(m.c).evicted, latest = 0, largest = 0;
        if (t->in) leave(&m, t);
        uint64_t ttl = 1 + roll(&m, (uint64_t)1 << (8 + roll(&m, 22)));
        *t = (thing){.in = true, .bytes = cost_of(size, 0), .put = m.now, .stale = m.now + ttl};
        m.bytes += t->bytes;
        ag_cache_meta meta = {.fresh_until_ms = t->stale, .stale_until_ms = t->stale};
        assert_int_equal(put_at(m.c, number, size, m.now, meta), AG_OK);
        assert_true(is_in(m.c, number));
        for (uint64_t i = 0; i < KEYS; i++) {
            thing *other = &m.t[i];
            if (!other->in || is_in(m.c, i)) continue;
            leave(&m, other);
            if (other->stale <= m.now) continue;
            latest = AG_MAX(latest, other->stale);
            largest = AG_MAX(largest, other->bytes);
            m.evicted++;
        }
        assert_int_equal(stats_of(m.c).evicted, m.evicted);
        assert_int_equal(stats_of(m.c).bytes, m.bytes);
        if (m.evicted == evicted) continue;
        assert_true(m.bytes + largest > m.bytes_max);
        for (uint64_t i = 0; i < KEYS; i++)
            if (m.t[i].in && i != number) assert_true(m.t[i].stale + (m.t[i].stale - m.t[i].put) / 15 + 1 >= latest);
    }
    assert_true(m.evicted > TURNS / 50);
    assert_true(stats_of(m.c).expired > TURNS / 500);
    ag_cache_close(m.c);
}

/* With room for all, every answer is as its times say. */
static void ages_as_by_the_clock(void **state)
{
    (void)state;
    for (size_t p = 0; p < AG_ARRAY_LEN(every_policy); p++) {
        model m = {.c = opened(every_policy[p], 16 << 20, 2), .dice = seed_of(), .now = NOW};
        uint32_t seen[4] = {0};
        for (int turn = 0; turn < TURNS; turn++) {
            uint64_t number = roll(&m, KEYS);
            thing *t = &m.t[number];
            ag_cache_key k = key_of(number);
            m.now += roll(&m, 3);
            if (roll(&m, 8) == 0) {
                t->in = true, t->renewing = false;
                t->fresh = m.now + roll(&m, 300), t->stale = AG_MAX(m.now + 1, t->fresh + roll(&m, 300));
                ag_cache_meta meta = {.fresh_until_ms = t->fresh, .stale_until_ms = t->stale};
                assert_int_equal(put_at(m.c, number, roll(&m, 500), m.now, meta), AG_OK);
            } else if (roll(&m, 20) == 0) {
                ag_cache_renew_failed(m.c, &k);
                t->renewing = false;
            } else {
                if (t->stale <= m.now) t->in = false;
                ag_cache_found found = !t->in ? AG_CACHE_MISS : m.now < t->fresh ? AG_CACHE_FRESH
                                     : t->renewing ? AG_CACHE_STALE_RENEWING : AG_CACHE_STALE;
                if (found == AG_CACHE_STALE) t->renewing = true;
                assert_int_equal(get_at(m.c, number, m.now), found);
                seen[found]++;
            }
        }
        for (int i = 0; i < 4; i++) assert_true(seen[i] > 100);
        assert_int_equal(stats_of(m.c).evicted, 0);
        ag_cache_close(m.c);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lru_as_by_scanning),
        cmocka_unit_test(lfu_as_by_scanning),
        cmocka_unit_test(ttl_as_by_scanning),
        cmocka_unit_test(ages_as_by_the_clock),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
