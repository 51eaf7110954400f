/* buf.h - bytes that grow, up to a ceiling that each user names.
 * Owns    : its bytes. The struct is held by the caller (init/fini).
 * Threads : one at a time.
 * Limits  : `max` bytes; a buffer without a ceiling cannot be made.
 * Errors  : the adding functions return false when the ceiling is reached or there is no memory, and `failed` stays
 *           set, so a writer may add many pieces and ask once at the end. What was added before stays. */
#ifndef AG_BUF_H
#define AG_BUF_H

#include "base/base.h"

typedef struct ag_buf {
    char *p;
    size_t n, cap, max;
    bool failed;
} ag_buf;

void ag_buf_init(ag_buf *b, size_t max);
void ag_buf_fini(ag_buf *b);
void ag_buf_reset(ag_buf *b);                         /* n = 0, memory kept, failed cleared */
bool ag_buf_room(ag_buf *b, size_t more);             /* makes room for `more` bytes behind n */
bool ag_buf_add(ag_buf *b, const void *p, size_t n);
bool ag_buf_addz(ag_buf *b, const char *z);
bool ag_buf_addc(ag_buf *b, char c);
bool ag_buf_addu(ag_buf *b, uint64_t n);               /* in digits, without the machinery of addf */
bool ag_buf_addf(ag_buf *b, const char *fmt, ...) AG_PRINTF(2, 3);
void ag_buf_consume(ag_buf *b, size_t n);             /* drops n bytes from the front, n <= b->n */
bool ag_buf_zterm(ag_buf *b);                         /* p[n] = 0, n unchanged */
/* s as a JSON string with its quotes. Bytes that are not UTF-8 become U+FFFD. */
bool ag_buf_add_json(ag_buf *b, const char *s, size_t n);
static inline ag_str ag_buf_str(const ag_buf *b) { return (ag_str){b->p, b->n}; }

#endif
