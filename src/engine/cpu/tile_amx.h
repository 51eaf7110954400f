/* tile_amx.h - AMX's tile registers, for *_amx.c only.
 * Owns    : nothing. Tile registers and their configuration belong to the thread.
 * Threads : a product configures the tiles when it begins and releases them when it ends: some 100 cycles of tens of
 *           thousands. Released tiles are not saved when threads change, and a core with tiles in use does not reach
 *           its deep sleep.
 * Limits  : 8 tiles of at most 16 rows of 64 bytes.
 * Errors  : none; a wrong shape is an illegal instruction.
 *
 * In assembly, because the compilers' own words say too little about memory: gcc 12 declares 8 of the 64 bytes of a
 * configuration as read, and nothing of what a tile reads and writes, and so may drop the stores before them. */
#ifndef AG_TILE_AMX_H
#define AG_TILE_AMX_H

#include "base/base.h"

typedef struct tile_config {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} tile_config;

static inline void tiles_configure(const tile_config *c) { __asm__ volatile("ldtilecfg %0" : : "m"(*c)); }
static inline void tiles_release(void) { __asm__ volatile("tilerelease"); }

/* Tiles are named by literal numbers. */
#define TILE_ZERO(t) __asm__ volatile("tilezero %%tmm" #t : : )
#define TILE_LOAD(t, p, stride)                                                                                        \
    __asm__ volatile("tileloadd (%0,%1,1), %%tmm" #t : : "r"(p), "r"((ptrdiff_t)(stride)) : "memory")
#define TILE_STORE(t, p, stride)                                                                                       \
    __asm__ volatile("tilestored %%tmm" #t ", (%0,%1,1)" : : "r"(p), "r"((ptrdiff_t)(stride)) : "memory")
/* c += a * b: rows of signed bytes times quads of signed bytes, or rows of BF16 times pairs. */
#define TILE_DOT_I8(c, a, b) __asm__ volatile("tdpbssd %%tmm" #b ", %%tmm" #a ", %%tmm" #c : : )
#define TILE_DOT_BF16(c, a, b) __asm__ volatile("tdpbf16ps %%tmm" #b ", %%tmm" #a ", %%tmm" #c : : )

#endif
