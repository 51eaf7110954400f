#include "cli/bench.h"

static bool is_float(ag_quant_type t) { return ag_quant_find(t)->block == 1; }

static void add_product(ag_bench_cost *c, const ag_graph *g, const ag_node *n, const ag_batch *s)
{
    ag_vid made = n->out >= 0 ? n->out : n->qout; /* a fused one may give its int8 form alone */
    uint64_t rows = g->values[made].rows == AG_ROWS_ALL ? s->n_rows : s->n_out;
    for (uint32_t i = 0; i < n->n_w; i++)
        *(is_float(n->w[i].t->type) ? &c->float_ops : &c->int8_ops) += 2 * rows * n->w[i].rows * n->w[i].k;
}

/* Row r of a span attends to the window's keys up to its own; the span's rows read the same keys, which count once. */
static void add_attention(ag_bench_cost *c, const ag_lm *lm, const ag_node *n, const ag_batch *s)
{
    uint64_t page = (uint64_t)lm->graph.layers * AG_KV_PAGE;
    for (uint32_t i = 0; i < s->n_spans; i++) {
        const ag_span *span = &s->spans[i];
        uint64_t window = n->window ? n->window : UINT32_MAX, all = (uint64_t)span->pos + span->n, keys = 0;
        for (uint64_t end = (uint64_t)span->pos + 1; end <= all; end++) keys += AG_MIN(end, window);
        c->float_ops += 2 * keys * n->heads * (n->dim_k + n->dim_v);
        c->kv_bytes += AG_MIN(all, window + span->n - 1) * lm->page_bytes / page;
    }
}

void ag_bench_cost_add(ag_bench_cost *c, const ag_lm *lm, const ag_batch *step)
{
    c->steps++;
    c->rows += step->n_rows;
    c->weight_bytes += lm->ops->weight_bytes(lm->backend);
    for (uint32_t i = 0; i < lm->graph.n_nodes; i++) {
        const ag_node *n = &lm->graph.nodes[i];
        if (n->op == AG_GOP_MATMUL) add_product(c, &lm->graph, n, step);
        if (n->op == AG_GOP_ATTENTION) add_attention(c, lm, n, step);
    }
}
