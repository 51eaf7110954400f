/* load.h - requests sent to a server as many clients would, and what was measured of the answers.
 * Owns    : an ag_load owns its connections and counts. What a spec points to is borrowed until ag_load_free.
 * Threads : one for each ag_load.
 * Limits  : AG_LOAD_CLIENTS_MAX requests at once, AG_LOAD_TENANTS_MAX tenants, AG_LOAD_ANSWER_MAX bytes of an answer,
 *           AG_SSE_EVENT_MAX bytes of an event, AG_LOAD_WORDS_MAX words in the prompts of all clients together,
 *           AG_LOAD_CLASSES_MAX classes. What is measured goes into histograms, so memory does not grow with the length
 *           of a run.
 * Errors  : AG_E_NOMEM, AG_E_LIMIT (descriptors), AG_E_IO. A request that fails is no error, it is counted. */
#ifndef AG_LOAD_H
#define AG_LOAD_H

#include "base/buf.h"
#include "base/err.h"
#include "base/hist.h"

#define AG_LOAD_CLIENTS_MAX 10000u
#define AG_LOAD_TENANTS_MAX 64u
#define AG_LOAD_NAME_MAX 64u
#define AG_LOAD_CLASSES_MAX 16
#define AG_LOAD_CLASSES_TEXT_MAX 4096
#define AG_LOAD_ANSWER_MAX (64u << 20)
#define AG_LOAD_WORDS_MAX (32u << 20)
#define AG_LOAD_PROMPT_MAX 1000000u
#define AG_LOAD_POOL_MAX 100000000u
#define AG_LOAD_DURATION_US 10000000u /* of a load without an end of its own */

/* How a request ended that had no complete answer; HTTP statuses other than 200 are counted apart. */
typedef enum ag_load_fail {
    AG_LOAD_CONNECT, /* no connection */
    AG_LOAD_BROKEN,  /* the connection ended before the answer did */
    AG_LOAD_TIMEOUT,
    AG_LOAD_ERROR,   /* an error event inside a stream */
    AG_LOAD_STREAM,  /* what came is not a stream of events as it should be */
    AG_LOAD_LARGE,   /* over AG_LOAD_ANSWER_MAX */
    AG_LOAD_FAILS
} ag_load_fail;

typedef struct ag_load_tenant {
    char name[AG_LOAD_NAME_MAX + 1];
    double weight;
} ag_load_tenant;

typedef struct ag_load_spec {
    const char *url; /* of the route itself */
    const char *name; /* of its class; NULL: there are none */
    uint64_t start_us; /* after the others */
    bool chat, ignore_eos;
    uint32_t clients;
    double rate;              /* arrivals a second; 0: each client asks again when it has its answer */
    bool even;                /* they are all as far apart; otherwise they come at random */
    uint64_t requests;        /* 0: no limit */
    uint64_t first;           /* number of the first one: to go on where another run has ended */
    uint64_t duration_us;     /* 0: no limit */
    uint64_t timeout_us, ramp_us;
    uint64_t seed;
    uint32_t prompt_words, shared_words; /* shared_words <= prompt_words */
    uint32_t prefixes;        /* so many beginnings of shared_words; 0: one */
    uint32_t pool;            /* so many prompts, each with its length of answer and its beginning; 0: each its own */
    double zipf;              /* the k-th of them is asked for as often as k^-zipf says; 0: all alike */
    uint32_t max_tokens_low, max_tokens_high;
    float temperature;
    const char *model, *key;  /* NULL: not sent */
    const char *extra;        /* more fields of the body: `,"name":value...`, "" for none */
    ag_load_tenant tenants[AG_LOAD_TENANTS_MAX];
    uint32_t n_tenants;       /* 0: no x-tenant header */
} ag_load_spec;

typedef struct ag_load_stats {
    uint64_t started, ok, failed, unfinished;
    uint64_t prompt_tokens, output_tokens;
    uint64_t cut, cut_tokens; /* of those ok: stopped before their end (stopped_by); what they had by then */
    ag_hist ttft;      /* from the start of a request (open loop: from when it was due) to its first text */
    ag_hist gap;       /* between one piece of text and the next */
    ag_hist per_token; /* of a whole answer: (last text - first text) / (tokens - 1) */
    ag_hist total;     /* whole answers that were complete */
} ag_load_stats;

typedef struct ag_load_result {
    ag_load_stats all;
    ag_load_stats *tenants;       /* n_tenants of the spec */
    uint64_t status[600];         /* by HTTP status, other than 200 */
    uint64_t fails[AG_LOAD_FAILS];
    uint64_t elapsed_us;
    uint64_t waited;              /* open loop: requests that were due while every client was busy */
    uint64_t no_usage;            /* answers without usage: their events with text were counted as tokens */
    bool interrupted;
    char last_error[200];         /* printable; "" for none */
} ag_load_result;

typedef struct ag_load ag_load;
/* Room for the connections of so many clients: of all loads that run at once, before they are created. AG_E_LIMIT. */
int ag_load_descriptors(uint32_t clients, ag_err *err);
int ag_load_create(ag_load **out, const ag_load_spec *spec, ag_err *err);
void ag_load_free(ag_load *l);
/* Runs to its end, or until *stop is set by a signal handler; then what runs is cut off and counted as unfinished. */
int ag_load_run(ag_load *l, const volatile int *stop, ag_err *err);
const ag_load_result *ag_load_got(const ag_load *l);

/* load_parse.c: `flag` names what was given. AG_E_USAGE. */
int ag_load_parse_time(const char *flag, const char *text, uint64_t min_us, uint64_t *out, ag_err *err);
int ag_load_parse_max_tokens(const char *flag, const char *text, ag_load_spec *s, ag_err *err);
/* Names go into a header, so they are plain words; "a:3,b" gives b the weight 1. */
int ag_load_parse_tenants(const char *text, ag_load_spec *s, ag_err *err);
int ag_load_check(const ag_load_spec *s, ag_err *err); /* what no single option can tell */

/* Loads that run at the same time and are reported one by one. */
typedef struct ag_load_class {
    char name[AG_LOAD_NAME_MAX + 1];
    ag_load_spec spec;
    ag_buf extra; /* of its spec */
} ag_load_class;
typedef struct ag_load_classes {
    ag_load_class list[AG_LOAD_CLASSES_MAX];
    uint32_t n;
} ag_load_classes;
/* "urgent:band=0:rate=1,batch:band=3:clients=64": what a class does not say is as in `base`. fini also
 * after an error. */
int ag_load_parse_classes(const char *text, const ag_load_spec *base, ag_load_classes *out, ag_err *err);
void ag_load_classes_fini(ag_load_classes *c);

/* load_classes.c: loads[i] is that of list[i]. Where one cannot be started *stop is set, for the others to end. */
uint32_t ag_load_classes_clients(const ag_load_classes *c);
int ag_load_run_classes(const ag_load_classes *c, ag_load **loads, volatile int *stop, ag_err *err);
void ag_load_print_classes(const ag_load_classes *c, ag_load *const *loads);
bool ag_load_json_classes(const ag_load_classes *c, ag_load *const *loads, bool buckets, ag_buf *out);

/* load_prompt.c: everything about request `number` follows from the seed and the number alone. */
typedef struct ag_load_plan {
    uint32_t tenant, max_tokens;
    uint64_t words; /* random state of its prompt */
    uint64_t shared; /* and of its beginning */
} ag_load_plan;
double ag_load_random_open(uint64_t *state); /* in (0, 1] */
/* 1..n, k as often as k^-s says; s >= 0, n >= 1. Rejection-inversion (Hoermann and Derflinger, 1996): no table. */
uint32_t ag_load_zipf(uint64_t *state, uint32_t n, double s);
void ag_load_plan_make(const ag_load_spec *spec, uint64_t number, ag_load_plan *out);
bool ag_load_body(const ag_load_spec *spec, const ag_load_plan *plan, ag_buf *out); /* the request's JSON */

/* load_report.c and load_svg.c: false when out is full. Tenant names were checked to be plain words. */
void ag_load_print(const ag_load_spec *spec, const ag_load_result *r);
/* `buckets`: the histograms too, as [microseconds,count] pairs, so that several runs can be added up. */
bool ag_load_json(const ag_load_spec *spec, const ag_load_result *r, bool buckets, ag_buf *out);
bool ag_load_svg(const ag_load_spec *spec, const ag_load_result *r, ag_buf *out);

#endif
