#include "engine/kv.h"

#include <stdatomic.h>

#include "base/mem.h"

#define KV_MAGIC 0x4b565047u

struct ag_kv {
    uint32_t magic;
    uint32_t pages;
    _Atomic uint32_t n_free;
    uint32_t *free; /* a stack: the page used last is warm in the cache and is taken first */
    bool *taken;
};

int ag_kv_open(ag_kv **out, uint32_t pages, ag_err *err)
{
    ag_kv *kv = ag_mem_zalloc(sizeof *kv);
    if (kv) {
        kv->free = ag_mem_array(pages, sizeof *kv->free);
        kv->taken = ag_mem_array(pages, sizeof *kv->taken);
    }
    if (kv == NULL || kv->free == NULL || kv->taken == NULL) {
        if (kv) {
            ag_mem_free(kv->free);
            ag_mem_free(kv->taken);
        }
        ag_mem_free(kv);
        return ag_err_set(err, AG_E_NOMEM, "no memory for the table of %u KV pages", pages);
    }
    kv->magic = KV_MAGIC;
    kv->pages = pages;
    atomic_init(&kv->n_free, pages);
    for (uint32_t i = 0; i < pages; i++) kv->free[i] = pages - 1 - i; /* page 0 first: memory is touched from the front */
    *out = kv;
    return AG_OK;
}

void ag_kv_close(ag_kv *kv)
{
    if (kv == NULL) return;
    AG_CHECK(kv, KV_MAGIC);
    AG_ASSERT(ag_kv_free(kv) == kv->pages);
    kv->magic = 0;
    ag_mem_free(kv->free);
    ag_mem_free(kv->taken);
    ag_mem_free(kv);
}

bool ag_kv_take(ag_kv *kv, uint32_t n, uint32_t *pages)
{
    AG_CHECK(kv, KV_MAGIC);
    uint32_t left = ag_kv_free(kv);
    if (n > left) return false;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t page = kv->free[--left];
        AG_ASSERT(!kv->taken[page]);
        kv->taken[page] = true;
        pages[i] = page;
    }
    atomic_store_explicit(&kv->n_free, left, memory_order_relaxed);
    return true;
}

void ag_kv_put(ag_kv *kv, uint32_t n, const uint32_t *pages)
{
    AG_CHECK(kv, KV_MAGIC);
    uint32_t left = ag_kv_free(kv);
    for (uint32_t i = n; i-- > 0;) {
        AG_ASSERT(pages[i] < kv->pages && kv->taken[pages[i]]);
        kv->taken[pages[i]] = false;
        kv->free[left++] = pages[i];
    }
    atomic_store_explicit(&kv->n_free, left, memory_order_relaxed);
}

uint32_t ag_kv_free(const ag_kv *kv) { return atomic_load_explicit(&kv->n_free, memory_order_relaxed); }
uint32_t ag_kv_used(const ag_kv *kv) { return kv->pages - ag_kv_free(kv); }
