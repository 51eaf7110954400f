/* load_answer.h - one answer as it streams in: when its text came, how many tokens it was, how it ended.
 * Owns    : what is kept of an unfinished event and of an error's body.
 * Threads : one.
 * Limits  : those of load.h; ERROR_MAX bytes of a body that is no stream are kept.
 * Errors  : none; ag_answer_take returns false for "hang up", and ag_answer_end counts why. */
#ifndef AG_LOAD_ANSWER_H
#define AG_LOAD_ANSWER_H

#include <curl/curl.h>

#include "cli/load.h"
#include "cli/load_sse.h"

typedef struct ag_answer {
    ag_sse sse;
    ag_buf error; /* the body of an answer that is no stream, or the error event's data */
    ag_load_stats *all, *mine;
    uint64_t due_us, now_us, first_us, last_us, bytes;
    uint64_t events;        /* with text in them */
    int64_t prompt, tokens; /* usage; -1: not told */
    bool checked, stream, done;
    bool cut;               /* it says that it was stopped before its end */
    ag_load_fail fail;      /* AG_LOAD_FAILS: none so far */
} ag_answer;

void ag_answer_init(ag_answer *a);
void ag_answer_fini(ag_answer *a);
void ag_answer_begin(ag_answer *a, uint64_t due_us, ag_load_stats *all, ag_load_stats *mine);
bool ag_answer_take(ag_answer *a, CURL *easy, const char *p, size_t n);
/* True: complete. The counts go into r and its tenant's `mine`. */
bool ag_answer_end(ag_answer *a, CURLcode code, long status, ag_load_result *r, ag_load_stats *mine);
void ag_answer_cut(ag_answer *a, ag_load_result *r, ag_load_stats *mine); /* the run ended before it did */

#endif
