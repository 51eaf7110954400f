/* The stages of attention: heads of q and k made ready and stored, then attention itself; or both at once. */
#include "engine/exec.h"

/* A head of q or k on its way out of the product: norm, where the model has one, and rotation. */
static void ready_head(const ag_backend *b, float *x, const float *norm, const ag_node *store, int32_t rope,
                       uint32_t row)
{
    if (norm) b->ops->rms_norm(x, x, norm, store->dim_k, store->eps);
    ag__exec_rope(b, x, rope, row);
}

/* Where a layer's keys of head h begin in page 0; its values: b->k_page further on, by their own head size. */
static unsigned char *keys_at(const ag_backend *b, const ag_node *n, uint32_t h)
{
    return b->kv + (size_t)n->layer * (b->k_page + b->v_page) + h * ag_kv_head_bytes(b->kv_type, n->dim_k);
}

static unsigned char *values_at(const ag_backend *b, const ag_node *n, uint32_t h)
{
    return b->kv + (size_t)n->layer * (b->k_page + b->v_page) + b->k_page + h * ag_kv_head_bytes(b->kv_type, n->dim_v);
}

/* KV head h of a row, into the cache. `tmp`: dim_k floats. */
static void store_head(const ag_backend *b, const ag_node *n, uint32_t row, uint32_t h, float *tmp)
{
    float *k = ag__exec_row(b, n->in[1], row) + (size_t)h * n->dim_k;
    const float *v = ag__exec_row(b, n->in[2], row) + (size_t)h * n->dim_v;
    if (n->in[0] >= 0) {
        memcpy(tmp, k, n->dim_k * sizeof *k);
        k = tmp;
        ready_head(b, k, n->vec2, n, n->rope_k, row);
    }
    uint32_t pos = ag__exec_pos(b, row), page = b->batch->spans[b->row_span[row]].pages[pos / AG_KV_PAGE];
    AG_ASSERT(page < b->pages);
    void *kp = keys_at(b, n, h) + page * b->page_stride, *vp = values_at(b, n, h) + page * b->page_stride;
    switch (b->kv_type) {
    case AG_KV_F16: b->ops->kv_store(kp, vp, pos % AG_KV_PAGE, k, v, n->dim_k, n->dim_v); break;
    case AG_KV_Q8_0: ag_cpu_kv_store_q8(kp, vp, pos % AG_KV_PAGE, k, v, n->dim_k, n->dim_v); break;
    case AG_KV_F32: ag_cpu_kv_store_f32(kp, vp, pos % AG_KV_PAGE, k, v, n->dim_k, n->dim_v); break;
    }
}

/* One head of q (in place) or of k (with its value into the cache). Items: rows x (heads + kv_heads); without fusion q
 * is left alone. */
void ag__exec_heads(const ag__lane *l, uint32_t from, uint32_t to)
{
    const ag_backend *b = l->b;
    const ag_node *n = &b->g->nodes[l->job->stage->node];
    uint32_t heads = n->in[0] >= 0 ? n->heads : 0, all = heads + n->kv_heads;
    for (uint32_t i = from; i < to; i++) {
        uint32_t row = i / all, h = i % all;
        if (h < heads) ready_head(b, ag__exec_row(b, n->in[0], row) + (size_t)h * n->dim_k, n->vec, n, n->rope, row);
        else store_head(b, n, row, h - heads, (float *)(void *)l->scratch);
    }
}

/* This KV head's part of the rows, as the next product wants it. */
static void quantize_heads(const ag_backend *b, const ag_node *n, const ag_attn *a, uint32_t row, uint32_t h)
{
    if (n->qout < 0) return;
    ag_act part = ag__exec_act(b, n->qout);
    part.b += (size_t)h * a->heads * n->dim_v / 32;
    part.k = a->heads * n->dim_v;
    b->ops->quantize(&part, row, a->tokens, a->out, a->out_stride);
}

/* The heads stage's work for the one row of a unit, whose heads nobody else has: q made ready aside, since other units
 * may have other parts of the keys to it; the key stored by the unit that will read it. */
static const float *ready_row(const ag_backend *b, const ag_node *store, const ag_attn_unit *u, uint32_t row,
                              uint32_t group, float *tmp)
{
    uint32_t pos = ag__exec_pos(b, row);
    memcpy(tmp, ag__exec_row(b, store->in[0], row) + (size_t)u->head * group * store->dim_k,
           (size_t)group * store->dim_k * sizeof *tmp);
    for (uint32_t i = 0; i < group; i++)
        ready_head(b, tmp + (size_t)i * store->dim_k, store->vec, store, store->rope, row);
    if (u->to == pos / AG_ATTN_PART + 1) store_head(b, store, row, u->head, tmp + (size_t)group * store->dim_k);
    return tmp;
}

static void run_unit(const ag__lane *l, const ag_node *n, const ag_attn_unit *u)
{
    const ag_backend *b = l->b;
    const ag_piece *p = &b->shares.pieces[u->piece];
    const ag_span *s = &b->batch->spans[p->span];
    uint32_t h = u->head, row = s->row + p->from, group = n->heads / n->kv_heads;
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
        .type = b->kv_type,
        .k = keys_at(b, n, h),
        .v = values_at(b, n, h),
        .k_page_stride = b->page_stride,
        .v_page_stride = b->page_stride,
        .from = u->from,
        .to = u->to,
        .out = ag__exec_row(b, n->out, row) + (size_t)h * group * n->dim_v,
        .out_stride = ag__exec_stride(b, n->out),
        .scratch = l->scratch,
    };
    if (l->job->store) {
        void *tmp = l->scratch + ag_attn_scratch_bytes(group, n->dim_k, n->dim_v);
        a.q = ready_row(b, l->job->store, u, row, group, tmp);
    }
    if (u->merge == AG_ATTN_WHOLE) {
        b->ops->attention(&a);
    } else {
        ag_attn_merge *m = &l->job->share->merges[u->merge];
        a.partial = m->partial + (size_t)(u->from - m->from) * a.tokens * a.heads * ag_attn_rec(n->dim_v);
        b->ops->attention(&a);
        if (atomic_fetch_sub_explicit(&m->left, 1, memory_order_acq_rel) != 1) return;
        atomic_store_explicit(&m->left, m->runs, memory_order_relaxed); /* for the next layer */
        a.partial = m->partial;
        a.from = m->from;
        a.to = m->to;
        b->ops->attention_join(&a);
    }
    quantize_heads(b, n, &a, row, h);
}

void ag__exec_attn(const ag__lane *l, uint32_t from, uint32_t to)
{
    const ag_attn_share *s = l->job->share;
    for (uint32_t i = s->items[from]; i < s->items[to]; i++)
        run_unit(l, &l->b->g->nodes[l->job->stage->node], &s->units[i]);
}

size_t ag__exec_attn_scratch_bytes(const ag_node *n)
{
    uint32_t group = n->heads / n->kv_heads;
    return ag_attn_scratch_bytes(group, n->dim_k, n->dim_v) + (size_t)(group + 1) * n->dim_k * sizeof(float);
}

/* Nothing may have been placed over k and v when attention runs: they are parts of the value that q, still alive, is
 * part of. */
bool ag__exec_attn_takes_heads(const ag_backend *b, const ag_stage *heads)
{
    const ag_stage *attn = heads + 1;
    if (heads->domain != AG_DOMAIN_HEADS || attn == b->plan->stages + b->plan->n_stages ||
        attn->domain != AG_DOMAIN_ATTN)
        return false;
    const ag_node *s = &b->g->nodes[heads->node], *n = &b->g->nodes[attn->node];
    if (heads->n != 1 || attn->n != 1 || s->in[0] < 0 || s->in[0] != n->in[0] || s->layer != n->layer) return false;
    ag_vid q = ag_graph_base(b->g, s->in[0], NULL);
    return ag_graph_base(b->g, s->in[1], NULL) == q && ag_graph_base(b->g, s->in[2], NULL) == q;
}
