/* What connections are doing, as counted, over both protocols. */
#include "h2_client.h"

static uint64_t in(rig *r, ag_http_state state) { return ag_http_server_in_state(r->server, state); }

/* All connections that are open are in this state. */
#define EXPECT(state, n)                                                                                               \
    do {                                                                                                               \
        RIG_UNTIL(in(&r, AG_HTTP_STATE_##state) == (n));                                                               \
        uint64_t all = 0;                                                                                              \
        for (int s_ = 0; s_ < AG_HTTP_STATE_CLOSED; s_++) all += in(&r, (ag_http_state)s_);                            \
        assert_int_equal(all, (n));                                                                                    \
    } while (0)

static void test_h1(void **state)
{
    (void)state;
    rig r;
    ag_http_conf conf = rig_conf();
    rig_start(&r, &conf);
    int fd = dial(&r);
    EXPECT(NEW, 1);
    send_z(fd, "GET /hello HTTP/1.1\r\n");
    EXPECT(ACTIVE, 1);
    send_z(fd, RIG_HOST "\r\n");
    expect_reply(fd, 200, "hello");
    EXPECT(IDLE, 1);
    send_z(fd, RIG_GET("/hold"));
    EXPECT(ACTIVE, 1);
    rig_wait(&r, RIG_END, 2);
    rig_post(&r, 0, "r:late", false);
    expect_reply(fd, 200, "late");
    EXPECT(IDLE, 1);
    send_z(fd, RIG_GET("/holdstream"));
    EXPECT(STREAMING, 1);
    ag_http_server_drain(r.server);
    EXPECT(DRAINING, 1);
    rig_post(&r, 0, "e", false);
    expect_reply(fd, 200, "first");
    close(fd);
    RIG_UNTIL(in(&r, AG_HTTP_STATE_CLOSED) == 1);
    EXPECT(DRAINING, 0);
    rig_stop(&r);
}

static void test_h2(void **state)
{
    (void)state;
    rig r;
    h2_client c;
    ag_http_conf conf = rig_conf();
    rig_start(&r, &conf);
    h2_dial(&c, &r);
    while (!c.settled && h2_turn(&c)) {}
    EXPECT(NEW, 1);
    h2_expect(&c, h2_get(&c, "/hello"), 200, "hello");
    EXPECT(IDLE, 1);
    int32_t held = h2_get(&c, "/hold");
    h2_flush(&c);
    EXPECT(ACTIVE, 1);
    rig_wait(&r, RIG_END, 2);
    rig_post(&r, 0, "r:late", false);
    h2_expect(&c, held, 200, "late");
    held = h2_get(&c, "/holdstream");
    h2_flush(&c);
    EXPECT(STREAMING, 1);
    ag_http_server_drain(r.server);
    EXPECT(DRAINING, 1);
    rig_post(&r, 0, "e", false);
    h2_expect(&c, held, 200, "first");
    h2_hang_up(&c);
    RIG_UNTIL(in(&r, AG_HTTP_STATE_CLOSED) == 1);
    EXPECT(DRAINING, 0);
    rig_stop(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_h1),
        cmocka_unit_test(test_h2),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
