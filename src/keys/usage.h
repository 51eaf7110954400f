/* usage.h - what was used since it was last written: added up in memory by day, key and model, written in one
 * transaction by whoever has the disk.
 * Owns    : its rows.
 * Threads : add from any, under a lock for less than a microsecond; write from any thread that may wait for the disk.
 * Limits  : AG_USAGE_ROWS_MAX rows that are not written yet; what comes beyond them is not counted, which is.
 * Errors  : write: those of ag_keys_db_usage_add, and AG_E_NOMEM; then the rows are kept for the next time. */
#ifndef AG_USAGE_H
#define AG_USAGE_H

#include "keys/keys_db.h"

#define AG_USAGE_ROWS_MAX 65536

typedef struct ag_usage ag_usage;

typedef struct ag_usage_what {
    const char *key, *tenant, *model;
    uint64_t requests, prompt_tokens, output_tokens;
} ag_usage_what;

int ag_usage_open(ag_usage **out); /* AG_E_NOMEM */
void ag_usage_close(ag_usage *u);  /* what is not written is lost; NULL is fine */
void ag_usage_add(ag_usage *u, uint64_t wall_s, const ag_usage_what *what);
int ag_usage_write(ag_usage *u, ag_keys_db *db, ag_err *err);
uint64_t ag_usage_waiting(ag_usage *u); /* rows */
uint64_t ag_usage_lost(ag_usage *u);    /* calls of add that found no room */

#endif
