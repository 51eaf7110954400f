/* passes.h - what turns a family's graph into a plan: fusion, layout, stages, memory.
 * Owns    : ag_plan owns its lists; the graph that it refers to must outlive it.
 * Threads : one, while a model is loaded; a plan is read-only afterwards.
 * Limits  : those of the graph.
 * Errors  : AG_E_NOMEM, AG_E_USAGE (a pass that is not known, or that cannot be left out), AG_E_UNSUPPORTED (a tensor
 *           type without kernels).
 * Every pass keeps the meaning of the graph; each can be left out by name (but those marked needed) and its effect seen
 * in ag_passes_run's report. */
#ifndef AG_PASSES_H
#define AG_PASSES_H

#include "engine/cpu/cpu.h"
#include "model/arch/graph.h"

typedef struct ag_stage { /* nodes [node, node+n) that run without a barrier between them, divided alike */
    uint32_t node, n;
    ag_domain domain;
    ag_row_set rows;
    bool repeat; /* by rows, and read by the next stage alone: each worker may do it for itself, without a barrier */
} ag_stage;

typedef struct ag_plan {
    ag_graph *graph;
    ag_weight *packs;      /* matrices (or parts) to repack; ag_weight.pack indexes them */
    uint32_t n_packs, cap_packs;
    ag_stage *stages;
    uint32_t n_stages;
    uint32_t rows_max, out_max;
    uint64_t arena_bytes;  /* activations of a step */
} ag_plan;

typedef struct ag_pass_row {
    const char *name, *what;
    bool needed;
    int (*run)(ag_plan *p, ag_err *err);
} ag_pass_row;

const ag_pass_row *ag_pass_next(const ag_pass_row *r); /* walks the table from NULL to NULL */

/* Runs the passes but those named in `no_pass` (comma-separated, or NULL) over g for steps of up to rows_max rows,
 * out_max of them with logits. `report` (or NULL) gets the graph and its figures before the first and after each
 * pass. */
int ag_passes_run(ag_plan *p, ag_graph *g, uint32_t rows_max, uint32_t out_max, const char *no_pass, ag_buf *report,
                  ag_err *err);
void ag_plan_fini(ag_plan *p);
/* Of a step of one row: stages less those that every worker repeats, and that of states. */
uint32_t ag_plan_barriers(const ag_plan *p);

/* Floats from one row of a value to the next. */
static inline size_t ag_value_stride(const ag_value *v) { return AG_ALIGN_UP((size_t)v->width, 16); }
/* How many rows the memory of v holds. */
static inline uint32_t ag_value_rows(const ag_plan *p, const ag_value *v)
{
    return v->rows == AG_ROWS_LOGITS ? p->out_max : p->rows_max;
}

/* Between passes: producers and uses, nodes removed. */
typedef struct ag_links {
    int32_t *maker;  /* by value: the node whose out or qout it is; -1: none */
    uint32_t *uses;  /* by value: how often it, or a view of it, is read */
} ag_links;
int ag_links_make(ag_links *k, const ag_graph *g, ag_err *err);
void ag_links_fini(ag_links *k);
void ag_node_kill(ag_node *n);          /* marks it; ag_graph_compact drops it */
bool ag_node_dead(const ag_node *n);
void ag_graph_compact(ag_graph *g);
/* Reads of value `from` become reads of `to`, views included. */
void ag_graph_replace(ag_graph *g, ag_vid from, ag_vid to);

#define AG_PASS(name, needed, what) int ag__pass_##name(ag_plan *p, ag_err *err);
#include "engine/passes/passes.def"
#undef AG_PASS

#endif
