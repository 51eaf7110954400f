#include "model/arch/graph.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>

#include "base/mem.h"

const ag_gop_row ag_gop_rows[AG_GOP_COUNT] = {
#define AG_GOP(name, domain, rowwise, what) [AG_GOP_##name] = {#name, what, AG_DOMAIN_##domain, rowwise},
#include "model/arch/ops.def"
#undef AG_GOP
};

void ag_graph_init(ag_graph *g, const ag_gguf *f)
{
    *g = (ag_graph){.gguf = f, .logits = -1, .states = -1, .layer = -1};
    ag_arena_init(&g->mem, AG_GRAPH_BYTES_MAX);
}

void ag_graph_fini(ag_graph *g)
{
    ag_arena_fini(&g->mem);
    ag_mem_free(g->nodes);
    ag_mem_free(g->values);
    g->nodes = NULL;
    g->values = NULL;
}

int ag_graph_check(const ag_graph *g, ag_err *err)
{
    if (g->err.code == AG_OK) return AG_OK;
    return ag_err_set(err, g->err.code, "%s", g->err.text);
}

void ag_graph_fail(ag_graph *g, int code, const char *fmt, ...)
{
    char text[sizeof g->err.text];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    ag_err_set(&g->err, code, "%s", text);
}

static void fail_nomem(ag_graph *g)
{
    ag_graph_fail(g, AG_E_NOMEM, "no memory for the graph of %s", ag_gguf_path(g->gguf));
}

/* A place to write to when the real one could not be had; what lands there is never read, since the graph has
 * failed. */
static ag_node *node_nowhere(void)
{
    static _Thread_local ag_node n;
    return &n;
}

ag_node *ag_graph_node_add(ag_graph *g, ag_gop op)
{
    if (g->n_nodes == g->cap_nodes) {
        uint32_t cap = g->cap_nodes ? g->cap_nodes * 2 : 256;
        ag_node *p = ag_mem_resize(g->nodes, cap, sizeof *p);
        if (p == NULL) {
            fail_nomem(g);
            return node_nowhere();
        }
        g->nodes = p;
        g->cap_nodes = cap;
    }
    ag_node *n = &g->nodes[g->n_nodes++];
    *n = (ag_node){.op = op,
                   .in = {-1, -1, -1},
                   .out = -1,
                   .residual = -1,
                   .qout = -1,
                   .rope = -1,
                   .rope_k = -1,
                   .layer = g->layer};
    return n;
}

ag_vid ag_graph_value_add(ag_graph *g, uint32_t width)
{
    if (g->n_values == g->cap_values) {
        uint32_t cap = g->cap_values ? g->cap_values * 2 : 256;
        ag_value *p = ag_mem_resize(g->values, cap, sizeof *p);
        if (p == NULL) {
            fail_nomem(g);
            return -1;
        }
        g->values = p;
        g->cap_values = cap;
    }
    g->values[g->n_values] = (ag_value){.width = width, .base = -1};
    return (ag_vid)g->n_values++;
}

ag_vid ag_graph_base(const ag_graph *g, ag_vid v, uint32_t *offset)
{
    uint32_t at = 0;
    while (g->values[v].base >= 0) {
        at += g->values[v].offset;
        v = g->values[v].base;
    }
    if (offset) *offset = at;
    return v;
}

/* The full name of a tensor of the layer being built. */
static const char *full_name(const ag_graph *g, const char *name, const char *suffix, char buf[AG_GGUF_NAME_MAX])
{
    if (g->layer >= 0)
        snprintf(buf, AG_GGUF_NAME_MAX, "blk.%d.%s%s", g->layer, name, suffix);
    else
        snprintf(buf, AG_GGUF_NAME_MAX, "%s%s", name, suffix);
    return buf;
}

static const ag_gguf_tensor *tensor_find(const ag_graph *g, const char *name, const char *suffix)
{
    char full[AG_GGUF_NAME_MAX];
    return ag_gguf_tensor_find(g->gguf, full_name(g, name, suffix, full));
}

bool ag_graph_has(const ag_graph *g, const char *name) { return tensor_find(g, name, "") != NULL; }

/* A tensor of rows x k (rows 1 for a vector); NULL with the graph failed. */
static const ag_gguf_tensor *tensor_need(ag_graph *g, const char *name, const char *suffix, uint64_t k, uint64_t rows)
{
    char full[AG_GGUF_NAME_MAX];
    const ag_gguf_tensor *t = ag_gguf_tensor_find(g->gguf, full_name(g, name, suffix, full));
    if (t == NULL) {
        ag_graph_fail(g, AG_E_FILE, "%s: tensor \"%s\" is missing", ag_gguf_path(g->gguf), full);
        return NULL;
    }
    if (t->dim[0] != k || t->dim[1] != rows || t->dim[2] != 1 || t->dim[3] != 1) {
        ag_graph_fail(g, AG_E_FILE,
                      "%s: tensor \"%s\" is %" PRIu64 " x %" PRIu64 " x %" PRIu64 " x %" PRIu64
                      ", where the model's keys ask for %" PRIu64 " x %" PRIu64,
                      ag_gguf_path(g->gguf), full, t->dim[0], t->dim[1], t->dim[2], t->dim[3], k, rows);
        return NULL;
    }
    return t;
}

static const float *vector_of(ag_graph *g, const ag_gguf_tensor *t)
{
    float *p = ag_arena_array(&g->mem, t->dim[0], sizeof *p);
    if (p == NULL) {
        fail_nomem(g);
        return NULL;
    }
    ag_quant_dequantize(t->type, t->data, p, t->dim[0]);
    return p;
}

const float *ag_graph_vector(ag_graph *g, const char *name, uint32_t n)
{
    const ag_gguf_tensor *t = tensor_need(g, name, "", n, 1);
    return t ? vector_of(g, t) : NULL;
}

void ag_graph_layer(ag_graph *g, int32_t layer)
{
    g->layer = layer;
    if (layer >= 0 && (uint32_t)layer >= g->layers) g->layers = (uint32_t)layer + 1;
}

static uint32_t width_of(const ag_graph *g, ag_vid v)
{
    return v >= 0 && (uint32_t)v < g->n_values ? g->values[v].width : 0;
}

static ag_vid in_rows(ag_graph *g, ag_vid v, ag_row_set rows)
{
    if (v >= 0) g->values[v].rows = rows;
    return v;
}

/* A node with one input, and its output of `width`, of the same rows. */
static ag_node *node_unary(ag_graph *g, ag_gop op, ag_vid x, uint32_t width)
{
    ag_vid out = in_rows(g, ag_graph_value_add(g, width), x >= 0 ? g->values[x].rows : AG_ROWS_ALL);
    ag_node *n = ag_graph_node_add(g, op);
    n->in[0] = x;
    n->out = out;
    return n;
}

ag_vid ag_graph_embed(ag_graph *g, const char *weight, uint32_t width, uint32_t vocab)
{
    g->embedding = tensor_need(g, weight, ".weight", width, vocab);
    ag_node *n = node_unary(g, AG_GOP_EMBED, -1, width);
    n->w[0] = (ag_weight){.t = g->embedding, .rows = vocab, .k = width, .pack = -1};
    n->n_w = 1;
    return n->out;
}

ag_vid ag_graph_norm(ag_graph *g, ag_vid x, const char *weight, float eps)
{
    return ag_graph_head_norm(g, x, weight, 1, width_of(g, x), eps);
}

ag_vid ag_graph_head_norm(ag_graph *g, ag_vid x, const char *weight, uint32_t heads, uint32_t dim, float eps)
{
    const ag_gguf_tensor *t = tensor_need(g, weight, ".weight", dim, 1);
    ag_node *n = node_unary(g, AG_GOP_NORM, x, width_of(g, x));
    n->vec = t ? vector_of(g, t) : NULL;
    n->heads = heads;
    n->dim_k = dim;
    n->eps = eps;
    return n->out;
}

ag_vid ag_graph_linear(ag_graph *g, ag_vid x, const char *weight, uint32_t rows)
{
    uint32_t k = width_of(g, x);
    const ag_gguf_tensor *t = tensor_need(g, weight, ".weight", k, rows);
    const ag_gguf_tensor *b = tensor_find(g, weight, ".bias");
    if (b) b = tensor_need(g, weight, ".bias", rows, 1);
    ag_node *n = node_unary(g, AG_GOP_MATMUL, x, rows);
    n->w[0] = (ag_weight){.t = t, .rows = rows, .k = k, .pack = -1};
    n->n_w = 1;
    ag_vid y = n->out;
    if (b) {
        n = node_unary(g, AG_GOP_BIAS, y, rows);
        n->vec = vector_of(g, b);
        y = n->out;
    }
    return y;
}

ag_vid ag_graph_add(ag_graph *g, ag_vid a, ag_vid b)
{
    ag_node *n = node_unary(g, AG_GOP_ADD, a, width_of(g, a));
    n->in[1] = b;
    return n->out;
}

ag_vid ag_graph_scale(ag_graph *g, ag_vid x, float s)
{
    ag_node *n = node_unary(g, AG_GOP_SCALE, x, width_of(g, x));
    n->scale = s;
    return n->out;
}

ag_vid ag_graph_softcap(ag_graph *g, ag_vid x, float cap)
{
    ag_node *n = node_unary(g, AG_GOP_SOFTCAP, x, width_of(g, x));
    n->softcap = cap;
    return n->out;
}

ag_vid ag_graph_glu(ag_graph *g, ag_vid gate, ag_vid up, ag_glu_fn f)
{
    ag_node *n = node_unary(g, AG_GOP_GLU, gate, width_of(g, gate));
    n->in[1] = up;
    n->glu = f;
    return n->out;
}

ag_vid ag_graph_view(ag_graph *g, ag_vid x, uint32_t offset, uint32_t width)
{
    ag_vid v = ag_graph_value_add(g, width);
    if (v >= 0 && x >= 0) {
        AG_ASSERT(g->err.code != AG_OK || offset + width <= width_of(g, x));
        g->values[v].base = x;
        g->values[v].offset = offset;
    }
    return v;
}

ag_vid ag_graph_rope(ag_graph *g, ag_vid x, uint32_t heads, uint32_t dim, int32_t rope)
{
    ag_node *n = node_unary(g, AG_GOP_ROPE, x, width_of(g, x));
    n->heads = heads;
    n->dim_k = dim;
    n->rope = rope;
    return n->out;
}

ag_vid ag_graph_attention(ag_graph *g, ag_vid q, ag_vid k, ag_vid v, uint32_t heads, uint32_t kv_heads, uint32_t dim_k,
                          uint32_t dim_v, float scale, uint32_t window, float softcap)
{
    g->kv_heads = kv_heads;
    g->dim_k = dim_k;
    g->dim_v = dim_v;
    ag_node *s = ag_graph_node_add(g, AG_GOP_KV_STORE);
    s->in[1] = k;
    s->in[2] = v;
    s->heads = heads;
    s->kv_heads = kv_heads;
    s->dim_k = dim_k;
    s->dim_v = dim_v;
    ag_node *n = node_unary(g, AG_GOP_ATTENTION, q, heads * dim_v);
    n->heads = heads;
    n->kv_heads = kv_heads;
    n->dim_k = dim_k;
    n->dim_v = dim_v;
    n->scale = scale;
    n->window = window;
    n->softcap = softcap;
    return n->out;
}

/* The states are normed once more for themselves, since a norm that only feeds a product need not be waited for. */
void ag_graph_output(ag_graph *g, ag_vid x, const char *norm, const char *weight, uint32_t vocab, float eps,
                     float scale, float softcap)
{
    ag_graph_layer(g, -1);
    ag_vid out = in_rows(g, node_unary(g, AG_GOP_SELECT, x, width_of(g, x))->out, AG_ROWS_OUT);
    x = in_rows(g, ag_graph_norm(g, out, norm, eps), AG_ROWS_LOGITS);
    if (tensor_find(g, weight, ".weight")) {
        x = ag_graph_linear(g, x, weight, vocab);
    } else { /* tied: the embedding table */
        ag_node *n = node_unary(g, AG_GOP_MATMUL, x, vocab);
        n->w[0] = (ag_weight){
            .t = g->embedding, .rows = vocab, .k = g->embedding ? (uint32_t)g->embedding->dim[0] : 0, .pack = -1};
        n->n_w = 1;
        x = n->out;
    }
    if (scale != 1) x = ag_graph_scale(g, x, scale);
    if (softcap != 0) x = ag_graph_softcap(g, x, softcap);
    g->logits = x;
    g->states = in_rows(g, ag_graph_norm(g, out, norm, eps), AG_ROWS_STATES);
}

int32_t ag_graph_rope_add(ag_graph *g, uint32_t n_rot, bool interleaved, float mscale, double *inv_freq)
{
    if (inv_freq == NULL) {
        fail_nomem(g);
        return -1;
    }
    AG_ASSERT(g->n_ropes < AG_ARRAY_LEN(g->ropes));
    g->ropes[g->n_ropes] =
        (ag_rope){.n_rot = n_rot, .interleaved = interleaved, .mscale = mscale, .inv_freq = inv_freq};
    return (int32_t)g->n_ropes++;
}

static void print_value(const ag_graph *g, ag_vid v, ag_buf *out)
{
    if (v < 0) return;
    static const char *const rows[] = {
        [AG_ROWS_ALL] = "", [AG_ROWS_OUT] = "out x ", [AG_ROWS_LOGITS] = "logits x ", [AG_ROWS_STATES] = "states x "};
    const ag_value *x = &g->values[v];
    if (x->base >= 0)
        ag_buf_addf(out, "%%%d=%%%d[%u:%u]", v, x->base, x->offset, x->offset + x->width);
    else
        ag_buf_addf(out, "%%%d[%s%u%s]", v, rows[x->rows], x->width, x->quantized ? " q8" : "");
}

static void print_node(const ag_graph *g, const ag_node *n, ag_buf *out)
{
    ag_buf_addf(out, "  %-10s", ag_gop_rows[n->op].name);
    print_value(g, n->out, out);
    if (n->qout >= 0) {
        if (n->out >= 0) ag_buf_addz(out, " + ");
        print_value(g, n->qout, out);
    }
    ag_buf_addz(out, " <-");
    for (int i = 0; i < AG_NODE_INPUTS_MAX; i++)
        if (n->in[i] >= 0) {
            ag_buf_addc(out, ' ');
            print_value(g, n->in[i], out);
        }
    for (uint32_t i = 0; i < n->n_w; i++) {
        const ag_weight *w = &n->w[i];
        if (w->t == NULL) continue;
        const ag_quant_row *q = ag_quant_find(w->t->type);
        ag_buf_addf(out, "%s %.*s", i ? "," : "  weights", (int)w->t->name.n, w->t->name.p);
        if (w->rows != w->t->dim[1]) ag_buf_addf(out, "[%u:%u]", w->row0, w->row0 + w->rows);
        ag_buf_addf(out, " %s%s", q ? q->name : "?", w->bias ? "+bias" : "");
    }
    if (n->glu != AG_GLU_NONE) ag_buf_addf(out, "  %s", n->glu == AG_GLU_SILU ? "silu(gate)*up" : "gelu(gate)*up");
    if (n->residual >= 0) {
        ag_buf_addz(out, "  + ");
        print_value(g, n->residual, out);
    }
    if (n->op == AG_GOP_KV_STORE && n->in[0] >= 0)
        ag_buf_addf(out, "  %s%s", n->vec ? "head norms, " : "", n->rope >= 0 ? "rope" : "no rope");
    if (n->window) ag_buf_addf(out, "  window %u", n->window);
    ag_buf_addc(out, '\n');
}

void ag_graph_print(const ag_graph *g, ag_buf *out)
{
    for (uint32_t i = 0; i < g->n_nodes; i++) {
        const ag_node *n = &g->nodes[i];
        if (n->layer > 0 && (uint32_t)n->layer + 1 < g->layers) {
            if (i > 0 && g->nodes[i - 1].layer == 0) ag_buf_addf(out, "  … layers 1 to %u alike\n", g->layers - 2);
            continue;
        }
        print_node(g, n, out);
    }
}
