/* Any bytes as a model: what its file says of it is refused with a sentence, or becomes a plan that stays inside its
 * memory, with all passes and with those left out that may be. Nothing is run. */
#include "engine/passes/passes.h"
#include "model/arch/arch.h"

enum { ROWS = 512, OUT_ROWS = 64, REPORT_MAX = 1 << 20, NODES_MAX = 20000 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char *optional_passes(void)
{
    static char list[512];
    if (*list == 0)
        for (const ag_pass_row *r = NULL; (r = ag_pass_next(r));)
            if (!r->needed) {
                strcat(list, *list ? "," : "");
                strcat(list, r->name);
            }
    return list;
}

static void check_value(const ag_plan *p, ag_vid v)
{
    const ag_graph *g = p->graph;
    uint32_t offset;
    if (v < 0) return;
    AG_ASSERT((uint32_t)v < g->n_values);
    const ag_value *x = &g->values[ag_graph_base(g, v, &offset)];
    AG_ASSERT((uint64_t)offset + g->values[v].width <= x->width);
    uint64_t rows = ag_value_rows(p, x);
    uint64_t bytes = x->quantized ? ag_act_bytes(x->width, (uint32_t)rows) : rows * ag_value_stride(x) * sizeof(float);
    AG_ASSERT(x->at + bytes <= p->arena_bytes);
}

static void check_plan(const ag_plan *p)
{
    const ag_graph *g = p->graph;
    uint32_t at = 0;
    for (uint32_t i = 0; i < p->n_stages; i++) {
        AG_ASSERT(p->stages[i].node == at && p->stages[i].n >= 1);
        at += p->stages[i].n;
    }
    AG_ASSERT(at == g->n_nodes && g->n_nodes < NODES_MAX);
    for (uint32_t i = 0; i < g->n_nodes; i++) {
        const ag_node *n = &g->nodes[i];
        for (int j = 0; j < AG_NODE_INPUTS_MAX; j++) check_value(p, n->in[j]);
        check_value(p, n->out);
        check_value(p, n->qout);
        check_value(p, n->residual);
        for (uint32_t j = 0; j < n->n_w; j++)
            AG_ASSERT(n->w[j].t && (uint64_t)n->w[j].row0 + n->w[j].rows <= n->w[j].t->dim[1]);
        AG_ASSERT(n->rope < (int32_t)g->n_ropes && n->layer < (int32_t)g->layers);
    }
    for (uint32_t i = 0; i < p->n_packs; i++) AG_ASSERT(ag_pack_supported(p->packs[i].t->type, p->packs[i].k));
    check_value(p, g->logits);
}

static void plan_one(const ag_gguf *f, const ag_hparams *hp, const char *no_pass)
{
    ag_graph g;
    ag_plan p;
    ag_buf report;
    ag_err err = {0};
    ag_graph_init(&g, f);
    ag_buf_init(&report, REPORT_MAX);
    int rc = ag_arch_build(&g, hp, &err);
    if (rc == AG_OK && (rc = ag_passes_run(&p, &g, ROWS, OUT_ROWS, no_pass, &report, &err)) == AG_OK) {
        check_plan(&p);
        ag_plan_fini(&p);
    }
    AG_ASSERT(rc == err.code && (rc == AG_OK) == (err.text[0] == 0));
    ag_buf_fini(&report);
    ag_graph_fini(&g);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    ag_gguf *f;
    ag_hparams hp;
    ag_err err = {0};
    if (ag_gguf_open_mem(&f, "fuzz.gguf", data, size, &err) != AG_OK) return 0;
    int rc = ag_hparams_read(&hp, f, &err);
    AG_ASSERT(rc == err.code && (rc == AG_OK) == (err.text[0] == 0));
    if (rc == AG_OK) {
        plan_one(f, &hp, NULL);
        plan_one(f, &hp, optional_passes());
    }
    ag_gguf_close(f);
    return 0;
}
