/* fleet_inner.h - what fleet.c and fleet_measure.c share.
 * Owns, threads, limits, errors: as fleet.h. */
#ifndef AG_FLEET_INNER_H
#define AG_FLEET_INNER_H

#include "sim/fleet.h"

typedef struct ag__fleet ag__fleet;

typedef struct ag__machine {
    ag__fleet *fleet;
    ag_sim *sim;
    uint64_t next_us;     /* when something happens there; UINT64_MAX: never */
    uint32_t place;       /* in the heap by that */
    uint32_t load;        /* requests that are there */
    struct ag__machine *older, *newer; /* of the same load, as they came to it */
} ag__machine;

typedef struct ag__arrival { uint64_t at_us, number; uint32_t class, caller; } ag__arrival;
#define AG__NO_CALLER UINT32_MAX

typedef struct ag__load_list { ag__machine *oldest, *newest; } ag__load_list;

struct ag__fleet {
    const ag_scenario *s;
    const ag_fleet_watch *watch;
    ag_fleet_result *r;
    uint64_t now_us, end_us;
    ag__machine *machines;
    ag__machine **heap;           /* by next_us */
    ag__load_list *loads;         /* by load, n_loads of them */
    uint32_t n_loads, least, turn;
    ag__arrival *arrivals;        /* a heap by time */
    uint32_t n_arrivals, cap_arrivals;
    uint64_t numbers, requests;
    uint64_t random[AG_SCENARIO_CLASSES_MAX + 1]; /* a stream for each class, and one for choosing machines */
    double due_us[AG_SCENARIO_CLASSES_MAX]; /* when the next of a RATE comes; not cut to whole microseconds */
    ag_hist *ttft;                /* by class and bin */
    uint64_t samples[AG_FLEET_BINS];
    uint64_t sample_us, next_sample_us;
    int rc;                       /* of something that went wrong where it could not be said */
    ag_err *err;
};

double ag__fleet_uniform(uint64_t *state); /* from 0 on, below 1 */
double ag__fleet_draw(const ag_dist *d, uint64_t *state);

/* fleet_measure.c */
void ag__fleet_asked(ag__fleet *f, uint32_t class, uint64_t at_us);
void ag__fleet_ended(ag__fleet *f, const ag_sim_req *r);
void ag__fleet_stepped(ag__fleet *f, uint64_t now_us, const ag_sched_step *step, uint64_t us);
void ag__fleet_sample(ag__fleet *f);
void ag__fleet_sum(ag__fleet *f);

static inline uint32_t ag__fleet_class_of(const ag_sim_req *r) { return (uint32_t)r->ask.mark & 0xFFFF; }

#endif
