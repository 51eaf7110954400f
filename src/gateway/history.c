#include "gateway/history.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <sodium.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fault.h"
#include "base/mbox.h"
#include "base/mem.h"
#include "keys/key.h"

#define HISTORY_MAGIC 0x41474849u
#define PATH_MAX_BYTES 4096u
#define BATCH_BYTES (64u << 10)
#define HALVE_AFTER (4u * AG_HISTORY_KEYS)

/* Where a record lies: the number of its file, counted up with each that is begun, and its place in it. 0: nowhere. */
#define PLACE_BITS 40
#define PLACE(file, at) ((uint64_t)(file) << PLACE_BITS | (at))
#define PLACE_FILE(p) ((uint32_t)((p) >> PLACE_BITS))
#define PLACE_AT(p) ((p) & ((UINT64_C(1) << PLACE_BITS) - 1))

typedef struct note { /* a record on its way */
    uint64_t time_ms;
    ag_cache_key key;
    uint32_t n_name[4], n_body; /* route, tenant, model, share */
    size_t bytes;
    char text[];
} note;

typedef struct counted { /* a record whose line is written next */
    ag_cache_key key;
    size_t at;
} counted;

struct ag_history {
    uint32_t magic;
    ag_history_mode mode;
    char path[PATH_MAX_BYTES];
    uint64_t bytes_max;
    uint32_t files_max;
    ag_metrics *metrics;
    ag_log *log;
    ag_key_secret secret;
    int lock_fd;               /* of the secret's file: one server has the files to itself */
    ag_mbox *ring;             /* of note * */
    _Atomic uint64_t ring_bytes;
    sem_t ready;
    atomic_bool rung, closing, known;
    pthread_t writer;
    _Atomic uint64_t written, dropped, damaged;
    _Atomic uint64_t size;     /* of the file that is written; its last whole line ends there */
    /* The writer's. */
    int fd;                    /* -1: it could not be opened; it is tried again */
    bool said;                 /* that it cannot be written */
    uint64_t dropped_then;
    ag_buf batch;
    counted *lines;            /* in the batch */
    uint32_t n_lines, lines_max;

    pthread_mutex_t lock;      /* over what follows: names of files, and counts */
    uint32_t file;             /* number of the one that is written; PATH.n is n older */
    ag_hot *hot;
};

bool ag_history_mode_find(const char *name, ag_history_mode *out)
{
    static const char *const names[] = {[AG_HISTORY_OFF] = "off", [AG_HISTORY_HASHES] = "hashes",
                                        [AG_HISTORY_FULL] = "full"};
    for (size_t i = 0; i < AG_ARRAY_LEN(names); i++)
        if (strcmp(names[i], name) == 0) return *out = (ag_history_mode)i, true;
    return false;
}

const uint8_t *ag_history_secret(const ag_history *h) { return h->secret.bytes; }
bool ag_history_known(const ag_history *h) { return atomic_load(&((ag_history *)(uintptr_t)h)->known); }

static void path_of(const ag_history *h, uint32_t older, char out[PATH_MAX_BYTES + 16])
{
    if (older == 0) snprintf(out, PATH_MAX_BYTES + 16, "%s", h->path);
    else snprintf(out, PATH_MAX_BYTES + 16, "%s.%u", h->path, older);
}

/* ---- adding, on any thread ---- */

static void count_dropped(ag_history *h, uint64_t n)
{
    if (n == 0) return;
    atomic_fetch_add_explicit(&h->dropped, n, memory_order_relaxed);
    ag_metric_add(h->metrics, AG_M_HISTORY_DROPPED, 0, n);
}

/* A line end in JSON is white space: in its texts it is written \n. */
static void put_body(char *to, ag_str body)
{
    memcpy(to, body.p, body.n);
    for (char *end = to + body.n; (to = memchr(to, '\n', (size_t)(end - to)));) *to = ' ';
}

static note *note_make(const ag_history *h, const ag_history_record *r)
{
    ag_str body = h->mode == AG_HISTORY_FULL && r->body.n <= AG_HISTORY_BODY_MAX ? r->body : (ag_str){0};
    const ag_str names[] = {r->route, r->tenant, r->model, r->share};
    size_t bytes = sizeof(note) + body.n;
    for (size_t i = 0; i < AG_ARRAY_LEN(names); i++) {
        if (names[i].n > AG_HISTORY_NAME_MAX) return NULL;
        bytes += names[i].n;
    }
    note *n = ag_mem_alloc(bytes);
    if (n == NULL) return NULL;
    *n = (note){.time_ms = r->time_ms, .key = r->key, .n_body = (uint32_t)body.n, .bytes = bytes};
    char *to = n->text;
    for (size_t i = 0; i < AG_ARRAY_LEN(names); i++) {
        n->n_name[i] = (uint32_t)names[i].n;
        if (names[i].n) memcpy(to, names[i].p, names[i].n);
        to += names[i].n;
    }
    if (body.n) put_body(to, body);
    return n;
}

void ag_history_add(ag_history *h, const ag_history_record *r)
{
    AG_CHECK(h, HISTORY_MAGIC);
    note *n = note_make(h, r);
    if (n && atomic_fetch_add(&h->ring_bytes, n->bytes) + n->bytes <= AG_HISTORY_RING_BYTES &&
        ag_mbox_post(h->ring, n))
        return;
    if (n) atomic_fetch_sub(&h->ring_bytes, n->bytes);
    ag_mem_free(n);
    count_dropped(h, 1);
}

/* Once for all that come until it looks. */
static void wake_writer(void *arg)
{
    ag_history *h = arg;
    if (!atomic_exchange(&h->rung, true)) sem_post(&h->ready);
}

/* ---- writing, on the writer's thread ---- */

static bool write_all(int fd, const char *p, size_t n, uint64_t at)
{
    for (size_t put = 0; put < n;) {
        ssize_t k = ag_fault_hit(AG_FAULT_WRITE) ? (errno = ENOSPC, -1)
                                                 : pwrite(fd, p + put, n - put, (off_t)(at + put));
        if (k < 0 && errno == EINTR) continue;
        if (k <= 0) return false;
        put += (size_t)k;
    }
    return true;
}

static int open_file(const ag_history *h)
{
    if (ag_fault_hit(AG_FAULT_OPEN)) return errno = EMFILE, -1;
    return open(h->path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0600);
}

static void say_trouble(ag_history *h, const char *what)
{
    if (h->said) return;
    h->said = true;
    h->dropped_then = atomic_load(&h->dropped);
    AG_LOG(h->log, AG_LOG_WARN, NULL, "the access log cannot be written; records are dropped until it can",
           AG_LOG_Z("file", h->path), AG_LOG_Z("error", what));
}

static void say_better(ag_history *h)
{
    if (!h->said) return;
    h->said = false;
    AG_LOG(h->log, AG_LOG_INFO, NULL, "the access log is written again", AG_LOG_Z("file", h->path),
           AG_LOG_U("dropped", atomic_load(&h->dropped) - h->dropped_then));
}

/* The newest goes last, and none after one that failed, so that whatever fails in between loses none but the oldest. */
static bool rotate(ag_history *h)
{
    char from[PATH_MAX_BYTES + 16], to[PATH_MAX_BYTES + 16];
    bool ok = true;
    pthread_mutex_lock(&h->lock);
    for (uint32_t i = h->files_max - 1; ok && i-- > 0;) {
        path_of(h, i, from);
        path_of(h, i + 1, to);
        if (ag_fault_hit(AG_FAULT_RENAME) ? (errno = EACCES, true) : rename(from, to) != 0) ok = errno == ENOENT;
    }
    if (h->files_max == 1) ok = unlink(h->path) == 0;
    if (ok) h->file++;
    pthread_mutex_unlock(&h->lock);
    if (!ok) return false;
    close(h->fd);
    h->fd = -1;
    atomic_store(&h->size, 0);
    return true;
}

/* Where the last whole line ends: what is torn behind it goes. */
static uint64_t whole_size(int fd)
{
    char piece[4096];
    struct stat st;
    if (fstat(fd, &st) != 0) return 0;
    for (uint64_t end = (uint64_t)st.st_size; end > 0;) {
        size_t n = (size_t)AG_MIN(end, sizeof piece);
        if (pread(fd, piece, n, (off_t)(end - n)) != (ssize_t)n) return (uint64_t)st.st_size;
        const char *last = memrchr(piece, '\n', n);
        if (last) return end - n + (size_t)(last - piece) + 1;
        end -= n;
    }
    return 0;
}

static void cut_torn(ag_history *h)
{
    uint64_t whole = whole_size(h->fd);
    atomic_store(&h->size, whole);
    if (ftruncate(h->fd, (off_t)whole) != 0)
        AG_LOG(h->log, AG_LOG_WARN, NULL, "the access log ends in a torn line", AG_LOG_Z("file", h->path),
               AG_LOG_Z("error", strerror(errno)));
}

/* false: it cannot be written now, errno says why. */
static bool file_ready(ag_history *h)
{
    if (h->fd < 0) {
        if ((h->fd = open_file(h)) < 0) return false;
        cut_torn(h); /* it may have been there before it could be opened */
    }
    uint64_t size = atomic_load(&h->size);
    if (size == 0 || size + h->batch.n <= h->bytes_max) return true;
    if (!rotate(h)) return false;
    return (h->fd = open_file(h)) >= 0;
}

static void count_lines(ag_history *h, uint64_t at)
{
    pthread_mutex_lock(&h->lock);
    for (uint32_t i = 0; i < h->n_lines; i++)
        ag_hot_count(h->hot, &h->lines[i].key, PLACE(h->file, at + h->lines[i].at));
    pthread_mutex_unlock(&h->lock);
}

static void flush_batch(ag_history *h)
{
    if (h->n_lines == 0) return;
    bool ok = file_ready(h);
    uint64_t at = atomic_load(&h->size);
    if (ok && !write_all(h->fd, h->batch.p, h->batch.n, at)) {
        ok = false;
        say_trouble(h, strerror(errno));
        cut_torn(h);
    }
    if (!ok) say_trouble(h, strerror(errno));
    if (ok) {
        say_better(h);
        atomic_store(&h->size, at + h->batch.n);
        count_lines(h, at); /* what is counted as written is found */
        atomic_fetch_add(&h->written, h->n_lines);
        ag_metric_add(h->metrics, AG_M_HISTORY_WRITTEN, 0, h->n_lines);
    } else {
        count_dropped(h, h->n_lines);
    }
    ag_buf_reset(&h->batch);
    h->n_lines = 0;
}

static void add_line(ag_history *h, const note *n)
{
    size_t from = h->batch.n;
    const char *p = n->text;
    ag_history_record r = {.time_ms = n->time_ms, .key = n->key};
    ag_str *const names[] = {&r.route, &r.tenant, &r.model, &r.share};
    for (size_t i = 0; i < AG_ARRAY_LEN(names); i++) {
        *names[i] = (ag_str){p, n->n_name[i]};
        p += n->n_name[i];
    }
    r.body = (ag_str){p, n->n_body};
    if (ag__history_line_write(&h->batch, &r) && ag_buf_addc(&h->batch, '\n')) {
        h->lines[h->n_lines++] = (counted){.key = n->key, .at = from};
    } else {
        h->batch.n = from;
        h->batch.failed = false;
        count_dropped(h, 1);
    }
}

/* ---- what was there before, on the writer's thread ---- */

static void count_damaged(ag_history *h, uint64_t n)
{
    if (n == 0) return;
    atomic_fetch_add(&h->damaged, n);
    ag_metric_add(h->metrics, AG_M_HISTORY_DAMAGED, 0, n);
}

typedef struct reading {
    ag_history *h;
    uint32_t file;
    ag_buf text;
    bool skipping;          /* the rest of a line whose beginning was not kept */
    uint64_t lines, damaged;
} reading;

static void take_line(reading *r, ag_str line, uint64_t at)
{
    ag_history_record rec;
    if (line.n == 0) return;
    if (!ag__history_line_read(line, &rec, &r->text)) {
        r->damaged++;
        return;
    }
    r->lines++;
    pthread_mutex_lock(&r->h->lock);
    ag_hot_count(r->h->hot, &rec.key, PLACE(r->file, at));
    pthread_mutex_unlock(&r->h->lock);
}

/* Whole lines out of what is there from `at` on in the file; how many bytes were done with. */
static size_t take_lines(reading *r, const char *p, size_t n, uint64_t at)
{
    size_t done = 0;
    for (const char *end; (end = memchr(p + done, '\n', n - done));) {
        ag_str line = {p + done, (size_t)(end - p) - done};
        if (r->skipping) r->skipping = false;
        else take_line(r, line, at + done);
        done += line.n + 1;
    }
    if (n - done <= AG_HISTORY_LINE_MAX) return done;
    if (!r->skipping) r->damaged++; /* no line is so long */
    r->skipping = true;
    return n;
}

static void read_file(reading *r, int fd, ag_buf *window)
{
    struct stat st;
    ag_history *h = r->h;
    if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode)) return;
    uint64_t size = (uint64_t)st.st_size, at = 0;
    r->skipping = false;
    if (size > h->bytes_max + AG_HISTORY_LINE_MAX) { /* of a run with another limit: its end will do */
        at = size - h->bytes_max;
        r->skipping = true;
    }
    ag_buf_reset(window);
    while (at + window->n < size && !atomic_load(&h->closing)) {
        size_t want = (size_t)AG_MIN(size - at - window->n, (uint64_t)BATCH_BYTES * 4);
        if (!ag_buf_room(window, want)) return;
        ssize_t got = ag_fault_hit(AG_FAULT_READ) ? (errno = EIO, -1)
                                                  : pread(fd, window->p + window->n, want, (off_t)(at + window->n));
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) break;
        window->n += (size_t)got;
        size_t done = take_lines(r, window->p, window->n, at);
        ag_buf_consume(window, done);
        at += done;
    }
    if (window->n && !r->skipping) r->damaged++; /* its last line was torn */
}

/* Oldest first, so that counts and places are as if they had just come. A torn end of the newest is cut off. */
static void read_old(ag_history *h)
{
    reading r = {.h = h};
    ag_buf window;
    char path[PATH_MAX_BYTES + 16];
    ag_buf_init(&window, 2 * AG_HISTORY_LINE_MAX);
    ag_buf_init(&r.text, AG_HISTORY_LINE_MAX + 1);
    for (uint32_t older = h->files_max; older-- > 0 && !atomic_load(&h->closing);) {
        path_of(h, older, path);
        int fd = ag_fault_hit(AG_FAULT_OPEN) ? -1 : open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
        r.file = h->file - older;
        if (fd < 0) continue;
        read_file(&r, fd, &window);
        close(fd);
    }
    count_damaged(h, r.damaged);
    AG_LOG(h->log, AG_LOG_INFO, NULL, "access log", AG_LOG_Z("file", h->path), AG_LOG_U("records", r.lines),
           AG_LOG_U("damaged", r.damaged));
    ag_buf_fini(&window);
    ag_buf_fini(&r.text);
    atomic_store(&h->known, true);
}

static void *writer_main(void *arg)
{
    ag_history *h = arg;
    pthread_setname_np(pthread_self(), "ag-history");
    read_old(h);
    if (h->fd >= 0) cut_torn(h);
    for (bool last = false; !last;) {
        while (sem_wait(&h->ready) != 0 && errno == EINTR) continue;
        atomic_exchange(&h->rung, false); /* before it looks: what comes from here on wakes it again */
        last = atomic_load(&h->closing);
        for (note *n; (n = ag_mbox_take(h->ring));) {
            add_line(h, n);
            atomic_fetch_sub(&h->ring_bytes, n->bytes);
            ag_mem_free(n);
            if (h->batch.n >= BATCH_BYTES || h->n_lines == h->lines_max) flush_batch(h);
        }
        flush_batch(h);
    }
    return NULL;
}

/* ---- looking ---- */

uint32_t ag_history_top(ag_history *h, ag_hot_key *out, uint32_t n)
{
    AG_CHECK(h, HISTORY_MAGIC);
    pthread_mutex_lock(&h->lock);
    n = ag_hot_top(h->hot, out, n);
    pthread_mutex_unlock(&h->lock);
    return n;
}

/* What the file has of the line at this place, and a byte more. */
static bool read_line(ag_history *h, uint64_t place, ag_buf *line)
{
    char path[PATH_MAX_BYTES + 16];
    pthread_mutex_lock(&h->lock);
    uint32_t older = h->file - PLACE_FILE(place);
    path_of(h, older, path);
    /* whatever its name is by now */
    int fd = older < h->files_max ? open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK) : -1;
    pthread_mutex_unlock(&h->lock);
    bool whole = false;
    while (fd >= 0 && !whole && ag_buf_room(line, BATCH_BYTES)) {
        ssize_t got = pread(fd, line->p + line->n, BATCH_BYTES, (off_t)(PLACE_AT(place) + line->n));
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) break;
        const char *end = memchr(line->p + line->n, '\n', (size_t)got);
        line->n = end ? (size_t)(end - line->p) : line->n + (size_t)got;
        whole = end != NULL;
    }
    if (fd >= 0) close(fd);
    return whole;
}

bool ag_history_get(ag_history *h, const ag_hot_key *k, ag_history_record *out, ag_buf *text)
{
    AG_CHECK(h, HISTORY_MAGIC);
    ag_buf line;
    ag_buf_init(&line, AG_HISTORY_LINE_MAX + 2 * BATCH_BYTES);
    bool ok = read_line(h, k->at, &line) && ag__history_line_read(ag_buf_str(&line), out, text) &&
              memcmp(&out->key, &k->key, sizeof k->key) == 0 && out->body.n > 0;
    ag_buf_fini(&line);
    return ok;
}

void ag_history_stats_get(const ag_history *h, ag_history_stats *out)
{
    ag_history *x = (ag_history *)(uintptr_t)h;
    *out = (ag_history_stats){.written = atomic_load(&x->written), .dropped = atomic_load(&x->dropped),
                              .damaged = atomic_load(&x->damaged), .bytes = atomic_load(&x->size)};
}

/* ---- open, close ---- */

/* Without a secret of its own a hash would tell who guesses a prompt that it was asked; with it the files are one
 * server's. */
static int secret_open(ag_history *h, ag_err *err)
{
    char path[PATH_MAX_BYTES + 16];
    snprintf(path, sizeof path, "%s.key", h->path);
    int rc = ag_key_secret_load(&h->secret, path, true, err);
    if (rc != AG_OK) return rc;
    h->lock_fd = open(path, O_RDONLY | O_CLOEXEC);
    if (h->lock_fd < 0) return ag_err_set(err, AG_E_IO, "'%s' cannot be opened: %s.", path, strerror(errno));
    if (flock(h->lock_fd, LOCK_EX | LOCK_NB) != 0)
        return ag_err_set(err, AG_E_USAGE,
                          "The access log '%s' is another server's; --history-file names one for this.", h->path);
    return AG_OK;
}

/* A disk that is full at the start is one that may have room later. */
static int first_open(ag_history *h, ag_err *err)
{
    struct stat st;
    h->fd = open_file(h);
    if (h->fd < 0 && errno != ENOSPC && errno != EDQUOT)
        return ag_err_set(err, AG_E_IO, "The access log '%s' cannot be opened: %s.", h->path, strerror(errno));
    if (h->fd >= 0 && (fstat(h->fd, &st) != 0 || !S_ISREG(st.st_mode) || st.st_uid != geteuid() ||
                       fchmod(h->fd, 0600) != 0))
        return ag_err_set(err, AG_E_USAGE, "The access log '%s' is not a file of this user.", h->path);
    return AG_OK;
}

static int parts_open(ag_history *h, ag_err *err)
{
    int rc = secret_open(h, err);
    if (rc == AG_OK) rc = first_open(h, err);
    if (rc == AG_OK) rc = ag_hot_open(&h->hot, AG_HISTORY_KEYS, HALVE_AFTER, err);
    if (rc != AG_OK) return rc;
    h->lines_max = BATCH_BYTES / 64;
    h->lines = ag_mem_array(h->lines_max, sizeof *h->lines);
    if (h->lines == NULL || ag_mbox_open(&h->ring, AG_HISTORY_RING, wake_writer, h) != AG_OK)
        return ag_err_set(err, AG_E_NOMEM, "There is no memory for the access log.");
    return AG_OK;
}

static void parts_free(ag_history *h)
{
    if (h->fd >= 0) close(h->fd);
    if (h->lock_fd >= 0) close(h->lock_fd);
    ag_mbox_close(h->ring);
    ag_hot_close(h->hot);
    ag_buf_fini(&h->batch);
    ag_mem_free(h->lines);
    pthread_mutex_destroy(&h->lock);
    sem_destroy(&h->ready);
    sodium_memzero(&h->secret, sizeof h->secret);
    h->magic = 0;
    ag_mem_free(h);
}

int ag_history_open(ag_history **out, const ag_history_conf *conf, ag_metrics *metrics, ag_log *log, ag_err *err)
{
    AG_ASSERT(conf->mode != AG_HISTORY_OFF && conf->files_max >= 1 && conf->files_max <= AG_HISTORY_FILES_MAX);
    if (conf->path == NULL || conf->path[0] == 0 || strlen(conf->path) >= PATH_MAX_BYTES)
        return ag_err_set(err, AG_E_USAGE, "--history needs --history-file, the path of the access log.");
    if (conf->bytes_max < AG_HISTORY_BYTES_MIN)
        return ag_err_set(err, AG_E_USAGE, "--history-bytes should be at least %u MiB.", AG_HISTORY_BYTES_MIN >> 20);
    ag_history *h = ag_mem_zalloc(sizeof *h);
    if (h == NULL) return ag_err_set(err, AG_E_NOMEM, "There is no memory for the access log.");
    h->magic = HISTORY_MAGIC;
    h->mode = conf->mode;
    h->bytes_max = conf->bytes_max;
    h->files_max = conf->files_max;
    h->metrics = metrics;
    h->log = log;
    h->fd = h->lock_fd = -1;
    h->file = AG_HISTORY_FILES_MAX; /* older ones count down from here */
    memcpy(h->path, conf->path, strlen(conf->path));
    ag_buf_init(&h->batch, BATCH_BYTES + 2 * AG_HISTORY_LINE_MAX);
    pthread_mutex_init(&h->lock, NULL);
    sem_init(&h->ready, 0, 0);
    int rc = parts_open(h, err);
    if (rc == AG_OK && (ag_fault_hit(AG_FAULT_THREAD) || pthread_create(&h->writer, NULL, writer_main, h) != 0))
        rc = ag_err_set(err, AG_E_INTERNAL, "The access log's thread could not be started.");
    if (rc != AG_OK) {
        parts_free(h);
        return rc;
    }
    *out = h;
    return AG_OK;
}

void ag_history_close(ag_history *h)
{
    if (h == NULL) return;
    AG_CHECK(h, HISTORY_MAGIC);
    atomic_store(&h->closing, true);
    sem_post(&h->ready);
    pthread_join(h->writer, NULL);
    parts_free(h);
}
