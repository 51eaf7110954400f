#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <sodium.h>
#include <stdio.h>

#include "base/fault.h"
#include "gateway/guard.h"
#include "gateway/slots.h"
#include "gateway/text.h"

static bool knows(const ag_auth *a, ag_str authorization)
{
    ag_str key = ag_bearer(authorization);
    return !a->on || (key.p && ag_auth_check_key(a, key));
}

static void only_names_of_this_machine_are_loopback(void **state)
{
    (void)state;
    static const char *const yes[] = {"localhost", "LocalHost:80", "127.0.0.1", "127.255.0.9:65535",
                                      "[::1]",     "[::1]:8080",   "localhost:"};
    static const char *const no[] = {"",
                                     "localhost.",
                                     "localhost.evil.example",
                                     "127.0.0.1.evil.example",
                                     "128.0.0.1",
                                     "127.1",
                                     "::1",
                                     "[::1",
                                     "[::2]",
                                     "[::1]x",
                                     "localhost:80x",
                                     "localhost:123456",
                                     "127.0.0.1@evil.example",
                                     "0x7f.0.0.1",
                                     " localhost",
                                     "[::ffff:10.0.0.1]"};
    for (size_t i = 0; i < AG_ARRAY_LEN(yes); i++)
        if (!ag_host_is_loopback(ag_str_of(yes[i]))) fail_msg("%s", yes[i]);
    for (size_t i = 0; i < AG_ARRAY_LEN(no); i++)
        if (ag_host_is_loopback(ag_str_of(no[i]))) fail_msg("%s", no[i]);
    assert_false(ag_host_is_loopback(AG_STR("127.0.0.1\0.evil")));
    assert_true(ag_address_is_loopback("::1") && ag_address_is_loopback("127.0.0.2") &&
                ag_address_is_loopback("localhost"));
    assert_false(ag_address_is_loopback("0.0.0.0") || ag_address_is_loopback("::") ||
                 ag_address_is_loopback("host.example"));
}

static void origins_are_compared_whole(void **state)
{
    (void)state;
    ag_origins o;
    ag_err err = {0};
    assert_int_equal(ag_origins_parse(&o, " https://a.example , http://localhost:3000/,", &err), AG_OK);
    assert_int_equal(o.n, 2);
    assert_true(ag_origins_has(&o, AG_STR("https://A.example")) && ag_origins_has(&o, AG_STR("http://localhost:3000")));
    assert_false(ag_origins_has(&o, AG_STR("https://a.example.evil")) ||
                 ag_origins_has(&o, AG_STR("http://a.example")) || ag_origins_has(&o, AG_STR("https://b.a.example")) ||
                 ag_origins_has(&o, AG_STR("null")) || ag_origins_has(&o, AG_STR("")));
    ag_origins_fini(&o);
    assert_int_equal(ag_origins_parse(&o, "*", &err), AG_OK);
    assert_true(o.any && ag_origins_has(&o, AG_STR("null")));
    ag_origins_fini(&o);
    assert_int_equal(ag_origins_parse(&o, NULL, &err), AG_OK);
    assert_false(ag_origins_has(&o, AG_STR("https://a.example")));
    static const char *const bad[] = {"a.example",      "https://",  "https://a.example/path",
                                      "https://a:port", "file:///x", "https://a,b"};
    for (size_t i = 0; i < AG_ARRAY_LEN(bad); i++) {
        ag_err_clear(&err);
        if (ag_origins_parse(&o, bad[i], &err) != AG_E_USAGE) fail_msg("%s", bad[i]);
    }
    char many[4096] = "";
    for (int i = 0; i <= AG_ORIGINS_MAX; i++) strcat(many, "http://a,");
    assert_int_equal(ag_origins_parse(&o, many, &err), AG_E_USAGE);
    assert_true(ag_origin_is_own(AG_STR("http://localhost:8080"), AG_STR("localhost:8080")));
    assert_true(ag_origin_is_own(AG_STR("https://x"), AG_STR("X")));
    assert_false(ag_origin_is_own(AG_STR("http://localhost:3000"), AG_STR("localhost:8080")) ||
                 ag_origin_is_own(AG_STR("null"), AG_STR("localhost")) ||
                 ag_origin_is_own(AG_STR("http://"), (ag_str){0}));
}

static void keys_are_checked_whole(void **state)
{
    (void)state;
    ag_auth a;
    ag_auth_set(&a, NULL);
    assert_true(knows(&a, (ag_str){0}));
    ag_auth_set(&a, "");
    assert_true(knows(&a, AG_STR("Bearer anything")));
    ag_auth_set(&a, "k3y");
    assert_true(knows(&a, AG_STR("Bearer k3y")) && knows(&a, AG_STR("bearer   k3y")));
    static const char *const no[] = {"",           "Bearer",    "Bearer ", "Bearer k3",  "Bearer k3yy",
                                     "Bearer K3Y", "Basic k3y", "k3y",     "Bearer k3y "};
    for (size_t i = 0; i < AG_ARRAY_LEN(no); i++)
        if (knows(&a, ag_str_of(no[i]))) fail_msg("%s", no[i]);
    assert_false(knows(&a, AG_STR("Bearer k3y\0")));
}

static void media_types_are_read_with_their_parameters(void **state)
{
    (void)state;
    static const char *const yes[] = {"application/json", "Application/JSON", "application/json; charset=utf-8",
                                      "application/json ;charset=\"UTF-8\"", "application/json; profile=x"};
    static const char *const no[] = {"",
                                     "text/plain",
                                     "application/jsonp",
                                     "application/json-patch+json",
                                     "application/json; charset=latin1",
                                     "text/plain; application/json",
                                     "multipart/form-data"};
    for (size_t i = 0; i < AG_ARRAY_LEN(yes); i++)
        if (!ag_media_is_json(ag_str_of(yes[i]))) fail_msg("%s", yes[i]);
    for (size_t i = 0; i < AG_ARRAY_LEN(no); i++)
        if (ag_media_is_json(ag_str_of(no[i]))) fail_msg("%s", no[i]);
}

/* Over the size of a thread's piece: none of them comes twice, in whatever sizes they are taken. */
static void random_bytes_are_given_once(void **state)
{
    (void)state;
    enum { N = 3000 };
    static uint64_t seen[N];
    for (uint32_t i = 0; i < N; i++) {
        uint8_t odd[7];
        ag_random_bytes(odd, i % sizeof odd);
        ag_random_bytes(&seen[i], sizeof seen[i]);
        for (uint32_t k = 0; k < i; k++) assert_true(seen[k] != seen[i]);
    }
    char hex[2 * 16 + 1];
    ag_random_hex(hex, 16);
    assert_int_equal(strlen(hex), 32);
}

static void ids_are_kept_when_sane(void **state)
{
    (void)state;
    char id[AG_ID_MAX + 1], trace[33], longest[AG_ID_MAX + 2];
    memset(longest, 'a', sizeof longest);
    ag_request_id(id, (ag_str){longest, AG_ID_MAX});
    assert_int_equal(strlen(id), AG_ID_MAX);
    ag_request_id(id, (ag_str){longest, AG_ID_MAX + 1});
    assert_memory_equal(id, "req-", 4);
    ag_request_id(id, AG_STR("a\"b\\c"));
    assert_string_equal(id, "a\"b\\c");
    static const char *const odd[] = {"", "a b", "caf\xC3\xA9", "a\tb", "\x7f"};
    for (size_t i = 0; i < AG_ARRAY_LEN(odd); i++) {
        ag_request_id(id, ag_str_of(odd[i]));
        assert_int_equal(strlen(id), 28);
    }
    assert_true(ag_trace_id(trace, AG_STR("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")));
    assert_string_equal(trace, "0af7651916cd43dd8448eb211c80319c");
    assert_true(ag_trace_id(trace, AG_STR("cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-later")));
    static const char *const bad[] = {"",
                                      "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0",
                                      "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
                                      "00-00000000000000000000000000000000-b7ad6b7169203331-01",
                                      "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
                                      "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
                                      "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
                                      "00_0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"};
    for (size_t i = 0; i < AG_ARRAY_LEN(bad); i++) {
        if (ag_trace_id(trace, ag_str_of(bad[i]))) fail_msg("%s", bad[i]);
        assert_int_equal(strlen(trace), 32);
    }
}

static void stale_numbers_are_unknown(void **state)
{
    (void)state;
    ag_slots s;
    ag_slots_init(&s);
    void *r = &s;
    void *a = ag_slots_add(&s, r, 3), *b = ag_slots_add(&s, r, 4);
    assert_non_null(a);
    assert_int_equal(ag_slots_find(&s, a)->choice, 3);
    ag_slots_remove(&s, a);
    assert_null(ag_slots_find(&s, a));
    void *c = ag_slots_add(&s, r, 5); /* in the same place */
    assert_ptr_not_equal(a, c);
    assert_null(ag_slots_find(&s, a));
    assert_int_equal(ag_slots_find(&s, b)->choice, 4);
    assert_null(ag_slots_find(&s, (void *)1));
    assert_null(ag_slots_find(&s, (void *)UINTPTR_MAX));
    ag_slots_remove(&s, b);
    ag_slots_remove(&s, c);
    void *many[200];
    for (uint32_t i = 0; i < 200; i++) many[i] = ag_slots_add(&s, r, i);
    for (uint32_t i = 0; i < 200; i++) assert_int_equal(ag_slots_find(&s, many[i])->choice, i);
    for (uint32_t i = 0; i < 200; i++) ag_slots_remove(&s, many[i]);
    ag_slots_fini(&s);
#ifdef AG_FAULTS
    ag_fault_arm(AG_FAULT_ALLOC, 1);
    assert_null(ag_slots_add(&s, r, 0));
    assert_true(ag_fault_disarm(AG_FAULT_ALLOC));
#endif
}

static void text_goes_out_in_whole_characters(void **state)
{
    (void)state;
    ag_text t;
    ag_text_init(&t);
    assert_true(ag_text_add(&t, AG_STR("a\xF0\x9F")));
    ag_str s = ag_text_ready(&t, 3, false);
    assert_true(ag_str_eqz(s, "a"));
    ag_text_pass(&t, s.n);
    assert_int_equal(ag_text_ready(&t, 3, false).n, 0);
    assert_true(ag_text_add(&t, AG_STR("\x98\x80st")));
    assert_int_equal(ag_text_ready(&t, 4, false).n, 0); /* the character's last byte is not safe yet */
    s = ag_text_ready(&t, 5, false);                     /* "st" may become a stop string */
    assert_true(ag_str_eqz(s, "\xF0\x9F\x98\x80"));
    ag_text_pass(&t, s.n);
    assert_int_equal(ag_text_ready(&t, 3, false).n, 0); /* less than was passed already */
    s = ag_text_ready(&t, 100, false);
    assert_true(ag_str_eqz(s, "st"));
    ag_text_pass(&t, s.n);
    assert_true(ag_text_add(&t, AG_STR("\xE2\x82")));
    assert_int_equal(ag_text_ready(&t, 100, false).n, 0);
    assert_int_equal(ag_text_ready(&t, 100, true).n, 2); /* at the end it goes as it is */
    ag_text_fini(&t);
}

int main(void)
{
    if (sodium_init() < 0) return 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(only_names_of_this_machine_are_loopback),
        cmocka_unit_test(origins_are_compared_whole),
        cmocka_unit_test(keys_are_checked_whole),
        cmocka_unit_test(media_types_are_read_with_their_parameters),
        cmocka_unit_test(ids_are_kept_when_sane),
        cmocka_unit_test(random_bytes_are_given_once),
        cmocka_unit_test(stale_numbers_are_unknown),
        cmocka_unit_test(text_goes_out_in_whole_characters),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
