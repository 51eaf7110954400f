#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/fault.h"
#include "base/near.h"
#include "cli/cli.h"
#include "engine/cpu/cpu.h"

typedef struct command {
    const char *word;
    int (*run)(int argc, char **argv);
    const char *what;
} command;

static const command commands[] = {
#define AG_COMMAND(word, function, what) {word, ag_cmd_##function, what},
#include "cli/commands.def"
#undef AG_COMMAND
};

static void help(FILE *to)
{
    fprintf(to, "usage: autoglm COMMAND [OPTIONS]\n\n");
    for (size_t i = 0; i < AG_ARRAY_LEN(commands); i++) fprintf(to, "  %-12s %s\n", commands[i].word, commands[i].what);
    fprintf(to, "\nautoglm COMMAND --help tells more; autoglm --version names the build and its instruction sets.\n");
}

static int version(void)
{
#if defined(__clang__)
    const char *compiler = "clang " __clang_version__;
#else
    const char *compiler = "gcc " __VERSION__;
#endif
    printf("autoglm %s\n", AG_VERSION);
    printf("build: %s\n", compiler);
    for (const ag_cpu_isa *isa = NULL; (isa = ag_cpu_isa_next(isa)) != NULL;)
        printf("instruction set: %s (%s)%s\n", isa->name, isa->needs,
               !isa->runs() ? ", not on this machine" : !isa->pays() ? ", slower here than the next one" : "");
    return 0;
}

static int unknown(const char *word)
{
    ag_near near;
    ag_near_begin(&near, ag_str_of(word));
    for (size_t i = 0; i < AG_ARRAY_LEN(commands); i++) ag_near_try(&near, commands[i].word);
    if (near.best) fprintf(stderr, "autoglm: there is no command '%s'; did you mean '%s'?\n", word, near.best);
    else fprintf(stderr, "autoglm: there is no command '%s'; autoglm --help lists them\n", word);
    return 2;
}

static int dispatch(int argc, char **argv)
{
    if (argc < 2) {
        help(stderr);
        return 2;
    }
    const char *word = argv[1];
    if (strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0 || strcmp(word, "help") == 0) {
        help(stdout);
        return 0;
    }
    if (strcmp(word, "--version") == 0) return version();
    for (size_t i = 0; i < AG_ARRAY_LEN(commands); i++)
        if (strcmp(word, commands[i].word) == 0) return commands[i].run(argc - 1, argv + 1);
    return unknown(word);
}

#ifdef AG_FAULTS
static bool faults_arm(void)
{
    const char *text = getenv("AUTOGLM_FAULT");
    return text == NULL || ag_fault_arm_text(text);
}

/* A loop over n ends when the n-th point is beyond the last. */
static void faults_tell(void)
{
    bool fired = false;
    for (int k = 0; k < AG_FAULT_COUNT; k++) fired = ag_fault_disarm((ag_fault_kind)k) || fired;
    if (getenv("AUTOGLM_FAULT")) fprintf(stderr, "fault: %s\n", fired ? "fired" : "not reached");
}
#else
static bool faults_arm(void) { return true; }
static void faults_tell(void) {}
#endif

/* Where a standard descriptor was closed, the first file or socket that is opened would get its number, and with it
 * whatever is printed. Each is filled with one that cannot be used its way, so that using it is still an error. */
static bool standard_fds_fill(void)
{
    for (int fd = 0; fd <= 2; fd++)
        if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", fd == 0 ? O_WRONLY : O_RDONLY) != fd) return false;
    return true;
}

int main(int argc, char **argv)
{
    if (!standard_fds_fill()) return 1;
    if (!faults_arm()) {
        fprintf(stderr, "autoglm: AUTOGLM_FAULT: not understood; it is KIND:N, as in alloc:17\n");
        return 2;
    }
    int status = dispatch(argc, argv);
    faults_tell();
    if (fflush(stdout) != 0 || ferror(stdout)) {
        fprintf(stderr, "autoglm: cannot write the result: %s\n", strerror(errno));
        if (status == 0) status = 1;
    }
    return status;
}
