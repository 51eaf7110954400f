/* The first byte chooses the kind of request, the rest is a body. What parses must also be within the limits that are
 * promised. */
#include <stdlib.h>

#include "gateway/dialects/anthropic.h"
#include "gateway/dialects/openai.h"
#include "gateway/dialects/responses.h"

static int converse(ag_request *r, bool again, ag_err *err)
{
    ag_buf items, list;
    ag_buf_init(&items, 64u << 20);
    ag_buf_init(&list, 64u << 20);
    int rc = ag_responses_converse(r, AG_STR("resp_0"), (ag_str){0}, (ag_str){0}, err);
    if (rc == AG_OK) {
        AG_ASSERT(ag_responses_items_write(&items, r, err) == AG_OK);
        AG_ASSERT(ag_responses_list(&list, ag_buf_str(&items), &(ag_items_ask){.limit = 100}, err) == AG_OK);
        if (again)
            rc = ag_responses_converse(r, AG_STR("resp_1"), AG_STR("{\"status\":\"completed\",\"output\":[]}"),
                                       ag_buf_str(&items), err);
    }
    ag_buf_fini(&items);
    ag_buf_fini(&list);
    return rc;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    if (n == 0) return 0;
    ag_request r;
    ag_err err = {0};
    static const struct { const ag_dialect *d; ag_request_kind kind; } ways[] = {
        {&ag_openai_completions, AG_REQUEST_COMPLETION}, {&ag_openai, AG_REQUEST_CHAT},
        {&ag_openai, AG_REQUEST_TOKENIZE},
        {&ag_openai, AG_REQUEST_DETOKENIZE}, {&ag_anthropic, AG_REQUEST_MESSAGES}, {&ag_anthropic, AG_REQUEST_COUNT},
        {&ag_openai_embeddings, AG_REQUEST_EMBEDDINGS}, {&ag_openai_responses, AG_REQUEST_RESPONSE}};
    const ag_dialect *d = ways[data[0] & 7].d;
    ag_request_kind kind = ways[data[0] & 7].kind;
    ag_request_init(&r, kind);
    r.strict = data[0] & 8;
    int rc = d->parse(&r, (const char *)data + 1, n - 1, &err);
    /* A conversation that was kept is the one that goes on: what is kept must be readable, whatever it came from. */
    if (rc == AG_OK && kind == AG_REQUEST_RESPONSE) rc = converse(&r, data[0] & 16, &err);
    if (rc == AG_OK) {
        uint32_t most = r.kind == AG_REQUEST_EMBEDDINGS ? AG_REQUEST_INPUTS_MAX : AG_REQUEST_PROMPTS_MAX;
        AG_ASSERT(r.n >= 1 && r.n <= AG_REQUEST_PROMPTS_MAX && r.n_prompts * r.n <= most);
        AG_ASSERT(r.n_stops <= AG_GEN_STOPS_MAX && r.n_stop_tokens <= AG_GEN_STOPS_MAX && r.n_bias <= AG_GEN_BIAS_MAX);
        AG_ASSERT(r.top_logprobs >= -1 && r.top_logprobs <= AG_GEN_TOP_MAX);
        AG_ASSERT((r.n_prompts > 0) != (json_array_size(json_object_get(r.vars, "messages")) > 0));
        AG_ASSERT(strlen(r.ignored) < sizeof r.ignored && !(r.strict && r.ignored[0]));
        (void)ag_request_check(&r, 1000, &err);
    } else {
        AG_ASSERT(err.code == rc && err.text[0] && ag_err_find(rc)->http / 100 == 4);
    }
    ag_buf out;
    ag_buf_init(&out, 1 << 16);
    if (err.code != AG_OK) {
        d->error(&out, &err, AG_STR("id"));
        json_t *j = json_loadb(out.p, out.n, JSON_REJECT_DUPLICATES, NULL);
        AG_ASSERT(j != NULL);
        json_decref(j);
    }
    ag_buf_fini(&out);
    uint32_t band = 0;
    ag_err_clear(&err);
    rc = ag_openai_parse_move((const char *)data + 1, n - 1, &band, &err);
    AG_ASSERT(rc == AG_OK ? band < AG_BANDS : err.code == rc && err.text[0] && ag_err_find(rc)->http == 400);
    ag_request_fini(&r);
    return 0;
}
