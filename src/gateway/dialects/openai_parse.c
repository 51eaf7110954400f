#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "gateway/dialects/fields.h"
#include "gateway/dialects/openai.h"
#include "gateway/dialects/tokens.h"

int ag__set_prompt_end(ag_request *r, ag_err *err)
{
    if (json_object_get(r->vars, "add_generation_prompt") == NULL &&
        json_object_set_new(r->vars, "add_generation_prompt", json_boolean(r->add_generation_prompt)) != 0)
        return ag__no_memory(r, err);
    return AG_OK;
}

int ag__choose_tools(ag_request *r, ag_err *err)
{
    if (r->any_tool && json_array_size(r->tools) == 0)
        return ag_request_fail(err, AG_E_PARAM, "tool_choice",
                               "'tool_choice' asks for a call, and there are no 'tools'.");
    if (r->any_tool && json_array_size(r->tools) == 1)
        return ag__force_tool(r, json_object_get(json_object_get(json_array_get(r->tools, 0), "function"), "name"),
                              err);
    if (!r->no_tools) return AG_OK;
    r->tools = NULL;
    return json_object_set_new(r->vars, "tools", json_null()) == 0 ? AG_OK : ag__no_memory(r, err);
}

const char *ag_request_length_field(const ag_request *r)
{
    return r->kind == AG_REQUEST_RESPONSE ? "max_output_tokens" : "max_tokens";
}

int ag__check_json(ag_request *r, ag_err *err)
{
    bool response = r->kind == AG_REQUEST_RESPONSE;
    const char *field = !r->json ? "tool_choice" : response ? "text.format" : "response_format";
    const char *length = ag_request_length_field(r);
    if (!r->json && !ag_request_calls(r)) return AG_OK;
    if (r->min_tokens || r->ignore_eos || r->n_stop_tokens || r->n_stops)
        return ag_request_fail(err, AG_E_UNSUPPORTED, field,
                               "A JSON object ends where it is whole; it cannot go with stop strings, 'stop_token_ids', "
                               "'min_tokens' or 'ignore_eos'.");
    if (r->json && r->tools)
        return ag_request_fail(err, AG_E_UNSUPPORTED, field,
                               "With 'tools' the answer may be a call, which is no JSON object; leave one of both away.");
    if (r->max_tokens < 2)
        return ag_request_fail(err, AG_E_PARAM, length, "'%s' is %u; a JSON object takes at least 2.", length,
                               r->max_tokens);
    return AG_OK;
}

/* What no single field can tell. */
static int check_together(ag_request *r, ag_err *err)
{
    if (r->kind == AG_REQUEST_COMPLETION && r->n_prompts == 0)
        return ag_request_fail(err, AG_E_PARAM_MISSING, "prompt", "'prompt' is missing: say what is to be continued.");
    if (r->kind == AG_REQUEST_EMBEDDINGS && r->n_prompts == 0)
        return ag_request_fail(err, AG_E_PARAM_MISSING, "input", "'input' is missing: say what is to be embedded.");
    if (r->kind == AG_REQUEST_CHAT && (r->vars == NULL || json_object_get(r->vars, "messages") == NULL))
        return ag_request_fail(err, AG_E_PARAM_MISSING, "messages",
                               "'messages' is missing: an array with the conversation.");
    if (r->kind == AG_REQUEST_COMPLETION && r->n_prompts * r->n > AG_REQUEST_PROMPTS_MAX)
        return ag_request_fail(err, AG_E_PARAM, "n",
                               "%u prompts with 'n' = %u make %u answers; one request may ask for %d.", r->n_prompts,
                               r->n, r->n_prompts * r->n, AG_REQUEST_PROMPTS_MAX);
    if (r->max_completion_tokens != AG_REQUEST_UNSET) r->max_tokens = r->max_completion_tokens;
    if (r->kind == AG_REQUEST_COMPLETION && r->max_tokens == AG_REQUEST_UNSET) r->max_tokens = 16;
    if (r->max_tokens == 0 && !(r->echo && r->top_logprobs >= 0))
        return ag_request_fail(err, AG_E_PARAM, "max_tokens", "'max_tokens' may be 0 only with 'echo' and 'logprobs'.");
    if (r->max_tokens != AG_REQUEST_UNSET && r->min_tokens > r->max_tokens)
        return ag_request_fail(err, AG_E_PARAM, "min_tokens", "'min_tokens' (%u) is more than 'max_tokens' (%u).",
                               r->min_tokens, r->max_tokens);
    int rc = ag__choose_tools(r, err);
    if (rc == AG_OK) rc = ag__check_json(r, err);
    return rc == AG_OK && r->kind == AG_REQUEST_CHAT ? ag__set_prompt_end(r, err) : rc;
}

int ag__openai_check(ag_request *r, ag_err *err)
{
    return ag_request_generates(r->kind) ? check_together(r, err) : ag_tokens_check(r, err);
}

int ag_openai_parse(ag_request *r, const char *body, size_t n, ag_err *err)
{
    int rc = ag__fields_parse(r, body, n, err);
    if (rc != AG_OK) return rc;
    return ag__openai_check(r, err);
}

int ag_openai_parse_move(const char *body, size_t n, uint32_t *priority, ag_err *err)
{
    json_t *root = NULL;
    int64_t band = 0;
    int rc = ag__json_load(body, n, &root, err);
    const json_t *v = json_object_get(root, "priority");
    if (rc == AG_OK && !json_is_object(root))
        rc = ag_err_set(err, AG_E_JSON, "The body must be a JSON object, not %s.", ag__json_type(root));
    else if (rc == AG_OK && v == NULL)
        rc = ag_request_fail(err, AG_E_PARAM_MISSING, "priority",
                             "'priority' is missing: the band to move to, 0 to %d.", AG_BANDS - 1);
    if (rc == AG_OK) rc = ag__json_integer(v, "priority", 0, AG_BANDS - 1, &band, err);
    *priority = (uint32_t)band;
    json_decref(root);
    return rc;
}

/* Fields of both dialects. */

/* A token id at an array's place i. The sentence names the place, err->param the field. */
static int parse_id(const json_t *array, size_t i, const char *field, const char *name, int32_t *out, ag_err *err)
{
    const json_t *v = json_array_get(array, i);
    int64_t id = 0;
    int rc = ag__json_integer(v, field, 0, INT32_MAX, &id, NULL);
    *out = (int32_t)id;
    if (rc == AG_OK) return rc;
    char at[80];
    ag_err e = {0};
    snprintf(at, sizeof at, "%s[%zu]", name, i);
    ag__json_integer(v, at, 0, INT32_MAX, &id, &e);
    return ag_request_fail(err, rc, field, "%s", e.text);
}

int ag__parse_model(ag_request *r, const json_t *v, ag_err *err)
{
    if (!json_is_string(v)) return ag__wrong_type(err, "model", "a string", v);
    r->model = (ag_str){json_string_value(v), json_string_length(v)};
    return AG_OK;
}

int ag__parse_user(ag_request *r AG_UNUSED, const json_t *v AG_UNUSED, ag_err *err AG_UNUSED) { return AG_OK; }

int ag__parse_seed(ag_request *r, const json_t *v, ag_err *err)
{
    int64_t seed;
    int rc = ag__json_integer(v, "seed", INT64_MIN, INT64_MAX, &seed, err);
    r->seed_set = rc == AG_OK;
    if (rc == AG_OK) r->sampling.seed = (uint64_t)seed;
    return rc;
}

int ag__parse_top_k(ag_request *r, const json_t *v, ag_err *err)
{
    int64_t k;
    int rc = ag__json_integer(v, "top_k", -1, 1000000, &k, err);
    if (rc == AG_OK) r->sampling.top_k = k < 0 ? 0 : (uint32_t)k;
    return rc;
}

int ag__parse_logit_bias(ag_request *r, const json_t *v, ag_err *err)
{
    if (!json_is_object(v)) return ag__wrong_type(err, "logit_bias", "an object", v);
    size_t n = json_object_size(v);
    if (n > AG_GEN_BIAS_MAX)
        return ag_request_fail(err, AG_E_PARAM, "logit_bias", "'logit_bias' has %zu entries; at most %d are taken.", n,
                               AG_GEN_BIAS_MAX);
    r->bias = ag_arena_array(&r->mem, n + 1, sizeof *r->bias);
    if (r->bias == NULL) return ag__no_memory(r, err);
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)v, key, value) {
        char *end;
        errno = 0;
        long id = strtol(key, &end, 10);
        if (key[0] < '0' || key[0] > '9' || *end || errno || id > INT32_MAX)
            return ag_request_fail(err, AG_E_PARAM, "logit_bias",
                                   "'logit_bias' has the key \"%.40s\", which is not a token id.", key);
        char name[40];
        ag_err e = {0};
        double bias;
        snprintf(name, sizeof name, "logit_bias.%ld", id);
        int rc = ag__json_number(value, name, -100, 100, false, &bias, &e);
        if (rc != AG_OK) return ag_request_fail(err, rc, "logit_bias", "%s", e.text);
        r->bias[r->n_bias++] = (ag_logit_bias){(int32_t)id, (float)bias};
    }
    return AG_OK;
}

static int add_stop(ag_request *r, const json_t *v, const char *field, ag_err *err)
{
    if (!json_is_string(v)) return ag__wrong_type(err, field, "a string or an array of strings", v);
    ag_str s = {json_string_value(v), json_string_length(v)};
    if (s.n == 0) return ag_request_fail(err, AG_E_PARAM, field, "'%s' must not hold an empty string.", field);
    if (s.n > AG_GEN_STOP_BYTES_MAX)
        return ag_request_fail(err, AG_E_PARAM, field, "A string in '%s' has %zu bytes; at most %d are taken.", field,
                               s.n, AG_GEN_STOP_BYTES_MAX);
    r->stops[r->n_stops++] = s;
    return AG_OK;
}

int ag__add_stops(ag_request *r, const json_t *array, const char *field, ag_err *err)
{
    if (json_array_size(array) > AG_GEN_STOPS_MAX)
        return ag_request_fail(err, AG_E_PARAM, field, "'%s' has %zu strings; at most %d are taken.", field,
                               json_array_size(array), AG_GEN_STOPS_MAX);
    int rc = AG_OK;
    for (size_t i = 0; i < json_array_size(array) && rc == AG_OK; i++)
        rc = add_stop(r, json_array_get(array, i), field, err);
    return rc;
}

int ag__parse_stop(ag_request *r, const json_t *v, ag_err *err)
{
    return json_is_array(v) ? ag__add_stops(r, v, "stop", err) : add_stop(r, v, "stop", err);
}

int ag__parse_stop_token_ids(ag_request *r, const json_t *v, ag_err *err)
{
    if (!json_is_array(v)) return ag__wrong_type(err, "stop_token_ids", "an array of token ids", v);
    if (json_array_size(v) > AG_GEN_STOPS_MAX)
        return ag_request_fail(err, AG_E_PARAM, "stop_token_ids",
                               "'stop_token_ids' has %zu entries; at most %d are taken.", json_array_size(v),
                               AG_GEN_STOPS_MAX);
    for (size_t i = 0; i < json_array_size(v); i++) {
        int rc = parse_id(v, i, "stop_token_ids", "stop_token_ids", &r->stop_tokens[i], err);
        if (rc != AG_OK) return rc;
        r->n_stop_tokens++;
    }
    return AG_OK;
}

int ag__parse_logprobs(ag_request *r, const json_t *v, ag_err *err)
{
    if (r->kind == AG_REQUEST_CHAT) {
        bool on;
        int rc = ag__json_bool(v, "logprobs", &on, err);
        if (rc == AG_OK) r->top_logprobs = on ? 0 : -1;
        return rc;
    }
    int64_t n;
    int rc = ag__json_integer(v, "logprobs", 0, AG_GEN_TOP_MAX, &n, err);
    if (rc == AG_OK) r->top_logprobs = (int32_t)n;
    return rc;
}

int ag__parse_stream_options(ag_request *r, const json_t *v, ag_err *err)
{
    if (!json_is_object(v)) return ag__wrong_type(err, "stream_options", "an object", v);
    if (!r->stream)
        return ag_request_fail(err, AG_E_PARAM, "stream_options",
                               "'stream_options' may be given only with 'stream' true.");
    const json_t *usage = json_object_get(v, "include_usage"), *events = json_object_get(v, "position_events");
    int rc = AG_OK;
    if (usage && !json_is_null(usage))
        rc = ag__json_bool(usage, "stream_options.include_usage", &r->include_usage, err);
    if (rc == AG_OK && events && !json_is_null(events))
        rc = ag__json_bool(events, "stream_options.position_events", &r->position_events, err);
    return rc;
}

/* Fields of completions. */

int ag__add_ids(ag_request *r, ag_prompt *to, const json_t *array, const char *field, const char *name, ag_err *err)
{
    size_t n = json_array_size(array);
    int32_t *ids = ag_arena_array(&r->mem, n, sizeof *ids);
    if (ids == NULL) return ag__no_memory(r, err);
    for (size_t i = 0; i < n; i++) {
        int rc = parse_id(array, i, field, name, &ids[i], err);
        if (rc != AG_OK) return rc;
    }
    *to = (ag_prompt){.ids = ids, .n_ids = (uint32_t)n};
    return AG_OK;
}

static int add_prompt(ag_request *r, const json_t *v, const char *field, const char *name, ag_err *err)
{
    ag_prompt *p = &r->prompts[r->n_prompts];
    if (json_is_string(v)) *p = (ag_prompt){.text = {json_string_value(v), json_string_length(v)}};
    else if (!json_is_array(v))
        return ag_request_fail(err, AG_E_PARAM, field,
                               "'%s' must be a string, or an array of strings or token ids, not %s.", name,
                               ag__json_type(v));
    bool empty = json_is_string(v) ? json_string_length(v) == 0 : json_array_size(v) == 0;
    if (empty && r->kind != AG_REQUEST_TOKENIZE)
        return ag_request_fail(err, AG_E_PARAM, field, "'%s' is empty: there is nothing to %s.", name,
                               r->kind == AG_REQUEST_EMBEDDINGS ? "embed" : "continue");
    int rc = json_is_array(v) ? ag__add_ids(r, p, v, field, name, err) : AG_OK;
    r->n_prompts += rc == AG_OK;
    return rc;
}

static int add_prompts(ag_request *r, const json_t *v, const char *field, size_t most, ag_err *err)
{
    const json_t *first = json_is_array(v) ? json_array_get(v, 0) : NULL;
    bool many = first != NULL && !json_is_number(first);
    size_t n = many ? json_array_size(v) : 1;
    if (n > most)
        return ag_request_fail(err, AG_E_PARAM, field, "'%s' has %zu %ss; one request may have %zu.", field, n, field,
                               most);
    r->prompts = ag_arena_array(&r->mem, n, sizeof *r->prompts);
    if (r->prompts == NULL) return ag__no_memory(r, err);
    if (!many) return add_prompt(r, v, field, field, err);
    int rc = AG_OK;
    for (size_t i = 0; i < n && rc == AG_OK; i++) {
        char name[32];
        snprintf(name, sizeof name, "%s[%zu]", field, i);
        rc = add_prompt(r, json_array_get(v, i), field, name, err);
    }
    return rc;
}

int ag__parse_prompt(ag_request *r, const json_t *v, ag_err *err)
{
    if (r->kind == AG_REQUEST_TOKENIZE && !json_is_string(v)) return ag__wrong_type(err, "prompt", "a string", v);
    if (r->kind == AG_REQUEST_RESPONSE)
        return ag_request_fail(err, AG_E_UNSUPPORTED, "prompt",
                               "'prompt' names a template that is kept elsewhere; use 'instructions' and 'input'.");
    return add_prompts(r, v, "prompt", AG_REQUEST_PROMPTS_MAX, err);
}

int ag__parse_best_of(ag_request *r, const json_t *v, ag_err *err)
{
    int64_t best;
    int rc = ag__json_integer(v, "best_of", 1, AG_REQUEST_PROMPTS_MAX, &best, err);
    if (rc == AG_OK && best != r->n)
        return ag_request_fail(err, AG_E_UNSUPPORTED, "best_of", "'best_of' is only supported when it equals 'n' (%u).",
                               r->n);
    return rc;
}

int ag__parse_suffix(ag_request *r AG_UNUSED, const json_t *v, ag_err *err)
{
    if (!json_is_string(v)) return ag__wrong_type(err, "suffix", "a string", v);
    if (json_string_length(v) == 0) return AG_OK;
    return ag_request_fail(err, AG_E_UNSUPPORTED, "suffix",
                           "'suffix' is not supported; only text after the prompt can be written.");
}

/* Fields of embeddings; of responses too, the first. */

int ag__parse_input(ag_request *r, const json_t *v, ag_err *err)
{
    if (r->kind == AG_REQUEST_RESPONSE) return ag__response_input(r, v, err);
    return add_prompts(r, v, "input", AG_REQUEST_INPUTS_MAX, err);
}

int ag__parse_encoding_format(ag_request *r, const json_t *v, ag_err *err)
{
    if (!json_is_string(v)) return ag__wrong_type(err, "encoding_format", "a string", v);
    const char *form = json_string_value(v);
    r->base64 = strcmp(form, "base64") == 0;
    if (r->base64 || strcmp(form, "float") == 0) return AG_OK;
    return ag_request_fail(err, AG_E_PARAM, "encoding_format",
                           "'encoding_format' is \"%.40s\"; it should be \"float\" or \"base64\".", form);
}
