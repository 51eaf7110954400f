#include "engine/sched/cost.h"

#include <math.h>

/* How far single steps scatter, as a share of their time; only how it compares with the doubt about figures matters. */
#define SCATTER 0.1
#define SEEN_MAX 32.0      /* steps that a figure is founded on at most: it follows changes within about as many */
#define SEEN_NEW 0.05      /* of a figure that is still guessed from its neighbours */
#define STALE 0.999        /* each step, of what other knots are founded on */
#define TOGETHER 0.03      /* share of an error that all figures bear alike: the machine as a whole has another speed */
#define FORGET 0.998       /* each step, of what the rates are founded on */
#define CLIP 1.0           /* a step that took far longer than expected counts as twice the expected */
#define ROWS_MAX (1u << 24)
#define US_MAX UINT64_C(600000000) /* a step of ten minutes is a clock that jumped, or a machine that slept */

/* 1 2 3, then four to an octave: 4 5 6 7, 8 10 12 14, 16 20 24 28, ... */
static double knot_rows(uint32_t i)
{
    if (i < 3) return i + 1;
    uint32_t k = i - 3;
    return (double)(UINT64_C(1) << k / 4) * (4 + k % 4);
}

/* The last knot at or below so many rows. */
static uint32_t knot_below(double rows)
{
    uint32_t i = 0;
    while (i + 1 < AG_COST_KNOTS && knot_rows(i + 1) <= rows) i++;
    return i;
}

/* A table read at so many rows: between the measured knots around; above the last in proportion, so that what was never
 * tried is rather thought too dear; below the first as that. 0: nothing was measured. */
static double base_at(const ag_cost *c, const double *base, double rows)
{
    uint32_t below = AG_COST_KNOTS, above = AG_COST_KNOTS;
    for (uint32_t i = 0; i < AG_COST_KNOTS && above == AG_COST_KNOTS; i++) {
        if (c->seen[i] <= 0) continue;
        if (knot_rows(i) <= rows) below = i;
        else above = i;
    }
    if (below == AG_COST_KNOTS) return above == AG_COST_KNOTS ? 0 : base[above];
    double at = knot_rows(below);
    if (above == AG_COST_KNOTS) return base[below] * rows / at;
    return base[below] + (base[above] - base[below]) * (rows - at) / (knot_rows(above) - at);
}

/* More rows never take less time: neighbours that say otherwise are read as their mean, by what they are founded on.
 * What was measured stays as it is, or an error of the rates would hide in it. */
static void base_monotone(ag_cost *c)
{
    double value[AG_COST_KNOTS], weight[AG_COST_KNOTS];
    uint32_t first[AG_COST_KNOTS], n = 0;
    for (uint32_t i = 0; i < AG_COST_KNOTS; i++) {
        if (c->seen[i] <= 0) continue;
        value[n] = c->raw[i];
        weight[n] = c->seen[i];
        first[n++] = i;
        for (; n > 1 && value[n - 2] > value[n - 1]; n--) {
            double w = weight[n - 2] + weight[n - 1];
            value[n - 2] = (value[n - 2] * weight[n - 2] + value[n - 1] * weight[n - 1]) / w;
            weight[n - 2] = w;
        }
    }
    for (uint32_t k = 0; k < n; k++)
        for (uint32_t i = first[k]; i < (k + 1 < n ? first[k + 1] : AG_COST_KNOTS); i++)
            if (c->seen[i] > 0) c->base[i] = value[k];
}

void ag_cost_init(ag_cost *c) { *c = (ag_cost){0}; }

static double us_by(const ag_cost *c, const double *base, const ag_step_shape *s)
{
    if (c->steps == 0 || s->rows == 0) return 0;
    return base_at(c, base, s->rows) + c->per_key * (double)s->attended + c->per_out * s->outs;
}

double ag_cost_us(const ag_cost *c, const ag_step_shape *s) { return us_by(c, c->base, s); }

/* The knots around so many rows come to be; what they say at first is what is read there now. */
static void knots_meet(ag_cost *c, const uint32_t *at, uint32_t n, double guess)
{
    double value[2];
    for (uint32_t i = 0; i < n; i++) {
        double v = base_at(c, c->raw, knot_rows(at[i]));
        value[i] = v > 0 ? v : guess;
    }
    for (uint32_t i = 0; i < n; i++) {
        if (c->seen[at[i]] > 0) continue;
        c->raw[at[i]] = value[i];
        c->seen[at[i]] = SEEN_NEW;
    }
}

/* The rates' doubt grows with time, but never over what explains a share of such a step: steps of one kind alone
 * cannot tell their rates from the table, which then has to bear the most of it. */
static void rates_doubt(ag_cost *c, double us, const double x[2])
{
    static const double share[2] = {0.2, 0.05};
    for (int i = 0; i < 2; i++) {
        if (x[i] <= 0) continue;
        double most = share[i] * us / x[i];
        c->doubt[i] = c->doubt[i] > 0 ? AG_MIN(c->doubt[i] / FORGET, most * most) : most * most;
    }
}

/* What well-founded figures got wrong is first taken for the machine's speed: it changes for all of them. */
static void all_scale(ag_cost *c, double share)
{
    double f = 1 + TOGETHER * share;
    for (uint32_t i = 0; i < AG_COST_KNOTS; i++) c->raw[i] *= f;
    c->per_key *= f;
    c->per_out *= f;
}

/* A Kalman filter's step: the error is shared out between the two knots and the two rates by the doubt about each; doubt
 * about knots is independent and follows from `seen`, that about rates is `cov`. */
void ag_cost_add(ag_cost *c, const ag_step_shape *s, uint64_t us)
{
    if (s->rows == 0 || s->outs > s->rows || s->attended < s->rows || us == 0 || us > US_MAX) return;
    double rows = s->rows, real = (double)us;
    double x[2] = {(double)s->attended, (double)s->outs};
    double guess = ag_cost_us(c, s);
    if (c->steps > 0) c->error += (fabs(guess - real) / real - c->error) / (double)AG_MIN(c->steps, UINT64_C(64));
    uint32_t at[2] = {knot_below(rows), 0}, n = 1;
    double w[2] = {1, 0};
    if (at[0] + 1 < AG_COST_KNOTS && rows > knot_rows(at[0])) {
        at[1] = at[0] + 1;
        n = 2;
        w[1] = (rows - knot_rows(at[0])) / (knot_rows(at[1]) - knot_rows(at[0]));
        w[0] = 1 - w[1];
    }
    knots_meet(c, at, n, real);
    c->steps++;
    guess = us_by(c, c->raw, s);
    double founded = (w[0] * c->seen[at[0]] + w[1] * c->seen[at[1]]) / SEEN_MAX;
    all_scale(c, founded * AG_MAX(AG_MIN((real - guess) / guess, CLIP), -CLIP / 2));
    guess = us_by(c, c->raw, s);
    double e = AG_MIN(real - guess, CLIP * guess), doubt = SCATTER * AG_MIN(real, 2 * guess);
    rates_doubt(c, guess, x);

    double p[2] = {0}, sum = doubt * doubt;
    for (uint32_t i = 0; i < n; i++) {
        p[i] = SCATTER * SCATTER * c->raw[at[i]] * c->raw[at[i]] / c->seen[at[i]];
        sum += w[i] * w[i] * p[i];
    }
    for (int i = 0; i < 2; i++) sum += x[i] * x[i] * c->doubt[i];

    for (uint32_t i = 0; i < AG_COST_KNOTS; i++)
        if (c->seen[i] > 0) c->seen[i] = AG_MAX(c->seen[i] * STALE, SEEN_NEW);
    for (uint32_t i = 0; i < n; i++) {
        c->raw[at[i]] = AG_MAX(c->raw[at[i]] + w[i] * p[i] / sum * e, 0.01 * real);
        c->seen[at[i]] = AG_MIN(c->seen[at[i]] + w[i], SEEN_MAX);
    }
    double *rate[2] = {&c->per_key, &c->per_out};
    for (int i = 0; i < 2; i++) {
        double gain = x[i] * c->doubt[i] / sum;
        *rate[i] = AG_MAX(*rate[i] + gain * e, 0);
        c->doubt[i] *= 1 - gain * x[i];
    }
    base_monotone(c);
}

uint32_t ag_cost_rows(const ag_cost *c, const ag_step_shape *with, uint32_t pos, double limit_us, uint32_t max)
{
    if (c->steps == 0) return max;
    uint32_t least = 0; /* fits */
    for (uint32_t most = AG_MIN(max, ROWS_MAX); least < most;) {
        uint32_t n = most - (most - least) / 2;
        ag_step_shape s = {with->rows + n, with->outs, with->attended + ag_cost_attended(pos, n)};
        if (ag_cost_us(c, &s) <= limit_us) least = n;
        else most = n - 1;
    }
    return least;
}
