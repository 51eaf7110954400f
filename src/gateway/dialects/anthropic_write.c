#include "gateway/dialects/anthropic.h"

static void add_str(ag_buf *out, ag_str s) { ag_buf_add_json(out, s.p, s.n); }

/* Tokens found in the cache count apart from those that were not. */
static void add_usage(ag_buf *out, const ag_usage *u)
{
    ag_buf_addf(out,
                "\"usage\":{\"input_tokens\":%llu,\"cache_creation_input_tokens\":0,\"cache_read_input_tokens\":%llu,"
                "\"output_tokens\":%llu}",
                (unsigned long long)(u->prompt_tokens - u->cached_tokens), (unsigned long long)u->cached_tokens,
                (unsigned long long)u->completion_tokens);
}

static void add_stop(ag_buf *out, const ag_reply_end *end)
{
    static const char *const reason[] = {[AG_END_STOP] = "end_turn", [AG_END_LENGTH] = "max_tokens",
                                         [AG_END_CALLS] = "tool_use"};
    ag_buf_addf(out, "\"stop_reason\":\"%s\",\"stop_sequence\":", end->stop.p ? "stop_sequence" : reason[end->reason]);
    if (end->stop.p) add_str(out, end->stop);
    else ag_buf_addz(out, "null");
}

static void add_head(ag_buf *out, const ag_reply *r)
{
    ag_buf_addz(out, "{\"id\":");
    add_str(out, r->id);
    ag_buf_addz(out, ",\"type\":\"message\",\"role\":\"assistant\",\"model\":");
    add_str(out, r->model);
    ag_buf_addz(out, ",\"content\":[");
}

/* Whole answers. */

static void begin(ag_buf *out, const ag_reply *r) { add_head(out, r); }

/* A block, whole, or as it stands at the beginning of a stream. */
static void add_block(ag_buf *out, const ag_part *part, bool whole)
{
    ag_str text = whole ? part->text : (ag_str){0};
    switch (part->kind) {
    case AG_PART_TEXT:
        ag_buf_addz(out, "{\"type\":\"text\",\"text\":");
        add_str(out, text);
        break;
    case AG_PART_THINKING:
        ag_buf_addz(out, "{\"type\":\"thinking\",\"signature\":\"\",\"thinking\":");
        add_str(out, text);
        break;
    case AG_PART_CALL:
        ag_buf_addz(out, "{\"type\":\"tool_use\",\"id\":");
        add_str(out, ag_str_of(part->id));
        ag_buf_addz(out, ",\"name\":");
        add_str(out, part->name);
        ag_buf_addz(out, ",\"input\":");
        if (whole) ag_buf_add(out, text.p, text.n);
        else ag_buf_addz(out, "{}");
        break;
    }
    ag_buf_addc(out, '}');
}

static void choice(ag_buf *out, const ag_reply *r AG_UNUSED, uint32_t index AG_UNUSED, const ag_part *parts, uint32_t n,
                   ag_reply_logprobs *lp AG_UNUSED, const ag_reply_end *end)
{
    for (uint32_t i = 0; i < n; i++) {
        if (i) ag_buf_addc(out, ',');
        add_block(out, &parts[i], true);
    }
    ag_buf_addz(out, "],");
    add_stop(out, end);
    ag_buf_addc(out, ',');
}

static void end_all(ag_buf *out, const ag_reply *r AG_UNUSED, const ag_usage *usage)
{
    add_usage(out, usage);
    ag_buf_addc(out, '}');
}

/* Streams. */

static void begin_event(ag_buf *out, const char *name)
{
    ag_buf_addf(out, "event: %s\ndata: {\"type\":\"%s\"", name, name);
}

static void end_event(ag_buf *out) { ag_buf_addz(out, "}\n\n"); }

static void open_choice(ag_buf *out, const ag_reply *r, ag_place *at AG_UNUSED, const ag_usage *usage)
{
    begin_event(out, "message_start");
    ag_buf_addz(out, ",\"message\":");
    add_head(out, r);
    ag_buf_addz(out, "],\"stop_reason\":null,\"stop_sequence\":null,");
    add_usage(out, &(ag_usage){usage->prompt_tokens, 0, usage->cached_tokens});
    ag_buf_addc(out, '}');
    end_event(out);
    begin_event(out, "ping");
    end_event(out);
}

static void end_block(ag_buf *out, ag_place *at)
{
    if (!at->in_block) return;
    begin_event(out, "content_block_stop");
    ag_buf_addf(out, ",\"index\":%u", at->blocks - 1);
    end_event(out);
    at->in_block = false;
}

/* Each call is a block of its own; text goes on in the block that is there. */
static void begin_block(ag_buf *out, ag_place *at, const ag_part *part)
{
    if (at->in_block && at->block == part->kind && part->kind != AG_PART_CALL) return;
    end_block(out, at);
    begin_event(out, "content_block_start");
    ag_buf_addf(out, ",\"index\":%u,\"content_block\":", at->blocks++);
    add_block(out, part, false);
    end_event(out);
    at->in_block = true;
    at->block = part->kind;
}

static void chunk(ag_buf *out, const ag_reply *r AG_UNUSED, ag_place *at, const ag_part *part,
                  ag_reply_logprobs *lp AG_UNUSED, const ag_reply_end *end, const ag_usage *usage)
{
    static const char *const delta[] = {[AG_PART_TEXT] = "\"text_delta\",\"text\":",
                                        [AG_PART_THINKING] = "\"thinking_delta\",\"thinking\":",
                                        [AG_PART_CALL] = "\"input_json_delta\",\"partial_json\":"};
    if (part && part->text.n) {
        begin_block(out, at, part);
        begin_event(out, "content_block_delta");
        ag_buf_addf(out, ",\"index\":%u,\"delta\":{\"type\":%s", at->blocks - 1, delta[part->kind]);
        add_str(out, part->text);
        ag_buf_addc(out, '}');
        end_event(out);
        if (part->kind == AG_PART_CALL) at->calls++;
    }
    if (end == NULL) return;
    end_block(out, at);
    begin_event(out, "message_delta");
    ag_buf_addz(out, ",\"delta\":{");
    add_stop(out, end);
    ag_buf_addz(out, "},");
    add_usage(out, usage);
    end_event(out);
}

static void close_all(ag_buf *out, const ag_reply *r AG_UNUSED, const ag_usage *usage AG_UNUSED)
{
    begin_event(out, "message_stop");
    end_event(out);
}

/* Counts and errors. */

static void tokens(ag_buf *out, const ag_request *q AG_UNUSED, const ag_tokens_reply *t)
{
    ag_buf_addf(out, "{\"input_tokens\":%u}", t->n);
}

static const char *type_of(int http)
{
    static const struct { int http; const char *type;
    } types[] = {
        {401, "authentication_error"}, {403, "permission_error"}, {404, "not_found_error"},  {408, "timeout_error"},
        {413, "request_too_large"},    {429, "rate_limit_error"}, {503, "overloaded_error"}, {504, "timeout_error"},
    };
    for (size_t i = 0; i < AG_ARRAY_LEN(types); i++)
        if (types[i].http == http) return types[i].type;
    return http >= 500 ? "api_error" : "invalid_request_error";
}

static void add_error(ag_buf *out, const ag_err *err, ag_str request_id)
{
    ag_buf_addf(out, "\"error\":{\"type\":\"%s\",\"message\":", type_of(ag_err_find(err->code)->http));
    ag_buf_add_json(out, err->text, strlen(err->text));
    ag_buf_addz(out, "},\"request_id\":");
    if (request_id.n) add_str(out, request_id);
    else ag_buf_addz(out, "null");
}

static void error(ag_buf *out, const ag_err *err, ag_str request_id)
{
    ag_buf_addz(out, "{\"type\":\"error\",");
    add_error(out, err, request_id);
    ag_buf_addc(out, '}');
}

static void break_off(ag_buf *out, const ag_reply *r AG_UNUSED, const ag_err *err, ag_str request_id)
{
    begin_event(out, "error");
    ag_buf_addc(out, ',');
    add_error(out, err, request_id);
    end_event(out);
}

const ag_dialect ag_anthropic = {.reply_id = "msg_", .call_id = "toolu_", .id_header = "request-id",
                                 .rates = {"anthropic-ratelimit-requests-limit",
                                           "anthropic-ratelimit-requests-remaining",
                                           "anthropic-ratelimit-requests-reset", "anthropic-ratelimit-tokens-limit",
                                           "anthropic-ratelimit-tokens-remaining", "anthropic-ratelimit-tokens-reset"},
                                 .reset_is_moment = true,
                                 .type = AG_TYPE_JSON, .stream_type = AG_TYPE_EVENTS,
                                 .parse = ag_anthropic_parse, .begin = begin, .choice = choice, .end = end_all,
                                 .open = open_choice, .chunk = chunk, .close = close_all, .tokens = tokens,
                                 .error = error,
                                 .break_off = break_off};
