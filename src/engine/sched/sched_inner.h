/* sched_inner.h - the scheduler from inside.
 * Owns, threads, limits, errors: those of sched.h. */
#ifndef AG_SCHED_INNER_H
#define AG_SCHED_INNER_H

#include "engine/sched/sched.h"

#define AG_SCHED_MAGIC 0x53434844u

struct ag_sched {
    uint32_t magic;
    ag_sched_conf conf;
    ag_queue *queue;
    ag_kv *kv;
    ag_cost cost;
    ag_seq **running;          /* running_max, by admission */
    uint32_t n_running;
    ag_seq **prompts;          /* of the step being chosen: those that do not decode, in order */
    uint32_t n_prompts;
    ag_sched_step step;
    double limit_us;           /* of the step being chosen; 0: none, or unknown */
    double long_us;            /* the same for rows of prompts that are not short; 0: no other */
    uint64_t began_us;         /* when the step was chosen */
    uint32_t since_alone;      /* steps with decodes and long prompts since one may have been of decodes alone */
    bool in_step;
    bool fair;                 /* decodes sit out for a tenant under its share, */
    double yield_us;           /* so long at most */
    double weights;            /* of the tenants who run, each once */
    bool short_first;          /* in every other step much shorter prompts pass longer ones */
    uint64_t admissions, admitted_before; /* before the step being chosen */
    uint64_t blocked;          /* 1 + the number of the head that found too few pages; 0: nobody */
    uint32_t blocked_pages;    /* so many could be had then, */
    int64_t blocked_band;      /* and as how urgent it asked */
    double rate_units, rate_us; /* service and time of the last seconds in which steps ran */
    double decode_us;          /* moving mean of steps with decodes in them */
    ag_sched_stats stats;
};

/* What is next of it is one row that wants logits, with everything before it in the cache. */
static inline bool ag__seq_decodes(const ag_seq *q) { return q->n_tokens - q->computed == 1 && q->computed > 0; }
static inline uint32_t ag__sched_pages(const ag_sched *s, uint64_t tokens)
{
    return (uint32_t)((tokens + s->conf.page_tokens - 1) / s->conf.page_tokens);
}
/* For all that it knows and one token more, so that its first step of decoding does not set anybody back. */
static inline uint32_t ag__sched_pages_wanted(const ag_sched *s, const ag_seq *q)
{
    return ag__sched_pages(s, AG_MIN((uint64_t)q->n_tokens + 1, (uint64_t)q->n_prompt + q->max_tokens));
}
/* By those who run. */
static inline uint32_t ag__sched_pages_held(const ag_sched *s) { return s->conf.pages - ag_kv_available(s->kv); }
static inline double ag__seq_share(const ag_seq *q, int32_t more)
{
    return ((double)q->q.tenant->running + more) / q->q.tenant->weight;
}

/* sched_admit.c */
void ag__sched_look(ag_sched *s, uint64_t now_us); /* those who waited for a prefix go on; decodes get their page */
/* The queue's head, before a prompt under way. */
bool ag__sched_may_precede(const ag_sched *s, const ag_seq *head, const ag_seq *p);
/* May v be set back for the head that asks as `band`, when `before` of v's tenant are? Within a band only while that
 * tenant keeps more for its weight than the head's has then: the reverse is never true a moment later. */
bool ag__sched_gives_way(const ag_seq *v, const ag_seq *head, int64_t band, uint32_t before);
typedef enum ag__admitted { AG__NOT_NOW, AG__TOO_LATE /* it is out */, AG__IN } ag__admitted;
ag__admitted ag__sched_admit(ag_sched *s, ag_seq *head, uint64_t now_us); /* the queue's head */
void ag__sched_leave(ag_sched *s, ag_seq *seq); /* out of the running, pages back */
/* For good, neither queued nor running. */
void ag__sched_out(ag_sched *s, ag_seq *seq, ag_sched_why why, uint64_t now_us);

/* sched_budget.c */
/* Has t more than its part, by the weights of those who run: of the places, or, while more of it waits, of those who
 * run? By what ag__sched_protect found. */
bool ag__sched_over_share(const ag_sched *s, const ag_tenant *t);
/* What a step with these decodes may take with rows of prompt p, short ones apart. That is what it would if everyone
 * who is here, finds a place and is as urgent decoded: nobody can count on less, and to keep below it would hold up
 * those who wait for the sake of those who came first. But who is more urgent need not wait for them beyond the gap. */
double ag__sched_long_us(const ag_sched *s, const ag_step_shape *decodes, const ag_seq *p);
/* Are so many rows, after those reused, a short prompt? What is computed that fast if nobody else is there is let in
 * under the gap alone: to divide it by the ratio as well would spare those who decode a pause that they may have, and
 * cost it ten times as much. */
bool ag__sched_is_short(const ag_sched *s, uint32_t reused, uint32_t rows);
/* Rows for those who decode beside prompt p (NULL: there is none) and may not be kept waiting; then the limit for
 * prompts. */
void ag__sched_protect(ag_sched *s, const ag_seq *p, uint64_t now_us);
uint32_t ag__sched_rows_for(const ag_sched *s, const ag_seq *q); /* of a prompt, that the step still takes */
bool ag__sched_fits(const ag_sched *s, const ag_seq *q);         /* one more row with logits */

/* sched_step.c */
void ag__sched_add_decode(ag_sched *s, ag_seq *q);
void ag__sched_fill(ag_sched *s, uint64_t now_us);
/* What it received beyond its charge is charged; what is still to come is said. */
void ag__sched_account(ag_sched *s, ag_seq *seq);

/* sched_estimate.c */
uint32_t ag__sched_expect(const ag_sched *s, const ag_seq *seq); /* tokens of its answer in all */
/* Service that it expects still to need. */
uint64_t ag__sched_cost(const ag_sched *s, const ag_seq *seq, uint32_t cached);
/* From now, if admitted now, where so many more will decode beside it; 0: unknown. Contested: others want the machine
 * as well, and it should be sure. */
double ag__sched_finish_us(const ag_sched *s, const ag_seq *seq, uint32_t cached, uint32_t more, bool contested);
ag_kv_found ag__sched_find(const ag_sched *s, const ag_seq *seq); /* of its tokens, in the tree */
typedef struct ag__wait {
    double us;     /* until admitted; 0: at once, or unknown */
    uint32_t with; /* so many of those ahead will decode beside it */
} ag__wait;
ag__wait ag__sched_wait(const ag_sched *s, const ag_queue_place *place, const ag_seq *seq, const ag_kv_found *found);

#endif
