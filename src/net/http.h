/* http.h - HTTP/1.1 and HTTP/2 server connections on event loops.
 * Owns    : a server owns its listening socket, loops (one thread each) and connections. A stream (one request and its
 *           response) belongs to the connection's loop, from on_head until its `done` callback has returned.
 * Threads : open, start, drain, stop and close by the owner's thread. Every callback, and every ag_http_* call on a
 *           stream, runs on that stream's loop. To reach a stream from elsewhere post a message to the loop's mailbox.
 *           Loops block all signals; open sets SIGPIPE to ignored where it was the default.
 * Limits  : ag_http_conf; every one of them has its answer (408, 413, 429, 431, 503 or a close) and a counter.
 * Errors  : open and start return AG_E_ codes. A request that is not valid HTTP, or that would be read differently by
 *           another server (both Content-Length and Transfer-Encoding, obs-fold, NUL, space before a colon, anything
 *           but one Host, bare LF, signed lengths), is answered 400 through on_bad and the connection closed.
 * Flow    : on_head → (on_body)* → on_end → the user responds at any time → done. A client that goes away before the
 *           response is written out: on_gone, then done. Callbacks record and run the user's machine; a callback never
 *           frees a stream, and no ag_http_* call on a stream calls back. Pipelined requests are read one after
 *           another: the next head is parsed once the response before it has been handed over and most of it was taken;
 *           64 KiB of what arrives early are buffered, the rest waits in the socket.
 * HTTP/2  : a connection that begins with its preface speaks it (prior knowledge; Upgrade: h2c is ignored). It has up
 *           to h2_streams_max streams at a time, each with the flow above; nothing here tells a user which protocol it
 *           is. Heads pass the same checks; what HTTP/2 itself calls malformed is reset without an answer. Where
 *           HTTP/1.1 ends a connection to end a request, HTTP/2 resets the stream (RST_STREAM). A client that resets
 *           one is gone; one whose windows stay shut is cut after write_timeout_ms. Draining sends GOAWAY.
 * gRPC    : needs trailers and bodies in both directions at once, which only HTTP/2 gives here: ag_http_trailers,
 *           ag_http_read_on.
 * TLS     : beneath either protocol, chosen by ALPN; a handshake has header_timeout_ms. See tls.h.
 * Proxies : a trusted one names its client, by the PROXY protocol's header before anything else (counted and limited
 *           like one that came itself) or by X-Forwarded-For for one request. From all others both mean nothing.
 * Gone    : a client that closes or half-closes its side (FIN) while a response is owed counts as gone: the two look
 *           the same until a write fails, and an answer that nobody reads is minutes of work. Responses handed over
 *           before are still written. Behind more early bytes than our kernel takes a FIN cannot be seen.
 * Memory  : where there is none for a request it is answered 503; where there is none for a response the connection is
 *           broken (on_gone, done) rather than sent in part. */
#ifndef AG_HTTP_H
#define AG_HTTP_H

#include "base/arena.h"
#include "base/buf.h"
#include "base/err.h"
#include "base/mbox.h"

typedef struct ag_http_server ag_http_server;
typedef struct ag_http_loop ag_http_loop;
typedef struct ag_http_stream ag_http_stream;

typedef struct ag_http_header { ag_str name, value; } ag_http_header;

typedef struct ag_http_head {
    ag_str method, target; /* target as sent */
    ag_str path, query;    /* target cut at '?'; path is not percent-decoded */
    uint8_t minor;         /* HTTP/1.minor */
    const ag_http_header *headers;
    uint32_t n_headers;
    bool has_body;
    int64_t content_length; /* -1: none or chunked */
} ag_http_head;

/* Counters: connections and requests that were ended by this room and not by the user, by reason. */
#define AG_HTTP_BADS(X)                                                                                                \
    X(PARSE, "parse")                         /* 400, or 417 for an unknown Expect */                                  \
    X(HEADERS_SIZE, "headers_size")           /* 431, or GOAWAY: a block unpacked to four times as much */             \
    X(TARGET_SIZE, "target_size")             /* 414 */                                                                \
    X(HEADER_TIMEOUT, "header_timeout")       /* 408 */                                                                \
    X(BODY_TIMEOUT, "body_timeout")           /* 408 */                                                                \
    X(BODY_SIZE, "body_size")                 /* 413 */                                                                \
    X(IDLE_TIMEOUT, "idle_timeout")           /* closed */                                                             \
    X(WRITE_TIMEOUT, "write_timeout")         /* closed */                                                             \
    X(TOTAL_TIMEOUT, "total_timeout")         /* 408, 504, or closed in the middle of an answer */                     \
    X(REQUESTS_PER_CONNECTION, "requests_per_connection") /* closed after the last answer, or GOAWAY */                \
    X(CONNECTIONS, "connections")             /* 503 */                                                                \
    X(CONNECTIONS_PER_ADDRESS, "connections_per_address") /* 429 */                                                    \
    X(TLS, "tls")                             /* a handshake that failed, a record that is none: closed */             \
    X(TLS_HANDSHAKES, "tls_handshakes")       /* closed */                                                             \
    X(MEMORY, "memory")                       /* 503, or closed */                                                     \
    X(H2_STREAMS, "h2_streams")               /* the stream refused, or GOAWAY */                                      \
    X(H2_BODIES, "h2_bodies")                 /* 429 */                                                                \
    X(H2_SETTINGS, "h2_settings")             /* these: GOAWAY, ENHANCE_YOUR_CALM */                                   \
    X(H2_PINGS, "h2_pings")                                                                                            \
    X(H2_RESETS, "h2_resets")                                                                                          \
    X(H2_EMPTY, "h2_empty")                   /* DATA without data, PRIORITY */                                        \
    X(H2_CONTINUATIONS, "h2_continuations")
typedef enum ag_http_bad {
#define AG_HTTP_BAD_ROW(name, text) AG_HTTP_BAD_##name,
    AG_HTTP_BADS(AG_HTTP_BAD_ROW)
#undef AG_HTTP_BAD_ROW
    AG_HTTP_BAD_COUNT
} ag_http_bad;
const char *ag_http_bad_name(ag_http_bad why);

/* What connections are doing. */
#define AG_HTTP_STATES(X)                                                                                              \
    X(NEW, "new")             /* no request yet */                                                                     \
    X(ACTIVE, "active")       /* a request is read, or an answer made or written */                                    \
    X(IDLE, "idle")           /* between two requests */                                                               \
    X(STREAMING, "streaming") /* an answer has begun and goes on */                                                    \
    X(DRAINING, "draining")   /* no further request is taken */                                                        \
    X(CLOSED, "closed")       /* those that have ended, since the start */
typedef enum ag_http_state {
#define AG_HTTP_STATE_ROW(name, text) AG_HTTP_STATE_##name,
    AG_HTTP_STATES(AG_HTTP_STATE_ROW)
#undef AG_HTTP_STATE_ROW
    AG_HTTP_STATE_COUNT
} ag_http_state;

/* A request that is refused by this room, before it was a stream or (body too large, too late, malformed) just before
 * on_gone and done of its stream. */
#define AG_HTTP_REFUSAL_HEADERS 8
typedef struct ag_http_refusal {
    ag_http_bad why;
    int err;               /* AG_E_ */
    const char *sentence;
    bool grpc;             /* see ag_http_is_grpc; of its head as much is known as was read */
    const ag_http_head *head; /* lives while on_bad runs; NULL: it was not read, or cannot be */
    int status;            /* of the answer, by the error; on_bad may set another */
    ag_http_header headers[AG_HTTP_REFUSAL_HEADERS];
    uint32_t n_headers;
    ag_buf body;           /* empty */
    ag_arena mem;          /* what headers point to */
} ag_http_refusal;
void ag_http_refusal_add(ag_http_refusal *f, ag_str name, ag_str value); /* the name lives on, the value is copied */

/* Of the body of a request that was refused before it was read. */
#define AG_HTTP_DROP_BYTES (64u << 10)

typedef struct ag_http_handler {
    /* The head is complete; not a byte of the body has been read. Respond now (or begin to) to refuse: the body is then
     * not handed over, nor on_end called. One that was announced with up to AG_HTTP_DROP_BYTES is read and dropped;
     * else the connection closes after the response, in a way that lets a client that is still sending see it. Or
     * return to go on. Expect: 100-continue is answered when this returns without a
     * response. `*user` is kept for the calls below. head and what it points to live until done. */
    void (*on_head)(void *arg, ag_http_stream *s, const ag_http_head *head, void **user);
    void (*on_body)(void *user, ag_http_stream *s, const char *p, size_t n);
    void (*on_end)(void *user, ag_http_stream *s);
    /* The client closed or broke the connection, a read or write limit ended it: nothing more can be sent. */
    void (*on_gone)(void *user, ag_http_stream *s);
    /* The last call; the stream is dead afterwards. */
    void (*done)(void *user, ag_http_stream *s);
    /* A request was refused by this room: says what its answer has besides a status. NULL: nothing. */
    void (*on_bad)(void *arg, ag_http_refusal *f);
    /* A message taken from a loop's mailbox; those left when the server is closed are given by the closing thread. */
    void (*on_message)(void *arg, ag_http_loop *l, void *msg);
    /* Before a loop sleeps, on its thread; what it posts there is taken first. true: it did something and is to be
     * asked once more. NULL: never. */
    bool (*on_turn)(void *arg);
    void *arg;
} ag_http_handler;

/* Files of PEM, certificates and keys in pairs: "a.pem,b.pem" and "a.key,b.key". client_ca, where given: only clients
 * with a certificate of one of these authorities are let in. */
typedef struct ag_http_tls { const char *certs, *keys, *client_ca; } ag_http_tls;

typedef struct ag_http_conf {
    const char *host;              /* address or name to bind */
    uint16_t port;                 /* 0: any free one; see ag_http_server_port */
    uint32_t loops;                /* threads, 1..64 */
    uint32_t header_bytes_max;     /* request line and headers together */
    uint32_t headers_max;
    uint32_t target_bytes_max;     /* path and query */
    uint64_t body_bytes_max;       /* declared or counted: 413 */
    uint32_t header_timeout_ms;    /* from the first byte of a request to the end of its head: 408 */
    uint32_t body_timeout_ms;      /* for each further 4 KiB of a body, or its end: 408; fewer bytes do not extend it */
    uint32_t idle_timeout_ms;      /* from accept, or from the last response written, to the first byte: closed */
    uint32_t write_timeout_ms;     /* in which the client takes nothing of what waits for it: closed */
    uint32_t total_timeout_ms;     /* from a request's head until its answer is written; 0: none */
    uint32_t requests_max;         /* of one connection, the last of which closes it; 0: any number */
    uint32_t connections_max, connections_per_address_max;
    uint32_t mailbox_cap;          /* messages waiting per loop */
    uint64_t out_bytes_max;        /* bytes of streamed responses waiting to be written per connection */
    uint32_t h2_streams_max;       /* open at once on a connection */
    uint32_t h2_window_bytes, h2_connection_window_bytes; /* of bodies that a client may send ahead */
    uint64_t h2_bodies_max;        /* bytes of the bodies of a connection's requests that are not answered yet; at least
                                    * body_bytes_max: 429 */
    uint32_t h2_resets_max;        /* streams reset within 10 s, by the client or for what it sent */
    const char *unix_path;         /* a Unix socket to listen on as well, unlinked at the end; NULL or "": none */
    const char *trusted_proxies;   /* networks whose PROXY v2 and X-Forwarded-For are believed: "10.0.0.0/8,unix" */
    ag_http_tls tls;               /* certs NULL or "": cleartext */
    uint32_t tls_handshakes_max;   /* begun within a second; more are closed */
    uint32_t h2_frames_max;        /* SETTINGS within 10 s; as many PINGs; as many empty frames */
} ag_http_conf;

/* A connection, while it is looked at. */
#define AG_HTTP_USERS_MAX 8
typedef struct ag_http_conn_info {
    uint64_t id;             /* counted from 1, in the order in which they came */
    ag_str peer;
    ag_http_state state;
    bool h2, tls;
    uint64_t age_ms, requests, bytes_in, bytes_out; /* bytes: of the socket */
    void *const *users;      /* of the requests that are open, as on_head set them: the first of them */
    uint32_t n_users, n_open;
} ag_http_conn_info;

/* Binds and listens; conf and handler are copied (what conf points to is used only here). */
int ag_http_server_open(ag_http_server **out, const ag_http_conf *conf, const ag_http_handler *h, ag_err *err);
/* starts the loops' threads; if it fails only close is left */
int ag_http_server_start(ag_http_server *s, ag_err *err);
uint16_t ag_http_server_port(const ag_http_server *s);
/* Reads the certificates again, for connections that begin from now on. AG_E_USAGE: nothing changed; a server cannot be
 * turned from cleartext to TLS or back. */
int ag_http_server_tls(ag_http_server *s, const ag_http_tls *tls, ag_err *err);
/* Stops accepting; idle connections close, others close after their response (Connection: close). Returns at once. */
void ag_http_server_drain(ag_http_server *s);
/* Drains, waits until every connection is closed or timeout_ms has passed, then closes what is left (on_gone, done),
 * lets work in progress end (`after` is called) and joins the threads. Others may post to mailboxes until close. */
void ag_http_server_stop(ag_http_server *s, uint32_t timeout_ms);
void ag_http_server_close(ag_http_server *s); /* after stop, or never started; NULL is fine */

uint32_t ag_http_server_loops(const ag_http_server *s);
ag_http_loop *ag_http_server_loop(ag_http_server *s, uint32_t i);
uint64_t ag_http_server_connections(const ag_http_server *s);               /* open now */
uint64_t ag_http_server_in_state(const ag_http_server *s, ag_http_state state); /* any thread */
uint64_t ag_http_server_bad_count(const ag_http_server *s, ag_http_bad why); /* any thread */

/* The loop's mailbox; posting wakes the loop (uv_async), which calls on_message for each. Any thread. */
ag_mbox *ag_http_loop_mbox(ag_http_loop *l);
uint32_t ag_http_loop_index(const ag_http_loop *l);
/* Runs `work` on a worker thread (libuv's pool, at lower priority), then `after` on this loop. Called on the loop.
 * false: no memory. */
bool ag_http_loop_work(ag_http_loop *l, void (*work)(void *), void (*after)(void *), void *arg);
/* Looks at all connections, loop by loop, those of a loop in the order of their ids: calls `each` on their own loop's
 * thread (false: what follows on this loop is of no interest), then `after` on this one. A server that stops meanwhile
 * ends it, on the thread that stops. Called on the loop. false: no memory. */
typedef bool ag_http_each_fn(void *arg, const ag_http_conn_info *c);
bool ag_http_loop_visit(ag_http_loop *l, ag_http_each_fn *each, void (*after)(void *), void *arg);

/* Streams. */
ag_http_loop *ag_http_stream_loop(ag_http_stream *s);
ag_str ag_http_stream_peer(ag_http_stream *s); /* "127.0.0.1", "unix"; as a trusted proxy says */
/* Its connection came from a trusted proxy, which may have named its client, or passed on what that says of itself. */
bool ag_http_stream_is_proxied(const ag_http_stream *s);
ag_str ag_http_head_get(const ag_http_head *h, const char *name); /* first header of this name, p NULL: none */

/* A whole response: status, extra headers (Content-Length, Date and Connection are added), body (copied; not bounded by
 * out_bytes_max, since the user holds it already). HEAD requests get no body. Once per stream. A header whose name or
 * value could end its line (CR, LF, NUL, other control characters) or that frames the message is left out; of the
 * latter `Connection: close` is heeded. After a connection has broken, and until on_gone says so, calls do nothing. */
void ag_http_respond(ag_http_stream *s, int status, const ag_http_header *headers, uint32_t n, const char *body,
                     size_t n_body);
/* A streamed response: chunked on HTTP/1.1, until close on 1.0, DATA frames on HTTP/2. Bytes of several writes that
 * are waiting share one writev; nothing is delayed. ag_http_write returns false when the client is gone or
 * out_bytes_max is reached; then the bytes were not taken: the caller waits for on_writable (below) or gives up. */
void ag_http_begin(ag_http_stream *s, int status, const ag_http_header *headers, uint32_t n);
bool ag_http_write(ag_http_stream *s, const char *p, size_t n);
void ag_http_end(ag_http_stream *s);
/* Trailers: headers behind a response, told before it is ended or, with ag_http_respond, before it is given; copied. As
 * for headers, one that could end its line is left out. Only where takes_trailers says so (HTTP/2). */
bool ag_http_takes_trailers(const ag_http_stream *s);
/* A POST over HTTP/2 of application/grpc, with protobuf for messages. */
bool ag_http_is_grpc(const ag_http_stream *s);
void ag_http_trailers(ag_http_stream *s, const ag_http_header *trailers, uint32_t n);
/* Asks for the request's body, and its end, also while it is being answered. Only where takes_trailers says so. */
void ag_http_read_on(ag_http_stream *s);
/* Breaks a response off: what was written goes out, then the connection is closed without the last chunk (HTTP/1.0, or
 * nothing begun: with a reset; HTTP/2: RST_STREAM), so the client sees an error. done follows, without on_gone. */
void ag_http_abort(ag_http_stream *s);
/* Bytes handed over and not yet taken by the socket. */
size_t ag_http_pending(ag_http_stream *s);
/* Called once when the waiting bytes have been written out; soon, if none wait. NULL: none. */
void ag_http_on_writable(ag_http_stream *s, void (*fn)(void *user, ag_http_stream *s));
/* A timer of the stream's own, for deadlines; one per stream, replaced by the next call, stopped by ms 0 and when the
 * response has been handed over. */
void ag_http_timer(ag_http_stream *s, uint32_t ms, void (*fn)(void *user, ag_http_stream *s));

#endif
