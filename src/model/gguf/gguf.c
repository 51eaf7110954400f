#include "model/gguf/gguf.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/mem.h"
#include "base/utf8.h"
#include "model/gguf/gguf_priv.h"

static int by_name(const void *a, const void *b)
{
    return ag__gguf_str_cmp((*(const ag_gguf_tensor *const *)a)->name, (*(const ag_gguf_tensor *const *)b)->name);
}

/* Sorted rather than hashed: whatever names a file holds, building costs n log n and a look-up log n. */
static int index_tensors(ag_gguf *g, ag_err *err)
{
    g->tensors_by_name = ag_mem_array(g->n_tensors, sizeof *g->tensors_by_name);
    if (g->tensors_by_name == NULL)
        return ag_err_set(err, AG_E_NOMEM, "%s: no memory for its table of tensors", ag_gguf_path(g));
    for (uint32_t i = 0; i < g->n_tensors; i++) g->tensors_by_name[i] = &g->tensors[i];
    if (g->n_tensors) qsort(g->tensors_by_name, g->n_tensors, sizeof *g->tensors_by_name, by_name);
    for (uint32_t i = 1; i < g->n_tensors; i++)
        if (by_name(&g->tensors_by_name[i - 1], &g->tensors_by_name[i]) == 0) {
            char name[AG__GGUF_SHOW];
            return ag_err_set(err, AG_E_FILE, "%s: tensor %s is there twice", ag_gguf_path(g),
                              ag_gguf_show(name, sizeof name, g->tensors_by_name[i]->name));
        }
    return AG_OK;
}

/* A file with one part that has its name, and no bytes yet. */
static int create(ag_gguf **out, const char *path, ag_err *err)
{
    ag_gguf *g = ag_mem_zalloc(sizeof *g);
    if (g == NULL) goto out;
    g->magic = AG__GGUF_MAGIC;
    g->parts = ag_mem_array(1, sizeof *g->parts);
    if (g->parts == NULL) goto undo_g;
    g->parts[0].path = ag_mem_strndup(path, strlen(path));
    if (g->parts[0].path == NULL) goto undo_parts;
    g->n_parts = 1;
    *out = g;
    return AG_OK;
undo_parts:
    ag_mem_free(g->parts);
undo_g:
    ag_mem_free(g);
out:
    return ag_err_set(err, AG_E_NOMEM, "%s: no memory to open it", path);
}

/* The first part has its bytes. On failure g is closed. */
static int load(ag_gguf **out, ag_gguf *g, ag__gguf_split_name name, ag_err *err)
{
    int rc = ag__gguf_parse(g, &g->parts[0], &g->keys, &g->version, err);
    if (rc == AG_OK) rc = ag__gguf_split_open(g, name, err);
    if (rc == AG_OK) rc = index_tensors(g, err);
    if (rc == AG_OK) *out = g;
    else ag_gguf_close(g);
    return rc;
}

int ag_gguf_open(ag_gguf **out, const char *path, ag_err *err)
{
    ag__gguf_split_name name = ag__gguf_split_parse(path);
    if (name.count != 0 && name.no != 1)
        return ag_err_set(err, AG_E_FILE, "%s is part %u of %u by its name; open the first, %.*s00001%s", path, name.no,
                          name.count, (int)name.no_at, path, path + name.no_at + 5);
    ag_gguf *g;
    int rc = create(&g, path, err);
    if (rc != AG_OK) return rc;
    rc = ag__gguf_map(&g->parts[0], err);
    if (rc != AG_OK) {
        ag_gguf_close(g);
        return rc;
    }
    return load(out, g, name, err);
}

int ag_gguf_open_mem(ag_gguf **out, const char *name, const void *bytes, size_t n, ag_err *err)
{
    ag_gguf *g;
    int rc = create(&g, name, err);
    if (rc != AG_OK) return rc;
    g->parts[0].bytes = bytes;
    g->parts[0].n = n;
    return load(out, g, (ag__gguf_split_name){0}, err);
}

void ag_gguf_close(ag_gguf *g)
{
    if (g == NULL) return;
    AG_CHECK(g, AG__GGUF_MAGIC);
    g->magic = 0;
    ag_mem_free(g->tensors_by_name);
    ag_mem_free(g->tensors);
    ag__gguf_table_fini(&g->keys);
    for (uint32_t i = 0; i < g->n_parts; i++) {
        ag__gguf_unmap(&g->parts[i]);
        ag_mem_free(g->parts[i].path);
    }
    ag_mem_free(g->parts);
    ag_mem_free(g);
}

const char *ag_gguf_path(const ag_gguf *g)
{
    AG_CHECK(g, AG__GGUF_MAGIC);
    return g->parts[0].path;
}

uint32_t ag_gguf_version(const ag_gguf *g)
{
    AG_CHECK(g, AG__GGUF_MAGIC);
    return g->version;
}

uint32_t ag_gguf_part_count(const ag_gguf *g)
{
    AG_CHECK(g, AG__GGUF_MAGIC);
    return g->n_parts;
}

const char *ag_gguf_part_path(const ag_gguf *g, uint32_t i)
{
    AG_CHECK(g, AG__GGUF_MAGIC);
    AG_ASSERT(i < g->n_parts);
    return g->parts[i].path;
}

uint64_t ag_gguf_file_bytes(const ag_gguf *g)
{
    AG_CHECK(g, AG__GGUF_MAGIC);
    uint64_t sum = 0;
    for (uint32_t i = 0; i < g->n_parts; i++) sum += g->parts[i].n;
    return sum;
}

uint32_t ag_gguf_tensor_count(const ag_gguf *g)
{
    AG_CHECK(g, AG__GGUF_MAGIC);
    return g->n_tensors;
}

const ag_gguf_tensor *ag_gguf_tensor_at(const ag_gguf *g, uint32_t i)
{
    AG_CHECK(g, AG__GGUF_MAGIC);
    AG_ASSERT(i < g->n_tensors);
    return &g->tensors[i];
}

const ag_gguf_tensor *ag_gguf_tensor_find(const ag_gguf *g, const char *name)
{
    AG_CHECK(g, AG__GGUF_MAGIC);
    ag_str key = ag_str_of(name);
    uint32_t lo = 0, hi = g->n_tensors;
    while (lo < hi) {
        uint32_t mid = lo + (hi - lo) / 2;
        int c = ag__gguf_str_cmp(key, g->tensors_by_name[mid]->name);
        if (c == 0) return g->tensors_by_name[mid];
        if (c < 0) hi = mid;
        else lo = mid + 1;
    }
    return NULL;
}

uint32_t ag_gguf_value_count(const ag_gguf *g)
{
    AG_CHECK(g, AG__GGUF_MAGIC);
    return g->keys.n;
}

const ag_gguf_value *ag_gguf_value_at(const ag_gguf *g, uint32_t i)
{
    AG_CHECK(g, AG__GGUF_MAGIC);
    AG_ASSERT(i < g->keys.n);
    return &g->keys.v[i];
}

const ag_gguf_value *ag_gguf_value_find(const ag_gguf *g, const char *key)
{
    AG_CHECK(g, AG__GGUF_MAGIC);
    return ag__gguf_table_find(&g->keys, ag_str_of(key));
}

/* Characters that move the cursor or turn the direction of text, which a terminal would obey. */
static bool unprintable(uint32_t cp)
{
    return cp < 0x20 || (cp >= 0x7F && cp < 0xA0) || cp == 0x200E || cp == 0x200F || (cp >= 0x2028 && cp <= 0x202E) ||
           (cp >= 0x2066 && cp <= 0x2069) || cp == 0xFEFF;
}

const char *ag_gguf_show(char *out, size_t cap, ag_str s)
{
    AG_ASSERT(cap >= 16);
    size_t n = 0, at = 0, dots = 0; /* dots: the last place where they would still fit */
    while (at < s.n) {
        char piece[16];
        uint32_t cp;
        size_t len = ag_utf8_get(s.p + at, s.n - at, &cp), got;
        if (len == 0) {
            got = (size_t)snprintf(piece, sizeof piece, "\\x%02x", (unsigned char)s.p[at]);
            len = 1;
        } else if (cp == '\n' || cp == '\t' || cp == '\r' || cp == '\\') {
            char c = cp == '\n' ? 'n' : cp == '\t' ? 't' : cp == '\r' ? 'r' : '\\';
            got = (size_t)snprintf(piece, sizeof piece, "\\%c", c);
        } else if (unprintable(cp)) {
            got = (size_t)snprintf(piece, sizeof piece, "\\u%04x", cp);
        } else {
            memcpy(piece, s.p + at, len);
            got = len;
        }
        if (n + got >= cap) {
            memcpy(out + dots, "...", 3);
            n = dots + 3;
            break;
        }
        memcpy(out + n, piece, got);
        n += got;
        at += len;
        if (n + 3 < cap) dots = n;
    }
    out[n] = 0;
    return out;
}
