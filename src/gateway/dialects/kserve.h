/* kserve.h - KServe's Open Inference Protocol, version 2, for text: a tensor of texts in, a tensor of texts out.
 * Parameters of a request are fields of completions, by name.
 * Owns, threads, errors: those of dialect.h; over gRPC parse also AG_E_PROTOBUF, AG_E_TOO_LARGE.
 * Limits  : those of request.h; one input, whose texts are a request's prompts. */
#ifndef AG_KSERVE_H
#define AG_KSERVE_H

#include "gateway/dialects/dialect.h"

#define AG_KSERVE_INPUT "text_input"
#define AG_KSERVE_OUTPUT "text_output"
#define AG_KSERVE_VERSION "1" /* of every model: they have no others */
#define AG_KSERVE_PLATFORM "autoglm"

extern const ag_dialect ag_kserve, ag_kserve_grpc;

#endif
