#include "gateway/req.h"

static double ms_between(uint64_t from, uint64_t to) { return to > from ? (double)(to - from) / 1000.0 : 0; }

static void count(ag_req *r)
{
    ag_metrics *m = r->gw->metrics;
    ag_metric_add(m, AG_M_REQUESTS, ag_metric_route_status(ag__route_index(r->route), r->status), 1);
    if (r->err.code != AG_OK) ag_metric_add(m, AG_M_ERRORS, (uint32_t)r->err.code, 1);
    if (r->engine == NULL || !ag_request_generates(r->request.kind) || r->status != 200) return;
    ag_metric_observe_us(m, AG_M_DURATION, 0, ag_now_us() - r->head_us);
    if (r->first_us > r->body_us) ag_metric_observe_us(m, AG_M_TTFT, 0, r->first_us - r->body_us);
}

/* Never the body, never the Authorization header. */
static void write_access_line(ag_req *r)
{
    bool generates = r->route && ag_request_generates(r->route->kind);
    ag_log_level level = r->err.code == AG_E_INTERNAL  ? AG_LOG_ERROR
                         : r->route && !r->route->auth ? AG_LOG_DEBUG
                                                       : AG_LOG_INFO;
    if (!ag_log_on(r->gw->log, level)) return;
    ag_log_field f[20];
    uint32_t n = 0;
    f[n++] = AG_LOG_Z("method", r->method);
    f[n++] = AG_LOG_Z("path", r->path);
    f[n++] = AG_LOG_I("status", r->status);
    f[n++] = AG_LOG_Z("tenant", r->tenant);
    if (r->key) f[n++] = AG_LOG_Z("key", r->key->id);
    f[n++] = AG_LOG_Z("client", r->client);
    f[n++] = AG_LOG_D("duration_ms", ms_between(r->head_us, ag_now_us()));
    if (generates) {
        f[n++] = AG_LOG_B("stream", r->request.stream);
        f[n++] = AG_LOG_U("priority", r->band);
        if (r->timeout_ms) f[n++] = AG_LOG_U("timeout_ms", r->timeout_ms);
        f[n++] = AG_LOG_U("prompt_tokens", r->usage.prompt_tokens);
        f[n++] = AG_LOG_U("output_tokens", r->usage.completion_tokens);
        if (r->first_us) f[n++] = AG_LOG_D("ttft_ms", ms_between(r->body_us, r->first_us));
        if (r->finish) f[n++] = AG_LOG_Z("finish", r->finish);
        f[n++] = AG_LOG_B("client_gone", r->err.code == AG_E_CANCELLED);
    }
    if (r->err.code != AG_OK) {
        f[n++] = AG_LOG_Z("code", ag_err_find(r->err.code)->code);
        f[n++] = AG_LOG_Z("error", r->err.text);
    }
    AG_ASSERT(n <= AG_ARRAY_LEN(f));
    ag_log_ctx ctx = {ag_str_of(r->id), ag_str_of(r->trace)};
    ag_log_write(r->gw->log, level, &ctx, "request", f, n);
}

ag_next ag__step_account(ag_req *r)
{
    if (!r->accounted) {
        r->accounted = true;
        if (r->err.code == AG_E_CANCELLED) r->status = 499;
        ag__choices_release(r);
        ag__meter_leave(r);
        if (!r->warm) count(r);
        if (!r->warm) write_access_line(r);
    }
    return r->done ? AG_DONE : AG_PARKED;
}
