/* grpc.c - what gRPC's calls have that other requests have not: statuses in trailers, the health service, and the
 * methods that need no generation. */
#include "gateway/grpc.h"

#include <stdio.h>

#include "gateway/dialects/grpc_wire.h"
#include "gateway/dialects/pb.h"
#include "gateway/dialects/schema.h"

/* How often a call that stays open looks whether the server is still what it said. */
#define TICK_MS 500

/* The numbers of proto/. */
enum { MODELS_MODEL = 1, MODEL_ID = 1, MODEL_CREATED = 2, MODEL_LEN = 3, CANCEL_ID = 1, CANCEL_CANCELLED = 1,
       HEALTH_SERVICE = 1, HEALTH_STATUS = 1 };
enum { HEALTH_SERVING = 1, HEALTH_NOT_SERVING = 2, HEALTH_SERVICE_UNKNOWN = 3 };

/* How it went. */

static uint32_t add_status(const ag_grpc_status *s, ag_http_header *out)
{
    uint32_t n = 0;
    out[n++] = (ag_http_header){AG_STR("grpc-status"), ag_str_of(s->code)};
    if (!s->message.failed) out[n++] = (ag_http_header){AG_STR("grpc-message"), ag_buf_str(&s->message)};
    if (!s->details.failed) out[n++] = (ag_http_header){AG_STR("grpc-status-details-bin"), ag_buf_str(&s->details)};
    return n;
}

void ag__grpc_end(ag_req *r)
{
    ag_http_header trailers[4] = {{AG_STR("grpc-status"), AG_STR("0")}};
    ag_grpc_status s;
    if (r->gone) return;
    if (r->err.code == AG_OK) {
        ag_http_trailers(r->s, trailers, 1);
        return;
    }
    ag_grpc_status_make(&s, &r->err, ag_str_of(r->id), 0);
    ag_http_trailers(r->s, trailers, add_status(&s, trailers));
    ag_grpc_status_fini(&s);
}

/* Without a message all of it is in the head. Metrics and the access line have the status that HTTP would have. */
ag_next ag__grpc_refuse(ag_req *r, uint32_t retry_s)
{
    ag_http_header headers[AG_HEADERS_MAX];
    uint32_t n = ag__req_headers(r, headers);
    ag_grpc_status s;
    ag_grpc_status_make(&s, &r->err, ag_str_of(r->id), retry_s);
    headers[n++] = (ag_http_header){AG_STR("content-type"), AG_STR(AG_TYPE_GRPC)};
    n += add_status(&s, headers + n);
    AG_ASSERT(n <= AG_HEADERS_MAX);
    r->answered = true;
    r->status = ag_err_find(r->err.code)->http;
    r->step = AG_STEP_ACCOUNT;
    if (!r->gone) ag_http_respond(r->s, 200, headers, n, NULL, 0);
    ag_grpc_status_fini(&s);
    return AG_MORE;
}

void ag__grpc_bad(ag_http_refusal *f, const ag_err *err, ag_str id)
{
    ag_http_header told[3];
    ag_grpc_status s;
    ag_grpc_status_make(&s, err, id, ag_err_find(err->code)->retry == AG_RETRY_AFTER);
    f->status = 200;
    ag_http_refusal_add(f, AG_STR("content-type"), AG_STR(AG_TYPE_GRPC));
    for (uint32_t i = 0, n = add_status(&s, told); i < n; i++) ag_http_refusal_add(f, told[i].name, told[i].value);
    ag_grpc_status_fini(&s);
}

/* What is asked. */

int ag__grpc_limits(ag_req *r)
{
    ag_str encoding = ag_http_head_get(r->head, "grpc-encoding"), timeout = ag_http_head_get(r->head, "grpc-timeout");
    uint32_t ms = 0;
    size_t max = r->gw->body_bytes_max - AG_MIN(r->gw->body_bytes_max, (uint64_t)AG_GRPC_PREFIX);
    bool both = r->route->flow == AG_FLOW_BOTH;
    if (r->route->answer) max = AG_MIN(max, both ? AG_GRPC_ASKED_MAX : (size_t)AG_MOVE_BYTES_MAX);
    r->request.wire.message_max = max;
    r->body_max = (uint32_t)max + AG_GRPC_PREFIX;
    r->request.wire.gzip = ag_str_eqz(encoding, "gzip");
    if (encoding.n && !r->request.wire.gzip && !ag_str_eqz(encoding, "identity"))
        return ag_request_fail(&r->err, AG_E_ENCODING, "grpc-encoding",
                               "Messages may be sent as they are or in gzip (grpc-encoding), not in '%.*s'.",
                               (int)AG_MIN(encoding.n, 40u), encoding.p);
    if (timeout.p == NULL) return AG_OK;
    if (!ag_grpc_timeout(timeout, AG_REQUEST_TIMEOUT_MAX_MS, &ms))
        return ag_request_fail(&r->err, AG_E_PARAM, "grpc-timeout",
                               "The header 'grpc-timeout' must be 1 to 8 digits and one of H, M, S, m, u, n, not "
                               "'%.*s'.",
                               (int)AG_MIN(timeout.n, 40u), timeout.p);
    r->timeout_ms = ms;
    return AG_OK;
}

int ag__grpc_message(ag_req *r, ag_str *message)
{
    const ag_wire *w = &r->request.wire;
    return ag_grpc_only(ag_buf_str(&r->body), w->gzip, w->message_max, &r->out, message, &r->err);
}

ag_next ag__grpc_answer(ag_req *r, ag_buf *message)
{
    ag_grpc_end(message, 0, r->request.wire.gzip);
    return ag__req_answer_buf(r, AG_TYPE_GRPC, message, NULL, 0);
}

void ag__grpc_begin(ag_buf *message)
{
    ag_buf_init(message, AG_GRPC_ANSWER_MAX);
    ag_grpc_begin(message);
}

/* Methods. */

ag_next ag__grpc_models(ag_req *r)
{
    ag_model_card cards[AG_ALIASES_MAX + 1];
    ag_str asked;
    ag_buf out;
    if (ag__grpc_message(r, &asked) != AG_OK) return ag__req_refuse(r, r->err.code, "%s", "");
    ag__grpc_begin(&out);
    for (uint32_t i = 0, n = ag__model_cards(r, cards); i < n; i++) {
        size_t at = out.n;
        ag_pb_put_text(&out, MODEL_ID, cards[i].id);
        ag_pb_put(&out, MODEL_CREATED, (uint64_t)cards[i].created);
        ag_pb_put(&out, MODEL_LEN, cards[i].ctx);
        ag_pb_wrap(&out, at, MODELS_MODEL);
    }
    return ag__grpc_answer(r, &out);
}

ag_next ag__grpc_cancel(ag_req *r)
{
    ag_str asked;
    bool cancelled = false;
    ag_buf out;
    if (ag__grpc_message(r, &asked) != AG_OK) return ag__req_refuse(r, r->err.code, "%s", "");
    ag_str id = ag_pb_find(asked, CANCEL_ID);
    snprintf(r->asked_id, sizeof r->asked_id, "%.*s", (int)AG_MIN(id.n, sizeof r->asked_id - 1), id.p ? id.p : "");
    if (id.n > AG_ID_MAX || !ag__queue_cancel(r, &cancelled))
        return ag__req_refuse(r, AG_E_NOT_QUEUED, "No request of yours waits or runs under this id.");
    ag__grpc_begin(&out);
    ag_pb_put(&out, CANCEL_CANCELLED, cancelled);
    return ag__grpc_answer(r, &out);
}

/* Calls that stay open: their step is run again by a timer. */

static void on_tick(void *user, ag_http_stream *s AG_UNUSED) { ag__req_run(user); }

void ag__grpc_open(ag_req *r)
{
    ag_http_header headers[AG_HEADERS_MAX];
    uint32_t n = ag__req_headers(r, headers);
    headers[n++] = (ag_http_header){AG_STR("content-type"), AG_STR(AG_TYPE_GRPC)};
    r->answered = r->streaming = true;
    r->status = 200;
    ag_http_begin(r->s, 200, headers, n);
}

ag_next ag__grpc_close(ag_req *r)
{
    ag__grpc_end(r);
    ag_http_end(r->s);
    r->step = AG_STEP_ACCOUNT;
    return AG_MORE;
}

ag_next ag__grpc_stay(ag_req *r)
{
    if (atomic_load_explicit(&r->gw->draining, memory_order_relaxed))
        ag_err_set(&r->err, AG_E_DRAINING, "The server is shutting down.");
    else if (r->timeout_ms && ag_now_us() >= ag__deadline_of(r))
        ag_err_set(&r->err, AG_E_DEADLINE, "The call's deadline of %u ms has passed.", r->timeout_ms);
    if (r->err.code != AG_OK) return ag__grpc_close(r);
    ag_http_timer(r->s, TICK_MS, on_tick);
    return AG_PARKED;
}

/* Health. */

static bool is_service(ag_str name)
{
    char known[128];
    bool found = name.n == 0; /* the server as a whole */
    for (uint32_t i = 0; !found && ag_schema_service(i, known); i++) found = ag_str_eqz(name, known);
    return found;
}

static int health_of(const ag_req *r) { return ag__is_ready(r->gw) ? HEALTH_SERVING : HEALTH_NOT_SERVING; }

ag_next ag__grpc_check(ag_req *r)
{
    ag_str asked;
    ag_buf out;
    if (ag__grpc_message(r, &asked) != AG_OK) return ag__req_refuse(r, r->err.code, "%s", "");
    ag_str service = ag_pb_find(asked, HEALTH_SERVICE);
    if (!is_service(service))
        return ag__req_refuse(r, AG_E_SERVICE_NOT_FOUND,
                              "There is no service '%.*s' here; server reflection lists those that are.",
                              (int)AG_MIN(service.n, 100u), service.p);
    ag__grpc_begin(&out);
    ag_pb_put(&out, HEALTH_STATUS, (uint64_t)health_of(r));
    return ag__grpc_answer(r, &out);
}

/* A service that is not known may come yet, says the protocol: it is told, and the call stays. */
ag_next ag__grpc_watch(ag_req *r)
{
    ag_str asked;
    if (!r->streaming) {
        if (ag__grpc_message(r, &asked) != AG_OK) return ag__req_refuse(r, r->err.code, "%s", "");
        r->health_known = is_service(ag_pb_find(asked, HEALTH_SERVICE));
        ag__grpc_open(r);
    }
    int now = r->health_known ? health_of(r) : HEALTH_SERVICE_UNKNOWN;
    if (now != r->health_told) {
        ag_buf_reset(&r->out);
        size_t at = ag_grpc_begin(&r->out);
        ag_pb_put(&r->out, HEALTH_STATUS, (uint64_t)now);
        ag_grpc_end(&r->out, at, false);
        if (!r->out.failed && ag_http_write(r->s, r->out.p, r->out.n)) r->health_told = now; /* else at the next tick */
    }
    return ag__grpc_stay(r);
}
