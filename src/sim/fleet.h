/* fleet.h - a scenario, played: requests come as it says, each goes to one of its machines, and what became of all
 * of them is counted. Every machine is the real queue and scheduler (sim.h); all share one virtual clock, and things
 * happen in its order, so the same scenario and seed give the same result.
 * Owns    : a result is freed by ag_fleet_free.
 * Threads : one at a time.
 * Limits  : those of the scenario; AG_SCENARIO_REQUESTS_MAX requests.
 * Errors  : AG_E_NOMEM, AG_E_LIMIT (more requests were asked for than that). */
#ifndef AG_FLEET_H
#define AG_FLEET_H

#include "base/hist.h"
#include "sim/scenario.h"

#define AG_FLEET_BINS 80 /* the time is cut into so many pieces for what is shown over it */

typedef struct ag_fleet_line { /* of the requests that came after the warm-up */
    uint64_t asked;
    uint64_t done;
    uint64_t refused_full, refused_late, refused_other; /* at the door */
    uint64_t displaced, expired;  /* while they waited: for others' sake, at their deadline */
    uint64_t timed_out;           /* answered in part */
    uint64_t cancelled, unfinished;
    uint64_t prompt_tokens, output_tokens; /* of those done and timed out */
    uint64_t rows_in_vain;        /* computed for those who got nothing of it: expired, displaced, cancelled */
    uint64_t rows;                /* computed for all that ended */
    ag_hist wait, ttft, gap, total;
    ag_hist off;                  /* by how much the wait differed from the estimate when it came */
} ag_fleet_line;

typedef struct ag_fleet_result {
    ag_fleet_line all, classes[AG_SCENARIO_CLASSES_MAX], groups[AG_SCENARIO_GROUPS_MAX];
    uint64_t end_us;              /* of the virtual time played */
    uint64_t steps, busy_us;      /* of all machines */
    uint64_t set_back_pages, set_back_urgent, set_back_share;
    uint64_t prompt_rows, output_rows, again_rows, reused_tokens;
    double step_error;            /* of the fitted step times, mean of the machines */
    /* Over time: */
    uint64_t bin_us;
    double waiting[AG_FLEET_BINS], running[AG_FLEET_BINS], busy[AG_FLEET_BINS]; /* means; the last a share */
    uint64_t tokens[AG_SCENARIO_GROUPS_MAX][AG_FLEET_BINS];
    uint64_t ttft_us[AG_SCENARIO_CLASSES_MAX][2][AG_FLEET_BINS]; /* p50, p95 of those who came then; 0: nobody */
} ag_fleet_result;

typedef struct ag_fleet_watch {
    void *arg;
    void (*progress)(void *arg, uint64_t now_us);
    void (*stepped)(void *arg, ag_sim *sim, const ag_sched_step *step, uint64_t us); /* for checks */
} ag_fleet_watch;

/* watch may be NULL. */
int ag_fleet_run(ag_fleet_result **out, const ag_scenario *s, const ag_fleet_watch *watch, ag_err *err);
void ag_fleet_free(ag_fleet_result *r);

#endif
