/* draw.h - what a run with a seed draws by chance, and the seed of a run that breaks. Included behind `run`, a struct
 * with a `random`. */
#ifndef AG_TESTS_SIM_DRAW_H
#define AG_TESTS_SIM_DRAW_H

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

void __sanitizer_set_death_callback(void (*callback)(void)) __attribute__((weak));

static char seed_words[64];

static void seed_tell(void)
{
    if (write(STDERR_FILENO, seed_words, strlen(seed_words)) < 0) _exit(1);
}

static void on_abort(int signal_number)
{
    seed_tell();
    signal(signal_number, SIG_DFL);
    raise(signal_number);
}

/* Whatever ends the program from here on, be it an assertion of what is tested or a sanitizer, says the seed. */
static void seed_watch(uint64_t seed)
{
    snprintf(seed_words, sizeof seed_words, "the run that broke: SEED=%llu\n", (unsigned long long)seed);
    signal(SIGABRT, on_abort);
    if (__sanitizer_set_death_callback) __sanitizer_set_death_callback(seed_tell);
}

static inline uint32_t below(run *r, uint32_t n) { return (uint32_t)((ag_random64(&r->random) >> 32) * n >> 32); }
static inline uint32_t between(run *r, uint32_t a, uint32_t b) { return a + below(r, b - a + 1); }
static inline bool one_in(run *r, uint32_t n) { return below(r, n) == 0; }

#endif
