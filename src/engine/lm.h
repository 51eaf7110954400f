/* lm.h - a model made ready to run on a backend: graph, passes, plan, packed weights, KV memory. No thread, no queue.
 * Owns    : all of these; the ag_model must outlive it.
 * Threads : open, run and close from one thread.
 * Limits  : rows_max rows and out_max logits a step, `pages` of KV cache.
 * Errors  : those of arch.h, passes.h and backend.h. */
#ifndef AG_LM_H
#define AG_LM_H

#include "engine/backend.h"
#include "model/model.h"

typedef struct ag_lm_conf {
    uint32_t threads;
    const char *isa, *no_pass;
    ag_kv_type kv;        /* see backend.h */
    uint32_t rows_max, out_max;
    /* of KV cache in all; 0: what fits half of the memory that the weights leave free, at most ctx_sequences times the
     * model's context */
    uint64_t ctx_tokens;
    uint32_t ctx_sequences;
    ag_buf *report;       /* what the passes did, or NULL */
    void (*progress)(void *arg, uint64_t done, uint64_t all);
    void *progress_arg;
    /* with passes left out, AUTO only reads: measuring should not take the image from those who serve */
    ag_image_mode image;
    const char *image_dir;
    void (*note)(void *arg, bool bad, const char *text);
    void *note_arg;
} ag_lm_conf;

typedef struct ag_lm {
    const ag_model *model;
    const ag_backend_ops *ops;
    ag_backend *backend;
    ag_graph graph;
    ag_plan plan;
    uint32_t pages;       /* of AG_KV_PAGE tokens */
    uint64_t page_bytes;  /* of one, all layers */
    ag_kv_type kv;        /* of the numbers in it */
    uint32_t ctx_max;     /* tokens that one sequence may have */
} ag_lm;

int ag_lm_open(ag_lm **out, const ag_model *m, const ag_lm_conf *conf, ag_err *err);
void ag_lm_close(ag_lm *lm);
void ag_lm_run(ag_lm *lm, const ag_batch *batch, const float **logits, size_t *stride);

/* Free memory that this process may use, in bytes: the machine's available and its control group's. 0: not known. */
uint64_t ag_lm_memory_free(void);

#endif
