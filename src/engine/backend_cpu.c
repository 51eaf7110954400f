#include <stdio.h>

#include "base/mem.h"
#include "engine/exec.h"

uint64_t ag_backend_page_bytes(const ag_graph *g, ag_kv_type t)
{
    return (uint64_t)g->layers * g->kv_heads * (ag_kv_head_bytes(t, g->dim_k) + ag_kv_head_bytes(t, g->dim_v));
}

static int open_memory(ag_backend *b, const ag_backend_conf *conf, ag_err *err)
{
    const ag_plan *p = b->plan;
    const ag_graph *g = b->g;
    b->pages = conf->pages;
    b->kv_type = conf->kv;
    if (!ag_kv_fits(conf->kv, g->dim_k) || !ag_kv_fits(conf->kv, g->dim_v))
        return ag_err_set(err, AG_E_USAGE, "a KV cache of q8_0 needs heads of a multiple of 32 numbers; this model's keys have %u and values %u: f16 takes them", g->dim_k, g->dim_v);
    b->k_page = g->kv_heads * ag_kv_head_bytes(conf->kv, g->dim_k);
    b->v_page = g->kv_heads * ag_kv_head_bytes(conf->kv, g->dim_v);
    b->page_stride = g->layers * (b->k_page + b->v_page);
    uint64_t bytes;
    if (!ag_mul_ok(ag_backend_page_bytes(g, conf->kv), conf->pages, &bytes))
        return ag_err_set(err, AG_E_NOMEM, "a KV cache of %u pages is too large", conf->pages);
    b->kv_bytes = bytes;
    b->kv = ag_mem_map(b->kv_bytes);
    b->arena_bytes = p->arena_bytes + 64;
    b->arena = ag_mem_map(b->arena_bytes);
    b->scratch_bytes = ag__exec_scratch_bytes(p);
    if (ag__jobs_open(b, err) != AG_OK) return AG_E_NOMEM;
    b->scratch = ag_mem_aligned(64, (b->scratch_bytes + b->own_bytes) * ag_pool_threads(b->pool));
    b->row_span = ag_mem_array(p->rows_max, sizeof *b->row_span);
    bool ok = b->kv && b->arena && b->scratch && b->row_span;
    for (uint32_t i = 0; i < g->n_ropes && ok; i++)
        ok = (b->rope[i] = ag_mem_array((size_t)p->rows_max * g->ropes[i].n_rot + 1, sizeof(float))) != NULL;
    if (!ok)
        return ag_err_set(err, AG_E_NOMEM,
                          "no memory for activations (%zu bytes) and KV cache (%zu bytes); a smaller --ctx takes less",
                          b->arena_bytes, b->kv_bytes);
    int rc = ag_attn_shares_open(&b->shares, p, b->pages, ag_pool_threads(b->pool), err);
    if (rc != AG_OK) return rc;
    /* touched now, so that the first request does not wait for the kernel to clear pages */
    memset(b->arena, 0, b->arena_bytes);
    return AG_OK;
}

static void cpu_close(ag_backend *b)
{
    if (b == NULL) return;
    AG_CHECK(b, AG_BACKEND_MAGIC);
    ag_pool_close(b->pool);
    ag_weights_close(&b->weights);
    ag_mem_unmap(b->kv, b->kv_bytes);
    ag_mem_unmap(b->arena, b->arena_bytes);
    ag__jobs_close(b);
    ag_mem_free(b->scratch);
    ag_mem_free(b->row_span);
    ag_attn_shares_close(&b->shares);
    for (size_t i = 0; i < AG_ARRAY_LEN(b->rope); i++) ag_mem_free(b->rope[i]);
    b->magic = 0;
    ag_mem_free(b);
}

static int cpu_open(ag_backend **out, const ag_plan *plan, const ag_backend_conf *conf, ag_err *err)
{
    ag_backend *b = ag_mem_zalloc(sizeof *b);
    if (b == NULL) return ag_err_set(err, AG_E_NOMEM, "no memory for the backend");
    b->magic = AG_BACKEND_MAGIC;
    b->plan = plan;
    b->g = plan->graph;
    b->isa = ag_cpu_isa_find(conf->isa);
    int rc = AG_OK;
    if (b->isa == NULL) {
        char known[128] = "";
        for (const ag_cpu_isa *i = NULL; (i = ag_cpu_isa_next(i));)
            if (i->runs())
                snprintf(known + strlen(known), sizeof known - strlen(known), "%s%s", known[0] ? ", " : "", i->name);
        rc = ag_err_set(err, AG_E_USAGE,
                        "instruction set \"%.40s\" is not known or does not run here; this machine has %s", conf->isa,
                        known);
    } else {
        b->ops = b->isa->ops;
        rc = ag_pool_open(&b->pool, conf->threads ? conf->threads : ag_pool_cores(), err);
    }
    if (rc == AG_OK) rc = open_memory(b, conf, err);
    if (rc == AG_OK) rc = ag_weights_open(&b->weights, plan, b->pool, conf, err);
    b->packs = b->weights.packs;
    if (rc != AG_OK) {
        cpu_close(b);
        return rc;
    }
    *out = b;
    return AG_OK;
}

static void check_batch(const ag_backend *b, const ag_batch *s)
{
    AG_ASSERT(s->n_rows >= 1 && s->n_rows <= b->plan->rows_max && s->n_out <= b->plan->out_max &&
              s->n_states <= s->n_rows - s->n_out);
    uint32_t row = 0;
    for (uint32_t i = 0; i < s->n_spans; i++) {
        AG_ASSERT(s->spans[i].row == row && s->spans[i].n >= 1);
        row += s->spans[i].n;
    }
    AG_ASSERT(row == s->n_rows);
    for (uint32_t i = 0; i < s->n_out + s->n_states; i++)
        AG_ASSERT(s->out_rows[i] < s->n_rows && (i == 0 || i == s->n_out || s->out_rows[i - 1] < s->out_rows[i]));
}

static void lay_out_step(ag_backend *b, const ag_batch *s)
{
    b->batch = s;
    for (uint32_t i = 0; i < s->n_spans; i++) {
        for (uint32_t r = 0; r < s->spans[i].n; r++) b->row_span[s->spans[i].row + r] = i;
    }
    ag_attn_shares_lay_out(&b->shares, s);
}

/* Rows of the embedding table are read from the mapped file, and each may map 64 KiB around it. Given back every so
 * many, a long run does not come to hold a second copy of a large table. */
#define EMBED_ROWS 256u
#define EMBED_BYTES_MIN (64u << 20)

static void release_embeddings(ag_backend *b, uint32_t rows)
{
    const ag_gguf_tensor *t = b->g->embedding;
    b->embedded += rows;
    if (b->embedded < EMBED_ROWS || t->bytes < EMBED_BYTES_MIN) return;
    ag_gguf_release(b->g->gguf, t->data, t->bytes);
    b->embedded = 0;
}

static void cpu_run(ag_backend *b, const ag_batch *batch, const float **logits, size_t *stride)
{
    AG_CHECK(b, AG_BACKEND_MAGIC);
    check_batch(b, batch);
    lay_out_step(b, batch);
    ag_weights_step(&b->weights, true);
    ag__jobs_run(b);
    ag_weights_step(&b->weights, false);
    b->batch = NULL;
    b->states_from = batch->n_out;
    release_embeddings(b, batch->n_rows);
    *logits = batch->n_out ? ag__exec_row(b, b->g->logits, 0) : NULL;
    *stride = ag__exec_stride(b, b->g->logits);
}

static const float *cpu_states(const ag_backend *b, size_t *stride)
{
    *stride = ag__exec_stride(b, b->g->states);
    return ag__exec_row(b, b->g->states, b->states_from);
}

static void cpu_parallel(ag_backend *b, ag_backend_fn *fn, void *arg, uint32_t items)
{
    ag_pool_run(b->pool, fn, arg, items, 1);
}
static uint32_t cpu_threads(const ag_backend *b) { return ag_pool_threads(b->pool); }
static const char *cpu_isa(const ag_backend *b) { return b->isa->name; }
static uint64_t cpu_busy_us(const ag_backend *b)
{
    return atomic_load_explicit(&b->busy_ns, memory_order_relaxed) / 1000;
}
static uint64_t cpu_weight_bytes(const ag_backend *b) { return b->weights.n_bytes; }

static void cpu_weights(const ag_backend *b, ag_weights_info *out) { ag_weights_info_get(&b->weights, out); }
static void cpu_settle(ag_backend *b) { ag_weights_settle(&b->weights); }
static void cpu_clear(ag_backend *b) { memset(b->kv, 0, b->kv_bytes); }

static unsigned char *cpu_page(ag_backend *b, uint32_t page)
{
    AG_ASSERT(page < b->pages);
    return b->kv + page * b->page_stride;
}

const ag_backend_ops ag_backend_cpu = {"cpu",        cpu_open,    cpu_close, cpu_run,     cpu_states,
                                       cpu_parallel, cpu_threads, cpu_isa,   cpu_busy_us, cpu_weight_bytes,
                                       cpu_weights,  cpu_settle,  cpu_clear, cpu_page};
