/* answer.h - what answers have in common, whatever the protocol: which headers may go out, our own errors.
 * Owns    : an ag_http_refusal owns its memory; the struct is held by the caller (make/fini).
 * Threads : the loop's.
 * Limits  : an error's body and headers, see answer.c.
 * Errors  : a body that could not be made whole is left out, and a header that there is no memory for. */
#ifndef AG_NET_ANSWER_H
#define AG_NET_ANSWER_H

#include "net/net.h"

/* Whether a header may go out as given. Values may come from a request (an id that is echoed), so one that would end
 * the line is left out; those that frame the message or speak of the connection are ours alone. */
bool ag__may_send(const ag_http_header *h);

/* The answer to a request that this room refuses itself: `f` says why; the rest of it is made. */
void ag__refusal_make(ag_http_refusal *f, ag_http_loop *l);
void ag__refusal_fini(ag_http_refusal *f);

#endif
