#include "sim/fleet.h"

#include <math.h>
#include <stdio.h>

#include "base/mem.h"
#include "sim/fleet_inner.h"

#define SAMPLES 4 /* of a bin */

/* --- chance ------------------------------------------------------------------------------------------------------- */

double ag__fleet_uniform(uint64_t *state) { return (double)(ag_random64(state) >> 11) * 0x1p-53; }

double ag__fleet_draw(const ag_dist *d, uint64_t *state)
{
    if (d->kind == AG_DIST_FIXED) return d->a;
    if (d->kind == AG_DIST_UNIFORM) return d->a + (d->b - d->a) * ag__fleet_uniform(state);
    double u = 1 - ag__fleet_uniform(state), v = ag__fleet_uniform(state);
    double normal = sqrt(-2 * log(u)) * cos(2 * M_PI * v);
    return fmin(exp(log(d->a) - d->b * d->b / 2 + d->b * normal), d->max);
}

static uint32_t tokens_of(const ag_dist *d, uint64_t *state)
{
    return (uint32_t)fmax(round(ag__fleet_draw(d, state)), 1);
}

/* --- who comes next ----------------------------------------------------------------------------------------------- */

static bool earlier(const ag__arrival *a, const ag__arrival *b)
{
    return a->at_us != b->at_us ? a->at_us < b->at_us : a->number < b->number;
}

static void expect(ag__fleet *f, uint64_t at_us, uint32_t class, uint32_t caller)
{
    if (at_us >= f->s->classes[class].until_us) return;
    if (f->n_arrivals == f->cap_arrivals) {
        uint32_t cap = AG_MAX(64u, 2 * f->cap_arrivals);
        ag__arrival *p = ag_mem_resize(f->arrivals, cap, sizeof *p);
        if (p == NULL) {
            f->rc = ag_err_set(f->err, AG_E_NOMEM, "There is no memory for those who are still to come.");
            return;
        }
        f->arrivals = p;
        f->cap_arrivals = cap;
    }
    ag__arrival a = {at_us, f->numbers++, class, caller};
    uint32_t i = f->n_arrivals++;
    for (; i > 0 && earlier(&a, &f->arrivals[(i - 1) / 2]); i = (i - 1) / 2) f->arrivals[i] = f->arrivals[(i - 1) / 2];
    f->arrivals[i] = a;
}

static ag__arrival take_arrival(ag__fleet *f)
{
    ag__arrival first = f->arrivals[0], a = f->arrivals[--f->n_arrivals];
    uint32_t i = 0;
    for (uint32_t c; (c = 2 * i + 1) < f->n_arrivals; i = c) {
        if (c + 1 < f->n_arrivals && earlier(&f->arrivals[c + 1], &f->arrivals[c])) c++;
        if (!earlier(&f->arrivals[c], &a)) break;
        f->arrivals[i] = f->arrivals[c];
    }
    f->arrivals[i] = a;
    return first;
}

static void expect_next(ag__fleet *f, uint32_t class)
{
    f->due_us[class] -= log(1 - ag__fleet_uniform(&f->random[class])) / f->s->classes[class].rate * 1e6;
    expect(f, (uint64_t)fmin(f->due_us[class], 1e15), class, AG__NO_CALLER);
}

static void expect_all(ag__fleet *f)
{
    for (uint32_t i = 0; i < f->s->n_classes; i++) {
        const ag_scenario_class *c = &f->s->classes[i];
        uint64_t from = c->from_us + 1;
        f->due_us[i] = (double)from;
        if (c->arrive == AG_ARRIVE_RATE) expect_next(f, i);
        else if (c->arrive == AG_ARRIVE_BURST) expect(f, from, i, AG__NO_CALLER);
        for (uint32_t k = 0; c->arrive == AG_ARRIVE_CALLERS && k < c->count; k++) expect(f, from, i, k);
    }
}

/* --- machines by load: each list goes by who came to it first ----------------------------------------------------- */

static ag__load_list *list_of(ag__fleet *f, uint32_t load) { return &f->loads[AG_MIN(load, f->n_loads - 1)]; }

static void load_out(ag__fleet *f, ag__machine *m)
{
    ag__load_list *l = list_of(f, m->load);
    *(m->older == NULL ? &l->oldest : &m->older->newer) = m->newer;
    *(m->newer == NULL ? &l->newest : &m->newer->older) = m->older;
}

static void load_in(ag__fleet *f, ag__machine *m)
{
    ag__load_list *l = list_of(f, m->load);
    m->older = l->newest;
    m->newer = NULL;
    *(l->newest == NULL ? &l->oldest : &l->newest->newer) = m;
    l->newest = m;
}

/* One request more or less. In the last list are all larger loads as well. */
static void load_change(ag__fleet *f, ag__machine *m, int more)
{
    load_out(f, m);
    m->load += (uint32_t)more;
    load_in(f, m);
    f->least = AG_MIN(f->least, m->load);
    while (f->loads[f->least].oldest == NULL) f->least++;
}

static ag__machine *choose(ag__fleet *f)
{
    uint32_t n = f->s->machines;
    uint64_t *random = &f->random[AG_SCENARIO_CLASSES_MAX];
    if (f->s->choose == AG_CHOOSE_TURNS) return &f->machines[f->turn++ % n];
    if (f->s->choose == AG_CHOOSE_LEAST) return f->loads[f->least].oldest;
    ag__machine *a = &f->machines[ag_random64(random) % n], *b = &f->machines[ag_random64(random) % n];
    return b->load < a->load ? b : a;
}

/* --- machines by what happens next -------------------------------------------------------------------------------- */

static bool sooner(const ag__machine *a, const ag__machine *b)
{
    return a->next_us != b->next_us ? a->next_us < b->next_us : a < b;
}

static void heap_put(ag__fleet *f, uint32_t i, ag__machine *m)
{
    f->heap[i] = m;
    m->place = i;
}

/* All that happens there up to that time. */
static void run_machine(ag__fleet *f, ag__machine *m, uint64_t until_us)
{
    m->next_us = ag_sim_run(m->sim, until_us);
    uint32_t i = m->place;
    for (; i > 0 && sooner(m, f->heap[(i - 1) / 2]); i = (i - 1) / 2) heap_put(f, i, f->heap[(i - 1) / 2]);
    for (uint32_t c; (c = 2 * i + 1) < f->s->machines; i = c) {
        if (c + 1 < f->s->machines && sooner(f->heap[c + 1], f->heap[c])) c++;
        if (!sooner(f->heap[c], m)) break;
        heap_put(f, i, f->heap[c]);
    }
    heap_put(f, i, m);
}

/* --- requests ----------------------------------------------------------------------------------------------------- */

static void ask(ag__fleet *f, uint32_t class, uint32_t caller)
{
    const ag_scenario_class *c = &f->s->classes[class];
    const ag_scenario_group *g = &f->s->groups[c->group];
    uint64_t *random = &f->random[class];
    uint32_t who = caller == AG__NO_CALLER ? (uint32_t)(ag_random64(random) % g->count) : caller % g->count;
    char name[AG_SCENARIO_NAME_MAX + 16];
    snprintf(name, sizeof name, g->count > 1 ? "%s %u" : "%s", g->name, who + 1);
    ag_sim_ask a = {.tenant = name, .weight = g->weight, .band = c->band, .timeout_us = c->timeout_us, .salt = 1,
                    .mark = class | (uint64_t)caller << 16};
    a.n_prompt = tokens_of(&c->prompt, random);
    a.n_answer = tokens_of(&c->answer, random);
    a.max_tokens = c->max_tokens ? c->max_tokens : (uint32_t)fmax(ceil(c->answer.max), a.n_answer);
    a.n_answer = AG_MIN(a.n_answer, a.max_tokens);
    if (c->prefix_tokens) {
        a.n_prefix = AG_MIN(c->prefix_tokens, a.n_prompt);
        a.prefix = (uint64_t)class << 32 | ag_random64(random) % c->prefixes;
    }
    if (ag__fleet_uniform(random) < c->cancel_share)
        a.cancel_us = (uint64_t)fmax(ag__fleet_draw(&c->cancel_after, random), 1);
    if (++f->requests > (uint64_t)AG_SCENARIO_REQUESTS_MAX) {
        f->rc = ag_err_set(f->err, AG_E_LIMIT, "Over %.3g requests were asked for.", AG_SCENARIO_REQUESTS_MAX);
        return;
    }
    ag__machine *m = choose(f);
    load_change(f, m, 1);
    ag__fleet_asked(f, class, f->now_us);
    int rc = ag_sim_ask_at(m->sim, f->now_us, &a, f->err);
    if (rc == AG_OK) run_machine(f, m, f->now_us);
    else f->rc = rc;
}

static void arrive(ag__fleet *f)
{
    ag__arrival a = take_arrival(f);
    const ag_scenario_class *c = &f->s->classes[a.class];
    uint32_t n = 1;
    if (c->arrive == AG_ARRIVE_RATE) expect_next(f, a.class);
    if (c->arrive == AG_ARRIVE_BURST) {
        expect(f, a.at_us + c->every_us, a.class, AG__NO_CALLER);
        n = c->count;
    }
    for (uint32_t i = 0; i < n && f->rc == AG_OK; i++) ask(f, a.class, a.caller);
}

/* A caller who was sent away waits as long as it was told to, and a moment in any case. */
static void on_ended(void *arg, ag_sim *sim, const ag_sim_req *r)
{
    ag__machine *m = arg;
    ag__fleet *f = m->fleet;
    uint32_t class = ag__fleet_class_of(r), caller = (uint32_t)(r->ask.mark >> 16);
    load_change(f, m, -1);
    ag__fleet_ended(f, r);
    if (caller == AG__NO_CALLER) return;
    uint64_t pause = f->s->classes[class].pause_us;
    if (r->end != AG_SIM_DONE) pause = AG_MAX(AG_MAX(pause, r->retry_us), (uint64_t)1000);
    expect(f, ag_sim_now(sim) + pause, class, caller);
}

static void on_stepped(void *arg, ag_sim *sim, const ag_sched_step *step, uint64_t us)
{
    ag__fleet *f = ((ag__machine *)arg)->fleet;
    ag__fleet_stepped(f, ag_sim_now(sim), step, us);
    if (f->watch && f->watch->stepped) f->watch->stepped(f->watch->arg, sim, step, us);
}

/* --- the run ------------------------------------------------------------------------------------------------------ */

static int open_machines(ag__fleet *f)
{
    for (uint32_t i = 0; i < f->s->machines; i++) {
        ag__machine *m = &f->machines[i];
        ag_sim_conf conf = {.sched = f->s->sched, .machine = f->s->machine, .arg = m, .stepped = on_stepped,
                            .ended = on_ended, .seed = f->s->seed + i};
        m->fleet = f;
        m->next_us = UINT64_MAX;
        heap_put(f, i, m);
        int rc = ag_sim_open(&m->sim, &conf, f->err);
        if (rc != AG_OK) return rc;
        load_in(f, m);
    }
    return AG_OK;
}

static int fleet_open(ag__fleet *f)
{
    const ag_scenario *s = f->s;
    f->n_loads = s->sched.queue.entries_max + s->sched.running_max + 2;
    f->r = ag_mem_zalloc(sizeof *f->r);
    f->machines = ag_mem_array(s->machines, sizeof *f->machines);
    f->heap = ag_mem_array(s->machines, sizeof(ag__machine *));
    f->loads = ag_mem_array(f->n_loads, sizeof *f->loads);
    f->ttft = ag_mem_array((size_t)s->n_classes * AG_FLEET_BINS, sizeof *f->ttft);
    if (f->r == NULL || f->machines == NULL || f->heap == NULL || f->loads == NULL || f->ttft == NULL)
        return ag_err_set(f->err, AG_E_NOMEM, "There is no memory for %u machines.", s->machines);
    for (uint32_t i = 0; i <= AG_SCENARIO_CLASSES_MAX; i++) {
        f->random[i] = s->seed * 31 + i;
        ag_random64(&f->random[i]);
    }
    f->end_us = s->seconds_us + s->drain_us;
    f->r->bin_us = s->seconds_us / AG_FLEET_BINS + 1;
    f->sample_us = f->next_sample_us = AG_MAX(f->r->bin_us / SAMPLES, (uint64_t)1);
    return open_machines(f);
}

static void fleet_close(ag__fleet *f)
{
    for (uint32_t i = 0; f->machines != NULL && i < f->s->machines; i++) ag_sim_close(f->machines[i].sim);
    ag_mem_free(f->machines);
    ag_mem_free((void *)f->heap);
    ag_mem_free(f->loads);
    ag_mem_free(f->ttft);
    ag_mem_free(f->arrivals);
}

/* Whatever is next, wherever; false: nothing is, or the time is over. */
static bool turn(ag__fleet *f)
{
    uint64_t arrival = f->n_arrivals ? f->arrivals[0].at_us : UINT64_MAX, there = f->heap[0]->next_us;
    uint64_t next = AG_MIN(arrival, there);
    if (next == UINT64_MAX || next > f->end_us) return false;
    if (f->next_sample_us <= next && f->next_sample_us <= f->s->seconds_us) {
        f->now_us = f->next_sample_us;
        f->next_sample_us += f->sample_us;
        ag__fleet_sample(f);
        if (f->watch && f->watch->progress) f->watch->progress(f->watch->arg, f->now_us);
        return true;
    }
    f->now_us = next;
    if (there <= arrival) run_machine(f, f->heap[0], next);
    else arrive(f);
    return f->rc == AG_OK;
}

int ag_fleet_run(ag_fleet_result **out, const ag_scenario *s, const ag_fleet_watch *watch, ag_err *err)
{
    ag__fleet *f = ag_mem_zalloc(sizeof *f);
    *out = NULL;
    if (f == NULL) return ag_err_set(err, AG_E_NOMEM, "There is no memory for %u machines.", s->machines);
    f->s = s;
    f->watch = watch;
    f->err = err;
    int rc = fleet_open(f);
    if (rc == AG_OK) {
        expect_all(f);
        while (turn(f)) {}
        rc = f->rc;
        if (rc == AG_OK) ag__fleet_sum(f);
    }
    if (rc == AG_OK) *out = f->r;
    else ag_fleet_free(f->r);
    fleet_close(f);
    ag_mem_free(f);
    return rc;
}

void ag_fleet_free(ag_fleet_result *r) { ag_mem_free(r); }
