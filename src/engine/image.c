#include "engine/image.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fault.h"
#include "base/hash.h"
#include "base/mem.h"
#include "engine/stored.h"

#define PAGE 4096u

_Static_assert(sizeof(ag_image_head) == 64 && sizeof(ag_image_row) == 48, "the file's form");

bool ag_image_mode_find(const char *name, ag_image_mode *out)
{
    static const char *const names[] = {[AG_IMAGE_OFF] = "off", [AG_IMAGE_READ] = "read", [AG_IMAGE_AUTO] = "auto",
                                        [AG_IMAGE_ON] = "on"};
    for (size_t i = 0; i < AG_ARRAY_LEN(names); i++)
        if (strcmp(names[i], name) == 0) return *out = (ag_image_mode)i, true;
    return false;
}

static uint64_t head_check(const ag_image *im)
{
    XXH3_state_t x;
    ag_image_head h = *im->head;
    h.check = 0;
    (void)XXH3_64bits_reset(&x);
    (void)XXH3_64bits_update(&x, &h, sizeof h);
    (void)XXH3_64bits_update(&x, im->rows, im->head_bytes - sizeof h);
    return XXH3_64bits_digest(&x);
}

static bool make_path(ag_image *im, const char *model, const char *dir)
{
    int n;
    if (dir == NULL) {
        n = snprintf(im->path, sizeof im->path, "%s" AG_IMAGE_SUFFIX, model);
    } else { /* models of one name from two folders keep apart */
        char full[AG_IMAGE_PATH_MAX];
        const char *name = strrchr(model, '/'), *p = realpath(model, full) ? full : model;
        n = snprintf(im->path, sizeof im->path, "%s/%s-%08x" AG_IMAGE_SUFFIX, dir, name ? name + 1 : model,
                     (uint32_t)XXH3_64bits(p, strlen(p)));
    }
    return n > 0 && (size_t)n + sizeof ".tmp" <= sizeof im->path;
}

int ag_image_init(ag_image *im, const ag_plan *plan, const ag_pack *packs, const size_t *at, size_t bytes,
                  const char *dir, ag_err *err)
{
    *im = (ag_image){.model = ag_gguf_path(plan->graph->gguf), .fd = -1,
                      .head_bytes = sizeof *im->head + plan->n_packs * sizeof *im->rows};
    const ag_gguf *g = plan->graph->gguf;
    if (!make_path(im, im->model, dir))
        return ag_err_set(err, AG_E_USAGE, "the path of the weights' image would be longer than %u bytes",
                          AG_IMAGE_PATH_MAX);
    im->head = ag_mem_zalloc(im->head_bytes);
    if (im->head == NULL) return ag_err_set(err, AG_E_NOMEM, "no memory for the table of the weights' image");
    im->rows = (ag_image_row *)(void *)(im->head + 1);
    *im->head = (ag_image_head){.magic = "agimage",
                                .version = AG_IMAGE_VERSION,
                                .order = 0x01020304,
                                .layout = ag_pack_layout_hash(),
                                .model = ag_gguf_digest(g),
                                .packs = plan->n_packs,
                                .data_at = AG_ALIGN_UP(im->head_bytes, AG_IMAGE_DATA_ALIGN),
                                .data_bytes = AG_ALIGN_UP(bytes, PAGE)};
    for (uint32_t i = 0; i < plan->n_packs; i++) {
        const ag_weight *w = &plan->packs[i];
        im->rows[i] = (ag_image_row){.type = w->t->type, .rows = w->rows, .k = w->k, .row0 = w->row0,
                                     .name = XXH3_64bits(w->t->name.p, w->t->name.n),
                                     .at = at[i], .bytes = (uint64_t)packs[i].tiles * packs[i].tile_bytes};
    }
    return AG_OK;
}

void ag_image_close(ag_image *im)
{
    if (im->fd >= 0) close(im->fd);
    im->fd = -1;
}

void ag_image_fini(ag_image *im)
{
    if (im->head == NULL) return;
    ag_image_close(im);
    ag_mem_free(im->head);
    im->head = NULL;
}

/* ---- reading ---- */

static int check_file(const ag_image *im, int fd, ag_err *err)
{
    struct stat st, model;
    if (fstat(fd, &st) != 0) return ag_err_set(err, AG_E_IO, "%s cannot be read: %s", im->path, strerror(errno));
    if (!S_ISREG(st.st_mode)) return ag_err_set(err, AG_E_FILE, "%s is not a file", im->path);
    /* In a folder that others may write to, an image of theirs would be weights of their choice. */
    if (st.st_uid != geteuid() && st.st_uid != 0 && !(stat(im->model, &model) == 0 && model.st_uid == st.st_uid))
        return ag_err_set(err, AG_E_FILE, "%s belongs to another user (%u)", im->path, (unsigned)st.st_uid);
    uint64_t want = im->head->data_at + im->head->data_bytes;
    if ((uint64_t)st.st_size != want)
        return ag_err_set(err, AG_E_FILE,
                          "%s has %" PRIu64 " bytes where %" PRIu64 " are right: it is damaged or of another model",
                              im->path, (uint64_t)st.st_size, want);
    return AG_OK;
}

/* What is wrong with a head, compared with ours; NULL: nothing. */
static const char *fault_of(const ag_image *im, const ag_image *got)
{
    const ag_image_head *a = im->head, *b = got->head;
    if (memcmp(a->magic, b->magic, sizeof a->magic) != 0) return "is not an image of weights";
    if (a->version != b->version || a->order != b->order)
        return "is of another version, or of a machine with another order of bytes";
    if (a->layout != b->layout) return "was made by a program that lays weights out in another way";
    if (a->model != b->model) return "was made of another model file, or this one has changed since";
    if (a->packs != b->packs || a->data_at != b->data_at || a->data_bytes != b->data_bytes)
        return "was made for another plan";
    for (uint64_t i = 0; i < a->packs; i++) {
        ag_image_row row = got->rows[i];
        row.sum = im->rows[i].sum;
        if (memcmp(&row, &im->rows[i], sizeof row) != 0) return "was made for another plan";
    }
    return head_check(got) == b->check ? NULL : "has a damaged head";
}

int ag_image_open(ag_image *im, ag_err *err)
{
    AG_ASSERT(im->fd < 0);
    ag_image got = {.head_bytes = im->head_bytes};
    int fd = ag_fault_hit(AG_FAULT_OPEN) ? (errno = EIO, -1)
                                         : open(im->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0)
        return ag_err_set(err, errno == ENOENT ? AG_E_NOT_FOUND : AG_E_IO, "%s cannot be opened: %s", im->path,
                          strerror(errno));
    int rc = check_file(im, fd, err);
    if (rc == AG_OK && (got.head = ag_mem_alloc(im->head_bytes)) == NULL)
        rc = ag_err_set(err, AG_E_NOMEM, "no memory to read the head of %s", im->path);
    if (rc == AG_OK && ag__stored_read(fd, got.head, im->head_bytes, 0) != AG_OK)
        rc = ag_err_set(err, AG_E_IO, "%s cannot be read: %s", im->path, strerror(errno));
    if (rc == AG_OK) {
        got.rows = (ag_image_row *)(void *)(got.head + 1);
        const char *why = fault_of(im, &got);
        if (why) rc = ag_err_set(err, AG_E_FILE, "%s %s", im->path, why);
    }
    for (uint64_t i = 0; rc == AG_OK && i < im->head->packs; i++) im->rows[i].sum = got.rows[i].sum;
    ag_mem_free(got.head);
    if (rc == AG_OK) im->fd = fd;
    else close(fd);
    return rc;
}

/* ---- writing ---- */

/* The head comes last: without it a file is no image. */
static int write_data(ag_image *im, const ag__stored *s, const unsigned char *data, const _Atomic bool *stop)
{
    const size_t piece = AG_STORED_PIECE;
    for (uint64_t at = 0; at < im->head->data_bytes; at += piece) {
        if (atomic_load(stop)) return AG_E_CANCELLED;
        int rc = ag__stored_write(s, data + at, AG_MIN(piece, im->head->data_bytes - at), im->head->data_at + at);
        if (rc == AG_OK) rc = ag__stored_push(s, im->head->data_at + at);
        if (rc != AG_OK) return rc;
    }
    for (uint64_t i = 0; i < im->head->packs; i++) {
        if (atomic_load(stop)) return AG_E_CANCELLED;
        im->rows[i].sum = XXH3_64bits(data + im->rows[i].at, im->rows[i].bytes);
    }
    im->head->check = head_check(im);
    int rc = ag__stored_write(s, im->head, im->head_bytes, 0);
    return rc == AG_OK && atomic_load(stop) ? AG_E_CANCELLED : rc;
}

int ag_image_write(ag_image *im, const unsigned char *data, const _Atomic bool *stop, ag_err *err)
{
    ag__stored s;
    int rc = ag__stored_begin(&s, im->path, 0644, err);
    if (rc != AG_OK) return rc;
    rc = write_data(im, &s, data, stop);
    if (rc == AG_E_CANCELLED) ag_err_set(err, rc, "%s was not finished", im->path);
    return ag__stored_end(&s, rc, err);
}
