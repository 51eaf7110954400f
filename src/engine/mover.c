/* From the mapped image to memory of our own. See weights.h. */
#include <errno.h>
#include <stdio.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "base/fault.h"
#include "base/hash.h"
#include "base/mem.h"
#include "engine/weights.h"

#define HUGE_PAGE ((size_t)2 << 20)
/* Moved at a time. Each may become a mapping of its own, and mappings are limited to 65,530. */
#define PIECE_MIN (2 * HUGE_PAGE)
#define PIECES_MAX 8192u
/* Between pieces: so long without a step is a pause in which to work; while there is none, a piece each so often. */
#define PAUSE_US 2000u
#define PACE_US 10000u
#define RETRY_MS 100 /* while there is no memory to mend a pack */

typedef struct mover {
    ag_weights *w;
    unsigned char *stage; /* as long as the weights; NULL: weights stay where they are, and are only checked */
    unsigned char *buf;   /* then read into this */
    size_t piece;
    XXH3_state_t sum;     /* of the pack in hand, as far as it was read */
    uint32_t pack;
    bool *bad;            /* by pack */
} mover;

/* Whether memory of huge pages can be had at all; without, a copy would only cost. */
static bool huge_pages(void)
{
    char line[64] = "";
    FILE *f = fopen("/sys/kernel/mm/transparent_hugepage/enabled", "re");
    if (f == NULL) return false;
    bool ok = fgets(line, sizeof line, f) != NULL && strstr(line, "[never]") == NULL;
    fclose(f);
    return ok;
}

/* An address that is the image's modulo a huge page: the kernel then moves huge pages whole. */
static unsigned char *stage_open(size_t bytes)
{
    if (!huge_pages() || ag_fault_hit(AG_FAULT_MMAP)) return NULL;
    size_t room = bytes + HUGE_PAGE;
    unsigned char *p = mmap(NULL, room, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) return NULL;
    unsigned char *base = (unsigned char *)AG_ALIGN_UP((uintptr_t)p, HUGE_PAGE);
    if (base > p) munmap(p, (size_t)(base - p));
    munmap(base + bytes, room - (size_t)(base - p) - bytes);
    madvise(base, bytes, MADV_HUGEPAGE);
    return base;
}

/* Bytes that cannot be read become zeros: where they were others the sum is wrong, and the pack is mended. */
static void read_piece(const mover *m, unsigned char *to, size_t at, size_t n)
{
    for (size_t got = 0; got < n;) {
        ssize_t r = ag_fault_hit(AG_FAULT_READ) ? -1 : pread(m->w->image.fd, to + got, n - got,
                                                             (off_t)(m->w->image.head->data_at + at + got));
        if (r < 0 && errno == EINTR) continue;
        if (r <= 0) {
            memset(to + got, 0, n - got);
            return;
        }
        got += (size_t)r;
    }
}

/* Takes the piece's bytes into the sums of the packs that it holds; those that end in it are judged. */
static void sum_piece(mover *m, const unsigned char *p, size_t at, size_t n)
{
    const ag_image *im = &m->w->image;
    for (; m->pack < im->head->packs; m->pack++) {
        const ag_image_row *row = &im->rows[m->pack];
        size_t from = AG_MAX(row->at, at), to = AG_MIN(row->at + row->bytes, at + n);
        if (from >= at + n) return;
        (void)XXH3_64bits_update(&m->sum, p + (from - at), to - from);
        if (to < row->at + row->bytes) return;
        m->bad[m->pack] = XXH3_64bits_digest(&m->sum) != row->sum;
        (void)XXH3_64bits_reset(&m->sum);
    }
}

/* The pack made anew, in pages that take the place of what is there. False: no memory. */
static bool mend(const ag_weights *w, uint32_t i)
{
    size_t begin = w->at[i], end = begin + (size_t)w->packs[i].tiles * w->packs[i].tile_bytes;
    size_t page = (size_t)sysconf(_SC_PAGESIZE); /* up to 64 KiB on Arm, and mremap takes whole ones only */
    size_t from = begin / page * page, to = AG_ALIGN_UP(end, page);
    unsigned char *p = ag_fault_hit(AG_FAULT_MMAP) ? MAP_FAILED
        : mmap(NULL, to - from, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) return false;
    memcpy(p, w->bytes + from, begin - from); /* its neighbours' part of the first and the last page */
    memcpy(p + (end - from), w->bytes + end, to - end);
    ag_pack k = w->packs[i];
    k.data = p + (begin - from);
    ag__weights_pack(w, &k, i, NULL);
    if (mremap(p, to - from, to - from, MREMAP_MAYMOVE | MREMAP_FIXED, w->bytes + from) != MAP_FAILED) return true;
    munmap(p, to - from);
    return false;
}

static void mend_surely(ag_weights *w, uint32_t i)
{
    ag_str name = w->plan->packs[i].t->name;
    atomic_fetch_add(&w->damage, 1);
    ag__weights_note(w, true,
                     "%s is damaged: \"%.*s\" does not have its checksum. It is repacked from the model's "
                     "file; answers computed since the start may be wrong",
                     w->image.path, (int)name.n, name.p);
    while (!mend(w, i)) {
        if (atomic_load(&w->stop)) return;
        nanosleep(&(struct timespec){.tv_nsec = RETRY_MS * 1000000L}, NULL);
    }
    atomic_fetch_add(&w->damage, 1);
}

/* Reads a piece, judges it, puts it in its place. */
static void take_piece(mover *m, size_t at, size_t n)
{
    ag_weights *w = m->w;
    unsigned char *p = m->stage ? m->stage + at : m->buf;
    uint32_t first = m->pack;
    read_piece(m, p, at, n);
    sum_piece(m, p, at, n);
    if (m->stage && mremap(p, n, n, MREMAP_MAYMOVE | MREMAP_FIXED, w->bytes + at) == MAP_FAILED) {
        munmap(m->stage + at, w->n_bytes - at);
        m->stage = NULL;
    }
    for (uint32_t i = first; i < m->pack && !atomic_load(&w->stop); i++)
        if (m->bad[i]) mend_surely(w, i);
}

void ag__weights_move(ag_weights *w)
{
    uint64_t began = ag_now_us();
    mover m = {.w = w, .piece = AG_MAX(PIECE_MIN, AG_ALIGN_UP(w->n_bytes / PIECES_MAX, HUGE_PAGE))};
    (void)XXH3_64bits_reset(&m.sum);
    /* What checking needs is there before anything else may fail: weights that nobody checks are not served. */
    while ((m.bad == NULL && (m.bad = ag_mem_array(w->plan->n_packs + 1, sizeof *m.bad)) == NULL) ||
           (m.buf == NULL && (m.buf = ag_mem_alloc(m.piece)) == NULL)) {
        if (atomic_load(&w->stop)) goto out;
        nanosleep(&(struct timespec){.tv_nsec = RETRY_MS * 1000000L}, NULL);
    }
    m.stage = stage_open(w->n_bytes);
    size_t at = 0;
    for (; at < w->n_bytes && !atomic_load(&w->stop); at += m.piece) {
        take_piece(&m, at, AG_MIN(m.piece, w->n_bytes - at));
        ag__weights_give_way(w, PAUSE_US, ag_now_us() + PACE_US);
    }
    if (at >= w->n_bytes) {
        atomic_store(&w->moved, m.stage != NULL);
        ag__weights_note(w, false, "stored weights are checked%s, %llu ms", m.stage ? " and moved to huge pages" : "",
                         (unsigned long long)(ag_now_us() - began) / 1000);
    } else if (m.stage) {
        munmap(m.stage + at, w->n_bytes - at);
    }
    ag_image_close(&w->image);
out:
    ag_mem_free(m.buf);
    ag_mem_free(m.bad);
}
