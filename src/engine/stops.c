#include "engine/stops.h"

#include "base/mem.h"

#define TAIL_MAX (1u << 20) /* the longest stop and the longest token, both bounded far below this */

int ag_stops_init(ag_stops *s, const ag_str *stops, uint32_t n, ag_err *err)
{
    *s = (ag_stops){0};
    ag_buf_init(&s->tail, TAIL_MAX);
    if (n > AG_GEN_STOPS_MAX)
        return ag_err_set(err, AG_E_PARAM, "%u stop strings; at most %u are taken", n, AG_GEN_STOPS_MAX);
    size_t all = 0;
    for (uint32_t i = 0; i < n; i++) {
        if (stops[i].n == 0 || stops[i].n > AG_GEN_STOP_BYTES_MAX)
            return ag_err_set(err, AG_E_PARAM, "a stop string of %zu bytes; it should have 1 to %u", stops[i].n,
                              AG_GEN_STOP_BYTES_MAX);
        all += stops[i].n;
    }
    if (n == 0) return AG_OK;
    s->stops = ag_mem_array(n, sizeof *s->stops);
    s->bytes = ag_mem_alloc(all);
    if (s->stops == NULL || s->bytes == NULL) {
        ag_stops_fini(s);
        return ag_err_set(err, AG_E_NOMEM, "no memory for the stop strings");
    }
    char *to = s->bytes;
    for (uint32_t i = 0; i < n; i++) {
        memcpy(to, stops[i].p, stops[i].n);
        s->stops[i] = (ag_str){to, stops[i].n};
        to += stops[i].n;
        s->longest = AG_MAX(s->longest, stops[i].n);
    }
    s->n = n;
    return AG_OK;
}

void ag_stops_fini(ag_stops *s)
{
    ag_mem_free(s->stops);
    ag_mem_free(s->bytes);
    ag_buf_fini(&s->tail);
    s->stops = NULL;
    s->bytes = NULL;
    s->n = 0;
}

/* Where in the tail the earliest complete stop begins that ends behind `old`; SIZE_MAX: none. */
static size_t find_stop(const ag_stops *s, size_t old)
{
    size_t best = SIZE_MAX;
    for (uint32_t i = 0; i < s->n; i++) {
        size_t n = s->stops[i].n;
        if (n > s->tail.n) continue;
        const char *from = s->tail.p + (old >= n ? old - n + 1 : 0);
        const char *hit = memmem(from, (size_t)(s->tail.p + s->tail.n - from), s->stops[i].p, n);
        if (hit) best = AG_MIN(best, (size_t)(hit - s->tail.p));
    }
    return best;
}

/* Bytes at the end of the tail that are the beginning of some stop. */
static size_t held_back(const ag_stops *s)
{
    for (size_t k = AG_MIN(s->longest - 1, s->tail.n); k > 0; k--)
        for (uint32_t i = 0; i < s->n; i++)
            if (s->stops[i].n > k && memcmp(s->tail.p + s->tail.n - k, s->stops[i].p, k) == 0) return k;
    return 0;
}

bool ag_stops_add(ag_stops *s, ag_str piece, bool match, uint64_t *safe, bool *found)
{
    *found = false;
    s->total += piece.n;
    *safe = s->total;
    if (s->n == 0) return true;
    size_t old = s->tail.n;
    if (!ag_buf_add(&s->tail, piece.p, piece.n)) return false;
    size_t at = match ? find_stop(s, old) : SIZE_MAX;
    if (at != SIZE_MAX) {
        *safe = s->total - (s->tail.n - at);
        *found = true;
        return true;
    }
    if (match) *safe = s->total - held_back(s);
    if (s->tail.n > s->longest - 1) ag_buf_consume(&s->tail, s->tail.n - (s->longest - 1));
    return true;
}
