/* h2.h - HTTP/2 on a connection: nghttp2 frames and unframes, this keeps its peers within limits.
 * Owns    : ag__h2 (a connection's state) owns the session and every ag__h2s (a stream's side of it). An ag__h2s lives
 *           as long as nghttp2's stream; the user's ag_http_stream may end before it (refused by us) or after it (the
 *           socket has not taken its last bytes yet: the list `ended`).
 * Threads : the loop's.
 * Limits  : ag_http_conf's h2_*; AG__H2_KINDS, frames that ask for nothing, within AG__H2_SPAN_MS. All bytes that wait
 *           are out_bytes_max together; beyond that a stream of which nothing waits may still write once, so that those
 *           that stall do not keep their neighbours from going on.
 * Errors  : a stream's are answered (400, 408, 413, 417, 431, 503) or reset; a connection's end it with GOAWAY. What
 *           nghttp2 finds wrong itself it resets.
 * Heads   : are written down as HTTP/1 would have sent them and read by head.h, so that both protocols take and refuse
 *           the same names, values, targets, hosts and lengths. */
#ifndef AG_NET_H2_H
#define AG_NET_H2_H

#include <nghttp2/nghttp2.h>

#include "net/head.h"
#include "net/net.h"

/* Frames that cost us work and bring nobody closer to an answer: how many of each kind a client may send in a span. */
#define AG__H2_SPAN_MS 10000
#define AG__H2_KINDS(X) X(SETTINGS) X(PINGS) X(RESETS) X(EMPTY)
typedef enum ag__h2_kind {
#define AG__H2_KIND_ROW(name) AG__H2_##name,
    AG__H2_KINDS(AG__H2_KIND_ROW)
#undef AG__H2_KIND_ROW
    AG__H2_KIND_COUNT
} ag__h2_kind;

/* The head that arrives; there is one at a time on a connection. */
typedef struct ag__h2_head {
    ag_buf text;          /* from the request line on, once the first ordinary header or the end was seen */
    ag_buf pseudo;        /* method, path and authority, one behind the other */
    struct { size_t at, n; } method, path, authority; /* in `pseudo` */
    size_t max;
    bool lined, too_large, no_memory;
    bool grpc;            /* a content-type of gRPC's was among the headers, kept or not */
    const char *sentence; /* what is wrong with it; NULL: nothing so far */
} ag__h2_head;

typedef struct ag__h2s {
    ag__link all;
    int32_t id;
    ag_http_stream *s;    /* NULL: not begun, or ended by us */
    ag_buf out;           /* of the answer, not yet in frames: from `off` on */
    size_t off;
    bool is_head, grpc;
    bool answered;        /* nghttp2 has the head of the answer */
    bool ended;           /* nothing more comes into `out` */
    bool idle;            /* nghttp2 waits to be told that there is more */
    bool aborted;         /* ends with a reset once `out` is empty */
    bool sent;            /* the answer's last frame is written */
    uint64_t body_held;   /* of the connection's `bodies` */
    uint64_t body_got, body_mark, sent_bytes, sent_mark, all_mark;
    uint64_t body_due, write_due; /* ms of the loop's clock, 0: none */
} ag__h2s;

typedef struct ag__h2 {
    ag__conn *conn;
    nghttp2_session *session;
    ag_buf in;
    ag__h2_head head;
    ag__link streams;
    uint32_t n_streams;
    ag_http_stream *ended, *newest; /* answered whole, not yet taken by the socket; oldest first */
    uint32_t n_ended;
    size_t waiting;       /* bytes in all `out` */
    uint64_t bodies;      /* bytes of bodies of those that are not answered */
    uint64_t sent_bytes;  /* of bodies, all streams */
    uint64_t idle_due, head_due;
    uint64_t span_end;
    uint32_t seen[AG__H2_KIND_COUNT];
    uint32_t continuations; /* of the block that arrives, */
    uint64_t unpacked;      /* and bytes of its fields */
    int32_t last_id, gap_first, gap_last; /* of requests; the gap: the last ids that were passed over, 0: none */
    bool greeted;         /* the client's SETTINGS have come */
    bool goaway;          /* no new streams */
    bool stop;            /* no more is read: the client broke a limit, GOAWAY goes out */
    enum { AG__H2_OPEN, AG__H2_LAST, AG__H2_LINGER } phase;
} ag__h2;

/* h2_head.c */
void ag__h2_head_open(ag__h2_head *h, size_t bytes_max);
void ag__h2_head_close(ag__h2_head *h);
void ag__h2_head_begin(ag__h2_head *h);
void ag__h2_head_add(ag__h2_head *h, ag_str name, ag_str value);
/* The head as a whole; slices point into h->text. AG_E_ code and sentence as ag__head_parse. */
int ag__h2_head_end(ag__h2_head *h, ag__head *out, ag_http_header *slots, uint32_t max, const char **sentence);
bool ag__h2_head_is(const ag__h2_head *h, const char *method);

/* h2_recv.c */
void ag__h2_callbacks(nghttp2_session_callbacks *cb);

/* h2_answer.c */
void ag__h2_answer(ag_http_stream *s, int status, const ag_http_header *headers, uint32_t n, int64_t length);
void ag__h2_data(ag_http_stream *s, const char *p, size_t n);
void ag__h2_end(ag_http_stream *s);
bool ag__h2_takes(ag_http_stream *s, size_t n);
size_t ag__h2_pending(ag_http_stream *s);
/* Ends s, answers x. head: NULL is that of s, where there is one. */
void ag__h2_bad(ag__h2 *h, ag__h2s *x, const ag_http_head *head, ag_http_bad why, int err, const char *sentence);
void ag__h2_drop_out(ag__h2 *h, ag__h2s *x);
void ag__h2_abort(ag__h2 *h, ag__h2s *x);
void ag__h2_cut(ag__h2 *h, ag__h2s *x, uint32_t error_code); /* ends s as gone, resets x */

/* h2_conn.c */
void ag__h2_limit(ag__h2 *h, ag_http_bad why, uint32_t error_code); /* counts it; the connection ends with GOAWAY */
bool ag__h2_ok(ag__h2 *h, int rc); /* of nghttp2_submit_*; false: no memory, the connection breaks */
void ag__h2_retire(ag__h2 *h, ag_http_stream *s);
void ag__h2_last(ag__h2 *h); /* GOAWAY: those that are here are answered, nobody else comes in */
static inline void ag__h2_body_done(ag__h2 *h, ag__h2s *x)
{
    h->bodies -= x->body_held;
    x->body_held = 0;
}
static inline uint64_t ag__h2_now(const ag__h2 *h) { return uv_now(&h->conn->loop->uv); }

#endif
