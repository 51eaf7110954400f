/* answer.h - what answers have in common, whatever the protocol: which headers may go out, our own errors.
 * Owns    : an ag__bad owns its buffers; the struct is held by the caller (make/fini).
 * Threads : the loop's.
 * Limits  : an error's body and id, see answer.c.
 * Errors  : a body that could not be made whole is left out. */
#ifndef AG_NET_ANSWER_H
#define AG_NET_ANSWER_H

#include "net/net.h"

/* Whether a header may go out as given. Values may come from a request (an id that is echoed), so one that would end
 * the line is left out; those that frame the message or speak of the connection are ours alone. */
bool ag__may_send(const ag_http_header *h);

/* The answer to a request that this room refuses itself. */
typedef struct ag__bad {
    int status;
    ag_http_header headers[3];
    uint32_t n_headers;
    ag_buf body, id;
} ag__bad;

void ag__bad_make(ag__bad *b, ag_http_loop *l, ag_http_bad why, int err, const char *sentence);
void ag__bad_fini(ag__bad *b);

#endif
