#include "base/mem.h"
#include "base/utf8.h"
#include "model/gguf/gguf_priv.h"

/* The fewest bytes that a key (one-letter name, one-byte value) and a tensor's entry (one letter, one dimension) take:
 * what bounds the tables before they are allocated. */
#define KEY_BYTES_MIN (8 + 1 + 4 + 1)
#define TENSOR_BYTES_MIN (8 + 1 + 4 + 8 + 4 + 8)

typedef struct cursor {
    const uint8_t *p, *end;
    const char *path;
    ag_err *err;
} cursor;

static size_t left(const cursor *c) { return (size_t)(c->end - c->p); }

static bool take(cursor *c, void *out, size_t n)
{
    if (left(c) < n) return false;
    memcpy(out, c->p, n);
    c->p += n;
    return true;
}

static bool take_u32(cursor *c, uint32_t *out) { return take(c, out, 4); }
static bool take_u64(cursor *c, uint64_t *out) { return take(c, out, 8); }

static bool take_string(cursor *c, ag_str *out)
{
    uint64_t n;
    if (!take_u64(c, &n) || n > left(c)) return false;
    *out = (ag_str){(const char *)c->p, n};
    c->p += n;
    return true;
}

static int check_name(const cursor *c, const char *what, uint32_t i, ag_str s, size_t max)
{
    if (s.n == 0) return ag_err_set(c->err, AG_E_FILE, "%s: the name of %s %u is empty", c->path, what, i);
    if (s.n > max)
        return ag_err_set(c->err, AG_E_FILE, "%s: the name of %s %u has %zu bytes; at most %zu are right", c->path,
                          what, i, s.n, max);
    if (ag_utf8_check(s.p, s.n) != SIZE_MAX || memchr(s.p, 0, s.n) != NULL)
        return ag_err_set(c->err, AG_E_FILE, "%s: the name of %s %u is not UTF-8 text", c->path, what, i);
    return AG_OK;
}

static int value_cut(const cursor *c, const ag_gguf_value *v)
{
    char name[AG__GGUF_SHOW];
    return ag_err_set(c->err, AG_E_FILE, "%s: the value of key %s goes past the end of the file", c->path,
                      ag_gguf_show(name, sizeof name, v->key));
}

static int check_bools(const cursor *c, const ag_gguf_value *v)
{
    const uint8_t *p = v->data;
    for (uint64_t i = 0; i < v->n; i++)
        if (p[i] > 1) {
            char name[AG__GGUF_SHOW];
            return ag_err_set(c->err, AG_E_FILE, "%s: key %s holds a bool of %u; 0 or 1 is right", c->path,
                              ag_gguf_show(name, sizeof name, v->key), p[i]);
        }
    return AG_OK;
}

/* The n values of type t that begin here; v->data and v->n are set. */
static int take_items(cursor *c, ag_gguf_value *v, ag_gguf_type t, uint64_t n)
{
    v->data = c->p;
    v->n = n;
    if (t == AG_GGUF_STRING) {
        ag_str s;
        for (uint64_t i = 0; i < n; i++) /* each takes 8 bytes at least, so this ends with the file */
            if (!take_string(c, &s)) return value_cut(c, v);
        return AG_OK;
    }
    uint64_t bytes;
    if (!ag_mul_ok(n, ag__gguf_item_bytes(t), &bytes) || bytes > left(c)) return value_cut(c, v);
    c->p += bytes;
    return t == AG_GGUF_BOOL ? check_bools(c, v) : AG_OK;
}

static int take_value(cursor *c, ag_gguf_value *v)
{
    uint32_t type, item;
    uint64_t n;
    char name[AG__GGUF_SHOW];
    if (!take_u32(c, &type)) return value_cut(c, v);
    if (type > AG_GGUF_F64)
        return ag_err_set(c->err, AG_E_FILE, "%s: key %s is of type %u, which does not exist", c->path,
                          ag_gguf_show(name, sizeof name, v->key), type);
    v->type = v->item = (ag_gguf_type)type;
    if (type != AG_GGUF_ARRAY) return take_items(c, v, v->type, 1);
    if (!take_u32(c, &item) || !take_u64(c, &n)) return value_cut(c, v);
    if (item > AG_GGUF_F64)
        return ag_err_set(c->err, AG_E_FILE, "%s: key %s is an array of type %u, which does not exist", c->path,
                          ag_gguf_show(name, sizeof name, v->key), item);
    if (item == AG_GGUF_ARRAY)
        return ag_err_set(c->err, AG_E_UNSUPPORTED, "%s: key %s is an array of arrays, which is not read", c->path,
                          ag_gguf_show(name, sizeof name, v->key));
    v->item = (ag_gguf_type)item;
    return take_items(c, v, v->item, n);
}

static int take_keys(cursor *c, ag__gguf_table *t, uint32_t n)
{
    t->v = ag_mem_array(n, sizeof *t->v);
    if (t->v == NULL) return ag_err_set(c->err, AG_E_NOMEM, "%s: no memory for its table of keys", c->path);
    for (t->n = 0; t->n < n; t->n++) {
        ag_gguf_value *v = &t->v[t->n];
        if (!take_string(c, &v->key))
            return ag_err_set(c->err, AG_E_FILE, "%s: the file ends inside key %u of %u", c->path, t->n, n);
        int rc = check_name(c, "key", t->n, v->key, AG_GGUF_KEY_MAX);
        if (rc == AG_OK) rc = take_value(c, v);
        if (rc != AG_OK) return rc;
    }
    return ag__gguf_table_index(t, c->path, c->err);
}

static int take_tensor(cursor *c, uint32_t i, uint32_t n, ag_gguf_tensor *t, uint64_t *offset)
{
    uint32_t type;
    char name[AG__GGUF_SHOW];
    if (!take_string(c, &t->name))
        return ag_err_set(c->err, AG_E_FILE, "%s: the file ends inside tensor entry %u of %u", c->path, i, n);
    int rc = check_name(c, "tensor", i, t->name, AG_GGUF_NAME_MAX);
    if (rc != AG_OK) return rc;
    if (!take_u32(c, &t->n_dims)) goto cut;
    if (t->n_dims == 0 || t->n_dims > AG_GGUF_DIMS_MAX)
        return ag_err_set(c->err, AG_E_FILE, "%s: tensor %s has %u dimensions; 1 to %d are right", c->path,
                          ag_gguf_show(name, sizeof name, t->name), t->n_dims, AG_GGUF_DIMS_MAX);
    for (uint32_t d = 0; d < AG_GGUF_DIMS_MAX; d++) {
        t->dim[d] = 1;
        if (d < t->n_dims && !take_u64(c, &t->dim[d])) goto cut;
    }
    if (!take_u32(c, &type) || !take_u64(c, offset)) goto cut;
    return ag__gguf_tensor_size(c->path, t, type, c->err);
cut:
    return ag_err_set(c->err, AG_E_FILE, "%s: the file ends inside the entry of tensor %s", c->path,
                      ag_gguf_show(name, sizeof name, t->name));
}

static int read_alignment(const cursor *c, const ag__gguf_table *keys, uint32_t *out)
{
    *out = 32;
    int rc = ag__gguf_table_u32(keys, c->path, "general.alignment", false, out, c->err);
    if (rc != AG_OK) return rc;
    if (*out < 8 || *out > AG_GGUF_ALIGN_MAX || (*out & (*out - 1)) != 0)
        return ag_err_set(c->err, AG_E_FILE, "%s: key general.alignment is %u; a power of two from 8 to %u is right",
                          c->path, *out, AG_GGUF_ALIGN_MAX);
    return AG_OK;
}

static int take_tensors(cursor *c, ag_gguf *g, const ag__gguf_part *part, const ag__gguf_table *keys, uint32_t n)
{
    uint32_t alignment;
    int rc = read_alignment(c, keys, &alignment);
    if (rc != AG_OK || n == 0) return rc;
    uint64_t *offset = ag_mem_array(n, sizeof *offset);
    ag_gguf_tensor *all = ag_mem_resize(g->tensors, (size_t)g->n_tensors + n, sizeof *all);
    if (all != NULL) g->tensors = all;
    if (offset == NULL || all == NULL) {
        rc = ag_err_set(c->err, AG_E_NOMEM, "%s: no memory for its table of tensors", c->path);
        goto out;
    }
    ag_gguf_tensor *t = all + g->n_tensors;
    memset(t, 0, n * sizeof *t);
    for (uint32_t i = 0; i < n && rc == AG_OK; i++) rc = take_tensor(c, i, n, &t[i], &offset[i]);
    if (rc == AG_OK) rc = ag__gguf_place(part, (uint64_t)(c->p - part->bytes), alignment, t, offset, n, c->err);
    if (rc == AG_OK) g->n_tensors += n;
out:
    ag_mem_free(offset);
    return rc;
}

static int check_head(cursor *c, uint32_t *version)
{
    uint8_t magic[4];
    if (!take(c, magic, 4))
        return ag_err_set(c->err, AG_E_FILE, "%s has %zu bytes, too few for a GGUF file", c->path, left(c));
    if (memcmp(magic, "GGUF", 4) != 0)
        return ag_err_set(c->err, AG_E_FILE, "%s is not a GGUF file: it begins with the bytes %02x %02x %02x %02x, not "
                          "with \"GGUF\"", c->path, magic[0], magic[1], magic[2], magic[3]);
    if (!take_u32(c, version)) return ag_err_set(c->err, AG_E_FILE, "%s ends inside its header", c->path);
    if (*version != 0 && (*version & 0xFFFF) == 0)
        return ag_err_set(c->err, AG_E_UNSUPPORTED, "%s is a big-endian GGUF file; only little-endian ones are read",
                          c->path);
    if (*version != 2 && *version != 3)
        return ag_err_set(c->err, AG_E_UNSUPPORTED, "%s is GGUF version %u; versions 2 and 3 are read", c->path,
                          *version);
    return AG_OK;
}

/* `had`: how many other parts have brought already. */
static int check_count(const cursor *c, const char *what, uint64_t n, uint32_t had, uint32_t max, size_t bytes_min)
{
    if (n > max - had)
        return ag_err_set(c->err, AG_E_FILE, "%s: the header claims %llu %s; at most %u are read", c->path,
                          (unsigned long long)n, what, max);
    if (n > left(c) / bytes_min)
        return ag_err_set(c->err, AG_E_FILE, "%s: the header claims %llu %s, more than a file of this size can hold",
                          c->path, (unsigned long long)n, what);
    return AG_OK;
}

int ag__gguf_parse(ag_gguf *g, const ag__gguf_part *part, ag__gguf_table *keys, uint32_t *version, ag_err *err)
{
    cursor c = {part->bytes, part->bytes + part->n, part->path, err};
    uint64_t n_tensors, n_keys;
    int rc = check_head(&c, version);
    if (rc != AG_OK) return rc;
    if (!take_u64(&c, &n_tensors) || !take_u64(&c, &n_keys))
        return ag_err_set(err, AG_E_FILE, "%s ends inside its header", part->path);
    rc = check_count(&c, "keys", n_keys, 0, AG_GGUF_KEYS_MAX, KEY_BYTES_MIN);
    if (rc == AG_OK) rc = check_count(&c, "tensors", n_tensors, g->n_tensors, AG_GGUF_TENSORS_MAX, TENSOR_BYTES_MIN);
    if (rc == AG_OK) rc = take_keys(&c, keys, (uint32_t)n_keys);
    if (rc == AG_OK) rc = take_tensors(&c, g, part, keys, (uint32_t)n_tensors);
    return rc;
}
