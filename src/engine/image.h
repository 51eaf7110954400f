/* image.h - packed weights stored in a file beside the model, so that a start maps them in place of repacking.
 * Owns    : the expected head of the file; its descriptor while it is open.
 * Threads : one at a time.
 * Limits  : those of the plan. Nothing is taken from the file but checksums: all else in its head is made anew from
 *           plan and model, and compared.
 * Errors  : open: AG_E_NOT_FOUND (no file), AG_E_FILE (stale, damaged or not ours; the sentence says which), AG_E_IO.
 *           write: AG_E_IO (no space, read-only folder), AG_E_CANCELLED, AG_E_INTERNAL (another process is at it).
 *           A file that somebody cuts short while it is mapped ends the process (SIGBUS), as it does for the model;
 *           we never do: a file under its name is only ever replaced.
 * Layout  : head and table of packs, filled up with zeros to AG_IMAGE_DATA_ALIGN; then the weights as they lie in
 *           memory, whole pages. Little-endian machines write and read it; others refuse it by `order`. */
#ifndef AG_IMAGE_H
#define AG_IMAGE_H

#include "engine/backend.h"

#define AG_IMAGE_SUFFIX ".agimg"
#define AG_IMAGE_VERSION 1u
/* A huge page, so that file systems with folios of that size can map it by huge pages too. */
#define AG_IMAGE_DATA_ALIGN ((size_t)2 << 20)
#define AG_IMAGE_PATH_MAX 4096

typedef struct ag_image_head {
    char magic[8];
    uint32_t version, order; /* order: 0x01020304 */
    uint64_t layout;         /* ag_pack_layout_hash: what the repacking code makes of given weights */
    uint64_t model;          /* ag_gguf_digest */
    uint64_t packs;          /* rows of the table */
    uint64_t data_at, data_bytes;
    uint64_t check;          /* XXH3 of head (this field as 0) and table */
} ag_image_head;

typedef struct ag_image_row {
    uint32_t type, rows, k, row0;
    uint64_t name;           /* XXH3 of the tensor's name */
    uint64_t at, bytes;      /* in the data */
    uint64_t sum;            /* XXH3 of the bytes */
} ag_image_row;

typedef struct ag_image {
    const char *model;       /* path of the model's file */
    char path[AG_IMAGE_PATH_MAX];
    ag_image_head *head;     /* and rows behind it */
    ag_image_row *rows;
    size_t head_bytes;
    int fd;                  /* -1: not open */
} ag_image;

bool ag_image_mode_find(const char *name, ag_image_mode *out); /* auto, on, read, off */

/* Makes head and path: in `dir`, or beside the model where that is NULL. at: each pack's place in the data. */
int ag_image_init(ag_image *im, const ag_plan *plan, const ag_pack *packs, const size_t *at, size_t bytes,
                  const char *dir, ag_err *err);
void ag_image_fini(ag_image *im);
int ag_image_open(ag_image *im, ag_err *err); /* on AG_OK the rows have their sums */
void ag_image_close(ag_image *im);
/* Writes data (head->data_bytes of them) under a temporary name, then takes the image's name. *stop is heard within the
 * time that a few MiB take to the disk. */
int ag_image_write(ag_image *im, const unsigned char *data, const _Atomic bool *stop, ag_err *err);

#endif
