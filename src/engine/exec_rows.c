/* Stages by rows: each item is one token's row, taken through all nodes of the stage. */
#include <math.h>

#include "engine/exec.h"

static void run_embed(const ag__lane *l, const ag_node *n, uint32_t row)
{
    const ag_gguf_tensor *t = n->w[0].t;
    const ag_quant_row *q = ag_quant_find(t->type);
    uint64_t bytes = t->dim[0] / q->block * q->bytes;
    uint64_t id = (uint32_t)l->b->batch->tokens[row];
    AG_ASSERT(id < t->dim[1]);
    ag_quant_dequantize(t->type, (const unsigned char *)t->data + id * bytes, ag__lane_row(l, n->out, row), t->dim[0]);
}

static void run_norm(const ag__lane *l, const ag_node *n, uint32_t row, float *tmp)
{
    const float *x = ag__lane_row(l, n->in[0], row);
    float *y = n->out >= 0 ? ag__lane_row(l, n->out, row) : tmp;
    uint32_t width = n->heads * n->dim_k;
    float *normed = n->residual >= 0 ? tmp : y; /* y may be the residual's own place */
    for (uint32_t h = 0; h < n->heads; h++)
        l->b->ops->rms_norm(normed + (size_t)h * n->dim_k, x + (size_t)h * n->dim_k, n->vec, n->dim_k, n->eps);
    if (n->residual >= 0) {
        const float *r = ag__lane_row(l, n->residual, row);
        if (r != y) memcpy(y, r, width * sizeof *y);
        l->b->ops->add(y, tmp, width);
    }
    if (n->qout >= 0) {
        ag_act a = ag__lane_act(l, n->qout);
        l->b->ops->quantize(&a, row, 1, y, 0);
    }
}

static void run_rope(const ag__lane *l, const ag_node *n, uint32_t row)
{
    const float *x = ag__lane_row(l, n->in[0], row);
    float *y = ag__lane_row(l, n->out, row);
    memcpy(y, x, (size_t)n->heads * n->dim_k * sizeof *y);
    for (uint32_t h = 0; h < n->heads; h++) ag__exec_rope(l->b, y + (size_t)h * n->dim_k, n->rope, row);
}

static void run_select(const ag__lane *l, const ag_node *n, uint32_t row)
{
    memcpy(ag__lane_row(l, n->out, row), ag__lane_row(l, n->in[0], l->b->batch->out_rows[row]),
           l->b->g->values[n->out].width * sizeof(float));
}

/* y = x to begin an operation in y's place; nothing to do where the memory pass gave both the same. */
static float *copy_in(const ag__lane *l, const ag_node *n, uint32_t row)
{
    float *y = ag__lane_row(l, n->out, row);
    const float *x = ag__lane_row(l, n->in[0], row);
    if (x != y) memcpy(y, x, l->b->g->values[n->out].width * sizeof *y);
    return y;
}

static void run_row(const ag__lane *l, const ag_node *n, uint32_t row, float *tmp)
{
    uint32_t width = n->out >= 0 ? l->b->g->values[n->out].width : 0;
    switch (n->op) {
    case AG_GOP_EMBED: run_embed(l, n, row); break;
    case AG_GOP_NORM: run_norm(l, n, row, tmp); break;
    case AG_GOP_BIAS: l->b->ops->add(copy_in(l, n, row), n->vec, width); break;
    case AG_GOP_ADD: l->b->ops->add(copy_in(l, n, row), ag__lane_row(l, n->in[1], row), width); break;
    case AG_GOP_SCALE: l->b->ops->scale(copy_in(l, n, row), n->scale, width); break;
    case AG_GOP_SOFTCAP: l->b->ops->softcap(copy_in(l, n, row), n->softcap, width); break;
    case AG_GOP_GLU:
        l->b->ops->glu(ag__lane_row(l, n->out, row), ag__lane_row(l, n->in[0], row), ag__lane_row(l, n->in[1], row),
                       width, n->glu == AG_GLU_SILU ? AG_ACT_SILU : AG_ACT_GELU_TANH);
        break;
    case AG_GOP_ROPE: run_rope(l, n, row); break;
    case AG_GOP_SELECT: run_select(l, n, row); break;
    case AG_GOP_QUANTIZE: {
        ag_act a = ag__lane_act(l, n->out);
        l->b->ops->quantize(&a, row, 1, ag__lane_row(l, n->in[0], row), 0);
        break;
    }
    default: AG_ASSERT(!"an operation that is not by rows");
    }
}

/* Angles in double: at position 100,000 a float has lost the digits that tell neighbours apart. */
static void find_angles(const ag_backend *b, uint32_t row)
{
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

void ag__exec_rows_of(const ag__lane *l, const ag_stage *s, uint32_t from, uint32_t to)
{
    for (uint32_t row = from; row < to; row++)
        for (uint32_t i = s->node; i < s->node + s->n; i++)
            run_row(l, &l->b->g->nodes[i], row, (float *)(void *)l->scratch);
}

void ag__exec_rows(const ag__lane *l, uint32_t from, uint32_t to)
{
    const ag_stage *s = l->job->stage;
    for (uint32_t row = from; s->node == 0 && row < to; row++) find_angles(l->b, row); /* with the embeddings */
    ag__exec_rows_of(l, s, from, to);
}
