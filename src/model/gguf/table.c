#include <float.h>
#include <math.h>
#include <stdlib.h>

#include "base/mem.h"
#include "model/gguf/gguf_priv.h"

static const struct { const char *name; uint32_t bytes; } types[] = {
    [AG_GGUF_U8] = {"u8", 1},         [AG_GGUF_I8] = {"i8", 1},      [AG_GGUF_U16] = {"u16", 2},
    [AG_GGUF_I16] = {"i16", 2},       [AG_GGUF_U32] = {"u32", 4},    [AG_GGUF_I32] = {"i32", 4},
    [AG_GGUF_F32] = {"f32", 4},       [AG_GGUF_BOOL] = {"bool", 1},  [AG_GGUF_STRING] = {"string", 0},
    [AG_GGUF_ARRAY] = {"array", 0},   [AG_GGUF_U64] = {"u64", 8},    [AG_GGUF_I64] = {"i64", 8},
    [AG_GGUF_F64] = {"f64", 8},
};

const char *ag_gguf_type_name(ag_gguf_type t)
{
    AG_ASSERT((size_t)t < AG_ARRAY_LEN(types));
    return types[t].name;
}

uint32_t ag__gguf_item_bytes(ag_gguf_type t)
{
    AG_ASSERT((size_t)t < AG_ARRAY_LEN(types));
    return types[t].bytes;
}

int ag__gguf_str_cmp(ag_str a, ag_str b)
{
    size_t n = AG_MIN(a.n, b.n);
    int c = n ? memcmp(a.p, b.p, n) : 0;
    return c ? c : (a.n > b.n) - (a.n < b.n);
}

static int by_key(const void *a, const void *b)
{
    return ag__gguf_str_cmp((*(const ag_gguf_value *const *)a)->key, (*(const ag_gguf_value *const *)b)->key);
}

int ag__gguf_table_index(ag__gguf_table *t, const char *path, ag_err *err)
{
    t->by_key = ag_mem_array(t->n, sizeof *t->by_key);
    if (t->by_key == NULL) return ag_err_set(err, AG_E_NOMEM, "%s: no memory for its table of keys", path);
    for (uint32_t i = 0; i < t->n; i++) t->by_key[i] = &t->v[i];
    if (t->n) qsort(t->by_key, t->n, sizeof *t->by_key, by_key);
    for (uint32_t i = 1; i < t->n; i++)
        if (by_key(&t->by_key[i - 1], &t->by_key[i]) == 0) {
            char name[AG__GGUF_SHOW];
            return ag_err_set(err, AG_E_FILE, "%s: key %s is there twice", path,
                              ag_gguf_show(name, sizeof name, t->by_key[i]->key));
        }
    return AG_OK;
}

void ag__gguf_table_fini(ag__gguf_table *t)
{
    ag_mem_free(t->by_key);
    ag_mem_free(t->v);
    *t = (ag__gguf_table){0};
}

const ag_gguf_value *ag__gguf_table_find(const ag__gguf_table *t, ag_str key)
{
    uint32_t lo = 0, hi = t->n;
    while (lo < hi) {
        uint32_t mid = lo + (hi - lo) / 2;
        int c = ag__gguf_str_cmp(key, t->by_key[mid]->key);
        if (c == 0) return t->by_key[mid];
        if (c < 0) hi = mid;
        else lo = mid + 1;
    }
    return NULL;
}

/* *out: the value, NULL when it is missing and need not be there. */
static int find_need(const ag__gguf_table *t, const char *path, const char *key, bool need, const ag_gguf_value **out,
                     ag_err *err)
{
    *out = ag__gguf_table_find(t, ag_str_of(key));
    if (*out == NULL && need) return ag_err_set(err, AG_E_FILE, "%s: key %s is missing", path, key);
    return AG_OK;
}

static int wrong_type(const char *path, const ag_gguf_value *v, const char *key, const char *right, ag_err *err)
{
    return ag_err_set(err, AG_E_FILE, "%s: key %s is of type %s; %s was expected", path, key,
                      ag_gguf_type_name(v->type), right);
}

static bool is_int(ag_gguf_type t) { return t <= AG_GGUF_I32 || t == AG_GGUF_U64 || t == AG_GGUF_I64; }

static int64_t load_int(ag_gguf_type t, const uint8_t *p)
{
    union { uint8_t u8; int8_t i8; uint16_t u16; int16_t i16; uint32_t u32; int32_t i32; uint64_t u64; int64_t i64; } x;
    memcpy(&x, p, ag__gguf_item_bytes(t));
    switch (t) {
    case AG_GGUF_BOOL:
    case AG_GGUF_U8: return x.u8;
    case AG_GGUF_I8: return x.i8;
    case AG_GGUF_U16: return x.u16;
    case AG_GGUF_I16: return x.i16;
    case AG_GGUF_U32: return x.u32;
    case AG_GGUF_I32: return x.i32;
    case AG_GGUF_U64: return x.u64 > INT64_MAX ? INT64_MAX : (int64_t)x.u64;
    case AG_GGUF_I64: return x.i64;
    default: break;
    }
    AG_ASSERT(!"an integer type");
    return 0;
}

int64_t ag_gguf_int_at(const ag_gguf_value *v, uint64_t i)
{
    ag_gguf_type t = v->type == AG_GGUF_ARRAY ? v->item : v->type;
    AG_ASSERT(i < v->n && (is_int(t) || t == AG_GGUF_BOOL));
    return load_int(t, (const uint8_t *)v->data + i * ag__gguf_item_bytes(t));
}

double ag_gguf_float_at(const ag_gguf_value *v, uint64_t i)
{
    ag_gguf_type t = v->type == AG_GGUF_ARRAY ? v->item : v->type;
    AG_ASSERT(i < v->n && (t == AG_GGUF_F32 || t == AG_GGUF_F64));
    const uint8_t *p = (const uint8_t *)v->data + i * ag__gguf_item_bytes(t);
    float f;
    double d;
    if (t == AG_GGUF_F64) {
        memcpy(&d, p, 8);
        return d;
    }
    memcpy(&f, p, 4);
    return (double)f;
}

ag_str ag_gguf_string_next(const void **at)
{
    uint64_t n;
    memcpy(&n, *at, 8);
    ag_str s = {(const char *)*at + 8, n};
    *at = s.p + n;
    return s;
}

int ag__gguf_table_u32(const ag__gguf_table *t, const char *path, const char *key, bool need, uint32_t *out,
                       ag_err *err)
{
    const ag_gguf_value *v;
    int rc = find_need(t, path, key, need, &v, err);
    if (rc != AG_OK || v == NULL) return rc;
    if (!is_int(v->type)) return wrong_type(path, v, key, "an integer", err);
    int64_t x = ag_gguf_int_at(v, 0);
    if (x < 0 || x > UINT32_MAX)
        return ag_err_set(err, AG_E_FILE, "%s: key %s is %lld; 0 to %u was expected", path, key, (long long)x,
                          UINT32_MAX);
    *out = (uint32_t)x;
    return AG_OK;
}

int ag_gguf_u32(const ag_gguf *g, const char *key, bool need, uint32_t *out, ag_err *err)
{
    AG_CHECK(g, AG__GGUF_MAGIC);
    return ag__gguf_table_u32(&g->keys, ag_gguf_path(g), key, need, out, err);
}

int ag_gguf_f32(const ag_gguf *g, const char *key, bool need, float *out, ag_err *err)
{
    AG_CHECK(g, AG__GGUF_MAGIC);
    const ag_gguf_value *v;
    int rc = find_need(&g->keys, ag_gguf_path(g), key, need, &v, err);
    if (rc != AG_OK || v == NULL) return rc;
    if (v->type != AG_GGUF_F32 && v->type != AG_GGUF_F64)
        return wrong_type(ag_gguf_path(g), v, key, "f32", err);
    double x = ag_gguf_float_at(v, 0);
    if (!isfinite(x) || fabs(x) > (double)FLT_MAX)
        return ag_err_set(err, AG_E_FILE, "%s: key %s is %g; a finite f32 was expected", ag_gguf_path(g), key, x);
    *out = (float)x;
    return AG_OK;
}

int ag_gguf_bool(const ag_gguf *g, const char *key, bool need, bool *out, ag_err *err)
{
    AG_CHECK(g, AG__GGUF_MAGIC);
    const ag_gguf_value *v;
    int rc = find_need(&g->keys, ag_gguf_path(g), key, need, &v, err);
    if (rc != AG_OK || v == NULL) return rc;
    if (v->type != AG_GGUF_BOOL) return wrong_type(ag_gguf_path(g), v, key, "bool", err);
    *out = ag_gguf_int_at(v, 0) != 0;
    return AG_OK;
}

int ag_gguf_string(const ag_gguf *g, const char *key, bool need, ag_str *out, ag_err *err)
{
    AG_CHECK(g, AG__GGUF_MAGIC);
    const ag_gguf_value *v;
    int rc = find_need(&g->keys, ag_gguf_path(g), key, need, &v, err);
    if (rc != AG_OK || v == NULL) return rc;
    if (v->type != AG_GGUF_STRING) return wrong_type(ag_gguf_path(g), v, key, "string", err);
    const void *at = v->data;
    *out = ag_gguf_string_next(&at);
    return AG_OK;
}
