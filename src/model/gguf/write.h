/* write.h - writes a GGUF file (v3, whole) so that it is there complete or not at all.
 * Owns    : a temporary file beside `path`, which close removes unless finish gave it its name.
 * Threads : one; while open runs, no other should make files, since it reads the process's umask by changing it.
 * Limits  : tensors' data go through; nothing is held but their sizes and a buffer.
 * Errors  : AG_E_IO (disk, room, names; fault points OPEN, WRITE, SYNC, RENAME), AG_E_USAGE (a name that cannot be),
 *           AG_E_NOMEM. After the first error only close may follow.
 *
 * Keys, then tensors, then data are given in this order and in the numbers that open was told (asserted). A process
 * that is killed leaves the temporary file, PATH.XXXXXX.part, behind. */
#ifndef AG_GGUF_WRITE_H
#define AG_GGUF_WRITE_H

#include "model/gguf/gguf.h"

typedef struct ag_gguf_writer ag_gguf_writer;

/* replace: a file that is there already gives way at finish; else it is an error, then and now. */
int ag_gguf_writer_open(ag_gguf_writer **out, const char *path, bool replace, uint32_t keys, uint32_t tensors,
                        uint32_t alignment, ag_err *err);

int ag_gguf_writer_value(ag_gguf_writer *w, const ag_gguf_value *v, ag_err *err); /* as it stands in its file */
int ag_gguf_writer_u32(ag_gguf_writer *w, const char *key, uint32_t v, ag_err *err);

/* Name, dimensions and type count; bytes and data do not. The last one checks that the disk has room for all. */
int ag_gguf_writer_tensor(ag_gguf_writer *w, const ag_gguf_tensor *t, ag_err *err);

/* The next n bytes of the tensors' data, which lie one after the other; what aligns them is put between. */
int ag_gguf_writer_data(ag_gguf_writer *w, const void *p, uint64_t n, ag_err *err);

int ag_gguf_writer_finish(ag_gguf_writer *w, ag_err *err); /* to the disk, and to its name */
uint64_t ag_gguf_writer_bytes(const ag_gguf_writer *w);    /* of the file so far */
void ag_gguf_writer_close(ag_gguf_writer *w);              /* NULL is fine */

#endif
