/* redis.h - one connection to a Redis server on one event loop: commands go out as they are asked for, many in one
 * write, and their answers come back in that order.
 * Owns    : the connection and the commands that wait. A loop closes its clients when it stops.
 * Threads : open before the loop's thread starts; everything else, and every call back, on the loop.
 * Limits  : AG_REDIS_CALLS_MAX commands without an answer, AG_REDIS_OUT_BYTES of them unsent, AG_REDIS_ITEMS_MAX items
 *           in an array of an answer, and reply_bytes_max in all.
 * Errors  : whoever asked gets NULL when there is no answer within timeout_ms, or when the connection ends; never
 *           later, and only once. A server that answers late, or what is no answer, costs nobody more than that. What
 *           has come while the loop was busy is not late. A Redis Cluster or Sentinel is away, and state says why.
 * TLS     : by rediss://, and the server's certificate is always verified, by authorities, date and host. Connecting
 *           includes the handshake: what goes wrong there is away, and state says why.
 * Breaker : after AG_REDIS_FAILS failures on end (no answer in time, or an error that is the server's: LOADING,
 *           READONLY, OOM, ...) or when the connection ends it is away: calls are refused at once. It is tried again
 *           after 0.1 s, 0.2 s ... 5 s, and is there when AUTH, SELECT and the probe have succeeded.
 * Why own : hiredis reads the answers; its own connection aborts the process on an answer that nobody asked for, and
 *           looks names up while everybody waits. Here libuv's workers do; a resolver that hangs delays the loop's
 *           end. */
#ifndef AG_REDIS_H
#define AG_REDIS_H

#include <hiredis/hiredis.h>

#include "net/http.h"

#define AG_REDIS_CALLS_MAX 8192
#define AG_REDIS_OUT_BYTES (8u << 20)
#define AG_REDIS_ITEMS_MAX 128
#define AG_REDIS_FAILS 3
#define AG_REDIS_WHY_MAX 160

typedef struct ag_redis ag_redis;

typedef struct ag_redis_at { /* where a URL points */
    char host[256]; /* "": a Unix socket */
    uint16_t port;
    bool tls;
    char path[108];
    uint32_t db;
    char user[129], password[513];
} ag_redis_at;

/* redis://[USER:PASSWORD@]HOST[:PORT][/DB], rediss://... for TLS, or unix://PATH[?db=N]. Sentences do not repeat what
 * may be a password. */
int ag_redis_at_parse(ag_redis_at *out, const char *url, ag_err *err);
/* In place of the URL's: a password, or the first line of a file. NULL and "": none. AG_E_USAGE, AG_E_IO. */
int ag_redis_at_password(ag_redis_at *at, const char *password, const char *file, ag_err *err);

/* Files of PEM: authorities that vouch for the server (else the system's do), and what is shown to it where it asks.
 * NULL and "": none. */
typedef struct ag_redis_files { const char *ca, *cert, *key; } ag_redis_files;
typedef struct ag__tls_conf ag_redis_tls; /* what was read of them; shared by count with the clients that it is given */
/* NULL where `at` is without TLS; then the files are not looked at. AG_E_USAGE, AG_E_NOMEM. */
int ag_redis_tls_open(ag_redis_tls **out, const ag_redis_at *at, const ag_redis_files *files, ag_err *err);
void ag_redis_tls_close(ag_redis_tls *t); /* NULL is fine */

typedef struct ag_redis_script {
    ag_str text; /* the caller's; outlives the clients that run it */
    char sha[41];
} ag_redis_script;
int ag_redis_script_init(ag_redis_script *s, ag_str text); /* AG_E_NOMEM */

/* NULL: none came. `reply` is read only while this runs. */
typedef void ag_redis_fn(void *arg, const redisReply *reply);

typedef struct ag_redis_conf {
    ag_redis_at at;
    ag_redis_tls *tls; /* of `at` */
    uint32_t timeout_ms;
    size_t reply_bytes_max;
    /* Run after each connecting, without keys: what does not succeed here would not later. NULL: PING. */
    const ag_redis_script *probe;
    const ag_str *probe_args; /* as of ag_redis_eval; the caller's, as is script */
    uint32_t n_probe_args;
    /* It is there; or it is not, and why: also after each try that failed. */
    void (*state)(void *arg, bool there, const char *why);
    void (*tick)(void *arg); /* every tick_ms while it is there; NULL: never */
    uint32_t tick_ms;
    void (*alarm)(void *arg); /* of ag_redis_alarm; NULL where that is not used */
    void (*gone)(void *arg);  /* the loop ends, all were answered, and it is used no more; NULL: nobody */
    void *arg;
} ag_redis_conf;

int ag_redis_open(ag_redis **out, ag_http_loop *l, const ag_redis_conf *conf); /* AG_E_NOMEM; then begins to connect */
bool ag_redis_there(const ag_redis *r);
/* false: it is away, or too much waits; then nothing is called. */
bool ag_redis_call(ag_redis *r, const ag_str *args, uint32_t n, ag_redis_fn *fn, void *arg);
/* By its hash, and whole where the server does not know it. args: the number of keys, the keys, the arguments. */
bool ag_redis_eval(ag_redis *r, const ag_redis_script *s, const ag_str *args, uint32_t n, ag_redis_fn *fn, void *arg);
/* conf.alarm in so many ms, there or not; in place of the last one that did not come yet. */
void ag_redis_alarm(ag_redis *r, uint32_t ms);

#endif
