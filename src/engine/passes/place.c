/* Stages and memory. Lifetimes are counted in stages, since within one the rows of several nodes run at once. */
#include "base/mem.h"
#include "engine/passes/passes.h"

static ag_row_set node_rows(const ag_graph *g, const ag_node *n)
{
    ag_vid v = n->out >= 0 ? n->out : n->qout >= 0 ? n->qout : n->in[1];
    return v >= 0 ? g->values[v].rows : AG_ROWS_ALL;
}

int ag__pass_schedule(ag_plan *p, ag_err *err)
{
    ag_graph *g = p->graph;
    ag_mem_free(p->stages);
    p->n_stages = 0;
    p->stages = ag_mem_array(g->n_nodes + 1, sizeof *p->stages);
    if (p->stages == NULL) return ag_err_set(err, AG_E_NOMEM, "no memory to schedule the graph");
    for (uint32_t i = 0; i < g->n_nodes; i++) {
        ag_domain d = ag_gop_rows[g->nodes[i].op].domain;
        ag_row_set rows = node_rows(g, &g->nodes[i]);
        ag_stage *last = p->n_stages ? &p->stages[p->n_stages - 1] : NULL;
        /* SELECT reads rows that other workers may just have made, so it begins a stage of its own. */
        bool joins = last && d == AG_DOMAIN_ROWS && last->domain == d && last->rows == rows &&
                     g->nodes[i].op != AG_GOP_SELECT;
        if (!joins && last && g->nodes[i].op == AG_GOP_SELECT && g->nodes[i - 1].op == AG_GOP_SELECT) joins = true;
        if (joins) last->n++;
        else p->stages[p->n_stages++] = (ag_stage){.node = i, .n = 1, .domain = d, .rows = rows};
    }
    return AG_OK;
}

static bool reads(const ag_graph *g, const ag_node *n, ag_vid v)
{
    ag_vid read[] = {n->in[0], n->in[1], n->in[2], n->residual};
    for (size_t j = 0; j < AG_ARRAY_LEN(read); j++)
        if (read[j] >= 0 && ag_graph_base(g, read[j], NULL) == v) return true;
    return false;
}

/* Whether value v, made in stage s, is read there and in the next stage alone. */
static bool read_nearby(const ag_plan *p, uint32_t s, ag_vid v)
{
    const ag_graph *g = p->graph;
    if (v < 0) return true;
    if (g->values[v].base >= 0 || v == g->states || ag_graph_base(g, g->logits, NULL) == v) return false;
    uint32_t from = p->stages[s].node, to = p->stages[s + 1].node + p->stages[s + 1].n;
    for (uint32_t i = 0; i < g->n_nodes; i++) {
        if (i >= from && i < to) continue;
        if (reads(g, &g->nodes[i], v)) return false;
    }
    return true;
}

int ag__pass_repeat(ag_plan *p, ag_err *err)
{
    (void)err;
    for (uint32_t s = 0; s + 1 < p->n_stages; s++) {
        ag_stage *a = &p->stages[s], *b = &p->stages[s + 1];
        a->repeat = a->domain == AG_DOMAIN_ROWS && b->domain == AG_DOMAIN_TILES && a->rows == b->rows;
        for (uint32_t i = a->node; i < a->node + a->n && a->repeat; i++) {
            const ag_node *n = &p->graph->nodes[i];
            a->repeat = n->op != AG_GOP_EMBED && read_nearby(p, s, n->out) && read_nearby(p, s, n->qout);
        }
    }
    return AG_OK;
}

typedef struct life { uint32_t from, to; uint64_t bytes; } life;

static void touch(const ag_graph *g, life *lives, ag_vid v, uint32_t stage)
{
    if (v < 0) return;
    v = ag_graph_base(g, v, NULL);
    lives[v].from = AG_MIN(lives[v].from, stage);
    lives[v].to = AG_MAX(lives[v].to, stage);
}

static void find_lives(const ag_plan *p, life *lives)
{
    const ag_graph *g = p->graph;
    for (uint32_t v = 0; v < g->n_values; v++) {
        const ag_value *x = &g->values[v];
        uint64_t rows = ag_value_rows(p, x);
        uint64_t bytes = x->quantized ? ag_act_bytes(x->width, (uint32_t)rows)
                                      : rows * ag_value_stride(x) * sizeof(float);
        lives[v] = (life){.from = UINT32_MAX, .bytes = AG_ALIGN_UP(bytes, 64)};
    }
    for (uint32_t s = 0; s < p->n_stages; s++)
        for (uint32_t i = p->stages[s].node; i < p->stages[s].node + p->stages[s].n; i++) {
            const ag_node *n = &g->nodes[i];
            /* A worker that is late repeats its stage while others are at the next one already. */
            uint32_t read = s + p->stages[s].repeat;
            for (int j = 0; j < AG_NODE_INPUTS_MAX; j++) touch(g, lives, n->in[j], read);
            touch(g, lives, n->residual, read);
            touch(g, lives, n->out, s);
            touch(g, lives, n->qout, s);
        }
    touch(g, lives, g->logits, p->n_stages); /* read after the last stage */
    touch(g, lives, g->states, p->n_stages);
}

/* A value made where an input of the same shape is read for the last time may stand in its place, when each element of
 * the output needs only the same element of that input. */
static ag_vid in_place_of(const ag_plan *p, const life *lives, uint32_t node, uint32_t stage)
{
    const ag_graph *g = p->graph;
    const ag_node *n = &g->nodes[node];
    ag_vid v = n->residual >= 0 ? n->residual
               : n->op == AG_GOP_ADD || n->op == AG_GOP_SCALE || n->op == AG_GOP_BIAS || n->op == AG_GOP_SOFTCAP
                   ? n->in[0]
                   : -1;
    if (v < 0 || n->out < 0) return -1;
    /* a product reads all of its input for each element */
    for (int j = 0; v == n->residual && j < AG_NODE_INPUTS_MAX; j++)
        if (n->in[j] >= 0 && ag_graph_base(g, n->in[j], NULL) == v) return -1;
    const ag_value *a = &g->values[v], *b = &g->values[n->out];
    for (uint32_t i = node + 1; i < g->n_nodes; i++) /* later nodes of the stage must not read it either */
        if (reads(g, &g->nodes[i], v)) return -1;
    if (stage > 0 && p->stages[stage - 1].repeat) /* nor those that are repeated beside it */
        for (uint32_t i = p->stages[stage - 1].node; i < p->stages[stage].node; i++)
            if (reads(g, &g->nodes[i], v)) return -1;
    bool same = a->base < 0 && b->base < 0 && a->width == b->width && a->rows == b->rows && !a->quantized &&
                !b->quantized;
    return same && lives[v].to == stage && lives[n->out].from == stage ? v : -1;
}

/* First fit: the lowest offset at which nothing that lives at the same time stands. */
static uint64_t fit(const ag_graph *g, const life *lives, const bool *placed, uint32_t v)
{
    uint64_t at = 0;
    for (bool moved = true; moved;) {
        moved = false;
        for (uint32_t o = 0; o < g->n_values; o++) {
            if (!placed[o] || lives[o].to < lives[v].from || lives[v].to < lives[o].from) continue;
            uint64_t from = g->values[o].at, to = from + lives[o].bytes;
            if (at < to && from < at + lives[v].bytes) {
                at = to;
                moved = true;
            }
        }
    }
    return at;
}

static void place_all(ag_plan *p, life *lives, bool *placed)
{
    ag_graph *g = p->graph;
    for (uint32_t s = 0; s < p->n_stages; s++)
        for (uint32_t i = p->stages[s].node; i < p->stages[s].node + p->stages[s].n; i++) {
            ag_vid made[2] = {g->nodes[i].out, g->nodes[i].qout};
            for (int j = 0; j < 2; j++) {
                if (made[j] < 0 || g->values[made[j]].base >= 0 || placed[made[j]]) continue;
                uint32_t v = (uint32_t)made[j];
                ag_vid same = j == 0 ? in_place_of(p, lives, i, s) : -1;
                if (same >= 0) {
                    g->values[v].at = g->values[same].at;
                    placed[same] = false; /* its place is v's now */
                } else {
                    g->values[v].at = fit(g, lives, placed, v);
                }
                placed[v] = true;
                p->arena_bytes = AG_MAX(p->arena_bytes, g->values[v].at + lives[v].bytes);
            }
        }
}

int ag__pass_memory(ag_plan *p, ag_err *err)
{
    ag_graph *g = p->graph;
    life *lives = ag_mem_array(g->n_values + 1, sizeof *lives);
    bool *placed = ag_mem_array(g->n_values + 1, sizeof *placed);
    int rc = lives && placed ? AG_OK : ag_err_set(err, AG_E_NOMEM, "no memory to plan the activations");
    if (rc == AG_OK) {
        find_lives(p, lives);
        p->arena_bytes = 0;
        place_all(p, lives, placed);
    }
    ag_mem_free(lives);
    ag_mem_free(placed);
    return rc;
}
