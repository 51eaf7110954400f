/* parts.h - a model's text taken apart as it comes: its reasoning, what it says, the tools that it calls.
 * A call is told when it is whole and known to be one; what only looks like a call stays text, to the byte. Blanks
 * between the reasoning, the text and the calls are nobody's and go.
 * Owns    : bytes that cannot be judged yet, and the calls found.
 * Threads : one at a time; pure: no clock, no chance.
 * Limits  : AG_CALL_BYTES_MAX for a call, AG_CALLS_MAX calls and what looked like ones; what is more is text.
 * Errors  : ag_parts_add: false without memory. */
#ifndef AG_PARTS_H
#define AG_PARTS_H

#include "base/buf.h"
#include "gateway/dialects/calls.h"

#define AG_CALL_BYTES_MAX (64u << 10)

/* How a model's answers are to be read, by its chat template. */
typedef struct ag_form {
    ag_calls_form calls;
    bool thinks;
    bool tools_in_message; /* GLM-4's template looks for the tools in a message, not beside them */
} ag_form;
ag_form ag_form_of(ag_str chat_template);

typedef enum ag_part_kind { AG_PART_TEXT, AG_PART_THINKING, AG_PART_CALL } ag_part_kind;

typedef struct ag_part {
    ag_part_kind kind;
    ag_str text; /* a call's: its arguments, a JSON object */
    ag_str name; /* the tool's */
    char id[32]; /* the call's; given by whoever tells it */
} ag_part;

typedef struct ag_parts {
    ag_form form;
    const json_t *tools; /* NULL: none may be called */
    bool forces;         /* all that comes is a call's, from where its name is known, or, */
    ag_str forced;       /* p NULL, from its name on */
    bool one_call;       /* what follows a first call is dropped */
    bool thinking;       /* inside of reasoning */
    bool said;           /* text was told since the beginning or the last call */
    bool begun;          /* reasoning can no longer begin */
    bool skip;           /* blanks that come now are dropped */
    uint32_t n_calls, n_refused;
    ag_calls_found found;
    uint32_t told;       /* of found */
    ag_buf held;
    size_t at;           /* held[at..] is not judged */
    size_t plain;        /* up to here it was looked at, and is no call */
    ag_arena mem;
} ag_parts;

/* tools: OpenAI's, an array; NULL: none. thinking: the prompt has opened the reasoning. */
void ag_parts_init(ag_parts *p, ag_form form, const json_t *tools, bool thinking, bool one_call);
/* Before the first add. The name lives as long as *p; p NULL: one of the tools is called, whose name comes first. */
void ag_parts_force(ag_parts *p, ag_str tool);
void ag_parts_fini(ag_parts *p);
bool ag_parts_add(ag_parts *p, ag_str bytes);
/* The next part that is sure; last: nothing more will be added. Its text lives until the next add.
 * false: none for now. A text may come in several parts. */
bool ag_parts_next(ag_parts *p, bool last, ag_part *out);

#endif
