/* docs/api.md, docs/errors.md and docs/metrics.md are printed from the tables that the code is made of. This looks
 * whether they are what the tables say; with AUTOGLM_WRITE_DOCS=1 it writes them. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/buf.h"
#include "base/err.h"
#include "gateway/dialects/request.h"

#define PRINTED "<!-- Printed from the source by tests/gateway/docs_test.c; changes belong there. -->\n\n"

#define C AG_REQUEST_COMPLETION
#define H AG_REQUEST_CHAT
#define T AG_REQUEST_TOKENIZE
#define D AG_REQUEST_DETOKENIZE
#define M AG_REQUEST_MESSAGES
#define N AG_REQUEST_COUNT
#define E AG_REQUEST_EMBEDDINGS
#define R AG_REQUEST_RESPONSE
#define AG_ROLE_ADMIN 2u
#define AG_GET "GET"
#define AG_POST "POST"
#define AG_GET_PATCH_DELETE "GET, PATCH, DELETE"
#define AG_GET_POST "GET, POST"
#define AG_GET_POST_DELETE "GET, POST, DELETE"
#define AG_GET_PATCH "GET, PATCH"
#define AG_GET_DELETE "GET, DELETE"

static void add_field(ag_buf *b, const char *name, const char *type, const char *doc)
{
    ag_buf_addf(b, "| `%s` | %s | %s |\n", name, type, doc);
}

/* A bar would end the cell. */
static void add_cell(ag_buf *b, const char *z)
{
    ag_buf_addz(b, "| `");
    for (; *z; z++) *z == '|' ? ag_buf_addz(b, "\\|") : ag_buf_addc(b, *z);
    ag_buf_addz(b, "` ");
}

static void add_call_form(ag_buf *b, const char *has, const char *form, const char *forced)
{
    add_cell(b, has);
    add_cell(b, form);
    ag_buf_addf(b, "| %s |\n", forced ? "yes" : "no");
}

static void add_fields(ag_buf *b, const char *path, unsigned kind)
{
    char type[80];
    ag_buf_addf(b, "\n## POST %s\n\n| field | type | meaning |\n| --- | --- | --- |\n", path);
#define AG_FIELD_BOOL(name, member, kinds, doc) if ((kinds) & kind) add_field(b, #name, "boolean", doc);
#define AG_FIELD_U32(name, member, min, max, kinds, doc)                                                     \
    if ((kinds) & kind) {                                                                                   \
        snprintf(type, sizeof type, "integer, %u to %u", (unsigned)(min), (unsigned)(max));                     \
        add_field(b, #name, type, doc);                                                                         \
    }
#define AG_FIELD_F32(name, member, min, max, open, kinds, doc)                                               \
    if ((kinds) & kind) {                                                                                   \
        snprintf(type, sizeof type, "number, %s%g to %g", open ? "above " : "", (double)(min), (double)(max));  \
        add_field(b, #name, type, doc);                                                                         \
    }
#define AG_FIELD_OTHER(name, words, kinds, doc) if ((kinds) & kind) add_field(b, #name, words, doc);
#include "gateway/dialects/fields.def"
}

static void print_api(ag_buf *b)
{
    ag_buf_addz(b, "# The HTTP API\n\n" PRINTED
                   "Requests and answers have OpenAI's form, so its clients work: base URL `http://HOST:PORT/v1`. What is "
                   "below\n`/v1/messages` has Anthropic's, for its clients: base URL `http://HOST:PORT`.\n\n"
                   "- Bodies are `application/json` in UTF-8, nested at most 100 levels, with no key twice. `null` counts as "
                   "absent. Fields that are\n"
                   "  not listed are ignored, and told in the header `x-autoglm-ignored-fields`; with `--strict` they "
                   "are refused.\n"
                   "- `model` may be left out, or be the model's name or one of its aliases (`--alias`).\n"
                   "- Every answer has `x-request-id`: the client's own when it is printable ASCII of at most 128 "
                   "bytes, else a new one. A\n"
                   "  valid `traceparent` (W3C) gives the log lines their trace id. `x-tenant` names the tenant while "
                   "no key is set.\n"
                   "- With keys ([keys.md](keys.md)) or `AUTOGLM_API_KEY`, `Authorization: Bearer KEY` or `x-api-key: KEY` is "
                   "asked for where the\n"
                   "  table says so. Without them any token is taken, the server listens on loopback only (unless "
                   "`--no-auth` is said), `Host`\n"
                   "  must be `localhost`, `127.x.y.z` or `[::1]`, and a request with the `Origin` of another site gets "
                   "403. The server's own origin\n"
                   "  passes; `--cors-origin` lets others in, and another port of this machine is another origin.\n"
                   "- A stream's headers leave with its first token, so what fails before has its HTTP status. What "
                   "fails later is an event\n"
                   "  `error` with `{\"error\": …}`, after which the stream ends, OpenAI's with `[DONE]`.\n"
                   "- `anthropic-version` may be left out, or be 2023-06-01 or later. A last message of the assistant's is gone on "
                   "from.\n"
                   "- Headers `x-request-priority` and `x-request-timeout-ms` say what the fields `priority` and "
                   "`timeout_ms` say, for programs\n"
                   "  that cannot add fields; where both are there, the field counts. How requests wait: "
                   "[queue.md](queue.md).\n"
                   "- A client that closes its connection ends its generations at once, unless others wait for the same.\n"
                   "- Answers that are the same each time are computed once: [cache.md](cache.md). `x-cache` tells which "
                   "are not new.\n"
                   "- Errors: [errors.md](errors.md). Figures: [metrics.md](metrics.md). Settings: "
                   "[settings.md](settings.md).\n"
                   "- The same for programs, with the answers' forms: [openapi.yaml](openapi.yaml).\n\n"
                   "## Routes\n\n| method | path | key needed | what it does |\n| --- | --- | --- | --- |\n");
#define AG_ROUTE(id, path, methods, answer, kind, dialect, auth, what)                                                 \
    ag_buf_addf(b, "| %s | `%s%s` | %s | %s |\n", methods, path,                                                       \
                sizeof path > 2 && path[sizeof path - 2] == '/' ? "{id}" : "",                                         \
                auth == AG_ROLE_ADMIN ? "admin"                                                                        \
                : auth                ? "yes"                                                                          \
                                      : "no",                                                                          \
                what);
#include "gateway/routes.def"
#undef AG_ROUTE
    ag_buf_addz(b, "\n`GET` routes answer `HEAD` too; every route answers `OPTIONS`.\n");
    add_fields(b, "/v1/completions", C);
    add_fields(b, "/v1/chat/completions", H);
    ag_buf_addz(b, "\nForms of calls, each known by words in the chat template; in all of them the name must be a tool's. "
                   "Reasoning between\n`<think>` and `</think>` comes apart as `reasoning_content` where the template has "
                   "these words.\n\n| template has | a call is | can be forced |\n| --- | --- | --- |\n");
#define AG_CALLS(id, has, not_, opener, markers, id_bytes, forced, form)                                              \
    add_call_form(b, has, form, forced);
#include "gateway/dialects/calls.def"
#undef AG_CALLS
    add_fields(b, "/v1/embeddings", E);
    ag_buf_addz(b, "\nThe answer is `{\"object\": \"list\", \"data\": [{\"object\": \"embedding\", \"index\", \"embedding\"}], \"model\", "
                   "\"usage\"}`, a vector for each\ntext, of length 1. It is made of what the model's last layer leaves of the "
                   "text's tokens, normed: their mean, or the last\none's, as the model's file says (`pooling_type` 1 or 3; others "
                   "are refused). Where it says nothing it is the mean: a model\nthat was not made for embeddings has in the last token "
                   "mostly what should come next. A text gets the tokens that completions\ngive it, with the end token where "
                   "the vocabulary asks for one, and must fit the context. The same text has the same bits,\nhowever many "
                   "others are asked for with it.\n");
    add_fields(b, "/v1/responses", R);
    ag_buf_addz(b, "\nHow responses are kept, gone on from and left in the background: [responses.md](responses.md).\n");
    add_fields(b, "/v1/messages", M);
    add_fields(b, "/v1/messages/count_tokens", N);
    ag_buf_addz(b, "\nThe answer is `{\"input_tokens\"}`.\n");
    add_fields(b, "/tokenize", T);
    ag_buf_addz(b, "\nThe answer is `{\"tokens\", \"count\", \"max_model_len\", \"token_strs\"}`.\n");
    add_fields(b, "/detokenize", D);
    ag_buf_addz(b, "\nThe answer is `{\"content\", \"prompt\"}`, the text under both names.\n");
}

static void print_errors(ag_buf *b)
{
    static const char *const retry[] = {"no", "maybe", "after Retry-After"};
    ag_buf_addz(b, "# Errors\n\n" PRINTED "`{\"error\": {\"message\", \"type\", \"param\", \"code\", "
                                          "\"request_id\"}}`: the message is a sentence that says what is wrong and\n"
                   "what would be right, `param` the field at fault or null. Below `/v1/messages` it is `{\"type\": \"error\", "
                   "\"error\": {\"type\",\n\"message\"}, \"request_id\"}` with the same sentence and status, and "
                   "Anthropic's type for the status; below `/v2` it is `{\"error\": \"…\"}`. Over gRPC ([grpc.md](grpc.md)) the sentence "
                   "is the status's\nmessage, and its details have an `ErrorInfo` whose reason is the code in capitals.\n\n"
                   "| code | HTTP | gRPC | type | try again | what it means |\n| --- | --- | --- | --- | --- | --- |\n");
    for (int i = 1; i < AG_E_COUNT; i++) {
        const ag_err_row *e = ag_err_find(i);
        ag_buf_addf(b, "| `%s` | %d | %s | `%s` | %s | %s |\n", e->code, e->http, e->grpc_name, e->type,
                    retry[e->retry], e->what);
    }
}

static void add_metric(ag_buf *b, const char *name, const char *kind, const char *labels, const char *alias,
                       const char *help)
{
    ag_buf_addf(b, "| `%s` | %s | %s | ", name, kind, labels);
    if (alias) ag_buf_addf(b, "`%s`", alias);
    ag_buf_addf(b, " | %s |\n", help);
}

static void print_metrics(ag_buf *b)
{
    ag_buf_addz(b, "# Metrics\n\n" PRINTED "`GET /metrics` in the Prometheus text format 0.0.4. Times are in seconds. "
                                           "Where a second name stands, the same figure is also\n"
                   "there under the name that boards and schedulers made for vLLM read.\n\n"
                   "| name | kind | labels | second name | what it tells |\n| --- | --- | --- | --- | --- |\n");
#define COUNTER "counter"
#define COUNT_US "counter"
#define GAUGE "gauge"
#define HIST_US "histogram"
#define HIST_N "histogram"
#define NONE ""
#define BUILD "version, isa"
#define ROUTE_STATUS "route, status"
#define CODE "code"
#define REASON "reason"
#define MODEL "model"
#define MODEL_FINISH "model, reason"
#define BAND "band"
#define SET_BACK "reason"
#define EVICTED "reason"
#define CONN_STATE "state"
#define TENANT "tenant"
#define KEY_FATE "result"
#define LIMIT "limit"
#define CACHED "outcome"
#define WARMED "outcome"
#define CACHE_GONE "reason"
#define AG_METRIC(kind, id, name, alias, labels, buckets, help) add_metric(b, name, kind, labels, alias, help);
#include "observe/metrics.def"
#undef AG_METRIC
}

static void same(const char *name, void (*print)(ag_buf *b))
{
    char path[1024];
    const char *cut = strstr(__FILE__, "tests/gateway/docs_test.c");
    assert_non_null(cut);
    snprintf(path, sizeof path, "%.*sdocs/%s", (int)(cut - __FILE__), __FILE__, name);
    ag_buf want, have;
    ag_buf_init(&want, 1 << 20);
    ag_buf_init(&have, 1 << 20);
    print(&want);
    assert_false(want.failed);
    bool write = getenv("AUTOGLM_WRITE_DOCS") != NULL;
    FILE *f = fopen(path, write ? "w" : "r");
    if (f == NULL) fail_msg("%s is missing: AUTOGLM_WRITE_DOCS=1 %s", path, "writes it");
    if (write) assert_int_equal(fwrite(want.p, 1, want.n, f), want.n);
    while (!write && ag_buf_room(&have, 4096)) {
        size_t n = fread(have.p + have.n, 1, 4096, f);
        have.n += n;
        if (n == 0) break;
    }
    fclose(f);
    if (!write && !ag_str_eq(ag_buf_str(&want), ag_buf_str(&have)))
        fail_msg("docs/%s is not what the tables say: run this with AUTOGLM_WRITE_DOCS=1", name);
    ag_buf_fini(&want);
    ag_buf_fini(&have);
}

static void api(void **state)
{
    (void)state;
    same("api.md", print_api);
}

static void errors(void **state)
{
    (void)state;
    same("errors.md", print_errors);
}

static void metrics(void **state)
{
    (void)state;
    same("metrics.md", print_metrics);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(api), cmocka_unit_test(errors), cmocka_unit_test(metrics)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
