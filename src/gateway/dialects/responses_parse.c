#include <stdio.h>

#include "gateway/dialects/fields.h"
#include "gateway/dialects/responses.h"

#define METADATA_MAX 16
#define METADATA_KEY_MAX 64
#define METADATA_VALUE_MAX 512
#define RESPONSE_ID_MAX 64

static bool is_one_of(const json_t *v, const char *const *words, size_t n)
{
    bool found = false;
    for (size_t i = 0; i < n && !found; i++) found = json_is_string(v) && strcmp(json_string_value(v), words[i]) == 0;
    return found;
}

int ag__parse_instructions(ag_request *r AG_UNUSED, const json_t *v, ag_err *err)
{
    return json_is_string(v) ? AG_OK : ag__wrong_type(err, "instructions", "a string", v);
}

int ag__parse_previous_response_id(ag_request *r, const json_t *v, ag_err *err)
{
    if (!json_is_string(v)) return ag__wrong_type(err, "previous_response_id", "a string", v);
    if (json_string_length(v) < 1 || json_string_length(v) > RESPONSE_ID_MAX)
        return ag_request_fail(err, AG_E_PARAM, "previous_response_id",
                               "'previous_response_id' must have 1 to %d bytes, as the id of a response has.",
                               RESPONSE_ID_MAX);
    r->previous = (ag_str){json_string_value(v), json_string_length(v)};
    return AG_OK;
}

int ag__parse_conversation(ag_request *r AG_UNUSED, const json_t *v AG_UNUSED, ag_err *err)
{
    return ag_request_fail(err, AG_E_UNSUPPORTED, "conversation",
                           "'conversation' is not supported; 'previous_response_id' goes on from a response.");
}

/* {"type": "function", "name", "description", "parameters"} becomes the function that templates take. */
static int take_tool(ag_request *r, json_t *tools, const json_t *tool, size_t index, ag_err *err)
{
    static const char *const texts[] = {"name", "description"};
    char param[40];
    snprintf(param, sizeof param, "tools[%zu]", index);
    if (!json_is_object(tool)) return ag__wrong_type(err, param, "an object", tool);
    const char *type = json_string_value(json_object_get(tool, "type"));
    if (type == NULL)
        return ag_request_fail(err, AG_E_PARAM, param, "'%s' must have a string 'type', \"function\".", param);
    if (strcmp(type, "function") != 0)
        return ag_request_fail(err, AG_E_UNSUPPORTED, param,
                               "'%s' is of type \"%.40s\"; only functions of the caller's own are called here.", param,
                               type);
    const json_t *parameters = json_object_get(tool, "parameters");
    for (size_t i = 0; i < AG_ARRAY_LEN(texts); i++) {
        const json_t *v = json_object_get(tool, texts[i]);
        bool missing = v == NULL || json_is_null(v);
        if (missing ? i == 0 : !json_is_string(v))
            return ag_request_fail(err, AG_E_PARAM, param, "'%s.%s' must be a string.", param, texts[i]);
    }
    if (parameters && !json_is_null(parameters) && !json_is_object(parameters))
        return ag_request_fail(err, AG_E_PARAM, param, "'%s.parameters' must be an object, not %s.", param,
                               ag__json_type(parameters));
    json_t *function = json_object(), *one = json_pack("{s:s,s:O?}", "type", "function", "function", function);
    static const char *const names[] = {"name", "description", "parameters"};
    bool ok = one != NULL && function != NULL;
    for (size_t i = 0; i < AG_ARRAY_LEN(names) && ok; i++) {
        json_t *v = json_object_get(tool, names[i]);
        if (v && !json_is_null(v)) ok = json_object_set(function, names[i], v) == 0;
    }
    ok = ok && json_array_append(tools, one) == 0;
    json_decref(function);
    json_decref(one);
    return ok ? AG_OK : ag__no_memory(r, err);
}

int ag__responses_tools(ag_request *r, const json_t *v, ag_err *err)
{
    json_t *tools = json_array();
    int rc = tools ? AG_OK : ag__no_memory(r, err);
    for (size_t i = 0; i < json_array_size(v) && rc == AG_OK; i++)
        rc = take_tool(r, tools, json_array_get(v, i), i, err);
    if (rc == AG_OK) rc = ag__set_tools(r, tools, err); /* which keeps them in the template's variables */
    json_decref(tools);
    return rc;
}

int ag__responses_tool_choice(ag_request *r, const json_t *v, ag_err *err)
{
    const char *type = json_string_value(json_object_get(v, "type"));
    if (type && strcmp(type, "function") == 0) return ag__force_tool(r, json_object_get(v, "name"), err);
    return ag_request_fail(
        err, type ? AG_E_UNSUPPORTED : AG_E_PARAM, "tool_choice",
        "'tool_choice' must be \"auto\", \"none\", \"required\" or {\"type\": \"function\", \"name\"}.");
}

/* Families that can think or not take it from a variable of their template, gpt-oss how much from another. */
int ag__parse_reasoning(ag_request *r, const json_t *v, ag_err *err)
{
    static const char *const efforts[] = {"none", "minimal", "low", "medium", "high", "xhigh"};
    static const char *const summaries[] = {"auto", "concise", "detailed"};
    if (!json_is_object(v)) return ag__wrong_type(err, "reasoning", "an object", v);
    const json_t *effort = json_object_get(v, "effort"), *summary = json_object_get(v, "summary");
    if (summary && !json_is_null(summary) && !is_one_of(summary, summaries, AG_ARRAY_LEN(summaries)))
        return ag_request_fail(err, AG_E_PARAM, "reasoning",
                               "'reasoning.summary' must be \"auto\", \"concise\" or \"detailed\".");
    if (effort == NULL || json_is_null(effort)) return AG_OK;
    if (!is_one_of(effort, efforts, AG_ARRAY_LEN(efforts)))
        return ag_request_fail(
            err, AG_E_PARAM, "reasoning",
            "'reasoning.effort' must be \"none\", \"minimal\", \"low\", \"medium\", \"high\" or \"xhigh\".");
    json_t *on = json_boolean(!is_one_of(effort, efforts, 2));
    int rc = ag__set_var(r, "enable_thinking", on, err);
    return rc == AG_OK ? ag__set_var(r, "reasoning_effort", effort, err) : rc;
}

int ag__parse_text(ag_request *r, const json_t *v, ag_err *err)
{
    static const char *const words[] = {"low", "medium", "high"};
    if (!json_is_object(v)) return ag__wrong_type(err, "text", "an object", v);
    const json_t *format = json_object_get(v, "format"), *verbosity = json_object_get(v, "verbosity");
    if (verbosity && !json_is_null(verbosity) && !is_one_of(verbosity, words, AG_ARRAY_LEN(words)))
        return ag_request_fail(err, AG_E_PARAM, "text", "'text.verbosity' must be \"low\", \"medium\" or \"high\".");
    return format && !json_is_null(format) ? ag__take_format(r, format, "text.format", err) : AG_OK;
}

int ag__parse_truncation(ag_request *r AG_UNUSED, const json_t *v, ag_err *err)
{
    const char *z = json_string_value(v);
    if (z && strcmp(z, "disabled") == 0) return AG_OK;
    if (z && strcmp(z, "auto") == 0)
        return ag_request_fail(err, AG_E_UNSUPPORTED, "truncation",
                               "'truncation' \"auto\" is not supported; what does not fit the context is refused.");
    return ag_request_fail(err, AG_E_PARAM, "truncation", "'truncation' must be \"disabled\" or \"auto\".");
}

/* Most of what can be included concerns tools that are not called here, and reasoning is told in clear. */
int ag__parse_include(ag_request *r AG_UNUSED, const json_t *v, ag_err *err)
{
    static const char *const words[] = {"file_search_call.results", "web_search_call.results",
                                        "web_search_call.action.sources", "message.input_image.image_url",
                                        "computer_call_output.output.image_url", "code_interpreter_call.outputs",
                                        "reasoning.encrypted_content"};
    if (!json_is_array(v)) return ag__wrong_type(err, "include", "an array of strings", v);
    for (size_t i = 0; i < json_array_size(v); i++) {
        const json_t *one = json_array_get(v, i);
        const char *z = json_string_value(one);
        if (z && strcmp(z, "message.output_text.logprobs") == 0)
            return ag_request_fail(err, AG_E_UNSUPPORTED, "include",
                                   "'include' cannot have \"%s\"; /v1/chat/completions tells log probabilities.", z);
        if (!is_one_of(one, words, AG_ARRAY_LEN(words)))
            return ag_request_fail(err, AG_E_PARAM, "include", "'include[%zu]' is nothing that can be included: %.40s.",
                                   i, z ? z : ag__json_type(one));
    }
    return AG_OK;
}

int ag__responses_metadata(const json_t *v, ag_err *err)
{
    const char *key;
    json_t *value;
    if (!json_is_object(v)) return ag__wrong_type(err, "metadata", "an object", v);
    if (json_object_size(v) > METADATA_MAX)
        return ag_request_fail(err, AG_E_PARAM, "metadata", "'metadata' has %zu entries; at most %d are taken.",
                               json_object_size(v), METADATA_MAX);
    json_object_foreach((json_t *)v, key, value) {
        if (strlen(key) > METADATA_KEY_MAX)
            return ag_request_fail(err, AG_E_PARAM, "metadata",
                                   "A key of 'metadata' has %zu bytes; at most %d are taken.", strlen(key),
                                   METADATA_KEY_MAX);
        if (!json_is_string(value) || json_string_length(value) > METADATA_VALUE_MAX)
            return ag_request_fail(err, AG_E_PARAM, "metadata",
                                   "'metadata.%.64s' must be a string of at most %d bytes.", key, METADATA_VALUE_MAX);
    }
    return AG_OK;
}

int ag_responses_parse(ag_request *r, const char *body, size_t n, ag_err *err)
{
    int rc = ag__fields_parse(r, body, n, err);
    if (rc != AG_OK) return rc;
    if (r->items == NULL)
        return ag_request_fail(err, AG_E_PARAM_MISSING, "input", "'input' is missing: a string, or an array of items.");
    if (r->background && !r->store)
        return ag_request_fail(err, AG_E_PARAM, "background",
                               "'background' needs 'store' to be true: the answer is looked up where it is kept.");
    return AG_OK;
}
