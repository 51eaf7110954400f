/* model.h - a loaded model: its file, what the file says of it, its tokenizer and chat template.
 * Owns    : all of these; borrowed pointers live until ag_model_close.
 * Threads : open and close by one; read-only in between, from any.
 * Limits  : those of gguf.h, tokenizer.h and template.h.
 * Errors  : AG_E_FILE, AG_E_UNSUPPORTED (a family or tokenizer that is not known is refused by name with the list of
 *           those that are), AG_E_IO, AG_E_NOMEM. */
#ifndef AG_MODEL_H
#define AG_MODEL_H

#include "base/buf.h"
#include "model/arch/arch.h"
#include "model/gguf/gguf.h"
#include "model/template/template.h"
#include "model/tokenizer/tokenizer.h"

typedef struct ag_model {
    ag_gguf *gguf;
    ag_hparams hp;
    ag_tokenizer *tokenizer;
    ag_template *chat;      /* NULL: the file has none and none was given; chat is then refused with a sentence */
    char *chat_source;      /* the template's text; "" when there is none */
    char chat_error[512];   /* why the file's template cannot be used, when chat is NULL; "" when there is none */
    char name[128];         /* for /v1/models: the file's name without folder and .gguf */
    int64_t created;        /* the file's time, seconds */
    bool null;              /* without weights, see null.h; */
    uint32_t null_rate;     /* tokens a second, 0: as fast as steps can be taken; */
    ag_buf file;            /* and what its file would say */
} ag_model;

/* `chat_template_file` overrides the file's template; NULL: the file's own. */
int ag_model_open(ag_model **out, const char *path, const char *chat_template_file, ag_err *err);
void ag_model_close(ag_model *m);

/* A conversation to tokens: renders `vars`, as ag_template_render's, with bos_token and eos_token added, puts `tail`
 * (the beginning of an answer; may be empty) behind it, and encodes the text (*ids by ag_mem_free). Only the template
 * writes control tokens: what spells one inside `vars` and `tail` stays text, unless parse_special. AG_E_TEMPLATE,
 * AG_E_LIMIT, AG_E_UTF8, AG_E_NOMEM. */
int ag_model_prompt(const ag_model *m, const json_t *vars, ag_str tail, bool parse_special, int32_t **ids, uint32_t *n,
                    ag_err *err);

/* Inside the folder: the chat template of m->gguf, or of the file. */
int ag__model_chat_open(ag_model *m, const char *file, ag_err *err);

#endif
