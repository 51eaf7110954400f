/* metrics.h - figures that Prometheus scrapes, each declared once in metrics.def.
 * Owns    : its cells and a copy of the model's name and build labels. Label values given by ag_metrics_values stay the
 *           caller's and must outlive it (constant tables).
 * Threads : add, set and observe from any thread, at any time: relaxed atomics, no lock. ag_metrics_write from any;
 *           it may see one thread's figures a moment before another's. Every call takes m == NULL and then does
 *           nothing.
 * Limits  : AG_METRICS_VALUES_MAX values of a label that is filled in later, AG_METRICS_TENANTS tenants by name; a
 *           label index out of range is asserted.
 * Errors  : AG_E_NOMEM from open only. */
#ifndef AG_METRICS_H
#define AG_METRICS_H

#include "base/buf.h"
#include "base/err.h"

typedef struct ag_metrics ag_metrics;

typedef enum ag_metric_id {
#define AG_METRIC(kind, id, name, alias, labels, buckets, help) AG_M_##id,
#include "observe/metrics.def"
#undef AG_METRIC
    AG_M_COUNT
} ag_metric_id;

/* What a label index means. NONE, MODEL and BUILD have the one index 0. */
typedef enum ag_label_set {
    AG_LABELS_NONE,
    AG_LABELS_MODEL,
    AG_LABELS_BUILD,
    AG_LABELS_CODE,         /* an ag_errcode */
    AG_LABELS_REASON,       /* filled in by ag_metrics_values */
    AG_LABELS_ROUTE_STATUS, /* ag_metric_route_status(route, HTTP status); routes filled in by ag_metrics_values */
    AG_LABELS_MODEL_FINISH, /* an ag_metric_finish */
    AG_LABELS_BAND,         /* 0 to AG_METRICS_BANDS - 1 */
    AG_LABELS_SET_BACK,     /* an ag_metric_set_back */
    AG_LABELS_EVICTED,      /* an ag_metric_evicted */
    AG_LABELS_CONN_STATE,   /* an ag_metric_conn_state */
    AG_LABELS_TENANT,       /* of ag_metrics_tenant */
    AG_LABELS_KEY_FATE,     /* filled in by ag_metrics_values */
    AG_LABELS_LIMIT,        /* filled in by ag_metrics_values */
    AG_LABELS_CACHED,       /* an ag_metric_cached */
    AG_LABELS_WARMED,       /* an ag_metric_warmed */
    AG_LABELS_CACHE_GONE,   /* an ag_metric_cache_gone */
} ag_label_set;

typedef enum ag_metric_finish {
    AG_FINISH_STOP,
    AG_FINISH_LENGTH,
    AG_FINISH_ABORT,
    AG_FINISH_ERROR,
    AG_FINISH_COUNT
} ag_metric_finish;

typedef enum ag_metric_set_back {
    AG_SET_BACK_PAGES,
    AG_SET_BACK_URGENT,
    AG_SET_BACK_SHARE,
    AG_SET_BACK_COUNT
} ag_metric_set_back;

typedef enum ag_metric_evicted {
    AG_EVICTED_DISPLACED,
    AG_EVICTED_EXPIRED,
    AG_EVICTED_TIMED_OUT,
    AG_EVICTED_REFUSED_FULL,
    AG_EVICTED_REFUSED_LATE,
    AG_EVICTED_COUNT
} ag_metric_evicted;

typedef enum ag_metric_conn_state {
    AG_CONN_NEW,
    AG_CONN_ACTIVE,
    AG_CONN_IDLE,
    AG_CONN_STREAMING,
    AG_CONN_DRAINING,
    AG_CONN_STATE_COUNT
} ag_metric_conn_state;

/* What became of a request at the response cache. */
typedef enum ag_metric_cached {
    AG_CACHED_HIT,
    AG_CACHED_STALE,
    AG_CACHED_COALESCED,
    AG_CACHED_MISS,
    AG_CACHED_REFRESH,   /* it was to be computed anew */
    AG_CACHED_OFF,       /* its caller, or the key, wanted nothing of it */
    AG_CACHED_UNCERTAIN, /* its answer is another one each time */
    AG_CACHED_DAMAGED,   /* what was found was no answer; it counts as a miss too */
    AG_CACHED_COUNT
} ag_metric_cached;

/* What became of a request that was asked again to warm up. */
typedef enum ag_metric_warmed {
    AG_WARMED_COMPUTED,
    AG_WARMED_THERE,
    AG_WARMED_FAILED,
    AG_WARMED_YIELDED,
    AG_WARMED_COUNT
} ag_metric_warmed;

typedef enum ag_metric_cache_gone {
    AG_CACHE_GONE_EVICTED,
    AG_CACHE_GONE_EXPIRED,
    AG_CACHE_GONE_PURGED,
    AG_CACHE_GONE_REFUSED,
    AG_CACHE_GONE_COUNT
} ag_metric_cache_gone;

#define AG_METRICS_VALUES_MAX 64
#define AG_METRICS_BANDS 4
#define AG_METRICS_TENANTS 32 /* that have a label of their own: the first to come; all others share one */
#define AG_METRICS_TENANT_BYTES 64

/* version and isa become labels of autoglm_build_info. */
int ag_metrics_open(ag_metrics **out, const char *version, const char *isa);
void ag_metrics_close(ag_metrics *m);

void ag_metrics_model_set(ag_metrics *m, const char *name); /* the label's value; "" until then */
void ag_metrics_build_set(ag_metrics *m, const char *isa);  /* known once the engine has chosen */
/* Names the values of a label set that another room declares (routes, refusal reasons). Once, before the first use. */
void ag_metrics_values(ag_metrics *m, ag_label_set set, const char *const *values, uint32_t n);

/* The label of a tenant, the same each time. */
uint32_t ag_metrics_tenant(ag_metrics *m, const char *name);

uint32_t ag_metric_route_status(uint32_t route, int status);

void ag_metric_add(ag_metrics *m, ag_metric_id id, uint32_t label, uint64_t n);   /* counters */
/* Gauges; and counters whose truth is kept elsewhere and copied before a scrape (COUNT_US: in microseconds). */
void ag_metric_set(ag_metrics *m, ag_metric_id id, uint32_t label, double value);
/* Histograms: HIST_US takes microseconds, HIST_N plain numbers. */
void ag_metric_observe_n(ag_metrics *m, ag_metric_id id, uint32_t label, uint64_t value, uint64_t times);
static inline void ag_metric_observe_us(ag_metrics *m, ag_metric_id id, uint32_t label, uint64_t us)
{
    ag_metric_observe_n(m, id, label, us, 1);
}

uint64_t ag_metric_get(const ag_metrics *m, ag_metric_id id, uint32_t label); /* counter: value; histogram: count */

/* Prometheus text format 0.0.4, appended. false: out's ceiling or no memory. */
bool ag_metrics_write(ag_metrics *m, ag_buf *out);
#define AG_METRICS_CONTENT_TYPE "text/plain; version=0.0.4; charset=utf-8"

#endif
