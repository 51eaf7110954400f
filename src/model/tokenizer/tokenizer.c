#include "model/tokenizer/vocab.h"

#include <stdio.h>

#include "base/mem.h"
#include "base/utf8.h"

#define KEY "tokenizer.ggml."

static int unknown_pre(const ag_gguf *g, ag_str name, ag_err *err)
{
    char known[300], shown[64];
    size_t n = 0;
    for (const ag__pre *p = ag__pre_next(NULL); p && n < sizeof known; p = ag__pre_next(p))
        n += (size_t)snprintf(known + n, sizeof known - n, "%s%s", n ? ", " : "", p->name);
    return ag_err_set(err, AG_E_UNSUPPORTED, "%s: pre-tokenizer '%s' (" KEY "pre) is not known; known are %s%s",
                      ag_gguf_path(g), ag_gguf_show(shown, sizeof shown, name), known, n < sizeof known ? "" : "...");
}

static int load_model(ag_tokenizer *t, const ag_gguf *g, ag_err *err)
{
    ag_str model, pre = AG_STR("default");
    int rc = ag_gguf_string(g, KEY "model", true, &model, err);
    if (rc) return rc;
    if (ag_str_eqz(model, "llama")) {
        t->model = AG__SPM;
        return AG_OK;
    }
    char shown[64];
    if (!ag_str_eqz(model, "gpt2"))
        return ag_err_set(err, AG_E_UNSUPPORTED,
                          "%s: tokenizer '%s' (" KEY "model) is not known; known are gpt2 (byte-level BPE) and llama "
                          "(SentencePiece BPE)", ag_gguf_path(g), ag_gguf_show(shown, sizeof shown, model));
    t->model = AG__BPE;
    rc = ag_gguf_string(g, KEY "pre", false, &pre, err);
    if (rc) return rc;
    t->pre = ag__pre_find(pre);
    return t->pre ? AG_OK : unknown_pre(g, pre, err);
}

int ag_tokenizer_open(ag_tokenizer **out, const ag_gguf *g, ag_err *err)
{
    ag_tokenizer *t = ag_mem_zalloc(sizeof *t);
    if (t == NULL) return ag_err_set(err, AG_E_NOMEM, "%s: no memory for a tokenizer", ag_gguf_path(g));
    t->magic = AG__MAGIC;
    int rc = load_model(t, g, err);
    if (rc == AG_OK) rc = ag__vocab_load(t, g, err);
    if (rc == AG_OK && t->model == AG__BPE) rc = ag__merges_load(t, g, err);
    if (rc == AG_OK) rc = ag__marks_load(t, g, err);
    if (rc == AG_OK) rc = ag__pieces_make(t, err);
    if (rc == AG_OK) rc = ag__specials_make(t, err);
    if (rc == AG_OK) *out = t;
    else ag_tokenizer_close(t);
    return rc;
}

void ag_tokenizer_close(ag_tokenizer *t)
{
    if (t == NULL) return;
    AG_CHECK(t, AG__MAGIC);
    t->magic = 0;
    ag__specials_fini(&t->all);
    ag__specials_fini(&t->user);
    ag__text_map_fini(&t->by_text);
    ag__pair_map_fini(&t->merges);
    ag_mem_free(t->texts);
    ag_mem_free(t->pieces);
    ag_mem_free(t->piece_bytes);
    ag_mem_free(t->kinds);
    ag_mem_free(t->flags);
    ag_mem_free(t->merged);
    ag_mem_free(t->scores);
    ag_mem_free(t);
}

ag_str ag_tokenizer_piece(const ag_tokenizer *t, int32_t id, bool special)
{
    AG_CHECK(t, AG__MAGIC);
    if (id < 0 || (uint32_t)id >= t->n) return (ag_str){NULL, 0};
    uint8_t k = t->kinds[id];
    if (!special && (k == AG_TOKEN_CONTROL || k == AG_TOKEN_UNKNOWN || k == AG_TOKEN_UNUSED)) return (ag_str){NULL, 0};
    return t->pieces[id];
}

bool ag_tokenizer_decode(const ag_tokenizer *t, const int32_t *ids, uint32_t n, bool special, ag_buf *out)
{
    for (uint32_t i = 0; i < n; i++) {
        ag_str s = ag_tokenizer_piece(t, ids[i], special);
        /* Only text got a space put in front; a special token that is a space did not. */
        if (i == 0 && t->space_prefix && s.n && s.p[0] == ' ' && ag__kind(t, ids[0]) == AG_TOKEN_NORMAL) {
            s.p++;
            s.n--;
        }
        if (!ag_buf_add(out, s.p, s.n)) return false;
    }
    return true;
}

uint32_t ag_tokenizer_size(const ag_tokenizer *t) { return t->n; }

ag_token_kind ag_tokenizer_kind(const ag_tokenizer *t, int32_t id)
{
    return id >= 0 && (uint32_t)id < t->n ? ag__kind(t, id) : AG_TOKEN_UNUSED;
}

int32_t ag_tokenizer_find(const ag_tokenizer *t, ag_str piece)
{
    AG_CHECK(t, AG__MAGIC);
    return piece.n <= t->text_max ? ag__text_map_find(&t->by_text, piece.p, piece.n) : -1;
}

int32_t ag_tokenizer_bos(const ag_tokenizer *t) { return t->bos; }
int32_t ag_tokenizer_eos(const ag_tokenizer *t) { return t->eos; }
bool ag_tokenizer_adds_bos(const ag_tokenizer *t) { return t->adds_bos; }
bool ag_tokenizer_strips_space(const ag_tokenizer *t) { return t->space_prefix; }

bool ag_tokenizer_ends(const ag_tokenizer *t, int32_t id)
{
    return id >= 0 && (uint32_t)id < t->n && (t->flags[id] & AG__FLAG_ENDS) != 0;
}
