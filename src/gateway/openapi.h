/* openapi.h - the API as an OpenAPI document: docs/openapi.yaml, from the tables that the code is made of.
 * Owns    : nothing; the text goes into the caller's buffer.
 * Threads : any.
 * Limits  : the buffer's.
 * Errors  : false: no memory. */
#ifndef AG_OPENAPI_H
#define AG_OPENAPI_H

#include "base/buf.h"

bool ag_openapi_write(ag_buf *out);

#endif
