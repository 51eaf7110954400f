/* cost.h - how long a step will take: a model fitted while running, from the steps that really ran.
 * A step's time is, to a good approximation, a function of its rows (flat while weights are read from memory, rising
 * where arithmetic bounds it) plus rates times the keys that it reads, those that its rows attend to, and logits. Keys
 * are counted twice because they cost twice: memory gives those of a sequence once for all of its rows in the step, and
 * each row multiplies each of them; with one rate for both, a few rows of a long prompt looked as cheap as many. The
 * first is a table over rows in steps of about a quarter, read with interpolation and kept monotonic; all are fitted
 * together by a Kalman filter that knows how their errors hang together: a hundred steps of four streams tell the sum
 * of a knot and of what their keys cost, not the two apart, until the streams have grown. All forgets, so that a
 * machine whose neighbours change is followed.
 * Pure: times come in.
 * Owns    : nothing but itself; a plain value.
 * Threads : one at a time.
 * Limits  : none; every input is taken, absurd ones (zero rows, a clock that jumped) are left out.
 * Errors  : none. Before anything was measured, predictions are 0: unknown. */
#ifndef AG_COST_H
#define AG_COST_H

#include "base/base.h"

typedef struct ag_step_shape {
    uint32_t rows;      /* all rows */
    uint32_t outs;      /* rows with logits */
    uint64_t attended;  /* keys attended to, summed over rows */
    uint64_t read;      /* keys of the sequences that have rows, each sequence's once */
} ag_step_shape;

/* Adds n rows of a sequence that has pos tokens behind it. */
static inline void ag_step_shape_add(ag_step_shape *s, uint32_t pos, uint32_t n)
{
    s->rows += n;
    s->attended += (uint64_t)n * pos + (uint64_t)n * (n + 1) / 2;
    s->read += n > 0 ? (uint64_t)pos + n : 0;
}
/* A step of so many rows that all decode, behind contexts as long as those of s on average. */
static inline ag_step_shape ag_step_shape_scaled(const ag_step_shape *s, uint32_t rows)
{
    return (ag_step_shape){rows, rows, s->attended / s->rows * rows, s->read / s->rows * rows};
}

#define AG_COST_RATES 3
#define AG_COST_KNOTS 55
typedef struct ag_cost {
    double raw[AG_COST_KNOTS];  /* microseconds at knot i, as measured */
    double base[AG_COST_KNOTS]; /* the same, made monotonic */
    double seen[AG_COST_KNOTS]; /* how much the figure is founded on */
    double rate[AG_COST_RATES]; /* microseconds; see cost.c for what of */
    /* Covariances of raw, then rate; 0 for those not seen yet. */
    double doubt[AG_COST_KNOTS + AG_COST_RATES][AG_COST_KNOTS + AG_COST_RATES];
    uint64_t steps;
    double error;       /* moving mean of |predicted - real| / real */
} ag_cost;

void ag_cost_init(ag_cost *c);
/* One step of that shape took so long. */
void ag_cost_add(ag_cost *c, const ag_step_shape *s, uint64_t us);
/* Microseconds; 0: nothing is known yet. */
double ag_cost_us(const ag_cost *c, const ag_step_shape *s);
/* So many steps of so many rows, or as good as that many, are behind what it says of such a step; at most 32. */
double ag_cost_founded(const ag_cost *c, uint32_t rows);
/* The most rows, at most max, of a sequence that has `pos` tokens behind it, that may be added to `with` so that the
 * step stays within limit_us. 0: not one. Unknown costs: max. */
uint32_t ag_cost_rows(const ag_cost *c, const ag_step_shape *with, uint32_t pos, double limit_us, uint32_t max);

#endif
