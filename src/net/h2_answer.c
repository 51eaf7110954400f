#include <stdio.h>

#include "base/mem.h"
#include "net/answer.h"
#include "net/h2.h"

/* Headers of one answer, ours included; the users' answers have a dozen. */
#define HEADERS_MAX 64

static nghttp2_nv field(ag_str name, ag_str value)
{
    return (nghttp2_nv){(uint8_t *)name.p, (uint8_t *)value.p, name.n, value.n, NGHTTP2_NV_FLAG_NONE};
}

static size_t pending(const ag__h2s *x) { return x->out.n - x->off; }

/* After the last of the body. nghttp2 copies them, and ends the stream with them. */
static bool submit_trailers(ag__h2 *h, const ag__h2s *x)
{
    nghttp2_nv nv[HEADERS_MAX];
    const ag_http_stream *s = x->s;
    AG_ASSERT(s->n_trailers <= HEADERS_MAX);
    for (uint32_t i = 0; i < s->n_trailers; i++) nv[i] = field(s->trailers[i].name, s->trailers[i].value);
    return ag__h2_ok(h, nghttp2_submit_trailer(h->session, x->id, nv, s->n_trailers));
}

/* A stream's bytes for its next DATA frame. */
static ssize_t on_source(nghttp2_session *session AG_UNUSED, int32_t id AG_UNUSED, uint8_t *to, size_t room,
                         uint32_t *flags, nghttp2_data_source *source, void *user)
{
    ag__h2 *h = user;
    ag__h2s *x = source->ptr;
    size_t n = AG_MIN(room, pending(x));
    if (n == 0 && x->aborted) return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE; /* resets the stream: INTERNAL_ERROR */
    if (n == 0 && !x->ended) {
        x->idle = true;
        return NGHTTP2_ERR_DEFERRED;
    }
    if (n) memcpy(to, x->out.p + x->off, n);
    x->off += n;
    x->sent_bytes += n;
    h->sent_bytes += n;
    h->waiting -= n;
    if (x->off > x->out.n / 2) { /* so each byte is moved once at most */
        ag_buf_consume(&x->out, x->off);
        x->off = 0;
        if (x->out.n == 0 && x->out.cap > AG__KEEP_BYTES) ag_buf_fini(&x->out);
    }
    if (!x->ended || pending(x)) return (ssize_t)n;
    *flags |= NGHTTP2_DATA_FLAG_EOF;
    if (x->s == NULL || x->s->n_trailers == 0) return (ssize_t)n;
    *flags |= NGHTTP2_DATA_FLAG_NO_END_STREAM;
    return submit_trailers(h, x) ? (ssize_t)n : NGHTTP2_ERR_CALLBACK_FAILURE;
}

static void submit(ag__h2 *h, ag__h2s *x, int status, const ag_http_header *headers, uint32_t n, int64_t length,
                   bool no_body)
{
    char code[12], size[24];
    nghttp2_nv nv[HEADERS_MAX];
    size_t n_nv = 0;
    snprintf(code, sizeof code, "%d", status);
    nv[n_nv++] = field(AG_STR(":status"), ag_str_of(code));
    nv[n_nv++] = field(AG_STR("date"), ag_str_of(ag__loop_date(h->conn->loop)));
    for (uint32_t i = 0; i < n; i++) {
        if (!ag__may_send(&headers[i])) continue;
        AG_ASSERT(n_nv + 1 < HEADERS_MAX);
        nv[n_nv++] = field(headers[i].name, headers[i].value); /* nghttp2 writes names in lower case */
    }
    if (length >= 0) {
        snprintf(size, sizeof size, "%lld", (long long)length);
        nv[n_nv++] = field(AG_STR("content-length"), ag_str_of(size));
    }
    nghttp2_data_provider source = {.source.ptr = x, .read_callback = on_source};
    x->answered = true;
    ag__h2_body_done(h, x);
    ag__h2_ok(h, nghttp2_submit_response(h->session, x->id, nv, n_nv, no_body ? NULL : &source));
}

void ag__h2_answer(ag_http_stream *s, int status, const ag_http_header *headers, uint32_t n, int64_t length)
{
    AG_ASSERT(status >= 200 && status <= 599);
    ag__h2s *x = s->state;
    bool bare = status == 204 || status == 304; /* never a body, nor a word about its length */
    s->no_body = s->is_head || bare;
    /* One that is streamed ends when its user says so, and then in an empty frame. */
    submit(s->conn->state, x, status, headers, n, bare ? -1 : length,
           (length == 0 && s->n_trailers == 0) || (length > 0 && s->no_body));
}

static void more(ag__h2 *h, ag__h2s *x)
{
    if (!x->idle) return;
    x->idle = false;
    ag__h2_ok(h, nghttp2_session_resume_data(h->session, x->id));
}

static void put(ag__h2 *h, ag__h2s *x, const char *p, size_t n)
{
    if (!ag_buf_add(&x->out, p, n)) {
        ag__h2_ok(h, NGHTTP2_ERR_NOMEM);
        return;
    }
    h->waiting += n;
    more(h, x);
}

void ag__h2_data(ag_http_stream *s, const char *p, size_t n)
{
    if (s->no_body) return;
    put(s->conn->state, s->state, p, n);
    ag__conn_dirty(s->conn);
}

void ag__h2_end(ag_http_stream *s)
{
    ag__h2s *x = s->state;
    x->ended = true;
    x->body_due = 0;
    if (s->has_timer) uv_timer_stop(&s->timer); /* a deadline has nothing left to say */
    more(s->conn->state, x);
}

size_t ag__h2_pending(ag_http_stream *s) { return s->state ? pending(s->state) : 0; }

bool ag__h2_takes(ag_http_stream *s, size_t n)
{
    const ag__h2 *h = s->conn->state;
    return pending(s->state) == 0 || h->waiting + n <= s->conn->loop->server->conf.out_bytes_max;
}

void ag__h2_drop_out(ag__h2 *h, ag__h2s *x)
{
    h->waiting -= pending(x);
    ag_buf_fini(&x->out);
    x->off = 0;
}

static void end_user(ag__h2 *h, ag__h2s *x)
{
    ag_http_stream *s = x->s;
    x->s = NULL;
    x->body_due = 0;
    ag__h2_body_done(h, x);
    if (s == NULL) return;
    s->state = NULL;
    ag__stream_gone(s);
}

void ag__h2_bad(ag__h2 *h, ag__h2s *x, const ag_http_head *head, ag_http_bad why, int err, const char *sentence)
{
    AG_ASSERT(!x->answered);
    ag__count_bad(h->conn->loop, why);
    if (head == NULL && x->s) head = &x->s->head;
    ag_http_refusal f = {.why = why, .err = err, .sentence = sentence, .grpc = x->grpc, .head = head};
    ag__refusal_make(&f, h->conn->loop);
    end_user(h, x);
    bool no_body = x->is_head || f.body.n == 0;
    submit(h, x, f.status, f.headers, f.n_headers, (int64_t)f.body.n, no_body);
    if (!no_body) put(h, x, f.body.p, f.body.n);
    x->ended = true;
    ag__refusal_fini(&f);
}

/* What was handed over goes out first. */
void ag__h2_abort(ag__h2 *h, ag__h2s *x)
{
    x->aborted = true;
    x->body_due = 0;
    if (x->answered) more(h, x);
    else ag__h2_ok(h, nghttp2_submit_rst_stream(h->session, NGHTTP2_FLAG_NONE, x->id, NGHTTP2_INTERNAL_ERROR));
}

void ag__h2_cut(ag__h2 *h, ag__h2s *x, uint32_t error)
{
    x->write_due = 0;
    end_user(h, x);
    ag__h2_drop_out(h, x);
    x->aborted = true;
    ag__h2_ok(h, nghttp2_submit_rst_stream(h->session, NGHTTP2_FLAG_NONE, x->id, error));
}
