#include "engine/sampler.h"

#include <math.h>
#include <stdlib.h>

#include "base/mem.h"

#define SAMPLER_MAGIC 0x53414d50u
/* Grain of the running sum that a draw walks: one vector pass over the vocabulary finds the block, a second the
 * token. */
#define DRAW_BLOCK 1024u
#define PENALIZED_MAX 1e30f

typedef struct cand { float x; int32_t id; } cand; /* x: logit over temperature */

struct ag_sampler {
    uint32_t magic;
    uint32_t vocab;
    const ag_cpu_ops *ops;
    float *work;   /* vocab */
    cand *cands;   /* vocab */
    cand *picked;  /* vocab */
    uint64_t *allowed; /* a bit for each of vocab */
};

int ag_sampler_open(ag_sampler **out, const ag_cpu_ops *ops, uint32_t vocab, ag_err *err)
{
    ag_sampler *s = ag_mem_zalloc(sizeof *s);
    if (s) {
        s->magic = SAMPLER_MAGIC;
        s->vocab = vocab;
        s->ops = ops;
        s->work = ag_mem_aligned(64, vocab * sizeof *s->work);
        s->cands = ag_mem_array(vocab, sizeof *s->cands);
        s->picked = ag_mem_array(vocab, sizeof *s->picked);
        s->allowed = ag_mem_array((vocab + 63) / 64, sizeof *s->allowed);
    }
    if (s == NULL || !s->work || !s->cands || !s->picked || !s->allowed) {
        if (s) ag_sampler_close(s);
        return ag_err_set(err, AG_E_NOMEM, "no memory to sample from %u tokens", vocab);
    }
    *out = s;
    return AG_OK;
}

void ag_sampler_close(ag_sampler *s)
{
    if (s == NULL) return;
    AG_CHECK(s, SAMPLER_MAGIC);
    s->magic = 0;
    ag_mem_free(s->work);
    ag_mem_free(s->cands);
    ag_mem_free(s->picked);
    ag_mem_free(s->allowed);
    ag_mem_free(s);
}

double ag_sampler_uniform(uint64_t seed, uint32_t choice, uint64_t position)
{
    return (double)(ag_mix64(ag_mix64(ag_mix64(seed) ^ choice) ^ position) >> 11) * 0x1p-53;
}

bool ag_sampling_has_penalties(const ag_sampling *s)
{
    return s->repetition_penalty != 1 || s->frequency_penalty != 0 || s->presence_penalty != 0;
}

/* The better first: larger x, then lower id. */
static bool better(cand a, cand b) { return a.x > b.x || (a.x == b.x && a.id < b.id); }

static void sift(cand *h, uint32_t n, uint32_t i)
{
    for (;;) {
        uint32_t best = i, l = 2 * i + 1, r = l + 1;
        if (l < n && better(h[l], h[best])) best = l;
        if (r < n && better(h[r], h[best])) best = r;
        if (best == i) return;
        cand t = h[i];
        h[i] = h[best];
        h[best] = t;
        i = best;
    }
}

static void heapify(cand *h, uint32_t n)
{
    for (uint32_t i = n / 2; i-- > 0;) sift(h, n, i);
}

static cand heap_pop(cand *h, uint32_t *n)
{
    cand top = h[0];
    h[0] = h[--*n];
    sift(h, *n, 0);
    return top;
}

/* Best `want` of the logits as they are, by a small sorted list: want is at most 20. */
static uint32_t best_of(const float *x, uint32_t n, uint32_t want, cand *out)
{
    uint32_t have = 0;
    for (uint32_t i = 0; i < n && want > 0; i++) {
        cand c = {x[i], (int32_t)i};
        if (have == want && !better(c, out[have - 1])) continue;
        uint32_t at = have < want ? have++ : have - 1;
        while (at > 0 && better(c, out[at - 1])) {
            out[at] = out[at - 1];
            at--;
        }
        out[at] = c;
    }
    return have;
}

/* What argmax makes of a NaN hangs on where it stands, so that all of them are looked at: as integers, which compilers
 * turn into vectors (5 us for 49,152). Minus infinity, which is let pass, is looked for only where anything is odd. */
static bool all_numbers(const float *x, uint32_t n)
{
    uint32_t odd = 0;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, &x[i], sizeof bits);
        odd |= 0x7f7fffffu - (bits & 0x7fffffffu); /* the sign: its exponent is all ones */
    }
    for (uint32_t i = 0; odd >> 31 && i < n; i++)
        if (!isfinite(x[i]) && x[i] != -INFINITY) return false;
    return true;
}

int ag_sampler_score(ag_sampler *s, const float *logits, int32_t id, int32_t top, ag_sample *out)
{
    AG_CHECK(s, SAMPLER_MAGIC);
    AG_ASSERT(top >= 0 && top <= AG_GEN_TOP_MAX && (uint32_t)id < s->vocab);
    if (!all_numbers(logits, s->vocab)) return AG_E_INTERNAL;
    float max = logits[s->ops->argmax(logits, s->vocab)];
    double log_sum = (double)max + log((double)s->ops->max_exp_sum(logits, s->vocab, max));
    if (!isfinite(log_sum)) return AG_E_INTERNAL;
    cand best[AG_GEN_TOP_MAX];
    out->id = id;
    out->logprob = (float)((double)logits[id] - log_sum);
    out->n_top = best_of(logits, s->vocab, (uint32_t)top, best);
    for (uint32_t i = 0; i < out->n_top; i++)
        out->top[i] = (ag_gen_top){best[i].id, (float)((double)best[i].x - log_sum)};
    return AG_OK;
}

/* Takes away what is no JSON, 64 tokens at a time: inside of a string nearly all are. */
static void keep_json(ag_sampler *s, const ag_sample_in *in, float *x)
{
    ag_json_allow(in->json, in->json_at, in->left, s->allowed, s->vocab);
    for (uint32_t i = 0; i < s->vocab; i += 64) {
        uint64_t bits = s->allowed[i / 64];
        if (bits == UINT64_MAX) continue;
        for (uint32_t k = 0; k < 64 && i + k < s->vocab; k++)
            if (!(bits >> k & 1)) x[i + k] = -INFINITY;
    }
}

/* The logits with biases, penalties and bans, in s->work where anything changes them. */
static const float *adjust(ag_sampler *s, const ag_sample_in *in)
{
    const ag_sampling *p = in->sampling;
    if (in->n_bias == 0 && in->counts == NULL && in->n_banned == 0 && in->json == NULL) return in->logits;
    float *x = s->work;
    memcpy(x, in->logits, s->vocab * sizeof *x);
    for (uint32_t i = 0; i < in->n_bias; i++) x[in->bias[i].id] += in->bias[i].bias;
    if (in->counts)
        for (uint32_t i = 0; i < s->vocab; i++) {
            uint32_t n = in->counts[i];
            bool seen = n > 0 || (in->in_prompt[i / 8] >> i % 8 & 1);
            /* Bounded, since a penalty near 0 would make a logit infinite and look like a damaged model. */
            if (seen && p->repetition_penalty != 1)
                x[i] = x[i] > 0 ? fminf(x[i] / p->repetition_penalty, PENALIZED_MAX) : x[i] * p->repetition_penalty;
            if (n > 0) x[i] -= (float)n * p->frequency_penalty + p->presence_penalty;
        }
    for (uint32_t i = 0; i < in->n_banned; i++) x[in->banned[i]] = -INFINITY;
    if (in->json) keep_json(s, in, x);
    return x;
}

static int32_t draw_all(const ag_sampler *s, const float *x, float max, double u)
{
    double sums[AG_ALIGN_UP(1048576u, DRAW_BLOCK) / DRAW_BLOCK], all = 0;
    uint32_t blocks = (s->vocab + DRAW_BLOCK - 1) / DRAW_BLOCK;
    AG_ASSERT(blocks <= AG_ARRAY_LEN(sums));
    for (uint32_t i = 0; i < blocks; i++) {
        sums[i] = (double)s->ops->max_exp_sum(x + i * DRAW_BLOCK, AG_MIN(DRAW_BLOCK, s->vocab - i * DRAW_BLOCK), max);
        all += sums[i];
    }
    double want = u * all, at = 0;
    uint32_t b = 0;
    while (b + 1 < blocks && at + sums[b] <= want) at += sums[b++];
    int32_t last = -1;
    for (uint32_t i = b * DRAW_BLOCK; i < AG_MIN((b + 1) * DRAW_BLOCK, s->vocab); i++) {
        if (x[i] - max < -90) continue; /* of which the exponential is none */
        double e = (double)s->ops->max_exp_sum(x + i, 1, max);
        if (e <= 0) continue;
        last = (int32_t)i;
        at += e;
        if (at > want) break;
    }
    return last >= 0 ? last : (int32_t)s->ops->argmax(x, s->vocab); /* rounding at a block's end */
}

static double prob(cand c, float max) { return exp((double)c.x - (double)max); }

/* Keeps the tokens whose surprise is nearest to the entropy (Meister et al. 2022). `p` is sorted; it stays sorted. */
static uint32_t filter_typical(cand *p, uint32_t n, float max, float typical)
{
    double all = 0, entropy = 0;
    for (uint32_t i = 0; i < n; i++) all += prob(p[i], max);
    for (uint32_t i = 0; i < n; i++) {
        double q = prob(p[i], max) / all;
        if (q > 0) entropy -= q * log(q);
    }
    /* What is kept is a run of the sorted list around the entropy: grow it by the nearer neighbour. */
    uint32_t from = 0;
    double best = INFINITY;
    for (uint32_t i = 0; i < n; i++) {
        double d = fabs(-log(prob(p[i], max) / all) - entropy);
        if (d < best) {
            best = d;
            from = i;
        }
    }
    uint32_t to = from + 1;
    double sum = prob(p[from], max) / all;
    while (sum < (double)typical && (from > 0 || to < n)) {
        double up = from > 0 ? fabs(-log(prob(p[from - 1], max) / all) - entropy) : INFINITY;
        double down = to < n ? fabs(-log(prob(p[to], max) / all) - entropy) : INFINITY;
        sum += (up <= down ? prob(p[--from], max) : prob(p[to++], max)) / all;
    }
    memmove(p, p + from, (to - from) * sizeof *p);
    return to - from;
}

static uint32_t filter(ag_sampler *s, const float *x, float max, const ag_sampling *p)
{
    /* Below one part in e^40 of the best a token is never drawn in a lifetime; leaving those out keeps the heap
     * small. */
    float floor_x = max - 40;
    if (p->min_p > 0 && p->top_k == 0 && p->top_p >= 1) floor_x = AG_MAX(floor_x, max + logf(p->min_p));
    uint32_t n = 0;
    for (uint32_t i = 0; i < s->vocab; i++)
        if (x[i] >= floor_x) s->cands[n++] = (cand){x[i], (int32_t)i};
    heapify(s->cands, n);
    uint32_t k = p->top_k ? AG_MIN(p->top_k, n) : n, have = 0;
    double all = 0, sum = 0;
    if (p->top_p < 1 && k == n)
        for (uint32_t i = 0; i < n; i++) all += prob(s->cands[i], max);
    while (have < k && n > 0) {
        s->picked[have] = heap_pop(s->cands, &n);
        sum += prob(s->picked[have++], max);
        if (all > 0 && sum >= (double)p->top_p * all) break;
    }
    if (p->top_p < 1 && all == 0) { /* after top_k: over what it left */
        all = sum;
        sum = 0;
        uint32_t keep = 0;
        while (keep < have && sum < (double)p->top_p * all) sum += prob(s->picked[keep++], max);
        have = AG_MAX(keep, 1u);
    }
    if (p->min_p > 0)
        while (have > 1 && prob(s->picked[have - 1], max) < (double)p->min_p) have--;
    if (p->typical_p < 1) have = filter_typical(s->picked, have, max, p->typical_p);
    return have;
}

static int32_t draw_picked(const ag_sampler *s, uint32_t n, float max, double u)
{
    double all = 0, at = 0;
    for (uint32_t i = 0; i < n; i++) all += prob(s->picked[i], max);
    for (uint32_t i = 0; i + 1 < n; i++) {
        at += prob(s->picked[i], max);
        if (at > u * all) return s->picked[i].id;
    }
    return s->picked[n - 1].id;
}

int ag_sampler_sample(ag_sampler *s, const ag_sample_in *in, ag_sample *out)
{
    AG_CHECK(s, SAMPLER_MAGIC);
    const ag_sampling *p = in->sampling;
    if (!all_numbers(in->logits, s->vocab)) return AG_E_INTERNAL;
    const float *x = adjust(s, in);
    uint32_t best = s->ops->argmax(x, s->vocab);
    float max = x[best];
    if (!isfinite(max))
        return isfinite(in->logits[s->ops->argmax(in->logits, s->vocab)]) ? AG_E_UNSUPPORTED : AG_E_INTERNAL;
    int32_t id = (int32_t)best;
    if (p->temperature > 0 && p->top_k != 1) {
        float t = 1 / p->temperature;
        if (t != 1 && isfinite(t)) {
            if (x != s->work) memcpy(s->work, x, s->vocab * sizeof *x);
            s->ops->scale(s->work, t, s->vocab);
            x = s->work;
            max *= t;
        }
        double u = ag_sampler_uniform(p->seed, p->choice, in->position);
        bool filtered = p->top_k > 0 || p->top_p < 1 || p->min_p > 0 || p->typical_p < 1;
        if (isfinite(t) && isfinite(max))
            id = filtered ? draw_picked(s, filter(s, x, max, p), max, u) : draw_all(s, x, max, u);
    }
    out->id = id;
    out->logprob = NAN;
    out->n_top = 0;
    return in->top_logprobs >= 0 ? ag_sampler_score(s, in->logits, id, in->top_logprobs, out) : AG_OK;
}
