/* pull.h - fetching one file over HTTP so that a broken line costs only what is missing.
 * Owns    : FILE.part (what has come so far) and FILE.part.tag (which version of it) beside the target; both go when
 * the file is whole and checked, and stay for the next try otherwise. Threads : one. Limits  : `retries` tries in a row
 * that bring nothing; 10 redirects; never more bytes than the server announced; the disk must have room for what is
 * announced before a byte is written. Errors  : AG_E_IO (network, disk, checksum), AG_E_USAGE (a name or URL that
 * cannot be), AG_E_NOT_FOUND, AG_E_NOMEM. Source  : RFC 9110 sections 13.1.5 (If-Range) and 14 (Range). */
#ifndef AG_PULL_H
#define AG_PULL_H

#include "base/buf.h"
#include "base/err.h"

#define AG_PULL_URL_MAX 4096
#define AG_PULL_PATH_MAX 4096

typedef struct ag_pull_spec {
    const char *url;        /* http or https */
    const char *path;       /* where the file shall lie */
    const char *sha256;     /* 64 hex digits, or NULL: the hub's own header, if it sends one */
    uint32_t retries;
    uint32_t retry_wait_ms; /* before the second try; doubles up to 16 times that */
} ag_pull_spec;

typedef struct ag_pull_result {
    uint64_t bytes;
    char sha256[65];
    bool checked; /* against a checksum from outside */
    bool there;   /* it lay there already, the same */
} ag_pull_result;

int ag_pull_file(const ag_pull_spec *spec, ag_pull_result *out, ag_err *err);

/* A small answer (a listing) into out, by the same rules. */
int ag_pull_text(const char *url, uint32_t retries, uint32_t retry_wait_ms, ag_buf *out, ag_err *err);

typedef struct ag_pull_ref {
    char url[AG_PULL_URL_MAX];
    char name[256]; /* the file's name, safe to create in a folder */
} ag_pull_ref;

/* What `ref` stands for: a URL; owner/repo/path/file on the hub; or owner/repo:WORD, every file (of a split model,
 * every part) whose name holds WORD, by the hub's listing. Writes up to `max` refs, *n of them. hub may be NULL. */
int ag_pull_refs(const char *ref, const char *hub, uint32_t retries, uint32_t retry_wait_ms, ag_pull_ref *out,
                 uint32_t max, uint32_t *n, ag_err *err);

/* SHA-256 of a file as 64 hex digits. */
int ag_pull_digest(const char *path, char out[65], ag_err *err);

#endif
