/* engine_inner.h - an engine from inside: the door where work comes in, and what its thread computes with.
 * Owns    : see engine.h.
 * Threads : "set" is constant after open; the door and the vocabulary for JSON have locks of their own; "step" is the
 *           engine's thread's alone, or that of the one whose turn it is. */
#ifndef AG_ENGINE_INNER_H
#define AG_ENGINE_INNER_H

#include "engine/door.h"
#include "engine/lm.h"
#include "engine/sampler.h"

#define AG_ENGINE_MAGIC 0x454e4749u
#define AG_ENGINE_BANNED 64u

struct ag_engine {
    uint32_t magic;
    /* set */
    const ag_model *model;
    ag_engine_conf conf;
    pthread_t thread;
    bool started;
    ag_lm *lm;
    int32_t banned[AG_ENGINE_BANNED]; /* tokens that end an answer */
    uint32_t n_banned;
    uint32_t restored;        /* pages from conf.prefix_path, which is the engine's own copy */
    int open_rc;
    ag_err open_err;
    sem_t opened;

    ag_door door;
    sem_t bell;
    pthread_mutex_t turn;     /* by_turns: whoever takes a step holds it, and what is "step" here */
    _Atomic bool closing;
    _Atomic uint64_t steps, output_tokens;

    pthread_mutex_t json_lock;
    ag_json_vocab *json;      /* made for the first answer that is to be JSON */

    /* step */
    ag_sampler **samplers;    /* one per worker */
    uint32_t n_samplers;
    const ag_sched_step *step;
    ag_span *spans;           /* running_max */
    uint32_t *out_rows;       /* rows_max */
    ag_sample *samples;       /* out_max */
    int *sample_rc;
    const float *logits;
    size_t logits_stride;
    const float *states;
    size_t states_stride;
    uint32_t *states_at;      /* running_max: the first row of each of the step's states */
    bool *states_bad;         /* running_max: they come to no embedding */
    uint32_t damage_seen;     /* of ag_weights_info */
};

/* What weights that were found damaged had a part in ends, and is not kept. Inside of the door, or when nobody is
 * there. */
void ag__engine_heed(ag_engine *e, uint32_t damage);
void ag__engine_prefixes_load(ag_engine *e); /* before the first step */
void ag__engine_prefixes_save(ag_engine *e); /* after the last */

/* The vocabulary as answers that are JSON need it; it stays. Any thread. AG_E_UNSUPPORTED, AG_E_NOMEM. */
int ag__engine_json(ag_engine *e, const ag_json_vocab **out, ag_err *err);

#endif
