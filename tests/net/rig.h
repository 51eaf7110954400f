/* rig.h - a server with a handler that does what the path says, and a client of plain sockets, for the tests of net.
 * Waiting is for events (counters with a condition), never for time; what waits in vain fails after RIG_WAIT_MS. */
#ifndef AG_TESTS_NET_RIG_H
#define AG_TESTS_NET_RIG_H

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/fault.h"
#include "base/mem.h"
#include "net/net.h"

enum { RIG_WAIT_MS = 30000 };

typedef enum rig_event {
    RIG_HEAD, RIG_BODY, RIG_END, RIG_GONE, RIG_DONE, RIG_BAD, RIG_MESSAGE, RIG_FULL, RIG_EVENTS
} rig_event;

typedef struct rig {
    ag_http_server *server;
    ag_http_conf conf;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    uint64_t n[RIG_EVENTS];
    uint64_t body_bytes;
    char order[256];      /* of the last requests: H B E G D */
    bool (*on_turn)(void *arg); /* before rig_start's */
    ag_http_each_fn *each;      /* of visits: their argument is the rig */
    void (*after)(void *arg);
    _Atomic uint32_t visits;    /* begun */
    _Atomic uint32_t turns;
    struct rig_req *held; /* the last request to /hold and the like; used on its loop only, through messages */
} rig;

typedef struct rig_req {
    rig *r;
    ag_http_stream *s;
    ag_str path, query;
    char *body;
    size_t n_body, left;
    bool was_gone, got_body;
} rig_req;

static void rig_note(rig *r, rig_event e, char letter)
{
    pthread_mutex_lock(&r->lock);
    r->n[e]++;
    size_t n = strlen(r->order);
    if (letter && n + 1 < sizeof r->order) r->order[n] = letter;
    pthread_cond_broadcast(&r->changed);
    pthread_mutex_unlock(&r->lock);
}

static AG_UNUSED uint64_t rig_count(rig *r, rig_event e)
{
    pthread_mutex_lock(&r->lock);
    uint64_t n = r->n[e];
    pthread_mutex_unlock(&r->lock);
    return n;
}

static AG_UNUSED void rig_wait(rig *r, rig_event e, uint64_t n)
{
    struct timespec end;
    clock_gettime(CLOCK_REALTIME, &end);
    end.tv_sec += RIG_WAIT_MS / 1000;
    pthread_mutex_lock(&r->lock);
    int rc = 0;
    while (r->n[e] < n && rc == 0) rc = pthread_cond_timedwait(&r->changed, &r->lock, &end);
    uint64_t have = r->n[e];
    pthread_mutex_unlock(&r->lock);
    if (have < n) fail_msg("waited in vain for %d of event %d, have %d", (int)n, e, (int)have);
}

/* For what has no event of its own: asked again until true. */
#define RIG_UNTIL(expr)                                                                                                \
    do {                                                                                                               \
        int tries_ = RIG_WAIT_MS;                                                                                      \
        while (!(expr) && --tries_ > 0) usleep(1000);                                                                  \
        if (tries_ <= 0) fail_msg("%s:%d: never came true: %s", __FILE__, __LINE__, #expr);                            \
    } while (0)

static bool rig_is(const rig_req *q, const char *path) { return ag_str_eqz(q->path, path); }

static void rig_ok(rig_req *q, const char *text) { ag_http_respond(q->s, 200, NULL, 0, text, strlen(text)); }

static void rig_on_timer(void *user, ag_http_stream *s)
{
    (void)s;
    rig_ok(user, "timer");
}

/* /flood?N: N bytes in writes of 1,000, as fast as they are taken. */
static void rig_flood(void *user, ag_http_stream *s)
{
    rig_req *q = user;
    static const char text[1000] = {[0 ... 999] = 'f'};
    while (q->left) {
        size_t n = AG_MIN(q->left, sizeof text);
        if (!ag_http_write(s, text, n)) {
            rig_note(q->r, RIG_FULL, 0);
            AG_ASSERT(q->was_gone || ag_http_pending(s) <= q->r->conf.out_bytes_max + 4096);
            ag_http_on_writable(s, rig_flood);
            return;
        }
        q->left -= n;
    }
    ag_http_end(s);
}

typedef struct rig_work { rig_req *q; ag_http_loop *l; pthread_t on; } rig_work;

static void rig_work_run(void *arg) { ((rig_work *)arg)->on = pthread_self(); }

static void rig_work_after(void *arg)
{
    rig_work *w = arg;
    rig_req *q = w->q;
    bool elsewhere = !pthread_equal(w->on, pthread_self());
    free(w);
    if (q->was_gone) free(q->body), free(q); /* its done left it to us */
    else q->left = 0, rig_ok(q, elsewhere ? "worked" : "worked on the loop");
}

static void rig_stream3(rig_req *q)
{
    ag_http_header type = {AG_STR("Content-Type"), AG_STR("text/event-stream")};
    ag_http_begin(q->s, 200, &type, 1);
    ag_http_write(q->s, "one", 3);
    ag_http_write(q->s, "", 0);
    ag_http_write(q->s, "two", 3);
    ag_http_write(q->s, "three", 5);
    ag_http_end(q->s);
}

static void rig_inject(rig_req *q)
{
    ag_http_header h[] = {
        {AG_STR("X-Good"), AG_STR("a b")},
        {AG_STR("X-Bad"), AG_STR("a\r\nX-Injected: 1")},
        {AG_STR("X-Nul"), {"a\0b", 3}},
        {AG_STR("X-Lf"), AG_STR("a\nX-Injected: 1")},
        {AG_STR("X Y"), AG_STR("z")},
        {AG_STR(""), AG_STR("z")},
        {AG_STR("X-Name\r\nX-Injected"), AG_STR("1")},
        {AG_STR("Content-Length"), AG_STR("7")},
        {AG_STR("Transfer-Encoding"), AG_STR("chunked")},
    };
    ag_http_respond(q->s, 200, h, AG_ARRAY_LEN(h), "ok", 2);
}

/* /trailers: a stream, ?whole: a whole answer, ?bare: one without a body. */
static void rig_trailers(rig_req *q)
{
    static const ag_http_header h[] = {
        {{"x-end", 5}, {"well", 4}}, {{"x-bad", 5}, {"a\r\nb", 4}}, {{"x-empty", 7}, {"", 0}}};
    bool whole = ag_str_eqz(q->query, "whole"), bare = ag_str_eqz(q->query, "bare");
    if (!ag_http_takes_trailers(q->s)) ag_http_respond(q->s, 501, NULL, 0, NULL, 0);
    else if (whole || bare) ag_http_trailers(q->s, h, 3), ag_http_respond(q->s, 200, NULL, 0, "whole", whole ? 5 : 0);
    else {
        ag_http_begin(q->s, 200, NULL, 0);
        ag_http_write(q->s, "stream", 6);
        ag_http_trailers(q->s, h, 3);
        ag_http_end(q->s);
    }
}

static const ag_http_header rig_close = {{"Connection", 10}, {"close", 5}};

static void rig_length(rig_req *q)
{
    char text[32];
    snprintf(text, sizeof text, "%zu bytes", q->n_body);
    rig_ok(q, text);
}

/* What is done at the end of the request. */
static void rig_answer(rig_req *q)
{
    ag_http_stream *s = q->s;
    if (rig_is(q, "/hello")) rig_ok(q, "hello");
    else if (rig_is(q, "/echo")) ag_http_respond(s, 200, NULL, 0, q->body, q->n_body);
    else if (rig_is(q, "/length")) rig_length(q);
    else if (rig_is(q, "/peer")) ag_http_respond(s, 200, NULL, 0, ag_http_stream_peer(s).p, ag_http_stream_peer(s).n);
    else if (rig_is(q, "/query")) ag_http_respond(s, 200, NULL, 0, q->query.p, q->query.n);
    else if (rig_is(q, "/none")) ag_http_respond(s, 204, NULL, 0, NULL, 0);
    else if (rig_is(q, "/stream")) rig_stream3(q);
    else if (rig_is(q, "/trailers")) rig_trailers(q);
    else if (rig_is(q, "/both")) ag_http_end(s);
    else if (rig_is(q, "/inject")) rig_inject(q);
    else if (rig_is(q, "/timer")) ag_http_timer(s, 1000000, rig_on_timer), ag_http_timer(s, 5, rig_on_timer);
    else if (rig_is(q, "/timerbig")) {
        static char big[20000000];
        ag_http_timer(s, 20, rig_on_timer); /* would answer a second time, which is asserted against */
        ag_http_respond(s, 200, NULL, 0, big, sizeof big);
    } else if (rig_is(q, "/abort")) ag_http_abort(s);
    else if (rig_is(q, "/break")) ag_http_begin(s, 200, NULL, 0), ag_http_write(s, "half", 4), ag_http_abort(s);
    else if (rig_is(q, "/close")) ag_http_respond(s, 200, &rig_close, 1, "bye", 3);
    else if (rig_is(q, "/hold")) q->r->held = q;
    else if (rig_is(q, "/holdstream")) q->r->held = q, ag_http_begin(s, 200, NULL, 0), ag_http_write(s, "first", 5);
    else if (rig_is(q, "/flood")) {
        q->left = strtoul(q->query.p, NULL, 10);
        ag_http_begin(s, 200, NULL, 0);
        rig_flood(q, s);
    } else if (rig_is(q, "/big")) {
        size_t n = strtoul(q->query.p, NULL, 10);
        char *big = malloc(n);
        memset(big, 'b', n);
        ag_http_respond(s, 200, NULL, 0, big, n);
        free(big);
    } else if (rig_is(q, "/work")) {
        rig_work *w = calloc(1, sizeof *w);
        *w = (rig_work){.q = q};
        q->left = 1;
        if (ag_http_loop_work(ag_http_stream_loop(s), rig_work_run, rig_work_after, w)) return;
        free(w);
        q->left = 0;
        rig_ok(q, "no memory");
    } else ag_http_respond(s, 404, NULL, 0, NULL, 0);
}

static void rig_on_head(void *arg, ag_http_stream *s, const ag_http_head *head, void **user)
{
    rig *r = arg;
    rig_req *q = calloc(1, sizeof *q);
    AG_ASSERT(q != NULL);
    *q = (rig_req){.r = r, .s = s, .path = head->path, .query = head->query};
    *user = q;
    if (rig_is(q, "/early")) ag_http_respond(s, 403, NULL, 0, "no", 2);
    if (rig_is(q, "/earlystream")) ag_http_begin(s, 200, NULL, 0), ag_http_write(s, "early", 5), ag_http_end(s);
    if (rig_is(q, "/both")) ag_http_read_on(s), ag_http_begin(s, 200, NULL, 0); /* echoes while it is read */
    rig_note(r, RIG_HEAD, 'H');
}

static void rig_on_body(void *user, ag_http_stream *s, const char *p, size_t n)
{
    rig_req *q = user;
    AG_ASSERT(q->s == s && n > 0);
    q->body = realloc(q->body, q->n_body + n);
    memcpy(q->body + q->n_body, p, n);
    q->n_body += n;
    pthread_mutex_lock(&q->r->lock);
    q->r->body_bytes += n;
    pthread_mutex_unlock(&q->r->lock);
    if (!q->got_body) rig_note(q->r, RIG_BODY, 'B');
    q->got_body = true;
    if (rig_is(q, "/both")) ag_http_write(s, p, n);
    if (rig_is(q, "/midbody")) ag_http_respond(s, 403, NULL, 0, "enough", 6), q->path = AG_STR("-");
}

static void rig_on_end(void *user, ag_http_stream *s)
{
    rig_req *q = user;
    AG_ASSERT(q->s == s);
    rig_note(q->r, RIG_END, 'E');
    rig_answer(q);
}

static void rig_on_gone(void *user, ag_http_stream *s)
{
    rig_req *q = user;
    AG_ASSERT(q->s == s && !q->was_gone);
    q->was_gone = true;
    AG_ASSERT(!ag_http_write(s, "x", 1));
    if (q->r->held == q) q->r->held = NULL;
    rig_note(q->r, RIG_GONE, 'G');
}

static void rig_done(void *user, ag_http_stream *s)
{
    rig_req *q = user;
    rig *r = q->r;
    AG_ASSERT(q->s == s);
    if (r->held == q) r->held = NULL;
    if (q->left == 0 || !rig_is(q, "/work")) free(q->body), free(q);
    rig_note(r, RIG_DONE, 'D');
}

static void rig_on_bad(void *arg, ag_http_refusal *f)
{
    rig *r = arg;
    ag_buf_addf(&f->body, "%s|%d|%s", ag_http_bad_name(f->why), ag_err_find(f->err)->http, f->sentence);
    if (f->grpc) {
        ag_http_refusal_add(f, AG_STR("x-call"), ag_buf_str(&f->body));
        ag_buf_reset(&f->body);
        f->status = 200;
    }
    ag_http_refusal_add(f, AG_STR("x-request-id"), AG_STR("rig-id"));
    rig_note(r, RIG_BAD, 0);
}

/* Messages are texts: "w:..." writes to the held stream, "r:..." responds, "e" ends it, "a" aborts it, "n" is none; "v"
 * looks at all connections. */
static void rig_on_message(void *arg, ag_http_loop *l, void *msg)
{
    rig *r = arg;
    char *m = msg;
    rig_req *q = r->held;
    if (q && ag_http_stream_loop(q->s) == l) {
        if (m[0] == 'w') ag_http_write(q->s, m + 2, strlen(m + 2));
        if (m[0] == 'r') r->held = NULL, rig_ok(q, m + 2);
        if (m[0] == 'e') r->held = NULL, ag_http_end(q->s);
        if (m[0] == 'a') r->held = NULL, ag_http_abort(q->s);
    }
    if (m[0] == 'v' && !l->stopping) r->visits += ag_http_loop_visit(l, r->each, r->after, r);
    free(m);
    rig_note(r, RIG_MESSAGE, 0);
}

static AG_UNUSED void rig_post(rig *r, uint32_t loop, const char *text, bool quiet)
{
    char *m = strdup(text);
    ag_mbox *box = ag_http_loop_mbox(ag_http_server_loop(r->server, loop));
    RIG_UNTIL(quiet ? ag_mbox_post_quiet(box, m) : ag_mbox_post(box, m));
}

static ag_http_conf rig_conf(void)
{
    return (ag_http_conf){
        .host = "127.0.0.1", .loops = 1, .header_bytes_max = 4096, .headers_max = 32, .target_bytes_max = 3000,
        .body_bytes_max = 1 << 20,
        .header_timeout_ms = 20000, .body_timeout_ms = 20000, .idle_timeout_ms = 20000, .write_timeout_ms = 20000,
        .connections_max = 2000, .connections_per_address_max = 2000, .mailbox_cap = 64, .out_bytes_max = 1 << 16,
        .h2_streams_max = 100, .h2_window_bytes = 1 << 18, .h2_connection_window_bytes = 1 << 20,
        .h2_bodies_max = 1 << 30, .tls_handshakes_max = 1000000, .h2_resets_max = 1000, .h2_frames_max = 10000,
    };
}

static void rig_init(rig *r, const ag_http_conf *conf)
{
    *r = (rig){.conf = *conf};
    pthread_mutex_init(&r->lock, NULL);
    pthread_cond_init(&r->changed, NULL);
}

static int rig_try(rig *r)
{
    ag_http_handler h = {.on_head = rig_on_head, .on_body = rig_on_body, .on_end = rig_on_end, .on_gone = rig_on_gone,
                         .done = rig_done, .on_bad = rig_on_bad, .on_message = rig_on_message, .on_turn = r->on_turn,
                         .arg = r};
    ag_err err = {0};
    int rc = ag_http_server_open(&r->server, &r->conf, &h, &err);
    if (rc != AG_OK) return rc;
    rc = ag_http_server_start(r->server, &err);
    if (rc != AG_OK) ag_http_server_close(r->server), r->server = NULL;
    return rc;
}

static AG_UNUSED void rig_start(rig *r, const ag_http_conf *conf)
{
    rig_init(r, conf);
    assert_int_equal(rig_try(r), AG_OK);
    assert_int_not_equal(ag_http_server_port(r->server), 0);
}

static AG_UNUSED void rig_stop(rig *r)
{
    ag_http_server_stop(r->server, 0);
    assert_int_equal(ag_http_server_connections(r->server), 0);
    ag_http_server_close(r->server);
    assert_int_equal(r->n[RIG_HEAD], r->n[RIG_DONE]);
    pthread_mutex_destroy(&r->lock);
    pthread_cond_destroy(&r->changed);
}

static AG_UNUSED uint64_t rig_bads(rig *r, ag_http_bad why) { return ag_http_server_bad_count(r->server, why); }

/* Clients. Newer versions of libuv have the kernel interrupt threads without a signal (io_uring); a call on a socket
 * with a time limit then ends with EINTR, and is made again. */
static int dial_with(uint16_t port, int receive_bytes)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0);
    if (receive_bytes) setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &receive_bytes, sizeof receive_bytes);
    int one = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    struct sockaddr_in sa = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    if (connect(fd, (struct sockaddr *)&sa, sizeof sa) != 0) {
        close(fd);
        return -1;
    }
    struct timeval wait = {.tv_sec = RIG_WAIT_MS / 1000}; /* only now: a connect without it is resumed */
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof wait);
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &wait, sizeof wait);
    return fd;
}

static AG_UNUSED int dial(rig *r)
{
    int fd = dial_with(ag_http_server_port(r->server), 0);
    assert_true(fd >= 0);
    return fd;
}

static bool send_n(int fd, const char *p, size_t n)
{
    while (n) {
        ssize_t k = TEMP_FAILURE_RETRY(send(fd, p, n, MSG_NOSIGNAL));
        if (k <= 0) return false;
        p += k;
        n -= (size_t)k;
    }
    return true;
}

static AG_UNUSED bool send_z(int fd, const char *z) { return send_n(fd, z, strlen(z)); }

typedef struct reply {
    int status;
    bool keep, chunked, whole; /* whole: the end was seen as HTTP says it */
    char head[4096];
    char *body;
    size_t n, cap;
    uint32_t chunks;
} reply;

/* One byte at a time is slow and simple; it never takes bytes of the next reply. -1: end or error. */
static int get_byte(int fd)
{
    unsigned char c;
    return TEMP_FAILURE_RETRY(recv(fd, &c, 1, 0)) == 1 ? c : -1;
}

static bool get_line(int fd, char *to, size_t cap)
{
    size_t n = 0;
    for (int c; (c = get_byte(fd)) >= 0 && n + 1 < cap;) {
        to[n++] = (char)c;
        if (n >= 2 && to[n - 2] == '\r' && c == '\n') {
            to[n - 2] = 0;
            return true;
        }
    }
    to[n] = 0;
    return false;
}

static bool get_n(int fd, reply *a, size_t n)
{
    if (a->n + n + 1 > a->cap) a->body = realloc(a->body, a->cap = 2 * (a->n + n + 1));
    size_t end = a->n + n;
    while (a->n < end) {
        ssize_t k = TEMP_FAILURE_RETRY(recv(fd, a->body + a->n, end - a->n, 0));
        if (k <= 0) break;
        a->n += (size_t)k;
    }
    a->body[a->n] = 0;
    return a->n == end;
}

static AG_UNUSED const char *reply_header(const reply *a, const char *name)
{
    static _Thread_local char value[512];
    for (const char *p = strstr(a->head, "\r\n"); p; p = strstr(p + 2, "\r\n")) {
        if (strncasecmp(p + 2, name, strlen(name)) != 0 || p[2 + strlen(name)] != ':') continue;
        snprintf(value, sizeof value, "%.*s", (int)strcspn(p + 4 + strlen(name), "\r"), p + 4 + strlen(name));
        return value;
    }
    return NULL;
}

static bool get_chunks(int fd, reply *a)
{
    char line[64];
    for (;;) {
        if (!get_line(fd, line, sizeof line)) return false;
        size_t n = strtoul(line, NULL, 16);
        if (n && (!get_n(fd, a, n) || !get_line(fd, line, sizeof line) || line[0])) return false;
        if (n == 0) return get_line(fd, line, sizeof line) && line[0] == 0;
        a->chunks++;
    }
}

/* Reads one reply; status 0: the connection ended before one. */
static AG_UNUSED reply get_reply_to(int fd, bool is_head)
{
    reply a = {.body = calloc(1, 1)};
    char line[1024];
    if (!get_line(fd, line, sizeof line) || sscanf(line, "HTTP/1.1 %d", &a.status) != 1) return a;
    size_t n = (size_t)snprintf(a.head, sizeof a.head, "%s", line);
    for (;;) {
        if (!get_line(fd, line, sizeof line)) return a;
        n += (size_t)snprintf(a.head + n, sizeof a.head - n, "\r\n%s", line);
        if (line[0] == 0) break;
    }
    const char *v = reply_header(&a, "connection");
    a.keep = v == NULL || strcasecmp(v, "close") != 0;
    v = reply_header(&a, "transfer-encoding");
    a.chunked = v && strcmp(v, "chunked") == 0;
    v = reply_header(&a, "content-length");
    assert_false(a.chunked && v);
    if (is_head || a.status == 204 || a.status == 304 || a.status / 100 == 1) a.whole = true;
    else if (a.chunked) a.whole = get_chunks(fd, &a);
    else if (v) a.whole = get_n(fd, &a, strtoul(v, NULL, 10));
    else while (get_n(fd, &a, 1)) {}
    return a;
}

static AG_UNUSED reply get_reply(int fd) { return get_reply_to(fd, false); }

static AG_UNUSED void expect_reply(int fd, int status, const char *body)
{
    reply a = get_reply(fd);
    if (a.status != status || !a.whole || strcmp(a.body, body) != 0)
        fail_msg("status %d, whole %d, body \"%s\"; expected %d \"%s\"", a.status, a.whole, a.body, status, body);
    free(a.body);
}

/* An answer of the room itself: status, reason name, and the connection closes after it. */
static AG_UNUSED void expect_bad(int fd, int status, const char *why)
{
    reply a = get_reply(fd);
    if (a.status != status || !a.whole || a.keep || strncmp(a.body, why, strlen(why)) != 0)
        fail_msg("status %d, whole %d, keep %d, body \"%s\"; expected %d \"%s\"", a.status, a.whole, a.keep, a.body,
                 status, why);
    free(a.body);
    errno = 0;
    assert_int_equal(get_byte(fd), -1);
    assert_int_not_equal(errno, EAGAIN);
}

static AG_UNUSED void expect_closed(int fd)
{
    errno = 0;
    assert_int_equal(get_byte(fd), -1);
    assert_int_not_equal(errno, EAGAIN);
    close(fd);
}

#define RIG_HOST "Host: a\r\n"
#define RIG_GET(path) "GET " path " HTTP/1.1\r\n" RIG_HOST "\r\n"

#endif
