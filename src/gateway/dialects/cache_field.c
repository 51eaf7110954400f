/* cache_field.c - the field "cache": what a caller says of the response cache. */
#include <stdio.h>

#include "gateway/dialects/fields.h"

static int take_mode(ag_caching_ask *a, const json_t *v, ag_err *err)
{
    static const char *const names[] = {
        [AG_CACHING_USE] = "use", [AG_CACHING_REFRESH] = "refresh", [AG_CACHING_OFF] = "off"};
    for (size_t i = AG_CACHING_USE; json_is_string(v) && i < AG_ARRAY_LEN(names); i++)
        if (strcmp(json_string_value(v), names[i]) == 0) {
            a->mode = (ag_caching_mode)i;
            return AG_OK;
        }
    return ag_request_fail(err, AG_E_PARAM, "cache", "'cache.mode' must be \"use\", \"refresh\" or \"off\".");
}

/* As a query can name it. */
static bool is_word(const char *p, size_t n)
{
    size_t i = 0;
    while (i < n && p[i] > ' ' && p[i] <= '~') i++;
    return i == n;
}

static int take_tags(ag_caching_ask *a, const json_t *v, ag_err *err)
{
    bool ok = json_is_array(v) && json_array_size(v) <= AG_REQUEST_TAGS_MAX;
    for (size_t i = 0; ok && i < json_array_size(v); i++) {
        const json_t *tag = json_array_get(v, i);
        size_t n = json_string_length(tag);
        ok = json_is_string(tag) && n >= 1 && n <= AG_REQUEST_TAG_BYTES_MAX && is_word(json_string_value(tag), n);
        a->tags[i] = (ag_str){json_string_value(tag), n};
        a->n_tags = (uint32_t)i + 1;
    }
    if (ok) return AG_OK;
    return ag_request_fail(err, AG_E_PARAM, "cache",
                           "'cache.tags' must be an array of at most %d strings of 1 to %d printable ASCII characters "
                           "without blanks.",
                           AG_REQUEST_TAGS_MAX, AG_REQUEST_TAG_BYTES_MAX);
}

int ag__parse_cache(ag_request *r, const json_t *v, ag_err *err)
{
    const char *name;
    json_t *one;
    if (!json_is_object(v)) return ag__wrong_type(err, "cache", "an object", v);
    json_object_foreach((json_t *)(uintptr_t)v, name, one) {
        int64_t ttl = 0;
        ag_err e = {0};
        int rc = AG_OK;
        if (json_is_null(one)) continue;
        if (strcmp(name, "mode") == 0) rc = take_mode(&r->cache, one, err);
        else if (strcmp(name, "tags") == 0) rc = take_tags(&r->cache, one, err);
        else if (strcmp(name, "ttl_s") == 0)
            rc = ag__json_integer(one, "cache.ttl_s", 1, AG_REQUEST_TTL_MAX_S, &ttl, &e);
        else return ag_request_fail(err, AG_E_PARAM, "cache", "'cache' has mode, ttl_s and tags, not '%.40s'.", name);
        if (rc != AG_OK && e.code != AG_OK) return ag_request_fail(err, rc, "cache", "%s", e.text);
        if (rc != AG_OK) return rc;
        if (ttl) r->cache.ttl_s = (uint32_t)ttl;
    }
    return AG_OK;
}
