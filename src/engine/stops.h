/* stops.h - finds stop strings in a text that comes piece by piece, across the borders of pieces.
 * Owns    : the strings and the last bytes of the text.
 * Threads : one.
 * Limits  : AG_GEN_STOPS_MAX strings of AG_GEN_STOP_BYTES_MAX bytes.
 * Errors  : AG_E_PARAM, AG_E_NOMEM from init. Adding a piece that there is no memory for: false.
 * Cost    : a piece costs its own length plus the longest stop's, times the number of stops. */
#ifndef AG_STOPS_H
#define AG_STOPS_H

#include "base/buf.h"
#include "engine/gen.h"

typedef struct ag_stops {
    ag_str *stops;
    uint32_t n;
    char *bytes;      /* what the strings point into */
    size_t longest;
    ag_buf tail;      /* the last bytes of the text, enough to hold the beginning of any stop */
    uint64_t total;   /* bytes of text so far */
} ag_stops;

int ag_stops_init(ag_stops *s, const ag_str *stops, uint32_t n, ag_err *err);
void ag_stops_fini(ag_stops *s);
/* Adds a piece. *safe: bytes of the text that cannot be part of a stop any more; *found: a stop is complete, and *safe
 * is where the earliest one begins. Without `match` stops are not looked for (min_tokens). false: no memory. */
bool ag_stops_add(ag_stops *s, ag_str piece, bool match, uint64_t *safe, bool *found);

#endif
