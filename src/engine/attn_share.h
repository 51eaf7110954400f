/* attn_share.h - how the attention of a step is shared out: units of (tokens, KV head, parts of keys) with even costs.
 * Owns    : its lists and the memory in which parts wait to be joined.
 * Threads : open, lay_out and close from the backend's thread; during a stage workers read, but for a merge's `left`.
 * Limits  : rows_max of the plan; a step whose parts find no room in the memory is shared out less evenly.
 * Errors  : open: AG_E_NOMEM.
 * Numerics: what is computed does not depend on how it is shared out; see AG_ATTN_PART. */
#ifndef AG_ATTN_SHARE_H
#define AG_ATTN_SHARE_H

#include <stdatomic.h>

#include "engine/backend.h"

#define AG_ATTN_WHOLE UINT32_MAX

typedef struct ag_piece { uint32_t span, from, n; } ag_piece; /* tokens [from, from+n) of a span */

typedef struct ag_attn_unit {
    uint32_t piece, head; /* KV head */
    uint32_t from, to;    /* parts of the keys */
    uint32_t merge;       /* AG_ATTN_WHOLE: these are all parts; else whose partial results they are */
} ag_attn_unit;

typedef struct ag_attn_merge {
    float *partial;
    uint32_t from, to, runs; /* all parts; units that make them */
    _Atomic uint32_t left;   /* units not done: the one that finishes last joins, and sets it back to runs */
} ag_attn_merge;

typedef struct ag_attn_share { /* of the layers with this window */
    uint32_t window, heads, kv_heads, dim_v;
    ag_attn_unit *units;
    uint32_t *items;         /* item i is units [items[i], items[i + 1]) */
    ag_attn_merge *merges;
    uint32_t n_units, n_items, n_merges;
} ag_attn_share;

typedef struct ag_attn_shares {
    ag_piece *pieces;
    uint32_t *order; /* pieces, the dearest first */
    uint32_t n_pieces, threads, piece_max; /* tokens of a piece */
    ag_attn_share *lists;
    uint32_t n_lists, units_max, merges_max;
    float *partial;
    size_t partial_max; /* floats */
    const ag_batch *batch;
} ag_attn_shares;

int ag_attn_shares_open(ag_attn_shares *s, const ag_plan *p, uint32_t pages, uint32_t threads, ag_err *err);
void ag_attn_shares_close(ag_attn_shares *s);
void ag_attn_shares_lay_out(ag_attn_shares *s, const ag_batch *batch);
ag_attn_share *ag_attn_share_find(const ag_attn_shares *s, const ag_node *attention);

#endif
