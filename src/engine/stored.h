/* stored.h - files that the engine keeps for its next start: written under a temporary name, brought to the disk, and
 * only then given their own, so that what lies there is whole. Inside the engine only.
 * Owns    : from begin to end the temporary file, its descriptor and the lock on it.
 * Threads : one at a time for a path; other processes are kept out by the lock.
 * Limits  : AG_STORED_PATH_MAX bytes of a path.
 * Errors  : AG_E_USAGE (the path is too long), AG_E_IO (no room, no leave, not a file of this user), AG_E_INTERNAL
 *           (another process writes it). */
#ifndef AG_STORED_H
#define AG_STORED_H

#include "base/err.h"

#define AG_STORED_PATH_MAX 4096
#define AG_STORED_PIECE ((size_t)4 << 20) /* written at a time: how soon a stop is heard */

/* All n bytes at this place, or AG_E_IO and errno; the end of the file is EIO. */
int ag__stored_read(int fd, void *p, size_t n, uint64_t at);

typedef struct ag__stored {
    const char *path;
    int fd;
    char temporary[AG_STORED_PATH_MAX + 8];
} ag__stored;

/* mode: of a new file; one that a process which died has left gets no more than that either. */
int ag__stored_begin(ag__stored *s, const char *path, unsigned mode, ag_err *err);
int ag__stored_write(const ag__stored *s, const void *p, size_t n, uint64_t at); /* or AG_E_IO and errno */
/* The piece at this place on its way to the disk, and the one before it there: what is left for the end takes no longer
 * than a piece. Where a file system cannot do that, the end does it all. AG_E_IO and errno. */
int ag__stored_push(const ag__stored *s, uint64_t at);
/* rc AG_OK: the file gets its name. Another: it is removed, and this came of it; errno with AG_E_IO. */
int ag__stored_end(ag__stored *s, int rc, ag_err *err);

#endif
