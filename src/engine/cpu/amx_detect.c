/* Alone in its file, so that a test program can put its own in its place. Compiled for any x86-64. */
#include "engine/cpu/layout.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#define ARCH_REQ_XCOMP_PERM 0x1023 /* of arch_prctl; older headers lack the names */
#define XFEATURE_XTILEDATA 18
#define TILE_STATE (3u << 17)      /* XCR0: tile configuration and tile data */

bool ag__amx_ready(void)
{
    const unsigned bf16 = 1u << 22, tile = 1u << 24, int8 = 1u << 25, wanted = bf16 | tile | int8;
    unsigned a, b, c, d, saved, high;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_OSXSAVE)) return false;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || (d & wanted) != wanted) return false;
    __asm__("xgetbv" : "=a"(saved), "=d"(high) : "c"(0));
    if ((saved & TILE_STATE) != TILE_STATE) return false;
    /* The permission is the process's, whichever thread asks, and asking again is harmless. It is refused where a
     * thread's alternative signal stack is too small for the tiles. */
    return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0;
}
#endif
