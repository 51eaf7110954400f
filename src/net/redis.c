#include "net/redis.h"

#include <openssl/evp.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/mem.h"
#include "net/redis_inner.h"

#define REDIS_MAGIC 0x52454449u
#define GREET_MS 1000u /* for connecting, TLS, AUTH, SELECT and the probe together */
#define AGAIN_MIN_MS 100u
#define AGAIN_MAX_MS 5000u

typedef ag__redis_call call;
typedef ag__redis_line line;

int ag_redis_script_init(ag_redis_script *s, ag_str text)
{
    unsigned char sum[20];
    unsigned int n = 0;
    s->text = text;
    if (EVP_Digest(text.p, text.n, sum, &n, EVP_sha1(), NULL) != 1 || n != sizeof sum) return AG_E_NOMEM;
    sodium_bin2hex(s->sha, sizeof s->sha, sum, sizeof sum);
    return AG_OK;
}

/* What is said of a server goes to logs: its own words, cut at what is no text. */
static void take_why(ag_redis *r, const char *why)
{
    size_t n = 0;
    for (; why[n] && n + 1 < sizeof r->why; n++) r->why[n] = why[n] >= ' ' && why[n] <= '~' ? why[n] : '?';
    r->why[n] = 0;
}

/* Calls. */

/* The caller is told, once; an answer that comes later is for nobody. */
static void tell(call *c, const redisReply *reply)
{
    ag_redis_fn *fn = c->fn;
    ag__link_cut(&c->due);
    c->fn = NULL;
    if (fn) fn(c->arg, reply);
}

static void call_free(ag_redis *r, call *c)
{
    AG_ASSERT(c->fn == NULL && r->n_calls > 0);
    r->n_calls--;
    ag_buf_fini(&c->args);
    ag_mem_free(c);
}

static void on_clock(uv_timer_t *t);

static void arm(ag_redis *r)
{
    if (ag__link_empty(&r->waiting) || r->state == AG__REDIS_CLOSED) return;
    const call *c = (const call *)(void *)r->waiting.next;
    uint64_t now = uv_now(&r->loop->uv);
    uv_timer_start(&r->clock, on_clock, c->due_ms > now ? c->due_ms - now : 0, 0);
}

static void add_arg(ag_buf *b, ag_str a)
{
    ag_buf_addf(b, "$%zu\r\n", a.n);
    ag_buf_add(b, a.p, a.n);
    ag_buf_addz(b, "\r\n");
}

/* Behind what waits in the line. false: too much does, or there is no memory. */
static bool put(ag_redis *r, call *c, bool whole)
{
    line *l = r->line;
    size_t before = l->out.n;
    ag_buf_addf(&l->out, "*%u\r\n", c->n_args + (c->script ? 2 : 0));
    if (c->script) {
        add_arg(&l->out, whole ? AG_STR("EVAL") : AG_STR("EVALSHA"));
        add_arg(&l->out, whole ? c->script->text : ag_str_of(c->script->sha));
    }
    ag_buf_add(&l->out, c->args.p, c->args.n);
    if (l->out.failed) {
        l->out.n = before;
        l->out.failed = false;
        return false;
    }
    if (whole) c->script = NULL;
    c->next = NULL;
    if (l->last) l->last->next = c;
    else l->first = c;
    l->last = c;
    ag__redis_line_flush(l);
    return true;
}

static bool ask(ag_redis *r, const ag_redis_script *s, const ag_str *args, uint32_t n, ag_redis_fn *fn, void *arg,
                uint32_t timeout_ms)
{
    if (r->n_calls >= AG_REDIS_CALLS_MAX) return false;
    call *c = ag_mem_zalloc(sizeof *c);
    if (c == NULL) return false;
    *c = (call){.fn = fn, .arg = arg, .script = s, .n_args = n, .due_ms = uv_now(&r->loop->uv) + timeout_ms};
    ag_buf_init(&c->args, AG_REDIS_OUT_BYTES);
    for (uint32_t i = 0; i < n; i++) add_arg(&c->args, args[i]);
    r->n_calls++;
    if (c->args.failed || !put(r, c, false)) {
        ag__link_init(&c->due);
        c->fn = NULL;
        call_free(r, c);
        return false;
    }
    ag__link_add(&r->waiting, &c->due);
    if (r->waiting.next == &c->due) arm(r);
    return true;
}

bool ag_redis_there(const ag_redis *r) { return r && r->state == AG__REDIS_THERE; }

bool ag_redis_call(ag_redis *r, const ag_str *args, uint32_t n, ag_redis_fn *fn, void *arg)
{
    return ag_redis_eval(r, NULL, args, n, fn, arg);
}

bool ag_redis_eval(ag_redis *r, const ag_redis_script *s, const ag_str *args, uint32_t n, ag_redis_fn *fn, void *arg)
{
    AG_CHECK(r, REDIS_MAGIC);
    return r->state == AG__REDIS_THERE && ask(r, s, args, n, fn, arg, r->conf.timeout_ms);
}

/* A failure of the server, as far as one answer can tell. */
static void failed(ag_redis *r, const char *why)
{
    if (++r->fails >= AG_REDIS_FAILS || r->state == AG__REDIS_GREETING) ag__redis_drop(r, why);
}

static void on_look(uv_check_t *check)
{
    ag_redis *r = check->data;
    ag_http_loop *loop = r->loop;
    uv_check_stop(check);
    uv_idle_stop(&r->awake);
    uint64_t now = uv_now(&loop->uv);
    uint32_t late = 0;
    ag__link due; /* those that become due while callers are told wait for the next time */
    ag__link_init(&due);
    while (!ag__link_empty(&r->waiting) && ((call *)(void *)r->waiting.next)->due_ms <= now) {
        ag__link *i = r->waiting.next;
        ag__link_cut(i);
        ag__link_add(&due, i);
        late++;
    }
    while (!ag__link_empty(&due)) tell((call *)(void *)due.next, NULL);
    for (; late && r->line; late--)
        failed(r, ag__redis_line_shakes(r->line) ? "the TLS handshake was not done in time" : "no answer came in time");
    arm(r);
    ag__loop_leave(loop);
}

static void stay_awake(uv_idle_t *i AG_UNUSED) {}

/* An answer that came while this loop did other things is not late: the socket is read once more before anybody is
 * told. */
static void on_clock(uv_timer_t *t)
{
    ag_redis *r = t->data;
    uv_check_start(&r->look, on_look);
    uv_idle_start(&r->awake, stay_awake);
}

/* What a script finds of another kind under its key is that key's trouble; it is ours when nothing works without. */
static bool is_failure(const ag_redis *r, const redisReply *reply)
{
    if (reply->type != REDIS_REPLY_ERROR) return false;
    return r->state == AG__REDIS_GREETING || strstr(reply->str, "WRONGTYPE") == NULL;
}

static bool not_known(const redisReply *reply)
{
    return reply->type == REDIS_REPLY_ERROR && strncmp(reply->str, "NOSCRIPT", 8) == 0;
}

/* What a further try would not change is told in words that say what would. NULL: it is something else. */
static const char *no_server(const ag_redis *r, const redisReply *reply)
{
    static const char *const cluster[] = {"MOVED ", "ASK ", "CROSSSLOT", "CLUSTERDOWN"};
    if (reply->type != REDIS_REPLY_ERROR) return NULL;
    for (size_t i = 0; i < AG_ARRAY_LEN(cluster); i++)
        if (strncmp(reply->str, cluster[i], strlen(cluster[i])) == 0)
            return "it is a node of a Redis Cluster, which is not followed; name a single server";
    if (r->state == AG__REDIS_GREETING && strncmp(reply->str, "ERR unknown command", 19) == 0)
        return "it runs no scripts, as a Redis Sentinel, which is not followed; name the server itself";
    return NULL;
}

bool ag__redis_take_reply(ag_redis *r, line *l, const redisReply *reply)
{
    call *c = l->first;
    if (c == NULL) return false;
    l->first = c->next;
    if (l->first == NULL) l->last = NULL;
    if (c->fn && c->script && not_known(reply) && put(r, c, true)) return true;
    bool waited = c->fn != NULL, bad = waited && is_failure(r, reply);
    const char *never = no_server(r, reply);
    char why[AG_REDIS_WHY_MAX] = "";
    if (never) snprintf(why, sizeof why, "%s (%.40s)", never, reply->str);
    else if (bad) snprintf(why, sizeof why, "%s", reply->str);
    tell(c, reply);
    call_free(r, c);
    if (never && r->line == l) ag__redis_drop(r, why);
    else if (bad && r->line == l) failed(r, why);
    else if (waited && !bad && r->state == AG__REDIS_THERE) r->fails = r->tries = 0;
    return true;
}

/* Connecting. */

static void on_tick(uv_timer_t *t)
{
    ag_redis *r = t->data;
    if (r->state == AG__REDIS_THERE) r->conf.tick(r->conf.arg);
    ag__loop_leave(r->loop);
}

static void on_greeted(void *arg, const redisReply *reply)
{
    ag_redis *r = arg;
    if (reply == NULL || reply->type == REDIS_REPLY_ERROR) return; /* whoever told us gives the line up */
    if (--r->greetings > 0) return;
    r->state = AG__REDIS_THERE;
    r->fails = 0;
    if (r->conf.tick) uv_timer_start(&r->tick, on_tick, r->conf.tick_ms, r->conf.tick_ms);
    r->conf.state(r->conf.arg, true, "");
}

static bool greet(ag_redis *r)
{
    const ag_redis_at *at = &r->conf.at;
    char db[8];
    ag_str auth[3] = {AG_STR("AUTH"), ag_str_of(at->user), ag_str_of(at->password)};
    ag_str choose[2] = {AG_STR("SELECT"), {db, (size_t)snprintf(db, sizeof db, "%u", at->db)}}, ping = AG_STR("PING");
    bool ok = true;
    r->greetings = 1 + (at->password[0] != 0) + (at->db != 0);
    if (at->password[0] && at->user[0]) ok = ask(r, NULL, auth, 3, on_greeted, r, GREET_MS);
    else if (at->password[0])
        ok = ask(r, NULL, (ag_str[]){auth[0], auth[2]}, 2, on_greeted, r, GREET_MS);
    if (ok && at->db) ok = ask(r, NULL, choose, 2, on_greeted, r, GREET_MS);
    if (ok && r->conf.probe == NULL) ok = ask(r, NULL, &ping, 1, on_greeted, r, GREET_MS);
    else if (ok) ok = ask(r, r->conf.probe, r->conf.probe_args, r->conf.n_probe_args, on_greeted, r, GREET_MS);
    return ok;
}

static void give_up(ag_redis *r);
static void connect_next(ag_redis *r);

/* localhost is ::1 as well, where nobody may listen. */
static void connect_failed(ag_redis *r, int status)
{
    give_up(r);
    if (r->next_to < r->n_to) connect_next(r);
    else ag__redis_drop(r, uv_strerror(status));
}

static void on_connected(uv_connect_t *c, int status)
{
    line *l = c->data;
    if (l->r == NULL) return;
    ag_http_loop *loop = l->r->loop;
    if (status == 0) status = ag__redis_line_begin(l);
    if (status < 0) connect_failed(l->r, status);
    ag__loop_leave(loop);
}

static void connect_next(ag_redis *r)
{
    r->state = AG__REDIS_GREETING;
    if ((r->line = ag__redis_line_open(r)) == NULL) {
        ag__redis_drop(r, "no memory for a connection");
        return;
    }
    line *l = r->line;
    int rc = 0;
    if (r->n_to == 0) {
        uv_pipe_connect(&l->connect, &l->uv.pipe, r->conf.at.path, on_connected);
    } else {
        rc = uv_tcp_connect(&l->connect, &l->uv.tcp, (struct sockaddr *)&r->to[r->next_to++], on_connected);
        uv_tcp_nodelay(&l->uv.tcp, 1);
    }
    if (rc < 0) connect_failed(r, rc);
    else if (!greet(r)) ag__redis_drop(r, "no memory for a connection");
}

static void free_when_closed(ag_redis *r)
{
    if (r->handles || r->looking) return;
    AG_ASSERT(r->n_calls == 0);
    r->magic = 0;
    sodium_memzero(&r->conf.at, sizeof r->conf.at);
    ag_redis_tls_close(r->conf.tls);
    ag_mem_free(r);
}

static void on_looked_up(uv_getaddrinfo_t *q, int status, struct addrinfo *list)
{
    ag_redis *r = q->data;
    ag_http_loop *loop = r->loop;
    r->looking = false;
    for (struct addrinfo *i = list; i && r->n_to < AG__REDIS_ADDRESSES_MAX; i = i->ai_next)
        if (i->ai_addrlen <= sizeof r->to[0]) memcpy(&r->to[r->n_to++], i->ai_addr, i->ai_addrlen);
    if (r->state == AG__REDIS_CLOSED) free_when_closed(r);
    else if (status < 0) ag__redis_drop(r, uv_strerror(status));
    else if (r->n_to == 0) ag__redis_drop(r, "the name has no address");
    else connect_next(r);
    uv_freeaddrinfo(list);
    ag__loop_leave(loop);
}

static void on_again(uv_timer_t *t)
{
    ag_redis *r = t->data;
    const ag_redis_at *at = &r->conf.at;
    char port[8];
    snprintf(port, sizeof port, "%u", at->port);
    bool more = r->next_to < r->n_to;
    if (!more) r->n_to = r->next_to = 0;
    if (more || at->host[0] == 0) {
        connect_next(r);
    } else if (uv_ip4_addr(at->host, at->port, (struct sockaddr_in *)&r->to[0]) == 0 ||
               uv_ip6_addr(at->host, at->port, (struct sockaddr_in6 *)&r->to[0]) == 0) {
        r->n_to = 1;
        connect_next(r);
    } else {
        struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM};
        r->state = AG__REDIS_LOOKING;
        r->lookup.data = r;
        int rc = uv_getaddrinfo(&r->loop->uv, &r->lookup, on_looked_up, at->host, port, &hints);
        r->looking = rc == 0;
        if (rc < 0) ag__redis_drop(r, uv_strerror(rc));
    }
    ag__loop_leave(r->loop);
}

/* The line, and with it all answers that are owed. */
static void give_up(ag_redis *r)
{
    line *l = r->line;
    r->line = NULL;
    uv_timer_stop(&r->clock);
    uv_timer_stop(&r->tick);
    uv_check_stop(&r->look);
    uv_idle_stop(&r->awake);
    if (l == NULL) return;
    ag__redis_line_close(l);
    while (l->first) {
        call *c = l->first;
        l->first = c->next;
        tell(c, NULL);
        call_free(r, c);
    }
}

void ag__redis_drop(ag_redis *r, const char *why)
{
    take_why(r, why);
    if (r->state != AG__REDIS_GREETING) r->next_to = r->n_to; /* else the name's next address is tried */
    r->state = AG__REDIS_AWAY;
    r->fails = 0;
    give_up(r);
    uint32_t ms = AG_MIN(AGAIN_MIN_MS << AG_MIN(r->tries, 6u), AGAIN_MAX_MS);
    r->tries++;
    /* Many gateways that lost one server do not come back all at once. */
    uv_timer_start(&r->again, on_again, ms - ms / 4 + randombytes_uniform(ms / 2), 0);
    r->conf.state(r->conf.arg, false, r->why);
}

static void on_alarm(uv_timer_t *t)
{
    ag_redis *r = t->data;
    r->conf.alarm(r->conf.arg);
    ag__loop_leave(r->loop);
}

void ag_redis_alarm(ag_redis *r, uint32_t ms)
{
    AG_CHECK(r, REDIS_MAGIC);
    uv_timer_start(&r->alarm, on_alarm, ms, 0);
}

#define HANDLES(r)                                                                                                     \
    {                                                                                                                  \
        (uv_handle_t *)&(r)->clock, (uv_handle_t *)&(r)->again, (uv_handle_t *)&(r)->tick, (uv_handle_t *)&(r)->alarm, \
            (uv_handle_t *)&(r)->look, (uv_handle_t *)&(r)->awake, (uv_handle_t *)&(r)->flush                          \
    }

int ag_redis_open(ag_redis **out, ag_http_loop *l, const ag_redis_conf *conf)
{
    AG_ASSERT(conf->state && conf->at.tls == (conf->tls != NULL));
    ag_redis *r = ag_mem_zalloc(sizeof *r);
    if (r == NULL) return AG_E_NOMEM;
    *r = (ag_redis){.magic = REDIS_MAGIC, .loop = l, .next = l->redis, .conf = *conf};
    if (conf->tls) ag__tls_conf_hold(conf->tls);
    ag__link_init(&r->waiting);
    uv_timer_init(&l->uv, &r->clock);
    uv_timer_init(&l->uv, &r->again);
    uv_timer_init(&l->uv, &r->tick);
    uv_timer_init(&l->uv, &r->alarm);
    uv_check_init(&l->uv, &r->look);
    uv_idle_init(&l->uv, &r->awake);
    uv_prepare_init(&l->uv, &r->flush);
    uv_handle_t *all[] = HANDLES(r);
    for (size_t i = 0; i < AG_ARRAY_LEN(all); i++) {
        all[i]->data = r;
        uv_unref(all[i]); /* connections of clients keep a loop running, this does not */
    }
    r->handles = (int)AG_ARRAY_LEN(all);
    uv_timer_start(&r->again, on_again, 0, 0);
    *out = l->redis = r;
    return AG_OK;
}

static void on_closed(uv_handle_t *h)
{
    ag_redis *r = h->data;
    r->handles--;
    free_when_closed(r);
}

void ag__redis_stop(ag_http_loop *l)
{
    for (ag_redis *r; (r = l->redis) != NULL;) {
        AG_CHECK(r, REDIS_MAGIC);
        l->redis = r->next;
        r->state = AG__REDIS_CLOSED;
        give_up(r);
        if (r->looking) uv_cancel((uv_req_t *)&r->lookup);
        uv_handle_t *all[] = HANDLES(r);
        for (size_t i = 0; i < AG_ARRAY_LEN(all); i++) uv_close(all[i], on_closed);
        if (r->conf.gone) r->conf.gone(r->conf.arg);
    }
}
