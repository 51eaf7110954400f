/* Coming and going: clients that leave, draining, stopping, other threads, and every failure in turn. */
#include "rig.h"

static void test_client_leaves(void **state)
{
    (void)state;
    static const char *const ins[] = {
        RIG_GET("/hold"), RIG_GET("/holdstream"), "POST /echo HTTP/1.1\r\n" RIG_HOST "Content-Length: 9\r\n\r\nabc",
        RIG_GET("/flood?100000000"),
    };
    rig r;
    ag_http_conf conf = rig_conf();
    rig_start(&r, &conf);
    for (uint64_t how = 0; how < 3; how++) {
        for (uint64_t i = 0; i < AG_ARRAY_LEN(ins); i++) {
            uint64_t k = how * AG_ARRAY_LEN(ins) + i + 1;
            int fd = dial(&r);
            send_z(fd, ins[i]);
            rig_wait(&r, RIG_HEAD, k);
            struct linger reset = {1, 0};
            if (how == 1) setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
            if (how == 2) shutdown(fd, SHUT_WR);
            else close(fd);
            rig_wait(&r, RIG_GONE, k);
            rig_wait(&r, RIG_DONE, k);
            if (how == 2) close(fd);
        }
    }
    assert_int_equal(rig_count(&r, RIG_GONE), rig_count(&r, RIG_DONE));
    RIG_UNTIL(ag_http_server_connections(r.server) == 0);
    rig_stop(&r);
}

/* Requests that were answered at once are answered even if the client has shut its side right behind them. */
static void test_half_close_after_answered(void **state)
{
    (void)state;
    rig r;
    ag_http_conf conf = rig_conf();
    rig_start(&r, &conf);
    int fd = dial(&r);
    send_z(fd, RIG_GET("/hello") RIG_GET("/stream"));
    shutdown(fd, SHUT_WR);
    expect_reply(fd, 200, "hello");
    expect_reply(fd, 200, "onetwothree");
    expect_closed(fd);
    assert_int_equal(rig_count(&r, RIG_GONE), 0);
    rig_stop(&r);
}

static void test_drain(void **state)
{
    (void)state;
    rig r;
    ag_http_conf conf = rig_conf();
    rig_start(&r, &conf);
    int idle = dial(&r), streaming = dial(&r), waiting = dial(&r);
    send_z(idle, RIG_GET("/hello"));
    expect_reply(idle, 200, "hello");
    send_z(streaming, RIG_GET("/holdstream"));
    rig_wait(&r, RIG_END, 2);
    send_z(waiting, "POST /echo HTTP/1.1\r\n" RIG_HOST "Content-Length: 2\r\n\r\no");
    rig_wait(&r, RIG_BODY, 1);
    ag_http_server_drain(r.server);
    expect_closed(idle);
    RIG_UNTIL(dial_with(ag_http_server_port(r.server), 0) < 0);
    rig_post(&r, 0, "w:second", false);
    rig_post(&r, 0, "e", false);
    reply a = get_reply(streaming);
    assert_true(a.whole);
    assert_string_equal(a.body, "firstsecond");
    free(a.body);
    expect_closed(streaming);
    send_z(waiting, "k");
    a = get_reply(waiting);
    assert_true(a.whole && !a.keep);
    assert_string_equal(a.body, "ok");
    free(a.body);
    expect_closed(waiting);
    ag_http_server_stop(r.server, RIG_WAIT_MS); /* returns as soon as all are closed */
    assert_int_equal(rig_count(&r, RIG_GONE), 0);
    rig_stop(&r);
}

static void test_stop(void **state)
{
    (void)state;
    rig r;
    ag_http_conf conf = rig_conf();
    rig_start(&r, &conf);
    int a = dial(&r), b = dial(&r), c = dial(&r);
    send_z(a, RIG_GET("/holdstream"));
    send_z(b, RIG_GET("/hold"));
    send_z(c, RIG_GET("/work"));
    rig_wait(&r, RIG_END, 3);
    ag_http_server_stop(r.server, 50);
    assert_int_equal(rig_count(&r, RIG_DONE), 3);
    assert_true(rig_count(&r, RIG_GONE) >= 2);
    ag_http_server_stop(r.server, 50); /* again: nothing */
    ag_http_server_drain(r.server);
    rig_post(&r, 0, "n", false); /* a poster that is late: the message is handed over by close */
    ag_http_server_close(r.server);
    assert_int_equal(rig_count(&r, RIG_MESSAGE), 1);
    close(a), close(b), close(c);
    pthread_mutex_destroy(&r.lock);
    pthread_cond_destroy(&r.changed);
}

static void test_never_started(void **state)
{
    (void)state;
    rig r;
    ag_http_conf conf = rig_conf();
    conf.loops = 3;
    rig_init(&r, &conf);
    ag_http_handler h = {.on_head = rig_on_head, .on_body = rig_on_body, .on_end = rig_on_end, .on_gone = rig_on_gone,
                         .done = rig_done, .on_message = rig_on_message, .arg = &r};
    assert_int_equal(ag_http_server_open(&r.server, &conf, &h, NULL), AG_OK);
    assert_int_equal(ag_http_server_loops(r.server), 3);
    assert_int_equal(ag_http_loop_index(ag_http_server_loop(r.server, 2)), 2);
    rig_post(&r, 1, "n", false);
    ag_http_server_stop(r.server, 0);
    ag_http_server_close(r.server);
    assert_int_equal(rig_count(&r, RIG_MESSAGE), 1);
    pthread_mutex_destroy(&r.lock);
    pthread_cond_destroy(&r.changed);
}

typedef struct poster { rig *r; uint32_t n; } poster;

static void *post_many(void *arg)
{
    poster *p = arg;
    for (uint32_t i = 0; i < p->n; i++) rig_post(p->r, i % ag_http_server_loops(p->r->server), "n", false);
    return NULL;
}

static void test_mailbox(void **state)
{
    (void)state;
    enum { THREADS = 4, EACH = 3000 };
    rig r;
    ag_http_conf conf = rig_conf();
    conf.loops = 2;
    rig_start(&r, &conf);
    pthread_t t[THREADS];
    poster p = {&r, EACH};
    for (int i = 0; i < THREADS; i++) pthread_create(&t[i], NULL, post_many, &p);
    for (int i = 0; i < THREADS; i++) pthread_join(t[i], NULL);
    rig_wait(&r, RIG_MESSAGE, THREADS * EACH);
    rig_stop(&r);
}

static void test_many_connections(void **state)
{
    (void)state;
    enum { N = 1000, AT_ONCE = 50 };
    rig r;
    ag_http_conf conf = rig_conf();
    conf.loops = 2;
    rig_start(&r, &conf);
    for (int i = 0; i < N; i += AT_ONCE) {
        int fd[AT_ONCE];
        for (int k = 0; k < AT_ONCE; k++) fd[k] = dial(&r);
        static const char *const ins[] = {RIG_GET("/stream"), RIG_GET("/hello"), "GET"};
        for (int k = 0; k < AT_ONCE; k++) send_z(fd[k], ins[k % 3]);
        for (int k = 0; k < AT_ONCE; k++) {
            if (k % 3 == 0) expect_reply(fd[k], 200, "onetwothree");
            if (k % 3 == 1) expect_reply(fd[k], 200, "hello");
            close(fd[k]);
        }
    }
    RIG_UNTIL(ag_http_server_connections(r.server) == 0);
    assert_int_equal(ag__addrs_count(r.server->addrs), 0);
    assert_int_equal(rig_count(&r, RIG_GONE), 0);
    rig_stop(&r);
}

typedef struct client { rig *r; int rounds; bool ok; } client;

static void *run_client(void *arg)
{
    client *c = arg;
    for (int i = 0; i < c->rounds && c->ok; i++) {
        int fd = dial_with(ag_http_server_port(c->r->server), 0);
        c->ok = fd >= 0 && send_z(fd, RIG_GET("/work") RIG_GET("/flood?100000") "POST /echo HTTP/1.1\r\n" RIG_HOST
                                      "Content-Length: 2\r\n\r\nok");
        size_t want[] = {6, 100000, 2};
        for (int k = 0; k < 3 && c->ok; k++) {
            if (k == 2 && i % 3 == 2) break; /* a third of them leave early */
            reply a = get_reply(fd);
            c->ok = a.status == 200 && a.whole && a.n == want[k];
            free(a.body);
        }
        if (fd >= 0) close(fd);
    }
    return NULL;
}

static void test_two_loops_many_clients(void **state)
{
    (void)state;
    enum { CLIENTS = 8 };
    rig r;
    ag_http_conf conf = rig_conf();
    conf.loops = 2;
    rig_start(&r, &conf);
    pthread_t t[CLIENTS];
    client c[CLIENTS];
    for (int i = 0; i < CLIENTS; i++) {
        c[i] = (client){&r, 12, true};
        pthread_create(&t[i], NULL, run_client, &c[i]);
    }
    for (int i = 0; i < CLIENTS; i++) {
        pthread_join(t[i], NULL);
        assert_true(c[i].ok);
    }
    rig_stop(&r);
}

/* Connections go to the loop that has fewest. */
static void test_loops_share(void **state)
{
    (void)state;
    enum { N = 8 };
    rig r;
    ag_http_conf conf = rig_conf();
    conf.loops = 4;
    rig_start(&r, &conf);
    int fd[N];
    for (int i = 0; i < N; i++) {
        fd[i] = dial(&r);
        send_z(fd[i], RIG_GET("/hello"));
        expect_reply(fd[i], 200, "hello");
    }
    for (uint32_t i = 0; i < 4; i++) assert_int_equal(atomic_load(&ag_http_server_loop(r.server, i)->n_conns), N / 4);
    for (int i = 0; i < N; i++) close(fd[i]);
    rig_stop(&r);
}

#ifdef AG_FAULTS
/* One request of each kind, whatever fails: an answer that is whole or none, and a server that goes on. */
static bool one_request(rig *r)
{
    int fd = dial_with(ag_http_server_port(r->server), 0);
    if (fd < 0) return false;
    bool ok = send_z(fd, "POST /echo HTTP/1.1\r\n" RIG_HOST "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n");
    reply a = get_reply(fd);
    ok = ok && a.whole && a.status == 200 && strcmp(a.body, "abc") == 0;
    assert_true(a.status == 200 || a.status == 503 || a.status == 0);
    free(a.body);
    ok = ok && send_z(fd, RIG_GET("/stream"));
    a = ok ? get_reply(fd) : (reply){0};
    ok = ok && a.whole && strcmp(a.body, "onetwothree") == 0;
    free(a.body);
    ok = ok && send_z(fd, RIG_GET("/work"));
    a = ok ? get_reply(fd) : (reply){0};
    ok = ok && a.whole;
    free(a.body);
    close(fd);
    return ok;
}

static void fault_loop(ag_fault_kind kind, uint32_t loops)
{
    rig r;
    ag_http_conf conf = rig_conf();
    conf.loops = loops;
    rig_start(&r, &conf);
    uint32_t n = 1;
    for (bool fired = true; fired; n++) {
        ag_fault_arm(kind, n);
        bool ok = one_request(&r);
        RIG_UNTIL(ag_http_server_connections(r.server) == 0);
        fired = ag_fault_disarm(kind);
        if (!ok && !fired) fail_msg("fault %d:%u did not fire, but the request failed", kind, n);
        assert_int_equal(rig_count(&r, RIG_HEAD), rig_count(&r, RIG_DONE));
        assert_true(one_request(&r));
        RIG_UNTIL(ag_http_server_connections(r.server) == 0);
    }
    assert_true(n > 3); /* something was hit */
    if (kind == AG_FAULT_ALLOC) assert_true(rig_bads(&r, AG_HTTP_BAD_MEMORY) > 0);
    rig_stop(&r);
}

static void test_fault_alloc(void **state) { (void)state; fault_loop(AG_FAULT_ALLOC, 1); }
static void test_fault_alloc_two_loops(void **state) { (void)state; fault_loop(AG_FAULT_ALLOC, 2); }
static void test_fault_read(void **state) { (void)state; fault_loop(AG_FAULT_READ, 1); }
static void test_fault_write(void **state) { (void)state; fault_loop(AG_FAULT_WRITE, 1); }

static void test_fault_start(void **state)
{
    (void)state;
    static const ag_fault_kind kinds[] = {AG_FAULT_ALLOC, AG_FAULT_THREAD};
    for (size_t k = 0; k < AG_ARRAY_LEN(kinds); k++) {
        for (uint32_t n = 1;; n++) {
            rig r;
            ag_http_conf conf = rig_conf();
            conf.loops = 3;
            rig_init(&r, &conf);
            ag_fault_arm(kinds[k], n);
            int rc = rig_try(&r);
            bool fired = ag_fault_disarm(kinds[k]);
            assert_int_equal(rc != AG_OK, fired);
            if (rc == AG_OK) rig_stop(&r);
            else pthread_mutex_destroy(&r.lock), pthread_cond_destroy(&r.changed);
            if (!fired) break;
        }
    }
}

/* Out of descriptors: the connection waits in the kernel and is taken after the pause. */
static void test_fault_accept(void **state)
{
    (void)state;
    rig r;
    ag_http_conf conf = rig_conf();
    rig_start(&r, &conf);
    ag_fault_arm(AG_FAULT_OPEN, 1);
    int fd = dial(&r);
    send_z(fd, RIG_GET("/hello"));
    expect_reply(fd, 200, "hello");
    assert_true(ag_fault_disarm(AG_FAULT_OPEN));
    close(fd);
    ag_fault_arm(AG_FAULT_OPEN, 1); /* and a drain during the pause */
    fd = dial(&r);
    for (uint64_t i = 1; i <= 3; i++) { /* the loop has been round */
        rig_post(&r, 0, "n", false);
        rig_wait(&r, RIG_MESSAGE, i);
    }
    assert_true(ag_fault_disarm(AG_FAULT_OPEN));
    rig_stop(&r);
    close(fd);
}
#endif

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_client_leaves),
        cmocka_unit_test(test_half_close_after_answered),
        cmocka_unit_test(test_drain),
        cmocka_unit_test(test_stop),
        cmocka_unit_test(test_never_started),
        cmocka_unit_test(test_mailbox),
        cmocka_unit_test(test_many_connections),
        cmocka_unit_test(test_two_loops_many_clients),
        cmocka_unit_test(test_loops_share),
#ifdef AG_FAULTS
        cmocka_unit_test(test_fault_alloc),
        cmocka_unit_test(test_fault_alloc_two_loops),
        cmocka_unit_test(test_fault_read),
        cmocka_unit_test(test_fault_write),
        cmocka_unit_test(test_fault_start),
        cmocka_unit_test(test_fault_accept),
#endif
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
