#include "gateway/waiting.h"

void ag_waiting_say(ag_waiting *w, const ag_reply *r, const ag_queue_view *v, uint64_t now_us, ag_buf *out)
{
    if (w->told ? v->position != w->position || v->band != w->band : v->position != 0) {
        ag_openai_queue_event(out, r, v);
        *w = (ag_waiting){true, v->band, v->position, now_us};
    } else if (w->said_us == 0) {
        w->said_us = now_us;
    } else if (now_us - w->said_us >= AG_WAITING_HEARTBEAT_US) {
        ag_buf_addz(out, ": waiting\n\n");
        w->said_us = now_us;
    }
}
