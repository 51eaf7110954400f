#include "engine/sched/cost.h"

#include <math.h>

/* How far single steps scatter, as a share of their time; only how it compares with the doubt about figures matters. */
#define SCATTER 0.1
#define SEEN_MAX 32.0      /* steps that a figure is founded on at most: it follows changes within about as many */
#define SEEN_FEW 4.0       /* so few, and not long ago, are no proof of a figure that makes no sense */
#define SEEN_NEW 0.05      /* of a figure that is still guessed from its neighbours */
#define STALE 0.999        /* each step, of what other knots are founded on */
#define TOGETHER 0.005     /* share of an error that all figures bear alike: the machine as a whole has another speed */
#define USUAL_SHARED 0.125 /* what using a key once more costs, of what reading and using it does */
#define GIVE_UP 0.002      /* each step */
#define FORGET 0.99        /* each step, of what the rates are founded on */
#define CLIP 1.0           /* a step that took far longer than expected counts as twice the expected */
#define ROWS_MAX (1u << 24)
#define US_MAX UINT64_C(600000000) /* a step of ten minutes is a clock that jumped, or a machine that slept */

/* 1 2 3, then four to an octave: 4 5 6 7, 8 10 12 14, 16 20 24 28, ... */
#define OCTAVE(n) 4u << (n), 5u << (n), 6u << (n), 7u << (n)
static const uint32_t knot_rows[AG_COST_KNOTS] = {1,         2,          3,          OCTAVE(0), OCTAVE(1), OCTAVE(2),
                                                  OCTAVE(3), OCTAVE(4),  OCTAVE(5),  OCTAVE(6), OCTAVE(7), OCTAVE(8),
                                                  OCTAVE(9), OCTAVE(10), OCTAVE(11), OCTAVE(12)};

/* The last knot at or below so many rows. */
static uint32_t knot_below(uint32_t rows)
{
    if (rows < 4) return rows > 0 ? rows - 1 : 0;
    uint32_t octave = 29u - (uint32_t)__builtin_clz(rows); /* above that of 4 */
    return AG_MIN(3 + 4 * octave + (rows >> octave) % 4, AG_COST_KNOTS - 1u);
}

/* A table read at so many rows: between the measured knots around; above the last in proportion, so that what was never
 * tried is rather thought too dear; below the first as that. 0: nothing was measured. */
static double base_at(const ag_cost *c, const double *base, uint32_t rows)
{
    uint32_t below = knot_below(rows) + 1, above = below;
    while (below > 0 && c->seen[below - 1] <= 0) below--;
    while (above < AG_COST_KNOTS && c->seen[above] <= 0) above++;
    if (below == 0) return above == AG_COST_KNOTS ? 0 : base[above];
    double at = knot_rows[--below];
    if (above == AG_COST_KNOTS) return base[below] * rows / at;
    return base[below] + (base[above] - base[below]) * (rows - at) / (knot_rows[above] - at);
}

/* The least that rows above knot a cost each, by all that was measured there; in proportion, at most. */
static double slope_above(const ag_cost *c, uint32_t a, uint32_t from)
{
    double slope = c->base[a] / knot_rows[a];
    for (uint32_t i = from; i < AG_COST_KNOTS; i++)
        if (c->seen[i] > 0) slope = AG_MIN(slope, (c->base[i] - c->base[a]) / (knot_rows[i] - knot_rows[a]));
    return AG_MAX(slope, 0);
}

/* A figure that is founded on little and says that a few rows more are dearer than many more: most likely the machine
 * was taken away in that step, and who heeds it never takes so many rows again to find out. It is read as lying on
 * the straight line between its neighbours. */
static void base_try_again(ag_cost *c)
{
    uint32_t founded = AG_COST_KNOTS;
    for (uint32_t i = 0; i < AG_COST_KNOTS; i++) {
        if (c->seen[i] >= SEEN_FEW) founded = i;
        else if (c->seen[i] > 0 && founded < AG_COST_KNOTS)
            c->base[i] = AG_MIN(c->base[i], c->base[founded] + slope_above(c, founded, i + 1) *
                                                                   (knot_rows[i] - knot_rows[founded]));
    }
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
    base_try_again(c);
}

void ag_cost_init(ag_cost *c) { *c = (ag_cost){0}; }

/* What the rates count: keys that are read and used by one row; what further rows of the same sequence use of them;
 * rows with logits. In this form decodes say nothing of the second rate, and nothing said of it is held against
 * them. */
enum { READ, SHARED, OUTS };
typedef struct counts { double of[AG_COST_RATES]; } counts;

static counts counts_of(const ag_step_shape *s)
{
    return (counts){{(double)s->read, (double)(s->attended - s->read), s->outs}};
}

static double us_by(const ag_cost *c, const double *base, const ag_step_shape *s)
{
    if (c->steps == 0 || s->rows == 0) return 0;
    const counts x = counts_of(s);
    /* Where no prompt was seen yet, its rows are thought as dear as decodes. */
    double shared = c->doubt[SHARED] > 0 ? c->rate[SHARED] : c->rate[READ];
    return base_at(c, base, s->rows) + c->rate[READ] * x.of[READ] + shared * x.of[SHARED] + c->rate[OUTS] * x.of[OUTS];
}

double ag_cost_us(const ag_cost *c, const ag_step_shape *s) { return us_by(c, c->base, s); }

/* The knots that so many rows lie between, and the share of each. */
typedef struct place { uint32_t at[2], n; double w[2]; } place;

static place place_of(uint32_t rows)
{
    uint32_t i = knot_below(rows);
    if (i + 1 == AG_COST_KNOTS || rows == knot_rows[i]) return (place){.at = {i}, .n = 1, .w = {1}};
    double w = (double)(rows - knot_rows[i]) / (knot_rows[i + 1] - knot_rows[i]);
    return (place){.at = {i, i + 1}, .n = 2, .w = {1 - w, w}};
}

/* Knots come to be; what they say at first is what is read there now. */
static void knots_meet(ag_cost *c, const place *k, double guess)
{
    double value[2];
    for (uint32_t i = 0; i < k->n; i++) {
        double v = base_at(c, c->raw, knot_rows[k->at[i]]);
        value[i] = v > 0 ? v : guess;
    }
    for (uint32_t i = 0; i < k->n; i++) {
        if (c->seen[k->at[i]] > 0) continue;
        c->raw[k->at[i]] = value[i];
        c->seen[k->at[i]] = SEEN_NEW;
    }
}

/* The rates' doubt grows with time, but never over what explains a share of such a step: steps of one kind alone
 * cannot tell their rates from the table, which then has to bear the most of it. */
static void rates_doubt(ag_cost *c, double us, const counts *x)
{
    static const double share[AG_COST_RATES] = {0.2, 0.2, 0.05};
    for (int i = 0; i < AG_COST_RATES; i++) {
        if (x->of[i] <= 0) continue;
        double most = share[i] * us / x->of[i];
        if (i == SHARED && c->doubt[i] <= 0) c->rate[SHARED] = c->rate[READ];
        c->doubt[i] = c->doubt[i] > 0 ? AG_MIN(c->doubt[i] / FORGET, most * most) : most * most;
    }
}

/* What well-founded figures got wrong is first taken for the machine's speed: it changes for all of them. */
static void all_scale(ag_cost *c, const place *k, double wrong)
{
    double founded = 0;
    for (uint32_t i = 0; i < k->n; i++) founded += k->w[i] * c->seen[k->at[i]] / SEEN_MAX;
    double f = 1 + TOGETHER * founded * AG_MAX(AG_MIN(wrong, CLIP), -CLIP / 2);
    for (uint32_t i = 0; i < AG_COST_KNOTS; i++) c->raw[i] *= f;
    for (int i = 0; i < AG_COST_RATES; i++) c->rate[i] *= f;
}

/* A Kalman filter's step: the error is shared out between the knots and the rates by the doubt about each; that about
 * a knot follows from `seen`. */
static void learn(ag_cost *c, const place *k, const counts *x, double real, double guess)
{
    double e = AG_MIN(real - guess, CLIP * guess), scatter = SCATTER * AG_MIN(real, 2 * guess);
    double p[2] = {0}, sum = scatter * scatter;
    for (uint32_t i = 0; i < k->n; i++) {
        double doubt = SCATTER * c->raw[k->at[i]];
        p[i] = doubt * doubt / c->seen[k->at[i]];
        sum += k->w[i] * k->w[i] * p[i];
    }
    for (int i = 0; i < AG_COST_RATES; i++) sum += x->of[i] * x->of[i] * c->doubt[i];
    for (uint32_t i = 0; i < AG_COST_KNOTS; i++)
        if (c->seen[i] > 0) c->seen[i] = AG_MAX(c->seen[i] * STALE, SEEN_NEW);
    for (uint32_t i = 0; i < k->n; i++) {
        double *raw = &c->raw[k->at[i]], *seen = &c->seen[k->at[i]];
        *raw = AG_MAX(*raw + k->w[i] * p[i] / sum * e, 0.01 * real);
        *seen = AG_MIN(*seen + k->w[i], SEEN_MAX);
    }
    for (int i = 0; i < AG_COST_RATES; i++) {
        double gain = x->of[i] * c->doubt[i] / sum;
        c->rate[i] = AG_MAX(c->rate[i] + gain * e, 0);
        c->doubt[i] *= 1 - gain * x->of[i];
    }
    /* While nobody asks, what was learned of further uses is given up slowly for what is usual: one slow step might
     * have said it, and whoever heeds that takes one row a step for ever and never learns better. */
    double usual = USUAL_SHARED * c->rate[READ];
    if (x->of[SHARED] <= 0 && c->rate[SHARED] > usual) c->rate[SHARED] += GIVE_UP * (usual - c->rate[SHARED]);
}

void ag_cost_add(ag_cost *c, const ag_step_shape *s, uint64_t us)
{
    if (s->rows == 0 || s->outs > s->rows || s->attended < AG_MAX(s->rows, s->read) || us == 0 || us > US_MAX) return;
    double real = (double)us, guess = ag_cost_us(c, s);
    if (c->steps > 0) c->error += (fabs(guess - real) / real - c->error) / (double)AG_MIN(c->steps, UINT64_C(64));
    const counts x = counts_of(s);
    const place k = place_of(s->rows);
    knots_meet(c, &k, real);
    c->steps++;
    guess = us_by(c, c->raw, s);
    all_scale(c, &k, (real - guess) / guess);
    guess = us_by(c, c->raw, s);
    rates_doubt(c, guess, &x);
    learn(c, &k, &x, real, guess);
    base_monotone(c);
}

uint32_t ag_cost_rows(const ag_cost *c, const ag_step_shape *with, uint32_t pos, double limit_us, uint32_t max)
{
    if (c->steps == 0) return max;
    uint32_t least = 0; /* fits */
    for (uint32_t most = AG_MIN(max, ROWS_MAX); least < most;) {
        uint32_t n = most - (most - least) / 2;
        ag_step_shape s = *with;
        ag_step_shape_add(&s, pos, n);
        if (ag_cost_us(c, &s) <= limit_us) least = n;
        else most = n - 1;
    }
    return least;
}
