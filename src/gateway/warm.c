#include "gateway/warm.h"

#include <stdio.h>

#include "base/fault.h"
#include "base/mem.h"
#include "gateway/req.h"

#define WARM_MAGIC 0x41475741u
#define LOOK_MS 1000u     /* from one look for something to do in idle time to the next */
#define POLL_MS 20u       /* when a message did not get through, or the log is still being read */
#define SAY_MS 2000u
#define POPULAR_MIN 2u    /* asked for so often before it is computed in idle time */
#define TRIED_SLOTS 8192u
#define TRIED_MS (10u * 60 * 1000) /* a key that was tried is not tried again for so long */

struct ag_warm_job {
    ag_warm *w;
    ag_warm_job *next, **at; /* in the queue, or among those under way */
    ag_req *r;
    bool idle;               /* it gives way to whoever comes */
    bool told;               /* to end, which may take until what works for it is done */
    ag_history_record rec;
    ag_buf text;
};

typedef struct tried { uint64_t word /* of a key */, until_us; } tried;

struct ag_warm {
    uint32_t magic;
    ag_gateway *gw;
    ag_warm_conf conf;
    void *number;            /* in the first loop's slots */
    ag_hot_key *top;         /* the thread's, as is what follows */
    pthread_t thread;
    bool started;
    tried tried[TRIED_SLOTS];
    ag_warm_job *active;     /* the first loop's */

    _Atomic bool pending;
    _Atomic bool cancel;     /* everything that is under way is to end; */
    _Atomic bool idle_runs, yields; /* something of idle time is, and is to end */
    pthread_mutex_t lock;    /* over what follows */
    pthread_cond_t bell;
    bool stop, wanted;
    ag_warm_job *queue, **queue_end;
    uint32_t running;        /* queued or active */
    ag_warm_state state;
};

/* ---- jobs, on the first loop ---- */

static void job_free(ag_warm_job *j)
{
    ag_buf_fini(&j->text);
    ag_mem_free(j);
}

static void job_end(ag_warm_job *j, ag_metric_warmed how)
{
    ag_warm *w = j->w;
    pthread_mutex_lock(&w->lock);
    w->state.by[how]++;
    if (w->state.running) w->state.done++;
    w->running--;
    pthread_cond_broadcast(&w->bell);
    pthread_mutex_unlock(&w->lock);
    ag_metric_add(w->gw->metrics, AG_M_WARMED, how, 1);
    job_free(j);
}

static void job_cut(ag_warm_job *j)
{
    *j->at = j->next;
    if (j->next) j->next->at = j->at;
}

void ag_warm_ended(ag_warm_job *j, const ag_req *r)
{
    job_cut(j);
    ag_caching_told told = r->caching.told;
    bool there = told == AG_TOLD_HIT || told == AG_TOLD_STALE || told == AG_TOLD_COALESCED;
    job_end(j, r->err.code == AG_OK ? (there ? AG_WARMED_THERE : AG_WARMED_COMPUTED)
               : r->err.code == AG_E_CANCELLED ? AG_WARMED_YIELDED : AG_WARMED_FAILED);
}

static void begin(ag_warm *w, ag_warm_job *j)
{
    j->next = w->active;
    j->at = &w->active;
    if (j->next) j->next->at = &j->next;
    w->active = j;
    j->r = ag__req_of_record(w->gw, &w->gw->loops[0], &j->rec, j);
    if (j->r) {
        ag__req_run(j->r); /* and it may be over already */
        return;
    }
    job_cut(j);
    job_end(j, AG_WARMED_FAILED);
}

void ag_warm_message(ag_warm *w)
{
    AG_CHECK(w, WARM_MAGIC);
    pthread_mutex_lock(&w->lock);
    ag_warm_job *j = w->queue, *next;
    w->queue = NULL;
    w->queue_end = &w->queue;
    pthread_mutex_unlock(&w->lock);
    bool cancel = atomic_load(&w->cancel), yields = atomic_load(&w->yields);
    for (; j; j = next) {
        next = j->next;
        if (cancel || (yields && j->idle)) job_end(j, AG_WARMED_YIELDED);
        else begin(w, j);
    }
    if (!cancel && !yields) return;
    for (j = w->active; j;) {
        bool now = !j->told && (cancel || j->idle);
        j->told = j->told || now;
        if (now) ag__req_break_off(j->r); /* with it may go others, who waited for what it looks for */
        j = now ? w->active : j->next;
    }
}

/* ---- the thread ---- */

static void post(ag_warm *w)
{
    /* A full mailbox is tried again by whoever waits for what was posted. */
    ag_mbox_post(ag_http_loop_mbox(w->gw->loops[0].loop), w->number);
}

/* [lock] */
static void wait_ms(ag_warm *w, uint32_t ms) { ag_cond_wait_until(&w->bell, &w->lock, ag_now_us() + ms * 1000ull); }

/* [lock] Breaks off what is under way, and waits until it is gone. */
static void break_off(ag_warm *w)
{
    atomic_store(&w->cancel, true);
    while (w->running) {
        pthread_mutex_unlock(&w->lock);
        post(w);
        pthread_mutex_lock(&w->lock);
        if (w->running) wait_ms(w, POLL_MS);
    }
    atomic_store(&w->cancel, false);
}

static ag_warm_job *job_make(ag_warm *w, const ag_hot_key *k)
{
    ag_warm_job *j = ag_mem_zalloc(sizeof *j);
    if (j == NULL) return NULL;
    j->w = w;
    ag_buf_init(&j->text, AG_HISTORY_LINE_MAX);
    if (ag_history_get(w->gw->history, k, &j->rec, &j->text) && ag_str_eqz(j->rec.model, w->gw->model_name)) return j;
    job_free(j);
    return NULL;
}

/* [lock] */
static void queue_add(ag_warm *w, ag_warm_job *j)
{
    *w->queue_end = j;
    w->queue_end = &j->next;
    w->running++;
    pthread_mutex_unlock(&w->lock);
    post(w);
    pthread_mutex_lock(&w->lock);
}

static uint64_t evicted(const ag_warm *w)
{
    ag_cache_stats s;
    ag_cache_stats_get(w->gw->caching.cache, &s);
    return s.evicted;
}

static bool has(const ag_warm *w, const ag_cache_key *k)
{
    return ag_cache_has(w->gw->caching.cache, k, ag_wall_us() / 1000);
}

/* ---- a full one ---- */

static void say(const ag_warm *w, const char *msg, uint64_t from_us, const char *why)
{
    const ag_warm_state *s = &w->state;
    AG_LOG(w->gw->log, AG_LOG_INFO, NULL, msg, AG_LOG_U("done", s->done), AG_LOG_U("wanted", s->wanted),
           AG_LOG_U("computed", s->by[AG_WARMED_COMPUTED]),
           AG_LOG_U("failed", s->by[AG_WARMED_FAILED]), AG_LOG_U("ms", (ag_now_us() - from_us) / 1000),
           AG_LOG_Z("end", why));
}

/* [lock] Until fewer run than may; why it is to end, NULL: it goes on. */
static const char *wait_for_room(ag_warm *w, uint32_t most, uint64_t until_us, uint64_t from_us, uint64_t *said_us)
{
    for (;;) {
        uint64_t now = ag_now_us();
        if (w->stop) return "the server stops";
        if (now >= until_us) return "its time is over";
        if (now - *said_us >= SAY_MS * 1000ull) {
            *said_us = now;
            say(w, "warming up", from_us, "not yet");
        }
        if (w->running < most) return NULL;
        wait_ms(w, POLL_MS);
        if (w->queue) { /* a message that did not get through */
            pthread_mutex_unlock(&w->lock);
            post(w);
            pthread_mutex_lock(&w->lock);
        }
    }
}

/* [lock] What is hottest goes first, and none that would put out what went before. */
static const char *run_all(ag_warm *w, uint32_t n, uint64_t from_us, uint64_t until_us)
{
    const char *why = NULL;
    uint64_t said_us = from_us, evicted_before = evicted(w);
    for (uint32_t i = 0; i < n && !why; i++) {
        pthread_mutex_unlock(&w->lock);
        ag_warm_job *j = has(w, &w->top[i].key) ? NULL : job_make(w, &w->top[i]);
        pthread_mutex_lock(&w->lock);
        why = wait_for_room(w, w->conf.concurrency, until_us, from_us, &said_us);
        if (!why && evicted(w) > evicted_before) why = "the cache is full";
        if (j && !why) queue_add(w, j);
        else if (j) job_free(j);
        else w->state.done++;
    }
    if (!why) why = wait_for_room(w, 1, until_us, from_us, &said_us);
    break_off(w);
    return why ? why : "all of them";
}

/* [lock] */
static void full(ag_warm *w)
{
    uint64_t from_us = ag_now_us(), until_us = from_us + w->conf.time_ms * 1000ull;
    w->wanted = false;
    w->state.running = true;
    w->state.wanted = w->state.done = 0;
    while (!w->stop && !ag_history_known(w->gw->history) && ag_now_us() < until_us) wait_ms(w, POLL_MS);
    pthread_mutex_unlock(&w->lock);
    uint32_t n = ag_history_top(w->gw->history, w->top, w->conf.top);
    pthread_mutex_lock(&w->lock);
    w->state.wanted = n;
    AG_LOG(w->gw->log, AG_LOG_INFO, NULL, "warming up", AG_LOG_U("wanted", n));
    const char *why = run_all(w, n, from_us, until_us);
    say(w, "warmed up", from_us, why);
    w->state.running = false;
    if (atomic_exchange(&w->pending, false) && !w->stop)
        AG_LOG(w->gw->log, AG_LOG_INFO, NULL, "ready", AG_LOG_Z("model", w->gw->model_name));
}

/* ---- in idle time ---- */

static uint64_t word_of(const ag_cache_key *k)
{
    uint64_t word;
    memcpy(&word, k->b, sizeof word);
    return word;
}

static bool is_idle(const ag_warm *w)
{
    ag_engine_stats s;
    ag_engine_stats_get(atomic_load(&w->gw->engine), &s);
    return s.waiting == 0 && s.running == 0;
}

/* What failed, or is asked under another key by now, is not tried again at once. */
static bool was_tried(const ag_warm *w, const ag_cache_key *k)
{
    uint64_t word = word_of(k);
    const tried *t = &w->tried[word % TRIED_SLOTS];
    return t->word == word && ag_now_us() < t->until_us;
}

static void set_tried(ag_warm *w, const ag_cache_key *k)
{
    uint64_t word = word_of(k);
    w->tried[word % TRIED_SLOTS] = (tried){word, ag_now_us() + TRIED_MS * 1000ull};
}

/* [lock] One, and until it is gone. */
static void run_one(ag_warm *w, ag_warm_job *j)
{
    j->idle = true;
    atomic_store(&w->yields, false);
    atomic_store(&w->idle_runs, true);
    /* Who came before this is seen here, who comes after it tells us. */
    if (is_idle(w)) queue_add(w, j);
    else job_free(j), atomic_store(&w->yields, true);
    while (w->running && !w->stop && !atomic_load(&w->yields)) wait_ms(w, LOOK_MS);
    break_off(w);
    atomic_store(&w->idle_runs, false);
}

/* [lock] */
static void look_round(ag_warm *w)
{
    pthread_mutex_unlock(&w->lock);
    uint32_t n = is_idle(w) ? ag_history_top(w->gw->history, w->top, w->conf.top) : 0;
    pthread_mutex_lock(&w->lock);
    for (uint32_t i = 0; i < n && !w->stop && !w->wanted && w->top[i].count >= POPULAR_MIN; i++) {
        pthread_mutex_unlock(&w->lock);
        const ag_cache_key *k = &w->top[i].key;
        ag_warm_job *j = has(w, k) || was_tried(w, k) ? NULL : job_make(w, &w->top[i]);
        pthread_mutex_lock(&w->lock);
        if (j == NULL) continue;
        run_one(w, j);
        if (atomic_load(&w->yields)) break;
        set_tried(w, k);
    }
}

static void *warm_main(void *arg)
{
    ag_warm *w = arg;
    pthread_setname_np(pthread_self(), "ag-warm");
    pthread_mutex_lock(&w->lock);
    while (!w->stop) {
        if (w->wanted) full(w);
        else if (w->conf.idle) look_round(w);
        if (w->stop || w->wanted) continue;
        if (w->conf.idle) wait_ms(w, LOOK_MS);
        else pthread_cond_wait(&w->bell, &w->lock);
    }
    pthread_mutex_unlock(&w->lock);
    return NULL;
}

/* ---- from outside ---- */

void ag_warm_yield(ag_warm *w)
{
    if (w == NULL || !atomic_load(&w->idle_runs) || atomic_exchange(&w->yields, true)) return;
    pthread_mutex_lock(&w->lock);
    pthread_cond_broadcast(&w->bell);
    pthread_mutex_unlock(&w->lock);
    post(w); /* which its thread does, too, but later */
}

bool ag_warm_pending(const ag_warm *w) { return w && atomic_load(&((ag_warm *)(uintptr_t)w)->pending); }

bool ag_warm_begin(ag_warm *w)
{
    if (w == NULL) return false;
    pthread_mutex_lock(&w->lock);
    bool ok = !w->state.running && !w->wanted && !w->stop && w->started;
    w->wanted = w->wanted || ok;
    pthread_cond_broadcast(&w->bell);
    pthread_mutex_unlock(&w->lock);
    return ok;
}

void ag_warm_get(ag_warm *w, ag_warm_state *out)
{
    *out = (ag_warm_state){0};
    if (w == NULL) return;
    pthread_mutex_lock(&w->lock);
    *out = w->state;
    out->running = out->running || w->wanted;
    pthread_mutex_unlock(&w->lock);
}

int ag_warm_open(ag_warm **out, ag_gateway *gw, const ag_warm_conf *conf, ag_err *err)
{
    AG_ASSERT(gw->history && gw->caching.cache);
    if (conf->top < 1 || conf->top > AG_WARM_TOP_MAX || conf->concurrency < 1 ||
        conf->concurrency > AG_WARM_CONCURRENCY_MAX)
        return ag_err_set(err, AG_E_USAGE, "--warm-top should be 1 to %u and --warm-concurrency 1 to %u.",
                          AG_WARM_TOP_MAX, AG_WARM_CONCURRENCY_MAX);
    ag_warm *w = ag_mem_zalloc(sizeof *w);
    if (w) w->top = ag_mem_array(conf->top, sizeof *w->top);
    if (w && w->top) w->number = ag_slots_add(&gw->loops[0].slots, w, AG_SLOT_WARM);
    if (w == NULL || w->top == NULL || w->number == NULL) {
        if (w) ag_mem_free(w->top);
        ag_mem_free(w);
        return ag_err_set(err, AG_E_NOMEM, "There is no memory for the warm-up.");
    }
    w->magic = WARM_MAGIC;
    w->gw = gw;
    w->conf = *conf;
    w->wanted = conf->full;
    w->queue_end = &w->queue;
    atomic_init(&w->pending, conf->full);
    pthread_mutex_init(&w->lock, NULL);
    ag_cond_init(&w->bell);
    *out = w;
    return AG_OK;
}

int ag_warm_start(ag_warm *w, ag_err *err)
{
    if (w == NULL) return AG_OK;
    AG_CHECK(w, WARM_MAGIC);
    if (ag_fault_hit(AG_FAULT_THREAD) || pthread_create(&w->thread, NULL, warm_main, w) != 0) {
        atomic_store(&w->pending, false);
        return ag_err_set(err, AG_E_INTERNAL, "The warm-up's thread could not be started.");
    }
    w->started = true;
    return AG_OK;
}

void ag_warm_halt(ag_warm *w)
{
    if (w == NULL) return;
    pthread_mutex_lock(&w->lock);
    w->stop = true;
    pthread_cond_broadcast(&w->bell);
    pthread_mutex_unlock(&w->lock);
}

void ag_warm_stop(ag_warm *w)
{
    if (w == NULL) return;
    ag_warm_halt(w);
    if (w->started) pthread_join(w->thread, NULL);
    w->started = false;
}

void ag_warm_close(ag_warm *w)
{
    if (w == NULL) return;
    AG_CHECK(w, WARM_MAGIC);
    AG_ASSERT(!w->started && w->queue == NULL && w->active == NULL);
    ag_slots_remove(&w->gw->loops[0].slots, w->number);
    pthread_cond_destroy(&w->bell);
    pthread_mutex_destroy(&w->lock);
    ag_mem_free(w->top);
    w->magic = 0;
    ag_mem_free(w);
}

/* ---- /admin/v1/cache/warm ---- */

ag_next ag__answer_warm(ag_req *r)
{
    ag_warm *w = r->gw->warm;
    bool post = strcmp(r->method, "POST") == 0;
    if (w == NULL)
        return ag__req_refuse(r, AG_E_NOT_FOUND,
                              "This server keeps no requests that could be asked again; --history full does.");
    if (post && ag_warm_begin(w))
        AG_LOG(r->gw->log, AG_LOG_INFO, NULL, "warm-up asked for", AG_LOG_Z("by", ag__key_name(r)));
    ag_warm_state s;
    ag_history_stats h;
    ag_buf body;
    ag_warm_get(w, &s);
    ag_history_stats_get(r->gw->history, &h);
    const struct { const char *name; uint64_t n; } rows[] = {
        {"wanted", s.wanted}, {"done", s.done}, {"computed", s.by[AG_WARMED_COMPUTED]},
        {"there", s.by[AG_WARMED_THERE]}, {"failed", s.by[AG_WARMED_FAILED]}, {"yielded", s.by[AG_WARMED_YIELDED]},
        {"records", h.written}, {"dropped", h.dropped}, {"damaged", h.damaged}};
    ag_buf_init(&body, 4096);
    ag_buf_addf(&body, "{\"object\":\"cache.warm\",\"running\":%s", s.running ? "true" : "false");
    for (size_t i = 0; i < AG_ARRAY_LEN(rows); i++)
        ag_buf_addf(&body, ",\"%s\":%llu", rows[i].name, (unsigned long long)rows[i].n);
    ag_buf_addc(&body, '}');
    return ag__req_answer_buf(r, AG_TYPE_JSON, &body, NULL, 0);
}
