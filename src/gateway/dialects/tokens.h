/* tokens.h - POST /tokenize and /detokenize, in the forms of llama.cpp's and vLLM's servers at once: both names of
 * every field are read, and answers have what either of their clients looks for.
 * Owns    : nothing; answers are appended to the caller's buffer.
 * Threads : any; one at a time per request or buffer.
 * Limits  : those of request.h; a buffer's ceiling shows in its `failed`.
 * Errors  : check: AG_E_PARAM_MISSING, AG_E_PARAM (more than one text). */
#ifndef AG_TOKENS_H
#define AG_TOKENS_H

#include "gateway/dialects/dialect.h"

/* What no single field can tell. */
int ag_tokens_check(ag_request *r, ag_err *err);

/* {"tokens", "count", "max_model_len"}, with pieces where the request asks for them; {"content", "prompt"} for ids, the
 * same text under both names. */
void ag_tokens_write(ag_buf *out, const ag_request *q, const ag_tokens_reply *t);

#endif
