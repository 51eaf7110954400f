#include <sodium.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

#include "base/mem.h"
#include "cache/key.h"
#include "gateway/req.h"

#define GATEWAY_MAGIC 0x41474757u

/* One message per generation can wait at a time, and an engine holds far fewer; a full mailbox only delays. */
#define MAILBOX_CAP 16384

static void live_free(ag_live *l)
{
    ag_origins_fini(&l->origins);
    ag_shares_fini(&l->shares);
    ag_jwks_free(l->jwks);
    for (size_t i = 0; i < AG_ARRAY_LEN(l->jwt_texts); i++) ag_mem_free(l->jwt_texts[i]);
    ag_mem_free((char *)(uintptr_t)l->aliases.p);
    ag_mem_free(l);
}

static bool is_set(const char *text) { return text && text[0]; }

static int tokens_open(ag_live *l, const ag_gateway_conf *conf, ag_err *err)
{
    if (!is_set(conf->jwt_jwks)) return AG_OK;
    const char *const texts[] = {conf->jwt_issuer, conf->jwt_audience, conf->jwt_tenant_claim, conf->jwt_roles_claim};
    for (size_t i = 0; i < AG_ARRAY_LEN(texts); i++) {
        if (!is_set(texts[i]))
            return ag_err_set(
                err, AG_E_USAGE,
                "--jwt-jwks needs --jwt-issuer, --jwt-audience and names of the claims: without them tokens "
                "that were made for somebody else would be let in.");
        if ((l->jwt_texts[i] = ag_mem_strndup(texts[i], strlen(texts[i]))) == NULL)
            return ag_err_set(err, AG_E_NOMEM, "There is no memory for the gateway's settings.");
    }
    l->jwt = (ag_jwt_rules){l->jwt_texts[0], l->jwt_texts[1], l->jwt_texts[2], l->jwt_texts[3]};
    return ag_jwks_is_url(conf->jwt_jwks) ? AG_OK : ag_jwks_load(&l->jwks, conf->jwt_jwks, err);
}

static int copy_aliases(ag_live *l, const char *aliases, ag_err *err)
{
    if (!is_set(aliases)) return AG_OK;
    ag_str rest = {ag_mem_strndup(aliases, strlen(aliases)), strlen(aliases)}, name;
    if ((l->aliases = rest).p == NULL)
        return ag_err_set(err, AG_E_NOMEM, "There is no memory for the gateway's settings.");
    for (uint32_t n = 1; ag_str_next(&rest, &name); n++) {
        if (name.n == 0 || name.n > AG_ALIAS_BYTES_MAX)
            return ag_err_set(err, AG_E_USAGE, "An alias must have 1 to %d bytes, not %zu.", AG_ALIAS_BYTES_MAX,
                              name.n);
        if (n > AG_ALIASES_MAX) return ag_err_set(err, AG_E_USAGE, "There may be %d aliases at most.", AG_ALIASES_MAX);
    }
    return AG_OK;
}

static int live_create(ag_live **out, const ag_gateway_conf *conf, ag_err *err)
{
    ag_live *l = ag_mem_zalloc(sizeof *l);
    if (l == NULL) return ag_err_set(err, AG_E_NOMEM, "There is no memory for the gateway's settings.");
    int rc = ag_origins_parse(&l->origins, conf->cors_origins, err);
    if (rc == AG_OK) rc = ag_shares_parse(&l->shares, conf->tenant_weights, err);
    if (rc == AG_OK) rc = tokens_open(l, conf, err);
    if (rc == AG_OK) rc = copy_aliases(l, conf->aliases, err);
    if (rc == AG_OK && conf->band_min >= AG_BANDS)
        rc = ag_err_set(err, AG_E_USAGE, "The most urgent band must be 0 to %d, not %u.", AG_BANDS - 1, conf->band_min);
    if (rc == AG_OK && (conf->generations_max < 1 || conf->generations_max > AG_REQUEST_PROMPTS_MAX))
        rc = ag_err_set(err, AG_E_USAGE, "Answers per request must be 1 to %d, not %u.", AG_REQUEST_PROMPTS_MAX,
                        conf->generations_max);
    if (rc != AG_OK) {
        live_free(l);
        return rc;
    }
    l->band_min = conf->band_min;
    l->share_prefixes = conf->share_prefixes;
    l->strict = conf->strict;
    l->generations_max = conf->generations_max;
    l->max_tokens_max = conf->max_tokens_max;
    l->retry_after_s = conf->retry_after_s;
    *out = l;
    return AG_OK;
}

static void live_push(ag_gateway *gw, ag_live *l)
{
    l->older = atomic_load_explicit(&gw->live, memory_order_relaxed);
    atomic_store_explicit(&gw->live, l, memory_order_release);
}

static void live_free_all(ag_gateway *gw)
{
    for (ag_live *l = atomic_load(&gw->live), *older; l; l = older) {
        older = l->older;
        live_free(l);
    }
}

static int check_conf(const ag_gateway_conf *conf, ag_err *err)
{
    bool keys = is_set(conf->api_key) || is_set(conf->keys_db) || is_set(conf->jwt_jwks);
    if (conf->host == NULL || conf->host[0] == 0 || strlen(conf->host) >= sizeof((ag_gateway *)0)->host)
        return ag_err_set(err, AG_E_USAGE, "The host to listen on must be an address or name.");
    if (!keys && !conf->no_auth && !ag_address_is_loopback(conf->host))
        return ag_err_set(err, AG_E_USAGE,
                          "Listening on '%s' would let anybody on the network in, since no API key is set: set "
                          "AUTOGLM_API_KEY or --keys-db, or say --no-auth if that is meant, or listen on 127.0.0.1.",
                          conf->host);
    if (conf->out_bytes_max < 64u << 10)
        return ag_err_set(err, AG_E_USAGE, "The output limit per connection must be at least 64 KiB.");
    if (conf->body_bytes_max < 1 || conf->body_bytes_max > 1u << 30)
        return ag_err_set(err, AG_E_USAGE, "The body limit must be 1 byte to 1 GiB.");
    return AG_OK;
}

static void note_keys(void *arg, bool bad, const char *text)
{
    ag_gateway *gw = arg;
    AG_LOG(gw->log, bad ? AG_LOG_WARN : AG_LOG_INFO, NULL, "keys", AG_LOG_Z("note", text));
}

/* A budget goes on where an earlier process left it. */
static void note_used(void *arg, const ag_usage_row *row)
{
    ag_gateway *gw = arg;
    ag__meter_seed(gw, row);
}

static int ring_open(ag_gateway *gw, const ag_gateway_conf *conf, ag_err *err)
{
    ag_keyring_conf c = {
        .path = conf->keys_db, .secret_path = conf->keys_secret, .note = note_keys, .used = note_used, .arg = gw};
    if (!is_set(conf->keys_db)) return AG_OK;
    ag_limiter_conf limits = {.redis = conf->redis,
                              .password = conf->redis_password,
                              .password_file = conf->redis_password_file,
                              .files = {conf->redis_ca, conf->redis_cert, conf->redis_key},
                              .prefix = conf->redis_prefix,
                              .timeout_ms = conf->redis_timeout_ms};
    int rc = ag_limiter_open(&gw->limiter, &limits, gw->metrics, gw->log, err);
    return rc == AG_OK ? ag_keyring_open(&gw->ring, &c, err) : rc;
}

static int source_open(ag_gateway *gw, const ag_gateway_conf *conf, ag_err *err)
{
    if (!is_set(conf->jwt_jwks) || !ag_jwks_is_url(conf->jwt_jwks)) return AG_OK;
    ag_jwks_source_conf c = {.url = conf->jwt_jwks, .refresh_ms = conf->jwt_refresh_ms, .note = note_keys, .arg = gw};
    return ag_jwks_source_open(&gw->jwks, &c, err);
}

static int responses_open(ag_gateway *gw, const ag_gateway_conf *conf, ag_err *err)
{
    ag_responses_conf c = {.path = conf->responses_db,
                           .max = conf->responses_max,
                           .bytes_max = conf->responses_bytes_max,
                           .keep_s = conf->responses_keep_s};
    if (ag_ids_open(&gw->background.ids) != AG_OK)
        return ag_err_set(err, AG_E_NOMEM, "There is no memory for the gateway's requests.");
    return ag_responses_open(&gw->responses, &c, err);
}

/* Keys of requests are the same from run to run, so that what was counted of them goes on. */
static int history_open(ag_gateway *gw, const ag_gateway_conf *conf, ag_err *err)
{
    bool warms = conf->warm.full || conf->warm.idle;
    if (warms && (conf->history.mode != AG_HISTORY_FULL || gw->caching.cache == NULL))
        return ag_err_set(err, AG_E_USAGE,
                          "--warm asks again what was asked: it needs --history full, --history-file and a response cache.");
    if (conf->history.mode == AG_HISTORY_OFF || gw->caching.cache == NULL) return AG_OK;
    int rc = ag_history_open(&gw->history, &conf->history, gw->metrics, gw->log, err);
    if (rc == AG_OK && !is_set(conf->cache.secret))
        memcpy(gw->caching.secret, ag_history_secret(gw->history), sizeof gw->caching.secret);
    return rc;
}

static void background_init(ag_background *b, uint32_t max)
{
    b->max = max;
    pthread_mutex_init(&b->lock, NULL);
    ag_cond_init(&b->fewer);
}

/* What both a gateway that was open and one that could not be have. */
static void gateway_free(ag_gateway *gw)
{
    ag_http_server_close(gw->http);
    ag_history_close(gw->history);
    ag_mem_free(gw->loops);
    ag_limiter_close(gw->limiter);
    ag_jwks_source_close(gw->jwks);
    ag_keyring_close(gw->ring);
    ag_responses_close(gw->responses);
    ag_tier_close(gw->caching.tier);
    ag_caching_close(&gw->caching);
    ag_ids_close(gw->background.ids);
    ag_ids_close(gw->ids);
    pthread_cond_destroy(&gw->background.fewer);
    pthread_mutex_destroy(&gw->background.lock);
    live_free_all(gw);
    gw->magic = 0;
    ag_mem_free(gw);
}

static ag_http_tls tls_of(const ag_gateway_conf *c)
{
    return (ag_http_tls){.certs = c->tls_certs, .keys = c->tls_keys, .client_ca = c->tls_client_ca};
}

static uint32_t loops_of(const ag_gateway_conf *conf)
{
    if (conf->loops) return conf->loops;
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    return cores > 4 ? (uint32_t)AG_MIN(cores / 4, 64) : 1;
}

int ag_gateway_open(ag_gateway **out, const ag_gateway_conf *conf, ag_metrics *metrics, ag_log *log, ag_err *err)
{
    int rc = check_conf(conf, err);
    if (rc != AG_OK) return rc;
    if (sodium_init() < 0) return ag_err_set(err, AG_E_INTERNAL, "The cryptographic library could not be set up.");
    ag_openai_init();
    ag_json_limit(&conf->json);
    ag_live *live = NULL;
    ag_gateway *gw = ag_mem_zalloc(sizeof *gw);
    if (gw == NULL) return ag_err_set(err, AG_E_NOMEM, "There is no memory for the gateway.");
    gw->magic = GATEWAY_MAGIC;
    gw->metrics = metrics;
    gw->log = log;
    gw->no_auth = conf->no_auth;
    gw->out_bytes_max = conf->out_bytes_max;
    gw->body_bytes_max = conf->body_bytes_max;
    gw->tls = conf->tls_certs && conf->tls_certs[0];
    memcpy(gw->host, conf->host, strlen(conf->host));
    background_init(&gw->background, conf->background_max);
    ag_pages_init(&gw->pages);
    ag_auth_set(&gw->auth, conf->api_key);
    ag_http_handler handler = ag__http_handler;
    handler.arg = gw;
    ag_http_conf http = {
        .host = conf->host,
        .port = conf->port,
        .loops = loops_of(conf),
        .header_bytes_max = conf->header_bytes_max,
        .headers_max = conf->headers_max,
        .target_bytes_max = conf->target_bytes_max,
        .body_bytes_max = conf->body_bytes_max,
        .header_timeout_ms = conf->header_timeout_ms,
        .body_timeout_ms = conf->body_timeout_ms,
        .idle_timeout_ms = conf->idle_timeout_ms,
        .write_timeout_ms = conf->write_timeout_ms,
        .total_timeout_ms = conf->total_timeout_ms,
        .requests_max = conf->requests_per_connection_max,
        .connections_max = conf->connections_max,
        .connections_per_address_max = conf->connections_per_address_max,
        .mailbox_cap = MAILBOX_CAP,
        .out_bytes_max = conf->out_bytes_max,
        .unix_path = conf->unix_path,
        .trusted_proxies = conf->trusted_proxies,
        .tls = tls_of(conf),
        .tls_handshakes_max = conf->tls_handshakes_max,
        .h2_streams_max = conf->h2_streams_max,
        .h2_bodies_max = conf->h2_bodies_max,
        .h2_window_bytes = conf->h2_window_bytes,
        .h2_connection_window_bytes = conf->h2_connection_window_bytes,
        .h2_resets_max = conf->h2_resets_max,
        .h2_frames_max = conf->h2_frames_max,
    };
    if ((rc = ag_http_server_open(&gw->http, &http, &handler, err)) != AG_OK) goto undo;
    if (conf->bound && (rc = conf->bound(conf->bound_arg, err)) != AG_OK) goto undo;
    if ((rc = live_create(&live, conf, err)) != AG_OK) goto undo;
    live_push(gw, live);
    if ((rc = ring_open(gw, conf, err)) != AG_OK) goto undo;
    if ((rc = source_open(gw, conf, err)) != AG_OK) goto undo;
    if ((rc = responses_open(gw, conf, err)) != AG_OK) goto undo;
    if ((rc = ag_caching_open(&gw->caching, &conf->cache, err)) != AG_OK) goto undo;
    if ((rc = history_open(gw, conf, err)) != AG_OK) goto undo;
    gw->keyed = gw->auth.on || gw->ring || live->jwks || gw->jwks;
    gw->guarded = !gw->keyed && !conf->no_auth;
    if ((rc = ag_ids_open(&gw->ids)) != AG_OK) {
        ag_err_set(err, rc, "There is no memory for the gateway's requests.");
        goto undo;
    }
    gw->n_loops = ag_http_server_loops(gw->http);
    if ((gw->loops = ag_mem_array(gw->n_loops, sizeof *gw->loops)) == NULL) {
        rc = ag_err_set(err, AG_E_NOMEM, "There is no memory for the gateway's loops.");
        goto undo;
    }
    for (uint32_t i = 0; i < gw->n_loops; i++) {
        gw->loops[i] = (ag_gw_loop){.gw = gw, .loop = ag_http_server_loop(gw->http, i)};
        ag_slots_init(&gw->loops[i].slots);
    }
    if (gw->limiter && (rc = ag_limiter_join(gw->limiter, gw->http, err)) != AG_OK) goto undo;
    if ((rc = ag__sharing_open(gw, conf, err)) != AG_OK) goto undo;
    bool asks_again = conf->history.mode == AG_HISTORY_FULL && gw->history;
    if (asks_again && (rc = ag_warm_open(&gw->warm, gw, &conf->warm, err)) != AG_OK) goto undo;
    ag__routes_name(metrics);
    *out = gw;
    return AG_OK;
undo:
    gateway_free(gw);
    return rc;
}

int ag_gateway_start(ag_gateway *gw, ag_err *err)
{
    AG_CHECK(gw, GATEWAY_MAGIC);
    int rc = ag_http_server_start(gw->http, err);
    if (rc == AG_OK) atomic_store(&gw->started, true);
    return rc;
}

uint16_t ag_gateway_port(const ag_gateway *gw) { return ag_http_server_port(gw->http); }

/* Control tokens leave no trace in an answer's text, but for those that tell what its parts are. */
static void show_markers(ag_gateway *gw, const ag_tokenizer *t, const char *markers)
{
    for (const char *at = markers; *at && gw->n_shown < AG_GEN_SHOWN_MAX; at += strspn(at, " ")) {
        size_t n = strcspn(at, " ");
        int32_t id = ag_tokenizer_find(t, (ag_str){at, n});
        if (id >= 0 && ag_tokenizer_kind(t, id) == AG_TOKEN_CONTROL) gw->shown[gw->n_shown++] = id;
        at += n;
    }
}

static void learn_form(ag_gateway *gw, const ag_model *m)
{
    gw->form = ag_form_of(ag_str_of(m->chat_source));
    if (gw->form.thinks) show_markers(gw, m->tokenizer, "<think> </think>");
    if (gw->form.calls != AG_CALLS_NONE) show_markers(gw, m->tokenizer, ag_calls_row_of(gw->form.calls)->markers);
}

void ag_gateway_set_engine(ag_gateway *gw, ag_engine *e, const char *name)
{
    AG_CHECK(gw, GATEWAY_MAGIC);
    AG_ASSERT(atomic_load(&gw->engine) == NULL);
    snprintf(gw->model_name, sizeof gw->model_name, "%s", name && name[0] ? name : ag_engine_model(e)->name);
    learn_form(gw, ag_engine_model(e));
    gw->caching.model = ag_engine_identity(e);
    gw->caching.model_label = ag_cache_label("model", ag_str_of(gw->model_name));
    ag_metrics_model_set(gw->metrics, gw->model_name);
    ag_metrics_build_set(gw->metrics, ag_engine_isa(e));
    atomic_store_explicit(&gw->engine, e, memory_order_release);
    ag_err err = {0};
    if (ag_warm_start(gw->warm, &err) != AG_OK)
        AG_LOG(gw->log, AG_LOG_WARN, NULL, "no warm-up", AG_LOG_Z("error", err.text));
}

bool ag_gateway_warms(const ag_gateway *gw, uint64_t *done, uint64_t *wanted)
{
    ag_warm_state s;
    ag_warm_get(gw->warm, &s);
    if (done) *done = s.done;
    if (wanted) *wanted = s.wanted;
    return ag_warm_pending(gw->warm);
}

int ag_gateway_reload(ag_gateway *gw, const ag_gateway_conf *conf, ag_err *err)
{
    AG_CHECK(gw, GATEWAY_MAGIC);
    ag_live *live = NULL;
    int rc = live_create(&live, conf, err);
    if (rc != AG_OK) return rc;
    ag_http_tls tls = tls_of(conf);
    rc = ag_http_server_tls(gw->http, &tls, err);
    if (rc == AG_OK) live_push(gw, live);
    else live_free(live);
    if (rc == AG_OK && gw->jwks) ag_jwks_source_refresh(gw->jwks);
    return rc;
}

void ag_gateway_drain(ag_gateway *gw)
{
    AG_CHECK(gw, GATEWAY_MAGIC);
    atomic_store(&gw->draining, true);
    ag_warm_halt(gw->warm);
    if (atomic_load(&gw->started)) ag_http_server_drain(gw->http);
}

void ag_gateway_stop(ag_gateway *gw, uint32_t timeout_ms)
{
    AG_CHECK(gw, GATEWAY_MAGIC);
    atomic_store(&gw->draining, true);
    uint64_t began = ag_now_us();
    ag_warm_stop(gw->warm);
    ag__background_end(gw, timeout_ms);
    uint32_t took_ms = (uint32_t)AG_MIN((ag_now_us() - began) / 1000, timeout_ms);
    if (atomic_load(&gw->started)) ag_http_server_stop(gw->http, timeout_ms - took_ms);
    atomic_store(&gw->started, false);
}

void ag_gateway_close(ag_gateway *gw)
{
    if (gw == NULL) return;
    AG_CHECK(gw, GATEWAY_MAGIC);
    AG_ASSERT(!atomic_load(&gw->started) && atomic_load(&gw->requests) == 0);
    ag_warm_close(gw->warm);
    for (uint32_t i = 0; i < gw->n_loops; i++) {
        /* Numbers of generations that nobody waits for any more. */
        while (ag_mbox_take(ag_http_loop_mbox(gw->loops[i].loop))) continue;
        ag__renewals_end(&gw->loops[i]);
        ag_slots_fini(&gw->loops[i].slots);
    }
    gateway_free(gw);
}

uint64_t ag_gateway_requests(const ag_gateway *gw)
{
    return atomic_load_explicit(&((ag_gateway *)gw)->requests, memory_order_relaxed);
}

void ag_gateway_welcome(const ag_gateway *gw, ag_buf *out)
{
    bool v6 = strchr(gw->host, ':') != NULL;
    const char *scheme = gw->tls ? "https" : "http";
    ag_buf_addf(out, "Listening on %s://%s%s%s:%u. ", scheme, v6 ? "[" : "", gw->host, v6 ? "]" : "",
                ag_gateway_port(gw));
    if (gw->keyed) ag_buf_addz(out, "An API key is needed.");
    else if (gw->guarded)
        ag_buf_addz(out, "No API key is set: any bearer token is accepted, from programs on this machine only.");
    else ag_buf_addz(out, "No API key is set and --no-auth was said: anybody who can reach this address may use it.");
}
