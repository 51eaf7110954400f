/* Any bytes as a kept answer: none, or one that reads within its bounds, and is the same when it is kept again. */
#include <stdlib.h>

#include "gateway/record.h"
#include "model/null.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { ANSWERS = 3, PROMPT = 4, READ = 16 };

static ag_engine *engine_of_null(void)
{
    static ag_model *m;
    static ag_engine *e;
    ag_err err = {0};
    ag_engine_conf conf = AG_ENGINE_CONF_DEFAULT;
    conf.threads = 1;
    conf.ctx_tokens = 1024;
    conf.running_max = 1;
    conf.by_turns = true;
    if (e == NULL && ag_model_open_null(&m, "null", NULL, &err) != AG_OK) abort();
    if (e == NULL && ag_engine_open(&e, m, &conf, &err) != AG_OK) abort();
    return e;
}

static ag_record_form form_of(uint8_t how)
{
    static const int32_t ids[PROMPT] = {1, 2, 3, 4};
    static const ag_record_prompt prompts[ANSWERS] = {{ids, PROMPT}, {ids, 1}, {ids, 2}};
    return (ag_record_form){.n = 1 + how % ANSWERS, .per_prompt = 1, .prompts = how & 16 ? prompts : NULL,
                            .top_logprobs = how & 32 ? (how >> 6) * 6 : -1, .embed = (how & 8) != 0};
}

static void read_all(ag_gen *g)
{
    ag_gen_token t[READ];
    ag_gen_state state;
    uint32_t n = 0, k;
    while ((k = ag_gen_read(g, n, t, READ, &state)) > 0) {
        for (uint32_t i = 0; i < k; i++) ag_gen_piece(g, t[i].id);
        n += k;
    }
    AG_ASSERT(n == ag_gen_count(g) && (state == AG_GEN_STOPPED || state == AG_GEN_LENGTH));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    ag_gen *gens[ANSWERS], *again[ANSWERS];
    ag_cache_value *one = NULL, *two = NULL;
    ag_engine *e = engine_of_null();
    if (size == 0) return 0;
    ag_record_form form = form_of(data[0]);
    if (form.embed) form.top_logprobs = -1;
    if (form.top_logprobs < 0 || form.embed) form.prompts = NULL;
    if (ag_record_read(gens, e, &form, (ag_str){(const char *)data + 1, size - 1}) != AG_OK) return 0;
    for (uint32_t i = 0; i < form.n; i++) read_all(gens[i]);
    AG_ASSERT(ag_record_make(&one, e, &form, gens) == AG_OK);
    ag_str kept = {(const char *)ag_cache_value_bytes(one), ag_cache_value_size(one)};
    AG_ASSERT(ag_record_read(again, e, &form, kept) == AG_OK);
    AG_ASSERT(ag_record_make(&two, e, &form, again) == AG_OK);
    AG_ASSERT(ag_cache_value_size(one) == ag_cache_value_size(two) &&
              memcmp(ag_cache_value_bytes(one), ag_cache_value_bytes(two), ag_cache_value_size(one)) == 0);
    for (uint32_t i = 0; i < form.n; i++) {
        ag_gen_put(gens[i]);
        ag_gen_put(again[i]);
    }
    ag_cache_value_drop(one);
    ag_cache_value_drop(two);
    return 0;
}
