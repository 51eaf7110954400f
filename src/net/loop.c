#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "base/fault.h"
#include "base/mem.h"
#include "net/net.h"

#define LOOP_MAGIC 0x4c4f4f50u
/* New connections on their way to a loop; accepting is slower than starting one, so this fills only if a loop hangs. */
#define HANDOFF_CAP 1024
/* Messages taken before the connections that they touched are written, and rounds of writing before sockets are polled
 * again: a flood of either must not starve the other. */
#define MESSAGES_AT_ONCE 1024
#define LEAVE_ROUNDS 16
/* Turns that the user takes before sockets are polled again. */
#define TURNS_AT_ONCE 4
/* Work on uv's pool must not take a core from loops or kernels. */
#define WORK_NICE 10

static _Thread_local const ag_http_loop *here; /* whose thread this is, if it looks at its mailbox before it sleeps */

static void wake_loop(void *arg)
{
    ag_http_loop *l = arg;
    if (l != here) uv_async_send(&l->wake);
}

static void take_handoffs(ag_http_loop *l)
{
    ag__conn *c;
    while (l->handoff && (c = ag_mbox_take(l->handoff)) != NULL) {
        if (l->stopping) ag__conn_free(c);
        else ag__conn_start(c);
    }
}

static void take_messages(ag_http_loop *l)
{
    const ag_http_handler *h = &l->server->handler;
    void *msg;
    for (int i = 0; i < MESSAGES_AT_ONCE && (msg = ag_mbox_take(l->mbox)) != NULL; i++) {
        h->on_message(h->arg, l, msg);
        if (i + 1 == MESSAGES_AT_ONCE) uv_async_send(&l->wake);
    }
}

static void start_draining(ag_http_loop *l)
{
    l->draining = true;
    if (l->index == 0) ag__accept_close(l->server);
    for (ag__link *i = l->conns.next; i != &l->conns; i = i->next)
        ag__conn_dirty((ag__conn *)((char *)i - offsetof(ag__conn, all)));
}

static void stop(ag_http_loop *l)
{
    l->stopping = true;
    /* A killed connection stays in the list until its handles are closed, so the walk is safe. */
    for (ag__link *i = l->conns.next; i != &l->conns; i = i->next)
        ag__conn_kill((ag__conn *)((char *)i - offsetof(ag__conn, all)));
    ag__redis_stop(l);
    /* Others may post until the server is closed, so the handle stays; it no longer keeps the loop running. */
    uv_unref((uv_handle_t *)&l->wake);
}

struct ag__visit {
    ag__visit *next;
    ag_http_loop *from;
    uint32_t to;          /* the loop that it is at, or on its way to; so many as there are: it is on its way back */
    ag_http_each_fn *each;
    void (*after)(void *);
    void *arg;
};

static void send_visit(ag__visit *v)
{
    ag_http_server *s = v->from->server;
    ag_http_loop *to = v->to < s->n_loops ? &s->loops[v->to] : v->from;
    uv_mutex_lock(&s->lock);
    v->next = to->visits;
    to->visits = v;
    uv_mutex_unlock(&s->lock);
    uv_async_send(&to->wake);
}

static ag__visit *visits_of(ag_http_loop *l)
{
    uv_mutex_lock(&l->server->lock);
    ag__visit *v = l->visits;
    l->visits = NULL;
    uv_mutex_unlock(&l->server->lock);
    return v;
}

static void end_visit(ag__visit *v)
{
    v->after(v->arg);
    ag_mem_free(v);
}

static void take_visits(ag_http_loop *l)
{
    for (ag__visit *v = visits_of(l), *next; v; v = next) {
        next = v->next;
        if (v->to == l->server->n_loops) {
            end_visit(v);
            continue;
        }
        bool more = true;
        for (ag__link *i = l->conns.next; i != &l->conns && more; i = i->next)
            more = ag__conn_tell((ag__conn *)((char *)i - offsetof(ag__conn, all)), v->each, v->arg);
        v->to++;
        send_visit(v);
    }
}

void ag__loop_end_visits(ag_http_loop *l)
{
    for (ag__visit *v = visits_of(l), *next; v; v = next) {
        next = v->next;
        end_visit(v);
    }
}

bool ag_http_loop_visit(ag_http_loop *l, ag_http_each_fn *each, void (*after)(void *), void *arg)
{
    AG_CHECK(l, LOOP_MAGIC);
    ag__visit *v = ag_mem_alloc(sizeof *v);
    if (v == NULL) return false;
    *v = (ag__visit){.from = l, .each = each, .after = after, .arg = arg};
    send_visit(v);
    return true;
}

static void on_wake(uv_async_t *a)
{
    ag_http_loop *l = a->data;
    AG_CHECK(l, LOOP_MAGIC);
    take_handoffs(l);
    if (atomic_load(&l->server->draining) && !l->draining) start_draining(l);
    take_messages(l);
    take_visits(l);
    ag__loop_leave(l);
    if (atomic_load(&l->server->stopping) && !l->stopping) stop(l);
}

static void stay_awake(uv_idle_t *i AG_UNUSED) {}

static void on_turn(uv_prepare_t *p)
{
    ag_http_loop *l = p->data;
    const ag_http_handler *h = &l->server->handler;
    bool more = true;
    for (int i = 0; i < TURNS_AT_ONCE && more; i++) {
        more = h->on_turn(h->arg);
        take_messages(l);
        ag__loop_leave(l);
    }
    ag__redis_flush(l);
    if (more) uv_idle_start(&l->awake, stay_awake);
    else uv_idle_stop(&l->awake);
}

void ag__loop_leave(ag_http_loop *l)
{
    for (int round = 0; round < LEAVE_ROUNDS && !ag__link_empty(&l->dirty); round++) {
        ag__link now; /* those that become dirty meanwhile wait for the next round */
        ag__link_init(&now);
        while (!ag__link_empty(&l->dirty)) {
            ag__link *i = l->dirty.next;
            ag__link_cut(i);
            ag__link_add(&now, i);
        }
        while (!ag__link_empty(&now)) {
            ag__link *i = now.next;
            ag__link_cut(i);
            ag__conn_pump((ag__conn *)((char *)i - offsetof(ag__conn, dirty)));
        }
    }
    if (!ag__link_empty(&l->dirty)) uv_async_send(&l->wake);
}

int ag__loop_open(ag_http_loop *l, ag_http_server *s, uint32_t index)
{
    l->magic = LOOP_MAGIC;
    l->index = index;
    l->server = s;
    ag__link_init(&l->conns);
    ag__link_init(&l->dirty);
    l->slots = ag_mem_array(s->conf.headers_max, sizeof *l->slots);
    l->read_bytes = ag_mem_alloc(AG__READ_BYTES);
    if (l->slots == NULL || l->read_bytes == NULL) return AG_E_NOMEM;
    if (uv_loop_init(&l->uv) != 0) return AG_E_IO;
    l->has_loop = true;
    if (uv_async_init(&l->uv, &l->wake, on_wake) != 0) return AG_E_IO;
    l->has_wake = true;
    l->wake.data = l;
    if (s->handler.on_turn) {
        uv_prepare_init(&l->uv, &l->turn);
        uv_idle_init(&l->uv, &l->awake);
        l->turn.data = l;
        uv_prepare_start(&l->turn, on_turn);
        uv_unref((uv_handle_t *)&l->turn); /* neither keeps a loop running that has nothing else */
        uv_unref((uv_handle_t *)&l->awake);
        l->has_turn = true;
    }
    if (ag_mbox_open(&l->mbox, s->conf.mailbox_cap, wake_loop, l) != AG_OK) return AG_E_NOMEM;
    return ag_mbox_open(&l->handoff, HANDOFF_CAP, wake_loop, l);
}

void ag__loop_close(ag_http_loop *l)
{
    if (l->magic == 0) return; /* open did not get here */
    const ag_http_handler *h = &l->server->handler;
    AG_ASSERT(!l->has_thread && ag__link_empty(&l->conns));
    l->stopping = true;
    take_handoffs(l);
    for (void *msg; l->mbox && (msg = ag_mbox_take(l->mbox)) != NULL;) h->on_message(h->arg, l, msg);
    ag_mbox_close(l->mbox);
    ag_mbox_close(l->handoff);
    ag__redis_stop(l); /* the thread never ran */
    if (l->has_wake) uv_close((uv_handle_t *)&l->wake, NULL);
    if (l->has_turn) {
        uv_close((uv_handle_t *)&l->turn, NULL);
        uv_close((uv_handle_t *)&l->awake, NULL);
    }
    if (l->has_loop) {
        uv_run(&l->uv, UV_RUN_DEFAULT);
        int rc = uv_loop_close(&l->uv);
        AG_ASSERT(rc == 0);
    }
    ag_mem_free(l->slots);
    ag_mem_free(l->read_bytes);
    l->magic = 0;
}

static void run_loop(void *arg)
{
    ag_http_loop *l = arg;
    char name[16];
    snprintf(name, sizeof name, "ag-http-%u", l->index);
    pthread_setname_np(pthread_self(), name);
    if (l->has_turn) here = l;
    uv_run(&l->uv, UV_RUN_DEFAULT);
}

int ag__loop_start(ag_http_loop *l)
{
    sigset_t all, before; /* signals are for the thread that waits for them, never for a loop or uv's pool */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int rc = ag_fault_hit(AG_FAULT_THREAD) ? UV_EAGAIN : uv_thread_create(&l->thread, run_loop, l);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    l->has_thread = rc == 0;
    return rc == 0 ? AG_OK : AG_E_IO;
}

const char *ag__loop_date(ag_http_loop *l)
{
    static const char days[7][4] = {"Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"};
    static const char months[12][4] = {"Jan", "Feb", "Mar", "Apr", "May", "Jun",
                                       "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"};
    time_t now = time(NULL);
    if (now != l->date_at || l->date[0] == 0) {
        struct tm t;
        char text[80];
        gmtime_r(&now, &t); /* not strftime: it speaks the locale's language */
        snprintf(text, sizeof text, "%s, %02d %s %d %02d:%02d:%02d GMT", days[t.tm_wday], t.tm_mday, months[t.tm_mon],
                 t.tm_year + 1900, t.tm_hour, t.tm_min, t.tm_sec);
        snprintf(l->date, sizeof l->date, "%.31s", text);
        l->date_at = now;
    }
    return l->date;
}

ag_mbox *ag_http_loop_mbox(ag_http_loop *l)
{
    AG_CHECK(l, LOOP_MAGIC);
    return l->mbox;
}

uint32_t ag_http_loop_index(const ag_http_loop *l)
{
    AG_CHECK(l, LOOP_MAGIC);
    return l->index;
}

typedef struct work {
    uv_work_t req;
    ag_http_loop *loop;
    void (*run)(void *);
    void (*after)(void *);
    void *arg;
} work;

static void run_work(uv_work_t *r)
{
    static _Thread_local bool niced;
    work *w = r->data;
    if (!niced) setpriority(PRIO_PROCESS, (id_t)syscall(SYS_gettid), WORK_NICE); /* on Linux: of this thread */
    niced = true;
    w->run(w->arg);
}

static void after_work(uv_work_t *r, int status)
{
    (void)status; /* never cancelled */
    work *w = r->data;
    ag_http_loop *l = w->loop;
    w->after(w->arg);
    ag_mem_free(w);
    ag__loop_leave(l);
}

bool ag_http_loop_work(ag_http_loop *l, void (*run)(void *), void (*after)(void *), void *arg)
{
    AG_CHECK(l, LOOP_MAGIC);
    work *w = ag_mem_alloc(sizeof *w);
    if (w == NULL) return false;
    *w = (work){.loop = l, .run = run, .after = after, .arg = arg};
    w->req.data = w;
    int rc = uv_queue_work(&l->uv, &w->req, run_work, after_work);
    AG_ASSERT(rc == 0);
    return true;
}
