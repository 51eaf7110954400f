#include <stdio.h>

#include "gateway/dialects/anthropic.h"
#include "gateway/dialects/grpc.h"
#include "gateway/req.h"

static void copy_text(char *to, size_t size, ag_str from)
{
    size_t n = AG_MIN(from.n, size - 1);
    memcpy(to, from.p ? from.p : "", n);
    to[n] = 0;
}

/* Without keys the caller may say whatever it likes; a name that is none is refused by check_headers. */
static void take_tenant(ag_req *r)
{
    ag_str t = ag_http_head_get(r->head, "x-tenant");
    bool named = !r->gw->keyed && ag_tenant_name_ok(t);
    copy_text(r->tenant, sizeof r->tenant, named ? t : AG_STR("default"));
}

static int check_tenant(ag_req *r)
{
    ag_str t = ag_http_head_get(r->head, "x-tenant");
    if (r->gw->keyed || t.n == 0 || ag_tenant_name_ok(t)) return AG_OK;
    return ag_request_fail(&r->err, AG_E_PARAM, "x-tenant",
                           "The header 'x-tenant' must be 1 to %d printable ASCII characters without blanks.",
                           AG_TENANT_NAME_MAX);
}

/* Those before the first have streams of another form; those after it read what we send. */
static int check_version(ag_req *r)
{
    ag_str v = ag_http_head_get(r->head, "anthropic-version");
    static const char first[] = AG_ANTHROPIC_VERSION;
    if (v.p == NULL || (v.n == sizeof first - 1 && memcmp(v.p, first, v.n) >= 0)) return AG_OK;
    return ag_request_fail(&r->err, AG_E_PARAM, "anthropic-version",
                           "The header 'anthropic-version' must be " AG_ANTHROPIC_VERSION " or a later date, not '%.*s'.",
                           (int)AG_MIN(v.n, 40u), v.p);
}

/* Over HTTP a body is read as it is sent: whatever has to be unpacked can be more than was counted. */
static int check_encoding(ag_req *r)
{
    ag_str v = ag_http_head_get(r->head, "content-encoding");
    if (v.n == 0 || ag_str_ieq(v, AG_STR("identity"))) return AG_OK;
    return ag_request_fail(&r->err, AG_E_ENCODING, "content-encoding",
                           "The body must be sent as it is, not in '%.*s' (content-encoding).", (int)AG_MIN(v.n, 40u),
                           v.p);
}

/* A header that is a whole number; left alone when it was not sent. */
static int take_number(ag_req *r, const char *name, uint32_t min, uint32_t max, uint32_t *out)
{
    ag_str v = ag_http_head_get(r->head, name);
    if (v.p == NULL) return AG_OK;
    uint64_t x = 0;
    if (!ag_str_u64(v, max, &x) || x < min)
        return ag_request_fail(&r->err, AG_E_PARAM, name,
                               "The header '%s' must be a whole number from %u to %u, not '%.*s'.", name, min, max,
                               (int)AG_MIN(v.n, 40u), v.p);
    *out = (uint32_t)x;
    return AG_OK;
}

/* A server without keys does what anybody says who reaches it, and every web page in a browser on this machine does:
 * by a name of its own that points here (hence Host), or across origins (hence Origin). */
static void check_origin(ag_req *r, ag_str host)
{
    if (r->gw->guarded && !ag_host_is_loopback(host)) {
        ag__req_refuse(r, AG_E_FORBIDDEN,
                       "Without API keys this server answers only to localhost, 127.0.0.1 and [::1]; the request "
                       "was sent to '%.*s'.",
                       (int)AG_MIN(host.n, 100u), host.p ? host.p : "");
        return;
    }
    ag_str origin = ag_http_head_get(r->head, "origin");
    if (origin.p == NULL) return;
    bool fits = origin.n < sizeof r->origin;
    if (fits && ag_origins_has(&r->live->origins, origin)) {
        copy_text(r->origin, sizeof r->origin, origin);
    } else if (!r->gw->keyed && !(fits && ag_origin_is_own(origin, host))) {
        ag__req_refuse(r, AG_E_FORBIDDEN, "Pages of '%.*s' may not use this server; --cors-origin lets them in.",
                       (int)AG_MIN(origin.n, 100u), origin.p);
    }
}

static ag_next answer_options(ag_req *r)
{
    ag_str methods = ag__route_allow(r->route);
    ag_http_header more[4];
    uint32_t n = 0;
    if (r->origin[0] && ag_http_head_get(r->head, "access-control-request-method").p) {
        more[n++] = (ag_http_header){AG_STR("access-control-allow-methods"), methods};
        more[n++] = (ag_http_header){AG_STR("access-control-allow-headers"),
                                     AG_STR("authorization, content-type, x-request-id, x-tenant, traceparent, "
                                            "x-request-priority, x-request-timeout-ms, x-api-key, cache-control, "
                                            "anthropic-version, "
                                            "anthropic-beta")};
        more[n++] = (ag_http_header){AG_STR("access-control-max-age"), AG_STR("600")};
    } else {
        more[n++] = (ag_http_header){AG_STR("allow"), methods};
    }
    return ag__req_answer(r, 204, NULL, (ag_str){0}, more, n);
}

static bool method_is(const ag_req *r, const char *z) { return ag_str_eqz(r->head->method, z); }

static unsigned method_of(const ag_req *r)
{
    if (method_is(r, "GET") || method_is(r, "HEAD")) return AG_GET;
    if (method_is(r, "POST")) return AG_POST;
    if (method_is(r, "PATCH")) return AG_PATCH;
    return method_is(r, "DELETE") ? AG_DELETE : 0;
}

static ag_next refuse_type(ag_req *r)
{
    ag_str type = ag_http_head_get(r->head, "content-type");
    if (r->route->dialect->grpc)
        return ag__req_refuse(r, AG_E_MEDIA_TYPE, "'%.100s' is a method of gRPC: application/grpc over HTTP/2.",
                              r->path);
    return ag__req_refuse(r, AG_E_MEDIA_TYPE,
                          type.p ? "The body must be application/json in UTF-8, not '%.*s'."
                                 : "The body must be application/json; no content-type was sent%.*s.",
                          (int)AG_MIN(type.n, 100u), type.p ? type.p : "");
}

ag_next ag__step_head(ag_req *r)
{
    ag_str host = ag_http_head_get(r->head, "host");
    copy_text(r->method, sizeof r->method, r->head->method);
    copy_text(r->path, sizeof r->path, r->head->path);
    ag_request_id(r->id, ag_http_head_get(r->head, "x-request-id"));
    ag_trace_id(r->trace, ag_http_head_get(r->head, "traceparent"));
    take_tenant(r);
    /* From here on gRPC is told what is wrong in its own way. */
    bool grpc = ag_http_is_grpc(r->s);
    const ag_route *route = ag__route_find(r->head->path);
    r->dialect = grpc ? &ag_grpc : ag__route_dialect(route, r->head->path);
    check_origin(r, host);
    if (r->answered) return AG_MORE;
    r->route = route;
    if (grpc && (r->route == NULL || !r->route->dialect->grpc))
        return ag__req_refuse(r, AG_E_NOT_FOUND,
                              "There is no method '%.100s' here; server reflection lists those that are.", r->path);
    if (r->route == NULL)
        return ag__req_refuse(r, AG_E_NOT_FOUND,
                              "There is no '%.100s' here; POST /v1/chat/completions, /v1/completions, /v1/messages and "
                              "/v1/responses answer.",
                              r->path);
    if (r->route->dialect->grpc == grpc) r->dialect = r->route->dialect;
    if (method_is(r, "OPTIONS")) return answer_options(r);
    if (!(r->route->methods & method_of(r)))
        return ag__req_refuse(r, AG_E_METHOD, "'%.100s' takes %s, not %.16s.", r->path, ag__route_allow(r->route).p,
                              r->method);
    r->step = AG_STEP_AUTH;
    return AG_MORE;
}

/* By the head, which is only there at first. */
static ag_next look_at_head(ag_req *r)
{
    if (r->route->auth && check_tenant(r) != AG_OK) return ag__req_refuse(r, r->err.code, "%s", "");
    if (ag__route_id(r->route, r->head->path).p) ag__queue_take_id(r);
    if (r->route->answer == ag__answer_page) ag__page_look(r);
    if (r->route->answer == ag__answer_connections && ag__connections_look(r) != AG_OK)
        return ag__req_refuse(r, r->err.code, "%s", "");
    if (r->route->answer == ag__answer_cache && ag__cache_look(r) != AG_OK)
        return ag__req_refuse(r, r->err.code, "%s", "");
    bool admin = r->route->answer == ag__answer_admin;
    if (admin && ag__admin_look(r) != AG_OK) return ag__req_refuse(r, r->err.code, "%s", "");
    bool response = r->route->answer == ag__answer_response;
    if (response && ag__response_look(r) != AG_OK) return ag__req_refuse(r, r->err.code, "%s", "");
    bool empty = !r->head->has_body || r->head->content_length == 0;
    bool bodyless = admin || response || r->route->answer == ag__answer_warm;
    if (!(method_of(r) & (AG_POST | AG_PATCH)) || (bodyless && empty)) return AG_MORE;
    r->body_max = r->route->answer ? AG_MOVE_BYTES_MAX : AG_BODY_BYTES_MAX;
    bool grpc = r->dialect->grpc;
    if (!grpc && (r->route->dialect->grpc || !ag_media_is_json(ag_http_head_get(r->head, "content-type"))))
        return refuse_type(r);
    if (!grpc && check_encoding(r) != AG_OK) return ag__req_refuse(r, r->err.code, "%s", "");
    if (grpc && ag__grpc_limits(r) != AG_OK) return ag__req_refuse(r, r->err.code, "%s", "");
    r->counts = r->route->auth == AG_ROLE_INFERENCE && method_of(r) == AG_POST && !(grpc && r->route->answer);
    if (r->route->answer) return AG_MORE;
    if (r->dialect == &ag_anthropic && check_version(r) != AG_OK) return ag__req_refuse(r, r->err.code, "%s", "");
    r->band = AG_REQUEST_UNSET;
    uint32_t deadline_ms = r->timeout_ms; /* gRPC's, which the other may only bring closer */
    if (take_number(r, "x-request-priority", 0, AG_BANDS - 1, &r->band) != AG_OK ||
        take_number(r, "x-request-timeout-ms", 1, AG_REQUEST_TIMEOUT_MAX_MS, &r->timeout_ms) != AG_OK)
        return ag__req_refuse(r, r->err.code, "%s", "");
    ag__caching_head(r);
    if (deadline_ms) r->timeout_ms = AG_MIN(r->timeout_ms, deadline_ms);
    if (atomic_load_explicit(&r->gw->draining, memory_order_relaxed))
        return ag__req_refuse(r, AG_E_DRAINING, "The server is shutting down; nothing new is taken.");
    r->engine = atomic_load_explicit(&r->gw->engine, memory_order_acquire);
    if (r->engine == NULL) return ag__req_refuse(r, AG_E_NOT_READY, "The model is still being loaded.");
    r->request.kind = (ag_request_kind)r->route->kind;
    r->request.strict = r->live->strict;
    r->request.stream = r->route->flow == AG_FLOW_STREAM;
    if (r->route->kind == AG_REQUEST_INFER && !grpc) r->request.model = ag_str_of(r->asked_id);
    return AG_MORE;
}

ag_next ag__step_limits(ag_req *r)
{
    if (!r->head_read) {
        r->head_read = true;
        ag_next next = look_at_head(r);
        if (r->answered) return next;
    }
    if (r->counts && ag__meter_enter(r) != AG_OK) return ag__req_refuse(r, r->err.code, "%s", "");
    if (r->asking) return AG_PARKED; /* the body comes in meanwhile */
    r->step = AG_STEP_BODY;
    return AG_MORE;
}
