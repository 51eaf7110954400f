#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include "gateway/waiting.h"

static const ag_reply reply = {
    .kind = AG_REQUEST_COMPLETION, .id = {"cmpl-1", 6}, .created = 1700000000, .model = {"m", 1}};

#define HEAD "event: queue\ndata: {\"id\":\"cmpl-1\",\"object\":\"text_completion\",\"created\":1700000000," \
             "\"model\":\"m\",\"choices\":[],\"queue\":{\"state\":"

static void say(ag_waiting *w, const char *state, uint32_t band, uint32_t position, uint64_t now_us, const char *want)
{
    ag_buf b;
    ag_buf_init(&b, 4096);
    ag_queue_view v = {state, band, position, 2000, position > 1 ? 1500001 : 0};
    ag_waiting_say(w, &reply, &v, now_us, &b);
    ag_buf_zterm(&b);
    assert_string_equal(b.p, want);
    ag_buf_fini(&b);
}

static void news_and_signs_of_life(void **state)
{
    (void)state;
    ag_waiting w = {0};
    uint64_t t = 1000;
    say(&w, "waiting", 2, 3, t,
        HEAD "\"waiting\",\"priority\":2,\"position\":3,\"waited_ms\":2,\"estimated_wait_ms\":1501}}\n\n");
    say(&w, "waiting", 2, 3, t += AG_WAITING_HEARTBEAT_US - 1, "");
    say(&w, "waiting", 2, 3, ++t, ": waiting\n\n");
    say(&w, "waiting", 2, 3, t += AG_WAITING_HEARTBEAT_US - 1, "");
    say(&w, "waiting", 2, 1, t,
        HEAD "\"waiting\",\"priority\":2,\"position\":1,\"waited_ms\":2,\"estimated_wait_ms\":null}}\n\n");
    say(&w, "waiting", 0, 1, t,
        HEAD "\"waiting\",\"priority\":0,\"position\":1,\"waited_ms\":2,\"estimated_wait_ms\":null}}\n\n");
    say(&w, "running", 0, 0, t,
        HEAD "\"running\",\"priority\":0,\"position\":0,\"waited_ms\":2,\"estimated_wait_ms\":0}}\n\n");
    say(&w, "running", 0, 0, t += AG_WAITING_HEARTBEAT_US, ": waiting\n\n");
}

static void who_never_waited_hears_no_place(void **state)
{
    (void)state;
    ag_waiting w = {0};
    uint64_t t = 5 * AG_WAITING_HEARTBEAT_US;
    say(&w, "running", 2, 0, t, "");
    say(&w, "running", 2, 0, t + AG_WAITING_HEARTBEAT_US - 1, "");
    say(&w, "running", 2, 0, t + AG_WAITING_HEARTBEAT_US, ": waiting\n\n");
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(news_and_signs_of_life),
                                       cmocka_unit_test(who_never_waited_hears_no_place)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
