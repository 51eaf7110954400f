#include "gateway/guard.h"

#include <arpa/inet.h>
#include <sodium.h>
#include <stdio.h>

#include "base/mem.h"

/* Host and port of "name:port", "[v6]:port" or "name"; false: not one of these. */
static bool split_host(ag_str s, ag_str *name, ag_str *port)
{
    *port = (ag_str){s.p + s.n, 0};
    if (s.n && s.p[0] == '[') {
        const char *end = memchr(s.p, ']', s.n);
        if (end == NULL) return false;
        *name = (ag_str){s.p + 1, (size_t)(end - s.p) - 1};
        ag_str rest = {end + 1, s.n - (size_t)(end + 1 - s.p)};
        if (rest.n == 0) return true;
        if (rest.p[0] != ':') return false;
        *port = (ag_str){rest.p + 1, rest.n - 1};
    } else {
        const char *colon = memchr(s.p, ':', s.n);
        *name = (ag_str){s.p, colon ? (size_t)(colon - s.p) : s.n};
        if (colon) *port = (ag_str){colon + 1, s.n - name->n - 1};
    }
    if (port->n > 5) return false;
    for (size_t i = 0; i < port->n; i++)
        if (port->p[i] < '0' || port->p[i] > '9') return false;
    return name->n > 0;
}

static bool name_is_loopback(ag_str name)
{
    char z[64];
    struct in_addr v4;
    struct in6_addr v6;
    if (ag_str_ieq(name, AG_STR("localhost"))) return true;
    if (name.n >= sizeof z || memchr(name.p, 0, name.n)) return false;
    memcpy(z, name.p, name.n);
    z[name.n] = 0;
    if (inet_pton(AF_INET, z, &v4) == 1) return (ntohl(v4.s_addr) >> 24) == 127;
    return inet_pton(AF_INET6, z, &v6) == 1 && IN6_IS_ADDR_LOOPBACK(&v6);
}

bool ag_host_is_loopback(ag_str host)
{
    ag_str name, port;
    if (host.n == 0 || !split_host(host, &name, &port)) return false;
    if (host.p[0] != '[' && memchr(name.p, ':', name.n)) return false;
    return name_is_loopback(name);
}

bool ag_address_is_loopback(const char *host) { return name_is_loopback(ag_str_of(host)); }

int ag_origins_parse(ag_origins *o, const char *text, ag_err *err)
{
    *o = (ag_origins){0};
    if (text == NULL || text[0] == 0) return AG_OK;
    if ((o->text = ag_mem_strndup(text, strlen(text))) == NULL)
        return ag_err_set(err, AG_E_NOMEM, "There is no memory for the list of origins.");
    for (char *at = o->text, *next; at; at = next) {
        if ((next = strchr(at, ','))) *next++ = 0;
        at += strspn(at, " ");
        ag_str one = ag_str_of(at);
        while (one.n && (one.p[one.n - 1] == ' ' || one.p[one.n - 1] == '/')) one.n--;
        if (one.n == 0) continue;
        if (ag_str_eqz(one, "*")) {
            o->any = true;
            continue;
        }
        ag_str name, port;
        size_t scheme = ag_str_starts(one, AG_STR("http://")) ? 7 : ag_str_starts(one, AG_STR("https://")) ? 8 : 0;
        if (scheme == 0 || !split_host((ag_str){one.p + scheme, one.n - scheme}, &name, &port) ||
            memchr(one.p + scheme, '/', one.n - scheme)) {
            ag_err_set(err, AG_E_USAGE,
                       "'%s' is not an origin; write it like https://app.example or http://localhost:3000.", at);
            ag_origins_fini(o);
            return AG_E_USAGE;
        }
        if (o->n == AG_ORIGINS_MAX) {
            ag_err_set(err, AG_E_USAGE, "More than %d origins were given.", AG_ORIGINS_MAX);
            ag_origins_fini(o);
            return AG_E_USAGE;
        }
        o->list[o->n++] = one;
    }
    return AG_OK;
}

void ag_origins_fini(ag_origins *o)
{
    ag_mem_free(o->text);
    *o = (ag_origins){0};
}

bool ag_origins_has(const ag_origins *o, ag_str origin)
{
    for (uint32_t i = 0; i < o->n; i++)
        if (ag_str_ieq(o->list[i], origin)) return true;
    return o->any;
}

bool ag_origin_is_own(ag_str origin, ag_str host)
{
    size_t scheme = ag_str_starts(origin, AG_STR("http://")) ? 7 : ag_str_starts(origin, AG_STR("https://")) ? 8 : 0;
    return scheme && host.n && ag_str_ieq((ag_str){origin.p + scheme, origin.n - scheme}, host);
}

static void key_hash(const ag_auth *a, ag_str key, uint8_t out[32])
{
    crypto_generichash(out, 32, (const unsigned char *)key.p, key.n, a->salt, sizeof a->salt);
}

void ag_auth_set(ag_auth *a, const char *key)
{
    *a = (ag_auth){.on = key != NULL && key[0] != 0};
    if (!a->on) return;
    randombytes_buf(a->salt, sizeof a->salt);
    key_hash(a, ag_str_of(key), a->hash);
}

ag_str ag_bearer(ag_str s)
{
    if (s.n < 8 || !ag_str_ieq((ag_str){s.p, 7}, AG_STR("Bearer "))) return (ag_str){0};
    s = (ag_str){s.p + 7, s.n - 7};
    while (s.n && s.p[0] == ' ') s = (ag_str){s.p + 1, s.n - 1};
    return s;
}

bool ag_auth_check_key(const ag_auth *a, ag_str key)
{
    if (!a->on) return true;
    /* The hashes are of one length whatever was sent, and without the salt nobody can steer them. */
    uint8_t hash[32];
    key_hash(a, key, hash);
    return sodium_memcmp(hash, a->hash, sizeof hash) == 0;
}

bool ag_media_is_json(ag_str type)
{
    const char *semi = type.n ? memchr(type.p, ';', type.n) : NULL;
    ag_str main = {type.p, semi ? (size_t)(semi - type.p) : type.n};
    while (main.n && (main.p[main.n - 1] == ' ' || main.p[main.n - 1] == '\t')) main.n--;
    if (!ag_str_ieq(main, AG_STR("application/json"))) return false;
    for (const char *p = semi; p && p < type.p + type.n; p++) {
        ag_str rest = {p, type.n - (size_t)(p - type.p)};
        if (rest.n < 8 || !ag_str_ieq((ag_str){rest.p, 8}, AG_STR("charset="))) continue;
        ag_str set = {rest.p + 8, rest.n - 8};
        if (set.n && set.p[0] == '"') set = (ag_str){set.p + 1, set.n - 1};
        bool utf8 = set.n >= 5 && ag_str_ieq((ag_str){set.p, 5}, AG_STR("utf-8"));
        return utf8 || (set.n >= 4 && ag_str_ieq((ag_str){set.p, 4}, AG_STR("utf8")));
    }
    return true;
}

/* Some a request: the kernel, which takes a system call each time, is asked for many at once. Keys and salts come from
 * it alone. */
void ag_random_bytes(void *out, size_t n)
{
    static _Thread_local struct { uint8_t bytes[1024]; size_t left; } pool;
    AG_ASSERT(n <= sizeof pool.bytes);
    if (pool.left < n) {
        randombytes_buf(pool.bytes, sizeof pool.bytes);
        pool.left = sizeof pool.bytes;
    }
    pool.left -= n;
    memcpy(out, pool.bytes + pool.left, n);
    memset(pool.bytes + pool.left, 0, n);
}

void ag_random_hex(char *out, uint32_t bytes)
{
    uint8_t raw[32];
    AG_ASSERT(bytes <= sizeof raw);
    ag_random_bytes(raw, bytes);
    sodium_bin2hex(out, bytes * 2 + 1, raw, bytes);
}

void ag_request_id(char out[AG_ID_MAX + 1], ag_str given)
{
    bool sane = given.n >= 1 && given.n <= AG_ID_MAX;
    for (size_t i = 0; sane && i < given.n; i++) sane = given.p[i] > ' ' && given.p[i] <= '~';
    if (sane) {
        memcpy(out, given.p, given.n);
        out[given.n] = 0;
    } else {
        memcpy(out, "req-", 4);
        ag_random_hex(out + 4, 12);
    }
}

static bool is_hex(const char *p, size_t n, bool *zero)
{
    *zero = true;
    for (size_t i = 0; i < n; i++) {
        if (!((p[i] >= '0' && p[i] <= '9') || (p[i] >= 'a' && p[i] <= 'f'))) return false;
        *zero = *zero && p[i] == '0';
    }
    return true;
}

bool ag_trace_id(char trace[33], ag_str t)
{
    bool zero, ok = t.n >= 55 && t.p[2] == '-' && t.p[35] == '-' && t.p[52] == '-';
    ok = ok && is_hex(t.p, 2, &zero) && memcmp(t.p, "ff", 2) != 0;
    /* Version 00 ends here; a later one may go on after a dash. */
    ok = ok && (t.n == 55 || (memcmp(t.p, "00", 2) != 0 && t.p[55] == '-'));
    ok =
        ok && is_hex(t.p + 3, 32, &zero) && !zero && is_hex(t.p + 36, 16, &zero) && !zero && is_hex(t.p + 53, 2, &zero);
    if (ok) {
        memcpy(trace, t.p + 3, 32);
        trace[32] = 0;
    } else {
        ag_random_hex(trace, 16);
    }
    return ok;
}
