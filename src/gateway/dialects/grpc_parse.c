#include "gateway/dialects/fields.h"
#include "gateway/dialects/grpc_inner.h"
#include "gateway/dialects/grpc_wire.h"
#include "gateway/dialects/openai.h"
#include "gateway/dialects/schema.h"

static const char *type_of(ag_request_kind kind)
{
    switch (kind) {
    case AG_REQUEST_COMPLETION: return "autoglm.v1.GenerateRequest";
    case AG_REQUEST_EMBEDDINGS: return "autoglm.v1.EmbedRequest";
    case AG_REQUEST_TOKENIZE: return "autoglm.v1.TokenizeRequest";
    case AG_REQUEST_DETOKENIZE: return "autoglm.v1.DetokenizeRequest";
    default: return "autoglm.v1.ChatRequest";
    }
}

int ag_grpc_to_json(const ag_request *r, const char *type, const char *body, size_t n, json_t **out, ag_err *err)
{
    ag_buf plain;
    ag_str message;
    ag_buf_init(&plain, r->wire.message_max + 1);
    int rc = ag_grpc_only((ag_str){body, n}, r->wire.gzip, r->wire.message_max, &plain, &message, err);
    if (rc == AG_OK) rc = ag_schema_to_json(ag_schema_find(type), message, out, err);
    ag_buf_fini(&plain);
    return rc;
}

/* A prompt as ids is another form of the same field. */
static int take_ids(ag_request *r, ag_err *err)
{
    bool embeds = r->kind == AG_REQUEST_EMBEDDINGS;
    const char *texts = embeds ? "input" : "prompt", *tokens = embeds ? "input_tokens" : "prompt_tokens";
    json_t *ids = json_object_get(r->root, tokens);
    if (ids == NULL) return AG_OK;
    if (json_object_get(r->root, texts))
        return ag_request_fail(err, AG_E_PARAM, tokens, "Either '%s' or '%s' can be given, not both.", texts, tokens);
    if (json_object_set(r->root, texts, ids) != 0 || json_object_del(r->root, tokens) != 0)
        return ag__no_memory(r, err);
    return AG_OK;
}

int ag__grpc_parse(ag_request *r, const char *body, size_t n, ag_err *err)
{
    int rc = ag_grpc_to_json(r, type_of(r->kind), body, n, &r->root, err);
    if (rc == AG_OK) rc = take_ids(r, err);
    if (rc == AG_OK) rc = ag__fields_take(r, err);
    return rc == AG_OK ? ag__openai_check(r, err) : rc;
}
