/* Only of some rows something is wanted. Whatever is row-wise and feeds nothing but those rows is computed for them
 * alone: the last layer's output product and feed-forward as well as the norm. What stands behind the selection stays
 * as it is. */
#include "base/mem.h"
#include "engine/passes/passes.h"

/* By value: read only where rows have been selected. Set from the selection to the first node. */
static int mark(ag_graph *g, bool *only_out, bool *node_out)
{
    int64_t at = -1;
    for (uint32_t i = 0; i < g->n_nodes; i++)
        if (g->nodes[i].op == AG_GOP_SELECT) at = i;
    if (at < 0) return -1;
    for (uint32_t v = 0; v < g->n_values; v++) only_out[v] = true;
    for (int64_t i = at; i >= 0; i--) {
        const ag_node *n = &g->nodes[i];
        node_out[i] = i == at || (ag_gop_rows[n->op].rowwise && n->out >= 0 && only_out[n->out]);
        if (node_out[i]) continue;
        for (int j = 0; j < AG_NODE_INPUTS_MAX; j++)
            for (ag_vid v = n->in[j]; v >= 0; v = g->values[v].base) only_out[v] = false;
    }
    return (int)at;
}

static void push(ag_graph *g, ag_node *nodes, uint32_t n_nodes, int at, const bool *node_out, ag_vid *selected)
{
    bool idle = g->values[nodes[at].in[0]].rows == AG_ROWS_OUT; /* nothing is left to select */
    for (uint32_t i = 0; i < n_nodes; i++) {
        ag_node n = nodes[i];
        if ((int)i == at && idle) continue;
        if (node_out[i] && (int)i != at) {
            for (int j = 0; j < AG_NODE_INPUTS_MAX; j++) {
                ag_vid v = n.in[j];
                if (v < 0 || g->values[v].rows == AG_ROWS_OUT) continue;
                if (selected[v] < 0) {
                    ag_vid out = ag_graph_value_add(g, g->values[v].width);
                    if (out < 0) return;
                    g->values[out].rows = AG_ROWS_OUT;
                    ag_node *s = ag_graph_node_add(g, AG_GOP_SELECT);
                    s->in[0] = v;
                    s->out = out;
                    selected[v] = out;
                }
                n.in[j] = selected[v];
            }
            g->values[n.out].rows = AG_ROWS_OUT;
        }
        *ag_graph_node_add(g, n.op) = n;
    }
    if (idle) ag_graph_replace(g, nodes[at].out, nodes[at].in[0]);
}

int ag__pass_select_early(ag_plan *p, ag_err *err)
{
    ag_graph *g = p->graph;
    uint32_t n_nodes = g->n_nodes, n_values = g->n_values;
    bool *only_out = ag_mem_array(n_values + 1, sizeof *only_out);
    bool *node_out = ag_mem_array(n_nodes + 1, sizeof *node_out);
    ag_vid *selected = ag_mem_array(2 * (size_t)n_values + 1, sizeof *selected);
    ag_node *nodes = ag_mem_array(n_nodes + 1, sizeof *nodes);
    int rc = AG_OK;
    if (!only_out || !node_out || !selected || !nodes) {
        rc = ag_err_set(err, AG_E_NOMEM, "no memory to rewrite the graph");
    } else {
        int at = mark(g, only_out, node_out);
        memset(selected, 0xFF, (2 * (size_t)n_values + 1) * sizeof *selected);
        memcpy(nodes, g->nodes, n_nodes * sizeof *nodes);
        if (at >= 0) {
            /* Views of a value that is selected as a whole keep their base's rows: base and view are marked alike. */
            for (uint32_t i = 0; i < n_nodes; i++)
                if (node_out[i] && nodes[i].out >= 0) g->values[nodes[i].out].rows = AG_ROWS_OUT;
            for (uint32_t v = 0; v < n_values; v++)
                if (g->values[v].base >= 0) g->values[v].rows = g->values[ag_graph_base(g, (ag_vid)v, NULL)].rows;
            g->n_nodes = 0;
            push(g, nodes, n_nodes, at, node_out, selected);
        }
    }
    ag_mem_free(only_out);
    ag_mem_free(node_out);
    ag_mem_free(selected);
    ag_mem_free(nodes);
    return rc;
}
