#include <stdio.h>

#include "base/mem.h"
#include "gateway/req.h"

/* A rendered conversation; the tokenizer takes no more either. */
#define PROMPT_BYTES_MAX AG_TOKENIZER_TEXT_MAX

void ag__prompts_free(ag_req *r)
{
    for (uint32_t i = 0; r->prompts && i < ag_request_prompts(&r->request); i++) {
        ag_mem_free(r->prompts[i].ids);
        ag_buf_fini(&r->prompts[i].echo_text);
    }
    ag_mem_free(r->prompts);
    r->prompts = NULL;
}

static int no_memory(ag_err *err)
{
    return ag_err_set(err, AG_E_NOMEM, "The server has no memory left for this request.");
}

static int check_model(ag_req *r)
{
    if (r->request.model.p == NULL || ag__model_is_ours(r, r->request.model)) return ag__model_check(r, &r->err);
    return ag_request_fail(&r->err, AG_E_MODEL_NOT_FOUND, "model",
                           "There is no model '%.*s' here; this server has '%s'.",
                           (int)AG_MIN(r->request.model.n, 100u), r->request.model.p, r->gw->model_name);
}

/* Whether the prompt ends in the middle of reasoning that the template began. */
static bool opens_thinking(const ag_model *m, const ag_req_prompt *p)
{
    static const ag_str word = {"<think>", 7};
    char end[64];
    size_t n = 0;
    for (uint32_t i = p->n - AG_MIN(p->n, 16u); i < p->n; i++) {
        ag_str piece = ag_tokenizer_piece(m->tokenizer, p->ids[i], true);
        if (piece.n > sizeof end - n) n = 0;
        if (piece.n > sizeof end) continue;
        memcpy(end + n, piece.p ? piece.p : "", piece.n);
        n += piece.n;
    }
    while (n && (end[n - 1] == '\n' || end[n - 1] == ' ')) n--;
    return n >= word.n && memcmp(end + n - word.n, word.p, word.n) == 0;
}

/* What such a call goes on with where the model may choose: each name, and what stands between it and the arguments. */
static int add_heads(ag_req *r, const char *tail)
{
    const json_t *tools = r->request.tools;
    for (size_t i = 0; i < json_array_size(tools); i++) {
        const json_t *v = json_object_get(json_object_get(json_array_get(tools, i), "function"), "name");
        ag_str name = {json_string_value(v), json_string_length(v)};
        bool plain = name.n >= 1 && name.n <= AG_TOOL_NAME_MAX;
        for (size_t k = 0; k < name.n && plain; k++)
            plain = name.p[k] > ' ' && name.p[k] != '"' && name.p[k] != '\\' && name.p[k] != 127;
        if (!plain)
            return ag_request_fail(&r->err, AG_E_PARAM, "tools",
                                   "That some tool is called can be enforced where each has a name of 1 to %u printable ASCII "
                                   "characters without blanks, quotes and backslashes; 'tools[%zu]' has not.",
                                   AG_TOOL_NAME_MAX, i);
        ag_buf_add(&r->heads, name.p, name.n);
        ag_buf_add(&r->heads, tail, strlen(tail) + 1);
    }
    return ag_buf_addc(&r->heads, 0) && !r->heads.failed ? AG_OK : no_memory(&r->err);
}

/* What the prompt ends with beyond the template's own: a call up to its arguments, or, where the model may choose, its
 * name; ahead of it, as of any JSON object, reasoning that the template has begun is ended, as templates themselves do
 * it. */
static int add_tail(ag_req *r, ag_buf *tail)
{
    const ag_request *q = &r->request;
    if (r->thinking) ag_buf_addz(tail, "\n</think>\n\n");
    r->thinking = false;
    if (!ag_request_calls(q)) return AG_OK;
    const char *forced = r->gw->form.calls == AG_CALLS_NONE ? NULL : ag_calls_row_of(r->gw->form.calls)->forced;
    if (forced == NULL)
        return ag_request_fail(&r->err, AG_E_UNSUPPORTED, "tool_choice",
                               "A call of '%.100s' cannot be enforced with the form in which this model writes calls; "
                               "\"auto\" and \"none\" can.",
                               q->forced_tool.p ? q->forced_tool.p : "any tool");
    const char *at = strstr(forced, "%s");
    ag_buf_add(tail, forced, (size_t)(at - forced));
    if (q->forced_tool.p == NULL) return add_heads(r, at + 2);
    ag_buf_add(tail, q->forced_tool.p, q->forced_tool.n);
    ag_buf_addz(tail, at + 2);
    return AG_OK;
}

/* The tools as a first message, without words of its own. */
static bool put_tools_first(const ag_request *q)
{
    json_t *first = json_pack("{s:s,s:O}", "role", "system", "tools", q->tools);
    bool ok = first && json_array_insert(json_object_get(q->vars, "messages"), 0, first) == 0;
    json_decref(first);
    return ok;
}

static int tokens_of_chat(ag_req *r, const ag_model *m)
{
    const ag_request *q = &r->request;
    ag_req_prompt *p = &r->prompts[0];
    if (m->chat == NULL && m->chat_error[0])
        return ag_err_set(&r->err, AG_E_TEMPLATE,
                          "The chat template of the model '%s' cannot be used (%s); use /v1/completions, or serve it "
                          "with --chat-template FILE.",
                          r->gw->model_name, m->chat_error);
    if (m->chat == NULL)
        return ag_err_set(&r->err, AG_E_UNSUPPORTED,
                          "The model '%s' has no chat template; use /v1/completions, or serve it with "
                          "--chat-template FILE.",
                          r->gw->model_name);
    if (r->gw->form.tools_in_message && q->tools && !put_tools_first(q)) return no_memory(&r->err);
    int rc = ag_model_prompt(m, q->vars, q->prefill, q->parse_special, &p->ids, &p->n, &r->err);
    if (rc != AG_OK) return rc;
    r->thinking = r->gw->form.thinks && opens_thinking(m, p);
    if (!ag_request_calls(q) && !(q->json && r->thinking)) return rc;
    ag_buf tail;
    ag_buf_init(&tail, PROMPT_BYTES_MAX);
    rc = add_tail(r, &tail);
    ag_mem_free(p->ids);
    p->ids = NULL;
    if (rc == AG_OK && tail.failed) rc = no_memory(&r->err);
    if (rc == AG_OK) rc = ag_model_prompt(m, q->vars, ag_buf_str(&tail), q->parse_special, &p->ids, &p->n, &r->err);
    ag_buf_fini(&tail);
    return rc;
}

static int tokens_of_text(ag_req *r, const ag_model *m, const ag_prompt *p, ag_req_prompt *to)
{
    if (p->ids == NULL) {
        to->echo = p->text;
        return ag_tokenizer_encode(m->tokenizer, p->text.p, p->text.n, r->request.add_special, r->request.parse_special,
                                   &to->ids, &to->n, &r->err);
    }
    if ((to->ids = ag_mem_array(p->n_ids, sizeof *to->ids)) == NULL) return no_memory(&r->err);
    memcpy(to->ids, p->ids, p->n_ids * sizeof *to->ids);
    to->n = p->n_ids;
    if (!r->request.echo && r->request.kind != AG_REQUEST_DETOKENIZE) return AG_OK;
    if (!ag_tokenizer_decode(m->tokenizer, p->ids, p->n_ids, true, &to->echo_text)) return no_memory(&r->err);
    to->echo = ag_buf_str(&to->echo_text);
    return AG_OK;
}

const char *ag__ctx_holder(const ag_req *r)
{
    bool all = ag_engine_ctx_max(r->engine) >= ag_engine_model(r->engine)->hp.ctx_train;
    return all ? "context" : "cache of this server (--ctx)";
}

/* max_tokens as it will be, and whether all of it fits the context. */
static int check_length(ag_req *r, ag_req_prompt *p)
{
    const ag_request *q = &r->request;
    const char *field = q->kind == AG_REQUEST_COMPLETION ? "prompt"
                        : q->kind == AG_REQUEST_RESPONSE ? "input"
                                                         : "messages";
    const char *length = ag_request_length_field(q);
    uint32_t ctx = ag_engine_ctx_max(r->engine), ceiling = r->live->max_tokens_max;
    if (p->n == 0)
        return ag_request_fail(&r->err, AG_E_PARAM, field,
                               "'%s' comes to no tokens at all; there is nothing to continue.", field);
    uint32_t wanted = r->request.max_tokens;
    if (p->n >= ctx && wanted != 0)
        return ag_request_fail(&r->err, AG_E_CTX_LENGTH, field,
                               "'%s' comes to %u tokens; the %s holds %u, and the answer needs room too.", field,
                               p->n, ag__ctx_holder(r), ctx);
    if (wanted != AG_REQUEST_UNSET && ceiling && wanted > ceiling)
        return ag_request_fail(&r->err, AG_E_PARAM, length, "'%s' is %u; this server allows %u.", length, wanted,
                               ceiling);
    if (wanted == AG_REQUEST_UNSET) {
        wanted = ctx - p->n;
        if (ceiling) wanted = AG_MIN(wanted, ceiling);
    }
    if ((uint64_t)p->n + wanted > ctx)
        return ag_request_fail(&r->err, AG_E_CTX_LENGTH, field,
                               "'%s' comes to %u tokens and '%s' is %u; together they may be %u, "
                               "as many as the %s holds.",
                               field, p->n, length, wanted, ctx, ag__ctx_holder(r));
    p->max_tokens = wanted;
    return AG_OK;
}

/* The body's word counts before the headers', which programs set for all that they send; a deadline of gRPC's can only
 * be brought closer. */
static int check_urgency(ag_req *r)
{
    const ag_request *q = &r->request;
    if (q->priority != AG_REQUEST_UNSET) r->band = q->priority;
    if (r->band == AG_REQUEST_UNSET) r->band = AG_MAX((uint32_t)AG_BAND_DEFAULT, ag__band_min(r));
    if (q->timeout_ms != AG_REQUEST_UNSET)
        r->timeout_ms = r->dialect->grpc && r->timeout_ms ? AG_MIN(r->timeout_ms, q->timeout_ms) : q->timeout_ms;
    return ag__band_check(r, r->band, &r->err);
}

void ag__reply_name(ag_req *r)
{
    ag_random_hex(r->reply_id + snprintf(r->reply_id, 16, "%s", r->dialect->reply_id), 12);
}

static ag_str piece_of(const void *tokenizer, int32_t id, bool special)
{
    return ag_tokenizer_piece(tokenizer, id, special);
}

/* What needs no generation is answered by what was prepared: written here, perhaps by a worker, since it may be
 * long. */
static int write_answer(ag_req *r, const ag_model *m)
{
    const ag_req_prompt *p = &r->prompts[0];
    const ag_tokens_reply t = {p->ids, p->n, ag_engine_ctx_max(r->engine), p->echo, piece_of, m->tokenizer};
    r->dialect->tokens(&r->out, &r->request, &t);
    return r->out.failed ? no_memory(&r->err) : AG_OK;
}

static int prepare(ag_req *r)
{
    const ag_model *m = ag_engine_model(r->engine);
    ag_request *q = &r->request;
    int rc = r->dialect->parse(q, r->body.p, r->body.n, &r->err);
    if (r->warm) {
        q->stream = q->background = q->store = false;
        r->band = AG_BANDS - 1;
    } else if (rc == AG_OK) {
        rc = check_urgency(r);
    }
    if (rc == AG_OK) rc = check_model(r);
    if (rc == AG_OK) rc = ag_request_check(q, ag_tokenizer_size(m->tokenizer), &r->err);
    if (rc == AG_OK && q->kind == AG_REQUEST_RESPONSE) rc = ag__response_prepare(r);
    if (rc != AG_OK) return rc;
    uint32_t n_prompts = ag_request_prompts(q);
    if (!ag__embeds(r) && (uint64_t)n_prompts * q->n > r->live->generations_max)
        return ag_request_fail(&r->err, AG_E_PARAM, "n",
                               "This request asks for %u answers; this server gives %u at once.", n_prompts * q->n,
                               r->live->generations_max);
    r->prompts = ag_mem_array(n_prompts, sizeof *r->prompts);
    if (r->prompts == NULL) return no_memory(&r->err);
    for (uint32_t i = 0; i < n_prompts; i++) ag_buf_init(&r->prompts[i].echo_text, PROMPT_BYTES_MAX);
    if (ag_request_is_chat(q)) rc = tokens_of_chat(r, m);
    for (uint32_t i = 0; i < q->n_prompts && rc == AG_OK; i++)
        rc = tokens_of_text(r, m, &q->prompts[i], &r->prompts[i]);
    if (rc == AG_OK && !ag_request_generates(q->kind)) return write_answer(r, m);
    if (rc == AG_OK && ag__embeds(r)) rc = ag__embed_check(r);
    for (uint32_t i = 0; i < n_prompts && rc == AG_OK && !ag__embeds(r); i++)
        rc = check_length(r, &r->prompts[i]);
    if (rc == AG_OK) ag__caching_key(r);
    return rc;
}

static void prepare_work(void *arg)
{
    ag_req *r = arg;
    int rc = prepare(r);
    if (rc != AG_OK) ag_err_set(&r->err, rc, "The request could not be prepared."); /* when nobody said it better */
}

/* A body that is no JSON (gRPC's) could not stand on a line: of such a request there is its hash. */
static void note_asked(const ag_req *r)
{
    ag_history_record rec = {.time_ms = ag_wall_us() / 1000,
                             .key = r->caching.key,
                             .route = ag_str_of(r->route->id),
                             .tenant = ag_str_of(r->tenant),
                             .model = ag_str_of(r->gw->model_name),
                             .share = ag__req_share(r)};
    if (!r->dialect->grpc) rec.body = ag_buf_str(&r->body);
    ag_history_add(r->gw->history, &rec);
}

ag_next ag__step_prepare(ag_req *r)
{
    /* What is kept of responses is on the disk; how long a packed message is in truth is not known. */
    bool quick = r->body.n <= AG_INLINE_BODY_MAX && r->request.kind != AG_REQUEST_RESPONSE && !r->request.wire.gzip;
    if (!ag__req_work(r, quick, prepare_work)) return AG_PARKED;
    if (r->gw->history && r->caching.keeps && !r->warm && r->err.code == AG_OK) note_asked(r);
    ag_buf_fini(&r->body);
    if (r->err.code != AG_OK) return ag__req_refuse(r, r->err.code, "%s", "");
    if (!ag_request_generates(r->request.kind))
        return ag__req_answer(r, 200, r->dialect->type, ag_buf_str(&r->out), NULL, 0);
    r->step = AG_STEP_LOOKUP;
    return AG_MORE;
}

/* Generations. */

void ag__choices_release(ag_req *r)
{
    ag__meter_settle(r);
    if (r->choices) ag_ids_remove(r->gw->ids, &r->ids); /* before what it leads to goes */
    ag__response_unlist(r);
    ag__caching_leave(r);
    for (uint32_t i = 0; r->choices && i < r->n_choices; i++) {
        ag_choice *c = &r->choices[i];
        if (c->number) ag_slots_remove(&r->loop->slots, c->number);
        if (c->gen) {
            if (!c->ended) ag_metric_add(r->gw->metrics, AG_M_FINISHED, AG_FINISH_ABORT, 1);
            ag_gen_cancel(c->gen); /* harmless when it has ended */
            ag_gen_put(c->gen);
        }
        ag_text_fini(&c->text);
        ag_parts_fini(&c->parts);
    }
    ag_mem_free(r->choices);
    r->choices = NULL;
    r->n_choices = r->n_ended = 0;
    r->n_begun = 0;
}

uint64_t ag__deadline_of(const ag_req *r)
{
    return r->timeout_ms ? r->head_us + (uint64_t)r->timeout_ms * 1000 : 0;
}

void ag__prompt_forget(ag_req_prompt *p)
{
    ag_mem_free(p->ids);
    p->ids = NULL;
}

void ag__gen_spec(const ag_req *r, uint32_t index, ag_gen_spec *out)
{
    const ag_request *q = &r->request;
    const ag_req_prompt *p = &r->prompts[index / q->n];
    *out = (ag_gen_spec){
        .prompt = p->ids,
        .n_prompt = p->n,
        .max_tokens = p->max_tokens,
        .embed = ag__embeds(r),
        .min_tokens = q->min_tokens,
        .ignore_eos = q->ignore_eos,
        .stop_tokens = q->stop_tokens,
        .n_stop_tokens = q->n_stop_tokens,
        .stops = q->stops,
        .n_stops = q->n_stops,
        .shown = r->gw->shown,
        .n_shown = ag_request_is_chat(q) ? r->gw->n_shown : 0,
        .bias = q->bias,
        .n_bias = q->n_bias,
        .sampling = q->sampling,
        .json = q->json || ag_request_calls(q),
        .json_heads = r->heads.p,
        .top_logprobs = q->top_logprobs,
        .prompt_logprobs = q->echo && q->top_logprobs >= 0,
        .tenant = ag_str_of(r->tenant),
        .weight = ag__weight_of(r),
        .band = (uint8_t)(r->moved ? r->moved - 1 : r->band),
        .share_group = ag__req_share(r),
        .share_all = r->live->share_prefixes,
        .deadline_us = ag__deadline_of(r),
    };
    out->sampling.choice = index % q->n;
}

static int create_one(ag_req *r, uint32_t index)
{
    const ag_request *q = &r->request;
    ag_choice *c = &r->choices[index];
    ag_gen_spec spec;
    c->prompt = index / q->n;
    if ((c->number = ag_slots_add(&r->loop->slots, r, index)) == NULL) return no_memory(&r->err);
    ag__gen_spec(r, index, &spec);
    spec.notify = ag_http_loop_mbox(r->loop->loop);
    spec.msg = c->number;
    spec.begun_with = atomic_load(&r->n_begun) > 0;
    int rc = ag_gen_create(&c->gen, r->engine, &spec, &r->err);
    if (rc == AG_OK && spec.sampling.choice + 1 == q->n && !ag__embeds(r))
        ag__prompt_forget(&r->prompts[c->prompt]);
    return rc;
}

/* An estimate that says no is our doing (503), a time that has passed is over (504). */
int ag__gens_submit(ag_req *r, ag_gen *const *gens, uint32_t n)
{
    int rc = ag_gen_submit_all(gens, n, &r->retry_us, &r->err);
    if (rc == AG_E_DEADLINE && ag_now_us() < ag__deadline_of(r)) rc = r->err.code = AG_E_UNREACHABLE;
    return rc;
}

static int submit(ag_req *r, uint32_t from, uint32_t n)
{
    ag_gen **gens = ag_mem_array(n, sizeof *gens);
    if (gens == NULL) return no_memory(&r->err);
    for (uint32_t i = 0; i < n; i++) gens[i] = r->choices[from + i].gen;
    int rc = ag__gens_submit(r, gens, n);
    ag_mem_free((void *)gens);
    return rc;
}

/* The queue is full, and what this request has there will make room. */
static bool comes_later(ag_req *r, int rc)
{
    ag_choice *c = &r->choices[r->n_begun];
    if (rc != AG_E_QUEUE_FULL || !ag__embeds(r) || r->n_begun == r->n_ended) return false;
    ag_slots_remove(&r->loop->slots, c->number);
    c->number = NULL;
    ag_gen_put(c->gen);
    c->gen = NULL;
    ag_err_clear(&r->err);
    r->retry_us = 0;
    return true;
}

/* Answers come all at once. Of embeddings there may be more than may be at once; they come one by one. */
int ag__choices_begin(ag_req *r)
{
    bool embeds = ag__embeds(r);
    if (r->n_begun == 0 && ag__caching_coalesces(r)) return ag__caching_begin(r);
    while (r->n_begun < r->n_choices && r->n_begun - r->n_ended < r->live->generations_max) {
        uint32_t from = r->n_begun, n = embeds ? 1 : r->n_choices - from;
        int rc = ag__cancel_check(r);
        if (rc == AG_OK && r->n_ended && r->timeout_ms && ag_now_us() >= ag__deadline_of(r)) rc = ag__embed_deadline(r);
        for (uint32_t i = 0; i < n && rc == AG_OK; i++) rc = create_one(r, from + i);
        if (rc == AG_OK) rc = submit(r, from, n);
        if (comes_later(r, rc)) return AG_OK;
        if (rc != AG_OK) return rc;
        if (embeds) ag__prompt_forget(&r->prompts[from]);
        atomic_fetch_add(&r->n_begun, n);
    }
    return AG_OK;
}

static void count_usage(ag_req *r)
{
    for (uint32_t i = 0; i < ag_request_prompts(&r->request); i++) {
        r->usage.prompt_tokens += r->prompts[i].n;
        ag_metric_observe_n(r->gw->metrics, AG_M_PROMPT_SIZE, 0, r->prompts[i].n, r->request.n);
    }
}

static void parts_init(const ag_req *r, ag_parts *p)
{
    ag_form form = ag_request_is_chat(&r->request) ? r->gw->form : (ag_form){0};
    ag_parts_init(p, form, r->request.tools, r->thinking, !r->request.parallel_calls);
    if (ag_request_calls(&r->request)) ag_parts_force(p, r->request.forced_tool);
}

static int choices_make(ag_req *r)
{
    const ag_request *q = &r->request;
    uint32_t n = ag_request_prompts(q) * q->n;
    r->choices = ag_mem_array(n, sizeof *r->choices);
    if (r->choices == NULL) return no_memory(&r->err);
    r->n_choices = n;
    for (uint32_t i = 0; i < n; i++) {
        ag_text_init(&r->choices[i].text);
        parts_init(r, &r->choices[i].parts);
        r->choices[i].place.index = i;
    }
    return AG_OK;
}

/* What there is to compute counts in the limits first, which may have to be waited for. */
static int choices_compute(ag_req *r)
{
    uint64_t prompt_tokens = 0;
    for (uint32_t i = 0; i < ag_request_prompts(&r->request); i++) prompt_tokens += r->prompts[i].n;
    if (!r->warm) ag_warm_yield(r->gw->warm);
    int rc = ag__meter_prompt(r, prompt_tokens);
    return rc == AG_OK && !r->asking ? ag__choices_begin(r) : rc;
}

ag_next ag__step_admit(ag_req *r)
{
    if (r->asking) return AG_PARKED;
    ag_request *q = &r->request;
    if (!q->seed_set) ag_random_bytes(&q->sampling.seed, sizeof q->sampling.seed);
    if (r->timeout_ms && ag_now_us() >= ag__deadline_of(r))
        return ag__req_refuse(r, AG_E_DEADLINE,
                              "The request's timeout of %u ms had passed when its body was read and prepared.",
                              r->timeout_ms);
    if (q->background && !r->counted && ag__response_enter(r) != AG_OK) return ag__req_refuse(r, r->err.code, "%s", "");
    if (r->choices == NULL && choices_make(r) != AG_OK) return ag__req_refuse(r, r->err.code, "%s", "");
    int rc = ag__caching_take(r) ? AG_OK : choices_compute(r);
    if (r->asking) return AG_PARKED;
    if (rc != AG_OK) return ag__req_refuse(r, rc, "The generation could not be started.");
    count_usage(r);
    if (r->reply_id[0] == 0) ag__reply_name(r);
    r->reply = (ag_reply){.kind = q->kind, .id = ag_str_of(r->reply_id), .created = (int64_t)(ag_wall_us() / 1000000),
                          .model = ag_str_of(r->gw->model_name), .with_usage = q->stream && q->include_usage,
                          .base64 = q->base64,
                          .n_choices = r->n_choices,
                          .wire = q->wire,
                          .response = &r->response};
    ag__queue_watch(r);
    r->step = AG_STEP_GENERATE;
    if (q->background) ag__response_list(r);
    return AG_MORE;
}
