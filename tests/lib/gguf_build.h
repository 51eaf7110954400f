/* gguf_build.h - writes small GGUF files, whole, odd or damaged, for tests and fuzz seeds of any room.
 * Owns    : a gb owns what was added to it until gb_free; gb_build returns bytes that the caller frees.
 * Threads : one at a time.
 * Limits  : none; nothing is checked, so that wrong files can be made too.
 * Errors  : without memory or disk the program ends. Needs nothing of src/.
 *
 *     gb b;
 *     gb_init(&b);
 *     gb_str(&b, "general.architecture", "llama");
 *     gb_tensor(&b, "output.weight", 0, 2, (uint64_t[]){32, 4}, NULL, 32 * 4 * 4);
 *     size_t n;
 *     uint8_t *bytes = gb_build(&b, &n);            or: gb_save(&b, "model.gguf"); */
#ifndef AG_TESTS_GGUF_BUILD_H
#define AG_TESTS_GGUF_BUILD_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef enum gb_type {
    GB_U8, GB_I8, GB_U16, GB_I16, GB_U32, GB_I32, GB_F32, GB_BOOL, GB_STRING, GB_ARRAY, GB_U64, GB_I64, GB_F64
} gb_type;

typedef struct gb_bytes {
    uint8_t *p;
    size_t n, cap;
} gb_bytes;

typedef struct gb {
    uint32_t version, align; /* align places the data; to write the key too: gb_u32(b, "general.alignment", ...) */
    uint64_t n_keys, n_tensors;
    uint64_t extra_keys, extra_tensors; /* added to the counts in the header, to make them lie */
    gb_bytes keys, infos, data;
} gb;

static inline void gb_add(gb_bytes *b, const void *p, size_t n)
{
    if (n == 0) return;
    if (b->n + n > b->cap) {
        b->cap = (b->n + n) * 2 + 64;
        b->p = realloc(b->p, b->cap);
        if (b->p == NULL) abort();
    }
    if (p) memcpy(b->p + b->n, p, n);
    else memset(b->p + b->n, 0, n);
    b->n += n;
}

static inline void gb_add_u32(gb_bytes *b, uint32_t v) { gb_add(b, &v, 4); }
static inline void gb_add_u64(gb_bytes *b, uint64_t v) { gb_add(b, &v, 8); }
static inline void gb_add_str(gb_bytes *b, const void *p, size_t n)
{
    gb_add_u64(b, n);
    gb_add(b, p, n);
}
static inline void gb_pad(gb_bytes *b, size_t align) { gb_add(b, NULL, (align - b->n % align) % align); }

static inline void gb_init(gb *b)
{
    memset(b, 0, sizeof *b);
    b->version = 3;
    b->align = 32;
}

static inline void gb_free(gb *b)
{
    free(b->keys.p);
    free(b->infos.p);
    free(b->data.p);
    memset(b, 0, sizeof *b);
}

/* A key with any type number and any bytes as its value. */
static inline void gb_key_n(gb *b, const void *key, size_t key_n, uint32_t type, const void *p, size_t n)
{
    gb_add_str(&b->keys, key, key_n);
    gb_add_u32(&b->keys, type);
    gb_add(&b->keys, p, n);
    b->n_keys++;
}
static inline void gb_key(gb *b, const char *key, uint32_t type, const void *p, size_t n)
{
    gb_key_n(b, key, strlen(key), type, p, n);
}
static inline void gb_u8(gb *b, const char *key, uint8_t v) { gb_key(b, key, GB_U8, &v, 1); }
static inline void gb_i8(gb *b, const char *key, int8_t v) { gb_key(b, key, GB_I8, &v, 1); }
static inline void gb_u16(gb *b, const char *key, uint16_t v) { gb_key(b, key, GB_U16, &v, 2); }
static inline void gb_i16(gb *b, const char *key, int16_t v) { gb_key(b, key, GB_I16, &v, 2); }
static inline void gb_u32(gb *b, const char *key, uint32_t v) { gb_key(b, key, GB_U32, &v, 4); }
static inline void gb_i32(gb *b, const char *key, int32_t v) { gb_key(b, key, GB_I32, &v, 4); }
static inline void gb_f32(gb *b, const char *key, float v) { gb_key(b, key, GB_F32, &v, 4); }
static inline void gb_bool(gb *b, const char *key, uint8_t v) { gb_key(b, key, GB_BOOL, &v, 1); }
static inline void gb_u64(gb *b, const char *key, uint64_t v) { gb_key(b, key, GB_U64, &v, 8); }
static inline void gb_i64(gb *b, const char *key, int64_t v) { gb_key(b, key, GB_I64, &v, 8); }
static inline void gb_f64(gb *b, const char *key, double v) { gb_key(b, key, GB_F64, &v, 8); }
static inline void gb_strn(gb *b, const char *key, const void *p, size_t n)
{
    gb_key(b, key, GB_STRING, NULL, 0);
    gb_add_str(&b->keys, p, n);
}
static inline void gb_str(gb *b, const char *key, const char *z) { gb_strn(b, key, z, strlen(z)); }

/* An array of n items; `bytes` of items follow its head, which may be fewer or more than n says. */
static inline void gb_array(gb *b, const char *key, uint32_t item, uint64_t n, const void *p, size_t bytes)
{
    gb_key(b, key, GB_ARRAY, NULL, 0);
    gb_add_u32(&b->keys, item);
    gb_add_u64(&b->keys, n);
    gb_add(&b->keys, p, bytes);
}
static inline void gb_strings(gb *b, const char *key, uint64_t n, const char *const *z)
{
    gb_array(b, key, GB_STRING, n, NULL, 0);
    for (uint64_t i = 0; i < n; i++) gb_add_str(&b->keys, z[i], strlen(z[i]));
}

/* A tensor's entry only, with any type number and offset. */
static inline void gb_entry(gb *b, const char *name, uint32_t type, uint32_t n_dims, const uint64_t *dim,
                            uint64_t offset)
{
    gb_add_str(&b->infos, name, strlen(name));
    gb_add_u32(&b->infos, n_dims);
    for (uint32_t i = 0; i < n_dims; i++) gb_add_u64(&b->infos, dim[i]);
    gb_add_u32(&b->infos, type);
    gb_add_u64(&b->infos, offset);
    b->n_tensors++;
}

/* An entry and its data; `data` NULL writes zeros. */
static inline void gb_tensor(gb *b, const char *name, uint32_t type, uint32_t n_dims, const uint64_t *dim,
                             const void *data, size_t bytes)
{
    gb_pad(&b->data, b->align);
    gb_entry(b, name, type, n_dims, dim, b->data.n);
    gb_add(&b->data, data, bytes);
}

/* The whole file in a block of its exact size, so that a sanitizer sees a read past its end. */
static inline uint8_t *gb_build(const gb *b, size_t *n)
{
    gb_bytes out = {0};
    gb_add(&out, "GGUF", 4);
    gb_add_u32(&out, b->version);
    gb_add_u64(&out, b->n_tensors + b->extra_tensors);
    gb_add_u64(&out, b->n_keys + b->extra_keys);
    gb_add(&out, b->keys.p, b->keys.n);
    gb_add(&out, b->infos.p, b->infos.n);
    if (b->data.n) {
        gb_pad(&out, b->align);
        gb_add(&out, b->data.p, b->data.n);
    }
    *n = out.n;
    uint8_t *p = realloc(out.p, out.n);
    if (p == NULL) abort();
    return p;
}

static inline void gb_save_bytes(const char *path, const void *p, size_t n)
{
    FILE *f = fopen(path, "wb");
    if (f == NULL || fwrite(p, 1, n, f) != n || fclose(f) != 0) {
        perror(path);
        abort();
    }
}

static inline void gb_save(const gb *b, const char *path)
{
    size_t n;
    uint8_t *p = gb_build(b, &n);
    gb_save_bytes(path, p, n);
    free(p);
}

/* Damage: the offset of the first place where the n bytes at `what` stand (the program ends if nowhere). */
static inline size_t gb_where(const uint8_t *p, size_t n, const void *what, size_t what_n)
{
    for (size_t i = 0; i + what_n <= n; i++)
        if (memcmp(p + i, what, what_n) == 0) return i;
    abort();
}
static inline void gb_put_u32(uint8_t *p, size_t at, uint32_t v) { memcpy(p + at, &v, 4); }
static inline void gb_put_u64(uint8_t *p, size_t at, uint64_t v) { memcpy(p + at, &v, 8); }

#endif
