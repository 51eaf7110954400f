#include "cli/load_answer.h"

#include <jansson.h>
#include <stdio.h>

#define ERROR_MAX 4096u
#define TOKENS_MAX 1000000000 /* a usage beyond this is nonsense */

static bool has_text(json_t *choice)
{
    json_t *delta = json_object_get(choice, "delta");
    json_t *texts[] = {json_object_get(choice, "text"), json_object_get(delta, "content"),
                       json_object_get(delta, "reasoning_content")};
    for (size_t i = 0; i < AG_ARRAY_LEN(texts); i++)
        if (json_string_length(texts[i])) return true;
    return false;
}

static void take_text(ag_answer *a)
{
    if (a->events++ == 0) {
        a->first_us = a->now_us;
        ag_hist_add(&a->all->ttft, a->now_us - a->due_us);
        ag_hist_add(&a->mine->ttft, a->now_us - a->due_us);
    } else {
        ag_hist_add(&a->all->gap, a->now_us - a->last_us);
        ag_hist_add(&a->mine->gap, a->now_us - a->last_us);
    }
    a->last_us = a->now_us;
}

static int64_t usage_of(json_t *usage, const char *name)
{
    json_t *v = json_object_get(usage, name);
    json_int_t n = json_is_integer(v) ? json_integer_value(v) : -1;
    return n >= 0 && n <= TOKENS_MAX ? n : -1;
}

static bool fail(ag_answer *a, ag_load_fail why, ag_str text)
{
    a->fail = why;
    ag_buf_reset(&a->error);
    ag_buf_add(&a->error, text.p, AG_MIN(text.n, (size_t)ERROR_MAX));
    return false;
}

static bool on_event(void *arg, ag_str data)
{
    ag_answer *a = arg;
    if (a->done) return true;
    if (ag_str_eqz(data, "[DONE]")) return a->done = true;
    json_t *event = json_loadb(data.p, data.n, 0, NULL);
    json_t *error = json_object_get(event, "error"), *choice;
    bool ok = json_is_object(event) && (error == NULL || json_is_null(error));
    if (!ok) {
        fail(a, json_is_object(event) ? AG_LOAD_ERROR : AG_LOAD_STREAM, data);
    } else {
        size_t i;
        bool text = false;
        json_array_foreach(json_object_get(event, "choices"), i, choice) {
            text = text || has_text(choice);
            a->cut = a->cut || json_is_string(json_object_get(json_object_get(choice, "autoglm"), "stopped_by"));
        }
        if (text) take_text(a);
        json_t *usage = json_object_get(event, "usage");
        if (json_is_object(usage)) {
            a->prompt = usage_of(usage, "prompt_tokens");
            a->tokens = usage_of(usage, "completion_tokens");
        }
    }
    json_decref(event);
    return ok;
}

void ag_answer_init(ag_answer *a)
{
    *a = (ag_answer){0};
    ag_sse_init(&a->sse, on_event, a);
    ag_buf_init(&a->error, ERROR_MAX);
}

void ag_answer_fini(ag_answer *a)
{
    ag_sse_fini(&a->sse);
    ag_buf_fini(&a->error);
}

void ag_answer_begin(ag_answer *a, uint64_t due_us, ag_load_stats *all, ag_load_stats *mine)
{
    ag_sse_reset(&a->sse);
    ag_buf_reset(&a->error);
    a->all = all;
    a->mine = mine;
    a->due_us = due_us;
    a->first_us = a->last_us = a->bytes = a->events = 0;
    a->prompt = a->tokens = -1;
    a->checked = a->stream = a->done = a->cut = false;
    a->fail = AG_LOAD_FAILS;
}

static bool is_stream(CURL *easy)
{
    long status = 0;
    const char *type = NULL;
    curl_easy_getinfo(easy, CURLINFO_RESPONSE_CODE, &status);
    curl_easy_getinfo(easy, CURLINFO_CONTENT_TYPE, &type);
    size_t n = type ? strcspn(type, "; \t") : 0;
    return status == 200 && ag_str_ieq((ag_str){type, n}, AG_STR("text/event-stream"));
}

bool ag_answer_take(ag_answer *a, CURL *easy, const char *p, size_t n)
{
    if (!a->checked) a->stream = is_stream(easy);
    a->checked = true;
    a->now_us = ag_now_us();
    a->bytes += n;
    if (a->bytes > AG_LOAD_ANSWER_MAX) return fail(a, AG_LOAD_LARGE, AG_STR("an answer is over 64 MiB"));
    if (a->stream)
        return ag_sse_feed(&a->sse, p, n) || a->fail != AG_LOAD_FAILS ||
               fail(a, AG_LOAD_STREAM, AG_STR("an event is over 256 KiB"));
    ag_buf_add(&a->error, p, AG_MIN(n, ERROR_MAX - a->error.n));
    return true;
}

/* The server's own sentence where there is one, else the beginning of what came; nothing that a terminal obeys. */
static void say(ag_answer *a, long status, const char *otherwise, ag_load_result *r)
{
    json_t *body = json_loadb(a->error.n ? a->error.p : "", a->error.n, 0, NULL);
    json_t *error = json_object_get(body, "error");
    const char *text = json_string_value(json_is_object(error) ? json_object_get(error, "message") : error);
    size_t n = text ? strlen(text) : a->error.n, at = 0;
    if (text == NULL) text = a->error.p;
    if (n == 0) n = strlen(text = otherwise);
    if (status && status != 200) at = (size_t)snprintf(r->last_error, sizeof r->last_error, "%ld: ", status);
    for (size_t i = 0; i < n && at + 1 < sizeof r->last_error; i++)
        if (text[i] >= 0x20 && text[i] < 0x7F) r->last_error[at++] = text[i];
    r->last_error[at] = 0;
    json_decref(body);
}

static void count_tokens(ag_answer *a, ag_load_result *r, ag_load_stats *mine)
{
    uint64_t tokens = a->tokens >= 0 ? (uint64_t)a->tokens : a->events,
             prompt = a->prompt >= 0 ? (uint64_t)a->prompt : 0;
    r->all.output_tokens += tokens;
    r->all.prompt_tokens += prompt;
    mine->output_tokens += tokens;
    mine->prompt_tokens += prompt;
}

static void count_whole(ag_answer *a, ag_load_result *r, ag_load_stats *mine)
{
    uint64_t tokens = a->tokens >= 0 ? (uint64_t)a->tokens : a->events, total = ag_now_us() - a->due_us;
    r->all.ok++;
    mine->ok++;
    r->all.cut += a->cut;
    mine->cut += a->cut;
    r->all.cut_tokens += a->cut ? tokens : 0;
    mine->cut_tokens += a->cut ? tokens : 0;
    r->no_usage += a->tokens < 0;
    ag_hist_add(&r->all.total, total);
    ag_hist_add(&mine->total, total);
    if (tokens < 2 || a->events < 2) return;
    ag_hist_add(&r->all.per_token, (a->last_us - a->first_us) / (tokens - 1));
    ag_hist_add(&mine->per_token, (a->last_us - a->first_us) / (tokens - 1));
}

static ag_load_fail kind_of(const ag_answer *a, CURLcode code)
{
    if (a->fail != AG_LOAD_FAILS) return a->fail;
    switch (code) {
    case CURLE_OK: return a->stream ? AG_LOAD_BROKEN : AG_LOAD_STREAM;
    case CURLE_OPERATION_TIMEDOUT: return AG_LOAD_TIMEOUT;
    case CURLE_COULDNT_RESOLVE_HOST:
    case CURLE_COULDNT_CONNECT:
    case CURLE_SSL_CONNECT_ERROR:
    case CURLE_PEER_FAILED_VERIFICATION: return AG_LOAD_CONNECT;
    case CURLE_UNSUPPORTED_PROTOCOL:
    case CURLE_WEIRD_SERVER_REPLY: return AG_LOAD_STREAM;
    default: return AG_LOAD_BROKEN;
    }
}

bool ag_answer_end(ag_answer *a, CURLcode code, long status, ag_load_result *r, ag_load_stats *mine)
{
    bool ok = code == CURLE_OK && status == 200 && a->done && a->fail == AG_LOAD_FAILS;
    if (a->stream) count_tokens(a, r, mine);
    if (ok) {
        count_whole(a, r, mine);
        return true;
    }
    r->all.failed++;
    mine->failed++;
    bool by_status =
        status >= 100 && status < (long)AG_ARRAY_LEN(r->status) && status != 200 && (code == CURLE_OK || a->checked);
    if (by_status) r->status[status]++;
    else r->fails[kind_of(a, code)]++;
    const char *otherwise = a->stream ? "the stream ended without [DONE]" : "no stream of events came";
    say(a, status, code != CURLE_OK ? curl_easy_strerror(code) : otherwise, r);
    return false;
}

void ag_answer_cut(ag_answer *a, ag_load_result *r, ag_load_stats *mine)
{
    r->all.unfinished++;
    mine->unfinished++;
    if (a->stream) count_tokens(a, r, mine);
}
