/* Networks of trusted proxies, and what proxies say. */
#include "check.h"

#include <arpa/inet.h>

#include "net/trust.h"

static ag__ip ip_of(const char *text)
{
    ag__trust t;
    ag_err err = {0};
    assert_int_equal(ag__trust_parse(&t, text, &err), AG_OK);
    return t.nets[0].ip;
}

static void test_networks(void **state)
{
    (void)state;
    ag__trust t;
    ag_err err = {0};
    assert_int_equal(ag__trust_parse(&t, "10.0.0.0/8,192.0.2.7,fd00::/7,2001:db8::/33,0.0.0.0/32,unix", &err), AG_OK);
    assert_true(t.n == 5 && t.local);
    static const struct { const char *ip; bool in; } rows[] = {
        {"10.1.2.3", true}, {"11.0.0.0", false}, {"9.255.255.255", false}, {"192.0.2.7", true}, {"192.0.2.6", false},
        {"fc00::1", true}, {"fe00::1", false}, {"2001:db8:7fff::1", true}, {"2001:db8:8000::", false}, {"::", false},
        {"::ffff:10.0.0.1", true}, {"0.0.0.0", true}, {"0.0.0.1", false},
    };
    for (size_t i = 0; i < AG_ARRAY_LEN(rows); i++) {
        ag__ip ip = ip_of(rows[i].ip);
        if (ag__trusts(&t, &ip) != rows[i].in) fail_msg("%s", rows[i].ip);
    }
    ag__ip any = ip_of("203.0.113.9");
    assert_int_equal(ag__trust_parse(&t, "0.0.0.0/0", &err), AG_OK);
    assert_true(ag__trusts(&t, &any));
    any = ip_of("2001:db8::");
    assert_false(ag__trusts(&t, &any));
    assert_int_equal(ag__trust_parse(&t, NULL, &err), AG_OK);
    assert_false(ag__trusts(&t, &any) || t.local);
    static const char *const wrong[] = {"10.0.0.0/33", "::/129", "10.0.0", "10.0.0.0/", "10.0.0.0/x", "10.0.0.0/-1",
                                        "x", "10.0.0.0/0008", "10.0.0.1 ", ",", "[::1]", "1.2.3.4/8/8"};
    for (size_t i = 0; i < AG_ARRAY_LEN(wrong); i++) {
        if (ag__trust_parse(&t, wrong[i], &err) != AG_E_USAGE) fail_msg("%s", wrong[i]);
        assert_non_null(strstr(err.text, "is not a network of trusted proxies"));
        ag_err_clear(&err);
    }
}

static void test_forwarded(void **state)
{
    (void)state;
    static const struct { const char *one, *two, *client; } rows[] = {
        {"203.0.113.9", NULL, "203.0.113.9"},
        {"198.51.100.1, 203.0.113.9", NULL, "203.0.113.9"},             /* what stands before may be made up */
        {"203.0.113.9, 10.0.0.2,10.0.0.3", NULL, "203.0.113.9"},
        {"198.51.100.1", "203.0.113.9", "203.0.113.9"},
        {"203.0.113.9", "10.0.0.3", "203.0.113.9"},
        {"10.0.0.2, 10.0.0.3", NULL, "10.0.0.2"},
        {"203.0.113.9:4711", NULL, "203.0.113.9"},
        {"[2001:db8::1]:80", NULL, "2001:db8::1"},
        {"2001:db8::1", NULL, "2001:db8::1"},
        {"203.0.113.9, unknown", NULL, NULL},
        {"203.0.113.9, unknown, 10.0.0.3", NULL, "10.0.0.3"},
        {"", NULL, NULL},
        {",", NULL, NULL},
        {"[", NULL, NULL},
        {":", NULL, NULL},
        {NULL, NULL, NULL},
    };
    ag__trust t;
    ag_err err = {0};
    assert_int_equal(ag__trust_parse(&t, "10.0.0.0/8", &err), AG_OK);
    for (size_t i = 0; i < AG_ARRAY_LEN(rows); i++) {
        ag_http_header h[3] = {{AG_STR("X-Forwarded-For"), ag_str_of(rows[i].one)},
                               {AG_STR("x"), AG_STR("203.0.113.1")},
                               {AG_STR("x-forwarded-for"), ag_str_of(rows[i].two)}};
        ag_http_head head = {.headers = rows[i].one ? h : h + 1, .n_headers = rows[i].two ? 3 : rows[i].one ? 2 : 1};
        ag__ip got, want = rows[i].client ? ip_of(rows[i].client) : (ag__ip){{0}};
        bool named = ag__trust_forwarded(&t, &head, &got);
        bool same = !named || memcmp(&got, &want, sizeof got) == 0;
        if (named != (rows[i].client != NULL) || !same) fail_msg("row %zu", i);
    }
}

#define PROXY "\r\n\r\n\0\r\nQUIT\n"

static void test_proxied(void **state)
{
    (void)state;
#define ROW(z, verdict, used, client) {z, sizeof(z) - 1, verdict, used, client}
    static const struct { const char *p; size_t n; ag__proxied verdict; size_t used; const char *client; } rows[] = {
        ROW(PROXY "\x21\x11\0\x0c\xcb\0\x71\x09\x7f\0\0\1\x11\x11\0\x50GET", AG__PROXIED, 28, "203.0.113.9"),
        ROW(PROXY "\x21\x11\0\x10\xcb\0\x71\x09\x7f\0\0\1\x11\x11\0\x50\4\0\1x", AG__PROXIED, 32, "203.0.113.9"),
        ROW(PROXY "\x21\x21\0\x24\x20\1\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\1" "0123456789abcdef" "1234", AG__PROXIED, 52,
            "2001:db8::1"),
        ROW(PROXY "\x20\0\0\0", AG__PROXIED, 16, NULL),
        ROW(PROXY "\x21\0\0\0", AG__PROXIED, 16, NULL),
        ROW(PROXY "\x21\x31\0\2xy", AG__PROXIED, 18, NULL),
        ROW(PROXY "\x21\x11\0\x0b\xcb\0\x71\x09\x7f\0\0\1\x11\x11\0", AG__PROXIED_BAD, 0, NULL),
        ROW(PROXY "\x21\x21\0\x0c\xcb\0\x71\x09\x7f\0\0\1\x11\x11\0\x50", AG__PROXIED_BAD, 0, NULL),
        ROW(PROXY "\x11\x11\0\0", AG__PROXIED_BAD, 0, NULL),
        ROW(PROXY "\x22\x11\0\0", AG__PROXIED_BAD, 0, NULL),
        ROW(PROXY "\x21\x12\0\0", AG__PROXIED_BAD, 0, NULL),
        ROW(PROXY "\x21\x11\xff\xff", AG__PROXIED_BAD, 0, NULL),
        ROW(PROXY "\x21\x11\0\x0c\xcb", AG__PROXIED_MORE, 0, NULL),
        ROW(PROXY, AG__PROXIED_MORE, 0, NULL),
        ROW("\r\n", AG__PROXIED_MORE, 0, NULL),
        ROW("\r\nG", AG__PROXIED_NOT, 0, NULL),
        ROW("GET / HTTP/1.1\r\n", AG__PROXIED_NOT, 0, NULL),
        ROW("PROXY TCP4 1.2.3.4", AG__PROXIED_NOT, 0, NULL),
    };
    for (size_t i = 0; i < AG_ARRAY_LEN(rows); i++) {
        char *exact = malloc(rows[i].n); /* so that a read past it is seen */
        memcpy(exact, rows[i].p, rows[i].n);
        size_t used;
        bool named;
        ag__ip got, want = rows[i].client ? ip_of(rows[i].client) : (ag__ip){{0}};
        ag__proxied verdict = ag__trust_proxied(exact, rows[i].n, &used, &named, &got);
        if (verdict != rows[i].verdict) fail_msg("row %zu: %d", i, verdict);
        if (used != rows[i].used || named != (rows[i].client != NULL)) fail_msg("row %zu", i);
        if (named && memcmp(&got, &want, sizeof got) != 0) fail_msg("row %zu: another client", i);
        free(exact);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_networks),
        cmocka_unit_test(test_forwarded),
        cmocka_unit_test(test_proxied),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
