#include "cli/load.h"

#include <curl/curl.h>
#include <errno.h>
#include <math.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "base/mem.h"
#include "cli/cli.h"
#include "cli/load_answer.h"

#define CONNECT_TIMEOUT_US 15000000u
#define SPARE_DESCRIPTORS 32u /* stdio, epoll, the resolver's */
/* A client waits this long after a failure before it asks again: how fast a server refuses is not what is measured. */
#define PAUSE_US 50000u
#define NEVER UINT64_MAX

typedef struct client {
    ag_load *load;
    CURL *easy;
    ag_buf body;
    ag_answer answer;
    uint32_t tenant;
    bool running;
    uint64_t ready_us; /* while it pauses */
} client;

struct ag_load {
    const ag_load_spec *spec;
    ag_load_result result;
    CURLM *multi;
    int epoll;
    struct curl_slist *headers[AG_LOAD_TENANTS_MAX];
    client *clients;
    uint32_t *ready, n_ready;               /* a stack of idle clients */
    uint32_t *pausing, pause_at, n_pausing; /* a ring, in order of ready_us: the pause is the same for all */
    uint32_t begun, running;                /* clients that the ramp has let in; requests on their way */
    uint64_t began_us, end_us;
    uint64_t curl_us;                       /* when curl wants to be called; NEVER: not at all */
    uint64_t due_us, arrivals;              /* open loop: the next arrival; its random state */
    double due;                             /* the arrival, in microseconds since began_us: gaps are no whole ones */
    bool due_waited;
    bool failed;                            /* no memory for a request */
};

static int on_socket(CURL *easy, curl_socket_t fd, int what, void *arg, void *known)
{
    (void)easy;
    ag_load *l = arg;
    struct epoll_event e = {.data.fd = fd};
    if (what & CURL_POLL_IN) e.events |= EPOLLIN;
    if (what & CURL_POLL_OUT) e.events |= EPOLLOUT;
    if (what == CURL_POLL_REMOVE) {
        epoll_ctl(l->epoll, EPOLL_CTL_DEL, fd, NULL); /* fails where it is closed already, and then it is gone */
        curl_multi_assign(l->multi, fd, NULL);
        return 0;
    }
    if (epoll_ctl(l->epoll, known ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, fd, &e) != 0 && errno == EEXIST)
        epoll_ctl(l->epoll, EPOLL_CTL_MOD, fd, &e);
    curl_multi_assign(l->multi, fd, l);
    return 0;
}

static int on_timer(CURLM *multi, long ms, void *arg)
{
    (void)multi;
    ((ag_load *)arg)->curl_us = ms < 0 ? NEVER : ag_now_us() + (uint64_t)ms * 1000;
    return 0;
}

static int headers_make(ag_load *l, ag_err *err)
{
    const ag_load_spec *s = l->spec;
    for (uint32_t i = 0; i < AG_MAX(s->n_tenants, 1u); i++) {
        char line[1200];
        /* libcurl would ask the server's leave before a large body and wait a second for it. */
        const char *fixed[] = {"Content-Type: application/json", "Accept: text/event-stream", "Expect:"};
        bool ok = true;
        for (uint32_t k = 0; ok && k < AG_ARRAY_LEN(fixed) + 2; k++) {
            const char *text = k < AG_ARRAY_LEN(fixed) ? fixed[k] : NULL;
            if (k == AG_ARRAY_LEN(fixed) && s->key)
                snprintf(line, sizeof line, "Authorization: Bearer %s", s->key), text = line;
            if (k > AG_ARRAY_LEN(fixed) && s->n_tenants)
                snprintf(line, sizeof line, "x-tenant: %s", s->tenants[i].name), text = line;
            if (text == NULL) continue;
            struct curl_slist *more = curl_slist_append(l->headers[i], text);
            ok = more != NULL;
            if (ok) l->headers[i] = more;
        }
        if (!ok) return ag_err_set(err, AG_E_NOMEM, "no memory for the requests' headers");
    }
    return AG_OK;
}

int ag_load_descriptors(uint32_t clients, ag_err *err)
{
    struct rlimit r;
    if (getrlimit(RLIMIT_NOFILE, &r) != 0)
        return ag_err_set(err, AG_E_IO, "the limit of open files cannot be read: %s", strerror(errno));
    uint64_t want = (uint64_t)clients + SPARE_DESCRIPTORS;
    if (r.rlim_cur >= want) return AG_OK;
    rlim_t most = r.rlim_max;
    r.rlim_cur = most < want ? most : want;
    if (setrlimit(RLIMIT_NOFILE, &r) == 0 && r.rlim_cur == want) return AG_OK;
    return ag_err_set(err, AG_E_LIMIT, "%u clients need %llu open files, and this shell allows %llu (ulimit -n)",
                      clients, (unsigned long long)want, (unsigned long long)most);
}

static size_t on_body(char *p, size_t size, size_t n, void *arg)
{
    client *c = arg;
    return ag_answer_take(&c->answer, c->easy, p, n * size) ? n * size : 0;
}

static int client_init(ag_load *l, client *c)
{
    const ag_load_spec *s = l->spec;
    c->load = l;
    ag_buf_init(&c->body,
                (size_t)s->prompt_words * 12 + strlen(s->extra) + (s->model ? strlen(s->model) * 6 : 0) + 512);
    ag_answer_init(&c->answer);
    CURL *e = c->easy = curl_easy_init();
    if (e == NULL) return AG_E_NOMEM;
    CURLcode code = curl_easy_setopt(e, CURLOPT_URL, s->url);
    if (code == CURLE_OK) code = curl_easy_setopt(e, CURLOPT_PROTOCOLS_STR, "http,https");
    if (code == CURLE_OK) code = curl_easy_setopt(e, CURLOPT_USERAGENT, "autoglm/" AG_VERSION);
    if (code == CURLE_OK) code = curl_easy_setopt(e, CURLOPT_PROXY, ""); /* a proxy would be measured with the server */
    curl_easy_setopt(e, CURLOPT_FOLLOWLOCATION, 0L);
    curl_easy_setopt(e, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    curl_easy_setopt(e, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(e, CURLOPT_CONNECTTIMEOUT_MS, (long)(AG_MIN(s->timeout_us, (uint64_t)CONNECT_TIMEOUT_US) / 1000));
    curl_easy_setopt(e, CURLOPT_TIMEOUT_MS, (long)(s->timeout_us / 1000));
    curl_easy_setopt(e, CURLOPT_WRITEFUNCTION, on_body);
    curl_easy_setopt(e, CURLOPT_WRITEDATA, c);
    curl_easy_setopt(e, CURLOPT_PRIVATE, c);
    return code == CURLE_OK ? AG_OK : AG_E_NOMEM;
}

int ag_load_create(ag_load **out, const ag_load_spec *spec, ag_err *err)
{
    AG_ASSERT(spec->clients >= 1 && spec->clients <= AG_LOAD_CLIENTS_MAX && spec->shared_words <= spec->prompt_words);
    int rc = AG_OK;
    ag_load *l = ag_mem_zalloc(sizeof *l);
    if (l == NULL) return ag_err_set(err, AG_E_NOMEM, "no memory");
    l->spec = spec;
    l->epoll = epoll_create1(EPOLL_CLOEXEC);
    l->curl_us = NEVER;
    l->clients = ag_mem_array(spec->clients, sizeof *l->clients);
    l->ready = ag_mem_array(spec->clients, sizeof *l->ready);
    l->pausing = ag_mem_array(spec->clients, sizeof *l->pausing);
    l->result.tenants = ag_mem_array(AG_MAX(spec->n_tenants, 1u), sizeof *l->result.tenants);
    l->multi = curl_multi_init();
    if (l->epoll < 0) rc = ag_err_set(err, AG_E_IO, "no epoll: %s", strerror(errno));
    else if (!l->clients || !l->ready || !l->pausing || !l->result.tenants || !l->multi)
        rc = ag_err_set(err, AG_E_NOMEM, "no memory");
    else rc = headers_make(l, err);
    for (uint32_t i = 0; rc == AG_OK && i < spec->clients; i++) {
        rc = client_init(l, &l->clients[i]);
        if (rc != AG_OK) ag_err_set(err, rc, "no memory for %u clients", spec->clients);
    }
    if (rc == AG_OK) {
        curl_multi_setopt(l->multi, CURLMOPT_SOCKETFUNCTION, on_socket);
        curl_multi_setopt(l->multi, CURLMOPT_SOCKETDATA, l);
        curl_multi_setopt(l->multi, CURLMOPT_TIMERFUNCTION, on_timer);
        curl_multi_setopt(l->multi, CURLMOPT_TIMERDATA, l);
        curl_multi_setopt(l->multi, CURLMOPT_MAXCONNECTS, (long)spec->clients);
        *out = l;
    } else {
        ag_load_free(l);
    }
    return rc;
}

void ag_load_free(ag_load *l)
{
    if (l == NULL) return;
    for (uint32_t i = 0; l->clients && i < l->spec->clients; i++) {
        client *c = &l->clients[i];
        if (c->load == NULL) continue;
        if (c->running) curl_multi_remove_handle(l->multi, c->easy);
        if (c->easy) curl_easy_cleanup(c->easy);
        ag_answer_fini(&c->answer);
        ag_buf_fini(&c->body);
    }
    if (l->multi) curl_multi_cleanup(l->multi);
    for (uint32_t i = 0; i < AG_LOAD_TENANTS_MAX; i++) curl_slist_free_all(l->headers[i]);
    if (l->epoll >= 0) close(l->epoll);
    ag_mem_free(l->result.tenants);
    ag_mem_free(l->pausing);
    ag_mem_free(l->ready);
    ag_mem_free(l->clients);
    ag_mem_free(l);
}

const ag_load_result *ag_load_got(const ag_load *l) { return &l->result; }

static void start(ag_load *l, client *c, uint64_t due)
{
    ag_load_plan plan;
    ag_load_plan_make(l->spec, l->spec->first + l->result.all.started, &plan);
    ag_buf_reset(&c->body);
    c->tenant = plan.tenant;
    ag_load_stats *mine = &l->result.tenants[c->tenant];
    ag_answer_begin(&c->answer, due, &l->result.all, mine);
    bool ok = ag_load_body(l->spec, &plan, &c->body);
    ok = ok && curl_easy_setopt(c->easy, CURLOPT_POSTFIELDS, c->body.p) == CURLE_OK;
    ok = ok && curl_easy_setopt(c->easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)c->body.n) == CURLE_OK;
    ok = ok && curl_easy_setopt(c->easy, CURLOPT_HTTPHEADER, l->headers[c->tenant]) == CURLE_OK;
    ok = ok && curl_multi_add_handle(l->multi, c->easy) == CURLM_OK;
    l->failed = l->failed || !ok;
    if (!ok) return;
    c->running = true;
    l->running++;
    l->result.all.started++;
    mine->started++;
}

static void rest(ag_load *l, client *c, bool pause)
{
    uint32_t index = (uint32_t)(c - l->clients);
    if (!pause) {
        l->ready[l->n_ready++] = index;
        return;
    }
    c->ready_us = ag_now_us() + PAUSE_US;
    l->pausing[(l->pause_at + l->n_pausing++) % l->spec->clients] = index;
}

/* It went to a kept connection that the server was closing. libcurl sends again by itself, but some versions count that
 * over all requests of a handle and give up at every sixth. */
static bool sent_in_vain(const client *c, CURLcode code, long status)
{
    long opened = 1;
    curl_easy_getinfo(c->easy, CURLINFO_NUM_CONNECTS, &opened);
    bool lost = code == CURLE_SEND_ERROR || code == CURLE_RECV_ERROR || code == CURLE_GOT_NOTHING;
    return lost && status == 0 && opened == 0;
}

static void finish(ag_load *l, client *c, CURLcode code)
{
    long status = 0;
    curl_easy_getinfo(c->easy, CURLINFO_RESPONSE_CODE, &status);
    curl_multi_remove_handle(l->multi, c->easy);
    if (sent_in_vain(c, code, status) && curl_multi_add_handle(l->multi, c->easy) == CURLM_OK) return;
    c->running = false;
    l->running--;
    bool ok = ag_answer_end(&c->answer, code, status, &l->result, &l->result.tenants[c->tenant]);
    rest(l, c, !ok && l->spec->rate == 0);
}

static void finish_all(ag_load *l)
{
    CURLMsg *m;
    for (int left; (m = curl_multi_info_read(l->multi, &left)) != NULL;) {
        if (m->msg != CURLMSG_DONE) continue;
        char *c = NULL;
        CURLcode code = m->data.result;
        curl_easy_getinfo(m->easy_handle, CURLINFO_PRIVATE, &c);
        finish(l, (client *)(void *)c, code);
    }
}

/* The next arrival, of a Poisson process if not even; during the ramp the rate grows from nothing, by leaving arrivals
 * out. */
static void next_arrival(ag_load *l)
{
    do {
        double apart = l->spec->even ? 1 : -log(ag_load_random_open(&l->arrivals));
        l->due += fmin(apart / l->spec->rate * 1e6, 1e12);
    } while (l->due < (double)l->spec->ramp_us &&
             ag_load_random_open(&l->arrivals) * (double)l->spec->ramp_us > l->due);
    l->due_us = l->began_us + (uint64_t)l->due;
    l->due_waited = false;
}

/* Starts what is due and returns when something is due next, for a reason other than an answer. */
static uint64_t start_due(ag_load *l)
{
    const ag_load_spec *s = l->spec;
    const uint64_t now = ag_now_us();
    uint64_t next = NEVER;
    while (l->begun < s->clients) {
        uint64_t at = s->rate > 0 ? 0 : l->began_us + (uint64_t)((double)s->ramp_us * l->begun / s->clients);
        if (at > now) {
            next = at;
            break;
        }
        rest(l, &l->clients[l->begun++], false);
    }
    while (l->n_pausing && l->clients[l->pausing[l->pause_at]].ready_us <= now) {
        l->ready[l->n_ready++] = l->pausing[l->pause_at];
        l->pause_at = (l->pause_at + 1) % s->clients;
        l->n_pausing--;
    }
    if (l->n_pausing) next = AG_MIN(next, l->clients[l->pausing[l->pause_at]].ready_us);
    while (!l->failed && (s->requests == 0 || l->result.all.started < s->requests) &&
           (s->rate == 0 || (l->due_us <= now && l->due_us < l->end_us))) {
        if (l->n_ready == 0) {
            l->result.waited += s->rate > 0 && !l->due_waited;
            l->due_waited = true;
            return next;
        }
        start(l, &l->clients[l->ready[--l->n_ready]], s->rate > 0 ? l->due_us : ag_now_us());
        if (s->rate > 0) next_arrival(l);
    }
    if (s->requests && l->result.all.started >= s->requests) return NEVER;
    return s->rate > 0 ? AG_MIN(next, l->due_us) : next;
}

/* Sleeps until `until`, a socket, or a signal, which can come at no other place (see ag_load_run). */
static void wait_and_serve(ag_load *l, uint64_t until, const sigset_t *open)
{
    struct epoll_event events[256];
    uint64_t now = ag_now_us();
    until = AG_MIN(until, l->curl_us);
    until = until > now ? AG_MIN(until - now, (uint64_t)1000000) : 0;
    struct timespec t = {.tv_sec = (time_t)(until / 1000000), .tv_nsec = (long)(until % 1000000 * 1000)};
    struct pollfd fd = {.fd = l->epoll, .events = POLLIN};
    int n = ppoll(&fd, 1, &t, open) > 0 ? epoll_wait(l->epoll, events, AG_ARRAY_LEN(events), 0) : 0, running;
    for (int i = 0; i < n; i++) {
        uint32_t e = events[i].events;
        int what = (e & EPOLLIN ? CURL_CSELECT_IN : 0) | (e & EPOLLOUT ? CURL_CSELECT_OUT : 0) |
                   (e & (EPOLLERR | EPOLLHUP) ? CURL_CSELECT_ERR : 0);
        curl_multi_socket_action(l->multi, events[i].data.fd, what, &running);
    }
    if (l->curl_us <= ag_now_us()) {
        l->curl_us = NEVER; /* it says so again where it wants more */
        curl_multi_socket_action(l->multi, CURL_SOCKET_TIMEOUT, 0, &running);
    }
    finish_all(l);
}

static void cut_off(ag_load *l)
{
    for (uint32_t i = 0; i < l->spec->clients; i++) {
        client *c = &l->clients[i];
        if (!c->running) continue;
        curl_multi_remove_handle(l->multi, c->easy);
        c->running = false;
        ag_answer_cut(&c->answer, &l->result, &l->result.tenants[c->tenant]);
    }
    l->running = 0;
}

int ag_load_run(ag_load *l, const volatile int *stop, ag_err *err)
{
    const ag_load_spec *s = l->spec;
    ag_load_result *r = &l->result;
    sigset_t block, open;
    sigemptyset(&block);
    sigaddset(&block, SIGINT);
    sigaddset(&block, SIGTERM);
    pthread_sigmask(SIG_BLOCK, &block, &open);
    ag_progress p;
    if (s->name == NULL) ag_progress_begin(&p, "requests", s->requests, false);
    const uint64_t now_us = ag_now_us();
    l->began_us = l->due_us = now_us + s->start_us;
    l->end_us = s->duration_us ? now_us + s->duration_us : NEVER;
    l->due = 0;
    l->arrivals = s->seed ^ 0xA5A5A5A5A5A5A5A5u;
    if (s->rate > 0) next_arrival(l);
    while (!*stop && !l->failed) {
        uint64_t next = start_due(l), now = ag_now_us();
        if (now >= l->end_us || (l->running == 0 && s->requests && r->all.started >= s->requests)) break;
        wait_and_serve(l, AG_MIN(next, l->end_us), &open);
        if (s->name == NULL) ag_progress_show(&p, r->all.ok + r->all.failed);
    }
    r->elapsed_us = AG_MAX(ag_now_us(), l->began_us + 1) - l->began_us;
    r->interrupted = *stop != 0;
    cut_off(l);
    if (s->name == NULL) ag_progress_end(&p);
    pthread_sigmask(SIG_SETMASK, &open, NULL);
    return l->failed ? ag_err_set(err, AG_E_NOMEM, "no memory for more requests") : AG_OK;
}
