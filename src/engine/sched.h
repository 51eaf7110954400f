/* sched.h - which rows the next step computes.
 * Owns    : the lists of waiting and running generations, through references that the engine gives it; the KV pages of
 *           those that run.
 * Threads : the engine's.
 * Limits  : running_max sequences, rows_max rows and out_max logits a step.
 * Errors  : none; a generation that cannot go on waits.
 * Rules   : every sequence that decodes gets its row; prompts share what the budget leaves (chunk_tokens while anyone
 *           decodes, the whole step while nobody does), in the order of admission; then the head of the waiting list is
 *           admitted, unless a running prompt went without pages. Pages are taken as positions need them; when they
 *           run out the newest sequence is set back: its pages go, it waits at the head and computes its tokens again,
 *           with the same result bit for bit. */
#ifndef AG_SCHED_H
#define AG_SCHED_H

#include "engine/backend.h"
#include "engine/gen_inner.h"
#include "engine/kv.h"

typedef struct ag_sched {
    ag_kv *kv;
    uint32_t running_max, rows_max, out_max, chunk_tokens;
    ag_gen *first, *last;    /* waiting */
    uint32_t n_waiting;
    ag_gen **running;        /* running_max, by admission */
    uint32_t n_running;
    uint64_t preemptions;
    /* the step chosen last */
    ag_batch batch;
    int32_t *tokens;
    ag_span *spans;
    ag_gen **span_gen;
    uint32_t *out_rows;
    ag_gen **out_gen;        /* of each wanted row */
    uint32_t *out_index;     /* of each wanted row: the token of the sequence that it follows */
} ag_sched;

int ag_sched_init(ag_sched *s, uint32_t pages, uint32_t running_max, uint32_t rows_max, uint32_t out_max, uint32_t chunk_tokens, ag_err *err);
void ag_sched_fini(ag_sched *s); /* asserts that nothing waits or runs */
void ag_sched_push(ag_sched *s, ag_gen *g);
/* Takes an ended generation out, wherever it is, and its pages back. */
void ag_sched_drop(ag_sched *s, ag_gen *g);
/* Fills s->batch and what goes with it; false: nothing to do. `admitted` is called for each newly admitted one. */
bool ag_sched_step(ag_sched *s, void (*admitted)(void *arg, ag_gen *g), void *arg);
/* After the step ran: positions advance. */
void ag_sched_done(ag_sched *s);

#endif
