/* gen_inner.h - a generation from inside: what its creator set, what the engine works on, what readers see.
 * Owns    : see gen.h.
 * Threads : "set" is constant after create; "door" belongs to whoever holds the engine's lock (door.h), from submit to
 *           the end; "step" to the engine's thread while it computes a step, else to the lock too; "shared" is atomic.
 * Limits, errors: those of gen.h. */
#ifndef AG_GEN_INNER_H
#define AG_GEN_INNER_H

#include "engine/gen.h"
#include "engine/json.h"
#include "engine/sched/sched.h"
#include "engine/stops.h"

#define AG_GEN_MAGIC 0x47454e21u
#define AG_GEN_CHUNK 256 /* tokens stored at a time */

typedef struct ag__gen_chunk {
    ag_gen_top *tops;     /* top_logprobs for each, or NULL */
    ag_gen_token token[]; /* AG_GEN_CHUNK, or what is left of max_tokens */
} ag__gen_chunk;

struct ag_gen {
    uint32_t magic;
    _Atomic uint32_t refs;
    ag_engine *engine;
    /* set */
    char tenant[AG_TENANT_NAME_MAX + 1];
    double weight;
    uint32_t tenant_label;   /* of metrics */
    uint32_t min_tokens, n_stop_tokens, n_bias, n_shown;
    bool ignore_eos, penalties;
    const ag_json_vocab *json; /* the engine's; NULL: the answer need not be JSON */
    char *json_heads;
    int32_t top_logprobs;
    int32_t stop_tokens[AG_GEN_STOPS_MAX], shown[AG_GEN_SHOWN_MAX];
    ag_logit_bias *bias;
    ag_sampling sampling;
    ag_mbox *notify;
    void *msg;
    /* of a follower: whose tokens it shows. Its seq has a band and a deadline, and is in no schedule */
    ag_gen *leader;
    /* door */
    ag_seq seq;              /* how many tokens, of which prompt, at most; what is computed; its place */
    ag_gen *next_late;       /* in the list of those to be told again */
    ag_gen *next_cancelled;  /* in the list of those to be ended before the next step */
    ag_gen *begun_before, *begun_after; /* among all that had a place once and have not ended */
    bool late, begun;        /* is in those lists */
    ag_gen *followers;       /* those that have not ended */
    ag_gen *led_before, *led_after; /* among all that have followers; of a follower, among its leader's */
    uint32_t followers_in[AG_BANDS], followers_free; /* of them: by band; without a deadline */
    uint64_t wait_guess_us;  /* what was expected of its wait when it came; 0: nothing */
    int fail_code;
    char fail_text[200];
    /* step */
    int32_t *tokens;         /* prompt and answer */
    uint32_t cap_tokens;
    uint16_t *counts;        /* with penalties: tokens of the answer */
    unsigned char *in_prompt;
    ag_stops stops;
    ag_json json_at;
    bool json_closing;       /* the length was so near that it could only be closed */
    uint64_t last_safe;
    /* embed: of its states so far; in the order of the prompt, whatever steps it is cut into */
    double *sum;
    /* shared */
    ag__gen_chunk *_Atomic *chunks; /* answer; max_tokens / AG_GEN_CHUNK + 1 of them, made as tokens come */
    ag_gen_token *prompt_tokens; /* n_prompt of them, with log probabilities of the prompt */
    ag_gen_top *prompt_tops;
    float *embedding;        /* embed */
    _Atomic uint32_t n_out, reused;
    _Atomic int state;       /* ag_gen_state */
    _Atomic bool submitted, cancelled, timed_out;
    _Atomic bool news;       /* a message was posted since the last read */
    _Atomic uint64_t text_bytes, retry_us;
    _Atomic uint64_t submit_us, admit_us, first_us, last_us, end_us;
};

/* Room for what readers see, by max_tokens and top_logprobs: the answer, so many scores of the prompt, the embedding.
 * false: no memory. */
bool ag__gen_room(ag_gen *g, uint32_t n_scored, bool embed);
/* Appends a token for readers to see. AG_E_NOMEM. */
int ag__gen_append(ag_gen *g, const ag_gen_token *t);
/* Tells the reader of news. false: the mailbox is full, try again later. */
bool ag__gen_tell(ag_gen *g);

#endif
