/* err.h - what can go wrong, each declared once in err.def, and the sentence that says so.
 * Owns    : ag_err is held by the caller (usually on the stack), 512 bytes, no allocation.
 * Threads : an ag_err belongs to one thread at a time; the table is constant.
 * Limits  : a sentence is cut at 467 bytes, at a character's edge.
 * Errors  : functions return 0 (AG_OK) or an AG_E_ code, and take an optional `ag_err *` for the sentence: what, where,
 *           what would be right. The first sentence set wins; ag_err_clear begins anew. */
#ifndef AG_ERR_H
#define AG_ERR_H

#include "base/base.h"

typedef enum ag_errcode {
    AG_OK = 0,
#define AG_ERR(name, http, grpc, type, code, retry, what) AG_E_##name,
#include "base/err.def"
#undef AG_ERR
    AG_E_COUNT
} ag_errcode;

typedef enum ag_err_retry { AG_RETRY_NEVER, AG_RETRY_MAYBE, AG_RETRY_AFTER } ag_err_retry;

/* gRPC's statuses: its names and numbers. */
#define AG_GRPC_CODES(X)                                                                                            \
    X(OK) X(CANCELLED) X(UNKNOWN) X(INVALID_ARGUMENT) X(DEADLINE_EXCEEDED) X(NOT_FOUND) X(ALREADY_EXISTS)             \
    X(PERMISSION_DENIED) X(RESOURCE_EXHAUSTED) X(FAILED_PRECONDITION) X(ABORTED) X(OUT_OF_RANGE) X(UNIMPLEMENTED)      \
    X(INTERNAL) X(UNAVAILABLE) X(DATA_LOSS) X(UNAUTHENTICATED)
typedef enum ag_grpc_code {
#define AG_GRPC_CODE_ROW(name) AG_GRPC_##name,
    AG_GRPC_CODES(AG_GRPC_CODE_ROW)
#undef AG_GRPC_CODE_ROW
} ag_grpc_code;

typedef struct ag_err_row {
    const char *name;  /* "CTX_LENGTH" */
    int http;          /* status */
    ag_grpc_code grpc;
    const char *grpc_name;
    const char *type;  /* OpenAI error.type */
    const char *code;  /* OpenAI error.code */
    ag_err_retry retry;
    const char *what;
} ag_err_row;

typedef struct ag_err {
    int code;
    char param[40]; /* the request field at fault, "" when none */
    char text[468];
} ag_err;

/* Sets the sentence (if e is not NULL and holds none yet) and returns code. */
int ag_err_set(ag_err *e, int code, const char *fmt, ...) AG_PRINTF(3, 4);
void ag_err_clear(ag_err *e);
const ag_err_row *ag_err_find(int code); /* code in 1..AG_E_COUNT-1, asserted */

#endif
