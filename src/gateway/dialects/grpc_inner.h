/* grpc_inner.h - the halves of the dialect, which are two files. See grpc.h. */
#ifndef AG_GRPC_INNER_H
#define AG_GRPC_INNER_H

#include "gateway/dialects/grpc.h"

int ag__grpc_parse(ag_request *r, const char *body, size_t n, ag_err *err);

#endif
