/* sharing.c - what servers share of the response cache: looking for an answer where others may have left it, once for
 * all on a loop who ask the same. */
#include "base/mem.h"
#include "gateway/req.h"

/* Purges of others. They walk through the whole cache, so a worker does it. */

typedef struct purge {
    ag_cache *cache;
    ag_cache_key key;
    bool by_key;
    uint64_t label;
} purge;

static void forget(void *arg)
{
    const purge *p = arg;
    ag_cache_purge(p->cache, p->by_key ? &p->key : NULL, p->label);
}

static void on_purged(void *arg, uint32_t loop, const ag_cache_key *k, uint64_t label)
{
    ag_gateway *gw = arg;
    purge now = {.cache = gw->caching.cache, .by_key = k != NULL, .label = label}, *later = ag_mem_alloc(sizeof *later);
    if (k) now.key = *k;
    if (later) *later = now;
    if (later && ag_http_loop_work(gw->loops[loop].loop, forget, ag_mem_free, later)) return;
    ag_mem_free(later);
    forget(&now); /* what was purged must not be told, whatever it takes */
}

/* Opening. */

int ag__sharing_open(ag_gateway *gw, const ag_gateway_conf *conf, ag_err *err)
{
    const ag_caching_conf *c = &conf->cache;
    bool own = c->redis && c->redis[0], secret = c->secret && c->secret[0];
    const char *url = own ? c->redis : conf->redis;
    if (url == NULL || url[0] == 0 || strcmp(url, "off") == 0) return AG_OK;
    if (!own && (gw->caching.cache == NULL || !secret)) return AG_OK;
    if (gw->caching.cache == NULL)
        return ag_err_set(err, AG_E_USAGE,
                          "Without a response cache (--cache-bytes 0) there is nothing that --cache-redis could share.");
    if (!secret)
        return ag_err_set(err, AG_E_USAGE,
                          "Servers that share cached answers need the same secret; AUTOGLM_CACHE_SECRET gives it to "
                          "them.");
    ag_tier_conf t = {.redis = url,
                      .password = own ? NULL : conf->redis_password,
                      .password_file = own ? NULL : conf->redis_password_file,
                      .files = {conf->redis_ca, conf->redis_cert, conf->redis_key},
                      .prefix = conf->redis_prefix,
                      .secret = gw->caching.secret,
                      .timeout_ms = c->redis_timeout_ms,
                      .lock_ms = c->redis_lock_ms,
                      .queue_bytes = c->redis_queue_bytes,
                      .purged = on_purged,
                      .purged_arg = gw};
    int rc = ag_tier_open(&gw->caching.tier, &t, gw->metrics, gw->log, err);
    return rc == AG_OK ? ag_tier_join(gw->caching.tier, gw->http, err) : rc;
}

/* Lists. */

static void list(ag_req **head, ag_req *r)
{
    ag_sharing *s = &r->caching.sharing;
    s->next = *head;
    s->at = head;
    if (s->next) s->next->caching.sharing.at = &s->next;
    *head = r;
}

static void unlist(ag_req *r)
{
    ag_sharing *s = &r->caching.sharing;
    *s->at = s->next;
    if (s->next) s->next->caching.sharing.at = s->at;
    s->next = NULL;
    s->at = NULL;
}

static ag_req **chain_of(ag_req *r) { return &r->loop->lookers[r->caching.key.b[2] % AG_LOOKERS_CHAINS]; }

/* Whether whoever joins it may be waiting still when the time of r is over, or behind what is less urgent: what nobody
 * can follow is waited for to its end. */
static bool waits_longer(const ag_req *l, const ag_req *r)
{
    bool whole = !ag__caching_coalesces(l);
    uint64_t deadline = ag__deadline_of(r), until = whole ? ag__deadline_of(l) : l->caching.sharing.call.until_us;
    return (deadline && (until == 0 || until >= deadline)) || (whole && l->band > r->band);
}

static ag_req *looker_of(ag_req *r)
{
    ag_req *l = *chain_of(r);
    while (l && (memcmp(&l->caching.key, &r->caching.key, sizeof l->caching.key) != 0 || waits_longer(l, r)))
        l = l->caching.sharing.next;
    return l;
}

/* Those who joined look again: at what it found, or what it computes; or the first of them asks in its place. */
static void release(ag_req *r)
{
    ag_sharing *s = &r->caching.sharing;
    if (!s->listed) return;
    s->listed = false;
    unlist(r);
    for (ag_req *one; (one = s->joined) != NULL;) {
        unlist(one);
        one->caching.sharing.state = AG_SHARING_IDLE;
        ag__req_run(one);
    }
}

/* Looking. */

static void on_told(void *arg)
{
    ag_req *r = arg;
    r->caching.sharing.state = AG_SHARING_TOLD;
    ag__req_run(r);
}

static bool is_under_way(void *arg)
{
    const ag_req *r = arg;
    ag_flights *flights = r->gw->caching.flights;
    bool yes = ag_flights_enter(flights, &r->caching.key) != NULL;
    ag_flights_leave(flights, &r->caching.key);
    return yes;
}

static bool ask(ag_req *r)
{
    ag_sharing *s = &r->caching.sharing;
    uint64_t now = ag_now_us(), deadline = ag__deadline_of(r);
    list(chain_of(r), r);
    s->listed = true;
    s->state = AG_SHARING_ASKS;
    s->call = (ag_tier_call){.computed_here = is_under_way, .done = on_told, .arg = r};
    /* Half of its time is for computing it. */
    if (deadline) s->call.until_us = deadline > now ? now + (deadline - now) / 2 : now;
    bool told = ag_tier_find(r->gw->caching.tier, ag_http_loop_index(r->loop->loop), &r->caching.key,
                             ag_wall_us() / 1000, &s->call);
    if (told) s->state = AG_SHARING_TOLD;
    return told;
}

bool ag__sharing_look(ag_req *r)
{
    ag_sharing *s = &r->caching.sharing;
    if (r->gw->caching.tier == NULL || s->state == AG_SHARING_TOLD) return true;
    if (s->state != AG_SHARING_IDLE) return false;
    if (is_under_way(r)) return true;
    ag_req *looker = looker_of(r);
    if (looker == NULL) return ask(r);
    s->state = AG_SHARING_JOINED;
    list(&looker->caching.sharing.joined, r);
    return false;
}

void ag__sharing_looked(ag_req *r)
{
    ag_sharing *s = &r->caching.sharing;
    if (!s->listed) return;
    s->owes = s->call.result != AG_TIER_HIT;
    ag_cache_value_drop(s->call.value);
    s->call.value = NULL;
    if (r->caching.found) release(r);
}

void ag__sharing_launched(ag_req *r)
{
    r->caching.sharing.owes = false; /* whoever keeps what comes of the flight gives it back, or leaves it last */
    release(r);
}

void ag__sharing_leave(ag_req *r)
{
    ag_sharing *s = &r->caching.sharing;
    if (s->state == AG_SHARING_ASKS) ag_tier_leave(&s->call);
    if (s->state == AG_SHARING_JOINED) unlist(r);
    s->state = AG_SHARING_IDLE;
    ag_cache_value_drop(s->call.value);
    s->call.value = NULL;
    if (s->owes) ag_tier_give_up(r->gw->caching.tier, ag_http_loop_index(r->loop->loop), &r->caching.key);
    s->owes = false;
    release(r);
}
