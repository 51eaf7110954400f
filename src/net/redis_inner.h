/* redis_inner.h - what the client of Redis (redis.c: calls, connecting, the breaker) and its connection (redis_line.c:
 * bytes, in the clear or under TLS) know of each other.
 * Owns    : a client has one line while it is greeted or there; a line that was given up lives until libuv has closed
 *           it, and does nothing more.
 * Threads : the loop.
 * Limits  : of a line AG_REDIS_OUT_BYTES that wait, as many in flight, and AG__REDIS_SEALED_BYTES of them sealed. */
#ifndef AG_NET_REDIS_INNER_H
#define AG_NET_REDIS_INNER_H

#include "net/net.h"
#include "net/redis.h"

#define AG__REDIS_ADDRESSES_MAX 8 /* of a name that are tried */
#define AG__REDIS_READ_BYTES 16384
#define AG__REDIS_SEALED_BYTES (128u << 10)

typedef enum ag__redis_state {
    AG__REDIS_AWAY,
    AG__REDIS_LOOKING,
    AG__REDIS_GREETING,
    AG__REDIS_THERE,
    AG__REDIS_CLOSED
} ag__redis_state;

typedef struct ag__redis_call {
    ag__link due;                /* among those that wait; alone: told already */
    struct ag__redis_call *next; /* in the order of the answers */
    ag_redis_fn *fn;
    void *arg;
    uint64_t due_ms;
    const ag_redis_script *script; /* sent by its hash; NULL: no script, or sent whole */
    uint32_t n_args;
    ag_buf args; /* as they go out, without the script */
} ag__redis_call;

typedef struct ag__redis_line { /* a connection; lives on until libuv has closed it */
    union {
        uv_handle_t handle;
        uv_stream_t stream;
        uv_tcp_t tcp;
        uv_pipe_t pipe;
    } uv;
    ag_redis *r; /* NULL: it was given up */
    uv_connect_t connect;
    uv_write_t write;
    redisReader *reader;
    redisReplyObjectFunctions own; /* hiredis's, with one of ours */
    const redisReplyObjectFunctions *plain;
    ag__tls *tls; /* NULL: in the clear */
    size_t taken; /* bytes of the answer that is being read */
    ag_buf out, flight, wire; /* what waits; what goes out; with TLS: a piece of that, sealed */
    size_t sealed;            /* of `flight` */
    bool connected, writing;
    ag__redis_call *first, *last;
    char bytes[AG__REDIS_READ_BYTES];
} ag__redis_line;

struct ag_redis {
    uint32_t magic;
    ag_http_loop *loop;
    ag_redis *next; /* on the loop */
    ag_redis_conf conf;
    ag__redis_state state;
    ag__redis_line *line; /* while GREETING or THERE */
    uv_timer_t clock, again, tick, alarm;
    uv_check_t look;    /* after the loop has waited, when a call is late; */
    uv_idle_t awake;    /* then it waits for nothing */
    uv_prepare_t flush; /* runs before the loop waits, when something is to be sent */
    uv_getaddrinfo_t lookup;
    bool looking;
    struct sockaddr_storage to[AG__REDIS_ADDRESSES_MAX];
    uint32_t n_to, next_to; /* n_to 0: the Unix socket */
    int handles;            /* that libuv has not closed yet */
    ag__link waiting;       /* in the order of their ends */
    uint32_t n_calls, fails, tries, greetings;
    char why[AG_REDIS_WHY_MAX];
};

/* redis.c */
void ag__redis_drop(ag_redis *r, const char *why); /* it is away; the line, and what it owes, is given up */
/* The answer to the first call of the line. false: nobody asked. */
bool ag__redis_take_reply(ag_redis *r, ag__redis_line *l, const redisReply *reply);

/* redis_line.c */
ag__redis_line *ag__redis_line_open(ag_redis *r); /* not connected yet; NULL: no memory */
int ag__redis_line_begin(ag__redis_line *l);      /* connected: reads, and sends what waits; libuv's errors */
bool ag__redis_line_shakes(const ag__redis_line *l); /* connected, but TLS has not agreed yet */
void ag__redis_line_close(ag__redis_line *l);
void ag__redis_line_flush(ag__redis_line *l);     /* before the loop waits */

#endif
