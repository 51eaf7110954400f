#include "engine/lm.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/mem.h"

/* One number of a small file; 0 when it is not there or says "max". */
static uint64_t number_of(const char *path, const char *key)
{
    FILE *f = fopen(path, "re");
    if (f == NULL) return 0;
    char line[256];
    uint64_t v = 0;
    while (v == 0 && fgets(line, sizeof line, f))
        if (strncmp(line, key, strlen(key)) == 0) v = strtoull(line + strlen(key), NULL, 10);
    fclose(f);
    return v;
}

/* Of a machine, and of a control group with a limit (0: it has none), whose use counts files that are only kept in
 * memory while nobody wants it. 0: not known. */
static uint64_t memory_left(uint64_t machine, uint64_t limit, uint64_t used, uint64_t files)
{
    if (limit == 0) return machine;
    used -= AG_MIN(used, files);
    uint64_t left = limit > used ? limit - used : 1;
    return machine == 0 ? left : AG_MIN(left, machine);
}

uint64_t ag_lm_memory_free(void)
{
    const char *stat = "/sys/fs/cgroup/memory.stat";
    return memory_left(number_of("/proc/meminfo", "MemAvailable:") * 1024, number_of("/sys/fs/cgroup/memory.max", ""),
                       number_of("/sys/fs/cgroup/memory.current", ""),
                       number_of(stat, "inactive_file ") + number_of(stat, "active_file "));
}

/* What a KV cache may take by itself: half of what the weights, which come first, leave. Those that hardly fit may stay
 * in their file, and a context of a few words serves nobody: an eighth at least. */
static uint64_t memory_for_kv(uint64_t have, uint64_t weights)
{
    return AG_MAX(have > weights ? (have - weights) / 2 : 0, have / 8);
}

static int choose_pages(ag_lm *lm, const ag_lm_conf *conf, ag_err *err)
{
    uint64_t page = lm->page_bytes, tokens = conf->ctx_tokens, train = lm->model->hp.ctx_train;
    if (tokens == 0) {
        tokens = train * AG_MAX(conf->ctx_sequences, 1u);
        if (page) {
            uint64_t most = memory_for_kv(ag_lm_memory_free(), ag_gguf_file_bytes(lm->model->gguf)) / page;
            tokens = AG_MIN(tokens, AG_MAX(most, (uint64_t)1) * AG_KV_PAGE);
        }
    }
    uint64_t pages = (tokens + AG_KV_PAGE - 1) / AG_KV_PAGE;
    if (pages > UINT32_MAX / 2)
        return ag_err_set(err, AG_E_USAGE,
                          "a KV cache of %" PRIu64 " tokens is more than the %" PRIu64 " that can be addressed", tokens,
                          (uint64_t)(UINT32_MAX / 2) * AG_KV_PAGE);
    lm->pages = (uint32_t)pages;
    lm->ctx_max = (uint32_t)AG_MIN(train, pages * AG_KV_PAGE);
    return AG_OK;
}

static int build(ag_lm *lm, const ag_lm_conf *conf, ag_err *err)
{
    ag_graph_init(&lm->graph, lm->model->gguf);
    int rc = ag_arch_build(&lm->graph, &lm->model->hp, err);
    if (rc != AG_OK) return rc;
    lm->page_bytes = ag_backend_page_bytes(&lm->graph, conf->kv);
    if ((rc = choose_pages(lm, conf, err)) != AG_OK) return rc;
    return ag_passes_run(&lm->plan, &lm->graph, conf->rows_max, conf->out_max, conf->no_pass, conf->report, err);
}

/* No weights, so no graph: a plan of so many rows. */
static int build_null(ag_lm *lm, const ag_lm_conf *conf, ag_err *err)
{
    lm->plan.rows_max = conf->rows_max;
    lm->plan.out_max = conf->out_max;
    return choose_pages(lm, conf, err);
}

/* Activations are touched at once, unlike the KV cache: what cannot be there is refused before the kernel has to. */
static int check_memory(const ag_lm *lm, ag_err *err)
{
    uint64_t have = ag_lm_memory_free();
    if (have == 0 || lm->plan.arena_bytes < have) return AG_OK;
    return ag_err_set(err, AG_E_NOMEM,
                      "steps of %u rows take %" PRIu64 " bytes of activations, and %" PRIu64
                      " are free; a smaller --max-running takes less",
                      lm->plan.rows_max, lm->plan.arena_bytes, have);
}

int ag_lm_open(ag_lm **out, const ag_model *m, const ag_lm_conf *conf, ag_err *err)
{
    ag_lm *lm = ag_mem_zalloc(sizeof *lm);
    if (lm == NULL) return ag_err_set(err, AG_E_NOMEM, "no memory for model %s", m->name);
    lm->model = m;
    lm->ops = m->null ? &ag_backend_null : &ag_backend_cpu;
    lm->kv = conf->kv;
    int rc = m->null ? build_null(lm, conf, err) : build(lm, conf, err);
    if (rc == AG_OK) rc = check_memory(lm, err);
    if (rc == AG_OK) {
        ag_backend_conf bc = {.threads = conf->threads,
                              .isa = conf->isa,
                              .pages = lm->pages,
                              .kv = conf->kv,
                              .progress = conf->progress,
                              .progress_arg = conf->progress_arg,
                              .image = conf->image,
                              .image_dir = conf->image_dir,
                              .note = conf->note,
                              .note_arg = conf->note_arg,
                              .null_vocab = m->hp.vocab,
                              .null_width = m->hp.width,
                              .null_rate = m->null_rate};
        if (conf->no_pass && bc.image == AG_IMAGE_AUTO) bc.image = AG_IMAGE_READ;
        rc = lm->ops->open(&lm->backend, &lm->plan, &bc, err);
    }
    if (rc != AG_OK) {
        ag_lm_close(lm);
        return rc;
    }
    *out = lm;
    return AG_OK;
}

void ag_lm_close(ag_lm *lm)
{
    if (lm == NULL) return;
    if (lm->backend) lm->ops->close(lm->backend);
    ag_plan_fini(&lm->plan);
    ag_graph_fini(&lm->graph);
    ag_mem_free(lm);
}

void ag_lm_run(ag_lm *lm, const ag_batch *batch, const float **logits, size_t *stride)
{
    lm->ops->run(lm->backend, batch, logits, stride);
}
