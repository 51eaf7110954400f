#include "base/mbox.h"

#include <stdatomic.h>

#include "base/err.h"
#include "base/mem.h"

#define MBOX_MAGIC 0x4d424f58u

typedef struct cell {
    _Atomic uint64_t seq;
    void *msg;
} cell;

struct ag_mbox {
    uint32_t magic;
    uint64_t mask;
    ag_mbox_wake_fn *wake;
    void *wake_arg;
    _Alignas(64) _Atomic uint64_t head; /* next cell to fill; shared by posters */
    _Alignas(64) uint64_t tail;         /* next cell to take; the owner's alone */
    cell cells[];
};

int ag_mbox_open(ag_mbox **out, uint32_t cap, ag_mbox_wake_fn *wake, void *wake_arg)
{
    AG_ASSERT(cap >= 1 && cap <= 1u << 30);
    uint64_t n = 2;
    while (n < cap) n *= 2;
    ag_mbox *m = ag_mem_aligned(64, sizeof *m + n * sizeof(cell));
    if (m == NULL) return AG_E_NOMEM;
    memset(m, 0, sizeof *m);
    m->magic = MBOX_MAGIC;
    m->mask = n - 1;
    m->wake = wake;
    m->wake_arg = wake_arg;
    for (uint64_t i = 0; i < n; i++) {
        atomic_init(&m->cells[i].seq, i);
        m->cells[i].msg = NULL;
    }
    *out = m;
    return AG_OK;
}

void ag_mbox_close(ag_mbox *m)
{
    if (m == NULL) return;
    AG_CHECK(m, MBOX_MAGIC);
    AG_ASSERT(ag_mbox_take(m) == NULL);
    m->magic = 0;
    ag_mem_free(m);
}

bool ag_mbox_post_quiet(ag_mbox *m, void *msg)
{
    AG_CHECK(m, MBOX_MAGIC);
    AG_ASSERT(msg != NULL);
    uint64_t at = atomic_load_explicit(&m->head, memory_order_relaxed);
    for (;;) {
        cell *c = &m->cells[at & m->mask];
        int64_t lag = (int64_t)(atomic_load_explicit(&c->seq, memory_order_acquire) - at);
        if (lag < 0) return false;
        if (lag > 0) {
            at = atomic_load_explicit(&m->head, memory_order_relaxed);
        } else if (atomic_compare_exchange_weak_explicit(&m->head, &at, at + 1, memory_order_relaxed,
                                                         memory_order_relaxed)) {
            c->msg = msg;
            atomic_store_explicit(&c->seq, at + 1, memory_order_release);
            return true;
        }
    }
}

void ag_mbox_wake(ag_mbox *m)
{
    if (m->wake) m->wake(m->wake_arg);
}

bool ag_mbox_post(ag_mbox *m, void *msg)
{
    if (!ag_mbox_post_quiet(m, msg)) return false;
    ag_mbox_wake(m);
    return true;
}

void *ag_mbox_take(ag_mbox *m)
{
    AG_CHECK(m, MBOX_MAGIC);
    cell *c = &m->cells[m->tail & m->mask];
    if (atomic_load_explicit(&c->seq, memory_order_acquire) != m->tail + 1) return NULL;
    void *msg = c->msg;
    atomic_store_explicit(&c->seq, m->tail + m->mask + 1, memory_order_release);
    m->tail++;
    return msg;
}
