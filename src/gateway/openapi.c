#include "gateway/openapi.h"

#include "gateway/dialects/anthropic.h"
#include "gateway/dialects/kserve.h"
#include "gateway/req.h"

/* What has no table: openapi.yaml, in which @words@ are replaced. Taken in by the assembler, as page.c does. */
extern const char ag__openapi_text[], ag__openapi_text_end[];
__asm__(".pushsection .rodata\n"
        ".global ag__openapi_text, ag__openapi_text_end\n"
        "ag__openapi_text: .incbin \"" AG_OPENAPI_FILE "\"\n"
        "ag__openapi_text_end: .byte 0\n"
        ".popsection");

#define KIND_NONE 0
#define KIND_COMPLETION AG_REQUEST_COMPLETION
#define KIND_CHAT AG_REQUEST_CHAT
#define KIND_TOKENIZE AG_REQUEST_TOKENIZE
#define KIND_DETOKENIZE AG_REQUEST_DETOKENIZE
#define KIND_MESSAGES AG_REQUEST_MESSAGES
#define KIND_COUNT AG_REQUEST_COUNT
#define KIND_EMBEDDINGS AG_REQUEST_EMBEDDINGS
#define KIND_RESPONSE AG_REQUEST_RESPONSE
#define KIND_INFER AG_REQUEST_INFER

typedef struct route_row {
    const char *id, *path, *answer, *what;
    unsigned methods;
    int kind;
    const ag_dialect *dialect;
    uint32_t auth;
} route_row;

static const route_row routes[] = {
#define AG_ROUTE(id, path, methods, answer, kind, dialect, auth, what)                                               \
    {#id, path, #answer, what, methods, KIND_##kind, &dialect, auth},
#include "gateway/routes.def"
#undef AG_ROUTE
};

static const struct {
    unsigned bit;
    const char *name;
    bool body;
} methods[] = {
    {AG_GET, "get", false}, {AG_POST, "post", true}, {AG_PATCH, "patch", true}, {AG_DELETE, "delete", false},
};

static void add_text(ag_buf *b, const char *z) { ag_buf_add_json(b, z, strlen(z)); }

static bool open_ended(const route_row *r)
{
    size_t n = strlen(r->path);
    return n > 1 && r->path[n - 1] == '/';
}

static bool has_id(const route_row *r) { return open_ended(r) || strstr(r->path, "{id}") != NULL; }

static bool is_anthropic(const route_row *r) { return r->dialect == &ag_anthropic; }
static bool is_kserve(const route_row *r) { return r->dialect == &ag_kserve; }
static bool is_page(const route_row *r) { return strcmp(r->answer, "ag__answer_page") == 0; }

/* Whether an error of this status can come from there. 405 cannot: the methods that are listed are those it takes. */
static bool may_answer(const route_row *r, bool body, int status)
{
    switch (status) {
    case 401: return r->auth;
    case 404: return r->kind || has_id(r) || r->auth == AG_ROLE_ADMIN;
    case 405: return false;
    case 415: return body;
    case 499:
    case 504: return r->kind != 0;
    default: return true;
    }
}

/* The rows of err.def with this status; NULL: no more. */
static const ag_err_row *next_error(int status, int *at)
{
    while (++*at < AG_E_COUNT)
        if (ag_err_find(*at)->http == status) return ag_err_find(*at);
    return NULL;
}

static bool has_errors(int status)
{
    int at = 0;
    return next_error(status, &at) != NULL;
}

static void add_ref(ag_buf *b, const char *indent, const char *kind, const char *name)
{
    ag_buf_addf(b, "%s{$ref: \"#/components/%s/%s\"}\n", indent, kind, name);
}

static void add_parameters(ag_buf *b, const route_row *r, const char *method)
{
    static const struct { const char *route, *names[6]; } queries[] = {
        {"admin_usage", {"from", "to", "key", "tenant", "model", "format"}},
        {"admin_connections", {"after", "page-limit"}},
        {"admin_cache", {"cache-tenant", "cache-share", "cache-model", "cache-tag", "cache-all"}},
        {"response_items", {"after-item", "limit", "order"}},
    };
    static const char *const generating[] = {"x-request-priority", "x-request-timeout-ms"};
    ag_buf_addz(b, "      parameters:\n");
    bool subject = strcmp(r->id, "admin_limit") == 0;
    if (has_id(r)) add_ref(b, "        - ", "parameters", subject ? "subject" : "id");
    add_ref(b, "        - ", "parameters", "x-request-id");
    add_ref(b, "        - ", "parameters", "traceparent");
    if (r->auth == AG_ROLE_INFERENCE) add_ref(b, "        - ", "parameters", "x-tenant");
    if (is_anthropic(r)) add_ref(b, "        - ", "parameters", "anthropic-version");
    if (is_page(r)) add_ref(b, "        - ", "parameters", "if-none-match");
    bool looks = strcmp(r->id, "admin_cache") == 0 && strcmp(method, "get") == 0; /* at all of it */
    for (size_t i = 0; i < AG_ARRAY_LEN(queries) && !looks; i++)
        for (size_t k = 0; strcmp(r->id, queries[i].route) == 0 && k < 6 && queries[i].names[k]; k++)
            add_ref(b, "        - ", "parameters", queries[i].names[k]);
    for (size_t i = 0; r->kind && i < AG_ARRAY_LEN(generating); i++)
        add_ref(b, "        - ", "parameters", generating[i]);
}

static void add_operation(ag_buf *b, const route_row *r, const char *method, bool body)
{
    ag_buf_addf(b, "    %s:\n      operationId: %s.%s\n      summary: ", method, r->id, method);
    add_text(b, r->what);
    ag_buf_addf(b, "\n      security: [%s]\n", r->auth ? "{key: []}, {x-api-key: []}, {}" : "");
    add_parameters(b, r, method);
    if (body) ag_buf_addf(b, "      requestBody: {$ref: \"#/components/requestBodies/%s.%s\"}\n", r->id, method);
    ag_buf_addf(b, "      responses:\n        \"200\": {$ref: \"#/components/responses/%s.%s\"}\n", r->id, method);
    if (is_page(r)) add_ref(b, "        \"304\": ", "responses", "unchanged");
    for (int status = 400; status < 600; status++)
        if (has_errors(status) && may_answer(r, body, status))
            ag_buf_addf(b, "        \"%d\": {$ref: \"#/components/responses/error.%d%s\"}\n", status, status,
                        is_anthropic(r) ? ".anthropic" : is_kserve(r) ? ".kserve" : "");
}

static void add_paths(ag_buf *b)
{
    for (size_t i = 0; i < AG_ARRAY_LEN(routes); i++) {
        ag_buf_addf(b, "  %s%s:\n", routes[i].path, open_ended(&routes[i]) ? "{id}" : "");
        for (size_t m = 0; m < AG_ARRAY_LEN(methods); m++)
            if (routes[i].methods & methods[m].bit) add_operation(b, &routes[i], methods[m].name, methods[m].body);
    }
}

static void add_errors_as(ag_buf *b, const char *suffix, const char *schema)
{
    for (int status = 400; status < 600; status++) {
        const ag_err_row *e;
        bool after = false;
        if (!has_errors(status)) continue;
        ag_buf_addf(b, "    error.%d%s:\n      description: |\n", status, suffix);
        for (int at = 0; (e = next_error(status, &at));) {
            ag_buf_addf(b, "        %s (%s): %s.\n", e->code, e->type, e->what);
            after = after || e->retry == AG_RETRY_AFTER;
        }
        ag_buf_addz(b, "      headers:\n");
        add_ref(b, "        x-request-id: ", "headers", "x-request-id");
        if (after) add_ref(b, "        retry-after: ", "headers", "retry-after");
        if (status == 401) add_ref(b, "        www-authenticate: ", "headers", "www-authenticate");
        ag_buf_addz(b, "      content:\n        application/json:\n");
        add_ref(b, "          schema: ", "schemas", schema);
    }
}

static void add_errors(ag_buf *b)
{
    add_errors_as(b, "", "Error");
    add_errors_as(b, ".anthropic", "AnthropicError");
    add_errors_as(b, ".kserve", "KserveError");
}

static void add_error_codes(ag_buf *b)
{
    for (int i = 1; i < AG_E_COUNT; i++) ag_buf_addf(b, "%s%s", i > 1 ? ", " : "", ag_err_find(i)->code);
}

static void add_error_types(ag_buf *b)
{
    for (int i = 1; i < AG_E_COUNT; i++) {
        bool first = true;
        for (int k = 1; k < i && first; k++) first = strcmp(ag_err_find(i)->type, ag_err_find(k)->type) != 0;
        if (first) ag_buf_addf(b, "%s%s", i > 1 ? ", " : "", ag_err_find(i)->type);
    }
}

static void begin_field(ag_buf *b, const char *name, const char *doc)
{
    ag_buf_addf(b, "        %s:\n          description: ", name);
    add_text(b, doc);
    ag_buf_addc(b, '\n');
}

#define C AG_REQUEST_COMPLETION
#define H AG_REQUEST_CHAT
#define T AG_REQUEST_TOKENIZE
#define D AG_REQUEST_DETOKENIZE
#define M AG_REQUEST_MESSAGES
#define N AG_REQUEST_COUNT
#define E AG_REQUEST_EMBEDDINGS
#define R AG_REQUEST_RESPONSE

/* A field of another kind has its type in openapi.yaml, under the request's name and its own. */
static void add_request(ag_buf *b, const char *request, int kind)
{
    bool first = true;
    ag_buf_addf(b, "    %s:\n      type: object\n      required: [", request);
#define REQUIRED(name, kinds, doc)                                                                                     \
    if (((kinds) & kind) && strncmp(doc, "Required.", 9) == 0) {                                                       \
        ag_buf_addf(b, "%s%s", first ? "" : ", ", #name);                                                              \
        first = false;                                                                                                 \
    }
#define AG_FIELD_BOOL(name, member, kinds, doc)
#define AG_FIELD_U32(name, member, min, max, kinds, doc) REQUIRED(name, kinds, doc)
#define AG_FIELD_F32(name, member, min, max, open, kinds, doc)
#define AG_FIELD_OTHER(name, type, kinds, doc) REQUIRED(name, kinds, doc)
#include "gateway/dialects/fields.def"
#undef AG_FIELD_BOOL
#undef AG_FIELD_U32
#undef AG_FIELD_F32
#undef AG_FIELD_OTHER
    ag_buf_addz(b, "]\n      properties:\n");
#define AG_FIELD_BOOL(name, member, kinds, doc)                                                                     \
    if ((kinds) & kind) {                                                                                           \
        begin_field(b, #name, doc);                                                                                    \
        ag_buf_addz(b, "          type: [boolean, \"null\"]\n");                                                       \
    }
#define AG_FIELD_U32(name, member, min, max, kinds, doc)                                                            \
    if ((kinds) & kind) {                                                                                           \
        begin_field(b, #name, doc);                                                                                    \
        ag_buf_addf(b, "          type: [integer, \"null\"]\n          minimum: %u\n          maximum: %u\n",          \
                    (unsigned)(min), (unsigned)(max));                                                                 \
    }
#define AG_FIELD_F32(name, member, min, max, open, kinds, doc)                                                      \
    if ((kinds) & kind) {                                                                                           \
        begin_field(b, #name, doc);                                                                                    \
        ag_buf_addf(b, "          type: [number, \"null\"]\n          %s: %g\n          maximum: %g\n",                \
                    (open) ? "exclusiveMinimum" : "minimum", (double)(min), (double)(max));                            \
    }
#define AG_FIELD_OTHER(name, type, kinds, doc)                                                                      \
    if ((kinds) & kind) {                                                                                           \
        begin_field(b, #name, doc);                                                                                    \
        ag_buf_addf(b, "          $ref: \"#/components/schemas/%s.%s\"\n", request, #name);                            \
    }
#include "gateway/dialects/fields.def"
}

static void add_fields(ag_buf *b)
{
    for (size_t i = 0; i < AG_ARRAY_LEN(routes); i++)
        if (routes[i].kind && routes[i].kind != AG_REQUEST_INFER) add_request(b, routes[i].id, routes[i].kind);
}

static void add_limits(ag_buf *b)
{
    for (uint32_t i = 0; i < AG_LIMIT_COUNT; i++) {
        begin_field(b, ag_limit_rows[i].name, ag_limit_rows[i].what);
        ag_buf_addf(b, "          type: [integer, \"null\"]\n          minimum: 0\n          maximum: %llu\n",
                    (unsigned long long)ag_limit_rows[i].max);
    }
}

static void add_version(ag_buf *b) { ag_buf_addz(b, AG_VERSION); }

/* A word that is text, or a number when there is no function. */
static const struct {
    const char *word;
    void (*add)(ag_buf *b);
    uint32_t number;
} words[] = {
    {"version", add_version, 0},
    {"paths", add_paths, 0},
    {"errors", add_errors, 0},
    {"error-types", add_error_types, 0},
    {"error-codes", add_error_codes, 0},
    {"fields", add_fields, 0},
    {"limits", add_limits, 0},
    {"models-max", NULL, AG_KEY_MODELS},
    {"model-max", NULL, AG_KEYS_MODEL_MAX},
    {"band-max", NULL, AG_BANDS - 1},
    {"timeout-max", NULL, AG_REQUEST_TIMEOUT_MAX_MS},
    {"tenant-max", NULL, AG_TENANT_NAME_MAX},
    {"prompts-max", NULL, AG_REQUEST_PROMPTS_MAX},
    {"inputs-max", NULL, AG_REQUEST_INPUTS_MAX},
    {"bias-max", NULL, AG_GEN_BIAS_MAX},
    {"stops-max", NULL, AG_GEN_STOPS_MAX},
    {"stop-max", NULL, AG_GEN_STOP_BYTES_MAX},
    {"top-max", NULL, AG_GEN_TOP_MAX},
};

bool ag_openapi_write(ag_buf *out)
{
    const char *p = ag__openapi_text, *mark;
    while ((mark = strchr(p, '@'))) {
        const char *end = strchr(mark + 1, '@');
        AG_ASSERT(end != NULL);
        ag_str word = {mark + 1, (size_t)(end - mark) - 1};
        size_t i = 0;
        while (i < AG_ARRAY_LEN(words) && !ag_str_eqz(word, words[i].word)) i++;
        AG_ASSERT(i < AG_ARRAY_LEN(words)); /* a word of openapi.yaml that nobody knows */
        ag_buf_add(out, p, (size_t)(mark - p));
        if (words[i].add) words[i].add(out);
        else ag_buf_addf(out, "%u", words[i].number);
        p = end + 1;
        /* What takes lines brings its own last line end. */
        if (*p == '\n' && out->n && out->p[out->n - 1] == '\n') p++;
    }
    ag_buf_addz(out, p);
    return !out->failed;
}
