#include "engine/gen.h"

#include <math.h>
#include <stdio.h>

#include "base/mem.h"
#include "engine/engine_inner.h"

static int check_number(ag_err *err, const char *name, double v, double min, double max, bool min_open)
{
    if (v >= min && v <= max && !(min_open && v == min)) return AG_OK; /* NAN fails */
    return ag_err_set(err, AG_E_PARAM, "%s is %g; it should be %s %g and at most %g", name, v,
                      min_open ? "above" : "at least", min, max);
}

static int check_sampling(const ag_sampling *s, ag_err *err)
{
    int rc;
    if ((rc = check_number(err, "temperature", s->temperature, 0, 10, false)) ||
        (rc = check_number(err, "top_p", s->top_p, 0, 1, true)) ||
        (rc = check_number(err, "min_p", s->min_p, 0, 1, false)) ||
        (rc = check_number(err, "typical_p", s->typical_p, 0, 1, true)) ||
        (rc = check_number(err, "repetition_penalty", s->repetition_penalty, 0, 10, true)) ||
        (rc = check_number(err, "frequency_penalty", s->frequency_penalty, -2, 2, false)) ||
        (rc = check_number(err, "presence_penalty", s->presence_penalty, -2, 2, false)))
        return rc;
    return AG_OK;
}

static void json_begin(ag_json *j, const char *heads)
{
    if (heads) ag_json_init_behind(j, heads);
    else ag_json_init(j);
}

static uint32_t json_cost(const ag_gen_spec *s)
{
    ag_json j;
    json_begin(&j, s->json_heads);
    return ag_json_cost(&j);
}

static size_t heads_bytes(const char *heads)
{
    size_t n = 0;
    while (heads && heads[n]) n += strlen(heads + n) + 1;
    return n + 1;
}

static int check_embed(const ag_engine *e, const ag_gen_spec *s, ag_err *err)
{
    const ag_hparams *hp = &ag_engine_model(e)->hp;
    if (s->max_tokens > 0 || s->prompt_logprobs)
        return ag_err_set(err, AG_E_PARAM,
                          "an embedding has no answer and no log probabilities: max_tokens should be 0");
    if (hp->pooling == AG_POOLING_MEAN || hp->pooling == AG_POOLING_LAST) return AG_OK;
    return ag_err_set(err, AG_E_UNSUPPORTED,
                      "the model's file asks for embeddings of pooling_type %u; known are %d, the mean of the tokens, and %d, the last "
                      "token", hp->pooling, AG_POOLING_MEAN, AG_POOLING_LAST);
}

static int check_spec(const ag_engine *e, const ag_gen_spec *s, ag_err *err)
{
    uint32_t ctx = ag_engine_ctx_max(e), vocab = ag_engine_model(e)->hp.vocab;
    if (s->n_prompt == 0) return ag_err_set(err, AG_E_PARAM, "the prompt is empty; it needs at least one token");
    if (s->max_tokens == 0 && !s->prompt_logprobs && !s->embed)
        return ag_err_set(err, AG_E_PARAM, "max_tokens is 0; it should be at least 1");
    if (s->json && s->max_tokens < json_cost(s))
        return ag_err_set(err, AG_E_PARAM, "max_tokens is %u; %s takes at least %u", s->max_tokens,
                          s->json_heads ? "such a call" : "a JSON object", json_cost(s));
    if (s->n_prompt > ctx || s->max_tokens > ctx - s->n_prompt)
        return ag_err_set(err, AG_E_CTX_LENGTH, "%u prompt tokens and %u to answer do not fit the context of %u tokens",
                          s->n_prompt, s->max_tokens, ctx);
    for (uint32_t i = 0; i < s->n_prompt; i++)
        if ((uint32_t)s->prompt[i] >= vocab)
            return ag_err_set(err, AG_E_PARAM, "prompt token %d at position %u is not in the vocabulary of %u",
                              s->prompt[i], i, vocab);
    if (s->n_stop_tokens > AG_GEN_STOPS_MAX)
        return ag_err_set(err, AG_E_PARAM, "%u stop tokens; at most %u are taken", s->n_stop_tokens, AG_GEN_STOPS_MAX);
    if (s->n_shown > AG_GEN_SHOWN_MAX)
        return ag_err_set(err, AG_E_PARAM, "%u tokens to show; at most %u are taken", s->n_shown, AG_GEN_SHOWN_MAX);
    if (s->n_bias > AG_GEN_BIAS_MAX)
        return ag_err_set(err, AG_E_PARAM, "%u logit biases; at most %u are taken", s->n_bias, AG_GEN_BIAS_MAX);
    for (uint32_t i = 0; i < s->n_bias; i++) {
        if ((uint32_t)s->bias[i].id >= vocab)
            return ag_err_set(err, AG_E_PARAM, "logit_bias names token %d, which is not in the vocabulary of %u",
                              s->bias[i].id, vocab);
        int rc = check_number(err, "logit_bias", s->bias[i].bias, -100, 100, false);
        if (rc) return rc;
    }
    if (s->band >= AG_BANDS)
        return ag_err_set(err, AG_E_PARAM, "priority is %u; it should be 0 to %d", s->band, AG_BANDS - 1);
    if (s->tenant.n > AG_TENANT_NAME_MAX)
        return ag_err_set(err, AG_E_PARAM, "a tenant's name of %zu bytes; at most %d are taken", s->tenant.n,
                          AG_TENANT_NAME_MAX);
    if (s->share_group.n > AG_TENANT_NAME_MAX)
        return ag_err_set(err, AG_E_PARAM, "a group's name of %zu bytes; at most %d are taken", s->share_group.n,
                          AG_TENANT_NAME_MAX);
    if (!(s->weight >= 0 && isfinite(s->weight)))
        return ag_err_set(err, AG_E_PARAM, "weight is %g; it should be above 0", (double)s->weight);
    if (s->top_logprobs > AG_GEN_TOP_MAX)
        return ag_err_set(err, AG_E_PARAM, "%d log probabilities; at most %d are given", s->top_logprobs,
                          AG_GEN_TOP_MAX);
    return s->embed ? check_embed(e, s, err) : check_sampling(&s->sampling, err);
}

static uint64_t salt_of(const ag_gen *g, const ag_gen_spec *s)
{
    const ag_door *d = &g->engine->door;
    if (s->share_all) return ag__door_salt(d, AG_SALT_ALL, (ag_str){0});
    if (s->share_group.n) return ag__door_salt(d, AG_SALT_GROUP, s->share_group);
    return ag__door_salt(d, AG_SALT_TENANT, ag_str_of(g->tenant));
}

/* What the scheduler goes by. */
static void copy_place(ag_gen *g, const ag_gen_spec *s)
{
    ag_str tenant = s->tenant.n ? s->tenant : AG_STR("default");
    memcpy(g->tenant, tenant.p, tenant.n);
    g->weight = s->weight > 0 ? (double)s->weight : 1;
    g->tenant_label = ag_metrics_tenant(g->engine->conf.metrics, g->tenant);
    g->seq = (ag_seq){.n_tokens = s->n_prompt,
                      .n_prompt = s->n_prompt,
                      .max_tokens = s->max_tokens,
                      .all_logits = s->prompt_logprobs,
                      .n_scored = s->prompt_logprobs,
                      .salt = salt_of(g, s)};
    if (s->embed)
        g->seq.states = ag_engine_model(g->engine)->hp.pooling == AG_POOLING_LAST ? AG_STATES_LAST : AG_STATES_ALL;
    g->seq.q.band = s->band;
    g->seq.q.deadline_us = s->deadline_us;
    g->seq.sure = s->begun_with;
}

/* Memory that it takes while it waits. */
static uint64_t bytes_of(const ag_gen *g, const ag_gen_spec *s, uint32_t vocab)
{
    uint64_t n = sizeof *g + (uint64_t)g->cap_tokens * sizeof *g->tokens + (uint64_t)s->n_bias * sizeof *g->bias;
    n += (s->max_tokens / AG_GEN_CHUNK + 1) * sizeof *g->chunks + heads_bytes(s->json_heads);
    if (g->penalties) n += vocab * sizeof *g->counts + vocab / 8;
    uint64_t tops = (uint64_t)AG_MAX(s->top_logprobs, 0) * sizeof *g->prompt_tops;
    if (s->embed) n += ag_engine_model(g->engine)->hp.width * (sizeof *g->sum + sizeof *g->embedding);
    return s->prompt_logprobs ? n + s->n_prompt * (sizeof *g->prompt_tokens + tops) : n;
}

bool ag__gen_room(ag_gen *g, uint32_t n_scored, bool embed)
{
    g->chunks = ag_mem_array(g->seq.max_tokens / AG_GEN_CHUNK + 1, sizeof *g->chunks);
    bool ok = g->chunks != NULL;
    if (ok && n_scored) {
        g->prompt_tokens = ag_mem_array(n_scored, sizeof *g->prompt_tokens);
        g->prompt_tops = ag_mem_array((size_t)n_scored * (size_t)AG_MAX(g->top_logprobs, 0) + 1,
                                      sizeof *g->prompt_tops);
        ok = g->prompt_tokens && g->prompt_tops;
    }
    if (ok && embed)
        ok = (g->embedding = ag_mem_array(ag_engine_model(g->engine)->hp.width, sizeof *g->embedding)) != NULL;
    return ok;
}

static bool copy_spec(ag_gen *g, const ag_gen_spec *s, uint32_t vocab)
{
    g->cap_tokens = s->n_prompt + AG_MIN(s->max_tokens, 64u);
    g->tokens = ag_mem_array(g->cap_tokens, sizeof *g->tokens);
    g->bias = ag_mem_array(s->n_bias, sizeof *g->bias);
    bool ok = g->tokens && g->bias && ag__gen_room(g, s->prompt_logprobs ? s->n_prompt : 0, s->embed);
    if (ok && s->json_heads) {
        g->json_heads = ag_mem_array(heads_bytes(s->json_heads), 1);
        ok = g->json_heads != NULL;
        if (ok) memcpy(g->json_heads, s->json_heads, heads_bytes(s->json_heads));
    }
    json_begin(&g->json_at, g->json_heads);
    if (ok && (g->penalties = !s->embed && ag_sampling_has_penalties(&s->sampling))) {
        g->counts = ag_mem_array(vocab, sizeof *g->counts);
        g->in_prompt = ag_mem_array((vocab + 7) / 8, 1);
        ok = g->counts && g->in_prompt;
    }
    if (ok && s->embed) ok = (g->sum = ag_mem_array(ag_engine_model(g->engine)->hp.width, sizeof *g->sum)) != NULL;
    if (!ok) return false;
    g->seq.tokens = g->tokens;
    g->seq.q.bytes = bytes_of(g, s, vocab);
    memcpy(g->tokens, s->prompt, s->n_prompt * sizeof *g->tokens);
    if (s->n_bias) memcpy(g->bias, s->bias, s->n_bias * sizeof *g->bias);
    if (s->n_stop_tokens) memcpy(g->stop_tokens, s->stop_tokens, s->n_stop_tokens * sizeof *g->stop_tokens);
    if (s->n_shown) memcpy(g->shown, s->shown, s->n_shown * sizeof *g->shown);
    for (uint32_t i = 0; i < s->n_prompt; i++) {
        if (g->in_prompt) g->in_prompt[s->prompt[i] / 8] |= (unsigned char)(1u << s->prompt[i] % 8);
        if (g->prompt_tokens) g->prompt_tokens[i] = (ag_gen_token){.id = s->prompt[i], .logprob = NAN};
    }
    return true;
}

static void gen_free(ag_gen *g)
{
    AG_ASSERT(g->seq.kv.pages == NULL);
    for (uint32_t i = 0; g->chunks && i <= g->seq.max_tokens / AG_GEN_CHUNK; i++)
        if (g->chunks[i]) {
            ag_mem_free(g->chunks[i]->tops);
            ag_mem_free(g->chunks[i]);
        }
    ag_mem_free((void *)g->chunks);
    ag_mem_free(g->tokens);
    ag_mem_free(g->bias);
    ag_mem_free(g->json_heads);
    ag_mem_free(g->counts);
    ag_mem_free(g->in_prompt);
    ag_mem_free(g->prompt_tokens);
    ag_mem_free(g->prompt_tops);
    ag_mem_free(g->sum);
    ag_mem_free(g->embedding);
    ag_stops_fini(&g->stops);
    ag_gen_put(g->leader);
    g->magic = 0;
    ag_mem_free(g);
}

int ag_gen_create(ag_gen **out, ag_engine *e, const ag_gen_spec *s, ag_err *err)
{
    int rc = check_spec(e, s, err);
    const ag_json_vocab *json = NULL;
    if (rc == AG_OK && s->json) rc = ag__engine_json(e, &json, err);
    if (rc) return rc;
    ag_gen *g = ag_mem_zalloc(sizeof *g);
    if (g == NULL) return ag_err_set(err, AG_E_NOMEM, "no memory for a generation");
    g->magic = AG_GEN_MAGIC;
    atomic_init(&g->refs, 1);
    g->engine = e;
    copy_place(g, s);
    g->min_tokens = s->min_tokens;
    g->n_stop_tokens = s->n_stop_tokens;
    g->n_bias = s->n_bias;
    g->n_shown = s->n_shown;
    g->ignore_eos = s->ignore_eos;
    g->json = json;
    g->top_logprobs = s->top_logprobs;
    g->sampling = s->sampling;
    g->notify = s->notify;
    g->msg = s->msg;
    rc = ag_stops_init(&g->stops, s->stops, s->n_stops, err);
    if (rc == AG_OK && !copy_spec(g, s, ag_engine_model(e)->hp.vocab))
        rc = ag_err_set(err, AG_E_NOMEM, "no memory for a prompt of %u tokens", s->n_prompt);
    if (rc != AG_OK) {
        gen_free(g);
        return rc;
    }
    *out = g;
    return AG_OK;
}

ag_gen *ag_gen_get(ag_gen *g)
{
    AG_CHECK(g, AG_GEN_MAGIC);
    atomic_fetch_add_explicit(&g->refs, 1, memory_order_relaxed);
    return g;
}

void ag_gen_put(ag_gen *g)
{
    if (g == NULL) return;
    AG_CHECK(g, AG_GEN_MAGIC);
    uint32_t left = atomic_fetch_sub_explicit(&g->refs, 1, memory_order_acq_rel);
    AG_ASSERT(left > 0);
    if (left == 1) gen_free(g);
}

int ag__gen_append(ag_gen *g, const ag_gen_token *t)
{
    uint32_t n = atomic_load_explicit(&g->n_out, memory_order_relaxed);
    AG_ASSERT(n < g->seq.max_tokens);
    ag__gen_chunk *c = g->chunks[n / AG_GEN_CHUNK];
    if (c == NULL) {
        uint32_t tokens = AG_MIN(g->seq.max_tokens - n, (uint32_t)AG_GEN_CHUNK);
        size_t tops = (size_t)AG_MAX(g->top_logprobs, 0) * tokens;
        c = ag_mem_alloc(sizeof *c + tokens * sizeof *c->token);
        if (c) c->tops = NULL;
        if (c == NULL || (tops && (c->tops = ag_mem_array(tops, sizeof *c->tops)) == NULL)) {
            ag_mem_free(c);
            return AG_E_NOMEM;
        }
        g->chunks[n / AG_GEN_CHUNK] = c;
    }
    ag_gen_token *to = &c->token[n % AG_GEN_CHUNK];
    *to = *t;
    if (t->n_top) {
        ag_gen_top *top = c->tops + (size_t)(n % AG_GEN_CHUNK) * (size_t)g->top_logprobs;
        memcpy(top, t->top, t->n_top * sizeof *top);
        to->top = top;
    }
    atomic_store_explicit(&g->n_out, n + 1, memory_order_release);
    return AG_OK;
}

bool ag__gen_tell(ag_gen *g)
{
    if (g->notify == NULL || atomic_exchange(&g->news, true)) return true;
    if (ag_mbox_post_quiet(g->notify, g->msg)) return true;
    atomic_store(&g->news, false);
    return false;
}

uint32_t ag_gen_read(ag_gen *g, uint32_t from, ag_gen_token *out, uint32_t max, ag_gen_state *state)
{
    AG_CHECK(g, AG_GEN_MAGIC);
    atomic_exchange(&g->news, false); /* before looking, so that what comes later is told again */
    ag_gen_state now = (ag_gen_state)atomic_load(&g->state);
    if (g->leader && !ag_gen_ended(now)) now = AG_MIN((ag_gen_state)atomic_load(&g->leader->state), AG_GEN_RUNNING);
    if (state) *state = now;
    const ag_gen *computed = g->leader ? g->leader : g;
    uint32_t n = ag_gen_count(g), got = 0;
    for (; from < n && got < max; from++, got++)
        out[got] = computed->chunks[from / AG_GEN_CHUNK]->token[from % AG_GEN_CHUNK];
    return got;
}

/* Of a follower that has ended, so many as its leader had then: also where that goes on between the two looks. */
uint32_t ag_gen_count(const ag_gen *g)
{
    if (g->leader == NULL) return atomic_load_explicit(&g->n_out, memory_order_acquire);
    uint32_t n = atomic_load(&g->leader->n_out);
    return ag_gen_ended((ag_gen_state)atomic_load(&g->state)) ? atomic_load(&g->n_out) : n;
}

int ag_gen_error(ag_gen *g, ag_err *err)
{
    if (atomic_load(&g->state) != AG_GEN_FAILED) return AG_OK;
    return ag_err_set(err, g->fail_code, "%s", g->fail_text);
}

ag_str ag_gen_piece(const ag_gen *g, int32_t id)
{
    if (g->leader) g = g->leader;
    bool shown = false;
    for (uint32_t i = 0; i < g->n_shown && !shown; i++) shown = g->shown[i] == id;
    return ag_tokenizer_piece(ag_engine_model(g->engine)->tokenizer, id, shown);
}

uint64_t ag_gen_text_bytes(ag_gen *g) { return atomic_load(&g->text_bytes); }
const ag_gen_token *ag_gen_prompt(ag_gen *g) { return g->leader ? g->leader->prompt_tokens : g->prompt_tokens; }
const float *ag_gen_embedding(const ag_gen *g) { return g->leader ? g->leader->embedding : g->embedding; }

bool ag_gen_timed_out(ag_gen *g) { return atomic_load(&g->timed_out); }
uint32_t ag_gen_reused(ag_gen *g)
{
    bool follows = g->leader && !ag_gen_ended((ag_gen_state)atomic_load(&g->state));
    return atomic_load(follows ? &g->leader->reused : &g->reused);
}
uint64_t ag_gen_retry_us(ag_gen *g) { return atomic_load(&g->retry_us); }

static ag_gen_times times_of(ag_gen *g, ag_gen *computed)
{
    return (ag_gen_times){atomic_load(&g->submit_us), atomic_load(&computed->admit_us),
                          atomic_load(&computed->first_us), atomic_load(&computed->last_us), atomic_load(&g->end_us)};
}

/* What happened before a follower came, happened to it when it came; what happens after its end does not. */
void ag_gen_times_get(ag_gen *g, ag_gen_times *out)
{
    *out = times_of(g, g->leader ? g->leader : g);
    if (ag_gen_ended((ag_gen_state)atomic_load(&g->state))) *out = times_of(g, g);
    uint64_t *seen[] = {&out->admit_us, &out->first_us, &out->last_us};
    for (uint32_t i = 0; g->leader && i < AG_ARRAY_LEN(seen); i++)
        if (*seen[i]) *seen[i] = AG_MAX(*seen[i], out->submit_us);
}
