/* backend.h - a device that runs plans: packed weights, the KV cache's memory, one batched step at a time.
 * Owns    : everything on the device. The plan and the model that it was opened with must outlive it.
 * Threads : open, run and close from one thread, the engine's; a backend has workers of its own.
 * Limits  : rows_max and out_max of the plan; KV pages given at open.
 * Errors  : open: AG_E_NOMEM, AG_E_USAGE (an instruction set that does not run here, a cache of q8_0 for heads that it
 *           does not fit), AG_E_INTERNAL (threads). A run of a valid batch cannot fail on the CPU.
 * Numerics: logits and state of a row depend on the tokens of its own sequence alone, bit for bit: not on the batch,
 *           nor on how the prompt was cut into steps. */
#ifndef AG_BACKEND_H
#define AG_BACKEND_H

#include "engine/passes/passes.h"

#define AG_KV_PAGE AG_CPU_KV_PAGE /* tokens */

typedef struct ag_span {   /* the rows of a step that belong to one sequence: consecutive, all in this one span */
    uint32_t row, n;       /* rows [row, row+n) */
    uint32_t pos;          /* position of the first */
    const uint32_t *pages; /* the sequence's page table; pages up to the last row's are there */
} ag_span;

typedef struct ag_batch {
    uint32_t n_rows, n_spans, n_out, n_states;
    const int32_t *tokens;    /* n_rows ids below the vocabulary's size */
    const ag_span *spans;     /* in order, covering all rows */
    const uint32_t *out_rows; /* n_out rows whose logits are wanted, ascending, then n_states others whose states are */
} ag_batch;

/* Counted up when a change of the program makes keys and values of other bits out of the same model and tokens, or lays
 * them out in another way: what was stored of them before is then of no use. */
#define AG_KV_NUMERICS 1u

typedef struct ag_backend ag_backend;

/* Whether repacked weights are kept in a file beside the model (image.h). AUTO: a stored one is used, and renewed when
 * it is stale; a new one is written for a model of a size where it pays, into a folder with plenty of room. */
typedef enum ag_image_mode { AG_IMAGE_OFF, AG_IMAGE_READ, AG_IMAGE_AUTO, AG_IMAGE_ON } ag_image_mode;

typedef struct ag_backend_conf {
    uint32_t threads; /* 0: one per core */
    const char *isa;
    uint32_t pages;   /* of KV cache */
    ag_kv_type kv;    /* numbers of the KV cache */
    void (*progress)(void *arg, uint64_t done, uint64_t all); /* bytes of weights repacked; NULL: silent */
    void *progress_arg;
    ag_image_mode image;
    const char *image_dir; /* NULL: beside the model */
    void (*note)(void *arg, bool bad, const char *text); /* a sentence for the log; from any thread; NULL: silent */
    void *note_arg;
    /* of the null backend: tokens, numbers of a state, tokens a second; 0: no pace */
    uint32_t null_vocab, null_width, null_rate;
} ag_backend_conf;

typedef struct ag_weights_info {
    bool from_image, written, moved; /* moved: all of it lies in memory of our own by now */
    /* Two more each time that stored weights were found damaged and mended; odd while they are being mended. What was
     * computed before a change of this number may be wrong. */
    uint32_t damage;
} ag_weights_info;

/* Work for the backend's threads outside of a step, such as sampling: items [from,to). */
typedef void ag_backend_fn(void *arg, uint32_t worker, uint32_t from, uint32_t to);

typedef struct ag_backend_ops {
    const char *name;
    int (*open)(ag_backend **out, const ag_plan *plan, const ag_backend_conf *conf, ag_err *err);
    void (*close)(ag_backend *b);
    /* Computes the step; *logits: n_out rows of *stride floats, until the next run. */
    void (*run)(ag_backend *b, const ag_batch *batch, const float **logits, size_t *stride);
    const float *(*states)(const ag_backend *b, size_t *stride); /* of the last run: n_states rows, until the next */
    void (*parallel)(ag_backend *b, ag_backend_fn *fn, void *arg, uint32_t items);
    uint32_t (*threads)(const ag_backend *b);
    const char *(*isa)(const ag_backend *b);
    /* Time that its threads have computed in steps so far, added up; waiting for each other is none. From any
     * thread. */
    uint64_t (*busy_us)(const ag_backend *b);
    uint64_t (*weight_bytes)(const ag_backend *b); /* packed weights, as read by a step of one row */
    void (*weights)(const ag_backend *b, ag_weights_info *out); /* from any thread */
    void (*settle)(ag_backend *b); /* waits until what open began in the background is done */
    /* Zeros in all of the KV cache, so that its memory is there. What was never written is one page of the kernel's,
     * which stays in the processor's caches however much of it is read. Between steps. */
    void (*clear)(ag_backend *b);
    unsigned char *(*page)(ag_backend *b, uint32_t page); /* of KV cache: its ag_lm.page_bytes; between steps */
} ag_backend_ops;

extern const ag_backend_ops ag_backend_cpu;
extern const ag_backend_ops ag_backend_null; /* computes nothing, of the plan needs its bounds alone: model/null.h */

/* Bytes of KV cache that one page takes on the CPU. */
uint64_t ag_backend_page_bytes(const ag_graph *g, ag_kv_type t);

#endif
