#include <math.h>

#include "gateway/dialects/grpc_inner.h"
#include "gateway/dialects/grpc_wire.h"
#include "gateway/dialects/pb.h"

/* The numbers of proto/autoglm/v1/inference.proto. */
enum { REPLY_ID = 1, REPLY_CREATED = 2, REPLY_MODEL = 3, REPLY_CHOICES = 4, REPLY_USAGE = 5,
       CHOICE_INDEX = 1, CHOICE_TEXT = 2, CHOICE_MESSAGE = 2, CHOICE_FINISH = 3, CHOICE_TIMED_OUT = 4,
       CHOICE_LOGPROBS = 5,
       MESSAGE_ROLE = 1, MESSAGE_CONTENT = 2, MESSAGE_REASONING = 3, MESSAGE_CALLS = 4,
       CALL_ID = 1, CALL_TYPE = 2, CALL_FUNCTION = 3, FUNCTION_NAME = 1, FUNCTION_ARGUMENTS = 2,
       LOGPROB_ID = 1, LOGPROB_BYTES = 2, LOGPROB_LOGPROB = 3, LOGPROB_TOP = 4,
       USAGE_PROMPT = 1, USAGE_COMPLETION = 2, USAGE_CACHED = 3,
       EMBEDDING_INDEX = 1, EMBEDDING_VALUES = 2,
       TOKENS_TOKENS = 1, TOKENS_PIECES = 2, TOKENS_MODEL_LEN = 3, TEXT_CONTENT = 1 };

static bool is_chat(const ag_reply *r) { return r->kind == AG_REQUEST_CHAT; }

static void put_head(ag_buf *out, const ag_reply *r)
{
    ag_pb_put_text(out, REPLY_ID, r->id);
    ag_pb_put(out, REPLY_CREATED, (uint64_t)r->created);
    ag_pb_put_text(out, REPLY_MODEL, r->model);
}

static void put_end(ag_buf *out, const ag_reply_end *end)
{
    static const ag_str finish[] = {[AG_END_STOP] = {"stop", 4}, [AG_END_LENGTH] = {"length", 6},
                                    [AG_END_CALLS] = {"tool_calls", 10}};
    if (end == NULL) return;
    ag_pb_put_text(out, CHOICE_FINISH, finish[end->reason]);
    ag_pb_put(out, CHOICE_TIMED_OUT, end->timed_out);
}

static void put_usage(ag_buf *out, const ag_usage *u)
{
    size_t at = out->n;
    ag_pb_put(out, USAGE_PROMPT, u->prompt_tokens);
    ag_pb_put(out, USAGE_COMPLETION, u->completion_tokens);
    ag_pb_put(out, USAGE_CACHED, u->cached_tokens);
    ag_pb_wrap(out, at, REPLY_USAGE);
}

/* Numbers that are none say that there is no probability. */
static void put_token(ag_buf *out, const ag_reply_logprobs *lp, int32_t id, float logprob)
{
    ag_str piece = lp->piece(lp->arg, id, true);
    ag_pb_put(out, LOGPROB_ID, (uint32_t)id);
    if (piece.n) ag_pb_put_bytes(out, LOGPROB_BYTES, piece);
    if (!isnan(logprob)) ag_pb_put_float(out, LOGPROB_LOGPROB, AG_MAX(logprob, AG_LOGPROB_FLOOR));
}

static void put_logprobs(ag_buf *out, const ag_reply_logprobs *lp)
{
    for (int part = 0; lp && part < 2; part++) {
        for (uint32_t i = 0; i < lp->n[part]; i++) {
            const ag_gen_token *t = &lp->part[part][i];
            size_t at = out->n;
            put_token(out, lp, t->id, t->logprob);
            for (uint32_t k = 0; k < t->n_top; k++) {
                size_t top = out->n;
                put_token(out, lp, t->top[k].id, t->top[k].logprob);
                ag_pb_wrap(out, top, LOGPROB_TOP);
            }
            ag_pb_wrap(out, at, CHOICE_LOGPROBS);
        }
    }
}

static void put_call(ag_buf *out, const ag_part *call)
{
    size_t at = out->n;
    ag_pb_put_text(out, CALL_ID, ag_str_of(call->id));
    ag_pb_put_text(out, CALL_TYPE, AG_STR("function"));
    size_t function = out->n;
    ag_pb_put_text(out, FUNCTION_NAME, call->name);
    ag_pb_put_text(out, FUNCTION_ARGUMENTS, call->text);
    ag_pb_wrap(out, function, CALL_FUNCTION);
    ag_pb_wrap(out, at, MESSAGE_CALLS);
}

/* All parts of a kind as one string; the same texts that OpenAI's form has. */
static void put_joined(ag_buf *out, uint32_t field, const ag_part *parts, uint32_t n, ag_part_kind kind)
{
    uint32_t of_kind = 0, last = 0;
    for (uint32_t i = 0; i < n; i++)
        if (parts[i].kind == kind) of_kind++, last = i;
    if (of_kind <= 1) {
        if (of_kind) ag_pb_put_string(out, field, parts[last].text);
        return;
    }
    ag_buf all;
    ag_buf_init(&all, out->max);
    for (uint32_t i = 0; i < n; i++)
        if (parts[i].kind == kind) ag_buf_add(&all, parts[i].text.p, parts[i].text.n);
    ag_pb_put_string(out, field, ag_buf_str(&all));
    out->failed = out->failed || all.failed;
    ag_buf_fini(&all);
}

static void put_parts(ag_buf *out, const ag_reply *r, const ag_part *parts, uint32_t n)
{
    if (!is_chat(r)) {
        put_joined(out, CHOICE_TEXT, parts, n, AG_PART_TEXT);
        return;
    }
    size_t at = out->n;
    ag_pb_put_text(out, MESSAGE_ROLE, AG_STR("assistant"));
    put_joined(out, MESSAGE_CONTENT, parts, n, AG_PART_TEXT);
    put_joined(out, MESSAGE_REASONING, parts, n, AG_PART_THINKING);
    for (uint32_t i = 0; i < n; i++)
        if (parts[i].kind == AG_PART_CALL) put_call(out, &parts[i]);
    ag_pb_wrap(out, at, CHOICE_MESSAGE);
}

static void put_choice(ag_buf *out, const ag_reply *r, uint32_t index, const ag_part *parts, uint32_t n,
                       const ag_reply_logprobs *lp, const ag_reply_end *end)
{
    size_t at = out->n;
    ag_pb_put(out, CHOICE_INDEX, index);
    put_parts(out, r, parts, n);
    put_end(out, end);
    put_logprobs(out, lp);
    ag_pb_wrap(out, at, REPLY_CHOICES);
}

/* Whole answers: the only message in their buffer. */

static void begin(ag_buf *out, const ag_reply *r)
{
    ag_grpc_begin(out);
    put_head(out, r);
}

static void choice(ag_buf *out, const ag_reply *r, uint32_t index, const ag_part *parts, uint32_t n,
                   ag_reply_logprobs *lp, const ag_reply_end *end)
{
    put_choice(out, r, index, parts, n, lp, end);
}

/* Packed floats are little-endian, as on every machine that this runs on. */
static void embedding(ag_buf *out, const ag_reply *r AG_UNUSED, uint32_t index, const float *v, uint32_t n)
{
    size_t at = out->n;
    ag_pb_put(out, EMBEDDING_INDEX, index);
    ag_pb_put_bytes(out, EMBEDDING_VALUES, (ag_str){(const char *)v, n * sizeof *v});
    ag_pb_wrap(out, at, REPLY_CHOICES);
}

static void end_all(ag_buf *out, const ag_reply *r, const ag_usage *usage)
{
    put_usage(out, usage);
    ag_grpc_end(out, 0, r->wire.gzip);
}

/* Streams. */

static void open_choice(ag_buf *out AG_UNUSED, const ag_reply *r AG_UNUSED, ag_place *at AG_UNUSED,
                        const ag_usage *usage AG_UNUSED)
{
}

static void chunk(ag_buf *out, const ag_reply *r, ag_place *at, const ag_part *part, ag_reply_logprobs *lp,
                  const ag_reply_end *end, const ag_usage *usage AG_UNUSED)
{
    size_t from = ag_grpc_begin(out);
    put_head(out, r);
    put_choice(out, r, at->index, part, part != NULL, lp, end);
    ag_grpc_end(out, from, r->wire.gzip);
}

static void close_all(ag_buf *out, const ag_reply *r, const ag_usage *usage)
{
    size_t from = ag_grpc_begin(out);
    put_head(out, r);
    put_usage(out, usage);
    ag_grpc_end(out, from, r->wire.gzip);
}

/* Tokens. */

static void tokens(ag_buf *out, const ag_request *q, const ag_tokens_reply *t)
{
    size_t from = ag_grpc_begin(out);
    if (q->kind == AG_REQUEST_DETOKENIZE) {
        ag_pb_put_text(out, TEXT_CONTENT, t->text);
    } else {
        size_t packed = out->n;
        for (uint32_t i = 0; i < t->n && !out->failed; i++) ag_pb_put_varint(out, (uint32_t)t->ids[i]);
        ag_pb_wrap(out, packed, TOKENS_TOKENS);
        for (uint32_t i = 0; q->with_pieces && i < t->n && !out->failed; i++)
            ag_pb_put_bytes(out, TOKENS_PIECES, t->piece(t->arg, t->ids[i], true));
        ag_pb_put(out, TOKENS_MODEL_LEN, t->ctx);
    }
    ag_grpc_end(out, from, q->wire.gzip);
}

/* How it went is told in trailers, which are not of the body. */
static void no_error(ag_buf *out AG_UNUSED, const ag_err *err AG_UNUSED, ag_str request_id AG_UNUSED) {}
static void no_break(ag_buf *out AG_UNUSED, const ag_reply *r AG_UNUSED, const ag_err *err AG_UNUSED,
                     ag_str request_id AG_UNUSED)
{
}

#define GRPC(id)                                                                                                    \
    {.reply_id = id, .call_id = "call_", .rates = AG_RATES, .type = AG_TYPE_GRPC, .stream_type = AG_TYPE_GRPC,      \
     .grpc = true, .parse = ag__grpc_parse, .begin = begin, .choice = choice, .end = end_all, .open = open_choice,  \
     .chunk = chunk, .close = close_all, .tokens = tokens, .error = no_error, .break_off = no_break}
const ag_dialect ag_grpc = GRPC("chatcmpl-"), ag_grpc_completions = GRPC("cmpl-");
const ag_dialect ag_grpc_embeddings = {.reply_id = "embd-", .rates = AG_RATES, .type = AG_TYPE_GRPC, .grpc = true,
                                       .parse = ag__grpc_parse, .begin = begin, .embedding = embedding, .end = end_all,
                                       .error = no_error};
