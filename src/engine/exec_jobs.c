/* A step as every worker walks it: jobs in order, a barrier between two. A job is done when all its chunks are, not
 * when all workers have come by: one that lost its core holds up nobody but in the chunk that it has in hand, and goes
 * through what is done without stopping when it is back. */
#include <stdatomic.h>

#include "base/mem.h"
#include "engine/exec.h"

/* A stage that may be repeated is when it is this short: a barrier takes longer than a norm of so many numbers. One row
 * cannot be shared out anyway. */
#define OWN_NUMBERS 4096u
#define OWN_ROWS_MAX 4u
/* A generation of chunks takes this share of what is left. */
#define GENERATION_SHARE(n) ((n) * 3u / 5u)

/* --- what workers may have for themselves ------------------------------------------------------------------------- */

static uint32_t own_rows(const ag_value *v) { return AG_MIN(AG_MAX(OWN_NUMBERS / v->width, 1u), OWN_ROWS_MAX); }

static void place_own(ag_backend *b)
{
    const ag_plan *p = b->plan;
    for (uint32_t v = 0; v < b->g->n_values; v++) b->own_at[v] = -1;
    b->own_bytes = 0;
    for (uint32_t s = 0; s < p->n_stages; s++) {
        if (!p->stages[s].repeat) continue;
        size_t at = 0;
        for (uint32_t i = p->stages[s].node; i < p->stages[s].node + p->stages[s].n; i++) {
            ag_vid made[] = {b->g->nodes[i].out, b->g->nodes[i].qout};
            for (size_t j = 0; j < AG_ARRAY_LEN(made); j++) {
                if (made[j] < 0) continue;
                const ag_value *x = &b->g->values[made[j]];
                b->own_at[made[j]] = (int64_t)at;
                size_t bytes = x->quantized ? ag_act_bytes(x->width, own_rows(x))
                                            : own_rows(x) * ag_value_stride(x) * sizeof(float);
                at += AG_ALIGN_UP(bytes, 64);
            }
        }
        b->own_bytes = AG_MAX(b->own_bytes, at);
    }
}

static bool precedes(const ag_backend *b, const ag_stage *s, uint32_t rows)
{
    if (!s->repeat) return false;
    for (uint32_t i = s->node; i < s->node + s->n; i++) {
        const ag_node *n = &b->g->nodes[i];
        if (rows > own_rows(&b->g->values[n->out >= 0 ? n->out : n->qout])) return false;
    }
    return true;
}

/* --- jobs --------------------------------------------------------------------------------------------------------- */

/* Chunks of a job of n items for t workers: for each worker an even part of three fifths of the items, then of three
 * fifths of the rest, and so on, but `least` items at least. */
static void cut(ag__job *j, uint32_t n, uint32_t t, uint32_t least)
{
    j->items = n;
    j->chunks = j->generations = 0;
    for (uint32_t at = 0; at < n;) {
        bool last = j->generations == AG_JOB_GENERATIONS - 1;
        uint32_t rest = n - at, size = AG_MAX((last ? rest + t - 1 : GENERATION_SHARE(rest)) / t, least);
        size = AG_MIN(size, rest);
        uint32_t count = last ? (rest + size - 1) / size : AG_MIN(t, (rest + size - 1) / size);
        j->from[j->generations] = at;
        j->size[j->generations++] = size;
        j->chunks += count;
        at += AG_MIN(count * size, rest);
    }
}

static uint32_t rows_of(const ag_stage *s, const ag__step *step)
{
    switch (s->rows) {
    case AG_ROWS_OUT: return step->outs + step->states;
    case AG_ROWS_LOGITS: return step->outs;
    case AG_ROWS_STATES: return step->states ? step->outs + step->states : 0;
    default: return step->rows;
    }
}

static void build_job(const ag_backend *b, ag__job *j, const ag__step *step)
{
    const ag_node *n = &b->g->nodes[j->stage->node];
    uint32_t rows = rows_of(j->stage, step), items = rows, least = 1;
    switch (j->stage->domain) {
    case AG_DOMAIN_ROWS:
        j->body = ag__exec_rows;
        break;
    case AG_DOMAIN_HEADS:
        j->body = ag__exec_heads;
        items = rows * ((n->in[0] >= 0 ? n->heads : 0) + n->kv_heads);
        least = 8;
        break;
    case AG_DOMAIN_TILES:
        j->body = ag__exec_tiles;
        items = ag__exec_tile_items(b, j, rows);
        break;
    case AG_DOMAIN_ATTN: /* shared out by cost when the step runs */
        j->body = ag__exec_attn;
        j->share = ag_attn_share_find(&b->shares, n);
        items = 0;
        break;
    }
    cut(j, items, ag_pool_threads(b->pool), least);
}

static void build_step(const ag_backend *b, ag__step *step)
{
    step->n_jobs = 0;
    for (uint32_t s = 0; s < b->plan->n_stages; s++) {
        const ag_stage *stage = &b->plan->stages[s];
        if (rows_of(stage, step) == 0) continue;
        ag__job *j = &step->jobs[step->n_jobs++];
        *j = (ag__job){.stage = stage};
        if (precedes(b, stage, rows_of(stage, step))) {
            j->before = stage;
            j->stage = &b->plan->stages[++s];
        } else if (step->single && ag__exec_attn_takes_heads(b, stage)) {
            j->store = &b->g->nodes[stage->node];
            j->stage = &b->plan->stages[++s];
        }
        build_job(b, j, step);
    }
}

static const ag__step *find_step(ag_backend *b, uint32_t rows, uint32_t outs, uint32_t states, bool single)
{
    ag__step *oldest = &b->steps[0];
    b->clock++;
    for (size_t i = 0; i < AG_STEPS_CACHED; i++) {
        ag__step *s = &b->steps[i];
        if (s->used < oldest->used) oldest = s;
        if (s->used == 0 || s->rows != rows || s->outs != outs || s->states != states || s->single != single) continue;
        s->used = b->clock;
        return s;
    }
    oldest->rows = rows;
    oldest->outs = outs;
    oldest->states = states;
    oldest->single = single;
    oldest->used = b->clock;
    build_step(b, oldest);
    return oldest;
}

int ag__jobs_open(ag_backend *b, ag_err *err)
{
    size_t n = b->plan->n_stages + 1;
    b->own_at = ag_mem_array(b->g->n_values + 1, sizeof *b->own_at);
    b->turns = ag_mem_aligned(64, n * sizeof *b->turns);
    bool ok = b->own_at && b->turns;
    for (size_t i = 0; i < AG_STEPS_CACHED && ok; i++)
        ok = (b->steps[i].jobs = ag_mem_array(n, sizeof *b->steps[i].jobs)) != NULL;
    if (!ok) return ag_err_set(err, AG_E_NOMEM, "no memory for the jobs of a step");
    place_own(b);
    return AG_OK;
}

void ag__jobs_close(ag_backend *b)
{
    ag_mem_free(b->own_at);
    ag_mem_free(b->turns);
    for (size_t i = 0; i < AG_STEPS_CACHED; i++) ag_mem_free(b->steps[i].jobs);
}

/* --- a step ------------------------------------------------------------------------------------------------------- */

static uint32_t chunks_of(const ag__job *j) { return j->share ? j->share->n_items : j->chunks; }

/* Items [from,to) of chunk k. */
static void find_chunk(const ag__lane *l, uint32_t k, uint32_t *from, uint32_t *to)
{
    const ag__job *j = l->job;
    *from = k;
    *to = k + 1;
    if (j->share) return;
    uint32_t t = ag_pool_threads(l->b->pool), g = AG_MIN(k / t, j->generations - 1);
    uint32_t end = g + 1 < j->generations ? j->from[g + 1] : j->items;
    *from = j->from[g] + (k - g * t) * j->size[g];
    *to = AG_MIN(*from + j->size[g], end);
}

static void walk(void *backend, uint32_t worker, uint32_t from, uint32_t to)
{
    ag_backend *b = backend;
    unsigned char *scratch = b->scratch + worker * (b->scratch_bytes + b->own_bytes);
    ag__lane l = {.b = b, .worker = worker, .scratch = scratch, .own = scratch + b->scratch_bytes};
    for (uint32_t i = 0; i < b->step->n_jobs; i++) {
        const ag__job *j = l.job = &b->step->jobs[i];
        ag__turn *turn = &b->turns[i];
        uint32_t all = chunks_of(j), mine = 0;
        uint32_t k = atomic_fetch_add_explicit(&turn->next, 1, memory_order_relaxed);
        if (k < all && j->stage->domain == AG_DOMAIN_TILES) { /* memory has nothing to do while we wait */
            find_chunk(&l, k, &from, &to);
            ag__exec_tiles_ahead(&l, from);
        }
        if (i) ag_pool_await(b->pool, &turn[-1].done, chunks_of(j - 1));
        for (; k < all; k = atomic_fetch_add_explicit(&turn->next, 1, memory_order_relaxed), mine++) {
            if (mine == 0 && j->before) ag__exec_rows_of(&l, j->before, 0, rows_of(j->before, b->step));
            find_chunk(&l, k, &from, &to);
            j->body(&l, from, to);
        }
        if (mine) ag_pool_arrive(b->pool, &turn->done, mine, all);
    }
}

void ag__jobs_run(ag_backend *b)
{
    b->step = find_step(b, b->batch->n_rows, b->batch->n_out, b->batch->n_states,
                        b->batch->n_spans == b->batch->n_rows);
    for (uint32_t i = 0; i < b->step->n_jobs; i++) {
        atomic_store_explicit(&b->turns[i].next, 0, memory_order_relaxed);
        atomic_store_explicit(&b->turns[i].done, 0, memory_order_relaxed);
    }
    /* As many walks as workers; one that comes late finds all done, and whoever is quick may walk twice. */
    ag_pool_run(b->pool, walk, b, ag_pool_threads(b->pool), 1);
}
