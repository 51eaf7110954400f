#include <stdio.h>

#include "base/mem.h"
#include "gateway/req.h"

#define READ_TOKENS 64                   /* taken from a generation at a time */
#define WRITE_PIECE (32u << 10)          /* never more at once, so that it fits out_bytes_max */

/* `rest` is what the model wrote behind the text that is shown: nothing, or what a stop string cut off. */
static ag_reply_end end_of(const ag_req *r, const ag_choice *c, ag_str rest)
{
    const ag_request *q = &r->request;
    ag_reply_end end = {.timed_out = c->timed_out};
    end.reason = c->state == AG_GEN_LENGTH ? AG_END_LENGTH : c->parts.n_calls ? AG_END_CALLS : AG_END_STOP;
    for (uint32_t i = 0; i < q->n_stops && end.reason == AG_END_STOP && end.stop.p == NULL; i++)
        if (ag_str_starts(rest, q->stops[i])) end.stop = q->stops[i];
    return end;
}

static ag_str piece_of(const void *tokenizer, int32_t id, bool special)
{
    return ag_tokenizer_piece(tokenizer, id, special);
}

static const ag_tokenizer *tokenizer_of(const ag_req *r) { return ag_engine_model(r->engine)->tokenizer; }

static void take_reused(ag_req *r, ag_choice *c)
{
    ag_req_prompt *p = &r->prompts[c->prompt];
    if (c->unbegun || c->reused_taken) return;
    c->reused_taken = true;
    uint32_t n = AG_MIN(ag_gen_reused(c->gen), p->n);
    if (p->counted++) n = AG_MIN(n, p->reused);
    r->usage.cached_tokens = r->usage.cached_tokens - p->reused + n;
    p->reused = n;
}

/* Those up to the one that ends the reasoning. */
static uint32_t thought_tokens(const ag_choice *c)
{
    static const char end[] = "</think>";
    ag_gen_token tokens[READ_TOKENS];
    uint32_t at = 0, n = 0, k;
    for (; n < c->read && (k = ag_gen_read(c->gen, n, tokens, AG_MIN(c->read - n, READ_TOKENS), NULL)) > 0; n += k) {
        for (uint32_t i = 0; i < k; i++) {
            ag_str piece = ag_gen_piece(c->gen, tokens[i].id);
            for (size_t b = 0; b < piece.n && at < sizeof end - 1; b++)
                at = piece.p[b] == end[at] ? at + 1 : piece.p[b] == end[0]; /* the first byte comes once in it */
            if (at == sizeof end - 1) return n + i + 1;
        }
    }
    return n;
}

void ag__count_end(ag_req *r, ag_choice *c)
{
    ag_gen_times t;
    ag_gen_times_get(c->gen, &t);
    ag_metrics *m = r->gw->metrics;
    static const ag_metric_finish finish[] = {[AG_GEN_STOPPED] = AG_FINISH_STOP, [AG_GEN_LENGTH] = AG_FINISH_LENGTH,
                                              [AG_GEN_CANCELLED] = AG_FINISH_ABORT, [AG_GEN_FAILED] = AG_FINISH_ERROR};
    r->finish = c->timed_out                ? "timeout"
                : c->state == AG_GEN_LENGTH ? "length"
                : c->parts.n_calls          ? "tool_calls"
                                            : "stop";
    take_reused(r, c);
    ag_metric_add(m, AG_M_FINISHED, finish[c->state], 1);
    if (!ag__caching_pays(r)) ag_metric_add(m, AG_M_CACHE_TOKENS, 0, c->read);
    if (t.admit_us >= t.submit_us && t.submit_us) ag_metric_observe_us(m, AG_M_QUEUE_TIME, 0, t.admit_us - t.submit_us);
    if (r->response.thought) r->response.reasoning_tokens = thought_tokens(c);
    if (!r->request.stream && t.first_us && (r->first_us == 0 || t.first_us < r->first_us)) r->first_us = t.first_us;
}

static void count_answer(ag_req *r, ag_choice *c)
{
    ag__count_end(r, c);
    ag_metric_observe_n(r->gw->metrics, AG_M_OUTPUT_SIZE, 0, c->read, 1);
}

static void end_choice(ag_req *r, ag_choice *c)
{
    AG_ASSERT(!c->ended && r->n_ended < r->n_choices);
    c->ended = true;
    r->n_ended++;
}

bool ag__any_begun(const ag_req *r)
{
    ag_gen_times t = {0};
    for (uint32_t i = 0; i < r->n_choices && t.admit_us == 0; i++)
        if (r->choices[i].gen) ag_gen_times_get(r->choices[i].gen, &t);
    return t.admit_us != 0;
}

static void take_deadline(ag_req *r, ag_choice *c)
{
    if (ag__any_begun(r)) { /* what is computed for others is not thrown away because one never began */
        c->state = AG_GEN_LENGTH;
        c->timed_out = c->unbegun = true;
        return;
    }
    ag_gen_times t;
    ag_gen_times_get(c->gen, &t);
    unsigned long long waited_ms = t.end_us > t.submit_us ? (t.end_us - t.submit_us) / 1000 : 0;
    if (t.end_us < ag__deadline_of(r))
        ag_err_set(&r->err, AG_E_DEADLINE,
                   "Its turn came after %llu ms in the queue, too late to be ready within the timeout of %u ms; "
                   "nothing was computed for it.",
                   waited_ms, r->timeout_ms);
    else
        ag_err_set(&r->err, AG_E_DEADLINE,
                   "The request's timeout of %u ms passed after %llu ms in the queue; nothing was computed for it.",
                   r->timeout_ms, waited_ms);
}

int ag__cancel_check(ag_req *r)
{
    if (!atomic_load(&r->cancel_asked)) return AG_OK;
    return ag_err_set(&r->err, AG_E_CANCEL_ASKED, "The request was cancelled by DELETE /v1/queue/%s.", r->id);
}

/* A generation that ended in an error, or was cancelled by somebody else: its caller, or the engine closing. */
static bool take_failure(ag_req *r, ag_choice *c)
{
    bool late = ag_gen_timed_out(c->gen), failed = c->state == AG_GEN_FAILED;
    if (failed) {
        ag_err err = {0};
        int rc = ag_gen_error(c->gen, &err);
        if (rc == AG_E_QUEUE_FULL) r->retry_us = ag_gen_retry_us(c->gen);
        if (rc == AG_E_DEADLINE) late = true;
        else ag_err_set(&r->err, rc ? rc : AG_E_INTERNAL, "%s", rc ? err.text : "The generation failed.");
    } else if (c->state == AG_GEN_CANCELLED) {
        if (ag__cancel_check(r) == AG_OK)
            ag_err_set(&r->err, AG_E_DRAINING, "The server ended this generation because it is shutting down.");
    }
    if (late && ag__embeds(r)) ag__embed_deadline(r); /* a part of an embedding is none */
    else if (late && failed) take_deadline(r, c);
    else c->timed_out = late;
    return r->err.code != AG_OK;
}

ag_next ag__step_generate(ag_req *r)
{
    ag__meter_output(r);
    if (r->tick) {
        r->tick = false;
        ag__queue_tell(r);
        r->step = AG_STEP_DELIVER;
        return AG_MORE;
    }
    for (uint32_t i = 0; i < r->n_choices; i++) {
        ag_choice *c = &r->choices[i];
        if (!c->dirty || c->ended) continue;
        if (r->request.stream) {
            r->step = AG_STEP_DELIVER;
            return AG_MORE;
        }
        c->dirty = false;
        ag_gen_read(c->gen, 0, NULL, 0, &c->state);
        if (!ag_gen_ended(c->state)) continue;
        if (take_failure(r, c))
            return r->detached && !r->warm ? ag__response_keep(r) : ag__req_refuse(r, r->err.code, "%s", "");
        end_choice(r, c);
    }
    if (r->n_ended == r->n_choices) {
        ag__caching_keep(r);
        r->step = r->warm ? AG_STEP_ACCOUNT : AG_STEP_DELIVER; /* the answer is there now, and nobody waits for it */
        return AG_MORE;
    }
    int rc = ag__choices_begin(r);
    return rc == AG_OK ? AG_PARKED : ag__req_refuse(r, rc, "The generation could not be started.");
}

/* Whole answers. */

static ag_reply_logprobs logprobs_of(const ag_req *r, const ag_choice *c, const ag_gen_token *tokens, uint32_t n,
                                     bool with_prompt)
{
    ag_reply_logprobs lp = {
        .part = {NULL, tokens}, .n = {0, n}, .piece = piece_of, .arg = tokenizer_of(r), .offset = c->offset};
    if (with_prompt && !c->unbegun && (lp.part[0] = ag_gen_prompt(c->gen))) lp.n[0] = r->prompts[c->prompt].n;
    return lp;
}

/* Mistral's templates take back no id but of nine letters and digits. */
static void name_call(const ag_req *r, ag_part *part)
{
    uint32_t short_id = ag_calls_row_of(r->gw->form.calls)->id_bytes;
    char hex[25];
    ag_random_hex(hex, 12);
    if (short_id) snprintf(part->id, sizeof part->id, "%.*s", (int)short_id, hex);
    else snprintf(part->id, sizeof part->id, "%s%s", r->dialect->call_id, hex);
}

static bool next_part(const ag_req *r, ag_choice *c, bool last, ag_part *part)
{
    if (!ag_parts_next(&c->parts, last, part)) return false;
    if (part->kind == AG_PART_CALL) name_call(r, part);
    return true;
}

/* All of a text's parts (ag_mem_free). NULL: no memory. */
static ag_part *parts_of(const ag_req *r, ag_choice *c, ag_str text, uint32_t *n)
{
    ag_part part, *all = ag_mem_array(1, sizeof *all);
    *n = 0;
    if (all == NULL || !ag_parts_add(&c->parts, text)) goto fail;
    while (next_part(r, c, true, &part)) {
        ag_part *before = *n ? &all[*n - 1] : NULL;
        if (before && part.kind != AG_PART_CALL && before->kind == part.kind &&
            before->text.p + before->text.n == part.text.p) {
            before->text.n += part.text.n;
            continue;
        }
        ag_part *more = ag_mem_resize(all, *n + 1, sizeof *all);
        if (more == NULL) goto fail;
        all = more;
        all[(*n)++] = part;
    }
    return all;
fail:
    ag_mem_free(all);
    return NULL;
}

static bool whole_choice(ag_req *r, uint32_t index, ag_buf *out)
{
    ag_choice *c = &r->choices[index];
    const ag_req_prompt *p = &r->prompts[c->prompt];
    ag_gen_token *tokens = NULL;
    ag_part *parts = NULL;
    uint32_t n_parts;
    bool ok = false;
    ag_buf text;
    ag_buf_init(&text, AG_REPLY_BYTES_MAX);
    if (r->request.echo) ag_buf_add(&text, p->echo.p, p->echo.n);
    size_t begin = text.n;
    uint32_t n = ag_gen_count(c->gen); /* it has ended */
    if ((tokens = ag_mem_array(AG_MAX(n, 1u), sizeof *tokens)) == NULL) goto out;
    c->read = ag_gen_read(c->gen, 0, tokens, n, NULL);
    for (uint32_t i = 0; i < c->read; i++) {
        ag_str piece = ag_gen_piece(c->gen, tokens[i].id);
        ag_buf_add(&text, piece.p, piece.n);
    }
    if (text.failed) goto out;
    size_t shown = AG_MIN(text.n, begin + ag_gen_text_bytes(c->gen));
    if ((parts = parts_of(r, c, (ag_str){text.p ? text.p : "", shown}, &n_parts)) == NULL) goto out;
    ag_reply_logprobs lp = logprobs_of(r, c, tokens, c->read, r->request.echo);
    ag_reply_end end = end_of(r, c, (ag_str){text.p + shown, text.n - shown});
    r->dialect->choice(out, &r->reply, index, parts, n_parts, r->request.top_logprobs >= 0 ? &lp : NULL, &end);
    r->usage.completion_tokens += c->read;
    count_answer(r, c);
    ok = !out->failed;
out:
    ag_mem_free(tokens);
    ag_mem_free(parts);
    ag_buf_fini(&text);
    return ok;
}

static bool write_whole(ag_req *r)
{
    r->dialect->begin(&r->out, &r->reply);
    bool ok = true;
    for (uint32_t i = 0; i < r->n_choices && ok; i++) ok = whole_choice(r, i, &r->out);
    r->dialect->end(&r->out, &r->reply, &r->usage);
    return ok && !r->out.failed;
}

static ag_next end_detached(ag_req *r)
{
    ag__choices_release(r);
    r->step = AG_STEP_ACCOUNT;
    return AG_MORE;
}

static ag_next deliver_whole(ag_req *r)
{
    if (r->detached && r->kept) return end_detached(r);
    if (!r->kept && !write_whole(r)) {
        ag_err_set(&r->err, AG_E_NOMEM, "The answer is larger than the server has memory for.");
        return r->detached ? ag__response_keep(r) : ag__req_refuse(r, r->err.code, "%s", "");
    }
    if (ag__response_pending(r)) return ag__response_keep(r);
    return ag__req_answer(r, 200, r->dialect->type, ag_buf_str(&r->out), NULL, 0);
}

/* Streams. */

static void begin_stream(ag_req *r)
{
    ag_http_header headers[AG_HEADERS_MAX];
    uint32_t n = ag__req_headers(r, headers);
    headers[n++] = (ag_http_header){AG_STR("content-type"), ag_str_of(r->dialect->stream_type)};
    if (!r->dialect->grpc) {
        headers[n++] = (ag_http_header){AG_STR("cache-control"), AG_STR("no-cache")};
        /* proxies must not collect tokens */
        headers[n++] = (ag_http_header){AG_STR("x-accel-buffering"), AG_STR("no")};
    }
    r->answered = r->streaming = true;
    r->status = 200;
    if (!r->gone) ag_http_begin(r->s, 200, headers, n);
}

static void begin_choice(ag_req *r, ag_choice *c)
{
    const ag_req_prompt *p = &r->prompts[c->prompt];
    c->begun = true;
    take_reused(r, c);
    r->dialect->open(&r->out, &r->reply, &c->place, &r->usage);
    if (!r->request.echo) return;
    ag_reply_logprobs lp = logprobs_of(r, c, NULL, 0, true);
    ag_part echo = {.kind = AG_PART_TEXT, .text = p->echo};
    r->dialect->chunk(&r->out, &r->reply, &c->place, &echo, r->request.top_logprobs >= 0 ? &lp : NULL, NULL, &r->usage);
    c->offset = lp.offset;
}

/* What a choice has to say now, a chunk for each part of up to READ_TOKENS tokens' text. */
static void stream_choice(ag_req *r, ag_choice *c)
{
    ag_gen_token tokens[READ_TOKENS];
    c->dirty = false;
    uint32_t most = ag__caching_pace(r, c, READ_TOKENS);
    if (most == 0) return;
    uint32_t k = ag_gen_read(c->gen, c->read, tokens, most, &c->state);
    bool last = ag_gen_ended(c->state) && k < most;
    c->dirty = k == most;
    if (k && r->first_us == 0) r->first_us = ag_now_us();
    c->read += k;
    r->usage.completion_tokens += k;
    if (last && take_failure(r, c)) {
        if (!r->streaming) return; /* a status says it better than an answer broken off */
        last = false;
    }
    if (k == 0 && !last) return;
    for (uint32_t i = 0; i < k; i++)
        if (!ag_text_add(&c->text, ag_gen_piece(c->gen, tokens[i].id))) {
            ag_err_set(&r->err, AG_E_NOMEM, "The server has no memory left for this answer.");
            return;
        }
    if (!c->begun) begin_choice(r, c);
    ag_str text = ag_text_ready(&c->text, last ? ag_gen_text_bytes(c->gen) : tokens[k - 1].text_safe, last);
    if (!ag_parts_add(&c->parts, text)) {
        ag_err_set(&r->err, AG_E_NOMEM, "The server has no memory left for this answer.");
        return;
    }
    ag_reply_logprobs lp = logprobs_of(r, c, tokens, k, false),
                      *told = r->request.top_logprobs >= 0 && k > 0 ? &lp : NULL;
    for (ag_part part; next_part(r, c, last, &part); told = NULL)
        r->dialect->chunk(&r->out, &r->reply, &c->place, &part, told, NULL, &r->usage);
    ag_reply_end end = end_of(r, c, (ag_str){text.p + text.n, c->text.held.n - text.n});
    if (told || last) r->dialect->chunk(&r->out, &r->reply, &c->place, NULL, told, last ? &end : NULL, &r->usage);
    c->offset = lp.offset;
    ag_text_pass(&c->text, text.n);
    if (!last) return;
    count_answer(r, c);
    end_choice(r, c);
}

static void on_writable(void *user, ag_http_stream *s AG_UNUSED)
{
    ag_req *r = user;
    r->blocked = false;
    ag__req_run(r);
}

/* true: all of r->out was taken, or nobody is there. false: wait; the tokens behind it wait in their generations. */
static bool flush_out(ag_req *r)
{
    size_t done = r->gone ? r->out.n : 0;
    bool taken = true;
    while (done < r->out.n && taken) {
        size_t n = AG_MIN(r->out.n - done, (size_t)WRITE_PIECE);
        taken = ag_http_write(r->s, r->out.p + done, n);
        done += taken ? n : 0;
    }
    ag_buf_consume(&r->out, done);
    return taken;
}

static ag_next wait_writable(ag_req *r)
{
    r->blocked = true;
    ag__meter_watch(r);
    ag_http_on_writable(r->s, on_writable);
    return AG_PARKED;
}

static ag_next end_stream(ag_req *r)
{
    if (r->dialect->grpc) ag__grpc_end(r);
    if (!r->gone) ag_http_end(r->s);
    ag__choices_release(r);
    r->step = AG_STEP_ACCOUNT;
    return AG_MORE;
}

static ag_next abort_stream(ag_req *r)
{
    ag_err_set(&r->err, AG_E_NOMEM, "The server has no memory left for this answer.");
    if (!r->streaming) return ag__req_refuse(r, r->err.code, "%s", "");
    if (!r->gone) ag_http_abort(r->s);
    ag__choices_release(r);
    r->step = AG_STEP_ACCOUNT;
    return AG_MORE;
}

/* What the choices have to say, up to about as much as may wait for the client; true: there was something. */
static bool collect(ag_req *r)
{
    bool news = false;
    for (uint32_t i = 0; i < r->n_choices && r->err.code == AG_OK && r->out.n < r->gw->out_bytes_max; i++) {
        if (!r->choices[i].dirty || r->choices[i].ended) continue;
        news = true;
        stream_choice(r, &r->choices[i]);
    }
    return news;
}

/* All is told, or nothing more will be: after the first token, or where the stream began at once, an error can only be
 * an event. */
static ag_next close_stream(ag_req *r)
{
    bool failed = r->err.code != AG_OK;
    if (failed && !r->streaming) return ag__req_refuse(r, r->err.code, "%s", "");
    if (!failed) ag__caching_keep(r);
    if (ag__response_pending(r)) return ag__response_keep(r);
    if (failed) ag__choices_release(r);
    if (failed) r->dialect->break_off(&r->out, &r->reply, &r->err, ag_str_of(r->id));
    else r->dialect->close(&r->out, &r->reply, &r->usage);
    r->ending = true;
    return AG_MORE;
}

static ag_next deliver_stream(ag_req *r)
{
    if (r->blocked) return AG_PARKED;
    for (;;) {
        if (r->out.failed) return abort_stream(r);
        if ((r->out.n || r->request.position_events) && !r->streaming) begin_stream(r);
        if (!flush_out(r)) return wait_writable(r);
        if (r->ending) return end_stream(r);
        if (r->streaming && !r->gone && ag_http_pending(r->s) > r->gw->out_bytes_max / 2) return wait_writable(r);
        bool news = r->err.code == AG_OK && collect(r);
        if (r->err.code != AG_OK || r->n_ended == r->n_choices) return close_stream(r);
        if (!news) break;
    }
    r->step = AG_STEP_GENERATE;
    return AG_MORE;
}

ag_next ag__step_deliver(ag_req *r)
{
    if (ag__embeds(r)) return ag__embed_deliver(r);
    return r->request.stream ? deliver_stream(r) : deliver_whole(r);
}
