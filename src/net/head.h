/* head.h - the request line and headers of HTTP/1, checked before llhttp sees them.
 * Owns    : nothing; the slices that come out point into the bytes that went in.
 * Threads : any; no state but the caller's.
 * Limits  : the caller bounds the bytes (it stops scanning) and the number of headers.
 * Errors  : an AG_E_ code and a constant sentence. Refused is whatever two servers might read differently (RFC 9112,
 *           sections 2.2, 3.2, 5.1, 6.1 and 6.3): bare LF or CR, control characters, obs-fold, space before a colon,
 *           anything but one Host, a second or non-decimal Content-Length, Content-Length with Transfer-Encoding, any
 *           coding but "chunked". */
#ifndef AG_NET_HEAD_H
#define AG_NET_HEAD_H

#include "net/http.h"

typedef enum ag__scan { AG__SCAN_MORE, AG__SCAN_DONE, AG__SCAN_BAD } ag__scan;

typedef struct ag__head {
    ag_http_head pub;
    bool chunked, persistent, expect_continue;
} ag__head;

/* Looks at p[*at..n), where p[0..*at) was looked at before, for the empty line; *at moves on, to its end when DONE.
 * Each byte is seen once however small the pieces are, and a wrong one is refused when it arrives. */
ag__scan ag__head_scan(const char *p, size_t n, size_t *at, const char **sentence);
/* Cuts a whole head (scanned, with its empty line) into h and slots[0..max). */
int ag__head_parse(ag__head *h, const char *p, size_t n, ag_http_header *slots, uint32_t max, const char **sentence);

bool ag__is_token(ag_str s);            /* 1.. characters of a method or header name */
bool ag__is_field_value(ag_str s);      /* no control characters but the tab */
static inline bool ag__is_ctl(unsigned char c) { return (c < 0x20 && c != '\t') || c == 0x7F; }
bool ag__is_tchar(unsigned char c);

#endif
