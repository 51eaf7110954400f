#include <stdarg.h>
#include <stdio.h>

#include "base/mem.h"
#include "gateway/dialects/grpc_wire.h"
#include "gateway/req.h"

#define REQ_MAGIC 0x41475251u
#define RETRY_MAX_S 3600u /* an estimate over an hour says no more than that */

static ag_next step_body(ag_req *r);

static ag_next (*const steps[AG_STEP_COUNT])(ag_req *r) = {
    [AG_STEP_HEAD] = ag__step_head,         /* route, ids, where from */
    [AG_STEP_AUTH] = ag__step_auth,         /* whose */
    [AG_STEP_LIMITS] = ag__step_limits,     /* may it be taken at all */
    [AG_STEP_BODY] = step_body,             /* wait for the rest */
    [AG_STEP_PREPARE] = ag__step_prepare,   /* JSON, template, tokens; here or on a worker */
    [AG_STEP_LOOKUP] = ag__step_lookup,     /* is its answer there already */
    [AG_STEP_ADMIT] = ag__step_admit,       /* hand the generations to the engine */
    [AG_STEP_GENERATE] = ag__step_generate, /* wait for news of them */
    [AG_STEP_KEEP] = ag__step_keep,         /* a response is kept */
    [AG_STEP_DELIVER] = ag__step_deliver,   /* write what is there */
    [AG_STEP_ACCOUNT] = ag__step_account,   /* metrics, log line; wait for the stream's end */
};

static void req_free(ag_req *r)
{
    AG_CHECK(r, REQ_MAGIC);
    AG_ASSERT(r->done && !r->working && !r->asking);
    ag__choices_release(r);
    ag__prompts_free(r);
    ag_request_fini(&r->request);
    ag_buf_fini(&r->body);
    ag_buf_fini(&r->out);
    ag_buf_fini(&r->heads);
    ag_key_put(r->key);
    ag__admin_free(r);
    ag__cache_ask_free(r);
    ag__response_free(r);
    ag__connections_free(r);
    atomic_fetch_sub_explicit(&r->gw->requests, 1, memory_order_relaxed);
    if (r->warm) ag_warm_ended(r->warm, r);
    r->magic = 0;
    ag_mem_free(r);
}

/* The only loop, and the only place that frees. A callback that comes while a step is on the stack only asks for
 * another round. */
void ag__req_run(ag_req *r)
{
    AG_CHECK(r, REQ_MAGIC);
    if (r->running) {
        r->again = true;
        return;
    }
    r->running = true;
    ag_next next;
    do {
        r->again = false;
        if (r->gone && !r->detached && !r->working && !r->asking && r->step < AG_STEP_ACCOUNT) {
            if (!r->answered || r->streaming) ag_err_set(&r->err, AG_E_CANCELLED, "The client went away.");
            ag__choices_release(r);
            r->step = AG_STEP_ACCOUNT;
        }
        next = steps[r->step](r);
    } while (next == AG_MORE || (next == AG_PARKED && r->again));
    r->running = false;
    if (next == AG_DONE) req_free(r);
}

void ag__req_worked(void *arg)
{
    ag_req *r = arg;
    r->working = false;
    r->worked = true;
    ag__req_run(r);
}

bool ag__req_work(ag_req *r, bool here, void (*work)(void *r))
{
    bool done = r->worked;
    if (r->working) return false;
    r->worked = false;
    if (done) return true;
    r->working = !here;
    if (here) work(r);
    else if (ag_http_loop_work(r->loop->loop, work, ag__req_worked, r)) return false;
    else ag_err_set(&r->err, AG_E_NOMEM, "The server has no memory left for this request.");
    r->working = false;
    return true;
}

uint32_t ag__req_headers(const ag_req *r, ag_http_header out[AG_HEADERS_MAX])
{
    uint32_t n = 0;
    out[n++] = (ag_http_header){AG_STR("x-request-id"), ag_str_of(r->id)};
    if (r->dialect->id_header) out[n++] = (ag_http_header){ag_str_of(r->dialect->id_header), ag_str_of(r->id)};
    if (r->live->origins.n || r->live->origins.any) out[n++] = (ag_http_header){AG_STR("vary"), AG_STR("origin")};
    if (r->origin[0] && ag_origins_has(&r->live->origins, ag_str_of(r->origin))) {
        out[n++] = (ag_http_header){AG_STR("access-control-allow-origin"), ag_str_of(r->origin)};
        out[n++] = (ag_http_header){AG_STR("access-control-expose-headers"),
                                    AG_STR("x-request-id, request-id, retry-after, x-autoglm-ignored-fields, "
                                           "x-cache, x-cache-key, age, "
                                           AG_RATE_HEADERS)};
    }
    if (r->dialect->grpc) {
        out[n++] = (ag_http_header){AG_STR("grpc-accept-encoding"), AG_STR("identity,gzip")};
        if (r->request.wire.gzip) out[n++] = (ag_http_header){AG_STR("grpc-encoding"), AG_STR("gzip")};
    }
    if (r->request.ignored[0])
        out[n++] = (ag_http_header){AG_STR("x-autoglm-ignored-fields"), ag_str_of(r->request.ignored)};
    n += ag__caching_headers(r, out + n);
    return n + ag__meter_headers(r, out + n);
}

ag_next ag__req_answer(ag_req *r, int status, const char *type, ag_str body, const ag_http_header *more,
                       uint32_t n_more)
{
    ag_http_header headers[AG_HEADERS_MAX];
    uint32_t n = ag__req_headers(r, headers);
    if (type) headers[n++] = (ag_http_header){AG_STR("content-type"), ag_str_of(type)};
    for (uint32_t i = 0; i < n_more && n < AG_HEADERS_MAX; i++) headers[n++] = more[i];
    if (r->dialect->grpc) ag__grpc_end(r);
    r->answered = true;
    r->status = status;
    r->step = AG_STEP_ACCOUNT;
    if (!r->gone) ag_http_respond(r->s, status, headers, n, body.p, body.n);
    return AG_MORE;
}

ag_next ag__req_answer_buf(ag_req *r, const char *type, ag_buf *body, const ag_http_header *more, uint32_t n_more)
{
    ag_next next = body->failed ? ag__req_refuse(r, AG_E_NOMEM, "The server has no memory left for this answer.")
                                : ag__req_answer(r, 200, type, ag_buf_str(body), more, n_more);
    ag_buf_fini(body);
    return next;
}

ag_next ag__req_refuse(ag_req *r, int code, const char *fmt, ...)
{
    char text[sizeof r->err.text], retry[16];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    ag_err_set(&r->err, code, "%s", text);
    ag__choices_release(r);
    const ag_err_row *row = ag_err_find(r->err.code);
    ag_http_header more[2];
    uint32_t n = 0;
    uint64_t retry_s = 0;
    if (row->retry == AG_RETRY_AFTER)
        retry_s = r->retry_us ? AG_MIN((r->retry_us + 999999) / 1000000, RETRY_MAX_S) : r->live->retry_after_s;
    if (r->dialect->grpc) return ag__grpc_refuse(r, (uint32_t)retry_s);
    if (row->retry == AG_RETRY_AFTER) {
        snprintf(retry, sizeof retry, "%u", (unsigned)retry_s);
        more[n++] = (ag_http_header){AG_STR("retry-after"), ag_str_of(retry)};
    }
    if (r->err.code == AG_E_AUTH) more[n++] = (ag_http_header){AG_STR("www-authenticate"), AG_STR("Bearer")};
    if (r->err.code == AG_E_METHOD)
        more[n++] = (ag_http_header){AG_STR("allow"), ag__route_allow(r->route)};
    ag_buf body;
    ag_buf_init(&body, 16u << 10);
    r->dialect->error(&body, &r->err, ag_str_of(r->id));
    /* Without memory even for the sentence the status still goes out. */
    ag_next next =
        ag__req_answer(r, row->http, "application/json", body.failed ? (ag_str){0} : ag_buf_str(&body), more, n);
    ag_buf_fini(&body);
    return next;
}

static ag_next step_body(ag_req *r)
{
    if (r->route->flow == AG_FLOW_BOTH) return r->route->answer(r);
    if (!r->body_ended && !(r->dialect->grpc && r->body_long)) return AG_PARKED;
    r->body_us = ag_now_us();
    if (r->body.failed) return ag__req_refuse(r, AG_E_NOMEM, "The server has no memory left for this request.");
    if (r->body_long && r->body_max)
        return ag__req_refuse(r, AG_E_TOO_LARGE, "The body is larger than the %u bytes that '%.100s' takes.",
                              r->body_max, r->path);
    if (r->route->answer) return r->route->answer(r);
    r->step = AG_STEP_PREPARE;
    return AG_MORE;
}

/* Callbacks. */

static const char no_memory_body[] = "{\"error\":{\"message\":\"The server has no memory left for this "
                                     "request.\",\"type\":\"server_error\",\"param\":null,"
                                     "\"code\":\"out_of_memory\"}}";

static ag_req *req_make(ag_gateway *gw, ag_gw_loop *l)
{
    ag_req *r = ag_mem_zalloc(sizeof *r);
    if (r == NULL) return NULL;
    r->magic = REQ_MAGIC;
    r->gw = gw;
    r->loop = l;
    r->dialect = &ag_openai;
    r->head_us = ag_now_us();
    r->live = atomic_load_explicit(&gw->live, memory_order_acquire);
    ag_buf_init(&r->body, AG_BODY_BYTES_MAX);
    ag_buf_init(&r->out, AG_REPLY_BYTES_MAX);
    ag_buf_init(&r->heads, AG_HEADS_BYTES_MAX);
    ag_request_init(&r->request, AG_REQUEST_COMPLETION);
    ag_response_init(&r->response, &r->request);
    atomic_fetch_add_explicit(&gw->requests, 1, memory_order_relaxed);
    return r;
}

static void on_head(void *arg, ag_http_stream *s, const ag_http_head *head, void **user)
{
    ag_gateway *gw = arg;
    ag_req *r = req_make(gw, &gw->loops[ag_http_loop_index(ag_http_stream_loop(s))]);
    *user = r;
    if (r == NULL) {
        static const ag_http_header type = {{"content-type", 12}, {"application/json", 16}};
        ag_http_respond(s, 503, &type, 1, no_memory_body, sizeof no_memory_body - 1);
        return;
    }
    r->s = s;
    r->head = head;
    ag_str client = ag_http_stream_peer(s);
    /* the stream may be gone when it is asked for */
    snprintf(r->client, sizeof r->client, "%.*s", (int)client.n, client.p);
    ag__req_run(r);
    r->head = NULL;
}

ag_req *ag__req_of_record(ag_gateway *gw, ag_gw_loop *l, const ag_history_record *rec, ag_warm_job *job)
{
    const ag_route *route = ag__route_named(rec->route);
    bool ours = route && route->kind && !route->dialect->grpc && rec->tenant.n < sizeof((ag_req *)0)->tenant;
    ag_req *r = ours ? req_make(gw, l) : NULL;
    if (r == NULL) return NULL;
    r->warm = job;
    r->warm_share = rec->share;
    r->gone = r->done = r->body_ended = true; /* no stream, */
    r->detached = true;                       /* and on it goes */
    r->route = route;
    r->dialect = route->dialect;
    r->engine = atomic_load_explicit(&gw->engine, memory_order_acquire);
    r->request.kind = (ag_request_kind)route->kind;
    snprintf(r->tenant, sizeof r->tenant, "%.*s", (int)rec->tenant.n, rec->tenant.p);
    ag_request_id(r->id, (ag_str){0});
    if (route->kind == AG_REQUEST_INFER) r->request.model = ag_str_of(gw->model_name);
    r->body_us = r->head_us;
    ag_buf_add(&r->body, rec->body.p, rec->body.n);
    r->step = AG_STEP_BODY;
    return r;
}

void ag__req_break_off(ag_req *r)
{
    r->detached = false;
    ag__req_run(r);
}

static void on_body(void *user, ag_http_stream *s AG_UNUSED, const char *p, size_t n)
{
    ag_req *r = user;
    if (r == NULL) return;
    bool both = r->route && r->route->flow == AG_FLOW_BOTH; /* it is answered while it is asked */
    if (r->answered && !both) return;
    if (n <= r->body_max - r->body.n) ag_buf_add(&r->body, p, n);
    else r->body_long = true;
    /* A message says at its beginning how long it will be. */
    if (r->dialect->grpc && ag_grpc_length(r->body.p, r->body.n) > r->request.wire.message_max) r->body_long = true;
    if (both || (r->dialect->grpc && r->body_long)) ag__req_run(r);
}

static void on_end(void *user, ag_http_stream *s AG_UNUSED)
{
    ag_req *r = user;
    if (r == NULL) return;
    r->body_ended = true;
    ag__req_run(r);
}

static void on_gone(void *user, ag_http_stream *s AG_UNUSED)
{
    ag_req *r = user;
    if (r == NULL) return;
    r->gone = true;
    r->blocked = false;
    ag__req_run(r);
}

static void on_done(void *user, ag_http_stream *s AG_UNUSED)
{
    ag_req *r = user;
    if (r == NULL) return;
    r->done = true;
    if (r->step < AG_STEP_ACCOUNT) r->gone = true;
    r->s = NULL;
    ag__req_run(r);
}

static void on_bad(void *arg, ag_http_refusal *f)
{
    ag_gateway *gw = arg;
    ag_err err = {0};
    char id[AG_ID_MAX + 1];
    const ag_err_row *row = ag_err_find(f->err);
    const ag_dialect *d = f->head ? ag__route_dialect(ag__route_find(f->head->path), f->head->path) : &ag_openai;
    ag_err_set(&err, f->err, "%s", f->sentence);
    ag_request_id(id, f->head ? ag_http_head_get(f->head, "x-request-id") : (ag_str){0});
    ag_http_refusal_add(f, AG_STR("x-request-id"), ag_str_of(id));
    if (d->id_header) ag_http_refusal_add(f, ag_str_of(d->id_header), ag_str_of(id));
    if (f->grpc) {
        ag__grpc_bad(f, &err, ag_str_of(id));
    } else {
        ag_http_refusal_add(f, AG_STR("Content-Type"), AG_STR(AG_TYPE_JSON));
        d->error(&f->body, &err, ag_str_of(id));
    }
    ag_metric_add(gw->metrics, AG_M_ERRORS, (uint32_t)f->err, 1);
    ag_log_ctx ctx = {.request_id = ag_str_of(id)};
    AG_LOG(gw->log, AG_LOG_INFO, &ctx, "request refused", AG_LOG_I("status", row->http),
           AG_LOG_Z("reason", ag_http_bad_name(f->why)), AG_LOG_Z("code", row->code), AG_LOG_Z("error", f->sentence));
}

static void on_message(void *arg, ag_http_loop *l, void *msg)
{
    ag_gateway *gw = arg;
    ag_slot *slot = ag_slots_find(&gw->loops[ag_http_loop_index(l)].slots, msg);
    if (slot == NULL) return; /* the request has ended in the meantime */
    if (slot->choice == AG_SLOT_RENEWAL) {
        ag__renewal_news(slot->owner);
        return;
    }
    if (slot->choice == AG_SLOT_WARM) {
        ag_warm_message(slot->owner);
        return;
    }
    ag_req *r = slot->owner;
    if (slot->choice == AG_SLOT_BACKGROUND) {
        ag__response_forsake(r);
        return;
    }
    r->choices[slot->choice].dirty = true;
    if (r->step == AG_STEP_GENERATE) ag__req_run(r);
}

static bool on_turn(void *arg)
{
    ag_gateway *gw = arg;
    ag_engine *e = atomic_load_explicit(&gw->engine, memory_order_acquire);
    return e && ag_engine_turn(e);
}

const ag_http_handler ag__http_handler = {
    .on_head = on_head, .on_body = on_body, .on_end = on_end, .on_gone = on_gone, .done = on_done, .on_bad = on_bad,
    .on_message = on_message, .on_turn = on_turn,
};
