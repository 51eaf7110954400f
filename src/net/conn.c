#include <linux/sockios.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/fault.h"
#include "base/mem.h"
#include "net/net.h"

#define CONN_MAGIC 0x434f4e4eu
/* One read, and what came before it of a proxy's header. */
#define FIRST_BYTES_MAX (AG__READ_BYTES + 2048)

ag__conn *ag__conn_create(ag_http_loop *l, int fd, const struct sockaddr *peer)
{
    ag__conn *c = ag_mem_zalloc(sizeof *c);
    if (c == NULL) return NULL;
    c->magic = CONN_MAGIC;
    c->id = ++l->server->last_id;
    c->loop = l;
    c->proto = &ag__h1_proto;
    c->fd = fd;
    c->refuse = AG_HTTP_BAD_COUNT;
    c->noted = AG_HTTP_STATE_COUNT;
    ag__link_init(&c->all);
    ag__link_init(&c->dirty);
    ag_buf_init(&c->out, AG__OUT_MAX);
    ag_buf_init(&c->flight, AG__OUT_MAX);
    ag_buf_init(&c->wire, AG__OUT_MAX);
    ag_buf_init(&c->first, FIRST_BYTES_MAX);
    ag__ip ip;
    const ag__trust *trust = &l->server->trust;
    bool has_ip = ag__ip_of(peer, &ip);
    if (has_ip) ag__addr_of(&ip, &c->addr, c->peer, sizeof c->peer);
    else memcpy(c->peer, "unix", 5);
    c->proxied = c->trusted = has_ip ? ag__trusts(trust, &ip) : trust->local;
    if (c->trusted) c->addr = (ag__addr){{0}}; /* its clients are counted, as far as it names them */
    return c;
}

static void note(ag__conn *c, ag_http_state now)
{
    _Atomic uint64_t *states = c->loop->states;
    if (c->noted == now) return;
    if (c->noted != AG_HTTP_STATE_COUNT) atomic_fetch_sub_explicit(&states[c->noted], 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&states[now], 1, memory_order_relaxed);
    c->noted = now;
}

void ag__conn_free(ag__conn *c)
{
    AG_CHECK(c, CONN_MAGIC);
    AG_ASSERT(c->handles == 0);
    if (c->noted != AG_HTTP_STATE_COUNT) note(c, AG_HTTP_STATE_CLOSED);
    if (c->state) c->proto->close(c);
    ag__link_cut(&c->all);
    ag__link_cut(&c->dirty);
    if (c->fd >= 0) close(c->fd);
    ag__tls_free(c->tls);
    ag_buf_fini(&c->first);
    ag_buf_fini(&c->wire);
    ag_buf_fini(&c->out);
    ag_buf_fini(&c->flight);
    ag__server_conn_gone(c->loop->server, c);
    c->magic = 0;
    ag_mem_free(c);
}

static void on_closed(uv_handle_t *h)
{
    ag__conn *c = h->data;
    if (--c->handles == 0) ag__conn_free(c);
}

void ag__conn_kill(ag__conn *c)
{
    AG_CHECK(c, CONN_MAGIC);
    if (c->closing) return;
    c->closing = c->broken = true;
    c->proto->gone(c);
    ag__link_cut(&c->dirty);
    uv_close((uv_handle_t *)&c->timer, on_closed);
    if (!c->reset || uv_tcp_close_reset(&c->tcp, on_closed) != 0) uv_close((uv_handle_t *)&c->tcp, on_closed);
}

void ag__conn_dirty(ag__conn *c)
{
    if (!c->closing && ag__link_empty(&c->dirty)) ag__link_add(&c->loop->dirty, &c->dirty);
}

void ag__conn_break(ag__conn *c)
{
    c->broken = true;
    ag__conn_dirty(c);
}

size_t ag__conn_pending(const ag__conn *c)
{
    return c->out.n - c->sealed + c->wire.n +
           (c->writing ? uv_stream_get_write_queue_size((const uv_stream_t *)&c->tcp) : 0);
}

bool ag__conn_put(ag__conn *c, const char *p, size_t n)
{
    if (c->broken) return false;
    if (!ag_buf_add(&c->out, p, n)) {
        ag__count_bad(c->loop, AG_HTTP_BAD_MEMORY);
        ag__conn_break(c);
        return false;
    }
    c->out_all += n;
    ag__conn_dirty(c);
    return true;
}

/* Timers: one uv_timer per connection. Deadlines move often and fire rarely, so a timer that is set too early is left
 * alone, fires, finds nothing due and is set anew. */
static void on_timer(uv_timer_t *t);

static void arm(ag__conn *c)
{
    uint64_t due = c->read_due;
    if (c->write_due && (due == 0 || c->write_due < due)) due = c->write_due;
    if (due == 0 || c->closing || c->handles == 0 || (c->timer_due && c->timer_due <= due)) return;
    uint64_t now = uv_now(&c->loop->uv);
    c->timer_due = due;
    uv_timer_start(&c->timer, on_timer, due > now ? due - now : 0, 0);
}

void ag__conn_deadline(ag__conn *c, uint64_t ms_from_now)
{
    c->read_due = ms_from_now ? uv_now(&c->loop->uv) + ms_from_now : 0;
    arm(c);
}

/* Bytes that the client's side has taken: those that the socket took, less those it still has. */
static uint64_t heard(ag__conn *c)
{
    uv_os_fd_t fd;
    int left = 0;
    if (uv_fileno((uv_handle_t *)&c->tcp, &fd) != 0 || ioctl(fd, SIOCOUTQ, &left) != 0 || left < 0) left = 0;
    return ag__conn_taken(c) - AG_MIN((uint64_t)left, ag__conn_taken(c));
}

static void watch_anew(ag__conn *c)
{
    c->write_mark = ag__conn_taken(c);
    c->heard_mark = heard(c);
    c->write_due = uv_now(&c->loop->uv) + c->loop->server->conf.write_timeout_ms;
}

/* What is unwritten must shrink within every write_timeout_ms; how much does not matter, the kernel's own windows are
 * coarse enough that a client cannot trickle. */
static void watch_writes(ag__conn *c)
{
    if (ag__conn_pending(c) == 0) c->write_due = 0;
    else if (c->write_due == 0 || ag__conn_taken(c) != c->write_mark) watch_anew(c);
}

/* The socket, which may hold megabytes, asks for more only when a third of them has gone: that it took nothing does not
 * mean that the client did not. */
static bool reads_nothing(ag__conn *c) { return ag__conn_taken(c) == c->write_mark && heard(c) == c->heard_mark; }

static void on_timer(uv_timer_t *t)
{
    ag__conn *c = t->data;
    AG_CHECK(c, CONN_MAGIC);
    uint64_t now = uv_now(&c->loop->uv);
    c->timer_due = 0;
    if (c->write_due && now >= c->write_due) {
        if (reads_nothing(c)) {
            ag__count_bad(c->loop, AG_HTTP_BAD_WRITE_TIMEOUT);
            c->broken = true;
        } else {
            watch_anew(c);
        }
    }
    if (!c->broken && c->read_due && now >= c->read_due) {
        c->read_due = 0;
        if (c->tls && !c->secured) {
            ag__count_bad(c->loop, AG_HTTP_BAD_HEADER_TIMEOUT);
            c->broken = true;
        } else {
            c->proto->timeout(c);
        }
    }
    ag__conn_dirty(c);
    ag__loop_leave(c->loop);
}

static void on_written(uv_write_t *w, int status)
{
    ag__conn *c = w->data;
    AG_CHECK(c, CONN_MAGIC);
    c->writing = false;
    if (status < 0) c->broken = true;
    ag_buf_reset(&c->flight);
    if (c->flight.cap > AG__KEEP_BYTES) ag_buf_fini(&c->flight);
    if (c->closing) return;
    ag__conn_dirty(c);
    ag__loop_leave(c->loop);
}

/* One write of everything that waits. What the socket does not take moves to `flight`, which libuv writes when it can;
 * what is added meanwhile collects in `out` for the next write. True: bytes were taken, or it broke. */
static bool write_out(ag__conn *c)
{
    if (c->writing) return false;
    if (c->tls && !ag__conn_seal(c)) return true;
    ag_buf *out = c->tls ? &c->wire : &c->out;
    if (out->n == 0) return false;
    uv_buf_t b = {.base = out->p, .len = out->n};
    int n = ag_fault_hit(AG_FAULT_WRITE) ? UV_EPIPE : uv_try_write((uv_stream_t *)&c->tcp, &b, 1);
    if (n == UV_EAGAIN) n = 0;
    if (n < 0) {
        c->broken = true;
        return true;
    }
    if ((size_t)n == out->n) {
        ag_buf_reset(out);
        if (out->cap > AG__KEEP_BYTES) ag_buf_fini(out);
        return true;
    }
    ag_buf waiting = *out;
    *out = c->flight;
    c->flight = waiting;
    b.base = c->flight.p + n;
    b.len = c->flight.n - (size_t)n;
    c->write.data = c;
    if (uv_write(&c->write, (uv_stream_t *)&c->tcp, &b, 1, on_written) == 0) c->writing = true;
    else c->broken = true;
    return n > 0 || c->broken;
}

static void on_alloc(uv_handle_t *h, size_t want, uv_buf_t *b)
{
    (void)want;
    ag__conn *c = h->data;
    b->base = c->loop->read_bytes; /* one for all: what is read is used or copied before the callback returns */
    b->len = AG_MIN(c->proto->room(c), (size_t)AG__READ_BYTES);
}

static bool take(ag__conn *c, const char *p, size_t n)
{
    return c->tls ? ag__conn_open_sealed(c, p, n) : ag__conn_take(c, p, n);
}

/* The client that a proxy named takes its place, where there is room for one more of its address. */
static void rename_peer(ag__conn *c, const ag__ip *client)
{
    c->trusted = false;
    if (!c->counted) return; /* it is refused already */
    ag__addr_of(client, &c->addr, c->peer, sizeof c->peer);
    if (ag__server_conn_count(c->loop->server, c)) return;
    ag__count_bad(c->loop, AG_HTTP_BAD_CONNECTIONS_PER_ADDRESS);
    c->known = AG__KNOWN;
    if (c->tls) c->broken = true;
    else c->proto->refuse(c, AG_HTTP_BAD_CONNECTIONS_PER_ADDRESS);
}

/* The beginning of a connection from a trusted proxy. */
static bool take_first(ag__conn *c, const char *p, size_t n)
{
    if (!ag_buf_add(&c->first, p, n)) return false;
    size_t used;
    bool named;
    ag__ip client;
    switch (ag__trust_proxied(c->first.p, c->first.n, &used, &named, &client)) {
    case AG__PROXIED_MORE:
        if (c->first.n == n) ag__conn_deadline(c, c->loop->server->conf.header_timeout_ms);
        return true;
    case AG__PROXIED_BAD:
        ag__count_bad(c->loop, AG_HTTP_BAD_PARSE);
        c->broken = true;
        return true;
    case AG__PROXIED_NOT:
    case AG__PROXIED: break;
    }
    c->begun = true;
    if (named) rename_peer(c, &client);
    bool ok = used == c->first.n || take(c, c->first.p + used, c->first.n - used);
    ag_buf_fini(&c->first);
    return ok;
}

static void on_read(uv_stream_t *t, ssize_t n, const uv_buf_t *b)
{
    ag__conn *c = t->data;
    AG_CHECK(c, CONN_MAGIC);
    if (n == 0 || n == UV_ENOBUFS || c->closing) return;
    if (n > 0 && ag_fault_hit(AG_FAULT_READ)) n = UV_ECONNRESET;
    if (n > 0) c->in_all += (uint64_t)n;
    if (n == UV_EOF) {
        c->eof = true;
        c->proto->eof(c);
    } else if (n < 0) {
        c->broken = true;
    } else if (!(c->begun ? take(c, b->base, (size_t)n) : take_first(c, b->base, (size_t)n))) {
        ag__count_bad(c->loop, AG_HTTP_BAD_MEMORY);
        c->broken = true;
    }
    ag__conn_dirty(c);
    ag__loop_leave(c->loop);
}

static void choose_reading(ag__conn *c)
{
    bool want = !c->eof && c->proto->room(c) > 0;
    if (want && !c->reading) {
        if (uv_read_start((uv_stream_t *)&c->tcp, on_alloc, on_read) != 0) ag__conn_break(c);
    } else if (!want && c->reading) {
        uv_read_stop((uv_stream_t *)&c->tcp);
    }
    c->reading = want;
}

void ag__conn_pump(ag__conn *c)
{
    AG_CHECK(c, CONN_MAGIC);
    for (bool moved = true; moved;) {
        if (c->closing) return;
        if (c->broken) {
            ag__conn_kill(c);
            return;
        }
        moved = c->proto->run(c);
        if (!c->broken) moved |= write_out(c);
        moved |= c->broken;
    }
    choose_reading(c);
    watch_writes(c);
    arm(c);
    note(c, c->loop->draining ? AG_HTTP_STATE_DRAINING : c->proto->state(c));
}

bool ag__conn_peer_closed(ag__conn *c)
{
    struct tcp_info info = {0};
    socklen_t n = sizeof info;
    uv_os_fd_t fd;
    if (uv_fileno((uv_handle_t *)&c->tcp, &fd) != 0) return false;
    if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &n) != 0) { /* a Unix socket */
        struct pollfd p = {.fd = fd, .events = POLLRDHUP};
        return poll(&p, 1, 0) == 1;
    }
    return info.tcpi_state == TCP_CLOSE_WAIT || info.tcpi_state == TCP_CLOSE;
}

void ag__conn_shut(ag__conn *c)
{
    uv_os_fd_t fd;
    if (c->tls) { /* everything before was taken, so these few bytes are as well */
        ag__tls_end(c->tls);
        if (ag__tls_take(c->tls, &c->wire) && c->wire.n) {
            uv_buf_t b = {.base = c->wire.p, .len = c->wire.n};
            uv_try_write((uv_stream_t *)&c->tcp, &b, 1);
        }
        ag_buf_reset(&c->wire);
    }
    if (uv_fileno((uv_handle_t *)&c->tcp, &fd) != 0 || shutdown(fd, SHUT_WR) != 0) ag__conn_break(c);
}

bool ag__conn_tell(const ag__conn *c, ag_http_each_fn *each, void *arg)
{
    void *users[AG_HTTP_USERS_MAX];
    if (c->closing) return true;
    uint32_t n = c->proto->users(c, users, AG_ARRAY_LEN(users));
    ag_http_conn_info info = {.id = c->id, .peer = ag_str_of(c->peer), .state = c->noted,
                              .h2 = c->proto == &ag__h2_proto, .tls = c->tls != NULL,
                              .age_ms = uv_now(&c->loop->uv) - c->born_ms,
                              .requests = c->n_requests, .bytes_in = c->in_all, .bytes_out = ag__conn_taken(c),
                              .users = users, .n_users = AG_MIN(n, (uint32_t)AG_ARRAY_LEN(users)), .n_open = n};
    return each(arg, &info);
}

void ag__conn_start(ag__conn *c)
{
    AG_CHECK(c, CONN_MAGIC);
    ag_http_loop *l = c->loop;
    c->born_ms = uv_now(&l->uv);
    if (c->proto->open(c) != AG_OK) {
        ag__count_bad(l, AG_HTTP_BAD_MEMORY);
        goto undo_conn;
    }
    if (uv_tcp_init(&l->uv, &c->tcp) != 0) goto undo_conn;
    uv_timer_init(&l->uv, &c->timer);
    c->tcp.data = c->timer.data = c;
    c->handles = 2;
    ag__link_add(&l->conns, &c->all);
    note(c, AG_HTTP_STATE_NEW);
    if (uv_tcp_open(&c->tcp, c->fd) != 0) {
        ag__conn_kill(c); /* c->fd is still ours and goes with c */
        return;
    }
    c->fd = -1;
    uv_tcp_nodelay(&c->tcp, 1); /* a token must not wait for the acknowledgement of the one before */
    c->begun = !c->trusted;
    if (c->tls) ag__conn_deadline(c, l->server->conf.header_timeout_ms);
    if (c->refuse != AG_HTTP_BAD_COUNT) {
        c->known = AG__KNOWN;
        c->proto->refuse(c, c->refuse);
    }
    ag__conn_dirty(c);
    return;
undo_conn:
    ag__conn_free(c);
}
