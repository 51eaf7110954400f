#include "net/h1.h"

static int on_headers_complete(llhttp_t *ll)
{
    ag__h1 *h = ll->data;
    h->ll_head = true;
    return 0;
}

static int on_body(llhttp_t *ll, const char *p, size_t n)
{
    ag__h1 *h = ll->data;
    if (h->body.n == 0) h->body.p = p;
    h->body.n += n;
    return 0;
}

static int on_message_complete(llhttp_t *ll)
{
    ag__h1 *h = ll->data;
    h->ll_end = true;
    return 0;
}

static const llhttp_settings_t settings = {
    .on_headers_complete = on_headers_complete,
    .on_body = on_body,
    .on_message_complete = on_message_complete,
};

void ag__h1_init(ag__h1 *h, const ag__h1_limits *limits)
{
    *h = (ag__h1){.limits = limits};
}

static ag__h1_ev bad(ag__h1 *h, ag_http_bad why, int err, const char *sentence)
{
    h->at = AG__H1_AT_BAD;
    h->bad.why = why;
    h->bad.err = err;
    h->bad.sentence = sentence;
    h->bad.head = NULL;
    return AG__H1_BAD;
}

static ag__h1_ev bad_parse(ag__h1 *h, const char *sentence) { return bad(h, AG_HTTP_BAD_PARSE, AG_E_HTTP, sentence); }

/* llhttp gets whole heads and single runs of framing or data, so it never has to be paused. Where a request asks for
 * another protocol (Upgrade) it stops at the end of the message, which is where we stop as well: it stays HTTP/1.1. */
static bool feed(ag__h1 *h, const char *p, size_t n)
{
    h->body = (ag_str){0};
    llhttp_errno_t e = llhttp_execute(&h->ll, p, n);
    return e == HPE_OK || (e == HPE_PAUSED_UPGRADE && h->ll_end);
}

static bool agrees(const ag__h1 *h)
{
    if (!h->ll_head || h->ll.http_minor != h->head.pub.minor) return false;
    if (!h->head.pub.has_body) return h->ll_end;
    if (h->ll_end || ((h->ll.flags & F_CHUNKED) != 0) != h->head.chunked) return false;
    return h->head.chunked || h->ll.content_length == (uint64_t)h->head.pub.content_length;
}

static ag__h1_ev next_head(ag__h1 *h, const char *p, size_t n, size_t *used)
{
    /* Some old clients send an empty line after a body; RFC 9112 2.2 asks to let one pass. */
    if (!h->lead && h->scanned == 0 && n >= 2 && p[0] == '\r' && p[1] == '\n') {
        h->lead = true;
        *used = 2;
        p += 2;
        n -= 2;
    }
    if (!h->lead && n == 1 && p[0] == '\r') return AG__H1_MORE;
    const char *sentence = NULL;
    size_t max = h->limits->header_bytes_max;
    ag__scan scan = ag__head_scan(p, AG_MIN(n, max), &h->scanned, &sentence);
    if (scan == AG__SCAN_BAD) return bad_parse(h, sentence);
    if (scan == AG__SCAN_MORE) {
        if (h->scanned < max) return AG__H1_MORE;
        return bad(h, AG_HTTP_BAD_HEADERS_SIZE, AG_E_HEADERS_TOO_LARGE,
                   "the request line and headers are longer than the server takes");
    }
    int rc = ag__head_parse(&h->head, p, h->scanned, h->limits->slots, h->limits->headers_max, &sentence);
    if (rc == AG_E_HEADERS_TOO_LARGE) return bad(h, AG_HTTP_BAD_HEADERS_SIZE, rc, sentence);
    if (rc != AG_OK) return bad(h, AG_HTTP_BAD_PARSE, rc, sentence);

    llhttp_init(&h->ll, HTTP_REQUEST, &settings);
    h->ll.data = h;
    h->ll_head = h->ll_end = false;
    /* Which methods there are is the user's to know: llhttp, which takes only those that it knows, reads POST. */
    size_t method = h->head.pub.method.n;
    if (!feed(h, "POST", 4) || !feed(h, p + method, h->scanned - method))
        return bad_parse(h, "a header is not valid HTTP");
    AG_ASSERT_SLOW(agrees(h));
    if (!agrees(h)) return bad_parse(h, "the head can be read in two ways");
    if (h->head.pub.content_length > 0 && (uint64_t)h->head.pub.content_length > h->limits->body_bytes_max) {
        bad(h, AG_HTTP_BAD_BODY_SIZE, AG_E_TOO_LARGE, "the body is larger than the server takes");
        h->bad.head = &h->head.pub;
        return AG__H1_BAD;
    }

    h->head_bytes = h->scanned;
    *used += h->scanned;
    h->scanned = 0;
    h->lead = false;
    h->left = h->head.pub.has_body && !h->head.chunked ? (uint64_t)h->head.pub.content_length : 0;
    h->chunk = (ag__chunk){0};
    h->at = !h->head.pub.has_body ? AG__H1_AT_END : h->head.chunked ? AG__H1_AT_CHUNKS : AG__H1_AT_LENGTH;
    return AG__H1_HEAD;
}

static ag__h1_ev next_length(ag__h1 *h, const char *p, size_t n, size_t *used)
{
    size_t take = (size_t)AG_MIN((uint64_t)n, h->left);
    bool ok = feed(h, p, take) && h->body.n == take && h->ll_end == (take == h->left);
    AG_ASSERT_SLOW(ok);
    if (!ok) return bad_parse(h, "the body can be read in two ways");
    h->left -= take;
    if (h->left == 0) h->at = AG__H1_AT_END;
    *used = take;
    return AG__H1_BODY;
}

static ag__h1_ev next_chunks(ag__h1 *h, const char *p, size_t n, size_t *used)
{
    while (*used < n) {
        size_t len = 0;
        const char *sentence = NULL;
        ag__chunk_kind kind = ag__chunk_next(&h->chunk, p + *used, n - *used, &len, &sentence);
        /* First what stands before a bad byte: which of the two checks speaks must not depend on the pieces. */
        if (!feed(h, p + *used, len)) return bad_parse(h, "a chunk's line or a trailer is not valid HTTP");
        if (kind == AG__CHUNK_IS_BAD) return bad_parse(h, sentence);
        if (h->chunk.body > h->limits->body_bytes_max)
            return bad(h, AG_HTTP_BAD_BODY_SIZE, AG_E_TOO_LARGE, "the body is larger than the server takes");
        bool ok = h->body.n == (kind == AG__CHUNK_IS_DATA ? len : 0) && h->ll_end == (h->chunk.state == AG__CHUNK_END);
        AG_ASSERT_SLOW(ok);
        if (!ok) return bad_parse(h, "the chunks can be read in two ways");
        *used += len;
        if (h->ll_end) {
            h->at = AG__H1_AT_HEAD;
            return AG__H1_END;
        }
        if (kind == AG__CHUNK_IS_DATA) return AG__H1_BODY;
    }
    return AG__H1_MORE;
}

ag__h1_ev ag__h1_next(ag__h1 *h, const char *p, size_t n, size_t *used)
{
    *used = 0;
    switch (h->at) {
    case AG__H1_AT_END: h->at = AG__H1_AT_HEAD; return AG__H1_END;
    case AG__H1_AT_HEAD: return n ? next_head(h, p, n, used) : AG__H1_MORE;
    case AG__H1_AT_LENGTH: return n ? next_length(h, p, n, used) : AG__H1_MORE;
    case AG__H1_AT_CHUNKS: return next_chunks(h, p, n, used);
    default: return AG__H1_BAD;
    }
}
