#include "base/arena.h"

#include "base/mem.h"

#if defined(__SANITIZE_ADDRESS__)
#define ARENA_CHUNK 0 /* one block an object */
#define ARENA_FIRST 0
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define ARENA_CHUNK 0
#define ARENA_FIRST 0
#endif
#endif
#ifndef ARENA_CHUNK
#define ARENA_CHUNK (16 * 1024 - 64) /* with its header and malloc's own it stays inside four pages */
#define ARENA_FIRST (1024 - 64)      /* what most requests come to, and malloc hands out at once */
#endif

struct ag_arena_block {
    ag_arena_block *next;
    size_t used, size;
    _Alignas(16) unsigned char data[];
};

void ag_arena_init(ag_arena *a, size_t bytes_max) { *a = (ag_arena){.bytes_max = bytes_max}; }

void ag_arena_fini(ag_arena *a)
{
    for (ag_arena_block *b = a->blocks, *next; b; b = next) {
        next = b->next;
        ag_mem_free(b);
    }
    *a = (ag_arena){.bytes_max = a->bytes_max};
}

void *ag_arena_alloc(ag_arena *a, size_t bytes)
{
    bytes = AG_MAX(bytes, (size_t)1);
    if (bytes > a->bytes_max || AG_ALIGN_UP(bytes, 16) > a->bytes_max - a->used) {
        a->full = true;
        return NULL;
    }
    bytes = AG_ALIGN_UP(bytes, 16);
    ag_arena_block *b = a->blocks;
    if (b == NULL || b->size - b->used < bytes) {
        size_t size = AG_MAX(bytes, (size_t)(b ? ARENA_CHUNK : ARENA_FIRST));
        b = ag_mem_alloc(sizeof *b + size);
        if (b == NULL) return NULL;
        b->used = 0;
        b->size = size;
        if (a->blocks && size > ARENA_CHUNK) { /* a large object of its own leaves the open block in front */
            b->next = a->blocks->next;
            a->blocks->next = b;
        } else {
            b->next = a->blocks;
            a->blocks = b;
        }
    }
    void *p = b->data + b->used;
    b->used += bytes;
    a->used += bytes;
    return p;
}

void *ag_arena_zalloc(ag_arena *a, size_t bytes)
{
    void *p = ag_arena_alloc(a, bytes);
    if (p) memset(p, 0, bytes);
    return p;
}

void *ag_arena_array(ag_arena *a, size_t count, size_t size)
{
    uint64_t bytes;
    if (!ag_mul_ok(count, size, &bytes)) {
        a->full = true;
        return NULL;
    }
    return ag_arena_zalloc(a, bytes);
}

char *ag_arena_strndup(ag_arena *a, const char *s, size_t n)
{
    if (n == SIZE_MAX) return NULL;
    char *p = ag_arena_alloc(a, n + 1);
    if (p == NULL) return NULL;
    if (n) memcpy(p, s, n);
    p[n] = 0;
    return p;
}
