#include "model/model.h"

#include <errno.h>
#include <stdio.h>
#include <sys/stat.h>

#include "base/mem.h"
#include "base/utf8.h"

#define CHAT_TEMPLATE_BYTES_MAX (1u << 20)

/* "folder/name-00001-of-00002.gguf" → "name" */
static void name_from_path(ag_model *m, const char *path)
{
    const char *from = strrchr(path, '/');
    from = from ? from + 1 : path;
    size_t n = AG_MIN(ag_gguf_stem_bytes(from), sizeof m->name - 1);
    n -= ag_utf8_tail(from, n);
    snprintf(m->name, sizeof m->name, "%.*s", (int)n, from);
}

static int chat_from_file(const char *path, ag_buf *source, ag_err *err)
{
    FILE *f = fopen(path, "re");
    if (f == NULL) return ag_err_set(err, AG_E_IO, "%s: cannot open the chat template: %s", path, strerror(errno));
    int rc = AG_OK;
    size_t got;
    do {
        if (!ag_buf_room(source, 4096)) {
            rc = source->max - source->n < 4096
                     ? ag_err_set(err, AG_E_LIMIT, "%s: a chat template may have %u bytes", path, CHAT_TEMPLATE_BYTES_MAX)
                     : ag_err_set(err, AG_E_NOMEM, "%s: no memory for the chat template", path);
            break;
        }
        got = fread(source->p + source->n, 1, 4096, f);
        source->n += got;
    } while (got > 0);
    if (rc == AG_OK && ferror(f)) rc = ag_err_set(err, AG_E_IO, "%s: reading the chat template failed", path);
    fclose(f);
    return rc;
}

int ag__model_chat_open(ag_model *m, const char *file, ag_err *err)
{
    ag_buf source;
    ag_buf_init(&source, CHAT_TEMPLATE_BYTES_MAX + 4096);
    ag_str text = {0};
    int rc = file ? chat_from_file(file, &source, err)
                  : ag_gguf_string(m->gguf, "tokenizer.chat_template", false, &text, err);
    if (file) text = ag_buf_str(&source);
    if (rc == AG_OK && (m->chat_source = ag_mem_strndup(text.p ? text.p : "", text.n)) == NULL)
        rc = ag_err_set(err, AG_E_NOMEM, "no memory for the chat template");
    if (rc == AG_OK && text.n > 0) {
        ag_template_error e;
        rc = ag_template_parse(&m->chat, text.p, text.n, &e);
        if (rc == AG_E_NOMEM) {
            rc = ag_err_set(err, rc, "no memory for the chat template");
        } else if (rc != AG_OK && !file) {
            /* A model whose own template we cannot read still completes text; chat is refused with this sentence. */
            m->chat = NULL;
            snprintf(m->chat_error, sizeof m->chat_error, "line %u: %s", e.line, e.message);
            rc = AG_OK;
        } else if (rc != AG_OK) {
            rc = ag_err_set(err, rc, "%s:%u:%u: %s", file, e.line, e.column, e.message);
        }
    }
    ag_buf_fini(&source);
    return rc;
}

int ag_model_open(ag_model **out, const char *path, const char *chat_template_file, ag_err *err)
{
    ag_model *m = ag_mem_zalloc(sizeof *m);
    if (m == NULL) return ag_err_set(err, AG_E_NOMEM, "no memory to open %s", path);
    struct stat st;
    int rc = ag_gguf_open(&m->gguf, path, err);
    if (rc == AG_OK) rc = ag_hparams_read(&m->hp, m->gguf, err);
    if (rc == AG_OK) rc = ag_tokenizer_open(&m->tokenizer, m->gguf, err);
    if (rc == AG_OK && ag_tokenizer_size(m->tokenizer) > m->hp.vocab)
        rc = ag_err_set(err, AG_E_FILE, "%s: the tokenizer has %u tokens, the embedding table only %u rows", path,
                        ag_tokenizer_size(m->tokenizer), m->hp.vocab);
    if (rc == AG_OK) rc = ag__model_chat_open(m, chat_template_file, err);
    if (rc != AG_OK) {
        ag_model_close(m);
        return rc;
    }
    name_from_path(m, path);
    m->created = stat(path, &st) == 0 ? (int64_t)st.st_mtime : 0;
    *out = m;
    return AG_OK;
}

void ag_model_close(ag_model *m)
{
    if (m == NULL) return;
    ag_template_free(m->chat);
    ag_mem_free(m->chat_source);
    ag_tokenizer_close(m->tokenizer);
    ag_gguf_close(m->gguf);
    ag_buf_fini(&m->file);
    ag_mem_free(m);
}
