#include <stdatomic.h>

#include "base/err.h"
#include "base/mem.h"
#include "engine/cpu/layout.h"
#include "engine/cpu/pool.h"

#define READ_BYTES (64u << 20) /* a thread's part: beyond its share of any cache we know */
#define PIECE_BYTES (1u << 20) /* taken at a time, so that a thread that is held up does not hold up all */
#define READ_ROUNDS 3
#define BURN_US 50000

typedef struct peak {
    const ag_cpu_isa *isa;
    unsigned char *mem;
    ag__burn_fn *burn;
    _Atomic uint64_t ops;
    uint64_t rounds;
    size_t ahead;
} peak;

static void read_part(void *arg, uint32_t worker, uint32_t from, uint32_t to)
{
    (void)worker;
    peak *p = arg;
    p->isa->read(p->mem + (size_t)from * PIECE_BYTES, (size_t)(to - from) * PIECE_BYTES, p->ahead);
}

static void touch_part(void *arg, uint32_t worker, uint32_t from, uint32_t to)
{
    (void)worker;
    peak *p = arg;
    memset(p->mem + (size_t)from * READ_BYTES, 1, (size_t)(to - from) * READ_BYTES);
}

static void burn_part(void *arg, uint32_t worker, uint32_t from, uint32_t to)
{
    (void)worker;
    peak *p = arg;
    for (uint32_t i = from; i < to; i++) atomic_fetch_add(&p->ops, p->burn(p->rounds));
}

/* The best of runs of some milliseconds: one that others interrupt says little. */
static double burn_rate(ag_pool *pool, peak *p, uint32_t threads, ag__burn_fn *burn)
{
    double best = 0;
    uint64_t took = 0;
    p->burn = burn;
    for (p->rounds = 1000; took < BURN_US; p->rounds *= 2) {
        atomic_store(&p->ops, 0);
        uint64_t begin = ag_now_us();
        ag_pool_run(pool, burn_part, p, threads, 1);
        took = AG_MAX(ag_now_us() - begin, 1u);
        if (took >= BURN_US / 16) best = AG_MAX(best, (double)atomic_load(&p->ops) * 1e6 / (double)took);
    }
    return best;
}

int ag_cpu_peak_measure(const ag_cpu_isa *isa, uint32_t threads, ag_cpu_peak *out)
{
    peak p = {.isa = isa};
    ag_pool *pool = NULL;
    int rc = ag_pool_open(&pool, threads, NULL);
    if (rc != AG_OK) return rc;
    rc = AG_E_NOMEM;
    p.mem = ag_mem_aligned((size_t)2 << 20, (size_t)threads * READ_BYTES);
    if (p.mem == NULL) goto undo_pool;
    ag_pool_run(pool, touch_part, &p, threads, 1);
    *out = (ag_cpu_peak){0};
    /* Which distance is best differs between machines, by half of the rate. */
    static const size_t ahead[] = {1024, 4096, 16384};
    for (size_t i = 0; i < READ_ROUNDS * AG_ARRAY_LEN(ahead); i++) {
        p.ahead = ahead[i % AG_ARRAY_LEN(ahead)];
        uint64_t begin = ag_now_us();
        ag_pool_run(pool, read_part, &p, threads * (READ_BYTES / PIECE_BYTES), 1);
        double rate = (double)threads * READ_BYTES * 1e6 / (double)AG_MAX(ag_now_us() - begin, 1u);
        out->read_bytes_s = AG_MAX(out->read_bytes_s, rate);
    }
    out->int8_ops_s = burn_rate(pool, &p, threads, isa->burn);
    out->float_ops_s = burn_rate(pool, &p, threads, isa->burn_float);
    rc = AG_OK;
    ag_mem_free(p.mem);
undo_pool:
    ag_pool_close(pool);
    return rc;
}
