/* grpc.h - the messages of proto/autoglm/v1/inference.proto: requests become what OpenAI's bodies become, by the same
 * rows of fields.def, and answers are written as messages of gRPC.
 * Owns, threads, errors: those of dialect.h; parse also AG_E_PROTOBUF, AG_E_TOO_LARGE.
 * Limits  : those of request.h; a message as sent and unpacked has ag_request.wire.message_max bytes. */
#ifndef AG_GRPC_H
#define AG_GRPC_H

#include "gateway/dialects/dialect.h"

/* They differ in what an answer's id begins with, as OpenAI's do. */
extern const ag_dialect ag_grpc, ag_grpc_completions, ag_grpc_embeddings;

/* The request's one message as JSON, by the name of its type. */
int ag_grpc_to_json(const ag_request *r, const char *type, const char *body, size_t n, json_t **out, ag_err *err);

#endif
