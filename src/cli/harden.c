#include "cli/harden.h"

#include <errno.h>
#include <grp.h>
#include <pwd.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

/* Debuggers of the same user are kept out as well. */
static void no_core(void)
{
    struct rlimit none = {0, 0};
    setrlimit(RLIMIT_CORE, &none);
    prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
}

int ag_harden_begin(const ag_conf *c, ag_err *err)
{
    if (*c->api_key || *c->keys_db || *c->jwt_jwks || *c->tls_key || *c->redis || *c->cache_redis || *c->cache_secret)
        no_core();
    if (!c->sandbox && *c->user == 0) return AG_OK;
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0)
        return ag_err_set(err, AG_E_UNSUPPORTED, "this kernel cannot keep a process from gaining privileges: %s",
                          strerror(errno));
    return c->sandbox ? ag_harden_files(c, err) : AG_OK;
}

static int find_user(const char *name, struct passwd *pw, char *texts, size_t size, ag_err *err)
{
    struct passwd *found = NULL;
    int failed = getpwnam_r(name, pw, texts, size, &found);
    if (found) return AG_OK;
    return ag_err_set(err, AG_E_USAGE, "there is no user '%s' to run as%s%s", name, failed ? ": " : "",
                      failed ? strerror(failed) : "");
}

static int find_group(const char *name, gid_t *out, ag_err *err)
{
    struct group gr, *found = NULL;
    char texts[16384];
    int failed = getgrnam_r(name, &gr, texts, sizeof texts, &found);
    if (found == NULL)
        return ag_err_set(err, AG_E_USAGE, "there is no group '%s' to run as%s%s", name, failed ? ": " : "",
                          failed ? strerror(failed) : "");
    *out = gr.gr_gid;
    return AG_OK;
}

/* In all three places where a process keeps them, so that there is no way back. */
static int change(const char *name, uid_t uid, gid_t gid, ag_err *err)
{
    gid_t groups[AG_HARDEN_GROUPS];
    int n = AG_HARDEN_GROUPS;
    if (getgrouplist(name, gid, groups, &n) < 0)
        return ag_err_set(err, AG_E_USAGE, "the user '%s' is in more than %d groups", name, AG_HARDEN_GROUPS);
    int dumpable = prctl(PR_GET_DUMPABLE, 0, 0, 0, 0);
    if (setgroups((size_t)n, groups) != 0 || setresgid(gid, gid, gid) != 0 || setresuid(uid, uid, uid) != 0)
        return ag_err_set(err, AG_E_USAGE, "changing to the user '%s' failed: %s", name, strerror(errno));
    if (dumpable == 0) prctl(PR_SET_DUMPABLE, 0, 0, 0, 0); /* which the kernel undoes where users change */
    AG_ASSERT(uid == 0 || (setresuid(0, 0, 0) != 0 && geteuid() == uid && getuid() == uid));
    return AG_OK;
}

int ag_harden_user(const char *spec, ag_err *err)
{
    struct passwd pw;
    char texts[16384], name[256];
    const char *colon = strchr(spec, ':');
    size_t n = colon ? (size_t)(colon - spec) : strlen(spec);
    if (geteuid() != 0)
        return ag_err_set(err, AG_E_USAGE, "--user %s: only a server that was started as root can be another user",
                          spec);
    if (n == 0 || n >= sizeof name || (colon && colon[1] == 0))
        return ag_err_set(err, AG_E_USAGE, "--user %s: NAME or NAME:GROUP is wanted", spec);
    memcpy(name, spec, n);
    name[n] = 0;
    int rc = find_user(name, &pw, texts, sizeof texts, err);
    gid_t gid = rc == AG_OK ? pw.pw_gid : 0;
    if (rc == AG_OK && colon) rc = find_group(colon + 1, &gid, err);
    return rc == AG_OK ? change(name, pw.pw_uid, gid, err) : rc;
}
