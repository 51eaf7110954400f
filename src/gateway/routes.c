#include "gateway/dialects/anthropic.h"
#include "gateway/dialects/grpc.h"
#include "gateway/dialects/kserve.h"
#include "gateway/req.h"

#define METRICS_BYTES_MAX (4u << 20)
#define MODELS_BYTES_MAX (128u << 10) /* a name of AG_ALIAS_BYTES_MAX bytes may be written in six times as many */

static ag_next answer_models(ag_req *r);
static ag_next answer_model(ag_req *r);
static ag_next answer_live(ag_req *r);
static ag_next answer_ready(ag_req *r);
static ag_next answer_metrics(ag_req *r);

#define KIND_NONE 0
#define KIND_COMPLETION AG_REQUEST_COMPLETION
#define KIND_CHAT AG_REQUEST_CHAT
#define KIND_MESSAGES AG_REQUEST_MESSAGES
#define KIND_COUNT AG_REQUEST_COUNT
#define KIND_EMBEDDINGS AG_REQUEST_EMBEDDINGS
#define KIND_TOKENIZE AG_REQUEST_TOKENIZE
#define KIND_DETOKENIZE AG_REQUEST_DETOKENIZE
#define KIND_RESPONSE AG_REQUEST_RESPONSE
#define KIND_INFER AG_REQUEST_INFER

static const ag_route routes[] = {
#define AG_ROUTE(id, path, methods, answer, kind, dialect, auth, what)                                               \
    {#id, path, methods, answer, KIND_##kind, auth, &dialect, AG_FLOW_UNARY},
#include "gateway/routes.def"
#undef AG_ROUTE
#define AG_GRPC(id, service, method, answer, kind, dialect, flow, auth)                                              \
    {#id, "/" service "/" method, AG_POST, answer, KIND_##kind, auth, &dialect, AG_FLOW_##flow},
#include "gateway/grpc.def"
#undef AG_GRPC
};
#define N_ROUTES ((uint32_t)AG_ARRAY_LEN(routes))

static const char *const route_names[N_ROUTES + 1] = {
#define AG_ROUTE(id, path, methods, answer, kind, dialect, auth, what) #id,
#include "gateway/routes.def"
#undef AG_ROUTE
#define AG_GRPC(id, service, method, answer, kind, dialect, flow, auth) #id,
#include "gateway/grpc.def"
#undef AG_GRPC
    "none",
};

static const char *const bad_names[AG_HTTP_BAD_COUNT] = {
#define BAD_ROW(name, text) text,
    AG_HTTP_BADS(BAD_ROW)
#undef BAD_ROW
};

static const char *const fate_names[AG_KEY_FATE_COUNT] = {
#define FATE_ROW(name, text) text,
    AG_KEY_FATES(FATE_ROW)
#undef FATE_ROW
};

_Static_assert(N_ROUTES + 1 <= AG_METRICS_VALUES_MAX && AG_HTTP_BAD_COUNT <= AG_METRICS_VALUES_MAX,
               "one label value each");

/* What stands ahead of the segment that a route leaves open, and behind it; n 0: it leaves none open. */
static ag_str head_of(const ag_route *route, ag_str *tail)
{
    const char *open = strstr(route->path, "{id}");
    ag_str head = {route->path, open ? (size_t)(open - route->path) : strlen(route->path)};
    *tail = ag_str_of(open ? open + strlen("{id}") : "");
    return head.n > 1 && head.p[head.n - 1] == '/' ? head : (ag_str){0};
}

ag_str ag__route_id(const ag_route *route, ag_str path)
{
    ag_str tail, head = head_of(route, &tail);
    if (head.n == 0 || path.n <= head.n + tail.n || !ag_str_starts(path, head)) return (ag_str){0};
    ag_str id = {path.p + head.n, path.n - head.n - tail.n};
    bool many = route->answer == answer_model; /* their names may have slashes */
    bool fits = (many || memchr(id.p, '/', id.n) == NULL) && ag_str_eq((ag_str){id.p + id.n, tail.n}, tail);
    return fits ? id : (ag_str){0};
}

const ag_route *ag__route_find(ag_str path)
{
    for (uint32_t i = 0; i < N_ROUTES; i++) {
        ag_str tail;
        bool open = head_of(&routes[i], &tail).n > 0;
        if (open ? ag__route_id(&routes[i], path).p != NULL : ag_str_eqz(path, routes[i].path)) return &routes[i];
    }
    return NULL;
}

const ag_dialect *ag__route_dialect(const ag_route *route, ag_str path)
{
    if (route && !route->dialect->grpc) return route->dialect;
    if (ag_str_starts(path, AG_STR("/v1/messages/"))) return &ag_anthropic;
    return ag_str_starts(path, AG_STR("/v2/")) ? &ag_kserve : &ag_openai;
}

const ag_route *ag__route_named(ag_str id)
{
    for (uint32_t i = 0; i < N_ROUTES; i++)
        if (ag_str_eqz(id, routes[i].id)) return &routes[i];
    return NULL;
}

ag_str ag__route_allow(const ag_route *route)
{
    switch (route->methods) {
    case AG_POST: return AG_STR("POST, OPTIONS");
    case AG_GET_PATCH_DELETE: return AG_STR("GET, HEAD, PATCH, DELETE, OPTIONS");
    case AG_GET_POST: return AG_STR("GET, HEAD, POST, OPTIONS");
    case AG_GET_POST_DELETE: return AG_STR("GET, HEAD, POST, DELETE, OPTIONS");
    case AG_GET_DELETE: return AG_STR("GET, HEAD, DELETE, OPTIONS");
    case AG_GET_PATCH: return AG_STR("GET, HEAD, PATCH, OPTIONS");
    default: return AG_STR("GET, HEAD, OPTIONS");
    }
}

uint32_t ag__route_index(const ag_route *route) { return route ? (uint32_t)(route - routes) : N_ROUTES; }

void ag__routes_name(ag_metrics *m)
{
    ag_metrics_values(m, AG_LABELS_ROUTE_STATUS, route_names, N_ROUTES + 1);
    ag_metrics_values(m, AG_LABELS_REASON, bad_names, AG_HTTP_BAD_COUNT);
    ag_metrics_values(m, AG_LABELS_KEY_FATE, fate_names, AG_KEY_FATE_COUNT);
    ag__meter_names(m);
}

/* Routes that need no generation. */

bool ag__model_is_ours(const ag_req *r, ag_str name)
{
    ag_str rest = r->live->aliases, alias;
    bool ours = ag_str_eqz(name, r->gw->model_name);
    while (!ours && ag_str_next(&rest, &alias)) ours = ag_str_eq(name, alias);
    return ours;
}

/* The model under its name, then under each alias; 0: it is not loaded yet. */
uint32_t ag__model_cards(const ag_req *r, ag_model_card cards[AG_ALIASES_MAX + 1])
{
    ag_engine *e = atomic_load_explicit(&r->gw->engine, memory_order_acquire);
    if (e == NULL || !ag__model_allowed(r)) return 0;
    ag_str rest = r->live->aliases, name = ag_str_of(r->gw->model_name);
    uint32_t n = 0;
    do cards[n++] = (ag_model_card){name, ag_engine_model(e)->created, ag_engine_ctx_max(e)};
    while (ag_str_next(&rest, &name));
    return n;
}

static ag_next answer_models(ag_req *r)
{
    ag_model_card cards[AG_ALIASES_MAX + 1];
    uint32_t n = ag__model_cards(r, cards);
    ag_buf body;
    ag_buf_init(&body, MODELS_BYTES_MAX);
    ag_openai_models(&body, cards, n);
    return ag__req_answer_buf(r, AG_TYPE_JSON, &body, NULL, 0);
}

static ag_next answer_model(ag_req *r)
{
    ag_model_card cards[AG_ALIASES_MAX + 1];
    ag_str id = ag_str_of(r->asked_id);
    uint32_t n = ag__model_cards(r, cards), i = 0;
    while (i < n && !ag_str_eq(id, cards[i].id)) i++;
    if (i == n)
        return ag__req_refuse(r, AG_E_MODEL_NOT_FOUND,
                              "There is no model '%.100s' here; GET /v1/models lists those that are.", id.p);
    ag_buf body;
    ag_buf_init(&body, 16u << 10);
    ag_openai_model(&body, &cards[i]);
    return ag__req_answer_buf(r, AG_TYPE_JSON, &body, NULL, 0);
}

bool ag__is_ready(const ag_gateway *gw)
{
    return atomic_load_explicit(&gw->engine, memory_order_acquire) != NULL &&
           !atomic_load_explicit(&gw->draining, memory_order_relaxed) && !ag_warm_pending(gw->warm);
}

static ag_next answer_live(ag_req *r)
{
    return ag__req_answer(r, 200, "application/json", AG_STR("{\"status\":\"ok\"}"), NULL, 0);
}

static ag_next answer_ready(ag_req *r)
{
    if (atomic_load_explicit(&r->gw->draining, memory_order_relaxed))
        return ag__req_refuse(r, AG_E_DRAINING, "The server is shutting down.");
    if (atomic_load_explicit(&r->gw->engine, memory_order_acquire) == NULL)
        return ag__req_refuse(r, AG_E_NOT_READY, "The model is still being loaded.");
    if (ag_warm_pending(r->gw->warm)) {
        ag_warm_state s;
        ag_warm_get(r->gw->warm, &s);
        return ag__req_refuse(r, AG_E_NOT_READY, "The caches are being warmed up: %llu of %llu are done.",
                              (unsigned long long)s.done, (unsigned long long)s.wanted);
    }
    return ag__req_answer(r, 200, "application/json", AG_STR("{\"status\":\"ok\"}"), NULL, 0);
}

static void copy_queue(ag_metrics *m, const ag_engine_stats *s)
{
    for (uint32_t i = 0; i < AG_BANDS; i++) ag_metric_set(m, AG_M_QUEUE_DEPTH, i, s->waiting_by_band[i]);
    ag_metric_set(m, AG_M_QUEUE_TOKENS, 0, (double)s->queue_tokens);
    ag_metric_set(m, AG_M_QUEUE_BYTES, 0, (double)s->queue_bytes);
    ag_metric_set(m, AG_M_SET_BACK, AG_SET_BACK_PAGES, (double)s->set_back_pages);
    ag_metric_set(m, AG_M_SET_BACK, AG_SET_BACK_URGENT, (double)s->set_back_urgent);
    ag_metric_set(m, AG_M_SET_BACK, AG_SET_BACK_SHARE, (double)s->set_back_share);
    ag_metric_set(m, AG_M_EVICTED, AG_EVICTED_DISPLACED, (double)s->displaced);
    ag_metric_set(m, AG_M_EVICTED, AG_EVICTED_EXPIRED, (double)s->expired);
    ag_metric_set(m, AG_M_EVICTED, AG_EVICTED_TIMED_OUT, (double)s->timed_out);
    ag_metric_set(m, AG_M_EVICTED, AG_EVICTED_REFUSED_FULL, (double)s->refused_full);
    ag_metric_set(m, AG_M_EVICTED, AG_EVICTED_REFUSED_LATE, (double)s->refused_late);
    ag_metric_set(m, AG_M_STEP_ERROR, 0, s->step_error);
    ag_metric_set(m, AG_M_SERVICE_RATE, 0, s->service_rate);
    ag_metric_set(m, AG_M_THREADS, 0, s->threads);
    ag_metric_set(m, AG_M_BUSY, 0, (double)s->busy_us);
}

void ag__metrics_copy(ag_gateway *gw)
{
    ag_metrics *m = gw->metrics;
    ag_engine *e = atomic_load_explicit(&gw->engine, memory_order_acquire);
    ag_metric_set(m, AG_M_READY, 0, ag__is_ready(gw));
    ag__caching_metrics(gw);
    ag_warm_state warm;
    ag_warm_get(gw->warm, &warm);
    ag_metric_set(m, AG_M_WARMING, 0, warm.running);
    ag_metric_set(m, AG_M_CONNECTIONS, 0, (double)ag_http_server_connections(gw->http));
    ag_metric_set(m, AG_M_RESPONSES, 0, (double)ag_responses_count(gw->responses));
    ag_metric_set(m, AG_M_RESPONSES_BYTES, 0, (double)ag_responses_bytes(gw->responses));
    ag_metric_set(m, AG_M_RESPONSES_BACKGROUND, 0, ag__background_count(gw));
    ag_limiter_metrics(gw->limiter);
    ag_metric_set(m, AG_M_KEYS, 0, gw->ring ? (double)ag_keyring_keys(gw->ring) : 0);
    ag_metric_set(m, AG_M_USAGE_WAITING, 0, gw->ring ? (double)ag_usage_waiting(ag_keyring_usage(gw->ring)) : 0);
    ag_metric_set(m, AG_M_USAGE_LOST, 0, gw->ring ? (double)ag_usage_lost(ag_keyring_usage(gw->ring)) : 0);
    _Static_assert((int)AG_CONN_DRAINING == (int)AG_HTTP_STATE_DRAINING, "both lists say the same");
    for (uint32_t i = 0; i < AG_CONN_STATE_COUNT; i++)
        ag_metric_set(m, AG_M_CONNECTION_STATES, i, (double)ag_http_server_in_state(gw->http, (ag_http_state)i));
    ag_metric_set(m, AG_M_CONNECTIONS_CLOSED, 0, (double)ag_http_server_in_state(gw->http, AG_HTTP_STATE_CLOSED));
    ag_metric_set(m, AG_M_LOG_DROPPED, 0, (double)ag_log_dropped(gw->log));
    for (uint32_t i = 0; i < AG_HTTP_BAD_COUNT; i++)
        ag_metric_set(m, AG_M_REFUSED, i, (double)ag_http_server_bad_count(gw->http, (ag_http_bad)i));
    if (e == NULL) return;
    ag_engine_stats s;
    ag_engine_stats_get(e, &s);
    ag_metric_set(m, AG_M_WAITING, 0, s.waiting);
    ag_metric_set(m, AG_M_RUNNING, 0, s.running);
    ag_metric_set(m, AG_M_KV_PAGES, 0, (double)s.kv_pages);
    ag_metric_set(m, AG_M_KV_PAGES_USED, 0, (double)s.kv_pages_used);
    ag_metric_set(m, AG_M_KV_USAGE, 0, s.kv_pages ? (double)s.kv_pages_used / (double)s.kv_pages : 0);
    ag_metric_set(m, AG_M_STEPS, 0, (double)s.steps);
    ag_metric_set(m, AG_M_PROMPT_TOKENS, 0, (double)s.prompt_tokens);
    ag_metric_set(m, AG_M_OUTPUT_TOKENS, 0, (double)s.output_tokens);
    ag_metric_set(m, AG_M_PREEMPTIONS, 0, (double)s.preemptions);
    ag_metric_set(m, AG_M_CANCELLED, 0, (double)s.cancelled);
    ag_metric_set(m, AG_M_KV_PAGES_KEPT, 0, (double)s.kv_pages_kept);
    ag_metric_set(m, AG_M_KV_PAGES_FREE, 0, (double)s.kv_pages_free);
    ag_metric_set(m, AG_M_KV_PAGES_RESTORED, 0, (double)s.kv_pages_restored);
    ag_metric_set(m, AG_M_KV_RECLAIMED, 0, (double)s.kv_pages_reclaimed);
    ag_metric_set(m, AG_M_PREFIX_ASKED, 0, (double)s.asked_tokens);
    ag_metric_set(m, AG_M_PREFIX_REUSED, 0, (double)s.reused_tokens);
    ag_metric_set(m, AG_M_AGAIN_TOKENS, 0, (double)s.again_tokens);
    copy_queue(m, &s);
}

static ag_next answer_metrics(ag_req *r)
{
    ag_buf body;
    ag_buf_init(&body, METRICS_BYTES_MAX);
    if (r->gw->metrics) {
        ag__metrics_copy(r->gw);
        ag_metrics_write(r->gw->metrics, &body);
    }
    return ag__req_answer_buf(r, AG_METRICS_CONTENT_TYPE, &body, NULL, 0);
}
