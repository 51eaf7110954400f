/* gguf.h - a GGUF model file (v2, v3; little-endian; one file or split), mapped and checked before anything uses it.
 * Owns    : the mappings and the tables over them; keys, strings, arrays and tensor data point into the mappings and
 *           live until ag_gguf_close.
 * Threads : open and close by one; everything else is read-only and may be called from any thread.
 * Limits  : the AG_GGUF_*_MAX below; nothing is allocated by a number from the file before that number is checked
 *           against what the file can hold.
 * Errors  : AG_E_FILE with one sentence that names file and tensor or key; AG_E_IO; AG_E_NOMEM; AG_E_UNSUPPORTED for a
 *           well-formed file with a tensor type or version that we cannot read. A file never crashes us; one that is
 *           truncated while mapped is the machine's doing (SIGBUS) and out of scope.
 * Source  : the GGUF specification (ggml docs/gguf.md). */
#ifndef AG_GGUF_H
#define AG_GGUF_H

#include "base/err.h"
#include "model/gguf/quant.h"

#define AG_GGUF_DIMS_MAX 4
#define AG_GGUF_TENSORS_MAX 65536
#define AG_GGUF_KEYS_MAX 65536
#define AG_GGUF_NAME_MAX 256       /* bytes of a tensor's name; ours is laxer than ggml's 63 */
#define AG_GGUF_KEY_MAX 65535      /* bytes of a key: the specification's limit */
#define AG_GGUF_SPLITS_MAX 1024
#define AG_GGUF_ALIGN_MAX (2u << 20) /* of general.alignment: a huge page */

typedef enum ag_gguf_type { /* the numbers of the file format */
    AG_GGUF_U8, AG_GGUF_I8, AG_GGUF_U16, AG_GGUF_I16, AG_GGUF_U32, AG_GGUF_I32, AG_GGUF_F32, AG_GGUF_BOOL,
    AG_GGUF_STRING, AG_GGUF_ARRAY, AG_GGUF_U64, AG_GGUF_I64, AG_GGUF_F64
} ag_gguf_type;

typedef struct ag_gguf_tensor {
    ag_str name;
    ag_quant_type type;
    uint32_t n_dims;
    uint64_t dim[AG_GGUF_DIMS_MAX]; /* dim[0] is the fastest (a row's length); unused ones are 1 */
    uint64_t bytes;                 /* of data */
    const void *data;               /* in the mapping; aligned within the file to general.alignment: 8 at least, 32
                                       where the key is missing */
} ag_gguf_tensor;

typedef struct ag_gguf_value {
    ag_str key;
    ag_gguf_type type;
    ag_gguf_type item;   /* of an array */
    uint64_t n;          /* items of an array, else 1 */
    const void *data;    /* the first item, unaligned (memcpy); a string begins with its u64 length */
} ag_gguf_value;

typedef struct ag_gguf ag_gguf;

/* Opens `path`; a name of the form X-00001-of-0000N.gguf opens all N parts, which must lie beside it. */
int ag_gguf_open(ag_gguf **out, const char *path, ag_err *err);
/* The same over bytes in memory, for tests and fuzzing: borrowed until close; `name` is the path in sentences. */
int ag_gguf_open_mem(ag_gguf **out, const char *name, const void *bytes, size_t n, ag_err *err);
void ag_gguf_close(ag_gguf *g); /* NULL is fine */

const char *ag_gguf_path(const ag_gguf *g);
/* Bytes of a path before ".gguf" or, of a file in parts, before "-00001-of-00002.gguf". */
size_t ag_gguf_stem_bytes(const char *path);
uint32_t ag_gguf_version(const ag_gguf *g);
uint32_t ag_gguf_part_count(const ag_gguf *g);
const char *ag_gguf_part_path(const ag_gguf *g, uint32_t i);
uint64_t ag_gguf_file_bytes(const ag_gguf *g); /* all parts */

uint32_t ag_gguf_tensor_count(const ag_gguf *g);
const ag_gguf_tensor *ag_gguf_tensor_at(const ag_gguf *g, uint32_t i);
const ag_gguf_tensor *ag_gguf_tensor_find(const ag_gguf *g, const char *name); /* NULL: none */

/* Keys of the first part; what the other parts of a split file repeat is checked and left. */
uint32_t ag_gguf_value_count(const ag_gguf *g);
const ag_gguf_value *ag_gguf_value_at(const ag_gguf *g, uint32_t i);
const ag_gguf_value *ag_gguf_value_find(const ag_gguf *g, const char *key); /* NULL: none */
const char *ag_gguf_type_name(ag_gguf_type t); /* "u32", "string", "array" */

/* Typed reads. A missing key: AG_OK with *out left as it is when `need` is false, else AG_E_FILE. A key of another type
 * or out of range: AG_E_FILE, with the key and both types in the sentence. Any integer type that fits is taken, and f64
 * for f32; a float is finite. */
int ag_gguf_u32(const ag_gguf *g, const char *key, bool need, uint32_t *out, ag_err *err);
int ag_gguf_f32(const ag_gguf *g, const char *key, bool need, float *out, ag_err *err);
int ag_gguf_bool(const ag_gguf *g, const char *key, bool need, bool *out, ag_err *err);
int ag_gguf_string(const ag_gguf *g, const char *key, bool need, ag_str *out, ag_err *err);

/* Items of an array. The caller asks by index within v->n; strings of an array are walked with a cursor, since they
 * have no index in the file: start with *at = v->data and call v->n times. All were checked at open. */
int64_t ag_gguf_int_at(const ag_gguf_value *v, uint64_t i);  /* integer and bool items (asserted); u64 above
                                                              * INT64_MAX comes as INT64_MAX */
double ag_gguf_float_at(const ag_gguf_value *v, uint64_t i); /* float items (asserted) */
ag_str ag_gguf_string_next(const void **at);

/* Writes s for a terminal or a log: control characters, characters that turn the direction of text and bytes that are
 * not UTF-8 as escapes, cut with "..." where `cap` (16 at least) ends. NUL-terminated; returns out. */
const char *ag_gguf_show(char *out, size_t cap, ag_str s);

/* Tells the kernel that these bytes of a tensor are not needed for now (after repacking): their pages go, and come back
 * when they are read. Advice only. */
void ag_gguf_release(const ag_gguf *g, const void *data, uint64_t bytes);

/* Tells model files apart: a hash of size and time of change of each part, all keys, the tensor table and 64 bytes of
 * each tensor. Not a defence: who can write the file can make two that are alike. */
uint64_t ag_gguf_digest(const ag_gguf *g);

#endif
