#include "gateway/dialects/calls.h"

#include "base/buf.h"
#include "gateway/dialects/fields.h"

#define ARGUMENTS_BYTES_MAX (1u << 20)

static const ag_calls_row rows[AG_CALLS_COUNT] = {
#define AG_CALLS(id, has, not_, opener, markers, id_bytes, forced, form) \
    [AG_CALLS_##id] = {has, not_, opener, markers, id_bytes, forced},
#include "gateway/dialects/calls.def"
#undef AG_CALLS
};

static bool holds(ag_str s, const char *z) { return z && s.n && memmem(s.p, s.n, z, strlen(z)) != NULL; }

ag_calls_form ag_calls_find(ag_str chat_template)
{
    for (int f = AG_CALLS_NONE + 1; f < AG_CALLS_COUNT; f++)
        if (holds(chat_template, rows[f].has) && !holds(chat_template, rows[f].not_)) return (ag_calls_form)f;
    return AG_CALLS_NONE;
}

const ag_calls_row *ag_calls_row_of(ag_calls_form form)
{
    AG_ASSERT(form > AG_CALLS_NONE && form < AG_CALLS_COUNT);
    return &rows[form];
}

/* The name as the tools have it, and the tool. */
static ag_str name_in(const json_t *tools, ag_str name, const json_t **function)
{
    for (size_t i = 0; i < json_array_size(tools); i++) {
        const json_t *f = json_object_get(json_array_get(tools, i), "function"), *n = json_object_get(f, "name");
        ag_str s = {json_string_value(n), json_string_length(n)};
        if (s.p == NULL || !ag_str_eq(s, name)) continue;
        if (function) *function = f;
        return s;
    }
    return (ag_str){0};
}

ag_str ag_tool_name(const json_t *tools, ag_str name) { return name_in(tools, name, NULL); }

/* Whether some tool's name begins so. */
static bool begins_name(const json_t *tools, ag_str begin)
{
    for (size_t i = 0; i < json_array_size(tools); i++) {
        const json_t *n = json_object_get(json_object_get(json_array_get(tools, i), "function"), "name");
        ag_str s = {json_string_value(n), json_string_length(n)};
        if (s.p && ag_str_starts(s, begin)) return true;
    }
    return false;
}

/* A text that is walked. */
typedef struct walk {
    ag_str s;
    size_t at;
    bool last;
} walk;

static bool is_space(char c) { return c == ' ' || c == '\n' || c == '\r' || c == '\t'; }

static void skip_space(walk *w)
{
    while (w->at < w->s.n && is_space(w->s.p[w->at])) w->at++;
}

/* CALLS: the word stood here and is passed; MORE: its beginning does, and the text ends. */
static ag_scan take_word(walk *w, const char *z)
{
    size_t n = strlen(z), have = AG_MIN(n, w->s.n - w->at);
    if (memcmp(w->s.p + w->at, z, have) != 0) return AG_SCAN_NO;
    if (have < n) return AG_SCAN_MORE;
    w->at += n;
    return AG_SCAN_CALLS;
}

/* Passes a JSON object or array by its brackets and strings alone. */
static ag_scan take_json(walk *w, char open, ag_str *out)
{
    if (w->at == w->s.n) return AG_SCAN_MORE;
    if (w->s.p[w->at] != open) return AG_SCAN_NO;
    uint32_t depth = 0;
    for (size_t i = w->at; i < w->s.n; i++) {
        char c = w->s.p[i];
        if (c == '"') {
            for (i++; i < w->s.n && w->s.p[i] != '"'; i++)
                if (w->s.p[i] == '\\') i++;
        } else if (c == '{' || c == '[') {
            depth++;
        } else if ((c == '}' || c == ']') && --depth == 0) {
            *out = (ag_str){w->s.p + w->at, i + 1 - w->at};
            w->at = i + 1;
            return AG_SCAN_CALLS;
        }
    }
    return AG_SCAN_MORE;
}

static json_t *load_object(ag_str s)
{
    json_t *j = NULL;
    ag_err ignored = {0};
    if (ag__json_load(s.p, s.n, &j, &ignored) != AG_OK) return NULL;
    if (json_is_object(j)) return j;
    json_decref(j);
    return NULL;
}

static ag_str keep(ag_arena *mem, const char *p, size_t n)
{
    char *z = ag_arena_strndup(mem, p, n);
    return z ? (ag_str){z, n} : (ag_str){0};
}

/* The member's value as it is written in an object that is known to be valid; p NULL: it has none of that name. */
static ag_str raw_member(ag_str object, const char *name)
{
    walk w = {object, 1, true};
    for (;;) {
        skip_space(&w);
        if (w.s.p[w.at] != '"') return (ag_str){0};
        size_t key = w.at;
        for (w.at++; w.s.p[w.at] != '"'; w.at++)
            if (w.s.p[w.at] == '\\') w.at++;
        bool hit = ag_str_eqz((ag_str){w.s.p + key + 1, w.at - key - 1}, name);
        w.at++;
        skip_space(&w);
        w.at++; /* the colon */
        skip_space(&w);
        size_t from = w.at;
        ag_str nested;
        if (w.s.p[w.at] == '"') {
            for (w.at++; w.s.p[w.at] != '"'; w.at++)
                if (w.s.p[w.at] == '\\') w.at++;
            w.at++;
        } else if (take_json(&w, w.s.p[w.at] == '[' ? '[' : '{', &nested) != AG_SCAN_CALLS) {
            while (w.s.p[w.at] != ',' && w.s.p[w.at] != '}' && !is_space(w.s.p[w.at])) w.at++;
        }
        if (hit) return (ag_str){w.s.p + from, w.at - from};
        skip_space(&w);
        if (w.s.p[w.at] != ',') return (ag_str){0};
        w.at++;
    }
}

/* {"name", "arguments" or "parameters"}, whose arguments are an object, or a string that spells one. */
static bool call_of(ag_str text, const json_t *tools, ag_arena *mem, ag_call *out)
{
    json_t *j = load_object(text);
    const json_t *name = json_object_get(j, "name");
    const char *member = json_object_get(j, "arguments") ? "arguments" : "parameters";
    const json_t *arguments = json_object_get(j, member);
    *out = (ag_call){.name = name_in(tools, (ag_str){json_string_value(name), json_string_length(name)}, NULL)};
    if (json_is_object(arguments)) {
        ag_str raw = raw_member(text, member);
        out->arguments = raw.p ? keep(mem, raw.p, raw.n) : raw;
    } else if (json_is_string(arguments)) {
        ag_str s = {json_string_value(arguments), json_string_length(arguments)};
        json_t *spelled = load_object(s);
        if (spelled) out->arguments = keep(mem, s.p, s.n);
        json_decref(spelled);
    }
    json_decref(j);
    return out->name.p && out->arguments.p;
}

static ag_scan found_one(const walk *w, ag_call call, ag_arena *mem, ag_calls_found *out)
{
    if ((out->call = ag_arena_array(mem, 1, sizeof call)) == NULL) return AG_SCAN_NO;
    out->call[0] = call;
    out->n = 1;
    out->bytes = w->at;
    return AG_SCAN_CALLS;
}

/* What closes a call may be missing where the text ends. */
static ag_scan take_closing(walk *w, const char *z)
{
    skip_space(w);
    ag_scan rc = take_word(w, z);
    if (rc != AG_SCAN_MORE || !w->last) return rc;
    w->at = w->s.n;
    return AG_SCAN_CALLS;
}

static ag_scan scan_hermes(walk *w, const json_t *tools, ag_arena *mem, ag_calls_found *out)
{
    ag_str json;
    ag_call call;
    skip_space(w);
    ag_scan rc = take_json(w, '{', &json);
    if (rc == AG_SCAN_CALLS) rc = take_closing(w, "</tool_call>");
    if (rc != AG_SCAN_CALLS) return rc;
    return call_of(json, tools, mem, &call) ? found_one(w, call, mem, out) : AG_SCAN_NO;
}

static ag_scan scan_llama3(walk *w, const json_t *tools, ag_arena *mem, ag_calls_found *out)
{
    ag_str json;
    ag_call call;
    ag_scan rc = take_word(w, "<|python_tag|>");
    if (rc == AG_SCAN_MORE && w->at < w->s.n) return rc;
    skip_space(w);
    rc = take_json(w, '{', &json);
    if (rc != AG_SCAN_CALLS) return rc;
    if (!call_of(json, tools, mem, &call)) return AG_SCAN_NO;
    return found_one(w, call, mem, out);
}

/* A name, then `behind` (or, with `or_json`, at once the object), then the arguments. */
static ag_scan scan_named(walk *w, const char *behind, bool or_json, const json_t *tools, ag_arena *mem,
                          ag_calls_found *out)
{
    size_t from = w->at;
    while (w->at < w->s.n && w->s.p[w->at] != behind[0] && !(or_json && w->s.p[w->at] == '{')) w->at++;
    ag_str name = {w->s.p + from, w->at - from}, json;
    while (name.n && is_space(name.p[name.n - 1])) name.n--;
    if (w->at == w->s.n) return begins_name(tools, name) ? AG_SCAN_MORE : AG_SCAN_NO;
    name = name_in(tools, name, NULL);
    if (name.p == NULL) return AG_SCAN_NO;
    ag_scan rc = or_json ? take_word(w, "[CALL_ID]") : AG_SCAN_NO;
    if (rc == AG_SCAN_MORE) return rc;
    while (rc == AG_SCAN_CALLS && w->at < w->s.n && w->s.p[w->at] != '[') w->at++;
    rc = take_word(w, behind);
    if (rc == AG_SCAN_MORE || (rc == AG_SCAN_NO && !or_json)) return rc;
    skip_space(w);
    rc = take_json(w, '{', &json);
    if (rc != AG_SCAN_CALLS) return rc;
    json_t *valid = load_object(json);
    if (valid == NULL) return AG_SCAN_NO;
    json_decref(valid);
    ag_call call = {name, keep(mem, json.p, json.n)};
    return call.arguments.p ? found_one(w, call, mem, out) : AG_SCAN_NO;
}

static ag_scan scan_array(walk *w, const json_t *tools, ag_arena *mem, ag_calls_found *out)
{
    ag_str json;
    ag_scan rc = take_json(w, '[', &json);
    if (rc != AG_SCAN_CALLS) return rc;
    walk in = {{json.p + 1, json.n - 2}, 0, true};
    if ((out->call = ag_arena_array(mem, AG_CALLS_MAX, sizeof *out->call)) == NULL) return AG_SCAN_NO;
    for (;;) {
        ag_str one;
        skip_space(&in);
        if (out->n == AG_CALLS_MAX || take_json(&in, '{', &one) != AG_SCAN_CALLS) return AG_SCAN_NO;
        if (!call_of(one, tools, mem, &out->call[out->n++])) return AG_SCAN_NO;
        skip_space(&in);
        if (in.at == in.s.n) break;
        if (in.s.p[in.at++] != ',') return AG_SCAN_NO;
    }
    out->bytes = w->at;
    return AG_SCAN_CALLS;
}

static ag_scan scan_mistral(walk *w, const json_t *tools, ag_arena *mem, ag_calls_found *out)
{
    skip_space(w);
    if (w->at == w->s.n) return AG_SCAN_MORE;
    if (w->s.p[w->at] == '[') return scan_array(w, tools, mem, out);
    return scan_named(w, "[ARGS]", true, tools, mem, out);
}

/* Up to `z`, which is passed. */
static ag_scan take_until(walk *w, const char *z, ag_str *out)
{
    const char *hit = memmem(w->s.p + w->at, w->s.n - w->at, z, strlen(z));
    if (hit == NULL) return AG_SCAN_MORE;
    *out = (ag_str){w->s.p + w->at, (size_t)(hit - w->s.p) - w->at};
    w->at += out->n + strlen(z);
    return AG_SCAN_CALLS;
}

static bool wants_string(const json_t *function, ag_str key)
{
    json_t *all = json_object_get(json_object_get(function, "parameters"), "properties"), *one;
    const char *name, *type = NULL;
    json_object_foreach(all, name, one)
        if (ag_str_eqz(key, name)) type = json_string_value(json_object_get(one, "type"));
    return type && strcmp(type, "string") == 0;
}

/* A value that the tool wants as a string is one; another is JSON where it can be read so. */
static void add_value(ag_buf *to, const json_t *function, ag_str key, ag_str value)
{
    json_t *j = NULL;
    ag_err ignored = {0};
    bool json = !wants_string(function, key) && ag__json_load(value.p, value.n, &j, &ignored) == AG_OK;
    if (json) ag_buf_add(to, value.p, value.n);
    else ag_buf_add_json(to, value.p, value.n);
    json_decref(j);
}

static ag_scan take_pairs(walk *w, const json_t *function, ag_buf *to)
{
    for (uint32_t n = 0;; n++) {
        ag_str key, value;
        skip_space(w);
        ag_scan rc = take_word(w, "<arg_key>");
        if (rc == AG_SCAN_NO || (rc == AG_SCAN_MORE && w->last)) return take_closing(w, "</tool_call>");
        if (rc == AG_SCAN_CALLS) rc = take_until(w, "</arg_key>", &key);
        if (rc != AG_SCAN_CALLS) return rc;
        skip_space(w);
        rc = take_word(w, "<arg_value>");
        if (rc == AG_SCAN_CALLS) rc = take_until(w, "</arg_value>", &value);
        if (rc != AG_SCAN_CALLS) return rc;
        if (n) ag_buf_addc(to, ',');
        ag_buf_add_json(to, key.p, key.n);
        ag_buf_addc(to, ':');
        add_value(to, function, key, value);
    }
}

static ag_scan scan_glm45(walk *w, const json_t *tools, ag_arena *mem, ag_calls_found *out)
{
    const json_t *function = NULL;
    skip_space(w);
    size_t from = w->at;
    while (w->at < w->s.n && w->s.p[w->at] != '<' && w->s.p[w->at] != '\n') w->at++;
    ag_str name = {w->s.p + from, w->at - from};
    while (name.n && is_space(name.p[name.n - 1])) name.n--;
    if (w->at == w->s.n && !w->last) return begins_name(tools, name) ? AG_SCAN_MORE : AG_SCAN_NO;
    name = name_in(tools, name, &function);
    if (name.p == NULL) return AG_SCAN_NO;
    ag_buf arguments;
    ag_buf_init(&arguments, ARGUMENTS_BYTES_MAX);
    ag_buf_addc(&arguments, '{');
    ag_scan rc = take_pairs(w, function, &arguments);
    ag_buf_addc(&arguments, '}');
    ag_call call = {.name = name};
    bool built = rc == AG_SCAN_CALLS && !arguments.failed;
    json_t *valid = built ? load_object(ag_buf_str(&arguments)) : NULL; /* no key twice */
    if (valid) call.arguments = keep(mem, arguments.p, arguments.n);
    json_decref(valid);
    ag_buf_fini(&arguments);
    if (rc != AG_SCAN_CALLS) return rc;
    return call.arguments.p ? found_one(w, call, mem, out) : AG_SCAN_NO;
}

ag_scan ag_calls_scan(ag_calls_form form, ag_str text, bool last, const json_t *tools, ag_arena *mem,
                      ag_calls_found *out)
{
    walk w = {text, rows[form].opener ? strlen(rows[form].opener) : 0, last};
    ag_scan rc = AG_SCAN_NO;
    *out = (ag_calls_found){0};
    AG_ASSERT(w.at <= text.n);
    switch (form) {
    case AG_CALLS_HERMES: rc = scan_hermes(&w, tools, mem, out); break;
    case AG_CALLS_GLM45: rc = scan_glm45(&w, tools, mem, out); break;
    case AG_CALLS_MISTRAL: rc = scan_mistral(&w, tools, mem, out); break;
    case AG_CALLS_LLAMA3: rc = scan_llama3(&w, tools, mem, out); break;
    case AG_CALLS_GLM4: rc = scan_named(&w, "\n", false, tools, mem, out); break;
    case AG_CALLS_NONE:
    case AG_CALLS_COUNT: break;
    }
    return rc == AG_SCAN_MORE && last ? AG_SCAN_NO : rc;
}
