#include "engine/weights.h"

#include "base/mem.h"

typedef struct filling {
    const ag_weight *w;
    const ag_pack *pack;
} filling;

static void fill_tiles(void *arg, uint32_t worker, uint32_t from, uint32_t to)
{
    (void)worker;
    const filling *f = arg;
    const ag_quant_row *q = ag_quant_find(f->w->t->type);
    const unsigned char *src = f->w->t->data;
    ag_pack_fill(f->pack, src + (uint64_t)f->w->row0 * (f->w->k / q->block * q->bytes), from, to);
}

static int pack_all(ag_weights *w, const ag_plan *p, ag_pool *pool, const ag_backend_conf *conf, ag_err *err)
{
    w->packs = ag_mem_array(p->n_packs + 1, sizeof *w->packs);
    if (w->packs == NULL) return ag_err_set(err, AG_E_NOMEM, "no memory for the weights' table");
    size_t all = 0;
    for (uint32_t i = 0; i < p->n_packs; i++) {
        ag_pack_shape(&w->packs[i], p->packs[i].t->type, p->packs[i].rows, p->packs[i].k);
        all += AG_ALIGN_UP((size_t)w->packs[i].tiles * w->packs[i].tile_bytes, 64);
    }
    w->n_bytes = all + 64;
    w->bytes = ag_mem_map(w->n_bytes);
    if (w->bytes == NULL) return ag_err_set(err, AG_E_NOMEM, "no memory for %zu bytes of weights", w->n_bytes);
    size_t at = 0;
    for (uint32_t i = 0; i < p->n_packs; i++) {
        ag_pack *k = &w->packs[i];
        k->data = w->bytes + at;
        filling f = {&p->packs[i], k};
        ag_pool_run(pool, fill_tiles, &f, k->tiles, AG_MAX(k->tiles / (8 * ag_pool_threads(pool)), 1u));
        at += AG_ALIGN_UP((size_t)k->tiles * k->tile_bytes, 64);
        /* Giving the file's pages back tensor by tensor keeps the peak of memory near one copy of the weights. */
        if (p->packs[i].t != p->graph->embedding) ag_gguf_tensor_release(p->graph->gguf, p->packs[i].t);
        if (conf->progress) conf->progress(conf->progress_arg, at, all);
    }
    return AG_OK;
}

int ag_weights_open(ag_weights *w, const ag_plan *plan, ag_pool *pool, const ag_backend_conf *conf, ag_err *err)
{
    *w = (ag_weights){0};
    int rc = pack_all(w, plan, pool, conf, err);
    if (rc != AG_OK) ag_weights_close(w);
    return rc;
}

void ag_weights_close(ag_weights *w)
{
    ag_mem_unmap(w->bytes, w->n_bytes);
    ag_mem_free(w->packs);
    *w = (ag_weights){0};
}
