#include <signal.h>

#include "base/mem.h"
#include "net/net.h"

#define SERVER_MAGIC 0x53525652u

static const char *const bad_names[AG_HTTP_BAD_COUNT] = {
#define AG_HTTP_BAD_ROW(name, text) text,
    AG_HTTP_BADS(AG_HTTP_BAD_ROW)
#undef AG_HTTP_BAD_ROW
};

const char *ag_http_bad_name(ag_http_bad why)
{
    AG_ASSERT(why < AG_HTTP_BAD_COUNT);
    return bad_names[why];
}

static bool given(const char *text) { return text && *text; }

static int open_tls(ag__tls_conf **out, const ag_http_tls *t, ag_err *err)
{
    *out = NULL;
    if (!given(t->certs) && !given(t->keys) && !given(t->client_ca)) return AG_OK;
    if (!given(t->certs) || !given(t->keys))
        return ag_err_set(err, AG_E_USAGE, "TLS needs both a certificate and its key; only one of them is named");
    return ag__tls_conf_open(out, t, err);
}

int ag_http_server_tls(ag_http_server *s, const ag_http_tls *tls, ag_err *err)
{
    AG_CHECK(s, SERVER_MAGIC);
    ag__tls_conf *next, *last;
    int rc = open_tls(&next, tls, err);
    if (rc != AG_OK) return rc;
    uv_mutex_lock(&s->lock);
    bool fits = (next == NULL) == (s->tls == NULL);
    last = fits ? s->tls : next;
    if (fits) s->tls = next;
    uv_mutex_unlock(&s->lock);
    ag__tls_conf_drop(last);
    return fits ? AG_OK : ag_err_set(err, AG_E_USAGE, "a restart is needed to turn TLS on or off");
}

static int check_conf(const ag_http_conf *c, ag_err *err)
{
    const struct { const char *name; uint64_t value, min, max; } rows[] = {
        {"loops", c->loops, 1, 64},
        {"header_bytes_max", c->header_bytes_max, 64, 1 << 24},
        {"headers_max", c->headers_max, 1, 1 << 16},
        {"target_bytes_max", c->target_bytes_max, 1, 1 << 24},
        {"body_bytes_max", c->body_bytes_max, 0, INT64_MAX},
        {"header_timeout_ms", c->header_timeout_ms, 1, UINT32_MAX},
        {"body_timeout_ms", c->body_timeout_ms, 1, UINT32_MAX},
        {"idle_timeout_ms", c->idle_timeout_ms, 1, UINT32_MAX},
        {"write_timeout_ms", c->write_timeout_ms, 1, UINT32_MAX},
        {"connections_max", c->connections_max, 1, 1 << 20},
        {"connections_per_address_max", c->connections_per_address_max, 1, UINT32_MAX},
        {"mailbox_cap", c->mailbox_cap, 1, 1 << 24},
        {"out_bytes_max", c->out_bytes_max, 1, AG__OUT_MAX / 2},
        {"tls_handshakes_max", c->tls_handshakes_max, 1, UINT32_MAX},
        {"h2_bodies_max", c->h2_bodies_max, 0, INT64_MAX},
        {"h2_streams_max", c->h2_streams_max, 1, 1000},
        {"h2_window_bytes", c->h2_window_bytes, 1024, INT32_MAX},
        {"h2_connection_window_bytes", c->h2_connection_window_bytes, 65535, INT32_MAX},
        {"h2_resets_max", c->h2_resets_max, 1, 1000},
        {"h2_frames_max", c->h2_frames_max, 1, 1000000},
    };
    for (size_t i = 0; i < AG_ARRAY_LEN(rows); i++)
        if (rows[i].value < rows[i].min || rows[i].value > rows[i].max)
            return ag_err_set(err, AG_E_USAGE, "%s is %llu, but must be from %llu to %llu", rows[i].name,
                              (unsigned long long)rows[i].value, (unsigned long long)rows[i].min,
                              (unsigned long long)rows[i].max);
    return AG_OK;
}

/* libuv writes with plain write(2). A client that has gone is an error code there, not the end of the process. */
static void ignore_sigpipe(void)
{
    struct sigaction now;
    if (sigaction(SIGPIPE, NULL, &now) == 0 && now.sa_handler == SIG_DFL) signal(SIGPIPE, SIG_IGN);
}

static void free_server(ag_http_server *s)
{
    for (uint32_t i = 0; i < s->n_loops; i++) ag__loop_close(&s->loops[i]);
    ag__addrs_close(s->addrs);
    ag__tls_conf_drop(s->tls);
    uv_cond_destroy(&s->empty);
    uv_mutex_destroy(&s->lock);
    ag_mem_free(s->loops);
    s->magic = 0;
    ag_mem_free(s);
}

int ag_http_server_open(ag_http_server **out, const ag_http_conf *conf, const ag_http_handler *h, ag_err *err)
{
    AG_ASSERT(h->on_head && h->on_body && h->on_end && h->on_gone && h->done && h->on_message);
    int rc = check_conf(conf, err);
    if (rc != AG_OK) return rc;
    ag_http_server *s = ag_mem_zalloc(sizeof *s);
    if (s == NULL) goto out_of_memory;
    s->magic = SERVER_MAGIC;
    s->conf = *conf;
    s->handler = *h;
    s->accept.inet.fd = s->accept.local.fd = -1;
    s->loops = ag_mem_array(conf->loops, sizeof *s->loops);
    if (s->loops == NULL) goto undo_server;
    if (uv_mutex_init(&s->lock) != 0) goto undo_loops;
    if (uv_cond_init(&s->empty) != 0) goto undo_lock;
    s->n_loops = conf->loops;
    rc = ag__addrs_open(&s->addrs, conf->connections_max);
    int said = rc == AG_OK ? ag__trust_parse(&s->trust, conf->trusted_proxies, err) : AG_OK;
    if (said == AG_OK && rc == AG_OK) said = open_tls(&s->tls, &conf->tls, err);
    s->secure = s->tls != NULL;
    if (said != AG_OK) {
        free_server(s);
        return said;
    }
    for (uint32_t i = 0; i < conf->loops && rc == AG_OK; i++) rc = ag__loop_open(&s->loops[i], s, i);
    if (rc == AG_OK) rc = ag__accept_open(s, err);
    if (rc != AG_OK) {
        free_server(s);
        if (rc == AG_E_NOMEM) goto out_of_memory;
        return ag_err_set(err, rc, "the event loops cannot be opened; are there descriptors left?");
    }
    ignore_sigpipe();
    *out = s;
    return AG_OK;
undo_lock: uv_mutex_destroy(&s->lock);
undo_loops: ag_mem_free(s->loops);
undo_server: ag_mem_free(s);
out_of_memory: return ag_err_set(err, AG_E_NOMEM, "no memory for %u event loops", conf->loops);
}

static void wake_all(ag_http_server *s)
{
    for (uint32_t i = 0; i < s->n_loops; i++) uv_async_send(&s->loops[i].wake);
}

static void end_threads(ag_http_server *s)
{
    atomic_store(&s->draining, true);
    atomic_store(&s->stopping, true);
    wake_all(s);
    for (uint32_t i = 0; i < s->n_loops; i++) {
        if (!s->loops[i].has_thread) continue;
        uv_thread_join(&s->loops[i].thread);
        s->loops[i].has_thread = false;
    }
    for (uint32_t i = 0; i < s->n_loops; i++) ag__loop_end_visits(&s->loops[i]);
    s->stopped = true;
}

int ag_http_server_start(ag_http_server *s, ag_err *err)
{
    AG_CHECK(s, SERVER_MAGIC);
    AG_ASSERT(!s->started);
    int rc = ag__accept_start(s);
    /* Loop 0 last: it accepts, and the others must be there to be handed something. */
    for (uint32_t i = s->n_loops; i-- > 0 && rc == AG_OK;) rc = ag__loop_start(&s->loops[i]);
    s->started = true;
    if (rc == AG_OK) return AG_OK;
    end_threads(s);
    return ag_err_set(err, rc, "the event loops cannot be started: no threads or descriptors left");
}

void ag_http_server_drain(ag_http_server *s)
{
    AG_CHECK(s, SERVER_MAGIC);
    if (!s->started || s->stopped) return;
    atomic_store(&s->draining, true);
    wake_all(s);
}

static uint64_t open_now(ag_http_server *s) { return atomic_load(&s->n_conns) + atomic_load(&s->n_refused); }

bool ag__server_conn_count(ag_http_server *s, ag__conn *c)
{
    if (ag__addrs_get(s->addrs, &c->addr, s->conf.connections_per_address_max)) return true;
    c->addr = (ag__addr){{0}};
    return false;
}

void ag__server_conn_gone(ag_http_server *s, ag__conn *c)
{
    if (c->counted) ag__addrs_put(s->addrs, &c->addr);
    atomic_fetch_sub(&c->loop->n_conns, 1);
    uv_mutex_lock(&s->lock);
    atomic_fetch_sub(c->counted ? &s->n_conns : &s->n_refused, 1);
    uv_cond_signal(&s->empty);
    uv_mutex_unlock(&s->lock);
}

void ag_http_server_stop(ag_http_server *s, uint32_t timeout_ms)
{
    AG_CHECK(s, SERVER_MAGIC);
    if (!s->started || s->stopped) return;
    ag_http_server_drain(s);
    uint64_t end = ag_now_us() + (uint64_t)timeout_ms * 1000;
    uv_mutex_lock(&s->lock);
    for (uint64_t now = ag_now_us(); open_now(s) > 0 && now < end; now = ag_now_us())
        uv_cond_timedwait(&s->empty, &s->lock, (end - now) * 1000);
    uv_mutex_unlock(&s->lock);
    end_threads(s);
}

void ag_http_server_close(ag_http_server *s)
{
    if (s == NULL) return;
    AG_CHECK(s, SERVER_MAGIC);
    AG_ASSERT(!s->started || s->stopped);
    ag__accept_close(s); /* a loop that ran has done it */
    free_server(s);
}

uint16_t ag_http_server_port(const ag_http_server *s)
{
    AG_CHECK(s, SERVER_MAGIC);
    return s->port;
}

uint32_t ag_http_server_loops(const ag_http_server *s)
{
    AG_CHECK(s, SERVER_MAGIC);
    return s->n_loops;
}

ag_http_loop *ag_http_server_loop(ag_http_server *s, uint32_t i)
{
    AG_CHECK(s, SERVER_MAGIC);
    AG_ASSERT(i < s->n_loops);
    return &s->loops[i];
}

uint64_t ag_http_server_connections(const ag_http_server *s)
{
    AG_CHECK(s, SERVER_MAGIC);
    return atomic_load(&s->n_conns);
}

uint64_t ag_http_server_in_state(const ag_http_server *s, ag_http_state state)
{
    AG_CHECK(s, SERVER_MAGIC);
    AG_ASSERT(state < AG_HTTP_STATE_COUNT);
    uint64_t n = 0;
    for (uint32_t i = 0; i < s->n_loops; i++)
        n += atomic_load_explicit(&s->loops[i].states[state], memory_order_relaxed);
    return n;
}

uint64_t ag_http_server_bad_count(const ag_http_server *s, ag_http_bad why)
{
    AG_CHECK(s, SERVER_MAGIC);
    AG_ASSERT(why < AG_HTTP_BAD_COUNT);
    return atomic_load_explicit(&s->bad[why], memory_order_relaxed);
}
