/* caching_admin.c - /admin/v1/cache: what the response cache holds, one of its answers, and forgetting them by key,
 * tenant, group, model or tag. Forgetting walks through all of them, so a worker does it. */
#include <sodium.h>

#include "base/mem.h"
#include "cache/key.h"
#include "gateway/req.h"

#define ANSWER_BYTES_MAX 4096u
#define NAME_MAX_BYTES 127u /* a model's; tenants, groups and tags have less */

struct ag_cache_ask {
    bool forget, all, told; /* told: the servers that share them */
    const char *kind; /* of a label; NULL: by key, or all */
    char name[NAME_MAX_BYTES + 1];
    ag_cache_key key;
    uint64_t forgotten;
};

static bool is_delete(const ag_req *r) { return strcmp(r->method, "DELETE") == 0; }
static bool names_key(const ag_req *r) { return strcmp(r->route->id, "admin_cache_entry") == 0; }

static int take_pair(struct ag_cache_ask *a, ag_str name, ag_str value, ag_err *err)
{
    static const char *const kinds[] = {"tenant", "share", "model", "tag"};
    if (a->kind || a->all) return ag_err_set(err, AG_E_PARAM, "The query may name one thing to forget, not several.");
    if (ag_str_eqz(name, "all") && ag_str_eqz(value, "1")) {
        a->all = true;
        return AG_OK;
    }
    for (size_t i = 0; i < AG_ARRAY_LEN(kinds); i++) {
        if (!ag_str_eqz(name, kinds[i])) continue;
        if (value.n == 0 || !ag__percent_decode(value, a->name, sizeof a->name))
            return ag_request_fail(err, AG_E_PARAM, kinds[i], "'%s' in the query is not a value that it can have.",
                                   kinds[i]);
        a->kind = kinds[i];
        return AG_OK;
    }
    return ag_err_set(err, AG_E_PARAM, "The query may say tenant, share, model, tag, or all=1; not '%.*s'.",
                      (int)AG_MIN(name.n, 40u), name.p);
}

static int take_key(ag_req *r, ag_cache_key *out)
{
    size_t n = 0;
    const char *end;
    bool hex = sodium_hex2bin(out->b, sizeof out->b, r->asked_id, strlen(r->asked_id), NULL, &n, &end) == 0;
    if (hex && n == sizeof out->b && *end == 0) return AG_OK;
    return ag_err_set(&r->err, AG_E_PARAM, "A key is %d hexadecimal digits, as the header x-cache-key has it.",
                      2 * AG_CACHE_KEY_BYTES);
}

int ag__cache_look(ag_req *r)
{
    struct ag_cache_ask *a = ag_mem_zalloc(sizeof *a);
    if (a == NULL) return ag_err_set(&r->err, AG_E_NOMEM, "The server has no memory left for this request.");
    r->cache_ask = a;
    if (r->gw->caching.cache == NULL)
        return ag_err_set(&r->err, AG_E_NOT_FOUND, "This server has no response cache; --cache-bytes gives it one.");
    a->forget = is_delete(r);
    if (names_key(r)) return take_key(r, &a->key);
    int rc = AG_OK;
    ag_str query = r->head->query;
    for (ag_str name, value; rc == AG_OK && a->forget && ag__query_next(&query, &name, &value);)
        rc = take_pair(a, name, value, &r->err);
    if (rc == AG_OK && a->forget && !a->kind && !a->all)
        rc = ag_err_set(&r->err, AG_E_PARAM_MISSING,
                        "What is to be forgotten? Say tenant, share, model or tag in the query, or all=1.");
    return rc;
}

void ag__cache_ask_free(ag_req *r) { ag_mem_free(r->cache_ask); }

static uint64_t label_of(const struct ag_cache_ask *a)
{
    return a->kind ? ag_cache_label(a->kind, ag_str_of(a->name)) : 0;
}

static void forget(void *arg)
{
    ag_req *r = arg;
    struct ag_cache_ask *a = r->cache_ask;
    a->forgotten = ag_cache_purge(r->gw->caching.cache, names_key(r) ? &a->key : NULL, label_of(a));
}

static ag_next not_there(ag_req *r)
{
    return ag__req_refuse(r, AG_E_NOT_FOUND, "There is no answer in the cache under this key.");
}

static ag_next answer_forget(ag_req *r)
{
    struct ag_cache_ask *a = r->cache_ask;
    if (!a->told) /* first, so that nothing comes back from there */
        ag_tier_purge(r->gw->caching.tier, ag_http_loop_index(r->loop->loop), names_key(r) ? &a->key : NULL,
                      label_of(a));
    a->told = true;
    if (!ag__req_work(r, names_key(r), forget)) return AG_PARKED;
    if (r->err.code != AG_OK) return ag__req_refuse(r, r->err.code, "%s", "");
    if (names_key(r) && a->forgotten == 0 && r->gw->caching.tier == NULL) return not_there(r);
    AG_LOG(r->gw->log, AG_LOG_INFO, NULL, "cache purged", AG_LOG_Z("by", ag__key_name(r)),
           AG_LOG_Z("what", a->all ? "all" : a->kind ? a->kind : "key"), AG_LOG_Z("name", a->name),
           AG_LOG_U("answers", a->forgotten), AG_LOG_Z("request_id", r->id));
    ag_buf body;
    ag_buf_init(&body, ANSWER_BYTES_MAX);
    ag_buf_addf(&body, "{\"object\":\"cache.purged\",\"purged\":%llu}", (unsigned long long)a->forgotten);
    return ag__req_answer_buf(r, AG_TYPE_JSON, &body, NULL, 0);
}

static long long seconds_until(uint64_t ms, uint64_t now_ms) { return ((long long)ms - (long long)now_ms) / 1000; }

/* Looking counts as a use; a renewal is left to those who ask for the answer. */
static ag_next answer_entry(ag_req *r)
{
    uint64_t now_ms = ag_wall_us() / 1000;
    ag_cache_value *value;
    ag_cache_meta meta;
    const ag_cache_key *key = &r->cache_ask->key;
    ag_cache_found how = ag_cache_get(r->gw->caching.cache, key, now_ms, &value, &meta);
    if (how == AG_CACHE_MISS) return not_there(r);
    if (how == AG_CACHE_STALE) ag_cache_renew_failed(r->gw->caching.cache, key);
    ag_buf body;
    ag_buf_init(&body, ANSWER_BYTES_MAX);
    ag_buf_addz(&body, "{\"object\":\"cache.entry\",\"key\":");
    ag_buf_add_json(&body, r->asked_id, strlen(r->asked_id));
    long long age = -seconds_until(meta.made_ms, now_ms), fresh = seconds_until(meta.fresh_until_ms, now_ms),
              stale = seconds_until(meta.stale_until_ms, now_ms);
    ag_buf_addf(&body, ",\"bytes\":%zu,\"hits\":%u,\"age_s\":%lld,\"fresh_s\":%lld,\"stale_s\":%lld}",
                ag_cache_value_size(value), meta.hits, age, AG_MAX(fresh, 0ll), AG_MAX(stale, 0ll));
    ag_cache_value_drop(value);
    return ag__req_answer_buf(r, AG_TYPE_JSON, &body, NULL, 0);
}

static ag_next answer_stats(ag_req *r)
{
    ag_cache_stats s;
    ag_cache_stats_get(r->gw->caching.cache, &s);
    const struct { const char *name; uint64_t n; } rows[] = {
        {"entries", s.entries}, {"bytes", s.bytes}, {"bytes_max", s.bytes_max}, {"hits", s.hits}, {"stale", s.stale},
        {"misses", s.misses}, {"puts", s.puts}, {"refused", s.refused}, {"evicted", s.evicted}, {"expired", s.expired},
        {"purged", s.purged}};
    ag_buf body;
    ag_buf_init(&body, ANSWER_BYTES_MAX);
    ag_buf_addz(&body, "{\"object\":\"cache.stats\"");
    for (size_t i = 0; i < AG_ARRAY_LEN(rows); i++)
        ag_buf_addf(&body, ",\"%s\":%llu", rows[i].name, (unsigned long long)rows[i].n);
    ag_buf_addc(&body, '}');
    return ag__req_answer_buf(r, AG_TYPE_JSON, &body, NULL, 0);
}

ag_next ag__answer_cache(ag_req *r)
{
    if (r->cache_ask->forget) return answer_forget(r);
    return names_key(r) ? answer_entry(r) : answer_stats(r);
}
