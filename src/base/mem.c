#include "base/mem.h"

#include <malloc.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "base/fault.h"

void *ag_mem_alloc(size_t bytes)
{
    if (ag_fault_hit(AG_FAULT_ALLOC)) return NULL;
    return malloc(bytes ? bytes : 1);
}

void *ag_mem_zalloc(size_t bytes)
{
    if (ag_fault_hit(AG_FAULT_ALLOC)) return NULL;
    return calloc(1, bytes ? bytes : 1);
}

void *ag_mem_array(size_t count, size_t size)
{
    uint64_t bytes;
    if (!ag_mul_ok(count, size, &bytes)) return NULL;
    return ag_mem_zalloc(bytes);
}

void *ag_mem_resize(void *p, size_t count, size_t size)
{
    uint64_t bytes;
    if (!ag_mul_ok(count, size, &bytes) || ag_fault_hit(AG_FAULT_ALLOC)) return NULL;
    return realloc(p, bytes ? bytes : 1);
}

char *ag_mem_strndup(const char *s, size_t n)
{
    char *p = ag_mem_alloc(n + 1);
    if (p == NULL) return NULL;
    if (n) memcpy(p, s, n);
    p[n] = 0;
    return p;
}

void *ag_mem_aligned(size_t align, size_t bytes)
{
    if (ag_fault_hit(AG_FAULT_ALLOC)) return NULL;
    void *p;
    return posix_memalign(&p, align, bytes ? bytes : 1) == 0 ? p : NULL;
}

void ag_mem_free(void *p) { free(p); }

size_t ag_mem_cost(const void *p)
{
    return p ? malloc_usable_size((void *)p) + sizeof(size_t) : 0; /* and the allocator's own word before it */
}

void *ag_mem_map(size_t bytes)
{
    if (ag_fault_hit(AG_FAULT_MMAP)) return NULL;
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) return NULL;
    madvise(p, bytes, MADV_HUGEPAGE); /* advice: a kernel without them says no, and nothing is lost */
    return p;
}

void ag_mem_unmap(void *p, size_t bytes)
{
    if (p) munmap(p, bytes);
}
