#include <stdio.h>
#include <stdlib.h>

#include "base/mem.h"
#include "model/gguf/gguf_priv.h"

/* Types of ggml that we do not read, so that a refusal can name them. */
static const struct { uint32_t id; const char *name; } others[] = {
    {9, "Q8_1"},   {15, "Q8_K"},  {16, "IQ2_XXS"}, {17, "IQ2_XS"}, {18, "IQ3_XXS"}, {19, "IQ1_S"},
    {21, "IQ3_S"}, {22, "IQ2_S"}, {24, "I8"},      {25, "I16"},    {26, "I32"},     {27, "I64"},
    {28, "F64"},   {29, "IQ1_M"}, {34, "TQ1_0"},   {35, "TQ2_0"},  {39, "MXFP4"},
};

static int unknown_type(const char *path, const char *name, uint32_t type, ag_err *err)
{
    const char *what = "unknown";
    for (size_t i = 0; i < AG_ARRAY_LEN(others); i++)
        if (others[i].id == type) what = others[i].name;
    char list[160] = "";
    size_t n = 0;
    for (const ag_quant_row *r = ag_quant_next(NULL); r != NULL && n < sizeof list; r = ag_quant_next(r))
        n += (size_t)snprintf(list + n, sizeof list - n, "%s%s", n ? ", " : "", r->name);
    return ag_err_set(err, AG_E_UNSUPPORTED, "%s: tensor %s is of type %u (%s); the types that are read are %s", path,
                      name, type, what, list);
}

int ag__gguf_tensor_size(const char *path, ag_gguf_tensor *t, uint32_t type, ag_err *err)
{
    char name[AG__GGUF_SHOW];
    ag_gguf_show(name, sizeof name, t->name);
    const ag_quant_row *r = ag_quant_find(type);
    if (r == NULL) return unknown_type(path, name, type, err);
    uint64_t weights = 1, bytes;
    for (uint32_t d = 0; d < t->n_dims; d++) {
        if (t->dim[d] == 0)
            return ag_err_set(err, AG_E_FILE, "%s: dimension %u of tensor %s is 0", path, d, name);
        if (!ag_mul_ok(weights, t->dim[d], &weights) || weights > INT64_MAX)
            return ag_err_set(err, AG_E_FILE, "%s: the dimensions of tensor %s are too large to multiply", path, name);
    }
    if (t->dim[0] % r->block != 0)
        return ag_err_set(err, AG_E_FILE, "%s: the rows of tensor %s have %llu weights; a multiple of %u is right for "
                          "%s", path, name, (unsigned long long)t->dim[0], r->block, r->name);
    if (!ag_mul_ok(weights / r->block, r->bytes, &bytes) || bytes > INT64_MAX)
        return ag_err_set(err, AG_E_FILE, "%s: the dimensions of tensor %s are too large to multiply", path, name);
    t->type = r->type;
    t->bytes = bytes;
    return AG_OK;
}

static int by_data(const void *a, const void *b)
{
    const uint8_t *x = (*(const ag_gguf_tensor *const *)a)->data, *y = (*(const ag_gguf_tensor *const *)b)->data;
    return (x > y) - (x < y);
}

static int check_overlaps(const char *path, const ag_gguf_tensor *t, uint32_t n, ag_err *err)
{
    const ag_gguf_tensor **sorted = ag_mem_array(n, sizeof *sorted);
    if (sorted == NULL) return ag_err_set(err, AG_E_NOMEM, "%s: no memory for its table of tensors", path);
    for (uint32_t i = 0; i < n; i++) sorted[i] = &t[i];
    qsort(sorted, n, sizeof *sorted, by_data);
    int rc = AG_OK;
    for (uint32_t i = 1; i < n && rc == AG_OK; i++) {
        const ag_gguf_tensor *a = sorted[i - 1], *b = sorted[i];
        if ((const uint8_t *)a->data + a->bytes <= (const uint8_t *)b->data) continue;
        char x[AG__GGUF_SHOW], y[AG__GGUF_SHOW];
        rc = ag_err_set(err, AG_E_FILE, "%s: the data of tensors %s and %s overlap", path,
                        ag_gguf_show(x, sizeof x, a->name), ag_gguf_show(y, sizeof y, b->name));
    }
    ag_mem_free(sorted);
    return rc;
}

int ag__gguf_place(const ag__gguf_part *part, uint64_t infos_end, uint32_t alignment, ag_gguf_tensor *t,
                   const uint64_t *offset, uint32_t n, ag_err *err)
{
    uint64_t start = AG_ALIGN_UP(infos_end, (uint64_t)alignment);
    char name[AG__GGUF_SHOW];
    for (uint32_t i = 0; i < n; i++) {
        if (offset[i] % alignment != 0)
            return ag_err_set(err, AG_E_FILE, "%s: the data of tensor %s begin at offset %llu, which is no multiple of "
                              "the alignment %u", part->path, ag_gguf_show(name, sizeof name, t[i].name),
                              (unsigned long long)offset[i], alignment);
        uint64_t end;
        if (!ag_add_ok(offset[i], t[i].bytes, &end) || !ag_add_ok(end, start, &end) || end > part->n)
            return ag_err_set(err, AG_E_FILE, "%s: the data of tensor %s (%llu bytes at offset %llu) go past the "
                              "end of the file; it may be truncated", part->path,
                              ag_gguf_show(name, sizeof name, t[i].name),
                              (unsigned long long)t[i].bytes, (unsigned long long)offset[i]);
        t[i].data = part->bytes + start + offset[i];
    }
    return n ? check_overlaps(part->path, t, n, err) : AG_OK;
}
