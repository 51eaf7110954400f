/* template.h - chat templates: the Jinja subset that published models use.
 * Owns    : a parsed template owns its tree. A rendering owns nothing that outlives the call.
 * Threads : a parsed template is immutable; renderings of it may run on any number of threads.
 * Limits  : ag_template_limits, per rendering; source 1 MiB; parsing and rendering use at most 320 KiB of stack.
 *           Integers have 64 bits, more is a "limit" error. Ranges have 100,000 items, as in the sandbox.
 * Errors  : an ag_template_error with kind, message, line and column (1-based; 0 when unknown).
 * Source  : Jinja 3.1's documentation; behaviour as jinja2 in an ImmutableSandboxedEnvironment set up as Hugging Face
 *           transformers do (trim_blocks, lstrip_blocks, loop controls, tojson, raise_exception, strftime_now). */
#ifndef AG_TEMPLATE_H
#define AG_TEMPLATE_H

#include <jansson.h>

#include "base/buf.h"
#include "base/err.h"

typedef struct ag_template ag_template;

typedef enum ag_template_kind {
    AG_TEMPLATE_SYNTAX = 1, AG_TEMPLATE_RUNTIME, AG_TEMPLATE_RAISED, AG_TEMPLATE_LIMIT, AG_TEMPLATE_NOMEM,
    AG_TEMPLATE_SANDBOX /* what jinja2's sandbox forbids: changing a list or dict, private attributes */
} ag_template_kind;

typedef struct ag_template_error {
    ag_template_kind kind; /* "syntax", "runtime", "raised", "limit", "nomem", "sandbox": ag_template_kind_name */
    uint32_t line, column;
    char message[480];
} ag_template_error;

typedef struct ag_template_limits {
    uint64_t steps;      /* statements and expressions evaluated, and 256 bytes of bulk work (searching, copying) */
    uint32_t depth;      /* nesting of blocks, macros, expressions, values; whatever it is, at most 320 KiB of stack */
    size_t output_bytes;
    size_t memory_bytes; /* of values made while rendering */
} ag_template_limits;

#define AG_TEMPLATE_LIMITS_DEFAULT \
    ((ag_template_limits){.steps = 2000000, .depth = 1000, .output_bytes = 16u << 20, .memory_bytes = 64u << 20})

const char *ag_template_kind_name(ag_template_kind k);

/* 0, or an AG_E_ code (AG_E_TEMPLATE, AG_E_LIMIT, AG_E_NOMEM) with *e filled. */
int ag_template_parse(ag_template **out, const char *source, size_t n, ag_template_error *e);
void ag_template_free(ag_template *t);

/* Renders into `out` (appended). `vars` is a JSON object: its members are the template's variables; JSON null is None,
 * a missing member is undefined. `now` is the local time strftime_now sees (seconds since 1970 as if UTC; the caller
 * has applied its zone), C locale. On an error `out` is left as it was before the call. */
int ag_template_render(const ag_template *t, const json_t *vars, int64_t now, const ag_template_limits *limits,
                       ag_buf *out,
                       ag_template_error *e);

#endif
