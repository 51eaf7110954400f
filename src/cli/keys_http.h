/* keys_http.h - a question about keys, put to a running server by its admin API.
 * Owns    : nothing; the answer is appended to the caller's buffer.
 * Threads : one.
 * Limits  : the buffer's ceiling; a server that says nothing for 30 s.
 * Errors  : AG_E_IO (no server, no answer), AG_E_PARAM with the server's own sentence, AG_E_NOMEM. */
#ifndef AG_KEYS_HTTP_H
#define AG_KEYS_HTTP_H

#include "keys/admin.h"

/* url: "http://HOST:PORT"; key: of the role admin, NULL or "": none. */
int ag_keys_http(const char *url, const char *key, const ag_keys_ask *ask, ag_buf *out, ag_err *err);

#endif
