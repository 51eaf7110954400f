/* Embeddings' answers. */
#include <sodium.h>

#include "gateway/dialects/openai.h"

static void begin(ag_buf *out, const ag_reply *r AG_UNUSED) { ag_buf_addz(out, "{\"object\":\"list\",\"data\":["); }

/* Numbers are little-endian, as on every machine that this runs on. */
static void add_base64(ag_buf *out, const float *v, uint32_t n)
{
    size_t size = sodium_base64_ENCODED_LEN(n * sizeof *v, sodium_base64_VARIANT_ORIGINAL);
    ag_buf_addc(out, '"');
    if (!ag_buf_room(out, size)) return;
    sodium_bin2base64(out->p + out->n, size, (const unsigned char *)v, n * sizeof *v, sodium_base64_VARIANT_ORIGINAL);
    out->n += size - 1; /* without its NUL */
    ag_buf_addc(out, '"');
}

static void add_numbers(ag_buf *out, const float *v, uint32_t n)
{
    for (uint32_t i = 0; i < n && !out->failed; i++) ag_buf_addf(out, i ? ",%.9g" : "[%.9g", (double)v[i]);
    ag_buf_addc(out, ']');
}

static void embedding(ag_buf *out, const ag_reply *r, uint32_t index, const float *v, uint32_t n)
{
    ag_buf_addf(out, "%s{\"object\":\"embedding\",\"index\":%u,\"embedding\":", index ? "," : "", index);
    if (r->base64) add_base64(out, v, n);
    else add_numbers(out, v, n);
    ag_buf_addc(out, '}');
}

static void end(ag_buf *out, const ag_reply *r, const ag_usage *usage)
{
    unsigned long long n = usage->prompt_tokens;
    ag_buf_addz(out, "],\"model\":");
    ag_buf_add_json(out, r->model.p, r->model.n);
    ag_buf_addf(out, ",\"usage\":{\"prompt_tokens\":%llu,\"total_tokens\":%llu}}", n, n);
}

const ag_dialect ag_openai_embeddings = {.reply_id = "embd-", .rates = AG_RATES, .type = AG_TYPE_JSON,
                                         .parse = ag_openai_parse, .begin = begin, .embedding = embedding,
                                         .end = end, .error = ag_openai_error};
