/* conf.h - settings: defaults, then a YAML file, then the environment, then flags; the later one wins.
 * Owns    : an ag_conf owns its texts; the struct is held by the caller (init/fini).
 * Threads : one at a time; a finished ag_conf is read-only and may be read by any.
 * Limits  : a file of 1 MiB, groups of keys of scalars or lists and nothing deeper; text and range limits per row of
 *           conf.def.
 * Errors  : AG_E_USAGE with source, setting, value and the right form in the sentence; AG_E_IO (the file), AG_E_NOMEM.
 *           After an error the conf is only good for ag_conf_fini. */
#ifndef AG_CONF_H
#define AG_CONF_H

#include <stdio.h>

#include "base/buf.h"
#include "base/err.h"

#define AG_CONF_FILE_MAX (1u << 20)

typedef uint32_t ag_conf_u32;
typedef uint64_t ag_conf_u64;
typedef uint64_t ag_conf_size;
typedef uint32_t ag_conf_duration; /* milliseconds */
typedef bool ag_conf_flag;
typedef char *ag_conf_text; /* never NULL after init */
typedef char *ag_conf_choice;
typedef char *ag_conf_list; /* comma-separated, no blanks around items, "" for none */

typedef struct ag_conf {
#define AG_CONF(type, field, ...) ag_conf_##type field;
#include "base/conf.def"
#undef AG_CONF
} ag_conf;

typedef enum ag_conf_id {
#define AG_CONF(type, field, ...) AG_CONF_##field,
#include "base/conf.def"
#undef AG_CONF
    AG_CONF_COUNT
} ag_conf_id;

typedef enum ag_conf_type {
    AG_CONF_TYPE_u32, AG_CONF_TYPE_u64, AG_CONF_TYPE_size, AG_CONF_TYPE_duration, AG_CONF_TYPE_flag, AG_CONF_TYPE_text,
    AG_CONF_TYPE_choice, AG_CONF_TYPE_list
} ag_conf_type;

typedef enum ag_conf_reload { AG_CONF_RESTART, AG_CONF_LIVE } ag_conf_reload;
typedef enum ag_conf_from { AG_CONF_ANY, AG_CONF_CLI, AG_CONF_ENV } ag_conf_from;

typedef struct ag_conf_row {
    ag_conf_type type;
    size_t offset; /* in ag_conf */
    const char *flag, *group, *def;
    uint64_t min, max;
    const char *unit;
    ag_conf_reload reload;
    ag_conf_from from;
    const char *help;
} ag_conf_row;

const ag_conf_row *ag_conf_row_at(ag_conf_id id);

int ag_conf_init(ag_conf *c, ag_err *err); /* the defaults */
void ag_conf_fini(ag_conf *c);             /* zeroed structs are fine; secrets are wiped */

/* Words of a command line that are no setting (arguments, a command's own flags). Returns how many words it took,
 * starting at argv[at]; 0: not known, which is then an error that names the nearest flag; -1: *err was set. */
typedef int ag_conf_other_fn(void *arg, int argc, char **argv, int at, ag_err *err);

typedef struct ag_conf_input {
    int argc; /* words after the command's name */
    char **argv;
    char **env;         /* as environ */
    const char *groups; /* "model,engine": only these flags and variables are known; NULL: all */
    ag_conf_other_fn *other;
    void *other_arg;
} ag_conf_input;

/* Defaults, file (--config or AUTOGLM_CONFIG), environment and flags into *c, which must not hold anything yet.
 * Variables that are set but empty count as not set. `--` ends the flags; a word given twice as flag: the last wins,
 * lists add up. */
int ag_conf_load(ag_conf *c, const ag_conf_input *in, ag_err *err);

/* *changed: how many LIVE settings differ; AG_E_USAGE names every RESTART one that does. */
int ag_conf_diff(const ag_conf *now, const ag_conf *next, uint32_t *changed, ag_err *err);

/* One setting by its text. `source` stands in front of the sentence ("--port"). */
int ag_conf_set(ag_conf *c, ag_conf_id id, const char *source, ag_str value, ag_err *err);
bool ag_conf_get(const ag_conf *c, ag_conf_id id, ag_buf *out); /* canonical text; a secret is "(set)" or "" */

bool ag_conf_help(const char *groups, ag_buf *out);  /* for --help */
bool ag_conf_markdown(ag_buf *out);                  /* docs/settings.md */

#endif
