/* arena.h - memory that lives as long as one request (or one model, one template) and goes in one clear.
 * Owns    : its blocks. The struct is held by the caller (init/fini).
 * Threads : one at a time.
 * Limits  : `bytes_max` given at init counts every byte asked for; past it NULL comes back, as without memory.
 *           In sanitizer builds each object is its own malloc, so overruns inside the arena are seen.
 * Errors  : NULL; ag_arena_full tells a limit reached from a machine out of memory. */
#ifndef AG_ARENA_H
#define AG_ARENA_H

#include "base/base.h"

typedef struct ag_arena_block ag_arena_block;

typedef struct ag_arena {
    ag_arena_block *blocks; /* newest first */
    size_t used, bytes_max;
    bool full;
} ag_arena;

void ag_arena_init(ag_arena *a, size_t bytes_max);
void ag_arena_fini(ag_arena *a);                                /* frees all; init begins anew */
void *ag_arena_alloc(ag_arena *a, size_t bytes);                /* aligned to 16, not cleared */
void *ag_arena_zalloc(ag_arena *a, size_t bytes);               /* cleared */
void *ag_arena_array(ag_arena *a, size_t count, size_t size);   /* cleared, overflow checked */
char *ag_arena_strndup(ag_arena *a, const char *s, size_t n);   /* NUL added */
static inline bool ag_arena_full(const ag_arena *a) { return a->full; }

#endif
