#include "gateway/dialects/dialect.h"

#include "gateway/dialects/anthropic.h"
#include "gateway/dialects/kserve.h"
#include "gateway/dialects/openai.h"
#include "gateway/dialects/responses.h"

const ag_dialect *ag_dialect_of(int kind)
{
    switch (kind) {
    case AG_REQUEST_MESSAGES:
    case AG_REQUEST_COUNT: return &ag_anthropic;
    case AG_REQUEST_RESPONSE: return &ag_openai_responses;
    case AG_REQUEST_INFER: return &ag_kserve;
    case AG_REQUEST_COMPLETION: return &ag_openai_completions;
    case AG_REQUEST_EMBEDDINGS: return &ag_openai_embeddings;
    default: return &ag_openai;
    }
}
