#include "cli/pull.h"

#include <curl/curl.h>
#include <errno.h>
#include <fcntl.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <strings.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <time.h>
#include <unistd.h>

#include "base/fault.h"
#include "cli/cli.h"

#define TAG_MAX 256
#define TRIES_MAX 1000       /* in all, even when each brings a little */
#define REDIRECTS_MAX 10
#define ERROR_BODY_MAX 65536 /* of an answer that is not the file */

typedef struct transfer {
    const ag_pull_spec *spec; /* NULL: into `text` */
    ag_buf *text;
    CURL *curl;
    char part[AG_PULL_PATH_MAX], tag_path[AG_PULL_PATH_MAX];
    int fd;
    bool ours; /* the part file is locked by us */
    uint64_t from, have, total; /* total 0: not announced */
    char tag[TAG_MAX];          /* of what lies in the part file; "" when it cannot be asked for again */
    char sha256[65];            /* from the hub, for the file as a whole */
    /* of the answer being read */
    char answer_tag[TAG_MAX];
    uint64_t length, range_from, range_total;
    bool has_length, has_range, begun, again;
    size_t discarded;
    ag_progress progress;
    ag_err *err;
} transfer;

int ag_pull_digest(const char *path, char out[65], ag_err *err)
{
    unsigned char sum[crypto_hash_sha256_BYTES], chunk[65536];
    crypto_hash_sha256_state state;
    struct stat st;
    uint64_t done = 0;
    FILE *f = fopen(path, "rbe");
    if (f == NULL || fstat(fileno(f), &st) != 0) {
        int rc = ag_err_set(err, AG_E_IO, "%s: cannot be read: %s", path, strerror(errno));
        if (f) fclose(f);
        return rc;
    }
    ag_progress p;
    ag_progress_begin(&p, "checking", (uint64_t)st.st_size, true);
    crypto_hash_sha256_init(&state);
    for (size_t n; (n = fread(chunk, 1, sizeof chunk, f)) > 0;) {
        crypto_hash_sha256_update(&state, chunk, n);
        ag_progress_show(&p, done += n);
    }
    ag_progress_end(&p);
    int rc = ferror(f) ? ag_err_set(err, AG_E_IO, "%s: cannot be read: %s", path, strerror(errno)) : AG_OK;
    fclose(f);
    crypto_hash_sha256_final(&state, sum);
    sodium_bin2hex(out, 65, sum, sizeof sum);
    return rc;
}

static bool is_sha256(const char *s) { return strlen(s) == 64 && strspn(s, "0123456789abcdefABCDEF") == 64; }

/* The value of `name` in a header line, without blanks around it; false: another header. */
static bool header_is(const char *line, size_t n, const char *name, char *out, size_t max)
{
    size_t len = strlen(name);
    if (n <= len || line[len] != ':' || strncasecmp(line, name, len) != 0) return false;
    const char *p = line + len + 1, *end = line + n;
    while (p < end && (*p == ' ' || *p == '\t')) p++;
    while (end > p && (end[-1] == '\r' || end[-1] == '\n' || end[-1] == ' ' || end[-1] == '\t')) end--;
    if ((size_t)(end - p) >= max) return false;
    memcpy(out, p, (size_t)(end - p));
    out[end - p] = 0;
    return true;
}

static bool decimal(const char *s, const char **end, uint64_t *out)
{
    uint64_t v = 0;
    const char *p = s;
    for (; *p >= '0' && *p <= '9'; p++)
        if (!ag_mul_ok(v, 10, &v) || !ag_add_ok(v, (uint64_t)(*p - '0'), &v)) return false;
    *end = p;
    *out = v;
    return p > s;
}

/* "bytes 5-9/10", "bytes 5-9/\*", and "bytes \*\/10" of a 416. */
static void range_read(transfer *t, const char *v)
{
    const char *end;
    uint64_t last;
    t->has_range = false;
    if (strncmp(v, "bytes ", 6) != 0) return;
    v += 6;
    if (*v == '*') {
        end = v + 1;
    } else {
        if (!decimal(v, &end, &t->range_from) || *end != '-' || !decimal(end + 1, &end, &last)) return;
        t->has_range = true;
    }
    if (*end != '/' || !decimal(end + 1, &end, &t->range_total)) t->range_total = 0;
}

static size_t on_header(char *line, size_t size, size_t count, void *arg)
{
    transfer *t = arg;
    size_t n = size * count;
    char v[TAG_MAX];
    const char *end;
    if (n >= 5 && strncmp(line, "HTTP/", 5) == 0) { /* the next answer of a chain of redirects */
        t->answer_tag[0] = 0;
        t->has_length = t->has_range = false;
        t->range_total = 0;
    } else if (header_is(line, n, "etag", v, sizeof v)) {
        /* A weak tag says "much the same", which is not enough to put two halves together. */
        if (v[0] == '"') snprintf(t->answer_tag, sizeof t->answer_tag, "%s", v);
    } else if (header_is(line, n, "content-length", v, sizeof v)) {
        t->has_length = decimal(v, &end, &t->length) && *end == 0;
    } else if (header_is(line, n, "content-range", v, sizeof v)) {
        range_read(t, v);
    } else if (header_is(line, n, "x-linked-etag", v, sizeof v) ||
               header_is(line, n, "x-checksum-sha256", v, sizeof v)) {
        size_t len = strlen(v);
        if (len == 66 && v[0] == '"' && v[65] == '"') memmove(v, v + 1, 64), v[64] = 0;
        if (is_sha256(v)) memcpy(t->sha256, v, sizeof t->sha256);
    }
    return n;
}

static void tag_save(transfer *t)
{
    snprintf(t->tag, sizeof t->tag, "%s", t->answer_tag);
    FILE *f = fopen(t->tag_path, "we");
    if (f == NULL) return; /* then the next run begins anew */
    fprintf(f, "%s\n%s\n", t->tag, t->spec->url);
    fclose(f);
}

/* The part file is only worth something with the tag it came with, from the same place. */
static void tag_load(transfer *t)
{
    char url[AG_PULL_URL_MAX] = "";
    t->tag[0] = 0;
    FILE *f = fopen(t->tag_path, "re");
    if (f == NULL) return;
    bool whole = fgets(t->tag, sizeof t->tag, f) && fgets(url, sizeof url, f);
    fclose(f);
    t->tag[strcspn(t->tag, "\n")] = 0;
    url[strcspn(url, "\n")] = 0;
    if (!whole || strcmp(url, t->spec->url) != 0) t->tag[0] = 0;
}

static int part_restart(transfer *t)
{
    t->have = 0;
    t->tag[0] = 0;
    if (ftruncate(t->fd, 0) != 0 || lseek(t->fd, 0, SEEK_SET) != 0)
        return ag_err_set(t->err, AG_E_IO, "%s: cannot be written: %s", t->part, strerror(errno));
    return AG_OK;
}

/* The file is there already: the same, or in the way. */
static int existing(const ag_pull_spec *spec, const char *sha256, ag_pull_result *out, ag_err *err)
{
    struct stat st;
    if (stat(spec->path, &st) != 0) return AG_OK;
    if (*sha256 == 0)
        return ag_err_set(err, AG_E_IO,
                          "%s: is there already, and without a checksum nothing tells whether it is the same; "
                          "give --sha256 or move it away",
                          spec->path);
    int rc = ag_pull_digest(spec->path, out->sha256, err);
    if (rc != AG_OK) return rc;
    if (strcasecmp(out->sha256, sha256) != 0)
        return ag_err_set(err, AG_E_IO, "%s: is there already and is not the same (its sha256 is %s); move it away",
                          spec->path, out->sha256);
    out->there = out->checked = true;
    out->bytes = (uint64_t)st.st_size;
    return AG_OK;
}

static int disk_has_room(const transfer *t)
{
    struct statvfs fs;
    if (t->total <= t->have || fstatvfs(t->fd, &fs) != 0) return AG_OK;
    uint64_t left = (uint64_t)fs.f_bavail * fs.f_frsize, need = t->total - t->have;
    if (need <= left) return AG_OK;
    return ag_err_set(t->err, AG_E_IO, "%s: %llu MiB are to come, but the disk has room for %llu MiB", t->spec->path,
                      (unsigned long long)(need >> 20), (unsigned long long)(left >> 20));
}

/* The head of a good answer is complete: does it go on where we are, or begin anew? */
static int body_begin(transfer *t, long status)
{
    t->begun = true;
    if (t->spec == NULL) return AG_OK;
    int rc = AG_OK;
    if (status == 206) {
        bool other = t->answer_tag[0] && strcmp(t->answer_tag, t->tag) != 0;
        if (!t->has_range || t->range_from != t->from || other) { /* not what If-Range asked for */
            t->again = true;
            rc = part_restart(t);
            return rc != AG_OK ? rc
                               : ag_err_set(t->err, AG_E_IO, "%s: the server sent another piece than the one asked for",
                                            t->spec->url);
        }
        t->total = t->range_total;
    } else {
        if (t->have) rc = part_restart(t);
        t->total = t->has_length ? t->length : 0;
        if (rc == AG_OK) tag_save(t);
    }
    ag_pull_result there = {0};
    if (rc == AG_OK && t->spec->sha256 == NULL) rc = existing(t->spec, t->sha256, &there, t->err);
    if (rc == AG_OK && there.there) return ag_err_set(t->err, AG_E_CANCELLED, "there");
    if (rc == AG_OK) rc = disk_has_room(t);
    ag_progress_begin(&t->progress, "fetching", t->total, true);
    t->progress.first = t->have;
    return rc;
}

static size_t on_body(char *p, size_t size, size_t count, void *arg)
{
    transfer *t = arg;
    size_t n = size * count;
    long status = 0;
    curl_easy_getinfo(t->curl, CURLINFO_RESPONSE_CODE, &status);
    if (status != 200 && status != 206) return (t->discarded += n) > ERROR_BODY_MAX ? 0 : n;
    if (!t->begun && body_begin(t, status) != AG_OK) return 0;
    if (t->spec == NULL) {
        if (ag_buf_add(t->text, p, n)) return n;
        ag_err_set(t->err, AG_E_LIMIT, "the hub's listing is over %zu bytes", t->text->max);
        return 0;
    }
    if (t->total && t->have + n > t->total) {
        ag_err_set(t->err, AG_E_IO, "%s: the server sends more than the %llu bytes it announced", t->spec->url,
                   (unsigned long long)t->total);
        return 0;
    }
    for (size_t done = 0; done < n;) {
        ssize_t w = write(t->fd, p + done, n - done);
        if (w < 0 && errno == EINTR) continue;
        if (w <= 0) {
            ag_err_set(t->err, AG_E_IO, "%s: cannot be written: %s", t->part, strerror(errno));
            return 0;
        }
        done += (size_t)w;
        t->have += (size_t)w;
    }
    ag_progress_show(&t->progress, t->have);
    return n;
}

static bool worth_a_retry(CURLcode c)
{
    static const CURLcode codes[] = {
        CURLE_COULDNT_CONNECT, CURLE_COULDNT_RESOLVE_HOST, CURLE_OPERATION_TIMEDOUT, CURLE_PARTIAL_FILE,
        CURLE_RECV_ERROR,      CURLE_SEND_ERROR,           CURLE_GOT_NOTHING,        CURLE_HTTP2,
        CURLE_HTTP2_STREAM,    CURLE_SSL_CONNECT_ERROR};
    for (size_t i = 0; i < AG_ARRAY_LEN(codes); i++)
        if (codes[i] == c) return true;
    return false;
}

/* What an HTTP status means for the transfer; *t->again: another try may help. */
static int judge_status(transfer *t, const char *url, long status)
{
    if (status == 200 || status == 206) return AG_OK;
    if (status == 416 && t->spec) {
        if (t->have && t->range_total == t->have) { /* nothing was missing */
            t->total = t->have;
            return AG_OK;
        }
        t->again = true;
        int rc = part_restart(t);
        return rc != AG_OK
                   ? rc
                   : ag_err_set(t->err, AG_E_IO, "%s: the server no longer has the rest of what came before", url);
    }
    t->again = status == 408 || status == 425 || status == 429 || status >= 500;
    if (status == 404 || status == 410)
        return ag_err_set(t->err, AG_E_NOT_FOUND, "%s: there is no such file (status %ld)", url, status);
    if (status == 401 || status == 403)
        return ag_err_set(t->err, AG_E_AUTH, "%s: the server wants someone it knows (status %ld)", url, status);
    return ag_err_set(t->err, AG_E_IO, "%s: the server answered with status %ld", url, status);
}

/* One request. AG_OK: everything that was to come has come. */
static int attempt(transfer *t, const char *url)
{
    struct curl_slist *headers = NULL;
    char range[64], if_range[TAG_MAX + 16], detail[CURL_ERROR_SIZE] = "";
    long status = 0;
    t->begun = t->again = false;
    t->discarded = 0;
    t->from = t->tag[0] ? t->have : 0;
    if (t->spec && t->from == 0 && t->have && part_restart(t) != AG_OK) return t->err->code;
    curl_easy_reset(t->curl);
    if (t->from) {
        snprintf(range, sizeof range, "%llu-", (unsigned long long)t->from);
        snprintf(if_range, sizeof if_range, "If-Range: %s", t->tag);
        headers = curl_slist_append(NULL, if_range);
        if (headers == NULL) return ag_err_set(t->err, AG_E_NOMEM, "no memory for a request");
        curl_easy_setopt(t->curl, CURLOPT_RANGE, range);
        curl_easy_setopt(t->curl, CURLOPT_HTTPHEADER, headers);
    }
    bool secure = strncasecmp(url, "https:", 6) == 0; /* and then it stays so, wherever we are sent */
    curl_easy_setopt(t->curl, CURLOPT_URL, url);
    curl_easy_setopt(t->curl, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(t->curl, CURLOPT_REDIR_PROTOCOLS_STR, secure ? "https" : "http,https");
    curl_easy_setopt(t->curl, CURLOPT_FOLLOWLOCATION, 1L);
    curl_easy_setopt(t->curl, CURLOPT_MAXREDIRS, (long)REDIRECTS_MAX);
    curl_easy_setopt(t->curl, CURLOPT_CONNECTTIMEOUT, 15L);
    curl_easy_setopt(t->curl, CURLOPT_LOW_SPEED_LIMIT, 1L);
    curl_easy_setopt(t->curl, CURLOPT_LOW_SPEED_TIME, 30L);
    curl_easy_setopt(t->curl, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(t->curl, CURLOPT_USERAGENT, "autoglm/" AG_VERSION);
    curl_easy_setopt(t->curl, CURLOPT_ERRORBUFFER, detail);
    curl_easy_setopt(t->curl, CURLOPT_HEADERFUNCTION, on_header);
    curl_easy_setopt(t->curl, CURLOPT_HEADERDATA, t);
    curl_easy_setopt(t->curl, CURLOPT_WRITEFUNCTION, on_body);
    curl_easy_setopt(t->curl, CURLOPT_WRITEDATA, t);
    CURLcode c = curl_easy_perform(t->curl);
    curl_slist_free_all(headers);
    ag_progress_end(&t->progress);
    curl_easy_getinfo(t->curl, CURLINFO_RESPONSE_CODE, &status);
    if (t->err->code != AG_OK) return t->err->code; /* a callback said why */
    if (c == CURLE_OK || (c == CURLE_WRITE_ERROR && t->discarded)) {
        int rc = judge_status(t, url, status);
        if (rc == AG_OK && !t->begun && status != 416) rc = body_begin(t, status); /* an empty file */
        if (rc == AG_OK && t->spec && t->total && t->have != t->total) {
            t->again = true;
            rc = ag_err_set(t->err, AG_E_IO, "%s: %llu of %llu bytes came", url, (unsigned long long)t->have,
                            (unsigned long long)t->total);
        }
        return rc;
    }
    t->again = worth_a_retry(c);
    return ag_err_set(t->err, AG_E_IO, "%s: %s", url, detail[0] ? detail : curl_easy_strerror(c));
}

static int attempts(transfer *t, const char *url, uint32_t retries, uint32_t wait_ms)
{
    uint32_t idle = 0;
    for (uint32_t i = 0;; i++) {
        uint64_t before = t->have;
        if (t->text) ag_buf_reset(t->text);
        int rc = attempt(t, url);
        if (rc == AG_OK || !t->again || i + 1 >= TRIES_MAX) return rc;
        idle = t->have > before ? 0 : idle + 1;
        if (idle > retries) return rc;
        uint64_t ms = (uint64_t)wait_ms << AG_MIN(idle, 4u);
        fprintf(stderr, "%s; trying again\n", t->err->text);
        ag_err_clear(t->err);
        nanosleep(&(struct timespec){(time_t)(ms / 1000), (long)(ms % 1000) * 1000000}, NULL);
    }
}

static int part_open(transfer *t)
{
    if (snprintf(t->part, sizeof t->part, "%s.part", t->spec->path) >= (int)sizeof t->part ||
        snprintf(t->tag_path, sizeof t->tag_path, "%s.part.tag", t->spec->path) >= (int)sizeof t->tag_path)
        return ag_err_set(t->err, AG_E_USAGE, "%.80s...: the path is too long", t->spec->path);
    t->fd = open(t->part, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    if (t->fd < 0) return ag_err_set(t->err, AG_E_IO, "%s: cannot be written: %s", t->part, strerror(errno));
    if (flock(t->fd, LOCK_EX | LOCK_NB) != 0) return ag_err_set(t->err, AG_E_IO, "%s: another pull is at it", t->part);
    t->ours = true;
    off_t end = lseek(t->fd, 0, SEEK_END);
    t->have = end > 0 ? (uint64_t)end : 0;
    tag_load(t);
    return AG_OK;
}

/* link and RENAME_NOREPLACE fail where a file of this name has appeared meanwhile; rename would take its place. Some
 * file systems know no hard links, some no such flag. */
static bool put_in_place(const char *part, const char *path)
{
    if ((ag_fault_hit(AG_FAULT_RENAME) ? (errno = EPERM, -1) : link(part, path)) == 0) {
        unlink(part);
        return true;
    }
    return errno != EEXIST && renameat2(AT_FDCWD, part, AT_FDCWD, path, RENAME_NOREPLACE) == 0;
}

/* Everything has come: check it, and give it its name. */
static int part_finish(transfer *t, ag_pull_result *out)
{
    const char *want = t->spec->sha256 ? t->spec->sha256 : t->sha256;
    if (fsync(t->fd) != 0) return ag_err_set(t->err, AG_E_IO, "%s: cannot be written: %s", t->part, strerror(errno));
    int rc = ag_pull_digest(t->part, out->sha256, t->err);
    if (rc != AG_OK) return rc;
    if (*want && strcasecmp(want, out->sha256) != 0) {
        unlink(t->part); /* going on from it would only bring the same again */
        unlink(t->tag_path);
        return ag_err_set(t->err, AG_E_IO,
                          "%s: the checksum is wrong: sha256 is %s, expected %s; what came was thrown away",
                          t->spec->url, out->sha256, want);
    }
    if (!put_in_place(t->part, t->spec->path))
        return ag_err_set(t->err, AG_E_IO, "%s: cannot be put in place: %s", t->spec->path, strerror(errno));
    unlink(t->tag_path);
    out->checked = *want != 0;
    out->bytes = t->have;
    return AG_OK;
}

int ag_pull_file(const ag_pull_spec *spec, ag_pull_result *out, ag_err *err)
{
    *out = (ag_pull_result){0};
    transfer t = {.spec = spec, .fd = -1, .err = err};
    if (spec->sha256) {
        int rc = existing(spec, spec->sha256, out, err);
        if (rc != AG_OK || out->there) return rc;
    }
    int rc = part_open(&t);
    if (rc == AG_OK && (t.curl = curl_easy_init()) == NULL)
        rc = ag_err_set(err, AG_E_NOMEM, "no memory for a connection");
    if (rc == AG_OK) rc = attempts(&t, spec->url, spec->retries, spec->retry_wait_ms);
    if (rc == AG_E_CANCELLED) { /* seen at the head of the answer: we have it */
        ag_err_clear(err);
        rc = existing(spec, t.sha256, out, err);
    } else if (rc == AG_OK) {
        rc = part_finish(&t, out);
    }
    if (t.ours && t.have == 0) { /* nothing worth keeping */
        unlink(t.part);
        unlink(t.tag_path);
    }
    if (t.curl) curl_easy_cleanup(t.curl);
    if (t.fd >= 0) close(t.fd);
    return rc;
}

int ag_pull_text(const char *url, uint32_t retries, uint32_t retry_wait_ms, ag_buf *out, ag_err *err)
{
    transfer t = {.text = out, .fd = -1, .err = err};
    t.curl = curl_easy_init();
    if (t.curl == NULL) return ag_err_set(err, AG_E_NOMEM, "no memory for a connection");
    int rc = attempts(&t, url, retries, retry_wait_ms);
    curl_easy_cleanup(t.curl);
    return rc;
}
