/* Random servers under random loads, every step of them looked at. What must hold:
 *   pages     every page is free, private to one, or a node; when nobody is left, none is in use
 *   contents  whoever attends to a position finds what was computed from its own tokens, by itself or under its own
 *             salt
 *   budget    prompts keep the step within the limit of the decodes that it protects; who sits out for fairness does so
 *             not for long
 *   order     nobody is computed or admitted while somebody more urgent could have been
 *   the dead  no row for anyone whose caller has gone or whose deadline has passed
 *   an end    everybody who was not refused, cancelled, displaced or late gets all of its answer; the work is bounded
 *   charges   tenants are charged what was computed for them, once
 * A failure prints its seed: SEED=n repeats that run alone. STEPS=n sets how many steps all runs have together. That
 * nobody starves under a load without end is in endless_test.c. */
#include "engine/sched/sched_inner.h"
#include "sim/sim.h"

#include <math.h>

#include "base/mem.h"
#include "check.h"

#ifndef RANDOM_STEPS
#define RANDOM_STEPS 60000 /* under sanitizers; random_many_test.c does more without them */
#endif

enum { TENANTS = 5, PAGES_MAX = 240, PAGE_MAX = 16 };

/* What one token's place in a page holds: of which row of tokens, and by whom. */
typedef struct cell { uint64_t hash, salt, writer; } cell;

typedef struct run {
    uint64_t seed, random, steps, admissions, service[TENANTS];
    ag_sim_conf conf;
    uint32_t asked, ends[AG_SIM_CANCELLED + 1];
    uint32_t late; /* put out since the last step */
    bool verify_all, forgets;
    cell cells[PAGES_MAX][PAGE_MAX];
} run;

static uint64_t totals[AG_SIM_CANCELLED + 1], total_steps, total_set_back[3], total_reused, total_again, total_sat_out,
    total_seeds;

#include "sim/draw.h"

static const run *now_running;
#define HOLDS(e) (AG_LIKELY(e) ? (void)0 : broken(__LINE__, #e))
_Noreturn static void broken(int line, const char *what)
{
    fprintf(stderr, "%s:%d: SEED=%llu step %llu: does not hold: %s\n", __FILE__, line,
            (unsigned long long)now_running->seed, (unsigned long long)now_running->steps, what);
    abort();
}

/* ---- contents ---- */

static uint64_t chain(uint64_t hash, int32_t token)
{
    return (hash ^ ((uint64_t)(uint32_t)token + 0x9e37)) * 0x9fb21c651e98df25u + (hash >> 29);
}

static void write_rows(run *r, const ag_sched_step *b)
{
    uint32_t page = r->conf.sched.page_tokens;
    for (uint32_t i = 0; i < b->n_spans; i++) {
        const ag_seq *q = b->spans[i].seq;
        uint32_t from = b->spans[i].pos, to = from + b->spans[i].n;
        uint64_t hash = 1;
        for (uint32_t at = 0; at < to; at++) {
            hash = chain(hash, q->tokens[at]);
            HOLDS(at / page < q->kv.n);
            cell *c = &r->cells[q->kv.pages[at / page]][at % page];
            if (at < from) continue;
            HOLDS(at / page >= q->kv.shared); /* others may be reading those */
            *c = (cell){hash, ((const ag_sim_req *)q)->ask.salt, ((const ag_sim_req *)q)->number};
        }
    }
}

/* After all rows are written, as a step's are before its attention. */
static void read_rows(const run *r, const ag_sched_step *b)
{
    uint32_t page = r->conf.sched.page_tokens;
    for (uint32_t i = 0; i < b->n_spans; i++) {
        const ag_seq *q = b->spans[i].seq;
        const ag_sim_req *me = (const ag_sim_req *)q;
        uint64_t hash = 1;
        for (uint32_t at = 0; at < b->spans[i].pos + b->spans[i].n; at++) {
            hash = chain(hash, q->tokens[at]);
            const cell *c = &r->cells[q->kv.pages[at / page]][at % page];
            HOLDS(c->hash == hash);
            bool own = c->writer == me->number;
            HOLDS(own || (r->conf.sched.reuse && c->salt == me->ask.salt && c->salt != AG_KV_ALONE));
        }
    }
}

/* ---- budget and order, reckoned apart from the code that keeps them ---- */

static double everybodys_step(const ag_sched *s)
{
    ag_step_shape all = {0};
    for (uint32_t i = 0; i < s->n_running; i++) {
        if (!ag__seq_decodes(s->running[i])) continue;
        all.outs++;
        ag_step_shape_add(&all, s->running[i]->computed, 1);
    }
    return ag_cost_us(&s->cost, &all);
}

/* As a short prompt may take, or two gaps for others, or four steps of everybody who decodes. */
static double yields_at_most(const ag_sched *s, double prompt_us) { return AG_MAX(prompt_us, 4 * everybodys_step(s)); }

/* The prompt that comes first in the step ends in it. */
static bool first_ends(const ag_sched_step *b)
{
    const ag_sched_span *first = b->spans;
    return first->pos + first->n == first->seq->n_tokens;
}

static void check_budget(const run *r, ag_sched *s, const ag_sched_step *b)
{
    int64_t urgency = INT64_MAX, reach = INT64_MAX; /* of the first prompt with rows; what that was asked to be */
    for (uint32_t i = 0; i < b->n_spans && urgency == INT64_MAX; i++) {
        const ag_seq *q = b->spans[i].seq;
        if (ag__seq_decodes(q)) continue;
        urgency = q->urgency;
        reach = q->urgency + (q->q.band - q->q.level);
    }
    ag_step_shape alone = {0}, all = b->shape;
    for (uint32_t i = 0; i < b->n_spans && ag__seq_decodes(b->spans[i].seq); i++) {
        HOLDS(b->spans[i].seq->urgency <= reach);
        alone.outs += b->spans[i].seq->max_tokens > 0;
        ag_step_shape_add(&alone, b->spans[i].pos, 1);
    }
    for (uint32_t i = 0; i < s->n_running; i++)
        HOLDS(s->running[i]->step_n > 0 || !ag__seq_decodes(s->running[i]) || s->running[i]->urgency > urgency ||
              s->running[i]->yields || s->running[i]->order > r->admissions);
    double us = ag_cost_us(&s->cost, &alone), gap = r->conf.sched.gap_us, limit = us * r->conf.sched.step_ratio;
    if (alone.rows == 0 && !s->fair) return;
    if (b->prompt_rows <= r->conf.sched.rows_min) return;
    if (alone.rows > 0 && us <= 0) {
        HOLDS(b->prompt_rows <= 64);
        return;
    }
    ag_queue_stats q;
    ag_queue_stats_get(s->queue, &q);
    uint32_t full = r->late; /* everybody as urgent who is here */
    for (uint32_t i = 0; i < s->n_running; i++) full += s->running[i]->urgency <= reach;
    for (int64_t i = 0; i < AG_BANDS && i <= reach; i++) full += q.by_band[i];
    full = AG_MIN(full, r->conf.sched.running_max);
    if (alone.rows == 0) {
        /* Who was set back since then had a part in it. */
        double often = yields_at_most(s, 2.0 * r->conf.sched.gap_us), brief = yields_at_most(s, r->conf.sched.short_us);
        HOLDS(s->admissions > r->admissions || fabs(s->yield_us - often) <= 1e-3 * often ||
              fabs(s->yield_us - brief) <= 1e-3 * brief);
        limit = s->limit_us;
        ag_step_shape first = {0};
        ag_step_shape_add(&first, b->spans[0].pos, b->spans[0].n);
        double end = ag_cost_us(&s->cost, &first);
        HOLDS(limit <= s->yield_us || (first_ends(b) && limit <= end + 2));
        HOLDS(s->admissions > r->admissions || limit <= s->yield_us + everybodys_step(s) + 2);
    } else {
        ag_step_shape filled = ag_step_shape_scaled(&alone, full);
        const ag_step_shape one = {1, 1, 1, 1};
        double most = AG_MAX(gap, 4 * ag_cost_us(&s->cost, &one));
        for (uint32_t i = 0; i < b->n_spans && ag__seq_decodes(b->spans[i].seq); i++)
            if (b->spans[i].seq->urgency < reach) most = gap;
        limit = AG_MAX(limit, AG_MIN(ag_cost_us(&s->cost, &filled), most));
        if (r->conf.sched.short_us) limit = AG_MAX(limit, gap);
    }
    all.outs = 0; /* the limit knows no logits of prompts */
    for (uint32_t i = 0; i < b->n_spans; i++)
        all.outs += ag__seq_decodes(b->spans[i].seq) && b->spans[i].seq->max_tokens > 0;
    HOLDS(ag_cost_us(&s->cost, &all) <= limit * 1.001);
}

/* Who gives way to a tenant under its share does so for as long as that and the step under way at most. */
static void check_yields(ag_sim *sim, const ag_sched *s)
{
    for (uint32_t i = 0; i < s->n_running; i++) {
        const ag_seq *q = s->running[i];
        if (!q->yields || q->step_n > 0) continue;
        HOLDS(s->fair && (double)(ag_sim_now(sim) - q->paused_us) < s->yield_us);
    }
}

static void check_admitted(run *r, ag_sim *sim, ag_sched *s)
{
    const ag_qent *head = ag_queue_head(s->queue, ag_sim_now(sim));
    for (uint32_t i = 0; i < s->n_running; i++) {
        const ag_seq *q = s->running[i];
        if (q->order <= r->admissions) continue;
        /* With an admission somebody else becomes the oldest of a level, and may rise at that moment. */
        HOLDS(head == NULL || q->q.level <= head->level || head->level < head->band);
    }
    r->admissions = s->admissions;
}

static void check_alive(ag_sim *sim, const ag_sched_step *b)
{
    for (uint32_t i = 0; i < b->n_spans; i++) {
        const ag_sim_req *q = (const ag_sim_req *)b->spans[i].seq;
        HOLDS(q->end == AG_SIM_HERE && !q->gone);
        HOLDS(q->seq.q.deadline_us == 0 || q->seq.q.deadline_us > ag_sim_now(sim));
        HOLDS(q->seq.n_tokens == q->ask.n_prompt + q->answered &&
              (q->answered < q->ask.n_answer || q->ask.max_tokens == 0));
    }
}

static void on_chosen(void *arg, ag_sim *sim, const ag_sched_step *b)
{
    run *r = arg;
    ag_sched *s = ag_sim_sched(sim);
    r->steps++;
    if (r->verify_all || r->steps % 16 == 0) ag_sched_verify(s);
    write_rows(r, b);
    read_rows(r, b);
    check_budget(r, s, b);
    check_yields(sim, s);
    r->late = 0;
    check_admitted(r, sim, s);
    check_alive(sim, b);
    total_sat_out += b->sat_out;
}

static void on_stepped(void *arg, ag_sim *sim, const ag_sched_step *b, uint64_t us)
{
    run *r = arg;
    (void)b;
    (void)us;
    if (r->forgets && one_in(r, 50)) ag_sched_forget(ag_sim_sched(sim)); /* as when weights were found damaged */
}

static void on_ended(void *arg, ag_sim *sim, const ag_sim_req *q)
{
    run *r = arg;
    r->ends[q->end]++;
    r->late += q->end == AG_SIM_EXPIRED;
    r->service[q->ask.mark] += ag_queue_service(ag_sim_sched(sim)->queue, q->seq.prompt_done, q->seq.output_done);
    HOLDS(q->seq.kv.n == 0 && q->seq.kv.pages == NULL && !q->seq.running && !q->seq.q.queued);
    HOLDS(q->seq.output_done == q->answered &&
          q->seq.prompt_done + q->seq.reused <= (uint64_t)q->ask.n_prompt + q->seq.reused);
    if (q->end == AG_SIM_EXPIRED || q->end == AG_SIM_DISPLACED || q->end == AG_SIM_REFUSED)
        HOLDS(q->rows == 0 && q->answered == 0);
    if (q->end == AG_SIM_DONE && q->seq.set_back == 0) HOLDS(q->seq.prompt_done + q->seq.reused == q->ask.n_prompt);
    if (q->end == AG_SIM_DONE) HOLDS(q->answered == q->ask.n_answer);
    if (q->end == AG_SIM_TIMEOUT || q->end == AG_SIM_EXPIRED) HOLDS(q->seq.q.deadline_us > 0);
    if (q->end == AG_SIM_EXPIRED) HOLDS(r->conf.sched.refuse_late || ag_sim_now(sim) >= q->seq.q.deadline_us);
}

/* ---- random servers, random loads ---- */

static ag_sim_conf draw_server(run *r)
{
    static const uint32_t page_sizes[] = {1, 2, 4, 16};
    ag_sched_conf s = {.queue = {.entries_max = one_in(r, 3) ? between(r, 1, 8) : between(r, 8, 200),
                                 .tenants_max = between(r, 1, 8),
                                 .prompt_weight = 1,
                                 .output_weight = between(r, 0, 5),
                                 .age_us = one_in(r, 4) ? 0 : between(r, 2000, 3000000)},
                       .pages = between(r, 4, PAGES_MAX),
                       .page_tokens = page_sizes[below(r, 4)],
                       .running_max = between(r, 1, 12),
                       .step_ratio = 1 + below(r, 100) / 100.0,
                       .gap_us = between(r, 1000, 60000),
                       .short_us = between(r, 0, 1) * between(r, 1000, 60000),
                       .rows_min = between(r, 1, 16),
                       .reuse = !one_in(r, 5),
                       .refuse_late = one_in(r, 2)};
    if (one_in(r, 3)) s.queue.tokens_max = between(r, 200, 3000);
    s.rows_max = s.running_max + below(r, 100);
    s.out_max = s.running_max + below(r, 8);
    ag_sim_machine m = {
        .knot = {{1, between(r, 500, 5000)}, {32, between(r, 5000, 20000)}, {512, between(r, 20000, 150000)}},
        .n_knots = 3,
        .per_key_us = below(r, 3) * 0.5,
        .per_out_us = below(r, 100),
        .noise = one_in(r, 2) ? 0 : 0.2};
    return (ag_sim_conf){.sched = s,
                         .machine = m,
                         .seed = r->seed,
                         .vocab = one_in(r, 3) ? 0 : between(r, 1, 3),
                         .arg = r,
                         .chosen = on_chosen,
                         .stepped = on_stepped,
                         .ended = on_ended};
}

typedef struct load { bool cancels, deadlines, moves, bands, tenants, long_ones; uint32_t prefixes, pause_us; } load;

static ag_sim_ask draw_ask(run *r, const load *l)
{
    static const char *const names[TENANTS] = {"a", "b", "c", "d", "e"};
    uint32_t room = AG_MIN(r->conf.sched.pages * r->conf.sched.page_tokens, 300u),
             tenant = l->tenants ? below(r, TENANTS) : 0;
    if (l->tenants && one_in(r, 2)) tenant = 0; /* one of them floods */
    ag_sim_ask a = {.tenant = names[tenant],
                    .weight = one_in(r, 16) ? 0.5 : 1 + tenant / 2,
                    .mark = tenant,
                    .band = l->bands ? (uint8_t)below(r, AG_BANDS) : 2,
                    .salt = one_in(r, 8) ? AG_KV_ALONE : 1 + tenant % 2};
    a.n_prompt = between(r, 1, l->long_ones && one_in(r, 3) ? room - 1 : AG_MIN(room - 1, 24u));
    a.max_tokens = between(r, 1, AG_MIN(room - a.n_prompt, one_in(r, 4) ? 200u : 20u));
    a.n_answer = between(r, 1, a.max_tokens);
    if (one_in(r, 10)) {
        a.all_logits = true;
        if (one_in(r, 2)) a.max_tokens = a.n_answer = 0;
    } else if (one_in(r, 10)) {
        a.states = one_in(r, 2) ? AG_STATES_ALL : AG_STATES_LAST;
        a.max_tokens = a.n_answer = 0;
    }
    if (l->prefixes) {
        a.prefix = below(r, l->prefixes);
        a.n_prefix = below(r, a.n_prompt + 1);
    }
    if (l->cancels && one_in(r, 4)) a.cancel_us = between(r, 1, one_in(r, 2) ? 10000 : 2000000);
    if (l->deadlines && one_in(r, 2)) a.timeout_us = between(r, 1, one_in(r, 2) ? 50000 : 3000000);
    if (l->moves && one_in(r, 4)) {
        a.move_us = between(r, 1, 500000);
        a.move_band = (uint8_t)below(r, AG_BANDS);
    }
    return a;
}

static void draw_load(run *r, ag_sim *sim)
{
    load l = {.cancels = one_in(r, 2),
              .deadlines = one_in(r, 3),
              .moves = one_in(r, 3),
              .bands = !one_in(r, 3),
              .tenants = !one_in(r, 3),
              .long_ones = one_in(r, 2),
              .prefixes = one_in(r, 3) ? 0 : between(r, 1, 4),
              .pause_us = between(r, 1, 200000)};
    uint64_t at = 0;
    for (r->asked = 0; r->asked < 60;) {
        for (uint32_t burst = one_in(r, 6) ? between(r, 2, 30) : 1; burst > 0; burst--, r->asked++) {
            ag_sim_ask a = draw_ask(r, &l);
            assert_int_equal(ag_sim_ask_at(sim, at, &a, NULL), AG_OK);
        }
        at += below(r, l.pause_us);
    }
}

/* Of tenants that were not forgotten meanwhile. */
static void check_charges(run *r, ag_sim *sim)
{
    static const char *const names[TENANTS] = {"a", "b", "c", "d", "e"};
    if (r->conf.sched.queue.tenants_max < TENANTS) return; /* some were forgotten */
    for (uint32_t i = 0; i < TENANTS; i++) {
        const ag_tenant *t = ag_queue_tenant(ag_sched_queue(ag_sim_sched(sim)), ag_str_of(names[i]), 1);
        HOLDS(t->service == r->service[i] && t->ahead == 0 && t->running == 0 && t->waiting == 0);
    }
}

static void run_seed(uint64_t seed)
{
    seed_watch(seed);
    run *r = calloc(1, sizeof *r);
    *r = (run){.seed = seed, .random = seed * 0x2545f4914f6cdd1du, .verify_all = seed % 4 == 0};
    now_running = r;
    if (getenv("VERBOSE")) fprintf(stderr, "SEED=%llu\n", (unsigned long long)seed);
    r->forgets = one_in(r, 10);
    r->conf = draw_server(r);
    ag_sim *sim;
    assert_int_equal(ag_sim_open(&sim, &r->conf, NULL), AG_OK);
    draw_load(r, sim);
    while (ag_sim_turn(sim)) HOLDS(r->steps < 300000);
    ag_sched *s = ag_sim_sched(sim);
    HOLDS(!ag_sched_busy(s)); /* nothing happens any more: everyone has ended */
    ag_sched_stats st;
    ag_sched_stats_get(s, &st);
    HOLDS(st.kv.used == 0 && st.kv.free + st.kv.kept == st.kv.pages);
    uint32_t ended = 0;
    for (uint32_t i = 0; i <= AG_SIM_CANCELLED; i++) {
        ended += r->ends[i];
        totals[i] += r->ends[i];
    }
    HOLDS(ended == r->asked);
    HOLDS(st.set_back_urgent + st.set_back_share + st.set_back_pages <= 40ull * r->asked);
    check_charges(r, sim);
    ag_sched_verify(s);
    total_steps += r->steps;
    total_seeds++;
    total_set_back[0] += st.set_back_pages;
    total_set_back[1] += st.set_back_urgent;
    total_set_back[2] += st.set_back_share;
    total_reused += st.reused_tokens;
    total_again += st.again_rows;
    ag_sim_close(sim);
    free(r);
}

static void test_random_servers(void **state)
{
    (void)state;
    const char *seed = getenv("SEED"), *steps = getenv("STEPS");
    if (seed) {
        run_seed(strtoull(seed, NULL, 10));
        return;
    }
    uint64_t want = steps ? strtoull(steps, NULL, 10) : RANDOM_STEPS;
    for (uint64_t i = 1; total_steps < want; i++) run_seed(i);
    /* Everything that can happen did. */
    for (int i = AG_SIM_DONE; i <= AG_SIM_CANCELLED; i++) assert_true(totals[i] > 0);
    for (int i = 0; i < 3; i++) assert_true(total_set_back[i] > 0);
    assert_true(total_reused > 0 && total_again > 0 && total_sat_out > 0);
    print_message("%llu steps of %llu servers; %llu done, %llu refused, %llu displaced, %llu expired, %llu timed out, "
                  "%llu cancelled; set back "
                  "%llu for pages, %llu for urgent ones, %llu for shares; %llu tokens reused, %llu computed again\n",
                  (unsigned long long)total_steps, (unsigned long long)total_seeds,
                  (unsigned long long)totals[AG_SIM_DONE], (unsigned long long)totals[AG_SIM_REFUSED],
                  (unsigned long long)totals[AG_SIM_DISPLACED], (unsigned long long)totals[AG_SIM_EXPIRED],
                  (unsigned long long)totals[AG_SIM_TIMEOUT], (unsigned long long)totals[AG_SIM_CANCELLED],
                  (unsigned long long)total_set_back[0], (unsigned long long)total_set_back[1],
                  (unsigned long long)total_set_back[2], (unsigned long long)total_reused,
                  (unsigned long long)total_again);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_random_servers)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
