/* What a client of HTTP/2 can make of few bytes, or of many small bodies. */
#include "h2_client.h"

/* GET / (as far as it is wanted), then `n` fields that are one literal of 3,000 bytes and bytes that point to it. With
 * 32 for each the first four and the head are less than four times header_bytes_max, the sixth is more. */
static size_t bomb(char *to, const char *head, uint32_t n)
{
    size_t at = strlen(head);
    memcpy(to, head, at);
    memcpy(to + at, "\x40\1x\x7f\xb9\x16", 6);
    memset(to + at + 6, 'v', 3000);
    memset(to + at + 3006, '\xbe', n - 1);
    return at + 3005 + n;
}

static void test_unpacked_size(void **state)
{
    (void)state;
    static char block[16384];
    rig r;
    ag_http_conf conf = rig_conf();
    rig_start(&r, &conf);
    for (int trailers = 0; trailers < 2; trailers++) {
        const char *head = trailers ? "" : H2_RAW_GET;
        int fd;
        h2_raw_dial(&r, &fd);
        uint64_t before = rig_bads(&r, AG_HTTP_BAD_HEADERS_SIZE), heads = rig_count(&r, RIG_HEAD);
        for (uint32_t id = 1; id <= 3; id += 2) { /* what is counted is a block's, not the connection's */
            if (trailers) h2_raw(fd, NGHTTP2_HEADERS, 4, id, H2_RAW_GET, 6);
            assert_true(h2_raw(fd, NGHTTP2_HEADERS, 5, id, block, bomb(block, head, 5)));
            assert_true(h2_raw_wait(fd, NGHTTP2_HEADERS, id, NULL, 0) > 0);
        }
        assert_int_equal(rig_bads(&r, AG_HTTP_BAD_HEADERS_SIZE), before + (trailers ? 0 : 2)); /* 431 */
        if (trailers) h2_raw(fd, NGHTTP2_HEADERS, 4, 5, H2_RAW_GET, 6);
        assert_true(h2_raw(fd, NGHTTP2_HEADERS, 5, 5, block, bomb(block, head, trailers ? 6 : 13000)));
        h2_raw_expect_end(fd, NGHTTP2_ENHANCE_YOUR_CALM);
        assert_int_equal(rig_bads(&r, AG_HTTP_BAD_HEADERS_SIZE), before + (trailers ? 1 : 3));
        assert_int_equal(rig_count(&r, RIG_HEAD), heads + (trailers ? 3 : 0));
    }
    rig_stop(&r);
}

/* Those that are answered while they send are read as they come: they wait for nothing, and leave room for others. */
static void test_bodies_that_are_read_on(void **state)
{
    (void)state;
    rig r;
    h2_client c;
    ag_http_conf conf = rig_conf();
    conf.body_bytes_max = conf.h2_bodies_max = 1000;
    rig_start(&r, &conf);
    h2_dial(&c, &r);
    char text[601];
    int32_t both[4];
    memset(text, 'b', 600);
    text[600] = 0;
    for (int i = 0; i < 4; i++) both[i] = h2_ask_with(&c, "POST", "/both", text, 600, true, NULL, 0);
    for (int i = 0; i < 4; i++)
        while (h2_find(&c, both[i])->n < 600)
            if (!h2_turn(&c)) fail_msg("the connection has ended");
    h2_expect(&c, h2_post(&c, "/length", text), 200, "600 bytes");
    assert_int_equal(rig_bads(&r, AG_HTTP_BAD_H2_BODIES), 0);
    h2_hang_up(&c);
    rig_stop(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_unpacked_size),
        cmocka_unit_test(test_bodies_that_are_read_on),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
