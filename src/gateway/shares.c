#include "gateway/shares.h"

#include <stdlib.h>

#include "base/mem.h"

bool ag_tenant_name_ok(ag_str name)
{
    bool ok = name.n >= 1 && name.n <= AG_TENANT_NAME_MAX;
    for (size_t i = 0; ok && i < name.n; i++) ok = name.p[i] > ' ' && name.p[i] <= '~';
    return ok;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const ag_share *)a)->name, ((const ag_share *)b)->name);
}

/* One "name=weight" of n bytes, the weight after the last '=': a name may hold one. */
static int parse_one(ag_share *to, const char *p, size_t n, ag_err *err)
{
    const char *equals = memrchr(p, '=', n);
    ag_str name = {p, equals ? (size_t)(equals - p) : n};
    char number[32] = "", *end = number;
    double weight = 0;
    size_t digits = equals ? n - name.n - 1 : 0;
    if (digits && digits < sizeof number && strspn(equals + 1, "0123456789.") >= digits) {
        memcpy(number, equals + 1, digits);
        weight = strtod(number, &end);
    }
    if (!ag_tenant_name_ok(name) || *end || !(weight >= AG_SHARE_MIN && weight <= AG_SHARE_MAX))
        return ag_err_set(err, AG_E_USAGE,
                          "tenant-weights: '%.*s' is not NAME=WEIGHT: a name has 1 to %d printable letters without "
                          "blanks or commas, a weight is %g to %g.",
                          (int)AG_MIN(n, 100u), p, AG_TENANT_NAME_MAX, AG_SHARE_MIN, AG_SHARE_MAX);
    memcpy(to->name, name.p, name.n);
    to->weight = (float)weight;
    return AG_OK;
}

int ag_shares_parse(ag_shares *s, const char *text, ag_err *err)
{
    *s = (ag_shares){0};
    if (text == NULL || text[0] == 0) return AG_OK;
    uint32_t n = 1;
    for (const char *p = text; *p && n <= AG_SHARES_MAX; p++) n += *p == ',';
    if (n > AG_SHARES_MAX)
        return ag_err_set(err, AG_E_USAGE, "tenant-weights: at most %d tenants can be named.", AG_SHARES_MAX);
    if ((s->list = ag_mem_array(n, sizeof *s->list)) == NULL)
        return ag_err_set(err, AG_E_NOMEM, "There is no memory for the tenants' weights.");
    int rc = AG_OK;
    for (const char *p = text; rc == AG_OK && s->n < n; p++) {
        size_t k = strcspn(p, ",");
        rc = parse_one(&s->list[s->n++], p, k, err);
        p += k;
    }
    qsort(s->list, s->n, sizeof *s->list, by_name);
    for (uint32_t i = 1; rc == AG_OK && i < s->n; i++)
        if (by_name(&s->list[i - 1], &s->list[i]) == 0)
            rc = ag_err_set(err, AG_E_USAGE, "tenant-weights: '%s' is named twice.", s->list[i].name);
    return rc;
}

void ag_shares_fini(ag_shares *s)
{
    ag_mem_free(s->list);
    *s = (ag_shares){0};
}

float ag_shares_of(const ag_shares *s, const char *tenant)
{
    ag_share key = {0};
    size_t n = strlen(tenant);
    if (s->n == 0 || n >= sizeof key.name) return 1;
    memcpy(key.name, tenant, n);
    const ag_share *found = bsearch(&key, s->list, s->n, sizeof key, by_name);
    return found ? found->weight : 1;
}
