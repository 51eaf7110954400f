/* Whether AVX512_BF16 pays, which no feature flag tells: a processor carries out its products of pairs at twice the
 * operations of float32's multiply-adds, or at half of them. */
#include <stdatomic.h>
#include <time.h>

#include "engine/cpu/layout.h"

uint64_t ag__burn_avx512bf16(uint64_t rounds) { return ag__burn_avx512(rounds); }

uint64_t ag__burn_float_avx512bf16(uint64_t rounds) { return ag__burn_float_avx512(rounds); }

void ag__read_avx512bf16(const unsigned char *p, size_t bytes, size_t ahead) { ag__read_avx512(p, bytes, ahead); }

#define ROUNDS 1000 /* of 16 instructions: 2 to 10 us */
#define TURNS 25

/* Sixteen chains of the instruction, in assembly: what is compared must not depend on the compiler's options. */
#define CHAIN(instruction, n) instruction " %%zmm16, %%zmm16, %%zmm" #n "\n\t"
#define CHAINS_4(i, a, b, c, d) CHAIN(i, a) CHAIN(i, b) CHAIN(i, c) CHAIN(i, d)
#define LOOP(instruction)                                                                                              \
    do {                                                                                                               \
        uint64_t n = ROUNDS;                                                                                           \
        __asm__ volatile("1:\n\t" CHAINS_4(instruction, 0, 1, 2, 3) CHAINS_4(instruction, 4, 5, 6, 7)     \
                         CHAINS_4(instruction, 8, 9, 10, 11) CHAINS_4(instruction, 12, 13, 14, 15)                     \
                         "dec %0\n\tjnz 1b"                                                                            \
                         : "+r"(n)                                                                                     \
                         :                                                                                             \
                         : "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9",       \
                           "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15");                                      \
    } while (0)

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

/* Zeros in all registers, so that no operand is one that a processor is slow with. */
static void clear(void)
{
    __asm__ volatile("vzeroall\n\tvpxord %%zmm16, %%zmm16, %%zmm16"
                     :
                     :
                     : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11",
                       "xmm12", "xmm13", "xmm14", "xmm15", "xmm16");
}

/* The least of short times taken turn by turn: interruptions and a clock that rises meet both, and the answer must be
 * the same at every start. A pair of BF16 is two of float32's operations: 1.2 lies far from both kinds of processor. */
static bool measure(void)
{
    uint64_t best[2] = {UINT64_MAX, UINT64_MAX};
    for (int turn = 0; turn < TURNS; turn++) {
        clear();
        uint64_t begin = now_ns();
        LOOP("vfmadd231ps");
        uint64_t middle = now_ns();
        LOOP("vdpbf16ps");
        uint64_t end = now_ns();
        best[0] = AG_MIN(best[0], middle - begin);
        best[1] = AG_MIN(best[1], end - middle);
    }
    return 2.0 * (double)best[0] > 1.2 * (double)best[1];
}

bool ag__bf16_pays(void)
{
    static _Atomic int known; /* 0: not yet; else 1 + the answer */
    if (atomic_load(&known) == 0) {
        int nothing = 0;
        atomic_compare_exchange_strong(&known, &nothing, 1 + measure());
    }
    return atomic_load(&known) == 2;
}
