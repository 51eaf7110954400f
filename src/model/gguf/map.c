#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fault.h"
#include "model/gguf/gguf_priv.h"

static int open_file(const char *path)
{
    if (ag_fault_hit(AG_FAULT_OPEN)) {
        errno = EIO;
        return -1;
    }
    /* Without O_NONBLOCK, a FIFO that nobody writes would hold us here for ever. */
    return open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
}

static void *map_file(int fd, size_t n)
{
    if (ag_fault_hit(AG_FAULT_MMAP)) {
        errno = ENOMEM;
        return MAP_FAILED;
    }
    return mmap(NULL, n, PROT_READ, MAP_PRIVATE, fd, 0);
}

int ag__gguf_map(ag__gguf_part *part, ag_err *err)
{
    int rc;
    struct stat st;
    int fd = open_file(part->path);
    if (fd < 0) {
        rc = ag_err_set(err, AG_E_IO, "%s cannot be opened: %s", part->path, strerror(errno));
        goto out;
    }
    if (fstat(fd, &st) != 0) {
        rc = ag_err_set(err, AG_E_IO, "%s cannot be read: %s", part->path, strerror(errno));
        goto undo_fd;
    }
    if (!S_ISREG(st.st_mode)) {
        rc = ag_err_set(err, AG_E_FILE, "%s is %s, not a model file", part->path,
                        S_ISDIR(st.st_mode) ? "a directory" : S_ISFIFO(st.st_mode) ? "a pipe" : "a device");
        goto undo_fd;
    }
    if (st.st_size == 0) { /* mmap refuses it with a sentence that helps nobody */
        rc = ag_err_set(err, AG_E_FILE, "%s is empty; a GGUF file was expected", part->path);
        goto undo_fd;
    }
    void *p = map_file(fd, (size_t)st.st_size);
    if (p == MAP_FAILED) {
        rc = ag_err_set(err, AG_E_IO, "%s cannot be mapped: %s", part->path, strerror(errno));
        goto undo_fd;
    }
    part->bytes = p;
    part->n = (size_t)st.st_size;
    part->mtime_ns = (int64_t)st.st_mtim.tv_sec * 1000000000 + st.st_mtim.tv_nsec;
    part->mapped = true;
    rc = AG_OK;
undo_fd:
    close(fd);
out:
    return rc;
}

void ag__gguf_unmap(ag__gguf_part *part)
{
    if (part->mapped) munmap((void *)part->bytes, part->n);
    part->bytes = NULL;
    part->mapped = false;
}

void ag_gguf_release(const ag_gguf *g, const void *data, uint64_t bytes)
{
    AG_CHECK(g, AG__GGUF_MAGIC);
    if (!g->parts[0].mapped) return; /* on the caller's own memory, the same advice would throw the contents away */
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), p = (uintptr_t)data;
    uintptr_t from = (p + page - 1) & ~(page - 1), to = (p + bytes) & ~(page - 1); /* no page of a neighbour */
    if (to > from) madvise((void *)from, to - from, MADV_DONTNEED);
}
