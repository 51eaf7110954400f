/* Stages by rows: each item is one token's row, taken through all nodes of the stage. */
#include <math.h>

#include "engine/exec.h"

static void run_embed(const ag_backend *b, const ag_node *n, uint32_t row)
{
    const ag_gguf_tensor *t = n->w[0].t;
    const ag_quant_row *q = ag_quant_find(t->type);
    uint64_t bytes = t->dim[0] / q->block * q->bytes;
    uint64_t id = (uint32_t)b->batch->tokens[row];
    AG_ASSERT(id < t->dim[1]);
    ag_quant_dequantize(t->type, (const unsigned char *)t->data + id * bytes, ag__exec_row(b, n->out, row), t->dim[0]);
}

static void run_norm(const ag_backend *b, const ag_node *n, uint32_t row, float *tmp)
{
    const float *x = ag__exec_row(b, n->in[0], row);
    float *y = ag__exec_row(b, n->out, row);
    uint32_t width = n->heads * n->dim_k;
    float *normed = n->residual >= 0 ? tmp : y; /* y may be the residual's own place */
    for (uint32_t h = 0; h < n->heads; h++)
        b->ops->rms_norm(normed + (size_t)h * n->dim_k, x + (size_t)h * n->dim_k, n->vec, n->dim_k, n->eps);
    if (n->residual >= 0) {
        const float *r = ag__exec_row(b, n->residual, row);
        if (r != y) memcpy(y, r, width * sizeof *y);
        b->ops->add(y, tmp, width);
    }
    if (n->qout >= 0) {
        ag_act a = ag__exec_act(b, n->qout);
        b->ops->quantize(&a, row, y);
    }
}

static void rope_head(const ag_backend *b, float *x, int32_t rope, uint32_t row)
{
    const ag_rope *r = &b->g->ropes[rope];
    const float *cs = b->rope[rope] + (size_t)row * r->n_rot;
    b->ops->rope(x, cs, cs + r->n_rot / 2, r->n_rot, r->interleaved);
}

static void run_rope(const ag_backend *b, const ag_node *n, uint32_t row)
{
    const float *x = ag__exec_row(b, n->in[0], row);
    float *y = ag__exec_row(b, n->out, row);
    memcpy(y, x, (size_t)n->heads * n->dim_k * sizeof *y);
    for (uint32_t h = 0; h < n->heads; h++) rope_head(b, y + (size_t)h * n->dim_k, n->rope, row);
}

static void run_select(const ag_backend *b, const ag_node *n, uint32_t row)
{
    memcpy(ag__exec_row(b, n->out, row), ag__exec_row(b, n->in[0], b->batch->out_rows[row]), b->g->values[n->out].width * sizeof(float));
}

/* y = x to begin an operation in y's place; nothing to do where the memory pass gave both the same. */
static float *copy_in(const ag_backend *b, const ag_node *n, uint32_t row)
{
    float *y = ag__exec_row(b, n->out, row);
    const float *x = ag__exec_row(b, n->in[0], row);
    if (x != y) memcpy(y, x, b->g->values[n->out].width * sizeof *y);
    return y;
}

static void run_row(const ag_backend *b, const ag_node *n, uint32_t row, float *tmp)
{
    uint32_t width = b->g->values[n->out].width;
    switch (n->op) {
    case AG_GOP_EMBED: run_embed(b, n, row); break;
    case AG_GOP_NORM: run_norm(b, n, row, tmp); break;
    case AG_GOP_BIAS: b->ops->add(copy_in(b, n, row), n->vec, width); break;
    case AG_GOP_ADD: b->ops->add(copy_in(b, n, row), ag__exec_row(b, n->in[1], row), width); break;
    case AG_GOP_SCALE: b->ops->scale(copy_in(b, n, row), n->scale, width); break;
    case AG_GOP_SOFTCAP: b->ops->softcap(copy_in(b, n, row), n->softcap, width); break;
    case AG_GOP_GLU:
        b->ops->glu(ag__exec_row(b, n->out, row), ag__exec_row(b, n->in[0], row), ag__exec_row(b, n->in[1], row), width,
                    n->glu == AG_GLU_SILU ? AG_ACT_SILU : AG_ACT_GELU_TANH);
        break;
    case AG_GOP_ROPE: run_rope(b, n, row); break;
    case AG_GOP_SELECT: run_select(b, n, row); break;
    case AG_GOP_QUANTIZE: {
        ag_act a = ag__exec_act(b, n->out);
        b->ops->quantize(&a, row, ag__exec_row(b, n->in[0], row));
        break;
    }
    default: AG_ASSERT(!"an operation that is not by rows");
    }
}

void ag__exec_rows(void *backend, uint32_t worker, uint32_t from, uint32_t to)
{
    const ag_backend *b = backend;
    const ag_stage *s = b->stage;
    for (uint32_t row = from; row < to; row++)
        for (uint32_t i = s->node; i < s->node + s->n; i++) run_row(b, &b->g->nodes[i], row, ag__exec_scratch(b, worker));
}

/* Angles in double: at position 100,000 a float has lost the digits that tell neighbours apart. */
void ag__exec_ropes(void *backend, uint32_t worker, uint32_t from, uint32_t to)
{
    (void)worker;
    const ag_backend *b = backend;
    for (uint32_t row = from; row < to; row++) {
        double pos = ag__exec_pos(b, row);
        for (uint32_t i = 0; i < b->g->n_ropes; i++) {
            const ag_rope *r = &b->g->ropes[i];
            float *cs = b->rope[i] + (size_t)row * r->n_rot;
            for (uint32_t j = 0; j < r->n_rot / 2; j++) {
                double sine, cosine;
                sincos(pos * r->inv_freq[j], &sine, &cosine);
                cs[j] = (float)(cosine * r->mscale);
                cs[j + r->n_rot / 2] = (float)(sine * r->mscale);
            }
        }
    }
}

/* One head of q (in place) or of k (with its value into the cache). Items: rows x (heads + kv_heads); without fusion q is
 * left alone. */
void ag__exec_heads(void *backend, uint32_t worker, uint32_t from, uint32_t to)
{
    const ag_backend *b = backend;
    const ag_node *n = &b->g->nodes[b->stage->node];
    uint32_t heads = n->in[0] >= 0 ? n->heads : 0, all = heads + n->kv_heads;
    size_t layer = (size_t)n->layer * (b->k_page + b->v_page);
    for (uint32_t i = from; i < to; i++) {
        uint32_t row = i / all, h = i % all;
        if (h < heads) {
            float *q = ag__exec_row(b, n->in[0], row) + (size_t)h * n->dim_k;
            if (n->vec) b->ops->rms_norm(q, q, n->vec, n->dim_k, n->eps);
            rope_head(b, q, n->rope, row);
            continue;
        }
        h -= heads;
        float *k = ag__exec_row(b, n->in[1], row) + (size_t)h * n->dim_k;
        const float *v = ag__exec_row(b, n->in[2], row) + (size_t)h * n->dim_v;
        if (n->in[0] >= 0) {
            float *copy = ag__exec_scratch(b, worker);
            memcpy(copy, k, n->dim_k * sizeof *k);
            k = copy;
            if (n->vec2) b->ops->rms_norm(k, k, n->vec2, n->dim_k, n->eps);
            rope_head(b, k, n->rope_k, row);
        }
        uint32_t pos = ag__exec_pos(b, row);
        uint32_t page = b->batch->spans[b->row_span[row]].pages[pos / AG_KV_PAGE];
        AG_ASSERT(page < b->pages);
        size_t at = layer + page * b->page_stride;
        void *kp = b->kv + (at + (size_t)h * n->dim_k * AG_KV_PAGE) * b->number;
        void *vp = b->kv + (at + b->k_page + (size_t)h * n->dim_v * AG_KV_PAGE) * b->number;
        if (b->kv_f32) ag_cpu_kv_store_f32(kp, vp, pos % AG_KV_PAGE, k, v, n->dim_k, n->dim_v);
        else b->ops->kv_store(kp, vp, pos % AG_KV_PAGE, k, v, n->dim_k, n->dim_v);
    }
}

/* Items: pieces x kv heads, the longest (last positions) first, so that no worker is left with a long one at the end. */
void ag__exec_attn(void *backend, uint32_t worker, uint32_t from, uint32_t to)
{
    const ag_backend *b = backend;
    const ag_node *n = &b->g->nodes[b->stage->node];
    size_t layer = (size_t)n->layer * (b->k_page + b->v_page);
    uint32_t group = n->heads / n->kv_heads;
    for (uint32_t i = from; i < to; i++) {
        const ag_piece *p = &b->pieces[b->n_pieces - 1 - i / n->kv_heads];
        const ag_span *s = &b->batch->spans[p->span];
        uint32_t h = i % n->kv_heads, row = s->row + p->from;
        ag_attn a = {
            .q = ag__exec_row(b, n->in[0], row) + (size_t)h * group * n->dim_k,
            .q_stride = ag__exec_stride(b, n->in[0]),
            .tokens = p->n,
            .heads = group,
            .pos = s->pos + p->from,
            .dim_k = n->dim_k,
            .dim_v = n->dim_v,
            .scale = n->scale,
            .softcap = n->softcap,
            .window = n->window,
            .pages = s->pages,
            .f32 = b->kv_f32,
            .k = b->kv + (layer + (size_t)h * n->dim_k * AG_KV_PAGE) * b->number,
            .v = b->kv + (layer + b->k_page + (size_t)h * n->dim_v * AG_KV_PAGE) * b->number,
            .k_page_stride = b->page_stride,
            .v_page_stride = b->page_stride,
            .out = ag__exec_row(b, n->out, row) + (size_t)h * group * n->dim_v,
            .out_stride = ag__exec_stride(b, n->out),
            .scratch = ag__exec_scratch(b, worker),
        };
        b->ops->attention(&a);
        for (uint32_t t = 0; n->qout >= 0 && t < p->n; t++) { /* this head's part of the row */
            ag_act part = ag__exec_act(b, n->qout);
            part.b += (size_t)h * group * n->dim_v / 32;
            part.k = group * n->dim_v;
            b->ops->quantize(&part, row + t, a.out + t * a.out_stride);
        }
    }
}
