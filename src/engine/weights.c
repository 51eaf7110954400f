#include "engine/weights.h"

#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/fault.h"
#include "base/mem.h"

#define PAGE 4096u
#define HUGE_PAGE ((size_t)2 << 20)
/* Of a model's bytes that are repacked before their pages are given back: what the peak of memory is above one copy. */
#define SLICE_BYTES ((size_t)16 << 20)
/* Below this, repacking takes less than a fifth of a second, and nobody wants files beside a model for that. */
#define AUTO_BYTES_MIN ((size_t)256 << 20)
/* The background begins so long after a step, when no other has followed, or so long after the start at the latest. */
#define QUIET_US 50000u
#define BEGIN_US 2000000u
#define AUTO_SHARE 4 /* of a disk's free space: one in so many may become an image unasked */

void ag__weights_note(const ag_weights *w, bool bad, const char *fmt, ...)
{
    if (w->conf.note == NULL) return;
    char text[AG_IMAGE_PATH_MAX + 512];
    va_list va;
    va_start(va, fmt);
    vsnprintf(text, sizeof text, fmt, va);
    va_end(va);
    w->conf.note(w->conf.note_arg, bad, text);
}

/* ---- repacking ---- */

typedef struct filling {
    const ag_pack *pack;
    const unsigned char *src;
    uint32_t tile0;
} filling;

static void fill_tiles(void *arg, uint32_t worker, uint32_t from, uint32_t to)
{
    (void)worker;
    const filling *f = arg;
    ag_pack_fill(f->pack, f->src, f->tile0 + from, f->tile0 + to);
}

void ag__weights_pack(const ag_weights *w, const ag_pack *k, uint32_t i, ag_pool *pool)
{
    const ag_weight *m = &w->plan->packs[i];
    const ag_quant_row *q = ag_quant_find(m->t->type);
    size_t row_bytes = (size_t)m->k / q->block * q->bytes;
    filling f = {.pack = k, .src = (const unsigned char *)m->t->data + m->row0 * row_bytes};
    uint32_t slice = (uint32_t)AG_MAX(SLICE_BYTES / (row_bytes * AG_CPU_TILE), (size_t)1);
    for (; f.tile0 < k->tiles; f.tile0 += slice) {
        uint32_t n = AG_MIN(slice, k->tiles - f.tile0);
        if (pool) ag_pool_run(pool, fill_tiles, &f, n, AG_MAX(n / (8 * ag_pool_threads(pool)), 1u));
        else fill_tiles(&f, 0, 0, n);
        uint32_t row = f.tile0 * AG_CPU_TILE;
        ag_gguf_release(w->plan->graph->gguf, f.src + row * row_bytes,
                        AG_MIN(n * AG_CPU_TILE, m->rows - row) * row_bytes);
    }
}

static int repack(ag_weights *w, ag_pool *pool, ag_err *err)
{
    w->bytes = ag_mem_map(w->n_bytes);
    if (w->bytes == NULL) return ag_err_set(err, AG_E_NOMEM, "no memory for %zu bytes of weights", w->n_bytes);
    for (uint32_t i = 0; i < w->plan->n_packs; i++) {
        w->packs[i].data = w->bytes + w->at[i];
        ag__weights_pack(w, &w->packs[i], i, pool);
        if (w->conf.progress) w->conf.progress(w->conf.progress_arg,
                                               w->at[i] + (size_t)w->packs[i].tiles * w->packs[i].tile_bytes,
                                                   w->n_bytes);
    }
    return AG_OK;
}

/* ---- the stored image ---- */

/* Maps the image at an address of huge pages; false: not possible. */
static bool map_image(ag_weights *w)
{
    size_t room = w->n_bytes + HUGE_PAGE;
    unsigned char *p = mmap(NULL, room, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) return false;
    unsigned char *base = (unsigned char *)AG_ALIGN_UP((uintptr_t)p, HUGE_PAGE);
    if (base > p) munmap(p, (size_t)(base - p));
    munmap(base + w->n_bytes, room - (size_t)(base - p) - w->n_bytes);
    void *m = ag_fault_hit(AG_FAULT_MMAP) ? MAP_FAILED
                                          : mmap(base, w->n_bytes, PROT_READ, MAP_PRIVATE | MAP_FIXED, w->image.fd,
                                                 (off_t)w->image.head->data_at);
    if (m == MAP_FAILED) {
        munmap(base, w->n_bytes);
        return false;
    }
    madvise(base, w->n_bytes, MADV_HUGEPAGE); /* what is not in the page cache comes there in pages of this size */
    w->bytes = base;
    for (uint32_t i = 0; i < w->plan->n_packs; i++) w->packs[i].data = base + w->at[i];
    return true;
}

static bool room_for_image(const ag_weights *w)
{
    char dir[AG_IMAGE_PATH_MAX];
    struct statvfs s;
    snprintf(dir, sizeof dir, "%s", w->image.path);
    char *slash = strrchr(dir, '/');
    if (slash) slash[slash == dir] = 0;
    else snprintf(dir, sizeof dir, ".");
    return statvfs(dir, &s) == 0 && (uint64_t)s.f_bavail * s.f_frsize / AUTO_SHARE >= w->n_bytes;
}

/* Whether weights came from the image; if not, whether one is to be written. */
static void try_image(ag_weights *w)
{
    ag_err err = {0};
    ag_image_mode mode = w->conf.image;
    if (mode == AG_IMAGE_OFF) return;
    if (ag_image_init(&w->image, w->plan, w->packs, w->at, w->n_bytes, w->conf.image_dir, &err) != AG_OK) {
        ag__weights_note(w, true, "no stored weights: %s", err.text);
        return;
    }
    int rc = ag_image_open(&w->image, &err);
    if (rc == AG_OK && !map_image(w))
        rc = ag_err_set(&err, AG_E_IO, "%s cannot be mapped: %s", w->image.path, strerror(errno));
    w->from_image = rc == AG_OK;
    bool was_there = rc == AG_OK || rc == AG_E_FILE;
    w->may_write = mode == AG_IMAGE_ON;
    if (mode == AG_IMAGE_AUTO) w->may_write = was_there || (w->n_bytes >= AUTO_BYTES_MIN && room_for_image(w));
    const char *then = w->may_write ? "; it is written anew" : "";
    if (rc == AG_OK) ag__weights_note(w, false, "weights come from %s", w->image.path);
    else if (rc != AG_E_NOT_FOUND) ag__weights_note(w, true, "weights are repacked: %s%s", err.text, then);
}

static void write_image(ag_weights *w)
{
    ag_err err = {0};
    uint64_t began = ag_now_us();
    int rc = ag_image_write(&w->image, w->bytes, &w->stop, &err);
    if (rc == AG_OK) {
        ag__weights_note(w, false,
                         "repacked weights are stored in %s, %zu bytes in %llu ms; later starts map them "
                         "(--weights-image off: none)", w->image.path,
                         (size_t)(w->image.head->data_at + w->image.head->data_bytes),
                             (unsigned long long)(ag_now_us() - began) / 1000);
        atomic_store(&w->written, true);
    } else if (rc != AG_E_CANCELLED && rc != AG_E_INTERNAL) {
        ag__weights_note(w, true, "repacked weights are not stored: %s", err.text);
    } else {
        ag__weights_note(w, false, "repacked weights are not stored: %s", err.text);
    }
}

/* ---- in the background ---- */

void ag_weights_step(ag_weights *w, bool begins)
{
    if (!begins) atomic_store_explicit(&w->step_us, ag_now_us(), memory_order_relaxed);
    atomic_store_explicit(&w->stepping, begins, memory_order_release);
}

/* When there has been quiet for long enough, if nothing happens until then. Steps ring no bell: before the first one
 * and while one runs, that is when to look again. */
static uint64_t quiet_at(const ag_weights *w, uint64_t now, uint64_t quiet_us)
{
    bool stepping = atomic_load_explicit(&w->stepping, memory_order_acquire);
    uint64_t last = atomic_load_explicit(&w->step_us, memory_order_relaxed);
    return (stepping || last == 0 ? now + 1 : last) + quiet_us;
}

void ag__weights_give_way(ag_weights *w, uint64_t quiet_us, uint64_t then_us)
{
    pthread_mutex_lock(&w->lock);
    while (!atomic_load(&w->stop) && !atomic_load(&w->hurry)) {
        uint64_t now = ag_now_us(), until = AG_MIN(quiet_at(w, now, quiet_us), then_us);
        if (until <= now) break;
        ag_cond_wait_until(&w->call, &w->lock, until);
    }
    pthread_mutex_unlock(&w->lock);
}

static void call(ag_weights *w, _Atomic bool *what)
{
    if (!w->waits) return;
    pthread_mutex_lock(&w->lock);
    atomic_store(what, true);
    pthread_cond_signal(&w->call);
    pthread_mutex_unlock(&w->lock);
}

/* The lowest priority: where cores are few it lives on what the compute threads leave. */
static void *background(void *arg)
{
    ag_weights *w = arg;
    setpriority(PRIO_PROCESS, (id_t)syscall(SYS_gettid), 19);
    sigset_t all; /* a file that may not grow further is an error to be told, not a signal to die of */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, NULL);
    ag__weights_give_way(w, QUIET_US, w->opened_us + BEGIN_US);
    if (w->from_image) ag__weights_move(w);
    bool fresh = w->from_image && atomic_load(&w->damage) == 0;
    if (w->may_write && !fresh && !atomic_load(&w->stop)) write_image(w);
    return NULL;
}

static void start_background(ag_weights *w)
{
    pthread_mutex_init(&w->lock, NULL);
    ag_cond_init(&w->call);
    w->waits = true;
    w->opened_us = ag_now_us();
    w->started = !ag_fault_hit(AG_FAULT_THREAD) && pthread_create(&w->thread, NULL, background, w) == 0;
}

/* ---- life ---- */

static int lay_out(ag_weights *w, ag_err *err)
{
    const ag_plan *p = w->plan;
    w->packs = ag_mem_array(p->n_packs + 1, sizeof *w->packs);
    w->at = ag_mem_array(p->n_packs + 1, sizeof *w->at);
    if (w->packs == NULL || w->at == NULL) return ag_err_set(err, AG_E_NOMEM, "no memory for the weights' table");
    size_t all = 0;
    for (uint32_t i = 0; i < p->n_packs; i++) {
        ag_pack_shape(&w->packs[i], p->packs[i].t->type, p->packs[i].rows, p->packs[i].k);
        w->at[i] = all;
        all += AG_ALIGN_UP((size_t)w->packs[i].tiles * w->packs[i].tile_bytes, 64);
    }
    w->n_bytes = AG_ALIGN_UP(all + 64, PAGE);
    return AG_OK;
}

int ag_weights_open(ag_weights *w, const ag_plan *plan, ag_pool *pool, const ag_backend_conf *conf, ag_err *err)
{
    *w = (ag_weights){.plan = plan, .conf = *conf};
    int rc = lay_out(w, err);
    if (rc == AG_OK) try_image(w);
    if (rc == AG_OK && !w->from_image) rc = repack(w, pool, err);
    if (rc == AG_OK && (w->from_image || w->may_write)) {
        start_background(w);
        /* Unchecked weights would be served for ever: then rather none of the image. */
        if (!w->started && w->from_image) rc = ag_err_set(err, AG_E_INTERNAL,
                                                          "the thread that checks stored weights could not be started");
        else if (!w->started) ag__weights_note(w, true, "repacked weights are not stored: no thread could be started");
    }
    if (rc != AG_OK) ag_weights_close(w);
    return rc;
}

void ag_weights_settle(ag_weights *w)
{
    call(w, &w->hurry);
    if (w->started) pthread_join(w->thread, NULL);
    w->started = false;
}

void ag_weights_close(ag_weights *w)
{
    call(w, &w->stop);
    ag_weights_settle(w);
    if (w->waits) {
        pthread_cond_destroy(&w->call);
        pthread_mutex_destroy(&w->lock);
    }
    ag_image_fini(&w->image);
    ag_mem_unmap(w->bytes, w->n_bytes);
    ag_mem_free(w->packs);
    ag_mem_free(w->at);
    *w = (ag_weights){0};
}

void ag_weights_info_get(const ag_weights *w, ag_weights_info *out)
{
    *out = (ag_weights_info){.from_image = w->from_image, .written = atomic_load(&w->written),
                             .moved = atomic_load(&w->moved), .damage = atomic_load(&w->damage)};
}
