#include "base/mem.h"
#include "net/h2.h"

/* A header block in more frames than this is a flood: a client fills its frames, and eight of 16 KiB hold more than any
 * head that is taken. nghttp2 ends at eight itself, without a word to the client. */
#define CONTINUATIONS_MAX 7
#define UNPACKED_TIMES 4 /* of header_bytes_max; up to there the answer says that it is too long */
#define FIELD_BYTES 32   /* that a field is counted for besides its bytes, as RFC 9113 6.5.2 does */
/* A body must bring this much within each body_timeout_ms, or end; as on HTTP/1. */
#define BODY_PACE_BYTES 4096

static const ag_http_bad kind_bads[AG__H2_KIND_COUNT] = {
#define AG__H2_KIND_ROW(name) AG_HTTP_BAD_H2_##name,
    AG__H2_KINDS(AG__H2_KIND_ROW)
#undef AG__H2_KIND_ROW
};

/* false: one too many. */
static bool seen(ag__h2 *h, ag__h2_kind kind)
{
    const ag_http_conf *conf = &h->conn->loop->server->conf;
    uint64_t now = ag__h2_now(h);
    if (now >= h->span_end) {
        h->span_end = now + AG__H2_SPAN_MS;
        memset(h->seen, 0, sizeof h->seen);
    }
    if (++h->seen[kind] <= (kind == AG__H2_RESETS ? conf->h2_resets_max : conf->h2_frames_max)) return true;
    if (!h->stop) ag__h2_limit(h, kind_bads[kind], NGHTTP2_ENHANCE_YOUR_CALM);
    return false;
}

static bool seen_frame(ag__h2 *h, const nghttp2_frame_hd *hd)
{
    switch (hd->type) {
    case NGHTTP2_HEADERS:
    case NGHTTP2_WINDOW_UPDATE: return true;
    case NGHTTP2_DATA:
        return hd->length > 0 || (hd->flags & NGHTTP2_FLAG_END_STREAM) || seen(h, AG__H2_EMPTY);
    case NGHTTP2_SETTINGS: return seen(h, AG__H2_SETTINGS);
    case NGHTTP2_PING: return seen(h, AG__H2_PINGS);
    case NGHTTP2_RST_STREAM: return seen(h, AG__H2_RESETS);
    case NGHTTP2_CONTINUATION:
        if (++h->continuations <= CONTINUATIONS_MAX) return true;
        ag__h2_limit(h, AG_HTTP_BAD_H2_CONTINUATIONS, NGHTTP2_ENHANCE_YOUR_CALM);
        return false;
    default: return seen(h, AG__H2_EMPTY); /* PRIORITY; types that nobody knows are skipped before they come here */
    }
}

/* A stream that the client passed over is closed: opening it after all breaks the rules. nghttp2 would let that pass.
 * The latest gap is remembered; honest clients leave none. */
static bool in_order(ag__h2 *h, int32_t id)
{
    if (id > h->last_id) {
        if (id > h->last_id + 2) h->gap_first = h->last_id + 2, h->gap_last = id - 2;
        h->last_id = id;
        return true;
    }
    if (h->gap_first == 0 || id < h->gap_first || id > h->gap_last) return true;
    ag__h2_limit(h, AG_HTTP_BAD_PARSE, NGHTTP2_PROTOCOL_ERROR);
    return false;
}

/* The header of a frame was read. Counted here: what its bytes cost is not yet spent. */
static int on_begin_frame(nghttp2_session *session AG_UNUSED, const nghttp2_frame_hd *hd, void *user)
{
    ag__h2 *h = user;
    if (hd->type == NGHTTP2_HEADERS) {
        if (hd->stream_id % 2 && !in_order(h, hd->stream_id)) return NGHTTP2_ERR_CALLBACK_FAILURE;
        h->continuations = 0;
        h->unpacked = 0;
        h->head_due = h->goaway ? 0 : ag__h2_now(h) + h->conn->loop->server->conf.header_timeout_ms;
    } else if (hd->type != NGHTTP2_CONTINUATION && h->greeted) {
        h->head_due = 0;
    }
    return seen_frame(h, hd) ? 0 : NGHTTP2_ERR_CALLBACK_FAILURE;
}

static int on_begin_headers(nghttp2_session *session, const nghttp2_frame *frame, void *user)
{
    ag__h2 *h = user;
    if (frame->headers.cat != NGHTTP2_HCAT_REQUEST) return 0;
    ag__h2s *x = ag_mem_zalloc(sizeof *x);
    if (x == NULL) {
        ag__count_bad(h->conn->loop, AG_HTTP_BAD_MEMORY);
        h->head_due = 0;
        return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
    }
    x->id = frame->hd.stream_id;
    ag_buf_init(&x->out, AG__OUT_MAX);
    ag__link_init(&x->all);
    ag__link_add(&h->streams, &x->all);
    h->n_streams++;
    ag__h2_head_begin(&h->head);
    int rc = nghttp2_session_set_stream_user_data(session, x->id, x);
    AG_ASSERT(rc == 0); /* it was opened just now */
    return 0;
}

/* What a block is unpacked to, whether it is kept or not: a byte of it may stand for thousands. false: too much. */
static bool unpacks(ag__h2 *h, size_t n_name, size_t n_value)
{
    h->unpacked += n_name + n_value + FIELD_BYTES;
    if (h->unpacked <= (uint64_t)UNPACKED_TIMES * h->conn->loop->server->conf.header_bytes_max) return true;
    if (!h->stop) ag__h2_limit(h, AG_HTTP_BAD_HEADERS_SIZE, NGHTTP2_ENHANCE_YOUR_CALM);
    return false;
}

static int on_header(nghttp2_session *session AG_UNUSED, const nghttp2_frame *frame, const uint8_t *name, size_t n_name,
                     const uint8_t *value, size_t n_value, uint8_t flags AG_UNUSED, void *user)
{
    ag__h2 *h = user;
    if (!unpacks(h, n_name, n_value)) return NGHTTP2_ERR_CALLBACK_FAILURE;
    if (frame->headers.cat == NGHTTP2_HCAT_REQUEST) /* trailers are read and mean nothing here */
        ag__h2_head_add(&h->head, (ag_str){(const char *)name, n_name}, (ag_str){(const char *)value, n_value});
    return 0;
}

static int on_invalid_header(nghttp2_session *session AG_UNUSED, const nghttp2_frame *frame,
                             const uint8_t *name AG_UNUSED, size_t n_name, const uint8_t *value AG_UNUSED,
                             size_t n_value, uint8_t flags AG_UNUSED, void *user)
{
    ag__h2 *h = user;
    if (!unpacks(h, n_name, n_value)) return NGHTTP2_ERR_CALLBACK_FAILURE;
    if (frame->headers.cat != NGHTTP2_HCAT_REQUEST) return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
    h->head.sentence = "a header's name is no token, or its value holds a character that values cannot have";
    return 0;
}

/* Whether its user still wants the body. */
static bool is_read(const ag_http_stream *s)
{
    return s->answer == AG__ANSWER_NONE || (s->answer == AG__ANSWER_BEGUN && s->read_on);
}

static void end_body(ag__h2 *h, ag__h2s *x)
{
    const ag_http_handler *handler = &h->conn->loop->server->handler;
    x->body_due = 0;
    if (x->s == NULL || x->s->read_done) return;
    x->s->read_done = true;
    if (is_read(x->s)) handler->on_end(x->s->user, x->s);
}

static void send_continue(ag__h2 *h, ag__h2s *x)
{
    nghttp2_nv status = {(uint8_t *)":status", (uint8_t *)"100", 7, 3, NGHTTP2_NV_FLAG_NONE};
    int rc = nghttp2_submit_headers(h->session, NGHTTP2_FLAG_NONE, x->id, NULL, &status, 1, NULL);
    ag__h2_ok(h, rc < 0 ? rc : 0);
}

static ag_http_bad bad_of(int rc)
{
    if (rc == AG_E_HEADERS_TOO_LARGE) return AG_HTTP_BAD_HEADERS_SIZE;
    return rc == AG_E_NOMEM ? AG_HTTP_BAD_MEMORY : AG_HTTP_BAD_PARSE;
}

static void begin_request(ag__h2 *h, ag__h2s *x, bool has_body)
{
    ag__conn *c = h->conn;
    const ag_http_conf *conf = &c->loop->server->conf;
    const ag_http_handler *handler = &c->loop->server->handler;
    const char *sentence = NULL;
    ag__head head;
    x->is_head = ag__h2_head_is(&h->head, "HEAD");
    x->grpc = h->head.grpc && ag__h2_head_is(&h->head, "POST");
    int rc = ag__h2_head_end(&h->head, &head, c->loop->slots, conf->headers_max, &sentence);
    if (rc != AG_OK) {
        ag__h2_bad(h, x, NULL, bad_of(rc), rc, sentence);
        return;
    }
    head.pub.has_body = has_body;
    if (head.pub.target.n > conf->target_bytes_max) {
        ag__h2_bad(h, x, &head.pub, AG_HTTP_BAD_TARGET_SIZE, AG_E_TARGET_TOO_LONG,
                   "the path and query are longer than the server takes");
        return;
    }
    if (head.pub.content_length > 0 && (uint64_t)head.pub.content_length > conf->body_bytes_max) {
        ag__h2_bad(h, x, &head.pub, AG_HTTP_BAD_BODY_SIZE, AG_E_TOO_LARGE, "the body is larger than the server takes");
        return;
    }
    ag_http_stream *s = ag__stream_create(c, &head.pub, h->head.text.p, h->head.text.n);
    if (s == NULL) {
        ag__h2_bad(h, x, &head.pub, AG_HTTP_BAD_MEMORY, AG_E_NOMEM, "there is no memory for this request");
        return;
    }
    x->s = s;
    s->state = x;
    s->is_grpc = x->grpc;
    if (!h->goaway && ag__stream_is_last(s)) ag__h2_last(h);
    if (has_body) x->body_due = ag__h2_now(h) + conf->body_timeout_ms;
    handler->on_head(handler->arg, s, &s->head, &s->user);
    if (!is_read(s)) return;
    if (!has_body) handler->on_end(s->user, s);
    else if (head.expect_continue) send_continue(h, x);
}

static int on_data_chunk(nghttp2_session *session, uint8_t flags AG_UNUSED, int32_t id, const uint8_t *p, size_t n,
                         void *user)
{
    ag__h2 *h = user;
    const ag_http_conf *conf = &h->conn->loop->server->conf;
    const ag_http_handler *handler = &h->conn->loop->server->handler;
    ag__h2s *x = nghttp2_session_get_stream_user_data(session, id);
    if (x == NULL || x->s == NULL || !is_read(x->s) || n == 0) return 0;
    x->body_got += n;
    if (x->body_got > conf->body_bytes_max) {
        if (x->answered) {
            ag__count_bad(h->conn->loop, AG_HTTP_BAD_BODY_SIZE);
            ag__h2_cut(h, x, NGHTTP2_ENHANCE_YOUR_CALM);
            return 0;
        }
        ag__h2_bad(h, x, NULL, AG_HTTP_BAD_BODY_SIZE, AG_E_TOO_LARGE, "the body is larger than the server takes");
        return 0;
    }
    if (!x->answered) { /* whoever is answered while it sends is read as it comes */
        x->body_held += n;
        h->bodies += n;
    }
    if (!x->answered && h->bodies > AG_MAX(conf->h2_bodies_max, conf->body_bytes_max)) {
        ag__h2_bad(h, x, NULL, AG_HTTP_BAD_H2_BODIES, AG_E_RATE_LIMIT,
                   "the bodies of this connection's requests are together more than the server takes at once");
        return 0;
    }
    if (x->body_got - x->body_mark >= BODY_PACE_BYTES) {
        x->body_mark = x->body_got;
        x->body_due = ag__h2_now(h) + conf->body_timeout_ms;
    }
    handler->on_body(x->s->user, x->s, (const char *)p, n);
    return 0;
}

static int on_frame(nghttp2_session *session, const nghttp2_frame *frame, void *user)
{
    ag__h2 *h = user;
    bool last = (frame->hd.flags & NGHTTP2_FLAG_END_STREAM) != 0;
    if (frame->hd.type == NGHTTP2_SETTINGS && !h->greeted) {
        h->greeted = true;
        h->head_due = 0;
    }
    if (frame->hd.type != NGHTTP2_HEADERS && frame->hd.type != NGHTTP2_DATA) return 0;
    h->head_due = 0;
    ag__h2s *x = nghttp2_session_get_stream_user_data(session, frame->hd.stream_id);
    if (x == NULL) return 0;
    if (frame->hd.type == NGHTTP2_HEADERS && frame->headers.cat == NGHTTP2_HCAT_REQUEST) begin_request(h, x, !last);
    else if (last) end_body(h, x);
    return 0;
}

/* nghttp2 resets the stream or ends the connection; on_frame_send counts what for. */
static int on_invalid_frame(nghttp2_session *session AG_UNUSED, const nghttp2_frame *frame AG_UNUSED, int error,
                            void *user)
{
    ag__h2 *h = user;
    h->head_due = 0;
    if (h->n_streams >= h->conn->loop->server->conf.h2_streams_max && frame->hd.type == NGHTTP2_HEADERS &&
        (error == NGHTTP2_ERR_REFUSED_STREAM || error == NGHTTP2_ERR_PROTO))
        ag__count_bad(h->conn->loop, AG_HTTP_BAD_H2_STREAMS);
    return 0;
}

/* A stream that we had to reset for what its client sent costs as much as one that the client reset. */
static int on_frame_send(nghttp2_session *session, const nghttp2_frame *frame, void *user)
{
    ag__h2 *h = user;
    if (frame->hd.type == NGHTTP2_RST_STREAM || frame->hd.type == NGHTTP2_GOAWAY) {
        bool rst = frame->hd.type == NGHTTP2_RST_STREAM;
        switch (rst ? frame->rst_stream.error_code : frame->goaway.error_code) {
        case NGHTTP2_PROTOCOL_ERROR:
        case NGHTTP2_FLOW_CONTROL_ERROR:
        case NGHTTP2_STREAM_CLOSED:
        case NGHTTP2_FRAME_SIZE_ERROR:
        case NGHTTP2_COMPRESSION_ERROR:
            if (rst || !h->stop) ag__count_bad(h->conn->loop, AG_HTTP_BAD_PARSE);
            if (rst) seen(h, AG__H2_RESETS);
            break;
        default: break;
        }
    } else if ((frame->hd.type == NGHTTP2_DATA || frame->hd.type == NGHTTP2_HEADERS) &&
               (frame->hd.flags & NGHTTP2_FLAG_END_STREAM)) {
        ag__h2s *x = nghttp2_session_get_stream_user_data(session, frame->hd.stream_id);
        if (x == NULL) return 0;
        x->sent = true;
        /* Answered before the request was read: the client need not send the rest. */
        if (nghttp2_session_get_stream_remote_close(session, x->id) == 0)
            ag__h2_ok(h, nghttp2_submit_rst_stream(session, NGHTTP2_FLAG_NONE, x->id, NGHTTP2_NO_ERROR));
    }
    return 0;
}

static int on_stream_close(nghttp2_session *session, int32_t id, uint32_t error AG_UNUSED, void *user)
{
    ag__h2 *h = user;
    ag__h2s *x = nghttp2_session_get_stream_user_data(session, id);
    if (x == NULL) return 0;
    ag_http_stream *s = x->s;
    bool whole = x->sent || x->aborted;
    ag__h2_body_done(h, x);
    ag__h2_drop_out(h, x);
    ag__link_cut(&x->all);
    h->n_streams--;
    ag_mem_free(x);
    nghttp2_session_set_stream_user_data(session, id, NULL);
    if (s == NULL) return 0;
    s->state = NULL;
    if (whole) ag__h2_retire(h, s);
    else ag__stream_gone(s);
    return 0;
}

void ag__h2_callbacks(nghttp2_session_callbacks *cb)
{
    nghttp2_session_callbacks_set_on_begin_frame_callback(cb, on_begin_frame);
    nghttp2_session_callbacks_set_on_begin_headers_callback(cb, on_begin_headers);
    nghttp2_session_callbacks_set_on_header_callback(cb, on_header);
    nghttp2_session_callbacks_set_on_invalid_header_callback(cb, on_invalid_header);
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(cb, on_data_chunk);
    nghttp2_session_callbacks_set_on_frame_recv_callback(cb, on_frame);
    nghttp2_session_callbacks_set_on_invalid_frame_recv_callback(cb, on_invalid_frame);
    nghttp2_session_callbacks_set_on_frame_send_callback(cb, on_frame_send);
    nghttp2_session_callbacks_set_on_stream_close_callback(cb, on_stream_close);
}
