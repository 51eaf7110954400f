/* Looking at all connections: what is told of them, on their own loops, and that it ends however the server does. */
#include "h2_client.h"

enum { LOOPS = 3 };

static struct {
    ag_http_conn_info c[16];
    char peer[16][48];
    void *users[16][AG_HTTP_USERS_MAX];
    uint32_t n, most;
} told;
static _Atomic uint32_t n_after;

static bool each(void *arg, const ag_http_conn_info *c)
{
    (void)arg;
    if (told.n == told.most) return false;
    memcpy(told.peer[told.n], c->peer.p, c->peer.n);
    memcpy((void *)told.users[told.n], (const void *)c->users, c->n_users * sizeof *c->users);
    told.c[told.n++] = *c;
    return true;
}

static void after(void *arg)
{
    (void)arg;
    atomic_fetch_add(&n_after, 1);
}

static void visit(rig *r, uint32_t most)
{
    uint32_t before = atomic_load(&n_after);
    memset(&told, 0, sizeof told);
    told.most = most;
    rig_post(r, 1, "v", false);
    RIG_UNTIL(atomic_load(&n_after) == before + 1);
}

static uint32_t told_of(uint64_t id)
{
    for (uint32_t i = 0; i < told.n; i++)
        if (told.c[i].id == id) return i;
    fail_msg("not told of connection %u", (unsigned)id);
    return 0;
}

static void start(rig *r)
{
    ag_http_conf conf = rig_conf();
    conf.loops = LOOPS;
    rig_init(r, &conf);
    r->each = each;
    r->after = after;
    assert_int_equal(rig_try(r), AG_OK);
}

static void test_told(void **state)
{
    (void)state;
    rig r;
    start(&r);
    visit(&r, 16);
    assert_int_equal(told.n, 0);
    int idle = dial(&r);
    send_z(idle, RIG_GET("/hello"));
    expect_reply(idle, 200, "hello");
    h2_client c;
    h2_dial(&c, &r);
    h2_expect(&c, h2_get(&c, "/hello"), 200, "hello");
    int32_t held = h2_get(&c, "/holdstream");
    h2_flush(&c);
    rig_wait(&r, RIG_END, 3);
    RIG_UNTIL(ag_http_server_in_state(r.server, AG_HTTP_STATE_STREAMING) == 1);
    rig_req *user = r.held;
    int fresh[4];
    for (int i = 0; i < 4; i++) fresh[i] = dial(&r);
    RIG_UNTIL(ag_http_server_in_state(r.server, AG_HTTP_STATE_NEW) == 4);
    visit(&r, 16);
    assert_int_equal(told.n, 6);
    const ag_http_conn_info *a = &told.c[told_of(1)], *b = &told.c[told_of(2)];
    assert_string_equal(told.peer[told_of(1)], "127.0.0.1");
    assert_true(a->state == AG_HTTP_STATE_IDLE && !a->h2 && !a->tls && a->requests == 1 && a->n_open == 0);
    assert_int_equal(a->bytes_in, strlen(RIG_GET("/hello")));
    assert_true(a->bytes_out > 5 && a->bytes_out < 500);
    assert_true(b->state == AG_HTTP_STATE_STREAMING && b->h2 && b->requests == 2 && b->n_open == 1 && b->n_users == 1);
    assert_ptr_equal(told.users[told_of(2)][0], user);
    for (uint64_t id = 3; id <= 6; id++) assert_int_equal(told.c[told_of(id)].state, AG_HTTP_STATE_NEW);
    visit(&r, 0); /* of no interest from the first on */
    assert_int_equal(told.n, 0);
    rig_post(&r, ag_http_loop_index(ag_http_stream_loop(user->s)), "e", false);
    h2_expect(&c, held, 200, "first");
    for (int i = 0; i < 4; i++) close(fresh[i]);
    close(idle);
    h2_hang_up(&c);
    rig_stop(&r);
}

/* More requests than are named. */
static void test_many(void **state)
{
    (void)state;
    rig r;
    h2_client c;
    start(&r);
    h2_dial(&c, &r);
    for (int i = 0; i < AG_HTTP_USERS_MAX + 3; i++) h2_get(&c, "/hold");
    h2_flush(&c);
    rig_wait(&r, RIG_END, AG_HTTP_USERS_MAX + 3);
    visit(&r, 16);
    assert_true(told.n == 1 && told.c[0].n_open == AG_HTTP_USERS_MAX + 3 && told.c[0].n_users == AG_HTTP_USERS_MAX);
    h2_hang_up(&c);
    rig_stop(&r);
}

/* Those under way when a server stops are ended by then, wherever they are. */
static void test_stop(void **state)
{
    (void)state;
    for (int i = 0; i < 30; i++) {
        rig r;
        start(&r);
        int fd = dial(&r);
        uint32_t before = atomic_load(&n_after);
        told.n = told.most = 0;
        for (uint32_t l = 0; l < LOOPS; l++)
            for (int k = 0; k < 5; k++) rig_post(&r, l, "v", false);
        ag_http_server_stop(r.server, 0);
        assert_int_equal(atomic_load(&n_after) - before, r.visits);
        close(fd);
        rig_stop(&r);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_told),
        cmocka_unit_test(test_many),
        cmocka_unit_test(test_stop),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
