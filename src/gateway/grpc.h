/* grpc.h - inside the gateway: what gRPC's methods are made of.
 * Owns, threads: as req.h says of a request.
 * Limits  : AG_GRPC_ASKED_MAX of what server reflection is asked and not yet answered, AG_GRPC_ANSWER_MAX of an answer
 *           without a generation.
 * Errors  : in r->err, told by ag__req_refuse before a message was sent, by ag__grpc_close after it. */
#ifndef AG_GATEWAY_GRPC_H
#define AG_GATEWAY_GRPC_H

#include "gateway/req.h"

#define AG_GRPC_ASKED_MAX ((size_t)64 << 10)
#define AG_GRPC_ANSWER_MAX ((size_t)256 << 10)

/* The one message of the body; it lives while the body and r->out are left alone. */
int ag__grpc_message(ag_req *r, ag_str *message);
/* Begins an answer's message in a new buffer; answers with it, and frees it. */
void ag__grpc_begin(ag_buf *message);
ag_next ag__grpc_answer(ag_req *r, ag_buf *message);

/* A call that stays open: its head, another look in a while (which may end it), its end with r->err. */
void ag__grpc_open(ag_req *r);
ag_next ag__grpc_stay(ag_req *r);
ag_next ag__grpc_close(ag_req *r);

#endif
