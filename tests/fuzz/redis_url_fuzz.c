/* Where a Redis URL points, of anything; in memory of exactly its size. */
#include <stdlib.h>

#include "net/redis.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    if (n > 4096) return 0;
    char *url = malloc(n + 1);
    AG_ASSERT(url != NULL);
    memcpy(url, data, n);
    url[n] = 0;
    ag_redis_at at;
    ag_err err = {0};
    if (ag_redis_at_parse(&at, url, &err) == AG_OK)
        AG_ASSERT((at.host[0] != 0) != (at.path[0] != 0) && at.db <= 65535);
    free(url);
    return 0;
}
