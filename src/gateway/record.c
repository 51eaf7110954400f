#include "gateway/record.h"

#include <math.h>

#include "base/mem.h"
#include "gateway/dialects/pb.h"

#define VERSION 1
#define READ_TOKENS 64
#define ENDED_STOP 1u
#define ENDED_LENGTH 2u

static void put_float(ag_buf *b, float x) { ag_buf_add(b, &x, sizeof x); }

static void put_scores(ag_buf *b, const ag_gen_token *t)
{
    put_float(b, t->logprob);
    ag_pb_put_varint(b, t->n_top);
    for (uint32_t i = 0; i < t->n_top; i++) {
        ag_pb_put_varint(b, (uint32_t)t->top[i].id);
        put_float(b, t->top[i].logprob);
    }
}

static void put_tokens(ag_buf *b, const ag_record_form *form, ag_gen *g, uint32_t n)
{
    ag_gen_token tokens[READ_TOKENS];
    uint64_t safe = 0;
    for (uint32_t at = 0, k; at < n && (k = ag_gen_read(g, at, tokens, AG_MIN(n - at, READ_TOKENS), NULL)) > 0; at += k)
        for (uint32_t i = 0; i < k; i++) {
            ag_pb_put_varint(b, (uint32_t)tokens[i].id);
            ag_pb_put_varint(b, tokens[i].text_safe - safe);
            safe = tokens[i].text_safe;
            if (form->top_logprobs >= 0) put_scores(b, &tokens[i]);
        }
}

static void put_answer(ag_buf *b, ag_engine *e, const ag_record_form *form, uint32_t index, ag_gen *g)
{
    ag_gen_state state;
    ag_gen_read(g, 0, NULL, 0, &state);
    AG_ASSERT(state == AG_GEN_STOPPED || state == AG_GEN_LENGTH);
    uint32_t n = ag_gen_count(g);
    ag_pb_put_varint(b, state == AG_GEN_STOPPED ? ENDED_STOP : ENDED_LENGTH);
    ag_pb_put_varint(b, ag_gen_reused(g));
    if (form->embed) {
        ag_buf_add(b, ag_gen_embedding(g), ag_engine_model(e)->hp.width * sizeof(float));
        return;
    }
    ag_pb_put_varint(b, ag_gen_text_bytes(g));
    ag_pb_put_varint(b, n);
    put_tokens(b, form, g, n);
    const ag_gen_token *prompt = form->prompts ? ag_gen_prompt(g) : NULL;
    for (uint32_t i = 0; prompt && i < form->prompts[index / form->per_prompt].n; i++) put_scores(b, &prompt[i]);
}

int ag_record_make(ag_cache_value **out, ag_engine *e, const ag_record_form *form, ag_gen *const *gens)
{
    ag_buf b;
    ag_buf_init(&b, AG_RECORD_BYTES_MAX);
    ag_buf_addc(&b, VERSION);
    for (uint32_t i = 0; i < form->n && !b.failed; i++) put_answer(&b, e, form, i, gens[i]);
    int rc = b.failed ? AG_E_NOMEM : ag_cache_value_make(out, b.n);
    if (rc == AG_OK) memcpy(ag_cache_value_bytes(*out), b.p, b.n);
    ag_buf_fini(&b);
    return rc;
}

/* Reading. */

typedef struct reader {
    ag_str rest;
    const ag_record_form *form;
    uint32_t vocab;
} reader;

static bool take(reader *r, uint64_t max, uint64_t *out) { return ag_pb_varint(&r->rest, out) && *out <= max; }

static bool take_bytes(reader *r, void *to, size_t n)
{
    if (r->rest.n < n) return false;
    memcpy(to, r->rest.p, n);
    r->rest = (ag_str){r->rest.p + n, r->rest.n - n};
    return true;
}

static bool take_id(reader *r, int32_t *id)
{
    uint64_t x;
    if (!take(r, r->vocab - 1, &x)) return false;
    *id = (int32_t)x;
    return true;
}

static bool take_scores(reader *r, ag_gen_token *t, ag_gen_top *tops)
{
    uint64_t n;
    uint64_t most = (uint64_t)AG_MAX(r->form->top_logprobs, 0);
    if (!take_bytes(r, &t->logprob, sizeof t->logprob) || !take(r, most, &n)) return false;
    for (uint32_t i = 0; i < n; i++)
        if (!take_id(r, &tops[i].id) || !take_bytes(r, &tops[i].logprob, sizeof tops[i].logprob)) return false;
    t->top = tops;
    t->n_top = (uint32_t)n;
    return true;
}

static int take_token(reader *r, ag_gen *g, uint64_t *safe)
{
    ag_gen_top tops[AG_GEN_TOP_MAX];
    ag_gen_token t = {.logprob = NAN};
    uint64_t more;
    if (!take_id(r, &t.id) || !take(r, UINT32_MAX, &more)) return AG_E_FILE;
    if (r->form->top_logprobs >= 0 && !take_scores(r, &t, tops)) return AG_E_FILE;
    t.text_safe = *safe += more;
    return ag_gen_replay_token(g, &t);
}

static int take_prompt(reader *r, ag_gen *g, const ag_record_prompt *p)
{
    ag_gen_top tops[AG_GEN_TOP_MAX];
    for (uint32_t i = 0; i < p->n; i++) {
        ag_gen_token t = {.id = p->ids[i]};
        if (!take_scores(r, &t, tops)) return AG_E_FILE;
        ag_gen_replay_prompt(g, i, &t);
    }
    return AG_OK;
}

/* A token takes two bytes at least, a score five. */
static bool fits(const reader *r, const ag_gen_replay_spec *s)
{
    uint64_t token = s->top_logprobs >= 0 ? 7 : 2;
    return s->n_tokens * token + s->n_prompt * 5ull <= r->rest.n;
}

static int take_answer(reader *r, ag_engine *e, uint32_t index, ag_gen **out)
{
    const ag_record_form *form = r->form;
    const ag_record_prompt none = {0}, *prompt = form->prompts ? &form->prompts[index / form->per_prompt] : &none;
    uint64_t state, reused, text = 0, n = 0, safe = 0;
    ag_gen *g = NULL;
    if (!take(r, ENDED_LENGTH, &state) || state < ENDED_STOP || !take(r, UINT32_MAX, &reused)) return AG_E_FILE;
    if (!form->embed && (!take(r, UINT32_MAX, &text) || !take(r, UINT32_MAX, &n))) return AG_E_FILE;
    ag_gen_replay_spec spec = {.n_tokens = (uint32_t)n,
                               .n_prompt = prompt->n,
                               .top_logprobs = form->top_logprobs,
                               .shown = form->shown,
                               .n_shown = form->n_shown,
                               .embed = form->embed};
    if (!fits(r, &spec)) return AG_E_FILE;
    int rc = ag_gen_replay_begin(&g, e, &spec);
    if (rc != AG_OK) return rc;
    for (uint32_t i = 0; i < n && rc == AG_OK; i++) rc = take_token(r, g, &safe);
    if (rc == AG_OK) rc = take_prompt(r, g, prompt);
    if (rc == AG_OK && form->embed &&
        !take_bytes(r, ag_gen_replay_embedding(g), ag_engine_model(e)->hp.width * sizeof(float)))
        rc = AG_E_FILE;
    if (rc == AG_OK) {
        ag_gen_replay_end(g, state == ENDED_STOP ? AG_GEN_STOPPED : AG_GEN_LENGTH, text, (uint32_t)reused);
        *out = g;
    } else {
        ag_gen_put(g);
    }
    return rc;
}

int ag_record_read(ag_gen **gens, ag_engine *e, const ag_record_form *form, ag_str bytes)
{
    reader r = {.form = form, .vocab = ag_tokenizer_size(ag_engine_model(e)->tokenizer)};
    uint32_t done = 0;
    if (bytes.n == 0 || bytes.p[0] != VERSION) return AG_E_FILE;
    r.rest = (ag_str){bytes.p + 1, bytes.n - 1};
    int rc = AG_OK;
    while (done < form->n && (rc = take_answer(&r, e, done, &gens[done])) == AG_OK) done++;
    if (rc == AG_OK && r.rest.n == 0) return AG_OK;
    while (done) ag_gen_put(gens[--done]);
    return rc == AG_OK ? AG_E_FILE : rc;
}
