#include "base/mem.h"
#include "net/answer.h"

#define STREAM_MAGIC 0x53545245u

static ag_str moved(ag_str s, const char *from, size_t n, const char *to)
{
    if (s.p >= from && s.p <= from + n) s.p = to + (s.p - from); /* a path of "/" may be a constant */
    return s;
}

/* One piece of memory: stream, headers, raw bytes. `raw` holds every slice of h. */
ag_http_stream *ag__stream_create(ag__conn *c, const ag_http_head *h, const char *raw, size_t n_raw)
{
    ag_http_stream *s = ag_mem_alloc(sizeof *s + h->n_headers * sizeof s->headers[0] + n_raw);
    if (s == NULL) return NULL;
    memset(s, 0, sizeof *s);
    char *to = (char *)&s->headers[h->n_headers];
    memcpy(to, raw, n_raw);
    s->magic = STREAM_MAGIC;
    s->conn = c;
    s->head = *h;
    s->head.headers = s->headers;
    s->head.method = moved(h->method, raw, n_raw, to);
    s->head.target = moved(h->target, raw, n_raw, to);
    s->head.path = moved(h->path, raw, n_raw, to);
    if (h->query.p) s->head.query = moved(h->query, raw, n_raw, to);
    for (uint32_t i = 0; i < h->n_headers; i++) {
        s->headers[i].name = moved(h->headers[i].name, raw, n_raw, to);
        s->headers[i].value = moved(h->headers[i].value, raw, n_raw, to);
    }
    s->is_head = ag_str_eqz(s->head.method, "HEAD");
    s->read_done = !h->has_body;
    uint32_t total_ms = c->loop->server->conf.total_timeout_ms;
    if (total_ms) s->total_due = uv_now(&c->loop->uv) + total_ms;
    c->n_requests++;
    ag__ip client;
    ag__addr counted;
    if (c->trusted && ag__trust_forwarded(&c->loop->server->trust, &s->head, &client))
        ag__addr_of(&client, &counted, s->peer, sizeof s->peer);
    return s;
}

static void on_timer_closed(uv_handle_t *h) { ag_mem_free(h->data); }

void ag__stream_done(ag_http_stream *s)
{
    AG_CHECK(s, STREAM_MAGIC);
    s->conn->loop->server->handler.done(s->user, s);
    ag_mem_free(s->trailers);
    s->magic = 0;
    if (s->has_timer) uv_close((uv_handle_t *)&s->timer, on_timer_closed);
    else ag_mem_free(s);
}

void ag__stream_gone(ag_http_stream *s)
{
    AG_CHECK(s, STREAM_MAGIC);
    s->gone = true;
    s->conn->loop->server->handler.on_gone(s->user, s);
    ag__stream_done(s);
}

void ag__streams_gone(ag_http_stream *oldest)
{
    for (ag_http_stream *s; (s = oldest) != NULL;) {
        oldest = s->next;
        ag__stream_gone(s);
    }
}

bool ag__stream_is_last(const ag_http_stream *s)
{
    uint32_t max = s->conn->loop->server->conf.requests_max;
    if (max == 0 || s->conn->n_requests < max) return false;
    ag__count_bad(s->conn->loop, AG_HTTP_BAD_REQUESTS_PER_CONNECTION);
    return true;
}

/* Between the moment a connection breaks and the pump that says so (on_gone), calls on its stream do nothing. */
static bool live(const ag_http_stream *s) { return !s->gone && !s->conn->broken; }

ag_http_loop *ag_http_stream_loop(ag_http_stream *s)
{
    AG_CHECK(s, STREAM_MAGIC);
    return s->conn->loop;
}

ag_str ag_http_stream_peer(ag_http_stream *s)
{
    AG_CHECK(s, STREAM_MAGIC);
    return ag_str_of(s->peer[0] ? s->peer : s->conn->peer);
}

bool ag_http_stream_is_proxied(const ag_http_stream *s)
{
    AG_CHECK(s, STREAM_MAGIC);
    return s->conn->proxied;
}

void ag_http_respond(ag_http_stream *s, int status, const ag_http_header *headers, uint32_t n, const char *body,
                     size_t n_body)
{
    AG_CHECK(s, STREAM_MAGIC);
    if (!live(s)) return;
    AG_ASSERT(s->answer == AG__ANSWER_NONE);
    s->conn->proto->answer(s, status, headers, n, (int64_t)n_body);
    if (n_body) s->conn->proto->data(s, body, n_body);
    s->conn->proto->end(s);
    s->answer = AG__ANSWER_ENDED;
    ag__conn_dirty(s->conn);
}

void ag_http_begin(ag_http_stream *s, int status, const ag_http_header *headers, uint32_t n)
{
    AG_CHECK(s, STREAM_MAGIC);
    if (!live(s)) return;
    AG_ASSERT(s->answer == AG__ANSWER_NONE);
    s->conn->proto->answer(s, status, headers, n, -1);
    s->answer = AG__ANSWER_BEGUN;
    ag__conn_dirty(s->conn);
}

bool ag_http_write(ag_http_stream *s, const char *p, size_t n)
{
    AG_CHECK(s, STREAM_MAGIC);
    if (!live(s)) return false;
    AG_ASSERT(s->answer == AG__ANSWER_BEGUN);
    if (!s->conn->proto->takes(s, n)) return false;
    if (n) s->conn->proto->data(s, p, n); /* a chunk of no bytes would be the last one */
    return !s->conn->broken;
}

void ag_http_end(ag_http_stream *s)
{
    AG_CHECK(s, STREAM_MAGIC);
    if (!live(s)) return;
    AG_ASSERT(s->answer == AG__ANSWER_BEGUN);
    s->conn->proto->end(s);
    s->answer = AG__ANSWER_ENDED;
    ag__conn_dirty(s->conn);
}

bool ag_http_takes_trailers(const ag_http_stream *s)
{
    AG_CHECK(s, STREAM_MAGIC);
    return s->conn->proto->both_ways;
}

bool ag_http_is_grpc(const ag_http_stream *s)
{
    AG_CHECK(s, STREAM_MAGIC);
    return s->is_grpc;
}

void ag_http_trailers(ag_http_stream *s, const ag_http_header *trailers, uint32_t n)
{
    AG_CHECK(s, STREAM_MAGIC);
    if (!live(s)) return;
    AG_ASSERT(s->conn->proto->both_ways && s->answer <= AG__ANSWER_BEGUN && s->trailers == NULL);
    size_t bytes = n * sizeof *trailers;
    for (uint32_t i = 0; i < n; i++) bytes += trailers[i].name.n + trailers[i].value.n;
    if ((s->trailers = ag_mem_alloc(bytes)) == NULL) {
        ag__count_bad(s->conn->loop, AG_HTTP_BAD_MEMORY);
        ag__conn_break(s->conn);
        return;
    }
    char *to = (char *)&s->trailers[n];
    for (uint32_t i = 0; i < n; i++) {
        if (!ag__may_send(&trailers[i])) continue;
        ag_http_header *h = &s->trailers[s->n_trailers++];
        *h = (ag_http_header){{to, trailers[i].name.n}, {to + trailers[i].name.n, trailers[i].value.n}};
        memcpy(to, trailers[i].name.p, h->name.n);
        if (h->value.n) memcpy(to + h->name.n, trailers[i].value.p, h->value.n);
        to += h->name.n + h->value.n;
    }
}

void ag_http_read_on(ag_http_stream *s)
{
    AG_CHECK(s, STREAM_MAGIC);
    AG_ASSERT(s->conn->proto->both_ways);
    s->read_on = true;
}

void ag_http_abort(ag_http_stream *s)
{
    AG_CHECK(s, STREAM_MAGIC);
    if (!live(s)) return;
    AG_ASSERT(s->answer != AG__ANSWER_ENDED);
    s->answer = AG__ANSWER_ABORTED;
    ag__conn_dirty(s->conn);
}

size_t ag_http_pending(ag_http_stream *s)
{
    AG_CHECK(s, STREAM_MAGIC);
    return s->conn->proto->pending(s);
}

void ag_http_on_writable(ag_http_stream *s, void (*fn)(void *user, ag_http_stream *s))
{
    AG_CHECK(s, STREAM_MAGIC);
    s->on_writable = fn;
    if (fn) ag__conn_dirty(s->conn);
}

static void on_timer(uv_timer_t *t)
{
    ag_http_stream *s = t->data;
    AG_CHECK(s, STREAM_MAGIC);
    ag_http_loop *l = s->conn->loop;
    s->on_timer(s->user, s);
    ag__loop_leave(l);
}

void ag_http_timer(ag_http_stream *s, uint32_t ms, void (*fn)(void *user, ag_http_stream *s))
{
    AG_CHECK(s, STREAM_MAGIC);
    AG_ASSERT(ms == 0 || fn);
    if (!s->has_timer) {
        if (ms == 0 || s->gone) return;
        uv_timer_init(&s->conn->loop->uv, &s->timer);
        s->timer.data = s;
        s->has_timer = true;
    }
    s->on_timer = fn;
    if (ms == 0) uv_timer_stop(&s->timer);
    else uv_timer_start(&s->timer, on_timer, ms, 0);
}
