/* cli.h - what the subcommands share: options, --help, how a failure is said, a progress bar.
 * Owns    : nothing but the settings inside an ag_cli (ag_cli_fini).
 * Threads : one.
 * Limits  : AG_CLI_ARGS_MAX arguments.
 * Errors  : exit status 0 success, 1 failure, 2 usage. Results go to stdout, notes to stderr.
 *
 * A command is one file cmd_NAME.c that exports `int ag_cmd_NAME(int argc, char **argv)` (argv[0] is its name) and one
 * row of commands.def. */
#ifndef AG_CLI_H
#define AG_CLI_H

#include "base/conf.h"
#include "base/err.h"

#define AG_CLI_ARGS_MAX 64

#define AG_COMMAND(word, function, what) int ag_cmd_##function(int argc, char **argv);
#include "cli/commands.def"
#undef AG_COMMAND
int ag_cmd_bench_http(int argc, char **argv); /* `bench http`, by way of bench */

typedef enum ag_opt_kind { AG_OPT_FLAG, AG_OPT_U32, AG_OPT_U64, AG_OPT_F32, AG_OPT_TEXT } ag_opt_kind;

/* A command's own option. `out` points to bool, uint32_t, uint64_t, float or const char *, and holds the default. */
typedef struct ag_opt {
    const char *name; /* without dashes */
    char letter;      /* 0: none */
    ag_opt_kind kind;
    void *out;
    double min, max;  /* of numbers */
    const char *help;
} ag_opt;

typedef struct ag_cli {
    const char *usage;  /* "tokenize -m MODEL [TEXT]" */
    const char *about;  /* a sentence or two */
    const ag_opt *opts;
    uint32_t n_opts;
    const char *groups; /* of settings the command takes ("model,engine"); NULL: none */
    uint32_t args_min, args_max;

    ag_conf conf;       /* filled by ag_cli_parse */
    const char *args[AG_CLI_ARGS_MAX];
    uint32_t n_args;
} ag_cli;

/* true: go on. false: leave with *status (--help was asked for, or the sentence has been printed). ag_cli_fini either
 * way. */
bool ag_cli_parse(ag_cli *c, int argc, char **argv, int *status);
void ag_cli_fini(ag_cli *c);

/* Prints "autoglm COMMAND: sentence" and returns the exit status that goes with the code. */
int ag_cli_fail(const char *command, const ag_err *err);

/* All of a file, or of stdin for NULL and "-", up to out's ceiling. */
int ag_cli_read(const char *path, ag_buf *out, ag_err *err);

/* A line on stderr that shows how far something is; silent where stderr is no terminal. */
typedef struct ag_progress {
    const char *what;
    uint64_t total; /* 0: not known */
    uint64_t first; /* done before it began (a resumed download) */
    bool bytes;     /* shown in MiB, with a rate */
    bool tty;
    uint64_t began_us, shown_us;
} ag_progress;
void ag_progress_begin(ag_progress *p, const char *what, uint64_t total, bool bytes);
void ag_progress_show(ag_progress *p, uint64_t done); /* cheap to call often */
void ag_progress_end(ag_progress *p);                 /* takes the line away */

#endif
