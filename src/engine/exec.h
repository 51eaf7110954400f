/* exec.h - inside of the CPU backend: what its stages share. Not for other folders.
 * Owns    : struct ag_backend; see backend.h.
 * Threads : run's thread writes the fields of a step, then starts it on the pool: every worker walks the step's jobs,
 *           each job's chunks going to whoever asks first. Workers write activations, their lane and the counters
 *           alone.
 * Limits, errors: those of backend.h. */
#ifndef AG_EXEC_H
#define AG_EXEC_H

#include "engine/attn_share.h"
#include "engine/weights.h"

#define AG_BACKEND_MAGIC 0x42435055u

typedef struct ag__lane ag__lane;
/* Items [from,to) of the lane's job. */
typedef void ag__job_fn(const ag__lane *l, uint32_t from, uint32_t to);

/* Between two barriers: a stage, cut into chunks for steps of one shape. Chunks come in generations, as many in each as
 * there are workers: the first take most of the work, the last even out what is left. */
#define AG_JOB_GENERATIONS 10
typedef struct ag__job {
    ag__job_fn *body;
    const ag_stage *stage;
    const ag_stage *before;  /* a stage by rows that is so short that each worker does it for itself first; or NULL */
    uint32_t items, chunks, generations;
    uint32_t from[AG_JOB_GENERATIONS], size[AG_JOB_GENERATIONS]; /* of a generation: its first item, items in a chunk */
    const ag_node *store;    /* attention: the KV_STORE node whose work it does as well, or NULL */
    ag_attn_share *share;    /* attention: its units, laid out for each step */
    uint32_t cols, col_block, tiles, unit; /* of products: an item is `unit` tiles times a block of columns */
} ag__job;

/* The jobs of all steps with the same counts of rows. */
typedef struct ag__step {
    uint32_t rows, outs, states;
    bool single;             /* each row is a sequence of its own */
    uint64_t used;           /* when last: the oldest makes room */
    uint32_t n_jobs;
    ag__job *jobs;           /* room for every stage */
} ag__step;
#define AG_STEPS_CACHED 16

typedef struct ag__turn {    /* of a job in the step being run */
    _Alignas(64) _Atomic uint32_t next; /* chunk */
    _Alignas(64) _Atomic uint32_t done; /* chunks */
} ag__turn;

struct ag_backend {
    uint32_t magic;
    const ag_plan *plan;
    const ag_graph *g;
    const ag_cpu_isa *isa;
    const ag_cpu_ops *ops;
    ag_pool *pool;
    ag_weights weights;
    const ag_pack *packs;    /* weights.packs */
    uint64_t embedded;       /* rows of the embedding table since their pages were given back */
    unsigned char *arena;    /* activations */
    size_t arena_bytes;
    /* Page after page, in each the layers' keys and values beside each other: what a short sequence touches lies
     * together. */
    unsigned char *kv;
    ag_kv_type kv_type;
    size_t kv_bytes;
    size_t page_stride, k_page, v_page; /* bytes of a page, and of one layer's keys and values in it */
    uint32_t pages;
    unsigned char *scratch;  /* scratch_bytes per worker */
    size_t scratch_bytes;
    float *rope[AG_ARRAY_LEN(((ag_graph *)0)->ropes)]; /* [rows][cos n_rot/2, sin n_rot/2] */
    /* Of the step being run. */
    const ag_batch *batch;
    uint32_t *row_span;      /* by row */
    uint32_t states_from;    /* of the step that ran last: the first of its states that was wanted */
    ag_attn_shares shares;
    const ag__step *step;
    ag__turn *turns;         /* by job */
    ag__step steps[AG_STEPS_CACHED];
    uint64_t clock;          /* steps run */
    /* Values that a worker may have for itself alone: their place in its memory; -1: not. */
    int64_t *own_at;
    size_t own_bytes;        /* per worker, behind its scratch */
};

struct ag__lane {            /* a worker in a job */
    const ag_backend *b;
    const ag__job *job;
    uint32_t worker;
    unsigned char *scratch;
    unsigned char *own;      /* values made by job->before */
};

static inline size_t ag__exec_stride(const ag_backend *b, ag_vid v)
{
    return ag_value_stride(&b->g->values[ag_graph_base(b->g, v, NULL)]);
}

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

/* Rows and int8 forms that this worker reads and makes: its own where the job has a stage before it. */
static inline unsigned char *ag__lane_at(const ag__lane *l, ag_vid v)
{
    bool own = l->job->before && l->b->own_at[v] >= 0;
    return own ? l->own + l->b->own_at[v] : l->b->arena + l->b->g->values[v].at;
}

static inline float *ag__lane_row(const ag__lane *l, ag_vid v, uint32_t row)
{
    uint32_t offset;
    ag_vid base = ag_graph_base(l->b->g, v, &offset);
    return (float *)(void *)ag__lane_at(l, base) + row * ag_value_stride(&l->b->g->values[base]) + offset;
}

static inline ag_act ag__lane_act(const ag__lane *l, ag_vid q)
{
    const ag_value *x = &l->b->g->values[q];
    ag_act a = {0};
    ag_act_place(&a, x->width, ag_value_rows(l->b->plan, x), ag__lane_at(l, q));
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

/* Bodies of jobs. */
ag__job_fn ag__exec_rows, ag__exec_tiles, ag__exec_heads, ag__exec_attn;
/* The nodes of a stage by rows for rows [from,to). */
void ag__exec_rows_of(const ag__lane *l, const ag_stage *s, uint32_t from, uint32_t to);
/* Asks for the first weights of an item. */
void ag__exec_tiles_ahead(const ag__lane *l, uint32_t item);
/* Fills in what products need of a job for `rows` rows; returns its items. */
uint32_t ag__exec_tile_items(const ag_backend *b, ag__job *j, uint32_t rows);
size_t ag__exec_attn_scratch_bytes(const ag_node *n);
/* Whether attention may do the work of the heads stage before it where each row is a sequence of its own. */
bool ag__exec_attn_takes_heads(const ag_backend *b, const ag_stage *heads);
/* Bytes of scratch that any stage of the plan may want per worker. */
size_t ag__exec_scratch_bytes(const ag_plan *p);

/* The steps' jobs: memory for all of them (AG_E_NOMEM); what workers may have for themselves. */
int ag__jobs_open(ag_backend *b, ag_err *err);
void ag__jobs_close(ag_backend *b);
/* Runs all jobs of b->batch. */
void ag__jobs_run(ag_backend *b);

#endif
