/* scenario.c - a scenario's files, and step times out of what a benchmark measured. */
#include "sim/scenario.h"

#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/buf.h"
#include "base/fault.h"

#define TOKENS_MAX 0x1p30 /* in the caches of all machines: their tables take 5 GB then */

static int read_file(const char *path, ag_buf *out, ag_err *err)
{
    FILE *f = ag_fault_hit(AG_FAULT_OPEN) ? NULL : fopen(path, "rbe");
    if (f == NULL) return ag_err_set(err, AG_E_IO, "%s: cannot be opened: %s", path, strerror(errno));
    for (size_t got = 1; got > 0 && out->n <= AG_SCENARIO_BYTES_MAX && ag_buf_room(out, 4096);) {
        got = fread(out->p + out->n, 1, 4096, f);
        out->n += got;
    }
    int rc = AG_OK;
    if (ferror(f) || ag_fault_hit(AG_FAULT_READ))
        rc = ag_err_set(err, AG_E_IO, "%s: cannot be read: %s", path, strerror(errno));
    else if (out->n > AG_SCENARIO_BYTES_MAX)
        rc = ag_err_set(err, AG_E_USAGE, "%s: over %u bytes; a scenario is smaller", path, AG_SCENARIO_BYTES_MAX);
    else if (out->failed)
        rc = ag_err_set(err, AG_E_NOMEM, "%s: no memory to read it", path);
    fclose(f);
    return rc;
}

int ag_scenario_read(ag_scenario *out, const char *path, ag_err *err)
{
    ag_buf text;
    ag_buf_init(&text, AG_SCENARIO_BYTES_MAX + 2 * 4096);
    int rc = read_file(path, &text, err);
    if (rc == AG_OK) rc = ag_scenario_parse(out, path, ag_buf_str(&text), err);
    ag_buf_fini(&text);
    return rc;
}

int ag_scenario_machines(ag_scenario *s, uint32_t n, ag_err *err)
{
    double tokens = (double)s->sched.pages * s->sched.page_tokens * n;
    if (tokens > TOKENS_MAX)
        return ag_err_set(err, AG_E_USAGE, "machines: %u with caches of %.3g tokens in all; %.3g are enough", n, tokens,
                          TOKENS_MAX);
    s->machines = n;
    return AG_OK;
}

/* --- step times --------------------------------------------------------------------------------------------------- */

#define POINTS_MAX 1024

typedef struct point { double rows, attended, read, us; } point; /* of one step */

static bool positive(const json_t *o, const char *key, double max, double *out)
{
    const json_t *v = json_object_get(o, key);
    *out = json_is_number(v) ? json_number_value(v) : 0;
    return *out > 0 && *out <= max;
}

/* A prompt runs in one step or several: so many as its rate and a step's time say. */
static bool prefill_point(const json_t *o, point *p)
{
    double tokens, rate, ms;
    if (!positive(o, "tokens", 1e8, &tokens) || !positive(o, "tok_s", 1e12, &rate) || !positive(o, "step_ms", 1e9, &ms))
        return false;
    double steps = fmax(round(tokens / rate * 1e3 / ms), 1);
    *p = (point){tokens / steps, tokens * (tokens + 1) / 2 / steps, tokens * (steps + 1) / 2 / steps, ms * 1e3};
    return true;
}

static bool decode_point(const json_t *o, point *p)
{
    double batch, context, tokens, ms;
    if (!positive(o, "batch", 1e6, &batch) || !positive(o, "step_ms", 1e9, &ms)) return false;
    positive(o, "context", 1e8, &context); /* neither needs to be there, and 0 is right */
    positive(o, "tokens", 1e8, &tokens);   /* the piece of a prompt in it */
    if (!(context >= 0 && context <= 1e8 && tokens >= 0 && tokens <= 1e8)) return false;
    double decoded = batch * (context + 1);
    *p = (point){batch + tokens, decoded + tokens * (tokens + 1) / 2, decoded + tokens, ms * 1e3};
    return true;
}

static uint32_t points_of(const json_t *root, point *out)
{
    static const char *const lists[] = {"prefill", "decode", "mixed"};
    uint32_t n = 0;
    for (uint32_t k = 0; k < AG_ARRAY_LEN(lists); k++) {
        const json_t *list = json_object_get(root, lists[k]);
        for (size_t i = 0; i < json_array_size(list) && n < POINTS_MAX; i++) {
            const json_t *o = json_array_get(list, i);
            n += k == 0 ? prefill_point(o, &out[n]) : decode_point(o, &out[n]);
        }
    }
    return n;
}

static int by_rows(const void *a, const void *b)
{
    double x = ((const point *)a)->rows, y = ((const point *)b)->rows;
    return (x > y) - (x < y);
}

/* What a key attended to costs, and one read: the slopes common to all groups of steps with the same rows, by least
 * squares. Where the two go together, as in decodes alone, or one would be negative, the keys attended to bear it. */
static void keys_us(const point *p, uint32_t n, ag_sim_machine *out)
{
    double aa = 0, ar = 0, rr = 0, au = 0, ru = 0;
    for (uint32_t i = 0, j; i < n; i = j) {
        double attended = 0, read = 0, us = 0;
        for (j = i; j < n && p[j].rows == p[i].rows; j++)
            attended += p[j].attended, read += p[j].read, us += p[j].us;
        for (uint32_t k = i; k < j; k++) {
            double a = p[k].attended - attended / (j - i), r = p[k].read - read / (j - i), u = p[k].us - us / (j - i);
            aa += a * a, ar += a * r, rr += r * r, au += a * u, ru += r * u;
        }
    }
    double det = aa * rr - ar * ar;
    out->per_key_us = det > 1e-3 * aa * rr ? (au * rr - ru * ar) / det : 0;
    out->per_read_us = det > 1e-3 * aa * rr ? (ru * aa - au * ar) / det : 0;
    if (out->per_key_us > 0 && out->per_read_us > 0) return;
    out->per_key_us = aa > 0 ? fmax(au / aa, 0) : 0;
    out->per_read_us = 0;
}

int ag_scenario_bench_of(ag_sim_machine *out, const char *path, ag_str text, ag_err *err)
{
    point p[POINTS_MAX], knots[POINTS_MAX];
    json_error_t at;
    json_t *root = json_loadb(text.p != NULL ? text.p : "", text.n, JSON_REJECT_DUPLICATES, &at);
    if (root == NULL) return ag_err_set(err, AG_E_USAGE, "%s:%d: not JSON: %s", path, at.line, at.text);
    uint32_t n = points_of(root, p), n_knots = 0;
    json_decref(root);
    if (n == 0)
        return ag_err_set(err, AG_E_USAGE, "%s: no step times; it should be what `autoglm bench --json` prints", path);
    qsort(p, n, sizeof *p, by_rows);
    *out = (ag_sim_machine){0};
    keys_us(p, n, out);
    double least = 1; /* more rows never take less time: what measured so is noise */
    for (uint32_t i = 0, j; i < n; i = j) {
        double us = 0;
        for (j = i; j < n && p[j].rows == p[i].rows; j++)
            us += p[j].us - out->per_key_us * p[j].attended - out->per_read_us * p[j].read;
        least = fmax(least, us / (j - i));
        knots[n_knots++] = (point){.rows = fmax(round(p[i].rows), 1), .us = least};
    }
    uint32_t keep = AG_MIN(n_knots, (uint32_t)AG_SIM_KNOTS);
    for (uint32_t i = 0; i < keep; i++) {
        const point *k = &knots[keep == 1 ? 0 : i * (n_knots - 1) / (keep - 1)];
        if (out->n_knots > 0 && (uint32_t)k->rows == out->knot[out->n_knots - 1].rows) continue;
        out->knot[out->n_knots].rows = (uint32_t)k->rows;
        out->knot[out->n_knots++].us = k->us;
    }
    return AG_OK;
}

int ag_scenario_bench(ag_sim_machine *out, const char *path, ag_err *err)
{
    ag_buf text;
    ag_buf_init(&text, AG_SCENARIO_BYTES_MAX + 2 * 4096);
    int rc = read_file(path, &text, err);
    if (rc == AG_OK) rc = ag_scenario_bench_of(out, path, ag_buf_str(&text), err);
    ag_buf_fini(&text);
    return rc;
}
