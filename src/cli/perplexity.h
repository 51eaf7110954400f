/* perplexity.h - how well a model predicts a text. The text is cut into windows; within each the second half is
 * predicted from what stands before it, as is customary for comparing quantizations.
 * Owns    : nothing.
 * Threads : one calls; the engine's threads compute.
 * Limits  : AG_PERPLEXITY_TEXT_MAX bytes of text.
 * Errors  : AG_E_USAGE (too short a text, too long a window), AG_E_FILE (logits that are not numbers), and those of
 *           direct.h. */
#ifndef AG_PERPLEXITY_H
#define AG_PERPLEXITY_H

#include "base/buf.h"
#include "base/conf.h"
#include "base/err.h"

#define AG_PERPLEXITY_TEXT_MAX (64u << 20)

typedef struct ag_perplexity {
    double value, error; /* error: standard error of value */
    uint64_t tokens;     /* that were predicted */
} ag_perplexity;

int ag_perplexity_of(ag_perplexity *out, const char *model, const ag_conf *conf, ag_str text, uint32_t window,
                     ag_err *err);

#endif
