#include <stdio.h>

#include "base/buf.h"
#include "gateway/dialects/calls.h"
#include "gateway/dialects/fields.h"

#define MESSAGES_MAX 16384
#define TOOLS_MAX 512

static json_t *vars_of(ag_request *r)
{
    if (r->vars) return r->vars;
    r->vars = json_object();
    /* As chat templates are used to: both are always defined. */
    if (r->vars && (json_object_set_new(r->vars, "tools", json_null()) != 0 ||
                    json_object_set_new(r->vars, "documents", json_null()) != 0)) {
        json_decref(r->vars);
        r->vars = NULL;
    }
    return r->vars;
}

int ag__set_var(ag_request *r, const char *name, const json_t *v, ag_err *err)
{
    if (vars_of(r) == NULL || json_object_set(r->vars, name, (json_t *)v) != 0) return ag__no_memory(r, err);
    return AG_OK;
}

/* Templates take content as one string; text parts are put together, a line each. */
static int join_parts(ag_request *r, json_t *message, json_t *parts, const char *param, ag_err *err)
{
    ag_buf text;
    ag_buf_init(&text, 64u << 20);
    int rc = AG_OK;
    for (size_t i = 0; i < json_array_size(parts) && rc == AG_OK; i++) {
        const json_t *part = json_array_get(parts, i), *type = json_object_get(part, "type"),
                     *t = json_object_get(part, "text");
        char at[64];
        snprintf(at, sizeof at, "%s[%zu]", param, i);
        if (!json_is_object(part)) rc = ag__wrong_type(err, at, "an object", part);
        else if (!json_is_string(type))
            rc = ag_request_fail(err, AG_E_PARAM, at, "'%s' must have a string 'type', such as \"text\".", at);
        else if (strcmp(json_string_value(type), "text") != 0)
            rc = ag_request_fail(err, AG_E_UNSUPPORTED, at, "'%s' is of type \"%.40s\"; this model takes only text.",
                                 at, json_string_value(type));
        else if (!json_is_string(t))
            rc = ag_request_fail(err, AG_E_PARAM, at, "'%s' must have a string 'text'.", at);
        else if ((i && !ag_buf_addc(&text, '\n')) || !ag_buf_add(&text, json_string_value(t), json_string_length(t)))
            rc = ag__no_memory(r, err);
    }
    if (rc == AG_OK && json_object_set_new(message, "content", json_stringn(text.p ? text.p : "", text.n)) != 0)
        rc = ag__no_memory(r, err);
    ag_buf_fini(&text);
    return rc;
}

/* OpenAI sends a call's arguments as a string of JSON; templates print them as the object that they are. */
static int open_arguments(ag_request *r, json_t *message, const char *param, ag_err *err)
{
    json_t *calls = json_object_get(message, "tool_calls");
    if (calls == NULL || json_is_null(calls)) return AG_OK;
    if (!json_is_array(calls))
        return ag_request_fail(err, AG_E_PARAM, param, "'%s.tool_calls' must be an array, not %s.", param,
                               ag__json_type(calls));
    for (size_t i = 0; i < json_array_size(calls); i++) {
        json_t *call = json_array_get(calls, i), *function = json_object_get(call, "function");
        if (!json_is_object(call))
            return ag_request_fail(err, AG_E_PARAM, param, "'%s.tool_calls[%zu]' must be an object, not %s.", param, i,
                                   ag__json_type(call));
        json_t *arguments = json_object_get(function, "arguments"), *opened = NULL;
        ag_err ignored = {0};
        if (!json_is_string(arguments)) continue;
        int rc = ag__json_load(json_string_value(arguments), json_string_length(arguments), &opened, &ignored);
        if (rc == AG_E_NOMEM) return ag__no_memory(r, err);
        if (rc != AG_OK) continue; /* what does not parse stays the string that it is */
        rc = json_is_object(opened) ? json_object_set(function, "arguments", opened) : 0;
        json_decref(opened);
        if (rc != 0) return ag__no_memory(r, err);
    }
    return AG_OK;
}

/* A role is written into the prompt next to control tokens, so it must be a word. */
static bool is_word(const json_t *v)
{
    const char *z = json_string_value(v);
    size_t n = json_string_length(v);
    for (size_t i = 0; i < n; i++)
        if (!((z[i] | 32) >= 'a' && (z[i] | 32) <= 'z') && !(z[i] >= '0' && z[i] <= '9') && z[i] != '_' && z[i] != '-')
            return false;
    return n >= 1 && n <= 64;
}

static int parse_message(ag_request *r, json_t *m, size_t at, ag_err *err)
{
    char param[40];
    snprintf(param, sizeof param, "messages[%zu]", at);
    if (!json_is_object(m)) return ag__wrong_type(err, param, "an object", m);
    const json_t *role = json_object_get(m, "role");
    if (role == NULL || json_is_null(role))
        return ag_request_fail(err, AG_E_PARAM_MISSING, param,
                               "'%s.role' is missing: \"system\", \"user\", \"assistant\" or \"tool\".", param);
    if (!json_is_string(role))
        return ag_request_fail(err, AG_E_PARAM, param, "'%s.role' must be a string, not %s.", param,
                               ag__json_type(role));
    if (!is_word(role))
        return ag_request_fail(err, AG_E_PARAM, param,
                               "'%s.role' must be a word of at most 64 letters, digits, '_' and '-'.", param);
    int rc = open_arguments(r, m, param, err);
    if (rc != AG_OK) return rc;
    json_t *content = json_object_get(m, "content");
    if (json_is_string(content)) return AG_OK;
    if (json_is_array(content)) {
        snprintf(param, sizeof param, "messages[%zu].content", at);
        return join_parts(r, m, content, param, err);
    }
    bool calls = json_array_size(json_object_get(m, "tool_calls")) > 0;
    if ((content == NULL || json_is_null(content)) && calls) return AG_OK;
    if (content == NULL || json_is_null(content))
        return ag_request_fail(err, AG_E_PARAM_MISSING, param,
                               "'%s.content' is missing: a string, or an array of text parts.", param);
    snprintf(param, sizeof param, "messages[%zu].content", at);
    return ag__wrong_type(err, param, "a string or an array of text parts", content);
}

int ag__parse_messages(ag_request *r, const json_t *v, ag_err *err)
{
    if (!json_is_array(v)) return ag__wrong_type(err, "messages", "an array", v);
    size_t n = json_array_size(v);
    if (n == 0)
        return ag_request_fail(err, AG_E_PARAM, "messages", "'messages' is empty: at least one message is needed.");
    if (n > MESSAGES_MAX)
        return ag_request_fail(err, AG_E_PARAM, "messages", "'messages' has %zu messages; at most %d are taken.", n,
                               MESSAGES_MAX);
    if (r->kind & (AG_REQUEST_MESSAGES | AG_REQUEST_COUNT)) return ag__anthropic_messages(r, v, err);
    for (size_t i = 0; i < n; i++) {
        int rc = parse_message(r, json_array_get(v, i), i, err);
        if (rc != AG_OK) return rc;
    }
    return ag__set_var(r, "messages", v, err);
}

int ag__parse_tools(ag_request *r, const json_t *v, ag_err *err)
{
    if (!json_is_array(v)) return ag__wrong_type(err, "tools", "an array", v);
    if (json_array_size(v) > TOOLS_MAX)
        return ag_request_fail(err, AG_E_PARAM, "tools", "'tools' has %zu tools; at most %d are taken.",
                               json_array_size(v), TOOLS_MAX);
    if (r->kind & (AG_REQUEST_MESSAGES | AG_REQUEST_COUNT)) return ag__anthropic_tools(r, v, err);
    if (r->kind == AG_REQUEST_RESPONSE) return ag__responses_tools(r, v, err);
    for (size_t i = 0; i < json_array_size(v); i++) {
        char param[40];
        snprintf(param, sizeof param, "tools[%zu]", i);
        if (!json_is_object(json_array_get(v, i))) return ag__wrong_type(err, param, "an object", json_array_get(v, i));
    }
    return ag__set_tools(r, v, err);
}

int ag__set_tools(ag_request *r, const json_t *tools, ag_err *err)
{
    if (json_array_size(tools) == 0) return AG_OK;
    r->tools = tools;
    return ag__set_var(r, "tools", tools, err);
}

int ag__force_tool(ag_request *r, const json_t *name, ag_err *err)
{
    if (!json_is_string(name))
        return ag_request_fail(err, AG_E_PARAM, "tool_choice",
                               "'tool_choice' must name the tool that is to be called.");
    ag_str wanted = {json_string_value(name), json_string_length(name)};
    r->forced_tool = ag_tool_name(r->tools, wanted);
    if (r->forced_tool.p) return AG_OK;
    return ag_request_fail(err, AG_E_PARAM, "tool_choice", "'tool_choice' names '%.100s', which is not among 'tools'.",
                           wanted.p);
}

int ag__parse_tool_choice(ag_request *r, const json_t *v, ag_err *err)
{
    if (r->kind & (AG_REQUEST_MESSAGES | AG_REQUEST_COUNT)) return ag__anthropic_tool_choice(r, v, err);
    const char *z = json_string_value(v);
    bool response = r->kind == AG_REQUEST_RESPONSE;
    if (json_is_object(v) && response) return ag__responses_tool_choice(r, v, err);
    if (json_is_object(v)) return ag__force_tool(r, json_object_get(json_object_get(v, "function"), "name"), err);
    if (z == NULL) return ag__wrong_type(err, "tool_choice", "a string or an object", v);
    r->no_tools = strcmp(z, "none") == 0;
    r->any_tool = strcmp(z, "required") == 0;
    if (r->no_tools || r->any_tool || strcmp(z, "auto") == 0) return AG_OK;
    return ag_request_fail(err, AG_E_PARAM, "tool_choice",
                           "'tool_choice' must be \"auto\", \"none\", \"required\" or a function, not \"%.40s\".", z);
}

int ag__parse_chat_template_kwargs(ag_request *r, const json_t *v, ag_err *err)
{
    if (!json_is_object(v)) return ag__wrong_type(err, "chat_template_kwargs", "an object", v);
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)v, key, value) {
        if (strcmp(key, "messages") == 0 || strcmp(key, "tools") == 0)
            return ag_request_fail(err, AG_E_PARAM, "chat_template_kwargs",
                                   "'chat_template_kwargs' cannot set '%s'; that is a field of its own.", key);
        int rc = ag__set_var(r, key, value, err);
        if (rc != AG_OK) return rc;
    }
    return AG_OK;
}

int ag__parse_top_logprobs(ag_request *r, const json_t *v, ag_err *err)
{
    int64_t n;
    int rc = ag__json_integer(v, "top_logprobs", 0, AG_GEN_TOP_MAX, &n, err);
    if (rc != AG_OK) return rc;
    if (r->top_logprobs < 0 && n > 0)
        return ag_request_fail(err, AG_E_PARAM, "top_logprobs", "'top_logprobs' needs 'logprobs' to be true.");
    if (r->top_logprobs >= 0) r->top_logprobs = (int32_t)n;
    return AG_OK;
}

int ag__take_format(ag_request *r, const json_t *v, const char *field, ag_err *err)
{
    const char *type = json_string_value(json_object_get(v, "type"));
    if (!json_is_object(v)) return ag__wrong_type(err, field, "an object", v);
    if (type == NULL) return ag_request_fail(err, AG_E_PARAM, field, "'%s' must have a string 'type'.", field);
    r->json = strcmp(type, "json_object") == 0;
    if (r->json || strcmp(type, "text") == 0) return AG_OK;
    return ag_request_fail(err, AG_E_UNSUPPORTED, field,
                           "'%s' of type \"%.40s\" is not supported; \"text\" and \"json_object\" are.", field, type);
}

int ag__parse_response_format(ag_request *r, const json_t *v, ag_err *err)
{
    return ag__take_format(r, v, "response_format", err);
}
