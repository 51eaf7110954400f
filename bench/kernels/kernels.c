/* kernels.c - how fast the products and attention run on this machine, by type, instruction set and columns.
 *
 *   bench_kernels [--isa NAME] [--type NAME] [--threads N] [--k N] [--rows N] [--chunk N] [--ms N]
 *
 * Weights are larger than the caches for one column, so that GB/s there is what decoding gets from memory; Gop/s counts
 * a multiply-add as two. The first lines are the machine's peaks as `ag_cpu_peak_measure` finds them. */
#include <stdio.h>
#include <stdlib.h>

#include "base/err.h"
#include "base/mem.h"
#include "engine/cpu/cpu.h"
#include "engine/cpu/pool.h"

typedef struct bench {
    const char *isa, *type;
    uint32_t threads, k, rows, chunk, ms; /* chunk: tiles of a call, 0: as many as leave each thread 16 calls */
    ag_pool *pool;
} bench;

typedef struct product {
    const ag_cpu_ops *ops;
    ag_pack w;
    ag_act act;
    uint32_t cols;
    float *y;
    const unsigned char *src;
} product;

static void *need(void *p)
{
    if (p != NULL) return p;
    fprintf(stderr, "bench_kernels: no memory\n");
    exit(1);
}

static uint32_t next_random(void)
{
    static uint32_t s = 12345;
    s = s * 1664525 + 1013904223;
    return s >> 8;
}

static void part(void *arg, uint32_t worker, uint32_t from, uint32_t to)
{
    (void)worker;
    product *p = arg;
    p->ops->matmul(&p->w, &p->act, p->cols, from, to, p->y + from * 16, p->w.rows);
}

static void pack_part(void *arg, uint32_t worker, uint32_t from, uint32_t to)
{
    (void)worker;
    product *p = arg;
    ag_pack_fill(&p->w, p->src, from, to);
}

/* The best rate of whole runs within the time. */
static double seconds(const bench *b, ag_pool_fn *fn, product *p, uint32_t chunk)
{
    double best = 1e9;
    uint64_t begin = ag_now_us();
    do {
        uint64_t t = ag_now_us();
        ag_pool_run(b->pool, fn, p, p->w.tiles, chunk);
        double took = (double)(ag_now_us() - t) * 1e-6;
        best = took > 0 && took < best ? took : best;
    } while (ag_now_us() - begin < b->ms * 1000);
    return best;
}

static void bench_product(const bench *b, const ag_cpu_isa *isa, const ag_quant_row *q)
{
    static const uint32_t columns[] = {1, 2, 4, 8, 16, 64, 512};
    product p = {.ops = isa->ops};
    ag_pack_shape(&p.w, q->type, b->rows, b->k);
    size_t file_bytes = (size_t)b->rows * b->k / q->block * q->bytes;
    unsigned char *src = need(ag_mem_alloc(file_bytes));
    for (size_t i = 0; i < file_bytes; i++) src[i] = (unsigned char)(next_random() & 0x3B); /* finite as any float */
    p.w.data = need(ag_mem_aligned(2u << 20, p.w.tiles * p.w.tile_bytes));
    p.src = src;
    uint64_t t = ag_now_us();
    ag_pool_run(b->pool, pack_part, &p, p.w.tiles, 8);
    double pack_s = (double)(ag_now_us() - t) * 1e-6;
    ag_mem_free(src);
    uint32_t most = columns[AG_ARRAY_LEN(columns) - 1];
    float *x = need(ag_mem_aligned(64, (size_t)most * b->k * sizeof *x));
    for (size_t i = 0; i < (size_t)most * b->k; i++) x[i] = (float)next_random() * 0x1p-23f - 1;
    p.act.x = x;
    p.act.x_stride = b->k;
    ag_act_place(&p.act, b->k, most, need(ag_mem_aligned(64, ag_act_bytes(b->k, most))));
    double quantize_s = 0;
    for (int i = 0; i < 3; i++) { /* the first touches the memory */
        t = ag_now_us();
        for (uint32_t c = 0; c < most; c++) isa->ops->quantize(&p.act, c, x + (size_t)c * b->k);
        quantize_s = (double)(ag_now_us() - t) * 1e-6;
    }
    p.y = need(ag_mem_aligned(64, (size_t)most * b->rows * sizeof(float)));
    printf("%-7s %-7s", isa->name, q->name);
    for (size_t i = 0; i < AG_ARRAY_LEN(columns); i++) {
        p.cols = columns[i];
        double s = seconds(b, part, &p, b->chunk ? b->chunk : AG_MAX(1u, p.w.tiles / b->threads / 16));
        if (p.cols == 1) printf(" %6.1f GB/s |", (double)p.w.tiles * (double)p.w.tile_bytes / s * 1e-9);
        printf(" %7.1f", 2.0 * b->rows * b->k * p.cols / s * 1e-9);
        fflush(stdout);
    }
    printf(" | pack %5.2f GB/s, quantize %5.2f G/s\n", (double)file_bytes / pack_s * 1e-9,
           (double)most * b->k / quantize_s * 1e-9);
    ag_mem_free(p.w.data);
    ag_mem_free((void *)p.act.x);
    ag_mem_free(p.act.b);
    ag_mem_free(p.y);
}

/* Attention of one KV head: heads queries, one token and as many as a call may have, at `pos`. */
static void bench_attention(const bench *b, const ag_cpu_isa *isa, uint32_t heads, uint32_t dim, uint32_t pos)
{
    uint32_t most = ag_attn_tokens(heads), n = (pos + most + AG_CPU_KV_PAGE - 1) / AG_CPU_KV_PAGE;
    size_t page = (size_t)AG_CPU_KV_PAGE * dim;
    uint32_t *pages = need(ag_mem_array(n, sizeof *pages));
    uint16_t *k = need(ag_mem_aligned(64, page * n * 2)), *v = need(ag_mem_aligned(64, page * n * 2));
    float *q = need(ag_mem_aligned(64, (size_t)most * heads * dim * 8));
    float *out = q + most * heads * dim;
    for (uint32_t i = 0; i < n; i++) pages[i] = i;
    for (size_t i = 0; i < page * n; i++) k[i] = v[i] = (uint16_t)(next_random() & 0x3BFF);
    for (size_t i = 0; i < (size_t)most * heads * dim; i++) q[i] = (float)next_random() * 0x1p-24f;
    ag_attn a = {.q = q, .q_stride = (size_t)heads * dim, .heads = heads, .pos = pos, .dim_k = dim, .dim_v = dim,
                 .scale = 0.1f, .pages = pages, .k = k, .v = v, .k_page_stride = page * 2, .v_page_stride = page * 2,
                 .out = out, .out_stride = (size_t)heads * dim};
    a.scratch = need(ag_mem_aligned(64, ag_attn_scratch_bytes(heads, dim, dim)));
    printf("%-7s attention %2u heads of %3u at %5u:", isa->name, heads, dim, pos);
    for (a.tokens = 1; a.tokens <= most; a.tokens += most - 1) {
        ag_attn_parts(pos, a.tokens, 0, &a.from, &a.to);
        double best = 1e9;
        for (uint64_t begin = ag_now_us(); ag_now_us() - begin < b->ms * 1000;) {
            uint64_t t = ag_now_us();
            for (int i = 0; i < 10; i++) isa->ops->attention(&a);
            best = AG_MIN(best, (double)AG_MAX(ag_now_us() - t, 1u) * 1e-7);
        }
        printf("  %2u tokens %8.2f us %7.1f Gop/s %6.1f GB/s", a.tokens, best * 1e6,
               4.0 * a.tokens * heads * dim * (pos + 1) / best * 1e-9, 4.0 * dim * (pos + 1) / best * 1e-9);
    }
    printf("\n");
    void *all[] = {pages, k, v, q, a.scratch};
    for (size_t i = 0; i < AG_ARRAY_LEN(all); i++) ag_mem_free(all[i]);
}

static void nothing(void *arg, uint32_t worker, uint32_t from, uint32_t to)
{
    (void)arg, (void)worker, (void)from, (void)to;
}

static void bench_isa(const bench *b, const ag_cpu_isa *isa)
{
    ag_cpu_peak peak;
    if (ag_cpu_peak_measure(isa, b->threads, &peak) != AG_OK) {
        fprintf(stderr, "bench_kernels: no memory or no threads for the peaks\n");
        exit(1);
    }
    printf("%-7s peak, %u threads: reads %.1f GB/s, int8 %.0f Gop/s\n", isa->name, b->threads, peak.read_bytes_s * 1e-9,
           peak.int8_ops_s * 1e-9);
    if (strcmp(b->type, "none") != 0) {
        printf("isa     type       1 column |  Gop/s: 1      2       4       8      16      64     512 columns\n");
    }
    for (const ag_quant_row *q = NULL; (q = ag_quant_next(q)) != NULL;) {
        if (strcmp(b->type, "all") != 0 && !ag_str_ieq(ag_str_of(b->type), ag_str_of(q->name))) continue;
        if (ag_pack_supported(q->type, b->k)) bench_product(b, isa, q);
    }
    bench_attention(b, isa, 3, 64, 100);
    bench_attention(b, isa, 3, 64, 4000);
    bench_attention(b, isa, 1, 128, 1000);
    bench_attention(b, isa, 8, 128, 1000);
}

int main(int argc, char **argv)
{
    bench b = {.isa = "all", .type = "all", .threads = ag_pool_cores(), .k = 2048, .rows = 32768, .ms = 200};
    for (int i = 1; i + 1 < argc; i += 2) {
        uint32_t n = (uint32_t)strtoul(argv[i + 1], NULL, 10);
        if (strcmp(argv[i], "--isa") == 0) b.isa = argv[i + 1];
        if (strcmp(argv[i], "--type") == 0) b.type = argv[i + 1];
        if (strcmp(argv[i], "--threads") == 0 && n > 0 && n <= AG_POOL_THREADS_MAX) b.threads = n;
        if (strcmp(argv[i], "--k") == 0 && n > 0 && n % 32 == 0) b.k = n;
        if (strcmp(argv[i], "--rows") == 0 && n > 0) b.rows = n;
        if (strcmp(argv[i], "--chunk") == 0) b.chunk = n;
        if (strcmp(argv[i], "--ms") == 0 && n > 0) b.ms = n;
    }
    if (ag_pool_open(&b.pool, b.threads, NULL) != AG_OK) return 1;
    uint64_t begin = ag_now_us();
    for (int i = 0; i < 10000; i++) ag_pool_run(b.pool, nothing, NULL, 16, 1);
    printf("a stage of 16 empty items: %.2f us\n", (double)(ag_now_us() - begin) / 1e4);
    for (const ag_cpu_isa *isa = NULL; (isa = ag_cpu_isa_next(isa)) != NULL;) {
        bool all = strcmp(b.isa, "all") == 0 && strcmp(isa->name, "scalar") != 0;
        if (isa->runs() && (all || strcmp(b.isa, isa->name) == 0)) bench_isa(&b, isa);
    }
    ag_pool_close(b.pool);
    return 0;
}
