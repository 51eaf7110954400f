/* auth.c - whose request it is, and what its key may do. Keys are looked up in memory: nothing here waits. */
#include "base/mem.h"
#include "gateway/req.h"

static const char *const not_known = "This API key is not known here.";

/* A caller is not told whether a key was there once, has ended, or has another secret: the log and the metrics are. */
static ag_next refuse(ag_req *r, ag_key_fate fate)
{
    ag_metric_add(r->gw->metrics, AG_M_KEYS_CHECKED, fate, 1);
    if (fate == AG_KEY_STALE)
        return ag__req_refuse(r, AG_E_KEYS, "Keys cannot be checked at present, so nobody is let in; try again later.");
    return ag__req_refuse(r, AG_E_AUTH, "%s",
                          fate == AG_KEY_MISSING ? "An API key is needed: send 'Authorization: Bearer KEY'."
                                                 : not_known);
}

static void take_key(ag_req *r, ag_key *k)
{
    r->key = k;
    size_t n = strlen(k->tenant);
    _Static_assert(sizeof k->tenant == sizeof r->tenant, "a key's tenant is a tenant");
    memcpy(r->tenant, k->tenant, n + 1);
}

/* Without keys administration is for this machine's programs, wherever the server listens: by the address that they
 * come from, and by the name that they use, which is another one when a web page sent them here. What a proxy brings
 * may be anybody's, whatever is said of whose it is. */
static bool is_local(const ag_req *r)
{
    if (ag_http_stream_is_proxied(r->s)) return false;
    if (strcmp(r->client, "unix") == 0) return true;
    return ag_address_is_loopback(r->client) && ag_host_is_loopback(ag_http_head_get(r->head, "host"));
}

static ag_next check_role(ag_req *r)
{
    uint32_t roles = r->key ? r->key->roles : AG_ROLE_INFERENCE;
    if (roles & r->route->auth) return AG_MORE;
    if (r->route->auth == AG_ROLE_ADMIN)
        return ag__req_refuse(r, AG_E_FORBIDDEN, "'%.100s' is for keys with the role 'admin', which this one has not.",
                              r->path);
    return ag__req_refuse(r, AG_E_FORBIDDEN, "This key has not the role 'inference', which '%.100s' needs.", r->path);
}

/* What a token says is a key for this one request. */
static ag_key_fate take_token(ag_req *r, ag_str token)
{
    ag_err why = {0};
    ag_jwt_claims c;
    ag_jwks *set = r->gw->jwks ? ag_jwks_source_get(r->gw->jwks) : ag_jwks_hold(r->live->jwks);
    if (set == NULL) return AG_KEY_STALE;
    int rc = ag_jwt_check(set, &r->live->jwt, token, ag_wall_us() / 1000000, &c, &why);
    ag_jwks_free(set);
    if (rc == AG_E_KEY_NOT_FOUND && r->gw->jwks) ag_jwks_source_missed(r->gw->jwks);
    if (rc != AG_OK) {
        ag_log_ctx ctx = {ag_str_of(r->id), ag_str_of(r->trace)};
        AG_LOG(r->gw->log, AG_LOG_INFO, &ctx, "token refused", AG_LOG_Z("reason", why.text));
        return AG_KEY_TOKEN;
    }
    ag_key *k = ag_mem_zalloc(sizeof *k);
    if (k == NULL) return AG_KEY_STALE;
    atomic_init(&k->refs, 1);
    memcpy(k->id, c.id, sizeof c.id);
    memcpy(k->tenant, c.tenant, sizeof c.tenant);
    k->roles = c.roles;
    k->expires_s = c.expires_s;
    k->of_token = true;
    take_key(r, k);
    return AG_KEY_OK;
}

static ag_key_fate try_text(ag_req *r, ag_str text)
{
    ag_key *key = NULL;
    if (r->gw->auth.on && ag_auth_check_key(&r->gw->auth, text)) return AG_KEY_OK;
    if ((r->live->jwks || r->gw->jwks) && ag_jwt_is(text)) return take_token(r, text);
    if (r->gw->ring == NULL) return AG_KEY_UNKNOWN;
    ag_key_fate fate = ag_keyring_check(r->gw->ring, text, ag_wall_us() / 1000000, &key);
    if (fate == AG_KEY_OK) take_key(r, key);
    return fate;
}

/* Anthropic's clients send the one header, OpenAI's the other; some send both, with something else in one of them. */
static ag_key_fate find_key(ag_req *r)
{
    ag_str own = ag_http_head_get(r->head, "x-api-key"), authorization = ag_http_head_get(r->head, "authorization");
    ag_str bearer = ag_bearer(authorization);
    ag_key_fate fate = authorization.p ? AG_KEY_UNKNOWN : AG_KEY_MISSING;
    if (own.p) fate = try_text(r, own);
    if (bearer.p && fate != AG_KEY_OK) fate = try_text(r, bearer);
    return fate;
}

ag_next ag__step_auth(ag_req *r)
{
    r->step = AG_STEP_LIMITS;
    if (r->route->auth == 0) return AG_MORE;
    if (!r->gw->keyed) {
        if (r->route->auth == AG_ROLE_ADMIN && !is_local(r))
            return ag__req_refuse(r, AG_E_FORBIDDEN, "Without keys '%.100s' answers only to programs on this machine.",
                                  r->path);
        return AG_MORE;
    }
    ag_key_fate fate = find_key(r);
    if (fate != AG_KEY_OK) return refuse(r, fate);
    ag_metric_add(r->gw->metrics, AG_M_KEYS_CHECKED, fate, 1);
    return check_role(r);
}

const char *ag__key_name(const ag_req *r) { return r->key ? r->key->id : r->gw->keyed ? "static" : ""; }

uint32_t ag__band_min(const ag_req *r) { return AG_MAX(r->live->band_min, r->key ? r->key->band_min : 0); }

int ag__band_check(const ag_req *r, uint32_t band, ag_err *err)
{
    if (band >= ag__band_min(r)) return AG_OK;
    return ag_request_fail(err, AG_E_FORBIDDEN, "priority",
                           "Priority %u is more urgent than %s may ask for here: %u to %d.", band,
                           band >= r->live->band_min ? "this key" : "callers", ag__band_min(r), AG_BANDS - 1);
}

bool ag__model_allowed(const ag_req *r)
{
    if (r->key == NULL || r->key->models[0] == 0) return true;
    bool found = false;
    for (ag_str list = ag_str_of(r->key->models), one; !found && ag_str_next(&list, &one);)
        found = ag__model_is_ours(r, one);
    return found;
}

int ag__model_check(const ag_req *r, ag_err *err)
{
    if (ag__model_allowed(r)) return AG_OK;
    return ag_request_fail(err, AG_E_FORBIDDEN, "model", "This key may not use the model '%s'.", r->gw->model_name);
}

ag_str ag__req_share(const ag_req *r)
{
    return r->warm ? r->warm_share : r->key ? ag_str_of(r->key->share) : (ag_str){0};
}

float ag__weight_of(const ag_req *r)
{
    bool own = r->key && r->key->weight > 0;
    return own ? (float)r->key->weight : ag_shares_of(&r->live->shares, r->tenant);
}
