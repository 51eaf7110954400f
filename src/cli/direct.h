/* direct.h - a model run without server and scheduler, for the commands that measure it: one table of pages, positions
 * set by hand.
 * Owns    : model, lm and page tables, from open to close.
 * Threads : one.
 * Limits  : `sequences` sequences of `ctx` tokens each.
 * Errors  : those of model.h and lm.h. */
#ifndef AG_DIRECT_H
#define AG_DIRECT_H

#include "base/conf.h"
#include "engine/lm.h"

#define AG_DIRECT_ROWS 512 /* rows of a step */

typedef struct ag_direct {
    ag_model *model;
    ag_lm *lm;
    uint32_t *pages;     /* sequence s has pages [s * per, (s+1) * per) */
    uint32_t per, sequences;
} ag_direct;

/* out_max: rows with logits in a step. Engine settings of conf (threads, isa, no-pass) are used. */
int ag_direct_open(ag_direct *d, const char *model, const ag_conf *conf, uint32_t sequences, uint32_t ctx,
                   uint32_t out_max, ag_buf *report, ag_err *err);
void ag_direct_close(ag_direct *d);

/* Called for each row with logits, in order: position pos and its vocab logits. Another return than 0 ends the feed. */
typedef int ag_direct_fn(void *arg, uint32_t pos, const float *logits, uint32_t vocab);

/* Runs tokens through sequence 0 from position 0, `chunk` (at most AG_DIRECT_ROWS and out_max) at a time; rows from
 * `first` on have their logits shown. */
int ag_direct_feed(ag_direct *d, const int32_t *tokens, uint32_t n, uint32_t chunk, uint32_t first, ag_direct_fn *fn,
                   void *arg);

#endif
