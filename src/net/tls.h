/* tls.h - TLS beneath a connection: certificates for a server or a client, a session for a connection; bytes in, bytes
 * out.
 * Owns    : an ag__tls_conf owns its certificates and keys, and is shared by count: the server holds the newest, each
 *           session the one that it began with, so that a reload drops no connection. An ag__tls owns its session.
 * Threads : confs are made by the owner's thread and read by all; a session belongs to its loop.
 * Limits  : AG__TLS_PAIRS_MAX certificates; what is not yet a record, 16 KiB and its head, waits in the session.
 * Errors  : AG_E_USAGE with a sentence (a file that cannot be read, a key of another certificate, one that has
 *           expired), AG_E_NOMEM. The other side's errors end its connection.
 * Speaks  : TLS 1.2 with forward secrecy and TLS 1.3. No renegotiation, no compression, no early data. A server: ALPN
 *           h2 and http/1.1, h2 first; the certificate whose name the client asks for (SNI), else the first. A client:
 *           the server's certificate must be one of its authorities', of now, and for the host, which SNI names. */
#ifndef AG_NET_TLS_H
#define AG_NET_TLS_H

#include "net/http.h"

#define AG__TLS_PAIRS_MAX 16

typedef struct ag__tls_conf ag__tls_conf;
typedef struct ag__tls ag__tls;

int ag__tls_conf_open(ag__tls_conf **out, const ag_http_tls *t, ag_err *err);
/* Of a client: the authorities in a file, or the system's, read now; what it shows of itself. NULL and "": none. */
int ag__tls_conf_open_client(ag__tls_conf **out, const char *ca, const char *cert, const char *key, ag_err *err);
ag__tls_conf *ag__tls_conf_hold(ag__tls_conf *c);
void ag__tls_conf_drop(ag__tls_conf *c); /* NULL is fine */

ag__tls *ag__tls_create(ag__tls_conf *c); /* NULL: no memory */
ag__tls *ag__tls_create_client(ag__tls_conf *c, const char *host); /* a name or an address; begins to speak when read */
void ag__tls_free(ag__tls *t);            /* NULL is fine */

/* Bytes from the socket; false: no memory. Then read until it wants more. */
bool ag__tls_put(ag__tls *t, const char *p, size_t n);
typedef enum ag__tls_ev { AG__TLS_MORE, AG__TLS_DATA, AG__TLS_EOF, AG__TLS_BAD } ag__tls_ev;
ag__tls_ev ag__tls_read(ag__tls *t, char *to, size_t room, size_t *n);

/* Bytes to be sealed; false: the session is broken. Whatever the session has to send is taken by ag__tls_take. */
bool ag__tls_write(ag__tls *t, const char *p, size_t n);
bool ag__tls_take(ag__tls *t, ag_buf *wire); /* false: no memory */
size_t ag__tls_waits(const ag__tls *t);      /* bytes that it would take */
void ag__tls_end(ag__tls *t);                /* says that nothing follows */

bool ag__tls_ready(const ag__tls *t);        /* the handshake is over */
bool ag__tls_is_h2(const ag__tls *t);
void ag__tls_why(const ag__tls *t, char *to, size_t size); /* of one that broke: half a sentence */

#endif
