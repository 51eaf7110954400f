/* served.h - a gateway with the fake engine behind it, and a client that speaks bytes.
 * Owns    : what setup opened, until teardown. Threads: the test's own. Limits, errors: none of its own; a test that
 *           cannot be set up fails. */
#ifndef SERVED_H
#define SERVED_H

#include <arpa/inet.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/fault.h"
#include "base/mem.h"
#include "gateway/fake_engine.c"
#include "gateway/gateway.h"

static ag_gateway *gw;
static ag_metrics *metrics;
static ag_engine *engine;
static ag_log *access_log; /* written to nowhere, but written: its lines read what a request has left */

AG_UNUSED static void serve(ag_gateway_conf conf, bool with_engine)
{
    ag_err err = {0};
    conf.port = 0;
    conf.loops = 2;
    assert_int_equal(ag_metrics_open(&metrics, "1", ""), AG_OK);
    assert_int_equal(ag_log_open(&access_log, &(ag_log_conf){.level = AG_LOG_DEBUG, .file = "/dev/null"}, &err), AG_OK);
    if (ag_gateway_open(&gw, &conf, metrics, access_log, &err) != AG_OK) fail_msg("%s", err.text);
    assert_int_equal(ag_gateway_start(gw, &err), AG_OK);
    engine = fake_engine_open();
    if (with_engine) ag_gateway_set_engine(gw, engine, NULL);
}

AG_UNUSED static int setup(void **state)
{
    (void)state;
    serve(AG_GATEWAY_CONF_DEFAULT, true);
    return 0;
}

AG_UNUSED static int teardown(void **state)
{
    (void)state;
    ag_gateway_drain(gw);
    ag_gateway_stop(gw, 10000);
    fake_engine_close();
    ag_gateway_close(gw);
    ag_log_close(access_log);
    ag_metrics_close(metrics);
    assert_int_equal(fake_engine_live(), 0);
    return 0;
}

/* A client: one connection, blocking. */

AG_UNUSED static int dial(void)
{
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in a = {
        .sin_family = AF_INET, .sin_port = htons(ag_gateway_port(gw)), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    assert_int_equal(connect(fd, (struct sockaddr *)&a, sizeof a), 0);
    return fd;
}

AG_UNUSED static void send_all(int fd, const char *p, size_t n)
{
    while (n) {
        ssize_t k = send(fd, p, n, MSG_NOSIGNAL);
        if (k <= 0) return; /* refused early: the answer is read all the same */
        p += k;
        n -= (size_t)k;
    }
}

AG_UNUSED static void send_text(int fd, const char *z) { send_all(fd, z, strlen(z)); }

AG_UNUSED static char *read_all(int fd)
{
    size_t n = 0, cap = 1 << 16;
    char *z = malloc(cap + 1);
    for (ssize_t k; (k = recv(fd, z + n, cap - n, 0)) > 0;) {
        n += (size_t)k;
        if (n == cap) z = realloc(z, (cap *= 2) + 1);
    }
    z[n] = 0;
    close(fd);
    return z;
}

AG_UNUSED static void send_request(int fd, const char *method, const char *path, const char *headers, const char *body)
{
    ag_buf b;
    ag_buf_init(&b, 64u << 20);
    ag_buf_addf(&b, "%s %s HTTP/1.1\r\nConnection: close\r\n%s", method, path, headers);
    if (strstr(headers, "Host:") == NULL) ag_buf_addz(&b, "Host: localhost\r\n");
    if (body && strstr(headers, "Content-Type:") == NULL) ag_buf_addz(&b, "Content-Type: application/json\r\n");
    if (body) ag_buf_addf(&b, "Content-Length: %zu\r\n", strlen(body));
    ag_buf_addz(&b, "\r\n");
    if (body) ag_buf_addz(&b, body);
    send_all(fd, b.p, b.n);
    ag_buf_fini(&b);
}

AG_UNUSED static char *ask(const char *method, const char *path, const char *headers, const char *body)
{
    int fd = dial();
    send_request(fd, method, path, headers, body);
    return read_all(fd);
}

AG_UNUSED static int status_of(const char *reply)
{
    int status = 0;
    sscanf(reply, "HTTP/1.1 %d", &status);
    return status;
}

/* Undoes chunked framing where there is one. */
AG_UNUSED static char *body_of(const char *reply)
{
    const char *at = strstr(reply, "\r\n\r\n");
    if (at == NULL) return strdup("");
    bool chunked =
        strcasestr(reply, "transfer-encoding: chunked") && strcasestr(reply, "transfer-encoding: chunked") < at;
    at += 4;
    if (!chunked) return strdup(at);
    char *out = malloc(strlen(at) + 1);
    size_t n = 0;
    for (;;) {
        char *end;
        unsigned long k = strtoul(at, &end, 16);
        if (k == 0 || strlen(end + 2) < k) break;
        memcpy(out + n, end + 2, k);
        n += k;
        at = end + 2 + k + 2;
    }
    out[n] = 0;
    return out;
}

AG_UNUSED static json_t *post_json(const char *path, const char *body, int want)
{
    char *reply = ask("POST", path, "", body), *text = body_of(reply);
    if (status_of(reply) != want) fail_msg("wanted %d: %s", want, reply);
    json_error_t e;
    json_t *j = json_loads(text, 0, &e);
    if (j == NULL) fail_msg("%s: %s", e.text, text);
    free(text);
    free(reply);
    return j;
}

AG_UNUSED static const char *str_at(json_t *j, const char *name) { return json_string_value(json_object_get(j, name)); }
AG_UNUSED static json_t *choice_at(json_t *j, size_t i) { return json_array_get(json_object_get(j, "choices"), i); }

AG_UNUSED static void expect(int status, const char *method, const char *path, const char *headers, const char *body,
                   const char *part)
{
    char *reply = ask(method, path, headers, body);
    if (status_of(reply) != status || (part && strcasestr(reply, part) == NULL))
        fail_msg("%s %s wanted %d and '%s':\n%s", method, path, status, part ? part : "", reply);
    if (strcasestr(reply, "x-request-id: ") == NULL) fail_msg("no request id: %s", reply);
    free(reply);
}

AG_UNUSED static void wait_until_idle(void)
{
    while (ag_gateway_requests(gw) != 0 || fake_engine_live() != 0) usleep(1000);
}

AG_UNUSED static void read_until(int fd, const char *part)
{
    char seen[4096];
    size_t n = 0;
    for (ssize_t k; n < sizeof seen - 1 && (k = recv(fd, seen + n, sizeof seen - 1 - n, 0)) > 0;) {
        n += (size_t)k;
        seen[n] = 0;
        if (strstr(seen, part)) return;
    }
    fail_msg("no '%s'", part);
}

#define SERVED(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

#endif
