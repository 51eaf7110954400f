#include "model/null.h"

#include <stdio.h>

#include "base/buf.h"
#include "base/mem.h"

#define N_TOKENS 257 /* bytes, then the end */
#define FILE_BYTES_MAX (64u << 10)
#define GGUF_VERSION 3
#define CHAT                                                                                                           \
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"                                               \
    "{% if add_generation_prompt %}assistant: {% endif %}"

bool ag_model_is_null(const char *path)
{
    return strcmp(path, "null") == 0 || strncmp(path, "null:", 5) == 0;
}

/* What a file would say, so that the tokenizer and the template are read as ever. Numbers are little-endian, as on
 * every machine that this runs on. */

static void add_u32(ag_buf *b, uint32_t v) { ag_buf_add(b, &v, sizeof v); }
static void add_u64(ag_buf *b, uint64_t v) { ag_buf_add(b, &v, sizeof v); }

static void add_text(ag_buf *b, const char *z)
{
    add_u64(b, strlen(z));
    ag_buf_addz(b, z);
}

static void add_key(ag_buf *b, const char *key, ag_gguf_type type)
{
    add_text(b, key);
    add_u32(b, type);
}

static void add_list(ag_buf *b, const char *key, ag_gguf_type item, uint64_t n)
{
    add_key(b, key, AG_GGUF_ARRAY);
    add_u32(b, item);
    add_u64(b, n);
}

/* A byte in the alphabet of byte-level BPE: itself where it is a letter to be seen, else the next one from 256 on. */
static void add_byte(ag_buf *b, uint32_t byte, uint32_t *next)
{
    bool seen = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
    uint32_t c = seen ? byte : (*next)++;
    char z[3] = {(char)c};
    if (c >= 0x80) z[0] = (char)(0xc0 | c >> 6), z[1] = (char)(0x80 | (c & 0x3f));
    add_text(b, z);
}

static void write_file(ag_buf *b)
{
    ag_buf_addz(b, "GGUF");
    add_u32(b, GGUF_VERSION);
    add_u64(b, 0); /* tensors */
    add_u64(b, 6); /* keys */
    add_list(b, "tokenizer.ggml.tokens", AG_GGUF_STRING, N_TOKENS);
    for (uint32_t i = 0, next = 256; i < 256; i++) add_byte(b, i, &next);
    add_text(b, "</s>");
    add_list(b, "tokenizer.ggml.token_type", AG_GGUF_U32, N_TOKENS);
    for (int i = 0; i < N_TOKENS; i++) add_u32(b, i < 256 ? AG_TOKEN_NORMAL : AG_TOKEN_CONTROL);
    add_list(b, "tokenizer.ggml.merges", AG_GGUF_STRING, 0);
    add_key(b, "tokenizer.ggml.model", AG_GGUF_STRING);
    add_text(b, "gpt2");
    add_key(b, "tokenizer.ggml.eos_token_id", AG_GGUF_U32);
    add_u32(b, N_TOKENS - 1);
    add_key(b, "tokenizer.chat_template", AG_GGUF_STRING);
    add_text(b, CHAT);
}

static int read_rate(const char *path, uint32_t *rate, ag_err *err)
{
    char end;
    *rate = 0;
    if (path[4] == 0) return AG_OK;
    if (sscanf(path, "null:rate=%7u%c", rate, &end) == 1 && *rate >= 1 && *rate <= AG_NULL_RATE_MAX) return AG_OK;
    return ag_err_set(err, AG_E_USAGE, "'%.60s' should be null, or null:rate=N with 1 to %d tokens a second.", path,
                      AG_NULL_RATE_MAX);
}

int ag_model_open_null(ag_model **out, const char *path, const char *chat_template_file, ag_err *err)
{
    uint32_t rate;
    int rc = read_rate(path, &rate, err);
    if (rc != AG_OK) return rc;
    ag_model *m = ag_mem_zalloc(sizeof *m);
    if (m == NULL) return ag_err_set(err, AG_E_NOMEM, "no memory for the null model");
    m->null = true;
    m->null_rate = rate;
    m->hp =
        (ag_hparams){.vocab = N_TOKENS, .width = AG_NULL_WIDTH, .ctx_train = AG_NULL_CTX, .pooling = AG_POOLING_MEAN};
    ag_buf_init(&m->file, FILE_BYTES_MAX);
    write_file(&m->file);
    if (m->file.failed) rc = ag_err_set(err, AG_E_NOMEM, "no memory for the null model");
    if (rc == AG_OK) rc = ag_gguf_open_mem(&m->gguf, "null", m->file.p, m->file.n, err);
    if (rc == AG_OK) rc = ag_tokenizer_open(&m->tokenizer, m->gguf, err);
    if (rc == AG_OK) rc = ag__model_chat_open(m, chat_template_file, err);
    if (rc != AG_OK) {
        ag_model_close(m);
        return rc;
    }
    snprintf(m->name, sizeof m->name, "null");
    *out = m;
    return AG_OK;
}
