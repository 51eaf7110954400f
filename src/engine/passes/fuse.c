/* Fusions: fewer operations, fewer barriers, fewer trips of activations through memory. Each looks at one shape of
 * neighbours and leaves everything else alone. */
#include "engine/passes/passes.h"

static bool plain_matmul(const ag_node *n)
{
    return n->op == AG_GOP_MATMUL && n->glu == AG_GLU_NONE && n->residual < 0;
}

/* The live node that makes v (not a view), with v read nowhere else; NULL otherwise. */
static ag_node *sole_maker(ag_graph *g, const ag_links *k, ag_vid v)
{
    if (v < 0 || g->values[v].base >= 0 || k->uses[v] != 1 || k->maker[v] < 0) return NULL;
    ag_node *n = &g->nodes[k->maker[v]];
    return ag_node_dead(n) || n->out != v ? NULL : n;
}

int ag__pass_fuse_bias(ag_plan *p, ag_err *err)
{
    ag_graph *g = p->graph;
    ag_links k;
    int rc = ag_links_make(&k, g, err);
    if (rc) return rc;
    for (uint32_t i = 0; i < g->n_nodes; i++) {
        ag_node *b = &g->nodes[i];
        if (b->op != AG_GOP_BIAS) continue;
        ag_node *m = sole_maker(g, &k, b->in[0]);
        if (m == NULL || !plain_matmul(m) || m->n_w != 1 || m->w[0].bias) continue;
        m->w[0].bias = b->vec;
        ag_graph_replace(g, b->out, m->out);
        k.maker[b->out] = -1;
        k.uses[m->out] = k.uses[b->out];
        ag_node_kill(b);
    }
    ag_graph_compact(g);
    ag_links_fini(&k);
    return AG_OK;
}

/* The part of a plain product's weights that makes value v, when v is the whole product or a view of it. */
static ag_node *product_part(ag_graph *g, const ag_links *k, ag_vid v, ag_weight *out)
{
    uint32_t offset;
    ag_vid base = ag_graph_base(g, v, &offset);
    if (k->maker[base] < 0) return NULL;
    ag_node *m = &g->nodes[k->maker[base]];
    if (ag_node_dead(m) || !plain_matmul(m) || m->n_w != 1 || m->w[0].t == NULL) return NULL;
    *out = m->w[0];
    out->row0 += offset;
    out->rows = g->values[v].width;
    if (out->bias) out->bias += offset;
    return m;
}

int ag__pass_fuse_glu(ag_plan *p, ag_err *err)
{
    ag_graph *g = p->graph;
    ag_links k;
    int rc = ag_links_make(&k, g, err);
    if (rc) return rc;
    for (uint32_t i = 0; i < g->n_nodes; i++) {
        ag_node *n = &g->nodes[i];
        if (n->op != AG_GOP_GLU || k.uses[n->in[0]] != 1 || k.uses[n->in[1]] != 1) continue;
        ag_weight gate, up;
        ag_node *a = product_part(g, &k, n->in[0], &gate), *b = product_part(g, &k, n->in[1], &up);
        if (a == NULL || b == NULL || a->in[0] != b->in[0] || gate.t->type != up.t->type) continue;
        ag_vid ga = ag_graph_base(g, n->in[0], NULL), gb = ag_graph_base(g, n->in[1], NULL);
        if (a == b ? k.uses[ga] != 2 : k.uses[ga] != 1 || k.uses[gb] != 1) continue;
        n->op = AG_GOP_MATMUL;
        n->in[0] = a->in[0];
        n->in[1] = -1;
        n->w[0] = gate;
        n->w[1] = up;
        n->n_w = 2;
        ag_node_kill(a);
        if (b != a) ag_node_kill(b);
    }
    ag_graph_compact(g);
    ag_links_fini(&k);
    return AG_OK;
}

/* Joins product b into a: one value, of which the two old ones are views. */
static bool merge_products(ag_graph *g, ag_node *a, ag_node *b)
{
    ag_vid joined = a->out;
    if (a->n_w == 1) { /* first merge: a's old value becomes a view */
        uint32_t ia = (uint32_t)(a - g->nodes), ib = (uint32_t)(b - g->nodes);
        joined = ag_graph_value_add(g, g->values[a->out].width);
        if (joined < 0) return false;
        a = &g->nodes[ia];
        b = &g->nodes[ib];
        g->values[joined].rows = g->values[a->out].rows;
        g->values[a->out].base = joined;
        g->values[a->out].offset = 0;
        a->out = joined;
    }
    g->values[b->out].base = joined;
    g->values[b->out].offset = g->values[joined].width;
    g->values[joined].width += g->values[b->out].width;
    for (uint32_t i = 0; i < b->n_w; i++) a->w[a->n_w++] = b->w[i];
    ag_node_kill(b);
    return true;
}

int ag__pass_fuse_qkv(ag_plan *p, ag_err *err)
{
    ag_graph *g = p->graph;
    (void)err;
    for (uint32_t i = 0; i < g->n_nodes; i++) {
        if (!plain_matmul(&g->nodes[i])) continue;
        for (uint32_t j = i + 1; j < g->n_nodes; j++) {
            ag_node *a = &g->nodes[i], *b = &g->nodes[j];
            if (ag_node_dead(b)) continue;
            if (b->layer != a->layer) break;
            if (!plain_matmul(b) || b->in[0] != a->in[0] || b->out == g->logits || a->out == g->logits ||
                a->n_w + b->n_w > AG_NODE_WEIGHTS_MAX)
                continue;
            if (!merge_products(g, a, b)) break;
        }
    }
    ag_graph_compact(g);
    return AG_OK;
}

int ag__pass_fuse_residual(ag_plan *p, ag_err *err)
{
    ag_graph *g = p->graph;
    ag_links k;
    int rc = ag_links_make(&k, g, err);
    if (rc) return rc;
    for (uint32_t i = 0; i < g->n_nodes; i++) {
        ag_node *n = &g->nodes[i];
        if (n->op != AG_GOP_ADD) continue;
        for (int j = 0; j < 2; j++) {
            ag_node *m = sole_maker(g, &k, n->in[1 - j]); /* the second term first: families write x + f(x) */
            ag_vid other = n->in[j];
            bool fits = m && m->residual < 0 && m->qout < 0 &&
                        ((m->op == AG_GOP_MATMUL && m->glu == AG_GLU_NONE && m->n_w == 1) ||
                         (m->op == AG_GOP_NORM && m->heads == 1));
            /* The other term must exist before the product runs. */
            if (!fits || g->values[other].base >= 0 || k.maker[other] < 0 || &g->nodes[k.maker[other]] > m) continue;
            m->residual = other;
            ag_graph_replace(g, n->out, m->out);
            k.maker[n->out] = -1;
            k.uses[m->out] = k.uses[n->out];
            ag_node_kill(n);
            break;
        }
    }
    ag_graph_compact(g);
    ag_links_fini(&k);
    return AG_OK;
}

/* v = rope(head_norm(x)) with either part optional: x, and what was found. */
static ag_vid unwrap_heads(ag_graph *g, const ag_links *k, ag_vid v, ag_node **rope, ag_node **norm)
{
    *rope = *norm = NULL;
    ag_node *n = sole_maker(g, k, v);
    if (n && n->op == AG_GOP_ROPE) {
        *rope = n;
        v = n->in[0];
        n = sole_maker(g, k, v);
    }
    if (*rope && n && n->op == AG_GOP_NORM && n->dim_k == (*rope)->dim_k && n->heads == (*rope)->heads &&
        n->residual < 0) {
        *norm = n;
        v = n->in[0];
    }
    return v;
}

int ag__pass_fuse_heads(ag_plan *p, ag_err *err)
{
    ag_graph *g = p->graph;
    ag_links k;
    int rc = ag_links_make(&k, g, err);
    if (rc) return rc;
    for (uint32_t i = 0; i + 1 < g->n_nodes; i++) {
        ag_node *s = &g->nodes[i], *a = &g->nodes[i + 1];
        if (s->op != AG_GOP_KV_STORE || a->op != AG_GOP_ATTENTION || s->in[0] >= 0) continue;
        ag_node *qr, *qn, *kr, *kn;
        ag_vid q = unwrap_heads(g, &k, a->in[0], &qr, &qn), key = unwrap_heads(g, &k, s->in[1], &kr, &kn);
        /* q is rotated in place, so nobody else may want it as it was; sole use is what unwrap checked above it. */
        if (!qr || !kr || k.uses[q] != 1 || (qn == NULL) != (kn == NULL) || (qn && qn->eps != kn->eps)) continue;
        s->in[0] = q;
        s->in[1] = key;
        s->rope = qr->rope;
        s->rope_k = kr->rope;
        if (qn) {
            s->vec = qn->vec;
            s->vec2 = kn->vec;
            s->eps = qn->eps;
            ag_node_kill(qn);
            ag_node_kill(kn);
        }
        ag_node_kill(qr);
        ag_node_kill(kr);
        a->in[0] = q;
    }
    ag_graph_compact(g);
    ag_links_fini(&k);
    return AG_OK;
}
