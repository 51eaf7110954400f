/* The first byte chooses the kind of request, the rest is a call's body. What parses must be within the limits that are
 * promised, however it was packed. */
#include "gateway/dialects/grpc.h"
#include "gateway/dialects/grpc_wire.h"
#include "gateway/dialects/kserve.h"
#include "gateway/dialects/openai.h"
#include "gateway/dialects/schema.h"

enum { MESSAGE_MAX = 1 << 16, STRICT = 8, GZIP = 16 };

static void tell(const ag_err *err)
{
    ag_grpc_status s;
    ag_grpc_status_make(&s, err, AG_STR("id"), 1);
    AG_ASSERT(s.code[0] && !s.message.failed && !s.details.failed);
    for (size_t i = 0; i < s.message.n; i++) AG_ASSERT(s.message.p[i] >= ' ' && s.message.p[i] <= '~');
    ag_grpc_status_fini(&s);
}

/* As server reflection reads them: one after the other, each taken or waited for. */
static void take_all(ag_str body, bool gzip)
{
    ag_buf plain;
    ag_str message;
    ag_err err = {0};
    bool found = true;
    ag_buf_init(&plain, MESSAGE_MAX + 1);
    while (found && ag_grpc_next(&body, gzip, MESSAGE_MAX, &plain, &message, &found, &err) == AG_OK)
        if (found) AG_ASSERT(message.n <= MESSAGE_MAX);
    ag_buf_fini(&plain);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    static const struct { const ag_dialect *d; ag_request_kind kind; } ways[] = {
        {&ag_grpc_completions, AG_REQUEST_COMPLETION}, {&ag_grpc, AG_REQUEST_CHAT}, {&ag_grpc, AG_REQUEST_TOKENIZE},
        {&ag_grpc, AG_REQUEST_DETOKENIZE}, {&ag_kserve_grpc, AG_REQUEST_INFER}, {&ag_kserve, AG_REQUEST_INFER},
        {&ag_grpc_embeddings, AG_REQUEST_EMBEDDINGS}, {&ag_grpc, AG_REQUEST_CHAT}};
    ag_request r;
    ag_err err = {0};
    if (n == 0) return 0;
    ag_str body = {(const char *)data + 1, n - 1};
    ag_request_init(&r, ways[data[0] & 7].kind);
    r.strict = data[0] & STRICT;
    r.wire = (ag_wire){.message_max = MESSAGE_MAX, .gzip = data[0] & GZIP};
    int rc = ways[data[0] & 7].d->parse(&r, body.p, body.n, &err);
    if (rc == AG_OK) {
        uint32_t most = r.kind == AG_REQUEST_EMBEDDINGS ? AG_REQUEST_INPUTS_MAX : AG_REQUEST_PROMPTS_MAX;
        AG_ASSERT(r.n >= 1 && r.n <= AG_REQUEST_PROMPTS_MAX && r.n_prompts * r.n <= most);
        AG_ASSERT(r.n_stops <= AG_GEN_STOPS_MAX && r.n_stop_tokens <= AG_GEN_STOPS_MAX && r.n_bias <= AG_GEN_BIAS_MAX);
        AG_ASSERT((r.n_prompts > 0) != (json_array_size(json_object_get(r.vars, "messages")) > 0));
        AG_ASSERT(strlen(r.ignored) < sizeof r.ignored && !(r.strict && r.ignored[0]) && !r.stream);
        (void)ag_request_check(&r, 1000, &err);
    } else {
        AG_ASSERT(err.code == rc && err.text[0] && ag_err_find(rc)->http / 100 == 4);
    }
    if (err.code != AG_OK) tell(&err);
    ag_request_fini(&r);
    take_all(body, data[0] & GZIP);
    (void)ag_schema_file_declaring(body);
    return 0;
}
