/* h1.h - HTTP/1 requests out of bytes: our checks, then llhttp, one event at a time.
 * Owns    : nothing; the struct is held by the caller. Slices of an event point into the bytes given to that call.
 * Threads : one at a time.
 * Limits  : ag__h1_limits; `slots` is scratch for headers_max headers, used only within a call and by its event.
 * Errors  : the event BAD, with the reason in `bad`; nothing can be read after it.
 * Layers  : knows no sockets and no clocks, so that a fuzzer can drive it. */
#ifndef AG_NET_H1_H
#define AG_NET_H1_H

#include <llhttp.h>

#include "net/chunk.h"
#include "net/head.h"

typedef enum ag__h1_ev { AG__H1_MORE, AG__H1_HEAD, AG__H1_BODY, AG__H1_END, AG__H1_BAD } ag__h1_ev;

typedef struct ag__h1_limits {
    uint32_t header_bytes_max, headers_max;
    uint64_t body_bytes_max;
    ag_http_header *slots;
} ag__h1_limits;

typedef struct ag__h1 {
    const ag__h1_limits *limits;
    llhttp_t ll;
    enum { AG__H1_AT_HEAD, AG__H1_AT_LENGTH, AG__H1_AT_CHUNKS, AG__H1_AT_END, AG__H1_AT_BAD } at;
    size_t scanned;      /* bytes of this head that were looked at */
    bool lead;           /* the one empty line that may stand before a request was seen */
    bool ll_head, ll_end;
    uint64_t left;       /* of a body with a declared length */
    ag__chunk chunk;
    /* of the last event */
    ag__head head;       /* HEAD */
    size_t head_bytes;   /* HEAD: the head is the last head_bytes of what was used */
    ag_str body;         /* BODY */
    struct {
        ag_http_bad why;
        int err;
        const char *sentence;
        const ag_http_head *head; /* NULL: it was not read */
    } bad; /* BAD */
} ag__h1;

void ag__h1_init(ag__h1 *h, const ag__h1_limits *limits);
/* The next event in p[0..n). The caller drops *used bytes and calls again, until MORE: then it brings more bytes behind
 * those that are left, which it must keep together. END comes without bytes of its own. */
ag__h1_ev ag__h1_next(ag__h1 *h, const char *p, size_t n, size_t *used);
#endif
