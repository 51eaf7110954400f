/* caching.c - LOOKUP: what is looked up in the response cache, and what is kept there. */
#include "gateway/caching.h"

#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/mem.h"
#include "cache/key.h"
#include "gateway/record.h"
#include "gateway/req.h"

#define KEY_VERSION 1u /* of what is hashed, and how */
#define TICK_MIN_MS 10u /* at a pace */

int ag_caching_open(ag_caching *c, const ag_caching_conf *conf, ag_err *err)
{
    if (conf->bytes_max == 0) return AG_OK;
    const unsigned char *secret = (const unsigned char *)conf->secret;
    size_t n = conf->secret ? strlen(conf->secret) : 0;
    if (n) crypto_generichash(c->secret, sizeof c->secret, secret, n, NULL, 0);
    else randombytes_buf(c->secret, sizeof c->secret);
    c->ttl_ms = (uint64_t)conf->ttl_s * 1000;
    c->stale_ms = (uint64_t)conf->stale_s * 1000;
    c->jitter = conf->jitter;
    c->pace = conf->pace;
    if (ag_flights_open(&c->flights) != AG_OK)
        return ag_err_set(err, AG_E_NOMEM, "There is no memory for the response cache.");
    return ag_cache_open(&c->cache, &(ag_cache_conf){.policy = conf->policy, .bytes_max = conf->bytes_max}, err);
}

void ag_caching_close(ag_caching *c)
{
    ag_cache_close(c->cache);
    ag_flights_close(c->flights);
    sodium_memzero(c->secret, sizeof c->secret);
    c->cache = NULL;
    c->flights = NULL;
}

void ag__caching_count(const ag_req *r, ag_metric_cached how)
{
    if (!r->warm) ag_metric_add(r->gw->metrics, AG_M_CACHE_REQUESTS, how, 1);
}

/* Which requests. */

static bool is_blank(char c) { return c == ' ' || c == '\t'; }

void ag__caching_head(ag_req *r)
{
    ag_caching_mode *mode = &r->caching.head;
    ag_str list = ag_http_head_get(r->head, "cache-control"), one;
    while (ag_str_next(&list, &one)) {
        while (one.n && is_blank(one.p[0])) one = (ag_str){one.p + 1, one.n - 1};
        while (one.n && is_blank(one.p[one.n - 1])) one.n--;
        if (ag_str_ieq(one, AG_STR("no-store"))) *mode = AG_CACHING_OFF;
        else if (ag_str_ieq(one, AG_STR("no-cache")) && *mode == AG_CACHING_UNSAID) *mode = AG_CACHING_REFRESH;
    }
}

static bool is_greedy(const ag_request *q) { return q->sampling.temperature <= 0 || q->sampling.top_k == 1; }

static bool is_certain(const ag_request *q)
{
    return is_greedy(q) || q->seed_set || q->kind == AG_REQUEST_EMBEDDINGS;
}

static bool scores_prompt(const ag_request *q) { return q->echo && q->top_logprobs >= 0; }

/* Their key: all that their answer depends on, and nothing else. */

static int by_id(const void *a, const void *b)
{
    int32_t x = ((const ag_logit_bias *)a)->id, y = ((const ag_logit_bias *)b)->id;
    return (x > y) - (x < y);
}

static void hash_bias(ag_cache_hash *h, const ag_request *q)
{
    if (q->n_bias > 1) qsort(q->bias, q->n_bias, sizeof *q->bias, by_id); /* an object's members have no order */
    ag_cache_hash_u64(h, q->n_bias);
    for (uint32_t i = 0; i < q->n_bias; i++) {
        ag_cache_hash_u64(h, (uint32_t)q->bias[i].id);
        ag_cache_hash_f32(h, q->bias[i].bias);
    }
}

static void hash_sampling(ag_cache_hash *h, const ag_request *q)
{
    const ag_sampling *s = &q->sampling;
    ag_cache_hash_u64(h, is_greedy(q));
    if (!is_greedy(q)) {
        ag_cache_hash_f32(h, s->temperature);
        ag_cache_hash_u64(h, s->top_k);
        ag_cache_hash_f32(h, s->top_p);
        ag_cache_hash_f32(h, s->min_p);
        ag_cache_hash_f32(h, s->typical_p);
        ag_cache_hash_u64(h, q->seed_set);
        ag_cache_hash_u64(h, q->seed_set ? s->seed : 0);
    }
    ag_cache_hash_f32(h, s->repetition_penalty);
    ag_cache_hash_f32(h, s->frequency_penalty);
    ag_cache_hash_f32(h, s->presence_penalty);
    hash_bias(h, q);
}

static void hash_end(ag_cache_hash *h, const ag_req *r)
{
    const ag_request *q = &r->request;
    ag_cache_hash_u64(h, q->min_tokens);
    ag_cache_hash_u64(h, q->ignore_eos);
    ag_cache_hash_i32s(h, q->stop_tokens, q->n_stop_tokens);
    ag_cache_hash_u64(h, q->n_stops);
    for (uint32_t i = 0; i < q->n_stops; i++) ag_cache_hash_str(h, q->stops[i]);
    ag_cache_hash_u64(h, q->json || ag_request_calls(q));
    ag_cache_hash_str(h, ag_buf_str(&r->heads));
}

static void hash_request(ag_cache_hash *h, const ag_req *r)
{
    const ag_request *q = &r->request;
    bool embeds = q->kind == AG_REQUEST_EMBEDDINGS;
    ag_cache_hash_u64(h, embeds);
    ag_cache_hash_u64(h, ag_request_prompts(q));
    for (uint32_t i = 0; i < ag_request_prompts(q); i++) {
        ag_cache_hash_i32s(h, r->prompts[i].ids, r->prompts[i].n);
        ag_cache_hash_u64(h, r->prompts[i].max_tokens);
    }
    if (embeds) return;
    ag_cache_hash_u64(h, q->n);
    ag_cache_hash_i32s(h, r->gw->shown, ag_request_is_chat(q) ? r->gw->n_shown : 0);
    ag_cache_hash_u64(h, (uint32_t)(q->top_logprobs + 1));
    ag_cache_hash_u64(h, scores_prompt(q));
    hash_end(h, r);
    hash_sampling(h, q);
}

/* Answers are a tenant's own, but where its key is of a group that shares them. */
static void hash_whose(ag_cache_hash *h, const ag_req *r)
{
    ag_str group = ag__req_share(r);
    ag_cache_hash_u64(h, group.n > 0);
    ag_cache_hash_str(h, group.n ? group : ag_str_of(r->tenant));
}

static void make_key(ag_req *r)
{
    ag_cache_hash h;
    ag_req_caching *c = &r->caching;
    ag_cache_hash_begin(&h, r->gw->caching.secret);
    ag_cache_hash_u64(&h, KEY_VERSION);
    ag_cache_hash_u64(&h, r->gw->caching.model);
    ag_cache_hash_u64(&h, c->damage = ag_engine_damage(r->engine));
    hash_whose(&h, r);
    hash_request(&h, r);
    ag_cache_hash_end(&h, &c->key);
    sodium_bin2hex(c->key_text, sizeof c->key_text, c->key.b, sizeof c->key.b);
}

static bool key_says(const ag_req *r, const char *mode) { return r->key && strcmp(r->key->cache, mode) == 0; }

/* A warm-up has no key; what it asks again was one to be kept when it was asked, if only because a key said so. */
static ag_caching_mode mode_of(const ag_req *r)
{
    if (r->request.cache.mode != AG_CACHING_UNSAID) return r->request.cache.mode;
    if (r->caching.head != AG_CACHING_UNSAID) return r->caching.head;
    if (r->warm || key_says(r, "use")) return AG_CACHING_USE;
    return key_says(r, "off") ? AG_CACHING_OFF : AG_CACHING_UNSAID;
}

void ag__caching_key(ag_req *r)
{
    ag_req_caching *c = &r->caching;
    ag_caching_mode mode = mode_of(r);
    if (r->gw->caching.cache == NULL) return;
    if (mode == AG_CACHING_OFF || (mode == AG_CACHING_UNSAID && !is_certain(&r->request))) {
        ag__caching_count(r, mode == AG_CACHING_OFF ? AG_CACHED_OFF : AG_CACHED_UNCERTAIN);
        return;
    }
    c->finds = mode != AG_CACHING_REFRESH;
    c->keeps = true;
    make_key(r);
}

/* What is there. */

/* prompts: room for AG_REQUEST_PROMPTS_MAX. */
static ag_record_form form_of(const ag_req *r, ag_record_prompt *prompts)
{
    const ag_request *q = &r->request;
    bool embeds = q->kind == AG_REQUEST_EMBEDDINGS;
    for (uint32_t i = 0; scores_prompt(q) && i < ag_request_prompts(q); i++)
        prompts[i] = (ag_record_prompt){r->prompts[i].ids, r->prompts[i].n};
    return (ag_record_form){.n = ag_request_prompts(q) * (embeds ? 1 : q->n),
                            .per_prompt = embeds ? 1 : q->n,
                            .prompts = scores_prompt(q) ? prompts : NULL,
                            .top_logprobs = q->top_logprobs,
                            .embed = embeds,
                            .shown = r->gw->shown,
                            .n_shown = ag_request_is_chat(q) ? r->gw->n_shown : 0};
}

/* false: it is none of ours. */
static bool take_record(ag_req *r, ag_cache_value *value)
{
    ag_record_prompt prompts[AG_REQUEST_PROMPTS_MAX];
    ag_record_form form = form_of(r, prompts);
    ag_gen **gens = ag_mem_array(form.n, sizeof *gens);
    ag_str bytes = {(const char *)ag_cache_value_bytes(value), ag_cache_value_size(value)};
    int rc = gens ? ag_record_read(gens, r->engine, &form, bytes) : AG_E_NOMEM;
    if (rc == AG_OK) {
        r->caching.found = gens;
        r->caching.n_found = form.n;
        return true;
    }
    ag_mem_free((void *)gens);
    return rc == AG_E_NOMEM; /* there was nothing wrong with it */
}

/* c->found is what is told. */
static void tell(ag_req *r, const ag_cache_meta *meta, ag_cache_found how, uint64_t now_ms)
{
    ag_req_caching *c = &r->caching;
    uint64_t age_s = now_ms > meta->made_ms ? (now_ms - meta->made_ms) / 1000 : 0;
    snprintf(c->age, sizeof c->age, "%llu", (unsigned long long)age_s);
    ag_metric_observe_n(r->gw->metrics, AG_M_CACHE_AGE, 0, age_s, 1);
    c->told = how == AG_CACHE_FRESH ? AG_TOLD_HIT : AG_TOLD_STALE;
    c->renews = how == AG_CACHE_STALE;
    c->keeps = false;
    ag__caching_count(r, how == AG_CACHE_FRESH ? AG_CACHED_HIT : AG_CACHED_STALE);
}

static void find(ag_req *r, uint64_t now_ms)
{
    ag_req_caching *c = &r->caching;
    ag_cache *cache = r->gw->caching.cache;
    ag_cache_value *value;
    ag_cache_meta meta;
    ag_cache_found how = ag_cache_get(cache, &c->key, now_ms, &value, &meta);
    if (how == AG_CACHE_MISS) return;
    bool ours = take_record(r, value);
    ag_cache_value_drop(value);
    if (c->found == NULL && how == AG_CACHE_STALE) ag_cache_renew_failed(cache, &c->key);
    if (!ours) {
        ag_cache_purge_key(cache, &c->key);
        ag__caching_count(r, AG_CACHED_DAMAGED);
    }
    if (c->found) tell(r, &meta, how, now_ms);
}

/* What another server has computed is looked at like one of ours, also where it is too large to be kept here. */
static void find_shared(ag_req *r, uint64_t now_ms)
{
    ag_req_caching *c = &r->caching;
    ag_tier_call *call = &c->sharing.call;
    if (ag_cache_put(r->gw->caching.cache, &c->key, call->value, &call->meta, now_ms) == AG_OK) {
        find(r, now_ms);
        return;
    }
    if (!take_record(r, call->value)) ag__caching_count(r, AG_CACHED_DAMAGED);
    if (c->found) tell(r, &call->meta, now_ms < call->meta.fresh_until_ms ? AG_CACHE_FRESH : AG_CACHE_STALE, now_ms);
}

/* false: it is being looked for. */
static bool look(ag_req *r)
{
    ag_req_caching *c = &r->caching;
    uint64_t now_ms = ag_wall_us() / 1000;
    if (c->sharing.state == AG_SHARING_IDLE) find(r, now_ms);
    if (c->found) return true;
    if (!ag__sharing_look(r)) return false;
    if (c->sharing.call.value) find_shared(r, now_ms);
    ag__sharing_looked(r);
    return true;
}

/* Damaged weights give wrong answers. What is here of theirs has keys that nobody asks for any more; other servers have
 * to be told. */
static void heed_damage(const ag_req *r)
{
    ag_caching *c = &r->gw->caching;
    uint32_t now = r->caching.damage, known = atomic_load(&c->damage);
    while (now > known)
        if (atomic_compare_exchange_weak(&c->damage, &known, now)) {
            ag_tier_purge(c->tier, ag_http_loop_index(r->loop->loop), NULL, c->model_label);
            return;
        }
}

ag_next ag__step_lookup(ag_req *r)
{
    ag_req_caching *c = &r->caching;
    if (c->keeps) heed_damage(r);
    if (c->keeps && c->finds && !look(r)) return AG_PARKED;
    r->step = AG_STEP_ADMIT;
    if (!c->keeps && !c->found && r->warm) return ag__req_refuse(r, AG_E_PARAM, "Its answer is not one to be kept.");
    if (!c->keeps && !c->found) return AG_MORE;
    if (!c->found) c->told = AG_TOLD_MISS;
    if (r->warm && c->told == AG_TOLD_HIT) r->step = AG_STEP_ACCOUNT; /* that was all */
    if (c->keeps && !ag__caching_coalesces(r)) ag__caching_count(r, c->finds ? AG_CACHED_MISS : AG_CACHED_REFRESH);
    return AG_MORE;
}

/* What is kept. */

void ag__caching_item(const ag_req *r, ag_caching_item *out)
{
    const ag_request *q = &r->request;
    ag_str group = ag__req_share(r);
    uint32_t n = 0;
    *out = (ag_caching_item){.key = r->caching.key, .damage = r->caching.damage,
                             .ttl_ms = r->gw->caching.ttl_ms};
    if (q->cache.ttl_s) out->ttl_ms = q->cache.ttl_s * 1000ull;
    out->labels[n++] = r->gw->caching.model_label;
    out->labels[n++] = ag_cache_label("tenant", ag_str_of(r->tenant));
    if (group.n) out->labels[n++] = ag_cache_label("share", group);
    for (uint32_t i = 0; i < q->cache.n_tags; i++) out->labels[n++] = ag_cache_label("tag", q->cache.tags[i]);
    _Static_assert(3 + AG_REQUEST_TAGS_MAX <= AG_CACHE_LABELS_MAX, "room for all of them");
}

void ag__caching_put(ag_gw_loop *l, const ag_caching_item *item, ag_cache_value *value)
{
    const ag_caching *c = &l->gw->caching;
    if (ag_engine_damage(atomic_load(&l->gw->engine)) != item->damage) { /* it may be wrong */
        ag_tier_give_up(c->tier, ag_http_loop_index(l->loop), &item->key);
        return;
    }
    uint64_t now_ms = ag_wall_us() / 1000, ttl_ms = ag_cache_jitter(item->ttl_ms, c->jitter, &item->key);
    ag_cache_meta meta = {.made_ms = now_ms, .fresh_until_ms = now_ms + ttl_ms};
    meta.stale_until_ms = meta.fresh_until_ms + c->stale_ms;
    memcpy(meta.labels, item->labels, sizeof meta.labels);
    ag_cache_put(c->cache, &item->key, value, &meta, now_ms); /* what it does not keep it counts */
    ag_tier_put(c->tier, ag_http_loop_index(l->loop), &item->key, value, &meta);
}

ag_record_form ag__caching_form(const ag_req *r, ag_record_prompt *prompts) { return form_of(r, prompts); }

bool ag__caching_good(ag_gen *g)
{
    ag_gen_state state;
    ag_gen_read(g, 0, NULL, 0, &state);
    return (state == AG_GEN_STOPPED || state == AG_GEN_LENGTH) && !ag_gen_timed_out(g);
}

static bool keep(ag_req *r, ag_gen **gens)
{
    ag_record_prompt prompts[AG_REQUEST_PROMPTS_MAX];
    ag_record_form form = form_of(r, prompts);
    ag_cache_value *value = NULL;
    ag_caching_item item;
    for (uint32_t i = 0; i < r->n_choices; i++) gens[i] = r->choices[i].gen;
    if (ag_record_make(&value, r->engine, &form, gens) != AG_OK) return false;
    ag__caching_item(r, &item);
    ag__caching_put(r->loop, &item, value);
    ag__sharing_launched(r);
    ag_cache_value_drop(value);
    return true;
}

void ag__caching_keep(ag_req *r)
{
    ag_req_caching *c = &r->caching;
    bool good = c->keeps;
    for (uint32_t i = 0; i < r->n_choices && good; i++)
        good = !r->choices[i].unbegun && ag__caching_good(r->choices[i].gen);
    c->keeps = false;
    if (!good || (c->flight && atomic_exchange(&c->flight->kept, true))) return;
    ag_gen **gens = ag_mem_array(r->n_choices, sizeof *gens);
    bool kept = gens && keep(r, gens);
    ag_mem_free((void *)gens);
    if (!kept) ag_tier_give_up(r->gw->caching.tier, ag_http_loop_index(r->loop->loop), &c->key);
    if (c->flight) ag_flights_landed(r->gw->caching.flights, c->flight);
}

/* What is told of it. */

uint32_t ag__caching_headers(const ag_req *r, ag_http_header *out)
{
    static const char *const names[] = {
        [AG_TOLD_MISS] = "miss", [AG_TOLD_HIT] = "hit", [AG_TOLD_COALESCED] = "coalesced", [AG_TOLD_STALE] = "stale"};
    const ag_req_caching *c = &r->caching;
    uint32_t n = 0;
    if (c->told == AG_TOLD_NOTHING) return 0;
    out[n++] = (ag_http_header){AG_STR("x-cache"), ag_str_of(names[c->told])};
    out[n++] = (ag_http_header){AG_STR("x-cache-key"), ag_str_of(c->key_text)};
    if (c->age[0]) out[n++] = (ag_http_header){AG_STR("age"), ag_str_of(c->age)};
    return n;
}

static bool is_paced(const ag_req *r)
{
    return r->gw->caching.pace && (r->caching.told == AG_TOLD_HIT || r->caching.told == AG_TOLD_STALE) && !r->gone;
}

void ag__caching_tick(ag_req *r)
{
    if (!is_paced(r) || !r->request.stream) return;
    for (uint32_t i = 0; i < r->n_choices; i++) r->choices[i].dirty = true;
    if (r->step == AG_STEP_GENERATE) ag__req_run(r);
}

static void on_tick(void *user, ag_http_stream *s AG_UNUSED) { ag__caching_tick(user); }

uint32_t ag__caching_pace(ag_req *r, const ag_choice *c, uint32_t most)
{
    uint32_t pace = r->gw->caching.pace;
    if (!is_paced(r)) return most;
    uint64_t now = ag_now_us();
    if (r->caching.told_us == 0) r->caching.told_us = now;
    uint64_t allowed = 1 + (now - r->caching.told_us) * pace / 1000000;
    if (allowed > c->read) return (uint32_t)AG_MIN(allowed - c->read, (uint64_t)most);
    ag_http_timer(r->s, AG_MAX(1000 / pace, TICK_MIN_MS), on_tick);
    return 0;
}

void ag__caching_metrics(ag_gateway *gw)
{
    ag_cache_stats s;
    ag_metrics *m = gw->metrics;
    if (gw->caching.cache == NULL) return;
    ag_tier_metrics(gw->caching.tier);
    ag_cache_stats_get(gw->caching.cache, &s);
    ag_metric_set(m, AG_M_CACHE_ENTRIES, 0, (double)s.entries);
    ag_metric_set(m, AG_M_CACHE_BYTES, 0, (double)s.bytes);
    ag_metric_set(m, AG_M_CACHE_GONE, AG_CACHE_GONE_EVICTED, (double)s.evicted);
    ag_metric_set(m, AG_M_CACHE_GONE, AG_CACHE_GONE_EXPIRED, (double)s.expired);
    ag_metric_set(m, AG_M_CACHE_GONE, AG_CACHE_GONE_PURGED, (double)s.purged);
    ag_metric_set(m, AG_M_CACHE_GONE, AG_CACHE_GONE_REFUSED, (double)s.refused);
}
