#include "engine/passes/passes.h"

#include <inttypes.h>

#include "base/mem.h"

static const ag_pass_row rows[] = {
#define AG_PASS(name, needed, what) {#name, what, needed, ag__pass_##name},
#include "engine/passes/passes.def"
#undef AG_PASS
};

const ag_pass_row *ag_pass_next(const ag_pass_row *r)
{
    if (r == NULL) return rows;
    return ++r < rows + AG_ARRAY_LEN(rows) ? r : NULL;
}

int ag_links_make(ag_links *k, const ag_graph *g, ag_err *err)
{
    k->maker = ag_mem_array(g->n_values + 1, sizeof *k->maker);
    k->uses = ag_mem_array(g->n_values + 1, sizeof *k->uses);
    if (k->maker == NULL || k->uses == NULL) {
        ag_links_fini(k);
        return ag_err_set(err, AG_E_NOMEM, "no memory to rewrite the graph");
    }
    for (uint32_t v = 0; v < g->n_values; v++) k->maker[v] = -1;
    for (uint32_t i = 0; i < g->n_nodes; i++) {
        const ag_node *n = &g->nodes[i];
        if (ag_node_dead(n)) continue;
        if (n->out >= 0) k->maker[n->out] = (int32_t)i;
        if (n->qout >= 0) k->maker[n->qout] = (int32_t)i;
        ag_vid read[AG_NODE_INPUTS_MAX + 1] = {n->in[0], n->in[1], n->in[2], n->residual};
        for (size_t j = 0; j < AG_ARRAY_LEN(read); j++)
            for (ag_vid v = read[j]; v >= 0; v = g->values[v].base) k->uses[v]++;
    }
    if (g->logits >= 0) k->uses[g->logits]++;
    if (g->states >= 0) k->uses[g->states]++;
    return AG_OK;
}

void ag_links_fini(ag_links *k)
{
    ag_mem_free(k->maker);
    ag_mem_free(k->uses);
    *k = (ag_links){0};
}

void ag_node_kill(ag_node *n) { n->op = AG_GOP_COUNT; }
bool ag_node_dead(const ag_node *n) { return n->op == AG_GOP_COUNT; }

void ag_graph_compact(ag_graph *g)
{
    uint32_t to = 0;
    for (uint32_t i = 0; i < g->n_nodes; i++)
        if (!ag_node_dead(&g->nodes[i])) g->nodes[to++] = g->nodes[i];
    g->n_nodes = to;
}

void ag_graph_replace(ag_graph *g, ag_vid from, ag_vid to)
{
    for (uint32_t i = 0; i < g->n_nodes; i++) {
        ag_node *n = &g->nodes[i];
        for (int j = 0; j < AG_NODE_INPUTS_MAX; j++)
            if (n->in[j] == from) n->in[j] = to;
        if (n->residual == from) n->residual = to;
    }
    for (uint32_t v = 0; v < g->n_values; v++)
        if (g->values[v].base == from) g->values[v].base = to;
    if (g->logits == from) g->logits = to;
    if (g->states == from) g->states = to;
}

static bool name_listed(const char *list, const char *name)
{
    size_t n = strlen(name);
    for (const char *p = list; p && *p; p += *p == ',') {
        size_t len = strcspn(p, ",");
        if (len == n && memcmp(p, name, n) == 0) return true;
        p += len;
    }
    return false;
}

static int check_names(const char *list, ag_err *err)
{
    for (const char *p = list; p && *p; p += *p == ',') {
        size_t len = strcspn(p, ",");
        const ag_pass_row *r = NULL;
        while ((r = ag_pass_next(r)) && !(strlen(r->name) == len && memcmp(r->name, p, len) == 0)) {}
        if (r == NULL)
            return ag_err_set(err, AG_E_USAGE, "there is no pass \"%.*s\"; `autoglm compile --passes` lists them",
                              (int)AG_MIN(len, (size_t)60), p);
        if (r->needed) return ag_err_set(err, AG_E_USAGE, "pass \"%s\" is needed and cannot be left out", r->name);
        p += len;
    }
    return AG_OK;
}

static void report_figures(const ag_plan *p, const char *title, ag_buf *out)
{
    const ag_graph *g = p->graph;
    uint64_t floats = 0;
    for (uint32_t i = 0; i < g->n_nodes; i++)
        if (g->nodes[i].out >= 0 && g->values[g->nodes[i].out].base < 0) floats += g->values[g->nodes[i].out].width;
    ag_buf_addf(out, "%s: %u operations", title, g->n_nodes);
    if (p->n_stages) ag_buf_addf(out, ", %u stages, %u barriers a token", p->n_stages, ag_plan_barriers(p));
    ag_buf_addf(out, ", %" PRIu64 " bytes of results a row", floats * 4);
    if (p->arena_bytes) ag_buf_addf(out, ", %" PRIu64 " bytes of memory for %u rows", p->arena_bytes, p->rows_max);
    ag_buf_addc(out, '\n');
}

int ag_passes_run(ag_plan *p, ag_graph *g, uint32_t rows_max, uint32_t out_max, const char *no_pass, ag_buf *report,
                  ag_err *err)
{
    AG_ASSERT(g->logits >= 0 && g->states >= 0 && rows_max >= 1 && out_max >= 1 && out_max <= rows_max);
    *p = (ag_plan){.graph = g, .rows_max = rows_max, .out_max = out_max};
    int rc = check_names(no_pass, err);
    if (rc == AG_OK && report) {
        report_figures(p, "as the family describes it", report);
        ag_graph_print(g, report);
    }
    for (const ag_pass_row *r = NULL; rc == AG_OK && (r = ag_pass_next(r));) {
        if (name_listed(no_pass, r->name)) continue;
        rc = r->run(p, err);
        if (rc == AG_OK) rc = ag_graph_check(g, err);
        if (rc == AG_OK && report) {
            ag_buf_addf(report, "\nafter %s (%s)\n", r->name, r->what);
            report_figures(p, r->name, report);
            ag_graph_print(g, report);
        }
    }
    if (rc != AG_OK) ag_plan_fini(p);
    return rc;
}

uint32_t ag_plan_barriers(const ag_plan *p)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < p->n_stages; i++) n += !p->stages[i].repeat && p->stages[i].rows != AG_ROWS_STATES;
    return n;
}

void ag_plan_fini(ag_plan *p)
{
    ag_mem_free(p->packs);
    ag_mem_free(p->stages);
    *p = (ag_plan){0};
}
