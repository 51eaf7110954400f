/* held.h - an engine that stops at the end of a step until the test lets it go: the order of events is known without a
 * clock. Steps are numbered from 1; one engine at a time.
 * Threads: hold_next, await_held and let_go are the test's. */
#ifndef AG_TESTS_HELD_H
#define AG_TESTS_HELD_H

#include <semaphore.h>

#include "engine/engine_inner.h"
#include "engine/serving.h"

static ag_backend_ops held_ops;
static sem_t in_step, go_on;
static _Atomic uint32_t runs, hold_at; /* the run with that number stops at its end until it is let go */
static _Atomic bool held;

static void held_run(ag_backend *b, const ag_batch *batch, const float **logits, size_t *stride)
{
    ag_backend_cpu.run(b, batch, logits, stride);
    if (atomic_fetch_add(&runs, 1) + 1 != atomic_load(&hold_at)) return;
    atomic_store(&held, true);
    sem_post(&in_step);
    while (sem_wait(&go_on) != 0) {}
    atomic_store(&held, false);
}

/* An engine that stops in its n-th step. */
static inline ag_engine *open_held(ag_engine_conf conf, uint32_t n)
{
    ag_engine *e = open_engine(conf);
    held_ops = ag_backend_cpu;
    held_ops.run = held_run;
    sem_init(&in_step, 0, 0);
    sem_init(&go_on, 0, 0);
    atomic_store(&runs, 0);
    atomic_store(&hold_at, n);
    e->lm->ops = &held_ops; /* nothing has been submitted yet */
    return e;
}

static inline void await_held(void) { while (sem_wait(&in_step) != 0) {} }
static inline void let_go(void) { sem_post(&go_on); }

/* On from the step that is held to the n-th. */
static inline void hold_next(uint32_t n)
{
    atomic_store(&hold_at, n);
    let_go();
    await_held();
}

#endif
