/* exec.h - inside of the CPU backend: what its stages share. Not for other folders.
 * Owns    : struct ag_backend; see backend.h.
 * Threads : run's thread writes the fields of a step, then starts a stage; workers only read them.
 * Limits, errors: those of backend.h. */
#ifndef AG_EXEC_H
#define AG_EXEC_H

#include "engine/backend.h"
#include "engine/weights.h"

#define AG_BACKEND_MAGIC 0x42435055u

typedef struct ag_piece { uint32_t span, from, n; } ag_piece; /* tokens [from, from+n) of a span, for attention */

struct ag_backend {
    uint32_t magic;
    const ag_plan *plan;
    const ag_graph *g;
    const ag_cpu_isa *isa;
    const ag_cpu_ops *ops;
    ag_pool *pool;
    ag_weights weights;
    const ag_pack *packs;    /* weights.packs */
    unsigned char *arena;    /* activations */
    size_t arena_bytes;
    /* Page after page, in each the layers' keys and values beside each other: what a short sequence touches lies together. */
    unsigned char *kv;
    bool kv_f32;
    size_t kv_bytes, number; /* bytes of a number in the cache: 2 or 4 */
    size_t page_stride, k_page, v_page; /* of a page, and of one layer's part of it, in numbers */
    uint32_t pages;
    unsigned char *scratch;  /* scratch_bytes per worker */
    size_t scratch_bytes;
    float *rope[AG_ARRAY_LEN(((ag_graph *)0)->ropes)]; /* [rows][cos n_rot/2, sin n_rot/2] */
    /* Of the step being run. */
    const ag_batch *batch;
    uint32_t *row_span;      /* by row */
    ag_piece *pieces;
    uint32_t n_pieces;
    /* Of the stage being run. */
    const ag_stage *stage;
    uint32_t cols, col_block, tiles, unit; /* of products: an item is `unit` tiles times a block of columns */
    ag_act act;              /* their quantized input, and what they make of it (fused) */
    ag_act qout;
};

static inline void *ag__exec_scratch(const ag_backend *b, uint32_t worker) { return b->scratch + worker * b->scratch_bytes; }

static inline size_t ag__exec_stride(const ag_backend *b, ag_vid v) { return ag_value_stride(&b->g->values[ag_graph_base(b->g, v, NULL)]); }

static inline float *ag__exec_row(const ag_backend *b, ag_vid v, uint32_t row)
{
    uint32_t offset;
    const ag_value *x = &b->g->values[ag_graph_base(b->g, v, &offset)];
    return (float *)(void *)(b->arena + x->at) + row * ag_value_stride(x) + offset;
}

static inline ag_act ag__exec_act(const ag_backend *b, ag_vid q)
{
    const ag_value *x = &b->g->values[q];
    ag_act a = {0};
    ag_act_place(&a, x->width, ag_value_rows(b->plan, x), b->arena + x->at);
    return a;
}

static inline uint32_t ag__exec_pos(const ag_backend *b, uint32_t row)
{
    const ag_span *s = &b->batch->spans[b->row_span[row]];
    return s->pos + (row - s->row);
}

static inline void ag__exec_rope(const ag_backend *b, float *x, int32_t rope, uint32_t row)
{
    const ag_rope *r = &b->g->ropes[rope];
    const float *cs = b->rope[rope] + (size_t)row * r->n_rot;
    b->ops->rope(x, cs, cs + r->n_rot / 2, r->n_rot, r->interleaved);
}

/* Stage bodies, as pool functions over their items. */
void ag__exec_rows(void *backend, uint32_t worker, uint32_t from, uint32_t to);
void ag__exec_ropes(void *backend, uint32_t worker, uint32_t from, uint32_t to);
void ag__exec_tiles(void *backend, uint32_t worker, uint32_t from, uint32_t to);
void ag__exec_heads(void *backend, uint32_t worker, uint32_t from, uint32_t to);
void ag__exec_attn(void *backend, uint32_t worker, uint32_t from, uint32_t to);
/* Prepares the stage (tiles, column block) and says how many items it has. */
uint32_t ag__exec_items(ag_backend *b, const ag_stage *s);
/* Bytes of scratch that any stage of the plan may want per worker. */
size_t ag__exec_scratch_bytes(const ag_plan *p);

#endif
