/* utf8.h - checking and walking UTF-8 (RFC 3629: no surrogates, nothing above U+10FFFF, shortest form only).
 * Owns nothing; any thread; no limits; no errors but the return values. */
#ifndef AG_UTF8_H
#define AG_UTF8_H

#include "base/base.h"

/* Length 1..4 of the valid character at s[0..n), or 0: not valid, or cut off. */
size_t ag_utf8_len(const char *s, size_t n);
/* As ag_utf8_len, and the code point. */
size_t ag_utf8_get(const char *s, size_t n, uint32_t *cp);
/* Writes 1..4 bytes; cp must be a scalar value (asserted). */
size_t ag_utf8_put(char out[4], uint32_t cp);
/* SIZE_MAX when all of s is valid, else the offset of the first byte that is not. */
size_t ag_utf8_check(const char *s, size_t n);
/* How many bytes at the end of s may be the beginning of a character that is not whole yet: 0..3. */
size_t ag_utf8_tail(const char *s, size_t n);

#endif
