/* text.h - an answer's bytes on their way out: only whole characters, and nothing that may yet become a stop string.
 * Owns    : the bytes held back.
 * Threads : one at a time.
 * Limits  : AG_TEXT_HELD_MAX bytes held back; a stop string and one token are far below.
 * Errors  : false: no memory, or more held back than the limit. */
#ifndef AG_TEXT_H
#define AG_TEXT_H

#include "base/buf.h"

#define AG_TEXT_HELD_MAX (4u << 20)

typedef struct ag_text {
    ag_buf held;
    uint64_t passed; /* bytes of the answer that are no longer here */
} ag_text;

void ag_text_init(ag_text *t);
void ag_text_fini(ag_text *t);
bool ag_text_add(ag_text *t, ag_str bytes);
/* What may be shown now: up to the answer's byte `safe`, without the beginning of a character at its end unless
 * `last`. */
ag_str ag_text_ready(const ag_text *t, uint64_t safe, bool last);
void ag_text_pass(ag_text *t, size_t n); /* n bytes of it have been shown */

#endif
