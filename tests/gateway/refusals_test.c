/* Who is refused, and in which form: before there is a request, and before anything of it is looked at. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include "gateway/served.h"

/* Who comes over a trusted proxy's connection is nobody of this machine, whatever the proxy says or passes on. */
static void proxies_bring_strangers(void **state)
{
    (void)state;
    static const char *const rows[] = {"", "X-Forwarded-For: 127.0.0.1\r\n", "X-Forwarded-For: unix\r\n",
                                       "X-Forwarded-For: 203.0.113.9\r\n"};
    static const char proxy[] = "\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\x7f\0\0\1\x7f\0\0\1\x11\x11\0\x50"; /* 127.0.0.1 */
    ag_gateway_conf conf = AG_GATEWAY_CONF_DEFAULT;
    expect(200, "GET", "/admin/v1/connections", "", NULL, NULL);
    expect(200, "GET", "/admin/v1/connections", "X-Forwarded-For: 203.0.113.9\r\n", NULL, NULL); /* means nothing */
    teardown(NULL);
    conf.trusted_proxies = "127.0.0.1";
    serve(conf, true);
    for (size_t i = 0; i < AG_ARRAY_LEN(rows); i++) {
        expect(403, "GET", "/admin/v1/connections", rows[i], NULL, "only to programs on this machine");
        expect(403, "DELETE", "/admin/v1/cache?all=1", rows[i], NULL, "only to programs on this machine");
        expect(200, "GET", "/v1/models", rows[i], NULL, NULL);
    }
    int fd = dial();
    send_all(fd, proxy, sizeof proxy - 1);
    send_request(fd, "GET", "/admin/v1/connections", "", NULL);
    char *reply = read_all(fd);
    assert_int_equal(status_of(reply), 403);
    free(reply);
}

typedef struct refusal {
    int status;
    const char *path, *headers, *body;
} refusal;

/* In the form of the path, with the id that the client gave, also where no request came of it. */
static void refusals_speak_the_dialect_of_their_path(void **state)
{
    (void)state;
    static const struct { const char *path, *form; } paths[] = {
        {"/v1/messages", "{\"type\":\"error\",\"error\":{\"type\":\""},
        {"/v1/messages/nowhere", "{\"type\":\"error\",\"error\":{\"type\":\""},
        {"/v2/models/fake/infer", "{\"error\":\""},
        {"/v2/nowhere", "{\"error\":\""},
        {"/v1/chat/completions", "{\"error\":{\"message\":\""},
        {"/nowhere", "{\"error\":{\"message\":\""},
        {"/v1/messages-nowhere", "{\"error\":{\"message\":\""},
        {"/v2nowhere", "{\"error\":{\"message\":\""},
    };
    static const char json[] = "Content-Type: application/json\r\n";
    static char many[1200];
    teardown(NULL);
    ag_gateway_conf conf = AG_GATEWAY_CONF_DEFAULT;
    conf.body_bytes_max = 1000;
    conf.target_bytes_max = 100;
    conf.body_timeout_ms = 500;
    serve(conf, true);
    memset(many, 'x', sizeof many - 1);
    char longer[300];
    for (size_t i = 0; i < AG_ARRAY_LEN(paths); i++) {
        bool there = strstr(paths[i].path, "nowhere") == NULL;
        snprintf(longer, sizeof longer, "%s?%.150s", paths[i].path, many);
        const refusal rows[] = {
            {403, paths[i].path, "Origin: https://evil.example\r\n", "{}"},
            {403, paths[i].path, "Host: evil.example\r\n", "{}"},
            {413, paths[i].path, "", many},
            {414, longer, "", "{}"},
            {there ? 413 : 404, paths[i].path, "Transfer-Encoding: chunked\r\n", NULL},
            {there ? 408 : 404, paths[i].path, "Content-Type: application/json\r\nContent-Length: 9\r\n", NULL},
        };
        for (size_t k = 0; k < AG_ARRAY_LEN(rows); k++) {
            char headers[300], *reply;
            int fd = dial();
            bool chunked = strstr(rows[k].headers, "chunked") != NULL;
            snprintf(headers, sizeof headers, "x-request-id: mine-7\r\n%s%s", rows[k].headers, chunked ? json : "");
            send_request(fd, "POST", rows[k].path, headers, rows[k].body);
            if (chunked) send_text(fd, "7d0\r\n"); /* 2000 bytes, it says */
            reply = read_all(fd);
            const char *body = strstr(reply, "\r\n\r\n");
            if (status_of(reply) != rows[k].status || body == NULL ||
                strncmp(body + 4, paths[i].form, strlen(paths[i].form)) != 0 ||
                strcasestr(reply, "\r\nx-request-id: mine-7\r\n") == NULL)
                fail_msg("%s, row %zu: %s", paths[i].path, k, reply);
            bool told = strcasestr(reply, "\r\nrequest-id: mine-7\r\n") != NULL;
            assert_int_equal(told, i < 2);
            free(reply);
        }
    }
    /* Without a head that could be read, or an id that could be told, there is one of ours. */
    expect(413, "POST", "/v1/messages", "x-request-id: two words\r\n", many, "x-request-id: req-");
    char *reply = ask("POST", "/v1/messages", "X : y\r\n", "{}");
    assert_true(status_of(reply) == 400 && strcasestr(reply, "x-request-id: req-"));
    free(reply);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        SERVED(proxies_bring_strangers),
        SERVED(refusals_speak_the_dialect_of_their_path),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
