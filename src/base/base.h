/* base.h - the few words that every file uses: assertions, strings by length, clocks.
 * Owns    : nothing.
 * Threads : any.
 * Limits  : none.
 * Errors  : an assertion that fails reports file, line and expression on stderr and aborts; assertions are for our
 *           own bookkeeping and stay on in release builds. Input is answered with ag_err (err.h), never asserted. */
#ifndef AG_BASE_H
#define AG_BASE_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define AG_ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))
#define AG_MIN(a, b) ((a) < (b) ? (a) : (b))
#define AG_MAX(a, b) ((a) > (b) ? (a) : (b))
#define AG_ALIGN_UP(x, a) (((x) + (a) - 1) / (a) * (a))
#define AG_LIKELY(x) __builtin_expect(!!(x), 1)
#define AG_UNLIKELY(x) __builtin_expect(!!(x), 0)
#define AG_PRINTF(fmt, first) __attribute__((format(printf, fmt, first)))
#define AG_UNUSED __attribute__((unused))

_Noreturn void ag_panic(const char *file, int line, const char *expr);

#define AG_ASSERT(e) (AG_LIKELY(e) ? (void)0 : ag_panic(__FILE__, __LINE__, #e))
/* A stale or foreign pointer is reported at its first use; each checked struct begins with `uint32_t magic`. */
#define AG_CHECK(p, m) AG_ASSERT((p) != NULL && (p)->magic == (m))
/* Checks that cost O(n) and more. */
#ifdef AG_SLOW_CHECKS
#define AG_ASSERT_SLOW(e) AG_ASSERT(e)
#else
#define AG_ASSERT_SLOW(e) ((void)0)
#endif

/* Bytes by length; p may be NULL when n is 0. Not NUL-terminated, borrowed. */
typedef struct ag_str {
    const char *p;
    size_t n;
} ag_str;

#define AG_STR(lit) ((ag_str){(lit), sizeof(lit) - 1})

static inline ag_str ag_str_of(const char *z) { return (ag_str){z, z ? strlen(z) : 0}; }
static inline bool ag_str_eq(ag_str a, ag_str b) { return a.n == b.n && (a.n == 0 || memcmp(a.p, b.p, a.n) == 0); }
static inline bool ag_str_eqz(ag_str a, const char *z) { return ag_str_eq(a, ag_str_of(z)); }
bool ag_str_starts(ag_str s, ag_str prefix);
bool ag_str_ieq(ag_str a, ag_str b); /* ASCII letters of either case */

/* The next piece before a comma; false: there is none. "a," has two; of a text that is empty but not NULL there is
 * one. */
bool ag_str_next(ag_str *list, ag_str *piece);

/* Decimal digits and nothing else, no more of them than `max` has, at most that; false: it is not that, *out is then
 * untouched. */
bool ag_str_u64(ag_str s, uint64_t max, uint64_t *out);

/* The byte that "%XX" at p, before end, stands for; -1: it is not that. */
int ag_percent_byte(const char *p, const char *end);

uint64_t ag_now_us(void);  /* monotonic */
uint64_t ag_wall_us(void); /* since 1970-01-01 UTC */
/* A condition that is waited for by ag_now_us's clock. */
void ag_cond_init(pthread_cond_t *c);
void ag_cond_wait_until(pthread_cond_t *c, pthread_mutex_t *held, uint64_t us);

/* a*b and a+b into *out; false on overflow, *out then untouched. */
static inline bool ag_mul_ok(uint64_t a, uint64_t b, uint64_t *out)
{
    uint64_t r;
    if (__builtin_mul_overflow(a, b, &r)) return false;
    *out = r;
    return true;
}
static inline bool ag_add_ok(uint64_t a, uint64_t b, uint64_t *out)
{
    uint64_t r;
    if (__builtin_add_overflow(a, b, &r)) return false;
    *out = r;
    return true;
}

/* A number that looks drawn by chance, the same each time for the same x; not for secrets. Source: splitmix64, of
 * G. Steele and others, "Fast splittable pseudorandom number generators" (2014). */
#define AG_MIX64_STEP 0x9E3779B97F4A7C15u
static inline uint64_t ag_mix64(uint64_t x)
{
    x += AG_MIX64_STEP;
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9u;
    x = (x ^ x >> 27) * 0x94D049BB133111EBu;
    return x ^ x >> 31;
}
/* The next of a row of them. */
static inline uint64_t ag_random64(uint64_t *state)
{
    uint64_t x = ag_mix64(*state);
    *state += AG_MIX64_STEP;
    return x;
}

#endif
