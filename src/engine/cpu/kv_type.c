#include "engine/cpu/kv_type.h"

#include "engine/cpu/cpu.h"

static const char *const names[] = {[AG_KV_F16] = "f16", [AG_KV_Q8_0] = "q8_0", [AG_KV_F32] = "f32"};

ag_kv_type ag_kv_type_of(const char *name)
{
    for (size_t i = 0; i < AG_ARRAY_LEN(names); i++)
        if (strcmp(name, names[i]) == 0) return (ag_kv_type)i;
    return AG_KV_F16;
}

size_t ag_kv_head_bytes(ag_kv_type t, uint32_t dim)
{
    size_t n = (size_t)AG_CPU_KV_PAGE * dim;
    return t == AG_KV_F32 ? n * sizeof(float) : t == AG_KV_F16 ? n * sizeof(uint16_t) : n + n / 32 * sizeof(uint16_t);
}

bool ag_kv_fits(ag_kv_type t, uint32_t dim) { return t != AG_KV_Q8_0 || dim % 32 == 0; }
