/* sched.h - which rows the next step computes, for whom, and who waits.
 * Sequences have computed and wanted positions. Each step spends a budget: a row for everyone who decodes, then
 * prompts under way, then admissions in the queue's order. The prompt rows of a step are as many as keep it within
 * `step_ratio` of the same step without them; or within the step that everybody as urgent who is here and finds a
 * place will make when they decode, though not above gap_us or, where nobody more urgent decodes, four times a step of
 * one row; or, for prompts that take at most short_us alone, within gap_us. At least rows_min; without limit while
 * nobody decodes. Equal prompts go in the order of admission, but in every other step a much shorter one passes a
 * longer.
 * A step serves the prompts of one urgency, the most urgent, and protects decodes of that urgency and above; the less
 * urgent sit the step out. So do, for short_us (two gaps for a prompt that is not short) or four of their steps at
 * most, one more where that ends the prompt, and then not for as long (by the tenants' weights), decodes of a tenant
 * that has more than its share for the prompt of one that has much less: a flood may fill the machine, but not slow
 * down who comes to it. Urgency is the band, less one for each age_us that a running sequence has sat out in a row:
 * nobody sits out for ever.
 * Admission follows the queue's head: it needs a place among running_max and pages for the whole prompt, and one
 * that does not fit blocks those behind it, so that small ones cannot pass a large one for ever. Room is made for it
 * by setting back running work: of bands below the one that it asked for (or, where others wait behind it who asked for
 * more, below theirs), newest first; but who rose by age is as it rose until it has had its place for a sixteenth of
 * age_us and got a token, and then of its own band again. Then, within the band, of
 * the tenant most over its share of places, as long as that tenant still has more for its weight than the newcomer's
 * afterwards (so that the two cannot take turns). When decodes run out of pages the newest of the most over-share
 * tenant in the lowest band goes; the oldest of the most urgent band never does, so that somebody always ends. Who has
 * got no token for age_us and several places, as it was set back each time before, rises as if it had waited. What
 * is set back keeps its pages while nobody needs them, waits in the queue, and goes on with the same tokens bit for
 * bit.
 * Prefixes are shared through kv.h: a prompt whose beginning another one computes right now waits for it, in its place
 * and without rows; the other one is as urgent as the most urgent of those who wait for it.
 * With refuse_late, a request with a deadline that cannot be met by the estimate is refused at the door, or put out
 * when its turn comes; an idle server never does so. Where others wait, the estimate is a careful one.
 * Pure: no clock, no thread, no I/O. Times come in as microseconds, what happened goes out through ag_sched_events.
 *
 * Owns    : the queue, the pages' table, the cost model, and from submit on a sequence's table of pages. Sequences are
 *           part of their owner's struct, who keeps them alive from submit until drop, or until an event has said that
 *           they are out.
 * Threads : one at a time (the engine holds its lock).
 * Limits  : ag_sched_conf. A step costs O(running log running); those who wait are never walked.
 * Errors  : submit: AG_E_QUEUE_FULL, AG_E_LIMIT (larger than a bound of the queue), AG_E_DEADLINE, AG_E_PARAM (it can
 *           never fit), AG_E_NOMEM. */
#ifndef AG_SCHED_H
#define AG_SCHED_H

#include "engine/sched/cost.h"
#include "engine/sched/kv.h"
#include "queue/queue.h"

/* States that are wanted of a prompt, in place of logits. */
typedef enum ag_seq_states {
    AG_STATES_NONE,
    AG_STATES_LAST /* the last token's */,
    AG_STATES_ALL /* every token's */
} ag_seq_states;

typedef struct ag_seq {
    ag_qent q;              /* first: the queue gives these back */
    /* Set by the owner before submit: tenant, band, deadline_us and bytes in q, and */
    const int32_t *tokens;  /* prompt and answer; the owner moves and extends them between steps only */
    uint32_t n_tokens;      /* so many are known; grows by one with each token of the answer */
    uint32_t n_prompt, max_tokens;
    bool all_logits;        /* logits of every prompt position are wanted: nothing of it is reused */
    ag_seq_states states;   /* with max_tokens 0 and without all_logits. ALL: nothing of it is reused */
    uint32_t n_scored;      /* with all_logits or all states: positions below have been looked at */
    uint64_t salt;          /* see kv.h */
    /* No estimate refuses it: others of its request were taken. Submit sets it where nobody else is here, and for those
     * that come with it. */
    bool sure;
    /* The scheduler's. */
    ag_kv_seq kv;
    uint32_t computed;      /* tokens whose keys and values are in the cache */
    uint32_t furthest;      /* tokens that were in the cache at best: what lies below is computed again */
    uint32_t reused;        /* tokens that others had computed for it before it computed its own first */
    uint32_t step_n;        /* rows in the step being run */
    uint32_t set_back;      /* times */
    uint64_t charged, ahead; /* service charged for it so far, and how much of that is still to come */
    uint64_t prompt_done, output_done; /* rows really computed for it, by kind; work done twice counts once */
    uint64_t admit_us, placed_us; /* when it had a place first, and last */
    uint64_t stuck_us;      /* when it had a place first with so many tokens as now, or rose for that */
    uint32_t placed_tokens; /* n_tokens when it had a place last */
    uint64_t paused_us;     /* since when it has sat out; 0: it has not */
    uint64_t yielded_us;    /* since when it has done so for a tenant under its share; 0: it does not */
    uint64_t sat_us, resumed_us; /* how long it did last, and when it went on */
    int64_t urgency;        /* in this step; the least is the most urgent */
    bool yields;            /* in this step: sits out for a tenant under its share of the places */
    uint64_t order;         /* of admission */
    bool running, started;  /* has a place in the batch now; had one ever */
} ag_seq;

typedef enum ag_sched_why {
    AG_OUT_DISPLACED,       /* for somebody else's sake while it waited, or for want of memory when it was set back */
    AG_OUT_EXPIRED,         /* while it waited; with refuse_late also when its turn came too late by the estimate */
    AG_OUT_TIMEOUT          /* after it had started */
} ag_sched_why;

typedef struct ag_sched_events {
    void *arg;
    void (*admitted)(void *arg, ag_seq *s, uint64_t now_us);          /* the first time only */
    void (*set_back)(void *arg, ag_seq *s);
    /* It is out, has no pages and will not be touched again. */
    void (*out)(void *arg, ag_seq *s, ag_sched_why why, uint64_t now_us);
} ag_sched_events;

typedef struct ag_sched_conf {
    ag_queue_conf queue;
    uint32_t pages, page_tokens;
    uint32_t running_max, rows_max, out_max;
    double step_ratio;      /* 1.3 */
    uint32_t gap_us;        /* 50,000 */
    uint32_t short_us;      /* 200,000; 0: no prompt is short */
    uint32_t rows_min;      /* 1; prompt rows of a step whatever it then takes, but for one in 32 that shows the others */
    bool reuse;             /* prefixes are shared */
    bool refuse_late;       /* refuse what cannot meet its deadline by the estimate */
    ag_sched_events events;
} ag_sched_conf;

typedef struct ag_sched_span { ag_seq *seq; uint32_t row, n, pos; } ag_sched_span;
/* Logits of `row`, for the token after tokens[index]. */
typedef struct ag_sched_out { ag_seq *seq; uint32_t row, index; } ag_sched_out;
/* Everything of its prompt is computed, whoever computes it. */
static inline bool ag_seq_alone(const ag_seq *q) { return q->all_logits || q->states == AG_STATES_ALL; }

typedef struct ag_sched_step { /* the step chosen last */
    uint32_t n_rows, n_spans, n_out, n_states;
    int32_t *tokens;
    ag_sched_span *spans;
    ag_sched_out *outs;     /* ascending rows */
    ag_sched_span *states;  /* rows whose states are wanted, ascending; at most one of a sequence */
    uint32_t budget;        /* prompt rows that it might have had; UINT32_MAX: unlimited */
    uint32_t decodes, prompt_rows, sat_out;
    ag_step_shape shape;
} ag_sched_step;

typedef struct ag_sched_stats {
    ag_queue_stats queue;
    ag_kv_stats kv;
    uint32_t running;
    /* Because pages ran out, for a more urgent band, for a tenant under its share. */
    uint64_t set_back_pages, set_back_urgent, set_back_share;
    uint64_t displaced, expired, timed_out, refused_full, refused_late;
    uint64_t reused_tokens, prompt_rows, output_rows;
    uint64_t again_rows;    /* rows computed once more after a set back, in neither of the two */
    double service_rate;    /* units of service a second while busy, a moving mean */
    double cost_error;
} ag_sched_stats;

typedef struct ag_sched ag_sched;

int ag_sched_open(ag_sched **out, const ag_sched_conf *conf, ag_err *err);
void ag_sched_close(ag_sched *s); /* asserts that nothing waits or runs */
ag_queue *ag_sched_queue(ag_sched *s);

/* Lets it wait. May put others out (events.out with AG_OUT_DISPLACED). On an error s was not taken; *retry_us then says
 * when there may be room, by the estimate (0: unknown). A prompt that could never fit the cache is AG_E_PARAM. */
int ag_sched_submit(ag_sched *s, ag_seq *seq, uint64_t now_us, uint64_t *retry_us, ag_err *err);
/* The same for the answers of one request, linked by q.newer: all of them or none. Estimates are asked of the first. */
int ag_sched_submit_all(ag_sched *s, ag_seq *first, uint64_t now_us, uint64_t *retry_us, ag_err *err);
/* Microseconds until one more place in the queue is free, by the estimate; 0: unknown, or nobody waits. */
uint64_t ag_sched_room_us(const ag_sched *s);
/* Takes it out, wherever it is, with its pages. Its owner says so when it is over (done: it ended by itself and its
 * real length is learned from) or nobody wants it any more. Not between step and done for a sequence that has rows in
 * it. */
void ag_sched_drop(ag_sched *s, ag_seq *seq, bool done);
void ag_sched_move(ag_sched *s, ag_seq *seq, uint8_t band, uint64_t now_us);
void ag_sched_deadline_set(ag_sched *s, ag_seq *seq, uint64_t deadline_us); /* of one that waits or runs; 0: none */
/* Puts out everyone whose time is up: those who wait at once, those who run when no step holds them (between done and
 * step). Called by step as well. */
void ag_sched_expire(ag_sched *s, uint64_t now_us);
uint64_t ag_sched_deadline(const ag_sched *s); /* the earliest of those who wait; UINT64_MAX: none */

/* Chooses the next step; false: nothing to do. */
bool ag_sched_step_next(ag_sched *s, uint64_t now_us, const ag_sched_step **out);
/* It ran and took so long: positions advance, pages are made known, service is charged, the cost model learns. The
 * owner then appends tokens (tokens, n_tokens) or drops the sequences that ended. */
void ag_sched_step_done(ag_sched *s, uint64_t step_us);

/* Forgets what is kept of prompts (weights were found damaged), see ag_kv_forget. Between steps. */
void ag_sched_forget(ag_sched *s);

ag_kv *ag_sched_kv(ag_sched *s); /* to be filled before the first submit, and looked at when nobody is there any more */

bool ag_sched_busy(const ag_sched *s); /* someone waits or runs */
uint32_t ag_sched_running(const ag_sched *s);
ag_seq *ag_sched_running_at(ag_sched *s, uint32_t i);

typedef struct ag_sched_wait {
    uint32_t position; /* 1: next; 0: it does not wait */
    uint64_t wait_us;  /* by the estimate; 0: unknown */
} ag_sched_wait;
void ag_sched_wait_get(ag_sched *s, ag_seq *seq, uint64_t now_us, ag_sched_wait *out);

void ag_sched_stats_get(ag_sched *s, ag_sched_stats *out);
/* Asserts: pages conserved, nobody in two places, budget kept, order respected; O(n), for tests and the simulator. */
void ag_sched_verify(ag_sched *s);

#endif
