/* trust.h - proxies that may say who their client is: a list of networks, and what they said.
 * Owns    : nothing; the struct is held by the caller.
 * Threads : any; read-only once parsed.
 * Limits  : AG__TRUST_MAX networks.
 * Errors  : AG_E_USAGE from parse, with the item. What a proxy wrote and cannot be read names nobody.
 * Form    : addresses are 16 bytes, IPv4 as ::ffff:a.b.c.d. */
#ifndef AG_NET_TRUST_H
#define AG_NET_TRUST_H

#include "net/http.h"

#define AG__TRUST_MAX 64

typedef struct ag__ip { uint8_t b[16]; } ag__ip;

typedef struct ag__trust {
    uint32_t n;
    bool local; /* "unix": whoever comes over the Unix socket */
    struct { ag__ip ip; uint8_t bits; } nets[AG__TRUST_MAX];
} ag__trust;

/* "10.0.0.0/8,fd00::/8,192.0.2.7,unix"; NULL or "": none. */
int ag__trust_parse(ag__trust *t, const char *list, ag_err *err);
bool ag__trusts(const ag__trust *t, const ag__ip *ip);

/* The client by X-Forwarded-For: the last address that no trusted proxy has, or where all are theirs the first. false:
 * none that can be read. */
bool ag__trust_forwarded(const ag__trust *t, const ag_http_head *h, ag__ip *client);

/* What a connection begins with by the PROXY protocol, version 2. *used: bytes of it; *named: it names a client. */
typedef enum ag__proxied { AG__PROXIED_MORE, AG__PROXIED_NOT, AG__PROXIED, AG__PROXIED_BAD } ag__proxied;
ag__proxied ag__trust_proxied(const char *p, size_t n, size_t *used, bool *named, ag__ip *client);

#endif
