#include "base/mem.h"
#include "net/h1.h"
#include "net/net.h"

/* After the last answer the connection is read on for a while: closing with unread bytes makes the kernel send a reset,
 * which can overtake the answer. A client that is still sending a refused body gets more time and bytes than one that
 * only has to notice. */
#define LINGER_MS 5000
#define LINGER_READ_MS 1000
#define LINGER_BYTES (8u << 20)
/* While nothing is read (a client has pipelined AG__READ_BYTES behind a request that is being answered) its leaving is
 * asked for this often; the kernel answers without a packet. */
#define WATCH_MS 250
/* A body must bring this much within each body_timeout_ms, or end; a byte now and then does not hold a place. */
#define BODY_PACE_BYTES 4096

typedef enum phase {
    IDLE,    /* between requests, nothing of the next one was seen */
    HEAD,    /* some of a head */
    BODY,    /* a stream is open, its body arrives */
    DROP,    /* the user began to answer before the body was read, of which little is left: that is read and dropped */
    ANSWER,  /* it was read whole; the user answers */
    REFUSED, /* answered early as well, and this is the last: all that comes is dropped */
    LAST,    /* the last answer is being written */
    LINGER   /* written, our side is shut */
} phase;

typedef struct h1c {
    ag__h1 parser;
    ag__h1_limits limits;
    phase phase;
    ag_buf in;
    size_t off;                    /* of `in`, used */
    ag_http_stream *open;          /* being read or answered */
    ag_http_stream *ended, *newest; /* handed over, not yet taken by the socket; oldest first */
    uint32_t n_ended;
    uint64_t body_got, body_mark, dropped;
    uint64_t due;                  /* of the phase: ms of the loop's clock, 0: none */
    bool linger_long, asked; /* asked: there was a request */
} h1c;

/* The stream that has been here for longest. */
static ag_http_stream *oldest(const h1c *h) { return h->ended ? h->ended : h->open; }

/* The phase's deadline, or the oldest request's own. */
static void watch(ag__conn *c)
{
    const h1c *h = c->state;
    const ag_http_stream *s = oldest(h);
    uint64_t due = h->due, now = uv_now(&c->loop->uv);
    if (s && s->total_due && (due == 0 || s->total_due < due)) due = s->total_due;
    ag__conn_deadline(c, due == 0 ? 0 : due > now ? due - now : 1);
}

static void allow(ag__conn *c, uint32_t ms)
{
    h1c *h = c->state;
    h->due = ms ? uv_now(&c->loop->uv) + ms : 0;
    watch(c);
}

static void enter(ag__conn *c, phase p)
{
    h1c *h = c->state;
    const ag_http_conf *conf = &c->loop->server->conf;
    uint32_t linger = h->linger_long ? LINGER_MS : LINGER_READ_MS;
    h->phase = p;
    switch (p) {
    case IDLE: allow(c, conf->idle_timeout_ms); break;
    case HEAD: allow(c, conf->header_timeout_ms); break;
    case BODY:
    case DROP: allow(c, conf->body_timeout_ms); break;
    case LINGER: allow(c, AG_MIN(conf->body_timeout_ms, linger)); break;
    case ANSWER:
    case REFUSED:
    case LAST: allow(c, 0); break; /* the user's time, or the write timeout's */
    }
}

static int h1_open(ag__conn *c)
{
    h1c *h = ag_mem_zalloc(sizeof *h);
    if (h == NULL) return AG_E_NOMEM;
    const ag_http_conf *conf = &c->loop->server->conf;
    h->limits = (ag__h1_limits){conf->header_bytes_max, conf->headers_max, conf->body_bytes_max, c->loop->slots};
    ag__h1_init(&h->parser, &h->limits);
    ag_buf_init(&h->in, (size_t)conf->header_bytes_max + 2 * AG__READ_BYTES);
    c->state = h;
    enter(c, IDLE);
    return AG_OK;
}

static void h1_close(ag__conn *c)
{
    h1c *h = c->state;
    AG_ASSERT(h->open == NULL && h->ended == NULL);
    ag_buf_fini(&h->in);
    ag_mem_free(h);
    c->state = NULL;
}

/* The client is slow to read: it gets no further answers until it has read some. */
static bool gated(const ag__conn *c)
{
    const h1c *h = c->state;
    return h->n_ended >= AG__ENDED_MAX || ag__conn_pending(c) > AG__OUT_GATE;
}

static bool may_parse(const ag__conn *c)
{
    const h1c *h = c->state;
    return h->phase == BODY || h->phase == DROP || ((h->phase == IDLE || h->phase == HEAD) && !gated(c));
}

static size_t h1_room(ag__conn *c)
{
    h1c *h = c->state;
    if (h->phase >= REFUSED) return h->dropped <= LINGER_BYTES ? AG__READ_BYTES : 0;
    if (may_parse(c)) return AG__READ_BYTES;
    return h->in.n < AG__READ_BYTES ? AG__READ_BYTES - h->in.n : 0;
}

static bool h1_input(ag__conn *c, const char *p, size_t n)
{
    h1c *h = c->state;
    if (h->phase < REFUSED) return ag_buf_add(&h->in, p, n);
    h->dropped += n;
    if (h->phase == LINGER && h->dropped > LINGER_BYTES) c->broken = true;
    return true;
}

static void drop_input(h1c *h)
{
    ag_buf_fini(&h->in);
    h->off = 0;
}

/* Ends the connection with an answer of ours. head: NULL is that of the open stream, where there is one. */
static void answer_bad(ag__conn *c, const ag_http_head *head, ag_http_bad why, int err, const char *sentence)
{
    h1c *h = c->state;
    ag_http_stream *s = h->open;
    h->open = NULL;
    h->linger_long = true;
    ag__count_bad(c->loop, why);
    enter(c, LAST);
    ag__h1_put_bad(c, head || s == NULL ? head : &s->head, why, err, sentence);
    drop_input(h);
    if (s) ag__stream_gone(s);
}

static void h1_refuse(ag__conn *c, ag_http_bad why)
{
    enter(c, LAST);
    if (why == AG_HTTP_BAD_CONNECTIONS)
        ag__h1_put_bad(c, NULL, why, AG_E_QUEUE_FULL, "every connection that the server takes is in use");
    else
        ag__h1_put_bad(c, NULL, why, AG_E_RATE_LIMIT, "too many connections are open from this address");
}

static void begin_request(ag__conn *c, const char *raw)
{
    h1c *h = c->state;
    const ag_http_handler *handler = &c->loop->server->handler;
    const ag__head *head = &h->parser.head;
    if (head->pub.target.n > c->loop->server->conf.target_bytes_max) {
        answer_bad(c, &head->pub, AG_HTTP_BAD_TARGET_SIZE, AG_E_TARGET_TOO_LONG,
                   "the path and query are longer than the server takes");
        return;
    }
    ag_http_stream *s = ag__stream_create(c, &head->pub, raw, h->parser.head_bytes);
    if (s == NULL) {
        answer_bad(c, &head->pub, AG_HTTP_BAD_MEMORY, AG_E_NOMEM, "there is no memory for this request");
        return;
    }
    bool has_body = head->pub.has_body, expect = head->expect_continue, last = ag__stream_is_last(s);
    s->keep = head->persistent && !last;
    /* One who waits to be asked for the body may leave it out: nobody knows where the next request would begin. */
    s->drop = has_body && !expect && head->pub.content_length > 0 && head->pub.content_length <= AG_HTTP_DROP_BYTES;
    h->open = s;
    h->asked = true;
    h->body_got = h->body_mark = 0;
    enter(c, has_body ? BODY : ANSWER);
    if (!has_body) {
        size_t none;
        ag__h1_ev end = ag__h1_next(&h->parser, NULL, 0, &none);
        AG_ASSERT(end == AG__H1_END);
    }
    handler->on_head(handler->arg, s, &s->head, &s->user);
    if (s->answer != AG__ANSWER_NONE) return;
    if (!has_body) handler->on_end(s->user, s);
    else if (expect && h->off == h->in.n) ag__conn_put(c, "HTTP/1.1 100 Continue\r\n\r\n", 25);
}

/* One event of the parser; false: it needs more bytes. */
static bool step(ag__conn *c)
{
    h1c *h = c->state;
    const ag_http_conf *conf = &c->loop->server->conf;
    const ag_http_handler *handler = &c->loop->server->handler;
    const char *p = h->in.n ? h->in.p + h->off : NULL;
    size_t used;
    ag__h1_ev ev = ag__h1_next(&h->parser, p, h->in.n - h->off, &used);
    h->off += used;
    if (h->phase == BODY || h->phase == DROP) {
        h->body_got += used;
        if (h->body_got - h->body_mark >= BODY_PACE_BYTES) {
            h->body_mark = h->body_got;
            allow(c, conf->body_timeout_ms);
        }
    }
    switch (ev) {
    case AG__H1_MORE:
        if (h->phase == IDLE && h->off < h->in.n) enter(c, HEAD);
        return false;
    case AG__H1_HEAD: begin_request(c, p + used - h->parser.head_bytes); return true;
    case AG__H1_BODY:
        if (h->phase == BODY) handler->on_body(h->open->user, h->open, h->parser.body.p, h->parser.body.n);
        return true;
    case AG__H1_END:
        h->open->read_done = true;
        bool wanted = h->phase == BODY;
        enter(c, ANSWER);
        if (wanted) handler->on_end(h->open->user, h->open);
        return true;
    default:
        answer_bad(c, h->parser.bad.head, h->parser.bad.why, h->parser.bad.err, h->parser.bad.sentence);
        return true;
    }
}

/* The open stream's answer was handed over: its place is free for the next request, or this was the last. */
static void retire(ag__conn *c)
{
    h1c *h = c->state;
    ag_http_stream *s = h->open;
    bool aborted = s->answer == AG__ANSWER_ABORTED;
    h->open = NULL;
    s->out_end = c->out_all;
    if (s->has_timer) uv_timer_stop(&s->timer); /* a deadline has nothing left to say */
    if (h->newest) h->newest->next = s;
    else h->ended = s;
    h->newest = s;
    h->n_ended++;
    c->reset = aborted && !s->chunked; /* without chunks only a reset says that this was not the end */
    if (s->keep && s->read_done && !aborted && !c->loop->draining) {
        enter(c, IDLE);
    } else {
        h->linger_long = !s->read_done;
        enter(c, LAST);
        drop_input(h);
    }
}

static bool settle(ag__conn *c)
{
    h1c *h = c->state;
    bool moved = false;
    while (h->ended && ag__conn_taken(c) >= h->ended->out_end) {
        ag_http_stream *s = h->ended;
        h->ended = s->next;
        if (h->ended == NULL) h->newest = NULL;
        h->n_ended--;
        ag__stream_done(s);
        moved = true;
    }
    if (moved && h->ended == NULL && h->phase == IDLE) enter(c, IDLE); /* idle counts from the written answer */
    else if (moved) watch(c);
    return moved;
}

static void compact(h1c *h)
{
    ag_buf_consume(&h->in, h->off);
    h->off = 0;
    if (h->in.n == 0 && h->in.cap > AG__KEEP_BYTES) ag_buf_fini(&h->in);
}

static void refuse_all(ag__conn *c)
{
    h1c *h = c->state;
    h->open->keep = false;
    enter(c, REFUSED);
    drop_input(h);
}

/* The user began to answer while the body was arriving. */
static void refuse_body(ag__conn *c)
{
    h1c *h = c->state;
    if (h->open->keep && h->open->answer != AG__ANSWER_ABORTED) enter(c, DROP);
    else refuse_all(c);
}

static bool h1_run(ag__conn *c)
{
    h1c *h = c->state;
    bool moved = settle(c);
    if (h->open && h->open->on_writable && ag__conn_pending(c) == 0) {
        void (*fn)(void *, ag_http_stream *) = h->open->on_writable;
        h->open->on_writable = NULL;
        fn(h->open->user, h->open);
        moved = true;
    }
    while (!c->broken && h->phase < LAST) {
        if (h->phase == BODY && h->open->answer != AG__ANSWER_NONE) {
            refuse_body(c);
        } else if (h->phase == DROP && c->loop->draining) {
            refuse_all(c);
        } else if (h->phase != DROP && h->open && h->open->answer >= AG__ANSWER_ENDED) {
            retire(c);
            moved = true;
        } else if (may_parse(c) && step(c)) {
            moved = true;
        } else {
            break;
        }
    }
    compact(h);
    if (h->phase == IDLE && c->loop->draining && h->in.n == 0 && h->ended == NULL) c->broken = true;
    if (h->phase == ANSWER && h->due == 0 && h1_room(c) == 0) allow(c, WATCH_MS);
    if (h->phase == LAST && h->ended == NULL && ag__conn_pending(c) == 0) {
        if (c->reset || c->eof || h->dropped > LINGER_BYTES) {
            c->broken = true;
        } else {
            ag__conn_shut(c);
            enter(c, LINGER);
        }
    }
    return moved;
}

/* A client that shuts its side before the answer is taken for gone: one that merely half-closes looks the same until a
 * write fails, and for a model an unread answer is minutes of work. What was handed over before is still written. */
static void h1_eof(ag__conn *c)
{
    h1c *h = c->state;
    bool owed = h->ended || ag__conn_pending(c);
    if (h->phase == DROP && h->open->answer == AG__ANSWER_ENDED) {
        refuse_all(c);
    } else if (h->open || h->phase == LINGER || (h->phase < LAST && !owed)) {
        c->broken = true;
    } else if (h->phase < LAST) {
        enter(c, LAST);
        drop_input(h);
    }
}

/* The oldest request has had its time, whatever it spent it on. */
static void end_oldest(ag__conn *c)
{
    h1c *h = c->state;
    if (h->ended || h->open->answer != AG__ANSWER_NONE) {
        ag__count_bad(c->loop, AG_HTTP_BAD_TOTAL_TIMEOUT);
        c->broken = c->reset = true; /* the client is not to take what it has for the whole */
    } else {
        answer_bad(c, NULL, AG_HTTP_BAD_TOTAL_TIMEOUT, h->phase == BODY ? AG_E_TIMEOUT_BODY : AG_E_DEADLINE,
                   "the request was not answered within the time that the server gives any");
    }
}

static void h1_timeout(ag__conn *c)
{
    h1c *h = c->state;
    uint64_t now = uv_now(&c->loop->uv);
    if (oldest(h) && oldest(h)->total_due && now >= oldest(h)->total_due) {
        end_oldest(c);
        return;
    }
    if (h->due == 0 || now < h->due) {
        watch(c);
        return;
    }
    h->due = 0;
    switch (h->phase) {
    case IDLE:
        if (h->ended || ag__conn_pending(c)) {
            enter(c, IDLE);
            break;
        }
        ag__count_bad(c->loop, AG_HTTP_BAD_IDLE_TIMEOUT);
        c->broken = true;
        break;
    case HEAD:
        if (gated(c)) { /* we do not look at it now; the write timeout watches this client */
            enter(c, HEAD);
            break;
        }
        answer_bad(c, NULL, AG_HTTP_BAD_HEADER_TIMEOUT, AG_E_TIMEOUT_BODY,
                   "the head of the request did not arrive in time");
        break;
    case BODY:
        answer_bad(c, NULL, AG_HTTP_BAD_BODY_TIMEOUT, AG_E_TIMEOUT_BODY,
                   "the body of the request did not arrive in time");
        break;
    case DROP:
        ag__count_bad(c->loop, AG_HTTP_BAD_BODY_TIMEOUT);
        refuse_all(c);
        break;
    case ANSWER:
        if (ag__conn_peer_closed(c)) c->broken = true;
        watch(c);
        break;
    case LINGER: c->broken = true; break;
    case REFUSED:
    case LAST: break;
    }
}

static void h1_gone(ag__conn *c)
{
    h1c *h = c->state;
    ag_http_stream *s = h->open;
    h->open = NULL;
    if (s) ag__stream_gone(s);
    s = h->ended;
    h->ended = h->newest = NULL;
    h->n_ended = 0;
    ag__streams_gone(s);
}

static ag_http_state h1_state(const ag__conn *c)
{
    const h1c *h = c->state;
    if (h->phase >= LAST) return AG_HTTP_STATE_DRAINING;
    if (h->open) return h->open->answer == AG__ANSWER_BEGUN ? AG_HTTP_STATE_STREAMING : AG_HTTP_STATE_ACTIVE;
    if (h->ended || h->phase != IDLE) return AG_HTTP_STATE_ACTIVE;
    return h->asked ? AG_HTTP_STATE_IDLE : AG_HTTP_STATE_NEW;
}

static uint32_t h1_users(const ag__conn *c, void **out, uint32_t max)
{
    const h1c *h = c->state;
    uint32_t n = 0;
    for (const ag_http_stream *s = h->ended; s; s = s->next)
        if (n++ < max) out[n - 1] = s->user;
    if (h->open && n++ < max) out[n - 1] = h->open->user;
    return n;
}

static size_t h1_pending(ag_http_stream *s) { return ag__conn_pending(s->conn); }

static bool h1_takes(ag_http_stream *s, size_t n)
{
    size_t waits = ag__conn_pending(s->conn);
    return waits == 0 || waits + n <= s->conn->loop->server->conf.out_bytes_max;
}

const ag__proto ag__h1_proto = {
    .open = h1_open,
    .close = h1_close,
    .input = h1_input,
    .run = h1_run,
    .room = h1_room,
    .eof = h1_eof,
    .timeout = h1_timeout,
    .refuse = h1_refuse,
    .gone = h1_gone,
    .answer = ag__h1_answer,
    .data = ag__h1_data,
    .end = ag__h1_end,
    .state = h1_state,
    .pending = h1_pending,
    .takes = h1_takes,
    .users = h1_users,
};
