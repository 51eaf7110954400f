#include "model/gguf/write.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/fault.h"
#include "base/mem.h"
#include "model/gguf/gguf_priv.h"

#define WRITER_MAGIC 0x67677766u
#define BUFFER_BYTES (1u << 20)
#define TEMP_TAIL ".XXXXXX.part"

struct ag_gguf_writer {
    uint32_t magic;
    int fd;
    char *path, *temp;
    bool replace, temp_there;
    uint32_t alignment, keys, tensors; /* of the two: still to come */
    uint64_t *sizes;                   /* of the tensors' data, in order */
    uint32_t n_sizes, now;             /* now: whose data come next */
    uint64_t now_done, data_bytes, at; /* at: bytes of the file so far */
    uint32_t held;                     /* in the buffer */
    uint8_t buffer[BUFFER_BYTES];
};

static int cannot_write(const ag_gguf_writer *w, ag_err *err)
{
    return ag_err_set(err, AG_E_IO, "%s: cannot be written: %s", w->path, strerror(errno));
}

static bool write_all(int fd, const uint8_t *p, uint64_t n)
{
    while (n > 0) {
        if (ag_fault_hit(AG_FAULT_WRITE)) {
            errno = ENOSPC;
            return false;
        }
        ssize_t got = write(fd, p, AG_MIN(n, (uint64_t)1 << 30));
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) return false;
        p += got;
        n -= (uint64_t)got;
    }
    return true;
}

static int flush(ag_gguf_writer *w, ag_err *err)
{
    if (!write_all(w->fd, w->buffer, w->held)) return cannot_write(w, err);
    w->held = 0;
    return AG_OK;
}

static int put(ag_gguf_writer *w, const void *p, uint64_t n, ag_err *err)
{
    int rc = AG_OK;
    w->at += n;
    if (n > BUFFER_BYTES - w->held) rc = flush(w, err);
    if (rc != AG_OK) return rc;
    if (n >= BUFFER_BYTES) return write_all(w->fd, p, n) ? AG_OK : cannot_write(w, err);
    if (n) memcpy(w->buffer + w->held, p, n);
    w->held += (uint32_t)n;
    return AG_OK;
}

static int put_u32(ag_gguf_writer *w, uint32_t v, ag_err *err) { return put(w, &v, 4, err); }
static int put_u64(ag_gguf_writer *w, uint64_t v, ag_err *err) { return put(w, &v, 8, err); }
static int put_str(ag_gguf_writer *w, ag_str s, ag_err *err)
{
    int rc = put_u64(w, s.n, err);
    return rc == AG_OK ? put(w, s.p, s.n, err) : rc;
}

static int pad(ag_gguf_writer *w, ag_err *err)
{
    static const uint8_t zeros[4096];
    int rc = AG_OK;
    for (uint64_t left; rc == AG_OK && (left = AG_ALIGN_UP(w->at, (uint64_t)w->alignment) - w->at) > 0;)
        rc = put(w, zeros, AG_MIN(left, sizeof zeros), err);
    return rc;
}

static int check_path(const char *path, bool replace, ag_err *err)
{
    struct stat st;
    if (ag__gguf_split_parse(path).count != 0)
        return ag_err_set(err, AG_E_USAGE, "%s: by its name this is one part of many, but one whole file is written; "
                          "leave -00001-of-... out", path);
    if (path[0] == 0) return ag_err_set(err, AG_E_USAGE, "the name of the file to be written is empty");
    if (lstat(path, &st) != 0) return AG_OK;
    if (stat(path, &st) != 0 && !replace) /* finish would find it in its way */
        return ag_err_set(err, AG_E_USAGE, "%s is there already, a link that leads nowhere", path);
    if (!S_ISREG(st.st_mode) && !S_ISLNK(st.st_mode))
        return ag_err_set(err, AG_E_USAGE, "%s is there and is not a file; give the name of a file", path);
    return replace ? AG_OK : ag_err_set(err, AG_E_USAGE, "%s is there already", path);
}

static int open_temp(ag_gguf_writer *w, ag_err *err)
{
    size_t n = strlen(w->path);
    mode_t mask = umask(022); /* there is no other way to ask for it */
    umask(mask);
    w->temp = ag_mem_alloc(n + sizeof TEMP_TAIL);
    if (w->temp == NULL) return ag_err_set(err, AG_E_NOMEM, "%s: no memory for its name", w->path);
    memcpy(w->temp, w->path, n);
    memcpy(w->temp + n, TEMP_TAIL, sizeof TEMP_TAIL);
    if (ag_fault_hit(AG_FAULT_OPEN)) errno = EIO;
    else w->fd = mkostemps(w->temp, sizeof ".part" - 1, O_CLOEXEC);
    if (w->fd < 0) return cannot_write(w, err);
    w->temp_there = true;
    return fchmod(w->fd, 0644 & ~mask) == 0 ? AG_OK : cannot_write(w, err); /* mkostemps asked for 0600 */
}

int ag_gguf_writer_open(ag_gguf_writer **out, const char *path, bool replace, uint32_t keys, uint32_t tensors,
                        uint32_t alignment, ag_err *err)
{
    int rc = check_path(path, replace, err);
    if (rc != AG_OK) return rc;
    ag_gguf_writer *w = ag_mem_zalloc(sizeof *w);
    if (w == NULL) return ag_err_set(err, AG_E_NOMEM, "%s: no memory to write it", path);
    w->magic = WRITER_MAGIC;
    w->fd = -1;
    w->replace = replace;
    w->alignment = alignment;
    w->keys = keys;
    w->tensors = tensors;
    w->path = ag_mem_strndup(path, strlen(path));
    w->sizes = ag_mem_array(tensors, sizeof *w->sizes);
    if (w->path == NULL || w->sizes == NULL) rc = ag_err_set(err, AG_E_NOMEM, "%s: no memory to write it", path);
    if (rc == AG_OK) rc = open_temp(w, err);
    if (rc == AG_OK) rc = put(w, "GGUF", 4, err);
    if (rc == AG_OK) rc = put_u32(w, 3, err);
    if (rc == AG_OK) rc = put_u64(w, tensors, err);
    if (rc == AG_OK) rc = put_u64(w, keys, err);
    if (rc == AG_OK) *out = w;
    else ag_gguf_writer_close(w);
    return rc;
}

static uint64_t value_bytes(const ag_gguf_value *v)
{
    ag_gguf_type t = v->type == AG_GGUF_ARRAY ? v->item : v->type;
    const void *at = v->data;
    if (t != AG_GGUF_STRING) return v->n * ag__gguf_item_bytes(t);
    for (uint64_t i = 0; i < v->n; i++) ag_gguf_string_next(&at);
    return (uint64_t)((const char *)at - (const char *)v->data);
}

int ag_gguf_writer_value(ag_gguf_writer *w, const ag_gguf_value *v, ag_err *err)
{
    AG_CHECK(w, WRITER_MAGIC);
    AG_ASSERT(w->keys > 0);
    w->keys--;
    int rc = put_str(w, v->key, err);
    if (rc == AG_OK) rc = put_u32(w, (uint32_t)v->type, err);
    if (rc == AG_OK && v->type == AG_GGUF_ARRAY) {
        rc = put_u32(w, (uint32_t)v->item, err);
        if (rc == AG_OK) rc = put_u64(w, v->n, err);
    }
    return rc == AG_OK ? put(w, v->data, value_bytes(v), err) : rc;
}

int ag_gguf_writer_u32(ag_gguf_writer *w, const char *key, uint32_t v, ag_err *err)
{
    return ag_gguf_writer_value(w, &(ag_gguf_value){.key = ag_str_of(key), .type = AG_GGUF_U32, .n = 1, .data = &v},
                                err);
}

static int check_room(const ag_gguf_writer *w, ag_err *err)
{
    struct statvfs fs;
    uint64_t need = w->at + w->data_bytes;
    if (fstatvfs(w->fd, &fs) != 0) return AG_OK;
    uint64_t left = (uint64_t)fs.f_bavail * fs.f_frsize + (w->at - w->held);
    if (need <= left) return AG_OK;
    return ag_err_set(err, AG_E_IO, "%s: %llu MiB are to be written, but the disk has room for %llu MiB", w->path,
                      (unsigned long long)(need >> 20), (unsigned long long)(left >> 20));
}

int ag_gguf_writer_tensor(ag_gguf_writer *w, const ag_gguf_tensor *t, ag_err *err)
{
    AG_CHECK(w, WRITER_MAGIC);
    AG_ASSERT(w->keys == 0 && w->tensors > 0);
    const ag_quant_row *r = ag_quant_find((uint32_t)t->type);
    uint64_t weights = t->dim[0] * t->dim[1] * t->dim[2] * t->dim[3];
    AG_ASSERT(r != NULL && t->dim[0] % r->block == 0);
    int rc = put_str(w, t->name, err);
    if (rc == AG_OK) rc = put_u32(w, t->n_dims, err);
    for (uint32_t d = 0; d < t->n_dims && rc == AG_OK; d++) rc = put_u64(w, t->dim[d], err);
    if (rc == AG_OK) rc = put_u32(w, (uint32_t)t->type, err);
    if (rc == AG_OK) rc = put_u64(w, w->data_bytes, err);
    w->sizes[w->n_sizes] = weights / r->block * r->bytes;
    w->data_bytes = AG_ALIGN_UP(w->data_bytes + w->sizes[w->n_sizes], (uint64_t)w->alignment);
    w->n_sizes++;
    if (--w->tensors > 0 || rc != AG_OK) return rc;
    rc = pad(w, err);
    return rc == AG_OK ? check_room(w, err) : rc;
}

int ag_gguf_writer_data(ag_gguf_writer *w, const void *p, uint64_t n, ag_err *err)
{
    AG_CHECK(w, WRITER_MAGIC);
    AG_ASSERT(w->tensors == 0);
    const uint8_t *from = p;
    int rc = AG_OK;
    while (n > 0 && rc == AG_OK) {
        AG_ASSERT(w->now < w->n_sizes);
        uint64_t part = AG_MIN(n, w->sizes[w->now] - w->now_done);
        rc = put(w, from, part, err);
        from += part;
        n -= part;
        w->now_done += part;
        if (w->now_done < w->sizes[w->now]) continue;
        w->now++;
        w->now_done = 0;
        if (rc == AG_OK) rc = pad(w, err);
    }
    return rc;
}

static bool sync_file(int fd)
{
    if (ag_fault_hit(AG_FAULT_SYNC)) {
        errno = EIO;
        return false;
    }
    return fsync(fd) == 0;
}

static bool take_name(const ag_gguf_writer *w)
{
    if (ag_fault_hit(AG_FAULT_RENAME)) {
        errno = EIO;
        return false;
    }
    if (w->replace) return rename(w->temp, w->path) == 0;
    if (renameat2(AT_FDCWD, w->temp, AT_FDCWD, w->path, RENAME_NOREPLACE) == 0) return true;
    if (errno != EINVAL && errno != ENOSYS) return false; /* EEXIST: a file of this name has appeared meanwhile */
    return link(w->temp, w->path) == 0 && unlink(w->temp) == 0; /* a file system without that flag */
}

/* The name itself is on the disk when its folder is. A file system that cannot do that is no reason to fail. */
static void sync_folder(char *path)
{
    int fd = open(dirname(path), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return;
    fsync(fd);
    close(fd);
}

int ag_gguf_writer_finish(ag_gguf_writer *w, ag_err *err)
{
    AG_CHECK(w, WRITER_MAGIC);
    AG_ASSERT(w->keys == 0 && w->tensors == 0 && w->now == w->n_sizes && w->temp_there);
    int rc = flush(w, err);
    if (rc != AG_OK) return rc;
    if (!sync_file(w->fd)) return cannot_write(w, err);
    if (!take_name(w)) return ag_err_set(err, AG_E_IO, "%s: cannot be put in place: %s", w->path, strerror(errno));
    w->temp_there = false;
    sync_folder(w->temp);
    return AG_OK;
}

uint64_t ag_gguf_writer_bytes(const ag_gguf_writer *w)
{
    AG_CHECK(w, WRITER_MAGIC);
    return w->at;
}

void ag_gguf_writer_close(ag_gguf_writer *w)
{
    if (w == NULL) return;
    AG_CHECK(w, WRITER_MAGIC);
    if (w->temp_there) unlink(w->temp);
    if (w->fd >= 0) close(w->fd);
    ag_mem_free(w->sizes);
    ag_mem_free(w->temp);
    ag_mem_free(w->path);
    w->magic = 0;
    ag_mem_free(w);
}
