/* kv.h - which pages of the KV cache are free.
 * Owns    : the list of page numbers; the pages' memory is the backend's.
 * Threads : the engine's thread; ag_kv_used from any.
 * Limits  : the pages given at open.
 * Errors  : AG_E_NOMEM from open; take says false when too few are free and then takes none. */
#ifndef AG_KV_H
#define AG_KV_H

#include "base/err.h"

typedef struct ag_kv ag_kv;

int ag_kv_open(ag_kv **out, uint32_t pages, ag_err *err);
void ag_kv_close(ag_kv *kv); /* asserts that every page has come back */
bool ag_kv_take(ag_kv *kv, uint32_t n, uint32_t *pages);
void ag_kv_put(ag_kv *kv, uint32_t n, const uint32_t *pages); /* a page that is not taken is asserted against */
uint32_t ag_kv_free(const ag_kv *kv);
uint32_t ag_kv_used(const ag_kv *kv);

#endif
