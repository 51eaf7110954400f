#include "cache/cache.h"

#include <stdio.h>

#include "base/mem.h"
#include "cache/policy.h"

#define MAGIC 0x63616368u
#define SHARD_BYTES (4u << 20) /* at least, where the number of shards is ours to choose */
#define SHARDS_CHOSEN 64u
#define BUCKET_BYTES 512       /* of room for each bucket: the smallest entries are two or three of those */
#define PIECE 8u               /* entries that go while the lock is held, at most */
#define PURGE_BUCKETS 32u      /* that a purge looks at while it holds the lock */

typedef struct shard {
    pthread_mutex_t lock;
    uint32_t buckets;
    ag__entry **bucket;
    ag__policy *policy;
    ag_cache_stats stats; /* bytes: also of those that a put has reserved */
    ag__wheel wheel;
} shard;

struct ag_cache {
    uint32_t magic, n, shift;
    const ag__policy_ops *policy;
    shard *shard[AG_CACHE_SHARDS_MAX];
};

static shard *shard_of(const ag_cache *c, const ag_cache_key *k)
{
    return c->shard[c->n == 1 ? 0 : ag__key_word(k, 0) >> c->shift];
}
static ag__entry **bucket_of(const shard *s, const ag_cache_key *k)
{
    return &s->bucket[(ag__key_word(k, 0) & UINT32_MAX) * s->buckets >> 32];
}
static ag__entry *find(const shard *s, const ag_cache_key *k)
{
    ag__entry *e = *bucket_of(s, k);
    while (e && memcmp(e->key.b, k->b, AG_CACHE_KEY_BYTES) != 0) e = e->chain;
    return e;
}

/* Those that are gone, and wait for the lock to be free before their memory is given back. */
static void discard(ag__entry *gone)
{
    while (gone) {
        ag__entry *next = gone->chain;
        ag_cache_value_drop(gone->value);
        ag_mem_free(gone);
        gone = next;
    }
}

static void take_out(const ag_cache *c, shard *s, ag__entry *e, ag__entry **gone)
{
    ag__entry **at = bucket_of(s, &e->key);
    while (*at != e) at = &(*at)->chain;
    *at = e->chain;
    c->policy->remove(s->policy, e);
    ag__wheel_remove(&s->wheel, e);
    s->stats.bytes -= e->bytes;
    s->stats.entries--;
    e->chain = *gone;
    *gone = e;
}

static void shard_close(shard *s)
{
    if (s == NULL) return;
    for (uint32_t i = 0; i < s->buckets; i++) discard(s->bucket[i]);
    pthread_mutex_destroy(&s->lock);
    ag_mem_free(s->policy);
    ag_mem_free(s->bucket);
    ag_mem_free(s);
}

static shard *shard_open(const ag__policy_ops *policy, uint64_t bytes)
{
    shard *s = ag_mem_zalloc(sizeof *s);
    if (s == NULL) return NULL;
    pthread_mutex_init(&s->lock, NULL);
    uint64_t buckets = AG_MIN(bytes / BUCKET_BYTES, (uint64_t)UINT32_MAX);
    s->bucket = ag_mem_array(buckets, sizeof *s->bucket);
    s->policy = policy->open(bytes);
    if (s->bucket == NULL || s->policy == NULL) {
        shard_close(s);
        return NULL;
    }
    s->buckets = (uint32_t)buckets;
    s->stats.bytes_max = bytes;
    s->stats.bytes = ag_mem_cost(s) + ag_mem_cost(s->bucket) + ag_mem_cost(s->policy);
    AG_ASSERT(s->stats.bytes < bytes / 4);
    return s;
}

static int wrong_policy(const char *word, ag_err *err)
{
    static const char *const words[] = {
#define AG_CACHE_POLICY(word, open, add, hit, victim, remove, what) word,
#include "cache/policies.def"
#undef AG_CACHE_POLICY
    };
    char known[128] = "";
    for (size_t i = 0, n = 0; i < AG_ARRAY_LEN(words); i++) {
        const char *before = i == 0 ? "" : i + 1 < AG_ARRAY_LEN(words) ? ", " : " or ";
        int more = snprintf(known + n, sizeof known - n, "%s%s", before, words[i]);
        n += (size_t)more;
    }
    return ag_err_set(err, AG_E_PARAM, "the cache's policy \"%.40s\" is not known: it should be %s", word, known);
}

int ag_cache_open(ag_cache **out, const ag_cache_conf *conf, ag_err *err)
{
    *out = NULL;
    const ag__policy_ops *policy = ag__policy_find(conf->policy);
    if (policy == NULL) return wrong_policy(conf->policy, err);
    uint32_t n = conf->shards;
    if (n == 0)
        for (n = 1; n < SHARDS_CHOSEN && conf->bytes_max / (2 * n) >= SHARD_BYTES;) n *= 2;
    if (n > AG_CACHE_SHARDS_MAX || (n & (n - 1)) != 0)
        return ag_err_set(err, AG_E_PARAM, "a cache of %u shards: it should be a power of two, at most %u", n,
                          AG_CACHE_SHARDS_MAX);
    if (conf->bytes_max / n < AG_CACHE_BYTES_MIN)
        return ag_err_set(err, AG_E_PARAM, "a cache of %llu bytes in %u shards is too small: %u bytes a shard are the "
                          "least", (unsigned long long)conf->bytes_max, n, AG_CACHE_BYTES_MIN);
    if (conf->bytes_max / n > AG_CACHE_BYTES_MAX)
        return ag_err_set(err, AG_E_PARAM, "a cache of %llu bytes in %u shards is too large: %llu bytes a shard are "
                          "the most", (unsigned long long)conf->bytes_max, n, AG_CACHE_BYTES_MAX);
    ag_cache *c = ag_mem_zalloc(sizeof *c);
    if (c == NULL) return ag_err_set(err, AG_E_NOMEM, "no memory for a cache");
    c->magic = MAGIC;
    c->policy = policy;
    c->shift = 64 - (uint32_t)__builtin_ctz(n);
    for (; c->n < n; c->n++)
        if ((c->shard[c->n] = shard_open(policy, conf->bytes_max / n)) == NULL) {
            ag_cache_close(c);
            return ag_err_set(err, AG_E_NOMEM, "no memory for the tables of a cache of %llu bytes",
                              (unsigned long long)conf->bytes_max);
        }
    *out = c;
    return AG_OK;
}

void ag_cache_close(ag_cache *c)
{
    if (c == NULL) return;
    AG_CHECK(c, MAGIC);
    for (uint32_t i = 0; i < c->n; i++) shard_close(c->shard[i]);
    c->magic = 0;
    ag_mem_free(c);
}

static void tell(const ag__entry *e, ag_cache_meta *meta)
{
    *meta = (ag_cache_meta){.made_ms = e->made_ms, .fresh_until_ms = e->fresh_until_ms,
                            .stale_until_ms = e->stale_until_ms, .hits = e->hits};
    memcpy(meta->labels, e->labels, e->n_labels * sizeof e->labels[0]);
}

ag_cache_found ag_cache_get(ag_cache *c, const ag_cache_key *k, uint64_t now_ms, ag_cache_value **out,
                            ag_cache_meta *meta)
{
    AG_CHECK(c, MAGIC);
    shard *s = shard_of(c, k);
    ag_cache_found found = AG_CACHE_MISS;
    ag__entry *gone = NULL;
    *out = NULL;
    __builtin_prefetch(bucket_of(s, k)); /* while the lock is waited for */
    pthread_mutex_lock(&s->lock);
    ag__entry *e = find(s, k);
    if (e && e->stale_until_ms <= now_ms) {
        take_out(c, s, e, &gone);
        s->stats.expired++;
        e = NULL;
    }
    if (e) {
        found = now_ms < e->fresh_until_ms ? AG_CACHE_FRESH : e->renewing ? AG_CACHE_STALE_RENEWING : AG_CACHE_STALE;
        if (found != AG_CACHE_FRESH) e->renewing = true;
        *(found == AG_CACHE_FRESH ? &s->stats.hits : &s->stats.stale) += 1;
        if (e->hits < UINT32_MAX) e->hits++;
        c->policy->hit(s->policy, e);
        *out = ag_cache_value_hold(e->value);
        if (meta) tell(e, meta);
    } else {
        s->stats.misses++;
    }
    pthread_mutex_unlock(&s->lock);
    discard(gone);
    return found;
}

bool ag_cache_has(ag_cache *c, const ag_cache_key *k, uint64_t now_ms)
{
    AG_CHECK(c, MAGIC);
    shard *s = shard_of(c, k);
    pthread_mutex_lock(&s->lock);
    const ag__entry *e = find(s, k);
    bool there = e && now_ms < e->stale_until_ms;
    pthread_mutex_unlock(&s->lock);
    return there;
}

void ag_cache_renew_failed(ag_cache *c, const ag_cache_key *k)
{
    AG_CHECK(c, MAGIC);
    shard *s = shard_of(c, k);
    pthread_mutex_lock(&s->lock);
    ag__entry *e = find(s, k);
    if (e) e->renewing = false;
    pthread_mutex_unlock(&s->lock);
}

static int entry_make(ag__entry **out, const ag_cache_key *k, ag_cache_value *v, const ag_cache_meta *meta)
{
    uint8_t n = 0;
    for (unsigned i = 0; i < AG_CACHE_LABELS_MAX; i++) n += meta->labels[i] != 0;
    ag__entry *e = ag_mem_alloc(sizeof *e + n * sizeof e->labels[0]);
    if ((*out = e) == NULL) return AG_E_NOMEM;
    *e = (ag__entry){.key = *k, .value = v, .fresh_until_ms = meta->fresh_until_ms, .made_ms = meta->made_ms,
                     .stale_until_ms = meta->stale_until_ms, .bytes = (uint32_t)ag_mem_cost(e) + ag__value_cost(v)};
    for (unsigned i = 0; i < AG_CACHE_LABELS_MAX; i++)
        if (meta->labels[i] != 0) e->labels[e->n_labels++] = meta->labels[i];
    return AG_OK;
}

/* What was there under its key goes, and leaves it its fame. */
static void replace(const ag_cache *c, shard *s, ag__entry *e, ag__entry **gone)
{
    ag__entry *old = find(s, &e->key);
    if (old == NULL) return;
    e->uses = old->uses;
    e->queue = old->queue;
    take_out(c, s, old, gone);
}

typedef enum room { ROOM, ROOM_NOT_YET, ROOM_NEVER } room;

/* The too old go first, needed or not; a few at a time. */
static room make_room(const ag_cache *c, shard *s, uint64_t now_ms, ag__entry **gone)
{
    for (unsigned i = 0; i < PIECE; i++) {
        ag__entry *e = ag__wheel_due(&s->wheel, now_ms);
        if (e == NULL) {
            if (s->stats.bytes <= s->stats.bytes_max) return ROOM;
            e = c->policy->victim(s->policy, &s->wheel);
            if (e == NULL) return ROOM_NEVER;
        }
        *(e->stale_until_ms <= now_ms ? &s->stats.expired : &s->stats.evicted) += 1;
        take_out(c, s, e, gone);
    }
    return s->stats.bytes <= s->stats.bytes_max ? ROOM : ROOM_NOT_YET;
}

int ag_cache_put(ag_cache *c, const ag_cache_key *k, ag_cache_value *v, const ag_cache_meta *meta, uint64_t now_ms)
{
    AG_CHECK(c, MAGIC);
    shard *s = shard_of(c, k);
    ag__entry *e = NULL, *gone = NULL;
    int rc = meta->stale_until_ms <= now_ms || meta->stale_until_ms < meta->fresh_until_ms ? AG_E_PARAM : AG_OK;
    if (rc == AG_OK) rc = entry_make(&e, k, v, meta);
    if (rc == AG_OK && e->bytes > s->stats.bytes_max / 8) rc = AG_E_LIMIT;

    pthread_mutex_lock(&s->lock);
    if (rc == AG_OK) {
        /* Its bytes are reserved first, so that others who come while the lock is let go make room of their own. */
        s->stats.bytes += e->bytes;
        room r;
        for (;;) {
            replace(c, s, e, &gone);
            if ((r = make_room(c, s, now_ms, &gone)) != ROOM_NOT_YET) break;
            pthread_mutex_unlock(&s->lock);
            discard(gone);
            gone = NULL;
            pthread_mutex_lock(&s->lock);
        }
        if (r == ROOM) {
            ag_cache_value_hold(v);
            ag__entry **bucket = bucket_of(s, k);
            e->chain = *bucket;
            *bucket = e;
            c->policy->add(s->policy, e);
            ag__wheel_add(&s->wheel, e);
            s->stats.entries++;
            s->stats.puts++;
        } else { /* so many put at once that all room is reserved */
            s->stats.bytes -= e->bytes;
            rc = AG_E_LIMIT;
        }
    }
    if (rc != AG_OK) s->stats.refused++;
    pthread_mutex_unlock(&s->lock);
    if (rc != AG_OK) ag_mem_free(e);
    discard(gone);
    return rc;
}

bool ag_cache_purge_key(ag_cache *c, const ag_cache_key *k)
{
    AG_CHECK(c, MAGIC);
    shard *s = shard_of(c, k);
    ag__entry *gone = NULL;
    pthread_mutex_lock(&s->lock);
    ag__entry *e = find(s, k);
    if (e) {
        take_out(c, s, e, &gone);
        s->stats.purged++;
    }
    pthread_mutex_unlock(&s->lock);
    discard(gone);
    return e != NULL;
}

static bool has_label(const ag__entry *e, uint64_t label)
{
    for (unsigned i = 0; i < e->n_labels; i++)
        if (e->labels[i] == label) return true;
    return false;
}

/* label 0: all */
static uint64_t purge_walk(ag_cache *c, uint64_t label)
{
    AG_CHECK(c, MAGIC);
    uint64_t purged = 0;
    for (uint32_t i = 0; i < c->n; i++) {
        shard *s = c->shard[i];
        for (uint32_t from = 0; from < s->buckets; from += PURGE_BUCKETS) {
            ag__entry *gone = NULL;
            uint32_t end = AG_MIN(from + PURGE_BUCKETS, s->buckets);
            pthread_mutex_lock(&s->lock);
            for (uint32_t b = from; b < end; b++)
                for (ag__entry *e = s->bucket[b], *next; e; e = next) {
                    next = e->chain;
                    if (label != 0 && !has_label(e, label)) continue;
                    take_out(c, s, e, &gone);
                    s->stats.purged++;
                    purged++;
                }
            pthread_mutex_unlock(&s->lock);
            discard(gone);
        }
    }
    return purged;
}

uint64_t ag_cache_purge_label(ag_cache *c, uint64_t label)
{
    AG_ASSERT(label != 0);
    return purge_walk(c, label);
}

uint64_t ag_cache_purge_all(ag_cache *c) { return purge_walk(c, 0); }

uint64_t ag_cache_purge(ag_cache *c, const ag_cache_key *k, uint64_t label)
{
    if (k) return ag_cache_purge_key(c, k);
    return label ? ag_cache_purge_label(c, label) : ag_cache_purge_all(c);
}

void ag_cache_stats_get(ag_cache *c, ag_cache_stats *out)
{
    AG_CHECK(c, MAGIC);
    *out = (ag_cache_stats){0};
    for (uint32_t i = 0; i < c->n; i++) {
        shard *s = c->shard[i];
        pthread_mutex_lock(&s->lock);
        ag_cache_stats one = s->stats;
        pthread_mutex_unlock(&s->lock);
        out->entries += one.entries;
        out->bytes += one.bytes;
        out->bytes_max += one.bytes_max;
        out->hits += one.hits;
        out->stale += one.stale;
        out->misses += one.misses;
        out->puts += one.puts;
        out->refused += one.refused;
        out->evicted += one.evicted;
        out->expired += one.expired;
        out->purged += one.purged;
    }
}
