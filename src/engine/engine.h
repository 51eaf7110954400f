/* engine.h - a model on a device: admits generations, batches them step by step, keeps their KV pages.
 * Owns    : plan, KV cache, thread pool, its thread, the generations that were submitted and have not ended.
 * Threads : open and close by one; submit, cancel, move and stats from any, at once, whatever the engine computes
 *           (door.h), none of which may still run when close is called; afterwards cancel, read and put are fine. Steps
 *           run on the engine's thread, which is compute worker 0, or, with by_turns, on those that call
 *           ag_engine_turn; a clock's thread puts out those whose deadline comes while they wait.
 * Limits  : ctx_tokens of KV in all, running_max sequences at once; queue_max generations, queue_tokens tokens and
 *           queue_bytes bytes waiting.
 * Errors  : open: AG_E_NOMEM, AG_E_FILE (a tensor missing or of the wrong shape), AG_E_UNSUPPORTED, AG_E_USAGE. */
#ifndef AG_ENGINE_H
#define AG_ENGINE_H

#include "engine/backend.h"
#include "engine/gen.h"
#include "model/model.h"
#include "observe/metrics.h"
#include "queue/queue.h"

typedef struct ag_engine_conf {
    uint32_t threads;      /* 0: one per core that this process may use */
    const char *isa;       /* NULL or "auto": the best of this machine; else a name of ag_cpu_isa_find */
    uint64_t ctx_tokens;   /* tokens of KV cache in all; 0: what fits half of the memory that the weights leave free */
    uint32_t running_max;  /* sequences decoding at once */
    /* See queue.h and sched.h for what these mean. */
    uint32_t queue_max;    /* generations waiting */
    uint64_t queue_tokens, queue_bytes; /* what those may come to; 0: no limit */
    uint64_t band_age_us;  /* nobody of a band admitted for so long: the longest waiting rises; 0: never */
    uint32_t prompt_weight, output_weight; /* of a token, in shares between tenants */
    double step_ratio;     /* a step with prompts takes at most so many times what it takes without, */
    uint32_t step_gap_us;  /* or so long, where many wait and */
    uint32_t step_short_us; /* for prompts of so little time, */
    uint32_t step_rows_min; /* but takes so many prompt tokens in any case */
    bool no_reuse;         /* prefixes are not shared */
    bool refuse_late;      /* what cannot meet its deadline by the estimate is refused at once */
    bool by_turns;         /* no thread of its own: see ag_engine_turn */
    ag_kv_type kv;         /* see backend.h */
    const char *no_pass;   /* comma-separated names of passes to leave out; NULL: none */
    ag_metrics *metrics;   /* gets the time of each step and the gap before each token; NULL: none */
    void (*progress)(void *arg, uint64_t done, uint64_t all); /* while weights are repacked; NULL: silent */
    void *progress_arg;
    ag_image_mode image;   /* see backend.h */
    const char *image_dir;
    void (*note)(void *arg, bool bad, const char *text);
    void *note_arg;
    /* What is kept of prompts goes into this file when the engine is closed, prefix_bytes of it at most, and is taken
     * from it by the next that is opened (prefix.h); NULL: it is lost. Notes of their own; NULL: silent. */
    const char *prefix_path;
    uint64_t prefix_bytes;
    void (*prefix_note)(void *arg, bool bad, const char *text);
} ag_engine_conf;
#define AG_ENGINE_CONF_DEFAULT                                                                                         \
    ((ag_engine_conf){.running_max = 64,                                                                               \
                      .queue_max = 1024,                                                                               \
                      .band_age_us = 30000000,                                                                         \
                      .prompt_weight = 1,                                                                              \
                      .output_weight = 4,                                                                              \
                      .step_ratio = 1.3,                                                                               \
                      .step_gap_us = 50000,                                                                            \
                      .step_short_us = 200000,                                                                         \
                      .step_rows_min = 1,                                                                              \
                      .refuse_late = true})

typedef struct ag_engine_stats { /* a snapshot; what has no present tense only grows */
    uint32_t waiting, running, waiting_by_band[AG_BANDS];
    uint64_t queue_tokens, queue_bytes;
    uint64_t kv_pages, kv_pages_used /* by those who run */, kv_pages_kept /* for reuse */, kv_pages_free,
        kv_pages_reclaimed;
    uint64_t kv_pages_restored; /* taken from prefix_path when it was opened */
    uint64_t steps;
    uint64_t prompt_tokens, output_tokens; /* computed for the first time */
    uint64_t again_tokens;   /* computed again, after having been set back */
    uint64_t reused_tokens;  /* prompt tokens of ended generations that were found in the cache */
    uint64_t asked_tokens;   /* all of those that might have been */
    uint64_t preemptions, set_back_pages, set_back_urgent, set_back_share; /* set back, and why; see ag_sched_stats */
    uint64_t displaced, expired, timed_out, refused_full, refused_late, cancelled;
    double step_error;       /* moving mean of |predicted - real| / real of a step's time */
    double service_rate;     /* units of service a second while busy */
    uint32_t threads;        /* that compute */
    uint64_t busy_us;        /* time of theirs inside steps, but for waiting at barriers */
} ag_engine_stats;

int ag_engine_open(ag_engine **out, const ag_model *m, const ag_engine_conf *conf, ag_err *err);
/* No new submissions (AG_E_DRAINING); what was submitted goes on. */
void ag_engine_drain(ag_engine *e);
void ag_engine_close(ag_engine *e); /* cancels what is left, joins its threads */

/* With by_turns, for a backend whose steps cost less than waking a thread for them: takes the next step on the caller's
 * thread, which waits for one that another takes. Whoever submits, cancels or moves calls it until it says false before
 * it sleeps. false: there is nothing to do, or the engine has a thread for it. */
bool ag_engine_turn(ag_engine *e);

const ag_model *ag_engine_model(const ag_engine *e);
uint32_t ag_engine_ctx_max(const ag_engine *e); /* tokens that one sequence may have: min(model's, KV) */
void ag_engine_stats_get(ag_engine *e, ag_engine_stats *out);
const char *ag_engine_isa(const ag_engine *e);
/* What all its answers depend on: the model's file, by ag_gguf_digest, and the numbers of the KV cache. The same in
 * every process that serves the same. */
uint64_t ag_engine_identity(const ag_engine *e);
/* Another number than before: stored weights were found damaged, and what was computed until then may be wrong. Any
 * thread. */
uint32_t ag_engine_damage(const ag_engine *e);

#endif
