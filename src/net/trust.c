#include "net/trust.h"

#include <arpa/inet.h>
#include <stdio.h>

/* Addresses and what extensions a balancer adds; more is none of its headers. */
#define PROXIED_BYTES_MAX 1024
#define SIGNATURE "\r\n\r\n\0\r\nQUIT\n"
#define SIGNATURE_BYTES 12

static void of_v4(ag__ip *ip, const void *v4)
{
    *ip = (ag__ip){.b = {[10] = 0xFF, [11] = 0xFF}};
    memcpy(ip->b + 12, v4, 4);
}

/* An address alone; *v4: written with dots. */
static bool read_ip(ag_str text, ag__ip *ip, bool *v4)
{
    char z[INET6_ADDRSTRLEN];
    struct in_addr a;
    if (text.n == 0 || text.n >= sizeof z) return false;
    memcpy(z, text.p, text.n);
    z[text.n] = 0;
    *v4 = inet_pton(AF_INET, z, &a) == 1;
    if (*v4) of_v4(ip, &a);
    return *v4 || inet_pton(AF_INET6, z, ip->b) == 1;
}

static bool read_net(ag__trust *t, ag_str item)
{
    const char *slash = memchr(item.p, '/', item.n);
    ag_str address = {item.p, slash ? (size_t)(slash - item.p) : item.n};
    uint32_t bits = 0;
    bool v4;
    ag__ip ip;
    if (!read_ip(address, &ip, &v4)) return false;
    uint32_t most = v4 ? 32 : 128;
    if (slash) {
        const char *p = slash + 1, *end = item.p + item.n;
        if (p == end || end - p > 3) return false;
        for (; p < end; p++) {
            if (*p < '0' || *p > '9') return false;
            bits = bits * 10 + (uint32_t)(*p - '0');
        }
    } else {
        bits = most;
    }
    if (bits > most || t->n == AG__TRUST_MAX) return false;
    t->nets[t->n].ip = ip;
    t->nets[t->n++].bits = (uint8_t)(bits + 128 - most);
    return true;
}

int ag__trust_parse(ag__trust *t, const char *list, ag_err *err)
{
    *t = (ag__trust){0};
    ag_str rest = list && *list ? ag_str_of(list) : (ag_str){0}, item;
    while (ag_str_next(&rest, &item)) {
        if (ag_str_eqz(item, "unix")) t->local = true;
        else if (!read_net(t, item))
            return ag_err_set(err, AG_E_USAGE,
                              "'%.*s' is not a network of trusted proxies; write up to %d like 10.0.0.0/8, fd00::/8, "
                              "192.0.2.7, or unix",
                              (int)AG_MIN(item.n, (size_t)64), item.p, AG__TRUST_MAX);
    }
    return AG_OK;
}

bool ag__trusts(const ag__trust *t, const ag__ip *ip)
{
    for (uint32_t i = 0; i < t->n; i++) {
        uint32_t whole = t->nets[i].bits / 8, rest = t->nets[i].bits % 8;
        if (memcmp(ip->b, t->nets[i].ip.b, whole) != 0) continue;
        if (rest == 0 || (ip->b[whole] ^ t->nets[i].ip.b[whole]) >> (8 - rest) == 0) return true;
    }
    return false;
}

static ag_str trim(ag_str s)
{
    while (s.n && (s.p[0] == ' ' || s.p[0] == '\t')) s.p++, s.n--;
    while (s.n && (s.p[s.n - 1] == ' ' || s.p[s.n - 1] == '\t')) s.n--;
    return s;
}

/* "192.0.2.1", "192.0.2.1:80", "2001:db8::1", "[2001:db8::1]:80". */
static bool read_hop(ag_str s, ag__ip *ip)
{
    bool v4;
    s = trim(s);
    if (s.n && s.p[0] == '[') {
        const char *end = memchr(s.p, ']', s.n);
        return end && read_ip((ag_str){s.p + 1, (size_t)(end - s.p - 1)}, ip, &v4);
    }
    if (read_ip(s, ip, &v4)) return true;
    const char *colon = s.n ? memchr(s.p, ':', s.n) : NULL;
    return colon && read_ip((ag_str){s.p, (size_t)(colon - s.p)}, ip, &v4) && v4;
}

bool ag__trust_forwarded(const ag__trust *t, const ag_http_head *h, ag__ip *client)
{
    bool found = false;
    for (uint32_t i = h->n_headers; i-- > 0;) { /* each proxy adds at the end, so what can be believed stands there */
        if (!ag_str_ieq(h->headers[i].name, AG_STR("x-forwarded-for"))) continue;
        ag_str rest = h->headers[i].value;
        while (rest.n) {
            const char *comma = memrchr(rest.p, ',', rest.n);
            size_t at = comma ? (size_t)(comma - rest.p) + 1 : 0;
            ag__ip hop;
            if (!read_hop((ag_str){rest.p + at, rest.n - at}, &hop)) return found;
            *client = hop;
            found = true;
            if (!ag__trusts(t, &hop)) return true;
            rest.n = comma ? at - 1 : 0;
        }
    }
    return found;
}

ag__proxied ag__trust_proxied(const char *p, size_t n, size_t *used, bool *named, ag__ip *client)
{
    *named = false;
    *used = 0;
    if (memcmp(p, SIGNATURE, AG_MIN(n, (size_t)SIGNATURE_BYTES)) != 0) return AG__PROXIED_NOT;
    if (n < 16) return AG__PROXIED_MORE;
    const unsigned char *b = (const unsigned char *)p;
    size_t size = (size_t)b[14] << 8 | b[15];
    uint8_t command = b[12], family = b[13];
    if ((command != 0x20 && command != 0x21) || size > PROXIED_BYTES_MAX) return AG__PROXIED_BAD;
    if (n < 16 + size) return AG__PROXIED_MORE;
    switch (command == 0x20 ? 0x00 : family) { /* 0x20: the proxy speaks for itself */
    case 0x11: /* TCP over IPv4: two addresses, two ports */
        if (size < 12) return AG__PROXIED_BAD;
        of_v4(client, b + 16);
        *named = true;
        break;
    case 0x21:
        if (size < 36) return AG__PROXIED_BAD;
        memcpy(client->b, b + 16, 16);
        *named = true;
        break;
    case 0x00: /* it does not know */
    case 0x31: /* a Unix socket */
        break;
    default: return AG__PROXIED_BAD;
    }
    *used = 16 + size;
    return AG__PROXIED;
}
