/* gRPC's calls through the gateway, by HTTP/2 over a socket, with the fake engine behind it. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include "gateway/dialects/grpc_wire.h"
#include "gateway/dialects/pb.h"

/* Both have a client of their own; the one of HTTP/2 is net's. */
#define dial dial_served
#include "gateway/served.h"
#undef dial
#include "net/h2_client.h"

#define GENERATE "/autoglm.v1.Inference/Generate"
#define STREAM "/autoglm.v1.Inference/GenerateStream"
#define CHECK "/grpc.health.v1.Health/Check"
#define WATCH "/grpc.health.v1.Health/Watch"
#define REFLECT "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"

static ag_buf asked; /* a call's message, framed */

static int setup_open(void **state)
{
    (void)state;
    (void)rig_conf;
    ag_gateway_conf conf = AG_GATEWAY_CONF_DEFAULT;
    conf.no_auth = true; /* the client's host is none of this machine's names */
    serve(conf, true);
    ag_buf_init(&asked, 1 << 20);
    return 0;
}

static int teardown_open(void **state)
{
    ag_buf_fini(&asked);
    return teardown(state);
}

#define OPEN(f) cmocka_unit_test_setup_teardown(f, setup_open, teardown_open)

static void ask_generate(const char *prompt, uint64_t max_tokens)
{
    ag_buf_reset(&asked);
    ag_grpc_begin(&asked);
    ag_pb_put_text(&asked, 2, ag_str_of(prompt));
    ag_pb_put(&asked, 4, max_tokens);
    ag_grpc_end(&asked, 0, false);
}

static void ask_reflect(void)
{
    ag_buf_reset(&asked);
    ag_grpc_begin(&asked);
    ag_pb_put_text(&asked, 4, AG_STR("autoglm.v1.Inference"));
    ag_grpc_end(&asked, 0, false);
}

static int32_t submit(h2_client *c, const char *path, const char *p, size_t n, bool more)
{
    const nghttp2_nv head[] = {h2_nv("content-type", "application/grpc"), h2_nv("te", "trailers")};
    return h2_ask_with(c, "POST", path, p, n, more, head, AG_ARRAY_LEN(head));
}

static int32_t submit_asked(h2_client *c, const char *path) { return submit(c, path, asked.p, asked.n, false); }

/* -1: the call ended without one. */
static int grpc_status_of(const h2_reply *a)
{
    const char *at = strstr(a->head, "grpc-status: ");
    return at ? atoi(at + 13) : -1;
}

static void expect_status(h2_client *c, int32_t id, int status, const char *words)
{
    h2_reply *a = h2_wait(c, id);
    if (a->status != 200 || grpc_status_of(a) != status || strstr(a->head, words) == NULL)
        fail_msg("wanted %d and '%s': %d\n%s", status, words, a->status, a->head);
}

static void calls_and_streams(void **state)
{
    (void)state;
    h2_client c;
    h2_open(&c, dial_served(), false);
    ask_generate("say:abc", 5);
    int32_t whole = submit_asked(&c, GENERATE);
    expect_status(&c, whole, 0, "content-type: application/grpc\n");
    h2_reply *a = h2_find(&c, whole);
    assert_int_equal(ag_grpc_length(a->body, a->n), a->n - AG_GRPC_PREFIX);
    ag_str choice = ag_pb_find((ag_str){a->body + AG_GRPC_PREFIX, a->n - AG_GRPC_PREFIX}, 4);
    assert_true(ag_str_eqz(ag_pb_find(choice, 2), "abc"));
    int32_t stream = submit_asked(&c, STREAM);
    expect_status(&c, stream, 0, "x-request-id: ");
    assert_true(h2_find(&c, stream)->n > a->n); /* several messages */
    ask_generate("", 5);
    expect_status(&c, submit_asked(&c, GENERATE), 3, "grpc-message: ");
    expect_status(&c, submit_asked(&c, STREAM), 3, "grpc-status-details-bin: ");
    expect_status(&c, submit(&c, "/nope", "", 0, false), 12, "There is no method '/nope' here");
    expect_status(&c, submit(&c, GENERATE, "", 0, false), 3, "no message");
    h2_hang_up(&c);
    wait_until_idle();
}

static void a_failure_in_the_middle_is_told_behind_it(void **state)
{
    (void)state;
    h2_client c;
    h2_open(&c, dial_served(), false);
    ask_generate("burn:2", 5);
    int32_t id = submit_asked(&c, STREAM);
    h2_reply *a = h2_wait(&c, id);
    assert_true(a->n > 0);
    assert_int_equal(grpc_status_of(a), 13);
    h2_hang_up(&c);
    wait_until_idle();
}

static void reflection_answers_while_it_is_asked(void **state)
{
    (void)state;
    h2_client c;
    h2_open(&c, dial_served(), false);
    ask_reflect();
    int32_t id = submit(&c, REFLECT, asked.p, asked.n - 1, true);
    h2_reply *a = h2_find(&c, id);
    while (a->status == 0) assert_true(h2_turn(&c)); /* its head comes at once, */
    assert_int_equal(a->n, 0);                       /* but one byte is missing */
    ag_buf rest;
    ag_buf_init(&rest, 1 << 20);
    ag_buf_add(&rest, asked.p + asked.n - 1, 1);
    for (int i = 0; i < 20; i++) ag_buf_add(&rest, asked.p, asked.n);
    a->sends = rest.p;
    a->n_sends = rest.n;
    assert_int_equal(nghttp2_session_resume_data(c.session, id), 0);
    size_t each = 0;
    while (each == 0 || a->n < 21 * each) {
        assert_true(h2_turn(&c));
        if (a->n >= AG_GRPC_PREFIX) each = ag_grpc_length(a->body, a->n) + AG_GRPC_PREFIX;
    }
    assert_false(a->closed);
    a->sends = "\0\0";
    a->n_sends = 2;
    a->sends_more = false;
    assert_int_equal(nghttp2_session_resume_data(c.session, id), 0);
    expect_status(&c, id, 3, "middle of a message");
    assert_int_equal(a->n, 21 * each);
    ag_buf_fini(&rest);
    static const char huge[] = "\0\0\xff\xff\xff";
    expect_status(&c, submit(&c, REFLECT, huge, 5, true), 8, "More was asked");
    h2_hang_up(&c);
    wait_until_idle();
}

static void a_watch_ends_with_the_server(void **state)
{
    (void)state;
    setup_open(NULL);
    h2_client c;
    h2_open(&c, dial_served(), false);
    int32_t id = submit(&c, WATCH, "\0\0\0\0", 5, false);
    h2_reply *a = h2_find(&c, id);
    while (a->n < 7) assert_true(h2_turn(&c));
    assert_memory_equal(a->body, "\0\0\0\0\2\10\1", 7);
    ag_gateway_drain(gw);
    expect_status(&c, id, 14, "shutting down");
    assert_memory_equal(a->body + 7, "\0\0\0\0\2\10\2", 7);
    h2_hang_up(&c);
    teardown_open(NULL);
}

static void no_memory(void **state)
{
    (void)state;
    static const char *const paths[] = {
        GENERATE, STREAM, CHECK, REFLECT, "/autoglm.v1.Inference/Tokenize", "/autoglm.v1.Inference/Models", "/nope",
        "/inference.GRPCInferenceService/ModelInfer"};
    for (size_t i = 0; i < AG_ARRAY_LEN(paths); i++) {
        bool fired = true;
        for (uint32_t n = 1; fired; n++) {
            h2_client c;
            if (i == 3) ask_reflect();
            else ask_generate("say:abc", i == 4 ? 0 : 5); /* a TokenizeRequest has other fields behind the prompt */
            h2_open(&c, dial_served(), false);
            ag_fault_arm(AG_FAULT_ALLOC, n);
            int32_t id = i == 2 || i == 5 ? submit(&c, paths[i], "\0\0\0\0", 5, false) : submit_asked(&c, paths[i]);
            h2_reply *a = h2_wait(&c, id);
            int status = grpc_status_of(a), whole = i == 6 ? 12 : i == 7 ? 3 : 0;
            h2_hang_up(&c);
            wait_until_idle();
            fired = ag_fault_disarm(AG_FAULT_ALLOC);
            /* Without a status the connection, or a request, had no memory at all; a broken one is reset. */
            if (status != whole && !(fired && (status == AG_GRPC_RESOURCE_EXHAUSTED || status == -1)))
                fail_msg("%s, allocation %u: %d", paths[i], n, status);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {OPEN(calls_and_streams), OPEN(a_failure_in_the_middle_is_told_behind_it),
                                       OPEN(reflection_answers_while_it_is_asked),
                                       cmocka_unit_test(a_watch_ends_with_the_server), OPEN(no_memory)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
