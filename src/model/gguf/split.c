#include <stdio.h>

#include "base/mem.h"
#include "model/gguf/gguf_priv.h"

#define DIGITS 5
#define TAIL (1 + DIGITS + 4 + DIGITS + 5) /* -00001-of-00003.gguf */

static bool digits(const char *p, uint32_t *out)
{
    *out = 0;
    for (int i = 0; i < DIGITS; i++) {
        if (p[i] < '0' || p[i] > '9') return false;
        *out = *out * 10 + (uint32_t)(p[i] - '0');
    }
    return true;
}

ag__gguf_split_name ag__gguf_split_parse(const char *path)
{
    ag__gguf_split_name s = {0};
    size_t n = strlen(path);
    if (n <= TAIL) return s;
    const char *p = path + n - TAIL;
    uint32_t no, count;
    if (p[0] != '-' || !digits(p + 1, &no) || memcmp(p + 1 + DIGITS, "-of-", 4) != 0 ||
        !digits(p + 5 + DIGITS, &count) || strcmp(p + 5 + 2 * DIGITS, ".gguf") != 0 || no == 0 || no > count)
        return s;
    return (ag__gguf_split_name){no, count, n - TAIL + 1};
}

size_t ag_gguf_stem_bytes(const char *path)
{
    size_t n = strlen(path);
    if (ag__gguf_split_parse(path).count > 0) return n - TAIL;
    return n > 5 && strcmp(path + n - 5, ".gguf") == 0 ? n - 5 : n;
}

typedef struct split_keys {
    uint32_t no, count, tensors; /* no from 0, as in the file */
} split_keys;

/* count 1, when the file is whole and has no such keys. */
static int read_keys(const ag__gguf_table *t, const char *path, bool need, split_keys *k, ag_err *err)
{
    *k = (split_keys){0, 1, 0};
    if (!need && ag__gguf_table_find(t, AG_STR("split.count")) == NULL) return AG_OK;
    int rc = ag__gguf_table_u32(t, path, "split.count", true, &k->count, err);
    if (rc == AG_OK) rc = ag__gguf_table_u32(t, path, "split.no", true, &k->no, err);
    if (rc == AG_OK) rc = ag__gguf_table_u32(t, path, "split.tensors.count", true, &k->tensors, err);
    return rc;
}

static int check_first(const ag_gguf *g, ag__gguf_split_name name, const split_keys *k, ag_err *err)
{
    const char *path = ag_gguf_path(g);
    if (k->count == 0 || k->count > AG_GGUF_SPLITS_MAX)
        return ag_err_set(err, AG_E_FILE, "%s: key split.count is %u; 1 to %d is right", path, k->count,
                          AG_GGUF_SPLITS_MAX);
    if (k->no != 0)
        return ag_err_set(err, AG_E_FILE, "%s is part %llu of %u (key split.no); open the first part", path,
                          (unsigned long long)k->no + 1, k->count);
    if (name.count == 0 && k->count > 1)
        return ag_err_set(err, AG_E_FILE, "%s is the first of %u parts (key split.count), and the others are only "
                          "found when its name ends in -00001-of-%05u.gguf", path, k->count, k->count);
    if (name.count != 0 && name.count != k->count)
        return ag_err_set(err, AG_E_FILE, "%s is one of %u parts by its name, and one of %u by its key split.count",
                          path, name.count, k->count);
    return AG_OK;
}

static int check_part(const char *path, const split_keys *k, uint32_t no, const split_keys *first, ag_err *err)
{
    if (k->no != no)
        return ag_err_set(err, AG_E_FILE, "%s: key split.no is %u; %u is right for this part", path, k->no, no);
    if (k->count != first->count)
        return ag_err_set(err, AG_E_FILE, "%s: key split.count is %u, and %u in the first part", path, k->count,
                          first->count);
    if (k->tensors != first->tensors)
        return ag_err_set(err, AG_E_FILE, "%s: key split.tensors.count is %u, and %u in the first part", path,
                          k->tensors, first->tensors);
    return AG_OK;
}

static int open_part(ag_gguf *g, ag__gguf_split_name name, uint32_t no, const split_keys *first, ag_err *err)
{
    const char *path = ag_gguf_path(g);
    ag__gguf_part *part = &g->parts[no];
    ag__gguf_table keys = {0};
    split_keys k;
    uint32_t version;
    char number[DIGITS + 6];
    part->path = ag_mem_strndup(path, strlen(path));
    if (part->path == NULL) return ag_err_set(err, AG_E_NOMEM, "%s: no memory for the names of its parts", path);
    g->n_parts = no + 1; /* from here on, closing g frees the path and the mapping */
    snprintf(number, sizeof number, "%05u", no + 1);
    memcpy(part->path + name.no_at, number, DIGITS);
    int rc = ag__gguf_map(part, err);
    if (rc != AG_OK) return rc;
    rc = ag__gguf_parse(g, part, &keys, &version, err);
    if (rc == AG_OK) rc = read_keys(&keys, part->path, true, &k, err);
    if (rc == AG_OK) rc = check_part(part->path, &k, no, first, err);
    ag__gguf_table_fini(&keys);
    return rc;
}

int ag__gguf_split_open(ag_gguf *g, ag__gguf_split_name name, ag_err *err)
{
    split_keys k;
    int rc = read_keys(&g->keys, ag_gguf_path(g), name.count > 1, &k, err);
    if (rc == AG_OK) rc = check_first(g, name, &k, err);
    if (rc != AG_OK || k.count == 1) return rc;
    ag__gguf_part *parts = ag_mem_array(k.count, sizeof *parts);
    if (parts == NULL)
        return ag_err_set(err, AG_E_NOMEM, "%s: no memory for a table of %u parts", ag_gguf_path(g), k.count);
    parts[0] = g->parts[0];
    ag_mem_free(g->parts);
    g->parts = parts;
    for (uint32_t i = 1; i < k.count && rc == AG_OK; i++) rc = open_part(g, name, i, &k, err);
    if (rc == AG_OK && g->n_tensors != k.tensors)
        rc = ag_err_set(err, AG_E_FILE, "%s: its %u parts hold %u tensors; its key split.tensors.count says %u",
                        ag_gguf_path(g), k.count, g->n_tensors, k.tensors);
    return rc;
}
