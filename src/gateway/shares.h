/* shares.h - tenants' weights, as a setting says them: "gold=3,free=0.5".
 * Owns    : an ag_shares owns its list; init by parse, also when that failed.
 * Threads : any; read-only after it was parsed.
 * Limits  : AG_SHARES_MAX tenants, names of AG_TENANT_NAME_MAX printable bytes without blanks, weights of
 *           AG_SHARE_MIN to AG_SHARE_MAX.
 * Errors  : parse: AG_E_USAGE, AG_E_NOMEM. */
#ifndef AG_SHARES_H
#define AG_SHARES_H

#include "base/err.h"
#include "queue/queue.h"

#define AG_SHARES_MAX 1024
#define AG_SHARE_MIN 0.001
#define AG_SHARE_MAX 1000.0

typedef struct ag_share {
    char name[AG_TENANT_NAME_MAX + 1];
    float weight;
} ag_share;

typedef struct ag_shares {
    ag_share *list; /* by name */
    uint32_t n;
} ag_shares;

int ag_shares_parse(ag_shares *s, const char *text, ag_err *err); /* NULL: none */
void ag_shares_fini(ag_shares *s);
float ag_shares_of(const ag_shares *s, const char *tenant); /* 1 when it is not named */

bool ag_tenant_name_ok(ag_str name);

#endif
