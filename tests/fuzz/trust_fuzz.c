/* What proxies say, on anything: the first byte says whether the rest is a list of networks, X-Forwarded-For or the
 * PROXY protocol's header, in memory of exactly its size. */
#include <stdlib.h>

#include "base/mem.h"
#include "net/trust.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    if (n < 2 || n > 5000) return 0;
    char *p = malloc(n);
    AG_ASSERT(p != NULL);
    memcpy(p, data + 1, n - 1);
    p[--n] = 0;
    ag__trust t;
    ag_err err = {0};
    ag__ip client = {{0}};
    AG_ASSERT(ag__trust_parse(&t, "10.0.0.0/8,fd00::/9", &err) == AG_OK);
    if (data[0] % 3 == 0) {
        if (ag__trust_parse(&t, p, &err) == AG_OK) ag__trusts(&t, &client);
        AG_ASSERT(t.n <= AG__TRUST_MAX);
    } else if (data[0] % 3 == 1) {
        ag_http_header h = {AG_STR("x-forwarded-for"), {p, n}};
        ag_http_head head = {.headers = &h, .n_headers = 1};
        if (ag__trust_forwarded(&t, &head, &client)) ag__trusts(&t, &client);
    } else {
        size_t used;
        bool named;
        ag__proxied verdict = ag__trust_proxied(p, n, &used, &named, &client);
        AG_ASSERT(used <= n && (verdict == AG__PROXIED) == (used > 0));
    }
    free(p);
    return 0;
}
