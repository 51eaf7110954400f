/* addr.h - how many connections each client address has open.
 * Owns    : a table of fixed size, made at open.
 * Threads : any; a lock held for a few instructions, taken once when a connection opens and once when it closes.
 * Limits  : `cap` addresses at once, as many as there can be connections; a full table refuses.
 * Errors  : AG_E_NOMEM, AG_E_IO from open only.
 * IPv6    : a client owns at least a /64, so addresses are counted by their first 64 bits. */
#ifndef AG_NET_ADDR_H
#define AG_NET_ADDR_H

#include <sys/socket.h>

#include "base/err.h"
#include "net/trust.h"

typedef struct ag__addrs ag__addrs;
typedef struct ag__addr { uint8_t b[16]; } ag__addr; /* all zeros: not an internet address, not counted */

int ag__addrs_open(ag__addrs **out, uint32_t cap);
void ag__addrs_close(ag__addrs *t);                            /* asserts that it is empty; NULL is fine */
bool ag__addrs_get(ag__addrs *t, const ag__addr *a, uint32_t max); /* one more; false: it has `max`, or no slot left */
void ag__addrs_put(ag__addrs *t, const ag__addr *a);               /* one less */
uint32_t ag__addrs_count(ag__addrs *t);                            /* different addresses now */

/* The address of a peer; false: it has none (a Unix socket). */
bool ag__ip_of(const struct sockaddr *sa, ag__ip *ip);
/* What to count it under, and its text. */
void ag__addr_of(const ag__ip *ip, ag__addr *a, char *text, size_t n_text);

#endif
