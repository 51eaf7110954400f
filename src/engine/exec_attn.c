/* The stages of attention: heads of q and k made ready and stored, then attention itself. */
#include "engine/exec.h"

/* One head of q (in place) or of k (with its value into the cache). Items: rows x (heads + kv_heads); without fusion q is
 * left alone. */
void ag__exec_heads(const ag__lane *l, uint32_t from, uint32_t to)
{
    const ag_backend *b = l->b;
    const ag_node *n = &b->g->nodes[l->job->stage->node];
    uint32_t heads = n->in[0] >= 0 ? n->heads : 0, all = heads + n->kv_heads;
    size_t layer = (size_t)n->layer * (b->k_page + b->v_page);
    for (uint32_t i = from; i < to; i++) {
        uint32_t row = i / all, h = i % all;
        if (h < heads) {
            float *q = ag__exec_row(b, n->in[0], row) + (size_t)h * n->dim_k;
            if (n->vec) b->ops->rms_norm(q, q, n->vec, n->dim_k, n->eps);
            ag__exec_rope(b, q, n->rope, row);
            continue;
        }
        h -= heads;
        float *k = ag__exec_row(b, n->in[1], row) + (size_t)h * n->dim_k;
        const float *v = ag__exec_row(b, n->in[2], row) + (size_t)h * n->dim_v;
        if (n->in[0] >= 0) {
            float *copy = (float *)(void *)l->scratch;
            memcpy(copy, k, n->dim_k * sizeof *k);
            k = copy;
            if (n->vec2) b->ops->rms_norm(k, k, n->vec2, n->dim_k, n->eps);
            ag__exec_rope(b, k, n->rope_k, row);
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
void ag__exec_attn(const ag__lane *l, uint32_t from, uint32_t to)
{
    const ag_backend *b = l->b;
    const ag_node *n = &b->g->nodes[l->job->stage->node];
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
            .scratch = l->scratch,
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
