/* kernels.c - how fast every kernel runs on this machine: operations and bytes a second, and their shares of its peaks.
 *
 *   bench_kernels [--isa NAME] [--kernel NAME] [--type NAME] [--threads N] [--k N] [--rows N] [--ms N] [--quick 1]
 *                 [--json 1]
 *
 * All threads work, as in the engine: a product is shared out by tiles, of the other kernels each thread runs its own.
 * Peaks are `ag_cpu_peak_measure`'s: reading memory, int8 dot products and float multiply-adds out of registers.
 *   Gop/s  multiply-adds count as two; of the small kernels, about what the scalar code does for a number. Against int8
 *          for products of quantized weights, against float for all else (BF16 on AMX may pass 100 %).
 *   GB/s   what the kernel must read and write, once: weights for each block of columns, keys and values, rows. A share
 *          above 100 % says that it stood in a cache.
 * Weights, keys and values are larger than the caches; rows are not, since the stage before has just made them. */
#include <stdio.h>
#include <stdlib.h>

#include "base/err.h"
#include "base/mem.h"
#include "engine/cpu/cpu.h"
#include "engine/cpu/pool.h"

typedef struct bench {
    const char *isa, *type, *kernel;
    uint32_t threads, k, rows, ms;
    bool quick, json;
    uint32_t context; /* of attention */
    ag_pool *pool;
    const ag_cpu_isa *now;
    ag_cpu_peak peak;
    uint32_t printed; /* lines of this instruction set */
} bench;

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

static float *random_floats(size_t n)
{
    float *x = need(ag_mem_aligned(64, n * sizeof *x));
    for (size_t i = 0; i < n; i++) x[i] = (float)next_random() * 0x1p-23f - 1;
    return x;
}

/* The best of whole runs within the time. */
static double seconds(const bench *b, ag_pool_fn *fn, void *arg, uint32_t items, uint32_t chunk)
{
    double best = 1e9;
    uint64_t begin = ag_now_us();
    do {
        uint64_t t = ag_now_us();
        ag_pool_run(b->pool, fn, arg, items, chunk);
        best = AG_MIN(best, (double)AG_MAX(ag_now_us() - t, 1u) * 1e-6);
    } while (ag_now_us() - begin < b->ms * 1000);
    return best;
}

static bool wanted(const bench *b, const char *kernel)
{
    return strcmp(b->kernel, "all") == 0 || strcmp(b->kernel, kernel) == 0;
}

static void print(bench *b, const char *kernel, const char *type, const char *shape, uint32_t cols, double s,
                  double ops, double bytes, bool int8)
{
    double gop = ops / s * 1e-9, gb = bytes / s * 1e-9;
    double of_ops = ops / s / (int8 ? b->peak.int8_ops_s : b->peak.float_ops_s);
    double of_read = bytes / s / b->peak.read_bytes_s;
    if (b->json)
        printf("%s{\"kernel\":\"%s\",\"type\":\"%s\",\"shape\":\"%s\",\"columns\":%u,\"us\":%.3f,\"gop_s\":%.3f,"
               "\"gb_s\":%.3f,\"peak\":\"%s\",\"share_of_ops\":%.4f,\"share_of_read\":%.4f}", b->printed ? "," : "",
               kernel, type, shape, cols, s * 1e6, gop, gb, int8 ? "int8" : "float", of_ops, of_read);
    else
        printf("%-8s %-9s %-7s %-25s %7u %12.2f %9.1f %6.1f%% %8.2f %6.1f%%\n", b->now->name, kernel, type, shape, cols,
               s * 1e6, gop, of_ops * 100, gb, of_read * 100);
    b->printed++;
    fflush(stdout);
}

/* ---- products and what prepares them ----------------------------------------------------------------------------- */

typedef struct product {
    const ag_cpu_ops *ops;
    ag_pack w;
    ag_act act;
    uint32_t cols, block; /* columns of a call: cut as the engine cuts them */
    float *y;
    const unsigned char *src;
} product;

static void product_part(void *arg, uint32_t worker, uint32_t from, uint32_t to)
{
    (void)worker;
    const product *p = arg;
    for (uint32_t i = from, next; i < to; i = next) {
        uint32_t tile = i % p->w.tiles, c = i / p->w.tiles * p->block;
        next = i + AG_MIN(AG_MIN((uint32_t)AG_CPU_TILES_MAX, to - i), p->w.tiles - tile);
        ag_act a = p->act;
        a.b += c * a.b_stride;
        a.x += c * a.x_stride;
        p->ops->matmul(&p->w, &a, AG_MIN(p->block, p->cols - c), tile, tile + (next - i),
                       p->y + (size_t)c * p->w.rows + (size_t)tile * AG_CPU_TILE, p->w.rows);
    }
}

static void repack_part(void *arg, uint32_t worker, uint32_t from, uint32_t to)
{
    (void)worker;
    const product *p = arg;
    ag_pack_fill(&p->w, p->src, from, to);
}

static void bench_products(bench *b, product *p, const ag_quant_row *q)
{
    static const uint32_t columns[] = {1, 4, 16, 512};
    bool int8 = ag_pack_wants_quantized(q->type);
    char shape[64];
    snprintf(shape, sizeof shape, "%u x %u", b->rows, b->k);
    for (size_t i = 0; i < AG_ARRAY_LEN(columns); i++) {
        p->cols = columns[i];
        p->block = ag_cpu_cols_block(p->cols, int8 ? ag_act_bytes(b->k, 1) : b->k * sizeof(float));
        uint32_t blocks = (p->cols + p->block - 1) / p->block, items = p->w.tiles * blocks;
        double s = seconds(b, product_part, p, items, AG_MAX(1u, items / b->threads / 16));
        double column = (double)(int8 ? ag_act_bytes(b->k, 1) : b->k * sizeof(float)) + b->rows * (double)sizeof(float);
        double bytes = (double)p->w.tiles * (double)p->w.tile_bytes * blocks + p->cols * column;
        print(b, "matmul", q->name, shape, p->cols, s, 2.0 * b->rows * b->k * p->cols, bytes, int8);
    }
}

static void bench_type(bench *b, const ag_quant_row *q)
{
    product p = {.ops = b->now->ops};
    const uint32_t most = 512;
    ag_pack_shape(&p.w, q->type, b->rows, b->k);
    size_t file_bytes = (size_t)b->rows * b->k / q->block * q->bytes;
    unsigned char *src = need(ag_mem_alloc(file_bytes));
    for (size_t i = 0; i < file_bytes; i++) src[i] = (unsigned char)(next_random() & 0x3B); /* finite as any float */
    p.w.data = need(ag_mem_aligned(2u << 20, p.w.tiles * p.w.tile_bytes));
    p.src = src;
    ag_pool_run(b->pool, repack_part, &p, p.w.tiles, 8); /* the first touches the memory */
    double s = seconds(b, repack_part, &p, p.w.tiles, 8);
    if (wanted(b, "repack"))
        print(b, "repack", q->name, "", 1, s, 0, (double)(file_bytes + p.w.tiles * p.w.tile_bytes), false);
    ag_mem_free(src);
    float *x = random_floats((size_t)most * b->k);
    p.act.x = x;
    p.act.x_stride = b->k;
    ag_act_place(&p.act, b->k, most, need(ag_mem_aligned(64, ag_act_bytes(b->k, most))));
    p.ops->quantize(&p.act, 0, most, x, b->k);
    p.y = need(ag_mem_aligned(64, (size_t)most * b->rows * sizeof(float)));
    if (wanted(b, "matmul")) bench_products(b, &p, q);
    void *all[] = {p.w.data, x, p.act.b, p.y};
    for (size_t i = 0; i < AG_ARRAY_LEN(all); i++) ag_mem_free(all[i]);
}

/* ---- attention --------------------------------------------------------------------------------------------------- */

/* KV heads of their own pages; each thread takes whole heads. */
typedef struct attention {
    const ag_cpu_ops *ops;
    ag_attn one;
    unsigned char *scratch; /* of each worker */
    size_t scratch_bytes, head;
    uint32_t repeats;
} attention;

static void attention_part(void *arg, uint32_t worker, uint32_t from, uint32_t to)
{
    const attention *t = arg;
    for (uint32_t i = from; i < to; i++) {
        ag_attn a = t->one;
        size_t out = (size_t)a.tokens * a.out_stride;
        a.k = (const unsigned char *)a.k + i * t->head;
        a.v = (const unsigned char *)a.v + i * t->head;
        a.out += i * out;
        a.scratch = t->scratch + worker * t->scratch_bytes;
        for (uint32_t n = 0; n < t->repeats; n++) t->ops->attention(&a);
    }
}

/* One token, as in decode, and a tile of prefill, whose last token is at the end of the context. */
static void bench_attention(bench *b, ag_kv_type kv, uint32_t heads, uint32_t dim, uint32_t context)
{
    uint32_t n = (context + AG_CPU_KV_PAGE - 1) / AG_CPU_KV_PAGE, kv_heads = b->threads * (b->quick ? 1 : 4);
    const uint32_t counts[] = {1, ag_attn_tokens(heads)};
    size_t page = ag_kv_head_bytes(kv, dim), width = (size_t)heads * dim, floats = counts[1] * width;
    attention t = {.ops = b->now->ops, .head = page * n, .repeats = 1};
    uint32_t *pages = need(ag_mem_array(n, sizeof *pages));
    uint16_t *k = need(ag_mem_aligned(64, kv_heads * t.head)), *v = need(ag_mem_aligned(64, kv_heads * t.head));
    float *q = random_floats(floats), *out = random_floats(floats * kv_heads);
    for (uint32_t i = 0; i < n; i++) pages[i] = i;
    for (size_t i = 0; i < kv_heads * t.head / 2; i++) k[i] = v[i] = (uint16_t)(next_random() & 0x3BFF);
    t.scratch_bytes = ag_attn_scratch_bytes(heads, dim, dim);
    t.scratch = need(ag_mem_aligned(64, t.scratch_bytes * b->threads));
    t.one = (ag_attn){.q = q, .q_stride = width, .heads = heads, .dim_k = dim, .dim_v = dim, .scale = 0.1f,
                      .pages = pages, .k = k, .v = v, .type = kv, .k_page_stride = page, .v_page_stride = page,
                      .out = out, .out_stride = width};
    for (size_t c = 0; c < AG_ARRAY_LEN(counts); c++) {
        char shape[64];
        uint32_t tokens = counts[c];
        snprintf(shape, sizeof shape, "%u heads of %u at %u", heads, dim, context);
        t.one.tokens = tokens;
        t.one.pos = context - tokens;
        ag_attn_parts(t.one.pos, tokens, 0, &t.one.from, &t.one.to);
        double s = seconds(b, attention_part, &t, kv_heads, 1), keys = 0;
        for (uint32_t i = 0; i < tokens; i++) keys += t.one.pos + i + 1;
        print(b, "attention", kv == AG_KV_F16 ? "F16" : "Q8_0", shape, tokens, s, 4.0 * keys * heads * dim * kv_heads,
              2.0 * (double)page / AG_CPU_KV_PAGE * context * kv_heads, false);
    }
    void *all[] = {pages, k, v, q, out, t.scratch};
    for (size_t i = 0; i < AG_ARRAY_LEN(all); i++) ag_mem_free(all[i]);
}

/* ---- small kernels, a row after the other ------------------------------------------------------------------------ */

#define ROWS 16
#define ROPE_DIM 128

typedef struct rows {
    const ag_cpu_ops *ops;
    void (*one)(const struct rows *r, uint32_t row);
    uint32_t k, repeats;
    float *x, *up, *y, *w; /* ROWS for each thread; w: one */
    ag_act act;
} rows;

static void row_rms_norm(const rows *r, uint32_t i)
{
    r->ops->rms_norm(r->y + (size_t)i * r->k, r->x + (size_t)i * r->k, r->w, r->k, 1e-5f);
}
static void row_quantize(const rows *r, uint32_t i) { r->ops->quantize(&r->act, i, 1, r->x + (size_t)i * r->k, 0); }
static void row_silu(const rows *r, uint32_t i)
{
    r->ops->glu(r->y + (size_t)i * r->k, r->x + (size_t)i * r->k, r->up + (size_t)i * r->k, r->k, AG_ACT_SILU);
}
static void row_gelu(const rows *r, uint32_t i)
{
    r->ops->glu(r->y + (size_t)i * r->k, r->x + (size_t)i * r->k, r->up + (size_t)i * r->k, r->k, AG_ACT_GELU_TANH);
}
static void rotate(const rows *r, uint32_t i, bool interleaved)
{
    static const float cosine[ROPE_DIM / 2] = {[0 ... ROPE_DIM / 2 - 1] = 0.6f};
    static const float sine[ROPE_DIM / 2] = {[0 ... ROPE_DIM / 2 - 1] = 0.8f}; /* lengths stay as they are */
    for (uint32_t k = 0; k + ROPE_DIM <= r->k; k += ROPE_DIM)
        r->ops->rope(r->y + (size_t)i * r->k + k, cosine, sine, ROPE_DIM, interleaved);
}
static void row_rope_halves(const rows *r, uint32_t i) { rotate(r, i, false); }
static void row_rope_pairs(const rows *r, uint32_t i) { rotate(r, i, true); }

/* For a number of the row: operations, and bytes read and written. */
static const struct {
    const char *name, *shape;
    void (*one)(const rows *r, uint32_t row);
    double ops, bytes;
} row_kernels[] = {
    {"rms_norm", "", row_rms_norm, 4, 8},         {"quantize", "", row_quantize, 6, 6},
    {"glu", "silu", row_silu, 24, 12},            {"glu", "gelu_tanh", row_gelu, 29, 12},
    {"rope", "halves", row_rope_halves, 3, 8},    {"rope", "pairs", row_rope_pairs, 3, 8},
};

static void rows_part(void *arg, uint32_t worker, uint32_t from, uint32_t to)
{
    (void)worker;
    const rows *r = arg;
    for (uint32_t i = from; i < to; i++)
        for (uint32_t n = 0; n < r->repeats * ROWS; n++) r->one(r, i * ROWS + n % ROWS);
}

static void bench_rows(bench *b)
{
    size_t n = (size_t)b->threads * ROWS * b->k;
    rows r = {.ops = b->now->ops, .k = b->k, .repeats = b->quick ? 1 : 100, .x = random_floats(n),
              .up = random_floats(n), .y = random_floats(n), .w = random_floats(b->k)};
    ag_act_place(&r.act, b->k, b->threads * ROWS, need(ag_mem_aligned(64, ag_act_bytes(b->k, b->threads * ROWS))));
    for (size_t i = 0; i < AG_ARRAY_LEN(row_kernels); i++) {
        char shape[64];
        if (!wanted(b, row_kernels[i].name)) continue;
        snprintf(shape, sizeof shape, "%s%s%u", row_kernels[i].shape, row_kernels[i].shape[0] ? " " : "", b->k);
        r.one = row_kernels[i].one;
        double s = seconds(b, rows_part, &r, b->threads, 1) / r.repeats, numbers = (double)n;
        print(b, row_kernels[i].name, "F32", shape, ROWS, s, row_kernels[i].ops * numbers,
              row_kernels[i].bytes * numbers, false);
    }
    void *all[] = {r.x, r.up, r.y, r.w, r.act.b};
    for (size_t i = 0; i < AG_ARRAY_LEN(all); i++) ag_mem_free(all[i]);
}

/* ---- all of it --------------------------------------------------------------------------------------------------- */

static void bench_isa(bench *b)
{
    if (ag_cpu_peak_measure(b->now, b->threads, &b->peak) != AG_OK) {
        fprintf(stderr, "bench_kernels: no memory or no threads for the peaks\n");
        exit(1);
    }
    b->printed = 0;
    double read = b->peak.read_bytes_s * 1e-9, int8 = b->peak.int8_ops_s * 1e-9, fl = b->peak.float_ops_s * 1e-9;
    if (b->json) {
        printf("{\"isa\":\"%s\",\"peaks\":{\"read_gb_s\":%.3f,\"int8_gop_s\":%.3f,\"float_gop_s\":%.3f},\"kernels\":[",
               b->now->name, read, int8, fl);
    } else {
        printf("%s: peaks of %u threads: reads %.1f GB/s, int8 %.0f Gop/s, float %.0f Gop/s\n", b->now->name,
               b->threads, read, int8, fl);
        printf("%-8s %-9s %-7s %-25s %7s %12s %9s %7s %8s %7s\n", "isa", "kernel", "type", "shape", "columns", "us",
               "Gop/s", "of peak", "GB/s", "of read");
    }
    for (const ag_quant_row *q = NULL; (q = ag_quant_next(q)) != NULL;) {
        if (!wanted(b, "matmul") && !wanted(b, "repack")) break;
        if (strcmp(b->type, "all") != 0 && !ag_str_ieq(ag_str_of(b->type), ag_str_of(q->name))) continue;
        if (ag_pack_supported(q->type, b->k)) bench_type(b, q);
    }
    if (wanted(b, "attention")) {
        static const ag_kv_type kv[] = {AG_KV_F16, AG_KV_Q8_0};
        for (size_t i = 0; i < AG_ARRAY_LEN(kv); i++) {
            bench_attention(b, kv[i], 4, 128, b->context);
            bench_attention(b, kv[i], 3, 64, b->context);
        }
    }
    bench_rows(b);
    if (b->json) printf("]}");
}

static void nothing(void *arg, uint32_t worker, uint32_t from, uint32_t to)
{
    (void)arg, (void)worker, (void)from, (void)to;
}

/* Returns whether `name` is known and the value right for it. */
static bool option(bench *b, const char *name, const char *value)
{
    char *end;
    unsigned long n = strtoul(value, &end, 10);
    bool number = *value >= '0' && *value <= '9' && *end == 0 && n <= 1u << 24;
    if (strcmp(name, "--isa") == 0) b->isa = value;
    else if (strcmp(name, "--type") == 0) b->type = value;
    else if (strcmp(name, "--kernel") == 0) b->kernel = value;
    else if (!number) return false;
    else if (strcmp(name, "--threads") == 0 && n > 0 && n <= AG_POOL_THREADS_MAX) b->threads = (uint32_t)n;
    else if (strcmp(name, "--k") == 0 && n >= 256 && n % 256 == 0) b->k = (uint32_t)n;
    else if (strcmp(name, "--rows") == 0 && n > 0) b->rows = (uint32_t)n;
    else if (strcmp(name, "--ms") == 0 && n > 0 && n <= 60000) b->ms = (uint32_t)n;
    else if (strcmp(name, "--json") == 0 && n <= 1) b->json = n;
    else if (strcmp(name, "--quick") == 0 && n <= 1) b->quick = n;
    else return false;
    return true;
}

static int usage(const char *what)
{
    fprintf(stderr, "bench_kernels: %s\n"
            "usage: bench_kernels [--isa all|NAME] [--kernel all|matmul|repack|attention|rms_norm|quantize|glu|rope]\n"
            "                     [--type all|NAME] [--threads N] [--k N] [--rows N] [--ms N] [--quick 1] [--json 1]\n"
            "--isa all leaves out scalar, but with --quick 1, which shows on tiny sizes that all of it works;\n"
            "--k is a multiple of 256\n", what);
    return 2;
}

int main(int argc, char **argv)
{
    bench b = {.isa = "all", .type = "all", .kernel = "all", .threads = ag_pool_cores(), .k = 2048, .rows = 32768,
               .ms = 200, .context = 4096};
    for (int i = 1; i < argc; i += 2)
        if (i + 1 == argc || !option(&b, argv[i], argv[i + 1])) return usage(argv[i]);
    if (b.quick) b.k = 256, b.rows = 40, b.ms = 1, b.context = 100;
    bool all = strcmp(b.isa, "all") == 0, any = false;
    if (!all && ag_cpu_isa_find(b.isa) == NULL) return usage("this machine does not have that instruction set");
    if (ag_pool_open(&b.pool, b.threads, NULL) != AG_OK) return usage("threads could not be started");
    uint64_t begin = ag_now_us();
    for (int i = 0; i < 10000; i++) ag_pool_run(b.pool, nothing, NULL, 16, 1);
    double stage_us = (double)(ag_now_us() - begin) / 1e4;
    if (b.json)
        printf("{\"threads\":%u,\"k\":%u,\"rows\":%u,\"stage_us\":%.3f,\"isas\":[", b.threads, b.k, b.rows, stage_us);
    else printf("a stage of 16 empty items: %.2f us\n", stage_us);
    while ((b.now = ag_cpu_isa_next(b.now)) != NULL) {
        bool mine = all ? b.quick || strcmp(b.now->name, "scalar") != 0 : strcmp(b.isa, b.now->name) == 0;
        if (!mine || !b.now->runs()) continue;
        if (b.json && any) printf(",");
        any = true;
        bench_isa(&b);
    }
    if (b.json) printf("]}\n");
    ag_pool_close(b.pool);
    return 0;
}
