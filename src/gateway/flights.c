#include "gateway/flights.h"

#include <pthread.h>

#include "base/mem.h"

#define SHARDS 16u
#define CHAINS 256u /* of a shard */

typedef struct shard {
    pthread_mutex_t lock;
    ag_flight *chains[CHAINS];
} shard;

struct ag_flights {
    shard shards[SHARDS];
};

int ag_flights_open(ag_flights **out)
{
    ag_flights *t = ag_mem_zalloc(sizeof *t);
    if (t == NULL) return AG_E_NOMEM;
    for (uint32_t i = 0; i < SHARDS; i++) pthread_mutex_init(&t->shards[i].lock, NULL);
    *out = t;
    return AG_OK;
}

void ag_flights_close(ag_flights *t)
{
    if (t == NULL) return;
    for (uint32_t i = 0; i < SHARDS; i++) {
        for (uint32_t k = 0; k < CHAINS; k++) AG_ASSERT(t->shards[i].chains[k] == NULL);
        pthread_mutex_destroy(&t->shards[i].lock);
    }
    ag_mem_free(t);
}

static shard *shard_of(ag_flights *t, const ag_cache_key *k) { return &t->shards[k->b[0] % SHARDS]; }
static ag_flight **chain_of(ag_flights *t, const ag_cache_key *k) { return &shard_of(t, k)->chains[k->b[1] % CHAINS]; }

ag_flight *ag_flights_enter(ag_flights *t, const ag_cache_key *k)
{
    pthread_mutex_lock(&shard_of(t, k)->lock);
    ag_flight *f = *chain_of(t, k);
    while (f && memcmp(&f->key, k, sizeof *k) != 0) f = f->next;
    return f;
}

void ag_flights_leave(ag_flights *t, const ag_cache_key *k) { pthread_mutex_unlock(&shard_of(t, k)->lock); }

void ag_flights_unlist(ag_flights *t, ag_flight *f)
{
    if (!f->listed) return;
    ag_flight **at = chain_of(t, &f->key);
    while (*at != f) at = &(*at)->next;
    *at = f->next;
    f->listed = false;
}

int ag_flights_add(ag_flights *t, const ag_cache_key *k, ag_gen *const *gens, uint32_t n, ag_flight **out)
{
    ag_flight *f = ag_mem_zalloc(sizeof *f + n * sizeof(ag_gen *)), **chain = chain_of(t, k), *old = *chain;
    if (f == NULL) return AG_E_NOMEM;
    while (old && memcmp(&old->key, k, sizeof *k) != 0) old = old->next;
    if (old) ag_flights_unlist(t, old);
    f->key = *k;
    f->holders = 1;
    f->n = n;
    memcpy((void *)f->gens, (const void *)gens, n * sizeof(ag_gen *));
    f->listed = true;
    f->next = *chain;
    *chain = f;
    *out = f;
    return AG_OK;
}

void ag_flights_hold(ag_flight *f) { f->holders++; }

bool ag_flights_drop(ag_flights *t, ag_flight *f)
{
    ag_cache_key key = f->key;
    ag_flights_enter(t, &key);
    bool last = --f->holders == 0;
    if (last) ag_flights_unlist(t, f);
    ag_flights_leave(t, &key);
    if (!last) return false;
    bool kept = atomic_load(&f->kept);
    for (uint32_t i = 0; i < f->n; i++) ag_gen_put(f->gens[i]);
    ag_mem_free(f);
    return !kept;
}

void ag_flights_landed(ag_flights *t, ag_flight *f)
{
    ag_flights_enter(t, &f->key);
    ag_flights_unlist(t, f);
    ag_flights_leave(t, &f->key);
}
