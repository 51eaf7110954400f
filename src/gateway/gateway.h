/* gateway.h - the HTTP side of the server: takes requests, has them answered by an engine, delivers.
 * Owns    : the HTTP server (loops, connections), every request, copies of what the conf points to. Engine, metrics and
 *           log are borrowed: the log and metrics outlive the gateway, the engine outlives ag_gateway_stop.
 * Threads : open, start, set_engine, reload, drain, stop and close by the owner's thread; requests live on their loop.
 * Limits  : ag_gateway_conf. Everything that a client controls has a ceiling there or in dialects/fields.def.
 * Errors  : open and start: AG_E_USAGE (a conf that would be unsafe or makes no sense, in one sentence), AG_E_IO (the
 *           port), AG_E_NOMEM. Requests are answered in OpenAI's form from err.def.
 * Order   : open → start → set_engine (when the model is loaded; /readyz is 503 until then) → drain → stop →
 *           ag_engine_close → close. The engine is closed in between because it posts to the loops' mailboxes, which
 *           live until close. */
#ifndef AG_GATEWAY_H
#define AG_GATEWAY_H

#include "engine/engine.h"
#include "gateway/caching.h"
#include "gateway/dialects/request.h"
#include "gateway/warm.h"
#include "observe/log.h"
#include "observe/metrics.h"

typedef struct ag_gateway ag_gateway;

typedef struct ag_gateway_conf {
    const char *host; /* address or name; not a loopback one only with keys or no_auth */
    uint16_t port;    /* 0: any free one */
    uint32_t loops;   /* 0: one per four cores, at least one */

    const char *api_key; /* NULL or "": no keys, any bearer token is accepted, loopback only */
    const char *keys_db; /* a file of keys (keys/keys_db.h), made if need be; NULL or "": none */
    const char *keys_secret; /* what they are hashed under; NULL or "": KEYS_DB.secret */
    /* tokens signed by a key of this file, or URL, will do; NULL or "": none. reload reads it again */
    const char *jwt_jwks;
    uint32_t jwt_refresh_ms; /* of a URL */
    /* Limits are shared with other servers (limiter.h); redis NULL or "": they are not. */
    const char *redis, *redis_prefix, *redis_password, *redis_password_file;
    const char *redis_ca, *redis_cert, *redis_key; /* of rediss:// (redis.h), also the cache's; NULL or "": none */
    uint32_t redis_timeout_ms;
    /* Called when the addresses are bound, before any other file is opened; NULL: nobody. */
    int (*bound)(void *arg, ag_err *err);
    void *bound_arg;
    bool no_auth;        /* said aloud: listen anywhere without keys */

    ag_caching_conf cache;
    ag_history_conf history; /* with a cache; mode OFF: none is kept */
    ag_warm_conf warm;       /* with such a history in full */

    const char *responses_db; /* where responses are kept (responses_store.h); NULL or "": in memory */
    uint64_t responses_max, responses_bytes_max;
    uint32_t responses_keep_s, background_max; /* background_max: of them without their client at once */

    uint32_t header_bytes_max, headers_max, target_bytes_max;
    ag_json_limits json; /* of bodies; the process's, not this gateway's alone */
    uint64_t body_bytes_max;
    uint32_t header_timeout_ms, body_timeout_ms, idle_timeout_ms, write_timeout_ms, total_timeout_ms;
    uint32_t requests_per_connection_max; /* 0: any number */
    uint32_t connections_max, connections_per_address_max;
    uint64_t out_bytes_max;     /* bytes waiting to be written per connection */
    const char *unix_path, *trusted_proxies; /* as in ag_http_conf */
    uint32_t tls_handshakes_max; /* within a second */
    uint64_t h2_bodies_max;
    uint32_t h2_streams_max, h2_window_bytes, h2_connection_window_bytes, h2_resets_max, h2_frames_max;

    /* These may be changed while running (ag_gateway_reload). */
    const char *tls_certs, *tls_keys, *tls_client_ca; /* ag_http_tls: read again at each reload; NULL: none */
    const char *cors_origins;   /* "https://a.example,http://localhost:3000" or "*"; NULL: none */
    uint32_t generations_max;   /* of one request: prompts x n, 1..128 */
    uint32_t max_tokens_max;    /* of one generation; 0: what the context holds */
    uint32_t retry_after_s;     /* in Retry-After of a 503 without an estimate */
    uint32_t band_min;          /* the most urgent band that requests may ask for, 0..3 */
    const char *jwt_issuer, *jwt_audience, *jwt_tenant_claim, *jwt_roles_claim; /* with jwt_jwks: what tokens say */
    const char *tenant_weights; /* "gold=3,free=0.5"; NULL: every tenant's is 1 */
    bool strict;                /* a field that no route knows is an error, not a word in a header */
    const char *aliases;        /* "gpt-4o,my-model": more names that the model answers to; NULL: none */
    bool share_prefixes;        /* prompts' prefixes may be found in the cache by other tenants too */
} ag_gateway_conf;

#define AG_GATEWAY_CONF_DEFAULT                                                                                        \
    ((ag_gateway_conf){.host = "127.0.0.1",                                                                            \
                       .port = 8080,                                                                                   \
                       .header_bytes_max = 16u << 10,                                                                  \
                       .headers_max = 100,                                                                             \
                       .target_bytes_max = 8u << 10,                                                                   \
                       .json = AG_JSON_LIMITS_DEFAULT,                                                                 \
                       .body_bytes_max = 16u << 20,                                                                    \
                       .header_timeout_ms = 10000,                                                                     \
                       .body_timeout_ms = 30000,                                                                       \
                       .idle_timeout_ms = 75000,                                                                       \
                       .write_timeout_ms = 30000,                                                                      \
                       .connections_max = 4096,                                                                        \
                       .connections_per_address_max = 1024,                                                            \
                       .out_bytes_max = 1u << 20,                                                                      \
                       .tls_handshakes_max = 1000,                                                                     \
                       .redis_prefix = "autoglm:",                                                                     \
                       .redis_timeout_ms = 50,                                                                         \
                       .jwt_refresh_ms = 300000,                                                                       \
                       .total_timeout_ms = 3600000,                                                                    \
                       .h2_streams_max = 100,                                                                          \
                       .h2_bodies_max = 64u << 20,                                                                     \
                       .h2_window_bytes = 256u << 10,                                                                  \
                       .h2_connection_window_bytes = 1u << 20,                                                         \
                       .h2_resets_max = 500,                                                                           \
                       .h2_frames_max = 1000,                                                                          \
                       .generations_max = 128,                                                                         \
                       .retry_after_s = 1,                                                                             \
                       .responses_max = 10000,                                                                         \
                       .responses_bytes_max = 256u << 20,                                                              \
                       .responses_keep_s = 86400,                                                                      \
                       .background_max = 256,                                                                          \
                       .cache = {.ttl_s = 3600}})

/* Binds and listens. `log` and `metrics` may be NULL. */
int ag_gateway_open(ag_gateway **out, const ag_gateway_conf *conf, ag_metrics *metrics, ag_log *log, ag_err *err);
int ag_gateway_start(ag_gateway *gw, ag_err *err); /* the loops' threads: /livez and /metrics answer from here on */
uint16_t ag_gateway_port(const ag_gateway *gw);

/* Serves the engine's model from now on, under `name` (NULL: the model's own). Once. */
void ag_gateway_set_engine(ag_gateway *gw, ag_engine *e, const char *name);

/* It has an engine, and is ready when a warm-up is over, which has done so much (NULL: not asked). */
bool ag_gateway_warms(const ag_gateway *gw, uint64_t *done, uint64_t *wanted);

/* Takes over the fields that may change; requests in flight keep what they began with. AG_E_USAGE: nothing changed. */
int ag_gateway_reload(ag_gateway *gw, const ag_gateway_conf *conf, ag_err *err);

/* No new work: /readyz is 503, the listening socket closes, running answers go on. Returns at once. */
void ag_gateway_drain(ag_gateway *gw);
/* Waits until every connection and every response in the background has gone or timeout_ms has passed, then breaks off
 * the rest. Ends the loops. */
void ag_gateway_stop(ag_gateway *gw, uint32_t timeout_ms);
void ag_gateway_close(ag_gateway *gw); /* after stop, or never started */

/* Open requests, of all loops. */
uint64_t ag_gateway_requests(const ag_gateway *gw);

/* The sentence for the start: what is listened on and who may use it. */
void ag_gateway_welcome(const ag_gateway *gw, ag_buf *out);

#endif
