/* near.h - "did you mean": the nearest of some names to a word that is none of them.
 * Owns    : nothing.
 * Threads : any.
 * Limits  : words of up to AG_NEAR_MAX bytes; longer ones have no neighbour.
 * Errors  : none. */
#ifndef AG_NEAR_H
#define AG_NEAR_H

#include "base/base.h"

#define AG_NEAR_MAX 63

typedef struct ag_near {
    ag_str word;
    const char *best; /* NULL: nothing near enough */
    unsigned distance;
} ag_near;

void ag_near_begin(ag_near *n, ag_str word);
void ag_near_try(ag_near *n, const char *name); /* keeps name if it is the nearest so far */

#endif
