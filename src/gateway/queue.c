/* queue.c - requests that wait or run, as their callers ask for them by id; and what a waiting stream is told. */
#include "gateway/req.h"

/* Where a request of several generations stands is where the first of them does. */
static void view_of(ag_req *r, ag_queue_view *v)
{
    uint32_t running = 0, waiting = 0, begun = r->n_begun;
    *v = (ag_queue_view){0};
    for (uint32_t i = 0; i < begun; i++) {
        ag_gen_wait w;
        ag_gen_wait_get(r->choices[i].gen, &w);
        running += w.state == AG_GEN_RUNNING;
        if (i == 0) v->band = w.band;
        if (i == 0 || w.waited_us < v->waited_us) v->waited_us = w.waited_us;
        if (w.state == AG_GEN_WAITING && (waiting++ == 0 || w.position < v->position)) {
            v->band = w.band;
            v->position = AG_MAX(w.position, 1u);
            v->wait_us = w.wait_us;
        }
    }
    if (running) v->position = 0;
    v->state = running ? "running" : waiting || begun < r->n_choices ? "waiting" : "finished";
}

/* A waiting stream. */

static void on_tick(void *user, ag_http_stream *s AG_UNUSED)
{
    ag_req *r = user;
    r->tick = true;
    if (r->step == AG_STEP_GENERATE) ag__req_run(r);
}

void ag__queue_watch(ag_req *r)
{
    r->ids.r = r;
    r->ids.tenant = r->tenant;
    r->ids.id = r->id;
    ag_ids_add(r->gw->ids, &r->ids);
    r->tick = r->request.stream && r->request.position_events;
}

void ag__queue_tell(ag_req *r)
{
    if (r->first_us) return;
    ag_queue_view v;
    view_of(r, &v);
    ag_waiting_say(&r->waiting, &r->reply, &v, ag_now_us(), &r->out);
    if (!r->gone) ag_http_timer(r->s, AG_WAITING_TICK_MS, on_tick);
}

/* By id. */

bool ag__percent_decode(ag_str p, char *to, size_t size)
{
    size_t n = 0;
    bool ok = true;
    for (size_t i = 0; i < p.n && ok; i++) {
        int c = (unsigned char)p.p[i];
        if (c == '%') {
            c = ag_percent_byte(p.p + i, p.p + p.n);
            i += 2;
        }
        ok = c > ' ' && c <= '~' && n + 1 < size;
        if (ok) to[n++] = (char)c;
    }
    to[ok ? n : 0] = 0;
    return ok;
}

bool ag__query_next(ag_str *query, ag_str *name, ag_str *value)
{
    ag_str pair = {0};
    while (query->n && pair.n == 0) {
        const char *and = memchr(query->p, '&', query->n);
        pair = (ag_str){query->p, and ? (size_t)(and - query->p) : query->n};
        *query = and ? (ag_str){and + 1, query->n - pair.n - 1} : (ag_str){0};
    }
    const char *equals = pair.n ? memchr(pair.p, '=', pair.n) : NULL;
    *name = (ag_str){pair.p, equals ? (size_t)(equals - pair.p) : pair.n};
    *value = equals ? (ag_str){equals + 1, pair.n - name->n - 1} : (ag_str){0};
    return pair.n > 0;
}

/* An id may hold what a path may not, so it is percent-decoded; one that no request can have stays empty. */
void ag__queue_take_id(ag_req *r)
{
    ag__percent_decode(ag__route_id(r->route, r->head->path), r->asked_id, sizeof r->asked_id);
}

static ag_next not_there(ag_req *r)
{
    return ag__req_refuse(r, AG_E_NOT_QUEUED, "No request of yours waits or runs under the id '%s'.", r->asked_id);
}

static void use_view(ag_req *found, void *arg) { view_of(found, arg); }

static void use_cancel(ag_req *found, void *arg)
{
    ag_queue_view v;
    view_of(found, &v);
    if (strcmp(v.state, "finished") == 0) return;
    *(bool *)arg = true;
    atomic_store(&found->cancel_asked, true);
    for (uint32_t i = 0, n = found->n_begun; i < n; i++) ag_gen_cancel(found->choices[i].gen);
}

typedef struct move {
    uint8_t band;
    ag_queue_view view;
} move;

static void use_move(ag_req *found, void *arg)
{
    move *m = arg;
    atomic_store(&found->moved, 1u + m->band);
    for (uint32_t i = 0, n = found->n_begun; i < n; i++) ag_gen_move(found->choices[i].gen, m->band);
    view_of(found, &m->view);
}

static ag_next answer_view(ag_req *r, const ag_queue_view *v)
{
    ag_buf body;
    ag_buf_init(&body, 4096);
    ag_openai_queue(&body, ag_str_of(r->asked_id), v);
    return ag__req_answer_buf(r, AG_TYPE_JSON, &body, NULL, 0);
}

static ag_next answer_move(ag_req *r)
{
    uint32_t band = 0;
    move m = {0};
    int rc = ag_openai_parse_move(r->body.p, r->body.n, &band, &r->err);
    if (rc == AG_OK) rc = ag__band_check(r, band, &r->err);
    if (rc != AG_OK) return ag__req_refuse(r, rc, "%s", "");
    m.band = (uint8_t)band;
    return ag_ids_use(r->gw->ids, r->tenant, r->asked_id, use_move, &m) ? answer_view(r, &m.view) : not_there(r);
}

bool ag__queue_cancel(ag_req *r, bool *cancelled)
{
    return ag_ids_use(r->gw->ids, r->tenant, r->asked_id, use_cancel, cancelled);
}

static ag_next answer_cancel(ag_req *r)
{
    bool cancelled = false;
    if (!ag__queue_cancel(r, &cancelled)) return not_there(r);
    ag_buf body;
    ag_buf_init(&body, 4096);
    ag_openai_queue_cancelled(&body, ag_str_of(r->asked_id), cancelled);
    return ag__req_answer_buf(r, AG_TYPE_JSON, &body, NULL, 0);
}

ag_next ag__answer_queue(ag_req *r)
{
    if (strcmp(r->method, "DELETE") == 0) return answer_cancel(r);
    if (strcmp(r->method, "PATCH") == 0) return answer_move(r);
    ag_queue_view v = {0};
    return ag_ids_use(r->gw->ids, r->tenant, r->asked_id, use_view, &v) ? answer_view(r, &v) : not_there(r);
}
