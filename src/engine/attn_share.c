#include "engine/attn_share.h"

#include "base/mem.h"

#define PARTIAL_BYTES_MAX (8u << 20)
#define TURNS 8         /* items a worker: enough to even out cores that run at different speeds */
#define BUCKETS 64u     /* of costs, for sorting */
#define OVERHEAD 64u    /* what a token costs beside its keys, in keys */

static int add_list(ag_attn_shares *s, const ag_node *n)
{
    if (ag_attn_share_find(s, n)) return AG_OK;
    ag_attn_share *l = &s->lists[s->n_lists++];
    *l = (ag_attn_share){.window = n->window, .heads = n->heads, .kv_heads = n->kv_heads, .dim_v = n->dim_v};
    l->units = ag_mem_array(s->units_max, sizeof *l->units);
    l->items = ag_mem_array(s->units_max + 1, sizeof *l->items);
    l->merges = ag_mem_array(s->merges_max, sizeof *l->merges);
    return l->units && l->items && l->merges ? AG_OK : AG_E_NOMEM;
}

int ag_attn_shares_open(ag_attn_shares *s, const ag_plan *p, uint32_t pages, uint32_t threads, ag_err *err)
{
    *s = (ag_attn_shares){.threads = threads};
    uint32_t kv_heads = 1, group = 1, nodes = 0;
    size_t rec = 1;
    for (uint32_t i = 0; i < p->graph->n_nodes; i++) {
        const ag_node *n = &p->graph->nodes[i];
        if (n->op != AG_GOP_ATTENTION) continue;
        nodes++;
        kv_heads = AG_MAX(kv_heads, n->kv_heads);
        group = AG_MAX(group, n->heads / n->kv_heads);
        rec = AG_MAX(rec, (size_t)ag_attn_rec(n->dim_v));
    }
    s->piece_max = ag_attn_tokens(group);
    /* Room for every token that fits the cache to be split once, as far as that is not out of proportion. */
    size_t runs_max = (size_t)kv_heads * (pages / (AG_ATTN_PART / AG_KV_PAGE) + 16 + 4 * (size_t)threads);
    runs_max = AG_MIN(runs_max, AG_MAX(PARTIAL_BYTES_MAX / (group * rec * sizeof(float)), (size_t)2));
    s->partial_max = runs_max * group * rec;
    s->merges_max = (uint32_t)(runs_max / 2 + 1);
    s->units_max = p->rows_max * kv_heads + (uint32_t)runs_max;
    s->pieces = ag_mem_array(p->rows_max, sizeof *s->pieces);
    s->order = ag_mem_array(p->rows_max, sizeof *s->order);
    s->lists = ag_mem_array(nodes + 1, sizeof *s->lists);
    s->partial = ag_mem_aligned(64, s->partial_max * sizeof(float));
    int rc = s->pieces && s->order && s->lists && s->partial ? AG_OK : AG_E_NOMEM;
    for (uint32_t i = 0; rc == AG_OK && i < p->graph->n_nodes; i++)
        if (p->graph->nodes[i].op == AG_GOP_ATTENTION) rc = add_list(s, &p->graph->nodes[i]);
    return rc == AG_OK ? AG_OK : ag_err_set(err, AG_E_NOMEM, "no memory to share out attention");
}

void ag_attn_shares_close(ag_attn_shares *s)
{
    for (uint32_t i = 0; i < s->n_lists; i++) {
        ag_mem_free(s->lists[i].units);
        ag_mem_free(s->lists[i].items);
        ag_mem_free(s->lists[i].merges);
    }
    ag_mem_free(s->lists);
    ag_mem_free(s->pieces);
    ag_mem_free(s->order);
    ag_mem_free(s->partial);
}

ag_attn_share *ag_attn_share_find(const ag_attn_shares *s, const ag_node *attention)
{
    for (uint32_t i = 0; i < s->n_lists; i++) {
        ag_attn_share *l = &s->lists[i];
        if (l->window == attention->window && l->heads == attention->heads) return l;
    }
    return NULL;
}

/* Of one KV head: about the keys that its tokens see. */
static uint64_t cost_of(const ag_attn_share *l, const ag_batch *b, const ag_piece *p)
{
    uint64_t seen = (uint64_t)b->spans[p->span].pos + p->from + p->n;
    if (l->window) seen = AG_MIN(seen, (uint64_t)l->window);
    return p->n * (seen + OVERHEAD);
}

/* The dearest first, roughly: who takes the last item should not keep the others waiting. Returns the sum. */
static uint64_t sort_pieces(ag_attn_shares *s, const ag_attn_share *l, const ag_batch *b)
{
    uint32_t count[BUCKETS + 1] = {0};
    uint64_t sum = 0, most = 1;
    for (uint32_t i = 0; i < s->n_pieces; i++) {
        uint64_t c = cost_of(l, b, &s->pieces[i]);
        most = AG_MAX(most, c);
        sum += c;
    }
    for (uint32_t i = 0; i < s->n_pieces; i++) count[BUCKETS - cost_of(l, b, &s->pieces[i]) * (BUCKETS - 1) / most]++;
    for (uint32_t i = 1; i <= BUCKETS; i++) count[i] += count[i - 1]; /* bucket 0 is empty */
    for (uint32_t i = s->n_pieces; i-- > 0;)
        s->order[--count[BUCKETS - cost_of(l, b, &s->pieces[i]) * (BUCKETS - 1) / most]] = i;
    return sum;
}

typedef struct filling {
    const ag_attn_shares *s;
    ag_attn_share *l;
    uint64_t target, in_item; /* cost that an item should have; cost of the last one so far */
    size_t partial;           /* floats taken */
} filling;

static void add_unit(filling *f, ag_attn_unit u, uint64_t cost)
{
    if (f->in_item >= f->target || f->l->n_units == 0) {
        f->l->items[f->l->n_items++] = f->l->n_units;
        f->in_item = 0;
    }
    f->in_item += cost;
    f->l->units[f->l->n_units++] = u;
}

static void add_piece(filling *f, uint32_t piece, uint32_t head, uint64_t cost)
{
    const ag_piece *p = &f->s->pieces[piece];
    ag_attn_unit u = {.piece = piece, .head = head, .merge = AG_ATTN_WHOLE};
    ag_attn_parts(f->s->batch->spans[p->span].pos + p->from, p->n, f->l->window, &u.from, &u.to);
    uint32_t parts = u.to - u.from,
             run = (uint32_t)AG_MIN(AG_MAX(parts * f->target / cost, (uint64_t)1), (uint64_t)parts);
    size_t floats = (size_t)parts * p->n * (f->l->heads / f->l->kv_heads) * ag_attn_rec(f->l->dim_v);
    if (run == parts || f->partial + floats > f->s->partial_max || f->l->n_merges == f->s->merges_max) {
        add_unit(f, u, cost);
        return;
    }
    uint32_t runs = (parts + run - 1) / run;
    ag_attn_merge *m = &f->l->merges[f->l->n_merges];
    m->partial = f->s->partial + f->partial;
    m->from = u.from;
    m->to = u.to;
    m->runs = runs;
    atomic_init(&m->left, runs);
    f->partial += floats;
    u.merge = f->l->n_merges++;
    for (uint32_t end = u.to; u.from < end; u.from = u.to) {
        u.to = AG_MIN(u.from + run, end);
        add_unit(f, u, cost * (u.to - u.from) / parts);
    }
}

static void fill(ag_attn_shares *s, ag_attn_share *l, const ag_batch *batch)
{
    l->n_units = l->n_items = l->n_merges = 0;
    uint64_t sum = sort_pieces(s, l, batch) * l->kv_heads;
    filling f = {.s = s, .l = l, .target = s->threads > 1 ? AG_MAX(sum / (s->threads * TURNS), (uint64_t)1) : sum};
    for (uint32_t i = 0; i < s->n_pieces; i++) {
        uint64_t cost = cost_of(l, batch, &s->pieces[s->order[i]]);
        for (uint32_t h = 0; h < l->kv_heads; h++) add_piece(&f, s->order[i], h, cost);
    }
    l->items[l->n_items] = l->n_units;
}

void ag_attn_shares_lay_out(ag_attn_shares *s, const ag_batch *batch)
{
    s->batch = batch;
    s->n_pieces = 0;
    for (uint32_t i = 0; i < batch->n_spans; i++) {
        uint32_t n = batch->spans[i].n;
        for (uint32_t at = 0; at < n; at += s->piece_max)
            s->pieces[s->n_pieces++] = (ag_piece){i, at, AG_MIN(s->piece_max, n - at)};
    }
    for (uint32_t i = 0; i < s->n_lists; i++) fill(s, &s->lists[i], batch);
}
