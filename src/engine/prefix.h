/* prefix.h - what is kept of prompts, in a file from one run of a server to the next: the tree of pages, the pages, and
 * the key of the tenants' salts, without which nobody would find them again.
 * Owns    : nothing between two calls.
 * Threads : the engine's, before its first step and after its last.
 * Limits  : bytes_max of the file: what was used last is kept. Loading takes as many pages as are free.
 * Errors  : load: AG_E_NOT_FOUND (no file), AG_E_FILE (of another model, program or cache, damaged, or not ours alone;
 *           the sentence says which), AG_E_IO, AG_E_NOMEM; then nothing was taken. save: those of stored.h, AG_E_NOMEM.
 *           What lay under the name stays until the new file is whole.
 * Layout  : head, rows, the tokens of each row's page; zeros to a multiple of 4096; then the pages, in the rows' order.
 *           It holds what people wrote, and the key: nobody else may read it (0600). Little-endian machines write and
 *           read it; others refuse it by `order`. */
#ifndef AG_PREFIX_H
#define AG_PREFIX_H

#include "engine/lm.h"
#include "engine/sched/kv.h"

#define AG_PREFIX_VERSION 1u
#define AG_PREFIX_DATA_ALIGN 4096u
#define AG_PREFIX_KEY_BYTES 16

typedef struct ag_prefix_head {
    char magic[8];
    uint32_t version, order;       /* order: 0x01020304 */
    uint64_t model;                /* ag_gguf_digest */
    uint64_t program;              /* what computed them: version, numerics, instruction set */
    uint64_t cache;                /* shape and type of keys and values */
    uint32_t page_tokens, pages;   /* pages: rows */
    uint64_t page_bytes, data_at;
    unsigned char key[AG_PREFIX_KEY_BYTES];
    uint64_t check;                /* XXH3 of head (this field as 0), rows and tokens */
} ag_prefix_head;

typedef struct ag_prefix_row {
    uint64_t salt;
    uint64_t sum;                  /* XXH3 of the page */
    uint32_t before;               /* the row of the page that it goes on from; UINT32_MAX: it is a prefix's first */
    uint32_t zero;
} ag_prefix_row;

typedef struct ag_prefix {
    const char *path;
    uint64_t bytes_max;
    uint64_t model, program, cache; /* as in the head */
    uint32_t page_tokens, pages_max, vocab;
    uint64_t page_bytes;
    ag_kv *kv;
    unsigned char *key;            /* AG_PREFIX_KEY_BYTES: replaced by the file's */
    unsigned char *(*page)(void *arg, uint32_t page);
    void *arg;
} ag_prefix;

/* Of this model, on this backend. */
void ag_prefix_init(ag_prefix *p, ag_lm *lm, ag_kv *kv, unsigned char *key);
int ag_prefix_load(const ag_prefix *p, uint32_t *pages, ag_err *err);
int ag_prefix_save(const ag_prefix *p, uint32_t *pages, ag_err *err); /* with nothing kept, nothing is written */

#endif
