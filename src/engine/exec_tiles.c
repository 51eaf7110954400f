/* Stages by tiles of weights: products with what was fused into them. An item is one tile of 16 rows of weights times one
 * block of columns (tokens); the tile's weights are unpacked once for all columns of the block. */
#include "engine/exec.h"

/* Activations of one block of columns should stay in a core's second-level cache beside a tile of weights: half a megabyte
 * is half of the smallest such cache among server cores of the last ten years. */
#define COLS_BYTES (512u << 10)
#define COLS_MAX 256u
/* Weights asked for while a worker waits for others: what a core fetches in about the time of a barrier. */
#define AHEAD_BYTES 4096u

/* Bytes that one column of a product's input takes. */
static size_t column_bytes(const ag_backend *b, const ag_node *n)
{
    return n->in[1] >= 0 ? ag_act_bytes(n->w[0].k, 1) : ag__exec_stride(b, n->in[0]) * sizeof(float);
}

uint32_t ag__exec_tile_items(const ag_backend *b, ag__job *j, uint32_t rows)
{
    const ag_node *n = &b->g->nodes[j->stage->node];
    j->tiles = 0;
    j->unit = n->qout >= 0 ? 2 : 1;
    for (uint32_t i = 0; i < (n->glu != AG_GLU_NONE ? 1 : n->n_w); i++) j->tiles += b->packs[n->w[i].pack].tiles;
    j->cols = rows;
    uint32_t block = (uint32_t)AG_MIN(COLS_BYTES / column_bytes(b, n), (size_t)COLS_MAX) / 16 * 16;
    block = AG_MAX(block, 16u);
    uint32_t blocks = (rows + block - 1) / block;
    j->col_block = blocks ? AG_ALIGN_UP((rows + blocks - 1) / blocks, 8) : block; /* even blocks, whole register tiles */
    return j->tiles / j->unit * (j->col_block ? (rows + j->col_block - 1) / j->col_block : 0);
}

size_t ag__exec_scratch_bytes(const ag_plan *p)
{
    size_t most = 4 * COLS_MAX * AG_CPU_TILE * sizeof(float); /* a tile of gate and of up, and two of their result, for a block */
    for (uint32_t i = 0; i < p->graph->n_nodes; i++) {
        const ag_node *n = &p->graph->nodes[i];
        size_t want = 0;
        if (n->op == AG_GOP_ATTENTION) want = ag_attn_scratch_bytes(n->heads / n->kv_heads, n->dim_k, n->dim_v);
        if (n->op == AG_GOP_NORM || n->op == AG_GOP_KV_STORE) want = (size_t)AG_MAX(n->heads, 1u) * n->dim_k * sizeof(float);
        most = AG_MAX(most, want);
    }
    return AG_ALIGN_UP(most, 4096);
}

static ag_act block_act(const ag__lane *l, const ag_node *n, const ag_pack *w, uint32_t c0)
{
    ag_act a = {.k = w->k};
    if (ag_pack_wants_quantized(w->type)) {
        a = ag__lane_act(l, n->in[1]);
        a.b += c0 * a.b_stride;
    } else {
        a.x = ag__lane_row(l, n->in[0], c0);
        a.x_stride = ag__exec_stride(l->b, n->in[0]);
    }
    return a;
}

/* y[c][r] += x[c][r] or x[r]; whole tiles, which nearly all are, as loops of constant length. */
static void add_tile(float *y, size_t stride, const float *x, size_t x_stride, uint32_t cols, uint32_t rows)
{
    for (uint32_t c = 0; c < cols; c++, y += stride, x += x_stride) {
        if (rows == AG_CPU_TILE)
            for (uint32_t r = 0; r < AG_CPU_TILE; r++) y[r] += x[r];
        else
            for (uint32_t r = 0; r < rows; r++) y[r] += x[r];
    }
}

/* One tile of both gate and up; y = activation(gate) * up. */
static void run_glu(const ag__lane *l, const ag_node *n, uint32_t tile, uint32_t c0, uint32_t cols, float *y, size_t stride, float *tmp)
{
    const ag_backend *b = l->b;
    const ag_pack *g = &b->packs[n->w[0].pack], *u = &b->packs[n->w[1].pack];
    uint32_t row = tile * AG_CPU_TILE, rows = AG_MIN((uint32_t)AG_CPU_TILE, g->rows - row);
    float *gate = tmp, *up = tmp + COLS_MAX * AG_CPU_TILE;
    ag_act a = block_act(l, n, g, c0);
    b->ops->matmul(g, &a, cols, tile, tile + 1, gate, AG_CPU_TILE);
    b->ops->matmul(u, &a, cols, tile, tile + 1, up, AG_CPU_TILE);
    if (n->w[0].bias) add_tile(gate, AG_CPU_TILE, n->w[0].bias + row, 0, cols, rows);
    if (n->w[1].bias) add_tile(up, AG_CPU_TILE, n->w[1].bias + row, 0, cols, rows);
    ag_act_fn f = n->glu == AG_GLU_SILU ? AG_ACT_SILU : AG_ACT_GELU_TANH;
    for (uint32_t c = 0; c < cols; c++) b->ops->glu(y + c * stride, gate + c * AG_CPU_TILE, up + c * AG_CPU_TILE, rows, f);
}

/* `unit` tiles of a gated product: into the float value, or two tiles that make a block of 32 to be quantized, or both. */
static void run_gated(const ag__lane *l, const ag_node *n, uint32_t tile, uint32_t c0, uint32_t cols, float *tmp)
{
    const ag_backend *b = l->b;
    float *y = tmp + 2 * COLS_MAX * AG_CPU_TILE;
    size_t stride = 2 * AG_CPU_TILE;
    if (n->out >= 0) {
        y = ag__exec_row(b, n->out, c0) + (size_t)tile * AG_CPU_TILE;
        stride = ag__exec_stride(b, n->out);
    }
    for (uint32_t i = 0; i < l->job->unit; i++) run_glu(l, n, tile + i, c0, cols, y + i * AG_CPU_TILE, stride, tmp);
    if (n->qout < 0) return;
    ag_act part = ag__exec_act(b, n->qout);
    part.b += tile / 2;
    part.k = 2 * AG_CPU_TILE;
    for (uint32_t c = 0; c < cols; c++) b->ops->quantize(&part, c0 + c, y + c * stride);
}

static void run_plain(const ag__lane *l, const ag_node *n, uint32_t tile, uint32_t c0, uint32_t cols, float *tmp)
{
    const ag_backend *b = l->b;
    uint32_t seg = 0, column = 0;
    while (tile >= b->packs[n->w[seg].pack].tiles) {
        tile -= b->packs[n->w[seg].pack].tiles;
        column += n->w[seg++].rows;
    }
    const ag_pack *w = &b->packs[n->w[seg].pack];
    uint32_t row = tile * AG_CPU_TILE, rows = AG_MIN((uint32_t)AG_CPU_TILE, w->rows - row);
    ag_act a = block_act(l, n, w, c0);
    size_t stride = ag__exec_stride(b, n->out);
    float *y = ag__exec_row(b, n->out, c0) + column + row;
    if (n->residual < 0) {
        b->ops->matmul(w, &a, cols, tile, tile + 1, y, stride);
        if (n->w[seg].bias) add_tile(y, stride, n->w[seg].bias + row, 0, cols, rows);
        return;
    }
    b->ops->matmul(w, &a, cols, tile, tile + 1, tmp, AG_CPU_TILE); /* y may be the residual's own place */
    if (n->w[seg].bias) add_tile(tmp, AG_CPU_TILE, n->w[seg].bias + row, 0, cols, rows);
    const float *res = ag__lane_row(l, n->residual, c0) + row;
    size_t r_stride = ag__exec_stride(b, n->residual);
    add_tile(tmp, AG_CPU_TILE, res, r_stride, cols, rows);
    for (uint32_t c = 0; c < cols; c++) memcpy(y + c * stride, tmp + c * AG_CPU_TILE, rows * sizeof *y);
}

void ag__exec_tiles_ahead(const ag__lane *l, uint32_t item)
{
    const ag__job *j = l->job;
    const ag_node *n = &l->b->g->nodes[j->stage->node];
    uint32_t tile = item % (j->tiles / j->unit) * j->unit, seg = 0;
    while (tile >= l->b->packs[n->w[seg].pack].tiles) tile -= l->b->packs[n->w[seg++].pack].tiles;
    const ag_pack *w = &l->b->packs[n->w[seg].pack];
    const unsigned char *p = w->data + tile * w->tile_bytes;
    for (size_t at = 0; at < AG_MIN(w->tile_bytes, (size_t)AHEAD_BYTES); at += 64) __builtin_prefetch(p + at, 0, 2);
}

void ag__exec_tiles(const ag__lane *l, uint32_t from, uint32_t to)
{
    const ag__job *j = l->job;
    const ag_node *n = &l->b->g->nodes[j->stage->node];
    float *tmp = (float *)(void *)l->scratch;
    uint32_t units = j->tiles / j->unit;
    for (uint32_t i = from; i < to; i++) {
        uint32_t tile = i % units * j->unit, c0 = i / units * j->col_block;
        uint32_t cols = AG_MIN(j->col_block, j->cols - c0);
        if (n->glu != AG_GLU_NONE) run_gated(l, n, tile, c0, cols, tmp);
        else run_plain(l, n, tile, c0, cols, tmp);
    }
}
