/* bench.h - what `autoglm bench` measures: pieces of work, the bytes and operations in them, and how they are printed.
 * Owns    : nothing; models are borrowed.
 * Threads : one.
 * Limits  : AG_BENCH_LINES_MAX pieces of work, AG_BENCH_REPEATS_MAX turns of each.
 * Errors  : none. */
#ifndef AG_BENCH_H
#define AG_BENCH_H

#include "cli/direct.h"

#define AG_BENCH_LIST_MAX 16
#define AG_BENCH_LINES_MAX (AG_BENCH_LIST_MAX + 2 * AG_BENCH_LIST_MAX * AG_BENCH_LIST_MAX)
#define AG_BENCH_REPEATS_MAX 99

/* Bytes are counted once a step: weights, and the keys and values of the tokens attended to, as often as there are
 * sequences. Operations are multiply-adds, two each: int8 those of quantized weights, the rest float. */
typedef struct ag_bench_cost {
    uint64_t steps, rows, weight_bytes, kv_bytes, int8_ops, float_ops;
} ag_bench_cost;
void ag_bench_cost_add(ag_bench_cost *c, const ag_lm *lm, const ag_batch *step);

typedef enum ag_bench_kind { AG_BENCH_PREFILL, AG_BENCH_DECODE, AG_BENCH_MIXED } ag_bench_kind;

typedef struct ag_bench_line {
    ag_bench_kind kind;
    uint32_t tokens;         /* of the prompt; MIXED: of the piece of it that a step takes */
    uint32_t batch, context; /* sequences that decode, and what they have behind them */
    ag_bench_cost cost;      /* of one turn */
    double seconds;          /* of one turn: the median */
} ag_bench_line;

double ag_bench_rate(const ag_bench_line *l); /* tokens a second */
double ag_bench_median(double *v, uint32_t n); /* sorts v */

/* `peak` is NULL where the machine was not measured. */
void ag_bench_print_head(const ag_cpu_peak *peak);
void ag_bench_print_line(const ag_bench_line *l, const ag_cpu_peak *peak);
/* "prefill":[],"decode":[],"mixed":[] */
void ag_bench_json_lines(const ag_bench_line *lines, uint32_t n, const ag_cpu_peak *peak);
void ag_bench_line_name(const ag_bench_line *l, char *out, size_t size);

#endif
