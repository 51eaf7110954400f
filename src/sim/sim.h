/* sim.h - one server's queue and scheduler, the real ones, on a virtual clock.
 * Requests come when they are told to, steps take as long as a machine of given step times would take, and answers have
 * the lengths that were said: everything else is decided by the code that serves. The same calls give the same run, to
 * the microsecond.
 * Owns    : the scheduler, the requests (until `ended` has returned) and what is still to happen.
 * Threads : one at a time.
 * Limits  : those of the scheduler's settings; what is to happen grows as it is told.
 * Errors  : AG_E_NOMEM from open and ask; AG_E_PARAM from ask, of lengths that cannot be. */
#ifndef AG_SIM_H
#define AG_SIM_H

#include "engine/sched/sched.h"

typedef struct ag_sim ag_sim;

/* How long a step takes: over its rows by straight lines between the knots, beyond the last on with its slope; and a
 * rate for the keys attended to, for those read (see ag_step_shape) and for rows with logits. */
#define AG_SIM_KNOTS 16
typedef struct ag_sim_machine {
    struct { uint32_t rows; double us; } knot[AG_SIM_KNOTS];
    uint32_t n_knots;
    double per_key_us, per_read_us, per_out_us;
    double noise; /* a step takes up to this share more, by chance */
} ag_sim_machine;
double ag_sim_machine_us(const ag_sim_machine *m, const ag_step_shape *shape);

typedef struct ag_sim_ask {
    const char *tenant;      /* copied; NULL: "default" */
    double weight;           /* 0: 1 */
    uint8_t band;
    bool all_logits;
    ag_seq_states states;
    uint32_t n_prompt, max_tokens;
    uint32_t n_answer;       /* tokens after which it ends by itself; at most max_tokens */
    uint32_t n_prefix;       /* the first tokens are those of everybody with the same `prefix` */
    uint64_t prefix, salt;
    uint64_t timeout_us;     /* after it came; 0: none */
    uint64_t cancel_us;      /* its caller goes away so long after it came; 0: never */
    uint64_t move_us;        /* its caller asks for another band so long after it came; 0: never */
    uint8_t move_band;
    uint64_t mark;           /* the caller's own */
} ag_sim_ask;

typedef enum ag_sim_end {
    AG_SIM_HERE,
    AG_SIM_DONE,
    AG_SIM_REFUSED,
    AG_SIM_DISPLACED,
    AG_SIM_EXPIRED,
    AG_SIM_TIMEOUT,
    AG_SIM_CANCELLED
} ag_sim_end;

typedef struct ag_sim_req {
    ag_seq seq;              /* first */
    ag_sim_ask ask;
    char tenant[AG_TENANT_NAME_MAX + 1];
    uint64_t number;
    uint64_t ask_us, admit_us, first_us, last_us, end_us; /* 0: not yet; the clock begins at 1 */
    uint64_t gap_max_us;     /* between two tokens of its answer */
    uint64_t retry_us;       /* what a refusal said */
    uint64_t told_us;        /* of waiting, by the estimate when it came; 0: none, or unknown */
    uint32_t answered;       /* tokens */
    uint64_t rows;           /* computed for it, those done twice as well */
    int code;                /* of a refusal */
    ag_sim_end end;
    bool gone;               /* its caller has left and the step is not over */
    int32_t *tokens;
    uint32_t refs;
} ag_sim_req;

typedef struct ag_sim_conf {
    ag_sched_conf sched;     /* its events are the simulator's */
    ag_sim_machine machine;
    uint64_t seed;           /* of tokens and noise */
    uint32_t vocab;          /* few different tokens make prefixes agree by chance; 0: all differ */
    void *arg;
    void (*chosen)(void *arg, ag_sim *sim, const ag_sched_step *step);                 /* before the step runs */
    void (*stepped)(void *arg, ag_sim *sim, const ag_sched_step *step, uint64_t us);   /* it ran, the scheduler knows */
    void (*ended)(void *arg, ag_sim *sim, const ag_sim_req *r);                        /* may ask for more */
} ag_sim_conf;

int ag_sim_open(ag_sim **out, const ag_sim_conf *conf, ag_err *err);
void ag_sim_close(ag_sim *sim); /* in the middle as well: who is still there is dropped, without `ended` */
/* At that time, or now where that is past, somebody asks. */
int ag_sim_ask_at(ag_sim *sim, uint64_t at_us, const ag_sim_ask *ask, ag_err *err);
/* On to the next thing that happens; false: nothing will. */
bool ag_sim_turn(ag_sim *sim);
/* All that happens up to that time; when the next thing does after it, UINT64_MAX: never. */
uint64_t ag_sim_run(ag_sim *sim, uint64_t until_us);
uint64_t ag_sim_now(const ag_sim *sim);
ag_sched *ag_sim_sched(ag_sim *sim);
uint64_t ag_sim_steps(const ag_sim *sim);

#endif
