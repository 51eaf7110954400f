/* gguf_priv.h - what the files of this room share; nobody else includes it.
 * Owns    : a part owns its path and, when mapped, its mapping; a table owns its rows.
 * Threads : as gguf.h.
 * Limits  : as gguf.h.
 * Errors  : as gguf.h; functions that can fail set the sentence themselves. */
#ifndef AG_GGUF_PRIV_H
#define AG_GGUF_PRIV_H

#include "model/gguf/gguf.h"

#define AG__GGUF_SHOW 96 /* room for a name in a sentence: three of them and a path still fit an ag_err */

typedef struct ag__gguf_part { /* one file */
    char *path;
    const uint8_t *bytes;
    size_t n;
    int64_t mtime_ns; /* of a file */
    bool mapped; /* else the bytes are the caller's */
} ag__gguf_part;

typedef struct ag__gguf_table { /* the keys of one part */
    ag_gguf_value *v;
    const ag_gguf_value **by_key; /* sorted */
    uint32_t n;
} ag__gguf_table;

struct ag_gguf {
    uint32_t magic;
    uint32_t version;
    ag__gguf_part *parts;
    uint32_t n_parts;
    ag__gguf_table keys; /* of the first part */
    ag_gguf_tensor *tensors;
    const ag_gguf_tensor **tensors_by_name;
    uint32_t n_tensors;
};

#define AG__GGUF_MAGIC 0x67677566u

/* map.c */
int ag__gguf_map(ag__gguf_part *part, ag_err *err); /* by part->path */
void ag__gguf_unmap(ag__gguf_part *part);

/* parse.c: checks the whole of one part, fills `keys` and appends its tensors to g's. */
int ag__gguf_parse(ag_gguf *g, const ag__gguf_part *part, ag__gguf_table *keys, uint32_t *version, ag_err *err);

/* place.c: a tensor's shape and size (before its data is known), and where the data of a part's tensors lie. */
int ag__gguf_tensor_size(const char *path, ag_gguf_tensor *t, uint32_t type, ag_err *err);
int ag__gguf_place(const ag__gguf_part *part, uint64_t infos_end, uint32_t alignment, ag_gguf_tensor *t,
                   const uint64_t *offset, uint32_t n, ag_err *err);

/* table.c */
int ag__gguf_table_index(ag__gguf_table *t, const char *path, ag_err *err); /* refuses a key that is there twice */
void ag__gguf_table_fini(ag__gguf_table *t);
const ag_gguf_value *ag__gguf_table_find(const ag__gguf_table *t, ag_str key);
int ag__gguf_table_u32(const ag__gguf_table *t, const char *path, const char *key, bool need, uint32_t *out,
                       ag_err *err);
uint32_t ag__gguf_item_bytes(ag_gguf_type t); /* 0: a string or an array */
int ag__gguf_str_cmp(ag_str a, ag_str b);

/* split.c */
typedef struct ag__gguf_split_name {
    uint32_t no, count; /* as in the name, from 1; count 0: the name is not of that form */
    size_t no_at;       /* where the five digits of `no` begin */
} ag__gguf_split_name;
ag__gguf_split_name ag__gguf_split_parse(const char *path);
/* After the first part was parsed: reads the split keys, opens and parses the other parts. */
int ag__gguf_split_open(ag_gguf *g, ag__gguf_split_name name, ag_err *err);

#endif
