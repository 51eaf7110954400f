#include <stdio.h>

#include "gateway/dialects/anthropic.h"
#include "gateway/dialects/fields.h"

#define TEXT_BYTES_MAX (64u << 20)

/* A message's blocks, put together. */
typedef struct turn {
    const char *role;
    bool assistant, user;
    ag_buf text, thinking;
    json_t *calls;    /* the assistant's, in OpenAI's form; NULL: none */
    json_t *messages; /* where results of tools go, ahead of the rest */
} turn;

static int add_line(ag_request *r, ag_buf *to, const json_t *s, ag_err *err)
{
    if ((to->n && !ag_buf_addc(to, '\n')) || !ag_buf_add(to, json_string_value(s), json_string_length(s)))
        return ag__no_memory(r, err);
    return AG_OK;
}

/* A member of a block that must be a string. */
static int string_of(const json_t *block, const char *name, const char *param, const json_t **out, ag_err *err)
{
    *out = json_object_get(block, name);
    if (json_is_string(*out)) return AG_OK;
    return ag_request_fail(err, AG_E_PARAM, param, "'%s' must have a string '%s'.", param, name);
}

static int add_text(ag_request *r, const json_t *block, const char *param, ag_buf *to, ag_err *err)
{
    const json_t *text;
    int rc = string_of(block, "text", param, &text, err);
    return rc == AG_OK ? add_line(r, to, text, err) : rc;
}

static int block_type(const json_t *block, const char *param, const char **type, ag_err *err)
{
    const json_t *v = json_object_get(block, "type");
    if (!json_is_object(block)) return ag__wrong_type(err, param, "an object", block);
    if (!json_is_string(v))
        return ag_request_fail(err, AG_E_PARAM, param, "'%s' must have a string 'type', such as \"text\".", param);
    *type = json_string_value(v);
    return AG_OK;
}

static int wrong_block(const char *type, const char *param, ag_err *err)
{
    return ag_request_fail(err, AG_E_UNSUPPORTED, param, "'%s' is of type \"%.40s\", which is not taken here.", param,
                           type);
}

/* A string, or an array of blocks of text. */
static int text_of(ag_request *r, const json_t *v, const char *param, ag_buf *out, ag_err *err)
{
    if (json_is_string(v)) return add_line(r, out, v, err);
    if (!json_is_array(v)) return ag__wrong_type(err, param, "a string or an array of text blocks", v);
    int rc = AG_OK;
    for (size_t i = 0; i < json_array_size(v) && rc == AG_OK; i++) {
        const json_t *block = json_array_get(v, i);
        const char *type = NULL;
        char at[80];
        snprintf(at, sizeof at, "%s[%zu]", param, i);
        rc = block_type(block, at, &type, err);
        if (rc == AG_OK) rc = strcmp(type, "text") == 0 ? add_text(r, block, at, out, err) : wrong_block(type, at, err);
    }
    return rc;
}

/* {"role": role, "content": text} at the end of `messages`, with what else the assistant did. */
static int push(ag_request *r, json_t *messages, const char *role, const ag_buf *text, ag_err *err)
{
    json_t *m = json_object();
    bool ok = m != NULL && json_object_set_new(m, "role", json_string(role)) == 0 &&
              json_object_set_new(m, "content", json_stringn(text->p ? text->p : "", text->n)) == 0;
    if (ok && json_array_append(messages, m) == 0) {
        json_decref(m);
        return AG_OK;
    }
    json_decref(m);
    return ag__no_memory(r, err);
}

static json_t *last_of(json_t *messages) { return json_array_get(messages, json_array_size(messages) - 1); }

static int take_call(ag_request *r, turn *t, const json_t *block, const char *param, ag_err *err)
{
    const json_t *id, *name;
    json_t *input = json_object_get(block, "input");
    int rc = string_of(block, "id", param, &id, err);
    if (rc == AG_OK) rc = string_of(block, "name", param, &name, err);
    if (rc != AG_OK) return rc;
    if (!json_is_object(input))
        return ag_request_fail(err, AG_E_PARAM, param, "'%s' must have an object 'input'.", param);
    if (t->calls == NULL) t->calls = json_array();
    json_t *call = json_pack("{s:O,s:s,s:{s:O,s:O}}", "id", id, "type", "function", "function", "name", name,
                             "arguments", input);
    if (t->calls == NULL || call == NULL || json_array_append(t->calls, call) != 0) rc = ag__no_memory(r, err);
    json_decref(call);
    return rc;
}

static int take_result(ag_request *r, turn *t, const json_t *block, const char *param, ag_err *err)
{
    const json_t *id, *content = json_object_get(block, "content");
    ag_buf text;
    ag_buf_init(&text, TEXT_BYTES_MAX);
    int rc = string_of(block, "tool_use_id", param, &id, err);
    if (rc == AG_OK && content && !json_is_null(content)) {
        char at[80];
        snprintf(at, sizeof at, "%s.content", param);
        rc = text_of(r, content, at, &text, err);
    }
    if (rc == AG_OK) rc = push(r, t->messages, "tool", &text, err);
    if (rc == AG_OK && json_object_set(last_of(t->messages), "tool_call_id", (json_t *)id) != 0)
        rc = ag__no_memory(r, err);
    ag_buf_fini(&text);
    return rc;
}

static int take_block(ag_request *r, turn *t, const json_t *block, const char *param, ag_err *err)
{
    const char *type = NULL;
    const json_t *s;
    int rc = block_type(block, param, &type, err);
    if (rc != AG_OK) return rc;
    if (strcmp(type, "text") == 0) return add_text(r, block, param, &t->text, err);
    if (t->user && strcmp(type, "tool_result") == 0) return take_result(r, t, block, param, err);
    if (t->assistant && strcmp(type, "tool_use") == 0) return take_call(r, t, block, param, err);
    if (t->assistant && strcmp(type, "redacted_thinking") == 0) return AG_OK; /* nothing that we could read */
    if (!t->assistant || strcmp(type, "thinking") != 0) return wrong_block(type, param, err);
    rc = string_of(block, "thinking", param, &s, err);
    return rc == AG_OK ? add_line(r, &t->thinking, s, err) : rc;
}

/* What is left of a turn when its results have gone ahead. */
static int end_turn(ag_request *r, turn *t, ag_err *err)
{
    json_t *last = last_of(t->messages);
    const char *before = json_string_value(json_object_get(last, "role"));
    if (before && strcmp(before, t->role) == 0 && t->calls == NULL && json_object_get(last, "tool_calls") == NULL) {
        const json_t *old = json_object_get(last, "content");
        ag_buf both;
        ag_buf_init(&both, 2 * TEXT_BYTES_MAX);
        bool ok = ag_buf_add(&both, json_string_value(old), json_string_length(old)) && ag_buf_addz(&both, "\n\n") &&
                  ag_buf_add(&both, t->text.p, t->text.n) &&
                  json_object_set_new(last, "content", json_stringn(both.p, both.n)) == 0;
        ag_buf_fini(&both);
        return ok ? AG_OK : ag__no_memory(r, err);
    }
    if (t->user && t->text.n == 0 && before && strcmp(before, "tool") == 0) return AG_OK; /* it was results alone */
    int rc = push(r, t->messages, t->role, &t->text, err);
    last = last_of(t->messages);
    if (rc == AG_OK && t->calls && json_object_set(last, "tool_calls", t->calls) != 0) rc = ag__no_memory(r, err);
    if (rc == AG_OK && t->thinking.n &&
        json_object_set_new(last, "reasoning_content", json_stringn(t->thinking.p, t->thinking.n)) != 0)
        rc = ag__no_memory(r, err);
    return rc;
}

static int take_message(ag_request *r, json_t *messages, const json_t *m, size_t index, ag_err *err)
{
    char param[64];
    snprintf(param, sizeof param, "messages[%zu]", index);
    if (!json_is_object(m)) return ag__wrong_type(err, param, "an object", m);
    const char *role = json_string_value(json_object_get(m, "role"));
    turn t = {.role = role, .messages = messages};
    t.assistant = role && strcmp(role, "assistant") == 0;
    t.user = role && strcmp(role, "user") == 0;
    if (!t.assistant && !t.user && (role == NULL || strcmp(role, "system") != 0))
        return ag_request_fail(err, role ? AG_E_PARAM : AG_E_PARAM_MISSING, param,
                               "'%s.role' must be \"user\" or \"assistant\", or \"system\".", param);
    const json_t *content = json_object_get(m, "content");
    if (!json_is_string(content) && !json_is_array(content))
        return ag_request_fail(err, content ? AG_E_PARAM : AG_E_PARAM_MISSING, param,
                               "'%s.content' must be a string or an array of blocks.", param);
    ag_buf_init(&t.text, TEXT_BYTES_MAX);
    ag_buf_init(&t.thinking, TEXT_BYTES_MAX);
    int rc = json_is_string(content) ? add_line(r, &t.text, content, err) : AG_OK;
    for (size_t i = 0; i < json_array_size(content) && rc == AG_OK; i++) {
        snprintf(param, sizeof param, "messages[%zu].content[%zu]", index, i);
        rc = take_block(r, &t, json_array_get(content, i), param, err);
    }
    if (rc == AG_OK) rc = end_turn(r, &t, err);
    ag_buf_fini(&t.text);
    ag_buf_fini(&t.thinking);
    json_decref(t.calls);
    return rc;
}

/* A last message of the assistant's leaves the conversation and becomes what the answer begins with. */
static int take_prefill(ag_request *r, json_t *messages, ag_err *err)
{
    json_t *last = last_of(messages), *content = json_object_get(last, "content");
    if (strcmp(json_string_value(json_object_get(last, "role")), "assistant") != 0 ||
        json_object_get(last, "tool_calls"))
        return AG_OK;
    char *z = ag_arena_strndup(&r->mem, json_string_value(content), json_string_length(content));
    if (z == NULL) return ag__no_memory(r, err);
    r->prefill = (ag_str){z, json_string_length(content)};
    json_array_remove(messages, json_array_size(messages) - 1);
    if (json_array_size(messages) > 0) return AG_OK;
    return ag_request_fail(err, AG_E_PARAM, "messages", "'messages' must have a message of the user's.");
}

int ag__anthropic_messages(ag_request *r, const json_t *v, ag_err *err)
{
    size_t n = json_array_size(v);
    json_t *messages = json_array();
    int rc = messages ? AG_OK : ag__no_memory(r, err);
    for (size_t i = 0; i < n && rc == AG_OK; i++) rc = take_message(r, messages, json_array_get(v, i), i, err);
    if (rc == AG_OK) rc = take_prefill(r, messages, err);
    if (rc == AG_OK) rc = ag__set_var(r, "messages", messages, err);
    json_decref(messages);
    return rc;
}

/* {"name", "description", "input_schema"} becomes OpenAI's function. */
static int take_tool(ag_request *r, json_t *tools, const json_t *tool, size_t index, ag_err *err)
{
    char param[40];
    snprintf(param, sizeof param, "tools[%zu]", index);
    const json_t *name, *type = json_object_get(tool, "type"), *about = json_object_get(tool, "description");
    json_t *schema = json_object_get(tool, "input_schema");
    if (!json_is_object(tool)) return ag__wrong_type(err, param, "an object", tool);
    if (json_is_string(type) && strcmp(json_string_value(type), "custom") != 0)
        return ag_request_fail(err, AG_E_UNSUPPORTED, param,
                               "'%s' is of type \"%.40s\"; only tools of the caller's own are called here.", param,
                               json_string_value(type));
    int rc = string_of(tool, "name", param, &name, err);
    if (rc != AG_OK) return rc;
    if (!json_is_object(schema))
        return ag_request_fail(err, AG_E_PARAM, param, "'%s' must have an object 'input_schema'.", param);
    json_t *one = json_pack("{s:s,s:{s:O,s:O}}", "type", "function", "function", "name", name, "parameters", schema);
    bool ok = one != NULL;
    if (ok && json_is_string(about))
        ok = json_object_set(json_object_get(one, "function"), "description", (json_t *)about) == 0;
    ok = ok && json_array_append(tools, one) == 0;
    json_decref(one);
    return ok ? AG_OK : ag__no_memory(r, err);
}

int ag__anthropic_tools(ag_request *r, const json_t *v, ag_err *err)
{
    json_t *tools = json_array();
    int rc = tools ? AG_OK : ag__no_memory(r, err);
    for (size_t i = 0; i < json_array_size(v) && rc == AG_OK; i++)
        rc = take_tool(r, tools, json_array_get(v, i), i, err);
    if (rc == AG_OK) rc = ag__set_tools(r, tools, err); /* which keeps them in the template's variables */
    json_decref(tools);
    return rc;
}

int ag__anthropic_tool_choice(ag_request *r, const json_t *v, ag_err *err)
{
    const char *type = json_string_value(json_object_get(v, "type"));
    const json_t *single = json_object_get(v, "disable_parallel_tool_use");
    bool no = false;
    if (!json_is_object(v)) return ag__wrong_type(err, "tool_choice", "an object", v);
    int rc = AG_OK;
    if (single && !json_is_null(single))
        rc = ag__json_bool(single, "tool_choice.disable_parallel_tool_use", &no, err);
    if (rc != AG_OK) return rc;
    r->parallel_calls = !no;
    if (type && strcmp(type, "tool") == 0) return ag__force_tool(r, json_object_get(v, "name"), err);
    r->no_tools = type && strcmp(type, "none") == 0;
    r->any_tool = type && strcmp(type, "any") == 0;
    if (r->no_tools || r->any_tool || (type && strcmp(type, "auto") == 0)) return AG_OK;
    return ag_request_fail(err, AG_E_PARAM, "tool_choice",
                           "'tool_choice.type' must be \"auto\", \"none\", \"any\" or \"tool\".");
}

int ag__parse_system(ag_request *r, const json_t *v, ag_err *err)
{
    ag_buf text;
    ag_buf_init(&text, TEXT_BYTES_MAX);
    json_t *one = json_array(), *messages = json_object_get(r->vars, "messages");
    int rc = one ? text_of(r, v, "system", &text, err) : ag__no_memory(r, err);
    if (rc == AG_OK && text.n && messages) {
        rc = push(r, one, "system", &text, err);
        if (rc == AG_OK && json_array_insert(messages, 0, last_of(one)) != 0) rc = ag__no_memory(r, err);
    }
    json_decref(one);
    ag_buf_fini(&text);
    return rc;
}

int ag__parse_stop_sequences(ag_request *r, const json_t *v, ag_err *err)
{
    if (!json_is_array(v)) return ag__wrong_type(err, "stop_sequences", "an array of strings", v);
    return ag__add_stops(r, v, "stop_sequences", err);
}

/* Families that can think or not take it from a variable of their template. */
int ag__parse_thinking(ag_request *r, const json_t *v, ag_err *err)
{
    const char *type = json_string_value(json_object_get(v, "type"));
    if (!json_is_object(v)) return ag__wrong_type(err, "thinking", "an object", v);
    bool on = type && (strcmp(type, "enabled") == 0 || strcmp(type, "adaptive") == 0);
    if (!on && (type == NULL || strcmp(type, "disabled") != 0))
        return ag_request_fail(err, AG_E_PARAM, "thinking",
                               "'thinking.type' must be \"enabled\", \"adaptive\" or \"disabled\".");
    json_t *value = json_boolean(on);
    return ag__set_var(r, "enable_thinking", value, err);
}

int ag__parse_metadata(ag_request *r, const json_t *v, ag_err *err)
{
    return r->kind == AG_REQUEST_RESPONSE ? ag__responses_metadata(v, err) : AG_OK;
}

int ag_anthropic_parse(ag_request *r, const char *body, size_t n, ag_err *err)
{
    int rc = ag__fields_parse(r, body, n, err);
    if (rc != AG_OK) return rc;
    if (r->vars == NULL || json_object_get(r->vars, "messages") == NULL)
        return ag_request_fail(err, AG_E_PARAM_MISSING, "messages",
                               "'messages' is missing: an array with the conversation.");
    if (r->kind == AG_REQUEST_MESSAGES && r->max_tokens == AG_REQUEST_UNSET)
        return ag_request_fail(err, AG_E_PARAM_MISSING, "max_tokens",
                               "'max_tokens' is missing: how long the answer may be.");
    rc = ag__choose_tools(r, err);
    if (rc == AG_OK && r->kind == AG_REQUEST_MESSAGES) rc = ag__check_json(r, err);
    return rc == AG_OK ? ag__set_prompt_end(r, err) : rc;
}
