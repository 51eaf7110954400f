#include <stdio.h>

#include "gateway/dialects/fields.h"
#include "gateway/dialects/openai.h"
#include "gateway/dialects/responses.h"

static const char *const statuses[] = {
#define STATUS_ROW(name, text) [AG_RESPONSE_##name] = text,
    AG_RESPONSE_STATUSES(STATUS_ROW)
#undef STATUS_ROW
};

void ag_response_init(ag_response *a, const ag_request *q)
{
    *a = (ag_response){.q = q, .status = AG_RESPONSE_IN_PROGRESS};
    ag_buf_init(&a->text, AG_RESPONSE_BYTES_MAX);
    ag_buf_init(&a->items, AG_RESPONSE_BYTES_MAX);
    ag_buf_init(&a->whole, AG_RESPONSE_BYTES_MAX);
}

void ag_response_fini(ag_response *a)
{
    ag_buf_fini(&a->text);
    ag_buf_fini(&a->items);
    ag_buf_fini(&a->whole);
}

static void add_str(ag_buf *out, ag_str s) { ag_buf_add_json(out, s.p, s.n); }

/* What the caller said, again. */

static int add_bytes(const char *p, size_t n, void *out) { return ag_buf_add(out, p, n) ? 0 : -1; }

static void add_json(ag_buf *out, const json_t *v)
{
    if (json_dump_callback(v, add_bytes, out, JSON_COMPACT | JSON_ENCODE_ANY) != 0) out->failed = true;
}

static void add_said(ag_buf *out, const char *name, const json_t *v, const char *otherwise)
{
    ag_buf_addf(out, ",\"%s\":", name);
    if (v && !json_is_null(v)) add_json(out, v);
    else ag_buf_addz(out, otherwise);
}

static void add_echo(ag_buf *out, const ag_request *q)
{
    const json_t *reasoning = json_object_get(q->root, "reasoning"), *user = json_object_get(q->root, "user");
    const json_t *verbosity = json_object_get(json_object_get(q->root, "text"), "verbosity");
    add_said(out, "instructions", json_object_get(q->root, "instructions"), "null");
    if (q->max_tokens == AG_REQUEST_UNSET) ag_buf_addz(out, ",\"max_output_tokens\":null");
    else ag_buf_addf(out, ",\"max_output_tokens\":%u", q->max_tokens);
    add_said(out, "metadata", json_object_get(q->root, "metadata"), "{}");
    ag_buf_addf(out, ",\"parallel_tool_calls\":%s", q->parallel_calls ? "true" : "false");
    add_said(out, "previous_response_id", json_object_get(q->root, "previous_response_id"), "null");
    add_said(out, "reasoning\":{\"effort", json_object_get(reasoning, "effort"), "null");
    add_said(out, "summary", json_object_get(reasoning, "summary"), "null");
    ag_buf_addf(out, "},\"temperature\":%g,\"text\":{\"format\":{\"type\":\"%s\"}", (double)q->sampling.temperature,
                q->json ? "json_object" : "text");
    if (verbosity && !json_is_null(verbosity)) add_said(out, "verbosity", verbosity, "null");
    ag_buf_addc(out, '}');
    add_said(out, "tool_choice", json_object_get(q->root, "tool_choice"), "\"auto\"");
    add_said(out, "tools", json_object_get(q->root, "tools"), "[]");
    ag_buf_addf(out, ",\"top_p\":%g,\"truncation\":\"disabled\"", (double)q->sampling.top_p);
    add_said(out, "user", json_is_string(user) ? user : NULL, "null");
}

/* The response. */

static void add_usage(ag_buf *out, const ag_response *a, const ag_usage *u)
{
    bool ended = a->status == AG_RESPONSE_COMPLETED || a->status == AG_RESPONSE_INCOMPLETE;
    if (u == NULL || !ended) {
        ag_buf_addz(out, ",\"usage\":null");
        return;
    }
    ag_buf_addf(
        out,
        ",\"usage\":{\"input_tokens\":%llu,\"input_tokens_details\":{\"cached_tokens\":%llu,"
        "\"cache_write_tokens\":0},\"output_tokens\":%llu,\"output_tokens_details\":{\"reasoning_tokens\":%llu},"
        "\"total_tokens\":%llu}",
        (unsigned long long)u->prompt_tokens, (unsigned long long)u->cached_tokens,
        (unsigned long long)u->completion_tokens, (unsigned long long)a->reasoning_tokens,
        (unsigned long long)(u->prompt_tokens + u->completion_tokens));
}

static void add_error(ag_buf *out, const ag_response *a)
{
    if (a->status != AG_RESPONSE_FAILED) {
        ag_buf_addz(out, ",\"error\":null");
        return;
    }
    ag_buf_addz(out, ",\"error\":{\"code\":\"server_error\",\"message\":");
    add_str(out, ag_str_of(a->err.text));
    ag_buf_addc(out, '}');
}

void ag_response_write(ag_buf *out, const ag_reply *r, const ag_usage *usage)
{
    const ag_response *a = r->response;
    ag_buf_addz(out, "{\"id\":");
    add_str(out, r->id);
    ag_buf_addf(out, ",\"object\":\"response\",\"created_at\":%lld,\"status\":\"%s\",\"background\":%s",
                (long long)r->created, statuses[a->status], a->q->background ? "true" : "false");
    add_error(out, a);
    ag_buf_addf(out, ",\"incomplete_details\":%s",
                a->status == AG_RESPONSE_INCOMPLETE ? "{\"reason\":\"max_output_tokens\"}" : "null");
    if (a->timed_out) ag_buf_addz(out, ",\"autoglm\":{\"stopped_by\":\"timeout\"}");
    ag_buf_addz(out, ",\"model\":");
    add_str(out, r->model);
    ag_buf_addz(out, ",\"output\":[");
    ag_buf_add(out, a->items.p, a->items.n);
    ag_buf_addc(out, ']');
    add_echo(out, a->q);
    add_usage(out, a, usage);
    ag_buf_addc(out, '}');
    out->failed = out->failed || a->items.failed || a->text.failed;
}

void ag_response_seal(const ag_reply *r, const ag_usage *usage)
{
    if (r->response->whole.n == 0) ag_response_write(&r->response->whole, r, usage);
}

static void add_sealed(ag_buf *out, const ag_reply *r, const ag_usage *usage)
{
    ag_response_seal(r, usage);
    ag_buf_add(out, r->response->whole.p, r->response->whole.n);
    out->failed = out->failed || r->response->whole.failed;
}

/* Items. */

/* An item's id is made of the response's and its place. */
static void add_item_id(ag_buf *out, const ag_reply *r, ag_part_kind kind)
{
    static const char *const begins[] = {[AG_PART_TEXT] = "msg", [AG_PART_THINKING] = "rs", [AG_PART_CALL] = "fc"};
    const char *cut = memchr(r->id.p, '_', r->id.n);
    ag_str own = cut ? (ag_str){cut + 1, r->id.n - (size_t)(cut + 1 - r->id.p)} : r->id;
    ag_buf_addf(out, "\"%s_%.*s_%u\"", begins[kind], (int)own.n, own.p, r->response->n_items - 1);
}

static void add_content(ag_buf *out, ag_part_kind kind, ag_str text)
{
    ag_buf_addf(out, "{\"type\":\"%s\",\"text\":", kind == AG_PART_TEXT ? "output_text" : "reasoning_text");
    add_str(out, text);
    ag_buf_addz(out, kind == AG_PART_TEXT ? ",\"annotations\":[],\"logprobs\":[]}" : "}");
}

/* One of text or reasoning; text NULL: as it begins. */
static void add_said_item(ag_buf *out, const ag_reply *r, ag_part_kind kind, const ag_buf *text, const char *status)
{
    ag_buf_addz(out, "{\"id\":");
    add_item_id(out, r, kind);
    if (kind == AG_PART_TEXT) ag_buf_addz(out, ",\"type\":\"message\",\"role\":\"assistant\"");
    else ag_buf_addz(out, ",\"type\":\"reasoning\",\"summary\":[]");
    ag_buf_addf(out, ",\"status\":\"%s\",\"content\":[", status);
    if (text) add_content(out, kind, ag_buf_str(text));
    ag_buf_addz(out, "]}");
}

static void add_call_item(ag_buf *out, const ag_reply *r, const ag_part *call, bool whole)
{
    ag_buf_addz(out, "{\"id\":");
    add_item_id(out, r, AG_PART_CALL);
    ag_buf_addz(out, ",\"type\":\"function_call\",\"call_id\":");
    add_str(out, ag_str_of(call->id));
    ag_buf_addz(out, ",\"name\":");
    add_str(out, call->name);
    ag_buf_addz(out, ",\"arguments\":");
    add_str(out, whole ? call->text : (ag_str){0});
    ag_buf_addf(out, ",\"status\":\"%s\"}", whole ? "completed" : "in_progress");
}

/* Events. Without `out` what happens is only kept: the answer is told whole. */

static void begin_event(ag_buf *out, ag_response *a, const char *name)
{
    ag_buf_addf(out, "event: %s\ndata: {\"type\":\"%s\",\"sequence_number\":%llu", name, name,
                (unsigned long long)a->sequence++);
}

static void end_event(ag_buf *out) { ag_buf_addz(out, "}\n\n"); }

static void tell_response(ag_buf *out, const ag_reply *r, const char *name)
{
    begin_event(out, r->response, name);
    ag_buf_addz(out, ",\"response\":");
    ag_response_write(out, r, NULL);
    end_event(out);
}

static void begin_place(ag_buf *out, const ag_reply *r, const char *name)
{
    begin_event(out, r->response, name);
    ag_buf_addf(out, ",\"output_index\":%u", r->response->n_items - 1);
}

/* An event of the item's text, up to its own fields. */
static void begin_text_event(ag_buf *out, const ag_reply *r, const char *name)
{
    begin_place(out, r, name);
    ag_buf_addz(out, ",\"content_index\":0,\"item_id\":");
    add_item_id(out, r, r->response->kind);
}

static void begin_item(ag_buf *out, const ag_reply *r, ag_part_kind kind)
{
    ag_response *a = r->response;
    a->in_item = true;
    a->kind = kind;
    a->n_items++;
    a->thought = a->thought || kind == AG_PART_THINKING;
    a->items.failed = a->items.failed || a->text.failed;
    ag_buf_reset(&a->text);
    if (out == NULL) return;
    begin_place(out, r, "response.output_item.added");
    ag_buf_addz(out, ",\"item\":");
    add_said_item(out, r, kind, NULL, "in_progress");
    end_event(out);
    begin_text_event(out, r, "response.content_part.added");
    ag_buf_addz(out, ",\"part\":");
    add_content(out, kind, (ag_str){0});
    end_event(out);
}

static void tell_item_end(ag_buf *out, const ag_reply *r, const char *status)
{
    const ag_response *a = r->response;
    bool text = a->kind == AG_PART_TEXT;
    begin_text_event(out, r, text ? "response.output_text.done" : "response.reasoning_text.done");
    ag_buf_addz(out, ",\"text\":");
    add_str(out, ag_buf_str(&a->text));
    if (text) ag_buf_addz(out, ",\"logprobs\":[]");
    end_event(out);
    begin_text_event(out, r, "response.content_part.done");
    ag_buf_addz(out, ",\"part\":");
    add_content(out, a->kind, ag_buf_str(&a->text));
    end_event(out);
    begin_place(out, r, "response.output_item.done");
    ag_buf_addz(out, ",\"item\":");
    add_said_item(out, r, a->kind, &a->text, status);
    end_event(out);
}

static void end_item(ag_buf *out, const ag_reply *r, const char *status)
{
    ag_response *a = r->response;
    if (!a->in_item) return;
    a->in_item = false;
    if (a->items.n) ag_buf_addc(&a->items, ',');
    add_said_item(&a->items, r, a->kind, &a->text, status);
    if (out) tell_item_end(out, r, status);
}

static void take_text(ag_buf *out, const ag_reply *r, const ag_part *part)
{
    ag_response *a = r->response;
    bool text = part->kind == AG_PART_TEXT;
    if (a->in_item && a->kind != part->kind) end_item(out, r, "completed");
    if (!a->in_item) begin_item(out, r, part->kind);
    ag_buf_add(&a->text, part->text.p, part->text.n);
    if (out == NULL) return;
    begin_text_event(out, r, text ? "response.output_text.delta" : "response.reasoning_text.delta");
    ag_buf_addz(out, ",\"delta\":");
    add_str(out, part->text);
    if (text) ag_buf_addz(out, ",\"logprobs\":[]");
    end_event(out);
}

/* A call comes whole. */
static void take_call(ag_buf *out, const ag_reply *r, const ag_part *call)
{
    static const char *const said[][2] = {{"response.function_call_arguments.delta", "delta"},
                                          {"response.function_call_arguments.done", "arguments"}};
    ag_response *a = r->response;
    end_item(out, r, "completed");
    a->n_items++;
    if (a->items.n) ag_buf_addc(&a->items, ',');
    add_call_item(&a->items, r, call, true);
    if (out == NULL) return;
    begin_place(out, r, "response.output_item.added");
    ag_buf_addz(out, ",\"item\":");
    add_call_item(out, r, call, false);
    end_event(out);
    for (size_t i = 0; i < AG_ARRAY_LEN(said); i++) {
        begin_place(out, r, said[i][0]);
        ag_buf_addz(out, ",\"item_id\":");
        add_item_id(out, r, AG_PART_CALL);
        ag_buf_addf(out, ",\"%s\":", said[i][1]);
        add_str(out, call->text);
        end_event(out);
    }
    begin_place(out, r, "response.output_item.done");
    ag_buf_addz(out, ",\"item\":");
    add_call_item(out, r, call, true);
    end_event(out);
}

static void take_part(ag_buf *out, const ag_reply *r, const ag_part *part)
{
    if (part->kind == AG_PART_CALL) take_call(out, r, part);
    else if (part->text.n) take_text(out, r, part);
}

static void take_end(ag_buf *out, const ag_reply *r, const ag_reply_end *end)
{
    ag_response *a = r->response;
    bool cut = end->reason == AG_END_LENGTH;
    end_item(out, r, cut ? "incomplete" : "completed");
    a->status = cut ? AG_RESPONSE_INCOMPLETE : AG_RESPONSE_COMPLETED;
    a->timed_out = end->timed_out;
}

void ag_response_fail(const ag_reply *r, const ag_err *err)
{
    ag_response *a = r->response;
    end_item(NULL, r, "incomplete");
    a->status = err->code == AG_E_CANCEL_ASKED ? AG_RESPONSE_CANCELLED : AG_RESPONSE_FAILED;
    a->err = *err;
    ag_buf_reset(&a->whole);
}

/* What dialect.h asks for. */

static void begin(ag_buf *out AG_UNUSED, const ag_reply *r AG_UNUSED) {} /* the status comes first, and is known last */

static void choice(ag_buf *out AG_UNUSED, const ag_reply *r, uint32_t index AG_UNUSED, const ag_part *parts, uint32_t n,
                   ag_reply_logprobs *lp AG_UNUSED, const ag_reply_end *end)
{
    for (uint32_t i = 0; i < n; i++) take_part(NULL, r, &parts[i]);
    take_end(NULL, r, end);
}

static void begin_progress(ag_buf *out, const ag_reply *r)
{
    r->response->status = AG_RESPONSE_IN_PROGRESS;
    r->response->begun = true;
    tell_response(out, r, "response.in_progress");
}

static void open_choice(ag_buf *out, const ag_reply *r, ag_place *at AG_UNUSED, const ag_usage *usage AG_UNUSED)
{
    tell_response(out, r, "response.created");
    if (r->response->status == AG_RESPONSE_QUEUED) tell_response(out, r, "response.queued");
    else begin_progress(out, r);
}

static void chunk(ag_buf *out, const ag_reply *r, ag_place *at AG_UNUSED, const ag_part *part,
                  ag_reply_logprobs *lp AG_UNUSED, const ag_reply_end *end, const ag_usage *usage AG_UNUSED)
{
    if (!r->response->begun) begin_progress(out, r);
    if (part) take_part(out, r, part);
    if (end) take_end(out, r, end);
}

static void close_all(ag_buf *out, const ag_reply *r, const ag_usage *usage)
{
    bool cut = r->response->status == AG_RESPONSE_INCOMPLETE;
    begin_event(out, r->response, cut ? "response.incomplete" : "response.completed");
    ag_buf_addz(out, ",\"response\":");
    add_sealed(out, r, usage);
    end_event(out);
}

/* There is no event of its own for a response that was cancelled; its status says so. */
static void break_off(ag_buf *out, const ag_reply *r, const ag_err *err, ag_str request_id AG_UNUSED)
{
    ag_response_fail(r, err);
    begin_event(out, r->response, "response.failed");
    ag_buf_addz(out, ",\"response\":");
    add_sealed(out, r, NULL);
    end_event(out);
}

const ag_dialect ag_openai_responses = {.reply_id = "resp_",
                                        .call_id = "call_",
                                        .rates = AG_RATES,
                                        .type = AG_TYPE_JSON,
                                        .stream_type = AG_TYPE_EVENTS,
                                        .parse = ag_responses_parse,
                                        .begin = begin,
                                        .choice = choice,
                                        .end = add_sealed,
                                        .open = open_choice,
                                        .chunk = chunk,
                                        .close = close_all,
                                        .error = ag_openai_error,
                                        .break_off = break_off};
