/* weights.h - a plan's weights as the kernels read them: packed into tiles, in memory of their own.
 * Owns    : the packs, their bytes, the image file's descriptor, a thread in the background. The plan, its model and
 *           the callbacks of the settings must outlive it.
 * Threads : open, settle and close from the backend's thread, open with its pool; packs may be read by any worker, info
 *           by any thread.
 * Limits  : none of its own; sizes follow from the plan.
 * Errors  : open: AG_E_NOMEM. An image that cannot be read or written is a note, never an error.
 * How     : without a stored image (image.h) weights are repacked from the model's file, and the image is written in
 *           the background where the settings ask for it. With one, its pages are mapped and used at once; meanwhile
 *           they are copied into huge pages, checked, and the copy takes the place of the mapping at the same address
 *           (mremap), piece by piece: kernels never see a change, memory never holds two copies. A pack whose sum is
 *           wrong is repacked from the model's file in the same way, and counted: what was computed before may be
 *           wrong. */
#ifndef AG_WEIGHTS_H
#define AG_WEIGHTS_H

#include <pthread.h>
#include <stdatomic.h>

#include "engine/backend.h"
#include "engine/cpu/pool.h"
#include "engine/image.h"

typedef struct ag_weights {
    ag_pack *packs;       /* plan->n_packs; their data never moves */
    size_t *at;           /* their places in bytes */
    unsigned char *bytes; /* of all packs, one range of addresses */
    size_t n_bytes;
    const ag_plan *plan;
    ag_image image;
    ag_backend_conf conf; /* callbacks */
    bool may_write;
    pthread_t thread;
    bool started;
    bool from_image;
    _Atomic bool stop, written, moved;
    _Atomic uint32_t damage;
} ag_weights;

/* After an error there is nothing to close, and closing does no harm. w stays where it is until close. */
int ag_weights_open(ag_weights *w, const ag_plan *plan, ag_pool *pool, const ag_backend_conf *conf, ag_err *err);
void ag_weights_settle(ag_weights *w);
void ag_weights_close(ag_weights *w); /* breaks off what runs in the background */
void ag_weights_info_get(const ag_weights *w, ag_weights_info *out);

/* Checks the image, moves it into memory; mover.c. On the background thread. */
void ag__weights_move(ag_weights *w);
void ag__weights_note(const ag_weights *w, bool bad, const char *fmt, ...) AG_PRINTF(3, 4);
/* Packs matrix i into tiles at k->data; pool NULL: on this thread. */
void ag__weights_pack(const ag_weights *w, const ag_pack *k, uint32_t i, ag_pool *pool);

#endif
