/* engine.h - a model on a device: admits generations, batches them step by step, keeps their KV pages.
 * Owns    : plan, KV cache, thread pool, its thread, the generations that were submitted and have not ended.
 * Threads : open and close by one; submit, cancel and stats from any, none of which may still run when close is called
 *           (submit and cancel are asserted); afterwards cancel, read and put are fine. Everything else happens on the
 *           engine's thread, which is compute worker 0.
 * Limits  : ctx_tokens of KV in all, running_max sequences at once, queue_max waiting.
 * Errors  : open: AG_E_NOMEM, AG_E_FILE (a tensor missing or of the wrong shape), AG_E_UNSUPPORTED, AG_E_USAGE. */
#ifndef AG_ENGINE_H
#define AG_ENGINE_H

#include "engine/backend.h"
#include "engine/gen.h"
#include "model/model.h"
#include "observe/metrics.h"

typedef struct ag_engine_conf {
    uint32_t threads;      /* 0: one per core that this process may use */
    const char *isa;       /* NULL or "auto": the best of this machine; else a name of ag_cpu_isa_find */
    uint64_t ctx_tokens;   /* tokens of KV cache in all; 0: what fits half of the free memory */
    uint32_t running_max;  /* sequences decoding at once */
    uint32_t queue_max;    /* generations waiting */
    uint32_t chunk_tokens; /* prefill tokens a step while others decode */
    ag_kv_type kv;         /* see backend.h */
    const char *no_pass;   /* comma-separated names of passes to leave out; NULL: none */
    ag_metrics *metrics;   /* gets the time of each step and the gap before each token; NULL: none */
    void (*progress)(void *arg, uint64_t done, uint64_t all); /* while weights are repacked; NULL: silent */
    void *progress_arg;
    ag_image_mode image;   /* see backend.h */
    const char *image_dir;
    void (*note)(void *arg, bool bad, const char *text);
    void *note_arg;
} ag_engine_conf;
#define AG_ENGINE_CONF_DEFAULT ((ag_engine_conf){.running_max = 64, .queue_max = 1024, .chunk_tokens = 64})

typedef struct ag_engine_stats { /* a snapshot; counters only grow */
    uint32_t waiting, running;
    uint64_t kv_pages, kv_pages_used;
    uint64_t steps, prompt_tokens, output_tokens, preemptions, cancelled;
} ag_engine_stats;

int ag_engine_open(ag_engine **out, const ag_model *m, const ag_engine_conf *conf, ag_err *err);
/* No new submissions (AG_E_DRAINING); what was submitted goes on. */
void ag_engine_drain(ag_engine *e);
void ag_engine_close(ag_engine *e); /* cancels what is left, joins its threads */

const ag_model *ag_engine_model(const ag_engine *e);
uint32_t ag_engine_ctx_max(const ag_engine *e); /* tokens that one sequence may have: min(model's, KV) */
void ag_engine_stats_get(ag_engine *e, ag_engine_stats *out);
const char *ag_engine_isa(const ag_engine *e);

#endif
