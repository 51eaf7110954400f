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

static void run_rope(const ag_backend *b, const ag_node *n, uint32_t row)
{
    const float *x = ag__exec_row(b, n->in[0], row);
    float *y = ag__exec_row(b, n->out, row);
    memcpy(y, x, (size_t)n->heads * n->dim_k * sizeof *y);
    for (uint32_t h = 0; h < n->heads; h++) ag__exec_rope(b, y + (size_t)h * n->dim_k, n->rope, row);
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
