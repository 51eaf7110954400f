/* record.h - an answer as the response cache keeps it: what its generations came to, whatever dialect it was asked for
 * in and whether it was streamed. Numbers as protobuf writes them, behind a byte for the version.
 * Owns    : nothing.
 * Threads : any.
 * Limits  : AG_RECORD_BYTES_MAX. What is read is checked, and bounded by its own length before memory is taken for it:
 *           a record may come from another server.
 * Errors  : make: AG_E_NOMEM, also where it is larger. read: AG_E_FILE (it is none, or not of these answers),
 *           AG_E_NOMEM. */
#ifndef AG_RECORD_H
#define AG_RECORD_H

#include "cache/cache.h"
#include "engine/engine.h"

#define AG_RECORD_BYTES_MAX (64u << 20)

typedef struct ag_record_prompt { const int32_t *ids; uint32_t n; } ag_record_prompt;

/* What the answers of a request are like, which its key says: a record must be so too. */
typedef struct ag_record_form {
    uint32_t n;                 /* answers, */
    uint32_t per_prompt;        /* so many to each prompt */
    const ag_record_prompt *prompts; /* where their log probabilities are told; NULL: they are not */
    int32_t top_logprobs;
    bool embed;
    const int32_t *shown;
    uint32_t n_shown;
} ag_record_form;

/* Of generations that have ended by themselves. */
int ag_record_make(ag_cache_value **out, ag_engine *e, const ag_record_form *form, ag_gen *const *gens);
/* gens: room for form->n, which are the caller's on AG_OK. */
int ag_record_read(ag_gen **gens, ag_engine *e, const ag_record_form *form, ag_str bytes);

#endif
