#include <stdatomic.h>

#include "base/mem.h"
#include "cache/cache_inner.h"

struct ag_cache_value {
    _Atomic uint32_t refs;
    uint32_t cost;
    size_t n;
    uint8_t bytes[];
};

int ag_cache_value_make(ag_cache_value **out, size_t n)
{
    *out = NULL;
    if (n > UINT32_MAX / 2) return AG_E_LIMIT;
    ag_cache_value *v = ag_mem_alloc(sizeof *v + n);
    if (v == NULL) return AG_E_NOMEM;
    atomic_init(&v->refs, 1);
    v->cost = (uint32_t)ag_mem_cost(v);
    v->n = n;
    *out = v;
    return AG_OK;
}

uint8_t *ag_cache_value_bytes(ag_cache_value *v) { return v->bytes; }
size_t ag_cache_value_size(const ag_cache_value *v) { return v->n; }
uint32_t ag__value_cost(const ag_cache_value *v) { return v->cost; }

ag_cache_value *ag_cache_value_hold(ag_cache_value *v)
{
    uint32_t was = atomic_fetch_add_explicit(&v->refs, 1, memory_order_relaxed);
    AG_ASSERT(was != 0 && was != UINT32_MAX);
    return v;
}

void ag_cache_value_drop(ag_cache_value *v)
{
    if (v == NULL) return;
    uint32_t was = atomic_fetch_sub_explicit(&v->refs, 1, memory_order_acq_rel);
    AG_ASSERT(was != 0);
    if (was == 1) ag_mem_free(v);
}
