/* The client of Redis against a server that this test plays, byte by byte. */
#include "check.h"

#include <arpa/inet.h>
#include <pthread.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/fault.h"
#include "base/mem.h"
#include "net/net.h"
#include "net/redis.h"

enum { ANSWERS = 16, TEXT = 4096 };

static ag_http_server *server;
static ag_redis *client, *second; /* on one loop; the second in its test alone */
static int listener, line = -1; /* of the server that we play */
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

static void begin_with(const char *before_host, const char *behind, uint32_t timeout_ms, bool two)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
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
    snprintf(url, sizeof url, "redis://%slocalhost:%u%s", before_host, ntohs(a.sin_port), behind);
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
    ag_redis_conf c = {.timeout_ms = timeout_ms, .reply_bytes_max = TEXT, .state = on_state, .tick = on_tick,
                       .tick_ms = 5, .gone = on_gone, .arg = &client};
    assert_int_equal(ag_redis_at_parse(&c.at, url, &err), AG_OK);
    assert_int_equal(ag_redis_script_init(&script, AG_STR("return 5")), AG_OK);
    assert_int_equal(ag_redis_open(&client, ag_http_server_loop(server, 0), &c), AG_OK);
    c.at.db = 2;
    if (two) assert_int_equal(ag_redis_open(&second, ag_http_server_loop(server, 0), &c), AG_OK);
    assert_int_equal(ag_http_server_start(server, &err), AG_OK);
}

static void begin(const char *before_host, const char *behind, uint32_t timeout_ms)
{
    begin_with(before_host, behind, timeout_ms, false);
}

static void end(void)
{
    ag_http_server_stop(server, 0);
    ag_http_server_close(server);
    if (line >= 0) close(line);
    close(listener);
    line = -1;
}

static void take(void)
{
    if (line >= 0) close(line);
    line = accept(listener, NULL, NULL);
    assert_true(line >= 0);
    n_heard = 0;
}

static void hear(const char *text)
{
    while (memmem(heard, n_heard, text, strlen(text)) == NULL) {
        ssize_t n = recv(line, heard + n_heard, sizeof heard - n_heard, 0);
        if (n <= 0) fail_msg("the line has ended before '%s' was heard in '%.*s'", text, (int)n_heard, heard);
        n_heard += (size_t)n;
    }
    n_heard = 0;
}

static void say(const char *text) { assert_int_equal(send(line, text, strlen(text), MSG_NOSIGNAL), strlen(text)); }

static void greet(void)
{
    uint32_t before = n_there;
    take();
    hear("PING\r\n");
    say("+PONG\r\n");
    until(&n_there, before + 1);
}

static void commands_are_answered_in_their_order(void **state)
{
    (void)state;
    begin("me:a%20b@", "/3", 20000);
    take();
    hear("*3\r\n$4\r\nAUTH\r\n$2\r\nme\r\n$3\r\na b\r\n*2\r\n$6\r\nSELECT\r\n$1\r\n3\r\n*1\r\n$4\r\nPING\r\n");
    say("+OK\r\n+OK\r\n+PO");
    say("NG\r\n");
    until(&n_there, 1);
    until(&n_ticks, 3);
    post("a", 0);
    post("b", 1);
    post("script", 2);
    hear("EVALSHA");
    say("$1\r\nA\r\n*2\r\n:1\r\n:2\r\n-NOSCRIPT No matching script\r\n");
    hear("*4\r\n$4\r\nEVAL\r\n$8\r\nreturn 5\r\n$1\r\n0\r\n$1\r\nx\r\n");
    say(":5\r\n");
    until(&n_answers, 3);
    assert_string_equal(answers[0], "A");
    assert_string_equal(answers[1], "*2");
    assert_string_equal(answers[2], ":5");
    end();
}

static void an_answer_that_is_late_is_for_nobody(void **state)
{
    (void)state;
    begin("", "", 30);
    greet();
    post("a", 0);
    hear("$1\r\na\r\n");
    until(&n_answers, 1);
    assert_string_equal(answers[0], "none");
    post("b", 1);
    hear("$1\r\nb\r\n");
    say("+late\r\n+next\r\n");
    until(&n_answers, 2);
    if (strcmp(answers[1], "none") != 0) assert_string_equal(answers[1], "next"); /* on a busy machine it is late too */
    /* Three without an answer, one after another: no further one is sent. */
    for (uint32_t away = n_away; count(&n_away) == away; usleep(1000)) post("c", 2);
    assert_string_equal(why, "no answer came in time");
    uint32_t refused = count(&n_refused);
    post("d", 0);
    until(&n_refused, refused + 1);
    greet(); /* it comes back by itself */
    end();
}

static void what_came_while_the_loop_was_busy_is_not_late(void **state)
{
    (void)state;
    enum { TIMEOUT_MS = 200 };
    begin("", "", TIMEOUT_MS);
    greet();
    post("a", 0);
    hear("$1\r\na\r\n");
    post("hold", 0);
    until(&n_held, 1);
    bool late = count(&n_answers) > 0; /* on a busy machine, before the loop was held */
    say("+soon\r\n");
    usleep((TIMEOUT_MS + 50) * 1000);
    NOTE(released = true);
    until(&n_answers, 1);
    assert_string_equal(answers[0], late ? "none" : "soon");
    end();
}

static void a_loop_has_several_clients(void **state)
{
    (void)state;
    int lines[2] = {-1, -1};
    begin_with("", "", 20000, true);
    for (int i = 0; i < 2; i++) {
        line = -1;
        take();
        memset(heard, 0, sizeof heard);
        hear("PING\r\n");
        bool of_second = strstr(heard, "SELECT") != NULL;
        lines[of_second] = line;
        say(of_second ? "+OK\r\n+PONG\r\n" : "+PONG\r\n");
    }
    assert_true(lines[0] >= 0 && lines[1] >= 0);
    until(&n_there, 2);
    post_to(client, "a", 0);
    post_to(second, "b", 1);
    line = lines[1];
    hear("$1\r\nb\r\n");
    say("+B\r\n");
    until(&n_answers, 1); /* the other's is owed still */
    line = lines[0];
    hear("$1\r\na\r\n");
    say("+A\r\n");
    until(&n_answers, 2);
    assert_string_equal(answers[0], "A");
    assert_string_equal(answers[1], "B");
    /* One that is lost takes nothing of the other's with it. */
    post_to(second, "b", 1);
    line = lines[1];
    hear("$1\r\nb\r\n");
    close(lines[0]);
    until(&n_away, 1);
    say("+still\r\n");
    until(&n_answers, 3);
    assert_string_equal(answers[1], "still");
    /* The end answers both's, and takes both. */
    line = -1;
    greet();
    post_to(client, "a", 0);
    post_to(second, "b", 1);
    hear("$1\r\na\r\n");
    end();
    assert_int_equal(n_answers, 5);
    assert_int_equal(n_gone, 2);
    assert_string_equal(answers[0], "none");
    assert_string_equal(answers[1], "none");
    close(lines[1]);
}

static void nonsense_ends_the_connection_and_nothing_else(void **state)
{
    (void)state;
    static const struct {
        const char *text, *why;
    } cases[] = {
        {":1\r\n:1\r\n", "it answered what nobody had asked"}, /* the second one */
        {"hello\r\n", "Protocol error"},
        {"*999999999\r\n", "Out of memory"},
        {"*-7\r\n", ""},
        {"$-7\r\n", ""},
        {"$9999999999999999999\r\n", ""},
    };
    begin("", "", 20000);
    for (uint32_t i = 0; i < AG_ARRAY_LEN(cases); i++) {
        uint32_t away = n_away, answered = n_answers + 1;
        greet();
        post("well", 0);
        hear("well\r\n");
        say("+OK\r\n"); /* so that the next try comes soon */
        until(&n_answers, answered);
        post("a", 0);
        hear("$1\r\na\r\n");
        say(cases[i].text);
        until(&n_away, away + 1);
        until(&n_answers, answered + 1);
        pthread_mutex_lock(&lock);
        if (strstr(why, cases[i].why) == NULL) fail_msg("case %u: '%s'", i, why);
        pthread_mutex_unlock(&lock);
    }
    /* Errors of the server, three on end. */
    uint32_t away = n_away;
    greet();
    for (uint32_t i = 0; i < AG_REDIS_FAILS; i++) {
        uint32_t answered = n_answers;
        post("a", 0);
        hear("$1\r\na\r\n");
        say("-LOADING Redis is loading the dataset in memory\r\n");
        until(&n_answers, answered + 1);
    }
    until(&n_away, away + 1);
    assert_string_equal(why, "LOADING Redis is loading the dataset in memory");
    /* An answer that does not end. */
    away = n_away;
    greet();
    post("a", 0);
    hear("$1\r\na\r\n");
    char big[TEXT + 100];
    memset(big, 'x', sizeof big - 1);
    big[sizeof big - 1] = 0;
    say("$536870912\r\n");
    say(big);
    until(&n_away, away + 1);
    assert_string_equal(why, "its answer is too large");
    end();
}

static void a_greeting_that_fails_is_told_and_tried_again(void **state)
{
    (void)state;
    begin("", "/9", 20000);
    take();
    hear("PING\r\n");
    assert_int_equal(n_away, 0); /* localhost is ::1 as well, where nobody listens */
    say("-ERR DB index is out of range\r\n+PONG\r\n");
    until(&n_away, 1);
    assert_string_equal(why, "ERR DB index is out of range");
    assert_int_equal(n_there, 0);
    take();
    hear("PING\r\n");
    say("+OK\r\n+PONG\r\n");
    until(&n_there, 1);
    end();
}

static void the_end_answers_those_who_wait(void **state)
{
    (void)state;
    begin("", "", 20000);
    greet();
    post("a", 0);
    hear("$1\r\na\r\n");
    end();
    assert_int_equal(n_answers, 1);
    assert_string_equal(answers[0], "none");
    begin("", "", 20000); /* while it is greeted */
    take();
    hear("PING\r\n");
    end();
    begin("", "", 20000); /* and before */
    end();
}

static void no_memory_costs_a_call_or_a_connection(void **state)
{
    (void)state;
#ifdef AG_FAULTS
    begin("", "", 20000);
    greet();
    bool fired = true;
    for (uint32_t n = 1; fired && n < 100; n++) {
        uint32_t refused = n_refused, answered = n_answers;
        ag_fault_arm(AG_FAULT_ALLOC, n);
        post("a", 0);
        pthread_mutex_lock(&lock);
        while (n_refused == refused && n_answers == answered) {
            pthread_mutex_unlock(&lock);
            struct timeval soon = {0, 1000};
            setsockopt(line, SOL_SOCKET, SO_RCVTIMEO, &soon, sizeof soon);
            if (recv(line, heard, sizeof heard, 0) > 0) say("+x\r\n");
            pthread_mutex_lock(&lock);
        }
        pthread_mutex_unlock(&lock);
        fired = ag_fault_disarm(AG_FAULT_ALLOC);
    }
    assert_false(fired);
    end();
#endif
}

static void urls(void **state)
{
    (void)state;
    static const struct {
        const char *url, *host;
        uint16_t port;
        uint32_t db;
        const char *path, *user, *password;
    } good[] = {
        {"redis://h", "h", 6379, 0, "", "", ""},
        {"redis://h/", "h", 6379, 0, "", "", ""},
        {"redis://h:1/15", "h", 1, 15, "", "", ""},
        {"redis://[::1]:7/2", "::1", 7, 2, "", "", ""},
        {"redis://[::1]", "::1", 6379, 0, "", "", ""},
        {"redis://:p%40%2f@h", "h", 6379, 0, "", "", "p@/"},
        {"redis://u:p@q@h:65535", "h", 65535, 0, "", "u", "p@q"},
        {"unix:///run/redis.sock", "", 0, 0, "/run/redis.sock", "", ""},
        {"unix:///run/a%20b?db=4", "", 0, 4, "/run/a b", "", ""},
    };
    static const char *const bad[] = {
        "", "redis", "redis:/h", "redis://", "redis://:1", "redis://h:", "redis://h:0", "redis://h:65536",
        "redis://h:-1",
        "redis://h:1x", "redis://h/x", "redis://h/65536", "redis://h/123456", "redis://@h", "redis://u@h",
        "redis://u:%0@h",
        "redis://u:%zz@h", "redis://u:%00@h", "redis://[::1", "redis://[::1]x", "redis://[]", "rediss://h", "http://h",
        "unix://", "unix://x", "unix:///p?db=", "unix:///p?x=1", "unix:///p?db=1x", "unix:///p?db=99999999999"};
    ag_redis_at at;
    ag_err err = {0};
    for (size_t i = 0; i < AG_ARRAY_LEN(good); i++) {
        if (ag_redis_at_parse(&at, good[i].url, &err) != AG_OK) fail_msg("%s: %s", good[i].url, err.text);
        assert_string_equal(at.host, good[i].host);
        assert_int_equal(at.port, good[i].port);
        assert_int_equal(at.db, good[i].db);
        assert_string_equal(at.path, good[i].path);
        assert_string_equal(at.user, good[i].user);
        assert_string_equal(at.password, good[i].password);
    }
    for (size_t i = 0; i < AG_ARRAY_LEN(bad); i++) {
        err = (ag_err){0};
        if (ag_redis_at_parse(&at, bad[i], &err) != AG_E_USAGE) fail_msg("'%s' was taken", bad[i]);
        assert_non_null(strstr(err.text, "wanted is redis://"));
    }
    char large[1000];
    memset(large, 'x', sizeof large - 1);
    large[sizeof large - 1] = 0;
    memcpy(large, "redis://", 8);
    assert_int_equal(ag_redis_at_parse(&at, large, &err), AG_E_USAGE);
    memcpy(large, "unix:///", 8);
    assert_int_equal(ag_redis_at_parse(&at, large, &err), AG_E_USAGE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(urls),
        cmocka_unit_test(commands_are_answered_in_their_order),
        cmocka_unit_test(an_answer_that_is_late_is_for_nobody),
        cmocka_unit_test(what_came_while_the_loop_was_busy_is_not_late),
        cmocka_unit_test(a_loop_has_several_clients),
        cmocka_unit_test(nonsense_ends_the_connection_and_nothing_else),
        cmocka_unit_test(a_greeting_that_fails_is_told_and_tried_again),
        cmocka_unit_test(the_end_answers_those_who_wait),
        cmocka_unit_test(no_memory_costs_a_call_or_a_connection),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
