/* calls.h - calls of tools in the families' own words: which form a model's template asks for, and what is in a text.
 * Owns    : nothing; what is found is allocated from the caller's arena or points into the text and the tools.
 * Threads : any; pure.
 * Limits  : AG_CALLS_MAX calls in one text; the arena's.
 * Errors  : a text that only looks like a call is none: AG_SCAN_NO; without memory none is found either. */
#ifndef AG_CALLS_H
#define AG_CALLS_H

#include <jansson.h>

#include "base/arena.h"

#define AG_CALLS_MAX 128u
#define AG_TOOL_NAME_MAX 128u

typedef enum ag_calls_form {
    AG_CALLS_NONE,
#define AG_CALLS(id, has, not_, opener, markers, id_bytes, forced, form) AG_CALLS_##id,
#include "gateway/dialects/calls.def"
#undef AG_CALLS
    AG_CALLS_COUNT
} ag_calls_form;

typedef struct ag_calls_row {
    const char *has, *not_, *opener, *markers;
    uint32_t id_bytes;
    const char *forced;
} ag_calls_row;

/* The name as the tools have it, which lives as long as they; p NULL: none of them has it. */
ag_str ag_tool_name(const json_t *tools, ag_str name);
ag_calls_form ag_calls_find(ag_str chat_template);
const ag_calls_row *ag_calls_row_of(ag_calls_form form); /* not of AG_CALLS_NONE */

typedef struct ag_call {
    ag_str name, arguments; /* a JSON object, as the model wrote it */
} ag_call;

typedef struct ag_calls_found {
    ag_call *call;
    uint32_t n;
    size_t bytes; /* of the text that they took */
} ag_calls_found;

/* What text, which begins with the form's opener where it has one, begins with. MORE: more of it may be a call (never
 * with `last`, after which nothing comes). `tools` are OpenAI's; a call of another name is none. */
typedef enum ag_scan { AG_SCAN_NO, AG_SCAN_MORE, AG_SCAN_CALLS } ag_scan;
ag_scan ag_calls_scan(ag_calls_form form, ag_str text, bool last, const json_t *tools, ag_arena *mem,
                      ag_calls_found *out);

#endif
