/* HTTP/2 on anything: the input is what a client sends behind its preface and SETTINGS, cut where its first byte says,
 * to a connection on a loop that this turns by hand. Each request must get its done, whatever ends it. Paths say what
 * the handler does, by their length. */
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "net/net.h"

typedef struct seen { int heads, dones; } seen;

static void on_head(void *arg, ag_http_stream *s, const ag_http_head *head, void **user)
{
    seen *n = arg;
    n->heads++;
    *user = n;
    AG_ASSERT(head->path.n > 0 && ag_http_head_get(head, "host").p != NULL);
    if (head->path.n % 8 == 7) ag_http_respond(s, 403, NULL, 0, "no", 2);
}

static void on_body(void *user, ag_http_stream *s, const char *p, size_t n)
{
    AG_ASSERT(user && s && p && n > 0);
}

static void on_end(void *user, ag_http_stream *s)
{
    static char big[100000];
    const ag_http_header h = {AG_STR("x-some"), AG_STR("header")};
    AG_ASSERT(user);
    switch (s->head.path.n % 8) {
    case 1: ag_http_respond(s, 200, &h, 1, "hello", 5); break;
    case 2: ag_http_respond(s, 204, NULL, 0, NULL, 0); break;
    case 3: ag_http_respond(s, 200, NULL, 0, big, sizeof big); break;
    case 4: ag_http_abort(s); break;
    case 5: break; /* never */
    default:
        ag_http_begin(s, 200, &h, 1);
        while (ag_http_write(s, big, 3000)) continue;
        if (s->head.path.n % 8 == 6) ag_http_abort(s);
        else ag_http_end(s);
    }
}

static void on_gone(void *user, ag_http_stream *s) { AG_ASSERT(user && !ag_http_write(s, "x", 1)); }

static void done(void *user, ag_http_stream *s)
{
    AG_ASSERT(s);
    ((seen *)user)->dones++;
}

static void on_message(void *arg, ag_http_loop *l, void *msg) { AG_ASSERT(arg && l && msg); }

static void drain(int fd)
{
    static char in[65536];
    while (recv(fd, in, sizeof in, MSG_DONTWAIT) > 0) continue;
}

static void turn(ag_http_server *s, int fd)
{
    for (int i = 0; i < 4; i++) {
        uv_run(&s->loops[0].uv, UV_RUN_NOWAIT);
        drain(fd);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    static ag_http_server *s;
    static seen now;
    if (s == NULL) {
        ag_http_conf conf = {
            .host = "127.0.0.1", .loops = 1, .header_bytes_max = 2048, .headers_max = 16, .target_bytes_max = 1000,
            .body_bytes_max = 5000,
            .header_timeout_ms = 1000000, .body_timeout_ms = 1000000, .idle_timeout_ms = 1000000,
            .write_timeout_ms = 1000000, .connections_max = 2, .connections_per_address_max = 2, .mailbox_cap = 1,
            .out_bytes_max = 20000, .h2_streams_max = 5, .h2_window_bytes = 3000, .h2_connection_window_bytes = 65535,
            .h2_resets_max = 20, .h2_frames_max = 50, .tls_handshakes_max = 1};
        ag_http_handler h = {.on_head = on_head, .on_body = on_body, .on_end = on_end, .on_gone = on_gone, .done = done,
                             .on_message = on_message, .arg = &now};
        ag_err err = {0};
        AG_ASSERT(ag_http_server_open(&s, &conf, &h, &err) == AG_OK);
    }
    if (n < 1 || n > 20000) return 0;
    int pair[2];
    AG_ASSERT(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair) == 0);
    struct sockaddr none = {.sa_family = AF_UNIX};
    ag__conn *c = ag__conn_create(&s->loops[0], pair[0], &none);
    AG_ASSERT(c != NULL);
    c->counted = true;
    s->n_conns = 1;
    s->loops[0].n_conns = 1;
    now = (seen){0};
    ag__conn_start(c);
    size_t cut = data[0] ? data[0] : n, at = 1;
    if (send(pair[1], "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0", 33, MSG_NOSIGNAL) != 33) at = n;
    ag__loop_leave(&s->loops[0]);
    while (at < n) {
        ssize_t k = send(pair[1], data + at, AG_MIN(cut, n - at), MSG_NOSIGNAL);
        if (k <= 0) break;
        at += (size_t)k;
        turn(s, pair[1]);
    }
    turn(s, pair[1]);
    close(pair[1]);
    for (int i = 0; i < 100 && s->n_conns; i++) uv_run(&s->loops[0].uv, UV_RUN_NOWAIT);
    AG_ASSERT(s->n_conns == 0 && now.heads == now.dones);
    return 0;
}
