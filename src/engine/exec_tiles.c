/* Stages by tiles of weights: products with what was fused into them. An item is one tile of 16 rows of weights times
 * one block of columns (tokens); the tile's weights are unpacked once for all columns of the block. Neighbouring items
 * of a chunk are computed together: products of floats and of AMX take several tiles at a time. */
#include "engine/exec.h"

/* Tiles of a gated product that are computed together: half of what a kernel may take, since gate and up wait for each
 * other. */
#define GATED_TILES (AG_CPU_TILES_MAX / 2u)
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
    j->col_block = ag_cpu_cols_block(rows, column_bytes(b, n));
    return j->tiles / j->unit * ((rows + j->col_block - 1) / j->col_block);
}

size_t ag__exec_scratch_bytes(const ag_plan *p)
{
    /* For a block of columns: tiles of gate, of up, and of their result; or of a plain product. */
    size_t most = AG_MAX(3 * GATED_TILES, AG_CPU_TILES_MAX) * AG_CPU_COLS_MAX * AG_CPU_TILE * sizeof(float);
    for (uint32_t i = 0; i < p->graph->n_nodes; i++) {
        const ag_node *n = &p->graph->nodes[i];
        size_t want = 0;
        if (n->op == AG_GOP_ATTENTION) want = ag__exec_attn_scratch_bytes(n);
        if (n->op == AG_GOP_NORM || n->op == AG_GOP_KV_STORE)
            want = (size_t)AG_MAX(n->heads, 1u) * n->dim_k * sizeof(float);
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
static void add_rows(float *y, size_t stride, const float *x, size_t x_stride, uint32_t cols, uint32_t rows)
{
    for (uint32_t c = 0; c < cols; c++, y += stride, x += x_stride) {
        uint32_t r = 0;
        for (; r + AG_CPU_TILE <= rows; r += AG_CPU_TILE)
            for (uint32_t i = r; i < r + AG_CPU_TILE; i++) y[i] += x[i];
        for (; r < rows; r++) y[r] += x[r];
    }
}

/* A gated product's tiles [from,to): activation(gate) * up, into the float value, or a block of 32 to be quantized, or
 * both. */
static void run_gated(const ag__lane *l, const ag_node *n, uint32_t from, uint32_t to, uint32_t c0, uint32_t cols,
                      float *tmp)
{
    const ag_backend *b = l->b;
    const ag_pack *g = &b->packs[n->w[0].pack], *u = &b->packs[n->w[1].pack];
    const size_t width = GATED_TILES * AG_CPU_TILE;
    uint32_t row = from * AG_CPU_TILE, rows = AG_MIN(to * AG_CPU_TILE, g->rows) - row;
    float *gate = tmp, *up = gate + AG_CPU_COLS_MAX * width, *y = up + AG_CPU_COLS_MAX * width;
    size_t stride = width;
    if (n->out >= 0) {
        y = ag__exec_row(b, n->out, c0) + row;
        stride = ag__exec_stride(b, n->out);
    }
    ag_act a = block_act(l, n, g, c0);
    b->ops->matmul(g, &a, cols, from, to, gate, width);
    b->ops->matmul(u, &a, cols, from, to, up, width);
    if (n->w[0].bias) add_rows(gate, width, n->w[0].bias + row, 0, cols, rows);
    if (n->w[1].bias) add_rows(up, width, n->w[1].bias + row, 0, cols, rows);
    ag_act_fn f = n->glu == AG_GLU_SILU ? AG_ACT_SILU : AG_ACT_GELU_TANH;
    for (uint32_t c = 0; c < cols; c++) b->ops->glu(y + c * stride, gate + c * width, up + c * width, rows, f);
    if (n->qout < 0) return;
    ag_act part = ag__exec_act(b, n->qout);
    part.b += from / 2;
    part.k = 2 * AG_CPU_TILE;
    b->ops->quantize(&part, c0, cols, y, stride);
}

/* Tiles [from,to) of one segment, whose first row is the result's row `column`. */
static void run_segment(const ag__lane *l, const ag_node *n, const ag_weight *seg, uint32_t column, uint32_t from,
                        uint32_t to, uint32_t c0, uint32_t cols, float *tmp)
{
    const ag_backend *b = l->b;
    const ag_pack *w = &b->packs[seg->pack];
    const size_t width = AG_CPU_TILES_MAX * AG_CPU_TILE;
    uint32_t row = from * AG_CPU_TILE, rows = AG_MIN(to * AG_CPU_TILE, w->rows) - row;
    ag_act a = block_act(l, n, w, c0);
    size_t stride = ag__exec_stride(b, n->out);
    float *y = ag__exec_row(b, n->out, c0) + column + row;
    if (n->residual < 0) {
        b->ops->matmul(w, &a, cols, from, to, y, stride);
        if (seg->bias) add_rows(y, stride, seg->bias + row, 0, cols, rows);
        return;
    }
    b->ops->matmul(w, &a, cols, from, to, tmp, width); /* y may be the residual's own place */
    if (seg->bias) add_rows(tmp, width, seg->bias + row, 0, cols, rows);
    const float *res = ag__lane_row(l, n->residual, c0) + column + row;
    const size_t res_stride = ag__exec_stride(b, n->residual);
    for (uint32_t c = 0; c < cols; c++, y += stride, res += res_stride, tmp += width) {
        if (y != res) memcpy(y, res, rows * sizeof *y);
        b->ops->add(y, tmp, rows);
    }
}

/* Tiles [from,to) of all segments. */
static void run_plain(const ag__lane *l, const ag_node *n, uint32_t from, uint32_t to, uint32_t c0, uint32_t cols,
                      float *tmp)
{
    uint32_t first = 0, column = 0; /* tile and row with which a segment begins */
    for (uint32_t i = 0; i < n->n_w && first < to; i++) {
        uint32_t end = first + l->b->packs[n->w[i].pack].tiles, t0 = AG_MAX(from, first), t1 = AG_MIN(to, end);
        if (t0 < t1) run_segment(l, n, &n->w[i], column, t0 - first, t1 - first, c0, cols, tmp);
        first = end;
        column += n->w[i].rows;
    }
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
    const bool gated = n->glu != AG_GLU_NONE;
    uint32_t units = j->tiles / j->unit, together = (gated ? GATED_TILES : AG_CPU_TILES_MAX) / j->unit;
    for (uint32_t i = from, next; i < to; i = next) {
        uint32_t unit = i % units, c0 = i / units * j->col_block, cols = AG_MIN(j->col_block, j->cols - c0);
        next = i + AG_MIN(AG_MIN(together, to - i), units - unit);
        uint32_t tile = unit * j->unit, end = tile + (next - i) * j->unit;
        if (gated) run_gated(l, n, tile, end, c0, cols, tmp);
        else run_plain(l, n, tile, end, c0, cols, tmp);
    }
}
