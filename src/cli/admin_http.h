/* admin_http.h - a question put to a running server's admin API.
 * Owns    : nothing; the answer is appended to the caller's buffer.
 * Threads : one.
 * Limits  : the buffer's ceiling; a server that says nothing for 30 s.
 * Errors  : AG_E_IO (no server, no answer), AG_E_PARAM with the server's own sentence, AG_E_LIMIT (an answer
 *           over the ceiling), AG_E_NOMEM, AG_E_USAGE (a URL or a key that is too long). */
#ifndef AG_ADMIN_HTTP_H
#define AG_ADMIN_HTTP_H

#include "base/buf.h"
#include "base/err.h"

typedef struct ag_admin_ask {
    const char *method;
    const char *path; /* behind /admin/v1/, and behind that */
    const char *id;   /* one more segment, or value, of any characters; NULL: none */
    ag_str body;      /* JSON; n 0: none */
} ag_admin_ask;

/* url: "http://HOST:PORT"; key: of the role admin, NULL or "": none. */
int ag_admin_http(const char *url, const char *key, const ag_admin_ask *ask, ag_buf *out, ag_err *err);

#endif
