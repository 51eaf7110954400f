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
 *           wrong. The background lets the first steps go before it, and gives way to steps between its pieces; both
 *           for a bounded time. */
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
    bool started, waits;  /* waits: the two below are there */
    bool from_image;
    pthread_mutex_t lock;
    pthread_cond_t call;  /* stop or hurry was set */
    uint64_t opened_us;
    _Atomic bool stop, hurry, written, moved;
    _Atomic bool stepping;
    _Atomic uint64_t step_us; /* when the last step ended; 0: there was none */
    _Atomic uint32_t damage;
} ag_weights;

/* After an error there is nothing to close, and closing does no harm. w stays where it is until close. */
int ag_weights_open(ag_weights *w, const ag_plan *plan, ag_pool *pool, const ag_backend_conf *conf, ag_err *err);
void ag_weights_settle(ag_weights *w); /* what runs in the background need not give way any more */
void ag_weights_close(ag_weights *w);  /* breaks it off */
/* A step begins, a step has ended. */
void ag_weights_step(ag_weights *w, bool begins);
void ag_weights_info_get(const ag_weights *w, ag_weights_info *out);

/* Checks the image, moves it into memory; mover.c. On the background thread. */
void ag__weights_move(ag_weights *w);
/* Waits for a moment in which no step has run for quiet_us, at most until then_us; less when stopped or hurried. */
void ag__weights_give_way(ag_weights *w, uint64_t quiet_us, uint64_t then_us);
void ag__weights_note(const ag_weights *w, bool bad, const char *fmt, ...) AG_PRINTF(3, 4);
/* Packs matrix i into tiles at k->data; pool NULL: on this thread. */
void ag__weights_pack(const ag_weights *w, const ag_pack *k, uint32_t i, ag_pool *pool);

#endif
