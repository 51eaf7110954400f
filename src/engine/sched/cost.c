#include "engine/sched/cost.h"

#include <math.h>

/* How far single steps scatter, as a share of their time; only how it compares with the doubt about figures matters. */
#define SCATTER 0.1
#define SEEN_MAX 32.0      /* steps that a figure is founded on at most */
#define SEEN_FEW 4.0       /* so few, and not long ago, are no proof of a figure that makes no sense */
#define WORTH_A_TRY 1.2    /* what the next knot is thought to take at most while it is not founded */
#define SEEN_NEW 0.05      /* of a figure that is still guessed from its neighbours */
#define STALE 0.998        /* each step, of what knots are founded on: a slow minute is not believed for ever */
#define TOGETHER 0.001     /* each step, how far all figures change alike */
#define APART 0.0003       /* and each that was used by itself, of the step's time */
#define USUAL_SHARED 0.125 /* what using a key once more costs, of what reading and using it does */
#define GIVE_UP 0.002      /* each step */
#define FORGET 0.9999      /* each step, of what the rates are founded on */
#define CLIP 1.0           /* a step that took far longer than expected counts as twice the expected */
#define TINY 1e-60         /* a covariance that is none; smaller numbers take long on some processors */
#define LEAST_US 1.0       /* of any step */
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
static double base_at(const double *base, uint32_t rows)
{
    uint32_t below = knot_below(rows) + 1, above = below;
    while (below > 0 && base[below - 1] <= 0) below--;
    while (above < AG_COST_KNOTS && base[above] <= 0) above++;
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
 * the straight line between its neighbours. And the next above a founded one is worth a try, whatever little it is
 * founded on itself: beside few streams a row more is a large step in proportion, and would never be taken. */
static void base_try_again(ag_cost *c)
{
    uint32_t founded = AG_COST_KNOTS;
    for (uint32_t i = 0; i < AG_COST_KNOTS; i++) {
        if (c->seen[i] >= SEEN_FEW) {
            founded = i;
            continue;
        }
        if (founded == AG_COST_KNOTS) continue;
        double line = c->base[founded] + slope_above(c, founded, i + 1) * (knot_rows[i] - knot_rows[founded]);
        if (c->seen[i] > 0) c->base[i] = AG_MIN(c->base[i], line);
        if (i == founded + 1)
            c->base[i] = AG_MIN(AG_MIN(base_at(c->base, knot_rows[i]), line), WORTH_A_TRY * c->base[founded]);
    }
}

/* More rows never take less time: neighbours that say otherwise are read as their mean, by what they are founded on.
 * What was measured stays as it is, or an error of the rates would hide in it. */
static void base_monotone(ag_cost *c)
{
    double value[AG_COST_KNOTS], weight[AG_COST_KNOTS];
    uint32_t first[AG_COST_KNOTS], n = 0;
    for (uint32_t i = 0; i < AG_COST_KNOTS; i++) {
        c->base[i] = 0;
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

/* Where a rate stands beside the knots. */
#define OF(rate) (AG_COST_KNOTS + (rate))
static bool known(const ag_cost *c, int rate) { return c->doubt[OF(rate)][OF(rate)] > 0; }

static double us_by(const ag_cost *c, const double *base, const ag_step_shape *s)
{
    if (c->steps == 0 || s->rows == 0) return 0;
    const counts x = counts_of(s);
    /* Where no prompt was seen yet, its rows are thought as dear as decodes. */
    double shared = known(c, SHARED) ? c->rate[SHARED] : c->rate[READ];
    return base_at(base, s->rows) + c->rate[READ] * x.of[READ] + shared * x.of[SHARED] + c->rate[OUTS] * x.of[OUTS];
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

/* Figures that are known at all: the others hang together with none, and take no time. */
typedef struct figures { uint32_t at[AG_COST_KNOTS + AG_COST_RATES], n; } figures;
static figures figures_of(const ag_cost *c)
{
    figures f = {.n = 0};
    for (uint32_t i = 0; i < AG_COST_KNOTS; i++)
        if (c->seen[i] > 0) f.at[f.n++] = i;
    for (uint32_t i = 0; i < AG_COST_RATES; i++) f.at[f.n++] = OF(i);
    return f;
}

static double *figure(ag_cost *c, uint32_t at)
{
    return at < AG_COST_KNOTS ? &c->raw[at] : &c->rate[at - AG_COST_KNOTS];
}

/* A figure becomes `value`, and the others what they are then, since it is sums of them that are known. */
static void becomes(ag_cost *c, const figures *f, uint32_t at, double value)
{
    double by = c->doubt[at][at] > 0 ? (value - *figure(c, at)) / c->doubt[at][at] : 0;
    for (uint32_t i = 0; i < f->n; i++) *figure(c, f->at[i]) += c->doubt[f->at[i]][at] * by;
    *figure(c, at) = value;
}

static void stay_above(ag_cost *c)
{
    for (uint32_t i = 0; i < AG_COST_KNOTS; i++)
        if (c->seen[i] > 0) c->raw[i] = AG_MAX(c->raw[i], LEAST_US);
}

/* No rate is below 0, and no figure that was just used below what is left for it. */
static void stay_possible(ag_cost *c, const figures *f, const place *k, double least)
{
    for (int i = 0; i < AG_COST_RATES; i++)
        if (c->rate[i] < 0) becomes(c, f, OF(i), 0);
    for (uint32_t i = 0; i < k->n; i++)
        if (c->raw[k->at[i]] < least) becomes(c, f, k->at[i], least);
    for (int i = 0; i < AG_COST_RATES; i++) c->rate[i] = AG_MAX(c->rate[i], 0);
    stay_above(c);
}

/* Something was seen that hangs together with each figure by so much. */
static void doubt_less(ag_cost *c, const figures *f, const double *by, double gain)
{
    for (uint32_t i = 0; i < f->n; i++)
        for (uint32_t n = 0; n < f->n; n++) {
            double *doubt = &c->doubt[f->at[i]][f->at[n]];
            *doubt -= by[i] * by[n] * gain;
            if (fabs(*doubt) < TINY || (i == n && *doubt < 0)) *doubt = 0;
        }
}

/* A figure's variance is at most so much: as if it had been seen to be 0, as surely as that takes. */
static void doubt_at_most(ag_cost *c, const figures *f, uint32_t at, double most)
{
    double was = c->doubt[at][at], by[AG_ARRAY_LEN(f->at)];
    if (was <= most) return;
    for (uint32_t i = 0; i < f->n; i++) by[i] = c->doubt[f->at[i]][at];
    becomes(c, f, at, *figure(c, at) * most / was);
    doubt_less(c, f, by, (was - most) / was / was);
}

static double doubt_new(double value, double us) { return AG_MAX(value, us) * AG_MAX(value, us); }

/* Is it beyond all that were measured? */
static bool beyond(const ag_cost *c, uint32_t knot)
{
    bool below = false, above = false;
    for (uint32_t i = 0; i < AG_COST_KNOTS; i++)
        if (c->seen[i] > 0) *(i < knot ? &below : &above) = true;
    return !below || !above;
}

/* Knots come to be. What they say at first is what is read there now, between others; beyond them that is no guess at
 * all, and they are what the rates leave of this step. */
static void knots_meet(ag_cost *c, const place *k, const counts *x, double real)
{
    double value[2] = {0}, said = 0, left = real, weight = 0;
    bool guess = true;
    for (int i = 0; i < AG_COST_RATES; i++) left -= c->rate[i] * x->of[i];
    for (uint32_t i = 0; i < k->n; i++) {
        uint32_t at = k->at[i];
        if (c->seen[at] > 0) {
            left -= k->w[i] * c->raw[at];
            continue;
        }
        value[i] = base_at(c->raw, knot_rows[at]);
        if (value[i] <= 0) value[i] = real;
        said += k->w[i] * value[i];
        weight += k->w[i];
        guess &= !beyond(c, at);
    }
    double factor = guess || said <= 0 ? 1 : AG_MIN(AG_MAX(left, 0.1 * weight * real) / said, 2);
    for (uint32_t i = 0; i < k->n; i++) {
        uint32_t at = k->at[i];
        if (c->seen[at] > 0) continue;
        c->raw[at] = factor * value[i];
        c->seen[at] = SEEN_NEW;
        c->doubt[at][at] = doubt_new(c->raw[at], real);
    }
}

/* The rates' doubt grows with time, but never over what explains a share of such a step: steps of one kind alone
 * cannot tell their rates from the table, which then has to bear the most of it. */
static void rates_doubt(ag_cost *c, double us, const counts *x)
{
    const figures f = figures_of(c);
    static const double share[AG_COST_RATES] = {0.2, 0.2, 0.05};
    for (int i = 0; i < AG_COST_RATES; i++) {
        if (x->of[i] <= 0) continue;
        double most = share[i] * us / x->of[i], *doubt = &c->doubt[OF(i)][OF(i)];
        if (i == SHARED && !known(c, i)) c->rate[i] = c->rate[READ];
        *doubt = *doubt > 0 ? *doubt / FORGET : most * most;
        doubt_at_most(c, &f, OF(i), most * most);
    }
}

/* So does that about knots: of those that were used as they drift apart, of all others with time. */
static void knots_doubt(ag_cost *c, const place *k, double us)
{
    for (uint32_t i = 0; i < AG_COST_KNOTS; i++) {
        if (c->seen[i] <= 0) continue;
        double most = doubt_new(c->raw[i], us);
        c->seen[i] = AG_MAX(c->seen[i] * STALE, SEEN_NEW);
        if (i != k->at[0] && i != k->at[k->n - 1] && c->doubt[i][i] < most)
            c->doubt[i][i] = AG_MIN(c->doubt[i][i] / (STALE * STALE), most);
    }
    double drift = APART * us;
    for (uint32_t i = 0; i < k->n; i++) {
        uint32_t at = k->at[i];
        c->seen[at] = AG_MIN(c->seen[at] + k->w[i], SEEN_MAX);
        c->doubt[at][at] += k->w[i] * drift * drift;
    }
}

/* The machine as a whole may have another speed than a step before: for all figures alike. */
static void speed_doubt(ag_cost *c, const figures *f)
{
    for (uint32_t i = 0; i < f->n; i++)
        for (uint32_t n = 0; n < f->n; n++)
            c->doubt[f->at[i]][f->at[n]] += TOGETHER * TOGETHER * *figure(c, f->at[i]) * *figure(c, f->at[n]);
}

/* A step of a Kalman filter (R. E. Kalman, A New Approach to Linear Filtering and Prediction Problems, 1960): the error
 * is shared out between the knots and the rates by the doubt about each. */
static void learn(ag_cost *c, const figures *f, const place *k, const counts *x, double real, double guess)
{
    double e = AG_MIN(real - guess, CLIP * guess), scatter = SCATTER * AG_MIN(real, 2 * guess);
    double by[AG_ARRAY_LEN(f->at)], sum = scatter * scatter; /* how the error hangs together with each figure */
    for (uint32_t i = 0; i < f->n; i++) {
        const double *doubt = c->doubt[f->at[i]];
        by[i] = 0;
        for (uint32_t n = 0; n < k->n; n++) by[i] += doubt[k->at[n]] * k->w[n];
        for (int n = 0; n < AG_COST_RATES; n++) by[i] += doubt[OF(n)] * x->of[n];
        for (uint32_t n = 0; n < k->n; n++) sum += f->at[i] == k->at[n] ? k->w[n] * by[i] : 0;
        if (f->at[i] >= AG_COST_KNOTS) sum += x->of[f->at[i] - AG_COST_KNOTS] * by[i];
    }
    sum = AG_MAX(sum, scatter * scatter);
    for (uint32_t i = 0; i < f->n; i++) *figure(c, f->at[i]) += by[i] / sum * e;
    doubt_less(c, f, by, 1 / sum);
    stay_possible(c, f, k, 0.01 * real);
    /* While nobody asks, what was learned of further uses is given up slowly for what is usual: one slow step might
     * have said it, and whoever heeds that takes one row a step for ever and never learns better. */
    double usual = USUAL_SHARED * c->rate[READ];
    double less = GIVE_UP * (c->rate[SHARED] - usual), *doubt = &c->doubt[OF(SHARED)][OF(SHARED)];
    if (x->of[SHARED] > 0 || less <= 0) return;
    c->rate[SHARED] -= less;
    *doubt = (sqrt(*doubt) + less) * (sqrt(*doubt) + less);
}

void ag_cost_add(ag_cost *c, const ag_step_shape *s, uint64_t us)
{
    if (s->rows == 0 || s->outs > s->rows || s->attended < AG_MAX(s->rows, s->read) || us == 0 || us > US_MAX) return;
    double real = (double)us, guess = ag_cost_us(c, s);
    if (c->steps > 0) c->error += (fabs(guess - real) / real - c->error) / (double)AG_MIN(c->steps, UINT64_C(64));
    const counts x = counts_of(s);
    const place k = place_of(s->rows);
    rates_doubt(c, c->steps > 0 ? AG_MIN(guess, real) : real, &x);
    stay_above(c);
    knots_meet(c, &k, &x, real);
    c->steps++;
    guess = AG_MAX(us_by(c, c->raw, s), 0.01 * real);
    const figures f = figures_of(c);
    speed_doubt(c, &f);
    knots_doubt(c, &k, AG_MIN(guess, real));
    learn(c, &f, &k, &x, real, guess);
    base_monotone(c);
}

double ag_cost_founded(const ag_cost *c, uint32_t rows)
{
    const place k = place_of(rows);
    return AG_MIN(c->seen[k.at[0]], c->seen[k.at[k.n - 1]]);
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
