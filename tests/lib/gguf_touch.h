/* gguf_touch.h - asks an opened GGUF file everything that its interface can answer, so that a sanitizer sees any read
 * that the checks at opening should have prevented.
 * Owns nothing; one thread; no limits. Ends the program where two answers contradict each other. */
#ifndef AG_TESTS_GGUF_TOUCH_H
#define AG_TESTS_GGUF_TOUCH_H

#include "base/mem.h"
#include "model/gguf/gguf.h"

static inline uint64_t gguf_touch_value(const ag_gguf_value *v)
{
    ag_gguf_type t = v->type == AG_GGUF_ARRAY ? v->item : v->type;
    const void *at = v->data;
    char shown[64];
    uint64_t sum = strlen(ag_gguf_type_name(v->type)) + strlen(ag_gguf_show(shown, sizeof shown, v->key));
    for (uint64_t i = 0; i < v->n; i++) {
        if (t == AG_GGUF_STRING) {
            ag_str s = ag_gguf_string_next(&at);
            sum += strlen(ag_gguf_show(shown, sizeof shown, s));
            for (size_t k = 0; k < s.n; k++) sum += (unsigned char)s.p[k];
        } else if (t == AG_GGUF_F32 || t == AG_GGUF_F64) {
            sum += ag_gguf_float_at(v, i) > 0;
        } else {
            sum += (uint64_t)ag_gguf_int_at(v, i);
        }
    }
    return sum;
}

static inline uint64_t gguf_touch_tensor(const ag_gguf_tensor *t)
{
    float y[256];
    const ag_quant_row *r = ag_quant_find((uint32_t)t->type);
    AG_ASSERT(r != NULL && t->n_dims >= 1 && t->n_dims <= AG_GGUF_DIMS_MAX && t->bytes >= r->bytes);
    ag_quant_dequantize(t->type, t->data, y, r->block);
    return (uint64_t)(y[0] > 0) + ((const uint8_t *)t->data)[t->bytes - 1];
}

static inline uint64_t gguf_touch(const ag_gguf *g)
{
    uint64_t sum = ag_gguf_version(g) + ag_gguf_file_bytes(g) + ag_gguf_part_count(g) + strlen(ag_gguf_path(g));
    for (uint32_t i = 0; i < ag_gguf_value_count(g); i++) {
        const ag_gguf_value *v = ag_gguf_value_at(g, i);
        sum += gguf_touch_value(v);
        char *key = ag_mem_strndup(v->key.p, v->key.n);
        if (key == NULL) continue;
        AG_ASSERT(ag_gguf_value_find(g, key) == v);
        uint32_t u;
        float f;
        bool b;
        ag_str s;
        sum += (uint64_t)(ag_gguf_u32(g, key, true, &u, NULL) == AG_OK);
        sum += (uint64_t)(ag_gguf_f32(g, key, true, &f, NULL) == AG_OK);
        sum += (uint64_t)(ag_gguf_bool(g, key, true, &b, NULL) == AG_OK);
        sum += (uint64_t)(ag_gguf_string(g, key, true, &s, NULL) == AG_OK);
        ag_mem_free(key);
    }
    for (uint32_t i = 0; i < ag_gguf_tensor_count(g); i++) {
        const ag_gguf_tensor *t = ag_gguf_tensor_at(g, i);
        sum += gguf_touch_tensor(t);
        ag_gguf_release(g, t->data, t->bytes);
        char *name = ag_mem_strndup(t->name.p, t->name.n);
        if (name == NULL) continue;
        AG_ASSERT(ag_gguf_tensor_find(g, name) == t);
        ag_mem_free(name);
    }
    return sum;
}

#endif
