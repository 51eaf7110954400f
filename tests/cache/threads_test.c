/* Many threads on few entries: values are whole and whose they should be, counts add up, one renews. */
#include <stdatomic.h>

#include "cache_check.h"

enum { THREADS = 4, KEYS = 3000, TURNS = 30000, PURGES = 40 };

typedef struct crew {
    ag_cache *c;
    _Atomic uint64_t gets, puts, kept, purged, renewers;
    pthread_barrier_t start;
} crew;

typedef struct hand {
    crew *crew;
    uint64_t dice;
    pthread_t thread;
} hand;

static void *play(void *arg)
{
    hand *h = arg;
    crew *w = h->crew;
    for (int i = 0; i < TURNS; i++) {
        uint64_t draw = next_random(&h->dice), number = draw % KEYS, now = NOW + (uint64_t)i / 8;
        ag_cache_key k = key_of(number);
        ag_cache_meta meta;
        switch (draw >> 32 & 15) {
        case 0: w->purged += ag_cache_purge_key(w->c, &k); break;
        case 1: ag_cache_renew_failed(w->c, &k); break;
        case 2: case 3: case 4: case 5:
            w->puts++;
            meta = (ag_cache_meta){.fresh_until_ms = now + 20, .stale_until_ms = now + 21 + (draw >> 40) % 128,
                                   .labels = {1 + number % 3}};
            w->kept += put_at(w->c, number, draw >> 48 & 1 ? 60000 : 500, now, meta) == AG_OK;
            break;
        default:
            w->gets++;
            get_at(w->c, number, now);
        }
    }
    return NULL;
}

static void *purge_and_count(void *arg)
{
    hand *h = arg;
    for (int i = 0; i < PURGES; i++) {
        ag_cache *c = h->crew->c;
        h->crew->purged += i % 8 ? ag_cache_purge_label(c, 1 + (uint64_t)i % 3) : ag_cache_purge_all(c);
        ag_cache_stats s = stats_of(c);
        assert_true(s.bytes > 0 && s.entries <= KEYS);
    }
    return NULL;
}

static void start(crew *w, hand *h, unsigned n, void *(*main)(void *))
{
    for (unsigned i = 0; i < n; i++) {
        h[i] = (hand){.crew = w, .dice = i * 1000003u};
        assert_int_equal(pthread_create(&h[i].thread, NULL, main, &h[i]), 0);
    }
}

static void join(hand *h, unsigned n)
{
    for (unsigned i = 0; i < n; i++) pthread_join(h[i].thread, NULL);
}

static void all_calls_at_once(void **state)
{
    (void)state;
    for (size_t p = 0; p < AG_ARRAY_LEN(every_policy); p++) {
        crew w = {.c = opened(every_policy[p], 4 << 20, 4)};
        hand hands[THREADS], purger;
        start(&w, hands, THREADS, play);
        start(&w, &purger, 1, purge_and_count);
        join(hands, THREADS);
        join(&purger, 1);
        ag_cache_stats s = stats_of(w.c);
        assert_int_equal(s.hits + s.stale + s.misses, w.gets);
        assert_int_equal(s.puts, w.kept);
        assert_int_equal(s.puts + s.refused, w.puts);
        assert_int_equal(s.purged, w.purged);
        assert_true(s.evicted > 0 && s.expired > 0 && s.stale > 0 && s.bytes <= s.bytes_max);
        ag_cache_purge_all(w.c);
        ag_cache *empty = opened(every_policy[p], 4 << 20, 4);
        assert_int_equal(stats_of(w.c).bytes, stats_of(empty).bytes);
        ag_cache_close(empty);
        ag_cache_close(w.c);
    }
}

static void *renew(void *arg)
{
    crew *w = ((hand *)arg)->crew;
    pthread_barrier_wait(&w->start);
    w->renewers += get_at(w->c, 1, NOW + 1) == AG_CACHE_STALE;
    return NULL;
}

static void one_of_many_renews(void **state)
{
    (void)state;
    for (int turn = 0; turn < 100; turn++) {
        crew w = {.c = opened(NULL, AG_CACHE_BYTES_MIN, 1)};
        hand hands[THREADS];
        pthread_barrier_init(&w.start, NULL, THREADS);
        ag_cache_meta meta = {.fresh_until_ms = NOW, .stale_until_ms = NOW + 5};
        assert_int_equal(put_at(w.c, 1, 10, NOW, meta), AG_OK);
        start(&w, hands, THREADS, renew);
        join(hands, THREADS);
        assert_int_equal(w.renewers, 1);
        pthread_barrier_destroy(&w.start);
        ag_cache_close(w.c);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(all_calls_at_once),
        cmocka_unit_test(one_of_many_renews),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
