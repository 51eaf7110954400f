/* null.h - the model without weights: "null" answers as fast as steps can be taken, "null:rate=N" N tokens a second.
 * For measuring what is around a model: gateway, queue, scheduler and delivery are the real ones, and so are tokens,
 * chat template and sampler; only the products are left out (engine/backend_null.c). Its answer is a fixed text, by
 * position, that ends where the caller's limit is; its embeddings count a text's bytes.
 * Owns    : as model.h.
 * Threads : as model.h.
 * Limits  : a vocabulary of 256 bytes and an end, AG_NULL_CTX tokens of context.
 * Errors  : AG_E_USAGE (what follows "null:" is no rate), AG_E_NOMEM, and those of a template that was given. */
#ifndef AG_NULL_H
#define AG_NULL_H

#include "model/model.h"

#define AG_NULL_CTX 16384
#define AG_NULL_WIDTH 256 /* an embedding counts bytes */
#define AG_NULL_RATE_MAX 1000000
#define AG_NULL_TEXT "The quick brown fox jumps over the lazy dog. " /* again and again */

bool ag_model_is_null(const char *path); /* "null" or "null:…"; a file of that name is "./null" */
int ag_model_open_null(ag_model **out, const char *path, const char *chat_template_file, ag_err *err);

#endif
