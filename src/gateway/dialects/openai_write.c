#include <math.h>
#include <stdio.h>

#include "base/utf8.h"
#include "gateway/dialects/openai.h"
#include "gateway/dialects/tokens.h"

static bool is_chat(const ag_reply *r) { return r->kind == AG_REQUEST_CHAT; }
static void add_str(ag_buf *out, ag_str s) { ag_buf_add_json(out, s.p, s.n); }

static void add_head(ag_buf *out, const ag_reply *r, const char *object)
{
    ag_buf_addz(out, "{\"id\":");
    add_str(out, r->id);
    ag_buf_addz(out, ",\"object\":\"");
    ag_buf_addz(out, object);
    ag_buf_addz(out, "\",\"created\":");
    ag_buf_addu(out, (uint64_t)r->created);
    ag_buf_addz(out, ",\"model\":");
    add_str(out, r->model);
    ag_buf_addz(out, ",\"choices\":[");
}

static void add_finish(ag_buf *out, const ag_reply_end *end)
{
    static const char *const finish[] = {[AG_END_STOP] = "stop", [AG_END_LENGTH] = "length",
                                         [AG_END_CALLS] = "tool_calls"};
    ag_buf_addz(out, ",\"finish_reason\":");
    if (end) add_str(out, ag_str_of(finish[end->reason]));
    else ag_buf_addz(out, "null");
    if (end && end->timed_out) ag_buf_addz(out, ",\"autoglm\":{\"stopped_by\":\"timeout\"}");
}

static void add_usage(ag_buf *out, const ag_usage *u)
{
    ag_buf_addf(out,
                "\"usage\":{\"prompt_tokens\":%llu,\"completion_tokens\":%llu,\"total_tokens\":%llu,"
                "\"prompt_tokens_details\":{\"cached_tokens\":%llu}}",
                (unsigned long long)u->prompt_tokens, (unsigned long long)u->completion_tokens,
                (unsigned long long)(u->prompt_tokens + u->completion_tokens), (unsigned long long)u->cached_tokens);
}

/* Log probabilities. */

static void add_logprob(ag_buf *out, float logprob)
{
    if (isnan(logprob)) ag_buf_addz(out, "null");
    else ag_buf_addf(out, "%.7g", (double)AG_MAX(logprob, AG_LOGPROB_FLOOR));
}

/* A token's text as a JSON string. One that is only a part of a character cannot be; its bytes are then written out,
 * which also keeps such tokens apart as keys. */
static void add_token(ag_buf *out, ag_str piece)
{
    if (ag_utf8_check(piece.p, piece.n) == SIZE_MAX) {
        add_str(out, piece);
        return;
    }
    ag_buf_addz(out, "\"bytes:");
    for (size_t i = 0; i < piece.n; i++) ag_buf_addf(out, "\\\\x%02x", (unsigned char)piece.p[i]);
    ag_buf_addc(out, '"');
}

static void add_chat_token(ag_buf *out, ag_str piece, float logprob)
{
    ag_buf_addz(out, "{\"token\":");
    add_token(out, piece);
    ag_buf_addz(out, ",\"logprob\":");
    add_logprob(out, logprob);
    ag_buf_addz(out, ",\"bytes\":[");
    for (size_t i = 0; i < piece.n; i++) ag_buf_addf(out, i ? ",%u" : "%u", (unsigned)(unsigned char)piece.p[i]);
    ag_buf_addc(out, ']');
}

static ag_str piece_of(const ag_reply_logprobs *lp, int32_t id) { return lp->piece(lp->arg, id, true); }

static void add_chat_logprobs(ag_buf *out, const ag_reply_logprobs *lp)
{
    bool first = true;
    ag_buf_addz(out, "{\"content\":[");
    for (int part = 0; part < 2; part++) {
        for (uint32_t i = 0; i < lp->n[part]; i++, first = false) {
            const ag_gen_token *t = &lp->part[part][i];
            if (!first) ag_buf_addc(out, ',');
            add_chat_token(out, piece_of(lp, t->id), t->logprob);
            ag_buf_addz(out, ",\"top_logprobs\":[");
            for (uint32_t k = 0; k < t->n_top; k++) {
                if (k) ag_buf_addc(out, ',');
                add_chat_token(out, piece_of(lp, t->top[k].id), t->top[k].logprob);
                ag_buf_addc(out, '}');
            }
            ag_buf_addz(out, "]}");
        }
    }
    ag_buf_addz(out, "],\"refusal\":null}");
}

/* The best tokens and the one that was taken, as an object. Two may be the same text, of which the first counts. */
static void add_top_object(ag_buf *out, const ag_reply_logprobs *lp, const ag_gen_token *t)
{
    ag_gen_top all[AG_GEN_TOP_MAX + 1];
    uint32_t n = 0;
    for (uint32_t k = 0; k < t->n_top && k < AG_GEN_TOP_MAX; k++) all[n++] = t->top[k];
    all[n++] = (ag_gen_top){t->id, t->logprob};
    ag_buf_addc(out, '{');
    for (uint32_t k = 0, written = 0; k < n; k++) {
        ag_str piece = piece_of(lp, all[k].id);
        bool again = false;
        for (uint32_t j = 0; j < k && !again; j++) again = ag_str_eq(piece_of(lp, all[j].id), piece);
        if (again) continue;
        if (written++) ag_buf_addc(out, ',');
        add_token(out, piece);
        ag_buf_addc(out, ':');
        add_logprob(out, all[k].logprob);
    }
    ag_buf_addc(out, '}');
}

static uint64_t characters(ag_str s)
{
    uint64_t n = 0;
    for (size_t i = 0; i < s.n; i++) n += ((unsigned char)s.p[i] & 0xC0) != 0x80;
    return n;
}

static void add_column(ag_buf *out, ag_reply_logprobs *lp, int column)
{
    bool first = true;
    for (int part = 0; part < 2; part++) {
        for (uint32_t i = 0; i < lp->n[part]; i++, first = false) {
            const ag_gen_token *t = &lp->part[part][i];
            if (!first) ag_buf_addc(out, ',');
            switch (column) {
            case 0: add_token(out, piece_of(lp, t->id)); break;
            case 1: add_logprob(out, t->logprob); break;
            case 2:
                if (isnan(t->logprob)) ag_buf_addz(out, "null");
                else add_top_object(out, lp, t);
                break;
            default:
                ag_buf_addf(out, "%llu", (unsigned long long)lp->offset);
                lp->offset += characters(lp->piece(lp->arg, t->id, false));
            }
        }
    }
}

static void add_completion_logprobs(ag_buf *out, ag_reply_logprobs *lp)
{
    static const char *const columns[] = {"{\"tokens\":[", "],\"token_logprobs\":[", "],\"top_logprobs\":[",
                                          "],\"text_offset\":["};
    for (int c = 0; c < 4; c++) {
        ag_buf_addz(out, columns[c]);
        add_column(out, lp, c);
    }
    ag_buf_addz(out, "]}");
}

static void add_logprobs(ag_buf *out, const ag_reply *r, ag_reply_logprobs *lp)
{
    ag_buf_addz(out, ",\"logprobs\":");
    if (lp == NULL) ag_buf_addz(out, "null");
    else if (is_chat(r)) add_chat_logprobs(out, lp);
    else add_completion_logprobs(out, lp);
}

/* Whole answers. */

static void begin(ag_buf *out, const ag_reply *r)
{
    add_head(out, r, is_chat(r) ? "chat.completion" : "text_completion");
}

/* All parts of a kind as one string. */
static void add_joined(ag_buf *out, const ag_part *parts, uint32_t n, ag_part_kind kind)
{
    ag_buf all;
    ag_buf_init(&all, SIZE_MAX / 2);
    uint32_t of_kind = 0;
    ag_str first = {"", 0};
    for (uint32_t i = 0; i < n; i++)
        if (parts[i].kind == kind && of_kind++ == 0) first = parts[i].text;
    for (uint32_t i = 0; i < n && of_kind > 1; i++)
        if (parts[i].kind == kind) ag_buf_add(&all, parts[i].text.p, parts[i].text.n);
    add_str(out, of_kind > 1 ? ag_buf_str(&all) : first);
    out->failed = out->failed || all.failed;
    ag_buf_fini(&all);
}

static bool has(const ag_part *parts, uint32_t n, ag_part_kind kind)
{
    for (uint32_t i = 0; i < n; i++)
        if (parts[i].kind == kind) return true;
    return false;
}

static void add_call(ag_buf *out, const ag_part *call, ag_str arguments)
{
    ag_buf_addz(out, "\"id\":");
    add_str(out, ag_str_of(call->id));
    ag_buf_addz(out, ",\"type\":\"function\",\"function\":{\"name\":");
    add_str(out, call->name);
    ag_buf_addz(out, ",\"arguments\":");
    add_str(out, arguments);
    ag_buf_addc(out, '}');
}

static void add_message(ag_buf *out, const ag_part *parts, uint32_t n)
{
    bool calls = has(parts, n, AG_PART_CALL);
    uint32_t told = 0;
    ag_buf_addz(out, "\"message\":{\"role\":\"assistant\",\"content\":");
    if (calls && !has(parts, n, AG_PART_TEXT)) ag_buf_addz(out, "null");
    else add_joined(out, parts, n, AG_PART_TEXT);
    ag_buf_addz(out, ",\"refusal\":null");
    if (has(parts, n, AG_PART_THINKING)) {
        ag_buf_addz(out, ",\"reasoning_content\":");
        add_joined(out, parts, n, AG_PART_THINKING);
    }
    for (uint32_t i = 0; i < n; i++) {
        if (parts[i].kind != AG_PART_CALL) continue;
        ag_buf_addz(out, told++ ? ",{" : ",\"tool_calls\":[{");
        add_call(out, &parts[i], parts[i].text);
        ag_buf_addc(out, '}');
    }
    ag_buf_addz(out, told ? "]}" : "}");
}

static void choice(ag_buf *out, const ag_reply *r, uint32_t index, const ag_part *parts, uint32_t n,
                   ag_reply_logprobs *lp, const ag_reply_end *end)
{
    ag_buf_addf(out, "%s{\"index\":%u,", index ? "," : "", index);
    if (is_chat(r)) {
        add_message(out, parts, n);
    } else {
        ag_buf_addz(out, "\"text\":");
        add_joined(out, parts, n, AG_PART_TEXT);
    }
    add_logprobs(out, r, lp);
    add_finish(out, end);
    ag_buf_addc(out, '}');
}

static void end_all(ag_buf *out, const ag_reply *r AG_UNUSED, const ag_usage *usage)
{
    ag_buf_addz(out, "],");
    add_usage(out, usage);
    ag_buf_addc(out, '}');
}

/* Streams. */

static void begin_chunk(ag_buf *out, const ag_reply *r)
{
    ag_buf_addz(out, "data: ");
    add_head(out, r, is_chat(r) ? "chat.completion.chunk" : "text_completion");
}

static void end_chunk(ag_buf *out, const ag_reply *r)
{
    ag_buf_addz(out, r->with_usage ? "],\"usage\":null}\n\n" : "]}\n\n");
}

static void open_choice(ag_buf *out, const ag_reply *r, ag_place *at, const ag_usage *usage AG_UNUSED)
{
    if (!is_chat(r)) return;
    begin_chunk(out, r);
    ag_buf_addf(
        out,
        "{\"index\":%u,\"delta\":{\"role\":\"assistant\",\"content\":\"\"},\"logprobs\":null,\"finish_reason\":null}",
        at->index);
    end_chunk(out, r);
}

/* A call's first event names it, a second has its arguments, as clients put them together. */
static void add_delta(ag_buf *out, const ag_place *at, const ag_part *part, bool more)
{
    if (part == NULL) return;
    switch (part->kind) {
    case AG_PART_TEXT:
        ag_buf_addz(out, "\"content\":");
        add_str(out, part->text);
        break;
    case AG_PART_THINKING:
        ag_buf_addz(out, "\"reasoning_content\":");
        add_str(out, part->text);
        break;
    case AG_PART_CALL:
        ag_buf_addf(out, "\"tool_calls\":[{\"index\":%u,", at->calls);
        if (more) {
            ag_buf_addz(out, "\"function\":{\"arguments\":");
            add_str(out, part->text);
            ag_buf_addc(out, '}');
        } else {
            add_call(out, part, (ag_str){0});
        }
        ag_buf_addz(out, "}]");
        break;
    }
}

static void add_chunk(ag_buf *out, const ag_reply *r, const ag_place *at, const ag_part *part, bool more,
                      ag_reply_logprobs *lp, const ag_reply_end *end)
{
    begin_chunk(out, r);
    ag_buf_addz(out, "{\"index\":");
    ag_buf_addu(out, at->index);
    ag_buf_addc(out, ',');
    if (is_chat(r)) {
        ag_buf_addz(out, "\"delta\":{");
        add_delta(out, at, part, more);
        ag_buf_addc(out, '}');
    } else {
        ag_buf_addz(out, "\"text\":");
        add_str(out, part ? part->text : (ag_str){0});
    }
    add_logprobs(out, r, lp);
    add_finish(out, end);
    ag_buf_addc(out, '}');
    end_chunk(out, r);
}

static void chunk(ag_buf *out, const ag_reply *r, ag_place *at, const ag_part *part, ag_reply_logprobs *lp,
                  const ag_reply_end *end, const ag_usage *usage AG_UNUSED)
{
    add_chunk(out, r, at, part, false, lp, end);
    if (part == NULL || part->kind != AG_PART_CALL) return;
    add_chunk(out, r, at, part, true, NULL, NULL);
    at->calls++;
}

static void close_all(ag_buf *out, const ag_reply *r, const ag_usage *usage)
{
    if (r->with_usage) {
        begin_chunk(out, r);
        ag_buf_addz(out, "],");
        add_usage(out, usage);
        ag_buf_addz(out, "}\n\n");
    }
    ag_buf_addz(out, "data: [DONE]\n\n");
}

/* The queue. */

static void add_view(ag_buf *out, const ag_queue_view *v)
{
    ag_buf_addf(out, "\"state\":\"%s\",\"priority\":%u,\"position\":%u,\"waited_ms\":%llu,\"estimated_wait_ms\":",
                v->state, v->band, v->position, (unsigned long long)(v->waited_us / 1000));
    if (v->position && v->wait_us == 0) ag_buf_addz(out, "null");
    else ag_buf_addf(out, "%llu", (unsigned long long)(v->position ? (v->wait_us + 999) / 1000 : 0));
}

void ag_openai_queue(ag_buf *out, ag_str id, const ag_queue_view *v)
{
    ag_buf_addz(out, "{\"id\":");
    ag_buf_add_json(out, id.p, id.n);
    ag_buf_addz(out, ",\"object\":\"queue.request\",");
    add_view(out, v);
    ag_buf_addc(out, '}');
}

void ag_openai_queue_cancelled(ag_buf *out, ag_str id, bool cancelled)
{
    ag_buf_addz(out, "{\"id\":");
    ag_buf_add_json(out, id.p, id.n);
    ag_buf_addf(out, ",\"object\":\"queue.request\",\"cancelled\":%s}", cancelled ? "true" : "false");
}

void ag_openai_queue_event(ag_buf *out, const ag_reply *r, const ag_queue_view *v)
{
    ag_buf_addz(out, "event: queue\n");
    begin_chunk(out, r);
    ag_buf_addz(out, "],\"queue\":{");
    add_view(out, v);
    ag_buf_addz(out, r->with_usage ? "},\"usage\":null}\n\n" : "}}\n\n");
}

/* Errors and models. */

void ag_openai_error(ag_buf *out, const ag_err *err, ag_str request_id)
{
    const ag_err_row *row = ag_err_find(err->code);
    ag_buf_addz(out, "{\"error\":{\"message\":");
    ag_buf_add_json(out, err->text, strlen(err->text));
    ag_buf_addf(out, ",\"type\":\"%s\",\"param\":", row->type);
    if (err->param[0]) ag_buf_add_json(out, err->param, strlen(err->param));
    else ag_buf_addz(out, "null");
    ag_buf_addf(out, ",\"code\":\"%s\"", row->code);
    if (request_id.n) {
        ag_buf_addz(out, ",\"request_id\":");
        add_str(out, request_id);
    }
    ag_buf_addz(out, "}}");
}

static void break_off(ag_buf *out, const ag_reply *r AG_UNUSED, const ag_err *err, ag_str request_id)
{
    ag_buf_addz(out, "event: error\ndata: ");
    ag_openai_error(out, err, request_id);
    ag_buf_addz(out, "\n\ndata: [DONE]\n\n");
}

void ag_openai_model(ag_buf *out, const ag_model_card *card)
{
    ag_buf_addz(out, "{\"id\":");
    add_str(out, card->id);
    ag_buf_addf(out, ",\"object\":\"model\",\"created\":%lld,\"owned_by\":\"autoglm\",\"max_model_len\":%u}",
                (long long)card->created, card->ctx);
}

void ag_openai_models(ag_buf *out, const ag_model_card *cards, uint32_t n)
{
    ag_buf_addz(out, "{\"object\":\"list\",\"data\":[");
    for (uint32_t i = 0; i < n; i++) {
        if (i) ag_buf_addc(out, ',');
        ag_openai_model(out, &cards[i]);
    }
    ag_buf_addz(out, "]}");
}

#define OPENAI(id)                                                                                                  \
    {.reply_id = id, .call_id = "call_", .rates = AG_RATES, .type = AG_TYPE_JSON, .stream_type = AG_TYPE_EVENTS,      \
     .parse = ag_openai_parse, .begin = begin, .choice = choice, .end = end_all,                                     \
     .open = open_choice, .chunk = chunk, .close = close_all, .tokens = ag_tokens_write, .error = ag_openai_error,   \
     .break_off = break_off}
const ag_dialect ag_openai = OPENAI("chatcmpl-"), ag_openai_completions = OPENAI("cmpl-");
