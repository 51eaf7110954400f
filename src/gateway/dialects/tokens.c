#include "gateway/dialects/tokens.h"

#include "base/utf8.h"
#include "gateway/dialects/fields.h"

/* llama.cpp's clients expect its defaults; the fields that change them come later. */
int ag__parse_content(ag_request *r, const json_t *v, ag_err *err)
{
    if (!json_is_string(v)) return ag__wrong_type(err, "content", "a string", v);
    if (r->n_prompts)
        return ag_request_fail(err, AG_E_PARAM, "content", "'content' and 'prompt' are the same; give one of them.");
    if ((r->prompts = ag_arena_array(&r->mem, 1, sizeof *r->prompts)) == NULL) return ag__no_memory(r, err);
    r->prompts[0].text = (ag_str){json_string_value(v), json_string_length(v)};
    r->n_prompts = 1;
    r->add_special = false;
    r->parse_special = true;
    return AG_OK;
}

int ag__parse_tokens(ag_request *r, const json_t *v, ag_err *err)
{
    if (!json_is_array(v)) return ag__wrong_type(err, "tokens", "an array of token ids", v);
    if ((r->prompts = ag_arena_array(&r->mem, 1, sizeof *r->prompts)) == NULL) return ag__no_memory(r, err);
    r->n_prompts = 1;
    return ag__add_ids(r, &r->prompts[0], v, "tokens", "tokens", err);
}

int ag_tokens_check(ag_request *r, ag_err *err)
{
    if (r->kind == AG_REQUEST_DETOKENIZE)
        return r->n_prompts ? AG_OK : ag_request_fail(err, AG_E_PARAM_MISSING, "tokens",
                                                      "'tokens' is missing: an array of token ids.");
    bool messages = r->vars && json_object_get(r->vars, "messages");
    if (messages && r->n_prompts)
        return ag_request_fail(err, AG_E_PARAM, "messages", "Either a text or 'messages' can be tokenized, not both.");
    if (!messages && r->n_prompts == 0)
        return ag_request_fail(err, AG_E_PARAM_MISSING, "content",
                               "'content' is missing: the text to be tokenized; or 'prompt', or 'messages'.");
    return messages ? ag__set_prompt_end(r, err) : AG_OK;
}

/* As llama.cpp's: a string where the bytes are one. */
static void add_piece(ag_buf *out, ag_str piece)
{
    if (ag_utf8_check(piece.p, piece.n) == SIZE_MAX) {
        ag_buf_add_json(out, piece.p, piece.n);
        return;
    }
    for (size_t i = 0; i < piece.n; i++) ag_buf_addf(out, i ? ",%u" : "[%u", (unsigned)(unsigned char)piece.p[i]);
    ag_buf_addc(out, ']');
}

static void write_text(ag_buf *out, ag_str text)
{
    ag_buf_addz(out, "{\"content\":");
    ag_buf_add_json(out, text.p, text.n);
    ag_buf_addz(out, ",\"prompt\":");
    ag_buf_add_json(out, text.p, text.n);
    ag_buf_addc(out, '}');
}

void ag_tokens_write(ag_buf *out, const ag_request *q, const ag_tokens_reply *t)
{
    if (q->kind == AG_REQUEST_DETOKENIZE) {
        write_text(out, t->text);
        return;
    }
    ag_buf_addz(out, "{\"tokens\":[");
    for (uint32_t i = 0; i < t->n && !out->failed; i++) {
        if (i) ag_buf_addc(out, ',');
        if (q->with_pieces) {
            ag_buf_addf(out, "{\"id\":%d,\"piece\":", t->ids[i]);
            add_piece(out, t->piece(t->arg, t->ids[i], true));
            ag_buf_addc(out, '}');
        } else {
            ag_buf_addf(out, "%d", t->ids[i]);
        }
    }
    ag_buf_addf(out, "],\"count\":%u,\"max_model_len\":%u,\"token_strs\":", t->n, t->ctx);
    if (!q->token_strs) ag_buf_addz(out, "null}");
    if (!q->token_strs) return;
    for (uint32_t i = 0; i < t->n && !out->failed; i++) {
        ag_str piece = t->piece(t->arg, t->ids[i], true);
        ag_buf_addc(out, i ? ',' : '[');
        ag_buf_add_json(out, piece.p, piece.n);
    }
    ag_buf_addz(out, t->n ? "]}" : "[]}");
}
