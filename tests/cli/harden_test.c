/* What a hardened process can still do, tried by processes that are. */
#include "check.h"

#include <fcntl.h>
#include <pthread.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "cli/harden.c"
#include "cli/harden_calls.c"
#include "cli/harden_files.c"

static char folder[] = "/tmp/autoglm-harden-XXXXXX", path[128], other[128];

static int setup(void **state)
{
    (void)state;
    assert_non_null(mkdtemp(folder));
    char sub[128];
    snprintf(sub, sizeof sub, "%s/keys", folder);
    assert_int_equal(mkdir(sub, 0700), 0);
    snprintf(path, sizeof path, "%s/keys/keys.db", folder);
    snprintf(other, sizeof other, "%s/other", folder);
    int fd = open(other, O_CREAT | O_WRONLY, 0600);
    assert_true(fd >= 0);
    close(fd);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    char sub[128];
    snprintf(sub, sizeof sub, "%s/keys", folder);
    unlink(path);
    unlink(other);
    rmdir(sub);
    return rmdir(folder);
}

/* Runs `f` in a process of its own; 0: all that it tried went as it should, else the line that did not. 77: skipped. */
static int apart(int (*f)(ag_conf *c))
{
    pid_t pid = fork();
    if (pid == 0) {
        ag_conf c = {0};
        ag_err err = {0};
        if (ag_conf_init(&c, &err) != AG_OK) _exit(99);
        ag_conf_set(&c, AG_CONF_keys_db, "test", ag_str_of(path), &err);
        _exit(f(&c));
    }
    int status = 0;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

#define EXPECT(e)                                                                                                      \
    do {                                                                                                               \
        if (!(e)) {                                                                                                    \
            fprintf(stderr, "line %d: %s (%s)\n", __LINE__, #e, strerror(errno));                                      \
            return 1;                                                                                                  \
        }                                                                                                              \
    } while (0)

static bool has_landlock(void)
{
    return syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION) > 0;
}

static int only_its_files(ag_conf *c)
{
    ag_err err = {0};
    c->sandbox = true;
    EXPECT(ag_harden_begin(c, &err) == AG_OK);
    EXPECT(open(other, O_RDONLY) < 0 && errno == EACCES);
    EXPECT(open("/etc/shadow", O_RDONLY) < 0);
    EXPECT(truncate(other, 0) < 0);
    EXPECT(rename(path, other) < 0);
    EXPECT(unlink(other) < 0);
    EXPECT(open(folder, O_RDONLY | O_DIRECTORY) < 0);
    EXPECT(execl("/bin/true", "true", NULL) < 0 && errno == EACCES);
    int fd = open(path, O_CREAT | O_RDWR, 0600);
    EXPECT(fd >= 0 && write(fd, "x", 1) == 1 && ftruncate(fd, 0) == 0);
    EXPECT(open("/etc/hosts", O_RDONLY) >= 0 || errno == ENOENT);
    EXPECT(unlink(path) == 0);
    EXPECT(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1);
    return 0;
}

static void *nothing(void *arg) { return arg; }

static void *sleeper(void *arg)
{
    int *pipe_fd = arg;
    char c;
    if (read(pipe_fd[0], &c, 1) != 1) return NULL;
    return execl("/bin/true", "true", NULL) < 0 && errno == EPERM ? arg : NULL;
}

static int only_its_calls(ag_conf *c)
{
    ag_err err = {0};
    pthread_t before, after;
    int pipe_fd[2], pair[2];
    pid_t parent = getppid();
    void *back = NULL;
    EXPECT(pipe(pipe_fd) == 0 && pthread_create(&before, NULL, sleeper, pipe_fd) == 0);
    EXPECT(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
    EXPECT(ag_harden_calls(c, &err) == AG_OK);
    EXPECT(execl("/bin/true", "true", NULL) < 0 && errno == EPERM);
    EXPECT(syscall(SYS_ptrace, PTRACE_TRACEME, 0, 0, 0) < 0 && errno == EPERM);
    EXPECT(syscall(SYS_fork) < 0);
    EXPECT(socket(AF_PACKET, SOCK_RAW, 0) < 0 && errno == EPERM);
    EXPECT(setuid(0) < 0 && errno == EPERM);
    EXPECT(syscall(SYS_mount, "a", "b", "c", 0, NULL) < 0 && errno == EPERM);
    EXPECT(syscall(SYS_keyctl, 0, 0, 0, 0, 0) < 0 && errno == EPERM);
    EXPECT(chmod(other, 0644) < 0 && errno == EPERM); /* Landlock would let these pass */
    EXPECT(fchmodat(AT_FDCWD, other, 0644, 0) < 0 && errno == EPERM);
    EXPECT(utimensat(AT_FDCWD, other, NULL, 0) < 0 && errno == EPERM);
    EXPECT(syscall(SYS_tgkill, parent, parent, 0) < 0 && errno == EPERM);
    EXPECT(syscall(SYS_tgkill, getpid(), getpid(), 0) == 0);
    EXPECT(socket(AF_UNIX, SOCK_STREAM, 0) < 0 && errno == EPERM);
    EXPECT(socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, pair) < 0 && errno == EPERM);
    EXPECT(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0);
    EXPECT(socket(AF_INET, SOCK_STREAM, 0) >= 0);
    EXPECT(pthread_create(&after, NULL, nothing, NULL) == 0 && pthread_join(after, NULL) == 0);
    /* Threads that were there before are kept to it too. */
    EXPECT(write(pipe_fd[1], "x", 1) == 1 && pthread_join(before, &back) == 0 && back == pipe_fd);
    return 0;
}

static int a_unix_socket_of_redis(ag_conf *c)
{
    ag_err err = {0};
    EXPECT(ag_conf_set(c, AG_CONF_cache_redis, "test", AG_STR("unix:///run/redis.sock"), &err) == AG_OK);
    EXPECT(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
    EXPECT(ag_harden_calls(c, &err) == AG_OK);
    EXPECT(socket(AF_UNIX, SOCK_STREAM, 0) >= 0);
    return 0;
}

static int another_user(ag_conf *c)
{
    (void)c;
    ag_err err = {0};
    gid_t groups[AG_HARDEN_GROUPS];
    EXPECT(ag_harden_user("nobody", &err) == AG_OK);
    EXPECT(getuid() != 0 && geteuid() == getuid() && getgid() != 0 && getegid() == getgid());
    int n = getgroups(AG_HARDEN_GROUPS, groups);
    for (int i = 0; i < n; i++) EXPECT(groups[i] != 0);
    EXPECT(setuid(0) < 0 && seteuid(0) < 0 && setgid(0) < 0);
    EXPECT(open(other, O_RDONLY) < 0); /* root's own */
    EXPECT(ag_harden_user("nobody", &err) == AG_E_USAGE && strstr(err.text, "as root"));
    return 0;
}

static int bad_users(ag_conf *c)
{
    (void)c;
    static const char *const bad[] = {"no such user", ":nogroup", "nobody:", "nobody:no such group", ""};
    for (size_t i = 0; i < AG_ARRAY_LEN(bad); i++) {
        ag_err err = {0};
        EXPECT(ag_harden_user(bad[i], &err) == AG_E_USAGE);
        EXPECT(getuid() == 0 && getgid() == 0);
    }
    return 0;
}

static int no_core_with_keys(ag_conf *c)
{
    ag_err err = {0};
    struct rlimit l;
    EXPECT(ag_harden_begin(c, &err) == AG_OK);
    EXPECT(getrlimit(RLIMIT_CORE, &l) == 0 && l.rlim_cur == 0 && l.rlim_max == 0);
    EXPECT(prctl(PR_GET_DUMPABLE, 0, 0, 0, 0) == 0);
    EXPECT(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 0); /* which nobody asked for */
    return 0;
}

static int no_core_with_keys_of_tokens(ag_conf *c)
{
    ag_err err = {0};
    EXPECT(ag_conf_set(c, AG_CONF_keys_db, "test", AG_STR(""), &err) == AG_OK);
    EXPECT(ag_conf_set(c, AG_CONF_jwt_jwks, "test", AG_STR("/etc/keys.json"), &err) == AG_OK);
    return no_core_with_keys(c);
}

static int a_core_without(ag_conf *c)
{
    ag_err err = {0};
    EXPECT(ag_conf_set(c, AG_CONF_keys_db, "test", AG_STR(""), &err) == AG_OK);
    EXPECT(ag_harden_begin(c, &err) == AG_OK && prctl(PR_GET_DUMPABLE, 0, 0, 0, 0) == 1);
    return 0;
}

static void the_sandbox_leaves_its_files(void **state)
{
    (void)state;
    if (has_landlock()) assert_int_equal(apart(only_its_files), 0);
    else check_skipped(1, "this kernel has no Landlock");
}

static void the_sandbox_leaves_its_calls(void **state)
{
    (void)state;
    assert_int_equal(apart(only_its_calls), 0);
    assert_int_equal(apart(a_unix_socket_of_redis), 0);
}

static void privileges_are_dropped_for_good(void **state)
{
    (void)state;
    if (geteuid() != 0) {
        check_skipped(2, "needs root");
        return;
    }
    assert_int_equal(apart(another_user), 0);
    assert_int_equal(apart(bad_users), 0);
}

static void keys_are_in_no_core_dump(void **state)
{
    (void)state;
    assert_int_equal(apart(no_core_with_keys), 0);
    assert_int_equal(apart(no_core_with_keys_of_tokens), 0);
    assert_int_equal(apart(a_core_without), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_sandbox_leaves_its_files),
        cmocka_unit_test(the_sandbox_leaves_its_calls),
        cmocka_unit_test(privileges_are_dropped_for_good),
        cmocka_unit_test(keys_are_in_no_core_dump),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
