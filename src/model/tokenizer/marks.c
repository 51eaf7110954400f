/* Which tokens begin a text, end it, and end an answer: from keys, and from the names that families give them, since
 * many files do not say. */
#include <ctype.h>

#include "model/tokenizer/vocab.h"

#define KEY "tokenizer.ggml."

typedef struct ag__end_name {
    const char *text;
    bool marked_only; /* a text that a vocabulary may hold as an ordinary word: it must be marked as special */
} ag__end_name;

static const ag__end_name end_names[] = {
    {"<|im_end|>", false}, {"<|eot_id|>", false}, {"<|eom_id|>", false}, {"<|end|>", false}, {"<|return|>", false},
    {"<|call|>", false}, {"<|endoftext|>", false}, {"<|end_of_text|>", false}, {"<end_of_turn>", false},
    {"<|user|>", false}, {"<|observation|>", false}, {"<end_of_utterance>", false},
    {"<\xef\xbd\x9c" "end\xe2\x96\x81of\xe2\x96\x81sentence\xef\xbd\x9c>", false},
    {"<|fim_pad|>", true}, {"<|repo_name|>", true}, {"<|file_sep|>", true},
    {"</s>", true}, {"<eos>", true}, {"<EOT>", true}, {"[EOT]", true}, {"[EOS]", true},
};

static int load_id(ag_tokenizer *t, const ag_gguf *g, const char *key, int32_t *out, ag_err *err)
{
    if (ag_gguf_value_find(g, key) == NULL) return AG_OK;
    uint32_t id = 0;
    int rc = ag_gguf_u32(g, key, true, &id, err);
    if (rc) return rc;
    *out = -1;
    if (id == UINT32_MAX) return AG_OK; /* how some converters write "none" */
    if (id >= t->n)
        return ag_err_set(err, AG_E_FILE, "%s: key %s is %u; the vocabulary has %u tokens", ag_gguf_path(g), key, id,
                          t->n);
    *out = (int32_t)id;
    return AG_OK;
}

/* Whether BOS or EOS is added; a file that asks for one that it does not have is damaged. */
static int load_adds(const ag_gguf *g, const char *key, int32_t id, bool *out, ag_err *err)
{
    bool said = ag_gguf_value_find(g, key) != NULL;
    int rc = ag_gguf_bool(g, key, false, out, err);
    if (rc == AG_OK && said && *out && id < 0)
        return ag_err_set(err, AG_E_FILE, "%s: key %s is true, but the vocabulary names no such token", ag_gguf_path(g),
                          key);
    if (id < 0) *out = false;
    return rc;
}

static void set_end(ag_tokenizer *t, int32_t id, bool on)
{
    if (id < 0) return;
    if (on) t->flags[id] |= AG__FLAG_ENDS;
    else t->flags[id] &= (uint8_t)~AG__FLAG_ENDS;
}

static void ends_by_name(ag_tokenizer *t)
{
    for (size_t i = 0; i < AG_ARRAY_LEN(end_names); i++) {
        int32_t id = ag_tokenizer_find(t, ag_str_of(end_names[i].text));
        if (id < 0 || ag__kind(t, id) == AG_TOKEN_UNUSED) continue;
        if (ag__kind(t, id) == AG_TOKEN_NORMAL) {
            if (end_names[i].marked_only) continue;
            /* Left unmarked, text of a user could write it and a template could not. */
            t->kinds[id] = AG_TOKEN_CONTROL;
        }
        set_end(t, id, true);
    }
    /* Where <|return|> and <|call|> end answers, <|end|> only ends a part of one. */
    if (ag_tokenizer_find(t, AG_STR("<|return|>")) >= 0 && ag_tokenizer_find(t, AG_STR("<|call|>")) >= 0)
        set_end(t, ag_tokenizer_find(t, AG_STR("<|end|>")), false);
}

static bool name_has(ag_str name, const char *part)
{
    size_t n = strlen(part);
    for (size_t i = 0; i + n <= name.n; i++) {
        size_t k = 0;
        while (k < n && tolower((unsigned char)name.p[i + k]) == part[k]) k++;
        if (k == n) return true;
    }
    return false;
}

/* Phi-3's own tokenizer drops the spaces behind its special tokens. The file format has no place to say so, but for the
 * model's name. */
static int strips_by_name(ag_tokenizer *t, const ag_gguf *g, ag_err *err)
{
    ag_str name = {NULL, 0};
    const ag_gguf_value *v = ag_gguf_value_find(g, "general.name");
    if (v == NULL || v->type != AG_GGUF_STRING || t->model != AG__SPM) return AG_OK;
    int rc = ag_gguf_string(g, "general.name", true, &name, err);
    if (rc || !(name_has(name, "phi-3") || name_has(name, "phi3"))) return rc;
    static const char *const keep[] = {"<unk>", "<s>", "<|endoftext|>"};
    for (uint32_t i = 0; i < t->n; i++) {
        bool special = t->kinds[i] == AG_TOKEN_CONTROL || t->kinds[i] == AG_TOKEN_USER;
        for (size_t k = 0; k < AG_ARRAY_LEN(keep); k++) special = special && !ag_str_eqz(t->texts[i], keep[k]);
        if (special) t->flags[i] |= AG__FLAG_RSTRIP;
    }
    return AG_OK;
}

int ag__marks_load(ag_tokenizer *t, const ag_gguf *g, ag_err *err)
{
    bool spm = t->model == AG__SPM;
    int32_t eot = -1, eom = -1;
    t->unk = spm ? 0 : -1;
    t->bos = spm && t->n > 1 ? 1 : -1;
    t->eos = spm && t->n > 2 ? 2 : -1;
    t->adds_bos = spm || t->pre->add_bos;
    t->space_prefix = spm;
    int rc = load_id(t, g, KEY "bos_token_id", &t->bos, err);
    if (rc == AG_OK) rc = load_id(t, g, KEY "eos_token_id", &t->eos, err);
    if (rc == AG_OK) rc = load_id(t, g, KEY "unknown_token_id", &t->unk, err);
    if (rc == AG_OK) rc = load_id(t, g, KEY "eot_token_id", &eot, err);
    if (rc == AG_OK) rc = load_id(t, g, KEY "eom_token_id", &eom, err);
    if (rc == AG_OK) rc = load_adds(g, KEY "add_bos_token", t->bos, &t->adds_bos, err);
    if (rc == AG_OK) rc = load_adds(g, KEY "add_eos_token", t->eos, &t->adds_eos, err);
    if (rc == AG_OK && spm) rc = ag_gguf_bool(g, KEY "add_space_prefix", false, &t->space_prefix, err);
    if (rc) return rc;
    ends_by_name(t);
    set_end(t, t->eos, true);
    set_end(t, eot, true);
    set_end(t, eom, true);
    return strips_by_name(t, g, err);
}
