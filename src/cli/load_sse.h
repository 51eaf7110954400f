/* load_sse.h - server-sent events out of bytes that come in any pieces (WHATWG HTML, 9.2: only `data` matters here).
 * Owns    : the data of the event at hand.
 * Threads : one.
 * Limits  : AG_SSE_EVENT_MAX bytes of a line and of an event.
 * Errors  : ag_sse_feed stops and returns false when a line or event is too long, or `event` said so. */
#ifndef AG_LOAD_SSE_H
#define AG_LOAD_SSE_H

#include "base/buf.h"

#define AG_SSE_EVENT_MAX (256u << 10)

typedef struct ag_sse {
    ag_buf line, data;
    bool has_data, after_cr, first_line;
    bool (*event)(void *arg, ag_str data); /* false: enough */
    void *arg;
} ag_sse;

void ag_sse_init(ag_sse *s, bool (*event)(void *arg, ag_str data), void *arg);
void ag_sse_fini(ag_sse *s);
void ag_sse_reset(ag_sse *s); /* for another stream */
bool ag_sse_feed(ag_sse *s, const char *p, size_t n);

#endif
