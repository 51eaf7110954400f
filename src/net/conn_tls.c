#include "net/net.h"

/* Sealed at a time: enough for several records, little enough that a large answer is not held twice. */
#define SEAL_BYTES 65536

bool ag__conn_become(ag__conn *c, const ag__proto *p)
{
    void *was = c->state;
    c->state = NULL;
    if (p->open(c) != AG_OK) {
        c->state = was;
        return false;
    }
    void *state = c->state;
    c->state = was;
    c->proto->close(c);
    c->proto = p;
    c->state = state;
    return true;
}

/* A connection is HTTP/1's until its first bytes say otherwise; too few to be a request, so nothing has begun. */
bool ag__conn_take(ag__conn *c, const char *p, size_t n)
{
    static const char begins[] = AG__H2_BEGINS;
    size_t k = 0;
    if (c->known == AG__KNOWN) return c->proto->input(c, p, n);
    while (k < n && begins[c->known] && p[k] == begins[c->known]) c->known++, k++;
    if (begins[c->known]) {
        if (k < n) c->known = AG__KNOWN;
        return c->proto->input(c, p, n);
    }
    c->known = AG__KNOWN;
    return ag__conn_become(c, &ag__h2_proto) && c->proto->input(c, begins, sizeof begins - 1) &&
           (k == n || c->proto->input(c, p + k, n - k));
}

/* The handshake is over: ALPN has said what is spoken; one who said nothing speaks HTTP/1. */
static bool secure(ag__conn *c)
{
    c->secured = true;
    c->known = AG__KNOWN;
    if (ag__tls_is_h2(c->tls)) return ag__conn_become(c, &ag__h2_proto);
    ag__conn_deadline(c, c->loop->server->conf.idle_timeout_ms);
    return true;
}

bool ag__conn_open_sealed(ag__conn *c, const char *p, size_t n)
{
    char *bytes = c->loop->read_bytes; /* where p may lie: put copies */
    if (!ag__tls_put(c->tls, p, n)) return false;
    while (!c->eof && !c->broken) {
        size_t k = 0;
        ag__tls_ev ev = ag__tls_read(c->tls, bytes, AG__READ_BYTES, &k);
        if (!c->secured && ag__tls_ready(c->tls) && !secure(c)) return false;
        switch (ev) {
        case AG__TLS_MORE: return true;
        case AG__TLS_DATA:
            if (!ag__conn_take(c, bytes, k)) return false;
            break;
        case AG__TLS_EOF:
            c->eof = true;
            c->proto->eof(c);
            break;
        case AG__TLS_BAD:
            ag__count_bad(c->loop, AG_HTTP_BAD_TLS);
            ag__conn_seal(c); /* the alert that says why */
            if (c->wire.n && !c->writing) {
                uv_buf_t b = {.base = c->wire.p, .len = c->wire.n};
                uv_try_write((uv_stream_t *)&c->tcp, &b, 1);
            }
            c->broken = true;
            break;
        }
    }
    return true;
}

bool ag__conn_seal(ag__conn *c)
{
    size_t before = ag__conn_pending(c), n = AG_MIN(c->out.n - c->sealed, (size_t)SEAL_BYTES);
    bool ok = true;
    if (n && c->wire.n == 0 && c->secured) {
        ok = ag__tls_write(c->tls, c->out.p + c->sealed, n);
        c->sealed += n;
        if (c->sealed == c->out.n) {
            ag_buf_reset(&c->out);
            if (c->out.cap > AG__KEEP_BYTES) ag_buf_fini(&c->out);
            c->sealed = 0;
        }
    }
    if (!ok || !ag__tls_take(c->tls, &c->wire)) {
        ag__count_bad(c->loop, AG_HTTP_BAD_MEMORY);
        c->broken = true;
        return false;
    }
    c->out_all += ag__conn_pending(c) - before; /* what TLS adds counts as put, so that what was taken only grows */
    return true;
}
