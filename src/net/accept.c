#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/fault.h"
#include "base/mem.h"
#include "net/net.h"

/* One socket, accepted from on loop 0, which hands each connection to the loop that has fewest. Not a socket per loop
 * with SO_REUSEPORT: the kernel would deal connections out by hash, which is uneven for the few long ones that a model
 * server has; and a second server started on the same port by mistake would quietly get half of the clients instead of
 * an error. Accepting costs microseconds a connection. */

#define BACKLOG 1024
#define ACCEPTS_AT_ONCE 64
/* Without descriptors or memory the socket stays readable and the loop would spin; the clients wait in the kernel. */
#define PAUSE_MS 100
/* Connections over a limit that are told so at the same time; beyond that they are just closed. */
#define REFUSED_MAX 64

static int listen_on(int family, int protocol, const struct sockaddr *sa, socklen_t n)
{
    int one = 1;
    int fd = socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, protocol);
    if (fd < 0) return -1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(fd, sa, n) == 0 && listen(fd, BACKLOG) == 0) return fd;
    int e = errno;
    close(fd);
    errno = e;
    return -1;
}

static uint16_t port_of(int fd)
{
    struct sockaddr_storage sa;
    socklen_t n = sizeof sa;
    if (getsockname(fd, (struct sockaddr *)&sa, &n) != 0) return 0;
    if (sa.ss_family == AF_INET6) return ntohs(((struct sockaddr_in6 *)&sa)->sin6_port);
    return ntohs(((struct sockaddr_in *)&sa)->sin_port);
}

static int open_inet(ag_http_server *s, ag_err *err)
{
    char port[8];
    int *fd = &s->accept.inet.fd;
    snprintf(port, sizeof port, "%u", s->conf.port);
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICSERV}, *all;
    int rc = getaddrinfo(s->conf.host, port, &hints, &all);
    if (rc != 0)
        return ag_err_set(err, AG_E_USAGE, "host %s cannot be listened on: %s", s->conf.host, gai_strerror(rc));
    for (struct addrinfo *a = all; a && *fd < 0; a = a->ai_next)
        *fd = listen_on(a->ai_family, a->ai_protocol, a->ai_addr, a->ai_addrlen);
    int e = errno;
    freeaddrinfo(all);
    if (*fd < 0)
        return ag_err_set(err, AG_E_IO, "cannot listen on %s port %u: %s; another --port or --host may be free",
                          s->conf.host, s->conf.port, strerror(e));
    s->port = port_of(*fd);
    return AG_OK;
}

/* What a server that did not end well left behind: a socket that nobody answers. */
static bool is_left_over(const struct sockaddr_un *sa)
{
    struct stat st;
    if (lstat(sa->sun_path, &st) != 0 || !S_ISSOCK(st.st_mode)) return false;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    bool refused = fd >= 0 && connect(fd, (const struct sockaddr *)sa, sizeof *sa) != 0 && errno == ECONNREFUSED;
    if (fd >= 0) close(fd);
    return refused;
}

static int open_local(ag_http_server *s, ag_err *err)
{
    const char *path = s->conf.unix_path;
    struct sockaddr_un sa = {.sun_family = AF_UNIX};
    if (path == NULL || *path == 0) return AG_OK;
    if (strlen(path) >= sizeof sa.sun_path)
        return ag_err_set(err, AG_E_USAGE, "the path of the Unix socket is longer than %zu bytes: %.200s",
                          sizeof sa.sun_path - 1, path);
    memcpy(sa.sun_path, path, strlen(path));
    if (is_left_over(&sa)) unlink(path);
    s->accept.local.fd = listen_on(AF_UNIX, 0, (struct sockaddr *)&sa, sizeof sa);
    if (s->accept.local.fd < 0)
        return ag_err_set(err, AG_E_IO, "cannot listen on the Unix socket %s: %s", path, strerror(errno));
    memcpy(s->accept.path, path, strlen(path));
    return AG_OK;
}

int ag__accept_open(ag_http_server *s, ag_err *err)
{
    s->accept.inet.server = s->accept.local.server = s;
    int rc = open_inet(s, err);
    if (rc == AG_OK) rc = open_local(s, err);
    if (rc != AG_OK) ag__accept_close(s);
    return rc;
}

static ag_http_loop *choose_loop(ag_http_server *s)
{
    ag_http_loop *best = NULL;
    uint32_t best_n = 0;
    for (uint32_t i = 0; i < s->n_loops; i++) {
        ag_http_loop *l = &s->loops[(s->next_loop + i) % s->n_loops];
        uint32_t n = atomic_load_explicit(&l->n_conns, memory_order_relaxed);
        if (best == NULL || n < best_n) best = l, best_n = n;
    }
    s->next_loop = (best->index + 1) % s->n_loops;
    return best;
}

/* NULL: too many handshakes, or no memory; counted. Whether there is TLS at all never changes. */
static ag__tls *begin_tls(ag_http_server *s)
{
    ag_http_loop *here = &s->loops[0];
    time_t now = (time_t)(ag_now_us() / 1000000);
    if (now != s->tls_second) s->tls_begun = 0;
    s->tls_second = now;
    if (s->tls_begun == s->conf.tls_handshakes_max) {
        ag__count_bad(here, AG_HTTP_BAD_TLS_HANDSHAKES);
        return NULL;
    }
    s->tls_begun++;
    uv_mutex_lock(&s->lock);
    ag__tls_conf *conf = ag__tls_conf_hold(s->tls);
    uv_mutex_unlock(&s->lock);
    ag__tls *t = ag__tls_create(conf);
    ag__tls_conf_drop(conf);
    if (t == NULL) ag__count_bad(here, AG_HTTP_BAD_MEMORY);
    return t;
}

static void take(ag_http_server *s, int fd, const struct sockaddr *peer)
{
    ag_http_loop *here = &s->loops[0], *l = choose_loop(s);
    ag__tls *tls = NULL;
    if (s->secure && (tls = begin_tls(s)) == NULL) {
        close(fd);
        return;
    }
    ag__conn *c = ag__conn_create(l, fd, peer);
    if (c == NULL) {
        ag__count_bad(here, AG_HTTP_BAD_MEMORY);
        ag__tls_free(tls);
        close(fd);
        return;
    }
    c->tls = tls;
    if (atomic_load(&s->n_conns) >= s->conf.connections_max) c->refuse = AG_HTTP_BAD_CONNECTIONS;
    else if (ag__server_conn_count(s, c)) c->counted = true;
    else c->refuse = AG_HTTP_BAD_CONNECTIONS_PER_ADDRESS;

    atomic_fetch_add(c->counted ? &s->n_conns : &s->n_refused, 1);
    atomic_fetch_add(&l->n_conns, 1);
    if (!c->counted) ag__count_bad(here, c->refuse);
    /* Before a handshake there is nothing to say it in. */
    if (!c->counted && (c->tls || atomic_load(&s->n_refused) > REFUSED_MAX)) ag__conn_free(c);
    else if (l == here) ag__conn_start(c);
    else if (!ag_mbox_post(l->handoff, c)) ag__conn_free(c);
}

static void on_readable(uv_poll_t *p, int status, int events);

static void on_pause_over(uv_timer_t *t)
{
    ag__accept *a = &((ag_http_server *)t->data)->accept;
    if (a->closed) return;
    uv_poll_start(&a->inet.poll, UV_READABLE, on_readable);
    if (a->local.has_poll) uv_poll_start(&a->local.poll, UV_READABLE, on_readable);
}

static void on_readable(uv_poll_t *p, int status, int events)
{
    ag__listener *from = p->data;
    ag_http_server *s = from->server;
    (void)status; /* an error shows again in accept4 */
    (void)events;
    for (int i = 0; i < ACCEPTS_AT_ONCE; i++) {
        struct sockaddr_storage peer = {0};
        socklen_t n = sizeof peer;
        int fd = -1;
        if (ag_fault_hit(AG_FAULT_OPEN)) errno = EMFILE;
        else fd = accept4(from->fd, (struct sockaddr *)&peer, &n, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd >= 0) {
            take(s, fd, (struct sockaddr *)&peer);
        } else if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
            uv_poll_stop(p);
            uv_timer_start(&s->accept.pause, on_pause_over, PAUSE_MS, 0);
            break;
        } else if (errno == EAGAIN) {
            break;
        } /* else that one connection failed before it was taken; there may be others behind it */
    }
    ag__loop_leave(&s->loops[0]);
}

static int start(uv_loop_t *uv, ag__listener *l)
{
    if (l->fd < 0) return AG_OK;
    l->poll.data = l;
    if (uv_poll_init(uv, &l->poll, l->fd) != 0) return AG_E_IO;
    l->has_poll = true;
    return uv_poll_start(&l->poll, UV_READABLE, on_readable) == 0 ? AG_OK : AG_E_IO;
}

int ag__accept_start(ag_http_server *s)
{
    ag__accept *a = &s->accept;
    uv_loop_t *uv = &s->loops[0].uv;
    a->pause.data = s;
    uv_timer_init(uv, &a->pause);
    a->has_pause = true;
    int rc = start(uv, &a->inet);
    return rc == AG_OK ? start(uv, &a->local) : rc;
}

static void close_fd(ag__listener *l)
{
    if (l->fd >= 0) close(l->fd);
    l->fd = -1;
}

static void on_poll_closed(uv_handle_t *h) { close_fd(h->data); }

void ag__accept_close(ag_http_server *s)
{
    ag__accept *a = &s->accept;
    ag__listener *both[] = {&a->inet, &a->local};
    if (a->closed) return;
    a->closed = true;
    if (a->path[0]) unlink(a->path);
    for (size_t i = 0; i < AG_ARRAY_LEN(both); i++) {
        if (both[i]->has_poll) uv_close((uv_handle_t *)&both[i]->poll, on_poll_closed);
        else close_fd(both[i]);
    }
    if (a->has_pause) uv_close((uv_handle_t *)&a->pause, NULL);
}
