/* door.h - the one lock between those who ask and the engine that computes: everything that has to do with the
 * scheduler happens behind it, at once and on the thread of whoever asks. It is held for microseconds: by callers while
 * a generation is submitted, cancelled or moved, by the clock while it puts out those who waited too long, by the
 * engine while it chooses a step and while it books one, never while it computes.
 * Whoever takes a generation out of the scheduler, ends it, in the same breath: no two can. Readers are told through
 * mailboxes; their owners are woken after the lock was given back.
 * Owns    : scheduler, lists of generations, the clock's thread.
 * Threads : enter from any; the calls marked [in] between enter and leave.
 * Limits  : AG_DOOR_WAKES mailboxes woken at a time; more are woken at once, under the lock.
 * Errors  : open: AG_E_INTERNAL (threads), those of ag_sched_open. */
#ifndef AG_DOOR_H
#define AG_DOOR_H

#include <pthread.h>
#include <semaphore.h>

#include "engine/engine.h"
#include "engine/gen_inner.h"

#define AG_DOOR_WAKES 64u

typedef struct ag_door {
    pthread_mutex_t lock;
    ag_sched *sched;
    ag_metrics *metrics;
    sem_t *bell;             /* the engine's thread's; NULL: it has none */
    _Atomic bool rung;       /* there may be something to do, and it was told so */
    bool draining, closing;
    uint64_t cancelled, asked_tokens, reused_tokens; /* of generations that have ended */
    uint32_t waiting[AG_METRICS_TENANTS + 1]; /* for a first place, by the tenant's label */
    ag_gen *late;            /* those whose mailbox was full */
    ag_gen *cancels;         /* those that ran when they were cancelled */
    ag_gen *begun;
    ag_gen *led;             /* those with followers */
    /* not after the first deadline of a follower that is before its leader's; UINT64_MAX: none is */
    uint64_t led_due;
    uint64_t led_waiting_due; /* the same of those whose leader does not run, which are the clock's */
    ag_mbox *wakes[AG_DOOR_WAKES];
    uint32_t n_wakes;
    unsigned char salt_key[16];
    /* the clock */
    pthread_t clock;
    pthread_cond_t clock_bell;
    uint64_t clock_until;    /* it sleeps until then; 0: it is awake */
    bool locks, clock_runs;
} ag_door;

int ag__door_open(ag_door *d, const ag_sched_conf *conf, ag_metrics *metrics, sem_t *bell, ag_err *err);
void ag__door_close(ag_door *d); /* nobody else may be at it; zeroed ones are fine */
void ag__door_shut(ag_door *d);  /* stops the clock; nothing is put out after that */

void ag__door_enter(ag_door *d);
void ag__door_leave(ag_door *d); /* the engine may end and be closed by others from then on */

void ag__door_ring(ag_door *d);  /* after a change: the engine is to look; once is enough until it does */
void ag__door_heard(ag_door *d); /* it is about to look */
void ag__door_tell(ag_door *d, ag_gen *g);                     /* [in] */
void ag__door_tell_late(ag_door *d);                           /* [in] again those whose mailbox was full */
void ag__door_drop_cancelled(ag_door *d);                      /* [in] between steps */
/* Takes it out of the scheduler, publishes the end, gives the engine's reference back. [in] between steps, or for one
 * that waits. */
void ag__door_end(ag_door *d, ag_gen *g, ag_gen_state state);
void ag__door_fail(ag_door *d, ag_gen *g, int code, const char *why);

void ag__door_cancel(ag_door *d, ag_gen *g);                   /* [in] one that was submitted and has not ended */

/* gen_follow.c, all [in]: what becomes of those who follow. */
void ag__followers_tell(ag_door *d, ag_gen *g);
void ag__followers_end(ag_door *d, ag_gen *g);                 /* as it has just ended */
void ag__follower_leave(ag_door *d, ag_gen *f);                /* cancelled */
void ag__follower_move(ag_door *d, ag_gen *f, uint8_t band);
/* Puts out those whose deadline has come: of leaders that wait or, between steps, of all. */
void ag__followers_expire(ag_door *d, uint64_t now, bool all);

ag_door *ag__door_of(ag_engine *e);
/* Under which salt pages are known to those who share them. Each kind has names of its own, so a tenant that is called
 * as a group does not meet it; nobody outside of this process can make two alike. */
typedef enum ag_salt_kind { AG_SALT_TENANT = 't', AG_SALT_GROUP = 'g', AG_SALT_ALL = 's' } ag_salt_kind;
uint64_t ag__door_salt(const ag_door *d, ag_salt_kind kind, ag_str name); /* name: AG_TENANT_NAME_MAX at most */

static inline ag_gen *ag__gen_of(ag_seq *s) { return (ag_gen *)(void *)((char *)s - offsetof(ag_gen, seq)); }

#endif
