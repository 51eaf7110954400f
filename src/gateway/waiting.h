/* waiting.h - what a stream says until its first token: its request's place in the queue when that changes, else a
 * comment now and then, so that no proxy takes the connection for dead.
 * Owns    : nothing; text is appended to the caller's buffer.
 * Threads : one at a time.
 * Limits  : an event for each call at most; the caller calls it every AG_WAITING_TICK_MS.
 * Errors  : none; a buffer's ceiling shows in its `failed`. */
#ifndef AG_WAITING_H
#define AG_WAITING_H

#include "gateway/dialects/openai.h"

#define AG_WAITING_TICK_MS 250u
#define AG_WAITING_HEARTBEAT_US 10000000u

typedef struct ag_waiting {
    bool told;               /* something was */
    uint32_t band, position; /* told last */
    uint64_t said_us;        /* when something was said last; 0: never called */
} ag_waiting;

void ag_waiting_say(ag_waiting *w, const ag_reply *r, const ag_queue_view *v, uint64_t now_us, ag_buf *out);

#endif
