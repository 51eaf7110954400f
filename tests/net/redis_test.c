/* The client of Redis against a server that this test plays, in the clear; redis_tls_test.c has it under TLS. */
#include "redis_play.h"

#include <netdb.h>
#include <stdlib.h>

/* In the place of the system's, which may know one address of localhost or two: every name has two. In the tests of one
 * server nobody listens at the first. */
int getaddrinfo(const char *name AG_UNUSED, const char *port, const struct addrinfo *hints AG_UNUSED,
                struct addrinfo **out)
{
    static const in_addr_t addresses[] = {INADDR_LOOPBACK + 1, INADDR_LOOPBACK};
    *out = NULL;
    for (size_t i = AG_ARRAY_LEN(addresses); i-- > 0;) {
        struct addrinfo *one = malloc(sizeof *one);
        struct sockaddr_in *a = malloc(sizeof *a);
        *a = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(port)),
                                  .sin_addr.s_addr = htonl(addresses[i])};
        *one = (struct addrinfo){.ai_family = AF_INET, .ai_socktype = SOCK_STREAM, .ai_addrlen = sizeof *a,
                                 .ai_addr = (struct sockaddr *)a, .ai_next = *out};
        *out = one;
    }
    return 0;
}

void freeaddrinfo(struct addrinfo *list)
{
    for (struct addrinfo *next; list; list = next) {
        next = list->ai_next;
        free(list->ai_addr);
        free(list);
    }
}

static void begin_with(const char *before_host, const char *behind, uint32_t timeout_ms, bool two)
{
    begin_play(&(play){.before_host = before_host, .behind = behind, .timeout_ms = timeout_ms, .two = two});
}

static void begin(const char *before_host, const char *behind, uint32_t timeout_ms)
{
    begin_with(before_host, behind, timeout_ms, false);
}

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
        {"*1\r\n*1\r\n:1\r\n", "Out of memory"}, /* in each other */
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
    assert_int_equal(n_away, 0); /* the name's first address is one where nobody listens */
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

static in_addr_t address_taken(void)
{
    struct sockaddr_in a;
    socklen_t size = sizeof a;
    take();
    assert_int_equal(getsockname(line, (struct sockaddr *)&a, &size), 0);
    return ntohl(a.sin_addr.s_addr);
}

/* Whoever answers at one address of a name may be another one. */
static void each_address_of_a_name_is_greeted(void **state)
{
    (void)state;
    begin_play(&(play){.any = true});
    for (int round = 0; round < 2; round++) {
        assert_int_equal(address_taken(), INADDR_LOOPBACK + 1);
        hear("PING\r\n");
        say("HTTP/1.1 400 Bad Request\r\n");
        assert_int_equal(address_taken(), INADDR_LOOPBACK);
        hear("PING\r\n");
        say(round ? "+PONG\r\n" : "-LOADING\r\n"); /* then the first one again */
    }
    until(&n_there, 1);
    hang_up(); /* one that was there is looked for anew */
    assert_int_equal(address_taken(), INADDR_LOOPBACK + 1);
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
        bool tls;
    } good[] = {
        {"redis://h", "h", 6379, 0, "", "", "", false},
        {"redis://h/", "h", 6379, 0, "", "", "", false},
        {"redis://h:1/15", "h", 1, 15, "", "", "", false},
        {"redis://[::1]:7/2", "::1", 7, 2, "", "", "", false},
        {"redis://[::1]", "::1", 6379, 0, "", "", "", false},
        {"redis://:p%40%2f@h", "h", 6379, 0, "", "", "p@/", false},
        {"redis://u:p@q@h:65535", "h", 65535, 0, "", "u", "p@q", false},
        {"rediss://h", "h", 6379, 0, "", "", "", true},
        {"rediss://u:p@[::1]:6380/4", "::1", 6380, 4, "", "u", "p", true},
        {"unix:///run/redis.sock", "", 0, 0, "/run/redis.sock", "", "", false},
        {"unix:///run/a%20b?db=4", "", 0, 4, "/run/a b", "", "", false},
    };
    static const char *const bad[] = {
        "", "redis", "redis:/h", "redis://", "redis://:1", "redis://h:", "redis://h:0", "redis://h:65536",
        "redis://h:-1",
        "redis://h:1x", "redis://h/x", "redis://h/65536", "redis://h/123456", "redis://@h", "redis://u@h",
        "redis://u:%0@h",
        "redis://u:%zz@h", "redis://u:%00@h", "redis://[::1", "redis://[::1]x", "redis://[]", "rediss://",
        "rediss://h/x", "rediss+sentinel://h/m", "redis-sentinel://h/m", "redis+sentinel://h/m", "http://h",
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
        assert_int_equal(at.tls, good[i].tls);
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
        cmocka_unit_test(each_address_of_a_name_is_greeted),
        cmocka_unit_test(the_end_answers_those_who_wait),
        cmocka_unit_test(no_memory_costs_a_call_or_a_connection),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
