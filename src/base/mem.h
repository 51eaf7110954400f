/* mem.h - the heap, counted and made to fail on demand.
 * Owns    : nothing; what is allocated belongs to the caller and goes back by ag_mem_free.
 * Threads : any.
 * Limits  : none here; callers bound sizes before they ask (nothing is allocated by a number from outside unchecked).
 * Errors  : NULL when there is no memory (fault point ALLOC); never an abort. */
#ifndef AG_MEM_H
#define AG_MEM_H

#include "base/base.h"

void *ag_mem_alloc(size_t bytes);                            /* not cleared; bytes 0 gives a valid pointer */
void *ag_mem_zalloc(size_t bytes);                           /* cleared */
void *ag_mem_array(size_t count, size_t size);               /* cleared; NULL on overflow of count*size */
void *ag_mem_resize(void *p, size_t count, size_t size);     /* as realloc; p stays valid when NULL comes back */
char *ag_mem_strndup(const char *s, size_t n);               /* NUL added */
void *ag_mem_aligned(size_t align, size_t bytes);            /* not cleared; freed by ag_mem_free */
void ag_mem_free(void *p);                                   /* NULL is fine */
size_t ag_mem_cost(const void *p);                           /* what it takes of the heap; NULL: nothing */
/* Cleared memory of its own pages, huge ones where the kernel gives them; untouched pages cost nothing. NULL: none
 * (fault point MMAP). */
void *ag_mem_map(size_t bytes);
void ag_mem_unmap(void *p, size_t bytes);                    /* NULL is fine */

#endif
