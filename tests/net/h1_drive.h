/* h1_drive.h - feeds the HTTP/1 parser in pieces and writes down what it says; shared by h1_test.c and net_fuzz.c. */
#ifndef AG_TESTS_H1_DRIVE_H
#define AG_TESTS_H1_DRIVE_H

#include <stdlib.h>

#include "net/h1.h"

enum { DRIVE_HEADERS_MAX = 16, DRIVE_HEADER_BYTES_MAX = 1024, DRIVE_BODY_MAX = 4096 };

typedef size_t drive_cut(void *arg, size_t left); /* size of the next piece, 1..left */

typedef struct drive {
    ag_buf log;
    bool in_message, in_body, over;
    uint32_t requests, bads;
} drive;

static void drive_note(drive *d, const ag__h1 *h, ag__h1_ev ev, const char *head)
{
    if (ev == AG__H1_MORE) return;
    if (ev != AG__H1_BODY && d->in_body) ag_buf_addc(&d->log, '\n');
    switch (ev) {
    case AG__H1_HEAD:
        AG_ASSERT(!d->in_message);
        AG_ASSERT(h->head.pub.target.p >= head && h->head.pub.target.p + h->head.pub.target.n <= head + h->head_bytes);
        ag_buf_addf(&d->log, "H %.*s %.*s 1.%u body=%d length=%lld keep=%d expect=%d\n", (int)h->head.pub.method.n,
                    h->head.pub.method.p, (int)h->head.pub.target.n, h->head.pub.target.p, h->head.pub.minor,
                    h->head.pub.has_body, (long long)h->head.pub.content_length, h->head.persistent,
                    h->head.expect_continue);
        for (uint32_t i = 0; i < h->head.pub.n_headers; i++) {
            const ag_http_header *x = &h->head.pub.headers[i];
            ag_buf_addf(&d->log, " %.*s=", (int)x->name.n, x->name.p);
            ag_buf_add(&d->log, x->value.p, x->value.n);
            ag_buf_addc(&d->log, '\n');
        }
        d->in_message = true;
        break;
    case AG__H1_BODY:
        AG_ASSERT(d->in_message && h->head.pub.has_body && h->body.n > 0);
        if (!d->in_body) ag_buf_addc(&d->log, 'B');
        ag_buf_add(&d->log, h->body.p, h->body.n);
        break;
    case AG__H1_END:
        AG_ASSERT(d->in_message);
        ag_buf_addz(&d->log, "E\n");
        d->in_message = false;
        d->requests++;
        break;
    case AG__H1_BAD:
        ag_buf_addf(&d->log, "X %s %d %s\n", ag_http_bad_name(h->bad.why), ag_err_find(h->bad.err)->http,
                    h->bad.sentence);
        d->over = true;
        d->bads++;
        break;
    case AG__H1_MORE: break;
    }
    d->in_body = ev == AG__H1_BODY;
}

/* Every call sees its bytes in a piece of memory of exactly their size, so that a read past them is caught. */
static void drive_run(drive *d, const char *p, size_t n, drive_cut *cut, void *arg)
{
    static ag_http_header slots[DRIVE_HEADERS_MAX];
    ag__h1_limits limits = {DRIVE_HEADER_BYTES_MAX, DRIVE_HEADERS_MAX, DRIVE_BODY_MAX, slots};
    ag__h1 h;
    ag__h1_init(&h, &limits);
    *d = (drive){0};
    ag_buf_init(&d->log, n * 4 + (n + 1) * 128 + 4096);
    size_t at = 0, got = 0; /* parsed up to `at`, arrived up to `got` */
    while (!d->over) {
        size_t len = got - at, used;
        char *window = malloc(len ? len : 1);
        AG_ASSERT(window != NULL);
        if (len) memcpy(window, p + at, len);
        ag__h1_ev ev = ag__h1_next(&h, len ? window : NULL, len, &used);
        AG_ASSERT(used <= len);
        drive_note(d, &h, ev, window + used - (ev == AG__H1_HEAD ? h.head_bytes : 0));
        free(window);
        at += used;
        if (ev != AG__H1_MORE) continue;
        AG_ASSERT(got - at <= DRIVE_HEADER_BYTES_MAX);
        if (got == n) break;
        size_t more = cut(arg, n - got);
        AG_ASSERT(more >= 1 && more <= n - got);
        got += more;
    }
    if (d->in_body) ag_buf_addc(&d->log, '\n');
    AG_ASSERT(!d->log.failed);
}

static AG_UNUSED size_t drive_whole(void *arg, size_t left)
{
    (void)arg;
    return left;
}

static AG_UNUSED size_t drive_bytes(void *arg, size_t left)
{
    (void)arg;
    (void)left;
    return 1;
}

#endif
