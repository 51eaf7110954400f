/* harden_files.c - the files that a sandboxed server may open, by Landlock: the folders of those that settings name,
 * since a file is often replaced by another of its name, and what the system's libraries read. */
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <linux/landlock.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "cli/harden.h"
#include "model/null.h"

/* Newer than some systems' headers. */
#ifndef LANDLOCK_ACCESS_FS_REFER
#define LANDLOCK_ACCESS_FS_REFER (1ULL << 13)
#endif
#ifndef LANDLOCK_ACCESS_FS_TRUNCATE
#define LANDLOCK_ACCESS_FS_TRUNCATE (1ULL << 14)
#endif

#define OF_FILES (LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_WRITE_FILE | LANDLOCK_ACCESS_FS_TRUNCATE)
#define READ (LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_READ_DIR)
#define WRITE                                                                                                          \
    (READ | LANDLOCK_ACCESS_FS_WRITE_FILE | LANDLOCK_ACCESS_FS_TRUNCATE | LANDLOCK_ACCESS_FS_REMOVE_FILE |             \
     LANDLOCK_ACCESS_FS_MAKE_REG | LANDLOCK_ACCESS_FS_MAKE_SOCK)
#define FIRST_ABI ((LANDLOCK_ACCESS_FS_MAKE_SYM << 1) - 1) /* all rights of the first version */

typedef struct rules {
    int fd;
    uint64_t handled;
    ag_err *err;
    int rc;
} rules;

static const char *const read_always[] = {
    "/etc/ssl", "/etc/pki", "/etc/ca-certificates", "/etc/resolv.conf", "/run/systemd/resolve", "/etc/hosts",
    "/etc/host.conf", "/etc/nsswitch.conf", "/etc/gai.conf", "/etc/services", "/etc/localtime", "/etc/ld.so.cache",
    "/etc/passwd", "/etc/group", /* --user looks its names up */
    "/usr/lib", "/usr/lib64", "/usr/local/lib", "/lib", "/lib64", "/usr/share/zoneinfo", "/usr/share/ca-certificates",
    "/usr/local/share/ca-certificates",
    "/proc/meminfo", "/proc/cpuinfo", "/proc/self", "/sys/devices/system", "/sys/fs/cgroup",
    "/sys/kernel/mm/transparent_hugepage", "/dev/urandom",
};

/* What is not there needs no rule: it could not be opened either. */
static void allow(rules *r, const char *path, uint64_t rights)
{
    if (r->rc != AG_OK || *path == 0) return;
    int fd = open(path, O_PATH | O_CLOEXEC);
    if (fd < 0) return;
    struct stat st;
    bool folder = fstat(fd, &st) == 0 && S_ISDIR(st.st_mode);
    struct landlock_path_beneath_attr a = {.allowed_access = rights & r->handled & (folder ? ~0ULL : OF_FILES),
                                           .parent_fd = fd};
    if (syscall(SYS_landlock_add_rule, r->fd, LANDLOCK_RULE_PATH_BENEATH, &a, 0) != 0)
        r->rc = ag_err_set(r->err, AG_E_UNSUPPORTED, "the sandbox cannot leave '%s' open: %s", path, strerror(errno));
    close(fd);
}

/* The folder of a file, and of what it is a link to. */
static void allow_folder_of(rules *r, const char *path, uint64_t rights)
{
    char text[4097], real[4097];
    if (*path == 0) return;
    for (int i = 0; i < 2; i++) {
        if (i == 1 && realpath(path, real) == NULL) return;
        snprintf(text, sizeof text, "%s", i ? real : path);
        allow(r, dirname(text), rights);
    }
}

static void allow_folders_of(rules *r, const char *list, uint64_t rights)
{
    char path[4097];
    for (ag_str rest = ag_str_of(list), one; *list && ag_str_next(&rest, &one);) {
        snprintf(path, sizeof path, "%.*s", (int)AG_MIN(one.n, 4096u), one.p);
        allow_folder_of(r, path, rights);
    }
}

static void allow_all(rules *r, const ag_conf *c)
{
    bool writes_image = strcmp(c->weights_image, "auto") == 0 || strcmp(c->weights_image, "on") == 0;
    for (size_t i = 0; i < AG_ARRAY_LEN(read_always); i++) allow(r, read_always[i], READ);
    allow(r, "/dev/null", READ | LANDLOCK_ACCESS_FS_WRITE_FILE);
    uint64_t model = writes_image && !*c->weights_image_dir ? WRITE : READ;
    if (!ag_model_is_null(c->model)) allow_folder_of(r, c->model, model);
    allow(r, c->weights_image_dir, writes_image ? WRITE : READ);
    allow_folder_of(r, c->chat_template, READ);
    allow_folder_of(r, c->config, READ);
    allow_folder_of(r, c->jwt_jwks, READ);
    allow_folder_of(r, c->redis_password_file, READ);
    allow_folder_of(r, c->redis_ca, READ);
    allow_folder_of(r, c->redis_cert, READ);
    allow_folder_of(r, c->redis_key, READ);
    allow_folders_of(r, c->tls_cert, READ);
    allow_folders_of(r, c->tls_key, READ);
    allow_folder_of(r, c->tls_client_ca, READ);
    allow_folder_of(r, c->keys_db, WRITE);
    allow_folder_of(r, c->keys_secret, WRITE);
    allow_folder_of(r, c->responses_db, WRITE);
    allow_folder_of(r, c->unix_path, WRITE);
    allow_folder_of(r, c->log_file, WRITE);
    allow_folder_of(r, c->prefix_save, WRITE);
    allow_folder_of(r, c->history_file, WRITE);
}

int ag_harden_files(const ag_conf *c, ag_err *err)
{
    long abi = syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);
    if (abi < 1)
        return ag_err_set(err, AG_E_UNSUPPORTED, "--sandbox needs Landlock, which this kernel does not have: %s",
                          strerror(errno));
    struct landlock_ruleset_attr a = {.handled_access_fs = FIRST_ABI};
    if (abi >= 2) a.handled_access_fs |= LANDLOCK_ACCESS_FS_REFER;
    if (abi >= 3) a.handled_access_fs |= LANDLOCK_ACCESS_FS_TRUNCATE;
    rules r = {.fd = (int)syscall(SYS_landlock_create_ruleset, &a, sizeof a.handled_access_fs, 0),
               .handled = a.handled_access_fs, .err = err};
    if (r.fd < 0) return ag_err_set(err, AG_E_UNSUPPORTED, "the sandbox cannot be made: %s", strerror(errno));
    allow_all(&r, c);
    if (r.rc == AG_OK && syscall(SYS_landlock_restrict_self, r.fd, 0) != 0)
        r.rc = ag_err_set(err, AG_E_UNSUPPORTED, "the sandbox cannot be entered: %s", strerror(errno));
    close(r.fd);
    return r.rc;
}
