#include "engine/stored.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fault.h"

int ag__stored_read(int fd, void *p, size_t n, uint64_t at)
{
    for (size_t got = 0; got < n;) {
        ssize_t r = ag_fault_hit(AG_FAULT_READ) ? (errno = EIO, -1)
            : pread(fd, (char *)p + got, n - got, (off_t)(at + got));
        if (r < 0 && errno == EINTR) continue;
        if (r == 0) errno = EIO;
        if (r <= 0) return AG_E_IO;
        got += (size_t)r;
    }
    return AG_OK;
}

int ag__stored_write(const ag__stored *s, const void *p, size_t n, uint64_t at)
{
    for (size_t put = 0; put < n;) {
        ssize_t r = ag_fault_hit(AG_FAULT_WRITE) ? (errno = ENOSPC, -1)
            : pwrite(s->fd, (const char *)p + put, n - put, (off_t)(at + put));
        if (r < 0 && errno == EINTR) continue;
        if (r <= 0) return AG_E_IO;
        put += (size_t)r;
    }
    return AG_OK;
}

static bool only_mode(int fd, mode_t is, unsigned mode)
{
    return (is & 07777 & ~(mode_t)mode) == 0 || fchmod(fd, is & mode) == 0;
}

int ag__stored_begin(ag__stored *s, const char *path, unsigned mode, ag_err *err)
{
    struct stat st, now;
    *s = (ag__stored){.path = path, .fd = -1};
    int n = snprintf(s->temporary, sizeof s->temporary, "%s.tmp", path);
    if (n < 0 || (size_t)n >= sizeof s->temporary)
        return ag_err_set(err, AG_E_USAGE, "the path of a stored file is longer than %u bytes", AG_STORED_PATH_MAX);
    int rc = AG_E_IO, fd = ag_fault_hit(AG_FAULT_OPEN) ? (errno = EACCES, -1)
        : open(s->temporary, O_WRONLY | O_CREAT | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK, mode);
    if (fd < 0) return ag_err_set(err, AG_E_IO, "%s cannot be written: %s", path, strerror(errno));
    if (flock(fd, LOCK_EX | LOCK_NB) != 0) {
        rc = ag_err_set(err, AG_E_INTERNAL, "%s is being written by another process", path);
    } else if (fstat(fd, &st) != 0 || stat(s->temporary, &now) != 0 || st.st_ino != now.st_ino ||
               st.st_dev != now.st_dev) {
        /* It took its own name between our opening and our lock, and must not be touched any more. */
        rc = ag_err_set(err, AG_E_INTERNAL, "%s was written by another process a moment ago", path);
    } else if (!S_ISREG(st.st_mode) || st.st_uid != geteuid() || st.st_nlink != 1) {
        ag_err_set(err, AG_E_IO, "%s is not a file of this user; remove it", s->temporary);
    } else if (!only_mode(fd, st.st_mode, mode) || ftruncate(fd, 0) != 0) {
        ag_err_set(err, AG_E_IO, "%s cannot be written: %s", path, strerror(errno));
    } else {
        s->fd = fd;
        return AG_OK;
    }
    close(fd);
    return rc;
}

int ag__stored_push(const ag__stored *s, uint64_t at)
{
    const unsigned arrived = SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER;
    const size_t piece = AG_STORED_PIECE;
    int failed = sync_file_range(s->fd, (off_t)at, (off_t)piece, SYNC_FILE_RANGE_WRITE);
    if (failed == 0 && at >= piece) failed = sync_file_range(s->fd, (off_t)(at - piece), (off_t)piece, arrived);
    return failed == 0 || errno == EINVAL || errno == ESPIPE || errno == ENOSYS ? AG_OK : AG_E_IO;
}

int ag__stored_end(ag__stored *s, int rc, ag_err *err)
{
    if (rc == AG_OK && (ag_fault_hit(AG_FAULT_SYNC) ? (errno = EIO, -1) : fsync(s->fd)) != 0) rc = AG_E_IO;
    if (rc == AG_OK && (ag_fault_hit(AG_FAULT_RENAME) ? (errno = EACCES, -1) : rename(s->temporary, s->path)) != 0)
        rc = AG_E_IO;
    if (rc == AG_E_IO) ag_err_set(err, rc, "%s cannot be written: %s", s->path, strerror(errno));
    if (rc != AG_OK) unlink(s->temporary);
    close(s->fd);
    s->fd = -1;
    return rc;
}
