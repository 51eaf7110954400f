/* net.h - inside this folder: what server, loop, connection, protocol and stream know of each other.
 * Owns    : see http.h; what crosses loops is a connection on its way to its loop, by mailbox.
 * Threads : a loop, its connections and their streams belong to the loop's thread; what others touch is _Atomic.
 * Limits  : the constants below, beside ag_http_conf.
 * Errors  : `broken` on a connection; the pump kills it.
 * Layers  : server (accepts, limits, threads) > loop (one thread: mailbox, work, dirty list) > conn (socket, timers,
 *           bytes in and out, TLS in conn_tls.c) > proto (HTTP/1 in h1_conn.c, HTTP/2 in h2_conn.c) > stream (one
 *           request and its answer, what the user holds).
 * Rule    : nothing that the user calls calls the user. ag_http_* calls change state and mark the connection dirty; the
 *           loop pumps dirty connections before it leaves its own callback; only the pump parses, writes and calls. */
#ifndef AG_NET_NET_H
#define AG_NET_NET_H

#include <stdatomic.h>
#include <uv.h>

#include "net/addr.h"
#include "net/http.h"
#include "net/tls.h"
#include "net/trust.h"

/* Bytes that one read takes, and that may wait unparsed while a request is being answered. */
#define AG__READ_BYTES 65536
/* With more than this unwritten the next pipelined request waits, so that a client that does not read costs no more. */
#define AG__OUT_GATE 65536
/* What no HTTP/1 request begins with, and HTTP/2's preface does. */
#define AG__H2_BEGINS "PRI "
#define AG__KNOWN 255
/* Answers handed over and not yet written, per connection. */
#define AG__ENDED_MAX 64
/* A whole answer may be larger than out_bytes_max, since the user holds it anyway; this is where that ends. */
#define AG__OUT_MAX ((size_t)1 << 31)
/* Memory a connection keeps between requests. */
#define AG__KEEP_BYTES 4096

typedef struct ag__link { struct ag__link *prev, *next; } ag__link;
static inline void ag__link_init(ag__link *l) { l->prev = l->next = l; }
static inline bool ag__link_empty(const ag__link *l) { return l->next == l; }
static inline void ag__link_cut(ag__link *l)
{
    l->prev->next = l->next;
    l->next->prev = l->prev;
    ag__link_init(l);
}
static inline void ag__link_add(ag__link *list, ag__link *l) /* at the end */
{
    l->prev = list->prev;
    l->next = list;
    list->prev->next = l;
    list->prev = l;
}

typedef struct ag__conn ag__conn;

typedef struct ag__proto {
    int (*open)(ag__conn *c);                        /* AG_OK or AG_E_NOMEM */
    bool (*input)(ag__conn *c, const char *p, size_t n); /* false: no memory */
    bool (*run)(ag__conn *c);                        /* goes on as far as it can, which the loop's `draining` may
                                                      * end; true: something moved */
    size_t (*room)(ag__conn *c);                     /* bytes it would take now */
    void (*eof)(ag__conn *c);
    void (*timeout)(ag__conn *c);                    /* the deadline set by ag__conn_deadline has passed */
    void (*refuse)(ag__conn *c, ag_http_bad why);    /* over a limit of connections: says so and closes */
    void (*gone)(ag__conn *c);                       /* nothing can be sent any more: ends its streams */
    void (*close)(ag__conn *c);                      /* frees its state */
    /* length -1: streamed */
    void (*answer)(ag_http_stream *s, int status, const ag_http_header *h, uint32_t n, int64_t length);
    void (*data)(ag_http_stream *s, const char *p, size_t n);
    void (*end)(ag_http_stream *s);
    ag_http_state (*state)(const ag__conn *c);       /* while it takes requests, or ends */
    size_t (*pending)(ag_http_stream *s);            /* bytes handed over that wait */
    bool (*takes)(ag_http_stream *s, size_t n);      /* whether so many more may wait */
    uint32_t (*users)(const ag__conn *c, void **out, uint32_t max); /* of open streams; how many there are in all */
    bool both_ways;                                  /* answers have trailers, and may begin before a body has ended */
} ag__proto;

struct ag__conn {
    uint32_t magic;
    uint64_t id, born_ms;
    ag_http_loop *loop;
    const ag__proto *proto;
    void *state;
    ag_http_state noted;  /* as counted; AG_HTTP_STATE_COUNT: not started */
    ag__link all, dirty;
    int fd;               /* until the loop has it in tcp; then -1 */
    ag_http_bad refuse;   /* AG_HTTP_BAD_COUNT: none */
    ag__addr addr;
    bool counted;         /* among the server's connections; in the table of addresses, where it has one */
    bool proxied;         /* it is a trusted proxy's, */
    bool trusted;         /* which may still say who its client is */
    bool begun;           /* what stood before the first byte of a protocol was read */
    ag_buf first;         /* a proxy's header, while it is not whole */
    uint8_t known;        /* bytes that HTTP/2 would begin with, or AG__KNOWN: the protocol is decided */
    char peer[48];
    uv_tcp_t tcp;
    uv_timer_t timer;
    uv_write_t write;
    int handles;
    ag_buf out, flight;   /* waiting; given to uv_write, which must not move */
    ag__tls *tls;         /* NULL: cleartext */
    ag_buf wire;          /* with TLS: sealed, waiting */
    size_t sealed;        /* of `out` */
    bool secured;         /* the handshake was seen to be over */
    uint64_t out_all;     /* bytes ever put into out */
    uint64_t in_all;      /* and read from the socket */
    uint64_t n_requests;
    uint64_t read_due, write_due, timer_due; /* ms of the loop's clock, 0: none */
    uint64_t write_mark;  /* bytes taken by the socket when write_due was set */
    uint64_t heard_mark;  /* and those that the client had acknowledged */
    bool reading, writing, eof, broken, closing;
    bool reset;           /* close with RST, so that the client does not take what it has for the whole */
};

typedef enum ag__answer { AG__ANSWER_NONE, AG__ANSWER_BEGUN, AG__ANSWER_ENDED, AG__ANSWER_ABORTED } ag__answer;

struct ag_http_stream {
    uint32_t magic;
    ag__conn *conn;
    void *user, *state;   /* state: the protocol's own */
    ag__answer answer;
    bool gone, is_head, is_grpc, no_body, chunked, keep, read_done, read_on;
    bool drop;            /* if it is answered before its body is read, that is small enough to be read and dropped */
    uint64_t total_due;   /* ms of the loop's clock, 0: none */
    ag_http_header *trailers; /* with what they point to, one piece of memory; NULL: none */
    uint32_t n_trailers;
    uint64_t out_end;     /* conn->out_all when the answer was ended */
    char peer[48];        /* by X-Forwarded-For; "": the connection's */
    ag_http_stream *next;
    uv_timer_t timer;
    bool has_timer;
    void (*on_timer)(void *user, ag_http_stream *s);
    void (*on_writable)(void *user, ag_http_stream *s);
    ag_http_head head;
    ag_http_header headers[];
};

typedef struct ag__visit ag__visit;

struct ag_http_loop {
    uint32_t magic, index;
    ag_http_server *server;
    uv_loop_t uv;
    uv_async_t wake;
    uv_prepare_t turn;    /* with on_turn: before it sleeps, */
    uv_idle_t awake;      /* which it does not while this is active */
    uv_thread_t thread;
    bool has_loop, has_wake, has_turn, has_thread, draining, stopping;
    ag_mbox *mbox, *handoff;
    ag__link conns, dirty;
    ag__visit *visits;    /* under the server's lock: waiting to be made here */
    _Atomic uint32_t n_conns;
    _Atomic uint64_t states[AG_HTTP_STATE_COUNT]; /* written by the loop's thread */
    ag_http_header *slots;
    char *read_bytes;
    struct ag_redis *redis; /* the last of its clients; NULL: none */
    time_t date_at;
    char date[32];
};

typedef struct ag__listener {
    int fd; /* -1: none */
    uv_poll_t poll;
    bool has_poll;
    ag_http_server *server;
} ag__listener;

typedef struct ag__accept { /* on loop 0 */
    ag__listener inet, local;
    uv_timer_t pause;
    bool has_pause, closed;
    char path[108];       /* of the Unix socket; "": none, or not ours */
} ag__accept;

struct ag_http_server {
    uint32_t magic;
    ag_http_conf conf;
    ag_http_handler handler;
    uint16_t port;
    ag__trust trust;
    ag__tls_conf *tls;    /* under `lock`; NULL: cleartext */
    bool secure;          /* constant: whether there is one, whichever it is by now */
    time_t tls_second;    /* loop 0: the second in which so many handshakes began */
    uint32_t tls_begun;
    ag__accept accept;
    ag__addrs *addrs;
    uint32_t n_loops, next_loop;
    bool started, stopped;
    _Atomic bool draining, stopping;
    _Atomic uint64_t n_conns, n_refused;
    _Atomic uint64_t bad[AG_HTTP_BAD_COUNT];
    uint64_t last_id;     /* loop 0: of connections */
    uv_mutex_t lock;      /* for the wait in stop, for visits */
    uv_cond_t empty;
    ag_http_loop *loops;
};

/* server.c */
void ag__accept_close(ag_http_server *s);       /* on loop 0 */
static inline void ag__count_bad(ag_http_loop *l, ag_http_bad why)
{
    atomic_fetch_add_explicit(&l->server->bad[why], 1, memory_order_relaxed);
}
/* Any thread: counts c under its address; false: that one has too many, and c is counted under none. */
bool ag__server_conn_count(ag_http_server *s, ag__conn *c);
void ag__server_conn_gone(ag_http_server *s, ag__conn *c); /* any thread: gives its places back */

/* loop.c */
int ag__loop_open(ag_http_loop *l, ag_http_server *s, uint32_t index);
void ag__loop_close(ag_http_loop *l);           /* its thread has ended or was never started */
int ag__loop_start(ag_http_loop *l);
void ag__loop_leave(ag_http_loop *l);           /* pumps what is dirty; last line of every callback from libuv */
const char *ag__loop_date(ag_http_loop *l);
void ag__loop_end_visits(ag_http_loop *l);      /* its thread has ended */

/* redis.c */
void ag__redis_stop(ag_http_loop *l);           /* answers all that wait; closed when the loop has run once more */
void ag__redis_flush(ag_http_loop *l);          /* sends now what would go before the loop waits next */

/* accept.c */
int ag__accept_open(ag_http_server *s, ag_err *err);
int ag__accept_start(ag_http_server *s);

/* conn.c */
ag__conn *ag__conn_create(ag_http_loop *l, int fd, const struct sockaddr *peer);
void ag__conn_free(ag__conn *c);                /* never started, or all its handles are closed */
void ag__conn_start(ag__conn *c);               /* on its loop */
void ag__conn_dirty(ag__conn *c);
void ag__conn_pump(ag__conn *c);
void ag__conn_kill(ag__conn *c);                /* streams go, then handles; only from the loop's own callbacks */
bool ag__conn_put(ag__conn *c, const char *p, size_t n); /* false: broken */
size_t ag__conn_pending(const ag__conn *c);
static inline uint64_t ag__conn_taken(const ag__conn *c) { return c->out_all - ag__conn_pending(c); }
void ag__conn_deadline(ag__conn *c, uint64_t ms_from_now); /* 0: none */
bool ag__conn_peer_closed(ag__conn *c);         /* asks the kernel, for when nothing is being read */
void ag__conn_shut(ag__conn *c);                /* no more will be written */
bool ag__conn_tell(const ag__conn *c, ag_http_each_fn *each, void *arg);
void ag__conn_break(ag__conn *c);               /* killed at the next pump */

/* conn_tls.c */
bool ag__conn_open_sealed(ag__conn *c, const char *p, size_t n); /* bytes from the socket; false: no memory */
bool ag__conn_seal(ag__conn *c);                                 /* a piece of what waits, into `wire`; false: broken */
/* Unsealed bytes; the first ones say which protocol it is. false: no memory. */
bool ag__conn_take(ag__conn *c, const char *p, size_t n);
bool ag__conn_become(ag__conn *c, const ag__proto *p); /* false: no memory; before the first request */

/* stream.c */
ag_http_stream *ag__stream_create(ag__conn *c, const ag_http_head *h, const char *raw, size_t n_raw);
void ag__stream_done(ag_http_stream *s);        /* calls done, frees */
void ag__stream_gone(ag_http_stream *s);        /* calls on_gone, then done, frees */
void ag__streams_gone(ag_http_stream *oldest);  /* a list of them */
bool ag__stream_is_last(const ag_http_stream *s); /* just created: the connection takes no further one; counted */

extern const ag__proto ag__h1_proto, ag__h2_proto;
/* h1_conn.c, h1_answer.c */
void ag__h1_answer(ag_http_stream *s, int status, const ag_http_header *h, uint32_t n, int64_t length);
void ag__h1_data(ag_http_stream *s, const char *p, size_t n);
void ag__h1_end(ag_http_stream *s);
void ag__h1_put_bad(ag__conn *c, const ag_http_head *head, ag_http_bad why, int err, const char *sentence);

#endif
