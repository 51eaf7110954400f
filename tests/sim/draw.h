/* draw.h - what a run with a seed draws by chance. Included behind `run`, a struct with a `random`. */
#ifndef AG_TESTS_SIM_DRAW_H
#define AG_TESTS_SIM_DRAW_H

static inline uint32_t below(run *r, uint32_t n) { return (uint32_t)((ag_random64(&r->random) >> 32) * n >> 32); }
static inline uint32_t between(run *r, uint32_t a, uint32_t b) { return a + below(r, b - a + 1); }
static inline bool one_in(run *r, uint32_t n) { return below(r, n) == 0; }

#endif
