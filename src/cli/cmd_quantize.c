/* autoglm quantize: writes a model file anew with its matrices in a smaller type. Weights stream through: a piece of a
 * tensor is read from the mapping, quantized and measured by all threads, and written before the next. */
#include <inttypes.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/mem.h"
#include "cli/cli.h"
#include "cli/perplexity.h"
#include "engine/cpu/pool.h"
#include "model/gguf/quantize.h"
#include "model/gguf/recipe.h"
#include "model/gguf/write.h"

#define SEGMENT 8192       /* weights that a thread takes at a time: whole blocks of every type */
#define PIECE_SEGMENTS 256 /* of a piece, whose bytes are written at once */
#define QUANTIZATION_VERSION 2 /* of ggml's block formats, as general.quantization_version counts them */

typedef struct options {
    const char *in, *out, *type, *check;
    uint32_t window;
    bool force, again, pure, json;
} options;

typedef struct segment { /* what became of it */
    double err2, x2;
    uint64_t bad; /* within the tensor: a weight that is no number or does not fit the type; none: UINT64_MAX */
} segment;

typedef struct row { /* one tensor */
    ag_quant_type want, type; /* what the recipe says, and what fits its rows */
    double err2, x2;
} row;

typedef struct job {
    const options *o;
    const ag_recipe *recipe;
    ag_gguf *in;
    row *rows;
    ag_gguf_writer *writer;
    ag_pool *pool;
    ag_progress progress;
    uint64_t done, bytes_before, bytes_after;
    ag_perplexity before, after;
    double seconds;

    float *scratch;    /* two segments for each thread */
    uint8_t *piece;    /* as written */
    segment *segments; /* of the piece */
    const ag_gguf_tensor *now;
    ag_quant_type to;
    uint64_t first;    /* weight of `now` with which the piece begins */
} job;

static volatile sig_atomic_t interrupted;
static void on_signal(int sig) { interrupted = sig; }

static uint64_t weights_of(const ag_gguf_tensor *t) { return t->dim[0] * t->dim[1] * t->dim[2] * t->dim[3]; }
static uint64_t bytes_of(ag_quant_type t, uint64_t weights)
{
    const ag_quant_row *r = ag_quant_find((uint32_t)t);
    return weights / r->block * r->bytes;
}
static const char *name_of(ag_quant_type t) { return ag_quant_find((uint32_t)t)->name; }
static bool is_float(ag_quant_type t) { return t == AG_Q_F32 || t == AG_Q_F16 || t == AG_Q_BF16; }
static double relative(double err2, double x2) { return x2 > 0 ? sqrt(err2 / x2) : 0; }
static double mib(uint64_t bytes) { return (double)bytes / (1 << 20); }

/* ---- before anything is written ---------------------------------------------------------------------------------- */

static int find_recipe(job *j, ag_err *err)
{
    char list[256] = "";
    size_t n = 0;
    j->recipe = ag_recipe_find(ag_str_of(j->o->type));
    if (j->recipe != NULL) return AG_OK;
    for (const ag_recipe *r = ag_recipe_next(NULL); r != NULL && n < sizeof list; r = ag_recipe_next(r))
        n += (size_t)snprintf(list + n, sizeof list - n, "%s%s", n ? ", " : "", r->name);
    return ag_err_set(err, AG_E_USAGE, "'%.40s' is not a type that can be written; these are: %s", j->o->type, list);
}

static int check_names(const job *j, ag_err *err)
{
    struct stat in, out;
    if (stat(j->o->out, &out) != 0) return AG_OK;
    for (uint32_t i = 0; i < ag_gguf_part_count(j->in); i++)
        if (stat(ag_gguf_part_path(j->in, i), &in) == 0 && in.st_dev == out.st_dev && in.st_ino == out.st_ino)
            return ag_err_set(err, AG_E_USAGE, "%s is the file that is read; give OUT another name", j->o->out);
    if (S_ISREG(out.st_mode) && !j->o->force)
        return ag_err_set(err, AG_E_USAGE, "%s is there already; --force replaces it", j->o->out);
    return AG_OK;
}

/* Tells, once for each pair of types, of rows that the wanted type's blocks do not divide. */
static void tell_misfits(const job *j)
{
    bool told[AG_QUANT_IDS][AG_QUANT_IDS] = {{false}};
    uint32_t n = ag_gguf_tensor_count(j->in);
    for (uint32_t i = 0; i < n; i++) {
        const row *r = &j->rows[i];
        const ag_gguf_tensor *t = ag_gguf_tensor_at(j->in, i);
        uint32_t count = 0;
        char name[96];
        if (r->type == r->want || told[r->want][r->type]) continue;
        told[r->want][r->type] = true;
        for (uint32_t k = i; k < n; k++) count += j->rows[k].want == r->want && j->rows[k].type == r->type;
        fprintf(stderr, "note: %u tensors are %s in place of %s, whose blocks of %u do not divide their rows "
                "(%s: %" PRIu64 ")\n", count, name_of(r->type), name_of(r->want),
                ag_quant_find((uint32_t)r->want)->block,
                ag_gguf_show(name, sizeof name, t->name), t->dim[0]);
    }
}

static int plan(job *j, ag_err *err)
{
    uint32_t n = ag_gguf_tensor_count(j->in);
    char name[96];
    j->rows = ag_mem_array(n, sizeof *j->rows);
    if (j->rows == NULL) return ag_err_set(err, AG_E_NOMEM, "no memory for a table of %u tensors", n);
    int64_t layers = ag_recipe_count_layers(j->in);
    for (uint32_t i = 0; i < n; i++) {
        row *r = &j->rows[i];
        const ag_gguf_tensor *t = ag_gguf_tensor_at(j->in, i);
        if (!is_float(t->type) && !j->o->again)
            return ag_err_set(err, AG_E_USAGE, "%s: tensor %s is %s already, and rounding it again adds error to "
                              "error; start from an F32, F16 or BF16 file, or say --allow-requantize", j->o->in,
                              ag_gguf_show(name, sizeof name, t->name), name_of(t->type));
        if (ag_recipe_takes(t)) r->want = ag_recipe_type(j->recipe, j->in, layers, t, j->o->pure);
        else r->want = t->n_dims == 1 ? AG_Q_F32 : t->type;
        r->type = ag_recipe_fit(r->want, t->dim[0]);
        j->bytes_after += bytes_of(r->type, weights_of(t));
        j->bytes_before += t->bytes;
    }
    tell_misfits(j);
    return AG_OK;
}

static int open_pool(job *j, uint32_t threads, ag_err *err)
{
    int rc = ag_pool_open(&j->pool, threads ? threads : ag_pool_cores(), err);
    if (rc != AG_OK) return rc;
    j->scratch = ag_mem_array((size_t)ag_pool_threads(j->pool) * 2 * SEGMENT, sizeof *j->scratch);
    j->piece = ag_mem_alloc((size_t)PIECE_SEGMENTS * SEGMENT * 4);
    j->segments = ag_mem_array(PIECE_SEGMENTS, sizeof *j->segments);
    if (j->scratch == NULL || j->piece == NULL || j->segments == NULL)
        return ag_err_set(err, AG_E_NOMEM, "no memory for the pieces of tensors");
    return AG_OK;
}

/* ---- the file ---------------------------------------------------------------------------------------------------- */

/* Keys that are written anew or belong to a split file's parts. */
static bool key_kept(ag_str key)
{
    static const char *const dropped[] = {"general.file_type", "general.quantization_version", "split.no",
                                          "split.count", "split.tensors.count"};
    for (size_t i = 0; i < AG_ARRAY_LEN(dropped); i++)
        if (ag_str_eqz(key, dropped[i])) return false;
    return true;
}

static int write_head(job *j, ag_err *err)
{
    uint32_t n = ag_gguf_tensor_count(j->in), keys = 2, alignment = 32;
    for (uint32_t i = 0; i < ag_gguf_value_count(j->in); i++) keys += key_kept(ag_gguf_value_at(j->in, i)->key);
    int rc = ag_gguf_u32(j->in, "general.alignment", false, &alignment, err);
    if (rc == AG_OK) rc = ag_gguf_writer_open(&j->writer, j->o->out, j->o->force, keys, n, alignment, err);
    for (uint32_t i = 0; i < ag_gguf_value_count(j->in) && rc == AG_OK; i++) {
        const ag_gguf_value *v = ag_gguf_value_at(j->in, i);
        if (key_kept(v->key)) rc = ag_gguf_writer_value(j->writer, v, err);
    }
    if (rc == AG_OK) rc = ag_gguf_writer_u32(j->writer, "general.file_type", j->recipe->file_type, err);
    if (rc == AG_OK) rc = ag_gguf_writer_u32(j->writer, "general.quantization_version", QUANTIZATION_VERSION, err);
    for (uint32_t i = 0; i < n && rc == AG_OK; i++) {
        ag_gguf_tensor t = *ag_gguf_tensor_at(j->in, i);
        t.type = j->rows[i].type;
        rc = ag_gguf_writer_tensor(j->writer, &t, err);
    }
    return rc;
}

/* One segment: read, rounded, read again and compared. */
static segment do_segment(const job *j, uint64_t first, uint64_t n, float *x, float *y, uint8_t *out)
{
    segment s = {.bad = UINT64_MAX};
    const uint8_t *from = (const uint8_t *)j->now->data + bytes_of(j->now->type, first);
    ag_quant_dequantize(j->now->type, from, x, n);
    if (j->to == j->now->type) memcpy(out, from, bytes_of(j->to, n));
    else ag_quantize(j->to, ag_recipe_cost(j->now), x, out, n);
    ag_quant_dequantize(j->to, out, y, n);
    for (uint64_t i = 0; i < n; i++) {
        double e = (double)y[i] - (double)x[i];
        s.err2 += e * e;
        s.x2 += (double)x[i] * (double)x[i];
    }
    if (isfinite(s.err2) && isfinite(s.x2)) return s;
    for (uint64_t i = n; i-- > 0;)
        if (!isfinite(x[i]) || !isfinite(y[i])) s.bad = first + i;
    for (uint64_t i = n; i-- > 0;) /* what is no number spoils its whole block, so it is named before what came of it */
        if (!isfinite(x[i])) s.bad = first + i;
    return s;
}

static void work(void *arg, uint32_t worker, uint32_t from, uint32_t to)
{
    const job *j = arg;
    float *x = j->scratch + (size_t)worker * 2 * SEGMENT;
    for (uint32_t i = from; i < to; i++) {
        uint64_t at = (uint64_t)i * SEGMENT, first = j->first + at;
        j->segments[i] = do_segment(j, first, AG_MIN((uint64_t)SEGMENT, weights_of(j->now) - first), x, x + SEGMENT,
                                    j->piece + bytes_of(j->to, at));
    }
}

static int refuse_weight(const job *j, uint64_t at, ag_err *err)
{
    const ag_gguf_tensor *t = j->now;
    const ag_quant_row *r = ag_quant_find((uint32_t)t->type);
    uint64_t block = at / r->block;
    char name[96];
    float *x = j->scratch; /* the threads are done with it */
    ag_quant_dequantize(t->type, (const uint8_t *)t->data + block * r->bytes, x, r->block);
    float v = x[at % r->block];
    ag_gguf_show(name, sizeof name, t->name);
    if (!isfinite(v))
        return ag_err_set(err, AG_E_FILE, "%s: tensor %s: weight %" PRIu64 " of row %" PRIu64 " is %s; only numbers "
                          "can be quantized", j->o->in, name, at % t->dim[0], at / t->dim[0],
                          isnan(v) ? "NaN" : "infinite");
    return ag_err_set(err, AG_E_FILE, "%s: tensor %s: weight %" PRIu64 " of row %" PRIu64 " is %g or stands beside "
                      "one that is too large for %s", j->o->in, name, at % t->dim[0], at / t->dim[0], (double)v,
                      name_of(j->to));
}

static int do_piece(job *j, row *r, uint64_t weights, ag_err *err)
{
    uint32_t n = (uint32_t)((weights + SEGMENT - 1) / SEGMENT);
    ag_pool_run(j->pool, work, j, n, 1);
    for (uint32_t i = 0; i < n; i++) {
        if (j->segments[i].bad != UINT64_MAX) return refuse_weight(j, j->segments[i].bad, err);
        r->err2 += j->segments[i].err2;
        r->x2 += j->segments[i].x2;
    }
    return ag_gguf_writer_data(j->writer, j->piece, bytes_of(j->to, weights), err);
}

static void print_tensor(const job *j, const row *r)
{
    char name[96], shape[96] = "";
    int n = 0;
    const ag_gguf_tensor *t = j->now;
    for (uint32_t d = 0; d < t->n_dims; d++)
        n += snprintf(shape + n, sizeof shape - (size_t)n, "%s%" PRIu64, d ? " x " : "", t->dim[d]);
    printf("%-36s %16s  %6s -> %-6s %10.3f MiB  error %.6f\n", ag_gguf_show(name, sizeof name, t->name), shape,
           name_of(t->type), name_of(r->type), mib(bytes_of(r->type, weights_of(t))), relative(r->err2, r->x2));
    fflush(stdout); /* a line for each tensor as it is done, through a pipe too */
}

static int do_tensor(job *j, uint32_t i, ag_err *err)
{
    const uint64_t piece = (uint64_t)PIECE_SEGMENTS * SEGMENT;
    int rc = AG_OK;
    row *r = &j->rows[i];
    j->now = ag_gguf_tensor_at(j->in, i);
    j->to = r->type;
    uint64_t weights = weights_of(j->now);
    for (j->first = 0; j->first < weights && rc == AG_OK; j->first += piece) {
        uint64_t n = AG_MIN(piece, weights - j->first);
        rc = do_piece(j, r, n, err);
        if (rc == AG_OK && interrupted)
            rc = ag_err_set(err, AG_E_CANCELLED, "stopped by a signal; %s was not written", j->o->out);
        ag_progress_show(&j->progress, j->done += bytes_of(j->now->type, n));
    }
    ag_gguf_release(j->in, j->now->data, j->now->bytes);
    if (rc != AG_OK || j->o->json) return rc;
    ag_progress_end(&j->progress);
    print_tensor(j, r);
    return AG_OK;
}

static int write_file(job *j, ag_err *err)
{
    uint64_t began = ag_now_us();
    int rc = write_head(j, err);
    ag_progress_begin(&j->progress, "quantizing", j->bytes_before, true);
    for (uint32_t i = 0; i < ag_gguf_tensor_count(j->in) && rc == AG_OK; i++) rc = do_tensor(j, i, err);
    if (rc == AG_OK) rc = ag_gguf_writer_finish(j->writer, err);
    ag_progress_end(&j->progress);
    j->seconds = (double)(ag_now_us() - began) / 1e6;
    return rc;
}

/* A signal, a closed pipe or a limit on files ends the work at a place where the half file can be taken away. */
static int write_guarded(job *j, ag_err *err)
{
    static const int stop[] = {SIGINT, SIGTERM, SIGHUP}, ignore[] = {SIGPIPE, SIGXFSZ};
    struct sigaction mine = {.sa_handler = on_signal, .sa_flags = SA_RESTART}, none = {.sa_handler = SIG_IGN};
    struct sigaction stop_was[AG_ARRAY_LEN(stop)], ignore_was[AG_ARRAY_LEN(ignore)];
    for (size_t i = 0; i < AG_ARRAY_LEN(stop); i++) {
        sigaction(stop[i], NULL, &stop_was[i]);
        if (stop_was[i].sa_handler != SIG_IGN) sigaction(stop[i], &mine, NULL); /* nohup stays nohup */
    }
    for (size_t i = 0; i < AG_ARRAY_LEN(ignore); i++) sigaction(ignore[i], &none, &ignore_was[i]);
    int rc = write_file(j, err);
    ag_gguf_writer_close(j->writer);
    for (size_t i = 0; i < AG_ARRAY_LEN(stop); i++) sigaction(stop[i], &stop_was[i], NULL);
    for (size_t i = 0; i < AG_ARRAY_LEN(ignore); i++) sigaction(ignore[i], &ignore_was[i], NULL);
    return rc;
}

/* ---- what came of it --------------------------------------------------------------------------------------------- */

static void print_json(const job *j, double error, double bits)
{
    ag_buf name;
    ag_buf_init(&name, 8 * AG_GGUF_NAME_MAX);
    printf("{\"type\":\"%s\",\"tensors\":[", j->recipe->name);
    for (uint32_t i = 0; i < ag_gguf_tensor_count(j->in); i++) {
        const ag_gguf_tensor *t = ag_gguf_tensor_at(j->in, i);
        const row *r = &j->rows[i];
        ag_buf_reset(&name);
        if (!ag_buf_add_json(&name, t->name.p, t->name.n)) ag_buf_reset(&name), ag_buf_addz(&name, "null");
        printf("%s{\"name\":%.*s,\"from\":\"%s\",\"to\":\"%s\",\"bytes_before\":%" PRIu64 ",\"bytes_after\":%" PRIu64
               ",\"error\":%.9g}", i ? "," : "", (int)name.n, name.p, name_of(t->type), name_of(r->type), t->bytes,
               bytes_of(r->type, weights_of(t)), relative(r->err2, r->x2));
    }
    printf("],\"bytes_before\":%" PRIu64 ",\"bytes_after\":%" PRIu64 ",\"bits_per_weight\":%.4f,\"error\":%.9g,"
           "\"seconds\":%.3f", j->bytes_before, j->bytes_after, bits, error, j->seconds);
    if (j->o->check)
        printf(",\"perplexity_before\":%.6f,\"perplexity_after\":%.6f", j->before.value, j->after.value);
    printf("}\n");
    ag_buf_fini(&name);
}

static void print_result(const job *j)
{
    double err2 = 0, x2 = 0;
    uint64_t weights = 0;
    for (uint32_t i = 0; i < ag_gguf_tensor_count(j->in); i++) {
        err2 += j->rows[i].err2;
        x2 += j->rows[i].x2;
        weights += weights_of(ag_gguf_tensor_at(j->in, i));
    }
    double bits = weights ? (double)j->bytes_after * 8 / (double)weights : 0, error = relative(err2, x2);
    if (j->o->json) {
        print_json(j, error, bits);
        return;
    }
    printf("%s: %.1f MiB -> %.1f MiB, %.2f bits a weight, error %.6f, %.1f s\n", j->o->out, mib(j->bytes_before),
           mib(j->bytes_after), bits, error, j->seconds);
    if (j->o->check)
        printf("perplexity %.4f +/- %.4f before, %.4f +/- %.4f after (%+.2f %%)\n", j->before.value, j->before.error,
               j->after.value, j->after.error, (j->after.value / j->before.value - 1) * 100);
}

static int run(const options *o, const ag_conf *conf, ag_err *err)
{
    job j = {.o = o};
    ag_buf text;
    ag_buf_init(&text, AG_PERPLEXITY_TEXT_MAX);
    int rc = find_recipe(&j, err);
    if (rc == AG_OK && o->check) rc = ag_cli_read(o->check, &text, err);
    if (rc == AG_OK) rc = ag_gguf_open(&j.in, o->in, err);
    if (rc == AG_OK) rc = check_names(&j, err);
    if (rc == AG_OK) rc = plan(&j, err);
    if (rc == AG_OK && o->check) rc = ag_perplexity_of(&j.before, o->in, conf, ag_buf_str(&text), o->window, err);
    if (rc == AG_OK) rc = open_pool(&j, conf->threads, err);
    if (rc == AG_OK) rc = write_guarded(&j, err);
    ag_pool_close(j.pool);
    if (rc == AG_OK && o->check) rc = ag_perplexity_of(&j.after, o->out, conf, ag_buf_str(&text), o->window, err);
    if (rc == AG_OK) print_result(&j);
    ag_mem_free(j.scratch);
    ag_mem_free(j.piece);
    ag_mem_free(j.segments);
    ag_mem_free(j.rows);
    ag_gguf_close(j.in);
    ag_buf_fini(&text);
    return rc;
}

int ag_cmd_quantize(int argc, char **argv)
{
    options o = {.window = 512};
    const ag_opt opts[] = {
        {"allow-requantize", 0, AG_OPT_FLAG, &o.again, 0, 0, "take weights that are quantized already"},
        {"force", 0, AG_OPT_FLAG, &o.force, 0, 0, "replace OUT if it is there"},
        {"pure", 0, AG_OPT_FLAG, &o.pure, 0, 0, "one type for all matrices, none with more bits"},
        {"check", 0, AG_OPT_TEXT, &o.check, 0, 0, "perplexity on this file before and after; - for stdin"},
        {"window", 'c', AG_OPT_U32, &o.window, 8, 1048576, "tokens of a window of --check [512]"},
        {"json", 0, AG_OPT_FLAG, &o.json, 0, 0, "one JSON object"},
    };
    ag_cli cli = {.usage = "quantize IN OUT TYPE [--check TEXT]",
                  .about = "Writes the model file IN as OUT with its matrices in TYPE: F32, F16, BF16, Q8_0, Q4_0,\n"
                           "Q4_1, Q5_0, Q5_1, Q4_K_S, Q4_K_M (also Q4_K), Q5_K_S, Q5_K_M (also Q5_K) or Q6_K.\n"
                           "OUT appears when it is whole.",
                  .opts = opts, .n_opts = AG_ARRAY_LEN(opts), .groups = "engine", .args_min = 3, .args_max = 3};
    int status = 0;
    if (ag_cli_parse(&cli, argc, argv, &status)) {
        ag_err err = {0};
        o.in = cli.args[0];
        o.out = cli.args[1];
        o.type = cli.args[2];
        run(&o, &cli.conf, &err);
        if (err.code) status = ag_cli_fail(argv[0], &err);
    }
    ag_cli_fini(&cli);
    if (interrupted && status != 0) { /* so that a shell's loop sees why we ended */
        signal((int)interrupted, SIG_DFL);
        raise((int)interrupted);
    }
    return status;
}
