#include <stdio.h>

#include "gateway/dialects/fields.h"
#include "gateway/dialects/responses.h"

#define TEXT_BYTES_MAX (64u << 20)
#define ID_BYTES_MAX 64u

/* What a caller sends, in the form in which it is kept. */

/* A member that must be a string. */
static int string_of(const json_t *item, const char *name, const char *param, json_t **out, ag_err *err)
{
    *out = json_object_get(item, name);
    if (json_is_string(*out)) return AG_OK;
    return ag_request_fail(err, *out ? AG_E_PARAM : AG_E_PARAM_MISSING, param, "'%s' must have a string '%s'.", param,
                           name);
}

/* One part of a text: {"type": one of two, "text"}. */
static int take_part(const json_t *part, const char *const types[2], const char *param, json_t **text, ag_err *err)
{
    const char *type = json_string_value(json_object_get(part, "type"));
    if (!json_is_object(part)) return ag__wrong_type(err, param, "an object", part);
    if (type == NULL)
        return ag_request_fail(err, AG_E_PARAM, param, "'%s' must have a string 'type', such as \"%s\".", param,
                               types[0]);
    if (strcmp(type, types[0]) != 0 && strcmp(type, types[1]) != 0)
        return ag_request_fail(err, AG_E_UNSUPPORTED, param,
                               "'%s' is of type \"%.40s\"; only text is taken here: \"%s\".", param, type, types[0]);
    return string_of(part, "text", param, text, err);
}

/* A string, or parts, as an array of parts of type `as`. */
static int take_parts(ag_request *r, const json_t *v, const char *const types[2], const char *as, const char *param,
                      json_t **out, ag_err *err)
{
    bool one = json_is_string(v);
    if (!one && !json_is_array(v)) return ag__wrong_type(err, param, "a string or an array of parts", v);
    json_t *parts = *out = json_array();
    int rc = parts ? AG_OK : ag__no_memory(r, err);
    for (size_t i = 0; i < (one ? 1 : json_array_size(v)) && rc == AG_OK; i++) {
        char at[80];
        snprintf(at, sizeof at, "%s[%zu]", param, i);
        json_t *text = (json_t *)v;
        if (!one) rc = take_part(json_array_get(v, i), types, at, &text, err);
        if (rc != AG_OK) break;
        json_t *part = json_pack("{s:s,s:O}", "type", as, "text", text);
        if (part && strcmp(as, "output_text") == 0 && json_object_set_new(part, "annotations", json_array()) != 0)
            rc = AG_E_NOMEM;
        if (part == NULL || rc != AG_OK || json_array_append(parts, part) != 0) rc = ag__no_memory(r, err);
        json_decref(part);
    }
    return rc;
}

static int take_message(ag_request *r, const json_t *item, const char *param, json_t *to, ag_err *err)
{
    static const char *const said[2] = {"input_text", "output_text"};
    json_t *role, *parts = NULL;
    const json_t *content = json_object_get(item, "content");
    int rc = string_of(item, "role", param, &role, err);
    if (rc != AG_OK) return rc;
    const char *z = json_string_value(role);
    bool assistant = strcmp(z, "assistant") == 0;
    if (!assistant && strcmp(z, "user") != 0 && strcmp(z, "system") != 0 && strcmp(z, "developer") != 0)
        return ag_request_fail(err, AG_E_PARAM, param,
                               "'%s.role' must be \"user\", \"assistant\", \"system\" or \"developer\", not \"%.40s\".",
                               param, z);
    if (content == NULL || json_is_null(content))
        return ag_request_fail(
            err, AG_E_PARAM_MISSING, param,
            "'%s.content' is missing: a string, or an array of {\"type\": \"input_text\", \"text\"}.", param);
    char at[64];
    snprintf(at, sizeof at, "%s.content", param);
    rc = take_parts(r, content, said, assistant ? "output_text" : "input_text", at, &parts, err);
    if (rc == AG_OK && (json_object_set(to, "role", role) != 0 || json_object_set(to, "content", parts) != 0))
        rc = ag__no_memory(r, err);
    json_decref(parts);
    return rc;
}

static int take_call(ag_request *r, const json_t *item, const char *param, json_t *to, ag_err *err)
{
    static const char *const names[] = {"call_id", "name", "arguments"};
    int rc = AG_OK;
    for (size_t i = 0; i < AG_ARRAY_LEN(names) && rc == AG_OK; i++) {
        json_t *v;
        rc = string_of(item, names[i], param, &v, err);
        if (rc == AG_OK && json_object_set(to, names[i], v) != 0) rc = ag__no_memory(r, err);
    }
    return rc;
}

static int take_output(ag_request *r, const json_t *item, const char *param, json_t *to, ag_err *err)
{
    static const char *const given[2] = {"input_text", "input_text"};
    json_t *call_id, *output = json_object_get(item, "output"), *parts = NULL;
    int rc = string_of(item, "call_id", param, &call_id, err);
    if (rc != AG_OK) return rc;
    if (output == NULL)
        return ag_request_fail(err, AG_E_PARAM_MISSING, param, "'%s.output' is missing: what the function gave.",
                               param);
    if (!json_is_string(output)) {
        char at[64];
        snprintf(at, sizeof at, "%s.output", param);
        rc = take_parts(r, output, given, "input_text", at, &parts, err);
        output = parts;
    }
    if (rc == AG_OK && (json_object_set(to, "call_id", call_id) != 0 || json_object_set(to, "output", output) != 0))
        rc = ag__no_memory(r, err);
    json_decref(parts);
    return rc;
}

static int take_reasoning(ag_request *r, const json_t *item, const char *param, json_t *to, ag_err *err)
{
    static const struct {
        const char *name, *types[2];
    } lists[] = {{"summary", {"summary_text", "summary_text"}}, {"content", {"reasoning_text", "reasoning_text"}}};
    int rc = AG_OK;
    for (size_t i = 0; i < AG_ARRAY_LEN(lists) && rc == AG_OK; i++) {
        const json_t *v = json_object_get(item, lists[i].name);
        json_t *parts = NULL;
        char at[64];
        snprintf(at, sizeof at, "%s.%s", param, lists[i].name);
        if (v == NULL || json_is_null(v)) parts = json_array();
        else if (!json_is_array(v)) return ag__wrong_type(err, at, "an array", v);
        else rc = take_parts(r, v, lists[i].types, lists[i].types[0], at, &parts, err);
        if (rc == AG_OK && (parts == NULL || json_object_set(to, lists[i].name, parts) != 0))
            rc = ag__no_memory(r, err);
        json_decref(parts);
    }
    return rc;
}

static const struct {
    const char *type;
    int (*take)(ag_request *r, const json_t *item, const char *param, json_t *to, ag_err *err);
    const char *id; /* what its id begins with, where the caller gave none */
} forms[] = {
    {"message", take_message, "msg"},
    {"function_call", take_call, "fc"},
    {"function_call_output", take_output, "fco"},
    {"reasoning", take_reasoning, "rs"},
};

static size_t form_of(const char *type)
{
    size_t i = 0;
    while (i < AG_ARRAY_LEN(forms) && strcmp(forms[i].type, type) != 0) i++;
    return i;
}

static int take_item(ag_request *r, const json_t *item, const char *param, ag_err *err)
{
    if (!json_is_object(item)) return ag__wrong_type(err, param, "an object", item);
    const json_t *type = json_object_get(item, "type"), *id = json_object_get(item, "id");
    if (type && !json_is_string(type) && !json_is_null(type))
        return ag_request_fail(err, AG_E_PARAM, param, "'%s.type' must be a string, not %s.", param,
                               ag__json_type(type));
    const char *z = json_is_string(type) ? json_string_value(type) : "message";
    size_t form = form_of(z);
    if (form == AG_ARRAY_LEN(forms))
        return ag_request_fail(err, AG_E_UNSUPPORTED, param,
                               "'%s' is of type \"%.40s\"; taken are message, function_call, function_call_output and "
                               "reasoning.",
                               param, z);
    bool named = id && !json_is_null(id);
    if (named && (!json_is_string(id) || json_string_length(id) < 1 || json_string_length(id) > ID_BYTES_MAX))
        return ag_request_fail(err, AG_E_PARAM, param, "'%s.id' must be a string of 1 to %u bytes.", param,
                               ID_BYTES_MAX);
    json_t *to = json_object();
    bool ok = to && (!named || json_object_set(to, "id", (json_t *)id) == 0) &&
              json_object_set_new(to, "type", json_string(z)) == 0 &&
              json_object_set_new(to, "status", json_string("completed")) == 0;
    int rc = ok ? forms[form].take(r, item, param, to, err) : ag__no_memory(r, err);
    if (rc == AG_OK && json_array_append(r->items, to) != 0) rc = ag__no_memory(r, err);
    json_decref(to);
    return rc;
}

int ag__responses_input(ag_request *r, const json_t *v, ag_err *err)
{
    if (!json_is_string(v) && !json_is_array(v))
        return ag__wrong_type(err, "input", "a string or an array of items", v);
    if ((r->items = json_array()) == NULL) return ag__no_memory(r, err);
    if (json_is_string(v)) {
        json_t *item = json_pack("{s:s,s:O}", "role", "user", "content", v);
        int rc = item ? take_item(r, item, "input", err) : ag__no_memory(r, err);
        json_decref(item);
        return rc;
    }
    if (json_array_size(v) == 0)
        return ag_request_fail(err, AG_E_PARAM, "input", "'input' is empty: at least one item is needed.");
    int rc = AG_OK;
    for (size_t i = 0; i < json_array_size(v) && rc == AG_OK; i++) {
        char param[40];
        snprintf(param, sizeof param, "input[%zu]", i);
        rc = take_item(r, json_array_get(v, i), param, err);
    }
    return rc;
}

/* The conversation as templates take it: OpenAI's messages. */

typedef struct weave {
    ag_request *r;
    json_t *messages, *turn; /* turn: the assistant's that is not over, the last of them; NULL: none */
    ag_buf thinking;         /* said ahead of the assistant's next one */
} weave;

/* Texts of parts, a line each; a string as it is. */
static bool add_texts(ag_buf *to, const json_t *v)
{
    if (json_is_string(v)) return ag_buf_add(to, json_string_value(v), json_string_length(v));
    bool ok = true;
    for (size_t i = 0; i < json_array_size(v) && ok; i++) {
        const json_t *text = json_object_get(json_array_get(v, i), "text");
        ok = (to->n == 0 || ag_buf_addc(to, '\n')) && ag_buf_add(to, json_string_value(text), json_string_length(text));
    }
    return ok;
}

static bool set_text(json_t *message, const char *name, const ag_buf *text)
{
    return json_object_set_new(message, name, json_stringn(text->p ? text->p : "", text->n)) == 0;
}

/* A new message, the array's; NULL: no memory. */
static json_t *push(weave *w, const char *role, const json_t *said)
{
    ag_buf text;
    ag_buf_init(&text, TEXT_BYTES_MAX);
    json_t *m = json_object();
    bool ok = m && add_texts(&text, said) && json_object_set_new(m, "role", json_string(role)) == 0 &&
              set_text(m, "content", &text) && json_array_append(w->messages, m) == 0;
    ag_buf_fini(&text);
    json_decref(m);
    return ok ? m : NULL;
}

static json_t *begin_turn(weave *w, const json_t *said)
{
    w->turn = push(w, "assistant", said);
    if (w->turn && w->thinking.n && !set_text(w->turn, "reasoning_content", &w->thinking)) w->turn = NULL;
    ag_buf_reset(&w->thinking);
    return w->turn;
}

static bool weave_call(weave *w, const json_t *item)
{
    if (w->turn == NULL && begin_turn(w, NULL) == NULL) return false;
    json_t *calls = json_object_get(w->turn, "tool_calls");
    if (calls == NULL) {
        calls = json_array();
        if (json_object_set_new(w->turn, "tool_calls", calls) != 0) return false;
    }
    return json_array_append_new(calls, json_pack("{s:O,s:s,s:{s:O,s:O}}", "id", json_object_get(item, "call_id"),
                                                  "type", "function", "function", "name", json_object_get(item, "name"),
                                                  "arguments", json_object_get(item, "arguments"))) == 0;
}

static bool weave_output(weave *w, const json_t *item)
{
    json_t *m = push(w, "tool", json_object_get(item, "output"));
    return m && json_object_set(m, "tool_call_id", json_object_get(item, "call_id")) == 0;
}

static bool weave_reasoning(weave *w, const json_t *item)
{
    const json_t *content = json_object_get(item, "content");
    return add_texts(&w->thinking, json_array_size(content) ? content : json_object_get(item, "summary"));
}

static bool weave_item(weave *w, const json_t *item)
{
    const char *type = json_string_value(json_object_get(item, "type"));
    const char *role = json_string_value(json_object_get(item, "role"));
    if (type && strcmp(type, "function_call") == 0) return weave_call(w, item);
    w->turn = NULL;
    if (type && strcmp(type, "function_call_output") == 0) return weave_output(w, item);
    if (type && strcmp(type, "reasoning") == 0) return weave_reasoning(w, item);
    if (role && strcmp(role, "assistant") == 0) return begin_turn(w, json_object_get(item, "content")) != NULL;
    ag_buf_reset(&w->thinking);
    /* Templates know no developers. */
    bool user = role && strcmp(role, "user") == 0;
    return push(w, user ? "user" : "system", json_object_get(item, "content")) != NULL;
}

static int set_messages(ag_request *r, ag_err *err)
{
    weave w = {.r = r, .messages = json_array()};
    const json_t *instructions = json_object_get(r->root, "instructions");
    ag_buf_init(&w.thinking, TEXT_BYTES_MAX);
    bool ok = w.messages && (!json_is_string(instructions) || push(&w, "system", instructions) != NULL);
    for (size_t i = 0; i < json_array_size(r->items) && ok; i++) ok = weave_item(&w, json_array_get(r->items, i));
    int rc = ok && !w.thinking.failed ? AG_OK : ag__no_memory(r, err);
    if (rc == AG_OK && json_array_size(w.messages) == 0)
        rc = ag_request_fail(err, AG_E_PARAM, "input", "'input' has nothing to answer: reasoning alone.");
    if (rc == AG_OK) rc = ag__parse_messages(r, w.messages, err);
    ag_buf_fini(&w.thinking);
    json_decref(w.messages);
    return rc;
}

/* What came before, and who has no id yet. */

static int unreadable(int rc, ag_err *err)
{
    ag_err_clear(err);
    if (rc == AG_E_NOMEM) return ag_err_set(err, rc, "The server has no memory left for this request.");
    return ag_err_set(err, AG_E_RESPONSES, "What was kept of this response cannot be read.");
}

static int load(ag_str text, json_t **out, ag_err *err)
{
    int rc = ag__json_load(text.p ? text.p : "", text.n, out, err);
    return rc == AG_OK ? rc : unreadable(rc, err);
}

/* The previous conversation with its answer, ahead of r->items. */
static int go_on(ag_request *r, json_t *before, const json_t *body, ag_err *err)
{
    const char *status = json_string_value(json_object_get(body, "status"));
    json_t *output = json_object_get(body, "output");
    bool has_one = status && (strcmp(status, "completed") == 0 || strcmp(status, "incomplete") == 0);
    if (!has_one)
        return ag_request_fail(err, AG_E_PREVIOUS_NOT_FOUND, "previous_response_id",
                               "The response '%.100s' has no answer that could be gone on from: it is %.20s.",
                               r->previous.p, status ? status : "unreadable");
    if (!json_is_array(before) || !json_is_array(output)) return unreadable(AG_E_RESPONSES, err);
    if (json_array_extend(before, output) != 0 || json_array_extend(before, r->items) != 0)
        return ag__no_memory(r, err);
    json_decref(r->items);
    r->items = json_incref(before);
    return AG_OK;
}

static int give_ids(ag_request *r, ag_str id, ag_err *err)
{
    const char *cut = memchr(id.p, '_', id.n);
    ag_str own = cut ? (ag_str){cut + 1, id.n - (size_t)(cut + 1 - id.p)} : id;
    for (size_t i = 0; i < json_array_size(r->items); i++) {
        json_t *item = json_array_get(r->items, i);
        const char *type = json_string_value(json_object_get(item, "type"));
        size_t form = form_of(type ? type : "");
        char text[ID_BYTES_MAX + 1];
        if (form == AG_ARRAY_LEN(forms)) return unreadable(AG_E_RESPONSES, err);
        if (json_object_get(item, "id")) continue;
        snprintf(text, sizeof text, "%s_%.*s_in%zu", forms[form].id, (int)AG_MIN(own.n, 32u), own.p, i);
        if (json_object_set_new(item, "id", json_string(text)) != 0) return ag__no_memory(r, err);
    }
    return AG_OK;
}

static int check_size(const ag_request *r, ag_err *err)
{
    static const char *const lists[] = {"content", "summary", "output"};
    size_t n = json_array_size(r->items), parts = 0;
    for (size_t i = 0; i < n; i++)
        for (size_t k = 0; k < AG_ARRAY_LEN(lists); k++)
            parts += json_array_size(json_object_get(json_array_get(r->items, i), lists[k]));
    if (n > AG_RESPONSE_ITEMS_MAX)
        return ag_request_fail(err, AG_E_PARAM, "input", "The conversation has %zu items; at most %d are taken.", n,
                               AG_RESPONSE_ITEMS_MAX);
    if (parts > AG_RESPONSE_PARTS_MAX)
        return ag_request_fail(err, AG_E_PARAM, "input",
                               "The texts of the conversation have %zu parts; at most %d are taken.", parts,
                               AG_RESPONSE_PARTS_MAX);
    return AG_OK;
}

int ag_responses_converse(ag_request *r, ag_str id, ag_str previous_body, ag_str previous_items, ag_err *err)
{
    json_t *body = NULL, *before = NULL;
    int rc = AG_OK;
    if (previous_body.n) {
        rc = load(previous_body, &body, err);
        if (rc == AG_OK) rc = load(previous_items, &before, err);
        if (rc == AG_OK) rc = go_on(r, before, body, err);
    }
    if (rc == AG_OK) rc = check_size(r, err);
    if (rc == AG_OK) rc = give_ids(r, id, err);
    if (rc == AG_OK) rc = set_messages(r, err);
    json_decref(body);
    json_decref(before);
    if (rc == AG_OK) rc = ag__choose_tools(r, err);
    if (rc == AG_OK) rc = ag__check_json(r, err);
    return rc == AG_OK ? ag__set_prompt_end(r, err) : rc;
}

/* What was kept, as it is told. */

static int add_json(const char *p, size_t n, void *out) { return ag_buf_add(out, p, n) ? 0 : -1; }

static int put_json(ag_buf *out, const json_t *v, ag_err *err)
{
    if (json_dump_callback(v, add_json, out, JSON_COMPACT | JSON_ENCODE_ANY) == 0) return AG_OK;
    return ag_err_set(err, AG_E_NOMEM, "The server has no memory left for this answer.");
}

int ag_responses_items_write(ag_buf *out, const ag_request *r, ag_err *err) { return put_json(out, r->items, err); }

int ag_responses_retell(ag_buf *out, ag_str text, const char *status, bool *background, ag_err *err)
{
    static const char *const broken_off = "The server was stopped before this response was finished.";
    json_t *body = NULL;
    int rc = load(text, &body, err);
    *background = json_is_true(json_object_get(body, "background"));
    if (rc == AG_OK && !json_is_object(body)) rc = unreadable(AG_E_RESPONSES, err);
    bool ok = rc != AG_OK || status == NULL || json_object_set_new(body, "status", json_string(status)) == 0;
    if (rc == AG_OK && status && strcmp(status, "failed") == 0)
        ok = ok && json_object_set_new(body, "error",
                                       json_pack("{s:s,s:s}", "code", "server_error", "message", broken_off)) == 0;
    if (rc == AG_OK && !ok) rc = ag_err_set(err, AG_E_NOMEM, "The server has no memory left for this answer.");
    if (rc == AG_OK) rc = put_json(out, body, err);
    json_decref(body);
    return rc;
}

static size_t place_of(const json_t *list, const char *id)
{
    size_t i = 0;
    while (i < json_array_size(list) &&
           strcmp(json_string_value(json_object_get(json_array_get(list, i), "id")), id) != 0)
        i++;
    return i;
}

static bool is_list(const json_t *list)
{
    bool ok = json_array_size(list) > 0;
    for (size_t i = 0; i < json_array_size(list) && ok; i++)
        ok = json_is_string(json_object_get(json_array_get(list, i), "id"));
    return ok;
}

int ag_responses_list(ag_buf *out, ag_str items, const ag_items_ask *ask, ag_err *err)
{
    json_t *list = NULL;
    int rc = load(items, &list, err);
    if (rc == AG_OK && !is_list(list)) rc = unreadable(AG_E_RESPONSES, err);
    size_t n = json_array_size(list), from = 0;
    if (rc == AG_OK && ask->after[0]) {
        size_t at = place_of(list, ask->after);
        if (at == n)
            rc = ag_request_fail(err, AG_E_PARAM, "after", "There is no item '%.80s' in this response.", ask->after);
        from = ask->ascending ? at + 1 : n - at;
    }
    size_t count = rc == AG_OK ? AG_MIN(n - from, (size_t)ask->limit) : 0;
    if (rc == AG_OK) ag_buf_addz(out, "{\"object\":\"list\",\"data\":[");
    const char *ends[2] = {"", ""};
    for (size_t i = 0; i < count && rc == AG_OK; i++) {
        const json_t *item = json_array_get(list, ask->ascending ? from + i : n - 1 - from - i);
        const char *id = json_string_value(json_object_get(item, "id"));
        if (i) ag_buf_addc(out, ',');
        if (i == 0) ends[0] = id;
        ends[1] = id;
        rc = put_json(out, item, err);
    }
    if (rc == AG_OK) {
        ag_buf_addz(out, "],\"first_id\":");
        ag_buf_add_json(out, ends[0], strlen(ends[0]));
        ag_buf_addz(out, ",\"last_id\":");
        ag_buf_add_json(out, ends[1], strlen(ends[1]));
        ag_buf_addf(out, ",\"has_more\":%s}", from + count < n ? "true" : "false");
    }
    json_decref(list);
    return rc;
}

void ag_responses_deleted(ag_buf *out, ag_str id)
{
    ag_buf_addz(out, "{\"id\":");
    ag_buf_add_json(out, id.p, id.n);
    ag_buf_addz(out, ",\"object\":\"response\",\"deleted\":true}");
}
