#include "base/mem.h"
#include "net/h2.h"

/* After GOAWAY the connection is read on for this long, so that no reset overtakes it. */
#define LINGER_MS 1000
/* A stalled stream must take this much of what waits for it, or all, within each write_timeout_ms: windows are the
 * client's to open, and one byte now and then does not hold a place. */
#define WRITE_PACE_BYTES 4096

static void *mem_alloc(size_t n, void *arg AG_UNUSED) { return ag_mem_alloc(n); }
static void *mem_zalloc(size_t n, size_t size, void *arg AG_UNUSED) { return ag_mem_array(n, size); }
static void *mem_resize(void *p, size_t n, void *arg AG_UNUSED) { return ag_mem_resize(p, n, 1); }
static void mem_free(void *p, void *arg AG_UNUSED) { ag_mem_free(p); }

static int open_session(ag__h2 *h)
{
    nghttp2_mem mem = {.malloc = mem_alloc, .free = mem_free, .calloc = mem_zalloc, .realloc = mem_resize};
    nghttp2_session_callbacks *cb = NULL;
    nghttp2_option *option = NULL;
    int rc = nghttp2_session_callbacks_new(&cb);
    if (rc == 0) rc = nghttp2_option_new(&option);
    if (rc == 0) {
        ag__h2_callbacks(cb);
        /* SETTINGS and PINGs that may come at once, each of which is acknowledged: our own limit, which says why, comes
         * first. */
        nghttp2_option_set_max_outbound_ack(option, 2 * (size_t)h->conn->loop->server->conf.h2_frames_max + 2);
        rc = nghttp2_session_server_new3(&h->session, cb, h, option, &mem);
    }
    nghttp2_option_del(option);
    nghttp2_session_callbacks_del(cb);
    return rc == 0 ? AG_OK : AG_E_NOMEM;
}

static int h2_open(ag__conn *c)
{
    const ag_http_conf *conf = &c->loop->server->conf;
    ag__h2 *h = ag_mem_zalloc(sizeof *h);
    if (h == NULL) return AG_E_NOMEM;
    h->conn = c;
    ag__link_init(&h->streams);
    ag_buf_init(&h->in, 2 * AG__READ_BYTES);
    ag__h2_head_open(&h->head, conf->header_bytes_max);
    nghttp2_settings_entry ours[] = {
        {NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, conf->h2_streams_max},
        {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, conf->h2_window_bytes},
        {NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, conf->header_bytes_max},
    };
    int rc = open_session(h);
    if (rc == AG_OK &&
        (nghttp2_submit_settings(h->session, NGHTTP2_FLAG_NONE, ours, AG_ARRAY_LEN(ours)) != 0 ||
         nghttp2_session_set_local_window_size(h->session, NGHTTP2_FLAG_NONE, 0,
                                               (int32_t)conf->h2_connection_window_bytes) != 0))
        rc = AG_E_NOMEM;
    if (rc != AG_OK) {
        nghttp2_session_del(h->session);
        ag_mem_free(h);
        return rc;
    }
    h->head_due = ag__h2_now(h) + conf->header_timeout_ms;
    c->state = h;
    return AG_OK;
}

static void h2_close(ag__conn *c)
{
    ag__h2 *h = c->state;
    AG_ASSERT(ag__link_empty(&h->streams) && h->ended == NULL);
    nghttp2_session_del(h->session);
    ag__h2_head_close(&h->head);
    ag_buf_fini(&h->in);
    ag_mem_free(h);
    c->state = NULL;
}

bool ag__h2_ok(ag__h2 *h, int rc)
{
    if (rc >= 0) return true;
    if (!h->conn->broken) ag__count_bad(h->conn->loop, AG_HTTP_BAD_MEMORY);
    ag__conn_break(h->conn);
    return false;
}

void ag__h2_limit(ag__h2 *h, ag_http_bad why, uint32_t error)
{
    ag__count_bad(h->conn->loop, why);
    h->stop = h->goaway = true;
    ag__h2_ok(h, nghttp2_session_terminate_session(h->session, error));
}

void ag__h2_last(ag__h2 *h)
{
    h->goaway = true;
    ag__h2_ok(h, nghttp2_submit_goaway(h->session, NGHTTP2_FLAG_NONE,
                                       nghttp2_session_get_last_proc_stream_id(h->session), NGHTTP2_NO_ERROR, NULL, 0));
}

static ag__h2s *stream_at(ag__link *l) { return (ag__h2s *)((char *)l - offsetof(ag__h2s, all)); }

/* Its answer is in frames, which wait for the socket. */
void ag__h2_retire(ag__h2 *h, ag_http_stream *s)
{
    s->out_end = h->conn->out_all;
    if (h->newest) h->newest->next = s;
    else h->ended = s;
    h->newest = s;
    h->n_ended++;
}

static bool settle(ag__h2 *h)
{
    bool moved = false;
    while (h->ended && ag__conn_taken(h->conn) >= h->ended->out_end) {
        ag_http_stream *s = h->ended;
        h->ended = s->next;
        if (h->ended == NULL) h->newest = NULL;
        h->n_ended--;
        ag__stream_done(s);
        moved = true;
    }
    return moved;
}

/* The client is slow to read: what it sends waits until it has read some. */
static bool gated(const ag__h2 *h) { return h->n_ended >= AG__ENDED_MAX || ag__conn_pending(h->conn) > AG__OUT_GATE; }

static size_t h2_room(ag__conn *c)
{
    ag__h2 *h = c->state;
    if (h->phase != AG__H2_OPEN || h->stop) return AG__READ_BYTES;
    return gated(h) || h->in.n ? 0 : AG__READ_BYTES;
}

static bool h2_input(ag__conn *c, const char *p, size_t n)
{
    ag__h2 *h = c->state;
    if (h->phase != AG__H2_OPEN || h->stop) return true;
    return ag_buf_add(&h->in, p, n);
}

static bool receive(ag__h2 *h)
{
    if (h->in.n == 0 || gated(h) || h->stop) return false;
    ssize_t n = nghttp2_session_mem_recv(h->session, (const uint8_t *)h->in.p, h->in.n);
    ag_buf_reset(&h->in);
    if (h->in.cap > AG__KEEP_BYTES) ag_buf_fini(&h->in);
    if (n >= 0 || h->stop || h->conn->broken) return true;
    if (n == NGHTTP2_ERR_NOMEM) ag__count_bad(h->conn->loop, AG_HTTP_BAD_MEMORY);
    else if (n == NGHTTP2_ERR_FLOODED) ag__count_bad(h->conn->loop, AG_HTTP_BAD_H2_PINGS);
    else ag__count_bad(h->conn->loop, AG_HTTP_BAD_PARSE); /* what followed "PRI " was not HTTP/2's preface */
    h->conn->broken = true;
    return true;
}

static bool send_frames(ag__h2 *h)
{
    bool moved = false;
    while (!h->conn->broken && ag__conn_pending(h->conn) <= AG__OUT_GATE) {
        const uint8_t *p;
        ssize_t n = nghttp2_session_mem_send(h->session, &p);
        if (n == 0) break;
        if (!ag__h2_ok(h, (int)n) || !ag__conn_put(h->conn, (const char *)p, (size_t)n)) return true;
        moved = true;
    }
    return moved;
}

/* What the users said since the last time. */
static bool heed(ag__h2 *h)
{
    bool moved = false;
    for (ag__link *i = h->streams.next; i != &h->streams; i = i->next) {
        ag__h2s *x = stream_at(i);
        ag_http_stream *s = x->s;
        if (s == NULL) continue;
        if (s->answer == AG__ANSWER_ABORTED && !x->aborted) {
            ag__h2_abort(h, x);
            moved = true;
        } else if (s->on_writable && ag__h2_pending(s) == 0 && ag__conn_pending(h->conn) <= AG__OUT_GATE) {
            void (*fn)(void *, ag_http_stream *) = s->on_writable;
            s->on_writable = NULL;
            fn(s->user, s);
            moved = true;
        }
    }
    return moved;
}

static void watch_anew(ag__h2 *h, ag__h2s *x)
{
    x->sent_mark = x->sent_bytes + AG_MIN(x->out.n - x->off, (size_t)WRITE_PACE_BYTES);
    x->all_mark = h->sent_bytes + WRITE_PACE_BYTES;
    x->write_due = ag__h2_now(h) + h->conn->loop->server->conf.write_timeout_ms;
}

/* Whether it is the client's windows that kept this stream from moving. Where it is the socket, conn.c watches. */
static bool stalled(const ag__h2 *h, const ag__h2s *x)
{
    if (nghttp2_session_get_stream_remote_window_size(h->session, x->id) <= 0) return true;
    return nghttp2_session_get_remote_window_size(h->session) <= 0 && h->sent_bytes < x->all_mark;
}

static uint64_t sooner(uint64_t a, uint64_t b) { return a == 0 || (b && b < a) ? b : a; }

/* When to look at the streams again, and at the connection. */
static void watch(ag__h2 *h)
{
    ag__conn *c = h->conn;
    uint64_t now = ag__h2_now(h), due = h->head_due;
    for (ag__link *i = h->streams.next; i != &h->streams; i = i->next) {
        ag__h2s *x = stream_at(i);
        if (c->eof && x->out.n > x->off && stalled(h, x)) ag__h2_cut(h, x, NGHTTP2_CANCEL); /* it stays shut */
        if (x->out.n == x->off) x->write_due = 0;
        else if (x->write_due == 0 || x->sent_bytes >= x->sent_mark) watch_anew(h, x);
        due = sooner(due, sooner(x->write_due, x->body_due));
        if (x->s) due = sooner(due, x->s->total_due);
    }
    if (h->ended) due = sooner(due, h->ended->total_due);
    if (h->n_streams || h->n_ended) h->idle_due = 0; /* whatever else the client sends, it is idle without one */
    else if (h->idle_due == 0) h->idle_due = now + c->loop->server->conf.idle_timeout_ms;
    due = sooner(due, h->idle_due);
    ag__conn_deadline(c, due == 0 ? 0 : due > now ? due - now : 1);
}

static void end_streams(ag__h2 *h)
{
    while (!ag__link_empty(&h->streams)) {
        ag__h2s *x = stream_at(h->streams.next);
        ag_http_stream *s = x->s;
        nghttp2_session_set_stream_user_data(h->session, x->id, NULL);
        ag__h2_body_done(h, x);
        ag__h2_drop_out(h, x);
        ag__link_cut(&x->all);
        h->n_streams--;
        ag_mem_free(x);
        if (s == NULL) continue;
        s->state = NULL;
        ag__stream_gone(s);
    }
}

static bool h2_run(ag__conn *c)
{
    ag__h2 *h = c->state;
    bool moved = settle(h);
    if (h->phase == AG__H2_OPEN) {
        if (c->loop->draining && !h->goaway) ag__h2_last(h);
        moved |= receive(h);
        if (!c->broken) moved |= heed(h);
        if (!c->broken) moved |= send_frames(h);
        if (c->broken) return true;
        watch(h);
        if (nghttp2_session_want_read(h->session) || nghttp2_session_want_write(h->session)) return moved;
        h->phase = AG__H2_LAST;
        ag__conn_deadline(c, 0); /* from here the write timeout's */
        end_streams(h);
    }
    if (h->phase == AG__H2_LAST && h->ended == NULL && ag__conn_pending(c) == 0) {
        h->phase = AG__H2_LINGER;
        if (c->eof) c->broken = true;
        else ag__conn_shut(c);
        ag__conn_deadline(c, LINGER_MS);
    }
    return moved;
}

/* A client that shuts its side is taken for gone, as on HTTP/1; what was handed over before is still written. */
static void h2_eof(ag__conn *c)
{
    ag__h2 *h = c->state;
    if (h->phase != AG__H2_OPEN) {
        c->broken |= h->phase == AG__H2_LINGER;
        return;
    }
    for (ag__link *i = h->streams.next; i != &h->streams; i = i->next) {
        ag__h2s *x = stream_at(i);
        if (!x->ended) ag__h2_cut(h, x, NGHTTP2_CANCEL);
    }
    ag_buf_fini(&h->in); /* what waits there would begin more */
    ag__h2_last(h);
}

/* It has had its time, whatever it spent it on. */
static void end_late(ag__h2 *h, ag__h2s *x)
{
    if (x->s->answer == AG__ANSWER_NONE) {
        ag__h2_bad(h, x, NULL, AG_HTTP_BAD_TOTAL_TIMEOUT, x->s->read_done ? AG_E_DEADLINE : AG_E_TIMEOUT_BODY,
                   "the request was not answered within the time that the server gives any");
    } else {
        ag__count_bad(h->conn->loop, AG_HTTP_BAD_TOTAL_TIMEOUT);
        ag__h2_cut(h, x, NGHTTP2_CANCEL);
    }
}

static void time_stream(ag__h2 *h, ag__h2s *x, uint64_t now)
{
    if (x->s && x->s->total_due && now >= x->s->total_due) end_late(h, x);
    if (x->body_due && now >= x->body_due) {
        x->body_due = 0;
        if (x->s->answer == AG__ANSWER_NONE)
            ag__h2_bad(h, x, NULL, AG_HTTP_BAD_BODY_TIMEOUT, AG_E_TIMEOUT_BODY,
                       "the body of the request did not arrive in time");
    }
    if (x->write_due && now >= x->write_due) {
        if (!stalled(h, x)) {
            watch_anew(h, x);
        } else {
            ag__count_bad(h->conn->loop, AG_HTTP_BAD_WRITE_TIMEOUT);
            ag__h2_cut(h, x, NGHTTP2_CANCEL);
        }
    }
}

static void h2_timeout(ag__conn *c)
{
    ag__h2 *h = c->state;
    uint64_t now = ag__h2_now(h);
    if (h->phase == AG__H2_LINGER) c->broken = true;
    if (h->phase != AG__H2_OPEN) return;
    for (ag__link *i = h->streams.next; i != &h->streams; i = i->next) time_stream(h, stream_at(i), now);
    if (h->ended && h->ended->total_due && now >= h->ended->total_due) { /* in frames that the socket does not take */
        ag__count_bad(c->loop, AG_HTTP_BAD_TOTAL_TIMEOUT);
        c->broken = c->reset = true;
        return;
    }
    if (h->head_due && now >= h->head_due && gated(h)) {
        h->head_due = now + c->loop->server->conf.header_timeout_ms; /* we do not look at it now */
    } else if (h->head_due && now >= h->head_due) {
        h->head_due = 0;
        ag__h2_limit(h, AG_HTTP_BAD_HEADER_TIMEOUT, NGHTTP2_ENHANCE_YOUR_CALM);
    } else if (h->idle_due && now >= h->idle_due) {
        ag__h2_limit(h, AG_HTTP_BAD_IDLE_TIMEOUT, NGHTTP2_NO_ERROR);
    }
}

/* Only a connection that has begun as HTTP/2, by its handshake, is refused here. */
static void h2_refuse(ag__conn *c, ag_http_bad why AG_UNUSED)
{
    ag__h2 *h = c->state;
    h->stop = h->goaway = true;
    ag__h2_ok(h, nghttp2_session_terminate_session(h->session, NGHTTP2_ENHANCE_YOUR_CALM));
}

static void h2_gone(ag__conn *c)
{
    ag__h2 *h = c->state;
    end_streams(h);
    ag_http_stream *s = h->ended;
    h->ended = h->newest = NULL;
    h->n_ended = 0;
    ag__streams_gone(s);
}

static ag_http_state h2_state(const ag__conn *c)
{
    const ag__h2 *h = c->state;
    if (h->phase != AG__H2_OPEN || h->goaway) return AG_HTTP_STATE_DRAINING;
    for (ag__link *i = h->streams.next; i != &h->streams; i = i->next) {
        const ag_http_stream *s = stream_at(i)->s;
        if (s && s->answer == AG__ANSWER_BEGUN) return AG_HTTP_STATE_STREAMING;
    }
    if (h->n_streams || h->n_ended) return AG_HTTP_STATE_ACTIVE;
    return h->last_id ? AG_HTTP_STATE_IDLE : AG_HTTP_STATE_NEW;
}

static uint32_t h2_users(const ag__conn *c, void **out, uint32_t max)
{
    const ag__h2 *h = c->state;
    uint32_t n = 0;
    for (const ag_http_stream *s = h->ended; s; s = s->next)
        if (n++ < max) out[n - 1] = s->user;
    for (ag__link *i = h->streams.next; i != &h->streams; i = i->next)
        if (stream_at(i)->s && n++ < max) out[n - 1] = stream_at(i)->s->user;
    return n;
}

const ag__proto ag__h2_proto = {
    .open = h2_open,
    .close = h2_close,
    .input = h2_input,
    .run = h2_run,
    .room = h2_room,
    .eof = h2_eof,
    .timeout = h2_timeout,
    .refuse = h2_refuse,
    .gone = h2_gone,
    .answer = ag__h2_answer,
    .data = ag__h2_data,
    .end = ag__h2_end,
    .state = h2_state,
    .pending = ag__h2_pending,
    .takes = ag__h2_takes,
    .users = h2_users,
    .both_ways = true,
};
