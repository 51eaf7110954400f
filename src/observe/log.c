#include "observe/log.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/fault.h"
#include "base/mbox.h"
#include "base/mem.h"
#include "base/utf8.h"

#define LOG_MAGIC 0x4c4f4721u
/* One value; a prompt that found its way into a sentence must not crowd out the other fields of its line. */
#define VALUE_BYTES_MAX 2048
#define BATCH_BYTES (64u << 10)

struct ag_log {
    uint32_t magic;
    ag_log_format format;
    char *file, *service;
    int fd; /* the writer's, once it runs */
    _Atomic int level;
    atomic_bool reopen, closing;
    atomic_bool rung; /* the writer was woken, and has not looked yet */
    _Atomic uint64_t dropped;
    uint64_t dropped_said;
    sem_t ready;
    ag_mbox *ring; /* of char *, each a whole line with its newline and a NUL */
    pthread_t writer;
};

static const char *const level_names[] = {"debug", "info", "warn", "error", "off"};

/* Formatting, on the caller's thread. */

static void add_time(ag_buf *b)
{
    uint64_t us = ag_wall_us();
    time_t s = (time_t)(us / 1000000);
    struct tm tm;
    gmtime_r(&s, &tm);
    ag_buf_addf(b, "%04d-%02d-%02dT%02d:%02d:%02d.%03uZ", tm.tm_year + 1900, tm.tm_mon + 1, tm.tm_mday, tm.tm_hour,
                tm.tm_min, tm.tm_sec, (unsigned)(us / 1000 % 1000));
}

static bool is_plain(ag_str s)
{
    for (size_t i = 0; i < s.n; i++)
        if (s.p[i] <= ' ' || s.p[i] > '~' || s.p[i] == '"' || s.p[i] == '=' || s.p[i] == '\\') return false;
    return s.n > 0;
}

static void add_text(ag_buf *b, ag_log_format format, ag_str s)
{
    bool cut = s.n > VALUE_BYTES_MAX;
    if (cut) s.n = VALUE_BYTES_MAX - ag_utf8_tail(s.p, VALUE_BYTES_MAX);
    if (format == AG_LOG_TEXT && is_plain(s)) ag_buf_add(b, s.p, s.n);
    else ag_buf_add_json(b, s.p, s.n);
    if (!cut) return;
    if (b->n && b->p[b->n - 1] == '"') b->n--, ag_buf_addz(b, "…\"");
    else ag_buf_addz(b, "…");
}

static void add_key(ag_buf *b, ag_log_format format, const char *name)
{
    ag_buf_addz(b, format == AG_LOG_JSON ? ",\"" : " ");
    ag_buf_addz(b, name);
    ag_buf_addz(b, format == AG_LOG_JSON ? "\":" : "=");
}

static void add_field(ag_buf *b, ag_log_format format, const ag_log_field *f)
{
    add_key(b, format, f->name);
    switch (f->kind) {
    case AG_LOG_STR: add_text(b, format, f->s); break;
    case AG_LOG_U64: ag_buf_addu(b, f->u); break;
    case AG_LOG_I64:
        if (f->i < 0) ag_buf_addc(b, '-');
        ag_buf_addu(b, f->i < 0 ? 0 - (uint64_t)f->i : (uint64_t)f->i);
        break;
    case AG_LOG_F64:
        if (isfinite(f->d)) ag_buf_addf(b, "%.6g", f->d);
        else ag_buf_addz(b, "null");
        break;
    case AG_LOG_BOOL: ag_buf_addz(b, f->b ? "true" : "false"); break;
    }
}

/* U+0080 to U+009F are controls too, and a terminal may obey them. */
static void c1_out(ag_buf *b)
{
    size_t to = 0;
    for (size_t i = 0; i < b->n; i++) {
        bool c1 = (unsigned char)b->p[i] == 0xC2 && i + 1 < b->n && (unsigned char)b->p[i + 1] >= 0x80 &&
                  (unsigned char)b->p[i + 1] < 0xA0;
        b->p[to++] = c1 ? '?' : b->p[i]; /* nothing in its place could bring together what is one again */
        i += c1;
    }
    b->n = to;
}

static void add_line(ag_buf *b, const ag_log *l, ag_log_level level, const ag_log_ctx *ctx, const char *msg,
                     const ag_log_field *fields, uint32_t n)
{
    if (l->format == AG_LOG_JSON) {
        ag_buf_addz(b, "{\"time\":\"");
        add_time(b);
        ag_buf_addf(b, "\",\"level\":\"%s\"", level_names[level]);
        add_key(b, AG_LOG_JSON, "service");
        add_text(b, AG_LOG_JSON, ag_str_of(l->service));
        add_key(b, AG_LOG_JSON, "msg");
        add_text(b, AG_LOG_JSON, ag_str_of(msg));
    } else {
        add_time(b);
        ag_buf_addf(b, " %-5s ", level_names[level]);
        for (const char *z = msg; *z; z++) ag_buf_addc(b, (unsigned char)*z < ' ' || *z == 0x7F ? '?' : *z);
    }
    if (ctx && ctx->request_id.n) add_key(b, l->format, "request_id"), add_text(b, l->format, ctx->request_id);
    if (ctx && ctx->trace_id.n) add_key(b, l->format, "trace_id"), add_text(b, l->format, ctx->trace_id);
    for (uint32_t i = 0; i < n; i++) add_field(b, l->format, &fields[i]);
    if (l->format == AG_LOG_TEXT) c1_out(b);
    ag_buf_addz(b, l->format == AG_LOG_JSON ? "}\n" : "\n");
    ag_buf_zterm(b);
}

static void count_dropped(ag_log *l, uint64_t n) { atomic_fetch_add_explicit(&l->dropped, n, memory_order_relaxed); }

void ag_log_write(ag_log *l, ag_log_level level, const ag_log_ctx *ctx, const char *msg, const ag_log_field *fields,
                  uint32_t n)
{
    if (!ag_log_on(l, level)) return;
    ag_buf b;
    ag_buf_init(&b, AG_LOG_LINE_MAX);
    add_line(&b, l, level, ctx, msg, fields, n);
    if (b.failed || !ag_mbox_post(l->ring, b.p)) {
        count_dropped(l, 1);
        ag_buf_fini(&b);
    }
}

void ag_log_printf(ag_log *l, ag_log_level level, const char *fmt, ...)
{
    if (!ag_log_on(l, level)) return;
    char text[1024];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    ag_log_write(l, level, NULL, text, NULL, 0);
}

/* Writing, on the writer's thread. */

static bool write_all(int fd, const char *p, size_t n)
{
    while (n) {
        ssize_t k = ag_fault_hit(AG_FAULT_WRITE) ? (errno = ENOSPC, -1) : write(fd, p, n);
        if (k < 0 && errno == EINTR) continue;
        if (k <= 0) return false;
        p += k;
        n -= (size_t)k;
    }
    return true;
}

static bool flush_batch(ag_log *l, ag_buf *batch, uint64_t *lines)
{
    bool ok = batch->n == 0 || write_all(l->fd, batch->p, batch->n);
    if (!ok) count_dropped(l, *lines);
    ag_buf_reset(batch);
    *lines = 0;
    return ok;
}

/* How many have been told of once the batch is written: the sentence may be lost like any other. */
static uint64_t say_dropped(ag_log *l, ag_buf *batch)
{
    uint64_t dropped = atomic_load_explicit(&l->dropped, memory_order_relaxed), told = l->dropped_said;
    if (dropped == told) return told;
    ag_buf line;
    ag_buf_init(&line, AG_LOG_LINE_MAX);
    add_line(&line, l, AG_LOG_WARN, NULL, "log lines were dropped",
             (ag_log_field[]){AG_LOG_U("lines", dropped - told)}, 1);
    if (!line.failed && ag_buf_add(batch, line.p, line.n)) told = dropped;
    ag_buf_fini(&line);
    return told;
}

static int open_file(const ag_log *l)
{
    if (ag_fault_hit(AG_FAULT_OPEN)) return errno = EMFILE, -1;
    return open(l->file, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0640);
}

static void say_not_reopened(ag_log *l, int why)
{
    if (!ag_log_on(l, AG_LOG_WARN)) return;
    ag_buf line;
    ag_buf_init(&line, AG_LOG_LINE_MAX);
    add_line(&line, l, AG_LOG_WARN, NULL, "the log file cannot be opened anew",
             (ag_log_field[]){AG_LOG_Z("file", l->file), AG_LOG_Z("error", strerror(why))}, 2);
    if (line.failed || !write_all(l->fd, line.p, line.n)) count_dropped(l, 1);
    ag_buf_fini(&line);
}

static void reopen_file(ag_log *l)
{
    if (!atomic_exchange(&l->reopen, false) || l->file == NULL) return;
    int fd = open_file(l);
    if (fd < 0) { /* the old file is better than none */
        say_not_reopened(l, errno);
        return;
    }
    close(l->fd);
    l->fd = fd;
}

static void *writer_main(void *arg)
{
    ag_log *l = arg;
    ag_buf batch;
    uint64_t lines = 0;
    ag_buf_init(&batch, BATCH_BYTES + AG_LOG_LINE_MAX);
    for (bool last = false; !last;) {
        while (sem_wait(&l->ready) != 0 && errno == EINTR) continue;
        atomic_exchange(&l->rung, false); /* before it looks: what comes from here on wakes it again */
        last = atomic_load(&l->closing);
        reopen_file(l);
        for (char *line; (line = ag_mbox_take(l->ring));) {
            if (ag_buf_add(&batch, line, strlen(line))) lines++;
            else count_dropped(l, 1), batch.failed = false;
            ag_mem_free(line);
            if (batch.n >= BATCH_BYTES) flush_batch(l, &batch, &lines);
        }
        uint64_t told = say_dropped(l, &batch);
        if (flush_batch(l, &batch, &lines)) l->dropped_said = told;
    }
    ag_buf_fini(&batch);
    return NULL;
}

/* Once for all lines until it looks: a wake a line would be a system call each. */
static void wake_writer(void *arg)
{
    ag_log *l = arg;
    if (!atomic_exchange(&l->rung, true)) sem_post(&l->ready);
}

int ag_log_open(ag_log **out, const ag_log_conf *conf, ag_err *err)
{
    int rc = AG_E_NOMEM;
    ag_log *l = ag_mem_zalloc(sizeof *l);
    if (l == NULL) goto out;
    l->magic = LOG_MAGIC;
    l->format = conf->format;
    l->fd = STDERR_FILENO;
    atomic_init(&l->level, conf->level);
    const char *service = conf->service ? conf->service : "autoglm";
    if ((l->service = ag_mem_strndup(service, strlen(service))) == NULL) goto undo_mem;
    if (conf->file) {
        if ((l->file = ag_mem_strndup(conf->file, strlen(conf->file))) == NULL) goto undo_mem;
        if ((l->fd = open_file(l)) < 0) {
            rc = ag_err_set(err, AG_E_IO, "The log file '%s' cannot be opened: %s.", conf->file, strerror(errno));
            goto undo_mem;
        }
    }
    if (sem_init(&l->ready, 0, 0) != 0) goto undo_fd;
    if (ag_mbox_open(&l->ring, AG_LOG_RING, wake_writer, l) != AG_OK) goto undo_sem;
    if (ag_fault_hit(AG_FAULT_THREAD) || pthread_create(&l->writer, NULL, writer_main, l) != 0) goto undo_ring;
    *out = l;
    return AG_OK;
undo_ring: ag_mbox_close(l->ring);
undo_sem:  sem_destroy(&l->ready);
undo_fd:   if (l->file) close(l->fd);
undo_mem:
    ag_mem_free(l->file);
    ag_mem_free(l->service);
    ag_mem_free(l);
out:
    return rc == AG_E_NOMEM ? ag_err_set(err, rc, "There is no memory or thread left for the log.") : rc;
}

void ag_log_close(ag_log *l)
{
    if (l == NULL) return;
    AG_CHECK(l, LOG_MAGIC);
    atomic_store(&l->closing, true);
    sem_post(&l->ready);
    pthread_join(l->writer, NULL);
    ag_mbox_close(l->ring);
    sem_destroy(&l->ready);
    if (l->file) close(l->fd);
    l->magic = 0;
    ag_mem_free(l->file);
    ag_mem_free(l->service);
    ag_mem_free(l);
}

bool ag_log_on(const ag_log *l, ag_log_level level)
{
    return l != NULL && (int)level >= atomic_load_explicit((_Atomic int *)&l->level, memory_order_relaxed);
}

void ag_log_level_set(ag_log *l, ag_log_level level)
{
    if (l) atomic_store_explicit(&l->level, (int)level, memory_order_relaxed);
}

bool ag_log_level_find(const char *name, ag_log_level *out)
{
    for (uint32_t i = 0; i < AG_ARRAY_LEN(level_names); i++) {
        if (strcmp(name, level_names[i]) != 0) continue;
        *out = (ag_log_level)i;
        return true;
    }
    return false;
}

void ag_log_reopen(ag_log *l)
{
    if (l == NULL) return;
    atomic_store(&l->reopen, true);
    sem_post(&l->ready);
}

uint64_t ag_log_dropped(const ag_log *l)
{
    return l ? atomic_load_explicit((_Atomic uint64_t *)&l->dropped, memory_order_relaxed) : 0;
}
