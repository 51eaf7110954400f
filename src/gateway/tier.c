#include "gateway/tier.h"

#include <sodium.h>
#include <stdio.h>

#include "base/mem.h"
#include "gateway/guard.h"
#include "gateway/tier_inner.h"

#define WRITE_MS 1000u      /* for the answer to a store */
#define TICK_MS 1000u
#define TTL_MAX_MS (7ull * 86400 * 1000)
#define PURGES_AT_ONCE 64
#define PURGES_BYTES (AG_TIER_PURGES_MAX * 2 * (AG_TIER_PURGE_NAME_MAX + 22u))
#define WRITER_BYTES (64u << 10)
#define PAUSE_MIN_MS 5u
#define PAUSE_MAX_MS 100u
#define SAY_AGAIN_US 60000000u

enum { TAKEN, OURS, NONE, FOREIGN = 4 }; /* as tier.lua says */

__asm__(".pushsection .rodata\n"
        ".global ag__tier_lua, ag__tier_lua_end\n"
        "ag__tier_lua: .incbin \"" AG_LUA_FILE "\"\n"
        "ag__tier_lua_end: .byte 0\n"
        ".popsection");
extern const char ag__tier_lua[], ag__tier_lua_end[];

/* A key's two names are in one slot of a Cluster's proxy. */
void ag__tier_names_of(const ag_tier *t, const ag_cache_key *k, ag__tier_names *out)
{
    char hex[2 * AG_CACHE_KEY_BYTES + 1];
    sodium_bin2hex(hex, sizeof hex, k->b, sizeof k->b);
    snprintf(out->value, sizeof out->value, "%sc:{%s}", t->prefix, hex);
    snprintf(out->lock, sizeof out->lock, "%sl:{%s}", t->prefix, hex);
}

/* Those that wait for another server. */

static void link_wait(ag__tier_find *ring, ag__tier_find *f)
{
    f->prev = ring->prev;
    f->next = ring;
    ring->prev->next = f;
    ring->prev = f;
}

static void cut_wait(ag__tier_find *f)
{
    f->prev->next = f->next;
    f->next->prev = f->prev;
    f->prev = f->next = NULL;
}

static void finish(ag__tier_find *f, ag_tier_result result)
{
    ag_tier_call *c = f->call;
    ag_mem_free(f);
    c->find = NULL;
    c->result = result;
    c->done(c->arg);
}

static void wait_more(ag__tier_find *f)
{
    ag__tier_loop *on = f->on;
    const ag_tier *t = on->tier;
    uint64_t now = ag_now_us(), end = f->began_us + t->lock_ms * 1000ull;
    if (f->call->until_us) end = AG_MIN(end, f->call->until_us);
    if (now >= end || on->n_waits == AG_TIER_WAITS_MAX || on->reader.redis == NULL) {
        finish(f, AG_TIER_MISS);
        return;
    }
    if (f->pause_ms == 0) ag_metric_add(t->metrics, AG_M_TIER_WAITED, 0, 1);
    f->pause_ms = f->pause_ms ? AG_MIN(2 * f->pause_ms, PAUSE_MAX_MS) : PAUSE_MIN_MS;
    f->due_us = AG_MIN(now + f->pause_ms * 1000ull, end);
    link_wait(&on->waits, f);
    if (on->n_waits++ == 0) ag_redis_alarm(on->reader.redis, PAUSE_MIN_MS);
}

/* Lookups. */

static void take_value(ag__tier_find *f, const redisReply *reply)
{
    const ag_tier *t = f->on->tier;
    ag_tier_call *c = f->call;
    uint64_t now_ms = f->wall_ms + (ag_now_us() - f->began_us) / 1000;
    int rc = ag_tier_unpack(f->on->unpacker, &f->key, reply->str, reply->len, &c->value, &c->meta);
    bool hit = rc == AG_OK && now_ms < c->meta.stale_until_ms && !ag_tier_purges_hold(t->purges, &f->key, &c->meta);
    if (rc == AG_E_PARAM) ag_metric_add(t->metrics, AG_M_TIER_FOREIGN, 0, 1);
    ag_metric_add(t->metrics, hit ? AG_M_TIER_HITS : AG_M_TIER_MISSES, 0, 1);
    if (!hit) {
        ag_cache_value_drop(c->value);
        c->value = NULL;
    }
    finish(f, hit ? AG_TIER_HIT : AG_TIER_MISS);
}

static void on_found(void *arg, const redisReply *reply)
{
    ag__tier_find *f = arg;
    ag_tier *t = f->on->tier;
    bool number = reply && reply->type == REDIS_REPLY_INTEGER;
    long long fate = number ? reply->integer & ~(long long)FOREIGN : NONE;
    if (f->call == NULL) { /* without an answer in time the lock may be ours yet */
        if (reply == NULL || (number && fate == OURS)) ag__tier_unlock(f->on, &f->key);
        ag_mem_free(f);
        return;
    }
    if (reply && f->pause_ms == 0) ag_metric_observe_us(t->metrics, AG_M_TIER_TIME, 0, ag_now_us() - f->began_us);
    if (reply && reply->type == REDIS_REPLY_STRING) {
        take_value(f, reply);
        return;
    }
    if (number && reply->integer & FOREIGN) ag_metric_add(t->metrics, AG_M_TIER_FOREIGN, 0, 1);
    if (number && fate == TAKEN) {
        wait_more(f);
        return;
    }
    ag_metric_add(t->metrics, number ? AG_M_TIER_MISSES : AG_M_TIER_FAILED, 0, 1);
    finish(f, number && fate == OURS ? AG_TIER_OURS : AG_TIER_MISS);
}

static bool ask(ag__tier_find *f)
{
    ag__tier_line *line = &f->on->reader;
    const ag_tier *t = f->on->tier;
    ag__tier_names names;
    char lock_ms[12], most[12];
    if (!ag_redis_there(line->redis)) return false;
    ag__tier_names_of(t, &f->key, &names);
    snprintf(lock_ms, sizeof lock_ms, "%u", t->lock_ms);
    snprintf(most, sizeof most, "%u", AG_TIER_PACKED_MAX);
    const ag_str args[] = {AG_STR("2"),      ag_str_of(names.value), ag_str_of(names.lock), AG_STR("find"),
                           ag_str_of(t->id), ag_str_of(lock_ms),     ag_str_of(most)};
    return ag_redis_eval(line->redis, &t->script, args, AG_ARRAY_LEN(args), on_found, f);
}

bool ag_tier_find(ag_tier *t, uint32_t loop, const ag_cache_key *k, uint64_t now_ms, ag_tier_call *c)
{
    AG_ASSERT(c->find == NULL);
    c->result = AG_TIER_MISS;
    c->value = NULL;
    if (t == NULL) return true;
    ag__tier_loop *on = t->loops[loop];
    ag__tier_find *f = ag_redis_there(on->reader.redis) ? ag_mem_zalloc(sizeof *f) : NULL;
    if (f) *f = (ag__tier_find){.on = on, .call = c, .key = *k, .began_us = ag_now_us(), .wall_ms = now_ms};
    if (f == NULL || !ask(f)) {
        ag_mem_free(f);
        ag_metric_add(t->metrics, AG_M_TIER_AWAY, 0, 1);
        return true;
    }
    c->find = f;
    return false;
}

void ag_tier_leave(ag_tier_call *c)
{
    ag__tier_find *f = c->find;
    if (f == NULL) return;
    c->find = NULL;
    f->call = NULL;
    if (f->next == NULL) return; /* on_found frees it */
    f->on->n_waits--;
    cut_wait(f);
    ag_mem_free(f);
}

/* Those whose pause is over ask again; with `all`, as Redis is away, they are told. Who is told may leave others. */
static void wake_waits(ag__tier_loop *on, bool all)
{
    ag__tier_find due = {.prev = &due, .next = &due};
    uint64_t now = ag_now_us();
    for (ag__tier_find *f = on->waits.next, *next; f != &on->waits; f = next) {
        next = f->next;
        if (!all && f->due_us > now) continue;
        cut_wait(f);
        link_wait(&due, f);
    }
    while (due.next != &due) {
        ag__tier_find *f = due.next;
        cut_wait(f);
        on->n_waits--;
        bool here = f->call->computed_here && f->call->computed_here(f->call->arg);
        if (!here && !all && ask(f)) continue;
        ag_metric_add(on->tier->metrics, here ? AG_M_TIER_MISSES : AG_M_TIER_AWAY, 0, 1);
        finish(f, AG_TIER_MISS);
    }
}

static void on_alarm(void *arg)
{
    ag__tier_line *line = arg;
    wake_waits(line->on, false);
    if (line->on->n_waits && line->redis) ag_redis_alarm(line->redis, PAUSE_MIN_MS);
}

/* Purges. */

static void on_purged(void *arg, const ag_cache_key *k, uint64_t label)
{
    const ag__tier_loop *on = arg;
    const ag_tier *t = on->tier;
    if (t->purged) t->purged(t->purged_arg, ag_http_loop_index(on->http), k, label);
}

static void on_purges(void *arg, const redisReply *reply)
{
    ag__tier_loop *on = arg;
    ag_tier *t = on->tier;
    if (reply == NULL || reply->type != REDIS_REPLY_STRING) return;
    if (!ag_tier_purges_read(t->purges, (ag_str){reply->str, reply->len}, ag_wall_us() / 1000, t->ttl_max_ms,
                             on_purged, on))
        ag_metric_add(t->metrics, AG_M_TIER_FOREIGN, 0, 1);
}

/* Tells of those that are not known there, deletes the value of a key, and hears of all. */
static void tell_purges(ag__tier_loop *on, const ag_cache_key *k)
{
    ag_tier *t = on->tier;
    ag_tier_purge_words words[PURGES_AT_ONCE];
    ag__tier_names names;
    char hash[AG__TIER_NAME_MAX], now[21], keep[21], most[12];
    ag_str args[9 + 2 * PURGES_AT_ONCE];
    uint32_t n = 0, told = ag_tier_purges_untold(t->purges, words, PURGES_AT_ONCE);
    if (!ag_redis_there(on->reader.redis)) return;
    atomic_store(&t->purges_us, ag_now_us());
    snprintf(hash, sizeof hash, "%spurged", t->prefix);
    snprintf(now, sizeof now, "%llu", (unsigned long long)ag_wall_us() / 1000);
    snprintf(keep, sizeof keep, "%llu", (unsigned long long)t->ttl_max_ms);
    snprintf(most, sizeof most, "%u", AG_TIER_PURGES_MAX);
    args[n++] = k ? AG_STR("2") : AG_STR("1");
    args[n++] = ag_str_of(hash);
    if (k) {
        ag__tier_names_of(t, k, &names);
        args[n++] = ag_str_of(names.value);
    }
    args[n++] = AG_STR("purges");
    args[n++] = ag_str_of(t->id);
    args[n++] = ag_str_of(now);
    args[n++] = ag_str_of(keep);
    args[n++] = ag_str_of(most);
    for (uint32_t i = 0; i < told; i++) {
        args[n++] = ag_str_of(words[i].name);
        args[n++] = ag_str_of(words[i].ms);
    }
    (void)ag_redis_eval(on->reader.redis, &t->script, args, n, on_purges, on);
}

void ag_tier_purge(ag_tier *t, uint32_t loop, const ag_cache_key *k, uint64_t label)
{
    if (t == NULL) return;
    ag_tier_purges_add(t->purges, k, label, ag_wall_us() / 1000);
    tell_purges(t->loops[loop], k);
}

/* One loop asks for all of them. */
static void on_tick(void *arg)
{
    ag__tier_line *line = arg;
    _Atomic uint64_t *at = &line->on->tier->purges_us;
    uint64_t last = atomic_load(at), now = ag_now_us();
    if (now - last >= TICK_MS * 900ull && atomic_compare_exchange_strong(at, &last, now)) tell_purges(line->on, NULL);
}

/* Connections. */

static void note_state(ag__tier_line *line, bool there, const char *why)
{
    ag__tier_side *side = line->side;
    const ag_tier *t = line->on->tier;
    uint64_t now = ag_now_us(), said = atomic_load(&side->said_us);
    if (there != line->there) atomic_fetch_add(&side->n_there, there ? 1u : -1u);
    line->there = there;
    uint32_t n = atomic_load(&side->n_there);
    bool due = !there && (said == 0 || now - said >= SAY_AGAIN_US);
    if (due && atomic_compare_exchange_strong(&side->said_us, &said, now)) {
        atomic_store(&side->said, true);
        AG_LOG(t->log, AG_LOG_WARN, NULL, "cache", AG_LOG_Z("note", side->lost), AG_LOG_Z("reason", why));
    }
    if (there && n == t->n_loops && atomic_exchange(&side->said, false))
        AG_LOG(t->log, AG_LOG_INFO, NULL, "cache", AG_LOG_Z("note", side->again));
}

/* What was purged meanwhile is heard of before the first answer. */
static void on_reader_state(void *arg, bool there, const char *why)
{
    ag__tier_line *line = arg;
    note_state(line, there, why);
    if (there) tell_purges(line->on, NULL);
    else wake_waits(line->on, true);
}

static void on_writer_state(void *arg, bool there, const char *why) { note_state(arg, there, why); }

static void on_gone(void *arg)
{
    ag__tier_line *line = arg;
    line->redis = NULL;
    wake_waits(line->on, true);
}

void ag_tier_metrics(ag_tier *t)
{
    if (t == NULL) return;
    ag_metric_set(t->metrics, AG_M_TIER_THERE, 0, (double)atomic_load(&t->readers.n_there) / t->n_loops);
    ag_metric_set(t->metrics, AG_M_TIER_QUEUE, 0, (double)atomic_load(&t->queued));
}

/* Opening. */

static void redis_init(ag_tier *t, const ag_redis_at *at, uint32_t timeout_ms)
{
    snprintf(t->probe_value, sizeof t->probe_value, "%sc:up", t->prefix);
    snprintf(t->probe_lock, sizeof t->probe_lock, "%sl:up", t->prefix);
    const ag_str find[] = {AG_STR("2"),      ag_str_of(t->probe_value), ag_str_of(t->probe_lock), AG_STR("find"),
                           ag_str_of(t->id), AG_STR("0"),               AG_STR("0")};
    const ag_str put[] = {AG_STR("2"),      ag_str_of(t->probe_value), ag_str_of(t->probe_lock), AG_STR("put"),
                          ag_str_of(t->id), AG_STR("1000"),            AG_STR("up")};
    _Static_assert(sizeof find == sizeof t->find_probe && sizeof put == sizeof t->put_probe, "all of them");
    memcpy(t->find_probe, find, sizeof find);
    memcpy(t->put_probe, put, sizeof put);
    t->redis[0] = (ag_redis_conf){.at = *at,
                                  .timeout_ms = timeout_ms,
                                  .reply_bytes_max = AG_TIER_PACKED_MAX + PURGES_BYTES,
                                  .probe = &t->script,
                                  .probe_args = t->find_probe,
                                  .n_probe_args = AG_ARRAY_LEN(t->find_probe),
                                  .state = on_reader_state,
                                  .tick = on_tick,
                                  .tick_ms = TICK_MS,
                                  .alarm = on_alarm,
                                  .gone = on_gone};
    t->redis[1] = (ag_redis_conf){.at = *at,
                                  .timeout_ms = WRITE_MS,
                                  .reply_bytes_max = WRITER_BYTES,
                                  .probe = &t->script,
                                  .probe_args = t->put_probe,
                                  .n_probe_args = AG_ARRAY_LEN(t->put_probe),
                                  .state = on_writer_state,
                                  .gone = on_gone};
}

int ag_tier_open(ag_tier **out, const ag_tier_conf *conf, ag_metrics *metrics, ag_log *log, ag_err *err)
{
    ag_redis_at at;
    int rc = ag_redis_at_parse(&at, conf->redis, err);
    if (rc == AG_OK) rc = ag_redis_at_password(&at, conf->password, conf->password_file, err);
    if (rc != AG_OK) return rc;
    if (strlen(conf->prefix) > AG__TIER_PREFIX_MAX)
        return ag_err_set(err, AG_E_USAGE, "The prefix of the keys in Redis may have %d bytes.", AG__TIER_PREFIX_MAX);
    ag_tier *t = ag_mem_zalloc(sizeof *t);
    ag_str text = {ag__tier_lua, (size_t)(ag__tier_lua_end - ag__tier_lua)};
    if (t == NULL || ag_tier_purges_open(&t->purges) != AG_OK || ag_redis_script_init(&t->script, text) != AG_OK) {
        ag_tier_close(t);
        return ag_err_set(err, AG_E_NOMEM, "There is no memory for the cache's Redis.");
    }
    t->metrics = metrics;
    t->log = log;
    t->readers = (ag__tier_side){.lost = "Redis cannot be used: answers are looked for in this server alone.",
                                 .again = "Answers are looked for in Redis again."};
    t->writers = (ag__tier_side){.lost = "Redis takes no answers: they are kept in this server alone.",
                                 .again = "Answers are stored in Redis again."};
    t->lock_ms = conf->lock_ms;
    t->ttl_max_ms = conf->ttl_max_ms ? conf->ttl_max_ms : TTL_MAX_MS;
    t->queue_bytes = conf->queue_bytes;
    t->purged = conf->purged;
    t->purged_arg = conf->purged_arg;
    memcpy(t->secret, conf->secret, sizeof t->secret);
    snprintf(t->prefix, sizeof t->prefix, "%s", conf->prefix);
    ag_random_hex(t->id, 16);
    redis_init(t, &at, conf->timeout_ms);
    sodium_memzero(&at, sizeof at);
    rc = ag_redis_tls_open(&t->redis[0].tls, &t->redis[0].at, &conf->files, err);
    t->redis[1].tls = t->redis[0].tls;
    if (rc == AG_OK) *out = t;
    else ag_tier_close(t);
    return rc;
}

static int loop_open(ag_tier *t, ag_http_loop *http, ag__tier_loop **out)
{
    ag__tier_loop *on = *out = ag_mem_zalloc(sizeof *on);
    if (on == NULL) return AG_E_NOMEM;
    on->tier = t;
    on->http = http;
    on->waits.prev = on->waits.next = &on->waits;
    on->reader = (ag__tier_line){.on = on, .side = &t->readers};
    on->writer = (ag__tier_line){.on = on, .side = &t->writers};
    ag_buf_init(&on->packed, 2ull * AG_TIER_PACKED_MAX);
    if (ag_tier_packer_open(&on->packer, t->secret) != AG_OK) return AG_E_NOMEM;
    if (ag_tier_unpacker_open(&on->unpacker, t->secret) != AG_OK) return AG_E_NOMEM;
    ag_redis_conf reader = t->redis[0], writer = t->redis[1];
    reader.arg = &on->reader;
    writer.arg = &on->writer;
    int rc = ag_redis_open(&on->reader.redis, http, &reader);
    return rc == AG_OK ? ag_redis_open(&on->writer.redis, http, &writer) : rc;
}

int ag_tier_join(ag_tier *t, ag_http_server *s, ag_err *err)
{
    if (t == NULL) return AG_OK;
    uint32_t n = ag_http_server_loops(s);
    t->queue_bytes /= n;
    t->loops = ag_mem_array(n, sizeof *t->loops);
    int rc = t->loops ? AG_OK : AG_E_NOMEM;
    for (t->n_loops = 0; rc == AG_OK && t->n_loops < n; t->n_loops++)
        rc = loop_open(t, ag_http_server_loop(s, t->n_loops), &t->loops[t->n_loops]);
    return rc == AG_OK ? rc : ag_err_set(err, rc, "There is no memory for the cache's Redis.");
}

void ag_tier_close(ag_tier *t)
{
    if (t == NULL) return;
    for (uint32_t i = 0; i < t->n_loops; i++) {
        ag__tier_loop *on = t->loops[i];
        if (on == NULL) continue;
        AG_ASSERT(on->n_waits == 0 && on->reader.redis == NULL && on->writer.redis == NULL);
        ag__tier_drop_all(on);
        ag_tier_packer_close(on->packer);
        ag_tier_unpacker_close(on->unpacker);
        ag_buf_fini(&on->packed);
        ag_mem_free(on);
    }
    AG_ASSERT(atomic_load(&t->queued) == 0);
    ag_mem_free(t->loops);
    ag_tier_purges_close(t->purges);
    ag_redis_tls_close(t->redis[0].tls);
    sodium_memzero(t, sizeof *t);
    ag_mem_free(t);
}
