/* redis_line.c - the connection beneath a client of Redis: bytes to answers, and commands to bytes. */
#include "base/mem.h"
#include "net/redis_inner.h"

/* Sealed at a time: enough for several records; together with what TLS has to say it stays below the wire's bound. */
#define SEAL_BYTES 65536u

#if HIREDIS_MAJOR >= 1
typedef size_t items;
#else
typedef int items;
#endif

/* hiredis would allocate what a number from outside says, and frees arrays in an array by calling itself; nothing that
 * is asked for here has any. */
static void *array_create(const redisReadTask *task, items n)
{
    const ag__redis_line *l = task->privdata;
    return task->parent == NULL && (size_t)n <= AG_REDIS_ITEMS_MAX ? l->plain->createArray(task, n) : NULL;
}

/* In. */

static void take_bytes(ag_redis *r, ag__redis_line *l, const char *p, size_t n)
{
    l->taken += n;
    if (redisReaderFeed(l->reader, p, n) != REDIS_OK) ag__redis_drop(r, "no memory for its answer");
    while (l->r) {
        void *reply = NULL;
        if (redisReaderGetReply(l->reader, &reply) != REDIS_OK) {
            ag__redis_drop(r, l->reader->errstr);
        } else if (reply == NULL) {
            if (l->taken > r->conf.reply_bytes_max) ag__redis_drop(r, "its answer is too large");
            break;
        } else if (!ag__redis_take_reply(r, l, reply)) {
            ag__redis_drop(r, "it answered what nobody had asked");
        }
        l->taken = 0;
        if (reply) l->plain->freeObject(reply);
    }
}

static void drop_broken(ag_redis *r, ag__redis_line *l)
{
    char why[AG_REDIS_WHY_MAX];
    ag_buf alert; /* by which it knows why too */
    ag__tls_why(l->tls, why, sizeof why);
    ag_buf_init(&alert, AG__REDIS_SEALED_BYTES);
    if (ag__tls_take(l->tls, &alert) && alert.n) {
        uv_buf_t b = uv_buf_init(alert.p, (unsigned)alert.n);
        uv_try_write(&l->uv.stream, &b, 1);
    }
    ag_buf_fini(&alert);
    ag__redis_drop(r, why);
}

/* What lies sealed in the session. */
static void take_sealed(ag_redis *r, ag__redis_line *l)
{
    for (bool more = true; more && l->r;) {
        size_t n = 0;
        switch (ag__tls_read(l->tls, l->bytes, sizeof l->bytes, &n)) {
        case AG__TLS_MORE: more = false; break;
        case AG__TLS_DATA: take_bytes(r, l, l->bytes, n); break;
        case AG__TLS_EOF: ag__redis_drop(r, "the connection was closed"); break;
        case AG__TLS_BAD: drop_broken(r, l); break;
        }
    }
    if (l->r == NULL) return;
    if (ag__tls_waits(l->tls) > SEAL_BYTES / 2) ag__redis_drop(r, "it has TLS say more than it takes");
    else ag__redis_line_flush(l);
}

static void on_alloc(uv_handle_t *h, size_t want AG_UNUSED, uv_buf_t *buf)
{
    ag__redis_line *l = h->data;
    *buf = uv_buf_init(l->bytes, sizeof l->bytes);
}

static void on_read(uv_stream_t *s, ssize_t n, const uv_buf_t *buf)
{
    ag__redis_line *l = s->data;
    ag_redis *r = l->r;
    if (r == NULL || n == 0) return;
    ag_http_loop *loop = r->loop;
    if (n == UV_EOF)
        ag__redis_drop(r, ag__redis_line_shakes(l) ? "the connection was closed amid the TLS handshake"
                                                   : "the connection was closed");
    else if (n < 0) ag__redis_drop(r, uv_strerror((int)n));
    else if (l->tls == NULL) take_bytes(r, l, buf->base, (size_t)n);
    else if (!ag__tls_put(l->tls, buf->base, (size_t)n)) ag__redis_drop(r, "no memory for its answer");
    else take_sealed(r, l);
    ag__loop_leave(loop);
}

/* Out. */

/* The next piece of what is in flight, behind what TLS itself has to say. false: no memory, or the session broke. */
static bool seal(ag__redis_line *l)
{
    size_t n = ag__tls_ready(l->tls) ? AG_MIN(l->flight.n - l->sealed, (size_t)SEAL_BYTES) : 0;
    ag_buf_reset(&l->wire);
    if (n && !ag__tls_write(l->tls, l->flight.p + l->sealed, n)) return false;
    l->sealed += n;
    return ag__tls_take(l->tls, &l->wire);
}

static void on_written(uv_write_t *w, int status)
{
    ag__redis_line *l = w->data;
    l->writing = false;
    if (l->r == NULL) return;
    ag_http_loop *loop = l->r->loop;
    if (status < 0) ag__redis_drop(l->r, uv_strerror(status));
    else ag__redis_line_flush(l);
    ag__loop_leave(loop);
}

/* false: no memory. */
static bool send_next(ag__redis_line *l)
{
    if (l->sealed == l->flight.n) {
        ag_buf now = l->out;
        l->out = l->flight;
        ag_buf_reset(&l->out);
        l->flight = now;
        l->sealed = 0;
    }
    if (l->tls && !seal(l)) return false;
    if (l->tls == NULL) l->sealed = l->flight.n;
    const ag_buf *now = l->tls ? &l->wire : &l->flight;
    if (now->n == 0) return true;
    uv_buf_t b = uv_buf_init(now->p, (unsigned)now->n);
    l->writing = true;
    l->write.data = l;
    int rc = uv_write(&l->write, &l->uv.stream, &b, 1, on_written);
    if (rc == 0) return true;
    l->writing = false;
    ag__redis_drop(l->r, uv_strerror(rc));
    return true;
}

static void on_flush(uv_prepare_t *p)
{
    ag_redis *r = p->data;
    ag__redis_line *l = r->line;
    uv_prepare_stop(p);
    if (l == NULL || l->writing || !l->connected) return;
    if (!send_next(l)) ag__redis_drop(r, "no memory for a command");
    if (r->line == NULL) ag__loop_leave(r->loop);
}

void ag__redis_line_flush(ag__redis_line *l)
{
    bool waits = l->out.n || l->sealed < l->flight.n || (l->tls && ag__tls_waits(l->tls));
    if (waits) uv_prepare_start(&l->r->flush, on_flush);
}

void ag__redis_flush(ag_http_loop *l)
{
    for (ag_redis *r = l->redis; r; r = r->next)
        if (uv_is_active((uv_handle_t *)&r->flush)) on_flush(&r->flush);
}

/* Begin and end. */

ag__redis_line *ag__redis_line_open(ag_redis *r)
{
    const ag_redis_at *at = &r->conf.at;
    ag__redis_line *l = ag_mem_zalloc(sizeof *l);
    if (l == NULL) return NULL;
    if (at->tls) l->tls = ag__tls_create_client(r->conf.tls, at->host);
    if ((at->tls && l->tls == NULL) || (l->reader = redisReaderCreate()) == NULL) {
        ag__tls_free(l->tls);
        ag_mem_free(l);
        return NULL;
    }
    bool local = at->host[0] == 0;
    int rc = local ? uv_pipe_init(&r->loop->uv, &l->uv.pipe, 0) : uv_tcp_init(&r->loop->uv, &l->uv.tcp);
    AG_ASSERT(rc == 0); /* neither opens anything yet */
    l->plain = l->reader->fn;
    l->own = *l->plain;
    l->own.createArray = array_create;
    l->reader->fn = &l->own;
    l->reader->privdata = l;
    l->r = r;
    l->uv.handle.data = l->connect.data = l;
    ag_buf_init(&l->out, AG_REDIS_OUT_BYTES);
    ag_buf_init(&l->flight, AG_REDIS_OUT_BYTES);
    ag_buf_init(&l->wire, AG__REDIS_SEALED_BYTES);
    uv_unref(&l->uv.handle);
    return l;
}

int ag__redis_line_begin(ag__redis_line *l)
{
    int rc = uv_read_start(&l->uv.stream, on_alloc, on_read);
    if (rc < 0) return rc;
    l->connected = true;
    if (l->tls) take_sealed(l->r, l); /* which has it say its hello */
    else ag__redis_line_flush(l);
    return 0;
}

bool ag__redis_line_shakes(const ag__redis_line *l) { return l->connected && l->tls && !ag__tls_ready(l->tls); }

static void on_closed(uv_handle_t *h)
{
    ag__redis_line *l = h->data;
    redisReaderFree(l->reader);
    ag__tls_free(l->tls);
    ag_buf_fini(&l->out);
    ag_buf_fini(&l->flight);
    ag_buf_fini(&l->wire);
    ag_mem_free(l);
}

void ag__redis_line_close(ag__redis_line *l)
{
    l->r = NULL;
    uv_close(&l->uv.handle, on_closed);
}
