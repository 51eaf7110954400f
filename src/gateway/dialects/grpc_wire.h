/* grpc_wire.h - gRPC over HTTP/2: length-prefixed messages, gzip in them, deadlines in a header, statuses in trailers.
 * Owns    : an ag_grpc_status owns its buffers (make/fini); the rest nothing.
 * Threads : any; one at a time per buffer.
 * Limits  : a message, as sent and unpacked, has the `max` that the caller names; a packed one is read to the byte
 *           that passes it and no further. Details of a status are AG_GRPC_DETAILS_MAX bytes.
 * Errors  : AG_E_PROTOBUF (no message, more than one, a flag that is none, gzip that is none), AG_E_TOO_LARGE,
 *           AG_E_NOMEM. */
#ifndef AG_GRPC_WIRE_H
#define AG_GRPC_WIRE_H

#include "base/buf.h"
#include "base/err.h"

#define AG_GRPC_PREFIX 5          /* a flag, and the message's length */
#define AG_GRPC_GZIP_FROM 1024u   /* bytes of an answer; what is shorter is sent as it is */
#define AG_GRPC_DETAILS_MAX 4096u

/* The length that a message's prefix tells; 0 while it is not whole. */
static inline uint32_t ag_grpc_length(const char *p, size_t n)
{
    const unsigned char *b = (const unsigned char *)p;
    return n < AG_GRPC_PREFIX ? 0 : (uint32_t)b[1] << 24 | (uint32_t)b[2] << 16 | (uint32_t)b[3] << 8 | b[4];
}

/* The message that *rest begins with, which is moved on; *found false: it is not whole yet. One that is packed is put
 * into `plain`, whose ceiling must be above max, and lives as long as that. gzip: the header grpc-encoding says so. */
int ag_grpc_next(ag_str *rest, bool gzip, size_t max, ag_buf *plain, ag_str *message, bool *found, ag_err *err);
/* The one message of a whole body. */
int ag_grpc_only(ag_str body, bool gzip, size_t max, ag_buf *plain, ag_str *message, ag_err *err);

/* A message for a client: begin, add its bytes, end. gzip: the client reads it. */
size_t ag_grpc_begin(ag_buf *out);
void ag_grpc_end(ag_buf *out, size_t at, bool gzip);

/* "10S", "100m": milliseconds, rounded up, at most `max`; false: it is none. */
bool ag_grpc_timeout(ag_str value, uint32_t max, uint32_t *ms);

/* An error as trailers tell it. */
typedef struct ag_grpc_status {
    char code[4];
    ag_buf message, details; /* percent-encoded; google.rpc.Status with ErrorInfo and, where a retry helps, RetryInfo */
} ag_grpc_status;
void ag_grpc_status_make(ag_grpc_status *s, const ag_err *err, ag_str request_id, uint32_t retry_s); /* 0: not told */
void ag_grpc_status_fini(ag_grpc_status *s);

#endif
