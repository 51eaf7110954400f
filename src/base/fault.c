#include "base/fault.h"

#ifdef AG_FAULTS
#include <stdatomic.h>
#include <stdlib.h>
#include <strings.h>

static const char *const names[AG_FAULT_COUNT] = {
#define AG_FAULT(name, what) #name,
#include "base/fault.def"
#undef AG_FAULT
};

static _Atomic int64_t left[AG_FAULT_COUNT]; /* points until the failing one; 0: not armed; below 0: fired */

void ag_fault_arm(ag_fault_kind k, uint32_t nth)
{
    AG_ASSERT(k < AG_FAULT_COUNT && nth >= 1);
    atomic_store(&left[k], nth);
}

bool ag_fault_disarm(ag_fault_kind k)
{
    AG_ASSERT(k < AG_FAULT_COUNT);
    return atomic_exchange(&left[k], 0) < 0;
}

bool ag_fault_hit(ag_fault_kind k)
{
    int64_t v = atomic_load_explicit(&left[k], memory_order_relaxed);
    while (v > 0)
        if (atomic_compare_exchange_weak(&left[k], &v, v == 1 ? -1 : v - 1)) return v == 1;
    return false;
}

bool ag_fault_arm_text(const char *text)
{
    while (*text) {
        ag_fault_kind k = 0;
        size_t n = strcspn(text, ":");
        while (k < AG_FAULT_COUNT && (strlen(names[k]) != n || strncasecmp(names[k], text, n) != 0)) k++;
        if (k == AG_FAULT_COUNT || text[n] != ':') return false;
        char *end;
        unsigned long nth = strtoul(text + n + 1, &end, 10);
        if (nth == 0 || nth > UINT32_MAX || (*end && *end != ',')) return false;
        ag_fault_arm(k, (uint32_t)nth);
        text = *end ? end + 1 : end;
    }
    return true;
}
#else
typedef int ag_fault_off; /* a translation unit holds at least one declaration */
#endif
