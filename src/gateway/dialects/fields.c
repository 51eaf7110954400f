#include "gateway/dialects/fields.h"

#include <stdio.h>

/* The kinds of fields.def. */
#define C AG_REQUEST_COMPLETION
#define H AG_REQUEST_CHAT
#define T AG_REQUEST_TOKENIZE
#define D AG_REQUEST_DETOKENIZE
#define M AG_REQUEST_MESSAGES
#define N AG_REQUEST_COUNT
#define E AG_REQUEST_EMBEDDINGS
#define R AG_REQUEST_RESPONSE

/* A prompt of a million ids is 4 MiB; arrays, copies and template text come out of jansson, not of this. */
#define REQUEST_BYTES_MAX (32u << 20)
#define NAME_SHOWN_MAX 40u /* of a field that nobody knows */

typedef enum field_type { FIELD_BOOL, FIELD_U32, FIELD_F32, FIELD_OTHER } field_type;

typedef struct field_row {
    const char *name;
    field_type type;
    size_t offset;
    double min, max;
    bool open;
    unsigned kinds;
    ag_field_fn *parse;
} field_row;

static const field_row rows[] = {
#define AG_FIELD_BOOL(name, member, kinds, doc) \
    {#name, FIELD_BOOL, offsetof(ag_request, member), 0, 1, false, kinds, NULL},
#define AG_FIELD_U32(name, member, min, max, kinds, doc) \
    {#name, FIELD_U32, offsetof(ag_request, member), min, max, false, kinds, NULL},
#define AG_FIELD_F32(name, member, min, max, open, kinds, doc) \
    {#name, FIELD_F32, offsetof(ag_request, member), min, max, open, kinds, NULL},
#define AG_FIELD_OTHER(name, type, kinds, doc) {#name, FIELD_OTHER, 0, 0, 0, false, kinds, ag__parse_##name},
#include "gateway/dialects/fields.def"
#undef AG_FIELD_BOOL
#undef AG_FIELD_U32
#undef AG_FIELD_F32
#undef AG_FIELD_OTHER
};

void ag_request_init(ag_request *r, ag_request_kind kind)
{
    *r = (ag_request){.kind = kind,
                      .n = 1,
                      .max_tokens = AG_REQUEST_UNSET,
                      .max_completion_tokens = AG_REQUEST_UNSET,
                      .priority = AG_REQUEST_UNSET,
                      .timeout_ms = AG_REQUEST_UNSET,
                      .dimensions = AG_REQUEST_UNSET,
                      .add_special = true,
                      .add_generation_prompt = true,
                      .parallel_calls = true,
                      .store = true,
                      .top_logprobs = -1,
                      .sampling = AG_SAMPLING_DEFAULT};
    ag_arena_init(&r->mem, REQUEST_BYTES_MAX);
}

void ag_request_fini(ag_request *r)
{
    json_decref(r->items);
    json_decref(r->vars);
    json_decref(r->root);
    r->items = r->vars = r->root = NULL;
    ag_arena_fini(&r->mem);
}

static int parse_row(ag_request *r, const field_row *row, const json_t *v, ag_err *err)
{
    void *member = (char *)r + row->offset;
    int64_t whole;
    double number;
    int rc;
    switch (row->type) {
    case FIELD_BOOL: return ag__json_bool(v, row->name, member, err);
    case FIELD_U32:
        rc = ag__json_integer(v, row->name, (int64_t)row->min, (int64_t)row->max, &whole, err);
        if (rc == AG_OK) *(uint32_t *)member = (uint32_t)whole;
        return rc;
    case FIELD_F32:
        rc = ag__json_number(v, row->name, row->min, row->max, row->open, &number, err);
        if (rc == AG_OK) *(float *)member = (float)number;
        return rc;
    default: return row->parse(r, v, err);
    }
}

/* Names of others go into a header: what is no word in them becomes '?', and what is long is cut. */
static void note_ignored(ag_request *r, const char *name)
{
    char word[NAME_SHOWN_MAX + 1];
    size_t n = 0, have = strlen(r->ignored);
    for (; name[n] && n < NAME_SHOWN_MAX; n++) {
        char c = name[n], low = (char)(c | 32);
        word[n] = (low >= 'a' && low <= 'z') || (c >= '0' && c <= '9') || strchr("_-.", c) ? c : '?';
    }
    word[n] = 0;
    bool fits = have + 2 + n + sizeof ", ..." <= sizeof r->ignored;
    if (r->ignored_cut) return;
    r->ignored_cut = !fits;
    snprintf(r->ignored + have, sizeof r->ignored - have, "%s%s", have ? ", " : "", fits ? word : "...");
}

static bool is_known(const ag_request *r, const char *name)
{
    for (size_t i = 0; i < AG_ARRAY_LEN(rows); i++)
        if ((rows[i].kinds & r->kind) && strcmp(rows[i].name, name) == 0) return true;
    return false;
}

static int check_unknown(ag_request *r, ag_err *err)
{
    const char *name;
    json_t *v;
    json_object_foreach(r->root, name, v) {
        if (is_known(r, name)) continue;
        if (r->strict)
            return ag_request_fail(err, AG_E_PARAM, name,
                                   "'%.100s' is not a field of this request, and this server is strict about those.",
                                   name);
        note_ignored(r, name);
    }
    return AG_OK;
}

int ag__fields_take(ag_request *r, ag_err *err)
{
    int rc = check_unknown(r, err);
    for (size_t i = 0; i < AG_ARRAY_LEN(rows) && rc == AG_OK; i++) {
        if (!(rows[i].kinds & r->kind)) continue;
        const json_t *v = json_object_get(r->root, rows[i].name);
        if (v != NULL && !json_is_null(v)) rc = parse_row(r, &rows[i], v, err);
    }
    return rc;
}

int ag__fields_parse(ag_request *r, const char *body, size_t n, ag_err *err)
{
    size_t i = 0;
    while (i < n && (body[i] == ' ' || body[i] == '\n' || body[i] == '\r' || body[i] == '\t')) i++;
    if (i == n) return ag_err_set(err, AG_E_JSON, "The body is empty; it must be a JSON object.");
    int rc = ag__json_load(body, n, &r->root, err);
    if (rc != AG_OK) return rc;
    if (!json_is_object(r->root))
        return ag_err_set(err, AG_E_JSON, "The body must be a JSON object, not %s.", ag__json_type(r->root));
    return ag__fields_take(r, err);
}

static int check_id(int32_t id, uint32_t vocab, const char *param, ag_err *err)
{
    if (id >= 0 && (uint32_t)id < vocab) return AG_OK;
    return ag_request_fail(err, AG_E_PARAM, param, "'%s' names token %d; this model's vocabulary has 0 to %u.", param,
                           id, vocab - 1);
}

int ag_request_check(const ag_request *r, uint32_t vocab, ag_err *err)
{
    const char *field = r->kind == AG_REQUEST_DETOKENIZE   ? "tokens"
                        : r->kind == AG_REQUEST_EMBEDDINGS ? "input"
                                                           : "prompt";
    int rc = AG_OK;
    for (uint32_t i = 0; i < r->n_prompts && rc == AG_OK; i++)
        for (uint32_t k = 0; k < r->prompts[i].n_ids && rc == AG_OK; k++)
            rc = check_id(r->prompts[i].ids[k], vocab, field, err);
    for (uint32_t i = 0; i < r->n_stop_tokens && rc == AG_OK; i++)
        rc = check_id(r->stop_tokens[i], vocab, "stop_token_ids", err);
    for (uint32_t i = 0; i < r->n_bias && rc == AG_OK; i++) rc = check_id(r->bias[i].id, vocab, "logit_bias", err);
    return rc;
}
