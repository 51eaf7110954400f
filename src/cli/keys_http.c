#include "cli/keys_http.h"

#include <string.h>

#include "cli/admin_http.h"

static const struct {
    ag_keys_verb verb;
    const char *method, *path;
} routes[] = {
    {AG_KEYS_CREATE, "POST", "keys"},       {AG_KEYS_LIST, "GET", "keys"},
    {AG_KEYS_GET, "GET", "keys/"},          {AG_KEYS_ROTATE, "POST", "keys/"},
    {AG_KEYS_REVOKE, "DELETE", "keys/"},    {AG_KEYS_LIMITS_LIST, "GET", "limits"},
    {AG_KEYS_LIMITS_GET, "GET", "limits/"}, {AG_KEYS_LIMITS_SET, "PATCH", "limits/"},
    {AG_KEYS_USAGE, "GET", "usage"},
};

int ag_keys_http(const char *url, const char *key, const ag_keys_ask *ask, ag_buf *out, ag_err *err)
{
    size_t i = 0;
    while (routes[i].verb != ask->verb) i++;
    bool named = routes[i].path[strlen(routes[i].path) - 1] == '/';
    ag_admin_ask a = {.method = routes[i].method, .path = routes[i].path, .id = named ? ask->id : NULL,
                      .body = ask->body};
    return ag_admin_http(url, key, &a, out, err);
}
