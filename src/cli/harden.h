/* harden.h - what a server gives up before it serves: core dumps, root, files that are not its own, system calls that
 * it has no use for.
 * Owns    : nothing; what was given up is gone for the life of the process.
 * Threads : ag_harden_begin before there is a second one, since Landlock binds the calling thread and those that it
 *           starts; ag_harden_user and ag_harden_calls by the owner's thread, for all.
 * Limits  : AG_HARDEN_GROUPS groups of a user; what the sandbox leaves open is listed in harden_files.c and
 *           harden_calls.c.
 * Errors  : AG_E_USAGE (there is no such user, or changing to it needs root), AG_E_UNSUPPORTED (this kernel cannot do
 *           it): what was asked for is done, or nothing is served. */
#ifndef AG_HARDEN_H
#define AG_HARDEN_H

#include "base/conf.h"

#define AG_HARDEN_GROUPS 64

/* No core dumps where there are secrets; no privileges by exec; with --sandbox only the files that settings name. */
int ag_harden_begin(const ag_conf *c, ag_err *err);
int ag_harden_user(const char *spec, ag_err *err); /* NAME[:GROUP]; ports are bound by now */
int ag_harden_files(const ag_conf *c, ag_err *err); /* Landlock */
int ag_harden_calls(const ag_conf *c, ag_err *err); /* seccomp; sockets are bound by now */

#endif
