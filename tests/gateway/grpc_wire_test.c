#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <sodium.h>
#include <stdlib.h>
#include <zlib.h>

#include "base/fault.h"
#include "base/mem.h"
#include "gateway/dialects/grpc_wire.h"
#include "gateway/dialects/pb.h"

enum { MAX = 100000 };

static ag_err err;

/* What a client sends. */
static void add_message(ag_buf *b, int flag, const char *p, size_t n)
{
    char prefix[] = {(char)flag, (char)(n >> 24), (char)(n >> 16), (char)(n >> 8), (char)n};
    ag_buf_add(b, prefix, sizeof prefix);
    ag_buf_add(b, p, n);
}

static size_t gzip_of(const char *p, size_t n, char *to, size_t size)
{
    z_stream z = {
        .next_in = (Bytef *)(uintptr_t)p, .avail_in = (uInt)n, .next_out = (Bytef *)to, .avail_out = (uInt)size};
    assert_int_equal(deflateInit2(&z, 9, Z_DEFLATED, 31, 8, Z_DEFAULT_STRATEGY), Z_OK);
    assert_int_equal(deflate(&z, Z_FINISH), Z_STREAM_END);
    deflateEnd(&z);
    return z.total_out;
}

static int only(const ag_buf *body, bool gzip, size_t max, ag_buf *plain, ag_str *message)
{
    ag_err_clear(&err);
    ag_buf_init(plain, max + 1);
    return ag_grpc_only(ag_buf_str(body), gzip, max, plain, message, &err);
}

static void one_message_is_read_and_nothing_else(void **state)
{
    (void)state;
    ag_buf body, plain;
    ag_str m;
    ag_buf_init(&body, 1 << 20);
    assert_int_equal(only(&body, false, MAX, &plain, &m), AG_E_PROTOBUF);
    assert_non_null(strstr(err.text, "has no message"));
    add_message(&body, 0, "hello", 5);
    assert_int_equal(only(&body, false, MAX, &plain, &m), AG_OK);
    assert_true(ag_str_eqz(m, "hello"));
    assert_int_equal(only(&body, true, MAX, &plain, &m), AG_OK); /* one that is not packed may come all the same */
    assert_int_equal(only(&body, false, 5, &plain, &m), AG_OK);
    assert_int_equal(only(&body, false, 4, &plain, &m), AG_E_TOO_LARGE);
    assert_string_equal(err.text, "The message has 5 bytes; at most 4 are taken.");
    for (size_t n = 1; n < 10; n++) { /* cut anywhere */
        ag_buf cut = body;
        cut.n = n;
        assert_int_equal(only(&cut, false, MAX, &plain, &m), AG_E_PROTOBUF);
        assert_non_null(strstr(err.text, "middle"));
    }
    add_message(&body, 0, "", 0);
    assert_int_equal(only(&body, false, MAX, &plain, &m), AG_E_PROTOBUF);
    assert_non_null(strstr(err.text, "more than one message"));
    ag_buf_reset(&body);
    add_message(&body, 2, "x", 1);
    assert_int_equal(only(&body, true, MAX, &plain, &m), AG_E_PROTOBUF);
    ag_buf_reset(&body);
    add_message(&body, 1, "x", 1);
    assert_int_equal(only(&body, false, MAX, &plain, &m), AG_E_PROTOBUF);
    assert_non_null(strstr(err.text, "grpc-encoding"));
    ag_buf_fini(&body);
}

static void messages_in_a_row(void **state)
{
    (void)state;
    ag_buf body, plain;
    ag_str m, rest;
    bool found;
    ag_buf_init(&body, 1 << 20);
    ag_buf_init(&plain, MAX + 1);
    add_message(&body, 0, "one", 3);
    add_message(&body, 0, "", 0);
    add_message(&body, 0, "three", 5);
    rest = (ag_str){body.p, body.n - 1};
    assert_int_equal(ag_grpc_next(&rest, false, MAX, &plain, &m, &found, &err), AG_OK);
    assert_true(found && ag_str_eqz(m, "one"));
    assert_int_equal(ag_grpc_next(&rest, false, MAX, &plain, &m, &found, &err), AG_OK);
    assert_true(found && m.n == 0);
    assert_int_equal(ag_grpc_next(&rest, false, MAX, &plain, &m, &found, &err), AG_OK);
    assert_false(found);
    assert_int_equal(rest.n, 9); /* it waits for the last byte */
    ag_buf_fini(&body);
}

static void gzip_is_bounded(void **state)
{
    (void)state;
    static char zeros[MAX + 1], packed[1024];
    ag_buf body, plain;
    ag_str m;
    ag_buf_init(&body, 1 << 20);
    size_t n = gzip_of(zeros, MAX, packed, sizeof packed);
    add_message(&body, 1, packed, n);
    assert_int_equal(only(&body, true, MAX, &plain, &m), AG_OK);
    assert_int_equal(m.n, MAX);
    assert_memory_equal(m.p, zeros, MAX);
    ag_buf_fini(&plain);
    for (size_t k = 0; k < n; k++) { /* cut anywhere it is none */
        ag_buf cut;
        ag_buf_init(&cut, 4096);
        add_message(&cut, 1, packed, k);
        assert_int_equal(only(&cut, true, MAX, &plain, &m), AG_E_PROTOBUF);
        ag_buf_fini(&plain);
        ag_buf_fini(&cut);
    }
    ag_buf_reset(&body);
    packed[n] = 0;
    add_message(&body, 1, packed, n + 1); /* nor with something behind it */
    assert_int_equal(only(&body, true, MAX, &plain, &m), AG_E_PROTOBUF);
    ag_buf_fini(&plain);
    n = gzip_of(zeros, MAX + 1, packed, sizeof packed);
    ag_buf_reset(&body);
    add_message(&body, 1, packed, n);
    assert_int_equal(only(&body, true, MAX, &plain, &m), AG_E_TOO_LARGE);
    assert_string_equal(err.text, "The message has more than 100000 bytes once it is unpacked.");
    assert_true(plain.cap <= MAX + 1);
    ag_buf_fini(&plain);
    ag_buf_fini(&body);
}

static void answers_are_packed_where_that_pays(void **state)
{
    (void)state;
    static char text[5000];
    memset(text, 'a', sizeof text);
    for (int gzip = 0; gzip < 2; gzip++) {
        for (size_t n = 0; n <= sizeof text; n += 500) {
            ag_buf out, plain;
            ag_str m;
            ag_buf_init(&out, 1 << 20);
            ag_buf_addz(&out, "before");
            size_t at = ag_grpc_begin(&out);
            ag_buf_add(&out, text, n);
            ag_grpc_end(&out, at, gzip);
            assert_int_equal(out.p[6], gzip && n >= AG_GRPC_GZIP_FROM);
            assert_true(out.n <= 6 + 5 + n);
            ag_buf_consume(&out, 6);
            assert_int_equal(only(&out, gzip, MAX, &plain, &m), AG_OK);
            assert_int_equal(m.n, n);
            assert_memory_equal(m.p ? m.p : "", text, n);
            ag_buf_fini(&plain);
            ag_buf_fini(&out);
        }
    }
    ag_buf out; /* what does not become shorter stays */
    ag_buf_init(&out, 1 << 20);
    ag_grpc_begin(&out);
    for (int i = 0; i < 2000; i++) ag_buf_addc(&out, (char)randombytes_random());
    ag_grpc_end(&out, 0, true);
    assert_int_equal(out.p[0], 0);
    assert_int_equal(ag_grpc_length(out.p, out.n), 2000);
    ag_buf_fini(&out);
}

static void no_memory(void **state)
{
    (void)state;
    static char zeros[20000], packed[1024];
    size_t n_packed = gzip_of(zeros, sizeof zeros, packed, sizeof packed);
    ag_buf body;
    ag_buf_init(&body, 1 << 20);
    add_message(&body, 1, packed, n_packed);
    bool fired = true;
    for (uint32_t n = 1; fired; n++) {
        ag_buf plain;
        ag_str m;
        ag_fault_arm(AG_FAULT_ALLOC, n);
        int rc = only(&body, true, MAX, &plain, &m);
        fired = ag_fault_disarm(AG_FAULT_ALLOC);
        assert_int_equal(rc, fired ? AG_E_NOMEM : AG_OK);
        ag_buf_fini(&plain);
    }
    fired = true;
    for (uint32_t n = 1; fired; n++) {
        ag_buf out;
        ag_fault_arm(AG_FAULT_ALLOC, n);
        ag_buf_init(&out, 1 << 20);
        size_t at = ag_grpc_begin(&out);
        ag_buf_add(&out, zeros, sizeof zeros);
        ag_grpc_end(&out, at, true);
        fired = ag_fault_disarm(AG_FAULT_ALLOC);
        assert_true(out.failed || out.p[0] == 1 || (fired && ag_grpc_length(out.p, out.n) == sizeof zeros));
        ag_buf_fini(&out);
    }
    fired = true;
    for (uint32_t n = 1; fired; n++) {
        ag_grpc_status s;
        ag_err_clear(&err);
        ag_err_set(&err, AG_E_PARAM, "No.");
        ag_fault_arm(AG_FAULT_ALLOC, n);
        ag_grpc_status_make(&s, &err, AG_STR("id"), 1);
        fired = ag_fault_disarm(AG_FAULT_ALLOC);
        assert_int_equal(fired, s.message.failed || s.details.failed);
        ag_grpc_status_fini(&s);
    }
    ag_buf_fini(&body);
}

static void timeouts(void **state)
{
    (void)state;
    static const struct { const char *z; uint32_t ms; } good[] = {
        {"1S", 1000}, {"1500m", 1500}, {"2M", 120000}, {"1H", 3600000}, {"1u", 1}, {"1n", 1}, {"0S", 1},
        {"1000001u", 1001},
        {"99999999n", 100}, {"99999999H", 86400000}, {"00000001S", 1000}};
    for (size_t i = 0; i < AG_ARRAY_LEN(good); i++) {
        uint32_t ms = 0;
        assert_true(ag_grpc_timeout(ag_str_of(good[i].z), 86400000, &ms));
        assert_int_equal(ms, good[i].ms);
    }
    static const char *const bad[] = {"", "S", "1", "-1S", "+1S", "1s", "1 S", "123456789S", "1.5S", "S1", "1SS"};
    for (size_t i = 0; i < AG_ARRAY_LEN(bad); i++) {
        uint32_t ms;
        assert_false(ag_grpc_timeout(ag_str_of(bad[i]), 86400000, &ms));
    }
}

static void statuses(void **state)
{
    (void)state;
    ag_grpc_status s;
    unsigned char bytes[1024];
    size_t n;
    ag_err_clear(&err);
    ag_err_set(&err, AG_E_QUEUE_FULL, "100%% of \xC3\xA9\n");
    memcpy(err.param, "field", 6);
    ag_grpc_status_make(&s, &err, AG_STR("the-id"), 7);
    assert_string_equal(s.code, "14");
    ag_buf_zterm(&s.message);
    assert_string_equal(s.message.p, "100%25 of %C3%A9%0A");
    assert_int_equal(sodium_base642bin(bytes, sizeof bytes, s.details.p, s.details.n, NULL, &n, NULL,
                                       sodium_base64_VARIANT_ORIGINAL_NO_PADDING), 0);
    ag_str status = {(char *)bytes, n};
    assert_true(ag_str_eqz(ag_pb_find(status, 2), err.text));
    ag_pb_item item;
    assert_int_equal(ag_pb_next(&status, &item), 1);
    assert_int_equal(item.number, AG_GRPC_UNAVAILABLE);
    assert_int_equal(ag_pb_next(&status, &item), 1);
    assert_int_equal(ag_pb_next(&status, &item), 1);
    assert_true(ag_str_eqz(ag_pb_find(item.bytes, 1), "type.googleapis.com/google.rpc.ErrorInfo"));
    ag_str info = ag_pb_find(item.bytes, 2);
    assert_true(ag_str_eqz(ag_pb_find(info, 1), "QUEUE_FULL"));
    assert_true(ag_str_eqz(ag_pb_find(info, 2), "autoglm"));
    assert_true(ag_str_eqz(ag_pb_find(ag_pb_find(info, 3), 2), "the-id"));
    assert_int_equal(ag_pb_next(&status, &item), 1);
    assert_true(ag_str_eqz(ag_pb_find(item.bytes, 1), "type.googleapis.com/google.rpc.RetryInfo"));
    assert_int_equal(ag_pb_next(&status, &item), 0);
    ag_grpc_status_fini(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_message_is_read_and_nothing_else), cmocka_unit_test(messages_in_a_row),
        cmocka_unit_test(gzip_is_bounded), cmocka_unit_test(answers_are_packed_where_that_pays),
        cmocka_unit_test(no_memory), cmocka_unit_test(timeouts), cmocka_unit_test(statuses)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
