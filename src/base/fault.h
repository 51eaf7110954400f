/* fault.h - failures on demand: the n-th allocation, read or the like fails, so that tests walk every way out.
 * Owns    : one counter per kind, process-wide; the only mutable state outside a server, and only in builds with
 *           AG_FAULTS. Without it every point is a constant false.
 * Threads : arm and disarm from one thread; points may be hit from any.
 * Limits  : kinds are rows of fault.def.
 * Errors  : none of its own. */
#ifndef AG_FAULT_H
#define AG_FAULT_H

#include "base/base.h"

typedef enum ag_fault_kind {
#define AG_FAULT(name, what) AG_FAULT_##name,
#include "base/fault.def"
#undef AG_FAULT
    AG_FAULT_COUNT
} ag_fault_kind;

#ifdef AG_FAULTS
void ag_fault_arm(ag_fault_kind k, uint32_t nth); /* the nth point of this kind from now fails, once; nth >= 1 */
bool ag_fault_disarm(ag_fault_kind k);            /* true: it fired */
bool ag_fault_hit(ag_fault_kind k);               /* asked at the point itself */
/* "alloc:17,read:3" as in AUTOGLM_FAULT; false: not understood. */
bool ag_fault_arm_text(const char *text);
#else
static inline bool ag_fault_hit(ag_fault_kind k) { (void)k; return false; }
#endif

#endif
