#include "sim/sim.h"

#include "base/mem.h"

#define SIM_MAGIC 0x53494d21u

typedef enum happening_kind { ASKS, LEAVES, MOVES } happening_kind;
typedef struct happening {
    uint64_t at_us, number; /* of two at the same time the one told first */
    happening_kind kind;
    ag_sim_req *req;
} happening;

struct ag_sim {
    uint32_t magic;
    ag_sim_conf conf;
    ag_sched *sched;
    uint64_t now_us, random, told, asked, steps;
    happening *heap; /* the next one first */
    uint32_t n_heap, cap_heap;
    const ag_sched_step *step; /* the one that runs; NULL: none */
    uint64_t step_us, step_end_us;
    ag_sim_req **gone;         /* callers who left during the step; running_max */
    uint32_t n_gone;
};

double ag_sim_machine_us(const ag_sim_machine *m, const ag_step_shape *shape)
{
    double us = 0;
    if (m->n_knots == 1) us = m->knot[0].us;
    for (uint32_t i = 1; i < m->n_knots; i++) {
        if (shape->rows > m->knot[i].rows && i + 1 < m->n_knots) continue;
        double slope = (m->knot[i].us - m->knot[i - 1].us) / ((double)m->knot[i].rows - m->knot[i - 1].rows);
        us = m->knot[i - 1].us + slope * ((double)shape->rows - m->knot[i - 1].rows);
        break;
    }
    return us + m->per_key_us * (double)shape->attended + m->per_read_us * (double)shape->read +
           m->per_out_us * shape->outs;
}

/* ---- what is to happen ---- */

static bool earlier(const happening *a, const happening *b)
{
    return a->at_us != b->at_us ? a->at_us < b->at_us : a->number < b->number;
}

static int tell(ag_sim *sim, uint64_t at_us, happening_kind kind, ag_sim_req *r)
{
    if (sim->n_heap == sim->cap_heap) {
        uint32_t cap = AG_MAX(64u, 2 * sim->cap_heap);
        happening *p = ag_mem_resize(sim->heap, cap, sizeof *p);
        if (p == NULL) return AG_E_NOMEM;
        sim->heap = p;
        sim->cap_heap = cap;
    }
    happening h = {at_us, sim->told++, kind, r};
    uint32_t i = sim->n_heap++;
    for (; i > 0 && earlier(&h, &sim->heap[(i - 1) / 2]); i = (i - 1) / 2) sim->heap[i] = sim->heap[(i - 1) / 2];
    sim->heap[i] = h;
    r->refs++;
    return AG_OK;
}

static happening take(ag_sim *sim)
{
    happening first = sim->heap[0], h = sim->heap[--sim->n_heap];
    uint32_t i = 0;
    for (uint32_t c; (c = 2 * i + 1) < sim->n_heap; i = c) {
        if (c + 1 < sim->n_heap && earlier(&sim->heap[c + 1], &sim->heap[c])) c++;
        if (!earlier(&sim->heap[c], &h)) break;
        sim->heap[i] = sim->heap[c];
    }
    sim->heap[i] = h;
    return first;
}

static void req_put(ag_sim_req *r)
{
    if (--r->refs > 0) return;
    ag_mem_free(r->tokens);
    ag_mem_free(r);
}

/* ---- the life of a request ---- */

static void end(ag_sim *sim, ag_sim_req *r, ag_sim_end how)
{
    AG_ASSERT(r->end == AG_SIM_HERE);
    r->end = how;
    r->end_us = sim->now_us;
    if (sim->conf.ended) sim->conf.ended(sim->conf.arg, sim, r);
    req_put(r);
}

static void on_admitted(void *arg, ag_seq *q, uint64_t now_us)
{
    (void)arg;
    ((ag_sim_req *)q)->admit_us = now_us;
}

static void on_out(void *arg, ag_seq *q, ag_sched_why why, uint64_t now_us)
{
    (void)now_us;
    end(arg, (ag_sim_req *)q,
        why == AG_OUT_DISPLACED ? AG_SIM_DISPLACED
        : why == AG_OUT_EXPIRED ? AG_SIM_EXPIRED
                                : AG_SIM_TIMEOUT);
}

static int32_t token(const ag_sim *sim, const ag_sim_req *r, uint32_t i)
{
    uint64_t whose = i < r->ask.n_prefix ? ag_mix64(r->ask.prefix) : ag_mix64(r->number ^ 0x5eed0000);
    uint64_t x = ag_mix64(sim->conf.seed ^ ag_mix64(whose + i));
    return (int32_t)(sim->conf.vocab ? x % sim->conf.vocab : x & 0x7fffffff);
}

int ag_sim_ask_at(ag_sim *sim, uint64_t at_us, const ag_sim_ask *ask, ag_err *err)
{
    AG_CHECK(sim, SIM_MAGIC);
    if (ask->n_prompt == 0 || ask->n_answer > ask->max_tokens || (ask->max_tokens > 0 && ask->n_answer == 0) ||
        ask->band >= AG_BANDS)
        return ag_err_set(err, AG_E_PARAM,
                          "a prompt of %u tokens, an answer of %u of at most %u, band %u: no such request",
                          ask->n_prompt, ask->n_answer, ask->max_tokens, ask->band);
    ag_sim_req *r = ag_mem_zalloc(sizeof *r);
    int rc = r ? AG_OK : AG_E_NOMEM;
    if (rc == AG_OK) {
        r->ask = *ask;
        ag_str name = ag_str_of(ask->tenant ? ask->tenant : "default");
        memcpy(r->tenant, name.p, AG_MIN(name.n, (size_t)AG_TENANT_NAME_MAX));
        r->ask.tenant = NULL;
        rc = tell(sim, AG_MAX(at_us, sim->now_us), ASKS, r);
        if (rc != AG_OK) ag_mem_free(r);
    }
    return rc == AG_OK ? rc : ag_err_set(err, rc, "no memory for a request");
}

static void asks(ag_sim *sim, ag_sim_req *r)
{
    r->refs++;
    r->number = ++sim->asked;
    r->ask_us = sim->now_us;
    r->tokens = ag_mem_array((size_t)r->ask.n_prompt + r->ask.n_answer, sizeof *r->tokens);
    ag_tenant *t =
        ag_queue_tenant(ag_sched_queue(sim->sched), ag_str_of(r->tenant), r->ask.weight > 0 ? r->ask.weight : 1);
    if (r->tokens == NULL || t == NULL) {
        r->code = AG_E_NOMEM;
        end(sim, r, AG_SIM_REFUSED);
        return;
    }
    for (uint32_t i = 0; i < r->ask.n_prompt; i++) r->tokens[i] = token(sim, r, i);
    r->seq = (ag_seq){.q = {.tenant = t, .band = r->ask.band, .bytes = sizeof *r},
                      .tokens = r->tokens,
                      .n_tokens = r->ask.n_prompt,
                      .n_prompt = r->ask.n_prompt,
                      .max_tokens = r->ask.max_tokens,
                      .all_logits = r->ask.all_logits,
                      .states = r->ask.states,
                      .n_scored = r->ask.states == AG_STATES_NONE,
                      .salt = r->ask.salt};
    if (r->ask.timeout_us) r->seq.q.deadline_us = sim->now_us + r->ask.timeout_us;
    r->code = ag_sched_submit(sim->sched, &r->seq, sim->now_us, &r->retry_us, NULL);
    if (r->code == AG_OK && r->ask.cancel_us) r->code = tell(sim, sim->now_us + r->ask.cancel_us, LEAVES, r);
    if (r->code == AG_OK && r->ask.move_us) r->code = tell(sim, sim->now_us + r->ask.move_us, MOVES, r);
    if (r->code == AG_OK) {
        ag_sched_wait w;
        ag_sched_wait_get(sim->sched, &r->seq, sim->now_us, &w);
        r->told_us = w.wait_us;
        return;
    }
    if (r->seq.q.queued) ag_sched_drop(sim->sched, &r->seq, false);
    end(sim, r, AG_SIM_REFUSED);
}

static void leaves(ag_sim *sim, ag_sim_req *r)
{
    if (sim->step && r->seq.step_n > 0) { /* its rows are being computed: after the step */
        r->gone = true;
        sim->gone[sim->n_gone++] = r;
        return;
    }
    ag_sched_drop(sim->sched, &r->seq, false);
    end(sim, r, AG_SIM_CANCELLED);
}

/* ---- steps ---- */

static void answer(ag_sim *sim, ag_sim_req *r)
{
    r->tokens[r->seq.n_tokens] = token(sim, r, r->seq.n_tokens);
    r->seq.n_tokens++;
    r->answered++;
    if (r->first_us == 0) r->first_us = sim->now_us;
    else r->gap_max_us = AG_MAX(r->gap_max_us, sim->now_us - r->last_us);
    r->last_us = sim->now_us;
}

static void step_ends(ag_sim *sim)
{
    const ag_sched_step *b = sim->step;
    sim->step = NULL;
    sim->steps++;
    for (uint32_t i = 0; i < b->n_spans; i++) ((ag_sim_req *)b->spans[i].seq)->rows += b->spans[i].n;
    ag_sched_step_done(sim->sched, sim->step_us);
    if (sim->conf.stepped) sim->conf.stepped(sim->conf.arg, sim, b, sim->step_us);
    for (uint32_t i = 0; i < b->n_out; i++) {
        ag_sim_req *r = (ag_sim_req *)b->outs[i].seq;
        if (b->outs[i].index + 1 < r->seq.n_tokens) {
            AG_ASSERT(b->outs[i].index + 1 == r->seq.n_scored); /* each once, in order */
            r->seq.n_scored++;
        } else {
            answer(sim, r);
        }
    }
    for (uint32_t i = 0; i < b->n_states; i++) {
        ag_seq *q = b->states[i].seq;
        AG_ASSERT(b->states[i].pos == (q->states == AG_STATES_ALL ? q->n_scored : q->n_prompt - 1));
        q->n_scored = b->states[i].pos + b->states[i].n;
    }
    for (uint32_t i = 0; i < sim->n_gone; i++) {
        ag_sched_drop(sim->sched, &sim->gone[i]->seq, false);
        end(sim, sim->gone[i], AG_SIM_CANCELLED);
    }
    sim->n_gone = 0;
    for (uint32_t i = ag_sched_running(sim->sched); i-- > 0;) {
        ag_sim_req *r = (ag_sim_req *)ag_sched_running_at(sim->sched, i);
        bool done = r->ask.max_tokens == 0 ? r->seq.computed == r->seq.n_tokens : r->answered == r->ask.n_answer;
        if (!done) continue;
        AG_ASSERT((!r->ask.all_logits && r->ask.states == AG_STATES_NONE) || r->seq.n_scored == r->ask.n_prompt);
        ag_sched_drop(sim->sched, &r->seq, true);
        end(sim, r, AG_SIM_DONE);
    }
}

static bool step_begins(ag_sim *sim)
{
    const ag_sched_step *b;
    if (!ag_sched_step_next(sim->sched, sim->now_us, &b)) return false;
    sim->step = b;
    if (sim->conf.chosen) sim->conf.chosen(sim->conf.arg, sim, b);
    sim->random = ag_mix64(sim->random);
    double us = ag_sim_machine_us(&sim->conf.machine, &b->shape) *
                (1 + sim->conf.machine.noise * (double)(sim->random >> 40) / (1 << 24));
    sim->step_us = AG_MAX((uint64_t)us, 1u);
    sim->step_end_us = sim->now_us + sim->step_us;
    return true;
}

/* The next thing that happens, unless it does after `until`. */
static bool turn(ag_sim *sim, uint64_t until)
{
    AG_CHECK(sim, SIM_MAGIC);
    uint64_t told = sim->n_heap ? sim->heap[0].at_us : UINT64_MAX, deadline = ag_sched_deadline(sim->sched);
    if (sim->step == NULL && AG_MIN(told, deadline) > sim->now_us && step_begins(sim)) return true;
    deadline = ag_sched_deadline(sim->sched); /* choosing may have put some out */
    uint64_t next = AG_MIN(told, deadline);
    if (sim->step && sim->step_end_us <= next) {
        if (sim->step_end_us > until) return false;
        sim->now_us = sim->step_end_us;
        step_ends(sim);
        return true;
    }
    if (next == UINT64_MAX || next > until) return false;
    sim->now_us = AG_MAX(sim->now_us, next);
    if (deadline <= sim->now_us) ag_sched_expire(sim->sched, sim->now_us);
    if (told > sim->now_us) return true;
    happening h = take(sim);
    if (h.kind == ASKS) asks(sim, h.req);
    else if (h.req->end == AG_SIM_HERE && h.kind == LEAVES) leaves(sim, h.req);
    else if (h.req->end == AG_SIM_HERE) ag_sched_move(sim->sched, &h.req->seq, h.req->ask.move_band, sim->now_us);
    req_put(h.req);
    return true;
}

bool ag_sim_turn(ag_sim *sim) { return turn(sim, UINT64_MAX); }

uint64_t ag_sim_run(ag_sim *sim, uint64_t until_us)
{
    while (turn(sim, until_us)) {}
    uint64_t next = AG_MIN(sim->n_heap ? sim->heap[0].at_us : UINT64_MAX, ag_sched_deadline(sim->sched));
    return sim->step ? AG_MIN(next, sim->step_end_us) : next;
}

uint64_t ag_sim_now(const ag_sim *sim) { return sim->now_us; }
ag_sched *ag_sim_sched(ag_sim *sim) { return sim->sched; }
uint64_t ag_sim_steps(const ag_sim *sim) { return sim->steps; }

int ag_sim_open(ag_sim **out, const ag_sim_conf *conf, ag_err *err)
{
    ag_sim *sim = ag_mem_zalloc(sizeof *sim);
    if (sim == NULL) return ag_err_set(err, AG_E_NOMEM, "no memory for a simulator");
    sim->magic = SIM_MAGIC;
    sim->conf = *conf;
    sim->random = conf->seed;
    sim->now_us = 1; /* 0 means never */
    ag_sched_conf sched = conf->sched;
    sched.events = (ag_sched_events){.arg = sim, .admitted = on_admitted, .out = on_out};
    sim->gone = ag_mem_array(sched.running_max, sizeof(ag_sim_req *));
    int rc =
        sim->gone ? ag_sched_open(&sim->sched, &sched, err) : ag_err_set(err, AG_E_NOMEM, "no memory for a simulator");
    if (rc != AG_OK) {
        ag_sim_close(sim);
        return rc;
    }
    *out = sim;
    return AG_OK;
}

/* Lets go of everyone. */
static void drop_all(ag_sim *sim)
{
    if (sim->step) {
        sim->step = NULL;
        ag_sched_step_done(sim->sched, 0);
    }
    while (ag_sched_running(sim->sched) > 0) {
        ag_sim_req *r = (ag_sim_req *)ag_sched_running_at(sim->sched, 0);
        ag_sched_drop(sim->sched, &r->seq, false);
        req_put(r);
    }
    for (ag_qent *e; (e = ag_queue_head(ag_sched_queue(sim->sched), sim->now_us));) {
        ag_sched_drop(sim->sched, (ag_seq *)e, false);
        req_put((ag_sim_req *)e);
    }
}

void ag_sim_close(ag_sim *sim)
{
    if (sim == NULL) return;
    AG_CHECK(sim, SIM_MAGIC);
    sim->conf.ended = NULL;
    if (sim->sched) drop_all(sim);
    while (sim->n_heap) req_put(take(sim).req);
    ag_sched_close(sim->sched);
    ag_mem_free(sim->heap);
    ag_mem_free((void *)sim->gone);
    sim->magic = 0;
    ag_mem_free(sim);
}
