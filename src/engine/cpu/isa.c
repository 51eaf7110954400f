#include "engine/cpu/layout.h"

#if defined(__x86_64__)
#include <cpuid.h>
#elif defined(__aarch64__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

/* __builtin_cpu_supports also asks whether the operating system saves the registers. */
#if defined(__x86_64__)
static bool ag__has_avx512(void)
{
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vnni");
}

static bool ag__has_avx512bf16(void)
{
    unsigned a, b, c, d;
    return ag__has_avx512() && __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & 1u << 5) != 0;
}

static bool ag__has_amx(void) { return ag__has_avx512() && ag__amx_ready(); }

static bool ag__has_avx2(void)
{
    unsigned a, b, c, d; /* not every compiler knows "f16c" by name */
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __get_cpuid(1, &a, &b, &c, &d) &&
           (c & bit_F16C) != 0;
}

static bool ag__has_avxvnni(void)
{
    unsigned a, b, c, d;
    return ag__has_avx2() && __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & 1u << 4) != 0;
}
#elif defined(__aarch64__)
static bool ag__has_dotprod(void)
{
    return (getauxval(AT_HWCAP) & (HWCAP_ASIMD | HWCAP_ASIMDDP)) == (HWCAP_ASIMD | HWCAP_ASIMDDP);
}

static bool ag__has_i8mm(void) { return ag__has_dotprod() && (getauxval(AT_HWCAP2) & HWCAP2_I8MM) != 0; }
#endif

static bool ag__has_scalar(void) { return true; }

static bool ag__pays_always(void) { return true; }

static const ag_cpu_isa table[] = {
#define AG_ISA(name, needs, there, pays) \
    {#name, needs, there, pays, &ag__ops_##name, ag__burn_##name, ag__burn_float_##name, ag__read_##name},
#include "engine/cpu/isa.def"
#undef AG_ISA
};

const ag_cpu_isa *ag_cpu_isa_find(const char *name)
{
    bool any = name == NULL || name[0] == 0 || strcmp(name, "auto") == 0;
    for (size_t i = 0; i < AG_ARRAY_LEN(table); i++) {
        if ((any || strcmp(name, table[i].name) == 0) && table[i].runs() && (!any || table[i].pays())) return &table[i];
    }
    return NULL;
}

const ag_cpu_isa *ag_cpu_isa_next(const ag_cpu_isa *isa)
{
    if (isa == NULL) return table;
    AG_ASSERT(isa >= table && isa < table + AG_ARRAY_LEN(table));
    return isa + 1 < table + AG_ARRAY_LEN(table) ? isa + 1 : NULL;
}
