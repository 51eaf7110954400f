/* weights.h - a plan's weights as the kernels read them: packed into tiles, in memory of their own.
 * Owns    : the packs and their bytes. The plan and its model must outlive it.
 * Threads : open and close from the backend's thread, open with its pool; packs may be read by any worker.
 * Limits  : none of its own; sizes follow from the plan.
 * Errors  : AG_E_NOMEM. */
#ifndef AG_WEIGHTS_H
#define AG_WEIGHTS_H

#include "engine/backend.h"
#include "engine/cpu/pool.h"

typedef struct ag_weights {
    ag_pack *packs;       /* plan->n_packs */
    unsigned char *bytes; /* of all packs, one mapping */
    size_t n_bytes;
} ag_weights;

/* Packs all of the plan's weights. After an error there is nothing to close, and closing does no harm. */
int ag_weights_open(ag_weights *w, const ag_plan *plan, ag_pool *pool, const ag_backend_conf *conf, ag_err *err);
void ag_weights_close(ag_weights *w);

#endif
