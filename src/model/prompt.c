/* A conversation to tokens. The template is trusted to write control tokens, the strings that it is given are not: in
 * these the place where one is spelled gets a mark, which stays inside whatever the template does with the string and
 * is taken out of the rendered text, leaving the byte offsets where no control token may begin. */
#include <time.h>

#include "base/mem.h"
#include "base/utf8.h"
#include "model/model.h"

/* U+FDD0 is a noncharacter, which no text is to hold. Behind a character it is a mark on it; where a text holds it all
 * the same, it stands twice while marks are in use. */
#define MARK AG_STR("\xEF\xB7\x90")

static bool is_mark(const char *p, size_t n) { return n >= MARK.n && memcmp(p, MARK.p, MARK.n) == 0; }

static bool spells_control(const ag_tokenizer *t, const char *p, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (ag_tokenizer_control_at(t, p, i, n)) return true;
    return false;
}

static bool needs_marks(const ag_tokenizer *t, const json_t *v)
{
    const char *key;
    json_t *x;
    size_t i;
    if (json_is_string(v)) return spells_control(t, json_string_value(v), json_string_length(v));
    json_array_foreach(v, i, x)
        if (needs_marks(t, x)) return true;
    json_object_foreach((json_t *)v, key, x)
        if (spells_control(t, key, strlen(key)) || needs_marks(t, x)) return true;
    return false;
}

/* Adds p[0..n) with marks. */
static bool add_marked(const ag_tokenizer *t, const char *p, size_t n, ag_buf *out)
{
    for (size_t i = 0, len; i < n; i += len) {
        len = AG_MAX(ag_utf8_len(p + i, n - i), (size_t)1);
        bool mark = is_mark(p + i, n - i) || ag_tokenizer_control_at(t, p, i, n);
        ag_buf_add(out, p + i, len);
        if (mark) ag_buf_add(out, MARK.p, MARK.n);
    }
    return !out->failed;
}

/* out becomes p[0..n) with marks and a NUL. */
static bool mark_text(const ag_tokenizer *t, const char *p, size_t n, ag_buf *out)
{
    ag_buf_reset(out);
    return add_marked(t, p, n, out) && ag_buf_zterm(out);
}

/* A copy with marks; what needs none is shared. NULL: no memory. */
static json_t *marked(const ag_tokenizer *t, const json_t *v, ag_buf *text)
{
    const char *key;
    json_t *x, *copy;
    size_t i;
    bool ok = true;
    if (json_is_string(v)) {
        if (!mark_text(t, json_string_value(v), json_string_length(v), text)) return NULL;
        return json_stringn(text->p, text->n);
    }
    if (json_is_array(v)) {
        copy = json_array();
        json_array_foreach(v, i, x) ok = ok && copy && json_array_append_new(copy, marked(t, x, text)) == 0;
    } else if (json_is_object(v)) {
        copy = json_object();
        json_object_foreach((json_t *)v, key, x) {
            json_t *value = ok && copy ? marked(t, x, text) : NULL;
            ok = value && mark_text(t, key, strlen(key), text);
            if (ok) ok = json_object_set_new(copy, text->p, value) == 0;
            else json_decref(value);
        }
    } else {
        return json_incref((json_t *)v);
    }
    if (ok) return copy;
    json_decref(copy);
    return NULL;
}

/* The variables with marks in their values; their names are the template's own. */
static json_t *marked_vars(const ag_tokenizer *t, const json_t *vars)
{
    const char *name;
    json_t *value, *copy = json_object();
    bool ok = copy != NULL;
    ag_buf text;
    ag_buf_init(&text, AG_TOKENIZER_TEXT_MAX);
    json_object_foreach((json_t *)vars, name, value)
        ok = ok && json_object_set_new(copy, name, marked(t, value, &text)) == 0;
    ag_buf_fini(&text);
    if (ok) return copy;
    json_decref(copy);
    return NULL;
}

/* Takes the marks out; *plain are the offsets of the characters that had one. */
static int take_marks(ag_buf *text, uint32_t **plain, uint32_t *n_plain)
{
    size_t marks = 0, from = 0, to = 0, last = 0;
    for (size_t i = 0; i < text->n; i++) marks += is_mark(text->p + i, text->n - i);
    if ((*plain = ag_mem_array(marks, sizeof **plain)) == NULL) return AG_E_NOMEM;
    while (from < text->n) {
        bool mark = is_mark(text->p + from, text->n - from);
        if (mark && !is_mark(text->p + from + MARK.n, text->n - from - MARK.n)) {
            if (to) (*plain)[(*n_plain)++] = (uint32_t)last;
            from += MARK.n;
            continue;
        }
        size_t len = mark ? MARK.n : AG_MAX(ag_utf8_len(text->p + from, text->n - from), (size_t)1);
        memmove(text->p + to, text->p + from, len);
        last = to;
        to += len;
        from += mark ? 2 * MARK.n : len;
    }
    text->n = to;
    return AG_OK;
}

static bool set_piece(json_t *vars, const char *name, const ag_model *m, int32_t id)
{
    if (id < 0) return true; /* not defined, as transformers leave it */
    ag_str s = ag_tokenizer_piece(m->tokenizer, id, true);
    return json_object_set_new(vars, name, json_stringn(s.p ? s.p : "", s.n)) == 0;
}

static int render(const ag_model *m, json_t *vars, ag_buf *out, ag_err *err)
{
    if (!set_piece(vars, "bos_token", m, ag_tokenizer_bos(m->tokenizer)) ||
        !set_piece(vars, "eos_token", m, ag_tokenizer_eos(m->tokenizer)))
        return ag_err_set(err, AG_E_NOMEM, "no memory to render the chat template");
    time_t now = time(NULL);
    struct tm local;
    localtime_r(&now, &local);
    ag_template_error e;
    int rc = ag_template_render(m->chat, vars, (int64_t)now + local.tm_gmtoff, &AG_TEMPLATE_LIMITS_DEFAULT, out, &e);
    if (rc == AG_OK) return AG_OK;
    if (e.kind == AG_TEMPLATE_RAISED) return ag_err_set(err, rc, "%s", e.message);
    return ag_err_set(err, rc, "the chat template failed at line %u: %s", e.line, e.message);
}

int ag_model_prompt(const ag_model *m, const json_t *vars, ag_str tail, bool parse_special, int32_t **ids, uint32_t *n,
                    ag_err *err)
{
    if (m->chat == NULL && m->chat_error[0])
        return ag_err_set(err, AG_E_TEMPLATE, "the chat template of model %s cannot be used (%s); give another with "
                          "--chat-template", m->name, m->chat_error);
    if (m->chat == NULL)
        return ag_err_set(err, AG_E_TEMPLATE, "model %s has no chat template; give one with --chat-template, or use "
                          "/v1/completions", m->name);
    bool marks = !parse_special && (spells_control(m->tokenizer, tail.p, tail.n) || needs_marks(m->tokenizer, vars));
    json_t *all = marks ? marked_vars(m->tokenizer, vars) : json_copy((json_t *)vars);
    uint32_t *plain = NULL, n_plain = 0;
    ag_buf text;
    ag_buf_init(&text, AG_TOKENIZER_TEXT_MAX);
    int rc = all ? render(m, all, &text, err) : ag_err_set(err, AG_E_NOMEM, "no memory to render the chat template");
    if (rc == AG_OK && !(marks ? add_marked(m->tokenizer, tail.p, tail.n, &text) : ag_buf_add(&text, tail.p, tail.n)))
        rc = ag_err_set(err, AG_E_NOMEM, "no memory to render the chat template");
    if (rc == AG_OK && marks && (rc = take_marks(&text, &plain, &n_plain)) != AG_OK)
        ag_err_set(err, rc, "no memory to render the chat template");
    /* The template has written BOS. */
    if (rc == AG_OK) rc = ag_tokenizer_encode_prompt(m->tokenizer, text.p, text.n, plain, n_plain, ids, n, err);
    ag_mem_free(plain);
    ag_buf_fini(&text);
    json_decref(all);
    return rc;
}
