/* scenario.h - who asks for what, when, and the machines that answer: a YAML file that `autoglm sim` plays.
 * Owns    : an ag_scenario is a plain value, lists and names included.
 * Threads : any.
 * Limits  : AG_SCENARIO_BYTES_MAX of a file; every number has a range of its own (scenario_yaml.c, docs/sim.md), and
 *           what all of them together ask for stays under AG_SCENARIO_REQUESTS_MAX requests.
 * Errors  : AG_E_USAGE, in a sentence with file, line and what would be right; AG_E_IO, AG_E_NOMEM. */
#ifndef AG_SCENARIO_H
#define AG_SCENARIO_H

#include "sim/sim.h"

#define AG_SCENARIO_BYTES_MAX (1u << 20)
#define AG_SCENARIO_NAME_MAX 40
#define AG_SCENARIO_CLASSES_MAX 16
#define AG_SCENARIO_GROUPS_MAX 16
#define AG_SCENARIO_REQUESTS_MAX 200000000.0
#define AG_SCENARIO_MACHINES_MAX 10000u

/* A number of tokens or a time, drawn anew each time. */
typedef enum ag_dist_kind { AG_DIST_FIXED, AG_DIST_UNIFORM, AG_DIST_LOGNORMAL } ag_dist_kind;
typedef struct ag_dist {
    ag_dist_kind kind;
    double a, b;           /* fixed: a; uniform: from a to b; lognormal: the mean a, the spread b (of the logarithm) */
    double max;            /* drawn values are cut to it */
} ag_dist;

typedef struct ag_scenario_group { /* tenants of a kind */
    char name[AG_SCENARIO_NAME_MAX + 1];
    uint32_t count;
    double weight;
} ag_scenario_group;

typedef enum ag_arrive_kind { AG_ARRIVE_RATE, AG_ARRIVE_BURST, AG_ARRIVE_CALLERS } ag_arrive_kind;

typedef struct ag_scenario_class { /* requests of a kind */
    char name[AG_SCENARIO_NAME_MAX + 1];
    uint32_t group;        /* whose they are: a tenant of it is drawn for each, a caller keeps its own */
    uint8_t band;
    uint64_t timeout_us;   /* 0: none */
    ag_arrive_kind arrive;
    double rate;           /* RATE: a second, at random */
    uint32_t count;        /* BURST: at once, each every_us; CALLERS: who ask again when they have their answer */
    uint64_t every_us, pause_us;
    uint64_t from_us, until_us;
    ag_dist prompt, answer;
    uint32_t max_tokens;
    uint32_t prefix_tokens, prefixes; /* the first tokens are one of so many beginnings; 0: all differ */
    double cancel_share;   /* of the requests whose caller leaves after */
    ag_dist cancel_after;  /* microseconds */
} ag_scenario_class;

typedef enum ag_choose { AG_CHOOSE_LEAST, AG_CHOOSE_TWO, AG_CHOOSE_TURNS } ag_choose;

typedef struct ag_scenario {
    char name[120];
    uint64_t seconds_us, warmup_us, drain_us;
    uint64_t seed;
    uint32_t machines;
    ag_choose choose;
    ag_sim_machine machine;
    ag_sched_conf sched;
    ag_scenario_group groups[AG_SCENARIO_GROUPS_MAX];
    uint32_t n_groups;
    ag_scenario_class classes[AG_SCENARIO_CLASSES_MAX];
    uint32_t n_classes;
} ag_scenario;

/* A file; what it names (the figures of a machine) lies beside it. */
int ag_scenario_read(ag_scenario *out, const char *path, ag_err *err);
/* Its text; `path` is for sentences and for what it names. */
int ag_scenario_parse(ag_scenario *out, const char *path, ag_str text, ag_err *err);

/* So many machines in place of the scenario's. */
int ag_scenario_machines(ag_scenario *s, uint32_t n, ag_err *err);

/* Step times from what `autoglm bench --json` printed. */
int ag_scenario_bench(ag_sim_machine *out, const char *path, ag_err *err);
int ag_scenario_bench_of(ag_sim_machine *out, const char *path, ag_str text, ag_err *err);

#endif
