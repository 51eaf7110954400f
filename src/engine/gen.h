/* gen.h - a generation: one prompt, how to sample, and the tokens that come of it; or one prompt and its embedding. Or
 * what reads like one: a follower shares another's tokens, with a reader, an end and a deadline of its own; a replay
 * has an answer that was computed before.
 * Owns    : its copy of everything in the spec; reference-counted (get/put), freed by the last put.
 * Threads : created and read by the gateway's side, run by the engine's. The engine appends tokens and publishes their
 *           count; readers on any thread see a prefix that never changes. The reader's progress never holds the engine.
 * Limits  : tokens are bounded by max_tokens (stored in chunks as they come), stop strings AG_GEN_STOPS_MAX of
 *           AG_GEN_STOP_BYTES_MAX bytes, bias AG_GEN_BIAS_MAX, top log probabilities AG_GEN_TOP_MAX.
 * Errors  : create: AG_E_PARAM, AG_E_CTX_LENGTH (prompt + max_tokens over the context), AG_E_UNSUPPORTED (json, for a
 *           vocabulary that cannot; embed, for a model that says how in no way that is known), AG_E_NOMEM. A generation
 *           that failed while running ends in AG_GEN_FAILED with its code and sentence. */
#ifndef AG_GEN_H
#define AG_GEN_H

#include <stdatomic.h>

#include "base/err.h"
#include "base/mbox.h"

#define AG_GEN_STOPS_MAX 16
#define AG_GEN_STOP_BYTES_MAX 1024
#define AG_GEN_BIAS_MAX 1024
#define AG_GEN_TOP_MAX 20
#define AG_GEN_SHOWN_MAX 16

typedef struct ag_engine ag_engine;
typedef struct ag_gen ag_gen;

typedef struct ag_logit_bias { int32_t id; float bias; } ag_logit_bias;

/* Ranges are checked by ag_gen_create. Neutral values switch a rule off. */
typedef struct ag_sampling {
    float temperature;        /* 0..10; 0: the most probable token */
    uint32_t top_k;           /* 0: off */
    float top_p;              /* (0,1]; 1: off */
    float min_p;              /* [0,1]; 0: off */
    float typical_p;          /* (0,1]; 1: off */
    float repetition_penalty; /* (0,10]; 1: off; over prompt and answer */
    float frequency_penalty;  /* -2..2; over the answer */
    float presence_penalty;   /* -2..2; over the answer */
    uint64_t seed;            /* the random number is a function of (seed, choice, position) */
    uint32_t choice;
} ag_sampling;
#define AG_SAMPLING_DEFAULT ((ag_sampling){.temperature = 1, .top_p = 1, .typical_p = 1, .repetition_penalty = 1})

typedef struct ag_gen_spec {
    const int32_t *prompt;
    uint32_t n_prompt;         /* at least 1 */
    uint32_t max_tokens;       /* 0: only the prompt is computed (echo with logprobs, embed) */
    bool embed;                /* no answer, but what the model makes of the prompt: its states, or the last one, as one
                                * vector of length 1; then max_tokens is 0, and only what says whose it is counts
                                * below */
    uint32_t min_tokens;       /* end tokens and stops are ignored before */
    bool ignore_eos;
    const int32_t *stop_tokens;
    uint32_t n_stop_tokens;    /* at most AG_GEN_STOPS_MAX */
    const ag_str *stops;
    uint32_t n_stops;
    const int32_t *shown;      /* control tokens that are written out in the answer's text, as other tokens are */
    uint32_t n_shown;          /* at most AG_GEN_SHOWN_MAX */
    const ag_logit_bias *bias;
    uint32_t n_bias;
    ag_sampling sampling;
    bool json;                 /* the answer is one JSON object, whole also when max_tokens, 2 at least, ends it */
    const char *json_heads;    /* it stands behind one of these, as ag_json_init_behind has them; NULL: it is all */
    /* -1: no log probabilities; 0..AG_GEN_TOP_MAX: the token's own and so many of the best */
    int32_t top_logprobs;
    bool prompt_logprobs;      /* of the prompt's tokens as well (echo) */
    /* After each step that appended tokens or ended it, `msg` is posted to `notify`, unless ag_gen_read has not been
     * called since an earlier post. A full mailbox is tried again at the next step. A message may come after its reader
     * has let go of the generation: let msg be a number that is looked up, not a pointer. NULL: nobody is told, read at
     * will. */
    ag_mbox *notify;
    void *msg;
    ag_str tenant;             /* whose share of the engine it is; empty: "default" */
    float weight;              /* of the tenant, above 0; 0: 1 */
    uint8_t band;              /* 0 most urgent .. 3; AG_BAND_DEFAULT of queue.h where nothing was asked for */
    /* Whom its prompt's pages may be found by: its tenant; those of a group, whoever they are; all who say so. */
    ag_str share_group;        /* n 0: none */
    bool share_all;            /* in place of a group */
    uint64_t deadline_us;      /* ag_now_us; 0: none */
    bool begun_with;           /* others of the same request were taken: no estimate refuses it */
} ag_gen_spec;

typedef enum ag_gen_state {
    AG_GEN_WAITING,
    AG_GEN_RUNNING,
    AG_GEN_STOPPED /* end token, stop token or string, end of json, embed done */,
    AG_GEN_LENGTH /* max_tokens or context */,
    AG_GEN_CANCELLED,
    AG_GEN_FAILED
} ag_gen_state;

typedef struct ag_gen_top { int32_t id; float logprob; } ag_gen_top;

typedef struct ag_gen_token {
    int32_t id;
    /* of the distribution before temperature and filters; NAN when not asked for or unknown */
    float logprob;
    const ag_gen_top *top;     /* n_top of them, best first; lives as long as the generation */
    uint32_t n_top;
    /* Bytes of the answer's text (ag_gen_piece of each token, put together) that are known to be outside any stop
     * string after this token: a streamed text may be sent up to here. */
    uint64_t text_safe;
} ag_gen_token;

int ag_gen_create(ag_gen **out, ag_engine *e, const ag_gen_spec *spec, ag_err *err);
ag_gen *ag_gen_get(ag_gen *g);
void ag_gen_put(ag_gen *g);

/* Hands it to the engine, which takes a reference until it has ended. AG_E_QUEUE_FULL, AG_E_DRAINING, AG_E_DEADLINE (it
 * cannot be ready in time), AG_E_PARAM (it could never fit the cache), AG_E_LIMIT (nor the queue); *retry_us (optional)
 * is then when there may be room, 0: unknown. Any thread; decided at once, the engine's step is not waited for. A
 * generation that was taken may yet be displaced by a more urgent one (AG_GEN_FAILED with AG_E_QUEUE_FULL) or meet its
 * deadline: before its first step it ends AG_GEN_FAILED with AG_E_DEADLINE, later AG_GEN_LENGTH with
 * ag_gen_timed_out. */
int ag_gen_submit(ag_gen *g, uint64_t *retry_us, ag_err *err);
/* The same for the answers of one request, of one tenant and band: all of them or none. */
int ag_gen_submit_all(ag_gen *const *gens, uint32_t n, uint64_t *retry_us, ag_err *err);
/* One that reads as `leader` does, which was submitted: the same tokens, told to a reader of its own. It ends with the
 * leader, or before, by ag_gen_cancel or at its own deadline, as a generation of its own would. The leader is as urgent
 * as the most urgent of its followers and has the latest of their deadlines; without a `notify` of its own it is
 * cancelled when the last of them is. Of a leader that has ended it has the end. Any thread. AG_E_CANCELLED: the leader
 * was cancelled; AG_E_NOMEM. */
typedef struct ag_gen_follow_spec {
    ag_mbox *notify;
    void *msg;
    uint8_t band;
    uint64_t deadline_us;
} ag_gen_follow_spec;
int ag_gen_follow(ag_gen **out, ag_gen *leader, const ag_gen_follow_spec *spec, ag_err *err);

/* One that has ended, made of what was read of another: begin, then each token in its order and each of the prompt's,
 * then end; its reader is not told. AG_E_NOMEM. */
typedef struct ag_gen_replay_spec {
    uint32_t n_tokens, n_prompt; /* n_prompt 0: without the prompt's log probabilities */
    int32_t top_logprobs;
    const int32_t *shown;
    uint32_t n_shown;
    bool embed;
} ag_gen_replay_spec;
int ag_gen_replay_begin(ag_gen **out, ag_engine *e, const ag_gen_replay_spec *spec);
int ag_gen_replay_token(ag_gen *g, const ag_gen_token *t);
void ag_gen_replay_prompt(ag_gen *g, uint32_t i, const ag_gen_token *t);
float *ag_gen_replay_embedding(ag_gen *g); /* as many numbers as the model is wide */
void ag_gen_replay_end(ag_gen *g, ag_gen_state state, uint64_t text_bytes, uint32_t reused);

/* Ends it: at once while it waits, before the engine's next step while it runs. Any thread, any number of times;
 * harmless after the end. */
void ag_gen_cancel(ag_gen *g);

/* Copies up to `max` tokens from position `from` into out; returns how many. *state (optional) is read before the
 * tokens' count, so that an ended state with a short read means that this was all. */
uint32_t ag_gen_read(ag_gen *g, uint32_t from, ag_gen_token *out, uint32_t max, ag_gen_state *state);
uint32_t ag_gen_count(const ag_gen *g); /* tokens so far, without reading them */
static inline bool ag_gen_ended(ag_gen_state s) { return s >= AG_GEN_STOPPED; }
/* After the end, when AG_GEN_FAILED: why. */
int ag_gen_error(ag_gen *g, ag_err *err);
/* The bytes that one of its tokens stands for in its text. */
ag_str ag_gen_piece(const ag_gen *g, int32_t id);
/* Bytes of the answer's text, final after the end. A token that ended the answer (end token) is not in the list; a stop
 * string is in the list of tokens but not in these bytes. */
uint64_t ag_gen_text_bytes(ag_gen *g);
/* Prompt tokens' log probabilities (prompt_logprobs), valid after the first token or the end: n_prompt of them, the
 * first NAN; NULL when they were not asked for. */
const ag_gen_token *ag_gen_prompt(ag_gen *g);
/* The embedding, valid after AG_GEN_STOPPED: as many numbers as the model is wide. NULL: none was asked for. */
const float *ag_gen_embedding(const ag_gen *g);

bool ag_gen_timed_out(ag_gen *g);   /* after the end: its deadline came while it ran */
uint32_t ag_gen_reused(ag_gen *g);  /* prompt tokens that were found in the cache; after the first token */
/* After AG_GEN_FAILED with AG_E_QUEUE_FULL: when there may be room, by the estimate; 0: unknown. */
uint64_t ag_gen_retry_us(ag_gen *g);
/* Another band, while it waits or runs; harmless after the end. Any thread. */
void ag_gen_move(ag_gen *g, uint8_t band);
typedef struct ag_gen_wait {
    ag_gen_state state;
    uint8_t band;
    uint32_t position;         /* while it waits: 1 is next; by estimate where several tenants wait */
    uint64_t waited_us, wait_us; /* so far; still to wait, by the estimate, 0: unknown */
} ag_gen_wait;
void ag_gen_wait_get(ag_gen *g, ag_gen_wait *out); /* any thread */

/* ag_now_us; 0: not yet */
typedef struct ag_gen_times { uint64_t submit_us, admit_us, first_us, last_us, end_us; } ag_gen_times;
void ag_gen_times_get(ag_gen *g, ag_gen_times *out);

#endif
