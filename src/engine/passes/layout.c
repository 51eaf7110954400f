/* Layout: which matrices are repacked, and int8 forms of the inputs of their products. */
#include <stdio.h>

#include "base/mem.h"
#include "engine/passes/passes.h"

static int pack_add(ag_plan *p, ag_weight *w, ag_err *err)
{
    const ag_quant_row *q = ag_quant_find(w->t->type);
    if (!ag_pack_supported(w->t->type, w->k))
        return ag_err_set(err, AG_E_UNSUPPORTED, "%s: tensor \"%.*s\": no kernels for %s with rows of %u",
                          ag_gguf_path(p->graph->gguf), (int)w->t->name.n, w->t->name.p, q ? q->name : "its type",
                          w->k);
    if (p->n_packs == p->cap_packs) {
        uint32_t cap = p->cap_packs ? 2 * p->cap_packs : 256;
        ag_weight *grown = ag_mem_resize(p->packs, cap, sizeof *grown);
        if (grown == NULL) return ag_err_set(err, AG_E_NOMEM, "no memory to lay out the weights");
        p->packs = grown;
        p->cap_packs = cap;
    }
    w->pack = (int32_t)p->n_packs;
    p->packs[p->n_packs++] = *w;
    return AG_OK;
}

int ag__pass_layout(ag_plan *p, ag_err *err)
{
    ag_graph *g = p->graph;
    uint32_t n_nodes = g->n_nodes, n_values = g->n_values;
    ag_node *nodes = ag_mem_array(n_nodes + 1, sizeof *nodes);
    ag_vid *quantized = ag_mem_array(n_values + 1, sizeof *quantized);
    int rc = nodes && quantized ? AG_OK : ag_err_set(err, AG_E_NOMEM, "no memory to lay out the weights");
    if (rc == AG_OK) {
        memcpy(nodes, g->nodes, n_nodes * sizeof *nodes);
        memset(quantized, 0xFF, (n_values + 1) * sizeof *quantized);
        g->n_nodes = 0;
    }
    for (uint32_t i = 0; rc == AG_OK && i < n_nodes; i++) {
        ag_node n = nodes[i];
        if (n.op == AG_GOP_MATMUL) {
            bool wants_q = false, wants_f = false;
            for (uint32_t j = 0; rc == AG_OK && j < n.n_w; j++) {
                rc = pack_add(p, &n.w[j], err);
                if (ag_pack_wants_quantized(n.w[j].t->type)) wants_q = true;
                else wants_f = true;
            }
            ag_vid x = n.in[0];
            if (wants_q) {
                if (quantized[x] < 0) {
                    ag_vid q = ag_graph_value_add(g, g->values[x].width);
                    if (q < 0) break; /* the graph keeps the failure */
                    g->values[q].quantized = true;
                    g->values[q].rows = g->values[x].rows;
                    ag_node *qn = ag_graph_node_add(g, AG_GOP_QUANTIZE);
                    qn->in[0] = x;
                    qn->out = q;
                    qn->layer = n.layer;
                    quantized[x] = q;
                }
                n.in[1] = quantized[x];
                if (!wants_f) n.in[0] = -1;
            }
        }
        *ag_graph_node_add(g, n.op) = n;
    }
    ag_mem_free(nodes);
    ag_mem_free(quantized);
    return rc;
}

/* Whether one item of the node's work makes whole blocks of 32, so that it can quantize them itself. */
static bool makes_blocks(const ag_node *m)
{
    switch (m->op) {
    case AG_GOP_NORM: return m->heads == 1;
    case AG_GOP_MATMUL: return m->glu != AG_GLU_NONE && m->w[0].rows % 32 == 0; /* two tiles at a time */
    case AG_GOP_ATTENTION: return m->heads / m->kv_heads * m->dim_v % 32 == 0;
    default: return false;
    }
}

int ag__pass_fuse_quantize(ag_plan *p, ag_err *err)
{
    ag_graph *g = p->graph;
    ag_links k;
    int rc = ag_links_make(&k, g, err);
    if (rc) return rc;
    for (uint32_t i = 0; i < g->n_nodes; i++) {
        ag_node *q = &g->nodes[i];
        if (q->op != AG_GOP_QUANTIZE || k.maker[q->in[0]] < 0) continue;
        ag_node *m = &g->nodes[k.maker[q->in[0]]];
        if (m->qout >= 0 || m->out != q->in[0] || !makes_blocks(m)) continue;
        m->qout = q->out;
        bool sole = k.uses[m->out] == 1; /* nobody wants it as float */
        if (sole && (m->op == AG_GOP_MATMUL || (m->op == AG_GOP_NORM && m->residual < 0))) m->out = -1;
        ag_node_kill(q);
    }
    ag_graph_compact(g);
    ag_links_fini(&k);
    return AG_OK;
}
