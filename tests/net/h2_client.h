/* h2_client.h - an HTTP/2 client for the tests of net: nghttp2's client session over a socket of rig.h, and raw frames
 * for what no session would send. */
#ifndef AG_TESTS_NET_H2_CLIENT_H
#define AG_TESTS_NET_H2_CLIENT_H

#include "rig.h"

#include <nghttp2/nghttp2.h>

enum { H2_REPLIES = 1200 };

typedef struct h2_reply {
    int32_t id;
    int status;
    bool closed, goaway_first;
    uint32_t error, frames; /* frames: of data */
    bool continued;         /* an interim answer came first */
    char head[2048];        /* "name: value\n" lines */
    char *body;
    size_t n;
    const char *sends;
    size_t n_sends;
    bool sends_more;        /* the request's body does not end with what there is */
} h2_reply;

typedef struct h2_client {
    int fd;
    nghttp2_session *session;
    h2_reply *replies;
    size_t n_replies;
    bool over, goaway, settled;
    bool shut; /* our side is: nothing more is sent */
    uint32_t goaway_code;
} h2_client;

static h2_reply *h2_find(h2_client *c, int32_t id)
{
    for (size_t i = 0; i < c->n_replies; i++)
        if (c->replies[i].id == id) return &c->replies[i];
    fail_msg("no stream %d", id);
    return NULL;
}

static int h2_on_header(nghttp2_session *s AG_UNUSED, const nghttp2_frame *f, const uint8_t *name, size_t n_name,
                        const uint8_t *value, size_t n_value, uint8_t flags AG_UNUSED, void *user)
{
    h2_reply *a = h2_find(user, f->hd.stream_id);
    if (n_name == 7 && memcmp(name, ":status", 7) == 0) {
        a->continued |= a->status == 100;
        a->status = atoi((const char *)value);
    }
    size_t n = strlen(a->head);
    snprintf(a->head + n, sizeof a->head - n, "%.*s: %.*s\n", (int)n_name, name, (int)n_value, value);
    return 0;
}

static int h2_on_data(nghttp2_session *s AG_UNUSED, uint8_t flags AG_UNUSED, int32_t id, const uint8_t *p, size_t n,
                      void *user)
{
    h2_reply *a = h2_find(user, id);
    a->body = realloc(a->body, a->n + n + 1);
    memcpy(a->body + a->n, p, n);
    a->n += n;
    a->body[a->n] = 0;
    a->frames++;
    return 0;
}

static int h2_on_close(nghttp2_session *s AG_UNUSED, int32_t id, uint32_t error, void *user)
{
    h2_reply *a = h2_find(user, id);
    a->closed = true;
    a->error = error;
    return 0;
}

static int h2_on_frame(nghttp2_session *s AG_UNUSED, const nghttp2_frame *f, void *user)
{
    h2_client *c = user;
    if (f->hd.type == NGHTTP2_SETTINGS) c->settled = true;
    if (f->hd.type != NGHTTP2_GOAWAY) return 0;
    c->goaway = true;
    c->goaway_code = f->goaway.error_code;
    return 0;
}

static ssize_t h2_source(nghttp2_session *s AG_UNUSED, int32_t id AG_UNUSED, uint8_t *to, size_t room, uint32_t *flags,
                         nghttp2_data_source *source, void *user)
{
    h2_reply *a = h2_find(user, source->fd);
    size_t n = AG_MIN(room, a->n_sends);
    if (n == 0 && a->sends_more) return NGHTTP2_ERR_DEFERRED;
    memcpy(to, a->sends, n);
    a->sends += n;
    a->n_sends -= n;
    if (a->n_sends == 0 && !a->sends_more) *flags |= NGHTTP2_DATA_FLAG_EOF;
    return (ssize_t)n;
}

/* `manual`: windows are opened only by the test. */
static void h2_open(h2_client *c, int fd, bool manual)
{
    *c = (h2_client){.fd = fd, .replies = calloc(H2_REPLIES, sizeof(h2_reply))};
    nghttp2_session_callbacks *cb;
    nghttp2_option *option;
    nghttp2_session_callbacks_new(&cb);
    nghttp2_option_new(&option);
    nghttp2_option_set_no_auto_window_update(option, manual);
    nghttp2_session_callbacks_set_on_header_callback(cb, h2_on_header);
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(cb, h2_on_data);
    nghttp2_session_callbacks_set_on_stream_close_callback(cb, h2_on_close);
    nghttp2_session_callbacks_set_on_frame_recv_callback(cb, h2_on_frame);
    assert_int_equal(nghttp2_session_client_new2(&c->session, cb, c, option), 0);
    nghttp2_option_del(option);
    nghttp2_session_callbacks_del(cb);
    nghttp2_submit_settings(c->session, NGHTTP2_FLAG_NONE, NULL, 0);
}

static AG_UNUSED void h2_dial(h2_client *c, rig *r) { h2_open(c, dial(r), false); }

static AG_UNUSED void h2_hang_up(h2_client *c)
{
    for (size_t i = 0; i < c->n_replies; i++) free(c->replies[i].body);
    free(c->replies);
    nghttp2_session_del(c->session);
    close(c->fd);
}

static void h2_flush(h2_client *c)
{
    const uint8_t *p;
    for (ssize_t n; !c->shut && (n = nghttp2_session_mem_send(c->session, &p)) > 0;)
        if (!send_n(c->fd, (const char *)p, (size_t)n)) c->over = true;
}

/* Sends what there is, takes one read's worth; false: the connection has ended. */
static bool h2_turn(h2_client *c)
{
    static char in[65536];
    h2_flush(c);
    if (c->over) return false;
    errno = 0;
    ssize_t n = TEMP_FAILURE_RETRY(recv(c->fd, in, sizeof in, 0));
    if (n < 0 && errno == EAGAIN) fail_msg("the server says nothing");
    if (n <= 0 || nghttp2_session_mem_recv(c->session, (uint8_t *)in, (size_t)n) != n) c->over = true;
    if (!c->over) h2_flush(c);
    return !c->over;
}

static nghttp2_nv h2_nv(const char *name, const char *value)
{
    return (nghttp2_nv){(uint8_t *)name, (uint8_t *)value, strlen(name), strlen(value), NGHTTP2_NV_FLAG_NONE};
}

static int32_t h2_submit(h2_client *c, const nghttp2_nv *nv, size_t n_nv, const char *body, size_t n, bool more)
{
    assert_true(c->n_replies < H2_REPLIES);
    h2_reply *a = &c->replies[c->n_replies++];
    *a = (h2_reply){.body = calloc(1, 1), .sends = body, .n_sends = n, .sends_more = more};
    a->id = (int32_t)(2 * c->n_replies - 1);
    nghttp2_data_provider source = {.source.fd = a->id, .read_callback = h2_source};
    int32_t id = nghttp2_submit_request(c->session, NULL, nv, n_nv, n || more ? &source : NULL, NULL);
    assert_int_equal(id, a->id);
    return id;
}

static AG_UNUSED int32_t h2_ask_with(h2_client *c, const char *method, const char *path, const char *body, size_t n,
                                     bool more, const nghttp2_nv *extra, size_t n_extra)
{
    nghttp2_nv nv[64] = {h2_nv(":method", method), h2_nv(":scheme", "http"), h2_nv(":path", path),
                         h2_nv(":authority", "a")};
    if (n_extra) memcpy(nv + 4, extra, n_extra * sizeof *nv);
    return h2_submit(c, nv, 4 + n_extra, body, n, more);
}

static AG_UNUSED int32_t h2_get(h2_client *c, const char *path)
{
    return h2_ask_with(c, "GET", path, NULL, 0, false, NULL, 0);
}

static AG_UNUSED int32_t h2_post(h2_client *c, const char *path, const char *body)
{
    return h2_ask_with(c, "POST", path, body, strlen(body), false, NULL, 0);
}

static AG_UNUSED h2_reply *h2_wait(h2_client *c, int32_t id)
{
    while (!h2_find(c, id)->closed && h2_turn(c)) {}
    return h2_find(c, id);
}

static AG_UNUSED void h2_expect(h2_client *c, int32_t id, int status, const char *body)
{
    h2_reply *a = h2_wait(c, id);
    if (!a->closed || a->status != status || strcmp(a->body, body) != 0)
        fail_msg("stream %d: closed %d, error %u, status %d, body \"%s\"; expected %d \"%s\"", id, a->closed, a->error,
                 a->status, a->body, status, body);
}

/* An answer of the room itself: its body begins with the reason. The connection goes on. */
static AG_UNUSED void h2_expect_bad(h2_client *c, int32_t id, int status, const char *why)
{
    h2_reply *a = h2_wait(c, id);
    if (!a->closed || a->status != status || strncmp(a->body, why, strlen(why)) != 0)
        fail_msg("stream %d: closed %d, error %u, status %d, body \"%s\"; expected %d \"%s\"", id, a->closed, a->error,
                 a->status, a->body, status, why);
}

/* The server ends the connection with GOAWAY. */
static AG_UNUSED void h2_expect_end(h2_client *c, uint32_t code)
{
    while (h2_turn(c)) {}
    if (!c->goaway || c->goaway_code != code) fail_msg("goaway %d, code %u, not %u", c->goaway, c->goaway_code, code);
}

/* Raw frames. */
static AG_UNUSED void h2_raw_dial(rig *r, int *fd)
{
    *fd = dial(r);
    assert_true(send_n(*fd, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0", 24 + 9));
}

static AG_UNUSED bool h2_raw(int fd, uint8_t type, uint8_t flags, uint32_t id, const char *p, size_t n)
{
    char hd[9] = {(char)(n >> 16), (char)(n >> 8), (char)n, (char)type, (char)flags,
                  (char)(id >> 24), (char)(id >> 16), (char)(id >> 8), (char)id};
    return send_n(fd, hd, 9) && send_n(fd, p, n);
}

/* GET / at "a", indexed. */
#define H2_RAW_GET "\x82\x84\x86\x41\x01\x61"

/* Reads frames until one of this type (of this stream, when id is not 0); its payload in p. -1: the end came first. */
static AG_UNUSED ssize_t h2_raw_wait(int fd, uint8_t type, uint32_t id, char *p, size_t cap)
{
    for (;;) {
        unsigned char hd[9];
        for (int i = 0; i < 9; i++) {
            int b = get_byte(fd);
            if (b < 0) return -1;
            hd[i] = (unsigned char)b;
        }
        size_t n = (size_t)hd[0] << 16 | (size_t)hd[1] << 8 | hd[2];
        uint32_t on = (uint32_t)hd[5] << 24 | (uint32_t)hd[6] << 16 | (uint32_t)hd[7] << 8 | hd[8];
        for (size_t i = 0; i < n; i++) {
            int b = get_byte(fd);
            if (b < 0) return -1;
            if (i < cap) p[i] = (char)b;
        }
        if (hd[3] == type && (id == 0 || id == on)) return (ssize_t)n;
    }
}

static AG_UNUSED void h2_raw_expect_end(int fd, uint32_t code)
{
    unsigned char p[8] = {0};
    if (h2_raw_wait(fd, NGHTTP2_GOAWAY, 0, (char *)p, sizeof p) < 8) fail_msg("the end came without GOAWAY");
    assert_int_equal((uint32_t)p[4] << 24 | (uint32_t)p[5] << 16 | (uint32_t)p[6] << 8 | p[7], code);
    assert_int_equal(h2_raw_wait(fd, 255, 0, NULL, 0), -1);
    close(fd);
}

#endif
