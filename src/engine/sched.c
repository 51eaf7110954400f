#include "engine/sched.h"

#include "base/mem.h"

int ag_sched_init(ag_sched *s, uint32_t pages, uint32_t running_max, uint32_t rows_max, uint32_t out_max, uint32_t chunk_tokens, ag_err *err)
{
    AG_ASSERT(running_max >= 1 && out_max >= running_max && rows_max >= running_max && chunk_tokens >= 1);
    *s = (ag_sched){.running_max = running_max, .rows_max = rows_max, .out_max = out_max, .chunk_tokens = chunk_tokens};
    int rc = ag_kv_open(&s->kv, pages, err);
    s->running = ag_mem_array(running_max, sizeof(ag_gen *));
    s->tokens = ag_mem_array(rows_max, sizeof *s->tokens);
    s->spans = ag_mem_array(running_max, sizeof *s->spans);
    s->span_gen = ag_mem_array(running_max, sizeof(ag_gen *));
    s->out_rows = ag_mem_array(out_max, sizeof *s->out_rows);
    s->out_gen = ag_mem_array(out_max, sizeof(ag_gen *));
    s->out_index = ag_mem_array(out_max, sizeof *s->out_index);
    if (rc == AG_OK && !(s->running && s->tokens && s->spans && s->span_gen && s->out_rows && s->out_gen && s->out_index))
        rc = ag_err_set(err, AG_E_NOMEM, "no memory for the scheduler");
    if (rc != AG_OK) ag_sched_fini(s);
    return rc;
}

void ag_sched_fini(ag_sched *s)
{
    AG_ASSERT(s->n_running == 0 && s->n_waiting == 0);
    ag_kv_close(s->kv);
    ag_mem_free((void *)s->running);
    ag_mem_free(s->tokens);
    ag_mem_free(s->spans);
    ag_mem_free((void *)s->span_gen);
    ag_mem_free(s->out_rows);
    ag_mem_free((void *)s->out_gen);
    ag_mem_free(s->out_index);
    *s = (ag_sched){0};
}

void ag_sched_push(ag_sched *s, ag_gen *g)
{
    g->next = NULL;
    if (s->last) s->last->next = g;
    else s->first = g;
    s->last = g;
    s->n_waiting++;
}

static void push_front(ag_sched *s, ag_gen *g)
{
    g->next = s->first;
    s->first = g;
    if (s->last == NULL) s->last = g;
    s->n_waiting++;
}

static void give_pages_back(ag_sched *s, ag_gen *g)
{
    ag_kv_put(s->kv, g->n_pages, g->pages);
    g->n_pages = 0;
    g->computed = 0;
}

static bool remove_running(ag_sched *s, const ag_gen *g)
{
    for (uint32_t i = 0; i < s->n_running; i++) {
        if (s->running[i] != g) continue;
        memmove((void *)(s->running + i), (void *)(s->running + i + 1), (s->n_running - i - 1) * sizeof(ag_gen *));
        s->n_running--;
        return true;
    }
    return false;
}

static void remove_waiting(ag_sched *s, const ag_gen *g)
{
    ag_gen *before = NULL, *at = s->first;
    while (at && at != g) {
        before = at;
        at = at->next;
    }
    AG_ASSERT(at == g);
    if (before) before->next = g->next;
    else s->first = g->next;
    if (s->last == g) s->last = before;
    s->n_waiting--;
}

void ag_sched_drop(ag_sched *s, ag_gen *g)
{
    if (!remove_running(s, g)) remove_waiting(s, g);
    give_pages_back(s, g);
}

/* Pages for positions below `to`. The tables grow in steps; false: too few pages are free, or no memory. */
static bool ensure_pages(ag_sched *s, ag_gen *g, uint32_t to)
{
    uint32_t need = (to + AG_KV_PAGE - 1) / AG_KV_PAGE;
    if (need <= g->n_pages) return true;
    if (need > g->cap_pages) {
        uint32_t cap = AG_MAX(need, 2 * g->cap_pages);
        uint32_t *p = ag_mem_resize(g->pages, cap, sizeof *p);
        if (p == NULL) return false;
        g->pages = p;
        g->cap_pages = cap;
    }
    if (!ag_kv_take(s->kv, need - g->n_pages, g->pages + g->n_pages)) return false;
    g->n_pages = need;
    return true;
}

/* As ensure_pages, setting back the newest sequences until there is room. false: g itself was the newest. */
static bool force_pages(ag_sched *s, ag_gen *g, uint32_t to)
{
    while (!ensure_pages(s, g, to)) {
        ag_gen *victim = s->running[s->n_running - 1];
        s->n_running--;
        give_pages_back(s, victim);
        push_front(s, victim);
        s->preemptions++;
        if (victim == g) return false;
    }
    return true;
}

/* Adds n rows of g to the batch. */
static void add_span(ag_sched *s, ag_gen *g, uint32_t n)
{
    ag_batch *b = &s->batch;
    s->spans[b->n_spans] = (ag_span){b->n_rows, n, g->computed, g->pages};
    s->span_gen[b->n_spans++] = g;
    memcpy(s->tokens + b->n_rows, g->tokens + g->computed, n * sizeof *s->tokens);
    uint32_t end = g->computed + n;
    for (uint32_t i = g->computed; i < end; i++) {
        bool scored = g->prompt_logprobs && i + 1 >= g->n_scored && i + 1 < g->n_prompt;
        bool sampled = i + 1 == g->n_tokens && g->max_tokens > 0;
        if (!scored && !sampled) continue;
        s->out_rows[b->n_out] = b->n_rows + (i - g->computed);
        s->out_gen[b->n_out] = g;
        s->out_index[b->n_out++] = i;
    }
    b->n_rows += n;
    g->step_n = n;
}

/* How many rows of g fit into what is left of the step. */
static uint32_t rows_for(const ag_sched *s, const ag_gen *g, uint32_t budget)
{
    uint32_t rest = g->n_tokens - g->computed, outs = s->out_max - s->batch.n_out;
    uint32_t n = AG_MIN(AG_MIN(rest, budget), s->rows_max - s->batch.n_rows);
    if (g->prompt_logprobs) return AG_MIN(n, outs);
    return outs == 0 && n == rest ? n - 1 : n; /* only the last row wants logits */
}

static bool decodes(const ag_gen *g) { return g->n_tokens - g->computed == 1 && g->computed > 0; }

static void admit(ag_sched *s, uint32_t *budget, void (*admitted)(void *, ag_gen *), void *arg)
{
    while (s->first && s->n_running < s->running_max && *budget > 0) {
        ag_gen *g = s->first;
        uint32_t n = rows_for(s, g, *budget);
        /* The whole prompt must have room, or it would be set back before its first token. */
        uint32_t need = (g->n_tokens + AG_KV_PAGE - 1) / AG_KV_PAGE;
        if (n == 0 || ag_kv_free(s->kv) < need || !ensure_pages(s, g, n)) return;
        s->first = g->next;
        if (s->first == NULL) s->last = NULL;
        s->n_waiting--;
        g->next = NULL;
        s->running[s->n_running++] = g;
        admitted(arg, g);
        add_span(s, g, n);
        *budget -= n;
    }
}

bool ag_sched_step(ag_sched *s, void (*admitted)(void *arg, ag_gen *g), void *arg)
{
    s->batch = (ag_batch){.tokens = s->tokens, .spans = s->spans, .out_rows = s->out_rows};
    bool decoding = false;
    for (uint32_t i = 0; i < s->n_running; i++) {
        s->running[i]->step_n = 0;
        if (decodes(s->running[i])) decoding = true;
    }
    /* From the oldest to the newest, so that whoever is set back has no rows in this step yet. */
    for (uint32_t i = 0; i < s->n_running; i++) {
        ag_gen *g = s->running[i];
        if (decodes(g) && force_pages(s, g, g->n_tokens)) add_span(s, g, 1);
    }
    uint32_t budget = decoding ? AG_MIN(s->chunk_tokens, s->rows_max - s->batch.n_rows) : s->rows_max;
    bool short_of_pages = false;
    for (uint32_t i = 0; i < s->n_running && budget > 0; i++) {
        ag_gen *g = s->running[i];
        uint32_t n = decodes(g) || g->step_n > 0 ? 0 : rows_for(s, g, budget);
        if (n == 0) continue;
        if (!ensure_pages(s, g, g->computed + n)) {
            short_of_pages = true;
            continue;
        }
        add_span(s, g, n);
        budget -= n;
    }
    /* What is free belongs to whoever runs: newcomers that take it could keep a prompt waiting for ever. */
    if (!short_of_pages) admit(s, &budget, admitted, arg);
    if (s->batch.n_rows == 0 && s->n_running > 0) { /* prompts wait for pages that nobody will give back: make room */
        ag_gen *g = s->running[0];
        uint32_t n = rows_for(s, g, s->rows_max);
        if (force_pages(s, g, g->computed + n)) add_span(s, g, n);
    }
    return s->batch.n_rows > 0;
}

void ag_sched_done(ag_sched *s)
{
    for (uint32_t i = 0; i < s->batch.n_spans; i++) s->span_gen[i]->computed += s->span_gen[i]->step_n;
    s->batch.n_rows = 0;
}
