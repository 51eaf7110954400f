/* anthropic.h - Anthropic's form of conversations (POST /v1/messages), their events, counts and errors.
 * Conversations become what chat templates take, which is OpenAI's form: system is a first message, results of tools
 * are messages of their own, and turns of one role that follow each other are one. A last turn of the assistant's is
 * what the answer begins with.
 * Owns, threads, limits, errors: those of dialect.h. */
#ifndef AG_ANTHROPIC_H
#define AG_ANTHROPIC_H

#include "gateway/dialects/dialect.h"

#define AG_ANTHROPIC_VERSION "2023-06-01" /* the first whose form this is */

extern const ag_dialect ag_anthropic;

int ag_anthropic_parse(ag_request *r, const char *body, size_t n, ag_err *err);

#endif
