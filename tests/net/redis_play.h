/* redis_play.h - for tests of the client of Redis: a client on a loop, and the server, which the test plays byte by
 * byte, in the clear or under TLS. */
#ifndef AG_TESTS_NET_REDIS_PLAY_H
#define AG_TESTS_NET_REDIS_PLAY_H

#include "check.h"

#include <arpa/inet.h>
#include <pthread.h>
#include <sys/socket.h>
#include <unistd.h>

#include <openssl/ssl.h>

#include "base/fault.h"
#include "base/mem.h"
#include "net/net.h"
#include "net/redis.h"

enum { ANSWERS = 16, TEXT = 4096 };

static ag_http_server *server;
static ag_redis *client, *second; /* on one loop; the second in its test alone */
static int listener, line = -1; /* of the server that we play */
static SSL *sealed;             /* over line; NULL: in the clear */
static char heard[1 << 16];
static size_t n_heard;

/* What the loop's thread found out. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static char answers[ANSWERS][64];
static uint32_t n_answers, n_ticks, n_there, n_away, n_refused, n_held, n_gone;
static bool released;
static char why[AG_REDIS_WHY_MAX];

static void until(const uint32_t *n, uint32_t least)
{
    pthread_mutex_lock(&lock);
    while (*n < least) pthread_cond_wait(&changed, &lock); /* in vain: the runner ends us, and says where */
    pthread_mutex_unlock(&lock);
}

static uint32_t count(const uint32_t *n)
{
    pthread_mutex_lock(&lock);
    uint32_t now = *n;
    pthread_mutex_unlock(&lock);
    return now;
}

#define NOTE(what)                                                                                                     \
    do {                                                                                                               \
        pthread_mutex_lock(&lock);                                                                                     \
        what;                                                                                                          \
        pthread_cond_broadcast(&changed);                                                                              \
        pthread_mutex_unlock(&lock);                                                                                   \
    } while (0)

static void on_state(void *arg, bool there, const char *text)
{
    assert_ptr_equal(arg, &client);
    NOTE(*(there ? &n_there : &n_away) += 1; snprintf(why, sizeof why, "%s", text));
}

static void on_tick(void *arg AG_UNUSED) { NOTE(n_ticks++); }

static void on_answer(void *arg, const redisReply *reply)
{
    char text[64];
    if (reply == NULL) snprintf(text, sizeof text, "none");
    else if (reply->type == REDIS_REPLY_INTEGER) snprintf(text, sizeof text, ":%lld", reply->integer);
    else if (reply->type == REDIS_REPLY_ARRAY) snprintf(text, sizeof text, "*%zu", reply->elements);
    else snprintf(text, sizeof text, "%.60s", reply->str);
    NOTE(memcpy(answers[(uintptr_t)arg], text, sizeof text); n_answers++);
}

/* Jobs for the loop. */

typedef struct job {
    const char *word; /* an argument of GET; "script", or "hold", which keeps the loop busy until it is released */
    uintptr_t number;
    ag_redis *client;
} job;

static ag_redis_script script;

static void hold(void)
{
    pthread_mutex_lock(&lock);
    n_held++;
    pthread_cond_broadcast(&changed);
    while (!released) pthread_cond_wait(&changed, &lock);
    pthread_mutex_unlock(&lock);
}

static void on_message(void *arg AG_UNUSED, ag_http_loop *l AG_UNUSED, void *msg)
{
    job *j = msg;
    if (strcmp(j->word, "hold") == 0) {
        hold();
        free(j);
        return;
    }
    ag_str get[] = {AG_STR("GET"), ag_str_of(j->word)}, args[] = {AG_STR("0"), AG_STR("x")};
    void *number = (void *)j->number;
    bool sent = strcmp(j->word, "script") == 0 ? ag_redis_eval(j->client, &script, args, 2, on_answer, number)
                                               : ag_redis_call(j->client, get, 2, on_answer, number);
    free(j);
    if (!sent) NOTE(n_refused++);
}

static void post_to(ag_redis *to, const char *word, uint32_t number)
{
    job *j = malloc(sizeof *j);
    *j = (job){word, number, to};
    while (!ag_mbox_post(ag_http_loop_mbox(ag_http_server_loop(server, 0)), j)) usleep(1000);
}

static void post(const char *word, uint32_t number) { post_to(client, word, number); }

/* Nobody sends requests in these tests. */
static void on_head(void *arg AG_UNUSED, ag_http_stream *s AG_UNUSED, const ag_http_head *h AG_UNUSED,
                    void **user AG_UNUSED) {}
static void on_body(void *user AG_UNUSED, ag_http_stream *s AG_UNUSED, const char *p AG_UNUSED, size_t n AG_UNUSED) {}
static void on_event(void *user AG_UNUSED, ag_http_stream *s AG_UNUSED) {}

static void on_gone(void *arg AG_UNUSED) { NOTE(n_gone++); }

typedef struct play { /* what it is told of us; zeroed: the simplest */
    const char *scheme, *before_host, *host, *behind; /* of the URL */
    uint32_t timeout_ms;
    ag_redis_files files;
    bool two; /* clients */
    bool any; /* the server is at every address of this machine */
} play;

static const char *text_or(const char *text, const char *otherwise) { return text ? text : otherwise; }

static void begin_play(const play *p)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(p->any ? INADDR_ANY : INADDR_LOOPBACK)};
    socklen_t size = sizeof a;
    char url[256];
    ag_err err = {0};
    n_answers = n_ticks = n_there = n_away = n_refused = n_held = n_gone = 0;
    released = false;
    n_heard = 0;
    memset(answers, 0, sizeof answers);
    listener = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(bind(listener, (struct sockaddr *)&a, sizeof a), 0);
    assert_int_equal(listen(listener, 8), 0);
    assert_int_equal(getsockname(listener, (struct sockaddr *)&a, &size), 0);
    snprintf(url, sizeof url, "%s://%s%s:%u%s", text_or(p->scheme, "redis"), text_or(p->before_host, ""),
             text_or(p->host, "localhost"), ntohs(a.sin_port), text_or(p->behind, ""));
    ag_http_conf conf = {.host = "127.0.0.1",
                         .loops = 1,
                         .header_bytes_max = 4096,
                         .headers_max = 32,
                         .target_bytes_max = 4096,
                         .body_bytes_max = 1 << 20,
                         .header_timeout_ms = 20000,
                         .body_timeout_ms = 20000,
                         .idle_timeout_ms = 20000,
                         .write_timeout_ms = 20000,
                         .connections_max = 20,
                         .connections_per_address_max = 20,
                         .mailbox_cap = 64,
                         .out_bytes_max = 1 << 16,
                         .h2_streams_max = 100,
                         .h2_window_bytes = 1 << 18,
                         .h2_connection_window_bytes = 1 << 20,
                         .tls_handshakes_max = 1000,
                         .h2_resets_max = 1000,
                         .h2_frames_max = 10000};
    ag_http_handler h = {.on_head = on_head, .on_body = on_body, .on_end = on_event, .on_gone = on_event,
                         .done = on_event, .on_message = on_message};
    assert_int_equal(ag_http_server_open(&server, &conf, &h, &err), AG_OK);
    ag_redis_conf c = {.timeout_ms = p->timeout_ms ? p->timeout_ms : 20000, .reply_bytes_max = TEXT,
                       .state = on_state, .tick = on_tick, .tick_ms = 5, .gone = on_gone, .arg = &client};
    assert_int_equal(ag_redis_at_parse(&c.at, url, &err), AG_OK);
    if (ag_redis_tls_open(&c.tls, &c.at, &p->files, &err) != AG_OK) fail_msg("%s", err.text);
    assert_int_equal(ag_redis_script_init(&script, AG_STR("return 5")), AG_OK);
    assert_int_equal(ag_redis_open(&client, ag_http_server_loop(server, 0), &c), AG_OK);
    c.at.db = 2;
    if (p->two) assert_int_equal(ag_redis_open(&second, ag_http_server_loop(server, 0), &c), AG_OK);
    ag_redis_tls_close(c.tls); /* they hold it */
    assert_int_equal(ag_http_server_start(server, &err), AG_OK);
}

static void hang_up(void)
{
    SSL_free(sealed);
    sealed = NULL;
    if (line >= 0) close(line);
    line = -1;
}

static void end(void)
{
    ag_http_server_stop(server, 0);
    ag_http_server_close(server);
    hang_up();
    close(listener);
}

static void take(void)
{
    hang_up();
    line = accept(listener, NULL, NULL);
    assert_true(line >= 0);
    n_heard = 0;
}

static void hear(const char *text)
{
    while (memmem(heard, n_heard, text, strlen(text)) == NULL) {
        ssize_t n = sealed ? SSL_read(sealed, heard + n_heard, (int)(sizeof heard - n_heard))
                           : recv(line, heard + n_heard, sizeof heard - n_heard, 0);
        if (n <= 0) fail_msg("the line has ended before '%s' was heard in '%.*s'", text, (int)n_heard, heard);
        n_heard += (size_t)n;
    }
    n_heard = 0;
}

static void say(const char *text)
{
    size_t n = strlen(text);
    assert_int_equal(sealed ? SSL_write(sealed, text, (int)n) : send(line, text, n, MSG_NOSIGNAL), n);
}

#endif
