/* pool.h - a team of threads for stages of data-parallel work.
 * Owns    : its threads but worker 0, which is whoever calls run.
 * Threads : open, run and close from one thread.
 * Limits  : AG_POOL_THREADS_MAX.
 * Errors  : open: AG_E_NOMEM, AG_E_INTERNAL (a thread could not be started; fault point THREAD).
 * How     : run publishes a stage; every worker takes the next chunk of items from one atomic counter, so a slow core
 *           takes fewer; run returns when all items are done. A run of one chunk stays on the caller and wakes nobody.
 *           Between stages workers spin briefly (not at all where threads outnumber cores), then sleep on a futex, so
 *           an idle pool costs nothing. Threads are not pinned: the caller is not ours to pin, and a worker pinned to
 *           the core on which the caller happens to run would halve both. */
#ifndef AG_POOL_H
#define AG_POOL_H

#include <stdatomic.h>

#include "base/err.h"

#define AG_POOL_THREADS_MAX 256

typedef struct ag_pool ag_pool;
/* Items [from,to) on worker `worker` (0-based). */
typedef void ag_pool_fn(void *arg, uint32_t worker, uint32_t from, uint32_t to);

int ag_pool_open(ag_pool **out, uint32_t threads, ag_err *err);
void ag_pool_close(ag_pool *p);
/* chunk: items taken at a time (at least 1). */
void ag_pool_run(ag_pool *p, ag_pool_fn *fn, void *arg, uint32_t items, uint32_t chunk);
uint32_t ag_pool_threads(const ag_pool *p);

/* Inside a run, between workers that share steps of a longer work: waits until *word, which only grows, is at least
 * `value`. Spins, then sleeps; whoever adds must do it by ag_pool_arrive. */
void ag_pool_await(ag_pool *p, _Atomic uint32_t *word, uint32_t value);
/* Adds n to *word and wakes those who sleep until it is `value`. What was written before is seen by who awaited it. */
void ag_pool_arrive(ag_pool *p, _Atomic uint32_t *word, uint32_t n, uint32_t value);

uint32_t ag_pool_cores(void); /* that this process may use (affinity and cgroup quota counted) */

#endif
