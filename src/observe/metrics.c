#include "observe/metrics.h"

#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>

#include "base/mem.h"
#include "base/utf8.h"

#define METRICS_MAGIC 0x4d455452u

typedef enum metric_kind { COUNTER, COUNT_US, GAUGE, HIST_US, HIST_N } metric_kind;

/* Upper bounds, in the unit that is observed. A first token takes from a few milliseconds (a short prompt, a small
 * model) to minutes (a long one on a CPU); a gap from under a millisecond to seconds. */
static const uint64_t bounds_ttft[] = {1000,    2500,    5000,     10000,    20000,    40000,    60000,
                                       80000,   100000,  250000,   500000,   750000,   1000000,  2500000,
                                       5000000, 7500000, 10000000, 20000000, 40000000, 80000000, 160000000};
static const uint64_t bounds_gap[] = {250,    500,    1000,   2500,    5000,    7500,    10000,   15000,  20000,
                                      25000,  30000,  40000,  50000,   75000,   100000,  150000,  200000, 300000,
                                      400000, 500000, 750000, 1000000, 2500000, 5000000, 10000000};
static const uint64_t bounds_duration[] = {5000,     10000,    25000,     50000,     100000,    250000,
                                           500000,   800000,   1000000,   1500000,   2000000,   2500000,
                                           5000000,  10000000, 15000000,  20000000,  30000000,  40000000,
                                           50000000, 60000000, 120000000, 240000000, 480000000, 960000000};
static const uint64_t bounds_tokens[] = {1,    2,    5,    10,    20,    50,    100,    200,   500,
                                         1000, 2000, 5000, 10000, 20000, 50000, 100000, 200000};

static const uint64_t bounds_age[] = {1, 5, 15, 60, 300, 900, 3600, 14400, 86400, 604800};

typedef struct bucket_list {
    const uint64_t *bounds;
    uint32_t n;
} bucket_list;

#define BUCKETS_NONE {NULL, 0}
#define BUCKETS_TTFT {bounds_ttft, AG_ARRAY_LEN(bounds_ttft)}
#define BUCKETS_GAP {bounds_gap, AG_ARRAY_LEN(bounds_gap)}
#define BUCKETS_DURATION {bounds_duration, AG_ARRAY_LEN(bounds_duration)}
#define BUCKETS_AGE {bounds_age, AG_ARRAY_LEN(bounds_age)}
#define BUCKETS_TOKENS {bounds_tokens, AG_ARRAY_LEN(bounds_tokens)}

typedef struct metric_row {
    metric_kind kind;
    const char *name, *alias;
    ag_label_set labels;
    bucket_list buckets;
    const char *help;
} metric_row;

static const metric_row rows[AG_M_COUNT] = {
#define AG_METRIC(k, id, name, alias, labels, buckets, help) \
    {k, name, alias, AG_LABELS_##labels, BUCKETS_##buckets, help},
#include "observe/metrics.def"
#undef AG_METRIC
};

/* Every status that we send has its own series; another would be counted under 0. */
static const int statuses[] = {0,   200, 204, 304, 400, 401, 403, 404, 405, 408, 413,
                               414, 415, 417, 429, 431, 499, 500, 501, 502, 503, 504};
#define N_STATUSES ((uint32_t)AG_ARRAY_LEN(statuses))

static const char *const finish_names[AG_FINISH_COUNT] = {"stop", "length", "abort", "error"};
static const char *const set_back_names[AG_SET_BACK_COUNT] = {"pages", "urgent", "share"};
static const char *const conn_state_names[AG_CONN_STATE_COUNT] = {"new", "active", "idle", "streaming", "draining"};
static const char *const cached_names[AG_CACHED_COUNT] = {"hit",     "stale", "coalesced", "miss",
                                                          "refresh", "off",   "uncertain", "damaged"};
static const char *const warmed_names[AG_WARMED_COUNT] = {"computed", "there", "failed", "yielded"};
static const char *const cache_gone_names[AG_CACHE_GONE_COUNT] = {"evicted", "expired", "purged", "refused"};
static const char *const evicted_names[AG_EVICTED_COUNT] = {"displaced", "expired", "timed_out", "refused_full",
                                                            "refused_late"};

typedef struct values {
    const char *const *names;
    uint32_t n;
} values;

struct ag_metrics {
    uint32_t magic;
    pthread_mutex_t lock; /* over model, isa, tenants and the value tables: read by a scrape, set a few times */
    char model[128], isa[64], version[64];
    char tenants[AG_METRICS_TENANTS][AG_METRICS_TENANT_BYTES + 1];
    uint32_t n_tenants;
    values routes, reasons, fates, limits;
    uint32_t first[AG_M_COUNT + 1]; /* where a metric's cells begin */
    _Atomic uint64_t cells[];       /* counter: value; gauge: bits of a double; histogram: buckets…, +Inf, sum */
};

static uint32_t labels_count(ag_label_set set)
{
    switch (set) {
    case AG_LABELS_CODE: return AG_E_COUNT;
    case AG_LABELS_REASON:
    case AG_LABELS_KEY_FATE:
    case AG_LABELS_LIMIT: return AG_METRICS_VALUES_MAX;
    case AG_LABELS_ROUTE_STATUS: return AG_METRICS_VALUES_MAX * N_STATUSES;
    case AG_LABELS_MODEL_FINISH: return AG_FINISH_COUNT;
    case AG_LABELS_BAND: return AG_METRICS_BANDS;
    case AG_LABELS_SET_BACK: return AG_SET_BACK_COUNT;
    case AG_LABELS_EVICTED: return AG_EVICTED_COUNT;
    case AG_LABELS_CACHED: return AG_CACHED_COUNT;
    case AG_LABELS_CACHE_GONE: return AG_CACHE_GONE_COUNT;
    case AG_LABELS_WARMED: return AG_WARMED_COUNT;
    case AG_LABELS_CONN_STATE: return AG_CONN_STATE_COUNT;
    case AG_LABELS_TENANT: return AG_METRICS_TENANTS + 1;
    default: return 1;
    }
}

static uint32_t row_width(const metric_row *r) { return r->kind >= HIST_US ? r->buckets.n + 2 : 1; }

int ag_metrics_open(ag_metrics **out, const char *version, const char *isa)
{
    uint32_t first[AG_M_COUNT + 1] = {0};
    for (uint32_t i = 0; i < AG_M_COUNT; i++)
        first[i + 1] = first[i] + labels_count(rows[i].labels) * row_width(&rows[i]);
    ag_metrics *m = ag_mem_zalloc(sizeof *m + first[AG_M_COUNT] * sizeof m->cells[0]);
    if (m == NULL) return AG_E_NOMEM;
    if (pthread_mutex_init(&m->lock, NULL) != 0) {
        ag_mem_free(m);
        return AG_E_NOMEM;
    }
    m->magic = METRICS_MAGIC;
    memcpy(m->first, first, sizeof first);
    for (uint32_t i = 0; i < first[AG_M_COUNT]; i++) atomic_init(&m->cells[i], 0);
    strncpy(m->version, version ? version : "", sizeof m->version - 1);
    strncpy(m->isa, isa ? isa : "", sizeof m->isa - 1);
    ag_metric_set(m, AG_M_BUILD, 0, 1);
    ag_metric_set(m, AG_M_START_TIME, 0, (double)ag_wall_us() / 1e6);
    *out = m;
    return AG_OK;
}

void ag_metrics_close(ag_metrics *m)
{
    if (m == NULL) return;
    AG_CHECK(m, METRICS_MAGIC);
    m->magic = 0;
    pthread_mutex_destroy(&m->lock);
    ag_mem_free(m);
}

static void text_set(ag_metrics *m, char *to, size_t size, const char *from)
{
    pthread_mutex_lock(&m->lock);
    memset(to, 0, size);
    strncpy(to, from ? from : "", size - 1);
    pthread_mutex_unlock(&m->lock);
}

void ag_metrics_model_set(ag_metrics *m, const char *name)
{
    if (m) text_set(m, m->model, sizeof m->model, name);
}

void ag_metrics_build_set(ag_metrics *m, const char *isa)
{
    if (m) text_set(m, m->isa, sizeof m->isa, isa);
}

void ag_metrics_values(ag_metrics *m, ag_label_set set, const char *const *names, uint32_t n)
{
    if (m == NULL) return;
    values *to = set == AG_LABELS_REASON         ? &m->reasons
                 : set == AG_LABELS_KEY_FATE     ? &m->fates
                 : set == AG_LABELS_LIMIT        ? &m->limits
                 : set == AG_LABELS_ROUTE_STATUS ? &m->routes
                                                 : NULL;
    AG_ASSERT(to && n <= AG_METRICS_VALUES_MAX);
    pthread_mutex_lock(&m->lock);
    *to = (values){names, n};
    pthread_mutex_unlock(&m->lock);
}

uint32_t ag_metrics_tenant(ag_metrics *m, const char *name)
{
    if (m == NULL) return 0;
    pthread_mutex_lock(&m->lock);
    uint32_t i = 0;
    while (i < m->n_tenants && strncmp(m->tenants[i], name, AG_METRICS_TENANT_BYTES) != 0) i++;
    if (i == m->n_tenants && i < AG_METRICS_TENANTS) strncpy(m->tenants[m->n_tenants++], name, AG_METRICS_TENANT_BYTES);
    pthread_mutex_unlock(&m->lock);
    return i;
}

uint32_t ag_metric_route_status(uint32_t route, int status)
{
    AG_ASSERT(route < AG_METRICS_VALUES_MAX);
    for (uint32_t i = 0; i < N_STATUSES; i++)
        if (statuses[i] == status) return route * N_STATUSES + i;
    return route * N_STATUSES;
}

static _Atomic uint64_t *cell(const ag_metrics *m, ag_metric_id id, uint32_t label)
{
    AG_CHECK(m, METRICS_MAGIC);
    AG_ASSERT(id < AG_M_COUNT && label < labels_count(rows[id].labels));
    return (_Atomic uint64_t *)&m->cells[m->first[id] + label * row_width(&rows[id])];
}

static void cell_add(_Atomic uint64_t *c, uint64_t n) { atomic_fetch_add_explicit(c, n, memory_order_relaxed); }
static uint64_t cell_get(_Atomic uint64_t *c) { return atomic_load_explicit(c, memory_order_relaxed); }

void ag_metric_add(ag_metrics *m, ag_metric_id id, uint32_t label, uint64_t n)
{
    if (m == NULL) return;
    AG_ASSERT(rows[id].kind <= COUNT_US);
    cell_add(cell(m, id, label), n);
}

void ag_metric_set(ag_metrics *m, ag_metric_id id, uint32_t label, double value)
{
    if (m == NULL) return;
    AG_ASSERT(rows[id].kind <= GAUGE);
    uint64_t bits = (uint64_t)value;
    if (rows[id].kind == GAUGE) memcpy(&bits, &value, sizeof bits);
    atomic_store_explicit(cell(m, id, label), bits, memory_order_relaxed);
}

void ag_metric_observe_n(ag_metrics *m, ag_metric_id id, uint32_t label, uint64_t value, uint64_t times)
{
    if (m == NULL || times == 0) return;
    const metric_row *r = &rows[id];
    AG_ASSERT(r->kind >= HIST_US);
    _Atomic uint64_t *c = cell(m, id, label);
    uint32_t at = 0;
    while (at < r->buckets.n && value > r->buckets.bounds[at]) at++;
    cell_add(&c[at], times);
    cell_add(&c[r->buckets.n + 1], value * times);
}

uint64_t ag_metric_get(const ag_metrics *m, ag_metric_id id, uint32_t label)
{
    _Atomic uint64_t *c = cell(m, id, label);
    const metric_row *r = &rows[id];
    if (r->kind <= COUNT_US) return cell_get(c);
    if (r->kind == GAUGE) {
        double v;
        uint64_t bits = cell_get(c);
        memcpy(&v, &bits, sizeof v);
        return (uint64_t)v;
    }
    uint64_t n = 0;
    for (uint32_t i = 0; i <= r->buckets.n; i++) n += cell_get(&c[i]);
    return n;
}

/* Exposition. */

/* What is not UTF-8, such as a name that was cut, would have a scrape refused as a whole: U+FFFD in its place. */
static void add_escaped(ag_buf *out, const char *z)
{
    for (size_t n = strlen(z), len; n; z += len, n -= len) {
        bool bad = (len = ag_utf8_len(z, n)) == 0;
        if (*z == '\\' || *z == '"') ag_buf_addc(out, '\\');
        if (*z == '\n') ag_buf_addz(out, "\\n");
        else if (bad) ag_buf_addz(out, "\xEF\xBF\xBD");
        else ag_buf_add(out, z, len);
        if (bad) len = 1;
    }
}

static void add_pair(ag_buf *out, const char *name, const char *value)
{
    ag_buf_addz(out, out->n && out->p[out->n - 1] == '{' ? "" : ",");
    ag_buf_addf(out, "%s=\"", name);
    add_escaped(out, value);
    ag_buf_addc(out, '"');
}

/* The label pairs of one series, between braces that the caller writes. false: this index has no name (yet). */
static bool add_labels(const ag_metrics *m, ag_buf *out, ag_label_set set, uint32_t at, bool alias)
{
    char status[12];
    switch (set) {
    case AG_LABELS_NONE: return true;
    case AG_LABELS_MODEL: add_pair(out, alias ? "model_name" : "model", m->model); return true;
    case AG_LABELS_BUILD:
        add_pair(out, "version", m->version);
        add_pair(out, "isa", m->isa);
        return true;
    case AG_LABELS_CODE:
        if (at == AG_OK) return false;
        add_pair(out, "code", ag_err_find((int)at)->code);
        return true;
    case AG_LABELS_REASON:
        if (at >= m->reasons.n) return false;
        add_pair(out, "reason", m->reasons.names[at]);
        return true;
    case AG_LABELS_ROUTE_STATUS:
        if (at / N_STATUSES >= m->routes.n) return false;
        add_pair(out, "route", m->routes.names[at / N_STATUSES]);
        snprintf(status, sizeof status, "%d", statuses[at % N_STATUSES]);
        add_pair(out, "status", status);
        return true;
    case AG_LABELS_MODEL_FINISH:
        add_pair(out, alias ? "model_name" : "model", m->model);
        add_pair(out, alias ? "finished_reason" : "reason", finish_names[at]);
        return true;
    case AG_LABELS_BAND:
        snprintf(status, sizeof status, "%u", at);
        add_pair(out, "band", status);
        return true;
    case AG_LABELS_SET_BACK: add_pair(out, "reason", set_back_names[at]); return true;
    case AG_LABELS_CONN_STATE: add_pair(out, "state", conn_state_names[at]); return true;
    case AG_LABELS_EVICTED: add_pair(out, "reason", evicted_names[at]); return true;
    case AG_LABELS_CACHED: add_pair(out, "outcome", cached_names[at]); return true;
    case AG_LABELS_WARMED: add_pair(out, "outcome", warmed_names[at]); return true;
    case AG_LABELS_CACHE_GONE: add_pair(out, "reason", cache_gone_names[at]); return true;
    case AG_LABELS_KEY_FATE:
        if (at >= m->fates.n) return false;
        add_pair(out, "result", m->fates.names[at]);
        return true;
    case AG_LABELS_LIMIT:
        if (at >= m->limits.n) return false;
        add_pair(out, "limit", m->limits.names[at]);
        return true;
    case AG_LABELS_TENANT:
        if (at < AG_METRICS_TENANTS && at >= m->n_tenants) return false;
        if (at == AG_METRICS_TENANTS && m->n_tenants < AG_METRICS_TENANTS) return false;
        add_pair(out, "tenant", at < AG_METRICS_TENANTS ? m->tenants[at] : "(others)");
        return true;
    }
    return false;
}

static void add_number(ag_buf *out, double v)
{
    if (v == floor(v) && fabs(v) < 1e15) ag_buf_addf(out, "%.0f\n", v);
    else ag_buf_addf(out, "%.15g\n", v);
}

static void add_hist(const metric_row *r, const char *name, _Atomic uint64_t *c, ag_str labels, ag_buf *out)
{
    double unit = r->kind == HIST_US ? 1e6 : 1;
    const char *comma = labels.n ? "," : "";
    uint64_t total = 0;
    for (uint32_t i = 0; i <= r->buckets.n; i++) {
        total += cell_get(&c[i]);
        ag_buf_addf(out, "%s_bucket{%.*s%sle=\"", name, (int)labels.n, labels.p, comma);
        if (i < r->buckets.n)
            ag_buf_addf(out, "%.9g\"} %llu\n", (double)r->buckets.bounds[i] / unit, (unsigned long long)total);
        else ag_buf_addf(out, "+Inf\"} %llu\n", (unsigned long long)total);
    }
    ag_buf_addf(out, "%s_sum{%.*s} %.9g\n", name, (int)labels.n, labels.p,
                (double)cell_get(&c[r->buckets.n + 1]) / unit);
    ag_buf_addf(out, "%s_count{%.*s} %llu\n", name, (int)labels.n, labels.p, (unsigned long long)total);
}

/* Sets with many possible series (every route by every status) show those that have happened. */
static bool shown_when_zero(ag_label_set set)
{
    return set != AG_LABELS_CODE && set != AG_LABELS_ROUTE_STATUS && set != AG_LABELS_LIMIT;
}

static void add_metric(const ag_metrics *m, uint32_t id, const char *name, bool alias, ag_buf *scratch, ag_buf *out)
{
    static const char *const types[] = {"counter", "counter", "gauge", "histogram", "histogram"};
    const metric_row *r = &rows[id];
    ag_buf_addf(out, "# HELP %s %s\n# TYPE %s %s\n", name, r->help, name, types[r->kind]);
    for (uint32_t at = 0; at < labels_count(r->labels); at++) {
        _Atomic uint64_t *c = cell(m, id, at);
        if (!shown_when_zero(r->labels) && cell_get(c) == 0) continue;
        ag_buf_reset(scratch);
        ag_buf_addc(scratch, '{');
        if (!add_labels(m, scratch, r->labels, at, alias)) continue;
        ag_str labels = {scratch->p + 1, scratch->n - 1};
        if (scratch->failed) {
            out->failed = true;
        } else if (r->kind >= HIST_US) {
            add_hist(r, name, c, labels, out);
        } else {
            if (labels.n) ag_buf_addf(out, "%s{%.*s} ", name, (int)labels.n, labels.p);
            else ag_buf_addf(out, "%s ", name);
            uint64_t bits = cell_get(c);
            double v = r->kind == COUNT_US ? (double)bits / 1e6 : (double)bits;
            if (r->kind == GAUGE) memcpy(&v, &bits, sizeof v);
            add_number(out, v);
        }
    }
}

bool ag_metrics_write(ag_metrics *m, ag_buf *out)
{
    AG_CHECK(m, METRICS_MAGIC);
    ag_buf scratch;
    ag_buf_init(&scratch, 4096);
    pthread_mutex_lock(&m->lock);
    for (uint32_t id = 0; id < AG_M_COUNT; id++) {
        add_metric(m, id, rows[id].name, false, &scratch, out);
        if (rows[id].alias) add_metric(m, id, rows[id].alias, true, &scratch, out);
    }
    pthread_mutex_unlock(&m->lock);
    ag_buf_fini(&scratch);
    return !out->failed;
}
